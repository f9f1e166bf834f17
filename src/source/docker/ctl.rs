//! The thread `docker-ctl`: keeps to each engine, and tells the lanes which containers there are.
//!
//! An engine is down, to be tried again at a known time, or up with its events stream open. The
//! stream is opened first, then all containers are listed, so that nothing falls between; after
//! each reconnect they are listed again, since an engine replays 256 events at best. Events are
//! read on between any two requests: an engine whose events are not taken slows down. What is
//! known of the containers, and what lanes are still to be told, is `roster`'s.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::Sender;
use log::{debug, info, warn};
use polling::{Event, Events, PollMode, Poller};

use super::DockerEvent;
use super::body::BodyState;
use super::engine::{Engine, EngineError, Socket};
use super::events::{ContainerEvent, EVENTS_PATH, EventReader};
use super::inspect::{Inspected, Listed};
use super::own;
use super::roster::{Lanes, Outcome, Roster, Told};
use crate::ack::Position;
use crate::clock::Clock;
use crate::config::checked::DockerSource;
use crate::daemon::{Beat, Stop, Waits};
use crate::health::{HealthBoard, Level};
use crate::limits;
use crate::metrics::Metrics;
use crate::sender::resolver::Resolve;
use crate::source::FileEvent;

/// What the thread needs, handed over by `daemon`.
pub struct Ctl {
    /// In the order of the config: the index is the engine's number.
    pub sources: Vec<Arc<DockerSource>>,
    /// Inboxes of the file lanes; at least one.
    pub files: Vec<Sender<FileEvent>>,
    /// Inboxes of the Docker lanes with what wakes them; at least one.
    pub docker: Vec<(Sender<DockerEvent>, Arc<Poller>)>,
    /// All positions on file at the start: `start_at` counts only where a source has none, and
    /// a container stays with the way of its position.
    pub positions: Vec<Position>,
    /// The thread's own; notified after a stop was asked for.
    pub poller: Arc<Poller>,
    /// Needed where an endpoint names a host.
    pub resolve: Option<Resolve>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<HealthBoard>,
    pub stop: Stop,
}

/// The body of the thread; returns soon after a stop was asked for and `poller` notified.
pub fn run(ctl: Ctl, beat: &Beat) {
    let own = own::read();
    if let Some(id) = &own {
        info!("own container {id:.12} is not followed");
    }
    let lanes = Lanes { files: ctl.files, docker: ctl.docker };
    let shared = Shared {
        poller: ctl.poller,
        clock: ctl.clock,
        metrics: ctl.metrics,
        health: ctl.health,
        stop: ctl.stop,
        beat,
    };
    let mut engines = Vec::new();
    for (number, source) in ctl.sources.into_iter().enumerate() {
        let lanes_count = lanes.docker.len();
        let roster = Roster::new(number, source.clone(), &ctl.positions, own.clone(), lanes_count);
        let resolve = ctl.resolve.clone();
        let engine = Engine::new(source.endpoint.clone(), resolve, shared.stop.clone());
        let now = shared.clock.now();
        engines.push(EngineState::new(number, source, engine, roster, now));
    }
    drop(ctl.positions);
    let mut events = Events::new();
    while !shared.stop.asked() {
        let wake_at = engines.iter_mut().map(|engine| engine.turn(&shared, &lanes)).min();
        let followed: usize = engines.iter().map(|e| e.roster.followed()).sum();
        shared.metrics.containers_monitored.set(i64::try_from(followed).unwrap_or(i64::MAX));
        beat.waits(Waits::Events);
        events.clear();
        let now = shared.clock.now();
        let timeout = wake_at.map(|at| at.saturating_duration_since(now));
        let waited = shared.poller.wait(&mut events, timeout);
        beat.busy();
        if let Err(e) = waited {
            // Cannot be: the descriptor is the poller's own.
            warn!("waiting for events of engines: {e}; trying again");
            shared.stop.wait_until(Instant::now() + limits::DOCKER_RETRY_INITIAL);
        }
        for event in events.iter() {
            engines[event.key].read_events(&shared);
        }
    }
    engines.iter_mut().for_each(|engine| engine.close(&shared));
}

/// What all engines use.
struct Shared<'a> {
    poller: Arc<Poller>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    health: Arc<HealthBoard>,
    stop: Stop,
    beat: &'a Beat,
}

