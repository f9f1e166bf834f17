//! The thread table of a config: what will run, before anything does.
//!
//! `check` prints it, `run` starts exactly it, the auditor compares with it.

use crate::config::Config;
use crate::config::checked::{Endpoint, SinkKind};

/// Threads of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedThread {
    /// As `ps -T` shows it; `N` runs from 0 when there are several.
    pub name: String,
    pub count: usize,
    pub waits_on: &'static str,
    pub does: &'static str,
}

/// Names of the two threads that notify's watchers run on, as the kernel cuts them.
pub const NOTIFY_THREAD: &str = "notify-rs inoti";

/// How many watchers, and so threads, notify gets: one for names, one for data.
pub const NOTIFY_THREADS: usize = 2;

/// File lanes: also with Docker sources alone, whose json files they read.
pub fn file_lanes(config: &Config) -> usize {
    if config.files.is_empty() && config.docker.is_empty() { 0 } else { config.readers.files }
}

/// Docker lanes.
pub fn docker_lanes(config: &Config) -> usize {
    if config.docker.is_empty() { 0 } else { config.readers.docker }
}

/// Whether anything may name a host: a Loki sink, or an engine over TCP.
pub fn has_resolver(config: &Config) -> bool {
    let loki = config.sinks.iter().any(|s| matches!(s.kind, SinkKind::Loki(_)));
    loki || config.docker.iter().any(|d| matches!(d.endpoint, Endpoint::Tcp { .. }))
}

/// Sender threads of a sink.
pub fn senders(kind: &SinkKind) -> usize {
    match kind {
        SinkKind::Loki(loki) => loki.senders,
        SinkKind::LocalFile(_) => 1,
    }
}

/// Name of a sender thread: `send-<sink>-N`, the sink's name cut so that 15 bytes hold it.
pub fn sender_name(sink: &str, number: usize) -> String {
    let number = number.to_string();
    let room = 15 - "send-".len() - 1 - number.len();
    let cut: String = sink.chars().take(room).collect();
    format!("send-{cut}-{number}")
}

/// The whole table, in the order in which the threads are started.
pub fn threads(config: &Config) -> Vec<PlannedThread> {
    let mut table = Vec::new();
    let mut add = |name: &str, count: usize, waits_on, does| {
        if count > 0 {
            table.push(PlannedThread { name: name.to_owned(), count, waits_on, does });
        }
    };
    add("main", 1, "signals, ends of threads", "start, stop");
    add("log", 1, "a bounded ring", "writes our own log");
    add("ack", 1, "outcomes", "watermarks, positions file");
    let resolver = usize::from(has_resolver(config));
    add("resolver", resolver, "requests", "DNS, with cache and timeout");
    for sink in &config.sinks {
        let name = sender_name(&sink.name, 0).trim_end_matches('0').to_owned() + "N";
        add(&name, senders(&sink.kind), "its shard's queue, the sink", "sends batches in order");
    }
    let files = file_lanes(config);
    let watchers = if files > 0 { NOTIFY_THREADS } else { 0 };
    add(NOTIFY_THREAD, watchers, "inotify", "tells of names and of data in idle files");
    add("file-N", files, "events, deadlines", "reads files, builds batches");
    let docker = docker_lanes(config);
    add("docker-ctl", usize::from(docker > 0), "the engine", "containers: list, events");
    add("docker-N", docker, "epoll over its streams", "reads API streams, builds batches");
    let admin = usize::from(config.server.listen.is_some());
    add("admin-0", admin, "epoll over its sockets", "metrics, health, status page");
    add("admin-1", admin, "requests from admin-0", "what takes time");
    add("monitor", 1, "a tick", "heartbeats, thread audit, watchdog");
    table
}

/// Sum of the table.
pub fn threads_count(config: &Config) -> usize {
    threads(config).iter().map(|t| t.count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sender_names_fit_fifteen_bytes() {
        for (sink, number) in [("loki", 0), ("a-very-long-sink-name", 31), ("x", 7)] {
            let name = sender_name(sink, number);
            assert!(name.len() <= 15 && name.ends_with(&number.to_string()), "{name}");
        }
    }
}
