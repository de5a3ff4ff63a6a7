//! The words that scenarios of the product share: a BytebaseCluster to start from, and what is
//! read again and again.

use crate::postgres::Database;
use crate::scenario::license::License;
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox, condition};
use crate::wait;
use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Pod, Service};
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// Name of the cluster in every scenario.
pub const NAME: &str = "demo";
/// Secret with `PG_URL`.
pub const DATABASE_SECRET: &str = "demo-database";
/// Secret with the license.
pub const LICENSE_SECRET: &str = "demo-license";
/// Secret with the admin's login.
pub const ADMIN_SECRET: &str = "demo-admin";
/// The admin's password; searched for in everything that the operator writes.
const ADMIN_PASSWORD: &str = "an-admin-password-nobody-may-see-1";

/// A cluster of this size in the least that is accepted.
pub fn minimal(sandbox: &Sandbox, replicas: i32) -> Value {
    let image = &sandbox.harness().bytebase;
    json!({
        "apiVersion": "bytebase.com/v1alpha1",
        "kind": "BytebaseCluster",
        "metadata": {"name": NAME},
        "spec": {
            "version": image.tag,
            "image": {"repository": image.repository},
            "replicas": replicas,
            "externalURL": "https://bytebase.example.com",
            "database": {"urlSecretRef": {"name": DATABASE_SECRET, "key": "PG_URL"}},
            // The pause is for endpoints; scenarios have no clients behind them. A license gate
            // begins earlier by all of these.
            "rollout": {"preStopSeconds": 1, "terminationGraceSeconds": 10, "drainTimeoutSeconds": 1},
        },
    })
}

/// The same with a license and an admin that the operator makes, so that several replicas may run.
pub fn licensed(sandbox: &Sandbox, replicas: i32) -> Value {
    let mut cluster = minimal(sandbox, replicas);
    cluster["spec"]["license"] = json!({"secretRef": {"name": LICENSE_SECRET, "key": "license"}});
    cluster["spec"]["admin"] =
        json!({"credentialsSecretRef": {"name": ADMIN_SECRET}, "createFirst": true});
    cluster
}

/// Operator, Secrets and the cluster itself, without waiting for anything.
pub async fn start(sandbox: &Sandbox, cluster: &Value) -> Result<()> {
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    secrets(sandbox).await?;
    sandbox.apply_yaml(&cluster.to_string()).await
}

/// The Secrets that [`minimal`] and [`licensed`] name.
pub async fn secrets(sandbox: &Sandbox) -> Result<()> {
    sandbox.create_database_secret(DATABASE_SECRET).await?;
    sandbox
        .create_license_secret(LICENSE_SECRET, &License::default())
        .await?;
    admin_secret(sandbox, ADMIN_PASSWORD).await
}

/// The admin's login with this password.
pub async fn admin_secret(sandbox: &Sandbox, password: &str) -> Result<()> {
    sandbox
        .create_secret(
            ADMIN_SECRET,
            &[("email", "admin@example.com"), ("password", password)],
        )
        .await
}

