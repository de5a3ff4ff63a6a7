//! `e2e`: the command-line program around the harness.

use bytebase_e2e::cli::Cli;
use clap::Parser;
use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    // Chosen before the first TLS connection: the process has one provider.
    let installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let result = match installed {
        Ok(()) => Cli::parse().run().await,
        Err(_) => Err(anyhow::anyhow!("another TLS provider is installed already")),
    };
    result.unwrap_or_else(|error| {
        // Causes in one line; where in the code it came from helps no one here.
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
