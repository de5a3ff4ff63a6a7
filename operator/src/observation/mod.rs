//! What `observe` produces and `decide` rests on: everything seen of one cluster at one moment, as
//! plain values. It stands below both, so that neither knows the other.

pub(crate) mod heartbeat;
pub mod reading;

use crate::api::Reason;
use crate::api::status::{
    DatabaseStatus, DrainState, LicenseStatus, LoginState, RefusedCall, RolloutWait,
};
use crate::contract::version::Version;
use crate::kubernetes::Kind;
use crate::redaction::RedactedLine;
use heartbeat::Freshness;
use secrecy::SecretString;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;
use uuid::Uuid;

/// Status waits so long for what a log says that is being read, so that it need not be written
/// twice. The kubelet nearly always answers within a few milliseconds.
pub const LOG_PATIENCE: Duration = Duration::from_secs(1);

/// A time that status remembers, but no later than now: a leader whose clock was ahead may have
/// written it. Whatever carries a time on carries this one, so that it is corrected once; otherwise
/// each pass would count from its own now, and a deadline would never come.
pub fn no_later<T: Ord>(remembered: Option<T>, now: T) -> Option<T> {
    remembered.map(|time| time.min(now))
}

/// What is known of the metadata database.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one per cluster at a time, and it nearly always is the large one"
)]
pub enum DatabaseView {
    /// No reading has ended yet (the operator has just started, or the connection just changed).
    NotProbed,
    /// The operator can never log in itself: the login is a cloud IAM one and no monitoring URL was
    /// given.
    CannotRead,
    /// The outcome of the latest reading.
    Probed(Result<DatabaseFacts, ProbeFailure>),
}

/// Why a reading brought no facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeFailure {
    /// Decides what follows.
    pub class: FailureClass,
    /// Why, by a fixed name.
    pub reason: FailureReason,
    /// For users: what is wrong, where (host, port, database, never the password), what to do.
    pub message: String,
}

/// How sure a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The server itself refused: Bytebase would be refused too.
    Definite,
    /// It cannot be known from where the operator runs.
    Unknown,
}

/// The ways a reading fails.
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
    /// The server is another product that speaks PostgreSQL's protocol.
    NotPostgres,
    /// A standby answers where `target_session_attrs` asks for a server that accepts writes.
    Standby,
    /// A server whose sessions begin read-only answers where `target_session_attrs` asks for one
    /// that accepts writes.
    ReadOnly,
    /// The monitoring login leads to another place than `PG_URL`, or to a standby of it.
    MonitorElsewhere,
    /// Anything else.
    Other,
}

/// A fact of the database. What cannot be read is not the same as what is not there: the next
/// Bytebase may rename a column, and nothing may follow from that but a word of caution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<T> {
    /// Read.
    Known(T),
    /// Known not to exist: the schema is older than the fact, or there is no schema yet.
    Absent,
    /// Bytebase's tables are there, but not in a form that this operator understands.
    Unknown,
}

impl<T> Fact<T> {
    /// The value, if it was read.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Unknown => None,
        }
    }

    /// What follows from the value.
    pub fn map<U>(&self, follows: impl FnOnce(&T) -> U) -> Fact<U> {
        match self {
            Self::Known(value) => Fact::Known(follows(value)),
            Self::Absent => Fact::Absent,
            Self::Unknown => Fact::Unknown,
        }
    }

    /// The value to be changed, if it was read.
    pub fn known_mut(&mut self) -> Option<&mut T> {
        match self {
            Self::Known(value) => Some(value),
            Self::Absent | Self::Unknown => None,
        }
    }

    /// Whether it could not be read.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }
}

impl<T> Fact<Vec<T>> {
    /// What was read; nothing where it is absent or unknown.
    pub fn rows(&self) -> &[T] {
        self.known().map_or(&[], Vec::as_slice)
    }
}

