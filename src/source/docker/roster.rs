//! The containers of one engine: which are known, by which way each is read, what lanes are
//! still to be told.
//!
//! Nothing is told by a message that may be lost: what changes leaves a mark on its container,
//! and the mark stays until a lane's inbox had room. So memory is bounded by the containers, and
//! the events stream is read on however slow the lanes are. Requests, clock and log belong to
//! `ctl`. Runs on `docker-ctl`.

mod tell;
mod way;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use tell::{Lanes, Told};

use super::ApiContainer;
use super::events::{Action, ContainerEvent};
use super::inspect::{self, Inspected, Listed};
use crate::ack::{Identity, Position};
use crate::config::checked::{DockerSource, StartAt};
use crate::limits;
use crate::source::ContainerLog;

/// What an inspection led to; `ctl` logs it.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing that a person needs to know.
    Quiet,
    /// Followed from now on.
    Followed {
        way: &'static str,
    },
    /// Followed through the API because the json-file log cannot be read.
    FellBack {
        path: PathBuf,
        cause: io::Error,
    },
    /// Not followed until the file can be read: the source demands it.
    Unreadable {
        path: PathBuf,
        cause: io::Error,
    },
    LeftOut {
        why: String,
    },
    /// Its file is missing, which a rotation may explain: to be inspected again soon.
    Again,
}

/// By which way lines are read.
#[derive(Debug)]
enum Way {
    /// To be decided by an inspection.
    Unknown,
    /// A json-file container before its first start: its log has no path yet.
    NotStarted,
    /// The json-file log cannot be read and nothing else is allowed.
    Unreadable,
    LeftOut,
    File(Box<ContainerLog>),
    Api(Box<ApiContainer>),
}

