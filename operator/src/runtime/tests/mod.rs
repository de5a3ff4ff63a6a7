//! Whole reconciles against a scripted API server, with the exact calls that they make.

mod histories;
mod take_over;

use super::context::{Context, Options, Parts};
use super::own_image;
use super::reconcile::{Error, after_failure, reconcile};
use super::server::Readiness;
use super::wall_clock;
use super::watches;
use crate::api::BytebaseCluster;
use crate::apply::ECHO;
use crate::decide::Settings;
use crate::desired::template::additions_in;
use crate::kubernetes::{Guarded, Kind};
use crate::observation::{FailureClass, FailureReason, ProbeFailure};
use crate::observe::Clock;
use crate::observe::caches::LONGEST_OBJECT;
use crate::observe::database::connect::tests::{access, url};
use crate::observe::database::probe::Probes;
use crate::process::lease::Leadership;
use crate::process::metrics::Metrics;
use crate::process::queue::{Key, name};
use crate::report;
use crate::testing::{api_server, cluster, facts, no_license, settings, status_patch};
use futures::StreamExt as _;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::core::Status;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::{self, Event};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time;
use tokio_util::sync::CancellationToken;

/// A login that only Bytebase itself can make, so that no probe runs.
const URL: &[u8] = b"postgres://bytebase@db.example.com/bytebase?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1";

/// What a new cluster owns, in the order in which it is applied.
const OBJECTS: [&str; 6] = [
    "ServiceAccount/demo",
    "Service/demo-headless",
    "Service/demo",
    "StatefulSet/demo",
    "PodDisruptionBudget/demo",
    "Ingress/demo",
];
/// What its first status reports.
const EVENTS: [&str; 4] = [
    "event ReplicasNotReady",
    "event DatabaseCannotRead",
    "event ReplicaNotReady",
    "event ValidWithWarnings",
];
/// `resourceVersion` of the cluster with its first status, and with the second.
const AFTER_STATUS: [&str; 2] = ["11", "17"];

/// In place of a code: the API server does not answer.
const NO_ANSWER: u16 = 0;
/// A status that is answered by this code stands all the same.
const LATE: u16 = 504;

/// The cluster as it is stored.
#[derive(Clone, Debug)]
struct Stored {
    uid: String,
    version: u64,
}

impl Stored {
    /// It is written. Other objects are as well in between.
    fn changes(&mut self) {
        self.version += 6;
    }

    /// A status is asked for, in place of this one.
    fn takes(&mut self, status: &mut Value, body: &Value) -> (u16, Value) {
        let patch = status_patch(body).unwrap();
        if !patch.fits(&self.shown(status)) {
            return (422, refusal(422));
        }
        self.changes();
        *status = patch.status.clone();
        (200, self.shown(status))
    }

    /// As the API server shows it, with this status: the spec is one that cannot be read.
    fn shown(&self, status: &Value) -> Value {
        json!({
            "apiVersion": "bytebase.com/v1alpha1", "kind": "BytebaseCluster",
            "metadata": {
                "name": "demo", "namespace": "apps", "uid": self.uid,
                "resourceVersion": self.version.to_string(),
            },
            "spec": "nonsense",
            "status": status,
        })
    }
}

/// A new cluster, its operator, and the API server that they talk to.
struct World {
    context: Arc<Context>,
    cluster: BytebaseCluster,
    /// What was called since this was last asked.
    calls: Arc<Mutex<Vec<String>>>,
    /// Objects as they were last written.
    written: Arc<Mutex<Vec<Value>>>,
    /// Objects that stand, each by the end of its path.
    standing: Arc<Mutex<BTreeMap<String, Value>>>,
    /// The status as it was last written.
    status: Arc<Mutex<Value>>,
    /// What else is stored of the cluster.
    stored: Arc<Mutex<Stored>>,
    /// The log of every pod; `None`: it is never answered for.
    log: Arc<Mutex<Option<Value>>>,
    /// Where clusters go that are woken.
    queue: Mutex<UnboundedReceiver<Key>>,
    /// Calls that are refused, and by which code.
    refused: Arc<Mutex<BTreeMap<&'static str, u16>>>,
}

/// One word for each call: the method, and the kind or the reason that its body names.
fn call(method: &str, body: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match method {
        "PATCH" if status_patch(body).is_some() => "status".to_owned(),
        "PATCH" => {
            let (kind, name) = (text(&body["kind"]), text(&body["metadata"]["name"]));
            format!("{kind}/{name}")
        }
        "POST" if body["reason"].is_string() => format!("event {}", text(&body["reason"])),
        "POST" => format!("Eviction/{}", text(&body["metadata"]["name"])),
        _ => method.to_owned(),
    }
}

/// The answer to a call that is refused.
fn refusal(code: u16) -> Value {
    let causes = json!([{"reason": "DisruptionBudget", "message": "refused"}]);
    let details = (code == 429).then(|| json!({"causes": causes}));
    json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "", "message": "refused",
        "details": details,
    })
}

impl World {
    fn new(spec: &Value) -> Self {
        Self::with(spec, settings())
    }

    fn with(spec: &Value, settings: Settings) -> Self {
        Self::timed(spec, settings, Arc::new(Timestamp::now))
    }