/// What one good reading brought, in one transaction.
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
#[derive(Clone, Debug)]
pub struct DatabaseFacts {
    /// `server_version_num`, such as 150018.
    pub server_version_num: u32,
    /// `pg_is_in_recovery()`.
    pub in_recovery: bool,
    /// New sessions of Bytebase's role begin read-only: `default_transaction_read_only` is on for
    /// the server, the database or the role.
    pub read_only: bool,
    /// `server_encoding`, such as `UTF8`.
    pub encoding: String,
    /// `max_connections`.
    pub max_connections: u32,
    /// `superuser_reserved_connections` (and `reserved_connections` where it exists).
    pub reserved_connections: u32,
    /// `CONNECTION LIMIT` of Bytebase's role; `None` if it has none.
    pub role_connections: Option<u32>,
    /// `CONNECTION LIMIT` of the database; `None` if it has none.
    pub database_connections: Option<u32>,
    /// The role may create tables in the schema that unqualified names go to.
    pub can_create: bool,
    /// The first schema of the role's `search_path`, where none of them exists.
    pub missing_schema: Option<String>,
    /// A table of Bytebase's that its role does not own, and so cannot alter.
    pub not_owned: Option<String>,
    /// Two sessions of the operator shared one server process: a transaction-mode pooler stands in
    /// between. `None` if that could not be found out.
    pub transaction_pooler: Option<bool>,
    /// The server's TLS certificate is of X.509 version 1, which holds no names: `verify-full`
    /// refuses it.
    pub has_version_1_certificate: bool,
    /// Identity of the database itself, equal for two connection strings that lead to the same
    /// one.
    pub identity: DatabaseIdentity,
    /// For how long its server has run.
    pub server_uptime: Duration,
    /// For how long each reading has found that this server takes writes, up to this one; no longer
    /// than it has run.
    pub writable_for: Duration,
    /// What the server's clock showed, since 1970. `None` where that is not understood.
    pub server_clock: Option<Duration>,
    /// Whose tables these are.
    pub schema: SchemaState,
    /// The license stored by Bytebase. Unknown on a standby, which may have been cut off from its
    /// primary before a license was renewed there.
    pub license: Fact<StoredLicense>,
    /// Rows of `replica_heartbeat`, youngest first.
    pub heartbeats: Fact<Vec<Heartbeat>>,
    /// That table holds a row, however old, so there has been a replica: only a replica deletes
    /// rows, and it has one of its own. False where the table cannot be read.
    pub has_heartbeat_rows: bool,
    /// Who else is connected. `None`: not part of this reading (see
    /// [`ReadOptions`](reading::ReadOptions)).
    pub sessions: Option<Sessions>,
    /// Running task runs by owner. One that Bytebase has failed as abandoned counts among them for
    /// a day at most, as long as its owner is heard, which goes on with it. Unknown in some
    /// readings where these are not read in time, and otherwise only where the table is not
    /// understood or the replicas run on another database.
    pub running_tasks: Fact<Vec<RunningTasks>>,
    /// Those of them that their owner took over ten minutes ago and has not begun since, as far as
    /// that can be read.
    pub unbegun_tasks: Vec<RunningTasks>,
    /// Which task runs say RUNNING, by owner: a few of each, the oldest first, as far as that can
    /// be read, and only where the sessions are.
    pub task_runs: Vec<TaskRuns>,
    /// Task runs waiting to be promoted; those that are to wait for a later time are not among
    /// them.
    pub pending_tasks: Fact<u64>,
    /// Task runs promoted and free to be claimed.
    pub available_tasks: Fact<u64>,
    /// Tables of Bytebase's that lack a column this operator reads or allow a state that it does
    /// not know, or are not there although the schema is new enough to have them: what they hold is
    /// [`Fact::Unknown`].
    pub not_understood: Vec<&'static str>,
    /// What came of logging in as Bytebase does, beside the monitoring login that read the rest.
    /// `None`: not tried.
    pub login: Option<LoginTrial>,
}

/// What came of logging in as Bytebase does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginTrial {
    /// The server let it in.
    Accepted,
    /// It failed, for Bytebase as well or only from where the operator runs.
    Failed(ProbeFailure),
}