impl Shared<'_> {
    /// A request to an engine: the thread waits for a peer meanwhile.
    fn ask<T>(&self, request: impl FnOnce() -> Result<T, EngineError>) -> Result<T, EngineError> {
        self.beat.waits(Waits::Peer);
        let done = request();
        self.beat.busy();
        done
    }
}

/// The connection to an engine.
enum Link {
    Down { retry_at: Instant },
    Up(Up),
}

struct Up {
    socket: Socket,
    events: EventReader,
    api_version: Arc<str>,
    relist_at: Instant,
    /// When containers whose file was missing are inspected again.
    again: Vec<(Instant, String)>,
}

/// One source with its engine.
struct EngineState {
    number: usize,
    source: Arc<DockerSource>,
    engine: Engine,
    roster: Roster,
    link: Link,
    /// The wait after the next failure.
    backoff: Duration,
    /// Kinds of failure that were said since the engine answered last.
    said: Vec<&'static str>,
    connected_before: bool,
    /// What is said once a source.
    said_unreadable: bool,
    said_too_many: bool,
    /// When the lanes whose inboxes were full are told again.
    tell_at: Option<Instant>,
}

impl EngineState {
    fn new(
        number: usize,
        source: Arc<DockerSource>,
        engine: Engine,
        roster: Roster,
        now: Instant,
    ) -> Self {
        Self {
            number,
            source,
            engine,
            roster,
            link: Link::Down { retry_at: now },
            backoff: limits::DOCKER_RETRY_INITIAL,
            said: Vec::new(),
            connected_before: false,
            said_unreadable: false,
            said_too_many: false,
            tell_at: None,
        }
    }

    /// Does what is due, at most one request at an engine that is up; returns when there is
    /// more to do.
    fn turn(&mut self, shared: &Shared<'_>, lanes: &Lanes) -> Instant {
        let now = shared.clock.now();
        match &self.link {
            Link::Down { retry_at } if now >= *retry_at => self.try_connect(shared),
            Link::Down { .. } => {}
            Link::Up(up) if now >= up.relist_at => self.relist(shared),
            Link::Up(_) => self.inspect_next(shared, now),
        }
        let now = shared.clock.now();
        self.tell_at = match self.roster.tell(lanes) {
            Told::All => None,
            Told::Later => Some(now + limits::DOCKER_TELL_AGAIN),
        };
        let due = match &self.link {
            Link::Down { retry_at } => *retry_at,
            Link::Up(_) if self.roster.has_wanted() => now,
            Link::Up(up) => up.again.iter().map(|(at, _)| *at).fold(up.relist_at, Instant::min),
        };
        self.tell_at.map_or(due, |at| at.min(due))
    }

    fn try_connect(&mut self, shared: &Shared<'_>) {
        match self.connect(shared) {
            Ok(()) => self.is_up(shared),
            Err(EngineError::Stopping) => {}
            Err(error) => self.lost(shared, &error),
        }
    }

    /// Version, events, list, in this order.
    fn connect(&mut self, shared: &Shared<'_>) -> Result<(), EngineError> {
        let api_version = shared.ask(|| self.engine.negotiate())?;
        let path = format!("/v{api_version}{EVENTS_PATH}");
        let opened = shared.ask(|| self.engine.open(&path))?;
        let mut events = EventReader::new(opened.head.body);
        take(&mut events, &opened.rest, &mut self.roster)?;
        let list = shared.ask(|| list(&self.engine, &api_version))?;
        let now = shared.clock.now();
        let relist_at = now + limits::DOCKER_RELIST_INTERVAL;
        let up = Up { socket: opened.socket, events, api_version, relist_at, again: Vec::new() };
        // SAFETY: the socket lives in `self.link` and is deleted in `close` before it is dropped.
        unsafe {
            let interest = Event::readable(self.number);
            shared.poller.add_with_mode(&up.socket, interest, PollMode::Level)
        }
        .map_err(EngineError::Connection)?;
        self.roster.engine_up(&up.api_version);
        self.link = Link::Up(up);
        // What was created since the stream was opened is new, though the list has it.
        self.read_events(shared);
        if matches!(self.link, Link::Up(_)) {
            self.roster.listed(&list);
        }
        Ok(())
    }

