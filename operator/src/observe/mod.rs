//! Reads of the outside world. Nothing here decides anything.

pub mod cluster;
pub mod database;
pub mod optional;
pub mod pod;
pub mod remembered;
