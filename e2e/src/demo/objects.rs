//! What the demo makes: the operator's release, a database, Secrets and one BytebaseCluster.

use super::watch::Goal;
use crate::images::{OPERATOR_REPOSITORY, TAG};
use crate::machine::tools::repository;
use crate::postgres::{Database, password};
use crate::scenario::license::License;
use crate::scenario::sandbox::cluster_resource;
use crate::session::harness::Harness;
use anyhow::{Result, bail};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::Api;
use kube::api::DynamicObject;
use serde_json::{Value, json};
use std::time::Duration;

/// Where the operator lives, and the name of its release.
pub const OPERATOR_NAMESPACE: &str = "bytebase-system";
pub const RELEASE: &str = "bytebase-operator";
/// Where the cluster lives.
pub const NAMESPACE: &str = "demo";
/// The cluster's name, and that of its database.
pub const NAME: &str = "bytebase";
/// The local port that the external URL promises; a port-forward keeps the promise.
pub const PORT: u16 = 8080;
pub const ADMIN_EMAIL: &str = "admin@example.com";
const REPLICAS: i64 = 3;
const DATABASE_SECRET: &str = "bytebase-database";
const LICENSE_SECRET: &str = "bytebase-license";
const ADMIN_SECRET: &str = "bytebase-admin";
/// On the namespace: which Bytebase the database was made by.
const IMAGE_ANNOTATION: &str = "bytebase.com/demo-image";
const STAND_IN: &str = "stand-in";
/// On the operator's pods: a new build replaces them though the tag is the same.
const BUILD_ANNOTATION: &str = "bytebase.com/demo-build";
/// What Helm says of a release whose last change was never ended.
const LOCKED: &str = "another operation";
const PATIENCE: Duration = Duration::from_mins(3);

/// What was applied, as far as a person needs to know.
#[derive(Debug, Clone)]
pub struct Applied {
    pub goal: Goal,
    pub database: Database,
    pub admin_password: String,
}

/// The license that a person brought for the real image.
pub fn own_license() -> Option<String> {
    std::env::var("BYTEBASE_LICENSE")
        .ok()
        .map(|license| license.trim().to_owned())
        .filter(|license| !license.is_empty())
}

/// Refuses to run the real Bytebase on the stand-in's database or the other way round.
pub async fn check_kind_of_demo(harness: &Harness) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(harness.client.clone());
    let Some(namespace) = namespaces.get_opt(NAMESPACE).await? else {
        return Ok(());
    };
    let annotations = namespace.metadata.annotations.unwrap_or_default();
    let (made_with, wanted) = (annotations.get(IMAGE_ANNOTATION), image_name(harness));
    match made_with {
        Some(image) if *image != wanted => {
            bail!(
                "the demo that is up runs {image}, not {wanted}: take it down first with `make demo-down`"
            )
        }
        _ => Ok(()),
    }
}

fn image_name(harness: &Harness) -> String {
    if harness.bytebase.stand_in {
        STAND_IN.to_owned()
    } else {
        harness.bytebase.name()
    }
}

/// The operator by its chart, as a user would install it but for the image.
pub async fn install_operator(harness: &Harness, build: &str) -> Result<()> {
    let mut values = json!({
        "image": {"repository": OPERATOR_REPOSITORY, "tag": TAG, "pullPolicy": "Never"},
        "logFormat": "text",
        "podAnnotations": {BUILD_ANNOTATION: build},
    });
    // The stand-in knows this key and no other; of the real one no one here has the key.
    if harness.bytebase.stand_in {
        values["license"] = json!({"publicKey": harness.license.public_pem()});
    }
    let chart = repository().join("charts/bytebase-operator");
    let chart = chart.display().to_string();
    let upgrade = || {
        let flags = &["--create-namespace"];
        let Harness { helm, .. } = harness;
        helm.upgrade_with(
            OPERATOR_NAMESPACE,
            RELEASE,
            &chart,
            &values,
            PATIENCE,
            flags,
        )
    };
    let interrupted = |error: &anyhow::Error| format!("{error:#}").contains(LOCKED);
    match upgrade().await {
        Err(error) if interrupted(&error) => {
            // An earlier run was ended in the middle of it. Clusters and their definition stay.
            let uninstall = ["uninstall", RELEASE, "--namespace", OPERATOR_NAMESPACE];
            harness.helm.run(&uninstall).await?;
            upgrade().await
        }
        done => done,
    }?;
    Ok(())
}

