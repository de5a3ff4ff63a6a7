//! Rollouts with downtime.

use super::{condition, plan, size, state};
use crate::api::status::RolloutWait;
use crate::api::{ConditionType, Reason};
use crate::decide::decide;
use crate::decide::plan::Plan;
use crate::desired::template::{Standing, template};
use crate::desired::{drain, login};
use crate::kubernetes::Kind;
use crate::observation::{
    DatabaseView, FailureClass, FailureReason, Heartbeat, Observation, PodLogin, RememberedRollout,
    RunningTasks, Sessions,
};
use crate::testing::{
    OLD, after, facts, failure, healthy, heartbeats, id, merge, no_license, observation, pod,
    running, settings, stored, validation, with_facts,
};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const DIGEST: &str = "bytebase.com/template-digest";

fn spec(changes: &Value) -> Value {
    let mut spec = json!({"rollout": {"strategy": "Maintenance", "readyTimeoutSeconds": 100}});
    merge(&mut spec, changes);
    spec
}

/// The StatefulSet that a plan writes: its size, its digest, and whether its template is the one
/// that stood.
fn written(plan: &Plan) -> Option<(i64, String, bool)> {
    let object = plan
        .objects
        .iter()
        .find(|object| object.kind == Kind::StatefulSet)?;
    let digest = object.value["metadata"]["annotations"][DIGEST].as_str();
    Some((
        object.value["spec"]["replicas"].as_i64()?,
        digest.unwrap_or_default().to_owned(),
        object.value["spec"]["template"] == json!({"live": true}),
    ))
}

/// Three replicas that are well, on a template that is not the wanted one.
fn changed() -> Observation {
    let mut seen = healthy(3, stored(&json!({})));
    seen.stateful_set.as_mut().unwrap().template_digest = Some("old".to_owned());
    seen
}

/// Nothing runs any more.
fn down() -> Observation {
    let mut seen = changed();
    let set = seen.stateful_set.as_mut().unwrap();
    (set.replicas, set.pods) = (0, 0);
    seen.pods.clear();
    with_facts(seen, |facts| heartbeats(facts).clear())
}

fn waits(plan: &Plan) -> Option<RolloutWait> {
    assert!(plan.eviction.is_none());
    plan.report.rollout.as_ref()?.waiting_for
}

#[test]
fn all_end_on_the_template_that_they_run() {
    let mut seen = changed();
    let stop = plan(&spec(&json!({})), &seen);
    assert_eq!(written(&stop), Some((0, "old".to_owned(), true)));
    assert_eq!(waits(&stop), Some(RolloutWait::AllPodsEnd));
    let reported = state(&stop, ConditionType::RolloutComplete);
    assert_eq!(reported, (Some(false), Reason::RolloutWaiting));
    // Until the last has gone.
    seen.stateful_set.as_mut().unwrap().replicas = 0;
    seen.pods.truncate(1);
    let ends_by = after(SignedDuration::from_secs(40));
    seen.pods[0].deleting = true;
    seen.pods[0].ends_by = Some(ends_by);
    let stopping = plan(&spec(&json!({})), &seen);
    assert_eq!(written(&stopping), None);
    let status = stopping.report.rollout.as_ref().unwrap();
    assert_eq!(status.deadline.as_ref().unwrap().0, ends_by);
    assert_eq!(status.updated_replicas, 0);
    // Nor before the controller has seen it: it might yet make one of the old template.
    seen.pods.clear();
    seen.stateful_set.as_mut().unwrap().settled = false;
    assert_eq!(written(&plan(&spec(&json!({})), &seen)), None);
    // A replica that runs an old template although the StatefulSet has the new one ends as well.
    let mut mixed = healthy(3, stored(&json!({})));
    mixed.pods[1].revision = Some(OLD.to_owned());
    assert_eq!(written(&plan(&spec(&json!({})), &mixed)).unwrap().0, 0);
}

