//! Drains that the license gate cannot wait for.

use super::plan;
use crate::api::status::DrainState;
use crate::api::{BytebaseClusterStatus, Reason};
use crate::decide::plan::Plan;
use crate::observation::{
    Asked, CallFailure, DatabaseView, Fact, Observation, PodTrouble, RunningTasks, Sessions,
    StoredLicense, TaskRuns,
};
use crate::observe::remembered::remembered;
use crate::report;
use crate::testing::{after, healthy, heartbeats, id, no_license, running, stored, with_facts};
use jiff::SignedDuration;
use serde_json::json;

/// Three pods, of which the gate has taken the last, which was asked to end so many seconds ago.
fn draining(seconds: i64, license: StoredLicense) -> Observation {
    let mut seen = healthy(3, license);
    seen.stateful_set = seen.stateful_set.map(|mut set| {
        set.replicas = 2;
        set
    });
    let pod = &mut seen.pods[2];
    pod.deleting = true;
    pod.ending_since = Some(after(SignedDuration::from_secs(-seconds)));
    pod.ends_by = Some(after(SignedDuration::from_secs(3600 - seconds)));
    // Before any of them began to end.
    seen.remembered.unlicensed_since = Some(after(SignedDuration::from_secs(-4000)));
    seen
}

fn let_go(plan: &Plan) -> Vec<&str> {
    plan.let_go.iter().map(String::as_str).collect()
}

fn state_of(plan: &Plan, ordinal: usize) -> Option<DrainState> {
    plan.report.replica_statuses[ordinal].drain
}

#[test]
fn a_drain_without_a_license_has_five_minutes() {
    for spec in [json!({}), json!({"externalURL": "nonsense"})] {
        let early = plan(&spec, &draining(299, no_license()));
        assert_eq!(let_go(&early), [""; 0]);
        assert_eq!(state_of(&early, 2), None);
        assert_eq!(early.requeue_at, Some(after(SignedDuration::from_secs(1))));
        // It is asked as long as it is there: by this process, or by the one that follows it.
        for seconds in [300, 3000] {
            let late = plan(&spec, &draining(seconds, no_license()));
            assert_eq!(let_go(&late), ["demo-2"]);
            assert_eq!(late.eviction, None);
        }
        // Kubernetes ends it now.
        let over = plan(&spec, &draining(3600, no_license()));
        assert_eq!(let_go(&over), [""; 0]);
    }
}

/// The same three of a cluster that is to stop, all of which were asked to end then.
fn stopping(seconds: i64) -> Observation {
    let mut seen = draining(seconds, no_license());
    let [first, second, third] = &mut seen.pods[..] else {
        panic!("three pods");
    };
    for pod in [first, second] {
        pod.deleting = true;
        (pod.ending_since, pod.ends_by) = (third.ending_since, third.ends_by);
    }
    seen.stateful_set.as_mut().unwrap().replicas = 0;
    seen
}

/// A cluster that is to stop has several active replicas all the same, until the first two have
/// ended.
#[test]
fn drains_of_a_cluster_that_is_stopped_have_no_longer_but_for_one() {
    let stopping = |seconds| plan(&json!({"replicas": 0}), &stopping(seconds));
    let early = stopping(299);
    assert_eq!(let_go(&early), [""; 0]);
    assert_eq!(early.requeue_at, Some(after(SignedDuration::from_secs(1))));
    assert_eq!(let_go(&stopping(300)).len(), 2);
}

#[test]
fn of_replicas_whose_heartbeats_are_unknown_one_is_spared() {
    let seen = with_facts(stopping(300), |facts| facts.heartbeats = Fact::Unknown);
    assert_eq!(let_go(&plan(&json!({"replicas": 0}), &seen)).len(), 2);
}

