//! What the containers of a pod have in common.

use k8s_openapi::api::core::v1::{Capabilities, SecurityContext, VolumeMount};

/// Volume with the certificates of those who vouch for the metadata database.
pub(super) const CA_VOLUME: &str = "bytebase-database-ca";

/// A mount of a volume by its name.
pub(super) fn mount(name: &str, path: &str) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        ..VolumeMount::default()
    }
}

/// What the restricted pod security standard asks of a container, and a root filesystem that
/// nothing writes to.
pub(super) fn restricted() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            add: None,
        }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}
