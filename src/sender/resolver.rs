//! Names to addresses: one cache, asked for by senders, filled by the thread `resolver`.
//!
//! getaddrinfo can hang for as long as it likes; it runs on that one thread only, and whoever
//! waits for it has a deadline. While a lookup hangs or fails, the last good address serves.
//! (ureq's own resolver starts a thread per lookup: never use it.)

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};

use crate::daemon::{Beat, Waits};
use crate::limits;

/// A name to look up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lookup(String);

/// Why there is no address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NameError {
    /// The system's answer.
    Failed { host: String, cause: String },
    /// No answer by the deadline.
    TimedOut { host: String },
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed { host, cause } => write!(f, "lookup of {host}: {cause}"),
            Self::TimedOut { host } => write!(f, "lookup of {host}: no answer in time"),
        }
    }
}

impl std::error::Error for NameError {}

#[derive(Default)]
struct Name {
    addresses: Vec<IpAddr>,
    looked_up: Option<Instant>,
    /// Asked for and not answered yet.
    pending: bool,
    /// The last lookup's failure.
    failure: Option<String>,
    /// Counts answers, so that a waiter knows its own.
    answers: u64,
}

/// The cache. As many names as the config has hosts, so that it needs no bound of its own.
#[derive(Default)]
pub struct Names {
    names: Mutex<HashMap<String, Name>>,
    answered: Condvar,
}

impl Names {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Name>> {
        self.names.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn answer(&self, host: String, found: Result<Vec<IpAddr>, String>) {
        let mut names = self.lock();
        let name = names.entry(host).or_default();
        name.pending = false;
        name.answers += 1;
        match found {
            Ok(addresses) => {
                name.addresses = addresses;
                name.looked_up = Some(Instant::now());
                name.failure = None;
            }
            Err(cause) => name.failure = Some(cause),
        }
        self.answered.notify_all();
    }
}

/// The way to the cache and to the thread behind it; clones share both.
#[derive(Clone)]
pub struct Resolve {
    names: Arc<Names>,
    requests: Sender<Lookup>,
}

impl fmt::Debug for Resolve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolve")
    }
}

impl Resolve {
    /// `requests` leads to the thread's inbox ([`limits::RESOLVER_INBOX`]).
    pub fn new(names: Arc<Names>, requests: Sender<Lookup>) -> Self {
        Self { names, requests }
    }

    /// The addresses of `host` (a name, or an address with or without brackets) with `port`.
    /// Waits until `deadline` only for a name that was never found before.
    ///
    /// # Errors
    /// When the name is not known and was not found in time.
    pub fn addresses(
        &self,
        host: &str,
        port: u16,
        deadline: Instant,
    ) -> Result<Vec<SocketAddr>, NameError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let found = self.lookup(bare, deadline)?;
        Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    fn lookup(&self, host: &str, deadline: Instant) -> Result<Vec<IpAddr>, NameError> {
        let mut names = self.names.lock();
        let name = names.entry(host.to_owned()).or_default();
        let fresh = name.looked_up.is_some_and(|at| at.elapsed() < limits::NAME_FRESH);
        if !fresh && !name.pending {
            // A full inbox means a hanging lookup: the next call asks again.
            name.pending = self.requests.try_send(Lookup(host.to_owned())).is_ok();
        }
        let before = name.answers;
        loop {
            let name = names.entry(host.to_owned()).or_default();
            if !name.addresses.is_empty() {
                return Ok(name.addresses.clone());
            }
            let host = host.to_owned();
            if name.answers != before {
                let cause = name.failure.clone().unwrap_or_else(|| "no address".to_owned());
                return Err(NameError::Failed { host, cause });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !name.pending {
                return Err(NameError::TimedOut { host });
            }
            let waited = self.names.answered.wait_timeout(names, left);
            names = waited.unwrap_or_else(|e| e.into_inner()).0;
        }
    }
}

/// The body of the thread `resolver`: runs until every [`Resolve`] is gone.
// The one place that may look names up: see clippy.toml.
#[allow(clippy::disallowed_methods)]
pub fn run(inbox: &Receiver<Lookup>, names: &Names, beat: &Beat) {
    serve(inbox, names, beat, |host| {
        // The port is of no meaning here; getaddrinfo wants one.
        (host, 0u16).to_socket_addrs().map(|found| found.map(|a| a.ip()).collect())
    });
}

fn serve(
    inbox: &Receiver<Lookup>,
    names: &Names,
    beat: &Beat,
    find: impl Fn(&str) -> std::io::Result<Vec<IpAddr>>,
) {
    loop {
        beat.waits(Waits::Events);
        let Ok(Lookup(host)) = inbox.recv() else { return };
        // Waiting for a peer: a hanging lookup is no stall of ours.
        beat.waits(Waits::Peer);
        let found = find(&host).map_err(|e| e.to_string());
        beat.busy();
        names.answer(host, found);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn addresses_are_answered_without_the_thread() {
        let (requests, inbox) = crossbeam_channel::bounded(1);
        let resolve = Resolve::new(Arc::default(), requests);
        for (host, port) in [("127.0.0.1", 80), ("[::1]", 3100), ("::1", 3100)] {
            let found = resolve.addresses(host, port, Instant::now()).unwrap();
            assert_eq!((found.len(), found[0].port()), (1, port));
        }
        assert!(inbox.is_empty());
    }

    #[test]
    fn an_unknown_name_waits_no_longer_than_its_deadline() {
        let (requests, _inbox) = crossbeam_channel::bounded(1);
        let resolve = Resolve::new(Arc::default(), requests);
        let deadline = Instant::now() + Duration::from_millis(20);
        let error = resolve.addresses("hangs.test", 80, deadline).unwrap_err();
        assert_eq!(error, NameError::TimedOut { host: "hangs.test".into() });
        assert!(Instant::now() >= deadline);
    }

    #[test]
    fn the_last_good_address_serves_while_lookups_fail() {
        let (requests, inbox) = crossbeam_channel::bounded(4);
        let names = Arc::new(Names::default());
        let resolve = Resolve::new(names.clone(), requests);
        let calls = AtomicU32::new(0);
        std::thread::scope(|scope| {
            let (names, calls) = (&names, &calls);
            let thread = scope.spawn(move || {
                serve(&inbox, names, &Beat::new(), |host| {
                    calls.fetch_add(1, Ordering::SeqCst);
                    match host {
                        "good.test" if calls.load(Ordering::SeqCst) == 1 => {
                            Ok(vec![[10, 0, 0, 1].into()])
                        }
                        _ => Err(io::Error::other("no such name")),
                    }
                });
            });
            let first = resolve.addresses("good.test", 1, soon()).unwrap();
            for name in names.lock().values_mut() {
                name.looked_up = Instant::now().checked_sub(limits::NAME_FRESH);
            }
            assert_eq!(resolve.addresses("good.test", 1, soon()).unwrap(), first);
            let error = resolve.addresses("bad.test", 1, soon()).unwrap_err();
            assert!(error.to_string().contains("no such name"), "{error}");
            assert_eq!(resolve.addresses("good.test", 1, soon()).unwrap(), first);
            drop(resolve);
            assert!(thread.join().is_ok());
        });
    }
}
