//! What is done to the clusters, noted down for the observer.

use super::plan::Model;
use jiff::{SignedDuration, Timestamp};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A replica sends a heartbeat this often.
const HEARTBEAT: SignedDuration = SignedDuration::from_secs(10);
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
    /// Ids of replicas whose process we killed: they lose what they run.
    pub killed: BTreeSet<String>,
    /// When any replica of a cluster might lose tasks: from when until when.
    pub losses: BTreeMap<usize, Vec<(Timestamp, Option<Timestamp>)>>,
    /// Uids of pods that we deleted.
    pub deleted: BTreeSet<String>,
}

impl Disturbances {
    /// Whether it is no wonder that nothing is seen of this cluster.
    pub fn hides(&self, cluster: usize) -> bool {
        self.struck || self.disturbed.contains(&cluster) || self.refused.contains(&cluster)
    }

    /// Whether a replica of this cluster whose last heartbeat was then may have lost its tasks to
    /// us.
    pub fn explains(&self, cluster: usize, replica: &str, last_heartbeat: Timestamp) -> bool {
        if self.killed.contains(replica) {
            return true;
        }
        // It was alive for up to ten seconds after that.
        let ended = last_heartbeat + HEARTBEAT;
        let windows = self.losses.get(&cluster);
        windows.into_iter().flatten().any(|(from, until)| {
            ended >= *from && until.is_none_or(|until| last_heartbeat <= until + LINGERS)
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
