//! How a sink fares: what its senders share, its entry on the health board, its lines in our
//! log (one per change of state, one ERROR a minute while a person is needed).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use crate::health::{HealthBoard, Level};
use crate::limits;
use crate::metrics::Metrics;

/// Failures in a row of one shard from which on delivery counts as standing still.
const FAILURES_UNHEALTHY: u32 = 5;

#[derive(Clone)]
struct ShardCondition {
    level: Level,
    reason: String,
}

struct Board {
    shards: Vec<ShardCondition>,
    /// The level that was last logged.
    logged: Level,
    error_logged: Option<Instant>,
    /// Lines diverted since that was last logged.
    diverted: u64,
    diverted_logged: Option<Instant>,
}

/// Shared by the senders of one sink.
pub struct SinkState {
    pub name: String,
    pub metrics: Arc<Metrics>,
    pub health: Arc<HealthBoard>,
    /// Largest uncompressed request that the server takes, as far as learned.
    bytes_max: AtomicUsize,
    board: Mutex<Board>,
}

impl SinkState {
    pub fn new(
        name: &str,
        shards: usize,
        metrics: Arc<Metrics>,
        health: Arc<HealthBoard>,
    ) -> Arc<Self> {
        let well = ShardCondition { level: Level::Healthy, reason: String::new() };
        let board = Board {
            shards: vec![well; shards],
            logged: Level::Healthy,
            error_logged: None,
            diverted: 0,
            diverted_logged: None,
        };
        Arc::new(Self {
            name: name.to_owned(),
            metrics,
            health,
            bytes_max: AtomicUsize::new(limits::LOKI_REQUEST_BYTES_MAX),
            board: Mutex::new(board),
        })
    }

    pub fn bytes_max(&self) -> usize {
        self.bytes_max.load(Ordering::Relaxed)
    }

    /// Notes that the server takes no more than `bytes` in a request.
    pub fn learn_bytes_max(&self, bytes: usize) {
        if self.bytes_max.fetch_min(bytes, Ordering::Relaxed) > bytes {
            log::info!("sink {}: requests of at most {bytes} bytes from now on", self.name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// The shard's last attempt was accepted.
    pub fn well(&self, shard: usize) {
        let mut board = self.lock();
        if board.shards[shard].level == Level::Healthy {
            return;
        }
        board.shards[shard] = ShardCondition { level: Level::Healthy, reason: String::new() };
        if self.show(&mut board) == Some(Level::Healthy) {
            log::info!("sink {}: delivering again", self.name);
        }
    }

    /// The shard's last attempt failed and will be made again by itself.
    pub fn failing(&self, shard: usize, failures: u32, why: &str) {
        let stands = failures >= FAILURES_UNHEALTHY;
        let level = if stands { Level::Unhealthy } else { Level::Degraded };
        let mut board = self.lock();
        board.shards[shard] = ShardCondition { level, reason: why.to_owned() };
        match self.show(&mut board) {
            Some(Level::Degraded) => log::warn!("sink {}: {why}; retrying", self.name),
            Some(Level::Unhealthy) => log::warn!(
                "sink {}: {why}; {failures} failures in a row, readers are held back when the \
                 queue is full, retrying",
                self.name
            ),
            _ => {}
        }
    }

    /// The server slows the shard down.
    pub fn limited(&self, shard: usize, why: &str) {
        let mut board = self.lock();
        board.shards[shard] = ShardCondition { level: Level::Degraded, reason: why.to_owned() };
        if self.show(&mut board) == Some(Level::Degraded) {
            log::warn!("sink {}: {why}; going slower", self.name);
        }
    }

    /// The shard holds a batch until a person has done something.
    pub fn holding(&self, shard: usize, why: &str, cure: &str, now: Instant) {
        let mut board = self.lock();
        let reason = format!("{why} ({cure})");
        board.shards[shard] = ShardCondition { level: Level::Unhealthy, reason };
        self.show(&mut board);
        let last = board.error_logged;
        if last.is_none_or(|at| now.saturating_duration_since(at) >= limits::PROBE_INTERVAL) {
            board.error_logged = Some(now);
            log::error!("sink {}: {why}; {cure}; nothing is dropped, trying again", self.name);
        }
    }

    /// Lines went to dead letters: a line in our log each minute at most.
    pub fn diverted(&self, cause: &str, lines: u64, now: Instant) {
        let mut board = self.lock();
        board.diverted += lines;
        let last = board.diverted_logged;
        if last.is_none_or(|at| now.saturating_duration_since(at) >= limits::PROBE_INTERVAL) {
            let lines = std::mem::take(&mut board.diverted);
            board.diverted_logged = Some(now);
            log::warn!("sink {}: {lines} lines to dead letters, last for {cause}", self.name);
        }
    }

    /// Puts the worst shard on the health board; the level, if it is not the one last logged.
    fn show(&self, board: &mut Board) -> Option<Level> {
        let worst = board.shards.iter().max_by_key(|s| s.level)?;
        let level = worst.level;
        self.health.set("sink", &self.name, level, &worst.reason);
        let changed = level != board.logged;
        board.logged = level;
        changed.then_some(level)
    }
}
