//! Which promise the operator's writes break, by what it has learned.

use crate::database::{Content, Reading};
use crate::knowledge::LicenseRead;
use crate::promises::Promise;
use crate::world::{Form, Pod, Replica, Set, Strategy, World, Write, minor};

/// Minutes that a replica has to come up, from the beginning of the world: no pod is younger.
const COMES_UP: u8 = 15;

/// The promise that these writes break, by what the operator knows.
pub fn broken_by(world: &World, writes: &[Write]) -> Option<Promise> {
    writes.iter().find_map(|write| match write {
        Write::Set(set) => resizes(world, *set),
        Write::Evict(eviction) => evicts(world, eviction.uid),
        Write::LetGo(uid) => {
            let mut pods = world.pods.iter();
            let early = pods.any(|pod| pod.uid == *uid && world.is_cut_short(*pod));
            early.then_some(Promise::Finished)
        }
        Write::Status(_) => None,
    })
}

fn resizes(world: &World, after: Set) -> Option<Promise> {
    let before = world.operator.cache.0.map_or(0, |set| set.size);
    let changes = world.operator.cache.0.map(|set| set.template) != Some(after.template);
    if is_older(world, after.template) && after.size > 0 && (changes || after.size > before) {
        return Some(Promise::NotOlder);
    }
    if is_resized_elsewhere(world, before, after) {
        return Some(Promise::Elsewhere);
    }
    if goes_back_unread(world, after.template) {
        return Some(Promise::NotOlder);
    }
    if after.size < before && is_migrating(world) && !world.knows_license_ended() {
        return Some(Promise::MigrationEnds);
    }
    let is_first = before == 0 && after.size > 0 && world.operator.cache.1.is_empty();
    if is_first {
        return first(world);
    }
    if after.size > 0 && takes_down_two(world, after) && !world.knows_license_ended() {
        return Some(Promise::OneDown);
    }
    if after.size > 0 && after.size < before && !keeps_one(world, after) {
        return Some(Promise::KeepsOne);
    }
    shrinks_blindly(world, before, after).then_some(Promise::NotUnderstood)
}

/// Whether the size changes by a reading of another database than that on which replicas were heard
/// of last, as the next process would know as well, while none of those that run shows there.
fn is_resized_elsewhere(world: &World, before: u8, after: Set) -> bool {
    let Reading::Good(database, active) = &world.operator.reading else {
        return false;
    };
    let on = world.ghost.known.stored.on;
    let is_another = on.is_some_and(|on| on != database.content.which());
    let is_up = |pod: &&Pod| {
        matches!(
            pod.replica,
            Replica::Active | Replica::Frozen | Replica::Stuck
        )
    };
    let mut up = world.operator.cache.1.iter().filter(is_up).peekable();
    // Pods may be shown before the StatefulSet that they are of.
    let shown = world.operator.cache.1.iter().map(|pod| pod.ordinal + 1);
    let before = before.max(shown.max().unwrap_or(0));
    let is_unheard = |pod: &Pod| active.iter().all(|active| active.uid != pod.uid);
    // Down to what is licensed there they go one after the other, before they move.
    let shrinks = after.size > 0 && before.saturating_sub(after.size) > 1 && !gate_may_close(world);
    is_another && up.peek().is_some() && up.all(is_unheard) && (after.size > before || shrinks)
}

/// Whether this size takes down two pods, by what the operator sees: both by itself, or one while
/// another is away. Several ordinals without a pod may go.
fn takes_down_two(world: &World, after: Set) -> bool {
    let pods = &world.operator.cache.1;
    let closes = gate_may_close(world);
    let goes = |pod: &&Pod| !after.ordinals().contains(&pod.ordinal);
    let taken: Vec<_> = pods
        .iter()
        .filter(|pod| !ends(world, **pod))
        .filter(goes)
        .collect();
    // The license gate goes past a pod that cannot end.
    let is_passed = |pod: &Pod| closes && pod.replica == Replica::Stuck;
    let ending = |pod: &Pod| ends(world, *pod) && !is_passed(pod);
    // Nor does it wait for one that comes back, and nothing waits for one that does not.
    let fails = |ordinal: u8| {
        let mut pods = pods.iter();
        pods.any(|pod| pod.ordinal == ordinal && pod.replica == Replica::Failing)
    };
    let is_away = |ordinal: &u8| after.ordinals().contains(ordinal) && !fails(*ordinal);
    let awaited = !closes && world.tick < COMES_UP;
    let away = awaited && world.ghost.evicted.iter().any(is_away);
    let serves = |pod: &&Pod| serves(world, **pod);
    let beside_one = pods.iter().any(ending) || (away && taken.iter().any(serves));
    taken.len() > 1 || (beside_one && !taken.is_empty())
}

/// Whether a pod ends or is to, as the operator sees it.
fn ends(world: &World, pod: Pod) -> bool {
    let covers = |set: Set| set.ordinals().contains(&pod.ordinal);
    pod.ending.is_some()
        || world.operator.evicted == Some(pod.uid)
        || !world.operator.cache.0.is_some_and(covers)
}

