//! How many pods the StatefulSet has on its way from one size to another.

use crate::api::status::{ChangedLogin, RolloutWait};
use crate::decide::database::login;
use crate::decide::health::{Health, Replica, lasting_refusal};
use crate::decide::plan::Size;
use crate::decide::rollout::idle::{self, End};
use crate::decide::rollout::step::{
    Wait, describe, is_outdated, is_overdue, next_overdue, schema_migration, wait_for_end,
};
use crate::desired::template::Template;
use crate::observation::{DatabaseView, Observation, StatefulSetView};
use crate::validate::ValidCluster;
use jiff::{SignedDuration, Timestamp};
use std::cmp::Reverse;
use std::ops::Range;

/// Why a StatefulSet shrinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Haste {
    /// Fewer are wanted: each step waits for the one before.
    Orderly,
    /// The license gate is closed before the license ends: a pod that cannot end holds nothing up,
    /// since those beside it go on sending heartbeats.
    Gate,
    /// The license has ended: Bytebase fails all queued work unless one replica is left within
    /// minutes, so all others end at the same time, each with its drain.
    Ended,
}

/// A pod that Kubernetes should have ended by now is not waited for any longer than this.
const ENDING_MARGIN: SignedDuration = SignedDuration::from_secs(10);

/// The StatefulSet's next size on the way to `target`: up at once, down one replica at a time so
/// that the operator never ends two together, but for a license that has ended; a cluster that is
/// stopped needs no replica to carry on.
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
    let present = set.size();
    if waits_for(set, target, haste, observation).is_some() {
        return present;
    }
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
    if haste == Haste::Ended {
        return if set.settled {
            Size {
                start: kept(set, health),
                replicas: target,
            }
        } else {
            present
        };
    }
    let waits = ending(set, health)
        .is_some_and(|ending| haste == Haste::Orderly || !cannot_end(ending, observation));
    if waits || !set.settled {
        return present;
    }
    one_less(set, target, observation, health)
}

/// The size after one step down.
fn one_less(
    set: &StatefulSetView,
    target: i32,
    observation: &Observation,
    health: &Health<'_>,
) -> Size {
    let highest = set.start.saturating_add(set.replicas).saturating_sub(1);
    let serving = serving(set, health);
    let only_highest_serves = matches!(serving[..], [only] if only.pod.ordinal == highest);
    if only_highest_serves {
        return Size {
            start: set.start + 1,
            replicas: set.replicas - 1,
        };
    }
    // Where a size that was written by another party goes far beyond the pods that there are, no
    // step ends one before that.
    let ordinals = observation.pods.iter().map(|pod| pod.ordinal);
    let exist = ordinals.max().map_or(0, |last| last - set.start + 1);
    Size {
        replicas: exist.max(target).min(set.replicas - 1),
        ..set.size()
    }
}

/// The replica that ends, or is to: the next one is not taken beside it.
fn ending<'h, 'o>(set: &StatefulSetView, health: &'h Health<'o>) -> Option<&'h Replica<'o>> {
    let mut replicas = health.replicas.iter();
    replicas.find(|replica| replica.pod.deleting || !set.covers(replica.pod.ordinal))
}

/// The replicas of the set that serve; where none is known to, those that may.
fn serving<'h, 'o>(set: &StatefulSetView, health: &'h Health<'o>) -> Vec<&'h Replica<'o>> {
    let replicas = health.replicas.iter();
    let covered = replicas.filter(|replica| set.covers(replica.pod.ordinal));
    let certain: Vec<_> = covered.clone().filter(|replica| replica.serves).collect();
    if certain.is_empty() {
        covered.filter(|replica| replica.may_serve()).collect()
    } else {
        certain
    }
}

/// Ordinal of the one replica that is left, among those that serve: the one that is known to run
/// the most tasks, since the others have minutes for theirs.
fn kept(set: &StatefulSetView, health: &Health<'_>) -> i32 {
    let worth = |replica: &&Replica<'_>| {
        let tasks = replica.running_tasks.unwrap_or(0);
        (tasks, Reverse(replica.pod.ordinal))
    };
    let kept = serving(set, health).into_iter().max_by_key(worth);
    kept.map_or(set.start, |replica| replica.pod.ordinal)
}

/// The migration that a scale-down waits for before it takes the next step. The license gate does
/// not wait: the drain hook of the pod that runs a schema migration does.
fn waits_for(
    set: &StatefulSetView,
    target: i32,
    haste: Haste,
    observation: &Observation,
) -> Option<Wait> {
    match haste {
        Haste::Orderly if target < set.replicas => known_migration(observation),
        Haste::Orderly | Haste::Gate | Haste::Ended => None,
    }
}

