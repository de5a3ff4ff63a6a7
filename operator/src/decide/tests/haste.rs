//! Drains that the license gate cannot wait for.

use super::plan;
use crate::api::status::DrainState;
use crate::decide::plan::Plan;
use crate::observation::{Asked, Observation, RunningTasks, Sessions, StoredLicense};
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
        assert_eq!(early.next, Some(after(SignedDuration::from_secs(1))));
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
            let drains = before.map(|before| ("demo-2".to_owned(), before));
            seen.remembered.drains = drains.into_iter().collect();
            let plan = plan(&spec, &seen);
            assert_eq!(let_go(&plan), ["demo-2"]);
            let state = state_of(&plan, 2);
            assert_eq!(state, expected, "{before:?}, {asked:?}, {tasks}");
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
    assert_eq!(plan.next, Some(after(SignedDuration::from_secs(200))));
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
        assert_eq!(plan.next, Some(after(SignedDuration::from_secs(left))));
    }
    // Where the gate closed ahead of the end, the end is what counts.
    let ended = json!({"exp": after(SignedDuration::from_secs(-200)).as_second()});
    let plan = plan(&json!({}), &draining(3000, stored(&ended)));
    assert_eq!(let_go(&plan), [""; 0]);
    assert_eq!(plan.next, Some(after(SignedDuration::from_secs(100))));
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
