//! What keeps a rollout from its next step, and a template from being written.

use super::database::{Allows, DatabaseVerdict};
use super::replicas::Target;
use super::rollout::Hold;
use super::step::Wait;
use super::{maintenance, schema};
use crate::api::Reason;
use crate::api::status::RolloutWait;
use crate::contract::version::Version;
use crate::desired::drain::Template;
use crate::observation::Observation;
use crate::validate::ValidCluster;

/// Bytebase checks no version in either direction: an older binary starts on a newer schema and
/// then breaks.
pub(super) fn downgrade(cluster: &ValidCluster, observation: &Observation) -> Option<String> {
    let image = cluster.image.version?;
    let schema = schema::version(observation)?;
    image.older_minor_than(schema).then(|| {
        let Version { major, minor, .. } = schema;
        format!("the metadata schema is at {major}.{minor}, newer than Bytebase {image}, which would start on it and then break: set spec.version to {major}.{minor} or later, or restore a backup of the database")
    })
}

/// Version of the template that will stand: a refused downgrade leaves the old one.
pub(super) fn template_version(
    cluster: &ValidCluster,
    observation: &Observation,
    held: bool,
) -> Option<Version> {
    match &observation.stateful_set {
        Some(set) if held => set
            .version
            .as_deref()
            .and_then(|text| Version::parse(text).ok()),
        _ => cluster.image.version,
    }
}

/// Whether a template of this version is older than the schema, so that what starts on it breaks.
pub(super) fn is_outgrown(version: Option<Version>, observation: &Observation) -> bool {
    let schema = schema::version(observation);
    version
        .zip(schema)
        .is_some_and(|(version, schema)| version.older_minor_than(schema))
}

/// What keeps a rollout from its next step.
pub(super) fn hold(
    cluster: &ValidCluster,
    observation: &Observation,
    database: &DatabaseVerdict,
    target: &Target,
    template: &Template,
) -> Option<Hold> {
    let set = observation.stateful_set.as_ref()?;
    let (for_, message) = if cluster.paused {
        (RolloutWait::Resume, "spec.paused to be lifted")
    } else if database.allows == Allows::Wait {
        (
            RolloutWait::DatabaseReading,
            "the first reading of the database",
        )
    } else if database.allows == Allows::Nothing {
        let message = match (database.status, database.reason) {
            (_, Reason::DatabaseInUse) => {
                "the heartbeats on the database to end that belong to no pod of this cluster"
            }
            // A pod that ends now could not start again.
            (None, _) => "the database to be readable again",
            // A pod that ends now might come back into a database that refuses it.
            _ => "the database to pass its checks",
        };
        (RolloutWait::Database, message)
    } else if target.replicas < set.replicas {
        // The operator never ends two at once.
        return Some(Hold {
            wait: Wait::new(RolloutWait::ScaleDown, "the scale-down to end"),
            holds_template: false,
        });
    } else {
        return None;
    };
    Some(Hold {
        wait: Wait::new(for_, message),
        holds_template: maintenance::changes(set, template),
    })
}
