//! From what was decided and what came of it to status and notices: [`report`] writes the status,
//! has the metrics show it, and logs what is not published again. Pure functions make the rest.

mod commit;
mod memory;
#[cfg(test)]
mod tests;

pub use memory::Memory;

use crate::api::status::{
    DatabaseStatus, DrainState, HeartbeatState, OverruledObject, Phase, QueueHoldStatus,
    ReplicaStatus, RolloutStatus, RolloutWait,
};
use crate::api::{BytebaseCluster, BytebaseClusterStatus, ConditionType, Reason, Weight};
use crate::apply::event::Notice;
use crate::apply::{ApplyFailure, ECHO, FailureKind, Outcome, Writer};
use crate::contract::replica::QUEUE_LOCK;
use crate::decide::plan::{ConditionDraft, Plan, Report, Unmatched};
use crate::decide::size::haste::PATIENCE;
use crate::observation::{LOG_PATIENCE, Observation, PodView, no_later};
use crate::process::lease::NotLeading;
use crate::process::metrics::{ClusterSample, QueueSample};
use crate::process::queue::Key;
use commit::commit;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use std::ops::RangeInclusive;

/// Names of sessions in status. A hold has one or two; a database may name any number.
const MOST_HOLDERS: usize = 10;

/// Longest message the schema of a condition takes.
const LONGEST_MESSAGE: usize = 32_768;

