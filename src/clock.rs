//! Wall and monotonic time behind one small trait, and a fake one for tests.
//!
//! Only thread bodies and admin code hold a clock; the pure parts (`tail`,
//! `batch`, `verdict`, `ack`) are handed the time.

use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The two clocks of the host.
pub trait Clock: Send + Sync {
    /// Monotonic time: for every wait and every deadline.
    fn now(&self) -> Instant;
    /// Nanoseconds since 1970 UTC: for the times of records only.
    fn wall_ns(&self) -> i64;
}

/// The host's clocks.
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wall_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}

/// A clock that stands still until a test moves it.
pub struct FakeClock {
    start: Instant,
    state: Mutex<(Duration, i64)>,
}

impl FakeClock {
    /// A clock whose wall time is `wall_ns`.
    pub fn at(wall_ns: i64) -> Self {
        Self { start: Instant::now(), state: Mutex::new((Duration::ZERO, wall_ns)) }
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap_or_else(|e| e.into_inner());
        state.0 += by;
        state.1 += i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Instant {
        self.start + self.state.lock().unwrap_or_else(|e| e.into_inner()).0
    }

    fn wall_ns(&self) -> i64 {
        self.state.lock().unwrap_or_else(|e| e.into_inner()).1
    }
}
