//! The health board: what each component says of itself, read by `admin`.
//!
//! A component that says nothing is healthy. One line per change goes to our own log, from
//! whoever reports it.

use std::collections::BTreeMap;
use std::sync::Mutex;

/// How a component fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Healthy,
    /// Something is wrong and nothing is lost yet.
    Degraded,
    /// Data is at risk or delivery stands still: `/health` answers 503.
    Unhealthy,
}

/// A component's state with the reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    pub level: Level,
    pub reason: String,
}

/// The key is type and name: `("sink", "loki")`, `("source", "system")`, `("thread", "ack")`.
#[derive(Default)]
pub struct HealthBoard {
    conditions: Mutex<BTreeMap<(String, String), Condition>>,
}

impl HealthBoard {
    /// Sets a component's condition; true when it changed.
    pub fn set(&self, kind: &str, name: &str, level: Level, reason: &str) -> bool {
        let condition = Condition { level, reason: reason.to_owned() };
        let mut board = self.conditions.lock().unwrap_or_else(|e| e.into_inner());
        let before = board.insert((kind.to_owned(), name.to_owned()), condition.clone());
        before.as_ref() != Some(&condition)
    }

    /// Shorthand for a component that is well.
    pub fn ok(&self, kind: &str, name: &str) -> bool {
        self.set(kind, name, Level::Healthy, "")
    }

    /// Takes a component off the board, back to saying nothing; true when it was there.
    pub fn clear(&self, kind: &str, name: &str) -> bool {
        let mut board = self.conditions.lock().unwrap_or_else(|e| e.into_inner());
        board.remove(&(kind.to_owned(), name.to_owned())).is_some()
    }

    /// All that is reported, sorted.
    pub fn all(&self) -> BTreeMap<(String, String), Condition> {
        self.conditions.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The worst level on the board.
    pub fn worst(&self) -> Level {
        let board = self.conditions.lock().unwrap_or_else(|e| e.into_inner());
        board.values().map(|c| c.level).max().unwrap_or(Level::Healthy)
    }
}
