//! Histories of several clusters, their databases and the operator's processes, by whole
//! reconciles. The claims, the probes, the memories and the writes are the real ones; only what a
//! reading finds is made up, and the API server, the controllers and the clock are stood in for.
//!
//! While time passes a cluster is reconciled as it would be in a cluster: when something wakes it,
//! and when its last reconcile said that it would come again.

use super::super::context::{Context, Options, Parts};
use super::super::reconcile::reconcile;
use super::super::watches;
use crate::api::BytebaseCluster;
use crate::kubernetes::{Guarded, Kind};
use crate::observation::heartbeat::Freshness;
use crate::observation::{
    DatabaseFacts, DatabaseIdentity, Fact, FailureClass, FailureReason, Heartbeat, ProbeFailure,
    SchemaState, StoredLicense,
};
use crate::observe::caches::ObjectName;
use crate::observe::database::probe::Probes;
use crate::process::lease::Leadership;
use crate::process::metrics::Metrics;
use crate::process::queue::{Key, name};
use crate::testing::{
    after, api_server, cluster, facts, no_license, settings, status_patch, stored,
};
use axum::http::Uri;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher::Event as Watched;
use parking_lot::Mutex;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use uuid::Uuid;

const NAMES: [&str; 3] = ["a", "b", "c"];
/// Hosts that a spec may name. Each leads to one of the servers, two of them to the same.
const HOSTS: [&str; 3] = ["one", "two", "three"];
const SIZES: [i32; 3] = [0, 1, 3];
const PLACE: &str = "/apis/bytebase.com/v1alpha1/namespaces/apps/bytebaseclusters/";
const SETS: &str = "/apis/apps/v1/namespaces/apps/statefulsets/";
const PODS: &str = "/api/v1/namespaces/apps/pods/";
/// Reconciles after which a cluster must have come to rest.
const REST: usize = 12;

// === What happens ===

/// Indices are into the lists above.
#[derive(Clone, Debug)]
enum Event {
    /// A user makes a cluster.
    Make(usize, usize, usize),
    /// A user deletes one. What its reconcile was doing at that moment goes on, if `during`.
    Delete {
        name: usize,
        during: bool,
    },
    /// It is deleted and made again, and the watch shows the second one only.
    MakeAgain(usize, usize, usize),
    /// It is deleted and made again under another name.
    Rename(usize, usize),
    /// A user gives a cluster another database.
    Edit(usize, usize),
    /// A user names the database of a cluster by another host that leads there.
    Respell(usize),
    Scale(usize, usize),
    /// The spec cannot be used, or can again.
    Valid(usize, bool),
    /// A host leads to another server.
    Lead(usize, usize),
    Up(usize, bool),
    /// A server is restarted, so quickly that nothing fails.
    RestartServer(usize),
    Hold(usize, Content),
    Store(usize, License),
    /// A replica of another Bytebase begins or ends.
    Foreign(usize, bool),
    /// A reading ends.
    Read(usize),
    /// One reconcile, of which nothing need come to an end.
    Reconcile(usize),
    /// Another process of the operator.
    Restart([usize; 3]),
    /// Everything is read and reconciled until nothing is written any more.
    Settle([usize; 3]),
    /// Seconds pass, in which the probes read, or do not.
    Wait {
        seconds: u16,
        reads: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Bytebase,
    /// Another application's tables.
    Foreign,
    /// Bytebase's, in a form that this operator does not understand.
    Renamed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum License {
    None,
    /// So many seconds from now.
    Ends(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let three = || 0..3_usize;
    let order = || Just([0, 1, 2]).prop_shuffle();
    let content = prop_oneof![
        4 => Just(Content::Bytebase),
        2 => Just(Content::Foreign),
        2 => Just(Content::Renamed),
    ];
    let license = prop_oneof![
        1 => Just(License::None),
        2 => (0..3000_i64).prop_map(License::Ends),
        2 => Just(License::Ends(1_000_000)),
    ];
    let event = prop_oneof![
        8 => (three(), three(), 1..3_usize).prop_map(|(n, h, s)| Event::Make(n, h, s)),
        2 => (three(), any::<bool>()).prop_map(|(name, during)| Event::Delete { name, during }),
        2 => (three(), three(), 1..3_usize).prop_map(|(n, h, s)| Event::MakeAgain(n, h, s)),
        2 => (three(), three()).prop_map(|(from, to)| Event::Rename(from, to)),
        3 => (three(), three()).prop_map(|(n, h)| Event::Edit(n, h)),
        3 => three().prop_map(Event::Respell),
        3 => (three(), three()).prop_map(|(n, s)| Event::Scale(n, s)),
        2 => (three(), any::<bool>()).prop_map(|(n, valid)| Event::Valid(n, valid)),
        2 => (three(), three()).prop_map(|(h, s)| Event::Lead(h, s)),
        5 => (three(), any::<bool>()).prop_map(|(s, up)| Event::Up(s, up)),
        3 => three().prop_map(Event::RestartServer),
        3 => (three(), content).prop_map(|(s, content)| Event::Hold(s, content)),
        4 => (three(), license).prop_map(|(s, license)| Event::Store(s, license)),
        2 => (three(), any::<bool>()).prop_map(|(s, on)| Event::Foreign(s, on)),
        6 => three().prop_map(Event::Read),
        6 => three().prop_map(Event::Reconcile),
        5 => order().prop_map(Event::Restart),
        8 => order().prop_map(Event::Settle),
        4 => (1..2000_u16, any::<bool>()).prop_map(|(seconds, reads)| Event::Wait { seconds, reads }),
    ];
    proptest::collection::vec(event, 1..40)
}

// === The API server ===

/// What is stored, by the paths of the API.
#[derive(Default)]
struct Stored {
    version: u64,
    objects: BTreeMap<String, Value>,
    /// Every call that was not a read.
    writes: Vec<String>,
}

impl Stored {
    /// Stores an object, with a uid of its own if it has none.
    fn put(&mut self, path: &str, mut object: Value) -> Value {
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = json!(Uuid::from_u128(u128::from(self.version)));
        }
        self.objects.insert(path.to_owned(), object.clone());
        object
    }

    fn answer(&mut self, method: &str, uri: &Uri, body: Value) -> (u16, Value) {
        let path = uri.path();
        if let Some(pod) = path
            .strip_prefix(PODS)
            .and_then(|rest| rest.strip_suffix("/log"))
        {
            // The uid of a pod is its replica's id.
            let pod = self.objects.get(&format!("{PODS}{pod}"));
            let id = pod.map_or(&Value::Null, |pod| &pod["metadata"]["uid"]);
            let id = id.as_str().unwrap_or_default();
            return (200, json!(format!("replicaID={id}")));
        }
        if method == "GET" {
            let found = self.objects.get(path).cloned();
            return found.map_or_else(|| refused(404), |found| (200, found));
        }
        self.writes.push(format!("{method} {path}"));
        if method == "POST" {
            return (201, body);
        }
        let (place, is_status) = match path.strip_suffix("/status") {
            Some(place) => (place, true),
            None => (path, false),
        };
        let before = self.objects.get(place).cloned();
        let asked = &body["metadata"];
        let differs = |field: &str, before: &Value| {
            !asked[field].is_null() && asked[field] != before["metadata"][field]
        };
        match (method, before) {
            ("DELETE", Some(_)) => {
                self.objects.remove(place);
                (
                    200,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                )
            }
            ("PATCH", Some(before))
                if differs("uid", &before) || differs("resourceVersion", &before) =>
            {
                refused(409)
            }
            ("PATCH", Some(mut before)) if is_status => match status_patch(&body) {
                Some(written) if written.fits(&before) => {
                    before["status"] = written.status.clone();
                    (200, self.put(place, before))
                }
                Some(_) => refused(422),
                None => refused(400),
            },
            // The size of a StatefulSet alone.
            ("PATCH", Some(mut before)) if body["kind"].is_null() => {
                crate::testing::merge(&mut before["spec"], &body["spec"]);
                (200, self.put(place, before))
            }
            ("PATCH", Some(before)) => {
                let mut next = body;
                next["metadata"]["uid"] = before["metadata"]["uid"].clone();
                next["status"] = before["status"].clone();
                (200, self.put(place, next))
            }
            ("PATCH", None) if !is_status && asked["uid"].is_null() => (201, self.put(place, body)),
            _ => refused(404),
        }
    }
}

fn refused(code: u16) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "", "message": "no",
    });
    (code, status)
}