#[test]
fn busy_replicas_without_the_drain_hook_are_given_a_whole_drain_before_all_end() {
    let mut seen = with_facts(changed(), |facts| {
        *running(facts) = vec![RunningTasks {
            replica_id: id(1),
            count: 2,
        }];
    });
    let wanted = validation(&spec(&json!({}))).cluster.unwrap();
    let wanted = template(&wanted, None, Standing::default()).unwrap();
    for pod in &mut seen.pods {
        pod.login = PodLogin {
            checksum: login(&wanted.value).map(|(checksum, _)| checksum.to_owned()),
            url: None,
            sources: drain::login_sources(&wanted.value["spec"]["volumes"]),
        };
    }
    let stops = |seen: &Observation| written(&plan(&spec(&json!({})), seen)).is_some();
    assert!(stops(&seen), "the hooks wait for the tasks");
    seen.pods[1].drains = false;
    let finishing = plan(&spec(&json!({})), &seen);
    assert_eq!(written(&finishing), None);
    assert_eq!(waits(&finishing), Some(RolloutWait::IdleReplica));
    let reported = finishing.report.rollout.unwrap();
    assert_eq!(reported.pod.as_deref(), Some("demo-1"));
    assert_eq!(
        (reported.running_tasks, reported.updated_replicas),
        (Some(2), 0)
    );
    let message = &reported.message;
    assert!(
        message.contains("its tasks are cancelled then"),
        "{message}"
    );
    let no_drain = spec(&json!({"rollout": {"drain": "Disabled"}}));
    assert!(
        written(&plan(&no_drain, &seen)).is_some(),
        "no one asks for a drain"
    );
    let hour = after(SignedDuration::from_hours(-1));
    for (waiting_for, seconds, busy_since, expected) in [
        (RolloutWait::IdleReplica, 3599, None, false),
        (RolloutWait::IdleReplica, 3600, None, true),
        // Its time was up, and their end failed.
        (RolloutWait::AllPodsEnd, 0, Some(hour), true),
        // It was idle then.
        (RolloutWait::AllPodsEnd, 9999, None, false),
        (RolloutWait::Database, 9999, None, false),
    ] {
        seen.remembered.rollout = Some(RememberedRollout {
            busy_since,
            scale_down_only: false,
            message: String::new(),
            waiting_for,
            pod: None,
            since: after(SignedDuration::from_secs(-seconds)),
        });
        assert_eq!(stops(&seen), expected, "{waiting_for:?} {seconds}");
        if expected {
            let rollout = plan(&spec(&json!({})), &seen).report.rollout.unwrap();
            assert_eq!(rollout.waiting_for, Some(RolloutWait::AllPodsEnd));
            assert_eq!(rollout.busy_since, Some(Time(hour)));
        }
    }
    // An idle moment ends its time, also where their end fails then.
    let idle = with_facts(seen, |facts| running(facts).clear());
    for busy_since in [None, Some(hour)] {
        let mut seen = idle.clone();
        let before = seen.remembered.rollout.as_mut().unwrap();
        (before.waiting_for, before.busy_since) = (RolloutWait::IdleReplica, busy_since);
        assert!(stops(&seen));
        let rollout = plan(&spec(&json!({})), &seen).report.rollout.unwrap();
        assert_eq!(rollout.busy_since, None);
    }
}

#[test]
fn a_pod_that_only_the_controller_knows_of_is_waited_for() {
    let mut seen = down();
    seen.stateful_set.as_mut().unwrap().pods = 1;
    let stopping = plan(&spec(&json!({})), &seen);
    assert_eq!(written(&stopping), None);
    assert_eq!(waits(&stopping), Some(RolloutWait::AllPodsEnd));
}

