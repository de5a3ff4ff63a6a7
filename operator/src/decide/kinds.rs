//! Kinds that Kubernetes itself does not bring: where one is lacking, everything else stands all
//! the same, and people are told.

use super::observation::Observation;
use crate::api::Reason;
use crate::desired::{self, Kind};
use crate::validate::{Problem, ValidCluster};

/// What the spec asks for and the cluster does not know.
pub fn not_installed(cluster: &ValidCluster, observation: &Observation) -> Vec<Problem> {
    [
        ("spec.gateway", desired::http_route(cluster)),
        (
            "spec.monitoring.serviceMonitor",
            desired::service_monitor(cluster),
        ),
    ]
    .into_iter()
    .filter_map(|(field, object)| Some((field, object?.kind)))
    .filter(|(_, kind)| observation.kinds_not_installed.contains(kind))
    .map(|(field, kind)| Problem {
        field: field.to_owned(),
        reason: Reason::KindNotInstalled,
        message: message(kind),
        blocking: false,
    })
    .collect()
}

/// What to do about a kind that is lacking.
pub fn message(kind: Kind) -> String {
    let (group, plural) = kind.group_and_plural();
    let brought_by = kind.brought_by().unwrap_or("whoever brings it");
    format!(
        "this Kubernetes cluster has no {plural}.{group}: install the definitions of {brought_by}, or take the field out"
    )
}