/// The other sessions of the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// Those that run `LISTEN bytebase_signal`. `None` when the role may not see other sessions'
    /// queries.
    pub listeners: Option<Vec<ListenSession>>,
    /// A session holds the migration lock (advisory lock 1002).
    pub migration_running: bool,
    /// `application_name` of each session that keeps all replicas from promoting queued work
    /// (advisory lock 1001), in their order.
    pub queue_held_by: BTreeSet<String>,
    /// Other clients, by role and application, where Bytebase's tables are older than heartbeats;
    /// empty elsewhere. Neither operators nor drain hooks are among them.
    pub others: BTreeSet<String>,
}

/// Which database this is.
///
/// A clone (a restored snapshot) keeps the system identifier of its original. So two readings that
/// are both of now are distinguished by the start of their servers as well; what status remembers
/// cannot be, since every restart of a server would make it another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DatabaseIdentity {
    /// Hash of `system_identifier` where it can be read (else of the server's address) with the
    /// database's oid: the same before and after a restart of the server.
    pub database: String,
    /// `pg_postmaster_start_time()`: the same for two sessions of one server.
    pub server_start: String,
}

impl DatabaseIdentity {
    /// `database`: what distinguishes the database from every other. Hashed, since it goes into
    /// status.
    pub fn new(database: &str, server_start: &str) -> Self {
        let mut hash = hex::encode(Sha256::digest(database.as_bytes()));
        hash.truncate(16);
        Self {
            database: hash,
            server_start: server_start.to_owned(),
        }
    }
}

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
    /// No table in sight, and one called `principal` in a schema off the `search_path`: Bytebase
    /// takes it for its own, and then does not find it.
    OffPath {
        /// The schema.
        schema: String,
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
    /// No one has signed up, so there is no workspace to store a license in, or no user who could.
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
    /// The replica that sends it; the id is new at each start.
    pub replica_id: Uuid,
    /// Time since the replica sent it.
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

/// Which task runs a replica is executing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskRuns {
    /// The owner.
    pub replica_id: Uuid,
    /// Their ids in the database.
    pub ids: Vec<i64>,
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
    /// Logs of them are being read that may say more in a moment.
    pub awaits_logs: bool,
    /// Whether the Ingress is there and has an address. `None`: it is not there.
    pub ingress_has_address: Option<bool>,
    /// Hosts that the Ingress and the HTTPRoute lead in from, where they are there.
    pub exposed_hosts: Vec<String>,
    /// How the client Service lets users in from outside by its type. `None`: it does not, or is
    /// not there.
    pub service_way: Option<ServiceWay>,
    /// The HTTPRoute, if it is there.
    pub route: Option<RouteView>,
    /// Kinds whose definitions are not installed.
    pub kinds_not_installed: Vec<Kind>,
    /// Kinds of which the operator cannot see what stands, each with why and what to do. Never the
    /// StatefulSet: nothing is decided without it.
    pub kinds_unseen: Vec<(Kind, String)>,
    /// The metadata database.
    pub database: DatabaseView,
    /// Facts of the last good reading and their age, kept while later ones fail; the license
    /// and the version of the schema among them as this process last understood them.
    pub last_facts: Option<(Duration, DatabaseFacts)>,
    /// Another `BytebaseCluster` that has the same database.
    pub database_shared_with: Option<Holder>,
    /// What the status says of earlier reconciles, of whatever operator process.
    pub remembered: Remembered,
    /// The last call to Bytebase's API, if it failed.
    pub call_failure: Option<CallFailure>,
    /// What came of asking drain hooks to let their replicas end. `None` where there is no session
    /// by which to ask.
    pub asked: Option<Asked>,
    /// Since when each fresh heartbeat has belonged to no pod, as far as the operator remembers.
    pub unmatched_since: BTreeMap<Uuid, jiff::Timestamp>,
    /// Why a pod that the StatefulSet should have could not be made, if it was refused.
    pub refused_pod: Option<PodRefusal>,
    /// The last eviction, if it has been refused for a while.
    pub refused_eviction: Option<RefusedEviction>,
}

