//! What one run is: where it begins, what may happen in it, and which planted bugs it must find.

use crate::bugs::Bug;
use crate::world::{Budget, Strategy};

/// One run.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a way of its own in which the worlds differ"
)]
pub struct Profile {
    pub name: &'static str,
    pub license: Option<u8>,
    pub replicas: u8,
    pub running: bool,
    pub strategy: Strategy,
    /// The StatefulSet's controller sees each change late.
    pub slow: bool,
    /// The watch of clusters lags, as all the others do.
    pub lags: bool,
    /// It shows one version after the other, and so many may not be shown yet; 0: the last at once.
    pub steps: usize,
    /// The endpoint may lead to another database.
    pub several: bool,
    pub budget: Budget,
    /// Bugs that this run must find.
    pub finds: &'static [Bug],
}

impl Default for Profile {
    /// Three replicas run, and nothing happens.
    fn default() -> Self {
        Self {
            name: "",
            license: Some(200),
            replicas: 3,
            running: true,
            strategy: Strategy::Rolling,
            slow: false,
            lags: false,
            steps: 0,
            several: false,
            budget: Budget::default(),
            finds: &[],
        }
    }
}
