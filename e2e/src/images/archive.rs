//! Container images without a registry, a Dockerfile or an engine: an archive in the OCI layout,
//! written straight from files. `kind load image-archive` and `ctr images import` read it.
//!
//! Everything is deterministic (times are zero, order is the caller's), so an archive's bytes
//! change only when its content does. Layers are not compressed: they travel no farther than one
//! machine.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest::{Context as Digest, SHA256};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tar::{Builder, EntryType, Header};

/// Media type of one image's manifest.
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image's configuration.
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of an uncompressed layer.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// One thing in a layer; paths are absolute.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A folder with its mode bits. Parents of other entries need none: they are made with 0755.
    Folder { path: String, mode: u32 },
    /// A copy of a file of this machine.
    File {
        path: String,
        source: PathBuf,
        mode: u32,
    },
    /// A file with this content.
    Text {
        path: String,
        content: String,
        mode: u32,
    },
    /// A symbolic link.
    Link { path: String, target: String },
}

/// A layer already written to disk as a tar.
#[derive(Debug, Clone)]
pub struct Layer {
    file: PathBuf,
    digest: String,
    size: u64,
}

/// What an image says about the process to run.
#[derive(Debug, Clone, Default)]
pub struct Process {
    /// The program, and arguments that always go with it.
    pub entrypoint: Vec<String>,
    /// Arguments that a pod's `args` replace.
    pub command: Vec<String>,
    /// A numeric user and group such as `65532:65532`: Kubernetes can only check `runAsNonRoot`
    /// against numbers. Empty means root.
    pub user: String,
}

/// One image: layers from the bottom up, and every name it is known by. Names are written out, as
/// in `docker.io/bytebase/bytebase:3.21.1`.
#[derive(Debug, Clone)]
pub struct Image {
    pub names: Vec<String>,
    pub layers: Vec<Layer>,
    pub process: Process,
}

impl Layer {
    /// Writes the entries as a layer into the folder `scratch`.
    pub fn write(scratch: &Path, name: &str, entries: &[Entry]) -> Result<Self> {
        let file = scratch.join(format!("{name}.layer.tar"));
        let mut tar =
            Builder::new(File::create(&file).with_context(|| format!("{}", file.display()))?);
        let mut folders = BTreeSet::new();
        for entry in entries {
            append(&mut tar, &mut folders, entry)?;
        }
        tar.into_inner()?.flush()?;
        let (digest, size) = digest_file(&file)?;
        Ok(Self { file, digest, size })
    }
}

/// Writes the images as one archive; layers that several of them share are stored once.
pub fn write_archive(output: &Path, images: &[Image]) -> Result<()> {
    let mut tar =
        Builder::new(File::create(output).with_context(|| format!("{}", output.display()))?);
    let mut written = BTreeSet::new();
    append_bytes(&mut tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut manifests = Vec::new();
    for image in images {
        ensure!(!image.names.is_empty(), "an image without a name");
        for layer in &image.layers {
            if written.insert(layer.digest.clone()) {
                let mut header = header(EntryType::Regular, 0o644, layer.size);
                tar.append_data(
                    &mut header,
                    blob_path(&layer.digest),
                    File::open(&layer.file)?,
                )?;
            }
        }
        let config = append_json(&mut tar, &mut written, &config_of(image), CONFIG)?;
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": image.layers.iter().map(|layer| descriptor(LAYER, &layer.digest, layer.size)).collect::<Vec<_>>(),
        });
        let described = append_json(&mut tar, &mut written, &manifest, MANIFEST)?;
        manifests.extend(image.names.iter().map(|name| named(&described, name)));
    }
    let index = json!({"schemaVersion": 2, "manifests": manifests});
    append_bytes(&mut tar, "index.json", &serde_json::to_vec(&index)?)?;
    tar.into_inner()?.flush()?;
    Ok(())
}

/// The checksum of a file as `sha256:…`, and its size in bytes.
pub fn digest_file(path: &Path) -> Result<(String, u64)> {
    let mut file = File::open(path).with_context(|| format!("{}", path.display()))?;
    let mut digest = Digest::new(&SHA256);
    let mut buffer = vec![0; 1 << 20];
    let mut size = 0;
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        digest.update(&buffer[..read]);
        size += read as u64;
    }
    Ok((format!("sha256:{}", hex::encode(digest.finish())), size))
}

