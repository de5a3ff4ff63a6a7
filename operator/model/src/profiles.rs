//! What may happen in one run: each profile lets the things interact that belong together, so that
//! every order of them can be visited.

use crate::bugs::Bug;
use crate::check::Checked;
use crate::profile::Profile;
use crate::rules::Rules;
use crate::sharing;
use crate::upgrades;
use crate::visit;
use crate::world::{Budget, Strategy};
use anyhow::{Context as _, Result, bail, ensure};
use stateright::{Checker as _, HasDiscoveries, Model as _, UniformChooser};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest one random walk.
const WALK: usize = 400;

/// All runs.
fn profiles(quick: bool) -> Vec<Profile> {
    let more = u8::from(!quick);
    let mut profiles = first_replica(more);
    profiles.extend(license(more));
    profiles.extend(license_beside_trouble(more));
    profiles.extend(rollout(more));
    profiles.extend(others(more));
    profiles.extend(stale(more));
    profiles.extend(versions());
    profiles.extend(another(more));
    profiles.extend(upgrades::profiles(more));
    profiles
}

fn first_replica(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "first replica: outage, another application's tables, death",
            replicas: 1,
            running: false,
            budget: Budget {
                crashes: 1 + more,
                outages: 1,
                swaps: 1 + more,
                ..none
            },
            finds: &[
                Bug::RefusalForgotten,
                Bug::NothingStored,
                Bug::NoReadingIsOutage,
            ],
            ..Profile::default()
        },
        Profile {
            name: "first replica: stopped, outage, death, another Bytebase",
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
            ..Profile::default()
        },
        Profile {
            name: "first replica: invalid spec, outage, another application's tables, death",
            replicas: 1,
            running: false,
            budget: Budget {
                crashes: 1,
                outages: 1,
                swaps: 1,
                mistakes: 1,
                ..none
            },
            ..Profile::default()
        },
    ]
}

fn license(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "license ends: outage, invalid spec, death",
            license: Some(5),
            budget: Budget {
                crashes: 1,
                outages: 1,
                mistakes: 1,
                ticks: 6,
                ..none
            },
            finds: &[
                Bug::LicenseForgotten,
                Bug::GateBlindWhileInvalid,
                Bug::ComesBackNever,
            ],
            ..Profile::default()
        },
        Profile {
            name: "license ends: silent node",
            license: Some(4),
            budget: Budget {
                silences: 1,
                ticks: 5,
                ..none
            },
            finds: &[Bug::GateWaitsForStuck],
            ..Profile::default()
        },
        Profile {
            name: "license ends: silent node and frozen replica of two",
            license: Some(3),
            replicas: 2,
            budget: Budget {
                silences: more,
                freezes: 1,
                ticks: 4,
                ..none
            },
            ..Profile::default()
        },
        Profile {
            name: "license ends: frozen replica of two, outage",
            license: Some(2),
            replicas: 2,
            budget: Budget {
                freezes: 1,
                outages: 1,
                ticks: 2,
                ..none
            },
            finds: &[Bug::UnknownServesNot, Bug::GateShrinksToLowest],
            ..Profile::default()
        },
        Profile {
            name: "license taken away: paused, outage, death",
            budget: Budget {
                renewals: 1,
                crashes: 1,
                outages: 1,
                pauses: 1,
                ticks: 1,
                ..none
            },
            finds: &[Bug::AbsenceForgotten],
            ..Profile::default()
        },
        Profile {
            name: "license taken away, then tables that are not understood, outage",
            budget: Budget {
                renewals: 1,
                renames: 1,
                outages: more,
                ticks: 1,
                ..none
            },
            finds: &[Bug::UnderstandingForgotten],
            ..Profile::default()
        },
        Profile {
            name: "license taken away and given back, scaling",
            license: Some(9),
            budget: Budget {
                renewals: 1 + more,
                scales: 1,
                ticks: 1,
                ..none
            },
            ..Profile::default()
        },
    ]
}

fn license_beside_trouble(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "license ends: a pooler in between, death",
            license: Some(5),
            budget: Budget {
                poolers: 1,
                crashes: 1,
                ticks: 6,
                ..none
            },
            finds: &[Bug::GateBlindWhileRefused],
            ..Profile::default()
        },
        Profile {
            name: "license ends: tasks that take longer than they may",
            license: Some(3),
            replicas: 2 + more,
            budget: Budget {
                tasks: 2,
                crashes: more,
                ticks: 9,
                ..none
            },
            ..Profile::default()
        },
        Profile {
            name: "license taken away: tasks that take longer than they may, outage",
            replicas: 2,
            budget: Budget {
                renewals: 1,
                tasks: 2,
                outages: more,
                ticks: 7,
                ..none
            },
            finds: &[
                Bug::DrainNotHastened,
                Bug::DrainHastenedAtOnce,
                Bug::UnlicensedSinceForgotten,
                Bug::DueStatusForgotten,
            ],
            ..Profile::default()
        },
    ]
}

