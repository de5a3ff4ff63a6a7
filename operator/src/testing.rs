//! Fixtures shared by the unit tests: a cluster that validates, what it names, licenses, and a
//! world to observe.

use crate::api::BytebaseCluster;
use crate::contract::license::LicenseKey;
use crate::contract::version::Version;
use crate::decide::Settings;
use crate::decide::plan::{BytebaseCall, Plan, Wanted};
use crate::observation::{
    Asked, DatabaseFacts, DatabaseIdentity, DatabaseView, Fact, FailureClass, FailureReason,
    Heartbeat, Holder, Observation, PodLogin, PodView, ProbeFailure, Remembered, RunningTasks,
    SchemaState, Sessions, StatefulSetView, StoredLicense, Usage,
};
use crate::validate::{Fetched, References, ValidCluster, Validation, validate};
use axum::http::Uri;
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;
use testkit::license::{Signer, claims, header};
use uuid::Uuid;

/// Planted as the database password: must appear in nothing that people see.
pub const PASSWORD: &str = "pl4nted-p%ssw0rd";
/// Planted as the admin's password.
pub const ADMIN_PASSWORD: &str = "pl4nted-4dmin";
/// Workspace of the stored license.
pub const WORKSPACE: &str = "ws-1";
/// Revision of the present template.
pub const NEW: &str = "rev-new";
/// Revision of the template before.
pub const OLD: &str = "rev-old";

/// Certificate of a CA that ends at 2036-11-24T05:06:27Z.
pub const CA_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MIIBbjCCAROgAwIBAgIUYyI9cddbI1BrPH1mZMXXbpCjt/EwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAeFw0yNjExMjcwNTA2MjdaFw0zNjExMjQwNTA2MjdaMAwx
CjAIBgNVBAMMAWEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARwDwWiPwzbPqt0
OS25TtkbZTSYKvHljFzwpbCzCl+ZGaFR2B+1/UqbtBz3gosaClD293wYljdHOfJL
ZLp0R9bGo1MwUTAdBgNVHQ4EFgQUeiWQ9yxBNQxP0l8V3fe060OgT0gwHwYDVR0j
BBgwFoAUeiWQ9yxBNQxP0l8V3fe060OgT0gwDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNJADBGAiEAlHbZLvBjHvWH4rOA8oGVgIT3zgQ/RTp+bWIa5emrqN4C
IQDcOjtXVochxIfXG4uwmb0OvCXooa6Wuku/spOxg9KYfg==
-----END CERTIFICATE-----
";

/// Certificate of a CA without an end, and with hardly anything else.
pub const ENDLESS_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----
MDkwMqADAgECAgEBMAAwADAgFw0yMDAxMDEwMDAwMDBaGA85OTk5MTIzMTIzNTk1OVowADAAMAADAQA=
-----END CERTIFICATE-----
";

static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::generate);

/// The moment at which the tests stand.
pub fn now() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().unwrap()
}

pub fn after(duration: SignedDuration) -> Timestamp {
    now().checked_add(duration).unwrap()
}

pub fn days(days: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * days)
}

// === Licenses ===

/// The usual claims for [`WORKSPACE`] and a year, of which `changes` replaces some and takes away
/// those that are null.
fn usual(changes: &Value) -> Value {
    let mut all = json!({"workspaceId": WORKSPACE, "exp": after(days(365)).as_second()});
    for (name, value) in changes.as_object().into_iter().flatten() {
        all[name] = value.clone();
    }
    claims(&all)
}

/// A license with the usual claims, changed. Signed with the test key, once: property tests ask for
/// the same few thousands of times.
pub fn token(changes: &Value) -> String {
    static SIGNED: Mutex<BTreeMap<String, String>> = Mutex::new(BTreeMap::new());
    let claims = usual(changes);
    let mut signed = SIGNED.lock();
    let token = signed
        .entry(claims.to_string())
        .or_insert_with(|| SIGNER.sign(&claims));
    token.clone()
}

