//! The operator's rights: everything it calls it may, every verb it may it calls, and without any
//! one rule something is lost. What it called is taken from the API server's record.

use super::support::{self, NAME};
use crate::cluster::audit::Call;
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "rights-needed",
        "Without any one rule of its roles a call is refused, and the log says which.",
        |sandbox| Box::pin(every_rule_is_needed(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(180),
    Scenario::new(
        "rights-used",
        "The operator of one namespace calls all that it may and nothing else, and never leaves its namespace.",
        |sandbox| Box::pin(every_verb_is_used(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
];

/// Checked by the admission plug-in OwnerReferencesPermissionEnforcement, and never called.
const NEVER_CALLED: [(&str, &str); 3] = [
    ("bytebaseclusters/finalizers", "update"),
    ("statefulsets", "delete"),
    ("services", "delete"),
];
/// Called only where a cluster changes between a decision and the status that comes of it.
const SELDOM_CALLED: (&str, &str) = ("bytebaseclusters", "get");
/// Kinds of the scenario `optional-kinds`.
const OPTIONAL: [&str; 3] = ["httproutes", "servicemonitors", "networkpolicies"];

/// Group, resource and verb.
type Right = (String, String, String);

/// A cluster goes through everything that takes a right.
async fn every_verb_is_used(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    support::patch_spec(&sandbox, json!({"podLabels": {"rolled": "yes"}})).await?;
    wait::until(
        "the change in the pod",
        PATIENCE,
        || sandbox.pods("rolled=yes"),
        |pods| pods.len() == 1,
    )
    .await?;
    let objects = [
        "statefulset/demo",
        "service/demo",
        "serviceaccount/demo",
        "ingress/demo",
        "poddisruptionbudget/demo",
    ];
    lost_and_found(&sandbox, &objects).await?;
    // A standby watches the Lease.
    let operator = "--selector=app.kubernetes.io/name=bytebase-operator";
    sandbox
        .kubectl(&["scale", "deployment", operator, "--replicas=2"])
        .await?;
    // Of each kind that may go, one goes.
    let less = json!({
        "serviceAccount": {"name": "other"},
        "ingress": {"enabled": false},
        "disruptionBudget": {"enabled": false},
    });
    sandbox
        .kubectl(&["create", "serviceaccount", "other"])
        .await?;
    support::patch_spec(&sandbox, less).await?;
    // A CA that the connection does not use is read all the same.
    let map = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "ca"}, "data": {"ca.crt": "none"},
    });
    sandbox.apply_yaml(&map.to_string()).await?;
    let reference = json!({"caConfigMapRef": {"name": "ca", "key": "ca.crt"}});
    support::patch_spec(&sandbox, json!({"database": reference})).await?;

    let reported = sandbox
        .wait_condition(NAME, "ConfigurationValid", "False", "InvalidSecret")
        .await?;
    support::says(&reported, &["caConfigMapRef", "no PEM certificate"])?;
    support::patch_spec(&sandbox, json!({"database": {"caConfigMapRef": null}})).await?;
    wait::until(
        "every right to be used",
        PATIENCE,
        || unused(&sandbox, |resource| !OPTIONAL.contains(&resource)),
        BTreeSet::is_empty,
    )
    .await?;
    stays_at_home(&sandbox).await
}

/// Takes the label away by which the operator's watches find these objects: it must search for
/// them, find them its own and put the label back.
pub async fn lost_and_found(sandbox: &Sandbox, objects: &[&str]) -> Result<()> {
    let mut all = vec!["label"];
    all.extend(objects);
    all.push("app.kubernetes.io/managed-by-");
    sandbox.kubectl(&all).await?;
    let labels = r"jsonpath={.items[*].metadata.labels.app\.kubernetes\.io/managed-by}";
    let mut all = vec!["get"];
    all.extend(objects);
    all.extend(["-o", labels]);
    let found = || async {
        let printed = sandbox.kubectl(&all).await?;
        Ok(printed.split_whitespace().count())
    };
    wait::until("the labels put back", PATIENCE, found, |count| {
        *count == objects.len()
    })
    .await?;
    Ok(())
}

/// Takes one rule away at a time; each time a call is refused and the log names it.
async fn every_rule_is_needed(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    let mut round = 0;
    for role in roles(&sandbox).await? {
        let name = role["metadata"]["name"].as_str().context("no name")?;
        let rules = role["rules"].as_array().context("no rules")?;
        for (index, rule) in rules.iter().enumerate() {
            if rule["resources"][0] == NEVER_CALLED[0].0 {
                continue;
            }
            if rule["resources"][0] == "pods/eviction" {
                // A pod that is on its way out already would come back from the next template by
                // itself.
                wait_pod_of(&sandbox, round).await?;
            }
            round += 1;
            let mut fewer = rules.clone();
            fewer.remove(index);
            set_rules(&sandbox, name, &fewer).await?;
            let gone = granted(std::slice::from_ref(rule))?;
            sees_the_loss(&sandbox, round, &gone)
                .await
                .with_context(|| format!("without {rule}"))?;
            set_rules(&sandbox, name, rules).await?;
        }
    }
    ensure!(round > 10, "only {round} rules");
    support::rolled_out(&sandbox).await
}

/// Waits for a pod of this round's template that is not ending.
async fn wait_pod_of(sandbox: &Sandbox, round: usize) -> Result<()> {
    let selector = format!("round=r{round}");
    let stays = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
    wait::until(
        "a pod of the present template",
        PATIENCE,
        || sandbox.pods(&selector),
        |pods| pods.iter().any(stays),
    )
    .await?;
    Ok(())
}

async fn sees_the_loss(sandbox: &Sandbox, round: usize, gone: &BTreeSet<Right>) -> Result<()> {
    let before = sandbox.calls().await?.len();
    // A start lists and watches; without a Lease one is made; an edit writes, replaces a pod, and
    // is reported.
    sandbox.kubectl(&["delete", "lease", "--all"]).await?;
    for pod in sandbox.operator_pods().await? {
        let name = pod.name_any();
        sandbox
            .kubectl(&[
                "delete",
                "pod",
                &name,
                "--grace-period=1",
                "--wait=false",
                "--ignore-not-found",
            ])
            .await?;
    }
    let label = format!("r{round}");
    let change = json!({"podLabels": {"round": label}});
    support::patch_spec(sandbox, change).await?;
    let refused = wait::until(
        "a refused call",
        PATIENCE,
        || async {
            let calls = sandbox.calls().await?;
            Ok(calls
                .into_iter()
                .skip(before)
                .find(|call| call.forbidden && gone.contains(&right(call))))
        },
        Option::is_some,
    )
    .await?
    .context("no refused call")?;
    let words = refused.resource.split('/').next().unwrap_or_default();
    wait::until(
        &format!("a line of the log about {words}"),
        PATIENCE,
        || async { sandbox.operator_logs() },
        |logs| {
            logs.iter().any(|(_, log)| {
                log.lines()
                    .any(|line| line.contains("forbidden") && line.contains(words))
            })
        },
    )
    .await?;
    Ok(())
}

/// Rights of the roles that no call used, of resources that are `counted`. A call that was refused
/// is an error: it is not covered.
pub async fn unused(sandbox: &Sandbox, counted: impl Fn(&str) -> bool) -> Result<BTreeSet<Right>> {
    let mut rights = BTreeSet::new();
    for role in roles(sandbox).await? {
        rights.extend(granted(role["rules"].as_array().context("no rules")?)?);
    }
    for call in sandbox.calls().await? {
        // What the API server answers of itself (`/version`) is open to every client.
        if call.resource.is_empty() {
            continue;
        }
        ensure!(!call.forbidden, "not covered by any rule: {call:?}");
        rights.remove(&right(&call));
        // A server-side apply of something new is a patch that needs the right to create.
        if call.verb == "patch" && call.code == 201 {
            rights.remove(&(call.group, call.resource, "create".to_owned()));
        }
    }
    rights.retain(|(_, resource, verb)| {
        let right = (resource.as_str(), verb.as_str());
        !NEVER_CALLED.contains(&right) && right != SELDOM_CALLED && counted(resource)
    });
    Ok(rights)
}

/// An operator of one namespace asks for nothing outside of it.
async fn stays_at_home(sandbox: &Sandbox) -> Result<()> {
    for call in sandbox.calls().await? {
        ensure!(
            call.resource.is_empty() || call.namespace == sandbox.namespace(),
            "a call that leads outside: {call:?}"
        );
    }
    let cluster_wide = sandbox
        .kubectl(&[
            "get",
            "clusterroles,clusterrolebindings",
            "-o",
            "name",
            "-l",
            &format!("app.kubernetes.io/instance={}", sandbox.release()),
        ])
        .await?;
    ensure!(cluster_wide.trim().is_empty(), "{cluster_wide}");
    Ok(())
}

fn right(call: &Call) -> Right {
    (call.group.clone(), call.resource.clone(), call.verb.clone())
}

/// Everything these rules grant.
fn granted(rules: &[Value]) -> Result<BTreeSet<Right>> {
    let words = |rule: &Value, key: &str| -> Result<Vec<String>> {
        serde_json::from_value(rule[key].clone()).with_context(|| format!("{key} of {rule}"))
    };
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in words(rule, "apiGroups")? {
            for resource in words(rule, "resources")? {
                for verb in words(rule, "verbs")? {
                    rights.insert((group.clone(), resource.clone(), verb));
                }
            }
        }
    }
    ensure!(
        rights
            .iter()
            .all(|(group, resource, verb)| [group, resource, verb].iter().all(|word| *word != "*")),
        "a wildcard: {rights:?}"
    );
    Ok(rights)
}

