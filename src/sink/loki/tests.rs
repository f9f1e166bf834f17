//! The sender's loop against a scripted server, step by step, without threads.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use super::*;
use crate::ack::{AckEvent, AckPort, Outcome};
use crate::batch::{BatchId, Format, OpenBatch};
use crate::clock::FakeClock;
use crate::config::checked::Tls;
use crate::daemon::Stop;
use crate::dead_letter::Settings;
use crate::disk::{Disk as _, HostDisk};
use crate::health::{HealthBoard, Level};
use crate::metrics::Metrics;
use crate::queue::{QueuedBatch, SinkBudget};
use crate::record::{Record, StreamLabels};
use crate::sender::{Attended, ShardSender};

const NOW_NS: i64 = 1_795_553_953_000_000_000;
const MINUTE_NS: i64 = 60_000_000_000;

/// Streams of a request: label text, lines with their times.
type Posted = Vec<(String, Vec<(i64, String)>)>;
type Judge = Box<dyn FnMut(&Posted) -> Result<Answer, TransportError> + Send>;

/// What the server saw, and what it kept (a set: equal entries are stored once).
#[derive(Default)]
struct Seen {
    bodies: Vec<Vec<u8>>,
    posted: Vec<Posted>,
}

struct Scripted {
    judge: Judge,
    seen: Arc<Mutex<Seen>>,
}

fn decode(body: &[u8]) -> Posted {
    let raw = snap::raw::Decoder::new().decompress_vec(body).unwrap();
    let mut streams = Vec::new();
    let mut rest = &raw[..];
    while !rest.is_empty() {
        let (labels, encoded) = loki_push::split_stream(rest).unwrap();
        let end = encoded.as_ptr() as usize + encoded.len() - rest.as_ptr() as usize;
        let lines = loki_push::entries(encoded)
            .map(|e| (e.timestamp_ns, String::from_utf8(e.line.to_vec()).unwrap()))
            .collect();
        streams.push((labels.to_owned(), lines));
        rest = &rest[end..];
    }
    streams
}

impl Http for Scripted {
    fn post(
        &mut self,
        body: &[u8],
        headers: &[(String, String)],
        _: Instant,
    ) -> Result<Answer, TransportError> {
        assert_eq!(headers[0].1, "application/x-protobuf");
        let posted = decode(body);
        let answer = (self.judge)(&posted);
        let mut seen = self.seen.lock().unwrap();
        seen.bodies.push(body.to_vec());
        seen.posted.push(posted);
        answer
    }
}

struct Bench {
    sender: ShardSender,
    clock: Arc<FakeClock>,
    outcomes: crossbeam_channel::Receiver<AckEvent>,
    seen: Arc<Mutex<Seen>>,
    health: Arc<HealthBoard>,
    dir: tempfile::TempDir,
    stop: Stop,
    _queue: crossbeam_channel::Sender<QueuedBatch>,
}

fn answer(status: u16, body: &str) -> Result<Answer, TransportError> {
    Ok(Answer { status, body: body.to_owned(), ..Answer::default() })
}

fn loki() -> Loki {
    Loki {
        url: "http://loki.test/loki/api/v1/push".to_owned(),
        senders: 1,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(30),
        retry_initial: Duration::from_millis(500),
        retry_max: Duration::from_secs(60),
        tenant: None,
        auth: Auth::None,
        headers: Vec::new(),
        proxy: None,
        tls: Tls::default(),
        max_age: Duration::from_secs(168 * 3600),
        max_future: Duration::from_secs(600),
    }
}

impl Bench {
    fn new(judge: impl FnMut(&Posted) -> Result<Answer, TransportError> + Send + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (metrics, health) = (Arc::new(Metrics::new()), Arc::<HealthBoard>::default());
        let clock = Arc::new(FakeClock::at(NOW_NS));
        let seen = Arc::<Mutex<Seen>>::default();
        let settings = Settings {
            path: dir.path().join("dead-letters"),
            bytes_max: 64 << 20,
            age_max: Duration::from_secs(3600),
        };
        let store = DeadLetters::new(settings, Arc::new(HostDisk), metrics.clone(), health.clone());
        let state = SinkState::new("loki", 1, metrics, health.clone());
        let http = Scripted { judge: Box::new(judge), seen: seen.clone() };
        let destination =
            LokiDestination::new(&loki(), 0, Box::new(http), state, Arc::new(store), clock.clone());
        let (acks, outcomes) = crossbeam_channel::bounded(16);
        let (queue, inbox) = crossbeam_channel::bounded(4);
        let stop = Stop::default();
        let sender = ShardSender {
            shard: 0,
            inbox,
            budget: SinkBudget::new(1 << 20, 1, Vec::new()),
            ack: AckPort::new(acks),
            destination: Box::new(destination),
            clock: clock.clone(),
            stop: stop.clone(),
        };
        Self { sender, clock, outcomes, seen, health, dir, stop, _queue: queue }
    }

