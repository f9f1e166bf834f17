//! The generations of one log under one name: older files first, the live one last.
//!
//! A segment is one open file with its place; rotation adds one behind, and a finished one
//! leaves in front. Only data and small decisions: reading is in `read`, names in `names`.
//! Runs on the thread `file-N`.

use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::discover::RotatedNames;
use super::identity::FileId;
use super::tail::{Framing, Tail};
use crate::ack::{FileIdentity, Fingerprint, Identity};
use crate::config::checked::{FileSource, StartAt};
use crate::record::{SourceId, StreamLabels};
use crate::source::ContainerLog;

/// Names of rotated json-file logs: the engine numbers them from 1.
const CONTAINER_ROTATED: &str = "{name}.[0-9]*";

/// Whose log it is.
#[derive(Clone)]
pub enum Owner {
    File(Arc<FileSource>),
    Container(Arc<ContainerLog>),
}

impl Owner {
    /// Name of the source in the config.
    pub fn source(&self) -> &str {
        match self {
            Self::File(source) => &source.name,
            Self::Container(log) => &log.source,
        }
    }

    /// For the metric `logs_processed`.
    pub fn source_type(&self) -> &'static str {
        match self {
            Self::File(_) => "file",
            Self::Container(_) => "docker",
        }
    }

    pub fn container_id(&self) -> Option<&str> {
        match self {
            Self::File(_) => None,
            Self::Container(log) => Some(&log.id),
        }
    }

    pub fn framing(&self) -> Framing {
        match self {
            Self::File(s) => {
                Framing { line_bytes_max: s.line_bytes_max.bytes(), long_lines: s.long_lines }
            }
            Self::Container(_) => super::container::FRAMING,
        }
    }

    pub fn partial_wait(&self) -> Duration {
        match self {
            Self::File(source) => source.partial_wait,
            Self::Container(log) => log.partial_wait,
        }
    }

    pub fn rotated_grace(&self) -> Duration {
        match self {
            Self::File(source) => source.rotated_grace,
            // The engine writes to a file no more once it has renamed it.
            Self::Container(_) => Duration::from_secs(1),
        }
    }

    pub fn start_at(&self) -> StartAt {
        match self {
            Self::File(source) => source.start_at,
            Self::Container(log) => log.start_at,
        }
    }

    pub fn sinks(&self) -> Arc<[usize]> {
        match self {
            Self::File(source) => source.sinks.clone().into(),
            Self::Container(log) => log.sinks.clone(),
        }
    }

    pub fn rotated_names(&self, live: &Path) -> RotatedNames {
        match self {
            Self::File(source) => RotatedNames::of(live, &source.rotated_globs),
            Self::Container(_) => RotatedNames::of(live, &[CONTAINER_ROTATED.to_owned()]),
        }
    }
}

/// One file of a chain.
pub struct Segment {
    pub id: SourceId,
    /// None: idle and closed, to keep within the bound on open files.
    pub file: Option<File>,
    /// The name it has now.
    pub path: PathBuf,
    pub file_id: FileId,
    pub print: Fingerprint,
    pub tail: Tail,
    /// Since when it has been rotated or deleted, or since when it last grew after that.
    pub leaving: Option<Instant>,
    /// No name leads to it any more.
    pub unlinked: bool,
    /// Size when last looked at.
    pub size: u64,
    /// Time of its last change, when last looked at.
    pub modified: (i64, i64),
    /// The last read filled the chunk: read on without looking.
    pub backlog: bool,
    /// The file ends, at this size and since then, in a line without newline.
    pub partial: Option<(u64, Instant)>,
    /// When size and beginning were last compared.
    pub looked: Instant,
}

impl Segment {
    pub fn identity(&self, owner: &Owner) -> Identity {
        Identity::File(FileIdentity {
            source: owner.source().to_owned(),
            path: self.path.clone(),
            device: self.file_id.device,
            inode: self.file_id.inode,
            fingerprint: self.print,
            container: owner.container_id().map(str::to_owned),
        })
    }

    /// All that was there when last looked at has been read.
    pub fn at_end(&self) -> bool {
        !self.backlog && self.tail.read_offset() >= self.size
    }
}

/// A log under one name.
pub struct Chain {
    pub owner: Owner,
    /// The name whose label all segments carry.
    pub live: PathBuf,
    pub segments: VecDeque<Segment>,
    pub labels: Option<Arc<StreamLabels>>,
    pub sinks: Arc<[usize]>,
    /// Behind the last time given to a line: times rise within the chain.
    pub end_ns: i64,
    /// Decoder's state of a container's log.
    pub json: Option<Box<super::container::Json>>,
    /// Changes are not told through its directory: a symlink, or more names than one.
    pub linked: bool,
    /// In the queue of those to be read.
    pub queued: bool,
    /// Refused by the batches; waits for a wake-up.
    pub blocked: bool,
    /// Looked at on every tick.
    pub active: bool,
    /// When it last grew.
    pub grown: Instant,
    /// The container is gone: ends when read.
    pub ending: bool,
}

impl Chain {
    pub fn new(owner: Owner, live: PathBuf, now: Instant) -> Self {
        let json = match &owner {
            Owner::File(_) => None,
            Owner::Container(log) => Some(Box::new(super::container::Json::new(log))),
        };
        Self {
            sinks: owner.sinks(),
            owner,
            live,
            segments: VecDeque::new(),
            labels: None,
            end_ns: 0,
            json,
            linked: false,
            queued: false,
            blocked: false,
            active: false,
            grown: now,
            ending: false,
        }
    }

    /// The labels of a plain file's lines.
    pub fn labels(&mut self) -> &Arc<StreamLabels> {
        self.labels.get_or_insert_with(|| match &self.owner {
            Owner::File(source) => {
                let name = ("filename".to_owned(), self.live.to_string_lossy().into_owned());
                let base = StreamLabels::new(source.labels.iter().cloned());
                // Labels of the config come last: they win.
                let pairs = [name].into_iter().chain(source.labels.iter().cloned());
                StreamLabels::with_base(pairs, base)
            }
            Owner::Container(log) => StreamLabels::new(log.labels.iter().cloned()),
        })
    }

    pub fn open_files(&self) -> usize {
        self.segments.iter().filter(|s| s.file.is_some()).count()
    }

    /// Nothing to wait for: one segment, no unfinished line, nothing rotated.
    pub fn may_rest(&self) -> bool {
        let rests = |s: &Segment| s.leaving.is_none() && s.partial.is_none() && s.at_end();
        let lines = self.json.as_ref().is_none_or(|j| j.is_empty());
        self.segments.len() == 1 && self.segments.iter().all(rests) && lines && !self.ending
    }
}
