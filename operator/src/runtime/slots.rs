//! Slots of the reconciles, of which clusters that are known to be slow hold no more than half. A
//! cluster is known to be after its first slow reconcile, which may take any slot.

use crate::process::queue::Key;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Reconciles at a time. They wait for the API server most of the time.
pub const CONCURRENCY: u16 = 8;
/// A reconcile that took longer waited for more than the API server itself, such as a webhook that
/// does not answer, and the next one will do the same.
const SLOW: Duration = Duration::from_secs(5);
/// One that finds no slot comes again after so long, and keeps its place among those that wait.
pub const NEXT_TURN: Duration = Duration::from_secs(5);

/// Which clusters are slow. Many of them may stand behind one webhook, and the others must not wait
/// for them.
pub struct Slots {
    clusters: Mutex<Clusters>,
    turns: Semaphore,
}

#[derive(Default)]
struct Clusters {
    slow: HashSet<Key>,
    /// Those of them that found no slot, the one that has waited longest first.
    waiting: VecDeque<Key>,
}

/// A slot, until it is dropped.
pub struct Slot<'a>(#[expect(dead_code, reason = "held")] Option<SemaphorePermit<'a>>);

impl Default for Slots {
    fn default() -> Self {
        Self {
            clusters: Mutex::default(),
            turns: Semaphore::new(usize::from(CONCURRENCY / 2)),
        }
    }
}

impl Slots {
    /// A slot for a reconcile; `None`: it is slow, and others like it hold all that they may, or
    /// have waited longer for one that is free.
    pub fn take(&self, key: &Key) -> Option<Slot<'_>> {
        let mut clusters = self.clusters.lock();
        let Clusters { slow, waiting } = &mut *clusters;
        if !slow.contains(key) {
            return Some(Slot(None));
        }
        let place = waiting.iter().position(|waiting| waiting == key);
        let place = place.unwrap_or_else(|| {
            waiting.push_back(key.clone());
            waiting.len() - 1
        });
        if place >= self.turns.available_permits() {
            return None;
        }
        let turn = self.turns.try_acquire().ok()?;
        waiting.remove(place);
        Some(Slot(Some(turn)))
    }

    /// Notes how long the reconcile took.
    pub fn took(&self, key: &Key, time: Duration) {
        if time > SLOW {
            self.clusters.lock().slow.insert(key.clone());
        } else {
            self.forget(key);
        }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, key: &Key) {
        let mut clusters = self.clusters.lock();
        clusters.slow.remove(key);
        clusters.waiting.retain(|waiting| waiting != key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::reflector::ObjectRef;

    #[test]
    fn slow_clusters_leave_half_of_the_slots_to_the_others() {
        let slots = Slots::default();
        let key = |name: &str| ObjectRef::new(name).within("apps");
        let held: Vec<_> = (0..CONCURRENCY)
            .filter_map(|number| {
                let key = key(&number.to_string());
                assert!(slots.take(&key).is_some(), "it is not known to be slow");
                slots.took(&key, SLOW + Duration::from_millis(1));
                slots.take(&key)
            })
            .collect();
        assert_eq!(held.len(), usize::from(CONCURRENCY / 2));
        assert!(slots.take(&key("quick")).is_some());
        assert!(slots.take(&key("7")).is_none());
        slots.took(&key("7"), SLOW);
        assert!(slots.take(&key("7")).is_some(), "it is quick again");
        drop(held);
        assert!(slots.take(&key("6")).is_some());
        slots.forget(&key("6"));
        assert!(!slots.clusters.lock().slow.contains(&key("6")));
    }

    #[test]
    fn the_slow_cluster_that_has_waited_longest_has_the_next_slot() {
        let slots = Slots::default();
        let key = |number: u16| ObjectRef::new(&number.to_string()).within("apps");
        let share = CONCURRENCY / 2;
        for number in 0..share + 3 {
            slots.took(&key(number), SLOW + Duration::from_millis(1));
        }
        let mut held: Vec<_> = (0..share).map(|number| slots.take(&key(number))).collect();
        assert!(held.iter().all(Option::is_some));
        for number in share..share + 3 {
            assert!(slots.take(&key(number)).is_none(), "{number}");
        }
        held.pop();
        assert!(slots.take(&key(share + 1)).is_none(), "it came later");
        held.push(slots.take(&key(share)));
        assert!(held.iter().all(Option::is_some));
        // One that is gone keeps no place.
        slots.forget(&key(share + 1));
        held.pop();
        assert!(slots.take(&key(0)).is_none());
        assert!(slots.take(&key(share + 2)).is_some());
    }
}
