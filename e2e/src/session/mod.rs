//! What a run holds and how it ends: the cluster with the server beside it, the record of all that
//! was started, and whoever takes it down from that record.

pub mod harness;
pub mod reaper;
pub mod state;
pub mod teardown;
