//! The tail machine: from the bytes of one file, in chunks, to lines with their places.
//!
//! Owns line ends (LF, CR LF), NUL runs, long lines, the unterminated last line.
//! Pure: the lane reads a chunk at [`Tail::read_offset`] and hands it in; no clock, no I/O.
//! Nothing of a line is kept between chunks: what is not finished is read again from the file,
//! so a line of any length costs no more than the chunk. Runs on the thread `file-N`.

use std::iter::Peekable;

use memchr::Memchr;

use crate::config::checked::LongLines;

/// How lines are cut.
#[derive(Clone, Copy, Debug)]
pub struct Framing {
    /// Bytes of a line without its end. At least 4 (one character), at most the chunk less 2.
    pub line_bytes_max: usize,
    pub long_lines: LongLines,
}

/// Why a line ends where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// At its newline.
    Whole,
    /// At `line_bytes_max`; the next line goes on with the rest.
    Part,
    /// At `line_bytes_max`; the rest is left out and counted.
    Truncated,
    /// At `line_bytes_max`; it belongs into dead letters.
    Diverted,
    /// At the end of the file, where no newline came in time.
    Unterminated,
}

/// One line. Its text may hold invalid UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'c> {
    /// Offset of its first byte.
    pub before: u64,
    /// The place behind it, from where reading may go on after a restart. Equal to `before` when
    /// the rest of a long line has not been seen yet.
    pub after: u64,
    pub text: &'c [u8],
    pub cut: Cut,
}

/// What was read without becoming a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    pub nul_bytes: u64,
    /// Lines longer than the bound, and their bytes that were left out.
    pub long_lines: u64,
    pub left_out_bytes: u64,
}

/// Where a file is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    offset: u64,
    /// Start of the long line whose rest is being left out: a restart begins there again.
    leaving_out: Option<u64>,
}

impl Tail {
    /// Reading begins at `offset`, the start of a line or of a part.
    pub const fn at(offset: u64) -> Self {
        Self { offset, leaving_out: None }
    }

    /// Where the next chunk is to be read.
    pub const fn read_offset(&self) -> u64 {
        self.offset
    }

    /// Everything before it has been handed out or passed over for good.
    pub fn place(&self) -> u64 {
        self.leaving_out.unwrap_or(self.offset)
    }

    /// The line at `before` was not taken: it is read again.
    pub fn rewind(&mut self, before: u64) {
        *self = Self::at(before);
    }

    /// Whether a file of this size has lost bytes that were read.
    pub const fn truncated(&self, size: u64) -> bool {
        size < self.offset
    }

    /// The lines of a chunk that was read at [`Self::read_offset`].
    pub fn lines<'t, 'c>(&'t mut self, chunk: &'c [u8], framing: Framing) -> Lines<'t, 'c> {
        assert!(framing.line_bytes_max >= 4, "line_bytes_max {}", framing.line_bytes_max);
        Lines {
            base: self.offset,
            tail: self,
            chunk,
            at: 0,
            newlines: memchr::memchr_iter(b'\n', chunk).peekable(),
            plain_end: chunk.len(),
            plain_only: false,
            framing,
            passed: Passed::default(),
        }
    }
}

/// Steps through one chunk; see [`Tail::lines`].
pub struct Lines<'t, 'c> {
    tail: &'t mut Tail,
    chunk: &'c [u8],
    /// Offset of the chunk in the file.
    base: u64,
    at: usize,
    newlines: Peekable<Memchr<'c>>,
    plain_end: usize,
    plain_only: bool,
    framing: Framing,
    pub passed: Passed,
}

