//! The metadata database, and what a reading of it brings.

/// What the metadata database holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    /// Bytebase's tables.
    Bytebase,
    /// Another application's.
    Foreign,
    /// Those of a database of its own, with its own license and replicas.
    Another,
    /// Bytebase's, in a form that this operator does not understand.
    Renamed,
    /// Bytebase's, behind a pooler in transaction mode.
    Pooled,
}

impl Content {
    /// The database that has it.
    pub fn which(self) -> Which {
        match self {
            Self::Another => Which::Another,
            Self::Bytebase | Self::Foreign | Self::Renamed | Self::Pooled => Which::Own,
        }
    }
}

/// A database where the endpoint leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The one of the beginning.
    Own,
    /// Another one, of which the replicas of the beginning know nothing.
    Another,
}

impl Database {
    /// It is swapped for one with this content.
    pub fn becomes(&mut self, content: Content) {
        if self.content.which() != content.which() {
            std::mem::swap(&mut self.license, &mut self.license_elsewhere);
        }
        self.content = content;
    }
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
    /// The same of the one for which it may be swapped.
    pub license_elsewhere: Option<u8>,
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
