//! `status`: what the operator reports. No field changes by itself, so ages are in the metrics, not
//! here.

use super::read::{or_default, readable_items};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What the operator reports.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BytebaseClusterStatus {
    /// The generation of the spec that this status speaks of; -1 until the operator has seen the
    /// cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where the cluster stands, in one word. `Pending`: nothing runs yet. `Starting`: replicas are
    /// starting. `Ready`: every wanted replica is Ready and sends heartbeats. `Limited`: fewer
    /// replicas than wanted run, held back by the license, the database or the version. `Rolling`:
    /// a change is reaching the replicas. `Scaling`: the number of replicas is changing.
    /// `Degraded`: some replica is not Ready or sends no heartbeats. `Stopped`: `replicas: 0`.
    /// `Paused`: `paused: true`. `Invalid`: the spec, or something it names, cannot be used; what
    /// runs is left alone. `Stalled`: the operator cannot go on before the user or an administrator
    /// has acted.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub phase: Option<Phase>,
    /// Pods of the cluster that exist.
    #[serde(default)]
    pub replicas: i32,
    /// Pods of the cluster that are Ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Replicas of this cluster whose heartbeat is fresh. Absent when heartbeats cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_replicas: Option<i32>,
    /// Replicas that the operator runs, after the license gate and the other limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_replicas: Option<i32>,
    /// Label selector of the pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// External URL of the replicas, in its normal form; during a rollout, the one that is being
    /// left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Version that the Ready replicas run; during a rollout, the version that is being left. While
    /// none is Ready: the version that was last seen to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Version of the metadata schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_version: Option<String>,
    /// The license that the license gate goes by.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub license: Option<LicenseStatus>,
    /// Since when no license has allowed several replicas. Absent while one does, also where it
    /// ends soon.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlicensed_since: Option<Time>,
    /// The metadata database.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub database: Option<DatabaseStatus>,
    /// The replicas, one entry for each pod.
    #[serde(
        default,
        deserialize_with = "readable_items",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub replica_statuses: Vec<ReplicaStatus>,
    /// The rollout that is under way, or the busy replica that a scale-down gives time to become
    /// idle.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub rollout: Option<RolloutStatus>,
    /// Who keeps every replica from promoting queued work, by a session of the metadata database:
    /// most often the drain hook of a pod that ends, so that no new work comes to it. Absent: the
    /// operator has seen no hold. Read while replicas come and go, and while work is queued.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub queue_hold: Option<QueueHoldStatus>,
    /// Running tasks that no replica works on: their replica has sent no heartbeat for two minutes,
    /// and no other has set them to FAILED, as an active replica does; or it works, and has never
    /// begun them.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub stuck_tasks: Option<StuckTasks>,
    /// The call to Bytebase's API that Bytebase refuses: to make the first admin, or to install the
    /// license.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub refused_call: Option<RefusedCall>,
    /// Objects of the cluster that are not what the operator writes: a webhook of the Kubernetes
    /// cluster, or the API server itself, changes them in each write, and the operator leaves them
    /// so.
    #[serde(
        default,
        deserialize_with = "readable_items",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["object"]))]
    pub overruled: Vec<OverruledObject>,
    /// The conditions of the cluster.
    #[serde(
        default,
        deserialize_with = "readable_items",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A call to Bytebase's API that Bytebase refuses. Each try with a wrong password counts towards
/// locking the account, so the operator waits longer after each, also when it is started again.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(description = "")]
pub struct RefusedCall {
    /// How many times in a row Bytebase has refused the call.
    #[schemars(range(min = 1))]
    pub refusals: i32,
    /// When the operator makes the refused call again. With other values in the Secrets it does so
    /// at once.
    pub retry_time: Time,
    /// What Bytebase refused.
    pub message: String,
    /// Two digits of a checksum of the values of the refused call, by which a corrected Secret is
    /// noticed.
    pub mark: String,
}

/// An object that a webhook, or the API server itself, keeps otherwise than the operator writes it.
/// Only a write shows that, so an operator that is started again, and writes nothing of a cluster
/// that is paused, knows it from here.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
#[schemars(description = "")]
pub struct OverruledObject {
    /// Kind and name of the object, such as `services/demo`.
    pub object: String,
    /// A field of the object that is not what the operator writes.
    pub field: String,
}

