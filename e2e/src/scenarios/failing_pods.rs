//! Containers that really fail, by the word of a real kubelet.

use super::support;
use crate::images::PROBE_IMAGE;
use crate::scenario::sandbox::{OperatorOptions, Sandbox, condition};
use crate::scenario::{Scenario, stand_in};
use anyhow::{Context, Result};
use futures::future::try_join_all;
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[Scenario::new(
    "pods-that-fail",
    "A container beside Bytebase or before it that keeps failing is named with its exit code, and a Bytebase that takes more memory than its limit with that; corrected, each cluster comes up.",
    |sandbox| Box::pin(pods_that_fail(sandbox)),
)
.stand_in_only(stand_in::INDEPENDENT)
.takes(100)];

/// A cluster whose only pod fails.
struct Failing {
    name: &'static str,
    /// Fields of the spec; without them it comes up.
    why: Value,
    /// What status says of it.
    words: &'static [&'static str],
}

async fn pods_that_fail(sandbox: Sandbox) -> Result<()> {
    // It knows no such command.
    let fails = |name: &str| {
        json!([{
            "name": name, "image": PROBE_IMAGE, "imagePullPolicy": "Never", "args": ["fail"],
        }])
    };
    let all = [
        Failing {
            name: "beside",
            why: json!({"podTemplate": {"spec": {"containers": fails("shipper")}}}),
            words: &["beside-0: ", "container shipper ", "with code 1"],
        },
        Failing {
            name: "before",
            why: json!({"podTemplate": {"spec": {"initContainers": fails("prepare")}}}),
            words: &["before-0: ", "container prepare ", "with code 1"],
        },
        Failing {
            name: "memory",
            why: json!({
                "resources": {"limits": {"memory": "64Mi"}},
                "env": [{"name": "BYTEBASE_STUB_MEMORY_MIB", "value": "512"}],
            }),
            words: &[
                "memory-0: ",
                "for using more memory than the limit in spec.resources allows",
            ],
        },
    ];
    sandbox
        .install_operator(&OperatorOptions::default())
        .await?;
    try_join_all(all.iter().map(|failing| failing.run(&sandbox))).await?;
    Ok(())
}

impl Failing {
    async fn run(&self, sandbox: &Sandbox) -> Result<()> {
        self.start(sandbox).await?;
        sandbox
            .wait_status(self.name, "the container that fails in status", |status| {
                let healthy = condition(&status["conditions"], "ReplicasHealthy");
                healthy.is_some_and(|healthy| {
                    healthy["status"] == "False"
                        && healthy["reason"] == "ReplicaCrashing"
                        && support::says(healthy, self.words).is_ok()
                })
            })
            .await?;
        let taken_out = self
            .fields()?
            .keys()
            .map(|field| (field.clone(), json!(null)));
        let corrected: Map<_, _> = taken_out.collect();
        let patch = Patch::Merge(json!({"spec": corrected}));
        let (clusters, parameters) = (sandbox.clusters(), PatchParams::default());
        clusters.patch(self.name, &parameters, &patch).await?;
        sandbox
            .wait_condition(self.name, "Ready", "True", "AllReplicasActive")
            .await
            .with_context(|| format!("{} after its correction", self.name))?;
        Ok(())
    }

    /// Makes it, with a database of its own.
    async fn start(&self, sandbox: &Sandbox) -> Result<()> {
        let name = self.name;
        let database = format!("{}_{name}", sandbox.database().name);
        let database = sandbox
            .harness()
            .postgres
            .create_database(&database)
            .await?;
        sandbox
            .create_secret(name, &[("PG_URL", &database.url())])
            .await?;
        let mut cluster = support::minimal(sandbox, 1);
        cluster["metadata"]["name"] = json!(name);
        cluster["spec"]["ingress"] = json!({"enabled": false});
        cluster["spec"]["database"]["urlSecretRef"]["name"] = json!(name);
        for (field, value) in self.fields()? {
            cluster["spec"][field] = value.clone();
        }
        sandbox.apply_yaml(&cluster.to_string()).await
    }

    fn fields(&self) -> Result<&Map<String, Value>> {
        self.why.as_object().context("no fields")
    }
}
