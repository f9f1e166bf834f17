//! A lane on real files in a temporary directory, stepped by the test, with a consumer that
//! takes its batches and acknowledges them.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::*;
use crate::ack::{AckEvent, AckPort, Outcome, Watermarks};
use crate::batch::{Format, SinkPort, loki_push};
use crate::clock::SystemClock;
use crate::config::checked::{LongLines, StartAt};
use crate::queue::{QueuedBatch, SinkBudget, SinkQueue, Waker};
use crate::source::ContainerLog;
use crate::source::file::discover::tests::source;
use crate::source::file::watch::{LaneInbox, start};
use crate::units::ByteSize;

/// Longest that a test waits for a state.
const PATIENCE: Duration = Duration::from_secs(20);

struct Entry {
    time_ns: i64,
    labels: String,
    line: String,
}

struct Rig {
    lane: Lane,
    beat: Beat,
    batches: Receiver<QueuedBatch>,
    acks: Receiver<AckEvent>,
    budget: Arc<SinkBudget>,
    marks: Watermarks,
    had: Vec<Entry>,
    diverted: Receiver<String>,
    inbox: Sender<FileEvent>,
}

fn rig(source: FileSource, positions: Vec<Position>) -> Rig {
    rig_with(source, positions, 1 << 20, true)
}

fn rig_with(source: FileSource, positions: Vec<Position>, memory: usize, watched: bool) -> Rig {
    let (inbox_tx, inbox) = bounded(4096);
    let rescan = Arc::new(AtomicBool::new(false));
    let (batch_tx, batches) = bounded(64);
    let (ack_tx, acks) = bounded(4096);
    let (divert_tx, diverted) = bounded(64);
    let wake = inbox_tx.clone();
    let waker = Waker::new(move || drop(wake.try_send(FileEvent::Wake)));
    let budget = SinkBudget::new(memory, 1, vec![waker]);
    let metrics = Arc::new(Metrics::new());
    let port = SinkPort {
        index: 0,
        name: "loki".into(),
        required: true,
        format: Format::LokiPush,
        batch_bytes: 64 << 10,
        batch_wait: Duration::from_millis(20),
        queue: SinkQueue::new(budget.clone(), vec![batch_tx]),
        streams: Arc::new(crate::batch::SinkStreams::new(100)),
    };
    let events = inbox_tx.clone();
    let watch = start(&[LaneInbox { events, rescan: rescan.clone() }]).unwrap();
    let lane = FileLane {
        inbox,
        rescan,
        watch: watched.then(|| Arc::new(watch)),
        sources: vec![Arc::new(source)],
        lane: 0,
        lanes: 1,
        batcher: Batcher::new(1, vec![port], AckPort::new(ack_tx), metrics.clone()),
        positions: positions.clone(),
        clock: Arc::new(SystemClock),
        metrics,
        health: Arc::default(),
        divert: Arc::new(move |long| divert_tx.try_send(long.line.to_owned()).is_ok()),
        stop: Stop::default(),
    };
    let marks = Watermarks::restored(positions, 0);
    let (lane, beat) = (Lane::new(lane), Beat::new());
    Rig { lane, beat, batches, acks, budget, marks, had: vec![], diverted, inbox: inbox_tx }
}

impl Rig {
    fn take_events(&mut self) {
        for event in self.acks.try_iter() {
            self.marks.step(event, 0);
        }
    }

    fn take_batches(&mut self) {
        while let Ok(queued) = self.batches.try_recv() {
            self.take_events();
            let mut raw = Vec::new();
            queued.batch.uncompress(&mut raw).unwrap();
            for span in &queued.batch.streams {
                let bytes = &raw[span.raw.start as usize..span.raw.end as usize];
                let (labels, entries) = loki_push::split_stream(bytes).unwrap();
                self.had.extend(loki_push::entries(entries).map(|e| Entry {
                    time_ns: e.timestamp_ns,
                    labels: labels.to_owned(),
                    line: String::from_utf8(e.line.to_vec()).unwrap(),
                }));
            }
            self.marks.step(AckEvent::Done(queued.batch.id, Outcome::default()), 0);
            self.budget.release(queued.batch.shard, queued.cost_bytes);
        }
        self.take_events();
    }

