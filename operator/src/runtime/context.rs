//! What every reconcile shares.

use super::backoff::{self, Backoff};
use super::first_pass::FirstPass;
use super::slots::Slots;
use crate::apply::event::Publisher;
use crate::apply::{self, Writer};
use crate::decide::Settings;
use crate::dereference::ReferenceIndex;
use crate::kubernetes::Kind;
use crate::kubernetes::error_text::plain;
use crate::observe::database::probe::Probes;
use crate::observe::{self, Clock, Sources};
use crate::process::lease::Leadership;
use crate::process::metrics::Metrics;
use crate::process::queue::{Key, Queue};
use crate::report;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Client;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;

/// A refused write is tried again at least this often: nothing else shows that what stood in the
/// way has gone.
const BACKOFF_CAP: Duration = Duration::from_mins(1);

/// The HTTP status by which the API server asks for a new listing.
const GONE: u16 = 410;

/// The options of `run`.
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
    /// The options of `run`.
    pub options: Options,
    /// Client of the reconciles.
    pub client: Client,
    /// What observations rest on.
    pub sources: Sources,
    /// Which clusters name which Secret or ConfigMap.
    pub references: ReferenceIndex,
    /// What writes go through.
    pub writer: Writer,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The first pass over all clusters after the start.
    pub first_pass: FirstPass,
    /// The slots of the reconciles.
    pub slots: Slots,
    settings: RwLock<Arc<Settings>>,
    queue: Queue,
    memory: Mutex<HashMap<Key, Memory>>,
    backoff: Mutex<Backoff<Key>>,
}

/// What is remembered of a cluster from one reconcile to the next. Each step has its own part,
/// which no other step can read or change. Losing it is harmless.
#[derive(Clone, Default)]
pub struct Memory {
    /// Uid of the cluster that this is remembered of: one made again under its name is another.
    pub uid: Option<String>,
    /// What the observations remember.
    pub observe: observe::Memory,
    /// What the writes remember.
    pub apply: apply::Memory,
    /// What the reports remember.
    pub report: report::Memory,
}

/// Everything a [`Context`] is made of.
pub struct Parts {
    /// The options of `run`.
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
    /// Where clusters to reconcile go.
    pub queue: UnboundedSender<Key>,
    /// What decisions go by.
    pub clock: Clock,
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
            clock,
        } = parts;
        let queue = Queue::new(queue);
        let sources = Sources::new(client.clone(), probes, queue.clone(), clock);
        let (caches, seen) = (Arc::clone(&sources.caches), Arc::clone(&sources.caches));
        let first_pass = FirstPass::new(Arc::clone(&sources.probes));
        let (probes, read) = (Arc::clone(&sources.probes), Arc::clone(&sources.probes));
        let writer = Writer {
            client: client.clone(),
            http,
            leadership: leadership.clone(),
            metrics: Arc::clone(&metrics),
            publisher: Publisher::new(client.clone(), options.instance.clone(), leadership),
            calls: Arc::default(),
            queue: queue.clone(),
            cached: Box::new(move |kind, namespace, name| caches.get(kind, namespace, name)),
            sees: Box::new(move |kind, namespace| seen.sees(kind, namespace)),
            call_ended: Arc::new(move |key| probes.poke(key)),
            is_read_since: Box::new(move |key, moment| read.is_read_since(key, moment)),
        };
        Self {
            options,
            client,
            sources,
            references: ReferenceIndex::default(),
            writer,
            metrics,
            first_pass,
            slots: Slots::default(),
            settings: RwLock::new(Arc::new(settings)),
            queue,
            memory: Mutex::default(),
            backoff: Mutex::new(Backoff::new(backoff::FIRST, BACKOFF_CAP)),
        }
    }

    /// What decisions rest on, as far as it is known now.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.read())
    }

    /// Takes up the operator's own image, and has every cluster reconciled with it.
    pub fn learn_own_image(&self, image: String) {
        let before = self.settings();
        let settings = Settings {
            own_image: Some(image),
            ..Settings::clone(&before)
        };
        *self.settings.write() = Arc::new(settings);
        self.enqueue_all();
    }

    /// Has a cluster reconciled.
    pub fn enqueue(&self, key: Key) {
        self.queue.enqueue(key);
    }

    /// Has every cluster reconciled.
    pub fn enqueue_all(&self) {
        let clusters = self.sources.caches.clusters.store().state();
        let keys = clusters
            .iter()
            .map(|cluster| ObjectRef::from_obj(cluster.as_ref()));
        self.queue.enqueue_all(keys);
    }

    /// Counts and logs an error of a watch.
    pub fn watch_failed(&self, kind: Kind, namespace: Option<&str>, error: &watcher::Error) {
        if let watcher::Error::WatchError(status) = error
            && status.code == GONE
        {
            // Where nothing happened for some minutes, as it is the rule of events, the API server
            // has forgotten the version from which the watch was to go on.
            tracing::debug!(kind = kind.name(), "a watch begins again with a listing");
            return;
        }
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
        self.first_pass.passed(key);
        self.slots.forget(key);
        self.sources.probes.remove(key);
        self.references.forget(key);
        self.writer.calls.forget(key);
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

    /// Every cluster of which something is remembered.
    #[cfg(test)]
    pub fn remembers(&self) -> Vec<Key> {
        let memory = self.memory.lock();
        memory.keys().cloned().collect()
    }

    /// Whether a cluster is as its last reconcile left it, changed only by the status that was
    /// written then.
    pub fn is_echo(&self, key: &Key, cluster: &ObjectMeta) -> bool {
        let memory = self.memory.lock();
        let memory = memory.get(key);
        memory.is_some_and(|memory| memory.report.is_echo(cluster))
    }

    /// Begins the first pass over the clusters that are there.
    pub fn begin_first_pass(&self) {
        let clusters = self.sources.caches.clusters.store().state();
        // Before the first database is asked: who had it before has it still.
        for cluster in &clusters {
            self.sources.claims.learn(cluster);
        }
        let keys = clusters
            .iter()
            .map(|cluster| ObjectRef::from_obj(cluster.as_ref()));
        self.first_pass.begin(keys.collect());
    }

    /// How long to wait after a failure. `None`: the cluster is gone.
    pub fn failed(&self, key: &Key, uid: Option<&str>) -> Option<Duration> {
        let wait = self.backoff.lock().failed(key.clone(), rand::random());
        if self.sources.is_there(key, uid) {
            return Some(wait);
        }
        // It went meanwhile, and what is counted after that would stay for ever.
        self.backoff.lock().forget(key);
        None
    }

    /// Whether a failure of some cluster is remembered.
    #[cfg(test)]
    pub fn remembers_failures(&self) -> bool {
        !self.backoff.lock().is_empty()
    }

    /// Ends the back-off.
    pub fn succeeded(&self, key: &Key) {
        self.backoff.lock().succeeded(key);
    }
}
