//! What this machine can do, and in plain words what is missing.

pub mod command;
pub mod process;
pub mod tools;

use anyhow::{Context, Result, bail};
use rustix::process::geteuid;
use std::fs;
use std::path::Path;

/// Bit of CAP_SYS_RESOURCE in the masks of /proc/self/status.
const CAP_SYS_RESOURCE: u32 = 24;
/// A cluster, PostgreSQL and four scenarios at once take about this much, in kibibytes.
const WANTED_MEMORY: u64 = 4 * 1024 * 1024;

/// Facts about the machine that decide how a cluster is made on it.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Whether this program runs as root: it may then start a Docker engine and PostgreSQL's own
    /// user is used for the server.
    pub root: bool,
    /// Whether containers can be given CAP_SYS_RESOURCE. Some virtual machines withhold it, and
    /// Docker's privileged containers then do not start unless the request is taken out.
    pub sys_resource: bool,
    /// Memory in kibibytes that programs can still get.
    pub available_memory: u64,
}

impl Machine {
    /// Reads the facts of this machine.
    pub fn inspect() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")
            .context("the harness needs Linux: its clusters and faults rest on /proc")?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        Ok(Self {
            root: geteuid().is_root(),
            sys_resource: has_capability(&status, CAP_SYS_RESOURCE)?,
            available_memory: field(&memory, "MemAvailable:")
                .and_then(|text| text.split_whitespace().next())
                .context("no MemAvailable in /proc/meminfo")?
                .parse()?,
        })
    }

    /// An error that says what to do if a private Docker engine cannot be started here.
    pub fn can_start_engine(&self) -> Result<()> {
        if !self.root {
            bail!(
                "no Docker engine answers, and starting one needs root. Start Docker and make sure \
                 `docker info` works for this user (or set DOCKER_HOST), or run this as root."
            );
        }
        if find_program("dockerd").is_none() {
            bail!("no Docker engine answers and dockerd is not installed: run `make setup`");
        }
        Ok(())
    }

    /// A remark for the person who waits, if the machine is tight.
    pub fn remark(&self) -> Option<String> {
        (self.available_memory < WANTED_MEMORY).then(|| {
            format!(
                "only {} MiB of memory are available; {} MiB are comfortable",
                self.available_memory / 1024,
                WANTED_MEMORY / 1024
            )
        })
    }
}

/// Where a program lies on the PATH, or in the folders of administrators' programs, which the PATH
/// of an ordinary user leaves out.
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(|folder| Path::new(folder).to_owned()))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

fn has_capability(status: &str, bit: u32) -> Result<bool> {
    let mask = field(status, "CapBnd:").context("no CapBnd in /proc/self/status")?;
    Ok(u64::from_str_radix(mask, 16)? >> bit & 1 == 1)
}

fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_withheld_capability_is_seen() -> Result<()> {
        assert!(!has_capability(
            "CapBnd:\t000001fffeffffff\n",
            CAP_SYS_RESOURCE
        )?);
        assert!(has_capability(
            "CapBnd:\t000001ffffffffff\n",
            CAP_SYS_RESOURCE
        )?);
        Ok(())
    }

    #[test]
    fn the_shell_is_found() {
        assert!(find_program("sh").is_some());
        assert!(find_program("no-such-program-anywhere").is_none());
    }
}
