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
use std::collections::HashSet;
use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::api::BytebaseCluster;
use crate::apply::objects::resource;
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

/// The objects of one kind, fed by one watch or (one per namespace) by several.
pub struct Cache<K: Cached> {
    writer: Mutex<Writer<K>>,
    store: Store<K>,
    /// Watches whose first listing has not come in.
    waiting: AtomicUsize,
    /// The API server does not know the kind.
    not_installed: AtomicBool,
}

impl<K: Cached> Default for Cache<K> {
    fn default() -> Self {
        let mut writer = Writer::default();
        // Each watch brings its objects one by one, so the store never starts anew as a whole.
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitDone);
        Self {
            store: writer.as_reader(),
            writer: Mutex::new(writer),
            waiting: AtomicUsize::new(0),
            not_installed: AtomicBool::new(false),
        }
    }
}

impl<K: Cached> Cache<K> {
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

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.store.get(&ObjectRef::new(name).within(namespace))
    }

    /// The reader that the queue takes clusters from.
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// Adds or replaces an object.
    pub fn put(&self, object: K) {
        self.apply(&watcher::Event::Apply(object));
    }

    /// Takes an object away.
    pub fn remove(&self, object: K) {
        self.apply(&watcher::Event::Delete(object));
    }

    /// Objects of a namespace (or of all) that are not among `seen`: they went while the watch was away.
    pub fn vanished(&self, namespace: Option<&str>, seen: &HashSet<ObjectRef<K>>) -> Vec<Arc<K>> {
        self.store.state_filter(|object| {
            namespace.is_none_or(|namespace| object.meta().namespace.as_deref() == Some(namespace))
                && !seen.contains(&ObjectRef::from_obj(object))
        })
    }

    fn apply(&self, event: &watcher::Event<K>) {
        self.writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .apply_watcher_event(event);
    }
}

/// All caches.
#[derive(Default)]
pub struct Caches {
    /// `BytebaseCluster`s.
    pub clusters: Cache<BytebaseCluster>,
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
            Kind::ServiceAccount => dynamic(kind, self.service_accounts.get(namespace, name)),
            Kind::Service => dynamic(kind, self.services.get(namespace, name)),
            Kind::StatefulSet => dynamic(kind, self.stateful_sets.get(namespace, name)),
            Kind::PodDisruptionBudget => {
                dynamic(kind, self.disruption_budgets.get(namespace, name))
            }
            Kind::NetworkPolicy => dynamic(kind, self.network_policies.get(namespace, name)),
            Kind::Ingress => dynamic(kind, self.ingresses.get(namespace, name)),
            Kind::HttpRoute => dynamic(kind, self.http_routes.get(namespace, name)),
            Kind::ServiceMonitor => dynamic(kind, self.service_monitors.get(namespace, name)),
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

fn dynamic<K: Cached>(kind: Kind, object: Option<Arc<K>>) -> Option<DynamicObject> {
    // Kubernetes' own types are JSON and objects; one that were not would be read from the API server instead.
    let mut object: DynamicObject =
        serde_json::from_value(serde_json::to_value(object?.as_ref()).ok()?).ok()?;
    let resource = resource(kind);
    object.types = Some(kube::api::TypeMeta {
        api_version: resource.api_version,
        kind: resource.kind,
    });
    Some(object)
}
