//! The thread `file-N`: its share of files and containers' logs, from names to sealed batches.
//!
//! One loop over events, ticks and reads; never waits but for its inbox, never longer than to
//! the next thing that is due. A file has at most one chunk a turn. How chains begin and end is
//! in `follow`, what directories tell in `names`, reading in `read`.

use std::collections::{HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::chain::{Chain, Owner};
use super::discover::Discovery;
use super::identity::FileId;
use super::known::Known;
use super::names::Dir;
use super::read::{self, Context, Divert, Turn};
use super::watch::{Interest, Watch};
use crate::ack::Position;
use crate::batch::Batcher;
use crate::clock::Clock;
use crate::config::checked::FileSource;
use crate::daemon::{Beat, Stop, Waits};
use crate::health::HealthBoard;
use crate::limits;
use crate::metrics::Metrics;
use crate::record::SourceId;
use crate::source::FileEvent;

/// While a batch is parked or a line refused, perhaps for want of room at `ack` or of disk for
/// dead letters, which wake nobody.
const PARKED_TICK: std::time::Duration = std::time::Duration::from_millis(200);

/// What a lane is made of. `daemon/` fills it in and runs it on a thread of its own.
pub struct FileLane {
    pub inbox: Receiver<FileEvent>,
    /// Events were lost: look at all names again.
    pub rescan: Arc<AtomicBool>,
    /// None: inotify cannot be had; the sweep serves.
    pub watch: Option<Arc<Watch>>,
    /// All file sources of the config in its order: a file belongs to the first that matches.
    pub sources: Vec<Arc<FileSource>>,
    /// This lane's number, and how many lanes there are.
    pub lane: usize,
    pub lanes: usize,
    pub batcher: Batcher,
    /// All positions of the run before; a lane picks those of its own files.
    pub positions: Vec<Position>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<HealthBoard>,
    pub divert: Divert,
    pub stop: Stop,
}

/// The lane of a source by its base labels: equal labels, equal lane.
pub fn lane_of(labels: &[(String, String)], lanes: usize) -> usize {
    let hash = crate::record::StreamLabels::new(labels.iter().cloned()).hash();
    (hash % lanes.max(1) as u64) as usize
}

/// A finished file whose name a source still matches.
pub(super) struct Dormant {
    pub id: SourceId,
    pub path: PathBuf,
    pub read: u64,
    pub source: Arc<FileSource>,
}

/// The lane's state.
pub(super) struct Lane {
    pub inbox: Receiver<FileEvent>,
    pub rescan: Arc<AtomicBool>,
    pub watch: Option<Arc<Watch>>,
    pub sources: Vec<Arc<FileSource>>,
    pub mine: Vec<bool>,
    pub discovery: Discovery,
    pub health: Arc<HealthBoard>,
    pub stop: Stop,
    pub cx: Context,
    pub known: Known,
    /// The first sweep is over.
    pub swept: bool,
    pub chains: Vec<Option<Chain>>,
    pub free: Vec<usize>,
    pub live: HashMap<PathBuf, usize>,
    pub by_inode: HashMap<FileId, usize>,
    pub dirs: HashMap<PathBuf, Dir>,
    pub dormant: HashMap<FileId, Dormant>,
    /// Logs of containers that are not there yet, or cannot be read yet.
    pub awaited: HashMap<PathBuf, Owner>,
    /// Files that hold what a followed one held.
    pub copies: HashMap<FileId, PathBuf>,
    pub finished: VecDeque<FileId>,
    pub ready: VecDeque<usize>,
    pub active: Vec<usize>,
    pub blocked: Vec<usize>,
    pub open_files: usize,
    pub open_files_max: usize,
    pub at_risk_bytes: u64,
    /// As the thread is named.
    pub name: String,
    /// Names that could not be opened, said once each.
    pub troubled: HashMap<PathBuf, String>,
    pub limit_said: bool,
    pub files_max_said: bool,
    pub names_due: Option<Instant>,
    pub sweep_due: Instant,
    tick_due: Option<Instant>,
    idle_due: Option<Instant>,
    batch_due: Option<Instant>,
    /// When what found no room is offered again without a wake-up.
    parked_due: Option<Instant>,
    /// Where the round over idle, uncovered files goes on.
    idle_cursor: usize,
}

/// Runs until a stop is asked for; then hands over what was read, at most until the deadline.
pub fn run(lane: FileLane, beat: &Beat) {
    let mut lane = Lane::new(lane);
    while !lane.stop.asked() {
        lane.work();
        if lane.stop.asked() || !lane.wait(beat) {
            break;
        }
    }
    lane.drain(beat);
}

impl Lane {
    fn new(lane: FileLane) -> Self {
        let FileLane { inbox, rescan, watch, sources, batcher, positions, .. } = lane;
        let mine = sources.iter().map(|s| lane_of(&s.labels, lane.lanes) == lane.lane).collect();
        let now = lane.clock.now();
        let cx = Context {
            batcher,
            clock: lane.clock,
            metrics: lane.metrics,
            divert: lane.divert,
            buffer: vec![0; limits::READ_CHUNK_BYTES + limits::READ_MARGIN_BYTES],
        };
        Self {
            inbox,
            rescan,
            watch,
            mine,
            discovery: Discovery::new(sources.clone()),
            sources,
            health: lane.health,
            stop: lane.stop,
            cx,
            known: Known::new(positions),
            swept: false,
            chains: Vec::new(),
            free: Vec::new(),
            live: HashMap::new(),
            by_inode: HashMap::new(),
            dirs: HashMap::new(),
            dormant: HashMap::new(),
            awaited: HashMap::new(),
            copies: HashMap::new(),
            finished: VecDeque::new(),
            ready: VecDeque::new(),
            active: Vec::new(),
            blocked: Vec::new(),
            open_files: 0,
            open_files_max: (limits::OPEN_FILES_MAX / lane.lanes.max(1)).max(16),
            at_risk_bytes: 0,
            name: format!("file-{}", lane.lane),
            troubled: HashMap::new(),
            limit_said: false,
            files_max_said: false,
            names_due: None,
            sweep_due: now,
            tick_due: None,
            idle_due: None,
            batch_due: None,
            parked_due: None,
            idle_cursor: 0,
        }
    }

    /// All that is due, and some reading.
    fn work(&mut self) {
        for _ in 0..limits::LANE_INBOX_EVENTS {
            match self.inbox.try_recv() {
                Ok(event) => self.event(event),
                Err(_) => break,
            }
        }
        let now = self.cx.clock.now();
        if self.rescan.swap(false, Ordering::AcqRel) {
            self.sweep_due = self.sweep_due.min(now + limits::NAMES_SETTLE);
        }
        if self.sweep_due <= now {
            self.sweep(now);
        } else if self.names_due.is_some_and(|due| due <= now) {
            self.look_at_names(now);
        }
        if self.tick_due.is_some_and(|due| due <= now) {
            self.tick(now);
        }
        if self.idle_due.is_some_and(|due| due <= now) {
            self.idle_tick(now);
        }
        self.read(now);
        let now = self.cx.clock.now();
        if self.batch_due.is_none_or(|due| due <= now) {
            self.batch_due = self.cx.batcher.tick(now);
        }
    }

    fn event(&mut self, event: FileEvent) {
        let now = self.cx.clock.now();
        match event {
            FileEvent::Names(dir) => self.names_changed(&dir, now),
            FileEvent::Data(path) => self.data_in(&path, now),
            FileEvent::Wake => {
                self.batch_due = None;
                self.unblock();
            }
            FileEvent::Container(log) => self.container(*log, now),
            FileEvent::ContainerGone { source, id } => self.container_gone(&source, &id, now),
            FileEvent::Stop => {}
        }
    }

    fn unblock(&mut self) {
        let now = self.cx.clock.now();
        self.batch_due = self.cx.batcher.tick(now);
        for key in std::mem::take(&mut self.blocked) {
            if let Some(chain) = self.chains[key].as_mut() {
                chain.blocked = false;
                self.queue(key);
            }
        }
    }

    /// Waits for an event or the next thing due; false when all senders are gone.
    fn wait(&mut self, beat: &Beat) -> bool {
        if !self.ready.is_empty() {
            beat.busy();
            return true;
        }
        let now = self.cx.clock.now();
        let waits = self.cx.batcher.has_parked() || !self.blocked.is_empty();
        self.parked_due = waits.then(|| self.parked_due.unwrap_or(now + PARKED_TICK));
        let parked = self.parked_due;
        let others = [self.names_due, self.tick_due, self.idle_due, self.batch_due, parked];
        let due = others.into_iter().flatten().fold(self.sweep_due, Instant::min);
        beat.waits(Waits::Events);
        let event = self.inbox.recv_deadline(due);
        beat.busy();
        match event {
            Ok(event) => self.event(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return false,
        }
        // Also among many events: a wake-up may have found the inbox full.
        if self.parked_due.is_some_and(|due| due <= self.cx.clock.now()) {
            self.parked_due = None;
            self.unblock();
        }
        true
    }

    /// A few chunks, at most one a file and turn.
    fn read(&mut self, now: Instant) {
        for _ in 0..limits::READS_A_TURN.min(self.ready.len()) {
            let Some(key) = self.ready.pop_front() else { return };
            let Some(chain) = self.chains[key].as_mut() else { continue };
            chain.queued = false;
            let open = chain.open_files();
            let turn = read::turn(chain, &mut self.cx, now);
            self.open_files = self.open_files + chain.open_files() - open;
            let (grown, active) = (chain.grown, chain.active);
            match turn {
                Turn::More => self.queue(key),
                Turn::Blocked => {
                    chain.blocked = true;
                    self.blocked.push(key);
                }
                Turn::Truncated => match self.truncated(key, now) {
                    Ok(()) => self.queue(key),
                    Err(e) => {
                        log::warn!("reading a file after it was emptied: {e}; trying again");
                        self.finish(key, now);
                    }
                },
                Turn::End => {
                    let rests = chain.may_rest();
                    if !active && (grown == now || !rests) {
                        self.activate(key, now);
                    }
                    if !rests {
                        self.finish(key, now);
                    } else if self.open_files > self.open_files_max {
                        self.close(key);
                    }
                }
            }
            if self.batch_due.is_none() {
                self.batch_due = Some(now);
            }
        }
    }

    /// An idle file is reopened when it grows.
    fn close(&mut self, key: usize) {
        let Some(chain) = self.chains[key].as_mut() else { return };
        if let Some(segment) = chain.segments.front_mut()
            && segment.file.take().is_some()
        {
            self.open_files -= 1;
        }
    }

    pub fn chain(&self, key: usize) -> &Chain {
        self.chains[key].as_ref().unwrap_or_else(|| panic!("no chain {key}"))
    }

    pub fn insert(&mut self, chain: Chain) -> usize {
        let live = chain.live.clone();
        let key = self.free.pop().unwrap_or_else(|| {
            self.chains.push(None);
            self.chains.len() - 1
        });
        let gauge = match chain.owner {
            Owner::File(_) => Some(&self.cx.metrics.files_monitored),
            Owner::Container(_) => None,
        };
        gauge.map(|g| g.inc());
        self.chains[key] = Some(chain);
        if let Some(dir) = live.parent() {
            self.dirs.entry(dir.to_owned()).or_default().chains.push(key);
        }
        self.live.insert(live, key);
        key
    }

    pub fn remove(&mut self, key: usize) {
        let Some(chain) = self.chains[key].take() else { return };
        self.free.push(key);
        if let Owner::File(_) = chain.owner {
            self.cx.metrics.files_monitored.dec();
        }
        self.live.remove(&chain.live);
        self.ready.retain(|&k| k != key);
        self.blocked.retain(|&k| k != key);
        self.active.retain(|&k| k != key);
        let Some(path) = chain.live.parent() else { return };
        if let Some(dir) = self.dirs.get_mut(path) {
            dir.chains.retain(|&k| k != key);
            dir.active -= usize::from(chain.active);
        }
        self.drop_dir_of_container(path);
    }

    /// To be read in its turn.
    pub fn queue(&mut self, key: usize) {
        let Some(chain) = self.chains[key].as_mut() else { return };
        if !chain.queued && !chain.blocked {
            chain.queued = true;
            self.ready.push_back(key);
        }
    }

    /// Looked at on every tick from now on.
    pub fn activate(&mut self, key: usize, now: Instant) {
        self.queue(key);
        let Some(chain) = self.chains[key].as_mut() else { return };
        if chain.active {
            return;
        }
        chain.active = true;
        chain.grown = now;
        self.active.push(key);
        self.tick_due.get_or_insert(now + limits::FILE_TICK);
        let Some(path) = chain.live.parent() else { return };
        let Some(dir) = self.dirs.get_mut(path) else { return };
        dir.active += 1;
        if std::mem::take(&mut dir.data_watched)
            && let Some(watch) = &self.watch
        {
            watch.remove(Interest::Data, path, false);
            self.idle_due.get_or_insert(now + limits::FILE_IDLE_TICK);
        }
    }

    /// Every 200 ms while there are active files: each is looked at; those that rest leave.
    fn tick(&mut self, now: Instant) {
        let mut resting = Vec::new();
        for key in self.active.clone() {
            let chain = self.chain(key);
            let idle = now.duration_since(chain.grown) >= limits::FILE_IDLE_AFTER;
            if idle && !chain.blocked && chain.may_rest() {
                resting.push(key);
            } else {
                self.queue(key);
            }
        }
        for key in resting {
            self.rest(key, now);
        }
        let chains = &self.chains;
        self.active.retain(|&key| chains[key].as_ref().is_some_and(|c| c.active));
        self.tick_due = (!self.active.is_empty()).then_some(now + limits::FILE_TICK);
        self.count_bytes_at_risk();
    }

    fn rest(&mut self, key: usize, now: Instant) {
        let Some(chain) = self.chains[key].as_mut() else { return };
        chain.active = false;
        chain.labels = None;
        let Some(path) = chain.live.parent().map(ToOwned::to_owned) else { return };
        if self.open_files > self.open_files_max / 4 * 3 {
            self.close(key);
        }
        let Some(dir) = self.dirs.get_mut(&path) else { return };
        dir.active -= 1;
        if dir.active == 0 && self.watch_data(&path) {
            // Once more: they may have grown before the watch was set.
            let keys = self.dirs.get(&path).map(|dir| dir.chains.clone());
            keys.unwrap_or_default().into_iter().for_each(|key| self.queue(key));
        }
        self.idle_due.get_or_insert(now + limits::FILE_IDLE_TICK);
    }

    /// Idle files that no data event covers, in turns.
    fn idle_tick(&mut self, now: Instant) {
        let uncovered = |chain: &Chain| {
            let dir = chain.live.parent().and_then(|dir| self.dirs.get(dir));
            !chain.active && (chain.linked || dir.is_none_or(|d| !d.data_watched))
        };
        if self.chains.is_empty() {
            self.idle_due = None;
            return;
        }
        let keys: Vec<usize> = (0..self.chains.len())
            .map(|n| (self.idle_cursor + n) % self.chains.len())
            .filter(|&key| self.chains[key].as_ref().is_some_and(uncovered))
            .take(limits::FILE_IDLE_LOOKS_PER_SECOND)
            .collect();
        self.idle_due = (!keys.is_empty()).then_some(now + limits::FILE_IDLE_TICK);
        self.idle_cursor = keys.last().map_or(0, |last| last + 1);
        for key in keys {
            self.queue(key);
        }
    }

    /// Bytes that only our open descriptors hold.
    fn count_bytes_at_risk(&mut self) {
        let chains = self.active.iter().filter_map(|&key| self.chains[key].as_ref());
        let unlinked = chains.flat_map(|c| &c.segments).filter(|s| s.unlinked);
        let bytes = unlinked.map(|s| s.size.saturating_sub(s.tail.place())).sum();
        if bytes != self.at_risk_bytes {
            self.cx.metrics.set_bytes_at_risk(&self.name, bytes);
            self.at_risk_bytes = bytes;
        }
    }

    /// Hands over what was read.
    fn drain(&mut self, beat: &Beat) {
        loop {
            self.cx.batcher.drain();
            let now = self.cx.clock.now();
            if self.cx.batcher.is_empty() || self.stop.overdue(now) {
                return;
            }
            beat.waits(Waits::Room);
            let due = self.stop.deadline().unwrap_or(now).min(now + PARKED_TICK);
            if let Err(RecvTimeoutError::Disconnected) = self.inbox.recv_deadline(due) {
                std::thread::park_timeout(due.saturating_duration_since(self.cx.clock.now()));
            }
            beat.busy();
        }
    }
}

#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
