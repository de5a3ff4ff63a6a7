//! What every reconcile shares.

use super::backoff::{self, Backoff};
use super::caches::Caches;
use super::lease::Leadership;
use super::metrics::Metrics;
use crate::api::{BytebaseCluster, BytebaseClusterStatus};
use crate::decide::Settings;
use crate::decide::observation::{CallFailure, DatabaseIdentity, RefusedEviction};
use crate::kubernetes::Kind;
use crate::kubernetes::error_text::plain;
use crate::observe::database::probe::Probes;
use crate::observe::pod::LogIds;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

/// Namespace and name of a cluster.
pub type Key = ObjectRef<BytebaseCluster>;

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
    /// What the watches have seen.
    pub caches: Caches,
    /// Which clusters name which Secret or ConfigMap.
    pub references: ReferenceIndex,
    /// Database probes.
    pub probes: Probes<Key>,
    /// Replica ids out of logs.
    pub log_ids: LogIds,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Asked before every write.
    pub leadership: Leadership,
    queue: UnboundedSender<Key>,
    memory: Mutex<HashMap<Key, Memory>>,
    databases: Mutex<HashMap<DatabaseIdentity, BTreeSet<(Timestamp, String)>>>,
    backoff: Mutex<Backoff<Key>>,
    /// Clusters that have not been looked at since the start.
    first_pass: Mutex<HashSet<Key>>,
}

