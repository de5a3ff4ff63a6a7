//! What the heartbeats of replicas say for too long: a replica that sends none although its pod is
//! Ready, and tasks whose replica is gone.

use crate::api::status::{HeartbeatState, StuckTasks};
use crate::contract::replica::DEAD_AFTER;
use crate::decide::database::{Allows, DatabaseVerdict};
use crate::decide::health::{Health, Replica};
use crate::decide::rollout::Rollout;
use crate::decide::rollout::step::{Eviction, Step, schema_migration};
use crate::observation::{Observation, RunningTasks, no_later};
use crate::validate::ValidCluster;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;

/// Another replica fails the tasks of one that ended within a minute and a half. What is left after
/// this long is left for longer.
const STUCK_AFTER: Duration = Duration::from_mins(2);

/// What is to be done about replicas that send no heartbeat.
#[derive(Debug, Default)]
pub struct Restart {
    /// The pod to be replaced.
    pub eviction: Option<Eviction>,
    /// When the next one is due.
    pub due_at: Option<Timestamp>,
}

/// Replaces a replica that has sent no heartbeat for longer than the user lets it: one at a time,
/// where nothing else is going on, and only while another one serves, which shows that the database
/// is no reason for it. Since when is in the status.
pub fn restart(
    cluster: &ValidCluster,
    observation: &Observation,
    health: &Health<'_>,
    database: &DatabaseVerdict,
    rollout: &Rollout,
) -> Restart {
    let Some(patience) = cluster.rollout.restart_stale_after else {
        return Restart::default();
    };
    let sends_none = |replica: &&Replica<'_>| {
        let state = replica.heartbeat;
        let sends_none = matches!(state, HeartbeatState::Stale | HeartbeatState::Missing);
        sends_none && replica.pod.is_ready()
    };
    let mut replicas = health.replicas.iter();
    let settled = replicas.all(|replica| replica.serves || sends_none(&replica))
        && rollout.step == Step::Done
        && observation.stateful_set.as_ref().is_some_and(|set| {
            set.settled && usize::try_from(set.replicas) == Ok(health.replicas.len())
        });
    let one_serves = health.replicas.iter().any(|replica| replica.serves);
    // Also on a schema that went back: whichever replica starts migrates it.
    let may_start = database.allows == Allows::All && database.status != Some(false);
    if cluster.paused || !may_start || !settled || !one_serves {
        return Restart::default();
    }
    let due = |replica: &Replica<'_>| {
        let since = observation.remembered.stale_since.get(&replica.pod.name);
        let since = since.filter(|(id, _)| *id == replica.id);
        // While the database could not be read it may have sent some.
        let since = since.map(|(_, since)| replica.sent.map_or(*since, |sent| sent.max(*since)));
        let since = no_later(since, observation.now);
        since.unwrap_or(observation.now)
    };
    let stale = health.replicas.iter().filter(sends_none);
    let Some((since, replica)) = stale
        .map(|replica| (due(replica), replica))
        .min_by_key(|(since, replica)| (*since, replica.pod.ordinal))
    else {
        return Restart::default();
    };
    let Ok(due_at) = since.checked_add(patience) else {
        return Restart::default();
    };
    if observation.now < due_at {
        return Restart {
            eviction: None,
            due_at: Some(due_at),
        };
    }
    // The end of the replica that runs it would leave it half done.
    let may_end = replica.given_up && schema_migration(observation).is_none();
    let seconds = patience.as_secs();
    Restart {
        eviction: may_end.then(|| Eviction {
            pod: replica.pod.name.clone(),
            uid: replica.pod.uid.clone(),
            why: format!(
                "its pod is Ready, and it has sent no heartbeat since {since:.0}, for longer than spec.rollout.restartStaleReplicasAfterSeconds ({seconds})"
            ),
            refused: None,
        }),
        due_at: None,
    }
}

/// Running tasks whose replica sends no heartbeat any more and that no other one has failed, which
/// is what Bytebase does with them as long as one replica works; and those that a replica which
/// does has never begun, which Bytebase leaves as they are.
pub fn stuck_tasks(observation: &Observation) -> Option<StuckTasks> {
    let facts = observation.facts()?;
    let heartbeats = facts.heartbeats.known()?;
    let age = |id: Uuid| {
        let ages = heartbeats
            .iter()
            .filter(|heartbeat| heartbeat.replica_id == id);
        ages.map(|heartbeat| heartbeat.age).min()
    };
    let is_gone = |id: Uuid| age(id).is_none_or(|age| age >= STUCK_AFTER);
    let running = facts.running_tasks.known()?.iter();
    let left = running.filter(|tasks| tasks.count > 0 && is_gone(tasks.replica_id));
    let unbegun = facts.unbegun_tasks.iter();
    let unbegun = unbegun.filter(|tasks| tasks.count > 0 && !is_gone(tasks.replica_id));
    let sum = |tasks: &[&RunningTasks]| {
        let counts = tasks.iter().map(|tasks| tasks.count);
        let count = counts.fold(0_u64, u64::saturating_add);
        i64::try_from(count).unwrap_or(i64::MAX)
    };
    let ids = |tasks: &[&RunningTasks]| {
        let ids: BTreeSet<_> = tasks
            .iter()
            .map(|tasks| tasks.replica_id.to_string())
            .collect();
        Vec::from_iter(ids)
    };
    let (left, unbegun): (Vec<_>, Vec<_>) = (left.collect(), unbegun.collect());
    (!left.is_empty() || !unbegun.is_empty()).then(|| StuckTasks {
        tasks: sum(&left),
        replica_ids: ids(&left),
        unbegun: sum(&unbegun),
        unbegun_replica_ids: ids(&unbegun),
    })
}

/// When the first tasks are stuck that are not so yet.
pub fn stuck_at(observation: &Observation) -> Option<Timestamp> {
    let facts = observation.facts()?;
    let owners = facts.running_tasks.rows().iter();
    let owners = owners.filter(|tasks| tasks.count > 0);
    let left = owners.filter_map(|tasks| {
        let mut heartbeats = facts.heartbeats.rows().iter();
        let heartbeat = heartbeats.find(|heartbeat| heartbeat.replica_id == tasks.replica_id)?;
        let is_dead = heartbeat.age > DEAD_AFTER;
        STUCK_AFTER.checked_sub(heartbeat.age).filter(|_| is_dead)
    });
    let left = left.filter(|left| !left.is_zero()).min()?;
    let left = SignedDuration::try_from(left + Duration::from_secs(1)).ok()?;
    observation.now.checked_add(left).ok()
}
