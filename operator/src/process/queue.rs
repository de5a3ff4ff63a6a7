//! The clusters that wait to be reconciled.

use crate::api::BytebaseCluster;
use futures::Stream;
use kube::runtime::reflector::{Lookup, ObjectRef};
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

/// Namespace and name of a cluster.
pub type Key = ObjectRef<BytebaseCluster>;

/// `namespace/name`, as logs and messages name a cluster.
pub fn name<K: Lookup>(key: &ObjectRef<K>) -> String {
    format!(
        "{}/{}",
        key.namespace.as_deref().unwrap_or_default(),
        key.name
    )
}

/// Where clusters to reconcile go.
#[derive(Clone)]
pub struct Queue(UnboundedSender<Key>);

impl Queue {
    /// A queue into which clusters go by this sender.
    pub fn new(sender: UnboundedSender<Key>) -> Self {
        Self(sender)
    }

    /// Has a cluster reconciled.
    pub fn enqueue(&self, key: Key) {
        // The receiver is gone at shutdown.
        let _ = self.0.send(key);
    }

    /// Has several clusters reconciled.
    pub fn enqueue_all(&self, keys: impl IntoIterator<Item = Key>) {
        for key in keys {
            self.enqueue(key);
        }
    }
}

/// Each cluster once, however often it was put in: a standby takes none out for weeks.
#[derive(Default)]
struct Waiting {
    keys: Mutex<HashSet<Key>>,
    arrived: Notify,
}

/// Gathers what comes in, from now on, and hands it out when it is asked for it.
pub fn gather(mut incoming: UnboundedReceiver<Key>) -> impl Stream<Item = Key> + Send {
    let waiting = Arc::new(Waiting::default());
    let filled = Arc::clone(&waiting);
    tokio::spawn(async move {
        while let Some(key) = incoming.recv().await {
            filled.keys.lock().insert(key);
            filled.arrived.notify_one();
        }
    });
    futures::stream::unfold(
        (waiting, Vec::<Key>::new()),
        |(waiting, mut taken)| async move {
            loop {
                if let Some(key) = taken.pop() {
                    return Some((key, (waiting, taken)));
                }
                taken.extend(std::mem::take(&mut *waiting.keys.lock()));
                if taken.is_empty() {
                    waiting.arrived.notified().await;
                }
            }
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use tokio::sync::mpsc::unbounded_channel;

    fn key(name: &str) -> Key {
        ObjectRef::new(name).within("team")
    }

    #[tokio::test]
    async fn a_cluster_waits_once_however_often_it_comes_in() {
        let (queue, incoming) = unbounded_channel();
        let mut gathered = Box::pin(gather(incoming));
        for _ in 0..50 {
            queue.send(key("a")).unwrap();
        }
        queue.send(key("b")).unwrap();
        // The one thread of this test runs the gathering task until it has nothing more to take.
        tokio::task::yield_now().await;
        let mut found = [gathered.next().await, gathered.next().await].map(Option::unwrap);
        found.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(found, [key("a"), key("b")]);
        let more = futures::poll!(gathered.next());
        assert!(more.is_pending());
        // What comes in later is handed out as well.
        queue.send(key("a")).unwrap();
        assert_eq!(gathered.next().await, Some(key("a")));
    }
}
