//! Follows stepped through answers that are made up here.

use super::*;

const PART: usize = 4;

pub fn container() -> ApiContainer {
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
        running: false,
        labels: Vec::new(),
        metadata: Vec::new(),
        line_bytes_max: PART,
        long_lines: LongLines::Split,
        partial_wait: Duration::from_secs(5),
        start_at: StartAt::Beginning,
        sinks: Arc::from([0usize]),
    }
}

fn follow(now: Instant) -> Follow {
    Follow::new(container(), Some(Place::default()), 0, now)
}

fn frame(stream: u8, time: u32, text: &str) -> Vec<u8> {
    let record = format!("2026-01-01T00:00:00.{time:09}Z {text}");
    let mut frame = vec![stream, 0, 0, 0];
    frame.extend_from_slice(&(record.len() as u32).to_be_bytes());
    frame.extend_from_slice(record.as_bytes());
    frame
}

/// The request that is due, answered with `body` and the connection's end.
fn answer(follow: &mut Follow, body: &[u8], now: Instant) -> (Ask, Vec<OutLine>, Said) {
    let Phase::Due(_, ask) = follow.phase else { panic!("{:?}", follow.phase) };
    follow.begin(ask, now);
    follow.body(BodyLength::UntilClose);
    let mut out = Vec::new();
    follow.bytes(body, now, &mut |line| out.push(line)).unwrap();
    (ask, out, follow.ended(&Ending::Closed, now, true))
}

#[test]
fn a_position_behind_a_line_does_not_pass_what_ended_with_it() {
    let now = Instant::now();
    // Parts of one line: any of them may find no room.
    let mut long = follow(now);
    let (_, parts, _) = answer(&mut long, &frame(1, 1, "aaaabbbbcc\n"), now);
    let afters = |lines: &[OutLine]| lines.iter().map(|l| l.after.offset).collect::<Vec<_>>();
    assert_eq!((parts.len(), afters(&parts)), (3, vec![0, 0, 1]));
    // Both streams' unfinished lines, ended by the wait.
    let mut open = follow(now);
    let body = [frame(1, 1, "out"), frame(2, 2, "err")].concat();
    let (_, none, _) = answer(&mut open, &body, now);
    assert!(none.is_empty(), "{none:?}");
    let mut flushed = Vec::new();
    open.flush_partial(now, true, &mut |line| flushed.push(line));
    assert_eq!((flushed.len(), afters(&flushed)), (2, vec![1, 2]));
}

#[test]
fn after_a_lost_place_the_whole_log_is_read_whatever_happens_in_between() {
    let now = Instant::now();
    let mut follow = follow(now);
    answer(&mut follow, &frame(1, 1, "a\n"), now);
    let later = [frame(1, 5, "x\n"), frame(1, 6, "y\n")].concat();
    let said = std::iter::repeat_with(|| answer(&mut follow, &later, now).2);
    assert!(said.take(10).any(|said| said == Said::PlaceLost));
    // Neither an event nor a failure in between makes it a short read.
    follow.died(now);
    let Phase::Due(_, ask) = follow.phase else { panic!("{:?}", follow.phase) };
    assert_eq!(ask.tail, Tail::All);
    follow.begin(ask, now);
    follow.ended(&Ending::Failed, now, true);
    let (ask, lines, _) = answer(&mut follow, &later, now);
    assert_eq!((ask.tail, lines.len()), (Tail::All, 2));
}

#[test]
fn an_emptied_log_is_said_to_be_lost_once() {
    let now = Instant::now();
    let mut follow = follow(now);
    follow.started(now);
    answer(&mut follow, &frame(1, 1, "a\n"), now);
    let lost = (0..50).filter(|_| answer(&mut follow, b"", now).2 == Said::PlaceLost).count();
    assert_eq!(lost, 1);
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.extend(answer(&mut follow, &frame(1, 9, "b\n"), now).1);
    }
    assert_eq!(lines.len(), 1);
}

#[test]
fn a_container_that_starts_while_its_log_is_read_does_not_begin_a_second_read() {
    let now = Instant::now();
    let mut follow = follow(now);
    let Phase::Due(_, ask) = follow.phase else { panic!("{:?}", follow.phase) };
    follow.begin(ask, now);
    follow.update(ApiContainer { running: true, ..container() }, now);
    assert_eq!(follow.phase, Phase::Reading(ask));
    follow.ended(&Ending::Closed, now, true);
    assert!(matches!(follow.phase, Phase::Due(_, Ask { follow: true, .. })), "{:?}", follow.phase);
}
