//! The custom resource definition: its rules, its size, its words.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a failed expectation is the report"
)]

use bytebase_operator::api::crd;
use kube::core::cel::{ErrorKind, Validator, compile_schema};
use serde_json::{Value, json};

/// Annotations of one object in all may have this size, and a client-side `kubectl apply` keeps the
/// whole object in one.
const LARGEST_ANNOTATION: usize = 262_144;
/// Room for what distributions add (labels, conversion, a chart's annotations) and for the fields
/// to come.
const MARGIN: usize = 64 * 1024;

fn schema() -> Value {
    serde_json::to_value(crd()).unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"].clone()
}

/// The minimal object with fields replaced, by JSON pointer; null takes one away.
fn object(changes: &[(&str, Value)]) -> Value {
    let mut object = json!({
        "apiVersion": "bytebase.com/v1alpha1", "kind": "BytebaseCluster",
        "metadata": {"name": "demo", "namespace": "apps"},
        "spec": {
            "version": "3.21.1", "externalURL": "https://bytebase.example.com",
            "database": {"urlSecretRef": {"name": "pg", "key": "PG_URL"}},
        },
    });
    for (pointer, value) in changes {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if value.is_null() {
            parent.remove(field);
        } else {
            parent.insert(field.to_owned(), value.clone());
        }
    }
    object
}

/// Messages of the rules that refuse it.
fn refusals(object: &Value) -> Vec<String> {
    match Validator::new().validate(&schema(), object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .into_vec()
            .into_iter()
            .map(|error| {
                assert!(
                    matches!(error.kind, ErrorKind::ValidationFailure),
                    "{error:?}"
                );
                error.message
            })
            .collect(),
    }
}

fn service(service: Value) -> Vec<(&'static str, Value)> {
    vec![("/spec/service", service)]
}

fn form_with_host() -> Vec<(&'static str, Value)> {
    vec![
        ("/spec/database/urlSecretRef", Value::Null),
        ("/spec/database/host", json!("db")),
        ("/spec/database/name", json!("bytebase")),
        (
            "/spec/database/userSecretRef",
            json!({"name": "login", "key": "user"}),
        ),
    ]
}

#[test]
fn every_rule_compiles() {
    let compiled = compile_schema(&schema());
    assert!(
        !compiled.has_errors(),
        "{:?}",
        compiled.compilation_errors()
    );
}

