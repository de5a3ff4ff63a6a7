//! The programs that `make setup` built or found, and the node image it prepared.

use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// What setup.sh wrote down for this checkout.
#[derive(Debug, Clone)]
pub struct Tools {
    pub kind: PathBuf,
    pub helm: PathBuf,
    pub kubectl: PathBuf,
    /// Name of the node image.
    pub node_image: String,
    /// Root file system of the node image, if it was assembled here.
    pub node_archive: Option<PathBuf>,
    /// Folder with the definitions of optional kinds.
    pub definitions: PathBuf,
    /// The cache folder of all checkouts of this user.
    pub cache: PathBuf,
}

impl Tools {
    /// Reads what setup.sh wrote.
    pub fn load() -> Result<Self> {
        let path = repository().join(".cache/setup.env");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} is missing: run `make setup` first", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}: run `make setup` again", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let values: BTreeMap<_, _> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| line.split_once('='))
            .collect();
        let value = |name: &str| {
            values
                .get(name)
                .copied()
                .filter(|value| !value.is_empty())
                .with_context(|| format!("no {name}"))
        };
        Ok(Self {
            kind: value("KIND")?.into(),
            helm: value("HELM")?.into(),
            kubectl: value("KUBECTL")?.into(),
            node_image: value("NODE_IMAGE")?.to_owned(),
            node_archive: value("NODE_ARCHIVE").ok().map(PathBuf::from),
            definitions: value("DEFINITIONS")?.into(),
            cache: value("CACHE")?.into(),
        })
    }
}

/// The root of this checkout.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "# remark\nKIND=/c/kind\nHELM=/c/helm\nKUBECTL=/c/kubectl\n\
                           NODE_IMAGE=kindest/node:v1\nNODE_ARCHIVE=\nDEFINITIONS=/c/d\nCACHE=/c\n";

    #[test]
    fn a_pulled_image_has_no_archive() -> Result<()> {
        let tools = Tools::parse(WRITTEN)?;
        assert_eq!(tools.node_image, "kindest/node:v1");
        assert_eq!(tools.node_archive, None);
        Ok(())
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Tools::parse("KIND=/c/kind\nHELM=\n").map_err(|error| error.to_string());
        assert!(
            matches!(&error, Err(text) if text.contains("HELM")),
            "{error:?}"
        );
    }
}
