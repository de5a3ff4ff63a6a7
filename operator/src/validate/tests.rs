//! Wrong specs and what is said of them; what pods of valid ones get.

use super::{Fetched, Problem, References, UrlSource, validate, wanted_references};
use crate::api::Reason::{self, InvalidSecret, InvalidSpec, ReferenceMissing};
use crate::api::read::UnreadableField;
use crate::contract::pg_url::PgUrl;
use crate::testing::{
    CA_CERTIFICATE, ENDLESS_CERTIFICATE, PASSWORD, cluster, now, references, secret, valid,
    validation,
};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;

fn parts(changes: &Value) -> Value {
    let mut database = json!({
        "host": "db.example.com", "name": "bytebase",
        "userSecretRef": {"name": "login", "key": "user"}, "passwordSecretRef": {"name": "login", "key": "password"},
    });
    crate::testing::merge(&mut database, changes);
    json!({"database": database})
}

fn url(changes: &Value) -> Value {
    let mut database = json!({"urlSecretRef": {"name": "pg", "key": "PG_URL"}});
    crate::testing::merge(&mut database, changes);
    json!({"database": database})
}

fn key(name: &str, key: &str) -> Value {
    json!({"name": name, "key": key})
}

/// Spec, field, reason, words of the message.
type Wrong = (Value, &'static str, Reason, &'static str);

fn wrong_images() -> Vec<Wrong> {
    vec![
        (json!({"version": ""}), "spec.version", InvalidSpec, "empty"),
        (
            json!({"version": "3.16.9"}),
            "spec.version",
            InvalidSpec,
            "older than 3.17.0",
        ),
        (
            json!({"version": "3.16.9", "image": {"digest": format!("sha256:{}", "0".repeat(64))}}),
            "spec.version",
            InvalidSpec,
            "older than 3.17.0",
        ),
        (
            json!({"version": "3.21.1@sha256:0"}),
            "spec.version",
            InvalidSpec,
            "digest has its own field",
        ),
        (
            json!({"version": "latest", "image": {"digest": format!("sha256:{}", "0".repeat(64))}}),
            "spec.version",
            InvalidSpec,
            "what the digest holds",
        ),
        (
            json!({"image": {"repository": ""}}),
            "spec.image.repository",
            InvalidSpec,
            "not a repository",
        ),
        (
            json!({"image": {"repository": "docker.io/bytebase/bytebase:3.21.1"}}),
            "spec.image.repository",
            InvalidSpec,
            "without tag",
        ),
        (
            json!({"image": {"repository": "a b"}}),
            "spec.image.repository",
            InvalidSpec,
            "not a repository",
        ),
        (
            json!({"image": {"tag": "-x"}}),
            "spec.image.tag",
            InvalidSpec,
            "begins with",
        ),
        (
            json!({"image": {"digest": "sha256:abc"}}),
            "spec.image.digest",
            InvalidSpec,
            "64",
        ),
    ]
}

fn wrong_access() -> Vec<Wrong> {
    vec![
        (
            json!({"externalURL": ""}),
            "spec.externalURL",
            InvalidSpec,
            "empty",
        ),
        (
            json!({"externalURL": "ftp://x"}),
            "spec.externalURL",
            InvalidSpec,
            "http",
        ),
        (
            json!({"externalURL": "https://[::1]"}),
            "spec.externalURL",
            InvalidSpec,
            "IPv6",
        ),
        (
            json!({"service": {"port": 0}}),
            "spec.service.port",
            InvalidSpec,
            "65535",
        ),
        (
            json!({"ingress": {"host": "other.example.com"}}),
            "spec.ingress.host",
            InvalidSpec,
            "bytebase.example.com",
        ),
        (
            json!({"externalURL": "http://10.0.0.1"}),
            "spec.ingress.host",
            InvalidSpec,
            "DNS name",
        ),
        (
            json!({"ingress": {"host": "Other", "allowHostMismatch": true}}),
            "spec.ingress.host",
            InvalidSpec,
            "lower-case",
        ),
        (
            json!({"gateway": {"parentRefs": []}}),
            "spec.gateway.parentRefs",
            InvalidSpec,
            "1 to 8",
        ),
        (
            json!({"gateway": {"parentRefs": [{"name": "a"}], "host": "other.example.com"}}),
            "spec.gateway.host",
            InvalidSpec,
            "bytebase.example.com",
        ),
        (
            json!({"gateway": {"parentRefs": [{"name": "a"}]}, "externalURL": "http://10.0.0.1"}),
            "spec.gateway.host",
            InvalidSpec,
            "DNS name",
        ),
        (
            json!({"gateway": {"parentRefs": [{"name": "a"}], "requestTimeout": "1 hour"}}),
            "spec.gateway.requestTimeout",
            InvalidSpec,
            "1h30m",
        ),
        (
            json!({"monitoring": {"serviceMonitor": {"interval": "30"}}}),
            "spec.monitoring.serviceMonitor.interval",
            InvalidSpec,
            "30s",
        ),
        (
            json!({"networkPolicy": {"from": vec![json!({}); 33]}}),
            "spec.networkPolicy.from",
            InvalidSpec,
            "32",
        ),
    ]
}

