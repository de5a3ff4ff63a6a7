//! The first pass over all clusters after a start.

use crate::observe::database::probe::Probes;
use crate::process::queue::Key;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;

/// Holds the databases back until every cluster has been reconciled once: a login costs far more
/// than a reconcile, and what was edited while no process led must not wait for a thousand of them.
pub struct FirstPass {
    probes: Arc<Probes<Key>>,
    /// Clusters that have not been reconciled since the start.
    waiting: Mutex<HashSet<Key>>,
}

impl FirstPass {
    /// One that has not begun.
    pub fn new(probes: Arc<Probes<Key>>) -> Self {
        Self {
            probes,
            waiting: Mutex::default(),
        }
    }

    /// Begins it over these clusters.
    pub fn begin(&self, clusters: HashSet<Key>) {
        if clusters.is_empty() {
            return;
        }
        self.probes.hold();
        *self.waiting.lock() = clusters;
    }

    /// Notes that a cluster has been reconciled, or has gone.
    pub fn passed(&self, key: &Key) {
        let mut waiting = self.waiting.lock();
        if waiting.remove(key) && waiting.is_empty() {
            self.probes.admit();
        }
    }

    /// Ends it, whichever clusters have not been reconciled.
    pub fn end(&self) {
        let mut waiting = self.waiting.lock();
        if !waiting.is_empty() {
            waiting.clear();
            self.probes.admit();
        }
    }
}
