//! The target: how many replicas run.

use crate::api::Reason;
use crate::api::spec::Enforcement;
use crate::contract::version::Version;
use crate::decide::database::{self, DatabaseVerdict};
use crate::decide::size::license::{self, LicenseVerdict};
use crate::decide::size::scale::Haste;
use crate::observation::DatabaseView;

/// How many replicas run, and why not as many as wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How many run in the end; a shrinking StatefulSet gets there one replica at a time.
    pub replicas: i32,
    /// Set when it is fewer than wanted: reason of `Ready` and what holds back.
    pub held_back: Option<(Reason, String)>,
}

/// How a StatefulSet that is larger than it may be shrinks. The license gate decides it, whatever
/// else holds the number of replicas back.
pub fn haste(wanted: i32, enforcement: Enforcement, license: &LicenseVerdict) -> Haste {
    let is_closed = enforcement == Enforcement::Enforce && license.allows == license::Licensed::No;
    match (is_closed && wanted > 0, license.has_ended()) {
        (false, _) => Haste::Orderly,
        (true, false) => Haste::Gate,
        (true, true) => Haste::Ended,
    }
}

/// What the number of replicas rests on.
pub struct Grounds<'a> {
    /// Wanted.
    pub wanted: i32,
    /// Whether the license gate acts.
    pub enforcement: Enforcement,
    /// Version that the template which will stand names; `None` where it names none, as `latest`
    /// does.
    pub image: Option<Version>,
    /// Version of the metadata schema, as last read.
    pub schema: Option<Version>,
    /// Why no replica may start on that template, where it is older than the schema.
    pub outgrown: Option<&'a str>,
    /// Replicas that run: the size of the StatefulSet, or the pods that have lost theirs.
    pub running: i32,
    /// Verdict on the database.
    pub database: &'a DatabaseVerdict,
    /// Verdict on the license.
    pub license: &'a LicenseVerdict,
    /// Verdict on the license of the database to which all replicas are still to move.
    pub ahead: Option<&'a LicenseVerdict>,
    /// What is known of the database.
    pub view: &'a DatabaseView,
    /// Active replicas that do not belong to the cluster.
    pub foreign: usize,
    /// There are some, or were when that could last be known.
    pub is_beside_foreign: bool,
}

/// Decides the number of replicas. The license gate comes before everything else: it acts on the
/// last license known, whatever else is wrong.
pub fn target(grounds: &Grounds<'_>) -> Target {
    let Grounds {
        wanted,
        database,
        license,
        ..
    } = *grounds;
    let running = grounds.running;
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
    let gate = gate(grounds);
    // Failures of a running cluster are reported and never tear down what serves; nor does anything
    // start on them. Where nothing has ever served, what was started blindly is taken back.
    match (database.allows, grounds.outgrown, &gate) {
        // The operator has just started: what there is to know is known in a moment.
        (database::Allows::Wait, ..) => {
            return held(running, Reason::DatabaseNotProbed, &database.message);
        }
        (database::Allows::Nothing, _, Some((reason, message)))
        | (_, Some(_), Some((reason, message)))
            // A schema to which they do not move says nothing of those that run.
            if running > 1 && (grounds.ahead.is_none() || *reason == Reason::HeldBackByLicense) =>
        {
            return held(1, *reason, message);
        }
        (database::Allows::Nothing, ..) => {
            let kept = if database.takes_back { 0 } else { running };
            return held(kept, Reason::HeldBackByDatabase, &database.message);
        }
        (_, Some(message), _) => return held(running, Reason::HeldBackByVersion, message),
        (database::Allows::One | database::Allows::All, None, _) => {}
    }
    if wanted == 1 {
        return Target {
            replicas: 1,
            held_back: None,
        };
    }
    if let Some((reason, message)) = &gate {
        return held(1, *reason, message);
    }
    if grounds.is_beside_foreign && running < wanted {
        let message = if grounds.foreign > 0 {
            "replicas that do not belong to this cluster are active on its database: ReplicasHealthy says how many"
        } else {
            "replicas that do not belong to this cluster were active on its database, and no reading of its heartbeats shows yet that they have ended"
        };
        return held(running.max(1), Reason::HeldBackByDatabase, message);
    }
    let is_licensed = license.allows == license::Licensed::Yes;
    let is_warned = grounds.enforcement == Enforcement::Warn;
    if is_warned || (is_licensed && database.allows == database::Allows::All) {
        if grounds.image.is_none() && grounds.schema.is_none() {
            let message = unknown_version();
            return held(running.max(1), Reason::HeldBackByVersion, &message);
        }
        return Target {
            replicas: wanted,
            held_back: None,
        };
    }
    // Unknown never scales up, and never down: what runs goes on, and one replica is always safe.
    let is_of_license = matches!(grounds.view, DatabaseView::CannotRead)
        || license.reason == Reason::LicenseInvalid;
    let (reason, message) = if is_of_license {
        (Reason::HeldBackByLicense, &license.message)
    } else if is_licensed {
        (Reason::HeldBackByDatabase, &database.message)
    } else {
        (Reason::HeldBackByDatabase, &license.message)
    };
    held(running.max(1), reason, message)
}

fn unknown_version() -> String {
    format!(
        "spec.version names no version, and the metadata schema has not said yet which one runs: it must be {} or later for more than one replica. Wait for the schema to be read, or name a release",
        Version::HA_FLOOR
    )
}

/// Why no more than one replica may run, if that is known.
fn gate(grounds: &Grounds<'_>) -> Option<(Reason, String)> {
    if let Some(version) = grounds.image.filter(|version| !version.supports_ha()) {
        return Some((
            Reason::HeldBackByVersion,
            format!(
                "the current pod template names Bytebase {version}, which is older than {}, the first that supports HA: more replicas start on the new template, which waits: see RolloutComplete",
                Version::HA_FLOOR
            ),
        ));
    }
    // Whatever the image names: the schema says which Bytebase has run, and one that is newer
    // changes it alone before others join.
    if let Some(schema) = grounds.schema.filter(|schema| !schema.supports_ha()) {
        let Version { major, minor, .. } = schema;
        return Some((
            Reason::HeldBackByVersion,
            format!(
                "the metadata schema is at {major}.{minor}, from before HA ({}): one replica of a newer version migrates it, then the others start",
                Version::HA_FLOOR
            ),
        ));
    }
    // Where they may move, no more of them arrive than are allowed there.
    let ahead = grounds
        .ahead
        .filter(|_| grounds.database.allows == database::Allows::All);
    let mut licenses = [Some(grounds.license), ahead].into_iter().flatten();
    let is_closed = |license: &&LicenseVerdict| {
        grounds.enforcement == Enforcement::Enforce && license.allows == license::Licensed::No
    };
    let closed = licenses.find(is_closed);
    closed.map(|license| (Reason::HeldBackByLicense, license.message.clone()))
}
