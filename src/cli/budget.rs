//! What a config can cost at most: memory, disk, file descriptors, each with its arithmetic.
//!
//! A ceiling, not a measurement: every buffer full at once, nothing compressible. Packages
//! set MemoryMax from it. Pure; uses the same constants as the parts that it adds up.

use crate::config::Config;
use crate::config::checked::{DockerSource, Endpoint, ReadWay, Sink, SinkKind};
use crate::daemon::plan::{docker_lanes, file_lanes, senders, threads_count};
use crate::limits::{
    ACK_INBOX_EVENTS, ADMIN_BODY_BYTES_MAX, ADMIN_CONNECTIONS_MAX, ADMIN_HEAD_BYTES_MAX,
    ANSWER_BYTES_MAX, DOCKER_FOLLOWS_MAX, FILES_MAX, LANE_INBOX_EVENTS, LOG_LINE_BYTES_MAX,
    LOG_RING_LINES, OPEN_FILES_MAX, POSITIONS_MAX, READ_CHUNK_BYTES,
};
use crate::units::ByteSize;

/// Code, allocator, tables of the program itself: measured idle, rounded up.
const PROGRAM_BYTES: u64 = 8 << 20;
/// What a thread's stack touches; 2 MiB are only reserved.
const STACK_BYTES: u64 = 64 << 10;
/// A followed file or container: path, position, labels, indices.
const FOLLOWED_BYTES: u64 = 1 << 10;
/// A stream that a sink knows: label text and index.
const STREAM_BYTES: u64 = 512;
/// An event in a channel.
const EVENT_BYTES: u64 = 256;
/// A position in its file.
const POSITION_BYTES: u64 = 512;
/// The current positions file, the one before, and the one being written.
const POSITIONS_FILES: u64 = 3;
/// Standard streams, the lock, positions, dead letters, signal and wake pipes, a lookup.
const OWN_DESCRIPTORS: u64 = 24;

/// One line of a budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub name: &'static str,
    pub amount: u64,
    /// How `amount` comes about.
    pub arithmetic: String,
}

#[derive(Clone, Copy, Debug)]
pub enum Unit {
    Bytes,
    Count,
}

impl Unit {
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Count => amount.to_string(),
            // Whole units: a budget to the byte would promise too much.
            Self::Bytes if amount >= 10 << 30 => format!("{}GiB", amount.div_ceil(1 << 30)),
            Self::Bytes if amount >= 1 << 20 => format!("{}MiB", amount.div_ceil(1 << 20)),
            Self::Bytes => format!("{}KiB", amount.div_ceil(1 << 10)),
        }
    }
}

/// The three budgets of a config.
#[derive(Clone, Debug)]
pub struct Budget {
    pub memory: Vec<Item>,
    pub disk: Vec<Item>,
    pub descriptors: Vec<Item>,
}

/// Adds up what `config` can need.
pub fn budget(config: &Config) -> Budget {
    Budget { memory: memory(config), disk: disk(config), descriptors: descriptors(config) }
}

fn item(name: &'static str, amount: u64, arithmetic: String) -> Item {
    Item { name, amount, arithmetic }
}

fn lanes_text(lanes: u64) -> String {
    if lanes == 1 { "1 lane".to_owned() } else { format!("{lanes} lanes") }
}

fn shards(sink: &Sink) -> u64 {
    senders(&sink.kind) as u64
}

/// A term for each sink, joined: `4 x 1MiB (loki) + 1 x 1MiB (copy)`.
fn per_sink(config: &Config, term: impl Fn(&Sink) -> (u64, String)) -> (u64, String) {
    let terms: Vec<(u64, String)> = config.sinks.iter().map(&term).collect();
    let texts = config.sinks.iter().zip(&terms).map(|(s, (_, t))| format!("{t} ({})", s.name));
    (terms.iter().map(|t| t.0).sum(), texts.collect::<Vec<_>>().join(" + "))
}

fn memory(config: &Config) -> Vec<Item> {
    let mut out = batches(config);
    out.extend(readers(config));
    let events = ACK_INBOX_EVENTS as u64
        + LANE_INBOX_EVENTS as u64 * (file_lanes(config) + docker_lanes(config)) as u64;
    out.push(item("channels", events * EVENT_BYTES, format!("{events} events x {EVENT_BYTES}B")));
    let (lines, line) = (LOG_RING_LINES as u64, LOG_LINE_BYTES_MAX as u64);
    out.push(item("own log", lines * line, format!("{lines} lines x {}", ByteSize(line))));
    let (streams, text) = per_sink(config, |s| (s.streams_max as u64, s.streams_max.to_string()));
    let arithmetic = format!("({text}) x {STREAM_BYTES}B");
    out.push(item("streams", streams * STREAM_BYTES, arithmetic));
    if config.server.listen.is_some() {
        let each = (ADMIN_HEAD_BYTES_MAX + ADMIN_BODY_BYTES_MAX) as u64;
        let arithmetic = format!("{ADMIN_CONNECTIONS_MAX} connections x {}", ByteSize(each));
        out.push(item("admin", ADMIN_CONNECTIONS_MAX as u64 * each, arithmetic));
    }
    let threads = threads_count(config) as u64;
    let arithmetic = format!("{threads} threads x {}", ByteSize(STACK_BYTES));
    out.push(item("stacks", threads * STACK_BYTES, arithmetic));
    out.push(item("program", PROGRAM_BYTES, "code, allocator, tables".to_owned()));
    out
}

