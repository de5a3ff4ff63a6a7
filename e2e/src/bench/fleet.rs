//! Many clusters in one namespace: made, counted, and written by a bare loop for comparison.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::{Api, ApiResource, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::harness::Harness;
use crate::sandbox::cluster_resource;

/// Requests at a time: as many as the operator has reconciles at a time.
pub const CONCURRENCY: usize = 8;
/// Longest that making a fleet may take.
const PATIENCE: Duration = Duration::from_mins(15);
/// Between two looks at a fleet in the making: so much for each cluster, within these bounds.
const LOOK_EACH: Duration = Duration::from_micros(500);
const SHORTEST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// What each cluster owns: group, kind, how many, and how many there are in any namespace.
const CHILDREN: [(&str, &str, usize); 5] = [
    ("", "Service", 2),
    ("", "ServiceAccount", 1),
    ("apps", "StatefulSet", 1),
    ("policy", "PodDisruptionBudget", 1),
    ("networking.k8s.io", "Ingress", 1),
];

/// Clusters of one namespace.
pub struct Fleet<'a> {
    harness: &'a Harness,
    pub namespace: String,
    pub size: usize,
    databases: bool,
}

impl<'a> Fleet<'a> {
    /// Makes the namespace, and (with `databases`) a database and a Secret for each cluster.
    pub async fn prepare(
        harness: &'a Harness,
        namespace: &str,
        size: usize,
        databases: bool,
    ) -> Result<Self> {
        let fleet = Self {
            harness,
            namespace: namespace.to_owned(),
            size,
            databases,
        };
        harness
            .kubectl
            .run(&["create", "namespace", namespace])
            .await?;
        if databases {
            fleet.make_databases().await?;
        }
        Ok(fleet)
    }

