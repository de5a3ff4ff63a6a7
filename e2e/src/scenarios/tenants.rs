//! What one user writes, or what one namespace lacks, does not keep the operator from serving the
//! others.

use super::support::{self, NAME};
use crate::scenario::sandbox::{LABEL, OperatorOptions, PATIENCE, Sandbox, condition};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result};
use serde_json::{Value, json};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "unreadable-cluster",
        "The status of a cluster whose spec cannot be read says so, and a new operator process serves all others.",
        |sandbox| Box::pin(unreadable(sandbox)),
    ),
    Scenario::new(
        "namespace-lost",
        "A watched namespace that is deleted holds back no cluster of another; one whose pods cannot be watched is reported as unknown.",
        |sandbox| Box::pin(namespace_lost(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
];

/// More levels than a parser of JSON takes that guards its stack.
const DEPTH: usize = 140;
/// Stands in the spec that cannot be read, and must stand in no log.
const PLANTED: &str = "pl4nted-in-a-spec-that-cannot-be-read";

async fn unreadable(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    let mut deep = support::second(&sandbox);
    deep["spec"]["podAnnotations"] = json!({"planted": PLANTED});
    let template = (0..DEPTH).fold(json!({}), |inside, _| json!({"deeper": inside}));
    deep["spec"]["podTemplate"] = json!({"spec": template});
    sandbox.plant("word of the spec that cannot be read", PLANTED);
    sandbox.apply_yaml(&deep.to_string()).await?;
    reads_as(&sandbox, "False", &["spec.podTemplate", "128 levels"]).await?;
    // A new process has to list it before it does anything.
    support::restart_operator(&sandbox).await?;
    support::patch_spec(&sandbox, json!({"podLabels": {"served": "yes"}})).await?;
    wait::until(
        "the change in the pod",
        PATIENCE,
        || sandbox.pods("served=yes"),
        |pods| pods.len() == 1,
    )
    .await?;
    support::rolled_out(&sandbox).await?;
    let removal = r#"[{"op": "remove", "path": "/spec/podTemplate"}]"#;
    sandbox
        .kubectl(&["patch", "bbc", "second", "--type=json", "-p", removal])
        .await?;
    reads_as(&sandbox, "True", &[]).await
}

/// Waits for the state of `ConfigurationValid` of the cluster that cannot be read; by kubectl,
/// since this program's client cannot read it either.
async fn reads_as(sandbox: &Sandbox, status: &str, words: &[&str]) -> Result<()> {
    let read = || async {
        let arguments = [
            "get",
            "bbc",
            "second",
            "-o",
            "jsonpath={.status.conditions}",
        ];
        let printed = sandbox.kubectl(&arguments).await?;
        let conditions: Value = serde_json::from_str(&printed).unwrap_or_default();
        Ok(condition(&conditions, "ConfigurationValid").cloned())
    };
    let found = wait::until(
        &format!("ConfigurationValid={status} of second"),
        PATIENCE,
        read,
        |found| {
            found
                .as_ref()
                .is_some_and(|found| found["status"] == status)
        },
    )
    .await?;
    support::says(&found.unwrap_or_default(), words)
}

async fn namespace_lost(sandbox: Sandbox) -> Result<()> {
    let other = format!("{}-b", sandbox.namespace());
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": other, "labels": {LABEL: "namespace-lost"}},
    });
    sandbox.apply_yaml(&namespace.to_string()).await?;
    let options = OperatorOptions {
        values: json!({"watchNamespaces": [sandbox.namespace(), other]}),
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(&sandbox).await?;
    sandbox
        .apply_yaml(&support::licensed(&sandbox, 1).to_string())
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;

    // Its roles go with it.
    sandbox.kubectl(&["delete", "namespace", &other]).await?;
    support::restart_operator(&sandbox).await?;
    support::patch_spec(&sandbox, json!({"podLabels": {"served": "yes"}})).await?;
    support::rolled_out(&sandbox).await?;

    blind(&sandbox).await
}

/// Without the right to see its pods a cluster is not reported as it was.
async fn blind(sandbox: &Sandbox) -> Result<()> {
    let listed: Value =
        serde_json::from_str(&sandbox.kubectl(&["get", "roles", "-o", "json"]).await?)?;
    let roles = listed["items"].as_array().context("no roles")?;
    let sees_pods = |rule: &Value| {
        let watches = rule["verbs"]
            .as_array()
            .is_some_and(|verbs| verbs.contains(&json!("watch")));
        watches && rule["resources"] == json!(["pods"])
    };
    let role = roles
        .iter()
        .find(|role| {
            role["rules"]
                .as_array()
                .is_some_and(|rules| rules.iter().any(sees_pods))
        })
        .context("no role with pods")?;
    let name = role["metadata"]["name"].as_str().context("no name")?;
    let mut fewer = role["rules"].clone();
    fewer
        .as_array_mut()
        .context("no rules")?
        .retain(|rule| !sees_pods(rule));
    set_rules(sandbox, name, &fewer).await?;
    support::restart_operator(sandbox).await?;
    let stalled = sandbox
        .wait_condition(NAME, "Stalled", "True", "CannotWatch")
        .await?;
    support::says(&stalled, &["may not watch pods", sandbox.namespace()])?;
    sandbox
        .wait_condition(NAME, "Ready", "Unknown", "CannotWatch")
        .await?;
    wait::until(
        "the operator to be Ready all the same",
        PATIENCE,
        || sandbox.operator_pods(),
        |pods| !pods.is_empty() && pods.iter().all(support::is_ready),
    )
    .await?;
    set_rules(sandbox, name, &role["rules"]).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn set_rules(sandbox: &Sandbox, role: &str, rules: &Value) -> Result<()> {
    let patch = json!({"rules": rules}).to_string();
    sandbox
        .kubectl(&["patch", "role", role, "--type=merge", "-p", &patch])
        .await?;
    Ok(())
}
