//! The stop: asked for once, seen by every thread, with a deadline for draining.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Shared by all threads. Asked for by `main` alone.
#[derive(Clone, Default)]
pub struct Stop(Arc<Inner>);

#[derive(Default)]
struct Inner {
    asked: AtomicBool,
    deadline: OnceLock<Instant>,
}

impl Stop {
    /// Asks every thread to end by `deadline`. The first call counts.
    pub fn ask(&self, deadline: Instant) {
        let _ = self.0.deadline.set(deadline);
        self.0.asked.store(true, Ordering::Release);
    }

    pub fn asked(&self) -> bool {
        self.0.asked.load(Ordering::Acquire)
    }

    /// When draining ends; None until a stop is asked for.
    pub fn deadline(&self) -> Option<Instant> {
        self.0.deadline.get().copied()
    }

    /// Whether the time for draining is over.
    pub fn overdue(&self, now: Instant) -> bool {
        self.deadline().is_some_and(|d| now >= d)
    }
}