fn batches(config: &Config) -> Vec<Item> {
    let lanes = (file_lanes(config) + docker_lanes(config)) as u64;
    let lanes_text = lanes_text(lanes);
    let each =
        |s: &Sink| (shards(s) * s.batch.bytes.0, format!("{} x {}", shards(s), s.batch.bytes));
    let (all, text) = per_sink(config, each);
    let largest = config.sinks.iter().map(|s| s.batch.bytes.0).max().unwrap_or(0);
    let queue = |s: &Sink| {
        let least = shards(s) * s.batch.bytes.0;
        let what = if least > s.queue.memory.0 { "one batch a shard" } else { "queue.memory" };
        let bytes = s.queue.memory.0.max(least);
        (bytes, format!("{what} {}", ByteSize(bytes)))
    };
    let (queued, queues) = per_sink(config, queue);
    let copies = |s: &Sink| {
        let each = 2 * s.batch.bytes.0 + ANSWER_BYTES_MAX as u64;
        (shards(s) * each, format!("{} x (2 x {} + 256KiB)", shards(s), s.batch.bytes))
    };
    let (sending, senders) = per_sink(config, copies);
    vec![
        item(
            "open batches",
            lanes * 2 * all,
            format!("{lanes_text} x 2 (growth of a buffer) x ({text})"),
        ),
        item(
            "sealing",
            lanes * 2 * largest,
            format!("{lanes_text} x (body + compressed) x {}", ByteSize(largest)),
        ),
        item("parked batches", lanes * all, format!("{lanes_text} x ({text})")),
        item("queues", queued, format!("{queues}, with what is in flight")),
        item("sending", sending, format!("{senders}: bisection, rebuilt request, answer")),
    ]
}

fn readers(config: &Config) -> Vec<Item> {
    let mut out = Vec::new();
    let files = file_lanes(config) as u64;
    if files > 0 {
        let chunk = READ_CHUNK_BYTES as u64;
        let arithmetic = format!("{} x 2 x {}", lanes_text(files), ByteSize(chunk));
        out.push(item("file reading", files * 2 * chunk, arithmetic));
        let arithmetic =
            format!("{FILES_MAX} files and containers x {FOLLOWED_BYTES}B; 10,000 take 10MiB");
        out.push(item("followed", FILES_MAX as u64 * FOLLOWED_BYTES, arithmetic));
    }
    let streams = api_streams(config);
    if streams > 0 {
        let line = config.docker.iter().map(|d| d.line_bytes_max.0).max().unwrap_or(0);
        let arithmetic = format!("{streams} streams x an unfinished line of {}", ByteSize(line));
        out.push(item("docker reading", streams * line, arithmetic));
    }
    out
}

/// Follow streams of the engine's API: every engine that may be read so.
fn api_streams(config: &Config) -> u64 {
    let reads_api = |d: &&DockerSource| d.read != ReadWay::JsonFile;
    let mut engines: Vec<&Endpoint> =
        config.docker.iter().filter(reads_api).map(|d| &d.endpoint).collect();
    engines.dedup();
    (engines.len() * DOCKER_FOLLOWS_MAX) as u64
}

fn disk(config: &Config) -> Vec<Item> {
    let each = POSITIONS_MAX as u64 * POSITION_BYTES;
    let arithmetic = format!(
        "{POSITIONS_FILES} x {POSITIONS_MAX} sources x {POSITION_BYTES}B, in {}",
        config.data_dir.display()
    );
    let mut out = vec![
        item("positions", POSITIONS_FILES * each, arithmetic),
        item("dead letters", config.dead_letters.bytes.0, "dead_letters.bytes".to_owned()),
    ];
    for sink in &config.sinks {
        if let SinkKind::LocalFile(file) = &sink.kind {
            let files = (file.keep as u64 + 1).saturating_mul(file.rotate_bytes.0);
            let arithmetic = format!(
                "the smaller of total_bytes {} and {} files x {}, in {}",
                file.total_bytes,
                file.keep + 1,
                file.rotate_bytes,
                file.path.display()
            );
            out.push(item("captured files", files.min(file.total_bytes.0), arithmetic));
        }
    }
    out
}

fn descriptors(config: &Config) -> Vec<Item> {
    let mut out = Vec::new();
    if file_lanes(config) > 0 {
        let arithmetic = "followed files that are kept open".to_owned();
        out.push(item("files", OPEN_FILES_MAX as u64, arithmetic));
        let lanes = file_lanes(config) as u64;
        let arithmetic =
            format!("3 x 2 watchers (inotify, epoll, wake) + {} x 2", lanes_text(lanes));
        out.push(item("watching", 6 + 2 * lanes, arithmetic));
    }
    let (streams, lanes) = (api_streams(config), docker_lanes(config) as u64);
    if lanes > 0 {
        let engines = config.docker.len() as u64;
        let arithmetic = format!(
            "{streams} streams + {} x 2 (epoll, wake) + 4 x {engines} (events, requests)",
            lanes_text(lanes)
        );
        out.push(item("docker", streams + 2 * lanes + 4 * engines, arithmetic));
    }
    let (sending, text) = per_sink(config, |s| match s.kind {
        SinkKind::Loki(_) => (shards(s), format!("{} connections", shards(s))),
        SinkKind::LocalFile(_) => (2, "2 files".to_owned()),
    });
    out.push(item("sinks", sending, text));
    if config.server.listen.is_some() {
        let arithmetic = format!("{ADMIN_CONNECTIONS_MAX} connections + 3 (listener, epoll, wake)");
        out.push(item("admin", ADMIN_CONNECTIONS_MAX as u64 + 3, arithmetic));
    }
    let arithmetic = "standard streams, lock, positions, dead letters, pipes".to_owned();
    out.push(item("own", OWN_DESCRIPTORS, arithmetic));
    out
}
