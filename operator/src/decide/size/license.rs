//! The license gate's first half: what the license says about running more than one replica.

use crate::api::Reason;
use crate::api::status::{LicenseSource, LicenseStatus, SignatureState};
use crate::contract::license::{License, LicenseError, LicenseKey, LicenseValidity};
use crate::observation::{
    DatabaseFacts, DatabaseView, Fact, Observation, Remembered, StoredLicense,
};
use crate::validate::{SecretLicense, ValidCluster, read_license, reminders};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use secrecy::ExposeSecret as _;

/// What the license says.
#[derive(Clone, Debug)]
pub struct LicenseVerdict {
    /// Whether it allows several replicas.
    pub allows: Licensed,
    /// Reason of the `HALicensed` condition.
    pub reason: Reason,
    /// Message of it.
    pub message: String,
    /// For status.
    pub status: Option<LicenseStatus>,
    /// The Secret's license is valid here, and better than what is stored.
    pub installable: bool,
    /// When the verdict changes by itself.
    pub changes_at: Option<Timestamp>,
}

impl LicenseVerdict {
    /// Whether Bytebase allows one replica only at this moment already, as opposed to soon.
    pub fn has_ended(&self) -> bool {
        self.allows == Licensed::No && self.reason != Reason::LicenseExpiring
    }
}

const CANNOT_LOG_IN: &str = "the operator cannot log in to the metadata database: set database.monitorSecretRef, or name a license in spec.license and give the operator the verification key, or set license.enforcement to Warn if you know that the license includes HA";

const NOT_READ_AGAIN: &str = "the operator cannot log in to the metadata database any more: set database.monitorSecretRef so that it can read which license is stored now, or set license.enforcement to Warn if you know that it includes HA";

/// Whether several replicas may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Licensed {
    /// Yes.
    Yes,
    /// No.
    No,
    /// It cannot be known: keep what runs.
    Unknown,
}

impl Licensed {
    /// The status of `HALicensed` by it.
    pub fn status(self) -> Option<bool> {
        match self {
            Self::Yes => Some(true),
            Self::No => Some(false),
            Self::Unknown => None,
        }
    }
}

struct Answer(Licensed, Reason, String);

/// Where and when a stored license is judged.
struct Circumstances<'a> {
    workspace_id: &'a str,
    now: Timestamp,
    guard: SignedDuration,
}

/// What the spec says of the license, as far as the verdict depends on it.
#[derive(Clone, Copy, Default)]
pub struct Terms<'a> {
    /// The license in the Secret, if it can be used.
    pub secret: Option<&'a SecretLicense>,
    /// The spec names a Secret, usable or not; `None` where the spec cannot be used.
    pub names_secret: Option<bool>,
    /// The operator has a login with which it can install a license.
    pub can_install: bool,
    /// The operator signs up as the first admin.
    pub signs_up: bool,
}

impl<'a> Terms<'a> {
    /// Of a cluster whose spec can be used. One whose spec cannot is judged by
    /// [`Terms::default`]: what is stored counts all the same.
    pub fn of(cluster: &'a ValidCluster) -> Self {
        let admin = cluster.admin.as_ref();
        let can_install = admin.is_some_and(|admin| admin.login.is_some());
        Self {
            secret: cluster.license.secret.as_ref(),
            names_secret: Some(cluster.license.is_named),
            can_install,
            signs_up: can_install && admin.is_some_and(|admin| admin.create_first),
        }
    }
}

