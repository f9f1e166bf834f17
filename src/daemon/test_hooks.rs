//! Faults on demand, for tests of the auditor; compiled only with the feature `test-hooks`.
//!
//! `LOG_CAPTURER_TEST_HOOK` holds `stall:<thread>` or `unknown-thread`, several parted by
//! commas. `LOG_CAPTURER_TEST_STALL_AFTER` shortens [`limits::STALL_AFTER`]. Hooks act once
//! `monitor` runs, so that the start is as always.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::limits;
use crate::units::parse_duration;

/// Name of the thread that `unknown-thread` makes.
pub const UNKNOWN_THREAD: &str = "intruder";

static ARMED: AtomicBool = AtomicBool::new(false);

fn hooks() -> &'static [String] {
    static HOOKS: OnceLock<Vec<String>> = OnceLock::new();
    HOOKS.get_or_init(|| {
        let text = std::env::var("LOG_CAPTURER_TEST_HOOK").unwrap_or_default();
        text.split(',').map(str::to_owned).collect()
    })
}

/// After how long a busy thread counts as stalled.
pub fn stall_after() -> Duration {
    let text = std::env::var("LOG_CAPTURER_TEST_STALL_AFTER").unwrap_or_default();
    parse_duration(&text).unwrap_or(limits::STALL_AFTER)
}

/// Called by `monitor` when it starts.
pub fn arm() {
    ARMED.store(true, Ordering::Release);
    if hooks().iter().any(|h| h == "unknown-thread") {
        start_unknown_thread();
    }
}

/// Starts a thread that no plan knows and that does nothing.
#[allow(clippy::disallowed_methods)]
pub fn start_unknown_thread() {
    let builder = std::thread::Builder::new().name(UNKNOWN_THREAD.to_owned());
    let started = builder.spawn(park_for_ever);
    assert!(started.is_ok(), "the hook's thread could not be started");
}

/// Called at every heartbeat: the named thread never comes back.
pub fn stall_if_named() {
    if !ARMED.load(Ordering::Acquire) {
        return;
    }
    let thread = std::thread::current();
    let Some(name) = thread.name() else { return };
    if hooks().iter().any(|h| h.strip_prefix("stall:") == Some(name)) {
        park_for_ever();
    }
}

fn park_for_ever() {
    loop {
        std::thread::park();
    }
}
