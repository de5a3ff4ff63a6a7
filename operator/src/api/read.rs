//! Reads a `BytebaseCluster` as the API server holds it, field by field where it cannot be read as
//! a whole.
//!
//! What another version of the operator, or another user, has written must not keep this one from
//! serving the rest: a field of the spec that cannot be read makes the spec invalid and is named in
//! status, and a field of the status counts as absent.

use super::{BytebaseCluster, BytebaseClusterSpec};
use crate::kubernetes::Readable;
use crate::kubernetes::guarded::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// A field of the spec that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableField {
    /// Its path, as far as it is known, such as `spec.tolerations[0].tolerationSeconds`.
    pub path: String,
    /// Why; never what stands there.
    pub message: &'static str,
}

/// What a spec cannot do without, in the least form that can be read.
const REQUIRED: [(&str, &str); 3] = [
    ("database", "{}"),
    ("externalURL", r#""""#),
    ("version", r#""""#),
];
/// Longest spec that is read, in bytes of JSON: as a tree in memory it takes many times as much,
/// and a thousand clusters share that memory.
const LONGEST_SPEC: usize = 64 * 1024;
/// Longest path that is shown.
const LONGEST_PATH: usize = 200;

const TOO_DEEP: &str =
    "is nested more deeply than the operator reads, which is 128 levels: make it flatter";
const TOO_LONG: &str =
    "makes the spec longer than the operator reads, which is 64 KiB of JSON: make it shorter";
const NOT_UNDERSTOOD: &str = "holds something that this version of the operator cannot read: a number that is too large, or a word or form of another version";
const MISSING: &str = "is missing";

impl Readable for BytebaseCluster {
    fn read(json: &str) -> Option<Self> {
        let parts = Parts::of(json)?;
        let spec = parts.spec.map_or("{}", RawValue::get);
        if spec.len() <= LONGEST_SPEC
            && let Ok(cluster) = serde_json::from_str(json)
        {
            return Some(cluster);
        }
        let spec = read_spec(spec)?;
        let status = parts.status.map(RawValue::get);
        let status = status.and_then(|json| serde_json::from_str(json).ok());
        Some(Self {
            metadata: parts.metadata()?,
            spec,
            status,
        })
    }
}

/// The fields that can be read, and the names of those that cannot.
fn read_spec(json: &str) -> Option<BytebaseClusterSpec> {
    let given: BTreeMap<&str, &RawValue> = serde_json::from_str(json).ok()?;
    let mut readable = BTreeMap::new();
    for (name, least) in REQUIRED {
        readable.insert(name, serde_json::from_str::<&RawValue>(least).ok()?);
    }
    let least = readable.clone();
    let too_long = too_long(json.len(), &given);
    let mut unreadable = Vec::new();
    for (name, _) in REQUIRED {
        if !given.contains_key(name) {
            unreadable.push(UnreadableField {
                path: format!("spec.{name}"),
                message: MISSING,
            });
        }
    }
    for (name, value) in given {
        if too_long.contains(name) {
            unreadable.push(UnreadableField {
                path: format!("spec.{name}"),
                message: TOO_LONG,
            });
            continue;
        }
        let mut alone = least.clone();
        alone.insert(name, value);
        match parse(&alone) {
            Ok(_) => {
                readable.insert(name, value);
            }
            Err(error) => unreadable.push(unreadable_field(name, &error)),
        }
    }
    let mut spec = parse(&readable).ok()?;
    spec.unreadable = unreadable;
    Some(spec)
}

/// The longest fields, without which the rest of a spec of so many bytes is short enough.
fn too_long<'a>(mut length: usize, given: &BTreeMap<&'a str, &RawValue>) -> BTreeSet<&'a str> {
    let fields = given.iter().map(|(name, value)| (value.get().len(), *name));
    let mut fields: Vec<_> = fields.collect();
    fields.sort_unstable_by(|one, other| other.cmp(one));
    let mut too_long = BTreeSet::new();
    for (bytes, name) in fields {
        if length <= LONGEST_SPEC {
            break;
        }
        length -= bytes;
        too_long.insert(name);
    }
    too_long
}

type ParseError = serde_path_to_error::Error<serde_json::Error>;

fn parse(fields: &BTreeMap<&str, &RawValue>) -> Result<BytebaseClusterSpec, ParseError> {
    // Names and JSON make JSON.
    let json = serde_json::to_string(fields).unwrap_or_default();
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(&json))
}

/// The texts of the parser may quote what they read, so they stay here.
fn unreadable_field(name: &str, error: &ParseError) -> UnreadableField {
    let text = error.inner().to_string();
    let (path, message) = if text.starts_with("recursion limit exceeded") {
        // The path would be as deep.
        (name.to_owned(), TOO_DEEP)
    } else {
        let path = error.path().to_string();
        let is_inside = path.starts_with(name) && path.len() <= LONGEST_PATH;
        let path = if is_inside { path } else { name.to_owned() };
        (path, NOT_UNDERSTOOD)
    };
    UnreadableField {
        path: format!("spec.{path}"),
        message,
    }
}

/// A value that counts as absent where it cannot be read.
pub(super) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned + Default,
{
    let value = Value::deserialize(deserializer)?;
    Ok(serde_json::from_value(value).unwrap_or_default())
}

