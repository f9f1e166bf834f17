//! A Loki double: an HTTP server inside the test that keeps pushes by Loki's rules.
//!
//! It agrees with recorded answers of a real Loki (tests/loki/), as far as the list in
//! tests/loki/mod.rs says. Tests script failures with [`Answer`], and read back what a real Loki
//! would show. Limits: `http` the wire, `push` decoding, `rules` the distributor, `ingester` the
//! store with its order window and deduplication, `query` reading, `account` counting marked
//! lines. One thread accepts, each connection has its own; `Drop` ends and joins them all.

mod account;
mod http;
mod ingester;
mod labels;
mod limits;
mod push;
mod query;
mod rules;

pub use account::Account;
pub use limits::{Block, Limits, Rate};

use http::{Connection, Reply, Request};
use ingester::Ingester;
use push::{Refusal, refuse};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What happens to a push.
#[derive(Clone, Debug)]
pub struct Answer {
    act: Act,
    delay: Duration,
    store: bool,
}

#[derive(Clone, Debug)]
enum Act {
    Loki,
    Reply(Reply),
    Hang,
    Reset,
    Close,
    Half,
}

impl Answer {
    fn new(act: Act) -> Answer {
        let store = matches!(act, Act::Loki);
        Answer { act, delay: Duration::ZERO, store }
    }

    /// What Loki would do.
    pub fn loki() -> Answer {
        Answer::new(Act::Loki)
    }

    /// That status, without a body; nothing is stored.
    pub fn status(status: u16) -> Answer {
        Answer::new(Act::Reply(Reply::new(status)))
    }

    /// That status with a text, as Loki sends its errors; nothing is stored.
    pub fn error(status: u16, body: &str) -> Answer {
        Answer::new(Act::Reply(Reply::text(status, body)))
    }

    /// No answer until the mode changes, [`LokiDouble::release`] or the end of the double; then
    /// the connection is closed.
    pub fn hang() -> Answer {
        Answer::new(Act::Hang)
    }

    /// The connection is reset after the request was read.
    pub fn reset() -> Answer {
        Answer::new(Act::Reset)
    }

    /// The connection is closed after the request was read.
    pub fn close() -> Answer {
        Answer::new(Act::Close)
    }

    /// The connection is closed in the middle of an answer's head.
    pub fn half() -> Answer {
        Answer::new(Act::Half)
    }

    /// Adds a header to a status.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        if let Act::Reply(reply) = &mut self.act {
            reply.headers.push((name.into(), value.into()));
        }
        self
    }

    /// Waits before it acts.
    pub fn after(mut self, delay: Duration) -> Answer {
        self.delay = delay;
        self
    }

    /// The push is stored by the rules first: the answer lies or gets lost, as with a timeout of
    /// the ingester.
    pub fn but_stored(mut self) -> Answer {
        self.store = true;
        self
    }
}

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

type Rule = Box<dyn FnMut(&Push) -> Option<Answer> + Send>;

struct Script {
    mode: Answer,
    queue: VecDeque<Answer>,
    rule: Option<Rule>,
    /// Rises to let go what hangs.
    generation: u64,
}

struct Shared {
    limits: Mutex<Limits>,
    ready: Mutex<(u16, String)>,
    script: Mutex<Script>,
    changed: Condvar,
    ingester: Mutex<Ingester>,
    pushes: Mutex<Vec<Push>>,
    stop: AtomicBool,
    sockets: Mutex<HashMap<u64, Arc<TcpStream>>>,
    opened: AtomicU64,
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

/// The double's threads are the test's, not the daemon's.
#[allow(clippy::disallowed_methods)]
fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(body).expect("start a thread of the double")
}

fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut threads = Vec::new();
    while let Ok((socket, _)) = listener.accept() {
        if shared.stop.load(Relaxed) {
            break;
        }
        let id = shared.opened.fetch_add(1, Relaxed);
        let socket = Arc::new(socket);
        shared.sockets.lock().unwrap().insert(id, socket.clone());
        let shared = shared.clone();
        threads.push(spawn("loki-conn", move || {
            let mut connection = Connection::new(socket);
            // An I/O error is the client's leaving, which tests do on purpose.
            let _ = shared.serve(&mut connection);
            shared.sockets.lock().unwrap().remove(&id);
        }));
    }
    drop(listener);
    for socket in shared.sockets.lock().unwrap().values() {
        let _ = socket.shutdown(Shutdown::Both);
    }
    for thread in threads {
        thread.join().expect("a connection of the double panicked");
    }
}

