//! What the watches have seen, one cache per kind.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::{Ingress, NetworkPolicy};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::api::BytebaseCluster;
use crate::desired::Kind;
use crate::observe::optional::{HTTPRoute, ServiceMonitor};
use kube::api::DynamicObject;

/// A kind that can be cached.
pub trait Cached:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}
impl<
    K: Resource<DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Serialize
        + Send
        + Sync
        + 'static,
> Cached for K
{
}

/// Where the objects of one kind lie.
pub trait Shelf<K: Cached>: Default + Send + Sync + 'static {
    /// Adds or replaces an object. True if it was not there.
    fn put(&self, object: K) -> bool;
    /// Takes an object away.
    fn remove(&self, object: K);
    /// Objects that `gone` says are gone.
    fn select(&self, gone: &dyn Fn(&ObjectRef<K>) -> bool) -> Vec<K>;
}

/// Objects as they are read: what the queue takes clusters from.
pub struct Live<K: Cached> {
    writer: Mutex<Writer<K>>,
    store: Store<K>,
}

impl<K: Cached> Default for Live<K> {
    fn default() -> Self {
        let mut writer = Writer::default();
        // Each watch brings its objects one by one, so the store never starts anew as a whole.
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitDone);
        Self {
            store: writer.as_reader(),
            writer: Mutex::new(writer),
        }
    }
}

impl<K: Cached> Live<K> {
    fn apply(&self, event: &watcher::Event<K>) {
        lock(&self.writer).apply_watcher_event(event);
    }
}

impl<K: Cached> Shelf<K> for Live<K> {
    fn put(&self, object: K) -> bool {
        let is_new = self.store.get(&ObjectRef::from_obj(&object)).is_none();
        self.apply(&watcher::Event::Apply(object));
        is_new
    }

    fn remove(&self, object: K) {
        self.apply(&watcher::Event::Delete(object));
    }

    fn select(&self, gone: &dyn Fn(&ObjectRef<K>) -> bool) -> Vec<K> {
        self.store
            .state_filter(|object| gone(&ObjectRef::from_obj(object)))
            .iter()
            .map(|object| object.as_ref().clone())
            .collect()
    }
}

/// Objects as JSON: a StatefulSet takes a fifth of the memory that its type would, and is read only
/// when its cluster is looked at.
pub struct Packed<K: Cached>(Mutex<HashMap<ObjectRef<K>, Box<[u8]>>>);

impl<K: Cached> Default for Packed<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Cached> Packed<K> {
    /// Reads an object in whatever form it is wanted.
    fn read<T: DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<T> {
        let objects = lock(&self.0);
        unpack(objects.get(&ObjectRef::new(name).within(namespace))?)
    }
}

impl<K: Cached> Shelf<K> for Packed<K> {
    fn put(&self, object: K) -> bool {
        let key = ObjectRef::from_obj(&object);
        let Ok(packed) = serde_json::to_vec(&object) else {
            // Kubernetes' own types are JSON; one that were not would be read from the API server
            // instead.
            self.remove(object);
            return false;
        };
        lock(&self.0).insert(key, packed.into()).is_none()
    }

    fn remove(&self, object: K) {
        lock(&self.0).remove(&ObjectRef::from_obj(&object));
    }

    fn select(&self, gone: &dyn Fn(&ObjectRef<K>) -> bool) -> Vec<K> {
        lock(&self.0)
            .iter()
            .filter(|(key, _)| gone(key))
            .filter_map(|(_, packed)| unpack(packed))
            .collect()
    }
}

/// What was packed is JSON of the same type.
fn unpack<T: DeserializeOwned>(packed: &[u8]) -> Option<T> {
    serde_json::from_slice(packed).ok()
}

/// Nothing here panics while it holds a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The objects of one kind, fed by one watch or (one per namespace) by several.
pub struct Cache<K: Cached, S: Shelf<K> = Packed<K>> {
    shelf: S,
    /// Watches whose first listing has not come in.
    waiting: AtomicUsize,
    /// The API server does not know the kind.
    not_installed: AtomicBool,
    kind: PhantomData<fn() -> K>,
}

