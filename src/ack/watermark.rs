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
        self.sources.retain(|_, t| key(&t.position.identity) != who);
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
        self.sources.retain(|_, t| !(old(&t.position) && t.outstanding.is_empty()));
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
