//! Replicas that send no heartbeat for too long, tasks without a replica, a queue that stays held,
//! drains near their end.

use super::{plan, state};
use crate::api::ConditionType;
use crate::api::status::{BytebaseClusterStatus, DrainState, HeartbeatState};
use crate::contract::version::Version;
use crate::decide::plan::Plan;
use crate::observation::{
    DatabaseView, Fact, FailureClass, FailureReason, Observation, RunningTasks, SchemaState,
    Sessions,
};
use crate::observe::remembered::remembered;
use crate::report;
use crate::testing::{
    OLD, after, failure, healthy, heartbeats, id, now, running, stored, with_facts,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::time::Duration;

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

fn opted_in() -> Value {
    json!({"rollout": {"restartStaleReplicasAfterSeconds": 300}})
}

/// Three replicas, of which these have sent no heartbeat for this long.
fn without_heartbeats(ordinals: &[usize], age: u64) -> Observation {
    with_facts(healthy(3, stored(&json!({}))), |facts| {
        for ordinal in ordinals {
            heartbeats(facts)[*ordinal].age = Duration::from_secs(age);
        }
    })
}

/// What the status says that was written so many seconds ago.
fn since(mut seen: Observation, seconds: i64) -> Observation {
    let report = plan(&json!({}), &seen).report;
    let written = after(secs(-seconds));
    let status = report::status(
        &BytebaseClusterStatus::default(),
        report,
        &[],
        Some(1),
        written,
    );
    seen.remembered = remembered(&status, None);
    seen
}

fn evicted(plan: &Plan) -> Option<&str> {
    plan.eviction.as_ref().map(|eviction| eviction.pod.as_str())
}

#[test]
fn a_stale_replica_is_replaced_after_the_time_of_the_users_choice_and_no_other() {
    let seen = |seconds| since(without_heartbeats(&[1], 400), seconds);
    for (changes, seconds, expected) in [
        (opted_in(), 300, Some("demo-1")),
        (opted_in(), 299, None),
        (json!({}), 86_400, None),
    ] {
        assert_eq!(evicted(&plan(&changes, &seen(seconds))), expected);
    }
    let waits = plan(&opted_in(), &seen(299));
    assert_eq!(waits.requeue_at, Some(after(secs(1))));
    // The clock of the leader before was two hours ahead.
    let ahead = plan(&opted_in(), &seen(-7200));
    assert_eq!(ahead.requeue_at, Some(after(secs(300))));
    // A process that never saw it before begins to count.
    assert_eq!(
        evicted(&plan(&opted_in(), &without_heartbeats(&[1], 400))),
        None
    );
    let why = plan(&opted_in(), &seen(300)).eviction.unwrap();
    assert_eq!(why.uid, "uid-1");
    assert!(
        why.why.contains("restartStaleReplicasAfterSeconds"),
        "{why:?}"
    );
}

#[test]
fn a_stale_replica_is_replaced_also_on_a_schema_that_went_back() {
    let back = with_facts(since(without_heartbeats(&[1], 400), 300), |facts| {
        let version = Some(Version::new(3, 20, 5));
        facts.schema = SchemaState::Bytebase { version };
    });
    let plan = plan(&opted_in(), &back);
    assert_eq!(state(&plan, ConditionType::DatabaseReady).0, None);
    assert_eq!(evicted(&plan), Some("demo-1"));
}

#[test]
fn a_stale_replica_stays_where_the_fault_may_be_another_or_another_pod_is_going() {
    type Change = fn(&mut Observation);
    let migrating = |seen: &mut Observation| {
        if let DatabaseView::Probed(Ok(facts)) = &mut seen.database {
            facts.sessions = Some(Sessions {
                migration_running: true,
                ..Sessions::default()
            });
        }
    };
    let unread = |seen: &mut Observation| {
        if let DatabaseView::Probed(Ok(facts)) = &mut seen.database {
            facts.sessions = None;
        }
    };
    let cases: [(&str, Change); 12] = [
        ("an outage", |seen| {
            seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
        }),
        ("a refused database", |seen| {
            if let DatabaseView::Probed(Ok(facts)) = &mut seen.database {
                facts.transaction_pooler = Some(true);
            }
        }),
        ("a database that only the replicas can log in to", |seen| {
            seen.database = DatabaseView::CannotRead;
        }),
        ("tables of another form", |seen| {
            if let DatabaseView::Probed(Ok(facts)) = &mut seen.database {
                facts.not_understood = vec!["setting"];
            }
        }),
        ("lost tables", |seen| {
            if let DatabaseView::Probed(Ok(facts)) = &mut seen.database {
                facts.schema = SchemaState::Empty;
            }
        }),
        ("a migration", migrating),
        ("sessions not read", unread),
        ("a pod that ends", |seen| seen.pods[0].deleting = true),
        ("a pod that starts", |seen| seen.pods[0].ready = false),
        ("a pod to be made", |seen| drop(seen.pods.pop())),
        ("a rollout that is over next", |seen| {
            seen.stateful_set.as_mut().unwrap().settled = false;
        }),
        ("another process in it", |seen| {
            seen.pods[1].replica_id = Some(id(7));
            seen.pods[1].started_at = Some(now());
        }),
    ];
    for (name, change) in cases {
        let mut seen = since(without_heartbeats(&[1], 400), 999);
        change(&mut seen);
        let plan = plan(&opted_in(), &seen);
        assert_eq!(evicted(&plan), None, "{name}");
    }
    // None serves: what keeps all of them from sending heartbeats is no fault of theirs.
    let all = since(without_heartbeats(&[0, 1, 2], 400), 999);
    assert_eq!(evicted(&plan(&opted_in(), &all)), None);
    let two = since(without_heartbeats(&[0, 2], 400), 999);
    assert_eq!(evicted(&plan(&opted_in(), &two)), Some("demo-0"));
    // It is not given up by the others yet.
    let early = since(without_heartbeats(&[1], 59), 999);
    assert_eq!(evicted(&plan(&opted_in(), &early)), None);
    let mut paused = opted_in();
    paused["paused"] = json!(true);
    let seen = since(without_heartbeats(&[1], 400), 999);
    assert_eq!(evicted(&plan(&paused, &seen)), None);
    // A rollout has an order of its own.
    let mut outdated = seen;
    outdated.pods[0].revision = Some(OLD.to_owned());
    assert_ne!(evicted(&plan(&opted_in(), &outdated)), Some("demo-1"));
}

#[test]
fn a_row_that_bytebase_deletes_does_not_begin_the_silence_again() {
    let seen = since(without_heartbeats(&[1], 3700), 3600);
    let mut gone = with_facts(without_heartbeats(&[1], 3700), |facts| {
        heartbeats(facts).remove(1);
    });
    let stale = plan(&json!({}), &seen).report;
    let before = report::status(
        &BytebaseClusterStatus::default(),
        stale,
        &[],
        Some(1),
        after(secs(-3600)),
    );
    let missing = plan(&json!({}), &gone).report;
    let status = report::status(&before, missing, &[], Some(1), now());
    let replica = &status.replica_statuses[1];
    assert_eq!(replica.heartbeat, HeartbeatState::Missing);
    assert_eq!(replica.since, before.replica_statuses[1].since);
    gone.remembered = remembered(&status, None);
    assert_eq!(evicted(&plan(&opted_in(), &gone)), Some("demo-1"));
}

fn tasks(of: &[(i32, u64)]) -> Vec<RunningTasks> {
    let tasks = of.iter().map(|(ordinal, count)| RunningTasks {
        replica_id: id(*ordinal),
        count: *count,
    });
    tasks.collect()
}

#[test]
fn tasks_are_stuck_when_their_replica_has_sent_no_heartbeat_for_two_minutes() {
    let with = |age| {
        with_facts(without_heartbeats(&[1], age), |facts| {
            *running(facts) = tasks(&[(0, 5), (1, 2), (9, 3)]);
        })
    };
    let stuck = |seen: &Observation| plan(&json!({}), seen).report.stuck_tasks;
    // Of one whose row is gone it is not known since when.
    let early = stuck(&with(119)).unwrap();
    assert_eq!(
        (early.tasks, early.replica_ids),
        (3, vec![id(9).to_string()])
    );
    let late = stuck(&with(120)).unwrap();
    assert_eq!(
        (late.tasks, late.replica_ids),
        (5, vec![id(1).to_string(), id(9).to_string()])
    );
    assert_eq!(
        plan(&json!({}), &with(100)).requeue_at,
        Some(after(secs(21))),
        "a reconcile when it comes true"
    );
    for seen in [
        with_facts(with(999), |facts| facts.heartbeats = Fact::Unknown),
        with_facts(with(999), |facts| facts.running_tasks = Fact::Unknown),
        without_heartbeats(&[], 0),
    ] {
        assert_eq!(stuck(&seen), None);
    }
}

#[test]
fn tasks_are_stuck_that_a_replica_which_works_has_never_begun() {
    let with = |age| {
        with_facts(without_heartbeats(&[1], age), |facts| {
            *running(facts) = tasks(&[(0, 5), (1, 2)]);
            facts.unbegun_tasks = tasks(&[(0, 3), (1, 1)]);
        })
    };
    let stuck = |seen: &Observation| plan(&json!({}), seen).report.stuck_tasks.unwrap();
    let works = stuck(&with(119));
    assert_eq!((works.tasks, works.unbegun), (0, 4));
    assert_eq!(
        works.unbegun_replica_ids,
        [id(0).to_string(), id(1).to_string()]
    );
    // Those of one that is gone count as such.
    let gone = stuck(&with(120));
    assert_eq!((gone.tasks, gone.unbegun), (2, 3));
    assert_eq!(gone.unbegun_replica_ids, [id(0).to_string()]);
}

#[test]
fn a_queue_that_is_held_for_longer_than_hooks_hold_it_is_overdue() {
    let held = |seconds: i64| {
        let mut seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
            facts.sessions = Some(Sessions {
                queue_held_by: ["psql".to_owned()].into(),
                ..Sessions::default()
            });
        });
        seen.remembered.queue_held_since = Some(after(secs(-seconds)));
        seen
    };
    let spec = json!({"rollout": {"holdLimitSeconds": 100}});
    for (seconds, overdue) in [(159, false), (160, true)] {
        let plan = plan(&spec, &held(seconds));
        assert_eq!(plan.report.queue_hold.unwrap().overdue, overdue);
    }
    assert_eq!(plan(&spec, &held(150)).requeue_at, Some(after(secs(10))));
    // The clock of the leader before was two hours ahead.
    assert_eq!(plan(&spec, &held(-7200)).requeue_at, Some(after(secs(160))));
    // Where the spec cannot be used, it is what it was before.
    for overdue in [false, true] {
        let mut seen = held(160);
        seen.remembered.queue_overdue = overdue;
        let invalid = plan(&json!({"externalURL": "nonsense"}), &seen);
        assert_eq!(invalid.report.queue_hold.unwrap().overdue, overdue);
    }
}

