//! The registry: the only way to start a thread. Joins them all at the end.
//!
//! Every thread has a name that fits 15 bytes, a heartbeat, and a top that catches a panic,
//! reports it and asks the daemon to stop with its exit code.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::beat::{Beat, Waits};

/// A thread as the auditor sees it.
#[derive(Clone)]
pub struct Registered {
    pub name: String,
    pub beat: Beat,
    /// Kernel's thread id; 0 until it runs.
    pub tid: Arc<std::sync::atomic::AtomicI32>,
}

/// All threads of the daemon.
#[derive(Default)]
pub struct Registry {
    threads: Mutex<Vec<(Registered, Option<JoinHandle<()>>)>>,
    sealed: AtomicBool,
    panicked: Arc<AtomicBool>,
}

impl Registry {
    /// Records the calling thread (`main`), which needs no start.
    pub fn adopt(&self, name: &str) -> Beat {
        let beat = Beat::new();
        let tid = Arc::new(rustix::thread::gettid().as_raw_nonzero().get().into());
        let registered = Registered { name: name.to_owned(), beat: beat.clone(), tid };
        self.lock().push((registered, None));
        beat
    }

    /// Starts a thread. `wake` is called when it panics, so that `main` stops the daemon.
    ///
    /// # Errors
    /// When the system has no room for another thread.
    // The one place that may: see clippy.toml.
    #[allow(clippy::disallowed_methods)]
    pub fn spawn(
        &self,
        name: &str,
        wake: impl Fn() + Send + 'static,
        body: impl FnOnce(Beat) + Send + 'static,
    ) -> io::Result<()> {
        assert!(!self.sealed.load(Ordering::Acquire), "thread {name} after \"started\"");
        assert!(name.len() <= 15, "thread name {name} is longer than 15 bytes");
        let beat = Beat::new();
        let tid = Arc::new(std::sync::atomic::AtomicI32::new(0));
        let registered = Registered { name: name.to_owned(), beat: beat.clone(), tid: tid.clone() };
        let panicked = self.panicked.clone();
        let runs = Arc::new(Barrier::new(2));
        let begun = runs.clone();
        // Held until the thread has its id: whoever reads the list finds what the kernel has.
        let mut threads = self.lock();
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            tid.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
            begun.wait();
            let ended = beat.clone();
            let outcome = catch_unwind(AssertUnwindSafe(|| body(beat)));
            ended.waits(Waits::Ended);
            if outcome.is_err() {
                panicked.store(true, Ordering::Release);
                wake();
            }
        })?;
        runs.wait();
        threads.push((registered, Some(handle)));
        Ok(())
    }

    /// From now on a start is a bug.
    pub fn seal(&self) {
        self.sealed.store(true, Ordering::Release);
    }

    /// Whether all threads of the plan are made.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether a thread ended by a panic.
    pub fn panicked(&self) -> bool {
        self.panicked.load(Ordering::Acquire)
    }

    /// Every thread with its heartbeat.
    pub fn all(&self) -> Vec<Registered> {
        self.lock().iter().map(|(r, _)| r.clone()).collect()
    }

    /// Waits until the named threads have ended, at most until `deadline`; true when all have.
    pub fn join(&self, names: impl Fn(&str) -> bool, deadline: Instant) -> bool {
        loop {
            let mut left = false;
            for (registered, handle) in self.lock().iter_mut() {
                let Some(h) = handle.as_ref().filter(|_| names(&registered.name)) else { continue };
                if h.is_finished() {
                    let _ = handle.take().map(JoinHandle::join);
                } else {
                    left = true;
                }
            }
            if !left || Instant::now() >= deadline {
                return !left;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Registered, Option<JoinHandle<()>>)>> {
        self.threads.lock().unwrap_or_else(|e| e.into_inner())
    }
}
