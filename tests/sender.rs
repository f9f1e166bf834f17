//! Sender threads against the Loki double: every entry is stored once or in dead letters once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log_capturer::ack::{AckEvent, AckPort, Outcome};
use log_capturer::batch::{BatchId, Format, OpenBatch, SealedBatch};
use log_capturer::clock::SystemClock;
use log_capturer::config::checked::{Auth, Loki, Tls};
use log_capturer::daemon::{Beat, Stop};
use log_capturer::dead_letter::{DeadLetters, Settings};
use log_capturer::disk::{Disk as _, HostDisk};
use log_capturer::health::HealthBoard;
use log_capturer::metrics::Metrics;
use log_capturer::queue::{QueuedBatch, SinkBudget, SinkQueue};
use log_capturer::record::{Record, StreamLabels};
use log_capturer::sender::http::UreqHttp;
use log_capturer::sender::resolver::Resolve;
use log_capturer::sender::transport::Cancel;
use log_capturer::sender::{ShardSender, SinkState, run};
use log_capturer::sink::loki::{LokiDestination, http_settings};

use crate::support::loki::{Answer, Limits, LokiDouble, Rate};

const MINUTE: i64 = 60_000_000_000;
const LONG: Duration = Duration::from_secs(60);

struct Running {
    thread: std::thread::JoinHandle<()>,
    queue: SinkQueue,
    outcomes: crossbeam_channel::Receiver<AckEvent>,
    stop: Stop,
    cancel: Cancel,
    health: Arc<HealthBoard>,
    dir: tempfile::TempDir,
}

fn start(double: &LokiDouble, request_timeout: Duration) -> Running {
    let dir = tempfile::tempdir().unwrap();
    let loki = Loki {
        url: format!("{}/loki/api/v1/push", double.url()),
        senders: 1,
        connect_timeout: Duration::from_secs(5),
        request_timeout,
        retry_initial: Duration::from_millis(10),
        retry_max: Duration::from_millis(500),
        tenant: None,
        auth: Auth::None,
        headers: Vec::new(),
        proxy: None,
        tls: Tls::default(),
        max_age: Duration::from_secs(168 * 3600),
        max_future: Duration::from_secs(600),
    };
    let (metrics, health) = (Arc::new(Metrics::new()), Arc::<HealthBoard>::default());
    let path = dir.path().join("dead-letters");
    let settings = Settings { path, bytes_max: 64 << 20, age_max: LONG };
    let letters = DeadLetters::new(settings, Arc::new(HostDisk), metrics.clone(), health.clone());
    let state = SinkState::new("loki", 1, metrics, health.clone());
    let (requests, _) = crossbeam_channel::bounded(1);
    let resolve = Resolve::new(Arc::default(), requests);
    let http = UreqHttp::new(http_settings(&loki).unwrap(), resolve).unwrap();
    let cancel = http.cancel();
    let clock = Arc::new(SystemClock);
    let destination =
        LokiDestination::new(&loki, 0, Box::new(http), state, Arc::new(letters), clock.clone());
    let (acks, outcomes) = crossbeam_channel::bounded(16);
    let (shard, inbox) = crossbeam_channel::bounded::<QueuedBatch>(16);
    let budget = SinkBudget::new(64 << 20, 1, Vec::new());
    let stop = Stop::default();
    let sender = ShardSender {
        shard: 0,
        inbox,
        budget: budget.clone(),
        ack: AckPort::new(acks),
        destination: Box::new(destination),
        clock,
        stop: stop.clone(),
    };
    let thread = std::thread::spawn(move || run(sender, &Beat::new()));
    let queue = SinkQueue::new(budget, vec![shard]);
    Running { thread, queue, outcomes, stop, cancel, health, dir }
}

impl Running {
    fn deliver(&self, batch: SealedBatch) -> Outcome {
        assert!(self.queue.offer(batch).is_ok());
        match self.outcomes.recv_timeout(LONG) {
            Ok(AckEvent::Done(_, outcome)) => outcome,
            other => panic!("{other:?}; {:?}", self.health.all()),
        }
    }

    /// Lines in dead letters.
    fn dead(&self) -> Vec<String> {
        let mut found = Vec::new();
        for path in HostDisk.list(&self.dir.path().join("dead-letters")).unwrap_or_default() {
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                found.push(row["line"].as_str().unwrap()[..11].to_owned());
            }
        }
        found
    }

    /// Ends the queue; the thread ends by itself.
    fn end(self) {
        let Self { thread, queue, .. } = self;
        assert_eq!((queue.budget().used_bytes(), queue.budget().held_batches()), (0, 0));
        drop(queue);
        assert!(thread.join().is_ok());
    }
}

/// Stream, time in minutes from now, length of the line, bytes of metadata.
type Entry = (usize, i64, usize, usize);

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

fn batch(number: u64, entries: &[Entry]) -> SealedBatch {
    let now = now_ns();
    let mut open = OpenBatch::new(Format::LokiPush, Instant::now());
    for (i, (stream, minutes, length, metadata)) in entries.iter().enumerate() {
        let labels = StreamLabels::new([("job".to_owned(), format!("s{stream}"))]);
        let line = format!("{number:03} {i:07}{}", "x".repeat(*length));
        let value = "m".repeat(*metadata);
        let record = Record {
            timestamp_ns: now + minutes * MINUTE + i as i64,
            line: line.as_bytes(),
            labels: &labels,
            metadata: &[("id", &value)],
        };
        open.push(&record, None);
    }
    open.seal(BatchId(number), 0, 0, &mut Default::default())
}

