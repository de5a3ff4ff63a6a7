//! Loops that write what the operator writes, read what it must read, and do nothing else: what the
//! operator is compared with.

use super::fleet::{CHILDREN, CONCURRENCY, EVENTS, Fleet, apply, name, resource};
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a loop does for each cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Writes the children.
    Children,
    /// Writes the cluster, logs in to its database and reads it once, writes the children, one
    /// status and one event: what no operator could leave out.
    Everything,
}

/// One child: group, kind, and itself as it was applied.
type Child = (&'static str, &'static str, Value);

/// What the operator wrote for one cluster, and what it asked its database.
#[derive(Debug, Clone)]
pub struct Template {
    children: Vec<Child>,
    status: Value,
    event: Value,
    /// In the words of the operator: they name no database.
    questions: Arc<[String]>,
}

impl Template {
    /// Of the only cluster of a fleet, in whose database statements are logged.
    pub async fn of(fleet: &Fleet<'_>) -> Result<Self> {
        let mut children = Vec::new();
        for (group, kind, _) in CHILDREN {
            for object in fleet.api(group, kind).list(&ListParams::default()).await? {
                children.push((group, kind, as_applied(&object, group, kind)?));
            }
        }
        let clusters = fleet.clusters_in(&fleet.namespace);
        let cluster = clusters.get(&name(0)).await?;
        let events = fleet.api(EVENTS.0, EVENTS.1);
        let events = events.list(&ListParams::default()).await?;
        let event = events.items.into_iter().next().context("no event")?;
        let postgres = &fleet.harness.postgres;
        let questions = postgres.logged_statements(fleet.database()?)?;
        ensure!(!questions.is_empty(), "the operator asked nothing");
        Ok(Self {
            children,
            status: cluster.data["status"].clone(),
            event: event.data,
            questions: questions.into(),
        })
    }

    /// The same for another cluster.
    fn of_cluster(&self, index: usize) -> Result<Self> {
        let rename = |value: &Value| -> Result<Value> {
            let text = value.to_string().replace(&name(0), &name(index));
            Ok(serde_json::from_str(&text)?)
        };
        let children = self.children.iter();
        let children = children.map(|(group, kind, child)| Ok((*group, *kind, rename(child)?)));
        Ok(Self {
            children: children.collect::<Result<_>>()?,
            status: rename(&self.status)?,
            event: rename(&self.event)?,
            questions: Arc::clone(&self.questions),
        })
    }
}

/// Writes the children of as many clusters as the fleet has, as many at a time as the operator,
/// into a namespace of their own, and deletes them afterwards. Returns how long writing took.
pub async fn measure(
    fleet: &Fleet<'_>,
    template: &Template,
    into: &str,
    extent: Extent,
) -> Result<Duration> {
    let kubectl = &fleet.harness.kubectl;
    kubectl.run(&["create", "namespace", into]).await?;
    let clusters = fleet.clusters_in(into);
    let events = fleet.api_in(into, EVENTS.0, EVENTS.1);
    let templates: Vec<_> = (0..fleet.size)
        .map(|index| template.of_cluster(index))
        .collect::<Result<_>>()?;
    let start = Instant::now();
    stream::iter(templates.into_iter().enumerate())
        .map(|(index, template)| {
            let (clusters, events) = (&clusters, &events);
            async move {
                if extent == Extent::Everything {
                    apply(clusters, name(index), fleet.cluster(index)).await?;
                    read(&fleet.database_url(index)?, &template.questions).await?;
                }
                for (group, kind, child) in template.children {
                    let api = fleet.api_in(into, group, kind);
                    let name = child["metadata"]["name"].as_str().context("no name")?;
                    apply(&api, name.to_owned(), child).await?;
                }
                if extent == Extent::Everything {
                    write_status(clusters, &name(index), template.status).await?;
                    publish(events, into, &name(index), template.event).await?;
                }
                anyhow::Ok(())
            }
        })
        .buffer_unordered(CONCURRENCY)
        .try_collect::<Vec<_>>()
        .await?;
    let took = start.elapsed();
    fleet.clear(into).await?;
    Ok(took)
}

/// Logs in to a database, asks, and leaves: the clusters want no replica, and then a session would
/// only stand in the way of administrators.
async fn read(url: &str, questions: &[String]) -> Result<()> {
    let mut session = PgConnection::connect(url).await?;
    for question in questions {
        // The operator's own words, by the server's log.
        sqlx::raw_sql(sqlx::AssertSqlSafe(question.clone()))
            .execute(&mut session)
            .await?;
    }
    Ok(session.close().await?)
}

async fn write_status(clusters: &Api<DynamicObject>, name: &str, status: Value) -> Result<()> {
    let patch = json!([{"op": "add", "path": "/status", "value": status}]);
    let patch = Patch::Json::<()>(serde_json::from_value(patch)?);
    let parameters = PatchParams::default();
    clusters.patch_status(name, &parameters, &patch).await?;
    Ok(())
}

async fn publish(
    events: &Api<DynamicObject>,
    namespace: &str,
    name: &str,
    mut event: Value,
) -> Result<()> {
    event["regarding"]["namespace"] = json!(namespace);
    let event = DynamicObject {
        types: None,
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        data: event,
    };
    events.create(&PostParams::default(), &event).await?;
    Ok(())
}

/// The object as it was applied: the fields that the operator owns, and no default.
fn as_applied(object: &DynamicObject, group: &str, kind: &str) -> Result<Value> {
    let entries = object.metadata.managed_fields.iter().flatten();
    let fields = entries
        .filter(|entry| entry.operation.as_deref() == Some("Apply"))
        .find_map(|entry| entry.fields_v1.as_ref())
        .context("no one applied it")?;
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
    fn what_was_applied_is_known_by_its_fields() {
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
        let template = Template {
            children: vec![("", "Service", child)],
            status: json!({"url": format!("https://{}.example.com", name(0))}),
            event: json!({"regarding": {"name": name(0)}}),
            questions: Arc::from(["SELECT 1".to_owned()]),
        };
        let template = template.of_cluster(17)?;
        let (_, _, child) = &template.children[0];
        assert_eq!(child["metadata"]["name"], format!("{}-headless", name(17)));
        assert_eq!(template.event["regarding"]["name"], name(17));
        let url = format!("https://{}.example.com", name(17));
        assert_eq!(template.status["url"], url);
        Ok(())
    }
}
