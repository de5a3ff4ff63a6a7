//! Status and events.

use super::{
    LONGEST_MESSAGE, mark_lasting, notices, sample, speaks_of_now, status, unseen,
    with_eviction_left_out, with_overruled,
};
use crate::api::status::{
    DrainState, HeartbeatState, OverruledObject, Phase, QueueHoldStatus, ReplicaStatus,
    RolloutStatus, RolloutWait, StuckTasks,
};
use crate::api::{BytebaseClusterStatus, ConditionType, Reason};
use crate::apply::{ApplyFailure, FailureKind};
use crate::decide::plan::{ConditionDraft, Plan, Report};
use crate::observation::{
    DatabaseFacts, DatabaseView, FailureClass, FailureReason, Observation, PodTrouble,
    RunningTasks, SchemaState,
};
use crate::observe::remembered::remembered;
use crate::process::metrics::ClusterSample;
use crate::testing::{
    after, cluster, facts, failure, healthy, heartbeat, heartbeats, id, no_license, now,
    observation, running, settings, stored, validation, with_facts,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;

fn plan(spec: &Value, seen: &Observation) -> Plan {
    crate::decide::decide(&validation(spec), seen, &settings())
}

fn report(spec: &Value, seen: &Observation) -> Report {
    plan(spec, seen).report
}

fn later(seconds: i64) -> jiff::Timestamp {
    after(SignedDuration::from_secs(seconds))
}

fn first(report: Report) -> BytebaseClusterStatus {
    status(
        &BytebaseClusterStatus::default(),
        report,
        &[],
        Some(4),
        now(),
    )
}

/// What the metrics show after a first reconcile.
fn shown(seen: &Observation) -> ClusterSample {
    let report = report(&json!({}), seen);
    let unmatched = report.unmatched;
    let status = first(report);
    sample(&cluster(&json!({})), &status, &seen.pods, unmatched)
}

#[test]
fn the_metrics_count_the_own_replicas_as_status_does_and_foreign_ones_by_themselves() {
    let counts = |seen: &Observation| {
        let sample = shown(seen);
        (sample.active, sample.foreign, sample.draining)
    };
    let mut seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
        heartbeats(facts).push(heartbeat(7, 1));
        running(facts).push(RunningTasks {
            replica_id: id(2),
            count: 1,
        });
    });
    assert_eq!(counts(&seen), (Some(3), Some(0), 0));
    seen.unmatched_since = [(id(7), later(-300))].into();
    assert_eq!(counts(&seen), (Some(3), Some(1), 0));
    seen.pods[2].deleting = true;
    seen.pods[2].ends_by = Some(later(3600));
    assert_eq!(counts(&seen), (Some(3), Some(1), 1));
    // Its own are dead, and the foreign one hides none of them.
    let dead = with_facts(seen.clone(), |facts| {
        heartbeats(facts).retain(|heartbeat| heartbeat.replica_id == id(7));
    });
    assert_eq!(counts(&dead), (Some(0), Some(1), 1));
    // One whose id is not known is its own by its session, and no foreign one.
    let mut unnamed = healthy(1, stored(&json!({})));
    unnamed.pods[0].replica_id = None;
    unnamed.unmatched_since = [(id(0), later(-300))].into();
    assert_eq!(shown(&unnamed).foreign, Some(0));
    // The heartbeat of one whose id is not known may be the second, and cannot be where none is
    // read.
    let unsure = |read: &[i32]| {
        let mut seen = with_facts(healthy(2, stored(&json!({}))), |facts| {
            let read: Vec<_> = read.iter().copied().map(id).collect();
            heartbeats(facts).retain(|heartbeat| read.contains(&heartbeat.replica_id));
            facts.sessions = None;
        });
        seen.pods[1].replica_id = None;
        shown(&seen).active
    };
    assert_eq!(
        [unsure(&[0, 1]), unsure(&[1]), unsure(&[])],
        [Some(1), None, Some(0)]
    );
    seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    assert_eq!(counts(&seen), (None, None, 1), "it may be finishing tasks");
}

#[test]
fn a_replica_that_is_lost_with_its_node_is_not_taken_for_one_that_drains() {
    let mut seen = with_facts(healthy(1, stored(&json!({}))), |facts| {
        running(facts).push(RunningTasks {
            replica_id: id(0),
            count: 1,
        });
    });
    let pod = &mut seen.pods[0];
    pod.deleting = true;
    (pod.ending_since, pod.ends_by) = (Some(later(-60)), Some(later(3600)));
    let drains = |seen: &Observation| {
        let status = &report(&json!({"replicas": 1}), seen).replica_statuses[0];
        let is_known = (status.drain.is_some(), status.drains_until.is_some());
        (is_known, shown(seen).draining)
    };
    let mut unread = seen.clone();
    unread.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    assert_eq!(drains(&seen), ((true, true), 1));
    assert_eq!(drains(&unread), ((false, true), 1));
    for mut lost in [seen, unread] {
        let silent = "node node-0 no longer reports".to_owned();
        lost.pods[0].trouble = Some(PodTrouble::NodeSilent(silent));
        assert_eq!(drains(&lost), ((false, false), 0));
        let status = &report(&json!({"replicas": 1}), &lost).replica_statuses[0];
        assert_eq!(status.ends_by, Some(Time(later(3600))));
    }
}

#[test]
fn the_metrics_say_where_the_operator_has_no_login_to_the_database() {
    let unreadable = |database| shown(&observation(Some(3), database)).lacks_login;
    assert!(unreadable(DatabaseView::CannotRead));
    let away = failure(FailureClass::Unknown, FailureReason::Unreachable);
    assert!(!unreadable(away));
}

