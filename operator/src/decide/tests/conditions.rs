//! What the findings mean to users: phase and conditions of typical worlds.

use super::{condition, plan, state};
use crate::api::status::{DrainState, Phase};
use crate::api::{ConditionType, Reason};
use crate::contract::version::Version;
use crate::decide::plan::Plan;
use crate::desired::template::{Standing, template};
use crate::kubernetes::Kind;
use crate::observation::{
    DatabaseView, FailureClass, FailureReason, LogQuote, Observation, PodTrouble, PodWait, Refusal,
    RouteView, RunningTasks, ServiceWay, StoredLicense,
};
use crate::redaction::{KnownSecrets, RedactedLine};
use crate::testing::{
    after, called, facts, failure, healthy, heartbeat, heartbeats, no_license, observation, stored,
    valid, with_facts,
};
use jiff::SignedDuration;
use serde_json::{Value, json};

fn three() -> Observation {
    healthy(3, stored(&json!({})))
}

fn changed(mut observation: Observation, change: impl FnOnce(&mut Observation)) -> Observation {
    change(&mut observation);
    observation
}

fn troubled(trouble: PodTrouble) -> Observation {
    changed(three(), |seen| {
        seen.pods[1].ready = false;
        seen.pods[1].unready_since = Some(after(SignedDuration::from_mins(-1)));
        seen.pods[1].trouble = Some(trouble);
    })
}

#[test]
fn a_certificate_that_ends_soon_is_reported_and_checked_again_at_the_next_reminder() {
    let seen = three();
    let mut validation = crate::testing::validation(&json!({}));
    let due = seen.now + std::time::Duration::from_mins(5);
    validation.ends_soon = Some("ends within 7 days".to_owned());
    validation.changes_at = Some(due);
    validation.ca_ends = Some(due);
    let plan = crate::decide::decide(&validation, &seen, &crate::testing::settings());
    assert_eq!(
        state(&plan, ConditionType::ConfigurationValid),
        (Some(true), Reason::CertificateEndsSoon)
    );
    assert_eq!(plan.requeue_at, Some(due));
    assert_eq!(plan.report.phase, Some(Phase::Ready));
    let end = plan.report.database.unwrap().ca_expiration_time;
    assert_eq!(end.map(|end| end.0), Some(due));
}

#[test]
fn a_database_that_refuses_writes_stands_beside_stale_heartbeats() {
    let seen = with_facts(three(), |facts| {
        facts.read_only = true;
        for heartbeat in heartbeats(facts) {
            heartbeat.age = std::time::Duration::from_secs(45);
        }
    });
    let plan = plan(&json!({}), &seen);
    assert_eq!(
        state(&plan, ConditionType::DatabaseReady),
        (Some(false), Reason::DatabaseReadOnly)
    );
    assert_eq!(
        state(&plan, ConditionType::ReplicasHealthy),
        (Some(false), Reason::HeartbeatStale)
    );
    for type_ in [ConditionType::ReplicasHealthy, ConditionType::Stalled] {
        let message = &condition(&plan.report, type_).message;
        assert!(
            message.contains("default_transaction_read_only"),
            "{message}"
        );
    }
}

#[test]
fn a_process_that_was_killed_is_no_mere_start_and_its_log_is_quoted_as_ever() {
    let line = "the last line";
    let mut seen = changed(three(), |seen| {
        let pod = &mut seen.pods[1];
        pod.ready = false;
        pod.unready_since = Some(after(SignedDuration::from_mins(-1)));
        pod.restarts = 1;
        pod.waits_for = Some(PodWait::Part("container proxy is not ready".to_owned()));
        pod.log_quote = RedactedLine::of(line, &KnownSecrets::default()).map(LogQuote::Line);
    });
    assert_eq!(
        state(&plan(&json!({}), &seen), ConditionType::ReplicasHealthy).1,
        Reason::ReplicaNotReady
    );
    let decided = plan(&json!({}), &seen);
    let killed = "Bytebase was killed for its memory";
    seen.pods[1].last_failure = Some(killed.to_owned());
    let plan = plan(&json!({}), &seen);
    let healthy = condition(&plan.report, ConditionType::ReplicasHealthy);
    assert_eq!(
        (healthy.status, healthy.reason),
        (Some(false), Reason::ReplicaCrashing)
    );
    for words in [killed, line] {
        assert!(healthy.message.contains(words), "{}", healthy.message);
    }
    // It is shown, and nothing follows from it.
    assert_eq!(plan.eviction, decided.eviction);
    assert_eq!(plan.report.phase, decided.report.phase);
}

#[test]
fn heartbeats_that_all_grow_stale_at_once_need_not_be_the_fault_of_a_replica() {
    let words = "before you delete a pod";
    let stale = |count: usize, seen: Observation| {
        with_facts(seen, |facts| {
            for heartbeat in &mut heartbeats(facts)[..count] {
                heartbeat.age = std::time::Duration::from_secs(45);
            }
        })
    };
    let without_the_last = |seen| changed(seen, |seen| seen.pods[2].ready = false);
    let read_only = with_facts(stale(3, three()), |facts| facts.read_only = true);
    for (wanted, seen, is_common) in [
        (3, stale(3, three()), true),
        (3, without_the_last(stale(2, three())), true),
        (3, stale(2, three()), false),
        (1, stale(1, healthy(1, stored(&json!({})))), true),
        // It says why.
        (3, read_only, false),
    ] {
        let plan = plan(&json!({"replicas": wanted}), &seen);
        for type_ in [ConditionType::ReplicasHealthy, ConditionType::Ready] {
            let condition = condition(&plan.report, type_);
            assert_eq!(condition.status, Some(false));
            let message = &condition.message;
            assert_eq!(message.contains(words), is_common, "{message}");
        }
    }
}

