//! What a scenario gets: a namespace, a database and an operator of its own, and the words to speak
//! about them.

use crate::cluster::audit::{Call, Calls};
use crate::cluster::faults::{self, Blow};
use crate::cluster::kubectl::PortForward;
use crate::images::{OPERATOR_REPOSITORY, TAG};
use crate::machine::tools::repository;
use crate::postgres::Database;
use crate::scenario::collect::strings;
use crate::scenario::followers::Followers;
use crate::scenario::leaks::Planted;
use crate::scenario::license::License;
use crate::session::harness::Harness;
use crate::wait;
use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod, Secret};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sqlx::postgres::{PgPool, PgPoolOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Long enough for pods to be scheduled, started and probed while three other scenarios run.
pub const PATIENCE: Duration = Duration::from_mins(2);
/// Marks the namespaces of scenarios, so that a kept cluster can be swept.
pub const LABEL: &str = "bytebase.com/e2e";
/// The label Helm charts put on their pods.
const RELEASE_LABEL: &str = "app.kubernetes.io/instance";
/// Kubernetes and PostgreSQL both end names at 63; Helm ends release names at 53.
const NAME_LIMIT: usize = 48;

/// Handle to a scenario's surroundings; clones are the same.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    harness: Harness,
    namespace: String,
    database: Database,
    folder: PathBuf,
    planted: Mutex<Vec<Planted>>,
    followers: Mutex<Option<Followers>>,
    /// Each status that was read: the next one takes the place of what it said.
    read: Mutex<BTreeSet<String>>,
    calls: tokio::sync::Mutex<Calls>,
}

/// How the operator is installed. Change what a scenario is about, leave the rest.
#[derive(Debug, Clone)]
pub struct OperatorOptions {
    /// The chart's folder: this checkout's own unless a scenario is about another, such as an
    /// older release.
    pub chart: PathBuf,
    /// Operator pods; one of them leads.
    pub replicas: u32,
    /// Whether it is given the public key that licenses are verified with.
    pub verify_licenses: bool,
    /// Further chart values, merged over the harness's own.
    pub values: Value,
}

impl Default for OperatorOptions {
    fn default() -> Self {
        Self {
            chart: repository().join("charts/bytebase-operator"),
            replicas: 1,
            verify_licenses: true,
            values: json!({}),
        }
    }
}

