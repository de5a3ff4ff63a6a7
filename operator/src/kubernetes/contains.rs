//! Whether a live object already is what is desired, so that an unchanged world costs no write.

use super::quantity;
use serde_json::Value;
use std::collections::HashMap;

/// Every field of `desired` has its value in `live`; what else `live` holds is others' or the API
/// server's.
pub fn contains(live: &Value, desired: &Value) -> bool {
    difference_at(live, desired, "", is_empty).is_none()
}

/// Longest path that is shown, in characters.
const LONGEST_PATH: usize = 200;

/// The first field of `desired` that has another value in `live`. One that is missing there and has
/// the value that Kubernetes leaves out may be the same.
pub fn difference(live: &Value, desired: &Value) -> Option<String> {
    let parts = difference_at(live, desired, "", is_left_out)?;
    let mut path = String::new();
    for part in parts.iter().rev() {
        if !path.is_empty() && !part.starts_with('[') {
            path.push('.');
        }
        path.push_str(part);
    }
    Some(path.chars().take(LONGEST_PATH).collect())
}

/// The parts of the path to the first difference, the last one first. `is_nothing`: whether a value
/// may be missing.
fn difference_at(
    live: &Value,
    desired: &Value,
    field: &str,
    is_nothing: fn(&Value) -> bool,
) -> Option<Vec<String>> {
    let here = |differs: bool| differs.then(Vec::new);
    let within = |part: String, path: Option<Vec<String>>| {
        path.map(|mut path| {
            path.push(part);
            path
        })
    };
    match (live, desired) {
        (Value::Object(live), Value::Object(desired)) => desired.iter().find_map(|(key, value)| {
            let path = match live.get(key) {
                // Below these, keys are resource names and values quantities, which the API server
                // writes in its own form.
                Some(found) if matches!(field, "limits" | "requests") => {
                    here(found != value && !same_quantity(found, value))
                }
                Some(found) => difference_at(found, value, key, is_nothing),
                None => here(!is_nothing(value)),
            };
            within(key.clone(), path)
        }),
        (Value::Array(live), Value::Array(desired)) => {
            if let Some(key) = list_key(field) {
                let mut by_key = HashMap::<_, Vec<_>>::new();
                for found in live {
                    by_key.entry(found.get(key)).or_default().push(found);
                }
                return desired.iter().find_map(|wanted| {
                    let found = by_key.get(&wanted.get(key)).into_iter().flatten();
                    let found = found.map(|found| difference_at(found, wanted, "", is_nothing));
                    // Of twins one is enough.
                    let path = found.reduce(|path, next| next.and(path));
                    let name = wanted[key].as_str().unwrap_or_default();
                    within(format!("[{name}]"), path.unwrap_or_else(|| here(true)))
                });
            }
            let is_lent = |entry: &&Value| field == "paths" && is_challenge(entry);
            let live: Vec<_> = live.iter().filter(|entry| !is_lent(entry)).collect();
            if live.len() != desired.len() {
                return here(true);
            }
            let mut entries = live.iter().zip(desired).enumerate();
            entries.find_map(|(index, (found, wanted))| {
                let path = difference_at(found, wanted, "", is_nothing);
                within(format!("[{index}]"), path)
            })
        }
        (live, desired) => {
            here(live != desired && !(field == "sizeLimit" && same_quantity(live, desired)))
        }
    }
}

/// A path of an Ingress by which an ACME server finds the answer to its challenge. cert-manager
/// puts it there for the minutes that this takes (`acme.cert-manager.io/http01-edit-in-place`).
fn is_challenge(path: &Value) -> bool {
    let path = path["path"].as_str();
    path.is_some_and(|path| path.starts_with("/.well-known/acme-challenge/"))
}

/// Adds to an Ingress that is to be written the paths of challenges that stand at its hosts in the
/// live one. An apply replaces each list of paths as a whole, and cert-manager puts a path there
/// only once: without it the challenge would never be answered. It takes the path away by itself.
pub fn keep_challenges(live: &Value, wanted: &mut Value) {
    let live = live["spec"]["rules"].as_array();
    let rules = wanted.pointer_mut("/spec/rules");
    for rule in rules.and_then(Value::as_array_mut).into_iter().flatten() {
        let live = live.into_iter().flatten();
        let same_host = live.filter(|found| found["host"] == rule["host"]);
        let paths = same_host.filter_map(|found| found["http"]["paths"].as_array());
        let challenges = paths.flatten().filter(|path| is_challenge(path));
        let mut kept: Vec<_> = challenges.cloned().collect();
        let paths = rule.pointer_mut("/http/paths");
        if let Some(paths) = paths.and_then(Value::as_array_mut) {
            kept.append(paths);
            *paths = kept;
        }
    }
}

fn list_key(field: &str) -> Option<&'static str> {
    match field {
        "containers" | "initContainers" | "volumes" | "env" => Some("name"),
        "volumeMounts" => Some("mountPath"),
        "ownerReferences" => Some("uid"),
        _ => None,
    }
}

