//! Replicas that come, go, die and freeze.

use super::support::{self, NAME};
use crate::cluster::faults::Blow;
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::{Duration, Instant};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "scale",
        "The scale subresource takes a cluster up, down, to zero and back.",
        |sandbox| Box::pin(scale(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "scale-down-stepwise",
        "Replicas leave one at a time.",
        |sandbox| Box::pin(scale_down_is_stepwise(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "replica-killed",
        "A replica killed with -9 comes back under a new id, and its old row is no foreign replica.",
        |sandbox| Box::pin(killed(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "replica-frozen",
        "A frozen replica is Stale in status, and is not replaced.",
        |sandbox| Box::pin(frozen(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new("replica-deleted", "A deleted pod comes back.", |sandbox| {
        Box::pin(deleted_pod(sandbox))
    })
    .stand_in_only(stand_in::LICENSE),
];

async fn scale(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    for replicas in [3, 2, 0, 2] {
        // By the scale subresource, as users and autoscalers do.
        sandbox
            .kubectl(&[
                "scale",
                "bytebasecluster",
                NAME,
                &format!("--replicas={replicas}"),
            ])
            .await?;
        support::wait_pods(&sandbox, replicas).await?;
        if replicas == 0 {
            sandbox
                .wait_condition(NAME, "Ready", "True", "ScaledToZero")
                .await?;
            sandbox
                .wait_status(NAME, "phase Stopped", |status| status["phase"] == "Stopped")
                .await?;
        } else {
            sandbox
                .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
                .await?;
        }
    }
    let selector = sandbox
        .kubectl(&[
            "get",
            "bytebasecluster",
            NAME,
            "-o",
            "jsonpath={.status.selector}",
        ])
        .await?;
    ensure!(
        sandbox.pods(selector.trim()).await?.len() == 2,
        "the selector of the scale subresource does not select the pods"
    );
    Ok(())
}

async fn scale_down_is_stepwise(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 3).await?;
    sandbox
        .kubectl(&["scale", "bytebasecluster", NAME, "--replicas=1"])
        .await?;
    let gone = || async {
        let pods = support::pods(&sandbox).await?;
        let ending = pods
            .iter()
            .filter(|pod| pod.metadata.deletion_timestamp.is_some())
            .count();
        ensure!(ending <= 1, "{ending} replicas end at once");
        Ok(pods.len())
    };
    let start = Instant::now();
    while gone().await? > 1 {
        ensure!(start.elapsed() < PATIENCE, "still more than one replica");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// SIGKILL leaves the row of the old process behind; the new process has a new id.
async fn killed(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = sandbox.status(NAME).await?;
    let pods = support::pods(&sandbox).await?;
    let victim = pods.first().context("no pod")?;
    sandbox.strike(victim, "bytebase", Blow::Kill).await?;
    let id = |status: &Value| {
        status["replicaStatuses"][0]["replicaID"]
            .as_str()
            .map(str::to_owned)
    };
    let old = id(&before);
    sandbox
        .wait_status(NAME, "a new replica id", |status| {
            id(status).is_some()
                && id(status) != old
                && status["replicaStatuses"][0]["heartbeat"] == "Fresh"
        })
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    // The row of the process that was killed is no foreign replica.
    let condition = support::condition_now(&sandbox, "ReplicasHealthy").await?;
    ensure!(condition["reason"] != "ForeignReplica", "{condition}");
    Ok(())
}

/// `/healthz` is green in the kernel's accept queue for a while; the heartbeat shows it.
async fn frozen(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let pods = support::pods(&sandbox).await?;
    let victim = pods.first().context("no pod")?;
    sandbox.strike(victim, "bytebase", Blow::Freeze).await?;
    let stale = sandbox
        .wait_status(NAME, "a stale heartbeat", |status| {
            status["replicaStatuses"][0]["heartbeat"] == "Stale"
        })
        .await;
    sandbox.strike(victim, "bytebase", Blow::Thaw).await?;
    let status = stale?;
    ensure!(
        status["activeReplicas"] == 1,
        "{} active",
        status["activeReplicas"]
    );
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let after = support::lives(&sandbox).await?;
    ensure!(
        before
            .iter()
            .all(|(name, life)| after.get(name).is_some_and(|now| now.0 == life.0)),
        "a frozen replica was replaced"
    );
    Ok(())
}

async fn deleted_pod(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    sandbox
        .kubectl(&["delete", "pod", "demo-1", "--wait=false"])
        .await?;
    wait::until(
        "a new demo-1",
        PATIENCE,
        || support::lives(&sandbox),
        |lives| {
            lives
                .get("demo-1")
                .is_some_and(|life| before.get("demo-1").is_some_and(|old| old.0 != life.0))
        },
    )
    .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}