    fn step(&mut self) {
        self.lane.work();
        self.take_batches();
        self.lane.wait(&self.beat);
    }

    fn until(&mut self, what: &str, done: impl Fn(&Rig) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            let lines: Vec<_> = self.had.iter().rev().take(20).map(|e| &e.line).collect();
            assert!(Instant::now() < deadline, "never: {what}; last lines: {lines:?}");
            self.lane.work();
            self.take_batches();
            // What is awaited may have come just now: then no event would end the wait.
            if !done(self) {
                self.lane.wait(&self.beat);
            }
        }
    }

    /// Waits for exactly these lines, in this order.
    fn wants(&mut self, lines: &[&str]) {
        self.until(&format!("{lines:?}"), |r| r.had.len() >= lines.len());
        self.lines_are(lines);
    }

    fn lines_are(&self, lines: &[&str]) {
        let had: Vec<_> = self.had.iter().map(|e| e.line.as_str()).collect();
        assert_eq!(had, lines);
    }

    /// Ends as on SIGTERM and gives the positions.
    fn stopped(mut self) -> Vec<Position> {
        while !self.lane.cx.batcher.is_empty() || self.budget.held_batches() > 0 {
            self.lane.cx.batcher.drain();
            self.take_batches();
        }
        self.marks.snapshot(0, i64::MAX)
    }

    /// Ends as on SIGKILL: only what was acknowledged counts.
    fn killed(mut self) -> Vec<Position> {
        self.take_events();
        self.marks.snapshot(0, i64::MAX)
    }
}

fn in_dir(dir: &Path) -> FileSource {
    let dir = dir.canonicalize().unwrap();
    let mut source = source("s", &[format!("{}/**/*.log", dir.display())], &[]);
    source.rotated_grace = Duration::from_millis(300);
    source.partial_wait = Duration::from_millis(600);
    source
}

fn container(path: &Path) -> FileEvent {
    FileEvent::Container(Box::new(ContainerLog {
        source: "local".into(),
        id: "c".repeat(64),
        name: "web".into(),
        path: path.to_owned(),
        labels: vec![("container".into(), "web".into())],
        metadata: vec![("image".into(), "i".into())],
        line_bytes_max: 64 << 10,
        long_lines: LongLines::Split,
        partial_wait: Duration::from_millis(600),
        start_at: StartAt::Beginning,
        sinks: Arc::from([0usize]),
        tty: false,
    }))
}

/// A record as the engine writes it; `n` gives its time.
fn json(stream: &str, n: u32, log: &str) -> String {
    let log = serde_json::to_string(log).unwrap();
    format!("{{\"log\":{log},\"stream\":\"{stream}\",\"time\":\"2026-01-01T00:00:00.{n:09}Z\"}}\n")
}

fn container_rig(path: &Path, positions: Vec<Position>, memory: usize) -> Rig {
    let nothing = source("none", &["/nonexistent/*.log".to_owned()], &[]);
    let mut rig = rig_with(nothing, positions, memory, true);
    rig.inbox.try_send(container(path)).unwrap();
    rig.lane.work();
    rig
}

fn append(path: &Path, text: impl AsRef<[u8]>) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

#[test]
fn lines_arrive_as_they_are_appended_with_times_that_rise() {
    for watched in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.log");
        append(&path, "one\r\n\ntwo\nthr");
        let mut rig = rig_with(in_dir(dir.path()), vec![], 1 << 20, watched);
        rig.wants(&["one", "", "two"]);
        append(&path, b"ee\nfo\xff\n");
        rig.wants(&["one", "", "two", "three", "fo\u{fffd}"]);
        assert!(rig.had.is_sorted_by(|a, b| a.time_ns < b.time_ns));
        let path = dir.path().canonicalize().unwrap().join("a.log");
        let labels = format!("{{filename=\"{}\", job=\"s\"}}", path.display());
        assert!(rig.had.iter().all(|e| e.labels == labels), "{}", rig.had[0].labels);
        let place = rig.stopped()[0].place.offset;
        assert_eq!(place, fs::metadata(&path).unwrap().len());
    }
}

