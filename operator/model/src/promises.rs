//! What must hold in every state, in words.

/// What happens in the end.
pub const RECOVERS: &str = "the wanted state is reached, and kept, once the world behaves, or what stands in the way is reported";
/// The same with a replica that does not.
pub const RECOVERS_BUT_FOR_ONE: &str = "the same where a replica does not come up for good";

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
    /// (d) What is another's is left alone.
    Others,
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
    /// What is read of another database is no matter of theirs.
    Elsewhere,
}

impl Promise {
    /// What is promised.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Licensed => {
                "(a) at the end of the license, or a minute later where one finishes its tasks, all replicas but one that can be ended are ending, and five minutes after that no more than one sends heartbeats"
            }
            Self::OneDown => {
                "(b) the operator takes down one pod at a time, and none that serves while one that it has taken down may come up again, but for a license that has ended or is about to"
            }
            Self::KeepsOne => {
                "(b) a scale-down to fewer replicas keeps one that serves, or that may as long as heartbeats are unknown"
            }
            Self::FirstAfterReading => "(c) no first replica starts before the first reading",
            Self::FirstHasPlace => {
                "(c) no first replica starts among another application's tables, behind a pooler in transaction mode or beside another Bytebase"
            }
            Self::FirstInReach => {
                "(c) no first replica starts on a database that was read before and is out of reach"
            }
            Self::Meant => "(d) an eviction ends the pod that was meant, and no other",
            Self::Others => {
                "(d) a StatefulSet that is another's is not written, and none of its pods evicted"
            }
            Self::NotUnderstood => "no replica ends because something cannot be understood",
            Self::IdleFirst => {
                "a rollout replaces a replica that runs no task before one that does"
            }
            Self::Finished => {
                "no pod ends before the time-out of its drain whose replica runs a task or migrates the schema, but for a license that has ended, and then not within five minutes"
            }
            Self::MigrationEnds => {
                "the operator ends no pod while it sees a schema migration, but for a license that has ended"
            }
            Self::NotOlder => {
                "the operator starts no replica of an older version than that of the schema, which it has read or the status holds; and writes none that is older than what has served on a schema that was never read"
            }
            Self::NewServes => {
                "a rollout ends no pod that serves while another one on the new template does not"
            }
            Self::Elsewhere => {
                "as long as replicas run that were heard of on one database, and a reading of another one shows none of them, the operator has no more start beside them, and ends no two of them together"
            }
            Self::Alone => {
                "with strategy Maintenance no replica starts beside one of another template, and the one that migrates the schema is alone"
            }
        }
    }
}