/// Where the cluster stands, in one word.
#[derive(
    Serialize,
    Deserialize,
    JsonSchema,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    strum::AsRefStr,
    strum::Display,
)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum Phase {
    /// Nothing runs yet.
    Pending,
    /// Replicas are starting.
    Starting,
    /// Every wanted replica is Ready and sends heartbeats.
    Ready,
    /// Fewer replicas than wanted: the target is lower.
    Limited,
    /// A change is reaching the replicas.
    Rolling,
    /// The number of replicas is changing.
    Scaling,
    /// Some replica is not Ready or sends no heartbeats, or the heartbeats cannot be read.
    Degraded,
    /// `replicas: 0`.
    Stopped,
    /// `paused: true`.
    Paused,
    /// The spec, or something it names, cannot be used; what runs is left alone.
    Invalid,
    /// The operator cannot go on before the user or an administrator has acted.
    Stalled,
}

impl Phase {
    /// Whether no pod is to come or go.
    pub fn is_settled(self) -> bool {
        matches!(
            self,
            Self::Ready | Self::Limited | Self::Stopped | Self::Paused
        )
    }
}

/// A license, as far as it may be shown.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LicenseStatus {
    /// Plan of the license: FREE, TEAM or ENTERPRISE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// Whether the license includes HA.
    #[serde(default)]
    pub ha: bool,
    /// When the license ends. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expiration_time: Option<Time>,
    /// Organization that the license names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Id of the workspace that the license is for.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "workspaceID"
    )]
    pub workspace_id: Option<String>,
    /// Where this license was read: `Database` is the one that Bytebase obeys, `Secret` the one in
    /// `license.secretRef`.
    #[serde(deserialize_with = "or_default")]
    pub source: LicenseSource,
    /// What is known of the license's signature: `Verified` with the operator's key, or
    /// `Unverified`, because the operator has no key, or another one than it fits.
    #[serde(deserialize_with = "or_default")]
    pub signature: SignatureState,
}

/// Where a license was read.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LicenseSource {
    /// The metadata database: the one Bytebase obeys.
    #[default]
    Database,
    /// `license.secretRef`.
    Secret,
}

/// What is known of a signature.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignatureState {
    /// Verified with the operator's key.
    Verified,
    /// The operator has no key, or another one.
    #[default]
    Unverified,
}

/// The metadata database.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseStatus {
    /// Host, port and database name that the replicas connect to, such as
    /// `db.example.com:5432/bytebase`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Identifies the database itself, whatever name or address leads to it: a hash of the server's
    /// system identifier and the database's oid. Two clusters with the same one share a database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The database, by its identity, to which replicas of this cluster were last seen to send
    /// heartbeats. It belongs to this cluster, also while that is stopped, and whatever place its
    /// spec names, until its replicas are seen on another database, or until a reading shows that
    /// the spec leads to another one and no replica is left. Absent: none has been seen, or it was
    /// given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_on: Option<String>,
    /// Whether `servedOn` is the database in `identity`. An earlier operator had no `servedOn`, so
    /// where that is absent the operator goes by this.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_served: bool,
    /// Whether the database at this endpoint was last seen to hold a Bytebase workspace, which the
    /// first person to sign up makes. Where replicas run and it is gone, as while a backup is being
    /// restored, the operator starts no replica, ends none and makes no account.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_workspace: bool,
    /// Whether replicas that do not belong to this cluster were active on the database at this
    /// endpoint when its heartbeats could last be read. No further replica starts beside them, also
    /// while the database cannot be read, until a reading shows that they have ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub foreign_replicas: bool,
    /// Version of the server, such as `15.18`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_version: Option<String>,
    /// `max_connections` of the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_connections: Option<i32>,
    /// When the last valid certificate of the CA bundle ends, of `database.caSecretRef` or
    /// `database.caConfigMapRef`. Absent: there is no bundle, or none of its certificates is valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_expiration_time: Option<Time>,
    /// Connections that the wanted replicas and one more may open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_budget: Option<i32>,
    /// Since when the operator has tried in vain to read a database that it has never read and on
    /// which replicas are wanted. The first replica starts without a reading two minutes later,
    /// unless the server says by then that it is starting or full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unread_since: Option<Time>,
    /// The version that the metadata schema had before an older one was read although replicas of a
    /// newer version run: a backup was restored under them. Absent once the schema is at that
    /// version again, or none of these replicas is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema_before: Option<String>,
    /// What came of the operator's last try to log in as the replicas do, from where it runs.
    /// `Accepted`: the server let it in. `Refused`: the server refused it, and would refuse
    /// Bytebase. `CannotTell`: it cannot be known from there. Where it is certain, a changed login
    /// reaches the replicas only when the server has accepted it.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub login: Option<LoginState>,
    /// A login by other values than those that the running pods were started with, while it has not
    /// reached the pod template yet.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub changed_login: Option<ChangedLogin>,
}