    /// Attends `batch` until it is settled or `limit` of time has passed.
    fn settle(&mut self, batch: SealedBatch, limit: Duration) -> Option<Outcome> {
        let queued = QueuedBatch { batch, cost_bytes: 0 };
        self.attend(&queued, limit)
    }

    fn attend(&mut self, queued: &QueuedBatch, limit: Duration) -> Option<Outcome> {
        let end = self.clock.now() + limit;
        for _ in 0..100_000 {
            match self.sender.attend(queued) {
                Attended::Settled => {
                    let Ok(AckEvent::Done(id, outcome)) = self.outcomes.try_recv() else {
                        panic!("no outcome")
                    };
                    assert_eq!(id, queued.batch.id);
                    return Some(outcome);
                }
                Attended::Again => {}
                Attended::GivenUp => return None,
                Attended::Later(at) if at > end => return None,
                Attended::Later(at) => {
                    self.clock.advance(at.saturating_duration_since(self.clock.now()));
                }
            }
        }
        panic!("no end after {} requests", self.seen.lock().unwrap().posted.len());
    }

    fn requests(&self) -> usize {
        self.seen.lock().unwrap().posted.len()
    }

    /// Lines in dead letters, sorted, with their causes.
    fn dead(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for path in HostDisk.list(&self.dir.path().join("dead-letters")).unwrap_or_default() {
            for line in std::fs::read_to_string(path).unwrap().lines() {
                let row: serde_json::Value = serde_json::from_str(line).unwrap();
                let text = |key: &str| row[key].as_str().unwrap().to_owned();
                assert!(!text("reason").is_empty() && row["sink"] == "loki");
                found.push((text("line"), text("cause")));
            }
        }
        found.sort();
        found
    }
}

/// Entries as (stream, minutes from now); their lines are numbered and unique.
fn batch(entries: &[(usize, i64)]) -> SealedBatch {
    let mut open = OpenBatch::new(Format::LokiPush, Instant::now());
    for (i, (stream, minutes)) in entries.iter().enumerate() {
        let labels = StreamLabels::new([("s".to_owned(), stream.to_string())]);
        let line = format!("line {i:05} of stream {stream}");
        let record = Record {
            timestamp_ns: NOW_NS + minutes * MINUTE_NS + i as i64,
            line: line.as_bytes(),
            labels: &labels,
            metadata: &[("id", "7")],
        };
        open.push(&record, None);
    }
    open.seal(BatchId(9), 0, 0, &mut Default::default())
}

const LONG: Duration = Duration::from_secs(7200);

#[test]
fn a_good_batch_is_one_request_of_the_sealed_bytes() {
    let mut bench = Bench::new(|_| answer(204, ""));
    let batch = batch(&[(0, 0), (1, 0), (0, -1)]);
    let body = batch.body.clone();
    let outcome = bench.settle(batch, Duration::ZERO).unwrap();
    assert_eq!(outcome, Outcome { delivered: 3, diverted: 0 });
    assert_eq!(bench.seen.lock().unwrap().bodies, [body]);
}

#[test]
fn failures_are_retried_with_the_same_bytes_until_they_pass() {
    let fault = |fault| Err(TransportError { fault, text: "x".to_owned() });
    let mut script = VecDeque::from([
        answer(500, "empty ring\n"),
        answer(503, ""),
        fault(Fault::Timeout),
        fault(Fault::Connect),
        fault(Fault::Reset),
        fault(Fault::Resolve),
        answer(502, "<html>"),
    ]);
    let mut bench = Bench::new(move |_| script.pop_front().unwrap_or(answer(204, "")));
    let outcome = bench.settle(batch(&[(0, 0), (1, 0)]), LONG).unwrap();
    assert_eq!(outcome, Outcome { delivered: 2, diverted: 0 });
    let seen = bench.seen.lock().unwrap();
    assert_eq!(seen.bodies.len(), 8);
    assert!(seen.bodies.iter().all(|body| *body == seen.bodies[0]));
    assert_eq!(bench.health.worst(), Level::Healthy);
}

