//! What must hold for drains in every state, in words, and what the checker remembers to judge it
//! by.

use super::hook::{Hook, Phase, Rules, since};
use super::world::World;
use std::time::Duration;

/// Without an answer of the database for so long, a hook lets its replica end.
const UNREACHABLE: Duration = Duration::from_mins(2);
/// A replica that does nothing on the database for so long, without a session or hung, has lost its
/// tasks: others give them up.
const DISCONNECTED: Duration = Duration::from_mins(1);

/// What must follow from every state in a world that behaves from then on.
pub const ENDS_SOON: &str = "every drain ends soon once the world behaves and no new work comes, whatever tasks of ended processes are left";
/// The same, while work comes faster than it is done.
pub const ENDS: &str = "every drain ends once the world behaves, also where new work keeps coming";

/// What must follow from every state in which a hook is asked, even if no task ever ends.
pub const OBEYS: &str = "a drain whose hook is asked to let its replica end, and reaches the database, ends soon, whatever tasks run, once no migration does";

/// A promise of the hooks'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// Running tasks are finished.
    Finished,
    /// The queue is free as long as it was held.
    Free,
    /// A hold does not outlive its time.
    HoldEnds,
    /// The time-out.
    TimeOut,
}

impl Promise {
    /// What is promised.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Finished => {
                "before the time-out no pod ends whose replica runs a task or migrates the schema, unless its hook was killed, was asked to let it end while it did not migrate, or had no answer of the database for two minutes, the replica had no session for one or hung as long, or the task was claimed after the last reading of the hook and could be claimed before it"
            }
            Self::Free => {
                "all hooks together hold the queue for no longer than the limit, and then leave it free for as long, but for the moment of a last reading"
            }
            Self::HoldEnds => {
                "no hold outlives the time that the server was given for it, whatever becomes of its holder"
            }
            Self::TimeOut => "every drain ends by its time-out, whatever happens",
        }
    }
}

/// What the checker remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// The promise that was broken first.
    pub broken: Option<Promise>,
    /// The first and the last step in which the queue was held, with no pause of the limit between.
    spell: Option<(u8, u8)>,
}

impl Ghost {
    /// What was long ago has no part in anything any more.
    pub fn forget(&mut self, tick: u8, limit: u8) {
        self.spell = self.spell.filter(|(_, last)| tick <= last + limit);
    }
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
