//! How the metadata database is to be read, and what the latest reading says.

use super::{DatabaseFacts, DatabaseView};
use crate::contract::replica::HEARTBEAT_INTERVAL;
use std::time::Duration;

/// How a database is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// From one reading to the next.
    pub every: Duration,
    /// Whether to read its other sessions too. That costs the server several times as much as
    /// all the rest, and the more the more sessions it has room for, so it is done only where
    /// something depends on them.
    pub sessions: bool,
    /// How soon to log in again for it.
    pub renewal: Renewal,
    /// Whether the session stays open between readings. A database that has a session cannot be
    /// dropped, renamed or copied, which is what administrators stop a cluster for.
    pub keep_session: bool,
    /// Whether to log in as Bytebase does as well, where a monitoring login reads: something
    /// depends on whether the server would let the replicas in.
    pub try_login: bool,
    /// Replicas that are Ready and of which no fresh heartbeat has been seen: the next step of a
    /// rollout waits for it, so that one more of them is a reason to read at once.
    pub awaited: usize,
}

/// How soon a session is replaced by a new one: it stays with the server that its name once led to,
/// and a new login resolves the name again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// As every session is in time.
    Usual,
    /// A replica is Ready and sends no heartbeats to that server: it may send them to another one.
    /// That may also be so of many clusters at once, whose server is too slow.
    Soon,
    /// What that server is forbids something, so nothing goes on before this is over.
    AtNextReading,
}

impl ReadOptions {
    /// Whether nothing is under way that a reading is to show at once.
    pub fn is_quiet(self) -> bool {
        self.every >= HEARTBEAT_INTERVAL && !self.sessions && self.renewal != Renewal::AtNextReading
    }
}

/// What the probe knows at the moment of asking.
#[derive(Clone, Debug)]
pub struct Latest {
    /// The outcome of the latest reading, with ages carried forward to now.
    pub view: DatabaseView,
    /// How long ago the last good reading was, and its facts with ages carried forward to now; the
    /// license as it was last understood, also where that reading did not understand it. `None`
    /// while nothing counts as read.
    pub last_good: Option<(Duration, DatabaseFacts)>,
}
