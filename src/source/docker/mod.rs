//! Docker containers: discovery by `docker-ctl`, API streams by `docker-N`.
//!
//! Json-file logs that can be read go to the file lanes ([`super::ContainerLog`]); the other
//! containers are handed to a Docker lane as [`ApiContainer`]. The pure parts (`http`, `chunk`,
//! `frame`, `record`, `pieces`, `place`, `json_record`) read no clock and do no I/O.

pub mod body;
pub mod chunk;
pub mod ctl;
pub mod engine;
pub mod events;
pub mod filter;
pub mod follow;
pub mod frame;
pub mod http;
pub mod inspect;
pub mod json_record;
pub mod lane;
pub mod own;
pub mod pieces;
pub mod place;
pub mod record;
mod roster;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use crate::config::checked::{LongLines, StartAt};

/// A container whose log is read through the engine's API.
#[derive(Clone, Debug)]
pub struct ApiContainer {
    /// Index of the Docker source in the config; its endpoint is the engine's.
    pub engine: usize,
    /// The API version to ask for, as negotiated: `1.41`.
    pub api_version: Arc<str>,
    /// Name of the Docker source in the config.
    pub source: Arc<str>,
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name without slash.
    pub name: String,
    /// A pseudo terminal: raw stream, everything is stdout, lines end in CR LF.
    pub tty: bool,
    /// Name of its log driver: `json-file`, `local`, ...
    pub driver: String,
    /// Its log rotates: driver other than json-file, or json-file with `max-size`. The engine's
    /// follow skips and repeats there, so it is read again and again instead.
    pub rotates: bool,
    /// Removed by the engine when it ends: never closed for back-pressure.
    pub auto_remove: bool,
    /// Whether it runs now; a follow stream is opened for a running one only.
    pub running: bool,
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
}

/// What a Docker lane is told. Sent with try_send by `docker-ctl`, then `Poller::notify`; when
/// the inbox is full `docker-ctl` keeps its "relist" flag for the lane and tells it all again.
#[derive(Debug)]
pub enum DockerEvent {
    /// To be followed, or its labels, name, version or running state changed. Idempotent.
    Container(Box<ApiContainer>),
    /// A run began (`start` event).
    Started { engine: usize, id: String },
    /// A run ended (`die` event).
    Died { engine: usize, id: String },
    /// The engine does not know it any more: read nothing, forget once acknowledged.
    Gone { engine: usize, id: String },
    /// The engine does not answer: close its streams and keep their places.
    EngineDown { engine: usize },
    /// The engine answers (again); `Container` follows for each of its containers.
    EngineUp { engine: usize },
    /// A stop was asked for.
    Stop,
}

/// The recorded answers of a real engine (`tests/docker/recordings/*.http`), sorted by name.
#[cfg(test)]
fn recordings() -> Vec<(String, Vec<u8>)> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/docker/recordings");
    let entries = std::fs::read_dir(dir).expect("the recordings").flatten();
    let files = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|x| x == "http"));
    let mut all: Vec<_> = files
        .map(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, std::fs::read(&p).expect("a recording"))
        })
        .collect();
    all.sort();
    assert!(all.len() > 100, "{} recordings in {dir}", all.len());
    all
}