/// Whether a replica serves, or may, as the operator sees it.
fn serves(world: &World, pod: Pod) -> bool {
    let may_be_active = match &world.operator.reading {
        Reading::Good(database, active) => {
            database.content == Content::Renamed || active.iter().any(|other| other.uid == pod.uid)
        }
        Reading::None | Reading::Failed => true,
    };
    pod.replica == Replica::Active && !ends(world, pod) && may_be_active
}

/// The license that the operator knows of ends soon: the gate closes up to two minutes before.
fn gate_may_close(world: &World) -> bool {
    match world.ghost.known.process.license {
        LicenseRead::Never => false,
        LicenseRead::Absent => true,
        LicenseRead::Ends(end) => world.tick.saturating_add(3) >= end,
    }
}

/// A replica of this template would run on a newer schema, by what the operator knows.
fn is_older(world: &World, template: u8) -> bool {
    let schema = world.ghost.known.process.schema;
    schema.is_some_and(|schema| minor(template) < schema)
}

/// The template goes back to an older version than what has served, on a schema that was never
/// read. What stands may have come back already.
fn goes_back_unread(world: &World, template: u8) -> bool {
    let known = &world.ghost.known.process;
    let stands = world.operator.cache.0.map(|set| minor(set.template));
    let oldest = known.served.min(stands);
    !known.database && oldest.is_some_and(|oldest| minor(template) < oldest)
}

/// The latest reading shows a schema migration.
fn is_migrating(world: &World) -> bool {
    matches!(&world.operator.reading, Reading::Good(database, _) if database.migrates)
}

/// Of the replicas that serve, by what the operator sees, one stays; or there is none.
fn keeps_one(world: &World, after: Set) -> bool {
    let pods = world.operator.cache.1.iter();
    let mut serving = pods.filter(|pod| serves(world, **pod)).peekable();
    serving.peek().is_none() || serving.any(|pod| after.ordinals().contains(&pod.ordinal))
}

fn evicts(world: &World, uid: u8) -> Option<Promise> {
    let (set, pods) = &world.operator.cache;
    if set.is_some_and(|set| !set.whose.is_own()) {
        return Some(Promise::Others);
    }
    let is_current = |pod: &Pod| set.is_some_and(|set| set.template == pod.template);
    if set.is_some_and(|set| is_older(world, set.template)) {
        return Some(Promise::NotOlder);
    }
    if is_migrating(world) {
        return Some(Promise::MigrationEnds);
    }
    // Those that the gate has taken away end beside it, and more than one at a time.
    if !world.knows_license_ended() {
        let mut others = pods.iter().filter(|pod| pod.uid != uid);
        if others.any(|pod| ends(world, *pod)) {
            return Some(Promise::OneDown);
        }
        let ended = pods.iter().find(|pod| pod.uid == uid);
        let served = ended.is_some_and(|pod| pod.replica == Replica::Active);
        let unproven =
            |pod: &Pod| pod.uid != uid && is_current(pod) && pod.replica != Replica::Active;
        if served && pods.iter().any(unproven) {
            return Some(Promise::NewServes);
        }
    }
    let Reading::Good(_, active) = &world.operator.reading else {
        return None;
    };
    let read = |uid| active.iter().find(|replica| replica.uid == uid);
    let serves = |pod: &&Pod| pod.replica == Replica::Active && pod.ending.is_none();
    let is_busy = |pod: &Pod| read(pod.uid).is_some_and(|replica| replica.busy);
    let is_idle = |pod: &Pod| read(pod.uid).is_some_and(|replica| !replica.busy);
    let outdated = |pod: &&Pod| set.is_some() && !is_current(pod);
    let mut serving = pods.iter().filter(serves).filter(outdated);
    let interrupts = serving.clone().any(|pod| pod.uid == uid && is_busy(pod));
    (interrupts && serving.any(is_idle)).then_some(Promise::IdleFirst)
}

fn first(world: &World) -> Option<Promise> {
    match &world.operator.reading {
        Reading::None => Some(Promise::FirstAfterReading),
        Reading::Failed => world
            .ghost
            .known
            .process
            .database
            .then_some(Promise::FirstInReach),
        Reading::Good(database, _) => {
            let is_fit = !matches!(database.content, Content::Foreign | Content::Pooled);
            let has_place = is_fit && !database.other;
            (!has_place).then_some(Promise::FirstHasPlace)
        }
    }
}

fn shrinks_blindly(world: &World, before: u8, after: Set) -> bool {
    let Reading::Good(database, _) = &world.operator.reading else {
        return false;
    };
    // A rollout with downtime ends them all because the user wants that.
    let is_wanted = world.spec.strategy == Strategy::Maintenance && after.size == 0;
    database.content == Content::Renamed
        && !gate_may_close(world)
        && !is_wanted
        && world.spec.form != Form::Invalid
        && after.size < before.min(world.spec.replicas)
}