fn same_quantity(a: &Value, b: &Value) -> bool {
    let milli = |value: &Value| match value {
        Value::String(text) => quantity::milli(text),
        Value::Number(number) => quantity::milli(&number.to_string()),
        _ => None,
    };
    milli(a).is_some_and(|value| Some(value) == milli(b))
}

/// The API server drops these as well where a field has no other default.
fn is_left_out(value: &Value) -> bool {
    *value == Value::Bool(false) || value.as_i64() == Some(0) || is_empty(value)
}

/// The API server drops these.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_and_the_api_server_add_is_no_difference() {
        let desired = json!({"spec": {"replicas": 3, "template": {"spec": {"containers": [{"name": "a", "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}}}]}}}});
        let live = json!({"spec": {"replicas": 3, "extra": 1, "template": {"spec": {"containers": [{"name": "sidecar"}, {"name": "a", "imagePullPolicy": "Always", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]}}}});
        assert!(contains(&live, &desired));
    }

    #[test]
    fn the_path_of_an_acme_challenge_is_no_difference_and_any_other_is() {
        let desired = json!({"spec": {"rules": [{"host": "a.example.com", "http": {"paths": [{"path": "/metrics"}, {"path": "/"}]}}]}});
        for (path, stands) in [
            ("/.well-known/acme-challenge/token", true),
            ("/other", false),
        ] {
            let mut live = desired.clone();
            let paths = &mut live["spec"]["rules"][0]["http"]["paths"];
            paths.as_array_mut().unwrap().insert(
                0,
                json!({"path": path, "pathType": "ImplementationSpecific"}),
            );
            assert_eq!(contains(&live, &desired), stands, "{path}");
        }
    }

    #[test]
    fn what_is_written_has_the_challenges_of_its_hosts_and_nothing_else_of_others() {
        let rule = |host: &str, paths: &[&str]| {
            let paths: Vec<_> = paths.iter().map(|path| json!({"path": path})).collect();
            json!({"host": host, "http": {"paths": paths}})
        };
        let [first, second] = [
            "/.well-known/acme-challenge/1",
            "/.well-known/acme-challenge/2",
        ];
        let live = json!({"spec": {"rules": [
            rule("a.example.com", &[first, "/other", "/"]),
            rule("b.example.com", &[second]),
            rule("gone.example.com", &[second]),
        ]}});
        let hosts = |a: &[&str], b: &[&str]| json!({"spec": {"rules": [rule("a.example.com", a), rule("b.example.com", b)]}});
        let mut wanted = hosts(&["/metrics", "/"], &["/"]);
        keep_challenges(&live, &mut wanted);
        assert_eq!(wanted, hosts(&[first, "/metrics", "/"], &[second, "/"]));
        let mut without_rules = json!({"spec": {}});
        keep_challenges(&live, &mut without_rules);
        assert_eq!(without_rules, json!({"spec": {}}));
    }

    #[test]
    fn an_entry_is_found_by_its_key_among_thousands_and_twins() {
        let entry = |number: u32| json!({"name": format!("V{number}"), "value": "v"});
        let desired = json!({"env": (0..20_000).map(entry).collect::<Vec<_>>()});
        let mut live = json!({"env": (0..20_001).rev().map(entry).collect::<Vec<_>>()});
        assert!(contains(&live, &desired));
        live["env"][20_000]["value"] = json!("other");
        assert!(!contains(&live, &desired));
        live["env"].as_array_mut().unwrap().push(entry(0));
        assert!(contains(&live, &desired));
    }

    #[test]
    fn the_first_field_that_differs_is_named() {
        let desired = json!({"metadata": {"annotations": {"a/b": "mine"}}, "spec": {
            "hostNetwork": false, "containers": [{"name": "bytebase", "args": ["1", "2"]}],
        }});
        for (change, expected) in [
            (json!({}), None),
            (
                json!({"metadata": {"annotations": {"a/b": "theirs"}}}),
                Some("metadata.annotations.a/b"),
            ),
            (
                json!({"spec": {"containers": [{"name": "other"}, {"name": "bytebase", "args": ["1", "3"]}]}}),
                Some("spec.containers[bytebase].args[1]"),
            ),
            (
                json!({"spec": {"containers": []}}),
                Some("spec.containers[bytebase]"),
            ),
        ] {
            let mut live = desired.clone();
            live["spec"].as_object_mut().unwrap().remove("hostNetwork");
            crate::testing::merge(&mut live, &change);
            assert_eq!(difference(&live, &desired).as_deref(), expected, "{change}");
            assert!(!contains(&live, &desired), "the API server may lack it");
        }
    }

    #[test]
    fn a_changed_missing_or_shortened_field_is_a_difference() {
        let desired = json!({"a": 1, "list": [1, 2], "ports": [{"port": 80}]});
        for live in [
            json!({"a": 2, "list": [1, 2], "ports": [{"port": 80}]}),
            json!({"list": [1, 2], "ports": [{"port": 80}]}),
            json!({"a": 1, "list": [1], "ports": [{"port": 80}]}),
            json!({"a": 1, "list": [1, 2], "ports": [{"port": 80}, {"port": 81}]}),
        ] {
            assert!(!contains(&live, &desired), "{live}");
        }
    }
}
