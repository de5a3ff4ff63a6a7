//! What came of a plan.

use super::ApplyFailure;
use super::event::Notice;
use crate::api::status::OverruledObject;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use tokio::time::Instant;

/// No requeue comes sooner, so that a clock that stands still makes no loop of it.
const SHORTEST_REQUEUE: Duration = Duration::from_millis(100);

/// What came of a plan.
#[derive(Debug)]
pub struct Outcome {
    /// Writes of whatever kind.
    pub writes: usize,
    /// Writes of objects that the cluster owns.
    pub applied: usize,
    /// Writes that did not come off.
    pub failures: Vec<ApplyFailure>,
    /// What pods are made from that does not stand yet, by kind and name, where an eviction was
    /// left out for it.
    pub withheld_for: Vec<String>,
    /// Objects that a webhook keeps otherwise than they were written.
    pub overruled: Vec<OverruledObject>,
    /// What is to be published.
    pub notices: Vec<Notice>,
    /// The moment of the observation, from which requeues count.
    now: Timestamp,
    /// The moment of the observation, by a clock that only goes forward.
    begun: Instant,
    /// When the cluster is to be reconciled again although nothing happens: the moment that the
    /// plan named, or an earlier one that a write asks for.
    requeue_at: Option<Timestamp>,
}

impl Outcome {
    /// Nothing has been written yet. `requeue_at`: when the plan wants the next reconcile.
    pub fn new(now: Timestamp, requeue_at: Option<Timestamp>) -> Self {
        Self {
            writes: 0,
            applied: 0,
            failures: Vec::new(),
            withheld_for: Vec::new(),
            overruled: Vec::new(),
            notices: Vec::new(),
            now,
            begun: Instant::now(),
            requeue_at,
        }
    }

    /// What time it is, by the clock of the observation: writes may have taken most of a minute.
    pub fn present(&self) -> Timestamp {
        let took = SignedDuration::try_from(self.begun.elapsed());
        let present = took.ok().and_then(|took| self.now.checked_add(took).ok());
        present.unwrap_or(self.now)
    }

    /// Brings the next reconcile forward, so that it begins this long after the observation.
    pub fn requeue_after(&mut self, pause: Duration) {
        let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
        let moment = self.now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        let requeue_at = self.requeue_at.map_or(moment, |at| at.min(moment));
        self.requeue_at = Some(requeue_at);
    }

    /// The pause before the next reconcile; `None` where only an event is waited for.
    pub fn requeue(&self) -> Option<Duration> {
        self.requeue_at.map(|at| pause_until(at, self.now))
    }
}

/// The pause until a moment.
pub(super) fn pause_until(moment: Timestamp, now: Timestamp) -> Duration {
    let pause = moment.duration_since(now).max(SignedDuration::ZERO);
    pause.unsigned_abs().max(SHORTEST_REQUEUE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{after, now};

    #[test]
    fn a_requeue_is_only_ever_brought_forward() {
        let mut outcome = Outcome::new(now(), None);
        assert_eq!(outcome.requeue(), None);
        let seconds = Duration::from_secs;
        for (pause, expected) in [(5, 5), (3, 3), (4, 3)] {
            outcome.requeue_after(seconds(pause));
            assert_eq!(outcome.requeue(), Some(seconds(expected)));
        }
        let mut planned = Outcome::new(now(), Some(after(SignedDuration::from_secs(2))));
        planned.requeue_after(seconds(3));
        assert_eq!(planned.requeue(), Some(seconds(2)));
    }

    #[test]
    fn a_moment_that_has_passed_makes_no_loop() {
        let passed = after(SignedDuration::from_secs(-1));
        let outcome = Outcome::new(now(), Some(passed));
        assert_eq!(outcome.requeue(), Some(SHORTEST_REQUEUE));
    }
}
