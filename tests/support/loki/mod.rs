//! A Loki double: an HTTP server inside the test that keeps pushes by Loki's rules.
//!
//! It agrees with recorded answers of a real Loki (tests/loki/), as far as the list in
//! tests/loki/mod.rs says. Tests script failures with [`Answer`] and read back what a real Loki
//! would show. Modules: `answer` scripts, `server` threads, `http` the wire, `push` decoding,
//! `rules` the distributor, `ingester` the store with its order window and deduplication, `query`
//! reading, `account` counting marked lines. One thread accepts, each connection has its own;
//! `Drop` ends and joins them all.

mod account;
mod answer;
mod http;
mod ingester;
mod labels;
mod limits;
mod push;
mod query;
mod rules;
mod server;

pub use account::Account;
pub use answer::Answer;
pub use limits::{Block, Limits, Rate};

use answer::Script;
use server::{Shared, accept, spawn};
use std::collections::{BTreeMap, VecDeque};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

/// A push that was received, in order of arrival.
#[derive(Clone, Debug)]
pub struct Push {
    pub at: Instant,
    pub tenant: String,
    pub headers: Vec<(String, String)>,
    pub body_bytes: usize,
    /// Equal for equal bodies: a repeated request can be told from a changed one.
    pub body_hash: u64,
    /// Label strings as sent, with the number of entries; empty if the body could not be decoded.
    pub streams: Vec<(String, usize)>,
    pub entries: usize,
    /// None: no answer (yet).
    pub status: Option<u16>,
}

/// An entry as a query shows it, without `detected_level`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    pub tenant: String,
    pub labels: BTreeMap<String, String>,
    pub ts_ns: i64,
    pub line: String,
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub connections_opened: u64,
    pub connections_open: u64,
    pub pushes: u64,
    /// Entries in pushes that could be decoded, repeated ones included.
    pub entries: u64,
    pub body_bytes: u64,
}

/// The running server. Dropping it closes all connections and joins its threads.
pub struct LokiDouble {
    shared: Arc<Shared>,
    address: SocketAddr,
    acceptor: Option<JoinHandle<()>>,
}

impl LokiDouble {
    /// Starts on a free port of 127.0.0.1 with Loki's defaults, but without rate limits.
    pub fn start() -> LokiDouble {
        LokiDouble::start_with(Limits::default())
    }

