//! The checker's view of the world: where it begins, what follows, what must hold.

use crate::database::{Content, Database, Which};
use crate::judge::broken_by;
use crate::owners::Whose;
use crate::promises::{Promise, RECOVERS, RECOVERS_BUT_FOR_ONE};
use crate::rules::{Decided, Rules};
use crate::visit::keeps;
use crate::world::{
    Action, Budget, Cluster, Form, Ghost, Operator, Pod, Replica, Set, Spec, Status, Strategy,
    Waited, World, minor,
};
use bytebase_operator::api::Reason;
use bytebase_operator::api::status::RolloutWait;
use parking_lot::Mutex;
use stateright::{Model, Property};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher as _};
use std::sync::Arc;

/// Rounds after which a world that misbehaves no more must be as wanted. Three replicas one after
/// the other, each with a handful of steps, and a foreign heartbeat before.
const RECOVERY: usize = 200;
/// Minutes that pass at most while nothing happens.
const MINUTES: u8 = 3;
/// Minutes after which a rollout says that a replica does not come up.
const PATIENCE: u8 = 30;

/// In which order everything prompt happens in a world that is to recover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Order {
    /// The operator first: it sees each step of the replicas before the next one.
    OperatorFirst,
    /// The first thing and the last one by turns, so that the operator also decides on what it saw
    /// some steps ago. The last one every time would be no fair order: the operator would go on
    /// deciding and never see anything new.
    ByTurns,
}

/// The rules and where they begin.
pub struct Checked {
    /// The rules.
    pub rules: Arc<Rules>,
    /// What may happen.
    pub budget: Budget,
    /// The tick at which the license ends that is stored at the beginning.
    pub license: Option<u8>,
    /// Replicas wanted at the beginning.
    pub replicas: u8,
    /// Whether the cluster already runs at the beginning.
    pub running: bool,
    /// How a change reaches the replicas at the beginning.
    pub strategy: Strategy,
    /// The StatefulSet's controller sees each change late.
    pub slow: bool,
    /// The watch of clusters lags, as all the others do.
    pub lags: bool,
    /// It shows one version after the other, and so many may not be shown yet; 0: the last at once.
    pub steps: usize,
    /// Whether a world recovers, by what of it matters to that.
    pub recovered: Arc<Mutex<HashMap<u64, bool>>>,
}

impl Checked {
    /// The world at the beginning.
    pub fn begin(&self) -> World {
        let size = if self.license.is_some() {
            self.replicas
        } else {
            self.replicas.min(1)
        };
        let set = self.running.then_some(Set {
            start: 0,
            size,
            template: 0,
            whose: Whose::Own,
        });
        let pods: Vec<_> = (0..if self.running { size } else { 0 })
            .map(|ordinal| Pod::active(ordinal, ordinal, 0))
            .collect();
        let mut world = World {
            spec: Spec {
                replicas: self.replicas,
                template: 0,
                form: Form::Valid,
                strategy: self.strategy,
            },
            set,
            acted_on: set,
            pods: pods.clone(),
            database: Database {
                up: true,
                content: Content::Bytebase,
                license: self.license,
                // What the one allows, the other does not.
                license_elsewhere: if self.license.is_some() {
                    None
                } else {
                    Some(200)
                },
                other: false,
                schema: minor(0),
                migrates: false,
            },
            // What has run for long was read before, and seen to serve.
            status: if self.rules.for_several && self.running {
                Status {
                    endpoint: true,
                    identity: Some(Which::Own),
                    served: Some(Which::Own),
                    ..Status::default()
                }
            } else {
                Status::default()
            },
            operator: Operator::new(set, set, pods, false),
            late: None,
            tick: 0,
            most: self.replicas,
            slow: self.slow,
            budget: self.budget,
            ghost: Ghost::default(),
        };
        world.operator.has_pods = world.has_pods();
        let shown = || Cluster::shown(world.spec, world.status.clone(), self.steps);
        world.operator.cluster = self.lags.then(shown);
        world
    }

    fn reconciled(&self, world: &World) -> World {
        let mut next = world.clone();
        next.hears_replicas();
        let world = &next;
        let known = world.as_known();
        let Decided { writes, due } = self.rules.reconcile(&known);
        let writes = known.made(writes);
        let broken = world.ghost.broken.or_else(|| broken_by(&known, &writes));
        next.ghost.broken = broken;
        next.decides(writes, due);
        next
    }

    /// The world after an action.
    pub fn step(&self, world: &World, action: Action) -> World {
        let next = match action {
            Action::Reconcile => self.reconciled(world),
            Action::TakeOver if self.rules.takes_over_at_once() => world.with_old_caches(),
            Action::Land if self.rules.takes_any_status() => world.with_late_status(),
            Action::SyncCluster if self.rules.takes_any_for_echo() => world.with_any_echo(),
            _ => world.after(action),
        };
        next.renumbered()
    }

    /// Whether the wanted state is reached, and kept, once the world misbehaves no more, in
    /// whichever order things happen then. Replicas that do not come up do so in the end, or `fail`
    /// for good.
    fn recovers(&self, world: &World, fail: bool) -> bool {
        let mut orders = [Order::OperatorFirst, Order::ByTurns].into_iter();
        orders.all(|order| self.recovers_in(order, world, fail))
    }

