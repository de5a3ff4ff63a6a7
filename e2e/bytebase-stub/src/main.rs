//! A stand-in for Bytebase: keeps the contract that the operator and its tests rest on, and does
//! none of the real work.
//!
//! It is started with Bytebase's flags, keeps Bytebase's tables, sends heartbeats, claims and obeys
//! the license as Bytebase does. One module per part of that contract; [`server`] has the order in
//! which they start.

mod cli;
mod database;
mod entitlement;
mod external_url;
mod heartbeat;
mod http;
mod knobs;
mod license;
mod logging;
mod migration;
mod pg_url;
mod schema;
mod server;
mod session_lock;
mod signals;
mod tasks;

use clap::{Parser as _, error::ErrorKind};
use cli::Flags;
use std::{fmt::Display, future::Future, io, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

/// Every end is code 0, failed starts too: that is what Bytebase does, and why the operator must
/// read logs.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match Flags::try_parse() {
        Ok(flags) => run(&flags).await,
        Err(error) if error.kind() == ErrorKind::DisplayHelp => {
            // Nowhere to report to when the terminal is gone.
            let _ = error.print();
        }
        Err(error) => {
            logging::start(false);
            // Only the first line: the rest is usage.
            report(error.to_string().lines().next().unwrap_or_default());
        }
    }
    ExitCode::SUCCESS
}

async fn run(flags: &Flags) {
    logging::start(flags.enable_json_logging);
    // Before anything else: process 1 of a container ignores a signal that has no handler.
    let end = match end_signal() {
        Ok(end) => end,
        Err(error) => return report(&error),
    };
    tokio::pin!(end);
    if rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .is_err()
    {
        return report(&"no TLS provider");
    }
    let env = |name: &str| std::env::var(name).ok();
    let server = tokio::select! {
        () = &mut end => return,
        started = server::start(flags, &env) => match started {
            Ok(server) => server,
            Err(error) => return report(&error),
        },
    };
    end.await;
    tracing::info!("SIGTERM received, shutting down");
    server.shut_down().await;
}

fn end_signal() -> io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn report(error: &(impl Display + ?Sized)) {
    tracing::error!(%error, "Cannot new server");
}
