//! What the state of the metadata database allows.

pub(crate) mod checks;
pub(crate) mod login;
pub(crate) mod occupancy;
pub(crate) mod schema;

use crate::api::Reason;
use crate::api::status::{ChangedLogin, DatabaseStatus, HeartbeatState, LoginState};
use crate::contract::version::Version;
use crate::decide::database::checks::{
    budget, fatal, may_be_pooled, server_version, too_few_connections, unsure_right,
};
use crate::decide::database::occupancy::{active_when_read, in_use, may_be_its_own, shared};
use crate::decide::health::Health;
use crate::observation::{
    DatabaseFacts, DatabaseView, Fact, FailureClass, FailureReason, Holder, LoginTrial,
    Observation, ProbeFailure, Refusal, Remembered, StoredLicense, has_replicas, no_later,
};
use crate::validate::ValidDatabase;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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
    /// When it changes by itself.
    pub changes_at: Option<Timestamp>,
    /// No replica may start on it, and none of this cluster has ever served there: those that were
    /// started in vain, before it could be read, are taken back.
    pub takes_back: bool,
    /// For status, without the changed login.
    facts: Option<DatabaseStatus>,
}

impl DatabaseVerdict {
    /// Whether a standby answers that may be part of a failover, which passes by itself.
    pub fn may_be_failover(&self) -> bool {
        self.reason == Reason::DatabaseIsStandby
            && self.status == Some(false)
            && self.changes_at.is_some()
    }

    /// What status reports, with the login that has changed.
    pub fn reported(&self, changed_login: Option<&ChangedLogin>) -> Option<DatabaseStatus> {
        let facts = self.facts.clone()?;
        Some(DatabaseStatus {
            changed_login: changed_login.cloned(),
            has_served: facts.served_on.is_some() && facts.served_on == facts.identity,
            ..facts
        })
    }
}

/// How far a cluster may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Allows {
    /// Bytebase would fail, or do harm, or that cannot be ruled out: no first pod, no change.
    Nothing,
    /// Nothing is known yet: wait for the first reading.
    Wait,
    /// One replica, on a database that the operator has never been able to see.
    One,
    /// As many as wanted.
    All,
}

/// A database that has never been read is tried for so long before the first replica starts without
/// a reading: longer than a server takes to start, or to be replaced by another.
const BLIND_AFTER: SignedDuration = SignedDuration::from_mins(2);

/// A standby that answers in place of the primary says no more than that a failover is under way,
/// until the database has not been ready for so long: an election, and the time to live of a name.
const FAILOVER_TAKES: SignedDuration = SignedDuration::from_mins(2);

/// Remark on a server whose certificate Bytebase's driver takes, and stricter clients do not.
const VERSION_1_CERTIFICATE: &str = "; its TLS certificate is of X.509 version 1, which holds no names, so sslmode=verify-full would refuse it: have one of version 3 issued";

/// Begins the part of a message that says why a refusal could not be checked again.
const NOT_CHECKED_AGAIN: &str = "; the database cannot be read now to check again: ";

/// Judges the latest reading. Where it brought nothing, the last certain knowledge stands: a
/// refusal until a good reading takes it back, over outages and restarts. `wanted`: how many
/// replicas. `moves`: they are to log in by other values than those that they were started with.
pub fn judge(
    database: &ValidDatabase,
    wanted: i32,
    observation: &Observation,
    health: &Health<'_>,
    moves: bool,
) -> DatabaseVerdict {
    let verdict = of_reading(database, wanted, observation, health, moves);
    // By this reading: what was found before says nothing of a replica that was started since.
    let is_read = match &observation.database {
        DatabaseView::Probed(Ok(_)) => true,
        DatabaseView::Probed(Err(failure)) => failure.class == FailureClass::Definite,
        DatabaseView::NotProbed | DatabaseView::CannotRead => false,
    };
    let is_refused = is_read && verdict.status == Some(false) && verdict.allows == Allows::Nothing;
    // Which of two clusters has the database depends on which of them runs.
    let is_its_own = verdict.reason != Reason::DatabaseShared && !moves;
    DatabaseVerdict {
        takes_back: is_refused && is_its_own && has_never_served(observation, health),
        changes_at: verdict
            .changes_at
            .or_else(|| failover_until(&verdict, observation)),
        ..verdict
    }
}

