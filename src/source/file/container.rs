//! The framing of containers' json-file logs: records instead of lines.
//!
//! Decodes each record, joins the pieces of long lines across rotated files, and keeps every
//! position before the first piece of an unfinished line. What the batches refuse is kept here
//! (a few lines at most) and offered first next time, so that nothing is decoded twice. Times
//! and streams are the engine's. Runs on the thread `file-N`.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::chain::{Chain, Owner};
use super::read::{Context, Divert, LongLine};
use super::tail::Framing;
use crate::batch::Batcher;
use crate::config::checked::LongLines;
use crate::limits;
use crate::record::{Place, Record, SourceId, StreamLabels};
use crate::source::docker::json_record::{self, JsonRecord, JsonRecordError};
use crate::source::docker::pieces::{Joiner, Line, LineEnd, Piece, PieceRule};
use crate::source::{ContainerLog, container_streams};

/// Records are cut at newlines; the engine's are below 100 KiB (16 KiB, each byte escaped), so
/// a longer one is damage.
pub const FRAMING: Framing =
    Framing { line_bytes_max: limits::READ_CHUNK_BYTES, long_lines: LongLines::Truncate };

/// Low bits of a place that spans generations: the offset; above them the generation.
const OFFSET_BITS: u32 = 44;

/// One generation of the log, beside the chain's segment of the same number.
struct Generation {
    serial: u64,
    id: SourceId,
    /// What the batches were told last.
    place: u64,
}

/// A line that the batches refused.
struct Waiting {
    id: SourceId,
    place: u64,
    /// Place of its first piece, with the generation.
    from: u64,
    stream: usize,
    time_ns: i64,
    text: String,
    diverted: bool,
}

/// The decoder's state of one log.
pub struct Json {
    joiner: Joiner,
    generations: Vec<Generation>,
    serials: u64,
    waiting: VecDeque<Waiting>,
    /// The first piece of the oldest unfinished line, and since when it stands there.
    open: Option<(u64, Instant)>,
    scratch: Vec<u8>,
    outlet: Outlet,
}

/// What lines need on their way out, whichever piece or record they came from.
struct Outlet {
    source: Arc<str>,
    labels: [Arc<StreamLabels>; 2],
    metadata: Vec<(String, String)>,
    sinks: Arc<[usize]>,
    long_lines: LongLines,
    tty: bool,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    lines: u64,
    long: u64,
    invalid: u64,
    damaged: u64,
    nul: u64,
}

impl Json {
    pub fn new(log: &ContainerLog) -> Self {
        Self {
            joiner: Joiner::new(PieceRule::Newline, log.line_bytes_max),
            generations: Vec::new(),
            serials: 0,
            waiting: VecDeque::new(),
            open: None,
            scratch: Vec::new(),
            outlet: Outlet::new(log),
        }
    }

    /// Labels or metadata of the container changed.
    pub fn relabel(&mut self, log: &ContainerLog) {
        self.outlet = Outlet::new(log);
    }

    /// No line is unfinished or waits for room.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.joiner.oldest_open().is_none()
    }

    /// Whether a line that is not handed over yet began in the segment `at`.
    pub fn holds(&self, at: usize) -> bool {
        let serial = self.generations.get(at).map(|g| g.serial);
        self.hold().is_some_and(|from| Some(from >> OFFSET_BITS) == serial)
    }

    /// The segment `at` left the chain.
    pub fn segment_left(&mut self, at: usize) {
        if at < self.generations.len() {
            self.generations.remove(at);
        }
    }

    /// The segment `at` was emptied: what is unfinished of it never ends.
    pub fn emptied(&mut self, at: usize) {
        self.segment_left(at);
        self.joiner.clear();
    }

    /// The place, with the generation, that no position may pass.
    fn hold(&self) -> Option<u64> {
        let waiting = self.waiting.front().map(|w| w.from);
        waiting.into_iter().chain(self.joiner.oldest_open()).min()
    }

    fn note_open(&mut self, now: Instant) {
        let open = self.joiner.oldest_open();
        if self.open.map(|(from, _)| from) != open {
            self.open = open.map(|from| (from, now));
        }
    }
}

impl Outlet {
    fn new(log: &ContainerLog) -> Self {
        Self {
            source: log.source.clone(),
            labels: container_streams(&log.labels),
            metadata: log.metadata.clone(),
            sinks: log.sinks.clone(),
            long_lines: log.long_lines,
            tty: log.tty,
            counts: Counts::default(),
        }
    }

