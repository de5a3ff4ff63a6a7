//! The clusters that wait to be reconciled.

use crate::api::BytebaseCluster;
use crate::api::status::Phase;
use futures::Stream;
use futures::future::BoxFuture;
use kube::runtime::reflector::{Lookup, ObjectRef};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
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

/// The same while a cluster is urgent. It may be any time: a reconcile that comes before the
/// watches show the writes of the last one knows of those by itself.
const GATHERED_WHILE_URGENT: Duration = Duration::from_millis(100);

/// The same where a reading of the database wakes it then: that is complete by itself. What is
/// found out right after it, such as which drain hooks were reached, mostly comes within so long.
const GATHERED_AFTER_READING: Duration = Duration::from_millis(20);

/// Whether someone waits for the next reconcile of a cluster, by its status: pods are being
/// replaced, and each step of a rollout waits for one, or its spec was edited. A cluster that has
/// just been made, whose status speaks of no generation or of -1, is not: such come in bulk, and
/// have more to be gathered.
pub fn is_urgent(cluster: &BytebaseCluster) -> bool {
    cluster.status.as_ref().is_some_and(|status| {
        let observed = status.observed_generation.filter(|observed| *observed > 0);
        let is_edited = observed.is_some() && observed != cluster.metadata.generation;
        is_edited || status.phase == Some(Phase::Rolling)
    })
}

/// Where clusters come in that are to be reconciled.
pub struct Incoming {
    /// Those of which something may have changed.
    pub changes: UnboundedReceiver<Key>,
    /// Those whose database was read, with something new.
    pub readings: UnboundedReceiver<Key>,
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
    order: BTreeMap<Place, Key>,
    places: HashMap<Key, Place>,
    /// How many places have been given.
    given: u64,
}

/// By when one is due; of several at one moment, by which got its place first.
type Place = (Instant, u64);

impl Line {
    /// Has a cluster wait for so long, and no longer where it waits already.
    fn put(&mut self, key: Key, gathered_for: Duration) {
        let due = Instant::now() + gathered_for;
        if let Some(before) = self.places.get(&key) {
            if before.0 <= due {
                return;
            }
            self.order.remove(before);
        }
        let place = (due, self.given);
        self.given += 1;
        self.order.insert(place, key.clone());
        self.places.insert(key, place);
    }

    /// The next one that is due, or when it will be. `None`: nothing waits.
    fn take(&mut self) -> Option<Result<Key, Instant>> {
        let (&(due, _), _) = self.order.first_key_value()?;
        if due > Instant::now() {
            return Some(Err(due));
        }
        let (_, key) = self.order.pop_first()?;
        self.places.remove(&key);
        Some(Ok(key))
    }
}

