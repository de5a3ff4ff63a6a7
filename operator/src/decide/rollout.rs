//! How a change reaches the replicas: one pod at a time, each step only when the others carry the
//! load.
//!
//! The StatefulSet is `OnDelete`, so the StatefulSet controller never replaces a pod by itself; the
//! operator evicts one, and the controller makes it anew from the current template.

use super::health::{DEAD_AFTER, Health, Replica, process_start};
use super::observation::{DatabaseFacts, Fact, Observation, StatefulSetView};
use crate::api::Reason;
use crate::api::status::HeartbeatState;
use crate::validate::ValidCluster;
use jiff::{SignedDuration, Timestamp};
use std::cmp::Reverse;
use std::ops::Range;
use std::time::Duration;

/// Where a roll stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Pods on the current template.
    pub updated: usize,
    /// Next move.
    pub step: Step,
}

/// The next move of a roll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every pod runs the current template.
    Done,
    /// End this pod.
    Evict(Eviction),
    /// Not yet: for what, and until when at the latest it is looked at again.
    Wait {
        /// What for.
        for_: String,
        /// When it turns into a stall.
        until: Option<Timestamp>,
    },
    /// A replaced pod did not come back.
    Stalled {
        /// Which, and in what state it is.
        why: String,
    },
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

impl Rollout {
    /// Status, reason and message of `RolloutComplete`.
    pub fn condition(&self) -> (bool, Reason, String) {
        match &self.step {
            Step::Done => (
                true,
                Reason::RolloutDone,
                "no replica runs an old template".to_owned(),
            ),
            Step::Evict(Eviction {
                pod,
                refused: Some(refused),
                ..
            }) => (
                false,
                Reason::RolloutWaiting,
                format!("waiting for a PodDisruptionBudget to let {pod} go: {refused}"),
            ),
            Step::Evict(eviction) => (
                false,
                Reason::RolloutProgressing,
                format!("replacing {}: {}", eviction.pod, eviction.why),
            ),
            Step::Wait { for_, .. } => {
                (false, Reason::RolloutWaiting, format!("waiting for {for_}"))
            }
            Step::Stalled { why } => (false, Reason::RolloutStalled, why.clone()),
        }
    }
}