/// Why nothing could be reported.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process leads now.
    #[error("this process no longer leads")]
    NotLeading(#[from] NotLeading),
    /// The status could not be written.
    #[error("the status could not be written: {0}")]
    Status(#[source] kube::Error),
    /// Another status stands than the one that was decided on.
    #[error("another status stands than the one that was decided on")]
    Outdated,
    /// There is no such cluster any more.
    #[error("the cluster is gone")]
    Gone,
}

/// Writes the status if it differs, and adds to `outcome` what is to be published.
pub async fn report(
    writer: &Writer,
    key: &Key,
    cluster: &BytebaseCluster,
    plan: Plan,
    observation: &Observation,
    outcome: &mut Outcome,
    memory: &mut Memory,
) -> Result<(), Error> {
    memory.forget_echoed(cluster);
    let previous = memory.last_status(cluster);
    let is_early = plan.unsettled
        || (plan.hears_again && speaks_of_now(&previous, cluster.metadata.generation));
    if is_early && outcome.failures.is_empty() {
        if !plan.unsettled {
            let unmatched = plan.report.unmatched;
            let sample = sample(cluster, &previous, &observation.pods, unmatched);
            show(writer, key, sample);
        }
        return Ok(());
    }
    // An eviction is to be reported as such.
    let is_quiet = plan.eviction.is_none() && outcome.failures.is_empty();
    if is_quiet && memory.waits_for_logs(observation) {
        outcome.requeue_after(LOG_PATIENCE);
        return Ok(());
    }
    // The objects have just been written, so the plan rests on older ones: the next reconcile
    // reports. Only once, or status would never come. But that a database has become empty is
    // reported now: a replica that starts there would hide it.
    memory.status_due = outcome.applied > 0
        && outcome.failures.is_empty()
        && !memory.status_due
        && !empties(&previous, &plan.report);
    if memory.status_due {
        outcome.requeue_after(ECHO);
        return Ok(());
    }
    let pass = observation.now..=outcome.present();
    mark_lasting(
        &mut outcome.failures,
        &previous,
        &mut memory.failing_since,
        &pass,
    );
    let unmatched = plan.report.unmatched;
    let report = with_eviction_left_out(plan.report, &outcome.withheld_for);
    let status = status(
        &previous,
        with_overruled(report, outcome.overruled.clone()),
        &outcome.failures,
        cluster.metadata.generation,
        observation.now,
    );
    let sample = sample(cluster, &status, &observation.pods, unmatched);
    show(writer, key, sample);
    if status != previous {
        let notices = notices(&previous, &status);
        commit(writer, cluster, &previous, status, memory).await?;
        outcome.writes += 1;
        let due = due(key, notices, memory, observation.now);
        outcome.notices.extend(due);
    }
    Ok(())
}

/// Whether the status speaks of this generation, counts no replica, and rests on a reading. Only
/// what a process holds in memory can have been lost since.
fn speaks_of_now(status: &BytebaseClusterStatus, generation: Option<i64>) -> bool {
    let mut conditions = status.conditions.iter();
    let database = conditions.find(|known| known.type_ == ConditionType::DatabaseReady.as_ref());
    let was_read = database.is_some_and(|database| {
        // What a reading leaves unsure.
        let unsure = [
            Reason::DatabaseSchemaUnknown,
            Reason::DatabasePermissionDenied,
        ];
        let mut unsure = unsure.iter();
        database.status == "True" || unsure.any(|reason| database.reason == reason.as_ref())
    });
    status.observed_generation == generation && status.replicas == 0 && was_read
}

/// Whether the database that held a workspace or a schema, by the status, holds none now.
fn empties(previous: &BytebaseClusterStatus, report: &Report) -> bool {
    let had = previous.database.as_ref();
    let has = report.database.as_ref();
    let workspace = |database: &DatabaseStatus| database.has_workspace;
    let loses_workspace = had.is_some_and(workspace) && !has.is_some_and(workspace);
    loses_workspace || (previous.schema_version.is_some() && report.schema_version.is_none())
}

/// Reports that the operator cannot see the objects of a cluster, so that a status of before does
/// not go on standing for the present. Returns what is to be published of it.
pub async fn report_unseen(
    writer: &Writer,
    key: &Key,
    cluster: &BytebaseCluster,
    message: &str,
    now: Timestamp,
    memory: &mut Memory,
) -> Result<Vec<Notice>, Error> {
    memory.forget_echoed(cluster);
    let previous = memory.last_status(cluster);
    let status = unseen(&previous, message, now);
    let sample = ClusterSample {
        // What was known before is not known to hold any more.
        active: None,
        stuck: None,
        ..sample(cluster, &status, &[], None)
    };
    show(writer, key, sample);
    if status == previous {
        return Ok(Vec::new());
    }
    let notices = notices(&previous, &status);
    commit(writer, cluster, &previous, status, memory).await?;
    Ok(due(key, notices, memory, now))
}

/// The notices of which an event is due. Those that repeat one are logged all the same.
fn due(key: &Key, notices: Vec<Notice>, memory: &mut Memory, now: Timestamp) -> Vec<Notice> {
    let is_due = |notice: &Notice| memory.published.is_due(notice, now);
    let (due, repeated): (Vec<_>, Vec<_>) = notices.into_iter().partition(is_due);
    for notice in &repeated {
        notice.log(key);
    }
    due
}

/// Replaces what the metrics show of a cluster.
fn show(writer: &Writer, key: &Key, sample: ClusterSample) {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    writer.metrics.set_cluster(namespace, &key.name, sample);
}

/// What the metrics show of a cluster.
fn sample(
    cluster: &BytebaseCluster,
    status: &BytebaseClusterStatus,
    pods: &[PodView],
    unmatched: Option<Unmatched>,
) -> ClusterSample {
    let count = |number: i32| u32::try_from(number).unwrap_or(0);
    // That none is active is not known where a replica whose heartbeat is unknown may have
    // sent one that was read.
    let mut replicas = status.replica_statuses.iter();
    let is_unsure = replicas.any(|replica| replica.heartbeat == HeartbeatState::Unknown)
        && unmatched.is_some_and(|unmatched| unmatched.all > unmatched.foreign);
    let active = status.active_replicas;
    let active = active.filter(|active| *active > 0 || !is_unsure);
    // Where tasks cannot be read, one that is to end may be finishing some. Of a pod on a node that
    // no longer reports status has neither.
    let draining = status.replica_statuses.iter();
    let draining = draining.filter(|replica| {
        replica.drain.is_some()
            || (replica.drains_until.is_some() && replica.running_tasks.is_none())
    });
    let draining = draining.count();
    let lacks_login = status.conditions.iter().any(|condition| {
        condition.type_ == ConditionType::DatabaseReady.as_ref()
            && condition.reason == Reason::DatabaseCannotRead.as_ref()
    });
    let conditions = status.conditions.iter().filter_map(|condition| {
        let type_: ConditionType = condition.type_.parse().ok()?;
        let status = match condition.status.as_str() {
            "True" => "True",
            "False" => "False",
            _ => "Unknown",
        };
        Some((type_.into(), status))
    });
    let expiry = status
        .license
        .as_ref()
        .and_then(|license| license.expiration_time.as_ref());
    // What is cut short is being cancelled already.
    let mut replicas = status.replica_statuses.iter();
    let drains = replicas.clone().filter(|replica| {
        replica
            .drain
            .is_some_and(|drain| drain != DrainState::CutShort)
    });
    let drain_ends = drains.filter_map(|replica| replica.drains_until.as_ref());
    let stuck = match &status.stuck_tasks {
        Some(stuck) => u64::try_from(stuck.tasks.saturating_add(stuck.unbegun)).ok(),
        // That there are none is known where tasks were read.
        None => replicas
            .any(|replica| replica.running_tasks.is_some())
            .then_some(0),
    };
    let database = status.database.as_ref();
    let ca_end = database.and_then(|database| database.ca_expiration_time.as_ref());
    ClusterSample {
        wanted: count(cluster.spec.replicas),
        target: count(status.target_replicas.unwrap_or(0)),
        ready: count(status.ready_replicas),
        active: active.map(count),
        foreign: unmatched.map(|unmatched| count(unmatched.foreign)),
        draining: u32::try_from(draining).unwrap_or(u32::MAX),
        lacks_login,
        queue: match &status.queue_hold {
            None => QueueSample::Free,
            Some(hold) if hold.overdue => QueueSample::Overdue,
            Some(_) => QueueSample::Held,
        },
        paused: cluster.spec.paused,
        stuck,
        drain_end: drain_ends.map(|end| end.0.as_second()).min(),
        ca_expiry: ca_end.map(|end| end.0.as_second()),
        license_expiry: expiry.map(|time| time.0.as_second()),
        pods: pods
            .iter()
            .map(|pod| (pod.name.clone(), pod.replica_id))
            .collect(),
        conditions: conditions.collect(),
    }
}

/// The new status. Times move only with what they speak of.
pub fn status(
    previous: &BytebaseClusterStatus,
    report: Report,
    failures: &[ApplyFailure],
    generation: Option<i64>,
    now: Timestamp,
) -> BytebaseClusterStatus {
    let Report {
        phase,
        replicas,
        ready_replicas,
        active_replicas,
        unmatched: _,
        target_replicas,
        selector,
        url,
        version,
        schema_version,
        license,
        unlicensed_since,
        database,
        replica_statuses,
        rollout,
        queue_hold,
        stuck_tasks,
        refused_call,
        overruled,
        conditions,
    } = report;
    let stalled = failures
        .iter()
        .any(|failure| failure.kind.reason().is_some());
    let is_applied = failures.is_empty() && phase != Some(Phase::Invalid);
    // Where a write failed and may succeed when it is tried again, what was decided on this spec
    // does not stand yet: the status goes on speaking of the spec before.
    let generation = if failures.is_empty() || stalled {
        generation
    } else {
        previous.observed_generation
    };
    let now = Time(now);
    BytebaseClusterStatus {
        observed_generation: generation,
        phase: if stalled { Some(Phase::Stalled) } else { phase },
        replicas,
        ready_replicas,
        active_replicas,
        target_replicas: target_replicas.or(previous.target_replicas),
        selector: selector.or_else(|| previous.selector.clone()),
        url: url.or_else(|| previous.url.clone()),
        version,
        schema_version,
        license,
        unlicensed_since: unlicensed_since.map(Time),
        database,
        replica_statuses: replica_statuses
            .into_iter()
            .map(|status| since(status, previous, &now))
            .collect(),
        rollout: rollout.map(|rollout| rollout_since(rollout, previous, &now)),
        queue_hold: queue_hold.map(|hold| queue_since(hold, previous, &now)),
        stuck_tasks,
        refused_call,
        overruled,
        conditions: with_failures(conditions, failures)
            .into_iter()
            .map(|draft| {
                let promises = draft.status == Some(true) && promises_the_spec(draft.type_);
                let generation = if promises && !is_applied {
                    Some(applied_before(previous, draft.type_))
                } else {
                    generation
                };
                condition(&draft, previous, generation, &now)
            })
            .collect(),
    }
}

/// Whether a condition that is True promises that the spec stands in the cluster. `kubectl wait`
/// believes it as soon as it is of the present generation, and asks no other condition.
fn promises_the_spec(type_: ConditionType) -> bool {
    matches!(type_, ConditionType::Ready | ConditionType::RolloutComplete)
}

/// The generation of which a condition was True before; 0, which no spec has, if it was not.
fn applied_before(previous: &BytebaseClusterStatus, type_: ConditionType) -> i64 {
    let mut before = previous.conditions.iter();
    let before = before.find(|before| before.type_ == type_.as_ref() && before.status == "True");
    before
        .and_then(|before| before.observed_generation)
        .unwrap_or(0)
}

/// The status of a cluster whose objects the operator cannot see: what was reported before is not
/// known to hold any more, and nothing was decided on the spec of now.
fn unseen(
    previous: &BytebaseClusterStatus,
    message: &str,
    now: Timestamp,
) -> BytebaseClusterStatus {
    let mut status = previous.clone();
    status.phase = Some(Phase::Stalled);
    for (type_, is_true) in [
        (ConditionType::Ready, None),
        (ConditionType::ReplicasHealthy, None),
        (ConditionType::Reconciling, Some(false)),
        (ConditionType::Stalled, Some(true)),
    ] {
        let draft = ConditionDraft::new(type_, is_true, Reason::CannotWatch, message);
        let next = condition(&draft, previous, previous.observed_generation, &Time(now));
        let name: &str = type_.as_ref();
        match status
            .conditions
            .iter_mut()
            .find(|known| known.type_ == name)
        {
            Some(known) => *known = next,
            None => status.conditions.push(next),
        }
    }
    status
}

/// Since when something has been as it is: as the status before says, else from now on.
fn carried(before: Option<Time>, now: &Time) -> Option<Time> {
    no_later(before, now.clone()).or_else(|| Some(now.clone()))
}

fn rollout_since(
    rollout: RolloutStatus,
    previous: &BytebaseClusterStatus,
    now: &Time,
) -> RolloutStatus {
    let before = previous.rollout.as_ref();
    let before = before.filter(|before| rollout.continues(before));
    RolloutStatus {
        since: carried(before.and_then(|before| before.since.clone()), now),
        ..rollout
    }
}

fn queue_since(
    hold: QueueHoldStatus,
    previous: &BytebaseClusterStatus,
    now: &Time,
) -> QueueHoldStatus {
    let before = previous.queue_hold.as_ref();
    let mut held_by = hold.held_by;
    held_by.truncate(MOST_HOLDERS);
    QueueHoldStatus {
        held_by,
        since: carried(before.and_then(|before| before.since.clone()), now),
        ..hold
    }
}

/// Bytebase deletes the row of a replica that has sent no heartbeat for an hour.
fn is_same(before: HeartbeatState, now: HeartbeatState) -> bool {
    before == now || (before == HeartbeatState::Stale && now == HeartbeatState::Missing)
}

/// A replica with the time since when its heartbeat has been as it is. What cannot be read for a
/// while begins the time of one that sends none no new one, unless it turns out that it has sent
/// some meanwhile.
fn since(status: ReplicaStatus, previous: &BytebaseClusterStatus, now: &Time) -> ReplicaStatus {
    let mut replicas = previous.replica_statuses.iter();
    let before =
        replicas.find(|before| before.pod == status.pod && before.replica_id == status.replica_id);
    let same = before.filter(|before| is_same(before.heartbeat, status.heartbeat));
    let same = same.and_then(|before| before.since.clone());
    let is_same_start = |before: &&ReplicaStatus| {
        before.replica_id.is_some() && before.container_id == status.container_id
    };
    let lacked = before.filter(is_same_start);
    let lacked = lacked.and_then(|before| before.without_heartbeat_since().cloned());
    let sends_none = matches!(
        status.heartbeat,
        HeartbeatState::Stale | HeartbeatState::Missing
    );
    // What a decision leaves there is when the last heartbeat was sent.
    let sent = status.since.as_ref().map(|sent| sent.0);
    let goes_on = lacked.clone().filter(|_| sends_none);
    let goes_on = goes_on.map(|since| Time(sent.map_or(since.0, |sent| sent.max(since.0))));
    let is_unknown = status.heartbeat == HeartbeatState::Unknown;
    ReplicaStatus {
        since: carried(same.or(goes_on), now),
        no_heartbeat_since: lacked.filter(|_| is_unknown),
        ..status
    }
}

/// A write that fails for so long is not about to succeed by itself.
const FAILING: SignedDuration = SignedDuration::from_secs(30);

/// Marks failures that were to pass and have not. `since`: since when there have been some, as far
/// as this process knows; another process may have reported them before. `pass`: from the
/// observation to now, in which a write may have been waited for all the time.
fn mark_lasting(
    failures: &mut [ApplyFailure],
    previous: &BytebaseClusterStatus,
    since: &mut Option<Timestamp>,
    pass: &RangeInclusive<Timestamp>,
) {
    let is_passing = |failure: &&mut ApplyFailure| {
        let kind = failure.kind;
        matches!(kind, FailureKind::Transient | FailureKind::Conflict)
    };
    let mut passing = failures.iter_mut().filter(is_passing).peekable();
    if passing.peek().is_none() {
        *since = None;
        return;
    }
    // A clock that was set back must not make it wait for longer.
    let before = since.unwrap_or(*pass.start());
    let since = *since.insert(before.min(*pass.start()));
    let reported = previous.conditions.iter().any(|condition| {
        condition.type_ == ConditionType::Stalled.as_ref()
            && condition.status == "True"
            && condition.reason == Reason::ApplyFailed.as_ref()
    });
    if reported || pass.end().duration_since(since) >= FAILING {
        passing.for_each(|failure| failure.kind = FailureKind::Lasting);
    }
}

/// The report without the eviction that was left out, because objects that pods are made from
/// (`missing`) do not stand.
fn with_eviction_left_out(mut report: Report, missing: &[String]) -> Report {
    let evicts = |rollout: &&mut RolloutStatus| {
        let waits = rollout.waiting_for;
        waits == Some(RolloutWait::Eviction) || waits == Some(RolloutWait::DisruptionBudget)
    };
    let rollout = report.rollout.as_mut().filter(evicts);
    let Some(rollout) = rollout.filter(|_| !missing.is_empty()) else {
        return report;
    };
    let pod = rollout.pod.as_deref().unwrap_or_default();
    let missing = missing.join(" and ");
    let message = format!("waiting for {missing} to be written before {pod} is replaced");
    rollout.waiting_for = Some(RolloutWait::StatefulSetController);
    let decided = std::mem::replace(&mut rollout.message, message.clone());
    for draft in &mut report.conditions {
        if draft.message != decided {
            continue;
        }
        draft.message.clone_from(&message);
        if draft.type_ == ConditionType::RolloutComplete {
            draft.reason = Reason::RolloutWaiting;
        }
    }
    report
}

/// What a webhook keeps otherwise than the operator writes it is a remark on a configuration that
/// is valid.
fn with_overruled(mut report: Report, overruled: Vec<OverruledObject>) -> Report {
    let remarks = overruled.iter().map(|OverruledObject { object, field }| {
        format!(
            "{object}: {field} is not what the operator writes: a webhook of the Kubernetes cluster, or the API server itself, changes it in each write. The operator leaves it so; to have it otherwise, make an exception in that webhook"
        )
    });
    let remarks = remarks.collect::<Vec<_>>().join("; ");
    let configuration = report.conditions.iter_mut().find(|draft| {
        draft.type_ == ConditionType::ConfigurationValid && draft.status == Some(true)
    });
    if let Some(draft) = configuration.filter(|_| !remarks.is_empty()) {
        if draft.reason == Reason::Valid {
            draft.reason = Reason::ValidWithWarnings;
            draft.message = remarks;
        } else {
            draft.message = format!("{}; {remarks}", draft.message);
        }
    }
    report.overruled = overruled;
    report
}

/// A refused write stalls the cluster until a user helps, whatever else was decided.
fn with_failures(
    mut drafts: Vec<ConditionDraft>,
    failures: &[ApplyFailure],
) -> Vec<ConditionDraft> {
    let lasting: Vec<_> = failures
        .iter()
        .filter_map(|failure| Some((failure.kind.reason()?, failure)))
        .collect();
    let Some((reason, _)) = lasting.first() else {
        return drafts;
    };
    let message = lasting
        .iter()
        .map(|(_, failure)| failure.message.as_str())
        .collect::<Vec<_>>()
        .join("; ");
    for draft in &mut drafts {
        match draft.type_ {
            ConditionType::Stalled => {
                *draft = ConditionDraft::new(ConditionType::Stalled, Some(true), *reason, &message);
            }
            ConditionType::Reconciling => {
                *draft = ConditionDraft::new(
                    ConditionType::Reconciling,
                    Some(false),
                    *reason,
                    "cannot go on without help: see Stalled",
                );
            }
            ConditionType::Exposed => {
                if let Some((_, failure)) = lasting.iter().find(|(_, failure)| failure.exposes) {
                    *draft = ConditionDraft::new(
                        ConditionType::Exposed,
                        Some(false),
                        Reason::IngressFailed,
                        &failure.message,
                    );
                }
            }
            _ => {}
        }
    }
    drafts
}

fn condition(
    draft: &ConditionDraft,
    previous: &BytebaseClusterStatus,
    generation: Option<i64>,
    now: &Time,
) -> Condition {
    let status = match draft.status {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let before = previous
        .conditions
        .iter()
        .find(|before| before.type_ == draft.type_.as_ref() && before.status == status);
    // It may quote a field, whose line breaks and escapes are not the operator's words.
    let mut message = draft.message.replace(char::is_control, " ");
    message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
    Condition {
        type_: draft.type_.as_ref().to_owned(),
        status: status.to_owned(),
        reason: draft.reason.as_ref().to_owned(),
        message,
        observed_generation: generation,
        last_transition_time: before
            .map_or_else(|| now.clone(), |before| before.last_transition_time.clone()),
    }
}

/// What is to be published of the way from one status to the next: each condition whose status or
/// reason changed.
pub fn notices(previous: &BytebaseClusterStatus, next: &BytebaseClusterStatus) -> Vec<Notice> {
    let conditions = next.conditions.iter();
    conditions
        .filter_map(|condition| {
            let before = previous
                .conditions
                .iter()
                .find(|before| before.type_ == condition.type_);
            let same = before.is_some_and(|before| {
                before.status == condition.status && before.reason == condition.reason
            });
            // What ends soon is reported again at each reminder.
            let reminders = [Reason::LicenseEndsSoon, Reason::CertificateEndsSoon];
            let reminder = reminders
                .iter()
                .any(|reason| condition.reason == reason.as_ref())
                && before.is_none_or(|before| reminder(before) != reminder(condition));
            let reason: Reason = condition.reason.parse().ok()?;
            let type_: ConditionType = condition.type_.parse().ok()?;
            ((!same || reminder) && worth_reporting(type_, reason, before.is_some())).then(|| {
                Notice {
                    warning: is_warning(type_, reason, next.replicas),
                    condition: Some(type_),
                    reason,
                    subject: String::new(),
                    message: condition.message.clone(),
                }
            })
        })
        .chain(queue_notice(previous, next))
        .chain(queue_overdue(previous, next))
        .chain(stuck_notices(previous, next))
        .chain(drain_notices(previous, next))
        .collect()
}

/// The part of a message that says how soon something ends; what follows may change at any time.
fn reminder(condition: &Condition) -> &str {
    let message = condition.message.as_str();
    message.split(" (until").next().unwrap_or(message)
}

/// Something that happened, beside the conditions.
fn happened(reason: Reason, message: String) -> Notice {
    Notice {
        warning: reason.weight() == Weight::Warning,
        condition: None,
        reason,
        subject: String::new(),
        message,
    }
}

/// Something that happened with the drain of one pod. Each drain of it ends at another time.
fn of_drain(replica: &ReplicaStatus, warning: bool, reason: Reason, message: String) -> Notice {
    let ends_by = replica.ends_by.as_ref().map(|by| by.0);
    Notice {
        warning,
        subject: format!("{} {:?} {ends_by:?}", replica.pod, replica.drain),
        ..happened(reason, message)
    }
}

/// The queue is held for longer than any drain hook holds it.
fn queue_overdue(previous: &BytebaseClusterStatus, next: &BytebaseClusterStatus) -> Option<Notice> {
    let is_overdue = |hold: &&QueueHoldStatus| hold.overdue;
    let hold = next.queue_hold.as_ref().filter(is_overdue)?;
    let before = previous.queue_hold.as_ref().filter(is_overdue);
    before.is_none().then(|| {
        let message = format!(
            "no queued work starts, since the queue has been held for a minute longer than a drain hook may hold it: advisory lock {QUEUE_LOCK} of the metadata database is held by {}; end that session, or whatever it belongs to",
            hold.held_by.join(", ")
        );
        happened(Reason::QueueHeldLong, message)
    })
}

/// Tasks are stuck that were not before.
fn stuck_notices(
    previous: &BytebaseClusterStatus,
    next: &BytebaseClusterStatus,
) -> impl Iterator<Item = Notice> {
    let [before, stuck] =
        [previous, next].map(|status| status.stuck_tasks.clone().unwrap_or_default());
    let are = |count| match count {
        1 => ("1 task is".to_owned(), "it"),
        count => (format!("{count} tasks are"), "them"),
    };
    let left = (stuck.tasks > 0 && before.tasks == 0).then(|| {
        let (tasks, them) = are(stuck.tasks);
        let ids = stuck.replica_ids.join(", ");
        format!(
            "{tasks} marked as running whose replica has sent no heartbeat for two minutes ({ids}): Bytebase sets {them} to FAILED as soon as a replica works, which does not mean that the replica has ended: make sure of that before you run {them} again"
        )
    });
    let unbegun = (stuck.unbegun > 0 && before.unbegun == 0).then(|| {
        let (tasks, them) = are(stuck.unbegun);
        let ids = stuck.unbegun_replica_ids.join(", ");
        format!(
            "{tasks} marked as running that a replica took over ten minutes ago and has not begun since ({ids}): Bytebase sets {them} to FAILED only after that replica has ended, and the drain of its pod waits for {them} until its time-out; delete the pod when nothing else runs there"
        )
    });
    let messages = left.into_iter().chain(unbegun);
    messages.map(|message| happened(Reason::TasksStuck, message))
}

/// Drains that have begun, or have come near their end.
fn drain_notices(
    previous: &BytebaseClusterStatus,
    next: &BytebaseClusterStatus,
) -> impl Iterator<Item = Notice> {
    next.replica_statuses.iter().filter_map(|replica| {
        let mut before = previous.replica_statuses.iter();
        let before = before.find(|before| before.pod == replica.pod);
        let was_ending = before.is_some_and(|before| before.ends_by.is_some());
        let drain = before.and_then(|before| before.drain);
        match replica.drain? {
            // Work that comes to it later begins no other drain.
            DrainState::Draining => (!was_ending).then(|| drain_began(replica)),
            DrainState::EndsSoon => {
                (drain != Some(DrainState::EndsSoon)).then(|| drain_ends_soon(replica))
            }
            DrainState::CutShort => {
                (drain != Some(DrainState::CutShort)).then(|| drain_cut(replica))
            }
            DrainState::NotReached => {
                (drain != Some(DrainState::NotReached)).then(|| drain_goes_on(replica))
            }
        }
    })
}

fn drain_began(replica: &ReplicaStatus) -> Notice {
    let pod = &replica.pod;
    let tasks = match replica.running_tasks.unwrap_or_default() {
        1 => "its running task".to_owned(),
        tasks => format!("its {tasks} running tasks"),
    };
    let message = format!(
        "{pod} was asked to end and finishes {tasks} first, {} at the latest; nothing gives it more time",
        replica.drains_until.as_ref().map_or_else(
            || "until its time is up".to_owned(),
            |until| format!("until {:.0}", until.0)
        )
    );
    of_drain(replica, false, Reason::DrainBegan, message)
}

fn drain_ends_soon(replica: &ReplicaStatus) -> Notice {
    let pod = &replica.pod;
    let tasks = match replica.running_tasks.unwrap_or_default() {
        1 => "1 task, which is".to_owned(),
        tasks => format!("{tasks} tasks, which are"),
    };
    let until = replica.drains_until.as_ref();
    let until = until.map_or_else(
        || "when its time is up".to_owned(),
        |until| format!("at {:.0}", until.0),
    );
    let message = format!(
        "{pod} still runs {tasks} cancelled {until} if not finished by then: spec.rollout.drainTimeoutSeconds gives the next pod more time"
    );
    of_drain(replica, true, Reason::DrainEndsSoon, message)
}

fn drain_cut(replica: &ReplicaStatus) -> Notice {
    let lost = match replica.running_tasks {
        Some(0) => "it runs no task".to_owned(),
        Some(1) => "the task that it still runs is cancelled then".to_owned(),
        Some(tasks) => format!("the {tasks} tasks that it still runs are cancelled then"),
        None => "what it has not finished is cancelled then".to_owned(),
    };
    let message = format!(
        "the drain hook of {} is asked to let it end at once, since the license does not allow several replicas and it has had {} minutes for its tasks: {lost}{}",
        replica.pod,
        PATIENCE.as_mins(),
        which_tasks(replica)
    );
    of_drain(replica, true, Reason::HeldBackByLicense, message)
}

/// Which tasks these are, in the database: also those that it claims after the last reading, which
/// the ids of that do not name. Of a replica that has ended status says no id any more.
fn which_tasks(replica: &ReplicaStatus) -> String {
    let id = replica.replica_id.as_ref();
    let id = id.filter(|_| replica.running_tasks != Some(0));
    id.map_or_else(String::new, |id| {
        let runs = task_runs(replica);
        format!(" ({runs}in Bytebase's table task_run: those whose replica_id is {id})")
    })
}

/// Those that are known by their ids, in words.
fn task_runs(replica: &ReplicaStatus) -> String {
    let ids: Vec<_> = replica.task_runs.iter().map(ToString::to_string).collect();
    let named = i64::try_from(ids.len()).unwrap_or(i64::MAX);
    let others = match replica.running_tasks {
        Some(tasks) if tasks > named => " and others",
        _ => "",
    };
    match ids.as_slice() {
        [] => String::new(),
        [id] => format!("task run {id}{others}; "),
        ids => format!("task runs {}{others}; ", ids.join(", ")),
    }
}

fn drain_goes_on(replica: &ReplicaStatus) -> Notice {
    let runs = match replica.running_tasks {
        Some(1) => "the task that it runs".to_owned(),
        Some(tasks) => format!("the {tasks} tasks that it runs"),
        None => "what it runs".to_owned(),
    };
    let until = replica.drains_until.as_ref();
    let until = until.map_or_else(String::new, |until| {
        format!(", until {:.0} at the latest", until.0)
    });
    let message = format!(
        "the license does not allow several replicas, and {pod} has had {minutes} minutes for its tasks, but its drain hook cannot be asked to let it end: {runs} may go on{until}, and meanwhile Bytebase may fail queued tasks",
        pod = replica.pod,
        minutes = PATIENCE.as_mins(),
    );
    of_drain(replica, true, Reason::HeldBackByLicense, message)
}

/// The queue began to be held, or is free again.
fn queue_notice(previous: &BytebaseClusterStatus, next: &BytebaseClusterStatus) -> Option<Notice> {
    let (reason, message) = match (&previous.queue_hold, &next.queue_hold) {
        (None, Some(hold)) => (
            Reason::QueueHeld,
            format!(
                "no replica promotes queued work while advisory lock {QUEUE_LOCK} is held by {}",
                hold.held_by.join(", ")
            ),
        ),
        (Some(_), None) => (
            Reason::QueueFree,
            "replicas promote queued work again".to_owned(),
        ),
        _ => return None,
    };
    Some(happened(reason, message))
}

/// `Reconciling` and `Stalled` repeat what another condition says, and the first status of a new
/// cluster is no news.
fn worth_reporting(type_: ConditionType, reason: Reason, known: bool) -> bool {
    let derived =
        matches!(type_, ConditionType::Reconciling) || matches!(reason, Reason::NotStalled);
    // Every cluster begins with an Ingress or a Service without an address and a database that was
    // not read yet.
    let derived = derived
        || matches!(
            reason,
            Reason::IngressPending | Reason::ServicePending | Reason::DatabaseNotProbed
        );
    let quiet = matches!(
        reason,
        Reason::LicenseUnknown
            | Reason::Valid
            | Reason::DatabaseChecksPassed
            | Reason::RolloutDone
            | Reason::RolloutWaiting
            | Reason::NoReplicas
            | Reason::ScaledToZero
            | Reason::InvalidConfiguration
    ) && !known;
    !derived && !quiet
}

/// A reason is warned of where it arises; other conditions repeat it.
fn is_warning(type_: ConditionType, reason: Reason, replicas: i32) -> bool {
    match type_ {
        // That something has lasted too long weighs more than what it is.
        ConditionType::Stalled => reason != Reason::NotStalled,
        ConditionType::Ready | ConditionType::Reconciling => false,
        ConditionType::ConfigurationValid
        | ConditionType::DatabaseReady
        | ConditionType::HaLicensed
        | ConditionType::ReplicasHealthy
        | ConditionType::RolloutComplete
        | ConditionType::Exposed => {
            type_ == reason.condition()
                && match reason.weight() {
                    Weight::Normal => false,
                    Weight::FirstStart => replicas > 1,
                    Weight::Warning => true,
                }
        }
    }
}
