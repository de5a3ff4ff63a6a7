//! What the state of the metadata database allows.

use super::health::Health;
use super::schema;
use crate::api::Reason;
use crate::api::status::{ChangedLogin, DatabaseStatus, HeartbeatState, LoginState};
use crate::contract::version::Version;
use crate::observation::heartbeat::{ALL_HEARD_AFTER, Freshness};
use crate::observation::{
    DatabaseFacts, DatabaseView, Fact, FailureClass, FailureReason, Heartbeat, Holder, LoginTrial,
    Observation, ProbeFailure, Refusal, Remembered, SchemaState, StoredLicense, Usage,
    has_replicas, no_later,
};
use crate::validate::ValidDatabase;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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
    /// When it changes by itself.
    pub changes_at: Option<Timestamp>,
    /// No replica may start on it, and none of this cluster has ever served there: those that were
    /// started in vain, before it could be read, are taken back.
    pub takes_back: bool,
    /// For status, without the changed login.
    facts: Option<DatabaseStatus>,
}

impl DatabaseVerdict {
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
        ..verdict
    }
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

/// What status says of a database while it cannot be read. `last`: the verdict on the last reading of
/// this process.
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
fn answers(reason: FailureReason) -> bool {
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
fn has_never_served(observation: &Observation, health: &Health<'_>) -> bool {
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
    if observation.has_lost_tables(facts) {
        return verdict(
            Allows::Nothing,
            None,
            Reason::DatabaseSchemaUnknown,
            format!(
                "Bytebase's tables and workspace were in {} before, and role \"{}\" does not see them now: no replica is started or replaced until it does. Perhaps a backup is being restored, the role's search_path was changed, or they were dropped. If Bytebase is to begin there as a new one, set replicas to 0, and back when all pods have ended",
                database.replicas.identity_hint(),
                database.replicas.shown_user()
            ),
        );
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
    if !facts.not_understood.is_empty() {
        return verdict(
            not_understood_allows(observation, facts),
            None,
            Reason::DatabaseSchemaUnknown,
            format!(
                "Bytebase's tables here have another form than this operator knows ({}): what they hold is unknown, so nothing is scaled on it. Upgrade the operator to one that supports this Bytebase",
                facts.not_understood.join(", ")
            ),
        );
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

/// Why nothing starts where it could not be found out whether a pooler in transaction mode is in
/// between: one was, when that could last be found out, which stands, or there is no replica yet.
fn may_be_pooled(
    database: &ValidDatabase,
    wanted: i32,
    observation: &Observation,
    facts: &DatabaseFacts,
) -> Option<(Option<bool>, String)> {
    let was = was_refused(observation, Reason::DatabaseTransactionPooler);
    // A monitoring login that leads to another place does not show what stands before Bytebase's,
    // and what that one once led through says nothing of now. Nothing starts where none is wanted.
    let elsewhere = database.is_read_elsewhere() && database.is_open_to_the_operator();
    let untried = match &facts.login {
        Some(LoginTrial::Accepted) => None,
        // One that could not be made from here before is not waited for.
        Some(LoginTrial::Failed(failure)) => {
            let could = answers(failure.reason) || can_tell(&observation.remembered);
            let waits = could && failure.class == FailureClass::Unknown;
            (was || (waits && is_first_start(observation))).then_some(
                "the operator's monitoring login leads to another place, and by Bytebase's own the operator cannot log in now; it tries again every few seconds",
            )
        }
        None => (was || is_first_start(observation)).then_some(
            "the operator's monitoring login leads to another place, and it has not logged in as Bytebase does yet",
        ),
    };
    let untried = untried.filter(|_| elsewhere && (was || wanted > 0));
    if facts.transaction_pooler.is_some() && untried.is_none() {
        return None;
    }
    let place = database.replicas.identity_hint();
    let why = untried.unwrap_or("it gave the operator no second session, of which each replica needs several; the operator tries again every few seconds");
    if was {
        let message = format!(
            "{place} was a pooler in transaction mode when that could last be found out. Whether it still is, is not known: {why}"
        );
        return Some((Some(false), message));
    }
    is_first_start(observation).then(|| {
        let message =
            format!("whether {place} is a pooler in transaction mode is not known: {why}");
        (None, message)
    })
}

/// Without heartbeats it cannot be ruled out that a replica runs already.
fn not_understood_allows(observation: &Observation, facts: &DatabaseFacts) -> Allows {
    if is_first_start(observation) && facts.heartbeats.is_unknown() {
        Allows::Nothing
    } else {
        Allows::One
    }
}

/// Replicas of another Bytebase that are active before the first one of this cluster: with it there
/// would be two, and Bytebase fails all queued work of two without a license that includes HA. The
/// same on a database to which running replicas are to move.
fn in_use(
    database: &ValidDatabase,
    wanted: i32,
    observation: &Observation,
    health: &Health<'_>,
    moves: bool,
) -> Option<(Reason, String)> {
    let elsewhere = moves && health.none_is_heard_here();
    let starts = elsewhere || is_first_start(observation);
    // A replica that was started before the database could be read: what has just come up, or
    // ended, may be its own.
    let blind = !moves && health.foreign > 0 && has_never_served(observation, health);
    if wanted == 0 || !(starts || blind) {
        return None;
    }
    let place = database.replicas.identity_hint();
    let what = if elsewhere {
        "the replicas move there by themselves"
    } else {
        "a replica of this cluster starts by itself"
    };
    if starts && let Some(message) = may_be_unheard(&place, what, observation) {
        return Some((Reason::DatabaseInUse, message));
    }
    let active = if starts {
        active_when_read(observation)
    } else {
        health.foreign
    };
    let (who, they) = match active {
        0 if all_are_heard(observation) => return None,
        0 => {
            let seconds = ALL_HEARD_AFTER.as_secs();
            return Some((
                Reason::DatabaseInUse,
                format!(
                    "{place} has had heartbeats before and has taken writes for less than {seconds} seconds, as far as the operator knows: another Bytebase may be active and not have sent one yet; {what} if none does"
                ),
            ));
        }
        1 => ("1 replica that does".to_owned(), "it"),
        count => (format!("{count} replicas that do"), "they"),
    };
    Some((
        Reason::DatabaseInUse,
        format!(
            "{who} not belong to this cluster, or ended less than 30 seconds ago, sent heartbeats to {place}: stop the other Bytebase; {what} 30 seconds after {they} stopped"
        ),
    ))
}

/// Whether a Bytebase that runs here would send no heartbeats, since its tables are older than those.
/// Its sessions alone show it.
pub fn is_unheard(facts: &DatabaseFacts) -> bool {
    matches!(facts.schema, SchemaState::Bytebase { .. }) && facts.heartbeats == Fact::Absent
}

/// Why a Bytebase from before heartbeats may run, whose tables the first replica would migrate under
/// it. Whose sessions these are cannot be known: any role may be its own.
fn may_be_unheard(place: &str, what: &str, observation: &Observation) -> Option<String> {
    const NAMED: usize = 3;
    let facts = observation.facts().filter(|facts| is_unheard(facts))?;
    let holds = format!(
        "{place} holds the tables of a Bytebase from before 3.14, which sends no heartbeats and shows by its sessions alone"
    );
    let Some(sessions) = &facts.sessions else {
        return Some(format!("{holds}: these are still to be read"));
    };
    let others = &sessions.others;
    let named: Vec<_> = others.iter().take(NAMED).map(String::as_str).collect();
    let more = match others.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!others.is_empty()).then(|| {
        format!(
            "{holds}, and there are sessions of {}{more}: stop the other Bytebase, and close all other sessions on this database; {what} when there are none",
            named.join(", ")
        )
    })
}

/// Whether every active replica has had the time to send a heartbeat, if there ever was one: an
/// outage makes those look ended that outlive it, and the rows of one that lasted for an hour are
/// not even read.
fn all_are_heard(observation: &Observation) -> bool {
    let was_in_use = was_refused(observation, Reason::DatabaseInUse);
    observation.facts().is_none_or(|facts| {
        let have_been_silent = match &facts.heartbeats {
            Fact::Known(rows) if rows.is_empty() && !was_in_use => facts.server_uptime,
            Fact::Known(_) => facts.writable_for,
            Fact::Absent | Fact::Unknown => return true,
        };
        have_been_silent >= ALL_HEARD_AFTER
    })
}

/// Whether nothing but time can show that no other Bytebase is active on a database which was not
/// refused before, or nothing but a trial of Bytebase's own login what stands before it: an operator
/// that has just started has not heard it for long enough, or has not made the trial.
pub fn is_heard_again(verdict: Option<&DatabaseVerdict>, observation: &Observation) -> bool {
    let remembered = &observation.remembered;
    let before = remembered.database.as_ref();
    let before = before.and_then(|database| database.identity.as_ref());
    let (Some(verdict), Some(facts)) = (verdict, observation.facts()) else {
        return false;
    };
    let awaits = match verdict.reason {
        Reason::DatabaseInUse => active_when_read(observation) == 0 && !all_are_heard(observation),
        Reason::DatabaseTransactionPooler => facts.login.is_none(),
        _ => false,
    };
    awaits
        && before == Some(&facts.identity.database)
        && remembered.refusal.is_none()
        && is_first_start(observation)
}

/// Heartbeats that were fresh when they were read. That they have grown old since then proves
/// nothing: no reading has shown whether there were others.
fn active_when_read(observation: &Observation) -> usize {
    let heartbeats = observation.facts().map(|facts| facts.heartbeats.rows());
    let read = observation.last_facts.as_ref().map(|(read, _)| *read);
    let age = |heartbeat: &Heartbeat| heartbeat.age.saturating_sub(read.unwrap_or_default());
    let ages = heartbeats.into_iter().flatten().map(age);
    ages.filter(|age| Freshness::of(*age) == Freshness::Fresh)
        .count()
}

/// Whether every heartbeat that belongs to no pod may be of a replica of this cluster that has just
/// ended: there was one, and none has gone on for longer than an ended process lingers.
fn may_be_its_own(observation: &Observation, health: &Health<'_>) -> bool {
    let was_in_use = was_refused(observation, Reason::DatabaseInUse);
    observation.stateful_set.is_some() && !was_in_use && health.foreign == 0
}

fn shared(place: &str, other: &Holder) -> (Reason, String) {
    const OWN: &str = "give this cluster a database of its own";
    let name = &other.name;
    let message = match other.usage {
        Usage::Runs => format!("{place} is already used by the BytebaseCluster {name}: {OWN}"),
        Usage::Unread => format!(
            "{place} belongs to the BytebaseCluster {name}, whose heartbeats cannot be read now: {OWN}. If that one no longer uses this database, as where this is a copy of it, delete that one, or point it to another database"
        ),
        Usage::Idle => format!(
            "{place} belongs to the BytebaseCluster {name}, which is stopped, or has no replica there yet: {OWN}. If that one no longer needs this database, delete that one, or point it to another database"
        ),
        Usage::Moves => format!(
            "{place} belongs to the BytebaseCluster {name}, which has served there. Its spec names another place now, and it keeps this database until that place has been read, leads to another database, and none of its replicas is left on this one: {OWN}, or delete that one"
        ),
    };
    (Reason::DatabaseShared, message)
}

/// Findings with which Bytebase would fail or do harm.
fn fatal(
    database: &ValidDatabase,
    observation: &Observation,
    facts: &DatabaseFacts,
) -> Option<(Reason, String)> {
    let place = database.replicas.identity_hint();
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
    if facts.read_only {
        return Some((
            Reason::DatabaseReadOnly,
            format!(
                "{place} lets Bytebase log in and write nothing (default_transaction_read_only is on; hosted PostgreSQL does that when its disk is full): free or add space there, or reset the setting of the server, the database and the role"
            ),
        ));
    }
    if facts.encoding != "UTF8" {
        return Some((
            Reason::DatabaseEncoding,
            format!(
                "{place} has the encoding {}, Bytebase needs UTF8: create the database again with ENCODING 'UTF8' TEMPLATE template0",
                facts.encoding
            ),
        ));
    }
    if facts.transaction_pooler == Some(true) {
        return Some((
            Reason::DatabaseTransactionPooler,
            format!(
                "{place} is a pooler in transaction mode, which breaks the locks and notifications that replicas coordinate by: use session mode or the server's own address"
            ),
        ));
    }
    if let Some(other) = &observation.database_shared_with {
        return Some(shared(&place, other));
    }
    if let SchemaState::Foreign { example } = &facts.schema {
        return Some((
            Reason::DatabaseForeignTables,
            format!(
                "{place} holds another application's tables (such as {example}): give Bytebase an empty database of its own"
            ),
        ));
    }
    // Where Bytebase's own tables went out of sight, another message says so.
    if let SchemaState::OffPath { schema } = &facts.schema
        && !observation.has_lost_tables(facts)
    {
        let role = database.replicas.shown_user();
        return Some((
            Reason::DatabaseForeignTables,
            format!(
                "{place} holds a table \"principal\" in the schema \"{schema}\", off the search_path of role \"{role}\": Bytebase takes the database for one of its own by that table, and then fails at each start. If the table is Bytebase's, name the schema in the search_path (ALTER ROLE \"{role}\" SET search_path = \"{schema}\"); if it is another application's, give Bytebase an empty database of its own"
            ),
        ));
    }
    // What a monitoring login finds out about another role is not certain enough for a refusal.
    if database.monitored {
        return None;
    }
    lacking_right(&place, database.replicas.shown_user(), facts)
}

/// A right that Bytebase's role seems to lack for the migration of the next version: nothing is
/// refused on it, and no pod is given up for it either. A first pod may try.
fn unsure_right(database: &ValidDatabase, facts: &DatabaseFacts) -> Option<(Reason, String)> {
    let is_bytebases = matches!(facts.schema, SchemaState::Bytebase { .. });
    if !database.monitored || !is_bytebases {
        return None;
    }
    let place = database.replicas.identity_hint();
    lacking_right(&place, database.replicas.shown_user(), facts)
}

/// A right that Bytebase's migrations need: the first, or that of the version which the next pod
/// may bring.
fn lacking_right(place: &str, role: &str, facts: &DatabaseFacts) -> Option<(Reason, String)> {
    let is_bytebases = match facts.schema {
        SchemaState::Empty => false,
        SchemaState::Bytebase { .. } => true,
        SchemaState::OffPath { .. } | SchemaState::Foreign { .. } => return None,
    };
    let message = if let Some(schema) = &facts.missing_schema {
        format!(
            "the search_path of role \"{role}\" in {place} names the schema \"{schema}\", which does not exist: create the schema (CREATE SCHEMA \"{schema}\" AUTHORIZATION \"{role}\"), or correct search_path"
        )
    } else if let Some(table) = facts.not_owned.as_ref().filter(|_| is_bytebases) {
        format!(
            "the table {table} in {place} belongs to another role, and only its owner can alter it, as migrations of Bytebase do: make role \"{role}\" the owner of all of Bytebase's tables, or a member of the role that owns them"
        )
    } else if facts.can_create {
        return None;
    } else if is_bytebases {
        format!(
            "role \"{role}\" may no longer create tables in the schema of {place} that holds Bytebase, as migrations of Bytebase do: GRANT CREATE ON that SCHEMA to it, or make it the owner"
        )
    } else {
        format!(
            "the role may not create tables in {place} (PostgreSQL 15 and later grant that to the owner only): ALTER DATABASE … OWNER TO the role, or GRANT CREATE ON SCHEMA public"
        )
    };
    Some((Reason::DatabasePermissionDenied, message))
}

/// What allows the fewest connections, if that is fewer than the wanted replicas may open.
fn too_few_connections(
    database: &ValidDatabase,
    wanted: i32,
    facts: &DatabaseFacts,
) -> Option<String> {
    let budget = budget(wanted);
    let server = facts
        .max_connections
        .saturating_sub(facts.reserved_connections);
    // A replica's pool takes at most what the server has, so a small server serves one replica; a
    // second would starve the first. Of the other limits Bytebase knows nothing.
    let needed = |knows| match (wanted, knows) {
        (..=0, _) | (1, true) => 0,
        (1, false) => POOL,
        _ => budget,
    };
    let role = database.replicas.shown_user();
    let limits = [
        (Some(server), true),
        (facts.role_connections, false),
        (facts.database_connections, false),
    ];
    let limits = limits.into_iter().enumerate();
    let limits = limits.filter_map(|(place, (limit, knows))| Some((limit?, place, knows)));
    // Of those that are too small the least; of equal ones the first.
    let (limit, place, _) = limits
        .filter(|(limit, _, knows)| *limit < needed(*knows))
        .min()?;
    let open = if wanted == 1 {
        format!("1 replica may open {POOL} connections, and twice as many during a rollout")
    } else {
        format!(
            "{wanted} replicas and one more during a rollout may open {budget} connections ({POOL} each)"
        )
    };
    Some(match place {
        0 => format!(
            "{open}, the server offers {limit}: raise max_connections to at least {}",
            budget.saturating_add(facts.reserved_connections)
        ),
        1 => format!(
            "{open}, role \"{role}\" may have {limit}: ALTER ROLE \"{role}\" CONNECTION LIMIT {budget}"
        ),
        _ => format!(
            "{open}, the database takes {limit}: ALTER DATABASE \"{}\" CONNECTION LIMIT {budget}",
            database.replicas.database
        ),
    })
}

/// Connections that the wanted replicas, and one more during a rollout, may open.
fn budget(replicas: i32) -> u32 {
    let replicas = u32::try_from(replicas).unwrap_or(0);
    POOL.saturating_mul(replicas.saturating_add(1))
}

/// `150018` is 15.18.
fn server_version(num: u32) -> String {
    format!("{}.{}", num / 10_000, num % 10_000)
}
