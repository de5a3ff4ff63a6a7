//! Checks the operator's rules in every state of a small world, at random far beyond that, and
//! that faults which are planted in them are found. `operator-model [quick]`.

#![allow(
    clippy::print_stdout,
    reason = "a command-line program that prints what it visited"
)]

mod check;
mod profiles;
mod promises;
mod rules;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let quick = std::env::args().nth(1).is_some_and(|word| word == "quick");
    match profiles::run(quick) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("model: {error:#}");
            ExitCode::FAILURE
        }
    }
}