#[test]
fn one_replica_is_and_several_are() {
    let without = |ready: usize| {
        changed(three(), |seen| {
            for pod in &mut seen.pods[ready..] {
                pod.ready = false;
            }
        })
    };
    let foreign = |count: i32| {
        let ids = (7..7 + count).map(crate::testing::id);
        let mut seen = with_facts(three(), |facts| {
            heartbeats(facts).extend((7..7 + count).map(|number| heartbeat(number, 1)));
        });
        let long_ago = after(SignedDuration::from_mins(-5));
        seen.unmatched_since = ids.map(|id| (id, long_ago)).collect();
        seen
    };
    let alone = || healthy(1, stored(&json!({})));
    let unreadable = |size| observation(Some(size), DatabaseView::CannotRead);
    let expect = |wanted: i32, seen: &Observation, type_, words: &str| {
        let plan = plan(&json!({"replicas": wanted}), seen);
        let message = &condition(&plan.report, type_).message;
        assert!(message.starts_with(words), "{words}: {message}");
    };
    let ready = |wanted, seen: &Observation, words| {
        expect(wanted, seen, ConditionType::Ready, words);
    };
    ready(1, &alone(), "1 of 1 replica is Ready and sends");
    let starting = changed(alone(), |seen| seen.pods[0].ready = false);
    ready(1, &starting, "0 of 1 replica is Ready and sends");
    ready(3, &three(), "3 of 3 replicas are Ready and send ");
    ready(3, &without(2), "2 of 3 replicas are Ready and send ");
    ready(3, &without(1), "1 of 3 replicas is Ready and sends ");
    ready(3, &without(0), "0 of 3 replicas are Ready and send ");
    let cannot = "but the operator cannot read";
    let its = format!("1 pod is Ready, {cannot} its heartbeats");
    ready(1, &unreadable(1), &its);
    let their = format!("3 pods are Ready, {cannot} their heartbeats");
    ready(3, &unreadable(3), &their);
    let healthy = |wanted, seen: &Observation, words| {
        expect(wanted, seen, ConditionType::ReplicasHealthy, words);
    };
    healthy(1, &alone(), "the replica that runs is Ready and sends ");
    healthy(3, &three(), "all 3 replicas that run are Ready and send ");
    let here = "belong to this cluster";
    let one = format!("1 replica that does not {here} sends heartbeats");
    healthy(3, &foreign(1), &one);
    let two = format!("2 replicas that do not {here} send heartbeats");
    healthy(3, &foreign(2), &two);
}

struct Case {
    name: &'static str,
    spec: Value,
    world: Observation,
    phase: Phase,
    ready: (Option<bool>, Reason),
    reconciling: (bool, Reason),
    stalled: (bool, Reason),
    healthy: (Option<bool>, Reason),
}

const FINE: (Option<bool>, Reason) = (Some(true), Reason::AllReplicasHealthy);
const UNSTALLED: (bool, Reason) = (false, Reason::NotStalled);

#[test]
fn a_standby_that_answers_stalls_a_cluster_after_two_minutes() {
    let secs = SignedDuration::from_secs;
    let by_login = failure(FailureClass::Definite, FailureReason::Standby);
    let by_reading = |running| {
        let mut facts = facts(running, stored(&json!({})));
        facts.in_recovery = true;
        DatabaseView::Probed(Ok(facts))
    };
    let refusal = Refusal {
        reason: Reason::DatabaseIsStandby,
        message: String::new(),
    };
    for running in [None, Some(3)] {
        for view in [by_login.clone(), by_reading(running.unwrap_or(0))] {
            // Whether the database was ready, refused before, since when, and when that counts.
            for (was_ready, was_refused, since, left) in [
                (true, false, -3600, Some(120)),
                (false, false, -3600, Some(120)),
                (false, true, 0, Some(120)),
                (false, true, -119, Some(1)),
                (false, true, -120, None),
                (false, true, 60, Some(120)),
            ] {
                let mut seen = observation(running, view.clone());
                seen.remembered.database_ready = Some((was_ready, after(secs(since))));
                seen.remembered.refusal = was_refused.then(|| refusal.clone());
                let plan = plan(&json!({}), &seen);
                assert_eq!(
                    state(&plan, ConditionType::DatabaseReady),
                    (Some(false), Reason::DatabaseIsStandby)
                );
                let stalled = state(&plan, ConditionType::Stalled);
                let next = left.map(|left| after(secs(left)));
                if let Some(next) = next {
                    assert_eq!(stalled, (Some(false), Reason::NotStalled), "{since}");
                    assert!(plan.requeue_at.is_some_and(|at| at <= next), "{since}");
                } else {
                    assert_eq!(stalled, (Some(true), Reason::DatabaseIsStandby), "{since}");
                }
                // No pod is started meanwhile.
                assert_eq!(plan.report.target_replicas, Some(running.unwrap_or(0)));
            }
        }
    }
}
const SETTLED: (bool, Reason) = (false, Reason::Settled);
const MOVING: (bool, Reason) = (true, Reason::Progressing);
const NOT_READY: (Option<bool>, Reason) = (Some(false), Reason::ReplicasNotReady);

