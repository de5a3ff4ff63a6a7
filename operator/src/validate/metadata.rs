//! Labels and annotations that the user puts on the objects of a cluster.

use super::Diagnostics;
use crate::api::BytebaseClusterSpec;
use std::collections::BTreeMap;

/// Labels that the operator selects its objects by, beside those of [`OWN_DOMAIN`].
const OWN_LABELS: [&str; 3] = [
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
    "app.kubernetes.io/name",
];
/// Keys in this domain are the operator's.
const OWN_DOMAIN: &str = "bytebase.com";
/// Bytes that the keys and values of all annotations of one object may have.
const MOST_ANNOTATIONS: usize = 256 * 1024;

/// Labels and annotations of every object of a cluster; its pods have their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidMetadata {
    /// The labels.
    pub labels: Labels,
    /// The annotations.
    pub annotations: Annotations,
}

/// Labels that the API server takes, none of which is the operator's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(BTreeMap<String, String>);

/// Annotations that the API server takes, none of which is the operator's own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations(BTreeMap<String, String>);

/// Why labels or annotations cannot be used. Keys are quoted where they are short enough to be
/// read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// The key is one of the operator's.
    #[error("{0} is the operator's: choose another key")]
    Reserved(String),
    /// The key has another form.
    #[error(
        "the key {} must be a name of at most 63 letters, digits, '-', '_' and '.', which begins and ends with a letter or digit, after an optional DNS name and '/'",
        quoted(.0)
    )]
    Key(String),
    /// The value has another form.
    #[error(
        "the value of {0} must be empty or at most 63 letters, digits, '-', '_' and '.', and begin and end with a letter or digit"
    )]
    Value(String),
    /// There is too much of it.
    #[error("may have at most 256 KiB in all: shorten the values, or leave some out")]
    TooLong,
}

impl Labels {
    fn parse(given: &BTreeMap<String, String>) -> Result<Self, MetadataError> {
        labels(given)?;
        match given.keys().find(|key| is_own_label(key)) {
            Some(key) => Err(MetadataError::Reserved(key.clone())),
            None => Ok(Self(given.clone())),
        }
    }

