//! How the metadata database is to be read, and what the latest reading says.

use super::heartbeat::HEARTBEAT_INTERVAL;
use super::{DatabaseFacts, DatabaseView};
use std::time::Duration;

/// How a database is read.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is asked for by itself, for a reason of its own"
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// From one reading to the next.
    pub every: Duration,
    /// Whether to read its other sessions too. That costs the server several times as much as
    /// all the rest, and the more the more sessions it has room for, so it is done only where
    /// something depends on them.
    pub sessions: bool,
    /// Whether to log in again for it. A session that is open stays with the server that its name
    /// once led to; where what that server is forbids something, or a replica sends no heartbeats to
    /// it, the name must be resolved again.
    pub new_session: bool,
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

impl ReadOptions {
    /// Whether nothing is under way that a reading is to show at once.
    pub fn is_quiet(self) -> bool {
        self.every >= HEARTBEAT_INTERVAL && !self.sessions && !self.new_session
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
