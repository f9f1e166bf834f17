//! The auditor: compares the threads that should run with those that do.
//!
//! What runs is asked of the kernel (/proc/self/task), what should is the registry and the
//! threads that notify is known to start. Called by `monitor` on its tick and by `admin-0` for
//! `/health`; findings go to the health board and, once per change, to our log.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::beat::Waits;
use super::registry::Registry;
use super::stop::Stop;
use crate::health::{HealthBoard, Level};
use crate::limits;

/// Threads that a library starts for us: what the kernel calls them, and how many there are.
#[derive(Clone, Debug)]
pub struct Foreign {
    /// The thread's name begins with this.
    pub prefix: String,
    pub count: usize,
}

/// A thread that should run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub name: String,
    /// Kernel's thread id; 0 when it is not known yet.
    pub tid: i32,
    pub state: Waits,
    /// For how long it has been in that state.
    pub since: Duration,
}

/// What one audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    pub threads: Vec<Seen>,
    /// Threads of the process, as the kernel counts them.
    pub running: usize,
    /// Threads of the plan.
    pub expected: usize,
    /// Names of threads that nobody planned.
    pub unknown: Vec<String>,
    /// Planned threads that do not run.
    pub missing: Vec<String>,
    /// Busy without a beat for too long.
    pub stalled: Vec<String>,
}

impl Audit {
    /// The worst that was found.
    pub fn level(&self) -> Level {
        if !self.missing.is_empty() || !self.stalled.is_empty() {
            Level::Unhealthy
        } else if !self.unknown.is_empty() {
            Level::Degraded
        } else {
            Level::Healthy
        }
    }
}

/// Shared by `monitor` and `admin-0`.
pub struct Auditor {
    registry: Arc<Registry>,
    foreign: Vec<Foreign>,
    expected: usize,
    stall_after: Duration,
    stop: Stop,
    health: Arc<HealthBoard>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Names of foreign threads that run, so that a name is read once a thread.
    names: BTreeMap<i32, String>,
    /// Threads that had no name of their own yet at the last look: a thread names itself.
    unnamed: BTreeSet<i32>,
    /// What stands on the health board.
    reported: BTreeSet<String>,
}

impl Auditor {
    /// `expected` is the plan's count of threads, `foreign` included.
    pub fn new(
        registry: Arc<Registry>,
        foreign: Vec<Foreign>,
        expected: usize,
        stop: Stop,
        health: Arc<HealthBoard>,
    ) -> Self {
        #[cfg(feature = "test-hooks")]
        let stall_after = super::test_hooks::stall_after();
        #[cfg(not(feature = "test-hooks"))]
        let stall_after = limits::STALL_AFTER;
        let state = Mutex::default();
        Self { registry, foreign, expected, stall_after, stop, health, state }
    }

    /// Looks once. A thread list that cannot be read counts as "all is well": the heartbeats
    /// are still compared.
    pub fn audit(&self) -> Audit {
        let seen = self.seen();
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        let State { names, unnamed, .. } = &mut *state;
        let tasks = tasks(&seen, &self.foreign, names, unnamed).unwrap_or_else(|e| {
            log::debug!("/proc/self/task cannot be listed: {e}");
            seen.iter().map(|s| (s.tid, s.name.clone())).collect()
        });
        let partial = !self.registry.is_sealed() || !state.unnamed.is_empty();
        if partial {
            // Threads are still being made: nothing can be said of those that are not there.
            let running = tasks.len() + state.unnamed.len();
            return Audit { threads: seen, running, expected: self.expected, ..Audit::default() };
        }
        let mut audit = compare(seen, &self.foreign, &tasks, self.stall_after, self.stop.asked());
        audit.expected = self.expected;
        self.report(&audit, &mut state.reported);
        audit
    }

    /// How long a busy thread may go without a beat.
    pub fn stall_after(&self) -> Duration {
        self.stall_after
    }

    #[cfg(all(test, feature = "test-hooks"))]
    pub(super) fn shorten_stall_after(&mut self, to: Duration) {
        self.stall_after = to;
    }

    /// Whether a busy thread has an old beat: a few loads, no system call.
    pub fn any_stalled(&self) -> bool {
        self.seen().iter().any(|s| stalled(s, self.stall_after))
    }

