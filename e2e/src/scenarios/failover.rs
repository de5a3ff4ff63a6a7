//! The primary behind `PG_URL` is lost in the middle of a rollout, and its standby takes its place
//! under the same name.

use super::database_server::lead;
use super::drains::wait_ended;
use super::support::{self, NAME};
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox, condition};
use crate::scenario::{Scenario, stand_in};
use crate::soak::Subject;
use crate::soak::disturbances::Shared;
use crate::soak::observer::Observer;
use crate::soak::plan::Model;
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "database-fails-over",
    "The primary is killed in the middle of a rollout of busy replicas, its standby is promoted and gets its name: no task is lost, status blames no one, and the rollout ends on the new primary.",
    |sandbox| Box::pin(fails_over(sandbox)),
)
.stand_in_only(stand_in::LICENSE)
.takes(150)];

/// The name in PG_URL.
const SERVER: &str = "failing";
/// How long no server answers under it, at least.
const OUTAGE: Duration = Duration::from_secs(15);
/// Seconds that a task takes: longer than from its beginning to the end of the outage.
const LONG: i32 = 50;
/// Longest until such a task is over.
const OVER: Duration = Duration::from_secs(90);
/// Longest that status may call the database refused.
const REFUSED: Duration = Duration::from_mins(2);

/// A primary that no other scenario uses, and the standby that follows it. Both began as copies of
/// the server that all share, which is left alone.
struct Servers {
    primary: u16,
    standby: u16,
}

impl Servers {
    async fn start(sandbox: &Sandbox) -> Result<Self> {
        let (postgres, owner) = (&sandbox.harness().postgres, sandbox.namespace());
        let primary = postgres.start_standby(owner).await?;
        postgres.promote(primary).await?;
        let standby = postgres.start_standby_of(primary, owner).await?;
        Ok(Self { primary, standby })
    }
}

/// A few sessions with the copy of the scenario's database that the server at this port has.
async fn pool(sandbox: &Sandbox, port: u16) -> Result<PgPool> {
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .acquire_timeout(Duration::from_secs(3))
        .connect(&sandbox.database().local_url_at(port))
        .await?;
    Ok(pool)
}

async fn fails_over(sandbox: Sandbox) -> Result<()> {
    let options = OperatorOptions::default();
    let (servers, ()) =
        tokio::try_join!(Servers::start(&sandbox), sandbox.install_operator(&options))?;
    support::secrets(&sandbox).await?;
    lead(SERVER, &sandbox, servers.primary).await?;
    let name = format!("{SERVER}.{}.svc:5432", sandbox.namespace());
    let url = sandbox.database().url_at(&name, "sslmode=disable");
    support::set_url(&sandbox, &url).await?;
    let mut cluster = support::licensed(&sandbox, 3);
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(120);
    sandbox.apply_yaml(&cluster.to_string()).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;

    let pools = Pools {
        observed: pool(&sandbox, servers.primary).await?,
        standby: pool(&sandbox, servers.standby).await?,
    };
    let (database, sessions) = (sandbox.database(), pools.observed.clone());
    let subject = Subject::new(&sandbox, NAME.to_owned(), database, sessions).await?;
    let noted = Shared::default();
    noted.lock().models = vec![Model::default()];
    let observer = Observer::start(sandbox.api(), vec![subject], noted.clone());
    tokio::select! {
        done = in_a_rollout(&sandbox, &servers, &pools, &noted) => done?,
        blamed = blames_no_one(&sandbox) => blamed?,
    }
    let books = observer.end()?;
    ensure!(books.clean(), "the books are not clean:\n{books}");
    pools.observed.close().await;
    pools.standby.close().await;
    Ok(())
}

struct Pools {
    /// Leads to the primary, whichever it is; the observer reads there as well.
    observed: PgPool,
    /// Leads to the standby, before and after it is promoted.
    standby: PgPool,
}

