//! Scenarios that prove the harness itself: a fault that strikes nothing would make every scenario
//! about that fault pass for the wrong reason.

use crate::cluster::Component;
use crate::cluster::faults::{self, Blow};
use crate::cluster::selfcheck;
use crate::images::PROBE_IMAGE;
use crate::scenario::collect;
use crate::scenario::leaks::{self, Planted};
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox};
use crate::scenario::{Lane, Scenario};
use crate::session::harness::Harness;
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::fs;
use std::time::Duration;
use tokio::time::timeout;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "harness-network",
        "A pod reaches a Service by name, and PostgreSQL through the gateway.",
        |sandbox| Box::pin(network(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-leak",
        "A secret outside of a Secret is found, in whatever form it is written, and each line of it.",
        |sandbox| Box::pin(leak(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-operator-logs",
        "A release is installed, and what its pods log is kept when they are gone, and searched.",
        |sandbox| Box::pin(operator_logs(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-pod-faults",
        "The process of a pod can be frozen, thawed and killed, and the kubelet restarts it.",
        |sandbox| Box::pin(pod_faults(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-database-faults",
        "One scenario's database can be cut off without touching the others.",
        |sandbox| Box::pin(database_faults(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-freeze",
        "A frozen PostgreSQL answers no client and goes on where it was; a stopped one starts again.",
        |sandbox| Box::pin(freeze(sandbox)),
    )
    .harness_only()
    .takes(10)
    .lane(Lane::Alone),
    Scenario::new(
        "harness-control-plane",
        "A component of the control plane can be parked, brought back and killed.",
        |sandbox| Box::pin(control_plane(sandbox)),
    )
    .harness_only()
    .takes(40)
    .lane(Lane::ControlPlane),
];

/// An answer takes milliseconds; a frozen server has this long to prove that it is frozen.
const SILENCE: Duration = Duration::from_secs(2);

async fn network(sandbox: Sandbox) -> Result<()> {
    let Harness {
        kubectl,
        client,
        postgres,
        ..
    } = sandbox.harness();
    let printed =
        selfcheck::check_from(kubectl, client, &postgres.address(), sandbox.namespace()).await?;
    ensure!(
        printed.contains("answers: server"),
        "the Service: {printed}"
    );
    ensure!(
        printed.contains("answers: PostgreSQL"),
        "PostgreSQL: {printed}"
    );
    Ok(())
}

/// Of several lines, and with what JSON, YAML and URLs write otherwise.
const HARD: &str = "-----BEGIN KEY-----\nthe-first-of-several-lines\nit's a \"quoted\" \\ word & more\n-----END KEY-----\n";

async fn leak(sandbox: Sandbox) -> Result<()> {
    let secrets = [("token", "not-for-other-eyes"), ("key", HARD)];
    sandbox.create_secret("kept", &secrets).await?;
    let found = leaks::find(&sandbox.planted(), &collect::public_places(&sandbox).await?);
    ensure!(found.is_empty(), "found in a clean namespace: {found:?}");

    for text in [
        "not-for-other-eyes",
        // In base64.
        "bm90LWZvci1vdGhlci1leWVz",
        "one line: the-first-of-several-lines",
        "it's a \"quoted\" \\ word & more",
        // In JSON, as Go writes it.
        r#"{"message": "it's a \"quoted\" \\ word \u0026 more"}"#,
        "message: 'it''s a \"quoted\" \\ word & more'",
        "it%27s%20a%20%22quoted%22%20%5C%20word%20%26%20more",
    ] {
        sandbox
            .kubectl(&[
                "create",
                "configmap",
                "careless",
                &format!("--from-literal=key={text}"),
            ])
            .await?;
        let found = leaks::find(&sandbox.planted(), &collect::public_places(&sandbox).await?);
        ensure!(
            found.len() == 1,
            "{text}: not found exactly once: {found:?}"
        );
        sandbox
            .kubectl(&["delete", "configmap", "careless"])
            .await?;
    }
    Ok(())
}

/// A chart in the least that Helm accepts, with the probe in the operator's place.
const CHART: &str = "apiVersion: v2\nname: probe\nversion: 0.1.0\n";
const DEPLOYMENT: &str = r"apiVersion: apps/v1
kind: Deployment
metadata:
  name: probe
spec:
  replicas: {{ .Values.replicaCount }}
  selector: { matchLabels: { app.kubernetes.io/instance: {{ .Release.Name }} } }
  template:
    metadata:
      labels: { app.kubernetes.io/instance: {{ .Release.Name }} }
    spec:
      terminationGracePeriodSeconds: 0
      containers:
        - name: probe
          image: {{ .Values.probe }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          # Put together in the process, so that it stands in the log and in no object.
          args: [say, the, words, $(FIRST)$(SECOND)]
          env:
            - { name: FIRST, value: not-for- }
            - { name: SECOND, value: other-eyes }
";

async fn operator_logs(sandbox: Sandbox) -> Result<()> {
    let chart = sandbox.folder().join("chart");
    fs::create_dir_all(chart.join("templates"))?;
    fs::write(chart.join("Chart.yaml"), CHART)?;
    fs::write(chart.join("templates/deployment.yaml"), DEPLOYMENT)?;
    let options = OperatorOptions {
        chart,
        replicas: 2,
        values: json!({"probe": PROBE_IMAGE}),
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    let gone = sandbox.operator_pods().await?;
    ensure!(gone.len() == 2, "{} pods", gone.len());
    let logs = || async { sandbox.operator_logs() };
    let both = |logs: &Vec<(String, String)>| {
        logs.iter()
            .filter(|(_, text)| text.starts_with("the words"))
            .count()
            >= 2
    };
    wait::until("two logs", PATIENCE, logs, both).await?;

    let options = OperatorOptions {
        replicas: 0,
        ..options
    };
    sandbox.install_operator(&options).await?;
    let pods = || sandbox.operator_pods();
    wait::until("the end of the pods", PATIENCE, pods, Vec::is_empty).await?;
    ensure!(
        both(&sandbox.operator_logs()?),
        "the logs went with their pods"
    );

    let planted = [Planted::new("words", "not-for-other-eyes")];
    let found = leaks::find(&planted, &collect::public_places(&sandbox).await?);
    ensure!(found.len() == 2, "not found in both logs: {found:?}");
    Ok(())
}

async fn pod_faults(sandbox: Sandbox) -> Result<()> {
    let pod = serve(&sandbox).await?;
    let get = || async { sandbox.get_from_pod("server", 8080, "/").await };
    let answer = wait::until("an answer", PATIENCE, get, |body| body == "server").await?;
    ensure!(answer == "server");

    sandbox.strike(&pod, "probe", Blow::Freeze).await?;
    ensure!(
        timeout(SILENCE, get()).await.is_err(),
        "a frozen pod answered"
    );
    sandbox.strike(&pod, "probe", Blow::Thaw).await?;
    wait::until("an answer after the thaw", PATIENCE, get, |body| {
        body == "server"
    })
    .await?;

    sandbox.strike(&pod, "probe", Blow::Kill).await?;
    let restarts = || async {
        let pod = sandbox.api::<Pod>().get("server").await?;
        let status = pod.status.context("no status")?;
        let containers = status.container_statuses.unwrap_or_default();
        Ok(containers
            .iter()
            .map(|status| status.restart_count)
            .sum::<i32>())
    };
    wait::until("a restart", PATIENCE, restarts, |count| *count == 1).await?;
    Ok(())
}

async fn database_faults(sandbox: Sandbox) -> Result<()> {
    let server = &sandbox.harness().postgres;
    let pool = sandbox.sql().await?;
    let ask = || async {
        Ok(sqlx::query_scalar::<_, i32>("SELECT 1")
            .fetch_one(&pool)
            .await?)
    };
    ensure!(ask().await? == 1);
    ensure!(
        server.disconnect(sandbox.database()).await? >= 1,
        "no session was open"
    );

    server.allow_connections(sandbox.database(), false).await?;
    ensure!(ask().await.is_err(), "a closed database answered");
    server.allow_connections(sandbox.database(), true).await?;
    wait::until("the database", PATIENCE, ask, |one| *one == 1).await?;
    Ok(())
}

async fn freeze(sandbox: Sandbox) -> Result<()> {
    let server = &sandbox.harness().postgres;
    let pool = sandbox.sql().await?;
    sqlx::raw_sql("CREATE TABLE kept (number int); INSERT INTO kept VALUES (7)")
        .execute(&pool)
        .await?;
    let ask = || async {
        Ok(sqlx::query_scalar::<_, i32>("SELECT number FROM kept")
            .fetch_one(&pool)
            .await?)
    };

    server.freeze()?;
    let frozen = timeout(SILENCE, ask()).await;
    server.thaw()?;
    ensure!(frozen.is_err(), "a frozen server answered");
    wait::until("an answer after the thaw", PATIENCE, ask, |number| {
        *number == 7
    })
    .await?;

    server.stop().await?;
    let stopped = timeout(SILENCE, sandbox.sql()).await;
    server.start().await?;
    ensure!(!matches!(stopped, Ok(Ok(_))), "a stopped server answered");
    wait::until("an answer after the start", PATIENCE, ask, |number| {
        *number == 7
    })
    .await?;
    Ok(())
}

async fn control_plane(sandbox: Sandbox) -> Result<()> {
    let cluster = &sandbox.harness().cluster;
    cluster.park(Component::Scheduler).await?;
    apply_server(&sandbox).await?;
    let node = || async {
        let pod = sandbox.api::<Pod>().get("server").await?;
        Ok(pod.spec.and_then(|spec| spec.node_name))
    };
    let parked = wait::throughout("no scheduling", SILENCE, node, Option::is_none).await;
    cluster.unpark(Component::Scheduler).await?;
    parked?;
    wait::until("a scheduled pod", PATIENCE, node, Option::is_some).await?;

    let before = cluster
        .processes_named(Component::ApiServer.program())
        .await?;
    faults::strike_component(cluster, Component::ApiServer, Blow::Kill).await?;
    let now = || cluster.processes_named(Component::ApiServer.program());
    let again = |pids: &Vec<u32>| !pids.is_empty() && *pids != before;
    wait::until("another API server", PATIENCE, now, again).await?;
    wait::until("an answer of it", PATIENCE, node, Option::is_some).await?;
    Ok(())
}

async fn apply_server(sandbox: &Sandbox) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "server"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "probe",
                "image": PROBE_IMAGE,
                "imagePullPolicy": "Never",
                "args": ["serve", "8080"],
            }],
        },
    });
    sandbox.apply_yaml(&pod.to_string()).await
}

/// A pod that answers HTTP, running.
async fn serve(sandbox: &Sandbox) -> Result<Pod> {
    apply_server(sandbox).await?;
    let read = || async { Ok(sandbox.api::<Pod>().get("server").await?) };
    wait::until("a running pod", PATIENCE, read, |pod| {
        let phase = pod
            .status
            .as_ref()
            .and_then(|status| status.phase.as_deref());
        phase == Some("Running")
    })
    .await
}