#[test]
fn queued_work_is_a_reason_to_read_who_holds_the_queue() {
    for (pending, reads) in [(0, false), (1, true)] {
        let seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
            facts.pending_tasks = Fact::Known(pending);
        });
        assert_eq!(plan(&json!({}), &seen).read_options.sessions, reads);
    }
}

#[test]
fn a_drain_is_near_its_end_in_the_last_five_minutes_or_the_last_tenth() {
    let ending = |whole: i64, left: i64, count| {
        let mut seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
            *running(facts) = tasks(&[(1, count)]);
        });
        let pod = &mut seen.pods[1];
        pod.deleting = true;
        pod.ending_since = Some(after(secs(left - whole)));
        // Kubernetes ends it by force only after that.
        pod.drain_timeout = Some(secs(whole));
        pod.ends_by = Some(after(secs(left + 65)));
        seen
    };
    let drain = |whole, left, count| plan(&json!({}), &ending(whole, left, count));
    let state = |plan: &Plan| plan.report.replica_statuses[1].drain;
    for (whole, left, expected) in [
        (3600, 301, DrainState::Draining),
        (3600, 300, DrainState::EndsSoon),
        (100, 11, DrainState::Draining),
        (100, 10, DrainState::EndsSoon),
        (100, -1, DrainState::EndsSoon),
    ] {
        let plan = drain(whole, left, 1);
        assert_eq!(state(&plan), Some(expected), "{whole} {left}");
        let reported = &plan.report.replica_statuses[1];
        assert_eq!(reported.drains_until, Some(Time(after(secs(left)))));
        assert_eq!(reported.ends_by, Some(Time(after(secs(left + 65)))));
    }
    // Kubernetes does not wait for the hook, or what its command says is not known.
    for timeout in [Some(secs(9999)), None] {
        let mut seen = ending(3600, 235, 1);
        seen.pods[1].drain_timeout = timeout;
        let plan = plan(&json!({}), &seen);
        assert_eq!(state(&plan), Some(DrainState::EndsSoon));
        let reported = &plan.report.replica_statuses[1];
        assert_eq!(reported.drains_until, reported.ends_by);
    }
    // Without a hook they are being cancelled.
    let mut cancels = ending(3600, 3000, 1);
    cancels.pods[1].drains = false;
    let reported = &plan(&json!({}), &cancels).report.replica_statuses[1];
    assert_eq!((reported.drain, &reported.drains_until), (None, &None));
    assert_eq!(drain(3600, 310, 1).requeue_at, Some(after(secs(10))));
    assert_eq!(state(&drain(3600, 10, 0)), None);
    assert_eq!(
        plan(&json!({}), &healthy(3, stored(&json!({}))))
            .report
            .replica_statuses[1]
            .drain,
        None
    );
}