/// A license with the usual claims, changed, and a signature that does not fit.
pub fn forged(changes: &Value) -> String {
    testkit::license::token(&header(), &usual(changes), &[7; 256])
}

/// The key that verifies [`token`].
pub fn key() -> LicenseKey {
    static KEY: LazyLock<LicenseKey> =
        LazyLock::new(|| LicenseKey::from_pem(SIGNER.public_pem().as_bytes()).unwrap());
    KEY.clone()
}

/// A stored license with the usual claims, changed.
pub fn stored(changes: &Value) -> StoredLicense {
    StoredLicense::Present {
        workspace_id: WORKSPACE.to_owned(),
        token: token(changes).into(),
    }
}

pub fn no_license() -> StoredLicense {
    StoredLicense::Absent {
        workspace_id: WORKSPACE.to_owned(),
    }
}

// === Clusters ===

/// Replaces the keys that `changes` has; null takes one away.
pub fn merge(base: &mut Value, changes: &Value) {
    for (key, value) in changes.as_object().into_iter().flatten() {
        let map = base.as_object_mut().unwrap();
        if value.is_null() {
            map.remove(key);
        } else {
            map.insert(key.clone(), value.clone());
        }
    }
}

/// The minimal spec with three replicas, changed.
pub fn cluster(changes: &Value) -> BytebaseCluster {
    let mut spec = json!({
        "version": "3.21.1", "replicas": 3, "externalURL": "https://bytebase.example.com",
        "database": { "urlSecretRef": { "name": "pg", "key": "PG_URL" } },
    });
    merge(&mut spec, changes);
    serde_json::from_value(json!({
        "apiVersion": "bytebase.com/v1alpha1", "kind": "BytebaseCluster",
        "metadata": { "name": "demo", "namespace": "apps", "uid": "uid-demo", "generation": 4 },
        "spec": spec,
    }))
    .unwrap()
}

fn present(keys: &[(&str, &[u8])]) -> Fetched {
    Fetched::Present(
        keys.iter()
            .map(|(key, value)| ((*key).to_owned(), value.to_vec().into()))
            .collect(),
    )
}

/// One Secret with one key.
pub fn secret(references: &mut References, name: &str, key: &str, value: &str) {
    references
        .secrets
        .insert(name.to_owned(), present(&[(key, value.as_bytes())]));
}

/// What the specs of the tests name.
pub fn references() -> References {
    let password = PASSWORD.replace('%', "%25");
    let url = format!("postgres://bytebase:{password}@db.example.com/bytebase?sslmode=require");
    let mut references = References::default();
    secret(&mut references, "pg", "PG_URL", &url);
    secret(&mut references, "license", "token", &token(&json!({})));
    for (name, keys) in [
        (
            "login",
            present(&[("user", b"bytebase"), ("password", PASSWORD.as_bytes())]),
        ),
        (
            "admin",
            present(&[
                ("email", b"admin@example.com"),
                ("password", ADMIN_PASSWORD.as_bytes()),
            ]),
        ),
        ("ca", present(&[("ca.crt", ENDLESS_CERTIFICATE.as_bytes())])),
    ] {
        references.secrets.insert(name.to_owned(), keys);
    }
    references.config_maps.insert(
        "ca".to_owned(),
        present(&[("ca.crt", ENDLESS_CERTIFICATE.as_bytes())]),
    );
    references
}

/// The spec, validated with everything it names.
pub fn validation(changes: &Value) -> Validation {
    validate(&cluster(changes), &references(), Some(&key()), now())
}

/// The cluster of the spec, which must be valid.
pub fn valid(changes: &Value) -> ValidCluster {
    let validation = validation(changes);
    validation
        .cluster
        .unwrap_or_else(|| panic!("{:?}", validation.problems))
}

pub fn settings() -> Settings {
    Settings {
        own_image: Some("registry.example.com/bytebase-operator:1".to_owned()),
        license_guard: SignedDuration::from_mins(10),
        license_key: Some(key()),
        operator_namespace: Some("bytebase-system".to_owned()),
    }
}

// === The world ===

