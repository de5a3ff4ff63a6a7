//! The images the scenarios run: the operator, the stand-in for Bytebase and the probe, each made
//! of one static binary that cargo builds here.

pub mod archive;

use crate::machine::command::Call;
use crate::machine::tools::repository;
use anyhow::{Context, Result, bail, ensure};
use archive::{Entry, Image, Layer, Process, write_archive};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Image of the operator.
pub const OPERATOR_REPOSITORY: &str = "localhost/bytebase-operator";
/// Another repository of the same image, as if a mirror had it.
pub const MIRROR_REPOSITORY: &str = "localhost/mirror/bytebase-operator";
/// Tag of everything built here.
pub const TAG: &str = "e2e";
/// Another tag of the operator's image, as a later release would have.
pub const LATER_TAG: &str = "e2e-later";
/// Image of the probe.
pub const PROBE_IMAGE: &str = "localhost/e2e-probe:e2e";
/// Repository under which the stand-in answers for Bytebase.
pub const BYTEBASE_REPOSITORY: &str = "docker.io/bytebase/bytebase";
/// The versions the stand-in plays: the floor of high availability, three that are a minor release
/// apart, and a patch. Each image says in `/etc/bytebase-stub/version` which it is.
pub const STAND_IN_VERSIONS: [&str; 5] = ["3.17.0", "3.20.0", "3.20.1", "3.21.1", "3.22.0"];
/// What `BYTEBASE_IMAGE` may replace: the version scenarios use when they don't care.
pub const DEFAULT_VERSION: &str = "3.21.1";

/// A release build with link-time optimisation takes minutes on two cores.
const BUILD_LIMIT: Duration = Duration::from_hours(1);
/// Any number but 0 serves.
const PROBE_USER: &str = "65532:65532";
/// The user `bytebase` of the real image. That image runs as root unless the pod says
/// otherwise; the stand-in does too, so that an operator that forgets to say it is noticed.
const STAND_IN_USER: &str = "0:0";

/// Which Bytebase the scenarios run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BytebaseImage {
    pub repository: String,
    pub tag: String,
    /// Whether it is the stand-in: only then can scenarios ask for misbehaviour.
    pub stand_in: bool,
}

impl BytebaseImage {
    /// The stand-in, or the image in `BYTEBASE_IMAGE`.
    pub fn from_environment() -> Result<Self> {
        match std::env::var("BYTEBASE_IMAGE") {
            Ok(name) if !name.is_empty() => Self::parse(&name),
            _ => Ok(Self {
                repository: BYTEBASE_REPOSITORY.to_owned(),
                tag: DEFAULT_VERSION.to_owned(),
                stand_in: true,
            }),
        }
    }

    fn parse(name: &str) -> Result<Self> {
        let (repository, tag) = name
            .rsplit_once(':')
            .filter(|(_, tag)| !tag.contains('/'))
            .with_context(|| format!("BYTEBASE_IMAGE has no tag: {name}"))?;
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            stand_in: false,
        })
    }

    /// Repository and tag.
    pub fn name(&self) -> String {
        format!("{}:{}", self.repository, self.tag)
    }
}

/// Every pod of every cluster copies the hook when it starts; bytes.
const LARGEST_HOOK: u64 = 6_000_000;

/// The cargo profile by which the images are built.
fn profile() -> String {
    std::env::var("E2E_PROFILE").unwrap_or_else(|_| "release".to_owned())
}

/// Builds packages as static binaries; returns the binaries by name.
pub async fn build(packages: &[&str]) -> Result<BTreeMap<String, PathBuf>> {
    let target = host_target().await?;
    let profile = profile();
    let manifest = repository().join("Cargo.toml").display().to_string();
    let mut arguments = vec![
        "build",
        "--manifest-path",
        &manifest,
        "--profile",
        &profile,
        // Naming the target, even the usual one, keeps the flags below from build scripts and
        // procedural macros, which cannot be static.
        "--target",
        &target,
        "--bins",
        "--message-format=json-render-diagnostics",
    ];
    for package in packages {
        arguments.extend(["--package", package]);
    }
    let flags = format!(
        "CARGO_TARGET_{}_RUSTFLAGS",
        target.to_uppercase().replace('-', "_")
    );
    let printed = Call::new("cargo", &arguments)
        .env(&flags, "-C target-feature=+crt-static")
        .limit(BUILD_LIMIT)
        .run()
        .await?;
    executables(&printed)
}

