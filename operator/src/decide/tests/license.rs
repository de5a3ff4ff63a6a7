//! What the license says, when that changes by itself, and what is installed.

use super::{condition, plan, state};
use crate::api::status::{LicenseSource, RefusedCall, SignatureState};
use crate::api::{ConditionType, Reason};
use crate::decide::plan::{BytebaseRequest, Plan, Wanted};
use crate::decide::{Settings, decide};
use crate::observation::{CallFailure, DatabaseView, Observation, StoredLicense};
use crate::testing::{
    after, called, cluster, days, facts, forged, healthy, no_license, now, observation, references,
    secret, stored, token,
};
use crate::validate::validate;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

const LICENSED: ConditionType = ConditionType::HaLicensed;

/// The operator's ten minutes, and two steps down with half a minute of grace and a quarter more.
const GUARD: i64 = 600 + 3 * 45;

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

fn ends(after_now: SignedDuration) -> Value {
    json!({"exp": after(after_now).as_second()})
}

fn spec(with_admin: bool) -> Value {
    let mut spec = json!({"license": {"secretRef": {"name": "license", "key": "token"}}});
    if with_admin {
        spec["admin"] = json!({"credentialsSecretRef": {"name": "admin"}});
    }
    spec
}

/// Decides with a license in the Secret.
pub fn with_secret(spec: &Value, text: &str, seen: &Observation, settings: &Settings) -> Plan {
    let mut references = references();
    secret(&mut references, "license", "token", text);
    let validation = validate(
        &cluster(spec),
        &references,
        settings.license_key.as_ref(),
        now(),
    );
    decide(&validation, seen, settings)
}

fn request(plan: &Plan) -> Option<&BytebaseRequest> {
    called(plan).map(|call| &call.request)
}

fn installs(plan: &Plan) -> Option<String> {
    match request(plan) {
        Some(BytebaseRequest::InstallLicense { token, .. }) => {
            Some(token.expose_secret().to_owned())
        }
        _ => None,
    }
}

#[test]
fn a_duration_is_written_in_a_unit_of_which_there_are_two() {
    for (seconds, words) in [
        (0, "0 seconds"),
        (119, "119 seconds"),
        (120, "2 minutes"),
        (690, "12 minutes"),
        (7980, "3 hours"),
        (172_800, "2 days"),
    ] {
        assert_eq!(crate::decide::size::license::in_words(secs(seconds)), words);
    }
}

#[test]
fn drains_that_close_the_gate_long_before_the_end_are_warned_of() {
    let warned = |replicas: i32, grace: i64, changes: &Value| {
        let mut seen = healthy(3, stored(changes));
        seen.stateful_set.as_mut().unwrap().template =
            json!({"spec": {"terminationGracePeriodSeconds": grace}});
        let plan = plan(&json!({"replicas": replicas}), &seen);
        let validity = condition(&plan.report, ConditionType::ConfigurationValid);
        validity
            .message
            .contains("drainTimeoutSeconds")
            .then(|| validity.message.clone())
    };
    let ends = ends(days(300));
    assert_eq!(warned(3, 3665, &ends), None, "two hours");
    let message = warned(3, 43_265, &ends).unwrap();
    assert!(message.contains("one replica 37 hours before"), "{message}");
    assert_eq!(warned(3, 43_265, &json!({"exp": null})), None, "perpetual");
    assert_eq!(warned(1, 43_265, &ends), None);
}