// === The world ===

struct Server {
    identity: u8,
    starts: u32,
    started: i64,
    up: bool,
    content: Content,
    /// `None`: no license is stored. Otherwise it ends at this second.
    license: Option<i64>,
    foreign: bool,
}

/// What a reading found of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Finding {
    refused: bool,
    /// A replica that is not this cluster's was active.
    occupied: bool,
    server: (u8, u32),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum View {
    #[default]
    NotRead,
    Failed,
    Good,
}

#[derive(Clone, Copy, Debug, Default)]
enum LastLicense {
    #[default]
    Never,
    Absent,
    Ends(i64),
}

/// What the operator knows of the database of one cluster.
#[derive(Clone, Copy, Debug, Default)]
struct Knowledge {
    host: Option<usize>,
    view: View,
    finding: Option<Finding>,
    /// A replica of the cluster was active there.
    serves: bool,
    license: LastLicense,
}

/// By whom it is known.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// The process that runs.
    process: Knowledge,
    /// The next process: what a reconcile rested on that left nothing to write.
    stored: Knowledge,
    /// What the process has claimed for it.
    claimed: Option<(usize, Option<Finding>)>,
    /// The server that is its own since it has served there.
    served_on: Option<u8>,
}

struct World {
    elapsed: Arc<AtomicI64>,
    stored: Arc<Mutex<Stored>>,
    servers: [Server; 3],
    leads_to: [usize; 3],
    /// Heartbeats of replicas that have ended: the id, the server, and when.
    lingering: Vec<(Uuid, usize, i64)>,
    context: Arc<Context>,
    /// Where the process puts clusters that are to be reconciled.
    queue: UnboundedReceiver<Key>,
    /// Clusters that the reconcile of another one has woken.
    woken: BTreeSet<String>,
    /// Clusters that anything else has woken.
    queued: BTreeSet<String>,
    /// When each cluster is to be reconciled again, as its last reconcile said.
    due: BTreeMap<String, i64>,
    /// What the watches have shown of all but the clusters, by the paths of the API.
    shown: BTreeMap<String, Value>,
    /// By uid.
    known: BTreeMap<String, Known>,
    uids: u32,
    /// Nothing has happened since all was settled.
    settled: bool,
    http: reqwest::Client,
}

/// A cluster as one process sees it.
fn key(name: &str) -> Key {
    ObjectRef::new(name).within("apps")
}

