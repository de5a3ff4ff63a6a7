//! Replicas that are to end while they run tasks. Bytebase cancels a running task at once when it
//! receives SIGTERM, so SIGTERM must not come before the task is done.

use super::support::{self, NAME};
use crate::cluster::faults::Blow;
use crate::images::PROBE_IMAGE;
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::soak::Subject;
use crate::soak::disturbances::Shared;
use crate::soak::observer::Observer;
use crate::soak::plan::Model;
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::Eviction;
use kube::ResourceExt as _;
use kube::api::PostParams;
use kube::core::Status;
use serde_json::{Value, json};
use sqlx::PgPool;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "drain-without-operator",
        "A replica that is deleted or evicted while it runs a task finishes it first, with no operator at all.",
        |sandbox| Box::pin(without_operator(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(90),
    Scenario::new(
        "drain-in-rollout",
        "A rollout waits for the task that a replica runs, says so by status, event, log and kubectl get, also after a restart of the operator, and goes on when the task is done.",
        |sandbox| Box::pin(rollout(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(90),
    Scenario::new(
        "maintenance",
        "While work keeps coming, an upgrade with the strategy Maintenance ends all replicas once they have finished their tasks, starts one, and then the rest; no task is lost.",
        |sandbox| Box::pin(maintenance(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(110),
    Scenario::new(
        "queue-hold",
        "Where new work keeps coming to a replica that drains, its hook holds the queue, for as long as it may and then not for as long, and status and metric say so; no task is lost.",
        |sandbox| Box::pin(queue_hold(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(190),
    Scenario::new(
        "drain-after-restart",
        "A container that has started again waits for no task of the process before it.",
        |sandbox| Box::pin(after_restart(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(90),
    Scenario::new(
        "preemption",
        "A replica whose place on the node is taken by a pod of a higher priority finishes its task first, and comes back when there is room.",
        |sandbox| Box::pin(preemption(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(90),
];

/// Of this the node has room for one pod, and nothing else in the cluster asks for it.
const ROOM: &str = "e2e.bytebase.com/room";

/// Seconds that a task takes: longer than the grace period without a drain, which is eleven.
const LONG: i32 = 30;
/// Longest until such a task is over and its pod has ended.
const OVER: Duration = Duration::from_secs(90);
/// `holdLimitSeconds` where the queue is held: longer than the tasks that keep coming take.
const HOLD_LIMIT: Duration = Duration::from_secs(20);
/// Likewise where many hooks must come to an end soon.
const BRIEF_HOLD: Duration = Duration::from_secs(15);
/// Seconds that tasks take there. Each may wait for five seconds to be claimed before.
const BRIEF: i32 = 6;
/// Seconds that a task takes that is not over when a hold is. A hook that knows its replica after
/// twenty seconds may have to wait for as long as the queue is free, and holds it then.
const OUTLIVES_HOLDS: i32 = 90;

/// A task run: its id, its status, and who runs it.
pub type TaskRun = (i64, String, Option<String>);

/// A cluster of two replicas, Ready, whose drains may take longer than its tasks.
pub async fn ready(sandbox: &Sandbox) -> Result<()> {
    let mut cluster = support::licensed(sandbox, 2);
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(120);
    support::start(sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// Queues a task run and waits until a replica runs it. Returns its id and the pod of that replica.
pub async fn running_task(sandbox: &Sandbox, seconds: i32) -> Result<(i64, Pod)> {
    let pool = sandbox.sql().await?;
    let queued: std::result::Result<i64, _> = sqlx::query_scalar(
        "INSERT INTO task_run (payload) VALUES (jsonb_build_object('seconds', $1)) RETURNING id",
    )
    .bind(seconds)
    .fetch_one(&pool)
    .await;
    pool.close().await;
    let id = queued?;
    let (_, _, owner) = wait_task(sandbox, id, "RUNNING", PATIENCE).await?;
    let owner = owner.context("a running task without an owner")?;
    let status = sandbox
        .wait_status(NAME, "the pod that runs the task", |status| {
            status["replicaStatuses"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one["replicaID"] == *owner))
        })
        .await?;
    let name = status["replicaStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|one| one["replicaID"] == *owner)
        .and_then(|one| one["pod"].as_str().map(str::to_owned))
        .context("no pod has this id")?;
    Ok((id, sandbox.api::<Pod>().get(&name).await?))
}

pub async fn task(sandbox: &Sandbox, id: i64) -> Result<TaskRun> {
    let pool = sandbox.sql().await?;
    let found = sqlx::query_as("SELECT id, status, replica_id FROM task_run WHERE id = $1")
        .bind(id)
        .fetch_one(&pool)
        .await;
    pool.close().await;
    Ok(found?)
}

pub async fn wait_task(
    sandbox: &Sandbox,
    id: i64,
    status: &str,
    patience: Duration,
) -> Result<TaskRun> {
    let what = format!("task run {id} to be {status}");
    let found = wait::until(
        &what,
        patience,
        || task(sandbox, id),
        // Whatever has ended stays as it is.
        |(_, now, _)| now == status || matches!(now.as_str(), "DONE" | "FAILED" | "CANCELED"),
    )
    .await?;
    ensure!(found.1 == status, "{what}: it is {}", found.1);
    Ok(found)
}

/// Waits until the task is done, and then until its pod has ended, which must not take long.
pub async fn done_then_ended(sandbox: &Sandbox, id: i64, pod: &Pod) -> Result<()> {
    wait_task(sandbox, id, "DONE", OVER).await?;
    wait_ended(sandbox, pod, Duration::from_secs(20)).await
}

/// Waits until this pod has gone, whichever pod has its name then.
pub async fn wait_ended(sandbox: &Sandbox, pod: &Pod, patience: Duration) -> Result<()> {
    let name = pod.name_any();
    wait::until(
        &format!("{name} to end"),
        patience,
        || async { Ok(sandbox.api::<Pod>().get_opt(&name).await?) },
        |now| now.as_ref().is_none_or(|now| now.uid() != pod.uid()),
    )
    .await?;
    Ok(())
}

/// A rollout reaches the replica that runs a task last, waits a minute for it to be idle, then ends
/// it, and its pod waits for the task. A new operator process goes on with the minute of the one
/// before.
async fn rollout(sandbox: Sandbox) -> Result<()> {
    ready(&sandbox).await?;
    // Longer than the first replica takes to be replaced, and that minute.
    let (id, pod) = running_task(&sandbox, 110).await?;
    support::patch_spec(&sandbox, json!({"podLabels": {"rolled": "yes"}})).await?;
    let name = pod.name_any();
    let waits_for = |what| {
        let name = name.clone();
        let sandbox = &sandbox;
        async move {
            let status = sandbox
                .wait_status(NAME, what, |status| {
                    let rollout = &status["rollout"];
                    rollout["waitingFor"] == what && rollout["pod"] == *name
                })
                .await?;
            let rollout = &status["rollout"];
            ensure!(
                rollout["runningTasks"] == 1 && rollout["deadline"].is_string(),
                "{rollout}"
            );
            Ok(status)
        }
    };
    let since = waits_for("IdleReplica").await?["rollout"]["since"].clone();
    support::restart_operator(&sandbox).await?;
    ensure!(
        waits_for("IdleReplica").await?["rollout"]["since"] == since,
        "a new operator process began another minute"
    );
    let status = waits_for("Drain").await?;
    shows_drain(&sandbox, &status, &name).await?;
    done_then_ended(&sandbox, id, &pod).await?;
    support::rolled_out(&sandbox).await?;
    let replaced = sandbox.pods("rolled=yes").await?.len();
    ensure!(replaced == 2, "{replaced} of 2 replicas were replaced");
    Ok(())
}

/// The drain of this pod is seen wherever a user may look for it. `status`: while a rollout waits
/// for it.
async fn shows_drain(sandbox: &Sandbox, status: &Value, pod: &str) -> Result<()> {
    let printed = sandbox.kubectl(&["get", "bytebasecluster", NAME]).await?;
    let shows = |row: &str| row.split_whitespace().any(|word| word == "Drain");
    let is_printed = printed.lines().skip(1).any(shows);
    ensure!(
        is_printed,
        "kubectl get does not print the word Drain: {printed}"
    );
    let replica = status["replicaStatuses"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|replica| replica["pod"] == pod)
        .context("the pod that drains is not in status")?;
    ensure!(
        replica["runningTasks"] == 1 && replica["drain"] == "Draining",
        "{replica}"
    );
    let arguments = ["logs", pod, "--container", "bytebase"];
    let log = || sandbox.kubectl(&arguments);
    wait::until("a line of the hook in the log", PATIENCE, log, |log| {
        log.contains("drain: waiting")
    })
    .await?;
    support::wait_event(sandbox, "DrainBegan").await
}

/// Whether a pod was Ready, by the clock of Kubernetes, when each other one was made.
fn is_ready_before(pod: &Pod, pods: &[Pod]) -> bool {
    let status = pod.status.as_ref();
    let mut conditions = status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let ready =
        conditions.find(|condition| condition.type_ == "Ready" && condition.status == "True");
    let since = ready.and_then(|ready| ready.last_transition_time.as_ref());
    since.is_some_and(|since| {
        let mut others = pods.iter().filter(|other| other.uid() != pod.uid());
        others.all(|other| {
            other
                .creation_timestamp()
                .is_some_and(|made| made.0 >= since.0)
        })
    })
}

/// No two versions ever run at once, the first replica of the new one is alone until it is Ready,
/// and no running task is lost: neither one that runs at the beginning, nor what comes to replicas
/// that are all about to end.
async fn maintenance(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 3);
    cluster["spec"]["version"] = json!("3.20.0");
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(240);
    cluster["spec"]["rollout"]["holdLimitSeconds"] = json!(BRIEF_HOLD.as_secs());
    cluster["spec"]["rollout"]["strategy"] = json!("Maintenance");
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let stream = Stream::begin(&sandbox, 3, BRIEF_HOLD, BRIEF).await?;
    // All go down at once, by this strategy.
    stream.noted.lock().disturbed.insert(0);
    let (id, _) = running_task(&sandbox, LONG).await?;
    support::patch_spec(&sandbox, json!({"version": "3.21.1"})).await?;
    let given_before = stream.last_given().await?;
    let (mut waited_for, mut was_down, mut has_served) = (BTreeSet::new(), false, false);
    let start = Instant::now();
    loop {
        let pods = support::pods(&sandbox).await?;
        let version = |pod: &Pod| pod.annotations().get("bytebase.com/version").cloned();
        let versions: BTreeSet<_> = pods.iter().map(version).collect();
        ensure!(versions.len() <= 1, "{versions:?} run at once");
        // The moment without any pod may fall between two samples.
        let is_new = |pod: &Pod| version(pod).as_deref() == Some("3.21.1");
        if !was_down && pods.iter().all(is_new) {
            was_down = true;
            stream.stop()?;
            stream.is_finished_since(given_before).await?;
            let done = task(&sandbox, id).await?.1;
            ensure!(
                done == "DONE",
                "all replicas ended while the task was {done}"
            );
        }
        if was_down {
            // The others may have started since the last sample, as the first became Ready.
            has_served |= pods.iter().any(|pod| is_ready_before(pod, &pods));
            ensure!(
                has_served || pods.len() <= 1,
                "{} replicas start before the first is Ready",
                pods.len()
            );
        }
        let status = sandbox.status(NAME).await?;
        waited_for.extend(status["rollout"]["waitingFor"].as_str().map(str::to_owned));
        if was_down && status["version"] == "3.21.1" && status["phase"] == "Ready" {
            break;
        }
        ensure!(
            start.elapsed() < Duration::from_mins(4),
            "the rollout does not end: {status:#}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for stage in ["AllPodsEnd", "FirstReplica"] {
        ensure!(
            waited_for.contains(stage),
            "{stage} is not in {waited_for:?}"
        );
    }
    support::rolled_out(&sandbox).await?;
    stream.done().await?;
    stream.end().await
}

async fn task_each_second(pool: PgPool, seconds: i32) -> sqlx::Result<()> {
    let insert = "INSERT INTO task_run (payload) VALUES (jsonb_build_object('seconds', $1))";
    loop {
        sqlx::query(insert).bind(seconds).execute(&pool).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// New work that keeps coming, and the books of the soak that are kept of it meanwhile.
struct Stream {
    pool: PgPool,
    load: JoinHandle<sqlx::Result<()>>,
    observer: Observer,
    /// What we do to the cluster.
    noted: Shared,
}

impl Stream {
    /// Gives a task that takes so many seconds, each second from now on. `replicas` and
    /// `hold_limit`: those of the cluster.
    async fn begin(
        sandbox: &Sandbox,
        replicas: i32,
        hold_limit: Duration,
        seconds: i32,
    ) -> Result<Self> {
        let (name, pool) = (NAME.to_owned(), sandbox.sql().await?);
        let mut subject = Subject::new(sandbox, name, sandbox.database(), pool.clone()).await?;
        subject.hold_limit = hold_limit;
        let noted = Shared::default();
        noted.lock().models = vec![Model {
            replicas,
            ..Model::default()
        }];
        Ok(Self {
            load: tokio::spawn(task_each_second(pool.clone(), seconds)),
            observer: Observer::start(sandbox.api(), vec![subject], noted.clone()),
            pool,
            noted,
        })
    }

    /// The id of the task that was given last.
    async fn last_given(&self) -> Result<i64> {
        let last = "SELECT coalesce(max(id), 0) FROM task_run";
        Ok(sqlx::query_scalar(last).fetch_one(&self.pool).await?)
    }

    /// Gives no more.
    fn stop(&self) -> Result<()> {
        ensure!(!self.load.is_finished(), "new work came no more");
        self.load.abort();
        Ok(())
    }

    /// With all replicas gone no task is left running, and some that were given after this one are
    /// done: else nothing came to the replicas while they were about to end.
    async fn is_finished_since(&self, given_before: i64) -> Result<()> {
        let counts = "SELECT count(*) FILTER (WHERE status = 'RUNNING'), count(*) FILTER (WHERE status = 'DONE' AND id > $1) FROM task_run";
        let (running, done): (i64, i64) = sqlx::query_as(counts)
            .bind(given_before)
            .fetch_one(&self.pool)
            .await?;
        ensure!(running == 0, "all replicas ended while {running} tasks ran");
        ensure!(
            done > 0,
            "no work came to the replicas while they were about to end"
        );
        Ok(())
    }

    /// Waits until every task is done. One that was lost is FAILED and stays so.
    async fn done(&self) -> Result<()> {
        let left = "SELECT count(*) FROM task_run WHERE status <> 'DONE'";
        let left = || async {
            let left = sqlx::query_scalar::<_, i64>(left);
            Ok(left.fetch_one(&self.pool).await?)
        };
        wait::until("every task to be done", OVER, left, |left| *left == 0).await?;
        Ok(())
    }

    /// Nothing may be in the books.
    async fn end(self) -> Result<()> {
        let books = self.observer.end()?;
        ensure!(books.clean(), "the books are not clean:\n{books}");
        self.pool.close().await;
        Ok(())
    }
}

/// Waits until the operator serves this as the metric of a held queue.
async fn wait_held(sandbox: &Sandbox, held: f64) -> Result<()> {
    let metric = "bytebase_cluster_queue_held";
    let read = || support::metric(sandbox, metric);
    let what = format!("{metric} to be {held}");
    wait::until(&what, PATIENCE, read, |now| *now == Some(held)).await?;
    Ok(())
}

/// New work keeps coming to a replica that drains: its hook holds the queue, which is visible, for
/// as long as it may and not until the replica has finished its long task; the observer of the soak
/// sees to the times. No task is lost.
async fn queue_hold(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 2);
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(300);
    cluster["spec"]["rollout"]["holdLimitSeconds"] = json!(HOLD_LIMIT.as_secs());
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let stream = Stream::begin(&sandbox, 2, HOLD_LIMIT, 12).await?;
    let (long, pod) = running_task(&sandbox, OUTLIVES_HOLDS).await?;
    let name = pod.name_any();
    stream.noted.lock().deleted.extend(pod.uid());
    sandbox
        .kubectl(&["delete", "pod", &name, "--wait=false"])
        .await?;
    let holder = format!("drain/{name}");
    sandbox
        .wait_status(NAME, "the hold", |status| {
            status["queueHold"]["heldBy"] == json!([holder])
        })
        .await?;
    wait_held(&sandbox, 1.0).await?;
    let is_free = |status: &Value| status["queueHold"].is_null();
    sandbox
        .wait_status(NAME, "the end of the hold", is_free)
        .await?;
    wait_held(&sandbox, 0.0).await?;
    let (_, state, _) = task(&sandbox, long).await?;
    ensure!(
        state == "RUNNING",
        "the queue was free only when the long task was {state}"
    );
    wait_ended(&sandbox, &pod, 2 * OVER).await?;
    stream.stop()?;
    stream.done().await?;
    sandbox.wait_status(NAME, "no hold", is_free).await?;
    for reason in ["QueueHeld", "QueueFree"] {
        support::wait_event(&sandbox, reason).await?;
    }
    stream.end().await
}

/// Without an operator: a pod that is deleted, and one that a node drain evicts.
async fn without_operator(sandbox: Sandbox) -> Result<()> {
    ready(&sandbox).await?;
    for evicts in [false, true] {
        // The id of the replica is read from the status, so the operator is there to begin with.
        scale_operator(&sandbox, 1).await?;
        sandbox
            .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
            .await?;
        let (id, pod) = running_task(&sandbox, LONG).await?;
        scale_operator(&sandbox, 0).await?;
        let name = pod.name_any();
        if evicts {
            let eviction = Eviction {
                metadata: kube::api::ObjectMeta {
                    name: Some(name.clone()),
                    ..Default::default()
                },
                ..Eviction::default()
            };
            let _: Status = sandbox
                .api::<Pod>()
                .create_subresource("eviction", &name, &PostParams::default(), &eviction)
                .await?;
        } else {
            sandbox
                .kubectl(&["delete", "pod", &name, "--wait=false"])
                .await?;
        }
        done_then_ended(&sandbox, id, &pod)
            .await
            .with_context(|| format!("evicted: {evicts}"))?;
    }
    Ok(())
}

/// Waits until so many operators are available; for none until the last has ended.
pub async fn scale_operator(sandbox: &Sandbox, replicas: u32) -> Result<()> {
    let selector = format!("app.kubernetes.io/instance={}", sandbox.release());
    let wanted = format!("--replicas={replicas}");
    sandbox
        .kubectl(&["scale", "deployment", "-l", &selector, &wanted])
        .await?;
    let arguments = [
        "rollout",
        "status",
        "deployment",
        "-l",
        &selector,
        "--timeout=60s",
    ];
    sandbox.kubectl(&arguments).await?;
    if replicas == 0 {
        let operators = || sandbox.operator_pods();
        wait::until("no operator", PATIENCE, operators, Vec::is_empty).await?;
    }
    Ok(())
}

/// The container has started again in its pod: a task that an earlier process left behind does not
/// hold it.
async fn after_restart(sandbox: Sandbox) -> Result<()> {
    ready(&sandbox).await?;
    let (lost, pod) = running_task(&sandbox, 600).await?;
    let name = pod.name_any();
    let before = task(&sandbox, lost).await?.2.context("no owner")?;
    sandbox.strike(&pod, "bytebase", Blow::Kill).await?;
    sandbox
        .wait_status(NAME, "the id of the new process", |status| {
            status["replicaStatuses"].as_array().is_some_and(|all| {
                all.iter().any(|one| {
                    one["pod"] == *name
                        && one["replicaID"].is_string()
                        && one["replicaID"] != *before
                })
            })
        })
        .await?;
    ensure!(
        task(&sandbox, lost).await?.1 == "RUNNING",
        "the task of the process that is gone has been given up too early for this scenario"
    );
    // The new process is idle, so the pod ends at once, although the one before it ran a task.
    sandbox
        .kubectl(&["delete", "pod", &name, "--wait=false"])
        .await?;
    wait_ended(&sandbox, &pod, Duration::from_secs(40)).await
}

/// The scheduler takes a pod's place for one of a higher priority by deleting it, with its whole
/// grace period.
async fn preemption(sandbox: Sandbox) -> Result<()> {
    let nodes = sandbox.kubectl(&["get", "nodes", "--output=name"]).await?;
    let node = nodes.lines().next().context("no node")?.to_owned();
    let field = format!("/status/capacity/{}", ROOM.replace('/', "~1"));
    let change = |operation: Value| {
        let (sandbox, node) = (sandbox.clone(), node.clone());
        async move {
            let patch = json!([operation]).to_string();
            let arguments = [
                "patch",
                &node,
                "--subresource=status",
                "--type=json",
                "--patch",
                &patch,
            ];
            sandbox.kubectl(&arguments).await
        }
    };
    change(json!({"op": "add", "path": field, "value": "1"})).await?;
    let class = sandbox.namespace().to_owned();
    let preempted = for_a_higher_one(&sandbox, &class).await;
    // Whatever came of it, nothing of this is left.
    let taken_out = change(json!({"op": "remove", "path": field})).await;
    let deleted = sandbox
        .kubectl(&["delete", "priorityclass", &class, "--ignore-not-found"])
        .await;
    preempted?;
    taken_out?;
    deleted?;
    Ok(())
}

/// `class`: name of the priority.
async fn for_a_higher_one(sandbox: &Sandbox, class: &str) -> Result<()> {
    let room = json!({"limits": {ROOM: "1"}, "requests": {ROOM: "1"}});
    let mut cluster = support::licensed(sandbox, 1);
    cluster["spec"]["rollout"]["drainTimeoutSeconds"] = json!(120);
    cluster["spec"]["resources"] = room.clone();
    support::start(sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let (id, pod) = running_task(sandbox, LONG).await?;
    let urgent = json!({
        "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                "metadata": {"name": class}, "value": 1000,
            },
            {
                "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "urgent"},
                "spec": {
                    "priorityClassName": class,
                    "terminationGracePeriodSeconds": 0,
                    "containers": [{
                        "name": "probe", "image": PROBE_IMAGE, "imagePullPolicy": "Never",
                        "args": ["serve", "8080"], "resources": room,
                    }],
                },
            },
        ],
    });
    sandbox.apply_yaml(&urgent.to_string()).await?;
    let name = pod.name_any();
    let read = || async { Ok(sandbox.api::<Pod>().get(&name).await?) };
    let ends = |now: &Pod| now.metadata.deletion_timestamp.is_some() && now.uid() == pod.uid();
    wait::until("the replica's place to be taken", PATIENCE, read, ends).await?;
    let (_, status, _) = task(sandbox, id).await?;
    ensure!(
        status == "RUNNING",
        "the task was {status} when its pod began to end"
    );
    done_then_ended(sandbox, id, &pod).await?;
    let urgent = || async { Ok(sandbox.api::<Pod>().get("urgent").await?) };
    let runs = |now: &Pod| {
        let phase = now
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Running")
    };
    wait::until("the other pod to run", PATIENCE, urgent, runs).await?;
    // Its successor finds no room, and status says so.
    sandbox.wait_condition(NAME, "Ready", "False", "").await?;
    sandbox.kubectl(&["delete", "pod", "urgent"]).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}
