//! The thread `docker-N`: its share of API streams in one epoll set, decoded into batches.
//!
//! Owns the sockets and the I/O; what each container needs next is decided in `follow`. Never
//! waits for a peer or a sink: a stream whose lines find no room is left unread for a moment,
//! then closed, and read again from its place later.

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use polling::{Event, Events, PollMode, Poller};

use super::DockerEvent;
use super::engine::{self, Socket};
use super::follow::{self, Ask, Ending, Follow, OutLine, Phase, Said};
use super::frame::StreamState;
use super::http::{BodyLength, Head, HeadReader};
use crate::ack::{ContainerIdentity, Identity, Position};
use crate::batch::{Batcher, Blocked};
use crate::clock::Clock;
use crate::config::checked::{Endpoint, LongLines};
use crate::daemon::{Beat, Stop, Waits};
use crate::limits;
use crate::metrics::Metrics;
use crate::record::{Place, Record};
use crate::sender::resolver::Resolve;
use crate::source::file::{Divert, LongLine};

/// While lines or a batch find no room; see [`Lane::again`].
const PARKED_TICK: Duration = Duration::from_millis(200);

/// What the thread works with.
pub struct DockerLane {
    pub inbox: Receiver<DockerEvent>,
    /// Notified for events in the inbox, for room in a sink's queue, and for a stop.
    pub poller: Arc<Poller>,
    /// By number of the engine, as in the config.
    pub endpoints: Vec<Endpoint>,
    /// How many lanes share the engines' follow streams.
    pub lanes: usize,
    pub batcher: Batcher,
    /// Positions of the run before; those of containers are picked.
    pub positions: Vec<Position>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub resolve: Option<Resolve>,
    pub divert: Divert,
    pub stop: Stop,
}

/// A connection to an engine with one answer on it.
struct Conn {
    socket: Socket,
    key: usize,
    ask: Ask,
    head: HeadReader,
    in_body: bool,
    complete: bool,
    /// Not watched, since lines found no room.
    paused: bool,
    asked: Instant,
}

struct Watched {
    follow: Follow,
    conn: Option<Conn>,
    /// Read since `metrics` was told.
    lines: u64,
    bytes: u64,
}

type Key = (usize, String);

struct Lane {
    lane: DockerLane,
    known: HashMap<(String, String), Place>,
    watched: HashMap<Key, Watched>,
    by_key: HashMap<usize, Key>,
    next_key: usize,
    /// Engines that do not answer.
    down: Vec<bool>,
    /// Engines that could not be connected to are left alone until then.
    rest_until: Vec<Option<Instant>>,
    buffer: Vec<u8>,
}

/// Runs until a stop is asked for; then hands over what was read, at most until the deadline.
pub fn run(lane: DockerLane, beat: &Beat) {
    let mut lane = Lane::new(lane);
    let room = NonZeroUsize::new(limits::DOCKER_FOLLOWS_MAX * 2).unwrap_or(NonZeroUsize::MIN);
    let mut events = Events::with_capacity(room);
    while !lane.lane.stop.asked() {
        lane.inbox();
        let now = lane.lane.clock.now();
        let due = lane.work(now);
        lane.wait(&mut events, due, beat);
        let keys: Vec<usize> = events.iter().map(|event| event.key).collect();
        for key in keys {
            lane.readable(key);
        }
    }
    lane.drain(&mut events, beat);
}

