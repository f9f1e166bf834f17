//! Where lines come from: files and Docker containers.

pub mod docker;
pub mod file;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::config::checked::{LongLines, StartAt};
use crate::record::{StdStream, StreamLabels};

/// A container's json-file log, handed by `docker-ctl` to a file lane.
#[derive(Clone, Debug)]
pub struct ContainerLog {
    /// Name of the Docker source in the config.
    pub source: Arc<str>,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name without slash.
    pub name: String,
    /// `LogPath` of the engine: `<root>/containers/<id>/<id>-json.log`.
    pub path: PathBuf,
    /// Base labels, to which `stream` is added.
    pub labels: Vec<(String, String)>,
    /// Structured metadata of each record: container id, image.
    pub metadata: Vec<(String, String)>,
    pub line_bytes_max: usize,
    pub long_lines: LongLines,
    pub partial_wait: Duration,
    /// Counts only when no position is known; `Beginning` for what appeared after our start.
    pub start_at: StartAt,
    pub sinks: Arc<[usize]>,
    /// A pseudo terminal: one stream, lines end in CR LF.
    pub tty: bool,
}

/// Labels that tell one container from another.
const CONTAINER_LABELS: [&str; 3] = ["container", "compose_project", "compose_service"];

/// The streams of a container, stdout and stderr, from its labels; past a sink's limit of
/// streams what tells containers apart is left out.
pub fn container_streams(labels: &[(String, String)]) -> [Arc<StreamLabels>; 2] {
    [StdStream::Stdout, StdStream::Stderr].map(|stream| {
        let own = [("stream".to_owned(), stream.as_str().to_owned())];
        let shared = labels.iter().filter(|(name, _)| !CONTAINER_LABELS.contains(&name.as_str()));
        let base = StreamLabels::new(shared.cloned().chain(own.clone()));
        StreamLabels::with_base(labels.iter().cloned().chain(own), base)
    })
}

/// What a file lane is told. Sent with try_send: on overflow the rescan flag stands for it.
#[derive(Debug)]
pub enum FileEvent {
    /// Names appeared, vanished or changed in this directory.
    Names(PathBuf),
    /// Data was written to this file, in a directory whose files were all idle.
    Data(PathBuf),
    /// A sink's queue has room again.
    Wake,
    /// A container's log is to be followed, or its labels changed.
    Container(Box<ContainerLog>),
    /// The engine says that the container is gone.
    ContainerGone { source: Arc<str>, id: String },
    /// A stop was asked for.
    Stop,
}