    /// One whose reconciles go by this clock.
    fn timed(spec: &Value, settings: Settings, clock: Clock) -> Self {
        let calls: Arc<Mutex<Vec<String>>> = Arc::default();
        let written: Arc<Mutex<Vec<Value>>> = Arc::default();
        let standing: Arc<Mutex<BTreeMap<String, Value>>> = Arc::default();
        let stands = standing.clone();
        let refused: Arc<Mutex<BTreeMap<&'static str, u16>>> = Arc::default();
        let (status, log): (Arc<Mutex<Value>>, Arc<Mutex<Option<Value>>>) = Default::default();
        let (called, store, refusals) = (calls.clone(), written.clone(), refused.clone());
        let (reported, pod_log) = (status.clone(), log.clone());
        let stored = Arc::new(Mutex::new(Stored {
            uid: cluster(&json!({})).metadata.uid.unwrap(),
            version: 5,
        }));
        let live = stored.clone();
        let take_status = move |body: &Value| live.lock().takes(&mut reported.lock(), body);
        let (live, read) = (stored.clone(), status.clone());
        let versions = AtomicU32::new(100);
        let client = api_server("apps", move |method, uri, body| {
            if uri.path().ends_with("/log") {
                let log = pod_log.lock().clone();
                return log.map(|log| (200, log));
            }
            let call = call(method, &body);
            called.lock().push(call.clone());
            let refused = refusals.lock().get(call.as_str()).copied();
            if let Some(code) = refused {
                if (call.as_str(), code) == ("status", LATE) {
                    take_status(&body);
                }
                return (code != NO_ANSWER).then(|| (code, refusal(code)));
            }
            if call == "status" {
                return Some(take_status(&body));
            }
            let path = uri.path().rsplit('/').take(2).collect::<Vec<_>>();
            let path = format!("{}/{}", path[1], path[0]);
            let stands = &mut *stands.lock();
            let answer = match (method, call.as_str()) {
                ("GET", _) if path == "bytebaseclusters/demo" => live.lock().shown(&read.lock()),
                ("GET", _) if path != "secrets/pg" => match stands.get(&path) {
                    Some(object) => object.clone(),
                    None => return Some((404, refusal(404))),
                },
                ("GET", _) => json!({
                    "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pg", "namespace": "apps", "resourceVersion": "1"},
                    "data": {"PG_URL": k8s_openapi::ByteString(URL.to_vec())},
                }),
                ("PATCH", _) => {
                    let mut object = body;
                    object["metadata"]["uid"] = json!("made");
                    let version = versions.fetch_add(1, Ordering::Relaxed).to_string();
                    object["metadata"]["resourceVersion"] = json!(version);
                    store.lock().push(object.clone());
                    stands.insert(path, object.clone());
                    object
                }
                _ => body,
            };
            Some((200, answer))
        });
        let (queue, woken) = unbounded_channel();
        let context = Arc::new(Context::new(Parts {
            options: Options {
                namespaces: Vec::new(),
                cluster_labels: Vec::new(),
                instance: "operator-0".to_owned(),
            },
            settings,
            client,
            http: reqwest::Client::new(),
            probes: Probes::new(queue.clone(), name, Arc::new(|_, _| panic!("probed"))),
            metrics: Arc::new(Metrics::new()),
            leadership: Leadership::renewed(),
            queue,
            clock,
        }));
        context.references.watched(Kind::Secret, None, true);
        let mut cluster = cluster(spec);
        cluster.metadata.resource_version = Some("5".to_owned());
        context.sources.caches.clusters.put(cluster.clone());
        Self {
            context,
            cluster,
            calls,
            written,
            standing,
            status,
            stored,
            log,
            queue: Mutex::new(woken),
            refused,
        }
    }

    /// Lets the reads of logs end that have an answer. Returns whether one has woken the cluster.
    async fn logs_are_read(&self) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let mut queue = self.queue.lock();
        std::iter::from_fn(|| queue.try_recv().ok()).count() > 0
    }

    /// Reconciles once, and lets its events be published. Returns when the next one is due, and
    /// what was called.
    async fn reconcile(&self) -> (Option<Action>, Vec<String>) {
        let done = self.pass().await;
        self.context.writer.publisher.flush().await;
        (done, std::mem::take(&mut self.calls.lock()))
    }

    /// Reconciles once.
    async fn pass(&self) -> Option<Action> {
        let cluster = Arc::new(self.cluster.clone());
        reconcile(cluster, Arc::clone(&self.context)).await.ok()
    }

    /// Another party writes the cluster: this status, or what the watch does not show.
    fn changes(&self, status: Option<Value>) {
        self.stored.lock().changes();
        if let Some(status) = status {
            *self.status.lock() = status;
        }
    }

    /// The watch shows the cluster with the status that stands.
    fn watch_shows_cluster(&mut self) {
        let version = self.stored.lock().version.to_string();
        let status = self.status.lock().clone();
        self.watch_shows_version(&version, &status);
    }

    /// It shows this version of the cluster, with the status of then.
    fn watch_shows_version(&mut self, version: &str, status: &Value) {
        self.cluster.status = serde_json::from_value(status.clone()).unwrap();
        self.cluster.metadata.resource_version = Some(version.to_owned());
    }

    /// Reconciles once, and returns why that failed.
    async fn failure(&self) -> Error {
        let cluster = Arc::new(self.cluster.clone());
        let done = reconcile(cluster, Arc::clone(&self.context)).await;
        done.unwrap_err()
    }

    /// By this code, or by [`NO_ANSWER`].
    fn refuse(&self, call: &'static str, code: u16) {
        self.refused.lock().insert(call, code);
    }

    fn admit(&self, call: &str) {
        self.refused.lock().remove(call);
    }

    /// Has the watches show the StatefulSet with one Ready pod of an earlier template.
    fn runs_outdated_pod(&self) {
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        self.runs_pod("old", &ready);
    }

    /// Has them show it with a pod whose process has ended so often.
    fn runs_crashing_pod(&self, ends: u32) {
        let end = json!({"exitCode": 0, "containerID": format!("containerd://{ends}")});
        let status = json!({
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": "2026-06-01T00:00:00Z"}],
            "containerStatuses": [{
                "name": "bytebase", "ready": false, "restartCount": ends, "image": "", "imageID": "",
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": end},
            }],
        });
        self.runs_pod("new", &status);
    }

    /// Has them show it with a pod whose process runs and is Ready.
    fn runs_new_pod(&self) {
        let status = json!({
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{
                "name": "bytebase", "containerID": "containerd://1", "ready": true, "restartCount": 0,
                "image": "", "imageID": "", "state": {"running": {}},
            }],
        });
        self.runs_pod("new", &status);
    }

    /// Has the watches show the StatefulSet with one pod of this revision.
    fn runs_pod(&self, revision: &str, status: &Value) {
        let caches = &self.context.sources.caches;
        let mut set = caches.get(Kind::StatefulSet, "apps", "demo").unwrap();
        set.data["status"] = json!({"updateRevision": "new", "observedGeneration": 1});
        let owned = caches.owned().find(|(kind, _)| *kind == Kind::StatefulSet);
        owned.unwrap().1.put(set.clone());
        let template = &set.data["spec"]["template"];
        let checksum = template["metadata"]["annotations"][CHECKSUM].clone();
        let pod = json!({
            "metadata": {
                "annotations": {CHECKSUM: checksum},
                "name": "demo-0", "namespace": "apps", "uid": "uid-0",
                "creationTimestamp": "2026-06-01T00:00:00Z",
                "labels": {
                    "app.kubernetes.io/name": "bytebase", "app.kubernetes.io/instance": "demo",
                    "bytebase.com/cluster": "demo", "controller-revision-hash": revision,
                },
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "demo", "uid": "made", "controller": true,
                }],
            },
            "status": status,
        });
        caches.pods.put(serde_json::from_value(pod).unwrap());
    }

    /// Has the watches show the pod as one that was started with other secrets.
    fn knew_other_secrets(&self) {
        let pods = &self.context.sources.caches.pods;
        let mut pod: Pod = pods.get("apps", "demo-0").unwrap();
        let other = (CHECKSUM.to_owned(), "other".to_owned());
        pod.annotations_mut().extend([other]);
        pods.put(pod);
    }

    /// Has the watch show the object of this kind with this change.
    fn shows(&self, kind: Kind, change: impl FnOnce(&mut DynamicObject)) {
        let caches = &self.context.sources.caches;
        let mut object = caches.get(kind, "apps", "demo").unwrap();
        change(&mut object);
        let owned = caches.owned().find(|(of, _)| *of == kind);
        owned.unwrap().1.put(object);
    }

    /// Has the watch of StatefulSets show, in a second, what another party has written.
    fn set_changes_soon(&self) {
        let context = Arc::clone(&self.context);
        tokio::spawn(async move {
            time::sleep(Duration::from_secs(1)).await;
            let caches = &context.sources.caches;
            let mut set = caches.get(Kind::StatefulSet, "apps", "demo").unwrap();
            set.data["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
            set.metadata.resource_version = Some("theirs".to_owned());
            let owned = caches.owned().find(|(kind, _)| *kind == Kind::StatefulSet);
            owned.unwrap().1.put(set);
        });
    }

    /// Has the watches show what was written.
    fn echo(&self) {
        for object in self.written.lock().drain(..) {
            let object: DynamicObject = serde_json::from_value(object).unwrap();
            let kind = object.types.as_ref().unwrap().kind.clone();
            for (_, cache) in self
                .context
                .sources
                .caches
                .owned()
                .filter(|(of, _)| of.name() == kind)
            {
                cache.put(object.clone());
            }
        }
    }
}

const NOTHING: [&str; 0] = [];
const CHECKSUM: &str = "bytebase.com/secrets-checksum";
/// Status waits so long for a log.
const MOMENT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_secret_is_read_once_for_a_new_cluster_and_once_for_each_change() {
    let world = World::new(&json!({}));
    let (_, calls) = world.reconcile().await;
    assert_eq!(calls, [&["GET"][..], &OBJECTS].concat());
    world.reconcile().await;
    world.echo();
    let (_, calls) = world.reconcile().await;
    assert_eq!(calls, ["status"]);
    let shown = |version: &str| {
        let metadata = ObjectMeta {
            namespace: Some("apps".to_owned()),
            name: Some("pg".to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        };
        world.context.references.shown(Kind::Secret, &metadata)
    };
    // The watch shows late what was read.
    assert_eq!(shown("1"), []);
    assert_eq!(world.reconcile().await.1, NOTHING);
    assert_eq!(shown("2"), [ObjectRef::from_obj(&world.cluster)]);
    assert_eq!(world.reconcile().await.1, ["GET"]);
    // While the watch fails nothing would show a change.
    world.context.references.watched(Kind::Secret, None, false);
    for _ in 0..2 {
        assert_eq!(world.reconcile().await.1, ["GET"]);
    }
}

#[tokio::test]
async fn what_was_written_is_not_written_again_before_the_watch_shows_it() {
    let world = World::new(&json!({}));
    let (requeue, calls) = world.reconcile().await;
    // The status is left to the reconcile that sees what was written.
    assert_eq!(requeue, Some(Action::requeue(ECHO)));
    assert_eq!(calls, [&["GET"][..], &OBJECTS].concat());
    let (requeue, calls) = world.reconcile().await;
    // It comes in any case, once.
    assert_eq!(requeue, Some(Action::requeue(ECHO)));
    assert_eq!(calls, [&["status"][..], &EVENTS].concat());
    let (requeue, calls) = world.reconcile().await;
    assert_eq!((requeue, calls), (Some(Action::requeue(ECHO)), vec![]));
    world.echo();
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(requeue, Some(Action::await_change()));
    assert_eq!(calls, ["status"]);
    let (requeue, calls) = world.reconcile().await;
    assert_eq!((requeue, calls), (Some(Action::await_change()), vec![]));
}

#[tokio::test]
async fn an_instance_of_cloud_sql_that_no_host_names_is_reported_as_one_that_cannot_be_read() {
    let url = "user=sa@project.iam dbname=bytebase bytebase_gcp_cloud_sql_iam=true bytebase_gcp_cloud_sql_instance_connection_name=p:r:i";
    let world = World::new(&json!({"database": {"url": url}}));
    world.reconcile().await;
    world.reconcile().await;
    let status = world.status.lock().clone();
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let ready = conditions.find(|condition| condition["type"] == "DatabaseReady");
    let ready = ready.unwrap();
    assert_eq!(ready["status"], "Unknown", "{ready}");
    assert_eq!(ready["reason"], "DatabaseCannotRead", "{ready}");
}

#[tokio::test]
async fn the_echo_of_a_status_is_known_by_its_version() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.reconcile().await;
    let key = ObjectRef::from_obj(&world.cluster);
    let mut metadata = world.cluster.metadata.clone();
    assert!(!world.context.is_echo(&key, &metadata));
    metadata.resource_version = Some(AFTER_STATUS[0].to_owned());
    assert!(world.context.is_echo(&key, &metadata));
}