#[test]
fn a_429_waits_as_long_as_it_says() {
    let mut script = VecDeque::from([Ok(Answer {
        status: 429,
        retry_after: Some("17".to_owned()),
        ..Answer::default()
    })]);
    let mut bench = Bench::new(move |_| script.pop_front().unwrap_or(answer(204, "")));
    let start = bench.clock.now();
    bench.settle(batch(&[(0, 0)]), LONG).unwrap();
    assert_eq!(bench.clock.now() - start, Duration::from_secs(17));
}

#[test]
fn what_needs_a_person_is_held_and_probed_each_minute() {
    for (status, body) in [
        (401, "no org id"),
        (403, ""),
        (404, "404 page not found"),
        (301, ""),
        (260, "ingestion blocked for user"),
        (400, "<html>bad request</html>"),
        (200, "<html>welcome</html>"),
    ] {
        let mut bench = Bench::new(move |_| answer(status, body));
        let queued = QueuedBatch { batch: batch(&[(0, 0), (1, 0)]), cost_bytes: 0 };
        assert_eq!(bench.attend(&queued, Duration::from_secs(600)), None, "{status}");
        assert!((10..=11).contains(&bench.requests()), "{status}: {}", bench.requests());
        assert_eq!(bench.health.worst(), Level::Unhealthy);
        assert_eq!(bench.dead(), []);
    }
}

#[test]
fn too_large_is_halved_and_the_size_is_remembered() {
    let judge = |posted: &Posted| {
        let lines: usize = posted.iter().map(|(_, lines)| lines.len()).sum();
        if lines > 40 {
            let text = "rpc error: code = ResourceExhausted desc = grpc: received message larger \
                        than max (5002231 vs. 4194304)";
            return if lines > 100 { answer(413, "") } else { answer(500, text) };
        }
        answer(204, "")
    };
    let mut bench = Bench::new(judge);
    let entries: Vec<_> = (0..200).map(|i| (i % 7, 0)).collect();
    let outcome = bench.settle(batch(&entries), Duration::ZERO).unwrap();
    assert_eq!(outcome, Outcome { delivered: 200, diverted: 0 });
}

#[test]
fn a_single_entry_that_is_too_large_goes_to_dead_letters() {
    let judge = |posted: &Posted| {
        let bad = posted.iter().flat_map(|(_, l)| l).any(|(_, line)| line.contains("00003"));
        answer(if bad { 413 } else { 204 }, "")
    };
    let mut bench = Bench::new(judge);
    let entries: Vec<_> = (0..9).map(|i| (i % 2, 0)).collect();
    let outcome = bench.settle(batch(&entries), Duration::ZERO).unwrap();
    assert_eq!(outcome, Outcome { delivered: 8, diverted: 1 });
    assert_eq!(bench.dead(), [("line 00003 of stream 1".into(), "too_large".into())]);
}

/// Stream, time and line of each entry, and how often it was sent.
type Stored = Arc<Mutex<BTreeMap<(String, i64, String), u32>>>;

/// A server with Loki's rules on age and order, which reports as the contract has it.
struct Rules {
    newest: BTreeMap<String, i64>,
    stored: Stored,
}

fn second(ns: i64) -> String {
    let mut text = Vec::new();
    crate::batch::ndjson::put_time(&mut text, ns.div_euclid(1_000_000_000) * 1_000_000_000);
    String::from_utf8(text).unwrap().replace(".000000000", "")
}

