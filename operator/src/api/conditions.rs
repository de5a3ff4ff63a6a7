//! Conditions and their reasons. The reason of a condition is also the reason of the event and of
//! the log line.

use serde::{Deserialize, Serialize};

/// Types of `status.conditions`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    strum::AsRefStr,
    strum::IntoStaticStr,
    strum::EnumIter,
    strum::EnumMessage,
    strum::EnumString,
    strum::Display,
)]
pub enum ConditionType {
    /// As many replicas as may run are Ready and send heartbeats; the reason says if that is fewer
    /// than wanted. A cluster of 0 replicas is Ready when the last has ended.
    Ready,
    /// The operator is still moving the cluster towards its spec.
    Reconciling,
    /// The operator cannot go on before the user or an administrator has acted.
    Stalled,
    /// The spec and everything it names can be used.
    ConfigurationValid,
    /// The metadata database passes every check.
    DatabaseReady,
    /// The stored license allows more than one replica.
    #[strum(serialize = "HALicensed")]
    HaLicensed,
    /// Every running replica is Ready and sends heartbeats, and no foreign replica is active on the
    /// database.
    ReplicasHealthy,
    /// Every replica runs the current template.
    RolloutComplete,
    /// The cluster can be reached from outside.
    Exposed,
}

/// Why a condition has its status.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    strum::AsRefStr,
    strum::EnumIter,
    strum::EnumString,
    strum::EnumMessage,
    strum::Display,
)]
pub enum Reason {
    // Ready
    /// Every wanted replica is Ready and sends heartbeats.
    AllReplicasActive,
    /// Replicas are starting, or send no heartbeats yet.
    ReplicasNotReady,
    /// Fewer replicas run than wanted, because the license gate holds them back.
    HeldBackByLicense,
    /// Fewer replicas run than wanted, or none, because of the database.
    HeldBackByDatabase,
    /// Fewer replicas run than wanted, or none, because the version cannot run several, is not
    /// known to, or is older than the metadata schema.
    HeldBackByVersion,
    /// `replicas: 0`.
    ScaledToZero,
    /// Heartbeats cannot be read.
    HeartbeatsUnknown,
    /// The spec cannot be used.
    InvalidConfiguration,

    // Reconciling, Stalled
    /// Nothing is left to do.
    Settled,
    /// Objects, replicas or revisions are on their way.
    Progressing,
    /// `paused: true`.
    Paused,
    /// Nothing stands in the way.
    NotStalled,
    /// The API server refused a write.
    ApplyFailed,
    /// The operator's role lacks a verb.
    Forbidden,
    /// Another party keeps changing an object back that the operator writes.
    ChangedBack,
    /// An object of that name is there that does not belong to the cluster.
    NameTaken,
    /// The operator cannot see the cluster's objects: its role or the API server keeps it from
    /// watching them.
    CannotWatch,

    // ConfigurationValid
    /// The spec and everything it names can be used.
    Valid,
    /// Valid, with remarks in the message.
    ValidWithWarnings,
    /// Valid, and the last certificate of the CA bundle ends within 30 days, 7 days or a day.
    CertificateEndsSoon,
    /// A field has a value that cannot be used.
    InvalidSpec,
    /// A Secret or ConfigMap, or a key of it, is missing or cannot be read.
    ReferenceMissing,
    /// A Secret holds a value that cannot be used.
    InvalidSecret,
    /// The Kubernetes cluster does not know a kind that the spec asks for: its definition is not
    /// installed.
    KindNotInstalled,
    /// The cluster is being deleted, and a finalizer of another party holds that up. Nothing is
    /// changed any more but what the license gate asks for.
    BeingDeleted,