/// What the status says of earlier reconciles, of the database that the spec names now. A decision
/// falls back on it where the present cannot be read: the last certain knowledge, never the absence
/// of any.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remembered {
    /// The metadata database as last reported.
    pub database: Option<DatabaseStatus>,
    /// The identity of the database on which replicas were last seen to serve, whichever the spec
    /// names.
    pub served_on: Option<String>,
    /// What came of the last try to log in as the replicas do, to whichever database.
    pub login: Option<LoginState>,
    /// Whether `DatabaseReady` was True, and since when it was so or was not.
    pub database_ready: Option<(bool, jiff::Timestamp)>,
    /// The reason and message with which `DatabaseReady` was last False.
    pub refusal: Option<Refusal>,
    /// The stored license as last read. Never one that only lies in a Secret.
    pub license: Option<LicenseStatus>,
    /// The license in a Secret as last reported, if it may stand in where nothing stored can be
    /// read.
    pub stand_in: Option<LicenseStatus>,
    /// The reason for which `HALicensed` was last False: what is stored did not allow several
    /// replicas, or nothing was stored.
    pub unlicensed: Option<Reason>,
    /// Since when no license has allowed several replicas.
    pub unlicensed_since: Option<jiff::Timestamp>,
    /// The version of the metadata schema as last read.
    pub schema_version: Option<Version>,
    /// The version that served last, as `spec.version` named it.
    pub version: Option<String>,
    /// The external URL that replicas were started with before the rollout that is under way.
    pub url: Option<String>,
    /// What a rollout waited for.
    pub rollout: Option<RememberedRollout>,
    /// Replicas that do not belong to the cluster were active on its database when that could last
    /// be known.
    pub foreign_replicas: bool,
    /// By pod: the replica in it that has sent no heartbeat although the pod is Ready, and since
    /// when.
    pub stale_since: BTreeMap<String, (Option<Uuid>, jiff::Timestamp)>,
    /// Since when the queue has been held.
    pub queue_held_since: Option<jiff::Timestamp>,
    /// It has been held for longer than drain hooks hold it.
    pub queue_overdue: bool,
    /// By pod: how far it was with finishing its tasks.
    pub drains: BTreeMap<String, DrainState>,
}

/// Another `BytebaseCluster` that has the database which the spec names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its name, or that it is one of another namespace.
    pub name: String,
    /// How far it uses the database.
    pub usage: Usage,
}

/// How far a cluster uses a database that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Usage {
    /// It has replicas there.
    Runs,
    /// So it has, but whether they send heartbeats cannot be read.
    Unread,
    /// It has none there now.
    Idle,
    /// It has served there, and its spec names another place now. Nothing shows yet that this is
    /// another database, or its replicas are still to move there.
    Moves,
}

/// What came of asking the drain hooks of some pods to let their replicas end, by the names of the
/// pods. Those that are in neither set have not been tried yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Their hooks have been asked, and the request stands.
    pub reached: BTreeSet<String>,
    /// Their hooks could not be asked at the last try, nor before.
    pub missed: BTreeSet<String>,
}

/// What a rollout waited for when status was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedRollout {
    /// In one word.
    pub waiting_for: RolloutWait,
    /// The pod that it was about.
    pub pod: Option<String>,
    /// Since when.
    pub since: jiff::Timestamp,
    /// Since when every replica that is to be replaced has run tasks.
    pub busy_since: Option<jiff::Timestamp>,
    /// Only a scale-down has waited since then.
    pub scale_down_only: bool,
    /// In a sentence.
    pub message: String,
}

/// A definite finding against a metadata database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Reason of `DatabaseReady`.
    pub reason: Reason,
    /// Message of it.
    pub message: String,
}

/// An eviction that a PodDisruptionBudget does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedEviction {
    /// Uid of the pod.
    pub uid: String,
    /// Which budget, and by what numbers; in the words of the API server.
    pub why: String,
}

/// A pod that the StatefulSet controller could not make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRefusal {
    /// Since when it has been refused, by the clock of the controller.
    pub since: jiff::Timestamp,
    /// Why, in the words of what refuses: a quota, pod security, a webhook.
    pub message: String,
}

