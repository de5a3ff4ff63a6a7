//! The command line of `e2e`.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::bench;
use crate::harness::Session;
use crate::runner;
use crate::state::Purpose;
use crate::{demo, reaper, soak, system_images};

/// Scenarios side by side without a word about it.
const DEFAULT_JOBS: usize = 4;
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
    /// Make the test cluster and PostgreSQL, and leave them running for `test --keep`
    Up,
    /// Take the test cluster and PostgreSQL down
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
    /// Write the system images of a node image (called by node-image/build.sh)
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
    Session::begin(Purpose::Test, true).await?.end().await
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
    let scenarios = runner::select(&names)?;
    let session = Session::begin(Purpose::Test, keep).await?;
    let work = async {
        let harness = session.up().await?;
        runner::run(&harness, scenarios, jobs, keep).await
    };
    let result = tokio::select! {
        result = work => Some(result),
        interrupted = interruption() => { interrupted?; None }
    };
    if keep {
        session.leave().await?;
    } else {
        session.end().await?;
    }
    match result {
        None => {
            println!("interrupted");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Some(result) => {
            let tally = result?;
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
    }
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
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
