//! One watch per kind (and namespace), each a task of its own with its own back-off, so that a kind
//! that is forbidden or an overloaded resource delays nothing else. What a watch sees goes into its
//! cache, and the cluster concerned into the queue.

use super::backoff::{self, Backoff};
use super::catch_up::Followed;
use super::context::Context;
use super::server::Missing;
use super::tasks::Essential;
use crate::api::BytebaseCluster;
use crate::apply::objects::resource;
use crate::desired::{CLUSTER_LABEL, MANAGED_BY};
use crate::kubernetes::{Guarded, Kind, is_garbage_collectors};
use crate::observe::caches::{Cache, Cached, ObjectName, Put, Storage};
use crate::observe::{pod, pod_events};
use crate::process::queue::Key;
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DynamicObject;
use kube::core::PartialObjectMeta;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use std::any::Any;
use std::collections::HashSet;
use std::fmt::Debug;
use std::iter;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Longest pause of a watch whose connection failed. Until it is back nothing new is seen, so it
/// must not come long after the API server.
const LOST: Duration = Duration::from_secs(5);
/// Longest pause of a watch that was refused: an administrator must grant a right or install a kind
/// first.
const REFUSED: Duration = Duration::from_secs(30);
/// A watch that has not failed for so long starts with the shortest pause again.
const CALM: Duration = Duration::from_mins(2);

/// A watch whose first listing has failed for so long does not keep the others from being acted
/// on any longer. What it should have brought is missing for its namespace alone, and said to be.
const FIRST_LISTING: Duration = Duration::from_secs(15);

/// A watch all of whose tries have failed for so long, and for so many of them, has lost sight:
/// what it showed last need not be the present any more. Few in so long may each have followed a
/// watch that had nothing to show.
const BLIND_AFTER: Duration = Duration::from_mins(1);
/// See [`BLIND_AFTER`].
const BLIND_TRIES: u32 = 4;
/// A watch that was refused and has said nothing for so long since stands. An API server that does
/// not answer is silent as well, until the client gives up on it: for a connection after 30
/// seconds, and for an answer after [`SILENCE_SECONDS`].
const STANDS_AFTER: Duration = Duration::from_mins(2);

/// Starts every watch. Each holds a handle on readiness until its first listing, or until it is
/// known to be forbidden or to fail. Returns those that must show what is stored before a process
/// that begins to lead decides: what is written of the other kinds follows from these alone.
pub fn start(
    context: &Arc<Context>,
    client: &Client,
    readiness: &super::server::Readiness,
    essential: &Essential,
) -> Vec<Followed> {
    let namespaces: Vec<Option<String>> = if context.options.namespaces.is_empty() {
        vec![None]
    } else {
        context
            .options
            .namespaces
            .iter()
            .cloned()
            .map(Some)
            .collect()
    };
    let mut followed = Vec::new();
    for namespace in namespaces {
        let watch = Watch {
            context: Arc::clone(context),
            client: client.clone(),
            namespace,
            readiness: readiness.clone(),
            essential: essential.clone(),
        };
        let clusters = watch.cached(
            Kind::BytebaseCluster,
            watch.api(),
            everything().labels_from(&context.options.cluster_labels.iter().cloned().collect()),
            &context.sources.caches.clusters,
            trim_cluster,
            key_of_cluster,
        );
        let pods = watch.cached(
            Kind::Pod,
            watch.api(),
            ours(),
            &context.sources.caches.pods,
            pod::trim,
            key_by_label,
        );
        followed.extend([clusters, pods]);
        for (kind, cache) in context.sources.caches.owned() {
            let owned = watch.cached(
                kind,
                watch.api_of(kind),
                ours(),
                cache,
                strip_types,
                key_by_label,
            );
            if kind == Kind::StatefulSet {
                followed.push(owned);
            }
        }
        let caches = &context.sources.caches;
        let creations = (pod_events::CREATIONS.to_owned(), &caches.creations);
        let preparations = pod_events::PREPARATIONS.map(pod_events::of_pods);
        for (selector, cache) in
            iter::once(creations).chain(preparations.into_iter().zip(&caches.preparations))
        {
            watch.cached(
                Kind::Event,
                watch.api(),
                everything().fields(&selector),
                cache,
                strip,
                key_of_failure,
            );
        }
        watch.named::<Secret>(Kind::Secret);
        watch.named::<ConfigMap>(Kind::ConfigMap);
    }
    followed
}

