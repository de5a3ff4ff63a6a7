//! All scenarios, a file per subject.

mod bring_up;
mod busy;
mod configuration;
mod control_plane;
mod database_content;
mod database_login;
mod database_server;
pub(crate) mod drains;
mod failing_pods;
mod failover;
mod harness;
mod held_back;
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
mod webhooks;

use crate::scenario::Scenario;
use std::cmp::Reverse;

/// Every scenario, the longest first: a long one that begins last would be waited for alone. A new
/// one is a function that takes a [`crate::scenario::sandbox::Sandbox`], and an entry in the list
/// of its file.
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
        failing_pods::SCENARIOS,
        failover::SCENARIOS,
        harness::SCENARIOS,
        held_back::SCENARIOS,
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
        webhooks::SCENARIOS,
    ]
    .concat();
    all.sort_by_key(|scenario| Reverse(scenario.seconds));
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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
        let names: Vec<_> = proofs
            .flat_map(|proof| proof.split('`').skip(1).step_by(2))
            .collect();
        assert_eq!(unknown(&names), [""; 0]);
        assert!(names.contains(&"maintenance"));
    }

    #[test]
    fn commands_in_the_documents_name_scenarios_that_there_are() {
        for (page, text, has_some) in [
            ("README.md", include_str!("../../README.md"), true),
            (
                "CONTRIBUTING.md",
                include_str!("../../../CONTRIBUTING.md"),
                false,
            ),
            (
                "development.md",
                include_str!("../../../docs/development.md"),
                false,
            ),
            (
                "guarantees.md",
                include_str!("../../../docs/guarantees.md"),
                false,
            ),
        ] {
            let names = in_commands(text);
            assert_eq!(unknown(&names), [""; 0], "{page}");
            assert_eq!(!names.is_empty(), has_some, "{page}");
        }
        assert_eq!(
            in_commands("`SCENARIO=a`, SCENARIO=\"b c\" and SCENARIO=\"name …\""),
            ["a", "b", "c"]
        );
    }

    /// Names that no scenario has.
    fn unknown<'n>(names: &[&'n str]) -> Vec<&'n str> {
        let known: BTreeSet<_> = all().iter().map(|scenario| scenario.name).collect();
        let unknown = names.iter().filter(|name| !known.contains(*name));
        unknown.copied().collect()
    }

    /// What `SCENARIO=` is set to in a text, without the words that stand for any scenario.
    fn in_commands(text: &str) -> Vec<&str> {
        let values = text.split("SCENARIO=").skip(1).map(|rest| {
            let quoted = rest.strip_prefix('"');
            let value = quoted.and_then(|rest| rest.split('"').next());
            value.unwrap_or_else(|| {
                let end = rest.find(|c: char| c != '-' && !c.is_ascii_alphanumeric());
                rest.split_at(end.unwrap_or(rest.len())).0
            })
        });
        let words = values.flat_map(str::split_whitespace);
        words.filter(|word| !["name", "…"].contains(word)).collect()
    }
}
