//! Changes on their way to the replicas.

use super::support::{self, Lives, NAME};
use crate::scenario::sandbox::{PATIENCE, Sandbox, condition};
use crate::scenario::{Scenario, collect, leaks, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "image-change",
        "A new version reaches one replica at a time; a downgrade is refused.",
        |sandbox| Box::pin(image_change(sandbox)),
    )
    .stand_in_only(stand_in::VERSIONS),
    Scenario::new(
        "bad-image",
        "An image that does not exist stops the rollout at one replica; corrected, the rollout goes on.",
        |sandbox| Box::pin(bad_image(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "failing-version",
        "A version that does not come up stops the rollout at one replica; status quotes why from its log, without secrets, and says that the version may go back.",
        |sandbox| Box::pin(failing_version(sandbox)),
    )
    .stand_in_only(stand_in::FAILING)
    .takes(90),
    Scenario::new(
        "budget",
        "A user's own PodDisruptionBudget holds a rollout; status says so, and the rollout goes on when it may.",
        |sandbox| Box::pin(held_by_budget(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "paused",
        "A paused cluster is reported on and not changed.",
        |sandbox| Box::pin(paused(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
];

/// A rollout of three replicas, one at a time.
async fn image_change(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 3);
    cluster["spec"]["version"] = json!("3.20.0");
    // The API server does not store these: what differs only in form holds up no rollout.
    cluster["spec"]["volumes"] = json!([{"name": "extra", "emptyDir": {}}]);
    cluster["spec"]["volumeMounts"] =
        json!([{"name": "extra", "mountPath": "/extra", "readOnly": false}]);
    cluster["spec"]["podTemplate"] = json!({"spec": {"hostPID": false}});
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;

    support::patch_spec(&sandbox, json!({"version": "3.21.1"})).await?;
    let start = Instant::now();
    loop {
        let pods = support::pods(&sandbox).await?;
        let ending = pods.iter().filter(|pod| support::is_ending(pod)).count();
        ensure!(ending <= 1, "{ending} replicas end at once");
        // By Kubernetes' own word.
        let ready = pods.iter().filter(|pod| support::is_ready(pod)).count();
        ensure!(
            ready >= 2,
            "only {ready} of 3 replicas are Ready during the rollout"
        );
        let status = sandbox.status(NAME).await?;
        if status["version"] == "3.21.1" && status["phase"] == "Ready" {
            break;
        }
        ensure!(
            start.elapsed() < Duration::from_mins(4),
            "the rollout does not end: {status:#}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let after = support::lives(&sandbox).await?;
    ensure!(
        before
            .iter()
            .all(|(name, life)| after.get(name).is_some_and(|now| now.0 != life.0)),
        "not every replica was replaced"
    );
    sandbox
        .wait_condition(NAME, "RolloutComplete", "True", "RolloutDone")
        .await?;
    let schema = sandbox.status(NAME).await?["schemaVersion"]
        .as_str()
        .map(str::to_owned);
    ensure!(
        schema
            .as_deref()
            .is_some_and(|schema| schema.starts_with("3.21.")),
        "schema {schema:?}"
    );

    // Back would be a downgrade of a migrated schema.
    support::patch_spec(&sandbox, json!({"version": "3.20.0"})).await?;
    let refused = sandbox
        .wait_condition(NAME, "RolloutComplete", "False", "DowngradeRefused")
        .await?;
    support::says(&refused, &["3.21", "3.20.0"])?;
    ensure!(
        support::lives(&sandbox).await? == after,
        "a replica was replaced for a refused downgrade"
    );
    support::patch_spec(&sandbox, json!({"version": "3.21.1"})).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn bad_image(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 2);
    cluster["spec"]["rollout"]["readyTimeoutSeconds"] = json!(15);
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;

    support::patch_spec(
        &sandbox,
        json!({"image": {"tag": "no-such-tag", "pullPolicy": "Never"}}),
    )
    .await?;
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "False", "ImagePullFailed")
        .await?;
    let stalled = sandbox
        .wait_condition(NAME, "Stalled", "True", "RolloutStalled")
        .await?;
    support::says(&stalled, &["demo-1", "cannot be pulled"])?;
    let untouched = || support::lives(&sandbox);
    wait::throughout(
        "demo-0 as it was",
        Duration::from_secs(5),
        untouched,
        |lives| lives.get("demo-0") == before.get("demo-0"),
    )
    .await?;

    support::patch_spec(
        &sandbox,
        json!({"image": {"tag": null, "pullPolicy": null}}),
    )
    .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    sandbox
        .wait_condition(NAME, "RolloutComplete", "True", "")
        .await?;
    ensure!(
        support::lives(&sandbox).await?.get("demo-0") == before.get("demo-0"),
        "demo-0 was replaced although its template came back"
    );
    Ok(())
}

/// A version whose start fails, and which logs the login that it was given.
async fn failing_version(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::licensed(&sandbox, 3);
    cluster["spec"]["version"] = json!("3.20.0");
    cluster["spec"]["env"] = json!([{"name": "BYTEBASE_STUB_FAILING_VERSION", "value": "3.21.1"}]);
    cluster["spec"]["rollout"]["readyTimeoutSeconds"] = json!(15);
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;

    support::patch_spec(&sandbox, json!({"version": "3.21.1"})).await?;
    let seen = || async { Ok((sandbox.status(NAME).await?, support::lives(&sandbox).await?)) };
    let (status, lives) = wait::until_while(
        "a stop that quotes a log and names the way back",
        PATIENCE,
        seen,
        |(_, lives)| {
            let others = replaced(&before, lives);
            ensure!(others.len() <= 1, "replaced: {others:?}");
            Ok(())
        },
        |(status, _)| {
            let stalled = condition(&status["conditions"], "Stalled");
            let message = stalled.and_then(|stalled| stalled["message"].as_str());
            message.is_some_and(|message| {
                message.contains("its log says: ")
                    && message.contains("spec.version may go back to 3.20.0")
            })
        },
    )
    .await?;
    let failing = replaced(&before, &lives).concat();
    quotes_the_log(&status, &failing, &lives)?;
    // Otherwise there would have been nothing to leave out.
    let is_in_log = || async {
        let log = sandbox.kubectl(&["logs", &failing]).await?;
        Ok(log.contains(&sandbox.database().password))
    };
    wait::until("the password in the log", PATIENCE, is_in_log, |is| *is).await?;
    // Once the version has gone back, status no longer says what it says now.
    let leaks = leaks::find(&sandbox.planted(), &collect::public_places(&sandbox).await?);
    ensure!(leaks.is_empty(), "secrets leaked: {}", leaks.join("; "));
    let uid = |lives: &Lives| lives.get(&failing).map(|(uid, _)| uid.clone());
    wait::throughout(
        "one replaced replica, the same one",
        Duration::from_secs(10),
        || support::lives(&sandbox),
        |now| replaced(&before, now) == [failing.as_str()] && uid(now) == uid(&lives),
    )
    .await?;
    support::wait_event(&sandbox, "RolloutStalled").await?;

    support::patch_spec(&sandbox, json!({"version": "3.20.0"})).await?;
    sandbox
        .wait_condition(NAME, "RolloutComplete", "True", "RolloutDone")
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let after = support::lives(&sandbox).await?;
    ensure!(
        after.len() == 3 && replaced(&before, &after) == [failing.as_str()],
        "the way back replaced others: {after:?}"
    );
    let status = sandbox.status(NAME).await?;
    ensure!(
        status["version"] == "3.20.0" && !status.to_string().contains("logLine"),
        "{status:#}"
    );
    Ok(())
}

/// Pods that are no longer what they were: another one has their name, they were restarted, or they
/// are gone.
fn replaced<'a>(before: &'a Lives, now: &Lives) -> Vec<&'a str> {
    let replaced = before
        .iter()
        .filter(|(name, life)| now.get(*name) != Some(life));
    replaced.map(|(name, _)| name.as_str()).collect()
}

/// The stopped rollout names this pod and quotes the line of its log that status holds.
fn quotes_the_log(status: &Value, pod: &str, lives: &Lives) -> Result<()> {
    let mut replicas = status["replicaStatuses"].as_array().into_iter().flatten();
    let replica = replicas.find(|replica| replica["pod"] == pod);
    let line = &replica.context("the pod is not in status")?["logLine"];
    let text = line["text"].as_str().context("status quotes no log")?;
    ensure!(
        text.starts_with("Cannot new server: version 3.21.1 was made to fail")
            && text.contains("***"),
        "{text}"
    );
    let uid = lives.get(pod).map(|(uid, _)| uid.as_str());
    ensure!(line["podUID"].as_str() == uid, "{line} is not of {uid:?}");
    for kind in ["Stalled", "RolloutComplete"] {
        let condition = condition(&status["conditions"], kind).context(kind)?;
        ensure!(condition["reason"] == "RolloutStalled", "{condition:#}");
        support::says(condition, &[pod, text])?;
    }
    let rollout = &status["rollout"];
    ensure!(
        rollout["pod"] == pod && rollout["waitingFor"] == "Correction",
        "{rollout:#}"
    );
    Ok(())
}

/// Budgets of a user's own hold a rollout, one of them or two that select the same pod. Status says
/// so, and the rollout goes on when it may.
async fn held_by_budget(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let theirs = json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "theirs", "namespace": sandbox.namespace()},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"bytebase.com/cluster": NAME}}},
    });
    sandbox.apply_yaml(&theirs.to_string()).await?;
    support::patch_spec(&sandbox, json!({"podLabels": {"team": "blue"}})).await?;
    waits_for(&sandbox, "more than one PodDisruptionBudget").await?;

    support::patch_spec(&sandbox, json!({"disruptionBudget": {"enabled": false}})).await?;
    waits_for(&sandbox, "budget theirs").await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "a replica went that a budget protects"
    );

    sandbox
        .kubectl(&["delete", "poddisruptionbudget", "theirs"])
        .await?;
    sandbox
        .wait_condition(NAME, "RolloutComplete", "True", "")
        .await?;
    let replaced = sandbox.pods("team=blue").await?.len();
    ensure!(replaced == 2, "{replaced} of 2 replicas were replaced");
    Ok(())
}