impl Sandbox {
    /// Makes the namespace and the database.
    pub async fn create(harness: Harness, scenario: &str) -> Result<Self> {
        let namespace = unique_name(scenario, &format!("{:04x}", rand::random::<u16>()));
        let folder = artifacts().join(scenario);
        // Of the last run of this scenario; the folder holds one run only.
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        let object = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": namespace, "labels": {LABEL: scenario}},
        });
        Api::<Namespace>::all(harness.client.clone())
            .patch(&namespace, &applied(), &Patch::Apply(object))
            .await?;
        let database = harness
            .postgres
            .create_database(&namespace.replace('-', "_"))
            .await?;
        let planted = vec![Planted::random("database password", &database.password)];
        Ok(Self(Arc::new(Inner {
            harness,
            namespace,
            database,
            folder,
            planted: Mutex::new(planted),
            followers: Mutex::new(None),
            read: Mutex::default(),
            calls: tokio::sync::Mutex::default(),
        })))
    }

    /// What all scenarios share: the cluster, PostgreSQL, the license key…
    pub fn harness(&self) -> &Harness {
        &self.0.harness
    }

    /// A client of the cluster's administrator.
    pub fn client(&self) -> Client {
        self.0.harness.client.clone()
    }

    /// This scenario's namespace.
    pub fn namespace(&self) -> &str {
        &self.0.namespace
    }

    /// This scenario's database; nothing is in it yet.
    pub fn database(&self) -> &Database {
        &self.0.database
    }

    /// Folder for what a person may want to see after a failure.
    pub fn folder(&self) -> &std::path::Path {
        &self.0.folder
    }

    /// A pool to this scenario's database, as its owner.
    pub async fn sql(&self) -> Result<PgPool> {
        Ok(PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(Duration::from_secs(10))
            .connect(&self.0.database.local_url())
            .await?)
    }

    /// Runs kubectl in this namespace.
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        let mut all = vec!["--namespace", self.namespace()];
        all.extend(arguments);
        self.harness().kubectl.run(&all).await
    }

    /// Applies YAML, several documents if need be, in this namespace.
    pub async fn apply_yaml(&self, yaml: &str) -> Result<()> {
        self.harness().kubectl.apply(self.namespace(), yaml).await?;
        Ok(())
    }

    /// Objects of a kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + DeserializeOwned,
    {
        Api::namespaced(self.client(), self.namespace())
    }

    /// The BytebaseClusters of this namespace. Their type is deliberately not the operator's own.
    pub fn clusters(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.client(), self.namespace(), &cluster_resource())
    }

    /// A BytebaseCluster's status; one without conditions before the operator has seen it.
    pub async fn status(&self, name: &str) -> Result<Value> {
        let object = self.clusters().get(name).await?;
        let status = object.data["status"].clone();
        self.0.read.lock().insert(strings(&status));
        Ok(status)
    }

    /// The texts of each status that was read so far.
    pub fn statuses_read(&self) -> Vec<String> {
        self.0.read.lock().iter().cloned().collect()
    }

    /// Waits until a BytebaseCluster's status satisfies `wanted`.
    pub async fn wait_status<W>(&self, name: &str, what: &str, wanted: W) -> Result<Value>
    where
        W: Fn(&Value) -> bool,
    {
        wait::until(what, PATIENCE, || self.status(name), wanted).await
    }

    /// Waits for a condition of a BytebaseCluster: its type, its status and, if not empty, its
    /// reason. Only a condition that speaks about the present generation counts. Returns it.
    pub async fn wait_condition(
        &self,
        name: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> Result<Value> {
        self.wait_condition_for(PATIENCE, name, kind, status, reason)
            .await
    }

    /// The same with a patience of its own.
    pub async fn wait_condition_for(
        &self,
        patience: Duration,
        name: &str,
        kind: &str,
        status: &str,
        reason: &str,
    ) -> Result<Value> {
        let object = wait::until(
            &format!("{kind}={status} {reason} of {name}"),
            patience,
            || async {
                let object = self.clusters().get(name).await?;
                let generation = object.metadata.generation;
                self.0.read.lock().insert(strings(&object.data["status"]));
                Ok((generation, object.data["status"]["conditions"].clone()))
            },
            |(generation, conditions)| {
                condition(conditions, kind).is_some_and(|condition| {
                    condition["status"] == status
                        && (reason.is_empty() || condition["reason"] == reason)
                        && condition["observedGeneration"].as_i64() == *generation
                })
            },
        )
        .await?;
        Ok(condition(&object.1, kind).cloned().unwrap_or_default())
    }

    /// Pods of this namespace with these labels (`a=b,c=d`; empty for all), by name.
    pub async fn pods(&self, selector: &str) -> Result<Vec<Pod>> {
        let parameters = ListParams::default().labels(selector);
        let mut pods = self.api::<Pod>().list(&parameters).await?.items;
        pods.sort_by(|one, two| one.metadata.name.cmp(&two.metadata.name));
        Ok(pods)
    }

    /// Strikes the processes of a pod's container.
    pub async fn strike(&self, pod: &Pod, container: &str, blow: Blow) -> Result<()> {
        faults::strike_pod(&self.harness().cluster, pod, container, blow).await
    }

    /// Strikes one program in a container, and no other process of it.
    pub async fn strike_program(
        &self,
        pod: &Pod,
        container: &str,
        program: &str,
        blow: Blow,
    ) -> Result<()> {
        faults::strike_program(&self.harness().cluster, pod, container, program, blow).await
    }

    /// Makes or replaces a Secret. Its values are from now on looked for in all the operator
    /// writes.
    pub async fn create_secret(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        for (key, value) in data {
            self.plant(&format!("value {key} of Secret {name}"), value);
        }
        self.create_harmless_secret(name, data).await
    }

    /// Like [`Self::create_secret`], for values that are no secret, such as a user's name.
    pub async fn create_harmless_secret(&self, name: &str, data: &[(&str, &str)]) -> Result<()> {
        let data: BTreeMap<_, _> = data.iter().copied().collect();
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": data,
        });
        self.api::<Secret>()
            .patch(name, &applied(), &Patch::Apply(secret))
            .await?;
        Ok(())
    }

    /// A Secret `name` whose key `PG_URL` leads to this scenario's database.
    pub async fn create_database_secret(&self, name: &str) -> Result<()> {
        self.create_secret(name, &[("PG_URL", &self.database().url())])
            .await
    }

    /// A Secret `name` whose key `license` holds a license that says this. Returns the license.
    pub async fn create_license_secret(&self, name: &str, license: &License) -> Result<String> {
        let token = self.harness().license.sign(license);
        self.create_secret(name, &[("license", &token)]).await?;
        Ok(token)
    }

    /// Looks for this value, too, in all the operator writes.
    pub fn plant(&self, label: &str, value: &str) {
        let mut planted = self.0.planted.lock();
        planted.push(Planted::new(label, value));
    }

    /// The same for random letters and digits: any part of them is looked for.
    pub fn plant_random(&self, label: &str, value: &str) {
        let mut planted = self.0.planted.lock();
        planted.push(Planted::random(label, value));
    }

    /// What was planted so far.
    pub fn planted(&self) -> Vec<Planted> {
        self.0.planted.lock().clone()
    }

    /// Installs, or changes, the operator of this scenario: it watches this namespace only. From
    /// the first call on everything it logs is kept.
    pub async fn install_operator(&self, options: &OperatorOptions) -> Result<()> {
        self.install_release(self.release(), options).await
    }

    /// Installs a second release beside the first. Its values must give its objects other names.
    pub async fn install_second_operator(&self, options: &OperatorOptions) -> Result<()> {
        let release = format!("{}-2", self.release());
        self.install_release(&release, options).await
    }

    async fn install_release(&self, release: &str, options: &OperatorOptions) -> Result<()> {
        let OperatorOptions {
            chart,
            replicas,
            verify_licenses,
            values,
        } = options;
        self.follow_operator()?;
        let mut all = json!({
            "image": {"repository": OPERATOR_REPOSITORY, "tag": TAG, "pullPolicy": "Never"},
            // The definitions belong to the whole cluster; the harness applied them.
            "crds": {"install": false},
            "watchNamespaces": [self.namespace()],
            "replicaCount": replicas,
            "logFormat": "json",
        });
        if *verify_licenses {
            all["license"] = json!({"publicKey": self.harness().license.public_pem()});
        }
        merge(&mut all, values);
        let chart = chart.display().to_string();
        self.harness()
            .helm
            .upgrade(self.namespace(), release, &chart, &all, PATIENCE)
            .await?;
        Ok(())
    }

    /// Name of the operator's Helm release.
    pub fn release(&self) -> &str {
        // A release may own objects of the whole cluster, so the name is as unique as the
        // namespace.
        self.namespace()
    }

    /// The operator's pods.
    pub async fn operator_pods(&self) -> Result<Vec<Pod>> {
        self.pods(&self.operator_selector()).await
    }

    /// Everything the operator logged, file by file; one per start of each pod.
    pub fn operator_logs(&self) -> Result<Vec<(String, String)>> {
        let followers = self.0.followers.lock();
        followers.as_ref().map_or(Ok(Vec::new()), Followers::read)
    }

    /// What of the operator's logs could not be kept so far, and why.
    pub fn operator_log_problems(&self) -> Vec<String> {
        let followers = self.0.followers.lock();
        followers.as_ref().map_or(Vec::new(), Followers::problems)
    }

    /// What the operator (and whatever else has a service account here) has called so far, by the
    /// API server's record.
    pub async fn calls(&self) -> Result<Vec<Call>> {
        let mut calls = self.0.calls.lock().await;
        let read = calls.read(&self.harness().cluster, self.namespace());
        Ok(read.await?.to_vec())
    }

    /// GET from a port of a pod, through the API server. Returns the body of a 2xx answer.
    pub async fn get_from_pod(&self, pod: &str, port: u16, path: &str) -> Result<String> {
        let path = format!(
            "/api/v1/namespaces/{}/pods/{pod}:{port}/proxy/{}",
            self.namespace(),
            path.trim_start_matches('/')
        );
        let request = axum::http::Request::get(path).body(Vec::new())?;
        Ok(self.client().request_text(request).await?)
    }

    /// A local port that leads to `pod/NAME` or `service/NAME`, for what the API server's own proxy
    /// cannot carry: it keeps the Authorization header for itself.
    pub async fn port_forward(&self, target: &str, port: u16) -> Result<PortForward> {
        self.harness()
            .kubectl
            .port_forward(self.namespace(), target, port)
            .await
    }

    fn operator_selector(&self) -> String {
        format!("{RELEASE_LABEL}={}", self.release())
    }

    fn follow_operator(&self) -> Result<()> {
        let mut followers = self.0.followers.lock();
        if followers.is_none() {
            let folder = self.0.folder.join("operator");
            *followers = Some(Followers::start(
                self.api(),
                self.operator_selector(),
                folder,
            )?);
        }
        Ok(())
    }
}

