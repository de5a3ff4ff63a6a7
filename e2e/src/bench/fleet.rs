//! Many clusters in one namespace: made and counted.

use crate::postgres::Database;
use crate::scenario::sandbox::cluster_resource;
use crate::session::harness::Harness;
use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::api::{Api, ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Requests at a time: as many as the operator has reconciles at a time.
pub const CONCURRENCY: usize = 8;
/// Longest that making a fleet may take.
const PATIENCE: Duration = Duration::from_mins(15);
/// Between two readings of a fleet in the making: so much for each cluster, within these bounds.
const LOOK_EACH: Duration = Duration::from_micros(500);
const SHORTEST_LOOK: Duration = Duration::from_millis(20);
const LONGEST_LOOK: Duration = Duration::from_millis(500);
/// What each cluster owns: group, kind, how many, and how many there are in any namespace.
pub const CHILDREN: [(&str, &str, usize); 5] = [
    ("", "Service", 2),
    ("", "ServiceAccount", 1),
    ("apps", "StatefulSet", 1),
    ("policy", "PodDisruptionBudget", 1),
    ("networking.k8s.io", "Ingress", 1),
];
/// Group and kind of the events that the operator publishes.
pub const EVENTS: (&str, &str) = ("events.k8s.io", "Event");

/// Clusters of one namespace.
pub struct Fleet<'a> {
    pub harness: &'a Harness,
    pub namespace: String,
    pub size: usize,
    /// How many replicas each cluster wants. No controller makes any.
    replicas: usize,
    /// That of the first cluster, if they have any; the others differ by their number.
    database: Option<Database>,
}

impl<'a> Fleet<'a> {
    /// Makes the namespace, and (with `databases`) a database and a Secret for each cluster.
    pub async fn prepare(
        harness: &'a Harness,
        namespace: &str,
        size: usize,
        databases: bool,
    ) -> Result<Self> {
        harness
            .kubectl
            .run(&["create", "namespace", namespace])
            .await?;
        let mut fleet = Self {
            harness,
            namespace: namespace.to_owned(),
            size,
            replicas: 0,
            database: None,
        };
        if databases {
            fleet.database = Some(fleet.make_databases().await?);
            fleet.make_secrets().await?;
        }
        Ok(fleet)
    }

    /// The same, of clusters that want replicas.
    pub fn wanting(self, replicas: usize) -> Self {
        Self { replicas, ..self }
    }

    async fn make_databases(&self) -> Result<Database> {
        let postgres = &self.harness.postgres;
        let owner = self.namespace.replace('-', "_");
        // The owner of the first is the owner of all: one role is enough, databases are what
        // counts.
        let first = postgres.create_database(&owner).await?;
        stream::iter(1..self.size)
            .map(|index| {
                let database = format!("{owner}_{index}");
                let statement = format!("CREATE DATABASE {database} OWNER {owner}");
                async move {
                    postgres.execute_in("postgres", &statement).await?;
                    // In its first session a database makes a file of what its catalogs hold. That
                    // takes the server longer than all that follows, and would
                    // be missing where the databases are used for the second time.
                    postgres.execute_in(&database, "SELECT 1").await
                }
            })
            .buffer_unordered(4)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(first)
    }