#[test]
fn one_starts_and_then_the_rest() {
    let first = plan(&spec(&json!({})), &down());
    let (replicas, digest, is_old) = written(&first).unwrap();
    assert_eq!((replicas, is_old), (1, false));
    assert_eq!(waits(&first), Some(RolloutWait::FirstReplica));
    let mut seen = healthy(1, stored(&json!({})));
    seen.stateful_set.as_mut().unwrap().template_digest = Some(digest);
    seen.pods[0].ready = false;
    seen.pods[0].created_at = after(SignedDuration::from_secs(-99));
    let starting = plan(&spec(&json!({})), &seen);
    assert_eq!(size(&starting), Some(1));
    assert_eq!(waits(&starting), Some(RolloutWait::FirstReplica));
    seen.pods[0].created_at = after(SignedDuration::from_secs(-100));
    let stalled = plan(&spec(&json!({})), &seen);
    assert_eq!(size(&stalled), Some(1));
    assert_eq!(
        state(&stalled, ConditionType::Stalled),
        (Some(true), Reason::RolloutStalled)
    );
    seen.pods[0].ready = true;
    let rest = plan(&spec(&json!({})), &seen);
    assert_eq!((size(&rest), waits(&rest)), (Some(3), None));
}

#[test]
fn a_first_start_and_a_rolling_rollout_are_distinguished() {
    let seen = observation(None, DatabaseView::Probed(Ok(facts(0, stored(&json!({}))))));
    assert_eq!(size(&plan(&spec(&json!({})), &seen)), Some(1));
    assert_eq!(size(&plan(&json!({}), &seen)), Some(3));
    assert_eq!(size(&plan(&json!({}), &changed())), Some(3));
    // A StatefulSet of an operator that wrote no digest gets the template first.
    let older = healthy(3, stored(&json!({})));
    let (replicas, _, is_old) = written(&plan(&spec(&json!({})), &older)).unwrap();
    assert_eq!((replicas, is_old), (3, false));
}

#[test]
fn nothing_stops_while_something_holds_the_change() {
    for spec_changes in [json!({"paused": true}), json!({"version": "3.20.0"})] {
        let plan = plan(&spec(&spec_changes), &changed());
        assert_eq!(written(&plan), None, "{spec_changes}");
    }
    let mut seen = changed();
    seen.database = failure(FailureClass::Definite, FailureReason::AuthenticationFailed);
    assert_eq!(written(&plan(&spec(&json!({})), &seen)), None);
    let migrating = with_facts(changed(), |facts| {
        facts.sessions = Some(Sessions {
            migration_running: true,
            ..Sessions::default()
        });
    });
    let waiting = plan(&spec(&json!({})), &migrating);
    assert_eq!(written(&waiting), None);
    assert_eq!(waits(&waiting), Some(RolloutWait::SchemaMigration));
    let message = &condition(&waiting.report, ConditionType::RolloutComplete).message;
    assert!(message.contains("advisory lock 1002"), "{message}");
}

#[test]
fn the_license_gate_does_not_wait_for_the_schema_migration_that_a_stop_waits_for() {
    let mut seen = with_facts(healthy(3, no_license()), |facts| {
        facts.sessions = Some(Sessions {
            migration_running: true,
            ..Sessions::default()
        });
    });
    seen.stateful_set.as_mut().unwrap().template_digest = Some("old".to_owned());
    let gate = plan(&spec(&json!({})), &seen);
    assert_eq!(written(&gate), Some((1, "old".to_owned(), true)));
    // The last one is no doing of the gate.
    seen.stateful_set.as_mut().unwrap().replicas = 1;
    seen.pods.truncate(1);
    let last = plan(&spec(&json!({})), &seen);
    assert_eq!(written(&last), None);
    assert_eq!(waits(&last), Some(RolloutWait::SchemaMigration));
}