#[test]
fn an_idle_file_is_heard_of_through_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    append(&path, "one\n");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.wants(&["one"]);
    rig.until("the file rests", |r| r.lane.active.is_empty() && r.lane.ready.is_empty());
    let dirs = &rig.lane.dirs;
    assert!(dirs.values().any(|d| d.data_watched), "no directory is watched for data");
    append(&path, "two\n");
    rig.wants(&["one", "two"]);
}

#[test]
fn a_file_that_appears_later_is_read_from_its_beginning_also_in_a_new_directory() {
    let dir = tempfile::tempdir().unwrap();
    append(&dir.path().join("old.log"), "old\n");
    let mut source = in_dir(dir.path());
    source.start_at = StartAt::End;
    let mut rig = rig(source.clone(), vec![]);
    rig.until("the first sweep", |r| r.lane.swept);
    append(&dir.path().join("new.log"), "one\n");
    rig.wants(&["one"]);
    fs::create_dir_all(dir.path().join("x/y")).unwrap();
    append(&dir.path().join("x/y/z.log"), "two\n");
    rig.wants(&["one", "two"]);
    append(&dir.path().join("old.log"), "three\n");
    rig.wants(&["one", "two", "three"]);
    let positions = rig.stopped();
    // Not the first sweep ever: start_at counts no more.
    append(&dir.path().join("later.log"), "four\n");
    let mut rig = self::rig(source, positions);
    rig.wants(&["four"]);
}

#[test]
fn a_directory_that_does_not_exist_yet_is_awaited() {
    let dir = tempfile::tempdir().unwrap();
    let mut rig = rig(in_dir(&dir.path().join(".")), vec![]);
    drop(rig.inbox.try_send(FileEvent::Names("/nowhere".into())));
    let late = dir.path().canonicalize().unwrap().join("late/deep");
    let source = source("s", &[format!("{}/a.log", late.display())], &[]);
    rig.until("the first sweep", |r| r.lane.swept);
    let mut rig = self::rig(source, vec![]);
    rig.until("the first sweep", |r| r.lane.swept);
    fs::create_dir_all(&late).unwrap();
    append(&late.join("a.log"), "one\n");
    rig.wants(&["one"]);
}

#[test]
fn a_directory_that_is_removed_and_made_anew_is_watched_again() {
    let dir = tempfile::tempdir().unwrap();
    let below = dir.path().join("below");
    fs::create_dir(&below).unwrap();
    append(&below.join("a.log"), "one\n");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.wants(&["one"]);
    fs::remove_dir_all(&below).unwrap();
    fs::create_dir(&below).unwrap();
    rig.until("the new directory is listed", |r| r.lane.names_due.is_none());
    rig.until("the old file is let go", |r| r.lane.open_files == 0);
    append(&below.join("b.log"), "two\n");
    rig.wants(&["one", "two"]);
}

#[test]
fn more_files_than_may_be_open_are_all_read_and_those_at_rest_closed() {
    let dir = tempfile::tempdir().unwrap();
    let path = |n: usize| dir.path().join(format!("{n:02}.log"));
    (0..20).for_each(|n| append(&path(n), format!("a{n:02}\n")));
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.lane.open_files_max = 8;
    rig.until("the first lines", |r| r.had.len() == 20);
    rig.until("the files rest", |r| r.lane.active.is_empty() && r.lane.ready.is_empty());
    assert!(rig.lane.open_files <= 8, "{} files are open", rig.lane.open_files);
    let open = rig.lane.chains.iter().flatten().map(Chain::open_files).sum::<usize>();
    assert_eq!(rig.lane.open_files, open);
    // One is renamed while it is closed, another grows.
    fs::rename(path(0), dir.path().join("00.log.1")).unwrap();
    append(&dir.path().join("00.log.1"), "b00\n");
    (1..20).for_each(|n| append(&path(n), format!("b{n:02}\n")));
    append(&path(0), "c00\n");
    rig.until("the second lines", |r| r.had.len() == 41);
    let mut had: Vec<_> = rig.had.iter().map(|e| e.line.clone()).collect();
    had.sort();
    had.dedup();
    assert_eq!(had.len(), 41);
}