    fn is_up(&mut self, shared: &Shared<'_>) {
        let Link::Up(up) = &self.link else { return };
        let (name, version) = (&self.source.name, &up.api_version);
        if !std::mem::take(&mut self.said).is_empty() {
            info!("source {name}: the Docker Engine answers again, API {version}");
        } else if !self.connected_before {
            info!("source {name}: connected to the Docker Engine, API {version}");
        }
        self.connected_before = true;
        self.backoff = limits::DOCKER_RETRY_INITIAL;
        self.settle_health(shared);
    }

    /// The engine does not answer, or its events ended: said once, tried again later.
    fn lost(&mut self, shared: &Shared<'_>, error: &EngineError) {
        self.close(shared);
        let retry_at = shared.clock.now() + self.backoff;
        self.link = Link::Down { retry_at };
        self.roster.engine_down();
        shared.metrics.error("docker", error.kind());
        let name = &self.source.name;
        let reason = format!("Docker Engine: {error}{}", error.cure(&self.source.endpoint));
        shared.health.set("source", name, Level::Degraded, &reason);
        if self.said.contains(&error.kind()) {
            debug!("source {name}: {reason}; retrying in {:?}", self.backoff);
        } else {
            warn!("source {name}: {reason}; retrying until it answers");
            self.said.push(error.kind());
        }
        self.backoff = (self.backoff * 2).min(limits::DOCKER_RETRY_MAX);
    }

    fn close(&mut self, shared: &Shared<'_>) {
        if let Link::Up(up) = &self.link {
            let _ = shared.poller.delete(&up.socket);
        }
        self.link = Link::Down { retry_at: shared.clock.now() };
    }

    /// Reads what the events stream has, without waiting.
    fn read_events(&mut self, shared: &Shared<'_>) {
        let Link::Up(up) = &mut self.link else { return };
        let mut buffer = [0; limits::DOCKER_READ_BYTES];
        let ended = loop {
            match up.socket.read(&mut buffer) {
                Ok(0) => break EngineError::Protocol("its events stream ended".to_owned()),
                Ok(bytes) => match take(&mut up.events, &buffer[..bytes], &mut self.roster) {
                    Ok(Lines::Read) => {}
                    Ok(Lines::Unreadable) => up.relist_at = shared.clock.now(),
                    Err(error) => break error,
                },
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => break EngineError::Connection(e),
            }
        };
        self.lost(shared, &ended);
    }

    /// The list as a safety net, and after an event that was not understood.
    fn relist(&mut self, shared: &Shared<'_>) {
        let Link::Up(up) = &mut self.link else { return };
        let listed = shared.ask(|| list(&self.engine, &up.api_version));
        up.relist_at = shared.clock.now() + limits::DOCKER_RELIST_INTERVAL;
        match listed {
            Ok(list) => {
                self.roster.listed(&list);
                self.settle_health(shared);
            }
            Err(EngineError::Stopping) => {}
            Err(error) if ends_link(&error) => self.lost(shared, &error),
            Err(error) => {
                // The events may still come: the streams of its containers stay open.
                up.relist_at = shared.clock.now() + limits::DOCKER_RETRY_MAX;
                shared.metrics.error("docker", error.kind());
                let reason = format!("list of the containers: {error}");
                if shared.health.set("source", &self.source.name, Level::Degraded, &reason) {
                    warn!("source {}: {reason}; trying again", self.source.name);
                }
            }
        }
    }

    /// Inspects one container, so that events are read before the next.
    fn inspect_next(&mut self, shared: &Shared<'_>, now: Instant) {
        let Link::Up(up) = &mut self.link else { return };
        let roster = &mut self.roster;
        up.again.retain(|(at, id)| {
            if *at <= now {
                roster.want(id);
            }
            *at > now
        });
        let Some(id) = roster.next_wanted() else { return };
        let path = format!("/v{}/containers/{id}/json", up.api_version);
        match shared.ask(|| inspect(&self.engine, &path)) {
            Ok(found) => {
                let outcome = self.roster.inspected(&found, probe);
                self.say(shared, &found, outcome);
            }
            Err(EngineError::Stopping) => {}
            Err(EngineError::NotFound(_)) => self.roster.gone(&id),
            Err(error) if ends_link(&error) => {
                self.roster.want(&id);
                self.lost(shared, &error);
            }
            // The next list wants it again: an engine may hang on one container alone.
            Err(error) => {
                shared.metrics.error("docker", error.kind());
                let name = &self.source.name;
                warn!("source {name}: inspection of container {id:.12}: {error}; trying again");
            }
        }
    }

