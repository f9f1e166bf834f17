//! One container read through the API: which request is next, and what its records come to.
//!
//! The end of a follow stream is never believed: after every end the log is read once more without
//! `follow`, until a read brings nothing new. A log that rotates is not followed at all but read
//! again and again (the engine's follow skips and repeats there). Owned by a Docker lane, which
//! does the I/O; the state here is stepped by bytes and times.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ApiContainer;
use super::frame::{Cut, FrameError, Layout, LogDecoder, StreamState};
use super::http::BodyLength;
use super::pieces::{Joiner, Line, LineEnd, Piece, PieceRule};
use super::place::{Had, Numbers, Seek, Tail};
use super::record::{self, EngineRecord};
use crate::config::checked::{LongLines, StartAt};
use crate::limits;
use crate::record::{Place, SourceId, StdStream, StreamLabels};
use crate::source::container_streams;

/// A line on its way to the batcher.
#[derive(Clone, Debug)]
pub struct OutLine {
    pub stream: StdStream,
    pub timestamp_ns: i64,
    pub text: Vec<u8>,
    pub before: Place,
    pub after: Place,
    /// A part of a line above `line_bytes_max`: its number, if it is one.
    pub long_part: Option<u32>,
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub follow: bool,
    pub tail: Tail,
}

/// What is to be done with the container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The request goes out at this time.
    Due(Instant, Ask),
    /// An answer is being read.
    Reading(Ask),
    /// Nothing until it starts, or is gone.
    Ended,
}

/// How an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The zero chunk, or the connection closed.
    Closed,
    /// 404: the engine does not have it any more.
    Gone,
    /// 501, or a driver that cannot be read.
    Unreadable,
    /// Anything else; tried again with a growing delay.
    Failed,
    /// We closed it: no room in a sink, or a check was due. The place is kept.
    Dropped,
}

/// See the module's head.
pub struct Follow {
    pub container: ApiContainer,
    pub id: SourceId,
    pub phase: Phase,
    pub gone: bool,
    pub labels: [Arc<StreamLabels>; 2],
    /// After the last record that was handed to the joiner.
    place: Place,
    /// Before the first piece of the unfinished line of each stream.
    open_from: [Option<Place>; 2],
    joiner: Joiner,
    open_since: Option<Instant>,
    seek: Seek,
    /// Numbers of the last records had in this run.
    had: Numbers,
    decoder: Option<LogDecoder>,
    /// The place was not found in a whole answer.
    lost: bool,
    not_here: bool,
    /// New records of the answer being read.
    fresh: u64,
    /// Records without a time, left out; taken by the lane for the metrics.
    pub damaged: u64,
    failures: u32,
    quiet_reads: u32,
    /// The run ended while an answer was being read, which may lack the run's last lines.
    read_again: bool,
    /// Only the last record is of interest: where reading begins.
    only_mark: bool,
    pub last_data: Instant,
    /// Lines that found no room; nothing is read while there are any.
    pub stuck: VecDeque<OutLine>,
    pub stuck_since: Option<Instant>,
}

impl Follow {
    /// Begins at `place`; `known`: it comes from a position on file.
    pub fn new(
        container: ApiContainer,
        id: SourceId,
        place: Place,
        known: bool,
        now: Instant,
    ) -> Self {
        let only_mark = !known && container.start_at == StartAt::End;
        let rule = PieceRule::of_driver(&container.driver);
        let mut follow = Self {
            labels: container_streams(&container.labels),
            joiner: Joiner::new(rule, container.line_bytes_max),
            container,
            id,
            phase: Phase::Ended,
            gone: false,
            place,
            open_from: [None; 2],
            open_since: None,
            seek: Seek::new(place.mark, Tail::All),
            had: [None; 2],
            decoder: None,
            lost: false,
            not_here: false,
            fresh: 0,
            damaged: 0,
            failures: 0,
            quiet_reads: 0,
            read_again: false,
            only_mark,
            last_data: now,
            stuck: VecDeque::new(),
            stuck_since: None,
        };
        follow.read_soon(now);
        follow
    }