fn wrong_services() -> Vec<Wrong> {
    let balanced =
        |field: &str, value: Value| json!({"service": {"type": "LoadBalancer", field: value}});
    vec![
        (
            json!({"service": {"loadBalancerClass": "a"}}),
            "spec.service.loadBalancerClass",
            InvalidSpec,
            "type LoadBalancer, and this one is of type ClusterIP",
        ),
        (
            json!({"service": {"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]}}),
            "spec.service.loadBalancerSourceRanges",
            InvalidSpec,
            "type LoadBalancer, and this one is of type NodePort",
        ),
        (
            json!({"service": {"type": "ClusterIP", "externalTrafficPolicy": "Local"}}),
            "spec.service.externalTrafficPolicy",
            InvalidSpec,
            "type NodePort or LoadBalancer",
        ),
        (
            balanced("loadBalancerClass", json!("a b")),
            "spec.service.loadBalancerClass",
            InvalidSpec,
            "name of a class",
        ),
        (
            balanced(
                "loadBalancerSourceRanges",
                json!(["10.0.0.0/8", "10.0.0.1"]),
            ),
            "spec.service.loadBalancerSourceRanges[1]",
            InvalidSpec,
            "range of addresses",
        ),
        (
            balanced("loadBalancerSourceRanges", json!(["10.0.0.1/8"])),
            "spec.service.loadBalancerSourceRanges[0]",
            InvalidSpec,
            "write 10.0.0.0/8",
        ),
        (
            balanced("loadBalancerSourceRanges", json!(vec!["10.0.0.0/8"; 65])),
            "spec.service.loadBalancerSourceRanges",
            InvalidSpec,
            "at most 64",
        ),
        (
            json!({"service": {"ipFamilies": ["IPv4", "IPv6"]}}),
            "spec.service.ipFamilyPolicy",
            InvalidSpec,
            "PreferDualStack or RequireDualStack",
        ),
        (
            json!({"service": {"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"}}),
            "spec.service.ipFamilyPolicy",
            InvalidSpec,
            "or name one family",
        ),
        (
            json!({"service": {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "PreferDualStack"}}),
            "spec.service.ipFamilies",
            InvalidSpec,
            "name both",
        ),
        (
            json!({"service": {"ipFamilies": ["IPv6", "IPv6"], "ipFamilyPolicy": "PreferDualStack"}}),
            "spec.service.ipFamilies",
            InvalidSpec,
            "twice",
        ),
    ]
}

fn wrong_metadata() -> Vec<Wrong> {
    vec![
        (
            json!({"labels": {"app.kubernetes.io/name": "mine"}}),
            "spec.labels",
            InvalidSpec,
            "app.kubernetes.io/name is the operator's",
        ),
        (
            json!({"labels": {"a b": "x"}}),
            "spec.labels",
            InvalidSpec,
            "the key \"a b\"",
        ),
        (
            json!({"labels": {"team": "a b"}}),
            "spec.labels",
            InvalidSpec,
            "the value of team",
        ),
        (
            json!({"podLabels": {"team": "a b"}}),
            "spec.podLabels",
            InvalidSpec,
            "the value of team",
        ),
        (
            json!({"nodeSelector": {"a b": "x"}}),
            "spec.nodeSelector",
            InvalidSpec,
            "the key \"a b\"",
        ),
        (
            json!({"podAnnotations": {"/x": "x"}}),
            "spec.podAnnotations",
            InvalidSpec,
            "the key \"/x\"",
        ),
        (
            json!({"service": {"annotations": {"a/b/c": "x"}}}),
            "spec.service.annotations",
            InvalidSpec,
            "the key \"a/b/c\"",
        ),
        (
            json!({"serviceAccount": {"annotations": {"": "x"}}}),
            "spec.serviceAccount.annotations",
            InvalidSpec,
            "the key \"\"",
        ),
        (
            json!({"ingress": {"annotations": {"-a": "x"}}}),
            "spec.ingress.annotations",
            InvalidSpec,
            "the key \"-a\"",
        ),
        (
            json!({"gateway": {"parentRefs": [{"name": "g"}], "annotations": {"a-": "x"}}}),
            "spec.gateway.annotations",
            InvalidSpec,
            "the key \"a-\"",
        ),
        (
            json!({"monitoring": {"serviceMonitor": {"labels": {"release": "a/b"}}}}),
            "spec.monitoring.serviceMonitor.labels",
            InvalidSpec,
            "the value of release",
        ),
        (
            json!({"annotations": {"bytebase.com/applied-hash": "0"}}),
            "spec.annotations",
            InvalidSpec,
            "is the operator's",
        ),
        (
            json!({"annotations": {"-": "x"}}),
            "spec.annotations",
            InvalidSpec,
            "the key \"-\"",
        ),
    ]
}

/// Entries that the API server would refuse, since it distinguishes them by a key.
fn wrong_lists() -> Vec<Wrong> {
    vec![
        (
            json!({"volumes": [{"name": "a"}], "volumeMounts": [{"name": "a", "mountPath": "/tmp/"}]}),
            "spec.volumeMounts[0].mountPath",
            InvalidSpec,
            "mounted by the operator",
        ),
        (
            json!({"volumes": [{"name": "a"}], "volumeMounts": [{"name": "a", "mountPath": "/var/opt/bytebase"}]}),
            "spec.volumeMounts[0].mountPath",
            InvalidSpec,
            "mounted by the operator",
        ),
        (
            json!({
                "database": {
                    "url": "postgres://u@db/x?sslmode=verify-full&sslrootcert=/etc/bytebase/database-ca/ca.crt",
                    "caSecretRef": key("ca", "ca.crt"),
                },
                "volumes": [{"name": "a"}],
                "volumeMounts": [{"name": "a", "mountPath": "/etc/bytebase/database-ca"}],
            }),
            "spec.volumeMounts[0].mountPath",
            InvalidSpec,
            "mounted by the operator",
        ),
        (
            json!({
                "volumes": [{"name": "a"}, {"name": "b"}],
                "volumeMounts": [{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a"}],
            }),
            "spec.volumeMounts[1].mountPath",
            InvalidSpec,
            "twice",
        ),
        (
            json!({"image": {"pullSecrets": [{"name": "a"}, {"name": "a"}]}}),
            "spec.image.pullSecrets[1].name",
            InvalidSpec,
            "twice",
        ),
        (
            json!({"topologySpreadConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
                {"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
            ]}),
            "spec.topologySpreadConstraints[1]",
            InvalidSpec,
            "twice",
        ),
        (
            json!({"resources": {"claims": [{"name": "gpu"}, {"name": "nic"}, {"name": "gpu", "request": "all"}]}}),
            "spec.resources.claims[2].name",
            InvalidSpec,
            "gpu is there twice",
        ),
    ]
}

fn wrong_pods() -> Vec<Wrong> {
    vec![
        (
            json!({"replicas": -1}),
            "spec.replicas",
            InvalidSpec,
            "between 0 and 50",
        ),
        (
            json!({"replicas": 51}),
            "spec.replicas",
            InvalidSpec,
            "between 0 and 50",
        ),
        (
            json!({"env": [{"name": "PG_URL", "value": "x"}]}),
            "spec.env[0].name",
            InvalidSpec,
            "set by the operator",
        ),
        (
            json!({"env": [{"name": "A"}, {"name": "PGSSLMODE"}]}),
            "spec.env[1].name",
            InvalidSpec,
            "users' databases",
        ),
        (
            json!({"env": [{"name": "A"}, {"name": "A"}]}),
            "spec.env[1].name",
            InvalidSpec,
            "twice",
        ),
        (
            json!({"volumes": [{"name": "bytebase-tmp"}]}),
            "spec.volumes[0].name",
            InvalidSpec,
            "operator's",
        ),
        (
            json!({"volumes": [{"name": "a"}, {"name": "a"}]}),
            "spec.volumes[1].name",
            InvalidSpec,
            "twice",
        ),
        (
            json!({"volumeMounts": [{"name": "a", "mountPath": "/a"}]}),
            "spec.volumeMounts[0].name",
            InvalidSpec,
            "no volume a",
        ),
        (
            json!({"podLabels": {"app.kubernetes.io/name": "x"}}),
            "spec.podLabels",
            InvalidSpec,
            "operator's",
        ),
        (
            json!({"podAnnotations": {"bytebase.com/version": "x"}}),
            "spec.podAnnotations",
            InvalidSpec,
            "operator's",
        ),
        (
            json!({"podTemplate": []}),
            "spec.podTemplate",
            InvalidSpec,
            "object",
        ),
        (
            json!({"rollout": {"readyTimeoutSeconds": 9}}),
            "spec.rollout.readyTimeoutSeconds",
            InvalidSpec,
            "between 10",
        ),
        (
            json!({"rollout": {"preStopSeconds": -1}}),
            "spec.rollout.preStopSeconds",
            InvalidSpec,
            "between 0",
        ),
        (
            json!({"rollout": {"terminationGraceSeconds": 0}}),
            "spec.rollout.terminationGraceSeconds",
            InvalidSpec,
            "between 1",
        ),
    ]
}

fn wrong_fields() -> impl Iterator<Item = Wrong> {
    let all = [wrong_images(), wrong_access(), wrong_pods()];
    all.into_iter().flatten()
}

const DATABASE: &str = "spec.database";

fn wrong_urls() -> Vec<Wrong> {
    vec![
        (
            json!({"database": {}}),
            DATABASE,
            InvalidSpec,
            "exactly one",
        ),
        (
            url(&json!({"url": "postgres://u@db/x"})),
            DATABASE,
            InvalidSpec,
            "exactly one",
        ),
        (
            url(&json!({"port": 5432})),
            DATABASE,
            InvalidSpec,
            "form with host",
        ),
        (
            url(&json!({"params": {}})),
            DATABASE,
            InvalidSpec,
            "form with host",
        ),
        (
            url(
                &json!({"caSecretRef": key("ca", "ca.crt"), "caConfigMapRef": key("ca", "ca.crt")}),
            ),
            DATABASE,
            InvalidSpec,
            "only one",
        ),
        (
            url(&json!({"caSecretRef": key("login", "user")})),
            "spec.database.caSecretRef",
            InvalidSecret,
            "PEM",
        ),
        (
            url(&json!({"caConfigMapRef": key("absent", "x")})),
            "spec.database.caConfigMapRef",
            ReferenceMissing,
            "ConfigMap absent does not exist",
        ),
        (
            url(&json!({"urlSecretRef": key("absent", "x")})),
            "spec.database.urlSecretRef",
            ReferenceMissing,
            "Secret absent does not exist",
        ),
        (
            url(&json!({"urlSecretRef": key("login", "x")})),
            "spec.database.urlSecretRef",
            ReferenceMissing,
            "no key x (its keys: password, user)",
        ),
        (
            url(&json!({"urlSecretRef": key("login", "password")})),
            "spec.database.urlSecretRef",
            InvalidSecret,
            "Secret login, key password",
        ),
        (
            url(&json!({"monitorSecretRef": key("login", "password")})),
            "spec.database.monitorSecretRef",
            InvalidSecret,
            "Secret login, key password",
        ),
        (
            url(&json!({"urlSecretRef": null, "url": "postgres://u:p@db/x"})),
            "spec.database.url",
            InvalidSpec,
            "holds a password",
        ),
        (
            url(&json!({"urlSecretRef": null, "url": "/etc/x"})),
            "spec.database.url",
            InvalidSpec,
            "the value: this is the path of a file",
        ),
        (
            url(&json!({"urlSecretRef": null, "url": "postgres://u@db/x?application_name=me"})),
            "spec.database.url",
            InvalidSpec,
            "application_name",
        ),
        (
            json!({"version": "3.17.0", "database": {"url": "host=db user=u dbname=x"}}),
            "spec.database.url",
            InvalidSpec,
            "3.18.0 or later",
        ),
    ]
}

fn wrong_parts() -> Vec<Wrong> {
    vec![
        (
            parts(&json!({"name": null})),
            DATABASE,
            InvalidSpec,
            "needs name and userSecretRef",
        ),
        (
            parts(&json!({"name": ""})),
            DATABASE,
            InvalidSpec,
            "needs name and userSecretRef",
        ),
        (
            parts(&json!({"userSecretRef": null})),
            DATABASE,
            InvalidSpec,
            "needs name and userSecretRef",
        ),
        (
            parts(&json!({"port": 70_000})),
            "spec.database.port",
            InvalidSpec,
            "65535",
        ),
        (parts(&json!({"port": 0})), DATABASE, InvalidSpec, "port"),
        (
            parts(&json!({"host": "a b"})),
            DATABASE,
            InvalidSpec,
            "host",
        ),
        (
            parts(&json!({"params": {"password": "x"}})),
            DATABASE,
            InvalidSpec,
            "password",
        ),
        (
            parts(&json!({"params": {"sslmode": "on"}})),
            DATABASE,
            InvalidSpec,
            "sslmode",
        ),
        (
            parts(&json!({"userSecretRef": key("login", "absent")})),
            "spec.database.userSecretRef",
            ReferenceMissing,
            "no key absent",
        ),
        (
            parts(&json!({"passwordSecretRef": key("absent", "x")})),
            "spec.database.passwordSecretRef",
            ReferenceMissing,
            "does not exist",
        ),
    ]
}

fn wrong_databases() -> impl Iterator<Item = Wrong> {
    wrong_urls().into_iter().chain(wrong_parts())
}

fn found<'p>(problems: &'p [Problem], field: &str) -> Option<&'p Problem> {
    problems.iter().find(|problem| problem.field == field)
}

#[test]
fn the_admins_email_is_sent_as_bytebase_stores_it() {
    let spec = json!({"admin": {"credentialsSecretRef": {"name": "admin"}}});
    let mut references = references();
    let keys = [("email", " Admin@Example.com\n"), ("password", "p4ss")]
        .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec().into()));
    let fetched = Fetched::Present(keys.into());
    references.secrets.insert("admin".to_owned(), fetched);
    let validation = validate(&cluster(&spec), &references, None, now());
    let login = validation.cluster.unwrap().admin.unwrap().login.unwrap();
    assert_eq!(login.email.expose_secret(), "admin@example.com");
}

#[test]
fn a_line_break_at_the_end_of_the_admins_password_is_reported_and_blocks_nothing() {
    let spec = json!({"admin": {"credentialsSecretRef": {"name": "admin"}}});
    for (password, expected) in [("p4ss", true), ("p4ss\n", false), ("p4ss\r\n", false)] {
        let mut references = references();
        let keys = [("email", "a@example.com"), ("password", password)]
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec().into()));
        let fetched = Fetched::Present(keys.into());
        references.secrets.insert("admin".to_owned(), fetched);
        let validation = validate(&cluster(&spec), &references, None, now());
        let admin = validation.cluster.unwrap().admin.unwrap();
        assert_eq!(admin.login.is_some(), expected, "{password:?}");
        let reported = validation.problems.iter().any(|problem| {
            problem.reason == InvalidSecret && problem.message.contains("line break")
        });
        assert_eq!(reported, !expected);
        assert!(
            validation
                .problems
                .iter()
                .all(|problem| !problem.message.contains("p4ss"))
        );
    }
}

