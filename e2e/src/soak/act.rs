//! What a round says, done to real clusters.

use super::Subject;
use super::disturbances::Shared;
use super::load::{DRAIN_TIMEOUT, HOLD_LIMIT};
use super::plan::{Action, Disaster, Model, Round, VERSIONS, cluster_name};
use crate::cluster::Component;
use crate::cluster::faults::{self, Blow};
use crate::postgres::{Database, password};
use crate::scenario::license::License;
use crate::scenario::sandbox::{Sandbox, condition};
use crate::scenarios::support;
use crate::wait;
use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Longest that clusters may take to come back after a round: an image change of three replicas
/// with a disaster in the middle of it, on a busy machine.
///
/// Each of them may wait a minute for another to be idle, and half a minute for its own tasks.
const PATIENCE: Duration = Duration::from_mins(15);
/// A frozen replica stands still for longer than its heartbeat counts (30 s).
const REPLICA_FREEZE: Duration = Duration::from_secs(36);
/// A lease is valid for 15 s, and a new leader takes a moment.
const LEADER_PATIENCE: Duration = Duration::from_secs(30);
/// A frozen leader stands still for longer than its lease (15 s).
const LEADER_FREEZE: Duration = Duration::from_secs(20);
const DATABASE_DOWN: Duration = Duration::from_secs(15);
/// How long a cluster stays paused.
const PAUSE: Duration = Duration::from_secs(6);
/// How long before its end a license stops counting, and how long before that it is put in.
const GUARD: SignedDuration = SignedDuration::from_mins(10);
const ENDS_IN: SignedDuration = SignedDuration::from_secs(4);
const ADMIN_SECRET: &str = "admin";

/// The clusters and what belongs to them.
pub struct Stage {
    pub sandbox: Sandbox,
    pub subjects: Vec<Subject>,
    pub disturbances: Shared,
    databases: Vec<Database>,
}

impl Stage {
    /// Makes databases, Secrets and clusters.
    pub async fn set(sandbox: &Sandbox, models: &[Model]) -> Result<Self> {
        let mut stage = Self {
            sandbox: sandbox.clone(),
            subjects: Vec::new(),
            disturbances: Shared::default(),
            databases: Vec::new(),
        };
        stage.disturbances.lock().models = models.to_vec();
        let admin = "a-soaked-admin-password";
        sandbox.plant("admin password", admin);
        let login = [("email", "admin@example.com"), ("password", admin)];
        sandbox.create_harmless_secret(ADMIN_SECRET, &login).await?;
        for (index, model) in models.iter().enumerate() {
            let name = format!("{}_{index}", sandbox.database().name);
            let database = sandbox.harness().postgres.create_database(&name).await?;
            let pool = PgPoolOptions::new()
                .max_connections(2)
                .acquire_timeout(Duration::from_secs(3))
                .connect_lazy(&database.local_url())?;
            let subject = Subject::new(sandbox, cluster_name(index), &database, pool).await?;
            stage.subjects.push(subject);
            stage.databases.push(database);
            stage.write_database_secret(index).await?;
            stage
                .write_license(index, &License::default().ha(model.ha))
                .await?;
            sandbox
                .apply_yaml(&object(index, model).to_string())
                .await?;
        }
        Ok(stage)
    }

    fn pool(&self, index: usize) -> Result<&PgPool> {
        let subject = self.subjects.get(index).context("no such cluster")?;
        Ok(&subject.pool)
    }

    async fn write_database_secret(&self, index: usize) -> Result<()> {
        let url = self.databases.get(index).context("no such cluster")?.url();
        let name = format!("{}-database", cluster_name(index));
        self.sandbox.create_secret(&name, &[("PG_URL", &url)]).await
    }

    async fn write_license(&self, index: usize, license: &License) -> Result<()> {
        let name = format!("{}-license", cluster_name(index));
        self.sandbox.create_license_secret(&name, license).await?;
        Ok(())
    }

