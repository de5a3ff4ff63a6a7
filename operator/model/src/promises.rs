//! What must hold in every state, in words.

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
