//! How long to wait before the same bytes are sent again: exponential, with full jitter.
//!
//! Pure: the caller keeps the time. Full jitter (a uniform draw from zero to the step)
//! spreads senders that failed together.

use std::time::Duration;

/// Steps after which the bound is reached in any case; keeps the shift in range.
const STEPS_MAX: u32 = 20;

/// See the module's head.
#[derive(Clone, Debug)]
pub struct Backoff {
    initial: Duration,
    max: Duration,
    failures: u32,
    state: u64,
}

impl Backoff {
    /// `seed`: any number; senders take different ones.
    pub fn new(initial: Duration, max: Duration, seed: u64) -> Self {
        // xorshift stands still at zero.
        Self { initial, max: max.max(initial), failures: 0, state: seed | 1 }
    }

    /// Failures in a row so far.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a failure; how long to wait now.
    pub fn fail(&mut self) -> Duration {
        let step = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        // Half a step at least after the first failure would lose the spread; a floor of a
        // tenth keeps a peer that refuses at once from being asked without pause.
        let floor = self.initial.min(step) / 10;
        let spread = step.saturating_sub(floor).as_nanos() as u64;
        floor + Duration::from_nanos(if spread == 0 { 0 } else { self.next() % spread })
    }

    /// The longest wait that the next failure may bring.
    pub fn ceiling(&self) -> Duration {
        let factor = 1u32 << self.failures.min(STEPS_MAX);
        self.initial.saturating_mul(factor).min(self.max)
    }

    /// Something was accepted: begin anew.
    pub fn reset(&mut self) {
        self.failures = 0;
    }

    fn next(&mut self) -> u64 {
        // xorshift64 (Marsaglia), multiplied so that low bits are good as well.
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_bound_and_spread_below_it() {
        let (initial, max) = (Duration::from_millis(500), Duration::from_secs(60));
        let mut backoff = Backoff::new(initial, max, 7);
        let mut ceilings = Vec::new();
        for _ in 0..10 {
            let ceiling = backoff.ceiling();
            let wait = backoff.fail();
            assert!(wait <= ceiling && wait >= initial / 10, "{wait:?} of {ceiling:?}");
            ceilings.push(ceiling.as_millis());
        }
        assert_eq!(ceilings[..4], [500, 1000, 2000, 4000]);
        assert_eq!(ceilings[9], 60_000);
        backoff.reset();
        assert_eq!(backoff.ceiling(), initial);
    }

    #[test]
    fn two_senders_do_not_wait_alike() {
        let draw = |seed| {
            let mut b = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), seed);
            (0..8).map(|_| b.fail()).collect::<Vec<_>>()
        };
        assert_ne!(draw(1), draw(2 << 20));
    }
}