/// How a Service lets users in from outside, without any Ingress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceWay {
    /// At a port of every node.
    Nodes,
    /// By a load balancer.
    Balanced {
        /// It has an address.
        has_address: bool,
    },
}

/// What the Gateways make of the HTTPRoute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteView {
    /// All have accepted it.
    Accepted,
    /// Some have not handled it yet.
    Pending,
    /// One refuses it; in its words.
    Refused(String),
}

/// A call to Bytebase's API that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFailure {
    /// What went wrong; never a secret.
    pub message: String,
    /// Set where Bytebase understood the call and said no.
    pub refused: Option<RefusedCall>,
}

impl DatabaseFacts {
    /// Whether a replica in one of these pods sends heartbeats to this database, by the id in its
    /// log: whoever may log in to the database can hold a session under the name of any pod.
    fn shows_heartbeat_of(&self, pods: &[PodView]) -> bool {
        let rows = self.heartbeats.rows().iter();
        let mut fresh = rows.filter(|row| Freshness::of(row.age) == Freshness::Fresh);
        fresh.any(|row| {
            pods.iter()
                .any(|pod| pod.replica_id == Some(row.replica_id))
        })
    }
}

impl Remembered {
    /// The identity of the database that the cluster has by having served there, after this reading
    /// of the one that its spec names: the last one on which its own heartbeats were seen. It is
    /// given up where the spec leads to another one, as the reading shows, and nothing of the
    /// cluster is left that could run on the one before. A place that has not been read may be
    /// another name of the same database.
    pub fn served_on_after(
        &self,
        facts: &DatabaseFacts,
        pods: &[PodView],
        has_replicas: bool,
    ) -> Option<String> {
        let read = &facts.identity.database;
        if facts.shows_heartbeat_of(pods) {
            return Some(read.clone());
        }
        let before = self.served_on.as_ref();
        before
            .filter(|before| *before == read || has_replicas)
            .cloned()
    }

    /// Whether Bytebase's tables, or its workspace, were seen before where these facts come from
    /// and are not now, although there are pods of the cluster.
    pub fn has_lost_tables(&self, facts: &DatabaseFacts, pods: &[PodView]) -> bool {
        let had_workspace = self.database.as_ref();
        let had_workspace = had_workspace.is_some_and(|database| database.has_workspace);
        let has_none = matches!(
            facts.license,
            Fact::Absent | Fact::Known(StoredLicense::NoWorkspace)
        );
        let is_bytebase = matches!(facts.schema, SchemaState::Bytebase { .. });
        let lost_tables = self.schema_version.is_some() && !is_bytebase;
        // Also of facts in which that has been taken into account.
        let is_known = facts.not_understood == [ALL_TABLES];
        !pods.is_empty() && (is_known || lost_tables || (had_workspace && has_none))
    }
}

/// Whether something of a cluster runs or is about to: there are pods, or its StatefulSet wants
/// some.
pub fn has_replicas(set_size: Option<i32>, pods: &[PodView]) -> bool {
    !pods.is_empty() || set_size.unwrap_or(0) != 0
}

impl Observation {
    /// Why what stands of this kind cannot be seen, and what to do, if so.
    pub fn unseen(&self, kind: Kind) -> Option<&str> {
        let mut kinds = self.kinds_unseen.iter();
        kinds
            .find(|(unseen, _)| *unseen == kind)
            .map(|(_, why)| why.as_str())
    }

    /// The facts of the latest reading, if it was a good one.
    pub fn facts(&self) -> Option<&DatabaseFacts> {
        match &self.database {
            DatabaseView::Probed(Ok(facts)) => Some(facts),
            _ => None,
        }
    }

    /// Whether Bytebase's tables, or its workspace, were seen before where these facts come from
    /// and are not now, although replicas of this cluster run: they are out of sight (another
    /// `search_path`), dropped, or not restored from a backup yet. What they hold is not known to
    /// be nothing. Another identity does not show that it is: a restore may have made the database
    /// again.
    pub fn has_lost_tables(&self, facts: &DatabaseFacts) -> bool {
        self.remembered.has_lost_tables(facts, &self.pods)
    }

