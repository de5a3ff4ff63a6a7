//! Writes to the API server: apply what differs, prune what is no longer wanted, evict. A failure
//! is reported, never swallowed.

pub mod bytebase;
pub mod contains;
pub mod error;
pub mod event;
pub mod objects;

pub use error::{ApplyFailure, FailureKind};

/// The one field manager of everything this operator writes.
pub const FIELD_MANAGER: &str = "bytebase-operator";
