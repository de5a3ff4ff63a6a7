//! Fields that pass through to the pods.

use super::Findings;
use crate::api::BytebaseClusterSpec;
use std::collections::BTreeSet;

/// Set by the operator.
const RESERVED_ENV: [&str; 4] = ["PG_URL", "PGAPPNAME", "PGUSER", "PGPASSWORD"];
/// Read by the driver for connections to users' databases too.
pub const LEAKING_ENV: [&str; 6] = [
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGTARGETSESSIONATTRS",
    "PGHOST",
    "PGPORT",
    "PGDATABASE",
];
/// Volume names with this prefix are the operator's.
const RESERVED_VOLUMES: &str = "bytebase-";
/// Label and annotation keys that end in this domain are the operator's.
const RESERVED_KEYS: &str = "bytebase.com/";

pub(super) fn validate(spec: &BytebaseClusterSpec, findings: &mut Findings) {
    env(spec, findings);
    numbers(spec, findings);
    companions(spec, findings);
    let mut names = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let field = format!("spec.volumes[{index}].name");
        if volume.name.starts_with(RESERVED_VOLUMES) {
            findings.invalid(
                &field,
                "names that start with bytebase- are the operator's: choose another",
            );
        } else if !names.insert(&volume.name) {
            findings.invalid(&field, format!("{} is there twice", volume.name));
        }
    }
    for (index, mount) in spec.volume_mounts.iter().enumerate() {
        let field = format!("spec.volumeMounts[{index}].name");
        if !names.contains(&mount.name) {
            findings.invalid(
                &field,
                format!("there is no volume {} in spec.volumes", mount.name),
            );
        }
    }
    for (field, keys) in [
        ("spec.podLabels", &spec.pod_labels),
        ("spec.podAnnotations", &spec.pod_annotations),
    ] {
        if let Some(key) = keys
            .keys()
            .find(|key| key.contains(RESERVED_KEYS) || key.starts_with("app.kubernetes.io/"))
        {
            findings.invalid(
                field,
                format!("{key} is the operator's: choose another key"),
            );
        }
    }
    if spec
        .pod_template
        .as_ref()
        .is_some_and(|template| !template.0.is_object())
    {
        findings.invalid(
            "spec.podTemplate",
            "must be an object with metadata and spec",
        );
    }
}

/// NetworkPolicy and ServiceMonitor.
fn companions(spec: &BytebaseClusterSpec, findings: &mut Findings) {
    let policy = spec.network_policy.as_ref();
    if policy.is_some_and(|policy| policy.from.len() > 32) {
        findings.invalid("spec.networkPolicy.from", "may have at most 32 entries");
    }
    let monitor = spec
        .monitoring
        .as_ref()
        .and_then(|monitoring| monitoring.service_monitor.as_ref());
    findings.duration(
        "spec.monitoring.serviceMonitor.interval",
        monitor.and_then(|monitor| monitor.interval.as_deref()),
    );
}

fn numbers(spec: &BytebaseClusterSpec, findings: &mut Findings) {
    let rollout = spec.rollout.clone().unwrap_or_default();
    let port = spec.service.as_ref().and_then(|service| service.port);
    for (field, value, range) in [
        ("spec.service.port", port, 1..=65_535),
        (
            "spec.rollout.readyTimeoutSeconds",
            rollout.ready_timeout_seconds,
            10..=86_400,
        ),
        (
            "spec.rollout.preStopSeconds",
            rollout.pre_stop_seconds,
            0..=300,
        ),
        (
            "spec.rollout.terminationGraceSeconds",
            rollout.termination_grace_seconds,
            1..=3600,
        ),
    ] {
        if value.is_some_and(|value| !range.contains(&value)) {
            findings.invalid(
                field,
                format!("must be between {} and {}", range.start(), range.end()),
            );
        }
    }
}

fn env(spec: &BytebaseClusterSpec, findings: &mut Findings) {
    let mut names = BTreeSet::new();
    for (index, variable) in spec.env.iter().enumerate() {
        let field = format!("spec.env[{index}].name");
        let name = variable.name.as_str();
        if RESERVED_ENV.contains(&name) {
            findings.invalid(
                &field,
                format!("{name} is set by the operator: use spec.database"),
            );
        } else if LEAKING_ENV.contains(&name) {
            findings.invalid(&field, format!("{name} would also change connections to your users' databases: put it into PG_URL instead"));
        } else if !names.insert(name) {
            findings.invalid(&field, format!("{name} is there twice"));
        }
    }
}
