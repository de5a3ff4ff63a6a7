//! How a change reaches the replicas: one pod at a time, each step only when the others carry the
//! load.
//!
//! The StatefulSet is `OnDelete`, so the StatefulSet controller never replaces a pod by itself; the
//! operator evicts one, and the controller makes it again from the current template.

pub(crate) mod drains;
pub(crate) mod hold;
pub(crate) mod idle;
pub(crate) mod maintenance;
pub(crate) mod queue;
pub(crate) mod stale;
pub(crate) mod step;

use crate::api::Reason;
use crate::api::status::{HeartbeatState, RolloutStatus, RolloutWait};
use crate::contract::replica::DEAD_AFTER;
use crate::contract::version::Version;
use crate::decide::database::{DatabaseVerdict, login, reason_of, schema};
use crate::decide::health::{Health, Replica, process_start};
use crate::decide::rollout::idle::{End, has_no_process, idle_replica, is_behind};
use crate::decide::rollout::maintenance::Stage;
use crate::decide::rollout::step::{
    Eviction, Step, Wait, controllers_step, describe, is_outdated, others_step, overdue,
    schema_migration, unproven_step, wait_for_end,
};
use crate::decide::verdict::{Verdict, no, yes};
use crate::desired::template::Template;
use crate::observation::{Fact, Observation, StatefulSetView};
use crate::validate::ValidCluster;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::cmp::Reverse;
use std::time::Duration;

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

/// What keeps a rollout from its next step, whatever that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    /// What it waits for.
    pub wait: Wait,
    /// A new template is held back as well: no pod is outdated, and yet the rollout is not
    /// complete.
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

    /// A template that should stand and is not known to do so yet: no pod is outdated, and the
    /// rollout has not begun.
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
                waits_for: RolloutWait::Correction,
                pod: None,
                why: why.to_owned(),
            },
            ..self
        }
    }

    /// A rollout in which no pod is ended, and no template written, before the login is known to
    /// work.
    #[must_use]
    pub fn held_by_login(self, held: &login::Held) -> Self {
        let step = match (self.step, held) {
            // What stalls may be what the change corrects, and it is written at that time.
            (_, login::Held::Waits(wait)) if wait.until.is_some() => Step::Wait(wait.clone()),
            (stalled @ Step::Stalled { .. }, _) => stalled,
            (_, login::Held::Waits(wait)) => Step::Wait(wait.clone()),
            (_, login::Held::Refused(failure)) => Step::Stalled {
                reason: Reason::RolloutStalled,
                waits_for: RolloutWait::Correction,
                pod: None,
                why: format!(
                    "the replicas keep the login that they have, since the new one fails ({}): {}",
                    reason_of(failure.reason),
                    failure.message
                ),
            },
        };
        Self { step, ..self }
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
                format!("{}{refused}", waiting_for_budget(pod)),
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
            verdict.message += &and_behind(behind);
        }
        verdict
    }

    /// What status reports of it; `report` adds since when. A busy replica that a scale-down gives
    /// time to become idle has its clock there as well, and keeps it while something else holds the
    /// scale-down for a moment.
    pub fn status(
        &self,
        scale_down: Option<&Wait>,
        observation: &Observation,
        health: &Health<'_>,
    ) -> Option<RolloutStatus> {
        let before = observation.remembered.rollout.as_ref();
        let has_clock = before.is_some_and(|before| before.busy_since.is_some());
        // A pod that the scale-down has ended, or waits for, is not the next one that it takes.
        let busy_since = match scale_down {
            Some(wait) => {
                let step = Step::Wait(wait.clone());
                idle::busy_since(End::ScaleDown, &step, observation, health)
            }
            None => idle::busy_since(End::Rollout, &self.step, observation, health),
        };
        let is_alone = |wait| idle::is_scale_downs_alone(wait, busy_since, observation);
        let scale_down_only = busy_since.is_some() && scale_down.is_some_and(is_alone);
        let scale_down = scale_down.filter(|wait| match wait.for_ {
            RolloutWait::IdleReplica => true,
            RolloutWait::DatabaseReading
            | RolloutWait::SchemaMigration
            | RolloutWait::OtherReplicas
            | RolloutWait::SecretInPods => has_clock,
            _ => false,
        });
        // What has stalled goes on being reported, with its own clock.
        let is_stalled = matches!(self.step, Step::Stalled { .. });
        let scale_down = scale_down.filter(|_| !is_stalled);
        let message = match scale_down {
            Some(wait) => format!("the scale-down is waiting for {}", wait.message),
            None => self.verdict().message,
        };
        let scale_down = scale_down.cloned().map(Step::Wait);
        let step = scale_down.as_ref().unwrap_or(&self.step);
        let (waiting_for, pod, running_tasks, deadline) = match step {
            Step::Done => return None,
            Step::Evict(eviction) => {
                let waiting_for = match eviction.refused {
                    Some(_) => RolloutWait::DisruptionBudget,
                    None => RolloutWait::Eviction,
                };
                (waiting_for, Some(eviction.pod.clone()), None, None)
            }
            Step::Wait(wait) => (wait.for_, wait.pod.clone(), wait.running_tasks, wait.until),
            Step::Stalled { waits_for, pod, .. } => (*waits_for, pod.clone(), None, None),
        };
        Some(RolloutStatus {
            updated_replicas: i32::try_from(self.updated).unwrap_or(i32::MAX),
            waiting_for: Some(waiting_for),
            pod,
            running_tasks: running_tasks.and_then(|tasks| i64::try_from(tasks).ok()),
            message,
            since: None,
            deadline: deadline.map(Time),
            busy_since: busy_since.map(Time),
            scale_down_only,
        })
    }
}

