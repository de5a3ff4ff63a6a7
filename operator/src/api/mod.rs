//! The custom resource `BytebaseCluster` (group `bytebase.com`, version `v1alpha1`): what a user
//! writes and what the operator reports.

pub mod conditions;
pub mod spec;
pub mod status;

pub use conditions::{ConditionType, Reason};
pub use spec::{BytebaseCluster, BytebaseClusterSpec};
pub use status::BytebaseClusterStatus;

/// The `CustomResourceDefinition`, as installed.
pub fn crd()
-> k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition {
    use kube::CustomResourceExt as _;
    BytebaseCluster::crd()
}
