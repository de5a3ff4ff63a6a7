//! What tools make of the status that wait for a cluster to become as it was applied: Flux, `kpt`,
//! `cli-utils`. None may wait for ever for what only a person changes.

use super::{argo_cd, plan};
use crate::api::status::BytebaseClusterStatus;
use crate::api::{Reason, crd};
use crate::apply::{ApplyFailure, FailureKind};
use crate::contract::version::Version;
use crate::observation::{
    DatabaseView, Fact, FailureClass, FailureReason, Observation, Refusal, SchemaState,
    StoredLicense,
};
use crate::report;
use crate::testing::{
    after, days, failure, healthy, heartbeats, no_license, now, observation, stored, with_facts,
};
use jiff::SignedDuration;
use serde_json::{Value, json};

/// Generation of the spec.
const GENERATION: i64 = 4;

/// What kstatus says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kstatus {
    Current,
    InProgress,
    Failed,
}

/// The rules of kstatus for an object of a kind that it does not know, in their order:
/// `checkGenericProperties` in `generic.go` and `checkReadyCondition` in `status.go` of
/// sigs.k8s.io/cli-utils 0.37.2, `pkg/kstatus/status`.
pub fn kstatus(status: &Value, generation: i64) -> Kstatus {
    let observed = status["observedGeneration"].as_i64();
    if observed.is_some_and(|observed| observed != generation) {
        return Kstatus::InProgress;
    }
    let conditions = status["conditions"].as_array();
    let conditions: Vec<_> = conditions.into_iter().flatten().collect();
    for condition in &conditions {
        match (condition["type"].as_str(), condition["status"].as_str()) {
            (Some("Reconciling"), Some("True")) => return Kstatus::InProgress,
            (Some("Stalled"), Some("True")) => return Kstatus::Failed,
            _ => {}
        }
    }
    let ready = conditions
        .iter()
        .find(|condition| condition["type"] == "Ready");
    match ready.and_then(|ready| ready["status"].as_str()) {
        Some("False" | "Unknown") => Kstatus::InProgress,
        _ => Kstatus::Current,
    }
}

/// The status of a cluster that is written for the first time.
fn status(spec: &Value, seen: &Observation, failures: &[ApplyFailure]) -> Value {
    let previous = BytebaseClusterStatus {
        // What the definition begins with.
        observed_generation: Some(-1),
        ..BytebaseClusterStatus::default()
    };
    let plan = plan(spec, seen);
    let status = report::status(&previous, plan.report, failures, Some(GENERATION), now());
    serde_json::to_value(status).unwrap()
}

fn of(spec: &Value, seen: &Observation) -> Kstatus {
    judged(spec, seen, &[])
}

/// What kstatus says, with which the health check for Argo CD agrees as far as it has words for it.
fn judged(spec: &Value, seen: &Observation, failures: &[ApplyFailure]) -> Kstatus {
    let status = status(spec, seen, failures);
    let kstatus = kstatus(&status, GENERATION);
    let (health, message) = argo_cd::health(spec, &status, GENERATION);
    let expected: &[_] = match kstatus {
        _ if spec["paused"] == true => &["Suspended"],
        Kstatus::Current => &["Healthy"],
        // It also says what has been well before, and is not any more.
        Kstatus::InProgress => &["Progressing", "Degraded"],
        Kstatus::Failed => &["Degraded"],
    };
    assert!(
        expected.contains(&health.as_str()),
        "{kstatus:?} for kstatus, {health} for Argo CD: {status:#}"
    );
    assert!(!message.is_empty(), "{health} without a word: {status:#}");
    kstatus
}

fn three() -> Observation {
    healthy(3, stored(&json!({})))
}

#[test]
fn what_only_a_person_changes_holds_no_sync() {
    let unknown_schema = with_facts(healthy(1, stored(&json!({}))), |facts| {
        facts.license = Fact::Unknown;
        facts.not_understood = vec!["setting"];
    });
    let old = with_facts(healthy(1, stored(&json!({}))), |facts| {
        let version = Some(Version::new(3, 16, 2));
        facts.schema = SchemaState::Bytebase { version };
    });
    let ended = stored(&json!({"exp": after(days(-1)).as_second()}));
    let none = json!({});
    let cases = vec![
        ("well", none.clone(), three()),
        (
            "stopped",
            json!({"replicas": 0}),
            healthy(0, stored(&json!({}))),
        ),
        (
            "stopped, and out of reach",
            json!({"replicas": 0}),
            observation(
                Some(0),
                failure(FailureClass::Unknown, FailureReason::Unreachable),
            ),
        ),
        ("paused", json!({"paused": true}), three()),
        (
            "no one has signed up",
            none.clone(),
            healthy(1, StoredLicense::NoWorkspace),
        ),
        ("no license", none.clone(), healthy(1, no_license())),
        (
            "a license in the Secret alone",
            json!({"license": {"secretRef": {"name": "license", "key": "token"}}}),
            healthy(1, no_license()),
        ),
        (
            "a license without HA",
            none.clone(),
            healthy(1, stored(&json!({"ha": false}))),
        ),
        ("a license that ended", none.clone(), healthy(1, ended)),
        (
            "a license that cannot be read by this operator",
            none.clone(),
            unknown_schema,
        ),
        ("a schema from before several", none.clone(), old),
    ];
    for (name, spec, seen) in cases {
        assert_eq!(of(&spec, &seen), Kstatus::Current, "{name}");
    }
}

