//! What every reconcile shares.

use super::backoff::{self, Backoff};
use super::calls::Calls;
use crate::api::BytebaseClusterStatus;
use crate::apply::event::Publisher;
use crate::decide::Settings;
use crate::dereference::ReferenceIndex;
use crate::kubernetes::Kind;
use crate::kubernetes::error_text::plain;
use crate::observation::RefusedEviction;
use crate::observe::database::probe::Probes;
use crate::observe::{self, Sources};
use crate::process::lease::Leadership;
use crate::process::metrics::Metrics;
use crate::process::queue::{Key, Queue};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;

/// A refused write is tried again at least this often: nothing else tells that what stood in the
/// way has gone.
const BACKOFF_CAP: Duration = Duration::from_mins(1);

/// What `run` was told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Namespaces to watch; empty: all.
    pub namespaces: Vec<String>,
    /// Labels that a cluster must have to be served; empty: every cluster is.
    pub cluster_labels: Vec<(String, String)>,
    /// Name of this process on events and in the lease.
    pub instance: String,
}

/// What every reconcile shares.
pub struct Context {
    /// What `run` was told.
    pub options: Options,
    /// What decisions rest on.
    pub settings: Settings,
    /// Client of the reconciles. It tries nothing again by itself: each cluster has a back-off of
    /// its own.
    pub client: Client,
    /// Client for Bytebase's API.
    pub http: reqwest::Client,
    /// What observations rest on.
    pub sources: Sources,
    /// Which clusters name which Secret or ConfigMap.
    pub references: ReferenceIndex,
    /// Calls to Bytebase's API.
    pub calls: Arc<Calls>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Asked before every write.
    pub leadership: Leadership,
    queue: Queue,
    memory: Mutex<HashMap<Key, Memory>>,
    backoff: Mutex<Backoff<Key>>,
    /// Clusters that have not been looked at since the start.
    first_pass: Mutex<HashSet<Key>>,
}

/// What is remembered of a cluster from one look to the next. Losing it is harmless.
#[derive(Clone, Default)]
pub struct Memory {
    /// Uid of the cluster that this is remembered of: one made again under its name is another.
    pub uid: Option<String>,
    /// What the observations remember.
    pub observe: observe::Memory,
    /// The last eviction, if a PodDisruptionBudget refused it, and how often in a row.
    pub refused_eviction: Option<(RefusedEviction, u32)>,
    /// Uid of the pod that was evicted last, while the watch may still show it as before.
    pub evicted: Option<String>,
    /// Since when writes have failed that were to succeed the next time.
    pub failing_since: Option<Timestamp>,
    /// Status as last written.
    pub status: Option<WrittenStatus>,
    /// The last look wrote objects and left the status to the next.
    pub status_due: bool,
    /// Objects that differ from what is wanted in form only: `resourceVersion` and hash with which
    /// the API server took them and changed nothing.
    pub kept: HashMap<(Kind, String), (Option<String>, String)>,
    /// Objects as last written, likewise.
    pub writes: HashMap<(Kind, String), RecentWrite>,
}

/// A status whose echo the cache may not have seen.
#[derive(Clone, Debug, PartialEq)]
pub struct WrittenStatus {
    /// `resourceVersion` in the cache before it: until the cache moves on, this status is the
    /// newer one.
    pub before: Option<String>,
    /// `resourceVersion` with it.
    pub after: Option<String>,
    /// What was written.
    pub status: BytebaseClusterStatus,
}

impl WrittenStatus {
    /// Whether this is the cluster right after this write, with the spec that the status speaks of.
    fn echoes_in(&self, cluster: &ObjectMeta) -> bool {
        self.after.is_some()
            && self.after == cluster.resource_version
            // After a listing, an edit in between has no event of its own.
            && self.status.observed_generation == cluster.generation
            && cluster.deletion_timestamp.is_none()
    }
}

/// A write whose echo the cache may not have seen.
#[derive(Clone, Debug, PartialEq)]
pub struct RecentWrite {
    /// When.
    pub at: Instant,
    /// `resourceVersion` in the cache before it; `None` if it was not there.
    pub before: Option<String>,
    /// Hash of what was written; the objects of a thousand clusters are too much to remember.
    pub hash: String,
}

/// Everything a [`Context`] is made of.
pub struct Parts {
    /// What `run` was told.
    pub options: Options,
    /// What decisions rest on.
    pub settings: Settings,
    /// Client of the reconciles.
    pub client: Client,
    /// Client for Bytebase's API.
    pub http: reqwest::Client,
    /// Database probes.
    pub probes: Probes<Key>,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Asked before every write.
    pub leadership: Leadership,
    /// Where clusters to look at go.
    pub queue: UnboundedSender<Key>,
}

