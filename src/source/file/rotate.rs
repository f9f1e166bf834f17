//! Where rotation puts older generations of a file: its siblings, and the copy of its content.
//!
//! Looks at directories and files, keeps nothing. Compressed siblings are left out. Runs on the
//! thread `file-N`.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::discover::{RotatedNames, link_allowed};
use super::identity::{self, FileId, Head};
use crate::ack::Fingerprint;

/// Ends of names that are no text any more.
const COMPRESSED: [&str; 5] = ["gz", "bz2", "xz", "zst", "lz4"];

/// An older generation of a file, by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sibling {
    pub path: PathBuf,
    pub id: FileId,
    pub size: u64,
    /// Seconds and nanoseconds.
    pub modified: (i64, i64),
}

/// The regular, uncompressed files beside `live` that rotation may have made of it, oldest
/// first. Of equally old ones (file systems keep times to some 4 ms) the number decides: the
/// higher one is older, unless all of them together show that numbers rise with time.
pub fn siblings(live: &Path, names: &RotatedNames) -> Vec<Sibling> {
    let Some(entries) = live.parent().and_then(|dir| fs::read_dir(dir).ok()) else {
        return Vec::new();
    };
    let sibling = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let name = entry.file_name();
        let path = entry.path();
        let packed = path.extension().is_some_and(|e| COMPRESSED.iter().any(|c| e == *c));
        if packed || !names.matches(&name) || path == live {
            return None;
        }
        let metadata = fs::symlink_metadata(&path).ok().filter(Metadata::is_file)?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(Sibling { path, id: FileId::of(&metadata), size: metadata.len(), modified })
    };
    let mut found: Vec<Sibling> = entries.filter_map(sibling).collect();
    found.sort_by_key(|s| (s.modified, Reverse(number(&s.path))));
    if let (Some(first), Some(last)) = (found.first(), found.last())
        && first.modified < last.modified
        && number(&first.path) < number(&last.path)
    {
        found.sort_by_key(|s| (s.modified, number(&s.path)));
    }
    found
}

/// Those of `siblings` that rotation made after the one with the inode `known`, oldest first.
/// What was last written within the same tick of the file system's clock counts as later: it is
/// up to the caller to leave out what it knows. Whether numbers rise or fall with time shows in
/// the number of the known one.
pub fn newer_than(siblings: &[Sibling], known: FileId) -> Vec<Sibling> {
    let Some(from) = siblings.iter().find(|s| s.id == known) else { return Vec::new() };
    let later = |s: &&Sibling| s.id != known && s.modified >= from.modified;
    let mut newer: Vec<Sibling> = siblings.iter().filter(later).cloned().collect();
    if newer.iter().all(|s| number(&s.path) > number(&from.path)) {
        newer.sort_by_key(|s| (s.modified, number(&s.path)));
    }
    newer
}

/// The number at the end of a name: `app.log.3` is older than `app.log.2`.
fn number(path: &Path) -> u64 {
    let digits = path.extension().and_then(OsStr::to_str).and_then(|e| e.parse().ok());
    digits.unwrap_or(0)
}

/// The newest of `siblings` that holds what a truncated file held: the same first bytes, and
/// at least as many as were read. Returns where it stands in the list.
pub fn find_copy(siblings: &[Sibling], print: Fingerprint, read: u64) -> Option<(usize, File)> {
    if print.bytes == 0 {
        return None;
    }
    siblings.iter().enumerate().rev().find_map(|(at, sibling)| {
        if sibling.size < read.max(print.bytes.into()) {
            return None;
        }
        let (file, _) = open_regular(&sibling.path, false).ok()?;
        (identity::compare(&file, print).ok()? == Head::Same).then_some((at, file))
    })
}

/// Opens a regular file for reading, without ever waiting for it (a FIFO in a glob would hang
/// an ordinary open). `link`: a symlink is followed, when it and its target have the same owner
/// or it is root's.
///
/// # Errors
/// As open(2); `PermissionDenied` for a link that must not be followed, `InvalidInput` for what
/// is not a regular file.
pub fn open_regular(path: &Path, link: bool) -> io::Result<(File, Metadata)> {
    let no_follow = if link { 0 } else { libc::O_NOFOLLOW };
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | no_follow);
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if link && !link_allowed(&fs::symlink_metadata(path)?, &metadata) {
        let why = "symlink of another owner than its target's, and not root's";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok((file, metadata))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_the_newest_sibling_with_the_same_beginning_and_enough_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let globs = vec!["{name}.*".to_owned()];
        let live = path("a.log");
        let names = RotatedNames::of(&live, &globs);
        fs::write(&live, "one\ntwo\n").unwrap();
        let print = identity::fingerprint(&File::open(&live).unwrap(), 1024).unwrap();
        fs::write(path("a.log.3"), "one\ntwo\nthree\n").unwrap();
        fs::write(path("a.log.2"), "one\n").unwrap();
        fs::write(path("a.log.4.gz"), "one\ntwo\nthree\n").unwrap();
        fs::write(path("a.log.1"), "new\ntwo\nthree\nfour\n").unwrap();
        let found = siblings(&live, &names);
        assert_eq!(found.len(), 3, "{found:?}");
        let copy = |read| find_copy(&found, print, read).map(|(at, _)| found[at].path.clone());
        assert_eq!(copy(8), Some(path("a.log.3")));
        assert_eq!(copy(14), Some(path("a.log.3")));
        assert_eq!(copy(15), None);
        assert!(find_copy(&found, Fingerprint::default(), 0).is_none());
    }

    #[test]
    fn generations_of_one_tick_come_after_the_known_one_whichever_way_numbers_go() {
        let sibling = |number: u64, modified: i64| Sibling {
            path: format!("/x/a.log.{number}").into(),
            id: FileId { device: 1, inode: number },
            size: 1,
            modified: (modified, 0),
        };
        let numbers = |siblings: &[Sibling], known| -> Vec<u64> {
            let known = FileId { device: 1, inode: known };
            newer_than(siblings, known).iter().map(|s| s.id.inode).collect()
        };
        // As `siblings` sorts them: of equally old ones the higher number first.
        let one_tick = [sibling(9, 1), sibling(4, 2), sibling(3, 2), sibling(2, 2)];
        assert_eq!(numbers(&one_tick, 4), [3, 2]);
        assert_eq!(numbers(&one_tick, 2), [3, 4]);
        assert_eq!(numbers(&[sibling(1, 1), sibling(3, 2), sibling(2, 2)], 1), [2, 3]);
        assert_eq!(numbers(&[sibling(3, 1), sibling(2, 2), sibling(1, 2)], 3), [2, 1]);
        assert!(numbers(&one_tick, 7).is_empty());
    }

    #[test]
    fn a_fifo_or_a_directory_is_not_opened_and_does_not_hang() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        for path in [fifo.as_path(), dir.path()] {
            let error = open_regular(path, false).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{}", path.display());
        }
    }
}
