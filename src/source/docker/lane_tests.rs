//! The whole thread against an engine of the test's own, whose streams misbehave as recorded.

#![allow(clippy::disallowed_methods, reason = "peers and the thread under test")]

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Condvar, Mutex};

use crossbeam_channel::{Sender, bounded};

use super::super::ApiContainer;
use super::*;
use crate::ack::{AckEvent, AckPort, Outcome, Watermarks};
use crate::batch::{Format, SinkPort, SinkStreams, loki_push};
use crate::clock::SystemClock;
use crate::config::checked::StartAt;
use crate::queue::{QueuedBatch, SinkBudget, SinkQueue, Waker};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a follow stream does after so many records.
#[derive(Clone, Copy)]
enum Fate {
    /// A clean end.
    ZeroChunk(usize),
    Eof(usize),
    /// Sends the last records again, with their old times.
    Repeat(usize),
}

#[derive(Default)]
struct Log {
    lines: usize,
    text_bytes: usize,
    running: bool,
    /// Of the next follow streams.
    fates: VecDeque<Fate>,
    /// So many reads without `follow` break off in the middle.
    broken_reads: usize,
}

#[derive(Default)]
struct State {
    logs: BTreeMap<String, Log>,
    follows: usize,
    follows_peak: usize,
    closing: bool,
}

struct Engine {
    dir: tempfile::TempDir,
    state: Mutex<State>,
    changed: Condvar,
}

fn id(n: usize) -> String {
    format!("{n:064x}")
}

fn text(id: &str, n: usize, bytes: usize) -> String {
    format!("{} {n} {}", &id[62..], "x".repeat(bytes))
}

fn chunk(id: &str, n: usize, bytes: usize) -> Vec<u8> {
    let payload = format!("2026-01-01T00:00:00.{n:09}Z {}\n", text(id, n, bytes));
    let mut chunk = format!("{:x}\r\n", payload.len() + 8).into_bytes();
    chunk.extend_from_slice(&[1, 0, 0, 0]);
    chunk.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    chunk.extend_from_slice(payload.as_bytes());
    chunk.extend_from_slice(b"\r\n");
    chunk
}

impl Engine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir, state: Mutex::default(), changed: Condvar::new() }
    }

    fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let answer = change(&mut self.state.lock().unwrap());
        self.changed.notify_all();
        answer
    }

    fn log<T>(&self, n: usize, change: impl FnOnce(&mut Log) -> T) -> T {
        self.with(|state| change(state.logs.entry(id(n)).or_default()))
    }

    fn serve<'a>(&'a self, scope: &'a std::thread::Scope<'a, '_>, listener: UnixListener) {
        while let Ok((peer, _)) = listener.accept() {
            if self.with(|state| state.closing) {
                return;
            }
            // A peer that goes away is no fault here.
            scope.spawn(move || self.answer(peer).unwrap_or_default());
        }
    }

    fn answer(&self, mut peer: UnixStream) -> io::Result<()> {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            peer.read_exact(&mut byte)?;
            asked.push(byte[0]);
        }
        let asked = String::from_utf8(asked).unwrap();
        let path = asked.split(' ').nth(1).unwrap();
        let id = path.split('/').nth(3).unwrap().to_owned();
        let value = |key: &str| path.split(key).nth(1).unwrap().split('&').next().unwrap();
        let tail = value("tail=").parse().unwrap_or(usize::MAX);
        if !self.with(|state| state.logs.contains_key(&id)) {
            return peer.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}");
        }
        peer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        if value("follow=") == "0" {
            return self.plain(&mut peer, &id, tail);
        }
        self.with(|state| {
            state.follows += 1;
            state.follows_peak = state.follows_peak.max(state.follows);
        });
        let ended = self.follow(&mut peer, &id, tail);
        self.with(|state| state.follows -= 1);
        ended
    }

    fn plain(&self, peer: &mut UnixStream, id: &str, tail: usize) -> io::Result<()> {
        let (lines, bytes, breaks) = self.with(|state| {
            let log = state.logs.entry(id.to_owned()).or_default();
            let breaks = log.lines > 1 && log.broken_reads > 0;
            log.broken_reads -= usize::from(breaks);
            (log.lines, log.text_bytes, breaks)
        });
        let first = lines.saturating_sub(tail);
        let last = if breaks { first + (lines - first) / 2 } else { lines };
        for n in first..last {
            peer.write_all(&chunk(id, n, bytes))?;
        }
        if breaks { Ok(()) } else { peer.write_all(b"0\r\n\r\n") }
    }

    fn follow(&self, peer: &mut UnixStream, id: &str, tail: usize) -> io::Result<()> {
        let fate = self.with(|state| state.logs.get_mut(id).and_then(|log| log.fates.pop_front()));
        let lines = self.with(|state| state.logs.get(id).map_or(0, |log| log.lines));
        let (mut at, mut sent) = (lines.saturating_sub(tail), 0);
        peer.set_nonblocking(false)?;
        loop {
            let Some((lines, bytes, running)) = self.with(|state| {
                let log = state.logs.get(id).filter(|_| !state.closing)?;
                Some((log.lines, log.text_bytes, log.running))
            }) else {
                return peer.write_all(b"0\r\n\r\n");
            };
            while at < lines {
                match fate {
                    Some(Fate::ZeroChunk(n)) if sent == n => return peer.write_all(b"0\r\n\r\n"),
                    Some(Fate::Eof(n)) if sent == n => return Ok(()),
                    Some(Fate::Repeat(n)) if sent == n => at = at.saturating_sub(3),
                    _ => {}
                }
                peer.write_all(&chunk(id, at, bytes))?;
                (at, sent) = (at + 1, sent + 1);
            }
            if !running {
                return peer.write_all(b"0\r\n\r\n");
            }
            if gone(peer) {
                return Ok(());
            }
            let state = self.state.lock().unwrap();
            let _ = self.changed.wait_timeout(state, Duration::from_millis(20)).unwrap();
        }
    }
}

