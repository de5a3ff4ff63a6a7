//! Every field of the spec: set, changed, taken away again; and pod templates that must
//! not be accepted.

mod table;

use super::optional_kinds;
use super::support;
use crate::scenario::Scenario;
use crate::scenario::license::License;
use crate::scenario::sandbox::{OperatorOptions, PATIENCE, Sandbox};
use crate::wait;
use anyhow::{Context, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams,
};
use kube::core::GroupVersionKind;
use serde_json::{Map, Value, json};
use std::time::Duration;
use table::{Field, base, fields, url};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "spec-fields",
        "Every field of the spec has its effect when set and changed, but for three that only pods show, and leaves nothing when taken away.",
        |sandbox| Box::pin(all_fields(sandbox)),
    )
    .takes(180),
    Scenario::new(
        "hostile-overlays",
        "A podTemplate that would make the pods something else is refused and touches nothing.",
        |sandbox| Box::pin(hostile_overlays(sandbox)),
    ),
];

/// Clusters at a time: some more than the operator reconciles at a time, which is eight.
const AT_ONCE: usize = 10;
/// What a cluster owns.
const KINDS: [(&str, &str); 8] = [
    ("", "Service"),
    ("", "ServiceAccount"),
    ("apps", "StatefulSet"),
    ("policy", "PodDisruptionBudget"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("gateway.networking.k8s.io", "HTTPRoute"),
    ("monitoring.coreos.com", "ServiceMonitor"),
];
async fn all_fields(sandbox: Sandbox) -> Result<()> {
    let _held = sandbox.harness().optional_kinds.lock().await;
    optional_kinds::install_definitions(&sandbox).await?;
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    objects_to_name(&sandbox).await?;
    stream::iter(fields().into_iter().enumerate())
        .map(|(index, field)| {
            let sandbox = sandbox.clone();
            async move {
                come_and_go(&sandbox, &format!("f{index}"), &field)
                    .await
                    .with_context(|| format!("spec.{}", field.path))
            }
        })
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
    optional_kinds::remove_definitions(&sandbox).await
}

/// The Secrets and ConfigMaps that the fields name.
async fn objects_to_name(sandbox: &Sandbox) -> Result<()> {
    let authority = sandbox.harness().postgres.certificates()?.authority()?;
    let other = format!("{authority}{authority}");
    let key = &sandbox.harness().license;
    let without = key.sign(&License::default().ha(false));
    let shorter = License::default().expires_in(jiff::SignedDuration::from_hours(24 * 90));
    for (index, (name, license)) in [
        ("one", key.sign(&License::default())),
        ("two", key.sign(&shorter)),
        ("three", without.clone()),
    ]
    .into_iter()
    .enumerate()
    {
        let port = 2 * index + 1;
        // A server that refuses at once.
        let host = sandbox.database().host();
        let monitor =
            |port: usize| format!("postgres://m:m@{host}:{port}/bytebase?sslmode=disable");
        let data = [
            ("PG_URL", url(&format!("{name}-a"))),
            ("OTHER_URL", url(&format!("{name}-b"))),
            ("monitor", monitor(port)),
            ("other-monitor", monitor(port + 1)),
            ("user", name.to_owned()),
            ("other-user", format!("{name}-b")),
            ("password", format!("password-{name}-a")),
            ("other-password", format!("password-{name}-b")),
            ("email", format!("{name}@example.com")),
            ("license", license),
            ("without-ha", without.clone()),
            ("ca.crt", authority.clone()),
            ("other.crt", other.clone()),
        ];
        let data: Vec<_> = data
            .iter()
            .map(|(key, value)| (*key, value.as_str()))
            .collect();
        sandbox.create_harmless_secret(name, &data).await?;
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"ca.crt": authority, "other.crt": other},
        });
        sandbox.apply_yaml(&map.to_string()).await?;
    }
    Ok(())
}

/// One database has one cluster, so each names a host of its own.
fn own_database(mut spec: Value, name: &str) -> Value {
    let url = &mut spec["database"]["url"];
    if let Some(text) = url.as_str().filter(|text| !text.contains("@f")) {
        *url = json!(text.replace("iam@", &format!("iam@{name}-")));
    }
    spec
}