/// Decides the next move.
pub fn step(
    cluster: &ValidCluster,
    template: &Template,
    stage: Stage,
    observation: &Observation,
    health: &Health<'_>,
    database: &DatabaseVerdict,
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
        Stage::Finish | Stage::Stop => 0,
        Stage::Idle | Stage::First => health.replicas.len() - outdated.len(),
    };
    let behind_schema = behind_schema(observation, &outdated);
    let downtime = maintenance::step(stage, cluster, template, observation, health, database);
    let step = if let Some(step) = downtime {
        step
    } else if !set.settled {
        controllers_step(
            RolloutWait::StatefulSetController,
            "the StatefulSet controller to see the change",
            cluster,
            observation,
        )
    } else if outdated.is_empty() {
        Step::Done
    } else {
        let step = next_step(cluster, observation, health, database, set, &outdated);
        refused(step, behind_schema.as_deref(), observation)
    };
    Rollout {
        updated,
        step,
        behind_schema,
    }
}

/// Replicas that run on a schema which a newer version has changed under them. They may fail at
/// what it changed, so they are not to stay for longer than they must.
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

/// Begins the message while a PodDisruptionBudget refuses the eviction of a pod.
fn waiting_for_budget(pod: &str) -> String {
    format!("waiting for a PodDisruptionBudget to let {pod} go: ")
}

/// Ends the message while replicas are behind the schema.
fn and_behind(behind: &str) -> String {
    format!("; {behind}")
}

/// An eviction that is refused again and again is still what comes next. `behind`: which replicas
/// are behind the schema.
fn refused(step: Step, behind: Option<&str>, observation: &Observation) -> Step {
    let Step::Evict(eviction) = step else {
        return step;
    };
    let refused = match &observation.refused_eviction {
        Some(refusal) => (refusal.uid == eviction.uid).then(|| refusal.why.clone()),
        None => refused_before(&eviction.pod, behind, observation),
    };
    Step::Evict(Eviction {
        refused,
        ..eviction
    })
}

/// Why this eviction was refused when status was last written: perhaps by another process of the
/// operator, and this one has not tried it often enough.
fn refused_before(pod: &str, behind: Option<&str>, observation: &Observation) -> Option<String> {
    let before = observation.remembered.rollout.as_ref()?;
    let is_same = before.waiting_for == RolloutWait::DisruptionBudget;
    let is_same = is_same && before.pod.as_deref() == Some(pod);
    let message = is_same.then_some(before.message.as_str())?;
    let behind = behind.map(and_behind).unwrap_or_default();
    let message = message.strip_suffix(&behind).unwrap_or(message);
    let why = message.strip_prefix(&waiting_for_budget(pod))?;
    Some(why.to_owned())
}

