//! What admin shows besides the counters: sampled when somebody asks, on the asker's thread.
//!
//! Reads what other threads own through their shared handles; owns nothing itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::daemon::Stop;
use crate::daemon::auditor::{Audit, Auditor};
use crate::health::{Condition, HealthBoard, Level};
use crate::metrics::Metrics;
use crate::queue::SinkBudget;

/// A queue whose length is a metric (`log_capturer_queue_size`).
pub struct QueueGauge {
    /// Who takes from it: `ack`, `file-0`.
    pub component: String,
    /// What it holds: `events`, `batches`.
    pub queue_type: String,
    /// Items now. Must not block.
    pub len: Box<dyn Fn() -> usize + Send + Sync>,
}

/// Handles on everything that can be looked at.
pub struct Figures {
    pub metrics: Arc<Metrics>,
    pub health: Arc<HealthBoard>,
    pub auditor: Arc<Auditor>,
    /// Name and memory queue of each sink.
    pub sinks: Vec<(String, Arc<SinkBudget>)>,
    pub queues: Vec<QueueGauge>,
    /// Set once everything is started.
    pub ready: Arc<AtomicBool>,
    pub stop: Stop,
    pub started: Instant,
}

/// The components of the board and those that say nothing because they are well.
pub type Conditions = BTreeMap<(String, String), Condition>;

impl Figures {
    /// Writes threads, components and queues to our own log, a line each.
    pub fn log_state(&self) {
        let (audit, conditions) = self.look();
        let level = word(worst(&conditions));
        log::info!("state: {level}, {} of {} threads", audit.running, audit.expected);
        for thread in &audit.threads {
            log::info!(
                "state: thread {} {} for {} s",
                thread.name,
                thread.state.as_str(),
                thread.since.as_secs()
            );
        }
        for ((kind, name), condition) in &conditions {
            if kind != "thread" || !condition.reason.is_empty() {
                log::info!("state: {kind} {name} {} {}", word(condition.level), condition.reason);
            }
        }
        for (name, budget) in &self.sinks {
            log::info!(
                "state: queue of {name}: {} batches, {} of {} bytes",
                budget.held_batches(),
                budget.used_bytes(),
                budget.memory_max_bytes()
            );
        }
        for queue in &self.queues {
            log::info!(
                "state: {} {} waiting: {}",
                queue.component,
                queue.queue_type,
                (queue.len)()
            );
        }
    }

    /// Whether `/ready` says yes: started, and no stop asked for.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.stop.asked()
    }

    /// Audits the threads and lists every component.
    pub fn look(&self) -> (Audit, Conditions) {
        let audit = self.auditor.audit();
        let mut all = self.health.all();
        let threads = audit.threads.iter().map(|t| ("thread", t.name.as_str()));
        let sinks = self.sinks.iter().map(|(name, _)| ("sink", name.as_str()));
        for (kind, name) in threads.chain(sinks) {
            all.entry((kind.to_owned(), name.to_owned()))
                .or_insert_with(|| Condition { level: Level::Healthy, reason: String::new() });
        }
        (audit, all)
    }

    /// Sets every sampled metric and renders them all.
    pub fn render_metrics(&self) -> String {
        let (audit, conditions) = self.look();
        let m = &self.metrics;
        m.set_threads(audit.running, audit.expected);
        for (name, budget) in &self.sinks {
            m.set_queue_size(name, "batches", budget.held_batches());
            m.set_sink_queue(name, budget.used_bytes(), budget.memory_max_bytes());
        }
        for queue in &self.queues {
            m.set_queue_size(&queue.component, &queue.queue_type, (queue.len)());
        }
        let levels = conditions.iter();
        m.set_component_health(levels.map(|((kind, name), c)| (&**kind, &**name, c.level)));
        m.render()
    }
}

/// The worst of all conditions.
pub fn worst(conditions: &Conditions) -> Level {
    conditions.values().map(|c| c.level).max().unwrap_or(Level::Healthy)
}

/// A level in JSON and on the page.
pub fn word(level: Level) -> &'static str {
    match level {
        Level::Healthy => "healthy",
        Level::Degraded => "degraded",
        Level::Unhealthy => "unhealthy",
    }
}
