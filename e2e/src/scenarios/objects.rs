//! The objects of a cluster: put back, left alone, taken away.

use super::support::{self, Lives, NAME};
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox, condition};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "drift",
        "Each owned object is put back when edited or deleted; foreign fields stay, and none becomes the operator's for good. What another party writes into the status goes.",
        |sandbox| Box::pin(drift(sandbox)),
    ),
    Scenario::new(
        "contested",
        "An object that another party changes back each time is reported with the party's name, and written only at long intervals.",
        |sandbox| Box::pin(contested(sandbox)),
    )
    .stand_in_only(stand_in::INDEPENDENT),
    Scenario::new(
        "scaled-by-another",
        "A StatefulSet that another party makes far too large is taken back in a few writes; no replica of before ends.",
        |sandbox| Box::pin(scaled_by_another(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(90),
    Scenario::new(
        "name-taken",
        "An object of the same name that belongs to another party is never touched.",
        |sandbox| Box::pin(name_taken(sandbox)),
    ),
    Scenario::new(
        "deletion",
        "A deleted cluster takes everything of its own with it and nothing else.",
        |sandbox| Box::pin(deletion(sandbox)),
    ),
    Scenario::new(
        "orphans",
        "What a cluster left behind when it was deleted with --cascade=orphan is its own again when it is made again, or goes where it is no longer wanted; no replica ends.",
        |sandbox| Box::pin(orphans(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "switches",
        "Ingress and PodDisruptionBudget come, change and go with the spec.",
        |sandbox| Box::pin(switches(sandbox)),
    ),
    Scenario::new(
        "forbidden-kind",
        "Without the right to Ingresses the rest works, and the condition names the right.",
        |sandbox| Box::pin(forbidden_kind(sandbox)),
    ),
];

/// Each owned object, and an edit of a field the operator owns.
const OWNED: [(&str, &str, &str); 6] = [
    (
        "serviceaccount/demo",
        r#"{"automountServiceAccountToken":true}"#,
        "{.automountServiceAccountToken}",
    ),
    (
        "service/demo",
        r#"{"spec":{"ports":[{"name":"http","port":81,"targetPort":9999}]}}"#,
        "{.spec.ports[*].port} {.spec.ports[*].targetPort}",
    ),
    (
        "service/demo-headless",
        r#"{"spec":{"publishNotReadyAddresses":false}}"#,
        "{.spec.publishNotReadyAddresses}",
    ),
    (
        "statefulset/demo",
        r#"{"spec":{"replicas":5}}"#,
        "{.spec.replicas}",
    ),
    (
        "poddisruptionbudget/demo",
        r#"{"spec":{"maxUnavailable":3}}"#,
        "{.spec.maxUnavailable}",
    ),
    (
        "ingress/demo",
        r#"{"spec":{"rules":[{"host":"evil.example.com"}]}}"#,
        "{.spec.rules[*].host}",
    ),
];

async fn drift(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    for (object, edit, field) in OWNED {
        let path = format!("jsonpath={field}");
        let read = || async { sandbox.kubectl(&["get", object, "-o", &path]).await };
        let before = read().await?;
        sandbox
            .kubectl(&["annotate", object, "example.com/mine=kept"])
            .await?;
        sandbox
            .kubectl(&["patch", object, "--type=merge", "-p", edit])
            .await?;
        wait::until(&format!("{object} put back"), PATIENCE, read, |now| {
            *now == before
        })
        .await?;
        let mine = sandbox
            .kubectl(&[
                "get",
                object,
                "-o",
                "jsonpath={.metadata.annotations.example\\.com/mine}",
            ])
            .await?;
        ensure!(
            mine.trim() == "kept",
            "{object}: a foreign annotation was taken away"
        );
        // What it owned in another way would stay when the spec leaves it out.
        let operations =
            r#"jsonpath={.metadata.managedFields[?(@.manager=="bytebase-operator")].operation}"#;
        let get = ["get", object, "--show-managed-fields", "-o", operations];
        let owned = sandbox.kubectl(&get).await?;
        ensure!(
            owned.split_whitespace().eq(["Apply"]),
            "{object}: the operator owns fields by {owned}"
        );
    }
    status_put_back(&sandbox).await?;
    for (object, _, _) in OWNED {
        let uid = || async {
            sandbox
                .kubectl(&["get", object, "-o", "jsonpath={.metadata.uid}"])
                .await
        };
        let before = uid().await?;
        sandbox.kubectl(&["delete", object, "--wait=false"]).await?;
        wait::until(&format!("{object} made again"), PATIENCE, uid, |now| {
            *now != before
        })
        .await?;
    }
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// As a backup that is restored with its status, whose fields belong to whoever restored it.
async fn status_put_back(sandbox: &Sandbox) -> Result<()> {
    let before = sandbox.status(NAME).await?;
    let mut replicas = before["replicaStatuses"].clone();
    replicas
        .as_array_mut()
        .context("no replicas in status")?
        .push(json!({"pod": "demo-7", "ready": true, "heartbeat": "Fresh"}));
    let restored = json!({"status": {
        "rollout": {"waitingFor": "Drain", "message": "of long ago", "updatedReplicas": 0},
        "stuckTasks": {"tasks": 3}, "replicaStatuses": replicas,
    }});
    let parameters = PatchParams {
        field_manager: Some("restore".to_owned()),
        ..PatchParams::default()
    };
    let restore = Patch::Merge(restored);
    let clusters = sandbox.clusters();
    clusters.patch_status(NAME, &parameters, &restore).await?;
    sandbox
        .wait_status(NAME, "what was restored of the status gone", |status| {
            let mut replicas = status["replicaStatuses"].as_array().into_iter().flatten();
            status.get("rollout").is_none()
                && status.get("stuckTasks").is_none()
                && !replicas.any(|replica| replica["pod"] == "demo-7")
        })
        .await?;
    Ok(())
}

/// Another party changes the PodDisruptionBudget back as fast as the operator writes it.
async fn contested(sandbox: Sandbox) -> Result<()> {
    /// So often the other party writes in the time in which writes are counted.
    const FIGHTS: usize = 5;

    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let budget = "poddisruptionbudget/demo";
    // It ends with this function at the latest.
    let mut fighter = JoinSet::<()>::new();
    let blows = Arc::new(AtomicUsize::new(0));
    fighter.spawn({
        let (sandbox, blows) = (sandbox.clone(), Arc::clone(&blows));
        async move {
            let edit = r#"{"spec":{"maxUnavailable":3}}"#;
            let manager = "--field-manager=fighter";
            let arguments = ["patch", budget, "--type=merge", "-p", edit, manager];
            loop {
                let done = sandbox.kubectl(&arguments).await.is_ok();
                blows.fetch_add(usize::from(done), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let reported = sandbox
        .wait_condition(NAME, "Stalled", "True", "ChangedBack")
        .await?;
    support::says(
        &reported,
        &["poddisruptionbudgets/demo", "field manager \"fighter\""],
    )?;
    let writes = || async {
        let calls = sandbox.calls().await?.into_iter();
        let ours =
            calls.filter(|call| call.resource == "poddisruptionbudgets" && call.verb == "patch");
        anyhow::Ok(ours.count())
    };
    let (before, fought) = (writes().await?, blows.load(Ordering::Relaxed));
    tokio::time::sleep(Duration::from_secs(20)).await;
    let during = writes().await? - before;
    ensure!(
        during <= 1,
        "{during} writes in 20 s against another party's"
    );
    let fought = blows.load(Ordering::Relaxed) - fought;
    ensure!(
        fought >= FIGHTS,
        "the other party has written {fought} times in 20 s"
    );
    fighter.shutdown().await;
    sandbox.wait_condition(NAME, "Stalled", "False", "").await?;
    let path = "jsonpath={.spec.maxUnavailable}";
    let now = sandbox.kubectl(&["get", budget, "-o", path]).await?;
    ensure!(now.trim() == "1", "the budget was not put back: {now}");
    Ok(())
}

/// Far more than there is room for. Kubernetes' own controller builds each pod in its memory before
/// it makes the first, so it is no more than that.
const FAR_TOO_MANY: u32 = 300;
/// So many pods beyond those of before have room. Kubernetes may make them before the operator has
/// written anything.
const ROOM: usize = 1;
/// Times that the StatefulSet may be written, with the change itself. Back to the pods that there
/// are and one step down make three.
const FEW: i64 = 5;

/// Another party scales the StatefulSet up, by its scale and by its spec.
async fn scaled_by_another(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    // The operator's own pod is counted as well.
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "small"},
        "spec": {"hard": {"pods": (1 + 2 + ROOM).to_string()}},
    });
    sandbox.apply_yaml(&quota.to_string()).await?;
    let before = support::lives(&sandbox).await?;
    ensure!(before.len() == 2, "{before:?}");
    let operator = support::lives_of(&sandbox.operator_pods().await?);
    let count = format!("--replicas={FAR_TOO_MANY}");
    let edit = json!({"spec": {"replicas": FAR_TOO_MANY}}).to_string();
    for change in [
        vec!["scale", "statefulset", NAME, &count],
        vec![
            "patch",
            "statefulset",
            NAME,
            "--type=merge",
            "--field-manager=autoscaler",
            "-p",
            &edit,
        ],
    ] {
        taken_back(&sandbox, &change, &before).await?;
    }
    let after = support::lives_of(&sandbox.operator_pods().await?);
    ensure!(
        after == operator,
        "the operator ended: {operator:?}, {after:?}"
    );
    Ok(())
}

/// One change of the size, to its end.
async fn taken_back(sandbox: &Sandbox, change: &[&str], before: &Lives) -> Result<()> {
    let seen = || async {
        let set = sandbox.api::<StatefulSet>().get(NAME).await?;
        let wanted = set.spec.and_then(|spec| spec.replicas);
        let generation = set.metadata.generation.context("no generation")?;
        Ok((generation, wanted, support::lives(sandbox).await?))
    };
    let (first, ..) = seen().await?;
    sandbox.kubectl(change).await?;
    let (last, ..) = wait::until_while(
        "the size of before",
        PATIENCE,
        seen,
        |(generation, _, lives)| {
            let written = generation - first;
            ensure!(written <= FEW, "written {written} times");
            let gone: Vec<_> = before
                .iter()
                .filter(|(name, life)| lives.get(*name) != Some(life))
                .collect();
            ensure!(gone.is_empty(), "a replica of before ended: {gone:?}");
            Ok(())
        },
        |(generation, wanted, lives)| {
            *generation > first && *wanted == Some(2) && lives.len() == before.len()
        },
    )
    .await?;
    let written = last - first;
    ensure!(written > 1, "the change itself never came");
    println!("    {} writes of the operator", written - 1);
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    sandbox.wait_condition(NAME, "Stalled", "False", "").await?;
    let state = || async {
        let (generation, _, lives) = seen().await?;
        let status = sandbox.status(NAME).await?;
        let stalled = condition(&status["conditions"], "Stalled").cloned();
        Ok((generation, lives, stalled.context("no condition Stalled")?))
    };
    wait::throughout(
        "a cluster as before",
        Duration::from_secs(10),
        state,
        |(generation, lives, stalled)| {
            *generation == last && lives == before && stalled["status"] == "False"
        },
    )
    .await
}

/// An object of the same name that belongs to another party.
async fn name_taken(sandbox: Sandbox) -> Result<()> {
    let foreign = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "labels": {"owner": "somebody"}}, "spec": {"ports": [{"port": 1234}], "selector": {"app": "other"}}});
    sandbox.apply_yaml(&foreign.to_string()).await?;
    let read = || async {
        sandbox
            .kubectl(&[
                "get",
                "service",
                NAME,
                "-o",
                "jsonpath={.metadata.resourceVersion} {.metadata.labels} {.spec}",
            ])
            .await
    };
    let before = read().await?;
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    let reported = sandbox
        .wait_condition(NAME, "Stalled", "True", "NameTaken")
        .await?;
    support::says(&reported, &["services/demo"])?;
    ensure!(read().await? == before, "a foreign object was touched");
    // The rest stands all the same.
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "True", "")
        .await?;
    sandbox.kubectl(&["delete", "service", NAME]).await?;
    sandbox.wait_condition(NAME, "Stalled", "False", "").await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let owner = sandbox
        .kubectl(&[
            "get",
            "service",
            NAME,
            "-o",
            "jsonpath={.metadata.ownerReferences[0].kind}",
        ])
        .await?;
    ensure!(owner.trim() == "BytebaseCluster");
    Ok(())
}

async fn deletion(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    sandbox
        .kubectl(&["create", "configmap", "not-ours", "--from-literal=a=b"])
        .await?;
    let kinds = "statefulsets,services,ingresses,poddisruptionbudgets,pods";
    // It returns when the cluster has gone, which waits for what it owns.
    sandbox
        .kubectl(&["delete", "bytebasecluster", NAME, "--cascade=foreground"])
        .await?;
    let left = || async {
        sandbox
            .kubectl(&[
                "get",
                kinds,
                "-l",
                &format!("bytebase.com/cluster={NAME}"),
                "-o",
                "name",
            ])
            .await
    };
    let names = left().await?;
    ensure!(names.trim().is_empty(), "left behind: {names}");
    for kept in ["configmap/not-ours", "secret/demo-database"] {
        sandbox
            .kubectl(&["get", kept])
            .await
            .with_context(|| format!("{kept} went with the cluster"))?;
    }
    let rows = support::active_rows(&sandbox).await?;
    ensure!(rows >= 1, "the database was touched: {rows} rows");
    Ok(())
}

/// A cluster that is deleted without what it owns, and made again without a budget: that goes, its
/// other objects are owned again, and no replica ends. So it is where only the StatefulSet goes
/// without its pods.
async fn orphans(sandbox: Sandbox) -> Result<()> {
    const UNWANTED: &str = "poddisruptionbudget/demo";
    let mut cluster = support::licensed(&sandbox, 2);
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;
    sandbox
        .kubectl(&["delete", "bytebasecluster", NAME, "--cascade=orphan"])
        .await?;
    let all = OWNED.map(|(object, ..)| object);
    let owners = || owners_of(&sandbox, &all);
    wait::until("objects without an owner", PATIENCE, owners, |uids| {
        uids.iter().all(|uid| uid.trim().is_empty())
    })
    .await?;
    cluster["spec"]["disruptionBudget"] = json!({"enabled": false});
    sandbox.apply_yaml(&cluster.to_string()).await?;
    let unwanted = || async {
        let arguments = ["get", UNWANTED, "--ignore-not-found", "-o", "name"];
        sandbox.kubectl(&arguments).await
    };
    wait::until("no budget", PATIENCE, unwanted, |name| {
        name.trim().is_empty()
    })
    .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let path = "jsonpath={.metadata.uid}";
    let uid = sandbox
        .kubectl(&["get", "bytebasecluster", NAME, "-o", path])
        .await?;
    let mut wanted = all.to_vec();
    wanted.retain(|object| *object != UNWANTED);
    let owners = || owners_of(&sandbox, &wanted);
    wait::until("objects owned again", PATIENCE, owners, |uids| {
        uids.iter().all(|owner| owner.trim() == uid.trim())
    })
    .await?;
    let after = support::lives(&sandbox).await?;
    ensure!(before == after, "a replica ended: {before:?}, {after:?}");

    let set = || async {
        let arguments = ["get", "statefulset", NAME, "--ignore-not-found", "-o", path];
        sandbox.kubectl(&arguments).await
    };
    let old = set().await?;
    sandbox
        .kubectl(&["delete", "statefulset", NAME, "--cascade=orphan"])
        .await?;
    wait::until("another StatefulSet", PATIENCE, set, |uid| {
        !uid.trim().is_empty() && *uid != old
    })
    .await?;
    sandbox
        .wait_status(NAME, "all to be well on it", |status| {
            status["phase"] == "Ready" && status["readyReplicas"] == 2
        })
        .await?;
    let after = support::lives(&sandbox).await?;
    ensure!(before == after, "a replica ended: {before:?}, {after:?}");
    Ok(())
}

/// The uids of the owners of these objects.
async fn owners_of(sandbox: &Sandbox, objects: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for object in objects {
        let path = "jsonpath={.metadata.ownerReferences[*].uid}";
        found.push(sandbox.kubectl(&["get", object, "-o", path]).await?);
    }
    Ok(found)
}

/// Parts of the spec that come and go again take their objects with them.
async fn switches(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::minimal(&sandbox, 1);
    cluster["spec"]["ingress"] =
        json!({"preset": "ingress-nginx", "className": "nginx", "tlsSecretName": "tls"});
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let ingress = || async {
        Ok(serde_json::from_str::<Value>(
            &sandbox.kubectl(&["get", "ingress", "-o", "json"]).await?,
        )?["items"]
            .clone())
    };
    let preset = "nginx.ingress.kubernetes.io/proxy-read-timeout";
    let items = ingress().await?;
    ensure!(
        items[0]["metadata"]["annotations"][preset] == "3600",
        "{items}"
    );
    let paths = items[0]["spec"]["rules"][0]["http"]["paths"].clone();
    for private in ["/metrics", "/debug"] {
        let rule = paths
            .as_array()
            .and_then(|paths| paths.iter().find(|path| path["path"] == private))
            .with_context(|| format!("{private} is not kept off"))?;
        ensure!(
            rule["backend"]["service"]["port"]["name"] == "nowhere",
            "{rule}"
        );
    }
    support::patch_spec(&sandbox, json!({"ingress": {"preset": "none"}})).await?;
    wait::until("no preset", PATIENCE, ingress, |items| {
        items[0]["metadata"]["annotations"][preset].is_null()
    })
    .await?;
    support::patch_spec(
        &sandbox,
        json!({"ingress": {"enabled": false}, "disruptionBudget": {"enabled": false}}),
    )
    .await?;
    wait::until("no Ingress", PATIENCE, ingress, |items| {
        items.as_array().is_some_and(Vec::is_empty)
    })
    .await?;
    let budgets = || async {
        sandbox
            .kubectl(&[
                "get",
                "poddisruptionbudget",
                NAME,
                "--ignore-not-found",
                "-o",
                "name",
            ])
            .await
    };
    wait::until("no PodDisruptionBudget", PATIENCE, budgets, |names| {
        names.trim().is_empty()
    })
    .await?;
    sandbox
        .wait_condition(NAME, "Exposed", "False", "IngressDisabled")
        .await?;
    support::patch_spec(
        &sandbox,
        json!({"ingress": {"host": "other.example.com", "enabled": true}}),
    )
    .await?;
    let reported = sandbox
        .wait_condition(NAME, "ConfigurationValid", "False", "InvalidSpec")
        .await?;
    support::says(&reported, &["spec.ingress.host"])?;
    Ok(())
}

/// Without the right to one kind the rest works, and the condition says which verb on what is
/// missing.
async fn forbidden_kind(sandbox: Sandbox) -> Result<()> {
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    let listed: Value =
        serde_json::from_str(&sandbox.kubectl(&["get", "roles", "-o", "json"]).await?)?;
    let mut role = listed["items"]
        .as_array()
        .and_then(|items| {
            items
                .iter()
                .find(|role| role["rules"].to_string().contains("ingresses"))
        })
        .context("no role grants ingresses")?
        .clone();
    let rules = role["rules"].as_array_mut().context("no rules")?;
    rules.retain(|rule| !rule["resources"].to_string().contains("ingresses"));
    sandbox
        .kubectl(&[
            "patch",
            "role",
            role["metadata"]["name"].as_str().unwrap_or_default(),
            "--type=merge",
            "-p",
            &json!({"rules": role["rules"]}).to_string(),
        ])
        .await?;
    // A start that finds the right gone already.
    sandbox
        .kubectl(&[
            "delete",
            "pods",
            "-l",
            &format!("app.kubernetes.io/instance={}", sandbox.release()),
        ])
        .await?;
    support::secrets(&sandbox).await?;
    sandbox
        .apply_yaml(&support::minimal(&sandbox, 1).to_string())
        .await?;
    let reported = sandbox
        .wait_condition(NAME, "Stalled", "True", "Forbidden")
        .await?;
    support::says(&reported, &["ingresses"])?;
    sandbox
        .wait_condition(NAME, "Exposed", "False", "IngressFailed")
        .await?;
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "True", "")
        .await?;
    // No spec has been applied to its end, so no one who waits for one goes on.
    let object = format!("bytebasecluster/{NAME}");
    let waiting = ["wait", "--for=condition=Ready", &object, "--timeout=2s"];
    ensure!(
        sandbox.kubectl(&waiting).await.is_err(),
        "kubectl wait takes a spec for applied whose Ingress was refused"
    );
    // Pods do not need it, so a rollout goes on.
    support::patch_spec(&sandbox, json!({"podLabels": {"asked": "meanwhile"}})).await?;
    let changed = || sandbox.pods("asked=meanwhile");
    wait::until("the change in the pod", PATIENCE, changed, |pods| {
        pods.len() == 1
    })
    .await?;
    Ok(())
}
