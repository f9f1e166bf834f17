//! The watermark: out-of-order outcomes in, one contiguous place per source out.
//!
//! Pure, steppable without threads. A source's committed place is the smaller of what the
//! lane says it holds back (`low`) and the start of its earliest batch not yet done.

use std::collections::{BTreeSet, HashMap};

use super::position::{Identity, Position};
use super::{AckEvent, Outcome};
use crate::batch::{BatchId, SourceSpan};
use crate::limits;
use crate::record::{Place, SourceId};

struct Tracked {
    position: Position,
    low: Place,
    /// Start and name of each batch not yet done that holds records of this source.
    outstanding: BTreeSet<(u64, BatchId)>,
    forget: bool,
    dirty: bool,
}

/// All sources and all batches on their way.
#[derive(Default)]
pub struct Watermarks {
    sources: HashMap<SourceId, Tracked>,
    /// The life of each source that is followed now.
    living: HashMap<Key, SourceId>,
    batches: HashMap<BatchId, Vec<SourceSpan>>,
    /// Positions of an earlier run whose sources have not come back.
    kept: HashMap<Key, Position>,
    dirty: bool,
}

/// What makes two positions the same source's.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    File(String, u64, u64),
    Container(String, String),
}

fn key(identity: &Identity) -> Key {
    match identity {
        Identity::File(file) => Key::File(file.source.clone(), file.device, file.inode),
        Identity::Container(c) => Key::Container(c.source.clone(), c.id.clone()),
    }
}

impl Watermarks {
    /// Begins with the positions of an earlier run; each is kept until its source comes back
    /// or has been gone for too long.
    pub fn restored(positions: Vec<Position>, wall_ns: i64) -> Self {
        let kept = positions.into_iter().map(|mut position| {
            position.gone_since_ns.get_or_insert(wall_ns);
            (key(&position.identity), position)
        });
        Self { kept: kept.collect(), ..Self::default() }
    }

    /// Takes one event. `wall_ns` stamps sources that are gone.
    pub fn step(&mut self, event: AckEvent, wall_ns: i64) {
        match event {
            AckEvent::Register(id, position) => self.register(id, position),
            AckEvent::Identify(id, identity) => {
                if let Some(tracked) = self.sources.get_mut(&id) {
                    let (before, after) = (key(&tracked.position.identity), key(&identity));
                    if before != after {
                        if self.living.get(&before) == Some(&id) {
                            self.living.remove(&before);
                        }
                        self.living.insert(after, id);
                    }
                    self.dirty |= tracked.position.identity != identity;
                    tracked.position.identity = identity;
                    tracked.position.gone_since_ns = None;
                }
            }
            AckEvent::Sealed { batch, sources, lows } => self.sealed(batch, sources, lows),
            AckEvent::Lows(lows) => self.lows(lows),
            AckEvent::Done(batch, outcome) => self.done(batch, outcome),
            AckEvent::Gone(id) => {
                if let Some(tracked) = self.sources.get_mut(&id) {
                    tracked.position.gone_since_ns = Some(wall_ns);
                    self.dirty = true;
                }
            }
            AckEvent::Forget(id) => {
                if let Some(tracked) = self.sources.get_mut(&id) {
                    tracked.forget = true;
                    self.advance(id);
                }
            }
        }
    }

    fn register(&mut self, id: SourceId, mut position: Position) {
        position.gone_since_ns = None;
        let who = key(&position.identity);
        self.kept.remove(&who);
        // An earlier life of the same source: what it has on its way has its own start.
        if let Some(earlier) = self.living.insert(who, id) {
            self.sources.remove(&earlier);
        }
        let low = position.place;
        let tracked =
            Tracked { position, low, outstanding: BTreeSet::new(), forget: false, dirty: true };
        let before = self.sources.insert(id, tracked);
        assert!(before.is_none(), "source {id:?} registered twice");
        self.dirty = true;
    }

