//! What is done to the clusters, noted down for the observer.

use super::plan::Model;
use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A cluster may look settled before what was done to it shows.
const LINGERS: SignedDuration = SignedDuration::from_secs(30);

/// What the observer must know of what we do.
#[derive(Debug, Clone, Default)]
pub struct Disturbances {
    pub models: Vec<Model>,
    /// Clusters whose pods may be down by our own doing, until they have settled again.
    pub disturbed: BTreeSet<usize>,
    /// A disaster may keep the operator from acting, or the observer from seeing anything.
    pub struck: bool,
    /// Clusters whose database is refused or in use by another Bytebase, and which have no replica:
    /// none may start.
    pub refused: BTreeSet<usize>,
    /// Ids of replicas that may lose what they run: we killed the process, or took its database or
    /// its login away.
    pub losing: BTreeSet<String>,
    /// When the whole server was away, and with it the users' databases: from when until when.
    pub outages: Vec<(Timestamp, Option<Timestamp>)>,
    /// Uids of pods that we deleted.
    pub deleted: BTreeSet<String>,
}

impl Disturbances {
    /// Whether it is no wonder that nothing is seen of this cluster.
    pub fn hides(&self, cluster: usize) -> bool {
        self.struck || self.disturbed.contains(&cluster) || self.refused.contains(&cluster)
    }

    /// Whether the users' databases were away when a replica reported that it could not go on with
    /// one. It does so once it has its own database back.
    pub fn took_targets(&self, reported: Timestamp) -> bool {
        self.outages.iter().any(|(from, until)| {
            reported >= *from && until.is_none_or(|until| reported <= until + LINGERS)
        })
    }
}

/// Shared between those who disturb the clusters and the observer.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Disturbances>>);

impl Shared {
    /// What is noted now; to be changed in place.
    pub fn lock(&self) -> MutexGuard<'_, Disturbances> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_outage_excuses_what_failed_at_a_users_database() {
        let at = |second| Timestamp::from_second(second).expect("a time");
        let mut disturbances = Disturbances::default();
        assert!(!disturbances.took_targets(at(100)));
        disturbances.outages.push((at(100), None));
        for (second, excused) in [(99, false), (100, true), (900, true)] {
            assert_eq!(disturbances.took_targets(at(second)), excused, "{second}");
        }
        disturbances.outages = vec![(at(100), Some(at(200)))];
        for (second, excused) in [(230, true), (231, false)] {
            assert_eq!(disturbances.took_targets(at(second)), excused, "{second}");
        }
    }
}
