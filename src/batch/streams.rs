//! The limit on a sink's streams, shared by all lanes: it guards Loki from label sets that grow
//! without end.
//!
//! Below the limit every stream is taken and remembered. At the limit a new one is taken only in
//! the place of one that was quiet for [`limits::STREAM_QUIET`]; else its lines go to the base
//! labels of their source.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::limits;

/// See the module's head.
pub struct SinkStreams {
    max: usize,
    /// When each stream, by hash of its labels, was seen last in a new batch.
    seen: Mutex<Seen>,
    /// Whether the limit is reached, so that every stream has to be looked up.
    full: AtomicBool,
    said: AtomicBool,
}

#[derive(Default)]
struct Seen {
    last: HashMap<u64, Instant>,
    cleared: Option<Instant>,
}

impl SinkStreams {
    /// `max`: the sink's `streams_max`.
    pub fn new(max: usize) -> Self {
        Self {
            max,
            seen: Mutex::default(),
            full: AtomicBool::new(false),
            said: AtomicBool::new(false),
        }
    }

    /// Whether the limit is reached: [`Self::takes`] is to be asked.
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// A stream begins in a batch.
    pub fn note(&self, hash: u64, now: Instant) {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        seen.last.insert(hash, now);
        self.full.store(seen.last.len() >= self.max, Ordering::Relaxed);
    }

    /// Whether lines of this stream may be sent as they are.
    pub fn takes(&self, hash: u64, now: Instant) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(|e| e.into_inner());
        if seen.last.contains_key(&hash) || seen.last.len() < self.max {
            return true;
        }
        if seen.cleared.is_none_or(|at| now >= at + limits::STREAM_CLEAR_INTERVAL) {
            seen.cleared = Some(now);
            seen.last.retain(|_, last| now < *last + limits::STREAM_QUIET);
            self.full.store(seen.last.len() >= self.max, Ordering::Relaxed);
        }
        seen.last.len() < self.max
    }

    /// True the first time: one warning is enough.
    pub fn say_once(&self) -> bool {
        !self.said.swap(true, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn past_the_limit_only_known_streams_are_taken_until_some_were_quiet() {
        let streams = SinkStreams::new(2);
        let start = Instant::now();
        streams.note(1, start);
        assert!(!streams.is_full() && streams.takes(2, start));
        streams.note(2, start);
        assert!(streams.is_full());
        assert!(streams.takes(1, start) && !streams.takes(3, start));
        let later = start + limits::STREAM_QUIET;
        streams.note(2, later - Duration::from_secs(1));
        assert!(streams.takes(3, later));
        assert!(!streams.is_full());
    }
}
