//! Reads of the outside world. Nothing here decides anything.

pub mod cluster;
pub mod database;
pub mod pod;
pub mod pod_events;
pub mod remembered;
pub mod route;
