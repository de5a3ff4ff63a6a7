//! The Docker engine: the one this user already has, or a private one that the harness starts, with
//! its own data, socket and pid file, and stops when nobody uses it any more.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use tokio::process::Command;

use crate::command::{Call, tail};
use crate::machine::{Machine, find_program};
use crate::process::ProcessId;
use crate::wait;

/// The Docker network kind puts its nodes on.
pub const NETWORK: &str = "kind";

const RUNTIME: &str = "runc-without-sys-resource";
const RUNTIME_SCRIPT: &str = include_str!("runc-without-sys-resource.sh");
/// A fresh dockerd takes one or two seconds; a loaded machine several times that.
const START_PATIENCE: Duration = Duration::from_mins(1);
/// dockerd stops its containers first, each with ten seconds of grace.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A Docker engine that answers.
#[derive(Debug)]
pub struct Engine {
    /// Value of DOCKER_HOST; `None` leaves the choice to the docker program.
    host: Option<String>,
    /// Set if the engine is ours.
    private: Option<Private>,
}

#[derive(Debug)]
struct Private {
    folder: PathBuf,
    in_use: &'static File,
}

/// Locked, shared, by every process that uses the private engine: it is stopped only by one that
/// can lock it alone. One per process, so that a process is never in its own way.
static IN_USE: OnceLock<File> = OnceLock::new();

impl Engine {
    /// The engine that answers `docker info`, else our private one, started if need be.
    pub async fn open(cache: &Path, machine: Machine) -> Result<Self> {
        ensure!(
            find_program("docker").is_some(),
            "the docker program is missing: run `make setup`"
        );
        let usual = Self {
            host: None,
            private: None,
        };
        if usual.answers().await {
            return Ok(usual);
        }
        machine.can_start_engine()?;
        let folder = cache.join("engine");
        fs::create_dir_all(&folder)?;
        let starting = File::create(folder.join("starting"))?;
        starting.lock()?;
        let file = File::create(folder.join("in-use"))?;
        let in_use = IN_USE.get_or_init(|| file);
        in_use.lock_shared()?;
        let engine = Self {
            host: Some(format!("unix://{}", folder.join("docker.sock").display())),
            private: Some(Private {
                folder: folder.clone(),
                in_use,
            }),
        };
        if !engine.answers().await {
            start(&folder, machine).await?;
            let look = || async { Ok(engine.answers().await) };
            wait::until("dockerd", START_PATIENCE, look, |answers| *answers)
                .await
                .with_context(|| log_tail(&folder))?;
        }
        Ok(engine)
    }

    /// Whether an engine of ours was started and not stopped, by whoever.
    pub fn left_behind(cache: &Path) -> bool {
        cache.join("engine/process.json").exists()
    }

    /// A call of the docker program against this engine.
    pub fn docker(&self, arguments: &[&str]) -> Call {
        self.with_host(Call::new("docker", arguments))
    }

    /// Points a program that talks to Docker (kind) to this engine.
    pub fn with_host(&self, call: Call) -> Call {
        match &self.host {
            Some(host) => call.env("DOCKER_HOST", host),
            None => call,
        }
    }

    /// Value of DOCKER_HOST for a person who wants to look, if it is not the usual one.
    pub fn host(&self) -> Option<&str> {
        self.host.as_deref()
    }

    /// Makes sure the engine has the node image: it has it, or it is imported from the archive that
    /// `make setup` assembled.
    pub async fn ensure_node_image(&self, image: &str, archive: Option<&Path>) -> Result<()> {
        if self
            .docker(&["image", "inspect", image])
            .run()
            .await
            .is_ok()
        {
            return Ok(());
        }
        let archive = archive
            .with_context(|| format!("the engine has no image {image}: run `make setup` again"))?;
        let path = archive.display().to_string();
        self.docker(&[
            "import",
            "--change",
            "ENV container=docker",
            "--change",
            r#"ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]"#,
            &path,
            image,
        ])
        .run()
        .await?;
        self.remove_other_versions(image).await
    }

    /// Removes what earlier versions of an assembled image left: each takes half a gigabyte. One
    /// that a cluster still runs on stays.
    async fn remove_other_versions(&self, image: &str) -> Result<()> {
        let repository = image.split(':').next().unwrap_or(image);
        let format = "{{.Repository}}:{{.Tag}}";
        let printed = self
            .docker(&["images", "--format", format, repository])
            .run()
            .await?;
        for other in printed.lines().filter(|name| *name != image) {
            if let Err(error) = self.docker(&["image", "rm", other]).run().await {
                println!("note: {error:#}");
            }
        }
        Ok(())
    }

    /// The first IPv4 address of a network's gateway: where this machine is reached from its
    /// containers.
    pub async fn gateway(&self, network: &str) -> Result<String> {
        let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
        let printed = self
            .docker(&["network", "inspect", "--format", format, network])
            .run()
            .await?;
        printed
            .split_whitespace()
            .find(|address| address.parse::<std::net::Ipv4Addr>().is_ok())
            .map(str::to_owned)
            .with_context(|| format!("network {network} has no IPv4 gateway: {printed:?}"))
    }

    /// Stops the engine if it is ours, runs no container and nobody else uses it.
    pub async fn close(&self) -> Result<()> {
        let Some(private) = &self.private else {
            return Ok(());
        };
        let starting = File::create(private.folder.join("starting"))?;
        starting.lock()?;
        private.in_use.unlock()?;
        if private.in_use.try_lock().is_err() {
            return Ok(()); // another run uses it and will stop it
        }
        let running = self.docker(&["ps", "--quiet"]).run().await?;
        if !running.trim().is_empty() {
            return Ok(());
        }
        // Its bridge would stay behind as an interface of this machine. It is absent if no cluster
        // was ever made.
        let networks = self
            .docker(&["network", "ls", "--format", "{{.Name}}"])
            .run()
            .await?;
        if networks.lines().any(|name| name == NETWORK) {
            self.docker(&["network", "rm", NETWORK]).run().await?;
        }
        stop(&private.folder).await
    }

    async fn answers(&self) -> bool {
        // `docker info` of old clients succeeds without a server; asking for its version does not.
        self.docker(&["version", "--format", "{{.Server.Version}}"])
            .limit(Duration::from_secs(20))
            .run()
            .await
            .is_ok()
    }
}

async fn start(folder: &Path, machine: Machine) -> Result<()> {
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
async fn stop(folder: &Path) -> Result<()> {
    let record = folder.join("process.json");
    if let Ok(bytes) = fs::read(&record) {
        let process: ProcessId = serde_json::from_slice(&bytes)?;
        process.end(Signal::TERM, STOP_PATIENCE).await?;
        fs::remove_file(&record)?;
    }
    let pid_file = folder.join("run/containerd/containerd.pid");
    if let Ok(process) = ProcessId::from_file(&pid_file) {
        // The number may have been given to somebody else since: ours names our folder.
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

fn log_tail(folder: &Path) -> String {
    let log = folder.join("dockerd.log");
    let text = fs::read_to_string(&log).unwrap_or_default();
    format!(
        "dockerd did not start; the end of {}:\n{}",
        log.display(),
        tail(&text, 15)
    )
}
