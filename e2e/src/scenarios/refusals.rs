//! Quotas, pod security and webhooks have a say in what is made. What they refuse is reported in
//! their words, and made once they allow it.

use super::support::{self, NAME};
use crate::scenario::Scenario;
use crate::scenario::sandbox::{OperatorOptions, Sandbox};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::time::Duration;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "quota",
        "A quota that leaves no room for a pod is reported in its own words.",
        |sandbox| Box::pin(quota(sandbox)),
    ),
    Scenario::new(
        "pod-security",
        "Pods that the namespace's security level refuses are reported.",
        |sandbox| Box::pin(pod_security(sandbox)),
    ),
    Scenario::new(
        "webhook",
        "A policy that says no and a webhook that does not answer are named; the rest goes on.",
        |sandbox| Box::pin(webhook(sandbox)),
    ),
];

async fn quota(sandbox: Sandbox) -> Result<()> {
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    // The operator's own pod is the one that fits.
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
        "spec": {"hard": {"pods": "1"}},
    });
    sandbox.apply_yaml(&quota.to_string()).await?;
    support::secrets(&sandbox).await?;
    sandbox
        .apply_yaml(&support::minimal(&sandbox, 1).to_string())
        .await?;
    refused(&sandbox, &["exceeded quota: small", "demo-0"]).await?;
    asks_nothing(&sandbox).await?;
    sandbox
        .kubectl(&["delete", "resourcequota", "small"])
        .await?;
    try_again(&sandbox).await
}

/// While a pod is refused, the operator learns of it from a watch and lists no events: a thousand
/// clusters in this state must not make the outage worse that brought them into it.
async fn asks_nothing(sandbox: &Sandbox) -> Result<()> {
    let before = sandbox.calls().await?.len();
    tokio::time::sleep(Duration::from_secs(12)).await;
    let calls = sandbox.calls().await?;
    // Other scenarios install and remove kinds meanwhile, which has every cluster reconciled.
    let asked: Vec<_> = calls
        .iter()
        .skip(before)
        .filter(|call| call.resource == "events" && call.verb == "list")
        .collect();
    ensure!(asked.is_empty(), "asked meanwhile: {asked:?}");
    Ok(())
}

async fn pod_security(sandbox: Sandbox) -> Result<()> {
    let namespace = sandbox.namespace().to_owned();
    sandbox
        .kubectl(&[
            "label",
            "namespace",
            &namespace,
            "pod-security.kubernetes.io/enforce=restricted",
        ])
        .await?;
    let mut cluster = support::minimal(&sandbox, 1);
    cluster["spec"]["podTemplate"] = json!({"spec": {"hostNetwork": true}});
    support::start(&sandbox, &cluster).await?;
    refused(&sandbox, &["violates PodSecurity", "hostNetwork"]).await?;
    // No replica runs yet that a rollout would have to spare, so a corrected template is enough.
    support::patch_spec(&sandbox, json!({"podTemplate": null})).await?;
    try_again(&sandbox).await
}

/// A policy that says no, and a webhook that does not answer.
async fn webhook(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let namespace = sandbox.namespace().to_owned();
    for (objects, words) in [
        (policy(&namespace), ["not on a Friday", "ingresses/demo"]),
        (
            silent_webhook(&namespace),
            ["refuse.example.com", "ingresses/demo"],
        ),
    ] {
        for object in &objects {
            sandbox.apply_yaml(&object.to_string()).await?;
        }
        let result = denied(&sandbox, &words).await;
        // They belong to the whole Kubernetes cluster.
        for object in &objects {
            let kind = object["kind"].as_str().context("no kind")?;
            sandbox.kubectl(&["delete", kind, &namespace]).await?;
        }
        result?;
        sandbox.wait_condition(NAME, "Stalled", "False", "").await?;
        sandbox
            .kubectl(&["get", "ingress", NAME])
            .await
            .context("the Ingress did not come back")?;
        support::patch_spec(&sandbox, json!({"ingress": {"annotations": null}})).await?;
    }
    Ok(())
}

/// The Ingress goes, and may not come back; the rest goes on.
async fn denied(sandbox: &Sandbox, words: &[&str]) -> Result<()> {
    // It takes a moment until the API server obeys; until then the operator puts it back.
    let mut round = 0;
    let reported = loop {
        round += 1;
        sandbox
            .kubectl(&["delete", "ingress", NAME, "--ignore-not-found"])
            .await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let stalled = support::condition_now(sandbox, "Stalled").await?;
        if stalled["status"] == "True" {
            break stalled;
        }
        ensure!(round < 20, "never refused: {stalled}");
    };
    ensure!(reported["reason"] == "ApplyFailed", "{reported}");
    support::says(&reported, words)?;
    sandbox
        .wait_condition(NAME, "Exposed", "False", "IngressFailed")
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

fn policy(namespace: &str) -> Vec<Value> {
    let rules = json!([{"apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["ingresses"]}]);
    vec![
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": namespace},
            "spec": {
                "matchConstraints": {"resourceRules": rules},
                "validations": [{"expression": "false", "message": "not on a Friday"}],
            },
        }),
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": namespace},
            "spec": {
                "policyName": namespace, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": here(namespace)},
            },
        }),
    ]
}

fn silent_webhook(namespace: &str) -> Vec<Value> {
    let rules = json!([{"apiGroups": ["networking.k8s.io"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["ingresses"]}]);
    vec![json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": namespace},
        "webhooks": [{
            "name": "refuse.example.com",
            "clientConfig": {"service": {"namespace": namespace, "name": "nobody"}},
            "rules": rules,
            "namespaceSelector": here(namespace),
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 2,
        }],
    })]
}

fn here(namespace: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}})
}

async fn refused(sandbox: &Sandbox, words: &[&str]) -> Result<()> {
    let reported = sandbox
        .wait_condition(NAME, "ReplicasHealthy", "False", "PodCreationFailed")
        .await?;
    support::says(&reported, words)?;
    ensure!(support::pods(sandbox).await?.is_empty());
    support::wait_event(sandbox, "PodCreationFailed").await
}

/// The StatefulSet's controller waits ever longer between its tries; a touch has it try at once.
async fn try_again(sandbox: &Sandbox) -> Result<()> {
    sandbox
        .kubectl(&["annotate", "statefulset", NAME, "retry=now", "--overwrite"])
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}
