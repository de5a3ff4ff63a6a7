//! The version of the metadata schema, which the first replica of a newer minor version changes.

use crate::contract::version::Version;
use crate::observation::{DatabaseFacts, Observation, PodView, SchemaState};

/// Whether the version that was read is that of now, and no migration is changing it.
pub fn is_settled(observation: &Observation) -> bool {
    observation.facts().is_some_and(|facts| {
        let sessions = facts.sessions.as_ref();
        sessions.is_some_and(|sessions| !sessions.migration_running)
    })
}

/// The version that the schema had before and the one that these facts hold, where that is an older
/// one although replicas of a newer version run: a backup was restored under them. Bytebase migrates
/// a schema only as it starts, and none of them says what it lacks.
pub fn went_back(observation: &Observation, facts: &DatabaseFacts) -> Option<(Version, Version)> {
    let SchemaState::Bytebase {
        version: Some(read),
    } = &facts.schema
    else {
        return None;
    };
    let remembered = &observation.remembered;
    let database = remembered.database.as_ref();
    let before = database.and_then(|database| database.schema_before.as_deref());
    let before = before.and_then(|before| Version::parse(before).ok());
    let before = before.max(remembered.schema_version)?;
    let is_newer = |pod: &PodView| {
        let version = pod.version.as_deref();
        let version = version.and_then(|version| Version::parse(version).ok());
        // One without a version may be of any.
        version.is_none_or(|version| read.older_minor_than(version))
    };
    let goes_back = read.older_minor_than(before) && observation.pods.iter().any(is_newer);
    goes_back.then_some((before, *read))
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
