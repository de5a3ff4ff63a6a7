//! Which objects are a cluster's.

use super::{CLUSTER_LABEL, MANAGED_BY};
use crate::api::BytebaseCluster;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt};

/// Annotation with a hash of what was applied: shows that a field was taken back, which its absence
/// from the desired object cannot, and that an operator wrote the object.
pub const HASH_ANNOTATION: &str = "bytebase.com/applied-hash";

/// A cluster as the owner of its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Uid of the custom resource.
    pub uid: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl Owner<'_> {
    /// Whether an object is this cluster's: it controls the object, or that has no owner and an
    /// operator wrote it for a cluster of this name. Such a one was restored from a backup, or left
    /// behind by `kubectl delete --cascade=orphan`. The next write makes it owned again, and it is
    /// deleted where it is no longer wanted.
    pub fn has(&self, object: &impl ResourceExt) -> bool {
        let owners = object.owner_references();
        if owners.is_empty() {
            let labels = object.labels();
            let is = |key, value: &str| labels.get(key).is_some_and(|found| found == value);
            return is(MANAGED_BY.0, MANAGED_BY.1)
                && is(CLUSTER_LABEL, self.name)
                && object.annotations().contains_key(HASH_ANNOTATION);
        }
        self.controls(object)
    }

    /// Whether an object is that of an earlier cluster of this name, and of no one else. That
    /// cluster is gone, since this one has its name, and the garbage collector deletes what it has
    /// left.
    pub fn succeeds_owner_of(&self, object: &impl ResourceExt) -> bool {
        let owners = object.owner_references();
        let is_earlier = |owner: &OwnerReference| {
            let group = owner.api_version.split('/').next();
            group == Some(BytebaseCluster::group(&()).as_ref())
                && owner.kind == BytebaseCluster::kind(&())
                && owner.name == self.name
                && owner.uid != self.uid
        };
        !owners.is_empty() && owners.iter().all(is_earlier)
    }

    /// Whether this cluster controls an object: its owner says so, not its labels, which anybody
    /// may write.
    pub fn controls(&self, object: &impl ResourceExt) -> bool {
        let mut owners = object.owner_references().iter();
        owners.any(|owner| owner.controller == Some(true) && owner.uid == self.uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::{Value, json};

    #[test]
    fn an_orphan_counts_only_if_an_operator_wrote_it_for_this_name() {
        let owner = Owner {
            uid: "u-1",
            name: "demo",
        };
        let by = |uid: &str, controls: bool| json!([{"apiVersion": "a/v1", "kind": "K", "name": "n", "uid": uid, "controller": controls}]);
        let labels = |name: &str| json!({MANAGED_BY.0: MANAGED_BY.1, CLUSTER_LABEL: name});
        let hash = json!({HASH_ANNOTATION: "0123"});
        for (owners, labels, annotations, expected) in [
            (by("u-1", true), json!({}), json!({}), true),
            (by("u-1", false), labels("demo"), hash.clone(), false),
            (by("u-2", true), labels("demo"), hash.clone(), false),
            (json!([]), labels("demo"), hash.clone(), true),
            (Value::Null, labels("demo"), hash.clone(), true),
            (json!([]), labels("other"), hash.clone(), false),
            (
                json!([]),
                json!({CLUSTER_LABEL: "demo"}),
                hash.clone(),
                false,
            ),
            (json!([]), labels("demo"), json!({}), false),
        ] {
            let case = format!("{owners} {labels} {annotations}");
            let object: ConfigMap = serde_json::from_value(json!({"metadata": {
                "name": "demo", "labels": labels, "annotations": annotations, "ownerReferences": &owners,
            }}))
            .unwrap();
            assert_eq!(owner.has(&object), expected, "{case}");
            assert_eq!(
                owner.controls(&object),
                expected && owners != json!([]) && !owners.is_null()
            );
        }
    }

    #[test]
    fn an_earlier_cluster_is_one_of_this_name_and_kind_with_another_uid() {
        let owner = Owner {
            uid: "u-2",
            name: "demo",
        };
        let by = |group: &str, kind: &str, name: &str, uid: &str| json!({"apiVersion": format!("{group}/v1beta1"), "kind": kind, "name": name, "uid": uid, "controller": true});
        let earlier = || by("bytebase.com", "BytebaseCluster", "demo", "u-1");
        for (owners, expected) in [
            (json!([earlier()]), true),
            (
                json!([by("bytebase.com", "BytebaseCluster", "demo", "u-2")]),
                false,
            ),
            (
                json!([by("bytebase.com", "BytebaseCluster", "other", "u-1")]),
                false,
            ),
            (
                json!([by("example.com", "BytebaseCluster", "demo", "u-1")]),
                false,
            ),
            (json!([by("bytebase.com", "Other", "demo", "u-1")]), false),
            // It stays for the other owner.
            (
                json!([earlier(), by("apps", "Deployment", "d", "u-3")]),
                false,
            ),
            (json!([]), false),
        ] {
            let object: ConfigMap = serde_json::from_value(json!({"metadata": {
                "name": "demo", "ownerReferences": &owners,
            }}))
            .unwrap();
            assert_eq!(owner.succeeds_owner_of(&object), expected, "{owners}");
        }
    }
}
