//! The cluster itself: made and deleted by kind, loaded with images, and broken on purpose.

pub mod audit;
pub mod engine;
pub mod faults;
pub mod helm;
pub mod kubectl;
pub mod selfcheck;
pub mod webhook;

use crate::cluster::engine::Engine;
use crate::machine::command::Call;
use crate::machine::tools::Tools;
use crate::session::state::State;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use std::net::SocketAddrV4;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a node may take to become Ready. It needs 15 to 30 seconds on two quiet cores.
const READY_PATIENCE: &str = "240s";
/// Where a parked component's manifest waits: on the same file system, out of the kubelet's sight.
const PARKED: &str = "/etc/kubernetes/parked";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// How long a parked component may take to end. By then the kubelet knows that it is not to start
/// it again.
const PARTING: Duration = Duration::from_secs(5);
const KUBELET: &str = "kubelet";

/// Where the node finds the policy by which the API server keeps its record of calls.
const AUDIT_POLICY: &str = "/etc/kubernetes/audit-policy.yaml";
/// Where that record is written.
const AUDIT_FOLDER: &str = "/var/log/kubernetes-audit";
pub const AUDIT_LOG: &str = "/var/log/kubernetes-audit/audit.log";
/// In megabytes: it stays one file, since a reader goes on where it was.
const AUDIT_LIMIT: &str = "100000";

/// Scenarios with a dozen clusters each run beside others, and pods of those that are over still
/// end: 110, which is usual, may be too few. A node has 254 addresses for pods.
const MAX_PODS: u32 = 220;

/// The admission plug-ins beyond those that are on everywhere.
const ADMISSION: &str = "NodeRestriction,OwnerReferencesPermissionEnforcement";

/// kind's configuration, as JSON, which is YAML. With an audit policy, the API server keeps a
/// record of who called what.
fn configuration(audit_policy: Option<&Path>) -> Value {
    let mut patches = vec![
        // The data of a test is worth nothing after a crash of the machine, and waiting for the
        // disk is most of what a small cluster does.
        json!({
            "kind": "ClusterConfiguration",
            "etcd": {"local": {"extraArgs": {"unsafe-no-fsync": "true"}}},
            // As in OpenShift: who gives an object an owner needs certain rights to both of them.
            "apiServer": {"extraArgs": {"enable-admission-plugins": ADMISSION}},
        }),
        // Recent kubelets refuse machines with the first version of control groups unless
        // configured otherwise.
        json!({"kind": "KubeletConfiguration", "failCgroupV1": false, "maxPods": MAX_PODS}),
    ];
    let mut node = json!({"role": "control-plane"});
    if let Some(policy) = audit_policy {
        node["extraMounts"] = json!([
            {"hostPath": policy, "containerPath": AUDIT_POLICY, "readOnly": true},
        ]);
        let volume = |name: &str, path: &str, read_only: bool, kind: &str| {
            json!({
                "name": name, "hostPath": path, "mountPath": path, "readOnly": read_only, "pathType": kind,
            })
        };
        patches.push(json!({
            "kind": "ClusterConfiguration",
            "apiServer": {
                "extraArgs": {
                    "audit-policy-file": AUDIT_POLICY,
                    "audit-log-path": AUDIT_LOG,
                    "audit-log-maxsize": AUDIT_LIMIT,
                },
                "extraVolumes": [
                    volume("audit-policy", AUDIT_POLICY, true, "File"),
                    volume("audit-log", AUDIT_FOLDER, false, "DirectoryOrCreate"),
                ],
            },
        }));
    }
    let patches: Vec<_> = patches.iter().map(Value::to_string).collect();
    json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        "nodes": [node],
        "kubeadmConfigPatches": patches,
    })
}

/// A part of the control plane that the kubelet runs from a manifest on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    ApiServer,
    ControllerManager,
    Etcd,
    Scheduler,
}

impl Component {
    /// The name of its manifest and of its program.
    pub fn name(self) -> &'static str {
        match self {
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Etcd => "etcd",
            Self::Scheduler => "kube-scheduler",
        }
    }

    /// The program's own name, by which its process is found.
    pub fn program(self) -> &'static str {
        self.name()
    }
}

/// A kind cluster of one node.
#[derive(Debug, Clone)]
pub struct Cluster {
    name: String,
    engine: std::sync::Arc<Engine>,
    kind: std::path::PathBuf,
}

impl Cluster {
    /// The cluster of this state, made or not.
    pub fn new(state: &State, tools: &Tools, engine: std::sync::Arc<Engine>) -> Self {
        Self {
            name: state.cluster.clone(),
            engine,
            kind: tools.kind.clone(),
        }
    }

