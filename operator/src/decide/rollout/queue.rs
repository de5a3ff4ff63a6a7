//! Who keeps the replicas from promoting queued work, and for how long.

use crate::api::status::QueueHoldStatus;
use crate::observation::{Observation, no_later};
use crate::validate::ValidCluster;
use jiff::{SignedDuration, Timestamp};

/// Beyond the limit of one hold a session may hold the queue for the seconds of a last reading.
const MARGIN: SignedDuration = SignedDuration::from_mins(1);

/// The hold of the queue, if there is one. Without a valid spec it is not known how long one may
/// last: one that was overdue before still is.
pub(in crate::decide) fn hold(
    cluster: Option<&ValidCluster>,
    observation: &Observation,
) -> Option<QueueHoldStatus> {
    let held_by: Vec<_> = held_by(observation).cloned().collect();
    let is_overdue = match cluster {
        Some(cluster) => overdue_at(cluster, observation).is_some_and(|at| at <= observation.now),
        None => observation.remembered.queue_overdue,
    };
    (!held_by.is_empty()).then_some(QueueHoldStatus {
        held_by,
        since: None,
        overdue: is_overdue,
    })
}

/// When the hold of the queue has lasted for longer than drain hooks hold it.
pub(in crate::decide) fn overdue_at(
    cluster: &ValidCluster,
    observation: &Observation,
) -> Option<Timestamp> {
    held_by(observation).next()?;
    let since = no_later(observation.remembered.queue_held_since, observation.now);
    let longest = cluster.rollout.hold_limit() + MARGIN;
    since.unwrap_or(observation.now).checked_add(longest).ok()
}

/// Who holds it.
pub(in crate::decide) fn held_by(observation: &Observation) -> impl Iterator<Item = &String> {
    let sessions = observation
        .facts()
        .and_then(|facts| facts.sessions.as_ref());
    sessions
        .into_iter()
        .flat_map(|sessions| &sessions.queue_held_by)
}