#[test]
fn the_metrics_say_when_the_first_drain_is_over_and_what_else_needs_someone() {
    let second = |text: &str| text.parse::<jiff::Timestamp>().unwrap().as_second();
    let (first, later) = ("2026-06-01T01:00:00Z", "2026-06-01T02:00:00Z");
    let mut status: BytebaseClusterStatus = serde_json::from_value(json!({
        "stuckTasks": {"tasks": 2, "unbegun": 1},
        "database": {"caExpirationTime": later},
        "replicaStatuses": [
            {"pod": "demo-0", "heartbeat": "Fresh", "drain": "Draining", "drainsUntil": later},
            {"pod": "demo-1", "heartbeat": "Fresh", "drain": "EndsSoon", "drainsUntil": first},
            // It runs no task, or what it runs is being cancelled.
            {"pod": "demo-2", "heartbeat": "Fresh", "runningTasks": 0, "drainsUntil": "2026-06-01T00:30:00Z"},
            {"pod": "demo-3", "heartbeat": "Fresh", "drain": "CutShort", "drainsUntil": "2026-06-01T00:40:00Z"},
        ],
    }))
    .unwrap();
    let shown = |status: &BytebaseClusterStatus, paused: bool| {
        let cluster = cluster(&json!({"paused": paused}));
        let sample = sample(&cluster, status, &[], None);
        (
            sample.paused,
            sample.stuck,
            sample.drain_end,
            sample.ca_expiry,
        )
    };
    let (first, later) = (Some(second(first)), Some(second(later)));
    assert_eq!(shown(&status, true), (true, Some(3), first, later));
    status.stuck_tasks = None;
    assert_eq!(shown(&status, false), (false, Some(0), first, later));
    // The database cannot be read.
    status.replica_statuses[2].running_tasks = None;
    assert_eq!(shown(&status, false), (false, None, first, later));
    let none = BytebaseClusterStatus::default();
    assert_eq!(shown(&none, false), (false, None, None, None));
}

fn of(status: &BytebaseClusterStatus, type_: ConditionType) -> &Condition {
    status
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_.as_ref())
        .unwrap()
}

fn one(type_: ConditionType, status: Option<bool>, reason: Reason, message: &str) -> Report {
    Report {
        conditions: vec![ConditionDraft::new(type_, status, reason, message)],
        ..Report::default()
    }
}

fn refused(kind: FailureKind, ingress: bool) -> ApplyFailure {
    ApplyFailure {
        kind,
        exposes: ingress,
        message: format!("{kind:?} of ingress: {ingress}"),
    }
}

#[test]
fn nothing_changes_in_status_while_nothing_changes_in_the_world() {
    let mut rolling = healthy(3, stored(&json!({})));
    rolling.pods[0].revision = Some("old".to_owned());
    for seen in [
        healthy(3, stored(&json!({}))),
        healthy(1, no_license()),
        rolling,
    ] {
        let before = first(report(&json!({}), &seen));
        let mut again = seen.clone();
        again.now = later(600);
        again.remembered = remembered(&before, None);
        // The age of a heartbeat is no news.
        again = with_facts(again, |facts| {
            for heartbeat in heartbeats(facts) {
                heartbeat.age /= 2;
            }
        });
        let next = status(
            &before,
            report(&json!({}), &again),
            &[],
            Some(4),
            later(600),
        );
        assert_eq!(before, next);
        assert!(notices(&before, &next).is_empty());
    }
}

/// A database on which a replica ended minutes ago, as read by a process that has heard it for so
/// many seconds.
fn heard_for(seconds: u64, change: impl FnOnce(&mut DatabaseFacts)) -> DatabaseView {
    let mut facts = facts(0, stored(&json!({})));
    heartbeats(&mut facts).push(heartbeat(9, 300));
    facts.writable_for = Duration::from_secs(seconds);
    change(&mut facts);
    DatabaseView::Probed(Ok(facts))
}

#[test]
fn a_restart_leaves_the_status_of_a_cluster_without_pods_alone_until_its_database_was_heard() {
    let endpoint = Some("db.example.com:5432/bytebase");
    for (spec, replicas) in [
        (json!({"paused": true}), None),
        (json!({"paused": true}), Some(0)),
        (json!({"externalURL": "nonsense"}), None),
        (json!({"externalURL": "nonsense"}), Some(0)),
        // Its version is older than the schema, so nothing starts.
        (json!({"version": "3.20.0"}), Some(0)),
        (json!({"replicas": 0}), Some(0)),
    ] {
        let seen = |view| observation(replicas, view);
        let mut settled = seen(heard_for(3600, |_| {}));
        let before = first(report(&spec, &settled));
        settled.remembered = remembered(&before, endpoint);
        let before = status(&before, report(&spec, &settled), &[], Some(4), now());
        assert_eq!(of(&before, ConditionType::DatabaseReady).status, "True");
        for (view, is_written) in [
            (DatabaseView::NotProbed, false),
            (heard_for(0, |_| {}), false),
            (heard_for(44, |_| {}), false),
            (heard_for(45, |_| {}), true),
        ] {
            let mut again = seen(view);
            again.remembered = remembered(&before, endpoint);
            let plan = plan(&spec, &again);
            let keeps = plan.unsettled || (plan.hears_again && speaks_of_now(&before, Some(4)));
            // Nothing need be heard of a database that no replica is to use.
            assert!(keeps != is_written || spec["replicas"] == 0, "{spec}");
            if !keeps {
                let next = status(&before, plan.report, &[], Some(4), later(60));
                assert_eq!(before, next, "{spec}");
            }
        }
    }
}

#[test]
fn what_is_new_is_reported_while_the_database_is_still_to_be_heard() {
    let spec = json!({"paused": true});
    let endpoint = Some("db.example.com:5432/bytebase");
    let before = first(report(&spec, &observation(None, heard_for(3600, |_| {}))));
    let keeps = |before: &BytebaseClusterStatus, view, generation| {
        let mut again = observation(None, view);
        again.remembered = remembered(before, endpoint);
        let plan = plan(&spec, &again);
        plan.unsettled || (plan.hears_again && speaks_of_now(before, Some(generation)))
    };
    assert!(keeps(&before, heard_for(5, |_| {}), 4));
    assert!(!keeps(&before, heard_for(5, |_| {}), 5), "another spec");
    // Its replicas have gone while the operator was away.
    let ran = BytebaseClusterStatus {
        replicas: 3,
        ..before.clone()
    };
    assert!(!keeps(&ran, heard_for(5, |_| {}), 4));
    // The server has become another, or was not to be read before.
    let standby = heard_for(0, |facts| facts.in_recovery = true);
    assert!(!keeps(&before, standby, 4));
    let in_use = heard_for(5, |facts| heartbeats(facts).push(heartbeat(8, 5)));
    assert!(!keeps(&before, in_use, 4));
    let mut outage = observation(
        None,
        failure(FailureClass::Unknown, FailureReason::Unreachable),
    );
    outage.remembered = remembered(&before, endpoint);
    let unread = status(&before, report(&spec, &outage), &[], Some(4), later(10));
    assert!(!keeps(&unread, heard_for(5, |_| {}), 4));
}