/// No session of the operator's can ask, which is reported like a request that missed its hook.
#[test]
fn without_a_database_that_can_be_read_a_drain_goes_on_and_status_says_so() {
    let mut seen = draining(300, no_license());
    seen.database = DatabaseView::CannotRead;
    seen.asked = None;
    let spec = json!({"license": {"secretRef": {"name": "gone", "key": "license"}}});
    let plan = plan(&spec, &seen);
    assert_eq!(let_go(&plan), ["demo-2"]);
    assert_eq!(state_of(&plan, 2), Some(DrainState::NotReached));
}

#[test]
fn a_drain_is_cut_short_where_its_hook_was_asked_and_goes_on_where_it_could_not_be() {
    let of = |pods: &[&str]| pods.iter().map(ToString::to_string).collect();
    let asked = |reached: &[&str], missed: &[&str]| {
        Some(Asked {
            reached: of(reached),
            missed: of(missed),
        })
    };
    let (tried, reached) = (asked(&[], &[]), asked(&["demo-2"], &[]));
    let missed = asked(&[], &["demo-2"]);
    let (draining_on, cut) = (Some(DrainState::Draining), Some(DrainState::CutShort));
    let not_reached = Some(DrainState::NotReached);
    for (before, asked, tasks, expected) in [
        // The request is on its way.
        (None, &tried, 1, draining_on),
        (draining_on, &reached, 1, cut),
        (draining_on, &missed, 1, not_reached),
        // No session will ever ask.
        (draining_on, &None, 1, not_reached),
        (None, &missed, 0, None),
        (None, &reached, 0, cut),
        // A hook that has let its replica end is gone; another process must not take that back.
        (cut, &missed, 1, cut),
        (cut, &tried, 1, cut),
        (not_reached, &tried, 1, not_reached),
        (not_reached, &missed, 0, not_reached),
        (not_reached, &reached, 1, cut),
    ] {
        for spec in [json!({}), json!({"externalURL": "nonsense"})] {
            let mut seen = with_facts(draining(300, no_license()), |facts| {
                running(facts).push(RunningTasks {
                    replica_id: id(2),
                    count: tasks,
                });
            });
            seen.asked.clone_from(asked);
            seen = with_facts(seen, |facts| {
                facts.task_runs = [(1, 11), (2, 12)]
                    .map(|(ordinal, run)| TaskRuns {
                        replica_id: id(ordinal),
                        ids: vec![run],
                    })
                    .into();
            });
            let drains = before.map(|before| ("demo-2".to_owned(), before));
            seen.remembered.drains = drains.into_iter().collect();
            let plan = plan(&spec, &seen);
            assert_eq!(let_go(&plan), ["demo-2"]);
            let state = state_of(&plan, 2);
            assert_eq!(state, expected, "{before:?}, {asked:?}, {tasks}");
            let cancelled = &plan.report.replica_statuses[2].task_runs;
            let expected = if state == cut { vec![12] } else { vec![] };
            assert_eq!(cancelled, &expected, "{before:?}, {asked:?}, {tasks}");
            // Without a hook there is nothing to cut short.
            seen.pods[2].drains = false;
            let plan = super::plan(&spec, &seen);
            assert_eq!(state_of(&plan, 2), None);
        }
    }
}

#[test]
fn each_drain_has_its_own_five_minutes() {
    let mut seen = draining(400, no_license());
    seen.stateful_set.as_mut().unwrap().replicas = 1;
    let pod = &mut seen.pods[1];
    pod.deleting = true;
    pod.ending_since = Some(after(SignedDuration::from_secs(-100)));
    pod.ends_by = Some(after(SignedDuration::from_secs(3500)));
    let plan = plan(&json!({}), &seen);
    assert_eq!(let_go(&plan), ["demo-2"]);
    assert_eq!(plan.requeue_at, Some(after(SignedDuration::from_secs(200))));
}