#[test]
fn a_renamed_file_is_read_to_its_end_and_then_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (live, old) = (dir.path().join("a.log"), dir.path().join("a.log.1"));
    append(&live, "one\n");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.wants(&["one"]);
    let mut writer = OpenOptions::new().append(true).open(&live).unwrap();
    fs::rename(&live, &old).unwrap();
    append(&live, "three\n");
    writer.write_all(b"two\n").unwrap();
    rig.wants(&["one", "two", "three"]);
    writer.write_all(b"late\n").unwrap();
    rig.wants(&["one", "two", "three", "late"]);
    rig.until("the old file is let go", |r| r.lane.open_files == 1);
    append(&live, "four\n");
    rig.wants(&["one", "two", "three", "late", "four"]);
    assert!(rig.had.iter().all(|e| e.labels.contains("/a.log\"")));
    assert!(rig.had.is_sorted_by(|a, b| a.time_ns < b.time_ns));
}

#[test]
fn many_rotations_by_rename_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("a.log");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    let mut wanted = Vec::new();
    for generation in 0..40 {
        for n in 0..50 {
            let line = format!("{generation} {n}");
            append(&live, format!("{line}\n"));
            wanted.push(line);
        }
        if generation % 3 == 0 {
            rig.step();
        }
        let old = dir.path().join(format!("a.log.{generation}"));
        fs::rename(&live, &old).unwrap();
        // The file system's clock is too coarse for so many rotations.
        let at = std::time::SystemTime::now() + Duration::from_secs(generation);
        OpenOptions::new().append(true).open(&old).unwrap().set_modified(at).unwrap();
    }
    append(&live, "end\n");
    wanted.push("end".to_owned());
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    // Before the first file is known, what is rotated is history.
    let first = 50;
    rig.until("the last line", |r| r.had.iter().any(|e| e.line == "end"));
    let had: Vec<_> = rig.had.iter().map(|e| e.line.as_str()).collect();
    let begun = wanted.iter().position(|w| *w == had[0]).unwrap();
    assert!(begun <= first, "began at {begun}");
    let differ = had.iter().zip(&wanted[begun..]).position(|(a, b)| a != b);
    assert_eq!((differ, had.len()), (None, wanted.len() - begun));
}

#[test]
fn after_copytruncate_the_copy_is_read_from_where_we_were() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("a.log");
    let mut source = in_dir(dir.path());
    // The copies match the pattern as well, and are no new files.
    let root = dir.path().canonicalize().unwrap();
    source.include = self::source("s", &[format!("{}/a.log*", root.display())], &[]).include;
    append(&live, "1\n2\n");
    let mut rig = rig(source, vec![]);
    rig.wants(&["1", "2"]);
    let mut wanted: Vec<String> = vec!["1".into(), "2".into()];
    for generation in 0..5 {
        let lines: Vec<_> = (0..20).map(|n| format!("{generation} {n}")).collect();
        append(&live, lines.join("\n") + "\n");
        fs::copy(&live, dir.path().join(format!("a.log.{generation}"))).unwrap();
        OpenOptions::new().write(true).open(&live).unwrap().set_len(0).unwrap();
        wanted.extend(lines);
        // Twice two generations pass unseen.
        if generation % 2 == 0 {
            let tail = format!("after {generation}");
            append(&live, format!("{tail}\n"));
            wanted.push(tail);
            let refs: Vec<&str> = wanted.iter().map(String::as_str).collect();
            rig.wants(&refs);
        }
    }
    rig.until("the copies are let go", |r| r.lane.open_files == 1);
    let refs: Vec<&str> = wanted.iter().map(String::as_str).collect();
    rig.lines_are(&refs);
    assert_eq!(rig.lane.chains.iter().flatten().count(), 1);
}