impl<'c> Lines<'_, 'c> {
    /// From now on stops before a line that needs care: one that ends past the first `end`
    /// bytes of the chunk (invalid UTF-8) or is to be diverted.
    pub fn only_plain(&mut self, end: usize) {
        self.plain_only = true;
        self.plain_end = end;
    }

    /// From now on hands out all lines.
    pub fn all(&mut self) {
        self.plain_only = false;
        self.plain_end = self.chunk.len();
    }

    /// The line at `before` was not taken: reading goes on there.
    pub fn refused(&mut self, before: u64) {
        self.tail.rewind(before);
        self.at = self.chunk.len();
    }

    /// The unterminated rest of the chunk as a line, when it has waited long enough. None when
    /// there is nothing.
    pub fn unterminated(&mut self) -> Option<Line<'c>> {
        let start = self.at;
        self.at = self.chunk.len();
        let end = self.base + self.chunk.len() as u64;
        self.tail.offset = self.tail.offset.max(end);
        if self.tail.leaving_out.take().is_some() || start >= self.chunk.len() {
            return None;
        }
        let (mut stop, max) = (self.chunk.len(), self.framing.line_bytes_max);
        if stop - start > max {
            // One byte that might have been a CR: the next line begins with it.
            stop = character_start(self.chunk, start + max);
            self.tail.offset = self.base + stop as u64;
        }
        Some(Line {
            before: self.base + start as u64,
            after: self.tail.offset,
            text: &self.chunk[start..stop],
            cut: Cut::Unterminated,
        })
    }

    fn moved_to(&mut self, at: usize) {
        self.at = at;
        self.tail.offset = self.base + at as u64;
    }

    /// The newline of the line that begins at `self.at`.
    #[inline]
    fn newline(&mut self) -> Option<usize> {
        while let Some(&newline) = self.newlines.peek() {
            if newline >= self.at {
                return Some(newline);
            }
            self.newlines.next();
        }
        None
    }

    /// Goes to the end of a long line whose beginning was handed out; false when it is not here.
    fn leave_out_rest(&mut self) -> bool {
        match self.newline() {
            Some(newline) => {
                self.passed.left_out_bytes += (newline - self.at) as u64;
                self.moved_to(newline + 1);
                self.tail.leaving_out = None;
                true
            }
            None => {
                self.passed.left_out_bytes += (self.chunk.len() - self.at) as u64;
                self.moved_to(self.chunk.len());
                false
            }
        }
    }

    fn pass_nul_run(&mut self) {
        let run = self.chunk[self.at..].iter().take_while(|&&b| b == 0).count();
        self.passed.nul_bytes += run as u64;
        self.moved_to(self.at + run);
    }

    /// A line longer than the bound, whose newline may not be in the chunk.
    fn long(&mut self, start: usize, newline: Option<usize>) -> Option<Line<'c>> {
        let stop = character_start(self.chunk, start + self.framing.line_bytes_max);
        let mode = self.framing.long_lines;
        let care = mode == LongLines::DeadLetter || stop > self.plain_end;
        if self.plain_only && care {
            return None;
        }
        self.passed.long_lines += 1;
        let before = self.base + start as u64;
        let text = &self.chunk[start..stop];
        if mode == LongLines::Split {
            self.moved_to(stop);
            return Some(Line { before, after: self.tail.offset, text, cut: Cut::Part });
        }
        let end = newline.unwrap_or(self.chunk.len());
        self.passed.left_out_bytes += (end - stop) as u64;
        self.moved_to(newline.map_or(end, |n| n + 1));
        self.tail.leaving_out = newline.is_none().then_some(before);
        let cut = if mode == LongLines::Truncate { Cut::Truncated } else { Cut::Diverted };
        Some(Line { before, after: self.tail.place(), text, cut })
    }
}

impl<'c> Iterator for Lines<'_, 'c> {
    type Item = Line<'c>;

    #[inline]
    fn next(&mut self) -> Option<Line<'c>> {
        loop {
            if self.tail.leaving_out.is_some() && !self.leave_out_rest() {
                return None;
            }
            let start = self.at;
            if *self.chunk.get(start)? == 0 {
                self.pass_nul_run();
                continue;
            }
            let max = self.framing.line_bytes_max;
            let Some(newline) = self.newline() else {
                // Two bytes may still turn out to be the line's end.
                let long = self.chunk.len() - start >= max + 2;
                return if long { self.long(start, None) } else { None };
            };
            let cr = newline > start && self.chunk[newline - 1] == b'\r';
            let end = newline - usize::from(cr);
            if end - start > max {
                return self.long(start, Some(newline));
            }
            if end > self.plain_end {
                return None;
            }
            self.moved_to(newline + 1);
            return Some(Line {
                before: self.base + start as u64,
                after: self.tail.offset,
                text: &self.chunk[start..end],
                cut: Cut::Whole,
            });
        }
    }
}

/// The last start of a UTF-8 character at or before `at`; `at` itself in other bytes.
fn character_start(bytes: &[u8], at: usize) -> usize {
    let continues = |i: &usize| bytes.get(*i).is_some_and(|b| b & 0xc0 == 0x80);
    (at.saturating_sub(3)..=at).rev().find(|i| !continues(i)).unwrap_or(at)
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
