//! A lane's batches: one open batch per sink and shard, parked ones, and what `ack` is told.
//!
//! Runs on the lane's thread and never waits: a sealed batch that finds no room is parked,
//! and a record that would need that room is refused ([`Blocked`]) and stays at its source.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::streams::SinkStreams;
use super::{BatchId, Format, OpenBatch, Scratch, SealedBatch};
use crate::ack::{AckEvent, AckPort, Identity, Position};
use crate::metrics::Metrics;
use crate::queue::SinkQueue;
use crate::record::{Place, Record, SourceId, StreamLabels};

/// A sink as a lane sees it.
pub struct SinkPort {
    /// Index into `Config::sinks`.
    pub index: usize,
    pub name: String,
    pub required: bool,
    pub format: Format,
    pub batch_bytes: usize,
    pub batch_wait: Duration,
    pub queue: SinkQueue,
    /// Shared with the other lanes.
    pub streams: Arc<SinkStreams>,
}

/// One line of a run; see [`Batcher::append_run`].
#[derive(Clone, Copy, Debug)]
pub struct RunRecord<'a> {
    /// Offsets between which the line lies in its source.
    pub before: u64,
    pub after: u64,
    pub timestamp_ns: i64,
    /// Valid UTF-8.
    pub line: &'a [u8],
}

/// What came of a run: how many records were taken, and where the first refused one begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOutcome {
    pub taken: u64,
    pub refused_at: Option<u64>,
}

/// The record was not taken: a required sink has no room. Try again after a wake-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked;

struct SinkLane {
    port: SinkPort,
    open: Vec<Option<OpenBatch>>,
    parked: Vec<Option<SealedBatch>>,
    /// Records taken since `metrics` was told.
    taken: u64,
}

struct FedSource {
    sinks: Arc<[usize]>,
    /// The place after the last record that was taken or accounted for.
    read: Place,
    /// `read` has moved since `ack` was told.
    dirty: bool,
    /// What `ack` is told once no open batch holds records of it.
    leaving: Option<Leaving>,
}

#[derive(Clone, Copy)]
enum Leaving {
    Gone,
    Forget,
}

/// See the module's head.
pub struct Batcher {
    lane: u64,
    batches: u64,
    sinks: Vec<SinkLane>,
    sources: HashMap<SourceId, FedSource>,
    dirty: Vec<SourceId>,
    leaving: Vec<SourceId>,
    ack: AckPort,
    outbox: VecDeque<AckEvent>,
    metrics: Arc<Metrics>,
    scratch: Scratch,
}

impl Batcher {
    /// `lane` is a number that no other lane has.
    pub fn new(lane: u64, sinks: Vec<SinkPort>, ack: AckPort, metrics: Arc<Metrics>) -> Self {
        let sinks = sinks
            .into_iter()
            .map(|port| {
                let n = port.queue.shards();
                SinkLane {
                    port,
                    open: (0..n).map(|_| None).collect(),
                    parked: (0..n).map(|_| None).collect(),
                    taken: 0,
                }
            })
            .collect();
        Self {
            lane,
            batches: 0,
            sinks,
            sources: HashMap::new(),
            dirty: Vec::new(),
            leaving: Vec::new(),
            ack,
            outbox: VecDeque::new(),
            metrics,
            scratch: Scratch::default(),
        }
    }

    /// Begins to follow a source at `position.place`; its records go to `sinks`.
    pub fn add_source(&mut self, position: Position, sinks: Arc<[usize]>) -> SourceId {
        let id = self.ack.next_source();
        let fed = FedSource { sinks, read: position.place, dirty: false, leaving: None };
        self.sources.insert(id, fed);
        self.tell(AckEvent::Register(id, position));
        id
    }

    /// The source's name, fingerprint or the like changed.
    pub fn identify(&mut self, id: SourceId, identity: Identity) {
        self.tell(AckEvent::Identify(id, identity));
    }