fn next_step(
    cluster: &ValidCluster,
    observation: &Observation,
    health: &Health<'_>,
    database: &DatabaseVerdict,
    set: &StatefulSetView,
    outdated: &[&Replica<'_>],
) -> Step {
    if let Some(ending) = health
        .replicas
        .iter()
        .find(|replica| replica.pod.deleting || !set.covers(replica.pod.ordinal))
    {
        return overdue(observation, health).unwrap_or_else(|| Step::Wait(wait_for_end(ending)));
    }
    if let Some(wait) = schema_migration(observation) {
        return Step::Wait(wait);
    }
    // A pod of an old, broken revision would block the rollout for ever (kubernetes#67250), and no
    // work is lost with it.
    if let Some(broken) = outdated.iter().find(|replica| has_no_process(replica)) {
        return evict(broken, "it runs an old template and does not come up");
    }
    if let Ok(replicas) = usize::try_from(set.replicas)
        && health.replicas.len() < replicas
    {
        let message = format!("{} of {replicas} pods to exist", health.replicas.len());
        return controllers_step(RolloutWait::PodCreation, &message, cluster, observation);
    }
    // A replica that is not Ready only for a moment must not come back from a template on which no
    // pod comes up.
    let fails = |replica: &Replica<'_>| !is_outdated(replica, set) && !replica.may_serve();
    let is_broken = |replica: &&&Replica<'_>| is_broken(replica, observation);
    if let Some(broken) = outdated.iter().find(is_broken)
        && !health.replicas.iter().any(fails)
    {
        return evict(broken, "it runs an old template and is not Ready");
    }
    let unproven = |replica: &&Replica<'_>| !is_outdated(replica, set) && !replica.serves;
    if let Some(replica) = health.replicas.iter().find(unproven) {
        return unproven_step(
            RolloutWait::ReadyReplica,
            cluster,
            observation,
            database,
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
    // Every other one must carry the load while this one is away. What runs on the database that is
    // being left carries its load there.
    let stands_in =
        |replica: &Replica<'_>| replica.serves || (replica.elsewhere && replica.may_serve());
    let is_weak =
        |replica: &&Replica<'_>| replica.pod.uid != candidate.pod.uid && !stands_in(replica);
    let weak: Vec<_> = health.replicas.iter().filter(is_weak).collect();
    let load_ends_at = load_ends_at(candidate, cluster, observation);
    if load_ends_at.is_none_or(|moment| moment > observation.now)
        && let Some(step) = others_step(cluster, observation, database, &weak, load_ends_at)
    {
        return step;
    }
    if let Some(wait) = idle_replica(cluster, candidate, observation) {
        return Step::Wait(wait);
    }
    let why = if weak.is_empty() {
        "it runs an old template and every other replica is Ready and sends heartbeats"
    } else {
        "it runs an old template and is not Ready"
    };
    evict(candidate, why)
}

/// From when on no other replica need stand in for this one; `None` where that is not known. A pod
/// that is not Ready gets no requests, so none are lost with it, and it may be one of several that
/// wait for the same correction. What it runs is given time by itself. But where no reading shows
/// that no schema migration runs, its start may be in the middle of one: it has the time to come up
/// that every replica has, unless something is known to be wrong with it.
fn load_ends_at(
    candidate: &Replica<'_>,
    cluster: &ValidCluster,
    observation: &Observation,
) -> Option<Timestamp> {
    let pod = candidate.pod;
    let is_read = observation.facts().is_some() && !candidate.elsewhere;
    if pod.ready {
        return given_up_at(candidate, observation);
    }
    if pod.trouble.is_some() || is_read {
        return Some(observation.now);
    }
    let since = pod.unready_since.unwrap_or(pod.created_at);
    let timeout = cluster.rollout.ready_timeout;
    Some(since.saturating_add(timeout).unwrap_or(Timestamp::MAX))
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

/// What carries no load first (it could never be waited for), of that what gets no requests, then
/// idle pods, then those whose work is unknown, which may be any amount, then from the highest
/// ordinal down.
fn pick<'r, 'o>(outdated: &[&'r Replica<'o>]) -> Option<&'r Replica<'o>> {
    outdated.iter().copied().min_by_key(|replica| {
        (
            replica.serves,
            replica.pod.ready && !replica.given_up,
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
    let is_idle = || match replica.running_tasks {
        _ if replica.elsewhere => false,
        Some(tasks) => observation.facts().is_some() && tasks == 0,
        None => observation.facts().is_some_and(
            |facts| matches!(&facts.running_tasks, Fact::Known(tasks) if tasks.is_empty()),
        ),
    };
    replica.given_up || is_idle()
}

fn evict(replica: &Replica<'_>, why: &str) -> Step {
    Step::Evict(Eviction {
        pod: replica.pod.name.clone(),
        uid: replica.pod.uid.clone(),
        why: why.to_owned(),
        refused: None,
    })
}
