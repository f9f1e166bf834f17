//! The real daemon on a real Docker Engine, by both ways to the lines.

use std::sync::{Mutex, MutexGuard};

use crate::support::daemon::{Daemon, PATIENCE};
use crate::support::docker::Engine;
use crate::support::loki::LokiDouble;
use crate::support::wait::wait_until;

/// One engine at a time: several at once make a small machine too slow for every patience.
static ONE_ENGINE: Mutex<()> = Mutex::new(());

struct Rig {
    daemon: Daemon,
    double: LokiDouble,
    engine: Engine,
    _turn: MutexGuard<'static, ()>,
}

/// An engine, a double and a daemon between them that is not started yet.
fn rig(read: &str) -> Option<Rig> {
    let turn = ONE_ENGINE.lock().unwrap_or_else(|e| e.into_inner());
    let engine = Engine::start()?;
    let double = LokiDouble::start();
    let daemon = Daemon::new(&format!(
        "sources:\n  docker:\n    - name: local\n      endpoint: unix://{}\n      read: {read}\n      \
         partial_wait: 1s\n      start_at: beginning\nsinks:\n  - name: loki\n    type: loki\n    \
         url: {}\n    batch: {{ bytes: 256KiB, wait: 200ms }}\n    \
         retry: {{ initial: 50ms, max: 500ms }}\n",
        engine.socket().display(),
        double.url()
    ));
    Some(Rig { daemon, double, engine, _turn: turn })
}

/// A script that prints numbered lines: file `f`, from `from` up to (not with) `upto`.
fn lines(f: u32, from: u64, upto: u64) -> String {
    format!(
        "awk 'BEGIN {{ for (n = {from}; n < {upto}; n++) \
         printf \"INFO f={f} n=%d abcdefghijklmnopqrstuvwxyz0123456789\\n\", n }}'"
    )
}

impl Rig {
    #[track_caller]
    fn expect_once(&self, files: u32, count: u64) {
        let wanted = u64::from(files) * count;
        wait_until(PATIENCE, "all lines", || self.double.account().unique >= wanted);
        let account = self.double.account_for(files, count);
        assert_eq!((account.missing, account.visible_duplicates), (0, 0), "{account:?}");
    }
}

fn a_burst_a_tty_and_long_lines_arrive_whole(read: &str) {
    let Some(mut rig) = rig(read) else { return };
    rig.daemon.start();
    let threads = rig.daemon.threads();
    let burst = rig.engine.run(&[], &lines(0, 0, 30_000));
    rig.engine.run(&["-t"], &lines(1, 0, 30_000));
    // Lines of 100 KiB: six pieces and a rest each.
    let long = "awk 'BEGIN { while (length(s) < 102400) s = s \"abcdefghij\"; \
                for (n = 0; n < 20; n++) printf \"long n=%d %s\\n\", n, s }'";
    rig.engine.run(&[], long);
    rig.expect_once(2, 30_000);
    let long_lines = || {
        let entries = rig.double.entries();
        let long = entries.into_iter().filter(|e| e.line.starts_with("long n="));
        long.map(|e| e.line.len()).collect::<Vec<_>>()
    };
    wait_until(PATIENCE, "the long lines", || long_lines().len() >= 20);
    assert!(long_lines().len() == 20 && long_lines().iter().all(|l| *l >= 102_400));
    assert_eq!(rig.daemon.threads(), threads, "threads are fixed");
    let entries = rig.double.entries();
    let first = entries.iter().find(|e| e.line.contains(" f=0 n=0 ")).expect("the first line");
    assert_eq!(first.labels.get("container"), Some(&burst));
    assert_eq!(first.labels.get("stream").map(String::as_str), Some("stdout"));
    assert!(first.metadata.values().any(|v| v.len() == 64), "the id: {:?}", first.metadata);
}

#[test]
fn a_burst_a_tty_and_long_lines_arrive_whole_by_file() {
    a_burst_a_tty_and_long_lines_arrive_whole("json_file");
}