struct Watch {
    context: Arc<Context>,
    client: Client,
    namespace: Option<String>,
    readiness: super::server::Readiness,
    essential: Essential,
}

/// Listings come in pages of so many objects: a page is decoded at once, and the memory for it is
/// never given back. Each object may be as large as etcd takes, 1.5 MB, metadata alone as well, and
/// the labels of a watch keep no user from writing many such. A thousand clusters with three
/// replicas each are a hundred pages, and their pods, which are the most, three hundred: a second
/// or two, while the other kinds are listed at the same time.
const PAGE: u32 = 10;

/// The API server ends each watch after so long, and one that says nothing for a moment longer is
/// given up. A connection may break without a word (a firewall that forgets it), and until then the
/// operator sees nothing change; what it costs is a request a minute for each kind.
const WATCH_SECONDS: u32 = 60;
/// A connection of a watch on which nothing has come in for so long is given up.
pub const SILENCE_SECONDS: u32 = WATCH_SECONDS + 10;

fn everything() -> watcher::Config {
    watcher::Config::default()
        .page_size(PAGE)
        .timeout(WATCH_SECONDS)
}

/// What carries the operator's label.
fn ours() -> watcher::Config {
    everything().labels(&format!("{}={}", MANAGED_BY.0, MANAGED_BY.1))
}

/// A copy of the whole object, which `kubectl apply` leaves in it.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn strip<K: Cached>(object: &mut K) {
    let metadata = object.meta_mut();
    metadata.managed_fields = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.remove(LAST_APPLIED);
    }
}

/// Keeps of a cluster's metadata what is read of them: the rest may be as long as whoever writes it
/// likes.
fn trim_cluster(cluster: &mut BytebaseCluster) {
    let metadata = std::mem::take(&mut cluster.metadata);
    // That there is one of another party's is all that is asked of them.
    let finalizers = metadata.finalizers.into_iter().flatten();
    let mut others = finalizers.filter(|finalizer| !is_garbage_collectors(finalizer));
    cluster.metadata = ObjectMeta {
        name: metadata.name,
        namespace: metadata.namespace,
        uid: metadata.uid,
        resource_version: metadata.resource_version,
        generation: metadata.generation,
        creation_timestamp: metadata.creation_timestamp,
        deletion_timestamp: metadata.deletion_timestamp,
        finalizers: others.next().map(|finalizer| vec![finalizer]),
        ..ObjectMeta::default()
    };
}

/// The cache knows the kind, and an item of a listing does not carry it.
fn strip_types(object: &mut DynamicObject) {
    strip(object);
    object.types = None;
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "of the same form as `key_by_label`"
)]
fn key_of_cluster(cluster: &BytebaseCluster) -> Option<Key> {
    Some(ObjectRef::from_obj(cluster))
}

/// The cluster whose pod an event says to have failed; it has the name of its StatefulSet.
fn key_of_failure(event: &k8s_openapi::api::core::v1::Event) -> Option<Key> {
    if !pod_events::is_failure(event) {
        return None;
    }
    let (namespace, set) = pod_events::set_of(event)?;
    Some(ObjectRef::new(set).within(namespace))
}