    /// The same in this order.
    fn recovers_in(&self, order: Order, world: &World, fail: bool) -> bool {
        let mut world = world.clone();
        world.database.up = true;
        world.database.becomes(Content::Bytebase);
        world.database.other = false;
        if world.set.is_some_and(|set| !set.whose.is_own()) {
            world = world.after(Action::GiveBack);
        }
        world = match world.spec.form {
            Form::Valid => world,
            Form::Invalid => world.after(Action::Mistake),
            Form::Paused => world.after(Action::Pause),
        };
        for pod in &mut world.pods {
            pod.on = Which::Own;
            // A replica that is busy stays so for good: no rollout may wait for it for ever.
            match pod.replica {
                Replica::Failing if fail => {}
                Replica::Frozen | Replica::Failing => pod.replica = Replica::Starting,
                Replica::Stuck => pod.replica = Replica::Active,
                Replica::Starting | Replica::Migrating | Replica::Active => {}
            }
        }
        // What may still happen, and what the checker remembers, has no part in it.
        world.budget = Budget::default();
        world.ghost = Ghost::default();
        world.late = None;
        let known = || self.recovered.lock();
        let mut visited = Vec::new();
        let (mut recovers, mut minutes) = (false, 0);
        for round in 0..RECOVERY {
            let takes_last = order == Order::ByTurns && round % 2 == 1;
            let mark = fingerprint(&(&world, order, takes_last));
            let before = known().get(&mark).copied();
            if let Some(before) = before {
                recovers = before;
                break;
            }
            visited.push(mark);
            let waits = |waited: &Waited| waited.for_ == RolloutWait::IdleReplica;
            let prompt = world.prompt();
            let next = if takes_last {
                prompt.last()
            } else {
                prompt.first()
            };
            world = if let Some(action) = next.copied() {
                self.step(&world, action)
            } else if world.status.rollout.as_ref().is_some_and(waits) {
                world.minute_passes();
                world
            } else if let Some(drains) = world.pods.iter().find(|pod| pod.drains()) {
                self.step(&world, Action::Expire(drains.ordinal))
            } else if !as_wanted(&world) && minutes < MINUTES {
                // What does not come up on an old template is replaced after a while.
                minutes += 1;
                world.minute_passes();
                world
            } else {
                recovers = as_wanted(&world) || self.says_why(world);
                break;
            };
            world.ghost = Ghost::default();
        }
        let mut known = known();
        known.extend(visited.into_iter().map(|mark| (mark, recovers)));
        recovers
    }

    /// Whether what stands in the way is reported, sooner or later: a version that is older than
    /// the schema, or a replica that does not come up.
    fn says_why(&self, mut world: World) -> bool {
        world.tick += PATIENCE;
        let stalled = self.rules.stalled(&world.as_known());
        let mut pods = world.pods.iter();
        let fails = pods.any(|pod| pod.replica == Replica::Failing);
        if minor(world.spec.template) >= world.database.schema {
            return stalled.is_some() && fails;
        }
        // What stands is started, and goes on, unless it is older than the schema as well.
        let stands = world.set.map_or(0, |set| minor(set.template)) >= world.database.schema;
        let keeps = world.pods.len() == usize::from(world.spec.replicas);
        stalled == Some(Reason::DowngradeRefused) && (keeps || fails || !stands)
    }
}

/// Stands for a world, as it does in the checker itself: millions of whole ones fill the memory.
pub fn fingerprint(world: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

/// As many replicas as wanted and licensed, all of them active and on the wanted template.
fn as_wanted(world: &World) -> bool {
    let licensed = world
        .database
        .license
        .is_some_and(|end| world.tick.saturating_add(2) < end);
    let nearly = world.database.license.is_some_and(|end| {
        let left = end.saturating_sub(world.tick);
        (1..=2).contains(&left)
    });
    let target = if licensed {
        world.spec.replicas
    } else {
        world.spec.replicas.min(1)
    };
    let sized = world.pods.len() == usize::from(target)
        // Just before the gate closes either size is right.
        || (nearly && world.pods.len() <= usize::from(world.spec.replicas));
    sized
        && world.set.is_none_or(|set| set.whose == Whose::Own)
        && world.pods.iter().all(|pod| {
            pod.replica == Replica::Active
                && pod.ending.is_none()
                && pod.template == world.spec.template
        })
}

impl Model for Checked {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![self.begin()]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.prompt());
        actions.extend(world.chance());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(self.step(world, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = keeps![
            Licensed,
            OneDown,
            KeepsOne,
            FirstAfterReading,
            FirstHasPlace,
            FirstInReach,
            Meant,
            Others,
            NotUnderstood,
            IdleFirst,
            Finished,
            MigrationEnds,
            NotOlder,
            NewServes,
            Alone,
            Elsewhere
        ];
        properties.push(Property::always(RECOVERS, |model: &Self, world| {
            model.recovers(world, false)
        }));
        properties.push(Property::always(
            RECOVERS_BUT_FOR_ONE,
            |model: &Self, world: &World| {
                let mut pods = world.pods.iter();
                !pods.any(|pod| pod.replica == Replica::Failing) || model.recovers(world, true)
            },
        ));
        properties
    }
}
