//! The metadata database, and what a reading of it brings.

/// What the metadata database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Bytebase's tables.
    Bytebase,
    /// Another application's.
    Foreign,
    /// Bytebase's, in a form that this operator does not understand.
    Renamed,
    /// Bytebase's, behind a pooler in transaction mode.
    Pooled,
}

/// The metadata database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Database {
    /// It answers.
    pub up: bool,
    /// What it holds.
    pub content: Content,
    /// The tick at which the stored license ends; `None`: no license is stored.
    pub license: Option<u8>,
    /// A replica of another Bytebase is active on it.
    pub other: bool,
    /// Minor version of the schema.
    pub schema: u32,
    /// A replica holds the migration lock; only in a reading.
    pub migrates: bool,
}

/// A replica that is active, by what the database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Active {
    /// Uid of its pod.
    pub uid: u8,
    /// It runs a task.
    pub busy: bool,
}

/// What a reading of the database brought.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reading {
    /// None has ended in this process.
    None,
    /// It does not answer.
    Failed,
    /// The database, and the replicas that are active.
    Good(Database, Vec<Active>),
}