#[test]
fn a_login_that_no_server_takes_is_named_by_its_secret_and_key() {
    for (key, value, words) in [
        ("password", "p4ss\n", "ends with a line break"),
        ("password", "p4ss\r\n", "ends with a line break"),
        ("password", "p4\0ss", "holds a zero byte"),
        ("user", "bytebase\n", "ends with a line break"),
        ("user", "byte\tbase", "holds a control character"),
        ("user", "byte\0base", "holds a zero byte"),
    ] {
        let mut references = references();
        let keys = BTreeMap::from([("user", "bytebase"), ("password", "p4ss"), (key, value)]);
        let keys = keys.into_iter();
        let keys = keys.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec().into()));
        let fetched = Fetched::Present(keys.collect());
        references.secrets.insert("login".to_owned(), fetched);
        let validation = validate(&cluster(&parts(&json!({}))), &references, None, now());
        let [problem] = &validation.problems[..] else {
            panic!("{value:?}: {:?}", validation.problems)
        };
        let field = format!("spec.database.{key}SecretRef");
        assert_eq!(
            (&problem.field, problem.reason, problem.blocking),
            (&field, InvalidSecret, true)
        );
        let words = format!("Secret login, key {key} {words}");
        assert!(problem.message.starts_with(&words), "{}", problem.message);
        assert!(!problem.message.contains("p4ss"));
    }
}

