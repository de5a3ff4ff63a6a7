//! What the operator knows of Kubernetes itself: its kinds, its quantities and its error texts.
//!
//! Pure: no client, and nothing else of this crate.

pub(crate) mod error_text;
pub mod kinds;
pub(crate) mod quantity;

pub use kinds::Kind;