    /// By their keys.
    pub fn by_key(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

impl Annotations {
    fn parse(given: &BTreeMap<String, String>) -> Result<Self, MetadataError> {
        annotations(given)?;
        let is_own = |key: &&String| is_in_own_domain(&key.to_lowercase());
        match given.keys().find(is_own) {
            Some(key) => Err(MetadataError::Reserved(key.clone())),
            None => Ok(Self(given.clone())),
        }
    }

    /// By their keys.
    pub fn by_key(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// Whether the API server takes these as labels, whosever they are.
fn labels(given: &BTreeMap<String, String>) -> Result<(), MetadataError> {
    for (key, value) in given {
        if !is_qualified_name(key) {
            return Err(MetadataError::Key(key.clone()));
        }
        if !(value.is_empty() || is_name(value)) {
            return Err(MetadataError::Value(key.clone()));
        }
    }
    Ok(())
}

/// Whether the API server takes these as annotations, whosever they are.
fn annotations(given: &BTreeMap<String, String>) -> Result<(), MetadataError> {
    // Of annotations, unlike labels, it takes capitals in the domain as well.
    let is_odd = |key: &&String| !is_qualified_name(&key.to_lowercase());
    if let Some(key) = given.keys().find(is_odd) {
        return Err(MetadataError::Key(key.clone()));
    }
    let size = |(key, value): (&String, &String)| key.len() + value.len();
    if given.iter().map(size).sum::<usize>() > MOST_ANNOTATIONS {
        return Err(MetadataError::TooLong);
    }
    Ok(())
}

pub(super) fn validate(spec: &BytebaseClusterSpec, diagnostics: &mut Diagnostics) -> ValidMetadata {
    of_single_objects(spec, diagnostics);
    diagnostics.parsed("spec.podLabels", Labels::parse(&spec.pod_labels));
    let of_pods = Annotations::parse(&spec.pod_annotations);
    diagnostics.parsed("spec.podAnnotations", of_pods);
    let labels = diagnostics.parsed("spec.labels", Labels::parse(&spec.labels));
    let annotations = Annotations::parse(&spec.annotations);
    ValidMetadata {
        labels: labels.unwrap_or_default(),
        annotations: diagnostics
            .parsed("spec.annotations", annotations)
            .unwrap_or_default(),
    }
}

/// Labels and annotations of one object each. The API server would refuse the whole object.
fn of_single_objects(spec: &BytebaseClusterSpec, diagnostics: &mut Diagnostics) {
    let monitoring = spec.monitoring.as_ref();
    let monitor = monitoring.and_then(|monitoring| monitoring.service_monitor.as_ref());
    for (field, given) in [
        ("spec.nodeSelector", Some(&spec.node_selector)),
        (
            "spec.monitoring.serviceMonitor.labels",
            monitor.map(|monitor| &monitor.labels),
        ),
    ] {
        diagnostics.parsed(field, given.map_or(Ok(()), labels));
    }
    for (field, given) in [
        (
            "spec.service.annotations",
            spec.service.as_ref().map(|service| &service.annotations),
        ),
        (
            "spec.serviceAccount.annotations",
            spec.service_account
                .as_ref()
                .map(|account| &account.annotations),
        ),
        (
            "spec.ingress.annotations",
            spec.ingress.as_ref().map(|ingress| &ingress.annotations),
        ),
        (
            "spec.gateway.annotations",
            spec.gateway.as_ref().map(|gateway| &gateway.annotations),
        ),
    ] {
        diagnostics.parsed(field, given.map_or(Ok(()), annotations));
    }
}

/// Whether a label is one of the operator's.
pub fn is_own_label(key: &str) -> bool {
    OWN_LABELS.contains(&key) || is_in_own_domain(key)
}

/// Whether a key is in the operator's domain.
pub fn is_in_own_domain(key: &str) -> bool {
    key.split_once('/').is_some_and(|(domain, _)| {
        domain
            .strip_suffix(OWN_DOMAIN)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

/// A key as Kubernetes takes it: `team`, `example.com/team`.
pub(super) fn is_qualified_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((domain, name)) => is_dns_subdomain(domain) && is_name(name),
        None => is_name(text),
    }
}

/// RFC 1123 subdomain.
pub(super) fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            !label.is_empty()
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(fits)
        })
}

fn is_name(text: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 63
        && text.starts_with(is_alphanumeric)
        && text.ends_with(is_alphanumeric)
        && text
            .chars()
            .all(|c| is_alphanumeric(c) || "-_.".contains(c))
}

/// A key as it can be shown.
fn quoted(key: &str) -> String {
    let shown: String = key.chars().take(80).collect();
    if shown.len() < key.len() {
        format!("{shown:?}…")
    } else {
        format!("{shown:?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(key: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(key.to_owned(), value.to_owned())])
    }

    #[test]
    fn labels_and_annotations_that_kubernetes_takes_are_taken() {
        let longest = "a".repeat(63);
        for (key, value) in [
            ("team", "data"),
            ("team", ""),
            ("Team_1.x-y", "A.b_c-9"),
            ("example.com/team", &longest),
            (&longest, "x"),
            ("app.kubernetes.io/part-of", "platform"),
            ("app.kubernetes.io/component", "database"),
            ("notbytebase.com/team", "x"),
        ] {
            let given = one(key, value);
            assert_eq!(Labels::parse(&given).unwrap().by_key(), &given);
            assert_eq!(Annotations::parse(&given).unwrap().by_key(), &given);
        }
        // Values of annotations are free, and so are capitals in their domains.
        for (key, value) in [("Example.COM/Team", "x"), ("a", "{\"b\": \"ü\"}\n")] {
            let given = one(key, value);
            assert!(Labels::parse(&given).is_err(), "{key}");
            assert_eq!(Annotations::parse(&given).unwrap().by_key(), &given);
        }
    }

    #[test]
    fn keys_of_another_form_are_refused() {
        let long = "a".repeat(64);
        let long_domain = format!("{}a/b", "a.".repeat(127));
        for key in [
            "",
            "/",
            "a/",
            "/a",
            "a/b/c",
            "-a",
            "a-",
            "a b",
            "ü",
            "a..b/c",
            "-a/b",
            "a_b/c",
            &long,
            &long_domain,
        ] {
            let expected = MetadataError::Key(key.to_owned());
            assert_eq!(Labels::parse(&one(key, "x")).as_ref(), Err(&expected));
            assert_eq!(Annotations::parse(&one(key, "x")).as_ref(), Err(&expected));
        }
        let shown = MetadataError::Key("k".repeat(1_000_000)).to_string();
        assert!(shown.len() < 400, "{shown}");
    }

    #[test]
    fn values_of_labels_have_a_form() {
        let long = "a".repeat(64);
        for value in ["-a", "a.", "a b", "a/b", "ü", &long] {
            let expected = Err(MetadataError::Value("a".to_owned()));
            assert_eq!(Labels::parse(&one("a", value)), expected, "{value}");
        }
    }

    #[test]
    fn keys_of_the_operator_are_refused() {
        for key in [
            "app.kubernetes.io/name",
            "app.kubernetes.io/instance",
            "app.kubernetes.io/managed-by",
            "bytebase.com/cluster",
            "bytebase.com/service",
            "x.bytebase.com/y",
        ] {
            let expected = Err(MetadataError::Reserved(key.to_owned()));
            assert_eq!(Labels::parse(&one(key, "x")), expected, "{key}");
        }
        for key in ["bytebase.com/applied-hash", "Bytebase.com/x"] {
            let expected = Err(MetadataError::Reserved(key.to_owned()));
            assert_eq!(Annotations::parse(&one(key, "x")), expected, "{key}");
        }
    }

    #[test]
    fn annotations_fit_into_an_object() {
        let fits = one("a", &"x".repeat(MOST_ANNOTATIONS - 1));
        assert!(Annotations::parse(&fits).is_ok());
        let exceeds = one("a", &"x".repeat(MOST_ANNOTATIONS));
        assert_eq!(Annotations::parse(&exceeds), Err(MetadataError::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(key in ".*", value in ".*") {
            let _ = Labels::parse(&one(&key, &value));
            let _ = Annotations::parse(&one(&key, &value));
        }
    }
}
