//! The ways in from outside: Ingress and HTTPRoute.

use super::Diagnostics;
use super::metadata::is_dns_subdomain;
use crate::api::BytebaseClusterSpec;
use crate::api::spec::{GatewayParentRef, IngressPreset, IngressSpec};
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

/// The HTTPRoute that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidRoute {
    /// Gateways it attaches to.
    pub parents: Vec<GatewayParentRef>,
    /// Host it serves.
    pub host: String,
    /// Longest time of a request.
    pub request_timeout: Option<String>,
    /// The user's own.
    pub annotations: BTreeMap<String, String>,
}

pub(super) fn ingress(
    spec: &BytebaseClusterSpec,
    url: Option<&ExternalUrl>,
    diagnostics: &mut Diagnostics,
) -> Option<ValidIngress> {
    // Who asks for a Gateway and says nothing of an Ingress wants the one, not both.
    if spec.ingress.is_none() && spec.gateway.is_some() {
        return None;
    }
    let default = IngressSpec::default();
    let ingress = spec.ingress.as_ref().unwrap_or(&default);
    let url = url?;
    if !ingress.enabled {
        return None;
    }
    let field = "spec.ingress.host";
    let host = host(
        field,
        ingress.host.as_deref(),
        ingress.allow_host_mismatch,
        url,
        diagnostics,
    )?;
    // An Ingress rule takes names only; an address in the URL means that people come some other
    // way.
    if !is_dns_name(&host) {
        diagnostics.invalid(field, "an Ingress needs a DNS name, lower-case, not an address: set ingress.host, or ingress.enabled to false");
        return None;
    }
    Some(ValidIngress {
        class_name: ingress.class_name.clone(),
        host,
        tls_secret_name: ingress.tls_secret_name.clone(),
        preset: ingress.preset,
        annotations: ingress.annotations.clone(),
    })
}

pub(super) fn route(
    spec: &BytebaseClusterSpec,
    url: Option<&ExternalUrl>,
    diagnostics: &mut Diagnostics,
) -> Option<ValidRoute> {
    let gateway = spec.gateway.as_ref()?;
    if gateway.parent_refs.is_empty() || gateway.parent_refs.len() > 8 {
        diagnostics.invalid(
            "spec.gateway.parentRefs",
            "must name 1 to 8 Gateways that the route attaches to",
        );
    }
    diagnostics.duration(
        "spec.gateway.requestTimeout",
        gateway.request_timeout.as_deref(),
    );
    let field = "spec.gateway.host";
    let host = host(
        field,
        gateway.host.as_deref(),
        gateway.allow_host_mismatch,
        url?,
        diagnostics,
    )?;
    if !is_dns_name(&host) {
        diagnostics.invalid(
            field,
            "an HTTPRoute needs a DNS name, lower-case, not an address: set gateway.host",
        );
        return None;
    }
    Some(ValidRoute {
        parents: gateway.parent_refs.clone(),
        host,
        request_timeout: gateway.request_timeout.clone(),
        annotations: gateway.annotations.clone(),
    })
}

/// The host people come by: that of the URL unless another one is given and meant.
fn host(
    field: &str,
    given: Option<&str>,
    mismatch_allowed: bool,
    url: &ExternalUrl,
    diagnostics: &mut Diagnostics,
) -> Option<String> {
    // Names are the same whatever the case of their letters, and Kubernetes takes the lower one.
    let of_url = url.host().to_ascii_lowercase();
    let Some(given) = given.filter(|given| !given.eq_ignore_ascii_case(&of_url)) else {
        return Some(of_url);
    };
    if !mismatch_allowed {
        diagnostics.invalid(field, format!("is not the host of externalURL ({of_url}): leave it out, or set allowHostMismatch if a proxy in front rewrites the host"));
        return None;
    }
    diagnostics.warn(format!(
        "{field}: differs from the host of externalURL: sign-in redirects lead to the latter"
    ));
    Some(given.to_owned())
}

/// RFC 1123 subdomain whose labels a name server takes, and no address.
fn is_dns_name(host: &str) -> bool {
    is_dns_subdomain(host)
        && host.split('.').all(|label| label.len() <= 63)
        && host.parse::<std::net::IpAddr>().is_err()
}
