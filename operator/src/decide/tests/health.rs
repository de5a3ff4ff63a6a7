//! Which pod is which heartbeat.

use super::{condition, plan, state};
use crate::api::status::HeartbeatState::{self, Fresh, Missing, Stale, Unknown};
use crate::api::{ConditionType, Reason};
use crate::decide::health::join;
use crate::observation::{
    FailureClass, FailureReason, ListenSession, Observation, PodRefusal, RunningTasks, Sessions,
};
use crate::testing::{
    after, failure, healthy, heartbeat, heartbeats, id, running, stored, with_facts,
};
use jiff::SignedDuration;
use serde_json::json;
use std::time::Duration;
use uuid::Uuid;

fn three() -> Observation {
    healthy(3, stored(&json!({})))
}

fn states(observation: &Observation) -> Vec<HeartbeatState> {
    join(observation, |_| false)
        .replicas
        .iter()
        .map(|replica| replica.heartbeat)
        .collect()
}

#[test]
fn a_pod_is_joined_to_its_row_by_the_id_in_its_log() {
    let seen = with_facts(three(), |facts| {
        *heartbeats(facts) = vec![heartbeat(2, 30), heartbeat(0, 31)];
        heartbeats(facts)[0].age = Duration::from_secs(30);
        *running(facts) = vec![
            RunningTasks {
                replica_id: id(0),
                count: 2,
            },
            RunningTasks {
                replica_id: id(0),
                count: 1,
            },
            RunningTasks {
                replica_id: id(9),
                count: 7,
            },
        ];
    });
    assert_eq!(states(&seen), [Stale, Missing, Fresh]);
    let health = join(&seen, |_| false);
    let tasks: Vec<_> = health
        .replicas
        .iter()
        .map(|replica| replica.running_tasks)
        .collect();
    assert_eq!(tasks, [Some(3), Some(0), Some(0)]);
    assert_eq!(health.active(), Some(1));
    assert!(health.unmatched.is_empty());
}

#[test]
fn without_an_id_the_session_counts_by_name_or_address() {
    let session = |name: &str, address: Option<&str>| ListenSession {
        application_name: name.to_owned(),
        client_address: address.map(str::to_owned),
    };
    for (listeners, active, expected) in [
        (Some(vec![session("demo-0", None)]), true, Fresh),
        (
            Some(vec![session("demo-0", Some("192.168.0.9"))]),
            true,
            Fresh,
        ),
        (Some(vec![session("", Some("10.0.0.1"))]), true, Fresh),
        (Some(vec![session("demo-0", None)]), false, Unknown),
        (
            Some(vec![session("demo-1", Some("10.0.0.2"))]),
            true,
            Missing,
        ),
        (Some(vec![session("", None)]), true, Missing),
        (Some(Vec::new()), true, Missing),
        (None, true, Unknown),
    ] {
        let mut seen = with_facts(healthy(1, stored(&json!({}))), |facts| {
            facts.sessions = Some(Sessions {
                listeners: listeners.clone(),
                ..Sessions::default()
            });
            if !active {
                heartbeats(facts).clear();
            }
        });
        seen.pods[0].replica_id = None;
        assert_eq!(states(&seen), [expected], "{listeners:?}, active {active}");
        // A pod that has no address yet is not the one behind a session without one.
        seen.pods[0].ip = None;
        seen = with_facts(seen, |facts| {
            facts.sessions = Some(Sessions {
                listeners: Some(vec![session("", None)]),
                ..Sessions::default()
            });
        });
        assert_eq!(states(&seen), [Missing]);
    }
}

#[test]
fn unreadable_heartbeats_are_unknown_and_no_replica_is_foreign() {
    let mut seen = three();
    seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    let health = join(&seen, |_| false);
    assert!(!health.readable && health.active().is_none() && health.unmatched.is_empty());
    assert_eq!(plan(&json!({}), &seen).unmatched, None);
    assert_eq!(states(&seen), [Unknown; 3]);
}

#[test]
fn only_a_heartbeat_that_is_unmatched_for_over_a_minute_is_of_a_foreign_replica() {
    let foreign = Uuid::from_u128(0xbad);
    for (seconds, is_stranger) in [
        (None, false),
        (Some(0), false),
        (Some(59), false),
        (Some(60), false),
        (Some(61), true),
        (Some(3600), true),
    ] {
        let mut seen = with_facts(three(), |facts| {
            heartbeats(facts).push(crate::observation::Heartbeat {
                replica_id: foreign,
                age: Duration::from_secs(3),
            });
        });
        if let Some(seconds) = seconds {
            seen.unmatched_since
                .insert(foreign, after(SignedDuration::from_secs(-seconds)));
        }
        let plan = plan(&json!({}), &seen);
        let expected = if is_stranger {
            (Some(false), Reason::ForeignReplica)
        } else {
            (Some(true), Reason::AllReplicasHealthy)
        };
        assert_eq!(
            state(&plan, ConditionType::ReplicasHealthy),
            expected,
            "{seconds:?}"
        );
        assert_eq!(plan.unmatched, Some(vec![foreign]));
        // The requeue comes when patience ends; after that nothing more changes by itself.
        let patience = 61 - seconds.unwrap_or(0);
        let again = (patience > 0).then(|| after(SignedDuration::from_secs(patience)));
        assert_eq!(
            plan.requeue_at
                .filter(|next| *next < after(SignedDuration::from_hours(1))),
            again,
            "{seconds:?}"
        );
    }
}

