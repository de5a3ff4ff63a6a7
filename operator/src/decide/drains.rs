//! What there is to say of pods that finish their tasks before they end.

use super::health::{Health, Replica};
use crate::api::status::DrainState;
use crate::observation::PodView;
use jiff::{SignedDuration, Timestamp};

/// A drain is near its end when so much of its time is left, or a tenth of it if that is less.
const SOON: SignedDuration = SignedDuration::from_mins(5);

/// Whether a replica finishes its tasks before it ends, and how near its end is.
pub fn state(replica: &Replica<'_>, now: Timestamp) -> Option<DrainState> {
    let pod = replica.pod;
    if !pod.deleting || replica.running_tasks.unwrap_or(0) == 0 || pod.ends_by.is_none() {
        return None;
    }
    let soon = ends_soon_at(pod).is_some_and(|soon| soon <= now);
    Some(if soon {
        DrainState::EndsSoon
    } else {
        DrainState::Draining
    })
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
    let ends_by = pod.ends_by?;
    let whole = ends_by.duration_since(pod.ending_since.unwrap_or(ends_by));
    ends_by.checked_sub(SOON.min(whole / 10)).ok()
}