    // DatabaseReady
    /// Every check passes.
    DatabaseChecksPassed,
    /// No reading of the database has ended yet.
    DatabaseNotProbed,
    /// The operator cannot log in itself (cloud IAM, or a proxy in the pod): give it
    /// `database.monitorSecretRef`.
    DatabaseCannotRead,
    /// Nothing answers at the database's address, as seen from where the operator runs.
    DatabaseUnreachable,
    /// The server refuses the role or its password.
    DatabaseAuthenticationFailed,
    /// The database does not exist.
    DatabaseMissing,
    /// The role lacks rights.
    DatabasePermissionDenied,
    /// The server takes no more connections.
    DatabaseTooManyConnections,
    /// The server is starting or stopping.
    DatabaseServerNotReady,
    /// TLS failed.
    DatabaseTlsFailed,
    /// The server refuses a parameter of the URL.
    DatabaseParameterRefused,
    /// The monitoring login (`database.monitorSecretRef`) leads to another database than `PG_URL`,
    /// or to a standby.
    DatabaseMonitorElsewhere,
    /// The reading of the database failed in another way.
    DatabaseProbeFailed,
    /// The server is not PostgreSQL, although it speaks its protocol.
    DatabaseNotPostgres,
    /// The server is older than PostgreSQL 14.
    DatabaseTooOld,
    /// The server is a standby.
    DatabaseIsStandby,
    /// The server lets Bytebase log in and write nothing (`default_transaction_read_only`).
    DatabaseReadOnly,
    /// The database is not UTF-8.
    DatabaseEncoding,
    /// The database holds tables of another application.
    DatabaseForeignTables,
    /// A pooler in transaction mode stands before the database.
    DatabaseTransactionPooler,
    /// `max_connections` is too small for the wanted replicas.
    DatabaseConnectionBudget,
    /// Another `BytebaseCluster` has the same database.
    DatabaseShared,
    /// Replicas that do not belong to this cluster send heartbeats to the database, so the first
    /// replica waits until they have stopped.
    DatabaseInUse,
    /// The tables of Bytebase in the database have another form than this operator knows, are not
    /// seen any more, or went back to an older version under running replicas.
    DatabaseSchemaUnknown,

    // HALicensed
    /// The stored license allows HA.
    LicenseAllowsHa,
    /// The stored license allows HA and ends within 30 days, 7 days or a day.
    LicenseEndsSoon,
    /// The license in the Secret allows HA and stands in for the stored one, which cannot be read.
    SecretLicenseAllowsHa,
    /// No one has signed up yet, so no license can be stored.
    AwaitingFirstSignUp,
    /// No license is stored.
    LicenseMissing,
    /// The license in the Secret is not stored yet.
    LicenseNotInstalled,
    /// The stored license does not include HA.
    LicenseWithoutHa,
    /// The stored license ends within the guard interval.
    LicenseExpiring,
    /// The stored license has ended.
    LicenseExpired,
    /// The stored license is not valid yet.
    LicenseNotYetValid,
    /// The license is for another workspace.
    LicenseOtherWorkspace,
    /// The stored license is not understood: it cannot be decoded, or its signature does not fit
    /// the operator's key.
    LicenseInvalid,
    /// The license cannot be read now.
    LicenseUnknown,
    /// Making the first admin, or installing the license, over Bytebase's API failed.
    LicenseInstallFailed,
    /// `enforcement: Warn`: reported, not enforced.
    LicenseNotEnforced,

    // ReplicasHealthy
    /// All replicas are Ready and send heartbeats.
    AllReplicasHealthy,
    /// Some replica is not Ready.
    ReplicaNotReady,
    /// Some replica keeps ending; its log says why.
    ReplicaCrashing,
    /// Some replica's image cannot be pulled.
    ImagePullFailed,
    /// Some replica cannot be scheduled.
    Unschedulable,
    /// The node of some replica no longer reports; its heartbeat says whether it works.
    NodeSilent,
    /// Some replica is Ready but its heartbeat is stale.
    HeartbeatStale,
    /// Some replica has no heartbeat.
    HeartbeatMissing,
    /// A replica that does not belong to the cluster is active on its database.
    ForeignReplica,
    /// The kubelet or the controller could not make a pod.
    PodCreationFailed,
    /// No replica is wanted.
    NoReplicas,
    /// Only an event: tasks are marked as running whose replica is gone, or has never begun them.
    /// `status.stuckTasks` counts them.
    TasksStuck,

    // RolloutComplete
    /// Every replica runs the current template.
    RolloutDone,
    /// The rollout goes on.
    RolloutProgressing,
    /// The rollout waits; the message says for what.
    RolloutWaiting,
    /// The rollout cannot go on and touches no other pod; the message says why.
    RolloutStalled,
    /// The image is older than the metadata schema.
    DowngradeRefused,
    /// Only an event: no replica promotes queued work, since a drain hook or another session holds
    /// the queue. `status.queueHold` says who.
    QueueHeld,
    /// Only an event: the queue has been held for longer than drain hooks do.
    QueueHeldLong,
    /// Only an event: replicas promote queued work again.
    QueueFree,
    /// Only an event: a pod was asked to end, by whomever, and finishes its running tasks first.
    DrainBegan,
    /// Only an event: a pod that is ending still runs tasks, and its time is nearly up.
    DrainEndsSoon,