impl<K: Cached, S: Shelf<K>> Default for Cache<K, S> {
    fn default() -> Self {
        Self {
            shelf: S::default(),
            waiting: AtomicUsize::new(0),
            not_installed: AtomicBool::new(false),
            kind: PhantomData,
        }
    }
}

impl<K: Cached, S: Shelf<K>> Cache<K, S> {
    /// Announces a watch that will feed this cache.
    pub fn expect_watch(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    /// A watch has brought its first listing.
    pub fn listed(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Every watch has brought its first listing: what is not here does not exist.
    pub fn is_complete(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) == 0
    }

    /// Whether the API server does not know the kind.
    pub fn is_not_installed(&self) -> bool {
        self.not_installed.load(Ordering::Relaxed)
    }

    /// Notes whether the API server lacks the kind; true if that is news.
    pub fn set_not_installed(&self, lacking: bool) -> bool {
        self.not_installed.swap(lacking, Ordering::Relaxed) != lacking
    }

    /// Adds or replaces an object. True if it was not there.
    pub fn put(&self, object: K) -> bool {
        self.shelf.put(object)
    }

    /// Takes an object away.
    pub fn remove(&self, object: K) {
        self.shelf.remove(object);
    }

    /// Objects of a namespace (or of all) that are not among `seen`: they went while the watch was
    /// away.
    pub fn vanished(&self, namespace: Option<&str>, seen: &HashSet<ObjectRef<K>>) -> Vec<K> {
        self.shelf.select(&|object| {
            namespace.is_none_or(|namespace| object.namespace.as_deref() == Some(namespace))
                && !seen.contains(object)
        })
    }
}

impl<K: Cached> Cache<K, Live<K>> {
    /// The reader that the queue takes clusters from.
    pub fn store(&self) -> Store<K> {
        self.shelf.store.clone()
    }
}

impl<K: Cached> Cache<K> {
    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<K> {
        self.shelf.read(namespace, name)
    }

    /// One object in the form that `apply` compares.
    fn get_dynamic(&self, namespace: &str, name: &str) -> Option<DynamicObject> {
        self.shelf.read(namespace, name)
    }
}

/// All caches.
#[derive(Default)]
pub struct Caches {
    /// `BytebaseCluster`s.
    pub clusters: Cache<BytebaseCluster, Live<BytebaseCluster>>,
    /// StatefulSets.
    pub stateful_sets: Cache<StatefulSet>,
    /// Pods, trimmed.
    pub pods: Cache<Pod>,
    /// Services.
    pub services: Cache<Service>,
    /// ServiceAccounts.
    pub service_accounts: Cache<ServiceAccount>,
    /// PodDisruptionBudgets.
    pub disruption_budgets: Cache<PodDisruptionBudget>,
    /// Ingresses.
    pub ingresses: Cache<Ingress>,
    /// NetworkPolicies.
    pub network_policies: Cache<NetworkPolicy>,
    /// HTTPRoutes, where the Gateway API is installed.
    pub http_routes: Cache<HTTPRoute>,
    /// ServiceMonitors, where the Prometheus operator is installed.
    pub service_monitors: Cache<ServiceMonitor>,
}

impl Caches {
    /// One owned object in the form that `apply` compares.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<DynamicObject> {
        match kind {
            Kind::ServiceAccount => self.service_accounts.get_dynamic(namespace, name),
            Kind::Service => self.services.get_dynamic(namespace, name),
            Kind::StatefulSet => self.stateful_sets.get_dynamic(namespace, name),
            Kind::PodDisruptionBudget => self.disruption_budgets.get_dynamic(namespace, name),
            Kind::NetworkPolicy => self.network_policies.get_dynamic(namespace, name),
            Kind::Ingress => self.ingresses.get_dynamic(namespace, name),
            Kind::HttpRoute => self.http_routes.get_dynamic(namespace, name),
            Kind::ServiceMonitor => self.service_monitors.get_dynamic(namespace, name),
        }
    }

    /// Kinds that the API server does not know.
    pub fn not_installed(&self) -> Vec<Kind> {
        [
            (Kind::HttpRoute, self.http_routes.is_not_installed()),
            (
                Kind::ServiceMonitor,
                self.service_monitors.is_not_installed(),
            ),
        ]
        .into_iter()
        .filter_map(|(kind, lacking)| lacking.then_some(kind))
        .collect()
    }
}