impl Context {
    /// A context that knows nothing yet.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            options,
            settings,
            client,
            http,
            probes,
            metrics,
            leadership,
            queue,
        } = parts;
        let queue = Queue::new(queue);
        Self {
            options,
            settings,
            http,
            sources: Sources::new(client.clone(), probes, queue.clone()),
            client,
            references: ReferenceIndex::default(),
            calls: Arc::default(),
            metrics,
            leadership,
            queue,
            memory: Mutex::default(),
            backoff: Mutex::new(Backoff::new(backoff::FIRST, BACKOFF_CAP)),
            first_pass: Mutex::default(),
        }
    }

    /// Has a cluster looked at.
    pub fn enqueue(&self, key: Key) {
        self.queue.enqueue(key);
    }

    /// The queue, for tasks beside the reconciles.
    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Whoever publishes the events of this process.
    pub fn publisher(&self) -> Publisher {
        let leadership = self.leadership.clone();
        Publisher {
            client: self.client.clone(),
            instance: self.options.instance.clone(),
            may_write: Arc::new(move || leadership.check().is_ok()),
        }
    }

    /// Counts and logs an error of a watch.
    pub fn watch_failed(&self, kind: Kind, namespace: Option<&str>, error: &watcher::Error) {
        self.metrics.watch_failed(kind);
        tracing::warn!(
            kind = kind.name(),
            namespace = namespace.unwrap_or("all"),
            error = plain(error),
            "a watch failed and is tried again"
        );
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, key: &Key, uid: Option<&str>) {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        self.passed(key);
        self.sources.probes.remove(key);
        self.references.forget(key);
        self.calls.forget(key);
        self.metrics.forget(namespace, &key.name);
        self.backoff.lock().forget(key);
        let memory = self.memory.lock().remove(key);
        let remembered = memory.and_then(|memory| memory.uid);
        for uid in [uid, remembered.as_deref()].into_iter().flatten() {
            self.sources.release(uid);
        }
    }

    /// What is remembered of a cluster.
    pub fn recall(&self, key: &Key, uid: Option<&str>) -> Memory {
        let memory = self.memory.lock().get(key).cloned();
        let memory = memory.filter(|memory| memory.uid.as_deref() == uid);
        memory.unwrap_or_else(|| Memory {
            uid: uid.map(str::to_owned),
            ..Memory::default()
        })
    }

    /// Remembers.
    pub fn remember(&self, key: &Key, memory: Memory) {
        self.memory.lock().insert(key.clone(), memory);
    }

    /// Whether a cluster is as the last look at it left it, changed only by the status that was
    /// written then.
    pub fn is_echo(&self, key: &Key, cluster: &ObjectMeta) -> bool {
        self.memory
            .lock()
            .get(key)
            .and_then(|memory| memory.status.as_ref())
            .is_some_and(|written| written.echoes_in(cluster))
    }

    /// Holds the databases back until every cluster has been looked at once: a login costs far more
    /// than a look, and what was edited while nobody led must not wait for a thousand of them.
    pub fn begin_first_pass(&self) {
        let clusters = self.sources.caches.clusters.store().state();
        if clusters.is_empty() {
            return;
        }
        // Before the first database is asked: who had it before has it still.
        for cluster in &clusters {
            self.sources.claims.learn(cluster);
        }
        self.sources.probes.hold();
        *self.first_pass.lock() = clusters
            .iter()
            .map(|cluster| ObjectRef::from_obj(cluster.as_ref()))
            .collect();
    }

    /// Notes that a cluster has been looked at, or has gone.
    pub fn passed(&self, key: &Key) {
        let mut waiting = self.first_pass.lock();
        if waiting.remove(key) && waiting.is_empty() {
            self.sources.probes.admit();
        }
    }

    /// Ends the first pass, whoever has not been looked at.
    pub fn end_first_pass(&self) {
        let mut waiting = self.first_pass.lock();
        if !waiting.is_empty() {
            waiting.clear();
            self.sources.probes.admit();
        }
    }

    /// How long to wait after a failure.
    pub fn failed(&self, key: &Key) -> Duration {
        self.backoff.lock().failed(key.clone(), rand::random())
    }

    /// Ends the back-off.
    pub fn succeeded(&self, key: &Key) {
        self.backoff.lock().succeeded(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn an_echo_is_the_very_version_that_was_written_of_the_spec_that_was_seen() {
        let written = WrittenStatus {
            before: Some("6".to_owned()),
            after: Some("7".to_owned()),
            status: BytebaseClusterStatus {
                observed_generation: Some(3),
                ..BytebaseClusterStatus::default()
            },
        };
        let cluster = |version: &str, generation| ObjectMeta {
            resource_version: Some(version.to_owned()),
            generation: Some(generation),
            ..ObjectMeta::default()
        };
        assert!(written.echoes_in(&cluster("7", 3)));
        assert!(!written.echoes_in(&cluster("8", 3)), "somebody wrote since");
        assert!(
            !written.echoes_in(&cluster("7", 4)),
            "edited before the status was written"
        );
        let deleted = ObjectMeta {
            deletion_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
            ..cluster("7", 3)
        };
        assert!(!written.echoes_in(&deleted));
        let unknown = WrittenStatus {
            after: None,
            ..written
        };
        assert!(!unknown.echoes_in(&ObjectMeta {
            resource_version: None,
            ..cluster("7", 3)
        }));
    }
}