#[test]
fn the_transition_time_moves_with_the_status_only() {
    use ConditionType::Ready;
    let before = first(one(Ready, Some(false), Reason::ReplicasNotReady, "0 of 3"));
    let time = |status: &BytebaseClusterStatus| of(status, Ready).last_transition_time.clone();
    assert_eq!(time(&before), Time(now()));
    for (status_now, reason, message, moves) in [
        (Some(false), Reason::ReplicasNotReady, "1 of 3", false),
        (Some(false), Reason::HeldBackByLicense, "1 of 3", false),
        (None, Reason::HeartbeatsUnknown, "x", true),
        (Some(true), Reason::AllReplicasActive, "3 of 3", true),
    ] {
        let next = status(
            &before,
            one(Ready, status_now, reason, message),
            &[],
            Some(5),
            later(60),
        );
        let expected = if moves { later(60) } else { now() };
        assert_eq!(time(&next), Time(expected), "{reason}");
        assert_eq!(of(&next, Ready).observed_generation, Some(5));
        assert_eq!(of(&next, Ready).message, message);
    }
}

#[test]
fn what_was_learnt_of_one_database_is_not_reported_of_another() {
    let seen = healthy(3, stored(&json!({})));
    let before = first(report(&json!({}), &seen));
    let learnt = |status: &BytebaseClusterStatus| {
        let version = status.version.clone();
        (status.schema_version.clone(), version)
    };
    let known = (Some("3.21.5".to_owned()), Some("3.21.1".to_owned()));
    assert_eq!(learnt(&before), known);
    let mut away = seen.clone();
    away.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    away.last_facts = None;
    for pod in &mut away.pods {
        pod.ready = false;
    }
    let next = |spec: &Value, mut seen: Observation| {
        let cluster = validation(spec).cluster;
        let endpoint = cluster.map(|cluster| cluster.database.replicas.identity_hint());
        seen.remembered = remembered(&before, endpoint.as_deref());
        status(&before, report(spec, &seen), &[], Some(5), later(60))
    };
    assert_eq!(learnt(&next(&json!({}), away.clone())), known);
    let invalid = json!({"externalURL": "nonsense"});
    assert_eq!(learnt(&next(&invalid, away.clone())), known);
    let elsewhere = json!({"database": {
        "host": "new.example.com", "name": "bytebase",
        "userSecretRef": {"name": "login", "key": "user"},
        "passwordSecretRef": {"name": "login", "key": "password"},
    }});
    let moved = next(&elsewhere, away);
    let endpoint = moved.database.as_ref().unwrap().endpoint.clone();
    assert!(endpoint.unwrap().starts_with("new.example.com"));
    assert_eq!(learnt(&moved), (None, None));
    // Nor is it of one that was emptied. Its tables may only be out of sight while replicas run.
    let mut emptied = with_facts(seen, |facts| facts.schema = SchemaState::Empty);
    assert_eq!(learnt(&next(&json!({}), emptied.clone())), known);
    emptied.pods.clear();
    assert_eq!(next(&json!({}), emptied).schema_version, None);
}

#[test]
fn since_moves_with_the_heartbeat_and_the_process() {
    let seen = healthy(3, stored(&json!({})));
    let before = first(report(&json!({}), &seen));
    let stale = with_facts(seen.clone(), |facts| {
        heartbeats(facts)[1] = heartbeat(1, 40);
    });
    let next = status(&before, report(&json!({}), &stale), &[], Some(4), later(60));
    let since: Vec<_> = next
        .replica_statuses
        .iter()
        .map(|replica| replica.since.clone().unwrap().0)
        .collect();
    assert_eq!(since, [now(), later(60), now()]);
    assert_eq!(next.replica_statuses[1].heartbeat, HeartbeatState::Stale);
    // A new process of the same pod.
    let mut restarted = with_facts(seen, |facts| heartbeats(facts)[0] = heartbeat(7, 1));
    restarted.pods[0].replica_id = Some(id(7));
    let next = status(
        &before,
        report(&json!({}), &restarted),
        &[],
        Some(4),
        later(60),
    );
    assert_eq!(next.replica_statuses[0].since, Some(Time(later(60))));
}

#[test]
fn a_roll_is_timed_by_what_it_waits_for() {
    let waits = |waiting_for, pod: &str, message: &str| Report {
        rollout: Some(RolloutStatus {
            waiting_for: Some(waiting_for),
            pod: Some(pod.to_owned()),
            message: message.to_owned(),
            ..RolloutStatus::default()
        }),
        ..Report::default()
    };
    let next = |before: &BytebaseClusterStatus, report| {
        status(before, report, &[], None, later(9)).rollout
    };
    let since = |before: &BytebaseClusterStatus, report| next(before, report).unwrap().since;
    let drain = first(waits(RolloutWait::Drain, "demo-1", "a"));
    let other_words = waits(RolloutWait::Drain, "demo-1", "b");
    assert_eq!(since(&drain, other_words), Some(Time(now())));
    for other in [
        waits(RolloutWait::PodEnd, "demo-1", "a"),
        waits(RolloutWait::Drain, "demo-0", "a"),
    ] {
        assert_eq!(since(&drain, other), Some(Time(later(9))));
    }
    // Whichever is the least busy, it is the same wait.
    let idle = first(waits(RolloutWait::IdleReplica, "demo-1", "a"));
    let other_pod = waits(RolloutWait::IdleReplica, "demo-0", "a");
    assert_eq!(since(&idle, other_pod), Some(Time(now())));
    assert_eq!(next(&drain, Report::default()), None);
}

