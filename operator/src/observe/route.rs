//! An HTTPRoute as it stands. Only what the operator reads of it is typed.

use crate::observation::RouteView;
use kube::api::DynamicObject;
use serde::Deserialize;
use serde::de::IgnoredAny;

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
    /// The Gateways it names.
    #[serde(default)]
    parent_refs: Vec<IgnoredAny>,
}

#[derive(Deserialize, Default)]
struct RouteStatus {
    /// What the Gateways say of it: one entry each.
    #[serde(default)]
    parents: Vec<ParentStatus>,
}

#[derive(Deserialize)]
struct ParentStatus {
    #[serde(default)]
    conditions: Vec<RouteCondition>,
}

#[derive(Deserialize)]
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
pub fn view(object: &DynamicObject) -> RouteView {
    // The API server holds routes to their schema; one that were not would count as not taken up.
    let Route { spec, status } = Route::deserialize(&object.data).unwrap_or_default();
    let (named, parents) = (spec.parent_refs.len(), status.parents);
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
    use serde_json::{Value, json};

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
        view(&serde_json::from_value(object).unwrap())
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
