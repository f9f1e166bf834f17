//! The stop: asked for once, seen by every thread, with a deadline for draining.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Instant;

/// Shared by all threads. Asked for by `main` alone.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    asked: AtomicBool,
    deadline: OnceLock<Instant>,
    /// Held while `asked` is set, so that no waiter misses it.
    gate: Mutex<()>,
    changed: Condvar,
}

impl Stop {
    /// Asks every thread to end by `deadline`. The first call counts.
    pub fn ask(&self, deadline: Instant) {
        let _ = self.0.deadline.set(deadline);
        let _gate = self.0.gate.lock().unwrap_or_else(|e| e.into_inner());
        self.0.asked.store(true, Ordering::Release);
        self.0.changed.notify_all();
    }

    pub fn asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// When draining ends; None until a stop is asked for.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get().copied()
    }

    /// Waits until `until`; shorter when a stop is asked for meanwhile, and never past its
    /// deadline.
    pub fn wait_until(&self, until: Instant) {
        let mut gate = self.0.gate.lock().unwrap_or_else(|e| e.into_inner());
        let asked_before = self.asked();
        loop {
            let until = self.deadline().map_or(until, |d| d.min(until));
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.asked() != asked_before {
                return;
            }
            gate = self.0.changed.wait_timeout(gate, left).unwrap_or_else(|e| e.into_inner()).0;
        }
    }

    /// Whether the time for draining is over.
    pub fn overdue(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|d| now >= d)
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // Test threads are scoped.
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_wait_ends_when_a_stop_is_asked_for_and_never_passes_its_deadline() {
        let stop = Stop::default();
        stop.wait_until(Instant::now() + Duration::from_millis(1));
        let far = Instant::now() + Duration::from_secs(60);
        let waiter = stop.clone();
        std::thread::scope(|scope| {
            let wait = scope.spawn(move || waiter.wait_until(far));
            stop.ask(Instant::now() + Duration::from_millis(20));
            assert!(wait.join().is_ok());
        });
        stop.wait_until(far);
        assert!(stop.overdue(Instant::now()) && Instant::now() < far);
    }
}
