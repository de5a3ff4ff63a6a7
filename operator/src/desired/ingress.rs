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
use std::collections::BTreeMap;

/// Paths that must not be reachable from outside: both answer without a login. A longer path wins
/// over `/`.
pub(super) const PRIVATE_PATHS: [&str; 2] = ["/metrics", "/debug"];

/// The Ingress, if wanted.
pub fn ingress(cluster: &ValidCluster) -> Option<DesiredObject> {
    let wanted = cluster.ingress.as_ref()?;
    let mut annotations = preset(wanted.preset);
    annotations.extend(wanted.annotations.clone());
    let name = &cluster.identity.name;
    let http = ServiceBackendPort {
        name: Some("http".to_owned()),
        number: None,
    };
    let nowhere = ServiceBackendPort {
        name: Some(NOWHERE.to_owned()),
        number: None,
    };
    let private = PRIVATE_PATHS.map(|private| path(private, &headless_name(name), nowhere.clone()));
    let paths = private.into_iter().chain([path("/", name, http)]).collect();
    Some(DesiredObject::new(
        Kind::Ingress,
        &Ingress {
            metadata: metadata(cluster, name, &annotations),
            spec: Some(IngressSpec {
                ingress_class_name: wanted.class_name.clone(),
                rules: Some(vec![IngressRule {
                    host: Some(wanted.host.clone()),
                    http: Some(HTTPIngressRuleValue { paths }),
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

fn path(path: &str, service: &str, port: ServiceBackendPort) -> HTTPIngressPath {
    HTTPIngressPath {
        path: Some(path.to_owned()),
        path_type: "Prefix".to_owned(),
        backend: IngressBackend {
            service: Some(IngressServiceBackend {
                name: service.to_owned(),
                port: Some(port),
            }),
            resource: None,
        },
    }
}

/// WebSockets live for an hour, SQL sheets are large, `/mcp` streams, and its sessions are in one
/// replica's memory.
fn preset(preset: IngressPreset) -> BTreeMap<String, String> {
    let annotations: &[(&str, &str)] = match preset {
        IngressPreset::None => &[],
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
    };
    annotations
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}
