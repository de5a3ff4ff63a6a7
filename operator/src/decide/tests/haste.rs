//! Drains that the license gate cannot wait for.

use super::plan;
use crate::observation::{Fact, Observation, RunningTasks, Sessions, StoredLicense};
use crate::testing::{after, healthy, no_license, stored, with_facts};
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
    seen
}

#[test]
fn a_drain_without_a_license_has_five_minutes() {
    for spec in [json!({}), json!({"externalURL": "nonsense"})] {
        let early = plan(&spec, &draining(299, no_license()));
        assert_eq!(early.eviction, None);
        assert_eq!(early.next, Some(after(SignedDuration::from_secs(1))));
        let late = plan(&spec, &draining(300, no_license()));
        let eviction = late.eviction.unwrap();
        assert_eq!(
            (&*eviction.pod, eviction.grace_seconds),
            ("demo-2", Some(60))
        );
        assert!(eviction.why.contains("5 minutes"), "{}", eviction.why);
        // Nor a second time by an API server that counts the minute from the beginning.
        let mut over = draining(310, no_license());
        over.pods[2].ends_by = Some(after(SignedDuration::from_secs(60 - 310)));
        assert_eq!(plan(&spec, &over).eviction, None);
        let mut ending = draining(0, no_license());
        ending.pods[2].ends_by = Some(after(SignedDuration::from_secs(60)));
        assert_eq!(plan(&spec, &ending).eviction, None);
    }
}

#[test]
fn a_license_without_ha_ends_drains_as_none_does_and_a_migration_holds_that() {
    let without = stored(&json!({"ha": false}));
    let late = draining(300, without);
    let eviction = plan(&json!({}), &late).eviction.unwrap();
    assert!(
        eviction
            .why
            .ends_with("what it has not finished is cancelled")
    );
    let id = late.pods[2].replica_id.unwrap();
    let busy = with_facts(late.clone(), |facts| {
        facts.running_tasks = Fact::Known(vec![RunningTasks {
            replica_id: id,
            count: 2,
        }]);
    });
    let eviction = plan(&json!({}), &busy).eviction.unwrap();
    assert!(
        eviction
            .why
            .ends_with("the 2 tasks that it still runs are cancelled"),
        "{}",
        eviction.why
    );
    let migrating = with_facts(late, |facts| {
        facts.sessions = Some(Sessions {
            migration_running: true,
            ..Sessions::default()
        });
    });
    assert_eq!(plan(&json!({}), &migrating).eviction, None);
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
        assert_eq!(plan(&spec, &seen).eviction, None, "{why}");
    }
    // A replica that a rollout replaces is not surplus.
    let mut rolled = draining(3000, no_license());
    rolled.stateful_set = rolled.stateful_set.map(|mut set| {
        set.replicas = 3;
        set
    });
    assert_eq!(plan(&json!({}), &rolled).eviction, None);
}