    /// The line as it is sent; None when a rule leaves it out, counted.
    fn prepare<'l>(&mut self, line: &Line<'l>) -> Option<(Cow<'l, str>, bool)> {
        let mut text = line.text;
        if self.tty && line.end == LineEnd::Whole {
            text = text.strip_suffix(b"\r").unwrap_or(text);
        }
        let long = line.end == LineEnd::Split || line.part > 0;
        self.counts.long += u64::from(line.end == LineEnd::Split && line.part == 0);
        if long && line.part > 0 && self.long_lines != LongLines::Split {
            return None;
        }
        self.counts.lines += 1;
        let text = String::from_utf8_lossy(text);
        self.counts.invalid += u64::from(matches!(text, Cow::Owned(_)));
        Some((text, long && self.long_lines == LongLines::DeadLetter))
    }

    /// False when it is refused.
    fn offer(&self, line: &Waiting, batcher: &mut Batcher, divert: &Divert, now: Instant) -> bool {
        let labels = &self.labels[line.stream];
        let (timestamp_ns, text) = (line.time_ns, line.text.as_str());
        if line.diverted {
            return divert(LongLine { source: &self.source, labels, timestamp_ns, line: text });
        }
        let at = (line.id, line.place);
        self.append(at, line.stream, timestamp_ns, text, batcher, now)
    }

    fn append(
        &self,
        (id, place): (SourceId, u64),
        stream: usize,
        timestamp_ns: i64,
        text: &str,
        batcher: &mut Batcher,
        now: Instant,
    ) -> bool {
        let metadata: Vec<(&str, &str)> =
            self.metadata.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let labels = &self.labels[stream];
        let record = Record { timestamp_ns, line: text.as_bytes(), labels, metadata: &metadata };
        // The place does not move with the record: `settle_places` moves it.
        let place = Place::at(place);
        batcher.append(id, place, place, &record, now).is_ok()
    }
}

/// Hands over what was refused before, and a line whose rest did not come in time. False: there
/// is still no room.
pub fn settle(chain: &mut Chain, cx: &mut Context, now: Instant) -> bool {
    let wait = chain.owner.partial_wait();
    let Some(json) = chain.json.as_mut() else { return true };
    if json.waiting.is_empty() && json.open.is_none() {
        return json.outlet.labels.iter().all(|l| cx.batcher.has_room(&json.outlet.sinks, l));
    }
    if json.open.is_some_and(|(_, since)| now.duration_since(since) >= wait) {
        let Json { joiner, waiting, outlet, generations, .. } = &mut **json;
        joiner.flush(&mut |line| {
            if let Some((text, diverted)) = outlet.prepare(&line) {
                waiting.push_back(keep(&line, generations, text.into_owned(), diverted));
            }
        });
        json.note_open(now);
    }
    while let Some(line) = json.waiting.front() {
        if !json.outlet.offer(line, &mut cx.batcher, &cx.divert, now) {
            return false;
        }
        json.waiting.pop_front();
    }
    settle_places(chain, cx);
    count(chain, cx, 0);
    true
}

fn keep(line: &Line<'_>, generations: &[Generation], text: String, diverted: bool) -> Waiting {
    let serial = line.from >> OFFSET_BITS;
    let of = generations.iter().find(|g| g.serial >= serial).or(generations.last());
    let Some(of) = of else { panic!("a line of no generation") };
    let offset = line.from & ((1 << OFFSET_BITS) - 1);
    let place = if of.serial == serial { offset } else { of.place };
    Waiting {
        id: of.id,
        place: place.max(of.place),
        from: line.from,
        stream: line.stream as usize,
        time_ns: line.time_ns.saturating_add(line.part.into()),
        text,
        diverted,
    }
}