#[test]
fn guard_and_end_count_from_their_exact_moment() {
    let guard = GUARD;
    for (left, expected, next) in [
        (guard + 1, (Some(true), Reason::LicenseEndsSoon), Some(1)),
        (guard, (Some(false), Reason::LicenseExpiring), Some(guard)),
        (1, (Some(false), Reason::LicenseExpiring), Some(1)),
        (0, (Some(false), Reason::LicenseExpired), None),
        (-1, (Some(false), Reason::LicenseExpired), None),
    ] {
        let plan = plan(&json!({}), &healthy(3, stored(&ends(secs(left)))));
        assert_eq!(state(&plan, LICENSED), expected, "{left} s left");
        assert_eq!(
            plan.requeue_at,
            next.map(|seconds| after(secs(seconds))),
            "{left} s left"
        );
        let target = if expected.0 == Some(true) { 3 } else { 1 };
        assert_eq!(plan.report.target_replicas, Some(target), "{left} s left");
        let licensed = condition(&plan.report, LICENSED);
        let ended = format!("the license ended at {}", after(secs(left)));
        assert_eq!(licensed.message.starts_with(&ended), left <= 0);
    }
}

#[test]
fn a_spec_that_cannot_be_used_leaves_what_runs_the_time_that_it_needs() {
    let invalid = |replicas| json!({"replicas": replicas, "externalURL": "not one"});
    for (wanted, running, left, expected) in [
        (3, 3, GUARD, Some(2)),
        (1, 3, GUARD, Some(2)),
        (0, 3, GUARD, Some(2)),
        (1, 3, GUARD + 1, None),
        // The next step has its own time.
        (1, 2, 600 + 91, None),
        (1, 2, 600 + 90, Some(1)),
    ] {
        let seen = healthy(running, stored(&ends(secs(left))));
        let plan = plan(&invalid(wanted), &seen);
        let size = plan.resize.map(|size| size.replicas);
        assert_eq!(
            size, expected,
            "{wanted} wanted, {running} run, {left} s left"
        );
        if expected.is_none() {
            let closes = if running == 3 { 1 } else { left - 690 };
            assert_eq!(
                plan.requeue_at,
                Some(after(secs(closes))),
                "it closes in time"
            );
        }
    }
}

#[test]
fn reminders_come_at_30_7_and_1_days() {
    for (left, words, next) in [
        (days(31), None, days(1)),
        (days(30) + secs(1), None, secs(1)),
        (days(30), Some("within 30 days"), days(23)),
        (days(7) + secs(1), Some("within 30 days"), secs(1)),
        (days(7), Some("within 7 days"), days(6)),
        (days(1) + secs(1), Some("within 7 days"), secs(1)),
        (days(1), Some("within a day"), days(1) - secs(GUARD)),
        (secs(GUARD + 1), Some("within a day"), secs(1)),
    ] {
        let plan = plan(&json!({}), &healthy(3, stored(&ends(left))));
        let reason = if words.is_some() {
            Reason::LicenseEndsSoon
        } else {
            Reason::LicenseAllowsHa
        };
        assert_eq!(state(&plan, LICENSED), (Some(true), reason), "{left:?}");
        let message = &condition(&plan.report, LICENSED).message;
        assert!(
            message.contains(words.unwrap_or("includes HA, until")),
            "{message}"
        );
        assert_eq!(plan.requeue_at, Some(after(next)), "{left:?}");
        // What a user plans by is when the gate closes, not when the license ends.
        if words.is_some() {
            let closes = after(left - secs(GUARD));
            let from = format!(
                "and from {closes} on, so that each has time for its running tasks, no more than one replica runs"
            );
            assert!(message.contains(&from), "{message}");
        }
    }
}

#[test]
fn each_stored_license_has_its_reason() {
    for (license, reason) in [
        (StoredLicense::NoWorkspace, Reason::AwaitingFirstSignUp),
        (no_license(), Reason::LicenseMissing),
        (stored(&json!({"exp": null})), Reason::LicenseAllowsHa),
        (
            stored(&json!({"plan": "TEAM", "workspaceId": "other"})),
            Reason::LicenseAllowsHa,
        ),
        (
            stored(&json!({"trialing": true, "workspaceId": "other"})),
            Reason::LicenseAllowsHa,
        ),
        (stored(&json!({"workspaceId": ""})), Reason::LicenseAllowsHa),
        (
            stored(&json!({"workspaceId": "other"})),
            Reason::LicenseOtherWorkspace,
        ),
        (stored(&json!({"ha": false})), Reason::LicenseWithoutHa),
        (stored(&json!({"ha": null})), Reason::LicenseWithoutHa),
        (
            stored(&json!({"nbf": after(days(1)).as_second()})),
            Reason::LicenseNotYetValid,
        ),
    ] {
        let plan = plan(&json!({}), &healthy(1, license.clone()));
        let allowed = reason == Reason::LicenseAllowsHa;
        assert_eq!(
            state(&plan, LICENSED),
            (Some(allowed), reason),
            "{license:?}"
        );
        assert_eq!(
            plan.report.target_replicas,
            Some(if allowed { 3 } else { 1 })
        );
    }
}