/// Until when a standby that answers may be part of a failover. Since when the database has not
/// been ready, status knows.
fn failover_until(verdict: &DatabaseVerdict, observation: &Observation) -> Option<Timestamp> {
    if verdict.status != Some(false) || verdict.reason != Reason::DatabaseIsStandby {
        return None;
    }
    let now = observation.now;
    let remembered = &observation.remembered;
    // The time of a condition that was Unknown until now begins again.
    let since = match (remembered.database_ready, &remembered.refusal) {
        (Some((false, since)), Some(_)) => since.min(now),
        _ => now,
    };
    let until = since.checked_add(FAILOVER_TAKES).ok()?;
    (now < until).then_some(until)
}

fn of_reading(
    database: &ValidDatabase,
    wanted: i32,
    observation: &Observation,
    health: &Health<'_>,
    moves: bool,
) -> DatabaseVerdict {
    let endpoint = database.replicas.identity_hint();
    let read =
        |facts: &DatabaseFacts| judge_facts(database, wanted, observation, health, moves, facts);
    // The reading that an outage follows may be newer than what the status says: no reconcile need
    // have seen it.
    let last = observation.last_facts.as_ref();
    let last = last.filter(|_| observation.facts().is_none());
    let last = last.map(|(_, facts)| read(facts));
    let status = last_status(last.as_ref(), database, wanted, observation);
    let refusal = last_refusal(last, observation);
    let refusal = refusal.as_ref();
    let plain = |allows, ok, reason, message: &str| DatabaseVerdict {
        allows,
        status: ok,
        reason,
        message: message.to_owned(),
        changes_at: None,
        takes_back: false,
        facts: Some(status.clone()),
    };
    let still_refused = |refusal: &Refusal, why: &str| {
        let message = &refusal.message;
        let said = message.find(NOT_CHECKED_AGAIN).unwrap_or(message.len());
        let message = format!("{}{NOT_CHECKED_AGAIN}{why}", &message[..said]);
        plain(Allows::Nothing, Some(false), refusal.reason, &message)
    };
    let used_by = |other: &Holder| {
        let (reason, message) = shared(&endpoint, other);
        plain(Allows::Nothing, Some(false), reason, &message)
    };
    match &observation.database {
        DatabaseView::NotProbed => plain(
            Allows::Wait,
            None,
            Reason::DatabaseNotProbed,
            "the first reading of the database has not ended yet",
        ),
        // What a server said to a login of before says nothing of one that only replicas can try.
        DatabaseView::CannotRead => match (
            refusal.filter(|refusal| !is_of_the_login(refusal.reason)),
            &observation.database_shared_with,
        ) {
            (Some(refusal), _) => still_refused(
                refusal,
                "the operator cannot log in itself: name in database.monitorSecretRef a Secret with a connection string that it can use",
            ),
            (None, Some(other)) => used_by(other),
            (None, None) => plain(
                Allows::All,
                None,
                Reason::DatabaseCannotRead,
                "the operator cannot log in itself (cloud IAM, or a proxy in the pod), so heartbeats, license and checks stay unknown: name in database.monitorSecretRef a Secret with a connection string that the operator can use",
            ),
        },
        DatabaseView::Probed(Err(failure)) if failure.class == FailureClass::Definite => plain(
            Allows::Nothing,
            Some(false),
            reason_of(failure.reason),
            &failure.message,
        ),
        DatabaseView::Probed(Err(failure)) => {
            let reason = reason_of(failure.reason);
            match (refusal, &observation.database_shared_with) {
                (Some(refusal), _) => still_refused(refusal, &failure.message),
                (None, Some(other)) => used_by(other),
                // It was read before, so it can be again, or the one before it was: nothing starts
                // or changes until then.
                (None, None) if status.identity.is_some() || is_changed(observation) => {
                    plain(Allows::Nothing, None, reason, &failure.message)
                }
                (None, None) => {
                    let start = Blind::start(failure.reason, wanted, &status, observation);
                    DatabaseVerdict {
                        changes_at: start.at(),
                        ..plain(start.allows(), None, reason, &start.message(failure))
                    }
                }
            }
        }
        DatabaseView::Probed(Ok(facts)) => read(facts),
    }
}

/// What status says of a database while it cannot be read. `last`: the verdict on the last reading
/// of this process.
fn last_status(
    last: Option<&DatabaseVerdict>,
    database: &ValidDatabase,
    wanted: i32,
    observation: &Observation,
) -> DatabaseStatus {
    let status = last.and_then(|last| last.facts.clone());
    let status = DatabaseStatus {
        endpoint: Some(database.replicas.identity_hint()),
        ..status.unwrap_or_else(|| DatabaseStatus {
            served_on: observation.remembered.served_on.clone(),
            ..observation.remembered.database.clone().unwrap_or_default()
        })
    };
    DatabaseStatus {
        login: login_state(database, observation),
        unread_since: unread_since(&status, wanted, observation),
        ..status
    }
}