/// Writes the archive of the operator's and the stand-in's images.
pub async fn write_product(output: &Path, public_key: &str, with_stand_in: bool) -> Result<()> {
    // Both, whichever is wanted: cargo unites the features of what it builds together, and would
    // build the operator again without the other.
    let mut programs = build(&["bytebase-operator", "bytebase-drain", "bytebase-stub"]).await?;
    let hook = fs::metadata(&programs["bytebase-drain"])?.len();
    ensure!(
        profile() != "release" || hook <= LARGEST_HOOK,
        "the drain hook has {hook} bytes, and may have {LARGEST_HOOK}"
    );
    let stub = programs.remove("bytebase-stub").filter(|_| with_stand_in);
    let scratch = Scratch::beside(output)?;
    let dockerfile = fs::read_to_string(repository().join("Dockerfile"))?;
    let mut images = vec![operator_image(&scratch.0, &dockerfile, &programs)?];
    if let Some(stub) = stub {
        images.extend(stand_in_images(&scratch.0, &stub, public_key)?);
    }
    write_archive(output, &images)
}

/// Writes the archive of the probe's image.
pub async fn write_probe(output: &Path) -> Result<()> {
    let programs = build(&["e2e-probe"]).await?;
    let scratch = Scratch::beside(output)?;
    let layer = Layer::write(&scratch.0, "probe", &programs_in("/", &programs))?;
    let image = Image {
        names: vec![PROBE_IMAGE.to_owned()],
        layers: vec![layer],
        process: Process {
            entrypoint: vec!["/e2e-probe".to_owned()],
            command: vec!["say".to_owned(), "ready".to_owned()],
            user: PROBE_USER.to_owned(),
        },
    };
    write_archive(output, &[image])
}

/// The operator's image as the Dockerfile describes it, so that the one under test is the one that
/// ships.
fn operator_image(
    scratch: &Path,
    dockerfile: &str,
    programs: &BTreeMap<String, PathBuf>,
) -> Result<Image> {
    let mut layers = Vec::new();
    let mut process = Process::default();
    for line in dockerfile.lines() {
        let (instruction, rest) = line.split_once(' ').unwrap_or_default();
        match instruction {
            "" | "#" | "ARG" => {}
            "FROM" => ensure!(rest == "scratch", "the base is no longer empty: {line}"),
            "USER" => rest.clone_into(&mut process.user),
            "ENTRYPOINT" => process.entrypoint = serde_json::from_str(rest)?,
            "COPY" => {
                let (sources, folder) = rest.rsplit_once(' ').context("COPY to nowhere")?;
                let copied = sources.split(' ').map(|path| {
                    let name = path.rsplit('/').next().unwrap_or_default();
                    let source = programs.get(name);
                    Ok(Entry::File {
                        path: format!("{folder}{name}"),
                        source: source
                            .with_context(|| format!("no program {name}"))?
                            .clone(),
                        mode: 0o755,
                    })
                });
                let name = format!("operator-{}", layers.len());
                let entries = copied.collect::<Result<Vec<_>>>()?;
                layers.push(Layer::write(scratch, &name, &entries)?);
            }
            _ => bail!("an instruction that the image for the tests does not follow yet: {line}"),
        }
    }
    Ok(Image {
        names: [
            (OPERATOR_REPOSITORY, TAG),
            (OPERATOR_REPOSITORY, LATER_TAG),
            (MIRROR_REPOSITORY, TAG),
        ]
        .map(|(repository, tag)| format!("{repository}:{tag}"))
        .to_vec(),
        layers,
        process,
    })
}

fn stand_in_images(scratch: &Path, stub: &Path, public_key: &str) -> Result<Vec<Image>> {
    let base = Layer::write(
        scratch,
        "stub",
        &[
            folder("/tmp", 0o1777),
            folder("/var/opt/bytebase", 0o777),
            text("/etc/bytebase-stub/license.pub", public_key),
            Entry::File {
                path: "/usr/local/bin/bytebase".to_owned(),
                source: stub.to_owned(),
                mode: 0o755,
            },
        ],
    )?;
    STAND_IN_VERSIONS
        .iter()
        .map(|version| {
            let label = Layer::write(
                scratch,
                version,
                &[text("/etc/bytebase-stub/version", version)],
            )?;
            Ok(Image {
                names: vec![format!("{BYTEBASE_REPOSITORY}:{version}")],
                layers: vec![base.clone(), label],
                process: Process {
                    entrypoint: vec!["/usr/local/bin/bytebase".to_owned()],
                    command: ["--port", "8080", "--data", "/var/opt/bytebase"]
                        .map(str::to_owned)
                        .to_vec(),
                    user: STAND_IN_USER.to_owned(),
                },
            })
        })
        .collect()
}

