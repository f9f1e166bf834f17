//! The data directory: made when missing, and held by a lock so that no second daemon uses it.

use std::fmt;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// Held as long as the process lives.
#[derive(Debug)]
pub struct DataDirLock {
    _file: File,
}

#[derive(Debug)]
pub enum DataDirError {
    Create(PathBuf, io::Error),
    Lock(PathBuf, io::Error),
    /// Another daemon holds it; its process id where known.
    Held(PathBuf, String),
}

impl fmt::Display for DataDirError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(path, e) => write!(f, "data_dir {}: {e}", path.display()),
            Self::Lock(path, e) => write!(f, "lock file {}: {e}", path.display()),
            Self::Held(path, pid) => write!(
                f,
                "data_dir is in use by another log-capturer (process {pid}, lock file {})",
                path.display()
            ),
        }
    }
}

impl std::error::Error for DataDirError {}

/// Makes the directory (mode 0750) and takes its lock.
///
/// # Errors
/// When it cannot be made or written, or another daemon holds it.
pub fn lock(data_dir: &Path) -> Result<DataDirLock, DataDirError> {
    let made = DirBuilder::new().recursive(true).mode(0o750).create(data_dir);
    made.map_err(|e| DataDirError::Create(data_dir.to_owned(), e))?;
    let path = data_dir.join("lock");
    let failed = |e: io::Error| DataDirError::Lock(path.clone(), e);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o640);
    let mut file = options.open(&path).map_err(failed)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            let _ = (&mut file).take(20).read_to_string(&mut pid);
            return Err(DataDirError::Held(path, pid.trim().to_owned()));
        }
        Err(e) => return Err(failed(e.into())),
    }
    file.set_len(0).map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(DataDirLock { _file: file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_while_the_first_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = lock(&path).unwrap();
        let second = lock(&path).unwrap_err().to_string();
        assert!(second.contains(&format!("process {}", std::process::id())), "{second}");
        drop(first);
        lock(&path).unwrap();
    }
}