#[tokio::test]
async fn one_refused_object_keeps_neither_the_others_nor_the_status() {
    let world = World::new(&json!({}));
    world.refuse("Service/demo", 503);
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(requeue, None, "it failed");
    assert_eq!(
        calls,
        [&["GET"][..], &OBJECTS, &["status"], &EVENTS].concat()
    );
    world.admit("Service/demo");
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(requeue, Some(Action::requeue(ECHO)));
    assert_eq!(calls, ["Service/demo"]);
}

#[tokio::test]
async fn a_status_that_cannot_be_written_is_tried_again_and_published_once_it_is() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.refuse("status", 503);
    let (requeue, calls) = world.reconcile().await;
    assert_eq!((requeue, calls), (None, vec!["status".to_owned()]));
    world.admit("status");
    let (_, calls) = world.reconcile().await;
    assert_eq!(calls, [&["status"][..], &EVENTS].concat());
}

#[tokio::test]
async fn an_object_that_no_watch_shows_is_read_by_its_name() {
    let mut world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    world.reconcile().await;
    let cache_of = |kind| {
        let caches = &world.context.sources.caches;
        let owned = caches.owned().find(|(of, _)| *of == kind);
        Arc::clone(owned.unwrap().1)
    };
    // Its watch is lost, and what it showed last is not true any more.
    cache_of(Kind::Service).lost(None, Some(403));
    world.standing.lock().remove("services/demo");
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(calls, ["GET", "GET", "Service/demo"]);
    assert_eq!(requeue, Some(Action::requeue(ECHO)));
    cache_of(Kind::Service).listed(None);
    world.echo();
    assert_eq!(world.reconcile().await.1, NOTHING);
    // The operator has just started, and may not watch it.
    let ingresses = cache_of(Kind::Ingress);
    let caches = &world.context.sources.caches;
    ingresses.remove(caches.get(Kind::Ingress, "apps", "demo").unwrap());
    ingresses.expect_watch(None);
    ingresses.not_listed(None, Some(403));
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(calls[..2], ["GET", "status"]);
    assert_eq!(requeue, Some(Action::requeue(Duration::from_mins(1))));
    let (_, calls) = world.reconcile().await;
    assert_eq!(calls, ["GET"], "it stands as it is wanted");
    world.cluster.spec = cluster(&json!({"ingress": {"enabled": false}})).spec;
    let (_, calls) = world.reconcile().await;
    assert_eq!(calls[..2], ["GET", "DELETE"]);
    // Whether it stands cannot be found out at all.
    world.refuse("GET", 403);
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(calls[..2], ["GET", "status"]);
    assert_eq!(requeue, Some(Action::await_change()));
    let status = world.status.lock().to_string();
    assert!(status.contains("may still stand"), "{status}");
}

/// With a cluster that wants three replicas, of which no license allows so many.
fn unlicensed() -> World {
    let mut world = World::new(&json!({"replicas": 3}));
    let unlicensed = json!({"conditions": [{
        "type": "HALicensed", "status": "False", "reason": "LicenseMissing", "message": "m",
        "lastTransitionTime": "2026-06-01T00:00:00Z",
    }]});
    world.cluster.status = serde_json::from_value(unlicensed).unwrap();
    world
}

/// The same with a StatefulSet of three, whose template is to change as well.
async fn unlicensed_of_three() -> World {
    let mut world = unlicensed();
    world.reconcile().await;
    world.echo();
    world.runs_new_pod();
    world.shows(Kind::StatefulSet, |set| {
        set.data["spec"]["replicas"] = json!(3);
    });
    let labels = &mut world.cluster.spec.pod_labels;
    labels.insert("is".to_owned(), "new".to_owned());
    world
}

/// Such as `kubectl replace --force` has: background deletion ends the cluster before what it owns.
#[tokio::test]
async fn what_an_earlier_cluster_of_this_name_has_left_behind_stalls_no_cluster_before_it_is_late()
{
    let finalizer = json!({
        "deletionTimestamp": Timestamp::now(), "finalizers": ["example.com/cloud"],
    });
    for (age, ends, stalls) in [
        (Duration::ZERO, &finalizer, false),
        (Duration::from_mins(9), &finalizer, false),
        (Duration::ZERO, &json!({}), false),
        (Duration::from_mins(3), &json!({}), true),
    ] {
        let mut world = World::new(&json!({}));
        world.cluster.metadata.creation_timestamp = Some(Time(Timestamp::now() - age));
        world.reconcile().await;
        for object in world.written.lock().iter_mut() {
            if object["kind"] == "Ingress" {
                object["metadata"]["ownerReferences"][0]["uid"] = json!("uid-before");
                object["metadata"]["creationTimestamp"] = json!("2026-06-01T00:00:00Z");
                crate::testing::merge(&mut object["metadata"], ends);
            }
        }
        world.echo();
        let (requeue, calls) = world.reconcile().await;
        let case = format!("{age:?} {ends} {requeue:?} {calls:?}");
        assert!(!calls.contains(&"Ingress/demo".to_owned()), "{case}");
        let status = world.status.lock().clone();
        let mut conditions = status["conditions"].as_array().unwrap().iter();
        let stalled = conditions.find(|condition| condition["type"] == "Stalled");
        let stalled = stalled.unwrap();
        let expected = if stalls {
            ("True", "NameTaken")
        } else {
            ("False", "NotStalled")
        };
        let found = ["status", "reason"].map(|field| stalled[field].as_str().unwrap());
        assert_eq!(found, <[&str; 2]>::from(expected), "{case}");
        // What is wanted does not stand yet, and is asked for again.
        assert_eq!(requeue.is_none(), stalls, "{case}");
        assert_ne!(requeue, Some(Action::await_change()), "{case}");
    }
}

/// Such as `kubectl replace --subresource=status` of a dump, or a backup that is restored with it.
#[tokio::test]
async fn what_another_client_has_written_into_the_status_goes_in_one_write() {
    let mut world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    world.reconcile().await;
    let before = world.status.lock().clone();
    let mut restored = before.clone();
    crate::testing::merge(
        &mut restored,
        &json!({
            "rollout": {"waitingFor": "Drain", "message": "m"},
            "stuckTasks": {"tasks": 3, "replicaIDs": ["r"]},
            "replicaStatuses": [{"pod": "demo-7", "ready": true, "heartbeat": "Fresh"}],
        }),
    );
    world.changes(Some(restored));
    world.watch_shows_cluster();
    assert_eq!(world.reconcile().await.1, ["status"]);
    assert_eq!(*world.status.lock(), before);
}

#[tokio::test]
async fn the_first_of_two_statuses_that_the_watch_shows_late_is_not_taken_for_the_last() {
    let mut world = World::new(&json!({}));
    world.reconcile().await;
    world.reconcile().await;
    let first = world.status.lock().clone();
    world.echo();
    assert_eq!(world.reconcile().await.1, ["status"]);
    let second = world.status.lock().clone();
    assert_ne!(first, second);
    for (version, status) in [(AFTER_STATUS[0], &first), (AFTER_STATUS[1], &second)] {
        world.watch_shows_version(version, status);
        assert_eq!(world.reconcile().await.1, NOTHING, "{version}");
    }
    assert_eq!(*world.status.lock(), second);
}

