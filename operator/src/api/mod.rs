//! The custom resource `BytebaseCluster` (group `bytebase.com`, version `v1alpha1`): what a user
//! writes and what the operator reports.

pub(crate) mod conditions;
pub(crate) mod read;
pub(crate) mod spec;
pub mod status;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use serde_json::json;
use std::collections::BTreeMap;

pub use conditions::{ConditionType, Reason, Weight};
pub use spec::{BytebaseCluster, BytebaseClusterSpec};
pub use status::BytebaseClusterStatus;

/// With the definition every cluster goes, and so every Bytebase. So neither Argo CD nor Flux takes
/// it away, also where it has left the repository, or where what installed it is deleted.
const KEEP: [(&str, &str); 2] = [
    (
        "argocd.argoproj.io/sync-options",
        "Prune=false,Delete=false",
    ),
    ("kustomize.toolkit.fluxcd.io/prune", "disabled"),
];

/// The `CustomResourceDefinition`, as installed.
pub fn crd() -> CustomResourceDefinition {
    use kube::CustomResourceExt as _;
    let mut crd = BytebaseCluster::crd();
    let keep = KEEP.map(|(key, value)| (key.to_owned(), value.to_owned()));
    crd.metadata
        .annotations
        .get_or_insert_default()
        .extend(keep);
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut();
        if let Some(schema) = schema.and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            bound_integers(schema);
            begin_unobserved(schema);
        }
    }
    crd
}

/// A cluster that the operator has not seen yet has a status that speaks of no generation of its
/// spec. Without one, kstatus takes a new object for one that is as it should be.
fn begin_unobserved(schema: &mut JSONSchemaProps) {
    let properties = schema.properties.iter_mut().flatten();
    for (_, status) in properties.filter(|(name, _)| *name == "status") {
        status.default = Some(JSON(json!({"observedGeneration": -1})));
    }
}

/// The API server takes any integer for one of format `int32`. The types that read it do not, so
/// the schema says what fits.
fn bound_integers(schema: &mut JSONSchemaProps) {
    if schema.format.as_deref() == Some("int32") {
        schema.minimum.get_or_insert(f64::from(i32::MIN));
        schema.maximum.get_or_insert(f64::from(i32::MAX));
    }
    for property in schema.properties.iter_mut().flat_map(BTreeMap::values_mut) {
        bound_integers(property);
    }
    match &mut schema.items {
        Some(JSONSchemaPropsOrArray::Schema(item)) => bound_integers(item),
        Some(JSONSchemaPropsOrArray::Schemas(items)) => {
            items.iter_mut().for_each(bound_integers);
        }
        None => {}
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        bound_integers(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    /// Paths of integers of 32 bits without a bound.
    fn unbounded(path: &str, schema: &Value, found: &mut Vec<String>) {
        if schema["format"] == "int32"
            && (schema["minimum"].is_null() || schema["maximum"].is_null())
        {
            found.push(path.to_owned());
        }
        match schema {
            Value::Object(fields) => fields
                .iter()
                .for_each(|(name, value)| unbounded(&format!("{path}.{name}"), value, found)),
            Value::Array(items) => items.iter().for_each(|item| unbounded(path, item, found)),
            _ => {}
        }
    }

    #[test]
    fn neither_argo_cd_nor_flux_takes_the_definition_away() {
        let annotations = crd().metadata.annotations.unwrap();
        assert_eq!(annotations["kustomize.toolkit.fluxcd.io/prune"], "disabled");
        assert_eq!(
            annotations["argocd.argoproj.io/sync-options"],
            "Prune=false,Delete=false"
        );
    }

    #[test]
    fn the_api_server_refuses_an_integer_that_the_operator_could_not_read() {
        let crd = serde_json::to_value(crd()).unwrap();
        assert!(crd.to_string().matches("int32").count() > 20);
        let mut found = Vec::new();
        unbounded("", &crd, &mut found);
        assert_eq!(found, [""; 0]);
    }
}
