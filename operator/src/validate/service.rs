//! The client Service: what its type allows, and its IP families.

use super::Diagnostics;
use super::metadata::is_qualified_name;
use crate::api::spec::{IpFamily, IpFamilyPolicy, ServiceSpec, ServiceType, TrafficPolicy};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

/// Most address ranges that a load balancer may be limited to.
const MOST_RANGES: usize = 64;

/// The client Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidService {
    /// From where it can be reached.
    pub reach: ServiceReach,
    /// Its port.
    pub port: i32,
    /// Its IP families.
    pub families: IpFamilies,
    /// Which replicas get traffic from inside; `None`: what Kubernetes takes by itself.
    pub internal_traffic: Option<TrafficPolicy>,
    /// The user's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// From where a Service can be reached, with what only that kind of Service has. Of traffic from
/// outside, `None` is what Kubernetes takes by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceReach {
    /// From inside the Kubernetes cluster.
    Inside,
    /// At a port of every node.
    Nodes {
        /// Which replicas get traffic from outside.
        external_traffic: Option<TrafficPolicy>,
    },
    /// By a load balancer.
    Balanced {
        /// Who makes it; `None`: the cloud's own.
        class: Option<LoadBalancerClass>,
        /// Who is let in; empty: everyone.
        sources: Vec<Cidr>,
        /// Which replicas get traffic from outside.
        external_traffic: Option<TrafficPolicy>,
    },
}

/// Name of an implementation of load balancers, such as `service.k8s.aws/nlb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadBalancerClass(String);

impl LoadBalancerClass {
    /// As the API server takes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The IP families of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IpFamilies {
    /// Those that it has; those of the Kubernetes cluster for a new one.
    Unsaid,
    /// One; `None`: the first of the Kubernetes cluster.
    One(Option<IpFamily>),
    /// Two.
    Two {
        /// Whether one will do where the Kubernetes cluster has no other.
        policy: DualStack,
        /// The first; `None`: the first of the Kubernetes cluster.
        first: Option<IpFamily>,
    },
}

/// Whether a Service must have two IP families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DualStack {
    /// One will do.
    Preferred,
    /// It must.
    Required,
}

/// What is wrong with IP families: the field, and what to do.
type WrongFamilies = (&'static str, &'static str);

impl IpFamilies {
    fn parse(families: &[IpFamily], policy: Option<IpFamilyPolicy>) -> Result<Self, WrongFamilies> {
        let two = match policy {
            None | Some(IpFamilyPolicy::SingleStack) => None,
            Some(IpFamilyPolicy::PreferDualStack) => Some(DualStack::Preferred),
            Some(IpFamilyPolicy::RequireDualStack) => Some(DualStack::Required),
        };
        match (families, two) {
            ([], None) if policy.is_none() => Ok(Self::Unsaid),
            ([], None) => Ok(Self::One(None)),
            ([], Some(policy)) => Ok(Self::Two {
                policy,
                first: None,
            }),
            ([one], None) => Ok(Self::One(Some(*one))),
            // The API server would add the other one, and refuse the list without it from then on.
            ([_], Some(_)) => Err((
                "ipFamilies",
                "names one family, and ipFamilyPolicy asks for two: name both, the first one first, or leave ipFamilies out",
            )),
            ([one, other], _) if one == other => {
                Err(("ipFamilies", "has the same family twice: name each once"))
            }
            ([first, _], Some(policy)) => Ok(Self::Two {
                policy,
                first: Some(*first),
            }),
            ([_, _], None) => Err((
                "ipFamilyPolicy",
                "must be PreferDualStack or RequireDualStack for two families: set it, or name one family in ipFamilies",
            )),
            _ => Err(("ipFamilies", "may have at most 2 entries: IPv4 and IPv6")),
        }
    }
}

/// A range of addresses, such as `192.0.2.0/24`: the address has no bit behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