fn case(name: &'static str, world: Observation, phase: Phase) -> Case {
    Case {
        name,
        spec: json!({}),
        world,
        phase,
        ready: (Some(true), Reason::AllReplicasActive),
        reconciling: SETTLED,
        stalled: UNSTALLED,
        healthy: FINE,
    }
}

/// Replicas that are not up yet, in time and not.
fn starts() -> Vec<Case> {
    vec![
        Case {
            ready: NOT_READY,
            reconciling: MOVING,
            healthy: (Some(false), Reason::ReplicaNotReady),
            ..case(
                "starting",
                changed(three(), |seen| {
                    for pod in &mut seen.pods {
                        pod.ready = false;
                        pod.created_at = after(SignedDuration::from_secs(-899));
                    }
                }),
                Phase::Starting,
            )
        },
        Case {
            ready: NOT_READY,
            reconciling: (false, Reason::ReplicaNotReady),
            stalled: (true, Reason::ReplicaNotReady),
            healthy: (Some(false), Reason::ReplicaNotReady),
            ..case(
                "a first start that does not come off",
                changed(three(), |seen| {
                    for pod in &mut seen.pods {
                        pod.ready = false;
                        pod.created_at = after(SignedDuration::from_secs(-900));
                    }
                }),
                Phase::Stalled,
            )
        },
    ]
}

fn beginnings() -> Vec<Case> {
    let none = (Some(false), Reason::ReplicaNotReady);
    let by_database = (Some(false), Reason::HeldBackByDatabase);
    vec![
        Case {
            ready: (Some(false), Reason::DatabaseNotProbed),
            reconciling: MOVING,
            healthy: none,
            ..case(
                "before the first probe",
                observation(None, DatabaseView::NotProbed),
                Phase::Pending,
            )
        },
        Case {
            ready: by_database,
            reconciling: (false, Reason::DatabaseAuthenticationFailed),
            stalled: (true, Reason::DatabaseAuthenticationFailed),
            healthy: none,
            ..case(
                "wrong password",
                observation(
                    None,
                    failure(FailureClass::Definite, FailureReason::AuthenticationFailed),
                ),
                Phase::Stalled,
            )
        },
        Case {
            ready: NOT_READY,
            reconciling: MOVING,
            healthy: none,
            ..case(
                "before the first object",
                observation(None, DatabaseView::Probed(Ok(facts(0, no_license())))),
                Phase::Pending,
            )
        },
        Case {
            ready: (Some(true), Reason::HeldBackByLicense),
            ..case(
                "no one signed up",
                healthy(1, StoredLicense::NoWorkspace),
                Phase::Limited,
            )
        },
        Case {
            ready: (Some(true), Reason::HeldBackByVersion),
            ..case(
                "a schema too old for HA",
                with_facts(healthy(1, stored(&json!({}))), |facts| {
                    let version = Some(Version::new(3, 16, 2));
                    facts.schema = crate::observation::SchemaState::Bytebase { version };
                }),
                Phase::Limited,
            )
        },
        Case {
            ready: (None, Reason::HeartbeatsUnknown),
            healthy: (None, Reason::HeartbeatsUnknown),
            ..case(
                "database out of reach",
                observation(
                    Some(1),
                    failure(FailureClass::Unknown, FailureReason::Unreachable),
                ),
                Phase::Degraded,
            )
        },
    ]
}

fn running() -> Vec<Case> {
    let unknown = (None, Reason::HeartbeatsUnknown);
    vec![
        case("well", three(), Phase::Ready),
        Case {
            healthy: (Some(false), Reason::ForeignReplica),
            ..case(
                "a foreign replica",
                changed(
                    with_facts(three(), |facts| heartbeats(facts).push(heartbeat(9, 1))),
                    |seen| {
                        seen.unmatched_since
                            .insert(crate::testing::id(9), after(SignedDuration::from_mins(-5)));
                    },
                ),
                Phase::Ready,
            )
        },
        Case {
            ready: unknown,
            healthy: unknown,
            ..case(
                "database out of reach later",
                observation(
                    Some(3),
                    failure(FailureClass::Unknown, FailureReason::Unreachable),
                ),
                Phase::Degraded,
            )
        },
        Case {
            ready: unknown,
            reconciling: (false, Reason::DatabaseMissing),
            stalled: (true, Reason::DatabaseMissing),
            healthy: unknown,
            ..case(
                "database dropped",
                observation(
                    Some(3),
                    failure(FailureClass::Definite, FailureReason::DatabaseMissing),
                ),
                Phase::Stalled,
            )
        },
        Case {
            ready: unknown,
            spec: json!({"license": {"enforcement": "Warn"}}),
            ..case(
                "never readable",
                observation(Some(3), DatabaseView::CannotRead),
                Phase::Degraded,
            )
        },
        Case {
            ready: NOT_READY,
            healthy: (Some(false), Reason::HeartbeatStale),
            ..case(
                "stale",
                with_facts(three(), |facts| heartbeats(facts)[0] = heartbeat(0, 40)),
                Phase::Degraded,
            )
        },
        Case {
            ready: NOT_READY,
            healthy: (Some(false), Reason::HeartbeatMissing),
            ..case(
                "missing",
                with_facts(three(), |facts| {
                    heartbeats(facts)
                        .retain(|heartbeat| heartbeat.replica_id != crate::testing::id(0));
                }),
                Phase::Degraded,
            )
        },
    ]
}