#[test]
fn a_moment_without_a_license_cuts_nothing_short_that_began_to_end_before() {
    for since in [None, Some(0), Some(-100)] {
        let mut seen = draining(3000, no_license());
        seen.remembered.unlicensed_since =
            since.map(|since| after(SignedDuration::from_secs(since)));
        let plan = plan(&json!({}), &seen);
        assert_eq!(let_go(&plan), [""; 0]);
        let left = 300 + since.unwrap_or(0);
        assert_eq!(
            plan.requeue_at,
            Some(after(SignedDuration::from_secs(left)))
        );
    }
    // Where the gate closed ahead of the end, the end is what counts.
    let ended = json!({"exp": after(SignedDuration::from_secs(-200)).as_second()});
    let plan = plan(&json!({}), &draining(3000, stored(&ended)));
    assert_eq!(let_go(&plan), [""; 0]);
    assert_eq!(plan.requeue_at, Some(after(SignedDuration::from_secs(100))));
}

/// What a process sees at this second that knows nothing but the status before.
fn at(seconds: i64, seen: &Observation, before: &BytebaseClusterStatus) -> Observation {
    let mut seen = seen.clone();
    seen.now = after(SignedDuration::from_secs(seconds));
    seen.remembered = remembered(before, None);
    seen
}

/// The plan at this second, and the status that it leaves.
fn reconcile(
    seconds: i64,
    seen: &Observation,
    before: &BytebaseClusterStatus,
) -> (Plan, BytebaseClusterStatus) {
    let seen = at(seconds, seen, before);
    let decided = || plan(&json!({}), &seen);
    let status = report::status(before, decided().report, &[], Some(1), seen.now);
    (decided(), status)
}

/// The status half an hour ago, when the gate closed ahead of the end of a license, and the drain
/// began.
fn closed_early(end: i64, call_failure: Option<CallFailure>) -> BytebaseClusterStatus {
    let end = json!({"exp": after(SignedDuration::from_secs(end)).as_second()});
    let mut seen = draining(1800, stored(&end));
    seen.pods[2].grace = Some(SignedDuration::from_hours(1));
    seen.call_failure = call_failure;
    reconcile(-1800, &seen, &BytebaseClusterStatus::default()).1
}

#[test]
fn a_license_that_is_taken_away_early_leaves_a_drain_five_minutes_from_then() {
    let refused = || CallFailure {
        message: "no".to_owned(),
        refused: None,
    };
    for before in [closed_early(60, None), closed_early(60, Some(refused()))] {
        for license in [no_license(), stored(&json!({"ha": false}))] {
            let seen = draining(1800, license);
            let (taken, status) = reconcile(0, &seen, &before);
            assert_eq!(let_go(&taken), [""; 0]);
            assert_eq!(
                taken.requeue_at,
                Some(after(SignedDuration::from_secs(300)))
            );
            // Each is another process.
            let (early, status) = reconcile(299, &seen, &status);
            assert_eq!(let_go(&early), [""; 0]);
            let mut away = seen.clone();
            away.database = DatabaseView::NotProbed;
            away.last_facts = None;
            let (_, status) = reconcile(299, &away, &status);
            let (late, _) = reconcile(300, &seen, &status);
            assert_eq!(let_go(&late), ["demo-2"]);
        }
    }
}

#[test]
fn a_license_that_runs_out_leaves_a_drain_five_minutes_from_its_end() {
    let before = closed_early(-200, None);
    let end = json!({"exp": after(SignedDuration::from_secs(-200)).as_second()});
    let seen = draining(1800, stored(&end));
    // Whether the operator was there or not.
    let (_, there) = reconcile(-100, &seen, &before);
    for before in [before, there] {
        let (plan, _) = reconcile(0, &seen, &before);
        assert_eq!(let_go(&plan), [""; 0]);
        assert_eq!(plan.requeue_at, Some(after(SignedDuration::from_secs(100))));
    }
}

