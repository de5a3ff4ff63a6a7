//! A small model of the StatefulSet controller and its pods, driven by decisions from random
//! beginnings.

use super::size;
use crate::api::ConditionType;
use crate::decide::decide;
use crate::decide::plan::Plan;
use crate::kubernetes::Kind;
use crate::observation::{DatabaseView, Heartbeat, Observation};
use crate::testing::{
    NEW, OLD, after, facts, heartbeats, observation, pod, settings, stored, validation,
};
use crate::validate::Validation;
use jiff::SignedDuration;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

/// Seconds between two decisions.
const STEP: i64 = 5;

#[derive(Clone, Debug)]
struct SimPod {
    generation: u32,
    new: bool,
    /// Ticks until Ready and then until it sends heartbeats; `None`: never.
    ready_in: Option<u32>,
    heartbeat_in: Option<u32>,
    /// Ticks until it is gone.
    ends_in: Option<u32>,
    made: i64,
}

impl SimPod {
    fn serves(&self) -> bool {
        self.ready_in == Some(0) && self.heartbeat_in == Some(0) && self.ends_in.is_none()
    }
}

struct World {
    validation: Validation,
    start: i32,
    replicas: i32,
    /// Ticks until the controller has seen the present template.
    settles_in: u32,
    pods: BTreeMap<i32, SimPod>,
    /// What the next pods get: ticks to be Ready, to send heartbeats, to end.
    delays: Vec<(u32, u32, u32)>,
    made: usize,
    tick: i64,
    /// Whether the last decision asked for the sessions of the database: it gets nothing else than
    /// what it asked for.
    sessions: bool,
    /// Ordinals whose serving pod we ended, until one serves there again or is wanted no more.
    down: BTreeSet<i32>,
}

impl World {
    fn delay(&self, extra: usize) -> (u32, u32, u32) {
        self.delays[(self.made + extra) % self.delays.len()]
    }

    fn observe(&self) -> Observation {
        let id = |ordinal: &i32, pod: &SimPod| {
            Uuid::from_u128(u128::try_from(*ordinal).unwrap() << 64 | u128::from(pod.generation))
        };
        let mut facts = facts(0, stored(&json!({})));
        facts.sessions = facts.sessions.filter(|_| self.sessions);
        *heartbeats(&mut facts) = self
            .pods
            .iter()
            .filter(|(_, pod)| pod.heartbeat_in == Some(0))
            .map(|(ordinal, pod)| Heartbeat {
                replica_id: id(ordinal, pod),
                age: Duration::from_secs(3),
            })
            .collect();
        let mut seen = observation(Some(self.replicas), DatabaseView::Probed(Ok(facts)));
        seen.now = after(SignedDuration::from_secs(self.tick * STEP));
        let set = seen.stateful_set.as_mut().unwrap();
        set.settled = self.settles_in == 0;
        set.start = self.start;
        seen.pods = self
            .pods
            .iter()
            .map(|(ordinal, sim)| {
                let mut pod = pod(*ordinal);
                pod.uid = format!("{ordinal}-{}", sim.generation);
                pod.revision = Some(if sim.new { NEW } else { OLD }.to_owned());
                pod.ready = sim.ready_in == Some(0);
                pod.deleting = sim.ends_in.is_some();
                pod.replica_id = Some(id(ordinal, sim));
                pod.created_at = after(SignedDuration::from_secs(sim.made * STEP));
                pod
            })
            .collect();
        seen
    }

    fn end(&mut self, ordinal: i32) {
        let delay = self.delay(usize::try_from(ordinal).unwrap());
        if let Some(pod) = self
            .pods
            .get_mut(&ordinal)
            .filter(|pod| pod.ends_in.is_none())
        {
            if pod.serves() {
                self.down.insert(ordinal);
            }
            pod.ends_in = Some(delay.2);
        }
    }

    fn apply(&mut self, plan: &Plan) {
        self.sessions = plan.read_options.sessions;
        if let Some(eviction) = &plan.eviction {
            let found = self
                .pods
                .iter()
                .find(|(ordinal, pod)| format!("{ordinal}-{}", pod.generation) == eviction.uid);
            let ordinal = *found.expect("an eviction of a pod that is there").0;
            self.end(ordinal);
        }
        let set = plan.objects.iter();
        let mut set = set.filter(|object| object.kind == Kind::StatefulSet);
        let spec = &set.next().expect("a StatefulSet").value["spec"];
        let number = |value: &Value| i32::try_from(value.as_i64().unwrap_or(0)).unwrap();
        self.start = number(&spec["ordinals"]["start"]);
        self.replicas = number(&spec["replicas"]);
    }