fn present(token: &str) -> StoredLicense {
    StoredLicense::Present {
        workspace_id: crate::testing::WORKSPACE.to_owned(),
        token: token.into(),
    }
}

/// Bytebase has verified whatever it has stored: one that cannot be read here may be of a newer
/// Bytebase, or of another key.
#[test]
fn a_stored_license_that_is_not_understood_neither_adds_nor_ends_a_replica() {
    let header = json!({"alg": "RS256", "kid": "v2", "typ": "JWT"});
    let claims = testkit::license::claims(&json!({}));
    let of_another_key = testkit::license::token(&header, &claims, &[7; 256]);
    for (token, words) in [
        (forged(&json!({})), "does not fit the verification key"),
        (of_another_key, "does not name the key `v1`"),
        ("a.b.c".to_owned(), "is not base64url"),
        ("x".to_owned(), "three parts"),
    ] {
        for running in [1, 3] {
            let plan = plan(&json!({}), &healthy(running, present(&token)));
            assert_eq!(state(&plan, LICENSED), (None, Reason::LicenseInvalid));
            assert_eq!(plan.report.target_replicas, Some(running), "{words}");
            let message = &condition(&plan.report, LICENSED).message;
            for words in [words, "license.publicKey", "does not grow"] {
                assert!(message.contains(words), "{message}");
            }
            let ready = match running {
                1 => Reason::HeldBackByLicense,
                _ => Reason::AllReplicasActive,
            };
            assert_eq!(state(&plan, ConditionType::Ready), (Some(true), ready));
        }
    }
}

/// Whichever of the two keys is right: Bytebase takes the license for what it says, or for none.
#[test]
fn a_signature_that_does_not_fit_leaves_what_the_license_says_against_several_replicas() {
    for (claims, reason) in [
        (ends(secs(0)), Reason::LicenseExpired),
        (ends(secs(GUARD)), Reason::LicenseExpiring),
        (json!({"ha": false}), Reason::LicenseWithoutHa),
        (
            json!({"workspaceId": "other"}),
            Reason::LicenseOtherWorkspace,
        ),
    ] {
        let plan = plan(&json!({}), &healthy(3, present(&forged(&claims))));
        assert_eq!(state(&plan, LICENSED), (Some(false), reason));
        assert_eq!(plan.report.target_replicas, Some(1), "{reason}");
        let message = &condition(&plan.report, LICENSED).message;
        assert!(message.contains("verification key"), "{message}");
    }
    let license = present(&forged(&ends(secs(GUARD + 60))));
    let plan = plan(&json!({}), &healthy(3, license));
    assert_eq!(state(&plan, LICENSED), (None, Reason::LicenseInvalid));
    assert_eq!(
        plan.requeue_at,
        Some(after(secs(60))),
        "the gate closes in time"
    );
    let status = plan.report.license.unwrap();
    assert_eq!(status.expiration_time, Some(Time(after(secs(GUARD + 60)))));
    assert_eq!(status.signature, SignatureState::Unverified);
}

