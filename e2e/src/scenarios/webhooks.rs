//! Webhooks between the operator and what is stored: one that changes what the operator writes,
//! and one that never answers.

use super::support::{self, DATABASE_SECRET, NAME};
use crate::cluster::webhook::Webhook;
use crate::images::{MIRROR_REPOSITORY, OPERATOR_REPOSITORY, TAG};
use crate::scenario::sandbox::{
    LABEL, OperatorOptions, PATIENCE, Sandbox, cluster_resource, condition,
};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "mutating-webhook",
        "What a webhook changes in StatefulSet and Services stays; the operator does not write against it, and a rollout comes to its end.",
        |sandbox| Box::pin(mutating(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(120),
    Scenario::new(
        "webhook-silent",
        "A webhook that never answers is named within 45 s on the cluster whose objects it holds up, and holds up no other; that cluster comes up once it is gone.",
        |sandbox| Box::pin(silent(sandbox)),
    )
    .takes(110),
];

/// Name of each webhook.
const WEBHOOK: &str = "platform.example.com";
/// What the webhook adds: an annotation, and a toleration of the same key.
const ADDED: &str = "example.com/platform";
/// The annotation that the spec asks for and the webhook sets otherwise.
const TIER: &str = "example.com/tier";
/// CPU in the spec, and what the webhook makes of it.
const CPU: (&str, &str) = ("20m", "15m");
/// How long nothing may be written. Longer than the probe's interval, the queue's 250 ms and a
/// heartbeat together.
const QUIET: Duration = Duration::from_secs(20);

/// The webhook of a platform changes each StatefulSet and each Service on its way.
async fn mutating(sandbox: Sandbox) -> Result<()> {
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    support::secrets(&sandbox).await?;
    let webhook = Webhook::mutating(sandbox.harness().postgres.gateway(), platform).await?;
    let rules = json!([
        {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["statefulsets"]},
        {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE", "UPDATE"], "resources": ["services"]},
    ]);
    let kind = "MutatingWebhookConfiguration";
    register(&sandbox, kind, &webhook, &rules).await?;
    let result = on_a_platform(&sandbox).await;
    let removed = unregister(&sandbox, kind).await;
    result?;
    removed
}

/// What the webhook makes of an object.
fn platform(object: &mut Value) {
    if object["kind"] == "Service" {
        object["metadata"]["annotations"][TIER] = json!("platform");
        return;
    }
    let template = &mut object["spec"]["template"];
    template["metadata"]["annotations"][ADDED] = json!("yes");
    let spec = &mut template["spec"];
    let toleration = json!({"key": ADDED, "operator": "Exists", "effect": "NoSchedule"});
    let mut tolerations = spec["tolerations"].as_array().cloned().unwrap_or_default();
    if !tolerations.contains(&toleration) {
        tolerations.push(toleration);
        spec["tolerations"] = json!(tolerations);
    }
    let containers = spec["containers"].as_array_mut().into_iter().flatten();
    for container in containers.filter(|container| container["name"] == "bytebase") {
        container["resources"]["requests"]["cpu"] = json!(CPU.1);
        // The image is on the node.
        container["imagePullPolicy"] = json!("Never");
    }
    let installers = spec.get_mut("initContainers").and_then(Value::as_array_mut);
    let installers = installers.into_iter().flatten();
    for container in installers.filter(|container| container["image"] == image(OPERATOR_REPOSITORY))
    {
        container["image"] = json!(image(MIRROR_REPOSITORY));
    }
}

/// The image that brings the drain hook, under the name that a repository gives it.
fn image(repository: &str) -> String {
    format!("{repository}:{TAG}")
}

async fn on_a_platform(sandbox: &Sandbox) -> Result<()> {
    let probe = ["create", "service", "clusterip", "asked", "--tcp=80"];
    let path = format!("jsonpath={{.metadata.annotations.{}}}", escaped(TIER));
    let dry = ["--dry-run=server", "-o", &path];
    let asked = || async { sandbox.kubectl(&[&probe[..], &dry[..]].concat()).await };
    wait::until("the webhook to be asked", PATIENCE, asked, |tier| {
        tier.trim() == "platform"
    })
    .await?;

    let mut cluster = support::licensed(sandbox, 2);
    cluster["spec"]["resources"] = json!({"requests": {"cpu": CPU.0, "memory": "32Mi"}});
    cluster["spec"]["service"] = json!({"annotations": {TIER: "mine"}});
    // The operator writes this name, and keeps the one that the webhook makes of it.
    cluster["spec"]["rollout"]["drainImage"] = json!(image(OPERATOR_REPOSITORY));
    sandbox.apply_yaml(&cluster.to_string()).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    is_the_platforms(sandbox).await?;
    names_what_is_kept(sandbox).await?;
    writes_nothing(sandbox).await?;

    let before = support::lives(sandbox).await?;
    support::patch_spec(
        sandbox,
        json!({"podAnnotations": {"example.com/asked": "now"}}),
    )
    .await?;
    let seen = || async {
        let generation = sandbox.clusters().get(NAME).await?.metadata.generation;
        Ok((
            generation,
            sandbox.status(NAME).await?,
            support::pods(sandbox).await?,
        ))
    };
    wait::until_while(
        "the end of the rollout",
        2 * PATIENCE,
        seen,
        |(_, status, pods)| {
            let ending = pods.iter().filter(|pod| support::is_ending(pod)).count();
            ensure!(ending <= 1, "{ending} replicas end at once");
            not_stalled(status)
        },
        |(generation, status, _)| {
            condition(&status["conditions"], "RolloutComplete").is_some_and(|complete| {
                complete["status"] == "True"
                    && complete["reason"] == "RolloutDone"
                    && complete["observedGeneration"].as_i64() == *generation
            })
        },
    )
    .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let after = support::lives(sandbox).await?;
    ensure!(
        before
            .iter()
            .all(|(name, life)| after.get(name).is_some_and(|now| now.0 != life.0)),
        "not every replica was replaced: {before:?}, {after:?}"
    );
    let asked = |pod: &Pod| pod.annotations().contains_key("example.com/asked");
    ensure!(
        support::pods(sandbox).await?.iter().all(asked),
        "a pod is not of the new template"
    );
    is_the_platforms(sandbox).await?;
    writes_no_object(sandbox).await
}

/// The Services, the StatefulSet and its two pods are as the webhook wants them.
async fn is_the_platforms(sandbox: &Sandbox) -> Result<()> {
    let path = format!("jsonpath={{.metadata.annotations.{}}}", escaped(TIER));
    for service in ["service/demo", "service/demo-headless"] {
        let tier = sandbox.kubectl(&["get", service, "-o", &path]).await?;
        ensure!(tier.trim() == "platform", "{service} is of tier {tier:?}");
    }
    let set = sandbox.api::<StatefulSet>().get(NAME).await?;
    let template = serde_json::to_value(set.spec.context("no spec")?.template)?;
    let pods = support::pods(sandbox).await?;
    ensure!(pods.len() == 2, "{} pods", pods.len());
    let pods = pods.iter().map(serde_json::to_value);
    for made in pods.chain([Ok(template)]) {
        let made = made?;
        let spec = &made["spec"];
        let containers = spec["containers"].as_array().context("no containers")?;
        let container = containers
            .iter()
            .find(|container| container["name"] == "bytebase")
            .context("no container bytebase")?;
        ensure!(
            container["resources"]["requests"] == json!({"cpu": CPU.1, "memory": "32Mi"})
                && container["imagePullPolicy"] == "Never",
            "{container:#}"
        );
        let mut installers = spec["initContainers"].as_array().into_iter().flatten();
        ensure!(
            installers.any(|container| container["image"] == image(MIRROR_REPOSITORY)),
            "the drain hook is not from the mirror: {spec:#}"
        );
        let tolerations = spec["tolerations"].as_array().into_iter().flatten();
        let added = tolerations.filter(|toleration| toleration["key"] == ADDED);
        ensure!(
            made["metadata"]["annotations"][ADDED] == "yes" && added.count() == 1,
            "{made:#}"
        );
    }
    Ok(())
}

/// The cluster says what the webhook keeps otherwise.
async fn names_what_is_kept(sandbox: &Sandbox) -> Result<()> {
    let remarks = || async {
        let status = sandbox.status(NAME).await?;
        let valid = condition(&status["conditions"], "ConfigurationValid");
        let message = valid.and_then(|valid| valid["message"].as_str());
        Ok(message.unwrap_or_default().to_owned())
    };
    wait::until("what the webhook changes", PATIENCE, remarks, |remarks| {
        remarks.contains(&format!("services/demo: metadata.annotations.{TIER} "))
            && remarks.contains("statefulsets/demo: spec.template.spec.containers[bytebase].")
    })
    .await?;
    Ok(())
}

/// Once everything has settled, nothing changes, and the operator does not so much as try to write.
async fn writes_nothing(sandbox: &Sandbox) -> Result<()> {
    let settled = support::settled(sandbox).await?;
    let count = sandbox.calls().await?.len();
    support::no_write(sandbox, QUIET, &settled).await?;
    let calls = sandbox.calls().await?.into_iter().skip(count);
    let written: Vec<_> = calls
        .filter(|call| call.writes() && call.resource != "leases")
        .collect();
    ensure!(
        written.is_empty(),
        "written against a webhook: {written:#?}"
    );
    not_stalled(&sandbox.status(NAME).await?)
}

/// The same after a rollout, but for the status: it may speak of the replicas that have ended.
async fn writes_no_object(sandbox: &Sandbox) -> Result<()> {
    support::settled(sandbox).await?;
    let count = sandbox.calls().await?.len();
    tokio::time::sleep(QUIET / 2).await;
    let calls = sandbox.calls().await?.into_iter().skip(count);
    let written: Vec<_> = calls
        .filter(|call| call.writes() && ["statefulsets", "services"].contains(&&*call.resource))
        .collect();
    ensure!(
        written.is_empty(),
        "written against a webhook: {written:#?}"
    );
    not_stalled(&sandbox.status(NAME).await?)
}

fn not_stalled(status: &Value) -> Result<()> {
    let stalled = condition(&status["conditions"], "Stalled").context("no condition Stalled")?;
    ensure!(stalled["status"] == "False", "{stalled:#}");
    Ok(())
}

/// An annotation's key, as a path has it.
fn escaped(key: &str) -> String {
    key.replace('.', "\\.")
}

/// A webhook for all kinds that a cluster owns takes connections and stays silent.
async fn silent(sandbox: Sandbox) -> Result<()> {
    let other = format!("{}-b", sandbox.namespace());
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {
            "name": other,
            "labels": {LABEL: "webhook-silent"},
            "ownerReferences": [sandbox_itself(&sandbox).await?],
        },
    });
    sandbox.apply_yaml(&namespace.to_string()).await?;
    let options = OperatorOptions {
        values: json!({"watchNamespaces": [sandbox.namespace(), other]}),
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(&sandbox).await?;
    let operator = support::lives_of(&sandbox.operator_pods().await?);

    let webhook = Webhook::silent(sandbox.harness().postgres.gateway()).await?;
    let rules = json!([{
        "apiGroups": ["", "apps", "policy", "networking.k8s.io"],
        "apiVersions": ["v1"],
        "operations": ["CREATE", "UPDATE"],
        "resources": [
            "serviceaccounts", "services", "statefulsets", "poddisruptionbudgets", "ingresses",
            "networkpolicies",
        ],
    }]);
    let kind = "ValidatingWebhookConfiguration";
    register(&sandbox, kind, &webhook, &rules).await?;
    let result = held_up(&sandbox, &other).await;
    let removed = unregister(&sandbox, kind).await;
    result?;
    removed?;

    // By itself: nothing of the cluster is touched.
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    sandbox.wait_condition(NAME, "Stalled", "False", "").await?;
    let after = support::lives_of(&sandbox.operator_pods().await?);
    ensure!(
        after == operator,
        "the operator ended: {operator:?}, {after:?}"
    );
    sandbox
        .kubectl(&["delete", "namespace", &other, "--wait=false"])
        .await?;
    Ok(())
}

/// The cluster of the sandbox is held up and says so, while the other comes up as ever.
async fn held_up(sandbox: &Sandbox, other: &str) -> Result<()> {
    let probe = ["create", "serviceaccount", "asked", "--dry-run=server"];
    let fails = || async {
        let error = sandbox.kubectl(&probe).await.err();
        Ok(error.map(|error| format!("{error:#}")))
    };
    wait::until("the webhook to be asked", PATIENCE, fails, |error| {
        error
            .as_ref()
            .is_some_and(|error| error.contains("failed calling webhook"))
    })
    .await?;

    let harness = sandbox.harness();
    let database = format!("{}_b", sandbox.database().name);
    let database = harness.postgres.create_database(&database).await?;
    sandbox.plant_random("password of the other database", &database.password);
    harness
        .kubectl
        .apply_secret(other, DATABASE_SECRET, &[("PG_URL", &database.url())])
        .await?;
    let cluster = support::minimal(sandbox, 1).to_string();
    sandbox.apply_yaml(&cluster).await?;
    harness.kubectl.apply(other, &cluster).await?;
    tokio::try_join!(is_reported(sandbox), comes_up(sandbox, other))?;
    Ok(())
}

/// So long after the cluster has been made, its status says what is refused, and by whom.
const REPORTED: Duration = Duration::from_secs(45);

async fn is_reported(sandbox: &Sandbox) -> Result<()> {
    let stalled = |status: &Value| condition(&status["conditions"], "Stalled").cloned();
    let status = wait::until_while(
        "a status that names the webhook",
        REPORTED,
        || sandbox.status(NAME),
        |status| {
            let ready = condition(&status["conditions"], "Ready");
            ensure!(
                ready.is_none_or(|ready| ready["status"] != "True"),
                "{status:#}"
            );
            Ok(())
        },
        |status| stalled(status).is_some_and(|stalled| stalled["status"] == "True"),
    )
    .await?;
    let stalled = stalled(&status).context("no condition Stalled")?;
    ensure!(stalled["reason"] == "ApplyFailed", "{stalled:#}");
    support::says(
        &stalled,
        &["failed calling webhook", WEBHOOK, "serviceaccounts/demo"],
    )?;
    let set = sandbox.api::<StatefulSet>().get_opt(NAME).await?;
    ensure!(set.is_none(), "the webhook was not asked");
    Ok(())
}

/// A StatefulSet takes the operator a second or two. One that was written after the objects of the
/// cluster that is held up would take twenty.
const WRITTEN: Duration = Duration::from_secs(10);

async fn comes_up(sandbox: &Sandbox, namespace: &str) -> Result<()> {
    let sets: Api<StatefulSet> = Api::namespaced(sandbox.client(), namespace);
    wait::until(
        "the other StatefulSet",
        WRITTEN,
        || async { Ok(sets.get_opt(NAME).await?.is_some()) },
        |exists| *exists,
    )
    .await?;
    let resource = cluster_resource();
    let clusters: Api<DynamicObject> = Api::namespaced_with(sandbox.client(), namespace, &resource);
    wait::until_while(
        "the other cluster",
        PATIENCE,
        || async { Ok(clusters.get(NAME).await?.data["status"].clone()) },
        |status| {
            let stalled = condition(&status["conditions"], "Stalled");
            ensure!(
                stalled.is_none_or(|stalled| stalled["status"] != "True"),
                "{status:#}"
            );
            Ok(())
        },
        |status| {
            condition(&status["conditions"], "Ready").is_some_and(|ready| {
                ready["status"] == "True" && ready["reason"] == "AllReplicasActive"
            })
        },
    )
    .await?;
    Ok(())
}

/// Has the API server ask a webhook about objects of the sandbox's namespace.
async fn register(sandbox: &Sandbox, kind: &str, webhook: &Webhook, rules: &Value) -> Result<()> {
    let namespace = sandbox.namespace();
    let configuration = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
        // It belongs to the whole Kubernetes cluster. Should this process not come to remove it, it
        // goes with the namespace.
        "metadata": {"name": namespace, "ownerReferences": [sandbox_itself(sandbox).await?]},
        "webhooks": [{
            "name": WEBHOOK,
            "clientConfig": webhook.client_config(),
            "rules": rules,
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
            "failurePolicy": "Fail",
            "sideEffects": "None",
            "admissionReviewVersions": ["v1"],
            "timeoutSeconds": 10,
        }],
    });
    sandbox.apply_yaml(&configuration.to_string()).await
}