/// A leader whose clock was two hours ahead wrote them.
#[test]
fn a_time_that_is_still_to_come_is_carried_on_as_the_present_once() {
    let seen = healthy(3, stored(&json!({})));
    let reported = || Report {
        rollout: Some(RolloutStatus {
            waiting_for: Some(RolloutWait::Drain),
            ..RolloutStatus::default()
        }),
        queue_hold: Some(QueueHoldStatus {
            held_by: vec!["psql".to_owned()],
            ..QueueHoldStatus::default()
        }),
        ..report(&json!({}), &seen)
    };
    let since = |status: &BytebaseClusterStatus| {
        let replica = status.replica_statuses[0].since.clone();
        let rollout = status.rollout.clone().and_then(|rollout| rollout.since);
        let hold = status.queue_hold.clone().and_then(|hold| hold.since);
        [replica, rollout, hold].map(|since| since.unwrap().0)
    };
    let next = |before: &BytebaseClusterStatus, seconds| {
        status(before, reported(), &[], Some(4), later(seconds))
    };
    let ahead = next(&BytebaseClusterStatus::default(), 7200);
    assert_eq!(since(&ahead), [later(7200); 3]);
    let corrected = next(&ahead, 0);
    assert_eq!(since(&corrected), [now(); 3]);
    assert_eq!(since(&next(&corrected, 120)), [now(); 3]);
}

#[test]
fn a_hold_of_the_queue_is_reported_at_its_beginning_and_end() {
    let held = || Report {
        queue_hold: Some(QueueHoldStatus {
            held_by: vec!["drain/demo-1".to_owned()],
            ..QueueHoldStatus::default()
        }),
        ..Report::default()
    };
    let free = first(Report::default());
    let holds = status(&free, held(), &[], None, now());
    let now_held = holds.queue_hold.as_ref().unwrap();
    assert_eq!(now_held.held_by, ["drain/demo-1"]);
    let still = status(&holds, held(), &[], None, later(9));
    assert_eq!(still.queue_hold, holds.queue_hold, "since the beginning");
    let over = status(&still, Report::default(), &[], None, later(9));
    assert_eq!(over.queue_hold, None);
    let reasons = |before, after| -> Vec<Reason> {
        let notices = notices(before, after).into_iter();
        notices.map(|notice| notice.reason).collect()
    };
    assert_eq!(reasons(&free, &holds), [Reason::QueueHeld]);
    assert_eq!(reasons(&holds, &still), []);
    assert_eq!(reasons(&still, &over), [Reason::QueueFree]);
}

#[test]
fn a_message_is_one_line_whatever_it_quotes() {
    let spec = json!({"volumeMounts": [{"name": "x\n2026 ERROR \u{1b}[2J", "mountPath": "/x"}]});
    let seen = healthy(3, stored(&json!({})));
    let before = first(report(&json!({}), &seen));
    let status = status(&before, report(&spec, &seen), &[], Some(4), now());
    let message = &of(&status, ConditionType::ConfigurationValid).message;
    assert!(message.contains("no volume x 2026 ERROR  [2J"), "{message}");
    for notice in notices(&before, &status) {
        assert!(!notice.message.contains(char::is_control), "{notice:?}");
    }
}

#[test]
fn of_many_sessions_that_hold_the_queue_some_are_named() {
    let held = Report {
        queue_hold: Some(QueueHoldStatus {
            held_by: (0..200).map(|number| format!("{number:03}")).collect(),
            ..QueueHoldStatus::default()
        }),
        ..Report::default()
    };
    let held_by = first(held).queue_hold.unwrap().held_by;
    assert_eq!((held_by.len(), &*held_by[9]), (10, "009"));
}

#[test]
fn what_a_blocked_cluster_cannot_report_is_kept() {
    let seen = healthy(3, stored(&json!({})));
    let before = first(report(&json!({}), &seen));
    let blocked = status(
        &before,
        report(&json!({"version": "!"}), &seen),
        &[],
        Some(5),
        later(5),
    );
    assert_eq!(blocked.phase, Some(Phase::Invalid));
    assert_eq!(
        (blocked.selector, blocked.url, blocked.target_replicas),
        (before.selector, before.url, before.target_replicas)
    );
    assert_eq!(blocked.replicas, 3);
}

#[test]
fn what_a_webhook_keeps_otherwise_is_a_remark_on_a_valid_configuration() {
    let overruled = vec![OverruledObject {
        object: "services/demo".to_owned(),
        field: "spec.type".to_owned(),
    }];
    let said = |reason, valid| {
        let report = one(ConditionType::ConfigurationValid, valid, reason, "before");
        let report = with_overruled(report, overruled.clone());
        // The next process knows it whatever else is wrong.
        let status = first(report.clone());
        assert_eq!(status.overruled, overruled, "{reason}");
        let found = report.conditions.into_iter().next().unwrap();
        (found.reason, found.message)
    };
    let (reason, remark) = said(Reason::Valid, Some(true));
    assert_eq!(reason, Reason::ValidWithWarnings);
    assert!(
        remark.starts_with("services/demo: spec.type is not"),
        "{remark}"
    );
    let (reason, message) = said(Reason::CertificateEndsSoon, Some(true));
    assert_eq!(reason, Reason::CertificateEndsSoon);
    assert_eq!(message, format!("before; {remark}"));
    let invalid = said(Reason::InvalidSpec, Some(false));
    assert_eq!(invalid, (Reason::InvalidSpec, "before".to_owned()));
}

#[test]
fn the_generation_is_observed_once_what_was_decided_on_it_stands() {
    let decided = || report(&json!({}), &healthy(3, stored(&json!({}))));
    let before = BytebaseClusterStatus {
        observed_generation: Some(3),
        ..BytebaseClusterStatus::default()
    };
    let observed = |kinds: &[FailureKind]| {
        let failures: Vec<_> = kinds.iter().map(|kind| refused(*kind, false)).collect();
        let status = status(&before, decided(), &failures, Some(4), now());
        let stalled = of(&status, ConditionType::Stalled).observed_generation;
        assert_eq!(stalled, status.observed_generation);
        status.observed_generation
    };
    assert_eq!(observed(&[]), Some(4));
    assert_eq!(observed(&[FailureKind::Transient]), Some(3));
    assert_eq!(observed(&[FailureKind::Conflict]), Some(3));
    // A refusal is the outcome of this spec, and Stalled reports it.
    assert_eq!(observed(&[FailureKind::Refused]), Some(4));
    assert_eq!(
        observed(&[FailureKind::Transient, FailureKind::Refused]),
        Some(4)
    );
}