    /// The source is gone; what is on its way stays on its way. `forget`: its position is of
    /// no use any more once acknowledged.
    pub fn remove_source(&mut self, id: SourceId, forget: bool) {
        if let Some(fed) = self.sources.get_mut(&id) {
            fed.leaving = Some(if forget { Leaving::Forget } else { Leaving::Gone });
            self.leaving.push(id);
        }
        self.flush_leaving();
    }

    fn flush_leaving(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        self.flush_lows();
        for id in std::mem::take(&mut self.leaving) {
            let opens = self.sinks.iter().flat_map(|s| s.open.iter().flatten());
            if opens.filter_map(|open| open.start_of(id)).next().is_some() {
                self.leaving.push(id);
                continue;
            }
            match self.sources.remove(&id).and_then(|fed| fed.leaving) {
                Some(Leaving::Forget) => self.tell(AckEvent::Forget(id)),
                Some(Leaving::Gone) => self.tell(AckEvent::Gone(id)),
                None => {}
            }
        }
    }

    /// Adds a record that lies between the places `before` and `after` of its source, to all
    /// of the source's sinks or to none.
    ///
    /// # Errors
    /// [`Blocked`] when a required sink has no room.
    pub fn append(
        &mut self,
        id: SourceId,
        before: Place,
        after: Place,
        record: &Record<'_>,
        now: Instant,
    ) -> Result<(), Blocked> {
        let Some(fed) = self.sources.get(&id) else { panic!("record of unknown source {id:?}") };
        let sinks = fed.sinks.clone();
        let labels = self.within_limit(&sinks, record.labels, now);
        let record = &Record { labels: &labels, ..*record };
        for &sink in &*sinks {
            if !self.make_room(sink, record) && self.sinks[sink].port.required {
                return Err(Blocked);
            }
        }
        for &sink in &*sinks {
            self.push(sink, (id, before), record, now);
        }
        self.advance(id, after);
        Ok(())
    }

