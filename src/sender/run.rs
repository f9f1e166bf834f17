//! The thread body of a sender.

use std::sync::Arc;
use std::time::Instant;

use super::{Destination, Moment, Step};
use crate::ack::AckPort;
use crate::clock::Clock;
use crate::daemon::{Beat, Stop, Waits};
use crate::limits;
use crate::queue::{QueuedBatch, ShardInbox, SinkBudget};

/// What the thread works with.
pub struct ShardSender {
    pub shard: usize,
    pub inbox: ShardInbox,
    pub budget: Arc<SinkBudget>,
    pub ack: AckPort,
    pub destination: Box<dyn Destination>,
    pub clock: Arc<dyn Clock>,
    pub stop: Stop,
}

/// What became of one turn of [`ShardSender::attend`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attended {
    /// The batch's outcome is reported.
    Settled,
    /// To be attended again at once.
    Again,
    /// To be attended again then.
    Later(Instant),
    /// The drain is over; the batch stays unacknowledged.
    GivenUp,
}

/// Runs until the lanes have dropped the queue and it is empty, or a stop's deadline passes.
pub fn run(mut sender: ShardSender, beat: &Beat) {
    while let Some(queued) = sender.take(beat) {
        loop {
            // A request has its own timeouts: slow peers are no stall of ours.
            beat.waits(Waits::Peer);
            let attended = sender.attend(&queued);
            beat.busy();
            match attended {
                Attended::Settled => break,
                Attended::Again => {}
                Attended::Later(until) => sender.wait(until, beat),
                Attended::GivenUp => return,
            }
        }
    }
}

impl ShardSender {
    /// The next batch; None when there will be none. Without a deadline, also in a stop: lanes
    /// drop the queue by its deadline, and a sender without a batch holds nothing.
    fn take(&self, beat: &Beat) -> Option<QueuedBatch> {
        beat.waits(Waits::Batches);
        let received = self.inbox.recv();
        beat.busy();
        received.ok()
    }

    /// One attempt at a batch; reports its outcome when there is one.
    pub fn attend(&mut self, queued: &QueuedBatch) -> Attended {
        let now = self.clock.now();
        if self.stop.overdue(now) {
            return Attended::GivenUp;
        }
        let moment = Moment { now, wall_ns: self.clock.wall_ns(), stop_at: self.stop.deadline() };
        match self.destination.attempt(&queued.batch, moment) {
            Step::Again => Attended::Again,
            Step::Wait(until) => Attended::Later(until),
            Step::Done(outcome) => {
                let batch = &queued.batch;
                let settled = outcome.delivered + outcome.diverted;
                assert!(settled == batch.entries, "{outcome:?} of {} entries", batch.entries);
                // False when `ack` is gone: then nothing can be committed any more, and the
                // batch will be read again.
                let _ = self.ack.done(batch.id, outcome);
                self.budget.release(self.shard, queued.cost_bytes);
                Attended::Settled
            }
        }
    }

    /// Waits for a batch's time. A stop that is asked for meanwhile makes it due at once.
    fn wait(&mut self, until: Instant, beat: &Beat) {
        let asked = self.stop.asked();
        // In a stop there is no time for long waits; an attempt more does no harm.
        let until = if asked { until.min(Instant::now() + limits::STOP_RETRY) } else { until };
        while Instant::now() < until && !self.stop.overdue(Instant::now()) {
            beat.waits(Waits::Retry);
            self.stop.wait_until(until);
            beat.busy();
            if self.stop.asked() && !asked {
                self.destination.hurry();
                return;
            }
        }
        if asked {
            self.destination.hurry();
        }
    }
}