fn good(streams: usize, count: usize) -> impl Iterator<Item = Entry> {
    (0..count).map(move |i| (i % streams, 0, 20, 5))
}

/// All of `sent` is stored once or in dead letters once, `dead` of it the latter.
fn check_books(double: &LokiDouble, running: &Running, sent: usize, dead: usize) {
    let stored: Vec<_> = double.entries().into_iter().map(|e| e.line[..11].to_owned()).collect();
    let unique: BTreeSet<_> = stored.iter().cloned().collect();
    assert_eq!(unique.len(), stored.len(), "stored twice");
    let letters = running.dead();
    let unique_letters: BTreeSet<_> = letters.iter().cloned().collect();
    assert_eq!(unique_letters.len(), letters.len(), "in dead letters twice");
    assert!(unique.is_disjoint(&unique_letters));
    assert_eq!((stored.len() + letters.len(), letters.len()), (sent, dead));
}

#[test]
fn refused_entries_of_every_kind_are_diverted_and_the_others_stored() {
    let double = LokiDouble::start();
    let running = start(&double, LONG);
    let first = running.deliver(batch(0, &good(20, 200).collect::<Vec<_>>()));
    assert_eq!(first, Outcome { delivered: 200, diverted: 0 });
    let day = 24 * 60;
    let kinds: [(i64, usize, usize); 5] = [
        (-8 * day, 20, 5), // too old
        (-2 * 60, 20, 5),  // too far behind
        (20, 20, 5),       // too new
        (0, 256 << 10, 5), // too long
        (0, 20, 65 << 10), // too much metadata
    ];
    let (mut sent, mut dead) = (200, 0);
    for (number, (minutes, length, metadata)) in kinds.into_iter().enumerate() {
        for refused in [1, 11] {
            let bad = (0..refused).map(|i| (i % 20, minutes, length, metadata));
            let entries: Vec<_> = bad.chain(good(20, 500)).collect();
            let before = double.counters().pushes;
            let id = (number * 2 + usize::from(refused == 1) + 1) as u64;
            let outcome = running.deliver(batch(id, &entries));
            let expected = Outcome { delivered: 500, diverted: refused as u32 };
            assert_eq!(outcome, expected, "{minutes} {length} {metadata}");
            assert!(double.counters().pushes - before <= 41, "{number} {refused}");
            (sent, dead) = (sent + entries.len(), dead + refused);
        }
    }
    check_books(&double, &running, sent, dead);
    running.end();
}

#[test]
fn kinds_mixed_in_one_stream_are_told_apart() {
    let double = LokiDouble::start();
    let running = start(&double, LONG);
    running.deliver(batch(0, &[(0, 0, 5, 5)]));
    let mut entries = Vec::new();
    for i in 0..300 {
        let minutes = [0, -2 * 60, -8 * 24 * 60, 20, 0][i % 5];
        let length = if i % 100 == 4 { 256 << 10 } else { 20 };
        entries.push((i % 3, minutes, length, 5));
    }
    let outcome = running.deliver(batch(1, &entries));
    assert_eq!(outcome.delivered + outcome.diverted, 300);
    // Streams 1 and 2 are new: what is two hours old begins them, and is no fault.
    assert_eq!(outcome.diverted, 60 + 60 + 3 + 20);
    check_books(&double, &running, 301, outcome.diverted as usize);
    running.end();
}

#[test]
fn bad_weather_loses_and_doubles_nothing() {
    let double = LokiDouble::start();
    let running = start(&double, Duration::from_millis(300));
    for answer in [
        Answer::status(500),
        Answer::status(503),
        Answer::reset(),
        Answer::half(),
        Answer::close(),
        Answer::hang(),
        Answer::hang().but_stored(),
        Answer::reset().but_stored(),
        Answer::status(504).but_stored(),
        Answer::error(429, "slow down").header("Retry-After", "0"),
        Answer::error(502, "<html>bad gateway</html>"),
    ] {
        double.script(answer);
    }
    for number in 0..4 {
        let outcome = running.deliver(batch(number, &good(7, 300).collect::<Vec<_>>()));
        assert_eq!(outcome, Outcome { delivered: 300, diverted: 0 });
    }
    check_books(&double, &running, 1200, 0);
    running.end();
}

#[test]
fn requests_above_the_servers_sizes_and_rates_are_halved() {
    let rate = Rate { bytes_per_second: 150_000, burst_bytes: 200_000 };
    let limits =
        Limits { ingestion_rate: Some(rate), grpc_max_recv_msg_size: 400_000, ..Limits::default() };
    let double = LokiDouble::start_with(limits);
    let running = start(&double, LONG);
    let entries: Vec<_> = (0..500).map(|i| (i % 5, 0, 1000, 5)).collect();
    let outcome = running.deliver(batch(0, &entries));
    assert_eq!(outcome, Outcome { delivered: 500, diverted: 0 });
    check_books(&double, &running, 500, 0);
    running.end();
}

#[test]
fn a_stop_ends_a_sender_that_waits_for_an_answer() {
    let double = LokiDouble::start();
    double.set_mode(Answer::hang());
    let running = start(&double, LONG);
    assert!(running.queue.offer(batch(0, &good(1, 10).collect::<Vec<_>>())).is_ok());
    crate::support::wait::wait_until(LONG, "the request", || double.counters().pushes > 0);
    let began = Instant::now();
    running.stop.ask(began + Duration::from_millis(50));
    running.cancel.cancel();
    assert!(running.thread.join().is_ok());
    assert!(began.elapsed() < LONG / 2);
    assert!(running.outcomes.try_iter().next().is_none(), "an outcome without an answer");
}
