//! An HTTPRoute as it stands. Only what the operator reads of it is typed. And the hosts of Ingress
//! and HTTPRoute, and how a Service lets users in by itself.

use crate::observation::{RouteView, ServiceWay};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::networking::v1::Ingress;
use kube::ResourceExt as _;
use kube::api::DynamicObject;
use serde::Deserialize;

#[derive(Deserialize, Default)]
struct Route {
    #[serde(default)]
    spec: RouteSpec,
    #[serde(default)]
    status: RouteStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct RouteSpec {
    #[serde(default)]
    parent_refs: Vec<ParentRef>,
    #[serde(default)]
    hostnames: Vec<String>,
}

/// A Gateway, or one of its listeners.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ParentRef {
    /// That of the route, where it names none.
    namespace: Option<String>,
    name: String,
    section_name: Option<String>,
    port: Option<i64>,
}

#[derive(Deserialize, Default)]
struct RouteStatus {
    /// What the Gateways say of it: one entry each. Entries of those that it named before may stay.
    #[serde(default)]
    parents: Vec<ParentStatus>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ParentStatus {
    #[serde(default)]
    parent_ref: ParentRef,
    #[serde(default)]
    conditions: Vec<RouteCondition>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RouteCondition {
    #[serde(rename = "type")]
    type_: String,
    status: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
    /// The generation of the route that it speaks of.
    observed_generation: Option<i64>,
}

impl ParentRef {
    fn is(&self, other: &Self, namespace: Option<&str>) -> bool {
        let place = |parent: &Self| {
            let of_its_own = parent.namespace.clone();
            of_its_own.or_else(|| namespace.map(str::to_owned))
        };
        (place(self), &self.name, &self.section_name, self.port)
            == (place(other), &other.name, &other.section_name, other.port)
    }
}

/// Hosts that lead in, by either of the two.
pub fn exposed_hosts(ingress: Option<&Ingress>, route: Option<&DynamicObject>) -> Vec<String> {
    let spec = ingress.and_then(|ingress| ingress.spec.as_ref());
    let rules = spec.and_then(|spec| spec.rules.as_ref());
    let hosts = rules.into_iter().flatten();
    let hosts = hosts.filter_map(|rule| rule.host.clone());
    let route = route.and_then(|route| Route::deserialize(&route.data).ok());
    let names = route.map(|route| route.spec.hostnames);
    hosts.chain(names.into_iter().flatten()).collect()
}

/// How a Service lets users in from outside by its type; `None` if it does not.
pub fn service_way(service: &Service) -> Option<ServiceWay> {
    match service.spec.as_ref()?.type_.as_deref()? {
        "ClusterIP" => None,
        "LoadBalancer" => {
            let status = service.status.as_ref();
            let balancer = status.and_then(|status| status.load_balancer.as_ref());
            let addresses = balancer.and_then(|balancer| balancer.ingress.as_ref());
            Some(ServiceWay::Balanced {
                has_address: addresses.is_some_and(|addresses| !addresses.is_empty()),
            })
        }
        _ => Some(ServiceWay::Nodes),
    }
}

/// The route as a plain value: refused if one of the Gateways that it names refuses it, accepted
/// once each of them accepts it.
pub fn view(object: &DynamicObject) -> RouteView {
    // The API server holds routes to their schema; one that were not would count as not taken up.
    let Route { spec, status } = Route::deserialize(&object.data).unwrap_or_default();
    let (namespace, generation) = (object.namespace(), object.metadata.generation);
    let is_current = |condition: &&RouteCondition| {
        let of = condition.observed_generation;
        of.is_none_or(|of| generation.is_none_or(|generation| of >= generation))
    };
    let said_by = |parent: &ParentRef| -> Vec<&RouteCondition> {
        let entries = status.parents.iter();
        let entries = entries.filter(|entry| entry.parent_ref.is(parent, namespace.as_deref()));
        let conditions = entries.flat_map(|entry| &entry.conditions);
        conditions.filter(is_current).collect()
    };
    let said: Vec<_> = spec.parent_refs.iter().map(said_by).collect();
    // A route is of use when it is attached and all that it names is there.
    let mut all = said.iter().flatten();
    let refused = all.find(|condition| {
        matches!(condition.type_.as_str(), "Accepted" | "ResolvedRefs")
            && condition.status == "False"
    });
    if let Some(condition) = refused {
        return RouteView::Refused(format!("{}: {}", condition.reason, condition.message));
    }
    let accepts = |said: &Vec<&RouteCondition>| {
        let mut said = said.iter();
        said.any(|condition| condition.type_ == "Accepted" && condition.status == "True")
    };
    if !said.is_empty() && said.iter().all(accepts) {
        RouteView::Accepted
    } else {
        RouteView::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// What Gateways `a` and `b`, which the route names, say of it, and `c`, which it does not.
    fn seen(conditions: &Value) -> RouteView {
        let conditions = conditions.as_array().unwrap().iter();
        let parents: Vec<_> = conditions
            .zip(["a", "b", "c"])
            .map(
                |(conditions, name)| json!({"parentRef": {"name": name}, "conditions": conditions}),
            )
            .collect();
        let object = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": {"name": "demo", "namespace": "apps", "generation": 2},
            "spec": {"parentRefs": [{"name": "a"}, {"name": "b", "namespace": "apps"}]},
            "status": {"parents": parents},
        });
        view(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_route_is_as_good_as_its_worst_gateway() {
        let yes = json!({"type": "Accepted", "status": "True"});
        let resolved = json!({"type": "ResolvedRefs", "status": "True"});
        let unresolved = json!({"type": "ResolvedRefs", "status": "False", "reason": "BackendNotFound", "message": "no demo"});
        let no = json!({"type": "Accepted", "status": "False", "reason": "NotAllowedByListeners", "message": "no listener"});
        let of = |generation| json!({"type": "Accepted", "status": "True", "observedGeneration": generation});
        let (before, now) = (of(1), of(2));
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
            // One that it does not name any more, or that speaks of an earlier generation, counts
            // neither way.
            (json!([[yes], [], [yes]]), RouteView::Pending),
            (json!([[yes], [yes], [no]]), RouteView::Accepted),
            (json!([[yes], [before]]), RouteView::Pending),
            (json!([[yes], [now]]), RouteView::Accepted),
        ] {
            assert_eq!(seen(&conditions), wanted, "{conditions}");
        }
    }

    #[test]
    fn a_service_lets_people_in_by_its_type_and_a_load_balancer_by_its_address() {
        let balanced = |has_address| Some(ServiceWay::Balanced { has_address });
        for (service, expected) in [
            (json!({}), None),
            (json!({"spec": {}}), None),
            (json!({"spec": {"type": "ClusterIP"}}), None),
            (
                json!({"spec": {"type": "NodePort"}}),
                Some(ServiceWay::Nodes),
            ),
            (json!({"spec": {"type": "LoadBalancer"}}), balanced(false)),
            (
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {}}}),
                balanced(false),
            ),
            (
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": []}}}),
                balanced(false),
            ),
            (
                json!({"spec": {"type": "LoadBalancer"}, "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example.com"}]}}}),
                balanced(true),
            ),
            // The address of a load balancer of before is left behind for a moment.
            (
                json!({"spec": {"type": "ClusterIP"}, "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}),
                None,
            ),
        ] {
            let seen: Service = serde_json::from_value(service.clone()).unwrap();
            assert_eq!(service_way(&seen), expected, "{service}");
        }
    }

    #[test]
    fn hosts_lead_in_by_an_ingress_and_by_a_route() {
        let ingress =
            json!({"spec": {"rules": [{"host": "a.example.com"}, {}, {"host": "b.example.com"}]}});
        let ingress: Ingress = serde_json::from_value(ingress).unwrap();
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute", "metadata": {},
            "spec": {"hostnames": ["c.example.com"]},
        });
        let route: DynamicObject = serde_json::from_value(route).unwrap();
        let both = exposed_hosts(Some(&ingress), Some(&route));
        assert_eq!(both, ["a.example.com", "b.example.com", "c.example.com"]);
        assert_eq!(exposed_hosts(None, None), [""; 0]);
    }
}
