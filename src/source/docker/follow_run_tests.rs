//! Tests of one container's reading, stepped by bytes and events. Pure; run by `cargo test`.

use super::*;

fn container() -> ApiContainer {
    ApiContainer {
        engine: 0,
        api_version: "1.41".into(),
        source: "local".into(),
        id: "c".repeat(64),
        name: "web".to_owned(),
        tty: false,
        driver: "local".to_owned(),
        rotates: true,
        auto_remove: false,
        running: true,
        labels: Vec::new(),
        metadata: Vec::new(),
        line_bytes_max: 1_000,
        long_lines: LongLines::Split,
        partial_wait: Duration::from_secs(5),
        start_at: StartAt::Beginning,
        sinks: Arc::new([0]),
    }
}

/// One log of an engine: the answers to requests are made from it.
struct Log {
    lines: Vec<String>,
    now: Instant,
    got: Vec<String>,
    said: Vec<Said>,
}

impl Log {
    fn new(lines: std::ops::Range<u32>) -> Self {
        let lines = lines.map(line).collect();
        Log { lines, now: Instant::now(), got: Vec::new(), said: Vec::new() }
    }

    /// Sends the request that is due; the answer's bytes, as stored at this moment.
    fn ask(&mut self, follow: &mut Follow) -> Vec<u8> {
        let Phase::Due(at, ask) = follow.phase else { panic!("not due: {:?}", follow.phase) };
        self.now = self.now.max(at);
        follow.begin(ask, self.now);
        follow.body(BodyLength::UntilClose);
        let skipped = match ask.tail {
            Tail::All => 0,
            Tail::Records(n) => self.lines.len().saturating_sub(n as usize),
        };
        let frame = |l: &String| [&[1, 0, 0, 0, 0, 0, 0, l.len() as u8], l.as_bytes()].concat();
        self.lines[skipped..].iter().flat_map(frame).collect()
    }

    fn end(&mut self, follow: &mut Follow, answer: &[u8]) {
        let got = &mut self.got;
        let mut sink = |line: OutLine| got.push(String::from_utf8(line.text).unwrap());
        follow.bytes(answer, self.now, &mut sink).unwrap();
        self.said.push(follow.ended(&Ending::Closed, self.now, true));
    }

    /// Reads until nothing is due, at most `answers_max` times.
    fn read_out(&mut self, follow: &mut Follow, answers_max: usize) {
        for _ in 0..answers_max {
            if follow.phase == Phase::Ended {
                return;
            }
            let answer = self.ask(follow);
            self.end(follow, &answer);
        }
    }

    fn losses(&self) -> usize {
        self.said.iter().filter(|said| **said == Said::PlaceLost).count()
    }
}

fn line(number: u32) -> String {
    format!("2026-11-24T20:00:{:02}.000000000Z line {number}\n", number)
}

fn begun(log: &mut Log) -> Follow {
    let now = log.now;
    let mut follow = Follow::new(container(), None, 0, now);
    log.read_out(&mut follow, 3);
    follow
}

#[test]
fn lines_stored_during_a_read_are_had_though_the_run_ends_before_the_answer_does() {
    let mut log = Log::new(0..3);
    let mut follow = begun(&mut log);
    let answer = log.ask(&mut follow);
    log.lines.push(line(3));
    follow.died(log.now);
    log.end(&mut follow, &answer);
    log.read_out(&mut follow, 5);
    assert_eq!(follow.phase, Phase::Ended);
    assert_eq!(log.got, ["line 0", "line 1", "line 2", "line 3"]);
}

#[test]
fn an_emptied_log_is_told_once_and_read_on() {
    let mut log = Log::new(0..3);
    let mut follow = begun(&mut log);
    log.lines.clear();
    log.read_out(&mut follow, 20);
    assert_eq!(log.losses(), 1);
    log.lines.push(line(9));
    log.read_out(&mut follow, 5);
    assert_eq!(log.losses(), 1);
    assert_eq!(log.got, ["line 0", "line 1", "line 2", "line 9"]);
}

#[test]
fn nothing_comes_twice_over_many_reads() {
    let mut log = Log::new(0..2);
    let mut follow = begun(&mut log);
    for number in 2..20 {
        log.lines.push(line(number));
        log.read_out(&mut follow, 2);
    }
    let expected: Vec<String> = (0..20).map(|n| format!("line {n}")).collect();
    assert_eq!(log.got, expected);
    assert_eq!(log.losses(), 0);
}