/// A licensed cluster of this size, brought up and Ready.
pub async fn ready(sandbox: &Sandbox, replicas: i32) -> Result<()> {
    start(sandbox, &licensed(sandbox, replicas)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// Merges into the spec, as `kubectl patch` would.
pub async fn patch_spec(sandbox: &Sandbox, spec: Value) -> Result<()> {
    let patch = Patch::Merge(json!({"spec": spec}));
    sandbox
        .clusters()
        .patch(NAME, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Another cluster on the same database.
pub fn second(sandbox: &Sandbox) -> Value {
    let mut second = minimal(sandbox, 1);
    second["metadata"]["name"] = json!("second");
    second["spec"]["ingress"] = json!({"enabled": false});
    second
}

/// Makes so many clusters of one replica, each with a database of its own, and waits until they are
/// healthy, and so is the one of [`NAME`]. Returns their names.
pub async fn many(sandbox: &Sandbox, name: &str, count: usize) -> Result<Vec<String>> {
    let names: Vec<_> = (0..count).map(|index| format!("{name}-{index}")).collect();
    for name in &names {
        let database = format!("{}_{}", sandbox.database().name, name.replace('-', "_"));
        let postgres = &sandbox.harness().postgres;
        let database = postgres.create_database(&database).await?;
        sandbox
            .create_secret(name, &[("PG_URL", &database.url())])
            .await?;
        let mut cluster = minimal(sandbox, 1);
        cluster["metadata"]["name"] = json!(name);
        cluster["spec"]["ingress"] = json!({"enabled": false});
        cluster["spec"]["database"]["urlSecretRef"]["name"] = json!(name);
        sandbox.apply_yaml(&cluster.to_string()).await?;
    }
    for name in names.iter().map(String::as_str).chain([NAME]) {
        sandbox
            .wait_condition(name, "ReplicasHealthy", "True", "AllReplicasHealthy")
            .await?;
    }
    Ok(names)
}

/// Whether Kubernetes calls a pod Ready.
pub fn is_ready(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|list| {
            list.iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
}

/// Whether a pod is on its way out.
pub fn is_ending(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Pods of the cluster.
pub async fn pods(sandbox: &Sandbox) -> Result<Vec<Pod>> {
    sandbox.pods(&format!("bytebase.com/cluster={NAME}")).await
}

/// Uid and restarts of each pod, by name: what shows that it was neither ended nor restarted.
pub type Lives = BTreeMap<String, (String, i32)>;

/// The lives of the cluster's pods.
pub async fn lives(sandbox: &Sandbox) -> Result<Lives> {
    Ok(lives_of(&pods(sandbox).await?))
}

/// The lives of these pods.
pub fn lives_of(pods: &[Pod]) -> Lives {
    let life = |pod: &Pod| {
        let statuses = pod
            .status
            .as_ref()
            .and_then(|status| status.container_statuses.clone())
            .unwrap_or_default();
        let restarts = statuses.iter().map(|status| status.restart_count).sum();
        (pod.name_any(), (pod.uid().unwrap_or_default(), restarts))
    };
    pods.iter().map(life).collect()
}

/// Puts the right `PG_URL` into the Secret again: all replicas are Ready and send heartbeats, and
/// none was ended since `before`.
pub async fn put_database_secret_back(sandbox: &Sandbox, before: &Lives) -> Result<()> {
    sandbox.create_database_secret(DATABASE_SECRET).await?;
    // Replicas may have been Ready all the time; what was wrong is reported by one of these.
    for condition in ["ConfigurationValid", "DatabaseReady", "RolloutComplete"] {
        sandbox.wait_condition(NAME, condition, "True", "").await?;
    }
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    ensure!(
        lives(sandbox).await? == *before,
        "putting the Secret back ended a replica"
    );
    Ok(())
}

/// Waits until there are exactly this many pods.
pub async fn wait_pods(sandbox: &Sandbox, count: usize) -> Result<Vec<Pod>> {
    wait::until(
        &format!("{count} pods"),
        PATIENCE,
        || pods(sandbox),
        |pods: &Vec<Pod>| pods.len() == count,
    )
    .await
}

/// Heartbeats that are at most 30 s old, by the database's clock.
pub async fn active_rows(sandbox: &Sandbox) -> Result<i64> {
    let pool = sandbox.sql().await?;
    let count = sqlx::query_scalar("SELECT count(*) FROM replica_heartbeat WHERE last_heartbeat > now() - interval '30 seconds'").fetch_one(&pool).await;
    pool.close().await;
    Ok(count?)
}

/// Waits until a change has reached every replica and all of them are Ready and send heartbeats.
pub async fn rolled_out(sandbox: &Sandbox) -> Result<()> {
    active_once(sandbox, "RolloutComplete", "").await
}

/// Waits until the database has passed every check and all replicas are Ready and send heartbeats.
pub async fn well(sandbox: &Sandbox) -> Result<()> {
    active_once(sandbox, "DatabaseReady", "DatabaseChecksPassed").await
}

/// Waits until a condition is True, and then until all replicas are Ready and send heartbeats.
async fn active_once(sandbox: &Sandbox, condition: &str, reason: &str) -> Result<()> {
    sandbox
        // A changed Secret is given two minutes to reach the pods.
        .wait_condition_for(2 * PATIENCE, NAME, condition, "True", reason)
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// Puts a license in the place of the stored one, as an admin does who installs it in Bytebase.
pub async fn install_license(sandbox: &Sandbox, license: &License) -> Result<()> {
    let token = sandbox.harness().license.sign(license);
    let pool = sandbox.sql().await?;
    let done = sqlx::query("UPDATE setting SET value = jsonb_set(value, '{license}', to_jsonb($1::text)) WHERE name = 'SYSTEM'").bind(token).execute(&pool).await;
    pool.close().await;
    ensure!(done?.rows_affected() == 1, "no license is stored");
    Ok(())
}

/// Puts a license that ends in so many seconds into the Secret and the database, and waits until
/// the operator has read it. Returns when it ends, as status says. The time that a bring-up takes
/// is none of the license's: it depends on the machine.
pub async fn shorten_license(sandbox: &Sandbox, seconds: i64) -> Result<Timestamp> {
    let left = SignedDuration::from_secs(seconds);
    let license = License::default().expires_in(left);
    let ends = Timestamp::now() + left;
    // The Secret first: a license that ends later than the stored one would be installed.
    sandbox
        .create_license_secret(LICENSE_SECRET, &license)
        .await?;
    install_license(sandbox, &license).await?;
    let expiry = || async {
        let status = sandbox.status(NAME).await?;
        let end = status["license"]["expirationTime"].as_str();
        Ok(end.and_then(|end| end.parse::<Timestamp>().ok()))
    };
    let short = |end: &Option<Timestamp>| end.is_some_and(|end| end <= ends);
    let read = wait::until("the shorter license in status", PATIENCE, expiry, short).await?;
    read.context("the license has no end")
}

/// No role can connect to the scenario's database any more.
pub async fn cut_off(sandbox: &Sandbox) -> Result<()> {
    let postgres = &sandbox.harness().postgres;
    let database = sandbox.database();
    postgres.allow_connections(database, false).await?;
    postgres.disconnect(database).await?;
    Ok(())
}

/// The value of a metric that the operator's only process serves of the cluster; `None` if it
/// serves none.
pub async fn metric(sandbox: &Sandbox, metric: &str) -> Result<Option<f64>> {
    let pods = sandbox.operator_pods().await?;
    let pod = pods.first().context("there is no operator")?;
    let text = sandbox
        .get_from_pod(&pod.name_any(), 8080, "metrics")
        .await?;
    let namespace = sandbox.namespace();
    let labels = format!("{metric}{{namespace=\"{namespace}\",name=\"{NAME}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&labels));
    Ok(value.map(str::parse).transpose()?)
}

/// How long an edit of a cluster takes to reach its Service.
pub async fn edit_takes(sandbox: &Sandbox, name: &str) -> Result<Duration> {
    const EDITED: &str = "example.com/edited";
    let mark = format!("{:08x}", rand::random::<u32>());
    let patch = json!({"spec": {"service": {"annotations": {EDITED: mark}}}});
    let asked = Instant::now();
    sandbox
        .clusters()
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await?;
    let found = || async {
        let service = sandbox.api::<Service>().get(name).await?;
        Ok(service.annotations().get(EDITED).cloned())
    };
    let is_there = |found: &Option<String>| found.as_ref() == Some(&mark);
    wait::until("the edit in the Service", PATIENCE, found, is_there).await?;
    Ok(asked.elapsed())
}

/// The lease that operators in the sandbox's namespace lead by: who holds it, and when it was
/// renewed last.
pub async fn lease(sandbox: &Sandbox) -> Result<(String, Timestamp)> {
    let leases = sandbox.api::<Lease>().list(&ListParams::default()).await?;
    let held = leases.iter().find_map(|lease| {
        let spec = lease.spec.as_ref()?;
        Some((spec.holder_identity.clone()?, spec.renew_time.as_ref()?.0))
    });
    held.context("no process holds the lease")
}

/// Runs one statement as the owner of the database.
pub async fn execute(sandbox: &Sandbox, statement: &'static str) -> Result<()> {
    let pool = sandbox.sql().await?;
    let done = sqlx::query(statement).execute(&pool).await;
    pool.close().await;
    done?;
    Ok(())
}

/// Reasons of the events on the cluster.
pub async fn event_reasons(sandbox: &Sandbox) -> Result<Vec<String>> {
    let events = events(sandbox, "").await?.into_iter();
    Ok(events.filter_map(|event| event.reason).collect())
}

/// Events on the cluster, of which further fields are as `narrower` says.
async fn events(sandbox: &Sandbox, narrower: &str) -> Result<Vec<Event>> {
    let about = format!("involvedObject.kind=BytebaseCluster,involvedObject.name={NAME}{narrower}");
    let parameters = ListParams::default().fields(&about);
    Ok(sandbox.api::<Event>().list(&parameters).await?.items)
}

/// Waits for an event with this reason.
pub async fn wait_event(sandbox: &Sandbox, reason: &str) -> Result<()> {
    wait::until(
        &format!("an event {reason}"),
        PATIENCE,
        || event_reasons(sandbox),
        |reasons: &Vec<String>| reasons.iter().any(|seen| seen == reason),
    )
    .await?;
    Ok(())
}

/// Waits for an event of type Warning with this reason.
pub async fn wait_warning(sandbox: &Sandbox, reason: &str) -> Result<()> {
    let warning = format!(",reason={reason},type=Warning");
    let found = || async { Ok(events(sandbox, &warning).await?.len()) };
    let is_there = |found: &usize| *found > 0;
    wait::until(&format!("a warning {reason}"), PATIENCE, found, is_there).await?;
    Ok(())
}

/// Waits for a condition with these words in its message: the same reason may have stood before,
/// for something else.
pub async fn wait_message(
    sandbox: &Sandbox,
    (kind, status, reason): (&str, &str, &str),
    words: &str,
) -> Result<()> {
    wait::until(
        &format!("{kind}={status} {reason}, with the words {words:?}"),
        PATIENCE,
        || condition_now(sandbox, kind),
        |now| now["status"] == status && now["reason"] == reason && says(now, &[words]).is_ok(),
    )
    .await?;
    Ok(())
}

/// Status of a condition now.
pub async fn condition_now(sandbox: &Sandbox, kind: &str) -> Result<Value> {
    let status = sandbox.status(NAME).await?;
    condition(&status["conditions"], kind)
        .cloned()
        .with_context(|| format!("no condition {kind}"))
}

/// The message of a condition names each of these.
pub fn says(condition: &Value, words: &[&str]) -> Result<()> {
    let message = condition["message"].as_str().unwrap_or_default();
    for word in words {
        ensure!(
            message.contains(word),
            "the message does not say {word:?}: {message}"
        );
    }
    Ok(())
}

/// What a cluster owns, with its pods.
const OWNED: [(&str, &str); 7] = [
    ("apps", "StatefulSet"),
    ("", "Service"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("policy", "PodDisruptionBudget"),
    ("", "ServiceAccount"),
    ("", "Pod"),
];

/// `resourceVersion` of everything the cluster owns and of the cluster itself: what changes with
/// any write.
pub async fn versions(sandbox: &Sandbox) -> Result<String> {
    let ours = ListParams::default().labels(&format!("bytebase.com/cluster={NAME}"));
    let mut versions = String::new();
    for (group, kind) in OWNED {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(sandbox.client(), sandbox.namespace(), &resource);
        for object in api.list_metadata(&ours).await? {
            let name = object.metadata.name.unwrap_or_default();
            let version = object.metadata.resource_version.unwrap_or_default();
            let _ = writeln!(versions, "{kind}/{name} {version}");
        }
    }
    let cluster = sandbox.clusters().get_metadata(NAME).await?;
    let version = cluster.metadata.resource_version.unwrap_or_default();
    let _ = writeln!(versions, "BytebaseCluster/{NAME} {version}");
    Ok(versions)
}

/// Checks that nothing is written for so long: the [`versions`] stay as they are.
pub async fn no_write(sandbox: &Sandbox, period: Duration, before: &str) -> Result<()> {
    // A write leaves another version behind, so that it is seen however late.
    const BETWEEN: Duration = Duration::from_millis(750);
    let now = || async {
        tokio::time::sleep(BETWEEN).await;
        versions(sandbox).await
    };
    wait::throughout("no write", period, now, |now| *now == *before).await
}

/// Waits until nothing is written any more, and returns the [`versions`] of then. Pods' own status
/// settles a moment after Ready.
pub async fn settled(sandbox: &Sandbox) -> Result<String> {
    let pair = || async {
        let before = versions(sandbox).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok((before, versions(sandbox).await?))
    };
    let same = |(before, after): &(String, String)| before == after;
    let patience = Duration::from_secs(30);
    let pair = wait::until("objects that stay as they are", patience, pair, same).await?;
    Ok(pair.1)
}

/// Ends the operator's pods at once and waits for others that lead.
pub async fn restart_operator(sandbox: &Sandbox) -> Result<()> {
    let selector = format!("app.kubernetes.io/instance={}", sandbox.release());
    let asked = Timestamp::now();
    sandbox
        .kubectl(&["delete", "pods", "-l", &selector, "--grace-period=1"])
        .await?;
    let renewed = || async { Ok(lease(sandbox).await?.1) };
    wait::until("another leader", PATIENCE, renewed, |at| *at > asked).await?;
    let ready = || sandbox.operator_pods();
    wait::until("another operator", PATIENCE, ready, |pods| {
        !pods.is_empty()
            && pods
                .iter()
                .all(|pod| pod.metadata.deletion_timestamp.is_none())
    })
    .await?;
    Ok(())
}

/// Long enough for a pod to be made by an operator that should not.
pub const PAUSE: Duration = Duration::from_secs(4);

/// Deletes the cluster, and makes one of one replica again as soon as its name is free.
pub async fn make_again(sandbox: &Sandbox) -> Result<()> {
    sandbox
        .kubectl(&["delete", "bytebasecluster", NAME, "--wait=false"])
        .await?;
    let gone = || async {
        let found = sandbox.clusters().get_opt(NAME).await?;
        Ok(found.is_none())
    };
    wait::until("the end of the cluster", PATIENCE, gone, |gone| *gone).await?;
    sandbox.apply_yaml(&minimal(sandbox, 1).to_string()).await
}

/// Brings up operator and cluster with this PG_URL in the Secret from the very beginning.
pub async fn start_with(sandbox: &Sandbox, cluster: &Value, url: &str) -> Result<()> {
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    secrets(sandbox).await?;
    set_url(sandbox, url).await?;
    sandbox.apply_yaml(&cluster.to_string()).await
}

/// Puts this PG_URL into the Secret.
pub async fn set_url(sandbox: &Sandbox, url: &str) -> Result<()> {
    sandbox
        .create_secret(DATABASE_SECRET, &[("PG_URL", url)])
        .await
}

/// Waits for a while in which no pod may come.
pub async fn no_pods(sandbox: &Sandbox) -> Result<()> {
    wait::throughout("no pod", PAUSE, || pods(sandbox), Vec::is_empty).await
}

/// PG_URL of another role to this database.
pub fn url_of(database: &Database, role: &str, password: &str) -> String {
    format!(
        "postgres://{role}:{password}@{}:{}/{}?sslmode=disable",
        database.host(),
        database.port(),
        database.name
    )
}
