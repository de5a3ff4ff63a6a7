//! What may happen while the user wants another minor version: the first replica of it migrates the
//! schema, under which no older one starts any more.

use crate::bugs::Bug;
use crate::profile::Profile;
use crate::world::{Budget, Strategy};

/// All runs.
pub fn profiles(more: u8) -> Vec<Profile> {
    let mut profiles = rolling(more);
    profiles.extend(with_downtime(more));
    profiles
}

fn rolling(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "upgrade: a replica does not come up, way back, death",
            replicas: 2 + more,
            budget: Budget {
                upgrades: 2,
                failures: 1,
                crashes: more,
                ..none
            },
            finds: &[Bug::NewTakenForServing, Bug::MigrationUnseen],
            ..Profile::default()
        },
        Profile {
            name: "upgrade of two: way back, third version, a replica does not come up",
            replicas: 2,
            budget: Budget {
                upgrades: 3,
                failures: more,
                ..none
            },
            ..Profile::default()
        },
        Profile {
            name: "upgrade of two: outage, a replica does not come up, a user deletes a pod",
            replicas: 2,
            budget: Budget {
                upgrades: 1,
                outages: 1,
                failures: 1,
                deletions: more,
                ..none
            },
            ..Profile::default()
        },
        Profile {
            name: "upgrade: tables that are not understood, death",
            replicas: 1 + more,
            budget: Budget {
                upgrades: 2,
                renames: 1,
                crashes: 1,
                ..none
            },
            finds: &[Bug::SchemaForgotten, Bug::SchemaNotKept],
            ..Profile::default()
        },
        Profile {
            name: "upgrade of two: tasks, a slow controller",
            replicas: 2,
            slow: true,
            budget: Budget {
                upgrades: 1 + more,
                tasks: 1 + more,
                ..none
            },
            finds: &[Bug::DrainCutShort],
            ..Profile::default()
        },
        Profile {
            name: "way back: an outage before the first reading, a user deletes a pod, death",
            replicas: 1 + more,
            budget: Budget {
                downgrades: 1,
                outages: 1,
                deletions: 1,
                crashes: 1,
                ..none
            },
            finds: &[Bug::VersionForgotten],
            ..Profile::default()
        },
        Profile {
            name: "upgrade: scaling",
            replicas: 1 + more,
            budget: Budget {
                upgrades: 1,
                scales: 1,
                ..none
            },
            ..Profile::default()
        },
        Profile {
            name: "stopped and started while the schema changes by another hand",
            replicas: 1 + more,
            budget: Budget {
                scales: 2,
                schemas: 1,
                ..none
            },
            finds: &[Bug::StandingVersionIgnored],
            ..Profile::default()
        },
    ]
}

fn with_downtime(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    let maintenance = || Profile {
        replicas: 2,
        strategy: Strategy::Maintenance,
        ..Profile::default()
    };
    vec![
        Profile {
            name: "upgrade with downtime: a replica does not come up, way back, death",
            budget: Budget {
                upgrades: 2,
                failures: 1,
                crashes: more,
                ..none
            },
            finds: &[Bug::StartsEarly, Bug::RestNotHeld],
            ..maintenance()
        },
        Profile {
            name: "upgrade with downtime: tasks",
            replicas: 2 + more,
            budget: Budget {
                upgrades: 1,
                tasks: 1 + more,
                ..none
            },
            ..maintenance()
        },
        Profile {
            name: "upgrade with downtime: a slow controller, death",
            slow: true,
            budget: Budget {
                upgrades: 1 + more,
                crashes: 1,
                ..none
            },
            finds: &[Bug::DowntimeForgotten],
            ..maintenance()
        },
        Profile {
            name: "upgrade with downtime: a user deletes both pods",
            budget: Budget {
                upgrades: 1,
                deletions: 2,
                ..none
            },
            finds: &[Bug::ControllerIgnored],
            ..maintenance()
        },
        Profile {
            name: "upgrade with downtime: outage, paused, a user deletes a pod",
            budget: Budget {
                upgrades: 1 + more,
                outages: 1,
                pauses: 1,
                deletions: more,
                ..none
            },
            ..maintenance()
        },
        Profile {
            name: "upgrade with downtime: the strategy is taken out",
            budget: Budget {
                upgrades: 1 + more,
                switches: 1,
                ..none
            },
            ..maintenance()
        },
    ]
}