/// Gathers what comes in, by a task that the process cannot do without, and hands it out when it is
/// asked for it. `is_urgent`: [`is_urgent`] of that cluster. `spawn` starts the task.
pub fn gather(
    incoming: Incoming,
    is_urgent: impl Fn(&Key) -> bool + Send + 'static,
    spawn: impl FnOnce(BoxFuture<'static, ()>),
) -> impl Stream<Item = Key> + Send {
    let Incoming {
        mut changes,
        mut readings,
    } = incoming;
    let waiting = Arc::new(Waiting::default());
    let filled = Arc::clone(&waiting);
    spawn(Box::pin(async move {
        loop {
            let (key, while_urgent) = tokio::select! {
                Some(key) = changes.recv() => (key, GATHERED_WHILE_URGENT),
                Some(key) = readings.recv() => (key, GATHERED_AFTER_READING),
                else => return,
            };
            let gathered_for = if is_urgent(&key) {
                while_urgent
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
    use std::ops::Range;
    use tokio::sync::mpsc::unbounded_channel;
    use tokio::time::{sleep, timeout};

    fn gathered_from(changes: UnboundedReceiver<Key>) -> impl Stream<Item = Key> + Send {
        let (_, readings) = unbounded_channel();
        let incoming = Incoming { changes, readings };
        gather(incoming, |_| false, |task| drop(tokio::spawn(task)))
    }

    /// A little more than so long.
    fn about(time: Duration) -> Range<Duration> {
        time..time + Duration::from_millis(10)
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
    async fn an_urgent_cluster_waits_less_and_overtakes_others() {
        let (queue, changes) = unbounded_channel();
        let (_, readings) = unbounded_channel();
        let incoming = Incoming { changes, readings };
        let is_urgent = |waiting: &Key| *waiting == key("urgent");
        let mut gathered = Box::pin(gather(incoming, is_urgent, |task| {
            drop(tokio::spawn(task));
        }));
        let start = Instant::now();
        queue.send(key("quiet")).unwrap();
        let before = GATHERED_WHILE_URGENT / 2;
        let none = timeout(before, gathered.next()).await;
        assert!(none.is_err(), "{none:?}");
        // Whoever asks waits for the first one by now.
        for _ in 0..2 {
            queue.send(key("urgent")).unwrap();
        }
        assert_eq!(gathered.next().await, Some(key("urgent")));
        let took = start.elapsed();
        assert!(
            about(before + GATHERED_WHILE_URGENT).contains(&took),
            "{took:?}"
        );
        assert_eq!(gathered.next().await, Some(key("quiet")));
        let took = start.elapsed();
        assert!(about(GATHERED_FOR).contains(&took), "{took:?}");
        let more = timeout(GATHERED_FOR * 2, gathered.next()).await;
        assert!(more.is_err(), "{more:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_of_an_urgent_cluster_brings_it_forward_and_what_follows_never_back() {
        let (queue, changes) = unbounded_channel();
        let (read, readings) = unbounded_channel();
        let incoming = Incoming { changes, readings };
        let is_urgent = |waiting: &Key| *waiting == key("urgent");
        let mut gathered = Box::pin(gather(incoming, is_urgent, |task| {
            drop(tokio::spawn(task));
        }));
        // Each of these is sent a moment after the one before.
        for senders in [[&queue, &read], [&read, &queue]] {
            let mut expected = Duration::ZERO;
            let start = Instant::now();
            for sender in senders {
                if sender.same_channel(&read) {
                    expected = start.elapsed() + GATHERED_AFTER_READING;
                }
                sender.send(key("urgent")).unwrap();
                sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(gathered.next().await, Some(key("urgent")));
            let took = start.elapsed();
            assert!(about(expected).contains(&took), "{took:?}");
            let more = timeout(GATHERED_FOR * 2, gathered.next()).await;
            assert!(more.is_err(), "once: {more:?}");
        }
        // A thousand first readings after a start are not.
        let start = Instant::now();
        read.send(key("quiet")).unwrap();
        assert_eq!(gathered.next().await, Some(key("quiet")));
        let took = start.elapsed();
        assert!(about(GATHERED_FOR).contains(&took), "{took:?}");
    }

    #[test]
    fn a_rollout_and_an_edit_are_urgent_and_a_cluster_that_has_just_been_made_is_not() {
        let cluster = |status: serde_json::Value| -> BytebaseCluster {
            serde_json::from_value(json!({
                "metadata": {"name": "demo", "generation": 7},
                "spec": {"version": "3.21.1", "externalURL": "https://demo.example.com", "database": {}},
                "status": status,
            }))
            .unwrap()
        };
        for (status, expected) in [
            (json!({"phase": "Rolling", "observedGeneration": 7}), true),
            (json!({"phase": "Ready", "observedGeneration": 7}), false),
            (json!({"phase": "Starting", "observedGeneration": 7}), false),
            (json!({"phase": "Ready", "observedGeneration": 6}), true),
            (json!({"phase": "Rolling"}), true),
            (json!({"observedGeneration": -1}), false),
            (json!({}), false),
            (json!(null), false),
        ] {
            let text = status.to_string();
            assert_eq!(is_urgent(&cluster(status)), expected, "{text}");
        }
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
