//! What must hold in every state, in words; and what the operator has learned, by which a promise
//! is judged. Nothing here depends on what the rules chose to store.

use crate::world::{Content, Form, Pod, Reading, Replica, Set, Strategy, World, Write, minor};

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
    /// What runs is finished.
    Finished,
    /// A schema migration is left alone.
    MigrationEnds,
    /// No way back over the schema.
    NotOlder,
    /// A version that does not come up costs one pod.
    NewServes,
    /// A rollout with downtime is one.
    Alone,
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
            Self::Finished => {
                "no pod ends before the time-out of its drain whose replica runs a task or migrates the schema, but for a license that has ended"
            }
            Self::MigrationEnds => {
                "the operator ends no pod while it sees a schema migration, but for a license that has ended"
            }
            Self::NotOlder => {
                "the operator starts no replica of an older version than that of the schema, which it has read or the status holds"
            }
            Self::NewServes => {
                "a rollout ends no pod that serves while another one on the new template does not"
            }
            Self::Alone => {
                "with strategy Maintenance no replica starts beside one of another template, and the one that migrates the schema is alone"
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
    /// The minor version of the schema that was last read.
    pub schema: Option<u32>,
}

impl Knowledge {
    /// Another reading has ended.
    pub fn learn(&mut self, reading: &Reading) {
        self.database |= matches!(reading, Reading::Good(..));
        self.license = Self::of_license(reading).unwrap_or(self.license);
        self.schema = Self::of_schema(reading, self.schema);
    }

    /// The minor version of the schema after a reading, which need not understand it.
    pub fn of_schema(reading: &Reading, before: Option<u32>) -> Option<u32> {
        let Reading::Good(database, _) = reading else {
            return before;
        };
        match database.content {
            Content::Bytebase => Some(database.schema),
            // An emptied database has none.
            Content::Foreign => None,
            Content::Renamed => before,
        }
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
    let changes = world.operator.cache.0.map(|set| set.template) != Some(after.template);
    if is_older(world, after.template) && after.size > 0 && (changes || after.size > before) {
        return Some(Promise::NotOlder);
    }
    if after.size < before && is_migrating(world) && !has_ended(world) {
        return Some(Promise::MigrationEnds);
    }
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

/// A replica of this template would run on a newer schema, by what the operator knows.
fn is_older(world: &World, template: u8) -> bool {
    let schema = world.ghost.known.process.schema;
    schema.is_some_and(|schema| minor(template) < schema)
}

/// The latest reading shows a schema migration.
fn is_migrating(world: &World) -> bool {
    matches!(&world.operator.reading, Reading::Good(database, _) if database.migrates)
}

/// The operator knows that no license allows several replicas at this moment.
pub fn has_ended(world: &World) -> bool {
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
    let is_current = |pod: &Pod| set.is_some_and(|set| set.template == pod.template);
    if !has_ended(world) {
        if set.is_some_and(|set| is_older(world, set.template)) {
            return Some(Promise::NotOlder);
        }
        if is_migrating(world) {
            return Some(Promise::MigrationEnds);
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
    // A rollout with downtime ends them all because the user wants that.
    let is_wanted = world.spec.strategy == Strategy::Maintenance && after.size == 0;
    database.content == Content::Renamed
        && licensed
        && !is_wanted
        && world.spec.form != Form::Invalid
        && after.size < before.min(world.spec.replicas)
}