/// Whether the peer has closed.
fn gone(peer: &UnixStream) -> bool {
    let mut byte = [0];
    let flags = rustix::net::RecvFlags::PEEK | rustix::net::RecvFlags::DONTWAIT;
    rustix::net::recv(peer, &mut byte[..], flags).is_ok_and(|(n, _)| n == 0)
}

fn container(n: usize) -> Box<ApiContainer> {
    Box::new(ApiContainer {
        engine: 0,
        api_version: "1.41".into(),
        source: "local".into(),
        id: id(n),
        name: format!("name-{n}"),
        tty: false,
        driver: "json-file".into(),
        rotates: false,
        auto_remove: false,
        running: true,
        labels: vec![("container".into(), format!("name-{n}"))],
        metadata: Vec::new(),
        line_bytes_max: 256 << 10,
        long_lines: LongLines::Split,
        partial_wait: Duration::from_secs(5),
        start_at: StartAt::Beginning,
        sinks: Arc::from([0usize]),
    })
}

/// The lane's surroundings: what tells it, and what takes its batches.
struct Rig<'a> {
    engine: &'a Engine,
    events: Sender<DockerEvent>,
    poller: Arc<Poller>,
    batches: Receiver<QueuedBatch>,
    budget: Arc<SinkBudget>,
    acks: Receiver<AckEvent>,
    marks: Watermarks,
    lines: Vec<String>,
}

impl Rig<'_> {
    fn tell(&self, event: DockerEvent) {
        self.events.send(event).unwrap();
        self.poller.notify().unwrap();
    }

    /// Takes batches as a sender would until `done`.
    #[track_caller]
    fn until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "not {what}; {} lines came", self.lines.len());
            self.take();
        }
    }

    fn take(&mut self) {
        let queued = self.batches.recv_timeout(Duration::from_millis(5));
        self.acks.try_iter().for_each(|event| self.marks.step(event, 0));
        let Ok(queued) = queued else { return };
        let mut raw = Vec::new();
        queued.batch.uncompress(&mut raw).unwrap();
        for span in &queued.batch.streams {
            let bytes = &raw[span.raw.start as usize..span.raw.end as usize];
            let (_, entries) = loki_push::split_stream(bytes).unwrap();
            let line = |e: loki_push::EntrySlice<'_>| String::from_utf8(e.line.to_vec()).unwrap();
            self.lines.extend(loki_push::entries(entries).map(line));
        }
        self.marks.step(AckEvent::Done(queued.batch.id, Outcome::default()), 0);
        self.budget.release(queued.batch.shard, queued.cost_bytes);
    }

    /// All lines of all logs, each once; those of one log in order.
    fn assert_all_once(&self, from: usize) {
        let mut wanted = Vec::new();
        self.engine.with(|state| {
            for (id, log) in &state.logs {
                let lines: Vec<_> =
                    (from..log.lines).map(|n| text(id, n, log.text_bytes)).collect();
                let got = self.lines.iter().filter(|line| line[..2] == id[62..]);
                let same = got.clone().eq(lines.iter());
                assert!(same, "{} of {} lines of {id}", got.count(), lines.len());
                wanted.extend(lines);
            }
        });
        assert_eq!(self.lines.len(), wanted.len());
    }

    fn count(&self) -> usize {
        self.engine.with(|state| state.logs.values().map(|log| log.lines).sum())
    }
}

