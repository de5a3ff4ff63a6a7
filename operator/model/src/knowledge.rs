//! What the operator has learned, by which promises are judged. Nothing here depends on what the
//! rules chose to store.

use crate::database::{Content, Reading, Which};

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

impl LicenseRead {
    /// It is known that no license allows several replicas at this tick.
    pub fn has_ended(self, tick: u8) -> bool {
        match self {
            Self::Never => false,
            Self::Absent => true,
            Self::Ends(end) => tick >= end,
        }
    }
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
    /// The minor version that served when a decision was last made, of several the oldest, as long
    /// as the database was never read. After that the schema says more.
    pub served: Option<u32>,
    /// Replicas were last heard of on this database, when a decision was made.
    pub on: Option<Which>,
    /// Since which tick it has been known that no license allows several replicas.
    pub unlicensed: Option<u8>,
}

impl Knowledge {
    /// Another reading has ended at this tick.
    pub fn learn(&mut self, reading: &Reading, tick: u8) {
        self.database |= matches!(reading, Reading::Good(..));
        // A license binds the replicas that run on its database.
        let is_theirs = match (reading, self.on) {
            (Reading::Good(database, _), Some(on)) => database.content.which() == on,
            _ => true,
        };
        let license = Self::of_license(reading).filter(|_| is_theirs);
        self.license = license.unwrap_or(self.license);
        self.schema = Self::of_schema(reading, self.schema);
        self.is_at(tick);
    }

    /// Replicas serve whose oldest minor version is this, or none do.
    pub fn sees(&mut self, serves: Option<u32>) {
        self.served = serves.or(self.served).filter(|_| !self.database);
    }

    /// This tick has come.
    pub fn is_at(&mut self, tick: u8) {
        let since = self.unlicensed.unwrap_or(tick);
        self.unlicensed = match self.license {
            license if !license.has_ended(tick) => None,
            LicenseRead::Ends(end) => Some(since.max(end)),
            LicenseRead::Never | LicenseRead::Absent => Some(since),
        };
    }

    /// The minor version of the schema after a reading, which need not understand it.
    pub fn of_schema(reading: &Reading, before: Option<u32>) -> Option<u32> {
        let Reading::Good(database, _) = reading else {
            return before;
        };
        match database.content {
            Content::Bytebase | Content::Another | Content::Pooled => Some(database.schema),
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
            (Content::Bytebase | Content::Another | Content::Pooled, Some(end)) => {
                Some(LicenseRead::Ends(end))
            }
            // Among another application's tables there is none either.
            (Content::Bytebase | Content::Another | Content::Pooled, None)
            | (Content::Foreign, _) => Some(LicenseRead::Absent),
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
