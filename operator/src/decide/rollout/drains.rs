//! What there is to say of pods that finish their tasks before they end.

use crate::api::status::DrainState;
use crate::decide::health::{Health, Replica};
use crate::observation::{Observation, PodView};
use jiff::{SignedDuration, Timestamp};

/// A drain is near its end, at which tasks are cancelled, when so much of its time is left, or a
/// tenth of it if that is less.
const SOON: SignedDuration = SignedDuration::from_mins(5);

/// Whether a replica finishes its tasks before it ends, and how near the end of that is.
pub fn state(replica: &Replica<'_>, now: Timestamp) -> Option<DrainState> {
    if !finishes_tasks(replica) {
        return None;
    }
    let soon = ends_soon_at(replica.pod)? <= now;
    Some(if soon {
        DrainState::EndsSoon
    } else {
        DrainState::Draining
    })
}

/// Whether it is ending and runs tasks that the drain hook in its pod waits for. Without a hook
/// they are being cancelled. On a node that no longer reports nothing is known to be finished: the
/// database goes on to say that a replica runs tasks which went away with its machine.
pub fn finishes_tasks(replica: &Replica<'_>) -> bool {
    let runs_tasks = replica.running_tasks.unwrap_or(0) > 0;
    replica.pod.deleting && replica.pod.drains && runs_tasks && !replica.node_is_silent()
}

/// Until when what it still runs may go on, for status, where its drain hook is known to wait for
/// that.
pub fn until(replica: &Replica<'_>) -> Option<Timestamp> {
    let until = replica.pod.drains_until();
    until.filter(|_| !replica.node_is_silent())
}

/// What there is to say of the drain of a replica whose drain hook is to let it end at once. Not
/// every hook can be asked for that, and what was reported of it once stays: a hook that has let
/// its replica end is not there any more.
pub fn state_if_let_go(replica: &Replica<'_>, observation: &Observation) -> Option<DrainState> {
    let name = &replica.pod.name;
    let before = observation.remembered.drains.get(name);
    let asked = observation.asked.as_ref();
    let is_reached = asked.is_some_and(|asked| asked.reached.contains(name));
    let is_missed = asked.is_none_or(|asked| asked.missed.contains(name));
    let may_run_tasks = replica.running_tasks != Some(0);
    match before {
        // What it runs is being cancelled already.
        _ if !replica.pod.drains => None,
        _ if is_reached => Some(DrainState::CutShort),
        Some(DrainState::CutShort | DrainState::NotReached) => before.copied(),
        _ if is_missed && may_run_tasks => Some(DrainState::NotReached),
        _ => state(replica, observation.now),
    }
}

/// Which task runs it is cancelling, as far as the last reading says.
pub fn task_runs(replica: &Replica<'_>, observation: &Observation) -> Vec<i64> {
    let facts = observation.facts();
    let mut owners = facts.into_iter().flat_map(|facts| &facts.task_runs);
    let own = owners.find(|runs| replica.id == Some(runs.replica_id));
    own.map_or_else(Vec::new, |runs| runs.ids.clone())
}

/// When the first drain will be near its end that is not so yet.
pub fn soon_at(health: &Health<'_>, now: Timestamp) -> Option<Timestamp> {
    let mut replicas: Vec<_> = health.replicas.iter().collect();
    replicas.retain(|replica| state(replica, now) == Some(DrainState::Draining));
    let soon = replicas
        .iter()
        .filter_map(|replica| ends_soon_at(replica.pod));
    soon.min()
}

fn ends_soon_at(pod: &PodView) -> Option<Timestamp> {
    let until = pod.drains_until()?;
    let whole = until.duration_since(pod.ending_since.unwrap_or(until));
    until.checked_sub(SOON.min(whole / 10)).ok()
}
