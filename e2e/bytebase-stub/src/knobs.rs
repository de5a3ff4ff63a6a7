//! What the environment may change about the stand-in itself. Defaults are Bytebase's own numbers;
//! tests shorten them.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

/// Where the image keeps the version it plays.
const VERSION_FILE: &str = "/etc/bytebase-stub/version";
/// Where the image keeps the key that licenses are verified with.
const PUBLIC_KEY_FILE: &str = "/etc/bytebase-stub/license.pub";
const DEFAULT_VERSION: Version = Version {
    major: 3,
    minor: 21,
    patch: 1,
};

/// All of it, read once at the start.
#[derive(Debug, Clone)]
pub struct Knobs {
    /// Version this binary plays; also the schema version it migrates to.
    pub version: Version,
    /// PEM file with the RSA public key that signs licenses.
    pub public_key_file: PathBuf,
    /// How long a migration takes while it holds its lock.
    pub migration: Duration,
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// A replica whose last heartbeat is not older than this is active.
    pub active_window: Duration,
    /// The owner of a task is dead after this time without a heartbeat.
    pub owner_dead_after: Duration,
    /// How often a replica looks for tasks of dead owners.
    pub stale_check: Duration,
    /// Heartbeat rows older than this are deleted, and this often.
    pub heartbeat_retention: Duration,
    /// Time between two rounds of the task scheduler.
    pub scheduler: Duration,
    /// How long a replica trusts the license it read.
    pub license_cache: Duration,
    /// How long a replica trusts the number of active replicas it counted.
    pub active_cache: Duration,
    /// How long replicas may exceed the license before queued work is failed.
    pub restriction_grace: Duration,
    /// Life of a login token.
    pub token_life: Duration,
    /// Mebibytes of log that follow the start: the kubelet throws the head of a long log away.
    pub log_mebibytes: u64,
    /// Mebibytes of memory that are taken after the start: where they are more than the limit of
    /// the container, the kernel kills it.
    pub memory_mebibytes: u64,
    /// The version that does not start, whoever plays it.
    pub failing_version: Option<Version>,
}

/// A release, `major.minor.patch`; a suffix such as `-rc1` is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u32,
    minor: u32,
    patch: u32,
}

/// Why a knob was not understood.
#[derive(Debug, thiserror::Error)]
pub enum KnobError {
    /// The version is not `major.minor.patch`.
    #[error("the version {0:?} is not major.minor.patch")]
    Version(String),
    /// A duration is not a number of seconds.
    #[error("{0} must be a number of seconds")]
    Seconds(&'static str),
}

impl Knobs {
    /// Reads the knobs through `env`, so that tests need not touch the process environment.
    pub fn read(env: &dyn Fn(&str) -> Option<String>) -> Result<Self, KnobError> {
        let seconds = |name: &'static str, default: u64| match env(name) {
            None => Ok(Duration::from_secs(default)),
            Some(text) => text
                .trim()
                .parse::<f64>()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
                .ok_or(KnobError::Seconds(name)),
        };
        // A timer of zero would spin; a tenth of a second is quick enough for any test.
        let period = |name, default| {
            seconds(name, default).map(|period| period.max(Duration::from_millis(100)))
        };
        Ok(Self {
            version: read_version(env)?,
            public_key_file: env("BYTEBASE_STUB_LICENSE_PUBLIC_KEY_FILE")
                .unwrap_or_else(|| PUBLIC_KEY_FILE.to_owned())
                .into(),
            migration: seconds("BYTEBASE_STUB_MIGRATION_SECONDS", 0)?,
            heartbeat: period("BYTEBASE_STUB_HEARTBEAT_SECONDS", 10)?,
            active_window: seconds("BYTEBASE_STUB_ACTIVE_SECONDS", 30)?,
            owner_dead_after: seconds("BYTEBASE_STUB_OWNER_DEAD_SECONDS", 60)?,
            stale_check: period("BYTEBASE_STUB_STALE_CHECK_SECONDS", 30)?,
            heartbeat_retention: period("BYTEBASE_STUB_HEARTBEAT_RETENTION_SECONDS", 3600)?,
            scheduler: period("BYTEBASE_STUB_SCHEDULER_SECONDS", 5)?,
            license_cache: seconds("BYTEBASE_STUB_LICENSE_CACHE_SECONDS", 60)?,
            active_cache: seconds("BYTEBASE_STUB_ACTIVE_CACHE_SECONDS", 30)?,
            restriction_grace: seconds("BYTEBASE_STUB_RESTRICTION_GRACE_SECONDS", 600)?,
            token_life: seconds("BYTEBASE_STUB_TOKEN_SECONDS", 3600)?,
            log_mebibytes: seconds("BYTEBASE_STUB_LOG_MIB", 0)?.as_secs(),
            memory_mebibytes: seconds("BYTEBASE_STUB_MEMORY_MIB", 0)?.as_secs(),
            failing_version: env("BYTEBASE_STUB_FAILING_VERSION")
                .map(|text| text.trim().parse())
                .transpose()?,
        })
    }
}

fn read_version(env: &dyn Fn(&str) -> Option<String>) -> Result<Version, KnobError> {
    let stated =
        env("BYTEBASE_STUB_VERSION").or_else(|| std::fs::read_to_string(VERSION_FILE).ok());
    stated.map_or(Ok(DEFAULT_VERSION), |text| text.trim().parse())
}

impl Version {
    /// The versions that the files of migrations from `stored` on have, which is older: a file for
    /// each patch. Those of minor versions in between are left out.
    pub fn files_since(self, stored: Self) -> Vec<Self> {
        let is_patch = (self.major, self.minor) == (stored.major, stored.minor);
        let first = if is_patch { stored.patch + 1 } else { 0 };
        (first..=self.patch)
            .map(|patch| Self { patch, ..self })
            .collect()
    }
}

impl FromStr for Version {
    type Err = KnobError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let core = text.split(['-', '+']).next().unwrap_or_default();
        let numbers: Vec<u32> = core
            .split('.')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map_err(|_| KnobError::Version(text.to_owned()))?;
        match numbers[..] {
            [major, minor, patch] => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(KnobError::Version(text.to_owned())),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn without_knobs_the_numbers_are_those_of_bytebase() {
        let knobs = Knobs::read(&|_| None).unwrap();
        let seconds = [
            knobs.migration,
            knobs.heartbeat,
            knobs.active_window,
            knobs.owner_dead_after,
            knobs.stale_check,
            knobs.heartbeat_retention,
            knobs.scheduler,
            knobs.license_cache,
            knobs.active_cache,
            knobs.restriction_grace,
            knobs.token_life,
        ]
        .map(|duration| duration.as_secs());
        assert_eq!(seconds, [0, 10, 30, 60, 30, 3600, 5, 60, 30, 600, 3600]);
    }

    #[test]
    fn versions_compare_as_numbers() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        assert!(version("3.21.10") > version("3.21.9"));
        assert!(version("3.9.0") < version("3.21.1-rc1"));
        assert!("latest".parse::<Version>().is_err());
    }

    #[test]
    fn a_migration_has_a_file_for_each_patch() {
        let version = |text: &str| text.parse::<Version>().unwrap();
        let files = |from: &str, to: &str| -> Vec<String> {
            let files = version(to).files_since(version(from));
            files.iter().map(ToString::to_string).collect()
        };
        assert_eq!(files("3.20.1", "3.20.3"), ["3.20.2", "3.20.3"]);
        assert_eq!(files("3.19.4", "3.21.1"), ["3.21.0", "3.21.1"]);
        assert_eq!(files("3.21.1", "3.22.0"), ["3.22.0"]);
    }
}
