//! Rotation, bounds, torn tails, and a disk that fails in the middle of a write.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::batch::{BatchId, Format, OpenBatch};
use crate::disk::HostDisk;
use crate::health::{HealthBoard, Level};
use crate::metrics::Metrics;
use crate::record::{Record, StreamLabels};
use crate::units::ByteSize;

/// The host's disk, on which the next writes fail after half of their bytes.
#[derive(Default)]
struct FailingDisk {
    failures: Arc<AtomicU32>,
}

struct FailingAppend(Box<dyn Append>, Arc<AtomicU32>);

impl Append for FailingAppend {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fails = |n: u32| n.checked_sub(1);
        if self.1.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
            self.0.append(&bytes[..bytes.len() / 2])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.sync()
    }

    fn truncate(&mut self, len_bytes: u64) -> io::Result<()> {
        self.0.truncate(len_bytes)
    }

    fn len_bytes(&self) -> io::Result<u64> {
        self.0.len_bytes()
    }
}

impl Disk for FailingDisk {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        HostDisk.read(path)
    }

    fn write_synced(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        HostDisk.write_synced(path, bytes)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        HostDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        HostDisk.remove(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.sync_dir(path)
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn Append>> {
        let file = HostDisk.open_append(path)?;
        Ok(Box::new(FailingAppend(file, self.failures.clone())))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        HostDisk.list(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        HostDisk.create_dir(path)
    }
}

struct Bench {
    destination: LocalFileDestination,
    failures: Arc<AtomicU32>,
    health: Arc<HealthBoard>,
    now: Instant,
}

fn bench(path: &Path, rotate: u64, keep: usize, total: u64) -> Bench {
    let health = Arc::<HealthBoard>::default();
    let state = SinkState::new("copy", 1, Arc::new(Metrics::new()), health.clone());
    let disk = FailingDisk::default();
    let failures = disk.failures.clone();
    let settings = LocalFile {
        path: path.to_owned(),
        rotate_bytes: ByteSize(rotate),
        keep,
        total_bytes: ByteSize(total),
    };
    let destination = LocalFileDestination::new(settings, Arc::new(disk), state);
    Bench { destination, failures, health, now: Instant::now() }
}

impl Bench {
    /// Attempts until it is done; how often it had to wait.
    fn write(&mut self, lines: std::ops::Range<usize>) -> u32 {
        let batch = batch(lines);
        let mut waits = 0;
        loop {
            let moment = Moment { now: self.now, wall_ns: 0, stop_at: None };
            match self.destination.attempt(&batch, moment) {
                Step::Done(outcome) => {
                    assert_eq!(outcome.delivered, batch.entries);
                    return waits;
                }
                Step::Wait(at) => self.now = at,
                Step::Again => {}
            }
            assert_eq!(self.health.worst(), Level::Unhealthy);
            waits += 1;
            assert!(waits < 100);
        }
    }
}

fn batch(lines: std::ops::Range<usize>) -> SealedBatch {
    let labels = StreamLabels::new([("job".to_owned(), "x".to_owned())]);
    let mut open = OpenBatch::new(Format::Ndjson, Instant::now());
    for i in lines {
        let line = format!("line {i:05}");
        let record =
            Record { timestamp_ns: 1, line: line.as_bytes(), labels: &labels, metadata: &[] };
        open.push(&record, None);
    }
    open.seal(BatchId(1), 0, 0, &mut Default::default())
}

/// The lines of all files in order, each file whole lines of JSON only.
fn lines(path: &Path) -> Vec<String> {
    let mut files = HostDisk.list(path).unwrap();
    files.sort_by_key(|p| rotated_number(p).unwrap_or(u64::MAX));
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
        for line in text.lines() {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            found.push(row["line"].as_str().unwrap().to_owned());
        }
    }
    found
}

fn numbered(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|i| format!("line {i:05}")).collect()
}

#[test]
fn lines_are_there_in_order_across_rotations_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("captured");
    for run in 0..3 {
        let mut bench = bench(&path, 2_000, 100, 1 << 20);
        for i in 0..10 {
            let from = run * 100 + i * 10;
            assert_eq!(bench.write(from..from + 10), 0);
        }
    }
    assert_eq!(lines(&path), numbered(0..300));
    let files = HostDisk.list(&path).unwrap();
    assert!(files.len() > 5);
    for file in files {
        assert!(std::fs::metadata(file).unwrap().len() <= 2_000);
    }
}

#[test]
fn a_batch_larger_than_a_file_is_written_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(dir.path(), 100, 100, 1 << 20);
    bench.write(0..50);
    bench.write(50..60);
    assert_eq!(lines(dir.path()), numbered(0..60));
    assert_eq!(HostDisk.list(dir.path()).unwrap().len(), 2);
}

#[test]
fn the_oldest_files_leave_by_count_and_by_bytes() {
    for (keep, total) in [(3, 1 << 20), (100, 8_000)] {
        let dir = tempfile::tempdir().unwrap();
        let mut bench = bench(dir.path(), 2_000, keep, total);
        for i in 0..40 {
            bench.write(i * 10..i * 10 + 10);
        }
        let left = lines(dir.path());
        assert_eq!(left, numbered(400 - left.len()..400));
        let files = HostDisk.list(dir.path()).unwrap();
        let bytes: u64 = files.iter().map(|f| HostDisk.len_bytes(f).unwrap()).sum();
        assert!(files.len() <= 5 && bytes <= 8_000, "{} files, {bytes} bytes", files.len());
        assert!(left.len() >= 40);
    }
}

#[test]
fn a_torn_tail_is_cut_at_start() {
    let dir = tempfile::tempdir().unwrap();
    bench(dir.path(), 1 << 20, 3, 1 << 30).write(0..5);
    let current = dir.path().join(CURRENT);
    let mut bytes = std::fs::read(&current).unwrap();
    bytes.extend(std::iter::repeat_n(b'x', 200_000));
    std::fs::write(&current, bytes).unwrap();
    bench(dir.path(), 1 << 20, 3, 1 << 30).write(5..10);
    assert_eq!(lines(dir.path()), numbered(0..10));
}

#[test]
fn a_full_disk_holds_the_batch_and_nothing_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let mut bench = bench(dir.path(), 1_000, 100, 1 << 20);
    for i in 0..30 {
        bench.failures.store((i % 4) as u32, Ordering::SeqCst);
        assert_eq!(bench.write(i * 7..i * 7 + 7), (i % 4) as u32);
        assert_eq!(bench.health.worst(), Level::Healthy);
    }
    assert_eq!(lines(dir.path()), numbered(0..210));
}

#[test]
fn a_directory_that_cannot_be_made_holds_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("captured");
    std::fs::write(&path, "in the way").unwrap();
    let mut bench = bench(&path, 1_000, 100, 1 << 20);
    let moment = Moment { now: bench.now, wall_ns: 0, stop_at: None };
    assert!(matches!(bench.destination.attempt(&batch(0..3), moment), Step::Wait(_)));
    std::fs::remove_file(&path).unwrap();
    bench.destination.hurry();
    assert_eq!(bench.write(0..3), 0);
    assert_eq!(lines(&path), numbered(0..3));
}