#[test]
fn rules_accept_what_is_right() {
    let digest = json!({"digest": format!("sha256:{}", "0".repeat(64))});
    let full_host = [
        form_with_host(),
        vec![
            ("/spec/database/port", json!(6432)),
            (
                "/spec/database/passwordSecretRef",
                json!({"name": "login", "key": "password"}),
            ),
            ("/spec/database/params", json!({"sslmode": "require"})),
            (
                "/spec/database/caSecretRef",
                json!({"name": "ca", "key": "ca.crt"}),
            ),
        ],
    ]
    .concat();
    for changes in [
        vec![],
        vec![("/spec/version", json!("latest"))],
        vec![("/spec/image", digest)],
        vec![
            ("/spec/version", json!("latest")),
            ("/spec/image", json!({"tag": "x"})),
        ],
        vec![("/metadata/name", json!("a".repeat(52)))],
        vec![("/metadata/name", json!("a1-b"))],
        vec![("/spec/database", json!({"url": "postgres://u@db/x"}))],
        form_with_host(),
        full_host,
        vec![(
            "/spec/database/caConfigMapRef",
            json!({"name": "ca", "key": "ca.crt"}),
        )],
        service(
            json!({"type": "LoadBalancer", "loadBalancerClass": "a", "loadBalancerSourceRanges": ["10.0.0.0/8"], "externalTrafficPolicy": "Local"}),
        ),
        service(
            json!({"type": "NodePort", "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": []}),
        ),
        service(json!({"ipFamilies": ["IPv6"]})),
        service(json!({"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"})),
        service(json!({"ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "PreferDualStack"})),
        service(json!({"ipFamilies": [], "ipFamilyPolicy": "RequireDualStack"})),
    ] {
        let object = object(&changes);
        assert_eq!(refusals(&object), Vec::<String>::new(), "{object}");
    }
}

#[test]
fn rules_refuse_what_is_wrong_each_with_its_words() {
    let reference = || json!({"name": "a", "key": "b"});
    let with_host = |change: (&'static str, Value)| [form_with_host(), vec![change]].concat();
    for (changes, words) in [
        (
            vec![("/metadata/name", json!("a".repeat(53)))],
            "at most 52",
        ),
        (vec![("/metadata/name", json!("1a"))], "start with a letter"),
        (
            vec![("/metadata/name", json!("a.b"))],
            "start with a letter",
        ),
        (
            vec![
                ("/spec/version", json!("latest")),
                ("/spec/image", json!({"digest": "sha256:0"})),
            ],
            "what the digest holds",
        ),
        (
            vec![("/spec/database", json!({}))],
            "exactly one of urlSecretRef",
        ),
        (
            vec![("/spec/database/url", json!("postgres://u@db/x"))],
            "exactly one of urlSecretRef",
        ),
        (
            vec![("/spec/database/port", json!(1))],
            "belong to the form with host",
        ),
        (
            vec![("/spec/database/name", json!("x"))],
            "belong to the form with host",
        ),
        (
            vec![("/spec/database/userSecretRef", reference())],
            "belong to the form with host",
        ),
        (
            vec![("/spec/database/passwordSecretRef", reference())],
            "belong to the form with host",
        ),
        (
            vec![("/spec/database/params", json!({"a": "b"}))],
            "belong to the form with host",
        ),
        (
            with_host(("/spec/database/name", Value::Null)),
            "needs name and userSecretRef",
        ),
        (
            with_host(("/spec/database/userSecretRef", Value::Null)),
            "needs name and userSecretRef",
        ),
        (
            vec![
                ("/spec/database/caSecretRef", reference()),
                ("/spec/database/caConfigMapRef", reference()),
            ],
            "only one of caSecretRef",
        ),
        (
            service(json!({"loadBalancerClass": "a"})),
            "type LoadBalancer",
        ),
        (
            service(json!({"type": "NodePort", "loadBalancerSourceRanges": ["10.0.0.0/8"]})),
            "type LoadBalancer",
        ),
        (
            service(json!({"externalTrafficPolicy": "Local"})),
            "type NodePort or LoadBalancer",
        ),
        (
            service(json!({"type": "ClusterIP", "externalTrafficPolicy": "Local"})),
            "type NodePort or LoadBalancer",
        ),
        (
            service(json!({"ipFamilies": ["IPv4", "IPv6"]})),
            "PreferDualStack or RequireDualStack",
        ),
        (
            service(json!({"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "SingleStack"})),
            "PreferDualStack or RequireDualStack",
        ),
        (
            service(json!({"ipFamilies": ["IPv4"], "ipFamilyPolicy": "RequireDualStack"})),
            "both in ipFamilies",
        ),
        (
            service(json!({"ipFamilies": ["IPv4", "IPv4"], "ipFamilyPolicy": "RequireDualStack"})),
            "twice",
        ),
    ] {
        let object = object(&changes);
        let refusals = refusals(&object);
        assert_eq!(refusals.len(), 1, "{object}: {refusals:?}");
        assert!(refusals[0].contains(words), "{object}: {refusals:?}");
    }
}

#[test]
fn it_is_small_enough_for_a_client_side_apply() {
    let size = serde_json::to_string(&crd()).unwrap().len();
    assert!(size < LARGEST_ANNOTATION - MARGIN, "{size} bytes");
}

/// Types of Kubernetes itself: their descriptions are left out, they would be half of the size.
const KUBERNETES_TYPES: [&str; 9] = [
    "affinity",
    "conditions",
    "env",
    "pullSecrets",
    "resources",
    "tolerations",
    "topologySpreadConstraints",
    "volumeMounts",
    "volumes",
];

fn walk(path: &str, schema: &Value, silent: &mut Vec<String>, seen: &mut usize) {
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        *seen += 1;
        if property["description"]
            .as_str()
            .is_none_or(|text| text.len() <= 3)
        {
            silent.push(path.clone());
        }
        if !KUBERNETES_TYPES.contains(&name.as_str()) {
            walk(&path, property, silent, seen);
        }
    }
    for inner in ["items", "additionalProperties"] {
        if schema[inner].is_object() {
            walk(&format!("{path}[]"), &schema[inner], silent, seen);
        }
    }
}

#[test]
fn every_field_says_what_it_is() {
    let schema = schema();
    let (mut silent, mut seen) = (Vec::new(), 0);
    for part in ["spec", "status"] {
        let property = &schema["properties"][part];
        assert!(property["description"].is_string(), "{part}");
        walk(part, property, &mut silent, &mut seen);
    }
    assert!(silent.is_empty(), "without a description: {silent:#?}");
    assert!(seen > 80, "{seen}");
}

/// Values of an enum that its field's own text does not explain, which is all of it that a user of
/// `kubectl explain` reads.
fn unexplained(path: &str, schema: &Value, found: &mut Vec<String>, seen: &mut usize) {
    let text = schema["description"].as_str().unwrap_or_default();
    let values = schema["enum"].as_array().into_iter().flatten();
    for value in values.filter_map(Value::as_str) {
        *seen += 1;
        if !text.contains(&format!("`{value}`")) {
            found.push(format!("{path}: {value}"));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        if !KUBERNETES_TYPES.contains(&name.as_str()) {
            unexplained(&format!("{path}.{name}"), property, found, seen);
        }
    }
    if schema["items"].is_object() {
        unexplained(&format!("{path}[]"), &schema["items"], found, seen);
    }
}

#[test]
fn every_word_of_the_status_is_explained_where_it_stands() {
    let (mut found, mut seen) = (Vec::new(), 0);
    let status = &schema()["properties"]["status"];
    unexplained("status", status, &mut found, &mut seen);
    assert!(found.is_empty(), "{found:#?}");
    assert!(seen > 40, "{seen}");
}

/// Fields that the user names in lists and maps without bound would make the rules too dear for the
/// API server.
#[test]
fn lists_and_texts_of_the_spec_are_bounded() {
    let schema = schema();
    let spec = &schema["properties"]["spec"];
    for (name, property) in spec["properties"].as_object().unwrap() {
        if property["type"] == "array" {
            assert!(property["maxItems"].is_u64(), "{name}");
        }
        if property["type"] == "string" {
            assert!(property["maxLength"].is_u64(), "{name}");
        }
        if property["additionalProperties"].is_object() {
            assert!(property["maxProperties"].is_u64(), "{name}");
        }
    }
    for (name, property) in spec["properties"]["database"]["properties"]
        .as_object()
        .unwrap()
    {
        if property["type"] == "string" {
            assert!(property["maxLength"].is_u64(), "database.{name}");
        }
    }
}

#[test]
fn people_find_their_columns_and_kubectl_can_scale() {
    let crd = serde_json::to_value(crd()).unwrap();
    let version = &crd["spec"]["versions"][0];
    let columns: Vec<_> = version["additionalPrinterColumns"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        columns,
        [
            "Phase", "Ready", "Active", "Replicas", "Version", "Rollout", "HA", "Age", "Reason",
            "URL"
        ]
    );
    assert_eq!(
        version["subresources"]["scale"]["specReplicasPath"],
        ".spec.replicas"
    );
    assert_eq!(
        version["subresources"]["scale"]["labelSelectorPath"],
        ".status.selector"
    );
    assert!(version["subresources"]["status"].is_object());
    assert_eq!(crd["spec"]["names"]["shortNames"], json!(["bbc"]));
    assert_eq!(crd["spec"]["names"]["categories"], json!(["all"]));
    assert_eq!(
        schema()["properties"]["spec"]["properties"]["replicas"]["default"],
        2
    );
}
