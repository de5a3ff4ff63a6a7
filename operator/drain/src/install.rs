//! The program copies itself: its image holds nothing else, so there is no `cp`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Copies this program to a path, executable for all. A pod that starts again finds a whole copy or
/// none.
pub fn install(path: &Path) -> Result<(), String> {
    let failed = |what: &str, error: std::io::Error| format!("{what} {}: {error}", path.display());
    let own =
        std::env::current_exe().map_err(|error| failed("cannot find the program for", error))?;
    let part = path.with_extension("part");
    fs::copy(own, &part).map_err(|error| failed("cannot write", error))?;
    let mode = fs::Permissions::from_mode(0o755);
    fs::set_permissions(&part, mode).map_err(|error| failed("cannot make executable", error))?;
    fs::rename(&part, path).map_err(|error| failed("cannot rename to", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_is_whole_and_executable_and_may_be_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytebase-drain");
        for _ in 0..2 {
            install(&path).unwrap();
            let copy = fs::metadata(&path).unwrap();
            assert_eq!(copy.permissions().mode() & 0o777, 0o755);
            let own = fs::metadata(std::env::current_exe().unwrap()).unwrap();
            assert_eq!(copy.len(), own.len());
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = install(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }
}
