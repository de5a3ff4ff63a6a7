//! What a process makes sure of when it begins to lead. Its watches are wired as they are; the API
//! server answers their listings, and nothing ever comes in after those: the connection of each
//! watch has died without a word.

use super::super::catch_up::{CATCH_UP, Followed, PAGE, TRIES};
use super::super::context::{Context, Options, Parts};
use super::super::reconcile::reconcile;
use super::super::run::ready;
use super::super::server::Readiness;
use super::super::tasks::Essential;
use super::super::watches;
use super::{URL, refusal};
use crate::api::BytebaseCluster;
use crate::kubernetes::{Guarded, Kind};
use crate::observe::database::probe::Probes;
use crate::process::lease::Leadership;
use crate::process::metrics::Metrics;
use crate::process::queue::{Key, name};
use crate::testing::{api_server, cluster, settings};
use axum::http::Uri;
use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

const CLUSTERS: &str = "/apis/bytebase.com/v1alpha1/bytebaseclusters";
const SETS: &str = "/apis/apps/v1/statefulsets";
const PODS: &str = "/api/v1/pods";

/// Longer than a watch that was refused waits before it is tried again.
const TRIED_AGAIN: Duration = Duration::from_secs(31);

/// What is stored, and what was asked for.
#[derive(Default)]
struct Stored {
    version: u64,
    /// By the path of its listing and its name.
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    /// Listings that are refused, by which code: those of the watches, or those of versions alone.
    refused: BTreeMap<(&'static str, bool), u16>,
    /// Pages that were asked for, and whether of versions alone.
    pages: Vec<(String, bool)>,
    writes: Vec<String>,
}

/// A parameter of a request.
fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let pairs = uri.query().unwrap_or_default().split('&');
    let mut pairs = pairs.filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(key, _)| *key == name)?;
    Some(value.to_owned())
}

impl Stored {
    fn put(&mut self, path: &'static str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        self.objects.entry(path).or_default().insert(name, object);
    }

    fn delete(&mut self, path: &'static str, name: &str) {
        self.version += 1;
        self.objects.get_mut(path).unwrap().remove(name).unwrap();
    }

    fn answer(&mut self, method: &str, uri: &Uri, body: Value) -> Option<(u16, Value)> {
        let path = uri.path();
        if method != "GET" {
            self.writes.push(format!("{method} {path}"));
            let cluster = || self.objects[CLUSTERS]["demo"].clone();
            let is_status = path.ends_with("/status");
            return Some((200, if is_status { cluster() } else { body }));
        }
        if path.ends_with("/secrets/pg") {
            let url = k8s_openapi::ByteString(URL.to_vec());
            let metadata = json!({"name": "pg", "namespace": "apps", "resourceVersion": "1"});
            let secret = json!({"metadata": metadata, "data": {"PG_URL": url}});
            return Some((200, secret));
        }
        if parameter(uri, "watch").is_some() {
            return None;
        }
        let Some(limit) = parameter(uri, "limit") else {
            return Some((404, refusal(404)));
        };
        let is_of_versions = limit == PAGE.to_string();
        self.pages.push((path.to_owned(), is_of_versions));
        let mut refused = self.refused.iter();
        if let Some((_, code)) = refused.find(|(of, _)| **of == (path, is_of_versions)) {
            return Some((*code, refusal(*code)));
        }
        let limit: usize = limit.parse().unwrap();
        let begin: usize = parameter(uri, "continue").map_or(0, |token| token.parse().unwrap());
        let all: Vec<_> = self
            .objects
            .get(path)
            .into_iter()
            .flat_map(BTreeMap::values)
            .collect();
        let end = all.len().min(begin + limit);
        let next = (end < all.len()).then(|| end.to_string());
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": next});
        let page = json!({
            "kind": "List", "apiVersion": "v1", "metadata": metadata, "items": all[begin..end],
        });
        Some((200, page))
    }
}

/// A process that does not lead yet, and what it talks to.
struct Standby {
    context: Arc<Context>,
    stored: Arc<Mutex<Stored>>,
    readiness: Readiness,
    followed: Vec<Followed>,
    /// Tasks that have ended.
    ended: UnboundedReceiver<String>,
    _queue: UnboundedReceiver<Key>,
}