fn uid_of(object: &Value) -> String {
    object["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn url(host: usize) -> String {
    format!(
        "postgres://bytebase@{}.example.com:5432/bytebase",
        HOSTS[host]
    )
}

/// The host in a pod template or a spec.
fn host_in(value: &Value) -> Option<usize> {
    let text = value.to_string();
    HOSTS
        .iter()
        .position(|host| text.contains(&format!("@{host}.example.com")))
}

impl World {
    fn new() -> Self {
        let elapsed = Arc::<AtomicI64>::default();
        let stored = Arc::<Mutex<Stored>>::default();
        let http = reqwest::Client::new();
        let server = |identity| Server {
            identity,
            starts: 0,
            started: -3600,
            up: true,
            content: Content::Bytebase,
            license: Some(1_000_000),
            foreign: false,
        };
        let (context, queue) = process(&stored, &elapsed, &http);
        Self {
            context,
            queue,
            woken: BTreeSet::new(),
            queued: BTreeSet::new(),
            due: BTreeMap::new(),
            shown: BTreeMap::new(),
            elapsed,
            stored,
            servers: [0, 1, 2].map(server),
            leads_to: [0, 1, 0],
            lingering: Vec::new(),
            known: BTreeMap::new(),
            uids: 0,
            settled: false,
            http,
        }
    }

    fn now(&self) -> i64 {
        self.elapsed.load(Ordering::Relaxed)
    }

    fn object(&self, path: &str) -> Option<Value> {
        self.stored.lock().objects.get(path).cloned()
    }

    fn writes(&self) -> usize {
        self.stored.lock().writes.len()
    }

    /// A cluster as the process sees it.
    fn seen(&self, name: &str) -> Option<Arc<BytebaseCluster>> {
        self.context.sources.caches.clusters.store().get(&key(name))
    }

    fn show(
        &self,
        event: impl FnOnce(Guarded<BytebaseCluster>) -> Watched<Guarded<BytebaseCluster>>,
        object: Value,
    ) {
        let object = Guarded::Read(serde_json::from_value(object).unwrap());
        watches::clusters(&self.context).event(event(object));
    }

    // --- What users do ---

    fn make(&mut self, name: &str, host: usize, size: usize) -> bool {
        let path = format!("{PLACE}{name}");
        if self.object(&path).is_some() {
            return false;
        }
        // With a longer drain the license gate closes hours before the end.
        let spec = json!({
            "replicas": SIZES[size], "database": {"url": url(host)}, "ingress": {"enabled": false},
            "rollout": {"drainTimeoutSeconds": 60},
        });
        let mut object = serde_json::to_value(cluster(&spec)).unwrap();
        self.uids += 1;
        object["metadata"] = json!({
            "name": name, "namespace": "apps", "uid": format!("uid-{}", self.uids), "generation": 1,
            "creationTimestamp": after(SignedDuration::from_secs(self.now())),
        });
        self.stored.lock().put(&path, object);
        true
    }

    fn delete(&self, name: &str) -> Option<Value> {
        let path = format!("{PLACE}{name}");
        self.stored.lock().objects.remove(&path)
    }

    fn edit(&self, name: &str, change: &Value) {
        let path = format!("{PLACE}{name}");
        let Some(mut object) = self.object(&path) else {
            return;
        };
        crate::testing::merge(&mut object["spec"], change);
        let generation = object["metadata"]["generation"].as_i64().unwrap();
        object["metadata"]["generation"] = json!(generation + 1);
        let object = self.stored.lock().put(&path, object);
        self.show(Watched::Apply, object);
    }

    fn respell(&self, name: &str) {
        let spec = self.object(&format!("{PLACE}{name}"));
        let Some(host) = spec.and_then(|object| host_in(&object["spec"])) else {
            return;
        };
        let mut others = (0..3).filter(|other| *other != host);
        if let Some(other) = others.find(|other| self.leads_to[*other] == self.leads_to[host]) {
            self.edit(name, &json!({"database": {"url": url(other)}}));
        }
    }

    /// The watch lists all clusters again.
    fn list(&self) {
        let mut feed = watches::clusters(&self.context);
        feed.event(Watched::Init);
        for name in NAMES {
            if let Some(object) = self.object(&format!("{PLACE}{name}")) {
                let object = Guarded::Read(serde_json::from_value(object).unwrap());
                feed.event(Watched::InitApply(object));
            }
        }
        feed.event(Watched::InitDone);
    }

    // --- What controllers and kubelets do ---

    /// What is owned by nothing goes, each StatefulSet has its pods, and the watches show it all.
    fn controllers(&mut self) {
        loop {
            let mut stored = self.stored.lock();
            let uids: BTreeSet<_> = stored.objects.values().map(uid_of).collect();
            let mut objects = stored.objects.iter();
            let orphan = objects.find(|(_, object)| {
                let owner = object["metadata"]["ownerReferences"][0]["uid"].as_str();
                owner.is_some_and(|owner| !uids.contains(owner))
            });
            let Some(path) = orphan.map(|(path, _)| path.clone()) else {
                break;
            };
            let object = stored.objects.remove(&path).unwrap();
            drop(stored);
            self.ended(&path, &object);
        }
        for name in NAMES {
            let path = format!("{SETS}{name}");
            if let Some(set) = self.object(&path) {
                self.pods_of(name, set, &path);
            }
        }
        self.watch();
    }

    fn pods_of(&mut self, name: &str, mut set: Value, path: &str) {
        if set["status"]["updateRevision"].is_null() {
            set["status"] = json!({"updateRevision": "r"});
            set = self.stored.lock().put(path, set);
        }
        let start = set["spec"]["ordinals"]["start"].as_i64().unwrap_or(0);
        let wanted = start..start + set["spec"]["replicas"].as_i64().unwrap();
        let host = host_in(&set["spec"]["template"]);
        for ordinal in 0..4 {
            let path = format!("{PODS}{name}-{ordinal}");
            let before = self.object(&path);
            let keeps = |pod: &Value| host_in(pod) == host && wanted.contains(&ordinal);
            if let Some(pod) = before.filter(|pod| !keeps(pod)) {
                self.stored.lock().objects.remove(&path);
                self.ended(&path, &pod);
            }
            if wanted.contains(&ordinal) && self.object(&path).is_none() {
                let pod = pod(name, ordinal, &set, self.now());
                self.stored.lock().put(&path, pod);
            }
        }
    }

    /// The heartbeat of a replica that has ended stays.
    fn ended(&mut self, path: &str, object: &Value) {
        if path.starts_with(PODS) {
            let id = uid_of(object).parse().unwrap();
            let server = self.leads_to[host_in(object).unwrap()];
            self.lingering.push((id, server, self.now()));
        }
    }

    /// The watches show what has changed of all but the clusters.
    fn watch(&mut self) {
        let mut stored = self.stored.lock().objects.clone();
        stored.retain(|path, _| !path.starts_with(PLACE));
        let shown = std::mem::replace(&mut self.shown, stored);
        for (path, object) in &shown {
            if !self.shown.contains_key(path) {
                self.shows(Watched::Delete, Watched::Delete, object);
            }
        }
        for (path, object) in &self.shown {
            if shown.get(path) != Some(object) {
                self.shows(Watched::Apply, Watched::Apply, object);
            }
        }
    }

    /// The watch of a pod or of another object shows it.
    fn shows(
        &self,
        of_pod: impl FnOnce(Guarded<Pod>) -> Watched<Guarded<Pod>>,
        of_other: impl FnOnce(Guarded<DynamicObject>) -> Watched<Guarded<DynamicObject>>,
        object: &Value,
    ) {
        let read = object.clone();
        if object["kind"] == "Pod" {
            let pod = Guarded::Read(serde_json::from_value(read).unwrap());
            watches::pods(&self.context).event(of_pod(pod));
            return;
        }
        let kind = Kind::owned().find(|kind| object["kind"] == kind.name());
        let other = Guarded::Read(serde_json::from_value(read).unwrap());
        watches::owned(&self.context, kind.unwrap()).event(of_other(other));
    }

    /// Active replicas on a server: id, age of the last heartbeat, and name of the cluster.
    fn active(&self, server: usize) -> Vec<(Uuid, i64, Option<String>)> {
        let stored = self.stored.lock();
        let pods = stored.objects.iter().filter_map(|(path, pod)| {
            let name = path.strip_prefix(PODS)?.split('-').next()?;
            let here = self.leads_to[host_in(pod)?] == server;
            here.then(|| (uid_of(pod).parse().unwrap(), 3, Some(name.to_owned())))
        });
        let lingering = self.lingering.iter();
        let lingering = lingering.filter(|(_, at, _)| *at == server);
        let now = self.now();
        let lingering = lingering.map(|(id, _, ended)| (*id, now - ended + 3, None));
        let foreign = self.servers[server].foreign;
        let foreign = foreign.then(|| (Uuid::from_u128(1 << 90), 3, None));
        pods.chain(lingering).chain(foreign).collect()
    }

    // --- What the operator does ---

    /// A reading ends in the process.
    fn read(&mut self, name: &str) {
        let probes = &self.context.sources.probes;
        let Some(uid) = self.seen(name).and_then(|cluster| cluster.uid()) else {
            return;
        };
        if !probes.keys().contains(&key(name)) {
            return;
        }
        let mut known = self.known.get(&uid).copied().unwrap_or_default();
        let Some(host) = known.process.host else {
            return;
        };
        let at = self.leads_to[host];
        let server = &self.servers[at];
        if !server.up {
            for _ in 0..2 {
                let is_news = probes.report(&key(name), Err(unreachable()));
                self.queued.extend(is_news.then(|| name.to_owned()));
            }
            known.process.view = View::Failed;
            self.known.insert(uid, known);
            return;
        }
        let active = self.active(at);
        let fresh = |age: i64| Freshness::of(seconds(age)) == Freshness::Fresh;
        let mut others = active.iter();
        let occupied = others.any(|(_, age, of)| fresh(*age) && of.as_deref() != Some(name));
        let mut own = active.iter();
        known.process.serves =
            server.content != Content::Foreign && own.any(|(_, _, of)| of.as_deref() == Some(name));
        known.process.view = View::Good;
        known.process.finding = Some(Finding {
            refused: server.content == Content::Foreign,
            occupied: occupied && server.content != Content::Foreign,
            server: (server.identity, server.starts),
        });
        match (server.content, server.license) {
            (Content::Renamed, _) => {}
            (Content::Bytebase, Some(end)) => known.process.license = LastLicense::Ends(end),
            // Bytebase's tables were there, and may only be out of sight.
            (Content::Foreign, _) if matches!(known.process.license, LastLicense::Ends(_)) => {}
            (Content::Bytebase, None) | (Content::Foreign, _) => {
                known.process.license = LastLicense::Absent;
            }
        }
        let facts = facts_of(server, &active, self.now());
        // What is news wakes the cluster.
        let is_news = probes.report(&key(name), Ok(facts));
        self.queued.extend(is_news.then(|| name.to_owned()));
        self.known.insert(uid, known);
    }

    /// Size and host of what runs of a cluster.
    fn runs(&self, name: &str, uid: &str) -> (i64, Option<usize>) {
        let set = self.object(&format!("{SETS}{name}"));
        let set = set.filter(|set| set["metadata"]["ownerReferences"][0]["uid"] == uid);
        set.map_or((0, None), |set| {
            let size = set["spec"]["replicas"].as_i64().unwrap();
            (size, host_in(&set["spec"]["template"]))
        })
    }

    /// One reconcile. True if it wrote something.
    async fn reconcile(&mut self, name: &str) -> Result<bool, TestCaseError> {
        let Some(cluster) = self.seen(name) else {
            return Ok(false);
        };
        self.reconcile_this(name, cluster).await
    }

    async fn reconcile_this(
        &mut self,
        name: &str,
        cluster: Arc<BytebaseCluster>,
    ) -> Result<bool, TestCaseError> {
        let uid = cluster.uid().unwrap();
        let spec = serde_json::to_value(&cluster.spec).unwrap();
        let host = host_in(&spec);
        let before = (self.runs(name, &uid), self.writes());
        let has_pods = self.object(&format!("{PODS}{name}-0")).is_some();
        let mut known = self.known.get(&uid).copied().unwrap_or_default();
        if known.process.host != host {
            known.process = Knowledge {
                host,
                ..Knowledge::default()
            };
        }
        let stopped = spec["replicas"] == 0 && before.0.0 == 0;
        known.served_on = self.served_on_after(name, before.0.0, &known.process);
        known.claimed = (!stopped || known.served_on.is_some()).then(|| {
            let finding = known.process.finding;
            let claimed = known.claimed.filter(|(at, _)| Some(*at) == host);
            let finding = finding.or(claimed.and_then(|(_, finding)| finding));
            (host.unwrap(), finding)
        });
        self.known.insert(uid.clone(), known);
        let created = cluster.creation_timestamp().map(|time| time.0);
        let was_refused = self.is_refused_as_shared(name);
        self.context.writer.leadership.renew();
        self.gather();
        self.queued.remove(name);
        self.due.remove(name);
        let mut done = reconcile(Arc::clone(&cluster), Arc::clone(&self.context)).await;
        // It is woken once its logs have been read.
        for _ in 0..REST {
            if !self.wakes(name).await {
                break;
            }
            done = reconcile(Arc::clone(&cluster), Arc::clone(&self.context)).await;
        }
        self.context.writer.publisher.flush().await;
        let stored = self.object(&format!("{PLACE}{name}"));
        let is_there = stored.is_some_and(|object| uid_of(&object) == uid)
            && self.seen(name).and_then(|seen| seen.uid()).as_ref() == Some(&uid);
        if let (Err(error), true) = (&done, is_there) {
            let message = format!("a reconcile of {name} failed: {error}");
            return Err(TestCaseError::fail(message));
        }
        if is_there && let Some(pause) = done.as_ref().ok().and_then(pause_of) {
            let pause = i64::try_from(pause.as_millis().div_ceil(1000)).unwrap();
            self.due.insert(name.to_owned(), self.now() + pause);
        }
        let after = self.runs(name, &uid);
        let wrote = self.writes() > before.1;
        let starts = after.0 > 0 && before.0.0 == 0 && !has_pods;
        let moves = after.0 > 0 && before.0.0 > 0 && after.1 != before.0.1;
        if starts || moves {
            let all = known;
            let known = &known.process;
            prop_assert_eq!(known.host, after.1);
            prop_assert_ne!(known.view, View::NotRead, "{} starts unread", name);
            if known.view == View::Failed {
                prop_assert!(
                    known.finding.is_none(),
                    "{} starts, and was read before",
                    name
                );
            }
            if let Some(finding) = known.finding {
                prop_assert!(!finding.refused, "{} starts on a refused database", name);
                prop_assert!(
                    !starts || !finding.occupied,
                    "{} starts beside others",
                    name
                );
            }
            self.is_of_no_other(name, created, &all, starts, was_refused)?;
        }
        self.controllers();
        let seen = self.seen(name).and_then(|seen| seen.resource_version());
        if let Some(object) = self.object(&format!("{PLACE}{name}"))
            && object["metadata"]["resourceVersion"].as_str() != seen.as_deref()
        {
            self.show(Watched::Apply, object);
        }
        if !wrote && done.is_ok() && known.process.view != View::NotRead {
            self.is_held_rightly(name, &uid)?;
            self.known
                .entry(uid)
                .and_modify(|known| known.stored = known.process);
        }
        Ok(wrote)
    }

    /// Takes note of the clusters that are woken.
    fn gather(&mut self) {
        while let Ok(woken) = self.queue.try_recv() {
            self.queued.insert(woken.name);
        }
    }

    /// Whether the database on which a cluster starts, or to which it moves, is no other one's, by
    /// what is known of both.
    fn is_of_no_other(
        &self,
        name: &str,
        created: Option<jiff::Timestamp>,
        known: &Known,
        starts: bool,
        was_refused: bool,
    ) -> Result<(), TestCaseError> {
        let (served_on, known) = (known.served_on, &known.process);
        for (other, known_of_other) in &self.known {
            if !self.is_another(other, name) {
                continue;
            }
            let Some((at, claimed)) = known_of_other.claimed else {
                continue;
            };
            // The one that it starts on, if that is known.
            let contested = known.finding.or(claimed).map(|finding| finding.server.0);
            let has_served = |on: Option<u8>| contested.is_some() && on == contested;
            let (theirs, mine) = (known_of_other.served_on, served_on);
            let (theirs, mine) = (has_served(theirs), has_served(mine));
            let is_elsewhere =
                known.finding.is_some() && claimed.map(|claimed| claimed.server.0) != contested;
            if theirs && !mine && is_elsewhere {
                prop_assert!(
                    !starts && !was_refused,
                    "{} starts where {} has served, whose spec names another place",
                    name,
                    other
                );
            }
            let is_older = || self.older(other, name, created);
            let goes_before = match (theirs, mine) {
                // Of two that have served there one that has replicas there goes before, as one has
                // that moves there by another name of it.
                (true, true) if !starts => is_older() && self.has_replicas(other),
                (true, true) | (false, false) => is_older(),
                (theirs, _) => theirs,
            };
            if !goes_before {
                continue;
            }
            let now = &known_of_other.process;
            let shared = match (known.finding, claimed) {
                // Both were read, and the older one lately; or what was known of it counts.
                (Some(mine), Some(theirs)) if now.view == View::Good => {
                    mine.server == theirs.server && now.finding == claimed
                }
                (Some(mine), Some(theirs)) => {
                    (starts || was_refused) && mine.server.0 == theirs.server.0
                }
                _ => Some(at) == known.host,
            };
            prop_assert!(!shared, "{} starts on the database of {}", name, other);
        }
        Ok(())
    }

    /// Whether the reads that have begun wake this cluster. Others that are woken are noted.
    async fn wakes(&mut self, name: &str) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        let mut wakes = false;
        while let Ok(woken) = self.queue.try_recv() {
            if woken.name == name {
                wakes = true;
            } else {
                self.woken.insert(woken.name);
            }
        }
        wakes
    }

    /// The server on which the status of a cluster says that it has served.
    fn served_on(&self, name: &str) -> Option<u8> {
        let object = self.object(&format!("{PLACE}{name}")).unwrap_or_default();
        let served_on = &object["status"]["database"]["servedOn"];
        let is_meant =
            |server: &u8| *served_on == DatabaseIdentity::new(&server.to_string(), "").database;
        (0..3).find(is_meant)
    }

    /// That server, after what is known of the database that the spec names.
    fn served_on_after(&self, name: &str, size: i64, known: &Knowledge) -> Option<u8> {
        let before = self.served_on(name);
        let Some(finding) = known.finding.filter(|_| known.view != View::NotRead) else {
            return before;
        };
        let read = finding.server.0;
        if known.view == View::Good && known.serves {
            return Some(read);
        }
        let mut ordinals = 0..4;
        let has_pods =
            ordinals.any(|ordinal| self.object(&format!("{PODS}{name}-{ordinal}")).is_some());
        before.filter(|before| *before == read || size > 0 || has_pods)
    }

    /// Whether the cluster of this uid is there and has another name.
    fn is_another(&self, uid: &str, name: &str) -> bool {
        let clusters = self.context.sources.caches.clusters.store().state();
        let mut clusters = clusters.iter();
        clusters.any(|other| other.uid().as_deref() == Some(uid) && other.name_any() != name)
    }

    /// No cluster that has served on a database is held by one that has not.
    fn is_held_rightly(&self, name: &str, uid: &str) -> Result<(), TestCaseError> {
        let database = |name: &str| {
            let object = self.object(&format!("{PLACE}{name}")).unwrap_or_default();
            object["status"]["database"].clone()
        };
        let mine = database(name);
        let has_served = mine["servedOn"].is_string() && mine["servedOn"] == mine["identity"];
        if !self.is_refused_as_shared(name) || !has_served {
            return Ok(());
        }
        let mut others = NAMES.iter().filter(|other| **other != name);
        let is_served = others.any(|other| {
            let theirs = database(other);
            theirs["servedOn"] == mine["identity"]
        });
        // What a reading has shown need not be in status yet.
        let mut others = self.known.iter().filter(|(other, _)| *other != uid);
        let serves = others.any(|(_, known)| known.process.serves);
        prop_assert!(
            is_served || serves,
            "{} is held although it has served",
            name
        );
        Ok(())
    }

    /// Whether the status refuses the database since another cluster has it.
    fn is_refused_as_shared(&self, name: &str) -> bool {
        let object = self.object(&format!("{PLACE}{name}")).unwrap_or_default();
        let conditions = object["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        conditions.any(|condition| condition["reason"] == "DatabaseShared")
    }

    /// Whether the cluster of this uid wants replicas by its StatefulSet.
    fn has_replicas(&self, uid: &str) -> bool {
        NAMES.iter().any(|name| self.runs(name, uid).0 > 0)
    }

    /// Whether the cluster of this uid is there and older than one that was made then.
    fn older(&self, uid: &str, name: &str, created: Option<jiff::Timestamp>) -> bool {
        let clusters = self.context.sources.caches.clusters.store().state();
        let other = clusters
            .iter()
            .find(|other| other.uid().as_deref() == Some(uid));
        other.is_some_and(|other| {
            let made = other.creation_timestamp().map(|time| time.0);
            (made, other.name_any().as_str()) < (created, name)
        })
    }

    /// Reconciles until nothing is written any more. True if something was.
    async fn rest(&mut self, name: &str) -> Result<bool, TestCaseError> {
        let mut wrote = false;
        for _ in 0..REST {
            if !self.reconcile(name).await? {
                self.is_licensed(name)?;
                return Ok(wrote);
            }
            wrote = true;
        }
        let stored = self.stored.lock();
        let message = format!("{name} is written again and again: {:?}", stored.writes);
        Err(TestCaseError::fail(message))
    }

    /// No more replicas run at this moment than the license allows that was understood last.
    fn is_licensed(&self, name: &str) -> Result<(), TestCaseError> {
        let Some(uid) = self.seen(name).and_then(|cluster| cluster.uid()) else {
            return Ok(());
        };
        let known = self.known.get(&uid).copied().unwrap_or_default().process;
        let (size, host) = self.runs(name, &uid);
        let ended = match known.license {
            LastLicense::Never => false,
            LastLicense::Absent => true,
            LastLicense::Ends(end) => end <= self.now(),
        };
        let concerns = known.view != View::NotRead && known.host == host;
        prop_assert!(
            !(concerns && ended) || size <= 1,
            "{} runs {} without a license: {:?}",
            name,
            size,
            known
        );
        Ok(())
    }

    /// Reads and reconciles all, until nothing is written any more.
    async fn settle(&mut self, order: &[usize]) -> Result<(), TestCaseError> {
        let mut quiet = 0;
        for _ in 0..REST {
            let mut wrote = false;
            for index in order {
                self.read(NAMES[*index]);
                wrote |= self.rest(NAMES[*index]).await?;
            }
            quiet = if wrote { 0 } else { quiet + 1 };
            // In the first of them a probe may have begun.
            if quiet == 2 {
                self.settled = true;
                return Ok(());
            }
        }
        let stored = self.stored.lock();
        Err(TestCaseError::fail(format!(
            "never quiet: {:?}",
            stored.writes
        )))
    }

    /// Seconds pass. A cluster is reconciled when it is woken and when it is due, and at no other
    /// time: what must be so by then is so by itself.
    async fn wait(&mut self, seconds: i64, reads: bool) -> Result<(), TestCaseError> {
        let end = self.now() + seconds;
        loop {
            self.act().await?;
            for name in NAMES {
                // The first reading of a process ends, or fails, within seconds.
                if reads || self.is_unread(name) {
                    self.read(name);
                }
            }
            self.act().await?;
            let now = self.now();
            if now >= end {
                return Ok(());
            }
            let next = self.due.values().copied().min().unwrap_or(end).min(end);
            self.elapsed.store(next, Ordering::Relaxed);
            tokio::time::advance(self::seconds(next - now)).await;
            for name in NAMES {
                self.is_licensed(name)?;
            }
        }
    }

    /// Reconciles what is woken, and what is due, until nothing is.
    async fn act(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..REST {
            self.gather();
            let now = self.now();
            let due = self.due.iter().filter(|(_, due)| **due <= now);
            let due: BTreeSet<_> = due.map(|(name, _)| name.clone()).collect();
            self.due.retain(|name, _| !due.contains(name));
            let mut names = std::mem::take(&mut self.queued);
            names.append(&mut self.woken);
            names.extend(due);
            if names.is_empty() {
                return NAMES.iter().try_for_each(|name| self.is_licensed(name));
            }
            for name in names {
                self.reconcile(&name).await?;
            }
        }
        let stored = self.stored.lock();
        let message = format!("woken again and again: {:?}", stored.writes);
        Err(TestCaseError::fail(message))
    }

    /// Whether the process has not read the database of this cluster yet.
    fn is_unread(&self, name: &str) -> bool {
        let uid = self.seen(name).and_then(|cluster| cluster.uid());
        let known = uid.and_then(|uid| self.known.get(&uid));
        known.is_some_and(|known| known.process.view == View::NotRead)
    }

    /// Another process, which finds what is stored.
    fn restart(&mut self) {
        (self.context, self.queue) = process(&self.stored, &self.elapsed, &self.http);
        self.woken.clear();
        self.queued.clear();
        self.due.clear();
        self.shown.clear();
        self.list();
        self.watch();
        for name in NAMES {
            if let Some(cluster) = self.seen(name) {
                self.context.sources.claims.learn(&cluster);
            }
        }
        for known in self.known.values_mut() {
            known.process = Knowledge {
                view: View::NotRead,
                ..known.stored
            };
            let finding = known.stored.finding;
            known.claimed = known.stored.host.map(|host| (host, finding));
        }
        let served_on = NAMES.map(|name| (self.seen(name), self.served_on(name)));
        for (cluster, served_on) in served_on {
            let uid = cluster
                .and_then(|cluster| cluster.uid())
                .unwrap_or_default();
            let known = self.known.get_mut(&uid);
            if let Some(known) = known {
                known.served_on = served_on;
            }
        }
    }

    /// A process that starts while all is quiet writes nothing, in whatever order it reads.
    async fn restart_in_quiet(&mut self, order: &[usize]) -> Result<(), TestCaseError> {
        let (before, statuses) = (self.writes(), self.statuses());
        self.restart();
        for index in order {
            self.reconcile(NAMES[*index]).await?;
        }
        for index in order {
            self.read(NAMES[*index]);
            self.rest(NAMES[*index]).await?;
        }
        prop_assert_eq!(statuses, self.statuses(), "a restart changed a status");
        let stored = self.stored.lock();
        let since = stored.writes.get(before..).unwrap_or_default();
        prop_assert!(since.is_empty(), "a restart wrote {since:?}");
        Ok(())
    }

    /// The status of each cluster, line by line.
    fn statuses(&self) -> Vec<String> {
        let objects = NAMES.map(|name| self.object(&format!("{PLACE}{name}")));
        let statuses = objects.map(|object| object.unwrap_or_default()["status"].take());
        let lines = statuses.iter().map(|status| format!("{status:#}"));
        lines.collect()
    }

    /// Of a cluster that is gone nothing is left in the process.
    fn nothing_is_left(&self) -> Result<(), TestCaseError> {
        let Context {
            sources, metrics, ..
        } = self.context.as_ref();
        let there = sources.caches.clusters.store().state();
        let keys: BTreeSet<_> = there.iter().map(|cluster| cluster.name_any()).collect();
        let uids: BTreeSet<_> = there.iter().filter_map(|cluster| cluster.uid()).collect();
        let mut names = sources.probes.keys();
        names.extend(self.context.remembers());
        for key in names {
            prop_assert!(keys.contains(&key.name), "{} is remembered", key.name);
        }
        for uid in sources.claims.uids() {
            prop_assert!(uids.contains(&uid), "{uid} claims a database");
        }
        let text = metrics.encode().unwrap();
        for name in NAMES.iter().filter(|name| !keys.contains(**name)) {
            prop_assert!(!text.contains(&format!("\"{name}\"")), "{name} is measured");
        }
        let pods = sources.caches.pods.vanished(None, &HashSet::new());
        let pods: HashSet<_> = pods.iter().map(ObjectName::of).collect();
        for pod in sources.log_ids.pods() {
            prop_assert!(pods.contains(&pod), "the id of {pod:?} is known");
        }
        for pod in sources.log_lines.pods() {
            prop_assert!(pods.contains(&pod), "a line of {pod:?} is known");
        }
        Ok(())
    }

    async fn happens(&mut self, event: Event) -> Result<(), TestCaseError> {
        let settled = std::mem::take(&mut self.settled);
        match event {
            Event::Make(name, host, size) => {
                if self.make(NAMES[name], host, size) {
                    self.list();
                }
            }
            Event::Delete { name, during } => {
                let name = NAMES[name];
                let running = self.seen(name).filter(|_| during);
                if let Some(object) = self.delete(name) {
                    self.show(Watched::Delete, object);
                }
                self.controllers();
                if let Some(running) = running {
                    self.reconcile_this(name, running).await?;
                }
            }
            Event::MakeAgain(name, host, size) => {
                if self.delete(NAMES[name]).is_some() {
                    self.make(NAMES[name], host, size);
                    self.controllers();
                    self.list();
                }
            }
            Event::Rename(from, to) => {
                let host = self.seen(NAMES[from]);
                let host = host.and_then(|seen| host_in(&serde_json::to_value(&seen.spec).ok()?));
                if let Some(host) = host
                    && let Some(object) = self.delete(NAMES[from])
                {
                    self.make(NAMES[to], host, 1);
                    self.show(Watched::Delete, object);
                    self.controllers();
                    self.list();
                }
            }
            Event::Edit(name, host) => {
                self.edit(NAMES[name], &json!({"database": {"url": url(host)}}));
            }
            Event::Respell(name) => self.respell(NAMES[name]),
            Event::Scale(name, size) => {
                self.edit(NAMES[name], &json!({"replicas": SIZES[size]}));
            }
            Event::Valid(name, valid) => {
                let url = if valid {
                    "https://b.example.com"
                } else {
                    "nonsense"
                };
                self.edit(NAMES[name], &json!({"externalURL": url}));
            }
            Event::Lead(host, server) => self.leads_to[host] = server,
            Event::Up(server, up) => self.servers[server].up = up,
            Event::RestartServer(server) => {
                let started = self.now();
                let server = &mut self.servers[server];
                (server.starts, server.started) = (server.starts + 1, started);
            }
            Event::Hold(server, content) => self.servers[server].content = content,
            Event::Store(server, license) => {
                let now = self.now();
                self.servers[server].license = match license {
                    License::None => None,
                    License::Ends(left) => Some(now + left),
                };
            }
            Event::Foreign(server, on) => self.servers[server].foreign = on,
            Event::Read(name) => self.read(NAMES[name]),
            Event::Reconcile(name) => {
                self.reconcile(NAMES[name]).await?;
            }
            Event::Restart(order) if settled => {
                Box::pin(self.restart_in_quiet(&order)).await?;
                self.settled = true;
            }
            Event::Restart(_) => self.restart(),
            Event::Settle(order) => Box::pin(self.settle(&order)).await?,
            Event::Wait { seconds, reads } => Box::pin(self.wait(seconds.into(), reads)).await?,
        }
        // Those whose verdict may change by what happened to another one.
        for _ in 0..REST {
            let Some(name) = self.woken.pop_first() else {
                break;
            };
            self.reconcile(&name).await?;
        }
        self.nothing_is_left()
    }

    /// Once the world behaves, a cluster that is alone on its database is what its spec says.
    async fn recovers(&mut self) -> Result<(), TestCaseError> {
        for server in &mut self.servers {
            server.up = true;
            server.content = Content::Bytebase;
            server.license = Some(10_000_000);
            server.foreign = false;
        }
        for name in NAMES {
            self.edit(name, &json!({"externalURL": "https://b.example.com"}));
        }
        for _ in 0..3 {
            self.settle(&[0, 1, 2]).await?;
            let (seconds, reads) = (61, true);
            self.happens(Event::Wait { seconds, reads }).await?;
        }
        self.settle(&[2, 1, 0]).await?;
        let clusters = self.context.sources.caches.clusters.store().state();
        // Where a cluster wants to be, and where it still is if its move is held back.
        let servers_of = |cluster: &BytebaseCluster| {
            let spec = serde_json::to_value(&cluster.spec).unwrap();
            let (_, runs) = self.runs(&cluster.name_any(), &cluster.uid().unwrap());
            let hosts = [host_in(&spec), runs].into_iter().flatten();
            hosts
                .map(|host| self.leads_to[host])
                .collect::<BTreeSet<_>>()
        };
        for cluster in &clusters {
            let mut others = clusters.iter().filter(|other| other.uid() != cluster.uid());
            if others.any(|other| !servers_of(other).is_disjoint(&servers_of(cluster))) {
                continue;
            }
            let (size, _) = self.runs(&cluster.name_any(), &cluster.uid().unwrap());
            prop_assert_eq!(
                size,
                i64::from(cluster.spec.replicas),
                "{}",
                cluster.name_any()
            );
        }
        self.restart_in_quiet(&[1, 0, 2]).await
    }
}

/// After how long a reconcile is to be made again. An [`Action`] does not say so but by this.
fn pause_of(action: &Action) -> Option<Duration> {
    let text = format!("{action:?}");
    let pause = text.strip_prefix("Action { requeue_after: ").unwrap();
    let pause = pause.strip_suffix(" }").unwrap();
    if pause == "None" {
        return None;
    }
    let pause = pause.strip_prefix("Some(").unwrap();
    let pause = pause.strip_suffix("s)").unwrap();
    let seconds = match pause.strip_suffix('m') {
        Some(milliseconds) => milliseconds.parse::<f64>().unwrap() / 1e3,
        None => pause.parse().unwrap(),
    };
    Some(Duration::from_secs_f64(seconds))
}

/// A process of the operator that knows nothing yet.
fn process(
    stored: &Arc<Mutex<Stored>>,
    elapsed: &Arc<AtomicI64>,
    http: &reqwest::Client,
) -> (Arc<Context>, UnboundedReceiver<Key>) {
    let (store, clock) = (Arc::clone(stored), Arc::clone(elapsed));
    let client = api_server("apps", move |method, uri, body| {
        Some(store.lock().answer(method, uri, body))
    });
    let (queue, incoming) = unbounded_channel();
    let probes = Probes::new(queue.clone(), name, Arc::new(|_, _| panic!("probed")));
    // No probe ever logs in: what a reading finds is given.
    probes.hold();
    let context = Context::new(Parts {
        options: Options {
            namespaces: Vec::new(),
            cluster_labels: Vec::new(),
            instance: "operator-0".to_owned(),
        },
        settings: settings(),
        client,
        http: http.clone(),
        probes,
        metrics: Arc::new(Metrics::new()),
        leadership: Leadership::renewed(),
        queue,
        clock: Arc::new(move || after(SignedDuration::from_secs(clock.load(Ordering::Relaxed)))),
    });
    (Arc::new(context), incoming)
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn unreachable() -> ProbeFailure {
    ProbeFailure {
        class: FailureClass::Unknown,
        reason: FailureReason::Unreachable,
        message: "nothing answers".to_owned(),
    }
}

fn facts_of(server: &Server, active: &[(Uuid, i64, Option<String>)], now: i64) -> DatabaseFacts {
    let license = server.license.map_or_else(no_license, |end| {
        let end = after(SignedDuration::from_secs(end)).as_second();
        stored(&json!({"exp": end}))
    });
    let mut facts = facts(0, license);
    let start = server.starts.to_string();
    facts.identity = DatabaseIdentity::new(&server.identity.to_string(), &start);
    facts.server_uptime = seconds(now - server.started);
    facts.writable_for = facts.server_uptime;
    let heartbeats = active.iter().map(|(replica_id, age, _)| Heartbeat {
        replica_id: *replica_id,
        age: seconds(*age),
    });
    facts.heartbeats = Fact::Known(heartbeats.collect());
    match server.content {
        Content::Bytebase => {}
        Content::Foreign => {
            facts.schema = SchemaState::Foreign {
                example: "wp_posts".to_owned(),
            };
            facts.license = Fact::Absent;
            facts.heartbeats = Fact::Absent;
        }
        Content::Renamed => {
            facts.license = Fact::<StoredLicense>::Unknown;
            facts.not_understood = vec!["setting"];
        }
    }
    facts
}

/// A Ready pod of a StatefulSet.
fn pod(name: &str, ordinal: i64, set: &Value, now: i64) -> Value {
    let since = after(SignedDuration::from_secs(now));
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": format!("{name}-{ordinal}"), "namespace": "apps", "creationTimestamp": since,
            "labels": {
                "app.kubernetes.io/name": "bytebase", "app.kubernetes.io/instance": name,
                "app.kubernetes.io/managed-by": "bytebase-operator",
                "bytebase.com/cluster": name, "controller-revision-hash": "r",
            },
            "annotations": {"url": set["spec"]["template"].to_string()},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name,
                "uid": set["metadata"]["uid"], "controller": true,
            }],
        },
        "status": {
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{
                "name": "bytebase", "containerID": format!("containerd://{ordinal}-{}", set["metadata"]["resourceVersion"]),
                "ready": true, "restartCount": 0, "image": "", "imageID": "",
                "state": {"running": {"startedAt": since}},
            }],
        },
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap()
}

