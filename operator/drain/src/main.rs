//! The drain hook: has a Bytebase replica finish its running tasks before it ends.
//!
//! Bytebase cancels a running migration as soon as it is asked to end. So this program runs as the
//! preStop hook of its container, in the container's environment, and returns when the replica
//! beside it runs no task any more. It asks the metadata database alone: it works with the operator
//! away.
//!
//! ```text
//! bytebase-drain install PATH     copies itself to PATH, as an init container, and tries the copy
//! bytebase-drain --version        says its version, and does no more
//! bytebase-drain wait OPTIONS     waits, as the preStop hook
//! ```
//!
//! [`bytebase_drain::drain`] decides and is pure; [`login`], [`watch`] and [`process`] read;
//! [`wait`] does.

mod install;
mod log;
mod login;
mod options;
mod passfile;
mod process;
mod wait;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments.as_slice() {
        ["install", path] => install::install(path.as_ref()),
        [install::TRIAL] => {
            let said = writeln!(std::io::stdout(), "bytebase-drain {}", env!("CARGO_PKG_VERSION"));
            said.map_err(|error| format!("cannot say its version: {error}"))
        }
        ["wait", options @ ..] => options::parse(options).map(|(terms, log)| wait::wait(terms, log)),
        _ => Err("usage: bytebase-drain install PATH | bytebase-drain --version | bytebase-drain wait [--timeout=SECONDS] [--pause=SECONDS] [--hold-limit=SECONDS]".to_owned()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("bytebase-drain: {message}");
            ExitCode::FAILURE
        }
    }
}
