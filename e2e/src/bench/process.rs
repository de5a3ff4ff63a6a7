//! The operator as a process of this machine.

use super::metrics;
use crate::images;
use crate::machine::process::ProcessId;
use crate::session::harness::Harness;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::fmt;
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

/// Resident memory of a process, in MB.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// All of it.
    pub resident: f64,
    /// What it has allocated.
    anonymous: f64,
    /// Pages of its binary, which the kernel can read again and takes away where memory is short.
    of_files: f64,
}

impl fmt::Display for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            resident,
            anonymous,
            of_files,
        } = self;
        write!(
            formatter,
            "{resident:.1} MB ({anonymous:.1} allocated, {of_files:.1} of the program)"
        )
    }
}

/// What an operator has done, by its own metrics at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Reconciles that have ended.
    pub reconciles: f64,
    /// Readings of databases that have ended.
    pub readings: f64,
    /// Those of them that went well.
    pub good_readings: f64,
    /// Clusters that have been reconciled with what a reading of their database found, or as ones
    /// that cannot be read. Nothing is shown of any other.
    pub shown: f64,
}

impl Progress {
    fn of(text: &str) -> Self {
        let all = |metric| metrics::sum(text, metric, |_| true);
        let probes = "bytebase_operator_database_probes_total";
        Self {
            reconciles: all("bytebase_operator_reconciles_total"),
            readings: all(probes),
            good_readings: metrics::sum(text, probes, |labels| labels.contains("outcome=\"Good\"")),
            // One of its three series is 1.
            shown: metrics::sum(text, "bytebase_cluster_condition", |labels| {
                labels.contains("type=\"Ready\"")
            }),
        }
    }
}

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
            // As the chart has it.
            .env("MALLOC_ARENA_MAX", "2")
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

    /// What it has done so far.
    pub async fn progress(&self) -> Result<Progress> {
        Ok(Progress::of(&self.metrics().await?))
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

    /// Resident memory now.
    pub fn memory(&self) -> Result<Memory> {
        Ok(Memory {
            resident: self.status("VmRSS:")?,
            anonymous: self.status("RssAnon:")?,
            of_files: self.status("RssFile:")?,
        })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_shown_once_whatever_its_condition_and_a_reading_may_fail() {
        let progress = Progress::of(
            "bytebase_operator_reconciles_total{outcome=\"changed\",class=\"\"} 3\n\
             bytebase_operator_reconciles_total{outcome=\"unchanged\",class=\"\"} 4\n\
             bytebase_operator_database_probes_total{outcome=\"Good\"} 5\n\
             bytebase_operator_database_probes_total{outcome=\"Unreachable\"} 1\n\
             bytebase_cluster_condition{namespace=\"a\",name=\"b\",type=\"Ready\",status=\"True\"} 0\n\
             bytebase_cluster_condition{namespace=\"a\",name=\"b\",type=\"Ready\",status=\"False\"} 0\n\
             bytebase_cluster_condition{namespace=\"a\",name=\"b\",type=\"Ready\",status=\"Unknown\"} 1\n\
             bytebase_cluster_condition{namespace=\"a\",name=\"b\",type=\"Stalled\",status=\"True\"} 1\n",
        );
        let Progress {
            reconciles,
            readings,
            good_readings,
            shown,
        } = progress;
        assert_eq!(
            [reconciles, readings, good_readings, shown].map(|value| value.to_string()),
            ["7", "6", "5", "1"]
        );
    }
}
