//! The thread `monitor`: audits threads, feeds systemd's watchdog, watches clock and descriptors.
//!
//! Leaves judging of threads to the auditor and everything about data to the components. Wakes
//! once in five seconds, or at half of the watchdog's interval when that is shorter.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::auditor::Auditor;
use super::beat::{Beat, Waits};
use super::systemd::Notifier;
use crate::clock::Clock;
use crate::health::{HealthBoard, Level};
use crate::limits;
use crate::metrics::ProcessFigures;

/// Every how many audits the process's own figures are read.
const FIGURES_EVERY: u32 = 12;

/// What the thread works with.
pub struct Monitor {
    pub auditor: Arc<Auditor>,
    pub notifier: Option<Arc<Notifier>>,
    pub clock: Arc<dyn Clock>,
    pub health: Arc<HealthBoard>,
    /// Nothing is sent on it: the thread ends when the other end is dropped, late in a stop, so
    /// that the watchdog is fed while the daemon drains.
    pub end: Receiver<()>,
}

/// Runs until `end` is closed.
pub fn run(monitor: &Monitor, beat: &Beat) {
    #[cfg(feature = "test-hooks")]
    super::test_hooks::arm();
    let audit_every = limits::AUDIT_INTERVAL.min(monitor.auditor.stall_after());
    let feed_every = monitor.notifier.as_ref().and_then(|n| n.watchdog()).map(|w| w / 2);
    let mut clock = ClockStep::new(monitor.clock.now(), monitor.clock.wall_ns());
    let mut audit_due = monitor.clock.now();
    let mut feed_due = feed_every.map(|_| monitor.clock.now());
    let mut audits = 0u32;
    loop {
        let now = monitor.clock.now();
        if feed_due.is_some_and(|due| now >= due) {
            feed(monitor);
            feed_due = feed_every.map(|every| now + every);
        }
        if now >= audit_due {
            monitor.auditor.audit();
            if audits.is_multiple_of(FIGURES_EVERY) {
                check_descriptors(&monitor.health, &ProcessFigures::sample());
            }
            audits = audits.wrapping_add(1);
            audit_due = now + audit_every;
        }
        if let Some(step) = clock.look(monitor.clock.now(), monitor.clock.wall_ns()) {
            log::warn!(
                "the wall clock stepped by {step} s (or the host slept): times of reading follow it"
            );
        }
        beat.waits(Waits::Events);
        let due = feed_due.map_or(audit_due, |feed| feed.min(audit_due));
        let ended = monitor.end.recv_deadline(due) == Err(RecvTimeoutError::Disconnected);
        beat.busy();
        if ended {
            return;
        }
    }
}

/// The watchdog hears from us only while no busy thread is stalled: else systemd restarts us.
fn feed(monitor: &Monitor) {
    let Some(notifier) = &monitor.notifier else { return };
    if monitor.auditor.any_stalled() {
        return;
    }
    if let Err(e) = notifier.feed() {
        log::debug!("the watchdog was not fed: {e}");
    }
}

/// More than nine in ten descriptors taken: opening files and connections will soon fail.
fn check_descriptors(health: &HealthBoard, figures: &ProcessFigures) {
    if figures.open_fds.saturating_mul(10) > figures.max_fds.saturating_mul(9) {
        let reason =
            format!("{} of {} file descriptors are open", figures.open_fds, figures.max_fds);
        if health.set("process", "descriptors", Level::Degraded, &reason) {
            log::warn!("{reason}; raise LimitNOFILE= of the unit");
        }
    } else if health.clear("process", "descriptors") {
        log::info!("file descriptors are below nine tenths of their limit again");
    }
}

/// Compares how far both clocks went since the last look.
struct ClockStep {
    mono: Instant,
    wall_ns: i64,
}

impl ClockStep {
    fn new(mono: Instant, wall_ns: i64) -> Self {
        Self { mono, wall_ns }
    }

    /// Seconds by which the wall clock went further than the monotonic one, when that is much.
    fn look(&mut self, mono: Instant, wall_ns: i64) -> Option<i64> {
        let went = mono.saturating_duration_since(self.mono).as_nanos() as i64;
        let step_ns = wall_ns.saturating_sub(self.wall_ns).saturating_sub(went);
        (self.mono, self.wall_ns) = (mono, wall_ns);
        let step = Duration::from_nanos(step_ns.unsigned_abs());
        (step > limits::CLOCK_STEP).then_some(step_ns / 1_000_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::Registry;
    use super::super::stop::Stop;
    use super::*;
    use crate::clock::SystemClock;
    use crossbeam_channel::bounded;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn steps_of_the_wall_clock_are_seen_in_both_directions() {
        let start = Instant::now();
        let mut clock = ClockStep::new(start, 1_000_000_000_000);
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(clock.look(at(5), 1_005_000_000_000), None);
        assert_eq!(clock.look(at(10), 1_069_000_000_000), None);
        assert_eq!(clock.look(at(15), 4_674_000_000_000), Some(3_600));
        assert_eq!(clock.look(at(20), 1_079_000_000_000), Some(-3_600));
        assert_eq!(clock.look(at(25), 1_084_000_000_000), None);
    }

    #[test]
    fn running_out_of_descriptors_shows_before_it_happens() {
        let health = HealthBoard::default();
        let figures = |open_fds| ProcessFigures { open_fds, max_fds: 100, ..Default::default() };
        check_descriptors(&health, &figures(90));
        assert!(health.all().is_empty());
        check_descriptors(&health, &figures(91));
        assert_eq!(health.worst(), Level::Degraded);
        check_descriptors(&health, &figures(50));
        assert!(health.all().is_empty());
    }

    #[test]
    fn the_watchdog_is_fed_and_the_thread_ends_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let health: Arc<HealthBoard> = Arc::default();
        let registry = Arc::new(Registry::default());
        let watchdog = Some(Duration::from_millis(20));
        let notifier = Notifier::new(path.to_str().unwrap(), watchdog).unwrap();
        let (end_tx, end) = bounded(1);
        let monitor = Monitor {
            auditor: Arc::new(Auditor::new(
                registry.clone(),
                Vec::new(),
                1,
                Stop::default(),
                health.clone(),
            )),
            notifier: Some(Arc::new(notifier)),
            clock: Arc::new(SystemClock),
            health,
            end,
        };
        registry.spawn("monitor", || {}, move |beat| run(&monitor, &beat)).unwrap();
        let mut buf = [0u8; 64];
        for _ in 0..3 {
            let n = manager.recv(&mut buf).unwrap();
            assert_eq!(&buf[..n], b"WATCHDOG=1");
        }
        drop(end_tx);
        assert!(registry.join(|_| true, Instant::now() + Duration::from_secs(10)));
    }
}