/// One pod that cannot run.
fn in_trouble() -> Vec<Case> {
    let why = || "why".to_owned();
    [
        (
            "crashing",
            PodTrouble::Crashing(why()),
            Reason::ReplicaCrashing,
        ),
        (
            "no image",
            PodTrouble::ImagePull(why()),
            Reason::ImagePullFailed,
        ),
        (
            "no node",
            PodTrouble::Unschedulable(why()),
            Reason::Unschedulable,
        ),
        (
            "no secret key",
            PodTrouble::Creation(why()),
            Reason::PodCreationFailed,
        ),
        (
            "silent node",
            PodTrouble::NodeSilent(why()),
            Reason::NodeSilent,
        ),
    ]
    .map(|(name, trouble, reason)| Case {
        ready: NOT_READY,
        reconciling: MOVING,
        healthy: (Some(false), reason),
        ..case(name, troubled(trouble), Phase::Degraded)
    })
    .into()
}

/// Wanted otherwise than it is.
fn changing() -> Vec<Case> {
    vec![
        Case {
            ready: NOT_READY,
            reconciling: MOVING,
            ..case("growing", healthy(1, stored(&json!({}))), Phase::Scaling)
        },
        Case {
            reconciling: MOVING,
            spec: json!({"replicas": 2}),
            ..case("shrinking", three(), Phase::Ready)
        },
        Case {
            reconciling: MOVING,
            ..case(
                "rolling",
                changed(three(), |seen| {
                    seen.pods[0].revision = Some("old".to_owned());
                }),
                Phase::Rolling,
            )
        },
        Case {
            reconciling: MOVING,
            ready: (Some(false), Reason::ScaledToZero),
            spec: json!({"replicas": 0}),
            ..case("stopping", three(), Phase::Scaling)
        },
        Case {
            ready: (Some(true), Reason::ScaledToZero),
            healthy: (Some(true), Reason::NoReplicas),
            spec: json!({"replicas": 0}),
            ..case("stopped", healthy(0, stored(&json!({}))), Phase::Stopped)
        },
        Case {
            reconciling: (false, Reason::Paused),
            spec: json!({"paused": true}),
            ..case("paused", three(), Phase::Paused)
        },
        Case {
            ready: (Some(true), Reason::HeldBackByLicense),
            reconciling: MOVING,
            ..case("license ended", healthy(3, no_license()), Phase::Scaling)
        },
    ]
}

#[test]
fn each_world_has_its_phase_and_conditions() {
    let all = [starts(), beginnings(), running(), in_trouble(), changing()];
    for case in all.into_iter().flatten() {
        let plan = plan(&case.spec, &case.world);
        let name = case.name;
        assert_eq!(
            state(&plan, ConditionType::Ready),
            case.ready,
            "Ready: {name}"
        );
        assert_eq!(
            state(&plan, ConditionType::Reconciling),
            (Some(case.reconciling.0), case.reconciling.1),
            "Reconciling: {name}"
        );
        assert_eq!(
            state(&plan, ConditionType::Stalled),
            (Some(case.stalled.0), case.stalled.1),
            "Stalled: {name}"
        );
        assert_eq!(
            state(&plan, ConditionType::ReplicasHealthy),
            case.healthy,
            "ReplicasHealthy: {name}"
        );
        assert_eq!(plan.report.phase, Some(case.phase), "{name}");
    }
}

/// Three replicas of which fewer are wanted, and the last one does not end: so many seconds ago it
/// should have.
fn unending(set: i32, seconds: i64, license: StoredLicense) -> Observation {
    changed(healthy(3, license), |seen| {
        seen.stateful_set.as_mut().unwrap().replicas = set;
        let pod = &mut seen.pods[2];
        pod.deleting = true;
        pod.ending_since = Some(after(SignedDuration::from_secs(-4000)));
        pod.ends_by = Some(after(SignedDuration::from_secs(-seconds)));
        if set == 0 {
            seen.pods.drain(..2);
        }
    })
}

