//! kubectl, for what is shorter in its words than in those of a client.

use crate::machine::command::Call;
use anyhow::{Context, Result};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// kubectl bound to one cluster.
#[derive(Debug, Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

/// A local port that leads to a pod or Service until this is dropped.
#[derive(Debug)]
pub struct PortForward {
    /// `127.0.0.1:PORT`.
    pub address: String,
    _process: Child,
}

impl Kubectl {
    /// kubectl for the cluster of this kubeconfig.
    pub fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self {
            program,
            kubeconfig,
        }
    }

    /// Runs kubectl with these arguments.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        self.call(arguments).run().await
    }

    /// Runs kubectl with these arguments and this text as its standard input.
    pub async fn feed(&self, arguments: &[&str], text: &str) -> Result<String> {
        self.call(arguments).input(text).run().await
    }

    /// The folder it is in.
    pub fn folder(&self) -> &Path {
        self.program.parent().unwrap_or(Path::new("."))
    }

    /// Applies YAML or JSON on the server's side. Objects without a namespace go to this one.
    pub async fn apply(&self, namespace: &str, yaml: &str) -> Result<String> {
        let arguments = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--field-manager=e2e",
            "--namespace",
            namespace,
            "-f",
            "-",
        ];
        self.call(&arguments).input(yaml).run().await
    }

    /// Makes or replaces a Secret.
    pub async fn apply_secret(
        &self,
        namespace: &str,
        name: &str,
        data: &[(&str, &str)],
    ) -> Result<()> {
        let data: serde_json::Map<_, _> = data
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect();
        let secret = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": name},
            "stringData": data,
        });
        self.apply(namespace, &secret.to_string()).await?;
        Ok(())
    }

    /// Opens a local port to `target` (`pod/NAME` or `service/NAME`).
    pub async fn port_forward(
        &self,
        namespace: &str,
        target: &str,
        port: u16,
    ) -> Result<PortForward> {
        let mut process = Command::new(&self.program)
            .args(["port-forward", "--namespace", namespace, target])
            .arg(format!(":{port}"))
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let output = process.stdout.take().context("no output")?;
        let mut lines = BufReader::new(output).lines();
        let line = timeout(Duration::from_secs(30), lines.next_line())
            .await
            .with_context(|| format!("port-forward to {target}"))??
            .with_context(|| format!("port-forward to {target} ended"))?;
        let address = line
            .split_whitespace()
            .find(|word| word.starts_with("127.0.0.1:"))
            .with_context(|| format!("unexpected: {line}"))?
            .to_owned();
        // It prints a line per connection; unread, they would fill the pipe and block it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Ok(PortForward {
            address,
            _process: process,
        })
    }

    fn call(&self, arguments: &[&str]) -> Call {
        Call::new(&self.program, arguments).env("KUBECONFIG", &self.kubeconfig)
    }
}