    /// Name of its node, in Docker as in Kubernetes.
    pub fn node(&self) -> String {
        format!("{}-control-plane", self.name)
    }

    /// Whether its node runs.
    pub async fn runs(&self) -> bool {
        self.engine
            .docker(&["inspect", "--format", "{{.State.Running}}", &self.node()])
            .run()
            .await
            .is_ok_and(|printed| printed.trim() == "true")
    }

    /// Makes it and waits until its node is Ready. With a policy, the API server keeps a record by
    /// it.
    pub async fn create(
        &self,
        image: &str,
        kubeconfig: &Path,
        audit_policy: Option<&Path>,
    ) -> Result<()> {
        self.kind(&[
            "create",
            "cluster",
            "--image",
            image,
            "--config",
            "-",
            "--wait",
            READY_PATIENCE,
        ])
        .env("KUBECONFIG", kubeconfig)
        .input(configuration(audit_policy).to_string())
        .limit(Duration::from_mins(7))
        .run()
        .await?;
        Ok(())
    }

    /// Deletes it, whatever state it is in. Nothing to do if it does not exist.
    pub async fn delete(&self, kubeconfig: &Path) -> Result<()> {
        self.kind(&["delete", "cluster"])
            .env("KUBECONFIG", kubeconfig)
            .run()
            .await?;
        Ok(())
    }

    /// Puts the images of an archive into the node's store.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        self.kind(&["load", "image-archive", &archive.display().to_string()])
            .run()
            .await?;
        Ok(())
    }

    /// Runs a shell script on the node and returns what it prints.
    pub async fn on_node(&self, script: &str) -> Result<String> {
        self.engine
            .docker(&["exec", &self.node(), "sh", "-euc", script])
            .run()
            .await
    }

    /// Takes a component away until [`Self::unpark`], and waits until its process has ended. It has
    /// some seconds to end by itself: an API server with watches open would take its whole
    /// grace period.
    pub async fn park(&self, component: Component) -> Result<()> {
        let name = component.name();
        self.on_node(&format!(
            "mkdir -p {PARKED}; mv {MANIFESTS}/{name}.yaml {PARKED}/"
        ))
        .await?;
        let parked = Instant::now();
        let remaining = || async {
            let pids = self.processes_named(component.program()).await?;
            if parked.elapsed() > PARTING {
                for pid in &pids {
                    self.on_node(&format!("kill -KILL {pid} || true")).await?;
                }
            }
            Ok(pids)
        };
        crate::wait::until(
            &format!("the end of {name}"),
            Duration::from_secs(90),
            remaining,
            Vec::is_empty,
        )
        .await?;
        Ok(())
    }

    /// Brings a parked component back. It serves some seconds later.
    pub async fn unpark(&self, component: Component) -> Result<()> {
        let name = component.name();
        self.on_node(&format!("mv {PARKED}/{name}.yaml {MANIFESTS}/"))
            .await?;
        Ok(())
    }

    /// Undoes what a scenario that failed half-way may have left: frozen or parked components, a
    /// stopped or frozen kubelet.
    pub async fn heal(&self) -> Result<()> {
        let components = [Component::ApiServer, Component::Etcd].map(Component::program);
        for program in components.into_iter().chain([KUBELET]) {
            for pid in self.processes_named(program).await? {
                self.on_node(&format!("kill -CONT {pid}")).await?;
            }
        }
        self.on_node(&format!(
            "for f in {PARKED}/*.yaml; do [ ! -e $f ] || mv $f {MANIFESTS}/; done; \
             systemctl start kubelet"
        ))
        .await?;
        Ok(())
    }

    /// Stops the kubelet: pods run on, and nothing takes care of them.
    pub async fn stop_kubelet(&self) -> Result<()> {
        self.on_node("systemctl stop kubelet").await?;
        Ok(())
    }

    /// Freezes the kubelet: it takes every connection and answers none. Pods run on.
    pub async fn freeze_kubelet(&self) -> Result<()> {
        self.signal_kubelet("STOP").await
    }

    /// Has a frozen kubelet go on.
    pub async fn thaw_kubelet(&self) -> Result<()> {
        self.signal_kubelet("CONT").await
    }

    async fn signal_kubelet(&self, signal: &str) -> Result<()> {
        let pids = self.processes_named(KUBELET).await?;
        let [pid] = pids.as_slice() else {
            bail!("{} processes are a kubelet", pids.len());
        };
        self.on_node(&format!("kill -{signal} {pid}")).await?;
        Ok(())
    }

    /// Freezes kube-proxy, which otherwise writes all rules of the node again at each change of a
    /// Service.
    pub async fn freeze_proxy(&self) -> Result<()> {
        for pid in self.processes_named("kube-proxy").await? {
            self.on_node(&format!("kill -STOP {pid}")).await?;
        }
        Ok(())
    }

    /// Ends the kubelet's growing patience with what has ended again and again while something it
    /// needs was away: a fresh kubelet starts all of it at once. Pods run on meanwhile.
    pub async fn forget_backoff(&self) -> Result<()> {
        self.on_node("systemctl restart kubelet").await?;
        Ok(())
    }

    /// Starts the kubelet again.
    pub async fn start_kubelet(&self) -> Result<()> {
        self.on_node("systemctl start kubelet").await?;
        Ok(())
    }

    /// Numbers, as the node counts, of the processes whose program has this name.
    pub async fn processes_named(&self, program: &str) -> Result<Vec<u32>> {
        // The first word of the command line: the short name the kernel keeps is cut at 15 letters.
        // One search finds the few processes of which any word is the program.
        let script = format!(
            "for c in $(grep -lzE '^(.*/)?{program}$' /proc/[0-9]*/cmdline 2>/dev/null || true); do \
               first=$(tr '\\0' '\\n' < $c 2>/dev/null | head -n 1) || continue; \
               p=${{c#/proc/}}; \
               [ \"${{first##*/}}\" = {program} ] && echo ${{p%/cmdline}} || true; \
             done"
        );
        parse_pids(&self.on_node(&script).await?)
    }

    /// Numbers, as the node counts, of the processes of a container.
    pub async fn processes_of(&self, container: &str) -> Result<Vec<u32>> {
        ensure!(
            container.len() >= 12 && container.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "not a container's id: {container:?}"
        );
        let script = format!(
            "for c in $(grep -l {container} /proc/[0-9]*/cgroup 2>/dev/null || true); do \
               p=${{c#/proc/}}; echo ${{p%/cgroup}}; \
             done"
        );
        parse_pids(&self.on_node(&script).await?)
    }

    /// Where the connections over IPv4 lead to that the processes of a container have open.
    pub async fn connections_of(&self, container: &str) -> Result<Vec<SocketAddrV4>> {
        let pids = self.processes_of(container).await?;
        let pid = pids.first().context("the container runs no process")?;
        // All processes of a pod share them.
        let table = self.on_node(&format!("cat /proc/{pid}/net/tcp")).await?;
        parse_connections(&table)
    }

    fn kind(&self, arguments: &[&str]) -> Call {
        let call = Call::new(&self.kind, arguments).env("KIND_CLUSTER_NAME", &self.name);
        self.engine.with_host(call)
    }
}

