//! A drain that the license gate cannot wait for.
//!
//! Without an HA license Bytebase fails every queued task once several replicas have been active
//! for ten minutes. The replicas that the gate has taken away, all at once, may still be finishing
//! tasks, for as long as their drains may take, and go on sending heartbeats. Half of that time is
//! left to them. Then losing their tasks is the lesser loss.
//!
//! No kubelet obeys a shorter grace period for a pod that is ending already (issue 113606 of
//! Kubernetes), so the drain hooks themselves are asked to let their replicas end.

use crate::api::status::{HeartbeatState, LicenseStatus};
use crate::decide::health::{Health, Replica};
use crate::decide::size::license::{LicenseVerdict, Licensed};
use crate::observation::{Observation, StatefulSetView, no_later};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

/// How long a replica may go on with its tasks after the gate has asked it to end.
pub const PATIENCE: SignedDuration = SignedDuration::from_mins(5);

/// What is to be done about drains that take too long.
#[derive(Debug, Default)]
pub struct Hastened {
    /// The pods whose drain hooks are asked to let their replicas end.
    pub let_go: BTreeSet<String>,
    /// When the next one is due.
    pub due_at: Option<Timestamp>,
}

/// Decides it for a license that has ended. An end that has not come yet leaves each step its whole
/// grace period.
pub fn hastened(
    observation: &Observation,
    health: &Health<'_>,
    license: &LicenseVerdict,
) -> Hastened {
    let Some(set) = &observation.stateful_set else {
        return Hastened::default();
    };
    // Bytebase skips no work as long as one replica alone is active.
    let is_alone = health.active().is_some_and(|active| active < 2);
    if health.replicas.len() < 2 || is_alone || migrates(observation) {
        return Hastened::default();
    }
    let began = began_at(observation, license);
    let drains = health
        .replicas
        .iter()
        .filter_map(|replica| Some((due_at(replica, set, began, observation.now)?, replica)));
    let (mut due, later): (Vec<_>, Vec<_>) =
        drains.partition(|(due_at, _)| *due_at <= observation.now);
    // Where the replica that was to stay no longer works, one of these does.
    let is_due = |replica: &Replica<'_>| due.iter().any(|(_, due)| due.pod.uid == replica.pod.uid);
    let mut replicas = health.replicas.iter();
    if !replicas.any(|replica| works(replica) && !is_due(replica))
        && let Some(spared) = due.iter().position(|(_, replica)| works(replica))
    {
        due.remove(spared);
    }
    let let_go = due.iter().map(|(_, replica)| replica.pod.name.clone());
    Hastened {
        let_go: let_go.collect(),
        due_at: later.iter().map(|(due_at, _)| *due_at).min(),
    }
}

/// Whether it works for all that is known. One that ends is not Ready, and works all the same.
fn works(replica: &Replica<'_>) -> bool {
    matches!(
        replica.heartbeat,
        HeartbeatState::Fresh | HeartbeatState::Unknown
    )
}

/// Since when no license has allowed several replicas, for status: while none does, and as it was
/// while that cannot be known. One that ends soon still does, although the gate is closed.
pub fn unlicensed_since(observation: &Observation, license: &LicenseVerdict) -> Option<Timestamp> {
    match license.allows {
        Licensed::Yes => None,
        Licensed::No => license.has_ended().then(|| began_at(observation, license)),
        Licensed::Unknown => no_later(observation.remembered.unlicensed_since, observation.now),
    }
}

/// Since when no license has allowed several replicas, where none does: since its end, or as status
/// has it. A moment without a license must not cut short what began to end long before.
fn began_at(observation: &Observation, license: &LicenseVerdict) -> Timestamp {
    let now = observation.now;
    let before = &observation.remembered;
    let reported = before.unlicensed_since.unwrap_or(now).min(now);
    // The gate had closed ahead of an end. The operator may have been away when that came.
    let closed_early = before.unlicensed.is_some() && before.unlicensed_since.is_none();
    match end_of(license.status.as_ref()) {
        Some(end) if end > now => reported,
        Some(end) if closed_early && end_of(before.license.as_ref()) == Some(end) => end,
        Some(end) => end.max(reported),
        None => reported,
    }
}

fn end_of(license: Option<&LicenseStatus>) -> Option<Timestamp> {
    Some(license?.expiration_time.as_ref()?.0)
}

/// Whether a replica is known to migrate the schema. The end of it in the middle of that costs more
/// than queued tasks.
fn migrates(observation: &Observation) -> bool {
    let facts = observation.facts();
    let sessions = facts.and_then(|facts| facts.sessions.as_ref());
    sessions.is_some_and(|sessions| sessions.migration_running)
}

/// When a pod that the gate has taken away has had its time. `began`: since when the license has
/// not allowed it.
fn due_at(
    replica: &Replica<'_>,
    set: &StatefulSetView,
    began: Timestamp,
    now: Timestamp,
) -> Option<Timestamp> {
    let pod = replica.pod;
    let is_up = pod.ends_by.is_some_and(|by| by <= now);
    if set.covers(pod.ordinal) || replica.node_is_silent() || is_up {
        return None;
    }
    pod.ending_since?.max(began).checked_add(PATIENCE).ok()
}
