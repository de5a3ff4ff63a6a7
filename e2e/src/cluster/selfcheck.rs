//! The proof that a cluster works before anything else is blamed: a Ready node says nothing about
//! Services, names, or the way to PostgreSQL.

use crate::cluster::kubectl::Kubectl;
use crate::images::PROBE_IMAGE;
use crate::wait;
use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use std::time::Duration;

const NAMESPACE: &str = "e2e-selfcheck";
/// The probe itself gives up after a minute for each of its two addresses.
const PATIENCE: Duration = Duration::from_secs(150);

/// A pod reaches another through its Service by name, and PostgreSQL through the gateway.
pub async fn network(kubectl: &Kubectl, client: &Client, postgres: &str) -> Result<()> {
    let namespace = format!(
        r#"{{"apiVersion": "v1", "kind": "Namespace", "metadata": {{"name": "{NAMESPACE}"}}}}"#
    );
    kubectl.apply(NAMESPACE, &namespace).await?;
    check_from(kubectl, client, postgres, NAMESPACE).await?;
    kubectl
        .run(&["delete", "namespace", NAMESPACE, "--wait=false"])
        .await?;
    Ok(())
}

/// The same check in a namespace that exists. Returns what the checking pod printed.
pub async fn check_from(
    kubectl: &Kubectl,
    client: &Client,
    postgres: &str,
    namespace: &str,
) -> Result<String> {
    let objects = objects(namespace, postgres);
    kubectl.apply(namespace, &objects).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let phase = wait::until(
        "the end of the checking pod",
        PATIENCE,
        || async {
            let status = pods.get("client").await?.status.unwrap_or_default();
            Ok(status.phase.unwrap_or_default())
        },
        |phase| phase == "Succeeded" || phase == "Failed",
    )
    .await?;
    let printed = pods
        .logs("client", &kube::api::LogParams::default())
        .await?;
    if phase != "Succeeded" {
        bail!("the cluster's network does not work:\n{printed}");
    }
    Ok(printed)
}

fn objects(namespace: &str, postgres: &str) -> String {
    let pod = |name: &str, arguments: &[&str], restart: &str| {
        let arguments = arguments.join(", ");
        format!(
            r"apiVersion: v1
kind: Pod
metadata:
  name: {name}
  labels: {{ app: {name} }}
spec:
  restartPolicy: {restart}
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  containers:
    - name: probe
      image: {PROBE_IMAGE}
      imagePullPolicy: Never
      args: [{arguments}]
"
        )
    };
    let server = pod("server", &["serve", "\"8080\""], "Always");
    // The short name too: it needs the search list of the pod's resolver configuration.
    let full = format!("http://server.{namespace}.svc.cluster.local:80");
    let database = format!("postgres://{postgres}");
    let client = pod(
        "client",
        &["check", "http://server:80", &full, &database],
        "Never",
    );
    format!(
        r"{server}---
apiVersion: v1
kind: Service
metadata:
  name: server
spec:
  selector: {{ app: server }}
  ports: [{{ port: 80, targetPort: 8080 }}]
---
{client}"
    )
}
