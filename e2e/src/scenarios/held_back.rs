//! What holds the end of a replica back: another session's lock, the operator's own budget.

use super::drains::{self, wait_ended};
use super::support::{self, Lives, NAME};
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::soak::act::replica_id;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use sqlx::{Connection as _, PgConnection, PgPool};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "schema-lock-held",
        "While any session holds the lock of the schema migration, neither a new template nor a smaller size ends a replica; both go on once it is free.",
        |sandbox| Box::pin(schema_lock_held(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(110),
    Scenario::new(
        "evictions-in-turn",
        "Two busy replicas that are evicted together, as kubectl drain does it, end one after the other, as the PodDisruptionBudget says, each once its task is done.",
        |sandbox| Box::pin(evictions_in_turn(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(100),
];

/// From one reading of a quiet cluster to the next, and the time that it takes.
const READING: Duration = Duration::from_secs(13);
/// Long enough for a pod to be ended by an operator that should not.
const PAUSE: Duration = Duration::from_secs(6);
/// Between two tries to evict a pod.
const RETRY: Duration = Duration::from_secs(1);

// === A schema migration ===

async fn schema_lock_held(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let mut session = PgConnection::connect(&sandbox.database().local_url()).await?;
    sqlx::query("SELECT pg_advisory_lock(1002)")
        .execute(&mut session)
        .await?;
    // What was read before would not show it.
    sleep(READING).await;
    let before = support::lives(&sandbox).await?;
    support::patch_spec(&sandbox, json!({"podLabels": {"rolled": "yes"}})).await?;
    waits_for_lock(&sandbox).await?;
    untouched(&sandbox, &before).await?;
    support::patch_spec(&sandbox, json!({"replicas": 1})).await?;
    waits_for_lock(&sandbox).await?;
    untouched(&sandbox, &before).await?;

    sqlx::query("SELECT pg_advisory_unlock(1002)")
        .execute(&mut session)
        .await?;
    session.close().await?;
    support::wait_pods(&sandbox, 1).await?;
    support::rolled_out(&sandbox).await?;
    let replaced = sandbox.pods("rolled=yes").await?.len();
    ensure!(replaced == 1, "the replica that is left was not replaced");
    Ok(())
}

/// Status says of the present spec that a schema migration is waited for.
async fn waits_for_lock(sandbox: &Sandbox) -> Result<()> {
    sandbox
        .wait_status(NAME, "the wait for the lock", |status| {
            status["rollout"]["waitingFor"] == "SchemaMigration"
        })
        .await?;
    let waits = sandbox
        .wait_condition(NAME, "RolloutComplete", "False", "RolloutWaiting")
        .await?;
    support::says(&waits, &["advisory lock 1002"])
}

async fn untouched(sandbox: &Sandbox, before: &Lives) -> Result<()> {
    let pods = || support::pods(sandbox);
    wait::throughout("every replica as it was", PAUSE, pods, |pods| {
        support::lives_of(pods) == *before && !pods.iter().any(support::is_ending)
    })
    .await
}

// === Evictions ===

async fn evictions_in_turn(sandbox: Sandbox) -> Result<()> {
    drains::ready(&sandbox).await?;
    let pool = sandbox.sql().await?;
    let pods = support::pods(&sandbox).await?;
    let [one, other] = pods.as_slice() else {
        bail!("there are {} pods", pods.len());
    };
    let mut tasks = BTreeMap::new();
    for pod in [one, other] {
        let task = begin_task(&sandbox, &pool, pod).await?;
        tasks.insert(pod.uid().context("no uid")?, task);
    }
    let (of_one, of_other, ()) = tokio::try_join!(
        evict(&sandbox, one),
        evict(&sandbox, other),
        one_after_the_other(&sandbox, &pool, &tasks)
    )?;
    ensure!(of_one + of_other > 0, "no eviction was refused");
    for pod in [one, other] {
        wait_ended(&sandbox, pod, Duration::from_secs(30)).await?;
    }
    pool.close().await;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// A task that the replica in this pod runs, and that lasts until it is said to be done.
async fn begin_task(sandbox: &Sandbox, pool: &PgPool, pod: &Pod) -> Result<i64> {
    let owner = replica_id(sandbox, pod).await?;
    let given = "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', $1, now()) RETURNING id";
    Ok(sqlx::query_scalar(given)
        .bind(owner)
        .fetch_one(pool)
        .await?)
}

async fn end_task(pool: &PgPool, task: i64) -> Result<()> {
    sqlx::query("UPDATE task_run SET status = 'DONE' WHERE id = $1")
        .bind(task)
        .execute(pool)
        .await?;
    Ok(())
}

/// Evicts a pod as `kubectl drain` does: tries again for as long as a budget refuses it. Returns
/// how often one did. Not by our own client, which would choose the moments of its tries itself.
async fn evict(sandbox: &Sandbox, pod: &Pod) -> Result<u32> {
    let (namespace, name) = (sandbox.namespace(), pod.name_any());
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
        "deleteOptions": {"preconditions": {"uid": pod.uid()}},
    });
    let (kubectl, eviction) = (&sandbox.harness().kubectl, eviction.to_string());
    let start = Instant::now();
    let mut refusals = 0;
    loop {
        let create = ["create", "--raw", &path, "-f", "-"];
        let Err(error) = kubectl.feed(&create, &eviction).await else {
            return Ok(refusals);
        };
        let is_refused = error.to_string().to_lowercase().contains("disruption");
        ensure!(
            is_refused && start.elapsed() < PATIENCE,
            "evicting {name}: {error:#}"
        );
        refusals += 1;
        sleep(RETRY).await;
    }
}

/// Whichever of the two pods is let go first, the other one stays until its successor serves.
/// `tasks`: by the uid of the pod.
async fn one_after_the_other(
    sandbox: &Sandbox,
    pool: &PgPool,
    tasks: &BTreeMap<String, i64>,
) -> Result<()> {
    let pods = || support::pods(sandbox);
    let seen = wait::until("a pod that ends", PATIENCE, pods, |pods| {
        pods.iter().any(support::is_ending)
    })
    .await?;
    let first = ending(&seen);
    let is_first = |pods: &Vec<Pod>| ending(pods) == first;
    wait::throughout("one pod that ends", PAUSE, pods, is_first).await?;
    let [first] = first.as_slice() else {
        bail!("{first:?} end at once");
    };
    end_task(pool, *tasks.get(first).context("another pod ends")?).await?;

    let second = tasks.iter().find(|(uid, _)| *uid != first);
    let (second, task) = second.context("there is no other task")?;
    let serves = |pods: &Vec<Pod>| {
        let mut pods = pods.iter();
        let serves = pods.any(|pod| support::is_ready(pod) && !support::is_ending(pod));
        ensure!(serves, "no replica carries the load");
        Ok(())
    };
    let is_second = |pods: &Vec<Pod>| ending(pods) == [second.as_str()];
    wait::until_while("the other to be let go", PATIENCE, pods, serves, is_second).await?;
    wait::throughout("its wait for its task", PAUSE, pods, is_second).await?;
    end_task(pool, *task).await
}

/// Uids of those that end.
fn ending(pods: &[Pod]) -> Vec<String> {
    let ending = pods.iter().filter(|pod| support::is_ending(pod));
    ending.filter_map(ResourceExt::uid).collect()
}