fn key_by_label<K: Cached>(object: &K) -> Option<Key> {
    let name = object.labels().get(CLUSTER_LABEL)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

impl Watch {
    /// What the task that watches a kind is called.
    fn task(&self, kind: Kind) -> String {
        let namespace = self.namespace.as_deref().unwrap_or("all namespaces");
        format!("watch {} in {namespace}", kind.plural())
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn api_of(&self, kind: Kind) -> Api<Guarded<DynamicObject>> {
        match &self.namespace {
            Some(namespace) => {
                Api::namespaced_with(self.client.clone(), namespace, &resource(kind))
            }
            None => Api::all_with(self.client.clone(), &resource(kind)),
        }
    }

    /// Watches a kind into its cache.
    fn cached<K: Cached, S: Storage<K>>(
        &self,
        kind: Kind,
        api: Api<Guarded<K>>,
        config: watcher::Config,
        cache: &Arc<Cache<K, S>>,
        trim: fn(&mut K),
        key: fn(&K) -> Option<Key>,
    ) -> Followed
    where
        K::DynamicType: Clone,
    {
        cache.expect_watch(self.namespace.as_deref());
        let mut feed = Feed::new(&self.context, kind, cache, trim, key);
        feed.namespace.clone_from(&self.namespace);
        feed.missing = Some(self.readiness.missing(kind.name()));
        let (begin_again, again) = unbounded_channel();
        let followed = Followed {
            context: Arc::clone(&self.context),
            client: self.client.clone(),
            kind,
            namespace: self.namespace.clone(),
            selector: config.label_selector.clone(),
            begin_again,
        };
        let watch = move || watcher::watcher(api.clone(), config.clone());
        self.essential
            .spawn(self.task(kind), feed.run(watch, again));
        followed
    }

    /// Watches names only: that an object changed, never its values.
    fn named<K>(&self, kind: Kind)
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
            + Clone
            + Debug
            + Send
            + 'static,
    {
        let api = self.api::<Guarded<PartialObjectMeta<K>>>();
        let begin = move || watcher::watcher(api.clone(), everything());
        let context = Arc::clone(&self.context);
        let task = follow_names(context, kind, self.namespace.clone(), begin);
        self.essential.spawn(self.task(kind), task);
    }
}

/// Follows a watch of names, and begins it again with a listing whenever it fails: one that goes on
/// where it broke off shows nothing until an object changes, and nothing that was read would be
/// kept until then.
pub(super) async fn follow_names<K, W>(
    context: Arc<Context>,
    kind: Kind,
    namespace: Option<String>,
    begin: impl Fn() -> W,
) where
    K: kube::Resource<DynamicType = ()>,
    W: Stream<Item = watcher::Result<Event<Guarded<PartialObjectMeta<K>>>>>,
{
    let namespace = namespace.as_deref();
    let mut pauses = Pauses::default();
    loop {
        let mut events = pin!(begin());
        let error = loop {
            match events.next().await {
                Some(Ok(event)) => named_event(&context, kind, namespace, event),
                Some(Err(error)) => break error,
                // It never does.
                None => return,
            }
        };
        context.references.watched(kind, namespace, false);
        context.watch_failed(kind, namespace, &error);
        tokio::time::sleep(pauses.after(&error, Instant::now())).await;
    }
}

fn named_event<K>(
    context: &Context,
    kind: Kind,
    namespace: Option<&str>,
    event: Event<Guarded<PartialObjectMeta<K>>>,
) where
    K: kube::Resource<DynamicType = ()>,
{
    let references = &context.references;
    let concerned = match event {
        Event::Init => {
            references.listing_begins(kind, namespace);
            // It may fail.
            return;
        }
        Event::InitDone => references.listing_ends(kind, namespace),
        Event::Apply(object) | Event::InitApply(object) | Event::Delete(object) => {
            references.shown(kind, object.meta())
        }
    };
    references.watched(kind, namespace, true);
    for key in concerned {
        context.enqueue(key);
    }
}

/// Feeds one watch into one cache.
pub(super) struct Feed<K: Cached, S: Storage<K>> {
    context: Arc<Context>,
    namespace: Option<String>,
    kind: Kind,
    cache: Arc<Cache<K, S>>,
    trim: fn(&mut K),
    key: fn(&K) -> Option<Key>,
    /// Objects of the listing that is coming in.
    seen: HashSet<ObjectName>,
    missing: Option<Missing>,
    failing: Option<Failing>,
    /// The right to watch was refused last, which a listing that goes well does not change.
    is_refused: bool,
}

/// Tries to start a watch, or to list, that failed one after the other.
#[derive(Clone, Copy)]
struct Failing {
    since: Instant,
    last: Instant,
    tries: u32,
}

/// What follows from a failure of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// It goes on from where it was.
    Resume,
    /// It begins again with a listing: only the end of one shows that it sees again, since a watch
    /// that has started says nothing until something happens.
    ListAgain,
}

/// The feed of the clusters that `context` serves.
#[cfg(test)]
pub(super) fn clusters(
    context: &Arc<Context>,
) -> Feed<BytebaseCluster, impl Storage<BytebaseCluster>> {
    let cache = &context.sources.caches.clusters;
    Feed::new(
        context,
        Kind::BytebaseCluster,
        cache,
        trim_cluster,
        key_of_cluster,
    )
}

/// The feed of their pods.
#[cfg(test)]
pub(super) fn pods(context: &Arc<Context>) -> Feed<Pod, impl Storage<Pod>> {
    let cache = &context.sources.caches.pods;
    Feed::new(context, Kind::Pod, cache, pod::trim, key_by_label)
}

/// The feed of what they own of a kind.
#[cfg(test)]
pub(super) fn owned(
    context: &Arc<Context>,
    kind: Kind,
) -> Feed<DynamicObject, impl Storage<DynamicObject>> {
    let mut caches = context.sources.caches.owned();
    let (_, cache) = caches.find(|(owned, _)| *owned == kind).unwrap();
    Feed::new(context, kind, cache, strip_types, key_by_label)
}

impl<K: Cached, S: Storage<K>> Feed<K, S> {
    /// Of all namespaces, without a handle on readiness.
    fn new(
        context: &Arc<Context>,
        kind: Kind,
        cache: &Arc<Cache<K, S>>,
        trim: fn(&mut K),
        key: fn(&K) -> Option<Key>,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            namespace: None,
            kind,
            cache: Arc::clone(cache),
            trim,
            key,
            seen: HashSet::new(),
            missing: None,
            failing: None,
            is_refused: false,
        }
    }

    /// Follows the watch, which begins again as in a process that has just started whenever `again`
    /// asks for it.
    async fn run<W>(
        mut self,
        watch: impl Fn() -> W + Send + Sync,
        mut again: UnboundedReceiver<Missing>,
    ) where
        W: Stream<Item = Result<Event<Guarded<K>>, watcher::Error>> + Send,
    {
        loop {
            tokio::select! {
                () = self.follow(&watch) => return,
                // Once this process leads, none comes in any more.
                Some(missing) = again.recv() => self.begin_again(missing),
            }
        }
    }

    /// Forgets what it has shown. Holds `missing` until it has listed, or has failed for long, but
    /// not where it had not listed before either.
    fn begin_again(&mut self, missing: Missing) {
        self.seen.clear();
        self.failing = None;
        self.is_refused = false;
        let namespace = self.namespace.as_deref();
        // Without a word to anything that would follow from their deletion: nothing is remembered
        // of them yet.
        for object in self.cache.vanished(namespace, &HashSet::new()) {
            self.cache.remove(object);
        }
        if self.cache.lost(namespace, None) {
            self.missing = Some(missing);
        }
    }

    pub(super) async fn follow<W>(&mut self, watch: &(impl Fn() -> W + Sync))
    where
        W: Stream<Item = Result<Event<Guarded<K>>, watcher::Error>> + Send,
    {
        let mut events = Box::pin(watch());
        let mut pauses = Pauses::default();
        loop {
            let event = if self.is_refused {
                let Ok(event) = tokio::time::timeout(STANDS_AFTER, events.next()).await else {
                    self.stands();
                    continue;
                };
                event
            } else {
                events.next().await
            };
            match event {
                None => return,
                Some(Ok(event)) => self.event(event),
                Some(Err(error)) => {
                    if self.failed(&error, Instant::now()) == Restart::ListAgain {
                        events = Box::pin(watch());
                    }
                    tokio::time::sleep(pauses.after(&error, Instant::now())).await;
                }
            }
        }
    }

    /// Holds this until there is a first listing, or it has failed for long.
    #[cfg(test)]
    pub(super) fn hold(&mut self, missing: Missing) {
        self.missing = Some(missing);
    }

    /// Takes note of a failure.
    pub(super) fn failed(&mut self, error: &watcher::Error, now: Instant) -> Restart {
        // A listing that broke off starts from its beginning.
        self.seen.clear();
        let refusal = refusal(error);
        if refusal == Some(404) && self.kind.is_optional() {
            self.not_installed();
            return Restart::Resume;
        }
        self.context
            .watch_failed(self.kind, self.namespace.as_deref(), error);
        if has_started(error) && self.is_refused {
            self.stands();
        } else if refusal == Some(403) {
            self.is_refused = is_of_start(error);
        }
        let failing = self.fails(error, now);
        let failed_for = now.saturating_duration_since(failing.since);
        let namespace = self.namespace.as_deref();
        self.cache.not_listed(namespace, refusal);
        let given_up = match refusal {
            Some(403) => true,
            // A kind that the operator cannot do without has to be installed first.
            Some(404) => false,
            _ => failed_for > FIRST_LISTING,
        };
        if given_up {
            self.missing = None;
        }
        let is_lost = failed_for > BLIND_AFTER && failing.tries >= BLIND_TRIES;
        if !is_lost || !self.cache.lost(namespace, refusal) {
            return Restart::Resume;
        }
        // An API server that does not answer takes no status either.
        if refusal.is_some() {
            self.context.enqueue_all();
        }
        Restart::ListAgain
    }

    /// Notes a try that failed.
    fn fails(&mut self, error: &watcher::Error, now: Instant) -> Failing {
        let before = self.failing.filter(|before| {
            !has_started(error) && now.saturating_duration_since(before.last) <= CALM
        });
        let failing = Failing {
            since: before.map_or(now, |before| before.since),
            last: now,
            tries: before.map_or(0, |before| before.tries) + 1,
        };
        self.failing = Some(failing);
        failing
    }

    /// Takes up what the watch has brought.
    pub(super) fn event(&mut self, event: Event<Guarded<K>>) {
        if matches!(event, Event::Apply(_) | Event::Delete(_)) {
            self.failing = None;
            if self.is_refused {
                self.stands();
            }
        }
        match event {
            Event::Init => {}
            Event::Apply(Guarded::Read(object)) => self.put(object),
            Event::InitApply(object) => {
                self.seen.insert(ObjectName::of(&object));
                match object {
                    Guarded::Read(object) => self.put(object),
                    Guarded::Unreadable(metadata) => self.unreadable(&metadata),
                }
            }
            Event::Delete(Guarded::Read(object)) => self.remove(object),
            Event::Apply(Guarded::Unreadable(metadata)) => self.unreadable(&metadata),
            Event::Delete(Guarded::Unreadable(metadata)) => {
                // What was read of it before, if anything was.
                let name = ObjectName::of_metadata(&metadata);
                for object in self.cache.named(&name) {
                    self.remove(object);
                }
            }
            Event::InitDone => {
                self.complete();
                self.note_installed(true);
            }
        }
    }

    /// One that cannot be read, or is too long. What was known of the object before stays: an older
    /// picture is better than to take it for missing.
    fn unreadable(&self, metadata: &ObjectMeta) {
        self.context.metrics.watch_failed(self.kind);
        tracing::warn!(
            kind = self.kind.name(),
            namespace = metadata.namespace,
            name = metadata.name,
            "an object cannot be read, or is too long to be kept, and is left out"
        );
    }

    /// A listing has come in: what it does not hold is gone.
    fn complete(&mut self) {
        let seen = std::mem::take(&mut self.seen);
        for object in self.cache.vanished(self.namespace.as_deref(), &seen) {
            self.remove(object);
        }
        let has_failed = self.failing.take().is_some();
        // Where only the watch is refused, a listing would clear for a moment what the next try
        // brings back.
        if !self.is_refused && self.cache.listed(self.namespace.as_deref()) && has_failed {
            // Those that had to wait for it.
            self.context.enqueue_all();
        }
        self.missing = None;
    }

    /// A watch that had been refused has started.
    fn stands(&mut self) {
        self.is_refused = false;
        self.failing = None;
        if self.cache.listed(self.namespace.as_deref()) {
            self.context.enqueue_all();
        }
    }

    /// The API server does not know the kind, so there are no objects of it. The watch is tried on:
    /// its definition may come any time.
    fn not_installed(&mut self) {
        self.is_refused = false;
        self.complete();
        self.note_installed(false);
    }

    fn note_installed(&self, installed: bool) {
        if !self.cache.set_not_installed(!installed) {
            return;
        }
        let kind = self.kind.name();
        if installed {
            tracing::info!(kind, "the API server knows this kind now");
        } else {
            tracing::info!(
                kind,
                "the API server does not know this kind; it is checked from time to time"
            );
        }
        self.context.enqueue_all();
    }

    fn put(&self, mut object: K) {
        (self.trim)(&mut object);
        let mut key = (self.key)(&object);
        if self.kind == Kind::BytebaseCluster {
            key = key.filter(|key| !self.context.is_echo(key, object.meta()));
        }
        if self.kind == Kind::BytebaseCluster
            && let Some(key) = &key
        {
            self.cluster_seen(key, &object);
        }
        let becomes_ready = self.becomes_ready(&object);
        let metadata = ObjectMeta {
            namespace: object.namespace(),
            name: object.meta().name.clone(),
            ..ObjectMeta::default()
        };
        let is_new = match self.cache.put(object) {
            Put::New => true,
            Put::Known => false,
            Put::TooLong => return self.unreadable(&metadata),
        };
        if becomes_ready && let Some(key) = &key {
            self.context.sources.probes.outdate(key);
        }
        if is_new && self.kind != Kind::BytebaseCluster {
            // The reading wakes it in any case, and what appears until then is what the last
            // reconcile made.
            key = key.filter(|key| !self.context.sources.probes.awaits_first(key));
        }
        if self.kind == Kind::Event && !is_new {
            // The controller tries again and again, and says the same each time.
            return;
        }
        self.enqueue(key);
    }

    /// One that was made again under its name while the watch was away is another cluster.
    fn cluster_seen(&self, key: &Key, object: &K) {
        let before = self.context.sources.caches.clusters.store().get(key);
        if let Some(before) = before.filter(|before| before.metadata.uid != object.meta().uid) {
            self.context.forget(key, before.metadata.uid.as_deref());
        }
    }

    /// Whether this is a pod that the cache does not show as Ready yet.
    fn becomes_ready(&self, object: &K) -> bool {
        let object: &dyn Any = object;
        object.downcast_ref::<Pod>().is_some_and(|pod| {
            let namespace = pod.namespace().unwrap_or_default();
            let pods = &self.context.sources.caches.pods;
            let before = pods.get(&namespace, &pod.name_any());
            pod::becomes_ready(before.as_ref(), pod)
        })
    }

    fn remove(&self, object: K) {
        let key = (self.key)(&object);
        let uid = object.uid();
        if self.kind == Kind::Pod {
            let (name, sources) = (ObjectName::of(&object), &self.context.sources);
            sources.log_ids.forget(&name);
            sources.log_lines.forget(&name);
        }
        self.cache.remove(object);
        // Only now: a reconcile that is still running sees that the cluster is gone, and forgets
        // what it has learnt in the meantime.
        if self.kind == Kind::BytebaseCluster
            && let Some(key) = &key
        {
            self.context.forget(key, uid.as_deref());
        }
        self.enqueue(key);
    }

    fn enqueue(&self, key: Option<Key>) {
        // The label of an object may name anything, and what waits for this process to lead must
        // not grow with it. A cluster that comes later wakes itself.
        let clusters = self.context.sources.caches.clusters.store();
        let is_cluster = self.kind == Kind::BytebaseCluster;
        if let Some(key) = key.filter(|key| is_cluster || clusters.get(key).is_some()) {
            self.context.enqueue(key);
        }
    }
}

