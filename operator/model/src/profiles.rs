//! What may happen in one run: each profile lets the things interact that belong together, so that
//! every order of them can be visited.

use crate::check::Checked;
use crate::rules::{Bug, Rules};
use crate::sharing;
use crate::visit;
use crate::world::Budget;
use anyhow::{Context as _, Result, bail, ensure};
use stateright::{Checker as _, HasDiscoveries, Model as _, UniformChooser};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest one random walk.
const WALK: usize = 400;

/// One run.
struct Profile {
    name: &'static str,
    license: Option<u8>,
    replicas: u8,
    running: bool,
    budget: Budget,
    /// Bugs that this run must find.
    finds: &'static [Bug],
}

/// All runs.
fn profiles(quick: bool) -> Vec<Profile> {
    let more = u8::from(!quick);
    let mut profiles = first_replica(more);
    profiles.extend(license(more));
    profiles.extend(rollout(more));
    profiles
}

fn first_replica(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "first replica: outage, another application's tables, death",
            license: Some(200),
            replicas: 1,
            running: false,
            budget: Budget {
                crashes: 1 + more,
                outages: 1 + more,
                swaps: 1 + more,
                ..none
            },
            finds: &[
                Bug::RefusalForgotten,
                Bug::NothingStored,
                Bug::NoReadingIsOutage,
            ],
        },
        Profile {
            name: "first replica: stopped, outage, death, another Bytebase",
            license: Some(200),
            replicas: 1,
            running: false,
            budget: Budget {
                crashes: 1,
                outages: 1,
                others: 1 + more,
                scales: 2,
                ..none
            },
            finds: &[Bug::IdentityForgotten, Bug::OthersIgnored],
        },
        Profile {
            name: "first replica: invalid spec, outage, another application's tables, death",
            license: Some(200),
            replicas: 1,
            running: false,
            budget: Budget {
                crashes: 1,
                outages: 1,
                swaps: 1,
                mistakes: 1,
                ..none
            },
            finds: &[],
        },
    ]
}

fn license(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "license ends: outage, invalid spec, death",
            license: Some(5),
            replicas: 3,
            running: true,
            budget: Budget {
                crashes: 1,
                outages: 1,
                mistakes: 1,
                ticks: 6,
                ..none
            },
            finds: &[Bug::LicenseForgotten, Bug::GateBlindWhileInvalid],
        },
        Profile {
            name: "license ends: silent node",
            license: Some(4),
            replicas: 3,
            running: true,
            budget: Budget {
                silences: 1,
                ticks: 5,
                ..none
            },
            finds: &[Bug::GateWaitsForStuck],
        },
        Profile {
            name: "license ends: silent node and frozen replica of two",
            license: Some(3),
            replicas: 2,
            running: true,
            budget: Budget {
                silences: more,
                freezes: 1,
                ticks: 4,
                ..none
            },
            finds: &[],
        },
        Profile {
            name: "license ends: frozen replica of two, outage",
            license: Some(2),
            replicas: 2,
            running: true,
            budget: Budget {
                freezes: 1,
                outages: 1,
                ticks: 2,
                ..none
            },
            finds: &[Bug::UnknownServesNot],
        },
        Profile {
            name: "license taken away: paused, outage, death",
            license: Some(200),
            replicas: 3,
            running: true,
            budget: Budget {
                renewals: 1,
                crashes: 1,
                outages: 1,
                pauses: 1,
                ticks: 1,
                ..none
            },
            finds: &[Bug::AbsenceForgotten],
        },
        Profile {
            name: "license taken away, then tables that are not understood, outage",
            license: Some(200),
            replicas: 3,
            running: true,
            budget: Budget {
                renewals: 1,
                renames: 1,
                outages: more,
                ticks: 1,
                ..none
            },
            finds: &[Bug::UnderstandingForgotten],
        },
        Profile {
            name: "license taken away and given back, scaling",
            license: Some(9),
            replicas: 3,
            running: true,
            budget: Budget {
                renewals: 1 + more,
                scales: 1,
                ticks: 1,
                ..none
            },
            finds: &[],
        },
    ]
}