#[test]
fn a_license_that_begins_is_checked_when_it_does() {
    let seen = healthy(1, stored(&json!({"nbf": after(days(2)).as_second()})));
    let early = plan(&json!({}), &seen);
    assert_eq!(early.requeue_at, Some(after(days(2))));
    let licensed = condition(&early.report, LICENSED);
    let begins = format!("the license is not valid before {}", after(days(2)));
    assert_eq!(licensed.message, begins);
    // The same while it only lies in the Secret.
    let later = token(&json!({"nbf": after(days(2)).as_second()}));
    let plan = with_secret(
        &spec(true),
        &later,
        &healthy(1, no_license()),
        &crate::testing::settings(),
    );
    assert_eq!(
        state(&plan, LICENSED),
        (Some(false), Reason::LicenseNotYetValid)
    );
    assert_eq!(
        (plan.requeue_at, installs(&plan)),
        (Some(after(days(2))), None)
    );
    // And while another one is stored.
    let plan = with_secret(
        &spec(true),
        &later,
        &healthy(1, stored(&ends(days(60)))),
        &crate::testing::settings(),
    );
    assert_eq!(
        (plan.requeue_at, installs(&plan)),
        (Some(after(days(2))), None)
    );
}

#[test]
fn without_a_key_the_claims_count_and_the_doubt_is_reported() {
    let settings = Settings {
        license_key: None,
        ..crate::testing::settings()
    };
    let license = StoredLicense::Present {
        workspace_id: "ws-1".to_owned(),
        token: forged(&json!({})).into(),
    };
    let validation = validate(&cluster(&json!({})), &references(), None, now());
    let plan = decide(&validation, &healthy(3, license), &settings);
    assert_eq!(
        state(&plan, LICENSED),
        (Some(true), Reason::LicenseAllowsHa)
    );
    assert!(
        condition(&plan.report, LICENSED)
            .message
            .contains("not verified")
    );
    let status = plan.report.license.unwrap();
    assert_eq!(
        (status.source, status.signature),
        (LicenseSource::Database, SignatureState::Unverified)
    );
}

/// Name, license in the Secret, license in the database, and whether the former is installed.
fn licenses_side_by_side() -> Vec<(&'static str, String, StoredLicense, bool)> {
    let good = token(&json!({}));
    let in_database = |token: &str| StoredLicense::Present {
        workspace_id: "ws-1".to_owned(),
        token: token.into(),
    };
    vec![
        ("nothing stored", good.clone(), no_license(), true),
        (
            "nothing stored, no HA",
            token(&json!({"ha": false})),
            no_license(),
            true,
        ),
        (
            "nothing stored, expired",
            token(&ends(secs(-1))),
            no_license(),
            false,
        ),
        (
            "nothing stored, other workspace",
            token(&json!({"workspaceId": "other"})),
            no_license(),
            false,
        ),
        ("the same", good.clone(), in_database(&good), false),
        (
            "the same with line breaks",
            format!("{}\n{}\n", &good[..40], &good[40..]),
            in_database(&good),
            false,
        ),
        (
            "lasts longer",
            token(&ends(days(400))),
            in_database(&good),
            true,
        ),
        (
            "never ends",
            token(&json!({"exp": null})),
            in_database(&good),
            true,
        ),
        (
            "ends sooner",
            token(&ends(days(300))),
            in_database(&good),
            false,
        ),
        (
            "brings HA",
            token(&ends(days(10))),
            stored(&json!({"ha": false})),
            true,
        ),
        (
            "loses HA",
            token(&json!({"ha": false, "exp": null})),
            in_database(&good),
            false,
        ),
        (
            "stored one expired",
            token(&ends(days(10))),
            stored(&ends(secs(-1))),
            true,
        ),
        (
            "stored one of another workspace, perpetual",
            good.clone(),
            stored(&json!({"workspaceId": "other", "exp": null})),
            true,
        ),
        (
            "stored one with a wrong signature, perpetual",
            good.clone(),
            in_database(&forged(&json!({"exp": null}))),
            false,
        ),
        (
            "stored one with a wrong signature, and expired",
            good.clone(),
            in_database(&forged(&ends(secs(-1)))),
            true,
        ),
        (
            "stored one not understood, and maybe newer",
            good.clone(),
            in_database("x"),
            false,
        ),
        (
            "wrong signature",
            forged(&json!({"exp": null})),
            no_license(),
            false,
        ),
    ]
}

