//! The double's scripts, books and controls, tried with a client of a few lines.

use crate::support::loki::{Answer, LokiDouble};
use crate::support::wait::wait_until;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DEADLINE: Duration = Duration::from_secs(20);

fn now_ns() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// Pushes lines as JSON on a connection of its own; returns the answer's head and body.
fn push(double: &LokiDouble, job: &str, entries: &[(i64, String)]) -> io::Result<String> {
    let values: Vec<_> = entries.iter().map(|(t, line)| (t.to_string(), line)).collect();
    let streams = serde_json::json!([{ "stream": { "job": job }, "values": values }]);
    let body = serde_json::json!({ "streams": streams }).to_string();
    let mut socket = TcpStream::connect(double.address())?;
    socket.set_read_timeout(Some(DEADLINE))?;
    write!(
        socket,
        "POST /loki/api/v1/push HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    Ok(answer)
}

fn push_one(double: &LokiDouble, line: &str) -> io::Result<String> {
    push(double, "a", &[(now_ns(), line.into())])
}

#[test]
fn queued_answers_come_in_order_then_the_rule_then_the_mode() {
    let double = LokiDouble::start();
    double.script(Answer::error(429, "slow down").header("Retry-After", "1"));
    double.script(Answer::reset());
    double.script(Answer::close());
    double.script(Answer::half());
    double.script(Answer::status(500).but_stored());
    double.script(Answer::loki());
    double.script_when(|push| (push.body_bytes > 1000).then(|| Answer::status(413)));
    double.set_mode(Answer::status(503));

    let limited = push_one(&double, "not stored").unwrap();
    assert!(limited.starts_with("HTTP/1.1 429 ") && limited.ends_with("slow down\n"), "{limited}");
    assert!(limited.contains("Retry-After: 1\r\n"), "{limited}");
    let reset = push_one(&double, "not stored").unwrap_err();
    assert_eq!(reset.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(push_one(&double, "not stored").unwrap(), "");
    assert_eq!(push_one(&double, "not stored").unwrap(), "HTTP/1.1 204");
    assert!(push_one(&double, "stored, told otherwise").unwrap().starts_with("HTTP/1.1 500"));
    assert!(push_one(&double, "stored").unwrap().starts_with("HTTP/1.1 204"));
    assert!(push_one(&double, &"x".repeat(1000)).unwrap().starts_with("HTTP/1.1 413"));
    assert!(push_one(&double, "not stored").unwrap().starts_with("HTTP/1.1 503"));
    double.behave();
    assert!(push_one(&double, "stored last").unwrap().starts_with("HTTP/1.1 204"));

    let lines: Vec<String> = double.entries().into_iter().map(|e| e.line).collect();
    assert_eq!(lines, ["stored, told otherwise", "stored", "stored last"]);
    let statuses: Vec<Option<u16>> = double.pushes().iter().map(|p| p.status).collect();
    let want = [429, 0, 0, 0, 500, 204, 413, 503, 204];
    assert_eq!(statuses, want.map(|status| (status > 0).then_some(status)));
    assert_eq!((double.answered()[&0], double.answered()[&204]), (3, 2));
}

#[test]
fn a_hanging_push_is_let_go_by_a_new_mode_and_by_the_end_of_the_double() {
    let double = LokiDouble::start();
    double.set_mode(Answer::hang());
    std::thread::scope(|scope| {
        let hanging = scope.spawn(|| push_one(&double, "not stored"));
        wait_until(DEADLINE, "the push to arrive", || double.counters().pushes == 1);
        assert!(!hanging.is_finished());
        double.set_mode(Answer::loki());
        assert_eq!(hanging.join().unwrap().unwrap(), "");
    });
    assert!(push_one(&double, "stored").unwrap().starts_with("HTTP/1.1 204"));
    assert_eq!(double.entries_count(), 1);
    wait_until(DEADLINE, "connections to close", || double.counters().connections_open == 0);

    double.set_mode(Answer::hang());
    let mut socket = TcpStream::connect(double.address()).unwrap();
    let head = "POST /loki/api/v1/push HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    wait_until(DEADLINE, "the push to arrive", || double.counters().pushes == 3);
    drop(double);
    let mut rest = Vec::new();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    assert_eq!(socket.read_to_end(&mut rest).unwrap(), 0);
}

#[test]
fn a_double_that_is_down_refuses_connections_and_comes_back_with_its_store() {
    let mut double = LokiDouble::start();
    push_one(&double, "before").unwrap();
    let url = double.url();
    double.down();
    assert_eq!(push_one(&double, "lost").unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    double.up();
    assert_eq!(double.url(), url);
    push_one(&double, "after").unwrap();
    let lines: Vec<String> = double.entries().into_iter().map(|e| e.line).collect();
    assert_eq!(lines, ["before", "after"]);
}

#[test]
fn the_books_tell_repeats_that_loki_hides_from_those_that_can_be_seen() {
    let double = LokiDouble::start();
    let now = now_ns();
    let line = |n: i64| (now + n, format!("INFO f=0 n={n} text"));
    let mut sent: Vec<_> = [0, 1, 2, 4].map(line).to_vec();
    sent.push((now, "no mark".into()));
    push(&double, "a", &sent).unwrap();
    push(&double, "a", &sent[..2]).unwrap();
    assert_eq!(double.entries_count(), 5);
    push(&double, "b", &sent[2..3]).unwrap();

    let account = double.account_for(2, 6);
    assert_eq!((account.unique, account.unmarked), (4, 1));
    assert_eq!((account.duplicates, account.visible_duplicates), (3, 1));
    assert_eq!(account.missing, 2 + 6);
    assert_eq!(account.first_missing[..3], [(0, 3), (0, 5), (1, 0)]);
    assert_eq!(double.account().missing, 1);
}