/// What is remembered of a cluster from one look to the next. Losing it is harmless.
#[derive(Clone, Default)]
pub struct Memory {
    /// Since when each fresh heartbeat has belonged to no pod.
    pub unclaimed_since: BTreeMap<Uuid, Timestamp>,
    /// Since when the StatefulSet has had fewer pods than it should.
    pub missing_since: Option<Timestamp>,
    /// The last eviction, if a PodDisruptionBudget refused it, and how often in a row.
    pub refused_eviction: Option<(RefusedEviction, u32)>,
    /// The last call to Bytebase's API, if it failed.
    pub call_failure: Option<CallFailure>,
    /// Calls in a row that nothing answered.
    pub unanswered: u32,
    /// Status as last written.
    pub status: Option<WrittenStatus>,
    /// The last look wrote objects and left the status to the next.
    pub status_due: bool,
    /// Objects as last written, likewise.
    pub writes: HashMap<(Kind, String), RecentWrite>,
    /// The database it counts as using.
    pub database: Option<DatabaseIdentity>,
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
        Self {
            options,
            settings,
            client,
            http,
            caches: Caches::default(),
            references: ReferenceIndex::default(),
            probes,
            log_ids: LogIds::default(),
            metrics,
            leadership,
            queue,
            memory: Mutex::default(),
            databases: Mutex::default(),
            backoff: Mutex::new(Backoff::new(backoff::FIRST, BACKOFF_CAP)),
            first_pass: Mutex::default(),
        }
    }

    /// Has a cluster looked at.
    pub fn enqueue(&self, key: Key) {
        // Nobody listens any more at shutdown.
        let _ = self.queue.send(key);
    }

    /// Counts and logs an error of a watch.
    pub fn watch_failed(&self, kind: Kind, error: &watcher::Error) {
        self.metrics.watch_failed(kind);
        tracing::warn!(
            kind = kind.name(),
            error = plain(error),
            "a watch failed and is tried again"
        );
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, key: &Key) {
        let namespace = key.namespace.as_deref().unwrap_or_default();
        self.passed(key);
        self.probes.remove(key);
        self.references.forget(key);
        self.metrics.forget(namespace, &key.name);
        self.backoff.lock().forget(key);
        let memory = self.memory.lock().remove(key);
        if let Some(identity) = memory.and_then(|memory| memory.database) {
            self.release(&identity, key);
        }
    }

    /// What is remembered of a cluster.
    pub fn recall(&self, key: &Key) -> Memory {
        self.memory.lock().get(key).cloned().unwrap_or_default()
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
        let clusters = self.caches.clusters.store().state();
        if clusters.is_empty() {
            return;
        }
        self.probes.hold();
        *self.first_pass.lock() = clusters
            .iter()
            .map(|cluster| ObjectRef::from_obj(cluster.as_ref()))
            .collect();
    }

    /// Notes that a cluster has been looked at, or has gone.
    pub fn passed(&self, key: &Key) {
        let mut waiting = self.first_pass.lock();
        if waiting.remove(key) && waiting.is_empty() {
            self.probes.admit();
        }
    }

    /// Ends the first pass, whoever has not been looked at.
    pub fn end_first_pass(&self) {
        let mut waiting = self.first_pass.lock();
        if !waiting.is_empty() {
            waiting.clear();
            self.probes.admit();
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

    /// Notes which database a cluster uses; returns an older cluster on the same one.
    pub fn claim(
        &self,
        key: &Key,
        created: Timestamp,
        memory: &mut Memory,
        identity: &DatabaseIdentity,
    ) -> Option<String> {
        if let Some(before) = memory.database.replace(identity.clone())
            && before != *identity
        {
            self.release(&before, key);
        }
        let mut databases = self.databases.lock();
        let claims = databases.entry(identity.clone()).or_default();
        let claim = (created, name(key));
        claims.insert(claim.clone());
        claims
            .iter()
            .next()
            .filter(|first| **first < claim)
            .map(|(_, first)| first.clone())
    }

    fn release(&self, identity: &DatabaseIdentity, key: &Key) {
        let mut databases = self.databases.lock();
        let Some(claims) = databases.get_mut(identity) else {
            return;
        };
        let released = name(key);
        claims.retain(|(_, holder)| *holder != released);
        // The next in line may be held back only by the one that went.
        let waiting = claims
            .iter()
            .next()
            .and_then(|(_, holder)| holder.split_once('/'))
            .map(|(namespace, name)| ObjectRef::new(name).within(namespace));
        if claims.is_empty() {
            databases.remove(identity);
        }
        drop(databases);
        if let Some(key) = waiting {
            self.enqueue(key);
        }
    }
}

/// `namespace/name`, as logs and messages tell of a cluster.
pub fn name(key: &Key) -> String {
    format!(
        "{}/{}",
        key.namespace.as_deref().unwrap_or_default(),
        key.name
    )
}

/// Which clusters name which Secret or ConfigMap.
#[derive(Default)]
pub struct ReferenceIndex(Mutex<Index>);

#[derive(Default)]
struct Index {
    clusters: HashMap<Reference, HashSet<Key>>,
    references: HashMap<Key, HashSet<Reference>>,
}

/// Whether it is a Secret (else a ConfigMap), namespace, and name.
type Reference = (bool, String, String);

impl ReferenceIndex {
    /// The Secrets and ConfigMaps a cluster names now.
    pub fn set(&self, key: &Key, secrets: &BTreeSet<String>, config_maps: &BTreeSet<String>) {
        let namespace = key.namespace.clone().unwrap_or_default();
        let named = |secret: bool, names: &BTreeSet<String>| {
            names
                .iter()
                .map(|name| (secret, namespace.clone(), name.clone()))
                .collect::<Vec<_>>()
        };
        let references: HashSet<_> = named(true, secrets)
            .into_iter()
            .chain(named(false, config_maps))
            .collect();
        let mut index = self.0.lock();
        if index.references.get(key) == Some(&references) {
            return;
        }
        index.remove(key);
        for reference in &references {
            index
                .clusters
                .entry(reference.clone())
                .or_default()
                .insert(key.clone());
        }
        index.references.insert(key.clone(), references);
    }

    /// Clusters that name this object.
    pub fn of(&self, kind: Kind, namespace: &str, name: &str) -> Vec<Key> {
        let reference = (kind == Kind::Secret, namespace.to_owned(), name.to_owned());
        self.0
            .lock()
            .clusters
            .get(&reference)
            .map(|keys| keys.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Forgets a cluster.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

impl Index {
    fn remove(&mut self, key: &Key) {
        for reference in self.references.remove(key).unwrap_or_default() {
            if let Some(keys) = self.clusters.get_mut(&reference) {
                keys.remove(key);
                if keys.is_empty() {
                    self.clusters.remove(&reference);
                }
            }
        }
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
