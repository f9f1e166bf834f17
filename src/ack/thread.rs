//! The thread `ack`: feeds the watermarks and saves the positions file.

use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::{AckEvent, PositionsFile, Watermarks};
use crate::clock::Clock;
use crate::daemon::{Beat, Stop, Waits};
use crate::disk::Disk;
use crate::health::{HealthBoard, Level};
use crate::limits;
use crate::metrics::Metrics;

/// What the thread works with.
pub struct Ack {
    pub inbox: Receiver<AckEvent>,
    pub file: PositionsFile,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub health: Arc<HealthBoard>,
    pub metrics: Arc<Metrics>,
    /// With the positions of the run before.
    pub watermarks: Watermarks,
    pub stop: Stop,
}

/// Runs until every lane and sender has dropped its port, or a stop is overdue; then saves once
/// more.
pub fn run(mut ack: Ack, beat: &Beat) {
    let mut save_due: Option<Instant> = None;
    let mut soonest = ack.clock.now();
    loop {
        let due = [save_due, ack.stop.deadline()].into_iter().flatten().min();
        beat.waits(Waits::Events);
        // Nothing due: `main` wakes us when it asks for a stop.
        let event = match due {
            Some(due) => ack.inbox.recv_deadline(due),
            None => ack.inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        beat.busy();
        let ended = match event {
            Ok(event) => {
                if matches!(event, AckEvent::Register(..)) {
                    // A file renamed before its position is on disk would not be known again.
                    let due = soonest.max(ack.clock.now() + limits::REGISTER_SAVE_DELAY);
                    save_due = Some(save_due.map_or(due, |d| d.min(due)));
                }
                let wall_ns = ack.clock.wall_ns();
                ack.watermarks.step(event, wall_ns);
                false
            }
            Err(RecvTimeoutError::Timeout) => ack.stop.overdue(ack.clock.now()),
            Err(RecvTimeoutError::Disconnected) => true,
        };
        if ack.watermarks.dirty() && save_due.is_none() {
            save_due = Some(ack.clock.now() + limits::POSITIONS_INTERVAL);
        }
        if ended || save_due.is_some_and(|due| ack.clock.now() >= due) {
            let begun = ack.clock.now();
            let saved = save(&mut ack);
            let now = ack.clock.now();
            // Saving takes at most a tenth of the time, however many sources appear.
            soonest = now + 9 * (now - begun);
            save_due = (!saved).then(|| now + limits::POSITIONS_INTERVAL);
        }
        if ended {
            return;
        }
    }
}

/// Saves all positions; false when that failed, and is to be tried again.
fn save(ack: &mut Ack) -> bool {
    if !ack.watermarks.dirty() {
        return true;
    }
    let forget_ns = limits::FORGET_AFTER.as_nanos() as i64;
    let positions = ack.watermarks.snapshot(ack.clock.wall_ns(), forget_ns);
    match ack.file.save(&*ack.disk, &positions) {
        Ok(()) => {
            if ack.health.ok("positions", "file") {
                log::debug!("{} positions saved", positions.len());
            }
            true
        }
        Err(e) => {
            ack.watermarks.mark_dirty();
            ack.metrics.error("positions", "save");
            if ack.health.set("positions", "file", Level::Degraded, &e.to_string()) {
                log::error!("{e}; positions stay in memory, saving again every second");
            }
            false
        }
    }
}
