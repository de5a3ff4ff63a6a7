//! The version of the metadata schema, which the first replica of a newer minor version changes.

use crate::api::status::HeartbeatState;
use crate::contract::version::Version;
use crate::decide::health::{Health, Replica};
use crate::decide::rollout::step::version_of;
use crate::observation::{DatabaseFacts, Observation, SchemaState};

/// Whether the version that was read is that of now, and no migration is changing it.
pub fn is_settled(observation: &Observation) -> bool {
    observation.facts().is_some_and(|facts| {
        let sessions = facts.sessions.as_ref();
        sessions.is_some_and(|sessions| !sessions.migration_running)
    })
}

/// The version that the schema had before and the one that it has now, where that is an older one
/// although replicas of a newer version have come up: a backup was restored under them. Bytebase
/// migrates a schema only as it starts, and none of them says what it lacks. Where these facts do
/// not show the version, the one that was last read stands.
pub fn went_back(
    observation: &Observation,
    facts: &DatabaseFacts,
    health: &Health<'_>,
) -> Option<(Version, Version)> {
    let remembered = &observation.remembered;
    let read = match &facts.schema {
        _ if observation.has_lost_tables(facts) => remembered.schema_version?,
        SchemaState::Bytebase { version } => version.or(remembered.schema_version)?,
        SchemaState::Empty | SchemaState::OffPath { .. } | SchemaState::Foreign { .. } => {
            return None;
        }
    };
    let database = remembered.database.as_ref();
    let reported = database.and_then(|database| database.schema_before.as_deref());
    let reported = reported.and_then(|before| Version::parse(before).ok());
    let before = reported.max(remembered.schema_version)?;
    // One that has just started may be about to migrate it. Of one that was up when the schema was
    // found to have gone back that has not changed since.
    let needs_more = |replica: &Replica<'_>| {
        let has_sent = matches!(
            replica.heartbeat,
            HeartbeatState::Fresh | HeartbeatState::Stale
        );
        let was_up = reported.is_some() || replica.pod.ready || has_sent;
        was_up && version_of(replica).is_some_and(|version| read.older_minor_than(version))
    };
    let goes_back = read.older_minor_than(before) && health.replicas.iter().any(needs_more);
    goes_back.then_some((before, read))
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
