//! Pauses between retries of one object: each failure doubles its own, a success forgets it. Pure:
//! randomness comes from the caller.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

/// First pause: long enough for a conflict or a restarting API server to pass.
pub const FIRST: Duration = Duration::from_secs(1);

/// Part of each pause that is random, so that objects which failed together do not return together.
const JITTER: f64 = 0.2;

/// Failures in a row, by object. An object without failures takes no memory.
#[derive(Clone, Debug)]
pub struct Backoff<K> {
    first: Duration,
    cap: Duration,
    failures: HashMap<K, u32>,
}

// === impl Backoff ===

impl<K: Eq + Hash> Backoff<K> {
    /// Pauses from `first`, doubling up to `cap`.
    pub fn new(first: Duration, cap: Duration) -> Self {
        Self {
            first,
            cap,
            failures: HashMap::new(),
        }
    }

    /// Counts a failure and returns the pause before the next attempt. `random` is in 0..1; the
    /// pause is shortened by it, so that the cap holds.
    pub fn failed(&mut self, key: K, random: f64) -> Duration {
        let failures = self.failures.entry(key).or_insert(0);
        // 2^20 seconds are beyond any cap, and far from an overflow.
        let pause = self
            .first
            .saturating_mul(1 << (*failures).min(20))
            .min(self.cap);
        *failures = failures.saturating_add(1);
        pause.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0))
    }

    /// Forgets the failures of an object that succeeded.
    pub fn succeeded(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// Whether no object has failed last.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.failures.is_empty()
    }

    /// Forgets an object that is gone.
    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: Duration = Duration::from_mins(5);

    #[test]
    fn pauses_double_up_to_the_cap() {
        let mut backoff = Backoff::new(FIRST, CAP);
        let seconds: Vec<u64> = (0..11)
            .map(|_| backoff.failed("a", 0.0).as_secs())
            .collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    }

    #[test]
    fn a_success_starts_over_and_objects_do_not_share() {
        let mut backoff = Backoff::new(FIRST, CAP);
        for _ in 0..5 {
            backoff.failed("a", 0.0);
        }
        assert_eq!(backoff.failed("b", 0.0), FIRST);
        backoff.succeeded(&"a");
        assert_eq!(backoff.failed("a", 0.0), FIRST);
        backoff.forget(&"a");
        backoff.forget(&"b");
        assert!(backoff.failures.is_empty());
    }

    #[test]
    fn jitter_shortens_within_its_bound() {
        let mut backoff = Backoff::new(FIRST, CAP);
        assert_eq!(backoff.failed("a", 1.0), Duration::from_millis(800));
        assert_eq!(backoff.failed("b", 0.5), Duration::from_millis(900));
    }

    #[test]
    fn it_never_overflows() {
        let mut backoff = Backoff::new(Duration::MAX, Duration::MAX);
        for _ in 0..100 {
            backoff.failed("a", 1.0);
        }
    }
}
