//! `bytebase-operator check FILE…`

use crate::api::{self, BytebaseCluster};
use crate::desired::emptied;
use crate::desired::template::{self, Standing};
use crate::kubernetes::Readable as _;
use crate::kubernetes::error_text::misfit;
use crate::validate::{Fetched, Problem, References, validate};
use clap::Args;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use serde::Deserialize as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Stands for the operator's own image, by which its templates differ in nothing that matters here.
const IMAGE: &str = "operator";

/// Options of `check`.
#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Files with BytebaseClusters and, where they name any, the Secrets and ConfigMaps.
    #[arg(required = true)]
    files: Vec<PathBuf>,
}

/// Checks every `BytebaseCluster` in the files.
#[expect(clippy::print_stdout, reason = "its findings are its output")]
pub fn check(arguments: &CheckArguments) -> Result<(), String> {
    let mut clusters = Vec::new();
    let mut references = References::default();
    for file in &arguments.files {
        read(file, &mut clusters, &mut references)?;
    }
    if clusters.is_empty() {
        return Err("no BytebaseCluster in these files".to_owned());
    }
    let mut wrong = 0;
    for cluster in clusters {
        let name = cluster.name().to_owned();
        let (problems, warnings) = findings(cluster, &references);
        for problem in &problems {
            println!(
                "{name}: {}: {} ({})",
                problem.field, problem.message, problem.reason
            );
        }
        for warning in warnings {
            println!("{name}: warning: {warning}");
        }
        if problems.is_empty() {
            println!("{name}: valid");
        } else {
            wrong += 1;
        }
    }
    match wrong {
        0 => Ok(()),
        1 => Err("1 cluster cannot be used as it is".to_owned()),
        _ => Err(format!("{wrong} clusters cannot be used as they are")),
    }
}

/// A cluster out of a file.
struct Given {
    cluster: BytebaseCluster,
    /// Fields of its spec that there are not.
    unknown: Vec<String>,
}

impl Given {
    fn read(value: &Value) -> Option<Self> {
        let crd = serde_json::to_value(api::crd()).unwrap_or_default();
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut unknown = Vec::new();
        note_unknown(&value["spec"], schema, "spec", &mut unknown);
        let mut cluster = BytebaseCluster::read(&value.to_string())?;
        // Only a cluster that an API server has taken has these.
        let metadata = &mut cluster.metadata;
        let namespace = &mut metadata.namespace;
        namespace.get_or_insert_with(|| "default".to_owned());
        metadata.uid.get_or_insert_with(|| "unknown".to_owned());
        Some(Self { cluster, unknown })
    }

    fn name(&self) -> &str {
        self.cluster.metadata.name.as_deref().unwrap_or_default()
    }
}

/// Everything that is wrong with a cluster, and what there is to remark.
fn findings(given: Given, references: &References) -> (Vec<Problem>, Vec<String>) {
    let Given { cluster, unknown } = given;
    let validation = validate(&cluster, references, None, jiff::Timestamp::now());
    let mut problems = validation.problems;
    problems.extend(unknown.into_iter().map(Problem::unknown_field));
    let mut warnings = validation.warnings;
    warnings.extend(validation.ends_soon);
    if let Some(overlay) = &cluster.spec.pod_template {
        note_nulls(&overlay.0, "spec.podTemplate", &mut warnings);
        warnings.extend(emptied(&overlay.0));
    }
    if let Some(valid) = &validation.cluster {
        match template::template(valid, Some(IMAGE), Standing::default()) {
            Ok(template) => {
                warnings.extend(template::warning(valid, Some(IMAGE), None, &template));
            }
            Err(why) => problems.push(Problem::pod_template(why)),
        }
    }
    (problems, warnings)
}

/// Warns of each null in an overlay, which only this command sees whatever is done with the file.
fn note_nulls(value: &Value, path: &str, warnings: &mut Vec<String>) {
    match value {
        Value::Null => warnings.push(format!(
            "{path}: null does not survive kubectl apply, so the field would stay as it is: use kubectl apply --server-side, or a field of the spec in place of this one"
        )),
        Value::Object(fields) => {
            for (name, value) in fields {
                note_nulls(value, &format!("{path}.{name}"), warnings);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                note_nulls(item, &format!("{path}[{index}]"), warnings);
            }
        }
        _ => {}
    }
}

