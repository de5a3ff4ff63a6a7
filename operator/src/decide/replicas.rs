//! The replica gate: how many replicas run.

use super::database::{self, DatabaseVerdict};
use super::license::{self, LicenseVerdict};
use super::observation::{DatabaseView, StatefulSetView};
use crate::api::Reason;
use crate::api::spec::Enforcement;
use crate::contract::version::Version;
use crate::validate::ValidCluster;

/// How many replicas run, and why not as many as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where the gate leads; a shrinking StatefulSet gets there one replica at a time.
    pub replicas: i32,
    /// Set when it is fewer than wanted: reason of `Ready` and what holds back.
    pub held_back: Option<(Reason, String)>,
}

/// Decides the number of replicas. `version`: of the template that will stand. `current`: the
/// StatefulSet as it stands, `None` before there is one.
pub fn target(
    cluster: &ValidCluster,
    version: Option<Version>,
    current: Option<&StatefulSetView>,
    database: &DatabaseVerdict,
    license: &LicenseVerdict,
    view: &DatabaseView,
) -> Target {
    let wanted = cluster.replicas;
    let running = current.map_or(0, |set| set.replicas);
    let held = |replicas: i32, reason, message: &str| Target {
        replicas: replicas.clamp(0, wanted),
        held_back: (replicas < wanted).then(|| (reason, message.to_owned())),
    };
    if wanted == 0 {
        return Target {
            replicas: 0,
            held_back: None,
        };
    }
    // Failures of a running cluster are reported and never tear down what serves; nor does anything
    // start on them.
    if database.allows <= database::Allows::Wait {
        let known = database.allows != database::Allows::Wait;
        let reason = if known {
            Reason::HeldBackByDatabase
        } else {
            Reason::DatabaseNotProbed
        };
        return held(running, reason, &database.message);
    }
    if wanted == 1 {
        return Target {
            replicas: 1,
            held_back: None,
        };
    }
    if let Some(version) = version.filter(|version| !version.supports_ha()) {
        return held(
            1,
            Reason::HeldBackByVersion,
            &format!(
                "Bytebase {version} is older than {}, the first that supports HA: raise spec.version",
                Version::HA_FLOOR
            ),
        );
    }
    if cluster.license.enforcement == Enforcement::Warn {
        return Target {
            replicas: wanted,
            held_back: None,
        };
    }
    match license.allows {
        license::Allows::Yes if database.allows == database::Allows::All => Target {
            replicas: wanted,
            held_back: None,
        },
        license::Allows::No => held(1, Reason::HeldBackByLicense, &license.message),
        // Unknown never scales up, and never down: what runs goes on, and one replica is always
        // safe.
        license::Allows::Yes | license::Allows::Unknown => {
            let reason = if matches!(view, DatabaseView::CannotRead) {
                Reason::HeldBackByLicense
            } else {
                Reason::HeldBackByDatabase
            };
            held(running.max(1), reason, &license.message)
        }
    }
}