/// One pod drains when the primary is lost, and no other ends before it is replaced.
async fn in_a_rollout(
    sandbox: &Sandbox,
    servers: &Servers,
    pools: &Pools,
    noted: &Shared,
) -> Result<()> {
    let (task, pod) = all_run(sandbox, pools).await?;
    support::patch_spec(sandbox, json!({"podLabels": {"rolled": "yes"}})).await?;
    sandbox
        .wait_status(NAME, "the rollout to wait for a replica", |status| {
            status["rollout"]["waitingFor"] == "IdleReplica"
        })
        .await?;
    let name = pod.name_any();
    noted.lock().deleted.extend(pod.uid());
    sandbox
        .kubectl(&["delete", "pod", &name, "--wait=false"])
        .await?;
    let arguments = ["logs", &name, "--container", "bytebase"];
    let log = || sandbox.kubectl(&arguments);
    wait::until("the drain of the pod", PATIENCE, log, |log| {
        log.contains("drain: waiting")
    })
    .await?;

    noted.lock().struck = true;
    fail_over(sandbox, servers, pools).await?;
    let now = status_of(&pools.standby, task).await?;
    ensure!(
        now == "RUNNING",
        "the failover took longer than the task, which is {now}"
    );
    sandbox
        .wait_condition(NAME, "DatabaseReady", "True", "")
        .await?;
    noted.lock().struck = false;
    done_before_its_end(sandbox, &pools.standby, task, &pod).await?;
    support::rolled_out(sandbox).await?;
    let replaced = sandbox.pods("rolled=yes").await?.len();
    ensure!(replaced == 3, "{replaced} of 3 replicas were replaced");
    all_done(&pools.standby).await?;
    all_on(sandbox, &pools.standby).await
}

/// Gives tasks until all replicas run one that the standby knows of, and none waits in the queue:
/// what a server is lost in the middle of would be another matter. Returns the task that began last
/// and the pod of its replica.
async fn all_run(sandbox: &Sandbox, pools: &Pools) -> Result<(i64, Pod)> {
    let primary = &pools.observed;
    let owners = "SELECT count(DISTINCT replica_id) FROM task_run WHERE status = 'RUNNING'";
    let busy = || async {
        give(primary, LONG).await?;
        Ok(count(primary, owners).await?)
    };
    wait::until("every replica to run a task", PATIENCE, busy, |owners| {
        *owners == 3
    })
    .await?;
    let begun = "SELECT count(*) FROM task_run WHERE status = 'RUNNING' AND started_at IS NOT NULL";
    let all = "SELECT count(*) FROM task_run";
    let counts = || async {
        let (all, begun) = (
            count(primary, all).await?,
            count(&pools.standby, begun).await?,
        );
        Ok((all, begun))
    };
    wait::until(
        "the standby to know of all tasks",
        PATIENCE,
        counts,
        |(all, begun)| all == begun,
    )
    .await?;
    let last = "SELECT id, replica_id FROM task_run ORDER BY started_at DESC LIMIT 1";
    let (task, owner): (i64, String) = sqlx::query_as(last).fetch_one(primary).await?;
    let status = sandbox.status(NAME).await?;
    let mut replicas = status["replicaStatuses"].as_array().into_iter().flatten();
    let replica = replicas.find(|replica| replica["replicaID"] == *owner);
    let name = replica.and_then(|replica| replica["pod"].as_str());
    let name = name.context("no pod has the id of the task's owner")?;
    Ok((task, sandbox.api::<Pod>().get(name).await?))
}

/// The primary is killed, and some time later the standby is promoted and gets the name.
async fn fail_over(sandbox: &Sandbox, servers: &Servers, pools: &Pools) -> Result<()> {
    let postgres = &sandbox.harness().postgres;
    let down = Instant::now();
    postgres.kill_companion(sandbox.namespace(), servers.primary)?;
    sandbox
        .wait_condition(NAME, "DatabaseReady", "Unknown", "")
        .await?;
    sleep(OUTAGE.saturating_sub(down.elapsed())).await;
    postgres.promote(servers.standby).await?;
    let url = sandbox.database().local_url_at(servers.standby);
    pools.observed.set_connect_options(url.parse()?);
    lead(SERVER, sandbox, servers.standby).await?;
    println!(
        "    no server answered for {:.1} s",
        down.elapsed().as_secs_f32()
    );
    // Work that comes after it is done as well.
    for _ in 0..3 {
        give(&pools.standby, 1).await?;
    }
    Ok(())
}