fn rollout(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "rollout: frozen replica, death",
            license: Some(200),
            replicas: 3,
            running: true,
            budget: Budget {
                edits: 1,
                freezes: 1,
                crashes: 1,
                ..none
            },
            finds: &[Bug::EveryPodServes, Bug::EvictionForgotten],
        },
        Profile {
            name: "rollout of two: frozen replica, outage, death, a user deletes a pod",
            license: Some(200),
            replicas: 2,
            running: true,
            budget: Budget {
                edits: 1,
                freezes: 1,
                crashes: more,
                outages: 1,
                deletions: more,
                ..none
            },
            finds: &[],
        },
        Profile {
            name: "rollout: tasks come and go",
            license: Some(200),
            replicas: 3,
            running: true,
            budget: Budget {
                edits: 1,
                tasks: 1 + more,
                ..none
            },
            finds: &[Bug::TasksIgnored],
        },
        Profile {
            name: "rollout of two: both busy for good, death",
            license: Some(200),
            replicas: 2,
            running: true,
            budget: Budget {
                edits: 1,
                tasks: 2 + more,
                crashes: more,
                ticks: 1 + more,
                ..none
            },
            finds: &[Bug::PatienceForgotten],
        },
        Profile {
            name: "rollout: a user deletes a pod",
            license: Some(200),
            replicas: 3,
            running: true,
            budget: Budget {
                edits: 1,
                deletions: 1,
                ..none
            },
            finds: &[Bug::EvictionWithoutUid],
        },
        Profile {
            name: "rollout and scaling: stale caches, death between writes",
            license: Some(200),
            replicas: 3,
            running: true,
            budget: Budget {
                edits: 1,
                scales: 1,
                crashes: more,
                ..none
            },
            finds: &[],
        },
        Profile {
            name: "tables that are not understood",
            license: Some(200),
            replicas: 3,
            running: true,
            budget: Budget {
                renames: 1,
                crashes: 1,
                edits: more,
                ..none
            },
            finds: &[Bug::UnknownIsNone],
        },
    ]
}

/// Everything at once, for walks at random.
fn wild() -> Budget {
    Budget {
        crashes: 9,
        outages: 9,
        swaps: 5,
        renames: 5,
        others: 5,
        scales: 9,
        edits: 2,
        mistakes: 5,
        pauses: 3,
        freezes: 9,
        silences: 5,
        deletions: 9,
        renewals: 9,
        tasks: 9,
        ticks: 60,
    }
}

/// Runs all of it and prints what was visited.
pub fn run(quick: bool) -> Result<()> {
    let begun = Instant::now();
    let mut states = 0;
    let mut broken = 0;
    for profile in profiles(quick) {
        match visit::every_state(profile.name, checked(&profile, None)?) {
            Ok(visited) => states += visited,
            Err(error) => {
                println!("model: {error:#}");
                broken += 1;
            }
        }
    }
    ensure!(broken == 0, "in {broken} profiles a promise is broken");
    states += sharing::run(quick)?;
    walk(Duration::from_secs(if quick { 5 } else { 60 }))?;
    let found = plant()? + sharing::planted();
    println!(
        "model: {states} states visited, {found} of {} planted bugs found, {:.0} s",
        Bug::ALL.len() + sharing::planted(),
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}

fn checked(profile: &Profile, bug: Option<Bug>) -> Result<Checked> {
    Ok(Checked {
        rules: Arc::new(Rules::new(bug)?),
        budget: profile.budget,
        license: profile.license,
        replicas: profile.replicas,
        running: profile.running,
        recovered: Arc::default(),
    })
}

/// Walks at random through a world in which everything may happen, from another seed each second.
fn walk(time: Duration) -> Result<()> {
    let begun = Instant::now();
    let mut states = 0;
    let mut seed = 1;
    let rules = Arc::new(Rules::new(None)?);
    let recovered = Arc::default();
    while begun.elapsed() < time {
        let model = Checked {
            rules: Arc::clone(&rules),
            budget: wild(),
            license: Some(20),
            replicas: 3,
            running: seed % 2 == 0,
            recovered: Arc::clone(&recovered),
        };
        let checker = model
            .checker()
            .target_max_depth(WALK)
            .target_state_count(4000)
            .finish_when(HasDiscoveries::Any)
            .spawn_simulation(seed, UniformChooser)
            .join();
        if let Some((property, path)) = checker.discoveries().into_iter().next() {
            bail!(
                "at random (seed {seed}): not true that {property}:\n{}",
                visit::describe(path)
            );
        }
        states += checker.state_count();
        seed += 1;
    }
    println!(
        "model: at random: {states} states from {} seeds, {:.1} s",
        seed - 1,
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Plants each bug in turn and searches for it. Returns how many were found, which must be all.
fn plant() -> Result<usize> {
    let all = profiles(true);
    for bug in Bug::ALL {
        let mut homes = all.iter();
        let profile = homes
            .find(|profile| profile.finds.contains(&bug))
            .with_context(|| format!("no profile is to find {bug:?}"))?;
        visit::until_found(&format!("{bug:?}"), checked(profile, Some(bug))?, None)?;
    }
    Ok(Bug::ALL.len())
}