#[test]
fn a_pod_that_cannot_end_stalls_what_waits_for_it() {
    // Fewer are wanted; none; as many as before, and another party deleted the pod.
    for (wanted, set) in [(1, 2), (2, 2), (0, 0), (3, 3)] {
        let spec = json!({"replicas": wanted});
        let early = plan(&spec, &unending(set, 60, stored(&json!({}))));
        assert_eq!(
            state(&early, ConditionType::Stalled),
            (Some(false), Reason::NotStalled),
            "{wanted}"
        );
        assert_eq!(state(&early, ConditionType::Reconciling).0, Some(true));
        let waits = &condition(&early.report, ConditionType::Reconciling).message;
        assert!(
            wanted == 3 || waits == "the scale-down is waiting for demo-2 to end",
            "{wanted}: {waits}"
        );
        assert_eq!(early.requeue_at, Some(after(SignedDuration::from_secs(1))));
        let mut seen = unending(set, 61, stored(&json!({})));
        let stalled = |seen: &Observation| {
            let late = plan(&spec, seen);
            assert_eq!(state(&late, ConditionType::Reconciling).0, Some(false));
            assert_eq!(late.report.phase, Some(Phase::Stalled), "{wanted}");
            let stalled = condition(&late.report, ConditionType::Stalled);
            assert_eq!(stalled.status, Some(true), "{wanted}");
            assert!(
                stalled.message.contains("demo-2 should have ended")
                    && stalled.message.contains("node-2"),
                "{}",
                stalled.message
            );
            stalled.reason
        };
        assert_eq!(stalled(&seen), Reason::ReplicaNotReady);
        let silent = "node node-2 no longer reports".to_owned();
        seen.pods.last_mut().unwrap().trouble = Some(PodTrouble::NodeSilent(silent));
        assert_eq!(stalled(&seen), Reason::NodeSilent);
    }
    // The license gate goes past it, and has reached its end all the same.
    let reason = |set| {
        let plan = plan(&json!({}), &unending(set, 61, no_license()));
        state(&plan, ConditionType::Stalled).1
    };
    assert_eq!(reason(2), Reason::NotStalled);
    assert_eq!(reason(1), Reason::ReplicaNotReady);
}

#[test]
fn a_scale_down_says_which_pod_it_waits_for() {
    let mut seen = unending(2, -600, stored(&json!({})));
    let id = seen.pods[2].replica_id.unwrap();
    seen = with_facts(seen, |facts| {
        *crate::testing::running(facts) = vec![RunningTasks {
            replica_id: id,
            count: 1,
        }];
    });
    let waits = |seen: &Observation| {
        let plan = plan(&json!({"replicas": 1}), seen);
        let waiting = condition(&plan.report, ConditionType::Reconciling);
        let message = waiting.message.clone();
        (message, plan.report.replica_statuses[2].drain)
    };
    let (message, drain) = waits(&seen);
    assert_eq!(
        message,
        "the scale-down is waiting for demo-2 to finish the tasks that it runs and to end, at the latest at 2026-06-01T00:10:00Z"
    );
    assert_eq!(drain, Some(DrainState::Draining));
    // Without the drain hook it finishes nothing.
    seen.pods[2].drains = false;
    let (message, drain) = waits(&seen);
    assert_eq!(message, "the scale-down is waiting for demo-2 to end");
    assert_eq!(drain, None);
    // What the database says that it runs may be lost with its machine.
    seen.pods[2].drains = true;
    seen.pods[2].trouble = Some(PodTrouble::NodeSilent("node-2 is silent".to_owned()));
    let (message, drain) = waits(&seen);
    assert_eq!(
        message,
        "the scale-down is waiting for demo-2 to end, whose node no longer reports"
    );
    assert_eq!(drain, None);
}

#[test]
fn a_message_names_each_pod_and_what_a_user_can_fix_comes_first() {
    let seen = changed(
        with_facts(three(), |facts| heartbeats(facts)[0] = heartbeat(0, 40)),
        |seen| {
            seen.pods[2].ready = false;
            seen.pods[2].trouble = Some(PodTrouble::Crashing("Cannot new server".to_owned()));
        },
    );
    let plan = plan(&json!({}), &seen);
    let message = &condition(&plan.report, ConditionType::ReplicasHealthy).message;
    assert_eq!(
        message,
        "demo-2: Cannot new server; demo-0: Ready, heartbeat stale"
    );
}

#[test]
fn the_ingress_is_reported_as_it_is() {
    for (spec, address, license, expected) in [
        (
            json!({}),
            Some(true),
            stored(&json!({})),
            (Some(true), Reason::IngressReady),
        ),
        (
            json!({}),
            Some(false),
            stored(&json!({})),
            (None, Reason::IngressPending),
        ),
        (
            json!({}),
            None,
            stored(&json!({})),
            (Some(false), Reason::IngressPending),
        ),
        (
            json!({"ingress": {"enabled": false}}),
            None,
            stored(&json!({})),
            (Some(false), Reason::IngressDisabled),
        ),
        (
            json!({}),
            Some(true),
            StoredLicense::NoWorkspace,
            (Some(true), Reason::IngressReady),
        ),
    ] {
        let open = matches!(license, StoredLicense::NoWorkspace);
        let seen = changed(healthy(1, license), |seen| {
            seen.ingress_has_address = address;
        });
        let plan = plan(&spec, &seen);
        assert_eq!(state(&plan, ConditionType::Exposed), expected);
        let message = &condition(&plan.report, ConditionType::Exposed).message;
        assert_eq!(
            message.contains("whoever does first becomes the admin"),
            open,
            "{message}"
        );
    }
}