    /// Adds the records of one source and one stream that follow each other, until one is
    /// refused. The same as [`Self::append`] for each, with what they share looked up once.
    pub fn append_run<'a>(
        &mut self,
        id: SourceId,
        labels: &Arc<StreamLabels>,
        now: Instant,
        records: impl Iterator<Item = RunRecord<'a>>,
    ) -> RunOutcome {
        let Some(fed) = self.sources.get(&id) else { panic!("run of unknown source {id:?}") };
        let sinks = fed.sinks.clone();
        let labels = &self.within_limit(&sinks, labels, now);
        let mut outcome = RunOutcome::default();
        let mut reached = None;
        for r in records {
            let (timestamp_ns, line) = (r.timestamp_ns, r.line);
            let record = Record { timestamp_ns, line, labels, metadata: &[] };
            for &sink in &*sinks {
                if self.is_full(sink, self.shard_of(sink, &record), &record) {
                    // Sealing tells `ack` how far this source was read.
                    if let Some(after) = reached.take() {
                        self.advance(id, Place::at(after));
                    }
                    if !self.make_room(sink, &record) && self.sinks[sink].port.required {
                        outcome.refused_at = Some(r.before);
                        return outcome;
                    }
                }
            }
            for &sink in &*sinks {
                self.push(sink, (id, Place::at(r.before)), &record, now);
            }
            reached = Some(r.after);
            outcome.taken += 1;
        }
        if let Some(after) = reached {
            self.advance(id, Place::at(after));
        }
        outcome
    }

    /// Whether no required one of `sinks` has a batch of this stream's shard parked. While it
    /// has, reading on is of little use: a wake-up comes when the batch is gone.
    pub fn has_room(&self, sinks: &[usize], labels: &StreamLabels) -> bool {
        sinks.iter().all(|&sink| {
            let lane = &self.sinks[sink];
            let shard = (labels.hash() % lane.open.len() as u64) as usize;
            !lane.port.required || lane.parked[shard].is_none()
        })
    }

    /// All before `after` is accounted for without a record (filtered, blank, diverted).
    pub fn advance(&mut self, id: SourceId, after: Place) {
        let Some(fed) = self.sources.get_mut(&id) else { return };
        fed.read = after;
        if !fed.dirty {
            fed.dirty = true;
            self.dirty.push(id);
        }
    }

    fn shard_of(&self, sink: usize, record: &Record<'_>) -> usize {
        (record.labels.hash() % self.sinks[sink].open.len() as u64) as usize
    }

    #[inline]
    fn is_full(&self, sink: usize, shard: usize, record: &Record<'_>) -> bool {
        let lane = &self.sinks[sink];
        lane.open[shard].as_ref().is_some_and(|open| {
            open.entries() > 0 && open.size_with(record) > lane.port.batch_bytes
        })
    }

    /// Seals what is full; false when the record's shard cannot take it now.
    fn make_room(&mut self, sink: usize, record: &Record<'_>) -> bool {
        let shard = self.shard_of(sink, record);
        if !self.is_full(sink, shard, record) {
            return true;
        }
        self.unpark(sink, shard) && {
            self.seal(sink, shard);
            true
        }
    }

    fn push(&mut self, sink: usize, at: (SourceId, Place), record: &Record<'_>, now: Instant) {
        let shard = self.shard_of(sink, record);
        let over = self.is_full(sink, shard, record);
        let lane = &mut self.sinks[sink];
        if over {
            // Only an optional sink gets here without room: its newest is dropped, counted.
            self.metrics.dropped(&lane.port.name, "sink_full", 1);
            return;
        }
        let format = lane.port.format;
        let scratch = &mut self.scratch;
        let open = lane.open[shard]
            .get_or_insert_with(|| OpenBatch::with_buffer(format, now, scratch.buffer()));
        if open.push(record, lane.port.required.then_some(at)) {
            lane.port.streams.note(record.labels.hash(), now);
        }
        lane.taken += 1;
    }

    /// The labels themselves, or the base labels of their source where a sink takes no further
    /// stream.
    fn within_limit(
        &self,
        sinks: &[usize],
        labels: &Arc<StreamLabels>,
        now: Instant,
    ) -> Arc<StreamLabels> {
        for &sink in sinks {
            let port = &self.sinks[sink].port;
            if !port.streams.is_full() || port.streams.takes(labels.hash(), now) {
                continue;
            }
            let Some(base) = labels.base() else { continue };
            self.metrics.error("streams", "limit");
            if port.streams.say_once() {
                log::warn!(
                    "sink {}: streams_max is reached; lines of further streams go to the base \
                     labels of their source, such as {} instead of {}",
                    port.name,
                    base.text(),
                    labels.text()
                );
            }
            return base.clone();
        }
        labels.clone()
    }

    /// Tells `metrics` what was taken: pending from now on.
    fn count(&mut self, sink: usize) {
        let lane = &mut self.sinks[sink];
        if lane.taken > 0 {
            self.metrics.taken(&lane.port.name, lane.taken);
            lane.taken = 0;
        }
    }

    /// Closes an open batch and offers it; it is parked when there is no room.
    fn seal(&mut self, sink: usize, shard: usize) {
        let lane = &mut self.sinks[sink];
        assert!(lane.parked[shard].is_none(), "sealing over a parked batch");
        let Some(open) = lane.open[shard].take() else { return };
        self.batches += 1;
        let id = BatchId(self.lane << 48 | self.batches);
        let sealed = open.seal(id, sink, shard, &mut self.scratch);
        let required = lane.port.required;
        self.count(sink);
        if required {
            let sources = sealed.sources.clone();
            let lows = sources.iter().map(|s| (s.source, self.low(s.source))).collect();
            self.tell(AckEvent::Sealed { batch: id, sources, lows });
        }
        self.sinks[sink].parked[shard] = Some(sealed);
        self.unpark(sink, shard);
    }

    /// The place before which all of a source's records are in announced batches.
    fn low(&self, id: SourceId) -> Place {
        let Some(fed) = self.sources.get(&id) else { panic!("low of unknown source {id:?}") };
        let opens = self.sinks.iter().flat_map(|s| s.open.iter().flatten());
        opens
            .filter_map(|open| open.start_of(id))
            .chain([fed.read])
            .min_by_key(|place| place.offset)
            .unwrap_or_default()
    }

    /// Offers the parked batch of a shard; true when none is left there.
    fn unpark(&mut self, sink: usize, shard: usize) -> bool {
        if !self.flush_outbox() {
            return self.sinks[sink].parked[shard].is_none();
        }
        let lane = &mut self.sinks[sink];
        let Some(batch) = lane.parked[shard].take() else { return true };
        match lane.port.queue.offer(batch) {
            Ok(()) => true,
            Err(batch) => {
                lane.parked[shard] = Some(batch);
                false
            }
        }
    }

    fn tell(&mut self, event: AckEvent) {
        self.outbox.push_back(event);
        self.flush_outbox();
    }

    /// True when `ack` has been told everything.
    fn flush_outbox(&mut self) -> bool {
        while let Some(event) = self.outbox.pop_front() {
            if let Err(event) = self.ack.try_send(event) {
                self.outbox.push_front(event);
                return false;
            }
        }
        true
    }

    fn flush_lows(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        let lows: Vec<_> = dirty.iter().map(|&id| (id, self.low(id))).collect();
        for id in dirty {
            if let Some(fed) = self.sources.get_mut(&id) {
                fed.dirty = false;
            }
        }
        if !lows.is_empty() {
            self.tell(AckEvent::Lows(lows));
        }
    }

    /// Seals what is old enough, offers what is parked, tells `ack` what was read. Call at
    /// least at the returned time and after every wake-up.
    pub fn tick(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        for sink in 0..self.sinks.len() {
            self.count(sink);
            for shard in 0..self.sinks[sink].open.len() {
                let free = self.unpark(sink, shard);
                let lane = &self.sinks[sink];
                let Some(open) = &lane.open[shard] else { continue };
                let due = open.opened() + lane.port.batch_wait;
                if due > now {
                    next = Some(next.map_or(due, |n| n.min(due)));
                } else if free {
                    self.seal(sink, shard);
                }
            }
        }
        self.flush_lows();
        self.flush_leaving();
        next
    }

    /// Seals everything, for a stop. Call again until [`Self::is_empty`].
    pub fn drain(&mut self) {
        for sink in 0..self.sinks.len() {
            for shard in 0..self.sinks[sink].open.len() {
                if self.unpark(sink, shard) {
                    self.seal(sink, shard);
                }
            }
        }
        self.flush_lows();
        self.flush_leaving();
    }

    /// Nothing is open, parked or untold.
    pub fn is_empty(&self) -> bool {
        let idle = |s: &SinkLane| {
            s.open.iter().all(Option::is_none) && s.parked.iter().all(Option::is_none)
        };
        self.outbox.is_empty() && self.sinks.iter().all(idle)
    }

    /// Whether a batch is parked, so that a wake-up will come.
    pub fn has_parked(&self) -> bool {
        !self.outbox.is_empty() || self.sinks.iter().any(|s| s.parked.iter().any(Option::is_some))
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{Receiver, bounded};

    use super::*;
    use crate::ack::{FileIdentity, Fingerprint, Outcome, Watermarks};
    use crate::batch::loki_push;
    use crate::queue::{QueuedBatch, SinkBudget};

    struct Rig {
        batcher: Batcher,
        shards: Vec<Receiver<QueuedBatch>>,
        budget: Arc<SinkBudget>,
        acks: Receiver<AckEvent>,
        marks: Watermarks,
    }

    fn rig(memory_bytes: usize, shards: usize, ack_events: usize) -> Rig {
        let (txs, rxs): (Vec<_>, Vec<_>) = (0..shards).map(|_| bounded(4)).unzip();
        let budget = SinkBudget::new(memory_bytes, shards, Vec::new());
        let (tx, acks) = bounded(ack_events);
        let port = SinkPort {
            index: 0,
            name: "loki".into(),
            required: true,
            format: Format::LokiPush,
            batch_bytes: 4096,
            batch_wait: Duration::from_secs(1),
            queue: SinkQueue::new(budget.clone(), txs),
            streams: Arc::new(SinkStreams::new(100)),
        };
        let metrics = Arc::new(Metrics::new());
        let batcher = Batcher::new(1, vec![port], AckPort::new(tx), metrics);
        Rig { batcher, shards: rxs, budget, acks, marks: Watermarks::default() }
    }

    fn position() -> Position {
        let identity = Identity::File(FileIdentity {
            source: "s".into(),
            path: "/x".into(),
            device: 1,
            inode: 1,
            fingerprint: Fingerprint::default(),
            container: None,
        });
        Position { identity, place: Place::at(0), gone_since_ns: None }
    }

    impl Rig {
        fn events(&mut self) {
            for event in self.acks.try_iter() {
                self.marks.step(event, 0);
            }
        }

        /// Takes one batch a shard as a sender would; returns its lines.
        fn deliver(&mut self) -> Vec<String> {
            self.events();
            let mut lines = Vec::new();
            for rx in &self.shards {
                let Ok(queued) = rx.try_recv() else { continue };
                let mut raw = Vec::new();
                queued.batch.uncompress(&mut raw).unwrap();
                for span in &queued.batch.streams {
                    let bytes = &raw[span.raw.start as usize..span.raw.end as usize];
                    let (_, entries) = loki_push::split_stream(bytes).unwrap();
                    let text =
                        |e: loki_push::EntrySlice<'_>| String::from_utf8(e.line.to_vec()).unwrap();
                    lines.extend(loki_push::entries(entries).map(text));
                }
                self.marks.step(AckEvent::Done(queued.batch.id, Outcome::default()), 0);
                self.budget.release(queued.batch.shard, queued.cost_bytes);
            }
            lines
        }
    }

    fn feed(rig: &mut Rig, id: SourceId, from: u64, upto: u64, now: Instant) -> u64 {
        let streams: Vec<_> =
            (0..5).map(|i| StreamLabels::new([("stream".to_owned(), format!("s{i}"))])).collect();
        for n in from..upto {
            let line = format!("{n:0200}");
            let record = Record {
                timestamp_ns: n as i64,
                line: line.as_bytes(),
                labels: &streams[n as usize % 5],
                metadata: &[],
            };
            let places = (Place::at(n), Place::at(n + 1));
            if rig.batcher.append(id, places.0, places.1, &record, now) == Err(Blocked) {
                return n;
            }
        }
        upto
    }

    #[test]
    fn a_lane_is_refused_at_a_record_and_goes_on_there_when_there_is_room() {
        for (memory_bytes, shards, ack_events) in [(1, 3, 64), (1 << 20, 1, 64), (1, 2, 1)] {
            let mut rig = rig(memory_bytes, shards, ack_events);
            let id = rig.batcher.add_source(position(), Arc::from([0usize]));
            let (mut at, mut lines, now) = (0, Vec::new(), Instant::now());
            let mut refused = 0;
            while at < 1_000 {
                let to = feed(&mut rig, id, at, 1_000, now);
                refused += u32::from(to < 1_000);
                at = to;
                lines.extend(rig.deliver());
                rig.batcher.tick(now);
                let place = rig.marks.place(id).map_or(0, |p| p.offset);
                assert!(place <= lines.len() as u64, "{place} committed, {} sent", lines.len());
            }
            assert!(refused > 0, "the queue of {memory_bytes} bytes never filled");
            while !rig.batcher.is_empty() || rig.budget.held_batches() > 0 {
                rig.batcher.drain();
                lines.extend(rig.deliver());
            }
            rig.events();
            lines.sort();
            let wanted: Vec<_> = (0..1_000).map(|n| format!("{n:0200}")).collect();
            assert_eq!(lines, wanted);
            assert_eq!(rig.marks.place(id), Some(Place::at(1_000)));
        }
    }

    #[test]
    fn a_run_ends_at_the_first_refused_record_and_may_be_taken_up_there() {
        let mut rig = rig(1, 1, 64);
        let id = rig.batcher.add_source(position(), Arc::from([0usize]));
        let labels = StreamLabels::new([("a".to_owned(), "b".to_owned())]);
        let texts: Vec<_> = (0..500).map(|n| format!("{n:0200}")).collect();
        let (mut at, mut lines, mut refused) = (0, Vec::new(), 0);
        while at < texts.len() as u64 || !rig.batcher.is_empty() || rig.budget.held_batches() > 0 {
            let records = (at..texts.len() as u64).map(|n| RunRecord {
                before: n,
                after: n + 1,
                timestamp_ns: n as i64,
                line: texts[n as usize].as_bytes(),
            });
            let outcome = rig.batcher.append_run(id, &labels, Instant::now(), records);
            at += outcome.taken;
            if let Some(place) = outcome.refused_at {
                assert_eq!(place, at);
                refused += 1;
                assert!(!rig.batcher.has_room(&[0], &labels));
            } else {
                rig.batcher.drain();
            }
            rig.events();
            let place = rig.marks.place(id).map_or(0, |p| p.offset);
            assert!(place <= lines.len() as u64, "{place} committed, {} sent", lines.len());
            lines.extend(rig.deliver());
        }
        assert!(refused > 0 && rig.batcher.has_room(&[0], &labels));
        assert_eq!(lines, texts);
        rig.events();
        assert_eq!(rig.marks.place(id), Some(Place::at(500)));
    }

    #[test]
    fn past_the_limit_of_streams_lines_go_to_the_base_labels_of_their_source() {
        let mut rig = rig(1 << 20, 1, 64);
        let id = rig.batcher.add_source(position(), Arc::from([0usize]));
        let now = Instant::now();
        let base = StreamLabels::new([("job".to_owned(), "j".to_owned())]);
        for n in 0..120u64 {
            let pairs = [("file".to_owned(), n.to_string())];
            let labels = StreamLabels::with_base(pairs, base.clone());
            let record = Record { timestamp_ns: 1, line: b"x", labels: &labels, metadata: &[] };
            let places = (Place::at(n), Place::at(n + 1));
            rig.batcher.append(id, places.0, places.1, &record, now).unwrap();
        }
        rig.batcher.drain();
        let (mut streams, mut to_base) = (std::collections::BTreeSet::new(), 0);
        while let Ok(queued) = rig.shards[0].try_recv() {
            for span in &queued.batch.streams {
                streams.insert(span.labels.text().to_owned());
                to_base += if span.labels == base { span.entries } else { 0 };
            }
        }
        assert_eq!((streams.len(), to_base), (101, 20), "{streams:?}");
    }

    #[test]
    fn a_batch_is_sealed_by_age_and_a_source_may_leave_before_that() {
        let mut rig = rig(1 << 20, 1, 64);
        let id = rig.batcher.add_source(position(), Arc::from([0usize]));
        let start = Instant::now();
        feed(&mut rig, id, 0, 3, start);
        assert_eq!(rig.batcher.tick(start), Some(start + Duration::from_secs(1)));
        rig.batcher.remove_source(id, true);
        assert!(rig.deliver().is_empty());
        rig.batcher.tick(start + Duration::from_secs(1));
        rig.events();
        assert_eq!(rig.marks.outstanding_batches(), 1);
        assert_eq!(rig.deliver().len(), 3);
        rig.batcher.tick(start + Duration::from_secs(1));
        rig.events();
        assert_eq!(rig.marks.sources(), 0);
    }
}
