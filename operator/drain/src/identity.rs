//! Which replica the hook stands beside, by what its sessions give away. Pure.

use std::time::Duration;

/// Heartbeats that have to agree before a replica counts as known: two may fall together once.
const AGREEING: usize = 2;

/// A heartbeat that is farther by so many seconds than the nearest is another's. From a transaction
/// to its statement the server takes a tenth of a millisecond, and three where it is busy. Replicas
/// that send their heartbeats in the same fiftieth of a second do so each time.
const CLEARLY: f64 = 0.005;

/// Longest that the sessions are watched closely without a heartbeat that is noted. A server, a
/// role or a pooler may show none at all, and that of another replica may always be as near.
const IN_VAIN: Duration = Duration::from_mins(1);

/// One heartbeat of the replica's own sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// The id that it carries.
    pub replica: String,
    /// When, as the database writes it.
    pub at: String,
}

/// A heartbeat that may be that of a statement which a session of the replica shows.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The heartbeat.
    pub heartbeat: Heartbeat,
    /// How long after it the statement began, in seconds.
    pub distance: f64,
}

/// The one that is clearly nearer to its statement than any of another replica.
pub fn nearest(found: &[Candidate]) -> Option<&Heartbeat> {
    let nearer = |a: &&Candidate, b: &&Candidate| a.distance.total_cmp(&b.distance);
    let first = found.iter().min_by(nearer)?;
    let may_be_another = |other: &Candidate| {
        other.heartbeat.replica != first.heartbeat.replica
            && other.distance - first.distance < CLEARLY
    };
    (!found.iter().any(may_be_another)).then_some(&first.heartbeat)
}

/// The heartbeats that were noted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heartbeats {
    noted: Vec<Heartbeat>,
    /// For how long the sessions have been watched closely since the last one.
    in_vain: Duration,
}

impl Heartbeats {
    /// One was seen. One of another replica than before makes everything uncertain.
    pub fn note(&mut self, heartbeat: Heartbeat) {
        self.in_vain = Duration::ZERO;
        let noted = &mut self.noted;
        if noted.iter().any(|known| known.replica != heartbeat.replica) {
            noted.clear();
        }
        if noted.len() < AGREEING && !noted.contains(&heartbeat) {
            noted.push(heartbeat);
        }
    }

    /// The sessions were watched closely for so long. What was seen is noted after this.
    pub fn watched(&mut self, time: Duration) {
        self.in_vain = self.in_vain.saturating_add(time);
    }

    /// Whether they are worth being watched closely for the next one.
    pub fn are_worth_watching(&self) -> bool {
        self.in_vain < IN_VAIN
    }

    /// The replica, once its heartbeats agree.
    pub fn replica(&self) -> Option<&str> {
        let first = self.noted.first()?;
        (self.noted.len() >= AGREEING).then_some(&first.replica)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_has_to_be_clearly_nearer_than_that_of_another_replica() {
        for (found, expected) in [
            (&[][..], None),
            (&[("a", 0.019)], Some("a")),
            (&[("b", 0.0124), ("a", 0.0003)], Some("a")),
            (&[("a", 0.0003), ("b", 0.0124), ("c", 0.0031)], None),
            (&[("a", 0.0), ("b", 0.0)], None),
            // Two sessions of the replica show one heartbeat.
            (&[("a", 0.0), ("a", 0.001)], Some("a")),
        ] {
            let candidate = |(replica, distance): &(&str, f64)| Candidate {
                heartbeat: Heartbeat {
                    replica: (*replica).to_owned(),
                    at: String::new(),
                },
                distance: *distance,
            };
            let candidates: Vec<_> = found.iter().map(candidate).collect();
            let nearest = nearest(&candidates);
            let replica = nearest.map(|heartbeat| &*heartbeat.replica);
            assert_eq!(replica, expected, "{found:?}");
        }
    }

    #[test]
    fn a_replica_is_known_by_two_heartbeats_that_agree() {
        let mut heartbeats = Heartbeats::default();
        let mut after = |replica: &str, at: &str| {
            let (replica, at) = (replica.to_owned(), at.to_owned());
            heartbeats.note(Heartbeat { replica, at });
            heartbeats.replica().map(str::to_owned)
        };
        assert_eq!(after("a", "0"), None);
        assert_eq!(after("a", "0"), None, "the same heartbeat, seen twice");
        assert_eq!(after("a", "10").as_deref(), Some("a"));
        assert_eq!(after("b", "12"), None, "one of the two is wrong");
        assert_eq!(after("b", "22").as_deref(), Some("b"));
    }

    #[test]
    fn sessions_that_show_no_heartbeat_are_watched_closely_for_a_minute() {
        let mut heartbeats = Heartbeats::default();
        for noted in [true, false] {
            for _ in 0..60 {
                assert!(heartbeats.are_worth_watching());
                heartbeats.watched(Duration::from_secs(1));
            }
            assert!(!heartbeats.are_worth_watching());
            if noted {
                heartbeats.note(Heartbeat {
                    replica: "a".to_owned(),
                    at: "0".to_owned(),
                });
            }
        }
    }
}