    /// The container's facts changed: name, labels, version, or it runs.
    pub fn update(&mut self, container: ApiContainer, now: Instant) {
        self.labels = container_streams(&container.labels);
        let started = container.running && !self.container.running;
        self.container = container;
        let reading = matches!(self.phase, Phase::Reading(_));
        if (started && !reading) || self.phase == Phase::Ended {
            self.read_soon(now);
        }
    }

    /// A run began.
    pub fn started(&mut self, now: Instant) {
        self.container.running = true;
        self.quiet_reads = 0;
        if !matches!(self.phase, Phase::Reading(_)) {
            self.read_soon(now);
        }
    }

    /// A run ended: what it wrote is read to its end.
    pub fn died(&mut self, now: Instant) {
        self.container.running = false;
        match self.phase {
            Phase::Reading(_) => self.read_again = true,
            _ => self.read_soon(now),
        }
    }

    /// A plain read is due now.
    fn read_soon(&mut self, now: Instant) {
        let tail = match (self.only_mark, self.place.mark) {
            (true, _) => Tail::Records(1),
            // What is later than a lost place may begin anywhere.
            (false, _) if self.lost => Tail::All,
            (false, None) => Tail::All,
            (false, Some(_)) => Tail::covering(self.fresh),
        };
        self.phase = Phase::Due(now, Ask { follow: false, tail });
    }

    /// The request's path.
    pub fn path(&self, ask: Ask) -> String {
        format!(
            "/v{}/containers/{}/logs?stdout=1&stderr=1&timestamps=1&follow={}&tail={}",
            self.container.api_version,
            self.container.id,
            u8::from(ask.follow),
            ask.tail.query()
        )
    }

    /// The request went out; its answer is read from its beginning.
    pub fn begin(&mut self, ask: Ask, now: Instant) {
        self.phase = Phase::Reading(ask);
        self.decoder = None;
        self.not_here = false;
        self.read_again = false;
        self.fresh = 0;
        self.last_data = now;
        self.seek = match (self.lost, self.place.mark) {
            (true, Some(mark)) => Seek::lost(mark),
            (_, mark) => Seek::new(mark, ask.tail).with_numbers(self.had),
        };
    }

    /// The answer's head has come with status 200.
    pub fn body(&mut self, length: BodyLength) {
        let layout = if self.container.tty { Layout::Tty } else { Layout::Frames };
        self.decoder = Some(LogDecoder::new(layout, length));
    }

    /// Takes bytes of the body; the lines that end in them go to `sink`.
    ///
    /// # Errors
    /// When the bytes are no log stream, or the engine reports an error in it.
    pub fn bytes(
        &mut self,
        input: &[u8],
        now: Instant,
        sink: &mut impl FnMut(OutLine),
    ) -> Result<StreamState, FollowError> {
        self.last_data = now;
        let Some(mut decoder) = self.decoder.take() else {
            return Err(FollowError::Engine("bytes before the head".to_owned()));
        };
        let mut trouble = None;
        let state = decoder.push(input, &mut |cut| match cut {
            Cut::Record(stream, payload) => match record::split(stream, payload) {
                Ok(record) => self.record(record, now, sink),
                // Its neighbours are good: one record must not stop the log.
                Err(_) => self.damaged += 1,
            },
            Cut::EngineError(text) => {
                trouble = Some(FollowError::Engine(String::from_utf8_lossy(text).into_owned()));
            }
        });
        self.decoder = Some(decoder);
        match trouble {
            Some(error) => Err(error),
            None => state.map_err(FollowError::Frame),
        }
    }

    /// The answer does not hold the place: there is no use in reading on.
    pub fn not_here(&self) -> bool {
        self.not_here
    }