/// Judges the license that Bytebase obeys. `guard`: how long before its end a license stops
/// counting, since replicas go on for a minute with what they cached and queued work is failed ten
/// minutes later.
pub fn judge(
    terms: Terms<'_>,
    observation: &Observation,
    guard: SignedDuration,
    key: Option<&LicenseKey>,
) -> LicenseVerdict {
    let now = observation.now;
    let read = |facts: &DatabaseFacts| {
        let verdict = read(terms, &facts.license, now, guard, key)?;
        Some(until_understood(verdict, &observation.remembered))
    };
    let unread_for = |why: &str| {
        let last = observation.last_facts.as_ref();
        let last = last.and_then(|(_, facts)| read(facts));
        unread(last, terms, observation, why, guard)
    };
    let unread = |why: &str| unread_for(&format!("the stored license cannot be read: {why}"));
    match &observation.database {
        // An earlier login read that nothing stored allowed several replicas. What lies in a Secret
        // does not show that it was installed since.
        DatabaseView::CannotRead if observation.remembered.unlicensed.is_some() => {
            unread_for(NOT_READ_AGAIN)
        }
        DatabaseView::CannotRead => stand_in(terms.secret, now, guard).unwrap_or_else(|| {
            // What an earlier login read counts on.
            unread_for(CANNOT_LOG_IN)
        }),
        // A moment after the start of the operator: nothing is done before the first reading.
        DatabaseView::NotProbed => LicenseVerdict {
            status: observation.remembered.license.clone(),
            ..unknown("the metadata database has not been read yet")
        },
        DatabaseView::Probed(Err(failure)) => unread(&failure.message),
        DatabaseView::Probed(Ok(facts)) => read(facts).unwrap_or_else(|| {
            if facts.in_recovery {
                return unread("a standby answers, which may lack what was stored last");
            }
            if facts.not_understood.is_empty() {
                // By [`Observation::of_another_database`]. Lost tables are named as not understood.
                return unread(
                    "the replicas may run on another database than the one that was read",
                );
            }
            let tables = facts.not_understood.join(", ");
            unread(&format!("this operator does not understand {tables}"))
        }),
    }
}

/// Judges what a reading found; `None` where it found nothing out.
fn read(
    terms: Terms<'_>,
    license: &Fact<StoredLicense>,
    now: Timestamp,
    guard: SignedDuration,
    key: Option<&LicenseKey>,
) -> Option<LicenseVerdict> {
    let verdict = match license {
        Fact::Unknown => return None,
        // Before the first migration there is no workspace either.
        Fact::Absent | Fact::Known(StoredLicense::NoWorkspace) => {
            let how = if terms.signs_up {
                "the operator makes the first admin as soon as a replica is Ready"
            } else {
                "open the URL and sign up: the first account becomes the workspace admin"
            };
            absent(
                Reason::AwaitingFirstSignUp,
                &format!(
                    "no one has signed up yet, so no license can be stored in Bytebase; {how}"
                ),
                None,
            )
        }
        Fact::Known(StoredLicense::Absent { workspace_id }) => match terms.secret {
            Some(secret) => not_installed(secret, workspace_id, now, terms.can_install),
            None => absent(Reason::LicenseMissing, missing(terms), None),
        },
        Fact::Known(StoredLicense::Present {
            workspace_id,
            token,
        }) => {
            let circumstances = Circumstances {
                workspace_id,
                now,
                guard,
            };
            stored(token.expose_secret(), terms.secret, &circumstances, key)
        }
    };
    Some(verdict)
}

/// A verdict on what was read is unknown only where the stored license is not understood. That
/// several replicas were not allowed before stands until it is.
fn until_understood(verdict: LicenseVerdict, before: &Remembered) -> LicenseVerdict {
    if verdict.allows != Licensed::Unknown {
        return verdict;
    }
    let said = &verdict.message;
    if before.unlicensed.is_none() {
        let message = format!("{said}; until then the cluster keeps its size and does not grow");
        return LicenseVerdict { message, ..verdict };
    }
    let (reason, why) = match before.unlicensed_since {
        Some(_) => (
            Reason::LicenseInvalid,
            "nothing that was stored before allowed more",
        ),
        // The gate had closed ahead of an end, and what has to go has the time that it was given.
        None => (
            Reason::LicenseExpiring,
            "the license before was about to end",
        ),
    };
    let message = format!("{said}; until then no more than one replica runs, since {why}");
    LicenseVerdict {
        allows: Licensed::No,
        reason,
        message,
        ..verdict
    }
}