#[test]
fn the_license_in_the_secret_is_installed_only_when_valid_and_better() {
    for (name, in_secret, license, expected) in licenses_side_by_side() {
        let seen = healthy(1, license);
        let plan = with_secret(&spec(true), &in_secret, &seen, &crate::testing::settings());
        let flat: String = in_secret.split_whitespace().collect();
        assert_eq!(installs(&plan), expected.then_some(flat), "{name}");
        // Without the admin's login, and while no replica is active, nothing is called.
        let settings = crate::testing::settings();
        let without_login = with_secret(&spec(false), &in_secret, &seen, &settings);
        assert!(matches!(without_login.call, Wanted::No));
        let mut starting = seen.clone();
        starting.pods[0].ready = false;
        let not_serving = with_secret(&spec(true), &in_secret, &starting, &settings);
        assert!(called(&not_serving).is_none());
    }
}

#[test]
fn a_license_with_a_wrong_signature_in_the_secret_is_reported_and_blocks_nothing() {
    let plan = with_secret(
        &spec(true),
        &forged(&json!({})),
        &healthy(3, stored(&json!({}))),
        &crate::testing::settings(),
    );
    assert_eq!(
        state(&plan, ConditionType::ConfigurationValid),
        (Some(false), Reason::InvalidSecret)
    );
    assert_eq!(plan.report.target_replicas, Some(3));
    assert_eq!(state(&plan, ConditionType::Stalled).0, Some(false));
}

#[test]
fn a_license_that_is_not_installed_yet_is_reported() {
    let plan = with_secret(
        &spec(false),
        &token(&json!({})),
        &healthy(1, no_license()),
        &crate::testing::settings(),
    );
    assert_eq!(
        state(&plan, LICENSED),
        (Some(false), Reason::LicenseNotInstalled)
    );
    let status = plan.report.license.as_ref().unwrap();
    assert_eq!(
        (status.source, status.signature),
        (LicenseSource::Secret, SignatureState::Verified)
    );
    assert_eq!(plan.report.target_replicas, Some(1));
}

#[test]
fn only_a_verified_secret_stands_in_and_only_where_nothing_can_ever_be_read() {
    let seen = observation(Some(1), DatabaseView::CannotRead);
    let settings = crate::testing::settings();
    let no_key = Settings {
        license_key: None,
        ..settings.clone()
    };
    for (text, settings, expected, target) in [
        (
            token(&json!({})),
            &settings,
            (Some(true), Reason::SecretLicenseAllowsHa),
            3,
        ),
        (
            token(&json!({})),
            &no_key,
            (None, Reason::LicenseUnknown),
            1,
        ),
        (
            forged(&json!({})),
            &settings,
            (None, Reason::LicenseUnknown),
            1,
        ),
        (
            token(&ends(secs(600))),
            &settings,
            (Some(false), Reason::LicenseExpiring),
            1,
        ),
        (
            token(&json!({"ha": false})),
            &settings,
            (Some(false), Reason::LicenseWithoutHa),
            1,
        ),
    ] {
        let plan = with_secret(&spec(true), &text, &seen, settings);
        assert_eq!(state(&plan, LICENSED), expected);
        assert_eq!(plan.report.target_replicas, Some(target));
        assert!(called(&plan).is_none());
    }
    // A database that merely fails at the moment is no such place.
    for view in [
        DatabaseView::NotProbed,
        crate::testing::failure(
            crate::observation::FailureClass::Unknown,
            crate::observation::FailureReason::Unreachable,
        ),
    ] {
        let plan = with_secret(
            &spec(true),
            &token(&json!({})),
            &observation(Some(1), view),
            &settings,
        );
        assert_eq!(state(&plan, LICENSED), (None, Reason::LicenseUnknown));
        assert_eq!(plan.report.target_replicas, Some(1));
    }
}

