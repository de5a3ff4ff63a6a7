//! What it takes to end pods without losing their tasks.

use super::process::program;
use super::table::Table;
use super::{say, seconds};
use crate::cluster::audit::Call;
use crate::cluster::faults::container_id;
use crate::scenario::sandbox::Sandbox;
use crate::scenarios::drains::{running_task, wait_task};
use crate::scenarios::support::{self, NAME};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const INTERVAL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_mins(3);
/// Long enough for what has begun to end, and for a hook to read what it waits for.
const SETTLING: Duration = Duration::from_secs(8);
/// Tasks during which writes are counted.
const TASKS: usize = 5;
/// `rollout.preStopSeconds` of the cluster that is measured: the rules demand this pause of every
/// pod.
const PAUSE: Duration = Duration::from_secs(1);

/// The hook beside the operator in its image.
pub async fn hook(table: &mut Table) -> Result<()> {
    let hook = program().await?.with_file_name("bytebase-drain");
    let size = fs::metadata(&hook)
        .with_context(|| format!("{}", hook.display()))?
        .len();
    table.row(
        "drain hook",
        format!("{}.{} MB", size / 1_000_000, size % 1_000_000 / 100_000),
        "≤ 6 MB",
    );
    Ok(())
}

/// A quiet pod, a rollout of three idle replicas, and the end of a pod after its last task. The
/// cluster of three is Ready.
pub async fn measure(sandbox: &Sandbox, table: &mut Table) -> Result<()> {
    say("drains");
    quiet_pod(sandbox, table).await?;
    rollout(sandbox, table).await?;
    // A task needs a drain that outlasts it.
    support::patch_spec(sandbox, json!({"rollout": {"drainTimeoutSeconds": 120}})).await?;
    support::rolled_out(sandbox).await?;
    last_task(sandbox, table).await?;
    tasks_by_the_way(sandbox, table).await
}

/// What the operator writes because replicas work. There is no rollout, and nothing ends.
async fn tasks_by_the_way(sandbox: &Sandbox, table: &mut Table) -> Result<()> {
    let writes = async || {
        let calls = sandbox.calls().await?.into_iter();
        let lease = |call: &Call| call.resource == "leases";
        anyhow::Ok(calls.filter(|call| call.writes() && !lease(call)).count())
    };
    sleep(SETTLING).await;
    let before = writes().await?;
    for _ in 0..TASKS {
        let (id, _) = running_task(sandbox, 2).await?;
        wait_task(sandbox, id, "DONE", PATIENCE).await?;
    }
    sleep(SETTLING).await;
    table.row(
        &format!("writes of the operator for {TASKS} tasks"),
        (writes().await? - before).to_string(),
        "0",
    );
    Ok(())
}

/// The most memory that the drain hook of a pod has taken, in MB.
async fn hook_memory(sandbox: &Sandbox, pod: &Pod) -> Result<f64> {
    let id = container_id(pod, "bytebase")?;
    let cluster = &sandbox.harness().cluster;
    let start = Instant::now();
    loop {
        for process in cluster.processes_of(&id).await? {
            // It may have ended in between.
            let read = format!("cat /proc/{process}/status 2>/dev/null || true");
            let status = cluster.on_node(&read).await?;
            let field = |name: &str| {
                let mut lines = status.lines();
                lines.find_map(|line| line.strip_prefix(name)?.split_whitespace().next())
            };
            if field("Name:") == Some("bytebase-drain")
                && let Some(kilobytes) = field("VmHWM:")
            {
                return Ok(kilobytes.parse::<f64>()? / 1024.0);
            }
        }
        ensure!(start.elapsed() < PATIENCE, "no drain hook runs in the pod");
        sleep(INTERVAL).await;
    }
}