impl Rules {
    fn judge(&mut self, posted: &Posted) -> Result<Answer, TransportError> {
        let week = 7 * 24 * 60 * MINUTE_NS;
        let mut groups: BTreeMap<String, usize> = BTreeMap::new();
        let mut last = None;
        for (labels, lines) in posted {
            let theirs = labels.replace('}', ", service_name=\"x\"}");
            let (mut behind, mut valid) = (Vec::new(), 0);
            for (time, line) in lines {
                if *time < NOW_NS - week {
                    let text = format!(
                        "entry for stream '{theirs}' has timestamp too old: {}, oldest \
                         acceptable timestamp is: {}",
                        second(*time),
                        second(NOW_NS - week)
                    );
                    *groups.entry(text).or_default() += 1;
                    continue;
                }
                valid += 1;
                let newest = self.newest.entry(labels.clone()).or_insert(*time);
                if *time < *newest - 60 * MINUTE_NS {
                    behind.push((*time, *newest));
                    continue;
                }
                *newest = (*newest).max(*time);
                let key = (labels.clone(), *time, line.clone());
                *self.stored.lock().unwrap().entry(key).or_default() += 1;
            }
            last = (!behind.is_empty()).then_some((theirs, behind, valid));
        }
        if let Some((theirs, behind, valid)) = last {
            let mut text = String::new();
            for (time, newest) in behind.iter().take(10) {
                let rfc = second(*time);
                let go = rfc.replace('T', " ").replace('Z', "");
                text += &format!(
                    "entry with timestamp {go} +0000 UTC ignored, reason: 'entry too far behind, \
                     entry timestamp is: {rfc}, oldest acceptable timestamp is: {}',\n",
                    second(newest - 60 * MINUTE_NS)
                );
            }
            text += &format!(
                "user 'fake', total ignored: {} out of {valid} for stream: {theirs}\n",
                behind.len()
            );
            return answer(400, &text);
        }
        if groups.is_empty() {
            return answer(204, "");
        }
        let groups: Vec<_> =
            groups.iter().map(|(text, n)| format!("{n} errors like: {text}")).collect();
        answer(400, &groups.join("; "))
    }
}

/// Runs `entries` against [`Rules`]; checks that every entry is stored or dead, none both.
fn check_rules(newest_minutes: i64, entries: &[(usize, i64)], dead: usize, requests_max: usize) {
    let stored = Stored::default();
    let mut rules = Rules { newest: BTreeMap::new(), stored: stored.clone() };
    for stream in 0..40 {
        let newest = NOW_NS + newest_minutes * MINUTE_NS;
        rules.newest.insert(format!("{{s=\"{stream}\"}}"), newest);
    }
    let mut bench = Bench::new(move |posted| rules.judge(posted));
    let outcome = bench.settle(batch(entries), LONG).unwrap();
    let stored: BTreeSet<_> =
        stored.lock().unwrap().keys().map(|(_, _, line)| line.clone()).collect();
    let refused: BTreeSet<_> = bench.dead().into_iter().map(|(line, _)| line).collect();
    assert_eq!(refused.len(), dead);
    assert!(stored.is_disjoint(&refused));
    assert_eq!(stored.len() + refused.len(), entries.len());
    assert_eq!(outcome.delivered as usize, stored.len());
    assert_eq!(outcome.diverted as usize, refused.len());
    assert!(bench.requests() <= requests_max, "{} requests", bench.requests());
}

#[test]
fn entries_too_far_behind_are_found_in_every_stream_of_a_request() {
    let day = 24 * 60;
    let mixed = |refused: usize, minutes: i64| -> Vec<(usize, i64)> {
        let bad = (0..refused).map(|i| (i % 20, minutes));
        bad.chain((0..2000).map(|i| (i % 20, 0))).collect()
    };
    for refused in [1, 11, 500] {
        check_rules(0, &mixed(refused, -2 * 60), refused, 41);
        check_rules(0, &mixed(refused, -8 * day), refused, 41);
    }
}

#[test]
fn too_old_and_too_far_behind_in_one_stream_are_told_apart() {
    let day = 24 * 60;
    let mut entries: Vec<(usize, i64)> = (0..30).map(|_| (0, -8 * day)).collect();
    entries.extend((0..30).map(|i| (0, -200 + i)));
    entries.extend((0..30).map(|_| (0, -5)));
    check_rules(0, &entries, 60, 6);
    check_rules(-300, &entries, 30, 6);
}

#[test]
fn one_stream_with_bad_labels_is_found_and_the_others_are_delivered() {
    let judge = |posted: &Posted| {
        let bad = posted.iter().any(|(labels, _)| labels == "{s=\"5\"}");
        let text = "couldn't parse labels: 1:4: parse error\n";
        if bad { answer(400, text) } else { answer(204, "") }
    };
    let mut bench = Bench::new(judge);
    let entries: Vec<_> = (0..160).map(|i| (i % 16, 0)).collect();
    let outcome = bench.settle(batch(&entries), LONG).unwrap();
    assert_eq!(outcome, Outcome { delivered: 150, diverted: 10 });
    assert!(bench.dead().iter().all(|(line, _)| line.ends_with("stream 5")));
    assert!(bench.requests() <= 12, "{}", bench.requests());
}