#[test]
fn a_burst_a_tty_and_long_lines_arrive_whole_by_api() {
    a_burst_a_tty_and_long_lines_arrive_whole("api");
}

fn restarts_removal_and_an_engine_restart_lose_nothing(read: &str) {
    let Some(mut rig) = rig(read) else { return };
    rig.daemon.start();
    let threads = rig.daemon.threads();
    // Each run writes the next hundred lines; the count is kept in the container's file system.
    let counting = "i=$(cat /i 2>/dev/null || echo 0); echo $((i + 1)) > /i; \
                    awk -v a=$((i * 100)) 'BEGIN { for (n = a; n < a + 100; n++) \
                    printf \"INFO f=0 n=%d x\\n\", n }'; exec sleep 600";
    let name = rig.engine.run(&["--stop-timeout", "0"], counting);
    let unique = |rig: &Rig| rig.double.account().unique;
    wait_until(PATIENCE, "the first run", || unique(&rig) >= 100);
    for run in 2..=4 {
        rig.engine.docker(&["restart", "-t", "0", &name]).expect("a restart");
        wait_until(PATIENCE, "the next run", || unique(&rig) >= run * 100);
    }
    rig.engine.down();
    rig.engine.up();
    rig.engine.docker(&["start", &name]).expect("a start");
    wait_until(PATIENCE, "the run after the engine's restart", || unique(&rig) >= 500);
    rig.engine.docker(&["rm", "-f", &name]).expect("a removal");
    rig.engine.run(&[], &lines(1, 0, 500));
    rig.expect_once(2, 500);
    assert_eq!(rig.daemon.threads(), threads, "threads are fixed");
}

#[test]
fn restarts_removal_and_an_engine_restart_lose_nothing_by_file() {
    restarts_removal_and_an_engine_restart_lose_nothing("json_file");
}

#[test]
fn restarts_removal_and_an_engine_restart_lose_nothing_by_api() {
    restarts_removal_and_an_engine_restart_lose_nothing("api");
}

fn what_was_written_while_it_was_down_or_killed_is_read(read: &str, driver: &str) {
    let Some(mut rig) = rig(read) else { return };
    let driver = ["--log-driver", driver];
    rig.engine.run(&driver, &lines(0, 0, 20_000));
    rig.daemon.start();
    rig.engine
        .run(&driver, &format!("{}; sleep 1; {}", lines(1, 0, 10_000), lines(1, 10_000, 20_000)));
    wait_until(PATIENCE, "some lines", || rig.double.account().unique > 5_000);
    rig.daemon.kill();
    rig.engine.run(&driver, &lines(2, 0, 20_000));
    rig.daemon.start();
    rig.expect_once(3, 20_000);
    assert!(rig.daemon.stop().success());
    rig.daemon.start();
    rig.engine.run(&driver, &lines(3, 0, 20_000));
    rig.expect_once(4, 20_000);
}

#[test]
fn what_was_written_while_it_was_down_or_killed_is_read_by_file() {
    what_was_written_while_it_was_down_or_killed_is_read("json_file", "json-file");
}

#[test]
fn what_was_written_while_it_was_down_or_killed_is_read_by_api() {
    what_was_written_while_it_was_down_or_killed_is_read("api", "json-file");
}

#[test]
fn the_local_driver_is_read_by_auto() {
    what_was_written_while_it_was_down_or_killed_is_read("auto", "local");
}

#[test]
fn an_engine_that_comes_late_is_found_and_threads_stay() {
    let Some(mut rig) = rig("auto") else { return };
    rig.engine.down();
    rig.daemon.start();
    let threads = rig.daemon.threads();
    wait_until(PATIENCE, "a word about the socket", || rig.daemon.log().contains("docker.sock"));
    rig.engine.up();
    rig.engine.run(&[], &lines(0, 0, 1_000));
    rig.expect_once(1, 1_000);
    assert_eq!(rig.daemon.threads(), threads, "threads are fixed");
}
