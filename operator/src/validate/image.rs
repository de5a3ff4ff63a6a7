//! The image to run and the version it is taken for.

use super::Diagnostics;
use crate::api::spec::{ImageSpec, PullPolicy};
use crate::contract::version::{ImageDigest, ImageTag, Version};
use k8s_openapi::api::core::v1::LocalObjectReference;
use std::collections::BTreeSet;

const DEFAULT_REPOSITORY: &str = "docker.io/bytebase/bytebase";

/// What to run.
#[derive(Clone, Debug)]
pub struct Image {
    /// Full reference with tag or digest.
    pub reference: String,
    /// Version, where `spec.version` names one.
    pub version: Option<Version>,
    /// `spec.version` as written.
    pub label: String,
    /// When the kubelet pulls.
    pub pull_policy: PullPolicy,
    /// Secrets with registry credentials.
    pub pull_secrets: Vec<LocalObjectReference>,
}

pub(super) fn validate(
    version: &str,
    image: Option<&ImageSpec>,
    diagnostics: &mut Diagnostics,
) -> Option<Image> {
    let default = ImageSpec::default();
    let image = image.unwrap_or(&default);
    let repository = image.repository.as_deref().unwrap_or(DEFAULT_REPOSITORY);
    let well_formed = !repository.is_empty()
        && repository
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"./-_:".contains(&b))
        && !repository
            .rsplit('/')
            .next()
            .is_some_and(|last| last.contains(':'));
    if !well_formed {
        diagnostics.invalid("spec.image.repository", "is not a repository: give registry and path without tag or digest, such as docker.io/bytebase/bytebase");
    }
    let label = diagnostics.parsed("spec.version", ImageTag::parse(version));
    let tag = diagnostics.parsed(
        "spec.image.tag",
        image.tag.as_deref().map(ImageTag::parse).transpose(),
    );
    let digest = diagnostics.parsed(
        "spec.image.digest",
        image.digest.as_deref().map(ImageDigest::parse).transpose(),
    );
    let (label, tag, digest) = (label?, tag?, digest?);
    if !well_formed {
        return None;
    }
    let tag = tag.unwrap_or_else(|| label.clone());
    if digest.is_some() && version == "latest" {
        diagnostics.invalid(
            "spec.version",
            "must say what the digest holds: latest says nothing about it",
        );
    }
    let known = label.version();
    if let Some(version) = known.filter(|version| !version.supports_ha()) {
        diagnostics.invalid(
            "spec.version",
            format!(
                "Bytebase {version} is older than {}, the first that supports the HA mode in which every replica is started: name that or a later one. It migrates a metadata schema that an older Bytebase has left behind, so make a backup of the database first",
                Version::HA_FLOOR
            ),
        );
    }
    if known.is_some_and(|version| !version.is_checked()) {
        let Version { major, minor, .. } = Version::NEWEST_CHECKED;
        diagnostics.warn(format!("spec.version: this operator was checked against Bytebase up to {major}.{minor}: upgrade the operator first, if there is a newer one"));
    }
    if known.is_none() {
        diagnostics.warn("spec.version: names no version. The metadata schema says whether what runs supports several replicas, and nothing says beforehand whether an image is older than the schema: name a release such as 3.21.1");
    }
    let mut names = BTreeSet::new();
    for (index, secret) in image.pull_secrets.iter().enumerate() {
        if !names.insert(&secret.name) {
            diagnostics.invalid(
                &format!("spec.image.pullSecrets[{index}].name"),
                format!("{} is there twice", secret.name),
            );
        }
    }
    let reference = match digest {
        Some(digest) => format!("{repository}@{}", digest.as_str()),
        None => format!("{repository}:{}", tag.as_str()),
    };
    Some(Image {
        reference,
        version: known,
        label: version.to_owned(),
        pull_policy: image.pull_policy.unwrap_or(PullPolicy::IfNotPresent),
        pull_secrets: image.pull_secrets.clone(),
    })
}
