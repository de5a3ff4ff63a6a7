//! The command line of `e2e`.

use crate::bench;
use crate::images::BytebaseImage;
use crate::no_registry::system_images;
use crate::scenario::runner::{self, Tally};
use crate::scenario::{Lane, Scenario};
use crate::session::harness::Session;
use crate::session::reaper;
use crate::session::state::Purpose;
use crate::times::Processors;
use crate::{demo, soak, times};
use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use futures::future::try_join_all;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;

/// Scenarios side by side on the shared cluster without a word about it. They wait more than they
/// work: with four, two processors are idle for a third of the time. Where processors have no time
/// left (the end of a run says how busy they were), more make each scenario slower, and those fail
/// that measure how long the operator takes.
const DEFAULT_JOBS: usize = 6;
/// What shells report for a program ended by Ctrl-C.
const INTERRUPTED: u8 = 130;

/// End-to-end tests and demo of the Bytebase operator on a real Kubernetes cluster
#[derive(Debug, Parser)]
#[command(name = "e2e")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the cluster for scenarios that run side by side, and leave it running for `test --keep`
    Up,
    /// Take down what `up` and `test --keep` left
    Down,
    /// Run scenarios: all of them, or those named
    Test(TestArguments),
    /// Measure speed and cost, on a cluster of its own
    Bench(bench::Arguments),
    /// Shake several clusters at random from a seed, on a Kubernetes cluster of their own
    Soak(soak::Arguments),
    /// Make the demo cluster with everything on it, and leave it running
    Demo,
    /// Take the demo cluster down
    DemoDown,
    /// Write the system images of a node image (called by no_registry/node-image/build.sh)
    #[command(hide = true)]
    SystemImages(system_images::Arguments),
    /// Wait for the end of the pipe on standard input and clean up (started by the harness)
    #[command(hide = true)]
    Reap { purpose: Purpose },
}

#[derive(Debug, clap::Args)]
struct TestArguments {
    /// Scenarios by name
    names: Vec<String>,
    /// Scenarios at a time
    #[arg(long, env = "E2E_JOBS", default_value_t = DEFAULT_JOBS)]
    jobs: usize,
    /// Leave the cluster, and the namespaces of scenarios that failed; the next run uses it again
    #[arg(long, env = "E2E_KEEP", value_parser = clap::builder::BoolishValueParser::new())]
    keep: bool,
    /// Name the scenarios and run none
    #[arg(long)]
    list: bool,
}

impl Cli {
    /// Does what the arguments say.
    pub async fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Up => up().await,
            Command::Down => down().await,
            Command::Test(arguments) => return test(arguments).await,
            Command::Bench(arguments) => bench::run(&arguments).await,
            Command::Soak(arguments) => soak::run(&arguments).await,
            Command::Demo => demo::up().await,
            Command::DemoDown => demo::down().await,
            Command::SystemImages(arguments) => system_images::write(&arguments),
            Command::Reap { purpose } => reaper::reap(purpose).await,
        }
        .map(|()| ExitCode::SUCCESS)
    }
}

async fn up() -> Result<()> {
    let session = Session::begin(Purpose::Test, true).await?;
    let harness = session.up().await?;
    println!("{}", demo::hints(&harness));
    session.leave().await
}

async fn down() -> Result<()> {
    for lane in Lane::ALL {
        Session::begin(lane.purpose(), true).await?.end().await?;
    }
    Ok(())
}

async fn test(arguments: TestArguments) -> Result<ExitCode> {
    let TestArguments {
        names,
        jobs,
        keep,
        list,
    } = arguments;
    if list {
        println!("{}", runner::list());
        return Ok(ExitCode::SUCCESS);
    }
    let on_stand_in = BytebaseImage::from_environment()?.stand_in;
    let mut scenarios = runner::fit(runner::select(&names)?, on_stand_in);
    let mut lanes = Vec::new();
    for lane in Lane::ALL {
        let (here, others) = scenarios
            .into_iter()
            .partition::<Vec<_>, _>(|scenario| scenario.lane == lane);
        scenarios = others;
        if !here.is_empty() {
            let session = Session::begin(lane.purpose(), keep).await?;
            lanes.push((session, here, lane.jobs(jobs)));
        }
    }
    let before = Processors::now();
    let result = tokio::select! {
        result = all(&lanes, keep) => Some(result),
        interrupted = interruption() => { interrupted?; None }
    };
    let after = Processors::now();
    // One after the other: the last one stops the engine.
    for (session, ..) in lanes {
        if keep {
            session.leave().await?;
        } else {
            session.end().await?;
        }
    }
    let Some(result) = result else {
        println!("interrupted");
        return Ok(ExitCode::from(INTERRUPTED));
    };
    let tally = result?;
    println!("{}", times::table());
    if let Some(busy) = before.and_then(|before| after?.since(before)) {
        println!("{busy}");
    }
    println!("{tally}");
    if tally.passed + tally.failed == 0 {
        bail!("no scenario ran");
    }
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the scenarios of each cluster as soon as it is up. One comes up at a time: they share the
/// Docker engine and cargo's build.
async fn all(lanes: &[(Session, Vec<Scenario>, usize)], keep: bool) -> Result<Tally> {
    let turn = Mutex::new(());
    let lanes = lanes.iter().map(async |(session, scenarios, jobs)| {
        let turn = turn.lock().await;
        let harness = session.up().await?;
        if scenarios.iter().any(|scenario| scenario.product) {
            harness.load_product().await?;
        }
        drop(turn);
        runner::run(&harness, scenarios, *jobs, keep).await
    });
    let tallies = try_join_all(lanes).await?;
    Ok(tallies.into_iter().sum())
}

/// Ctrl-C, or the polite request to end that `kill` and CI systems send.
async fn interruption() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