#[test]
fn blocks_of_a_ca_bundle_that_are_no_certificates_are_remarked_on() {
    let key_block = "-----BEGIN PRIVATE KEY-----\nMAIwAA==\n-----END PRIVATE KEY-----\n";
    let spec = parts(&json!({"caSecretRef": key("ca", "ca.crt")}));
    for (blocks, words) in [
        ("", None),
        (
            key_block,
            Some(
                "of the bundle block 2 is not labelled CERTIFICATE, and Bytebase and the operator pass",
            ),
        ),
    ] {
        let mut references = references();
        let bundle = format!("{ENDLESS_CERTIFICATE}{blocks}");
        secret(&mut references, "ca", "ca.crt", &bundle);
        let warnings = validate(&cluster(&spec), &references, None, now()).warnings;
        let found = warnings.iter().find(|warning| warning.contains("block"));
        assert_eq!(found.is_some(), words.is_some(), "{warnings:?}");
        if let (Some(found), Some(words)) = (found, words) {
            assert!(found.contains(words), "{found}");
            assert!(!found.contains("MAIw"), "{found}");
        }
    }
}

#[test]
fn a_ca_bundle_that_has_ended_is_refused_and_one_that_ends_is_announced() {
    let end: Timestamp = "2036-11-24T05:06:27Z".parse().unwrap();
    let verifying =
        parts(&json!({"params": {"sslmode": "verify-full"}, "caSecretRef": key("ca", "ca.crt")}));
    let lax = parts(
        &json!({"params": {"sslmode": "require", "sslrootcert": "/other"}, "caSecretRef": key("ca", "ca.crt")}),
    );
    let mut references = references();
    secret(&mut references, "ca", "ca.crt", CA_CERTIFICATE);
    let at = |spec: &Value, now: Timestamp| validate(&cluster(spec), &references, None, now);
    let days = |days: i64| jiff::SignedDuration::from_hours(days * 24);
    let second = jiff::SignedDuration::from_secs(1);
    for (now, said, next) in [
        (end - days(31), None, end - days(30)),
        (end - days(30), Some("within 30 days"), end - days(7)),
        (end - days(7), Some("within 7 days"), end - days(1)),
        (end - days(1), Some("within a day"), end + second),
        (end, Some("within a day"), end + second),
    ] {
        let validation = at(&verifying, now);
        assert!(validation.cluster.is_some());
        assert_eq!(validation.ca_ends, Some(end), "{now}");
        assert_eq!(validation.ends_soon.is_some(), said.is_some(), "{now}");
        let warning = validation.ends_soon.unwrap_or_default();
        assert!(warning.contains(said.unwrap_or_default()), "{warning}");
        assert_eq!(validation.changes_at, Some(next), "{now}");
    }
    let ended = at(&verifying, end + second);
    assert!(ended.cluster.is_none());
    assert_eq!(ended.ca_ends, None);
    let problem = found(&ended.problems, "spec.database.caSecretRef").unwrap();
    assert_eq!((problem.reason, problem.blocking), (InvalidSecret, true));
    assert!(
        problem.message.contains("ended at 2036-11-24"),
        "{}",
        problem.message
    );
    let early = at(&verifying, "2020-01-01T00:00:00Z".parse().unwrap());
    assert!(early.cluster.is_none());
    assert_eq!(
        early.changes_at,
        Some("2026-11-27T05:06:27Z".parse().unwrap())
    );
    // What Bytebase does not verify by stops nothing.
    let unused = at(&lax, end + second);
    assert!(unused.cluster.is_some());
    assert!(
        unused
            .warnings
            .iter()
            .any(|warning| warning.contains("ended at"))
    );
}