    /// The observation where all replicas run on another database than the one that was read. The
    /// license, the tasks and the workspace there are not theirs, and so unknown. The database that
    /// they move to is judged all the same: by its checks, and by the heartbeats of others.
    #[must_use]
    pub fn of_another_database(mut self) -> Self {
        let read = match &mut self.database {
            DatabaseView::Probed(Ok(facts)) => Some(facts),
            _ => None,
        };
        let last = self.last_facts.as_mut().map(|(_, facts)| facts);
        for facts in read.into_iter().chain(last) {
            facts.license = Fact::Unknown;
            facts.running_tasks = Fact::Unknown;
            facts.pending_tasks = Fact::Unknown;
            facts.available_tasks = Fact::Unknown;
        }
        self
    }

    /// The observation in which what lost tables hold is unknown.
    #[must_use]
    pub fn with_lost_tables_unknown(mut self) -> Self {
        let last = self.last_facts.as_ref().map(|(_, facts)| facts);
        let are_lost = [self.facts(), last]
            .map(|facts| facts.is_some_and(|facts| self.has_lost_tables(facts)));
        let read = match &mut self.database {
            DatabaseView::Probed(Ok(facts)) => Some(facts),
            _ => None,
        };
        let last = self.last_facts.as_mut().map(|(_, facts)| facts);
        let all = [read, last].into_iter().zip(are_lost);
        for facts in all.filter_map(|(facts, are_lost)| facts.filter(|_| are_lost)) {
            facts.license = Fact::Unknown;
            facts.heartbeats = Fact::Unknown;
            facts.running_tasks = Fact::Unknown;
            facts.pending_tasks = Fact::Unknown;
            facts.available_tasks = Fact::Unknown;
            facts.not_understood = vec![ALL_TABLES];
        }
        self
    }
}

/// In place of the names of all tables that are not understood.
const ALL_TABLES: &str = "all of its tables";

/// The StatefulSet as it stands.
#[derive(Clone, Debug)]
pub struct StatefulSetView {
    /// `metadata.resourceVersion`.
    pub resource_version: Option<String>,
    /// `spec.replicas`.
    pub replicas: i32,
    /// `spec.ordinals.start`: the lowest ordinal.
    pub start: i32,
    /// The controller has seen the latest spec, so `update_revision` is that of the present
    /// template.
    pub settled: bool,
    /// `status.replicas`: how many pods of it there were, those that were ending too, when its
    /// controller last said so. The watch of pods may be behind that.
    pub pods: i32,
    /// `status.updateRevision`.
    pub update_revision: Option<String>,
    /// `spec.template`, as the API server holds it.
    pub template: serde_json::Value,
    /// Its `bytebase.com/template-digest`: of the template as it was written, without the drain
    /// hook.
    pub template_digest: Option<String>,
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
    /// Since when the present process of Bytebase runs; `None` while none does.
    pub started_at: Option<jiff::Timestamp>,
    /// Id of the container that runs this process, as the container runtime names it.
    pub container_id: Option<String>,
    /// When Kubernetes ends it by force at the latest; `None` while it is not being deleted.
    pub ends_by: Option<jiff::Timestamp>,
    /// How long it may take to end, as it was made.
    pub grace: Option<jiff::SignedDuration>,
    /// It has the drain hook, so its replica finishes its tasks before it ends.
    pub drains: bool,
    /// How long its hook waits for them at the most; `None` where there is no hook, or its command
    /// does not say so.
    pub drain_timeout: Option<jiff::SignedDuration>,
    /// What its hook logs in by, where it was made by this operator.
    pub login: PodLogin,
    /// The external URL that its replica is started with.
    pub external_url: Option<String>,
    /// Its finalizers, but for those of the garbage collector, which go by themselves.
    pub finalizers: Vec<String>,
    /// When its deletion began, if it did; a shorter grace period begins it again.
    pub ending_since: Option<jiff::Timestamp>,
    /// Since when it has not been Ready; `None` while it is.
    pub unready_since: Option<jiff::Timestamp>,
    /// The replica's id, read from the head of its log; `None` while it has not been read.
    pub replica_id: Option<Uuid>,
    /// What is quoted of its log, where that says why it is not up.
    pub log_quote: Option<LogQuote>,
    /// Container restarts.
    pub restarts: i32,
    /// What keeps it from running, or from being seen to run.
    pub trouble: Option<PodTrouble>,
    /// What it waits for, where it is not Ready and that can be said. It is shown, and nothing
    /// follows from it but what is advised.
    pub waits_for: Option<PodWait>,
    /// How a process of it failed that another one has followed, where the pod has not been Ready
    /// since. It is shown, and nothing follows from it.
    pub last_failure: Option<String>,
    /// `bytebase.com/version` of the pod.
    pub version: Option<String>,
}

