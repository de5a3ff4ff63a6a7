//! Kubernetes itself fails: nobody's replica ends for it, and what was asked for meanwhile is done afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::support::{self, NAME};
use crate::faults::{self, Blow};
use crate::kind::Component;
use crate::sandbox::{PATIENCE, Sandbox};
use crate::wait;

/// The API server takes its time to come back, and the kubelet waits between its starts.
const BACK: Duration = Duration::from_mins(3);
/// How long the API server is away: longer than any lease.
const AWAY: Duration = Duration::from_mins(1);
/// How long etcd stands still: longer than the leader's lease, so that somebody must lead anew.
const STILL: Duration = Duration::from_secs(20);

pub async fn api_server_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let cluster = &sandbox.harness().cluster;
    timed("the API server gone", cluster.park(Component::ApiServer)).await?;
    tokio::time::sleep(AWAY).await;
    // The replicas need no Kubernetes to beat.
    ensure!(
        support::active_rows(&sandbox).await? == 2,
        "the replicas stopped beating"
    );
    cluster.unpark(Component::ApiServer).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    timed("a Ready cluster", all_is_well(&sandbox)).await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "a replica was restarted or replaced"
    );
    timed(
        "a change rolled",
        still_works(&sandbox, "after-the-api-server"),
    )
    .await
}

pub async fn etcd_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let cluster = &sandbox.harness().cluster;
    // First it answers nobody, with every connection open; then it ends.
    faults::strike_component(cluster, Component::Etcd, Blow::Freeze).await?;
    tokio::time::sleep(STILL).await;
    faults::strike_component(cluster, Component::Etcd, Blow::Thaw).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    timed("etcd gone", cluster.park(Component::Etcd)).await?;
    tokio::time::sleep(STILL).await;
    cluster.unpark(Component::Etcd).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    timed("a Ready cluster", all_is_well(&sandbox)).await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "a replica was restarted or replaced"
    );
    timed("a change rolled", still_works(&sandbox, "after-etcd")).await
}

/// The node says no more; its pods run on. Status says what is known, and nobody is replaced.
pub async fn kubelet_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    sandbox.harness().cluster.stop_kubelet().await?;
    // After 50 s Kubernetes calls the pods of a silent node not ready. They beat as ever.
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "False", "NodeSilent")
        .await
        .context("with the node gone")?;
    let told = || sandbox.status(NAME);
    wait::until("both not Ready and beating", PATIENCE, told, |status| {
        status["readyReplicas"] == 0
            && status["activeReplicas"] == 2
            && status["phase"] == "Degraded"
    })
    .await?;
    // A change must wait: the roll takes nobody away while others are not Ready.
    support::patch_spec(&sandbox, json!({"podLabels": {"asked": "meanwhile"}})).await?;
    wait::throughout(
        "nobody taken away",
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

/// Every connection of the operator to the API server is broken off, and none is made for some seconds.
pub async fn watches_cut(sandbox: Sandbox) -> Result<()> {
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
        // What changes while nobody looks is found all the same: an object gone, another edited, a new wish.
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
        sandbox
            .kubectl(&["get", "service/demo", "poddisruptionbudget/demo"])
            .await?;
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

/// Ready, rolled, and told about the present generation.
async fn all_is_well(sandbox: &Sandbox) -> Result<()> {
    let settled = || async {
        let rolled = support::condition_now(sandbox, "RolloutComplete").await?;
        let ready = support::condition_now(sandbox, "Ready").await?;
        Ok(rolled["status"] == "True" && ready["status"] == "True")
    };
    wait::until("a Ready cluster", BACK, settled, |well| *well).await?;
    Ok(())
}

async fn still_works(sandbox: &Sandbox, label: &str) -> Result<()> {
    support::patch_spec(sandbox, json!({"podLabels": {"asked": label}})).await?;
    let selector = format!("asked={label}");
    let changed = || sandbox.pods(&selector);
    wait::until("the change in both pods", BACK, changed, |pods| {
        pods.len() == 2
    })
    .await?;
    all_is_well(sandbox).await
}