impl DatabaseStatus {
    /// What an earlier operator wrote, as this one does. So it is where the definition is an
    /// earlier one, from which the API server drops `servedOn`.
    #[must_use]
    pub fn of_today(mut self) -> Self {
        if self.has_served && self.served_on.is_none() {
            self.served_on.clone_from(&self.identity);
        }
        self
    }
}

/// A login by other values than those that the running pods were started with.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
#[schemars(description = "")]
pub struct ChangedLogin {
    /// When the operator first saw the values of the changed login. Kubernetes brings a changed
    /// Secret into running pods within two minutes.
    pub since: Time,
    /// A few digits of a checksum of the changed login, by which one change is distinguished from
    /// the next.
    pub mark: String,
}

/// What came of the operator's last try to log in as the replicas do.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum LoginState {
    /// The server let the operator in.
    Accepted,
    /// The server refused it, and would refuse Bytebase.
    Refused,
    /// It cannot be known from where the operator runs.
    CannotTell,
}

/// One replica and its pod.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Name of the pod.
    pub pod: String,
    /// Node that the pod runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Id under which the replica sends heartbeats: a new one at each start.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "replicaID")]
    pub replica_id: Option<String>,
    /// Id of the container that runs the replica, which binds `replicaID` to this one start of it.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        rename = "containerID"
    )]
    pub container_id: Option<String>,
    /// Whether the pod is Ready.
    #[serde(default)]
    pub ready: bool,
    /// State of the replica's heartbeat. `Fresh`: at most 30 seconds old. `Stale`: older.
    /// `Missing`: the database has none of this replica. `Unknown`: it cannot be read.
    #[serde(deserialize_with = "or_default")]
    pub heartbeat: HeartbeatState,
    /// When the heartbeat took the state in `heartbeat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Only while `heartbeat` is `Unknown`: since when it had been `Stale` or `Missing` before. A
    /// reading that finds that the replica has sent none meanwhile goes on from then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_heartbeat_since: Option<Time>,
    /// Tasks that the replica is running.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_tasks: Option<i64>,
    /// Ids of the task runs that the replica is running, at most ten: the oldest. Only where its
    /// drain is cut short (`CutShort`), and what it runs is cancelled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub task_runs: Vec<i64>,
    /// How far the pod is that finishes its tasks before it ends. `Draining`: it is finishing them.
    /// `EndsSoon`: less than five minutes are left until `drainsUntil`, or less than a tenth of its
    /// time if that is shorter. `CutShort`: the license does not allow several replicas, and the
    /// operator asks its drain hook to let it end at once. `NotReached`: the license asks for the
    /// same, but the operator cannot reach its drain hook, so that what the replica runs may go on
    /// until `drainsUntil`. Absent: it is not ending, has nothing to finish, has no drain hook, or
    /// is on a node that no longer reports.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub drain: Option<DrainState>,
    /// When what the replica of an ending pod still runs is cancelled: its drain hook waits no
    /// longer. Absent while the pod is not ending, where it has no drain hook, and where its node
    /// no longer reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drains_until: Option<Time>,
    /// When Kubernetes ends the pod by force at the latest, which may be long after `drainsUntil`.
    /// Absent while it is not ending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_by: Option<Time>,
    /// Whether the pod is of the current template.
    #[serde(default)]
    pub updated: bool,
    /// Why the replica does not run, in Kubernetes' words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What the log of Bytebase says of why the replica is not up.
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub log_line: Option<LogLine>,
}