#[test]
fn with_two_ways_in_the_worse_one_is_reported() {
    let gateway = json!({"parentRefs": [{"name": "public"}]});
    let both = json!({"gateway": gateway, "ingress": {}});
    let only = json!({"gateway": gateway});
    let refused = RouteView::Refused("NoMatchingParent: public".to_owned());
    for (spec, address, route, expected) in [
        (&only, None, None, (Some(false), Reason::RoutePending)),
        (
            &only,
            None,
            Some(RouteView::Pending),
            (None, Reason::RoutePending),
        ),
        (
            &only,
            None,
            Some(RouteView::Accepted),
            (Some(true), Reason::RouteAccepted),
        ),
        (
            &only,
            None,
            Some(refused.clone()),
            (Some(false), Reason::RouteRefused),
        ),
        (
            &both,
            Some(true),
            Some(RouteView::Accepted),
            (Some(true), Reason::IngressReady),
        ),
        (
            &both,
            Some(false),
            Some(RouteView::Accepted),
            (None, Reason::IngressPending),
        ),
        (
            &both,
            Some(false),
            Some(refused),
            (Some(false), Reason::RouteRefused),
        ),
    ] {
        let seen = changed(healthy(1, stored(&json!({}))), |seen| {
            seen.ingress_has_address = address;
            seen.route = route;
        });
        assert_eq!(state(&plan(spec, &seen), ConditionType::Exposed), expected);
    }
}

#[test]
fn a_service_that_is_the_only_way_in_is_reported_as_it_is() {
    let spec = |type_: &str| json!({"service": {"type": type_}, "ingress": {"enabled": false}});
    let balanced = |has_address| Some(ServiceWay::Balanced { has_address });
    let nodes = Some(ServiceWay::Nodes);
    for (type_, way, expected) in [
        ("ClusterIP", None, (Some(false), Reason::IngressDisabled)),
        ("NodePort", None, (Some(false), Reason::ServicePending)),
        ("NodePort", nodes, (Some(true), Reason::ServiceReady)),
        ("LoadBalancer", None, (Some(false), Reason::ServicePending)),
        // The type that it is leaving.
        ("LoadBalancer", nodes, (Some(false), Reason::ServicePending)),
        (
            "LoadBalancer",
            balanced(false),
            (None, Reason::ServicePending),
        ),
        (
            "LoadBalancer",
            balanced(true),
            (Some(true), Reason::ServiceReady),
        ),
    ] {
        let seen = changed(healthy(1, stored(&json!({}))), |seen| {
            seen.ingress_has_address = None;
            seen.service_way = way;
        });
        let plan = plan(&spec(type_), &seen);
        assert_eq!(
            state(&plan, ConditionType::Exposed),
            expected,
            "{type_} {way:?}"
        );
    }
    let hidden = changed(healthy(1, stored(&json!({}))), |seen| {
        seen.kinds_unseen = vec![(Kind::Service, "grant its role watch".to_owned())];
    });
    let hidden = plan(&spec("NodePort"), &hidden);
    let exposed = condition(&hidden.report, ConditionType::Exposed);
    assert_eq!(
        (exposed.status, exposed.reason, exposed.message.as_str()),
        (
            None,
            Reason::CannotWatch,
            "whether the Service demo works is not known: grant its role watch"
        )
    );
}

#[test]
fn a_service_beside_an_ingress_is_not_what_is_reported() {
    let spec = json!({"service": {"type": "LoadBalancer"}});
    for way in [None, Some(ServiceWay::Balanced { has_address: false })] {
        let seen = changed(healthy(1, stored(&json!({}))), |seen| {
            seen.service_way = way;
        });
        let exposed = plan(&spec, &seen);
        assert_eq!(
            state(&exposed, ConditionType::Exposed),
            (Some(true), Reason::IngressReady),
            "{way:?}"
        );
    }
}

#[test]
fn a_kind_that_cannot_be_watched_is_named_and_what_it_shows_is_unknown() {
    let unseen = |spec: &Value| {
        let seen = healthy(1, stored(&json!({})));
        let seen = changed(seen, |seen| {
            seen.ingress_has_address = None;
            seen.kinds_unseen = vec![(Kind::Ingress, "grant its role watch".to_owned())];
        });
        plan(spec, &seen)
    };
    let off = json!({"ingress": {"enabled": false}});
    for (spec, exposed) in [
        (&json!({}), (None, Reason::CannotWatch)),
        (&off, (Some(false), Reason::IngressDisabled)),
    ] {
        let plan = unseen(spec);
        assert_eq!(state(&plan, ConditionType::Exposed), exposed);
        assert_eq!(
            state(&plan, ConditionType::ConfigurationValid),
            (Some(true), Reason::ValidWithWarnings)
        );
        for type_ in [ConditionType::Exposed, ConditionType::ConfigurationValid] {
            let message = &condition(&plan.report, type_).message;
            assert!(message.contains("grant its role watch"), "{message}");
        }
    }
    let unwanted = unseen(&off);
    let message = &condition(&unwanted.report, ConditionType::Exposed).message;
    assert!(message.contains("may still stand"), "{message}");
}

