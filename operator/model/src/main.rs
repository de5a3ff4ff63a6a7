//! Checks the operator's rules in every state of a small world, at random far beyond that, and
//! that faults which are planted in them are found; and the same for the drain hook's, in a world
//! of its own: [`drains`]. `operator-model [quick] [drains | sharing | stale | upgrades | walk]`
//! runs a part.

#![allow(
    clippy::print_stdout,
    reason = "a command-line program that prints what it visited"
)]

mod bugs;
mod check;
mod database;
mod drains;
mod judge;
mod knowledge;
mod owners;
mod profile;
mod profiles;
mod promises;
mod rules;
mod sharing;
mod upgrades;
mod visit;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let says = |meant: &str| words.iter().any(|word| word == meant);
    let quick = says("quick");
    let checked = if says("drains") {
        drains::run(quick)
    } else if says("sharing") {
        sharing::run(quick).map(drop)
    } else if says("upgrades") {
        profiles::run_upgrades(quick)
    } else if says("stale") {
        profiles::run_stale(quick)
    } else if says("walk") {
        profiles::walk(quick)
    } else {
        profiles::run(quick).and_then(|()| drains::run(quick))
    };
    match checked {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("model: {error:#}");
            ExitCode::FAILURE
        }
    }
}