/// The effect appears, changes and goes, and the end equals the fresh object. Of a field that only
/// pods show nothing appears meanwhile.
async fn come_and_go(sandbox: &Sandbox, name: &str, field: &Field) -> Result<()> {
    let around = own_database(merged(&base(), &field.around), name);
    let api = sandbox.clusters();
    let object = json!({
        "apiVersion": "bytebase.com/v1alpha1", "kind": "BytebaseCluster",
        "metadata": {"name": name}, "spec": around,
    });
    api.create(&PostParams::default(), &serde_json::from_value(object)?)
        .await?;
    let fresh = settled(sandbox, name, None).await.context("at first")?;
    let mut before = fresh.clone();
    for (what, value) in [("set", &field.set), ("changed", &field.changed)] {
        let spec = own_database(merged(&around, value), name);
        replace(sandbox, name, &spec).await?;
        if field.shows {
            let shown = settled(sandbox, name, Some(&before)).await;
            before = shown.context(what)?;
        } else {
            as_fresh(sandbox, name, &fresh).await.context(what)?;
        }
    }
    replace(sandbox, name, &around).await?;
    as_fresh(sandbox, name, &fresh)
        .await
        .context("taken away")?;
    api.delete(name, &DeleteParams::default()).await?;
    Ok(())
}

/// Waits until everything that can be read of a cluster is as it was when it was fresh.
async fn as_fresh(sandbox: &Sandbox, name: &str, fresh: &Value) -> Result<()> {
    let what = "the state of a fresh object";
    let waited = wait::until(
        what,
        PATIENCE,
        || read_state(sandbox, name),
        |(current, state)| *current && state == fresh,
    )
    .await;
    if let Err(error) = waited {
        let (_, now) = read_state(sandbox, name).await?;
        return Err(error.context(difference(fresh, &now, "")));
    }
    Ok(())
}

async fn replace(sandbox: &Sandbox, name: &str, spec: &Value) -> Result<()> {
    let change = json!([{"op": "replace", "path": "/spec", "value": spec}]);
    let patch = Patch::Json::<()>(serde_json::from_value(change)?);
    sandbox
        .clusters()
        .patch(name, &PatchParams::default(), &patch)
        .await?;
    Ok(())
}

/// Everything that can be read of a cluster, once its status speaks of the present generation; and
/// other than `before`, if that is given.
async fn settled(sandbox: &Sandbox, name: &str, before: Option<&Value>) -> Result<Value> {
    let what = if before.is_some() {
        "an effect"
    } else {
        "a settled cluster"
    };
    let (_, state) = wait::until(
        what,
        PATIENCE,
        || read_state(sandbox, name),
        |(current, state)| *current && before.is_none_or(|before| before != state),
    )
    .await?;
    // What comes of a probe comes a moment later.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let (_, later) = read_state(sandbox, name).await?;
    if later == state {
        return Ok(state);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok(read_state(sandbox, name).await?.1)
}

/// Whether status is of the present generation; and all objects and conditions, without what a
/// server assigns.
async fn read_state(sandbox: &Sandbox, name: &str) -> Result<(bool, Value)> {
    let cluster = sandbox.clusters().get(name).await?;
    let status = &cluster.data["status"];
    let current = status["observedGeneration"].as_i64() == cluster.metadata.generation;
    let mut conditions = Map::new();
    for condition in status["conditions"].as_array().into_iter().flatten() {
        let kind = condition["type"].as_str().unwrap_or_default();
        let reported = ["status", "reason", "message"].map(|key| condition[key].clone());
        conditions.insert(kind.to_owned(), json!(reported));
    }
    let mut state = json!({
        "phase": status["phase"], "url": status["url"], "target": status["targetReplicas"],
        "version": status["version"], "license": status["license"], "conditions": conditions,
    });
    let ours = ListParams::default().labels(&format!("bytebase.com/cluster={name}"));
    for (group, kind) in KINDS {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> =
            Api::namespaced_with(sandbox.client(), sandbox.namespace(), &resource);
        let objects = match api.list(&ours).await {
            // A kind that is not installed has no objects.
            Err(kube::Error::Api(status)) if status.code == 404 => continue,
            listed => listed?,
        };
        for object in objects {
            let object_name = object.metadata.name.clone().unwrap_or_default();
            state[format!("{kind}/{object_name}")] = wanted(object);
        }
    }
    Ok((current, state))
}

/// What was asked for, without what a server assigns.
fn wanted(object: DynamicObject) -> Value {
    let mut annotations = object.metadata.annotations.unwrap_or_default();
    annotations.remove("bytebase.com/applied-hash");
    let mut data = object.data;
    if let Some(data) = data.as_object_mut() {
        data.remove("status");
    }
    if let Some(spec) = data.get_mut("spec").and_then(Value::as_object_mut) {
        for assigned in ["clusterIP", "clusterIPs"] {
            spec.remove(assigned);
        }
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(port) = port.as_object_mut() {
                port.remove("nodePort");
            }
        }
    }
    json!({"labels": object.metadata.labels, "annotations": annotations, "data": data})
}