/// Such as the previous leader has, which the watch does not show yet, or which came to the API
/// server late.
#[tokio::test]
async fn a_status_that_another_process_has_written_is_what_the_next_decision_rests_on() {
    let since = "2020-06-01T00:00:00Z";
    let mut world = World::new(&json!({}));
    world.reconcile().await;
    world.changes(Some(json!({"observedGeneration": 3, "conditions": [{
        "type": "Ready", "status": "False", "reason": "ReplicasNotReady", "message": "m",
        "observedGeneration": 3, "lastTransitionTime": since,
    }]})));
    let before = world.status.lock().clone();
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(requeue, None, "it is made again soon");
    assert_eq!(calls, ["status", "GET"], "nothing is published");
    assert_eq!(*world.status.lock(), before);
    // Also where it writes an object, after which one leaves the status to the next.
    world.echo();
    world.cluster.spec = cluster(&json!({"podLabels": {"team": "data"}})).spec;
    let (_, calls) = world.reconcile().await;
    assert_eq!(calls[..2], ["StatefulSet/demo", "status"], "{calls:?}");
    let status = world.status.lock().clone();
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let ready = conditions.find(|condition| condition["type"] == "Ready");
    assert_eq!(ready.unwrap()["lastTransitionTime"], since);
}

#[tokio::test]
async fn a_status_that_was_decided_on_another_one_asks_for_a_fresh_read() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.changes(Some(json!({"observedGeneration": 3})));
    let failure = world.failure().await;
    let outdated = matches!(failure, Error::Report(report::Error::Outdated));
    assert!(outdated, "{failure}");
    let metrics = world.context.metrics.encode().unwrap();
    let counted = r#"reconciles_total{outcome="error",class="conflict"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    let pause = after_failure(
        Arc::new(world.cluster.clone()),
        &failure,
        Arc::clone(&world.context),
    );
    assert_ne!(pause, Action::await_change());
}

/// Such as an edit that the operator cannot read: the watch leaves the cluster as it was before.
#[tokio::test]
async fn an_edit_that_the_watch_does_not_show_keeps_no_status_from_being_written() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.changes(None);
    let (requeue, calls) = world.reconcile().await;
    let written = ["status", "GET", "status"];
    assert_eq!(calls, [&written[..], &EVENTS].concat());
    assert_eq!(requeue, Some(Action::requeue(ECHO)));
    // The answer says on which version the next one is written.
    world.echo();
    assert_eq!(world.reconcile().await.1, ["status"]);
    world.changes(None);
    world.context.sources.caches.pods.lost(None, Some(403));
    let (_, calls) = world.reconcile().await;
    assert_eq!(calls[..3], written, "{calls:?}");
}

#[tokio::test]
async fn a_status_that_the_schema_refuses_is_reported_as_refused() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.refuse("status", 422);
    for _ in 0..2 {
        let failure = world.failure().await;
        let refused = matches!(failure, Error::Report(report::Error::Status(_)));
        assert!(refused, "{failure}");
        let calls = std::mem::take(&mut *world.calls.lock());
        assert_eq!(calls, ["status", "GET"]);
    }
}

#[tokio::test]
async fn a_cluster_that_is_gone_or_made_again_gets_no_status_and_no_other_try() {
    for is_made_again in [false, true] {
        let world = World::new(&json!({}));
        world.reconcile().await;
        if is_made_again {
            world.stored.lock().uid = "another".to_owned();
        } else {
            world.refuse("status", 404);
            world.refuse("GET", 404);
        }
        let (requeue, calls) = world.reconcile().await;
        assert_eq!(requeue, Some(Action::await_change()));
        assert_eq!(calls, ["status", "GET"]);
        assert_eq!(*world.status.lock(), Value::Null);
    }
}

#[tokio::test]
async fn a_cluster_that_only_the_write_of_its_status_does_not_find_is_tried_again() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.refuse("status", 404);
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(requeue, None, "it has failed");
    assert_eq!(calls, ["status", "GET"]);
}

#[tokio::test]
async fn a_status_whose_answer_was_lost_is_found_and_not_written_again() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.refuse("status", LATE);
    assert_eq!(world.reconcile().await, (None, vec!["status".to_owned()]));
    let status = world.status.lock().clone();
    assert_ne!(status, Value::Null);
    world.admit("status");
    let (requeue, calls) = world.reconcile().await;
    assert_eq!(requeue, None, "it is decided again");
    assert_eq!(calls, ["status", "GET"]);
    assert_eq!(world.reconcile().await.1, NOTHING);
    assert_eq!(*world.status.lock(), status);
}

#[tokio::test]
async fn a_cluster_whose_pods_cannot_be_seen_is_reported_once_and_the_echo_wakes_no_one() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.reconcile().await;
    world.context.sources.caches.pods.lost(None, Some(403));
    let (requeue, calls) = world.reconcile().await;
    assert_eq!((requeue, calls[0].as_str()), (None, "status"), "{calls:?}");
    let is_published = |calls: &[String]| calls.contains(&"event CannotWatch".to_owned());
    assert!(is_published(&calls), "{calls:?}");
    let key = ObjectRef::from_obj(&world.cluster);
    let mut metadata = world.cluster.metadata.clone();
    metadata.resource_version = Some(AFTER_STATUS[1].to_owned());
    assert!(world.context.is_echo(&key, &metadata));
    // The watch has not shown it yet.
    assert_eq!(world.reconcile().await.1, NOTHING);
    let metrics = world.context.metrics.encode().unwrap();
    let counted = r#"api_writes_total{verb="patch_status",kind="BytebaseCluster"} 2"#;
    assert!(metrics.contains(counted), "{metrics}");
}

/// Such as a policy refuses.
#[tokio::test]
async fn a_template_that_is_refused_does_not_keep_the_license_gate_open() {
    let world = unlicensed_of_three().await;
    for (is_refused, expected) in [(true, Some(1)), (false, None)] {
        if is_refused {
            world.refuse("StatefulSet/demo", 403);
        } else {
            world.admit("StatefulSet/demo");
        }
        let (_, calls) = world.reconcile().await;
        assert!(calls.contains(&"StatefulSet/demo".to_owned()), "{calls:?}");
        // A patch of its size alone names no kind.
        let written = world.written.lock();
        let resized = written.iter().rfind(|patch| patch["kind"].is_null());
        let size = resized.and_then(|patch| patch["spec"]["replicas"].as_i64());
        assert_eq!(size.filter(|_| is_refused), expected, "{calls:?}");
        assert_eq!(calls.contains(&"/".to_owned()), is_refused, "{calls:?}");
    }
}

/// Such as another party's finalizer holds up.
#[tokio::test]
async fn a_deletion_that_is_held_up_does_not_keep_the_license_gate_open() {
    let mut world = unlicensed();
    world.reconcile().await;
    world.echo();
    world.cluster.metadata.deletion_timestamp = Some(Time(Timestamp::now()));
    world.cluster.spec.external_url = "https://elsewhere.example.com".to_owned();
    let caches = &world.context.sources.caches;
    let set = caches.get(Kind::StatefulSet, "apps", "demo").unwrap();
    let show = |replicas: i32, is_deleted: bool| {
        let mut set = set.clone();
        set.data["spec"]["replicas"] = json!(replicas);
        set.metadata.deletion_timestamp = is_deleted.then(|| Time(Timestamp::now()));
        let owned = caches.owned().find(|(kind, _)| *kind == Kind::StatefulSet);
        owned.unwrap().1.put(set);
    };
    show(3, false);
    let (_, calls) = world.reconcile().await;
    // A patch of its size alone names no kind.
    assert_eq!(calls[..2], ["/", "status"]);
    let patch = world.written.lock().pop().unwrap();
    assert_eq!(patch["spec"]["replicas"], 1);
    let status = world.status.lock().clone();
    assert_eq!(
        (&status["phase"], &status["targetReplicas"]),
        (&json!("Stalled"), &json!(1))
    );
    // Foreground deletion has begun. One without replicas leaves its database to others.
    for (replicas, is_deleted) in [(3, true), (0, false)] {
        show(replicas, is_deleted);
        assert_eq!(world.reconcile().await.1, NOTHING);
        assert_eq!(world.context.remembers(), []);
    }
}

