//! The operator as a process of this machine.

use super::metrics;
use crate::images;
use crate::machine::process::ProcessId;
use crate::session::harness::Harness;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};
use tokio::sync::OnceCell;
use tokio::time::sleep;

/// Kernel ticks in a second (`sysconf(_SC_CLK_TCK)`), 100 on every Linux there is.
const TICKS: f64 = 100.0;
/// Nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_mins(10);

/// A running operator.
pub struct Operator {
    child: Child,
    id: ProcessId,
    port: u16,
}

impl Operator {
    /// Starts one that watches this namespace, and writes its log to `NAME.log`.
    pub async fn start(harness: &Harness, namespace: &str, name: &str) -> Result<Self> {
        let program = program().await?;
        let port = testkit::ports::free();
        let log = File::create(harness.state.path(&format!("{name}.log")))?;
        let child = Command::new(program)
            .args(["run", "--log-filter", "warn,bytebase_operator=warn"])
            .args(["--watch-namespace", namespace])
            .args(["--lease-name", namespace, "--identity", name])
            .args(["--http-address", &format!("127.0.0.1:{port}")])
            .env("KUBECONFIG", harness.state.kubeconfig())
            // It runs in no pod, whose image it would take: without one its clusters lack the drain
            // hook, and are warned of it.
            .env(
                "OPERATOR_IMAGE",
                "registry.example.com/bytebase-operator:bench",
            )
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().context("the operator ended at once")?;
        let operator = Self {
            id: ProcessId::of(i32::try_from(pid)?)?,
            child,
            port,
        };
        let start = Instant::now();
        while !matches!(metrics::get(port, "/readyz").await, Ok((200, _))) {
            ensure!(start.elapsed() < PATIENCE, "the operator is not ready");
            sleep(Duration::from_millis(10)).await;
        }
        Ok(operator)
    }

    /// Its own metrics.
    pub async fn metrics(&self) -> Result<String> {
        Ok(metrics::get(self.port, "/metrics").await?.1)
    }

    /// Reconciles that have ended.
    pub async fn reconciles(&self) -> Result<f64> {
        let text = self.metrics().await?;
        Ok(metrics::sum(
            &text,
            "bytebase_operator_reconciles_total",
            |_| true,
        ))
    }

    /// Clusters of which everything is known: a status would be written now, if it differed.
    pub async fn settled(&self) -> Result<f64> {
        let text = self.metrics().await?;
        let ready = |labels: &str| labels.contains("type=\"Ready\"");
        Ok(metrics::sum(&text, "bytebase_cluster_condition", ready))
    }

    /// Writes of objects, status and evictions.
    pub async fn writes(&self) -> Result<f64> {
        let text = self.metrics().await?;
        Ok(metrics::sum(
            &text,
            "bytebase_operator_api_writes_total",
            |_| true,
        ))
    }

    /// Resident memory now, in MB.
    pub fn memory(&self) -> Result<f64> {
        self.status("VmRSS:")
    }

    /// The most it ever had, in MB.
    pub fn peak_memory(&self) -> Result<f64> {
        self.status("VmHWM:")
    }

    fn status(&self, field: &str) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.id.pid()))?;
        let kilobytes = text
            .lines()
            .find_map(|line| line.strip_prefix(field))
            .and_then(|rest| rest.split_whitespace().next())
            .context("no such field")?;
        Ok(kilobytes.parse::<f64>()? / 1024.0)
    }

    /// Processor time used so far, in seconds.
    pub fn processor_time(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.id.pid()))?;
        // The name in brackets may hold blanks; utime and stime are the 12th and 13th field after
        // it.
        let (_, rest) = text.rsplit_once(')').context("no name")?;
        let fields: Vec<_> = rest.split_whitespace().collect();
        let ticks = |index: usize| -> Result<f64> {
            Ok(fields.get(index).context("too few fields")?.parse()?)
        };
        Ok((ticks(11)? + ticks(12)?) / TICKS)
    }

    /// Ends it, politely or not, and waits until it is gone.
    pub async fn end(mut self, signal: Signal) -> Result<()> {
        self.id.signal(signal)?;
        self.child.wait().await?;
        Ok(())
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.id.signal(signal)
    }
}

/// The binary that is in the image.
pub async fn program() -> Result<PathBuf> {
    // Once: what is edited while the measurement goes on must not be built in the middle of it.
    static PROGRAM: OnceCell<PathBuf> = OnceCell::const_new();
    let build = async || {
        let mut programs = images::build(&["bytebase-operator", "bytebase-stub"]).await?;
        programs
            .remove("bytebase-operator")
            .context("the build made no operator")
    };
    PROGRAM.get_or_try_init(build).await.cloned()
}
