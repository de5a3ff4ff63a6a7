//! The license gate.

use super::support::{self, LICENSE_SECRET, NAME};
use crate::scenario::license::{License, LicenseKey};
use crate::scenario::sandbox::{OperatorOptions, Sandbox};
use crate::scenario::{Scenario, stand_in};
use crate::wait;
use anyhow::{Context, Result, ensure};
use jiff::SignedDuration;
use k8s_openapi::api::networking::v1::Ingress;
use serde_json::json;
use std::time::Duration;

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "license-expiry",
        "Before a license ends the gate goes back to one replica and reports it; with a new license three run again.",
        |sandbox| Box::pin(expiry(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE)
    .takes(150),
    Scenario::new(
        "license-gate",
        "Without a license one replica runs; with one that the operator installs, three do.",
        |sandbox| Box::pin(gate(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "admin-before-exposure",
        "The Ingress is made only after the operator has signed up as the first admin.",
        |sandbox| Box::pin(admin_before_exposure(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "license-warn",
        "With enforcement Warn all replicas run, and the condition says what that costs.",
        |sandbox| Box::pin(warn(sandbox)),
    ),
    Scenario::new(
        "license-forms",
        "Every wrong license has its own reason, a pasted trial counts, and a deleted Secret ends no replica.",
        |sandbox| Box::pin(forms(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "license-expired-unseen",
        "A license that ended while no operator ran no longer counts at the first reading.",
        |sandbox| Box::pin(expired_unseen(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "wrong-admin-password",
        "A license that cannot be installed is reported, and installed once the login is right.",
        |sandbox| Box::pin(wrong_admin_password(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
];

async fn gate(sandbox: Sandbox) -> Result<()> {
    // No one has signed up: one replica runs, and the condition says why.
    support::start(&sandbox, &support::minimal(&sandbox, 3)).await?;
    let reported = sandbox
        .wait_condition(NAME, "HALicensed", "False", "AwaitingFirstSignUp")
        .await?;
    support::says(&reported, &["sign up"])?;
    sandbox
        .wait_condition(NAME, "ReplicasHealthy", "True", "")
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "HeldBackByLicense")
        .await?;
    let one = || async { Ok(support::pods(&sandbox).await?.len()) };
    wait::throughout("one replica", Duration::from_secs(15), one, |count| {
        *count == 1
    })
    .await?;
    ensure!(sandbox.status(NAME).await?["phase"] == "Limited");

    // With an admin and a license the operator does the rest.
    support::patch_spec(
        &sandbox,
        json!({
            "license": {"secretRef": {"name": LICENSE_SECRET, "key": "license"}},
            "admin": {"credentialsSecretRef": {"name": support::ADMIN_SECRET}, "createFirst": true},
        }),
    )
    .await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "True", "LicenseAllowsHa")
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    ensure!(support::pods(&sandbox).await?.len() == 3);
    Ok(())
}

/// Whoever signs up first becomes the admin, so no one is let in before the operator has done so.
async fn admin_before_exposure(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::licensed(&sandbox, 1)).await?;
    let ingress_without_workspace = || async {
        let ingress = sandbox.api::<Ingress>().get_opt(NAME).await?.is_some();
        let workspaces: Result<i64> = async {
            let pool = sandbox.sql().await?;
            let count = sqlx::query_scalar("SELECT count(*) FROM workspace")
                .fetch_one(&pool)
                .await;
            pool.close().await;
            Ok(count?)
        }
        .await;
        // Before the migration there is no table, and so no workspace.
        let workspaces = workspaces.unwrap_or(0);
        ensure!(
            !ingress || workspaces > 0,
            "exposed before the first sign-up"
        );
        Ok(ingress)
    };
    let start = std::time::Instant::now();
    while !ingress_without_workspace().await? {
        ensure!(
            start.elapsed() < crate::scenario::sandbox::PATIENCE,
            "never exposed"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn expiry(sandbox: Sandbox) -> Result<()> {
    // A guard of ten seconds instead of ten minutes. The two steps down to one replica, and the end
    // of a pod before them, come on top with 27 s each: a license that ends in 130 s counts for 39.
    let options = OperatorOptions {
        values: json!({"licenseGuardSeconds": 10}),
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options).await?;
    support::secrets(&sandbox).await?;
    let expires = jiff::Timestamp::now() + SignedDuration::from_secs(130);
    sandbox
        .create_license_secret(
            LICENSE_SECRET,
            &License::default().expires_in(SignedDuration::from_secs(130)),
        )
        .await?;
    sandbox
        .apply_yaml(&support::licensed(&sandbox, 3).to_string())
        .await?;
    let reported = sandbox
        .wait_condition(NAME, "HALicensed", "True", "LicenseEndsSoon")
        .await?;
    support::says(&reported, &["within a day"])?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;

    sandbox
        .wait_condition(NAME, "HALicensed", "False", "LicenseExpiring")
        .await?;
    support::wait_pods(&sandbox, 1).await?;
    ensure!(
        jiff::Timestamp::now() < expires,
        "back to one replica only after the license ended"
    );
    support::wait_event(&sandbox, "LicenseEndsSoon").await?;
    support::wait_event(&sandbox, "LicenseExpiring").await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "False", "LicenseExpired")
        .await?;

    // A new license in the Secret is installed, and the cluster grows again.
    sandbox
        .create_license_secret(LICENSE_SECRET, &License::default())
        .await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "True", "LicenseAllowsHa")
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    Ok(())
}

async fn warn(sandbox: Sandbox) -> Result<()> {
    let mut cluster = support::minimal(&sandbox, 2);
    cluster["spec"]["license"] = json!({"enforcement": "Warn"});
    support::start(&sandbox, &cluster).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let reported = sandbox
        .wait_condition(NAME, "HALicensed", "False", "LicenseNotEnforced")
        .await?;
    support::says(&reported, &["ten minutes"])?;
    Ok(())
}

async fn wrong_admin_password(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 1).await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "True", "")
        .await?;
    // A license that is better than the stored one, and a password that is not the admin's.
    support::admin_secret(&sandbox, "not-the-password-of-the-admin").await?;
    sandbox
        .create_license_secret(
            LICENSE_SECRET,
            &License::default()
                .ha(true)
                .expires_in(SignedDuration::from_hours(24 * 800)),
        )
        .await?;
    support::install_license(&sandbox, &License::default().ha(false)).await?;
    let reported = sandbox
        .wait_condition(NAME, "HALicensed", "False", "LicenseInstallFailed")
        .await?;
    support::says(&reported, &["admin.credentialsSecretRef"])?;
    support::secrets(&sandbox).await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "True", "")
        .await?;
    Ok(())
}

/// Licenses of every kind in the Secret, before one counts: each is reported by its own reason, and
/// none lets a second replica run.
async fn forms(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::licensed(&sandbox, 2)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    forget_license(&sandbox).await?;

    refused_forms(&sandbox).await?;
    support::wait_pods(&sandbox, 1).await?;

    // As it is pasted by hand: with spaces around it and line breaks at its end. A trial counts
    // like any other.
    let trial = License {
        trialing: true,
        ..License::default()
    };
    let pasted = format!("  {}\n\n", sandbox.harness().license.sign(&trial));
    sandbox
        .create_secret(LICENSE_SECRET, &[("license", &pasted)])
        .await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "True", "LicenseAllowsHa")
        .await
        .context("a pasted trial")?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;

    // What is stored still counts when the Secret goes; its absence is reported.
    let before = support::lives(&sandbox).await?;
    sandbox
        .kubectl(&["delete", "secret", LICENSE_SECRET])
        .await?;
    sandbox
        .wait_condition(NAME, "ConfigurationValid", "False", "ReferenceMissing")
        .await?;
    wait::throughout(
        "both replicas",
        Duration::from_secs(5),
        || support::lives(&sandbox),
        |now| *now == before,
    )
    .await
}

/// Each is reported, and none of them counts.
async fn refused_forms(sandbox: &Sandbox) -> Result<()> {
    let key = &sandbox.harness().license;
    let other_key = LicenseKey::open(&sandbox.folder().join("other-key"))?;
    let good = key.sign(&License::default());
    let (cut, _) = good.rsplit_once('.').context("a license has three parts")?;
    let elsewhere = License {
        workspace_id: "somebody-elses".to_owned(),
        ..License::default()
    };
    let expired = License::default().expires_in(SignedDuration::from_hours(-1));
    let invalid = ("ConfigurationValid", "False", "InvalidSecret");
    let unlicensed = |reason| ("HALicensed", "False", reason);
    for (what, token, condition, words) in [
        ("cut short", cut.to_owned(), invalid, "the license has 2"),
        (
            "signed with another key",
            other_key.sign(&License::default()),
            invalid,
            "does not fit the verification key",
        ),
        (
            "nothing like it",
            "a license, says whoever wrote this".to_owned(),
            invalid,
            "the license has 1",
        ),
        ("empty", String::new(), invalid, "is empty"),
        (
            "of another workspace",
            key.sign(&elsewhere),
            unlicensed("LicenseOtherWorkspace"),
            "",
        ),
        (
            "expired",
            key.sign(&expired),
            unlicensed("LicenseExpired"),
            "",
        ),
        (
            "without HA",
            key.sign(&License::default().ha(false)),
            unlicensed("LicenseWithoutHa"),
            "",
        ),
    ] {
        // An empty value is in every text, and no secret.
        if token.is_empty() {
            sandbox
                .create_harmless_secret(LICENSE_SECRET, &[("license", "")])
                .await?;
        } else {
            sandbox
                .create_secret(LICENSE_SECRET, &[("license", &token)])
                .await?;
        }
        support::wait_message(sandbox, condition, words)
            .await
            .context(what)?;
        // "without HA" is installed all the same, for the plan that comes with it.
        forget_license(sandbox).await?;
    }
    Ok(())
}

/// A license that ends while no operator runs: the first reading afterwards is enough.
async fn expired_unseen(sandbox: Sandbox) -> Result<()> {
    // The guard, and for the one step down and the end of a pod before it its grace period and a
    // margin.
    const CLOSES_BEFORE_END: i64 = 65;
    let options = |replicas| OperatorOptions {
        replicas,
        values: json!({"licenseGuardSeconds": 5}),
        ..OperatorOptions::default()
    };
    sandbox.install_operator(&options(1)).await?;
    support::secrets(&sandbox).await?;
    sandbox
        .apply_yaml(&support::licensed(&sandbox, 2).to_string())
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let expires = support::shorten_license(&sandbox, 120).await?;
    sandbox.install_operator(&options(0)).await?;
    let operators = || sandbox.operator_pods();
    wait::until(
        "no operator",
        crate::scenario::sandbox::PATIENCE,
        operators,
        Vec::is_empty,
    )
    .await?;
    ensure!(
        jiff::Timestamp::now() + SignedDuration::from_secs(CLOSES_BEFORE_END) < expires,
        "the operator was still there when its gate closed"
    );
    while jiff::Timestamp::now() < expires {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    ensure!(support::pods(&sandbox).await?.len() == 2);
    sandbox.install_operator(&options(1)).await?;
    sandbox
        .wait_condition(NAME, "HALicensed", "False", "LicenseExpired")
        .await?;
    support::wait_pods(&sandbox, 1).await?;
    support::wait_event(&sandbox, "LicenseExpired").await
}

/// Takes the stored license away, as if none had ever been installed.
async fn forget_license(sandbox: &Sandbox) -> Result<()> {
    support::execute(
        sandbox,
        "UPDATE setting SET value = jsonb_set(value, '{license}', '\"\"') WHERE name = 'SYSTEM'",
    )
    .await
}
