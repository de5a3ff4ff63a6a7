//! The ServiceMonitor: each replica's own metrics, through the headless Service.

use super::services::{ROLE_LABEL, ServiceRole};
use super::{CLUSTER_LABEL, DesiredObject, metadata};
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
    let mut labels = wanted.labels.clone();
    labels.extend(metadata.labels.take().unwrap_or_default());
    metadata.labels = Some(labels);
    Some(DesiredObject::custom(
        Kind::ServiceMonitor,
        &metadata,
        &spec,
    ))
}