#[test]
fn a_poison_entry_is_found_and_the_others_are_delivered() {
    let judge = |posted: &Posted| {
        let bad = posted.iter().flat_map(|(_, l)| l).any(|(_, line)| line.contains("00077"));
        if bad { answer(500, "label name is empty\n") } else { answer(204, "") }
    };
    let mut bench = Bench::new(judge);
    let entries: Vec<_> = (0..400).map(|i| (i % 3, 0)).collect();
    let outcome = bench.settle(batch(&entries), LONG).unwrap();
    assert_eq!(outcome, Outcome { delivered: 399, diverted: 1 });
    assert_eq!(bench.dead()[0].0, "line 00077 of stream 2");
    assert!(bench.requests() <= 40, "{}", bench.requests());
}

#[test]
fn a_search_in_which_nothing_passes_condemns_nothing() {
    let mut bench = Bench::new(|_| answer(400, "couldn't parse labels: nonsense\n"));
    let entries: Vec<_> = (0..100).map(|i| (i % 10, 0)).collect();
    let queued = QueuedBatch { batch: batch(&entries), cost_bytes: 0 };
    assert_eq!(bench.attend(&queued, Duration::from_secs(1800)), None);
    assert_eq!(bench.dead(), []);
    assert!(bench.requests() <= 41 + 31 + 19, "{}", bench.requests());
    assert_eq!(bench.health.worst(), Level::Unhealthy);
}

#[test]
fn a_stream_over_the_stream_limit_waits_alone_and_the_others_go_on() {
    let judge = |posted: &Posted| {
        let text = "maximum active stream limit exceeded when trying to create stream {s=\"1\"}";
        if posted.iter().any(|(l, _)| l == "{s=\"1\"}") {
            answer(429, text)
        } else {
            answer(204, "")
        }
    };
    let mut bench = Bench::new(judge);
    let entries: Vec<_> = (0..30).map(|i| (i % 3, 0)).collect();
    let start = bench.clock.now();
    let outcome = bench.settle(batch(&entries), LONG).unwrap();
    assert_eq!(outcome, Outcome { delivered: 20, diverted: 10 });
    assert!(bench.dead().iter().all(|(_, cause)| cause == "stream_limit"));
    assert!(bench.clock.now() - start >= limits::STREAM_LIMIT_PATIENCE);
}

#[test]
fn dead_letters_that_cannot_be_written_hold_the_batch() {
    let text = "entry for stream '{s=\"0\", service_name=\"0\"}' has timestamp too new: ";
    let text = format!("{text}{}\n", second(NOW_NS));
    let mut script = VecDeque::from([answer(400, &text)]);
    let mut bench = Bench::new(move |_| script.pop_front().unwrap_or(answer(204, "")));
    let path = bench.dir.path().join("dead-letters");
    std::fs::write(&path, "in the way").unwrap();
    let queued = QueuedBatch { batch: batch(&[(0, 0), (0, 5)]), cost_bytes: 0 };
    assert_eq!(bench.attend(&queued, Duration::from_secs(600)), None);
    assert_eq!((bench.requests(), bench.health.worst()), (1, Level::Unhealthy));
    std::fs::remove_file(&path).unwrap();
    let outcome = bench.attend(&queued, LONG).unwrap();
    assert_eq!(outcome, Outcome { delivered: 1, diverted: 1 });
    assert_eq!(bench.dead(), [("line 00000 of stream 0".into(), "too_new".into())]);
    assert_eq!(bench.health.worst(), Level::Healthy);
}

#[test]
fn a_stop_hurries_and_its_deadline_leaves_the_batch_unacknowledged() {
    let mut bench = Bench::new(|_| answer(500, ""));
    let queued = QueuedBatch { batch: batch(&[(0, 0)]), cost_bytes: 0 };
    bench.stop.ask(bench.clock.now() + Duration::from_secs(10));
    assert_eq!(bench.attend(&queued, LONG), None);
    assert!(bench.requests() >= 2);
    assert!(bench.outcomes.try_recv().is_err());
}

#[test]
fn three_resets_halve_a_large_batch() {
    let judge = |posted: &Posted| {
        let lines: usize = posted.iter().map(|(_, lines)| lines.len()).sum();
        if lines <= 3000 {
            return answer(204, "");
        }
        Err(TransportError { fault: Fault::Reset, text: "reset by peer".to_owned() })
    };
    let mut bench = Bench::new(judge);
    let entries: Vec<_> = (0..6000).map(|_| (0, 0)).collect();
    let outcome = bench.settle(batch(&entries), LONG).unwrap();
    assert_eq!(outcome, Outcome { delivered: 6000, diverted: 0 });
    assert!(bench.requests() <= 10, "{}", bench.requests());
}
