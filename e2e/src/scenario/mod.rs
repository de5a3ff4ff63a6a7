//! What a scenario is.

pub mod collect;
pub mod followers;
pub mod leaks;
pub mod license;
pub mod runner;
pub mod sandbox;

use crate::scenario::sandbox::Sandbox;
use crate::session::state::Purpose;
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

/// The cluster that a scenario runs on. Each has a PostgreSQL of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Several scenarios at a time run there.
    Shared,
    /// Its control plane and its kubelet are stopped and frozen, by one scenario at a time.
    ControlPlane,
    /// Whatever else all scenarios of a cluster share is changed or stopped there (definitions,
    /// releases that serve all namespaces, PostgreSQL, the node), by one scenario at a time.
    Alone,
}

impl Lane {
    /// All of them. Their clusters are made one after the other, and the scenarios of the first
    /// take longest.
    pub const ALL: [Self; 3] = [Self::Shared, Self::ControlPlane, Self::Alone];

    /// What its cluster is for.
    pub fn purpose(self) -> Purpose {
        match self {
            Self::Shared => Purpose::Test,
            Self::ControlPlane => Purpose::ControlPlane,
            Self::Alone => Purpose::Alone,
        }
    }

    /// How many scenarios run at a time, with so many where they get along.
    pub fn jobs(self, shared: usize) -> usize {
        match self {
            Self::Shared => shared,
            Self::ControlPlane | Self::Alone => 1,
        }
    }
}

/// One thing that must be true of the operator on a real cluster.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// In kebab-case; the word to run it alone by.
    pub name: &'static str,
    /// What is proven, as a sentence.
    pub about: &'static str,
    /// Where it runs: on another cluster than most if it disturbs what scenarios of a cluster
    /// share.
    pub lane: Lane,
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
            lane: Lane::Shared,
            product: true,
            stand_in: None,
            seconds: USUAL_SECONDS,
            limit: DEFAULT_LIMIT,
            run,
        }
    }

    /// It runs on the cluster of this lane.
    #[must_use]
    pub const fn lane(mut self, lane: Lane) -> Self {
        self.lane = lane;
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