    pub fn start_with(limits: Limits) -> LokiDouble {
        let script =
            Script { mode: Answer::loki(), queue: VecDeque::new(), rule: None, generation: 0 };
        let shared = Arc::new(Shared {
            limits: Mutex::new(limits),
            ready: Mutex::new((200, "ready".into())),
            script: Mutex::new(script),
            changed: Condvar::new(),
            ingester: Mutex::default(),
            pushes: Mutex::default(),
            stop: AtomicBool::new(false),
            sockets: Mutex::default(),
            opened: AtomicU64::new(0),
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut double = LokiDouble { shared, address, acceptor: None };
        double.up();
        double
    }

    /// The base URL, without a path.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening and closes all connections: the next connect is refused. Keeps the store.
    pub fn down(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.stop.store(true, Relaxed);
        self.release();
        // Wakes the acceptor, which closes the listener and joins the connections.
        let _ = TcpStream::connect(self.address);
        acceptor.join().expect("the double's acceptor panicked");
    }

    /// Listens again on the same port.
    pub fn up(&mut self) {
        if self.acceptor.is_some() {
            return;
        }
        let listener = TcpListener::bind(self.address).expect("bind the double's port");
        self.address = listener.local_addr().expect("the double's address");
        self.shared.stop.store(false, Relaxed);
        let shared = self.shared.clone();
        self.acceptor = Some(spawn("loki-accept", move || accept(listener, shared)));
    }

    /// The next push not yet scripted gets this answer, once.
    pub fn script(&self, answer: Answer) {
        self.shared.script().queue.push_back(answer);
    }

    /// Asked for each push while nothing is queued; None leaves it to the mode.
    pub fn script_when(&self, rule: impl FnMut(&Push) -> Option<Answer> + Send + 'static) {
        self.shared.script().rule = Some(Box::new(rule));
    }

    /// What pushes get that nothing else is scripted for, until changed. Lets go what hangs.
    pub fn set_mode(&self, mode: Answer) {
        self.shared.script().mode = mode;
        self.release();
    }

    /// Drops the queue and the rule, sets the mode to Loki's behaviour, lets go what hangs.
    pub fn behave(&self) {
        let mut script = self.shared.script();
        (script.mode, script.rule) = (Answer::loki(), None);
        script.queue.clear();
        drop(script);
        self.release();
    }

    /// Closes the connections of hanging requests.
    pub fn release(&self) {
        self.shared.script().generation += 1;
        self.shared.changed.notify_all();
    }

    /// What `GET /ready` answers.
    pub fn set_ready(&self, status: u16, body: &str) {
        *self.shared.ready.lock().unwrap() = (status, body.into());
    }

    pub fn set_limits(&self, change: impl FnOnce(&mut Limits)) {
        change(&mut self.shared.limits.lock().unwrap());
    }

    /// Ends the order window of all streams, as the flush of idle streams does.
    pub fn flush(&self) {
        self.shared.ingester().flush();
    }

    /// All that a query would show: stored once, by tenant and stream, in order of time.
    pub fn entries(&self) -> Vec<Shown> {
        let mut out = Vec::new();
        for (tenant, of) in &mut self.shared.ingester().tenants {
            for stream in of.streams.values_mut() {
                let labels: BTreeMap<_, _> = stream.labels.iter().cloned().collect();
                out.extend(stream.entries().iter().map(|entry| Shown {
                    tenant: tenant.clone(),
                    labels: labels.clone(),
                    ts_ns: entry.ts_ns,
                    line: push::go_text(&entry.line, '\u{fffd}'),
                    metadata: entry.metadata.iter().cloned().collect(),
                }));
            }
        }
        out
    }

    /// Number of entries that a query would show. Cheap, for polling.
    pub fn entries_count(&self) -> usize {
        let mut ingester = self.shared.ingester();
        let streams = ingester.tenants.values_mut().flat_map(|t| t.streams.values_mut());
        streams.map(|s| s.entries().len()).sum()
    }

    /// All pushes received so far.
    pub fn pushes(&self) -> Vec<Push> {
        self.shared.pushes.lock().unwrap().clone()
    }

    pub fn counters(&self) -> Counters {
        let pushes = self.shared.pushes.lock().unwrap();
        Counters {
            connections_opened: self.shared.opened.load(Relaxed),
            connections_open: self.shared.sockets.lock().unwrap().len() as u64,
            pushes: pushes.len() as u64,
            entries: pushes.iter().map(|p| p.entries as u64).sum(),
            body_bytes: pushes.iter().map(|p| p.body_bytes as u64).sum(),
        }
    }

    /// How many pushes got which status; 0 stands for no answer.
    pub fn answered(&self) -> BTreeMap<u16, u64> {
        let mut out = BTreeMap::new();
        for push in self.shared.pushes.lock().unwrap().iter() {
            *out.entry(push.status.unwrap_or(0)).or_default() += 1;
        }
        out
    }

    /// The books against `lines` numbered lines in each of the files 0 to `files` - 1.
    pub fn account_for(&self, files: u32, lines: u64) -> Account {
        let expected = (0..files).map(|file| (file, lines)).collect();
        account::account(&mut self.shared.ingester(), &expected)
    }

    /// The books without knowing what was sent: each file is complete up to its highest number.
    pub fn account(&self) -> Account {
        account::account(&mut self.shared.ingester(), &BTreeMap::new())
    }
}

impl Drop for LokiDouble {
    fn drop(&mut self) {
        self.down();
    }
}
