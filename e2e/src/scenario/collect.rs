//! What is known about a scenario: all of it on disk when it failed, the gist on the terminal, and
//! the places a secret could have leaked to whether it failed or not. Secrets themselves are never
//! read.

use crate::machine::command::tail;
use crate::scenario::sandbox::{Sandbox, cluster_resource};
use crate::scenarios::support::{is_ending, is_ready};
use crate::wait;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

/// Kinds the operator may make or touch. Secrets are left out on purpose.
const KINDS: &str = "pods,statefulsets,deployments,services,configmaps,ingresses,\
                     poddisruptionbudgets,networkpolicies,leases,events";
/// Lines of a log in the digest; the files have all of it.
const DIGEST_LINES: usize = 15;
const DATABASE_LINES: usize = 400;
/// A Ready operator answers within so long.
const METRICS_PATIENCE: Duration = Duration::from_secs(30);

/// Every text in which a secret must not stand: objects of the namespace, status of the clusters,
/// as it is and as the scenario has read it before, events, the operator's logs and metrics.
pub async fn public_places(sandbox: &Sandbox) -> Result<Vec<(String, String)>> {
    let mut places = objects(sandbox).await?;
    if has_clusters(sandbox).await? {
        places.extend(statuses(sandbox).await?);
    }
    let read = sandbox.statuses_read().into_iter();
    places.extend(read.map(|texts| ("a status that was read".to_owned(), texts)));
    places.extend(sandbox.operator_logs()?);
    for pod in sandbox.operator_pods().await? {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if let Some(port) = metrics_port(&pod)
            && let Some(metrics) = metrics(sandbox, &name, port).await?
        {
            places.push((format!("the metrics of {name}"), metrics));
        }
    }
    Ok(places)
}

/// Each object of the namespace.
async fn objects(sandbox: &Sandbox) -> Result<Vec<(String, String)>> {
    let printed = sandbox.kubectl(&["get", KINDS, "-o", "json"]).await?;
    let listed: Value = serde_json::from_str(&printed).context("the namespace's objects")?;
    let objects = listed["items"].as_array().context("no list of objects")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let place = |object: &Value| {
        let (kind, name) = (text(&object["kind"]), text(&object["metadata"]["name"]));
        (format!("{kind} {name}"), strings(object))
    };
    Ok(objects.iter().map(place).collect())
}

/// The status of each cluster. A spec may hold what the operator must not repeat, and one that is
/// too deep to be read.
async fn statuses(sandbox: &Sandbox) -> Result<Vec<(String, String)>> {
    let columns = "jsonpath={range .items[*]}{.metadata.name}{\"\\t\"}{.status}{\"\\n\"}{end}";
    let plural = cluster_resource().plural;
    let printed = sandbox.kubectl(&["get", &plural, "-o", columns]).await?;
    let mut places = Vec::new();
    for (name, status) in printed.lines().filter_map(|line| line.split_once('\t')) {
        // The operator has not seen the cluster yet.
        if status.is_empty() {
            continue;
        }
        let place = format!("the status of {name}");
        let status: Value = serde_json::from_str(status).with_context(|| place.clone())?;
        places.push((place, strings(&status)));
    }
    Ok(places)
}

/// The texts in a value, each on lines of its own. Printed as YAML, a long one would be broken into
/// several lines.
pub fn strings(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text}\n"),
        Value::Array(list) => list.iter().map(strings).collect(),
        Value::Object(fields) => {
            let fields = fields.iter();
            let texts =
                fields.flat_map(|(key, value)| [key.clone(), "\n".to_owned(), strings(value)]);
            texts.collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => String::new(),
    }
}

/// The metrics of an operator pod; of one on its way in or out, which does not answer, `None`.
async fn metrics(sandbox: &Sandbox, pod: &str, port: u16) -> Result<Option<String>> {
    let read = || async {
        let answer = sandbox.get_from_pod(pod, port, "metrics").await;
        match (answer, sandbox.api::<Pod>().get_opt(pod).await?) {
            (Ok(metrics), _) => Ok(Some(metrics)),
            (Err(error), Some(pod)) if is_ready(&pod) && !is_ending(&pod) => Err(error),
            (Err(_), _) => Ok(None),
        }
    };
    // The kubelet may not have noticed yet that it has been killed.
    wait::until("the metrics", METRICS_PATIENCE, read, |_| true).await
}