/// The namespace and everything in it.
pub async fn apply(harness: &Harness) -> Result<Applied> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "annotations": {IMAGE_ANNOTATION: image_name(harness)}},
    });
    harness
        .kubectl
        .apply(NAMESPACE, &namespace.to_string())
        .await?;
    let database = database(harness).await?;
    let admin_password = match read(harness, ADMIN_SECRET, "password").await? {
        Some(password) => password,
        None => password(),
    };
    let login = [("email", ADMIN_EMAIL), ("password", &admin_password)];
    write(harness, ADMIN_SECRET, &login).await?;
    let licensed = license(harness).await?;
    harness
        .kubectl
        .apply(NAMESPACE, &cluster(harness, licensed).to_string())
        .await?;
    let goal = if licensed {
        Goal::Serving(REPLICAS)
    } else {
        Goal::Limited
    };
    Ok(Applied {
        goal,
        database,
        admin_password,
    })
}

/// BytebaseClusters of the demo's namespace.
pub fn clusters(harness: &Harness) -> Api<DynamicObject> {
    Api::namespaced_with(harness.client.clone(), NAMESPACE, &cluster_resource())
}

/// The database that the Secret leads to; a new one if that is not there, as after a restart of
/// this machine.
async fn database(harness: &Harness) -> Result<Database> {
    if let Some(url) = read(harness, DATABASE_SECRET, "PG_URL").await?
        && let Some(password) = password_of(&url)
        && let Some(database) = harness.postgres.find_database(NAME, password).await?
        && database.url() == url
    {
        return Ok(database);
    }
    if let Some(leftover) = harness.postgres.find_database(NAME, "").await? {
        harness.postgres.drop_database(&leftover).await?;
    }
    let database = harness.postgres.create_database(NAME).await?;
    write(harness, DATABASE_SECRET, &[("PG_URL", &database.url())]).await?;
    Ok(database)
}

/// The password in a connection string of the harness's own making.
fn password_of(url: &str) -> Option<&str> {
    let (login, _) = url.split_once("://")?.1.split_once('@')?;
    Some(login.split_once(':')?.1)
}

/// Whether there is a license: one signed here for the stand-in, or a person's own for the real
/// one.
async fn license(harness: &Harness) -> Result<bool> {
    let kept = read(harness, LICENSE_SECRET, "license").await?;
    let text = if harness.bytebase.stand_in {
        match kept {
            Some(_) => return Ok(true),
            None => Some(harness.license.sign(&License {
                organization: "Demo".to_owned(),
                ..License::default()
            })),
        }
    } else {
        own_license().or(kept)
    };
    match text {
        Some(text) => write(harness, LICENSE_SECRET, &[("license", &text)])
            .await
            .map(|()| true),
        None => Ok(false),
    }
}

fn cluster(harness: &Harness, licensed: bool) -> Value {
    let image = &harness.bytebase;
    let mut cluster = json!({
        "apiVersion": "bytebase.com/v1alpha1",
        "kind": "BytebaseCluster",
        "metadata": {"name": NAME},
        "spec": {
            "version": image.tag,
            "image": {"repository": image.repository},
            "replicas": REPLICAS,
            "externalURL": format!("http://localhost:{PORT}"),
            "database": {"urlSecretRef": {"name": DATABASE_SECRET, "key": "PG_URL"}},
            "admin": {"credentialsSecretRef": {"name": ADMIN_SECRET}, "createFirst": true},
            // No ingress controller runs on the demo's cluster.
            "ingress": {"enabled": false},
        },
    });
    if licensed {
        cluster["spec"]["license"] =
            json!({"secretRef": {"name": LICENSE_SECRET, "key": "license"}});
    }
    cluster
}

async fn read(harness: &Harness, name: &str, key: &str) -> Result<Option<String>> {
    let secrets: Api<Secret> = Api::namespaced(harness.client.clone(), NAMESPACE);
    let secret = secrets.get_opt(name).await?;
    let value = secret
        .and_then(|secret| secret.data)
        .and_then(|mut data| data.remove(key));
    Ok(value.map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()))
}

async fn write(harness: &Harness, name: &str, data: &[(&str, &str)]) -> Result<()> {
    harness.kubectl.apply_secret(NAMESPACE, name, data).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_found_in_our_own_url() {
        assert_eq!(
            password_of("postgres://a:b@h:1/a?sslmode=disable"),
            Some("b")
        );
        assert_eq!(password_of("file:/x"), None);
    }
}