    /// Carries out a round and waits until every cluster is what `models` says.
    pub async fn carry_out(&mut self, round: &Round, models: &[Model]) -> Result<()> {
        {
            let mut disturbances = self.disturbances.lock();
            disturbances.models = models.to_vec();
            disturbances.struck = round.disaster.is_some();
            disturbances.disturbed = (0..models.len())
                .filter(|index| round.disturbs(*index))
                .collect();
        }
        for (index, action) in &round.actions {
            let model = models.get(*index).context("no such cluster")?;
            self.act(*index, *action, model)
                .await
                .with_context(|| format!("{action:?} on {index}"))?;
        }
        sleep(Duration::from_millis(round.pause)).await;
        for index in (0..models.len()).filter(|index| round.locks_out(*index)) {
            self.note_losing(index).await?;
        }
        if let Some(disaster) = round.disaster {
            self.strike(disaster)
                .await
                .with_context(|| format!("{disaster:?}"))?;
        }
        self.wait_settled(models).await?;
        let mut disturbances = self.disturbances.lock();
        disturbances.disturbed.clear();
        disturbances.struck = false;
        for (_, until) in &mut disturbances.outages {
            until.get_or_insert_with(Timestamp::now);
        }
        Ok(())
    }

    /// Notes that the replicas that are there now may lose what they run. One that starts later has
    /// what it needs.
    async fn note_losing(&self, index: usize) -> Result<()> {
        let there = "SELECT replica_id FROM replica_heartbeat WHERE last_heartbeat > now() - interval '1 minute'";
        let ids: Vec<String> = sqlx::query_scalar(there)
            .fetch_all(self.pool(index)?)
            .await?;
        self.disturbances.lock().losing.extend(ids);
        Ok(())
    }

    async fn act(&mut self, index: usize, action: Action, model: &Model) -> Result<()> {
        match action {
            Action::Edit => self.patch(index, edits(model)).await,
            Action::Scale(replicas) => self.patch(index, json!({"replicas": replicas})).await,
            Action::Upgrade => self.patch(index, json!({"version": version(model)?})).await,
            Action::RotatePassword => self.rotate(index).await,
            Action::RotateAndScale(replicas) => {
                self.rotate(index).await?;
                // The operator is to have seen the Secret.
                sleep(Duration::from_secs(1)).await;
                self.patch(index, json!({"replicas": replicas})).await
            }
            Action::LoseHa => {
                self.exchange_license(index, &License::default().ha(false))
                    .await
            }
            Action::Expire => {
                let license = License::default().expires_in(GUARD + ENDS_IN);
                self.exchange_license(index, &license).await
            }
            Action::RegainHa => self.write_license(index, &License::default()).await,
            Action::PauseAndResume => self.pause(index, model).await,
            Action::EditOwned => {
                let service = format!("service/{}", cluster_name(index));
                let edit = r#"{"spec":{"ports":[{"name":"http","port":81,"targetPort":9999}]}}"#;
                self.kubectl(&["patch", &service, "--type=merge", "-p", edit])
                    .await
            }
            Action::DeleteOwned => {
                let name = cluster_name(index);
                self.kubectl(&["delete", "ingress,poddisruptionbudget,service", &name])
                    .await
            }
            Action::KillReplica(which) => {
                let pod = self.pod(index, which).await?;
                let id = replica_id(&self.sandbox, &pod).await?;
                self.disturbances.lock().losing.insert(id);
                self.sandbox.strike(&pod, "bytebase", Blow::Kill).await
            }
            Action::FreezeReplica(which) => {
                let pod = self.pod(index, which).await?;
                self.sandbox.strike(&pod, "bytebase", Blow::Freeze).await?;
                sleep(REPLICA_FREEZE).await;
                self.sandbox.strike(&pod, "bytebase", Blow::Thaw).await
            }
            Action::DeletePod(which) => {
                let pod = self.pod(index, which).await?;
                self.disturbances.lock().deleted.extend(pod.uid());
                self.kubectl(&["delete", "pod", &pod.name_any(), "--wait=false"])
                    .await
            }
            Action::CutConnections => {
                let database = self.databases.get(index).context("no such cluster")?;
                self.sandbox.harness().postgres.disconnect(database).await?;
                Ok(())
            }
            Action::SwapDatabase => self.swap_database(index, model).await,
            Action::CutOffRefused(cut) => self.cut_off_refused(index, cut).await,
            Action::StartBesideForeign => self.start_beside_foreign(index).await,
        }
    }