#[test]
fn a_kind_that_is_not_installed_is_reported_and_stops_nothing_else() {
    let spec = json!({"gateway": {"parentRefs": [{"name": "public"}]}, "monitoring": {"serviceMonitor": {}}});
    let kinds = |plan: &Plan| {
        let mut kinds: Vec<_> = plan.objects.iter().map(|object| object.kind).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    };
    let seen = healthy(1, stored(&json!({})));
    let everything = plan(&spec, &seen);
    let lacking = plan(
        &spec,
        &changed(seen, |seen| {
            seen.kinds_not_installed = vec![Kind::HttpRoute, Kind::ServiceMonitor];
        }),
    );
    let mut wanted = kinds(&everything);
    assert!(wanted.contains(&Kind::HttpRoute) && wanted.contains(&Kind::ServiceMonitor));
    wanted.retain(|kind| kind.brought_by().is_none());
    assert_eq!(kinds(&lacking), wanted);
    assert_eq!(
        state(&lacking, ConditionType::ConfigurationValid),
        (Some(false), Reason::KindNotInstalled)
    );
    assert_eq!(
        state(&lacking, ConditionType::Exposed),
        (Some(false), Reason::KindNotInstalled)
    );
    let message = &condition(&lacking.report, ConditionType::ConfigurationValid).message;
    for named in [
        "spec.gateway",
        "httproutes",
        "spec.monitoring.serviceMonitor",
        "servicemonitors",
    ] {
        assert!(message.contains(named), "{message}");
    }
    assert_eq!(
        state(&everything, ConditionType::ConfigurationValid),
        (Some(true), Reason::Valid)
    );
}

#[test]
fn a_blocked_cluster_reports_every_problem_at_once_and_touches_nothing() {
    let spec = json!({
        "version": "v3 .21", "replicas": 51, "externalURL": "bytebase.example.com",
        "database": {"urlSecretRef": {"name": "absent", "key": "PG_URL"}},
        "podTemplate": 5,
    });
    for world in [three(), observation(None, DatabaseView::NotProbed)] {
        let plan = plan(&spec, &world);
        assert!(plan.objects.is_empty() && plan.prune.is_empty());
        assert!(plan.eviction.is_none() && called(&plan).is_none());
        assert_eq!(plan.report.phase, Some(Phase::Invalid));
        assert_eq!(
            state(&plan, ConditionType::ConfigurationValid),
            (Some(false), Reason::InvalidSpec)
        );
        for (type_, status) in [
            (ConditionType::Ready, false),
            (ConditionType::Stalled, true),
            (ConditionType::Reconciling, false),
        ] {
            assert_eq!(
                state(&plan, type_),
                (Some(status), Reason::InvalidConfiguration)
            );
        }
        let message = &condition(&plan.report, ConditionType::ConfigurationValid).message;
        for field in [
            "spec.version:",
            "spec.replicas:",
            "spec.externalURL:",
            "spec.database.urlSecretRef:",
            "spec.podTemplate:",
        ] {
            assert!(message.contains(field), "{message}");
        }
        // What runs is still reported.
        assert_eq!(
            plan.report.replicas,
            i32::try_from(world.pods.len()).unwrap()
        );
    }
}

#[test]
fn an_overlay_that_breaks_the_template_blocks() {
    let plan = plan(
        &json!({"podTemplate": {"spec": {"containers": [{"name": "bytebase", "args": []}]}}}),
        &three(),
    );
    assert!(plan.objects.is_empty());
    assert_eq!(
        state(&plan, ConditionType::ConfigurationValid),
        (Some(false), Reason::InvalidSpec)
    );
    assert!(
        condition(&plan.report, ConditionType::ConfigurationValid)
            .message
            .starts_with("spec.podTemplate: ")
    );
}

#[test]
fn pods_that_get_no_drain_hook_are_warned_of_unless_none_is_wanted() {
    let known = crate::testing::settings();
    let unknown = crate::decide::Settings {
        own_image: None,
        ..known.clone()
    };
    for (drain, settings, reason) in [
        (json!({}), &known, Reason::Valid),
        (json!({}), &unknown, Reason::ValidWithWarnings),
        (
            json!({"drain": "Enabled"}),
            &unknown,
            Reason::ValidWithWarnings,
        ),
        (json!({"drain": "Disabled"}), &unknown, Reason::Valid),
        (json!({"drainImage": "hook:1"}), &unknown, Reason::Valid),
    ] {
        let validation = crate::testing::validation(&json!({"rollout": drain}));
        let plan = crate::decide::decide(&validation, &three(), settings);
        let found = condition(&plan.report, ConditionType::ConfigurationValid);
        assert_eq!(
            (found.status, found.reason),
            (Some(true), reason),
            "{drain}"
        );
        assert_eq!(
            found.message.contains("get no drain hook"),
            reason == Reason::ValidWithWarnings
        );
    }
}

#[test]
fn pods_that_stand_without_a_drain_hook_are_warned_of_until_they_change() {
    let remark = "the hook comes with their next change";
    for (drain, standing, warns) in [
        (json!({}), Some("same"), true),
        // They are replaced.
        (json!({"drain": "Enabled"}), Some("same"), false),
        (json!({}), Some("another"), false),
        (json!({"drain": "Disabled"}), Some("same"), false),
        // The next write of the StatefulSet says whose template it is.
        (json!({}), None, false),
    ] {
        let spec = json!({"rollout": drain});
        let known = crate::testing::settings();
        let own = known.own_image.as_deref();
        let made = template(&valid(&spec), own, Standing::default());
        let digest = made.unwrap().digest;
        let world = changed(three(), |seen| {
            let set = seen.stateful_set.as_mut().unwrap();
            set.template_digest = match standing {
                Some("same") => digest,
                other => other.map(str::to_owned),
            };
        });
        let plan = plan(&spec, &world);
        let message = &condition(&plan.report, ConditionType::ConfigurationValid).message;
        assert_eq!(message.contains(remark), warns, "{spec}: {message}");
    }
}