    fn record(
        &mut self,
        mut record: EngineRecord<'_>,
        now: Instant,
        sink: &mut impl FnMut(OutLine),
    ) {
        if self.not_here {
            return;
        }
        let mark = match self.seek.next(&record) {
            Had::Before => return,
            Had::NotHere => {
                self.not_here = true;
                return;
            }
            Had::After(mark) => mark,
        };
        self.fresh += 1;
        self.had[mark.stream.index()] = Some((mark.time_ns, mark.piece));
        let before = self.place;
        self.place = Place { offset: before.offset + 1, mark: Some(mark) };
        if self.only_mark {
            return;
        }
        if self.container.tty && record.newline {
            record.text = record.text.strip_suffix(b"\r").unwrap_or(record.text);
        }
        let piece = Piece {
            stream: record.stream,
            time_ns: record.time_ns,
            text: record.text,
            newline: record.newline,
            at: before.offset,
        };
        let was_open = self.open_from;
        let mut ended: Vec<OutLine> = Vec::new();
        self.joiner.push(piece, &mut |line| ended.push(out_line(line)));
        self.note_open(before, now);
        for line in &mut ended {
            let first = was_open[line.stream.index()].filter(|p| p.offset == line.before.offset);
            line.before = first.unwrap_or(before);
        }
        set_afters(&mut ended, self.safe_place());
        ended.into_iter().for_each(sink);
    }

    /// Remembers the place before the first piece of lines that are open now.
    fn note_open(&mut self, before: Place, now: Instant) {
        for stream in [StdStream::Stdout, StdStream::Stderr] {
            let slot = &mut self.open_from[stream.index()];
            match self.joiner.open_from(stream) {
                None => *slot = None,
                Some(at) if slot.is_some_and(|p| p.offset == at) => {}
                Some(_) => *slot = Some(before),
            }
        }
        let open = self.open_from.iter().any(Option::is_some);
        self.open_since = if open { self.open_since.or(Some(now)) } else { None };
    }

    /// The place that a position may reach: not past the first piece of an unfinished line.
    pub fn safe_place(&self) -> Place {
        let open = self.open_from.iter().flatten().min_by_key(|p| p.offset);
        open.copied().unwrap_or(self.place)
    }

    /// Ends unfinished lines whose rest did not come within `partial_wait`, or all of them.
    pub fn flush_partial(&mut self, now: Instant, all: bool, sink: &mut impl FnMut(OutLine)) {
        let due = self.open_since.is_some_and(|at| now >= at + self.container.partial_wait);
        if self.open_since.is_none() || !(due || all) {
            return;
        }
        let mut ended: Vec<OutLine> = Vec::new();
        self.joiner.flush(&mut |line| ended.push(out_line(line)));
        let was_open = std::mem::take(&mut self.open_from);
        self.open_since = None;
        for line in &mut ended {
            line.before = was_open[line.stream.index()].unwrap_or(self.place);
        }
        set_afters(&mut ended, self.place);
        ended.into_iter().for_each(sink);
    }

    /// When the oldest unfinished line is ended.
    pub fn partial_due(&self) -> Option<Instant> {
        self.open_since.map(|at| at + self.container.partial_wait)
    }

    /// The answer ended; decides what is next. Returns what is to be said, if anything.
    pub fn ended(&mut self, ending: &Ending, now: Instant, may_follow: bool) -> Said {
        let Phase::Reading(ask) = self.phase else { return Said::Nothing };
        self.decoder = None;
        if self.fresh > 0 {
            self.lost = false;
        }
        let retry = |follow: &mut Self| {
            follow.failures = (follow.failures + 1).min(8);
            let wait = limits::DOCKER_LOG_RETRY_FIRST * 2u32.pow(follow.failures);
            follow.read_soon(now);
            if let Phase::Due(at, _) = &mut follow.phase {
                *at = now + wait.min(limits::DOCKER_LOG_RETRY_MAX);
            }
        };
        match ending {
            Ending::Gone => {
                self.gone = true;
                self.phase = Phase::Ended;
                return Said::Nothing;
            }
            Ending::Unreadable => {
                self.phase = Phase::Ended;
                return Said::Unreadable;
            }
            Ending::Failed => {
                retry(self);
                return Said::Nothing;
            }
            Ending::Dropped => {
                self.read_soon(now);
                return Said::Nothing;
            }
            Ending::Closed => self.failures = 0,
        }
        if ask.follow {
            self.quiet_reads = if self.fresh > 0 { 0 } else { self.quiet_reads };
            self.read_soon(now);
            return Said::Nothing;
        }
        self.plain_ended(ask, now, may_follow)
    }

