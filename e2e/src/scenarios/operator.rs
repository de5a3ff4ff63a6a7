//! The operator itself: killed, doubled, restarted.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::coordination::v1::Lease;
use kube::ResourceExt;
use serde_json::json;

use super::support::{self, NAME};
use crate::faults::Blow;
use crate::sandbox::{OperatorOptions, PATIENCE, Sandbox};
use crate::wait;

/// Killed at random moments of everything a cluster goes through, the operator takes up where it was.
pub async fn killed_at_random(sandbox: Sandbox) -> Result<()> {
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
            .wait_condition(NAME, "RolloutComplete", "True", "")
            .await?;
    }
    Ok(())
}

async fn kill(sandbox: &Sandbox) -> Result<()> {
    let pods = || sandbox.operator_pods();
    let running = wait::until("a running operator", PATIENCE, pods, |pods| {
        pods.iter().any(|pod| {
            pod.status
                .as_ref()
                .and_then(|status| status.container_statuses.as_ref())
                .is_some_and(|list| {
                    list.iter().any(|container| {
                        container
                            .state
                            .as_ref()
                            .is_some_and(|state| state.running.is_some())
                    })
                })
        })
    })
    .await?;
    let pod = running.first().context("no operator")?;
    let container = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.first())
        .context("no container")?
        .name
        .clone();
    // Between the look and the blow it may have ended by an earlier blow.
    if let Err(error) = sandbox.strike(pod, &container, Blow::Kill).await {
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
pub async fn restart_writes_nothing(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    // Settled: the last status of the pods has come in.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let before = support::versions(&sandbox).await?;
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
            && pods.iter().any(|pod| {
                pod.status
                    .as_ref()
                    .and_then(|status| status.conditions.as_ref())
                    .is_some_and(|list| {
                        list.iter().any(|condition| {
                            condition.type_ == "Ready" && condition.status == "True"
                        })
                    })
            })
    })
    .await?;
    wait::throughout(
        "no write",
        Duration::from_secs(20),
        || support::versions(&sandbox),
        |now| *now == before,
    )
    .await
}

/// Two operators: one leads. Killed, the other takes over once the lease has run out; asked to end, at once.
pub async fn leader_hand_over(sandbox: Sandbox) -> Result<()> {
    let options = OperatorOptions {
        replicas: 2,
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(&sandbox).await?;
    sandbox
        .apply_yaml(&support::minimal(&sandbox, 1).to_string())
        .await?;
    sandbox.wait_condition(NAME, "Ready", "True", "").await?;

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

    wait::until(
        "two operators again",
        PATIENCE,
        || sandbox.operator_pods(),
        |pods| {
            pods.iter()
                .filter(|pod| pod.metadata.deletion_timestamp.is_none())
                .count()
                == 2
                && pods.len() == 2
        },
    )
    .await?;
    let killed = Instant::now();
    sandbox
        .kubectl(&[
            "delete",
            "pod",
            &pod_of(&second),
            "--grace-period=0",
            "--force",
            "--wait=false",
        ])
        .await?;
    next_holder(&sandbox, &second).await?;
    println!(
        "    take-over after {:.1} s",
        killed.elapsed().as_secs_f32()
    );
    support::patch_spec(&sandbox, json!({"podLabels": {"led-by": "another"}})).await?;
    let labelled = || async { Ok(sandbox.pods("led-by=another").await?.len()) };
    wait::until("the change to arrive", PATIENCE, labelled, |count| {
        *count == 1
    })
    .await?;
    Ok(())
}

async fn holder(sandbox: &Sandbox) -> Result<String> {
    let leases = sandbox
        .api::<Lease>()
        .list(&kube::api::ListParams::default())
        .await?;
    leases
        .iter()
        .find_map(|lease| {
            lease
                .spec
                .as_ref()
                .and_then(|spec| spec.holder_identity.clone())
        })
        .context("nobody holds the lease")
}

async fn next_holder(sandbox: &Sandbox, before: &str) -> Result<String> {
    wait::until(
        "another leader",
        PATIENCE,
        || holder(sandbox),
        |now| !now.is_empty() && now != before,
    )
    .await
}

/// The identity is the pod's name and a random part.
fn pod_of(identity: &str) -> String {
    identity
        .rsplit_once('-')
        .map_or(identity, |(pod, _)| pod)
        .to_owned()
}
