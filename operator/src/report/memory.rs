//! What `report` remembers of a cluster.

use crate::api::{BytebaseCluster, BytebaseClusterStatus, ConditionType, Reason};
use crate::apply::event::Notice;
use crate::kubernetes::ResourceVersion;
use crate::observation::{LOG_PATIENCE, Observation};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// An event comes again no sooner: a condition that goes to and fro between two reasons would fill
/// the list of events, in which a user looks for the others, and so would a database that says
/// something else at each reading.
const LEAST_PAUSE: SignedDuration = SignedDuration::from_mins(10);

/// What is remembered of a cluster from one status to the next. Losing it is harmless.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Since when writes have failed that were to succeed the next time.
    pub(super) failing_since: Option<Timestamp>,
    /// Status as last written.
    pub(super) written: Option<WrittenStatus>,
    /// The last reconcile wrote objects and left the status to the next.
    pub(super) status_due: bool,
    /// Since when status has waited for what logs say.
    pub(super) waiting_since: Option<Timestamp>,
    /// When events were published.
    pub(super) published: Published,
}

/// When an event about a condition, or about something that happened, was last published with a
/// reason and a subject. What is older than the pause is forgotten.
#[derive(Clone, Debug, Default)]
pub(super) struct Published(BTreeMap<(Option<ConditionType>, Reason, String), Timestamp>);

/// A status that the cache may not show yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct WrittenStatus {
    /// `resourceVersion` in the cache when it was written, or found.
    pub(super) before: Option<String>,
    /// `resourceVersion` with it.
    pub(super) after: Option<String>,
    /// What stands by then.
    pub(super) status: BytebaseClusterStatus,
    /// This process has written it. Otherwise it was found in place of the one that a decision
    /// rested on.
    pub(super) is_own: bool,
}

impl Memory {
    /// The status as last written, or found, which the cache may not show yet.
    pub fn last_status(&self, cluster: &BytebaseCluster) -> BytebaseClusterStatus {
        match self.newer_than(cluster) {
            Some(written) => written.status.clone(),
            None => cluster.status.clone().unwrap_or_default(),
        }
    }

    /// The `resourceVersion` of the cluster with that status.
    pub(super) fn base(&self, cluster: &BytebaseCluster) -> Option<String> {
        match self.newer_than(cluster) {
            Some(written) => written.after.clone(),
            None => cluster.resource_version(),
        }
    }

    fn newer_than(&self, cluster: &BytebaseCluster) -> Option<&WrittenStatus> {
        let written = self.written.as_ref();
        written.filter(|written| written.is_newer_than(cluster))
    }

    /// Whether a cluster is as the last reconcile left it, changed only by the status that was
    /// written then.
    pub fn is_echo(&self, cluster: &ObjectMeta) -> bool {
        let written = self.written.as_ref();
        written.is_some_and(|written| written.echoes_in(cluster))
    }

    /// Whether status waits for what the logs say that are being read: for a moment, however many
    /// are read one after the other.
    pub(super) fn waits_for_logs(&mut self, observation: &Observation) -> bool {
        let now = observation.now;
        let since = self.waiting_since.filter(|_| observation.awaits_logs);
        let since = since.unwrap_or(now);
        // A clock that was set back must not keep status away for longer.
        let waited = now.duration_since(since).unsigned_abs();
        let waits = observation.awaits_logs && waited < LOG_PATIENCE;
        self.waiting_since = waits.then_some(since);
        waits
    }

    /// Forgets a status that the cache has caught up with.
    pub(super) fn forget_echoed(&mut self, cluster: &BytebaseCluster) {
        self.written
            .take_if(|written| !written.is_newer_than(cluster));
    }
}

impl Published {
    /// Whether an event is due at `now`, which then counts as published.
    pub(super) fn is_due(&mut self, notice: &Notice, now: Timestamp) -> bool {
        // A clock that was set back must not keep events away for longer.
        self.0
            .retain(|_, at| now.duration_since(*at).abs() < LEAST_PAUSE);
        let key = (notice.condition, notice.reason, notice.subject.clone());
        let is_due = !self.0.contains_key(&key);
        if is_due {
            self.0.insert(key, now);
        }
        is_due
    }
}

impl WrittenStatus {
    /// Whether the cache does not show it yet. Between the version of then and this one it may show
    /// others, such as an earlier write of this process, whose status is older.
    fn is_newer_than(&self, cluster: &BytebaseCluster) -> bool {
        let shown = cluster.resource_version();
        let version = |version: &Option<String>| version.clone().map(ResourceVersion::from);
        let versions = version(&shown).zip(version(&self.after));
        let order = versions.and_then(|(shown, after)| shown.compare(&after));
        // Where they cannot be compared, it is as long as nothing else was shown.
        order.map_or_else(|| shown == self.before, Ordering::is_lt)
    }

