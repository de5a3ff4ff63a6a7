//! The wall clock beside the one that only goes forward.

use super::context::Context;
use crate::observe::Clock;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the two are compared.
const EVERY: Duration = Duration::from_secs(10);
/// A requeue that comes later by less than this does no harm.
const UNNOTICED: SignedDuration = SignedDuration::from_secs(5);

/// What both clocks say at one moment.
#[derive(Clone, Copy)]
struct Moment {
    wall: Timestamp,
    steady: Instant,
}

impl Moment {
    fn now(wall: &Clock) -> Self {
        Self {
            wall: wall(),
            steady: Instant::now(),
        }
    }

    /// By how much the wall clock has gone on for longer (or, below zero, shorter) than time has
    /// passed since a moment before. `None`: not by so much that it matters.
    fn jumped_since(self, before: Self) -> Option<SignedDuration> {
        let passed = self.steady.saturating_duration_since(before.steady);
        let passed = SignedDuration::try_from(passed).ok()?;
        let by = self.wall.duration_since(before.wall).saturating_sub(passed);
        (by.abs() > UNNOTICED).then_some(by)
    }
}

/// Has every cluster reconciled when the wall clock was set, or the machine has slept. Deadlines
/// are moments of the wall clock, and the pause until the next of them was measured by the other
/// one: it would end as much too late as the wall clock went ahead.
pub async fn compare(context: Arc<Context>) {
    let clock = &context.sources.clock;
    let mut before = Moment::now(clock);
    loop {
        tokio::time::sleep(EVERY).await;
        let now = Moment::now(clock);
        if let Some(by) = now.jumped_since(before) {
            let seconds = by.as_secs();
            if by.is_negative() {
                tracing::warn!(
                    seconds,
                    "the clock of this machine was set back; every cluster is reconciled"
                );
            } else {
                tracing::warn!(
                    seconds,
                    "the clock of this machine was set forward, or the machine slept; every cluster is reconciled"
                );
            }
            context.enqueue_all();
        }
        before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{after, now};

    #[test]
    fn a_wall_clock_jumps_where_it_goes_on_for_longer_or_shorter_than_time_passes() {
        let steady = Instant::now();
        let before = Moment {
            wall: now(),
            steady,
        };
        for (wall, passed, expected) in [
            (10_000, 10_000, None),
            // The process was held up, and both clocks went on.
            (600_000, 600_000, None),
            (15_000, 10_000, None),
            (5000, 10_000, None),
            (15_001, 10_000, Some(5001)),
            (4999, 10_000, Some(-5001)),
            (3_610_000, 10_000, Some(3_600_000)),
            (-3_590_000, 10_000, Some(-3_600_000)),
        ] {
            let then = Moment {
                wall: after(SignedDuration::from_millis(wall)),
                steady: steady + Duration::from_millis(passed),
            };
            let expected = expected.map(SignedDuration::from_millis);
            assert_eq!(then.jumped_since(before), expected, "{wall} {passed}");
        }
    }
}
