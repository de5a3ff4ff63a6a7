//! `bytebase-operator check FILE…`

use crate::api::BytebaseCluster;
use crate::validate::{Fetched, References, validate};
use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::Deserialize as _;
use std::path::{Path, PathBuf};

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Files with BytebaseClusters and, where they name any, the Secrets and ConfigMaps.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Checks every `BytebaseCluster` in the files.
#[expect(clippy::print_stdout, reason = "its findings are its output")]
pub fn check(arguments: &CheckArguments) -> Result<(), String> {
    let mut clusters = Vec::new();
    let mut references = References::default();
    for file in &arguments.files {
        read(file, &mut clusters, &mut references)?;
    }
    if clusters.is_empty() {
        return Err("no BytebaseCluster in these files".to_owned());
    }
    let mut wrong = 0;
    for mut cluster in clusters {
        // Only a cluster that an API server has taken has these.
        cluster
            .metadata
            .namespace
            .get_or_insert_with(|| "default".to_owned());
        cluster
            .metadata
            .uid
            .get_or_insert_with(|| "unknown".to_owned());
        let name = cluster.metadata.name.clone().unwrap_or_default();
        let validation = validate(&cluster, &references, None, jiff::Timestamp::now());
        for problem in &validation.problems {
            println!(
                "{name}: {}: {} ({})",
                problem.field, problem.message, problem.reason
            );
        }
        for warning in validation.warnings.iter().chain(&validation.ends_soon) {
            println!("{name}: warning: {warning}");
        }
        if validation.problems.is_empty() {
            println!("{name}: valid");
        } else {
            wrong += 1;
        }
    }
    match wrong {
        0 => Ok(()),
        1 => Err("1 cluster cannot be used as it is".to_owned()),
        _ => Err(format!("{wrong} clusters cannot be used as they are")),
    }
}

fn read(
    file: &Path,
    clusters: &mut Vec<BytebaseCluster>,
    references: &mut References,
) -> Result<(), String> {
    let place = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{place}: {error}"))?;
    for document in serde_yaml::Deserializer::from_str(&text) {
        let value = serde_json::Value::deserialize(document)
            .map_err(|error| format!("{place}: {error}"))?;
        match value.get("kind").and_then(serde_json::Value::as_str) {
            Some("BytebaseCluster") => clusters
                .push(serde_json::from_value(value).map_err(|error| format!("{place}: {error}"))?),
            Some("Secret") => {
                let secret: Secret =
                    serde_json::from_value(value).map_err(|error| format!("{place}: {error}"))?;
                let plain = secret
                    .string_data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.into_bytes()));
                let values = secret
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.0))
                    .chain(plain);
                references.secrets.insert(
                    secret.metadata.name.unwrap_or_default(),
                    Fetched::Present(values.map(|(key, value)| (key, value.into())).collect()),
                );
            }
            Some("ConfigMap") => {
                let map: ConfigMap =
                    serde_json::from_value(value).map_err(|error| format!("{place}: {error}"))?;
                let values = map
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.into_bytes().into()));
                references.config_maps.insert(
                    map.metadata.name.unwrap_or_default(),
                    Fetched::Present(values.collect()),
                );
            }
            _ => {}
        }
    }
    Ok(())
}
