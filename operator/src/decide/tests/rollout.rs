//! One pod at a time.

use super::{condition, plan, size, state};
use crate::api::status::RolloutWait;
use crate::api::{ConditionType, Reason};
use crate::contract::version::Version;
use crate::decide::plan::Plan;
use crate::kubernetes::Kind;
use crate::observation::{
    DatabaseFacts, DatabaseView, Fact, FailureClass, FailureReason, LogQuote, Observation,
    PodRefusal, PodTrouble, PodWait, RefusedEviction, RememberedRollout, RunningTasks, SchemaState,
    Sessions,
};
use crate::redaction::{KnownSecrets, RedactedLine};
use crate::testing::{
    NEW, OLD, after, failure, healthy, heartbeats, id, now, running, stored, with_facts,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::time::Duration;

const ROLLOUT: ConditionType = ConditionType::RolloutComplete;

/// Three healthy pods, of which these are outdated.
fn outdated(ordinals: &[usize]) -> Observation {
    let mut seen = healthy(3, stored(&json!({})));
    for ordinal in ordinals {
        seen.pods[*ordinal].revision = Some(OLD.to_owned());
    }
    seen
}

fn evicted(plan: &Plan) -> Option<&str> {
    plan.eviction.as_ref().map(|eviction| eviction.pod.as_str())
}

fn migration() -> Sessions {
    Sessions {
        migration_running: true,
        ..Sessions::default()
    }
}

fn waits_for(plan: &Plan, words: &str) {
    assert_eq!(evicted(plan), None);
    assert_eq!(state(plan, ROLLOUT), (Some(false), Reason::RolloutWaiting));
    let message = &condition(&plan.report, ROLLOUT).message;
    assert!(message.contains(words), "{message}");
    assert_eq!(
        plan.report.rollout.as_ref().map(|rollout| &rollout.message),
        Some(message)
    );
}

fn stale(observation: Observation, ordinal: usize) -> Observation {
    with_facts(observation, |facts| {
        heartbeats(facts)[ordinal].age = Duration::from_secs(31);
    })
}

#[test]
fn a_finished_roll_is_done() {
    let plan = plan(&json!({}), &outdated(&[]));
    assert_eq!(state(&plan, ROLLOUT), (Some(true), Reason::RolloutDone));
    assert!(plan.eviction.is_none() && plan.report.rollout.is_none());
}

#[test]
fn the_highest_outdated_pod_goes_first_by_uid() {
    let plan = plan(&json!({}), &outdated(&[0, 1, 2]));
    let eviction = plan.eviction.as_ref().unwrap();
    assert_eq!(
        (eviction.pod.as_str(), eviction.uid.as_str()),
        ("demo-2", "uid-2")
    );
    assert_eq!(
        state(&plan, ROLLOUT),
        (Some(false), Reason::RolloutProgressing)
    );
    assert_eq!(plan.report.rollout.as_ref().unwrap().updated_replicas, 0);
}

#[test]
fn idle_pods_go_before_busy_ones() {
    let seen = with_facts(outdated(&[0, 1, 2]), |facts| {
        *running(facts) = vec![
            RunningTasks {
                replica_id: id(2),
                count: 1,
            },
            RunningTasks {
                replica_id: id(0),
                count: 4,
            },
        ];
    });
    assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-1"));
}

/// All three outdated, and each runs so many tasks.
fn busy(tasks: [u64; 3]) -> Observation {
    with_tasks(outdated(&[0, 1, 2]), tasks)
}

/// Each of three replicas runs so many tasks.
fn with_tasks(seen: Observation, tasks: [u64; 3]) -> Observation {
    with_facts(seen, |facts| {
        *running(facts) = (0..)
            .zip(tasks)
            .map(|(ordinal, count)| RunningTasks {
                replica_id: id(ordinal),
                count,
            })
            .collect();
    })
}

/// What status said, so many seconds ago.
fn waited(waiting_for: RolloutWait, pod: &str, seconds: i64) -> RememberedRollout {
    RememberedRollout {
        busy_since: None,
        scale_down_only: false,
        message: String::new(),
        waiting_for,
        pod: Some(pod.to_owned()),
        since: after(SignedDuration::from_secs(-seconds)),
    }
}

#[test]
fn a_busy_replica_is_given_a_minute_to_become_idle() {
    let mut seen = busy([3, 1, 2]);
    let first = plan(&json!({}), &seen);
    waits_for(&first, "demo-1 runs the fewest (1)");
    let status = first.report.rollout.as_ref().unwrap();
    let deadline = after(SignedDuration::from_secs(60));
    assert_eq!(
        (
            status.waiting_for,
            status.pod.as_deref(),
            status.running_tasks
        ),
        (Some(RolloutWait::IdleReplica), Some("demo-1"), Some(1))
    );
    assert_eq!(status.deadline, Some(Time(deadline)));
    assert_eq!(first.requeue_at, Some(deadline));
    // The minute is that of status, whichever replica it spoke of and whichever process wrote it.
    for (waited, expected) in [
        (waited(RolloutWait::IdleReplica, "demo-0", 59), None),
        (
            waited(RolloutWait::IdleReplica, "demo-0", 60),
            Some("demo-1"),
        ),
        // By a clock that is ahead.
        (waited(RolloutWait::IdleReplica, "demo-0", -999), None),
        // Its minute is over.
        (waited(RolloutWait::Eviction, "demo-1", 0), Some("demo-1")),
        (
            waited(RolloutWait::DisruptionBudget, "demo-1", 0),
            Some("demo-1"),
        ),
        // Also where something could not be written that pods are made from.
        (
            waited(RolloutWait::StatefulSetController, "demo-1", 0),
            Some("demo-1"),
        ),
        // That of the pod before is.
        (waited(RolloutWait::Eviction, "demo-2", 0), None),
        (waited(RolloutWait::Drain, "demo-2", 99), None),
    ] {
        seen.remembered.rollout = Some(waited.clone());
        assert_eq!(evicted(&plan(&json!({}), &seen)), expected, "{waited:?}");
    }
}

#[test]
fn a_busy_replica_without_the_drain_hook_is_given_a_whole_drain_to_become_idle() {
    let mut seen = busy([3, 1, 2]);
    for pod in &mut seen.pods {
        pod.drains = false;
    }
    // Whatever kept the replica from being ended, it may have been idle then.
    for before in [
        RolloutWait::DisruptionBudget,
        RolloutWait::Eviction,
        RolloutWait::StatefulSetController,
    ] {
        let waited = waited(before, "demo-1", 9999);
        seen.remembered.rollout = Some(waited.clone());
        assert_eq!(evicted(&plan(&json!({}), &seen)), None, "{before:?}");
        // Or its time was up, and stays so.
        let since = after(SignedDuration::from_hours(-1));
        seen.remembered.rollout = Some(RememberedRollout {
            busy_since: Some(since),
            ..waited
        });
        let plan = plan(&json!({}), &seen);
        assert_eq!(evicted(&plan), Some("demo-1"), "{before:?}");
        let reported = plan.report.rollout.unwrap().busy_since;
        assert_eq!(reported, Some(Time(since)), "{before:?}");
    }
    let evicts = |rollout: Value, seconds, seen: &Observation| {
        let mut seen = seen.clone();
        seen.remembered.rollout = Some(waited(RolloutWait::IdleReplica, "demo-1", seconds));
        let plan = plan(&json!({"rollout": rollout}), &seen);
        if plan.eviction.is_none() {
            waits_for(&plan, "has no drain hook, so its tasks are cancelled then");
        }
        evicted(&plan).is_some()
    };
    for rollout in [json!({}), json!({"drain": "Enabled"})] {
        for (seconds, expected) in [(61, false), (3599, false), (3600, true)] {
            assert_eq!(
                evicts(rollout.clone(), seconds, &seen),
                expected,
                "{seconds}"
            );
        }
    }
    let short = json!({"drainTimeoutSeconds": 600});
    assert!(!evicts(short.clone(), 599, &seen) && evicts(short, 600, &seen));
    // No one asks for a drain.
    assert!(evicts(json!({"drain": "Disabled"}), 60, &seen));
}

#[test]
fn a_busy_replica_with_less_time_than_a_drain_has_a_whole_drain_to_become_idle() {
    let secs = SignedDuration::from_secs;
    for (grace, timeout, wanted, patience) in [
        (Some(3665), Some(3600), 3600, 60),
        // An overlay shortens the one, or the other.
        (Some(60), Some(3600), 3600, 3600),
        (Some(3665), Some(60), 3600, 3600),
        // A longer drain is wanted than the one that the pod was made for.
        (Some(3665), Some(3600), 14400, 14400),
        (Some(3665), Some(3600), 600, 60),
        // Not known.
        (None, None, 3600, 60),
        (None, Some(60), 3600, 3600),
        (Some(60), None, 3600, 3600),
    ] {
        let mut seen = busy([3, 1, 2]);
        for pod in &mut seen.pods {
            (pod.grace, pod.drain_timeout) = (grace.map(secs), timeout.map(secs));
        }
        let spec = json!({"rollout": {"drainTimeoutSeconds": wanted}});
        let case = format!("{grace:?} {timeout:?} {wanted}");
        let waiting = plan(&spec, &seen);
        assert_eq!(waiting.requeue_at, Some(after(secs(patience))), "{case}");
        let message = &condition(&waiting.report, ROLLOUT).message;
        let words = if patience == 60 {
            "it finishes its tasks first".to_owned()
        } else {
            let given = grace.into_iter().chain(timeout).min().unwrap();
            format!("its pod gives it only {given} s to finish its tasks")
        };
        assert!(message.contains(&words), "{case}: {message}");
        for (seconds, expected) in [(patience - 1, None), (patience, Some("demo-1"))] {
            seen.remembered.rollout = Some(waited(RolloutWait::IdleReplica, "demo-1", seconds));
            assert_eq!(evicted(&plan(&spec, &seen)), expected, "{case} {seconds}");
        }
        // So does a scale-down.
        let mut fewer = spec.clone();
        fewer["replicas"] = json!(2);
        seen.remembered.rollout = None;
        for pod in &mut seen.pods {
            pod.revision = Some(NEW.to_owned());
        }
        let expected = if patience == 60 { 2 } else { 3 };
        assert_eq!(size(&plan(&fewer, &seen)), Some(expected), "{case}");
    }
}

#[test]
fn without_the_drain_hook_no_tasks_are_cancelled_for_being_unknown_or_older_than_the_schema() {
    let mut older = busy([3, 1, 2]);
    for pod in &mut older.pods {
        pod.drains = false;
    }
    let unknown = with_facts(older.clone(), |facts| {
        facts.running_tasks = Fact::Unknown;
        facts.not_understood = vec!["task_run"];
    });
    for pod in &mut older.pods {
        pod.version = Some("3.20.2".to_owned());
    }
    let mut unreadable = unknown.clone();
    unreadable.database = DatabaseView::CannotRead;
    for (case, seen, seconds, drain, expected) in [
        ("older", &older, 3599, "Enabled", None),
        ("older", &older, 3600, "Enabled", Some("demo-1")),
        ("older", &older, 0, "Disabled", Some("demo-1")),
        ("unknown", &unknown, 3599, "Enabled", None),
        ("unknown", &unknown, 3600, "Enabled", Some("demo-2")),
        ("unknown", &unknown, 0, "Disabled", Some("demo-2")),
        // No wait would show more.
        ("unreadable", &unreadable, 0, "Enabled", Some("demo-2")),
    ] {
        let mut seen = seen.clone();
        seen.remembered.rollout = Some(waited(RolloutWait::IdleReplica, "demo-1", seconds));
        let plan = plan(&json!({"rollout": {"drain": drain}}), &seen);
        assert_eq!(evicted(&plan), expected, "{case} {seconds} {drain}");
        if expected.is_none() {
            waits_for(&plan, "has no drain hook, so its tasks are cancelled then");
        }
    }
}

#[test]
fn an_interruption_gives_no_busy_replica_its_time_once_more() {
    let since = after(SignedDuration::from_secs(-50));
    let reported = |plan: &Plan| {
        let rollout = plan.report.rollout.as_ref().unwrap();
        rollout.busy_since.as_ref().map(|since| since.0)
    };
    let mut seen = busy([3, 1, 2]);
    assert_eq!(reported(&plan(&json!({}), &seen)), Some(now()));
    // As an older operator reported it.
    seen.remembered.rollout = Some(waited(RolloutWait::IdleReplica, "demo-1", 50));
    assert_eq!(reported(&plan(&json!({}), &seen)), Some(since));
    seen.remembered.rollout.as_mut().unwrap().busy_since = Some(since);
    let mut away = seen.clone();
    away.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    let migrating = with_facts(seen.clone(), |facts| facts.sessions = Some(migration()));
    let silent = stale(seen.clone(), 0);
    for interrupted in [away, migrating, silent] {
        assert_eq!(reported(&plan(&json!({}), &interrupted)), Some(since));
    }
    seen.remembered.rollout = Some(RememberedRollout {
        busy_since: Some(since),
        ..waited(RolloutWait::Database, "", 1)
    });
    let waiting = plan(&json!({}), &seen);
    assert_eq!(reported(&waiting), Some(since));
    assert_eq!(
        waiting.requeue_at,
        Some(after(SignedDuration::from_secs(10)))
    );
    // Nor does another template, or a budget that keeps a pod whose time is up.
    seen.remembered.rollout.as_mut().unwrap().waiting_for = RolloutWait::IdleReplica;
    let mut edited = seen.clone();
    edited.stateful_set.as_mut().unwrap().settled = false;
    let unsettled = plan(&json!({}), &edited);
    waits_for(&unsettled, "the StatefulSet controller");
    assert_eq!(reported(&unsettled), Some(since));
    for (pod, drains, clock) in [
        ("demo-1", false, Some(after(SignedDuration::from_hours(-1)))),
        ("demo-1", true, Some(since)),
        ("demo-3", false, None),
    ] {
        let mut refused = seen.clone();
        refused.pods[1].drains = drains;
        let waited = waited(RolloutWait::DisruptionBudget, pod, 9);
        let busy_since = clock.or(Some(after(SignedDuration::from_hours(-1))));
        refused.remembered.rollout = Some(RememberedRollout {
            busy_since,
            ..waited
        });
        let decided = plan(&json!({}), &refused);
        let expected = clock.and(Some("demo-1"));
        assert_eq!(evicted(&decided), expected, "{pod} {drains}");
        assert_eq!(reported(&decided), clock.or(Some(now())), "{pod} {drains}");
    }
    // An end, or an idle moment, ends it.
    let idle = with_facts(seen, |facts| running(facts).clear());
    assert_eq!(reported(&plan(&json!({}), &idle)), None);
}

#[test]
fn only_work_that_is_known_is_waited_for() {
    assert_eq!(evicted(&plan(&json!({}), &busy([3, 0, 2]))), Some("demo-1"));
    let mut unread = with_facts(busy([3, 1, 2]), |facts| facts.running_tasks = Fact::Unknown);
    let unknown = with_facts(unread.clone(), |facts| {
        facts.not_understood = vec!["task_run"];
    });
    assert_eq!(evicted(&plan(&json!({}), &unknown)), Some("demo-2"));
    // That one of the next readings knows is worth the wait, which takes nothing from the minute.
    unread.remembered.rollout = Some(RememberedRollout {
        busy_since: Some(after(SignedDuration::from_secs(-20))),
        ..waited(RolloutWait::IdleReplica, "demo-1", 20)
    });
    let plan = plan(&json!({}), &unread);
    waits_for(&plan, "a reading that says what the replicas run");
    let status = plan.report.rollout.as_ref().unwrap();
    assert_eq!(status.waiting_for, Some(RolloutWait::DatabaseReading));
    let busy_since = status.busy_since.as_ref().map(|since| since.0);
    assert_eq!(busy_since, Some(after(SignedDuration::from_secs(-20))));
}

#[test]
fn a_replica_that_is_older_than_the_schema_is_not_waited_for() {
    let mut seen = busy([3, 1, 2]);
    for pod in &mut seen.pods {
        pod.version = Some("3.20.2".to_owned());
    }
    let plan = plan(&json!({}), &seen);
    assert_eq!(evicted(&plan), Some("demo-1"));
    let message = &condition(&plan.report, ROLLOUT).message;
    let behind = "3 replicas still run a version that is older than the schema, which is at 3.21";
    assert!(message.contains(behind), "{message}");
}

#[test]
fn an_upgrade_that_does_not_come_up_says_whether_there_is_a_way_back() {
    for (old, schema, words) in [
        (
            "3.20.2",
            Some(Version::new(3, 20, 1)),
            "spec.version may go back to 3.20.2",
        ),
        (
            "3.20.2",
            Some(Version::new(3, 21, 1)),
            "only a backup of the database leads back to Bytebase 3.20.2",
        ),
        (
            "3.20.2",
            None,
            "neither is whether Bytebase 3.20.2 can run on it",
        ),
        (
            "3.21.0",
            Some(Version::new(3, 21, 1)),
            "correct the change or take it back",
        ),
    ] {
        let mut seen = with_facts(outdated(&[0, 1]), |facts| {
            facts.schema = SchemaState::Bytebase { version: schema };
        });
        seen.pods[2].ready = false;
        seen.pods[0].version = Some(old.to_owned());
        seen.pods[1].version = Some(old.to_owned());
        let plan = plan(&json!({}), &seen);
        assert_eq!(state(&plan, ROLLOUT), (Some(false), Reason::RolloutStalled));
        let status = plan.report.rollout.as_ref().unwrap();
        assert_eq!(
            (status.waiting_for, status.pod.as_deref()),
            (Some(RolloutWait::Correction), Some("demo-2"))
        );
        assert!(status.message.contains(words), "{}", status.message);
        assert_eq!(
            status.message.contains("back to"),
            words.contains("back to")
        );
    }
}

/// `Stalled` of a cluster whose new replica is not up, and whether it is the rollout that says so.
fn stalled(spec: &Value, seen: &Observation) -> String {
    let plan = plan(spec, seen);
    let stalled = condition(&plan.report, ConditionType::Stalled);
    assert_eq!(stalled.status, Some(true));
    stalled.message.clone()
}

/// One replica, or the first of several, on a new template; the only one of before is gone.
fn last_one_replaced(schema: Option<Version>) -> Observation {
    let mut seen = with_facts(healthy(1, stored(&json!({}))), |facts| {
        facts.schema = SchemaState::Bytebase { version: schema };
        heartbeats(facts).clear();
    });
    seen.pods[0].ready = false;
    seen.remembered.version = Some("3.20.2".to_owned());
    seen
}

#[test]
fn the_way_back_is_known_where_no_replica_of_the_version_before_is_left() {
    let rolling = json!({"replicas": 1});
    let maintenance = json!({"replicas": 3, "rollout": {"strategy": "Maintenance"}});
    for spec in [rolling, maintenance] {
        for (schema, words) in [
            (
                Some(Version::new(3, 20, 1)),
                "spec.version may go back to 3.20.2",
            ),
            (
                Some(Version::new(3, 21, 1)),
                "only a backup of the database leads back to Bytebase 3.20.2",
            ),
            (None, "neither is whether Bytebase 3.20.2 can run on it"),
        ] {
            let message = stalled(&spec, &last_one_replaced(schema));
            assert!(message.contains(words), "{spec}: {message}");
        }
    }
    // The same version as before: the change is another one.
    let mut seen = last_one_replaced(Some(Version::new(3, 21, 1)));
    seen.remembered.version = Some("3.21.1".to_owned());
    let message = stalled(&json!({"replicas": 1}), &seen);
    assert!(!message.contains("schema"), "{message}");
}

#[test]
fn the_way_back_is_open_only_where_the_schema_of_now_is_known() {
    let unchanged = || last_one_replaced(Some(Version::new(3, 20, 1)));
    let migrating = with_facts(unchanged(), |facts| facts.sessions = Some(migration()));
    let unread = with_facts(unchanged(), |facts| facts.sessions = None);
    let mut away = unchanged();
    away.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    for seen in [migrating, unread, away] {
        let message = stalled(&json!({"replicas": 1}), &seen);
        assert!(
            message.contains("neither is whether Bytebase 3.20.2 can run on it"),
            "{message}"
        );
    }
    // A schema never goes back by itself.
    let mut away = last_one_replaced(Some(Version::new(3, 21, 1)));
    away.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    let message = stalled(&json!({"replicas": 1}), &away);
    assert!(message.contains("only a backup"), "{message}");
}

#[test]
fn the_way_back_of_a_version_without_a_number_is_what_the_schema_says() {
    let spec = json!({"version": "latest"});
    for (old, schema, words) in [
        ("3.20.2", (3, 20), "spec.version may go back to 3.20.2"),
        ("3.20.2", (3, 22), "leads back to Bytebase 3.20.2"),
        (
            "3.16.2",
            (3, 16),
            "spec.version cannot go back to 3.16.2: every replica is started in the HA mode, which Bytebase has from 3.17.0 on",
        ),
        (
            "mine",
            (3, 22),
            "Which Bytebase mine is cannot be known, so neither can whether it runs on the schema",
        ),
    ] {
        let (major, minor) = schema;
        let mut seen = with_facts(outdated(&[0, 1]), |facts| {
            facts.schema = SchemaState::Bytebase {
                version: Some(Version::new(major, minor, 1)),
            };
        });
        for pod in &mut seen.pods {
            pod.version = Some(old.to_owned());
        }
        seen.pods[2].version = Some("latest".to_owned());
        seen.pods[2].ready = false;
        let message = stalled(&spec, &seen);
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn the_log_of_a_replica_that_does_not_come_up_is_quoted() {
    let line = "Cannot new server: relation \"task_run\" does not exist";
    let quoted = format!("its log says: {line}");
    let of = |mut seen: Observation, ordinal: usize| {
        seen.pods[ordinal].ready = false;
        let line = RedactedLine::of(line, &KnownSecrets::default());
        seen.pods[ordinal].log_quote = line.map(LogQuote::Line);
        seen
    };
    for (spec, seen, pod) in [
        // A rollout, a first start of several, and one of one.
        (json!({}), of(outdated(&[0, 1]), 2), "demo-2"),
        (json!({}), of(healthy(3, stored(&json!({}))), 1), "demo-1"),
        (
            json!({"replicas": 1}),
            of(healthy(1, stored(&json!({}))), 0),
            "demo-0",
        ),
    ] {
        let message = stalled(&spec, &seen);
        assert!(
            message.contains(&quoted) && message.contains(pod),
            "{message}"
        );
        let plan = plan(&spec, &seen);
        assert_eq!(plan.eviction, None, "no other pod is touched");
        let mut replicas = plan.report.replica_statuses.iter();
        let said = replicas
            .find_map(|replica| replica.log_line.as_ref())
            .unwrap();
        assert_eq!(said.text, line);
        assert_eq!(said.pod_uid, pod.replace("demo", "uid"));
        // A restart between two ends of the process changes nothing.
        let mut again = seen.clone();
        for pod in &mut again.pods {
            pod.restarts += 1;
        }
        assert_eq!(super::plan(&spec, &again).report, plan.report);
    }
}

#[test]
fn a_log_that_may_not_be_quoted_is_pointed_to() {
    for (previous, command) in [
        (true, "(kubectl logs demo-2 --previous)"),
        (false, "(kubectl logs demo-2)"),
    ] {
        let mut seen = outdated(&[0, 1]);
        seen.pods[2].ready = false;
        seen.pods[2].log_quote = Some(LogQuote::Withheld { previous });
        let message = stalled(&json!({}), &seen);
        assert!(message.contains(command), "{message}");
        let plan = plan(&json!({}), &seen);
        let mut replicas = plan.report.replica_statuses.iter();
        assert!(replicas.all(|replica| replica.log_line.is_none()));
    }
}

#[test]
fn every_other_replica_must_serve() {
    // The one on the present template is young: an old one that is not up stalls the rollout.
    let outdated = |ordinals: &[usize]| {
        let mut seen = outdated(ordinals);
        seen.pods[0].created_at = now();
        seen
    };
    let mut not_ready = outdated(&[1, 2]);
    not_ready.pods[0].ready = false;
    waits_for(
        &plan(&json!({}), &not_ready),
        "demo-0 to be Ready and to send heartbeats",
    );
    waits_for(
        &plan(&json!({}), &stale(outdated(&[1, 2]), 0)),
        "demo-0 to be Ready and to send heartbeats",
    );
    // An outdated one that is Ready but sends no heartbeat goes first; it could never be waited
    // for.
    assert_eq!(
        evicted(&plan(&json!({}), &stale(outdated(&[0, 1, 2]), 0))),
        Some("demo-0")
    );
    // With two of them no pod is touched while their tasks are still theirs.
    waits_for(
        &plan(&json!({}), &stale(stale(outdated(&[0, 1, 2]), 0), 1)),
        "to be Ready and to send heartbeats",
    );
}

#[test]
fn replicas_that_send_no_heartbeats_any_more_do_not_wait_for_each_other() {
    // As after a password that was changed in the database before it was in the Secret.
    let silent = |seconds| {
        with_facts(outdated(&[0, 1, 2]), |facts| {
            for heartbeat in heartbeats(facts) {
                heartbeat.age = Duration::from_secs(seconds);
            }
        })
    };
    waits_for(
        &plan(&json!({}), &silent(60)),
        "demo-0 to be Ready and to send heartbeats",
    );
    assert_eq!(evicted(&plan(&json!({}), &silent(61))), Some("demo-2"));
    // After an outage all heartbeats are old, those of replicas that go on as well.
    for writable_for in [0, 44] {
        let seen = with_facts(silent(90), |facts| {
            facts.writable_for = Duration::from_secs(writable_for);
        });
        waits_for(
            &plan(&json!({}), &seen),
            "demo-0 to be Ready and to send heartbeats",
        );
    }
    let heard = with_facts(silent(90), |facts| {
        facts.writable_for = Duration::from_secs(45);
    });
    assert_eq!(evicted(&plan(&json!({}), &heard)), Some("demo-2"));
    // The one that was replaced must be up before the next goes.
    let mut replaced = silent(61);
    replaced.pods[2].revision = Some(NEW.to_owned());
    replaced.pods[2].created_at = now();
    waits_for(
        &plan(&json!({}), &replaced),
        "demo-2 to be Ready and to send heartbeats",
    );
    // Whose row Bytebase has deleted has sent none for long either; whose pod is young has perhaps
    // not been read yet.
    for (age, expected) in [(3600, Some("demo-2")), (20, None)] {
        let mut seen = with_facts(outdated(&[0, 1, 2]), |facts| heartbeats(facts).clear());
        for pod in &mut seen.pods {
            // The process counts: an old pod may have restarted a moment ago.
            pod.started_at = Some(after(SignedDuration::from_secs(-age)));
        }
        let plan = plan(&json!({}), &seen);
        assert_eq!(evicted(&plan), expected);
        if expected.is_none() {
            assert_eq!(plan.requeue_at, Some(after(SignedDuration::from_secs(41))));
        }
    }
}

#[test]
fn a_replica_that_takes_no_requests_and_still_works_is_not_taken_for_broken() {
    let working = |age| {
        let mut seen = with_facts(outdated(&[2]), |facts| {
            *running(facts) = vec![RunningTasks {
                replica_id: id(2),
                count: 1,
            }];
            heartbeats(facts)[2].age = Duration::from_secs(age);
        });
        seen.pods[2].ready = false;
        seen
    };
    let waits = |seen: &Observation| {
        waits_for(&plan(&json!({}), seen), "a replica to be idle");
    };
    waits(&working(5));
    // It is another container that fails.
    let mut beside = working(5);
    beside.pods[2].trouble = Some(PodTrouble::Crashing("exit 1".to_owned()));
    waits(&beside);
    // After a minute without a heartbeat its tasks are lost anyway, as without a process.
    assert_eq!(evicted(&plan(&json!({}), &working(61))), Some("demo-2"));
    beside.pods[2].started_at = None;
    assert_eq!(evicted(&plan(&json!({}), &beside)), Some("demo-2"));
}

#[test]
fn a_silent_node_holds_every_step() {
    for of in [0, 2] {
        let mut seen = outdated(&[0, 1, 2]);
        seen.pods[of].ready = false;
        seen.pods[of].trouble = Some(PodTrouble::NodeSilent("its node is gone".to_owned()));
        waits_for(
            &plan(&json!({}), &seen),
            &format!("demo-{of}: its node is gone"),
        );
    }
}

#[test]
fn one_pod_that_ends_holds_the_next() {
    let mut seen = outdated(&[0, 1, 2]);
    seen.pods[1].deleting = true;
    waits_for(&plan(&json!({}), &seen), "demo-1 to end");
    // Even a broken one.
    seen.pods[2].ready = false;
    seen.pods[2].trouble = Some(PodTrouble::Crashing("exit 1".to_owned()));
    waits_for(&plan(&json!({}), &seen), "demo-1 to end");
}

#[test]
fn a_pod_that_has_gone_is_waited_for() {
    let mut seen = outdated(&[0, 1]);
    seen.pods.remove(2);
    waits_for(&plan(&json!({}), &seen), "2 of 3 pods to exist");
}

#[test]
fn what_the_controllers_do_not_do_stalls_by_the_clock_of_status() {
    let rolling = json!({"rollout": {"readyTimeoutSeconds": 100}});
    let downtime = json!({"rollout": {"readyTimeoutSeconds": 100, "strategy": "Maintenance"}});
    let mut gone = outdated(&[0, 1]);
    gone.pods.remove(2);
    let mut none = healthy(0, stored(&json!({})));
    none.stateful_set = Some(crate::testing::set(1));
    none.stateful_set.as_mut().unwrap().pods = 0;
    let mut unseen = none.clone();
    unseen.stateful_set.as_mut().unwrap().settled = false;
    for (waiting_for, spec, seen) in [
        (RolloutWait::PodCreation, &rolling, gone),
        (RolloutWait::FirstReplica, &downtime, none),
        (RolloutWait::StatefulSetController, &rolling, unseen),
    ] {
        let reported = |seen: &Observation| {
            let plan = plan(spec, seen);
            assert_eq!(plan.eviction, None);
            let status = plan.report.rollout.clone().unwrap();
            assert_eq!(status.waiting_for, Some(waiting_for));
            let stalled =
                state(&plan, ConditionType::Stalled) == (Some(true), Reason::RolloutStalled);
            (
                stalled,
                status.message,
                status.deadline.map(|deadline| deadline.0),
            )
        };
        let remembers = |pod: Option<&str>, seconds| {
            let mut seen = seen.clone();
            seen.remembered.rollout = Some(RememberedRollout {
                pod: pod.map(str::to_owned),
                ..waited(waiting_for, "", seconds)
            });
            seen
        };
        let deadline = |seconds| Some(after(SignedDuration::from_secs(seconds)));
        let first = reported(&seen);
        assert_eq!((first.0, first.2), (false, deadline(100)));
        let later = reported(&remembers(None, 99));
        assert_eq!((later.0, later.2), (false, deadline(1)));
        // What was waited for before of a pod was another thing.
        assert!(!reported(&remembers(Some("demo-0"), 999)).0);
        let mut late = remembers(None, 100);
        let (stalled, message, _) = reported(&late);
        assert!(
            stalled && message.contains("kube-controller-manager"),
            "{message}"
        );
        let words = "pods \"demo-2\" is forbidden: violates PodSecurity";
        late.refused_pod = Some(PodRefusal {
            since: after(SignedDuration::from_secs(-100)),
            message: words.to_owned(),
        });
        let (stalled, message, _) = reported(&late);
        assert!(stalled && message.contains(words), "{message}");
        late.remembered.rollout = None;
        let (stalled, message, _) = reported(&late);
        assert!(!stalled && message.contains(words), "{message}");
    }
}

#[test]
fn a_broken_outdated_pod_is_replaced_without_waiting() {
    for trouble in [
        PodTrouble::Crashing("CrashLoopBackOff".to_owned()),
        PodTrouble::ImagePull("ErrImagePull".to_owned()),
        PodTrouble::Unschedulable("no node".to_owned()),
        PodTrouble::Creation("secret missing".to_owned()),
    ] {
        // Even where others are not well, pods are missing, or the database has never been in
        // reach.
        let mut seen = outdated(&[0, 1]);
        seen.pods[0].ready = false;
        seen.pods[0].trouble = Some(trouble);
        seen.pods[0].started_at = None;
        seen.pods[1].ready = false;
        seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
        seen.last_facts = None;
        assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-0"));
        // It may hold what the new one needs: room in a quota, or on a node.
        let mut unscheduled = seen.clone();
        unscheduled.pods[2].ready = false;
        unscheduled.pods[2].trouble = Some(PodTrouble::Unschedulable("no node".to_owned()));
        assert_eq!(evicted(&plan(&json!({}), &unscheduled)), Some("demo-0"));
        seen.pods.remove(2);
        assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-0"));
    }
}

#[test]
fn a_container_that_fails_beside_each_bytebase_does_not_hold_its_own_correction_up() {
    let mut seen = busy([1, 1, 1]);
    for pod in &mut seen.pods {
        pod.ready = false;
        pod.trouble = Some(PodTrouble::ImagePull("no such image".to_owned()));
    }
    waits_for(&plan(&json!({}), &seen), "a replica to be idle");
    let mut waited_for = seen.clone();
    waited_for.remembered.rollout = Some(waited(RolloutWait::IdleReplica, "demo-2", 60));
    assert_eq!(evicted(&plan(&json!({}), &waited_for)), Some("demo-2"));
    // Where tasks can never be read the drain hook alone waits for them.
    seen.database = DatabaseView::CannotRead;
    seen.last_facts = None;
    assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-2"));
    // Those on the new template have to serve all the same.
    let mut corrected = seen;
    corrected.pods[2].revision = Some(NEW.to_owned());
    corrected.pods[2].created_at = now();
    waits_for(&plan(&json!({}), &corrected), "demo-2 to be Ready");
}

/// Three outdated replicas, each with a task, whose pods have not been Ready for so many seconds,
/// although no container of theirs fails.
fn none_is_ready(seconds: i64) -> Observation {
    let mut seen = busy([1, 1, 1]);
    for pod in &mut seen.pods {
        pod.ready = false;
        pod.unready_since = Some(after(SignedDuration::from_secs(-seconds)));
    }
    seen
}

#[test]
fn replicas_that_are_not_ready_do_not_wait_for_each_other() {
    let first = |seen: &Observation| evicted(&plan(&json!({}), seen)).map(str::to_owned);
    // What they run has its time, however long they have not been Ready.
    let mut seen = none_is_ready(5);
    waits_for(&plan(&json!({}), &seen), "a replica to be idle");
    seen.remembered.rollout = Some(waited(RolloutWait::IdleReplica, "demo-2", 60));
    assert_eq!(first(&seen).as_deref(), Some("demo-2"));
    let why = plan(&json!({}), &seen).eviction.unwrap().why;
    assert_eq!(why, "it runs an old template and is not Ready");
    // One beside them that gets requests and of which no heartbeat can be seen waits for them, not
    // they for it.
    let mut beside = with_facts(seen.clone(), |facts| {
        heartbeats(facts)[2].age = Duration::from_secs(40);
    });
    beside.pods[2].ready = true;
    assert_eq!(first(&beside).as_deref(), Some("demo-1"));
    // What they run is known to no login that the operator has.
    let unknown = with_facts(none_is_ready(5), |facts| {
        facts.running_tasks = Fact::Unknown;
        facts.not_understood = vec!["task_run"];
    });
    assert_eq!(first(&unknown).as_deref(), Some("demo-2"));
    // The one that was replaced has to serve before the next.
    seen.pods[2].revision = Some(NEW.to_owned());
    seen.pods[2].unready_since = Some(now());
    waits_for(&plan(&json!({}), &seen), "demo-2 to be Ready");
}

#[test]
fn a_start_that_may_migrate_an_unread_schema_has_its_time() {
    let spec = json!({"rollout": {"readyTimeoutSeconds": 100}});
    for (seconds, expected) in [(0, None), (99, None), (100, Some("demo-2"))] {
        let mut seen = none_is_ready(seconds);
        seen.database = DatabaseView::CannotRead;
        seen.last_facts = None;
        let plan = plan(&spec, &seen);
        assert_eq!(evicted(&plan), expected, "{seconds}");
        if expected.is_none() {
            waits_for(&plan, "demo-0 to be Ready and to send heartbeats");
            let left = after(SignedDuration::from_secs(100 - seconds));
            let deadline = plan.report.rollout.unwrap().deadline;
            assert_eq!(deadline, Some(Time(left)), "{seconds}");
        }
    }
}

#[test]
fn a_rollout_that_can_spare_no_replica_stalls_by_the_clock_of_status() {
    let spec = json!({"rollout": {"readyTimeoutSeconds": 100}});
    let others = |pod: &str, seconds| Some(waited(RolloutWait::OtherReplicas, pod, seconds));
    let stalled = |seen: &Observation| {
        let plan = plan(&spec, seen);
        assert_eq!(evicted(&plan), None);
        let rollout = plan.report.rollout.as_ref().unwrap();
        assert_eq!(rollout.waiting_for, Some(RolloutWait::OtherReplicas));
        state(&plan, ConditionType::Stalled) == (Some(true), Reason::RolloutStalled)
    };
    // Each is Ready, and one of them is frozen: which one, its session cannot show.
    let mut seen = outdated(&[0, 1, 2]);
    for pod in &mut seen.pods {
        pod.replica_id = None;
    }
    let mut seen = with_facts(seen, |facts| {
        facts.sessions.as_mut().unwrap().listeners = None;
    });
    assert!(!stalled(&seen));
    // Whichever of them was named before.
    for (seconds, expected) in [(99, false), (100, true)] {
        seen.remembered.rollout = others("demo-1", seconds);
        assert_eq!(stalled(&seen), expected, "{seconds}");
    }
    let plan_late = plan(&spec, &seen);
    let message = &condition(&plan_late.report, ROLLOUT).message;
    for words in [
        "demo-0: Ready, heartbeat unknown; demo-1: Ready, heartbeat unknown.",
        "kubectl delete pod demo-0,",
    ] {
        assert!(message.contains(words), "{message}");
    }
    // What the next one had of its time goes on, whoever is well first.
    let busy_since = after(SignedDuration::from_secs(-100));
    let mut busy = seen.clone();
    let before = busy.remembered.rollout.as_mut().unwrap();
    before.busy_since = Some(busy_since);
    assert!(stalled(&busy));
    let rollout = plan(&spec, &busy).report.rollout.unwrap();
    assert_eq!(rollout.busy_since, Some(Time(busy_since)));
    // The database is to blame for as long as it is away, and none can be well at once after that.
    let mut away = seen.clone();
    away.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    assert!(!stalled(&away));
    seen.remembered.database_ready = Some((true, after(SignedDuration::from_secs(-99))));
    assert!(!stalled(&seen));
}

#[test]
fn what_is_not_ready_for_a_moment_does_not_come_back_from_a_template_that_fails() {
    let mut seen = outdated(&[0, 1]);
    seen.pods[1].ready = false;
    assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-1"));
    let mut starting = seen.clone();
    starting.pods[2].ready = false;
    starting.pods[2].created_at = now();
    waits_for(&plan(&json!({}), &starting), "demo-2 to be Ready");
    // For as long as it has been failing.
    let mut failing = starting;
    failing.pods[2].created_at = after(SignedDuration::from_hours(-9));
    failing.pods[2].trouble = Some(PodTrouble::ImagePull("no such image".to_owned()));
    stalled(&json!({}), &failing);
    assert_eq!(evicted(&plan(&json!({}), &failing)), None);
    // One that no pod can be made from.
    let mut missing = seen;
    missing.pods.remove(2);
    waits_for(&plan(&json!({}), &missing), "2 of 3 pods to exist");
}

#[test]
fn an_outdated_pod_that_is_starting_is_broken_only_if_no_migration_can_be_under_way() {
    let mut seen = outdated(&[2]);
    seen.pods[2].ready = false;
    assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-2"));
    let migrating = with_facts(seen.clone(), |facts| {
        facts.sessions = Some(migration());
    });
    waits_for(&plan(&json!({}), &migrating), "advisory lock 1002");
    seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    waits_for(
        &plan(&json!({}), &seen),
        "to be Ready and to send heartbeats",
    );
}

#[test]
fn a_schema_migration_holds_every_step() {
    let seen = with_facts(outdated(&[0, 1, 2]), |facts| {
        facts.sessions = Some(migration());
    });
    waits_for(&plan(&json!({}), &seen), "advisory lock 1002");
}

#[test]
fn a_size_far_beyond_the_pods_that_there_are_is_taken_back_at_once() {
    // As by an autoscaler.
    for (written, pods, expected) in [(20_000_000, 3, 3), (300, 5, 5), (5, 5, 4), (4, 0, 3)] {
        let mut seen = healthy(pods, stored(&json!({})));
        seen.stateful_set.as_mut().unwrap().replicas = written;
        assert_eq!(size(&plan(&json!({}), &seen)), Some(expected), "{written}");
    }
}

#[test]
fn the_account_of_the_pods_stays_until_none_runs_or_would_be_made_under_it() {
    let prunes = |spec: &Value, seen: &Observation| {
        let plan = plan(spec, seen);
        plan.prune.contains(&Kind::ServiceAccount)
    };
    let own = |mut seen: Observation| {
        seen.stateful_set.as_mut().unwrap().template =
            json!({"spec": {"serviceAccountName": "demo"}});
        seen
    };
    let theirs = |mut seen: Observation| {
        seen.stateful_set.as_mut().unwrap().template =
            json!({"spec": {"serviceAccountName": "theirs"}});
        seen
    };
    let wanted = json!({"serviceAccount": {"name": "theirs"}});
    let healthy = || healthy(3, stored(&json!({})));
    assert!(prunes(&wanted, &theirs(healthy())));
    assert!(!prunes(&wanted, &theirs(outdated(&[2]))));
    assert!(!prunes(&wanted, &own(healthy())));
    // The template is held.
    let mut downgrade = wanted.clone();
    downgrade["version"] = json!("3.20.0");
    assert!(!prunes(&downgrade, &own(healthy())));
}

#[test]
fn a_scale_down_waits_for_a_schema_migration_too() {
    let migrating = |facts: &mut DatabaseFacts| facts.sessions = Some(migration());
    let unread = |facts: &mut DatabaseFacts| facts.sessions = None;
    let seen = healthy(3, stored(&json!({})));
    for (seen, words) in [
        (with_facts(seen.clone(), migrating), "advisory lock 1002"),
        (
            with_facts(seen.clone(), unread),
            "a reading that says whether",
        ),
    ] {
        for replicas in [0, 1] {
            let plan = plan(&json!({"replicas": replicas}), &seen);
            assert_eq!(size(&plan), Some(3));
            assert!(plan.read_options.sessions);
            let reported = condition(&plan.report, ConditionType::Reconciling);
            assert_eq!(reported.status, Some(true));
            assert!(
                reported.message.contains("the scale-down is waiting for")
                    && reported.message.contains(words),
                "{}",
                reported.message
            );
        }
    }
    assert_eq!(size(&plan(&json!({"replicas": 1}), &seen)), Some(2));
    // A process that has just started knows of none, and one whose database is away of the last.
    let mut started = seen.clone();
    (started.database, started.last_facts) = (DatabaseView::NotProbed, None);
    let mut away = with_facts(seen.clone(), migrating);
    away.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    for seen in [started, away] {
        assert_eq!(size(&plan(&json!({"replicas": 0}), &seen)), None);
    }
    let mut lost = seen;
    lost.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    assert_eq!(size(&plan(&json!({"replicas": 0}), &lost)), Some(0));
    // Without an HA license every queued task fails soon: the hook of the pod waits instead.
    let unlicensed = with_facts(healthy(3, crate::testing::no_license()), migrating);
    assert_eq!(size(&plan(&json!({}), &unlicensed)), Some(1));
}

#[test]
fn a_migration_that_was_read_long_ago_holds_no_scale_down() {
    let mut away = with_facts(healthy(3, stored(&json!({}))), |facts| {
        facts.sessions = Some(migration());
    });
    away.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    let aged = |seconds| {
        let mut seen = away.clone();
        seen.last_facts.as_mut().unwrap().0 = Duration::from_secs(seconds);
        seen
    };
    let stop = json!({"replicas": 0});
    let waiting = plan(&stop, &aged(60));
    assert_eq!(size(&waiting), None);
    assert_eq!(
        waiting.requeue_at,
        Some(after(SignedDuration::from_secs(60)))
    );
    assert_eq!(size(&plan(&stop, &aged(119))), None);
    for seconds in [120, 9000] {
        assert_eq!(size(&plan(&stop, &aged(seconds))), Some(0));
        assert_eq!(
            size(&plan(&json!({"replicas": 1}), &aged(seconds))),
            Some(2)
        );
    }
}

#[test]
fn no_step_is_taken_before_a_reading_of_the_sessions() {
    let unread = |facts: &mut DatabaseFacts| facts.sessions = None;
    let seen = with_facts(outdated(&[0, 1, 2]), unread);
    let waiting = plan(&json!({}), &seen);
    waits_for(
        &waiting,
        "a reading that says whether a schema migration runs",
    );
    assert!(waiting.read_options.sessions);
    // A rollout that may not go on is still read, so that it reports what it really waits for.
    let paused = plan(&json!({"paused": true}), &seen);
    assert_eq!(
        (
            paused.read_options.every.as_secs(),
            paused.read_options.sessions
        ),
        (10, true)
    );
}

#[test]
fn a_roll_that_a_budget_holds_says_so_and_goes_on_trying() {
    let mut seen = outdated(&[2]);
    for (uid, reason) in [
        (seen.pods[2].uid.clone(), Reason::RolloutWaiting),
        ("of-another".to_owned(), Reason::RolloutProgressing),
    ] {
        seen.refused_eviction = Some(RefusedEviction {
            uid,
            why: "the budget needs 3".to_owned(),
        });
        let plan = plan(&json!({}), &seen);
        assert_eq!(evicted(&plan), Some("demo-2"));
        assert_eq!(state(&plan, ROLLOUT), (Some(false), reason));
        let message = &condition(&plan.report, ROLLOUT).message;
        assert_eq!(
            message
                .contains("waiting for a PodDisruptionBudget to let demo-2 go: the budget needs 3"),
            reason == Reason::RolloutWaiting,
            "{message}"
        );
    }
}

#[test]
fn a_restart_takes_no_refusal_of_a_budget_out_of_status() {
    let mut seen = outdated(&[2]);
    seen.refused_eviction = Some(RefusedEviction {
        uid: seen.pods[2].uid.clone(),
        why: "the budget needs 3".to_owned(),
    });
    for version in ["3.21.1", "3.20.1"] {
        seen.pods[2].version = Some(version.to_owned());
        let before = plan(&json!({}), &seen).report;
        let rollout = before.rollout.clone().unwrap();
        let mut restarted = seen.clone();
        restarted.refused_eviction = None;
        restarted.remembered.rollout = Some(RememberedRollout {
            message: rollout.message,
            ..waited(RolloutWait::DisruptionBudget, "demo-2", 99)
        });
        let after = plan(&json!({}), &restarted);
        assert_eq!(evicted(&after), Some("demo-2"));
        assert_eq!(after.report, before, "{version}");
        // What was said of another pod says nothing of this one.
        restarted.remembered.rollout.as_mut().unwrap().pod = Some("demo-1".to_owned());
        let after = plan(&json!({}), &restarted);
        assert_eq!(
            state(&after, ROLLOUT),
            (Some(false), Reason::RolloutProgressing)
        );
    }
}

#[test]
fn sessions_are_read_only_where_something_depends_on_them() {
    let unread = |facts: &mut DatabaseFacts| facts.sessions = None;
    let mut seen = with_facts(healthy(3, stored(&json!({}))), unread);
    let quiet = plan(&json!({}), &seen);
    assert_eq!(
        (
            quiet.read_options.every.as_secs(),
            quiet.read_options.sessions
        ),
        (10, false)
    );
    assert_eq!(state(&quiet, ConditionType::Ready).0, Some(true));
    let mut ending = seen.clone();
    ending.pods[1].deleting = true;
    for spec in [
        json!({}),
        json!({"paused": true}),
        json!({"externalURL": "nonsense"}),
        json!({"paused": true, "externalURL": "nonsense"}),
    ] {
        for (seen, reads) in [(&seen, false), (&ending, true)] {
            assert_eq!(
                plan(&spec, seen).read_options.sessions,
                reads,
                "{spec} {reads}"
            );
        }
    }
    seen.pods[1].replica_id = None;
    assert!(plan(&json!({}), &seen).read_options.sessions);
}

#[test]
fn each_ready_replica_without_a_fresh_heartbeat_is_awaited() {
    let seen = with_facts(outdated(&[0, 1]), |facts| {
        if let Fact::Known(heartbeats) = &mut facts.heartbeats {
            heartbeats.pop();
        }
    });
    let awaited = |seen: &Observation| plan(&json!({}), seen).read_options.awaited;
    assert_eq!(awaited(&seen), 1);
    let mut starting = seen.clone();
    starting.pods[2].ready = false;
    assert_eq!((awaited(&starting), awaited(&outdated(&[0]))), (0, 0));
}

#[test]
fn a_hold_of_the_queue_is_read_until_it_is_over() {
    let seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
        facts.sessions = Some(Sessions {
            queue_held_by: ["drain/demo-1".to_owned()].into(),
            ..Sessions::default()
        });
    });
    let plan = plan(&json!({}), &seen);
    let hold = plan.report.queue_hold.unwrap();
    assert_eq!(hold.held_by, ["drain/demo-1"]);
    assert!(plan.read_options.sessions);
}

#[test]
fn an_unsettled_statefulset_holds_every_step() {
    let mut seen = outdated(&[0, 1, 2]);
    seen.stateful_set.as_mut().unwrap().settled = false;
    waits_for(&plan(&json!({}), &seen), "the StatefulSet controller");
}

#[test]
fn the_next_pod_waits_for_the_last_and_not_for_ever() {
    let spec = json!({"rollout": {"readyTimeoutSeconds": 100}});
    let mut seen = outdated(&[0, 1]);
    for (age, ready, active, expected) in [
        (0, false, false, Reason::RolloutWaiting),
        (99, false, false, Reason::RolloutWaiting),
        (100, false, false, Reason::RolloutStalled),
        (100, true, false, Reason::RolloutStalled),
        (5, true, false, Reason::RolloutWaiting),
        (5000, true, true, Reason::RolloutProgressing),
    ] {
        seen.pods[2].created_at = after(SignedDuration::from_secs(-age));
        seen.pods[2].ready = ready;
        seen.pods[2].trouble = None;
        // Of one that is Ready status says since when it is waited for.
        seen.remembered.rollout = Some(waited(RolloutWait::ReadyReplica, "demo-2", age));
        let case = with_facts(seen.clone(), |facts| {
            if !active {
                heartbeats(facts).remove(2);
            }
        });
        let plan = plan(&spec, &case);
        assert_eq!(
            state(&plan, ROLLOUT),
            (Some(false), expected),
            "{age} s old, ready {ready}"
        );
        assert_eq!(
            evicted(&plan),
            (expected == Reason::RolloutProgressing).then_some("demo-1")
        );
        if expected == Reason::RolloutStalled {
            assert_eq!(
                state(&plan, ConditionType::Stalled),
                (Some(true), Reason::RolloutStalled)
            );
            assert_eq!(state(&plan, ConditionType::Reconciling).0, Some(false));
        }
        if expected == Reason::RolloutWaiting {
            assert_eq!(
                plan.requeue_at,
                Some(after(SignedDuration::from_secs(100 - age)))
            );
        }
    }
}

#[test]
fn a_database_that_is_refused_is_blamed_for_what_does_not_come_up_on_it_and_no_change_is() {
    let spec = json!({"rollout": {"readyTimeoutSeconds": 100}});
    for ready in [true, false] {
        for age in [5, 100] {
            let mut seen = with_facts(outdated(&[0, 1]), |facts| {
                heartbeats(facts).remove(2);
            });
            seen.pods[2].created_at = after(SignedDuration::from_secs(-age));
            seen.pods[2].ready = ready;
            seen.remembered.rollout = Some(waited(RolloutWait::ReadyReplica, "demo-2", age));
            let read_only = with_facts(seen.clone(), |facts| facts.read_only = true);
            let refused = plan(&spec, &read_only);
            waits_for(&refused, "the database to pass its checks");
            let rollout = refused.report.rollout.clone().unwrap();
            assert_eq!(rollout.waiting_for, Some(RolloutWait::Database));
            assert_eq!(rollout.pod.as_deref(), Some("demo-2"));
            assert_eq!(
                state(&refused, ConditionType::Stalled),
                (Some(true), Reason::DatabaseReadOnly)
            );
            // It stays so with the next reconcile.
            let mut next = read_only;
            next.remembered.rollout = Some(RememberedRollout {
                pod: rollout.pod,
                message: rollout.message,
                ..waited(RolloutWait::Database, "", 1)
            });
            assert_eq!(plan(&spec, &next).report, refused.report);
        }
    }
}

#[test]
fn a_database_that_cannot_be_read_is_blamed_for_a_pod_that_is_not_ready() {
    let mut seen = outdated(&[0, 1]);
    seen.pods[2].ready = false;
    assert_eq!(
        state(&plan(&json!({}), &seen), ROLLOUT).1,
        Reason::RolloutStalled
    );
    seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    let away = plan(&json!({}), &seen);
    waits_for(&away, "the database to be readable again");
    assert_eq!(state(&away, ConditionType::Stalled).0, Some(false));
    let rollout = away.report.rollout.unwrap();
    assert_eq!(rollout.waiting_for, Some(RolloutWait::Database));
    assert_eq!(rollout.pod.as_deref(), Some("demo-2"));
    // What was wrong with it before is not excused by one reading that fails.
    seen.remembered.rollout = Some(waited(RolloutWait::Correction, "demo-2", 1));
    let was_late = plan(&json!({}), &seen);
    assert_eq!(state(&was_late, ROLLOUT).1, Reason::RolloutStalled);
}

#[test]
fn a_pod_that_could_not_come_up_on_the_database_gets_its_time_from_when_it_can() {
    let spec = json!({"rollout": {"readyTimeoutSeconds": 100}});
    let mut seen = outdated(&[0, 1]);
    seen.pods[2].ready = false;
    seen.pods[2].unready_since = Some(after(SignedDuration::from_secs(-9999)));
    for (waited_for, was_ready, seconds, left) in [
        (RolloutWait::Database, false, 500, Some(100)),
        (RolloutWait::ReadyReplica, true, 1, Some(99)),
        // What comes between neither ends nor prolongs it.
        (RolloutWait::SchemaMigration, true, 60, Some(40)),
        (RolloutWait::ReadyReplica, true, 100, None),
        // The database was not in its way.
        (RolloutWait::Correction, true, 1, None),
    ] {
        seen.remembered.rollout = Some(waited(waited_for, "demo-2", 1));
        let since = after(SignedDuration::from_secs(-seconds));
        seen.remembered.database_ready = Some((was_ready, since));
        let plan = plan(&spec, &seen);
        let is_stalled = state(&plan, ROLLOUT).1 == Reason::RolloutStalled;
        assert_eq!(is_stalled, left.is_none(), "{waited_for:?} {seconds}");
        let deadline = plan.report.rollout.unwrap().deadline;
        let expected = left.map(|left| Time(after(SignedDuration::from_secs(left))));
        assert_eq!(deadline, expected, "{waited_for:?} {seconds}");
    }
}

#[test]
fn what_else_stops_a_rollout_stands_beside_a_database_that_is_refused() {
    let mut seen = with_facts(outdated(&[0, 1]), |facts| facts.read_only = true);
    seen.pods[2].deleting = true;
    seen.pods[2].ends_by = Some(after(SignedDuration::from_secs(-61)));
    let plan = plan(&json!({}), &seen);
    assert_eq!(state(&plan, ROLLOUT), (Some(false), Reason::RolloutStalled));
    assert_eq!(
        state(&plan, ConditionType::Stalled),
        (Some(true), Reason::DatabaseReadOnly)
    );
}

#[test]
fn a_replica_that_has_long_been_ready_is_not_late_at_its_first_stale_heartbeat() {
    let spec = json!({"rollout": {"readyTimeoutSeconds": 100}});
    let mut seen = stale(outdated(&[0, 1]), 2);
    let reason = |seen: &Observation| state(&plan(&spec, seen), ROLLOUT).1;
    assert_eq!(reason(&seen), Reason::RolloutWaiting);
    for (before, expected) in [
        (
            waited(RolloutWait::ReadyReplica, "demo-2", 99),
            Reason::RolloutWaiting,
        ),
        (
            waited(RolloutWait::ReadyReplica, "demo-2", 100),
            Reason::RolloutStalled,
        ),
        (
            waited(RolloutWait::ReadyReplica, "demo-1", 999),
            Reason::RolloutWaiting,
        ),
        // What was reported stays reported until it is up.
        (
            waited(RolloutWait::Correction, "demo-2", 1),
            Reason::RolloutStalled,
        ),
    ] {
        seen.remembered.rollout = Some(before.clone());
        assert_eq!(reason(&seen), expected, "{before:?}");
    }
}

#[test]
fn a_pod_that_does_not_end_is_reported_after_a_minute() {
    let mut seen = outdated(&[0, 1]);
    seen.pods[2].deleting = true;
    for (seconds, expected) in [(60, Reason::RolloutWaiting), (61, Reason::RolloutStalled)] {
        seen.pods[2].ends_by = Some(after(SignedDuration::from_secs(-seconds)));
        let plan = plan(&json!({}), &seen);
        assert_eq!(state(&plan, ROLLOUT).1, expected);
        let message = &condition(&plan.report, ROLLOUT).message;
        assert_eq!(
            message.contains("delete pod demo-2 --force"),
            expected == Reason::RolloutStalled,
            "{message}"
        );
        if expected == Reason::RolloutWaiting {
            assert_eq!(plan.requeue_at, Some(after(SignedDuration::from_secs(1))));
        }
    }
}

#[test]
fn a_pod_that_a_finalizer_keeps_is_not_to_be_ended_by_force() {
    let mut seen = outdated(&[0, 1]);
    let pod = &mut seen.pods[2];
    pod.deleting = true;
    pod.ends_by = Some(after(SignedDuration::from_secs(-61)));
    pod.finalizers = vec!["example.com/cloud".to_owned()];
    let says = |seen: &Observation, words: &str| {
        let message = stalled(&json!({}), seen);
        assert!(message.contains(words), "{message}");
        assert_eq!(message.contains("--force"), words == "--force", "{message}");
    };
    // As long as its process runs, its node has not done its part.
    says(&seen, "--force");
    seen.pods[2].started_at = None;
    says(&seen, "since its finalizers stand: example.com/cloud.");
    let silent = PodTrouble::NodeSilent("node-2 no longer reports".to_owned());
    seen.pods[2].trouble = Some(silent);
    says(&seen, "--force");
}

#[test]
fn a_readiness_gate_that_is_not_open_is_no_fault_of_the_change() {
    let gate = "its readiness gate example.com/a is not open";
    let mut seen = outdated(&[0, 1]);
    seen.pods[2].ready = false;
    seen.pods[2].waits_for = Some(PodWait::Gate(gate.to_owned()));
    let done = {
        let mut seen = seen.clone();
        for pod in &mut seen.pods {
            pod.revision = Some(NEW.to_owned());
        }
        seen
    };
    let message = stalled(&json!({}), &seen);
    for words in [gate, "once the controller that sets this condition"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(!message.contains("take it back"), "{message}");
    let plan = plan(&json!({}), &done);
    let late = condition(&plan.report, ConditionType::Stalled);
    assert_eq!(late.status, Some(true));
    assert!(late.message.contains(gate), "{}", late.message);
}

#[test]
fn one_that_was_up_and_is_not_now_gets_its_time_again() {
    let spec = json!({"rollout": {"readyTimeoutSeconds": 100}});
    let mut seen = outdated(&[0, 1]);
    seen.pods[2].ready = false;
    for (seconds, expected) in [(99, Reason::RolloutWaiting), (100, Reason::RolloutStalled)] {
        seen.pods[2].unready_since = Some(after(SignedDuration::from_secs(-seconds)));
        assert_eq!(state(&plan(&spec, &seen), ROLLOUT).1, expected);
    }
}

#[test]
fn heartbeats_that_cannot_be_read_wait_and_never_stall() {
    let mut seen = outdated(&[0, 1]);
    seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    waits_for(&plan(&json!({}), &seen), "heartbeat unknown");
    let mut long = seen.clone();
    long.remembered.rollout = Some(waited(RolloutWait::ReadyReplica, "demo-2", 99_999));
    waits_for(&plan(&json!({}), &long), "heartbeat unknown");
    // Where they can never be read, Ready is all there is to go by.
    seen.database = DatabaseView::CannotRead;
    assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-1"));
}

#[test]
fn a_corrected_spec_gets_through_a_stalled_rollout() {
    // demo-2 got the broken template; the corrected one outdates it, and it is replaced first.
    let mut seen = outdated(&[0, 1, 2]);
    seen.pods[2].ready = false;
    seen.pods[2].revision = Some("rev-broken".to_owned());
    seen.pods[2].trouble = Some(PodTrouble::ImagePull("no such image".to_owned()));
    seen.pods[2].started_at = None;
    seen.pods[2].created_at = after(SignedDuration::from_hours(-9));
    assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-2"));
    // Taken back: the two that never left are on the present template.
    seen.pods[0].revision = Some(NEW.to_owned());
    seen.pods[1].revision = Some(NEW.to_owned());
    assert_eq!(evicted(&plan(&json!({}), &seen)), Some("demo-2"));
}

#[test]
fn one_replica_is_replaced_although_no_other_stands_in() {
    let mut seen = healthy(1, stored(&json!({})));
    seen.pods[0].revision = Some(OLD.to_owned());
    assert_eq!(
        evicted(&plan(&json!({"replicas": 1}), &seen)),
        Some("demo-0")
    );
}

#[test]
fn nothing_rolls_into_a_database_that_refuses_it_and_status_says_so() {
    for (view, for_) in [
        (
            failure(FailureClass::Definite, FailureReason::AuthenticationFailed),
            "the database to pass its checks",
        ),
        (DatabaseView::NotProbed, "the first reading of the database"),
    ] {
        let mut seen = outdated(&[0, 1, 2]);
        seen.pods[0].ready = false;
        seen.pods[0].trouble = Some(PodTrouble::Crashing("exit 0".to_owned()));
        seen.pods[0].started_at = None;
        seen.database = view;
        waits_for(&plan(&json!({}), &seen), for_);
    }
    waits_for(&plan(&json!({"paused": true}), &outdated(&[2])), "paused");
}

#[test]
fn shrinking_takes_one_at_a_time_and_no_eviction_beside_it() {
    let one = json!({"replicas": 1});
    // Idle demo-0 would be evicted while demo-2 is scaled away.
    let seen = with_facts(outdated(&[0, 1, 2]), |facts| {
        *running(facts) = vec![
            RunningTasks {
                replica_id: id(2),
                count: 1,
            },
            RunningTasks {
                replica_id: id(1),
                count: 1,
            },
        ];
    });
    let first = plan(&one, &seen);
    assert_eq!(size(&first), Some(2));
    waits_for(&first, "the scale-down to end");
    for change in [
        (|seen: &mut Observation| seen.pods[2].deleting = true) as fn(&mut Observation),
        |_| {},
    ] {
        let mut seen = seen.clone();
        seen.stateful_set.as_mut().unwrap().replicas = 2;
        change(&mut seen);
        let next = plan(&one, &seen);
        assert_eq!(size(&next), Some(2), "demo-2 is still there");
        assert_eq!(evicted(&next), None);
        // Also where two are wanted: what is surplus goes before anything is replaced.
        waits_for(&plan(&json!({"replicas": 2}), &seen), "demo-2 to end");
    }
    let mut seen = seen;
    seen.stateful_set.as_mut().unwrap().replicas = 2;
    seen.pods.truncate(2);
    assert_eq!(size(&plan(&one, &seen)), Some(1));
    seen.stateful_set.as_mut().unwrap().settled = false;
    assert_eq!(size(&plan(&one, &seen)), Some(2));
}

#[test]
fn a_scale_down_takes_none_that_serves_before_one_is_back_that_a_rollout_has_replaced() {
    let sized = |seen: &Observation| {
        let plan = plan(&json!({"replicas": 2}), seen);
        let reported = condition(&plan.report, ConditionType::Reconciling);
        (size(&plan), reported.message.clone(), plan.requeue_at)
    };
    let waits = |seen: &Observation, words: &str| {
        let (size, message, next) = sized(seen);
        assert_eq!(size, Some(3), "{words}");
        assert!(message.contains(words), "{message}");
        next
    };
    let replaced = |ordinal: usize| {
        let mut seen = healthy(3, stored(&json!({})));
        seen.pods[ordinal].created_at = after(SignedDuration::from_secs(-60));
        seen.pods[ordinal].ready = false;
        with_facts(seen, |facts| {
            heartbeats(facts).remove(ordinal);
        })
    };
    // It is made, comes up, and sends heartbeats.
    let mut missing = replaced(1);
    missing.pods.remove(1);
    waits(
        &missing,
        "waiting for 1 of 2 pods that are to stay to exist",
    );
    let down = replaced(1);
    let next = waits(
        &down,
        "waiting for demo-1 to be Ready and to send heartbeats",
    );
    assert_eq!(next, Some(after(SignedDuration::from_secs(900 - 60))));
    let mut ready = down.clone();
    ready.pods[1].ready = true;
    waits(
        &ready,
        "waiting for demo-1 to be Ready and to send heartbeats",
    );
    // The one that is taken away carries no load; or what is down does not come up, cannot be made,
    // or has been there for long.
    let mut refused = missing;
    refused.refused_pod = Some(PodRefusal {
        message: "exceeded quota".to_owned(),
        since: after(SignedDuration::from_secs(-60)),
    });
    let mut broken = down.clone();
    broken.pods[1].trouble = Some(PodTrouble::Crashing("Cannot new server".to_owned()));
    let mut late = down.clone();
    late.pods[1].created_at = after(SignedDuration::from_secs(-900));
    for seen in [replaced(2), refused, broken, late] {
        assert_eq!(sized(&seen).0, Some(2));
    }
    // The license gate has no time for it.
    let unlicensed = with_facts(down, |facts| {
        facts.license = Fact::Known(crate::testing::no_license());
    });
    assert_eq!(sized(&unlicensed).0, Some(1));
}

/// Three replicas without the drain hook, of which this one runs two tasks.
fn busy_without_hooks(ordinal: i32) -> Observation {
    let mut seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
        *running(facts) = vec![RunningTasks {
            replica_id: id(ordinal),
            count: 2,
        }];
    });
    for pod in &mut seen.pods {
        pod.drains = false;
    }
    seen
}

