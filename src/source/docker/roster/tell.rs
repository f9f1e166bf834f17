//! What the lanes do not know yet, into their inboxes as far as there is room.
//!
//! A mark is taken off a container only when its lane has the event. Runs on `docker-ctl`.

use std::sync::Arc;

use crossbeam_channel::{Sender, TrySendError};
use polling::Poller;
use xxhash_rust::xxh3::xxh3_64;

use super::{Edge, Known, LinkNews, Roster, Untold, Way};
use crate::source::FileEvent;
use crate::source::docker::DockerEvent;

/// The lanes' inboxes. A container belongs to one lane for its life, by its id.
pub struct Lanes {
    pub files: Vec<Sender<FileEvent>>,
    pub docker: Vec<(Sender<DockerEvent>, Arc<Poller>)>,
}

/// Whether the lanes know everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    All,
    /// An inbox was full: to be tried again.
    Later,
}

impl Roster {
    /// Tells the lanes what they do not know yet, as far as their inboxes have room.
    pub fn tell(&mut self, lanes: &Lanes) -> Told {
        let mut told = Told::All;
        for (lane, link) in self.link.iter_mut().enumerate() {
            let engine = self.engine;
            let event = match link {
                None => continue,
                Some(LinkNews::Up) => DockerEvent::EngineUp { engine },
                Some(LinkNews::Down) => DockerEvent::EngineDown { engine },
            };
            if lanes.docker(lane, event) {
                *link = None;
            } else {
                told = Told::Later;
            }
        }
        for _ in 0..self.untold.len() {
            let Some(id) = self.untold.pop_front() else { break };
            let lane = lane_of(&id, lanes.docker.len());
            let Some(known) = self.containers.get_mut(&id) else { continue };
            // An engine is up before its containers are told.
            let waits = matches!(known.way, Way::Api(_)) && self.link[lane].is_some();
            if waits || !tell_container(lanes, self.engine, &id, known) {
                self.untold.push_back(id);
                told = Told::Later;
            }
        }
        for _ in 0..self.gone.len() {
            let Some((mut left, id)) = self.gone.pop_front() else { break };
            let (engine, source) = (self.engine, self.name.clone());
            left.file =
                left.file && !lanes.file(&id, FileEvent::ContainerGone { source, id: id.clone() });
            let lane = lane_of(&id, lanes.docker.len());
            left.api =
                left.api && !lanes.docker(lane, DockerEvent::Gone { engine, id: id.clone() });
            if left.file || left.api {
                self.gone.push_back((left, id));
                told = Told::Later;
            }
        }
        told
    }
}

/// Whether the lane knows all of the container now.
fn tell_container(lanes: &Lanes, engine: usize, id: &str, known: &mut Known) -> bool {
    match &known.way {
        Way::File(log) => {
            known.untold.container = !lanes.file(id, FileEvent::Container(log.clone()));
            known.untold.edge = None;
            !known.untold.container
        }
        Way::Api(container) => {
            let lane = lane_of(id, lanes.docker.len());
            if known.untold.container
                && !lanes.docker(lane, DockerEvent::Container(container.clone()))
            {
                return false;
            }
            let id = id.to_owned();
            let told = match known.untold.edge {
                None => true,
                Some(Edge::Started) => lanes.docker(lane, DockerEvent::Started { engine, id }),
                Some(Edge::Died) => lanes.docker(lane, DockerEvent::Died { engine, id }),
            };
            // Both or none: the container is told again with its edge, which does no harm.
            if told {
                known.untold = Untold::default();
            }
            told
        }
        Way::Unknown | Way::NotStarted | Way::Unreadable | Way::LeftOut => {
            known.untold.container = false;
            true
        }
    }
}

impl Lanes {
    /// False: the inbox is full. A lane that has ended needs to be told nothing.
    fn file(&self, id: &str, event: FileEvent) -> bool {
        let lane = lane_of(id, self.files.len());
        !matches!(self.files[lane].try_send(event), Err(TrySendError::Full(_)))
    }

    fn docker(&self, lane: usize, event: DockerEvent) -> bool {
        let (inbox, poller) = &self.docker[lane];
        let sent = !matches!(inbox.try_send(event), Err(TrySendError::Full(_)));
        // A lane that cannot be woken finds the event at its next timeout.
        let _ = poller.notify();
        sent
    }
}

/// The lane of a container: for its life, and the same after a restart.
fn lane_of(id: &str, lanes: usize) -> usize {
    assert!(lanes > 0, "a Docker source without lanes");
    (xxh3_64(id.as_bytes()) % lanes as u64) as usize
}
