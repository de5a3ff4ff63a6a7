//! The PodDisruptionBudget: drains of nodes take one replica at a time, like the operator itself.

use super::{DesiredObject, metadata, selector};
use crate::kubernetes::Kind;
use crate::validate::ValidCluster;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// The PodDisruptionBudget, unless switched off.
pub fn pod_disruption_budget(cluster: &ValidCluster) -> Option<DesiredObject> {
    cluster.disruption_budget.then(|| {
        DesiredObject::new(
            Kind::PodDisruptionBudget,
            &PodDisruptionBudget {
                metadata: metadata(cluster, &cluster.identity.name, &BTreeMap::new()),
                spec: Some(PodDisruptionBudgetSpec {
                    // A count that must stay would block every drain of a cluster with one
                    // replica.
                    max_unavailable: Some(IntOrString::Int(1)),
                    selector: Some(selector(cluster)),
                    // A replica that is not Ready carries nothing, and must not block the drain
                    // of its node or its own replacement.
                    unhealthy_pod_eviction_policy: Some("AlwaysAllow".to_owned()),
                    ..PodDisruptionBudgetSpec::default()
                }),
                ..PodDisruptionBudget::default()
            },
        )
    })
}
