//! The three ways to install the operator. They concern the whole Kubernetes cluster, so they run
//! alone, and leave the custom resource definition as the harness applied it.

use super::database_server::lead;
use super::support::{self, Lives, NAME};
use crate::images::{LATER_TAG, OPERATOR_REPOSITORY, TAG};
use crate::machine::tools::repository;
use crate::scenario::sandbox::{LABEL, PATIENCE, Sandbox, cluster_resource};
use crate::scenario::{Lane, Scenario};
use crate::session::harness::Harness;
use crate::wait;
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "install-helm",
        "The chart serves all namespaces; its upgrade to another image of the operator replaces no replica, and its removal leaves what runs.",
        |sandbox| Box::pin(helm(sandbox)),
    )
    .takes(140)
    .lane(Lane::Alone),
    Scenario::new(
        "install-kustomize",
        "An overlay over config/default installs an operator that works.",
        |sandbox| Box::pin(kustomize(sandbox)),
    )
    .takes(60)
    .lane(Lane::Alone),
    Scenario::new(
        "install-plain-crds",
        "The definition is small enough for a plain kubectl apply, takes every sample and explains itself.",
        |sandbox| Box::pin(plain_crds(sandbox)),
    )
    .takes(20)
    .lane(Lane::Alone),
];

/// Long enough for several reconciles, and for garbage collection.
const A_WHILE: Duration = Duration::from_secs(12);
/// Where `config/default` puts the operator.
const KUSTOMIZE_NAMESPACE: &str = "bytebase-system";
/// What the released manifests call the operator's image.
const RELEASED_IMAGE: &str = "ghcr.io/bytebase-operator/bytebase-operator";
const DEFINITION: &str = "customresourcedefinition/bytebaseclusters.bytebase.com";
const DEPLOYMENT: &str = "deployment/bytebase-operator";
/// Selects the operator's pods, however it was installed.
const OPERATORS: &str = "app.kubernetes.io/name=bytebase-operator";

async fn helm(sandbox: Sandbox) -> Result<()> {
    let release = Release::of(&sandbox);
    let result = release.scenario(&sandbox).await;
    let result = with_operator_log(&sandbox, &release.0, result).await;
    let removed = release.remove(sandbox.harness()).await;
    result
        .and(removed)
        .and(definition_as_before(sandbox.harness()).await)
}

/// A release in a namespace of the same name, as the harness sweeps them.
struct Release(String);

impl Release {
    fn of(sandbox: &Sandbox) -> Self {
        Self(format!("{}-op", sandbox.namespace()))
    }

    async fn scenario(&self, sandbox: &Sandbox) -> Result<()> {
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": self.0,
                "labels": {LABEL: "install-helm", "pod-security.kubernetes.io/enforce": "restricted"},
            },
        });
        sandbox.apply_yaml(&namespace.to_string()).await?;
        self.upgrade(sandbox, &json!({"replicaCount": 1})).await?;
        let owner = sandbox
            .kubectl(&[
                "get",
                DEFINITION,
                "-o",
                r"jsonpath={.metadata.annotations.meta\.helm\.sh/release-name}",
            ])
            .await?;
        ensure!(
            owner == self.0,
            "the chart did not bring the definition: {owner:?}"
        );

        cluster_becomes_ready(sandbox).await?;
        let before = support::lives(sandbox).await?;
        let hook = hook_image(sandbox).await?;
        ensure!(
            hook == format!("{OPERATOR_REPOSITORY}:{TAG}"),
            "the drain hook is copied from another image than the operator's: {hook:?}"
        );
        let changed = json!({
            "image": operator_image(LATER_TAG),
            "replicaCount": 2,
            "logFilter": "debug",
            "licenseGuardSeconds": 900,
            "commonLabels": {"team": "databases"},
        });
        self.upgrade(sandbox, &changed).await?;
        self.runs(sandbox, LATER_TAG).await?;
        // The one that was upgraded is at work, and has seen this cluster.
        support::edit_takes(sandbox, NAME).await?;
        untouched(
            sandbox,
            "an upgrade of the operator replaces no replica",
            &before,
        )
        .await?;
        let hook_now = hook_image(sandbox).await?;
        ensure!(
            hook_now == hook,
            "an upgrade of the operator changed the image of the drain hook from {hook} to {hook_now}"
        );
        sandbox
            .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
            .await?;

        uninstall(sandbox.harness(), &self.0, &self.0).await?;
        untouched(sandbox, "what runs outlives the operator", &before).await?;
        sandbox.kubectl(&["get", DEFINITION]).await?;
        sandbox.kubectl(&["get", "bytebasecluster", NAME]).await?;

        // The same release again takes up where it stopped.
        self.upgrade(sandbox, &json!({"replicaCount": 1})).await?;
        support::patch_spec(sandbox, json!({"replicas": 0})).await?;
        support::wait_pods(sandbox, 0).await?;
        Ok(())
    }

    /// Waits until the operator's pods run this image and no other.
    async fn runs(&self, sandbox: &Sandbox, tag: &str) -> Result<()> {
        let wanted = format!("{OPERATOR_REPOSITORY}:{tag}");
        let arguments = [
            "--namespace",
            &self.0,
            "get",
            "pods",
            "--selector",
            OPERATORS,
            "--output",
            "jsonpath={.items[*].spec.containers[*].image}",
        ];
        let images = || sandbox.harness().kubectl.run(&arguments);
        let what = format!("operators of the image {wanted} alone");
        wait::until(&what, PATIENCE, images, |images| {
            let mut images = images.split_whitespace().peekable();
            images.peek().is_some() && images.all(|image| image == wanted)
        })
        .await?;
        Ok(())
    }

    async fn upgrade(&self, sandbox: &Sandbox, values: &Value) -> Result<()> {
        let mut all = json!({
            "image": operator_image(TAG),
            "license": {"publicKey": sandbox.harness().license.public_pem()},
        });
        if let (Some(all), Some(values)) = (all.as_object_mut(), values.as_object()) {
            all.extend(values.clone());
        }
        let chart = repository().join("charts/bytebase-operator");
        sandbox
            .harness()
            .helm
            .upgrade_with(
                &self.0,
                &self.0,
                &chart.display().to_string(),
                &all,
                PATIENCE,
                // The definition is there already: the harness applied it for all scenarios.
                &["--take-ownership", "--force-conflicts"],
            )
            .await?;
        Ok(())
    }

    async fn remove(&self, harness: &Harness) -> Result<()> {
        uninstall(harness, &self.0, &self.0).await?;
        delete_namespace(harness, &self.0).await
    }
}

