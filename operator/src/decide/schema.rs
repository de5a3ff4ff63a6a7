//! The version of the metadata schema, which the first replica of a newer minor version changes.

use crate::contract::version::Version;
use crate::observation::{Observation, SchemaState};

/// Whether the version that was read is that of now, and no migration is changing it.
pub fn is_settled(observation: &Observation) -> bool {
    observation.facts().is_some_and(|facts| {
        let sessions = facts.sessions.as_ref();
        sessions.is_some_and(|sessions| !sessions.migration_running)
    })
}

/// Version of the metadata schema: as last read, by this process or by an earlier one.
pub fn version(observation: &Observation) -> Option<Version> {
    let facts = observation.last_facts.as_ref().map(|(_, facts)| facts);
    let facts = facts.filter(|facts| !observation.has_lost_tables(facts));
    match facts.map(|facts| &facts.schema) {
        Some(SchemaState::Bytebase {
            version: Some(version),
        }) => Some(*version),
        // An emptied database has none.
        Some(SchemaState::Empty | SchemaState::OffPath { .. } | SchemaState::Foreign { .. }) => {
            None
        }
        Some(SchemaState::Bytebase { version: None }) | None => {
            observation.remembered.schema_version
        }
    }
}