#[test]
fn a_database_by_another_name_stays_with_the_stopped_cluster_that_has_served_there() {
    const ORDER: [usize; 3] = [0, 1, 2];
    const MINUTES: Event = Event::Wait {
        seconds: 120,
        reads: true,
    };
    let happen = async |world: &mut World, events: &[Event]| {
        for event in events {
            world.happens(event.clone()).await.unwrap();
        }
        let uid = world.seen("b").and_then(|cluster| cluster.uid());
        let runs = uid.is_some_and(|uid| world.runs("b", &uid).0 > 0);
        (runs, world.is_refused_as_shared("b"))
    };
    let held = (false, true);
    for restart in [false, true] {
        runtime().block_on(async {
            let mut world = World::new();
            let served = [Event::Make(0, 0, 1), Event::Settle(ORDER)];
            happen(&mut world, &served).await;
            let stopped = [Event::Scale(0, 0), Event::Settle(ORDER), MINUTES];
            happen(&mut world, &stopped).await;
            assert_eq!(world.served_on("a"), Some(0));
            // By a name that is not read yet.
            let renamed = [Event::Respell(0), Event::Reconcile(0)];
            happen(&mut world, &renamed).await;
            if restart {
                happen(&mut world, &[Event::Restart(ORDER), Event::Reconcile(0)]).await;
            }
            let wanted = [
                Event::Make(1, 0, 1),
                Event::Reconcile(1),
                Event::Read(1),
                Event::Wait {
                    seconds: 1,
                    reads: false,
                },
            ];
            assert_eq!(happen(&mut world, &wanted).await, held);
            let read = [Event::Settle(ORDER), MINUTES, Event::Settle(ORDER)];
            assert_eq!(happen(&mut world, &read).await, held);
            // By one that leads nowhere, and back.
            let lost = [
                Event::Up(1, false),
                Event::Edit(0, 1),
                Event::Settle(ORDER),
                MINUTES,
                Event::Settle(ORDER),
            ];
            assert_eq!(happen(&mut world, &lost).await, held);
            let back = [Event::Edit(0, 0), Event::Reconcile(0), Event::Settle(ORDER)];
            assert_eq!(happen(&mut world, &back).await, held);
            // By one that leads to another database.
            let left = [Event::Up(1, true), Event::Edit(0, 1), Event::Settle(ORDER)];
            assert_eq!(happen(&mut world, &left).await, (true, false));
            assert_eq!(world.served_on("a"), None);
        });
    }
}