impl ReplicaStatus {
    /// Since when the replica has been known to send no heartbeats.
    pub fn without_heartbeat_since(&self) -> Option<&Time> {
        match self.heartbeat {
            HeartbeatState::Stale | HeartbeatState::Missing => self.since.as_ref(),
            HeartbeatState::Unknown => self.no_heartbeat_since.as_ref(),
            HeartbeatState::Fresh => None,
        }
    }
}

/// What the log of Bytebase says of why a replica is not up.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LogLine {
    /// The last line of the replica's log that reports a failure, without its time, and with `***`
    /// in place of whatever is or could be secret.
    pub text: String,
    /// Uid of the pod that wrote the line in `text`.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
}

/// How far a pod is that finishes its tasks before it ends.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum DrainState {
    /// It is finishing them.
    Draining,
    /// Less than five minutes are left until `drainsUntil`, or less than a tenth of its time if
    /// that is shorter. What it has not finished by then is cancelled.
    EndsSoon,
    /// The license does not allow several replicas, and the operator asks its drain hook to let it
    /// end at once. What it has not finished then is cancelled.
    CutShort,
    /// The license does not allow several replicas, and the operator cannot ask its drain hook to
    /// let it end at once: it finds no session of the hook in the metadata database, or may not see
    /// whose it is. What it runs may go on until `drainsUntil`.
    NotReached,
}

/// Running tasks that no replica works on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct StuckTasks {
    /// Number of running tasks whose replica is gone.
    pub tasks: i64,
    /// Ids of the replicas that ran the stuck tasks.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "replicaIDs")]
    pub replica_ids: Vec<String>,
    /// Number of running tasks that a replica which works took over ten minutes ago and has not
    /// begun since. They end only with that replica, and a drain of it waits for them.
    #[serde(default)]
    pub unbegun: i64,
    /// Ids of the replicas that hold the tasks counted in `unbegun`.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        rename = "unbegunReplicaIDs"
    )]
    pub unbegun_replica_ids: Vec<String>,
}

/// State of a heartbeat.
#[derive(
    Serialize,
    Deserialize,
    JsonSchema,
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    strum::AsRefStr,
    strum::Display,
)]
pub enum HeartbeatState {
    /// Sent within the last 30 seconds.
    Fresh,
    /// Sent before, but not within the last 30 seconds.
    Stale,
    /// The database has no heartbeat of this replica.
    Missing,
    /// The heartbeat cannot be read.
    #[default]
    Unknown,
}

/// Who keeps every replica from promoting queued work.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QueueHoldStatus {
    /// `application_name` of the sessions that hold advisory lock 1001 of the metadata database, at
    /// most ten. `drain/` and the name of a pod is that of its drain hook, which lets go after
    /// `rollout.holdLimitSeconds`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_by: Vec<String>,
    /// Since when the queue has been held, as far as the operator has seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Whether the queue has been held for longer than drain hooks hold it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub overdue: bool,
}

