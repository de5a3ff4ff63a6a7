//! The checker's view of the world of drains: where it begins, what follows, what must hold.

use super::hook::{Attempt, Phase, Rules};
use super::promises::{ENDS, ENDS_SOON, OBEYS, Promise};
use super::world::{Action, Budget, Ghost, Pod, World};
use crate::visit::keeps;
use parking_lot::Mutex;
use stateright::{Model, Property};
use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

/// A session shows a heartbeat for a moment, so a hook sees only some of them: one in so many
/// steps. An odd number, by which the two that it needs are of different times.
const SEEN: u8 = 3;
/// Once the world behaves and no new work comes, every drain is over after so many steps: two
/// heartbeats for the replica to be known, two steps for what is queued, and what is claimed
/// meanwhile.
const QUIET: u8 = 6 + 2 * SEEN;
/// A replica that hangs is given a minute first, and three steps in which that is seen.
const HUNG: u8 = 13;
/// Where new work keeps coming, that may be so many limits of the hold more: the queue has to be
/// free for one, and what is left of the window before may be too short.
const BUSY_LIMITS: u8 = 3;

/// A hook that is asked lets its replica end after the pause, at its next reading: it may just have
/// begun, and have read in this step.
const ASKED: u8 = 2;

/// The rules and where they begin.
pub struct Checked {
    /// The rules.
    pub rules: Rules,
    /// Replicas.
    pub replicas: u8,
    /// The step in which it begins: the queue may be held, or must be free.
    pub begins: u8,
    /// What may happen.
    pub budget: Budget,
    /// How many steps a world needs until its drains are over, by what of it matters to that.
    pub needed: Needed,
}

/// What was worked out before: with new work and without.
pub type Needed = Arc<Mutex<HashMap<(u64, bool), u8>>>;

impl Checked {
    /// Whether the drains of a world are over soon once it misbehaves no more.
    fn recovers(&self, world: &World, is_busy: bool) -> bool {
        let mut world = world.clone();
        world.up = true;
        world.understood = true;
        world.has_tables = true;
        world.budget = Budget::default();
        world.ghost = Ghost::default();
        for place in world.places() {
            let pod = &mut world.pods[usize::from(place)];
            pod.cut = pod.cut.filter(|_| pod.hangs);
            // The operator need not ask for a drain to end.
            pod.asked = false;
            if let Some(hook) = world.hook_mut(place) {
                (hook.deaf, hook.astray) = (false, None);
            }
        }
        let hangs = |place: &u8| world.pod(*place).hangs;
        let hung = if world.draining().iter().any(hangs) {
            HUNG
        } else {
            0
        };
        let most = hung
            + if is_busy {
                QUIET + BUSY_LIMITS * self.rules.limit()
            } else {
                QUIET
            };
        let known = || self.needed.lock();
        let mut visited = Vec::new();
        let mut needs = u8::MAX;
        for _ in 0..=most {
            if world.draining().is_empty() {
                needs = 0;
                break;
            }
            let mark = (fingerprint(&world), is_busy);
            if let Some(before) = known().get(&mark) {
                needs = *before;
                break;
            }
            visited.push(mark);
            world = self.behaves(world, is_busy);
            world.ghost = Ghost::default();
        }
        let mut known = known();
        for mark in visited.into_iter().rev() {
            needs = needs.saturating_add(1);
            known.insert(mark, needs);
        }
        needs <= most
    }

    /// Whether the drains whose hooks are asked are over soon, if no task ends any more.
    fn obeys(&self, world: &World) -> bool {
        let is_asked = |place: &u8| world.pod(*place).asked;
        let asked: Vec<u8> = world.places().filter(is_asked).collect();
        if asked.is_empty() {
            return true;
        }
        let mut world = world.clone();
        world.up = true;
        world.budget = Budget::default();
        for pod in &mut world.pods {
            pod.migrates = false;
        }
        for place in &asked {
            if let Some(hook) = world.hook_mut(*place) {
                (hook.deaf, hook.astray) = (false, None);
            }
        }
        for _ in 0..ASKED {
            for place in world.draining() {
                world = self.hook_does(world, place);
            }
            world.budget.ticks = 1;
            world = world.after(&self.rules, Action::Tick);
        }
        let ended = |place: &u8| world.pod(*place).hook().is_none();
        asked.iter().all(ended)
    }

    /// One step of time in a world that behaves: tasks end, work is promoted unless the queue is
    /// held, those that drain claim it before all others, and hooks do what they have to.
    fn behaves(&self, mut world: World, is_busy: bool) -> World {
        for pod in &mut world.pods {
            pod.migrates = false;
        }
        let runs = world.running.clone();
        let lives = |owner| {
            let owns = |pod: &Pod| pod.process == owner && pod.works();
            world.pods.iter().any(owns)
        };
        let ended: Vec<_> = runs.iter().filter(|run| lives(run.owner)).collect();
        for run in ended {
            world = world.after(&self.rules, Action::Finish(*run));
        }
        if is_busy {
            world.pending = world
                .pending
                .max(1 + world.draining().len().try_into().unwrap_or(1));
        }
        if world.holds.is_empty() {
            world.promote();
        }
        let mut claimers = world.draining();
        let works = |place: &u8| world.pod(*place).works();
        claimers.extend(world.places().filter(works).collect::<Vec<_>>());
        for place in claimers.into_iter().cycle() {
            if world.available == 0 || !world.pods.iter().any(Pod::works) {
                break;
            }
            world.claim(place);
        }
        for place in world.draining() {
            world = self.hook_does(world, place);
        }
        world.budget.ticks = 1;
        world.after(&self.rules, Action::Tick)
    }

    /// All that a hook has to do in one step of time.
    fn hook_does(&self, mut world: World, place: u8) -> World {
        while let Some(hook) = world.pod(place).hook() {
            let action = match hook.phase {
                Phase::Reads if hook.has_read => break,
                Phase::Reads => {
                    let heartbeat = world.tick.is_multiple_of(SEEN);
                    Action::Read(place, heartbeat, Attempt::Held)
                }
                Phase::Leaves => Action::Hold(place, Attempt::Held),
                Phase::ReadsLast { .. } => Action::LastReading(place),
                Phase::Gone { .. } => Action::End(place),
            };
            world = world.after(&self.rules, action);
        }
        world
    }
}

/// Stands for a world, as it does in the checker itself.
fn fingerprint(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    world.hash(&mut hasher);
    hasher.finish()
}

impl Model for Checked {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.replicas, self.begins, self.budget)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        actions.extend(world.actions());
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        Some(world.after(&self.rules, action))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = keeps![Finished, Free, HoldEnds, TimeOut];
        properties.push(Property::always(ENDS_SOON, |model: &Self, world| {
            model.recovers(world, false)
        }));
        properties.push(Property::always(ENDS, |model: &Self, world| {
            model.recovers(world, true)
        }));
        properties.push(Property::always(OBEYS, |model: &Self, world| {
            model.obeys(world)
        }));
        properties
    }
}
