//! What `image.sh` takes for a name, and what it prints of it, with programs in the place of cargo
//! and an engine.

use anyhow::{Context as _, Result};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

/// Writes down what it is called with.
const DOCKER: &str = "#!/bin/sh\necho \"$*\" >> docker.calls\n";
const RUSTC: &str = "#!/bin/sh\necho 'host: x86_64-unknown-linux-gnu'\n";
/// Builds two programs where it says, of which the operator ends with the code in `code`.
const CARGO: &str = r#"#!/bin/sh
if [ "$1" = metadata ]; then echo "{\"target_directory\":\"$PWD/built\"}"; exit; fi
folder=built/x86_64-unknown-linux-gnu/release
mkdir -p "$folder" && touch "$folder/bytebase-drain"
printf '#!/bin/sh\nexit %s\n' "$(cat code 2>/dev/null || echo 0)" > "$folder/bytebase-operator"
chmod +x "$folder/bytebase-operator"
"#;

/// A folder with the script, and with the programs that it calls.
fn folder() -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../image.sh");
    fs::copy(script, folder.path().join("image.sh"))?;
    fs::create_dir(folder.path().join("bin"))?;
    for (name, text) in [("docker", DOCKER), ("rustc", RUSTC), ("cargo", CARGO)] {
        let program = folder.path().join("bin").join(name);
        fs::write(&program, text)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    Ok(folder)
}

fn run(folder: &Path, image: &str) -> Result<Output> {
    let path = format!("{}:/usr/bin:/bin", folder.join("bin").display());
    let script = folder.join("image.sh");
    let mut command = Command::new("sh");
    command.arg(&script).arg(image).env("PATH", path);
    command
        .output()
        .with_context(|| script.display().to_string())
}

#[test]
fn a_name_without_a_tag_is_refused_before_anything_is_built() -> Result<()> {
    let folder = folder()?;
    for image in [
        "",
        "name",
        "name:",
        "registry.example.com/name",
        "localhost:5000/name",
        "localhost:5000/name:",
        "localhost:5000/",
    ] {
        let output = run(folder.path(), image)?;
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{image}: {text}");
        assert!(text.contains("REGISTRY/NAME:TAG"), "{image}: {text}");
    }
    assert!(!folder.path().join("docker.calls").exists());
    assert!(!folder.path().join("built").exists());
    Ok(())
}

#[test]
fn the_values_of_the_chart_are_those_of_the_image_that_was_built() -> Result<()> {
    for (image, values) in [
        (
            "localhost:5000/name:dev",
            "--set image.repository=localhost:5000/name --set image.tag=dev",
        ),
        (
            "registry.example.com/a/b:1.2",
            "--set image.repository=registry.example.com/a/b --set image.tag=1.2",
        ),
        (
            "name:dev",
            "--set image.repository=name --set image.tag=dev",
        ),
    ] {
        let folder = folder()?;
        let output = run(folder.path(), image)?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{image}: {complaint}");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.trim_end().ends_with(values), "{image}: {text}");
        let calls = fs::read_to_string(folder.path().join("docker.calls"))?;
        let build = format!("build --build-arg TARGETARCH=amd64 --tag {image} .");
        assert_eq!(calls.lines().collect::<Vec<_>>(), ["info", &build]);
        let dist = folder.path().join("dist/amd64");
        assert!(dist.join("bytebase-operator").exists());
        assert!(dist.join("bytebase-drain").exists());
    }
    Ok(())
}

#[test]
fn what_does_not_start_becomes_no_image() -> Result<()> {
    let folder = folder()?;
    fs::write(folder.path().join("code"), "139")?;
    let output = run(folder.path(), "name:dev")?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{text}");
    assert!(text.contains("glibc 2.36"), "{text}");
    let calls = fs::read_to_string(folder.path().join("docker.calls"))?;
    assert_eq!(calls.lines().collect::<Vec<_>>(), ["info"]);
    Ok(())
}