impl Standby {
    /// One whose watches have listed this.
    async fn of(stored: Stored) -> Self {
        let stored = Arc::new(Mutex::new(stored));
        let answering = Arc::clone(&stored);
        let client = api_server("apps", move |method, uri, body| {
            answering.lock().answer(method, uri, body)
        });
        let (queue, woken) = unbounded_channel();
        let context = Arc::new(Context::new(Parts {
            options: Options {
                namespaces: Vec::new(),
                cluster_labels: Vec::new(),
                instance: "operator-1".to_owned(),
            },
            settings: settings(),
            client: client.clone(),
            http: reqwest::Client::new(),
            probes: Probes::new(queue.clone(), name, Arc::new(|_, _| panic!("probed"))),
            metrics: Arc::new(Metrics::new()),
            leadership: Leadership::renewed(),
            queue,
            clock: Arc::new(Timestamp::now),
        }));
        let (essential, ended) = Essential::new();
        let readiness = Readiness::default();
        let followed = watches::start(&context, &client, &readiness, &essential);
        while !readiness.is_ready() {
            time::sleep(Duration::from_millis(1)).await;
        }
        stored.lock().pages.clear();
        Self {
            context,
            stored,
            readiness,
            followed,
            ended,
            _queue: woken,
        }
    }

    /// Begins to lead. Returns how long it takes until clusters may be reconciled.
    async fn takes_over(&mut self) -> Duration {
        let begun = Instant::now();
        let (readiness, followed) = (self.readiness.clone(), mem::take(&mut self.followed));
        let answered = CancellationToken::new();
        answered.cancel();
        ready(readiness, followed, answered).await;
        assert!(self.ended.try_recv().is_err(), "a watch has ended");
        begun.elapsed()
    }

    /// The cluster as the watches have shown it.
    fn cluster(&self) -> Option<Arc<BytebaseCluster>> {
        let clusters = self.context.sources.caches.clusters.store();
        clusters.get(&ObjectRef::new("demo").within("apps"))
    }

    /// Which listings of the watches have come in since it stood by.
    fn listed_again(&self) -> BTreeSet<String> {
        let stored = self.stored.lock();
        let pages = stored.pages.iter();
        let of_watches = pages.filter(|(_, is_of_versions)| !is_of_versions);
        of_watches.map(|(path, _)| path.clone()).collect()
    }
}

fn clusters_alone() -> BTreeSet<String> {
    BTreeSet::from([CLUSTERS.to_owned()])
}

/// The cluster of the tests with this spec, as it is stored.
fn with_spec(spec: &Value) -> Value {
    serde_json::to_value(cluster(spec)).unwrap()
}

fn pod(name: &str) -> Value {
    let metadata = json!({"name": name, "namespace": "apps", "uid": name});
    json!({"metadata": metadata})
}

fn set(replicas: u8) -> Value {
    let metadata = json!({"name": "demo", "namespace": "apps", "uid": "uid-set"});
    json!({"metadata": metadata, "spec": {"replicas": replicas}})
}

#[tokio::test(start_paused = true)]
async fn a_spec_from_before_is_not_acted_on_where_the_watch_of_clusters_is_silent() {
    let mut stored = Stored::default();
    stored.put(CLUSTERS, with_spec(&json!({})));
    let mut standby = Standby::of(stored).await;
    let paused = with_spec(&json!({"paused": true, "version": "3.22.0"}));
    standby.stored.lock().put(CLUSTERS, paused);
    assert!(!standby.cluster().unwrap().spec.paused);
    let took = standby.takes_over().await;
    assert!(took < CATCH_UP * (TRIES + 1), "{took:?}");
    let cluster = standby.cluster().unwrap();
    assert!(cluster.spec.paused);
    reconcile(cluster, Arc::clone(&standby.context))
        .await
        .unwrap();
    let stored = standby.stored.lock();
    let mut writes = stored.writes.iter();
    let reports = |write: &String| write.ends_with("/status") || write.contains("/events");
    assert!(writes.all(reports), "{:?}", stored.writes);
    drop(stored);
    assert_eq!(standby.listed_again(), clusters_alone());
}