fn rollout(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "rollout: frozen replica, death",
            budget: Budget {
                edits: 1,
                freezes: 1,
                crashes: 1,
                ..none
            },
            finds: &[Bug::EveryPodServes, Bug::EvictionForgotten],
            ..Profile::default()
        },
        Profile {
            name: "rollout of two: frozen replica, outage, death",
            replicas: 2,
            budget: Budget {
                edits: 1,
                freezes: 1,
                crashes: more,
                outages: 1,
                ..none
            },
            ..Profile::default()
        },
        Profile {
            name: "rollout: tasks come and go",
            budget: Budget {
                edits: 1,
                tasks: 1 + more,
                ..none
            },
            finds: &[Bug::TasksIgnored],
            ..Profile::default()
        },
        Profile {
            name: "rollout of two: both busy for good, death",
            replicas: 2,
            budget: Budget {
                edits: 1,
                tasks: 2 + more,
                crashes: more,
                ticks: 1 + more,
                ..none
            },
            finds: &[Bug::PatienceForgotten],
            ..Profile::default()
        },
        Profile {
            name: "rollout: a user deletes a pod",
            budget: Budget {
                edits: 1,
                deletions: 1,
                ..none
            },
            finds: &[Bug::EvictionWithoutUid],
            ..Profile::default()
        },
        Profile {
            name: "rollout and scaling: stale caches, death between writes",
            budget: Budget {
                edits: 1,
                scales: 1,
                crashes: more,
                ..none
            },
            finds: &[Bug::EndingTakenForGone, Bug::ComingUpIgnored],
            ..Profile::default()
        },
        Profile {
            name: "tables that are not understood",
            replicas: 2 + more,
            budget: Budget {
                renames: 1,
                crashes: 1,
                edits: more,
                ..none
            },
            finds: &[Bug::UnknownIsNone],
            ..Profile::default()
        },
    ]
}

fn others(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "a StatefulSet of the cluster's name by another hand",
            replicas: 1,
            running: false,
            budget: Budget {
                takings: 1,
                edits: 1,
                crashes: more,
                ..none
            },
            finds: &[Bug::NameTakenIgnored],
            ..Profile::default()
        },
        Profile {
            name: "rollout: the StatefulSet is left behind, or becomes another's",
            replicas: 1 + more,
            budget: Budget {
                takings: 1,
                edits: 1,
                ..none
            },
            finds: &[Bug::OwnerIgnored],
            ..Profile::default()
        },
    ]
}

fn stale(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "stale cluster: license taken away, outage, a standby takes over",
            replicas: 2,
            lags: true,
            budget: Budget {
                renewals: 1,
                outages: 1,
                handovers: 1,
                ticks: 1,
                ..none
            },
            ..Profile::default()
        },
        Profile {
            name: "stale cluster: rollout, scaling, a standby takes over",
            replicas: 2 + more,
            lags: true,
            budget: Budget {
                edits: 1,
                scales: 1,
                handovers: 1,
                ..none
            },
            finds: &[Bug::TakesOverAtOnce],
            ..Profile::default()
        },
        Profile {
            name: "stale cluster: first replica, outage, another application's tables, a standby takes over",
            replicas: 1,
            running: false,
            lags: true,
            budget: Budget {
                outages: 1,
                swaps: 1,
                pauses: more,
                handovers: 1,
                ..none
            },
            ..Profile::default()
        },
    ]
}

/// Each version of the cluster counts here, so these are as small as the faults allow.
fn versions() -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "versions of the status: first replica, outages, another application's tables, death, a status that lands late",
            replicas: 1,
            running: false,
            lags: true,
            steps: 1,
            budget: Budget {
                crashes: 2,
                late: 1,
                outages: 2,
                swaps: 1,
                ..none
            },
            finds: &[Bug::StatusUnguarded],
            ..Profile::default()
        },
        Profile {
            name: "versions of the status: first replica, another Bytebase's database in its place",
            license: None,
            replicas: 2,
            running: false,
            lags: true,
            steps: 2,
            several: true,
            budget: Budget {
                exchanges: 1,
                ..none
            },
            finds: &[Bug::EchoTakenForAny],
            ..Profile::default()
        },
    ]
}

fn another(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "another Bytebase's database in its place: without a license, death",
            several: true,
            budget: Budget {
                exchanges: 1,
                crashes: 1,
                outages: more,
                deletions: more,
                ..none
            },
            finds: &[Bug::AnotherTakenForSame],
            ..Profile::default()
        },
        Profile {
            name: "another Bytebase's database in its place: with a license, death",
            license: None,
            replicas: 2,
            several: true,
            budget: Budget {
                exchanges: 1,
                crashes: 1,
                outages: more,
                freezes: more,
                ..none
            },
            ..Profile::default()
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
        poolers: 5,
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
        takings: 3,
        ticks: 60,
        ..Budget::default()
    }
}