#[test]
fn a_copy_shorter_than_what_was_read_is_known_as_the_copy_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("a.log");
    let source = || {
        let mut source = in_dir(dir.path());
        let root = dir.path().canonicalize().unwrap();
        source.include = self::source("s", &[format!("{}/a.log*", root.display())], &[]).include;
        source
    };
    let head = "x".repeat(limits::FINGERPRINT_BYTES_MAX);
    append(&live, format!("{head}\n1\n"));
    let mut rig = rig(source(), vec![]);
    rig.wants(&[&head, "1"]);
    // Read, but not acknowledged: 2, which is in the copy, and 3, which is not.
    append(&live, "2\n");
    fs::copy(&live, dir.path().join("a.log.1")).unwrap();
    append(&live, "3\n");
    let deadline = Instant::now() + PATIENCE;
    let unacknowledged = |rig: &mut Rig, done: &dyn Fn(&Chain) -> bool| {
        while !done(rig.lane.chain(0)) {
            assert!(Instant::now() < deadline);
            rig.lane.work();
            rig.lane.wait(&rig.beat);
        }
    };
    let size = fs::metadata(&live).unwrap().len();
    unacknowledged(&mut rig, &|c| c.segments[0].tail.read_offset() == size);
    fs::write(&live, "").unwrap();
    unacknowledged(&mut rig, &|c| c.segments.back().unwrap().tail.read_offset() == 0);
    let positions = rig.killed();
    append(&live, "4\n");
    let mut rig = self::rig(source(), positions);
    rig.wants(&["2", "4"]);
    let positions = rig.stopped();
    append(&live, "5\n");
    let mut rig = self::rig(source(), positions);
    rig.wants(&["5"]);
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    append(&path, "one\n");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.wants(&["one"]);
    let mut writer = OpenOptions::new().append(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    writer.write_all(b"two\nno newline").unwrap();
    rig.wants(&["one", "two", "no newline"]);
    rig.until("the file is let go", |r| r.lane.open_files == 0 && r.lane.live.is_empty());
    assert!(rig.stopped().is_empty());
}

#[test]
fn a_last_line_without_newline_waits_then_comes_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    append(&path, "one\npart");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.wants(&["one", "part"]);
    append(&path, "ial\ntwo\n");
    rig.wants(&["one", "part", "ial", "two"]);
}

#[test]
fn long_lines_are_split_truncated_or_diverted() {
    let long = "x".repeat(300 << 10);
    let size = ByteSize::kib(100);
    let part = "x".repeat(100 << 10);
    let parts = [part.as_str(), part.as_str(), part.as_str()];
    for (mode, middle) in [
        (LongLines::Split, &parts[..]),
        (LongLines::Truncate, &parts[..1]),
        (LongLines::DeadLetter, &[]),
    ] {
        let dir = tempfile::tempdir().unwrap();
        append(&dir.path().join("a.log"), format!("one\n{long}\ntwo\n"));
        let mut source = in_dir(dir.path());
        (source.long_lines, source.line_bytes_max) = (mode, size);
        let mut rig = rig(source, vec![]);
        let mut wanted = vec!["one"];
        wanted.extend(middle);
        wanted.push("two");
        rig.wants(&wanted);
        let diverted: Vec<_> = rig.diverted.try_iter().collect();
        let expected = if mode == LongLines::DeadLetter { vec![part.clone()] } else { vec![] };
        assert_eq!(diverted, expected);
    }
}

#[test]
fn long_lines_wait_for_room_in_dead_letters_though_nothing_wakes_the_lane() {
    let dir = tempfile::tempdir().unwrap();
    let mut source = in_dir(dir.path());
    (source.line_bytes_max, source.long_lines) = (ByteSize(8), LongLines::DeadLetter);
    let mut rig = rig(source, vec![]);
    let room = rig.diverted.capacity().unwrap();
    let long = "x".repeat(20) + "\n";
    append(&dir.path().join("a.log"), long.repeat(room + 1) + "end\n");
    rig.until("no room", |r| r.diverted.is_full());
    rig.until("the lane at rest", |r| !r.lane.blocked.is_empty());
    assert_eq!(rig.diverted.try_iter().count(), room);
    rig.wants(&["end"]);
    assert_eq!(rig.diverted.try_iter().count(), 1);
}

