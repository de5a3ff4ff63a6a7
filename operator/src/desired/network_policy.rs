//! The NetworkPolicy: one port, from where the user says.

use super::{DesiredObject, PORT, metadata, selector};
use crate::kubernetes::Kind;
use crate::validate::ValidCluster;
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort,
    NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use std::collections::BTreeMap;

/// The NetworkPolicy, if wanted. `operator_namespace`: where this operator runs; it calls the
/// replicas with the admin's login.
pub fn network_policy(
    cluster: &ValidCluster,
    operator_namespace: Option<&str>,
) -> Option<DesiredObject> {
    let wanted = cluster.network_policy.as_ref()?;
    // No peer at all means everyone, so the operator joins only a list that is there.
    let mut from = wanted.from.clone();
    let operator = operator_namespace
        .filter(|_| !from.is_empty() && cluster.admin.is_some())
        .map(namespace);
    from.extend(operator);
    Some(DesiredObject::new(
        Kind::NetworkPolicy,
        &NetworkPolicy {
            metadata: metadata(cluster, &cluster.identity.name, &BTreeMap::new()),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(selector(cluster)),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ingress: Some(vec![NetworkPolicyIngressRule {
                    from: (!from.is_empty()).then_some(from),
                    ports: Some(vec![NetworkPolicyPort {
                        port: Some(IntOrString::Int(i32::from(PORT))),
                        protocol: Some("TCP".to_owned()),
                        end_port: None,
                    }]),
                }]),
                egress: None,
            }),
        },
    ))
}

fn namespace(name: &str) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector {
            match_labels: Some(BTreeMap::from([(
                "kubernetes.io/metadata.name".to_owned(),
                name.to_owned(),
            )])),
            match_expressions: None,
        }),
        ..NetworkPolicyPeer::default()
    }
}