/// `kubectl wait --for=condition=Ready` compares the generation of the condition alone.
#[test]
fn what_promises_the_spec_speaks_of_no_generation_that_was_refused() {
    let decided = || report(&json!({}), &healthy(3, stored(&json!({}))));
    let failed = [refused(FailureKind::Refused, false)];
    let of_generation =
        |status: &BytebaseClusterStatus, type_| of(status, type_).observed_generation;
    let none = BytebaseClusterStatus::default();
    let at = |previous: &BytebaseClusterStatus, failures: &[_], generation| {
        status(previous, decided(), failures, Some(generation), now())
    };

    let retried = [refused(FailureKind::Transient, false)];
    let never = at(&none, &failed, 1);
    let stood = at(&none, &[], 3);
    let drifted = at(&stood, &failed, 3);
    let edited = at(&drifted, &failed, 4);
    let again = at(&at(&edited, &retried, 4), &failed, 4);
    let invalid = report(&json!({"version": "!"}), &healthy(3, stored(&json!({}))));
    let invalid = status(&edited, invalid, &[], Some(5), now());
    let corrected = at(&invalid, &failed, 6);
    let stands = at(&corrected, &[], 6);
    for type_ in [ConditionType::Ready, ConditionType::RolloutComplete] {
        let observed = [&never, &stood, &drifted, &edited, &again, &stands];
        let observed = observed.map(|status| of_generation(status, type_));
        assert_eq!(observed, [0, 3, 3, 3, 3, 6].map(Some), "{type_}");
        let corrected = of_generation(&corrected, type_);
        assert!(corrected <= Some(3), "{type_}: {corrected:?}");
    }
    // The refusal itself is the outcome of the new spec.
    for type_ in [ConditionType::Stalled, ConditionType::Reconciling] {
        assert_eq!(of_generation(&edited, type_), Some(4), "{type_}");
    }
    assert_eq!(edited.observed_generation, Some(4));
}

#[test]
fn an_eviction_that_is_left_out_is_not_reported_as_one() {
    let mut rolling = healthy(3, stored(&json!({})));
    rolling.pods[0].revision = Some("old".to_owned());
    let decided = report(&json!({}), &rolling);
    let missing = ["serviceaccounts/demo".to_owned()];
    let left_out = first(with_eviction_left_out(decided.clone(), &missing));
    let message = "waiting for serviceaccounts/demo to be written before demo-0 is replaced";
    let rollout = left_out.rollout.clone().unwrap();
    assert_eq!(
        (rollout.waiting_for, rollout.pod.as_deref()),
        (Some(RolloutWait::StatefulSetController), Some("demo-0"))
    );
    assert_eq!(rollout.message, message);
    let complete = of(&left_out, ConditionType::RolloutComplete);
    assert_eq!(
        (&*complete.reason, &*complete.message),
        ("RolloutWaiting", message)
    );
    let reconciling = of(&left_out, ConditionType::Reconciling);
    assert_eq!(
        (&*reconciling.reason, &*reconciling.message),
        ("Progressing", message)
    );
    // Nothing else is.
    assert_eq!(with_eviction_left_out(decided.clone(), &[]), decided);
    let settled = report(&json!({}), &healthy(3, stored(&json!({}))));
    assert_eq!(with_eviction_left_out(settled.clone(), &missing), settled);
}

#[test]
fn a_refused_write_stalls_whatever_was_decided() {
    let decided = || report(&json!({}), &healthy(3, stored(&json!({}))));
    for (kind, reason) in [
        (FailureKind::Forbidden, Reason::Forbidden),
        (FailureKind::NameTaken, Reason::NameTaken),
        (FailureKind::ChangedBack, Reason::ChangedBack),
        (FailureKind::Refused, Reason::ApplyFailed),
        (FailureKind::Stuck, Reason::ApplyFailed),
    ] {
        for ingress in [false, true] {
            let failures = [
                refused(FailureKind::Transient, true),
                refused(kind, ingress),
            ];
            let status = status(
                &BytebaseClusterStatus::default(),
                decided(),
                &failures,
                None,
                now(),
            );
            assert_eq!(status.phase, Some(Phase::Stalled));
            let stalled = of(&status, ConditionType::Stalled);
            assert_eq!(
                (stalled.status.as_str(), stalled.reason.as_str()),
                ("True", reason.as_ref())
            );
            assert_eq!(stalled.message, failures[1].message);
            assert_eq!(of(&status, ConditionType::Reconciling).status, "False");
            let exposed = of(&status, ConditionType::Exposed);
            assert_eq!(exposed.reason == Reason::IngressFailed.as_ref(), ingress);
        }
    }
    // What passes by itself is no condition.
    for kind in [
        FailureKind::Transient,
        FailureKind::Conflict,
        FailureKind::Ending,
    ] {
        let status = status(
            &first(decided()),
            decided(),
            &[refused(kind, true)],
            Some(4),
            now(),
        );
        assert_eq!(status, first(decided()));
    }
}

