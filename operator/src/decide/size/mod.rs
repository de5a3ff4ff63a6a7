//! How many replicas run: what the license, the database and the spec allow, and the steps from one
//! size to another.

pub(crate) mod haste;
pub(crate) mod license;
pub(crate) mod replicas;
pub(crate) mod scale;

use super::Settings;
use crate::observation::{Observation, StatefulSetView};
use crate::validate::ValidCluster;
use jiff::SignedDuration;
use license::LicenseVerdict;
use scale::Haste;

/// Beside the grace period of a pod, one step of a scale-down takes so long: the StatefulSet's
/// controller and the next reading of the database.
const STEP_MARGIN: SignedDuration = SignedDuration::from_secs(15);

/// What is taken back, to none, is no matter of the license.
pub fn haste_to(target: i32, cluster: &ValidCluster, license: &LicenseVerdict) -> Haste {
    match target {
        0 => Haste::Orderly,
        _ => replicas::haste(cluster.replicas, cluster.license.enforcement, license),
    }
}

/// Pods without a StatefulSet are taken over by the one that is made.
pub fn running(observation: &Observation) -> i32 {
    let set = observation.stateful_set.as_ref();
    let highest = observation.pods.iter().map(|pod| pod.ordinal).max();
    let orphaned = highest.map_or(0, |highest| highest.saturating_add(1));
    set.map_or(orphaned, |set| set.replicas)
}

/// How long before its end a license stops counting for a cluster of this size: the operator's
/// interval, and as long as it takes to go down to one replica step by step, after a pod that may
/// be ending for another reason. By the wanted size, not the present one, or each step would open
/// the gate again.
pub fn guard(settings: &Settings, size: i32, observation: &Observation) -> SignedDuration {
    // A pod that runs keeps the grace period that it was made with.
    let pods = observation.pods.iter().filter_map(|pod| pod.grace);
    let set = observation.stateful_set.as_ref();
    let grace = pods.chain(set.map(StatefulSetView::grace)).max();
    let step = grace.unwrap_or_default().saturating_add(STEP_MARGIN);
    let steps = if size > 1 { size } else { 0 };
    step.checked_mul(steps)
        .and_then(|steps| settings.license_guard.checked_add(steps))
        .unwrap_or(SignedDuration::MAX)
}
