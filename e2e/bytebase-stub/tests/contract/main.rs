//! The contract of Bytebase, line by line, against the built binary and a real PostgreSQL.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod http;
mod license;
mod metadata;
mod queue;
mod start;
mod support;
