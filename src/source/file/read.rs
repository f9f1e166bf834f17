//! Reading a chain: one chunk a turn, older generations first.
//!
//! Looks at size and beginning before reading on, so that a file emptied and written anew is
//! noticed; stops at a record that the batches refuse and reads it again later. What rotation
//! means for the chain is decided in `renew`. Runs on the thread `file-N`.

use std::borrow::Cow;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;
use std::time::Instant;

use super::chain::{Chain, Owner, Segment};
use super::identity::{self, FileId, Head};
use super::rotate::open_regular;
use super::tail::{Cut, Line, Lines, Passed};
use crate::batch::{Batcher, RunRecord};
use crate::clock::Clock;
use crate::limits;
use crate::metrics::Metrics;
use crate::record::{Place, SourceId, StreamLabels};

/// A line that is too long, on its way to dead letters.
#[derive(Clone, Copy, Debug)]
pub struct LongLine<'a> {
    pub source: &'a str,
    pub labels: &'a Arc<StreamLabels>,
    pub timestamp_ns: i64,
    /// Cut at `line_bytes_max`, valid UTF-8.
    pub line: &'a str,
}

/// Takes a long line into dead letters, synced; false: it could not, and is asked again later.
pub type Divert = Arc<dyn Fn(LongLine<'_>) -> bool + Send + Sync>;

/// What reading needs besides the chain.
pub struct Context {
    pub batcher: Batcher,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub divert: Divert,
    /// Shared by all files of the lane.
    pub buffer: Vec<u8>,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// There is more to read.
    More,
    /// All there is was read.
    End,
    /// A required sink has no room.
    Blocked,
    /// The live file was emptied or replaced under its inode: the chain is to be renewed.
    Truncated,
}

enum Step {
    Full,
    End,
    Blocked,
    Truncated,
}

/// Reads at most one chunk that fills the buffer, and what is new in the generations after it.
pub fn turn(chain: &mut Chain, cx: &mut Context, now: Instant) -> Turn {
    if chain.json.is_some() {
        if !super::container::settle(chain, cx, now) {
            return Turn::Blocked;
        }
    } else {
        chain.labels();
        let labels = chain.labels.clone();
        if labels.is_some_and(|l| !cx.batcher.has_room(&chain.sinks, &l)) {
            return Turn::Blocked;
        }
    }
    for at in 0..chain.segments.len() {
        match step(chain, at, cx, now) {
            Ok(Step::Full) => return Turn::More,
            Ok(Step::End) => {}
            Ok(Step::Blocked) => return Turn::Blocked,
            Ok(Step::Truncated) if at + 1 == chain.segments.len() => return Turn::Truncated,
            Ok(Step::Truncated) => end_of(&mut chain.segments[at]),
            Err(e) => {
                let segment = &mut chain.segments[at];
                failed(segment, &e, now);
                cx.metrics.error("file", "read");
            }
        }
    }
    Turn::End
}

/// An older generation was emptied: there is nothing more to be had from it.
fn end_of(segment: &mut Segment) {
    segment.tail.rewind(segment.size);
    segment.partial = None;
    segment.backlog = false;
}

fn failed(segment: &mut Segment, error: &io::Error, now: Instant) {
    segment.backlog = false;
    segment.file = None;
    if error.kind() == io::ErrorKind::NotFound {
        // Closed while idle, and its name leads elsewhere: a listing may find its new one.
        segment.leaving.get_or_insert(now);
        segment.size = segment.tail.read_offset();
    } else {
        log::debug!("reading {}: {error}", segment.path.display());
    }
}

/// What a look at a segment says.
enum Look {
    Nothing,
    Read { forced: bool },
    Truncated,
}

fn step(chain: &mut Chain, at: usize, cx: &mut Context, now: Instant) -> io::Result<Step> {
    let (wait, grace) = (chain.owner.partial_wait(), chain.owner.rotated_grace());
    let segment = &mut chain.segments[at];
    if segment.file.is_none() && !reopen(segment)? {
        return Ok(Step::End);
    }
    let mut forced = false;
    if !segment.backlog || now.duration_since(segment.looked) >= limits::FILE_TICK {
        match look(segment, now, wait, grace)? {
            Look::Nothing => return Ok(Step::End),
            Look::Read { forced: f } => forced = f,
            Look::Truncated => return Ok(Step::Truncated),
        }
    }
    let Some(file) = &segment.file else { return Ok(Step::End) };
    let before = segment.tail.read_offset();
    let mut want = cx.buffer.len();
    if forced {
        // Not what was written since the look: that line may have its newline by now.
        want = want.min(segment.size.saturating_sub(before) as usize);
    }
    let count = read_at(file, &mut cx.buffer[..want], before)?;
    let refused = match chain.owner {
        Owner::File(_) => plain(chain, at, cx, count, forced, now),
        Owner::Container(_) => super::container::read(chain, at, cx, count, forced, now),
    };
    let segment = &mut chain.segments[at];
    let full = count == cx.buffer.len();
    segment.backlog = full || refused;
    let end = before + count as u64;
    segment.size = segment.size.max(end);
    if segment.tail.read_offset() > before {
        chain.grown = now;
        segment.leaving = segment.leaving.map(|_| now);
    }
    let rest = !full && !refused && segment.tail.place() < end;
    let same = segment.partial.is_some_and(|(size, _)| size == end);
    if !rest {
        segment.partial = None;
    } else if !same {
        segment.partial = Some((end, now));
    }
    grow_fingerprint(chain, at, cx)?;
    Ok(if refused {
        Step::Blocked
    } else if full {
        Step::Full
    } else {
        Step::End
    })
}

/// Opens a segment that was closed while idle; false when it did not change since.
fn reopen(segment: &mut Segment) -> io::Result<bool> {
    let metadata = std::fs::metadata(&segment.path)?;
    let unchanged = metadata.len() == segment.tail.read_offset()
        && (metadata.mtime(), metadata.mtime_nsec()) == segment.modified;
    if FileId::of(&metadata) == segment.file_id && unchanged {
        return Ok(false);
    }
    let (file, metadata) = open_regular(&segment.path, true)?;
    if FileId::of(&metadata) != segment.file_id {
        return Err(io::ErrorKind::NotFound.into());
    }
    segment.file = Some(file);
    Ok(true)
}

fn look(
    segment: &mut Segment,
    now: Instant,
    wait: std::time::Duration,
    grace: std::time::Duration,
) -> io::Result<Look> {
    let Some(file) = &segment.file else { return Ok(Look::Nothing) };
    let metadata = file.metadata()?;
    segment.looked = now;
    segment.backlog = false;
    segment.size = metadata.len();
    if metadata.nlink() == 0 {
        segment.unlinked = true;
        segment.leaving.get_or_insert(now);
    }
    if segment.tail.truncated(segment.size) {
        return Ok(Look::Truncated);
    }
    let modified = (metadata.mtime(), metadata.mtime_nsec());
    let touched = std::mem::replace(&mut segment.modified, modified) != modified;
    let held = segment.tail.place() < segment.tail.read_offset();
    let at_end = segment.size == segment.tail.read_offset() && !held && segment.partial.is_none();
    if at_end && !touched {
        return Ok(Look::Nothing);
    }
    let same = segment.partial.filter(|(size, _)| *size == segment.size);
    let over = segment.leaving.is_some_and(|since| now.duration_since(since) >= grace);
    let forced = same.is_some_and(|(_, since)| over || now.duration_since(since) >= wait);
    if same.is_some() && !forced {
        return Ok(Look::Nothing);
    }
    if identity::compare(file, segment.print)? != Head::Same {
        // Also when what was written anew has just the old length.
        return Ok(Look::Truncated);
    }
    Ok(if at_end { Look::Nothing } else { Look::Read { forced } })
}

fn read_at(file: &std::fs::File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.read_at(buffer, offset) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// The fingerprint grows with the file; `ack` is told.
fn grow_fingerprint(chain: &mut Chain, at: usize, cx: &mut Context) -> io::Result<()> {
    let segment = &mut chain.segments[at];
    let max = limits::FINGERPRINT_BYTES_MAX;
    if segment.print.bytes as usize >= max || segment.size <= segment.print.bytes.into() {
        return Ok(());
    }
    let Some(file) = &segment.file else { return Ok(()) };
    segment.print = identity::fingerprint(file, max)?;
    let identity = segment.identity(&chain.owner);
    cx.batcher.identify(segment.id, identity);
    Ok(())
}

/// What the lines of one chunk share.
struct Chunk<'a> {
    id: SourceId,
    source: &'a str,
    labels: &'a Arc<StreamLabels>,
    base_ns: i64,
    start: u64,
    now: Instant,
}

impl Chunk<'_> {
    /// A function of the place: base of the range and the offset in it.
    fn time_ns(&self, line: &Line<'_>) -> i64 {
        self.base_ns + (line.before - self.start) as i64
    }

    fn record<'c>(&self, line: &Line<'c>, text: &'c [u8]) -> RunRecord<'c> {
        let timestamp_ns = self.time_ns(line);
        RunRecord { before: line.before, after: line.after, timestamp_ns, line: text }
    }
}