#[test]
fn a_license_that_had_ended_all_along_is_given_no_more_time() {
    let seen = draining(1800, no_license());
    let (_, mut before) = reconcile(-1800, &seen, &BytebaseClusterStatus::default());
    assert_eq!(let_go(&reconcile(0, &seen, &before).0), ["demo-2"]);
    // An older operator kept no other time of it than that of the condition.
    before.unlicensed_since = None;
    assert_eq!(let_go(&reconcile(0, &seen, &before).0), ["demo-2"]);
    // One that only was about to end had not ended then.
    let early = closed_early(60, None);
    assert_eq!(early.unlicensed_since, None);
    let mut conditions = early.conditions.iter();
    let expiring = Reason::LicenseExpiring.as_ref();
    assert!(conditions.any(|condition| condition.reason == expiring));
}

/// Two that end and have had their time, beside one that was to stay.
fn two_draining() -> Observation {
    let mut seen = draining(400, no_license());
    seen.stateful_set.as_mut().unwrap().replicas = 1;
    let last = seen.pods[2].clone();
    let pod = &mut seen.pods[1];
    pod.deleting = true;
    (pod.ending_since, pod.ends_by) = (last.ending_since, last.ends_by);
    seen
}

#[test]
fn the_last_replica_that_serves_is_not_asked() {
    let plan = |seen: &Observation| plan(&json!({}), seen);
    assert_eq!(let_go(&plan(&two_draining())), ["demo-1", "demo-2"]);
    let broken = with_facts(two_draining(), |facts| {
        heartbeats(facts)[0].age = std::time::Duration::from_secs(400);
    });
    assert_eq!(let_go(&plan(&broken)), ["demo-2"]);
    // One alone is active: Bytebase skips no work.
    let alone = with_facts(broken, |facts| {
        heartbeats(facts)[1].age = std::time::Duration::from_secs(400);
    });
    assert_eq!(let_go(&plan(&alone)), [""; 0]);
}

#[test]
fn a_license_without_ha_ends_drains_as_none_does_and_a_migration_holds_that() {
    let late = draining(300, stored(&json!({"ha": false})));
    assert_eq!(let_go(&plan(&json!({}), &late)), ["demo-2"]);
    let migrating = with_facts(late, |facts| {
        facts.sessions = Some(Sessions {
            migration_running: true,
            ..Sessions::default()
        });
    });
    assert_eq!(let_go(&plan(&json!({}), &migrating)), [""; 0]);
}

#[test]
fn a_drain_is_left_its_time_before_the_license_ends_and_where_no_gate_acts() {
    let ends_later = json!({"exp": after(SignedDuration::from_secs(60)).as_second()});
    for (spec, seen, why) in [
        (
            json!({}),
            draining(3000, stored(&ends_later)),
            "it has not ended yet",
        ),
        (
            json!({"replicas": 2}),
            draining(3000, stored(&json!({}))),
            "two are wanted",
        ),
        (
            json!({"paused": true}),
            draining(3000, no_license()),
            "paused",
        ),
        (
            json!({"paused": true, "externalURL": "nonsense"}),
            draining(3000, no_license()),
            "paused, whatever else is wrong with the spec",
        ),
        (
            json!({"license": {"enforcement": "Warn"}}),
            draining(3000, no_license()),
            "the gate does not act",
        ),
    ] {
        assert_eq!(let_go(&plan(&spec, &seen)), [""; 0], "{why}");
    }
    // A replica that a rollout replaces is not surplus.
    let mut rolled = draining(3000, no_license());
    rolled.stateful_set = rolled.stateful_set.map(|mut set| {
        set.replicas = 3;
        set
    });
    assert_eq!(let_go(&plan(&json!({}), &rolled)), [""; 0]);
}

/// Nothing shows whether its process still runs, or what its hook does.
#[test]
fn a_drain_on_a_node_that_says_nothing_is_not_cut_short() {
    let mut seen = draining(400, no_license());
    let silent = PodTrouble::NodeSilent("Its node says nothing.".to_owned());
    seen.pods[2].trouble = Some(silent);
    assert_eq!(let_go(&plan(&json!({}), &seen)), [""; 0]);
}
