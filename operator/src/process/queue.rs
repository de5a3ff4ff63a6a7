//! The clusters that wait to be reconciled.

use crate::api::BytebaseCluster;
use futures::Stream;
use futures::future::BoxFuture;
use kube::runtime::reflector::{Lookup, ObjectRef};
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

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

/// Events of one cluster within so long make one reconcile. It counts from the first of them:
/// others that keep coming hold none back.
const GATHERED_FOR: Duration = Duration::from_millis(250);

/// Each cluster once, however often it was put in: a standby takes none out for weeks.
#[derive(Default)]
struct Waiting {
    line: Mutex<Line>,
    arrived: Notify,
}

/// What waits, by when it was put in first.
#[derive(Default)]
struct Line {
    order: VecDeque<(Instant, Key)>,
    keys: HashSet<Key>,
}

impl Line {
    fn put(&mut self, key: Key) {
        if self.keys.insert(key.clone()) {
            self.order.push_back((Instant::now() + GATHERED_FOR, key));
        }
    }

    /// The next one that is due, or when it will be. `None`: nothing waits.
    fn take(&mut self) -> Option<Result<Key, Instant>> {
        let (due, _) = self.order.front()?;
        if *due > Instant::now() {
            return Some(Err(*due));
        }
        let (_, key) = self.order.pop_front()?;
        self.keys.remove(&key);
        Some(Ok(key))
    }
}

/// Gathers what comes in, by a task that the process cannot do without, and hands it out when it is
/// asked for it. `spawn` starts the task.
pub fn gather(
    mut incoming: UnboundedReceiver<Key>,
    spawn: impl FnOnce(BoxFuture<'static, ()>),
) -> impl Stream<Item = Key> + Send {
    let waiting = Arc::new(Waiting::default());
    let filled = Arc::clone(&waiting);
    spawn(Box::pin(async move {
        while let Some(key) = incoming.recv().await {
            filled.line.lock().put(key);
            filled.arrived.notify_one();
        }
    }));
    futures::stream::unfold(waiting, |waiting| async move {
        loop {
            let next = waiting.line.lock().take();
            match next {
                Some(Ok(key)) => return Some((key, waiting)),
                // None comes in that is due before.
                Some(Err(due)) => sleep_until(due).await,
                None => waiting.arrived.notified().await,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::{sleep, timeout};

    fn gathered_from(incoming: UnboundedReceiver<Key>) -> impl Stream<Item = Key> + Send {
        gather(incoming, |task| drop(tokio::spawn(task)))
    }

    fn key(name: &str) -> Key {
        ObjectRef::new(name).within("team")
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_waits_once_however_often_it_comes_in() {
        let (queue, incoming) = unbounded_channel();
        let mut gathered = Box::pin(gathered_from(incoming));
        for _ in 0..50 {
            queue.send(key("a")).unwrap();
        }
        queue.send(key("b")).unwrap();
        assert_eq!(gathered.next().await, Some(key("a")));
        assert_eq!(gathered.next().await, Some(key("b")));
        let more = timeout(GATHERED_FOR * 2, gathered.next()).await;
        assert!(more.is_err(), "{more:?}");
        // What comes in later is handed out as well.
        queue.send(key("a")).unwrap();
        assert_eq!(gathered.next().await, Some(key("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn events_that_keep_coming_hold_no_cluster_back() {
        let (queue, incoming) = unbounded_channel();
        let mut gathered = Box::pin(gathered_from(incoming));
        let trickle = queue.clone();
        tokio::spawn(async move {
            loop {
                trickle.send(key("busy")).unwrap();
                sleep(GATHERED_FOR / 10).await;
            }
        });
        let start = Instant::now();
        for turn in 1..=5 {
            assert_eq!(gathered.next().await, Some(key("busy")));
            let took = start.elapsed();
            assert!(took >= GATHERED_FOR * turn, "one for many: {took:?}");
            assert!(took <= GATHERED_FOR * turn * 12 / 10, "{turn}: {took:?}");
        }
        // Nor any other one.
        queue.send(key("other")).unwrap();
        let other = async { while gathered.next().await != Some(key("other")) {} };
        assert!(timeout(GATHERED_FOR * 11 / 10, other).await.is_ok());
    }
}
