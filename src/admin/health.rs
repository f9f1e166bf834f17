//! `/health`: the board, the threads and the queues as JSON, 503 when something is unhealthy.
//!
//! `services.goroutine_tracker` repeats `services.thread_tracker` under the name, and with the
//! keys, that people coming from log_capturer_go have in their scripts.

use serde_json::{Value, json};

use super::figures::{Conditions, Figures, word, worst};
use super::http::{Answer, Status};
use crate::daemon::auditor::Audit;
use crate::health::Level;

/// The answer to `GET /health`.
pub fn answer(figures: &Figures) -> Answer {
    let (audit, conditions) = figures.look();
    let level = worst(&conditions);
    let status = if level == Level::Unhealthy { Status::UNAVAILABLE } else { Status::OK };
    Answer::json(status, &body(figures, &audit, &conditions))
}

fn body(figures: &Figures, audit: &Audit, conditions: &Conditions) -> Value {
    let tracker = json!({ "status": word(audit.level()), "stats": stats(audit) });
    json!({
        "status": word(worst(conditions)),
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": figures.started.elapsed().as_secs(),
        "ready": figures.is_ready(),
        "stopping": figures.stop.asked(),
        "reasons": reasons(conditions),
        "components": components(conditions),
        "sinks": sinks(figures),
        "services": { "thread_tracker": tracker.clone(), "goroutine_tracker": tracker },
    })
}

/// One text for everything that is not well.
pub fn reasons(conditions: &Conditions) -> Vec<String> {
    let ill = conditions.iter().filter(|(_, c)| c.level != Level::Healthy);
    ill.map(|((kind, name), c)| format!("{kind} {name}: {}", c.reason)).collect()
}

fn components(conditions: &Conditions) -> Vec<Value> {
    let all = conditions.iter();
    all.map(|((kind, name), c)| {
        json!({ "type": kind, "name": name, "status": word(c.level), "reason": c.reason })
    })
    .collect()
}

fn sinks(figures: &Figures) -> Vec<Value> {
    let all = figures.sinks.iter();
    all.map(|(name, budget)| {
        json!({
            "name": name,
            "queue_used_bytes": budget.used_bytes(),
            "queue_max_bytes": budget.memory_max_bytes(),
            "queue_batches": budget.held_batches(),
        })
    })
    .collect()
}

fn stats(audit: &Audit) -> Value {
    let threads: Vec<Value> = audit
        .threads
        .iter()
        .map(|t| {
            let seconds = t.since.as_millis() as f64 / 1000.0;
            json!({ "name": t.name, "state": t.state.as_str(), "since_seconds": seconds })
        })
        .collect();
    json!({
        "status": word(audit.level()),
        "current_threads": audit.running,
        "expected_threads": audit.expected,
        "current_goroutines": audit.running,
        "baseline_goroutines": audit.expected,
        "unknown": audit.unknown,
        "missing": audit.missing,
        "stalled": audit.stalled,
        "threads": threads,
    })
}
