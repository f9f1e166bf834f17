//! Counters and gauges: what every line came to, and how the daemon fares.
//!
//! Owned by all threads through one `Arc`; rendered by `admin`, which sets the sampled gauges
//! (threads, memory, descriptors, queues) just before. The books of the promise: for each
//! required sink, lines read = delivered + filtered + diverted + dropped + pending.

mod process;
mod text;

use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::config::Config;
use crate::health::Level;
pub use process::ProcessFigures;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceTypeLabel {
    pub source_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceLabel {
    pub source: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceReasonLabels {
    pub source: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SinkLabel {
    pub sink: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SinkStatusLabels {
    pub sink: String,
    pub status: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SinkReasonLabels {
    pub sink: String,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ErrorLabels {
    pub component: String,
    pub error_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct QueueLabels {
    pub component: String,
    pub queue_type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HealthLabels {
    pub component_type: String,
    pub component_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct TypeLabel {
    pub r#type: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct SourceWhatLabels {
    pub source: String,
    pub what: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct LaneLabel {
    pub lane: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct BuildLabels {
    pub version: String,
    pub target: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ReasonLabel {
    pub reason: String,
}

type U64Counter = Counter<u64, AtomicU64>;
type F64Gauge = Gauge<f64, AtomicU64>;
type I64Gauge = Gauge<i64, AtomicI64>;

/// All metrics that threads feed. Figures that are read on demand (memory, descriptors,
/// threads, queues) are sampled by `admin` when it renders.
pub struct Metrics {
    pub registry: Registry,
    logs_processed: Family<SourceTypeLabel, U64Counter>,
    lines_read: Family<SourceLabel, U64Counter>,
    bytes_read: Family<SourceLabel, U64Counter>,
    lines_filtered: Family<SourceReasonLabels, U64Counter>,
    logs_sent: Family<SinkStatusLabels, U64Counter>,
    lines_diverted: Family<SinkReasonLabels, U64Counter>,
    lines_dropped: Family<SinkReasonLabels, U64Counter>,
    lines_pending: Family<SinkLabel, Gauge>,
    errors: Family<ErrorLabels, U64Counter>,
    dead_letters_evicted: Family<ReasonLabel, U64Counter>,
    send_duration: Family<SinkLabel, Histogram>,
    invalid_utf8: Family<SourceLabel, U64Counter>,
    long_lines: Family<SourceWhatLabels, U64Counter>,
    damaged: Family<SourceWhatLabels, U64Counter>,
    bytes_at_risk: Family<LaneLabel, I64Gauge>,
    pub files_monitored: Gauge,
    pub containers_monitored: Gauge,
    sampled: Sampled,
}

/// Gauges that are set when somebody asks.
#[derive(Default)]
struct Sampled {
    threads: I64Gauge,
    threads_expected: I64Gauge,
    descriptors: I64Gauge,
    memory: Family<TypeLabel, I64Gauge>,
    queue_size: Family<QueueLabels, I64Gauge>,
    queue_bytes: Family<SinkLabel, I64Gauge>,
    queue_utilization: Family<SinkLabel, F64Gauge>,
    component_health: Family<HealthLabels, F64Gauge>,
    build_info: Family<BuildLabels, I64Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut m = Self {
            registry: Registry::with_prefix("log_capturer"),
            logs_processed: Family::default(),
            lines_read: Family::default(),
            bytes_read: Family::default(),
            lines_filtered: Family::default(),
            logs_sent: Family::default(),
            lines_diverted: Family::default(),
            lines_dropped: Family::default(),
            lines_pending: Family::default(),
            errors: Family::default(),
            dead_letters_evicted: Family::default(),
            send_duration: Family::new_with_constructor(|| {
                // 1 ms to 65 s: a push of one entry takes 0.4 ms, the request timeout is 30 s.
                Histogram::new(exponential_buckets(0.001, 2.0, 17))
            }),
            invalid_utf8: Family::default(),
            long_lines: Family::default(),
            damaged: Family::default(),
            bytes_at_risk: Family::default(),
            files_monitored: Gauge::default(),
            containers_monitored: Gauge::default(),
            sampled: Sampled::default(),
        };
        m.register();
        m.register_care();
        m.register_sampled();
        m
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("logs_processed", "Lines read, by type of source", self.logs_processed.clone());
        r.register("lines_read", "Lines read, by source", self.lines_read.clone());
        r.register("bytes_read", "Bytes of lines read, by source", self.bytes_read.clone());
        r.register("lines_filtered", "Lines left out by a rule", self.lines_filtered.clone());
        r.register("logs_sent", "Lines by what a sink made of them", self.logs_sent.clone());
        r.register("lines_diverted", "Lines in dead letters", self.lines_diverted.clone());
        r.register("lines_dropped", "Lines dropped by a rule", self.lines_dropped.clone());
        r.register(
            "lines_pending",
            "Lines read and not yet answered for",
            self.lines_pending.clone(),
        );
        r.register(
            "dead_letters_evicted",
            "Lines that left the dead letters for want of room or by age",
            self.dead_letters_evicted.clone(),
        );
        r.register("errors", "Errors by component", self.errors.clone());
        r.register(
            "sink_send_duration_seconds",
            "Duration of requests to a sink",
            self.send_duration.clone(),
        );
        r.register("total_files_monitored", "Files followed", self.files_monitored.clone());
        r.register(
            "total_containers_monitored",
            "Containers followed",
            self.containers_monitored.clone(),
        );
    }

    fn register_care(&mut self) {
        let r = &mut self.registry;
        r.register(
            "invalid_utf8_lines",
            "Lines with bytes that are not UTF-8, replaced",
            self.invalid_utf8.clone(),
        );
        r.register(
            "long_lines",
            "Lines above line_bytes_max, by what became of them",
            self.long_lines.clone(),
        );
        r.register(
            "damaged_records",
            "Records of a container log that could not be read, skipped",
            self.damaged.clone(),
        );
        r.register(
            "bytes_at_risk",
            "Bytes of unlinked files or removed containers not yet acknowledged",
            self.bytes_at_risk.clone(),
        );
    }

    fn register_sampled(&mut self) {
        let (r, s) = (&mut self.registry, &self.sampled);
        r.register("threads", "Threads of the process", s.threads.clone());
        r.register("threads_expected", "Threads of the config", s.threads_expected.clone());
        r.register("goroutines", "The same as threads, for old dashboards", s.threads.clone());
        r.register("file_descriptors_open", "Open file descriptors", s.descriptors.clone());
        r.register("memory_usage_bytes", "Memory, by type", s.memory.clone());
        r.register("queue_size", "Items waiting in a queue", s.queue_size.clone());
        r.register("sink_queue_bytes", "Bytes of sealed batches", s.queue_bytes.clone());
        r.register(
            "sink_queue_utilization",
            "Bytes of sealed batches by queue.memory; above 1 by the batch that always fits",
            s.queue_utilization.clone(),
        );
        r.register(
            "component_health",
            "1 healthy, 0.5 degraded, 0 unhealthy",
            s.component_health.clone(),
        );
        r.register("build_info", "Always 1; the labels tell the build", s.build_info.clone());
        let build = BuildLabels {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        };
        s.build_info.get_or_create(&build).set(1);
    }

    /// Makes the series of a config exist with 0, so that dashboards and alerts have them from
    /// the start and the first event shows as an increase.
    pub fn declare(&self, config: &Config) {
        let files = config.files.iter().map(|s| ("file", s.name.as_str()));
        let docker = config.docker.iter().map(|s| ("docker", s.name.as_str()));
        let sinks = config.sinks.iter().map(|s| s.name.as_str());
        self.declare_names(files.chain(docker), sinks);
    }

    fn declare_names<'a>(
        &self,
        sources: impl Iterator<Item = (&'a str, &'a str)>,
        sinks: impl Iterator<Item = &'a str>,
    ) {
        let labels = ErrorLabels { component: "daemon".to_owned(), error_type: "panic".to_owned() };
        let _ = self.errors.get_or_create(&labels);
        for sink in sinks {
            for status in ["delivered", "diverted", "dropped"] {
                self.sent(sink, status, 0);
            }
            self.pending(sink);
            let _ = self.send_duration.get_or_create(&SinkLabel { sink: sink.to_owned() });
        }
        for (kind, source) in sources {
            self.read(kind, source, 0, 0);
            self.invalid_utf8(source, 0);
        }
    }

    /// Lines and bytes that a source gave.
    pub fn read(&self, source_type: &str, source: &str, lines: u64, bytes: u64) {
        let kind = SourceTypeLabel { source_type: source_type.to_owned() };
        self.logs_processed.get_or_create(&kind).inc_by(lines);
        let source = SourceLabel { source: source.to_owned() };
        self.lines_read.get_or_create(&source).inc_by(lines);
        self.bytes_read.get_or_create(&source).inc_by(bytes);
    }

    /// Lines that a rule left out before any sink.
    pub fn filtered(&self, source: &str, reason: &str, lines: u64) {
        let labels = SourceReasonLabels { source: source.to_owned(), reason: reason.to_owned() };
        self.lines_filtered.get_or_create(&labels).inc_by(lines);
    }

    /// Lines that a lane took into a batch: pending from now on.
    pub fn taken(&self, sink: &str, lines: u64) {
        self.pending(sink).inc_by(lines as i64);
    }

    /// Lines that a sink acknowledged: no longer pending.
    pub fn delivered(&self, sink: &str, lines: u64) {
        self.sent(sink, "delivered", lines);
        self.pending(sink).dec_by(lines as i64);
    }

    /// Lines that were pending and are in dead letters now.
    pub fn diverted(&self, sink: &str, reason: &str, lines: u64) {
        let labels = SinkReasonLabels { sink: sink.to_owned(), reason: reason.to_owned() };
        self.lines_diverted.get_or_create(&labels).inc_by(lines);
        self.sent(sink, "diverted", lines);
        self.pending(sink).dec_by(lines as i64);
    }

    /// Lines that were never pending and are dropped by a rule (optional sink full).
    pub fn dropped(&self, sink: &str, reason: &str, lines: u64) {
        let labels = SinkReasonLabels { sink: sink.to_owned(), reason: reason.to_owned() };
        self.lines_dropped.get_or_create(&labels).inc_by(lines);
        self.sent(sink, "dropped", lines);
    }

    fn sent(&self, sink: &str, status: &str, lines: u64) {
        let labels = SinkStatusLabels { sink: sink.to_owned(), status: status.to_owned() };
        self.logs_sent.get_or_create(&labels).inc_by(lines);
    }

    fn pending(&self, sink: &str) -> Gauge {
        self.lines_pending.get_or_create_owned(&SinkLabel { sink: sink.to_owned() })
    }

    /// Lines in dead letters that were removed because of `bytes` or `age`.
    pub fn evicted(&self, reason: &str, lines: u64) {
        let label = ReasonLabel { reason: reason.to_owned() };
        self.dead_letters_evicted.get_or_create(&label).inc_by(lines);
    }

    /// One error of a component, by a short type such as `timeout` or `http_429`.
    pub fn error(&self, component: &str, error_type: &str) {
        let labels =
            ErrorLabels { component: component.to_owned(), error_type: error_type.to_owned() };
        self.errors.get_or_create(&labels).inc();
    }

    /// One request to a sink took `duration`, whatever its answer.
    pub fn send_duration(&self, sink: &str, duration: Duration) {
        let label = SinkLabel { sink: sink.to_owned() };
        self.send_duration.get_or_create(&label).observe(duration.as_secs_f64());
    }

    /// Lines of a source in which bytes that are not UTF-8 were replaced.
    pub fn invalid_utf8(&self, source: &str, lines: u64) {
        let label = SourceLabel { source: source.to_owned() };
        self.invalid_utf8.get_or_create(&label).inc_by(lines);
    }

    /// Lines above `line_bytes_max`, by what became of them: `split`, `truncated`, `diverted`.
    pub fn long_lines(&self, source: &str, what: &str, lines: u64) {
        let labels = SourceWhatLabels { source: source.to_owned(), what: what.to_owned() };
        self.long_lines.get_or_create(&labels).inc_by(lines);
    }

    /// Records of a container's log that could not be read, by kind of damage: `json`, `nul`.
    pub fn damaged(&self, source: &str, what: &str, n: u64) {
        let labels = SourceWhatLabels { source: source.to_owned(), what: what.to_owned() };
        self.damaged.get_or_create(&labels).inc_by(n);
    }

    /// What a lane still holds of files that have no name any more: lost if the process ended
    /// now.
    pub fn set_bytes_at_risk(&self, lane: &str, bytes: u64) {
        let label = LaneLabel { lane: lane.to_owned() };
        self.bytes_at_risk.get_or_create(&label).set(gauge(bytes));
    }

    /// Sampled: threads of the process and of the plan.
    pub fn set_threads(&self, threads: usize, expected: usize) {
        self.sampled.threads.set(gauge(threads as u64));
        self.sampled.threads_expected.set(gauge(expected as u64));
    }

    fn set_process(&self, figures: &ProcessFigures) {
        self.sampled.descriptors.set(gauge(figures.open_fds));
        for (kind, bytes) in [
            ("resident", figures.resident_bytes),
            ("resident_peak", figures.resident_peak_bytes),
            ("anonymous", figures.anonymous_bytes),
            ("virtual", figures.virtual_bytes),
        ] {
            let label = TypeLabel { r#type: kind.to_owned() };
            self.sampled.memory.get_or_create(&label).set(gauge(bytes));
        }
    }

    /// Sampled: items in a queue, such as `("loki", "batches")`.
    pub fn set_queue_size(&self, component: &str, queue_type: &str, items: usize) {
        let labels =
            QueueLabels { component: component.to_owned(), queue_type: queue_type.to_owned() };
        self.sampled.queue_size.get_or_create(&labels).set(gauge(items as u64));
    }

    /// Sampled: a sink's memory queue.
    pub fn set_sink_queue(&self, sink: &str, used_bytes: usize, max_bytes: usize) {
        let label = SinkLabel { sink: sink.to_owned() };
        self.sampled.queue_bytes.get_or_create(&label).set(gauge(used_bytes as u64));
        let share = used_bytes as f64 / max_bytes.max(1) as f64;
        self.sampled.queue_utilization.get_or_create(&label).set(share);
    }

    /// Sampled: how components fare. Those not named any more vanish.
    pub fn set_component_health<'a>(&self, all: impl Iterator<Item = (&'a str, &'a str, Level)>) {
        self.sampled.component_health.clear();
        for (kind, name, level) in all {
            let value = match level {
                Level::Healthy => 1.0,
                Level::Degraded => 0.5,
                Level::Unhealthy => 0.0,
            };
            let labels =
                HealthLabels { component_type: kind.to_owned(), component_name: name.to_owned() };
            self.sampled.component_health.get_or_create(&labels).set(value);
        }
    }

    /// All metrics and those of the process in Prometheus's text format
    /// ([`CONTENT_TYPE`]), as they are now.
    pub fn render(&self) -> String {
        let figures = ProcessFigures::sample();
        self.set_process(&figures);
        text::render(&self.registry, &figures)
    }
}

/// The content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

fn gauge(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names that dashboards of log_capturer_go hold, with their labels, as exposed.
    const FAMILIAR: [&str; 22] = [
        "log_capturer_logs_processed_total{source_type=\"file\"} 0",
        "log_capturer_logs_sent_total{sink=\"loki\",status=\"delivered\"} 0",
        "log_capturer_errors_total{component=\"daemon\",error_type=\"panic\"} 0",
        "log_capturer_queue_size{component=\"loki\",queue_type=\"batches\"} 3",
        "log_capturer_sink_queue_utilization{sink=\"loki\"} 0.5",
        "log_capturer_sink_send_duration_seconds_bucket{le=\"0.001\",sink=\"loki\"} 0",
        "log_capturer_sink_send_duration_seconds_count{sink=\"loki\"} 0",
        "log_capturer_component_health{component_type=\"sink\",component_name=\"loki\"} 0.5",
        "log_capturer_total_files_monitored 0",
        "log_capturer_total_containers_monitored 0",
        "log_capturer_threads 16",
        "log_capturer_threads_expected 17",
        "log_capturer_goroutines 16",
        "log_capturer_file_descriptors_open ",
        "log_capturer_memory_usage_bytes{type=\"resident\"} ",
        "log_capturer_build_info{version=\"",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_max_fds ",
        "process_start_time_seconds ",
        "process_threads ",
    ];

    #[test]
    fn every_familiar_name_is_there_from_the_start() {
        let m = Metrics::new();
        m.declare_names([("file", "system")].into_iter(), ["loki"].into_iter());
        m.set_threads(16, 17);
        m.set_queue_size("loki", "batches", 3);
        m.set_sink_queue("loki", 1 << 20, 2 << 20);
        m.set_component_health([("sink", "loki", Level::Degraded)].into_iter());
        let text = m.render();
        for name in FAMILIAR {
            assert!(text.lines().any(|l| l.starts_with(name)), "{name} in\n{text}");
        }
    }

    #[test]
    fn every_metric_has_help_and_type_once() {
        let m = Metrics::new();
        m.declare_names([("docker", "local")].into_iter(), ["loki"].into_iter());
        m.damaged("local", "nul", 2);
        m.set_bytes_at_risk("file-0", 7);
        let text = m.render();
        let mut names = std::collections::BTreeSet::new();
        for line in text.lines().filter_map(|l| l.strip_prefix("# TYPE ")) {
            assert!(names.insert(line.split(' ').next().unwrap()), "{line} twice");
        }
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s));
            assert!(names.contains(name) || family.is_some_and(|f| names.contains(f)), "{line}");
        }
        assert!(
            text.contains("log_capturer_damaged_records_total{source=\"local\",what=\"nul\"} 2")
        );
        assert!(text.contains("log_capturer_bytes_at_risk{lane=\"file-0\"} 7"));
    }

    #[test]
    fn the_books_balance() {
        let m = Metrics::new();
        m.taken("loki", 10);
        m.delivered("loki", 7);
        m.diverted("loki", "too_old", 2);
        let text = m.render();
        assert!(text.contains("log_capturer_lines_pending{sink=\"loki\"} 1"), "{text}");
        assert!(
            text.contains("log_capturer_logs_sent_total{sink=\"loki\",status=\"delivered\"} 7")
        );
        assert!(
            text.contains("log_capturer_lines_diverted_total{sink=\"loki\",reason=\"too_old\"} 2")
        );
    }
}