#[test]
fn each_wrong_spec_is_blocked_with_its_field_and_reason() {
    let all = wrong_fields()
        .chain(wrong_databases())
        .chain(wrong_lists())
        .chain(wrong_metadata())
        .chain(wrong_services());
    for (spec, field, reason, words) in all {
        let validation = validation(&spec);
        assert!(validation.cluster.is_none(), "{spec}");
        let problems = &validation.problems;
        assert_eq!(problems.len(), 1, "{spec}: {problems:?}");
        let problem = found(problems, field).unwrap_or_else(|| panic!("{spec}: {problems:?}"));
        assert_eq!((problem.reason, problem.blocking), (reason, true), "{spec}");
        assert!(
            problem.message.contains(words),
            "{spec}: {}",
            problem.message
        );
        assert!(!problem.message.contains(PASSWORD), "{}", problem.message);
    }
}

#[test]
fn what_bytebase_can_run_without_is_reported_and_does_not_block() {
    for (spec, field, reason) in [
        (
            json!({"license": {"secretRef": key("absent", "x")}}),
            "spec.license.secretRef",
            ReferenceMissing,
        ),
        (
            json!({"license": {"secretRef": key("login", "user")}}),
            "spec.license.secretRef",
            InvalidSecret,
        ),
        (
            json!({"admin": {"credentialsSecretRef": {"name": "absent"}}}),
            "spec.admin.credentialsSecretRef",
            ReferenceMissing,
        ),
        (
            json!({"admin": {"credentialsSecretRef": {"name": "login"}}}),
            "spec.admin.credentialsSecretRef",
            ReferenceMissing,
        ),
    ] {
        let validation = validation(&spec);
        assert!(validation.cluster.is_some(), "{spec}");
        let problem = found(&validation.problems, field).unwrap();
        assert_eq!(
            (problem.reason, problem.blocking),
            (reason, false),
            "{spec}"
        );
    }
}