/// The size to which three replicas go, of which so many are wanted.
fn sized(replicas: i32, seen: &Observation) -> i64 {
    let plan = plan(&json!({"replicas": replicas}), seen);
    size(&plan).unwrap_or(3)
}

#[test]
fn the_license_gate_waits_for_no_busy_replica_nor_does_a_scale_down_without_drains() {
    let busy = busy_without_hooks(2);
    let unlicensed = with_facts(busy.clone(), |facts| {
        facts.license = Fact::Known(crate::testing::no_license());
    });
    assert_eq!(sized(3, &unlicensed), 1);
    let spec = json!({"replicas": 1, "rollout": {"drain": "Disabled"}});
    assert_eq!(size(&plan(&spec, &busy)), Some(2));
}

#[test]
fn a_scale_down_gives_a_busy_replica_without_the_drain_hook_a_whole_drain_to_become_idle() {
    let idle_first = busy_without_hooks(0);
    assert_eq!(sized(1, &idle_first), 2, "an idle one goes first");
    let mut hooked = busy_without_hooks(2);
    hooked.pods[2].drains = true;
    assert_eq!(sized(0, &hooked), 0, "its hook waits");
    for (replicas, next) in [(0, 0), (1, 2)] {
        let mut seen = busy_without_hooks(2);
        let waiting = plan(&json!({"replicas": replicas}), &seen);
        assert_eq!(size(&waiting), Some(3));
        assert_eq!(
            waiting.requeue_at,
            Some(after(SignedDuration::from_hours(1)))
        );
        let status = waiting.report.rollout.as_ref().unwrap();
        assert_eq!(
            (
                status.waiting_for,
                status.pod.as_deref(),
                status.running_tasks
            ),
            (Some(RolloutWait::IdleReplica), Some("demo-2"), Some(2))
        );
        assert_eq!(status.busy_since, Some(Time(now())));
        assert!(status.message.contains("has no drain hook"));
        // It is no rollout.
        assert_eq!(state(&waiting, ROLLOUT).0, Some(true));
        let reported = condition(&waiting.report, ConditionType::Reconciling);
        assert_eq!(reported.message, status.message);
        // The hour is that of status, and an outage begins none of it again.
        for (seconds, expected) in [(3599, 3), (3600, next)] {
            seen.remembered.rollout = Some(RememberedRollout {
                busy_since: Some(after(SignedDuration::from_secs(-seconds))),
                ..waited(RolloutWait::IdleReplica, "demo-2", seconds)
            });
            let mut away = seen.clone();
            away.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
            let mut restarted = away.clone();
            restarted.last_facts = None;
            for seen in [&seen, &away, &restarted] {
                assert_eq!(sized(replicas, seen), expected, "{seconds}");
                // Where the write fails, its time stays over.
                let status = plan(&json!({"replicas": replicas}), seen).report.rollout;
                let since = status.unwrap().busy_since.unwrap().0;
                assert_eq!(since, after(SignedDuration::from_secs(-seconds)));
            }
        }
        // Nor does what holds the scale-down for a moment meanwhile.
        let migrating = with_facts(seen.clone(), |facts| {
            facts.sessions.as_mut().unwrap().migration_running = true;
        });
        let waiting = plan(&json!({"replicas": replicas}), &migrating);
        assert_eq!(size(&waiting).unwrap_or(3), 3);
        let since = waiting.report.rollout.unwrap().busy_since;
        assert_eq!(since, Some(Time(after(SignedDuration::from_hours(-1)))));
        let mut edited = seen.clone();
        edited.stateful_set.as_mut().unwrap().settled = false;
        let mut beside = seen.clone();
        beside.pods[0].deleting = true;
        for interrupted in [edited, beside] {
            let status = plan(&json!({"replicas": replicas}), &interrupted);
            let status = status.report.rollout.unwrap();
            assert_eq!(status.pod.as_deref(), Some("demo-2"));
            assert_eq!(status.busy_since, since);
        }
        // That of a pod which has ended meanwhile is not the next one's, where they end one by one.
        let mut ended = seen.clone();
        ended.remembered.rollout.as_mut().unwrap().pod = Some("demo-3".to_owned());
        let expected = if replicas == 0 { 0 } else { 3 };
        assert_eq!(sized(replicas, &ended), expected);
        // Nor is that of a pod that a rollout was to end.
        let mut refused = seen.clone();
        refused.pods[0].revision = Some(OLD.to_owned());
        let before = refused.remembered.rollout.as_mut().unwrap();
        before.waiting_for = RolloutWait::DisruptionBudget;
        before.pod = Some("demo-0".to_owned());
        assert_eq!(sized(replicas, &refused), expected);
        seen.remembered.rollout = None;
        let idle = with_facts(seen, |facts| running(facts).clear());
        assert_eq!(sized(replicas, &idle), next);
    }
}

