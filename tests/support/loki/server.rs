//! The double's threads: one accepts, one a connection reads pushes and answers them.
//!
//! Here meet what is scripted (answer.rs), what the rules say and what is stored.

use super::Push;
use super::answer::{Act, Answer, Script};
use super::http::{Connection, Reply, Request};
use super::ingester::Ingester;
use super::limits::{Block, Limits};
use super::push::{self, Refusal, refuse};
use super::{query, rules};
use std::collections::HashMap;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub(super) struct Shared {
    pub(super) limits: Mutex<Limits>,
    pub(super) ready: Mutex<(u16, String)>,
    pub(super) script: Mutex<Script>,
    pub(super) changed: Condvar,
    pub(super) ingester: Mutex<Ingester>,
    pub(super) pushes: Mutex<Vec<Push>>,
    pub(super) stop: AtomicBool,
    pub(super) sockets: Mutex<HashMap<u64, Arc<TcpStream>>>,
    pub(super) opened: AtomicU64,
}

/// The double's threads are the test's, not the daemon's.
#[allow(clippy::disallowed_methods)]
pub(super) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(body).expect("start a thread of the double")
}

pub(super) fn accept(listener: TcpListener, shared: Arc<Shared>) {
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
    pub(super) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    pub(super) fn ingester(&self) -> MutexGuard<'_, Ingester> {
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