#[test]
fn a_change_that_is_held_back_is_no_complete_rollout() {
    let rolled = |spec: &Value, seen: &Observation| {
        let plan = plan(spec, seen);
        let reported = state(&plan, ConditionType::RolloutComplete);
        (
            reported,
            plan.report.rollout.and_then(|rollout| rollout.waiting_for),
        )
    };
    let waits = (Some(false), Reason::RolloutWaiting);
    for strategy in ["Rolling", "Maintenance"] {
        let of = |changes: Value| {
            let mut spec = json!({"rollout": {"strategy": strategy}});
            merge(&mut spec, &changes);
            spec
        };
        let paused = rolled(&of(json!({"paused": true})), &changed());
        assert_eq!(paused, (waits, Some(RolloutWait::Resume)));
        let mut away = changed();
        away.database = failure(FailureClass::Definite, FailureReason::AuthenticationFailed);
        let refused = rolled(&of(json!({})), &away);
        assert_eq!(refused, (waits, Some(RolloutWait::Database)));
        // The last replica ended a moment ago.
        let ended = with_facts(down(), |facts| {
            heartbeats(facts).push(crate::testing::heartbeat(2, 4));
        });
        let ending = rolled(&of(json!({})), &ended);
        assert_eq!(ending, (waits, Some(RolloutWait::Database)));
        let plan = plan(&of(json!({})), &ended);
        assert_eq!(state(&plan, ConditionType::Stalled).0, Some(false));
    }
    let mut standing = changed();
    let set = standing.stateful_set.as_mut().unwrap();
    set.template_digest = None;
    let unknown = rolled(&json!({"paused": true}), &standing);
    assert_eq!(unknown, ((Some(true), Reason::RolloutDone), None));
}

#[test]
fn one_replica_that_runs_alone_is_no_rollout_whatever_its_heartbeat_does() {
    let mut seen = healthy(1, stored(&json!({})));
    seen.stateful_set.as_mut().unwrap().template_digest = None;
    let silent = with_facts(seen, |facts| heartbeats(facts).clear());
    let plan = plan(&spec(&json!({"replicas": 1})), &silent);
    assert_eq!(waits(&plan), None);
    let reported = state(&plan, ConditionType::RolloutComplete);
    assert_eq!(reported, (Some(true), Reason::RolloutDone));
}

/// What status says of a rollout that waits for its first replica.
fn first_replica_since(seconds: i64) -> RememberedRollout {
    RememberedRollout {
        busy_since: None,
        scale_down_only: false,
        message: String::new(),
        waiting_for: RolloutWait::FirstReplica,
        pod: Some("demo-0".to_owned()),
        since: after(SignedDuration::from_secs(seconds)),
    }
}

#[test]
fn an_outage_or_a_pause_ends_no_rollout_that_has_begun() {
    let mut seen = healthy(1, stored(&json!({})));
    seen.pods[0].ready = false;
    seen.pods[0].created_at = after(SignedDuration::from_secs(-9));
    let digest = written(&plan(&spec(&json!({})), &down())).unwrap().1;
    seen.stateful_set.as_mut().unwrap().template_digest = Some(digest);
    let paused = plan(&spec(&json!({"paused": true})), &seen);
    assert_eq!(waits(&paused), Some(RolloutWait::FirstReplica));
    seen.remembered.rollout = Some(first_replica_since(-9));
    seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    let away = plan(&spec(&json!({})), &seen);
    assert_eq!(
        (waits(&away), written(&away)),
        (Some(RolloutWait::FirstReplica), None)
    );
}