#[test]
fn a_drain_hook_that_has_no_login_is_warned_of() {
    let url = "postgres://u@db.rds.amazonaws.com/x?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1";
    for (database, drain, warns) in [
        (json!({"url": url}), "Enabled", true),
        (json!({"url": url}), "Disabled", false),
        (
            json!({"url": url, "monitorSecretRef": {"name": "pg", "key": "PG_URL"}}),
            "Enabled",
            false,
        ),
        (
            json!({"urlSecretRef": {"name": "pg", "key": "PG_URL"}}),
            "Enabled",
            false,
        ),
    ] {
        let spec = json!({"database": database, "rollout": {"drain": drain}});
        let seen = observation(None, DatabaseView::CannotRead);
        let plan = plan(&spec, &seen);
        let message = &condition(&plan.report, ConditionType::ConfigurationValid).message;
        let words = "the drain hook cannot log in by cloud IAM";
        assert_eq!(message.contains(words), warns, "{spec}: {message}");
    }
}

#[test]
fn a_proxy_to_the_database_that_ends_before_the_drain_does_is_warned_of() {
    let monitor = json!({"name": "pg", "key": "PG_URL"});
    let within = json!({"url": "postgres://u@localhost/x", "monitorSecretRef": monitor});
    let outside = json!({"urlSecretRef": monitor});
    let beside = json!({"containers": [{"name": "proxy", "image": "proxy:1"}]});
    let before = json!({"initContainers": [
        {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"},
    ]});
    let once = json!({
        "containers": [{"name": "proxy", "image": "proxy:1"}],
        "initContainers": [{"name": "setup", "image": "setup:1"}],
    });
    for (database, overlay, drain, warns) in [
        (&within, &beside, "Enabled", true),
        (&within, &once, "Enabled", true),
        (&within, &before, "Enabled", false),
        (&within, &beside, "Disabled", false),
        (&outside, &beside, "Enabled", false),
        // A webhook adds the proxy to the pods.
        (&within, &json!({}), "Enabled", false),
    ] {
        let spec = json!({
            "database": database,
            "podTemplate": {"spec": overlay},
            "rollout": {"drain": drain},
        });
        let seen = observation(None, DatabaseView::CannotRead);
        let plan = plan(&spec, &seen);
        let message = &condition(&plan.report, ConditionType::ConfigurationValid).message;
        let words = "no init container of spec.podTemplate has restartPolicy Always";
        assert_eq!(message.contains(words), warns, "{spec}: {message}");
    }
}

#[test]
fn an_overlay_that_takes_the_drain_away_is_warned_of() {
    let warned = |drain: &str, spec: &Value| {
        let mut spec = spec.clone();
        spec["rollout"] = json!({"drain": drain});
        let plan = plan(&spec, &three());
        let found = condition(&plan.report, ConditionType::ConfigurationValid);
        (found.reason == Reason::ValidWithWarnings).then(|| found.message.clone())
    };
    let overlay = |spec: Value| json!({"podTemplate": {"spec": spec}});
    let container = |lifecycle: Value| {
        overlay(json!({"containers": [{"name": "bytebase", "lifecycle": lifecycle}]}))
    };
    for (spec, words) in [
        (
            overlay(json!({"terminationGracePeriodSeconds": 60})),
            Some("is 60, so"),
        ),
        (
            overlay(json!({"terminationGracePeriodSeconds": 9999})),
            None,
        ),
        (
            container(json!({"preStop": {"exec": {"command": ["sleep", "5"]}}})),
            Some("does not start the drain hook"),
        ),
        (
            container(Value::Null),
            Some("does not start the drain hook"),
        ),
        (
            container(json!({"preStop": {"exec": {"command": [
                "sh", "-c", "sync; exec /bytebase-drain-bin/bytebase-drain wait",
            ]}}})),
            None,
        ),
    ] {
        let found = warned("Enabled", &spec);
        let Some(words) = words else {
            assert_eq!(found, None, "{spec}");
            continue;
        };
        assert!(found.is_some_and(|found| found.contains(words)), "{spec}");
        assert_eq!(warned("Disabled", &spec), None);
    }
    // Without a drain there is still Bytebase's own end, after the pause of 5 s.
    for (seconds, warns) in [(14, true), (15, false)] {
        let spec = overlay(json!({"terminationGracePeriodSeconds": seconds}));
        assert_eq!(warned("Disabled", &spec).is_some(), warns, "{seconds}");
    }
}

#[test]
fn remarks_are_on_a_valid_configuration() {
    let plan = plan(&json!({"version": "latest"}), &three());
    assert_eq!(
        state(&plan, ConditionType::ConfigurationValid),
        (Some(true), Reason::ValidWithWarnings)
    );
    assert_eq!(
        state(
            &super::plan(&json!({}), &three()),
            ConditionType::ConfigurationValid
        ),
        (Some(true), Reason::Valid)
    );
}
