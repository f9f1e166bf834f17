//! The daemon's life: start, kill, stop, lock, bad config, local files.

use std::process::Command;

use super::*;
use crate::support::lines::Writer;

#[test]
fn nothing_is_lost_when_it_is_killed_again_and_again() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    let mut writers: Vec<_> =
        (0..3).map(|i| Writer::new(daemon.path(&format!("logs/{i}.log")), i)).collect();
    for round in 0..10 {
        writers.iter_mut().for_each(|w| w.lines(2_000));
        daemon.launch();
        writers.iter_mut().for_each(|w| w.lines(2_000));
        // Something of this round of each file, so that the daemon knows what is renamed below.
        let wanted = (round + 1) * 12_000 - 3_000;
        wait_until(PATIENCE, "some lines", || double.account().unique >= wanted);
        wait_until(PATIENCE, "three positions", || positions(&daemon) >= 3);
        writers[round as usize % 3].rotate_by_rename();
        daemon.kill();
    }
    daemon.start();
    wait_until(PATIENCE, "all lines", || double.account().unique >= 120_000);
    assert_eq!(double.account_for(3, 40_000).missing, 0);
}

/// How many sources the positions file knows.
fn positions(daemon: &Daemon) -> usize {
    let text = std::fs::read_to_string(daemon.path("data/positions")).unwrap_or_default();
    text.lines().filter(|l| l.contains("\"kind\"")).count()
}

#[test]
fn sigterm_delivers_what_was_read_and_ends_with_0() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    daemon.start();
    let mut writer = Writer::new(daemon.path("logs/a.log"), 0);
    writer.lines(30_000);
    wait_until(PATIENCE, "a first batch", || double.account().unique > 0);
    assert!(daemon.stop().success());
    daemon.start();
    expect_once(&double, 1, 30_000);
}

#[test]
fn sigterm_ends_in_time_although_loki_hangs() {
    let double = LokiDouble::start();
    double.set_mode(crate::support::loki::Answer::hang());
    let mut daemon = daemon_for(&double, "");
    Writer::new(daemon.path("logs/a.log"), 0).lines(10_000);
    let config = std::fs::read_to_string(daemon.path("config.yaml")).expect("the config");
    let config = config.replace("shutdown_timeout: 10s", "shutdown_timeout: 1s");
    std::fs::write(daemon.path("config.yaml"), config).expect("the config");
    daemon.start();
    wait_until(PATIENCE, "a push", || !double.pushes().is_empty());
    daemon.stop();
    let log = daemon.log();
    assert!(log.contains("not everything was delivered in time"), "{log}");
    double.behave();
    daemon.start();
    expect_once(&double, 1, 10_000);
}

#[test]
fn a_second_daemon_on_the_same_data_directory_is_refused() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    daemon.start();
    let config = std::fs::read_to_string(daemon.path("config.yaml")).expect("the config");
    let other = daemon.path("other.yaml");
    let port = format!("127.0.0.1:{}", daemon.admin_port);
    std::fs::write(&other, config.replace(&port, "127.0.0.1:0")).expect("a config");
    let second = Command::new(Daemon::binary()).args(["run", "--config"]).arg(other).output();
    let second = second.expect("a second daemon");
    assert!(!second.status.success());
    let text = String::from_utf8_lossy(&second.stderr);
    assert!(text.contains("in use by another log-capturer"), "{text}");
    assert!(text.contains(&daemon.pid().to_string()), "{text}");
}

#[test]
fn what_is_captured_locally_is_complete_and_valid_json() {
    let mut daemon = Daemon::new(
        "sources:\n  files:\n    - name: logs\n      include: [\"{dir}/logs/*.log\"]\n      \
         start_at: beginning\nsinks:\n  - name: copy\n    type: local_file\n    \
         path: \"{dir}/captured\"\n    rotate: { bytes: 256KiB, keep: 64 }\n",
    );
    std::fs::create_dir(daemon.path("logs")).expect("a directory");
    Writer::new(daemon.path("logs/a.log"), 0).lines(10_000);
    daemon.start();
    let captured = |daemon: &Daemon| {
        let mut numbers = Vec::new();
        let entries = std::fs::read_dir(daemon.path("captured")).into_iter().flatten().flatten();
        let files: Vec<_> = entries.map(|e| e.path()).collect();
        for path in &files {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            // The last line may be in the making.
            for line in text.split_inclusive('\n').filter(|l| l.ends_with('\n')) {
                let value: serde_json::Value = serde_json::from_str(line).expect("JSON");
                let line = value["line"].as_str().expect("a line");
                let number = line.split(" n=").nth(1).and_then(|t| t.split(' ').next());
                numbers.push(number.and_then(|t| t.parse::<u32>().ok()).expect("a number"));
            }
        }
        numbers.sort_unstable();
        (numbers, files.len())
    };
    wait_until(PATIENCE, "all lines", || captured(&daemon).0.len() >= 10_000);
    assert!(daemon.stop().success());
    let (numbers, files) = captured(&daemon);
    assert_eq!(numbers, (0..10_000).collect::<Vec<_>>());
    assert!(files > 2, "{files} files: rotated by size");
}
