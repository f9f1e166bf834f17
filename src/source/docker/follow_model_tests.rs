//! One container's reading against a model of an engine's log, without sockets.

use proptest::prelude::*;

use super::*;
use crate::record::StdStream::{Stderr, Stdout};

/// A stored record: stream, time, text with its newline if it has one.
type Stored = (StdStream, i64, String);

/// How the model ends an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    Whole,
    /// A zero chunk after so many records, as a follow stream's early end.
    Early(usize),
    /// The connection closes after so many records, without a zero chunk.
    Broken(usize),
}

fn container() -> ApiContainer {
    ApiContainer {
        engine: 0,
        api_version: "1.41".into(),
        source: "local".into(),
        id: "c".repeat(64),
        name: "web".into(),
        tty: false,
        driver: "json-file".into(),
        rotates: false,
        auto_remove: false,
        running: true,
        labels: Vec::new(),
        metadata: Vec::new(),
        line_bytes_max: 256 << 10,
        long_lines: LongLines::Split,
        partial_wait: Duration::from_secs(5),
        start_at: StartAt::Beginning,
        sinks: Arc::from([0usize]),
    }
}

fn line(stream: StdStream, n: i64) -> Stored {
    (stream, n * 10, format!("line {n}\n"))
}

/// 2026-01-01T00:00:00 and so many nanoseconds.
const EPOCH_NS: i64 = 1_767_225_600_000_000_000;

struct Rig {
    follow: Follow,
    log: Vec<Stored>,
    now: Instant,
    lines: Vec<(StdStream, String)>,
    lost: usize,
    asked: Vec<Ask>,
}

fn rig(container: ApiContainer, place: Option<Place>, log: Vec<Stored>) -> Rig {
    let now = Instant::now();
    let follow = Follow::new(container, place, EPOCH_NS + 1_000_000, now);
    Rig { follow, log, now, lines: Vec::new(), lost: 0, asked: Vec::new() }
}