fn sink(queue: SinkQueue) -> SinkPort {
    SinkPort {
        index: 0,
        name: "loki".into(),
        required: true,
        format: Format::LokiPush,
        batch_bytes: 32 << 10,
        batch_wait: Duration::from_millis(20),
        queue,
        streams: Arc::new(SinkStreams::new(100)),
    }
}

/// Runs a lane among `lanes`; returns the positions that it left.
fn with_lane(
    engine: &Engine,
    lanes: usize,
    positions: Vec<Position>,
    test: impl FnOnce(&mut Rig<'_>),
) -> Vec<Position> {
    let socket = engine.dir.path().join("docker.sock");
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).unwrap();
    let (events, inbox) = bounded(64);
    let (tx, batches) = bounded(4);
    let (ack, acks) = bounded(1024);
    let (poller, stop) = (Arc::new(Poller::new().unwrap()), Stop::default());
    let wake = poller.clone();
    let waker = Waker::new(move || wake.notify().unwrap_or_default());
    let budget = SinkBudget::new(64 << 10, 1, vec![waker]);
    let port = sink(SinkQueue::new(budget.clone(), vec![tx]));
    let metrics = Arc::new(Metrics::new());
    let lane = DockerLane {
        inbox,
        poller: poller.clone(),
        endpoints: vec![Endpoint::Unix(socket.clone())],
        lanes,
        batcher: Batcher::new(1, vec![port], AckPort::new(ack), metrics.clone()),
        positions: positions.clone(),
        clock: Arc::new(SystemClock),
        metrics: metrics.clone(),
        resolve: None,
        divert: Arc::new(|_| true),
        stop: stop.clone(),
    };
    let marks = Watermarks::restored(positions, 0);
    let mut rig = Rig {
        engine,
        events,
        poller: poller.clone(),
        batches,
        budget,
        acks,
        marks,
        lines: Vec::new(),
    };
    engine.with(|state| state.closing = false);
    std::thread::scope(|scope| {
        scope.spawn(move || engine.serve(scope, listener));
        let thread = scope.spawn(|| run(lane, &Beat::new()));
        let test = std::panic::AssertUnwindSafe(|| test(&mut rig));
        let passed = std::panic::catch_unwind(test);
        stop.ask(Instant::now() + PATIENCE);
        poller.notify().unwrap();
        let ended = thread.join();
        engine.with(|state| state.closing = true);
        let _ = UnixStream::connect(&socket);
        if let Err(panic) = passed {
            eprintln!("{}", metrics.render());
            std::panic::resume_unwind(panic);
        }
        assert!(ended.is_ok(), "the lane panicked");
    });
    for _ in 0..20 {
        rig.take();
    }
    rig.marks.snapshot(0, i64::MAX)
}

#[test]
fn every_line_comes_once_whatever_the_streams_do() {
    let engine = Engine::new();
    for n in 0..3 {
        engine.log(n, |log| (log.lines, log.running, log.broken_reads) = (10, true, 2));
    }
    engine.log(0, |log| log.fates.extend([Fate::ZeroChunk(1), Fate::ZeroChunk(0)]));
    engine.log(1, |log| log.fates.extend([Fate::Eof(12), Fate::Repeat(20)]));
    engine.log(2, |log| log.fates.extend([Fate::Repeat(2), Fate::Eof(0)]));
    with_lane(&engine, 1, Vec::new(), |rig| {
        (0..3).for_each(|n| rig.tell(DockerEvent::Container(container(n))));
        for lines in [10, 200, 1_300, 1_301, 4_000] {
            (0..3).for_each(|n| engine.log(n, |log| log.lines = lines));
            rig.until("all lines", |rig| rig.lines.len() >= rig.count());
        }
        // What is written at the end of a run; its stream may have ended before.
        (0..3).for_each(|n| engine.log(n, |log| (log.lines, log.running) = (4_100, false)));
        (0..3).for_each(|n| rig.tell(DockerEvent::Died { engine: 0, id: id(n) }));
        rig.until("all lines", |rig| rig.lines.len() >= rig.count());
        rig.assert_all_once(0);
    });
}

#[test]
fn reading_goes_on_at_the_position_of_the_run_before() {
    let engine = Engine::new();
    engine.log(1, |log| (log.lines, log.running) = (2_500, true));
    let positions = with_lane(&engine, 1, Vec::new(), |rig| {
        rig.tell(DockerEvent::Container(container(1)));
        rig.until("all lines", |rig| rig.lines.len() >= 2_500);
    });
    assert_eq!(positions.len(), 1);
    assert_eq!(positions[0].place.offset, 2_500);
    engine.log(1, |log| log.lines = 6_000);
    let positions = with_lane(&engine, 1, positions, |rig| {
        rig.tell(DockerEvent::Container(container(1)));
        rig.until("the new lines", |rig| rig.lines.len() >= 3_500);
        rig.assert_all_once(2_500);
    });
    assert_eq!(positions[0].place.offset, 6_000);
}

