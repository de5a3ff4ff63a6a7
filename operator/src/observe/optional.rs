//! Kinds that Kubernetes itself does not bring. Only what the operator reads of them is typed.

use crate::decide::observation::RouteView;
use kube::CustomResource;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// `spec` of an HTTPRoute.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug)]
#[kube(
    group = "gateway.networking.k8s.io",
    version = "v1",
    kind = "HTTPRoute",
    plural = "httproutes",
    namespaced,
    schema = "disabled",
    status = "HttpRouteStatus"
)]
#[serde(transparent)]
pub struct HttpRouteSpec(pub Map<String, Value>);

/// `spec` of a ServiceMonitor.
#[derive(CustomResource, Serialize, Deserialize, Clone, Debug)]
#[kube(
    group = "monitoring.coreos.com",
    version = "v1",
    kind = "ServiceMonitor",
    plural = "servicemonitors",
    namespaced,
    schema = "disabled"
)]
#[serde(transparent)]
pub struct ServiceMonitorSpec(pub Map<String, Value>);

/// What the Gateways say of a route: one entry each.
#[derive(Serialize, Deserialize, Clone, Debug, Default)]
pub struct HttpRouteStatus {
    #[serde(default)]
    parents: Vec<ParentStatus>,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
struct ParentStatus {
    #[serde(default)]
    conditions: Vec<RouteCondition>,
}

#[derive(Serialize, Deserialize, Clone, Debug)]
struct RouteCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

/// The route as a plain value: refused if one Gateway refuses it, accepted once as many accept it
/// as it names.
pub fn route(route: &HTTPRoute) -> RouteView {
    let named = route
        .spec
        .0
        .get("parentRefs")
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let parents = route
        .status
        .as_ref()
        .map_or(&[][..], |status| &status.parents);
    // A route is of use when it is attached and all that it names is there.
    let refused = parents
        .iter()
        .flat_map(|parent| &parent.conditions)
        .find(|condition| {
            matches!(condition.type_.as_str(), "Accepted" | "ResolvedRefs")
                && condition.status == "False"
        });
    if let Some(condition) = refused {
        return RouteView::Refused(format!("{}: {}", condition.reason, condition.message));
    }
    let accepted = parents.iter().filter(|parent| {
        parent
            .conditions
            .iter()
            .any(|condition| condition.type_ == "Accepted" && condition.status == "True")
    });
    if named > 0 && accepted.count() >= named {
        RouteView::Accepted
    } else {
        RouteView::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn seen(conditions: &Value) -> RouteView {
        let parents: Vec<_> = conditions
            .as_array()
            .unwrap()
            .iter()
            .map(|conditions| json!({"parentRef": {"name": "a"}, "conditions": conditions}))
            .collect();
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "demo"},
            "spec": {"parentRefs": [{"name": "a"}, {"name": "b"}]},
            "status": {"parents": parents},
        });
        route(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_route_is_as_good_as_its_worst_gateway() {
        let yes = json!({"type": "Accepted", "status": "True"});
        let resolved = json!({"type": "ResolvedRefs", "status": "True"});
        let unresolved = json!({"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "no demo"});
        let no = json!({"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners", "message": "no listener"});
        for (conditions, wanted) in [
            (json!([]), RouteView::Pending),
            (json!([[yes]]), RouteView::Pending),
            (json!([[], []]), RouteView::Pending),
            (json!([[yes, resolved], [yes]]), RouteView::Accepted),
            (
                json!([[yes], [no]]),
                RouteView::Refused("NotAllowedByListeners: no listener".to_owned()),
            ),
            (
                json!([[yes, unresolved], [yes]]),
                RouteView::Refused("BackendNotFound: no demo".to_owned()),
            ),
        ] {
            assert_eq!(seen(&conditions), wanted, "{conditions}");
        }
    }
}