    async fn make_secrets(&self) -> Result<()> {
        let secrets = self.api("", "Secret");
        stream::iter(0..self.size)
            .map(|index| {
                let secrets = &secrets;
                async move {
                    let secret = json!({
                        "apiVersion": "v1", "kind": "Secret",
                        "metadata": {"name": name(index)}, "stringData": {"PG_URL": self.database_url(index)?},
                    });
                    apply(secrets, name(index), secret).await
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(())
    }

    /// That of the first cluster.
    pub fn database(&self) -> Result<&Database> {
        self.database.as_ref().context("there are no databases")
    }

    /// Logins to the databases so far. The server counts one when its session ends, at the latest.
    pub async fn logins(&self) -> Result<f64> {
        self.asked_of_the_server(
            "SELECT coalesce(sum(sessions), 0)::float8 FROM pg_stat_database \
             WHERE datname = $1 OR starts_with(datname, $1 || '_')",
        )
        .await
    }

    /// Sessions in the databases now.
    pub async fn open_sessions(&self) -> Result<f64> {
        self.asked_of_the_server(
            "SELECT count(*)::float8 FROM pg_stat_activity \
             WHERE datname = $1 OR starts_with(datname, $1 || '_')",
        )
        .await
    }

    async fn asked_of_the_server(&self, question: &'static str) -> Result<f64> {
        Ok(sqlx::query_scalar(question)
            .bind(&self.database()?.name)
            .fetch_one(self.harness.postgres.admin())
            .await?)
    }

    pub fn database_url(&self, index: usize) -> Result<String> {
        let first = self.database()?;
        let mut database = first.name.clone();
        if index > 0 {
            database = format!("{database}_{index}");
        }
        Ok(first
            .url()
            .replace(&format!("/{}?", first.name), &format!("/{database}?")))
    }

    /// Applies every cluster and waits until all their children stand. Returns how long that took.
    pub async fn apply(&self) -> Result<Duration> {
        let clusters = self.clusters_in(&self.namespace);
        let start = Instant::now();
        stream::iter(0..self.size)
            .map(|index| apply(&clusters, name(index), self.cluster(index)))
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<_>>()
            .await?;
        self.wait_for_children(start).await
    }

    /// Deletes the clusters of a namespace, what they own and the events about them, which no
    /// controller does. The API server takes the longer for a Service the more there are: each
    /// measurement begins without any.
    pub async fn clear(&self, namespace: &str) -> Result<()> {
        let children = CHILDREN.map(|(group, kind, _)| self.api_in(namespace, group, kind));
        let clusters = self.clusters_in(namespace);
        let events = self.api_in(namespace, EVENTS.0, EVENTS.1);
        for api in children.iter().chain([&clusters, &events]) {
            api.delete_collection(&DeleteParams::default(), &ListParams::default())
                .await?;
        }
        Ok(())
    }

    /// Writes what the controller of StatefulSets, which is parked, would write where a quota lets
    /// it make no pod: that it has seen each of them, and an event.
    pub async fn refuse_pods(&self) -> Result<()> {
        let (sets, events) = (self.api("apps", "StatefulSet"), self.api("", "Event"));
        let all = sets.list(&ListParams::default()).await?.items;
        stream::iter(all)
            .map(|set| {
                let (sets, events) = (&sets, &events);
                async move {
                    let name = set.name_any();
                    let seen = json!({"status": {"observedGeneration": set.metadata.generation, "replicas": 0}});
                    let parameters = PatchParams::default();
                    sets.patch_status(&name, &parameters, &Patch::Merge(seen))
                        .await?;
                    let refused = format!("{name}.refused");
                    let now = Timestamp::now().to_string();
                    let event = json!({
                        "apiVersion": "v1", "kind": "Event", "metadata": {"name": refused},
                        "involvedObject": {
                            "apiVersion": "apps/v1", "kind": "StatefulSet", "name": name,
                            "namespace": self.namespace, "uid": set.metadata.uid,
                        },
                        "type": "Warning", "reason": "FailedCreate",
                        "message": format!("create Pod {name}-0 in StatefulSet {name} failed error: pods \"{name}-0\" is forbidden: exceeded quota: pods, requested: pods=1, used: pods=0, limited: pods=0"),
                        "source": {"component": "statefulset-controller"},
                        "firstTimestamp": now, "lastTimestamp": now, "count": 1,
                    });
                    apply(events, refused, event).await
                }
            })
            .buffer_unordered(CONCURRENCY)
            .try_collect::<Vec<_>>()
            .await?;
        Ok(())
    }

    async fn wait_for_children(&self, start: Instant) -> Result<Duration> {
        // Often enough to measure, and seldom enough not to be what the API server is busy with.
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

    /// Applies one more cluster, and waits until its children stand. Returns how long that took.
    pub async fn join(&self, index: usize) -> Result<Duration> {
        let start = Instant::now();
        let clusters = self.clusters_in(&self.namespace);
        apply(&clusters, name(index), self.cluster(index)).await?;
        for (group, kind, _) in CHILDREN {
            let api = self.api(group, kind);
            while api.get_opt(&name(index)).await?.is_none() {
                ensure!(start.elapsed() < PATIENCE, "a cluster got no {kind}");
                sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(start.elapsed())
    }

    /// Time from an edit of one cluster to its effect on a child.
    pub async fn edit(&self, index: usize, port: u16) -> Result<Duration> {
        let services = self.api("", "Service");
        let patch = Patch::Merge(json!({"spec": {"service": {"port": port}}}));
        let start = Instant::now();
        self.clusters_in(&self.namespace)
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
        let clusters = self.clusters_in(&self.namespace);
        apply(&clusters, "hole".to_owned(), cluster).await
    }

    /// A cluster of the fleet. Where none is wanted, a fleet without controllers is as settled as
    /// one with pods.
    pub fn cluster(&self, index: usize) -> Value {
        let database = if self.database.is_some() {
            json!({"urlSecretRef": {"name": name(index), "key": "PG_URL"}})
        } else {
            // A cloud login, which the operator cannot do itself: no connection is made.
            let database = name(index);
            json!({"url": format!("postgres://iam@db.example.com:5432/{database}?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1")})
        };
        json!({
            "apiVersion": "bytebase.com/v1alpha1",
            "kind": "BytebaseCluster",
            "metadata": {"name": name(index)},
            "spec": {
                "version": "3.21.1",
                "replicas": self.replicas,
                "externalURL": format!("https://{}.example.com", name(index)),
                "database": database,
            },
        })
    }

    pub fn clusters_in(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.harness.client.clone(), namespace, &cluster_resource())
    }

    pub fn api(&self, group: &str, kind: &str) -> Api<DynamicObject> {
        self.api_in(&self.namespace, group, kind)
    }

    pub fn api_in(&self, namespace: &str, group: &str, kind: &str) -> Api<DynamicObject> {
        let resource = resource(group, kind);
        Api::namespaced_with(self.harness.client.clone(), namespace, &resource)
    }
}

pub fn resource(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
}

pub fn name(index: usize) -> String {
    format!("cluster-{index}")
}

pub async fn apply(api: &Api<DynamicObject>, name: String, object: Value) -> Result<()> {
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