#[test]
fn a_database_that_lets_no_first_replica_come_up_is_blamed_and_no_change_is() {
    let digest = written(&plan(&spec(&json!({})), &down())).unwrap().1;
    let mut seen = healthy(1, stored(&json!({})));
    seen.stateful_set.as_mut().unwrap().template_digest = Some(digest);
    seen.pods[0].ready = false;
    seen.pods[0].created_at = after(SignedDuration::from_secs(-500));
    seen.remembered.rollout = Some(first_replica_since(-500));
    for (class, reason, words) in [
        (
            FailureClass::Definite,
            FailureReason::AuthenticationFailed,
            "the database to pass its checks",
        ),
        (
            FailureClass::Unknown,
            FailureReason::Unreachable,
            "the database to be readable again",
        ),
    ] {
        let mut away = seen.clone();
        away.database = failure(class, reason);
        let waiting = plan(&spec(&json!({})), &away);
        // By this word the next reconcile knows that the rollout is not over.
        assert_eq!(waits(&waiting), Some(RolloutWait::FirstReplica), "{words}");
        let rollout = waiting.report.rollout.as_ref().unwrap();
        assert_eq!(rollout.pod.as_deref(), Some("demo-0"));
        assert!(rollout.message.contains(words), "{}", rollout.message);
        let stalled = state(&waiting, ConditionType::Stalled);
        assert_ne!(stalled.1, Reason::RolloutStalled, "{words}");
    }
    let stalled = |seen: &Observation| {
        let reported = state(&plan(&spec(&json!({})), seen), ConditionType::Stalled);
        reported == (Some(true), Reason::RolloutStalled)
    };
    assert!(stalled(&seen));
    // It has its time from when the database can be used, whether it is Ready by then or not.
    for ready in [false, true] {
        seen.pods[0].ready = ready;
        let mut seen = with_facts(seen.clone(), |facts| heartbeats(facts).clear());
        for (was_ready, seconds, expected) in
            [(false, 500, false), (true, 99, false), (true, 100, true)]
        {
            let since = after(SignedDuration::from_secs(-seconds));
            seen.remembered.database_ready = Some((was_ready, since));
            assert_eq!(stalled(&seen), expected, "Ready {ready}, {seconds} s");
        }
    }
}

#[test]
fn a_template_that_is_not_written_yet_is_no_complete_rollout() {
    // The API server refuses it, or its echo is late; also beside a scale-down.
    for spec in [json!({}), json!({"replicas": 1})] {
        let plan = plan(&spec, &changed());
        assert_eq!(waits(&plan), Some(RolloutWait::StatefulSetController));
        assert_eq!(state(&plan, ConditionType::RolloutComplete).0, Some(false));
    }
}

#[test]
fn pods_that_lost_their_statefulset_are_taken_over_by_the_next() {
    for spec in [json!({}), spec(&json!({}))] {
        let mut seen = healthy(3, stored(&json!({})));
        seen.stateful_set = None;
        let plan = plan(&spec, &seen);
        assert_eq!((size(&plan), waits(&plan)), (Some(3), None));
        assert_eq!(state(&plan, ConditionType::DatabaseReady).0, Some(true));
        // Not one is given up because the license cannot be read.
        let unknown = with_facts(seen, |facts| {
            facts.license = crate::observation::Fact::Unknown;
        });
        assert_eq!(size(&super::plan(&spec, &unknown)), Some(3));
    }
}

#[derive(Clone, Debug)]
struct SimPod {
    digest: String,
    ready_in: u32,
    ends_in: Option<u32>,
}

/// A StatefulSet with its controller, which sees each write a while later.
struct World {
    replicas: i32,
    digest: String,
    template: Value,
    settles_in: u32,
    pods: BTreeMap<i32, SimPod>,
    delays: Vec<(u32, u32, u32)>,
    made: usize,
    sessions: bool,
}

impl World {
    fn delay(&self) -> (u32, u32, u32) {
        self.delays[self.made % self.delays.len()]
    }

