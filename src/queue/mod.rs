//! The queue between lanes and senders: one FIFO per shard, one byte budget per sink.
//!
//! Memory only so far. A lane offers and never waits; a sender takes and gives the budget
//! back when the batch's outcome is known. One batch per shard always fits, whatever the
//! budget, so that a small budget slows and never blocks for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, Sender, TrySendError};

use crate::batch::SealedBatch;

/// Wakes a lane that waits for room; must neither block nor fail.
#[derive(Clone)]
pub struct Waker(Arc<dyn Fn() + Send + Sync>);

impl Waker {
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    pub fn wake(&self) {
        (self.0)();
    }
}

/// The part of a sink's queue that both sides share: what is held, who waits.
pub struct SinkBudget {
    memory_max_bytes: usize,
    used_bytes: AtomicUsize,
    shards: Vec<ShardState>,
    wakers: Vec<Waker>,
}

#[derive(Default)]
struct ShardState {
    /// Batches queued or in flight.
    held: AtomicUsize,
    /// A lane found the shard full and wants to be woken.
    wanted: AtomicBool,
}

impl SinkBudget {
    pub fn new(memory_max_bytes: usize, shards: usize, wakers: Vec<Waker>) -> Arc<Self> {
        let shards = (0..shards).map(|_| ShardState::default()).collect();
        Arc::new(Self { memory_max_bytes, used_bytes: AtomicUsize::new(0), shards, wakers })
    }

    /// Bytes held by batches queued or in flight.
    pub fn used_bytes(&self) -> usize {
        self.used_bytes.load(Ordering::Relaxed)
    }

    pub fn memory_max_bytes(&self) -> usize {
        self.memory_max_bytes
    }

    /// Batches queued or in flight, all shards together.
    pub fn held_batches(&self) -> usize {
        self.shards.iter().map(|s| s.held.load(Ordering::Relaxed)).sum()
    }

    fn try_take(&self, shard: usize, cost: usize) -> bool {
        let state = &self.shards[shard];
        let first = state.held.fetch_add(1, Ordering::SeqCst) == 0;
        let used = self.used_bytes.fetch_add(cost, Ordering::SeqCst);
        if first || used + cost <= self.memory_max_bytes {
            return true;
        }
        self.untake(shard, cost);
        false
    }

    fn untake(&self, shard: usize, cost: usize) {
        self.used_bytes.fetch_sub(cost, Ordering::SeqCst);
        self.shards[shard].held.fetch_sub(1, Ordering::SeqCst);
    }

    /// Gives back what a batch cost, once its outcome is known, and wakes waiting lanes.
    pub fn release(&self, shard: usize, cost: usize) {
        self.untake(shard, cost);
        let mut wake = false;
        for state in &self.shards {
            wake |= state.wanted.swap(false, Ordering::SeqCst);
        }
        if wake {
            self.wakers.iter().for_each(Waker::wake);
        }
    }
}

/// The lanes' end of a sink's queue.
#[derive(Clone)]
pub struct SinkQueue {
    budget: Arc<SinkBudget>,
    shards: Vec<Sender<QueuedBatch>>,
}

/// A batch in the queue with what it costs the budget.
pub struct QueuedBatch {
    pub batch: SealedBatch,
    pub cost_bytes: usize,
}

/// The sender's end: one shard.
pub type ShardInbox = Receiver<QueuedBatch>;

impl SinkQueue {
    pub fn new(budget: Arc<SinkBudget>, shards: Vec<Sender<QueuedBatch>>) -> Self {
        assert!(budget.shards.len() == shards.len(), "one channel a shard");
        Self { budget, shards }
    }

    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    pub fn budget(&self) -> &Arc<SinkBudget> {
        &self.budget
    }

    /// Takes the batch, or gives it back when there is no room; the lane is woken when there is.
    ///
    /// # Errors
    /// The batch itself.
    // The batch is the error: boxing it would allocate on the way of every refusal.
    #[allow(clippy::result_large_err)]
    pub fn offer(&self, batch: SealedBatch) -> Result<(), SealedBatch> {
        let batch = match self.offer_once(batch) {
            Ok(()) => return Ok(()),
            Err(batch) => batch,
        };
        // Asked for before the second try, so that room made in between is not missed.
        self.budget.shards[batch.shard].wanted.store(true, Ordering::SeqCst);
        self.offer_once(batch)
    }

    #[allow(clippy::result_large_err)]
    fn offer_once(&self, batch: SealedBatch) -> Result<(), SealedBatch> {
        let (shard, cost_bytes) = (batch.shard, batch.cost_bytes());
        if !self.budget.try_take(shard, cost_bytes) {
            return Err(batch);
        }
        match self.shards[shard].try_send(QueuedBatch { batch, cost_bytes }) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(q) | TrySendError::Disconnected(q)) => {
                self.budget.untake(shard, cost_bytes);
                Err(q.batch)
            }
        }
    }
}