/// The verdict while the stored license cannot be read, by what was known last: from a reading of
/// this process (`last`), or else from the status. That several replicas were not allowed stands
/// until a reading says otherwise; that they were allowed counts until the end of the license.
fn unread(
    last: Option<LicenseVerdict>,
    terms: Terms<'_>,
    observation: &Observation,
    why: &str,
    guard: SignedDuration,
) -> LicenseVerdict {
    let (license, refused, changes_at) = if let Some(last) = last {
        let refused = (last.allows == Licensed::No).then_some(last.reason);
        let license = last.status;
        let stored = license.filter(|license| license.source == LicenseSource::Database);
        (stored, refused, last.changes_at)
    } else {
        let before = &observation.remembered;
        let stood_in = before.stand_in.as_ref();
        // A Secret that the spec names no more stands in for nothing, and none does for what was
        // read: that nothing stored allowed several replicas.
        let stood_in = stood_in.filter(|_| {
            terms.names_secret != Some(false)
                && before.unlicensed.is_none()
                && matches!(observation.database, DatabaseView::CannotRead)
        });
        let license = before.license.as_ref().or(stood_in).cloned();
        (license, before.unlicensed, None)
    };
    let verdict = match license {
        Some(license) => last_read(&license, why, observation.now, guard),
        None => unknown(why),
    };
    let changes_at = verdict.changes_at.into_iter().chain(changes_at).min();
    match refused {
        Some(reason) if verdict.allows != Licensed::No => LicenseVerdict {
            allows: Licensed::No,
            reason,
            message: format!(
                "when it could last be read, no stored license allowed several replicas; {why}"
            ),
            changes_at,
            ..verdict
        },
        _ => LicenseVerdict {
            changes_at,
            ..verdict
        },
    }
}

/// The license that was stored when the database could last be read, or stood in for it. Its end is
/// known, so it is kept; that it counts until then is not: a user may have taken it away.
fn last_read(
    license: &LicenseStatus,
    why: &str,
    now: Timestamp,
    guard: SignedDuration,
) -> LicenseVerdict {
    let end = license
        .expiration_time
        .as_ref()
        .filter(|_| license.ha)
        .map(|end| end.0);
    let closes = end.and_then(|end| end.checked_sub(guard).ok());
    let place = match license.source {
        LicenseSource::Database => "database",
        LicenseSource::Secret => "Secret",
    };
    let verdict = match (end, closes) {
        (Some(end), _) if now >= end => absent(
            Reason::LicenseExpired,
            &format!("the license that was last seen in the {place} ended at {end}; {why}"),
            None,
        ),
        (Some(end), Some(closes)) if now >= closes => absent(
            Reason::LicenseExpiring,
            &format!(
                "the license that was last seen in the {place} ends within {} (until {end}), and queued work fails ten minutes after; {why}",
                in_words(guard)
            ),
            None,
        ),
        _ => unknown(why),
    };
    LicenseVerdict {
        status: Some(license.clone()),
        changes_at: closes.into_iter().chain(end).filter(|at| *at > now).min(),
        ..verdict
    }
}