pub fn id(ordinal: i32) -> Uuid {
    Uuid::from_u128(0x1000 + u128::try_from(ordinal).unwrap())
}

/// A Ready pod on the present template, an hour old.
pub fn pod(ordinal: i32) -> PodView {
    PodView {
        name: format!("demo-{ordinal}"),
        uid: format!("uid-{ordinal}"),
        ordinal,
        revision: Some(NEW.to_owned()),
        ready: true,
        deleting: false,
        node: Some(format!("node-{ordinal}")),
        ip: Some(format!("10.0.0.{}", ordinal + 1)),
        created_at: after(SignedDuration::from_hours(-1)),
        started_at: Some(after(SignedDuration::from_hours(-1))),
        container_id: Some(format!("containerd://{ordinal}")),
        ends_by: None,
        grace: None,
        drains: true,
        drain_timeout: None,
        login: PodLogin::default(),
        external_url: None,
        ending_since: None,
        finalizers: Vec::new(),
        unready_since: None,
        waits_for: None,
        last_failure: None,
        replica_id: Some(id(ordinal)),
        log_quote: None,
        restarts: 0,
        trouble: None,
        version: Some("3.21.1".to_owned()),
    }
}

pub fn set(replicas: i32) -> StatefulSetView {
    StatefulSetView {
        resource_version: None,
        replicas,
        start: 0,
        settled: true,
        pods: replicas,
        update_revision: Some(NEW.to_owned()),
        template: json!({"live": true}),
        template_digest: None,
        version: Some("3.21.1".to_owned()),
    }
}

pub fn heartbeat(ordinal: i32, seconds: u64) -> Heartbeat {
    Heartbeat {
        replica_id: id(ordinal),
        age: Duration::from_secs(seconds),
    }
}

/// Another cluster, with replicas on the same database.
pub fn holder(name: &str) -> Holder {
    Holder {
        name: name.to_owned(),
        usage: Usage::Runs,
    }
}

/// A database that passes every check, with fresh heartbeats of the first `active` pods.
pub fn facts(active: i32, license: StoredLicense) -> DatabaseFacts {
    DatabaseFacts {
        server_version_num: 150_018,
        in_recovery: false,
        read_only: false,
        encoding: "UTF8".to_owned(),
        max_connections: 500,
        reserved_connections: 3,
        role_connections: None,
        database_connections: None,
        can_create: true,
        missing_schema: None,
        not_owned: None,
        transaction_pooler: Some(false),
        has_version_1_certificate: false,
        identity: DatabaseIdentity::new("one", "1"),
        server_uptime: Duration::from_hours(1),
        writable_for: Duration::from_hours(1),
        server_clock: None,
        schema: SchemaState::Bytebase {
            version: Some(Version::new(3, 21, 5)),
        },
        license: Fact::Known(license),
        heartbeats: Fact::Known((0..active).map(|ordinal| heartbeat(ordinal, 5)).collect()),
        has_heartbeat_rows: active > 0,
        sessions: Some(Sessions {
            listeners: Some(Vec::new()),
            ..Sessions::default()
        }),
        running_tasks: Fact::Known(Vec::new()),
        task_runs: Vec::new(),
        unbegun_tasks: Vec::new(),
        pending_tasks: Fact::Known(0),
        available_tasks: Fact::Known(0),
        not_understood: Vec::new(),
        login: None,
    }
}

/// `running` pods that are all well, seen through one view of the database. `None`: no StatefulSet
/// yet.
pub fn observation(running: Option<i32>, database: DatabaseView) -> Observation {
    let last_facts = match &database {
        DatabaseView::Probed(Ok(facts)) => Some((Duration::ZERO, facts.clone())),
        _ => None,
    };
    Observation {
        now: now(),
        stateful_set: running.map(set),
        pods: (0..running.unwrap_or(0)).map(pod).collect(),
        awaits_logs: false,
        ingress_has_address: Some(true),
        exposed_hosts: Vec::new(),
        route: None,
        kinds_not_installed: Vec::new(),
        kinds_unseen: Vec::new(),
        database,
        last_facts,
        database_shared_with: None,
        remembered: Remembered::default(),
        service_way: None,
        call_failure: None,
        asked: Some(Asked::default()),
        unmatched_since: BTreeMap::new(),
        refused_pod: None,
        refused_eviction: None,
    }
}

