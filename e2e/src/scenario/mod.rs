//! What a scenario is.

pub mod collect;
pub mod followers;
pub mod leaks;
pub mod license;
pub mod runner;
pub mod sandbox;

use crate::scenario::sandbox::Sandbox;
use anyhow::Result;
use futures::future::BoxFuture;
use std::time::Duration;

/// Long enough for several rollouts of three replicas; a scenario that waits for nothing takes
/// seconds.
pub const DEFAULT_LIMIT: Duration = Duration::from_mins(10);

/// What most scenarios take, beside others.
const USUAL_SECONDS: u32 = 40;

/// Why a scenario runs on the stand-in only.
pub mod stand_in {
    /// It installs a license, and so needs one for each run.
    pub const LICENSE: &str = "only Bytebase can sign a license that the real one takes";
    /// It upgrades.
    pub const VERSIONS: &str = "it needs a license and two versions";
    /// It upgrades to a version that must not start.
    pub const FAILING: &str = "only the stand-in has a version that fails when it is asked to";
    /// It needs more log than the real one writes.
    pub const LOG: &str = "only the stand-in writes as much log as it is asked to";
    /// It needs many at once.
    pub const MANY: &str = "a dozen real ones do not fit on a machine for tests";
    /// It compares how long starts take.
    pub const TIMES: &str = "the real one starts too unevenly to compare times";
    /// It would show the same.
    pub const INDEPENDENT: &str = "what it shows does not depend on Bytebase";
}

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
    /// Why it runs on the stand-in only, as the end of a sentence; `None` for both.
    pub stand_in: Option<&'static str>,
    /// Roughly how long it takes beside others, in seconds, as the table at the end of a run says.
    /// Who takes longer begins earlier.
    pub seconds: u32,
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
            stand_in: None,
            seconds: USUAL_SECONDS,
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

    /// It does not run on the real Bytebase, and this is why.
    #[must_use]
    pub const fn stand_in_only(mut self, why: &'static str) -> Self {
        self.stand_in = Some(why);
        self
    }

    /// It takes about this many seconds, which is more than usual.
    #[must_use]
    pub const fn takes(mut self, seconds: u32) -> Self {
        self.seconds = seconds;
        self
    }

    /// It may take this long.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }
}
