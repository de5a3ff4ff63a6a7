//! The client Service and the headless one.

use super::{DesiredObject, PORT, headless_name, metadata, selector_labels};
use crate::api::spec::{IngressPreset, ServiceType};
use crate::kubernetes::Kind;
use crate::validate::ValidCluster;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// Name of the port that leads nowhere.
pub(super) const NOWHERE: &str = "nowhere";
/// Number of the port that leads nowhere: `discard`, which no replica listens on.
pub(super) const NOWHERE_PORT: i32 = 9;
/// Label that tells the two Services of a cluster apart.
pub(super) const ROLE_LABEL: &str = "bytebase.com/service";

/// What a Service is for.
#[derive(Clone, Copy, Debug, strum::AsRefStr)]
#[strum(serialize_all = "lowercase")]
pub(super) enum ServiceRole {
    /// What clients use.
    Client,
    /// A name for each pod.
    Headless,
}

/// Whether the client Service may let people in from outside the Kubernetes cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doors {
    /// As the spec says.
    AsWanted,
    /// Not yet, whatever its type will be.
    Closed,
}

/// Whether the client Service of this cluster is to be reached from outside, without any Ingress.
pub fn service_exposes(cluster: &ValidCluster) -> bool {
    match cluster.service.type_ {
        ServiceType::ClusterIP => false,
        ServiceType::NodePort | ServiceType::LoadBalancer => true,
    }
}

/// The Service that clients and the Ingress use: only Ready pods stand behind it.
pub fn service(cluster: &ValidCluster, doors: Doors) -> DesiredObject {
    let type_ = match doors {
        Doors::AsWanted => cluster.service.type_,
        Doors::Closed => ServiceType::ClusterIP,
    };
    let mut annotations = BTreeMap::new();
    // Traefik reads session affinity from the Service, the others from the Ingress.
    if cluster
        .ingress
        .as_ref()
        .is_some_and(|ingress| ingress.preset == IngressPreset::Traefik)
    {
        annotations.insert(
            "traefik.ingress.kubernetes.io/service.sticky.cookie".to_owned(),
            "true".to_owned(),
        );
        annotations.insert(
            "traefik.ingress.kubernetes.io/service.sticky.cookie.name".to_owned(),
            "bytebase-replica".to_owned(),
        );
    }
    annotations.extend(cluster.service.annotations.clone());
    DesiredObject::new(
        Kind::Service,
        &Service {
            metadata: service_metadata(
                cluster,
                &cluster.identity.name,
                ServiceRole::Client,
                &annotations,
            ),
            spec: Some(ServiceSpec {
                type_: Some(type_.as_ref().to_owned()),
                selector: Some(selector_labels(&cluster.identity.name)),
                ports: Some(vec![port(cluster.service.port)]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        },
    )
}

/// The Service that gives each pod a DNS name of its own, Ready or not.
pub fn headless_service(cluster: &ValidCluster) -> DesiredObject {
    DesiredObject::new(
        Kind::Service,
        &Service {
            metadata: service_metadata(
                cluster,
                &headless_name(&cluster.identity.name),
                ServiceRole::Headless,
                &BTreeMap::new(),
            ),
            spec: Some(ServiceSpec {
                cluster_ip: Some("None".to_owned()),
                publish_not_ready_addresses: Some(true),
                selector: Some(selector_labels(&cluster.identity.name)),
                ports: Some(vec![port(i32::from(PORT)), nowhere()]),
                ..ServiceSpec::default()
            }),
            ..Service::default()
        },
    )
}

fn service_metadata(
    cluster: &ValidCluster,
    name: &str,
    role: ServiceRole,
    annotations: &BTreeMap<String, String>,
) -> ObjectMeta {
    let mut metadata = metadata(cluster, name, annotations);
    metadata
        .labels
        .get_or_insert_default()
        .insert(ROLE_LABEL.to_owned(), role.as_ref().to_owned());
    metadata
}

fn port(port: i32) -> ServicePort {
    ServicePort {
        name: Some("http".to_owned()),
        port,
        // The key under which the API server merges ports; left out, an apply would not find its
        // own entry again.
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::String("http".to_owned())),
        // gRPC-Web and HTTP/1.1 share the port; no `appProtocol`, since presets differ in what they
        // make of it.
        ..ServicePort::default()
    }
}

/// A port that no replica listens on: where the Ingress sends what must not be reached from
/// outside. A route without endpoints is left out by some controllers, and the request would fall
/// through to `/`; one that is refused is answered 502 by all.
fn nowhere() -> ServicePort {
    ServicePort {
        name: Some(NOWHERE.to_owned()),
        port: NOWHERE_PORT,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(NOWHERE_PORT)),
        ..ServicePort::default()
    }
}