#[test]
fn a_full_queue_pauses_reading_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let wanted: Vec<String> = (0..40_000).map(|n| format!("{n:0100}")).collect();
    for (i, part) in wanted.chunks(10_000).enumerate() {
        append(&dir.path().join(format!("{i}.log")), part.join("\n") + "\n");
    }
    let mut rig = rig_with(in_dir(dir.path()), vec![], 1, true);
    let mut paused = false;
    let deadline = Instant::now() + PATIENCE;
    while rig.had.len() < wanted.len() {
        assert!(Instant::now() < deadline, "{} lines", rig.had.len());
        rig.lane.work();
        paused |= !rig.lane.blocked.is_empty();
        rig.take_batches();
        rig.lane.wait(&rig.beat);
    }
    assert!(paused);
    let mut had: Vec<_> = rig.had.iter().map(|e| e.line.clone()).collect();
    had.sort();
    assert_eq!(had, wanted);
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for entry in &rig.had {
        let before = last.insert(&entry.labels, entry.time_ns);
        assert!(before.is_none_or(|b| b < entry.time_ns), "{}", entry.line);
    }
}

#[test]
fn after_a_stop_reading_goes_on_where_it_was_also_in_what_was_rotated_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    append(&path("a.log"), "1\n2\n");
    append(&path("b.log"), "b1\n");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.until("three lines", |r| r.had.len() == 3);
    let positions = rig.stopped();
    append(&path("a.log"), "3\n");
    fs::rename(path("a.log"), path("a.log.2")).unwrap();
    append(&path("a.log.1"), "4\n");
    append(&path("a.log"), "5\n");
    append(&path("b.log"), "b2\n");
    // Emptied by copytruncate.
    fs::copy(path("b.log"), path("b.log.1")).unwrap();
    fs::write(path("b.log"), "b3\n").unwrap();
    let mut rig = self::rig(in_dir(dir.path()), positions);
    rig.until("five lines", |r| r.had.len() >= 5);
    rig.until("the old files are let go", |r| r.lane.open_files == 2);
    let of = |name: &str| -> Vec<String> {
        let found = rig.had.iter().filter(|e| e.labels.contains(name));
        found.map(|e| e.line.clone()).collect()
    };
    assert_eq!(of("/a.log\""), ["3", "4", "5"]);
    assert_eq!(of("/b.log\""), ["b2", "b3"]);
    let positions = rig.stopped();
    let mut rig = self::rig(in_dir(dir.path()), positions);
    append(&path("a.log"), "6\n");
    rig.wants(&["6"]);
}

#[test]
fn generations_after_one_that_was_compressed_meanwhile_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    append(&path("a.log.1.gz"), "history");
    append(&path("a.log"), "1\n");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.wants(&["1"]);
    let positions = rig.stopped();
    // Still there while the next ones are made, so that its inode is not used again.
    let compressed = fs::File::open(path("a.log")).unwrap();
    fs::remove_file(path("a.log")).unwrap();
    append(&path("a.log.2"), "2\n");
    append(&path("a.log.1"), "3\n");
    append(&path("a.log"), "4\n");
    drop(compressed);
    let mut rig = self::rig(in_dir(dir.path()), positions);
    rig.wants(&["2", "3", "4"]);
    let positions = rig.stopped();
    append(&path("a.log"), "5\n");
    let mut rig = self::rig(in_dir(dir.path()), positions);
    rig.wants(&["5"]);
}