/// A list without the items that cannot be read.
pub(super) fn readable_items<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: DeserializeOwned,
{
    let Value::Array(items) = Value::deserialize(deserializer)? else {
        return Ok(Vec::new());
    };
    let items = items.into_iter();
    Ok(items
        .filter_map(|item| serde_json::from_value(item).ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::BytebaseClusterStatus;
    use crate::api::status::{HeartbeatState, LicenseSource, Phase};
    use serde_json::json;

    fn read(spec: &str) -> BytebaseCluster {
        let json = format!(
            r#"{{"apiVersion":"bytebase.com/v1alpha1","kind":"BytebaseCluster","metadata":{{"name":"demo","namespace":"team","uid":"u","generation":3}},"spec":{spec},"status":{{"phase":"Ready","schemaVersion":"3.21.5"}}}}"#
        );
        BytebaseCluster::read(&json).unwrap()
    }

    fn unreadable(spec: &BytebaseClusterSpec) -> Vec<(&str, &str)> {
        spec.unreadable
            .iter()
            .map(|field| (field.path.as_str(), field.message))
            .collect()
    }

    const REST: &str = r#""version":"3.21.1","externalURL":"https://b.example.com","replicas":3,"database":{"url":"postgres://h/d"},"license":{"enforcement":"Warn"}"#;

    #[test]
    fn a_spec_of_this_version_is_read_as_it_is() {
        let cluster = read(&format!("{{{REST}}}"));
        assert_eq!(unreadable(&cluster.spec), []);
        assert_eq!(cluster.metadata.generation, Some(3));
    }

    #[test]
    fn a_field_that_cannot_be_read_is_named_and_the_rest_is_kept() {
        let deep = "[".repeat(140) + &"]".repeat(140);
        let cases = [
            (
                format!(r#""podTemplate":{{"spec":{deep}}}"#),
                ("spec.podTemplate", TOO_DEEP),
            ),
            (
                r#""topologySpreadConstraints":[{"maxSkew":99999999999,"topologyKey":"k","whenUnsatisfiable":"w"}]"#.to_owned(),
                ("spec.topologySpreadConstraints[0].maxSkew", NOT_UNDERSTOOD),
            ),
            (
                r#""image":{"pullPolicy":"Sometimes"}"#.to_owned(),
                ("spec.image.pullPolicy", NOT_UNDERSTOOD),
            ),
        ];
        for (field, expected) in cases {
            let cluster = read(&format!("{{{REST},{field}}}"));
            assert_eq!(unreadable(&cluster.spec), [expected]);
            assert_eq!(cluster.spec.replicas, 3, "{field}");
            assert_eq!(cluster.spec.database.url.as_deref(), Some("postgres://h/d"));
            let status = cluster.status.unwrap();
            assert_eq!(status.schema_version.as_deref(), Some("3.21.5"));
        }
    }

    #[test]
    fn of_a_spec_that_is_too_long_the_longest_fields_are_named_and_the_rest_is_kept() {
        let value = |bytes: usize| "x".repeat(bytes);
        let template = |bytes| format!(r#""podTemplate":{{"metadata":"{}"}}"#, value(bytes));
        let env = |bytes| format!(r#""env":[{{"name":"A","value":"{}"}}]"#, value(bytes));
        for (fields, expected) in [
            (template(60 * 1024), &[][..]),
            (template(65 * 1024), &["spec.podTemplate"][..]),
            // Neither is too long by itself.
            (
                format!("{},{}", template(40 * 1024), env(30 * 1024)),
                &["spec.podTemplate"][..],
            ),
            (
                format!("{},{}", template(900 * 1024), env(500 * 1024)),
                &["spec.env", "spec.podTemplate"][..],
            ),
        ] {
            let cluster = read(&format!("{{{REST},{fields}}}"));
            let expected: Vec<_> = expected.iter().map(|path| (*path, TOO_LONG)).collect();
            assert_eq!(unreadable(&cluster.spec), expected);
            assert_eq!(cluster.spec.replicas, 3);
            let is_named = expected.contains(&("spec.podTemplate", TOO_LONG));
            assert_eq!(cluster.spec.pod_template.is_none(), is_named);
        }
    }

    #[test]
    fn a_required_field_may_be_missing_or_of_another_form() {
        let cluster = read(r#"{"version":{"major":4},"database":{"url":"postgres://h/d"}}"#);
        assert_eq!(
            unreadable(&cluster.spec),
            [
                ("spec.externalURL", MISSING),
                ("spec.version", NOT_UNDERSTOOD)
            ]
        );
    }

    #[test]
    fn no_message_quotes_the_spec() {
        let spec = format!("{{{REST}}}").replace(r#""replicas":3"#, r#""replicas":"pl4nted""#);
        let cluster = read(&spec);
        let shown = format!("{:?}", cluster.spec.unreadable);
        assert!(
            shown.contains("spec.replicas") && !shown.contains("pl4nted"),
            "{shown}"
        );
    }

    #[test]
    fn a_status_of_another_version_is_read_as_far_as_it_is_understood() {
        let status: BytebaseClusterStatus = serde_json::from_value(json!({
            "phase": "Hibernating", "schemaVersion": "9.1.0",
            "license": {"ha": true, "plan": "ENTERPRISE", "source": "Vault", "signature": 7},
            "replicaStatuses": [
                {"pod": "demo-0", "heartbeat": "Sleepy"}, {"heartbeat": "Fresh"}, 7,
            ],
            "rollout": {"waitingFor": {"what": "Drain"}},
            "conditions": [
                {"type": "Ready"},
                {"type": "New", "status": "True", "reason": "Newer", "message": "", "lastTransitionTime": "2026-06-01T00:00:00Z"},
            ],
        }))
        .unwrap();
        assert_eq!(status.phase, None::<Phase>);
        assert_eq!(status.schema_version.as_deref(), Some("9.1.0"));
        let license = status.license.unwrap();
        assert!(license.ha && license.source == LicenseSource::Database);
        let [replica] = &status.replica_statuses[..] else {
            panic!("{:?}", status.replica_statuses);
        };
        assert_eq!(replica.heartbeat, HeartbeatState::Unknown);
        assert_eq!(status.rollout, None);
        assert_eq!(status.conditions.len(), 1);
    }
}
