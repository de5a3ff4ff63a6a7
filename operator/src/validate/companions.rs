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
    let interval = spec.interval.as_deref();
    if interval.is_some_and(|text| !is_prometheus_duration(text)) {
        diagnostics.invalid(
            "spec.monitoring.serviceMonitor.interval",
            "must be a duration such as 30s or 1h30m, as Prometheus reads it: whole numbers with y, w, d, h, m, s or ms, each at most once and the longest first, of less than 292 years together",
        );
    }
    spec.enabled.then(|| ValidServiceMonitor {
        interval: spec.interval.clone(),
        labels: spec.labels.clone(),
    })
}

/// In the order in which Prometheus reads them, in milliseconds.
const UNITS: [(&str, i64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];
/// Prometheus counts in nanoseconds.
const LONGEST: i64 = i64::MAX / 1_000_000;

/// Whether Prometheus takes this for a duration. What its operator's definition of a ServiceMonitor
/// refuses could not be written, and what is too long would be left out without a word.
fn is_prometheus_duration(text: &str) -> bool {
    let (mut rest, mut total) = (text, Some(0_i64));
    for (unit, milliseconds) in UNITS {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let after = after.strip_prefix(unit);
        let Some(after) = after.filter(|after| unit != "m" || !after.starts_with('s')) else {
            continue;
        };
        let Ok(number) = number.parse::<i64>() else {
            return false;
        };
        let part = number.checked_mul(milliseconds);
        total = total.and_then(|total| total.checked_add(part?));
        rest = after;
    }
    text == "0" || rest.is_empty() && total.is_some_and(|total| total <= LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_what_prometheus_takes_for_one() {
        for text in [
            "",
            "0",
            "30s",
            "0s",
            "1m30s",
            "1h30m",
            "1d",
            "5ms",
            "1m5ms",
            "1y2w3d4h5m6s7ms",
            "292y",
        ] {
            assert!(is_prometheus_duration(text), "{text}");
        }
        for text in [
            "30s1m",
            "1m1m",
            "30",
            "00",
            "s",
            "1.5m",
            "1h 30m",
            "-1s",
            "1us",
            "1M",
            "1ms1s",
            "293y",
            "99999999999999999999s",
            "1m\u{e9}",
        ] {
            assert!(!is_prometheus_duration(text), "{text}");
        }
    }
}