    fn seen(&self) -> Vec<Seen> {
        let mut seen = Vec::new();
        for thread in self.registry.all() {
            let (state, since) = thread.beat.state();
            let tid = thread.tid.load(std::sync::atomic::Ordering::Acquire);
            seen.push(Seen { name: thread.name, tid, state, since });
        }
        seen
    }

    /// Puts findings on the board and takes those off that are over.
    fn report(&self, audit: &Audit, reported: &mut BTreeSet<String>) {
        let stalled = format!("stalled: busy without a beat for over {:?}", self.stall_after);
        let mut now = BTreeSet::new();
        for (names, level, reason) in [
            (&audit.unknown, Level::Degraded, "unknown: it is not in the thread plan"),
            (&audit.missing, Level::Unhealthy, "missing: it does not run"),
            (&audit.stalled, Level::Unhealthy, stalled.as_str()),
        ] {
            for name in names.iter().take(limits::AUDIT_NAMES) {
                now.insert(name.clone());
                if self.health.set("thread", name, level, reason) {
                    log::error!("thread {name} is {reason}");
                }
            }
        }
        for over in reported.difference(&now) {
            if self.health.clear("thread", over) {
                log::info!("thread {over} is well again or gone");
            }
        }
        *reported = now;
    }
}

fn stalled(thread: &Seen, stall_after: Duration) -> bool {
    thread.state == Waits::Busy && thread.since > stall_after
}