    fn sealed(&mut self, batch: BatchId, sources: Vec<SourceSpan>, lows: Vec<(SourceId, Place)>) {
        for span in &sources {
            if let Some(tracked) = self.sources.get_mut(&span.source) {
                tracked.outstanding.insert((span.start.offset, batch));
            }
        }
        let before = self.batches.insert(batch, sources);
        assert!(before.is_none(), "batch {batch:?} sealed twice");
        self.lows(lows);
    }

    fn lows(&mut self, lows: Vec<(SourceId, Place)>) {
        for (id, low) in lows {
            if let Some(tracked) = self.sources.get_mut(&id) {
                tracked.low = low;
                self.advance(id);
            }
        }
    }

    fn done(&mut self, batch: BatchId, outcome: Outcome) {
        let Some(spans) = self.batches.remove(&batch) else {
            // A batch of an optional sink is not announced.
            return;
        };
        log::trace!("batch {} done: {outcome:?}", batch.0);
        for span in &spans {
            if let Some(tracked) = self.sources.get_mut(&span.source) {
                let was = tracked.outstanding.remove(&(span.start.offset, batch));
                assert!(was, "batch {batch:?} was not outstanding for {:?}", span.source);
            }
        }
        for span in spans {
            self.advance(span.source);
        }
    }

    fn advance(&mut self, id: SourceId) {
        let Some(tracked) = self.sources.get_mut(&id) else { return };
        let mut place = tracked.low;
        if let Some(&(start, batch)) = tracked.outstanding.first()
            && start < place.offset
        {
            let spans = &self.batches[&batch];
            let span = spans.iter().find(|s| s.source == id);
            place = span.map_or(Place::at(start), |s| s.start);
        }
        if place != tracked.position.place && place.offset >= tracked.position.place.offset {
            tracked.position.place = place;
            tracked.dirty = true;
            self.dirty = true;
        }
        if tracked.forget && tracked.outstanding.is_empty() {
            let who = key(&tracked.position.identity);
            if self.living.get(&who) == Some(&id) {
                self.living.remove(&who);
            }
            self.sources.remove(&id);
            self.dirty = true;
        }
    }

    /// Whether anything changed since [`Self::snapshot`].
    pub fn dirty(&self) -> bool {
        self.dirty
    }

    /// What was snapshot could not be saved.
    pub fn mark_dirty(&mut self) {
        self.dirty = true;
    }

    /// All positions, for the positions file, and marks them clean. Sources gone for longer
    /// than `forget_after_ns` with nothing outstanding are forgotten.
    pub fn snapshot(&mut self, wall_ns: i64, forget_after_ns: i64) -> Vec<Position> {
        let old = |p: &Position| p.gone_since_ns.is_some_and(|at| wall_ns - at > forget_after_ns);
        let sources = &mut self.sources;
        sources.retain(|_, t| !(old(&t.position) && t.outstanding.is_empty()));
        self.living.retain(|_, id| sources.contains_key(id));
        self.kept.retain(|_, p| !old(p));
        self.dirty = false;
        let room = limits::POSITIONS_MAX.saturating_sub(self.sources.len());
        let kept = self.kept.values().take(room);
        self.sources.values().map(|t| &t.position).chain(kept).cloned().collect()
    }

    /// The committed place of a source.
    pub fn place(&self, id: SourceId) -> Option<Place> {
        self.sources.get(&id).map(|t| t.position.place)
    }

    /// Batches announced and not yet done.
    pub fn outstanding_batches(&self) -> usize {
        self.batches.len()
    }

