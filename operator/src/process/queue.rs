//! The clusters that wait to be reconciled.

use crate::api::BytebaseCluster;
use crate::api::status::Phase;
use futures::Stream;
use futures::future::BoxFuture;
use kube::runtime::reflector::{Lookup, ObjectRef};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};
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

/// The same while pods of the cluster are being replaced, since each step of a rollout waits for
/// it. It may be any time: a reconcile that comes before the watches show the writes of the last
/// one knows of those by itself.
const GATHERED_IN_ROLLOUTS: Duration = Duration::from_millis(100);

/// Whether pods of a cluster are being replaced, by its status.
pub fn is_rolling(cluster: &BytebaseCluster) -> bool {
    let status = cluster.status.as_ref();
    status.is_some_and(|status| status.phase == Some(Phase::Rolling))
}

/// Each cluster once, however often it was put in: a standby takes none out for weeks.
#[derive(Default)]
struct Waiting {
    line: Mutex<Line>,
    arrived: Notify,
}

/// What waits.
#[derive(Default)]
struct Line {
    /// By when each is due; of several at one moment, by which came in first.
    order: BTreeMap<(Instant, u64), Key>,
    keys: HashSet<Key>,
    /// How many have come in.
    came_in: u64,
}

impl Line {
    fn put(&mut self, key: Key, gathered_for: Duration) {
        if self.keys.insert(key.clone()) {
            let due = Instant::now() + gathered_for;
            self.order.insert((due, self.came_in), key);
            self.came_in += 1;
        }
    }

    /// The next one that is due, or when it will be. `None`: nothing waits.
    fn take(&mut self) -> Option<Result<Key, Instant>> {
        let (&(due, _), _) = self.order.first_key_value()?;
        if due > Instant::now() {
            return Some(Err(due));
        }
        let (_, key) = self.order.pop_first()?;
        self.keys.remove(&key);
        Some(Ok(key))
    }
}

/// Gathers what comes in, by a task that the process cannot do without, and hands it out when it is
/// asked for it. `is_rolling`: whether pods of a cluster are being replaced. `spawn` starts the
/// task.
pub fn gather(
    mut incoming: UnboundedReceiver<Key>,
    is_rolling: impl Fn(&Key) -> bool + Send + 'static,
    spawn: impl FnOnce(BoxFuture<'static, ()>),
) -> impl Stream<Item = Key> + Send {
    let waiting = Arc::new(Waiting::default());
    let filled = Arc::clone(&waiting);
    spawn(Box::pin(async move {
        while let Some(key) = incoming.recv().await {
            let gathered_for = if is_rolling(&key) {
                GATHERED_IN_ROLLOUTS
            } else {
                GATHERED_FOR
            };
            filled.line.lock().put(key, gathered_for);
            filled.arrived.notify_one();
        }
    }));
    futures::stream::unfold(waiting, |waiting| async move {
        loop {
            let next = waiting.line.lock().take();
            match next {
                Some(Ok(key)) => return Some((key, waiting)),
                // One that comes in may be due before.
                Some(Err(due)) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = waiting.arrived.notified() => {}
                },
                None => waiting.arrived.notified().await,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::StreamExt as _;
    use serde_json::json;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::{sleep, timeout};

    fn gathered_from(incoming: UnboundedReceiver<Key>) -> impl Stream<Item = Key> + Send {
        gather(incoming, |_| false, |task| drop(tokio::spawn(task)))
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
    async fn a_cluster_whose_pods_are_being_replaced_waits_less_and_overtakes_others() {
        let (queue, incoming) = unbounded_channel();
        let is_rolling = |waiting: &Key| *waiting == key("rolling");
        let mut gathered = Box::pin(gather(incoming, is_rolling, |task| {
            drop(tokio::spawn(task));
        }));
        let start = Instant::now();
        let about = |took: Duration| took..took + Duration::from_millis(10);
        queue.send(key("quiet")).unwrap();
        let before = GATHERED_IN_ROLLOUTS / 2;
        let none = timeout(before, gathered.next()).await;
        assert!(none.is_err(), "{none:?}");
        // Whoever asks waits for the first one by now.
        for _ in 0..2 {
            queue.send(key("rolling")).unwrap();
        }
        assert_eq!(gathered.next().await, Some(key("rolling")));
        let took = start.elapsed();
        assert!(
            about(before + GATHERED_IN_ROLLOUTS).contains(&took),
            "{took:?}"
        );
        assert_eq!(gathered.next().await, Some(key("quiet")));
        let took = start.elapsed();
        assert!(about(GATHERED_FOR).contains(&took), "{took:?}");
        let more = timeout(GATHERED_FOR * 2, gathered.next()).await;
        assert!(more.is_err(), "{more:?}");
    }

    #[test]
    fn pods_are_being_replaced_while_the_status_says_so() {
        let cluster = |phase: &str| -> BytebaseCluster {
            serde_json::from_value(json!({
                "metadata": {"name": "demo"},
                "spec": {"version": "3.21.1", "externalURL": "https://demo.example.com", "database": {}},
                "status": {"phase": phase},
            }))
            .unwrap()
        };
        assert!(is_rolling(&cluster("Rolling")));
        assert!(!is_rolling(&cluster("Ready")) && !is_rolling(&cluster("Starting")));
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
