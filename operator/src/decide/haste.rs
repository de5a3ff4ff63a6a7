//! A drain that the license gate cannot wait for.
//!
//! Without an HA license Bytebase fails every queued task once several replicas have been active for
//! ten minutes. The replicas that the gate has taken away, all at once, may still be finishing tasks,
//! for as long as their drains may take, and go on sending heartbeats. Half of that time is left to
//! them. Then losing their tasks is the lesser loss.

use super::health::{Health, Replica};
use super::step::Eviction;
use crate::observation::{Observation, StatefulSetView};
use jiff::{SignedDuration, Timestamp};

/// How long a replica may go on with its tasks after the gate has asked it to end.
const PATIENCE: SignedDuration = SignedDuration::from_mins(5);
/// Seconds that it is given for its end then. Kubernetes counts them from the beginning of the deletion,
/// so it ends now; an older API server leaves it this long.
const GRACE_SECONDS: u32 = 60;

/// What is to be done about drains that take too long.
#[derive(Debug, Default)]
pub struct Hastened {
    /// The pod whose grace period is cut short.
    pub eviction: Option<Eviction>,
    /// When the next one is due.
    pub due_at: Option<Timestamp>,
}

/// Decides it for a license that has ended. An end that has not come yet leaves each step its whole
/// grace period.
pub fn hastened(observation: &Observation, health: &Health<'_>) -> Hastened {
    let Some(set) = &observation.stateful_set else {
        return Hastened::default();
    };
    if health.replicas.len() < 2 || migrates(observation) {
        return Hastened::default();
    }
    let mut drains: Vec<_> = health
        .replicas
        .iter()
        .filter_map(|replica| Some((due_at(replica, set, observation.now)?, replica)))
        .collect();
    drains.sort_by_key(|(due, replica)| (*due, replica.pod.ordinal));
    match drains.first() {
        None => Hastened::default(),
        Some((due, replica)) if *due <= observation.now => Hastened {
            eviction: Some(Eviction {
                pod: replica.pod.name.clone(),
                uid: replica.pod.uid.clone(),
                why: format!(
                    "the license does not allow several replicas, and it has been finishing tasks for {} minutes since it began to end: {} cancelled",
                    PATIENCE.as_mins(),
                    match replica.running_tasks {
                        Some(1) => "the task that it still runs is".to_owned(),
                        Some(tasks @ 2..) => format!("the {tasks} tasks that it still runs are"),
                        Some(0) | None => "what it has not finished is".to_owned(),
                    }
                ),
                grace_seconds: Some(GRACE_SECONDS),
                refused: None,
            }),
            due_at: None,
        },
        Some((due, _)) => Hastened {
            eviction: None,
            due_at: Some(*due),
        },
    }
}

/// Whether a replica is known to migrate the schema. The end of it in the middle of that costs more
/// than queued tasks.
fn migrates(observation: &Observation) -> bool {
    let facts = observation.facts();
    let sessions = facts.and_then(|facts| facts.sessions.as_ref());
    sessions.is_some_and(|sessions| sessions.migration_running)
}

/// When a pod that the gate has taken away has had its time.
fn due_at(replica: &Replica<'_>, set: &StatefulSetView, now: Timestamp) -> Option<Timestamp> {
    let pod = replica.pod;
    // Where its time is up already it was cut short before.
    let is_up = pod.ends_by.is_some_and(|by| by <= now);
    if set.covers(pod.ordinal) || replica.node_is_silent() || is_up {
        return None;
    }
    pod.ending_since?.checked_add(PATIENCE).ok()
}
