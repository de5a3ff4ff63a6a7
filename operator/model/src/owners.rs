//! Whose a StatefulSet of the cluster's name is.

use bytebase_operator::desired::ownership::{HASH_ANNOTATION, Owner};
use bytebase_operator::desired::{CLUSTER_LABEL, MANAGED_BY};
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::json;

/// Name of the cluster.
pub const NAME: &str = "demo";
/// Its uid.
pub const UID: &str = "of-demo";

/// Whose a StatefulSet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    /// The cluster controls it.
    Own,
    /// An operator wrote it for a cluster of this name, and it has lost its owner.
    Left,
    /// An operator wrote it, and another object controls it.
    Taken,
    /// It was made by hand, and has no owner.
    ByHand,
}

impl Whose {
    /// Whether the operator may touch it.
    pub fn is_own(self) -> bool {
        match self {
            Self::Own | Self::Left => true,
            Self::Taken | Self::ByHand => false,
        }
    }

    /// Whether the operator's own rule says so.
    pub fn counts_as_own(self) -> bool {
        let owner = |uid: &str| json!([{"apiVersion": "v1", "kind": "K", "name": "n", "uid": uid, "controller": true}]);
        let owners = match self {
            Self::Own => owner(UID),
            Self::Taken => owner("of-another"),
            Self::Left | Self::ByHand => json!([]),
        };
        let (labels, annotations) = match self {
            Self::Own | Self::Left | Self::Taken => (
                json!({MANAGED_BY.0: MANAGED_BY.1, CLUSTER_LABEL: NAME}),
                json!({HASH_ANNOTATION: "0123"}),
            ),
            Self::ByHand => (json!({}), json!({})),
        };
        let object: StatefulSet = serde_json::from_value(json!({"metadata": {
            "name": NAME, "labels": labels, "annotations": annotations, "ownerReferences": owners,
        }}))
        .unwrap_or_else(|error| unreachable!("the model's own: {error}"));
        let (uid, name) = (UID, NAME);
        Owner { uid, name }.has(&object)
    }
}
