//! How a change reaches the replicas: one pod at a time, each step only when the others carry the
//! load.
//!
//! The StatefulSet is `OnDelete`, so the StatefulSet controller never replaces a pod by itself; the
//! operator evicts one, and the controller makes it again from the current template.

use super::health::{Health, Replica, process_start};
use super::maintenance::{self, Stage};
use super::scale::{is_overdue, next_overdue};
use super::schema;
use super::verdict::{Verdict, no, yes};
use crate::api::Reason;
use crate::api::status::{HeartbeatState, RolloutStatus, RolloutWait};
use crate::contract::version::Version;
use crate::desired::drain::Template;
use crate::observation::heartbeat::DEAD_AFTER;
use crate::observation::{DatabaseFacts, Fact, Observation, RememberedRollout, StatefulSetView};
use crate::validate::ValidCluster;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::cmp::Reverse;
use std::time::Duration;

/// A rollout waits so long for one of several busy replicas to become idle. Then it ends the one
/// that runs the fewest tasks, whose drain hook waits for them.
const IDLE_PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// Where a rollout stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Pods on the current template.
    pub updated: usize,
    /// Next move.
    pub step: Step,
    /// Replicas of an older version than the schema of the database, in words.
    pub behind_schema: Option<String>,
}

/// The next move of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every pod runs the current template.
    Done,
    /// End this pod.
    Evict(Eviction),
    /// Not yet.
    Wait(Wait),
    /// It does not go on without help.
    Stalled {
        /// Reason of `RolloutComplete` and `Stalled`.
        reason: Reason,
        /// The pod that holds it up.
        pod: Option<String>,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// What a rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// In one word.
    pub for_: RolloutWait,
    /// The pod that it is about.
    pub pod: Option<String>,
    /// Tasks that this pod is running, where the wait is for them.
    pub running_tasks: Option<u64>,
    /// In words, after "waiting for".
    pub message: String,
    /// When the rollout stops waiting for it, or the requeue comes, at the latest.
    pub until: Option<Timestamp>,
}

impl Wait {
    /// For something that is about no single pod and ends by itself.
    pub fn new(for_: RolloutWait, message: impl Into<String>) -> Self {
        Self {
            for_,
            pod: None,
            running_tasks: None,
            message: message.into(),
            until: None,
        }
    }

    fn about(self, replica: &Replica<'_>) -> Self {
        Self {
            pod: Some(replica.pod.name.clone()),
            ..self
        }
    }

    fn with_tasks(self, replica: &Replica<'_>) -> Self {
        Self {
            running_tasks: replica.running_tasks,
            ..self.about(replica)
        }
    }

    /// With the moment at which it ends at the latest.
    #[must_use]
    pub fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }
}

/// One pod to end. The uid keeps an eviction from hitting a successor of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Name of the pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Why, for the event.
    pub why: String,
    /// Seconds that the pod has to end; `None`: as long as its template says.
    pub grace_seconds: Option<u32>,
    /// What keeps refusing it.
    pub refused: Option<String>,
}

/// What keeps a rollout from its next step, whatever that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What it waits for.
    pub wait: Wait,
    /// A new template is held back as well: no pod is outdated, and yet the rollout is not complete.
    pub holds_template: bool,
}

impl Rollout {
    /// A step that must not be taken now waits instead, so that status never reports one that is
    /// not taken.
    #[must_use]
    pub fn held(self, hold: Hold) -> Self {
        let step = match self.step {
            Step::Evict(_) => Step::Wait(hold.wait),
            Step::Done if hold.holds_template => Step::Wait(hold.wait),
            step => step,
        };
        Self { step, ..self }
    }

    /// A template that should stand and is not known to do so yet: no pod is outdated, and the rollout
    /// has not begun.
    #[must_use]
    pub fn unwritten(self, observation: &Observation, template: &Template) -> Self {
        let set = observation.stateful_set.as_ref();
        let changes = set.is_some_and(|set| maintenance::changes(set, template));
        if self.step != Step::Done || !changes {
            return self;
        }
        let wait = Wait::new(
            RolloutWait::StatefulSetController,
            "the new template to be written",
        );
        Self {
            step: Step::Wait(wait),
            ..self
        }
    }

    /// A downgrade that is refused: a pod that ended now would come back from the old template.
    #[must_use]
    pub fn refused(self, why: &str) -> Self {
        Self {
            step: Step::Stalled {
                reason: Reason::DowngradeRefused,
                pod: None,
                why: why.to_owned(),
            },
            behind_schema: None,
            ..self
        }
    }

