//! Loops that write what the operator writes and do nothing else: what the operator is compared
//! with.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{DeleteParams, DynamicObject, ListParams};
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use super::fleet::{CHILDREN, CONCURRENCY, Fleet, apply, name, resource};

/// What a loop does before it writes the children of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    Nothing,
    /// Writes the cluster itself and logs in to its database: what no operator could leave out.
    ClusterAndLogin,
}

/// One child: group, kind, and itself as it was applied.
type Child = (&'static str, &'static str, Value);

/// The children of one cluster, as the operator applied them.
pub struct Template(Vec<Child>);

impl Template {
    /// Of the only cluster of a fleet.
    pub async fn of(fleet: &Fleet<'_>) -> Result<Self> {
        let mut children = Vec::new();
        for (group, kind, _) in CHILDREN {
            for object in fleet.api(group, kind).list(&ListParams::default()).await? {
                children.push((group, kind, as_applied(&object, group, kind)?));
            }
        }
        Ok(Self(children))
    }

    /// The same for another cluster.
    fn of_cluster(&self, index: usize) -> Result<Vec<Child>> {
        let children = self.0.iter().map(|(group, kind, child)| {
            let text = child.to_string().replace(&name(0), &name(index));
            Ok((*group, *kind, serde_json::from_str(&text)?))
        });
        children.collect()
    }
}

/// Writes the children of as many clusters as the fleet has, as many at a time as the operator,
/// into a namespace of their own, and deletes them afterwards. Returns how long writing took.
pub async fn measure(
    fleet: &Fleet<'_>,
    template: &Template,
    into: &str,
    first: First,
) -> Result<Duration> {
    let kubectl = &fleet.harness.kubectl;
    kubectl.run(&["create", "namespace", into]).await?;
    let clusters = fleet.clusters_in(into);
    let children: Vec<_> = (0..fleet.size)
        .map(|index| template.of_cluster(index))
        .collect::<Result<_>>()?;
    let start = Instant::now();
    let sessions: Vec<_> = stream::iter(children.into_iter().enumerate())
        .map(|(index, children)| {
            let clusters = &clusters;
            async move {
                let mut session = None;
                if first == First::ClusterAndLogin {
                    apply(clusters, name(index), fleet.cluster(index)).await?;
                    session = Some(PgConnection::connect(&fleet.database_url(index)?).await?);
                }
                for (group, kind, child) in children {
                    let api = fleet.api_in(into, group, kind);
                    let name = child["metadata"]["name"].as_str().context("no name")?;
                    apply(&api, name.to_owned(), child).await?;
                }
                anyhow::Ok(session)
            }
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect()
        .await?;
    let took = start.elapsed();
    for session in sessions.into_iter().flatten() {
        session.close().await?;
    }
    // The API server takes the longer for a Service the more there are: each measurement begins
    // without any.
    let children = CHILDREN.map(|(group, kind, _)| fleet.api_in(into, group, kind));
    for api in children.iter().chain([&clusters]) {
        api.delete_collection(&DeleteParams::default(), &ListParams::default())
            .await?;
    }
    Ok(took)
}

/// The object as it was applied: the fields that the operator owns, and no default.
fn as_applied(object: &DynamicObject, group: &str, kind: &str) -> Result<Value> {
    let entries = object.metadata.managed_fields.iter().flatten();
    let fields = entries
        .filter(|entry| entry.operation.as_deref() == Some("Apply"))
        .find_map(|entry| entry.fields_v1.as_ref())
        .context("nobody applied it")?;
    let mut applied = owned(&serde_json::to_value(object)?, &fields.0);
    applied["apiVersion"] = json!(resource(group, kind).api_version);
    applied["kind"] = json!(kind);
    applied["metadata"]["name"] = json!(object.metadata.name);
    Ok(applied)
}

/// The part of a value that a set of fields (`FieldsV1`) names.
fn owned(value: &Value, fields: &Value) -> Value {
    let named = |prefix: &'static str| {
        let fields = fields.as_object().into_iter().flatten();
        fields.filter_map(move |(key, below)| Some((key.strip_prefix(prefix)?, below)))
    };
    match value {
        Value::Object(map) if named("f:").next().is_some() => named("f:")
            .filter_map(|(key, below)| Some((key.to_owned(), owned(map.get(key)?, below))))
            .collect(),
        Value::Array(items) if named("k:").next().is_some() => named("k:")
            .filter_map(|(key, below)| {
                let key: Value = serde_json::from_str(key).ok()?;
                let is_it = |item: &&Value| {
                    key.as_object()
                        .into_iter()
                        .flatten()
                        .all(|(field, wanted)| item.get(field) == Some(wanted))
                };
                Some(owned(items.iter().find(is_it)?, below))
            })
            .collect(),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_is_told_by_its_fields() {
        let live = json!({
            "metadata": {"labels": {"ours": "1", "theirs": "2"}, "uid": "x"},
            "spec": {
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}, {"name": "other", "port": 81, "protocol": "TCP"}],
                "selector": {"app": "x"}, "clusterIP": "10.0.0.1",
            },
        });
        let fields = json!({
            "f:metadata": {"f:labels": {"f:ours": {}}},
            "f:spec": {
                "f:ports": {"k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:name": {}, "f:port": {}}},
                "f:selector": {},
            },
        });
        let applied = json!({
            "metadata": {"labels": {"ours": "1"}},
            "spec": {"ports": [{"name": "http", "port": 80}], "selector": {"app": "x"}},
        });
        assert_eq!(owned(&live, &fields), applied);
    }

    #[test]
    fn a_template_serves_any_cluster() -> Result<()> {
        let child = json!({"metadata": {"name": format!("{}-headless", name(0))}});
        let template = Template(vec![("", "Service", child)]);
        let (_, _, child) = &template.of_cluster(17)?[0];
        assert_eq!(child["metadata"]["name"], format!("{}-headless", name(17)));
        Ok(())
    }
}