/// The same with other versions, which may fail to come up, and a user who changes the strategy.
/// Under one license: how a rollout that stands still is reported must not depend on its end.
fn wild_upgrades() -> Budget {
    Budget {
        upgrades: 3,
        downgrades: 1,
        failures: 5,
        schemas: 1,
        switches: 3,
        edits: 0,
        renewals: 0,
        ..wild()
    }
}

/// Runs all of it and prints what was visited.
pub fn run(quick: bool) -> Result<()> {
    let begun = Instant::now();
    let states = visit(&profiles(quick))? + sharing::run(quick)?;
    walk(quick)?;
    plant(&Bug::ALL, &profiles(true))?;
    let model = checked(&Profile::default(), None)?;
    visit::all_can_be_broken(&model, Bug::ALL.map(Bug::breaks))?;
    let found = Bug::ALL.len() + sharing::planted();
    println!(
        "model: {states} states visited, {found} of {found} planted bugs found, {:.0} s",
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}

/// The same for upgrades alone.
pub fn run_upgrades(quick: bool) -> Result<()> {
    run_part("upgrades", quick, upgrades::profiles)
}

/// The same for what a standby knows that takes over, for what a watch shows late, and for another
/// database, alone.
pub fn run_stale(quick: bool) -> Result<()> {
    run_part("stale", quick, |more| {
        let profiles = stale(more).into_iter().chain(versions());
        profiles.chain(another(more)).collect()
    })
}

fn run_part(name: &str, quick: bool, profiles: impl Fn(u8) -> Vec<Profile>) -> Result<()> {
    let begun = Instant::now();
    let states = visit(&profiles(u8::from(!quick)))?;
    let homes = profiles(0);
    let bugs = homes
        .iter()
        .flat_map(|profile| profile.finds.iter().copied());
    let bugs: Vec<_> = bugs.collect();
    plant(&bugs, &homes)?;
    println!(
        "model: {name}: {states} states visited, {0} of {0} planted bugs found, {1:.0} s",
        bugs.len(),
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}

/// Visits every state of these runs. Returns how many there are.
fn visit(profiles: &[Profile]) -> Result<usize> {
    let mut states = 0;
    let mut broken = 0;
    for profile in profiles {
        match visit::every_state(profile.name, checked(profile, None)?) {
            Ok(visited) => states += visited,
            Err(error) => {
                println!("model: {error:#}");
                broken += 1;
            }
        }
    }
    ensure!(broken == 0, "in {broken} profiles a promise is broken");
    Ok(states)
}

fn checked(profile: &Profile, bug: Option<Bug>) -> Result<Checked> {
    let rules = Rules::new(bug)?;
    let rules = if profile.several {
        rules.for_several()
    } else {
        rules
    };
    Ok(Checked {
        rules: Arc::new(rules),
        budget: profile.budget,
        license: profile.license,
        replicas: profile.replicas,
        running: profile.running,
        strategy: profile.strategy,
        slow: profile.slow,
        lags: profile.lags,
        steps: profile.steps,
        recovered: Arc::default(),
    })
}

/// Walks at random through a world in which everything may happen, from another seed each second.
pub fn walk(quick: bool) -> Result<()> {
    let time = Duration::from_secs(if quick { 5 } else { 60 });
    let begun = Instant::now();
    let mut states = 0;
    let mut seed = 1;
    let rules = Arc::new(Rules::new(None)?);
    let recovered = Arc::default();
    while begun.elapsed() < time {
        let upgrades = seed % 4 >= 2;
        let (budget, license) = if upgrades {
            (wild_upgrades(), 200)
        } else {
            (wild(), 20)
        };
        let model = Checked {
            rules: Arc::clone(&rules),
            budget,
            license: Some(license),
            replicas: 3,
            running: seed % 2 == 0,
            strategy: if seed % 8 < 6 {
                Strategy::Rolling
            } else {
                Strategy::Maintenance
            },
            slow: seed % 3 == 0,
            lags: seed % 5 == 0,
            steps: 0,
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
                visit::describe_until(path, |world| world.ghost.broken.is_some())
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

/// Plants each bug in turn and searches for it, where it is to be found.
fn plant(bugs: &[Bug], homes: &[Profile]) -> Result<()> {
    for bug in bugs {
        let mut homes = homes.iter();
        let profile = homes
            .find(|profile| profile.finds.contains(bug))
            .with_context(|| format!("no profile is to find {bug:?}"))?;
        let model = checked(profile, Some(*bug))?;
        visit::until_found(&format!("{bug:?}"), model, bug.breaks())?;
    }
    Ok(())
}
