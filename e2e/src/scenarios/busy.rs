//! A cluster under a steady load of tasks, while everything is done to it that ends pods on
//! purpose. No task may be lost, and the observer of the soak keeps its books.

use super::drains::{running_task, scale_operator, task, wait_ended, wait_task};
use super::support::{self, NAME};
use crate::cluster::faults::Blow;
use crate::postgres::Database;
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Lane, Scenario, stand_in};
use crate::soak::Subject;
use crate::soak::act::replica_id;
use crate::soak::disturbances::Shared;
use crate::soak::load::{self, Load};
use crate::soak::observer::Observer;
use crate::soak::plan::Model;
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection, PgPool};
use std::collections::BTreeSet;
use std::slice;
use std::time::{Duration, Instant};

/// For several rollouts of busy replicas.
const LONG: Duration = Duration::from_mins(25);

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "busy-through-rollout",
        "Under a steady load no task is lost when version and password change, while the operator is killed at each step of the rollout that is met.",
        |sandbox| Box::pin(through_rollout(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .limit(LONG)
    .takes(330),
    Scenario::new(
        "busy-through-sizes",
        "Under a steady load no task is lost when the size goes from three to one and back, while the operator is killed again and again.",
        |sandbox| Box::pin(through_sizes(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .limit(LONG)
    .takes(330),
    Scenario::new(
        "busy-all-deleted",
        "Under a steady load, with no operator, all pods are deleted at once, one of them after its container has started again, and no task is lost.",
        |sandbox| Box::pin(all_deleted(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .limit(LONG)
    .takes(250),
    Scenario::new(
        "drain-in-outage",
        "Under a steady load a drain outlives an outage of the database of 40 seconds, and no task is lost.",
        |sandbox| Box::pin(in_outage(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .limit(LONG)
    .takes(220),
    Scenario::new(
        "drain-hook-killed",
        "Under a steady load a drain hook that is killed while it holds the queue leaves no hold behind, and costs only the tasks of its own replica.",
        |sandbox| Box::pin(hook_killed(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .limit(LONG)
    .takes(240),
    Scenario::new(
        "license-ends-in-rollout",
        "Under a steady load a license that ends in the middle of a rollout ends all replicas but one, and no task is lost.",
        |sandbox| Box::pin(license_ends_in_rollout(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .limit(LONG)
    .takes(330),
    Scenario::new(
        "license-cuts-drains",
        "Where the license has ended, a replica has five minutes for its tasks: then its drain hook lets it end, and a warning event says what is lost.",
        |sandbox| Box::pin(license_cuts_drains(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .limit(LONG)
    .takes(360),
    Scenario::new(
        "stale-replica",
        "A replica that sends no heartbeat is replaced after the time of the user's choice, and no other is.",
        |sandbox| Box::pin(stale_replica(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(150),
    Scenario::new(
        "node-drain",
        "Under a steady load kubectl drain waits for the tasks of two replicas on the node, which it ends at once, and goes through.",
        |sandbox| Box::pin(node_drained(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .limit(LONG)
    .takes(160)
    .lane(Lane::Alone),
];

/// Tasks a minute.
const RATE: u32 = 60;
/// Longest until three busy replicas are replaced: each may wait a minute for an idle one and then
/// for its tasks, with the queue held.
const ROLLOUT: Duration = Duration::from_mins(12);

/// Replicas whose drains may take longer than their tasks.
fn busy_cluster(sandbox: &Sandbox, replicas: i32) -> Value {
    let mut cluster = support::licensed(sandbox, replicas);
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(load::DRAIN_TIMEOUT);
    cluster["spec"]["rollout"]["holdLimitSeconds"] = json!(load::HOLD_LIMIT);
    cluster
}

/// Starts the cluster and waits until all replicas are Ready.
async fn start(sandbox: &Sandbox, cluster: &Value) -> Result<()> {
    support::start(sandbox, cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn three(sandbox: &Sandbox) -> Result<()> {
    start(sandbox, &busy_cluster(sandbox, 3)).await
}

/// The work of a cluster, and the books that are kept of it meanwhile.
struct Work {
    subject: Subject,
    load: Load,
    observer: Observer,
    /// What we do to it.
    noted: Shared,
}

impl Work {
    /// Gives tasks from now on.
    async fn begin(sandbox: &Sandbox, replicas: i32, seed: u64) -> Result<Self> {
        let (name, pool) = (NAME.to_owned(), sandbox.sql().await?);
        let subject = Subject::new(sandbox, name, sandbox.database(), pool).await?;
        let noted = Shared::default();
        noted.lock().models = vec![Model {
            replicas,
            ..Model::default()
        }];
        let subjects = vec![subject.clone()];
        Ok(Self {
            observer: Observer::start(sandbox.api(), subjects.clone(), noted.clone()),
            load: Load::start(subjects, RATE, seed),
            subject,
            noted,
        })
    }

    /// Notes that these pods are about to end by our hand.
    fn note_deleted(&self, pods: &[Pod]) {
        let uids = pods.iter().filter_map(ResourceExt::uid);
        self.noted.lock().deleted.extend(uids);
    }

    /// Ends the load and waits until every task is done, but those of replicas that we killed. A
    /// task that was lost is FAILED and stays so. Then nothing may be in the books.
    async fn end(self) -> Result<()> {
        let Subject { pool, target, .. } = &self.subject;
        load::all_took_some(&self.load.end().await?)?;
        let killed = Vec::from_iter(self.noted.lock().losing.clone());
        let left = "SELECT status, count(*) FROM task_run
            WHERE status <> 'DONE' AND NOT coalesce(replica_id = ANY($1), false) GROUP BY 1 ORDER BY 1";
        let left = || async {
            let rows = sqlx::query_as(left).bind(&killed).fetch_all(pool).await?;
            Ok(rows)
        };
        let none_lost = |rows: &Vec<(String, i64)>| {
            let lost = rows.iter().find(|(status, _)| status == "FAILED");
            ensure!(lost.is_none(), "tasks were lost: {rows:?}");
            Ok(())
        };
        wait::until_while(
            "every task to be done",
            ROLLOUT,
            left,
            none_lost,
            Vec::is_empty,
        )
        .await?;
        all_committed(pool, target).await?;
        let books = self.observer.end()?;
        ensure!(books.clean(), "the books are not clean:\n{books}");
        pool.close().await;
        Ok(())
    }
}

/// A migration in a transaction has been committed if its task is done, and only then.
async fn all_committed(pool: &PgPool, target: &Database) -> Result<()> {
    let done = "SELECT count(*) FROM task_run WHERE status = 'DONE' AND payload ? 'target'";
    let done: i64 = sqlx::query_scalar(done).fetch_one(pool).await?;
    let made = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'migration\\_%'";
    let mut session = PgConnection::connect(&target.local_url()).await?;
    let made: i64 = sqlx::query_scalar(made).fetch_one(&mut session).await?;
    session.close().await?;
    ensure!(
        done > 0 && made == done,
        "{done} migrations in a transaction are done, and {made} were committed"
    );
    Ok(())
}

/// Waits until a rollout has replaced every pod.
async fn rolled_out(sandbox: &Sandbox, label: &str, count: usize) -> Result<()> {
    let replaced = || async { Ok(sandbox.pods(label).await?.len()) };
    wait::until("every replica to be replaced", ROLLOUT, replaced, |now| {
        *now == count
    })
    .await?;
    support::rolled_out(sandbox).await
}

/// Another version together with another password, the old one of which works no more. Whatever the
/// rollout waits for, the operator is killed in the middle of it.
async fn through_rollout(sandbox: Sandbox) -> Result<()> {
    let mut cluster = busy_cluster(&sandbox, 3);
    cluster["spec"]["version"] = json!("3.20.0");
    start(&sandbox, &cluster).await?;
    let work = Work::begin(&sandbox, 3, 1).await?;
    let database = super::database_login::rotate_in_database(&sandbox).await?;
    let options = database.local_url().parse()?;
    work.subject.pool.set_connect_options(options);
    sandbox
        .create_secret(support::DATABASE_SECRET, &[("PG_URL", &database.url())])
        .await?;
    let change = json!({"version": "3.21.1", "podLabels": {"rolled": "yes"}});
    support::patch_spec(&sandbox, change).await?;
    sandbox
        .wait_status(NAME, "the Secret on its way into the pods", |status| {
            status["rollout"]["waitingFor"] == "SecretInPods"
        })
        .await?;
    let mut met = BTreeSet::new();
    tokio::select! {
        done = rolled_out(&sandbox, "rolled=yes", 3) => done?,
        failed = killed_at_each_step(&sandbox, &mut met) => failed?,
    }
    println!("    steps met, with the operator killed at the first sight of each: {met:?}");
    ensure!(
        met.contains("SecretInPods") && met.len() >= STEPS_MET,
        "the operator was killed at the steps {met:?} alone"
    );
    work.end().await
}

/// Three replicas, one, and three again. Whatever the operator is at, it is killed in the middle of
/// it.
async fn through_sizes(sandbox: Sandbox) -> Result<()> {
    three(&sandbox).await?;
    let work = Work::begin(&sandbox, 3, 7).await?;
    tokio::select! {
        done = there_and_back(&sandbox, &work) => done?,
        failed = killed_again_and_again(&sandbox) => failed?,
    }
    work.end().await
}

/// So many of the steps of a rollout of three busy replicas are met at least: which of
/// `IdleReplica`, `Drain`, `PodEnd` and `ReadyReplica` it is, the load decides. Others may be met
/// as well, and none of them must be: `PodCreation` is over when the StatefulSet controller has
/// made the pod, often before status shows it, and `OtherReplicas` comes only where a replica
/// beside is not well.
const STEPS_MET: usize = 3;

/// Kills the operator at the first sight of whatever the rollout waits for, and enters it.
/// Ends in an error alone.
async fn killed_at_each_step(sandbox: &Sandbox, met: &mut BTreeSet<String>) -> Result<()> {
    loop {
        // A request that fails has seen nothing.
        let status = sandbox.status(NAME).await.unwrap_or_default();
        let waits_for = status["rollout"]["waitingFor"].as_str();
        if waits_for.is_some_and(|waits_for| met.insert(waits_for.to_owned())) {
            super::operator::kill(sandbox).await?;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// To one replica, and to three again.
async fn there_and_back(sandbox: &Sandbox, work: &Work) -> Result<()> {
    for replicas in [1, 3] {
        for model in &mut work.noted.lock().models {
            model.replicas = replicas;
        }
        support::patch_spec(sandbox, json!({"replicas": replicas})).await?;
        let count = || async { Ok(support::pods(sandbox).await?.len()) };
        let wanted = usize::try_from(replicas)?;
        wait::until("the size", ROLLOUT, count, |now| *now == wanted).await?;
    }
    support::rolled_out(sandbox).await
}

/// Ends in an error alone. Another operator acts once the Lease of the one that was killed has run
/// out, so each has some time for its work.
async fn killed_again_and_again(sandbox: &Sandbox) -> Result<()> {
    loop {
        let pause = rand::random_range(20_000..60_000);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        super::operator::kill(sandbox).await?;
    }
}

/// Gives tasks that any replica may claim until so many of them run one, those that we killed
/// aside. The load's own go through the replica that promotes them, and whichever asks next takes
/// all.
async fn all_busy(work: &Work, replicas: i64) -> Result<()> {
    let pool = &work.subject.pool;
    let killed = Vec::from_iter(work.noted.lock().losing.clone());
    let give = "INSERT INTO task_run (status, payload) VALUES ('AVAILABLE', '{\"seconds\": 30}')";
    let owners = "SELECT count(DISTINCT replica_id) FROM task_run WHERE status = 'RUNNING' AND replica_id <> ALL($1)";
    let busy = || async {
        sqlx::query(give).execute(pool).await?;
        let owners = sqlx::query_scalar::<_, i64>(owners).bind(&killed);
        Ok(owners.fetch_one(pool).await?)
    };
    wait::until("the replicas to run a task each", PATIENCE, busy, |count| {
        *count >= replicas
    })
    .await?;
    Ok(())
}

/// Kills the process of a replica, and waits until another runs in the same container. What the
/// first one ran is lost, as of any process that is killed.
async fn restart_a_container(sandbox: &Sandbox, work: &Work) -> Result<()> {
    let pods = support::pods(sandbox).await?;
    let pod = pods.first().context("no pod")?;
    let killed = replica_id(sandbox, pod).await?;
    work.noted.lock().losing.insert(killed.clone());
    sandbox.strike(pod, "bytebase", Blow::Kill).await?;
    let now = || replica_id(sandbox, pod);
    wait::until("another process", PATIENCE, now, |now| *now != killed).await?;
    Ok(())
}

/// Every pod at once, with no operator: all finish what they run, also where a container has
/// started again before.
async fn all_deleted(sandbox: Sandbox) -> Result<()> {
    three(&sandbox).await?;
    let work = Work::begin(&sandbox, 3, 2).await?;
    restart_a_container(&sandbox, &work).await?;
    all_busy(&work, 3).await?;
    scale_operator(&sandbox, 0).await?;
    let before = support::pods(&sandbox).await?;
    work.note_deleted(&before);
    let selector = format!("bytebase.com/cluster={NAME}");
    sandbox
        .kubectl(&["delete", "pods", "-l", &selector, "--wait=false"])
        .await?;
    for pod in &before {
        wait_ended(&sandbox, pod, ROLLOUT).await?;
    }
    scale_operator(&sandbox, 1).await?;
    support::rolled_out(&sandbox).await?;
    work.end().await
}

/// `kubectl drain` on the node of two replicas ends both at once, waits for what they run, and goes
/// through.
async fn node_drained(sandbox: Sandbox) -> Result<()> {
    let mut cluster = busy_cluster(&sandbox, 2);
    // There is no other node for the successor of the first that goes.
    cluster["spec"]["disruptionBudget"] = json!({"enabled": false});
    start(&sandbox, &cluster).await?;
    let work = Work::begin(&sandbox, 2, 6).await?;
    all_busy(&work, 2).await?;
    let before = support::pods(&sandbox).await?;
    let nodes = before
        .iter()
        .map(|pod| pod.spec.as_ref()?.node_name.clone());
    let nodes: Option<BTreeSet<_>> = nodes.collect();
    let nodes = nodes.context("a pod is on no node")?;
    ensure!(nodes.len() == 1, "the pods are on the nodes {nodes:?}");
    let node = nodes.first().context("no pod")?;
    work.note_deleted(&before);
    let selector = format!("--pod-selector=bytebase.com/cluster={NAME}");
    let drain = [
        "drain",
        node,
        &selector,
        "--delete-emptydir-data",
        "--timeout=280s",
    ];
    let drained = sandbox.kubectl(&drain).await;
    // Whatever came of it, other scenarios need the node.
    sandbox.kubectl(&["uncordon", node]).await?;
    drained?;
    for pod in &before {
        wait_ended(&sandbox, pod, Duration::from_secs(1)).await?;
    }
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    work.end().await
}

/// The database is away for a while in the middle of a drain.
async fn in_outage(sandbox: Sandbox) -> Result<()> {
    // Longer than a heartbeat counts, and shorter than the hook waits for an answer.
    const OUTAGE: Duration = Duration::from_secs(40);
    let mut cluster = busy_cluster(&sandbox, 2);
    let timeout = u64::from(load::DRAIN_TIMEOUT) + OUTAGE.as_secs();
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(timeout);
    start(&sandbox, &cluster).await?;
    let work = Work::begin(&sandbox, 2, 4).await?;
    let (id, pod) = running_task(&sandbox, 60).await?;
    let name = pod.name_any();
    work.note_deleted(slice::from_ref(&pod));
    sandbox
        .kubectl(&["delete", "pod", &name, "--wait=false"])
        .await?;
    work.noted.lock().struck = true;
    let (postgres, database) = (&sandbox.harness().postgres, sandbox.database());
    postgres.allow_connections(database, false).await?;
    let there = || async { Ok(sandbox.api::<Pod>().get_opt(&name).await?) };
    let waits = wait::throughout("the pod", OUTAGE, there, |now| {
        now.as_ref().is_some_and(|now| now.uid() == pod.uid())
    })
    .await;
    postgres.allow_connections(database, true).await?;
    waits?;
    wait_task(&sandbox, id, "DONE", PATIENCE).await?;
    work.noted.lock().struck = false;
    wait_ended(&sandbox, &pod, ROLLOUT).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    work.end().await
}

/// The hook of a pod is killed while it holds the queue: the server frees the queue, the pod ends
/// at once, and what it ran is lost, as of any process that is killed; every other task is done.
async fn hook_killed(sandbox: Sandbox) -> Result<()> {
    three(&sandbox).await?;
    let work = Work::begin(&sandbox, 3, 3).await?;
    let (long, pod) = running_task(&sandbox, 400).await?;
    let owner = task(&sandbox, long).await?.2.context("no owner")?;
    let name = pod.name_any();
    work.note_deleted(slice::from_ref(&pod));
    sandbox
        .kubectl(&["delete", "pod", &name, "--wait=false"])
        .await?;
    let holder = format!("drain/{name}");
    let held = |status: &Value| status["queueHold"]["heldBy"] == json!([holder]);
    // The queue may have to be free for as long as it may be held.
    let turn = Duration::from_secs(load::HOLD_LIMIT.into()) + PATIENCE;
    wait::until("the hold", turn, || sandbox.status(NAME), held).await?;
    work.noted.lock().losing.insert(owner);
    sandbox
        .strike_program(&pod, "bytebase", "bytebase-drain", Blow::Kill)
        .await?;
    sandbox
        .wait_status(NAME, "the queue to be free", |status| {
            status["queueHold"].is_null()
        })
        .await?;
    wait_ended(&sandbox, &pod, PATIENCE).await?;
    work.end().await?;
    wait_task(&sandbox, long, "FAILED", PATIENCE).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// A license ends in the middle of a rollout: all replicas but one go, and finish what they run,
/// the task that held the rollout up among it.
async fn license_ends_in_rollout(sandbox: Sandbox) -> Result<()> {
    three(&sandbox).await?;
    let (_, pod) = running_task(&sandbox, 100).await?;
    support::patch_spec(&sandbox, json!({"podLabels": {"rolled": "yes"}})).await?;
    sandbox
        .wait_status(NAME, "the rollout at work", |status| {
            status["rollout"]["updatedReplicas"].as_i64() > Some(0)
        })
        .await?;
    // The idle ones went first.
    let work = Work::begin(&sandbox, 3, 5).await?;
    // One of them ends.
    all_busy(&work, 2).await?;
    let pods = support::pods(&sandbox).await?;
    let ended_before = pods.iter().filter(|pod| support::is_ending(pod));
    let ended_before = ended_before.filter_map(ResourceExt::uid).collect();
    {
        let mut noted = work.noted.lock();
        noted.models.iter_mut().for_each(|model| model.ha = false);
        // The gate does not wait for what the rollout has taken down.
        noted.disturbed.insert(0);
    }
    support::shorten_license(&sandbox, 30).await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "False", "")
        .await?;
    let was_busy = until_one_is_left(&sandbox, &work.subject.pool, ended_before).await?;
    ensure!(was_busy, "no replica ran a task when the gate ended it");
    work.end().await?;
    let reasons = support::event_reasons(&sandbox).await?;
    ensure!(
        reasons.iter().any(|reason| reason.starts_with("License")),
        "no event reports the license: {reasons:?}"
    );
    // Renewed, the cluster grows, and the rollout reaches the replica that was busy.
    support::secrets(&sandbox).await?;
    let license = crate::scenario::license::License::default();
    support::install_license(&sandbox, &license).await?;
    rolled_out(&sandbox, "rolled=yes", 3).await?;
    let now = sandbox.api::<Pod>().get_opt(&pod.name_any()).await?;
    ensure!(
        now.is_some_and(|now| now.uid() != pod.uid()),
        "the replica that was busy still runs"
    );
    Ok(())
}

/// Waits until one replica is left. Returns whether any that has begun to end since then ran a task
/// when it did.
async fn until_one_is_left(
    sandbox: &Sandbox,
    pool: &PgPool,
    ended_before: BTreeSet<String>,
) -> Result<bool> {
    let runs = "SELECT EXISTS (SELECT FROM task_run WHERE status = 'RUNNING' AND replica_id = $1)";
    let (mut ended, mut was_busy) = (ended_before, false);
    let start = Instant::now();
    loop {
        let pods = support::pods(sandbox).await?;
        if pods.len() == 1 {
            return Ok(was_busy);
        }
        ensure!(
            start.elapsed() < ROLLOUT,
            "{} replicas are left",
            pods.len()
        );
        for pod in pods.iter().filter(|pod| support::is_ending(pod)) {
            if !ended.insert(pod.uid().context("no uid")?) {
                continue;
            }
            // One that has just begun to start has no id, and runs nothing.
            if let Ok(id) = replica_id(sandbox, pod).await {
                let runs = sqlx::query_scalar::<_, bool>(runs).bind(id);
                was_busy |= runs.fetch_one(pool).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Tasks of ten minutes on two replicas at least: the gate keeps one of these, and the other must
/// go before Bytebase fails what is queued.
async fn license_cuts_drains(sandbox: Sandbox) -> Result<()> {
    let mut cluster = busy_cluster(&sandbox, 3);
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(1200);
    start(&sandbox, &cluster).await?;
    let mut busy = BTreeSet::new();
    while busy.len() < 2 {
        let (_, pod) = running_task(&sandbox, 900).await?;
        busy.insert(pod.name_any());
    }
    support::shorten_license(&sandbox, 5).await?;
    let ending = || async {
        let pods = support::pods(&sandbox).await?;
        Ok(pods.iter().filter(|pod| support::is_ending(pod)).count())
    };
    wait::until("a replica that ends", ROLLOUT, ending, |now| *now >= 1).await?;
    let asked = Instant::now();
    let left = || async { Ok(support::pods(&sandbox).await?.len()) };
    wait::until("one replica", ROLLOUT, left, |now| *now == 1).await?;
    let took = asked.elapsed();
    ensure!(
        (Duration::from_secs(290)..Duration::from_mins(6)).contains(&took),
        "the drains took {} s, not five minutes",
        took.as_secs()
    );
    let selector = format!("involvedObject.name={NAME},reason=HeldBackByLicense,type=Warning");
    let events = [
        "get",
        "events",
        "--field-selector",
        &selector,
        "-o",
        "jsonpath={.items[*].message}",
    ];
    let published = sandbox.kubectl(&events).await?;
    ensure!(
        published.contains("asked to let it end at once")
            && published.contains("those whose replica_id is "),
        "{published}"
    );
    Ok(())
}

/// A replica whose heartbeats the database drops is replaced after the time that the spec says; the
/// others are not touched.
async fn stale_replica(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 2);
    cluster["spec"]["rollout"]["restartStaleReplicasAfterSeconds"] = json!(60);
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;
    let status = sandbox.status(NAME).await?;
    let stale = &status["replicaStatuses"][0];
    let (id, name) = (stale["replicaID"].as_str(), stale["pod"].as_str());
    let (id, name) = (id.context("no id")?, name.context("no pod")?);
    let pool = sandbox.sql().await?;
    let statement = format!(
        "CREATE FUNCTION drop_beat() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'; \
         CREATE TRIGGER silent BEFORE INSERT OR UPDATE ON replica_heartbeat FOR EACH ROW \
         WHEN (NEW.replica_id = '{id}') EXECUTE FUNCTION drop_beat()"
    );
    let done = sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&pool)
        .await;
    pool.close().await;
    done?;
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "False", "HeartbeatStale")
        .await?;
    let replaced = || support::lives(&sandbox);
    let lives = wait::until(
        "the stale replica to be replaced",
        ROLLOUT,
        replaced,
        |lives| {
            lives
                .get(name)
                .is_some_and(|now| before.get(name) != Some(now))
        },
    )
    .await?;
    ensure!(
        lives
            .iter()
            .all(|(pod, life)| pod == name || before.get(pod) == Some(life)),
        "another replica was touched"
    );
    support::rolled_out(&sandbox).await
}
