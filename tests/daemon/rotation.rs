//! Rotation while lines are written, and while the daemon is down.

use super::*;
use crate::support::lines::Writer;

fn rotate_often(rotate: impl Fn(&mut Writer)) -> (LokiDouble, u64, Daemon) {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    let mut writer = Writer::new(daemon.path("logs/a.log"), 0);
    daemon.start();
    for round in 1..=8 {
        writer.lines(5_000);
        let seen = writer.count() - 2_500;
        wait_until(PATIENCE, "half of a round", || double.account().unique >= seen);
        rotate(&mut writer);
        writer.lines(100 * round);
    }
    (double, writer.count(), daemon)
}

#[test]
fn rotation_by_rename_loses_and_repeats_nothing() {
    let (double, lines, daemon) = rotate_often(Writer::rotate_by_rename);
    expect_once(&double, 1, lines);
    assert_eq!(daemon.metric("log_capturer_lines_pending{sink=\"loki\"}"), 0.0);
}

#[test]
fn rotation_by_copytruncate_loses_and_repeats_nothing_that_was_copied() {
    let (double, lines, _daemon) = rotate_often(Writer::rotate_by_copytruncate);
    expect_once(&double, 1, lines);
}

#[test]
fn generations_that_rotated_while_it_was_down_are_read() {
    let double = LokiDouble::start();
    let mut daemon = daemon_for(&double, "");
    let mut writer = Writer::new(daemon.path("logs/a.log"), 0);
    writer.lines(1_000);
    daemon.start();
    wait_until(PATIENCE, "the first lines", || double.account().unique == 1_000);
    assert!(daemon.stop().success());
    for _ in 0..3 {
        writer.lines(500);
        writer.rotate_by_rename();
        writer.lines(500);
    }
    daemon.start();
    expect_once(&double, 1, 4_000);
}