    /// An empty database under the same name, as after a restore that went wrong; then a user has
    /// Bytebase begin there as a new one, for which the cluster has to be stopped.
    async fn swap_database(&self, index: usize, model: &Model) -> Result<()> {
        self.note_losing(index).await?;
        let database = self.databases.get(index).context("no such cluster")?;
        let postgres = &self.sandbox.harness().postgres;
        postgres.allow_connections(database, false).await?;
        postgres.disconnect(database).await?;
        let name = &database.name;
        let number = rand::random::<u32>();
        for statement in [
            format!("ALTER DATABASE {name} RENAME TO {name}_{number}"),
            format!("CREATE DATABASE {name} OWNER {name} ENCODING 'UTF8' TEMPLATE template0"),
        ] {
            postgres.execute_in("postgres", &statement).await?;
        }
        let selector = format!("bytebase.com/cluster={}", cluster_name(index));
        let pods = self.sandbox.pods(&selector).await?;
        let uids = pods.iter().filter_map(ResourceExt::uid);
        self.disturbances.lock().deleted.extend(uids);
        self.patch(index, json!({"replicas": 0})).await?;
        let name = cluster_name(index);
        let status = || self.sandbox.status(&name);
        let is_stopped = |status: &Value| status["phase"] == "Stopped";
        // Its hooks wait for the tables for two minutes.
        wait::until("the cluster stopped", PATIENCE, status, is_stopped).await?;
        self.patch(index, json!({"replicas": model.replicas})).await
    }

    /// Bytebase's role may only read, as on a server whose disk is full.
    async fn cut_off_refused(&self, index: usize, cut: Duration) -> Result<()> {
        let database = self.databases.get(index).context("no such cluster")?;
        let postgres = &self.sandbox.harness().postgres;
        let only_reads = format!(
            "ALTER ROLE {} SET default_transaction_read_only = on",
            database.name
        );
        postgres.execute_in("postgres", &only_reads).await?;
        let name = cluster_name(index);
        self.sandbox
            .wait_condition(&name, "DatabaseReady", "False", "DatabaseReadOnly")
            .await?;
        self.disturbances.lock().refused.insert(index);
        self.patch(index, json!({"replicas": 1})).await?;
        postgres.allow_connections(database, false).await?;
        postgres.disconnect(database).await?;
        sleep(cut).await;
        postgres.allow_connections(database, true).await?;
        sleep(PAUSE).await;
        self.disturbances.lock().refused.remove(&index);
        let writes = format!(
            "ALTER ROLE {} RESET default_transaction_read_only",
            database.name
        );
        postgres.execute_in("postgres", &writes).await?;
        // A session keeps the setting that it began with, and those of observer, load and stage log
        // in as this role too: they would go on refusing to write for as long as their pool keeps
        // them.
        postgres.disconnect(database).await?;
        Ok(())
    }

    /// The heartbeat of a foreign replica, for some time before and after the wish.
    async fn start_beside_foreign(&self, index: usize) -> Result<()> {
        self.foreign_heartbeats(index).await?;
        self.disturbances.lock().refused.insert(index);
        self.patch(index, json!({"replicas": 1})).await?;
        self.foreign_heartbeats(index).await?;
        self.disturbances.lock().refused.remove(&index);
        self.run(
            index,
            "DELETE FROM replica_heartbeat WHERE replica_id = 'of-others'",
        )
        .await
    }