    /// The controller and the kubelets do their part.
    fn step(&mut self) {
        self.tick += 1;
        self.settles_in = self.settles_in.saturating_sub(1);
        for pod in self.pods.values_mut() {
            for ticks in [&mut pod.ready_in, &mut pod.ends_in].into_iter().flatten() {
                *ticks = ticks.saturating_sub(1);
            }
            if pod.ready_in == Some(0) {
                pod.heartbeat_in = pod.heartbeat_in.map(|ticks| ticks.saturating_sub(1));
            }
        }
        self.pods.retain(|_, pod| pod.ends_in != Some(0));
        for ordinal in (0..50).rev() {
            if !self.covers(ordinal) {
                self.end(ordinal);
            } else if !self.pods.contains_key(&ordinal) {
                let (ready, heartbeat, _) = self.delay(0);
                self.made += 1;
                let pod = SimPod {
                    generation: u32::try_from(self.made).unwrap() + 100,
                    new: true,
                    ready_in: Some(ready),
                    heartbeat_in: Some(heartbeat),
                    ends_in: None,
                    made: self.tick,
                };
                self.pods.insert(ordinal, pod);
            }
        }
        let mut down = std::mem::take(&mut self.down);
        down.retain(|ordinal| {
            let pod = self.pods.get(ordinal);
            !pod.is_some_and(SimPod::serves) && (self.covers(*ordinal) || pod.is_some())
        });
        self.down = down;
    }

    fn covers(&self, ordinal: i32) -> bool {
        (self.start..self.start + self.replicas).contains(&ordinal)
    }

    fn finished(&self, wanted: i32) -> bool {
        self.pods.len() == usize::try_from(wanted).unwrap()
            && self.pods.values().all(|pod| pod.new && pod.serves())
    }
}

/// An outdated or a new pod, in any state that is not for ever on the new template.
fn sim_pod() -> impl Strategy<Value = Option<SimPod>> {
    let state = (
        any::<bool>(),
        proptest::option::of(0..4_u32),
        proptest::option::weighted(0.8, 0..4_u32),
        proptest::option::weighted(0.2, 1..4_u32),
    );
    proptest::option::weighted(
        0.9,
        state.prop_map(|(new, ready, heartbeat, ends_in)| SimPod {
            generation: 0,
            new,
            // A new pod comes up in time; an outdated one may never.
            ready_in: if new { Some(ready.unwrap_or(2)) } else { ready },
            heartbeat_in: if new {
                Some(heartbeat.unwrap_or(1))
            } else {
                heartbeat
            },
            ends_in,
            made: 0,
        }),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn never_two_serving_pods_are_down_by_our_hand_and_the_roll_ends(
        pods in proptest::collection::vec(sim_pod(), 1..6),
        first in 1..6_i32,
        wanted in 1..6_i32,
        changes_at in 0..30_i64,
        delays in proptest::collection::vec((0..5_u32, 0..4_u32, 1..4_u32), 1..6),
        settles_in in 0..3_u32,
    ) {
        let mut world = World {
            validation: validation(&json!({"replicas": first})),
            start: 0,
            replicas: i32::try_from(pods.len()).unwrap(),
            settles_in,
            pods: (0..).zip(pods).filter_map(|(ordinal, pod)| Some((ordinal, pod?))).collect(),
            delays,
            made: 0,
            tick: 0,
            sessions: false,
            down: BTreeSet::new(),
        };
        for _ in 0..400 {
            if world.tick == changes_at {
                world.validation = validation(&json!({"replicas": wanted}));
            }
            let seen = world.observe();
            let plan = decide(&world.validation, &seen, &settings());
            let stalled = super::state(&plan, ConditionType::Stalled);
            prop_assert!(stalled.0 == Some(false), "{:?}", stalled);
            world.apply(&plan);
            world.step();
            prop_assert!(world.down.len() <= 1, "tick {}: {:?} are down, {:?}", world.tick, world.down, world.pods);
            if world.tick > changes_at && world.finished(wanted) {
                break;
            }
        }
        prop_assert!(world.finished(wanted), "{:?}", world.pods);
        // And then there is peace.
        let plan = decide(&world.validation, &world.observe(), &settings());
        prop_assert!(plan.eviction.is_none());
        prop_assert_eq!(super::state(&plan, ConditionType::Ready).0, Some(true));
        prop_assert_eq!(size(&plan), Some(i64::from(wanted)));
    }
}