fn parse_pids(printed: &str) -> Result<Vec<u32>> {
    printed
        .split_whitespace()
        .map(|word| Ok(word.parse()?))
        .collect()
}

/// The other ends of the connections that are established, in the kernel's table: a line each, with
/// address and port in hexadecimal digits, the last byte of the address first.
fn parse_connections(table: &str) -> Result<Vec<SocketAddrV4>> {
    const ESTABLISHED: &str = "01";
    let rows = table.lines().skip(1).map(|line| {
        let mut words = line.split_whitespace().skip(2);
        (words.next().unwrap_or_default(), words.next())
    });
    let open = rows.filter(|(_, state)| *state == Some(ESTABLISHED));
    open.map(|(remote, _)| {
        let (address, port) = remote.split_once(':').context("no port")?;
        let address = u32::from_str_radix(address, 16)?.swap_bytes();
        let port = u16::from_str_radix(port, 16)?;
        Ok(SocketAddrV4::new(address.into(), port))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_those_that_are_established() -> Result<()> {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue\n   \
            0: 0500F40A:9C40 0700F40A:1F90 01 00000000:00000000 00:00000000 00000000\n   \
            1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n";
        assert_eq!(parse_connections(table)?, ["10.244.0.7:8080".parse()?]);
        Ok(())
    }

    #[test]
    fn process_numbers_are_read_one_a_line() -> Result<()> {
        assert_eq!(parse_pids("12\n345\n")?, [12, 345]);
        assert!(
            parse_pids("12\nsh: not found")
                .map_err(|error| error.to_string())
                .is_err()
        );
        Ok(())
    }

    #[test]
    fn only_with_a_policy_is_a_record_kept() {
        let patches = |policy| {
            let patches = configuration(policy)["kubeadmConfigPatches"].clone();
            patches.as_array().map(Vec::len)
        };
        let policy = Path::new("/tmp/policy.yaml");
        assert_eq!((patches(None), patches(Some(policy))), (Some(2), Some(3)));
        let mount = configuration(Some(policy))["nodes"][0]["extraMounts"][0].clone();
        assert_eq!(mount["hostPath"], "/tmp/policy.yaml");
    }
}
