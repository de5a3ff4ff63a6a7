//! All scenarios, a file per subject.

mod bring_up;
mod busy;
mod configuration;
mod control_plane;
mod database_content;
mod database_login;
mod database_server;
pub(crate) mod drains;
mod harness;
mod install;
mod licensing;
mod objects;
mod operator;
mod optional_kinds;
mod over_time;
mod readme;
mod refusals;
mod replicas;
mod rights;
mod rollouts;
mod spec_fields;
pub(crate) mod support;
mod tenants;

use std::cmp::Reverse;

use crate::scenario::Scenario;

/// Every scenario, the longest first: a long one that begins last would be waited for alone. A new
/// one is a function that takes a [`crate::scenario::sandbox::Sandbox`], and an entry in the list of
/// its file.
pub fn all() -> Vec<Scenario> {
    let mut all = [
        bring_up::SCENARIOS,
        busy::SCENARIOS,
        configuration::SCENARIOS,
        control_plane::SCENARIOS,
        database_content::SCENARIOS,
        database_login::SCENARIOS,
        database_server::SCENARIOS,
        drains::SCENARIOS,
        harness::SCENARIOS,
        install::SCENARIOS,
        licensing::SCENARIOS,
        objects::SCENARIOS,
        operator::SCENARIOS,
        optional_kinds::SCENARIOS,
        over_time::SCENARIOS,
        readme::SCENARIOS,
        refusals::SCENARIOS,
        replicas::SCENARIOS,
        rights::SCENARIOS,
        rollouts::SCENARIOS,
        spec_fields::SCENARIOS,
        tenants::SCENARIOS,
    ]
    .concat();
    all.sort_by_key(|scenario| Reverse(scenario.seconds));
    all
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_plain_and_unique_and_every_scenario_says_what_it_proves() {
        let mut names = BTreeSet::new();
        for scenario in all() {
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

    #[test]
    fn the_page_on_guarantees_names_scenarios_that_there_are() {
        let page = include_str!("../../../docs/guarantees.md");
        let rows = page.lines().filter(|line| line.starts_with("| "));
        let proofs = rows.filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next());
        let mut names = proofs.flat_map(|proof| proof.split('`').skip(1).step_by(2));
        let unknown: Vec<_> = names
            .clone()
            .filter(|name| all().iter().all(|scenario| scenario.name != *name))
            .collect();
        assert_eq!(unknown, [""; 0]);
        assert!(names.any(|name| name == "maintenance"));
    }
}
