//! What the hands note down for the eyes.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::plan::Model;

/// What the observer must know of our own doings.
#[derive(Debug, Clone, Default)]
pub struct Doings {
    pub models: Vec<Model>,
    /// Clusters whose pods may be down by our own doing, until they have settled again.
    pub disturbed: BTreeSet<usize>,
    /// Clusters whose database is refused or in use by another Bytebase, and which have no replica:
    /// none may start.
    pub refused: BTreeSet<usize>,
    /// Uids of pods that we deleted.
    pub deleted: BTreeSet<String>,
    /// Nothing more is to be looked at.
    pub over: bool,
}

/// Shared between the hands and the eyes.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Doings>>);

impl Shared {
    /// What is noted now; to be changed in place.
    pub fn lock(&self) -> MutexGuard<'_, Doings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
