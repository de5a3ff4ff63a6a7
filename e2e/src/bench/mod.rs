//! `make bench`: what the operator costs and how fast it is, as one table. It measures and prints;
//! no number makes it fail. The large measurements run with controller manager and scheduler
//! parked, so that only the API server, etcd, PostgreSQL and the operator work, and with the
//! operator as a process of this machine, whose processor time and memory the kernel reports.

mod bare;
mod drains;
mod fleet;
mod metrics;
mod process;
mod scale;
mod single;
mod table;

use crate::cluster::Component;
use crate::scenario::sandbox::{Sandbox, artifacts};
use crate::session::harness::{Harness, Session};
use crate::session::state::Purpose;
use anyhow::{Context, Result};
use std::time::Duration;
use table::Table;

/// How much to measure.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    /// Clusters of the large measurements; 0 leaves them out, and a few minutes are enough
    #[arg(long, env = "CLUSTERS", default_value_t = 1000)]
    pub clusters: usize,
    /// Seconds for which nothing happens and nothing should
    #[arg(long, env = "QUIET", default_value_t = 600)]
    pub quiet: u64,
    /// Sizes at which time and memory per cluster are compared
    #[arg(long, env = "GROWTH", value_delimiter = ',', default_values_t = [10, 100, 1000, 5000])]
    pub growth: Vec<usize>,
}

/// Makes a cluster of its own, measures, prints, and takes it down.
pub async fn run(arguments: &Arguments) -> Result<()> {
    let session = Session::begin(Purpose::Bench, false).await?;
    let result = async {
        let harness = session.up().await?;
        harness.load_product().await?;
        let table = measure(&harness, arguments).await?;
        let text = table.to_string();
        println!("\n{text}");
        let folder = artifacts().join("bench");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join("table.md");
        std::fs::write(&file, &text).with_context(|| format!("{}", file.display()))?;
        println!("also in {}", file.display());
        Ok(())
    }
    .await;
    session.end().await?;
    result
}

async fn measure(harness: &Harness, arguments: &Arguments) -> Result<Table> {
    let mut table = Table::default();
    single::image(harness, &mut table).await?;
    drains::hook(&mut table).await?;
    with_pods(harness, &mut table).await?;
    if arguments.clusters == 0 {
        return Ok(table);
    }
    for component in [Component::ControllerManager, Component::Scheduler] {
        harness.cluster.park(component).await?;
    }
    // What else works on a node at each change of a Service or pod would be measured as well.
    harness.cluster.stop_kubelet().await?;
    harness.cluster.freeze_proxy().await?;
    scale::measure(harness, arguments, &mut table).await?;
    Ok(table)
}

async fn with_pods(harness: &Harness, table: &mut Table) -> Result<()> {
    let sandbox = Sandbox::create(harness.clone(), "bench").await?;
    single::cluster(&sandbox, table).await?;
    drains::measure(&sandbox, table).await?;
    sandbox
        .kubectl(&["delete", "bytebasecluster", "--all"])
        .await?;
    let release = [
        "uninstall",
        sandbox.release(),
        "--namespace",
        sandbox.namespace(),
    ];
    harness.helm.run(&release).await?;
    Ok(())
}

/// Says what is being done; some of it takes minutes.
fn say(text: &str) {
    println!("bench: {text}");
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}
