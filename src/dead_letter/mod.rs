//! Dead letters: refused lines with their reasons, in bounded segments of JSON lines.
//!
//! One store for all senders and lanes, behind a mutex. A letter is synced before [`put`]
//! returns, so that the caller may report it as diverted. Segments are named
//! `<number>-<time of creation in ns>.jsonl`; the oldest leave when the store is too large or
//! too old, counted. A torn last line is cut when a segment is opened again.
//!
//! [`put`]: DeadLetters::put

mod record;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub use record::DeadLetter;

use crate::disk::{Append, Disk, count_lines, whole_lines_bytes};
use crate::health::{HealthBoard, Level};
use crate::limits;
use crate::metrics::Metrics;

/// The directory under `data_dir`.
pub const DIRECTORY: &str = "dead-letters";

/// Segments that a store is divided into at least, so that eviction takes a small part.
const SEGMENTS_MIN: u64 = 8;

/// The store could not take a letter.
#[derive(Debug)]
pub struct DeadLetterError {
    pub path: PathBuf,
    pub cause: io::Error,
}

impl fmt::Display for DeadLetterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dead letters in {}: {}", self.path.display(), self.cause)
    }
}

impl std::error::Error for DeadLetterError {}

/// Where the store is and how large it may grow.
pub struct Settings {
    /// `<data_dir>/dead-letters`.
    pub path: PathBuf,
    pub bytes_max: u64,
    pub age_max: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    path: PathBuf,
    number: u64,
    created_ns: i64,
    bytes: u64,
}

struct Store {
    settings: Settings,
    disk: Arc<dyn Disk>,
    /// Oldest first; the last is appended to while `active` is there.
    segments: Vec<Segment>,
    active: Option<Box<dyn Append>>,
    scanned: bool,
    buffer: Vec<u8>,
}

/// See the module's head.
pub struct DeadLetters {
    store: Mutex<Store>,
    metrics: Arc<Metrics>,
    health: Arc<HealthBoard>,
}

impl DeadLetters {
    /// Touches nothing on the disk before the first letter.
    pub fn new(
        settings: Settings,
        disk: Arc<dyn Disk>,
        metrics: Arc<Metrics>,
        health: Arc<HealthBoard>,
    ) -> Self {
        let store = Store {
            settings,
            disk,
            segments: Vec::new(),
            active: None,
            scanned: false,
            buffer: Vec::new(),
        };
        Self { store: Mutex::new(store), metrics, health }
    }