#[tokio::test]
async fn a_first_listing_that_fails_for_long_keeps_nothing_else_from_being_acted_on() {
    for (code, at_once, later) in [(403, false, false), (500, true, false), (404, true, true)] {
        let world = World::new(&json!({}));
        let readiness = Readiness::default();
        let mut feed = watches::pods(&world.context);
        feed.hold(readiness.missing("pods"));
        let begins = Instant::now();
        let mut waits_after = |seconds| {
            let at = begins + Duration::from_secs(seconds);
            feed.failed(&watches::tests::refused(code), at);
            !readiness.is_ready()
        };
        assert_eq!(waits_after(0), at_once, "{code}");
        assert_eq!(waits_after(15), at_once, "{code}");
        assert_eq!(waits_after(16), later, "{code}");
    }
}

#[tokio::test]
async fn a_watch_that_cannot_be_started_again_has_lost_sight_until_it_has_listed() {
    let world = World::new(&json!({}));
    let unseen = || world.context.sources.caches.unseen("apps");
    let woken = || {
        let mut queue = world.queue.lock();
        std::iter::from_fn(|| queue.try_recv().ok()).count()
    };
    let mut feed = watches::pods(&world.context);
    feed.event(Event::InitDone);
    let begins = Instant::now();
    let fails = |feed: &mut watches::Feed<Pod, _>, seconds| {
        let at = begins + Duration::from_secs(seconds);
        feed.failed(&watches::tests::refused(403), at)
    };
    for seconds in [0, 30, 60] {
        assert_eq!(fails(&mut feed, seconds), watches::Restart::Resume);
    }
    assert_eq!((unseen(), woken()), (None, 0));
    assert_eq!(fails(&mut feed, 61), watches::Restart::ListAgain);
    let message = unseen().unwrap();
    assert!(
        message.contains("may not watch pods in namespace apps"),
        "{message}"
    );
    assert_eq!(woken(), 1, "it is reported");
    assert_eq!(fails(&mut feed, 90), watches::Restart::Resume, "it lists");
    feed.event(Event::InitDone);
    assert_eq!((unseen(), woken()), (None, 1));
    // One that breaks off had started, and so had one that has not failed for long.
    let broken = || watcher::Error::WatchFailed(kube::Error::LinesCodecMaxLineLengthExceeded);
    for seconds in [1000, 1050, 1100, 1150] {
        fails(&mut feed, seconds - 20);
        let at = begins + Duration::from_secs(seconds);
        assert_eq!(feed.failed(&broken(), at), watches::Restart::Resume);
    }
    assert_eq!(fails(&mut feed, 1300), watches::Restart::Resume);
    assert_eq!((unseen(), woken()), (None, 0));
    // Between these a watch may have stood that had nothing to show.
    for seconds in [2000, 2061, 2122] {
        assert_eq!(fails(&mut feed, seconds), watches::Restart::Resume);
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_refused_sees_again_once_it_stands_and_not_by_a_listing() {
    let world = World::new(&json!({}));
    let is_blind = || world.context.sources.caches.unseen("apps").is_some();
    let mut feed = watches::pods(&world.context);
    let begins = Instant::now();
    let mut seconds = 0..;
    let mut lost = |feed: &mut watches::Feed<Pod, _>| {
        feed.event(Event::InitDone);
        assert!(!is_blind());
        for second in seconds.by_ref().step_by(20).take(5) {
            let at = begins + Duration::from_secs(second);
            feed.failed(&watches::tests::watch_refused(403), at);
        }
        feed.event(Event::InitDone);
        assert!(is_blind(), "it lists");
    };
    lost(&mut feed);
    let pod = json!({"metadata": {"name": "x-0", "namespace": "apps", "uid": "u"}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    feed.event(Event::Delete(Guarded::Read(pod)));
    assert!(!is_blind());
    // Where its listing was refused as well, that shows it.
    lost(&mut feed);
    feed.failed(&watches::tests::refused(403), begins);
    feed.event(Event::InitDone);
    assert!(!is_blind());
    // One that breaks off had started.
    lost(&mut feed);
    let broken = || kube::Error::LinesCodecMaxLineLengthExceeded;
    feed.failed(&watcher::Error::WatchFailed(broken()), begins);
    assert!(!is_blind());
    lost(&mut feed);
    let unanswered = || {
        futures::stream::once(async move {
            time::sleep(Duration::from_secs(watches::SILENCE_SECONDS.into())).await;
            Err(watcher::Error::WatchStartFailed(broken()))
        })
        .chain(futures::stream::pending())
    };
    let silence = feed.follow(&unanswered);
    tokio::pin!(silence);
    let mut blind_after = async |seconds| {
        let silent_for = Duration::from_secs(seconds);
        assert!(time::timeout(silent_for, &mut silence).await.is_err());
        is_blind()
    };
    assert!(blind_after(185).await, "an API server that does not answer");
    assert!(!blind_after(15).await, "a watch that has nothing to show");
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_names_that_fails_once_lists_again_so_that_what_is_read_is_kept() {
    let world = World::new(&json!({}));
    let times = Cell::new(0);
    let begin = || {
        times.set(times.get() + 1);
        let listed = [Ok(Event::Init), Ok(Event::InitDone)];
        let fails = (times.get() == 1).then(|| Err(watches::tests::watch_refused(503)));
        let events = futures::stream::iter(listed.into_iter().chain(fails));
        events.chain(futures::stream::pending())
    };
    let context = Arc::clone(&world.context);
    let following = watches::follow_names::<Secret, _>(context, Kind::Secret, None, begin);
    assert!(
        time::timeout(Duration::from_mins(1), following)
            .await
            .is_err()
    );
    assert_eq!(times.get(), 2);
}

#[tokio::test]
async fn a_version_that_the_api_server_has_forgotten_is_no_failure_of_a_watch() {
    let world = World::new(&json!({}));
    for (code, counts) in [(410, false), (500, true)] {
        let status = Status::failure("too old resource version", "").with_code(code);
        let error = watcher::Error::WatchError(status.boxed());
        world.context.watch_failed(Kind::Event, None, &error);
        let metrics = world.context.metrics.encode().unwrap();
        let counted = metrics.contains(r#"watch_errors_total{kind="Event"} 1"#);
        assert_eq!(counted, counts, "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wall_clock_that_does_not_go_on_as_time_does_wakes_every_cluster() {
    let world = World::new(&json!({}));
    tokio::spawn(wall_clock::compare(Arc::clone(&world.context)));
    // The wall clock stands still meanwhile.
    time::sleep(Duration::from_secs(11)).await;
    let woken = world.queue.lock().try_recv();
    assert_eq!(woken, Ok(ObjectRef::from_obj(&world.cluster)));
}

#[tokio::test(start_paused = true)]
async fn a_new_cluster_gets_the_drain_hook_once_the_operator_may_read_its_own_pod() {
    let unknown = Settings {
        own_image: None,
        ..settings()
    };
    let world = World::with(&json!({}), unknown);
    let own = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "operator-0", "namespace": "apps"},
        "spec": {"containers": [{"name": "beside", "image": "b:1"}, {"name": "operator", "image": "op:2"}]},
    });
    let path = "pods/operator-0".to_owned();
    world.standing.lock().insert(path, own);
    world.refuse("GET", 403);
    let answered = CancellationToken::new();
    lead_on(&world);
    let (namespace, pod) = ("apps".to_owned(), "operator-0".to_owned());
    let context = Arc::clone(&world.context);
    tokio::spawn(own_image::learn(context, namespace, pod, answered.clone()));
    answered.cancelled().await;
    assert_eq!(world.context.settings().own_image, None);
    world.admit("GET");
    time::sleep(Duration::from_secs(31)).await;
    let woken = world.queue.lock().try_recv();
    assert_eq!(woken, Ok(ObjectRef::from_obj(&world.cluster)));
    world.reconcile().await;
    let written = world.written.lock();
    let mut written = written.iter();
    let set = written.find(|object| object["kind"] == "StatefulSet");
    let template = &set.unwrap()["spec"]["template"];
    assert_eq!(additions_in(template).drain_image, Some("op:2"));
}

#[tokio::test]
async fn a_label_that_names_no_cluster_wakes_none() {
    let world = World::new(&json!({}));
    let mut feed = watches::pods(&world.context);
    for (cluster, wakes) in [("other", 0), ("demo", 1)] {
        let pod = json!({"metadata": {
            "name": "x-0", "namespace": "apps", "uid": "u", "labels": {"bytebase.com/cluster": cluster},
        }});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        feed.event(Event::Delete(Guarded::Read(pod)));
        let mut queue = world.queue.lock();
        let woken = std::iter::from_fn(|| queue.try_recv().ok()).count();
        assert_eq!(woken, wakes, "{cluster}");
    }
}

#[tokio::test]
async fn an_object_that_is_too_long_is_left_out_and_counted() {
    let world = World::new(&json!({}));
    let labels = (0..LONGEST_OBJECT / 64).map(|index| (format!("label-{index}"), "x".repeat(63)));
    let labels: BTreeMap<String, String> = labels.collect();
    let metadata = json!({"name": "padded", "namespace": "apps", "labels": labels});
    let account: DynamicObject = serde_json::from_value(json!({"metadata": metadata})).unwrap();
    let kind = Kind::ServiceAccount;
    watches::owned(&world.context, kind).event(Event::Apply(Guarded::Read(account)));
    let metrics = world.context.metrics.encode().unwrap();
    assert!(metrics.contains(r#"watch_errors_total{kind="ServiceAccount"} 1"#));
    let kept = world.context.sources.caches.get(kind, "apps", "padded");
    assert_eq!(kept, None);
}

/// Renews the leadership for as long as the test goes on.
fn lead_on(world: &World) {
    let leadership = world.context.writer.leadership.clone();
    tokio::spawn(async move {
        loop {
            leadership.renew();
            time::sleep(Duration::from_secs(1)).await;
        }
    });
}

#[tokio::test]
async fn a_failure_of_a_cluster_that_is_gone_is_not_remembered() {
    let world = World::new(&json!({}));
    let fails = || {
        let cluster = Arc::new(world.cluster.clone());
        after_failure(cluster, &Error::TimedOut, Arc::clone(&world.context))
    };
    assert_ne!(fails(), Action::await_change());
    assert!(world.context.remembers_failures());
    let mut feed = watches::clusters(&world.context);
    feed.event(Event::Delete(Guarded::Read(world.cluster.clone())));
    assert_eq!(fails(), Action::await_change());
    assert!(!world.context.remembers_failures());
}

#[tokio::test]
async fn a_panic_ends_its_reconcile_alone_and_is_counted() {
    let is_broken = Arc::new(AtomicBool::new(true));
    let broken = Arc::clone(&is_broken);
    let clock = move || {
        assert!(!broken.load(Ordering::Relaxed), "planted");
        Timestamp::now()
    };
    let world = World::timed(&json!({}), settings(), Arc::new(clock));
    let cluster = Arc::new(world.cluster.clone());
    let done = reconcile(cluster, Arc::clone(&world.context)).await;
    let Err(Error::Panic(message)) = done else {
        panic!("{done:?}");
    };
    assert_eq!(message, "planted");
    let metrics = world.context.metrics.encode().unwrap();
    assert!(metrics.contains("panics_total 1"), "{metrics}");
    is_broken.store(false, Ordering::Relaxed);
    assert_eq!(world.pass().await, Some(Action::requeue(ECHO)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_reconcile_computes_while_another_one_does() {
    let (inside, have_met) = (AtomicU32::new(0), Arc::new(AtomicBool::new(false)));
    let met = Arc::clone(&have_met);
    // Whoever asks it for the time waits for another one that does.
    let clock = move || {
        if inside.fetch_add(1, Ordering::SeqCst) > 0 {
            met.store(true, Ordering::SeqCst);
        }
        let start = Instant::now();
        while !met.load(Ordering::SeqCst) && start.elapsed() < Duration::from_secs(5) {
            thread::sleep(Duration::from_millis(1));
        }
        inside.fetch_sub(1, Ordering::SeqCst);
        Timestamp::now()
    };
    let world = World::timed(&json!({}), settings(), Arc::new(clock));
    // As the queue has it: one task waits for all of them.
    tokio::join!(world.pass(), world.pass());
    assert!(have_met.load(Ordering::SeqCst));
}

/// Such as the queue's task does when the lease is lost.
#[tokio::test]
async fn a_reconcile_ends_with_the_task_that_waits_for_it() {
    let world = World::new(&json!({}));
    world.refuse("GET", NO_ANSWER);
    let holders = Arc::strong_count(&world.context);
    let cluster = Arc::new(world.cluster.clone());
    let waits = tokio::spawn(reconcile(cluster, Arc::clone(&world.context)));
    while world.calls.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(Arc::strong_count(&world.context) > holders);
    waits.abort();
    assert!(waits.await.unwrap_err().is_cancelled());
    let ends = async {
        while Arc::strong_count(&world.context) > holders {
            tokio::task::yield_now().await;
        }
    };
    assert!(time::timeout(MOMENT, ends).await.is_ok());
}

/// Such as a webhook that does not answer stands before.
#[tokio::test(start_paused = true)]
async fn a_write_without_an_answer_keeps_neither_the_others_nor_the_status_nor_the_slot() {
    let world = World::new(&json!({}));
    for call in ["ServiceAccount/demo", "Service/demo", "StatefulSet/demo"] {
        world.refuse(call, NO_ANSWER);
    }
    lead_on(&world);
    let started = time::Instant::now();
    let (_, calls) = world.reconcile().await;
    assert!(
        started.elapsed() <= Duration::from_secs(45),
        "{:?}",
        started.elapsed()
    );
    for call in ["Service/demo", "Ingress/demo", "status"] {
        assert!(calls.contains(&call.to_owned()), "{call}: {calls:?}");
    }
    let status = world.status.lock().clone();
    assert_eq!(status["phase"], "Stalled", "it is reported: {status}");
}

#[tokio::test(start_paused = true)]
async fn no_reconcile_waits_for_an_event() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    for call in EVENTS {
        world.refuse(call, NO_ANSWER);
    }
    let started = time::Instant::now();
    assert!(time::timeout(MOMENT, world.pass()).await.is_ok());
    assert_eq!(started.elapsed(), Duration::ZERO);
    let status = world.status.lock().clone();
    assert!(status["conditions"].is_array(), "{status}");
}

#[tokio::test(start_paused = true)]
async fn deletions_without_an_answer_take_no_longer_than_one_of_them_and_are_reported() {
    let mut world = World::new(&json!({"networkPolicy": {}}));
    world.reconcile().await;
    world.echo();
    let off = json!({"enabled": false});
    world.cluster.spec = cluster(&json!({"ingress": off, "disruptionBudget": off})).spec;
    world.refuse("DELETE", NO_ANSWER);
    lead_on(&world);
    let started = time::Instant::now();
    let (_, calls) = world.reconcile().await;
    let took = started.elapsed();
    assert!(took <= Duration::from_secs(21), "{took:?}");
    let deletions = calls.iter().filter(|call| *call == "DELETE").count();
    assert_eq!(deletions, 3, "{calls:?}");
    assert!(calls.contains(&"status".to_owned()), "{calls:?}");
}

#[tokio::test]
async fn a_pod_is_evicted_once_and_a_budget_is_asked_again() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    world.runs_outdated_pod();
    world.refuse("Eviction/demo-0", 429);
    let evictions = |calls: &[String]| {
        let evictions = calls.iter().filter(|call| *call == "Eviction/demo-0");
        evictions.count()
    };
    for milliseconds in [250, 500, 1000] {
        let (requeue, calls) = world.reconcile().await;
        assert_eq!(
            requeue,
            Some(Action::requeue(Duration::from_millis(milliseconds)))
        );
        assert_eq!(evictions(&calls), 1, "{calls:?}");
    }
    world.admit("Eviction/demo-0");
    let (_, calls) = world.reconcile().await;
    assert_eq!(evictions(&calls), 1, "{calls:?}");
    assert!(
        calls.contains(&"event RolloutProgressing".to_owned()),
        "{calls:?}"
    );
    // The watch still shows the pod as before.
    let (_, calls) = world.reconcile().await;
    assert_eq!(evictions(&calls), 0, "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_eviction_was_not_answered_counts_as_ending_for_a_moment() {
    for code in [NO_ANSWER, 504] {
        let world = World::new(&json!({}));
        world.reconcile().await;
        world.echo();
        world.runs_outdated_pod();
        world.refuse("Eviction/demo-0", code);
        lead_on(&world);
        let evicts = |calls: &[String]| calls.contains(&"Eviction/demo-0".to_owned());
        let (requeue, calls) = world.reconcile().await;
        assert!(requeue.is_none() && evicts(&calls), "{calls:?}");
        world.admit("Eviction/demo-0");
        let (requeue, calls) = world.reconcile().await;
        assert!(!evicts(&calls), "{code}: {calls:?}");
        let waits = requeue == Some(Action::await_change());
        assert!(!waits && requeue.is_some(), "it is tried again");
    }
}

#[tokio::test]
async fn a_statefulset_that_has_changed_in_between_is_decided_on_again_and_nothing_is_reported() {
    let mut world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    world.reconcile().await;
    let changed = cluster(&json!({"podLabels": {"team": "data"}}));
    world.cluster.spec = changed.spec;
    world.refuse("StatefulSet/demo", 409);
    for _ in 0..2 {
        let (requeue, calls) = world.reconcile().await;
        assert_eq!(requeue, Some(Action::requeue(ECHO)), "{calls:?}");
        assert_eq!(
            calls
                .iter()
                .filter(|call| *call == "StatefulSet/demo")
                .count(),
            1,
            "{calls:?}"
        );
        let status = world.status.lock().to_string();
        assert!(!status.contains("refused"), "{status}");
    }
    world.admit("StatefulSet/demo");
    let (_, calls) = world.reconcile().await;
    assert_eq!(calls, ["StatefulSet/demo"]);
    let sets = world.written.lock().clone();
    let set = sets
        .iter()
        .find(|object| object["kind"] == "StatefulSet")
        .unwrap();
    assert_eq!(
        set["spec"]["template"]["metadata"]["labels"]["team"],
        "data"
    );
    world.echo();
    assert_eq!(
        world
            .reconcile()
            .await
            .1
            .iter()
            .filter(|call| call.contains('/'))
            .count(),
        0
    );
}

#[tokio::test]
async fn the_database_is_read_at_once_when_a_pod_becomes_ready() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    let probes = &world.context.sources.probes;
    let key = ObjectRef::from_obj(&world.cluster);
    // Its task does not run before this test waits for something, which it does not from here on.
    probes.ensure(&key, access(url("127.0.0.1", 1)));
    let mut feed = watches::pods(&world.context);
    let mut shows = |uid: &str, ready: &str| {
        let pod = json!({
            "metadata": {
                "name": "demo-0", "namespace": "apps", "uid": uid,
                "labels": {"bytebase.com/cluster": "demo"},
            },
            "status": {"conditions": [{"type": "Ready", "status": ready}]},
        });
        let pod = serde_json::from_value(pod).unwrap();
        feed.event(Event::Apply(Guarded::Read(pod)));
        probes.is_poked(&key)
    };
    assert!(!shows("a", "True"), "it has not been read at all");
    probes.report(&key, Ok(facts(1, no_license())));
    assert!(!shows("a", "True"), "it is Ready as before");
    assert!(!shows("b", "False"));
    assert!(shows("b", "True"));
    assert!(!shows("b", "True"), "once");
    // A failure has pauses of its own, from the first one on.
    let lost = || ProbeFailure {
        class: FailureClass::Unknown,
        reason: FailureReason::Unreachable,
        message: String::new(),
    };
    for _ in 0..2 {
        probes.report(&key, Err(lost()));
        shows("b", "False");
        assert!(!shows("b", "True"));
    }
}

#[tokio::test]
async fn a_rollout_waits_for_what_pods_are_made_from_and_for_no_other_object() {
    for (object, evicts) in [
        ("Service/demo", true),
        ("Service/demo-headless", true),
        ("PodDisruptionBudget/demo", true),
        ("Ingress/demo", true),
        ("ServiceAccount/demo", false),
    ] {
        let world = World::new(&json!({}));
        world.refuse(object, 403);
        world.reconcile().await;
        world.echo();
        world.runs_outdated_pod();
        let (_, calls) = world.reconcile().await;
        assert!(calls.iter().any(|call| call == object), "{calls:?}");
        let evicted = calls.iter().any(|call| call == "Eviction/demo-0");
        assert_eq!(evicted, evicts, "{object}: {calls:?}");
        // Nor is it reported as one that goes.
        let status = world.status.lock();
        let waiting_for = if evicts {
            "Eviction"
        } else {
            "StatefulSetController"
        };
        assert_eq!(status["rollout"]["waitingFor"], waiting_for, "{object}");
    }
}

#[tokio::test]
async fn no_rollout_waits_for_an_object_that_pods_do_without_and_that_is_another_partys() {
    let spec = json!({"monitoring": {"serviceMonitor": {}}});
    for (object, plural) in [
        ("PodDisruptionBudget/demo", "poddisruptionbudgets"),
        ("ServiceMonitor/demo", "servicemonitors"),
    ] {
        for is_taken in [true, false] {
            let world = World::new(&spec);
            world.refuse(object, if is_taken { 409 } else { 403 });
            if is_taken {
                let metadata = json!({"name": "demo", "namespace": "apps", "uid": "theirs"});
                let theirs = json!({"metadata": metadata});
                let path = format!("{plural}/demo");
                world.standing.lock().insert(path, theirs);
            }
            world.reconcile().await;
            world.echo();
            world.runs_outdated_pod();
            let (_, calls) = world.reconcile().await;
            for made in [object, "Eviction/demo-0"] {
                let count = calls.iter().filter(|call| *call == made).count();
                assert_eq!(count, 1, "{object} {is_taken}: {calls:?}");
            }
            let status = world.status.lock().to_string();
            assert_eq!(status.contains("NameTaken"), is_taken, "{status}");
        }
    }
}

#[tokio::test]
async fn no_pod_is_ended_while_its_new_template_cannot_be_written() {
    for code in [403, 409, 422, 503] {
        let mut world = World::new(&json!({}));
        world.reconcile().await;
        world.echo();
        world.runs_outdated_pod();
        let labels = &mut world.cluster.spec.pod_labels;
        labels.insert("is".to_owned(), "new".to_owned());
        world.refuse("StatefulSet/demo", code);
        let (_, calls) = world.reconcile().await;
        let is_tried = calls.iter().any(|call| call == "StatefulSet/demo");
        let evicts = calls.iter().any(|call| call == "Eviction/demo-0");
        assert!(is_tried && !evicts, "{code}: {calls:?}");
    }
}

#[tokio::test]
async fn a_statefulset_that_is_fought_over_holds_only_evictions_of_which_other_pods_would_come() {
    let other_label = |set: &mut DynamicObject| {
        let label = "app.kubernetes.io/instance".to_owned();
        set.labels_mut().insert(label, "theirs".to_owned());
    };
    let other_pods = |set: &mut DynamicObject| {
        set.data["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(7);
    };
    let other_strategy = |set: &mut DynamicObject| {
        set.data["spec"]["updateStrategy"] = json!({"type": "RollingUpdate"});
    };
    let fights: [fn(&mut DynamicObject); 3] = [other_label, other_pods, other_strategy];
    for (number, changes_back) in fights.into_iter().enumerate() {
        // Pods that are made again after the first of them are as wanted.
        let evicts = number == 0;
        let world = World::new(&json!({}));
        let (_, mut calls) = world.reconcile().await;
        for version in 0..9 {
            if !calls.contains(&"StatefulSet/demo".to_owned()) {
                break;
            }
            world.echo();
            world.runs_outdated_pod();
            let caches = &world.context.sources.caches;
            let mut set = caches.get(Kind::StatefulSet, "apps", "demo").unwrap();
            changes_back(&mut set);
            set.metadata.resource_version = Some(format!("theirs-{version}"));
            let owned = caches.owned().find(|(kind, _)| *kind == Kind::StatefulSet);
            owned.unwrap().1.put(set);
            calls = world.reconcile().await.1;
            let is_written = calls.contains(&"StatefulSet/demo".to_owned());
            let is_evicted = calls.contains(&"Eviction/demo-0".to_owned());
            assert_eq!(is_evicted, evicts && !is_written, "{number}: {calls:?}");
        }
        assert!(!calls.contains(&"StatefulSet/demo".to_owned()), "{calls:?}");
        let status = world.status.lock().to_string();
        assert!(status.contains("ChangedBack"), "{status}");
    }
}

#[tokio::test]
async fn an_ingress_that_is_written_keeps_the_path_of_a_challenge_until_that_is_taken_away() {
    let mut world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    world.reconcile().await;
    let paths = |ingress: &Value| ingress["spec"]["rules"][0]["http"]["paths"].clone();
    let shows = |world: &World, paths: &Value| {
        let caches = &world.context.sources.caches;
        let mut ingress = caches.get(Kind::Ingress, "apps", "demo").unwrap();
        ingress.data["spec"]["rules"][0]["http"]["paths"] = paths.clone();
        let owned = caches.owned().find(|(kind, _)| *kind == Kind::Ingress);
        owned.unwrap().1.put(ingress);
    };
    let caches = &world.context.sources.caches;
    let own = paths(&caches.get(Kind::Ingress, "apps", "demo").unwrap().data);
    let mut with_challenge = own.clone();
    let challenge = json!({
        "path": "/.well-known/acme-challenge/token", "pathType": "ImplementationSpecific",
        "backend": {"service": {"name": "cm-acme-http-solver-x", "port": {"number": 8089}}},
    });
    with_challenge.as_array_mut().unwrap().insert(0, challenge);
    shows(&world, &with_challenge);
    assert_eq!(world.reconcile().await.1, NOTHING);
    let annotations = json!({"ingress": {"annotations": {"team": "data"}}});
    world.cluster.spec = cluster(&annotations).spec;
    assert_eq!(world.reconcile().await.1, ["Ingress/demo"]);
    let written = world.written.lock().last().cloned().unwrap();
    assert_eq!(paths(&written), with_challenge);
    world.echo();
    let writes = |calls: Vec<String>| calls.contains(&"Ingress/demo".to_owned());
    assert!(!writes(world.reconcile().await.1));
    shows(&world, &own);
    assert!(!writes(world.reconcile().await.1));
}

/// The log of a start that failed.
fn failure(port: u32) -> Value {
    let error = format!("failed to connect to 10.0.0.1:{port} with password=hunter");
    json!({"level": "ERROR", "msg": "Cannot new server", "error": error})
}

#[tokio::test]
async fn what_the_log_of_a_crash_says_is_reported_once_whatever_restarts() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    let objects = world.written.lock().clone();
    world.echo();
    *world.log.lock() = Some(failure(40_001));
    world.runs_crashing_pod(1);
    assert_eq!(world.reconcile().await.1, NOTHING);
    assert!(world.logs_are_read().await);
    let (_, calls) = world.reconcile().await;
    assert!(calls.contains(&"status".to_owned()), "{calls:?}");
    let status = world.status.lock().clone();
    let line = "Cannot new server: failed to connect to 10.0.0.1:40001 with ***";
    assert_eq!(status["replicaStatuses"][0]["logLine"]["text"], line);
    let mut conditions = status["conditions"].as_array().unwrap().iter();
    let stalled = conditions.find(|condition| condition["type"] == "Stalled");
    let message = stalled.unwrap()["message"].as_str().unwrap();
    assert!(message.contains(line), "{message}");
    // It ends again, from another port.
    *world.log.lock() = Some(failure(40_002));
    world.runs_crashing_pod(2);
    assert_eq!(world.reconcile().await.1, NOTHING);
    assert!(!world.logs_are_read().await, "it says the same");
    assert_eq!(world.reconcile().await.1, NOTHING);
    // So it does after a restart of the operator, whether the log can be read then or not.
    for log in [Some(failure(40_003)), None] {
        let mut after = World::new(&json!({}));
        after.cluster.status = serde_json::from_value(status.clone()).unwrap();
        after.written.lock().clone_from(&objects);
        after.echo();
        *after.log.lock() = log;
        after.runs_crashing_pod(3);
        let (_, calls) = after.reconcile().await;
        assert_eq!(calls, ["GET"], "the Secret is read, and nothing is written");
        assert!(!after.logs_are_read().await, "it says the same");
        assert_eq!(after.reconcile().await.1, NOTHING);
    }
}

#[tokio::test]
async fn the_log_of_a_process_that_knew_other_secrets_is_not_quoted() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    *world.log.lock() = Some(failure(40_001));
    let report = async || {
        world.reconcile().await;
        world.logs_are_read().await;
        world.reconcile().await;
        world.status.lock().to_string()
    };
    // Whether or not it has been quoted before.
    for (start, was_quoted) in [(1, false), (2, true)] {
        world.runs_crashing_pod(start);
        if was_quoted {
            assert!(report().await.contains("failed to connect"));
        }
        world.knew_other_secrets();
        let status = report().await;
        assert!(!status.contains("failed to connect"), "{status}");
        assert!(status.contains("its log is not quoted, since"), "{status}");
        assert!(
            status.contains("(kubectl logs demo-0 --previous)"),
            "{status}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_process_costs_one_status_and_no_time() {
    let id = "0b3a1c1e-5f55-4f53-9a71-3f2c0f7f9a10";
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    world.reconcile().await;
    *world.log.lock() = Some(json!(format!("replicaID={id}")));
    world.runs_new_pod();
    let start = time::Instant::now();
    assert_eq!(world.reconcile().await.1, NOTHING);
    assert!(world.logs_are_read().await);
    let (_, calls) = world.reconcile().await;
    let statuses = calls.iter().filter(|call| *call == "status");
    assert_eq!(statuses.count(), 1, "{calls:?}");
    let status = world.status.lock().clone();
    assert_eq!(status["replicaStatuses"][0]["replicaID"], id, "{status:#}");
    assert!(!world.logs_are_read().await);
    assert_eq!(world.reconcile().await.1, NOTHING);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_kubelet_that_does_not_answer_holds_no_reconcile_and_status_for_a_moment() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    world.runs_crashing_pod(1);
    let start = time::Instant::now();
    for _ in 0..3 {
        let (requeue, calls) = world.reconcile().await;
        assert_eq!((requeue, calls), (Some(Action::requeue(MOMENT)), vec![]));
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    time::advance(MOMENT).await;
    let (_, calls) = world.reconcile().await;
    assert!(calls.contains(&"status".to_owned()), "{calls:?}");
    assert_eq!(world.reconcile().await.1, NOTHING);
    assert_eq!(start.elapsed(), MOMENT);
}

#[tokio::test(start_paused = true)]
async fn a_statefulset_that_changes_in_the_middle_of_a_reconcile_is_left_to_the_next_one() {
    let world = World::new(&json!({}));
    world.reconcile().await;
    world.echo();
    world.reconcile().await;
    world.shows(Kind::ServiceAccount, |account| {
        account.labels_mut().clear();
        account.metadata.resource_version = Some("theirs".to_owned());
    });
    // Meanwhile the set changes, which was as wanted.
    world.refuse("ServiceAccount/demo", NO_ANSWER);
    lead_on(&world);
    world.set_changes_soon();
    let (_, calls) = world.reconcile().await;
    let writes = |calls: &[String], object: &str| calls.iter().any(|call| call == object);
    assert!(writes(&calls, "ServiceAccount/demo"), "{calls:?}");
    assert!(!writes(&calls, "StatefulSet/demo"), "{calls:?}");
    world.admit("ServiceAccount/demo");
    let (_, calls) = world.reconcile().await;
    assert!(writes(&calls, "StatefulSet/demo"), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn the_size_of_a_statefulset_that_changes_in_the_middle_of_a_reconcile_is_left_as_it_is() {
    for changes in [false, true] {
        let world = unlicensed_of_three().await;
        world.refuse("StatefulSet/demo", NO_ANSWER);
        lead_on(&world);
        if changes {
            world.set_changes_soon();
        }
        let (_, calls) = world.reconcile().await;
        assert!(calls.contains(&"StatefulSet/demo".to_owned()), "{calls:?}");
        // A patch of its size alone names no kind.
        assert_eq!(calls.contains(&"/".to_owned()), !changes, "{calls:?}");
    }
}

/// By then another process may lead.
#[tokio::test(start_paused = true)]
async fn nothing_is_written_after_a_write_that_outlasts_the_leadership() {
    for leads_on in [true, false] {
        let new = World::new(&json!({}));
        let replaces = World::new(&json!({}));
        replaces.reconcile().await;
        replaces.echo();
        replaces.runs_outdated_pod();
        let shrinks = unlicensed_of_three().await;
        for (world, outlasts, next) in [
            (new, "ServiceAccount/demo", "StatefulSet/demo"),
            // A patch of its size alone names no kind.
            (shrinks, "StatefulSet/demo", "/"),
            (replaces, "Eviction/demo-0", "status"),
        ] {
            world.context.writer.leadership.renew();
            if leads_on {
                lead_on(&world);
            }
            world.refuse(outlasts, NO_ANSWER);
            let (_, calls) = world.reconcile().await;
            let is_called = |call: &str| calls.iter().any(|called| called == call);
            assert!(is_called(outlasts), "{calls:?}");
            assert_eq!(is_called(next), leads_on, "{outlasts}: {calls:?}");
            assert_eq!(is_called("status"), leads_on, "{outlasts}: {calls:?}");
        }
    }
}
