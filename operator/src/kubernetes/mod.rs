//! What the operator knows of Kubernetes itself: its kinds, its quantities, how its
//! objects are read, and its error texts.
//!
//! Pure: no client, and nothing else of this crate.

pub(crate) mod contains;
pub(crate) mod error_text;
pub(crate) mod guarded;
pub(crate) mod kinds;
pub(crate) mod quantity;
mod resource_version;

pub use guarded::{Guarded, Readable};
pub use kinds::Kind;
pub use resource_version::ResourceVersion;

/// Whether this finalizer is one of the garbage collector's, which takes it out by itself.
pub fn is_garbage_collectors(finalizer: &str) -> bool {
    ["foregroundDeletion", "orphan"].contains(&finalizer)
}
