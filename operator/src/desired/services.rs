//! The client Service and the headless one.

use super::{DesiredObject, PORT, headless_name, metadata, selector_labels};
use crate::api::spec::{IngressPreset, IpFamilyPolicy, ServiceType, TrafficPolicy};
use crate::kubernetes::Kind;
use crate::validate::{DualStack, IpFamilies, ServiceReach, ValidCluster};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// Name of the port that leads nowhere.
pub(super) const NOWHERE: &str = "nowhere";
/// Number of the port that leads nowhere: `discard`, which no replica listens on.
pub(super) const NOWHERE_PORT: i32 = 9;
/// Label that distinguishes the two Services of a cluster.
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

/// Whether the client Service may let users in from outside the Kubernetes cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doors {
    /// As the spec says.
    AsWanted,
    /// Not yet, whatever its type will be.
    Closed,
}

/// Whether the client Service of this cluster is to be reached from outside, without any Ingress.
pub fn service_exposes(cluster: &ValidCluster) -> bool {
    match cluster.service.reach {
        ServiceReach::Inside => false,
        ServiceReach::Nodes { .. } | ServiceReach::Balanced { .. } => true,
    }
}

/// The Service that clients and the Ingress use: only Ready pods stand behind it.
pub fn service(cluster: &ValidCluster, doors: Doors) -> DesiredObject {
    let wanted = &cluster.service;
    let reach = match doors {
        Doors::AsWanted => &wanted.reach,
        Doors::Closed => &ServiceReach::Inside,
    };
    let preset = cluster.ingress.as_ref().map(|ingress| ingress.preset);
    let mut annotations = for_ingress(preset, &wanted.reach);
    annotations.extend(wanted.annotations.clone());
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
                selector: Some(selector_labels(&cluster.identity.name)),
                ports: Some(client_ports(wanted.port, preset)),
                internal_traffic_policy: wanted.internal_traffic.map(|it| it.as_ref().to_owned()),
                ..families(wanted.families, reached(reach))
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
            spec: Some(families(
                cluster.service.families,
                ServiceSpec {
                    cluster_ip: Some("None".to_owned()),
                    publish_not_ready_addresses: Some(true),
                    selector: Some(selector_labels(&cluster.identity.name)),
                    ports: Some(vec![port(i32::from(PORT)), nowhere(NOWHERE_PORT)]),
                    ..ServiceSpec::default()
                },
            )),
            ..Service::default()
        },
    )
}

/// What ingress controllers read from the Service and not from the Ingress.
fn for_ingress(preset: Option<IngressPreset>, reach: &ServiceReach) -> BTreeMap<String, String> {
    // Nodes have no port of a Service that is reached from inside only, so a load balancer of a
    // cloud must send to the pods themselves.
    let is_inside = *reach == ServiceReach::Inside;
    let annotations: &[(&str, &str)] = match preset {
        Some(IngressPreset::Traefik) => &[
            (
                "traefik.ingress.kubernetes.io/service.sticky.cookie",
                "true",
            ),
            (
                "traefik.ingress.kubernetes.io/service.sticky.cookie.name",
                "bytebase-replica",
            ),
        ],
        Some(IngressPreset::AwsAlb) if is_inside => {
            &[("alb.ingress.kubernetes.io/target-type", "ip")]
        }
        Some(IngressPreset::Gce) if is_inside => &[("cloud.google.com/neg", r#"{"ingress":true}"#)],
        _ => &[],
    };
    annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

/// The ports of the client Service: that of the users, and for an Ingress whose controller takes no
/// headless Service the one that leads nowhere.
fn client_ports(users: i32, preset: Option<IngressPreset>) -> Vec<ServicePort> {
    let mut ports = vec![port(users)];
    if preset == Some(IngressPreset::Gce) {
        let number = if users == NOWHERE_PORT {
            NOWHERE_PORT + 1
        } else {
            NOWHERE_PORT
        };
        ports.push(nowhere(number));
    }
    ports
}

/// The type of a Service and what only that type has.
fn reached(reach: &ServiceReach) -> ServiceSpec {
    let spec = |type_: ServiceType, external_traffic: Option<TrafficPolicy>| ServiceSpec {
        type_: Some(type_.as_ref().to_owned()),
        external_traffic_policy: external_traffic.map(|policy| policy.as_ref().to_owned()),
        ..ServiceSpec::default()
    };
    match reach {
        ServiceReach::Inside => spec(ServiceType::ClusterIP, None),
        ServiceReach::Nodes { external_traffic } => spec(ServiceType::NodePort, *external_traffic),
        ServiceReach::Balanced {
            class,
            sources,
            external_traffic,
        } => {
            let ranges = sources.iter().map(ToString::to_string).collect();
            ServiceSpec {
                load_balancer_class: class.as_ref().map(|class| class.as_str().to_owned()),
                load_balancer_source_ranges: (!sources.is_empty()).then_some(ranges),
                ..spec(ServiceType::LoadBalancer, *external_traffic)
            }
        }
    }
}

/// The IP families of a Service. A list is written only in full: the API server would add the
/// second family to a list of one, and refuse the shorter list from then on.
fn families(families: IpFamilies, spec: ServiceSpec) -> ServiceSpec {
    let (policy, list) = match families {
        IpFamilies::Unsaid => return spec,
        IpFamilies::One(family) => (IpFamilyPolicy::SingleStack, family.map(|one| vec![one])),
        IpFamilies::Two { policy, first } => {
            let policy = match policy {
                DualStack::Preferred => IpFamilyPolicy::PreferDualStack,
                DualStack::Required => IpFamilyPolicy::RequireDualStack,
            };
            (policy, first.map(|first| vec![first, first.other()]))
        }
    };
    ServiceSpec {
        ip_family_policy: Some(policy.as_ref().to_owned()),
        ip_families: list.map(|list| list.iter().map(|one| one.as_ref().to_owned()).collect()),
        ..spec
    }
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

/// A port under this number that no replica listens on: where the Ingress sends what must not be
/// reached from outside. A route without endpoints is left out by some controllers, and the request
/// would fall through to `/`; one that is refused is answered 502 by all.
fn nowhere(number: i32) -> ServicePort {
    ServicePort {
        name: Some(NOWHERE.to_owned()),
        port: number,
        protocol: Some("TCP".to_owned()),
        target_port: Some(IntOrString::Int(NOWHERE_PORT)),
        ..ServicePort::default()
    }
}