/// Every replica runs tasks that no drain hook waits for, and these are outdated.
fn unhooked(ordinals: &[usize]) -> Observation {
    let mut seen = with_tasks(outdated(ordinals), [3, 1, 2]);
    for pod in &mut seen.pods {
        pod.drains = false;
    }
    seen
}

#[test]
fn a_rollout_has_no_time_that_a_scale_down_has_waited_before_it() {
    let hours = |hours| after(SignedDuration::from_hours(hours));
    let reported = |replicas: i32, seen: &Observation| {
        let plan = plan(&json!({"replicas": replicas}), seen);
        let status = plan.report.rollout.clone().unwrap();
        let busy_since = status.busy_since.map(|since| since.0);
        (evicted(&plan).is_some(), busy_since, status.scale_down_only)
    };
    let after_status = |mut seen: Observation, scale_down_only| {
        seen.remembered.rollout = Some(RememberedRollout {
            busy_since: Some(hours(-1)),
            scale_down_only,
            ..waited(RolloutWait::IdleReplica, "demo-2", 3600)
        });
        seen
    };
    assert_eq!(reported(2, &unhooked(&[])), (false, Some(now()), true));
    // It is taken back, and the template changed.
    let mut taken_back = after_status(unhooked(&[0, 1, 2]), true);
    assert_eq!(reported(3, &taken_back), (false, Some(now()), false));
    taken_back.stateful_set.as_mut().unwrap().settled = false;
    assert_eq!(reported(3, &taken_back), (false, None, false));
    // The template changes while it goes on: its clock does, and is no rollout's later either.
    let edited = after_status(unhooked(&[0, 1, 2]), true);
    assert_eq!(reported(2, &edited), (false, Some(hours(-1)), true));
    // A rollout's own clock goes on through a scale-down of the same replica.
    let rollout = after_status(unhooked(&[0, 1, 2]), false);
    assert_eq!(reported(3, &rollout), (true, Some(hours(-1)), false));
    assert_eq!(reported(2, &rollout), (false, Some(hours(-1)), false));
    assert_eq!(
        reported(2, &unhooked(&[0, 1, 2])),
        (false, Some(now()), false)
    );
    // Once the rollout is taken back, it is the scale-down's alone.
    let reverted = after_status(unhooked(&[]), false);
    assert_eq!(reported(2, &reverted), (false, Some(hours(-1)), true));
}

