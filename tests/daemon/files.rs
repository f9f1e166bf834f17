//! Files as they are: lines of any kind, files that come late, positions.

use std::os::unix::fs::symlink;

use super::*;
use crate::support::lines::Writer;

#[test]
fn every_line_of_every_file_arrives_once_and_in_order() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    let mut writers: Vec<_> =
        (0..4).map(|i| Writer::new(daemon.path(&format!("logs/{i}.log")), i)).collect();
    writers.iter_mut().for_each(|w| w.lines(5_000));
    daemon.start();
    for _ in 0..50 {
        writers.iter_mut().for_each(|w| w.lines(100));
    }
    expect_once(&double, 4, 10_000);
    let entries = double.entries();
    for file in 0..4 {
        let name = daemon.path(&format!("logs/{file}.log")).display().to_string();
        let mut of_file: Vec<_> =
            entries.iter().filter(|e| e.labels.get("filename") == Some(&name)).collect();
        of_file.sort_by_key(|e| e.ts_ns);
        assert_eq!(of_file.len(), 10_000);
        assert!(of_file.windows(2).all(|w| w[0].ts_ns < w[1].ts_ns), "times rise strictly");
        let in_order = |(n, e): (usize, &&_)| mark_of(e) == n as u64;
        assert!(of_file.iter().enumerate().all(in_order), "lines of {name} are in order");
        assert_eq!(of_file[0].labels.get("job").map(String::as_str), Some("logs"));
        assert!(of_file[0].labels.contains_key("host"));
    }
}

fn mark_of(entry: &crate::support::loki::Shown) -> u64 {
    let text = entry.line.split(" n=").nth(1).and_then(|t| t.split(' ').next());
    text.and_then(|t| t.parse().ok()).expect("a numbered line")
}

#[test]
fn lines_of_every_kind_arrive_as_they_are() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "      partial_wait: 300ms\n");
    let path = daemon.path("logs/kinds.log");
    let long = "x".repeat(300 << 10);
    let mut text = b"plain\ncr lf\r\n\nnul \0 inside\nbad \xff utf-8\n".to_vec();
    text.extend_from_slice(long.as_bytes());
    text.extend_from_slice("\n\u{e9}t\u{e9}\nno newline".as_bytes());
    std::fs::write(path, text).expect("the log is written");
    daemon.start();
    let lines = || double.entries().into_iter().map(|e| e.line).collect::<Vec<_>>();
    wait_until(PATIENCE, "the partial line", || lines().iter().any(|l| l == "no newline"));
    let lines = lines();
    for wanted in ["plain", "cr lf", "nul \0 inside", "bad \u{fffd} utf-8", "\u{e9}t\u{e9}"] {
        assert!(lines.iter().any(|l| l == wanted), "{wanted:?} is not in {lines:.200?}");
    }
    let of_x: usize = lines.iter().filter(|l| l.starts_with('x')).map(String::len).sum();
    assert_eq!(of_x, long.len(), "a long line is split and whole");
    assert!(lines.iter().all(|l| l.len() <= 256 << 10));
}

#[test]
fn files_and_directories_that_appear_late_are_read_from_their_beginning() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(
        &double,
        "    - name: deep\n      include: [\"{dir}/late/**/*.log\"]\n      start_at: end\n",
    );
    daemon.start();
    std::fs::create_dir_all(daemon.path("late/a/b")).expect("directories");
    Writer::new(daemon.path("logs/late.log"), 0).lines(100);
    Writer::new(daemon.path("late/a/b/x.log"), 1).lines(100);
    expect_once(&double, 2, 100);
}

#[test]
fn start_at_end_leaves_out_what_was_there_and_nothing_after() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(
        &double,
        "    - name: tail\n      include: [\"{dir}/tail/*.log\"]\n      start_at: end\n",
    );
    std::fs::create_dir(daemon.path("tail")).expect("a directory");
    let path = daemon.path("tail/x.log");
    std::fs::write(&path, "old\n".repeat(1000)).expect("old lines");
    Writer::new(daemon.path("logs/go.log"), 7).lines(1);
    daemon.start();
    wait_until(PATIENCE, "the first sweep", || {
        daemon.metric("log_capturer_total_files_monitored") == 2.0
    });
    Writer::new(path, 0).lines(100);
    wait_until(PATIENCE, "new lines", || double.account().unique == 101);
    assert!(double.entries().iter().all(|e| e.line != "old"));
}

#[test]
fn fifos_devices_and_others_links_in_the_glob_are_left_alone() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        daemon.path("logs/fifo.log"),
        rustix::fs::Mode::from_raw_mode(0o644),
    )
    .expect("a fifo");
    symlink("/dev/zero", daemon.path("logs/zero.log")).expect("a link to a device");
    std::fs::create_dir(daemon.path("logs/dir.log")).expect("a directory");
    Writer::new(daemon.path("logs/real.log"), 0).lines(100);
    daemon.start();
    expect_once(&double, 1, 100);
}

#[test]
fn a_restart_goes_on_where_it_stopped() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    let mut writer = Writer::new(daemon.path("logs/a.log"), 0);
    for _ in 0..3 {
        writer.lines(1_000);
        daemon.start();
        writer.lines(1_000);
        wait_until(PATIENCE, "its lines", || double.account().unique >= writer.count());
        assert!(daemon.stop().success());
    }
    expect_once(&double, 1, 6_000);
}

#[test]
fn a_file_deleted_while_open_is_read_to_its_end() {
    let double = LokiDouble::start();
    double.set_mode(crate::support::loki::Answer::status(503));
    let mut daemon = daemon_for(&double, "");
    daemon.start();
    let path = daemon.path("logs/a.log");
    Writer::new(path.clone(), 0).lines(20_000);
    wait_until(PATIENCE, "the file", || daemon.metric("log_capturer_total_files_monitored") == 1.0);
    std::fs::remove_file(path).expect("the log is removed");
    double.behave();
    expect_once(&double, 1, 20_000);
}