/// How long one watch waits after each failure. A watch that is not asked for its next event does
/// not try again.
struct Pauses {
    backoff: Backoff<()>,
    last: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self {
            backoff: Backoff::new(backoff::FIRST, REFUSED),
            last: None,
        }
    }
}

impl Pauses {
    /// The pause after a failure at `now`. Only calm ends the back-off: a listing may go well each
    /// time and its watch be refused.
    fn after(&mut self, error: &watcher::Error, now: Instant) -> Duration {
        let last = self.last.replace(now);
        if last.is_some_and(|last| now.saturating_duration_since(last) > CALM) {
            self.backoff.succeeded(&());
        }
        let longest = match refusal(error) {
            Some(403 | 404) => REFUSED,
            _ => LOST,
        };
        self.backoff.failed((), rand::random()).min(longest)
    }
}

/// Whether it was the watch that could not start, and not a listing.
fn is_of_start(error: &watcher::Error) -> bool {
    matches!(error, watcher::Error::WatchStartFailed(_))
}

/// Whether a watch broke off in its midst.
fn has_started(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::WatchFailed(_) | watcher::Error::WatchError(_)
    )
}

/// The HTTP status with which a listing or the start of a watch was refused.
fn refusal(error: &watcher::Error) -> Option<u16> {
    match error {
        // A watch that is refused in mid-stream starts again with a listing, which is then refused
        // too.
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use kube::core::Status;

    pub(in crate::runtime) fn refused(code: u16) -> watcher::Error {
        let status = Status::failure("no", "No").with_code(code).boxed();
        watcher::Error::InitialListFailed(kube::Error::Api(status))
    }

    pub(in crate::runtime) fn watch_refused(code: u16) -> watcher::Error {
        let status = Status::failure("no", "No").with_code(code).boxed();
        watcher::Error::WatchStartFailed(kube::Error::Api(status))
    }

    #[test]
    fn a_lost_connection_is_tried_again_soon_and_a_refusal_seldom() {
        let now = Instant::now();
        for (code, cap) in [(503, LOST), (429, LOST), (403, REFUSED), (404, REFUSED)] {
            let mut pauses = Pauses::default();
            let last = (0..12).map(|_| pauses.after(&refused(code), now)).last();
            let last = last.unwrap_or_default();
            assert!(last <= cap && last >= cap.mul_f64(0.8), "{code}: {last:?}");
        }
    }

    #[test]
    fn what_is_kept_of_a_cluster_shows_whether_another_party_may_hold_its_deletion_up() {
        for (finalizers, kept) in [
            (&["foregroundDeletion"][..], None),
            (
                &["orphan", "example.com/held", "example.com/too"][..],
                Some("example.com/held"),
            ),
        ] {
            let mut cluster = crate::testing::cluster(&serde_json::json!({}));
            let all = finalizers
                .iter()
                .map(|finalizer: &&str| (*finalizer).to_owned());
            cluster.metadata.finalizers = Some(all.collect());
            trim_cluster(&mut cluster);
            let kept = kept.map(|finalizer: &str| vec![finalizer.to_owned()]);
            assert_eq!(cluster.metadata.finalizers, kept, "{finalizers:?}");
        }
    }

    #[test]
    fn calm_ends_the_back_off() {
        let mut pauses = Pauses::default();
        let mut now = Instant::now();
        for _ in 0..8 {
            now += REFUSED;
            pauses.after(&refused(403), now);
        }
        assert!(pauses.after(&refused(403), now + CALM) >= REFUSED.mul_f64(0.8));
        assert!(pauses.after(&refused(403), now + CALM * 3) <= backoff::FIRST);
    }
}