#[test]
fn names_are_checked_as_admission_checks_them() {
    let long = "a".repeat(53);
    for (name, fits) in [
        ("a", true),
        ("a-1", true),
        ("a".repeat(52).as_str(), true),
        ("1a", false),
        ("a-", false),
        ("A", false),
        ("a.b", false),
        (long.as_str(), false),
    ] {
        let mut cluster = cluster(&json!({}));
        cluster.metadata.name = Some(name.to_owned());
        let validation = validate(&cluster, &references(), None, now());
        assert_eq!(
            found(&validation.problems, "metadata.name").is_none(),
            fits,
            "{name}"
        );
    }
    let mut homeless = cluster(&json!({}));
    homeless.metadata.uid = None;
    assert!(
        found(
            &validate(&homeless, &references(), None, now()).problems,
            "metadata"
        )
        .is_some()
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let mut spec = parts(&json!({"passwordSecretRef": key("absent", "x")}));
    for (wrong, ..) in wrong_fields().filter(|(spec, ..)| spec.as_object().unwrap().len() == 1) {
        crate::testing::merge(&mut spec, &wrong);
    }
    let fields: Vec<_> = validation(&spec)
        .problems
        .into_iter()
        .map(|problem| problem.field)
        .collect();
    for field in [
        "spec.image.digest",
        "spec.replicas",
        "spec.ingress.host",
        "spec.database.passwordSecretRef",
        "spec.env[1].name",
        "spec.volumes[1].name",
        "spec.podLabels",
        "spec.podTemplate",
        "spec.service.port",
    ] {
        assert!(
            fields.iter().any(|found| found == field),
            "{field} in {fields:?}"
        );
    }
    assert!(fields.len() >= 8, "{fields:?}");
}

/// That the spec is valid, and remarked on with these words, or not at all.
fn assert_remarked(spec: &Value, remark: Option<&str>) {
    let validation = validation(spec);
    assert!(
        validation.cluster.is_some() && validation.problems.is_empty(),
        "{spec}: {:?}",
        validation.problems
    );
    match remark {
        Some(words) => {
            let mut warnings = validation.warnings.iter();
            let is_remarked = warnings.any(|warning| warning.contains(words));
            assert!(is_remarked, "{spec}: {:?}", validation.warnings);
        }
        None => assert!(
            validation.warnings.is_empty(),
            "{spec}: {:?}",
            validation.warnings
        ),
    }
}

#[test]
fn valid_specs_are_valid_and_remarks_are_reported() {
    for (spec, remark) in [
        (json!({}), None),
        (json!({"replicas": 0}), None),
        (json!({"replicas": 50}), None),
        (json!({"version": "latest"}), Some("names no version")),
        (json!({"version": "3.23.9"}), None),
        (json!({"version": "3.24.0"}), Some("Bytebase up to 3.23:")),
        (
            json!({"image": {"repository": "registry:5000/bytebase", "tag": "mine", "digest": format!("sha256:{}", "0".repeat(64))}}),
            None,
        ),
        (
            json!({"externalURL": "https://example.com/bytebase"}),
            Some("spec.externalURL"),
        ),
        (
            json!({"externalURL": "http://10.0.0.1:8080", "ingress": {"enabled": false}}),
            None,
        ),
        (
            json!({"ingress": {"host": "inner.example.com", "allowHostMismatch": true}}),
            Some("spec.ingress.host"),
        ),
        (parts(&json!({})), None),
        (parts(&json!({"passwordSecretRef": null})), None),
        (parts(&json!({"host": "::1", "port": 6432})), None),
        (parts(&json!({"host": "a,b"})), None),
        (
            parts(
                &json!({"params": {"sslmode": "verify-full"}, "caSecretRef": key("ca", "ca.crt")}),
            ),
            None,
        ),
        (
            parts(&json!({"caConfigMapRef": key("ca", "ca.crt")})),
            Some("verify-full"),
        ),
        (
            url(&json!({"caSecretRef": key("ca", "ca.crt")})),
            Some("add sslrootcert="),
        ),
        (
            json!({"database": {"url": "postgres://u@db/x?sslcert=/c&sslkey=/k&sslmode=require"}}),
            Some("name files in the Bytebase pod"),
        ),
        (
            json!({"volumes": [{"name": "a", "emptyDir": {}}], "volumeMounts": [{"name": "a", "mountPath": "/a"}]}),
            None,
        ),
        (
            json!({"service": {
                "type": "LoadBalancer", "loadBalancerClass": "service.k8s.aws/nlb",
                "loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Cluster",
            }}),
            None,
        ),
        (
            json!({"service": {"type": "NodePort", "externalTrafficPolicy": "Local", "ipFamilies": ["IPv6"]}}),
            None,
        ),
        (
            json!({"service": {"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"}}),
            None,
        ),
        (
            json!({"labels": {"app.kubernetes.io/part-of": "platform"}, "annotations": {"a": "b c"}}),
            None,
        ),
        (
            json!({"rollout": {"terminationGraceSeconds": 9}}),
            Some("terminationGraceSeconds: is 9"),
        ),
        (json!({"rollout": {"terminationGraceSeconds": 10}}), None),
        (
            json!({
                "podLabels": {"app.kubernetes.io/part-of": "platform", "notbytebase.com/a": "b"},
                "podAnnotations": {"app.kubernetes.io/name": "any"},
            }),
            None,
        ),
    ] {
        assert_remarked(&spec, remark);
    }
}

#[test]
fn a_drain_that_may_end_before_the_queue_is_held_is_remarked_on() {
    for (spec, remark) in [
        (
            json!({"rollout": {"holdLimitSeconds": 3000}}),
            Some("drainTimeoutSeconds: is 3600, less than twice holdLimitSeconds (3000)"),
        ),
        (
            json!({"rollout": {"drainTimeoutSeconds": 599}}),
            Some("drainTimeoutSeconds: is 599"),
        ),
        (json!({"rollout": {"drainTimeoutSeconds": 600}}), None),
        (
            json!({"rollout": {"drainTimeoutSeconds": 1, "holdLimitSeconds": 0}}),
            None,
        ),
        (
            json!({"rollout": {"drain": "Disabled", "drainTimeoutSeconds": 1}}),
            None,
        ),
    ] {
        assert_remarked(&spec, remark);
    }
}

#[test]
fn the_operator_connects_only_where_it_can() {
    let iam = "postgres://u@db.rds.amazonaws.com/x?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1";
    for (spec, connects) in [
        (json!({}), true),
        (json!({"database": {"url": iam}}), false),
        (
            json!({"database": {"url": "postgres://u@localhost/x"}}),
            false,
        ),
        (
            json!({"database": {"url": "user=u host=/run/proxy dbname=x"}}),
            false,
        ),
        (parts(&json!({"host": "/run/proxy"})), false),
        (
            json!({"database": {"url": "user=sa@project.iam dbname=bytebase bytebase_gcp_cloud_sql_iam=true bytebase_gcp_cloud_sql_instance_connection_name=p:r:i"}}),
            false,
        ),
        (
            json!({"database": {"url": iam, "monitorSecretRef": key("pg", "PG_URL")}}),
            true,
        ),
    ] {
        assert_eq!(valid(&spec).database.operator.is_some(), connects, "{spec}");
    }
}

#[test]
fn the_checksum_moves_with_each_value_a_replica_reads() {
    let of = |spec: &Value, change: &dyn Fn(&mut References)| {
        let mut references = references();
        change(&mut references);
        validate(&cluster(spec), &references, None, now())
            .cluster
            .unwrap()
            .database
            .checksum
    };
    let none = |_: &mut References| {};
    let spec =
        parts(&json!({"caSecretRef": key("ca", "ca.crt"), "params": {"sslmode": "verify-full"}}));
    let before = of(&spec, &none);
    assert_eq!(before, of(&spec, &none));
    let pem = format!("# another\n{ENDLESS_CERTIFICATE}");
    assert_ne!(before, of(&spec, &|all| secret(all, "ca", "ca.crt", &pem)));
    let login = |user: &str, password: &str| {
        let keys = [("user", user), ("password", password)];
        let keys = keys.map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec().into()));
        let fetched = Fetched::Present(BTreeMap::from(keys));
        of(&spec, &move |all| {
            drop(all.secrets.insert("login".to_owned(), fetched.clone()));
        })
    };
    assert_ne!(login("ab", "c"), login("a", "bc"));
    // Neither the license nor the admin's login is read by a replica.
    let licensed = json!({"license": {"secretRef": key("license", "token")}});
    assert_eq!(of(&json!({}), &none), of(&licensed, &none));
}