/// What keeps the StatefulSet of a cluster at its present size until its time is over: the pods
/// that the next step takes away would end without finishing their tasks. `changed`: a login that
/// they may not have.
pub fn hold(
    cluster: &ValidCluster,
    template: &Template,
    changed: Option<&ChangedLogin>,
    (target, haste): (i32, Haste),
    observation: &Observation,
    health: &Health<'_>,
) -> Option<Wait> {
    let set = observation.stateful_set.as_ref()?;
    if cluster.paused || haste != Haste::Orderly || target >= set.replicas {
        return None;
    }
    if let Some(wait) = waits_for(set, target, haste, observation) {
        return Some(wait);
    }
    let in_pods = |changed| login::secret_in_pods(changed, template, observation, health);
    if let Some(wait) = changed.and_then(in_pods) {
        return Some(wait);
    }
    let covers = |replica: &Replica<'_>| set.covers(replica.pod.ordinal);
    let left = match target {
        0 => 0..0,
        // The time of the next one begins when this one has ended.
        _ if !health.replicas.iter().all(covers) => return None,
        // Also while the step cannot be taken for a moment: its time goes on.
        _ => one_less(set, target, observation, health).ordinals(),
    };
    let mut taken: Vec<_> = health.replicas.iter().collect();
    taken.retain(|replica| {
        covers(replica) && !left.contains(&replica.pod.ordinal) && !replica.pod.deleting
    });
    let takes_load = target > 0 && taken.iter().any(|replica| replica.may_serve());
    let comes_up = || comes_up(cluster, set, &left, observation, health);
    if let Some(wait) = takes_load.then(comes_up).flatten() {
        return Some(wait);
    }
    let login = changed.map_or(&set.template, |_| &template.value);
    let why = "fewer replicas are wanted, so it is ended";
    let since = |replica: &Replica<'_>| match target {
        // All end together.
        0 => idle::since(End::ScaleDown, observation),
        _ => idle::since_of(replica, observation),
    };
    idle::first_unfinished(cluster, login, taken, why, since, observation)
}

/// A replica that stays and was made a moment ago, as one is that a rollout has replaced: none that
/// serves is taken away before it is up. One that cannot be made, or does not come up, is not
/// waited for. Where no pod is made and nothing says why, its controller does not run, which would
/// have to take the other one away.
fn comes_up(
    cluster: &ValidCluster,
    set: &StatefulSetView,
    left: &Range<i32>,
    observation: &Observation,
    health: &Health<'_>,
) -> Option<Wait> {
    let replicas = health.replicas.iter();
    let stay = replicas.filter(|replica| left.contains(&replica.pod.ordinal));
    let (exist, wanted) = (stay.clone().count(), left.len());
    if exist < wanted && lasting_refusal(observation).is_none() {
        let message = format!("{exist} of {wanted} pods that are to stay to exist");
        return Some(Wait::new(RolloutWait::OtherReplicas, message));
    }
    let mut down = stay.filter(|replica| {
        !replica.may_serve() && replica.pod.trouble.is_none() && !is_outdated(replica, set)
    });
    down.find_map(|replica| {
        let timeout = cluster.rollout.ready_timeout;
        let until = replica.pod.created_at.checked_add(timeout).ok()?;
        let (pod, state) = (&replica.pod.name, describe(replica));
        let message = format!("{pod} to be Ready and to send heartbeats: {state}");
        let wait = Wait::new(RolloutWait::OtherReplicas, message).about(replica);
        (observation.now < until).then(|| wait.until(Some(until)))
    })
}

/// The end of a replica that a scale-down waits for, before its next step or as its last one.
pub fn waits_for_end(
    set: &StatefulSetView,
    target: i32,
    haste: Haste,
    health: &Health<'_>,
) -> Option<Wait> {
    let is_last = |replica: &&Replica<'_>| !set.covers(replica.pod.ordinal);
    let ending = match haste {
        Haste::Orderly if target < set.replicas => ending(set, health),
        Haste::Orderly => health.replicas.iter().find(is_last),
        Haste::Gate | Haste::Ended => None,
    };
    ending.map(wait_for_end)
}

/// Whether nothing goes on before a pod that does not end is gone. The license gate goes past it,
/// as far as it leads.
pub fn waits_for_all(set: &StatefulSetView, target: i32, haste: Haste) -> bool {
    haste == Haste::Orderly || set.replicas <= target
}

/// For how long after the last reading a migration that it found holds a scale-down up. A drain
/// hook without an answer of the database waits no longer either.
const MIGRATION_COUNTS: SignedDuration = SignedDuration::from_mins(2);

/// The schema migration that holds a scale-down up. While the database cannot be read, what was
/// read last counts for two minutes, and before the first reading one may run. A database that is
/// away for good stops no scale-down.
fn known_migration(observation: &Observation) -> Option<Wait> {
    match &observation.database {
        DatabaseView::NotProbed => Some(Wait::new(
            RolloutWait::DatabaseReading,
            "the first reading of the database",
        )),
        DatabaseView::Probed(Err(_)) => {
            let (age, last) = observation.last_facts.as_ref()?;
            let age = SignedDuration::try_from(*age).ok()?;
            let left = MIGRATION_COUNTS.saturating_sub(age);
            let migrated = last.sessions.as_ref()?.migration_running;
            (migrated && left.is_positive()).then(|| {
                let wait = Wait::new(
                    RolloutWait::SchemaMigration,
                    "the schema migration to end that ran when the database could last be read, for two minutes after that reading",
                );
                wait.until(observation.now.checked_add(left).ok())
            })
        }
        DatabaseView::CannotRead | DatabaseView::Probed(Ok(_)) => schema_migration(observation),
    }
}

/// Its node is gone, or it should have ended already.
fn cannot_end(replica: &Replica<'_>, observation: &Observation) -> bool {
    replica.node_is_silent() || is_overdue(replica.pod, ENDING_MARGIN, observation.now)
}

/// When the next step of a scale-down stops waiting for a pod that does not end.
pub fn overdue_at(observation: &Observation) -> Option<Timestamp> {
    next_overdue(ENDING_MARGIN, observation)
}