#[test]
fn a_sink_without_room_closes_streams_and_loses_nothing() {
    let engine = Engine::new();
    engine.log(1, |log| (log.lines, log.running, log.text_bytes) = (1, true, 1_000));
    with_lane(&engine, 1, Vec::new(), |rig| {
        rig.tell(DockerEvent::Container(container(1)));
        rig.until("a stream", |_| engine.with(|state| state.follows == 1));
        engine.log(1, |log| log.lines = 5_000);
        let deadline = Instant::now() + PATIENCE;
        // Nobody takes a batch: the stream is closed, not left unread.
        while engine.with(|state| state.follows) > 0 {
            assert!(Instant::now() < deadline, "the stream is still open");
            std::thread::yield_now();
        }
        rig.until("all lines", |rig| rig.lines.len() >= 5_000);
        rig.assert_all_once(0);
    });
}

#[test]
fn containers_above_the_bound_of_streams_are_read_in_turns() {
    let engine = Engine::new();
    (0..8).for_each(|n| engine.log(n, |log| (log.lines, log.running) = (3, true)));
    // Fifty lanes leave two streams to each.
    with_lane(&engine, 50, Vec::new(), |rig| {
        (0..8).for_each(|n| rig.tell(DockerEvent::Container(container(n))));
        for lines in [3, 50, 400] {
            (0..8).for_each(|n| engine.log(n, |log| log.lines = lines));
            rig.until("all lines", |rig| rig.lines.len() >= rig.count());
        }
        rig.assert_all_once(0);
        assert_eq!(engine.with(|state| state.follows_peak), 2);
    });
}

#[test]
fn a_container_that_is_gone_is_forgotten_once_its_lines_are_acknowledged() {
    let engine = Engine::new();
    engine.log(1, |log| (log.lines, log.running) = (20, true));
    let positions = with_lane(&engine, 1, Vec::new(), |rig| {
        rig.tell(DockerEvent::Container(container(1)));
        rig.until("all lines", |rig| rig.lines.len() >= 20 && rig.marks.sources() == 1);
        engine.with(|state| state.logs.clear());
        rig.tell(DockerEvent::Gone { engine: 0, id: id(1) });
        rig.until("forgotten", |rig| rig.marks.sources() == 0);
    });
    assert_eq!(positions, []);
}

#[test]
fn streams_are_closed_while_an_engine_is_down_and_go_on_afterwards() {
    let engine = Engine::new();
    engine.log(1, |log| (log.lines, log.running) = (20, true));
    with_lane(&engine, 1, Vec::new(), |rig| {
        rig.tell(DockerEvent::Container(container(1)));
        rig.until("a stream", |_| engine.with(|state| state.follows == 1));
        rig.tell(DockerEvent::EngineDown { engine: 0 });
        rig.until("no stream", |_| engine.with(|state| state.follows == 0));
        engine.log(1, |log| log.lines = 90);
        rig.tell(DockerEvent::EngineUp { engine: 0 });
        rig.tell(DockerEvent::Container(container(1)));
        rig.until("all lines", |rig| rig.lines.len() >= 90);
        rig.assert_all_once(0);
    });
}

#[test]
fn what_ack_had_no_room_for_is_told_again_though_nothing_else_is_due() {
    let (tx, acks) = bounded(1);
    let (_events, inbox) = bounded(1);
    let metrics = Arc::new(Metrics::new());
    let mut lane = Lane::new(DockerLane {
        inbox,
        poller: Arc::new(Poller::new().unwrap()),
        endpoints: vec![Endpoint::Unix("/nonexistent".into())],
        lanes: 1,
        batcher: Batcher::new(1, Vec::new(), AckPort::new(tx), metrics.clone()),
        positions: Vec::new(),
        clock: Arc::new(SystemClock),
        metrics,
        resolve: None,
        divert: Arc::new(|_| true),
        stop: Stop::default(),
    });
    let now = Instant::now();
    lane.engine_down(0, now);
    for id in ["a", "b"] {
        let sinks = Arc::from([]);
        lane.container(ApiContainer { id: id.into(), sinks, ..*container(0) }, now);
    }
    assert_eq!(lane.work(now), Some(now + PARKED_TICK));
    drop(acks);
}