#[test]
fn generations_of_one_tick_are_read_in_order_whichever_way_their_numbers_go() {
    let tick = std::time::SystemTime::now();
    for (first, second, third) in [("1", "2", "3"), ("3", "2", "1")] {
        for running in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let live = dir.path().join("a.log");
            let written = |text: &str| {
                append(&live, format!("{text}\n"));
                OpenOptions::new().append(true).open(&live).unwrap().set_modified(tick).unwrap();
            };
            append(&live, "0\n");
            let mut rig = rig(in_dir(dir.path()), vec![]);
            rig.wants(&["0"]);
            if !running {
                let positions = rig.stopped();
                rig = self::rig(in_dir(dir.path()), positions);
            }
            for (text, number) in [("1", first), ("2", second), ("3", third)] {
                written(text);
                fs::rename(&live, dir.path().join(format!("a.log.{number}"))).unwrap();
            }
            written("4");
            let wanted: &[&str] =
                if running { &["0", "1", "2", "3", "4"] } else { &["1", "2", "3", "4"] };
            rig.wants(wanted);
        }
    }
}

#[test]
fn after_a_kill_what_was_not_acknowledged_comes_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.log");
    append(&path, "1\n2\n");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.wants(&["1", "2"]);
    append(&path, "3\n");
    let deadline = Instant::now() + PATIENCE;
    while rig.batches.is_empty() {
        assert!(Instant::now() < deadline);
        rig.lane.work();
        rig.lane.wait(&rig.beat);
    }
    let positions = rig.killed();
    let mut rig = self::rig(in_dir(dir.path()), positions);
    rig.wants(&["3"]);
}

#[test]
fn an_unreadable_name_is_said_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    append(&dir.path().join("a.log"), "one\n");
    fs::create_dir(dir.path().join("dir.log")).unwrap();
    std::os::unix::fs::symlink("/nowhere", dir.path().join("broken.log")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("a.log"), dir.path().join("same.log")).unwrap();
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.wants(&["one"]);
    assert_eq!(rig.lane.live.len(), 1);
}

#[test]
fn a_stop_hands_over_what_was_read() {
    let dir = tempfile::tempdir().unwrap();
    append(&dir.path().join("a.log"), "one\n");
    let mut rig = rig(in_dir(dir.path()), vec![]);
    rig.lane.work();
    rig.lane.stop.ask(Instant::now() + PATIENCE);
    rig.lane.drain(&rig.beat);
    rig.take_batches();
    rig.lines_are(&["one"]);
}

#[test]
fn a_containers_records_are_joined_and_labelled_and_damage_is_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let mut text = json("stdout", 1, "one\n") + &json("stdout", 2, "pie");
    text += &json("stderr", 3, "err\n");
    text += "\0\0\0{\"log\":\"torn";
    text += &json("stdout", 2, "ces\n");
    text += "garbage\n";
    text += &json("stdout", 4, "\n");
    text += &json("stdout", 5, "quote \" é\n");
    append(&path, text);
    let mut rig = container_rig(&path, vec![], 1 << 20);
    rig.until("five lines", |r| r.had.len() >= 5);
    let mut had: Vec<_> =
        rig.had.iter().map(|e| (e.time_ns % 1000, e.labels.as_str(), e.line.as_str())).collect();
    had.sort();
    let (out, err) =
        ("{container=\"web\", stream=\"stdout\"}", "{container=\"web\", stream=\"stderr\"}");
    let wanted = [
        (1, out, "one"),
        (2, out, "pieces"),
        (3, err, "err"),
        (4, out, ""),
        (5, out, "quote \" é"),
    ];
    assert_eq!(had, wanted);
    let positions = rig.stopped();
    assert_eq!(positions[0].place.offset, fs::metadata(&path).unwrap().len());
}

