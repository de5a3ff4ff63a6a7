//! Kubernetes itself fails: no replica ends for it, and what was asked for meanwhile is done
//! afterwards.

use super::support::{self, Lives, NAME};
use crate::cluster::Component;
use crate::cluster::faults::{self, Blow};
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use serde_json::json;
use std::time::{Duration, Instant};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "watches-cut",
        "What changes while the operator's connections are cut is found afterwards.",
        |sandbox| Box::pin(watches_cut(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "api-server-stopped",
        "A minute without the API server ends no replica, and the operator goes on afterwards.",
        |sandbox| Box::pin(api_server_stopped(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .exclusive(),
    Scenario::new(
        "etcd-stopped",
        "While etcd is frozen, and then stopped, no replica ends, and the operator goes on afterwards.",
        |sandbox| Box::pin(etcd_stopped(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .exclusive(),
    Scenario::new(
        "kubelet-stopped",
        "A silent node is reported, its replicas still count as active, and none is replaced.",
        |sandbox| Box::pin(kubelet_stopped(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .exclusive(),
];

/// The API server takes its time to come back, and the kubelet waits between its starts.
const BACK: Duration = Duration::from_mins(3);
/// How long the API server is away: longer than any lease.
const AWAY: Duration = Duration::from_mins(1);
/// By then the operator process that leads has reconciled every cluster.
const RECONCILED: Duration = Duration::from_secs(8);
/// How long etcd stands still: longer than the leader's lease, so that the lease must be taken
/// again.
const STILL: Duration = Duration::from_secs(20);

async fn api_server_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let cluster = &sandbox.harness().cluster;
    timed("the API server gone", cluster.park(Component::ApiServer)).await?;
    tokio::time::sleep(AWAY).await;
    // The replicas need no Kubernetes to send heartbeats.
    ensure!(
        support::active_rows(&sandbox).await? == 2,
        "the replicas stopped sending heartbeats"
    );
    cluster.unpark(Component::ApiServer).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    none_ended(&sandbox, &before).await?;
    timed("a change in all pods", still_works(&sandbox)).await
}

async fn etcd_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let cluster = &sandbox.harness().cluster;
    // First etcd answers no request, with every connection open; then it ends.
    faults::strike_component(cluster, Component::Etcd, Blow::Freeze).await?;
    tokio::time::sleep(STILL).await;
    faults::strike_component(cluster, Component::Etcd, Blow::Thaw).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    timed("etcd gone", cluster.park(Component::Etcd)).await?;
    tokio::time::sleep(STILL).await;
    cluster.unpark(Component::Etcd).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    none_ended(&sandbox, &before).await?;
    timed("a change in all pods", still_works(&sandbox)).await
}

/// The node reports no more; its pods run on. Status says what is known, and no replica is
/// replaced.
async fn kubelet_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    sandbox.harness().cluster.stop_kubelet().await?;
    // After 50 s Kubernetes calls the pods of a silent node not ready. They send heartbeats as
    // before.
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "False", "NodeSilent")
        .await
        .context("with the node gone")?;
    let reported = || sandbox.status(NAME);
    wait::until("both not Ready and active", PATIENCE, reported, |status| {
        status["readyReplicas"] == 0
            && status["activeReplicas"] == 2
            && status["phase"] == "Degraded"
    })
    .await?;
    // A change must wait: the rollout ends no replica while others are not Ready.
    support::patch_spec(&sandbox, json!({"podLabels": {"asked": "meanwhile"}})).await?;
    wait::throughout(
        "the same replicas",
        Duration::from_secs(10),
        || support::lives(&sandbox),
        |now| *now == before,
    )
    .await?;
    sandbox.harness().cluster.start_kubelet().await?;
    let changed = || sandbox.pods("asked=meanwhile");
    wait::until("the change in both pods", BACK, changed, |pods| {
        pods.len() == 2
    })
    .await?;
    all_is_well(&sandbox).await
}

/// Every connection of the operator to the API server is broken off, and none is made for some
/// seconds.
async fn watches_cut(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    let operator = sandbox.operator_pods().await?;
    let address = operator
        .iter()
        .find_map(|pod| pod.status.as_ref()?.pod_ip.clone())
        .context("the operator has no address")?;
    for (round, blow) in ["REJECT --reject-with tcp-reset", "DROP"]
        .iter()
        .enumerate()
    {
        let cluster = &sandbox.harness().cluster;
        let rule = format!("INPUT -s {address} -p tcp --dport 6443 -j {blow}");
        cluster.on_node(&format!("iptables -I {rule}")).await?;
        // What changes while no watch is open is found all the same: an object gone, another
        // edited, the spec changed.
        let gone = sandbox
            .kubectl(&["delete", "service/demo", "poddisruptionbudget/demo"])
            .await;
        let label = format!("cut-{round}");
        let wish = support::patch_spec(&sandbox, json!({"podLabels": {"wish": label}})).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        cluster.on_node(&format!("iptables -D {rule}")).await?;
        gone?;
        wish?;
        let selector = format!("wish={label}");
        let changed = || sandbox.pods(&selector);
        wait::until("the wish in the pod", PATIENCE, changed, |pods| {
            pods.len() == 1
        })
        .await?;
        all_is_well(&sandbox).await?;
        // Each watch is begun again at its own time.
        let objects = ["get", "service/demo", "poddisruptionbudget/demo"];
        let again = || sandbox.kubectl(&objects);
        wait::until("what was deleted, again", PATIENCE, again, |_| true).await?;
    }
    Ok(())
}

/// Says how long something took: recovery is what these scenarios are slow at.
async fn timed<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    let done = work.await?;
    println!("    {what} after {:.0} s", start.elapsed().as_secs_f64());
    Ok(done)
}

async fn wait_for_api(sandbox: &Sandbox) -> Result<()> {
    let ready = || async {
        sandbox
            .harness()
            .kubectl
            .run(&["get", "--raw", "/readyz"])
            .await
    };
    wait::until("the API server", BACK, ready, |answer| {
        answer.trim() == "ok"
    })
    .await?;
    // Not before: a kubelet that starts while the API server hangs brings nothing back for minutes.
    sandbox.harness().cluster.forget_backoff().await
}

/// Once the operator leads again and has reconciled, every replica is still the one it was.
async fn none_ended(sandbox: &Sandbox, before: &Lives) -> Result<()> {
    let back = Timestamp::now();
    let renewed = || async { Ok(support::lease(sandbox).await?.1) };
    let led = wait::until("a leader", BACK, renewed, |at| *at > back);
    timed("a leader", led).await?;
    wait::throughout(
        "the same replicas",
        RECONCILED,
        || support::lives(sandbox),
        |lives| lives == before,
    )
    .await
}

/// The status speaks of the present spec, and says that it has reached every replica and that all
/// of them are active.
async fn all_is_well(sandbox: &Sandbox) -> Result<()> {
    let settled = || async {
        let cluster = sandbox.clusters().get(NAME).await?;
        let status = &cluster.data["status"];
        let current = status["observedGeneration"].as_i64() == cluster.metadata.generation;
        Ok(current && status["phase"] == "Ready")
    };
    wait::until("a Ready cluster", BACK, settled, |well| *well).await?;
    Ok(())
}

/// A change reaches both replicas.
async fn still_works(sandbox: &Sandbox) -> Result<()> {
    support::patch_spec(sandbox, json!({"podLabels": {"asked": "afterwards"}})).await?;
    let changed = || sandbox.pods("asked=afterwards");
    wait::until("the change in both pods", BACK, changed, |pods| {
        pods.len() == 2
    })
    .await?;
    all_is_well(sandbox).await
}
