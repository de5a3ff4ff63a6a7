//! `e2e`: the command-line program around the harness.

use std::process::ExitCode;

use bytebase_e2e::cli::Cli;
use clap::Parser;

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    // Chosen before the first TLS connection: the process has one provider.
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        anyhow::bail!("another TLS provider is installed already");
    }
    Cli::parse().run().await
}
