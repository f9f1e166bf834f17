//! What lanes and senders say to `ack`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam_channel::{Sender, TrySendError};

use super::Position;
use super::position::Identity;
use crate::batch::{BatchId, SourceSpan};
use crate::record::{Place, SourceId};

/// What became of a batch. Every record of it is accounted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Records that the sink acknowledged.
    pub delivered: u32,
    /// Records in dead letters, synced.
    pub diverted: u32,
}

/// Everything `ack` is told, in the order in which it happened.
#[derive(Debug)]
pub enum AckEvent {
    /// A lane begins to follow a source at a place.
    Register(SourceId, Position),
    /// A source's name, fingerprint or the like changed.
    Identify(SourceId, Identity),
    /// A batch was closed; sent before the batch is. `lows`: for each of its sources, the
    /// place before which the lane holds no record that is not in an announced batch.
    Sealed { batch: BatchId, sources: Vec<SourceSpan>, lows: Vec<(SourceId, Place)> },
    /// The same lows without a batch: lines were read that no batch holds.
    Lows(Vec<(SourceId, Place)>),
    /// A batch needs no more care.
    Done(BatchId, Outcome),
    /// The source is gone; its position is kept for some days, then forgotten.
    Gone(SourceId),
    /// The source's position is forgotten once all of it is acknowledged.
    Forget(SourceId),
}

/// The way to `ack`, for lanes and senders.
#[derive(Clone)]
pub struct AckPort {
    inbox: Sender<AckEvent>,
    next_source: Arc<AtomicU32>,
}

impl AckPort {
    pub fn new(inbox: Sender<AckEvent>) -> Self {
        Self { inbox, next_source: Arc::default() }
    }

    /// A name for a source, unique in this run.
    pub fn next_source(&self) -> SourceId {
        SourceId(self.next_source.fetch_add(1, Ordering::Relaxed))
    }

    /// For lanes: never waits.
    ///
    /// # Errors
    /// The event itself when the inbox is full or `ack` is gone.
    // The event is the error, to be offered again.
    #[allow(clippy::result_large_err)]
    pub fn try_send(&self, event: AckEvent) -> Result<(), AckEvent> {
        self.inbox.try_send(event).map_err(|e| match e {
            TrySendError::Full(event) | TrySendError::Disconnected(event) => event,
        })
    }

    /// Makes `ack` look at the stop. A full inbox needs no further wake-up.
    pub fn wake(&self) {
        let _ = self.inbox.try_send(AckEvent::Lows(Vec::new()));
    }

    /// For senders: waits for room. False when `ack` is gone.
    pub fn done(&self, batch: BatchId, outcome: Outcome) -> bool {
        self.inbox.send(AckEvent::Done(batch, outcome)).is_ok()
    }
}
