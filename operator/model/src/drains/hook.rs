//! One hook, what all of them go by, and the bugs that can be planted in them.

use super::promises::{ENDS, ENDS_SOON, OBEYS, Promise};
use bytebase_drain::drain::{State, Terms};
use bytebase_drain::identity::Heartbeats;
use std::time::Duration;

/// One step of time, in seconds. A hold for the last reading ends within it: it lasts five seconds.
pub const STEP: u64 = 6;

/// A fault in the hook, to see that the checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The hook takes the id of the earlier process of its container for its own.
    EarlierIdTaken,
    /// The hook counts the tasks of the earlier process of its container as its own.
    EarlierTasksCount,
    /// The server does not end the hold of a hook that was killed.
    HoldForgotten,
    /// What cannot be understood counts as no task.
    UnknownIsIdle,
    /// Each hook counts the times at which the queue may be held from its own beginning.
    WindowsOfItsOwn,
    /// The hook returns without a last reading.
    NoLastReading,
    /// The hook returns after a last reading for which it could not hold the queue.
    LeavesUnheld,
    /// The hook returns after a last reading that shows work which its replica may still claim.
    LeavesQueuedWork,
    /// The hook returns although its last reading was not answered.
    LeavesUnanswered,
    /// The hook never holds the queue while it waits.
    NeverHolds,
    /// A reading without an answer counts as one that shows no session of the replica.
    SilenceIsNoSession,
    /// The hook does not read the clock.
    NoTimeOut,
    /// The hook does not see that its replica migrates the schema.
    MigrationIgnored,
    /// The hook takes a replica that hangs for one that works.
    HungIsBusy,
    /// The hook takes a request that is meant for another session for one that is meant for its
    /// own.
    AnyRequestCounts,
    /// A hook that is asked to let its replica end does not look for a migration.
    RequestCutsMigration,
    /// The hook does not see that it is asked.
    RequestIgnored,
    /// The hook takes a replica for idle that has no session in the database that it reads.
    AwayIsIdle,
    /// The hook takes a database without tables for one without tasks.
    EmptiedIsIdle,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 19] = [
        Self::EarlierIdTaken,
        Self::EarlierTasksCount,
        Self::HoldForgotten,
        Self::UnknownIsIdle,
        Self::WindowsOfItsOwn,
        Self::NoLastReading,
        Self::LeavesUnheld,
        Self::LeavesQueuedWork,
        Self::LeavesUnanswered,
        Self::NeverHolds,
        Self::SilenceIsNoSession,
        Self::NoTimeOut,
        Self::MigrationIgnored,
        Self::HungIsBusy,
        Self::AnyRequestCounts,
        Self::RequestCutsMigration,
        Self::RequestIgnored,
        Self::AwayIsIdle,
        Self::EmptiedIsIdle,
    ];

    /// The promise that it breaks, in words.
    pub const fn breaks(self) -> &'static str {
        match self {
            Self::EarlierIdTaken
            | Self::UnknownIsIdle
            | Self::NoLastReading
            | Self::LeavesUnheld
            | Self::LeavesQueuedWork
            | Self::LeavesUnanswered
            | Self::SilenceIsNoSession
            | Self::MigrationIgnored
            | Self::AnyRequestCounts
            | Self::RequestCutsMigration
            | Self::AwayIsIdle
            | Self::EmptiedIsIdle => Promise::Finished.text(),
            Self::EarlierTasksCount | Self::HungIsBusy => ENDS_SOON,
            Self::NeverHolds => ENDS,
            Self::RequestIgnored => OBEYS,
            Self::HoldForgotten => Promise::HoldEnds.text(),
            Self::WindowsOfItsOwn => Promise::Free.text(),
            Self::NoTimeOut => Promise::TimeOut.text(),
        }
    }
}

/// What all hooks go by.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// How long is waited for what.
    pub terms: Terms,
    /// The bug that is planted.
    pub bug: Option<Bug>,
}

impl Rules {
    /// Longest that the queue is held, in steps.
    pub fn limit(&self) -> u8 {
        u8::try_from(self.terms.hold_limit.as_secs() / STEP).unwrap_or(u8::MAX)
    }

    /// The server lets holds stay for good that no hook knows of.
    pub fn forgets_holds(&self) -> bool {
        self.bug == Some(Bug::HoldForgotten)
    }
}

/// What becomes of an attempt to hold the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It succeeds, if the hook reaches the database.
    Held,
    /// A replica promotes work at this moment.
    Refused,
    /// It succeeds, and the answer is lost.
    Unanswered,
}

/// How far a hook has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It reads again and again.
    Reads,
    /// Its replica is idle: one reading more.
    Leaves,
    /// The last reading comes. The step in which the queue was held for it, if it could be.
    ReadsLast {
        /// That step.
        held: Option<u8>,
    },
    /// It has returned.
    Gone {
        /// It was killed, or was right to return whatever its replica ran.
        excused: bool,
        /// It had waited long enough for work to be claimed that no replica claimed.
        waited: bool,
        /// Work was promoted since.
        promoted: bool,
    },
}

/// A hook.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Hook {
    /// When the pod was asked to end.
    pub began: u8,
    /// What it remembers.
    pub memory: State,
    /// The heartbeats that it has seen.
    pub heartbeats: Heartbeats,
    /// It has a session that holds the queue, as far as it knows.
    pub holds: bool,
    /// The database is out of its reach.
    pub deaf: bool,
    /// Its login leads to another database, since this step.
    pub astray: Option<u8>,
    /// It has read in this step of time.
    pub has_read: bool,
    /// How far it has come.
    pub phase: Phase,
    /// When a database with Bytebase's tables answered it last. Not for the hook, which keeps its
    /// own books.
    pub answered: u8,
    /// Since when each of its readings has shown work that may be claimed, and no task of its
    /// replica. Likewise not for the hook.
    pub queued: Option<u8>,
}

impl Hook {
    /// One that begins now.
    pub fn new(tick: u8) -> Self {
        Self {
            began: tick,
            memory: State::default(),
            heartbeats: Heartbeats::default(),
            holds: false,
            deaf: false,
            astray: None,
            has_read: false,
            phase: Phase::Reads,
            answered: tick,
            queued: None,
        }
    }

    /// How long it has run.
    pub fn elapsed(&self, tick: u8) -> Duration {
        since(self.began, tick)
    }
}

/// The time from one step to another.
pub fn since(before: u8, tick: u8) -> Duration {
    Duration::from_secs(STEP) * u32::from(tick.saturating_sub(before))
}