/// A rollout that is under way.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// Pods of the cluster that are of the current template.
    pub updated_replicas: i32,
    /// What the rollout waits for, in one word. `StatefulSetController`: the StatefulSet
    /// controller, to see the change. `Eviction`: the eviction of a pod, which the operator asks
    /// for now. `DisruptionBudget`: a PodDisruptionBudget, to let a pod go. `Drain`: a pod, to
    /// finish its tasks and to end. `PodEnd`: a pod, to end. `AllPodsEnd`: every pod, to end
    /// (strategy `Maintenance`). `FirstReplica`: the first replica on the new template, to be Ready
    /// and to send heartbeats (strategy `Maintenance`). `PodCreation`: a pod, to be made.
    /// `ReadyReplica`: the replica that was replaced last, to be Ready and to send heartbeats.
    /// `OtherReplicas`: the others, to be so, so that they carry the load. `IdleReplica`: a replica
    /// without running tasks. `SchemaMigration`: the end of a schema migration. `DatabaseReading`:
    /// the next reading of the metadata database. `Database`: the metadata database, to be readable
    /// or to pass its checks. `Login`: the server, to accept a changed login. `SecretInPods`:
    /// Kubernetes, to bring a changed Secret into the running pods, whose drain hooks log in by it.
    /// `Node`: a node that does not report. `ScaleDown`: the end of a scale-down. `Resume`:
    /// `spec.paused` to be false. `Correction`: the user, to correct the change (see `message`).
    #[serde(
        default,
        deserialize_with = "or_default",
        skip_serializing_if = "Option::is_none"
    )]
    pub waiting_for: Option<RolloutWait>,
    /// The pod that the rollout waits for, or ends next. Absent where it waits for no single pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Tasks that the pod in `pod` is running, where the rollout waits for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running_tasks: Option<i64>,
    /// What the rollout does or waits for, in a sentence.
    #[serde(default)]
    pub message: String,
    /// Since when the rollout has waited for what `waitingFor` names. A restart of the operator
    /// does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Time>,
    /// Until when at the latest the rollout waits for what `waitingFor` names: it then continues,
    /// or `Stalled` says why it cannot. Absent where the wait has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Time>,
    /// Since when every replica that is to be replaced or taken away has run tasks, as far as is
    /// known: from then on they are given time to become idle. An outage or another wait in between
    /// does not change it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_since: Option<Time>,
    /// Whether the time since `busySince` is that of a scale-down alone: a rollout that follows it
    /// begins a time of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub scale_down_only: bool,
}

/// What a rollout waits for, in one word.
#[derive(
    Serialize,
    Deserialize,
    JsonSchema,
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    strum::AsRefStr,
    strum::EnumIter,
)]
// The description of an optional field's type would take the place of the field's own.
#[schemars(description = "")]
pub enum RolloutWait {
    /// The StatefulSet controller, to see the change.
    StatefulSetController,
    /// The eviction of a pod, which the operator asks for now.
    Eviction,
    /// A PodDisruptionBudget, to let a pod go.
    DisruptionBudget,
    /// A pod, to finish its tasks and to end.
    Drain,
    /// A pod, to end.
    PodEnd,
    /// Every pod, to end: `spec.rollout.strategy` is `Maintenance`.
    AllPodsEnd,
    /// The first replica on the new template, to be Ready and to send heartbeats:
    /// `spec.rollout.strategy` is `Maintenance`.
    FirstReplica,
    /// A pod, to be made.
    PodCreation,
    /// The replica that was replaced last, to be Ready and to send heartbeats.
    ReadyReplica,
    /// The other replicas, to be Ready and to send heartbeats, so that they carry the load.
    OtherReplicas,
    /// A replica without running tasks.
    IdleReplica,
    /// The end of a schema migration.
    SchemaMigration,
    /// The next reading of the metadata database.
    DatabaseReading,
    /// The metadata database, to be readable or to pass its checks.
    Database,
    /// A changed login to the metadata database, to be accepted by the server.
    Login,
    /// Kubernetes, to bring a changed Secret into the running pods, so that their drain hooks can
    /// log in.
    SecretInPods,
    /// A node that does not report.
    Node,
    /// The end of a scale-down.
    ScaleDown,
    /// `spec.paused` to be false.
    Resume,
    /// The user, to correct the change: see `message`.
    Correction,
}

impl RolloutStatus {
    /// Whether the rollout still waits for what it waited for before: the same thing, of the same
    /// pod. Which replica is nearest to being idle does not matter, nor which of several keeps any
    /// other from being spared.
    pub fn continues(&self, before: &Self) -> bool {
        let for_any_pod = matches!(
            self.waiting_for,
            Some(RolloutWait::IdleReplica | RolloutWait::OtherReplicas)
        );
        self.waiting_for == before.waiting_for
            && self.scale_down_only == before.scale_down_only
            && (for_any_pod || self.pod == before.pod)
    }
}