async fn kustomize(sandbox: Sandbox) -> Result<()> {
    let overlay = write_overlay(sandbox.folder())?;
    let result = kustomize_scenario(&sandbox, &overlay).await;
    let result = with_operator_log(&sandbox, KUSTOMIZE_NAMESPACE, result).await;
    let removed = remove_overlay(sandbox.harness(), &overlay).await;
    result
        .and(removed)
        .and(definition_as_before(sandbox.harness()).await)
}

async fn kustomize_scenario(sandbox: &Sandbox, overlay: &str) -> Result<()> {
    let kubectl = &sandbox.harness().kubectl;
    kubectl.run(&["apply", "-k", overlay]).await?;
    let timeout = format!("--timeout={}s", PATIENCE.as_secs());
    kubectl
        .run(&[
            "--namespace",
            KUSTOMIZE_NAMESPACE,
            "rollout",
            "status",
            DEPLOYMENT,
            &timeout,
        ])
        .await?;
    cluster_becomes_ready(sandbox).await
}

/// An overlay as a user would write it: another image, and here a label for the harness's sweep.
/// Returns its folder.
fn write_overlay(folder: &Path) -> Result<String> {
    let overlay = folder.join("overlay");
    fs::create_dir_all(&overlay)?;
    let overlay = overlay.canonicalize()?;
    // kustomize takes no absolute paths.
    let mut base = "../".repeat(overlay.components().count() - 1);
    let config = repository().join("config/default").canonicalize()?;
    base.push_str(
        config
            .strip_prefix("/")?
            .to_str()
            .context("the path is not UTF-8")?,
    );
    let label = LABEL.replace('/', "~1");
    let mut text = String::new();
    write!(
        text,
        "apiVersion: kustomize.config.k8s.io/v1beta1\n\
         kind: Kustomization\n\
         resources:\n  - {base}\n\
         images:\n  - name: {RELEASED_IMAGE}\n    newName: {OPERATOR_REPOSITORY}\n    newTag: {TAG}\n\
         patches:\n  - target: {{kind: Namespace}}\n    patch: |-\n      \
         - {{op: add, path: /metadata/labels/{label}, value: install-kustomize}}\n"
    )?;
    fs::write(overlay.join("kustomization.yaml"), text)?;
    Ok(overlay.display().to_string())
}

/// Deletes what the overlay made, but for the definition: with it every BytebaseCluster would go.
async fn remove_overlay(harness: &Harness, overlay: &str) -> Result<()> {
    let rendered = harness.kubectl.run(&["kustomize", overlay]).await?;
    let rest: Vec<_> = rendered
        .split("\n---\n")
        .filter(|object| {
            !object
                .lines()
                .any(|line| line == "kind: CustomResourceDefinition")
        })
        .collect();
    harness
        .kubectl
        .feed(
            &["delete", "--ignore-not-found", "--wait=false", "-f", "-"],
            &rest.join("\n---\n"),
        )
        .await?;
    Ok(())
}

async fn plain_crds(sandbox: Sandbox) -> Result<()> {
    let result = plain_crds_scenario(&sandbox).await;
    result.and(definition_as_before(sandbox.harness()).await)
}

