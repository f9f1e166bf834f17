//! Heartbeats: each thread says whether it works or waits, and for what.
//!
//! Only a busy thread with an old beat is stalled; a waiting one never is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a thread is about to block on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Waits {
    /// Not waiting: working.
    Busy = 0,
    /// Events, requests or a deadline.
    Events = 1,
    /// A batch to send.
    Batches = 2,
    /// A peer's answer, within its timeout.
    Peer = 3,
    /// Room in a channel.
    Room = 4,
    /// A retry's time.
    Retry = 5,
    /// The thread has ended.
    Ended = 6,
}

impl Waits {
    const ALL: [Self; 7] =
        [Self::Busy, Self::Events, Self::Batches, Self::Peer, Self::Room, Self::Retry, Self::Ended];

    /// For `/health` and the state dump.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Busy => "busy",
            Self::Events => "waiting for events",
            Self::Batches => "waiting for batches",
            Self::Peer => "waiting for a peer",
            Self::Room => "waiting for room",
            Self::Retry => "waiting for a retry",
            Self::Ended => "ended",
        }
    }
}

struct Cell {
    start: Instant,
    state: AtomicU8,
    at_ms: AtomicU64,
}

/// A thread's own heartbeat; clones share it.
#[derive(Clone)]
pub struct Beat(Arc<Cell>);

impl Default for Beat {
    fn default() -> Self {
        Self::new()
    }
}

impl Beat {
    pub fn new() -> Self {
        let cell =
            Cell { start: Instant::now(), state: AtomicU8::new(0), at_ms: AtomicU64::new(0) };
        Self(Arc::new(cell))
    }

    fn mark(&self, waits: Waits) {
        self.0.at_ms.store(self.0.start.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.0.state.store(waits as u8, Ordering::Relaxed);
        #[cfg(feature = "test-hooks")]
        self.stall_if_asked(waits);
    }

    #[cfg(feature = "test-hooks")]
    fn stall_if_asked(&self, waits: Waits) {
        if waits != Waits::Ended {
            self.0.state.store(Waits::Busy as u8, Ordering::Relaxed);
            super::test_hooks::stall_if_named();
            self.0.state.store(waits as u8, Ordering::Relaxed);
        }
    }

    /// Working, and alive now.
    pub fn busy(&self) {
        self.mark(Waits::Busy);
    }

    /// About to block. Call [`Self::busy`] afterwards.
    pub fn waits(&self, waits: Waits) {
        self.mark(waits);
    }

    /// What the thread does, and for how long it has.
    pub fn state(&self) -> (Waits, Duration) {
        let state = self.0.state.load(Ordering::Relaxed);
        let at = Duration::from_millis(self.0.at_ms.load(Ordering::Relaxed));
        (Waits::ALL[state as usize], self.0.start.elapsed().saturating_sub(at))
    }
}
