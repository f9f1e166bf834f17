//! The config as the daemon uses it: types that cannot hold a bad value.
//!
//! Built from `raw` by the checks of `check`, which report every mistake at once.
//! Nothing here is read from a file, and nothing here has an "unset" state:
//! defaults are filled in (`defaults`).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use globset::GlobSet;

use super::secret::Secret;
use crate::units::ByteSize;

/// A whole, valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Positions, dead letters, lock. Created with mode 0750 when missing.
    pub data_dir: PathBuf,
    pub log: Log,
    pub server: Server,
    pub readers: Readers,
    /// How long SIGTERM may drain before the process ends. Default 10 s.
    pub shutdown_timeout: Duration,
    /// Labels on every stream, already expanded, sorted by name.
    pub labels: Vec<(String, String)>,
    /// The host's name, for `${HOSTNAME}` and the default `host` label.
    pub hostname: String,
    pub files: Vec<FileSource>,
    pub docker: Vec<DockerSource>,
    /// At least one.
    pub sinks: Vec<Sink>,
    pub dead_letters: DeadLetters,
}

#[derive(Clone, Debug)]
pub struct Log {
    pub level: log::LevelFilter,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Debug)]
pub struct Server {
    /// None: `listen: off`.
    pub listen: Option<SocketAddr>,
}

/// Reader threads. Each at least 1 where its kind of source exists.
#[derive(Clone, Debug)]
pub struct Readers {
    pub files: usize,
    pub docker: usize,
}

/// Where reading begins in a file that was there when its source was first swept, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    End,
    Beginning,
    /// Beginning for files modified within this age, end for older ones.
    Age(Duration),
}

/// What becomes of a line longer than `line_bytes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LongLines {
    /// Several records of at most the limit each.
    Split,
    /// The first bytes up to the limit; the rest is counted.
    Truncate,
    /// To dead letters, cut at the dead letters' own bound.
    DeadLetter,
}

impl LongLines {
    /// What became of such a line, for the metric `long_lines`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Split => "split",
            Self::Truncate => "truncated",
            Self::DeadLetter => "diverted",
        }
    }
}

/// A list of patterns that name files.
#[derive(Clone, Debug)]
pub struct PathPatterns {
    /// As written, absolute or relative to the working directory.
    pub texts: Vec<String>,
    /// Compiled, `*` does not cross `/`, `**` does.
    pub set: GlobSet,
}

#[derive(Clone, Debug)]
pub struct FileSource {
    pub name: String,
    /// Absolute patterns (relative ones are made absolute when the config is read).
    pub include: PathPatterns,
    /// Matched against the whole path and against the file name alone.
    pub exclude: PathPatterns,
    /// Static labels of this source (with the global ones and `job`), sorted; `filename` is
    /// added per file.
    pub labels: Vec<(String, String)>,
    pub start_at: StartAt,
    pub line_bytes_max: ByteSize,
    pub long_lines: LongLines,
    /// How long a last line without newline waits before it is sent. Default 5 s.
    pub partial_wait: Duration,
    /// How long a rotated file is watched for late lines after its end. Default 5 s.
    pub rotated_grace: Duration,
    /// Names of rotated siblings; `{name}` stands for the live file's name. Default
    /// `{name}.*` and `{name}-*`.
    pub rotated_globs: Vec<String>,
    /// Which sinks (indices into `Config::sinks`) get its records.
    pub sinks: Vec<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Unix(PathBuf),
    /// `tcp://host:port`
    Tcp {
        host: String,
        port: u16,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadWay {
    Auto,
    JsonFile,
    Api,
}

/// Which containers a filter names; empty lists name none.
#[derive(Clone, Debug, Default)]
pub struct ContainerFilter {
    /// Globs on the container's name.
    pub names: GlobSet,
    /// Globs on the image's name.
    pub images: GlobSet,
    /// `key` or `key=value`.
    pub labels: Vec<(String, Option<String>)>,
    /// Compose projects, exact.
    pub projects: Vec<String>,
}

impl ContainerFilter {
    /// Whether the filter has no rule at all.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
            && self.images.is_empty()
            && self.labels.is_empty()
            && self.projects.is_empty()
    }
}

#[derive(Clone, Debug)]
pub struct DockerSource {
    pub name: String,
    pub endpoint: Endpoint,
    pub read: ReadWay,
    /// Empty: all containers.
    pub include: ContainerFilter,
    pub exclude: ContainerFilter,
    /// Static labels of this source with the global ones, sorted.
    pub labels: Vec<(String, String)>,
    pub line_bytes_max: ByteSize,
    pub long_lines: LongLines,
    pub partial_wait: Duration,
    /// Where reading begins in containers that were there at the source's first list, ever.
    pub start_at: StartAt,
    pub sinks: Vec<usize>,
}

#[derive(Clone, Debug)]
pub struct Sink {
    /// Unique; `[a-z0-9_-]`, at most 8 characters are shown in thread names.
    pub name: String,
    /// Whether its acknowledgement holds the watermark. Default true.
    pub required: bool,
    pub batch: Batch,
    pub queue: Queue,
    pub kind: SinkKind,
    /// Streams a sink may have before new label sets fall back to base labels. Default 5,000.
    pub streams_max: usize,
}

#[derive(Clone, Debug)]
pub struct Batch {
    /// Uncompressed size at which a batch is sealed. Default 1 MiB.
    pub bytes: ByteSize,
    /// Age at which a batch is sealed. Default 1 s.
    pub wait: Duration,
}

#[derive(Clone, Debug)]
pub struct Queue {
    /// Sealed batches held in memory, all shards together. Default 8 MiB.
    pub memory: ByteSize,
}

#[derive(Clone, Debug)]
pub enum SinkKind {
    Loki(Box<Loki>),
    LocalFile(LocalFile),
}

#[derive(Clone, Debug)]
pub struct Loki {
    /// The whole push URL, `http` or `https`.
    pub url: String,
    pub senders: usize,
    pub connect_timeout: Duration,
    pub request_timeout: Duration,
    pub retry_initial: Duration,
    pub retry_max: Duration,
    /// `X-Scope-OrgID`.
    pub tenant: Option<String>,
    pub auth: Auth,
    /// Further request headers.
    pub headers: Vec<(String, Secret)>,
    pub proxy: Option<String>,
    pub tls: Tls,
    /// Loki's reject_old_samples_max_age. Default 168 h.
    pub max_age: Duration,
    /// Loki's creation_grace_period. Default 10 min.
    pub max_future: Duration,
}

#[derive(Clone, Debug)]
pub enum Auth {
    None,
    Basic { user: String, password: Secret },
    Bearer(Secret),
}

#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// PEM file; none: the system's roots.
    pub ca_file: Option<PathBuf>,
    /// PEM files of a client certificate and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

#[derive(Clone, Debug)]
pub struct LocalFile {
    /// Directory of the NDJSON files.
    pub path: PathBuf,
    pub rotate_bytes: ByteSize,
    /// Rotated files kept besides the current one.
    pub keep: usize,
    /// All files together.
    pub total_bytes: ByteSize,
}

#[derive(Clone, Debug)]
pub struct DeadLetters {
    /// Default 256 MiB.
    pub bytes: ByteSize,
    /// Default 30 days.
    pub age: Duration,
}