fn sooner(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

impl Lane {
    fn new(mut lane: DockerLane) -> Self {
        let known = std::mem::take(&mut lane.positions).into_iter().filter_map(|p| {
            let Identity::Container(c) = p.identity else { return None };
            Some(((c.source, c.id), p.place))
        });
        Self {
            known: known.collect(),
            watched: HashMap::new(),
            by_key: HashMap::new(),
            next_key: 0,
            down: vec![false; lane.endpoints.len()],
            rest_until: vec![None; lane.endpoints.len()],
            buffer: vec![0; limits::DOCKER_CHUNK_BYTES],
            lane,
        }
    }

    fn inbox(&mut self) {
        for _ in 0..limits::LANE_INBOX_EVENTS {
            let Ok(event) = self.lane.inbox.try_recv() else { return };
            let now = self.lane.clock.now();
            match event {
                DockerEvent::Container(container) => self.container(*container, now),
                DockerEvent::Started { engine, id } => {
                    if let Some(watched) = self.watched.get_mut(&(engine, id)) {
                        watched.follow.started(now);
                    }
                }
                DockerEvent::Died { engine, id } => {
                    if let Some(watched) = self.watched.get_mut(&(engine, id)) {
                        watched.follow.died(now);
                    }
                }
                DockerEvent::Gone { engine, id } => {
                    if let Some(watched) = self.watched.get_mut(&(engine, id)) {
                        watched.follow.gone = true;
                        watched.follow.died(now);
                    }
                }
                DockerEvent::EngineDown { engine } => self.engine_down(engine, now),
                DockerEvent::EngineUp { engine } => {
                    self.down[engine] = false;
                    self.rest_until[engine] = None;
                }
                DockerEvent::Stop => return,
            }
        }
    }

    fn container(&mut self, container: super::ApiContainer, now: Instant) {
        let key = (container.engine, container.id.clone());
        if let Some(watched) = self.watched.get_mut(&key) {
            let renamed = watched.follow.container.name != container.name;
            watched.follow.update(container, now);
            if let Some(id) = watched.follow.id.filter(|_| renamed) {
                let identity = Identity::Container(identity(&watched.follow.container));
                self.lane.batcher.identify(id, identity);
            }
            return;
        }
        let on_file = self.known.remove(&(container.source.to_string(), container.id.clone()));
        let (name, source) = (&container.name, &container.source);
        log::info!("source {source}: following container {name} through the API");
        let follow = Follow::new(container, on_file, self.lane.clock.wall_ns(), now);
        self.watched.insert(key.clone(), Watched { follow, conn: None, lines: 0, bytes: 0 });
        self.register(&key);
    }

    /// Makes the container a source of the batcher once it is known where reading begins: a
    /// position on file before that would be taken for the log's beginning after a restart.
    fn register(&mut self, key: &Key) {
        let Some(Watched { follow, .. }) = self.watched.get_mut(key) else { return };
        if follow.id.is_some() || !follow.is_placed() {
            return;
        }
        let who = Identity::Container(identity(&follow.container));
        let position = Position { identity: who, place: follow.safe_place(), gone_since_ns: None };
        follow.id = Some(self.lane.batcher.add_source(position, follow.container.sinks.clone()));
    }

    fn engine_down(&mut self, engine: usize, now: Instant) {
        self.down[engine] = true;
        let keys: Vec<Key> = self.watched.keys().filter(|k| k.0 == engine).cloned().collect();
        for key in keys {
            self.end(&key, &Ending::Dropped, now);
        }
    }

    /// When what found no room is offered again: want of room at `ack`, or of disk for dead
    /// letters, ends without a wake-up.
    fn again(&self, now: Instant) -> Option<Instant> {
        let stuck = self.watched.values().any(|w| !w.follow.stuck.is_empty());
        (stuck || self.lane.batcher.has_parked()).then(|| now + PARKED_TICK)
    }

    /// Everything that is due; returns when something is due next.
    fn work(&mut self, now: Instant) -> Option<Instant> {
        let mut next = self.lane.batcher.tick(now);
        // Who waits longest is served first.
        let mut keys: Vec<(Option<Instant>, Key)> = Vec::with_capacity(self.watched.len());
        for (key, watched) in &self.watched {
            let due = match watched.follow.phase {
                Phase::Due(at, _) => Some(at),
                Phase::Reading(_) | Phase::Ended => None,
            };
            keys.push((due, key.clone()));
        }
        keys.sort();
        for (_, key) in keys {
            let due = self.attend(&key, now);
            next = sooner(next, due);
        }
        sooner(next, self.again(now))
    }

    /// Answers under way: follow streams of one engine, and reads of all.
    fn under_way(&self, engine: usize) -> (usize, usize) {
        let mut count = (0, 0);
        for (key, watched) in &self.watched {
            match &watched.conn {
                Some(conn) if !conn.ask.follow => count.1 += 1,
                Some(_) if key.0 == engine => count.0 += 1,
                _ => {}
            }
        }
        count
    }

    fn follows_max(&self) -> usize {
        (limits::DOCKER_FOLLOWS_MAX / self.lane.lanes.max(1)).max(1)
    }

    fn attend(&mut self, key: &Key, now: Instant) -> Option<Instant> {
        self.unstick(key, now);
        self.flush_partial(key, now, false);
        let watched = self.watched.get_mut(key)?;
        let mut due = watched.follow.partial_due();
        match watched.follow.phase {
            Phase::Due(at, _) if at > now || self.down[key.0] => {
                if !self.down[key.0] {
                    due = sooner(due, Some(at));
                }
            }
            Phase::Due(_, ask) if watched.follow.stuck.is_empty() => {
                due = sooner(due, self.ask_in_turn(key, ask, now));
            }
            Phase::Due(..) => {}
            Phase::Reading(ask) => due = sooner(due, self.check_reading(key, ask, now)),
            Phase::Ended if watched.follow.gone && watched.follow.stuck.is_empty() => {
                self.forget(key, now);
                return None;
            }
            Phase::Ended => {}
        }
        due
    }

    /// Sends a request that is due if there is room for one more; else returns when to look.
    fn ask_in_turn(&mut self, key: &Key, mut ask: Ask, now: Instant) -> Option<Instant> {
        if let Some(until) = self.rest_until[key.0].filter(|&until| now < until) {
            return Some(until);
        }
        let (follows, reads) = self.under_way(key.0);
        if ask.follow && follows >= self.follows_max() {
            // No room for one more stream: read again and again instead.
            ask.follow = false;
        }
        if !ask.follow && reads >= limits::DOCKER_READS_MAX {
            // The end of any read wakes us, too.
            return Some(now + limits::DOCKER_POLL_BUSY);
        }
        self.ask(key, ask, now);
        self.look_again(key, now)
    }

    /// When a container whose request was sent, or failed, is to be looked at.
    fn look_again(&mut self, key: &Key, now: Instant) -> Option<Instant> {
        match self.watched.get(key)?.follow.phase {
            Phase::Due(at, _) => Some(at),
            Phase::Reading(ask) => self.check_reading(key, ask, now),
            Phase::Ended => None,
        }
    }

    /// Looks after an answer that is being read; returns when to look again.
    fn check_reading(&mut self, key: &Key, ask: Ask, now: Instant) -> Option<Instant> {
        let watched = self.watched.get_mut(key)?;
        let follow = &watched.follow;
        let quiet = if ask.follow { limits::DOCKER_QUIET_CHECK } else { limits::DOCKER_READ_IDLE };
        let hold = if ask.follow { limits::DOCKER_HOLD } else { limits::DOCKER_READ_HOLD };
        let due = match follow.stuck_since {
            // Its log would vanish with the container.
            Some(_) if follow.container.auto_remove => return None,
            Some(since) => since + hold,
            None => follow.last_data + quiet,
        };
        let headless = watched.conn.as_ref().is_some_and(|c| !c.in_body);
        let due = if headless {
            watched.conn.as_ref().map_or(due, |c| due.min(c.asked + limits::DOCKER_REQUEST_TIMEOUT))
        } else {
            due
        };
        if now < due {
            return Some(due);
        }
        let ending = match follow.stuck_since {
            Some(_) => Ending::Dropped,
            None if ask.follow && !headless => Ending::Quiet,
            None => Ending::Failed,
        };
        self.end(key, &ending, now);
        Some(now)
    }

    /// Sends a request; its answer is read as it comes.
    fn ask(&mut self, key: &Key, ask: Ask, now: Instant) {
        let Some(watched) = self.watched.get_mut(key) else { return };
        watched.follow.begin(ask, now);
        let endpoint = &self.lane.endpoints[key.0];
        let head = engine::request_head("GET", &watched.follow.path(ask), endpoint);
        let deadline = Instant::now() + limits::DOCKER_CONNECT_TIMEOUT;
        let connected =
            engine::connect(endpoint, self.lane.resolve.as_ref(), &self.lane.stop, deadline);
        let sent = connected.and_then(|mut socket| {
            // A request is smaller than any socket's buffer, so that it goes out whole.
            let written = socket.write(&head)?;
            if written == head.len() { Ok(socket) } else { Err(io::ErrorKind::WriteZero.into()) }
        });
        let opened = sent.and_then(|socket| {
            let number = self.next_key;
            let readable = Event::readable(number);
            // SAFETY: the socket is removed from the poller before it is closed (`close`).
            unsafe { self.lane.poller.add_with_mode(&socket, readable, PollMode::Level)? };
            self.next_key += 1;
            Ok((number, socket))
        });
        match opened {
            Ok((number, socket)) => {
                self.by_key.insert(number, key.clone());
                watched.conn = Some(Conn {
                    socket,
                    key: number,
                    ask,
                    head: HeadReader::default(),
                    in_body: false,
                    complete: false,
                    paused: false,
                    asked: now,
                });
            }
            Err(e) => {
                log::debug!("container {}: log request: {e}", watched.follow.container.name);
                self.lane.metrics.error("docker", "connect");
                self.rest_until[key.0] = Some(now + limits::DOCKER_CONNECT_REST);
                self.end(key, &Ending::Failed, now);
            }
        }
    }

    fn close(&mut self, key: &Key) {
        let Some(conn) = self.watched.get_mut(key).and_then(|w| w.conn.take()) else { return };
        self.by_key.remove(&conn.key);
        if !conn.paused
            && let Err(e) = self.lane.poller.delete(&conn.socket)
        {
            log::debug!("epoll: {e}");
        }
    }

    /// An answer is over, one way or another.
    fn end(&mut self, key: &Key, ending: &Ending, now: Instant) {
        self.close(key);
        let may_follow = self.under_way(key.0).0 < self.follows_max();
        let Some(watched) = self.watched.get_mut(key) else { return };
        let said = watched.follow.ended(ending, now, may_follow);
        let (source, name) =
            (watched.follow.container.source.clone(), watched.follow.container.name.clone());
        match said {
            Said::Nothing => {}
            Said::PlaceLost => {
                self.lane.metrics.damaged(&source, "place_lost", 1);
                log::warn!(
                    "source {source}: container {name}: the last record read is not in its log any \
                     more (rotated away or emptied); going on with what is later"
                );
            }
            Said::Unreadable => {
                log::info!("source {source}: container {name}: its log driver cannot be read");
            }
            Said::Marked => self.register(key),
        }
        let ended = self.watched.get(key).is_some_and(|w| w.follow.phase == Phase::Ended);
        self.flush_partial(key, now, ended);
        self.count(key);
    }

    fn forget(&mut self, key: &Key, now: Instant) {
        self.flush_partial(key, now, true);
        self.close(key);
        let Some(watched) = self.watched.get(key) else { return };
        if watched.follow.stuck.is_empty() {
            let container = &watched.follow.container;
            log::info!("source {}: container {} is gone", container.source, container.name);
            if let Some(id) = watched.follow.id {
                self.lane.batcher.remove_source(id, true);
            }
            self.watched.remove(key);
        }
    }

    /// Data for a connection, or its end.
    fn readable(&mut self, number: usize) {
        let Some(key) = self.by_key.get(&number).cloned() else { return };
        let now = self.lane.clock.now();
        let Some(conn) = self.watched.get_mut(&key).and_then(|w| w.conn.as_mut()) else { return };
        let read = conn.socket.read(&mut self.buffer);
        match read {
            Ok(0) => self.closed(&key, now),
            Ok(n) => self.input(&key, n, now),
            Err(e)
                if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(e) => {
                log::debug!("container log: {e}");
                self.end(&key, &Ending::Failed, now);
            }
        }
    }

    /// The engine closed the connection: an end like any other once the body had begun.
    fn closed(&mut self, key: &Key, now: Instant) {
        let in_body =
            self.watched.get(key).and_then(|w| w.conn.as_ref()).is_some_and(|c| c.in_body);
        self.end(key, if in_body { &Ending::Closed } else { &Ending::Failed }, now);
    }

    fn input(&mut self, key: &Key, n: usize, now: Instant) {
        let buffer = std::mem::take(&mut self.buffer);
        let ending = self.answer(key, &buffer[..n], now);
        self.buffer = buffer;
        self.count(key);
        if let Some(ending) = ending {
            self.end(key, &ending, now);
        }
    }

    /// Decodes a piece of an answer; Some when it is over.
    fn answer(&mut self, key: &Key, input: &[u8], now: Instant) -> Option<Ending> {
        let Watched { follow, conn, lines, bytes } = self.watched.get_mut(key)?;
        let conn = conn.as_mut()?;
        let mut rest = input;
        if !conn.in_body {
            match conn.head.push(rest) {
                Ok(None) => return None,
                Ok(Some((head, body))) => {
                    if let Some(ending) = refused(&head, &follow.container.name) {
                        if ending == Ending::Failed {
                            self.lane.metrics.error("docker", &format!("http_{}", head.status));
                        }
                        return Some(ending);
                    }
                    conn.in_body = true;
                    follow.body(head.body);
                    if head.body == BodyLength::Bytes(0) {
                        return Some(Ending::Closed);
                    }
                    rest = body;
                }
                Err(e) => {
                    log::debug!("container {}: {e}", follow.container.name);
                    return Some(Ending::Failed);
                }
            }
        }
        if rest.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        let state = follow.bytes(rest, now, &mut |line| out.push(line));
        *lines += out.len() as u64;
        *bytes += out.iter().map(|line| line.text.len() as u64).sum::<u64>();
        let not_here = follow.not_here();
        let damaged = std::mem::take(&mut follow.damaged);
        if damaged > 0 {
            self.lane.metrics.damaged(&follow.container.source, "no_time", damaged);
        }
        let reached = follow.safe_place();
        let id = follow.id;
        let quiet = out.is_empty();
        follow.stuck.extend(out);
        self.unstick(key, now);
        let idle = self.watched.get(key).is_some_and(|w| w.follow.stuck.is_empty());
        if let Some(id) = id.filter(|_| quiet && idle) {
            self.lane.batcher.advance(id, reached);
        }
        match state {
            Ok(_) if not_here => Some(Ending::Closed),
            Ok(StreamState::Complete) => self.complete(key),
            Ok(StreamState::Open) => None,
            Err(e) => {
                let follow = &self.watched.get(key)?.follow;
                let name = &follow.container.name;
                // Said once until an answer is whole.
                let level =
                    if follow.failures() == 0 { log::Level::Warn } else { log::Level::Debug };
                log::log!(level, "container {name}: log stream: {e}; reading again");
                self.lane.metrics.error("docker", "log_stream");
                Some(Ending::Failed)
            }
        }
    }

    /// The body is complete; it ends once its lines have found room.
    fn complete(&mut self, key: &Key) -> Option<Ending> {
        let watched = self.watched.get_mut(key)?;
        if watched.follow.stuck.is_empty() {
            return Some(Ending::Closed);
        }
        watched.conn.as_mut()?.complete = true;
        None
    }

    /// Offers waiting lines to the batcher; pauses and resumes the connection accordingly.
    fn unstick(&mut self, key: &Key, now: Instant) {
        let Some(watched) = self.watched.get_mut(key) else { return };
        let (batcher, divert) = (&mut self.lane.batcher, &self.lane.divert);
        while let Some(line) = watched.follow.stuck.front() {
            if put(batcher, divert, &self.lane.metrics, &watched.follow, line, now).is_err() {
                break;
            }
            watched.follow.stuck.pop_front();
        }
        let stuck = !watched.follow.stuck.is_empty();
        watched.follow.stuck_since =
            if stuck { watched.follow.stuck_since.or(Some(now)) } else { None };
        let Some(conn) = watched.conn.as_mut() else { return };
        if stuck != conn.paused {
            // Taken out of the set: epoll tells of a closed peer whatever is asked for.
            let changed = if stuck {
                self.lane.poller.delete(&conn.socket)
            } else {
                // SAFETY: as in `ask`.
                let readable = Event::readable(conn.key);
                unsafe { self.lane.poller.add_with_mode(&conn.socket, readable, PollMode::Level) }
            };
            conn.paused = stuck;
            watched.follow.resumed(now);
            if let Err(e) = changed {
                log::error!("container {}: epoll: {e}", watched.follow.container.name);
            }
        }
        if !stuck && conn.complete {
            self.end(key, &Ending::Closed, now);
        }
    }

    fn flush_partial(&mut self, key: &Key, now: Instant, all: bool) {
        let Some(watched) = self.watched.get_mut(key) else { return };
        let mut out = Vec::new();
        watched.follow.flush_partial(now, all, &mut |line| out.push(line));
        if !out.is_empty() {
            watched.lines += out.len() as u64;
            watched.bytes += out.iter().map(|line| line.text.len() as u64).sum::<u64>();
            watched.follow.stuck.extend(out);
            self.unstick(key, now);
        }
    }

    fn count(&mut self, key: &Key) {
        let Some(watched) = self.watched.get_mut(key) else { return };
        if watched.lines > 0 {
            let source = &watched.follow.container.source;
            self.lane.metrics.read("docker", source, watched.lines, watched.bytes);
            (watched.lines, watched.bytes) = (0, 0);
        }
    }

    fn wait(&mut self, events: &mut Events, due: Option<Instant>, beat: &Beat) {
        events.clear();
        let timeout = due.map(|at| at.saturating_duration_since(self.lane.clock.now()));
        beat.waits(Waits::Events);
        let waited = self.lane.poller.wait(events, timeout);
        beat.busy();
        if let Err(e) = waited
            && e.kind() != io::ErrorKind::Interrupted
        {
            log::error!("epoll: {e}");
        }
    }

    fn drain(&mut self, events: &mut Events, beat: &Beat) {
        let keys: Vec<Key> = self.watched.keys().cloned().collect();
        for key in &keys {
            self.close(key);
        }
        loop {
            let now = self.lane.clock.now();
            keys.iter().for_each(|key| self.unstick(key, now));
            self.lane.batcher.drain();
            if self.lane.batcher.is_empty() || self.lane.stop.overdue(now) {
                return;
            }
            let soon = now + Duration::from_millis(200);
            let due = self.lane.stop.deadline().map_or(soon, |deadline| deadline.min(soon));
            self.wait(events, Some(due), beat);
        }
    }
}

fn identity(container: &super::ApiContainer) -> ContainerIdentity {
    ContainerIdentity {
        source: container.source.to_string(),
        id: container.id.clone(),
        name: container.name.clone(),
    }
}

/// How an answer that is no log ends the request.
fn refused(head: &Head, name: &str) -> Option<Ending> {
    match head.status {
        200 => None,
        404 => Some(Ending::Gone),
        501 => Some(Ending::Unreadable),
        status => {
            log::debug!("container {name}: log request answered {status}");
            Some(Ending::Failed)
        }
    }
}

/// Hands one line to the batcher, or to where long lines go.
fn put(
    batcher: &mut Batcher,
    divert: &Divert,
    metrics: &Metrics,
    follow: &Follow,
    line: &OutLine,
    now: Instant,
) -> Result<(), Blocked> {
    let container = &follow.container;
    let Some(id) = follow.id else { panic!("a line of {} before its place", container.name) };
    let text = String::from_utf8_lossy(&line.text);
    let labels = &follow.labels[line.stream.index()];
    if !follow::keeps(container.long_lines, line.long_part) {
        let dead = container.long_lines == LongLines::DeadLetter;
        let long = LongLine {
            source: &container.source,
            labels,
            timestamp_ns: line.timestamp_ns,
            line: &text,
        };
        if dead && !divert(long) {
            return Err(Blocked);
        }
        if !dead {
            metrics.filtered(&container.source, "line_truncated", 1);
        }
        batcher.advance(id, line.after);
    } else {
        let metadata: Vec<(&str, &str)> =
            container.metadata.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let record = Record {
            timestamp_ns: line.timestamp_ns,
            line: text.as_bytes(),
            labels,
            metadata: &metadata,
        };
        batcher.append(id, line.before, line.after, &record, now)?;
    }
    if matches!(text, std::borrow::Cow::Owned(_)) {
        metrics.invalid_utf8(&container.source, 1);
    }
    if line.long_part == Some(0) {
        metrics.long_lines(&container.source, container.long_lines.as_str(), 1);
    }
    Ok(())
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
