//! Joins the pieces into which the engine cuts lines above 16 KiB, stdout and stderr apart.
//!
//! Owns the rule for when a line is complete, the bound on its length and the text of unfinished
//! lines. Leaves to the caller: the wait for the rest of a line (`flush`), the end of a run, and
//! what happens to the parts of a line above the bound. Each piece carries a place of the
//! caller's own (a file offset, a running number), so that a position never passes the first
//! piece of an unfinished line. Pure: no clock, no I/O. Runs on a file lane or a Docker lane.

use super::record::StdStream;

/// The engine cuts what a program wrote into pieces of this size
/// (daemon/logger/copier.go, `defaultBufSize`; recordings 06-long-*).
pub const PIECE_BYTES: usize = 16_384;

/// A joined line's buffer above this is given back when the line ends.
const KEPT_BUFFER_BYTES: usize = 4 * PIECE_BYTES;

/// What tells that a record without a newline is the last piece of its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PieceRule {
    /// Driver json-file (and journald): only the last piece has a newline. Sizes say nothing,
    /// since invalid bytes are stored as three.
    Newline,
    /// Driver local, which also is the cache of the drivers that cannot be read: the last piece
    /// may have no newline, but it is shorter than [`PIECE_BYTES`].
    Size,
}

impl PieceRule {
    /// The rule for `HostConfig.LogConfig.Type`.
    pub fn of_driver(driver: &str) -> Self {
        match driver {
            "json-file" | "journald" => PieceRule::Newline,
            _ => PieceRule::Size,
        }
    }

    /// Whether a record of `text_bytes` (less its newline) is the last one of its line.
    pub fn ends_line(self, text_bytes: usize, newline: bool) -> bool {
        newline || (self == PieceRule::Size && text_bytes < PIECE_BYTES)
    }
}

/// One stored record, to be joined.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a> {
    pub stream: StdStream,
    pub time_ns: i64,
    /// Text without its newline.
    pub text: &'a [u8],
    pub newline: bool,
    /// The caller's place of this record; rises in stored order.
    pub at: u64,
}

/// Why a line was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LineEnd {
    /// The line is complete.
    Whole,
    /// No end came: the run ended, another line began, or the caller waited long enough.
    Unfinished,
    /// `line_bytes_max` was reached; more parts of the same line follow.
    Split,
}

/// A line, or a part of one above `line_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub stream: StdStream,
    /// The time of the line's first piece, which all its pieces carry.
    pub time_ns: i64,
    pub text: &'a [u8],
    /// 0, or the number of the part of a line handed out in several. Adding it to the time keeps
    /// equal parts apart.
    pub part: u32,
    pub end: LineEnd,
    /// The place of the line's first piece.
    pub from: u64,
}

/// The unfinished lines of one container.
#[derive(Debug)]
pub struct Joiner {
    rule: PieceRule,
    line_bytes_max: usize,
    lines: [Unfinished; 2],
}

/// The unfinished line of one stream. `parts` outlives a flush, so that what comes later of the
/// same line is known as a further part.
#[derive(Debug, Default)]
struct Unfinished {
    open: bool,
    time_ns: i64,
    from: u64,
    parts: u32,
    text: Vec<u8>,
}

impl Joiner {
    /// `line_bytes_max` bounds the text of a line and the memory a stream needs.
    pub fn new(rule: PieceRule, line_bytes_max: usize) -> Self {
        assert!(line_bytes_max > 0, "line_bytes_max is {line_bytes_max}");
        Joiner { rule, line_bytes_max, lines: Default::default() }
    }

    /// Takes the next record in stored order and hands every line that ends with it to `sink`.
    /// A line in one piece is handed out without a copy.
    pub fn push(&mut self, piece: Piece<'_>, sink: &mut impl FnMut(Line<'_>)) {
        let ends = self.rule.ends_line(piece.text.len(), piece.newline);
        let line = &mut self.lines[piece.stream.index()];
        if line.time_ns != piece.time_ns || (!line.open && line.parts == 0) {
            line.close(piece.stream, LineEnd::Unfinished, sink);
            line.parts = 0;
            line.time_ns = piece.time_ns;
        }
        let goes_on = line.open || line.parts > 0;
        if ends && !goes_on && piece.text.len() <= self.line_bytes_max {
            return sink(Line {
                stream: piece.stream,
                time_ns: piece.time_ns,
                text: piece.text,
                part: 0,
                end: LineEnd::Whole,
                from: piece.at,
            });
        }
        if !line.open {
            line.open = true;
            line.from = piece.at;
        }
        line.append(piece, self.line_bytes_max, sink);
        if ends {
            line.close(piece.stream, LineEnd::Whole, sink);
            line.parts = 0;
        }
    }

    /// Hands out what there is of all unfinished lines: the run has ended, or the wait is over.
    pub fn flush(&mut self, sink: &mut impl FnMut(Line<'_>)) {
        for stream in [StdStream::Stdout, StdStream::Stderr] {
            self.lines[stream.index()].close(stream, LineEnd::Unfinished, sink);
        }
    }

    /// The place of the oldest first piece of an unfinished line, which no position may pass.
    pub fn oldest_open(&self) -> Option<u64> {
        self.lines.iter().filter(|line| line.open).map(|line| line.from).min()
    }

    /// The place of the first piece of a stream's unfinished line.
    pub fn open_from(&self, stream: StdStream) -> Option<u64> {
        let line = &self.lines[stream.index()];
        line.open.then_some(line.from)
    }

    /// Forgets the unfinished lines: the caller reads again from a place before them.
    pub fn clear(&mut self) {
        self.lines = Default::default();
    }
}

impl Unfinished {
    fn append(&mut self, piece: Piece<'_>, line_bytes_max: usize, sink: &mut impl FnMut(Line<'_>)) {
        let mut rest = piece.text;
        while self.text.len() + rest.len() > line_bytes_max {
            let (fits, more) = rest.split_at(line_bytes_max - self.text.len());
            self.text.extend_from_slice(fits);
            rest = more;
            self.hand_out(piece.stream, LineEnd::Split, sink);
        }
        self.text.extend_from_slice(rest);
    }

    fn close(&mut self, stream: StdStream, end: LineEnd, sink: &mut impl FnMut(Line<'_>)) {
        if self.open {
            // The newline alone of a line whose text was flushed before is no part of its own.
            if self.parts == 0 || !self.text.is_empty() {
                self.hand_out(stream, end, sink);
            }
            self.open = false;
            if self.text.capacity() > KEPT_BUFFER_BYTES {
                self.text = Vec::new();
            }
        }
    }

    fn hand_out(&mut self, stream: StdStream, end: LineEnd, sink: &mut impl FnMut(Line<'_>)) {
        let Unfinished { time_ns, from, parts, .. } = *self;
        sink(Line { stream, time_ns, text: &self.text, part: parts, end, from });
        self.text.clear();
        self.parts = parts.saturating_add(1);
    }
}

#[cfg(test)]
#[path = "pieces_tests.rs"]
mod tests;