/// Status, reason and message of a condition.
type State = (Option<bool>, Reason, &'static str);

/// Expects an event at the change of a condition, or none: `Some(true)` is a warning.
fn expect_event(type_: ConditionType, before: State, after: State, published: Option<bool>) {
    let [before, after] =
        [before, after].map(|(status, reason, message)| first(one(type_, status, reason, message)));
    let notices = notices(&before, &after);
    assert_eq!(
        notices.len(),
        usize::from(published.is_some()),
        "{type_} {after:?}"
    );
    if let (Some(warning), Some(notice)) = (published, notices.first()) {
        assert_eq!(notice.warning, warning, "{notice:?}");
        assert_eq!(notice.condition, Some(type_));
        assert_eq!(notice.message, of(&after, type_).message);
        assert_eq!(notice.reason.as_ref(), of(&after, type_).reason);
    }
}

#[test]
fn events_report_a_changed_status_or_reason_only() {
    use ConditionType::{ConfigurationValid, HaLicensed, Ready, Reconciling, Stalled};
    let [yes, no] = [Some(true), Some(false)];
    for (type_, before, after, published) in [
        (
            Ready,
            (no, Reason::ReplicasNotReady, "a"),
            (no, Reason::ReplicasNotReady, "b"),
            None,
        ),
        (
            Ready,
            (no, Reason::ReplicasNotReady, "a"),
            (yes, Reason::AllReplicasActive, "b"),
            Some(false),
        ),
        (
            Ready,
            (no, Reason::ReplicasNotReady, "a"),
            (no, Reason::HeldBackByLicense, "a"),
            Some(false),
        ),
        (
            HaLicensed,
            (yes, Reason::LicenseEndsSoon, "7 days"),
            (yes, Reason::LicenseEndsSoon, "7 days"),
            None,
        ),
        (
            ConfigurationValid,
            (yes, Reason::CertificateEndsSoon, "7 days"),
            (yes, Reason::CertificateEndsSoon, "7 days"),
            None,
        ),
        (
            Reconciling,
            (no, Reason::Settled, "a"),
            (yes, Reason::Progressing, "b"),
            None,
        ),
        (
            Stalled,
            (yes, Reason::RolloutStalled, "a"),
            (no, Reason::NotStalled, "b"),
            None,
        ),
    ] {
        expect_event(type_, before, after, published);
    }
}

#[test]
fn an_event_is_a_warning_where_a_user_is_to_act() {
    use ConditionType::{
        ConfigurationValid, DatabaseReady, HaLicensed, Ready, ReplicasHealthy, Stalled,
    };
    let [yes, no] = [Some(true), Some(false)];
    let healthy = (yes, Reason::AllReplicasHealthy, "a");
    let licensed = (yes, Reason::LicenseAllowsHa, "a");
    let ends_soon = (yes, Reason::LicenseEndsSoon, "30 days");
    let certificate = (yes, Reason::CertificateEndsSoon, "30 days");
    let passed = (yes, Reason::DatabaseChecksPassed, "a");
    let goes_on = (no, Reason::NotStalled, "a");
    for (type_, before, status, reason, warning) in [
        (HaLicensed, licensed, no, Reason::LicenseExpiring, true),
        (HaLicensed, licensed, no, Reason::LicenseMissing, true),
        (HaLicensed, licensed, None, Reason::LicenseUnknown, false),
        // Reminders.
        (HaLicensed, licensed, yes, Reason::LicenseEndsSoon, true),
        (HaLicensed, ends_soon, yes, Reason::LicenseEndsSoon, true),
        (ConfigurationValid, certificate, yes, certificate.1, true),
        (ReplicasHealthy, healthy, no, Reason::ForeignReplica, true),
        (ReplicasHealthy, healthy, no, Reason::ReplicaCrashing, true),
        (ReplicasHealthy, healthy, no, Reason::HeartbeatStale, true),
        (ReplicasHealthy, healthy, no, Reason::ReplicaNotReady, false),
        (ReplicasHealthy, healthy, None, Reason::CannotWatch, false),
        (
            DatabaseReady,
            passed,
            None,
            Reason::DatabaseUnreachable,
            true,
        ),
        // It lasts until the user gives the operator a login.
        (
            DatabaseReady,
            passed,
            None,
            Reason::DatabaseCannotRead,
            true,
        ),
        (Ready, healthy, None, Reason::CannotWatch, false),
        (Stalled, goes_on, yes, Reason::CannotWatch, true),
        (Stalled, goes_on, yes, Reason::RolloutStalled, true),
        // It is not up after so long.
        (Stalled, goes_on, yes, Reason::ReplicaNotReady, true),
    ] {
        expect_event(type_, before, (status, reason, "b"), Some(warning));
    }
}

#[test]
fn a_license_that_is_not_stored_is_a_step_of_the_first_start_and_later_a_warning() {
    for reason in [Reason::AwaitingFirstSignUp, Reason::LicenseNotInstalled] {
        for (replicas, expected) in [(0, false), (1, false), (3, true)] {
            let before = first(one(
                ConditionType::HaLicensed,
                None,
                Reason::LicenseUnknown,
                "a",
            ));
            let report = Report {
                replicas,
                ..one(ConditionType::HaLicensed, Some(false), reason, "b")
            };
            let after = status(&before, report, &[], None, later(9));
            let notices = notices(&before, &after);
            let marks: Vec<_> = notices.iter().map(|notice| notice.warning).collect();
            assert_eq!(marks, [expected], "{reason}, {replicas}");
        }
    }
}

#[test]
fn the_first_status_of_a_new_cluster_is_no_news() {
    let seen = observation(None, DatabaseView::NotProbed);
    let status = first(report(&json!({}), &seen));
    let published: Vec<_> = notices(&BytebaseClusterStatus::default(), &status)
        .into_iter()
        .map(|notice| notice.reason)
        .collect();
    for quiet in [
        Reason::DatabaseNotProbed,
        Reason::LicenseUnknown,
        Reason::Valid,
        Reason::RolloutDone,
        Reason::NotStalled,
        Reason::Progressing,
    ] {
        assert!(!published.contains(&quiet), "{published:?}");
    }
    let seen = healthy(3, stored(&json!({})));
    let passed = Reason::DatabaseChecksPassed;
    let sound = first(report(&json!({}), &seen));
    let published = |before: &BytebaseClusterStatus| {
        let notices = notices(before, &sound);
        notices.iter().any(|notice| notice.reason == passed)
    };
    assert!(!published(&BytebaseClusterStatus::default()) && published(&status));
    // A wrong spec is reported once, on the condition that names it; the license is judged all the
    // same.
    let status = first(report(&json!({"version": "!"}), &seen));
    let published: Vec<_> = notices(&BytebaseClusterStatus::default(), &status)
        .into_iter()
        .map(|notice| notice.reason)
        .collect();
    assert_eq!(published, [Reason::LicenseAllowsHa, Reason::InvalidSpec]);
}

#[test]
fn every_replica_has_one_entry() {
    let status = first(report(&json!({}), &healthy(3, stored(&json!({})))));
    let pods: Vec<_> = status
        .replica_statuses
        .iter()
        .map(|ReplicaStatus { pod, .. }| pod.as_str())
        .collect();
    assert_eq!(pods, ["demo-0", "demo-1", "demo-2"]);
}

proptest! {
    #[test]
    fn a_long_message_is_cut_between_characters(shift in 0..8_usize, unit in proptest::sample::select(vec!["x", "ä", "…", "🦀"])) {
        let message = format!("{}{}", "x".repeat(shift), unit.repeat(LONGEST_MESSAGE));
        let status = first(one(ConditionType::Ready, None, Reason::Valid, &message));
        let cut = &of(&status, ConditionType::Ready).message;
        prop_assert!(cut.len() <= LONGEST_MESSAGE && cut.len() > LONGEST_MESSAGE - 4);
        prop_assert!(message.starts_with(cut.as_str()));
    }
}

#[test]
fn a_cluster_whose_objects_cannot_be_seen_is_not_reported_as_it_was() {
    let seen = healthy(3, stored(&json!({})));
    let before = first(report(&json!({}), &seen));
    assert_eq!(of(&before, ConditionType::Ready).status, "True");
    let message = "the operator may not watch pods";
    let after = unseen(&before, message, later(60));
    for (type_, expected) in [
        (ConditionType::Ready, "Unknown"),
        (ConditionType::ReplicasHealthy, "Unknown"),
        (ConditionType::Stalled, "True"),
        (ConditionType::Reconciling, "False"),
    ] {
        let condition = of(&after, type_);
        let found = (&*condition.status, &*condition.reason, &*condition.message);
        assert_eq!(found, (expected, "CannotWatch", message), "{type_}");
    }
    assert_eq!(after.phase, Some(Phase::Stalled));
    // What was learnt stays, and the spec of now counts as not seen.
    assert_eq!(after.license, before.license);
    assert_eq!(after.database, before.database);
    assert_eq!(after.observed_generation, Some(4));
    assert_eq!(
        unseen(&after, message, later(120)),
        after,
        "no write without news"
    );
    let empty = unseen(&BytebaseClusterStatus::default(), message, now());
    assert_eq!(empty.conditions.len(), 4);
    assert_eq!(
        notices(&before, &after)
            .iter()
            .filter(|notice| notice.warning)
            .count(),
        1
    );
}

#[test]
fn a_write_that_goes_on_failing_is_reported_in_the_words_of_its_failure() {
    let failing = || vec![refused(FailureKind::Transient, false)];
    let at = |seconds: i64| later(seconds)..=later(seconds);
    let kind_after = |seconds: i64, previous: &BytebaseClusterStatus, since: &mut Option<_>| {
        let mut failures = failing();
        mark_lasting(&mut failures, previous, since, &at(seconds));
        failures[0].kind
    };
    let none = BytebaseClusterStatus::default();
    let mut since = None;
    for (seconds, expected) in [
        (0, FailureKind::Transient),
        (29, FailureKind::Transient),
        (30, FailureKind::Lasting),
    ] {
        assert_eq!(
            kind_after(seconds, &none, &mut since),
            expected,
            "{seconds}"
        );
    }
    let seen = healthy(3, stored(&json!({})));
    let mut failures = failing();
    failures[0].kind = FailureKind::Lasting;
    let after = status(&none, report(&json!({}), &seen), &failures, Some(4), now());
    let stalled = of(&after, ConditionType::Stalled);
    assert_eq!(
        (&*stalled.status, &*stalled.reason),
        ("True", "ApplyFailed")
    );
    assert!(stalled.message.contains(&failures[0].message));
    // Another process goes on from what the status says.
    assert_eq!(kind_after(0, &after, &mut None), FailureKind::Lasting);
    // The writes of one reconcile may be waited for as long.
    let mut failures = failing();
    mark_lasting(&mut failures, &none, &mut None, &(later(0)..=later(40)));
    assert_eq!(failures[0].kind, FailureKind::Lasting);
    // The clock was set back by an hour.
    let mut back = Some(later(3600));
    for (seconds, expected) in [(0, FailureKind::Transient), (30, FailureKind::Lasting)] {
        assert_eq!(kind_after(seconds, &none, &mut back), expected);
    }
    // A success ends it.
    mark_lasting(&mut [], &after, &mut since, &at(40));
    assert_eq!(since, None);
    // So is what is said to have changed in between each time.
    for (seconds, expected) in [(29, FailureKind::Conflict), (30, FailureKind::Lasting)] {
        let conflict = &mut [refused(FailureKind::Conflict, false)];
        mark_lasting(conflict, &none, &mut Some(later(0)), &at(seconds));
        assert_eq!(conflict[0].kind, expected, "{seconds}");
    }
}

#[test]
fn a_drain_is_reported_once_when_it_begins() {
    let report = |ending: bool, tasks: i64| Report {
        replica_statuses: vec![ReplicaStatus {
            running_tasks: Some(tasks),
            drain: (ending && tasks > 0).then_some(DrainState::Draining),
            drains_until: ending.then(|| Time(later(60))),
            ends_by: ending.then(|| Time(later(125))),
            ..serde_json::from_value(json!({"pod": "demo-1", "heartbeat": "Fresh"})).unwrap()
        }],
        ..Report::default()
    };
    let runs = first(report(false, 2));
    let after = |before: &BytebaseClusterStatus, ending, tasks| {
        let next = status(before, report(ending, tasks), &[], None, now());
        let published = notices(before, &next);
        let texts: Vec<_> = published
            .iter()
            .map(|notice| (notice.reason, notice.warning, notice.message.clone()))
            .collect();
        (next, texts)
    };
    let (draining, begins) = after(&runs, true, 2);
    let text = format!(
        "demo-1 was asked to end and finishes its 2 running tasks first, until {:.0} at the latest; nothing gives it more time",
        later(60)
    );
    assert_eq!(begins, [(Reason::DrainBegan, false, text)]);
    let subject = |ends_by| {
        let mut report = report(true, 2);
        report.replica_statuses[0].ends_by = Some(Time(ends_by));
        let next = status(&runs, report, &[], None, now());
        notices(&runs, &next).remove(0).subject
    };
    assert_ne!(subject(later(125)), subject(later(300)), "of another drain");
    let (idle, none) = after(&draining, true, 0);
    assert_eq!(none, []);
    assert_eq!(after(&idle, true, 1).1, [], "it goes on");
    assert_eq!(after(&runs, true, 0).1, [], "nothing is waited for");
}

#[test]
fn a_drain_that_is_cut_short_is_a_warning_that_says_what_is_lost() {
    let report = |tasks: Option<i64>, drain| Report {
        replica_statuses: vec![ReplicaStatus {
            running_tasks: tasks,
            drain: Some(drain),
            ..serde_json::from_value(json!({"pod": "demo-1", "heartbeat": "Fresh"})).unwrap()
        }],
        ..Report::default()
    };
    let before = first(report(Some(2), DrainState::Draining));
    for (tasks, lost) in [
        (Some(0), "it runs no task"),
        (Some(1), "the task that it still runs is cancelled then"),
        (Some(2), "the 2 tasks that it still runs are cancelled then"),
        (None, "what it has not finished is cancelled then"),
    ] {
        let cut = report(tasks, DrainState::CutShort);
        let cut = status(&before, cut, &[], None, now());
        let published = notices(&before, &cut);
        let [notice] = published.as_slice() else {
            panic!("{published:?}")
        };
        let expected = (Reason::HeldBackByLicense, true);
        assert_eq!((notice.reason, notice.warning), expected);
        assert!(notice.message.ends_with(lost), "{}", notice.message);
        // Which tasks these are can be found, where the id of the replica is known.
        let mut named = report(tasks, DrainState::CutShort);
        named.replica_statuses[0].replica_id = Some("id-1".to_owned());
        let named = status(&before, named, &[], None, now());
        let message = &notices(&before, &named)[0].message;
        let which = " (in Bytebase's table task_run: those whose replica_id is id-1)";
        let which = if tasks == Some(0) { "" } else { which };
        assert!(message.ends_with(&format!("{lost}{which}")), "{message}");
        for (ids, named) in [
            (vec![12], [" (task run 12; ", " (task run 12 and others; "]),
            (vec![12, 15], [" (task runs 12, 15; "; 2]),
        ] {
            let mut read = report(tasks, DrainState::CutShort);
            let replica = &mut read.replica_statuses[0];
            replica.replica_id = Some("id-1".to_owned());
            replica.task_runs = ids;
            let read = status(&before, read, &[], None, now());
            let message = &notices(&before, &read)[0].message;
            let named = named[usize::from(tasks == Some(2))];
            let is_named = message.contains(named);
            assert_eq!(is_named, tasks != Some(0), "{message}");
        }
        // It goes on with fewer, or as the next process sees it.
        let still = report(Some(0), DrainState::CutShort);
        let still = status(&cut, still, &[], None, later(9));
        assert_eq!(notices(&cut, &still), []);
    }
}

#[test]
fn a_drain_that_cannot_be_cut_short_is_a_warning_that_says_until_when_it_may_go_on() {
    let report = |tasks: Option<i64>, drain| Report {
        replica_statuses: vec![ReplicaStatus {
            running_tasks: tasks,
            drain: Some(drain),
            drains_until: Some(Time(later(60))),
            ends_by: Some(Time(later(125))),
            ..serde_json::from_value(json!({"pod": "demo-1", "heartbeat": "Fresh"})).unwrap()
        }],
        ..Report::default()
    };
    let before = first(report(Some(2), DrainState::Draining));
    for (tasks, runs) in [
        (Some(1), "the task that it runs"),
        (Some(2), "the 2 tasks that it runs"),
        (None, "what it runs"),
    ] {
        let missed = report(tasks, DrainState::NotReached);
        let missed = status(&before, missed, &[], None, now());
        let published = notices(&before, &missed);
        let [notice] = published.as_slice() else {
            panic!("{published:?}")
        };
        let expected = (Reason::HeldBackByLicense, true);
        assert_eq!((notice.reason, notice.warning), expected);
        let until = format!("{runs} may go on, until {:.0} at the latest", later(60));
        assert!(notice.message.contains(&until), "{}", notice.message);
        let still = report(Some(1), DrainState::NotReached);
        let still = status(&missed, still, &[], None, later(9));
        assert_eq!(notices(&missed, &still), []);
        // Its hook has come back.
        let cut = status(
            &still,
            report(tasks, DrainState::CutShort),
            &[],
            None,
            now(),
        );
        assert_eq!(notices(&still, &cut).len(), 1);
    }
}

#[test]
fn what_lasts_too_long_is_reported_once() {
    let drain = |tasks, drain| ReplicaStatus {
        running_tasks: Some(tasks),
        drain: Some(drain),
        drains_until: Some(Time("2026-06-01T01:00:00Z".parse().unwrap())),
        ends_by: Some(Time("2026-06-01T01:01:05Z".parse().unwrap())),
        ..serde_json::from_value(json!({"pod": "demo-1", "heartbeat": "Fresh"})).unwrap()
    };
    let report = |overdue, tasks, state| Report {
        queue_hold: Some(QueueHoldStatus {
            held_by: vec!["psql".to_owned()],
            since: None,
            overdue,
        }),
        stuck_tasks: (tasks > 0).then(|| StuckTasks {
            tasks,
            replica_ids: vec!["an-id".to_owned()],
            unbegun: tasks - 1,
            unbegun_replica_ids: vec!["its-id".to_owned()],
        }),
        replica_statuses: vec![drain(tasks, state)],
        ..Report::default()
    };
    let before = first(report(false, 0, DrainState::Draining));
    let over = status(
        &before,
        report(true, 2, DrainState::EndsSoon),
        &[],
        None,
        now(),
    );
    let published = notices(&before, &over);
    let words = [
        (Reason::QueueHeldLong, "held by psql"),
        (
            Reason::TasksStuck,
            "2 tasks are marked as running whose replica has sent no heartbeat for two minutes (an-id)",
        ),
        (
            Reason::TasksStuck,
            "1 task is marked as running that a replica took over ten minutes ago and has not begun since (its-id)",
        ),
        (
            Reason::DrainEndsSoon,
            "demo-1 still runs 2 tasks, which are cancelled at 2026-06-01T01:00:00Z if not finished by then",
        ),
    ];
    assert_eq!(published.len(), words.len());
    for (notice, (reason, words)) in published.iter().zip(words) {
        assert_eq!((notice.reason, notice.warning), (reason, true));
        assert!(notice.message.contains(words), "{}", notice.message);
    }
    let of_one = status(
        &before,
        report(false, 1, DrainState::EndsSoon),
        &[],
        None,
        now(),
    );
    let messages: Vec<_> = notices(&before, &of_one)
        .into_iter()
        .map(|notice| notice.message)
        .collect();
    assert!(
        messages[0].starts_with("1 task is marked")
            && messages[0].contains("sets it to FAILED")
            && messages[0].ends_with("before you run it again"),
        "{messages:?}"
    );
    assert!(
        messages[1].starts_with("demo-1 still runs 1 task, which is cancelled"),
        "{messages:?}"
    );
    // As the number of tasks changes.
    let still = status(
        &over,
        report(true, 1, DrainState::EndsSoon),
        &[],
        None,
        later(9),
    );
    assert_eq!(notices(&over, &still), []);
    let gone = status(&still, Report::default(), &[], None, later(9));
    let published: Vec<_> = notices(&still, &gone)
        .into_iter()
        .map(|notice| notice.reason)
        .collect();
    assert_eq!(published, [Reason::QueueFree]);
}
