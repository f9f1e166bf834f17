//! Counters and gauges: what every line came to, and how the daemon fares.
//!
//! Owned by all threads through one `Arc`; rendered by `admin`. The books of the promise:
//! for each required sink, lines read = delivered + filtered + diverted + dropped + pending.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

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
pub struct ReasonLabel {
    pub reason: String,
}

type U64Counter = Counter<u64, AtomicU64>;

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
    pub files_monitored: Gauge,
    pub containers_monitored: Gauge,
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
            files_monitored: Gauge::default(),
            containers_monitored: Gauge::default(),
        };
        m.register();
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
            "Lines sealed and not yet answered",
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

    /// Lines in a batch that was closed: pending from now on.
    pub fn sealed(&self, sink: &str, lines: u64) {
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
}