/// How this processor is called in image metadata.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn config_of(image: &Image) -> Value {
    let Process {
        entrypoint,
        command,
        user,
    } = &image.process;
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": entrypoint,
            "Cmd": command,
            "User": user,
            "WorkingDir": "/",
        },
        "rootfs": {
            "type": "layers",
            // An uncompressed layer's content digest is the digest of the layer itself.
            "diff_ids": image.layers.iter().map(|layer| layer.digest.clone()).collect::<Vec<_>>(),
        },
    })
}

fn descriptor(media_type: &str, digest: &str, size: u64) -> Value {
    json!({"mediaType": media_type, "digest": digest, "size": size})
}

/// The entry of an image in the index. containerd takes the name from its own annotation, other
/// tools from the one of the OCI specification.
fn named(manifest: &Value, name: &str) -> Value {
    let mut entry = manifest.clone();
    entry["platform"] = json!({"architecture": architecture(), "os": "linux"});
    entry["annotations"] = json!({
        "io.containerd.image.name": name,
        "org.opencontainers.image.ref.name": name,
    });
    entry
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn append_json<W: Write>(
    tar: &mut Builder<W>,
    written: &mut BTreeSet<String>,
    value: &Value,
    media_type: &str,
) -> Result<Value> {
    let bytes = serde_json::to_vec(value)?;
    let mut digest = Digest::new(&SHA256);
    digest.update(&bytes);
    let digest = format!("sha256:{}", hex::encode(digest.finish()));
    if written.insert(digest.clone()) {
        append_bytes(tar, &blob_path(&digest), &bytes)?;
    }
    Ok(descriptor(media_type, &digest, bytes.len() as u64))
}

fn append_bytes<W: Write>(tar: &mut Builder<W>, path: &str, bytes: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)?;
    Ok(())
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    folders: &mut BTreeSet<String>,
    entry: &Entry,
) -> Result<()> {
    match entry {
        Entry::Folder { path, mode } => {
            append_parents(tar, folders, path)?;
            append_folder(tar, folders, path.trim_start_matches('/'), *mode)
        }
        Entry::File { path, source, mode } => {
            append_parents(tar, folders, path)?;
            let file = File::open(source).with_context(|| format!("{}", source.display()))?;
            let mut header = header(EntryType::Regular, *mode, file.metadata()?.len());
            tar.append_data(&mut header, path.trim_start_matches('/'), file)
                .with_context(|| format!("{}", source.display()))
        }
        Entry::Text {
            path,
            content,
            mode,
        } => {
            append_parents(tar, folders, path)?;
            let mut header = header(EntryType::Regular, *mode, content.len() as u64);
            Ok(tar.append_data(
                &mut header,
                path.trim_start_matches('/'),
                content.as_bytes(),
            )?)
        }
        Entry::Link { path, target } => {
            append_parents(tar, folders, path)?;
            let mut header = header(EntryType::Symlink, 0o777, 0);
            Ok(tar.append_link(&mut header, path.trim_start_matches('/'), target)?)
        }
    }
}

fn append_parents<W: Write>(
    tar: &mut Builder<W>,
    folders: &mut BTreeSet<String>,
    path: &str,
) -> Result<()> {
    let path = path.trim_start_matches('/');
    for (end, _) in path.match_indices('/') {
        append_folder(tar, folders, &path[..end], 0o755)?;
    }
    Ok(())
}

fn append_folder<W: Write>(
    tar: &mut Builder<W>,
    folders: &mut BTreeSet<String>,
    path: &str,
    mode: u32,
) -> Result<()> {
    if folders.insert(path.to_owned()) {
        let mut header = header(EntryType::Directory, mode, 0);
        tar.append_data(&mut header, format!("{path}/"), std::io::empty())?;
    }
    Ok(())
}