async fn roles(sandbox: &Sandbox) -> Result<Vec<Value>> {
    let listed: Value =
        serde_json::from_str(&sandbox.kubectl(&["get", "roles", "-o", "json"]).await?)?;
    let roles = listed["items"].as_array().cloned().unwrap_or_default();
    ensure!(
        roles.len() == 2,
        "one role for the work, one for the lease: {}",
        roles.len()
    );
    Ok(roles)
}

async fn set_rules(sandbox: &Sandbox, role: &str, rules: &[Value]) -> Result<()> {
    let patch = json!({"rules": rules}).to_string();
    sandbox
        .kubectl(&["patch", "role", role, "--type=merge", "-p", &patch])
        .await?;
    Ok(())
}

/// The rights that only `optional-kinds` uses, unused so far.
pub async fn optional_unused(sandbox: &Sandbox) -> Result<BTreeSet<Right>> {
    unused(sandbox, |resource| OPTIONAL.contains(&resource)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_multiplied_out() -> Result<()> {
        let rules =
            [json!({"apiGroups": ["", "apps"], "resources": ["a"], "verbs": ["get", "list"]})];
        assert_eq!(granted(&rules)?.len(), 4);
        let wild = [json!({"apiGroups": [""], "resources": ["a"], "verbs": ["*"]})];
        assert!(granted(&wild).is_err());
        Ok(())
    }
}
