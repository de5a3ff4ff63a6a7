//! Programs of this machine that the tests start.

use anyhow::{Context as _, Result};
use std::env;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// PostgreSQL refuses to run as root; its packages make this user for it.
pub const USER: &str = "postgres";
/// The oldest version of PostgreSQL that Bytebase supports.
const OLDEST: u32 = 14;
/// Those that the tests start.
const PROGRAMS: [&str; 4] = ["initdb", "pg_ctl", "postgres", "psql"];

/// The folder with the programs of the newest PostgreSQL of this machine, or `POSTGRES_BIN`.
pub fn postgres() -> Result<PathBuf> {
    if let Some(folder) = env::var_os("POSTGRES_BIN") {
        return Ok(folder.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // Where Debian, Red Hat, Alpine and Homebrew put it, of which none but the last is on the path.
    let installed = [
        ("/usr/lib/postgresql", "bin"),
        ("/usr", "bin"),
        ("/usr/libexec", ""),
        ("/opt/homebrew/opt", "bin"),
    ];
    let installed = installed.iter().flat_map(|(parent, below)| {
        let folders = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.map(move |folder| folder.path().join(below))
    });
    env::split_paths(&path)
        .chain(installed)
        // On the path may lie links to some of the programs; the others are where they lead.
        .filter_map(|folder| {
            Some(
                folder
                    .join("initdb")
                    .canonicalize()
                    .ok()?
                    .parent()?
                    .to_owned(),
            )
        })
        .filter(|folder| PROGRAMS.iter().all(|name| folder.join(name).is_file()))
        .filter_map(|folder| Some((major_version(&folder.join("postgres"))?, folder)))
        .filter(|(version, _)| *version >= OLDEST)
        .max()
        .map(|(_, folder)| folder)
        .with_context(|| {
            format!(
                "no server of PostgreSQL {OLDEST} or newer is here: run `make setup`, or name the \
                 folder of its programs in POSTGRES_BIN"
            )
        })
}

/// PgBouncer's program.
pub fn pgbouncer() -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    // Debian puts it where only root looks.
    env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|folder| folder.join("pgbouncer"))
        .find(|program| program.is_file())
        .context("no PgBouncer is here: run `make setup`")
}

/// A call of a program that refuses to run as root.
pub fn unprivileged(program: &Path) -> Command {
    if !root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", USER, "--regid", USER, "--init-groups", "--"])
        .arg(program);
    command
}

fn root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`: 15.
fn major_version(program: &Path) -> Option<u32> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let number = text.split_whitespace().nth(2)?;
    let digits = number.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}