async fn quiet_pod(sandbox: &Sandbox, table: &mut Table) -> Result<()> {
    let mut most = 0;
    for pod in support::pods(sandbox).await? {
        let id = container_id(&pod, "bytebase")?;
        let cluster = &sandbox.harness().cluster;
        most = most.max(cluster.processes_of(&id).await?.len());
    }
    table.row(
        "processes in the container of a quiet pod",
        most.to_string(),
        "1",
    );
    Ok(())
}

/// Each pod is timed from its making to its being Ready, so that a slow machine is on both sides.
/// So is, for the second comparison, the time from the end of each, by its first mark, to the
/// making of its successor: what the kubelet and the controllers take, and `preStopSeconds` is in
/// it.
async fn rollout(sandbox: &Sandbox, table: &mut Table) -> Result<()> {
    let before: Vec<_> = support::pods(sandbox).await?.iter().map(Pod::uid).collect();
    support::patch_spec(sandbox, json!({"podLabels": {"rolled": "yes"}})).await?;
    let start = Instant::now();
    let (mut made, mut ready) = (BTreeMap::new(), BTreeMap::new());
    let (mut ending, mut ends) = (BTreeMap::new(), Duration::ZERO);
    while ready.len() < before.len() {
        ensure!(start.elapsed() < PATIENCE, "the rollout does not end");
        for pod in support::pods(sandbox).await? {
            if before.contains(&pod.uid()) {
                if support::is_ending(&pod) {
                    ending.entry(pod.name_any()).or_insert_with(Instant::now);
                }
                continue;
            }
            let began = *made.entry(pod.uid()).or_insert_with(|| {
                let ended = ending.get(&pod.name_any()).map(Instant::elapsed);
                ends += ended.unwrap_or_default();
                Instant::now()
            });
            if support::is_ready(&pod) {
                ready.entry(pod.uid()).or_insert_with(|| began.elapsed());
            }
        }
        sleep(INTERVAL).await;
    }
    let took = start.elapsed();
    let starts: Duration = ready.values().sum();
    let pauses = PAUSE * u32::try_from(ready.len())?;
    let least = starts + pauses;
    table.row("rollout of three idle replicas", seconds(took), "");
    table.row(
        "the same ÷ (its starts to Ready + preStopSeconds of each)",
        format!("{:.2}", took.as_secs_f64() / least.as_secs_f64()),
        "≤ 1.2",
    );
    let least = starts + ends;
    table.row(
        "the same ÷ (its starts to Ready + from the end of each to its successor's making)",
        format!("{:.2}", took.as_secs_f64() / least.as_secs_f64()),
        "–",
    );
    support::rolled_out(sandbox).await
}

async fn last_task(sandbox: &Sandbox, table: &mut Table) -> Result<()> {
    let (id, pod) = running_task(sandbox, 20).await?;
    let name = pod.name_any();
    sandbox
        .kubectl(&["delete", "pod", &name, "--wait=false"])
        .await?;
    // It has logged in and read several times by then.
    sleep(SETTLING).await;
    let memory = hook_memory(sandbox, &pod).await?;
    table.row("drain hook, memory", format!("{memory:.1} MB"), "≤ 10 MB");
    wait_task(sandbox, id, "DONE", PATIENCE).await?;
    // Of the database's clock, which is that of this machine: the wait above reads it too seldom.
    let pool = sandbox.sql().await?;
    let ended = "SELECT extract(epoch FROM clock_timestamp() - updated_at)::float8 FROM task_run WHERE id = $1";
    let since: f64 = sqlx::query_scalar(ended).bind(id).fetch_one(&pool).await?;
    pool.close().await;
    let seen = Instant::now();
    loop {
        let now = sandbox.api::<Pod>().get_opt(&name).await?;
        if now.is_none_or(|now| now.uid() != pod.uid()) {
            break;
        }
        ensure!(seen.elapsed() < PATIENCE, "{NAME}: the pod does not end");
        sleep(INTERVAL).await;
    }
    table.row(
        "last task done → its pod has ended",
        format!("{:.2} s", since + seen.elapsed().as_secs_f64()),
        "≤ 3 s",
    );
    support::rolled_out(sandbox).await
}