#[test]
fn the_last_heartbeat_of_an_ended_process_is_of_no_foreign_replica() {
    // Its row is stale: whatever was remembered of it, it does not count.
    let ended = Uuid::from_u128(0xdead);
    let mut seen = with_facts(three(), |facts| {
        heartbeats(facts).push(crate::observation::Heartbeat {
            replica_id: ended,
            age: Duration::from_secs(31),
        });
    });
    seen.unmatched_since
        .insert(ended, after(SignedDuration::from_secs(-90)));
    let plan = plan(&json!({}), &seen);
    assert_eq!(
        state(&plan, ConditionType::ReplicasHealthy),
        (Some(true), Reason::AllReplicasHealthy)
    );
    assert_eq!(plan.unmatched, Some(Vec::new()));
}

#[test]
fn a_refused_pod_is_reported_in_the_words_of_the_refusal_once_it_lasts() {
    let message = "pods \"demo-2\" is forbidden: exceeded quota: small";
    let healthy = (Reason::AllReplicasHealthy, "");
    for (seconds, expected, next) in [
        (None, healthy, 61),
        (Some(1), healthy, 1),
        (Some(2), (Reason::PodCreationFailed, message), 61),
        (Some(3600), (Reason::PodCreationFailed, message), 61),
    ] {
        let mut seen = three();
        seen.pods.pop();
        seen.refused_pod = seconds.map(|seconds| PodRefusal {
            since: after(SignedDuration::from_secs(-seconds)),
            message: message.to_owned(),
        });
        let plan = plan(&json!({}), &seen);
        let draft = condition(&plan.report, ConditionType::ReplicasHealthy);
        assert_eq!(draft.reason, expected.0, "{seconds:?}");
        assert!(draft.message.contains(expected.1));
        // The event of the next try, or the pod, wakes the cluster: nothing is asked in between,
        // but whether the heartbeat of the pod that is gone is of a foreign replica, after a
        // minute.
        let next = after(SignedDuration::from_secs(next));
        assert_eq!(plan.requeue_at, Some(next), "{seconds:?}");
    }
}

#[test]
fn as_many_rows_as_ready_pods_without_an_id_are_ours() {
    let mut seen = with_facts(three(), |facts| {
        *heartbeats(facts) = vec![
            heartbeat(0, 1),
            heartbeat(7, 2),
            heartbeat(8, 3),
            heartbeat(9, 4),
        ];
    });
    seen.pods[1].replica_id = None;
    seen.pods[2].replica_id = None;
    let long_ago = after(SignedDuration::from_secs(-90));
    seen.unmatched_since = [7, 8, 9].map(|number| (id(number), long_ago)).into();
    assert_eq!(join(&seen, |_| false).unmatched, [id(7), id(8), id(9)]);
    assert_eq!(join(&seen, |_| false).foreign, 1);
    // A pod that keeps ending hides no other.
    seen.pods[1].ready = false;
    seen.pods[2].ready = false;
    assert_eq!(join(&seen, |_| false).foreign, 3);
}

#[test]
fn a_replica_with_a_fresh_heartbeat_is_active_whether_ready_or_ending() {
    let mut seen = three();
    seen.pods[2].deleting = true;
    seen.pods[1].ready = false;
    let report = plan(&json!({}), &seen).report;
    assert_eq!(
        (
            report.replicas,
            report.ready_replicas,
            report.active_replicas
        ),
        (3, 1, Some(3))
    );
    assert!(!report.replica_statuses[2].ready);
}

#[test]
fn status_names_the_version_that_is_being_left() {
    for (left, taken) in [("3.21.9", "3.21.10"), ("3.21.10", "3.21.9")] {
        let mut seen = three();
        for pod in &mut seen.pods {
            pod.version = Some(taken.to_owned());
        }
        seen.pods[1].version = Some(left.to_owned());
        seen.pods[1].revision = Some(crate::testing::OLD.to_owned());
        assert_eq!(
            plan(&json!({}), &seen).report.version.as_deref(),
            Some(left)
        );
    }
}
