//! What the watches have seen: one cache per kind, filled by `watches` and read by reconciles.

use crate::api::BytebaseCluster;
use crate::kubernetes::Kind;
use k8s_openapi::api::core::v1::Pod;
use kube::Resource;
use kube::api::DynamicObject;
use kube::core::TypeMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// A type whose objects can be cached.
pub trait Cached:
    Resource + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}
impl<K: Resource + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static> Cached
    for K
{
}

/// Namespace and name of an object of a known kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    namespace: String,
    name: String,
}

impl ObjectName {
    /// Of an object.
    pub fn of(object: &impl Resource) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// Where the objects of one cache lie.
pub trait Storage<K: Cached>: Default + Send + Sync + 'static {
    /// Adds or replaces an object. True if it was not there.
    fn put(&self, object: K) -> bool;
    /// Takes an object away.
    fn remove(&self, object: K);
    /// Objects that `gone` says are gone.
    fn select(&self, gone: &dyn Fn(&ObjectName) -> bool) -> Vec<K>;
}

/// Clusters as they are read: what the queue takes them from.
pub struct Live {
    writer: Mutex<Writer<BytebaseCluster>>,
    store: Store<BytebaseCluster>,
}

impl Default for Live {
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

impl Live {
    fn apply(&self, event: &watcher::Event<BytebaseCluster>) {
        self.writer.lock().apply_watcher_event(event);
    }
}

impl Storage<BytebaseCluster> for Live {
    fn put(&self, object: BytebaseCluster) -> bool {
        let is_new = self.store.get(&ObjectRef::from_obj(&object)).is_none();
        self.apply(&watcher::Event::Apply(object));
        is_new
    }

    fn remove(&self, object: BytebaseCluster) {
        self.apply(&watcher::Event::Delete(object));
    }

    fn select(&self, gone: &dyn Fn(&ObjectName) -> bool) -> Vec<BytebaseCluster> {
        self.store
            .state_filter(|object| gone(&ObjectName::of(object)))
            .iter()
            .map(|object| object.as_ref().clone())
            .collect()
    }
}

/// Objects as JSON: a StatefulSet takes a fifth of the memory that its type would, and is read only
/// when its cluster is reconciled.
#[derive(Default)]
pub struct Serialized(Mutex<HashMap<ObjectName, Box<[u8]>>>);

impl Serialized {
    /// Reads an object as the type that is wanted.
    fn read<T: DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<T> {
        let key = ObjectName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        deserialize(self.0.lock().get(&key)?)
    }
}

impl<K: Cached> Storage<K> for Serialized {
    fn put(&self, object: K) -> bool {
        let key = ObjectName::of(&object);
        let Ok(json) = serde_json::to_vec(&object) else {
            // Kubernetes' own types are JSON; one that were not would be read from the API server
            // instead.
            Storage::<K>::remove(self, object);
            return false;
        };
        self.0.lock().insert(key, json.into()).is_none()
    }

    fn remove(&self, object: K) {
        self.0.lock().remove(&ObjectName::of(&object));
    }

    fn select(&self, gone: &dyn Fn(&ObjectName) -> bool) -> Vec<K> {
        self.0
            .lock()
            .iter()
            .filter(|(key, _)| gone(key))
            .filter_map(|(_, json)| deserialize(json))
            .collect()
    }
}

/// What was serialized is JSON of the same kind.
fn deserialize<T: DeserializeOwned>(json: &[u8]) -> Option<T> {
    serde_json::from_slice(json).ok()
}

/// The objects of one kind, fed by one watch or (one per namespace) by several.
pub struct Cache<K: Cached, S: Storage<K> = Serialized> {
    storage: S,
    /// Watches whose first listing has not come in.
    waiting: AtomicUsize,
    /// The API server does not know the kind.
    not_installed: AtomicBool,
    kind: PhantomData<fn() -> K>,
}

impl<K: Cached, S: Storage<K>> Default for Cache<K, S> {
    fn default() -> Self {
        Self {
            storage: S::default(),
            waiting: AtomicUsize::new(0),
            not_installed: AtomicBool::new(false),
            kind: PhantomData,
        }
    }
}

impl<K: Cached, S: Storage<K>> Cache<K, S> {
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

    /// Notes whether the API server lacks the kind; true if that is news.
    pub fn set_not_installed(&self, lacking: bool) -> bool {
        self.not_installed.swap(lacking, Ordering::Relaxed) != lacking
    }

    /// Adds or replaces an object. True if it was not there.
    pub fn put(&self, object: K) -> bool {
        self.storage.put(object)
    }

    /// Takes an object away.
    pub fn remove(&self, object: K) {
        self.storage.remove(object);
    }

