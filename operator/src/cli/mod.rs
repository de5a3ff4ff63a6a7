//! The command line.

mod check;
pub(crate) mod reference;
mod run;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Runs Bytebase with several replicas on Kubernetes, and proves each step against its metadata
/// database.
#[derive(Debug, Parser)]
#[command(name = "bytebase-operator", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator.
    Run(Box<run::RunArguments>),
    /// Print the CustomResourceDefinition as YAML.
    Crd,
    /// Print the reference page as Markdown.
    Reference,
    /// Check BytebaseCluster files without a Kubernetes cluster, by the operator's own rules.
    Check(check::CheckArguments),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let Cli { command } = Cli::parse();
    let result = match command {
        Command::Run(arguments) => run::run(*arguments),
        Command::Crd => print(serde_yaml::to_string(&crate::api::crd())),
        Command::Reference => print(Ok::<_, String>(reference::reference(&crate::api::crd()))),
        Command::Check(arguments) => check::check(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stdout,
    reason = "printing is what these commands are for"
)]
fn print<E: std::fmt::Display>(text: Result<String, E>) -> Result<(), String> {
    print!("{}", text.map_err(|error| error.to_string())?);
    Ok(())
}
