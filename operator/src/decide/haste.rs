//! A drain that the license gate cannot wait for.
//!
//! Without an HA license Bytebase fails every queued task once several replicas have been active for
//! ten minutes. A replica that the gate has taken away may still be finishing a task, for as long as
//! its drain may take, and goes on sending heartbeats. Half of that time is left to it. Then losing
//! its task is the lesser loss.

use super::health::{Health, Replica};
use super::license::{LicenseVerdict, Licensed};
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

/// Decides it. The end of a license that has not come yet leaves each step its whole grace period.
pub fn hastened(
    license: &LicenseVerdict,
    observation: &Observation,
    health: &Health<'_>,
) -> Hastened {
    let Some(set) = &observation.stateful_set else {
        return Hastened::default();
    };
    let ends_at = license.status.as_ref();
    let ends_at = ends_at.and_then(|license| license.expiration_time.as_ref());
    let has_ended = ends_at.is_none_or(|end| end.0 <= observation.now);
    if license.allows != Licensed::No || !has_ended || health.replicas.len() < 2 {
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
                    "the license does not allow several replicas, and it has been finishing tasks for {} minutes since it began to end: what it has not finished is cancelled",
                    PATIENCE.as_mins()
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
