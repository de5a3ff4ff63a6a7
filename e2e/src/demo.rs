//! The demo: a cluster of its own with PostgreSQL beside it, left running for a person to look at.

use anyhow::Result;

use crate::harness::{Harness, Session};
use crate::state::Purpose;

/// Brings the demo up and leaves it running.
pub async fn up() -> Result<()> {
    let session = Session::begin(Purpose::Demo, true).await?;
    let harness = session.up().await?;
    show(&harness).await?;
    println!("{}", hints(&harness));
    session.leave().await
}

/// Takes the demo down.
pub async fn down() -> Result<()> {
    Session::begin(Purpose::Demo, true).await?.end().await
}

/// What the demo shows on the cluster.
async fn show(harness: &Harness) -> Result<()> {
    // The operator's release and a BytebaseCluster are applied here.
    let nodes = harness.kubectl.run(&["get", "nodes", "-o", "wide"]).await?;
    println!("{}", nodes.trim_end());
    Ok(())
}

/// How a person gets at the cluster.
pub fn hints(harness: &Harness) -> String {
    let mut lines = vec![format!(
        "export KUBECONFIG={}",
        harness.state.kubeconfig().display()
    )];
    if let Some(host) = harness.engine.host() {
        lines.push(format!("export DOCKER_HOST={host}"));
    }
    lines.join("\n")
}