#[test]
fn every_object_a_spec_names_is_wanted() {
    let mut spec =
        parts(&json!({"caConfigMapRef": key("c", "k"), "monitorSecretRef": key("m", "k")}));
    crate::testing::merge(
        &mut spec,
        &json!({"license": {"secretRef": key("l", "k")}, "admin": {"credentialsSecretRef": {"name": "a"}}}),
    );
    let (secrets, config_maps) = wanted_references(&cluster(&spec).spec);
    assert_eq!(
        secrets.into_iter().collect::<Vec<_>>(),
        ["a", "l", "login", "m"]
    );
    assert_eq!(config_maps.into_iter().collect::<Vec<_>>(), ["c"]);
}

#[test]
fn secrets_are_named_and_never_shown() {
    let mut references = references();
    references
        .secrets
        .insert("pg".to_owned(), Fetched::Forbidden);
    let validation = validate(&cluster(&json!({})), &references, None, now());
    assert!(
        validation.problems[0]
            .message
            .contains("grant its role get on secrets"),
        "{:?}",
        validation.problems
    );
    let shown = format!("{references:?} {:?}", valid(&parts(&json!({}))));
    assert!(!shown.contains(PASSWORD), "{shown}");
}

/// What the driver makes of a URL without a login, `PGUSER` and `PGPASSWORD`: the same as of a URL
/// with them.
fn as_the_driver_reads(url: &str, user: &str, password: Option<&str>) -> PgUrl {
    let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
    let rest = url.strip_prefix("postgresql://").unwrap();
    let password = password
        .map(|password| format!(":{}", encode(password)))
        .unwrap_or_default();
    PgUrl::parse(&format!("postgresql://{}{password}@{rest}", encode(user))).unwrap()
}

fn check_parts(
    host: &str,
    port: Option<i32>,
    name: &str,
    user: &str,
    password: &str,
    params: &BTreeMap<String, String>,
) {
    let mut references = references();
    secret(&mut references, "user", "user", user);
    secret(&mut references, "password", "password", password);
    let spec = parts(&json!({
        "host": host, "port": port, "name": name, "params": params,
        "userSecretRef": key("user", "user"), "passwordSecretRef": key("password", "password"),
    }));
    let validation = validate(&cluster(&spec), &references, None, now());
    let Some(cluster) = validation.cluster else {
        panic!("{:?}", validation.problems);
    };
    let UrlSource::Parts { url, .. } = &cluster.database.source else {
        panic!("not in parts");
    };
    assert!(!url.contains('@') && !url.contains('$'), "{url}");
    let read = as_the_driver_reads(url, user, Some(password));
    assert_eq!(read, cluster.database.replicas, "{url}");
    assert_eq!((read.user.as_str(), read.database.as_str()), (user, name));
    assert_eq!(read.password.unwrap().expose_secret(), password);
}