#[test]
fn the_first_admin_is_made_before_anybody_is_let_in() {
    let spec = json!({"admin": {"credentialsSecretRef": {"name": "admin"}, "createFirst": true}, "license": {"secretRef": {"name": "license", "key": "token"}}});
    let has_ingress = |plan: &Plan| {
        plan.objects
            .iter()
            .any(|object| object.kind == crate::kubernetes::Kind::Ingress)
    };
    for (license, admin_made, installed, open) in [
        (StoredLicense::NoWorkspace, true, false, false),
        (no_license(), false, true, false),
        (stored(&json!({})), false, false, true),
    ] {
        let mut seen = healthy(1, license);
        seen.ingress_has_address = None;
        let plan = plan(&spec, &seen);
        assert_eq!(
            matches!(
                request(&plan),
                Some(BytebaseRequest::CreateFirstAdmin { .. })
            ),
            admin_made
        );
        assert_eq!(installs(&plan).is_some(), installed);
        if let Some(call) = called(&plan) {
            assert_eq!(call.replica.to_string(), "10.0.0.1:8080");
        }
        assert_eq!(has_ingress(&plan), open);
        let reason = if open {
            Reason::IngressPending
        } else {
            Reason::AwaitingFirstAdmin
        };
        assert_eq!(state(&plan, ConditionType::Exposed), (Some(false), reason));
    }
    // An Ingress that stands is not taken away, which is said, nor is one held back where no user
    // asked for the admin.
    let stands = plan(&spec, &healthy(1, StoredLicense::NoWorkspace));
    assert!(has_ingress(&stands));
    let exposed = condition(&stands.report, ConditionType::Exposed);
    assert_eq!(
        (exposed.status, exposed.reason),
        (Some(true), Reason::IngressReady)
    );
    let message = &exposed.message;
    assert!(
        message.contains("whoever does first becomes the admin"),
        "{message}"
    );
    let mut seen = healthy(1, StoredLicense::NoWorkspace);
    seen.ingress_has_address = None;
    assert!(has_ingress(&plan(&json!({}), &seen)));
}

#[test]
fn no_first_admin_is_made_where_no_one_asked_for_one() {
    let seen = healthy(1, StoredLicense::NoWorkspace);
    let mut spec = json!({"admin": {"credentialsSecretRef": {"name": "admin"}}});
    assert!(matches!(plan(&spec, &seen).call, Wanted::No));
    spec["admin"]["createFirst"] = json!(true);
    assert!(called(&plan(&spec, &seen)).is_some());
}

#[test]
fn a_renewal_that_is_not_installed_is_reported_while_the_stored_license_counts() {
    let mut seen = healthy(3, stored(&ends(days(20))));
    let settings = crate::testing::settings();
    let renewed = token(&json!({"exp": null}));
    let message = |seen: &Observation| {
        let plan = with_secret(&spec(true), &renewed, seen, &settings);
        assert!(installs(&plan).is_some());
        let licensed = condition(&plan.report, LICENSED);
        assert_eq!(licensed.status, Some(true));
        licensed.message.clone()
    };
    assert!(!message(&seen).contains("could not be installed"));
    seen.call_failure = Some(CallFailure {
        message: "login refused (401)".to_owned(),
        refused: Some(refused_call()),
    });
    // Once it is installed, by whoever, it is no news.
    let mut installed = seen.clone();
    if let DatabaseView::Probed(Ok(facts)) = &mut installed.database {
        facts.license = crate::observation::Fact::Known(stored(&json!({"exp": null})));
    }
    let plan = with_secret(&spec(true), &renewed, &installed, &settings);
    let licensed = condition(&plan.report, LICENSED);
    assert!(!licensed.message.contains("could not be installed"));
    let reported = message(&seen);
    assert!(
        reported.ends_with("the license in the Secret could not be installed: login refused (401)"),
        "{reported}"
    );
}

