//! Faults that are planted in the rules.

use crate::promises::{Promise, RECOVERS, RECOVERS_BUT_FOR_ONE};

/// A fault in the rules, to see that the checker finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Nothing of the database is read back from the status, a refusal included.
    RefusalForgotten,
    /// What was read of the database is not put into the status.
    NothingStored,
    /// Whether the database was ever read is not read back from the status.
    IdentityForgotten,
    /// The end of the license is not read back from the status.
    LicenseForgotten,
    /// That several replicas were not allowed is not read back from the status.
    AbsenceForgotten,
    /// The license gate does not act while the spec is invalid.
    GateBlindWhileInvalid,
    /// Nor does it while a reading refuses the database.
    GateBlindWhileRefused,
    /// The license gate waits for pods that cannot end.
    GateWaitsForStuck,
    /// The license gate leaves the lowest ordinal, whichever serves.
    GateShrinksToLowest,
    /// No drain hook is asked to let its replica end.
    DrainNotHastened,
    /// Each is asked as soon as the license has ended.
    DrainHastenedAtOnce,
    /// Since when no license has allowed several replicas is not read back from the status.
    UnlicensedSinceForgotten,
    /// When the operator is to come back by itself is lost.
    ComesBackNever,
    /// Heartbeats of others do not count.
    OthersIgnored,
    /// What cannot be understood counts as none.
    UnknownIsNone,
    /// The license is forgotten as soon as a reading does not understand it.
    UnderstandingForgotten,
    /// Every pod counts as Ready and active during a rollout.
    EveryPodServes,
    /// An eviction of a pod that is gone hits its successor: the cache may lag behind.
    EvictionWithoutUid,
    /// What was evicted is taken for running until the watch shows otherwise.
    EvictionForgotten,
    /// A pod that ends, or is to, is taken for gone: the next step does not wait for it.
    EndingTakenForGone,
    /// A replica that comes up is taken for one that does not, which a scale-down does not wait
    /// for.
    ComingUpIgnored,
    /// Running tasks are not asked after.
    TasksIgnored,
    /// A process that has just started takes the missing reading for an outage.
    NoReadingIsOutage,
    /// Since when a rollout has waited for an idle replica is not read back from the status.
    PatienceForgotten,
    /// A replica whose heartbeat is unknown is taken for one that does not serve.
    UnknownServesNot,
    /// The version of the schema is not read back from the status.
    SchemaForgotten,
    /// Which version has served is not read back from the status.
    VersionForgotten,
    /// The version of the schema is not kept in the process when a reading does not understand it.
    SchemaNotKept,
    /// Which version the StatefulSet has is not asked after.
    StandingVersionIgnored,
    /// Pods that only the StatefulSet's controller knows of are not waited for.
    ControllerIgnored,
    /// A pod on the new template counts as Ready and active.
    NewTakenForServing,
    /// A schema migration is not seen.
    MigrationUnseen,
    /// An eviction cuts the drain short.
    DrainCutShort,
    /// With downtime the first replica starts as soon as all the others were asked to end.
    StartsEarly,
    /// With downtime nothing holds the others back until the first replica serves.
    RestNotHeld,
    /// A process that starts in the middle of a rollout with downtime takes it for any other.
    DowntimeForgotten,
    /// Whose a StatefulSet is, is never asked.
    OwnerIgnored,
    /// It is not asked where one is written that could not be seen.
    NameTakenIgnored,
    /// A standby that takes over decides on what its watches had shown by then, and does not wait
    /// until they show what is stored.
    TakesOverAtOnce,
    /// A status that was left to the next reconcile is written by none.
    DueStatusForgotten,
    /// A database is told from another by its place alone.
    AnotherTakenForSame,
    /// A status is written whichever one stands by then.
    StatusUnguarded,
    /// The last status that was written counts as shown as soon as the watch shows anything.
    EchoTakenForAny,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 43] = [
        Self::RefusalForgotten,
        Self::NothingStored,
        Self::IdentityForgotten,
        Self::LicenseForgotten,
        Self::AbsenceForgotten,
        Self::GateBlindWhileInvalid,
        Self::GateBlindWhileRefused,
        Self::GateWaitsForStuck,
        Self::GateShrinksToLowest,
        Self::DrainNotHastened,
        Self::DrainHastenedAtOnce,
        Self::UnlicensedSinceForgotten,
        Self::ComesBackNever,
        Self::OthersIgnored,
        Self::UnknownIsNone,
        Self::UnderstandingForgotten,
        Self::EveryPodServes,
        Self::EvictionWithoutUid,
        Self::EvictionForgotten,
        Self::EndingTakenForGone,
        Self::ComingUpIgnored,
        Self::TasksIgnored,
        Self::NoReadingIsOutage,
        Self::PatienceForgotten,
        Self::UnknownServesNot,
        Self::SchemaForgotten,
        Self::VersionForgotten,
        Self::SchemaNotKept,
        Self::StandingVersionIgnored,
        Self::ControllerIgnored,
        Self::NewTakenForServing,
        Self::MigrationUnseen,
        Self::DrainCutShort,
        Self::StartsEarly,
        Self::RestNotHeld,
        Self::DowntimeForgotten,
        Self::OwnerIgnored,
        Self::NameTakenIgnored,
        Self::TakesOverAtOnce,
        Self::DueStatusForgotten,
        Self::AnotherTakenForSame,
        Self::StatusUnguarded,
        Self::EchoTakenForAny,
    ];

    /// The property that it breaks, by which it must be found.
    pub const fn breaks(self) -> &'static str {
        match self {
            Self::LicenseForgotten
            | Self::AbsenceForgotten
            | Self::GateBlindWhileInvalid
            | Self::GateBlindWhileRefused
            | Self::GateWaitsForStuck
            | Self::DrainNotHastened
            | Self::UnlicensedSinceForgotten
            | Self::ComesBackNever
            | Self::DueStatusForgotten
            | Self::UnderstandingForgotten => Promise::Licensed.text(),
            Self::EvictionForgotten
            | Self::EndingTakenForGone
            | Self::ComingUpIgnored
            | Self::TakesOverAtOnce => Promise::OneDown.text(),
            Self::GateShrinksToLowest | Self::UnknownServesNot => Promise::KeepsOne.text(),
            Self::NoReadingIsOutage => Promise::FirstAfterReading.text(),
            Self::OthersIgnored => Promise::FirstHasPlace.text(),
            Self::RefusalForgotten
            | Self::NothingStored
            | Self::IdentityForgotten
            | Self::StatusUnguarded => Promise::FirstInReach.text(),
            Self::AnotherTakenForSame | Self::EchoTakenForAny => Promise::Elsewhere.text(),
            Self::EvictionWithoutUid => Promise::Meant.text(),
            Self::OwnerIgnored | Self::NameTakenIgnored => Promise::Others.text(),
            Self::UnknownIsNone => Promise::NotUnderstood.text(),
            Self::TasksIgnored => Promise::IdleFirst.text(),
            Self::DrainHastenedAtOnce | Self::DrainCutShort => Promise::Finished.text(),
            Self::MigrationUnseen => Promise::MigrationEnds.text(),
            Self::SchemaForgotten
            | Self::VersionForgotten
            | Self::SchemaNotKept
            | Self::StandingVersionIgnored => Promise::NotOlder.text(),
            Self::EveryPodServes => Promise::NewServes.text(),
            Self::ControllerIgnored
            | Self::StartsEarly
            | Self::RestNotHeld
            | Self::DowntimeForgotten => Promise::Alone.text(),
            Self::PatienceForgotten => RECOVERS,
            Self::NewTakenForServing => RECOVERS_BUT_FOR_ONE,
        }
    }
}