#[test]
fn an_eviction_that_was_held_back_gives_the_next_replica_none_of_its_time() {
    let hour_ago = after(SignedDuration::from_hours(-1));
    let before = |waiting_for, pod: Option<&str>| RememberedRollout {
        busy_since: Some(hour_ago),
        pod: pod.map(str::to_owned),
        ..waited(waiting_for, "", 5)
    };
    let reported = |replicas: i32, seen: &Observation| {
        let plan = plan(&json!({"replicas": replicas}), seen);
        let busy_since = plan.report.rollout.clone().unwrap().busy_since;
        let ended = evicted(&plan).map(str::to_owned);
        (ended, size(&plan), busy_since.map(|since| since.0))
    };
    let mut seen = unhooked(&[0, 1, 2]);
    let held_back = before(RolloutWait::StatefulSetController, Some("demo-1"));
    seen.remembered.rollout = Some(held_back);
    let demo_1 = Some("demo-1".to_owned());
    assert_eq!(
        reported(3, &seen),
        (demo_1.clone(), Some(3), Some(hour_ago))
    );
    // It was evicted a moment later, or another party ended it.
    let mut replaced = seen.clone();
    replaced.pods[1].revision = Some(NEW.to_owned());
    assert_eq!(reported(3, &replaced), (None, Some(3), Some(now())));
    // Nor is it the time of one that is taken away.
    assert_eq!(reported(2, &seen), (None, Some(3), Some(now())));
    // That of all goes on while the StatefulSet controller is waited for, which is about none.
    seen.remembered.rollout = Some(before(RolloutWait::StatefulSetController, None));
    assert_eq!(reported(3, &seen), (demo_1, Some(3), Some(hour_ago)));
}

