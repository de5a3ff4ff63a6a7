//! Whether a pod template lets replicas run on spot machines, which are taken away within two
//! minutes whatever runs on them.

use serde_json::Value;

/// Labels and taints of spot machines, as clouds and autoscalers set them, with their value.
const MARKS: [(&str, &str); 7] = [
    ("cloud.google.com/gke-spot", "true"),
    ("cloud.google.com/gke-preemptible", "true"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("karpenter.sh/capacity-type", "spot"),
    ("karpenter.k8s.aws/capacity-type", "spot"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
    ("node.kubernetes.io/lifecycle", "spot"),
];

/// What there is to say of a template that selects or tolerates such machines.
pub fn warning(template: &Value) -> Option<String> {
    let spec = &template["spec"];
    let mark = selected(spec)
        .or_else(|| required(spec))
        .or_else(|| tolerated(spec))?;
    Some(format!(
        "spec.podTemplate, or a field for the pods' nodes: {mark} lets replicas run on spot machines, which are taken away within two minutes whatever runs there: a task that runs longer is cut off. Keep the replicas on other machines"
    ))
}

fn selected(spec: &Value) -> Option<&'static str> {
    let selects = |(key, value): &&(&str, &str)| spec["nodeSelector"][*key] == *value;
    MARKS.iter().find(selects).map(|(key, _)| *key)
}

/// By a term that nodes must meet. One of several terms is enough for a node.
fn required(spec: &Value) -> Option<&'static str> {
    let required =
        &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    let terms = required["nodeSelectorTerms"].as_array()?.iter();
    let mut expressions = terms.flat_map(|term| list(&term["matchExpressions"]));
    expressions.find_map(|expression| {
        let (key, value) = mark(&expression["key"])?;
        let names = match expression["operator"].as_str()? {
            "In" => list(&expression["values"]).iter().any(|one| one == value),
            "Exists" => true,
            _ => false,
        };
        names.then_some(key)
    })
}

/// A toleration of everything is no sign that spot machines are meant.
fn tolerated(spec: &Value) -> Option<&'static str> {
    list(&spec["tolerations"]).iter().find_map(|toleration| {
        let (key, value) = mark(&toleration["key"])?;
        let tolerates = toleration["operator"] == "Exists" || toleration["value"] == value;
        tolerates.then_some(key)
    })
}

fn mark(key: &Value) -> Option<(&'static str, &'static str)> {
    MARKS.into_iter().find(|(mark, _)| key == mark)
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn affinity(expression: &Value) -> Value {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [expression]}],
        }}}})
    }

    #[test]
    fn a_template_that_leads_to_spot_machines_is_warned_of() {
        for (spec, expected) in [
            (
                json!({"nodeSelector": {"cloud.google.com/gke-spot": "true"}}),
                Some("cloud.google.com/gke-spot"),
            ),
            (
                affinity(
                    &json!({"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["on-demand", "spot"]}),
                ),
                Some("karpenter.sh/capacity-type"),
            ),
            (
                affinity(&json!({"key": "cloud.google.com/gke-preemptible", "operator": "Exists"})),
                Some("cloud.google.com/gke-preemptible"),
            ),
            (
                json!({"tolerations": [
                    {"key": "a", "operator": "Exists"},
                    {"key": "kubernetes.azure.com/scalesetpriority", "value": "spot", "effect": "NoSchedule"},
                ]}),
                Some("kubernetes.azure.com/scalesetpriority"),
            ),
            (json!({}), None),
            (
                json!({"nodeSelector": {"cloud.google.com/gke-spot": "false"}}),
                None,
            ),
            (
                json!({"nodeSelector": {"eks.amazonaws.com/capacityType": "ON_DEMAND"}}),
                None,
            ),
            (
                affinity(
                    &json!({"key": "karpenter.sh/capacity-type", "operator": "NotIn", "values": ["spot"]}),
                ),
                None,
            ),
            (json!({"tolerations": [{"operator": "Exists"}]}), None),
        ] {
            let found = warning(&json!({"spec": spec}));
            assert_eq!(found.is_some(), expected.is_some(), "{spec}");
            if let (Some(found), Some(expected)) = (found, expected) {
                assert!(found.contains(expected), "{found}");
            }
        }
    }
}