    pub fn sources(&self) -> usize {
        self.sources.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::super::{FileIdentity, Fingerprint};
    use super::*;

    fn position(inode: u64, offset: u64) -> Position {
        let identity = Identity::File(FileIdentity {
            source: "s".into(),
            path: "/x".into(),
            device: 1,
            inode,
            fingerprint: Fingerprint::default(),
            container: None,
        });
        Position { identity, place: Place::at(offset), gone_since_ns: None }
    }

    fn sealed(batch: u64, source: u32, start: u64, low: u64) -> AckEvent {
        let source = SourceId(source);
        AckEvent::Sealed {
            batch: BatchId(batch),
            sources: vec![SourceSpan { source, start: Place::at(start), entries: 1 }],
            lows: vec![(source, Place::at(low))],
        }
    }

    #[test]
    fn the_place_waits_for_the_earliest_batch() {
        let mut w = Watermarks::default();
        let id = SourceId(0);
        w.step(AckEvent::Register(id, position(1, 100)), 0);
        w.step(sealed(1, 0, 100, 200), 0);
        w.step(sealed(2, 0, 200, 300), 0);
        w.step(AckEvent::Done(BatchId(2), Outcome::default()), 0);
        assert_eq!(w.place(id), Some(Place::at(100)));
        w.step(AckEvent::Done(BatchId(1), Outcome::default()), 0);
        assert_eq!(w.place(id), Some(Place::at(300)));
    }

    #[test]
    fn a_source_that_left_is_forgotten_only_when_all_of_it_is_done() {
        let mut w = Watermarks::default();
        w.step(AckEvent::Register(SourceId(0), position(1, 0)), 0);
        w.step(sealed(1, 0, 0, 10), 0);
        w.step(AckEvent::Forget(SourceId(0)), 0);
        assert_eq!(w.snapshot(0, 1).len(), 1);
        w.step(AckEvent::Done(BatchId(1), Outcome::default()), 0);
        assert_eq!(w.snapshot(0, 1).len(), 0);
    }

    #[test]
    fn positions_of_an_earlier_run_stay_until_their_source_is_gone_for_long() {
        let mut w = Watermarks::restored(vec![position(1, 5), position(2, 6)], 1_000);
        w.step(AckEvent::Register(SourceId(0), position(1, 5)), 1_000);
        assert_eq!(w.snapshot(1_100, 500).len(), 2);
        assert_eq!(w.snapshot(1_501, 500), [position(1, 5)]);
    }

    proptest! {
        /// Model: every record is a number; a batch holds some of them; the place is the first
        /// record that is not done, or the end of what was read.
        #[test]
        fn the_place_never_passes_a_record_that_is_not_done(
            steps in proptest::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..120)
        ) {
            let id = SourceId(0);
            let mut w = Watermarks::default();
            w.step(AckEvent::Register(id, position(1, 0)), 0);
            let (mut read, mut batches) = (0u64, 0u64);
            let mut open: [Vec<u64>; 2] = Default::default();
            let mut flying: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
            for (step, index) in steps {
                match step {
                    0 | 1 => {
                        open[usize::from(step)].push(read);
                        read += 1;
                    }
                    2 => {
                        let records = std::mem::take(&mut open[index.index(2)]);
                        let rest = open.iter().flatten().min().copied().unwrap_or(read);
                        if let Some(&first) = records.first() {
                            batches += 1;
                            w.step(sealed(batches, 0, first, rest), 0);
                            flying.insert(batches, records);
                        }
                    }
                    _ if !flying.is_empty() => {
                        let batch = *flying.keys().nth(index.index(flying.len())).unwrap();
                        flying.remove(&batch);
                        w.step(AckEvent::Done(BatchId(batch), Outcome::default()), 0);
                    }
                    _ => {}
                }
                let undone = open.iter().flatten().chain(flying.values().flatten()).min();
                let place = w.place(id).unwrap().offset;
                prop_assert!(place <= undone.copied().unwrap_or(read));
            }
            let rest: Vec<u64> = open.into_iter().flatten().collect();
            if let Some(&first) = rest.iter().min() {
                batches += 1;
                w.step(sealed(batches, 0, first, read), 0);
                flying.insert(batches, rest);
            }
            for batch in flying.into_keys() {
                w.step(AckEvent::Done(BatchId(batch), Outcome::default()), 0);
            }
            prop_assert_eq!(w.place(id), Some(Place::at(if batches == 0 { 0 } else { read })));
        }
    }
}
