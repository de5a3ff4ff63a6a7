//! One cluster with real pods: how long a person waits.

use super::process::program;
use super::table::Table;
use super::{say, seconds};
use crate::cluster::faults::Blow;
use crate::scenario::sandbox::{OperatorOptions, Sandbox};
use crate::scenarios::support::{self, NAME};
use crate::session::harness::Harness;
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two readings of a status.
const INTERVAL: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_mins(3);
/// Bytebase counts a replica as active while its last heartbeat is at most this old.
const ACTIVE: Duration = Duration::from_secs(30);

/// The operator's binary. The image holds the drain hook's beside it, and nothing else.
pub async fn image(_: &Harness, table: &mut Table) -> Result<()> {
    let size = fs::metadata(program().await?)?.len();
    table.row(
        "operator in the image",
        format!("{}.{} MB", size / 1_000_000, size % 1_000_000 / 100_000),
        "≤ 20 MB",
    );
    Ok(())
}

/// Installation, a cluster of three, and a replica that dies.
pub async fn cluster(sandbox: &Sandbox, table: &mut Table) -> Result<()> {
    say("one cluster with pods");
    support::secrets(sandbox).await?;
    let start = Instant::now();
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    table.row(
        "chart install → operator Ready",
        seconds(start.elapsed()),
        "≤ 10 s",
    );
    let start = Instant::now();
    sandbox
        .apply_yaml(&support::licensed(sandbox, 3).to_string())
        .await?;
    until(sandbox, |status| status["phase"] == "Ready").await?;
    table.row(
        "apply → three active replicas",
        seconds(start.elapsed()),
        "≤ 15 s",
    );
    dead_replica(sandbox, table).await
}

/// A frozen process sends no more heartbeats and stays Ready: nothing but the database shows it.
async fn dead_replica(sandbox: &Sandbox, table: &mut Table) -> Result<()> {
    let pods = support::pods(sandbox).await?;
    let victim = pods.last().context("no pods")?;
    let name = victim.metadata.name.clone().unwrap_or_default();
    sandbox.strike(victim, "bytebase", Blow::Freeze).await?;
    let of_victim = |status: &Value| {
        let list = status["replicaStatuses"].as_array();
        list.and_then(|list| {
            list.iter()
                .find(|replica| replica["pod"] == name.as_str())
                .cloned()
        })
        .unwrap_or_default()
    };
    let id = of_victim(&sandbox.status(NAME).await?)["replicaID"]
        .as_str()
        .context("no replica id")?
        .to_owned();
    until(sandbox, |status| of_victim(status)["heartbeat"] == "Stale").await?;
    let pool = sandbox.sql().await?;
    let age: f64 = sqlx::query_scalar(
        "SELECT extract(epoch FROM clock_timestamp() - last_heartbeat)::float8 FROM replica_heartbeat WHERE replica_id = $1",
    )
    .bind(&id)
    .fetch_one(&pool)
    .await?;
    pool.close().await;
    table.row(
        "replica dead → status says so, after its window of 30 s",
        format!("{:.2} s", age - ACTIVE.as_secs_f64()),
        "≤ 1 s",
    );
    sandbox.strike(victim, "bytebase", Blow::Thaw).await?;
    until(sandbox, |status| status["phase"] == "Ready").await
}

async fn until(sandbox: &Sandbox, wanted: impl Fn(&Value) -> bool) -> Result<()> {
    let start = Instant::now();
    while !wanted(&sandbox.status(NAME).await?) {
        ensure!(
            start.elapsed() < PATIENCE,
            "the status did not become what was waited for"
        );
        sleep(INTERVAL).await;
    }
    Ok(())
}