    /// Writes and syncs letters, all or none (a crash in between may leave some). `now_ns`:
    /// wall time. Sets the health of `("dead_letters", "store")`.
    ///
    /// # Errors
    /// When they could not be written: nothing may be reported as diverted then.
    pub fn put(&self, letters: &[DeadLetter<'_>], now_ns: i64) -> Result<(), DeadLetterError> {
        let mut store = self.store.lock().unwrap_or_else(|e| e.into_inner());
        match store.put(letters, now_ns) {
            Ok(()) => {
                self.health.ok("dead_letters", "store");
                for (reason, lines) in store.evict(now_ns) {
                    self.metrics.evicted(reason, lines);
                }
                Ok(())
            }
            Err(cause) => {
                let error = DeadLetterError { path: store.settings.path.clone(), cause };
                self.metrics.error("dead_letters", "write");
                let reason = error.to_string();
                self.health.set("dead_letters", "store", Level::Unhealthy, &reason);
                Err(error)
            }
        }
    }

    /// Bytes of all segments, as far as known.
    pub fn bytes(&self) -> u64 {
        let store = self.store.lock().unwrap_or_else(|e| e.into_inner());
        store.segments.iter().map(|s| s.bytes).sum()
    }
}

impl Store {
    fn put(&mut self, letters: &[DeadLetter<'_>], now_ns: i64) -> io::Result<()> {
        if !self.scanned {
            self.scan()?;
        }
        self.buffer.clear();
        for letter in letters {
            letter.write(&mut self.buffer);
        }
        self.open(now_ns)?;
        let (Some(file), Some(segment)) = (self.active.as_mut(), self.segments.last_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        if let Err(e) = file.append(&self.buffer).and_then(|()| file.sync()) {
            // What was written of it is cut now, or when the segment is opened again.
            let _ = file.truncate(segment.bytes);
            self.active = None;
            return Err(e);
        }
        segment.bytes += self.buffer.len() as u64;
        Ok(())
    }

    /// Finds the segments of earlier runs.
    fn scan(&mut self) -> io::Result<()> {
        let dir = self.settings.path.clone();
        self.disk.create_dir(&dir)?;
        self.segments.clear();
        for path in self.disk.list(&dir)? {
            if let Some((number, created_ns)) = parse_name(&path) {
                let bytes = self.disk.len_bytes(&path)?;
                self.segments.push(Segment { path, number, created_ns, bytes });
            }
        }
        self.segments.sort_by_key(|s| s.number);
        self.scanned = true;
        Ok(())
    }

    /// Makes sure that a segment with room is open.
    fn open(&mut self, now_ns: i64) -> io::Result<()> {
        let bytes_max = self.settings.bytes_max / SEGMENTS_MIN;
        let bytes_max = bytes_max.min(limits::DEAD_LETTER_SEGMENT_BYTES);
        let age_max = self.settings.age_max.as_nanos() as i64 / SEGMENTS_MIN as i64;
        let usable = |s: &Segment| {
            s.bytes < bytes_max && now_ns.saturating_sub(s.created_ns) < age_max.max(1)
        };
        match self.segments.last_mut() {
            Some(last) if usable(last) => {
                if self.active.is_none() {
                    let whole = whole_lines_bytes(&*self.disk, &last.path)?;
                    let mut file = self.disk.open_append(&last.path)?;
                    file.truncate(whole)?;
                    last.bytes = whole;
                    self.active = Some(file);
                }
            }
            last => {
                let number = last.map_or(0, |s| s.number + 1);
                let name = format!("{number:010}-{:020}.jsonl", now_ns.max(0));
                let path = self.settings.path.join(name);
                self.active = None;
                let file = self.disk.open_append(&path)?;
                let segment = Segment { path, number, created_ns: now_ns.max(0), bytes: 0 };
                self.segments.push(segment);
                self.disk.sync_dir(&self.settings.path)?;
                self.active = Some(file);
            }
        }
        Ok(())
    }

    /// Removes the oldest segments beyond the bounds; what left, by reason. The last stays.
    fn evict(&mut self, now_ns: i64) -> Vec<(&'static str, u64)> {
        let mut left = Vec::new();
        while self.segments.len() > 1 {
            let bytes: u64 = self.segments.iter().map(|s| s.bytes).sum();
            // All letters of a segment are older than the creation of the next one.
            let newest_ns = self.segments[1].created_ns;
            let age_ns = now_ns.saturating_sub(newest_ns);
            let reason = if bytes > self.settings.bytes_max {
                "bytes"
            } else if age_ns > self.settings.age_max.as_nanos() as i64 {
                "age"
            } else {
                break;
            };
            let oldest = &self.segments[0];
            let lines = count_lines(&*self.disk, &oldest.path).unwrap_or(0);
            let removed = self.disk.remove(&oldest.path);
            if removed.is_err_and(|e| e.kind() != io::ErrorKind::NotFound) {
                break;
            }
            left.push((reason, lines));
            self.segments.remove(0);
        }
        left
    }
}

fn parse_name(path: &Path) -> Option<(u64, i64)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".jsonl")?;
    let (number, created_ns) = name.split_once('-')?;
    Some((number.parse().ok()?, created_ns.parse().ok()?))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
fn count_evicted(metrics: &Metrics) -> u64 {
    let mut text = String::new();
    let _ = prometheus_client::encoding::text::encode(&mut text, &metrics.registry);
    let line = text.lines().find(|line| line.contains("dead_letters_evicted_total{"));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}