/// Takes the lines of the first `count` bytes of the buffer; true when one was refused.
fn plain(
    chain: &mut Chain,
    at: usize,
    cx: &mut Context,
    count: usize,
    forced: bool,
    now: Instant,
) -> bool {
    let labels = chain.labels().clone();
    let framing = chain.owner.framing();
    let segment = &mut chain.segments[at];
    let (start, place) = (segment.tail.read_offset(), segment.tail.place());
    let base_ns = cx.clock.wall_ns().max(chain.end_ns);
    let source = chain.owner.source();
    let chunk = Chunk { id: segment.id, source, labels: &labels, base_ns, start, now };
    let Context { batcher, buffer, .. } = cx;
    let bytes = &buffer[..count];
    let mut lines = segment.tail.lines(bytes, framing);
    lines.only_plain(match std::str::from_utf8(bytes) {
        Ok(_) => count,
        Err(e) => e.valid_up_to(),
    });
    let run = lines.by_ref().map(|line| chunk.record(&line, line.text));
    let outcome = batcher.append_run(chunk.id, &labels, now, run);
    let mut taken = outcome.taken;
    let mut refused = outcome.refused_at.is_some();
    let mut replaced = 0;
    if let Some(before) = outcome.refused_at {
        lines.refused(before);
    } else {
        lines.all();
        refused = with_care(&chunk, &mut lines, forced, batcher, &cx.divert, |line| {
            taken += 1;
            replaced += u64::from(line);
        });
    }
    let passed = lines.passed;
    let reached = segment.tail.place();
    if !refused {
        batcher.advance(segment.id, Place::at(reached));
    }
    chain.end_ns = base_ns + (segment.tail.read_offset().saturating_sub(start)) as i64;
    count_lines(cx, &chain.owner, taken, reached.saturating_sub(place), passed, replaced);
    refused
}

