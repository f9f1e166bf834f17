//! Lines that can be accounted for: ` f=<file> n=<number> ` in each, as `loggen` writes them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A log file that is written line by line and rotated.
pub struct Writer {
    path: PathBuf,
    file: File,
    number: u32,
    next: u64,
    generation: u32,
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("a log file is opened")
}

impl Writer {
    /// `number` marks the file in each line.
    pub fn new(path: PathBuf, number: u32) -> Writer {
        let file = append(&path);
        Writer { path, file, number, next: 0, generation: 0 }
    }

    /// Lines written so far.
    pub fn count(&self) -> u64 {
        self.next
    }

    /// Writes lines of about 100 bytes in one write.
    pub fn lines(&mut self, count: u64) {
        let mut text = String::new();
        for n in self.next..self.next + count {
            text.push_str(&format!("INFO f={} n={n} {:-<70}\n", self.number, ""));
        }
        self.next += count;
        self.raw(text.as_bytes());
    }

    /// Writes bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.file.write_all(bytes).expect("the log file is written");
    }

    fn rotated(&mut self) -> PathBuf {
        self.generation += 1;
        PathBuf::from(format!("{}.{}", self.path.display(), self.generation))
    }

    pub fn rotate_by_rename(&mut self) {
        let to = self.rotated();
        std::fs::rename(&self.path, to).expect("the log file is renamed");
        self.file = append(&self.path);
    }

    pub fn rotate_by_copytruncate(&mut self) {
        let to = self.rotated();
        std::fs::copy(&self.path, to).expect("the log file is copied");
        self.file.set_len(0).expect("the log file is truncated");
    }
}