/// `running` pods that are well, with a stored license.
pub fn healthy(running: i32, license: StoredLicense) -> Observation {
    observation(
        Some(running),
        DatabaseView::Probed(Ok(facts(running, license))),
    )
}

/// The heartbeats that were read, to be changed.
pub fn heartbeats(facts: &mut DatabaseFacts) -> &mut Vec<Heartbeat> {
    facts.heartbeats.known_mut().unwrap()
}

/// The running tasks that were read, to be changed.
pub fn running(facts: &mut DatabaseFacts) -> &mut Vec<RunningTasks> {
    facts.running_tasks.known_mut().unwrap()
}

/// The call to Bytebase's API that a plan makes.
pub fn called(plan: &Plan) -> Option<&BytebaseCall> {
    match &plan.call {
        Wanted::Call(call) => Some(call),
        Wanted::No | Wanted::NotNow => None,
    }
}

/// Changes what the database said, in a world where it was read.
pub fn with_facts(
    mut observation: Observation,
    change: impl FnOnce(&mut DatabaseFacts),
) -> Observation {
    if let DatabaseView::Probed(Ok(facts)) = &mut observation.database {
        change(facts);
        observation.last_facts = Some((Duration::ZERO, facts.clone()));
    }
    observation
}

pub fn failure(class: FailureClass, reason: FailureReason) -> DatabaseView {
    DatabaseView::Probed(Err(ProbeFailure {
        class,
        reason,
        message: "db.example.com:5432/bytebase: it failed".to_owned(),
    }))
}

/// A client of a scripted API server. `answer` is given method, address and body of each request
/// and returns status and body of the answer; `None`: there never is one.
pub fn api_server(
    namespace: &str,
    mut answer: impl FnMut(&str, &Uri, Value) -> Option<(u16, Value)> + Send + 'static,
) -> kube::Client {
    let (service, mut handle) =
        tower_test::mock::pair::<axum::http::Request<Body>, axum::http::Response<Body>>();
    tokio::spawn(async move {
        let mut unanswered = Vec::new();
        while let Some((request, send)) = handle.next_request().await {
            let method = request.method().to_string();
            let uri = request.uri().clone();
            let bytes = request.into_body().collect_bytes().await.unwrap();
            let body = serde_json::from_slice(&bytes).unwrap_or_default();
            let Some((code, body)) = answer(&method, &uri, body) else {
                unanswered.push(send);
                continue;
            };
            let body = Body::from(serde_json::to_vec(&body).unwrap());
            let answer = axum::http::Response::builder().status(code).body(body);
            send.send_response(answer.unwrap());
        }
    });
    kube::Client::new(service, namespace)
}

/// A request that writes a status: it replaces what was there, whoever wrote that.
pub struct StatusPatch<'a> {
    uid: &'a Value,
    version: &'a Value,
    /// What is written.
    pub status: &'a Value,
}

impl StatusPatch<'_> {
    /// Whether the API server takes it for this cluster, as it is stored.
    pub fn fits(&self, cluster: &Value) -> bool {
        let metadata = &cluster["metadata"];
        (self.uid, self.version) == (&metadata["uid"], &metadata["resourceVersion"])
    }
}

/// The request with this body, if it writes a status.
pub fn status_patch(body: &Value) -> Option<StatusPatch<'_>> {
    let [uid, version, add] = body.as_array()?.as_slice() else {
        return None;
    };
    let is = |step: &Value, op: &str, path: &str| step["op"] == op && step["path"] == path;
    let is_guarded = is(uid, "test", "/metadata/uid");
    let is_guarded = is_guarded && is(version, "test", "/metadata/resourceVersion");
    (is_guarded && is(add, "add", "/status")).then(|| StatusPatch {
        uid: &uid["value"],
        version: &version["value"],
        status: &add["value"],
    })
}