    /// For longer than from one reading to the next.
    async fn foreign_heartbeats(&self, index: usize) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < DATABASE_DOWN {
            self.run(
                index,
                "INSERT INTO replica_heartbeat VALUES ('of-others', now())
                 ON CONFLICT (replica_id) DO UPDATE SET last_heartbeat = now()",
            )
            .await?;
            sleep(Duration::from_secs(1)).await;
        }
        Ok(())
    }

    async fn run(&self, index: usize, statement: &'static str) -> Result<()> {
        sqlx::query(statement).execute(self.pool(index)?).await?;
        Ok(())
    }

    async fn strike(&self, disaster: Disaster) -> Result<()> {
        let harness = self.sandbox.harness();
        match disaster {
            Disaster::KillLeader => {
                let pod = self.leader().await?;
                self.sandbox
                    .strike(&pod, container(&pod)?, Blow::Kill)
                    .await?;
                // The kubelet makes a container that keeps ending wait for minutes; a new pod
                // starts at once.
                let name = pod.name_any();
                self.kubectl(&["delete", "pod", &name, "--force", "--grace-period=0"])
                    .await
            }
            Disaster::FreezeLeader => {
                let pod = self.leader().await?;
                let container = container(&pod)?;
                self.sandbox.strike(&pod, container, Blow::Freeze).await?;
                sleep(LEADER_FREEZE).await;
                self.sandbox.strike(&pod, container, Blow::Thaw).await
            }
            Disaster::KillApiServer => {
                faults::strike_component(&harness.cluster, Component::ApiServer, Blow::Kill).await
            }
            Disaster::KillEtcd => {
                faults::strike_component(&harness.cluster, Component::Etcd, Blow::Kill).await
            }
            Disaster::StopDatabase => {
                let from = Timestamp::now();
                self.disturbances.lock().outages.push((from, None));
                harness.postgres.stop().await?;
                sleep(DATABASE_DOWN).await;
                harness.postgres.start().await
            }
        }
    }

    async fn rotate(&mut self, index: usize) -> Result<()> {
        let database = self.databases.get_mut(index).context("no such cluster")?;
        database.password = password();
        let statement = format!(
            "ALTER ROLE {} PASSWORD '{}'",
            database.name, database.password
        );
        let local = database.local_url();
        self.sandbox
            .harness()
            .postgres
            .execute_in("postgres", &statement)
            .await?;
        self.pool(index)?.set_connect_options(local.parse()?);
        self.write_database_secret(index).await
    }

    /// As if a user put another license in over the user interface, and into the Secret.
    async fn exchange_license(&self, index: usize, license: &License) -> Result<()> {
        self.write_license(index, license).await?;
        let token = self.sandbox.harness().license.sign(license);
        let done = sqlx::query("UPDATE setting SET value = jsonb_set(value, '{license}', to_jsonb($1::text)) WHERE name = 'SYSTEM'")
            .bind(token)
            .execute(self.pool(index)?)
            .await?;
        ensure!(done.rows_affected() == 1, "no license is stored");
        Ok(())
    }

    async fn pause(&self, index: usize, model: &Model) -> Result<()> {
        let before = self.owned(index).await?;
        let mut paused = edits(model);
        paused["paused"] = json!(true);
        self.patch(index, paused).await?;
        sleep(PAUSE).await;
        ensure!(
            self.owned(index).await? == before,
            "something was written while {} was paused",
            cluster_name(index)
        );
        self.patch(index, json!({"paused": false})).await
    }

    /// Generations of what has one: what the operator's writes would move.
    async fn owned(&self, index: usize) -> Result<String> {
        let selector = format!("bytebase.com/cluster={}", cluster_name(index));
        let columns = "jsonpath={range .items[*]}{.kind} {.metadata.uid} {.metadata.generation}{\"\\n\"}{end}";
        self.sandbox
            .kubectl(&[
                "get",
                "statefulsets,ingresses,poddisruptionbudgets",
                "-l",
                &selector,
                "-o",
                columns,
            ])
            .await
    }

    async fn patch(&self, index: usize, spec: Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.sandbox
            .clusters()
            .patch(&cluster_name(index), &PatchParams::default(), &patch)
            .await?;
        Ok(())
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<()> {
        self.sandbox.kubectl(arguments).await.map(drop)
    }

    /// By place and not by number: the license gate may have kept another than the lowest.
    async fn pod(&self, index: usize, which: usize) -> Result<Pod> {
        let selector = format!("bytebase.com/cluster={}", cluster_name(index));
        let pods = self.sandbox.pods(&selector).await?;
        pods.into_iter().nth(which).context("there is no such pod")
    }

    /// The pod that leads. After one was killed no pod does until its lease has run out.
    async fn leader(&self) -> Result<Pod> {
        let led = || async {
            let (holder, _) = support::lease(&self.sandbox).await?;
            let pods = self.sandbox.operator_pods().await?;
            pods.into_iter()
                .find(|pod| holder.starts_with(&pod.name_any()))
                .with_context(|| format!("{holder} is no operator pod"))
        };
        wait::until("a leader", LEADER_PATIENCE, led, |_| true).await
    }

    /// Waits until every cluster is what it should be.
    pub async fn wait_settled(&self, models: &[Model]) -> Result<()> {
        let start = Instant::now();
        for (index, model) in models.iter().enumerate() {
            loop {
                let unsettled = match self.unsettled(index, model).await {
                    Ok(None) => break,
                    Ok(Some(why)) => why,
                    Err(error) => format!("{error:#}"),
                };
                ensure!(
                    start.elapsed() < PATIENCE,
                    "{} is not what it should be {} s after everything ended: {unsettled}",
                    cluster_name(index),
                    PATIENCE.as_secs()
                );
                sleep(Duration::from_millis(500)).await;
            }
        }
        Ok(())
    }

    /// What is not yet as it should be.
    async fn unsettled(&self, index: usize, model: &Model) -> Result<Option<String>> {
        let object = self.sandbox.clusters().get(&cluster_name(index)).await?;
        let status = &object.data["status"];
        let target = model.target();
        let expected = [
            ("observedGeneration", json!(object.metadata.generation)),
            ("phase", json!(model.phase())),
            ("replicas", json!(target)),
            ("readyReplicas", json!(target)),
            ("activeReplicas", json!(target)),
            ("targetReplicas", json!(target)),
        ];
        for (field, wanted) in expected {
            if status[field] != wanted {
                return Ok(Some(format!(
                    "{field} is {}, not {wanted}: {}",
                    status[field], status["conditions"]
                )));
            }
        }
        let complete = condition(&status["conditions"], "RolloutComplete");
        if complete.is_none_or(|condition| condition["status"] != "True") {
            return Ok(Some("the rollout is not complete".to_owned()));
        }
        // Status may be one of before: what was deleted or edited must be back.
        let name = cluster_name(index);
        let kinds = "ingress,poddisruptionbudget,service";
        if let Err(missing) = self.kubectl(&["get", kinds, &name]).await {
            return Ok(Some(format!("{missing:#}")));
        }
        let ports = self
            .sandbox
            .kubectl(&[
                "get",
                "service",
                &name,
                "-o",
                "jsonpath={.spec.ports[*].port}",
            ])
            .await?;
        if ports != "80" {
            return Ok(Some(format!("the Service has the ports {ports}")));
        }
        let selector = format!("bytebase.com/cluster={name}");
        for pod in self.sandbox.pods(&selector).await? {
            let edit = pod.annotations().get("example.com/edit").cloned();
            let version_there = pod.annotations().get("bytebase.com/version").cloned();
            if edit.as_deref() != Some(&model.edits.to_string())
                || version_there.as_deref() != Some(version(model)?)
            {
                return Ok(Some(format!("{} is of an older spec", pod.name_any())));
            }
        }
        Ok(None)
    }

    /// Objects that look like the operator's and are not. Returns them as they are.
    pub async fn plant_foreign(&self) -> Result<Vec<(String, String)>> {
        let labels = json!({
            "app.kubernetes.io/managed-by": "bytebase-operator",
            "app.kubernetes.io/instance": cluster_name(0),
            "bytebase.com/cluster": cluster_name(0),
        });
        let name = format!("{}-of-others", cluster_name(0));
        let selector = json!({"matchLabels": {"of": "others"}});
        let objects = [
            json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "b"}}),
            json!({"apiVersion": "v1", "kind": "Service", "spec": {"ports": [{"port": 80}]}}),
            json!({"apiVersion": "v1", "kind": "ServiceAccount"}),
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "spec": {"maxUnavailable": 1, "selector": selector}}),
            json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "spec": {"podSelector": selector}}),
        ];
        for mut object in objects {
            // A name that a cluster's own object would have, where the cluster has none of the
            // kind.
            let name = match object["kind"].as_str() {
                Some("NetworkPolicy") => cluster_name(0),
                _ => name.clone(),
            };
            object["metadata"] = json!({"name": name, "labels": labels});
            self.sandbox.apply_yaml(&object.to_string()).await?;
        }
        self.foreign().await
    }

    async fn foreign(&self) -> Result<Vec<(String, String)>> {
        let mut found = Vec::new();
        let name = format!("{}-of-others", cluster_name(0));
        for object in [
            format!("configmap/{name}"),
            format!("service/{name}"),
            format!("serviceaccount/{name}"),
            format!("poddisruptionbudget/{name}"),
            format!("networkpolicy/{}", cluster_name(0)),
        ] {
            // All but status, which other controllers write.
            let path = "jsonpath={.metadata.uid} {.metadata.labels} {.metadata.annotations} {.metadata.ownerReferences} {.spec} {.data}";
            let content = self
                .sandbox
                .kubectl(&["get", &object, "--ignore-not-found", "-o", path])
                .await?;
            found.push((object, content));
        }
        Ok(found)
    }

    /// Which of them are not as they were.
    pub async fn touched(&self, before: &[(String, String)]) -> Result<Vec<String>> {
        let now = self.foreign().await?;
        Ok(before
            .iter()
            .filter(|object| !now.contains(object))
            .map(|(name, _)| name.clone())
            .collect())
    }
}