/// Ids and names of the threads that the kernel knows; the names of registered ones are taken
/// from the registry.
fn tasks(
    seen: &[Seen],
    foreign: &[Foreign],
    names: &mut BTreeMap<i32, String>,
    unnamed: &mut BTreeSet<i32>,
) -> io::Result<Vec<(i32, String)>> {
    let mut tasks = Vec::new();
    let mut fresh = BTreeMap::new();
    let before = std::mem::take(unnamed);
    let process = fs::read_to_string("/proc/self/comm")?;
    for entry in fs::read_dir("/proc/self/task")? {
        let entry = entry?;
        let Some(tid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else {
            continue;
        };
        if let Some(known) = seen.iter().find(|s| s.tid == tid) {
            tasks.push((tid, known.name.clone()));
            continue;
        }
        let name = match names.remove(&tid) {
            Some(name) => name,
            None => match fs::read_to_string(entry.path().join("comm")) {
                Ok(comm) => comm.trim_end().to_owned(),
                // It ended while we looked.
                Err(_) => continue,
            },
        };
        if name == process.trim_end() && !before.contains(&tid) {
            unnamed.insert(tid);
            continue;
        }
        // Any other name may change: a thread bears its parent's until it takes its own.
        if foreign.iter().any(|f| name.starts_with(&f.prefix)) {
            fresh.insert(tid, name.clone());
        }
        tasks.push((tid, name));
    }
    *names = fresh;
    Ok(tasks)
}

/// The comparison itself.
fn compare(
    seen: Vec<Seen>,
    foreign: &[Foreign],
    tasks: &[(i32, String)],
    stall_after: Duration,
    stopping: bool,
) -> Audit {
    let mut audit = Audit { running: tasks.len(), ..Audit::default() };
    let mut foreign_seen = vec![0usize; foreign.len()];
    // A thread that is just being made has no id in the registry yet and not always its name.
    let starting = seen.iter().any(|s| s.tid == 0);
    for (tid, name) in tasks {
        if seen.iter().any(|s| s.tid == *tid) {
            continue;
        }
        match foreign.iter().position(|f| name.starts_with(&f.prefix)) {
            Some(i) if foreign_seen[i] < foreign[i].count => foreign_seen[i] += 1,
            _ if starting => {}
            _ => audit.unknown.push(name.clone()),
        }
    }
    for thread in &seen {
        let runs = tasks.iter().any(|(tid, _)| *tid == thread.tid);
        let ended = thread.state == Waits::Ended || (thread.tid != 0 && !runs);
        if ended && !stopping {
            audit.missing.push(thread.name.clone());
        } else if stalled(thread, stall_after) {
            audit.stalled.push(thread.name.clone());
        }
    }
    for (foreign, found) in foreign.iter().zip(foreign_seen) {
        if found < foreign.count && !stopping {
            audit.missing.push(foreign.prefix.clone());
        }
    }
    audit.threads = seen;
    audit
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str, tid: i32, state: Waits, seconds: u64) -> Seen {
        Seen { name: name.to_owned(), tid, state, since: Duration::from_secs(seconds) }
    }

    /// One audit over threads and tasks; wants unknown, missing, stalled as one text.
    fn check(threads: &[Seen], tasks: &[(i32, &str)], stopping: bool, want: &str) {
        let foreign = [Foreign { prefix: "notify-rs".to_owned(), count: 2 }];
        let tasks: Vec<_> = tasks.iter().map(|(tid, n)| (*tid, (*n).to_owned())).collect();
        let stall_after = Duration::from_secs(30);
        let audit = compare(threads.to_vec(), &foreign, &tasks, stall_after, stopping);
        let got = format!("{:?} {:?} {:?}", audit.unknown, audit.missing, audit.stalled);
        assert_eq!(got.replace('"', ""), want, "{threads:?} {tasks:?}");
    }

    const NOTIFY: [(i32, &str); 2] = [(8, "notify-rs inoti"), (9, "notify-rs inoti")];

    #[test]
    fn threads_are_compared_with_the_plan() {
        let main = seen("main", 1, Waits::Events, 900);
        let ack = |state, seconds| seen("ack", 2, state, seconds);
        let all = [(1, "main"), (2, "ack"), NOTIFY[0], NOTIFY[1]];
        let fine = [main.clone(), ack(Waits::Busy, 29)];
        check(&fine, &all, false, "[] [] []");
        check(&[main.clone(), ack(Waits::Peer, 900)], &all, false, "[] [] []");
        check(&[main.clone(), ack(Waits::Busy, 31)], &all, false, "[] [] [ack]");
        check(&[main.clone(), ack(Waits::Ended, 1)], &all, false, "[] [ack] []");
        check(&[main.clone(), ack(Waits::Ended, 1)], &all, true, "[] [] []");
        check(&fine, &all[..3], false, "[] [notify-rs] []");
        check(&fine, &[all[0], all[2], all[3]], false, "[] [ack] []");
        check(&fine, &[all[0], all[2], all[3]], true, "[] [] []");
        let third = [all[0], all[1], all[2], all[3], (10, "notify-rs inoti"), (11, "x")];
        check(&fine, &third, false, "[notify-rs inoti, x] [] []");
        let starting = [main, seen("ack", 0, Waits::Busy, 0)];
        check(&starting, &all, false, "[] [] []");
    }

    #[test]
    fn findings_come_and_go_on_the_board() {
        let health = Arc::new(HealthBoard::default());
        let registry = Arc::new(Registry::default());
        registry.adopt("main");
        let auditor = Auditor::new(registry, Vec::new(), 1, Stop::default(), health.clone());
        let mut reported = BTreeSet::new();
        let found = Audit { stalled: vec!["ack".to_owned()], ..Audit::default() };
        auditor.report(&found, &mut reported);
        assert_eq!((health.worst(), found.level()), (Level::Unhealthy, Level::Unhealthy));
        auditor.report(&Audit::default(), &mut reported);
        assert!(health.all().is_empty(), "{:?}", health.all());
    }

    #[test]
    fn an_unplanned_thread_is_found_in_this_very_process() {
        // The test runner's own threads are the unknown ones here.
        let registry = Arc::new(Registry::default());
        registry.adopt("main");
        let auditor =
            Auditor::new(registry.clone(), Vec::new(), 1, Stop::default(), Arc::default());
        assert!(auditor.audit().unknown.is_empty(), "nothing is said while threads are made");
        registry.seal();
        // Tests that start beside this one have no name at first, which puts the verdict off.
        let audit = (0..10_000).map(|_| auditor.audit()).find(|a| !a.unknown.is_empty());
        let audit = audit.expect("an audit that finds the runner's threads");
        assert_eq!(audit.running, 1 + audit.unknown.len(), "{audit:?}");
    }
}
