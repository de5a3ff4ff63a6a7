//! What `check-version.sh` finds in this tree.

use anyhow::{Context as _, Result};
use std::path::Path;
use std::process::Command;

/// What the script complains of where `version` is to be released.
fn complaints(version: &str) -> Result<Vec<String>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../check-version.sh");
    let output = Command::new("sh").arg(&script).arg(version).output();
    let output = output.with_context(|| script.display().to_string())?;
    let text = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.success(), text.is_empty(), "{text}");
    Ok(text.lines().map(str::to_owned).collect())
}

#[test]
fn all_that_names_the_version_names_the_present_one() -> Result<()> {
    let open = |complaint: &String| !complaint.starts_with("check-version: CHANGELOG.md: ");
    let mut found = complaints(env!("CARGO_PKG_VERSION"))?;
    found.retain(open);
    assert!(found.is_empty(), "{found:?}");
    Ok(())
}

#[test]
fn each_file_that_names_another_version_is_found() -> Result<()> {
    let found = complaints("99.0.0")?;
    for file in [
        "Cargo.toml",
        "Cargo.lock",
        "operator/fuzz/Cargo.lock",
        "charts/bytebase-operator/Chart.yaml",
        "config/manager/manager.yaml",
        "CHANGELOG.md",
        "docs/install.md",
        "docs/security.md",
    ] {
        let names = format!("check-version: {file}: ");
        assert!(
            found.iter().any(|line| line.starts_with(&names)),
            "{file}: {found:?}"
        );
    }
    Ok(())
}
