//! What the watches have seen: one cache per kind, filled by `watches` and read by reconciles.

use crate::api::BytebaseCluster;
use crate::kubernetes::{Kind, Readable, ResourceVersion};
use crate::observation::PodRefusal;
use crate::observe::pod_events::{PREPARATIONS, PodEvents};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::DynamicObject;
use kube::core::TypeMeta;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A type whose objects can be cached.
pub trait Cached:
    Resource + Readable + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}
impl<K> Cached for K where
    K: Resource + Readable + Clone + Debug + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

/// Namespace and name of an object of a known kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectName {
    namespace: String,
    name: String,
}

impl ObjectName {
    /// Of an object of which only these are known.
    pub fn new(namespace: String, name: String) -> Self {
        Self { namespace, name }
    }

    /// Of an object.
    pub fn of(object: &impl Resource) -> Self {
        Self::of_metadata(object.meta())
    }

    /// Of an object of which only the metadata are known.
    pub fn of_metadata(meta: &ObjectMeta) -> Self {
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

/// An object is kept up to so many bytes of JSON. A spec has 64 KiB, and what comes of one has room
/// for what the API server and others add. Anyone who may write such objects can put the operator's
/// label on as many as the quota of a namespace takes, and labels have no bound but that of etcd.
pub const LONGEST_OBJECT: usize = 256 * 1024;

/// What came of an object that a cache was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// It was not there; of events, it says something new.
    New,
    /// It was there.
    Known,
    /// It is longer than [`LONGEST_OBJECT`], and not kept. What was there stays.
    TooLong,
}

impl Put {
    fn new(is_new: bool) -> Self {
        if is_new { Self::New } else { Self::Known }
    }
}

/// Where the objects of one cache lie.
pub trait Storage<K: Cached>: Default + Send + Sync + 'static {
    /// Adds or replaces an object.
    fn put(&self, object: K) -> Put;
    /// Takes an object away.
    fn remove(&self, object: K);
    /// Objects that `gone` says are gone.
    fn select(&self, gone: &dyn Fn(&ObjectName) -> bool) -> Vec<K>;
}

/// Clusters as they are read: what the queue takes them from.
pub struct Typed {
    writer: Mutex<Writer<BytebaseCluster>>,
    store: Store<BytebaseCluster>,
}

impl Default for Typed {
    fn default() -> Self {
        let mut writer = Writer::default();
        // Each watch brings its objects one by one, so the store never starts again as a whole.
        writer.apply_watcher_event(&watcher::Event::Init);
        writer.apply_watcher_event(&watcher::Event::InitDone);
        Self {
            store: writer.as_reader(),
            writer: Mutex::new(writer),
        }
    }
}

impl Typed {
    fn apply(&self, event: &watcher::Event<BytebaseCluster>) {
        self.writer.lock().apply_watcher_event(event);
    }
}