/// Objects merge, null takes away, everything else is replaced.
fn merged(base: &Value, over: &Value) -> Value {
    let mut result = base.clone();
    let (Some(into), Some(from)) = (result.as_object_mut(), over.as_object()) else {
        return over.clone();
    };
    for (key, value) in from {
        if value.is_null() {
            into.remove(key);
        } else {
            let before = into.get(key).cloned().unwrap_or_else(|| json!({}));
            into.insert(key.clone(), merged(&before, value));
        }
    }
    result
}

/// The first place at which two values differ.
fn difference(one: &Value, two: &Value, path: &str) -> String {
    if let (Some(a), Some(b)) = (one.as_object(), two.as_object()) {
        let keys = a.keys().chain(b.keys());
        for key in keys {
            if a.get(key) != b.get(key) {
                let null = Value::Null;
                let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
                return difference(a, b, &format!("{path}/{key}"));
            }
        }
    }
    format!("{path} was {one} and is {two}")
}

/// Overlays that would make the pods something else than replicas of this cluster are refused with
/// words, and nothing that stands is touched.
async fn hostile_overlays(sandbox: Sandbox) -> Result<()> {
    let name = support::NAME;
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    let object = json!({
        "apiVersion": "bytebase.com/v1alpha1", "kind": "BytebaseCluster",
        "metadata": {"name": name}, "spec": base(),
    });
    sandbox.apply_yaml(&object.to_string()).await?;
    let fresh = settled(&sandbox, name, None).await?;
    let before = objects_of(&fresh);
    let container = |fields: Value| json!({"spec": {"containers": [merged(&json!({"name": "bytebase"}), &fields)]}});
    let mut deep = json!("end");
    for _ in 0..40 {
        deep = json!({"a": deep});
    }
    for (overlay, words) in [
        (container(json!({"args": ["--port", "8080"]})), "--ha"),
        (container(json!({"command": ["sh"]})), "--ha"),
        (
            container(json!({"env": [{"name": "PG_URL", "value": "postgres://elsewhere"}]})),
            "PG_URL",
        ),
        (
            container(json!({"env": [{"name": "PGSSLMODE", "value": "disable"}]})),
            "PGSSLMODE",
        ),
        (
            container(json!({"ports": [{"containerPort": 8080, "name": "other"}]})),
            "port",
        ),
        (json!({"spec": {"containers": null}}), "bytebase container"),
        (json!({"spec": {"containers": "none"}}), "pod template"),
        (
            json!({"spec": {"containers": [{"image": "nameless"}]}}),
            "no name",
        ),
        (json!({"spec": {"restartPolicy": "Never"}}), "Always"),
        (json!({"spec": {"nonsense": true}}), "spec.nonsense"),
        (json!({"spec": {"$patch": "replace"}}), "$patch"),
        (
            json!({"metadata": {"labels": {"app.kubernetes.io/name": "other"}}}),
            "app.kubernetes.io/name",
        ),
        (
            json!({"metadata": {"labels": {"bytebase.com/cluster": "other"}}}),
            "bytebase.com/cluster",
        ),
        (json!({"metadata": {"labels": null}}), "label"),
        (
            json!({"spec": {"terminationGracePeriodSeconds": "soon"}}),
            "pod template",
        ),
        (json!({"spec": deep}), "spec.a"),
    ] {
        let mut spec = base();
        spec["podTemplate"] = overlay.clone();
        replace(&sandbox, name, &spec).await?;
        let reported = sandbox
            .wait_condition(name, "ConfigurationValid", "False", "")
            .await
            .with_context(|| overlay.to_string())?;
        support::says(&reported, &["spec.podTemplate", words])
            .with_context(|| overlay.to_string())?;
        let (_, now) = read_state(&sandbox, name).await?;
        ensure!(objects_of(&now) == before, "{overlay} had an effect");
        replace(&sandbox, name, &base()).await?;
        sandbox
            .wait_condition(name, "ConfigurationValid", "True", "")
            .await?;
    }
    let (_, end) = read_state(&sandbox, name).await?;
    ensure!(end == fresh, "{}", difference(&fresh, &end, ""));
    Ok(())
}

/// Without the status.
fn objects_of(state: &Value) -> Map<String, Value> {
    let all = state.as_object().cloned().unwrap_or_default();
    all.into_iter()
        .filter(|(key, _)| key.contains('/'))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_takes_away_and_replaces() {
        let result = merged(
            &json!({"a": {"b": 1, "c": 2}, "d": [1]}),
            &json!({"a": {"b": null}, "d": [2]}),
        );
        assert_eq!(result, json!({"a": {"c": 2}, "d": [2]}));
    }
}
