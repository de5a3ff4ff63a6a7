//! The Ingress of a cluster.

use super::Findings;
use crate::api::spec::{IngressPreset, IngressSpec};
use crate::contract::external_url::ExternalUrl;
use std::collections::BTreeMap;

/// The Ingress that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidIngress {
    /// Class, or the cluster's default.
    pub class_name: Option<String>,
    /// Host of the rule.
    pub host: String,
    /// Secret with the certificate.
    pub tls_secret_name: Option<String>,
    /// Whose annotations.
    pub preset: IngressPreset,
    /// The user's own.
    pub annotations: BTreeMap<String, String>,
}

pub(super) fn validate(
    spec: Option<&IngressSpec>,
    url: Option<&ExternalUrl>,
    findings: &mut Findings,
) -> Option<ValidIngress> {
    let default = IngressSpec::default();
    let IngressSpec {
        enabled,
        class_name,
        host,
        allow_host_mismatch,
        tls_secret_name,
        preset,
        annotations,
    } = spec.unwrap_or(&default);
    let url = url?;
    if !enabled {
        return None;
    }
    let of_url = url.host();
    if host.as_deref().is_some_and(|host| host != of_url) {
        if !allow_host_mismatch {
            findings.invalid("spec.ingress.host", format!("is not the host of externalURL ({of_url}): leave it out, or set allowHostMismatch if a proxy in front rewrites the host"));
            return None;
        }
        findings.warn("spec.ingress.host: differs from the host of externalURL: sign-in redirects lead to the latter");
    }
    let host = host.clone().unwrap_or_else(|| of_url.to_owned());
    // An Ingress rule takes names only; an address in the URL means that people come some other way.
    if host.parse::<std::net::IpAddr>().is_ok() || !is_dns_name(&host) {
        findings.invalid("spec.ingress.host", "an Ingress needs a DNS name, lower-case, not an address: set ingress.host, or ingress.enabled to false");
        return None;
    }
    Some(ValidIngress {
        class_name: class_name.clone(),
        host,
        tls_secret_name: tls_secret_name.clone(),
        preset: *preset,
        annotations: annotations.clone(),
    })
}

/// RFC 1123 subdomain.
fn is_dns_name(host: &str) -> bool {
    host.len() <= 253
        && host.split('.').all(|label| {
            !label.is_empty()
                && label.len() <= 63
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        })
}