#[test]
fn what_changes_by_itself_is_waited_for() {
    let changed = |change: fn(&mut Observation)| {
        let mut seen = three();
        change(&mut seen);
        seen
    };
    let none = json!({});
    let cases = vec![
        (
            "before the first reading",
            none.clone(),
            observation(None, DatabaseView::NotProbed),
        ),
        (
            "starting",
            none.clone(),
            changed(|seen| {
                for pod in &mut seen.pods {
                    pod.ready = false;
                    pod.created_at = after(SignedDuration::from_secs(-60));
                }
            }),
        ),
        ("growing", none.clone(), healthy(1, stored(&json!({})))),
        ("shrinking", json!({"replicas": 2}), three()),
        ("being stopped", json!({"replicas": 0}), three()),
        ("going down to one", none.clone(), healthy(3, no_license())),
        (
            "rolling",
            none.clone(),
            changed(|seen| seen.pods[0].revision = Some("old".to_owned())),
        ),
        (
            "a stale heartbeat",
            none.clone(),
            with_facts(three(), |facts| {
                heartbeats(facts)[0].age = std::time::Duration::from_secs(40);
            }),
        ),
        (
            "an outage of the database",
            none.clone(),
            observation(
                Some(3),
                failure(FailureClass::Unknown, FailureReason::Unreachable),
            ),
        ),
        (
            "a failover",
            none.clone(),
            observation(
                Some(3),
                failure(FailureClass::Definite, FailureReason::Standby),
            ),
        ),
        (
            "a failover before the first replica",
            none.clone(),
            observation(
                None,
                failure(FailureClass::Definite, FailureReason::Standby),
            ),
        ),
        (
            "one that stays where it was",
            none.clone(),
            observation(
                Some(1),
                failure(FailureClass::Unknown, FailureReason::Unreachable),
            ),
        ),
    ];
    for (name, spec, seen) in cases {
        assert_eq!(of(&spec, &seen), Kstatus::InProgress, "{name}");
    }
    // Before the operator has seen it at all, the definition says so.
    let schema = crd().spec.versions.remove(0).schema.unwrap();
    let properties = schema.open_api_v3_schema.unwrap().properties.unwrap();
    let unseen = &properties["status"].default.as_ref().unwrap().0;
    assert_eq!(kstatus(unseen, 1), Kstatus::InProgress);
    // A write that failed and may succeed when it is tried again.
    let failures = [refused(FailureKind::Transient)];
    assert_eq!(judged(&none, &three(), &failures), Kstatus::InProgress);
}

#[test]
fn what_does_not_go_on_without_help_is_reported_at_once() {
    let none = json!({});
    let late = {
        let mut seen = three();
        for pod in &mut seen.pods {
            pod.ready = false;
            pod.created_at = after(SignedDuration::from_secs(-900));
        }
        seen
    };
    let mut standby = observation(
        Some(3),
        failure(FailureClass::Definite, FailureReason::Standby),
    );
    standby.remembered.database_ready = Some((false, after(SignedDuration::from_mins(-2))));
    standby.remembered.refusal = Some(Refusal {
        reason: Reason::DatabaseIsStandby,
        message: String::new(),
    });
    let newer = with_facts(three(), |facts| {
        facts.schema = SchemaState::Bytebase {
            version: Some(Version::new(3, 22, 0)),
        };
    });
    for (name, spec, seen) in [
        (
            "a wrong password",
            &none,
            observation(
                None,
                failure(FailureClass::Definite, FailureReason::AuthenticationFailed),
            ),
        ),
        (
            "a spec that cannot be used",
            &json!({"replicas": -1}),
            three(),
        ),
        ("a first start that does not come off", &none, late),
        ("a standby for longer than a failover takes", &none, standby),
        ("an older version than the schema", &none, newer),
    ] {
        assert_eq!(of(spec, &seen), Kstatus::Failed, "{name}");
    }
    let failures = [refused(FailureKind::Forbidden)];
    assert_eq!(judged(&none, &three(), &failures), Kstatus::Failed);
}

fn refused(kind: FailureKind) -> ApplyFailure {
    ApplyFailure {
        kind,
        exposes: false,
        message: "refused".to_owned(),
    }
}
