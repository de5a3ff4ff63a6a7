//! The objects of a cluster, one builder each, as pure functions of a [`ValidCluster`].

mod container;
mod disruption_budget;
pub(crate) mod drain;
mod drift;
mod http_route;
mod ingress;
mod network_policy;
mod overlay;
pub mod ownership;
mod pod_template;
mod service_account;
mod service_monitor;
mod services;
pub(crate) mod spot;
mod stateful_set;
pub mod template;
#[cfg(test)]
mod tests;

use disruption_budget::pod_disruption_budget;
use http_route::http_route;
use ingress::ingress;
use network_policy::network_policy;
pub use overlay::emptied;
pub use pod_template::{
    Additions, CHECKSUM_ANNOTATION, EXTERNAL_URL, LATEST_DEFAULTS, VERSION_ANNOTATION,
    external_url, external_url_in, login, pod_template,
};
use service_account::service_account;
use service_monitor::service_monitor;
pub use services::{Doors, service_exposes};
use services::{headless_service, service};
pub use stateful_set::stateful_set;

use crate::kubernetes::Kind;
use crate::validate::{Identity, ValidCluster};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;

/// Label that names the cluster an object belongs to.
pub const CLUSTER_LABEL: &str = "bytebase.com/cluster";
/// Label and value that mark what this operator manages; its watches select by it.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "bytebase-operator");
/// Name of the Bytebase container.
pub const CONTAINER: &str = "bytebase";
/// The one port Bytebase listens on.
pub const PORT: u16 = 8080;

/// An object as it should stand: exactly the fields that the operator owns.
#[derive(Clone, Debug, PartialEq)]
pub struct DesiredObject {
    /// Kind.
    pub kind: Kind,
    /// Name; its namespace is the cluster's.
    pub name: String,
    /// The object.
    pub value: serde_json::Value,
}

impl DesiredObject {
    fn new<K: Serialize + k8s_openapi::Metadata<Ty = ObjectMeta>>(kind: Kind, object: &K) -> Self {
        let name = object.metadata().name.clone().unwrap_or_default();
        // Kubernetes' own types have string keys and no custom serializers, so this cannot fail.
        #[expect(clippy::expect_used)]
        let value = serde_json::to_value(object).expect("Kubernetes objects are JSON");
        Self { kind, name, value }
    }

    /// An object of a kind that Kubernetes itself does not bring.
    fn custom(kind: Kind, metadata: &ObjectMeta, spec: &serde_json::Value) -> Self {
        Self {
            kind,
            name: metadata.name.clone().unwrap_or_default(),
            value: json!({
                "apiVersion": kind.api_version(),
                "kind": kind.name(),
                "metadata": metadata,
                "spec": spec,
            }),
        }
    }
}

/// What a cluster wants to stand beside its StatefulSet, in the order of [`Kind`].
/// `operator_namespace`: where this operator runs, if known.
pub fn companions(
    cluster: &ValidCluster,
    operator_namespace: Option<&str>,
    doors: Doors,
) -> Vec<DesiredObject> {
    [
        service_account(cluster),
        network_policy(cluster, operator_namespace),
        Some(headless_service(cluster)),
        Some(service(cluster, doors)),
        pod_disruption_budget(cluster),
        service_monitor(cluster),
        ingress(cluster),
        http_route(cluster),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Has an Ingress or an HTTPRoute lead in from one more host, as it does from its own. An object of
/// another kind stays as it is.
pub fn lead_in_from(object: &mut DesiredObject, host: &str) {
    let spec = &mut object.value["spec"];
    match object.kind {
        Kind::Ingress => ingress::lead_in_from(spec, host),
        Kind::HttpRoute => http_route::lead_in_from(spec, host),
        _ => {}
    }
}

/// Name of the headless Service.
pub fn headless_name(cluster: &str) -> String {
    format!("{cluster}-headless")
}

/// Labels that select the pods of a cluster; a StatefulSet's selector can never change, so neither
/// can these.
pub fn selector_labels(name: &str) -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "bytebase"),
        ("app.kubernetes.io/instance", name),
        (CLUSTER_LABEL, name),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// [`selector_labels`] as text, for the scale subresource.
pub fn selector_text(name: &str) -> String {
    selector_labels(name)
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

fn selector(cluster: &ValidCluster) -> LabelSelector {
    LabelSelector {
        match_labels: Some(selector_labels(&cluster.identity.name)),
        match_expressions: None,
    }
}

fn labels(identity: &Identity) -> BTreeMap<String, String> {
    let mut labels = selector_labels(&identity.name);
    labels.insert(MANAGED_BY.0.to_owned(), MANAGED_BY.1.to_owned());
    labels
}

/// Metadata of an object. `annotations`: what this one has beside those of all, over which they
/// win.
fn metadata(
    cluster: &ValidCluster,
    name: &str,
    annotations: &BTreeMap<String, String>,
) -> ObjectMeta {
    let mut all_labels = cluster.metadata.labels.by_key().clone();
    all_labels.extend(labels(&cluster.identity));
    let mut all_annotations = cluster.metadata.annotations.by_key().clone();
    all_annotations.extend(annotations.clone());
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(cluster.identity.namespace.clone()),
        labels: Some(all_labels),
        annotations: (!all_annotations.is_empty()).then_some(all_annotations),
        owner_references: Some(vec![cluster.identity.owner.clone()]),
        ..ObjectMeta::default()
    }
}