    async fn make_databases(&self) -> Result<()> {
        let Self {
            harness, namespace, ..
        } = self;
        let owner = namespace.replace('-', "_");
        let first = harness.postgres.create_database(&owner).await?;
        // The owner of the first is the owner of all: one role is enough, databases are what counts.
        stream::iter(1..self.size)
            .map(|index| {
                let statement = format!("CREATE DATABASE {owner}_{index} OWNER {owner}");
                async move { harness.postgres.execute_in("postgres", &statement).await }
            })
            .buffer_unordered(4)
            .try_collect::<Vec<_>>()
            .await?;
        let secrets = self.api("", "Secret");
        stream::iter(0..self.size)
            .map(|index| {
                let database = match index {
                    0 => owner.clone(),
                    _ => format!("{owner}_{index}"),
                };
                let url = first
                    .url()
                    .replace(&format!("/{owner}?"), &format!("/{database}?"));
                let secret = json!({
                    "apiVersion": "v1", "kind": "Secret",
                    "metadata": {"name": name(index)}, "stringData": {"PG_URL": url},
                });
                apply(&secrets, name(index), secret)
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(())
    }

    /// Applies every cluster and waits until all their children stand. Returns how long that took.
    pub async fn apply(&self) -> Result<Duration> {
        let clusters = self.clusters();
        let start = Instant::now();
        stream::iter(0..self.size)
            .map(|index| apply(&clusters, name(index), self.cluster(index)))
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<_>>()
            .await?;
        self.wait_for_children(start).await
    }

    async fn wait_for_children(&self, start: Instant) -> Result<Duration> {
        // Often enough to tell, and seldom enough not to be what the API server is busy with.
        let pause = (LOOK_EACH * u32::try_from(self.size)?).clamp(SHORTEST_LOOK, LONGEST_LOOK);
        for (group, kind, each) in CHILDREN {
            // Every namespace has a ServiceAccount of its own, made by a controller that is parked.
            let wanted = each * self.size;
            loop {
                let found = count(&self.api(group, kind)).await?;
                if found >= wanted {
                    break;
                }
                ensure!(
                    start.elapsed() < PATIENCE,
                    "{found} of {wanted} {kind} after {:?}",
                    start.elapsed()
                );
                sleep(pause).await;
            }
        }
        Ok(start.elapsed())
    }

    /// A loop that writes the same children into another namespace, as many at a time. Returns how long
    /// that took.
    pub async fn bare_loop(&self, into: &str) -> Result<Duration> {
        let Self { harness, .. } = self;
        harness.kubectl.run(&["create", "namespace", into]).await?;
        let mut objects = vec![Vec::new(); self.size];
        for (group, kind, _) in CHILDREN {
            let api = self.api(group, kind);
            for object in api.list(&ListParams::default()).await? {
                let owner = object
                    .metadata
                    .labels
                    .as_ref()
                    .and_then(|labels| labels.get("bytebase.com/cluster"));
                let index: usize = owner
                    .and_then(|name| name.strip_prefix('c'))
                    .context("no label")?
                    .parse()?;
                let target = Api::<DynamicObject>::namespaced_with(
                    harness.client.clone(),
                    into,
                    &resource(group, kind),
                );
                objects
                    .get_mut(index)
                    .context("more clusters than were made")?
                    .push((target, bare(object, group, kind)?));
            }
        }
        let start = Instant::now();
        stream::iter(objects)
            .map(|objects| async move {
                for (api, (name, object)) in objects {
                    apply(&api, name, object).await?;
                }
                anyhow::Ok(())
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(start.elapsed())
    }

    /// Time from an edit of one cluster to its effect on a child.
    pub async fn edit(&self, index: usize, port: u16) -> Result<Duration> {
        let services = self.api("", "Service");
        let patch = Patch::Merge(json!({"spec": {"service": {"port": port}}}));
        let start = Instant::now();
        self.clusters()
            .patch(&name(index), &PatchParams::default(), &patch)
            .await?;
        loop {
            let service = services.get(&name(index)).await?;
            if service.data["spec"]["ports"][0]["port"] == port {
                return Ok(start.elapsed());
            }
            ensure!(start.elapsed() < PATIENCE, "an edit had no effect");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Adds one cluster whose database takes connections and never says a word.
    pub async fn add_black_hole(&self, address: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hole"},
            "stringData": {"PG_URL": format!("postgres://hole:hole@{address}/hole")},
        });
        apply(&self.api("", "Secret"), "hole".to_owned(), secret).await?;
        let mut cluster = self.cluster(0);
        cluster["metadata"]["name"] = json!("hole");
        cluster["spec"]["database"] = json!({"urlSecretRef": {"name": "hole", "key": "PG_URL"}});
        apply(&self.clusters(), "hole".to_owned(), cluster).await
    }

    /// Nobody wants a replica, so a fleet without controllers is as settled as one with pods.
    fn cluster(&self, index: usize) -> Value {
        let database = if self.databases {
            json!({"urlSecretRef": {"name": name(index), "key": "PG_URL"}})
        } else {
            // A cloud login, which the operator cannot do itself: no connection is made.
            json!({"url": "postgres://iam@db.example.com:5432/bytebase?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1"})
        };
        json!({
            "apiVersion": "bytebase.com/v1alpha1",
            "kind": "BytebaseCluster",
            "metadata": {"name": name(index)},
            "spec": {
                "version": "3.21.1",
                "replicas": 0,
                "externalURL": format!("https://{}.example.com", name(index)),
                "database": database,
            },
        })
    }

    fn clusters(&self) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.harness.client.clone(),
            &self.namespace,
            &cluster_resource(),
        )
    }

    fn api(&self, group: &str, kind: &str) -> Api<DynamicObject> {
        Api::namespaced_with(
            self.harness.client.clone(),
            &self.namespace,
            &resource(group, kind),
        )
    }
}

fn resource(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
}

fn name(index: usize) -> String {
    format!("c{index}")
}

async fn apply(api: &Api<DynamicObject>, name: String, object: Value) -> Result<()> {
    let parameters = PatchParams::apply("bench").force();
    api.patch(&name, &parameters, &Patch::Apply(object)).await?;
    Ok(())
}

/// How many objects there are, without reading them all.
async fn count(api: &Api<DynamicObject>) -> Result<usize> {
    let page = api.list(&ListParams::default().limit(1)).await?;
    let more = page.metadata.remaining_item_count.unwrap_or_default();
    Ok(page.items.len() + usize::try_from(more)?)
}

/// The object as one would write it anew elsewhere.
fn bare(object: DynamicObject, group: &str, kind: &str) -> Result<(String, Value)> {
    let name = object.metadata.name.context("no name")?;
    let mut data = object.data;
    if let Some(spec) = data.get_mut("spec").and_then(Value::as_object_mut) {
        for assigned in ["clusterIP", "clusterIPs"] {
            if spec
                .get(assigned)
                .is_some_and(|value| *value != "None" && *value != json!(["None"]))
            {
                spec.remove(assigned);
            }
        }
    }
    let mut value = json!({
        "apiVersion": resource(group, kind).api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "labels": object.metadata.labels,
            "annotations": object.metadata.annotations,
        },
    });
    for (key, part) in data.as_object().into_iter().flatten() {
        if key != "status" {
            value[key] = part.clone();
        }
    }
    Ok((name, value))
}
