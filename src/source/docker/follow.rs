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
use super::place::{Had, Seek, Tail};
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
    /// We closed it: no room in a sink, or the engine is down. The place is kept.
    Dropped,
    /// We closed a follow stream that was silent for long: is it deaf?
    Quiet,
}

/// See the module's head.
pub struct Follow {
    pub container: ApiContainer,
    /// None until it is known where reading begins.
    pub id: Option<SourceId>,
    pub phase: Phase,
    pub gone: bool,
    pub labels: [Arc<StreamLabels>; 2],
    /// After the last record that was handed to the joiner.
    place: Place,
    /// Before the first piece of the unfinished line of each stream.
    open_from: [Option<Place>; 2],
    joiner: Joiner,
    /// When the last piece of a line came that is unfinished.
    open_at: Option<Instant>,
    /// Time of the last new record of each stream.
    last_time: [Option<i64>; 2],
    seek: Seek,
    decoder: Option<LogDecoder>,
    /// The place was not found in a whole answer; until there is a new one.
    lost: bool,
    not_here: bool,
    /// New records of the answer being read.
    fresh: u64,
    /// How many new records the next answer may hold.
    expected: u64,
    begun: Instant,
    /// When the last read without `follow` that brought nothing new began.
    quiet_since: Option<Instant>,
    /// A run ended while an answer was being read.
    again: bool,
    /// What a run that ended wrote is stored by then.
    settled: Option<Instant>,
    failures: u32,
    quiet_reads: u32,
    follow_tail: Tail,
    /// Only the last record is of interest: reading begins after it, or at the log's beginning
    /// when it is not older than this (ns since 1970).
    mark_only: Option<Option<i64>>,
    told_unreadable: bool,
    /// Records without a time, since the lane took the number.
    pub damaged: u64,
    pub last_data: Instant,
    /// Lines that found no room; nothing is read while there are any.
    pub stuck: VecDeque<OutLine>,
    pub stuck_since: Option<Instant>,
}

impl Follow {
    /// Begins at `place`, which comes from a position on file, or where `start_at` says.
    pub fn new(container: ApiContainer, place: Option<Place>, wall_ns: i64, now: Instant) -> Self {
        let mark_only = match (place, container.start_at) {
            (Some(_), _) | (None, StartAt::Beginning) => None,
            (None, StartAt::End) => Some(None),
            (None, StartAt::Age(age)) => {
                let age_ns = i64::try_from(age.as_nanos()).unwrap_or(i64::MAX);
                Some(Some(wall_ns.saturating_sub(age_ns)))
            }
        };
        let place = place.unwrap_or_default();
        let rule = PieceRule::of_driver(&container.driver);
        let mut follow = Self {
            labels: container_streams(&container.labels),
            joiner: Joiner::new(rule, container.line_bytes_max),
            container,
            id: None,
            phase: Phase::Ended,
            gone: false,
            place,
            open_from: [None; 2],
            open_at: None,
            last_time: [None; 2],
            seek: Seek::new(place.mark, Tail::All),
            decoder: None,
            lost: false,
            not_here: false,
            fresh: 0,
            expected: EXPECTED_FIRST,
            begun: now,
            quiet_since: None,
            again: false,
            settled: None,
            failures: 0,
            quiet_reads: 0,
            follow_tail: Tail::covering(0),
            mark_only,
            told_unreadable: false,
            damaged: 0,
            last_data: now,
            stuck: VecDeque::new(),
            stuck_since: None,
        };
        follow.read_at(now);
        follow
    }

    /// Whether it is known where reading begins.
    pub fn is_placed(&self) -> bool {
        self.mark_only.is_none()
    }

    /// The container's facts changed: name, labels, version, or whether it runs.
    pub fn update(&mut self, container: ApiContainer, now: Instant) {
        let was_running = self.container.running;
        self.labels = container_streams(&container.labels);
        self.container = container;
        match (was_running, self.container.running) {
            (false, true) => self.started(now),
            (true, false) => self.died(now),
            _ if self.phase == Phase::Ended => self.read_at(now),
            _ => {}
        }
    }

    /// A run began.
    pub fn started(&mut self, now: Instant) {
        self.container.running = true;
        self.settled = None;
        self.quiet_reads = 0;
        if !matches!(self.phase, Phase::Reading(_)) {
            self.read_at(now);
        }
    }

    /// A run ended: what it wrote is read to its end, now and once more a moment later, since
    /// the last lines may be stored after the event.
    pub fn died(&mut self, now: Instant) {
        self.container.running = false;
        self.settled = Some(now + limits::DOCKER_SETTLE);
        if matches!(self.phase, Phase::Reading(_)) {
            self.again = true;
        } else {
            self.read_at(now);
        }
    }

