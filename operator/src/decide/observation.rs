//! What the decision rests on: everything seen of one cluster at one moment, as plain values.

use crate::contract::version::Version;
use crate::kubernetes::Kind;
use secrecy::SecretString;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use uuid::Uuid;

/// What is known of the metadata database.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per cluster at a time, and it nearly always is the large one"
)]
pub enum DatabaseView {
    /// No probe has ended yet (the operator has just started, or the connection just changed).
    NotProbed,
    /// The operator can never log in itself: the login is a cloud IAM one and no monitoring URL was
    /// given.
    CannotRead,
    /// The outcome of the latest probe.
    Probed(Result<DatabaseFacts, ProbeFailure>),
}

/// Why a probe brought no facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    /// Decides what follows.
    pub class: FailureClass,
    /// Why, by a fixed name.
    pub reason: FailureReason,
    /// For people: what is wrong, where (host, port, database, never the password), what to do.
    pub message: String,
}

/// How sure a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The server itself refused: Bytebase would be refused too.
    Definite,
    /// It could not be told from where the operator stands.
    Unknown,
}

/// The ways a probe fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::AsRefStr, strum::EnumIter)]
pub enum FailureReason {
    /// The name does not resolve, the port refuses, or nothing answers in time.
    Unreachable,
    /// The server refuses the role or its password (SQLSTATE 28P01, 28000).
    AuthenticationFailed,
    /// The database does not exist (3D000).
    DatabaseMissing,
    /// The role may not connect or read (42501).
    PermissionDenied,
    /// The server has no free connection (53300).
    TooManyConnections,
    /// The server is starting up or shutting down (57P01..57P03).
    ServerNotReady,
    /// TLS could not be agreed, or the certificate was refused.
    TlsFailed,
    /// A parameter in the URL is not one the server knows.
    ParameterRefused,
    /// Anything else.
    Other,
}

/// What one successful probe read, in one transaction.
#[derive(Clone, Debug)]
pub struct DatabaseFacts {
    /// `server_version_num`, such as 150018.
    pub server_version_num: u32,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// `server_encoding`, such as `UTF8`.
    pub encoding: String,
    /// `max_connections`.
    pub max_connections: u32,
    /// `superuser_reserved_connections` (and `reserved_connections` where it exists).
    pub reserved_connections: u32,
    /// The role may create tables in the schema that unqualified names go to.
    pub can_create: bool,
    /// Two sessions of the operator shared one server process: a transaction-mode pooler stands in
    /// between.
    pub transaction_pooler: bool,
    /// Identity of the database itself, equal for two connection strings that lead to the same
    /// one.
    pub identity: DatabaseIdentity,
    /// Whose tables these are.
    pub schema: SchemaState,
    /// The license stored by Bytebase.
    pub license: StoredLicense,
    /// Rows of `replica_heartbeat`, youngest first.
    pub heartbeats: Vec<Heartbeat>,
    /// Who else is connected. `None`: not looked at in this reading (see
    /// [`Reading`](super::plan::Reading)).
    pub sessions: Option<Sessions>,
    /// Running task runs by owner.
    pub running_tasks: Vec<RunningTasks>,
    /// Task runs waiting to be promoted.
    pub pending_tasks: u64,
    /// Task runs promoted and free to be claimed.
    pub available_tasks: u64,
}

/// The other sessions of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Those that run `LISTEN bytebase_signal`. `None` when the role may not see other sessions'
    /// queries.
    pub listeners: Option<Vec<ListenSession>>,
    /// Somebody holds the schema migration lock (advisory lock 1002).
    pub migration_running: bool,
}

/// `system_identifier` where it can be read (else the server's address) with the database's oid.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DatabaseIdentity(pub String);

/// What the database holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SchemaState {
    /// No table yet: Bytebase will create its own.
    Empty,
    /// Bytebase's tables.
    Bytebase {
        /// The newest row of `instance_change_history`; `None` while the first migration has not
        /// recorded one.
        version: Option<Version>,
    },
    /// Tables that are not Bytebase's.
    Foreign {
        /// One of them, to name in the message.
        example: String,
    },
}

/// The license as stored in the metadata database.
#[derive(Clone)]
pub enum StoredLicense {
    /// There is no workspace before the first sign-up, and nowhere to store a license.
    NoWorkspace,
    /// A workspace without a license.
    Absent {
        /// `workspace.resource_id`.
        workspace_id: String,
    },
    /// A workspace with a license.
    Present {
        /// `workspace.resource_id`.
        workspace_id: String,
        /// The JWT.
        token: SecretString,
    },
}

impl fmt::Debug for StoredLicense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoWorkspace => f.write_str("NoWorkspace"),
            Self::Absent { workspace_id } => write!(f, "Absent({workspace_id})"),
            Self::Present { workspace_id, .. } => write!(f, "Present({workspace_id}, …)"),
        }
    }
}

/// One row of `replica_heartbeat`, its age taken by the database's clock and carried forward to the
/// moment of observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The process that beats; a new one at each start.
    pub replica_id: Uuid,
    /// Time since the last beat.
    pub age: Duration,
}

