//! From nothing to a running cluster.

use super::operator;
use super::support::{self, NAME};
use crate::scenario::sandbox::Sandbox;
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::json;
use std::time::Duration;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "three-replicas",
        "From nothing to three active replicas, with a license that the operator installs; then nothing is written any more, also when the operator restarts, and no replica is replaced.",
        |sandbox| Box::pin(three_replicas(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(100),
    Scenario::new(
        "restricted-namespace",
        "A namespace under the restricted pod security standard takes the pods.",
        |sandbox| Box::pin(restricted_namespace(sandbox)),
    ),
    Scenario::new(
        "database-in-parts",
        "The database in parts, with every reserved character in the password.",
        |sandbox| Box::pin(in_parts(sandbox)),
    )
    .takes(150),
];

/// Longer than the probe's interval, the queue's 250 ms and a heartbeat together.
const QUIET: Duration = Duration::from_secs(25);

async fn three_replicas(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::licensed(&sandbox, 3)).await?;
    // The words a user would use.
    sandbox
        .kubectl(&[
            "wait",
            "--for=jsonpath={.status.phase}=Ready",
            "--timeout=120s",
            &format!("bytebasecluster/{NAME}"),
        ])
        .await?;

    let status = sandbox.status(NAME).await?;
    ensure!(status["phase"] == "Ready", "phase {}", status["phase"]);
    for field in [
        "replicas",
        "readyReplicas",
        "activeReplicas",
        "targetReplicas",
    ] {
        ensure!(status[field] == 3, "{field} is {}", status[field]);
    }
    ensure!(
        status["license"]["ha"] == true
            && status["license"]["source"] == "Database"
            && status["license"]["signature"] == "Verified",
        "license {}",
        status["license"]
    );
    ensure!(
        support::active_rows(&sandbox).await? == 3,
        "not three fresh rows in the database"
    );

    let pods = support::pods(&sandbox).await?;
    for pod in &pods {
        starts_right(pod)?;
        let name = pod.name_any();
        let replica = status["replicaStatuses"]
            .as_array()
            .and_then(|list| list.iter().find(|replica| replica["pod"] == name.as_str()))
            .with_context(|| format!("{name} is not in status"))?;
        ensure!(
            replica["heartbeat"] == "Fresh"
                && replica["ready"] == true
                && replica["updated"] == true,
            "{replica}"
        );
        let id = replica["replicaID"].as_str().context("no replica id")?;
        let log = sandbox.kubectl(&["logs", &name]).await?;
        ensure!(
            log.contains(&format!("replicaID={id}")),
            "{name} does not log the id {id} that status reports"
        );
    }
    for object in [
        "statefulset/demo",
        "service/demo",
        "service/demo-headless",
        "ingress/demo",
        "poddisruptionbudget/demo",
        "serviceaccount/demo",
    ] {
        sandbox
            .kubectl(&["get", object])
            .await
            .with_context(|| format!("{object} is missing"))?;
    }
    quiet(&sandbox).await?;
    operator::restart_writes_nothing(&sandbox)
        .await
        .context("a restart of the operator")
}

/// `--ha`, the URL, and nothing that a restricted namespace would refuse.
fn starts_right(pod: &Pod) -> Result<()> {
    let spec = pod.spec.as_ref().context("no spec")?;
    let container = spec
        .containers
        .iter()
        .find(|container| container.name == "bytebase")
        .context("no container")?;
    let arguments = container.args.clone().unwrap_or_default();
    ensure!(
        arguments.iter().any(|argument| argument == "--ha"),
        "no --ha: {arguments:?}"
    );
    ensure!(
        arguments
            .windows(2)
            .any(|pair| pair == ["--external-url", "https://bytebase.example.com"]),
        "{arguments:?}"
    );
    ensure!(
        spec.automount_service_account_token == Some(false),
        "the pod has a token"
    );
    let security = container.security_context.clone().unwrap_or_default();
    ensure!(
        security.read_only_root_filesystem == Some(true)
            && security.allow_privilege_escalation == Some(false),
        "{security:?}"
    );
    Ok(())
}

/// Nothing changes in the cluster when nothing has changed around it.
async fn quiet(sandbox: &Sandbox) -> Result<()> {
    let before = support::settled(sandbox).await?;
    support::no_write(sandbox, QUIET, &before).await
}

async fn restricted_namespace(sandbox: Sandbox) -> Result<()> {
    let namespace = sandbox.namespace().to_owned();
    sandbox
        .kubectl(&[
            "label",
            "namespace",
            &namespace,
            "pod-security.kubernetes.io/enforce=restricted",
        ])
        .await?;
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn in_parts(sandbox: Sandbox) -> Result<()> {
    let (host, port) = (
        sandbox.database().host().to_owned(),
        sandbox.database().port(),
    );
    let (role, password, name) = (
        sandbox.database().name.clone(),
        sandbox.database().password.clone(),
        sandbox.database().name.clone(),
    );
    let mut cluster = support::minimal(&sandbox, 1);
    cluster["spec"]["database"] = json!({
        "host": host, "port": port, "name": name,
        "userSecretRef": {"name": "login", "key": "user"},
        "passwordSecretRef": {"name": "login", "key": "password"},
        "params": {"sslmode": "disable"},
    });
    sandbox
        .create_harmless_secret("login", &[("user", &role), ("password", &password)])
        .await?;
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;

    // Every reserved character of a URL, as the password is written into the Secret.
    let hostile = "p:@/?#[]!$&'()*+,;=% \"\\pass";
    sandbox.plant("hostile password", hostile);
    let statement = format!(
        "ALTER ROLE \"{role}\" PASSWORD '{}'",
        hostile.replace('\'', "''")
    );
    sqlx::query(sqlx::AssertSqlSafe(statement))
        .execute(sandbox.harness().postgres.admin())
        .await?;
    sandbox
        .create_harmless_secret("login", &[("user", &role), ("password", hostile)])
        .await?;
    let before = support::lives(&sandbox).await?;
    wait::until(
        "a replica with the new password",
        // The Secret is given two minutes to reach the pods.
        2 * crate::scenario::sandbox::PATIENCE,
        || support::lives(&sandbox),
        |lives| !lives.is_empty() && *lives != before,
    )
    .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}
