//! How many replicas run: what the license, the database and the spec allow, and the steps from one
//! size to another.

pub(crate) mod haste;
pub(crate) mod license;
pub(crate) mod replicas;
pub(crate) mod scale;