#[test]
fn a_scale_down_has_no_time_that_a_rollout_has_waited_for_others() {
    for (outdated, expected, since) in [
        (&[0][..], Some(3), now()),
        (&[0, 2][..], Some(2), after(SignedDuration::from_hours(-1))),
    ] {
        let mut seen = unhooked(outdated);
        seen.remembered.rollout = Some(RememberedRollout {
            busy_since: Some(after(SignedDuration::from_hours(-1))),
            pod: None,
            ..waited(RolloutWait::Database, "", 5)
        });
        let plan = plan(&json!({"replicas": 2}), &seen);
        assert_eq!(size(&plan), expected, "{outdated:?}");
        let status = plan.report.rollout.unwrap();
        assert_eq!(status.busy_since, Some(Time(since)), "{outdated:?}");
    }
}

#[test]
fn the_time_of_a_replica_that_a_scale_down_has_taken_ends_also_while_a_migration_runs() {
    let hour_ago = after(SignedDuration::from_hours(-1));
    let mut seen = with_facts(unhooked(&[]), |facts| facts.sessions = Some(migration()));
    seen.remembered.rollout = Some(RememberedRollout {
        busy_since: Some(hour_ago),
        scale_down_only: true,
        ..waited(RolloutWait::IdleReplica, "demo-2", 3600)
    });
    let reported = |seen: &Observation| {
        let plan = plan(&json!({"replicas": 1}), seen);
        let status = plan.report.rollout.unwrap();
        assert_eq!(status.waiting_for, Some(RolloutWait::SchemaMigration));
        status.busy_since.map(|since| since.0)
    };
    assert_eq!(reported(&seen), Some(hour_ago), "it is still there");
    seen.stateful_set = Some(crate::testing::set(2));
    let gone = {
        let mut seen = seen.clone();
        seen.pods.pop();
        seen
    };
    seen.pods[2].deleting = true;
    let mut noted = seen.clone();
    let before = noted.remembered.rollout.as_mut().unwrap();
    (before.waiting_for, before.pod) = (RolloutWait::SchemaMigration, None);
    for seen in [seen, gone, noted] {
        assert_eq!(reported(&seen), None);
    }
}

#[test]
fn growing_and_stopping_happen_at_once() {
    let mut seen = healthy(1, stored(&json!({})));
    assert_eq!(size(&plan(&json!({}), &seen)), Some(3));
    seen = healthy(3, stored(&json!({})));
    seen.pods[1].deleting = true;
    let stop: Value = json!({"replicas": 0});
    assert_eq!(size(&plan(&stop, &seen)), Some(0));
    assert_eq!(seen.now, now());
}
