//! What must hold in every state, in words; and what the operator has learned, by which a promise
//! is judged. Nothing here depends on what the rules chose to store.

use crate::world::{Content, Form, Pod, Reading, Replica, Set, World, Write};

/// A promise of the operator's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Promise {
    /// (a) The license gate.
    Licensed,
    /// (b) One pod at a time.
    OneDown,
    /// (b) What serves is kept.
    KeepsOne,
    /// (c) No first replica before the database has been read.
    FirstAfterReading,
    /// (c) No first replica where one has no place.
    FirstHasPlace,
    /// (c) No first replica on a database that was read before and cannot be read now.
    FirstInReach,
    /// (d) What is ended is what was meant.
    Meant,
    /// What is not understood ends nothing.
    NotUnderstood,
    /// Work is not interrupted where that can be spared.
    IdleFirst,
}

impl Promise {
    /// What is promised.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Licensed => {
                "(a) a minute after the end of the license no more than one replica runs that can be ended"
            }
            Self::OneDown => {
                "(b) the operator takes down one pod at a time, but for a license that has ended"
            }
            Self::KeepsOne => {
                "(b) a scale-down to fewer replicas keeps one that serves, or that may as long as heartbeats are unknown"
            }
            Self::FirstAfterReading => "(c) no first replica starts before the first reading",
            Self::FirstHasPlace => {
                "(c) no first replica starts among another application's tables or beside another Bytebase"
            }
            Self::FirstInReach => {
                "(c) no first replica starts on a database that was read before and is out of reach"
            }
            Self::Meant => "(d) an eviction ends the pod that was meant, and no other",
            Self::NotUnderstood => "no replica ends because something cannot be understood",
            Self::IdleFirst => {
                "a rollout replaces a replica that runs no task before one that does"
            }
        }
    }
}

/// The license that was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum LicenseRead {
    /// It never was.
    #[default]
    Never,
    /// There was none.
    Absent,
    /// It ends at this tick.
    Ends(u8),
}

/// What readings have found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Knowledge {
    /// The license that was last read.
    pub license: LicenseRead,
    /// The database was read.
    pub database: bool,
}

impl Knowledge {
    /// Another reading has ended.
    pub fn learn(&mut self, reading: &Reading) {
        self.database |= matches!(reading, Reading::Good(..));
        self.license = Self::of_license(reading).unwrap_or(self.license);
    }

    /// The license, if a reading understood it.
    pub fn of_license(reading: &Reading) -> Option<LicenseRead> {
        let Reading::Good(database, _) = reading else {
            return None;
        };
        match (database.content, database.license) {
            (Content::Bytebase, Some(end)) => Some(LicenseRead::Ends(end)),
            // Among another application's tables there is none either.
            (Content::Bytebase, None) | (Content::Foreign, _) => Some(LicenseRead::Absent),
            (Content::Renamed, _) => None,
        }
    }
}

/// Who knows what. A process may not forget what it learned while it lives. What a reconcile rested
/// on that made all of its writes may not be forgotten at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Known {
    /// The process that runs.
    pub process: Knowledge,
    /// The reconcile whose writes are still to be made.
    pub reconcile: Option<Knowledge>,
    /// The next process.
    pub stored: Knowledge,
}

impl Known {
    /// A reconcile has begun.
    pub fn decides(&mut self) {
        self.reconcile = Some(self.process);
    }

    /// It has made its last write.
    pub fn wrote_all(&mut self) {
        if let Some(knowledge) = self.reconcile.take() {
            self.stored = knowledge;
        }
    }

    /// The process has ended.
    pub fn dies(&mut self) {
        self.reconcile = None;
        self.process = self.stored;
    }
}

/// The promise that these writes break, by what the operator knows.
pub fn broken_by(world: &World, writes: &[Write]) -> Option<Promise> {
    writes.iter().find_map(|write| match write {
        Write::Set(set) => resizes(world, *set),
        Write::Evict(eviction) => evicts(world, eviction.uid),
        Write::Status(_) => None,
    })
}

fn resizes(world: &World, after: Set) -> Option<Promise> {
    let before = world.operator.cache.0.map_or(0, |set| set.size);
    let is_first = before == 0 && after.size > 0 && world.operator.cache.1.is_empty();
    if is_first {
        return first(world);
    }
    if after.size > 0 && after.size + 1 < before && !has_ended(world) {
        return Some(Promise::OneDown);
    }
    if after.size > 0 && after.size < before && !keeps_one(world, after) {
        return Some(Promise::KeepsOne);
    }
    shrinks_blindly(world, before, after).then_some(Promise::NotUnderstood)
}

/// The operator knows that no license allows several replicas at this moment.
fn has_ended(world: &World) -> bool {
    match world.ghost.known.process.license {
        LicenseRead::Never => false,
        LicenseRead::Absent => true,
        LicenseRead::Ends(end) => world.tick >= end,
    }
}

/// Of the replicas that serve, by what the operator sees, one stays; or there is none.
fn keeps_one(world: &World, after: Set) -> bool {
    let (set, pods) = &world.operator.cache;
    let may_be_active = |pod: &Pod| match &world.operator.reading {
        Reading::Good(database, active) => {
            database.content == Content::Renamed || active.iter().any(|other| other.uid == pod.uid)
        }
        Reading::None | Reading::Failed => true,
    };
    let serves = |pod: &&Pod| {
        pod.replica == Replica::Active
            && pod.ending.is_none()
            && set.is_some_and(|set| set.ordinals().contains(&pod.ordinal))
            && world.operator.evicted != Some(pod.uid)
            && may_be_active(pod)
    };
    let mut serving = pods.iter().filter(serves).peekable();
    serving.peek().is_none() || serving.any(|pod| after.ordinals().contains(&pod.ordinal))
}

fn evicts(world: &World, uid: u8) -> Option<Promise> {
    let (set, pods) = &world.operator.cache;
    let Reading::Good(_, active) = &world.operator.reading else {
        return None;
    };
    let read = |uid| active.iter().find(|replica| replica.uid == uid);
    let serves = |pod: &&Pod| pod.replica == Replica::Active && pod.ending.is_none();
    let is_busy = |pod: &Pod| read(pod.uid).is_some_and(|replica| replica.busy);
    let is_idle = |pod: &Pod| read(pod.uid).is_some_and(|replica| !replica.busy);
    let outdated = |pod: &&Pod| set.is_some_and(|set| set.template != pod.template);
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
            let has_place = database.content != Content::Foreign && !database.other;
            (!has_place).then_some(Promise::FirstHasPlace)
        }
    }
}

fn shrinks_blindly(world: &World, before: u8, after: Set) -> bool {
    let Reading::Good(database, _) = &world.operator.reading else {
        return false;
    };
    let licensed = match world.ghost.known.process.license {
        LicenseRead::Never => true,
        LicenseRead::Absent => false,
        // The gate closes up to two minutes before the end.
        LicenseRead::Ends(end) => world.tick.saturating_add(3) < end,
    };
    database.content == Content::Renamed
        && licensed
        && world.spec.form != Form::Invalid
        && after.size < before.min(world.spec.replicas)
}
