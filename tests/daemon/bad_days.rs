//! Loki's bad days: what comes back after each must be complete, with the same threads.

use super::*;
use crate::support::lines::Writer;
use crate::support::loki::Answer;

/// Lines are written while the double misbehaves; afterwards all must be there. Returns the daemon.
fn survives(answer: Answer) -> (Daemon, LokiDouble) {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    daemon.start();
    let mut writer = Writer::new(daemon.path("logs/a.log"), 0);
    writer.lines(1_000);
    wait_until(PATIENCE, "the first lines", || double.account().unique == 1_000);
    let threads = daemon.threads();
    let seen = double.pushes().len();
    double.set_mode(answer);
    writer.lines(100_000);
    wait_until(PATIENCE, "some failed pushes", || double.pushes().len() > seen + 2);
    assert_eq!(daemon.threads(), threads, "threads are fixed");
    double.behave();
    wait_until(PATIENCE, "all lines", || double.account().unique >= 101_000);
    let account = double.account_for(1, 101_000);
    assert_eq!((account.missing, account.visible_duplicates), (0, 0), "{account:?}");
    assert_eq!(daemon.threads(), threads, "threads are fixed");
    assert!(daemon.descriptors() < 64, "{} descriptors", daemon.descriptors());
    (daemon, double)
}

#[test]
fn a_500_loses_nothing() {
    survives(Answer::error(500, "oops"));
}

#[test]
fn a_hanging_loki_loses_nothing() {
    survives(Answer::hang());
}

#[test]
fn resets_lose_nothing() {
    survives(Answer::reset());
}

#[test]
fn an_answer_cut_in_its_head_loses_nothing() {
    survives(Answer::half());
}

#[test]
fn a_429_with_retry_after_loses_nothing() {
    let body = "ingestion rate limit exceeded for user fake (limit: 4194304 bytes/sec) while \
                attempting to ingest '1' lines totaling '100' bytes, reduce log volume or contact \
                your Loki administrator to see if the limit can be increased";
    survives(Answer::error(429, body).header("Retry-After", "1"));
}

#[test]
fn a_loki_that_stores_and_then_fails_shows_nothing_twice() {
    survives(Answer::error(500, "oops").but_stored());
}

#[test]
fn a_loki_that_is_not_there_loses_nothing() {
    let mut double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    double.down();
    Writer::new(daemon.path("logs/a.log"), 0).lines(20_000);
    daemon.start();
    wait_until(PATIENCE, "a refused connection", || {
        let (_, text) = daemon.get("/metrics").expect("metrics");
        text.lines().any(|l| l.starts_with("log_capturer_errors_total{"))
    });
    double.up();
    expect_once(&double, 1, 20_000);
}

#[test]
fn a_lost_permission_holds_everything_and_turns_health_red() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    double.set_mode(Answer::error(403, "<html>forbidden by the proxy</html>"));
    Writer::new(daemon.path("logs/a.log"), 0).lines(1_000);
    daemon.start();
    wait_until(PATIENCE, "red health", || {
        daemon.get("/health").is_some_and(|(status, body)| status == 503 && body.contains("403"))
    });
    assert_eq!(double.account().unique, 0);
    double.behave();
    assert!(daemon.stop().success());
    daemon.start();
    expect_once(&double, 1, 1_000);
    wait_until(PATIENCE, "green health", || daemon.get("/health").is_some_and(|(s, _)| s == 200));
}

#[test]
fn refused_entries_go_to_dead_letters_and_the_rest_is_delivered() {
    let double = LokiDouble::start();
    // Lines over 150 bytes are refused by this Loki, ours are of 100.
    double.set_limits(|limits| limits.max_line_size = 150);
    let mut daemon = daemon_for(&double, "");
    let mut writer = Writer::new(daemon.path("logs/a.log"), 0);
    for i in 0..20 {
        writer.lines(50);
        writer.raw(format!("refused {i} {}\n", "y".repeat(200)).as_bytes());
    }
    daemon.start();
    // What was stored beside a refused entry is sent again with the rest; Loki keeps one copy.
    wait_until(PATIENCE, "all good lines", || double.account().unique >= 1_000);
    let account = double.account_for(1, 1_000);
    assert_eq!((account.missing, account.visible_duplicates), (0, 0), "{account:?}");
    let diverted = || {
        let (_, text) = daemon.get("/metrics").expect("metrics");
        let sent = "log_capturer_logs_sent_total{";
        let of = |l: &&str| l.starts_with(sent) && l.contains("diverted");
        text.lines().find(of).and_then(|l| l.rsplit(' ').next().map(str::to_owned))
    };
    wait_until(PATIENCE, "the books", || diverted().is_some_and(|n| n == "20"));
    let mut letters = String::new();
    for entry in std::fs::read_dir(daemon.path("data/dead-letters")).expect("dead letters") {
        letters += &std::fs::read_to_string(entry.expect("an entry").path()).unwrap_or_default();
    }
    for i in 0..20 {
        let times = letters.lines().filter(|l| l.contains(&format!("refused {i} "))).count();
        assert_eq!(times, 1, "refused line {i} in dead letters");
    }
    assert!(letters.contains("max entry size"), "with Loki's reason");
}