/// Nothing is stored and nothing usable is in a Secret.
fn missing(terms: Terms<'_>) -> &'static str {
    if terms.names_secret == Some(true) {
        "no license is stored, and the one in spec.license.secretRef cannot be used: ConfigurationValid says why"
    } else {
        "no license is stored: install one that includes HA in Bytebase, or name it in spec.license"
    }
}

/// Only where the operator can never read the database: a license in a Secret whose signature
/// verifies.
fn stand_in(
    secret: Option<&SecretLicense>,
    now: Timestamp,
    guard: SignedDuration,
) -> Option<LicenseVerdict> {
    let secret = secret.filter(|secret| secret.signature == SignatureState::Verified)?;
    let Answer(allows, reason, message) = claims(&secret.license, now, guard, None);
    let reason = if allows == Licensed::Yes {
        Reason::SecretLicenseAllowsHa
    } else {
        reason
    };
    Some(LicenseVerdict {
        allows,
        reason,
        message: format!(
            "by the license in the Secret, which stands in for the stored one: {message}"
        ),
        status: Some(status(
            &secret.license,
            LicenseSource::Secret,
            secret.signature,
        )),
        installable: false,
        changes_at: next_change(&secret.license, now, guard),
    })
}

fn stored(
    token: &str,
    secret: Option<&SecretLicense>,
    circumstances: &Circumstances<'_>,
    key: Option<&LicenseKey>,
) -> LicenseVerdict {
    let Circumstances {
        workspace_id,
        now,
        guard,
    } = *circumstances;
    let (license, signature, error) = match read_license(token, key) {
        Ok(read) => (read.license, read.signature, None),
        Err(error) => match claims_beside(error, token) {
            Some(license) => (license, SignatureState::Unverified, Some(error)),
            None => return not_understood(error),
        },
    };
    let Answer(allows, reason, message) = claims(&license, now, guard, Some(workspace_id));
    let verdict = match error {
        Some(error) if allows == Licensed::Yes => not_understood(error),
        // Whichever key is right: to Bytebase it is what it says, or no license.
        Some(error) => absent(reason, &format!("{message} ({error})"), None),
        None => {
            let unverified = if signature == SignatureState::Unverified {
                " (signature not verified: the operator has no key)"
            } else {
                ""
            };
            LicenseVerdict {
                allows,
                ..absent(reason, &format!("{message}{unverified}"), None)
            }
        }
    };
    let secret = secret.filter(|secret| secret.token.expose_secret() != token);
    // One that is not understood may be the newer one.
    let installable = verdict.allows != Licensed::Unknown
        && secret.is_some_and(|secret| {
            secret.license.validity(now, Some(workspace_id)) == LicenseValidity::Valid
                && is_better(&secret.license, &license, circumstances)
        });
    // One in the Secret that is not valid yet becomes installable by itself.
    let starts_at = secret
        .and_then(|secret| secret.license.not_before)
        .filter(|start| *start > now);
    LicenseVerdict {
        status: Some(status(&license, LicenseSource::Database, signature)),
        installable,
        changes_at: next_change(&license, now, guard)
            .into_iter()
            .chain(starts_at)
            .min(),
        ..verdict
    }
}

/// What a license says whose signature does not fit the operator's key, and is else understood.
fn claims_beside(error: LicenseError, token: &str) -> Option<License> {
    let is_readable = error == LicenseError::Signature;
    is_readable.then(|| License::decode(token).ok()).flatten()
}

/// A stored license that this operator cannot read. Bytebase has verified it before it stored it,
/// so it may well allow several replicas: one of a newer Bytebase, of another key, or read with the
/// wrong one.
fn not_understood(error: LicenseError) -> LicenseVerdict {
    LicenseVerdict {
        reason: Reason::LicenseInvalid,
        ..unknown(&format!(
            "the stored license is not understood ({error}): upgrade the operator, check its verification key (license.publicKey of the chart), or install the license in Bytebase again"
        ))
    }
}

/// A license in the Secret replaces one that Bytebase does not accept, or one without HA, or one
/// that ends sooner: a user may have installed a newer one by hand.
fn is_better(secret: &License, stored: &License, circumstances: &Circumstances<'_>) -> bool {
    let rank = |license: &License| {
        (
            license.validity(circumstances.now, Some(circumstances.workspace_id))
                == LicenseValidity::Valid,
            license.ha,
            license.expires_at.unwrap_or(Timestamp::MAX),
        )
    };
    rank(secret) > rank(stored)
}

fn not_installed(
    secret: &SecretLicense,
    workspace_id: &str,
    now: Timestamp,
    can_install: bool,
) -> LicenseVerdict {
    let Answer(allows, reason, message) = claims(
        &secret.license,
        now,
        SignedDuration::ZERO,
        Some(workspace_id),
    );
    let how = if can_install {
        "the operator installs it as soon as a replica is Ready"
    } else {
        "install it in Bytebase, or set spec.admin and the operator does"
    };
    let status = Some(status(
        &secret.license,
        LicenseSource::Secret,
        secret.signature,
    ));
    let changes_at = next_change(&secret.license, now, SignedDuration::ZERO);
    match (allows, reason) {
        (Licensed::Yes, _) => {
            let mut verdict = absent(
                Reason::LicenseNotInstalled,
                &format!("the license in the Secret is not stored yet; {how}"),
                status,
            );
            verdict.installable = true;
            verdict.changes_at = changes_at;
            verdict
        }
        // Installing it would change nothing for HA, but plans count too, so it is still offered
        // while it is valid.
        _ => LicenseVerdict {
            installable: reason == Reason::LicenseWithoutHa,
            changes_at,
            ..absent(
                reason,
                &format!("no license is stored, and of the one in the Secret: {message}"),
                status,
            )
        },
    }
}

fn absent(reason: Reason, message: &str, status: Option<LicenseStatus>) -> LicenseVerdict {
    LicenseVerdict {
        allows: Licensed::No,
        reason,
        message: message.to_owned(),
        status,
        installable: false,
        changes_at: None,
    }
}

fn unknown(message: &str) -> LicenseVerdict {
    LicenseVerdict {
        allows: Licensed::Unknown,
        reason: Reason::LicenseUnknown,
        message: message.to_owned(),
        status: None,
        installable: false,
        changes_at: None,
    }
}

fn claims(
    license: &License,
    now: Timestamp,
    guard: SignedDuration,
    workspace_id: Option<&str>,
) -> Answer {
    let until = license
        .expires_at
        .map_or_else(|| "perpetual".to_owned(), |end| format!("until {end}"));
    let at = |moment: Option<Timestamp>| moment.map_or_else(String::new, |at| format!(" {at}"));
    match license.validity(now, workspace_id) {
        LicenseValidity::Expired => Answer(Licensed::No, Reason::LicenseExpired, format!("the license ended at{}: install a new one", at(license.expires_at))),
        LicenseValidity::NotYetValid => Answer(Licensed::No, Reason::LicenseNotYetValid, format!("the license is not valid before{}", at(license.not_before))),
        LicenseValidity::OtherWorkspace => Answer(Licensed::No, Reason::LicenseOtherWorkspace, "the license is for another workspace: ask for one for this workspace's id (status.license.workspaceID names the one it is for)".to_owned()),
        LicenseValidity::Valid if !license.ha => Answer(Licensed::No, Reason::LicenseWithoutHa, format!("the {} license does not include HA", license.plan)),
        LicenseValidity::Valid if license.expires_at.is_some_and(|end| now.saturating_add(guard).is_ok_and(|soon| soon >= end)) => {
            Answer(Licensed::No, Reason::LicenseExpiring, format!("the license ends within {} ({until}), and queued work fails ten minutes after: install a new one", in_words(guard)))
        }
        LicenseValidity::Valid => match license.expires_at.and_then(|end| reminders::passed(end, now)) {
            None => Answer(Licensed::Yes, Reason::LicenseAllowsHa, format!("the {} license includes HA, {until}", license.plan)),
            Some(days) => {
                let closes = license.expires_at.and_then(|end| end.checked_sub(guard).ok());
                let then = closes.map_or_else(
                    || "then".to_owned(),
                    |closes| format!("from {closes} on, so that each has time for its running tasks,"),
                );
                Answer(Licensed::Yes, Reason::LicenseEndsSoon, format!("the {} license includes HA, but ends within {days} ({until}), and {then} no more than one replica runs: install a new one", license.plan))
            }
        },
    }
}

/// A duration in the largest unit of which it holds two, rounded up: it is said of what comes
/// within it.
pub fn in_words(duration: SignedDuration) -> String {
    let seconds = duration.as_secs();
    let units = [("days", 86_400), ("hours", 3600), ("minutes", 60)];
    let fits = |(_, length): &(&str, i64)| seconds >= 2 * length;
    let (unit, length) = units.into_iter().find(fits).unwrap_or(("seconds", 1));
    format!("{} {unit}", (seconds + length - 1) / length)
}

/// When guard, end, beginning or a reminder is next reached.
fn next_change(license: &License, now: Timestamp, guard: SignedDuration) -> Option<Timestamp> {
    let ends = license.expires_at.into_iter().flat_map(|end| {
        let before = move |duration: SignedDuration| end.checked_sub(duration).ok();
        reminders::moments(end).chain(before(guard)).chain([end])
    });
    ends.chain(license.not_before)
        .filter(|moment| *moment > now)
        .min()
}

fn status(license: &License, source: LicenseSource, signature: SignatureState) -> LicenseStatus {
    LicenseStatus {
        plan: Some(license.plan.to_string()),
        ha: license.ha,
        expiration_time: license.expires_at.map(Time),
        organization: (!license.organization.is_empty()).then(|| license.organization.clone()),
        workspace_id: license.workspace_id.clone(),
        source,
        signature,
    }
}