    /// Of `RolloutComplete`.
    pub fn verdict(&self) -> Verdict {
        let mut verdict = match &self.step {
            Step::Done => return yes(Reason::RolloutDone, "no replica runs an old template"),
            Step::Evict(Eviction {
                pod,
                refused: Some(refused),
                ..
            }) => no(
                Reason::RolloutWaiting,
                format!("waiting for a PodDisruptionBudget to let {pod} go: {refused}"),
            ),
            Step::Evict(eviction) => no(
                Reason::RolloutProgressing,
                format!("replacing {}: {}", eviction.pod, eviction.why),
            ),
            Step::Wait(wait) => no(
                Reason::RolloutWaiting,
                format!("waiting for {}", wait.message),
            ),
            Step::Stalled { reason, why, .. } => no(*reason, why),
        };
        if let Some(behind) = &self.behind_schema {
            verdict.message = format!("{}; {behind}", verdict.message);
        }
        verdict
    }

    /// What status reports of it; `report` adds since when.
    pub fn status(&self) -> Option<RolloutStatus> {
        let (waiting_for, pod, running_tasks, deadline) = match &self.step {
            Step::Done => return None,
            Step::Evict(eviction) => {
                let waiting_for = match eviction.refused {
                    Some(_) => RolloutWait::DisruptionBudget,
                    None => RolloutWait::Eviction,
                };
                (waiting_for, Some(eviction.pod.clone()), None, None)
            }
            Step::Wait(wait) => (wait.for_, wait.pod.clone(), wait.running_tasks, wait.until),
            Step::Stalled { pod, .. } => (RolloutWait::Correction, pod.clone(), None, None),
        };
        Some(RolloutStatus {
            updated_replicas: i32::try_from(self.updated).unwrap_or(i32::MAX),
            waiting_for: Some(waiting_for),
            pod,
            running_tasks: running_tasks.and_then(|tasks| i64::try_from(tasks).ok()),
            message: self.verdict().message,
            since: None,
            deadline: deadline.map(Time),
        })
    }
}

/// Decides the next move.
pub fn step(
    cluster: &ValidCluster,
    stage: Stage,
    observation: &Observation,
    health: &Health<'_>,
) -> Rollout {
    let Some(set) = &observation.stateful_set else {
        return Rollout {
            updated: 0,
            step: Step::Done,
            behind_schema: None,
        };
    };
    let outdated: Vec<_> = health
        .replicas
        .iter()
        .filter(|replica| is_outdated(replica, set))
        .collect();
    let updated = match stage {
        // The new template does not stand yet.
        Stage::Stop => 0,
        Stage::Idle | Stage::First => health.replicas.len() - outdated.len(),
    };
    let step = if let Some(step) = maintenance::step(stage, cluster, observation, health) {
        step
    } else if !set.settled {
        Step::Wait(Wait::new(
            RolloutWait::StatefulSetController,
            "the StatefulSet controller to see the change",
        ))
    } else if outdated.is_empty() {
        Step::Done
    } else {
        refused(
            next(cluster, observation, health, set, &outdated),
            observation,
        )
    };
    Rollout {
        updated,
        step,
        behind_schema: behind_schema(observation, &outdated),
    }
}

