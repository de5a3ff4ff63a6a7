//! The Ingress, with what Bytebase needs in the words of each controller.

use super::services::NOWHERE;
use super::{DesiredObject, headless_name, metadata};
use crate::api::spec::IngressPreset;
use crate::kubernetes::Kind;
use crate::validate::ValidCluster;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, HTTPIngressRuleValue, Ingress, IngressBackend, IngressRule,
    IngressServiceBackend, IngressSpec, IngressTLS, ServiceBackendPort,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Paths that must not be reachable from outside: both answer without a login. A longer path wins
/// over `/`.
pub(super) const PRIVATE_PATHS: [&str; 2] = ["/metrics", "/debug"];

/// Name of the answer that an AWS load balancer gives to a private path by itself; the preset says
/// what it is.
const ALB_ACTION: &str = "private";
/// Port of a backend that is no Service but an answer of an AWS load balancer.
const ALB_ACTION_PORT: &str = "use-annotation";

/// The Ingress, if wanted.
pub fn ingress(cluster: &ValidCluster) -> Option<DesiredObject> {
    let wanted = cluster.ingress.as_ref()?;
    let mut annotations = preset(wanted.preset);
    annotations.extend(wanted.annotations.clone());
    let name = &cluster.identity.name;
    let (service, port) = private_backend(wanted.preset, name);
    let private = PRIVATE_PATHS.map(|private| path(private, &service, port));
    let paths = private.into_iter().chain([path("/", name, "http")]);
    Some(DesiredObject::new(
        Kind::Ingress,
        &Ingress {
            metadata: metadata(cluster, name, &annotations),
            spec: Some(IngressSpec {
                ingress_class_name: wanted.class_name.clone(),
                rules: Some(vec![IngressRule {
                    host: Some(wanted.host.clone()),
                    http: Some(HTTPIngressRuleValue {
                        paths: paths.collect(),
                    }),
                }]),
                tls: wanted.tls_secret_name.clone().map(|secret| {
                    vec![IngressTLS {
                        hosts: Some(vec![wanted.host.clone()]),
                        secret_name: Some(secret),
                    }]
                }),
                ..IngressSpec::default()
            }),
            ..Ingress::default()
        },
    ))
}

/// Adds a rule for another host to a spec, and has the certificate count for it.
pub(super) fn lead_in_from(spec: &mut Value, host: &str) {
    let Some(rules) = spec["rules"].as_array_mut() else {
        return;
    };
    let Some(mut rule) = rules.first().filter(|rule| rule["host"] != host).cloned() else {
        return;
    };
    rule["host"] = json!(host);
    rules.push(rule);
    let tls = spec.get_mut("tls").and_then(Value::as_array_mut);
    for entry in tls.into_iter().flatten() {
        if let Some(hosts) = entry["hosts"].as_array_mut() {
            hosts.push(json!(host));
        }
    }
}

/// The Service and its port to which the private paths lead.
fn private_backend(preset: IngressPreset, name: &str) -> (String, &'static str) {
    match preset {
        IngressPreset::None
        | IngressPreset::IngressNginx
        | IngressPreset::Traefik
        | IngressPreset::Haproxy => (headless_name(name), NOWHERE),
        // Refuses the whole Ingress over a headless Service, and answers by itself instead. A
        // target that is never healthy would keep pods with its readiness gate from becoming Ready.
        IngressPreset::AwsAlb => (ALB_ACTION.to_owned(), ALB_ACTION_PORT),
        // Refuses a headless Service too, and cannot answer by itself: the client Service has the
        // port that leads nowhere.
        IngressPreset::Gce => (name.to_owned(), NOWHERE),
    }
}

fn path(path: &str, service: &str, port: &str) -> HTTPIngressPath {
    HTTPIngressPath {
        path: Some(path.to_owned()),
        path_type: "Prefix".to_owned(),
        backend: IngressBackend {
            service: Some(IngressServiceBackend {
                name: service.to_owned(),
                port: Some(ServiceBackendPort {
                    name: Some(port.to_owned()),
                    number: None,
                }),
            }),
            resource: None,
        },
    }
}

/// WebSockets live for an hour, SQL sheets are large, `/mcp` streams, and its sessions are in one
/// replica's memory.
fn preset(preset: IngressPreset) -> BTreeMap<String, String> {
    let annotations: &[(&str, &str)] = match preset {
        // GKE's time-outs and affinity are in an object that the user makes and the Service names.
        IngressPreset::None | IngressPreset::Gce => &[],
        IngressPreset::IngressNginx => &[
            ("nginx.ingress.kubernetes.io/proxy-read-timeout", "3600"),
            ("nginx.ingress.kubernetes.io/proxy-send-timeout", "3600"),
            ("nginx.ingress.kubernetes.io/proxy-body-size", "128m"),
            ("nginx.ingress.kubernetes.io/proxy-buffering", "off"),
            ("nginx.ingress.kubernetes.io/affinity", "cookie"),
            ("nginx.ingress.kubernetes.io/affinity-mode", "persistent"),
            (
                "nginx.ingress.kubernetes.io/session-cookie-name",
                "bytebase-replica",
            ),
        ],
        // Traefik neither limits bodies nor buffers nor times WebSockets out by default; its
        // affinity annotations go on the Service.
        IngressPreset::Traefik => &[(
            "traefik.ingress.kubernetes.io/router.entrypoints",
            "web,websecure",
        )],
        IngressPreset::Haproxy => &[
            ("haproxy-ingress.github.io/timeout-tunnel", "1h"),
            ("haproxy-ingress.github.io/timeout-server", "1h"),
            ("haproxy-ingress.github.io/proxy-body-size", "128m"),
            ("haproxy-ingress.github.io/affinity", "cookie"),
            (
                "haproxy-ingress.github.io/session-cookie-name",
                "bytebase-replica",
            ),
        ],
        // It limits no body and buffers nothing; the type of its targets goes on the Service.
        IngressPreset::AwsAlb => &[
            (
                "alb.ingress.kubernetes.io/actions.private",
                r#"{"type":"fixed-response","fixedResponseConfig":{"contentType":"text/plain","statusCode":"404","messageBody":"not found"}}"#,
            ),
            ("alb.ingress.kubernetes.io/healthcheck-path", "/healthz"),
            (
                "alb.ingress.kubernetes.io/load-balancer-attributes",
                "idle_timeout.timeout_seconds=3600",
            ),
            (
                "alb.ingress.kubernetes.io/target-group-attributes",
                "stickiness.enabled=true,stickiness.type=lb_cookie,stickiness.lb_cookie.duration_seconds=86400",
            ),
        ],
    };
    annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