/// The refusal that stands while a database cannot be read.
fn last_refusal(last: Option<DatabaseVerdict>, observation: &Observation) -> Option<Refusal> {
    let found = last.filter(|last| last.status == Some(false));
    let found = found.map(|last| Refusal {
        reason: last.reason,
        message: last.message,
    });
    let refusal = found.or_else(|| observation.remembered.refusal.clone());
    // Who else uses it is known without any reading, so that is never remembered.
    refusal.filter(|refusal| refusal.reason != Reason::DatabaseShared)
}

/// Whether the first replica may start on a database that has never been read.
enum Blind {
    Now,
    At(Timestamp),
    /// Not before a reading.
    Never,
}

impl Blind {
    /// A server that answers can be read from here, once it takes logins again; one that does not
    /// may be starting. What runs already goes on, and nothing starts where nothing is wanted.
    fn start(
        reason: FailureReason,
        wanted: i32,
        status: &DatabaseStatus,
        observation: &Observation,
    ) -> Self {
        if wanted == 0 || !is_first_start(observation) {
            return Self::Now;
        }
        if answers(reason) {
            return Self::Never;
        }
        let since = status.unread_since.as_ref().map(|since| since.0);
        let since = since.unwrap_or(observation.now).min(observation.now);
        match since.checked_add(BLIND_AFTER) {
            Ok(at) if observation.now < at => Self::At(at),
            _ => Self::Now,
        }
    }

    fn at(&self) -> Option<Timestamp> {
        match self {
            Self::At(at) => Some(*at),
            Self::Now | Self::Never => None,
        }
    }

    /// Perhaps it can be seen from the pods and never from here.
    fn allows(&self) -> Allows {
        match self {
            Self::Now => Allows::One,
            Self::At(_) | Self::Never => Allows::Nothing,
        }
    }

    fn message(&self, failure: &ProbeFailure) -> String {
        let message = &failure.message;
        match self {
            Self::At(at) => {
                format!("{message}; the first replica starts without a reading at {at:.0}")
            }
            Self::Now | Self::Never => message.clone(),
        }
    }
}

/// Since when a database that was never read, and from which replicas are wanted, has not answered.
fn unread_since(status: &DatabaseStatus, wanted: i32, observation: &Observation) -> Option<Time> {
    let fails = match &observation.database {
        DatabaseView::Probed(Ok(_)) => return None,
        DatabaseView::Probed(Err(failure)) if answers(failure.reason) => return None,
        DatabaseView::Probed(Err(_)) => true,
        DatabaseView::NotProbed | DatabaseView::CannotRead => false,
    };
    if status.identity.is_some() || wanted == 0 {
        return None;
    }
    let before = no_later(status.unread_since.clone(), Time(observation.now));
    before.or_else(|| fails.then_some(Time(observation.now)))
}

/// Whether it is the server that says so, at a moment at which it lets no one in.
pub(in crate::decide) fn answers(reason: FailureReason) -> bool {
    matches!(
        reason,
        FailureReason::ServerNotReady | FailureReason::TooManyConnections
    )
}

/// Whether the database was last refused for this.
pub fn was_refused(observation: &Observation, for_: Reason) -> bool {
    let refusal = observation.remembered.refusal.as_ref();
    refusal.is_some_and(|refusal| refusal.reason == for_)
}

/// Whether a refusal is about who logs in, and how, not about the database.
fn is_of_the_login(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::DatabaseAuthenticationFailed
            | Reason::DatabasePermissionDenied
            | Reason::DatabaseParameterRefused
            | Reason::DatabaseTlsFailed
    )
}

/// Whether no replica of this cluster has ever served on the database that the spec names, as far
/// as that can be known: each of its pods names its version, and status none that has served.
pub(in crate::decide) fn has_never_served(observation: &Observation, health: &Health<'_>) -> bool {
    let remembered = &observation.remembered;
    let mut replicas = health.replicas.iter();
    let set = observation.stateful_set.as_ref();
    let seen = i32::try_from(observation.pods.len()).ok();
    // A pod that has just been made may have come up before it is seen.
    let are_all_seen = set.is_some_and(|set| set.settled && Some(set.pods) == seen);
    are_all_seen
        && remembered.database.is_some()
        && remembered.version.is_none()
        && replicas.all(|replica| {
            let has_sent = matches!(
                replica.heartbeat,
                HeartbeatState::Fresh | HeartbeatState::Stale
            );
            replica.pod.version.is_some() && !replica.pod.ready && !has_sent
        })
}

