//! How old a heartbeat may be, by Bytebase's own rules.

use crate::contract::replica::{ACTIVE_WINDOW, DEAD_AFTER, HEARTBEAT_INTERVAL};
use std::time::Duration;

/// A server that has taken writes for so long has shown each active replica: an outage ages the
/// heartbeats of replicas that outlive it, and each sends the next one within its interval.
pub const ALL_HEARD_AFTER: Duration =
    Duration::from_secs(ACTIVE_WINDOW.as_secs() + HEARTBEAT_INTERVAL.as_secs() + 5);

/// How old a heartbeat is, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Freshness {
    /// Within [`ACTIVE_WINDOW`]: active.
    Fresh,
    /// Not active any more, and the owner of its tasks still.
    Stale,
    /// Beyond [`DEAD_AFTER`].
    Gone,
}

impl Freshness {
    /// Of a heartbeat of this age.
    pub fn of(age: Duration) -> Self {
        if age <= ACTIVE_WINDOW {
            Self::Fresh
        } else if age <= DEAD_AFTER {
            Self::Stale
        } else {
            Self::Gone
        }
    }

    /// Time until a heartbeat of this age changes, unless the next one comes.
    pub fn lasts(age: Duration) -> Option<Duration> {
        match Self::of(age) {
            Self::Fresh => Some(ACTIVE_WINDOW.saturating_sub(age)),
            Self::Stale => Some(DEAD_AFTER.saturating_sub(age)),
            Self::Gone => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freshness_says_how_long_it_lasts() {
        let seconds = Duration::from_secs;
        assert_eq!(Freshness::lasts(seconds(4)), Some(seconds(26)));
        assert_eq!(Freshness::lasts(seconds(31)), Some(seconds(29)));
        assert_eq!(Freshness::lasts(seconds(61)), None);
    }
}
