//! The HTTPRoute: the same host and paths as the Ingress, in the words of the Gateway API.

use super::ingress::PRIVATE_PATHS;
use super::services::NOWHERE_PORT;
use super::{DesiredObject, headless_name, metadata};
use crate::api::spec::GatewayParentRef;
use crate::kubernetes::Kind;
use crate::validate::ValidCluster;
use serde_json::{Map, Value, json};

/// The HTTPRoute, if wanted.
pub fn http_route(cluster: &ValidCluster) -> Option<DesiredObject> {
    let wanted = cluster.route.as_ref()?;
    let name = &cluster.identity.name;
    let matches = |path: &str| json!({"path": {"type": "PathPrefix", "value": path}});
    let private: Vec<_> = PRIVATE_PATHS.map(matches).into();
    let mut open = json!({
        "matches": [matches("/")],
        "backendRefs": [backend(name, cluster.service.port)],
    });
    if let Some(timeout) = &wanted.request_timeout {
        open["timeouts"] = json!({"request": timeout});
    }
    let spec = json!({
        "parentRefs": wanted.parents.iter().map(parent).collect::<Vec<_>>(),
        "hostnames": [wanted.host],
        "rules": [
            // The longer path wins, whatever the order.
            {"matches": private, "backendRefs": [backend(&headless_name(name), NOWHERE_PORT)]},
            open,
        ],
    });
    Some(DesiredObject::custom(
        Kind::HttpRoute,
        &metadata(cluster, name, &wanted.annotations),
        &spec,
    ))
}

/// Adds another host to a spec.
pub(super) fn lead_in_from(spec: &mut Value, host: &str) {
    if let Some(hosts) = spec["hostnames"].as_array_mut()
        && hosts.iter().all(|present| present != host)
    {
        hosts.push(json!(host));
    }
}

/// With every default written out: a list that lacks what the API server adds to it would differ
/// from what stands.
fn backend(service: &str, port: i32) -> Value {
    json!({"group": "", "kind": "Service", "name": service, "port": port, "weight": 1})
}

fn parent(parent: &GatewayParentRef) -> Value {
    let GatewayParentRef {
        name,
        namespace,
        section_name,
    } = parent;
    let mut reference = Map::new();
    for (key, value) in [
        ("group", Some("gateway.networking.k8s.io")),
        ("kind", Some("Gateway")),
        ("name", Some(name.as_str())),
        ("namespace", namespace.as_deref()),
        ("sectionName", section_name.as_deref()),
    ] {
        if let Some(value) = value {
            reference.insert(key.to_owned(), json!(value));
        }
    }
    reference.into()
}
