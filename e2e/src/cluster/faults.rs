//! Faults: ending, freezing and thawing the processes of pods and of the control plane. Everything
//! goes through the node, so it works for whoever may use the Docker engine, root or not.

use crate::cluster::{Cluster, Component};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;

/// What is sent to a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// SIGKILL: ends at once, without a chance to tidy up.
    Kill,
    /// SIGTERM: asks it to end.
    Terminate,
    /// SIGSTOP: stands still; connections stay open and nothing answers.
    Freeze,
    /// SIGCONT: goes on.
    Thaw,
}

impl Blow {
    fn signal(self) -> &'static str {
        match self {
            Self::Kill => "KILL",
            Self::Terminate => "TERM",
            Self::Freeze => "STOP",
            Self::Thaw => "CONT",
        }
    }
}

/// Strikes every process of one container of a pod, of its current start.
pub async fn strike_pod(cluster: &Cluster, pod: &Pod, container: &str, blow: Blow) -> Result<()> {
    let id = container_id(pod, container)?;
    let pids = cluster.processes_of(&id).await?;
    ensure!(!pids.is_empty(), "container {container} runs no process");
    strike(cluster, &pids, blow).await
}

/// Strikes the processes of a container that run this program.
pub async fn strike_program(
    cluster: &Cluster,
    pod: &Pod,
    container: &str,
    program: &str,
    blow: Blow,
) -> Result<()> {
    let of_container = cluster.processes_of(&container_id(pod, container)?).await?;
    let mut pids = cluster.processes_named(program).await?;
    pids.retain(|pid| of_container.contains(pid));
    ensure!(!pids.is_empty(), "{program} does not run in {container}");
    strike(cluster, &pids, blow).await
}

/// Strikes a component of the control plane. Killed, it is started again by the kubelet.
pub async fn strike_component(cluster: &Cluster, component: Component, blow: Blow) -> Result<()> {
    let pids = cluster.processes_named(component.program()).await?;
    ensure!(!pids.is_empty(), "{} does not run", component.name());
    strike(cluster, &pids, blow).await
}

async fn strike(cluster: &Cluster, pids: &[u32], blow: Blow) -> Result<()> {
    let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
    cluster
        .on_node(&format!("kill -{} {}", blow.signal(), pids.join(" ")))
        .await?;
    Ok(())
}

/// The id of the container's current start, without the runtime's prefix.
pub fn container_id(pod: &Pod, container: &str) -> Result<String> {
    let status = pod.status.as_ref().context("the pod has no status yet")?;
    let id = status
        .container_statuses
        .iter()
        .chain(&status.init_container_statuses)
        .flatten()
        .find(|status| status.name == container)
        .and_then(|status| status.container_id.as_deref())
        .with_context(|| format!("container {container} has not started"))?;
    Ok(id.rsplit('/').next().unwrap_or(id).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_container_id_loses_its_prefix() -> Result<()> {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "status": {"containerStatuses": [{
                "name": "bytebase", "containerID": "containerd://0123456789abcdef",
                "image": "", "imageID": "", "ready": true, "restartCount": 0,
            }]},
        }))?;
        assert_eq!(container_id(&pod, "bytebase")?, "0123456789abcdef");
        assert!(container_id(&pod, "other").is_err());
        Ok(())
    }
}
