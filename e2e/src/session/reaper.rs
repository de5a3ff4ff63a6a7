//! Cleaning up after a runner that could not: a small child process that waits at the end of a
//! pipe. The kernel closes the pipe however the runner ends, and unless the runner had said that
//! all is well, the reaper takes down what the record names.

use crate::machine::tools::Tools;
use crate::session::state::{Purpose, State};
use crate::session::teardown::teardown;
use anyhow::{Context, Result};
use std::fs::File;
use std::io::Read;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};

/// What the runner says before it ends in order.
const DISMISSAL: &[u8] = b"dismissed";

/// A reaper that waits.
#[derive(Debug)]
pub struct Reaper(Child);

impl Reaper {
    /// Starts one for this cluster, as a process of this same program.
    pub fn start(state: &State, purpose: Purpose) -> Result<Self> {
        let log = File::create(state.path("reaper.log"))?;
        let child = Command::new(std::env::current_exe()?)
            .args(["reap", purpose.name()])
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Out of reach of what ends the runner's own group, such as Ctrl-C.
            .process_group(0)
            .spawn()
            .context("cannot start the reaper")?;
        Ok(Self(child))
    }

    /// Lets it know that there is nothing to do.
    pub async fn dismiss(mut self) -> Result<()> {
        let mut pipe = self.0.stdin.take().context("the reaper has no pipe")?;
        pipe.write_all(DISMISSAL).await?;
        drop(pipe);
        self.0.wait().await?;
        Ok(())
    }
}

/// The reaper's own life.
pub async fn reap(purpose: Purpose) -> Result<()> {
    let said = tokio::task::spawn_blocking(|| {
        let mut said = Vec::new();
        std::io::stdin().read_to_end(&mut said).map(|_| said)
    })
    .await??;
    if said == DISMISSAL {
        return Ok(());
    }
    println!("the runner ended without tidying up: doing it");
    let tools = Tools::load()?;
    let state = State::open(purpose, &tools.cache)?;
    // The next run may have been waiting for the dead one: it cleans up too, and only one may.
    let _ownership = state.own(|| println!("waiting for the owner of the cluster"))?;
    teardown(&state, &tools).await?;
    println!("done");
    Ok(())
}
