//! Who a file is, whatever its name: device, inode and a fingerprint of its first bytes.
//!
//! The fingerprint grows with the file up to [`limits::FINGERPRINT_BYTES_MAX`], so that a file
//! that was emptied and written anew under the same inode is known to be another one. Reads the
//! file, keeps nothing. Runs on the thread `file-N`.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use crate::ack::Fingerprint;
use crate::limits;

/// Device and inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId {
    pub device: u64,
    pub inode: u64,
}

impl FileId {
    pub fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

/// Whether a file begins as a fingerprint says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    Same,
    Other,
    /// It has fewer bytes than were fingerprinted.
    Shorter,
}

/// The fingerprint of a file's first bytes, of at most `bytes_max`.
///
/// # Errors
/// As read(2).
pub fn fingerprint(file: &File, bytes_max: usize) -> io::Result<Fingerprint> {
    let mut head = [0; limits::FINGERPRINT_BYTES_MAX];
    let want = bytes_max.min(head.len());
    let mut have = 0;
    while have < want {
        match file.read_at(&mut head[have..want], have as u64) {
            Ok(0) => break,
            Ok(n) => have += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(Fingerprint { bytes: have as u32, hash: xxhash_rust::xxh3::xxh3_64(&head[..have]) })
}

/// Compares a file's beginning with an earlier fingerprint. An empty fingerprint fits any file.
///
/// # Errors
/// As read(2).
pub fn compare(file: &File, known: Fingerprint) -> io::Result<Head> {
    if known.bytes == 0 {
        return Ok(Head::Same);
    }
    let now = fingerprint(file, known.bytes as usize)?;
    Ok(if now.bytes < known.bytes {
        Head::Shorter
    } else if now.hash == known.hash {
        Head::Same
    } else {
        Head::Other
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_fingerprint_grows_and_tells_a_file_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let open = || File::open(&path).unwrap();
        fs::write(&path, "").unwrap();
        let none = fingerprint(&open(), 1024).unwrap();
        assert_eq!(none.bytes, 0);
        fs::write(&path, "one\n").unwrap();
        let one = fingerprint(&open(), 1024).unwrap();
        fs::write(&path, "one\ntwo\n".repeat(1_000)).unwrap();
        let all = fingerprint(&open(), 1 << 20).unwrap();
        assert_eq!((one.bytes, all.bytes), (4, 1024));
        for known in [none, one, all] {
            assert_eq!(compare(&open(), known).unwrap(), Head::Same);
        }
        fs::write(&path, "two\nthree\n").unwrap();
        assert_eq!(compare(&open(), none).unwrap(), Head::Same);
        assert_eq!(compare(&open(), one).unwrap(), Head::Other);
        assert_eq!(compare(&open(), all).unwrap(), Head::Shorter);
    }

    #[test]
    fn two_files_of_equal_content_are_two_files_and_a_renamed_one_stays_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let id = |name: &str| FileId::of(&fs::metadata(path(name)).unwrap());
        fs::write(path("a"), "same\n").unwrap();
        fs::write(path("b"), "same\n").unwrap();
        assert_ne!(id("a"), id("b"));
        let before = id("a");
        fs::rename(path("a"), path("a.1")).unwrap();
        assert_eq!(id("a.1"), before);
    }
}