/// The id of the replica that runs in this pod now, from the head of its log.
pub async fn replica_id(sandbox: &Sandbox, pod: &Pod) -> Result<String> {
    let name = pod.name_any();
    let log = ["logs", &name, "--container=bytebase", "--limit-bytes=4000"];
    let log = sandbox.kubectl(&log).await?;
    let id = log
        .split("replicaID=")
        .nth(1)
        .and_then(|rest| rest.get(..36));
    id.map(str::to_owned)
        .with_context(|| format!("{name} has logged no id"))
}

fn version(model: &Model) -> Result<&'static str> {
    VERSIONS
        .get(model.version)
        .copied()
        .context("no such version")
}

fn edits(model: &Model) -> Value {
    json!({"podAnnotations": {"example.com/edit": model.edits.to_string()}})
}

fn container(pod: &Pod) -> Result<&str> {
    let spec = pod.spec.as_ref().context("no spec")?;
    Ok(&spec.containers.first().context("no container")?.name)
}

fn object(index: usize, model: &Model) -> Value {
    let name = cluster_name(index);
    json!({
        "apiVersion": "bytebase.com/v1alpha1",
        "kind": "BytebaseCluster",
        "metadata": {"name": name},
        "spec": {
            "version": VERSIONS.first(),
            "replicas": model.replicas,
            "externalURL": format!("https://{name}.example.com"),
            "database": {"urlSecretRef": {"name": format!("{name}-database"), "key": "PG_URL"}},
            "license": {"secretRef": {"name": format!("{name}-license"), "key": "license"}},
            "admin": {"credentialsSecretRef": {"name": ADMIN_SECRET}, "createFirst": true},
            "podAnnotations": {"example.com/edit": "0"},
            "rollout": {"preStopSeconds": 1, "terminationGraceSeconds": 10, "drainTimeoutSeconds": DRAIN_TIMEOUT, "holdLimitSeconds": HOLD_LIMIT},
        },
    })
}
