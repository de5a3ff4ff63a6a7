//! What a cluster of ours consists of on this machine, written down before it is made, so that
//! whoever comes later (the reaper, or the next run) can take it away.

use crate::machine::process::ProcessId;
use anyhow::{Context, Result};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

/// The clusters of a checkout. They share nothing but the Docker engine and the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Purpose {
    /// Where scenarios run side by side.
    Test,
    /// Where scenarios run that stop or freeze the control plane or the kubelet, one after the
    /// other.
    ControlPlane,
    /// Where scenarios run that break whatever else all of a cluster's scenarios share, one after
    /// the other.
    Alone,
    /// What `make demo` shows.
    Demo,
    /// Where `make bench` measures.
    Bench,
    /// What `make soak` shakes.
    Soak,
}

impl Purpose {
    /// The word for it in names and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Test => "test",
            Self::ControlPlane => "control-plane",
            Self::Alone => "alone",
            Self::Demo => "demo",
            Self::Bench => "bench",
            Self::Soak => "soak",
        }
    }
}

/// Folders and names of one cluster.
#[derive(Debug, Clone)]
pub struct State {
    /// kind's name of the cluster.
    pub cluster: String,
    /// Kept between runs: kubeconfig, logs, the record.
    folder: PathBuf,
    /// Shared by all clusters of this user.
    cache: PathBuf,
}

/// What was started. A field is set before the thing is started, or as soon as it has a number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Whether kind was asked to make the cluster.
    pub cluster: bool,
    /// Whether the making of the cluster has begun and not come to its end: it is then made again.
    #[serde(default)]
    pub unfinished: bool,
    /// The PostgreSQL server.
    pub postgres: Option<PostgresRecord>,
    /// What stands beside it for single scenarios.
    #[serde(default)]
    pub companions: Vec<CompanionRecord>,
    /// What the nodes' stores were last loaded with: a checksum of the product's image archive.
    #[serde(default)]
    pub images: Option<String>,
}

/// How to find the PostgreSQL server again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostgresRecord {
    /// Absent between the making of the data folder and the start.
    pub process: Option<ProcessId>,
    pub data: PathBuf,
    pub port: u16,
    pub gateway: String,
    pub password: String,
}

/// How to find a scenario's own server again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompanionRecord {
    /// Namespace of the scenario.
    pub owner: String,
    /// All of its files.
    pub folder: PathBuf,
    /// Where it writes its number.
    pub pid_file: PathBuf,
    /// Absent until it has started.
    pub process: Option<ProcessId>,
}

/// Held while a run owns the cluster; let go when the process ends, however it ends.
#[derive(Debug)]
pub struct Ownership(
    #[expect(dead_code, reason = "the lock lives as long as the file is open")] File,
);

impl State {
    /// The state of this purpose's cluster. `E2E_NAME` separates checkouts that test at the same
    /// time on one machine; it is part of every name.
    pub fn open(purpose: Purpose, cache: &Path) -> Result<Self> {
        let suffix = match purpose {
            Purpose::Test => "e2e",
            Purpose::ControlPlane => "e2e-control",
            Purpose::Alone => "e2e-alone",
            Purpose::Demo => "demo",
            Purpose::Bench => "bench",
            Purpose::Soak => "soak",
        };
        let cluster = match std::env::var("E2E_NAME") {
            Ok(name) if !name.is_empty() => format!("bytebase-{suffix}-{name}"),
            _ => format!("bytebase-{suffix}"),
        };
        let folder = cache.join("clusters").join(&cluster);
        fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        Ok(Self {
            cluster,
            folder,
            cache: cache.to_owned(),
        })
    }

    /// Waits for other runs that use this cluster, or its reaper, to end.
    pub fn own(&self, waiting: impl FnOnce()) -> Result<Ownership> {
        let file = File::create(self.path("lock"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock()?;
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        Ok(Ownership(file))
    }

    /// A file of this cluster.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The folder shared by all clusters.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The file with which kubectl, Helm and clients reach the cluster.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// What was started so far.
    pub fn record(&self) -> Result<Record> {
        let path = self.path("record.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).with_context(|| format!("{}", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(error).with_context(|| format!("{}", path.display())),
        }
    }

    /// Changes the record. It holds a password, so only its owner can read it.
    pub fn update(&self, change: impl FnOnce(&mut Record)) -> Result<Record> {
        // Scenarios that run side by side write down what they start.
        static CHANGING: Mutex<()> = Mutex::new(());
        let _changing = CHANGING.lock();
        let mut record = self.record()?;
        change(&mut record);
        write_private(
            &self.path("record.json"),
            &serde_json::to_vec_pretty(&record)?,
        )?;
        Ok(record)
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    let part = path.with_extension("part");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)
        .with_context(|| format!("{}", part.display()))?;
    file.write_all(bytes)?;
    fs::rename(&part, path).with_context(|| format!("{}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;
    use std::collections::BTreeSet;

    #[test]
    fn a_record_survives_and_is_private() -> Result<()> {
        use std::os::unix::fs::PermissionsExt;

        let cache = tempfile::tempdir()?;
        let state = State::open(Purpose::Demo, cache.path())?;
        assert_eq!(state.record()?, Record::default());
        state.update(|record| record.cluster = true)?;
        assert!(State::open(Purpose::Demo, cache.path())?.record()?.cluster);
        let mode = fs::metadata(state.path("record.json"))?
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        Ok(())
    }

    #[test]
    fn clusters_share_no_name() -> Result<()> {
        let cache = tempfile::tempdir()?;
        let purposes = Purpose::value_variants();
        let (mut clusters, mut kubeconfigs) = (BTreeSet::new(), BTreeSet::new());
        for purpose in purposes {
            let state = State::open(*purpose, cache.path())?;
            kubeconfigs.insert(state.kubeconfig());
            clusters.insert(state.cluster);
        }
        assert_eq!(
            (clusters.len(), kubeconfigs.len()),
            (purposes.len(), purposes.len())
        );
        Ok(())
    }

    #[test]
    fn a_reaper_understands_what_its_cluster_is_called() {
        for purpose in Purpose::value_variants() {
            assert_eq!(Purpose::from_str(purpose.name(), false), Ok(*purpose));
        }
    }

    #[test]
    fn ownership_ends_with_its_holder() -> Result<()> {
        let cache = tempfile::tempdir()?;
        let state = State::open(Purpose::Test, cache.path())?;
        drop(state.own(|| {})?);
        let mut waited = false;
        let _held = state.own(|| waited = true)?;
        assert!(!waited);
        Ok(())
    }
}