#[test]
fn parts_reach_the_pod_as_they_were_given() {
    let none = BTreeMap::new();
    let options = BTreeMap::from([
        ("options".to_owned(), "-c a=$(b)&c %20'\"+".to_owned()),
        ("sslmode".to_owned(), "require".to_owned()),
        ("search_path".to_owned(), "ä, b".to_owned()),
    ]);
    for (host, port, name) in [
        ("db", None, "bytebase"),
        ("10.0.0.1", Some(6432), "a b"),
        ("::1", Some(6432), "bytebase"),
        ("[fd00::1]", None, "bytebase"),
        ("a,b", Some(6432), "bytebase"),
        ("a,::1", None, "bytebase"),
        ("db.example.com.", Some(1), "/a//b"),
        ("db", None, "a?b=c#d&e%41@f:$(PATH)"),
    ] {
        for params in [&none, &options] {
            check_parts(
                host,
                port,
                name,
                "us:er@x/y?",
                "p:a/s s@w%41#ö$(HOME)$$",
                params,
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_parts_reach_the_pod_as_they_were_given(
        port in proptest::option::of(1..65_536_i32),
        name in "\\PC{0,10}[^\\s\\pC]",
        user in "[^\\s\\pC]\\PC{0,10}",
        password in "[^\\s\\pC]\\PC{0,10}",
        path in "\\PC{1,10}",
    ) {
        check_parts("db.example.com", port, &name, &user, &password, &BTreeMap::from([("search_path".to_owned(), path)]));
    }
}

#[test]
fn a_field_that_could_not_be_read_is_named_once_and_keeps_the_rest_from_being_applied() {
    let mut cluster = cluster(&json!({"version": "", "externalURL": "nonsense"}));
    let unreadable = |path: &str| UnreadableField {
        path: path.to_owned(),
        message: "cannot be read",
    };
    cluster.spec.unreadable = vec![unreadable("spec.version"), unreadable("spec.podTemplate")];
    let found = validate(&cluster, &references(), None, now());
    assert!(found.cluster.is_none());
    let found: Vec<_> = found
        .problems
        .iter()
        .map(|problem| (problem.field.as_str(), problem.message.as_str()))
        .collect();
    let [url, version, template] = found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(url.0, "spec.externalURL");
    assert_eq!(version, ("spec.version", "cannot be read"));
    assert_eq!(template, ("spec.podTemplate", "cannot be read"));
}

#[test]
fn a_monitoring_login_leads_to_no_machine_of_the_operator_itself() {
    for (host, refused) in [
        ("127.0.0.1", true),
        ("localhost", true),
        ("169.254.169.254", true),
        ("db.example.com", false),
    ] {
        let mut references = references();
        let text = format!("postgres://m:{PASSWORD}@{host}/bytebase");
        let text = text.replace('%', "%25");
        secret(&mut references, "monitor", "PG_URL", &text);
        let spec = url(&json!({"monitorSecretRef": key("monitor", "PG_URL")}));
        let found = validate(&cluster(&spec), &references, None, now());
        let problem = found
            .problems
            .iter()
            .find(|problem| problem.field == "spec.database.monitorSecretRef");
        assert_eq!(problem.is_some(), refused, "{host}: {:?}", found.problems);
        let message = problem.map_or("", |problem| &problem.message);
        assert!(
            !message.contains(host) && !message.contains("pl4nted"),
            "{message}"
        );
    }
}

#[test]
fn a_monitoring_login_that_does_not_name_the_ca_is_remarked_on() {
    const PATH: &str = "/etc/bytebase/database-ca/ca.crt";
    for (rest, remarked) in [
        ("", true),
        ("?sslmode=verify-full", true),
        (
            "?sslmode=verify-full&sslrootcert=/etc/bytebase/database-ca/ca.crt",
            false,
        ),
        ("?sslmode=disable", false),
    ] {
        let mut references = references();
        let text = format!("postgres://m@db.example.com/bytebase{rest}");
        secret(&mut references, "monitor", "PG_URL", &text);
        let spec = parts(&json!({
            "params": {"sslmode": "verify-full"},
            "caSecretRef": key("ca", "ca.crt"),
            "monitorSecretRef": key("monitor", "PG_URL"),
        }));
        let found = validate(&cluster(&spec), &references, None, now());
        assert!(found.cluster.is_some(), "{:?}", found.problems);
        let of_monitor = found
            .warnings
            .iter()
            .filter(|warning| warning.starts_with("spec.database.monitorSecretRef"))
            .filter(|warning| warning.contains(PATH));
        assert_eq!(of_monitor.count(), usize::from(remarked), "{rest:?}");
    }
}

#[test]
fn a_ca_in_a_file_that_the_operator_does_not_see_is_remarked_on() {
    for (rest, has_ca, remarked) in [
        ("", false, false),
        ("?sslrootcert=system", false, false),
        ("?sslmode=disable&sslrootcert=/typo", false, true),
        ("?sslmode=verify-full&sslrootcert=/typo", true, true),
        ("?sslrootcert=/etc/bytebase/database-ca/ca.crt", false, true),
        ("?sslrootcert=/etc/bytebase/database-ca/ca.crt", true, false),
    ] {
        let mut references = references();
        let url = format!("postgres://bytebase:p4ss@db/meta{rest}");
        secret(&mut references, "pg", "PG_URL", &url);
        let mut database = json!({"urlSecretRef": key("pg", "PG_URL")});
        if has_ca {
            database["caSecretRef"] = key("ca", "ca.crt");
        }
        let spec = json!({"database": database});
        let found = validate(&cluster(&spec), &references, None, now());
        assert!(found.cluster.is_some(), "{:?}", found.problems);
        let mut warnings = found.warnings.iter();
        let is_remarked = warnings
            .any(|warning| warning.contains("sslrootcert names a file in the Bytebase pod"));
        assert_eq!(is_remarked, remarked, "{rest} {has_ca}");
        assert!(!found.warnings.join(" ").contains("/typo"));
    }
}

#[test]
fn of_two_cas_the_one_that_ends_first_is_remarked_on() {
    /// The times of a certificate and hardly anything else.
    const SHORT: &str = "-----BEGIN CERTIFICATE-----
MDcwMKADAgECAgEBMAAwADAeFw0yMDAxMDEwMDAwMDBaFw0yOTEyMzEyMzU5NTlaMAAwADAAAwEA
-----END CERTIFICATE-----
";
    let now: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
    let days = |days: i64| jiff::SignedDuration::from_hours(days * 24);
    let second = jiff::SignedDuration::from_secs(1);
    let spec =
        parts(&json!({"params": {"sslmode": "verify-full"}, "caSecretRef": key("ca", "ca.crt")}));
    let first = "2029-12-31T23:59:59Z".parse::<Timestamp>().unwrap();
    let mut references = references();
    secret(
        &mut references,
        "ca",
        "ca.crt",
        &format!("{CA_CERTIFICATE}{SHORT}"),
    );
    for (now, said, next) in [
        (now, None, first - days(30)),
        (first - days(30), Some("within 30 days"), first - days(7)),
        (first - days(1), Some("within a day"), first + second),
    ] {
        let validation = validate(&cluster(&spec), &references, None, now);
        assert!(validation.cluster.is_some());
        assert_eq!(validation.ends_soon, None);
        assert_eq!(validation.changes_at, Some(next), "{now}");
        let remarks = validation.warnings.join("; ");
        assert_eq!(!remarks.is_empty(), said.is_some(), "{now}: {remarks}");
        assert!(remarks.contains(said.unwrap_or_default()), "{remarks}");
    }
    let after = validate(&cluster(&spec), &references, None, first + second);
    assert!(after.cluster.is_some());
    assert!(after.warnings.is_empty(), "{:?}", after.warnings);
}