    /// A read without `follow` came to its end.
    fn plain_ended(&mut self, ask: Ask, now: Instant, may_follow: bool) -> Said {
        if self.not_here || !self.seek.found() {
            if ask.tail == Tail::All && !self.lost {
                // A whole answer without the place: rotated away, or the log was emptied.
                self.lost = true;
                self.phase = Phase::Due(now, ask);
                return Said::PlaceLost;
            }
            if ask.tail != Tail::All {
                let ask = Ask { follow: false, tail: ask.tail.wider() };
                self.phase = Phase::Due(now, ask);
                return Said::Nothing;
            }
        }
        if self.lost && self.fresh == 0 && ask.tail == Tail::All {
            // Emptied, or begun again by a clock that was set back: whatever is there is new.
            // What was had after all carries its old time, so that Loki keeps one copy.
            self.place.mark = None;
            self.lost = false;
            self.phase = Phase::Due(now, Ask { follow: false, tail: Tail::All });
            return Said::Nothing;
        }
        if self.only_mark {
            self.only_mark = false;
            self.read_soon(now);
            return Said::Marked;
        }
        self.quiet_reads = if self.fresh > 0 { 0 } else { self.quiet_reads.saturating_add(1) };
        let running = self.container.running && !self.gone;
        if self.read_again || (self.fresh > 0 && !(running && self.container.rotates)) {
            // What came while this was read.
            self.read_soon(now);
        } else if !running {
            self.phase = Phase::Ended;
        } else if self.container.rotates || !may_follow {
            self.read_soon(now);
            if let Phase::Due(at, _) = &mut self.phase {
                *at = now + poll_wait(self.quiet_reads);
            }
        } else {
            let ask = Ask { follow: true, tail: self.follow_tail() };
            // A stream that ends at once, again and again, is not opened in a loop.
            let wait = limits::DOCKER_REOPEN * self.quiet_reads.saturating_sub(1).min(10);
            self.phase = Phase::Due(now + wait, ask);
        }
        Said::Nothing
    }

    fn follow_tail(&self) -> Tail {
        let mark = self.place.mark.filter(|_| !self.lost);
        mark.map_or(Tail::All, |_| Tail::covering(0))
    }
}

/// How long a log that is read again and again rests: short when there was something.
fn poll_wait(quiet_reads: u32) -> Duration {
    match quiet_reads {
        0 => limits::DOCKER_POLL_BUSY,
        _ => limits::DOCKER_POLL_BUSY * 2u32.pow(quiet_reads.min(3)),
    }
}

/// Something to tell people, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Nothing,
    /// The place is not in the log any more: what was between is gone, or nothing was.
    PlaceLost,
    /// The driver cannot be read.
    Unreadable,
    /// Where reading begins is known: to be committed.
    Marked,
}

/// Why an answer cannot be read on.
#[derive(Debug)]
pub enum FollowError {
    Frame(FrameError),
    /// The engine's own words in the stream.
    Engine(String),
}

impl std::fmt::Display for FollowError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Frame(e) => e.fmt(f),
            Self::Engine(text) => f.write_str(text),
        }
    }
}

/// Lines that ended together: a position behind one must not pass those that follow it, which
/// may find no room. `end` is the place behind the last.
fn set_afters(lines: &mut [OutLine], end: Place) {
    let mut after = end;
    for line in lines.iter_mut().rev() {
        line.after = after;
        if line.before.offset < after.offset {
            after = line.before;
        }
    }
}

/// Owned; its places are filled in by the caller.
fn out_line(line: Line<'_>) -> OutLine {
    let long = line.part > 0 || line.end == LineEnd::Split;
    OutLine {
        stream: line.stream,
        timestamp_ns: line.time_ns + i64::from(line.part),
        text: line.text.to_vec(),
        before: Place::at(line.from),
        after: Place::default(),
        long_part: long.then_some(line.part),
    }
}

/// Whether a part of a long line is sent.
pub fn keeps(mode: LongLines, part: Option<u32>) -> bool {
    match (mode, part) {
        (LongLines::Truncate, Some(part)) => part == 0,
        (LongLines::DeadLetter, Some(_)) => false,
        _ => true,
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
pub mod tests;

#[cfg(test)]
#[path = "follow_run_tests.rs"]
mod run_tests;
