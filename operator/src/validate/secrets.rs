//! Values of a cluster's Secrets that no line of a log may show.

use super::References;
use crate::api::spec::{BytebaseClusterSpec, SecretKeyRef};
use crate::contract::pg_url::PgUrl;
use crate::redaction::KnownSecrets;
use secrecy::{ExposeSecret as _, SecretString};

/// All of them, whether they can be used or not. `None` where one could not be read: a replica may
/// have been started with it.
pub fn known_secrets(spec: &BytebaseClusterSpec, references: &References) -> Option<KnownSecrets> {
    let mut known = KnownSecrets::default();
    let database = &spec.database;
    let value = |reference: &SecretKeyRef| -> Option<SecretString> {
        let bytes = references.secret_bytes("", reference).ok()?;
        let text = String::from_utf8_lossy(bytes.expose_secret());
        Some(text.into_owned().into())
    };
    let urls = [&database.url_secret_ref, &database.monitor_secret_ref];
    let urls = urls.into_iter().flatten().map(value);
    let inline = database.url.clone().map(|url| Some(url.into()));
    for url in urls.chain(inline) {
        let text = url?;
        match PgUrl::parse(text.expose_secret()) {
            Ok(url) => url.secrets().for_each(|secret| known.add(secret)),
            // Any part of it may be the password.
            Err(_) => known.add(&text),
        }
    }
    let license = spec.license.as_ref();
    let license = license.and_then(|license| license.secret_ref.clone());
    let admin = spec.admin.as_ref().map(|admin| SecretKeyRef {
        name: admin.credentials_secret_ref.name.clone(),
        key: "password".to_owned(),
    });
    let password = database.password_secret_ref.clone();
    for reference in [password, license, admin].into_iter().flatten() {
        known.add(&value(&reference)?);
    }
    Some(known)
}

#[cfg(test)]
mod tests {
    use crate::redaction::{KnownSecrets, RedactedLine};
    use crate::testing::{ADMIN_PASSWORD, PASSWORD, cluster, references, token};
    use serde_json::{Value, json};

    fn known(changes: &Value) -> Option<KnownSecrets> {
        super::known_secrets(&cluster(changes).spec, &references())
    }

    #[test]
    fn every_secret_that_the_spec_names_is_known() {
        let in_parts = json!({
            "host": "db.example.com", "name": "bytebase",
            "userSecretRef": {"name": "login", "key": "user"},
            "passwordSecretRef": {"name": "login", "key": "password"},
        });
        let in_url = json!({"urlSecretRef": {"name": "pg", "key": "PG_URL"}});
        let monitored = json!({
            "url": "postgres://bytebase@db.example.com/bytebase",
            "monitorSecretRef": {"name": "pg", "key": "PG_URL"},
        });
        let license = json!({"secretRef": {"name": "license", "key": "token"}});
        let admin = json!({"credentialsSecretRef": {"name": "admin"}, "createFirst": true});
        for database in [in_parts, in_url, monitored] {
            // What else is wrong with the spec makes no difference.
            for url in ["https://bytebase.example.com", "not one"] {
                let secrets = known(&json!({
                    "database": database, "license": license, "admin": admin, "externalURL": url,
                }));
                let secrets = secrets.unwrap();
                for secret in [PASSWORD, ADMIN_PASSWORD, &token(&json!({}))[..40]] {
                    let line = format!("the value {secret} of bytebase is wrong");
                    let line = RedactedLine::of(&line, &secrets).unwrap();
                    assert_eq!(line.as_str(), "the value *** of bytebase is wrong");
                }
            }
        }
    }

    #[test]
    fn a_secret_that_cannot_be_read_leaves_them_unknown() {
        for changes in [
            json!({"database": {"urlSecretRef": {"name": "gone", "key": "PG_URL"}}}),
            json!({"license": {"secretRef": {"name": "license", "key": "gone"}}}),
        ] {
            assert!(known(&changes).is_none(), "{changes}");
        }
        assert!(known(&json!({})).is_some());
    }
}