/// Replicas that run on a schema which a newer version has changed under them. They may fail at what
/// it changed, so they are not to stay for longer than they must.
fn behind_schema(observation: &Observation, outdated: &[&Replica<'_>]) -> Option<String> {
    let schema = schema::version(observation)?;
    let behind = outdated.iter().filter(|replica| is_behind(replica, schema));
    let count = behind.count();
    let Version { major, minor, .. } = schema;
    match count {
        0 => None,
        1 => Some(format!(
            "1 replica still runs a version that is older than the schema, which is at {major}.{minor}"
        )),
        _ => Some(format!(
            "{count} replicas still run a version that is older than the schema, which is at {major}.{minor}"
        )),
    }
}

fn version_of(replica: &Replica<'_>) -> Option<Version> {
    Version::parse(replica.pod.version.as_deref()?).ok()
}

fn is_behind(replica: &Replica<'_>, schema: Version) -> bool {
    version_of(replica).is_some_and(|version| version.older_minor_than(schema))
}

/// An eviction that is refused again and again is still what comes next.
fn refused(step: Step, observation: &Observation) -> Step {
    match (step, &observation.refused_eviction) {
        (Step::Evict(eviction), Some(refusal)) if refusal.uid == eviction.uid => {
            Step::Evict(Eviction {
                refused: Some(refusal.why.clone()),
                ..eviction
            })
        }
        (step, _) => step,
    }
}

/// Whether a pod runs another template than the present one.
pub fn is_outdated(replica: &Replica<'_>, set: &StatefulSetView) -> bool {
    replica.pod.revision != set.update_revision
}

fn next(
    cluster: &ValidCluster,
    observation: &Observation,
    health: &Health<'_>,
    set: &StatefulSetView,
    outdated: &[&Replica<'_>],
) -> Step {
    if let Some(ending) = health
        .replicas
        .iter()
        .find(|replica| replica.pod.deleting || !set.covers(replica.pod.ordinal))
    {
        return overdue(observation, health).unwrap_or_else(|| Step::Wait(end_of(ending)));
    }
    if let Some(wait) = schema_migration(observation) {
        return Step::Wait(wait);
    }
    // A pod of an old, broken revision would block the rollout for ever (kubernetes#67250), and no
    // work is lost with it.
    if let Some(broken) = outdated
        .iter()
        .find(|replica| is_broken(replica, observation))
    {
        return evict(broken, "it runs an old template and is not Ready");
    }
    if let Ok(replicas) = usize::try_from(set.replicas)
        && health.replicas.len() < replicas
    {
        return Step::Wait(Wait::new(
            RolloutWait::PodCreation,
            format!("{} of {replicas} pods to exist", health.replicas.len()),
        ));
    }
    let unproven = |replica: &&Replica<'_>| !is_outdated(replica, set) && !replica.serves;
    if let Some(replica) = health.replicas.iter().find(unproven) {
        return unproven_step(
            RolloutWait::ReadyReplica,
            cluster,
            observation,
            replica,
            outdated,
        );
    }
    // It may do its work as ever, and a pod that is deleted there would stay for as long as its
    // node is away.
    if let Some(silent) = health
        .replicas
        .iter()
        .find(|replica| replica.node_is_silent())
    {
        let message = format!("{}: {}", silent.pod.name, describe(silent));
        return Step::Wait(Wait::new(RolloutWait::Node, message).about(silent));
    }
    let Some(candidate) = pick(outdated) else {
        return Step::Done;
    };
    // No work is lost with it, so no other replica need stand in: several that send no heartbeats
    // any more would wait for each other for ever.
    if candidate.given_up {
        return evict(
            candidate,
            "it runs an old template, and the metadata database has had no heartbeat of it for over a minute",
        );
    }
    // Every other one must carry the load while this one is away.
    if let Some(weak) = health
        .replicas
        .iter()
        .find(|replica| replica.pod.uid != candidate.pod.uid && !replica.serves)
    {
        let (pod, state) = (&weak.pod.name, describe(weak));
        let message = format!("{pod} to be Ready and to send heartbeats: {state}");
        let wait = Wait::new(RolloutWait::OtherReplicas, message).about(weak);
        return Step::Wait(wait.until(given_up_at(candidate, observation)));
    }
    if let Some(wait) = idle_replica(candidate, observation) {
        return Step::Wait(wait);
    }
    evict(
        candidate,
        "it runs an old template and every other replica is Ready and sends heartbeats",
    )
}

/// A busy replica is the candidate only if every outdated one is busy. It is given time to become
/// idle, by the clock of status, so that a restart of the operator begins none of it again.
///
/// Of a replica whose tasks are unknown no reading would show that it is idle now, and one that is
/// older than the schema is not to stay. Their drain hooks wait for what they run.
fn idle_replica(candidate: &Replica<'_>, observation: &Observation) -> Option<Wait> {
    let tasks = candidate.running_tasks.filter(|tasks| *tasks > 0)?;
    if schema::version(observation).is_some_and(|schema| is_behind(candidate, schema)) {
        return None;
    }
    let now = observation.now;
    let since = match &observation.remembered.rollout {
        Some(before) if before.waiting_for == RolloutWait::IdleReplica => before.since.min(now),
        // Its time was up already, and the eviction is on its way.
        Some(before) if before.ends(candidate) => return None,
        _ => now,
    };
    let until = since.checked_add(IDLE_PATIENCE).ok()?;
    let name = &candidate.pod.name;
    let message = format!(
        "a replica to be idle: all that are to be replaced run tasks. {name} runs the fewest ({tasks}) and is ended at {until:.0} if none is idle by then; it finishes its tasks first if its pod has the drain hook"
    );
    let wait = Wait::new(RolloutWait::IdleReplica, message).with_tasks(candidate);
    (now < until).then(|| wait.until(Some(until)))
}

impl RememberedRollout {
    /// Whether the operator had begun to end this pod.
    fn ends(&self, replica: &Replica<'_>) -> bool {
        match self.waiting_for {
            RolloutWait::Eviction => self.pod.as_deref() == Some(&replica.pod.name),
            // Whichever runs the fewest tasks meanwhile: the minute was over.
            RolloutWait::DisruptionBudget => true,
            _ => false,
        }
    }
}

/// A schema migration that runs, or of which is not known whether it does. The end of the pod that
/// runs it would leave it half done.
pub fn schema_migration(observation: &Observation) -> Option<Wait> {
    match &observation.facts()?.sessions {
        Some(sessions) if sessions.migration_running => Some(Wait::new(
            RolloutWait::SchemaMigration,
            "the schema migration to end (advisory lock 1002 is held): ending the pod that runs it would leave it half done",
        )),
        Some(_) => None,
        // The next reading includes the sessions.
        None => Some(Wait::new(
            RolloutWait::DatabaseReading,
            "a reading of whether a schema migration is running",
        )),
    }
}

/// A pod that should have ended by now is not waited for any longer than this: it cannot end.
const OVERDUE: SignedDuration = SignedDuration::from_mins(1);

/// A pod that does not end although its time is up: its node is lost, or its kubelet does not answer.
pub fn overdue(observation: &Observation, health: &Health<'_>) -> Option<Step> {
    let late = health.replicas.iter().find(|replica| {
        replica.pod.deleting && is_overdue(replica.pod, OVERDUE, observation.now)
    })?;
    let name = &late.pod.name;
    let trouble = late.pod.trouble.as_ref().map_or_else(
        || "its node does not say why".to_owned(),
        |trouble| trouble.message().to_owned(),
    );
    Some(Step::Stalled {
        reason: Reason::RolloutStalled,
        pod: Some(name.clone()),
        why: format!(
            "{name} should have ended and is still there: {trouble}. Nothing else is touched; bring its node back, or, once that machine is known to be off, end it by force (kubectl delete pod {name} --force --grace-period=0)"
        ),
    })
}

/// When a rollout stops waiting for a pod that does not end.
pub fn overdue_at(observation: &Observation) -> Option<Timestamp> {
    next_overdue(OVERDUE, observation)
}

/// What a rollout waits for while a pod ends. How many tasks there are is not in the message, which
/// would change with every one.
fn end_of(ending: &Replica<'_>) -> Wait {
    let name = &ending.pod.name;
    match (ending.running_tasks, ending.pod.ends_by) {
        (Some(1..), Some(by)) => {
            let message = format!(
                "{name} to finish the tasks that it runs and to end, at the latest at {by:.0}"
            );
            let wait = Wait::new(RolloutWait::Drain, message).with_tasks(ending);
            wait.until(Some(by))
        }
        (_, by) => {
            let wait = Wait::new(RolloutWait::PodEnd, format!("{name} to end"));
            wait.about(ending).until(by)
        }
    }
}

/// When a replica without a heartbeat counts as given up. Of one whose heartbeat grows old the
/// probe reports that by itself.
fn given_up_at(replica: &Replica<'_>, observation: &Observation) -> Option<Timestamp> {
    let just_after = DEAD_AFTER + Duration::from_secs(1);
    (replica.heartbeat == HeartbeatState::Missing)
        .then(|| process_start(replica.pod).checked_add(just_after).ok())
        .flatten()
        .filter(|moment| *moment > observation.now)
}

/// A replica on the new template that does not carry load yet: the rollout waits for it, and stops
/// when it takes too long.
pub fn unproven_step(
    for_: RolloutWait,
    cluster: &ValidCluster,
    observation: &Observation,
    replica: &Replica<'_>,
    outdated: &[&Replica<'_>],
) -> Step {
    let timeout = cluster.rollout.ready_timeout;
    let since = unproven_since(for_, replica, timeout, observation);
    let deadline = since.saturating_add(timeout).unwrap_or(Timestamp::MAX);
    let (pod, state) = (&replica.pod.name, describe(replica));
    // An unknown heartbeat is the operator's trouble with the database, not the pod's.
    let failed = !replica.pod.ready || replica.heartbeat != HeartbeatState::Unknown;
    if observation.now >= deadline && failed {
        let seconds = timeout.as_secs();
        let back = way_back(replica, outdated, observation);
        return Step::Stalled {
            reason: Reason::RolloutStalled,
            pod: Some(pod.clone()),
            why: format!(
                "{pod} runs the new template and is not up after {seconds} s: {state}. Nothing else is touched; correct the change or take it back{back}"
            ),
        };
    }
    let message = format!("{pod} to be Ready and to send heartbeats: {state}");
    let wait = Wait::new(for_, message).about(replica);
    Step::Wait(wait.until((observation.now < deadline).then_some(deadline)))
}

/// Since when a rollout has waited for a replica. One that was up before and is not now gets its time
/// again. Of one that is Ready and sends no heartbeats Kubernetes does not say since when, status does.
fn unproven_since(
    for_: RolloutWait,
    replica: &Replica<'_>,
    timeout: SignedDuration,
    observation: &Observation,
) -> Timestamp {
    if !replica.pod.ready {
        return replica.pod.unready_since.unwrap_or(replica.pod.created_at);
    }
    let now = observation.now;
    let before = observation.remembered.rollout.as_ref();
    let before = before.filter(|before| before.pod.as_deref() == Some(&replica.pod.name));
    match before {
        Some(before) if before.waiting_for == for_ => before.since.min(now),
        // Its time was up already.
        Some(before) if before.waiting_for == RolloutWait::Correction => {
            now.saturating_sub(timeout).unwrap_or(Timestamp::MIN)
        }
        _ => now,
    }
}

/// Whether an upgrade that does not come up can be taken back: Bytebase checks no version, and an old
/// one breaks on a schema that a newer one has changed.
fn way_back(replica: &Replica<'_>, outdated: &[&Replica<'_>], observation: &Observation) -> String {
    let Some(new) = version_of(replica) else {
        return String::new();
    };
    let versions = outdated.iter().filter_map(|replica| version_of(replica));
    let Some(old) = versions.filter(|old| old.older_minor_than(new)).min() else {
        return String::new();
    };
    match schema::version(observation) {
        Some(schema) if old.older_minor_than(schema) => {
            let Version { major, minor, .. } = schema;
            format!(
                ". The schema is at {major}.{minor} already: only a backup of the database leads back to Bytebase {old}"
            )
        }
        Some(_) => format!(". The schema has not changed, so spec.version may go back to {old}"),
        None => String::new(),
    }
}

/// What carries no load first (it could never be waited for), then idle pods, then those whose work
/// is unknown, which may be any amount, then from the highest ordinal down.
fn pick<'r, 'o>(outdated: &[&'r Replica<'o>]) -> Option<&'r Replica<'o>> {
    outdated.iter().copied().min_by_key(|replica| {
        (
            replica.serves,
            replica.running_tasks.unwrap_or(u64::MAX),
            Reverse(replica.pod.ordinal),
        )
    })
}

/// Not Ready, and at no work: a start may be in the middle of a migration, and a replica that takes
/// no requests may still run tasks, which only a readable database can rule out.
fn is_broken(replica: &Replica<'_>, observation: &Observation) -> bool {
    if replica.pod.ready || replica.node_is_silent() {
        return false;
    }
    let idle = |facts: &DatabaseFacts| match replica.running_tasks {
        Some(tasks) => tasks == 0,
        None => matches!(&facts.running_tasks, Fact::Known(tasks) if tasks.is_empty()),
    };
    replica.pod.trouble.is_some() || replica.given_up || observation.facts().is_some_and(idle)
}

fn evict(replica: &Replica<'_>, why: &str) -> Step {
    Step::Evict(Eviction {
        pod: replica.pod.name.clone(),
        uid: replica.pod.uid.clone(),
        why: why.to_owned(),
        grace_seconds: None,
        refused: None,
    })
}

/// A replica's state in a few words.
pub fn describe(replica: &Replica<'_>) -> String {
    if let Some(trouble) = &replica.pod.trouble {
        return trouble.message().to_owned();
    }
    if replica.pod.deleting {
        return match replica.running_tasks {
            Some(1..) => "ending, once it has finished the tasks that it runs".to_owned(),
            _ => "ending".to_owned(),
        };
    }
    let ready = if replica.pod.ready {
        "Ready"
    } else {
        "not Ready"
    };
    format!(
        "{ready}, heartbeat {}",
        replica.heartbeat.as_ref().to_lowercase()
    )
}