/// Notes the paths of what a value holds and its schema does not.
fn note_unknown(value: &Value, schema: &Value, path: &str, found: &mut Vec<String>) {
    if schema["x-kubernetes-preserve-unknown-fields"] == true {
        return;
    }
    match value {
        Value::Object(fields) => {
            let known = schema["properties"].as_object();
            let others = &schema["additionalProperties"];
            for (name, value) in fields {
                let path = format!("{path}.{name}");
                match known.and_then(|known| known.get(name)) {
                    Some(schema) => note_unknown(value, schema, &path, found),
                    None if others.is_object() => note_unknown(value, others, &path, found),
                    None if known.is_some() => found.push(path),
                    None => {}
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                note_unknown(item, &schema["items"], &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn read(file: &Path, clusters: &mut Vec<Given>, references: &mut References) -> Result<(), String> {
    let place = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| format!("{place}: {error}"))?;
    documents(&text, clusters, references).map_err(|why| format!("{place}: {why}"))
}

fn documents(
    text: &str,
    clusters: &mut Vec<Given>,
    references: &mut References,
) -> Result<(), String> {
    let unreadable = |error: serde_yaml::Error| error.to_string();
    for document in serde_yaml::Deserializer::from_str(text) {
        let mut document = serde_yaml::Value::deserialize(document).map_err(unreadable)?;
        document.apply_merge().map_err(unreadable)?;
        let value = serde_yaml::from_value(document).map_err(unreadable)?;
        take(value, clusters, references)?;
    }
    Ok(())
}

/// Takes up one object, or a list of them.
fn take(
    mut value: Value,
    clusters: &mut Vec<Given>,
    references: &mut References,
) -> Result<(), String> {
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    match kind.as_str() {
        "BytebaseCluster" => {
            let given = Given::read(&value);
            let why = "a BytebaseCluster without a spec, or with metadata of another form";
            clusters.push(given.ok_or(why)?);
        }
        "Secret" => {
            let secret: Secret = parse(value)?;
            let plain = secret.string_data.unwrap_or_default().into_iter();
            let plain = plain.map(|(key, value)| (key, value.into_bytes()));
            let data = secret.data.unwrap_or_default().into_iter();
            let values = data.map(|(key, value)| (key, value.0)).chain(plain);
            let name = secret.metadata.name.unwrap_or_default();
            references.secrets.insert(name, present(values));
        }
        "ConfigMap" => {
            let map: ConfigMap = parse(value)?;
            let texts = map.data.unwrap_or_default().into_iter();
            let texts = texts.map(|(key, value)| (key, value.into_bytes()));
            let bytes = map.binary_data.unwrap_or_default().into_iter();
            let values = texts.chain(bytes.map(|(key, value)| (key, value.0)));
            let name = map.metadata.name.unwrap_or_default();
            references.config_maps.insert(name, present(values));
        }
        list if list.ends_with("List") => {
            if let Value::Array(items) = value["items"].take() {
                for item in items {
                    take(item, clusters, references)?;
                }
            }
        }
        _ => {}
    }
    Ok(())
}

fn parse<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| misfit(&error))
}

fn present(values: impl Iterator<Item = (String, Vec<u8>)>) -> Fetched {
    Fetched::Present(values.map(|(key, value)| (key, value.into())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Fields of the problems, and the warnings, of a cluster with these changes.
    fn found(changes: &Value) -> (Vec<String>, Vec<String>) {
        let cluster = crate::testing::cluster(changes);
        let value = serde_json::to_value(cluster).unwrap();
        let mut value = value;
        crate::testing::merge(&mut value["spec"], changes);
        let given = Given::read(&value).unwrap();
        let (problems, warnings) = findings(given, &crate::testing::references());
        let fields = problems.into_iter().map(|problem| problem.field);
        (fields.collect(), warnings)
    }

    #[test]
    fn what_the_operator_would_refuse_is_found() {
        let overlay = |spec: Value| json!({"podTemplate": {"spec": spec}});
        for (changes, expected) in [
            (json!({}), vec![]),
            (
                json!({"replica": 5, "ingress": {"clas": "x"}}),
                vec!["spec.ingress.clas", "spec.replica"],
            ),
            (
                json!({"podLabels": {"any": "key"}, "nodeSelector": {"a": "b"}}),
                vec![],
            ),
            (
                overlay(json!({"containers": [{"name": "bytebase", "args": ["--port", "80"]}]})),
                vec!["spec.podTemplate"],
            ),
        ] {
            assert_eq!(found(&changes).0, expected, "{changes}");
        }
        let short = overlay(json!({"terminationGracePeriodSeconds": 1}));
        let (problems, warnings) = found(&short);
        assert!(problems.is_empty() && warnings.len() == 1, "{warnings:?}");
    }

    #[test]
    fn each_null_of_an_overlay_is_remarked_on() {
        let (problems, warnings) = found(&json!({"podTemplate": {"spec": {
            "securityContext": {"fsGroup": null, "runAsUser": 7},
            "containers": [{"name": "bytebase", "startupProbe": null}],
        }}}));
        assert!(problems.is_empty(), "{problems:?}");
        for path in [
            "spec.podTemplate.spec.securityContext.fsGroup: null",
            "spec.podTemplate.spec.containers[0].startupProbe: null",
        ] {
            let of_path = warnings.iter().filter(|warning| warning.starts_with(path));
            assert_eq!(of_path.count(), 1, "{path}: {warnings:?}");
        }
        let nulls = warnings.iter().filter(|warning| warning.contains("null"));
        assert_eq!(nulls.count(), 2, "{warnings:?}");
        assert!(found(&json!({})).1.is_empty());
        let (_, warnings) = found(&json!({"podTemplate": {"spec": {"securityContext": {}}}}));
        assert!(
            warnings.len() == 1 && warnings[0].contains("is empty"),
            "{warnings:?}"
        );
    }

    #[test]
    fn lists_merged_keys_and_binary_data_are_read_as_kubectl_reads_them() {
        let text = r#"
kind: List
items:
- kind: ConfigMap
  metadata: {name: ca}
  binaryData: {ca.crt: YQ==}
- kind: BytebaseCluster
  apiVersion: bytebase.com/v1alpha1
  metadata: {name: demo}
  spec:
    <<: &same {version: "3.21.1", externalURL: "https://b.example.com"}
    database: {host: db.example.com, name: b}
"#;
        let (mut clusters, mut references) = (Vec::new(), References::default());
        documents(text, &mut clusters, &mut references).unwrap();
        assert!(clusters[0].unknown.is_empty(), "{:?}", clusters[0].unknown);
        assert_eq!(clusters[0].cluster.spec.version, "3.21.1");
        let Some(Fetched::Present(keys)) = references.config_maps.get("ca") else {
            panic!("no ConfigMap was read");
        };
        assert!(keys.contains_key("ca.crt"));
    }

    #[test]
    fn a_value_that_is_no_text_is_named_and_not_quoted() {
        let text = "{kind: Secret, metadata: {name: pg}, stringData: {password: 87654321}}";
        let (mut clusters, mut references) = (Vec::new(), References::default());
        let why = documents(text, &mut clusters, &mut references).unwrap_err();
        assert!(why.starts_with("stringData.password holds"), "{why}");
        assert!(!why.contains("87654321"), "{why}");
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let mut value = serde_json::to_value(crate::testing::cluster(&json!({}))).unwrap();
        value["spec"]["paused"] = json!("yes");
        value["spec"]["version"] = json!(3.21);
        let given = Given::read(&value).unwrap();
        let (problems, _) = findings(given, &crate::testing::references());
        let mut fields: Vec<_> = problems.into_iter().map(|problem| problem.field).collect();
        fields.sort();
        fields.dedup();
        assert!(fields.contains(&"spec.paused".to_owned()), "{fields:?}");
        assert!(fields.contains(&"spec.version".to_owned()), "{fields:?}");
    }
}