impl Storage<BytebaseCluster> for Typed {
    fn put(&self, object: BytebaseCluster) -> Put {
        let is_new = self.store.get(&ObjectRef::from_obj(&object)).is_none();
        self.apply(&watcher::Event::Apply(object));
        Put::new(is_new)
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
pub struct Serialized(Mutex<HashMap<ObjectName, Box<str>>>);

impl Serialized {
    /// Reads an object as the type that is wanted.
    fn read<T: DeserializeOwned>(&self, namespace: &str, name: &str) -> Option<T> {
        let key = ObjectName::new(namespace.to_owned(), name.to_owned());
        deserialize(self.0.lock().get(&key)?)
    }

    fn version(&self, name: &ObjectName) -> Option<ResourceVersion> {
        let object: Versioned = deserialize(self.0.lock().get(name)?)?;
        Some(object.metadata.resource_version)
    }

    fn names(&self) -> Vec<ObjectName> {
        self.0.lock().keys().cloned().collect()
    }
}

/// The version of an object, and nothing else of it.
#[derive(Deserialize)]
struct Versioned {
    metadata: VersionedMetadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct VersionedMetadata {
    resource_version: ResourceVersion,
}

impl<K: Cached> Storage<K> for Serialized {
    fn put(&self, object: K) -> Put {
        let key = ObjectName::of(&object);
        let Ok(json) = serde_json::to_string(&object) else {
            // Kubernetes' own types are JSON; one that were not would be read from the API server
            // instead.
            Storage::<K>::remove(self, object);
            return Put::Known;
        };
        if json.len() > LONGEST_OBJECT {
            return Put::TooLong;
        }
        Put::new(self.0.lock().insert(key, json.into()).is_none())
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

/// Events about pods, as the reasons that they give.
#[derive(Default)]
pub struct Events(Mutex<PodEvents>);

impl Storage<Event> for Events {
    fn put(&self, object: Event) -> Put {
        Put::new(self.0.lock().put(&object, Timestamp::now()))
    }

    fn remove(&self, object: Event) {
        self.0.lock().remove(&object);
    }

    fn select(&self, gone: &dyn Fn(&ObjectName) -> bool) -> Vec<Event> {
        self.0
            .lock()
            .select(|namespace, name| gone(&ObjectName::new(namespace.to_owned(), name.to_owned())))
    }
}

/// What was serialized is JSON of the same kind. From text, as watches and answers are read: how a
/// large type is read from bytes would be in the program a second time.
fn deserialize<T: DeserializeOwned>(json: &str) -> Option<T> {
    serde_json::from_str(json).ok()
}

/// A listing that has been refused for so long is not about to come in: after an outage of the API
/// server each kind comes back by itself, seconds after the others.
const LASTS_FROM: Duration = Duration::from_secs(15);

/// What was said of a pod's preparation so long before the last thing that was is over: what goes
/// on is tried again, and said again, within two minutes.
const OVER_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// A listing that has not come in.
#[derive(Clone, Copy, Default)]
struct Lacking {
    /// The HTTP status with which the API server refuses it, if it does.
    refusal: Option<u16>,
    /// Since when it has been refused each time.
    since: Option<Instant>,
}

impl Lacking {
    /// After another failure.
    fn failed(self, refusal: Option<u16>) -> Self {
        Self {
            refusal,
            since: refusal.and_then(|_| self.since.or_else(|| Some(Instant::now()))),
        }
    }

    /// Whether it is worth a word.
    fn lasts(self) -> bool {
        let has_lasted = |since: Instant| since.elapsed() >= LASTS_FROM;
        self.refusal == Some(403) || self.since.is_some_and(has_lasted)
    }

    /// What cannot be seen, and what to do.
    fn message(self, kind: Kind, namespace: &str) -> String {
        let plural = kind.plural();
        match self.refusal {
            Some(403) => format!(
                "the operator may not watch {plural} in namespace {namespace}: grant its role get, list and watch on them"
            ),
            Some(code) => format!(
                "the operator cannot list {plural} in namespace {namespace}, which the API server answers with HTTP status {code}; it goes on trying"
            ),
            None => format!(
                "the operator cannot list {plural} in namespace {namespace} now; it goes on trying"
            ),
        }
    }
}

/// The objects of one kind, fed by one watch or (one per namespace) by several.
pub struct Cache<K: Cached, S: Storage<K> = Serialized> {
    storage: S,
    /// Namespaces (`None`: all) of which what is here is not known to be all: the first listing has
    /// not come in, or the watch is lost.
    waiting: Mutex<BTreeMap<Option<String>, Lacking>>,
    /// The API server does not know the kind.
    not_installed: AtomicBool,
    kind: PhantomData<fn() -> K>,
}

impl<K: Cached, S: Storage<K>> Default for Cache<K, S> {
    fn default() -> Self {
        Self {
            storage: S::default(),
            waiting: Mutex::default(),
            not_installed: AtomicBool::new(false),
            kind: PhantomData,
        }
    }
}

impl<K: Cached, S: Storage<K>> Cache<K, S> {
    /// Announces a watch of one namespace (`None`: of all) that will feed this cache.
    pub fn expect_watch(&self, namespace: Option<&str>) {
        self.waiting
            .lock()
            .insert(namespace.map(str::to_owned), Lacking::default());
    }

    /// The first listing of a watch failed, or that after its loss, with this HTTP status if the
    /// API server refused it.
    pub fn not_listed(&self, namespace: Option<&str>, refusal: Option<u16>) {
        let mut waiting = self.waiting.lock();
        if let Some(known) = waiting.get_mut(&namespace.map(str::to_owned)) {
            *known = known.failed(refusal);
        }
    }

    /// A watch has been away for so long that what is here counts for nothing until it has listed
    /// everything again. True if that is news.
    pub fn lost(&self, namespace: Option<&str>, refusal: Option<u16>) -> bool {
        let mut waiting = self.waiting.lock();
        let Entry::Vacant(place) = waiting.entry(namespace.map(str::to_owned)) else {
            // What keeps it away is known already.
            return false;
        };
        place.insert(Lacking::default().failed(refusal));
        true
    }

    /// A watch has brought a listing. True if it was waited for.
    pub fn listed(&self, namespace: Option<&str>) -> bool {
        let mut waiting = self.waiting.lock();
        waiting.remove(&namespace.map(str::to_owned)).is_some()
    }

    /// The listing that lacks for this namespace; `None` if what is not here does not exist.
    fn lacking(&self, namespace: &str) -> Option<Lacking> {
        let waiting = self.waiting.lock();
        let lacking = waiting.get(&None);
        lacking
            .or_else(|| waiting.get(&Some(namespace.to_owned())))
            .copied()
    }

    /// Notes whether the API server lacks the kind; true if that is news.
    pub fn set_not_installed(&self, lacking: bool) -> bool {
        self.not_installed.swap(lacking, Ordering::Relaxed) != lacking
    }

    /// Adds or replaces an object.
    pub fn put(&self, object: K) -> Put {
        self.storage.put(object)
    }

    /// Takes an object away.
    pub fn remove(&self, object: K) {
        self.storage.remove(object);
    }

    /// The object of that name, if it is here.
    pub fn named(&self, name: &ObjectName) -> Vec<K> {
        self.storage.select(&|object| object == name)
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

impl Cache<BytebaseCluster, Typed> {
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
    pub clusters: Arc<Cache<BytebaseCluster, Typed>>,
    /// Pods, trimmed.
    pub pods: Arc<Cache<Pod>>,
    /// Events about pods that were made or refused.
    pub creations: Arc<Cache<Event, Events>>,
    /// Events about pods that could not be prepared for their containers, by their reasons in
    /// [`PREPARATIONS`].
    pub preparations: [Arc<Cache<Event, Events>>; PREPARATIONS.len()],
    owned: BTreeMap<Kind, Arc<Cache<DynamicObject>>>,
}

impl Default for Caches {
    fn default() -> Self {
        Self {
            clusters: Arc::default(),
            pods: Arc::default(),
            creations: Arc::default(),
            preparations: PREPARATIONS.map(|_| Arc::default()),
            owned: Kind::owned().map(|kind| (kind, Arc::default())).collect(),
        }
    }
}

impl Caches {
    /// The caches of the kinds that a cluster owns.
    pub fn owned(&self) -> impl Iterator<Item = (Kind, &Arc<Cache<DynamicObject>>)> {
        self.owned.iter().map(|(kind, cache)| (*kind, cache))
    }

    /// The version in which the watches have shown an object last, if it is here: a cluster, a pod,
    /// or an owned object.
    pub fn version(&self, kind: Kind, name: &ObjectName) -> Option<ResourceVersion> {
        if kind == Kind::BytebaseCluster {
            let key = ObjectRef::new(&name.name).within(&name.namespace);
            let cluster = self.clusters.storage.store.get(&key)?;
            return cluster.metadata.resource_version.clone().map(Into::into);
        }
        self.serialized(kind)?.version(name)
    }

    /// The objects of such a kind that are here, in a namespace or in all.
    pub fn names(&self, kind: Kind, namespace: Option<&str>) -> Vec<ObjectName> {
        let mut names = if kind == Kind::BytebaseCluster {
            let clusters = self.clusters.storage.store.state();
            let names = clusters.iter();
            names
                .map(|cluster| ObjectName::of(cluster.as_ref()))
                .collect()
        } else {
            self.serialized(kind)
                .map_or_else(Vec::new, Serialized::names)
        };
        names.retain(|name| namespace.is_none_or(|namespace| name.namespace == namespace));
        names
    }

    fn serialized(&self, kind: Kind) -> Option<&Serialized> {
        if kind == Kind::Pod {
            return Some(&self.pods.storage);
        }
        Some(&self.owned.get(&kind)?.storage)
    }

    /// What of a namespace cannot be seen though nothing can be decided without it, and what to do.
    pub fn unseen(&self, namespace: &str) -> Option<String> {
        let sets = self.owned.get(&Kind::StatefulSet);
        let found = [
            (
                Kind::StatefulSet,
                sets.and_then(|sets| sets.lacking(namespace)),
            ),
            (Kind::Pod, self.pods.lacking(namespace)),
        ];
        let (kind, lacking) = found
            .into_iter()
            .find_map(|(kind, lacking)| Some((kind, lacking?)))?;
        Some(lacking.message(kind, namespace))
    }

    /// Whether what is here of an owned kind in this namespace is all that there is.
    pub fn sees(&self, kind: Kind, namespace: &str) -> bool {
        let cache = self.owned.get(&kind);
        cache.is_none_or(|cache| cache.lacking(namespace).is_none())
    }

    /// The other owned kinds that cannot be seen in a namespace and are not about to be, each with
    /// why and what to do.
    pub fn kinds_unseen(&self, namespace: &str) -> Vec<(Kind, String)> {
        let others = self.owned().filter(|(kind, _)| *kind != Kind::StatefulSet);
        let lacking = others.filter_map(|(kind, cache)| Some((kind, cache.lacking(namespace)?)));
        lacking
            .filter(|(_, lacking)| lacking.lasts())
            .map(|(kind, lacking)| (kind, lacking.message(kind, namespace)))
            .collect()
    }

    /// Why the controller of this StatefulSet could not make one of these pods.
    pub fn refusal(
        &self,
        namespace: &str,
        set: &str,
        set_uid: &str,
        missing: &[String],
    ) -> Option<PodRefusal> {
        let creations = self.creations.storage.0.lock();
        creations.refusal(namespace, set, set_uid, missing)
    }

    /// Why this pod cannot be prepared for its containers: a volume of it cannot be attached or
    /// mounted, or it gets no sandbox. Of several reasons that go on always the same, and what the
    /// kubelet says while it waits for an attachment ("Unable to attach or
    /// mount volumes") is by its first letter the last of them.
    pub fn unprepared(&self, namespace: &str, set: &str, pod_uid: &str) -> Option<String> {
        let mut failed = Vec::new();
        for cache in &self.preparations {
            let events = cache.storage.0.lock();
            failed.extend(events.unprepared(namespace, set, pod_uid));
        }
        let newest = failed.iter().map(|(last, _)| *last).max()?;
        let goes_on = |last: Timestamp| newest.duration_since(last) < OVER_AFTER;
        failed
            .into_iter()
            .filter(|(last, _)| goes_on(*last))
            .map(|(_, message)| message)
            .min()
    }

    /// One owned object as the type that is wanted.
    pub fn read<T: DeserializeOwned>(&self, kind: Kind, namespace: &str, name: &str) -> Option<T> {
        self.owned.get(&kind)?.storage.read(namespace, name)
    }

    /// One owned object in the form that `apply` compares.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<DynamicObject> {
        let object = self.read::<DynamicObject>(kind, namespace, name)?;
        Some(DynamicObject {
            // An event of a watch carries it and an item of a listing does not, so neither keeps
            // it.
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
    fn what_keeps_a_volume_from_being_attached_says_more_than_that_it_is_waited_for() {
        let caches = Caches::default();
        let unprepared = || caches.unprepared("team", "demo", "pod");
        let put_at = |minute: u8, reason: &str, message: &str| {
            let event = json!({
                "metadata": {"name": reason, "namespace": "team"},
                "involvedObject": {"kind": "Pod", "namespace": "team", "name": "demo-1", "uid": "pod"},
                "reason": reason, "message": message, "lastTimestamp": format!("2026-06-01T00:{minute:02}:00Z"),
            });
            let place = PREPARATIONS
                .iter()
                .position(|known| *known == reason)
                .unwrap();
            let event = serde_json::from_value(event).unwrap();
            caches.preparations[place].put(event);
        };
        let put = |reason: &str, message: &str| put_at(0, reason, message);
        assert_eq!(unprepared(), None);
        let waits = "Unable to attach or mount volumes: unmounted volumes=[data]";
        put("FailedMount", waits);
        assert_eq!(unprepared().as_deref(), Some(waits));
        let cause =
            "Multi-Attach error for volume \"pvc-1\" Volume is already used by pod(s) demo-0";
        put("FailedAttachVolume", cause);
        assert_eq!(unprepared().as_deref(), Some(cause));
        put("FailedMapVolume", "MapVolume.SetUpDevice failed");
        assert_eq!(
            unprepared().as_deref(),
            Some("MapVolume.SetUpDevice failed")
        );
        // The volume has been attached since, and cannot be mounted for another reason.
        let present = "MountVolume.SetUp failed: secret \"gone\" not found";
        put_at(4, "FailedMount", present);
        assert_eq!(
            unprepared().as_deref(),
            Some("MapVolume.SetUpDevice failed")
        );
        put_at(5, "FailedMount", present);
        assert_eq!(unprepared().as_deref(), Some(present));
    }

    #[test]
    fn an_object_is_read_as_the_type_that_is_wanted() {
        let caches = Caches::default();
        let services = &caches.owned[&Kind::Service];
        assert_eq!(services.put(service("demo")), Put::New);
        assert_eq!(services.put(service("demo")), Put::Known);
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
    fn an_object_that_is_too_long_is_not_kept_and_leaves_what_was_known_of_it() {
        let caches = Caches::default();
        let services = &caches.owned[&Kind::Service];
        let padded = || {
            let mut object = service("demo");
            let labels = object.metadata.labels.get_or_insert_default();
            for index in 0..LONGEST_OBJECT / 64 {
                labels.insert(format!("label-{index}"), "x".repeat(63));
            }
            object
        };
        assert_eq!(services.put(padded()), Put::TooLong);
        assert!(caches.get(Kind::Service, "team", "demo").is_none());
        services.put(service("demo"));
        assert_eq!(services.put(padded()), Put::TooLong);
        let kept = caches.get(Kind::Service, "team", "demo").unwrap();
        assert_eq!(kept.metadata, service("demo").metadata);
    }

    #[test]
    fn the_version_of_an_object_is_the_one_that_was_shown_last() {
        let caches = Caches::default();
        for version in ["9", "12"] {
            let metadata = json!({"name": "demo", "namespace": "team", "resourceVersion": version});
            let object = json!({"metadata": metadata});
            caches
                .pods
                .put(serde_json::from_value(object.clone()).unwrap());
            caches.owned[&Kind::StatefulSet].put(serde_json::from_value(object).unwrap());
            let mut cluster = crate::testing::cluster(&json!({}));
            cluster.metadata = serde_json::from_value(metadata).unwrap();
            caches.clusters.put(cluster);
            for kind in [Kind::BytebaseCluster, Kind::StatefulSet, Kind::Pod] {
                let names = caches.names(kind, Some("team"));
                let shown: Vec<_> = names
                    .iter()
                    .filter_map(|name| caches.version(kind, name))
                    .collect();
                let expected = ResourceVersion::from(version.to_owned());
                assert_eq!(shown, [expected], "{kind}");
                assert_eq!(caches.names(kind, None), names, "{kind}");
                assert_eq!(caches.names(kind, Some("other")), [], "{kind}");
            }
        }
        let other = ObjectName::new("team".to_owned(), "other".to_owned());
        assert_eq!(caches.version(Kind::Pod, &other), None);
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
    fn a_kind_may_be_lacking() {
        let caches = Caches::default();
        let cache = &caches.owned[&Kind::HttpRoute];
        assert!(cache.set_not_installed(true) && !cache.set_not_installed(true));
        assert_eq!(caches.not_installed(), [Kind::HttpRoute]);
    }
    #[test]
    fn a_namespace_is_seen_when_its_own_listings_have_come_in() {
        let caches = Caches::default();
        let sets = &caches.owned[&Kind::StatefulSet];
        for namespace in [Some("a"), Some("b")] {
            sets.expect_watch(namespace);
            caches.pods.expect_watch(namespace);
        }
        sets.listed(Some("a"));
        caches.pods.listed(Some("a"));
        sets.not_listed(Some("b"), Some(403));
        assert_eq!(caches.unseen("a"), None);
        let message = caches.unseen("b").unwrap();
        assert!(
            message.contains("may not watch statefulsets in namespace b"),
            "{message}"
        );
        sets.listed(Some("b"));
        caches.pods.not_listed(Some("b"), Some(503));
        let message = caches.unseen("b").unwrap();
        assert!(
            message.contains("cannot list pods in namespace b"),
            "{message}"
        );
        caches.pods.listed(Some("b"));
        assert_eq!(caches.unseen("b"), None);
        // A watch over all namespaces stands for each.
        sets.expect_watch(None);
        assert!(caches.unseen("a").is_some());
    }

    #[test]
    fn a_kind_that_lacks_alone_is_named_once_it_is_not_about_to_be_seen() {
        let caches = Caches::default();
        let cache = &caches.owned[&Kind::Ingress];
        let named = || -> Vec<Kind> {
            let kinds = caches.kinds_unseen("a").into_iter();
            kinds.map(|(kind, _)| kind).collect()
        };
        assert!(caches.sees(Kind::Ingress, "a"));
        cache.expect_watch(None);
        assert!(!caches.sees(Kind::Ingress, "a") && caches.sees(Kind::Service, "a"));
        for refusal in [None, Some(503)] {
            cache.not_listed(None, refusal);
            assert_eq!(named(), [], "it may come any moment");
        }
        cache.not_listed(None, Some(403));
        assert_eq!(named(), [Kind::Ingress]);
        let long_ago = Instant::now().checked_sub(LASTS_FROM);
        cache.waiting.lock().get_mut(&None).unwrap().since = long_ago;
        cache.lost(None, Some(503));
        assert_eq!(named(), [Kind::Ingress], "it has been refused for long");
        cache.not_listed(None, None);
        assert_eq!(named(), [], "the API server does not answer");
        cache.listed(None);
        assert!(caches.sees(Kind::Ingress, "a"));
        assert_eq!(caches.unseen("a"), None, "the others are seen");
    }
}