/// Writes everything to the scenario's folder. Returns the digest for the terminal. What cannot be
/// had is said in its place: a failed reading must not hide the failure that is investigated.
pub async fn after_failure(sandbox: &Sandbox) -> String {
    let mut digest = String::new();
    let folder = sandbox.folder();
    let mut problems = Vec::new();
    let mut keep = |name: &str, text: Result<String>| {
        let text = text.unwrap_or_else(|error| format!("not to be had: {error:#}"));
        if let Err(error) = fs::write(folder.join(name), text) {
            problems.push(format!("{name}: {error}"));
        }
    };
    keep(
        "objects.yaml",
        sandbox.kubectl(&["get", KINDS, "-o", "yaml"]).await,
    );
    keep(
        "events.txt",
        sandbox
            .kubectl(&["get", "events", "--sort-by=.lastTimestamp"])
            .await,
    );
    let plural = cluster_resource().plural;
    keep(
        "clusters.yaml",
        sandbox.kubectl(&["get", &plural, "-o", "yaml"]).await,
    );
    keep("pods.txt", sandbox.kubectl(&["describe", "pods"]).await);
    keep(
        "postgres.log",
        Ok(sandbox.harness().postgres.log_tail(DATABASE_LINES)),
    );
    for (name, text) in pod_logs(sandbox).await {
        keep(&name, text);
    }
    let parts = [
        ("clusters", clusters_digest(sandbox).await),
        (
            "pods",
            sandbox.kubectl(&["get", "pods", "-o", "wide"]).await,
        ),
        ("operator", operator_digest(sandbox)),
    ];
    for (title, part) in parts {
        let text = part.unwrap_or_else(|error| format!("not to be had: {error:#}"));
        append(&mut digest, title, &text);
    }
    problems.extend(sandbox.operator_log_problems());
    if !problems.is_empty() {
        append(&mut digest, "not kept", &problems.join("\n"));
    }
    append(&mut digest, "more", &format!("{}", folder.display()));
    digest
}

fn append(digest: &mut String, title: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(digest, "  {title}:");
    for line in text.trim_end().lines() {
        let _ = writeln!(digest, "    {line}");
    }
}

/// The logs of every container of every pod, and of the start before the present one.
async fn pod_logs(sandbox: &Sandbox) -> Vec<(String, Result<String>)> {
    let pods = match sandbox.pods("").await {
        Ok(pods) => pods,
        Err(error) => return vec![("pod-logs.txt".to_owned(), Err(error))],
    };
    let mut logs = Vec::new();
    for pod in &pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let statuses = pod.status.iter().flat_map(|status| {
            let init = status.init_container_statuses.iter().flatten();
            init.chain(status.container_statuses.iter().flatten())
        });
        for status in statuses {
            let container = &status.name;
            let present = ["logs", name, "--container", container];
            logs.push((
                format!("{name}.{container}.log"),
                sandbox.kubectl(&present).await,
            ));
            if status.restart_count > 0 {
                let previous = ["logs", name, "--container", container, "--previous"];
                let file = format!("{name}.{container}.previous.log");
                logs.push((file, sandbox.kubectl(&previous).await));
            }
        }
    }
    logs
}

/// Each condition of each cluster in one line.
async fn clusters_digest(sandbox: &Sandbox) -> Result<String> {
    if !has_clusters(sandbox).await? {
        return Ok("none".to_owned());
    }
    let mut lines = String::new();
    for cluster in sandbox
        .clusters()
        .list(&kube::api::ListParams::default())
        .await?
        .items
    {
        let status = &cluster.data["status"];
        let name = cluster.metadata.name.unwrap_or_default();
        let _ = writeln!(lines, "{name}: phase {}", status["phase"]);
        for condition in status["conditions"].as_array().into_iter().flatten() {
            let _ = writeln!(lines, "  {}", one_line(condition));
        }
    }
    Ok(lines)
}

/// Type, status, reason and message of a condition.
pub fn one_line(condition: &Value) -> String {
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    format!(
        "{}={} {}: {}",
        text("type"),
        text("status"),
        text("reason"),
        text("message")
    )
}

fn operator_digest(sandbox: &Sandbox) -> Result<String> {
    let mut digest = String::new();
    for (file, text) in sandbox.operator_logs()? {
        let _ = writeln!(digest, "{file}:\n{}", tail(&text, DIGEST_LINES));
    }
    Ok(digest)
}

/// Whether the cluster knows the kind at all.
async fn has_clusters(sandbox: &Sandbox) -> Result<bool> {
    let resource = cluster_resource();
    let group = format!("--api-group={}", resource.group);
    let known = sandbox
        .kubectl(&["api-resources", &group, "-o", "name"])
        .await?;
    Ok(known.lines().any(|line| line.starts_with(&resource.plural)))
}

fn metrics_port(pod: &Pod) -> Option<u16> {
    let containers = &pod.spec.as_ref()?.containers;
    let mut ports = containers
        .iter()
        .flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| matches!(port.name.as_deref(), Some("metrics" | "http")))?;
    u16::try_from(port.container_port).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_fits_one_line() {
        let condition = serde_json::json!({
            "type": "Ready", "status": "False", "reason": "NoDatabase", "message": "refused",
        });
        assert_eq!(one_line(&condition), "Ready=False NoDatabase: refused");
    }

    #[test]
    fn every_text_of_an_object_stands_on_lines_of_its_own() {
        let object = serde_json::json!({
            "metadata": {"annotations": {"a": "one\ntwo"}},
            "spec": {"list": ["three", 4, null]},
        });
        let texts = strings(&object);
        for text in ["a", "one", "two", "three"] {
            assert!(texts.lines().any(|line| line == text), "{texts}");
        }
    }

    #[test]
    fn the_metrics_port_is_found_by_its_name() -> Result<()> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "spec": {"containers": [{"name": "operator", "ports": [
                {"name": "other", "containerPort": 1}, {"name": "metrics", "containerPort": 8080},
            ]}]},
        }))?;
        assert_eq!(metrics_port(&pod), Some(8080));
        Ok(())
    }
}
