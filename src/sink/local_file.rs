//! The sink `local_file`: NDJSON appended to `captured.ndjson` in a directory of its own.
//!
//! Acknowledged after fdatasync; at least once: what a crash left of an unacknowledged batch
//! stays, but for a torn last line, which is cut at start. A full file is renamed to
//! `captured.<number>.ndjson`; the oldest leave by count and by total bytes. A disk that takes
//! nothing holds the batch and recovers by itself. Runs on its one sender's thread.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::ack::Outcome;
use crate::batch::SealedBatch;
use crate::config::checked::LocalFile;
use crate::disk::{Append, Disk, whole_lines_bytes};
use crate::sender::backoff::Backoff;
use crate::sender::{Destination, Moment, SinkState, Step};

/// The file that is appended to.
pub const CURRENT: &str = "captured.ndjson";

/// Waits between attempts at a disk that takes nothing: soon, since freeing space is noticed
/// by trying only, and a failed write costs little.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// See the module's head.
pub struct LocalFileDestination {
    settings: LocalFile,
    disk: Arc<dyn Disk>,
    state: Arc<SinkState>,
    backoff: Backoff,
    retry_at: Option<Instant>,
    file: Option<Box<dyn Append>>,
    /// Where the acknowledged bytes of the current file end, once known.
    written: Option<u64>,
}

impl LocalFileDestination {
    /// Touches nothing on the disk before the first batch.
    pub fn new(settings: LocalFile, disk: Arc<dyn Disk>, state: Arc<SinkState>) -> Self {
        let backoff = Backoff::new(RETRY.0, RETRY.1, 1);
        Self { settings, disk, state, backoff, retry_at: None, file: None, written: None }
    }

    fn current(&self) -> PathBuf {
        self.settings.path.join(CURRENT)
    }

    fn write(&mut self, body: &[u8]) -> io::Result<()> {
        self.open()?;
        let full = |written: u64| written + body.len() as u64 > self.settings.rotate_bytes.0;
        if self.written.is_some_and(|written| written > 0 && full(written)) {
            self.rotate()?;
            self.open()?;
        }
        let (Some(file), Some(written)) = (self.file.as_mut(), self.written.as_mut()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        file.append(body)?;
        file.sync()?;
        *written += body.len() as u64;
        Ok(())
    }

    /// Makes sure that the current file is open and ends where it should.
    fn open(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            return Ok(());
        }
        let path = self.current();
        self.disk.create_dir(&self.settings.path)?;
        let mut file = self.disk.open_append(&path)?;
        let length = file.len_bytes()?;
        let end = match self.written.filter(|written| *written <= length) {
            Some(written) => written,
            None => whole_lines_bytes(&*self.disk, &path)?,
        };
        if end < length {
            log::debug!("{}: {} bytes of a torn tail cut", path.display(), length - end);
            file.truncate(end)?;
        }
        self.disk.sync_dir(&self.settings.path)?;
        self.file = Some(file);
        self.written = Some(end);
        self.prune(end)
    }

    fn rotate(&mut self) -> io::Result<()> {
        let number = self.rotated()?.last().map_or(1, |(number, _)| number + 1);
        let name = format!("captured.{number:010}.ndjson");
        self.file = None;
        self.disk.rename(&self.current(), &self.settings.path.join(name))?;
        self.written = None;
        self.disk.sync_dir(&self.settings.path)
    }

    /// Rotated files, oldest first.
    fn rotated(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found: Vec<_> = self
            .disk
            .list(&self.settings.path)?
            .into_iter()
            .filter_map(|path| Some((rotated_number(&path)?, path)))
            .collect();
        found.sort();
        Ok(found)
    }

    /// Removes the oldest rotated files beyond the bounds; `current_bytes` are never removed.
    fn prune(&mut self, current_bytes: u64) -> io::Result<()> {
        let rotated = self.rotated()?;
        let mut sizes = Vec::with_capacity(rotated.len());
        for (_, path) in &rotated {
            sizes.push(self.disk.len_bytes(path)?);
        }
        // Room for the current file to grow full is part of the total.
        let reserved = self.settings.rotate_bytes.0.max(current_bytes);
        let mut total: u64 = sizes.iter().sum::<u64>() + reserved;
        let mut left = rotated.len();
        for ((_, path), bytes) in rotated.iter().zip(sizes) {
            if left <= self.settings.keep && total <= self.settings.total_bytes.0 {
                break;
            }
            self.disk.remove(path)?;
            log::debug!("{} removed: keep {} files", path.display(), self.settings.keep);
            total -= bytes;
            left -= 1;
        }
        Ok(())
    }

    fn failed(&mut self, error: &io::Error, now: Instant) -> Step {
        // What was written of the batch is cut when the file is opened again.
        self.file = None;
        self.state.metrics.error(&format!("sink_{}", self.state.name), "write");
        let why = format!("{}: {error}", self.current().display());
        self.state.holding(0, &why, "make room or check permissions", now);
        let at = now + self.backoff.fail();
        self.retry_at = Some(at);
        Step::Wait(at)
    }
}

fn rotated_number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("captured.")?.strip_suffix(".ndjson")?.parse().ok()
}

impl Destination for LocalFileDestination {
    fn attempt(&mut self, batch: &SealedBatch, moment: Moment) -> Step {
        if let Some(at) = self.retry_at.filter(|at| moment.now < *at) {
            return Step::Wait(at);
        }
        let began = Instant::now();
        if let Err(e) = self.write(&batch.body) {
            return self.failed(&e, moment.now);
        }
        let (name, metrics) = (&self.state.name, &self.state.metrics);
        metrics.send_duration(name, began.elapsed());
        metrics.delivered(name, u64::from(batch.entries));
        self.retry_at = None;
        self.backoff.reset();
        self.state.well(0);
        Step::Done(Outcome { delivered: batch.entries, diverted: 0 })
    }

    fn hurry(&mut self) {
        self.retry_at = None;
    }
}

#[cfg(test)]
mod tests;