    /// A plain read is due at that time.
    fn read_at(&mut self, at: Instant) {
        let tail = match self.place.mark {
            _ if self.mark_only.is_some() => Tail::MARK,
            Some(_) if !self.lost => Tail::covering(self.expected),
            _ => Tail::All,
        };
        self.phase = Phase::Due(at, Ask { follow: false, tail });
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
        self.again = false;
        self.fresh = 0;
        (self.begun, self.last_data) = (now, now);
        self.seek = match self.place.mark {
            _ if self.mark_only.is_some() => Seek::new(None, ask.tail),
            Some(mark) if self.lost => Seek::lost(mark),
            mark => Seek::new(mark, ask.tail),
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

    fn record(&mut self, record: EngineRecord<'_>, now: Instant, sink: &mut impl FnMut(OutLine)) {
        if self.not_here {
            return;
        }
        let mark = match self.seek.next(&record) {
            Had::Before => return,
            Had::After(mark) if !self.goes_back(&record) => mark,
            Had::After(_) | Had::NotHere => {
                self.not_here = true;
                return;
            }
        };
        self.fresh += 1;
        self.lost = false;
        self.last_time[record.stream.index()] = Some(record.time_ns);
        let before = self.place;
        self.place = Place { offset: before.offset + 1, mark: Some(mark) };
        if self.mark_only.is_some() {
            return;
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
        let tty = self.container.tty;
        self.joiner.push(piece, &mut |line| ended.push(out_line(line, tty)));
        self.note_open(before, record.stream, now);
        for line in &mut ended {
            let first = was_open[line.stream.index()].filter(|p| p.offset == line.before.offset);
            line.before = first.unwrap_or(before);
        }
        set_afters(&mut ended, self.safe_place());
        ended.into_iter().for_each(sink);
    }

    /// Within one stream times rise but for the pieces of a line. A follow stream that goes back
    /// repeats a file after a rotation, or the clock was set: stored order tells.
    fn goes_back(&self, record: &EngineRecord<'_>) -> bool {
        let follows = matches!(self.phase, Phase::Reading(ask) if ask.follow);
        let stream = record.stream;
        follows
            && self.last_time[stream.index()].is_some_and(|last| {
                record.time_ns < last
                    || record.time_ns == last && self.joiner.open_from(stream).is_none()
            })
    }

    /// Remembers the place before the first piece of lines that are open now.
    fn note_open(&mut self, before: Place, grown: StdStream, now: Instant) {
        for stream in [StdStream::Stdout, StdStream::Stderr] {
            let slot = &mut self.open_from[stream.index()];
            match self.joiner.open_from(stream) {
                None => *slot = None,
                Some(at) if slot.is_some_and(|p| p.offset == at) => {}
                Some(_) => *slot = Some(before),
            }
        }
        if self.open_from.iter().all(Option::is_none) {
            self.open_at = None;
        } else if self.open_from[grown.index()].is_some() {
            self.open_at = Some(now);
        }
    }

    /// The place that a position may reach: not past the first piece of an unfinished line.
    pub fn safe_place(&self) -> Place {
        let open = self.open_from.iter().flatten().min_by_key(|p| p.offset);
        open.copied().unwrap_or(self.place)
    }

    /// Ends unfinished lines whose rest did not come within `partial_wait`, or all of them.
    pub fn flush_partial(&mut self, now: Instant, all: bool, sink: &mut impl FnMut(OutLine)) {
        if self.open_at.is_none() || !(all || self.rest_is_missing(now)) {
            return;
        }
        let mut ended: Vec<OutLine> = Vec::new();
        let tty = self.container.tty;
        self.joiner.flush(&mut |line| ended.push(out_line(line, tty)));
        let was_open = std::mem::take(&mut self.open_from);
        self.open_at = None;
        for line in &mut ended {
            line.before = was_open[line.stream.index()].unwrap_or(self.place);
        }
        set_afters(&mut ended, self.place);
        ended.into_iter().for_each(sink);
    }

    /// The wait is over, and we looked: a stream brought nothing, or a read that began after it.
    fn rest_is_missing(&self, now: Instant) -> bool {
        let Some(due) = self.open_at.map(|at| at + self.container.partial_wait) else {
            return false;
        };
        now >= due && (self.listens() || self.quiet_since.is_some_and(|since| since >= due))
    }

    /// Whether what is written now comes by itself.
    fn listens(&self) -> bool {
        let follows = matches!(self.phase, Phase::Reading(ask) if ask.follow);
        follows && self.decoder.is_some() && self.seek.found() && self.stuck.is_empty()
    }

    /// When the oldest unfinished line is ended; None while that is decided by a read.
    pub fn partial_due(&self) -> Option<Instant> {
        let wait = self.container.partial_wait;
        self.open_at.filter(|_| self.listens()).map(|at| at + wait)
    }

    /// Reading goes on after a pause: what came meanwhile is still to be read.
    pub fn resumed(&mut self, now: Instant) {
        self.last_data = now;
        self.open_at = self.open_at.map(|_| now);
    }

    /// The answer ended; decides what is next. Returns what is to be said, if anything.
    pub fn ended(&mut self, ending: &Ending, now: Instant, may_follow: bool) -> Said {
        let Phase::Reading(ask) = self.phase else { return Said::Nothing };
        let decoder = self.decoder.take();
        if ask.follow {
            // A stream may have lasted for days: what it brought says nothing of what is next.
            self.expected = EXPECTED_FIRST;
            if self.fresh > 0 || now >= self.begun + limits::DOCKER_REOPEN * REOPEN_STEPS_MAX {
                self.quiet_reads = 0;
            }
            let grown = if self.not_here { self.follow_tail.wider() } else { Tail::covering(0) };
            self.follow_tail = grown;
        }
        // Of a read, the end of the connection is not the end of the log.
        let cut_short = !self.not_here && decoder.is_some_and(|d| !d.may_end());
        match ending {
            Ending::Gone => {
                self.gone = true;
                self.phase = Phase::Ended;
            }
            Ending::Unreadable => {
                self.phase = Phase::Ended;
                if !std::mem::replace(&mut self.told_unreadable, true) {
                    return Said::Unreadable;
                }
            }
            Ending::Failed => self.retry(now),
            Ending::Closed if cut_short && !ask.follow => self.retry(now),
            Ending::Dropped => self.read_at(now),
            Ending::Quiet => {
                self.phase = Phase::Due(now, Ask { follow: false, tail: Tail::LOOK });
            }
            Ending::Closed => {
                self.failures = 0;
                if ask.follow {
                    self.read_at(now);
                } else {
                    return self.plain_ended(ask, now, may_follow);
                }
            }
        }
        Said::Nothing
    }

    /// Reads again after a wait that grows with each failure in a row.
    fn retry(&mut self, now: Instant) {
        self.failures = (self.failures + 1).min(8);
        let wait = limits::DOCKER_LOG_RETRY_FIRST * 2u32.pow(self.failures);
        self.read_at(now + wait.min(limits::DOCKER_LOG_RETRY_MAX));
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// A read without `follow` came to its end.
    fn plain_ended(&mut self, ask: Ask, now: Instant, may_follow: bool) -> Said {
        if self.not_here || !self.seek.found() {
            return self.seek_wider(ask, now);
        }
        if self.lost && self.seek.records() == 0 {
            // The log was emptied: whatever comes is new, whatever its time.
            self.place.mark = None;
            self.lost = false;
            self.last_time = [None; 2];
        }
        if let Some(since_ns) = self.mark_only.take() {
            let last_ns = self.place.mark.map(|mark| mark.time_ns);
            if since_ns.is_some_and(|since| last_ns.is_some_and(|last| last >= since)) {
                self.place = Place::default();
            }
            self.last_time = [None; 2];
            self.read_at(now);
            return Said::Marked;
        }
        self.quiet_reads = if self.fresh > 0 { 0 } else { self.quiet_reads.saturating_add(1) };
        self.quiet_since = (self.fresh == 0).then_some(self.begun);
        self.expected = self.fresh;
        let running = self.container.running && !self.gone;
        let polled = self.container.rotates || !may_follow;
        let settled = self.settled.filter(|&at| self.begun < at);
        if self.again || self.fresh > 0 && !(running && polled) {
            // What came while this was read.
            self.read_at(now);
        } else if !running {
            self.phase = Phase::Ended;
            if let Some(at) = settled {
                self.read_at(at);
            }
        } else if polled {
            self.read_at(now + poll_wait(self.quiet_reads));
        } else {
            let tail = match self.place.mark {
                Some(_) if !self.lost => self.follow_tail,
                _ => Tail::All,
            };
            // A stream that ends at once, again and again, is not opened in a loop.
            let steps = self.quiet_reads.saturating_sub(1).min(REOPEN_STEPS_MAX);
            let at = now + limits::DOCKER_REOPEN * steps;
            self.phase = Phase::Due(at, Ask { follow: true, tail });
        }
        Said::Nothing
    }

    /// The place was not in the answer.
    fn seek_wider(&mut self, ask: Ask, now: Instant) -> Said {
        if ask.tail != Tail::All {
            self.phase = Phase::Due(now, Ask { follow: false, tail: ask.tail.wider() });
            return Said::Nothing;
        }
        // A whole answer without it: rotated away, or the log was emptied.
        self.lost = true;
        self.phase = Phase::Due(now, ask);
        Said::PlaceLost
    }
}

/// New records that an answer is asked to have room for when nothing is known.
const EXPECTED_FIRST: u64 = 500;

/// How far the wait before a stream is opened again grows, in steps of
/// [`limits::DOCKER_REOPEN`].
const REOPEN_STEPS_MAX: u32 = 10;

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
    /// The engine's own words in the stream, or a record without a time.
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
fn out_line(line: Line<'_>, tty: bool) -> OutLine {
    let long = line.part > 0 || line.end == LineEnd::Split;
    // The terminal made CR LF of each LF; the CR may be in the piece before the LF.
    let cr = tty && line.end == LineEnd::Whole;
    let text = line.text.strip_suffix(b"\r").filter(|_| cr).unwrap_or(line.text);
    OutLine {
        stream: line.stream,
        timestamp_ns: line.time_ns + i64::from(line.part),
        text: text.to_vec(),
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

#[cfg(test)]
#[path = "follow_model_tests.rs"]
mod model_tests;
