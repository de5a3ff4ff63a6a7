//! The ServiceMonitor: each replica's own metrics, through the headless Service.

use super::services::{ROLE_LABEL, ServiceRole};
use super::{CLUSTER_LABEL, DesiredObject, labels, metadata};
use crate::kubernetes::Kind;
use crate::validate::ValidCluster;
use serde_json::json;
use std::collections::BTreeMap;

/// The ServiceMonitor, if wanted.
pub fn service_monitor(cluster: &ValidCluster) -> Option<DesiredObject> {
    let wanted = cluster.service_monitor.as_ref()?;
    let name = &cluster.identity.name;
    let mut endpoint = json!({"port": "http", "path": "/metrics"});
    if let Some(interval) = &wanted.interval {
        endpoint["interval"] = json!(interval);
    }
    let spec = json!({
        // Of the two Services one only, or every replica would be scraped twice.
        "selector": {"matchLabels": {
            CLUSTER_LABEL: name,
            ROLE_LABEL: ServiceRole::Headless.as_ref(),
        }},
        "targetLabels": [CLUSTER_LABEL],
        "endpoints": [endpoint],
    });
    let mut metadata = metadata(cluster, name, &BTreeMap::new());
    let all = metadata.labels.get_or_insert_default();
    all.extend(wanted.labels.clone());
    all.extend(labels(&cluster.identity));
    Some(DesiredObject::custom(
        Kind::ServiceMonitor,
        &metadata,
        &spec,
    ))
}