    fn say(&mut self, shared: &Shared<'_>, found: &Inspected, outcome: Outcome) {
        let source = &self.source.name;
        let container = format!("container {} ({:.12})", found.name(), found.id);
        match outcome {
            Outcome::Quiet => {}
            Outcome::Followed { way } => info!("source {source}: {container} is read by {way}"),
            Outcome::LeftOut { why } => info!("source {source}: {container} is left out: {why}"),
            Outcome::Again => {
                if let Link::Up(up) = &mut self.link {
                    let at = shared.clock.now() + limits::DOCKER_TELL_AGAIN;
                    up.again.push((at, found.id.clone()));
                }
            }
            Outcome::FellBack { path, cause } => {
                info!("source {source}: {container} is read by the engine's API");
                let next = "containers whose log cannot be read go through the engine's API";
                self.say_unreadable(&path, &cause, next);
            }
            Outcome::Unreadable { path, cause } => {
                let next = "its containers are not followed until it can be read";
                self.say_unreadable(&path, &cause, next);
                let reason = format!("log {}: {cause}", path.display());
                shared.health.set("source", &self.source.name, Level::Degraded, &reason);
            }
        }
    }

    /// Once a source: the cure is the same for all its containers.
    fn say_unreadable(&mut self, path: &Path, cause: &io::Error, next: &str) {
        let cure = match cause.kind() {
            io::ErrorKind::PermissionDenied => "; CAP_DAC_READ_SEARCH, or root, gives access",
            io::ErrorKind::NotFound => "; is the engine's directory visible here?",
            _ => "",
        };
        let (source, path) = (&self.source.name, path.display());
        if std::mem::replace(&mut self.said_unreadable, true) {
            debug!("source {source}: log {path}: {cause}");
        } else {
            warn!("source {source}: log {path}: {cause}{cure}; {next}");
        }
    }

    /// Healthy, unless containers are left out that should be followed.
    fn settle_health(&mut self, shared: &Shared<'_>) {
        let name = &self.source.name;
        let (unreadable, too_many) = (self.roster.unreadable(), self.roster.too_many());
        if too_many > 0 {
            let max = limits::DOCKER_CONTAINERS_MAX;
            let reason = format!("{too_many} containers above {max} are not followed");
            shared.health.set("source", name, Level::Degraded, &reason);
            if !std::mem::replace(&mut self.said_too_many, true) {
                warn!("source {name}: {reason}; exclude or remove some");
            }
        } else if unreadable > 0 {
            let reason = format!("logs of {unreadable} containers cannot be read");
            shared.health.set("source", name, Level::Degraded, &reason);
        } else {
            shared.health.ok("source", name);
        }
    }
}

/// Whether all lines were understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lines {
    Read,
    Unreadable,
}

/// Events into the roster.
fn take(reader: &mut EventReader, bytes: &[u8], roster: &mut Roster) -> Result<Lines, EngineError> {
    let mut lines = Lines::Read;
    let state = reader.push(bytes, |event| {
        if event == ContainerEvent::Unreadable {
            lines = Lines::Unreadable;
        }
        roster.event(&event);
    });
    match state.map_err(|e| EngineError::Protocol(e.to_string()))? {
        BodyState::Open => Ok(lines),
        BodyState::Complete => Err(EngineError::Protocol("its events stream ended".to_owned())),
    }
}

/// Whether a request's failure says that the engine is not there.
fn ends_link(error: &EngineError) -> bool {
    use EngineError::{Connection, Forbidden, Missing, Refused};
    matches!(error, Refused | Missing | Forbidden | Connection(_))
}

fn list(engine: &Engine, api_version: &str) -> Result<Vec<Listed>, EngineError> {
    let answer = engine.request("GET", &format!("/v{api_version}/containers/json?all=1"))?;
    serde_json::from_slice(&answer.body)
        .map_err(|e| EngineError::Protocol(format!("list of the containers: {e}")))
}

fn inspect(engine: &Engine, path: &str) -> Result<Inspected, EngineError> {
    let answer = engine.request("GET", path)?;
    serde_json::from_slice(&answer.body)
        .map_err(|e| EngineError::Protocol(format!("inspection of a container: {e}")))
}

/// Whether a json-file log can be read: opened as the lane will, and closed.
fn probe(path: &Path) -> io::Result<()> {
    let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
}

#[cfg(test)]
#[path = "ctl_tests.rs"]
mod tests;