fn programs_in(folder_path: &str, programs: &BTreeMap<String, PathBuf>) -> Vec<Entry> {
    let files = programs.iter().map(|(name, source)| Entry::File {
        path: format!("{folder_path}{name}"),
        source: source.clone(),
        mode: 0o755,
    });
    [folder("/tmp", 0o1777)].into_iter().chain(files).collect()
}

fn folder(path: &str, mode: u32) -> Entry {
    Entry::Folder {
        path: path.to_owned(),
        mode,
    }
}

fn text(path: &str, content: &str) -> Entry {
    Entry::Text {
        path: path.to_owned(),
        content: content.to_owned(),
        mode: 0o644,
    }
}

/// A folder for layers that goes away with it.
struct Scratch(PathBuf);

impl Scratch {
    fn beside(output: &Path) -> Result<Self> {
        let path = output.with_extension("layers");
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}

async fn host_target() -> Result<String> {
    let printed = Call::new("rustc", &["-vV"]).run().await?;
    printed
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .map(str::to_owned)
        .context("rustc does not say what it runs on")
}

/// The programs in cargo's messages, one JSON object a line.
fn executables(messages: &str) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for line in messages.lines() {
        let message: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        if let (Some(path), Some(name)) = (
            message["executable"].as_str(),
            message["target"]["name"].as_str(),
        ) {
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_programs_are_taken_from_cargos_messages() -> Result<()> {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"serde"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"bytebase-operator"},"executable":"/t/op"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        let found = executables(messages)?;
        assert_eq!(found.len(), 1);
        assert_eq!(found["bytebase-operator"], Path::new("/t/op"));
        Ok(())
    }

    #[test]
    fn a_registry_port_is_not_a_tag() -> Result<()> {
        let image = BytebaseImage::parse("registry:5000/bytebase:3.21.1")?;
        assert_eq!(image.repository, "registry:5000/bytebase");
        assert_eq!(image.name(), "registry:5000/bytebase:3.21.1");
        assert!(BytebaseImage::parse("registry:5000/bytebase").is_err());
        Ok(())
    }

    #[test]
    fn the_operators_image_is_the_one_that_the_dockerfile_describes() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let program = scratch.path().join("program");
        fs::write(&program, "program")?;
        let programs = ["bytebase-operator", "bytebase-drain"]
            .map(|name| (name.to_owned(), program.clone()))
            .into();
        let dockerfile = include_str!("../../../Dockerfile");
        let image = operator_image(scratch.path(), dockerfile, &programs)?;
        assert_eq!(image.layers.len(), 1);
        let names = [
            "bytebase-operator:e2e",
            "bytebase-operator:e2e-later",
            "mirror/bytebase-operator:e2e",
        ];
        let names = names.map(|name| format!("localhost/{name}"));
        assert_eq!(image.names, names);
        assert_eq!(image.process.user, "65532:65532");
        assert_eq!(image.process.entrypoint, ["/bytebase-operator"]);
        let more = format!("{dockerfile}RUN true\n");
        assert!(operator_image(scratch.path(), &more, &programs).is_err());
        assert!(operator_image(scratch.path(), dockerfile, &BTreeMap::new()).is_err());
        Ok(())
    }

    #[test]
    fn all_versions_of_the_stand_in_share_its_binary() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let stub = scratch.path().join("stub");
        fs::write(&stub, "program")?;
        let images = stand_in_images(scratch.path(), &stub, "key")?;
        let output = scratch.path().join("images.tar");
        write_archive(&output, &images)?;
        let layers: usize = images.iter().map(|image| image.layers.len()).sum();
        assert_eq!(layers, 2 * STAND_IN_VERSIONS.len());
        let mut archive = tar::Archive::new(fs::File::open(&output)?);
        let blobs = archive
            .entries()?
            .filter(|entry| {
                entry
                    .as_ref()
                    .is_ok_and(|entry| entry.path().is_ok_and(|path| path.starts_with("blobs")))
            })
            .count();
        // One shared layer; a label, a configuration and a manifest per version.
        assert_eq!(blobs, 1 + 3 * STAND_IN_VERSIONS.len());
        Ok(())
    }
}