    /// Objects of a namespace (or of all) that are not among `seen`: they went while the watch was
    /// away.
    pub fn vanished(&self, namespace: Option<&str>, seen: &HashSet<ObjectName>) -> Vec<K> {
        self.storage.select(&|object| {
            namespace.is_none_or(|namespace| object.namespace == namespace)
                && !seen.contains(object)
        })
    }
}

impl Cache<BytebaseCluster, Live> {
    /// The reader that the queue takes clusters from.
    pub fn store(&self) -> Store<BytebaseCluster> {
        self.storage.store.clone()
    }
}

impl Cache<Pod> {
    /// One pod.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Pod> {
        self.storage.read(namespace, name)
    }
}

/// All caches.
pub struct Caches {
    /// `BytebaseCluster`s.
    pub clusters: Arc<Cache<BytebaseCluster, Live>>,
    /// Pods, trimmed.
    pub pods: Arc<Cache<Pod>>,
    owned: BTreeMap<Kind, Arc<Cache<DynamicObject>>>,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            clusters: Arc::default(),
            pods: Arc::default(),
            owned: Kind::owned().map(|kind| (kind, Arc::default())).collect(),
        }
    }
}

impl Caches {
    /// The caches of the kinds that a cluster owns.
    pub fn owned(&self) -> impl Iterator<Item = (Kind, &Arc<Cache<DynamicObject>>)> {
        self.owned.iter().map(|(kind, cache)| (*kind, cache))
    }

    /// Whether all objects of an owned kind have come in.
    pub fn is_complete(&self, kind: Kind) -> bool {
        self.owned
            .get(&kind)
            .is_some_and(|cache| cache.is_complete())
    }

    /// One owned object as the type that is wanted.
    pub fn read<T: DeserializeOwned>(&self, kind: Kind, namespace: &str, name: &str) -> Option<T> {
        self.owned.get(&kind)?.storage.read(namespace, name)
    }

    /// One owned object in the form that `apply` compares.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<DynamicObject> {
        let object = self.read::<DynamicObject>(kind, namespace, name)?;
        Some(DynamicObject {
            // An event of a watch carries it and an item of a listing does not, so neither keeps it.
            types: Some(TypeMeta {
                api_version: kind.api_version(),
                kind: kind.name().to_owned(),
            }),
            ..object
        })
    }

    /// Kinds that the API server does not know.
    pub fn not_installed(&self) -> Vec<Kind> {
        self.owned()
            .filter(|(_, cache)| cache.not_installed.load(Ordering::Relaxed))
            .map(|(kind, _)| kind)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    fn service(name: &str) -> DynamicObject {
        // As a listing brings it: without its kind.
        let object = json!({
            "metadata": {"name": name, "namespace": "team", "resourceVersion": "7"},
            "spec": {"ports": [{"port": 80}]},
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn an_object_is_read_as_the_type_that_is_wanted() {
        let caches = Caches::default();
        assert!(caches.owned[&Kind::Service].put(service("demo")));
        assert!(
            !caches.owned[&Kind::Service].put(service("demo")),
            "it was there"
        );
        let typed: Service = caches.read(Kind::Service, "team", "demo").unwrap();
        assert_eq!(typed.spec.unwrap().ports.unwrap()[0].port, 80);
        let object = caches.get(Kind::Service, "team", "demo").unwrap();
        let value = serde_json::to_value(&object).unwrap();
        assert_eq!(
            (&value["apiVersion"], &value["kind"]),
            (&json!("v1"), &json!("Service"))
        );
        assert!(caches.get(Kind::Service, "other", "demo").is_none());
        assert!(caches.get(Kind::Ingress, "team", "demo").is_none());
        caches.owned[&Kind::Service].remove(object);
        assert!(caches.get(Kind::Service, "team", "demo").is_none());
    }

    #[test]
    fn what_a_listing_lacks_has_vanished_from_its_namespace() {
        let cache = Cache::<DynamicObject>::default();
        for name in ["demo", "gone"] {
            cache.put(service(name));
        }
        let seen = HashSet::from([ObjectName::of(&service("demo"))]);
        for (namespace, expected) in [(None, 1), (Some("team"), 1), (Some("other"), 0)] {
            let vanished = cache.vanished(namespace, &seen);
            assert_eq!(vanished.len(), expected, "{namespace:?}");
            assert!(
                vanished
                    .iter()
                    .all(|object| object.metadata.name.as_deref() == Some("gone"))
            );
        }
    }

    #[test]
    fn a_kind_is_complete_with_its_last_listing_and_may_be_lacking() {
        let caches = Caches::default();
        let cache = &caches.owned[&Kind::HttpRoute];
        cache.expect_watch();
        cache.expect_watch();
        cache.listed();
        assert!(!caches.is_complete(Kind::HttpRoute));
        cache.listed();
        assert!(caches.is_complete(Kind::HttpRoute));
        assert!(cache.set_not_installed(true) && !cache.set_not_installed(true));
        assert_eq!(caches.not_installed(), [Kind::HttpRoute]);
    }
}
