//! What was learnt stands: over an outage of the database, a new operator process, a node that is
//! silent, a log that was rotated.

use super::support::{self, DATABASE_SECRET, LICENSE_SECRET, NAME};
use crate::cluster::faults::{Blow, container_id};
use crate::scenario::license::License;
use crate::scenario::sandbox::{LABEL, OperatorOptions, PATIENCE, Sandbox, condition};
use crate::scenario::{Lane, Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "license-ends-unread",
        "A license that ends while the database cannot be read ends all replicas but one in time, and when it ends stays in the metrics.",
        |sandbox| Box::pin(license_ends_unread(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(140),
    Scenario::new(
        "license-ends-while-check-fails",
        "A license that ends while a check of the database fails ends all replicas but one in time.",
        |sandbox| Box::pin(license_ends_while_check_fails(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(110),
    Scenario::new(
        "license-ends-while-invalid",
        "A license that ends while the spec is invalid ends all replicas but one in time, and changes nothing else.",
        |sandbox| Box::pin(license_ends_while_invalid(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(110),
    Scenario::new(
        "license-ends-while-refused",
        "A license that ends while the API server refuses the new pod template ends all replicas but one in time, on the old template.",
        |sandbox| Box::pin(license_ends_while_refused(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(110),
    Scenario::new(
        "license-ends-while-deleted",
        "A license that ends while a finalizer holds up the deletion of a cluster ends all replicas but one in time, and nothing else changes.",
        |sandbox| Box::pin(license_ends_while_deleted(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(140),
    Scenario::new(
        "shared-after-restart",
        "Whatever the operator reads first after a restart, the older of two clusters has the database.",
        |sandbox| Box::pin(shared_after_restart(sandbox)),
    )
    .takes(120),
    Scenario::new(
        "refusal-outlives-outage",
        "A refused database that is cut off is still refused, also by a new operator process, and after the two minutes in which one that was never read holds back the first replica.",
        |sandbox| Box::pin(refusal_outlives_outage(sandbox)),
    )
    .takes(250),
    Scenario::new(
        "take-over",
        "A Bytebase that runs already holds back the first replica, which starts by itself once it is stopped.",
        |sandbox| Box::pin(take_over(sandbox)),
    )
    .takes(120),
    Scenario::new(
        "gate-keeps-what-serves",
        "Without its license a cluster keeps the replica that serves, whatever its number.",
        |sandbox| Box::pin(gate_keeps_what_serves(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(120),
    Scenario::new(
        "rotated-log",
        "A replica's id is known after the kubelet has thrown the head of its log away.",
        |sandbox| Box::pin(rotated_log(sandbox)),
    )
    .stand_in_only(stand_in::LOG)
    .takes(100),
    Scenario::new(
        "license-by-hand",
        "A call to Bytebase that failed is forgotten once an admin has installed a license by hand.",
        |sandbox| Box::pin(license_by_hand(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(100),
    Scenario::new(
        "swallowed-calls",
        "Ten clusters whose replicas take calls and never answer delay no edit of an eleventh.",
        |sandbox| Box::pin(swallowed_calls(sandbox)),
    )
    .stand_in_only(stand_in::MANY)
    .takes(100),
    Scenario::new(
        "made-again",
        "A cluster made again under its name is not held back by itself, nor by what still ends of it; a deleted one leaves no session and no metric, and its database to another.",
        |sandbox| Box::pin(made_again(sandbox)),
    )
    .takes(150),
    Scenario::new(
        "service-before-admin",
        "A Service of type NodePort or LoadBalancer is made only after the operator has signed up as the first admin.",
        |sandbox| Box::pin(service_before_admin(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(90),
    Scenario::new(
        "gate-beside-silent-node",
        "Pods that cannot end, since their node is silent, do not hold up the license gate.",
        |sandbox| Box::pin(gate_beside_silent_node(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(150)
    .lane(Lane::ControlPlane),
];

/// Long enough for a pod to be made by an operator that should not.
const PAUSE: Duration = Duration::from_secs(8);
/// By then a first replica would have started on a database that was never read: after two minutes.
const BLIND_START: Duration = Duration::from_secs(135);
/// Clusters whose replicas do not answer: more than the operator reconciles at a time.
const SWALLOWING: usize = 10;
/// Clusters that the operator reconciles at a time.
const AT_A_TIME: usize = 8;
/// The license guard of these scenarios, in seconds. Two steps down, and the end of a pod before
/// them, come on top: with twelve seconds of grace 27 s each.
const GUARD: i64 = 10;
const CLOSES_BEFORE_END: i64 = GUARD + 3 * 27;

/// A refused database that is cut off is still refused, also by a new operator.
async fn refusal_outlives_outage(sandbox: Sandbox) -> Result<()> {
    support::execute(&sandbox, "CREATE TABLE invoices (id int)").await?;
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    refused(&sandbox, "DatabaseForeignTables", "invoices").await?;
    support::cut_off(&sandbox).await?;
    refused(&sandbox, "DatabaseForeignTables", "cannot be read now").await?;
    no_pods(&sandbox).await?;
    support::restart_operator(&sandbox).await?;
    // The status is as it was, so that nothing shows who wrote it. Of another spec only the new
    // process can say the same.
    support::patch_spec(&sandbox, json!({"podLabels": {"asked": "of-the-new"}})).await?;
    let reported = sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabaseForeignTables")
        .await?;
    support::says(&reported, &["invoices", "cannot be read now"])?;
    let pods = || support::pods(&sandbox);
    wait::throughout("no pod", BLIND_START, pods, Vec::is_empty).await?;
    refused(&sandbox, "DatabaseForeignTables", "cannot be read now").await?;
    let postgres = &sandbox.harness().postgres;
    postgres.allow_connections(sandbox.database(), true).await?;
    no_pods(&sandbox).await?;
    support::execute(&sandbox, "DROP TABLE invoices").await?;
    support::well(&sandbox).await
}

/// As the documentation of a take-over says: the cluster is made while the old Bytebase runs in a
/// namespace of its own, and starts by itself once that is scaled to none.
async fn take_over(sandbox: Sandbox) -> Result<()> {
    let old = format!("{}-old", sandbox.namespace());
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": old, "labels": {LABEL: "take-over"}},
    });
    sandbox.apply_yaml(&namespace.to_string()).await?;
    let result = taken_over(&sandbox, &old).await;
    // Without its database it would fail beside all later scenarios.
    let removal = ["delete", "namespace", &old, "--wait=false"];
    let removed = sandbox.harness().kubectl.run(&removal).await;
    result?;
    removed.map(drop)
}

/// `old`: the namespace of the other Bytebase.
async fn taken_over(sandbox: &Sandbox, old: &str) -> Result<()> {
    let kubectl = &sandbox.harness().kubectl;
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    support::secrets(sandbox).await?;
    let url = sandbox.database().url();
    kubectl
        .apply_secret(old, DATABASE_SECRET, &[("PG_URL", &url)])
        .await?;
    let other = other_bytebase(sandbox).to_string();
    kubectl.apply(old, &other).await?;
    let active = || async { support::active_rows(sandbox).await };
    wait::until("the other Bytebase", PATIENCE, active, |rows| *rows == 1).await?;
    sandbox
        .apply_yaml(&support::minimal(sandbox, 1).to_string())
        .await?;
    refused(sandbox, "DatabaseInUse", "1 replica that does not belong").await?;
    support::wait_warning(sandbox, "DatabaseInUse").await?;
    no_pods(sandbox).await?;
    ensure!(
        support::active_rows(sandbox).await? == 1,
        "two replicas are active without a license"
    );
    let scale = ["scale", "statefulset", "bytebase", "--replicas=0"];
    kubectl
        .run(&[&["--namespace", old], scale.as_slice()].concat())
        .await?;
    support::well(sandbox).await?;
    ensure!(
        support::active_rows(sandbox).await? == 1,
        "the old replica still counts"
    );
    Ok(())
}

/// Bytebase as the official chart names it.
fn other_bytebase(sandbox: &Sandbox) -> Value {
    let image = &sandbox.harness().bytebase;
    let labels = json!({"app": "bytebase"});
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "bytebase"},
        "spec": {
            "serviceName": "bytebase", "replicas": 1, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": "bytebase", "image": image.name(), "imagePullPolicy": "Never",
                    "args": ["--port", "8080", "--data", "/var/opt/bytebase",
                        "--external-url", "https://bytebase.example.com"],
                    "env": [{"name": "PG_URL", "valueFrom": {"secretKeyRef":
                        {"name": DATABASE_SECRET, "key": "PG_URL"}}}],
                    "volumeMounts": [{"name": "data", "mountPath": "/var/opt/bytebase"}],
                }],
                "volumes": [{"name": "data", "emptyDir": {}}],
            }},
        },
    })
}

/// A check of the database fails before the license ends, on what can be read as before: what keeps
/// a cluster at its size does not keep the gate from acting.
async fn license_ends_while_check_fails(sandbox: Sandbox) -> Result<()> {
    let ends = bring_up_until(&sandbox, 170).await?;
    let name = &sandbox.database().name;
    let revoke = "REVOKE CREATE ON SCHEMA public FROM PUBLIC, pg_database_owner";
    let postgres = &sandbox.harness().postgres;
    postgres.execute_in(name, revoke).await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "False", "DatabasePermissionDenied")
        .await?;
    ensure!(
        support::pods(&sandbox).await?.len() == 3,
        "a check that fails ended a replica"
    );
    back_to_one_before(&sandbox, ends).await
}

/// The database is cut off before the license ends: its end was read, and it counts.
async fn license_ends_unread(sandbox: Sandbox) -> Result<()> {
    let ends = bring_up_until(&sandbox, 140).await?;
    support::cut_off(&sandbox).await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "Unknown", "LicenseUnknown")
        .await?;
    ensure!(
        support::pods(&sandbox).await?.len() == 3,
        "an outage alone ended a replica"
    );
    let expiry = &sandbox.status(NAME).await?["license"]["expirationTime"];
    ensure!(expiry.is_string(), "the end of the license is forgotten");
    back_to_one_before(&sandbox, ends).await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "False", "LicenseExpired")
        .await?;
    let postgres = &sandbox.harness().postgres;
    postgres.allow_connections(sandbox.database(), true).await
}

/// The spec is made invalid before the license ends: the gate acts all the same, and changes
/// nothing else.
async fn license_ends_while_invalid(sandbox: Sandbox) -> Result<()> {
    let ends = bring_up_until(&sandbox, 140).await?;
    let before = template(&sandbox).await?;
    support::patch_spec(
        &sandbox,
        json!({"externalURL": "https://user@bytebase.example.com", "podLabels": {"not": "yet"}}),
    )
    .await?;
    sandbox
        .wait_condition(NAME, "Stalled", "True", "InvalidConfiguration")
        .await?;
    back_to_one_before(&sandbox, ends).await?;
    ensure!(
        template(&sandbox).await? == before,
        "an invalid spec changed the template"
    );
    Ok(())
}

/// The pods are to have what only the API server refuses, before the license ends: the gate changes
/// the size alone.
async fn license_ends_while_refused(sandbox: Sandbox) -> Result<()> {
    let ends = bring_up_until(&sandbox, 140).await?;
    let before = template(&sandbox).await?;
    let more_than_its_limit = json!({"requests": {"memory": "2Gi"}, "limits": {"memory": "1Gi"}});
    support::patch_spec(&sandbox, json!({"resources": more_than_its_limit})).await?;
    let refused = sandbox
        .wait_condition(NAME, "Stalled", "True", "ApplyFailed")
        .await?;
    support::says(&refused, &["statefulsets/demo", "memory limit"])?;
    ensure!(
        support::pods(&sandbox).await?.len() == 3,
        "a template that is refused ended a replica"
    );
    back_to_one_before(&sandbox, ends).await?;
    ensure!(
        template(&sandbox).await? == before,
        "the template that was refused has been written"
    );
    Ok(())
}

/// The cluster is deleted before the license ends, and another party's finalizer holds that up: the
/// gate acts all the same. Once the finalizer is gone, so is everything else.
async fn license_ends_while_deleted(sandbox: Sandbox) -> Result<()> {
    let ends = bring_up_until(&sandbox, 140).await?;
    let before = template(&sandbox).await?;
    let finalizers = async |finalizers: Value| {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        let parameters = PatchParams::default();
        sandbox.clusters().patch(NAME, &parameters, &patch).await
    };
    finalizers(json!(["example.com/held"])).await?;
    let gated = async {
        let delete = ["delete", "bytebasecluster", NAME, "--wait=false"];
        sandbox.kubectl(&delete).await?;
        back_to_one_before(&sandbox, ends).await?;
        ensure!(
            template(&sandbox).await? == before,
            "the deletion changed the template"
        );
        let stalled = sandbox
            .wait_condition(NAME, "Stalled", "True", "BeingDeleted")
            .await?;
        support::says(&stalled, &["finalizers"])
    }
    .await;
    finalizers(Value::Null).await?;
    gated?;
    support::wait_pods(&sandbox, 0).await?;
    Ok(())
}

/// Three replicas with a license that ends in so many seconds. Returns when.
async fn bring_up_until(sandbox: &Sandbox, seconds: i64) -> Result<Timestamp> {
    let options = OperatorOptions {
        values: json!({"licenseGuardSeconds": GUARD}),
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(sandbox).await?;
    sandbox
        .apply_yaml(&support::licensed(sandbox, 3).to_string())
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let ends = support::shorten_license(sandbox, seconds).await?;
    ensure!(
        Timestamp::now() + SignedDuration::from_secs(CLOSES_BEFORE_END) < ends,
        "the gate has closed before anything was tried"
    );
    Ok(ends)
}

/// One replica is left before the license ends, and alerts see all the time when it does.
async fn back_to_one_before(sandbox: &Sandbox, ends: Timestamp) -> Result<()> {
    let expiry = "bytebase_cluster_license_expiry_timestamp_seconds";
    let ends_at = f64::from(u32::try_from(ends.as_second())?);
    let seen = || async {
        let served = support::metric(sandbox, expiry).await?;
        Ok((support::pods(sandbox).await?.len(), served))
    };
    let is_served = |(_, served): &(usize, Option<f64>)| {
        ensure!(
            *served == Some(ends_at),
            "{expiry} is {served:?}, and the license ends at {ends_at}"
        );
        Ok(())
    };
    wait::until_while("one replica", PATIENCE, seen, is_served, |(pods, _)| {
        *pods == 1
    })
    .await?;
    ensure!(
        Timestamp::now() < ends,
        "back to one replica only after the license ended"
    );
    Ok(())
}

async fn template(sandbox: &Sandbox) -> Result<String> {
    let columns = "jsonpath={.spec.template}";
    let set = ["get", "statefulset", NAME, "-o", columns];
    sandbox.kubectl(&set).await
}

/// Whichever is read first after a restart, the older cluster has the database.
async fn shared_after_restart(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    sandbox
        .apply_yaml(&support::second(&sandbox).to_string())
        .await?;
    let shared = || sandbox.wait_condition("second", "DatabaseReady", "False", "DatabaseShared");
    shared().await?;
    let before = support::lives(&sandbox).await?;
    for _ in 0..3 {
        support::restart_operator(&sandbox).await?;
        wait::throughout(
            "no pod of the second, and the first as it was",
            PAUSE,
            || async {
                let second = sandbox.pods("bytebase.com/cluster=second").await?.len();
                Ok((second, support::lives(&sandbox).await?))
            },
            |(second, lives)| *second == 0 && *lives == before,
        )
        .await?;
        sandbox
            .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
            .await?;
        shared().await?;
    }
    Ok(())
}

/// Pods on a silent node cannot end and send heartbeats as before: the gate goes past them.
async fn gate_beside_silent_node(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 3).await?;
    let cluster = &sandbox.harness().cluster;
    cluster.stop_kubelet().await?;
    let gone = async {
        sandbox
            .wait_condition(NAME, "ReplicasHealthy", "False", "NodeSilent")
            .await?;
        lose_license(&sandbox).await?;
        let size = || async {
            let columns = "jsonpath={.spec.replicas}";
            let set = ["get", "statefulset", NAME, "-o", columns];
            sandbox.kubectl(&set).await
        };
        wait::until("a size of one", PATIENCE, size, |size| size == "1").await
    }
    .await;
    cluster.start_kubelet().await?;
    gone?;
    support::wait_pods(&sandbox, 1).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "HeldBackByLicense")
        .await?;
    Ok(())
}

/// The replica with the lowest number does not serve: the gate keeps another one.
async fn gate_keeps_what_serves(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 3).await?;
    let pods = support::pods(&sandbox).await?;
    let broken = pods.first().context("there is no pod")?;
    // It takes no requests, and no probe finds it Ready.
    sandbox.strike(broken, "bytebase", Blow::Freeze).await?;
    sandbox
        .wait_status(NAME, "two that serve", |status| {
            status["readyReplicas"] == 2
        })
        .await?;
    lose_license(&sandbox).await?;
    let left = support::wait_pods(&sandbox, 1).await?;
    let kept = left.first().map(ResourceExt::name_any);
    ensure!(
        kept.as_deref() == Some("demo-1"),
        "{kept:?} is left, and demo-0 did not serve"
    );
    sandbox
        .wait_status(NAME, "one that serves", |status| {
            status["activeReplicas"] == 1 && status["readyReplicas"] == 1
        })
        .await?;
    // With a license again all three come back, and the one that served is never touched.
    let before = support::lives(&sandbox).await?;
    sandbox
        .create_license_secret(LICENSE_SECRET, &License::default())
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let now = support::lives(&sandbox).await?;
    ensure!(now.get("demo-1") == before.get("demo-1"), "{now:?}");
    Ok(())
}

/// An id that the kubelet has thrown away with the head of the log is still known.
async fn rotated_log(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 2);
    cluster["spec"]["env"] = json!([{"name": "BYTEBASE_STUB_LOG_MIB", "value": "12"}]);
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let ids = || async {
        let status = sandbox.status(NAME).await?;
        Ok(status["replicaStatuses"].clone())
    };
    let before = ids().await?;
    for pod in ["demo-0", "demo-1"] {
        let head = || async {
            let logs = ["logs", pod, "--limit-bytes", "32768"];
            sandbox.kubectl(&logs).await
        };
        wait::until("the log without its head", PATIENCE, head, |head| {
            !head.contains("replicaID=")
        })
        .await?;
    }
    let versions = support::versions(&sandbox).await?;
    support::restart_operator(&sandbox).await?;
    wait::throughout("the same ids", PAUSE, ids, |now| *now == before).await?;
    ensure!(
        support::versions(&sandbox).await? == versions,
        "the restart wrote something"
    );
    Ok(())
}

/// A call that failed is forgotten once it is no longer needed, and the login is not tried again
/// and again.
async fn license_by_hand(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    // Nothing that is called for the first license is refused for what follows.
    sandbox
        .wait_condition(NAME, "HALicensed", "True", "LicenseAllowsHa")
        .await?;
    support::admin_secret(&sandbox, "not-the-password-of-the-admin").await?;
    sandbox
        .create_license_secret(
            LICENSE_SECRET,
            &License::default().expires_in(SignedDuration::from_hours(24 * 800)),
        )
        .await?;
    take_license_away(&sandbox).await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "False", "LicenseInstallFailed")
        .await?;
    // A process that has just started knows of the refusal, waits as long as the one before, and
    // has nothing to write.
    let refused =
        || async { Ok::<_, anyhow::Error>(sandbox.status(NAME).await?["refusedCall"].clone()) };
    let before = refused().await?;
    ensure!(before["refusals"] == 1, "{before}");
    let versions = support::versions(&sandbox).await?;
    support::restart_operator(&sandbox).await?;
    wait::throughout("the same refusal", PAUSE, refused, |now| *now == before).await?;
    ensure!(
        support::versions(&sandbox).await? == versions,
        "the restart wrote something"
    );
    // An admin installs a license in the user interface that is better than the one in the Secret.
    support::install_license(
        &sandbox,
        &License::default().expires_in(SignedDuration::from_hours(24 * 900)),
    )
    .await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "True", "LicenseAllowsHa")
        .await?;
    wait::until("no refusal in status", PATIENCE, refused, Value::is_null).await?;
    let count = || async { Ok::<_, anyhow::Error>(sandbox.calls().await?.len()) };
    let before = count().await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let since = count().await? - before;
    // Its lease is renewed every two seconds, by a read and a write.
    ensure!(since < 30, "{since} calls in 15 quiet seconds");
    Ok(())
}

/// Calls to replicas that take them and never answer hold up no other cluster: more of them than
/// the operator reconciles at a time.
async fn swallowed_calls(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    let names = support::many(&sandbox, "silent", SWALLOWING).await?;
    let mut silent = Vec::new();
    for name in &names {
        let pods = sandbox
            .pods(&format!("bytebase.com/cluster={name}"))
            .await?;
        silent.push(pods.into_iter().next().context("there is no pod")?);
    }
    // All at once: for half a minute Kubernetes and the database still call them well, so each of
    // them is asked to sign the first admin up.
    let frozen = silent
        .iter()
        .map(|pod| sandbox.strike(pod, "bytebase", Blow::Freeze));
    try_join_all(frozen).await?;
    let (admin, clusters) = (first_admin(), sandbox.clusters());
    let parameters = PatchParams::default();
    let asked = names
        .iter()
        .map(|name| clusters.patch(name, &parameters, &admin));
    try_join_all(asked).await?;
    unanswered(&sandbox, &silent).await?;
    let took = support::edit_takes(&sandbox, NAME).await?;
    // A call without an answer ends after ten seconds.
    ensure!(took < Duration::from_secs(5), "the edit took {took:?}");
    println!(
        "    an edit beside {SWALLOWING} replicas that never answer after {:.1} s",
        took.as_secs_f32()
    );
    Ok(())
}

/// Has a cluster sign the first admin up.
fn first_admin() -> Patch<Value> {
    Patch::Merge(json!({"spec": {"admin": {
        "credentialsSecretRef": {"name": support::ADMIN_SECRET}, "createFirst": true,
    }}}))
}

/// Waits until the operator has connections open to as many of these replicas as it reconciles
/// clusters at a time. Each is a call: there was none before they stood still.
async fn unanswered(sandbox: &Sandbox, silent: &[Pod]) -> Result<()> {
    let operator = sandbox.operator_pods().await?;
    let operator = operator.first().context("there is no operator")?;
    let container = container_id(operator, super::operator::CONTAINER)?;
    let address = |pod: &Pod| Some(format!("{}:8080", pod.status.as_ref()?.pod_ip.as_ref()?));
    let addresses: BTreeSet<_> = silent.iter().filter_map(address).collect();
    let called = || async {
        let cluster = &sandbox.harness().cluster;
        let open = cluster.connections_of(&container).await?;
        let open = open.iter().map(ToString::to_string);
        let called: BTreeSet<_> = open.filter(|to| addresses.contains(to)).collect();
        Ok(called.len())
    };
    // After that the replicas count as stale, and are not called any more.
    let patience = Duration::from_secs(30);
    wait::until("calls without an answer", patience, called, |called| {
        *called >= AT_A_TIME
    })
    .await?;
    Ok(())
}

/// Deleted and made again under the same name, a cluster is not held back by itself; deleted, or
/// with a login that the operator cannot do, it leaves no session behind. Nor does a deleted one
/// leave a metric, or keep its database.
async fn made_again(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    // As a cloud's finalizer does, the first time: the Ingress ends long after its cluster.
    finalizers_of_ingress(&sandbox, json!(["example.com/held"])).await?;
    let again = async {
        support::make_again(&sandbox).await?;
        let seen = || sandbox.status(NAME);
        let is_not_stalled = |status: &Value| {
            let stalled = condition(&status["conditions"], "Stalled");
            // The last heartbeat of the replica of before counts for half a minute.
            let is_stalled = stalled.is_some_and(|stalled| {
                stalled["status"] == "True" && stalled["reason"] != "DatabaseInUse"
            });
            ensure!(!is_stalled, "the Ingress of before stalls it: {stalled:?}");
            Ok(())
        };
        let is_up = |status: &Value| status["readyReplicas"] == 1;
        wait::until_while("a Ready replica", PATIENCE, seen, is_not_stalled, is_up).await
    }
    .await;
    finalizers_of_ingress(&sandbox, Value::Null).await?;
    again?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    support::make_again(&sandbox).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let sessions = || async {
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND application_name = 'bytebase-operator'",
        )
        .bind(&sandbox.database().name)
        .fetch_one(sandbox.harness().postgres.admin())
        .await?;
        Ok(count)
    };
    let none = |count: &i64| *count == 0;
    let one = |count: &i64| *count == 1;
    wait::until("a session of the operator", PATIENCE, sessions, one).await?;
    // A login that the operator cannot do takes the place of the one it could: that is let go.
    let url = "postgres://iam@db.example.com:5432/bytebase?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1";
    support::patch_spec(
        &sandbox,
        json!({"database": {"urlSecretRef": null, "url": url}}),
    )
    .await?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "Unknown", "DatabaseCannotRead")
        .await?;
    wait::until("no session of the operator", PATIENCE, sessions, none).await?;

    let password = json!({"urlSecretRef": {"name": DATABASE_SECRET, "key": "PG_URL"}, "url": null});
    support::patch_spec(&sandbox, json!({"database": password})).await?;
    wait::until("a session again", PATIENCE, sessions, one).await?;
    let shown = || support::metric(&sandbox, "bytebase_cluster_replicas_wanted");
    ensure!(shown().await? == Some(1.0), "no metric of the cluster");
    sandbox
        .kubectl(&["delete", "bytebasecluster", NAME])
        .await?;
    wait::until("no session of the operator", PATIENCE, sessions, none).await?;
    wait::until("no metric of the cluster", PATIENCE, shown, Option::is_none).await?;
    // Its database is free for another one.
    sandbox
        .apply_yaml(&support::second(&sandbox).to_string())
        .await?;
    sandbox
        .wait_condition("second", "Ready", "True", "AllReplicasActive")
        .await?;
    ensure!(
        shown().await?.is_none(),
        "a metric of the deleted cluster is back"
    );
    Ok(())
}

async fn finalizers_of_ingress(sandbox: &Sandbox, finalizers: Value) -> Result<()> {
    let patch = json!({"metadata": {"finalizers": finalizers}}).to_string();
    let patch = ["patch", "ingress", NAME, "--type=merge", "-p", &patch];
    sandbox.kubectl(&patch).await?;
    Ok(())
}

/// A Service that can be reached from outside waits for the first admin, like the Ingress.
async fn service_before_admin(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 1);
    cluster["spec"]["service"] = json!({"type": "NodePort"});
    cluster["spec"]["ingress"] = json!({"enabled": false});
    // No one can sign up before Bytebase is there, so the database is closed at first.
    let postgres = &sandbox.harness().postgres;
    support::execute(&sandbox, "CREATE TABLE invoices (id int)").await?;
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Exposed", "False", "AwaitingFirstAdmin")
        .await?;
    let type_ = || async {
        let service = sandbox.api::<Service>().get(NAME).await?;
        Ok(service.spec.and_then(|spec| spec.type_))
    };
    let is = |wanted: &'static str| move |type_: &Option<String>| type_.as_deref() == Some(wanted);
    wait::until("the Service", PATIENCE, type_, is("ClusterIP")).await?;
    wait::throughout("no way in", PAUSE, type_, is("ClusterIP")).await?;
    support::patch_spec(&sandbox, json!({"service": {"type": "LoadBalancer"}})).await?;
    sandbox
        .wait_condition(NAME, "Exposed", "False", "AwaitingFirstAdmin")
        .await?;
    wait::throughout("no way in", PAUSE, type_, is("ClusterIP")).await?;
    let name = &sandbox.database().name;
    postgres.execute_in(name, "DROP TABLE invoices").await?;
    wait::until("a way in", PATIENCE, type_, is("LoadBalancer")).await?;
    let pool = sandbox.sql().await?;
    let admins: i64 = sqlx::query_scalar("SELECT count(*) FROM workspace")
        .fetch_one(&pool)
        .await?;
    pool.close().await;
    ensure!(admins == 1, "let in before the first sign-up");
    // Nothing makes a load balancer here.
    sandbox
        .wait_condition(NAME, "Exposed", "Unknown", "ServicePending")
        .await?;
    support::patch_spec(&sandbox, json!({"service": {"type": "NodePort"}})).await?;
    wait::until("another way in", PATIENCE, type_, is("NodePort")).await?;
    Ok(())
}

// === Words ===

/// The database is refused for this reason, and the message says so.
async fn refused(sandbox: &Sandbox, reason: &str, words: &str) -> Result<()> {
    support::wait_message(sandbox, ("DatabaseReady", "False", reason), words).await
}

async fn no_pods(sandbox: &Sandbox) -> Result<()> {
    wait::throughout("no pod", PAUSE, || support::pods(sandbox), Vec::is_empty).await
}

/// Stores a license without HA in the database. The operator installs a better one from the Secret
/// again, as soon as a replica is Ready.
async fn take_license_away(sandbox: &Sandbox) -> Result<()> {
    support::install_license(sandbox, &License::default().ha(false)).await
}

/// The same for good: the Secret holds nothing better.
async fn lose_license(sandbox: &Sandbox) -> Result<()> {
    sandbox
        .create_license_secret(LICENSE_SECRET, &License::default().ha(false))
        .await?;
    take_license_away(sandbox).await
}
