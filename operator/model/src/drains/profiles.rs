//! What may happen in one run of the world of drains, and which planted bugs it must find.

use super::check::Checked;
use super::hook::{Bug, Rules, STEP};
use super::world::Budget;
use crate::visit;
use anyhow::{Context as _, Result, ensure};
use bytebase_drain::drain::Terms;
use std::time::{Duration, Instant};

/// One run.
struct Profile {
    name: &'static str,
    replicas: u8,
    /// The step in which it begins.
    begins: u8,
    /// The time-out, in steps.
    timeout: u32,
    budget: Budget,
    /// Bugs that this run must find.
    finds: &'static [Bug],
}

impl Default for Profile {
    /// Two replicas whose drains may take long, and nothing happens.
    fn default() -> Self {
        Self {
            name: "",
            replicas: 2,
            begins: 0,
            timeout: 30,
            budget: Budget::default(),
            finds: &[],
        }
    }
}

/// Longest that the queue is held, in steps: it may be held in the first three, then not in three,
/// and so on.
const LIMIT: u32 = 3;

/// All runs.
fn profiles(quick: bool) -> Vec<Profile> {
    let more = u8::from(!quick);
    let mut profiles = queue(more);
    profiles.extend(processes(more));
    profiles.extend(operator(more));
    profiles.extend(database(more));
    profiles
}

fn queue(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "drains of two: work comes",
            begins: 2,
            budget: Budget {
                ends: 2,
                work: 2,
                ticks: 4 + more,
                ..none
            },
            finds: &[Bug::NoLastReading, Bug::LeavesQueuedWork, Bug::NeverHolds],
            ..Profile::default()
        },
        Profile {
            name: "drains of two of three: work comes",
            replicas: 3,
            begins: 2,
            budget: Budget {
                ends: 2,
                work: 1 + more,
                ticks: 4 + more,
                ..none
            },
            ..Profile::default()
        },
        Profile {
            name: "drain: a promotion, a slow last reading",
            budget: Budget {
                ends: 1,
                work: 2,
                refusals: 1,
                delays: 1,
                ticks: 5 + more,
                ..none
            },
            finds: &[Bug::LeavesUnheld],
            ..Profile::default()
        },
        Profile {
            name: "drains: answers are lost",
            budget: Budget {
                ends: 1 + more,
                work: 1,
                losses: 1,
                ticks: 6 + more,
                ..none
            },
            ..Profile::default()
        },
    ]
}

fn processes(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "drains: containers restarted before",
            budget: Budget {
                ends: 1 + more,
                work: 2,
                restarts: 1,
                ticks: 4,
                ..none
            },
            finds: &[Bug::EarlierIdTaken, Bug::EarlierTasksCount],
            ..Profile::default()
        },
        Profile {
            name: "drains of two: hooks killed",
            begins: 2,
            budget: Budget {
                ends: 2,
                work: 1 + more,
                kills: 1 + more,
                ticks: 5,
                ..none
            },
            finds: &[Bug::HoldForgotten, Bug::WindowsOfItsOwn],
            ..Profile::default()
        },
        Profile {
            name: "drains of two: a schema migration",
            budget: Budget {
                ends: 2,
                work: more,
                migrations: 1,
                ticks: 4 + more,
                ..none
            },
            finds: &[Bug::MigrationIgnored],
            ..Profile::default()
        },
        Profile {
            name: "drains: the time-out",
            timeout: 4,
            budget: Budget {
                ends: 1 + more,
                work: 1,
                outages: 1,
                ticks: 7,
                ..none
            },
            finds: &[Bug::NoTimeOut],
            ..Profile::default()
        },
    ]
}

fn operator(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "drains of two: the operator asks",
            budget: Budget {
                ends: 2,
                work: 1,
                asks: 1 + more,
                ticks: 2 + more,
                ..none
            },
            finds: &[Bug::AnyRequestCounts, Bug::RequestIgnored],
            ..Profile::default()
        },
        Profile {
            name: "drain: the operator asks, a schema migration",
            budget: Budget {
                ends: 1,
                work: 1,
                migrations: 1,
                asks: 1 + more,
                ticks: 4 + more,
                ..none
            },
            finds: &[Bug::RequestCutsMigration],
            ..Profile::default()
        },
        Profile {
            name: "drain: the operator asks, the database goes away",
            replicas: 1,
            budget: Budget {
                ends: 1,
                work: 1,
                outages: 1,
                deafnesses: 1,
                asks: 1 + more,
                ticks: 5 + more,
                ..none
            },
            ..Profile::default()
        },
    ]
}

