//! The program copies itself: its image holds nothing else, so there is no `cp`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// What a copy is started with to see that it can be.
pub const TRIAL: &str = "--version";

/// Copies this program to a path, and starts the copy once. Where that fails, the preStop hook
/// would fail as well, without a word: Kubernetes then sends SIGTERM at once, and tasks are
/// cancelled. So the pod does not start.
pub fn install(path: &Path) -> Result<(), String> {
    copy(path)?;
    try_out(path)
}

/// Copies this program to a path, executable for all. A pod that starts again finds a whole copy or
/// none.
fn copy(path: &Path) -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("{what} {}: {error}", path.display());
    let own =
        std::env::current_exe().map_err(|error| failed("cannot find the program for", error))?;
    let part = path.with_extension("part");
    fs::copy(own, &part).map_err(|error| failed("cannot write", error))?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&part, mode).map_err(|error| failed("cannot make executable", error))?;
    fs::rename(&part, path).map_err(|error| failed("cannot rename to", error))
}

/// Starts the program at a path. What it says goes where this program's own words go.
fn try_out(path: &Path) -> Result<(), String> {
    let why = match Command::new(path).arg(TRIAL).status() {
        Ok(status) if status.success() => return Ok(()),
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    Err(format!(
        "the drain hook cannot be started from its volume, {}: {why}. The node may mount the kubelet's directory with noexec, or forbid programs that are no part of an image",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_whole_and_executable_and_may_be_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytebase-drain");
        for _ in 0..2 {
            copy(&path).unwrap();
            let copied = fs::metadata(&path).unwrap();
            assert_eq!(copied.permissions().mode() & 0o777, 0o755);
            let own = fs::metadata(std::env::current_exe().unwrap()).unwrap();
            assert_eq!(copied.len(), own.len());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = copy(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn a_copy_that_cannot_be_started_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytebase-drain");
        // As on a volume that is mounted with noexec.
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let error = try_out(&path).unwrap_err();
        for words in ["bytebase-drain: Permission denied", "noexec"] {
            assert!(error.contains(words), "{error}");
        }
        let error = try_out(Path::new("/bin/false")).unwrap_err();
        assert!(error.contains("/bin/false: exit status: 1"), "{error}");
        try_out(Path::new("/bin/true")).unwrap();
    }
}