/// What is quoted of the log of a replica that is not up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogQuote {
    /// The line that says why, as far as it may be shown.
    Line(RedactedLine),
    /// Nothing: its process may know a secret that is none any more, and so cannot be left out.
    Withheld {
        /// It has ended, and another process has taken its place or is to.
        previous: bool,
    },
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
    /// The container cannot be made (a missing Secret key, a volume that cannot be attached or
    /// mounted, a pod without a network), or its node has ended the pod for good.
    Creation(String),
    /// The node no longer reports, so Kubernetes calls the pod not Ready. The replica may run on as
    /// ever.
    NodeSilent(String),
}

/// What a pod waits for that is not Ready although nothing is known to be wrong with it; in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodWait {
    /// A part of it: a container that is not ready, or its place on a node.
    Part(String),
    /// Another party, which has not opened its readiness gates. All containers are ready.
    Gate(String),
}

/// By what the drain hook of a pod logs in to the metadata database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodLogin {
    /// Of the secret values that its containers were started with.
    pub checksum: Option<String>,
    /// `PG_URL`, where that is in no Secret.
    pub url: Option<String>,
    /// The Secrets whose present values it is brought, by [`login_sources`].
    ///
    /// [`login_sources`]: crate::desired::drain::login_sources
    pub sources: String,
}

impl PodView {
    /// Whether it is well but for its readiness gates: no change of the spec is to blame.
    pub fn waits_at_gate(&self) -> bool {
        matches!(self.waits_for, Some(PodWait::Gate(_)))
    }

    /// Ready, and not on its way out.
    pub fn is_ready(&self) -> bool {
        self.ready && !self.deleting
    }

    /// How long its replica has for its tasks once the pod is asked to end, where it has the drain
    /// hook: Kubernetes ends it by force after its grace period, whatever the hook waits for.
    /// `None` where that is not known.
    pub fn drain_time(&self) -> Option<jiff::SignedDuration> {
        let times = [self.drain_timeout, self.grace].into_iter();
        times.flatten().min().filter(|_| self.drains)
    }

    /// When what its replica still runs is cancelled: its hook has waited for as long as it may, or
    /// Kubernetes ends the pod by force. `None` where it is not ending, or has no hook.
    pub fn drains_until(&self) -> Option<jiff::Timestamp> {
        let ends_by = self.ends_by.filter(|_| self.drains)?;
        let waits_until = self.ending_since.zip(self.drain_timeout);
        let waits_until = waits_until.and_then(|(since, timeout)| since.checked_add(timeout).ok());
        Some(waits_until.map_or(ends_by, |until| until.min(ends_by)))
    }
}

impl StatefulSetView {
    /// Whether a pod of this ordinal belongs to its size.
    pub fn covers(&self, ordinal: i32) -> bool {
        (self.start..self.start.saturating_add(self.replicas)).contains(&ordinal)
    }

    /// How long a pod of it may take to end, by its template.
    pub fn grace(&self) -> jiff::SignedDuration {
        let seconds = self.template["spec"]["terminationGracePeriodSeconds"].as_i64();
        // Kubernetes' own default.
        jiff::SignedDuration::from_secs(seconds.unwrap_or(30))
    }
}

impl PodWait {
    /// In words.
    pub fn message(&self) -> &str {
        match self {
            Self::Part(text) | Self::Gate(text) => text,
        }
    }
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
