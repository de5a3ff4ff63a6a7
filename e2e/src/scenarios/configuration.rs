//! Wrong input is reported, and nothing that runs is touched.

use super::support::{self, DATABASE_SECRET, LICENSE_SECRET, NAME};
use crate::scenario::license::License;
use crate::scenario::sandbox::Sandbox;
use crate::scenario::{Scenario, stand_in};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// The scenarios of this file.
pub const SCENARIOS: &[Scenario] = &[
    Scenario::new(
        "wrong-then-corrected",
        "A wrong URL and a wrong PG_URL are reported together and touch nothing; corrected, the cluster is Ready.",
        |sandbox| Box::pin(wrong_then_corrected(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "missing-secret",
        "A Secret that is deleted is reported and ends no replica.",
        |sandbox| Box::pin(missing_secret(sandbox)),
    ),
    Scenario::new(
        "wrong-license",
        "A license Secret that holds no license is reported, and the stored license still counts.",
        |sandbox| Box::pin(wrong_license(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "key-in-the-wrong-secret",
        "A private key in any Secret that a cluster names, whole or spoiled, is refused, and no line of it is shown anywhere.",
        |sandbox| Box::pin(key_in_the_wrong_secret(sandbox)),
    )
    .stand_in_only(stand_in::LICENSE),
    Scenario::new(
        "refused-at-admission",
        "Contradictions are refused by the API server, with words that help.",
        |sandbox| Box::pin(refused_at_admission(sandbox)),
    ),
];

async fn wrong_then_corrected(sandbox: Sandbox) -> Result<()> {
    support::ready(&sandbox, 2).await?;
    let before = support::lives(&sandbox).await?;
    let template = template(&sandbox).await?;

    support::patch_spec(
        &sandbox,
        json!({"externalURL": "HTTPS://user@bytebase.example.com?x=1"}),
    )
    .await?;
    let wrong = sandbox
        .wait_condition(NAME, "ConfigurationValid", "False", "InvalidSpec")
        .await?;
    support::says(&wrong, &["spec.externalURL"])?;
    sandbox
        .wait_condition(NAME, "Stalled", "True", "InvalidConfiguration")
        .await?;

    // A second problem does not hide the first.
    sandbox
        .create_secret(
            DATABASE_SECRET,
            &[("PG_URL", "jdbc:postgresql://db.example.com/a-secret-name")],
        )
        .await?;
    let both = sandbox
        .wait_condition(NAME, "ConfigurationValid", "False", "")
        .await?;
    let both = if both["message"]
        .as_str()
        .unwrap_or_default()
        .contains("urlSecretRef")
    {
        both
    } else {
        crate::wait::until(
            "both problems",
            crate::scenario::sandbox::PATIENCE,
            || support::condition_now(&sandbox, "ConfigurationValid"),
            |condition: &Value| {
                condition["message"]
                    .as_str()
                    .is_some_and(|message| message.contains("urlSecretRef"))
            },
        )
        .await?
    };
    support::says(
        &both,
        &[
            "spec.externalURL",
            "spec.database.urlSecretRef",
            DATABASE_SECRET,
        ],
    )?;
    ensure!(
        support::lives(&sandbox).await? == before && template == self::template(&sandbox).await?,
        "something that runs was touched"
    );

    sandbox.create_database_secret(DATABASE_SECRET).await?;
    support::patch_spec(
        &sandbox,
        json!({"externalURL": "https://bytebase.example.com"}),
    )
    .await?;
    sandbox
        .wait_condition(NAME, "ConfigurationValid", "True", "")
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "the correction touched what runs"
    );
    Ok(())
}

async fn missing_secret(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::minimal(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;
    sandbox
        .kubectl(&["delete", "secret", DATABASE_SECRET])
        .await?;
    let missing = sandbox
        .wait_condition(NAME, "ConfigurationValid", "False", "ReferenceMissing")
        .await?;
    support::says(&missing, &[DATABASE_SECRET, "create it"])?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "a missing Secret ended a replica"
    );
    support::put_database_secret_back(&sandbox, &before).await?;
    Ok(())
}

async fn wrong_license(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::licensed(&sandbox, 2)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;
    // What is stored counts; a Secret that is wrong is reported and ends no replica.
    let token = sandbox.harness().license.sign(&License::default());
    let (cut, _) = token
        .rsplit_once('.')
        .context("a license has three parts")?;
    for (wrong, parts) in [("not a license at all", 1), (cut, 2)] {
        sandbox
            .create_secret(LICENSE_SECRET, &[("license", wrong)])
            .await?;
        let condition = ("ConfigurationValid", "False", "InvalidSecret");
        let words = format!("the license has {parts}");
        support::wait_message(&sandbox, condition, &words).await?;
        let reported = support::condition_now(&sandbox, "ConfigurationValid").await?;
        support::says(&reported, &["spec.license.secretRef", LICENSE_SECRET])?;
    }
    sandbox
        .wait_condition(NAME, "HALicensed", "True", "")
        .await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    sandbox
        .create_license_secret(LICENSE_SECRET, &License::default())
        .await?;
    sandbox
        .wait_condition(NAME, "ConfigurationValid", "True", "")
        .await?;
    ensure!(
        support::lives(&sandbox).await? == before,
        "a wrong license Secret ended a replica"
    );
    Ok(())
}

/// What stands in a private key. The runner looks for each line, in base64 as well, in all that the
/// operator wrote.
const KEY_LINES: [&str; 3] = [
    "MC4CAQAwBQYDK2VwBCIEIHNvbWUtbGluZS1vZi1hLWtleS10aGF0LW5vYm9keS1z",
    "aG93cy1hbnl3aGVyZS1zaW5jZS1pdC1zdGFuZHMtaW4tYS1TZWNyZXQtb25seS0t",
    "YW5kLXRoaXMtaXMtaXRzLWxhc3QtbGluZS13aGljaC1lbmRzLWhlcmU=",
];

/// The ways in which keys arrive in Secrets: as they are, on one line as environment variables
/// carry them, cut off, indented as from a document, and behind a certificate that cannot be read.
fn spoiled_keys() -> [String; 5] {
    let (begin, end) = ("-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----");
    let [one, two, three] = KEY_LINES;
    [
        format!("{begin}\n{one}\n{two}\n{three}\n{end}\n"),
        format!("{begin}\\n{one}\\n{two}\\n{three}\\n{end}\\n\n"),
        format!("{begin}\n{one}\n{two}\n"),
        format!("  {begin}\n  {one}\n  {two}\n  {three}\n  {end}\n"),
        format!(
            "-----BEGIN CERTIFICATE-----\n{one}\n-----END CERTIFICATE-----\n{begin}\n{two}\n{three}\n{end}\n"
        ),
    ]
}

async fn key_in_the_wrong_secret(sandbox: Sandbox) -> Result<()> {
    support::start(&sandbox, &support::licensed(&sandbox, 1)).await?;
    sandbox
        .wait_condition(NAME, "Ready", "True", "AllReplicasActive")
        .await?;
    let before = support::lives(&sandbox).await?;
    for (index, line) in KEY_LINES.iter().enumerate() {
        sandbox.plant(&format!("line {} of the key", index + 1), line);
    }
    let reference = |key: &str| json!({"name": "misplaced", "key": key});
    let places = [
        json!({"database": {"urlSecretRef": reference("key")}}),
        json!({"database": {
            "urlSecretRef": null, "host": "db.example.com", "name": "bytebase",
            "userSecretRef": reference("key"), "passwordSecretRef": reference("key"),
        }}),
        json!({"database": {"caSecretRef": reference("key")}}),
        json!({"database": {"monitorSecretRef": reference("key")}}),
        json!({"license": {"secretRef": reference("key")}}),
        json!({"admin": {"credentialsSecretRef": {"name": "misplaced"}}}),
    ];
    let spec = support::licensed(&sandbox, 1)["spec"].clone();
    let back = json!({
        "database": {
            "urlSecretRef": spec["database"]["urlSecretRef"], "caSecretRef": null, "monitorSecretRef": null,
            "host": null, "name": null, "userSecretRef": null, "passwordSecretRef": null,
        },
        "license": spec["license"],
        "admin": spec["admin"],
    });
    for key in spoiled_keys() {
        let data = [("key", key.as_str()), ("email", &key), ("password", &key)];
        sandbox.create_harmless_secret("misplaced", &data).await?;
        for place in &places {
            support::patch_spec(&sandbox, place.clone()).await?;
            let refused = sandbox
                .wait_condition(NAME, "ConfigurationValid", "False", "InvalidSecret")
                .await
                .with_context(|| format!("{place}"))?;
            support::says(&refused, &["misplaced"])?;
            support::patch_spec(&sandbox, back.clone()).await?;
            sandbox
                .wait_condition(NAME, "ConfigurationValid", "True", "")
                .await?;
        }
    }
    ensure!(
        support::lives(&sandbox).await? == before,
        "a misplaced key ended a replica"
    );
    Ok(())
}

/// Admission refuses contradictions before the operator sees them.
async fn refused_at_admission(sandbox: Sandbox) -> Result<()> {
    let cases: [(&str, Value, &str); 5] = [
        (
            "two ways to the database",
            json!({"database": {"url": "postgres://u@h/d", "urlSecretRef": {"name": "a", "key": "b"}}}),
            "exactly one of",
        ),
        (
            "parts without a name",
            json!({"database": {"urlSecretRef": null, "host": "h"}}),
            "needs name and userSecretRef",
        ),
        (
            "two CAs",
            json!({"database": {"caSecretRef": {"name": "a", "key": "b"}, "caConfigMapRef": {"name": "a", "key": "b"}}}),
            "only one of",
        ),
        ("a negative size", json!({"replicas": -1}), "replicas"),
        (
            "an unknown preset",
            json!({"ingress": {"preset": "apache"}}),
            "preset",
        ),
    ];
    for (what, change, words) in cases {
        let mut cluster = support::minimal(&sandbox, 1);
        merge(&mut cluster["spec"], &change);
        let refused = sandbox.apply_yaml(&cluster.to_string()).await;
        let Err(error) = refused else {
            anyhow::bail!("{what} was accepted")
        };
        ensure!(format!("{error:#}").contains(words), "{what}: {error:#}");
    }
    Ok(())
}

fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over.clone(),
    }
}

async fn template(sandbox: &Sandbox) -> Result<String> {
    sandbox
        .kubectl(&["get", "statefulset", NAME, "-o", "jsonpath={.spec}"])
        .await
}
