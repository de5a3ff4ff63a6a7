//! What stands beside the pods: ServiceAccount, NetworkPolicy and ServiceMonitor.

use super::Diagnostics;
use crate::api::spec::{MonitoringSpec, NetworkPolicySpec, ServiceAccountSpec};
use k8s_openapi::api::networking::v1::NetworkPolicyPeer;
use std::collections::BTreeMap;

/// The pods' ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValidServiceAccount {
    /// One that exists, by its name.
    Existing(String),
    /// One that the operator makes.
    Own {
        /// The user's annotations.
        annotations: BTreeMap<String, String>,
    },
}

/// The NetworkPolicy that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidNetworkPolicy {
    /// Who may reach the replicas; empty: everyone.
    pub from: Vec<NetworkPolicyPeer>,
}

/// The ServiceMonitor that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidServiceMonitor {
    /// How often to scrape; `None`: as often as Prometheus does by itself.
    pub interval: Option<String>,
    /// The user's labels.
    pub labels: BTreeMap<String, String>,
}

pub(super) fn service_account(spec: Option<&ServiceAccountSpec>) -> ValidServiceAccount {
    let spec = spec.cloned().unwrap_or_default();
    match spec.name {
        Some(name) => ValidServiceAccount::Existing(name),
        None => ValidServiceAccount::Own {
            annotations: spec.annotations,
        },
    }
}

pub(super) fn network_policy(
    spec: Option<&NetworkPolicySpec>,
    diagnostics: &mut Diagnostics,
) -> Option<ValidNetworkPolicy> {
    let spec = spec?;
    if spec.from.len() > 32 {
        diagnostics.invalid("spec.networkPolicy.from", "may have at most 32 entries");
    }
    spec.enabled.then(|| ValidNetworkPolicy {
        from: spec.from.clone(),
    })
}

pub(super) fn service_monitor(
    spec: Option<&MonitoringSpec>,
    diagnostics: &mut Diagnostics,
) -> Option<ValidServiceMonitor> {
    let spec = spec?.service_monitor.as_ref()?;
    diagnostics.duration(
        "spec.monitoring.serviceMonitor.interval",
        spec.interval.as_deref(),
    );
    spec.enabled.then(|| ValidServiceMonitor {
        interval: spec.interval.clone(),
        labels: spec.labels.clone(),
    })
}