/// What is known of the login that the replicas use.
fn login_state(database: &ValidDatabase, observation: &Observation) -> Option<LoginState> {
    let before = observation.remembered.login;
    let trial = match &observation.database {
        _ if !database.is_open_to_the_operator() => return None,
        DatabaseView::NotProbed | DatabaseView::CannotRead => None,
        DatabaseView::Probed(Ok(facts)) if database.monitored => facts.login.clone(),
        DatabaseView::Probed(Err(_)) if database.monitored => None,
        DatabaseView::Probed(Ok(_)) => Some(LoginTrial::Accepted),
        DatabaseView::Probed(Err(failure)) => Some(LoginTrial::Failed(failure.clone())),
    };
    match trial {
        None => before,
        Some(LoginTrial::Accepted) => Some(LoginState::Accepted),
        Some(LoginTrial::Failed(failure)) => Some(after_failure(failure.class, before)),
    }
}

/// Whether the operator knew of a login before whether the server accepts it.
pub fn can_tell(remembered: &Remembered) -> bool {
    matches!(
        remembered.login,
        Some(LoginState::Accepted | LoginState::Refused)
    )
}

/// What a failure to log in as the replicas do says, after what was known before.
pub fn after_failure(class: FailureClass, before: Option<LoginState>) -> LoginState {
    match (class, before) {
        (FailureClass::Definite, _) => LoginState::Refused,
        (FailureClass::Unknown, before) => before.unwrap_or(LoginState::CannotTell),
    }
}

/// Replicas run on another database than the one that is wanted now, which the operator could read.
fn is_changed(observation: &Observation) -> bool {
    can_tell(&observation.remembered) && !is_first_start(observation)
}

/// The reason of `DatabaseReady` that says why a login or a reading failed.
pub fn reason_of(reason: FailureReason) -> Reason {
    match reason {
        FailureReason::Unreachable => Reason::DatabaseUnreachable,
        FailureReason::AuthenticationFailed => Reason::DatabaseAuthenticationFailed,
        FailureReason::DatabaseMissing => Reason::DatabaseMissing,
        FailureReason::PermissionDenied => Reason::DatabasePermissionDenied,
        FailureReason::TooManyConnections => Reason::DatabaseTooManyConnections,
        FailureReason::ServerNotReady => Reason::DatabaseServerNotReady,
        FailureReason::TlsFailed => Reason::DatabaseTlsFailed,
        FailureReason::ParameterRefused => Reason::DatabaseParameterRefused,
        FailureReason::NotPostgres => Reason::DatabaseNotPostgres,
        FailureReason::Standby => Reason::DatabaseIsStandby,
        FailureReason::ReadOnly => Reason::DatabaseReadOnly,
        FailureReason::MonitorElsewhere => Reason::DatabaseMonitorElsewhere,
        FailureReason::Other => Reason::DatabaseProbeFailed,
    }
}

