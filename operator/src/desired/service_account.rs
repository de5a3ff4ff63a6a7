//! The ServiceAccount: an identity without rights and without a token.

use super::{DesiredObject, metadata};
use crate::kubernetes::Kind;
use crate::validate::{ValidCluster, ValidServiceAccount};
use k8s_openapi::api::core::v1::ServiceAccount;

/// The ServiceAccount, unless the user names one that exists.
pub fn service_account(cluster: &ValidCluster) -> Option<DesiredObject> {
    let ValidServiceAccount::Own { annotations } = &cluster.service_account else {
        return None;
    };
    Some(DesiredObject::new(
        Kind::ServiceAccount,
        &ServiceAccount {
            metadata: metadata(cluster, &cluster.identity.name, annotations),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        },
    ))
}
