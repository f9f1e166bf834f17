//! What inotify tells: names that change, and data in directories whose files are all idle.
//!
//! Two watchers of notify, each with a thread of its own, made before "started" is logged. A
//! handler never waits: it offers an event to each lane and, when there is no room, sets the
//! lane's rescan flag. Watches are added one by one by the lanes. When the system has no room
//! for more, the sweep of the lane serves instead.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use crossbeam_channel::Sender;
use notify::event::{EventKindMask, ModifyKind};
use notify::{Config, Event, EventHandler, EventKind, INotifyWatcher, RecursiveMode, Watcher as _};

use crate::source::FileEvent;

/// A lane as the handlers see it.
#[derive(Clone)]
pub struct LaneInbox {
    pub events: Sender<FileEvent>,
    /// Stands for the events that found no room.
    pub rescan: Arc<AtomicBool>,
}

/// What a directory's watch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    Names,
    Data,
}

/// What became of a wish to watch.
#[derive(Debug, PartialEq, Eq)]
pub enum Watched {
    Yes,
    /// The directory is gone or cannot be read.
    No,
    /// fs.inotify.max_user_watches is reached.
    LimitReached,
}

/// Both watchers, shared by the lanes.
pub struct Watch {
    names: Mutex<Watcher>,
    data: Mutex<Watcher>,
}

/// Several lanes may watch one directory: the kernel's watch ends with the last of them.
struct Watcher {
    inotify: INotifyWatcher,
    users: HashMap<PathBuf, usize>,
}

/// Starts both watchers; their threads are named "notify-rs inoti" by the kernel.
///
/// # Errors
/// When inotify cannot be had (fs.inotify.max_user_instances); the lanes then only sweep.
pub fn start(lanes: &[LaneInbox]) -> notify::Result<Watch> {
    let names = EventKindMask::CREATE | EventKindMask::REMOVE | EventKindMask::MODIFY_NAME;
    Ok(Watch {
        names: Mutex::new(watcher(Interest::Names, names, lanes)?),
        data: Mutex::new(watcher(Interest::Data, EventKindMask::MODIFY_DATA, lanes)?),
    })
}

fn watcher(what: Interest, kinds: EventKindMask, lanes: &[LaneInbox]) -> notify::Result<Watcher> {
    let config = Config::default().with_event_kinds(kinds).with_follow_symlinks(false);
    let inotify = INotifyWatcher::new(Handler { what, lanes: lanes.to_vec() }, config)?;
    Ok(Watcher { inotify, users: HashMap::new() })
}

impl Watch {
    fn watcher(&self, what: Interest) -> MutexGuard<'_, Watcher> {
        let watcher = match what {
            Interest::Names => &self.names,
            Interest::Data => &self.data,
        };
        watcher.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Begins to watch a directory for one more lane.
    pub fn add(&self, what: Interest, dir: &Path) -> Watched {
        let mut watcher = self.watcher(what);
        if let Some(users) = watcher.users.get_mut(dir) {
            *users += 1;
            return Watched::Yes;
        }
        match watcher.inotify.watch(dir, RecursiveMode::NonRecursive) {
            Ok(()) => {
                watcher.users.insert(dir.to_owned(), 1);
                Watched::Yes
            }
            Err(e) if matches!(e.kind, notify::ErrorKind::MaxFilesWatch) => Watched::LimitReached,
            Err(e) => {
                log::debug!("watching {}: {e}", dir.display());
                Watched::No
            }
        }
    }

    /// A lane watches a directory no longer. `vanished`: the directory itself is gone, and with
    /// it the kernel's watch.
    pub fn remove(&self, what: Interest, dir: &Path, vanished: bool) {
        let mut watcher = self.watcher(what);
        let Some(users) = watcher.users.get_mut(dir) else { return };
        *users -= 1;
        if *users == 0 || vanished {
            watcher.users.remove(dir);
            // Fails when the directory is gone: then nothing is watched either.
            let _ = watcher.inotify.unwatch(dir);
        }
    }
}

struct Handler {
    what: Interest,
    lanes: Vec<LaneInbox>,
}

impl Handler {
    fn rescan(&self) {
        self.lanes.iter().for_each(|lane| lane.rescan.store(true, Ordering::Release));
    }

    fn tell(&self, event: impl Fn() -> FileEvent) {
        for lane in &self.lanes {
            if lane.events.try_send(event()).is_err() {
                lane.rescan.store(true, Ordering::Release);
            }
        }
    }
}

impl EventHandler for Handler {
    fn handle_event(&mut self, event: notify::Result<Event>) {
        let event = match event {
            Ok(event) if !event.need_rescan() => event,
            _ => return self.rescan(),
        };
        // Both ends of a rename were told before, one by one.
        let [path] = event.paths.as_slice() else { return };
        match (self.what, event.kind) {
            (Interest::Data, EventKind::Modify(ModifyKind::Data(_))) => {
                self.tell(|| FileEvent::Data(path.clone()));
            }
            (Interest::Data, _) => {}
            (Interest::Names, kind) => {
                if let Some(dir) = path.parent() {
                    self.tell(|| FileEvent::Names(dir.to_owned()));
                }
                // Perhaps a watched directory itself.
                if matches!(kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_))) {
                    self.tell(|| FileEvent::Names(path.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;

    #[test]
    fn names_and_data_are_told_and_an_overflow_asks_for_a_rescan() {
        let dir = tempfile::tempdir().unwrap();
        let (tx, rx) = bounded(8);
        let rescan = Arc::new(AtomicBool::new(false));
        let watch = start(&[LaneInbox { events: tx, rescan: rescan.clone() }]).unwrap();
        let wait = Duration::from_secs(10);
        assert_eq!(watch.add(Interest::Names, dir.path()), Watched::Yes);
        assert_eq!(watch.add(Interest::Names, &dir.path().join("no")), Watched::No);
        fs::write(dir.path().join("a"), "x").unwrap();
        let told = rx.recv_timeout(wait).unwrap();
        assert!(matches!(&told, FileEvent::Names(d) if d == dir.path()), "{told:?}");
        watch.remove(Interest::Names, dir.path(), false);
        assert_eq!(watch.add(Interest::Data, dir.path()), Watched::Yes);
        fs::write(dir.path().join("a"), "xy").unwrap();
        let told = rx.recv_timeout(wait).unwrap();
        assert!(matches!(&told, FileEvent::Data(p) if *p == dir.path().join("a")), "{told:?}");
        assert!(!rescan.load(Ordering::Acquire));
        for n in 0..200 {
            fs::write(dir.path().join("a"), format!("{n}")).unwrap();
        }
        let deadline = std::time::Instant::now() + wait;
        while !rescan.load(Ordering::Acquire) {
            assert!(std::time::Instant::now() < deadline, "no rescan was asked for");
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_threads_of_notify_have_the_name_that_the_auditor_expects() {
        let _watch = start(&[]).unwrap();
        let of_notify = || {
            let tasks = fs::read_dir("/proc/self/task").unwrap();
            let names = tasks.filter_map(|t| fs::read_to_string(t.ok()?.path().join("comm")).ok());
            names.filter(|n| n.trim() == crate::daemon::plan::NOTIFY_THREAD).count()
        };
        // A thread names itself once it runs.
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while of_notify() < crate::daemon::plan::NOTIFY_THREADS {
            assert!(std::time::Instant::now() < deadline, "{} threads", of_notify());
            std::thread::yield_now();
        }
    }
}