    // Exposed
    /// The Ingress has an address.
    IngressReady,
    /// The Ingress is there; its controller has not given it an address.
    IngressPending,
    /// Neither `ingress` nor `gateway` is on, and the Service is reached from inside only.
    IngressDisabled,
    /// Held back until the first admin exists.
    AwaitingFirstAdmin,
    /// The Ingress or the HTTPRoute could not be applied.
    IngressFailed,
    /// Every Gateway has accepted the HTTPRoute.
    RouteAccepted,
    /// Not every Gateway has taken the HTTPRoute up, or it is being made.
    RoutePending,
    /// A Gateway refuses the HTTPRoute, or cannot resolve what it names.
    RouteRefused,
    /// The Service is the only way in and serves: at a port of every node, or at the address of its
    /// load balancer.
    ServiceReady,
    /// The Service is the only way in and has no address, or not yet the type that the spec asks
    /// for.
    ServicePending,
}

/// What an event with a reason asks of its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Nothing: it is news, or it passes without help.
    Normal,
    /// Nothing on the way to the first replicas. With several running, a license that they count on
    /// has gone.
    FirstStart,
    /// To act, or at least to find out why.
    Warning,
}

impl Reason {
    /// The condition under which a reason is explained. It may stand on others too: `Ready` and
    /// `Stalled` repeat the reason of what holds them back.
    ///
    /// Exhaustive on purpose: a new reason does not compile before it has a place on the page.
    pub fn condition(self) -> ConditionType {
        match self {
            Self::AllReplicasActive
            | Self::ReplicasNotReady
            | Self::HeldBackByLicense
            | Self::HeldBackByDatabase
            | Self::HeldBackByVersion
            | Self::ScaledToZero
            | Self::HeartbeatsUnknown
            | Self::InvalidConfiguration => ConditionType::Ready,
            Self::Settled | Self::Progressing | Self::Paused => ConditionType::Reconciling,
            Self::NotStalled
            | Self::ApplyFailed
            | Self::Forbidden
            | Self::ChangedBack
            | Self::NameTaken
            | Self::CannotWatch => ConditionType::Stalled,
            Self::Valid
            | Self::ValidWithWarnings
            | Self::CertificateEndsSoon
            | Self::InvalidSpec
            | Self::ReferenceMissing
            | Self::InvalidSecret
            | Self::KindNotInstalled
            | Self::BeingDeleted => ConditionType::ConfigurationValid,
            Self::DatabaseChecksPassed
            | Self::DatabaseNotProbed
            | Self::DatabaseCannotRead
            | Self::DatabaseUnreachable
            | Self::DatabaseAuthenticationFailed
            | Self::DatabaseMissing
            | Self::DatabasePermissionDenied
            | Self::DatabaseTooManyConnections
            | Self::DatabaseServerNotReady
            | Self::DatabaseTlsFailed
            | Self::DatabaseParameterRefused
            | Self::DatabaseMonitorElsewhere
            | Self::DatabaseProbeFailed
            | Self::DatabaseNotPostgres
            | Self::DatabaseTooOld
            | Self::DatabaseIsStandby
            | Self::DatabaseReadOnly
            | Self::DatabaseEncoding
            | Self::DatabaseForeignTables
            | Self::DatabaseTransactionPooler
            | Self::DatabaseConnectionBudget
            | Self::DatabaseShared
            | Self::DatabaseInUse
            | Self::DatabaseSchemaUnknown => ConditionType::DatabaseReady,
            Self::LicenseAllowsHa
            | Self::LicenseEndsSoon
            | Self::SecretLicenseAllowsHa
            | Self::AwaitingFirstSignUp
            | Self::LicenseMissing
            | Self::LicenseNotInstalled
            | Self::LicenseWithoutHa
            | Self::LicenseExpiring
            | Self::LicenseExpired
            | Self::LicenseNotYetValid
            | Self::LicenseOtherWorkspace
            | Self::LicenseInvalid
            | Self::LicenseUnknown
            | Self::LicenseInstallFailed
            | Self::LicenseNotEnforced => ConditionType::HaLicensed,
            Self::AllReplicasHealthy
            | Self::ReplicaNotReady
            | Self::ReplicaCrashing
            | Self::ImagePullFailed
            | Self::Unschedulable
            | Self::NodeSilent
            | Self::HeartbeatStale
            | Self::HeartbeatMissing
            | Self::ForeignReplica
            | Self::PodCreationFailed
            | Self::NoReplicas
            | Self::TasksStuck => ConditionType::ReplicasHealthy,
            Self::RolloutDone
            | Self::RolloutProgressing
            | Self::RolloutWaiting
            | Self::RolloutStalled
            | Self::DowngradeRefused
            | Self::QueueHeld
            | Self::QueueHeldLong
            | Self::QueueFree
            | Self::DrainBegan
            | Self::DrainEndsSoon => ConditionType::RolloutComplete,
            Self::IngressReady
            | Self::IngressPending
            | Self::IngressDisabled
            | Self::AwaitingFirstAdmin
            | Self::IngressFailed
            | Self::RouteAccepted
            | Self::RoutePending
            | Self::RouteRefused
            | Self::ServiceReady
            | Self::ServicePending => ConditionType::Exposed,
        }
    }

