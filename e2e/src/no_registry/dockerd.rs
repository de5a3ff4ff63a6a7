//! A private Docker engine, for machines on which none answers: its own data, socket and pid file,
//! below one folder. Who uses it, and when it is stopped, [`crate::cluster::engine`] knows.

use crate::machine::command::tail;
use crate::machine::process::ProcessId;
use crate::machine::{Machine, find_program};
use anyhow::{Context, Result};
use rustix::process::Signal;
use serde_json::json;
use std::fs::{self, File};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

const RUNTIME: &str = "runc-without-sys-resource";
const RUNTIME_SCRIPT: &str = include_str!("runc-without-sys-resource.sh");
/// dockerd stops its containers first, each with ten seconds of grace.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// Starts our dockerd in this folder, and writes down which process it is.
pub async fn start(folder: &Path, machine: Machine) -> Result<()> {
    // Left by an engine that was killed: dockerd refuses to start over a pid file whose number is
    // taken again.
    stop(folder).await?;
    let mut configuration = json!({});
    if !machine.sys_resource {
        let script = folder.join(RUNTIME);
        fs::write(&script, RUNTIME_SCRIPT)?;
        set_executable(&script)?;
        configuration = json!({
            "runtimes": {RUNTIME: {"path": script}},
            "default-runtime": RUNTIME,
        });
    }
    let file = folder.join("daemon.json");
    fs::write(&file, configuration.to_string())?;
    let log = File::create(folder.join("dockerd.log"))?;
    let program = find_program("dockerd").context("dockerd is missing")?;
    // `--bridge none`: the nodes have kind's own network, and the usual bridge may belong to
    // another engine.
    let child = Command::new(program)
        .args(["--bridge", "none", "--config-file"])
        .arg(&file)
        .arg("--data-root")
        .arg(folder.join("data"))
        .arg("--exec-root")
        .arg(folder.join("run"))
        .arg("--pidfile")
        .arg(folder.join("dockerd.pid"))
        .arg("--host")
        .arg(format!("unix://{}", folder.join("docker.sock").display()))
        // Its own process group: Ctrl-C in the terminal is for the runner, which takes down in
        // order.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start dockerd")?;
    let pid = i32::try_from(child.id().with_context(|| log_tail(folder))?)?;
    fs::write(
        folder.join("process.json"),
        serde_json::to_vec(&ProcessId::of(pid)?)?,
    )?;
    Ok(())
}

/// Ends our dockerd and, if it was killed before it could, the containerd it had started.
pub async fn stop(folder: &Path) -> Result<()> {
    let record = folder.join("process.json");
    if let Ok(bytes) = fs::read(&record) {
        let process: ProcessId = serde_json::from_slice(&bytes)?;
        process.end(Signal::TERM, STOP_PATIENCE).await?;
        fs::remove_file(&record)?;
    }
    let pid_file = folder.join("run/containerd/containerd.pid");
    if let Ok(process) = ProcessId::from_file(&pid_file) {
        // The number may have been given to another process since: ours names our folder.
        let own = folder.display().to_string();
        let command = fs::read_to_string(format!("/proc/{}/cmdline", process.pid()));
        if command.is_ok_and(|command| command.contains(&own)) {
            process.end(Signal::TERM, STOP_PATIENCE).await?;
        }
    }
    let pid_file = folder.join("dockerd.pid");
    if pid_file.exists() {
        fs::remove_file(pid_file)?;
    }
    Ok(())
}

fn set_executable(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// The end of what dockerd logged, for the error that says it did not start.
pub fn log_tail(folder: &Path) -> String {
    let log = folder.join("dockerd.log");
    let text = fs::read_to_string(&log).unwrap_or_default();
    format!(
        "dockerd did not start; the end of {}:\n{}",
        log.display(),
        tail(&text, 15)
    )
}