async fn waits_for(sandbox: &Sandbox, words: &str) -> Result<()> {
    let status = || sandbox.status(NAME);
    wait::until(words, PATIENCE, status, |status| {
        let message = status["rollout"]["message"].as_str();
        status["rollout"]["pod"] == "demo-1" && message.is_some_and(|text| text.contains(words))
    })
    .await?;
    Ok(())
}

async fn paused(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    support::patch_spec(
        &sandbox,
        json!({"paused": true, "podLabels": {"team": "blue"}}),
    )
    .await?;
    sandbox
        .wait_condition(NAME, "Reconciling", "False", "Paused")
        .await?;
    sandbox.kubectl(&["delete", "ingress", NAME]).await?;
    let ingress = || async { Ok(sandbox.api::<Ingress>().get_opt(NAME).await?) };
    let period = Duration::from_secs(5);
    wait::throughout("no Ingress", period, ingress, Option::is_none).await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "replicas of a paused cluster were replaced"
    );
    support::patch_spec(&sandbox, json!({"paused": false})).await?;
    wait::until("the Ingress again", PATIENCE, ingress, Option::is_some).await?;
    sandbox
        .wait_condition(NAME, "RolloutComplete", "True", "")
        .await?;
    let labelled = || async { Ok(sandbox.pods("team=blue").await?.len()) };
    wait::until("both pods with the label", PATIENCE, labelled, |count| {
        *count == 2
    })
    .await?;
    Ok(())
}