    /// How an event with this reason is marked.
    ///
    /// Exhaustive on purpose: a new reason does not compile before this is decided.
    pub fn weight(self) -> Weight {
        match self {
            Self::AllReplicasActive
            | Self::ReplicasNotReady
            | Self::HeldBackByLicense
            | Self::HeldBackByDatabase
            | Self::HeldBackByVersion
            | Self::ScaledToZero
            | Self::HeartbeatsUnknown
            | Self::Settled
            | Self::Progressing
            | Self::Paused
            | Self::NotStalled
            | Self::Valid
            | Self::ValidWithWarnings
            | Self::DatabaseChecksPassed
            | Self::DatabaseNotProbed
            | Self::LicenseAllowsHa
            | Self::SecretLicenseAllowsHa
            | Self::LicenseUnknown
            | Self::AllReplicasHealthy
            | Self::ReplicaNotReady
            | Self::HeartbeatMissing
            | Self::NoReplicas
            | Self::RolloutDone
            | Self::RolloutProgressing
            | Self::RolloutWaiting
            | Self::QueueHeld
            | Self::QueueFree
            | Self::DrainBegan
            | Self::IngressReady
            | Self::IngressPending
            | Self::IngressDisabled
            | Self::AwaitingFirstAdmin
            | Self::RouteAccepted
            | Self::RoutePending
            | Self::ServiceReady
            | Self::ServicePending => Weight::Normal,
            Self::AwaitingFirstSignUp | Self::LicenseNotInstalled => Weight::FirstStart,
            Self::InvalidConfiguration
            | Self::ApplyFailed
            | Self::Forbidden
            | Self::ChangedBack
            | Self::NameTaken
            | Self::CannotWatch
            | Self::CertificateEndsSoon
            | Self::InvalidSpec
            | Self::ReferenceMissing
            | Self::InvalidSecret
            | Self::KindNotInstalled
            | Self::BeingDeleted
            | Self::DatabaseCannotRead
            | Self::DatabaseUnreachable
            | Self::DatabaseAuthenticationFailed
            | Self::DatabaseMissing
            | Self::DatabasePermissionDenied
            | Self::DatabaseTooManyConnections
            | Self::DatabaseServerNotReady
            | Self::DatabaseTlsFailed
            | Self::DatabaseParameterRefused
            | Self::DatabaseMonitorElsewhere
            | Self::DatabaseProbeFailed
            | Self::DatabaseNotPostgres
            | Self::DatabaseTooOld
            | Self::DatabaseIsStandby
            | Self::DatabaseReadOnly
            | Self::DatabaseEncoding
            | Self::DatabaseForeignTables
            | Self::DatabaseTransactionPooler
            | Self::DatabaseConnectionBudget
            | Self::DatabaseShared
            | Self::DatabaseInUse
            | Self::DatabaseSchemaUnknown
            | Self::LicenseEndsSoon
            | Self::LicenseMissing
            | Self::LicenseWithoutHa
            | Self::LicenseExpiring
            | Self::LicenseExpired
            | Self::LicenseNotYetValid
            | Self::LicenseOtherWorkspace
            | Self::LicenseInvalid
            | Self::LicenseInstallFailed
            | Self::LicenseNotEnforced
            | Self::ReplicaCrashing
            | Self::ImagePullFailed
            | Self::Unschedulable
            | Self::NodeSilent
            | Self::HeartbeatStale
            | Self::ForeignReplica
            | Self::PodCreationFailed
            | Self::TasksStuck
            | Self::RolloutStalled
            | Self::DowngradeRefused
            | Self::QueueHeldLong
            | Self::DrainEndsSoon
            | Self::IngressFailed
            | Self::RouteRefused => Weight::Warning,
        }
    }
}