#[test]
fn a_failed_call_is_reported_and_still_wanted() {
    let mut seen = healthy(1, no_license());
    seen.call_failure = Some(CallFailure {
        message: "login refused (401)".to_owned(),
        refused: Some(refused_call()),
    });
    let settings = crate::testing::settings();
    let plan = with_secret(&spec(true), &token(&json!({"exp": null})), &seen, &settings);
    assert!(installs(&plan).is_some());
    assert_eq!(
        state(&plan, LICENSED),
        (Some(false), Reason::LicenseInstallFailed)
    );
    let message = &condition(&plan.report, LICENSED).message;
    assert!(message.contains("login refused"), "{message}");
    assert_eq!(plan.report.refused_call, Some(refused_call()));
    // When it is tried again is no matter of the plan: once a user has installed the license by
    // hand it must wake no reconcile.
    assert_eq!(plan.requeue_at, None);
}

fn refused_call() -> RefusedCall {
    RefusedCall {
        refusals: 3,
        retry_time: Time(after(secs(240))),
        message: "login refused (401)".to_owned(),
        mark: "a7".to_owned(),
    }
}

/// The next process goes on by what status says of it, so nothing may take it away while the call
/// is still wanted; and nothing of it may stay once it is not.
#[test]
fn a_refused_call_stays_in_status_as_long_as_the_call_is_wanted() {
    let settings = crate::testing::settings();
    let report = |license: StoredLicense, readable: bool| {
        let mut seen = healthy(1, license);
        seen.call_failure = Some(CallFailure {
            message: "login refused (401)".to_owned(),
            refused: Some(refused_call()),
        });
        if !readable {
            seen.database = DatabaseView::NotProbed;
        }
        with_secret(&spec(true), &token(&json!({"exp": null})), &seen, &settings).report
    };
    assert_eq!(
        report(no_license(), true).refused_call,
        Some(refused_call())
    );
    assert_eq!(
        report(no_license(), false).refused_call,
        Some(refused_call())
    );
    let installed = stored(&json!({"exp": null}));
    assert_eq!(report(installed, true).refused_call, None);
}

#[test]
fn warn_says_what_it_risks() {
    let plan = plan(
        &json!({"license": {"enforcement": "Warn"}}),
        &healthy(3, no_license()),
    );
    assert_eq!(
        state(&plan, LICENSED),
        (Some(false), Reason::LicenseNotEnforced)
    );
    assert_eq!(plan.report.target_replicas, Some(3));
    assert!(
        condition(&plan.report, LICENSED)
            .message
            .contains("after ten minutes")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Between now and `next` the verdict stays what it is; at `next` there is something new to
    /// say, or there is none.
    #[test]
    fn nothing_changes_by_itself_before_next(left in -1000..4_000_000_i64, begins in proptest::option::of(-1000..1000_i64), share in 0.0..1.0_f64) {
        let mut claims = ends(secs(left));
        if let Some(begins) = begins {
            claims["nbf"] = json!(after(secs(begins)).as_second());
        }
        let license = stored(&claims);
        let at = |moment: Timestamp| {
            let mut seen = observation(Some(3), DatabaseView::Probed(Ok(facts(3, license.clone()))));
            seen.now = moment;
            let plan = plan(&json!({}), &seen);
            let condition = condition(&plan.report, LICENSED).clone();
            (condition, plan.report.target_replicas, plan.requeue_at)
        };
        let (condition, target, next) = at(now());
        let span = next.map_or(secs(10_000_000), |next| next.duration_since(now()));
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let between = secs(((span.as_secs() - 1).max(0) as f64 * share) as i64);
        let (condition_between, target_between, _) = at(after(between));
        prop_assert_eq!((&condition, target), (&condition_between, target_between));
        prop_assert!(next.is_none_or(|next| next > now()));
    }
}