fn framed((stream, time, text): &Stored, tty: bool) -> Vec<u8> {
    let mut payload = format!("2026-01-01T00:00:00.{time:09}Z ").into_bytes();
    payload.extend_from_slice(text.as_bytes());
    let mut frame = Vec::new();
    if !tty {
        frame.extend_from_slice(&[stream.index() as u8 + 1, 0, 0, 0]);
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    }
    frame.extend_from_slice(&payload);
    let mut chunk = format!("{:x}\r\n", frame.len()).into_bytes();
    chunk.extend_from_slice(&frame);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

impl Rig {
    /// The request that is due, at its time.
    fn ask(&mut self) -> Option<Ask> {
        let Phase::Due(at, ask) = self.follow.phase else { return None };
        self.now = self.now.max(at);
        self.follow.begin(ask, self.now);
        self.follow.body(BodyLength::Chunked);
        self.asked.push(ask);
        Some(ask)
    }

    /// Hands over records; false when the follow wants no more.
    fn give(&mut self, records: &[Stored]) -> bool {
        let mut out = Vec::new();
        for record in records {
            let bytes = framed(record, self.follow.container.tty);
            self.follow.bytes(&bytes, self.now, &mut |line| out.push(line)).unwrap();
            if self.follow.not_here() {
                break;
            }
        }
        self.take(out);
        !self.follow.not_here()
    }

    fn take(&mut self, out: Vec<OutLine>) {
        let text = |line: OutLine| (line.stream, String::from_utf8(line.text).unwrap());
        self.lines.extend(out.into_iter().map(text));
    }

    fn flush(&mut self, all: bool) {
        let mut out = Vec::new();
        self.follow.flush_partial(self.now, all, &mut |line| out.push(line));
        self.take(out);
    }

    fn end(&mut self, ending: Ending) {
        let said = self.follow.ended(&ending, self.now, true);
        self.lost += usize::from(said == Said::PlaceLost);
        self.flush(self.follow.phase == Phase::Ended);
    }

    /// What `ask` brings of the log.
    fn answer(&self, ask: Ask) -> Vec<Stored> {
        let from = match ask.tail {
            Tail::All => 0,
            Tail::Records(n) => self.log.len().saturating_sub(n as usize),
        };
        self.log[from..].to_vec()
    }

    /// One request and its answer.
    fn step(&mut self, cut: Cut) -> Option<Ask> {
        let ask = self.ask()?;
        let mut records = self.answer(ask);
        if let Cut::Early(n) | Cut::Broken(n) = cut {
            records.truncate(n);
        }
        if self.give(&records) && !matches!(cut, Cut::Broken(_)) {
            let state = self.follow.bytes(b"0\r\n\r\n", self.now, &mut |_| {});
            assert_eq!(state.unwrap(), StreamState::Complete);
        }
        self.end(Ending::Closed);
        Some(ask)
    }

    /// Reads until nothing is due but a follow stream.
    fn settle(&mut self) {
        for _ in 0..100 {
            match self.follow.phase {
                Phase::Due(_, ask) if !ask.follow => self.step(Cut::Whole),
                _ => return,
            };
        }
        panic!("100 requests and no end: {:?}", &self.asked[90..]);
    }

    fn texts(&self) -> Vec<&str> {
        self.lines.iter().map(|(_, text)| text.as_str()).collect()
    }
}

fn numbered(upto: i64) -> Vec<Stored> {
    (1..=upto).map(|n| line(if n % 3 == 0 { Stderr } else { Stdout }, n)).collect()
}

fn expected(log: &[Stored]) -> Vec<String> {
    log.iter().map(|(_, _, text)| text.trim_end().to_owned()).collect()
}

#[test]
fn what_a_stream_that_ended_early_left_out_is_read() {
    let mut rig = rig(container(), None, numbered(10));
    rig.settle();
    rig.log = numbered(500);
    // The engine stops amid the backlog with a clean zero chunk.
    assert!(rig.step(Cut::Early(100)).unwrap().follow);
    rig.settle();
    assert_eq!(rig.texts(), expected(&rig.log));
    assert_eq!(rig.lost, 0);
}

#[test]
fn a_read_that_breaks_off_is_not_the_end_of_the_log() {
    let mut rig = rig(container(), None, numbered(50));
    rig.settle();
    rig.follow.died(rig.now);
    rig.log = numbered(90);
    // Neither is the place lost because half an answer does not hold it.
    rig.step(Cut::Broken(3));
    rig.step(Cut::Broken(60));
    assert_ne!(rig.follow.phase, Phase::Ended);
    rig.settle();
    assert_eq!((rig.follow.phase, rig.lost), (Phase::Ended, 0));
    assert_eq!(rig.texts(), expected(&rig.log));
}

#[test]
fn a_run_that_ends_while_its_log_is_read_is_read_once_more() {
    let mut local = container();
    local.rotates = true;
    let mut rig = rig(local, None, numbered(5));
    rig.settle_once();
    rig.ask();
    rig.give(&rig.log.clone());
    rig.log = numbered(9);
    rig.follow.died(rig.now);
    let _ = rig.follow.bytes(b"0\r\n\r\n", rig.now, &mut |_| {});
    rig.end(Ending::Closed);
    rig.step(Cut::Whole);
    assert_eq!(rig.texts(), expected(&rig.log));
    // A last line that is stored after the event of the run's end.
    rig.log = numbered(10);
    rig.settle();
    assert_eq!((rig.texts().len(), rig.follow.phase), (10, Phase::Ended));
}

impl Rig {
    /// One read of a log that is never followed.
    fn settle_once(&mut self) {
        assert!(!self.step(Cut::Whole).unwrap().follow);
    }
}

#[test]
fn a_log_that_was_emptied_is_one_loss_and_goes_on() {
    for rotates in [false, true] {
        let mut rig = rig(ApiContainer { rotates, ..container() }, None, numbered(5));
        (0..3).for_each(|_| assert!(rig.step(Cut::Whole).is_some()));
        rig.log.clear();
        for _ in 0..20 {
            rig.step(Cut::Whole);
        }
        assert_eq!(rig.lost, 1);
        // Though the clock was set back meanwhile.
        rig.log = numbered(3);
        (0..3).for_each(|_| assert!(rig.step(Cut::Whole).is_some()));
        let wanted = [expected(&numbered(5)), expected(&numbered(3))].concat();
        assert_eq!((rig.texts(), rig.lost), (wanted.iter().map(String::as_str).collect(), 1));
    }
}

#[test]
fn nothing_comes_twice_over_many_reads() {
    let mut rig = rig(ApiContainer { rotates: true, ..container() }, None, Vec::new());
    for n in 1..200 {
        rig.log = numbered(n);
        rig.settle_once();
        rig.settle_once();
    }
    assert_eq!((rig.texts().len(), rig.lost), (199, 0));
}

#[test]
fn lines_that_a_stream_repeats_after_a_rotation_come_once() {
    let mut rig = rig(container(), None, numbered(5));
    rig.settle();
    rig.log = numbered(12);
    assert!(rig.ask().unwrap().follow);
    let mut stream = rig.log.clone();
    stream.extend_from_slice(&numbered(12)[7..]);
    assert!(!rig.give(&stream), "the stream is given up where it goes back");
    rig.end(Ending::Closed);
    rig.settle();
    assert_eq!(rig.texts(), expected(&rig.log));
    // The last line alone comes again.
    rig.ask();
    let last = rig.log.last().unwrap().clone();
    assert!(!rig.give(&[rig.log[10].clone(), last.clone(), last]));
    rig.end(Ending::Closed);
    rig.settle();
    assert_eq!((rig.texts().len(), rig.lost), (12, 0));
}

#[test]
fn a_log_of_one_record_is_followed_and_an_idle_one_costs_a_look() {
    let mut rig = rig(container(), None, numbered(1));
    rig.settle();
    for _ in 0..20 {
        let at = rig.now;
        assert!(rig.ask().unwrap().follow);
        assert_eq!(rig.now, at, "no wait before a stream that was only quiet");
        rig.give(&rig.log.clone());
        rig.now += limits::DOCKER_QUIET_CHECK;
        rig.end(Ending::Quiet);
        assert_eq!(rig.step(Cut::Whole), Some(Ask { follow: false, tail: Tail::LOOK }));
    }
    assert_eq!(rig.texts(), ["line 1"]);
}

#[test]
fn a_stream_that_went_deaf_is_found_out() {
    let mut rig = rig(container(), None, numbered(3));
    rig.settle();
    rig.ask();
    rig.give(&rig.log.clone());
    rig.log = numbered(2_500);
    rig.end(Ending::Quiet);
    rig.settle();
    assert_eq!((rig.texts().len(), rig.lost), (2_500, 0));
}

#[test]
fn reading_begins_where_start_at_says() {
    let long = "x".repeat(16_384);
    let pieces = |n: i64| {
        let mut log = numbered(n);
        log.extend([long.clone(), long.clone(), "end\n".to_owned()].map(|t| (Stdout, 900, t)));
        log
    };
    let age = |ms| StartAt::Age(Duration::from_millis(ms));
    for (start_at, before) in
        [(StartAt::End, 0), (age(0), 0), (age(1_000), 6), (StartAt::Beginning, 6)]
    {
        let mut rig = rig(ApiContainer { start_at, ..container() }, None, pieces(5));
        rig.settle();
        assert_eq!(rig.texts().len(), before, "{start_at:?}");
        assert!(rig.follow.is_placed());
        rig.log.push(line(Stdout, 100));
        rig.step(Cut::Whole);
        rig.settle();
        assert_eq!((rig.texts().len(), rig.lost), (before + 1, 0), "{start_at:?}");
    }
}

#[test]
fn a_line_waits_for_its_rest_as_long_as_nobody_looked() {
    let long = "x".repeat(16_384);
    let mut rig =
        rig(container(), None, vec![(Stdout, 5, "a\n".into()), (Stdout, 10, long.clone())]);
    rig.settle();
    assert_eq!((rig.texts().len(), rig.follow.safe_place().offset), (1, 1));
    // The engine is away for long; the rest is there when it comes back.
    rig.now += Duration::from_secs(60);
    rig.flush(false);
    rig.log.push((Stdout, 10, "rest\n".to_owned()));
    rig.step(Cut::Whole);
    rig.settle();
    assert!(rig.texts() == ["a", &format!("{long}rest")]);
    // A stream that is listened to and brings nothing is an end.
    rig.log.push((Stdout, 20, long.clone()));
    rig.settle();
    rig.ask();
    rig.give(&rig.log.clone());
    assert!(rig.follow.partial_due().is_some());
    rig.now += Duration::from_secs(5);
    rig.flush(false);
    assert_eq!((rig.texts().len(), rig.follow.safe_place().offset), (3, 4));
}

#[test]
fn the_cr_of_a_terminal_is_no_part_of_a_line_wherever_it_was_cut() {
    let almost = "x".repeat(16_383);
    let tty = ApiContainer { tty: true, ..container() };
    let log = vec![
        (Stdout, 10, "a\r\n".to_owned()),
        (Stdout, 20, format!("{almost}\r")),
        (Stdout, 20, "\n".to_owned()),
    ];
    let mut rig = rig(tty, None, log);
    rig.settle();
    assert_eq!(rig.texts(), ["a", &almost]);
}

#[test]
fn a_container_that_cannot_be_read_is_told_once_and_one_that_is_gone_is_left() {
    let mut rig = rig(container(), None, Vec::new());
    rig.ask();
    assert_eq!(rig.follow.ended(&Ending::Unreadable, rig.now, true), Said::Unreadable);
    rig.follow.update(container(), rig.now);
    rig.ask();
    assert_eq!(rig.follow.ended(&Ending::Unreadable, rig.now, true), Said::Nothing);
    rig.follow.started(rig.now);
    rig.ask();
    rig.end(Ending::Gone);
    assert!(rig.follow.gone && rig.follow.phase == Phase::Ended);
}

#[test]
fn failures_are_repeated_with_a_growing_bounded_wait() {
    let mut rig = rig(container(), None, numbered(3));
    let mut waits = Vec::new();
    for _ in 0..12 {
        let at = rig.now;
        rig.ask();
        waits.push(rig.now - at);
        rig.end(Ending::Failed);
    }
    assert!(waits.windows(2).all(|w| w[0] <= w[1]), "{waits:?}");
    assert_eq!(waits.last(), Some(&limits::DOCKER_LOG_RETRY_MAX));
    rig.settle();
    assert_eq!(rig.texts().len(), 3);
}

proptest! {
    /// Whatever the log, however it grows and however its answers end: every line comes once,
    /// and in order within its stream.
    #[test]
    fn every_line_comes_once(
        steps in prop::collection::vec((any::<bool>(), -3i64..6, 0u8..4), 1..120),
        grown in prop::collection::vec(0usize..30, 1..12),
        cuts in prop::collection::vec((0u8..4, 0usize..40), 1..12),
        rotates: bool,
    ) {
        let long = "x".repeat(16_384);
        let (mut clock, mut last, mut ended) = (1_000i64, [0i64; 2], [true; 2]);
        let mut whole = Vec::new();
        for (n, (out, step, kind)) in steps.into_iter().enumerate() {
            let stream = if out { Stdout } else { Stderr };
            let i = stream.index();
            clock += step.max(0);
            let time = if ended[i] { (clock + step).max(last[i] + 1) } else { last[i] };
            ended[i] = kind > 0;
            last[i] = time;
            whole.push((stream, time, if kind > 0 { format!("{n}\n") } else { long.clone() }));
        }
        let mut rig = rig(ApiContainer { rotates, ..container() }, None, Vec::new());
        for (turn, more) in grown.iter().chain([&whole.len()]).enumerate() {
            let upto = (rig.log.len() + more).min(whole.len());
            rig.log = whole[..upto].to_vec();
            let (kind, at) = cuts[turn % cuts.len()];
            let follows = matches!(rig.follow.phase, Phase::Due(_, ask) if ask.follow);
            rig.step(match kind {
                0 => Cut::Broken(at),
                1 if follows => Cut::Early(at),
                _ => Cut::Whole,
            });
        }
        rig.follow.died(rig.now);
        rig.settle();
        prop_assert_eq!((rig.follow.phase, rig.lost), (Phase::Ended, 0));
        for stream in [Stdout, Stderr] {
            let mine = whole.iter().filter(|(s, _, _)| *s == stream);
            let text: String = mine.map(|(_, _, text)| text.as_str()).collect();
            let wanted: Vec<_> = text.lines().collect();
            let mine = rig.lines.iter().filter(|(s, _)| *s == stream);
            let got: Vec<_> = mine.map(|(_, text)| text.as_str()).collect();
            prop_assert_eq!(got, wanted);
        }
    }
}
