//! Kubernetes itself fails: no replica ends for it, and what was asked for meanwhile is done
//! afterwards.

use super::operator;
use super::support::{self, Lives, NAME};
use crate::cluster::Component;
use crate::cluster::faults::{self, Blow};
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox};
use crate::scenario::{Lane, Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "watches-cut",
        "What changes while the operator's connections are cut is found afterwards, also a cluster that was deleted and made again.",
        |sandbox| Box::pin(watches_cut(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(110),
    Scenario::new(
        "api-server-stopped",
        "A minute without the API server ends no replica, and the operator goes on afterwards.",
        |sandbox| Box::pin(api_server_stopped(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(170)
    .lane(Lane::ControlPlane),
    Scenario::new(
        "etcd-stopped",
        "While etcd is frozen, and then stopped, no replica ends, and the operator goes on afterwards.",
        |sandbox| Box::pin(etcd_stopped(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(160)
    .lane(Lane::ControlPlane),
    Scenario::new(
        "kubelet-stopped",
        "A silent node is reported, its replicas still count as active, and none is replaced.",
        |sandbox| Box::pin(kubelet_stopped(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(160)
    .lane(Lane::ControlPlane),
    Scenario::new(
        "kubelet-frozen",
        "Logs of twelve clusters that a new leader wants, and that the kubelet takes the requests for and never gives, delay no edit of another.",
        |sandbox| Box::pin(kubelet_frozen(sandbox)),
    )
    .stand_in_only(stand_in::MANY)
    .takes(150)
    .lane(Lane::ControlPlane),
];

/// Clusters whose logs are wanted. Each is read for five seconds, and then not for two, so that
/// more than eight are being read at any time, which is what the operator reconciles at a time.
const WANTED: usize = 12;
/// Edits meanwhile; the longest counts.
const EDITS: usize = 3;

/// The API server takes its time to come back, and the kubelet waits between its starts.
const BACK: Duration = Duration::from_mins(3);
/// How long the API server is away: longer than any lease.
const AWAY: Duration = Duration::from_mins(1);
/// An API server that serves says so at once.
const ANSWER: Duration = Duration::from_secs(5);
/// By then the operator process that leads has reconciled every cluster.
const RECONCILED: Duration = Duration::from_secs(8);
/// How long etcd stands still: longer than the leader's lease, so that the lease must be taken
/// again.
const STILL: Duration = Duration::from_secs(20);

async fn api_server_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let cluster = &sandbox.harness().cluster;
    timed("the API server gone", cluster.park(Component::ApiServer)).await?;
    tokio::time::sleep(AWAY).await;
    // The replicas need no Kubernetes to send heartbeats.
    ensure!(
        support::active_rows(&sandbox).await? == 2,
        "the replicas stopped sending heartbeats"
    );
    cluster.unpark(Component::ApiServer).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    none_ended(&sandbox, &before).await?;
    timed("a change in all pods", still_works(&sandbox)).await
}

async fn etcd_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let cluster = &sandbox.harness().cluster;
    // First etcd answers no request, with every connection open; then it ends.
    faults::strike_component(cluster, Component::Etcd, Blow::Freeze).await?;
    tokio::time::sleep(STILL).await;
    faults::strike_component(cluster, Component::Etcd, Blow::Thaw).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    timed("etcd gone", cluster.park(Component::Etcd)).await?;
    tokio::time::sleep(STILL).await;
    cluster.unpark(Component::Etcd).await?;
    timed("the API server back", wait_for_api(&sandbox)).await?;
    none_ended(&sandbox, &before).await?;
    timed("a change in all pods", still_works(&sandbox)).await
}

/// The node reports no more; its pods run on. Status says what is known, and no replica is
/// replaced.
async fn kubelet_stopped(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    sandbox.harness().cluster.stop_kubelet().await?;
    // After 50 s Kubernetes calls the pods of a silent node not ready. They send heartbeats as
    // before.
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "False", "NodeSilent")
        .await
        .context("with the node gone")?;
    let reported = || sandbox.status(NAME);
    wait::until("both not Ready and active", PATIENCE, reported, |status| {
        status["readyReplicas"] == 0
            && status["activeReplicas"] == 2
            && status["phase"] == "Degraded"
    })
    .await?;
    // A change must wait: the rollout ends no replica while others are not Ready.
    support::patch_spec(&sandbox, json!({"podLabels": {"asked": "meanwhile"}})).await?;
    wait::throughout(
        "the same replicas",
        Duration::from_secs(10),
        || support::lives(&sandbox),
        |now| *now == before,
    )
    .await?;
    sandbox.harness().cluster.start_kubelet().await?;
    let changed = || sandbox.pods("asked=meanwhile");
    wait::until("the change in both pods", BACK, changed, |pods| {
        pods.len() == 2
    })
    .await?;
    all_is_well(&sandbox).await
}

/// The kubelet stands still, with its port open, while another operator process takes over that
/// does not know the ids of the replicas: these are in their logs.
async fn kubelet_frozen(sandbox: Sandbox) -> Result<()> {
    let options = OperatorOptions {
        replicas: 2,
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(&sandbox).await?;
    let cluster = support::minimal(&sandbox, 1).to_string();
    sandbox.apply_yaml(&cluster).await?;
    let names = support::many(&sandbox, "unread", WANTED).await?;
    // The kubelet could not start another.
    operator::wait_for_pair(&sandbox).await?;
    let before = support::edit_takes(&sandbox, NAME).await?;
    sandbox.harness().cluster.freeze_kubelet().await?;
    let edited = edit_beside_unread_logs(&sandbox, &names).await;
    sandbox.harness().cluster.thaw_kubelet().await?;
    let after = edited?;
    println!(
        "    an edit after {:.1} s, and beside logs that never come after {:.1} s",
        before.as_secs_f32(),
        after.as_secs_f32()
    );
    operator::wait_for_pair(&sandbox).await?;
    all_is_well(&sandbox).await
}

/// How long an edit takes while a new leader wants the logs of these clusters.
async fn edit_beside_unread_logs(sandbox: &Sandbox, names: &[String]) -> Result<Duration> {
    let first = operator::holder(sandbox).await?;
    let leader = sandbox.api::<Pod>().get(&operator::pod_of(&first)).await?;
    sandbox
        .strike(&leader, operator::CONTAINER, Blow::Kill)
        .await?;
    // No process leads until the Lease has run out. The next one finds no id in the status.
    let (clusters, parameters) = (sandbox.clusters(), PatchParams::default());
    let without_ids = Patch::Merge(json!({"status": {"replicaStatuses": null}}));
    let forgotten = names
        .iter()
        .map(|name| clusters.patch_status(name, &parameters, &without_ids));
    try_join_all(forgotten).await?;
    let second = operator::next_holder(sandbox, &first).await?;
    let pod = operator::pod_of(&second);
    let wanted = || async {
        let calls = sandbox.calls().await?.into_iter();
        let logs = calls.filter(|call| call.pod == pod && call.resource == "pods/log");
        Ok(logs.map(|call| call.name).collect::<BTreeSet<_>>().len())
    };
    // The API server notes a request down when the operator has given it up.
    wait::until("the logs to be wanted", PATIENCE, wanted, |pods| {
        *pods >= names.len()
    })
    .await?;
    let mut longest = Duration::ZERO;
    for _ in 0..EDITS {
        longest = longest.max(support::edit_takes(sandbox, NAME).await?);
    }
    // A request for a log that is not answered ends after five seconds.
    ensure!(
        longest < Duration::from_secs(4),
        "an edit took {longest:?}, beside logs that never come"
    );
    Ok(longest)
}

/// Every connection of the operator to the API server is broken off, and none is made for some
/// seconds.
async fn watches_cut(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    let operator = sandbox.operator_pods().await?;
    let address = operator
        .iter()
        .find_map(|pod| pod.status.as_ref()?.pod_ip.clone())
        .context("the operator has no address")?;
    for (round, blow) in ["REJECT --reject-with tcp-reset", "DROP"]
        .iter()
        .enumerate()
    {
        let cluster = &sandbox.harness().cluster;
        let rule = format!("INPUT -s {address} -p tcp --dport 6443 -j {blow}");
        cluster.on_node(&format!("iptables -I {rule}")).await?;
        // What changes while no watch is open is found all the same: an object gone, another
        // edited, the spec changed.
        let gone = sandbox
            .kubectl(&["delete", "service/demo", "poddisruptionbudget/demo"])
            .await;
        let label = format!("cut-{round}");
        let wish = support::patch_spec(&sandbox, json!({"podLabels": {"wish": label}})).await;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let counted = cluster.on_node("iptables -S INPUT -v").await;
        cluster.on_node(&format!("iptables -D {rule}")).await?;
        gone?;
        wish?;
        let cut = packets(&counted?, &address)?;
        ensure!(cut > 0, "{blow}: no packet of the operator was cut off");
        let selector = format!("wish={label}");
        let changed = || sandbox.pods(&selector);
        wait::until("the wish in the pod", PATIENCE, changed, |pods| {
            pods.len() == 1
        })
        .await?;
        all_is_well(&sandbox).await?;
        // Each watch is begun again at its own time.
        let objects = ["get", "service/demo", "poddisruptionbudget/demo"];
        let again = || sandbox.kubectl(&objects);
        wait::until("what was deleted, again", PATIENCE, again, |_| true).await?;
    }
    made_again_unseen(&sandbox, &address).await
}

/// The cluster is deleted and made again while the operator sees nothing: the new one comes up by
/// itself.
async fn made_again_unseen(sandbox: &Sandbox, address: &str) -> Result<()> {
    let before = support::lives(sandbox).await?;
    let cluster = &sandbox.harness().cluster;
    // What the API server sends on an open watch would arrive if only the other way were cut.
    let rules = [
        format!("INPUT -s {address} -p tcp --dport 6443 -j DROP"),
        format!("OUTPUT -d {address} -p tcp --sport 6443 -j DROP"),
    ];
    for rule in &rules {
        cluster.on_node(&format!("iptables -I {rule}")).await?;
    }
    let made = support::make_again(sandbox).await;
    // A leader renews its Lease every two seconds.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let counted = cluster.on_node("iptables -S INPUT -v").await;
    for rule in &rules {
        cluster.on_node(&format!("iptables -D {rule}")).await?;
    }
    made?;
    let dropped = packets(&counted?, address)?;
    ensure!(dropped > 0, "no packet of the operator was cut off");
    all_is_well(sandbox).await?;
    let after = support::lives(sandbox).await?;
    let is_new = |(pod, (uid, _)): (&String, &(String, i32))| {
        before.get(pod).is_none_or(|(before, _)| before != uid)
    };
    ensure!(
        after.len() == 1 && after.iter().all(is_new),
        "{before:?} became {after:?}"
    );
    Ok(())
}

/// Packets that the rule for this address has met, as `iptables -S -v` counts them.
fn packets(rules: &str, address: &str) -> Result<u64> {
    let source = format!("-s {address}/32 ");
    let mut of_address = rules.lines().filter(|rule| rule.contains(&source));
    let rule = of_address.next().context("the rule is gone")?;
    let (_, counters) = rule.split_once(" -c ").context("no counter")?;
    let count = counters.split_whitespace().next().unwrap_or_default();
    Ok(count.parse()?)
}

/// Says how long something took: recovery is what these scenarios are slow at.
async fn timed<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    let done = work.await?;
    println!("    {what} after {:.0} s", start.elapsed().as_secs_f64());
    Ok(done)
}

async fn wait_for_api(sandbox: &Sandbox) -> Result<()> {
    let ready = || async {
        let request = axum::http::Request::get("/readyz").body(Vec::new())?;
        let client = sandbox.client();
        Ok(timeout(ANSWER, client.request_text(request)).await??)
    };
    wait::until("the API server", BACK, ready, |answer| {
        answer.trim() == "ok"
    })
    .await?;
    // Not before: a kubelet that starts while the API server hangs brings nothing back for minutes.
    sandbox.harness().cluster.forget_backoff().await
}

/// Once the operator leads again and has reconciled, every replica is still the one it was.
async fn none_ended(sandbox: &Sandbox, before: &Lives) -> Result<()> {
    let back = Timestamp::now();
    let renewed = || async { Ok(support::lease(sandbox).await?.1) };
    let led = wait::until("a leader", BACK, renewed, |at| *at > back);
    timed("a leader", led).await?;
    wait::throughout(
        "the same replicas",
        RECONCILED,
        || support::lives(sandbox),
        |lives| lives == before,
    )
    .await
}

/// The status speaks of the present spec, and says that it has reached every replica and that all
/// of them are active.
async fn all_is_well(sandbox: &Sandbox) -> Result<()> {
    let settled = || async {
        let cluster = sandbox.clusters().get(NAME).await?;
        let status = &cluster.data["status"];
        let current = status["observedGeneration"].as_i64() == cluster.metadata.generation;
        Ok(current && status["phase"] == "Ready")
    };
    wait::until("a Ready cluster", BACK, settled, |well| *well).await?;
    Ok(())
}

/// A change reaches both replicas.
async fn still_works(sandbox: &Sandbox) -> Result<()> {
    support::patch_spec(sandbox, json!({"podLabels": {"asked": "afterwards"}})).await?;
    let changed = || sandbox.pods("asked=afterwards");
    wait::until("the change in both pods", BACK, changed, |pods| {
        pods.len() == 2
    })
    .await?;
    all_is_well(sandbox).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packets_of_one_rule_are_read() -> Result<()> {
        let rules = "-P INPUT ACCEPT -c 9 900\n\
            -A INPUT -s 10.244.0.50/32 -p tcp -m tcp --dport 6443 -c 7 420 -j DROP\n\
            -A INPUT -s 10.244.0.5/32 -p tcp -m tcp --dport 6443 -c 12 720 -j REJECT --reject-with tcp-reset\n";
        assert_eq!(packets(rules, "10.244.0.5")?, 12);
        assert!(packets(rules, "10.244.0.6").is_err());
        Ok(())
    }
}