/// As [`crate::cluster::kubectl::Kubectl::apply`] does it.
fn applied() -> PatchParams {
    PatchParams::apply("e2e").force()
}

/// What kube needs to know of the kind.
pub fn cluster_resource() -> ApiResource {
    ApiResource {
        group: "bytebase.com".to_owned(),
        version: "v1alpha1".to_owned(),
        api_version: "bytebase.com/v1alpha1".to_owned(),
        kind: "BytebaseCluster".to_owned(),
        plural: "bytebaseclusters".to_owned(),
    }
}

/// The condition of this type, if the list has it.
pub fn condition<'list>(conditions: &'list Value, kind: &str) -> Option<&'list Value> {
    conditions
        .as_array()?
        .iter()
        .find(|condition| condition["type"] == kind)
}

/// Where failures leave what was seen: `e2e` in cargo's target folder.
pub fn artifacts() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| repository().join("target"), PathBuf::from)
        .join("e2e")
}

/// `e2e-SCENARIO-SUFFIX`, short enough for everything named after it.
fn unique_name(scenario: &str, suffix: &str) -> String {
    let room = NAME_LIMIT - "e2e--".len() - suffix.len();
    let stem = scenario.get(..room).unwrap_or(scenario);
    format!("e2e-{}-{suffix}", stem.trim_end_matches('-'))
}

