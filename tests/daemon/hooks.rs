//! Threads that misbehave on demand are named by `/health`. Needs the feature `test-hooks`.

use super::daemon_for;
use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::loki::LokiDouble;
use crate::support::wait::wait_until;

/// A running daemon with a hook and a short patience for busy threads.
fn daemon_with(double: &LokiDouble, hook: &str) -> Daemon {
    let mut daemon = daemon_for(double, "");
    daemon.environment("LOG_CAPTURER_TEST_HOOK", hook);
    daemon.environment("LOG_CAPTURER_TEST_STALL_AFTER", "500ms");
    daemon.launch();
    daemon
}

/// Waits until `/health` answers `status` and gives `name` in the tracker's list `list`.
fn expect_named(daemon: &Daemon, status: u16, list: &str, name: &str) {
    wait_until(PATIENCE, "the thread to be named", || {
        let Some((got, body)) = daemon.get("/health") else { return false };
        let health: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        let named = |tracker: &str| {
            let names = &health["services"][tracker]["stats"][list];
            names.as_array().is_some_and(|all| all.iter().any(|n| n == name))
        };
        got == status && named("thread_tracker") && named("goroutine_tracker")
    });
    assert!(daemon.log().contains(&format!("thread {name} is ")), "{}", daemon.log());
}

#[test]
fn a_stalled_thread_is_named_and_makes_health_unhealthy() {
    let double = LokiDouble::start();
    let mut daemon = daemon_with(&double, "stall:file-0");
    // Something to read, so that the lane beats again after the hooks are armed.
    std::fs::write(daemon.path("logs/a.log"), "a line\n").expect("a log");
    expect_named(&daemon, 503, "stalled", "file-0");
    daemon.kill();
}

#[test]
fn an_unknown_thread_is_named() {
    let double = LokiDouble::start();
    let mut daemon = daemon_with(&double, "unknown-thread");
    expect_named(&daemon, 200, "unknown", "intruder");
    daemon.kill();
}