/// Lines with invalid UTF-8, lines for dead letters, the unterminated one: one by one. `took`
/// is told of each, and whether bytes were replaced. True when one was refused.
fn with_care(
    chunk: &Chunk<'_>,
    lines: &mut Lines<'_, '_>,
    forced: bool,
    batcher: &mut Batcher,
    divert: &Divert,
    mut took: impl FnMut(bool),
) -> bool {
    loop {
        let line = match lines.next() {
            Some(line) => line,
            None if forced => match lines.unterminated() {
                Some(line) => line,
                None => return false,
            },
            None => return false,
        };
        let text = String::from_utf8_lossy(line.text);
        let fits = if line.cut == Cut::Diverted {
            let timestamp_ns = chunk.time_ns(&line);
            let (source, labels) = (chunk.source, chunk.labels);
            let long = LongLine { source, labels, timestamp_ns, line: &text };
            let diverted = divert(long);
            if diverted {
                batcher.advance(chunk.id, Place::at(line.after));
            }
            diverted
        } else {
            let record = chunk.record(&line, text.as_bytes());
            let run = std::iter::once(record);
            let outcome = batcher.append_run(chunk.id, chunk.labels, chunk.now, run);
            outcome.refused_at.is_none()
        };
        if !fits {
            lines.refused(line.before);
            return true;
        }
        took(matches!(text, Cow::Owned(_)));
    }
}

fn count_lines(cx: &Context, owner: &Owner, lines: u64, bytes: u64, passed: Passed, replaced: u64) {
    let (m, source) = (&cx.metrics, owner.source());
    if lines > 0 {
        m.read(owner.source_type(), source, lines, bytes);
    }
    if replaced > 0 {
        m.invalid_utf8(source, replaced);
    }
    if passed.long_lines > 0 {
        m.long_lines(source, owner.framing().long_lines.as_str(), passed.long_lines);
    }
    if passed.left_out_bytes > 0 {
        m.damaged(source, "left_out_bytes", passed.left_out_bytes);
    }
    if passed.nul_bytes > 0 {
        m.damaged(source, "nul_bytes", passed.nul_bytes);
    }
}