/// Ends in an error alone: where status says that the user must do something, or for longer than a
/// failover takes that the database is not the right one.
async fn blames_no_one(sandbox: &Sandbox) -> Result<()> {
    let mut refused_since = None;
    loop {
        // A request that fails has seen nothing.
        let status = sandbox.status(NAME).await.unwrap_or_default();
        let is = |kind: &str, wanted: &str| {
            let found = condition(&status["conditions"], kind);
            found.is_some_and(|found| found["status"] == wanted)
        };
        ensure!(!is("Stalled", "True"), "it counts as stalled: {status:#}");
        if is("DatabaseReady", "False") {
            let since = *refused_since.get_or_insert_with(Instant::now);
            ensure!(since.elapsed() < REFUSED, "still refused: {status:#}");
        } else {
            refused_since = None;
        }
        sleep(Duration::from_millis(250)).await;
    }
}

/// The pod is there until its task is done, and soon after that it is not.
async fn done_before_its_end(sandbox: &Sandbox, pool: &PgPool, task: i64, pod: &Pod) -> Result<()> {
    let name = pod.name_any();
    let seen = || async {
        // First the pod: the task may be done between the two.
        let now = sandbox.api::<Pod>().get_opt(&name).await?;
        let is_there = now.is_some_and(|now| now.uid() == pod.uid());
        Ok((is_there, status_of(pool, task).await?))
    };
    let waits = |(is_there, task): &(bool, String)| {
        ensure!(
            *is_there || task == "DONE",
            "{name} ended while its task was {task}"
        );
        Ok(())
    };
    let is_done = |(_, task): &(bool, String)| task == "DONE";
    wait::until_while("the task to be done", OVER, seen, waits, is_done).await?;
    wait_ended(sandbox, pod, Duration::from_secs(40)).await
}

/// Every task is done. One that was lost is FAILED and stays so.
async fn all_done(pool: &PgPool) -> Result<()> {
    let left = "SELECT count(*) FROM task_run WHERE status <> 'DONE'";
    let left = || async { Ok(count(pool, left).await?) };
    wait::until("every task to be done", OVER, left, |left| *left == 0).await?;
    Ok(())
}

/// The replicas that status names send their heartbeats to this server, and the operator reads it.
async fn all_on(sandbox: &Sandbox, pool: &PgPool) -> Result<()> {
    let status = sandbox.status(NAME).await?;
    let replicas = status["replicaStatuses"].as_array().into_iter().flatten();
    let ids = replicas.filter_map(|replica| replica["replicaID"].as_str());
    let ids: Vec<_> = ids.map(str::to_owned).collect();
    let active = "SELECT count(*) FROM replica_heartbeat WHERE last_heartbeat > now() - interval '30 seconds' AND replica_id = ANY($1)";
    let active: i64 = sqlx::query_scalar(active)
        .bind(&ids)
        .fetch_one(pool)
        .await?;
    ensure!(
        ids.len() == 3 && active == 3,
        "of {ids:?} there are {active} active on the new primary"
    );
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'bytebase-operator'";
    let sessions = count(pool, sessions).await?;
    ensure!(sessions > 0, "the operator has no session there");
    Ok(())
}

/// Gives a task that any replica may claim, whoever holds the queue.
async fn give(pool: &PgPool, seconds: i32) -> sqlx::Result<()> {
    let give = "INSERT INTO task_run (status, payload) VALUES ('AVAILABLE', jsonb_build_object('seconds', $1))";
    sqlx::query(give).bind(seconds).execute(pool).await?;
    Ok(())
}

async fn count(pool: &PgPool, query: &'static str) -> sqlx::Result<i64> {
    sqlx::query_scalar(query).fetch_one(pool).await
}

async fn status_of(pool: &PgPool, task: i64) -> sqlx::Result<String> {
    let status = "SELECT status FROM task_run WHERE id = $1";
    sqlx::query_scalar(status).bind(task).fetch_one(pool).await
}