/// A header that carries nothing of this machine: no owner, no time.
fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn read_archive(path: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut archive = tar::Archive::new(File::open(path)?);
        let mut files = BTreeMap::new();
        for entry in archive.entries()? {
            let mut entry = entry?;
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes)?;
            files.insert(entry.path()?.display().to_string(), bytes);
        }
        Ok(files)
    }

    fn sample(scratch: &Path) -> Result<Image> {
        let layer = Layer::write(
            scratch,
            "sample",
            &[
                Entry::Folder {
                    path: "/tmp".into(),
                    mode: 0o1777,
                },
                Entry::Text {
                    path: "/etc/sample/license.pub".into(),
                    content: "key".into(),
                    mode: 0o644,
                },
                Entry::Link {
                    path: "/usr/bin/other".into(),
                    target: "sample".into(),
                },
            ],
        )?;
        Ok(Image {
            names: vec![
                "localhost/sample:a".into(),
                "docker.io/library/sample:b".into(),
            ],
            layers: vec![layer],
            process: Process {
                entrypoint: vec!["/sample".into()],
                command: vec![],
                user: "65532:65532".into(),
            },
        })
    }

    #[test]
    fn every_blob_lies_under_its_own_checksum() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let output = scratch.path().join("images.tar");
        write_archive(&output, &[sample(scratch.path())?])?;
        let files = read_archive(&output)?;
        let blobs: Vec<_> = files
            .iter()
            .filter_map(|(path, bytes)| Some((path.strip_prefix("blobs/sha256/")?, bytes)))
            .collect();
        assert_eq!(blobs.len(), 3, "layer, configuration and manifest");
        for (name, bytes) in blobs {
            let mut digest = Digest::new(&SHA256);
            digest.update(bytes);
            assert_eq!(name, hex::encode(digest.finish()));
        }
        Ok(())
    }

    #[test]
    fn every_name_leads_to_the_manifest_and_its_numeric_user() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let output = scratch.path().join("images.tar");
        write_archive(&output, &[sample(scratch.path())?])?;
        let files = read_archive(&output)?;
        let index: Value = serde_json::from_slice(&files["index.json"])?;
        let manifests = index["manifests"].as_array().context("no manifests")?;
        let names: Vec<_> = manifests
            .iter()
            .filter_map(|entry| entry["annotations"]["io.containerd.image.name"].as_str())
            .collect();
        assert_eq!(names, ["localhost/sample:a", "docker.io/library/sample:b"]);
        assert_eq!(manifests[0]["digest"], manifests[1]["digest"]);

        let digest = manifests[0]["digest"].as_str().context("no digest")?;
        let manifest: Value = serde_json::from_slice(&files[&blob_path(digest)])?;
        let digest = manifest["config"]["digest"].as_str().context("no digest")?;
        let config: Value = serde_json::from_slice(&files[&blob_path(digest)])?;
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(
            config["rootfs"]["diff_ids"][0],
            manifest["layers"][0]["digest"]
        );
        Ok(())
    }

    #[test]
    fn a_layer_names_every_parent_folder_once() -> Result<()> {
        let scratch = tempfile::tempdir()?;
        let image = sample(scratch.path())?;
        let mut archive = tar::Archive::new(File::open(&image.layers[0].file)?);
        let mut seen = Vec::new();
        for entry in archive.entries()? {
            let entry = entry?;
            seen.push((
                entry.path()?.display().to_string(),
                entry.header().mode()? & 0o7777,
            ));
        }
        let expected = [
            ("tmp/", 0o1777),
            ("etc/", 0o755),
            ("etc/sample/", 0o755),
            ("etc/sample/license.pub", 0o644),
            ("usr/", 0o755),
            ("usr/bin/", 0o755),
            ("usr/bin/other", 0o777),
        ];
        assert_eq!(
            seen,
            expected
                .map(|(path, mode)| (path.to_owned(), mode))
                .to_vec()
        );
        Ok(())
    }

    #[test]
    fn the_same_content_makes_the_same_bytes() -> Result<()> {
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        for scratch in [&one, &two] {
            write_archive(
                &scratch.path().join("images.tar"),
                &[sample(scratch.path())?],
            )?;
        }
        assert_eq!(
            digest_file(&one.path().join("images.tar"))?,
            digest_file(&two.path().join("images.tar"))?
        );
        Ok(())
    }
}