impl Way {
    fn is_open(&self) -> bool {
        matches!(self, Self::Unknown | Self::NotStarted | Self::Unreadable)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edge {
    Started,
    Died,
}

/// What the container's lane does not know yet.
#[derive(Debug, Default)]
struct Untold {
    container: bool,
    /// The latest one counts: the lane reads once more after each end of a stream anyway.
    edge: Option<Edge>,
}

#[derive(Debug)]
struct Known {
    name: String,
    running: bool,
    way: Way,
    start_at: StartAt,
    untold: Untold,
    /// Its file was missing at an inspection.
    missing: bool,
    /// Queued for an inspection.
    wanted: bool,
}

/// Which ways positions are known for.
#[derive(Clone, Copy, Debug, Default)]
struct Placed {
    file: bool,
    api: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LinkNews {
    Up,
    Down,
}

/// See the module's head.
pub struct Roster {
    source: Arc<DockerSource>,
    name: Arc<str>,
    sinks: Arc<[usize]>,
    engine: usize,
    api_version: Arc<str>,
    own: Option<String>,
    /// Containers of this source with a position on file.
    placed: HashMap<String, Placed>,
    containers: BTreeMap<String, Known>,
    /// To be inspected.
    wanted: VecDeque<String>,
    /// Containers with something untold.
    untold: VecDeque<String>,
    /// Told to be gone from each lane that may know them.
    gone: VecDeque<(Placed, String)>,
    link: Vec<Option<LinkNews>>,
    listed_before: bool,
    /// Containers past the limit, at the last list.
    too_many: usize,
}

impl Roster {
    /// `engine` is the source's index in the config.
    pub fn new(
        engine: usize,
        source: Arc<DockerSource>,
        positions: &[Position],
        own: Option<String>,
        docker_lanes: usize,
    ) -> Self {
        Self {
            name: source.name.as_str().into(),
            sinks: source.sinks.as_slice().into(),
            engine,
            api_version: "".into(),
            own,
            placed: placed(&source.name, positions),
            source,
            containers: BTreeMap::new(),
            wanted: VecDeque::new(),
            untold: VecDeque::new(),
            gone: VecDeque::new(),
            link: vec![None; docker_lanes],
            listed_before: false,
            too_many: 0,
        }
    }

    /// Containers whose lines are read.
    pub fn followed(&self) -> usize {
        let followed = |k: &&Known| matches!(k.way, Way::File(_) | Way::Api(_));
        self.containers.values().filter(followed).count()
    }

    /// Containers that the source demands to be read from files that cannot be read.
    pub fn unreadable(&self) -> usize {
        self.containers.values().filter(|k| matches!(k.way, Way::Unreadable)).count()
    }

    /// Containers past [`limits::DOCKER_CONTAINERS_MAX`], not followed.
    pub fn too_many(&self) -> usize {
        self.too_many
    }

    /// The engine answers, with this API version: lanes with API streams hear it before the
    /// containers, which are told again.
    pub fn engine_up(&mut self, api_version: &Arc<str>) {
        self.api_version = api_version.clone();
        self.link.fill(Some(LinkNews::Up));
        for (id, known) in &mut self.containers {
            if let Way::Api(container) = &mut known.way {
                container.api_version = api_version.clone();
                mark(&mut self.untold, id, known);
                known.untold.container = true;
            }
        }
    }

    pub fn engine_down(&mut self) {
        self.link.fill(Some(LinkNews::Down));
    }

    /// The next container to inspect.
    pub fn next_wanted(&mut self) -> Option<String> {
        let id = self.wanted.pop_front()?;
        if let Some(known) = self.containers.get_mut(&id) {
            known.wanted = false;
        }
        Some(id)
    }

    pub fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// A known container is to be inspected (again).
    pub fn want(&mut self, id: &str) {
        if let Some(known) = self.containers.get_mut(id)
            && !std::mem::replace(&mut known.wanted, true)
        {
            self.wanted.push_back(id.to_owned());
        }
    }

    /// Takes an event. The second kind of event, unreadable, is the caller's.
    pub fn event(&mut self, event: &ContainerEvent) {
        let ContainerEvent::Happened { action, id } = event else { return };
        if !inspect::is_id(id) {
            return;
        }
        match action {
            Action::Destroy => self.gone(id),
            Action::Create | Action::Rename => {
                if self.know(id, StartAt::Beginning) {
                    self.want(id);
                }
            }
            Action::Start => self.run_changed(id, Edge::Started),
            Action::Die => self.run_changed(id, Edge::Died),
        }
    }

    fn run_changed(&mut self, id: &str, edge: Edge) {
        // An unknown container that starts or dies was there before: its events were missed.
        let first_seen = self.start_at_if_listed();
        if !self.know(id, first_seen) {
            return;
        }
        let Some(known) = self.containers.get_mut(id) else { return };
        known.running = edge == Edge::Started;
        match &mut known.way {
            Way::File(_) | Way::LeftOut => {}
            Way::Api(container) => {
                container.running = edge == Edge::Started;
                mark(&mut self.untold, id, known);
                known.untold.container = true;
                known.untold.edge = Some(edge);
            }
            Way::Unknown | Way::NotStarted | Way::Unreadable => {
                known.untold.edge = Some(edge);
                self.want(id);
            }
        }
    }

    /// Takes a full list: new containers are wanted, those not in it are gone.
    pub fn listed(&mut self, list: &[Listed]) {
        let start_at = self.start_at_if_listed();
        self.too_many = 0;
        for container in list.iter().filter(|c| inspect::is_id(&c.id)) {
            let is_new = !self.containers.contains_key(&container.id);
            if !self.know(&container.id, start_at) {
                continue;
            }
            if is_new {
                self.want(&container.id);
            } else {
                self.compare(container);
            }
        }
        let listed: HashSet<&str> = list.iter().map(|c| c.id.as_str()).collect();
        let known = self.containers.keys().filter(|id| !listed.contains(id.as_str()));
        for id in known.cloned().collect::<Vec<_>>() {
            self.gone(&id);
        }
        if !self.listed_before {
            // Those that were removed while we were away.
            let placed = self.placed.iter().filter(|(id, _)| !listed.contains(id.as_str()));
            let gone: Vec<_> = placed.map(|(id, placed)| (*placed, id.clone())).collect();
            self.gone.extend(gone);
        }
        self.listed_before = true;
    }

    /// What a list says of a container that was known before: events may have been missed.
    fn compare(&mut self, listed: &Listed) {
        let Some(known) = self.containers.get_mut(&listed.id) else { return };
        let renamed = listed.name().is_some_and(|name| name != known.name);
        let open = known.way.is_open();
        let edge = match (known.running, listed.is_running()) {
            (false, true) => Some(Edge::Started),
            (true, false) => Some(Edge::Died),
            _ => None,
        };
        if renamed || open {
            self.want(&listed.id);
        }
        if let Some(edge) = edge {
            self.run_changed(&listed.id, edge);
        }
    }

    /// Where reading begins in a container that the next list shows first.
    fn start_at_if_listed(&self) -> StartAt {
        let first_ever = !self.listed_before && self.placed.is_empty();
        if first_ever { self.source.start_at } else { StartAt::Beginning }
    }

    /// Whether the container is known now; false for our own and past the limit.
    fn know(&mut self, id: &str, start_at: StartAt) -> bool {
        if self.containers.contains_key(id) {
            return true;
        }
        if self.own.as_deref() == Some(id) {
            return false;
        }
        if self.containers.len() >= limits::DOCKER_CONTAINERS_MAX {
            self.too_many += 1;
            return false;
        }
        let known = Known {
            name: String::new(),
            running: false,
            way: Way::Unknown,
            start_at,
            untold: Untold::default(),
            missing: false,
            wanted: false,
        };
        self.containers.insert(id.to_owned(), known);
        true
    }

    /// The engine does not know the container any more.
    pub fn gone(&mut self, id: &str) {
        let Some(known) = self.containers.remove(id) else { return };
        let mut told = self.placed.get(id).copied().unwrap_or_default();
        told.file |= matches!(known.way, Way::File(_));
        told.api |= matches!(known.way, Way::Api(_));
        self.gone.push_back((told, id.to_owned()));
        if self.gone.len() > 2 * limits::DOCKER_CONTAINERS_MAX {
            // A lane that is stuck for so long finds the file unlinked, or a 404, by itself.
            self.gone.pop_front();
        }
    }

    /// Takes an inspection. `probe` tells whether a file can be read.
    pub fn inspected(
        &mut self,
        found: &Inspected,
        probe: impl Fn(&Path) -> io::Result<()>,
    ) -> Outcome {
        let Some(known) = self.containers.get(&found.id) else { return Outcome::Quiet };
        let before = &known.way;
        let (way, outcome) = match before {
            // Decided once: a rename changes labels, never the way nor whether at all.
            Way::File(log) => (Way::File(self.log(found, log.path.clone())), Outcome::Quiet),
            Way::Api(_) => (Way::Api(self.api(found)), Outcome::Quiet),
            _ => self.decide(found, known, probe),
        };
        let Some(known) = self.containers.get_mut(&found.id) else { return Outcome::Quiet };
        let news = match (&known.way, &way) {
            (Way::File(old), Way::File(new)) => old.labels != new.labels,
            (_, Way::File(_) | Way::Api(_)) => true,
            _ => false,
        };
        // Said once a container, not at each list.
        let said = matches!(
            (&known.way, &way),
            (Way::LeftOut, Way::LeftOut) | (Way::Unreadable, Way::Unreadable)
        );
        known.missing |= matches!(outcome, Outcome::Again);
        known.name = found.name().to_owned();
        known.running = found.is_running();
        known.way = way;
        if news {
            mark(&mut self.untold, &found.id, known);
            known.untold.container = true;
        }
        if said { Outcome::Quiet } else { outcome }
    }

    fn start_at(&self, id: &str) -> StartAt {
        self.containers.get(id).map_or(StartAt::Beginning, |known| known.start_at)
    }
}

/// Puts a container into the queue of those with something untold, once.
fn mark(queue: &mut VecDeque<String>, id: &str, known: &Known) {
    let queued = known.untold.container;
    if !queued {
        queue.push_back(id.to_owned());
    }
}

fn placed(source: &str, positions: &[Position]) -> HashMap<String, Placed> {
    let mut all: HashMap<String, Placed> = HashMap::new();
    for position in positions {
        match &position.identity {
            Identity::Container(c) if c.source == source => {
                all.entry(c.id.clone()).or_default().api = true;
            }
            Identity::File(f) if f.source == source => {
                if let Some(id) = &f.container {
                    all.entry(id.clone()).or_default().file = true;
                }
            }
            _ => {}
        }
    }
    all
}

#[cfg(test)]
mod tests;