/// Lays `over` over `base`: objects are merged, everything else is replaced.
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain_however_long_the_scenario() {
        assert_eq!(unique_name("scale-up", "0a1b"), "e2e-scale-up-0a1b");
        let name = unique_name(&"a-very-long-scenario-".repeat(5), "0a1b");
        assert!(name.len() <= NAME_LIMIT, "{name}");
        assert!(!name.contains("--"), "{name}");
        let cut = unique_name(&"abcdefgh-".repeat(9), "0a1b");
        assert!(!cut.contains("--"), "{cut}");
    }

    #[test]
    fn values_are_merged_key_by_key() {
        let mut base = json!({"image": {"tag": "a", "repository": "r"}, "list": [1]});
        merge(
            &mut base,
            &json!({"image": {"tag": "b"}, "list": [2], "new": {"x": 1}}),
        );
        let expected =
            json!({"image": {"tag": "b", "repository": "r"}, "list": [2], "new": {"x": 1}});
        assert_eq!(base, expected);
    }

    #[test]
    fn a_condition_is_found_by_its_type() {
        let list = json!([{"type": "Ready", "status": "True"}]);
        assert!(condition(&list, "Ready").is_some());
        assert!(condition(&list, "Stalled").is_none());
        assert!(condition(&Value::Null, "Ready").is_none());
    }
}
