//! Helm, with its own home so that the user's repositories and plugins play no part.

use crate::machine::command::Call;
use anyhow::Result;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Helm bound to one cluster.
#[derive(Debug, Clone)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Helm {
    /// Helm for the cluster of this kubeconfig; `home` keeps what it remembers.
    pub fn new(program: PathBuf, kubeconfig: PathBuf, home: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
            home,
        }
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        self.program.parent().unwrap_or(Path::new("."))
    }

    /// Runs Helm with these arguments.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.call(arguments).run().await
    }

    /// Installs or upgrades a release of a chart with these values, and waits until its pods are
    /// ready, at most `patience`.
    pub async fn upgrade(
        &self,
        namespace: &str,
        release: &str,
        chart: &str,
        values: &Value,
        patience: Duration,
    ) -> Result<String> {
        self.upgrade_with(namespace, release, chart, values, patience, &[])
            .await
    }

    /// Like [`Self::upgrade`], with more flags.
    pub async fn upgrade_with(
        &self,
        namespace: &str,
        release: &str,
        chart: &str,
        values: &Value,
        patience: Duration,
        flags: &[&str],
    ) -> Result<String> {
        let timeout = format!("{}s", patience.as_secs());
        let mut arguments = vec![
            "upgrade",
            "--install",
            release,
            chart,
            "--namespace",
            namespace,
            "--values",
            "-",
            "--wait",
            "--timeout",
            &timeout,
        ];
        arguments.extend(flags);
        // JSON is YAML.
        self.call(&arguments)
            .input(values.to_string())
            .limit(patience + Duration::from_secs(30))
            .run()
            .await
    }

    fn call(&self, arguments: &[&str]) -> Call {
        self.environment(Call::new(&self.program, arguments))
    }

    /// Gives a program that runs Helm the cluster and Helm's home.
    pub fn environment(&self, call: Call) -> Call {
        call.env("KUBECONFIG", &self.kubeconfig)
            .env("HELM_CACHE_HOME", self.home.join("cache"))
            .env("HELM_CONFIG_HOME", self.home.join("config"))
            .env("HELM_DATA_HOME", self.home.join("data"))
    }
}