fn judge_facts(
    database: &ValidDatabase,
    wanted: i32,
    observation: &Observation,
    health: &Health<'_>,
    moves: bool,
    facts: &DatabaseFacts,
) -> DatabaseVerdict {
    let budget = budget(wanted);
    let went_back = schema::went_back(observation, facts, health);
    let status = DatabaseStatus {
        endpoint: Some(database.replicas.identity_hint()),
        identity: Some(facts.identity.database.clone()),
        served_on: observation.remembered.served_on_after(
            facts,
            &observation.pods,
            !is_first_start(observation),
        ),
        has_served: false,
        has_workspace: has_workspace(observation, facts),
        foreign_replicas: health.is_beside_foreign(),
        server_version: Some(server_version(facts.server_version_num)),
        max_connections: i32::try_from(facts.max_connections).ok(),
        connection_budget: i32::try_from(budget).ok(),
        login: login_state(database, observation),
        unread_since: None,
        schema_before: went_back.map(|(before, _)| before.to_string()),
        changed_login: None,
        ca_expiration_time: None,
    };
    let verdict = |allows, ok, reason, message: String| DatabaseVerdict {
        allows,
        status: ok,
        reason,
        message,
        changes_at: None,
        takes_back: false,
        facts: Some(status.clone()),
    };
    let fatal = fatal(database, observation, facts);
    if let Some((reason, message)) = fatal {
        return verdict(Allows::Nothing, Some(false), reason, message);
    }
    if let Some((status, message)) = may_be_pooled(database, wanted, observation, facts) {
        let reason = Reason::DatabaseTransactionPooler;
        return verdict(Allows::Nothing, status, reason, message);
    }
    if let Some(message) = lost_tables(database, observation, facts) {
        let reason = Reason::DatabaseSchemaUnknown;
        return verdict(Allows::Nothing, None, reason, message);
    }
    if let Some((reason, message)) = in_use(database, wanted, observation, health, moves) {
        let is_certain = active_when_read(observation) > 0 && !may_be_its_own(observation, health);
        let status = is_certain.then_some(false);
        return verdict(Allows::Nothing, status, reason, message);
    }
    if let Some((reason, message)) = unsure_right(database, facts) {
        let allows = if is_first_start(observation) {
            not_understood_allows(observation, facts)
        } else {
            Allows::Nothing
        };
        return verdict(allows, None, reason, message);
    }
    if let Some(message) = not_understood(facts) {
        let allows = not_understood_allows(observation, facts);
        return verdict(allows, None, Reason::DatabaseSchemaUnknown, message);
    }
    if let Some(message) = restored(database, went_back, health) {
        return verdict(Allows::All, None, Reason::DatabaseSchemaUnknown, message);
    }
    if let Some(message) = too_few_connections(database, wanted, facts) {
        return verdict(
            Allows::All,
            Some(true),
            Reason::DatabaseConnectionBudget,
            message,
        );
    }
    verdict(
        Allows::All,
        Some(true),
        Reason::DatabaseChecksPassed,
        format!(
            "PostgreSQL {} passes every check{}",
            server_version(facts.server_version_num),
            if facts.has_version_1_certificate {
                VERSION_1_CERTIFICATE
            } else {
                ""
            }
        ),
    )
}

/// That tables which were there before are not seen any more.
fn lost_tables(
    database: &ValidDatabase,
    observation: &Observation,
    facts: &DatabaseFacts,
) -> Option<String> {
    observation.has_lost_tables(facts).then(|| format!(
        "Bytebase's tables and workspace were in {} before, and role \"{}\" does not see them now: no replica is started or replaced until it does. Perhaps a backup is being restored, the role's search_path was changed, or they were dropped. If Bytebase is to begin there as a new one, set replicas to 0, and back when all pods have ended",
        database.replicas.identity_hint(),
        database.replicas.shown_user()
    ))
}

/// That the tables have a form which this operator does not know.
fn not_understood(facts: &DatabaseFacts) -> Option<String> {
    (!facts.not_understood.is_empty()).then(|| format!(
        "Bytebase's tables here have another form than this operator knows ({}): what they hold is unknown, so nothing is scaled on it. Upgrade the operator to one that supports this Bytebase",
        facts.not_understood.join(", ")
    ))
}

/// That a backup of an older schema was restored under replicas that run. Nothing is held back for
/// that: each replica that starts migrates it.
fn restored(
    database: &ValidDatabase,
    went_back: Option<(Version, Version)>,
    health: &Health<'_>,
) -> Option<String> {
    let (before, now) = went_back.filter(|_| !health.all_run_elsewhere())?;
    Some(format!(
        "the schema in {} went back from {}.{} to {}.{} under running replicas, as when a backup is restored: they need what it lacks, and Bytebase migrates it only as it starts. Set replicas to 0, and back when all pods have ended, so that it is migrated again",
        database.replicas.identity_hint(),
        before.major,
        before.minor,
        now.major,
        now.minor
    ))
}

/// Whether there is a workspace, as far as that can be read, or else as it was.
fn has_workspace(observation: &Observation, facts: &DatabaseFacts) -> bool {
    match facts.license {
        Fact::Known(StoredLicense::Absent { .. } | StoredLicense::Present { .. }) => true,
        Fact::Known(StoredLicense::NoWorkspace) | Fact::Absent => false,
        Fact::Unknown => {
            let before = observation.remembered.database.as_ref();
            before.is_some_and(|database| database.has_workspace)
        }
    }
}

/// Whether nothing of this cluster runs or is about to.
pub fn is_first_start(observation: &Observation) -> bool {
    let set = observation.stateful_set.as_ref();
    !has_replicas(set.map(|set| set.replicas), &observation.pods)
}

/// Without heartbeats it cannot be ruled out that a replica runs already.
fn not_understood_allows(observation: &Observation, facts: &DatabaseFacts) -> Allows {
    if is_first_start(observation) && facts.heartbeats.is_unknown() {
        Allows::Nothing
    } else {
        Allows::One
    }
}
