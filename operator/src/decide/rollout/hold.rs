//! What keeps a rollout from its next step, and a template from being written.

use crate::api::Reason;
use crate::api::status::RolloutWait;
use crate::contract::version::Version;
use crate::decide::database::{Allows, DatabaseVerdict, login, schema};
use crate::decide::rollout::Hold;
use crate::decide::rollout::maintenance::{self, Stage};
use crate::decide::rollout::step::{Wait, schema_migration};
use crate::decide::size::replicas::Target;
use crate::desired;
use crate::desired::template::Template;
use crate::observation::Observation;
use crate::validate::ValidCluster;

/// What keeps a new template from being written. The old one stands as long as any of it does.
#[derive(Debug)]
pub(in crate::decide) struct TemplateHold {
    /// Why the version that is wanted is refused.
    pub(in crate::decide) downgrade: Option<String>,
    /// What keeps a changed login from the replicas.
    pub(in crate::decide) login: Option<login::Held>,
    /// The database must be read first, or has been refused.
    database: bool,
    /// A schema migration that has to end first.
    migration: Option<Wait>,
}

impl TemplateHold {
    pub(in crate::decide) fn new(
        cluster: &ValidCluster,
        observation: &Observation,
        database: &DatabaseVerdict,
        login: Option<login::Held>,
        template: &Template,
    ) -> Self {
        Self {
            downgrade: downgrade(cluster, observation)
                .or_else(|| unread_downgrade(cluster, observation, template)),
            login,
            database: database.allows <= Allows::Wait,
            migration: migration(cluster, observation),
        }
    }

    pub(in crate::decide) fn holds(&self) -> bool {
        self.holds_the_end_of_pods() || self.migration.is_some()
    }

    /// What holds a rollout with downtime as well, which waits for a migration by itself.
    fn holds_the_end_of_pods(&self) -> bool {
        self.downgrade.is_some() || self.waits()
    }

    /// Something else than the version holds it, which may be over at any moment.
    fn waits(&self) -> bool {
        self.login.is_some() || self.database
    }

    /// Whether replicas that have ended for the new template start on the old one again: only where
    /// nothing but another spec leads on, and never with a login that is not known to work.
    fn starts_again(&self) -> bool {
        self.downgrade.is_some() && !self.waits()
    }

    /// Version of the template that will stand. Where the database alone holds the new one, nothing
    /// starts.
    pub(in crate::decide) fn version(
        &self,
        cluster: &ValidCluster,
        observation: &Observation,
    ) -> Option<Version> {
        match &observation.stateful_set {
            Some(set)
                if self.downgrade.is_some() || self.login.is_some() || self.migration.is_some() =>
            {
                set.version
                    .as_deref()
                    .and_then(|text| Version::parse(text).ok())
            }
            _ => cluster.image.version,
        }
    }

    /// Why no replica may start on the template that will stand, if the schema has outgrown it.
    pub(in crate::decide) fn outgrown(
        &self,
        version: Option<Version>,
        observation: &Observation,
    ) -> Option<String> {
        let (version, schema) = (version?, schema::version(observation)?);
        version.older_minor_than(schema).then(|| {
            let Version { major, minor, .. } = schema;
            self.downgrade.clone().unwrap_or_else(|| {
                format!("the metadata schema is at {major}.{minor}, newer than Bytebase {version}, which the current pod template names; the new template waits: see RolloutComplete")
            })
        })
    }

    /// What keeps a rollout from its next step.
    pub(in crate::decide) fn rollout(
        &self,
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
            return Some(Hold {
                wait: for_database(database),
                holds_template: maintenance::changes(set, template),
            });
        } else if let Some(wait) = &self.migration {
            return Some(Hold {
                wait: wait.clone(),
                holds_template: true,
            });
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

    /// Where a rollout with downtime stands while this lasts.
    pub(in crate::decide) fn stage(
        &self,
        stage: Stage,
        paused: bool,
        observation: &Observation,
    ) -> Stage {
        let set = observation.stateful_set.as_ref();
        let is_down = set.is_some_and(|set| set.replicas == 0);
        let stays_down = stage == Stage::Stop && is_down && !self.starts_again();
        if stays_down || !(self.holds_the_end_of_pods() || paused) {
            stage
        } else {
            stage.held()
        }
    }
}

/// What a rollout waits for while the database allows nothing.
pub(in crate::decide) fn for_database(database: &DatabaseVerdict) -> Wait {
    let message = match (database.status, database.reason) {
        (_, Reason::DatabaseInUse) => "another Bytebase that may use the database to end",
        // A pod that ends now could not start again.
        (None, _) => "the database to be readable again",
        // A pod that ends now might come back into a database that refuses it.
        _ => "the database to pass its checks",
    };
    Wait::new(RolloutWait::Database, message)
}

/// Bytebase checks no version in either direction: an older binary starts on a newer schema and
/// then breaks.
fn downgrade(cluster: &ValidCluster, observation: &Observation) -> Option<String> {
    let image = cluster.image.version?;
    let schema = schema::version(observation)?;
    image.older_minor_than(schema).then(|| {
        let Version { major, minor, .. } = schema;
        format!("the metadata schema is at {major}.{minor}, newer than Bytebase {image}, which would start on it and then break: set spec.version to {major}.{minor} or later. To go back, restore a backup of the database while no replica runs: set spec.replicas to 0 and wait until no pod is left, restore it, then set spec.version and spec.replicas")
    })
}

/// Why an older Bytebase must not start on a schema that was never read, by the versions that have
/// served on it.
fn unread_downgrade(
    cluster: &ValidCluster,
    observation: &Observation,
    template: &Template,
) -> Option<String> {
    let set = observation.stateful_set.as_ref()?;
    let was_read = observation.last_facts.is_some() || schema::version(observation).is_some();
    // Those may have served on another database.
    let moves = desired::login(&set.template) != desired::login(&template.value);
    if was_read || moves {
        return None;
    }
    let parse = |text: &str| Version::parse(text).ok();
    let image = cluster.image.version?;
    // One that stands already is left before the next, whatever served before it.
    let stands = parse(set.version.as_deref()?)?;
    let ready = observation.pods.iter().filter(|pod| pod.is_ready());
    let served = ready.map(|pod| pod.version.as_deref());
    let served = served.chain([observation.remembered.version.as_deref()]);
    let served = served.flatten().filter_map(parse).max()?;
    let is_older = image.older_minor_than(served) && image.older_minor_than(stands);
    is_older.then(|| {
        let Version { major, minor, .. } = served;
        format!("Bytebase {served} has served on the metadata database, whose schema the operator has never read. Bytebase {image} would start on that schema and then break: set spec.version to {major}.{minor} or later. If you have restored a backup of the database that fits, set database.monitorSecretRef to a login by which the operator can read the schema")
    })
}

/// The schema migration that runs, or may, while the version that began it is taken back. It may
/// end on a schema that the version which is wanted would break on, and a pod that another party
/// ended would have come back as that version by then.
fn migration(cluster: &ValidCluster, observation: &Observation) -> Option<Wait> {
    let set = observation.stateful_set.as_ref()?;
    let image = cluster.image.version?;
    let stands = Version::parse(set.version.as_deref()?).ok()?;
    let is_taken_back = image.older_minor_than(stands) && !observation.pods.is_empty();
    is_taken_back.then(|| schema_migration(observation))?
}
