//! A private key in a place where something else belongs is shown nowhere.

use crate::api::status::BytebaseClusterStatus;
use crate::decide::decide;
use crate::observation::{DatabaseFacts, DatabaseView, SchemaState};
use crate::report;
use crate::testing::{ENDLESS_CERTIFICATE, cluster, facts, no_license, now, references, settings};
use crate::validate::{Fetched, validate};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Where a spec names a value, and the Secret or ConfigMap and the key that it is read from.
fn places() -> [(Value, &'static str, &'static str); 9] {
    let admin = json!({"admin": {"credentialsSecretRef": {"name": "admin"}, "createFirst": true}});
    let reference = |name: &str, key: &str| json!({"name": name, "key": key});
    let database = |changes: Value| json!({"database": changes});
    let in_parts = database(json!({
        "urlSecretRef": null, "host": "db.example.com", "name": "bytebase",
        "userSecretRef": reference("login", "user"),
        "passwordSecretRef": reference("login", "password"),
    }));
    [
        (json!({}), "pg", "PG_URL"),
        (in_parts.clone(), "login", "user"),
        (in_parts, "login", "password"),
        (
            database(json!({"caSecretRef": reference("ca", "ca.crt")})),
            "ca",
            "ca.crt",
        ),
        (
            database(json!({"caConfigMapRef": reference("ca", "ca.crt")})),
            "ca",
            "ca.crt",
        ),
        (
            database(json!({"monitorSecretRef": reference("monitor", "PG_URL")})),
            "monitor",
            "PG_URL",
        ),
        (
            json!({"license": {"secretRef": reference("license", "token")}}),
            "license",
            "token",
        ),
        (admin.clone(), "admin", "password"),
        (admin, "admin", "email"),
    ]
}

/// What people put into a Secret by mistake: a private key, whole or mangled on its way.
fn misplaced(key: &[String]) -> Vec<Vec<u8>> {
    let [begin, end] = ["-----BEGIN PRIVATE KEY-----", "-----END PRIVATE KEY-----"];
    let lines = key.join("\n");
    let pem = format!("{begin}\n{lines}\n{end}\n");
    let url = "postgres://bytebase@db.example.com/bytebase";
    let certificate = ENDLESS_CERTIFICATE;
    let mut texts = vec![
        pem.clone(),
        pem.replace('\n', "\r\n"),
        pem.replace('\n', "\\n"),
        pem.replace('\n', " "),
        pem.replace('\n', "\n  "),
        format!("\u{feff}{pem}"),
        format!("{begin}\n{lines}"),
        format!("{lines}\n{end}"),
        key.concat(),
        pem.replace("PRIVATE KEY", "CERTIFICATE"),
        format!("{certificate}{pem}"),
        format!("{pem}{certificate}"),
        format!("{url}\n{pem}"),
        format!("{pem}\n{url}"),
        format!("{}.{}.{}", key[0], key[1], key[2]),
    ];
    for secret in [&pem, &key.concat()] {
        texts.extend([
            format!("postgres://bytebase:{secret}@db.example.com/bytebase"),
            format!("postgres://bytebase@db.example.com/bytebase?sslkey={secret}"),
            format!("postgres://bytebase@db.example.com/bytebase?sslpassword={secret}"),
            format!(
                "postgres://bytebase@db.example.com/bytebase?sslmode=require&sslrootcert={secret}"
            ),
            format!("host=db.example.com user=bytebase password={secret}"),
            format!("host=db.example.com user=bytebase password='{secret}"),
            format!("jdbc:{secret}"),
        ]);
    }
    let mut bytes: Vec<_> = texts.into_iter().map(String::into_bytes).collect();
    bytes.push([&[0xff], pem.as_bytes()].concat());
    bytes
}

/// What is said of each of these names the role.
fn readings() -> Vec<DatabaseFacts> {
    let plain = || facts(0, no_license());
    let mut few = plain();
    few.role_connections = Some(5);
    let mut lacking = plain();
    lacking.can_create = false;
    let mut absent = plain();
    absent.missing_schema = Some("bb".to_owned());
    let mut off_path = plain();
    off_path.schema = SchemaState::OffPath {
        schema: "bb".to_owned(),
    };
    vec![plain(), few, lacking, absent, off_path]
}

#[test]
fn no_part_of_a_misplaced_key_is_shown() {
    // Base64 that no message holds by chance.
    let line = |seed: usize| {
        let letters = (0..64).map(|at| char::from(b"QzXvJkWqYg7Z3"[(at * seed + at / 13) % 13]));
        letters.collect::<String>()
    };
    let key = [2, 5, 7].map(line);
    let readings = readings().into_iter();
    let observations: Vec<_> = readings
        .map(|facts| crate::testing::observation(None, DatabaseView::Probed(Ok(facts))))
        .collect();
    for (changes, name, key_of_secret) in places() {
        for misplaced in misplaced(&key) {
            let mut references = references();
            for fetched in [&mut references.secrets, &mut references.config_maps] {
                let before = fetched.remove(name);
                let mut values = match before {
                    Some(Fetched::Present(values)) => values,
                    _ => BTreeMap::new(),
                };
                values.insert(key_of_secret.to_owned(), misplaced.clone().into());
                fetched.insert(name.to_owned(), Fetched::Present(values));
            }
            let validation = validate(&cluster(&changes), &references, None, now());
            let mut shown = format!("{validation:?}");
            for observation in &observations {
                let plan = decide(&validation, observation, &settings());
                let before = BytebaseClusterStatus::default();
                let status = report::status(&before, plan.report.clone(), &[], Some(1), now());
                let notices = report::notices(&before, &status);
                let status = serde_json::to_string(&status).unwrap();
                write!(shown, "{plan:?} {notices:?} {status}").unwrap();
            }
            for part in key.iter().flat_map(|line| line.as_bytes().chunks(8)) {
                let part = std::str::from_utf8(part).unwrap();
                let text = String::from_utf8_lossy(&misplaced);
                assert!(
                    !shown.contains(part),
                    "{name}/{key_of_secret}: {text}: {shown}"
                );
            }
        }
    }
}
