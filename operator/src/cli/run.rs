//! `bytebase-operator run`

use crate::contract::license::LicenseKey;
use crate::decide::Settings;
use crate::process::descriptors;
use crate::runtime::context::Options;
use crate::runtime::logging::{self, LogFormat};
use crate::runtime::run::{Run, run as run_operator};
use clap::Args;
use jiff::SignedDuration;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArguments {
    /// Namespace to watch; may be given several times or as a list. None: all namespaces.
    #[arg(
        long = "watch-namespace",
        env = "WATCH_NAMESPACES",
        value_delimiter = ','
    )]
    watch_namespaces: Vec<String>,
    /// Serve only clusters with this label (`key=value`); given several times or as a list, only
    /// those with all of them. None: every cluster.
    #[arg(
        long = "cluster-label",
        env = "CLUSTER_LABELS",
        value_delimiter = ',',
        value_parser = label
    )]
    cluster_labels: Vec<(String, String)>,
    /// Namespace of the leader election lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    lease_namespace: String,
    /// Name of the leader election lease.
    #[arg(long, env = "LEASE_NAME", default_value = "bytebase-operator")]
    lease_name: String,
    /// Name of this process in the lease and on events.
    #[arg(long, env = "POD_NAME", default_value = "bytebase-operator")]
    identity: String,
    /// File with the RSA public key (PEM) that licenses are verified with. Without one their
    /// signature is reported as unverified.
    #[arg(long, env = "LICENSE_PUBLIC_KEY_FILE")]
    license_public_key_file: Option<PathBuf>,
    /// Be back at one replica this many seconds before a license ends. Clusters begin earlier, by
    /// the grace periods of their pods.
    #[arg(long, env = "LICENSE_GUARD_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u32).range(0..=86_400))]
    license_guard_seconds: u32,
    /// The image that holds the drain hook for the replicas. Default: the image of the operator's
    /// own pod, which is read at the start.
    #[arg(long, env = "OPERATOR_IMAGE")]
    operator_image: Option<String>,
    /// Address of /livez, /readyz and /metrics.
    #[arg(long, env = "HTTP_ADDRESS", default_value = "0.0.0.0:8080")]
    http_address: SocketAddr,
    /// Form of the log.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    log_format: LogFormat,
    /// What to log: a level, or directives such as `info,bytebase_operator=debug`.
    #[arg(long, env = "LOG_FILTER", default_value = "info")]
    log_filter: String,
}

/// `key=value`. What else makes a label is the API server's to say.
fn label(text: &str) -> Result<(String, String), String> {
    match text.trim().split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.contains('=') => {
            Ok((key.to_owned(), value.to_owned()))
        }
        _ => Err("not of the form key=value".to_owned()),
    }
}

/// Runs the operator until it is asked to stop.
pub fn run(arguments: RunArguments) -> Result<(), String> {
    let RunArguments {
        watch_namespaces,
        cluster_labels,
        lease_namespace,
        lease_name,
        identity,
        license_public_key_file,
        license_guard_seconds,
        operator_image,
        http_address,
        log_format,
        log_filter,
    } = arguments;
    logging::init(log_format, &log_filter).map_err(|error| error.to_string())?;
    if let Err(error) = descriptors::take_all() {
        tracing::warn!(%error, "the limit of open files cannot be raised: many databases may reach it");
    }
    // Two cryptography providers may end up in one program; rustls refuses to guess.
    rustls::crypto::aws_lc_rs::default_provider()
        .install_default()
        .map_err(|_| "the cryptography provider is already installed".to_owned())?;
    let license_key = license_public_key_file
        .map(|path| {
            let pem = std::fs::read(&path).map_err(|error| {
                format!("--license-public-key-file {}: {error}", path.display())
            })?;
            LicenseKey::from_pem(&pem)
                .map_err(|error| format!("--license-public-key-file {}: {error}", path.display()))
        })
        .transpose()?;
    let namespaces = watch_namespaces
        .into_iter()
        .map(|namespace| namespace.trim().to_owned())
        .filter(|namespace| !namespace.is_empty())
        .collect();
    // A restarted container keeps the pod's name, and must not take itself for its predecessor.
    let instance = format!("{identity}-{}", uuid::Uuid::new_v4().simple());
    let run = Run {
        options: Options {
            namespaces,
            cluster_labels,
            instance,
        },
        settings: Settings {
            license_guard: SignedDuration::from_secs(i64::from(license_guard_seconds)),
            license_key,
            operator_namespace: Some(lease_namespace.clone()),
            own_image: operator_image.filter(|image| !image.is_empty()),
        },
        http_address,
        lease_namespace,
        lease_name,
        pod_name: identity,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime
        .block_on(run_operator(run))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_key_and_a_value() {
        let pair = |key: &str, value: &str| Ok((key.to_owned(), value.to_owned()));
        assert_eq!(label("shard=a"), pair("shard", "a"));
        assert_eq!(label(" example.com/shard="), pair("example.com/shard", ""));
        for wrong in ["shard", "=a", "shard==a", ""] {
            assert!(label(wrong).is_err(), "{wrong}");
        }
    }
}