fn is_push(request: &Request) -> bool {
    request.method == "POST"
        && matches!(request.path.as_str(), "/loki/api/v1/push" | "/api/prom/push")
}

impl From<&Refusal> for Reply {
    fn from(refusal: &Refusal) -> Reply {
        Reply::text(refusal.status, &refusal.body)
    }
}

impl Shared {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    fn ingester(&self) -> MutexGuard<'_, Ingester> {
        self.ingester.lock().unwrap()
    }

    fn limits(&self) -> Limits {
        self.limits.lock().unwrap().clone()
    }

    fn serve(&self, connection: &mut Connection) -> std::io::Result<()> {
        while let Some(mut request) = connection.head()? {
            if let Some(refusal) = self.before_body(&request) {
                let close = !request.can_skip_body();
                if !close {
                    connection.read_body(&mut request)?;
                }
                connection.answer(&Reply::from(&refusal), close, false)?;
                if close {
                    return Ok(());
                }
                continue;
            }
            connection.read_body(&mut request)?;
            let close = request.wants_close();
            if is_push(&request) {
                if !self.answer_push(connection, request)? || close {
                    return Ok(());
                }
            } else {
                let reply = self.answer_other(&request);
                connection.answer(&reply, close, request.method == "HEAD")?;
                if close {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// What is refused by its head alone.
    fn before_body(&self, request: &Request) -> Option<Refusal> {
        if !is_push(request) {
            return None;
        }
        let limits = self.limits();
        if let Err(refusal) = rules::tenant(request.header("x-scope-orgid"), &limits) {
            return Some(refusal);
        }
        let (length, max) = (request.length(), limits.max_recv_msg_size);
        let what = "request body too large: message size too large than max";
        (length > max as u64).then(|| refuse(413, format!("{what} ({length} vs {max})")))
    }

    fn answer_other(&self, request: &Request) -> Reply {
        let limits = self.limits();
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/ready") => {
                let (status, body) = &*self.ready.lock().unwrap();
                Reply::text(*status, body)
            }
            ("GET", "/loki/api/v1/query_range") => {
                let tenant = match rules::tenant(request.header("x-scope-orgid"), &limits) {
                    Ok(tenant) => tenant,
                    Err(refusal) => return Reply::from(&refusal),
                };
                match query::answer(&mut self.ingester(), &tenant, &request.query, &limits) {
                    Ok(json) => {
                        Reply::new(200).with("Content-Type", "application/json").with_body(&json)
                    }
                    Err(what) => Reply::text(400, &what),
                }
            }
            ("POST", "/flush") => {
                self.ingester().flush();
                Reply::new(204)
            }
            (_, "/loki/api/v1/push" | "/api/prom/push") => Reply::new(405),
            (_, path) if path.contains("//") => {
                Reply::new(301).with("Location", &path.replace("//", "/"))
            }
            _ => Reply::text(404, "404 page not found"),
        }
    }

    /// Answers a push as scripted; false when the connection is to be closed.
    fn answer_push(&self, connection: &mut Connection, request: Request) -> std::io::Result<bool> {
        let limits = self.limits();
        let decoded = push::decode(&request, &limits);
        let push = describe(&request, &decoded, &limits);
        let (answer, generation) = self.choose(&push);
        let index = {
            let mut pushes = self.pushes.lock().unwrap();
            pushes.push(push);
            pushes.len() - 1
        };
        self.pause(answer.delay, generation);
        let by_rules = answer.store.then(|| match self.keep(&request, decoded, &limits) {
            Ok(()) => Reply::new(204),
            Err(refusal) => Reply::from(&refusal),
        });
        let reply = match answer.act {
            Act::Loki => by_rules.expect("Loki's own behaviour always stores"),
            Act::Reply(reply) => reply,
            Act::Hang => {
                self.pause(Duration::MAX, generation);
                return Ok(false);
            }
            Act::Reset => {
                connection.reset_on_close();
                return Ok(false);
            }
            Act::Close => return Ok(false),
            Act::Half => {
                connection.half_answer(&Reply::new(204))?;
                return Ok(false);
            }
        };
        // Noted before it is sent: a test that saw the answer finds it in the list.
        self.pushes.lock().unwrap()[index].status = Some(reply.status);
        connection.answer(&reply, request.wants_close(), false)?;
        Ok(true)
    }

    fn choose(&self, push: &Push) -> (Answer, u64) {
        let mut script = self.script();
        let queued = script.queue.pop_front();
        let ruled = queued.or_else(|| script.rule.as_mut().and_then(|rule| rule(push)));
        (ruled.unwrap_or_else(|| script.mode.clone()), script.generation)
    }

    /// Waits for that long, or until something is released.
    fn pause(&self, delay: Duration, generation: u64) {
        let end = Instant::now().checked_add(delay);
        let mut script = self.script();
        while script.generation == generation && !self.stop.load(Relaxed) {
            let left = match end {
                Some(end) => end.saturating_duration_since(Instant::now()),
                None => Duration::from_secs(3600),
            };
            if left.is_zero() {
                return;
            }
            script = self.changed.wait_timeout(script, left).unwrap().0;
        }
    }

    /// Applies Loki's rules and stores what passes.
    fn keep(
        &self,
        request: &Request,
        decoded: Result<Vec<push::PushStream>, Refusal>,
        limits: &Limits,
    ) -> Result<(), Refusal> {
        let tenant = rules::tenant(request.header("x-scope-orgid"), limits)?;
        if limits.max_inflight_bytes.is_some_and(|max| request.body.len() > max) {
            return Err(refuse(503, "The server cannot accept more requests at this time."));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let context = rules::Context {
            limits,
            tenant: &tenant,
            now_ns: now.as_nanos() as i64,
            backfill: request.header("x-loki-backfill-shard"),
        };
        let valid = rules::validate(decoded?, &context)?;
        let invalid = valid.errors.refusal();
        if let Some(block) = &limits.block_ingestion {
            return blocked(block, &tenant, invalid.filter(|_| valid.bad_stream));
        }
        let mut ingester = self.ingester();
        ingester.charge(&tenant, &valid.streams, limits)?;
        let entries = || valid.streams.iter().flat_map(|s| &s.entries);
        // Field headers and the time, 20 bytes an entry, decide no case that was recorded.
        let bytes: usize = entries().map(|e| e.charged_bytes() + 20).sum();
        let max = limits.grpc_max_recv_msg_size;
        if bytes > max {
            let what = "rpc error: code = ResourceExhausted desc = grpc: received message larger";
            return Err(refuse(500, format!("{what} than max ({bytes} vs. {max})")));
        }
        ingester.push(&tenant, valid.streams, limits)?;
        invalid.map_or(Ok(()), Err)
    }
}

fn blocked(block: &Block, tenant: &str, bad_stream: Option<Refusal>) -> Result<(), Refusal> {
    let Block { until, status } = block;
    let what = "ingestion blocked for user";
    let text = format!("{what} '{tenant}' until '{until}' with status code '{status}'");
    match (bad_stream, status) {
        (Some(refusal), _) => Err(refusal),
        (None, 200) => Ok(()),
        (None, status) => Err(refuse(*status, text)),
    }
}

fn describe(
    request: &Request,
    decoded: &Result<Vec<push::PushStream>, Refusal>,
    limits: &Limits,
) -> Push {
    let streams: Vec<(String, usize)> = decoded
        .iter()
        .flatten()
        .map(|s| (String::from_utf8_lossy(&s.labels).into_owned(), s.entries.len()))
        .collect();
    Push {
        at: Instant::now(),
        tenant: rules::tenant(request.header("x-scope-orgid"), limits).unwrap_or_default(),
        headers: request.headers.clone(),
        body_bytes: request.body.len(),
        body_hash: xxhash_rust::xxh3::xxh3_64(&request.body),
        entries: streams.iter().map(|(_, n)| n).sum(),
        streams,
        status: None,
    }
}