/// Why a text is no range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It is something else.
    #[error("must be a range of addresses such as 192.0.2.0/24 or 2001:db8::/32")]
    Form,
    /// An IPv4 range in the form of an IPv6 one.
    #[error("must not be an IPv4 range written as IPv6: write {0}")]
    Mapped(IpAddr),
    /// The address has bits behind the prefix.
    #[error("has bits behind its prefix: write {0} for the whole range")]
    HostBits(Cidr),
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = text.split_once('/').ok_or(CidrError::Form)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError::Form)?;
        let is_plain = prefix.bytes().all(|b| b.is_ascii_digit())
            && (prefix == "0" || !prefix.starts_with('0'));
        let prefix: u8 = prefix.parse().map_err(|_| CidrError::Form)?;
        let (bits, network) = match address {
            IpAddr::V4(address) => (32, {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.into()));
                IpAddr::from((address.to_bits() & mask.unwrap_or(0)).to_be_bytes())
            }),
            IpAddr::V6(address) => {
                if let Some(mapped) = address.to_ipv4_mapped() {
                    return Err(CidrError::Mapped(mapped.into()));
                }
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into()));
                let network = address.to_bits() & mask.unwrap_or(0);
                (128, IpAddr::from(network.to_be_bytes()))
            }
        };
        if !is_plain || prefix > bits {
            return Err(CidrError::Form);
        }
        if network != address {
            let address = network;
            return Err(CidrError::HostBits(Self { address, prefix }));
        }
        Ok(Self { address, prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

pub(super) fn validate(spec: Option<&ServiceSpec>, diagnostics: &mut Diagnostics) -> ValidService {
    let default = ServiceSpec::default();
    let spec = spec.unwrap_or(&default);
    let families = IpFamilies::parse(&spec.ip_families, spec.ip_family_policy);
    let families = families.unwrap_or_else(|(field, message)| {
        diagnostics.invalid(&format!("spec.service.{field}"), message);
        IpFamilies::Unsaid
    });
    ValidService {
        reach: reach(spec, diagnostics),
        port: diagnostics.number("spec.service.port", spec.port, 80, 1..=65_535),
        families,
        internal_traffic: spec.internal_traffic_policy,
        annotations: spec.annotations.clone(),
    }
}

fn reach(spec: &ServiceSpec, diagnostics: &mut Diagnostics) -> ServiceReach {
    let type_ = spec.type_.unwrap_or(ServiceType::ClusterIP);
    let is_balanced = type_ == ServiceType::LoadBalancer;
    for (field, is_given, fits, types) in [
        (
            "loadBalancerClass",
            spec.load_balancer_class.is_some(),
            is_balanced,
            "LoadBalancer",
        ),
        (
            "loadBalancerSourceRanges",
            !spec.load_balancer_source_ranges.is_empty(),
            is_balanced,
            "LoadBalancer",
        ),
        (
            "externalTrafficPolicy",
            spec.external_traffic_policy.is_some(),
            type_ != ServiceType::ClusterIP,
            "NodePort or LoadBalancer",
        ),
    ] {
        if is_given && !fits {
            diagnostics.invalid(
                &format!("spec.service.{field}"),
                format!("belongs to a Service of type {types}, and this one is of type {}: set spec.service.type, or leave the field out", type_.as_ref()),
            );
        }
    }
    let external_traffic = spec.external_traffic_policy;
    match type_ {
        ServiceType::ClusterIP => ServiceReach::Inside,
        ServiceType::NodePort => ServiceReach::Nodes { external_traffic },
        ServiceType::LoadBalancer => ServiceReach::Balanced {
            class: class(spec.load_balancer_class.as_deref(), diagnostics),
            sources: sources(&spec.load_balancer_source_ranges, diagnostics),
            external_traffic,
        },
    }
}

fn class(given: Option<&str>, diagnostics: &mut Diagnostics) -> Option<LoadBalancerClass> {
    let given = given?;
    if !is_qualified_name(given) {
        diagnostics.invalid(
            "spec.service.loadBalancerClass",
            "must be the name of a class, such as service.k8s.aws/nlb: an optional DNS name and '/', then at most 63 letters, digits, '-', '_' and '.'",
        );
        return None;
    }
    Some(LoadBalancerClass(given.to_owned()))
}

fn sources(given: &[String], diagnostics: &mut Diagnostics) -> Vec<Cidr> {
    let field = "spec.service.loadBalancerSourceRanges";
    if given.len() > MOST_RANGES {
        diagnostics.invalid(field, format!("may have at most {MOST_RANGES} entries"));
    }
    let parse = |(index, text): (usize, &String)| {
        diagnostics.parsed(&format!("{field}[{index}]"), text.parse())
    };
    given
        .iter()
        .enumerate()
        .take(MOST_RANGES)
        .filter_map(parse)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_of_addresses_are_read_and_written_the_same() {
        for text in [
            "0.0.0.0/0",
            "10.0.0.0/8",
            "192.0.2.7/32",
            "192.0.2.128/25",
            "::/0",
            "2001:db8::/32",
            "2001:db8::1/128",
        ] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_range_of_addresses_is_refused() {
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/08",
            "10.0.0.0/-1",
            "10.0.0.0/300",
            "10.0.0.0/8/8",
            " 10.0.0.0/8",
            "010.0.0.0/8",
            "10.0/16",
            "example.com/8",
            "2001:db8::/129",
            "[2001:db8::]/32",
            "fe80::%eth0/64",
        ] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Form), "{text}");
        }
        for (text, range) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1/0", "0.0.0.0/0"),
            ("2001:db8::1/64", "2001:db8::/64"),
        ] {
            let error = text.parse::<Cidr>().unwrap_err();
            assert_eq!(error, CidrError::HostBits(range.parse().unwrap()));
            assert!(error.to_string().contains(range), "{error}");
        }
        let mapped = "::ffff:192.0.2.0/120".parse::<Cidr>().unwrap_err();
        assert_eq!(mapped, CidrError::Mapped("192.0.2.0".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[0-9a-f:./]{0,24}") {
            if let Ok(range) = text.parse::<Cidr>() {
                prop_assert_eq!(range.to_string().parse(), Ok(range));
            }
        }
    }

    #[test]
    fn families_and_their_policy_agree() {
        use IpFamily::{IPv4, IPv6};
        use IpFamilyPolicy::{PreferDualStack, RequireDualStack, SingleStack};
        let two = |policy, first| IpFamilies::Two { policy, first };
        for (families, policy, expected) in [
            (&[][..], None, Ok(IpFamilies::Unsaid)),
            (&[], Some(SingleStack), Ok(IpFamilies::One(None))),
            (
                &[],
                Some(PreferDualStack),
                Ok(two(DualStack::Preferred, None)),
            ),
            (
                &[],
                Some(RequireDualStack),
                Ok(two(DualStack::Required, None)),
            ),
            (&[IPv4], None, Ok(IpFamilies::One(Some(IPv4)))),
            (&[IPv6], Some(SingleStack), Ok(IpFamilies::One(Some(IPv6)))),
            (&[IPv6], Some(PreferDualStack), Err("ipFamilies")),
            (&[IPv4], Some(RequireDualStack), Err("ipFamilies")),
            (&[IPv4, IPv6], None, Err("ipFamilyPolicy")),
            (&[IPv4, IPv6], Some(SingleStack), Err("ipFamilyPolicy")),
            (
                &[IPv6, IPv4],
                Some(PreferDualStack),
                Ok(two(DualStack::Preferred, Some(IPv6))),
            ),
            (
                &[IPv4, IPv6],
                Some(RequireDualStack),
                Ok(two(DualStack::Required, Some(IPv4))),
            ),
            (&[IPv4, IPv4], Some(RequireDualStack), Err("ipFamilies")),
            (
                &[IPv4, IPv6, IPv4],
                Some(RequireDualStack),
                Err("ipFamilies"),
            ),
        ] {
            let found = IpFamilies::parse(families, policy).map_err(|(field, _)| field);
            assert_eq!(found, expected, "{families:?} {policy:?}");
        }
    }
}
