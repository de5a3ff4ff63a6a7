//! The StatefulSet.

use super::template::{TEMPLATE_ANNOTATION, Template};
use super::{DesiredObject, headless_name, metadata, selector};
use crate::kubernetes::Kind;
use crate::validate::ValidCluster;
use k8s_openapi::api::apps::v1::{
    StatefulSet, StatefulSetOrdinals, StatefulSetSpec, StatefulSetUpdateStrategy,
};
use std::collections::BTreeMap;
use std::ops::Range;

/// The StatefulSet with given ordinals and pod template.
pub fn stateful_set(
    cluster: &ValidCluster,
    ordinals: &Range<i32>,
    template: Template,
) -> DesiredObject {
    let annotations: BTreeMap<_, _> = template
        .digest
        .map(|digest| (TEMPLATE_ANNOTATION.to_owned(), digest))
        .into_iter()
        .collect();
    let mut object = DesiredObject::new(
        Kind::StatefulSet,
        &StatefulSet {
            metadata: metadata(cluster, &cluster.identity.name, &annotations),
            spec: Some(StatefulSetSpec {
                // Always given: an apply without it would set it back to 1.
                replicas: Some(ordinals.end.saturating_sub(ordinals.start)),
                ordinals: (ordinals.start != 0).then_some(StatefulSetOrdinals {
                    start: Some(ordinals.start),
                }),
                selector: selector(cluster),
                service_name: Some(headless_name(&cluster.identity.name)),
                // Replicas need no order: they agree on who migrates the schema by a lock in the
                // database.
                pod_management_policy: Some("Parallel".to_owned()),
                // The operator itself decides when a pod may end.
                update_strategy: Some(StatefulSetUpdateStrategy {
                    type_: Some("OnDelete".to_owned()),
                    rolling_update: None,
                }),
                revision_history_limit: Some(3),
                ..StatefulSetSpec::default()
            }),
            ..StatefulSet::default()
        },
    );
    object.value["spec"]["template"] = template.value;
    object
}
