//! Waiting for a state instead of sleeping for a time.
//!
//! A test names what it waits for and how long at most. The deadline is there to end a test that
//! hangs, never to measure: choose it ten times larger than what a slow machine needs.

use std::time::{Duration, Instant};

/// Pause between two probes.
const STEP: Duration = Duration::from_millis(10);

/// Calls `probe` every 10 ms until it returns something; panics with `what` after `deadline`.
#[track_caller]
pub fn wait_for<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(begun.elapsed() < deadline, "waited {deadline:?} in vain for: {what}");
        std::thread::sleep(STEP);
    }
}

/// Calls `probe` every 10 ms until it is true; panics with `what` after `deadline`.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut probe: impl FnMut() -> bool) {
    wait_for(deadline, what, || probe().then_some(()));
}
