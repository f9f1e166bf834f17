//! File operations on our own state, behind a small trait, so that tests can make each fail.
//!
//! Only for what we own (positions, dead letters, captured files); sources are read with
//! plain files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A file that is appended to.
pub trait Append: Send {
    /// Writes all of `bytes` or fails; how much was written is then unknown.
    ///
    /// # Errors
    /// As write(2).
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Waits until what was appended is on the disk.
    ///
    /// # Errors
    /// As fdatasync(2).
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file.
    ///
    /// # Errors
    /// As ftruncate(2).
    fn truncate(&mut self, len_bytes: u64) -> io::Result<()>;
    /// Its length now.
    ///
    /// # Errors
    /// As fstat(2).
    fn len_bytes(&self) -> io::Result<u64>;
}

/// The operations on our own files.
pub trait Disk: Send + Sync {
    /// # Errors
    /// As open(2) and read(2).
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// At most `len_max` bytes from `offset` on; fewer only at the file's end.
    ///
    /// # Errors
    /// As open(2) and pread(2).
    fn read_at(&self, path: &Path, offset: u64, len_max: usize) -> io::Result<Vec<u8>> {
        let mut bytes = self.read(path)?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        bytes.drain(..from);
        bytes.truncate(len_max);
        Ok(bytes)
    }
    /// The length of a file.
    ///
    /// # Errors
    /// As stat(2).
    fn len_bytes(&self, path: &Path) -> io::Result<u64> {
        Ok(self.read(path)?.len() as u64)
    }
    /// Writes a whole file (mode 0640) and syncs it.
    ///
    /// # Errors
    /// As open(2), write(2), fsync(2).
    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
    /// # Errors
    /// As rename(2).
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// # Errors
    /// As unlink(2).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Syncs a directory, so that names in it are on the disk.
    ///
    /// # Errors
    /// As open(2), fsync(2).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Opens (mode 0640) for appending, created when missing.
    ///
    /// # Errors
    /// As open(2).
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn Append>>;
    /// The entries of a directory, sorted.
    ///
    /// # Errors
    /// As opendir(3).
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Creates a directory and those above it.
    ///
    /// # Errors
    /// As mkdir(2).
    fn create_dir(&self, path: &Path) -> io::Result<()>;
}

/// The host's file systems.
pub struct HostDisk;

impl Append for File {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len_bytes: u64) -> io::Result<()> {
        self.set_len(len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Disk for HostDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn read_at(&self, path: &Path, offset: u64, len_max: usize) -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(len_max as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn len_bytes(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o640);
        let mut file = options.open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        let mut options = OpenOptions::new();
        Ok(Box::new(options.append(true).create(true).mode(0o640).open(path)?))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let entries: io::Result<Vec<_>> = fs::read_dir(path)?.map(|e| Ok(e?.path())).collect();
        let mut entries = entries?;
        entries.sort();
        Ok(entries)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }
}

/// Bytes that [`whole_lines_bytes`] and counts of lines read at once.
const SCAN_BYTES: usize = 64 << 10;

/// Where the last whole line of a file ends: what follows is a torn tail.
///
/// # Errors
/// As [`Disk::read_at`].
pub fn whole_lines_bytes(disk: &dyn Disk, path: &Path) -> io::Result<u64> {
    let mut end = disk.len_bytes(path)?;
    while end > 0 {
        let start = end.saturating_sub(SCAN_BYTES as u64);
        let bytes = disk.read_at(path, start, (end - start) as usize)?;
        if let Some(at) = memchr::memrchr(b'\n', &bytes) {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// How many whole lines a file has.
///
/// # Errors
/// As [`Disk::read_at`].
pub fn count_lines(disk: &dyn Disk, path: &Path) -> io::Result<u64> {
    let (mut offset, mut lines) = (0, 0);
    loop {
        let bytes = disk.read_at(path, offset, SCAN_BYTES)?;
        if bytes.is_empty() {
            return Ok(lines);
        }
        lines += memchr::memchr_iter(b'\n', &bytes).count() as u64;
        offset += bytes.len() as u64;
    }
}
