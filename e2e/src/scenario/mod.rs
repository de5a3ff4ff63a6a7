//! What a scenario is.

pub mod collect;
pub mod followers;
pub mod leaks;
pub mod license;
pub mod runner;
pub mod sandbox;

use std::time::Duration;

use anyhow::Result;
use futures::future::BoxFuture;

use crate::scenario::sandbox::Sandbox;

/// Long enough for several rolls of three replicas; a scenario that waits for nothing takes
/// seconds.
pub const DEFAULT_LIMIT: Duration = Duration::from_mins(10);

/// One thing that must be true of the operator on a real cluster.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// In kebab-case; the word to run it alone by.
    pub name: &'static str,
    /// What is proven, as a sentence.
    pub about: &'static str,
    /// Whether it disturbs what scenarios of a cluster share (PostgreSQL, control plane, node),
    /// and so runs on another cluster, alone.
    pub exclusive: bool,
    /// Whether it needs the operator's and Bytebase's images. The harness's own checks don't.
    pub product: bool,
    /// Whether it needs the stand-in: a license that the real Bytebase does not take, or several
    /// versions.
    pub stand_in: bool,
    /// How long it may take.
    pub limit: Duration,
    /// Its body.
    pub run: fn(Sandbox) -> BoxFuture<'static, Result<()>>,
}

impl Scenario {
    /// A scenario of the product that gets along with others.
    pub const fn new(
        name: &'static str,
        about: &'static str,
        run: fn(Sandbox) -> BoxFuture<'static, Result<()>>,
    ) -> Self {
        Self {
            name,
            about,
            exclusive: false,
            product: true,
            stand_in: false,
            limit: DEFAULT_LIMIT,
            run,
        }
    }

    /// It runs alone on its cluster.
    #[must_use]
    pub const fn exclusive(mut self) -> Self {
        self.exclusive = true;
        self
    }

    /// It is a check of the harness and needs no image of the product.
    #[must_use]
    pub const fn harness_only(mut self) -> Self {
        self.product = false;
        self
    }

    /// It cannot run on the real Bytebase.
    #[must_use]
    pub const fn stand_in_only(mut self) -> Self {
        self.stand_in = true;
        self
    }

    /// It may take this long.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}