/// One session that runs `LISTEN bytebase_signal`: one live replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSession {
    /// `PGAPPNAME`, which the operator sets to the pod's name.
    pub application_name: String,
    /// The pod's address, or the node's where there is address translation.
    pub client_address: Option<String>,
}

/// Task runs that a replica is executing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningTasks {
    /// The owner.
    pub replica_id: Uuid,
    /// How many.
    pub count: u64,
}

/// Everything seen of one cluster at one moment.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The operator's wall clock, for times in status and for licenses.
    pub now: jiff::Timestamp,
    /// The StatefulSet, if it is there and ours.
    pub stateful_set: Option<StatefulSetView>,
    /// The pods of the cluster, by ordinal.
    pub pods: Vec<PodView>,
    /// Whether the Ingress is there and has an address. `None`: it is not there.
    pub ingress_has_address: Option<bool>,
    /// The HTTPRoute, if it is there.
    pub route: Option<RouteView>,
    /// Kinds whose definitions are not installed.
    pub kinds_not_installed: Vec<Kind>,
    /// The metadata database.
    pub database: DatabaseView,
    /// Facts of the last successful probe and their age, kept while later probes fail.
    pub last_facts: Option<(Duration, DatabaseFacts)>,
    /// Another, older `BytebaseCluster` (namespace/name) on the same database.
    pub database_shared_with: Option<String>,
    /// The last call to Bytebase's API, if it failed.
    pub call_failure: Option<CallFailure>,
    /// Since when each fresh heartbeat has belonged to no pod, as far as the operator remembers.
    pub unclaimed_since: BTreeMap<Uuid, jiff::Timestamp>,
    /// Pods that the StatefulSet should have and has not, if there are any.
    pub missing_pods: Option<MissingPods>,
    /// The last eviction, if it has been refused for a while.
    pub refused_eviction: Option<RefusedEviction>,
}

/// An eviction that a PodDisruptionBudget does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedEviction {
    /// Uid of the pod.
    pub uid: String,
    /// Which budget, and by what numbers; in the words of the API server.
    pub why: String,
}

/// Pods that nobody has made yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingPods {
    /// Since when, as far as the operator remembers.
    pub since: jiff::Timestamp,
    /// Why the StatefulSet's controller cannot make one of them, in the words of whoever refuses:
    /// a quota, pod security, a webhook.
    pub refusal: Option<String>,
}

/// What the Gateways make of the HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteView {
    /// All have accepted it.
    Accepted,
    /// Some have not looked at it.
    Pending,
    /// One refuses it; in its words.
    Refused(String),
}

/// A call to Bytebase's API that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// What went wrong; never a secret.
    pub message: String,
    /// Not before this moment is it tried again.
    pub retry_at: jiff::Timestamp,
}

impl Observation {
    /// The facts of the latest probe, if it succeeded.
    pub fn facts(&self) -> Option<&DatabaseFacts> {
        match &self.database {
            DatabaseView::Probed(Ok(facts)) => Some(facts),
            _ => None,
        }
    }
}

/// The StatefulSet as it stands.
#[derive(Clone, Debug)]
pub struct StatefulSetView {
    /// `spec.replicas`.
    pub replicas: i32,
    /// The controller has seen the latest spec, so `update_revision` is that of the present
    /// template.
    pub settled: bool,
    /// `status.updateRevision`.
    pub update_revision: Option<String>,
    /// `spec.template`, as the API server holds it.
    pub template: serde_json::Value,
    /// `bytebase.com/version` of the template: `spec.version` at the time it was written.
    pub version: Option<String>,
}

/// One pod.
#[derive(Clone, Debug)]
pub struct PodView {
    /// Name.
    pub name: String,
    /// Uid, so that an eviction never hits a successor of the same name.
    pub uid: String,
    /// The number at the end of its name.
    pub ordinal: i32,
    /// `controller-revision-hash`.
    pub revision: Option<String>,
    /// The Ready condition.
    pub ready: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// Node.
    pub node: Option<String>,
    /// Address.
    pub ip: Option<String>,
    /// When it was made.
    pub created_at: jiff::Timestamp,
    /// Since when it has not been Ready; `None` while it is.
    pub unready_since: Option<jiff::Timestamp>,
    /// The replica's id, read from the head of its log; `None` while it has not been read.
    pub replica_id: Option<Uuid>,
    /// Container restarts.
    pub restarts: i32,
    /// What keeps it from running, or from being seen to run.
    pub trouble: Option<PodTrouble>,
    /// `bytebase.com/version` of the pod.
    pub version: Option<String>,
}

/// What keeps a pod from running, or from being seen to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodTrouble {
    /// The image cannot be pulled.
    ImagePull(String),
    /// The container keeps ending.
    Crashing(String),
    /// No node takes it.
    Unschedulable(String),
    /// The kubelet cannot make the container (a missing Secret key, a volume).
    Creation(String),
    /// The node no longer reports, so Kubernetes calls the pod not Ready. The replica may run on as
    /// ever.
    NodeSilent(String),
}

impl PodTrouble {
    /// The kubelet's or scheduler's words.
    pub fn message(&self) -> &str {
        match self {
            Self::ImagePull(text)
            | Self::Crashing(text)
            | Self::Unschedulable(text)
            | Self::Creation(text)
            | Self::NodeSilent(text) => text,
        }
    }
}
