//! NetworkPolicy, and the kinds that a Kubernetes cluster may lack: HTTPRoute and ServiceMonitor.

use super::rights;
use super::support::{self, NAME};
use crate::machine::tools::Tools;
use crate::scenario::Scenario;
use crate::scenario::sandbox::{PATIENCE, Sandbox};
use crate::wait;
use anyhow::{Result, ensure};
use serde_json::json;
use std::fs;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "optional-kinds",
    "HTTPRoute, ServiceMonitor and NetworkPolicy are reported where the kind is lacking, made once it is there, and gone with the spec.",
    |sandbox| Box::pin(come_and_go(sandbox)),
)];

const DEFINITIONS: [&str; 2] = [
    "httproutes.gateway.networking.k8s.io",
    "servicemonitors.monitoring.coreos.com",
];
const ROUTE: &str = "httproute/demo";
const MONITOR: &str = "servicemonitor/demo";

async fn come_and_go(sandbox: Sandbox) -> Result<()> {
    let _held = sandbox.harness().optional_kinds.lock().await;
    // Of a run that did not come to its end.
    remove_definitions(&sandbox).await?;
    let mut cluster = support::minimal(&sandbox, 1);
    cluster["spec"]["gateway"] = json!({"parentRefs": [{"name": "public"}]});
    cluster["spec"]["networkPolicy"] =
        json!({"from": [{"podSelector": {"matchLabels": {"app": "edge"}}}]});
    cluster["spec"]["monitoring"] = json!({"serviceMonitor": {"interval": "30s"}});
    // A drain as short as here is remarked on, unless the queue is never held.
    cluster["spec"]["rollout"]["holdLimitSeconds"] = json!(0);
    support::start(&sandbox, &cluster).await?;

    // Reported, and everything else stands.
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    lacking(&sandbox).await?;
    ensure!(
        exists(&sandbox, "networkpolicy/demo").await?,
        "no NetworkPolicy"
    );
    ensure!(
        !exists(&sandbox, "ingress/demo").await?,
        "an Ingress beside the gateway"
    );

    install_definitions(&sandbox).await?;
    let valid = sandbox
        .wait_condition(NAME, "ConfigurationValid", "True", "")
        .await?;
    ensure!(valid["reason"] == "Valid", "{valid}");
    sandbox
        .wait_condition(NAME, "Exposed", "Unknown", "RoutePending")
        .await?;
    wait_exists(&sandbox, MONITOR, true).await?;

    // What a Gateway says of the route is what users read.
    let words = "no listener fits";
    answer(&sandbox, "False", words).await?;
    let refused = sandbox
        .wait_condition(NAME, "Exposed", "False", "RouteRefused")
        .await?;
    support::says(&refused, &[words])?;
    answer(&sandbox, "True", "").await?;
    sandbox
        .wait_condition(NAME, "Exposed", "True", "RouteAccepted")
        .await?;

    put_back(&sandbox).await?;
    rights::lost_and_found(&sandbox, &[ROUTE, MONITOR, "networkpolicy/demo"]).await?;

    // Gone with its definition, and reported; then no longer asked for.
    remove_definitions(&sandbox).await?;
    lacking(&sandbox).await?;
    install_definitions(&sandbox).await?;
    wait_exists(&sandbox, ROUTE, true).await?;
    wait_exists(&sandbox, MONITOR, true).await?;
    support::patch_spec(
        &sandbox,
        json!({"gateway": null, "networkPolicy": null, "monitoring": null}),
    )
    .await?;
    for (object, there) in [
        (ROUTE, false),
        (MONITOR, false),
        ("networkpolicy/demo", false),
        ("ingress/demo", true),
    ] {
        wait_exists(&sandbox, object, there).await?;
    }
    let unused = rights::optional_unused(&sandbox).await?;
    ensure!(unused.is_empty(), "granted and never used: {unused:?}");
    remove_definitions(&sandbox).await
}

/// Both kinds are named as missing, by the field that asks for them.
async fn lacking(sandbox: &Sandbox) -> Result<()> {
    let reported = wait::until(
        "both kinds reported as missing",
        PATIENCE,
        || support::condition_now(sandbox, "ConfigurationValid"),
        |condition| {
            DEFINITIONS
                .iter()
                .all(|name| support::says(condition, &[name]).is_ok())
        },
    )
    .await?;
    ensure!(
        reported["status"] == "False" && reported["reason"] == "KindNotInstalled",
        "{reported}"
    );
    support::says(
        &reported,
        &["spec.gateway", "spec.monitoring.serviceMonitor", "install"],
    )?;
    sandbox
        .wait_condition(NAME, "Exposed", "False", "KindNotInstalled")
        .await?;
    Ok(())
}