/// Its database has the heartbeats of a replica that ended, and a process that has just started
/// cannot know at once that no other one is active.
#[test]
fn a_restart_leaves_the_status_of_a_cluster_whose_replicas_are_all_gone_as_it_is() {
    const ORDER: [usize; 3] = [0, 1, 2];
    const MINUTES: Event = Event::Wait {
        seconds: 120,
        reads: true,
    };
    let happen = async |world: &mut World, events: &[Event]| {
        for event in events {
            world.happens(event.clone()).await.unwrap();
        }
    };
    for change in [
        json!({"replicas": 1, "paused": true}),
        json!({"replicas": 1, "externalURL": "nonsense"}),
    ] {
        runtime().block_on(async {
            let mut world = World::new();
            let served = [Event::Make(0, 0, 1), Event::Settle(ORDER)];
            happen(&mut world, &served).await;
            let stopped = [Event::Scale(0, 0), Event::Settle(ORDER), MINUTES];
            happen(&mut world, &stopped).await;
            world.edit("a", &change);
            let settled = [Event::Settle(ORDER), MINUTES, Event::Settle(ORDER)];
            happen(&mut world, &settled).await;
            let statuses = world.statuses();
            assert!(statuses[0].contains("DatabaseChecksPassed"), "{change}");
            // In quiet, where it may write nothing.
            happen(&mut world, &[Event::Restart(ORDER), MINUTES]).await;
            assert_eq!(world.statuses(), statuses, "{change}");
        });
    }
}