/// Takes the records of the first `count` bytes of the buffer; true when a line was refused.
pub fn read(
    chain: &mut Chain,
    at: usize,
    cx: &mut Context,
    bytes: usize,
    forced: bool,
    now: Instant,
) -> bool {
    let Some(json) = chain.json.as_mut() else { return false };
    while let Some(segment) = chain.segments.get(json.generations.len()) {
        json.serials += 1;
        let (serial, place) = (json.serials, segment.tail.place());
        json.generations.push(Generation { serial, id: segment.id, place });
    }
    let segment = &mut chain.segments[at];
    let begun = segment.tail.place();
    let mut lines = segment.tail.lines(&cx.buffer[..bytes], FRAMING);
    let mut refused = false;
    while let Some(record) = lines.next() {
        take(json, at, record.text, record.before, &mut cx.batcher, &cx.divert, now);
        if !json.waiting.is_empty() {
            // What was decoded is kept; reading goes on behind it.
            lines.refused(record.after);
            refused = true;
            break;
        }
    }
    if !refused && forced && lines.unterminated().is_some() {
        json.outlet.counts.damaged += 1;
    }
    json.outlet.counts.nul += lines.passed.nul_bytes;
    json.note_open(now);
    let read = segment.tail.place().saturating_sub(begun);
    settle_places(chain, cx);
    count(chain, cx, read);
    refused
}

/// One record: whole lines go to the batches without a copy, what is refused is kept.
fn take(
    json: &mut Json,
    at: usize,
    text: &[u8],
    before: u64,
    batcher: &mut Batcher,
    divert: &Divert,
    now: Instant,
) {
    let hold = json.hold();
    let Json { joiner, waiting, outlet, generations, scratch, .. } = json;
    let record = match decode(text, scratch) {
        Ok(record) => record,
        Err(e) => {
            let nul = matches!(e, JsonRecordError::Nul { .. });
            outlet.counts.nul += u64::from(nul);
            outlet.counts.damaged += u64::from(!nul);
            let Some(rest) = json_record::recover(text) else { return };
            let Ok(record) = decode(rest, scratch) else { return };
            record
        }
    };
    let serial = generations[at].serial;
    let from = serial << OFFSET_BITS | before;
    let held = hold.filter(|hold| *hold < from);
    let place = match held {
        None => before,
        Some(hold) if hold >> OFFSET_BITS == serial => hold & ((1 << OFFSET_BITS) - 1),
        Some(_) => generations[at].place,
    };
    let piece = Piece {
        stream: record.stream,
        time_ns: record.time_ns,
        text: record.log,
        newline: record.has_newline,
        at: from,
    };
    let id = generations[at].id;
    joiner.push(piece, &mut |line| {
        let Some((text, diverted)) = outlet.prepare(&line) else { return };
        let here = line.from >> OFFSET_BITS == serial && !diverted && waiting.is_empty();
        let time_ns = line.time_ns.saturating_add(line.part.into());
        let stream = line.stream as usize;
        if here && outlet.append((id, place), stream, time_ns, &text, batcher, now) {
            return;
        }
        let kept = keep(&line, generations, text.into_owned(), diverted);
        if !waiting.is_empty() || !outlet.offer(&kept, batcher, divert, now) {
            waiting.push_back(kept);
        }
    });
}

fn decode<'a>(line: &'a [u8], scratch: &'a mut Vec<u8>) -> Result<JsonRecord<'a>, JsonRecordError> {
    json_record::decode(line, scratch)
}

/// Moves each generation's place as far as nothing is held back.
fn settle_places(chain: &mut Chain, cx: &mut Context) {
    let Some(json) = chain.json.as_mut() else { return };
    let hold = json.hold();
    for (generation, segment) in json.generations.iter_mut().zip(&chain.segments) {
        let reached = segment.tail.place();
        let place = match hold {
            Some(hold) if hold >> OFFSET_BITS == generation.serial => {
                reached.min(hold & ((1 << OFFSET_BITS) - 1))
            }
            // A line of an older generation is open: its later pieces are here.
            Some(hold) if hold >> OFFSET_BITS < generation.serial => generation.place,
            _ => reached,
        };
        if place > generation.place {
            generation.place = place;
            cx.batcher.advance(generation.id, Place::at(place));
        }
    }
}

fn count(chain: &mut Chain, cx: &Context, bytes: u64) {
    let Owner::Container(log) = &chain.owner else { return };
    let Some(json) = chain.json.as_mut() else { return };
    let counts = std::mem::take(&mut json.outlet.counts);
    let (m, source) = (&cx.metrics, &*log.source);
    if counts.lines + bytes > 0 {
        m.read("docker", source, counts.lines, bytes);
    }
    if counts.long > 0 {
        m.long_lines(source, log.long_lines.as_str(), counts.long);
    }
    if counts.invalid > 0 {
        m.invalid_utf8(source, counts.invalid);
    }
    for (what, n) in [("json", counts.damaged), ("nul", counts.nul)] {
        if n > 0 {
            m.damaged(source, what, n);
        }
    }
}