async fn plain_crds_scenario(sandbox: &Sandbox) -> Result<()> {
    // On the client's side: the whole object must fit into an annotation.
    let folder = repository().join("crds").display().to_string();
    sandbox.kubectl(&["apply", "-f", &folder]).await?;
    let applied = sandbox
        .kubectl(&[
            "get",
            DEFINITION,
            "-o",
            r"jsonpath={.metadata.annotations.kubectl\.kubernetes\.io/last-applied-configuration}",
        ])
        .await?;
    ensure!(
        applied.contains("BytebaseCluster"),
        "not applied on the client's side"
    );

    let mut samples = 0;
    for entry in fs::read_dir(repository().join("config/samples"))? {
        let path = entry?.path();
        if path.ends_with("kustomization.yaml") {
            continue;
        }
        let path = path.display().to_string();
        let printed = sandbox
            .kubectl(&["apply", "--dry-run=server", "-f", &path])
            .await?;
        ensure!(printed.contains("bytebasecluster"), "{path}: {printed}");
        // A field that the schema does not know would be a warning on standard error, and dropped.
        sandbox
            .kubectl(&[
                "create",
                "--validate=strict",
                "--dry-run=server",
                "-f",
                &path,
            ])
            .await?;
        samples += 1;
    }
    ensure!(samples > 0, "no samples");

    let explained = sandbox
        .kubectl(&["explain", "bytebasecluster.spec.database"])
        .await?;
    for word in ["bytebase.com", "v1alpha1", "urlSecretRef", "DESCRIPTION"] {
        ensure!(explained.contains(word), "{word} is missing: {explained}");
    }
    Ok(())
}

/// A cluster in the scenario's own namespace, which no value of the chart names. Its database is
/// named by a Service of that namespace, which is not the operator's.
async fn cluster_becomes_ready(sandbox: &Sandbox) -> Result<()> {
    support::secrets(sandbox).await?;
    let database = sandbox.database();
    lead("postgres", sandbox, database.port()).await?;
    support::set_url(
        sandbox,
        &database.url_at("postgres:5432", "sslmode=disable"),
    )
    .await?;
    sandbox
        .apply_yaml(&support::minimal(sandbox, 1).to_string())
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

/// The operator's image as a value of the chart.
fn operator_image(tag: &str) -> Value {
    json!({"repository": OPERATOR_REPOSITORY, "tag": tag, "pullPolicy": "Never"})
}

/// The image that the drain hook is copied from, in the template that stands.
async fn hook_image(sandbox: &Sandbox) -> Result<String> {
    let path =
        r#"jsonpath={.spec.template.spec.initContainers[?(@.name=="bytebase-drain")].image}"#;
    sandbox
        .kubectl(&["get", "statefulset", NAME, "--output", path])
        .await
}

/// The same pods, never restarted, for a while.
async fn untouched(sandbox: &Sandbox, what: &str, before: &Lives) -> Result<()> {
    wait::throughout(
        what,
        A_WHILE,
        || support::lives(sandbox),
        |lives| lives == before,
    )
    .await
}

/// Makes the definition what it was before: part of no release, and applied by the harness.
pub(super) async fn definition_as_before(harness: &Harness) -> Result<()> {
    let annotations = [
        "annotate",
        DEFINITION,
        "meta.helm.sh/release-name-",
        "meta.helm.sh/release-namespace-",
        "helm.sh/resource-policy-",
        "kubectl.kubernetes.io/last-applied-configuration-",
    ];
    harness.kubectl.run(&annotations).await?;
    harness
        .kubectl
        .run(&["label", DEFINITION, "app.kubernetes.io/managed-by-"])
        .await?;
    harness.apply_definitions().await?;
    let plural = cluster_resource().plural;
    harness
        .kubectl
        .run(&["get", &plural, "--all-namespaces"])
        .await?;
    Ok(())
}

/// Removes a release, if it is there.
pub(super) async fn uninstall(harness: &Harness, release: &str, namespace: &str) -> Result<()> {
    harness
        .helm
        .run(&[
            "uninstall",
            release,
            "--namespace",
            namespace,
            "--ignore-not-found",
            "--wait",
        ])
        .await?;
    Ok(())
}

async fn delete_namespace(harness: &Harness, namespace: &str) -> Result<()> {
    let delete = [
        "delete",
        "namespace",
        namespace,
        "--wait=false",
        "--ignore-not-found",
    ];
    harness.kubectl.run(&delete).await?;
    Ok(())
}

/// The operator is in a namespace of its own, whose logs the harness does not print after a
/// failure.
async fn with_operator_log(sandbox: &Sandbox, namespace: &str, result: Result<()>) -> Result<()> {
    let Err(error) = result else {
        return Ok(());
    };
    let commands: [&[&str]; 2] = [
        &["get", "pods", "--output", "wide"],
        &["logs", "--prefix", "--tail=20", "--selector", OPERATORS],
    ];
    let mut seen = String::new();
    for arguments in commands {
        let mut all = vec!["--namespace", namespace];
        all.extend(arguments);
        let text = sandbox.harness().kubectl.run(&all).await;
        let _ = writeln!(
            seen,
            "{}",
            text.unwrap_or_else(|error| format!("{error:#}"))
        );
    }
    Err(error.context(format!("the operator in {namespace}:\n{seen}")))
}