/// What stands between a cluster of several replicas and the end of its license.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    Outage,
    NotUnderstood,
    Invalid,
    Restart,
    RestartInOutage,
}

impl Trouble {
    const ALL: [Self; 6] = [
        Self::None,
        Self::Outage,
        Self::NotUnderstood,
        Self::Invalid,
        Self::Restart,
        Self::RestartInOutage,
    ];

    fn events(self) -> Vec<Event> {
        let (outage, restart) = (Event::Up(0, false), Event::Restart([0, 1, 2]));
        match self {
            Self::None => vec![],
            Self::Outage => vec![outage, Event::Read(0)],
            Self::NotUnderstood => vec![Event::Hold(0, Content::Renamed), Event::Read(0)],
            Self::Invalid => vec![Event::Valid(0, false)],
            // Not in quiet, where it would read at once.
            Self::Restart => vec![Event::Reconcile(0), restart],
            Self::RestartInOutage => vec![outage, restart],
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_license_gate_closes_in_time_with_nothing_to_wake_it() {
    for trouble in Trouble::ALL {
        for reads in [true, false] {
            let mut world = World::new();
            let events = [
                Event::Make(0, 0, 2),
                Event::Settle([0, 1, 2]),
                Event::Store(0, License::Ends(3000)),
                Event::Settle([0, 1, 2]),
            ];
            for event in events.into_iter().chain(trouble.events()) {
                world.happens(event).await.unwrap();
            }
            let runs = |world: &World| world.runs("a", "uid-1").0;
            for (seconds, expected) in [(60, 3), (4000, 1)] {
                let wait = Event::Wait { seconds, reads };
                let done = world.happens(wait).await;
                done.unwrap_or_else(|error| panic!("{trouble:?}: {error}"));
                assert_eq!(runs(&world), expected, "{trouble:?}, after {seconds} s");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_learnt_stands_in_every_history_of_several_clusters(events in events()) {
        runtime().block_on(async {
            let mut world = World::new();
            for event in events {
                world.happens(event).await?;
            }
            world.recovers().await
        })?;
    }
}
