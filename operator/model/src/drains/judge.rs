//! Whether a promise is broken by what happens to a pod or to the queue.

use super::hook::{Hook, Phase, Rules, since};
use super::promises::Promise;
use super::world::World;
use std::time::Duration;

/// Without an answer of a database that has Bytebase's tables for so long, a hook lets its replica
/// end.
const UNREACHABLE: Duration = Duration::from_mins(2);
/// A replica that does nothing on the database for so long, without a session or hung, has lost its
/// tasks: others give them up.
const DISCONNECTED: Duration = Duration::from_mins(1);

/// A hook waits for so long for work to be claimed that its replica may claim.
const SETTLING: Duration = Duration::from_secs(12);

/// Whether the hook of this pod has waited long enough for work that no replica claims.
pub fn has_waited(world: &World, place: u8) -> bool {
    let queued = world.pod(place).hook().and_then(|hook| hook.queued);
    queued.is_some_and(|queued| since(queued, world.tick) >= SETTLING)
}

/// A step passes: whether the queue is held in it, by whomever.
pub fn note_holds(world: &mut World, rules: &Rules) {
    let tick = world.tick;
    if world.holds.iter().all(|hold| hold.last) {
        return;
    }
    let first = world.ghost.spell.map_or(tick, |(first, _)| first);
    world.ghost.spell = Some((first, tick));
    if tick + 1 - first > rules.limit() {
        world.breaks(Promise::Free);
    }
}

/// Whether the hook of this pod may return now whatever its replica runs.
pub fn is_excused(world: &World, rules: &Rules, place: u8) -> bool {
    let (pod, tick) = (world.pod(place), world.tick);
    pod.hook().is_some_and(|hook| {
        hook.elapsed(tick) >= rules.terms.timeout
            // It does not begin to migrate once it is asked to end.
            || (pod.asked && !pod.migrates)
            || since(hook.answered, tick) >= UNREACHABLE
            || hook.astray.is_some_and(|since_then| since(since_then, tick) >= DISCONNECTED)
            || pod.cut.is_some_and(|cut| since(cut, tick) >= DISCONNECTED)
    })
}

/// Whether the end of this pod now cancels a task or a migration that was to be finished.
pub fn loses_work(world: &World, place: u8) -> bool {
    let pod = world.pod(place);
    let excused = |hook: &Hook| matches!(hook.phase, Phase::Gone { excused: true, .. });
    let mut own = world.running.iter().filter(|run| run.owner == pod.process);
    !pod.hook().is_some_and(excused) && (pod.migrates || own.any(|run| !run.late))
}
