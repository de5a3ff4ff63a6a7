//! All scenarios, in the order they are started.

mod harness;

use crate::scenario::Scenario;

/// The list. A new scenario is a function that takes a [`crate::sandbox::Sandbox`] and a line here.
pub const ALL: &[Scenario] = &[
    Scenario::new(
        "harness-network",
        "A pod reaches a Service by name, and PostgreSQL through the gateway.",
        |sandbox| Box::pin(harness::network(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-leak",
        "A secret outside of a Secret is found, plain or encoded.",
        |sandbox| Box::pin(harness::leak(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-operator-logs",
        "A release is installed, and what its pods log is kept when they are gone, and searched.",
        |sandbox| Box::pin(harness::operator_logs(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-pod-faults",
        "The process of a pod can be frozen, thawed and killed, and the kubelet restarts it.",
        |sandbox| Box::pin(harness::pod_faults(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-database-faults",
        "One scenario's database can be cut off without touching the others.",
        |sandbox| Box::pin(harness::database_faults(sandbox)),
    )
    .harness_only(),
    Scenario::new(
        "harness-freeze",
        "A frozen PostgreSQL answers nobody and goes on where it was; a stopped one starts again.",
        |sandbox| Box::pin(harness::freeze(sandbox)),
    )
    .harness_only()
    .exclusive(),
    Scenario::new(
        "harness-control-plane",
        "A component of the control plane can be parked, brought back and killed.",
        |sandbox| Box::pin(harness::control_plane(sandbox)),
    )
    .harness_only()
    .exclusive(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_plain_and_unique_and_every_scenario_says_what_it_proves() {
        let mut names = BTreeSet::new();
        for scenario in ALL {
            let Scenario { name, about, .. } = scenario;
            assert!(names.insert(name), "{name} is there twice");
            assert!(
                name.bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'),
                "{name}"
            );
            assert!(about.ends_with('.'), "{name}: {about}");
        }
    }
}