    fn observe(&self) -> Observation {
        let mut read = facts(0, stored(&json!({})));
        read.sessions = read.sessions.filter(|_| self.sessions);
        *heartbeats(&mut read) = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.ready_in == 0)
            .map(|(ordinal, _)| Heartbeat {
                replica_id: id(*ordinal),
                age: std::time::Duration::from_secs(3),
            })
            .collect();
        let mut seen = observation(Some(self.replicas), DatabaseView::Probed(Ok(read)));
        let set = seen.stateful_set.as_mut().unwrap();
        set.settled = self.settles_in == 0;
        set.pods = i32::try_from(self.pods.len()).unwrap();
        set.template = self.template.clone();
        set.template_digest = Some(self.digest.clone());
        set.update_revision = Some(self.digest.clone());
        seen.pods = self
            .pods
            .iter()
            .map(|(ordinal, sim)| {
                let mut pod = pod(*ordinal);
                pod.revision = Some(sim.digest.clone());
                pod.ready = sim.ready_in == 0;
                pod.created_at = after(SignedDuration::ZERO);
                pod.deleting = sim.ends_in.is_some();
                pod
            })
            .collect();
        seen
    }

    fn apply(&mut self, plan: &Plan) {
        assert!(plan.eviction.is_none(), "nothing is evicted");
        self.sessions = plan.read_options.sessions;
        let set = plan
            .objects
            .iter()
            .find(|object| object.kind == Kind::StatefulSet);
        let Some(set) = set else {
            return;
        };
        let (replicas, digest, _) = written(plan).unwrap();
        let replicas = i32::try_from(replicas).unwrap();
        if (replicas, &digest) != (self.replicas, &self.digest) {
            self.settles_in = self.delay().0;
        }
        self.template = set.value["spec"]["template"].clone();
        (self.replicas, self.digest) = (replicas, digest);
    }

    fn step(&mut self) {
        for pod in self.pods.values_mut() {
            pod.ready_in = pod.ready_in.saturating_sub(1);
            pod.ends_in = pod.ends_in.map(|ticks| ticks.saturating_sub(1));
        }
        self.pods.retain(|_, pod| pod.ends_in != Some(0));
        if self.settles_in > 0 {
            self.settles_in -= 1;
            return;
        }
        let (_, ready_in, ends_in) = self.delay();
        for (ordinal, pod) in &mut self.pods {
            if *ordinal >= self.replicas && pod.ends_in.is_none() {
                pod.ends_in = Some(ends_in + u32::try_from(*ordinal).unwrap());
            }
        }
        for ordinal in 0..self.replicas {
            self.pods.entry(ordinal).or_insert_with(|| SimPod {
                digest: self.digest.clone(),
                ready_in,
                ends_in: None,
            });
        }
        self.made += 1;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_two_templates_ever_run_side_by_side(
        size in 0..6_i32,
        wanted in 1..6_i32,
        delays in proptest::collection::vec((0..4_u32, 0..4_u32, 1..4_u32), 1..6),
        edit in 0..30_usize,
    ) {
        let mut world = World {
            replicas: size,
            digest: "old".to_owned(),
            template: json!({"live": true}),
            settles_in: 0,
            pods: (0..size).map(|ordinal| (ordinal, SimPod {
                digest: "old".to_owned(), ready_in: 0, ends_in: None,
            })).collect(),
            delays,
            made: 0,
            sessions: false,
        };
        let mut alone = BTreeMap::new();
        let before = validation(&spec(&json!({"replicas": wanted})));
        let edited = validation(&spec(&json!({"replicas": wanted, "podLabels": {"edited": "yes"}})));
        let settings = settings();
        for tick in 0..300 {
            let seen = world.observe();
            let decision = decide(if tick < edit { &before } else { &edited }, &seen, &settings);
            world.apply(&decision);
            let done = state(&decision, ConditionType::RolloutComplete).0 == Some(true)
                && state(&decision, ConditionType::Ready).0 == Some(true);
            if tick >= edit && done {
                break;
            }
            world.step();
            let mut templates: Vec<_> = world.pods.values().map(|pod| pod.digest.clone()).collect();
            templates.sort();
            templates.dedup();
            prop_assert!(templates.len() <= 1, "tick {tick}: {:?}", world.pods);
            // The first of each template is alone until it serves.
            for template in templates.into_iter().filter(|template| template != "old") {
                let served: &mut bool = alone.entry(template).or_default();
                prop_assert!(*served || world.pods.len() == 1, "tick {tick}: {:?}", world.pods);
                *served |= world.pods.values().any(|pod| pod.ready_in == 0);
            }
        }
        prop_assert_eq!(world.pods.len(), usize::try_from(wanted).unwrap());
        prop_assert!(world.pods.values().all(|pod| pod.digest != "old" && pod.ready_in == 0));
        let decision = decide(&edited, &world.observe(), &settings);
        prop_assert_eq!(state(&decision, ConditionType::RolloutComplete).0, Some(true));
    }
}