/// An edit is undone and a deleted object made again; then nothing is written any more.
async fn put_back(sandbox: &Sandbox) -> Result<()> {
    let host = || async {
        sandbox
            .kubectl(&["get", ROUTE, "-o", "jsonpath={.spec.hostnames}"])
            .await
    };
    let before = host().await?;
    let edit = r#"{"spec":{"hostnames":["evil.example.com"]}}"#;
    sandbox
        .kubectl(&["patch", ROUTE, "--type=merge", "-p", edit])
        .await?;
    wait::until("the host put back", PATIENCE, host, |now| *now == before).await?;
    sandbox.kubectl(&["delete", MONITOR]).await?;
    wait_exists(sandbox, MONITOR, true).await?;
    // What was said of the route before the edit is outdated, until its Gateway has seen it again.
    sandbox
        .wait_condition(NAME, "Exposed", "Unknown", "RoutePending")
        .await?;
    answer(sandbox, "True", "").await?;
    sandbox
        .wait_condition(NAME, "Exposed", "True", "RouteAccepted")
        .await?;

    let versions = || async {
        let kinds = "httproutes,servicemonitors,networkpolicies";
        let columns = "jsonpath={range .items[*]}{.kind} {.metadata.resourceVersion}{\"\\n\"}{end}";
        sandbox.kubectl(&["get", kinds, "-o", columns]).await
    };
    let settled = versions().await?;
    ensure!(settled.lines().count() == 3, "{settled}");
    // A reconcile, which reads each of them; any event starts one.
    support::patch_spec(sandbox, json!({"service": {"port": 8081}})).await?;
    let port = || async {
        sandbox
            .kubectl(&[
                "get",
                ROUTE,
                "-o",
                "jsonpath={.spec.rules[1].backendRefs[0].port}",
            ])
            .await
    };
    wait::until("the new port in the route", PATIENCE, port, |port| {
        port == "8081"
    })
    .await?;
    let after = versions().await?;
    let unchanged = |kind: &str| {
        let of = |all: &str| {
            all.lines()
                .find(|line| line.starts_with(kind))
                .map(str::to_owned)
        };
        of(&settled) == of(&after)
    };
    ensure!(
        unchanged("NetworkPolicy") && unchanged("ServiceMonitor"),
        "written without need:\n{settled}\n{after}"
    );
    Ok(())
}

/// Says what a Gateway's controller would say of the route as it is now.
async fn answer(sandbox: &Sandbox, accepted: &str, message: &str) -> Result<()> {
    let get = ["get", ROUTE, "-o", "jsonpath={.metadata.generation}"];
    let generation: i64 = sandbox.kubectl(&get).await?.trim().parse()?;
    let condition = json!({
        "type": "Accepted", "status": accepted, "reason": "Told", "message": message,
        "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": generation,
    });
    let parent = json!({
        "parentRef": {"name": "public"}, "controllerName": "example.com/gateway", "conditions": [condition],
    });
    let patch = json!({"status": {"parents": [parent]}}).to_string();
    sandbox
        .kubectl(&[
            "patch",
            ROUTE,
            "--subresource=status",
            "--type=merge",
            "-p",
            &patch,
        ])
        .await?;
    Ok(())
}

async fn exists(sandbox: &Sandbox, object: &str) -> Result<bool> {
    let printed = sandbox
        .kubectl(&["get", object, "--ignore-not-found", "-o", "name"])
        .await?;
    Ok(!printed.trim().is_empty())
}

async fn wait_exists(sandbox: &Sandbox, object: &str, there: bool) -> Result<()> {
    let what = format!("{object} {}", if there { "made" } else { "gone" });
    wait::until(
        &what,
        PATIENCE,
        || exists(sandbox, object),
        |found| *found == there,
    )
    .await?;
    Ok(())
}

pub async fn install_definitions(sandbox: &Sandbox) -> Result<()> {
    for entry in fs::read_dir(Tools::load()?.definitions)? {
        let definition = fs::read_to_string(entry?.path())?;
        sandbox.apply_yaml(&definition).await?;
    }
    sandbox.harness().wait_for_definitions().await
}

pub async fn remove_definitions(sandbox: &Sandbox) -> Result<()> {
    let mut arguments = vec!["delete", "customresourcedefinition", "--ignore-not-found"];
    arguments.extend(DEFINITIONS);
    sandbox.kubectl(&arguments).await?;
    Ok(())
}
