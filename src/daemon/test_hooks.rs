//! Faults on demand, for tests of the auditor; compiled only with the feature `test-hooks`.
//!
//! `LOG_CAPTURER_TEST_HOOK` holds `stall:<thread>` or `unknown-thread`, several parted by
//! commas. `LOG_CAPTURER_TEST_STALL_AFTER` shortens [`limits::STALL_AFTER`]. Hooks act once
//! `monitor` runs, so that the start is as always.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use crate::limits;
use crate::units::parse_duration;

/// Name of the thread that `unknown-thread` makes.
pub const UNKNOWN_THREAD: &str = "intruder";

static ARMED: AtomicBool = AtomicBool::new(false);

/// The hooks of the environment and those that a test added.
fn hooks() -> MutexGuard<'static, Vec<String>> {
    static HOOKS: OnceLock<Mutex<Vec<String>>> = OnceLock::new();
    let hooks = HOOKS.get_or_init(|| {
        let text = std::env::var("LOG_CAPTURER_TEST_HOOK").unwrap_or_default();
        Mutex::new(text.split(',').map(str::to_owned).collect())
    });
    hooks.lock().unwrap_or_else(|e| e.into_inner())
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
    let named = hooks().iter().any(|h| h.strip_prefix("stall:") == Some(name));
    if named {
        park_for_ever();
    }
}

fn park_for_ever() {
    loop {
        std::thread::park();
    }
}

#[cfg(test)]
mod tests {
    use super::super::auditor::Auditor;
    use super::super::{Registry, Stop, Waits};
    use super::*;
    use crate::health::{HealthBoard, Level};
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn the_auditor_names_a_stalled_and_an_unknown_thread() {
        hooks().push("stall:victim".to_owned());
        arm();
        start_unknown_thread();
        let registry = Arc::new(Registry::default());
        let health = Arc::new(HealthBoard::default());
        registry.spawn("victim", || {}, |beat| beat.waits(Waits::Events)).unwrap();
        registry.seal();
        let mut auditor = Auditor::new(registry, Vec::new(), 1, Stop::default(), health.clone());
        auditor.shorten_stall_after(Duration::from_millis(1));
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let audit = auditor.audit();
            let unknown = audit.unknown.iter().any(|name| name == UNKNOWN_THREAD);
            if unknown && audit.stalled == ["victim"] && auditor.any_stalled() {
                break;
            }
            assert!(Instant::now() < deadline, "{audit:?}");
            std::thread::yield_now();
        }
        let board = health.all();
        let level = |name: &str| board[&("thread".to_owned(), name.to_owned())].level;
        assert_eq!((level("victim"), level(UNKNOWN_THREAD)), (Level::Unhealthy, Level::Degraded));
    }
}