fn database(more: u8) -> Vec<Profile> {
    let none = Budget::default();
    vec![
        Profile {
            name: "drain: a table that is not understood",
            budget: Budget {
                ends: 1,
                work: 2,
                renames: 1 + more,
                ticks: 5 + more,
                ..none
            },
            finds: &[Bug::UnknownIsIdle],
            ..Profile::default()
        },
        Profile {
            name: "drains: a replica hangs",
            timeout: 40,
            budget: Budget {
                ends: 1 + more,
                work: 2,
                hangs: 1,
                ticks: 14 + more,
                ..none
            },
            finds: &[Bug::HungIsBusy],
            ..Profile::default()
        },
        Profile {
            name: "drain: outages",
            replicas: 1 + more,
            timeout: 40,
            budget: Budget {
                ends: 1,
                work: 1,
                outages: 1 + more,
                ticks: 22 + 2 * more,
                ..none
            },
            finds: &[Bug::LeavesUnanswered],
            ..Profile::default()
        },
        Profile {
            name: "drain: replica and hook lose the database",
            replicas: 1 + more,
            timeout: 40,
            budget: Budget {
                ends: 1,
                work: 1,
                cuts: 1,
                deafnesses: 1,
                ticks: 11 + 2 * more,
                ..none
            },
            finds: &[Bug::SilenceIsNoSession],
            ..Profile::default()
        },
        Profile {
            name: "drain: the login leads to another database",
            replicas: 1 + more,
            timeout: 40,
            budget: Budget {
                ends: 1,
                work: 1,
                strays: 1,
                ticks: 13 + more,
                ..none
            },
            finds: &[Bug::AwayIsIdle],
            ..Profile::default()
        },
        Profile {
            name: "drain: the tables are dropped, and come back",
            replicas: 1 + more,
            timeout: 40,
            budget: Budget {
                ends: 1,
                work: 1,
                drops: 1,
                ticks: 22 + 2 * more,
                ..none
            },
            finds: &[Bug::EmptiedIsIdle],
            ..Profile::default()
        },
    ]
}

fn checked(profile: &Profile, bug: Option<Bug>) -> Checked {
    let step = Duration::from_secs(STEP);
    Checked {
        rules: Rules {
            terms: Terms {
                timeout: step * profile.timeout,
                pause: step,
                hold_limit: step * LIMIT,
            },
            bug,
        },
        replicas: profile.replicas,
        begins: profile.begins,
        budget: profile.budget,
        needed: std::sync::Arc::default(),
    }
}

/// Runs all of it and prints what was visited.
pub fn run(quick: bool) -> Result<()> {
    let begun = Instant::now();
    let mut states = 0;
    let mut broken = 0;
    for profile in profiles(quick) {
        match visit::every_state(profile.name, checked(&profile, None)) {
            Ok(visited) => states += visited,
            Err(error) => {
                println!("model: {error:#}");
                broken += 1;
            }
        }
    }
    ensure!(broken == 0, "in {broken} profiles a promise is broken");
    let all = profiles(true);
    for bug in Bug::ALL {
        let profile = all
            .iter()
            .find(|profile| profile.finds.contains(&bug))
            .with_context(|| format!("no profile is to find {bug:?}"))?;
        let model = checked(profile, Some(bug));
        visit::until_found(&format!("{bug:?}"), model, bug.breaks())?;
    }
    if let Some(profile) = all.first() {
        visit::all_can_be_broken(&checked(profile, None), Bug::ALL.map(Bug::breaks))?;
    }
    println!(
        "model: drains: {states} states visited, {0} of {0} planted bugs found, {1:.0} s",
        Bug::ALL.len(),
        begun.elapsed().as_secs_f32()
    );
    Ok(())
}
