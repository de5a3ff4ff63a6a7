//! The operator itself: killed, doubled, restarted.

use super::support::{self, NAME};
use crate::cluster::faults::Blow;
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, Service};
use kube::ResourceExt;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "operator-killed",
        "Killed at random moments, the operator takes up where it was.",
        |sandbox| Box::pin(killed_at_random(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(200),
    Scenario::new(
        "two-by-mistake",
        "Two operators on one namespace replace one replica at a time and do not undo each other's writes.",
        |sandbox| Box::pin(two_by_mistake(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(150),
    Scenario::new(
        "leader-hand-over",
        "A standby takes over at once from a leader that ends, and in time from one that is killed.",
        |sandbox| Box::pin(leader_hand_over(sandbox)),
    ),
    Scenario::new(
        "leader-frozen",
        "A leader that stood still for longer than its lease ends itself before it writes anything.",
        |sandbox| Box::pin(leader_frozen(sandbox)),
    ),
    Scenario::new(
        "cluster-labels",
        "An installation with clusterLabels serves the clusters that carry them, and no others.",
        |sandbox| Box::pin(shards(sandbox)),
    ),
];

/// The operator's container, as the chart names it.
pub(super) const CONTAINER: &str = "operator";

/// An eviction whose caller is killed in the middle of it may be entered in the budget without the
/// pod being deleted. Kubernetes then lets no other pod go for so long.
const CUT_OFF_EVICTION: Duration = Duration::from_mins(2);

/// Killed at random moments of everything a cluster goes through, the operator takes up where it
/// was.
async fn killed_at_random(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::licensed(&sandbox, 2)).await?;
    for change in [
        json!({}),
        json!({"replicas": 3}),
        json!({"podLabels": {"round": "two"}}),
        json!({"replicas": 2}),
    ] {
        support::patch_spec(&sandbox, change).await?;
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(rand::random_range(200..3000))).await;
            kill(&sandbox).await?;
        }
        sandbox
            .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
            .await?;
        sandbox
            .wait_condition_for(
                PATIENCE + CUT_OFF_EVICTION,
                NAME,
                "RolloutComplete",
                "True",
                "",
            )
            .await?;
    }
    Ok(())
}

/// Ends the operator at once, and lets its Deployment start another.
pub(super) async fn kill(sandbox: &Sandbox) -> Result<()> {
    let pods = || sandbox.operator_pods();
    let runs = |pod: &Pod| {
        container(pod)
            .and_then(|status| status.state.as_ref())
            .is_some_and(|state| state.running.is_some())
    };
    let running = wait::until("a running operator", PATIENCE, pods, |pods| {
        pods.iter().any(runs)
    })
    .await?;
    let pod = running
        .iter()
        .find(|pod| runs(pod))
        .context("no operator")?;
    // Between the reading and the blow it may have ended by an earlier blow.
    if let Err(error) = sandbox.strike(pod, CONTAINER, Blow::Kill).await {
        println!("    not struck: {error:#}");
    }
    // The kubelet makes a container that keeps ending wait for minutes; a new pod starts at once.
    let name = pod.name_any();
    sandbox
        .kubectl(&[
            "delete",
            "pod",
            &name,
            "--force",
            "--grace-period=0",
            "--ignore-not-found",
        ])
        .await?;
    Ok(())
}

/// With nothing changed, a restart writes nothing, whatever the operator has forgotten.
pub(super) async fn restart_writes_nothing(sandbox: &Sandbox) -> Result<()> {
    let before = support::settled(sandbox).await?;
    let old = sandbox.operator_pods().await?;
    sandbox
        .kubectl(&[
            "delete",
            "pods",
            "-l",
            &format!("app.kubernetes.io/instance={}", sandbox.release()),
        ])
        .await?;
    let fresh = || sandbox.operator_pods();
    wait::until("another operator, Ready", PATIENCE, fresh, |pods| {
        pods.iter()
            .all(|pod| old.iter().all(|old| old.uid() != pod.uid()))
            && pods.iter().any(support::is_ready)
    })
    .await?;
    support::no_write(sandbox, Duration::from_secs(20), &before).await
}

/// A leader that is asked to end hands over at once; one that is killed is followed when its lease
/// has run out.
async fn leader_hand_over(sandbox: Sandbox) -> Result<()> {
    pair(&sandbox).await?;
    let first = holder(&sandbox).await?;
    let asked = Instant::now();
    sandbox
        .kubectl(&["delete", "pod", &pod_of(&first), "--wait=false"])
        .await?;
    let second = next_holder(&sandbox, &first).await?;
    println!(
        "    graceful hand-over after {:.1} s",
        asked.elapsed().as_secs_f32()
    );
    ensure!(
        asked.elapsed() < Duration::from_secs(5),
        "a graceful hand-over took {:?}",
        asked.elapsed()
    );

    wait_for_pair(&sandbox).await?;
    let pod = sandbox.api::<Pod>().get(&pod_of(&second)).await?;
    let killed = Instant::now();
    sandbox.strike(&pod, CONTAINER, Blow::Kill).await?;
    next_holder(&sandbox, &second).await?;
    let took = killed.elapsed();
    println!("    take-over after {:.1} s", took.as_secs_f32());
    ensure!(
        took > Duration::from_secs(9),
        "the lease was taken from one that may still have led: after {took:?}"
    );
    change_arrives(&sandbox, "killed").await
}

/// A leader that stands still for longer than its lease, with work to do, and goes on: it must
/// notice before it writes anything.
async fn leader_frozen(sandbox: Sandbox) -> Result<()> {
    pair(&sandbox).await?;
    let first = holder(&sandbox).await?;
    let pod = sandbox.api::<Pod>().get(&pod_of(&first)).await?;
    // In the middle of its work: it has read what to do and not done all of it.
    support::patch_spec(&sandbox, json!({"podLabels": {"led-by": "the-frozen"}})).await?;
    tokio::time::sleep(Duration::from_millis(rand::random_range(0..400))).await;
    sandbox.strike(&pod, CONTAINER, Blow::Freeze).await?;
    next_holder(&sandbox, &first).await?;
    change_arrives(&sandbox, "its-heir").await?;
    let before = support::versions(&sandbox).await?;

    let thawed = jiff::Timestamp::now();
    sandbox.strike(&pod, CONTAINER, Blow::Thaw).await?;
    let restarted = || async {
        let pod = sandbox.api::<Pod>().get(&pod.name_any()).await?;
        Ok(container(&pod).map_or(0, |status| status.restart_count))
    };
    wait::until(
        "the thawed one to end itself",
        PATIENCE,
        restarted,
        |count| *count > 0,
    )
    .await?;
    support::no_write(&sandbox, Duration::from_secs(5), &before).await?;
    let late: Vec<_> = sandbox
        .calls()
        .await?
        .into_iter()
        .filter(|call| call.pod == pod.name_any() && call.at >= thawed)
        .filter(|call| call.writes() && call.resource != "leases")
        .collect();
    ensure!(late.is_empty(), "the former leader wrote: {late:#?}");
    let leads = holder(&sandbox).await?;
    ensure!(!leads.starts_with(&pod.name_any()), "{leads} leads again");
    Ok(())
}

/// Two releases serve one namespace, against the documentation: each elects its own leader, and
/// both do the same.
async fn two_by_mistake(sandbox: Sandbox) -> Result<()> {
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    sandbox
        .install_second_operator(&OperatorOptions::default())
        .await?;
    support::secrets(&sandbox).await?;
    sandbox
        .apply_yaml(&support::licensed(&sandbox, 3).to_string())
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let writers = || async {
        let calls = sandbox.calls().await?;
        let pods: BTreeSet<_> = calls
            .iter()
            .filter(|call| call.writes() && call.resource == "leases")
            .map(|call| call.pod.clone())
            .collect();
        Ok(pods.len())
    };
    wait::until("two leaders", PATIENCE, writers, |count| *count == 2).await?;

    // A rollout under both: never more than one replica is away.
    support::patch_spec(&sandbox, json!({"podLabels": {"rolled": "by-two"}})).await?;
    let start = Instant::now();
    loop {
        let replaced = sandbox.pods("rolled=by-two").await?.len();
        let away = 3 - support::pods(&sandbox)
            .await?
            .iter()
            .filter(|pod| support::is_ready(pod))
            .count();
        ensure!(away <= 1, "{away} of 3 replicas are away");
        if replaced == 3 && away == 0 {
            break;
        }
        ensure!(
            start.elapsed() < PATIENCE * 2,
            "{replaced} of 3 replicas were replaced"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    support::rolled_out(&sandbox).await?;
    // And neither undoes what the other wrote afterwards.
    let before = support::settled(&sandbox).await?;
    support::no_write(&sandbox, Duration::from_secs(20), &before).await
}

/// An installation with `clusterLabels` serves what carries them, and leaves the rest as it is.
async fn shards(sandbox: Sandbox) -> Result<()> {
    const LEFT_ALONE: Duration = Duration::from_secs(5);
    let options = OperatorOptions {
        values: json!({"clusterLabels": {"shard": "a"}}),
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(&sandbox).await?;
    let mut other = support::minimal(&sandbox, 1);
    other["metadata"]["labels"] = json!({"shard": "b"});
    sandbox.apply_yaml(&other.to_string()).await?;
    let service = || async { Ok(sandbox.api::<Service>().get_opt(NAME).await?) };
    let nothing = Option::<Service>::is_none;
    wait::throughout(
        "a cluster of others left alone",
        LEFT_ALONE,
        service,
        nothing,
    )
    .await?;
    let status = sandbox.status(NAME).await?;
    ensure!(
        status["conditions"].is_null(),
        "a cluster of others was reported on: {status}"
    );

    let cluster = format!("bytebasecluster/{NAME}");
    let label = |label: &'static str| {
        let (sandbox, cluster) = (&sandbox, &cluster);
        async move {
            sandbox
                .kubectl(&["label", cluster, label, "--overwrite"])
                .await
        }
    };
    label("shard=a").await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;

    // It goes to another installation: nothing ends, and nothing is put back.
    label("shard=b").await?;
    sandbox
        .kubectl(&["delete", &format!("service/{NAME}")])
        .await?;
    wait::throughout("a Service that stays away", LEFT_ALONE, service, nothing).await?;
    ensure!(support::lives(&sandbox).await? == before, "a replica ended");

    label("shard=a").await?;
    wait::until("the Service", PATIENCE, service, Option::is_some).await?;
    ensure!(support::lives(&sandbox).await? == before, "a replica ended");
    Ok(())
}

/// A leader and a standby, with a cluster that is Ready.
async fn pair(sandbox: &Sandbox) -> Result<()> {
    let options = OperatorOptions {
        replicas: 2,
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(sandbox).await?;
    sandbox
        .apply_yaml(&support::minimal(sandbox, 1).to_string())
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    wait_for_pair(sandbox).await
}

pub(super) async fn wait_for_pair(sandbox: &Sandbox) -> Result<()> {
    let pods = || sandbox.operator_pods();
    wait::until("two operators", PATIENCE, pods, |pods| {
        pods.len() == 2
            && pods
                .iter()
                .all(|pod| pod.metadata.deletion_timestamp.is_none() && support::is_ready(pod))
    })
    .await?;
    Ok(())
}

/// An operator process leads: a change of the spec reaches the pod.
async fn change_arrives(sandbox: &Sandbox, led_by: &str) -> Result<()> {
    support::patch_spec(sandbox, json!({"podLabels": {"led-by": led_by}})).await?;
    let selector = format!("led-by={led_by}");
    let labelled = || sandbox.pods(&selector);
    wait::until("the change to arrive", PATIENCE, labelled, |pods| {
        pods.len() == 1 && pods.iter().all(support::is_ready)
    })
    .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    sandbox
        .wait_condition(NAME, "RolloutComplete", "True", "")
        .await?;
    Ok(())
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status
        .as_ref()?
        .container_statuses
        .as_ref()?
        .iter()
        .find(|status| status.name == CONTAINER)
}

/// Who leads.
pub(super) async fn holder(sandbox: &Sandbox) -> Result<String> {
    Ok(support::lease(sandbox).await?.0)
}

/// Who leads once `before` does not.
pub(super) async fn next_holder(sandbox: &Sandbox, before: &str) -> Result<String> {
    wait::until(
        "another leader",
        PATIENCE,
        || holder(sandbox),
        |now| !now.is_empty() && now != before,
    )
    .await
}

/// The identity is the pod's name and a random part.
pub(super) fn pod_of(identity: &str) -> String {
    identity
        .rsplit_once('-')
        .map_or(identity, |(pod, _)| pod)
        .to_owned()
}