async fn unregister(sandbox: &Sandbox, kind: &str) -> Result<()> {
    sandbox
        .kubectl(&["delete", kind, sandbox.namespace()])
        .await?;
    Ok(())
}

/// The sandbox's namespace as an owner of what lies outside it.
async fn sandbox_itself(sandbox: &Sandbox) -> Result<Value> {
    let name = sandbox.namespace();
    let uid = sandbox
        .kubectl(&["get", "namespace", name, "-o", "jsonpath={.metadata.uid}"])
        .await?;
    Ok(json!({"apiVersion": "v1", "kind": "Namespace", "name": name, "uid": uid.trim()}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_platform_has_changed_it_leaves_as_it_is() {
        let container = json!({"name": "bytebase", "imagePullPolicy": "IfNotPresent"});
        let installer = json!({"name": "installer", "image": image(OPERATOR_REPOSITORY)});
        let template = json!({"spec": {
            "containers": [container, {"name": "sidecar"}], "initContainers": [installer],
        }});
        for mut object in [
            json!({"kind": "StatefulSet", "spec": {"template": template}}),
            json!({"kind": "Service", "metadata": {"annotations": {TIER: "mine"}}}),
        ] {
            let before = object.clone();
            platform(&mut object);
            assert_ne!(object, before);
            let once = object.clone();
            platform(&mut object);
            assert_eq!(object, once);
        }
    }
}