    /// Whether this is the cluster right after this write, with the spec that the status speaks of.
    fn echoes_in(&self, cluster: &ObjectMeta) -> bool {
        self.is_own
            && self.after.is_some()
            && self.after == cluster.resource_version
            // After a listing, an edit in between has no event of its own.
            && self.status.observed_generation == cluster.generation
            && cluster.deletion_timestamp.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::Phase;
    use crate::testing::{after, healthy, no_license, now};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn status_waits_for_a_moment_however_many_logs_are_read() {
        let mut memory = Memory::default();
        let mut seen = healthy(1, no_license());
        for (milliseconds, awaits_logs, waits) in [
            (0, true, true),
            (999, true, true),
            (1000, true, false),
            // Status has been written.
            (1001, true, true),
            (1500, false, false),
            (2400, true, true),
            // The clock was set back.
            (-9000, true, false),
        ] {
            seen.now = after(SignedDuration::from_millis(milliseconds));
            seen.awaits_logs = awaits_logs;
            assert_eq!(memory.waits_for_logs(&seen), waits, "{milliseconds}");
        }
    }

    fn notice(condition: Option<ConditionType>, reason: Reason) -> Notice {
        Notice {
            warning: false,
            condition,
            reason,
            subject: String::new(),
            message: String::new(),
        }
    }

    #[test]
    fn a_condition_that_goes_to_and_fro_publishes_each_reason_once_in_ten_minutes() {
        let ready = Some(ConditionType::Ready);
        let [up, down] = [Reason::AllReplicasActive, Reason::ReplicasNotReady];
        let mut memory = Memory::default();
        let mut due = |minute: i64, condition, reason| {
            let now = after(SignedDuration::from_mins(minute));
            memory.published.is_due(&notice(condition, reason), now)
        };
        for (minute, reason, expected) in [
            (0, down, true),
            (1, up, true),
            (2, down, false),
            (3, up, false),
            (9, down, false),
            (10, down, true),
            (10, up, false),
            (11, up, true),
            (19, down, false),
            // The clock was set back.
            (-60, down, true),
        ] {
            assert_eq!(due(minute, ready, reason), expected, "{minute}: {reason}");
        }
        // Another condition with the same reason, and what happened without one.
        assert!(due(-59, Some(ConditionType::Stalled), down));
        assert!(due(-59, None, down));
    }

    #[test]
    fn what_happens_again_and_again_is_published_once_in_ten_minutes_of_each_subject() {
        let mut published = Published::default();
        let mut due = |minute: i64, reason, subject: &str| {
            let notice = Notice {
                subject: subject.to_owned(),
                ..notice(None, reason)
            };
            published.is_due(&notice, after(SignedDuration::from_mins(minute)))
        };
        for (minute, reason, subject, expected) in [
            (0, Reason::QueueHeld, "", true),
            (1, Reason::QueueFree, "", true),
            (2, Reason::QueueHeld, "", false),
            (3, Reason::QueueFree, "", false),
            (10, Reason::QueueHeld, "", true),
            (10, Reason::DrainBegan, "demo-0", true),
            (10, Reason::DrainBegan, "demo-1", true),
            (11, Reason::DrainBegan, "demo-1", false),
        ] {
            assert_eq!(due(minute, reason, subject), expected, "{minute}: {reason}");
        }
    }

    #[test]
    fn events_of_long_ago_are_forgotten() {
        let mut published = Published::default();
        let ready = Some(ConditionType::Ready);
        assert!(published.is_due(&notice(ready, Reason::ReplicasNotReady), now()));
        let later = after(SignedDuration::from_mins(10));
        assert!(published.is_due(&notice(ready, Reason::AllReplicasActive), later));
        assert_eq!(published.0.len(), 1);
    }

    #[test]
    fn an_echo_is_the_very_version_that_was_written_of_the_spec_that_was_seen() {
        let written = WrittenStatus {
            before: Some("6".to_owned()),
            after: Some("7".to_owned()),
            status: BytebaseClusterStatus {
                observed_generation: Some(3),
                ..BytebaseClusterStatus::default()
            },
            is_own: true,
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
        let found = WrittenStatus {
            is_own: false,
            ..written.clone()
        };
        assert!(!found.echoes_in(&cluster("7", 3)), "another process wrote");
        let unknown = WrittenStatus {
            after: None,
            ..written
        };
        assert!(!unknown.echoes_in(&ObjectMeta {
            resource_version: None,
            ..cluster("7", 3)
        }));
    }

    #[test]
    fn a_status_stands_until_the_cache_shows_it_or_a_later_one() {
        let of = |phase| BytebaseClusterStatus {
            phase: Some(phase),
            ..BytebaseClusterStatus::default()
        };
        let shown = |version: &str| {
            let mut cluster = crate::testing::cluster(&serde_json::json!({}));
            cluster.metadata.resource_version = Some(version.to_owned());
            cluster.status = Some(of(Phase::Stalled));
            cluster
        };
        // The number of the version grows by a digit as well.
        for (before, after, cases) in [
            (
                "8",
                "10",
                &[("8", true), ("9", true), ("10", false), ("11", false)][..],
            ),
            ("a", "c", &[("a", true), ("b", false), ("c", false)][..]),
        ] {
            let memory = Memory {
                written: Some(WrittenStatus {
                    before: Some(before.to_owned()),
                    after: Some(after.to_owned()),
                    status: of(Phase::Ready),
                    is_own: true,
                }),
                ..Memory::default()
            };
            for (version, stands) in cases {
                let cluster = shown(version);
                let (phase, base) = if *stands {
                    (Phase::Ready, after)
                } else {
                    (Phase::Stalled, *version)
                };
                assert_eq!(memory.last_status(&cluster), of(phase), "{version}");
                assert_eq!(memory.base(&cluster).as_deref(), Some(base), "{version}");
                let mut later = memory.clone();
                later.forget_echoed(&cluster);
                assert_eq!(later.written.is_some(), *stands, "{version}");
            }
        }
    }
}
