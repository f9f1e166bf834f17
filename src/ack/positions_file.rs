//! The positions file: versioned, replaced atomically, with the generation before it kept.
//!
//! Format: JSON lines. The first is `{"log_capturer_positions":1,"count":N}`, then one
//! [`Position`] a line, then `{"crc":"HHHHHHHHHHHHHHHH"}`, the xxh3 of all bytes before that
//! line. A file whose check fails is set aside as `positions.damaged-<ns>` and the previous
//! generation (`positions.old`) is used; a damaged file never stops the start.

use std::fmt;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Position;
use crate::disk::Disk;

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Head {
    log_capturer_positions: u32,
    count: usize,
}

#[derive(Serialize, Deserialize)]
struct Tail {
    crc: String,
}

/// Why a generation could not be used.
#[derive(Debug)]
pub enum PositionsError {
    Io(PathBuf, io::Error),
    Damaged(PathBuf, String),
}

impl fmt::Display for PositionsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, e) => write!(f, "positions file {}: {e}", path.display()),
            Self::Damaged(path, what) => write!(f, "positions file {}: {what}", path.display()),
        }
    }
}

impl std::error::Error for PositionsError {}

/// Both generations in the data directory.
pub struct PositionsFile {
    dir: PathBuf,
}

impl PositionsFile {
    pub fn new(data_dir: &Path) -> Self {
        Self { dir: data_dir.to_owned() }
    }

    fn path(&self) -> PathBuf {
        self.dir.join("positions")
    }

    fn old_path(&self) -> PathBuf {
        self.dir.join("positions.old")
    }

    /// Replaces the file: written aside, synced, renamed, directory synced.
    ///
    /// # Errors
    /// The failing step; the file that was there is still whole.
    pub fn save(&self, disk: &dyn Disk, positions: &[Position]) -> Result<(), PositionsError> {
        let text = encode(positions);
        let new = self.dir.join("positions.new");
        let at = |path: &Path| {
            let path = path.to_owned();
            move |e| PositionsError::Io(path, e)
        };
        disk.write_synced(&new, &text).map_err(at(&new))?;
        match disk.rename(&self.path(), &self.old_path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(&self.path())(e)),
            _ => {}
        }
        disk.rename(&new, &self.path()).map_err(at(&self.path()))?;
        disk.sync_dir(&self.dir).map_err(at(&self.dir))
    }

    /// The newest good generation, with the errors of those that were not good. Damaged files
    /// are set aside.
    pub fn load(&self, disk: &dyn Disk, wall_ns: i64) -> (Vec<Position>, Vec<PositionsError>) {
        let mut errors = Vec::new();
        for path in [self.path(), self.dir.join("positions.new"), self.old_path()] {
            match disk.read(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => errors.push(PositionsError::Io(path, e)),
                Ok(bytes) => match decode(&bytes) {
                    Ok(positions) => return (positions, errors),
                    Err(what) => {
                        let name = path.file_name().unwrap_or_default().to_string_lossy();
                        let aside = self.dir.join(format!("{name}.damaged-{wall_ns}"));
                        if let Err(e) = disk.rename(&path, &aside) {
                            errors.push(PositionsError::Io(aside, e));
                        }
                        errors.push(PositionsError::Damaged(path, what));
                    }
                },
            }
        }
        (Vec::new(), errors)
    }
}

fn encode(positions: &[Position]) -> Vec<u8> {
    let mut text = Vec::with_capacity(256 * (positions.len() + 2));
    let head = Head { log_capturer_positions: VERSION, count: positions.len() };
    put_line(&mut text, &head);
    for position in positions {
        put_line(&mut text, position);
    }
    let crc = format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&text));
    put_line(&mut text, &Tail { crc });
    text
}

fn put_line(text: &mut Vec<u8>, value: &impl Serialize) {
    // Writing to a Vec cannot fail, and these types always serialize.
    if let Err(e) = serde_json::to_writer(&mut *text, value) {
        panic!("a position does not serialize: {e}");
    }
    let _ = text.write_all(b"\n");
}

fn decode(bytes: &[u8]) -> Result<Vec<Position>, String> {
    let body = bytes.strip_suffix(b"\n").ok_or("its end is missing")?;
    let tail_at = memchr::memrchr(b'\n', body).ok_or("its end is missing")? + 1;
    let tail: Tail = serde_json::from_slice(&body[tail_at..]).map_err(|_| "its end is missing")?;
    if tail.crc != format!("{:016x}", xxhash_rust::xxh3::xxh3_64(&bytes[..tail_at])) {
        return Err("its checksum does not match".into());
    }
    let mut lines = bytes[..tail_at].split(|b| *b == b'\n').filter(|l| !l.is_empty());
    let head: Head = serde_json::from_slice(lines.next().unwrap_or_default())
        .map_err(|e| format!("its first line is not a head: {e}"))?;
    if head.log_capturer_positions != VERSION {
        return Err(format!("version {}, expected {VERSION}", head.log_capturer_positions));
    }
    let positions: Result<Vec<Position>, _> = lines.map(serde_json::from_slice).collect();
    let positions = positions.map_err(|e| format!("a position is malformed: {e}"))?;
    if positions.len() != head.count {
        return Err(format!("{} positions, its head says {}", positions.len(), head.count));
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::super::{FileIdentity, Fingerprint, Identity};
    use super::*;
    use crate::disk::HostDisk;
    use crate::record::Place;

    fn position(offset: u64) -> Position {
        let identity = Identity::File(FileIdentity {
            source: "s".into(),
            path: "/x".into(),
            device: 1,
            inode: 2,
            fingerprint: Fingerprint::default(),
            container: None,
        });
        Position { identity, place: Place::at(offset), gone_since_ns: None }
    }

    #[test]
    fn what_is_saved_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = PositionsFile::new(dir.path());
        assert!(file.load(&HostDisk, 0).0.is_empty());
        file.save(&HostDisk, &[position(1), position(2)]).unwrap();
        let (positions, errors) = file.load(&HostDisk, 0);
        assert_eq!(positions, [position(1), position(2)]);
        assert!(errors.is_empty());
    }

    #[test]
    fn a_damaged_file_is_set_aside_and_the_generation_before_it_serves() {
        let whole = encode(&[position(2)]);
        let mut flipped = whole.clone();
        flipped[40] ^= 1;
        let future =
            String::from_utf8(whole.clone()).unwrap().replace("positions\":1", "positions\":9");
        for damaged in [&whole[..whole.len() - 3], b"", &flipped, future.as_bytes()] {
            let dir = tempfile::tempdir().unwrap();
            let file = PositionsFile::new(dir.path());
            file.save(&HostDisk, &[position(1)]).unwrap();
            file.save(&HostDisk, &[position(2)]).unwrap();
            std::fs::write(file.path(), damaged).unwrap();
            let (positions, errors) = file.load(&HostDisk, 77);
            assert_eq!(positions, [position(1)]);
            assert_eq!(errors.len(), 1, "{errors:?}");
            let aside = dir.path().join("positions.damaged-77");
            assert_eq!(std::fs::read(aside).unwrap(), damaged);
        }
    }

    #[test]
    fn a_crash_between_the_two_renames_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = PositionsFile::new(dir.path());
        file.save(&HostDisk, &[position(1)]).unwrap();
        file.save(&HostDisk, &[position(2)]).unwrap();
        std::fs::rename(file.path(), dir.path().join("positions.new")).unwrap();
        assert_eq!(file.load(&HostDisk, 0).0, [position(2)]);
    }
}
