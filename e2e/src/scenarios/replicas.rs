//! Replicas that come, go, die and freeze.

use super::support::{self, NAME};
use crate::cluster::faults::Blow;
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
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
        "Replicas leave one at a time, and a busy one whose pod has no drain hook not before its task is done, as status says.",
        |sandbox| Box::pin(scale_down_is_stepwise(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(60),
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
    let mut cluster = support::licensed(&sandbox, 3);
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(120);
    // Nothing in the pods waits for a task, so the operator does.
    let no_hook = json!({"preStop": {"exec": {"command": ["bytebase", "--help"]}}});
    let bytebase = json!({"name": "bytebase", "lifecycle": no_hook});
    cluster["spec"]["podTemplate"] = json!({"spec": {"containers": [bytebase]}});
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let task = running_on(&sandbox, "demo-2").await?;
    sandbox
        .kubectl(&["scale", "bytebasecluster", NAME, "--replicas=1"])
        .await?;
    waits_for_task_on(&sandbox, "demo-2").await?;
    set_status(&sandbox, task, "DONE").await?;
    let gone = || async {
        let pods = support::pods(&sandbox).await?;
        let ending = pods.iter().filter(|pod| support::is_ending(pod)).count();
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

/// A task that the replica in this pod runs, and that lasts until it is said to be done. Returns
/// its id once the operator has read it.
async fn running_on(sandbox: &Sandbox, pod: &str) -> Result<i64> {
    let status = sandbox.status(NAME).await?;
    let mut replicas = status["replicaStatuses"].as_array().into_iter().flatten();
    let replica = replicas.find(|replica| replica["pod"] == pod);
    let id = replica.and_then(|replica| replica["replicaID"].as_str());
    let pool = sandbox.sql().await?;
    let given: std::result::Result<i64, _> = sqlx::query_scalar(
        "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', $1, now()) RETURNING id",
    )
    .bind(id.with_context(|| format!("{pod} has no replica"))?)
    .fetch_one(&pool)
    .await;
    pool.close().await;
    let task = given?;
    let read = || support::metric(sandbox, "bytebase_cluster_tasks_running");
    wait::until("the task to be read", PATIENCE, read, |tasks| {
        *tasks == Some(1.0)
    })
    .await?;
    Ok(task)
}

async fn set_status(sandbox: &Sandbox, task: i64, status: &str) -> Result<()> {
    let pool = sandbox.sql().await?;
    let done = sqlx::query("UPDATE task_run SET status = $2, updated_at = now() WHERE id = $1")
        .bind(task)
        .bind(status)
        .execute(&pool)
        .await;
    pool.close().await;
    ensure!(done?.rows_affected() == 1, "the task is gone");
    Ok(())
}

/// The scale-down waits for the task of this replica, and status says for how long already.
async fn waits_for_task_on(sandbox: &Sandbox, pod: &str) -> Result<()> {
    let waits = |status: &Value| {
        let rollout = &status["rollout"];
        rollout["waitingFor"] == "IdleReplica" && rollout["pod"] == pod
    };
    let status = sandbox
        .wait_status(NAME, "the scale-down to wait", waits)
        .await?;
    let rollout = status["rollout"].clone();
    let message = rollout["message"].as_str().unwrap_or_default();
    ensure!(
        rollout["runningTasks"] == 1
            && rollout["since"].is_string()
            && rollout["deadline"].is_string()
            && message.contains("the scale-down is waiting for"),
        "{rollout:#}"
    );
    let before = support::lives(sandbox).await?;
    let seen = || async {
        let status = sandbox.status(NAME).await?;
        Ok((
            status["rollout"]["since"].clone(),
            support::lives(sandbox).await?,
        ))
    };
    wait::throughout("three replicas", support::PAUSE, seen, |(since, lives)| {
        *since == rollout["since"] && *lives == before && lives.len() == 3
    })
    .await
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
    // The row of the process that was killed is no foreign replica, as long as it looks alive.
    let seen = || async {
        let condition = support::condition_now(&sandbox, "ReplicasHealthy").await?;
        Ok((condition, support::active_rows(&sandbox).await?))
    };
    let is_its_own = |(condition, _): &(Value, i64)| {
        ensure!(condition["reason"] != "ForeignReplica", "{condition}");
        Ok(())
    };
    wait::until_while(
        "two active rows",
        PATIENCE,
        seen,
        is_its_own,
        |(_, rows)| *rows == 2,
    )
    .await?;
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
