//! Slots of the reconciles, of which clusters that are known to be slow hold no more than half. A
//! cluster is known to be after its first slow reconcile, which may take any slot.

use crate::process::queue::Key;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Reconciles at a time. They wait for the API server most of the time.
pub const CONCURRENCY: u16 = 8;
/// A reconcile that took longer waited for more than the API server itself, such as a webhook that
/// does not answer, and the next one will do the same.
const SLOW: Duration = Duration::from_secs(5);
/// One that finds no slot comes again after so long.
pub const NEXT_TURN: Duration = Duration::from_secs(5);

/// Which clusters are slow. Many of them may stand behind one webhook, and the others must not wait
/// for them.
pub struct Slots {
    slow: Mutex<HashSet<Key>>,
    turns: Semaphore,
}

/// A slot, until it is dropped.
pub struct Slot<'a>(#[expect(dead_code, reason = "held")] Option<SemaphorePermit<'a>>);

impl Default for Slots {
    fn default() -> Self {
        Self {
            slow: Mutex::default(),
            turns: Semaphore::new(usize::from(CONCURRENCY / 2)),
        }
    }
}

impl Slots {
    /// A slot for a reconcile; `None`: it is slow, and others like it hold all that they may.
    pub fn take(&self, key: &Key) -> Option<Slot<'_>> {
        if !self.slow.lock().contains(key) {
            return Some(Slot(None));
        }
        let turn = self.turns.try_acquire().ok()?;
        Some(Slot(Some(turn)))
    }

    /// Notes how long the reconcile took.
    pub fn took(&self, key: &Key, time: Duration) {
        let mut slow = self.slow.lock();
        if time > SLOW {
            slow.insert(key.clone());
        } else {
            slow.remove(key);
        }
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, key: &Key) {
        self.slow.lock().remove(key);
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
        assert!(!slots.slow.lock().contains(&key("6")));
    }
}
