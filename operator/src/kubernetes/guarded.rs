//! Objects read one by one, so that one which cannot be read does not take its whole listing along.
//!
//! A page of a listing holds objects of many users, and any of them may have written one that this
//! program cannot read: nested more deeply than its parser goes, a number beyond its types, a word
//! of a newer version.

use k8s_openapi::api::core::v1::{Event, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::DynamicObject;
use kube::core::{PartialObjectMeta, PartialObjectMetaExt as _};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// An object of a listing or a watch.
#[derive(Clone, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it nearly always is the large one"
)]
pub enum Guarded<K> {
    /// It could be read.
    Read(K),
    /// It could not; its name is known.
    Unreadable(ObjectMeta),
}

/// A type whose objects can be read by themselves.
pub trait Readable: DeserializeOwned {
    /// Reads an object from JSON. `None`: nothing of use can be read of it.
    fn read(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }
}

impl Readable for Pod {}
impl Readable for Event {}
impl Readable for DynamicObject {}

/// Metadata alone, without `managedFields`.
impl<K> Readable for PartialObjectMeta<K> {
    fn read(json: &str) -> Option<Self> {
        let metadata = Parts::of(json)?.metadata()?;
        Some(metadata.into_response_partial())
    }
}

/// An object as JSON, part by part.
#[derive(Deserialize)]
pub struct Parts<'a> {
    #[serde(borrow)]
    metadata: BTreeMap<String, &'a RawValue>,
    /// What is wanted.
    #[serde(borrow)]
    pub spec: Option<&'a RawValue>,
    /// What is reported.
    #[serde(borrow)]
    pub status: Option<&'a RawValue>,
}

impl<'a> Parts<'a> {
    /// Splits an object, however deep it is.
    pub fn of(json: &'a str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// Who the object is, without `managedFields`, which repeat the depth of the rest.
    pub fn metadata(mut self) -> Option<ObjectMeta> {
        self.metadata.remove("managedFields");
        let json = serde_json::to_string(&self.metadata).ok()?;
        serde_json::from_str(&json).ok()
    }
}

impl<'de, K: Readable> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = Box::<RawValue>::deserialize(deserializer)?;
        if let Some(object) = K::read(json.get()) {
            return Ok(Self::Read(object));
        }
        Parts::of(json.get())
            .and_then(Parts::metadata)
            .map(Self::Unreadable)
            .ok_or_else(|| D::Error::custom("an object has no metadata"))
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn metadata_api() -> bool {
        K::metadata_api()
    }

    fn kind(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(kind)
    }

    fn group(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::group(kind)
    }

    fn version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::version(kind)
    }

    fn api_version(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::api_version(kind)
    }

    fn plural(kind: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(kind)
    }

    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Read(object) => object.meta(),
            Self::Unreadable(metadata) => metadata,
        }
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(object) => object.meta_mut(),
            Self::Unreadable(metadata) => metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Secret;
    use kube::core::{ObjectList, WatchEvent};
    use serde_json::json;

    /// A list in a list in a list, as deep as that.
    fn nested(depth: usize) -> String {
        "[".repeat(depth) + &"]".repeat(depth)
    }

    fn object(name: &str, depth: usize) -> String {
        let deep = nested(depth);
        format!(
            r#"{{"apiVersion":"example.com/v1","kind":"Thing","metadata":{{"name":"{name}","namespace":"team","resourceVersion":"7","managedFields":[{{"fieldsV1":{{"f:spec":{deep}}}}}]}},"spec":{{"deep":{deep}}}}}"#
        )
    }

    fn names(objects: &[Guarded<DynamicObject>]) -> Vec<(bool, &str)> {
        objects
            .iter()
            .map(|object| {
                let name = object.meta().name.as_deref().unwrap_or_default();
                (matches!(object, Guarded::Read(_)), name)
            })
            .collect()
    }

    #[test]
    fn one_object_that_is_too_deep_leaves_the_others_of_its_listing_readable() {
        let page = format!(
            r#"{{"apiVersion":"v1","kind":"List","metadata":{{"resourceVersion":"9"}},"items":[{},{},{}]}}"#,
            object("first", 3),
            object("deep", 5000),
            object("last", 3)
        );
        assert!(serde_json::from_str::<ObjectList<DynamicObject>>(&page).is_err());
        let page: ObjectList<Guarded<DynamicObject>> = serde_json::from_str(&page).unwrap();
        let expected = [(true, "first"), (false, "deep"), (true, "last")];
        assert_eq!(names(&page.items), expected);
        assert_eq!(
            page.items[1].meta().resource_version.as_deref(),
            Some("7"),
            "a watch goes on from here"
        );
    }

    #[test]
    fn an_event_of_a_watch_is_read_in_the_same_way() {
        let line = format!(r#"{{"type":"MODIFIED","object":{}}}"#, object("deep", 5000));
        let WatchEvent::Modified(found) =
            serde_json::from_str::<WatchEvent<Guarded<DynamicObject>>>(&line).unwrap()
        else {
            panic!("{line}");
        };
        assert_eq!(names(&[found]), [(false, "deep")]);
    }

    #[test]
    fn metadata_are_read_whatever_the_depth_of_their_managed_fields() {
        type Metadata = Guarded<PartialObjectMeta<Secret>>;
        let page = format!(
            r#"{{"apiVersion":"meta.k8s.io/v1","kind":"PartialObjectMetadataList","metadata":{{"resourceVersion":"9"}},"items":[{},{}]}}"#,
            object("first", 3),
            object("deep", 5000),
        );
        let page: ObjectList<Metadata> = serde_json::from_str(&page).unwrap();
        for (item, name) in page.items.iter().zip(["first", "deep"]) {
            assert!(matches!(item, Guarded::Read(_)), "{name}");
            assert_eq!(item.meta().name.as_deref(), Some(name));
            assert_eq!(item.meta().managed_fields, None, "{name}");
        }
        assert!(Metadata::metadata_api(), "no value is asked for");
        assert!(!Guarded::<Secret>::metadata_api());
    }

    #[test]
    fn what_is_not_an_object_is_an_error() {
        for json in [json!([]), json!(7), json!({"metadata": 7})] {
            let text = json.to_string();
            assert!(serde_json::from_str::<Guarded<Pod>>(&text).is_err());
        }
    }
}
