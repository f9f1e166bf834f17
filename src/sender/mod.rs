//! Senders: each takes the sealed batches of one shard in order and sees each to its outcome.
//!
//! A [`Destination`] (see `sink/`) makes one attempt at a time and says when the next is due;
//! the loop here ([`run`], thread `send-<sink>-N`) waits, reports the outcome to `ack` and
//! gives the batch's room in the queue back. Nothing is dropped here: what a stop leaves
//! unfinished stays unacknowledged and is read again.
//!
//! `verdict`, `refusal`, `part`, `delivery`, `backoff` are pure; `http`, `transport`, `tls`,
//! `resolver` are the way out.

pub mod backoff;
pub mod delivery;
pub mod http;
pub mod part;
pub mod refusal;
pub mod resolver;
mod run;
mod state;
pub mod tls;
pub mod transport;
pub mod verdict;

use std::time::Instant;

pub use run::{Attended, ShardSender, run};
pub use state::SinkState;

use crate::ack::Outcome;
use crate::batch::SealedBatch;

/// When an attempt is made, and how long it may take.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub now: Instant,
    /// Wall time.
    pub wall_ns: i64,
    /// The end of the drain, once a stop was asked for: no attempt lasts beyond it.
    pub stop_at: Option<Instant>,
}

/// What an attempt came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every entry is delivered or in dead letters, and counted.
    Done(Outcome),
    /// Something is left that can be done at once.
    Again,
    /// Nothing to do before this time.
    Wait(Instant),
}

/// What differs between sinks: how a batch gets there. Lives on its sender's thread.
pub trait Destination: Send {
    /// Makes at most one request or write for `batch`. The same batch is given until
    /// [`Step::Done`]; then the next one.
    fn attempt(&mut self, batch: &SealedBatch, moment: Moment) -> Step;

    /// A stop was asked for: the next attempt need not wait for its time.
    fn hurry(&mut self);
}