#[test]
fn an_outage_does_not_begin_the_time_of_a_stale_replica_again() {
    let hourly = json!({"rollout": {"restartStaleReplicasAfterSeconds": 3600}});
    let next = |before: &BytebaseClusterStatus, seen: &mut Observation, seconds| {
        seen.remembered = remembered(before, None);
        seen.now = after(secs(seconds));
        let plan = plan(&hourly, seen);
        let evicted = evicted(&plan).map(str::to_owned);
        let status = report::status(before, plan.report, &[], Some(1), seen.now);
        (status, evicted)
    };
    let since = |status: &BytebaseClusterStatus| {
        let replica = &status.replica_statuses[1];
        let times = [&replica.since, &replica.no_heartbeat_since];
        (
            replica.heartbeat,
            times.map(|time| time.clone().map(|time| time.0)),
        )
    };
    let begins = after(secs(0));
    let none = BytebaseClusterStatus::default();
    let (stale, _) = next(&none, &mut without_heartbeats(&[1], 31), 0);
    let mut outage = without_heartbeats(&[1], 31);
    outage.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    let (unread, _) = next(&stale, &mut outage, 3000);
    let kept = [Some(after(secs(3000))), Some(begins)];
    assert_eq!(since(&unread), (HeartbeatState::Unknown, kept));
    let (unread, _) = next(&unread, &mut outage, 3010);
    assert_eq!(since(&unread), (HeartbeatState::Unknown, kept));
    for (age, seconds, is_due) in [(3580, 3550, false), (3700, 3600, true)] {
        let mut again = without_heartbeats(&[1], age);
        let (status, evicted) = next(&unread, &mut again, seconds);
        let times = [Some(begins), None];
        assert_eq!(since(&status), (HeartbeatState::Stale, times), "{age}");
        assert_eq!(evicted.as_deref(), is_due.then_some("demo-1"), "{age}");
    }
    // Its row may be gone by then.
    let mut missing = with_facts(without_heartbeats(&[], 0), |facts| {
        heartbeats(facts).remove(1);
    });
    let (status, evicted) = next(&unread, &mut missing, 3600);
    let times = [Some(begins), None];
    assert_eq!(since(&status), (HeartbeatState::Missing, times));
    assert_eq!(evicted.as_deref(), Some("demo-1"));
    // It has sent one while the operator could not read it.
    let (status, evicted) = next(&unread, &mut without_heartbeats(&[1], 100), 3600);
    let times = [Some(after(secs(3500))), None];
    assert_eq!(since(&status), (HeartbeatState::Stale, times));
    assert_eq!(evicted, None);
    // It sends them again, or is another process.
    let (status, _) = next(&unread, &mut without_heartbeats(&[], 0), 3600);
    let times = [Some(after(secs(3600))), None];
    assert_eq!(since(&status), (HeartbeatState::Fresh, times));
    let mut other = without_heartbeats(&[1], 3700);
    other.pods[1].container_id = Some("containerd://other".to_owned());
    let (status, _) = next(&unread, &mut other, 3600);
    assert_eq!(since(&status), (HeartbeatState::Stale, times));
}
