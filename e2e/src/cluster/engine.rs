//! The Docker engine: the one this user already has, or a private one that the harness starts, with
//! its own data, socket and pid file, and stops when no other process uses it any more.

use crate::machine::command::Call;
use crate::machine::{Machine, find_program};
use crate::no_registry::dockerd;
use crate::wait;
use anyhow::{Context, Result, ensure};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

/// The Docker network kind puts its nodes on.
pub const NETWORK: &str = "kind";

/// A fresh dockerd takes one or two seconds; a loaded machine several times that.
const START_PATIENCE: Duration = Duration::from_mins(1);

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
            dockerd::start(&folder, machine).await?;
            let answers = || async { Ok(engine.answers().await) };
            wait::until("dockerd", START_PATIENCE, answers, |answers| *answers)
                .await
                .with_context(|| dockerd::log_tail(&folder))?;
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

    /// Value of DOCKER_HOST for a person who wants to call it, if it is not the usual one.
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

    /// Stops the engine if it is ours, runs no container and no other process uses it.
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
        dockerd::stop(&private.folder).await
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