#[test]
fn an_unfinished_line_holds_the_position_until_its_rest_or_the_wait_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let first = json("stdout", 1, "one\n");
    append(&path, first.clone() + &json("stdout", 2, "two ") + &json("stderr", 3, "err\n"));
    let mut rig = container_rig(&path, vec![], 1 << 20);
    rig.until("two lines", |r| r.had.len() >= 2);
    let positions = rig.stopped();
    assert_eq!(positions[0].place.offset, first.len() as u64);
    append(&path, json("stdout", 2, "goes on\n"));
    let mut rig = container_rig(&path, positions, 1 << 20);
    rig.until("both lines", |r| r.had.len() >= 2);
    let mut had: Vec<_> = rig.had.iter().map(|e| e.line.as_str()).collect();
    had.sort();
    assert_eq!(had, ["err", "two goes on"]);
    append(&path, json("stdout", 4, "without end"));
    rig.until("what was there", |r| r.had.len() >= 3);
    assert_eq!(rig.had[2].line, "without end");
    let size = fs::metadata(&path).unwrap().len();
    assert_eq!(rig.stopped()[0].place.offset, size);
}

#[test]
fn rotated_container_logs_come_in_order_also_when_a_line_spans_two() {
    let dir = tempfile::tempdir().unwrap();
    let live = dir.path().join("c-json.log");
    let name = |n: usize| dir.path().join(format!("c-json.log.{n}"));
    let rotate = |at: u64| {
        for n in (1..6).rev() {
            drop(fs::rename(name(n), name(n + 1)));
        }
        fs::rename(&live, name(1)).unwrap();
        let at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + at);
        OpenOptions::new().append(true).open(name(1)).unwrap().set_modified(at).unwrap();
    };
    append(&live, json("stdout", 1, "a\n"));
    rotate(1);
    append(&live, json("stdout", 2, "b\n") + &json("stdout", 3, "spans "));
    rotate(2);
    append(&live, json("stdout", 3, "two\n") + &json("stdout", 4, "c\n"));
    let mut rig = container_rig(&live, vec![], 1 << 20);
    rig.wants(&["a", "b", "spans two", "c"]);
    rig.until("the old files are let go", |r| r.lane.open_files == 1);
    rotate(100_000_000);
    append(&live, json("stdout", 5, "d\n"));
    rotate(100_000_001);
    append(&live, json("stdout", 6, "e\n"));
    rig.wants(&["a", "b", "spans two", "c", "d", "e"]);
    rig.until("the old files are let go", |r| r.lane.open_files == 1);
    let gone = FileEvent::ContainerGone { source: "local".into(), id: "c".repeat(64) };
    append(&live, json("stdout", 7, "last\n"));
    rig.inbox.try_send(gone).unwrap();
    rig.until("it is forgotten", |r| r.lane.live.is_empty());
    rig.until("the last line", |r| r.had.len() == 7);
    assert!(rig.lane.dirs.values().all(|d| !d.states.is_empty()));
    assert!(rig.stopped().iter().all(|p| p.gone_since_ns.is_some()));
}

#[test]
fn a_full_queue_pauses_a_container_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let line = "y".repeat(30_000);
    let mut text = String::new();
    for n in 0..200 {
        text += &json("stdout", n, &format!("{n:04}{}", &line[..16_000]));
        text += &json("stderr", n, &format!("{n:04}\n"));
        text += &json("stdout", n, &format!("{}\n", &line[16_000..]));
    }
    append(&path, text);
    let mut rig = container_rig(&path, vec![], 1);
    rig.until("all lines", |r| r.had.len() >= 400);
    let of = |rig: &Rig, stream: &str| -> Vec<String> {
        let found = rig.had.iter().filter(|e| e.labels.contains(stream));
        found.map(|e| e.line.clone()).collect()
    };
    let wanted: Vec<_> = (0..200).map(|n| format!("{n:04}{line}")).collect();
    assert_eq!(of(&rig, "stdout"), wanted);
    let wanted: Vec<_> = (0..200).map(|n| format!("{n:04}")).collect();
    assert_eq!(of(&rig, "stderr"), wanted);
}

#[test]
fn a_containers_log_that_is_not_there_yet_is_awaited() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c-json.log");
    let mut rig = container_rig(&path, vec![], 1 << 20);
    assert_eq!(rig.lane.awaited.len(), 1);
    append(&path, json("stdout", 1, "one\n"));
    rig.wants(&["one"]);
}