#[tokio::test(start_paused = true)]
async fn what_the_previous_leader_ended_or_resized_is_shown_where_the_watches_are_silent() {
    let mut stored = Stored::default();
    stored.put(SETS, set(3));
    for name in ["demo-0", "demo-1"] {
        stored.put(PODS, pod(name));
    }
    let mut standby = Standby::of(stored).await;
    let mut evicted = pod("demo-0");
    evicted["metadata"]["deletionTimestamp"] = json!("2026-06-01T00:00:00Z");
    {
        let mut stored = standby.stored.lock();
        stored.put(PODS, evicted);
        stored.delete(PODS, "demo-1");
        stored.put(SETS, set(1));
    }
    standby.takes_over().await;
    let caches = &standby.context.sources.caches;
    let evicted = caches.pods.get("apps", "demo-0").unwrap();
    assert!(evicted.metadata.deletion_timestamp.is_some());
    assert_eq!(caches.pods.get("apps", "demo-1"), None);
    let set = caches.get(Kind::StatefulSet, "apps", "demo").unwrap();
    assert_eq!(set.data["spec"]["replicas"], 1);
    assert_eq!(caches.unseen("apps"), None);
    let expected = [SETS, PODS].map(str::to_owned);
    assert_eq!(standby.listed_again(), BTreeSet::from(expected));
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_is_up_to_date_takes_over_at_once_by_a_few_pages() {
    let mut stored = Stored::default();
    for index in 0..1000 {
        let mut cluster = with_spec(&json!({}));
        cluster["metadata"]["name"] = json!(format!("demo-{index}"));
        stored.put(CLUSTERS, cluster);
    }
    stored.put(SETS, set(3));
    let mut standby = Standby::of(stored).await;
    assert_eq!(standby.takes_over().await, Duration::ZERO);
    let mut pages = standby.stored.lock().pages.clone();
    pages.sort();
    let expected = [PODS, SETS, CLUSTERS, CLUSTERS].map(|path| (path.to_owned(), true));
    assert_eq!(pages, expected);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_lags_is_waited_for_and_does_not_begin_again() {
    let lag = CATCH_UP / 4;
    let mut stored = Stored::default();
    stored.put(CLUSTERS, with_spec(&json!({})));
    let mut standby = Standby::of(stored).await;
    let paused = with_spec(&json!({"paused": true}));
    standby.stored.lock().put(CLUSTERS, paused);
    let newest = standby.stored.lock().objects[CLUSTERS]["demo"].clone();
    let context = Arc::clone(&standby.context);
    tokio::spawn(async move {
        time::sleep(lag).await;
        let cluster = serde_json::from_value(newest).unwrap();
        watches::clusters(&context).event(Event::Apply(Guarded::Read(cluster)));
    });
    let took = standby.takes_over().await;
    assert!(took >= lag && took < CATCH_UP, "{took:?}");
    assert!(standby.cluster().unwrap().spec.paused);
    assert_eq!(standby.listed_again(), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn what_comes_and_goes_during_the_take_over_is_not_waited_for() {
    let mut standby = Standby::of(Stored::default()).await;
    standby.stored.lock().put(PODS, pod("demo-0"));
    let stored = Arc::clone(&standby.stored);
    tokio::spawn(async move {
        time::sleep(CATCH_UP / 2).await;
        stored.lock().delete(PODS, "demo-0");
    });
    let took = standby.takes_over().await;
    assert!(took < CATCH_UP * 2, "{took:?}");
    assert_eq!(standby.listed_again(), BTreeSet::new());
}

#[tokio::test(start_paused = true)]
async fn where_the_versions_cannot_be_listed_the_watch_itself_lists() {
    let mut stored = Stored::default();
    stored.put(CLUSTERS, with_spec(&json!({})));
    let mut standby = Standby::of(stored).await;
    {
        let mut stored = standby.stored.lock();
        stored.refused.insert((CLUSTERS, true), 503);
        stored.put(CLUSTERS, with_spec(&json!({"paused": true})));
    }
    let took = standby.takes_over().await;
    assert!(took < CATCH_UP, "{took:?}");
    assert!(standby.cluster().unwrap().spec.paused);
    assert_eq!(standby.listed_again(), clusters_alone());
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_listed_is_not_acted_on_and_keeps_nothing_else_waiting() {
    let mut stored = Stored::default();
    stored.put(CLUSTERS, with_spec(&json!({})));
    stored.put(PODS, pod("demo-0"));
    let mut standby = Standby::of(stored).await;
    let refused = [CLUSTERS, PODS].map(|path| [true, false].map(|of| ((path, of), 403)));
    standby.stored.lock().refused = refused.into_iter().flatten().collect();
    let took = standby.takes_over().await;
    assert!(took < CATCH_UP, "{took:?}");
    assert!(
        standby.cluster().is_none(),
        "its spec may be another by now"
    );
    let unseen = || standby.context.sources.caches.unseen("apps");
    let message = unseen().unwrap();
    assert!(message.contains("may not watch pods"), "{message}");
    standby.stored.lock().refused.clear();
    time::sleep(TRIED_AGAIN).await;
    assert!(standby.cluster().is_some());
    assert_eq!(unseen(), None);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_has_gone_and_nothing_else_is_noticed() {
    let mut stored = Stored::default();
    stored.put(PODS, pod("demo-0"));
    let mut standby = Standby::of(stored).await;
    standby.stored.lock().delete(PODS, "demo-0");
    standby.takes_over().await;
    let caches = &standby.context.sources.caches;
    assert_eq!(caches.pods.get("apps", "demo-0"), None);
    assert_eq!(standby.listed_again(), BTreeSet::from([PODS.to_owned()]));
}