/// Decides the next move.
pub fn step(cluster: &ValidCluster, observation: &Observation, health: &Health<'_>) -> Rollout {
    let Some(set) = &observation.stateful_set else {
        return Rollout {
            updated: 0,
            step: Step::Done,
        };
    };
    let outdated: Vec<_> = health
        .replicas
        .iter()
        .filter(|replica| is_outdated(replica, set))
        .collect();
    let updated = health.replicas.len() - outdated.len();
    let step = if !set.settled {
        Step::Wait {
            for_: "the StatefulSet controller to see the change".to_owned(),
            until: None,
        }
    } else if outdated.is_empty() {
        Step::Done
    } else {
        refused(
            next(cluster, observation, health, set, &outdated),
            observation,
        )
    };
    Rollout { updated, step }
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

fn is_outdated(replica: &Replica<'_>, set: &StatefulSetView) -> bool {
    replica.pod.revision != set.update_revision
}

fn next(
    cluster: &ValidCluster,
    observation: &Observation,
    health: &Health<'_>,
    set: &StatefulSetView,
    outdated: &[&Replica<'_>],
) -> Step {
    let wait = |for_: String, until| Step::Wait { for_, until };
    if let Some(ending) = health
        .replicas
        .iter()
        .find(|replica| replica.pod.deleting || !set.covers(replica.pod.ordinal))
    {
        return wait(ending_in_words(ending), None);
    }
    match observation.facts().map(|facts| &facts.sessions) {
        Some(Some(sessions)) if sessions.migration_running => return wait("the schema migration to end (advisory lock 1002 is held): ending the pod that runs it would leave it half done".to_owned(), None),
        // The next reading looks at them.
        Some(None) => return wait("a look at whether a schema migration is running".to_owned(), None),
        _ => {}
    }
    // A pod of an old, broken revision would block the roll for ever (kubernetes#67250), and nobody
    // loses anything with it.
    if let Some(broken) = outdated
        .iter()
        .find(|replica| is_broken(replica, observation))
    {
        return evict(broken, "it runs an old template and is not Ready");
    }
    if let Ok(replicas) = usize::try_from(set.replicas)
        && health.replicas.len() < replicas
    {
        return wait(
            format!("{} of {replicas} pods to exist", health.replicas.len()),
            None,
        );
    }
    let unproven =
        |replica: &&Replica<'_>| !is_outdated(replica, set) && !health.serves(replica, observation);
    if let Some(replica) = health.replicas.iter().find(unproven) {
        return unproven_step(replica, cluster.rollout.ready_timeout, observation);
    }
    // It may do its work as ever, and a pod that is told to end there would stay for as long as its
    // node is away.
    if let Some(silent) = health
        .replicas
        .iter()
        .find(|replica| replica.node_is_silent())
    {
        return wait(format!("{}: {}", silent.pod.name, describe(silent)), None);
    }
    let Some(candidate) = pick(outdated, health, observation) else {
        return Step::Done;
    };
    // Nobody loses anything with it, so nobody need stand in: several that have stopped beating
    // would wait for each other for ever.
    if candidate.given_up {
        return evict(
            candidate,
            "it runs an old template and has not beaten for over a minute",
        );
    }
    // Every other one must carry the load while this one is away.
    if let Some(weak) = health.replicas.iter().find(|replica| {
        replica.pod.uid != candidate.pod.uid && !health.serves(replica, observation)
    }) {
        return wait(
            format!(
                "{} to be Ready and beating: {}",
                weak.pod.name,
                describe(weak)
            ),
            given_up_at(candidate, observation),
        );
    }
    evict(
        candidate,
        "it runs an old template and every other replica is Ready and beating",
    )
}

/// What a rollout waits for while a pod ends. How many tasks there are is in `replicaStatuses`: a
/// message that counted them would change with every one.
fn ending_in_words(ending: &Replica<'_>) -> String {
    let name = &ending.pod.name;
    match (ending.running_tasks, ending.pod.ends_by) {
        (Some(1..), Some(by)) => {
            format!("{name} to finish the tasks that it runs and to end, at the latest at {by:.0}")
        }
        _ => format!("{name} to end"),
    }
}

/// When a replica without a heartbeat counts as given up. Of one whose beat grows old the probe
/// tells by itself.
fn given_up_at(replica: &Replica<'_>, observation: &Observation) -> Option<Timestamp> {
    let just_after = DEAD_AFTER + Duration::from_secs(1);
    (replica.heartbeat == HeartbeatState::Missing)
        .then(|| process_start(replica.pod).checked_add(just_after).ok())
        .flatten()
        .filter(|moment| *moment > observation.now)
}

/// A replica on the new template that does not carry load yet: the roll waits for it, and stops
/// when it takes too long.
fn unproven_step(
    replica: &Replica<'_>,
    timeout: SignedDuration,
    observation: &Observation,
) -> Step {
    // One that was up before and is not now gets its time anew.
    let since = replica.pod.unready_since.unwrap_or(replica.pod.created_at);
    let deadline = since.saturating_add(timeout).unwrap_or(Timestamp::MAX);
    let (pod, state) = (&replica.pod.name, describe(replica));
    // An unknown heartbeat is the operator's trouble with the database, not the pod's.
    let failed = !replica.pod.ready || replica.heartbeat != HeartbeatState::Unknown;
    if observation.now >= deadline && failed {
        let seconds = timeout.as_secs();
        return Step::Stalled {
            why: format!(
                "{pod} runs the new template and is not up after {seconds} s: {state}. Nothing else is touched; mend or take back the change"
            ),
        };
    }
    Step::Wait {
        for_: format!("{pod} to be Ready and beating: {state}"),
        until: (observation.now < deadline).then_some(deadline),
    }
}

/// What carries no load first (it could never be waited for), then idle pods, then those whose work
/// is unknown, which may be any amount, then from the highest ordinal down. Waiting until a pod's running tasks have ended belongs here.
fn pick<'r, 'o>(
    outdated: &[&'r Replica<'o>],
    health: &Health<'_>,
    observation: &Observation,
) -> Option<&'r Replica<'o>> {
    outdated.iter().copied().min_by_key(|replica| {
        (
            health.serves(replica, observation),
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

/// Which ordinals a StatefulSet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// `spec.ordinals.start`: the lowest.
    pub start: i32,
    /// `spec.replicas`: how many from there on.
    pub replicas: i32,
}

impl StatefulSetView {
    /// Its present size.
    pub fn size(&self) -> Size {
        Size {
            start: self.start,
            replicas: self.replicas,
        }
    }
}

impl Size {
    /// The ordinals themselves.
    pub fn ordinals(self) -> Range<i32> {
        self.start..self.start.saturating_add(self.replicas)
    }
}

/// Why a StatefulSet shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Fewer are wanted: each step waits for the one before.
    Orderly,
    /// The license gate is closed: a pod that cannot end holds nothing up, since those beside it
    /// go on sending heartbeats.
    Gate,
}

/// A pod that Kubernetes should have ended by now is not waited for any longer than this.
const ENDING_MARGIN: SignedDuration = SignedDuration::from_secs(10);

/// The StatefulSet's next size on the way to `target`: up at once, down one replica at a time so
/// that the operator never ends two together; a cluster that is stopped needs nobody to carry on.
///
/// The replica that is the only one to serve is kept, wherever it is: Kubernetes takes the highest
/// ordinal away, but the range of ordinals may also begin at a higher one.
pub fn next_size(
    set: &StatefulSetView,
    target: i32,
    haste: Haste,
    observation: &Observation,
    health: &Health<'_>,
) -> Size {
    let present = Size {
        start: set.start,
        replicas: set.replicas,
    };
    if target == 0 {
        return Size {
            replicas: 0,
            ..present
        };
    }
    if target >= set.replicas {
        let end = set.start.saturating_add(set.replicas);
        return Size {
            // What runs keeps its ordinal. One that stopped begins at 0 again.
            start: if set.replicas == 0 {
                0
            } else {
                end.saturating_sub(target).min(set.start).max(0)
            },
            replicas: target,
        };
    }
    let surplus = |replica: &&Replica<'_>| replica.pod.deleting || !set.covers(replica.pod.ordinal);
    let ending = health.replicas.iter().find(surplus);
    let waits = match (ending, haste) {
        (None, _) => false,
        (Some(_), Haste::Orderly) => true,
        (Some(ending), Haste::Gate) => !cannot_end(ending, observation),
    };
    if waits || !set.settled {
        return present;
    }
    let highest = set.start.saturating_add(set.replicas).saturating_sub(1);
    let mut serving = health
        .replicas
        .iter()
        .filter(|replica| set.covers(replica.pod.ordinal) && health.serves(replica, observation));
    let only_highest_serves = matches!(
        (serving.next(), serving.next()),
        (Some(one), None) if one.pod.ordinal == highest
    );
    Size {
        start: set.start + i32::from(only_highest_serves),
        replicas: set.replicas - 1,
    }
}

/// Its node is gone, or it should have ended already.
fn cannot_end(replica: &Replica<'_>, observation: &Observation) -> bool {
    let overdue = |by: Timestamp| {
        by.saturating_add(ENDING_MARGIN)
            .is_ok_and(|late| observation.now > late)
    };
    replica.node_is_silent() || replica.pod.ends_by.is_some_and(overdue)
}

/// When the next step of a scale-down stops waiting for a pod that does not end.
pub fn overdue_at(observation: &Observation) -> Option<Timestamp> {
    let late = observation.pods.iter().filter_map(|pod| {
        let margin = ENDING_MARGIN + SignedDuration::from_secs(1);
        pod.ends_by?.checked_add(margin).ok()
    });
    late.filter(|moment| *moment > observation.now).min()
}
