//! What the state of the metadata database allows.

use super::observation::{
    DatabaseFacts, DatabaseView, FailureClass, FailureReason, Observation, SchemaState,
};
use crate::api::Reason;
use crate::api::status::DatabaseStatus;
use crate::validate::ValidCluster;

/// Oldest PostgreSQL that Bytebase supports.
const OLDEST_SERVER: u32 = 140_000;
/// Largest pool of one replica.
const POOL: u32 = 50;

/// What the state of the database allows.
#[derive(Clone, Debug)]
pub struct DatabaseVerdict {
    /// How far a cluster may go on it.
    pub allows: Allows,
    /// Status of `DatabaseReady`: true, false, or `None` for Unknown.
    pub status: Option<bool>,
    /// Reason of it.
    pub reason: Reason,
    /// Message of it.
    pub message: String,
    /// For status.
    pub facts: Option<DatabaseStatus>,
}

/// How far a cluster may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allows {
    /// Bytebase would fail, or do harm: no first pod, no change.
    Nothing,
    /// Nothing is known yet: wait for the first probe.
    Wait,
    /// One replica is always safe.
    One,
    /// As many as wanted.
    All,
}

/// Judges the latest probe.
pub fn judge(cluster: &ValidCluster, observation: &Observation) -> DatabaseVerdict {
    let plain = |allows, status, reason, message: &str| DatabaseVerdict {
        allows,
        status,
        reason,
        message: message.to_owned(),
        facts: None,
    };
    match &observation.database {
        DatabaseView::NotProbed => plain(
            Allows::Wait,
            None,
            Reason::DatabaseNotProbed,
            "the first probe has not ended yet",
        ),
        DatabaseView::CannotRead => plain(
            Allows::All,
            None,
            Reason::DatabaseCannotRead,
            "the operator cannot log in itself (the URL uses cloud IAM, or a proxy inside the pod): heartbeats, license and checks stay unknown until database.monitorSecretRef names a URL it can use",
        ),
        DatabaseView::Probed(Err(failure)) => {
            let (allows, status) = match failure.class {
                FailureClass::Definite => (Allows::Nothing, Some(false)),
                FailureClass::Unknown => (Allows::One, None),
            };
            plain(allows, status, reason_of(failure.reason), &failure.message)
        }
        DatabaseView::Probed(Ok(facts)) => judge_facts(cluster, observation, facts),
    }
}

fn reason_of(reason: FailureReason) -> Reason {
    match reason {
        FailureReason::Unreachable => Reason::DatabaseUnreachable,
        FailureReason::AuthenticationFailed => Reason::DatabaseAuthenticationFailed,
        FailureReason::DatabaseMissing => Reason::DatabaseMissing,
        FailureReason::PermissionDenied => Reason::DatabasePermissionDenied,
        FailureReason::TooManyConnections => Reason::DatabaseTooManyConnections,
        FailureReason::ServerNotReady => Reason::DatabaseServerNotReady,
        FailureReason::TlsFailed => Reason::DatabaseTlsFailed,
        FailureReason::ParameterRefused => Reason::DatabaseParameterRefused,
        FailureReason::Other => Reason::DatabaseProbeFailed,
    }
}

fn judge_facts(
    cluster: &ValidCluster,
    observation: &Observation,
    facts: &DatabaseFacts,
) -> DatabaseVerdict {
    let budget = budget(cluster.replicas);
    let status = DatabaseStatus {
        server_version: Some(server_version(facts.server_version_num)),
        max_connections: i32::try_from(facts.max_connections).ok(),
        connection_budget: i32::try_from(budget).ok(),
    };
    let verdict = |allows, ok, reason, message: String| DatabaseVerdict {
        allows,
        status: Some(ok),
        reason,
        message,
        facts: Some(status.clone()),
    };
    if let Some((reason, message)) = fatal(cluster, observation, facts) {
        return verdict(Allows::Nothing, false, reason, message);
    }
    let usable = facts
        .max_connections
        .saturating_sub(facts.reserved_connections);
    // A replica takes at most what the server has, so a small server serves one replica; a second
    // would starve the first.
    if cluster.replicas > 1 && usable < budget {
        return verdict(
            Allows::All,
            true,
            Reason::DatabaseConnectionBudget,
            format!(
                "{} replicas and one more during a roll may open {budget} connections ({POOL} each), the server offers {usable}: raise max_connections to at least {}",
                cluster.replicas,
                budget.saturating_add(facts.reserved_connections)
            ),
        );
    }
    verdict(
        Allows::All,
        true,
        Reason::DatabaseChecksPassed,
        format!(
            "PostgreSQL {} passes every check",
            server_version(facts.server_version_num)
        ),
    )
}

/// Findings with which Bytebase would fail or do harm.
fn fatal(
    cluster: &ValidCluster,
    observation: &Observation,
    facts: &DatabaseFacts,
) -> Option<(Reason, String)> {
    let place = cluster.database.replicas.identity_hint();
    if facts.server_version_num < OLDEST_SERVER {
        return Some((
            Reason::DatabaseTooOld,
            format!(
                "{place} is PostgreSQL {}, Bytebase needs 14 or later",
                server_version(facts.server_version_num)
            ),
        ));
    }
    if facts.in_recovery {
        return Some((
            Reason::DatabaseIsStandby,
            format!(
                "{place} is a standby, to which no replica can write: point PG_URL at the primary, or list all servers with target_session_attrs=read-write"
            ),
        ));
    }
    if facts.encoding != "UTF8" {
        return Some((
            Reason::DatabaseEncoding,
            format!(
                "{place} has the encoding {}, Bytebase needs UTF8: create the database anew with ENCODING 'UTF8' TEMPLATE template0",
                facts.encoding
            ),
        ));
    }
    if facts.transaction_pooler {
        return Some((
            Reason::DatabaseTransactionPooler,
            format!(
                "{place} is a pooler in transaction mode, which breaks the locks and notifications that replicas coordinate by: use session mode or the server's own address"
            ),
        ));
    }
    if let Some(other) = &observation.database_shared_with {
        return Some((
            Reason::DatabaseShared,
            format!(
                "{place} is already used by BytebaseCluster {other}: give this cluster a database of its own"
            ),
        ));
    }
    if let SchemaState::Foreign { example } = &facts.schema {
        return Some((
            Reason::DatabaseForeignTables,
            format!(
                "{place} holds another application's tables (such as {example}): give Bytebase an empty database of its own"
            ),
        ));
    }
    // The monitoring role need not create anything, so its rights say nothing about Bytebase's.
    if facts.schema == SchemaState::Empty && !facts.can_create && !cluster.database.monitored {
        return Some((
            Reason::DatabasePermissionDenied,
            format!(
                "the role may not create tables in {place} (PostgreSQL 15 and later grant that to the owner only): ALTER DATABASE … OWNER TO the role, or GRANT CREATE ON SCHEMA public"
            ),
        ));
    }
    None
}

/// Connections that the wanted replicas, and one more during a roll, may open.
fn budget(replicas: i32) -> u32 {
    POOL * (u32::try_from(replicas).unwrap_or(0) + 1)
}

/// `150018` is 15.18.
fn server_version(num: u32) -> String {
    format!("{}.{}", num / 10_000, num % 10_000)
}
