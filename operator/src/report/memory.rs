//! What `report` remembers of a cluster.

use crate::api::{BytebaseCluster, BytebaseClusterStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

/// What is remembered of a cluster from one status to the next. Losing it is harmless.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Since when writes have failed that were to succeed the next time.
    pub(super) failing_since: Option<Timestamp>,
    /// Status as last written.
    pub(super) written: Option<WrittenStatus>,
    /// The last reconcile wrote objects and left the status to the next.
    pub(super) status_due: bool,
}

/// A status whose echo the cache may not have seen.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WrittenStatus {
    /// `resourceVersion` in the cache before it: until the cache moves on, this status is the
    /// newer one.
    pub(super) before: Option<String>,
    /// `resourceVersion` with it.
    pub(super) after: Option<String>,
    /// What was written.
    pub(super) status: BytebaseClusterStatus,
}

impl Memory {
    /// The status as last written, which the cache may not show yet.
    pub fn last_status(&self, cluster: &BytebaseCluster) -> BytebaseClusterStatus {
        match &self.written {
            Some(written) if written.before == cluster.resource_version() => written.status.clone(),
            _ => cluster.status.clone().unwrap_or_default(),
        }
    }

    /// Whether a cluster is as the last reconcile left it, changed only by the status that was
    /// written then.
    pub fn is_echo(&self, cluster: &ObjectMeta) -> bool {
        let written = self.written.as_ref();
        written.is_some_and(|written| written.echoes_in(cluster))
    }

    /// Forgets a status that the cache has moved on from.
    pub(super) fn forget_echoed(&mut self, cluster: &BytebaseCluster) {
        let now = cluster.resource_version();
        self.written.take_if(|written| written.before != now);
    }
}

impl WrittenStatus {
    /// Whether this is the cluster right after this write, with the spec that the status speaks of.
    fn echoes_in(&self, cluster: &ObjectMeta) -> bool {
        self.after.is_some()
            && self.after == cluster.resource_version
            // After a listing, an edit in between has no event of its own.
            && self.status.observed_generation == cluster.generation
            && cluster.deletion_timestamp.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn an_echo_is_the_very_version_that_was_written_of_the_spec_that_was_seen() {
        let written = WrittenStatus {
            before: Some("6".to_owned()),
            after: Some("7".to_owned()),
            status: BytebaseClusterStatus {
                observed_generation: Some(3),
                ..BytebaseClusterStatus::default()
            },
        };
        let cluster = |version: &str, generation| ObjectMeta {
            resource_version: Some(version.to_owned()),
            generation: Some(generation),
            ..ObjectMeta::default()
        };
        assert!(written.echoes_in(&cluster("7", 3)));
        assert!(
            !written.echoes_in(&cluster("8", 3)),
            "another one wrote since"
        );
        assert!(
            !written.echoes_in(&cluster("7", 4)),
            "edited before the status was written"
        );
        let deleted = ObjectMeta {
            deletion_timestamp: Some(Time(Timestamp::UNIX_EPOCH)),
            ..cluster("7", 3)
        };
        assert!(!written.echoes_in(&deleted));
        let unknown = WrittenStatus {
            after: None,
            ..written
        };
        assert!(!unknown.echoes_in(&ObjectMeta {
            resource_version: None,
            ..cluster("7", 3)
        }));
    }
}
