//! What the replicas of Bytebase have in common at the metadata database: how old a heartbeat may
//! be, and which advisory locks they take.
//!
//! Facts of Bytebase, from its own source (release 3.21.1). Those that can be seen from outside are
//! what `e2e/bytebase-stub/tests/contract` shows of a server.

use std::time::Duration;

/// A replica sends a heartbeat this often.
pub const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);

/// Bytebase counts a replica as active while its heartbeat is at most this old.
pub const ACTIVE_WINDOW: Duration = Duration::from_secs(30);

/// Bytebase gives a replica's tasks up at this age of its heartbeat.
pub const DEAD_AFTER: Duration = Duration::from_mins(1);

/// The advisory lock of the queue. A session that holds it, shared or not, keeps every replica from
/// promoting work.
pub const QUEUE_LOCK: i64 = 1001;

/// The advisory lock under which a replica migrates the schema.
pub const MIGRATION_LOCK: i64 = 1002;
