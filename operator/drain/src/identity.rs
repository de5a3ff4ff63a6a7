//! Which replica the hook stands beside, by what its sessions give away. Pure.

/// Heartbeats that have to agree before a replica counts as known: two may fall together once.
const AGREEING: usize = 2;

/// One heartbeat of the replica's own sessions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Heartbeat {
    /// The id that it carries.
    pub replica: String,
    /// When, as the database writes it.
    pub at: String,
}

/// The heartbeats that were noted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Heartbeats(Vec<Heartbeat>);

impl Heartbeats {
    /// One was seen. One of another replica than before makes everything uncertain.
    pub fn note(&mut self, heartbeat: Heartbeat) {
        if self
            .0
            .iter()
            .any(|known| known.replica != heartbeat.replica)
        {
            self.0.clear();
        }
        if self.0.len() < AGREEING && !self.0.contains(&heartbeat) {
            self.0.push(heartbeat);
        }
    }

    /// The replica, once its heartbeats agree.
    pub fn replica(&self) -> Option<&str> {
        let first = self.0.first()?;
        (self.0.len() >= AGREEING).then_some(&first.replica)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
