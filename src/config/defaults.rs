//! Every default of the config with its source, and the limits its values must keep.
//!
//! Drives three things, so that they cannot disagree: the checks, the manual's table of
//! keys, and what `check` computes. Bounds that are not in the config's reach stand in
//! `limits`.

use std::time::Duration;

use crate::limits::{LOKI_LINE_BYTES_MAX, LOKI_REQUEST_BYTES_MAX};
use crate::units::ByteSize;

/// A quantity's default and its bounds, both inclusive.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<T> {
    pub default: T,
    pub min: T,
    pub max: T,
}

const fn millis(default: u64, min: u64, max: u64) -> Bounds<Duration> {
    Bounds {
        default: Duration::from_millis(default),
        min: Duration::from_millis(min),
        max: Duration::from_millis(max),
    }
}

const fn bytes(default: u64, min: u64, max: u64) -> Bounds<ByteSize> {
    Bounds { default: ByteSize(default), min: ByteSize(min), max: ByteSize(max) }
}

const fn count(default: usize, min: usize, max: usize) -> Bounds<usize> {
    Bounds { default, min, max }
}

const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Where packages install the config.
pub const CONFIG_PATH: &str = "/etc/log-capturer/log-capturer.yaml";
/// Bytes of a config file. Some 10,000 sources; guards against `--config` on a log file.
pub const CONFIG_BYTES_MAX: u64 = MIB;
/// FHS: state of a service.
pub const DATA_DIR: &str = "/var/lib/log-capturer";
/// Loopback only: metrics and health need no token there.
pub const LISTEN: &str = "127.0.0.1:8401";
/// Docker's own default on Linux.
pub const DOCKER_ENDPOINT: &str = "unix:///var/run/docker.sock";
/// Port of an unencrypted engine (Docker's documentation), where `tcp://` names none.
pub const DOCKER_PORT: u16 = 2375;
/// Added to a Loki URL without path.
pub const PUSH_PATH: &str = "/loki/api/v1/push";
/// logrotate's names (`.1`, `.2.gz`) and its `dateext` (`-20260131`).
pub const ROTATED_GLOBS: [&str; 2] = ["{name}.*", "{name}-*"];

/// A reader thread saturates well above what a host writes; more only help very many files.
pub const READERS: Bounds<usize> = count(1, 1, 16);
/// systemd waits 90 s before it kills; the rest is for the flush of positions.
pub const SHUTDOWN_TIMEOUT: Bounds<Duration> = millis(10 * SECOND, SECOND, 10 * MINUTE);
/// Refused lines are rare; 256 MiB hold about a million.
pub const DEAD_LETTER_BYTES: Bounds<ByteSize> = bytes(256 * MIB, MIB, 1024 * GIB);
pub const DEAD_LETTER_AGE: Bounds<Duration> = millis(30 * DAY, HOUR, 3_650 * DAY);

/// Loki's `max_line_size`. Longer lines would be refused one by one.
pub const LINE_BYTES_MAX: Bounds<ByteSize> =
    bytes(LOKI_LINE_BYTES_MAX as u64, KIB, LOKI_LINE_BYTES_MAX as u64);
/// Longer than a writer's own buffering, short enough for a prompt without newline.
pub const PARTIAL_WAIT: Bounds<Duration> = millis(5 * SECOND, 100, HOUR);
/// Writers reopen their log within a second of the rotation; 5 s cover a slow one.
pub const ROTATED_GRACE: Bounds<Duration> = millis(5 * SECOND, 100, HOUR);
/// An age of `start_at`.
pub const START_AT_AGE: Bounds<Duration> = millis(HOUR, SECOND, 3_650 * DAY);

/// A request must stay below 4 MiB of uncompressed protobuf (Loki's
/// `grpc_server_max_recv_msg_size`); 3 MiB leave room for a last line of 256 KiB and for
/// labels and metadata. Below 4 KiB the request's own cost dominates.
pub const BATCH_BYTES: Bounds<ByteSize> = bytes(MIB, 4 * KIB, 3 * MIB);
pub const BATCH_WAIT: Bounds<Duration> = millis(SECOND, 10, 5 * MINUTE);
/// Compressed batches: some 30 MB of text. Files are their own queue, more buys nothing.
pub const QUEUE_MEMORY: Bounds<ByteSize> = bytes(8 * MIB, 64 * KIB, 4 * GIB);
/// Loki's `max_global_streams_per_user`.
pub const STREAMS_MAX: Bounds<usize> = count(5_000, 1, 1_000_000);

/// Enough to fill a link of 100 ms; each is a thread.
pub const SENDERS: Bounds<usize> = count(4, 1, 32);
pub const CONNECT_TIMEOUT: Bounds<Duration> = millis(5 * SECOND, 100, 2 * MINUTE);
/// Above Loki's own 5 s for an ingester and usual proxies' 30 s would cut it first.
pub const REQUEST_TIMEOUT: Bounds<Duration> = millis(30 * SECOND, 500, 10 * MINUTE);
pub const RETRY_INITIAL: Bounds<Duration> = millis(500, 10, 10 * MINUTE);
pub const RETRY_MAX: Bounds<Duration> = millis(MINUTE, 100, HOUR);
/// Loki's `reject_old_samples_max_age`.
pub const MAX_AGE: Bounds<Duration> = millis(168 * HOUR, MINUTE, 36_500 * DAY);
/// Loki's `creation_grace_period`.
pub const MAX_FUTURE: Bounds<Duration> = millis(10 * MINUTE, SECOND, 36_500 * DAY);

pub const ROTATE_BYTES: Bounds<ByteSize> = bytes(64 * MIB, 64 * KIB, 64 * GIB);
pub const ROTATE_KEEP: Bounds<usize> = count(16, 0, 10_000);
/// All files of a `local_file` sink; lets the quickstart run unwatched.
pub const ROTATE_TOTAL: Bounds<ByteSize> = bytes(GIB, 64 * KIB, 64 * 1024 * GIB);

/// Sinks of a config: each brings threads and a queue.
pub const SINKS_MAX: usize = 16;
/// Sources of a kind: each has its own patterns, tried on every path.
pub const SOURCES_MAX: usize = 256;
/// Patterns of a list.
pub const PATTERNS_MAX: usize = 1_000;
/// Further headers of a request: below the 100 that common proxies accept.
pub const HEADERS_MAX: usize = 32;

/// Labels that a file source adds to each file.
pub const FILE_LABELS: [&str; 1] = ["filename"];
/// Labels that a Docker source adds to each container.
pub const DOCKER_LABELS: [&str; 4] = ["container", "compose_project", "compose_service", "stream"];

// A batch of the largest size with a last line of the largest size is still one request.
const _: () =
    assert!(BATCH_BYTES.max.bytes() + LOKI_LINE_BYTES_MAX + (64 << 10) < LOKI_REQUEST_BYTES_MAX);
