//! What the status says of earlier reconciles, read leniently: a word that this operator does not
//! know (a newer one wrote it) is not remembered, and nothing fails.

use crate::api::status::{
    DatabaseStatus, DrainState, LicenseSource, LicenseStatus, LoginState, SignatureState,
};
use crate::api::{BytebaseClusterStatus, ConditionType, Reason};
use crate::contract::version::Version;
use crate::observation::{Refusal, Remembered, RememberedRollout};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeMap;
use uuid::Uuid;

/// What a decision may fall back on. `endpoint`: host, port and name of the database that the spec
/// names, if that is known; what was learnt of another one says nothing of this one.
pub fn remembered(status: &BytebaseClusterStatus, endpoint: Option<&str>) -> Remembered {
    let refusal = |type_: ConditionType| {
        let mut conditions = status.conditions.iter();
        let condition = conditions
            .find(|condition| condition.type_ == type_.as_ref() && condition.status == "False")?;
        Some(Refusal {
            reason: condition.reason.parse().ok()?,
            message: condition.message.clone(),
        })
    };
    let license = |source, verified: bool| {
        let license = status.license.clone();
        let counts = |license: &LicenseStatus| {
            license.source == source && (!verified || license.signature == SignatureState::Verified)
        };
        license.filter(counts)
    };
    // A verdict on a license in a Secret that stood in counts no longer than the Secret names it.
    let cannot_read = Reason::DatabaseCannotRead.as_ref();
    let mut conditions = status.conditions.iter();
    let stood_in = license(LicenseSource::Secret, true).is_some()
        && conditions.any(|condition| condition.reason == cannot_read);
    let unlicensed = refusal(ConditionType::HaLicensed).filter(|_| !stood_in);
    let unlicensed = unlicensed.map(|refusal| refusal.reason);
    let of_license = Remembered {
        unlicensed_since: unlicensed_since(status, unlicensed),
        unlicensed,
        license: license(LicenseSource::Database, false),
        stand_in: license(LicenseSource::Secret, true),
        drains: drains(status),
        ..Remembered::default()
    };
    let foreign_replicas = had_foreign_replicas(status);
    let database = status.database.clone().map(|database| DatabaseStatus {
        foreign_replicas,
        ..database.of_today()
    });
    let before = database.as_ref();
    let served_on = before.and_then(|database| database.served_on.clone());
    let before = before.and_then(|database| database.endpoint.as_deref());
    if let (Some(before), Some(now)) = (before, endpoint)
        && before != now
    {
        // The license binds the replicas that still run on the database before. It allows nothing
        // on the new one: what is remembered only ever forbids.
        let of_license = if status.replicas > 0 {
            of_license
        } else {
            Remembered::default()
        };
        return Remembered {
            rollout: rollout(status),
            url: status.url.clone(),
            // It is that of the replicas that still run.
            login: login(status).filter(|_| status.replicas > 0),
            // Another name may lead to the same database.
            served_on,
            ..of_license
        };
    }
    Remembered {
        database,
        served_on,
        login: login(status),
        database_ready: database_ready(status),
        refusal: refusal(ConditionType::DatabaseReady),
        schema_version: status
            .schema_version
            .as_deref()
            .and_then(|version| Version::parse(version).ok()),
        version: status.version.clone(),
        url: status.url.clone(),
        rollout: rollout(status),
        foreign_replicas,
        stale_since: stale_since(status),
        queue_held_since: queue_held_since(status),
        queue_overdue: status.queue_hold.as_ref().is_some_and(|hold| hold.overdue),
        ..of_license
    }
}

/// An earlier operator said it by the condition alone, which does not outlast an outage.
fn had_foreign_replicas(status: &BytebaseClusterStatus) -> bool {
    let database = status.database.as_ref();
    let foreign = Reason::ForeignReplica.as_ref();
    let mut conditions = status.conditions.iter();
    database.is_some_and(|database| database.foreign_replicas)
        || conditions.any(|condition| condition.reason == foreign)
}

fn database_ready(status: &BytebaseClusterStatus) -> Option<(bool, Timestamp)> {
    let ready = ConditionType::DatabaseReady.as_ref();
    let mut conditions = status.conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == ready)?;
    let was_true = condition.status == "True";
    Some((was_true, condition.last_transition_time.0))
}

/// Replicas that sent no heartbeat although their pods were Ready.
fn stale_since(status: &BytebaseClusterStatus) -> BTreeMap<String, (Option<Uuid>, Timestamp)> {
    let ready = status.replica_statuses.iter();
    let ready = ready.filter(|replica| replica.ready);
    let since = ready.filter_map(|replica| {
        let since = replica.without_heartbeat_since()?;
        let id = replica.replica_id.as_ref();
        let id = id.and_then(|id| Uuid::parse_str(id).ok());
        Some((replica.pod.clone(), (id, since.0)))
    });
    since.collect()
}

/// An older operator kept no other time of it than that of `HALicensed`, which is False ahead of
/// the end of a license as well. These reasons leave open which of the two it is.
fn unlicensed_since(
    status: &BytebaseClusterStatus,
    unlicensed: Option<Reason>,
) -> Option<Timestamp> {
    let reported = status.unlicensed_since.as_ref();
    if let Some(Time(since)) = reported {
        return Some(*since);
    }
    match unlicensed? {
        Reason::LicenseExpiring | Reason::LicenseInstallFailed | Reason::LicenseNotEnforced => None,
        _ => {
            let licensed = ConditionType::HaLicensed.as_ref();
            let mut conditions = status.conditions.iter();
            let condition = conditions.find(|condition| condition.type_ == licensed)?;
            Some(condition.last_transition_time.0)
        }
    }
}

fn drains(status: &BytebaseClusterStatus) -> BTreeMap<String, DrainState> {
    let replicas = status.replica_statuses.iter();
    replicas
        .filter_map(|replica| Some((replica.pod.clone(), replica.drain?)))
        .collect()
}

fn queue_held_since(status: &BytebaseClusterStatus) -> Option<Timestamp> {
    Some(status.queue_hold.as_ref()?.since.as_ref()?.0)
}

fn login(status: &BytebaseClusterStatus) -> Option<LoginState> {
    status.database.as_ref()?.login
}

fn rollout(status: &BytebaseClusterStatus) -> Option<RememberedRollout> {
    let rollout = status.rollout.as_ref()?;
    Some(RememberedRollout {
        waiting_for: rollout.waiting_for?,
        pod: rollout.pod.clone(),
        since: rollout.since.as_ref()?.0,
        busy_since: rollout.busy_since.as_ref().map(|since| since.0),
        scale_down_only: rollout.scale_down_only,
        message: rollout.message.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;
    use serde_json::{Value, json};

    fn read(status: Value) -> Remembered {
        remembered(&serde_json::from_value(status).unwrap(), None)
    }

    fn condition(type_: &str, status: &str, reason: &str) -> Value {
        json!({
            "type": type_, "status": status, "reason": reason, "message": "m",
            "lastTransitionTime": "2026-06-01T00:00:00Z",
        })
    }

    #[test]
    fn only_a_definite_refusal_is_remembered() {
        let refused = |status, reason| {
            read(json!({"conditions": [condition("DatabaseReady", status, reason)]}))
        };
        assert_eq!(
            refused("False", "DatabaseForeignTables").refusal,
            Some(Refusal {
                reason: Reason::DatabaseForeignTables,
                message: "m".to_owned(),
            })
        );
        assert_eq!(refused("Unknown", "DatabaseUnreachable").refusal, None);
        assert_eq!(refused("True", "DatabaseChecksPassed").refusal, None);
        assert_eq!(refused("False", "OfALaterOperator").refusal, None);
    }

    #[test]
    fn since_when_the_database_has_been_ready_or_has_not_is_remembered() {
        let ready = |status| {
            let reason = "DatabaseChecksPassed";
            read(json!({"conditions": [condition("DatabaseReady", status, reason)]})).database_ready
        };
        let since = "2026-06-01T00:00:00Z".parse().unwrap();
        assert_eq!(ready("True"), Some((true, since)));
        assert_eq!(ready("False"), Some((false, since)));
        assert_eq!(ready("Unknown"), Some((false, since)));
    }

    #[test]
    fn that_there_were_foreign_replicas_is_remembered_of_the_database_on_which_they_were() {
        let endpoint = "db.example.com:5432/bytebase";
        let foreign = |database: Value, reason: &str, at: &str| {
            let status = json!({
                "database": database,
                "conditions": [condition("ReplicasHealthy", "False", reason)],
            });
            let read = remembered(&serde_json::from_value(status).unwrap(), Some(at));
            let reported = read.database.map(|database| database.foreign_replicas);
            (read.foreign_replicas, reported)
        };
        let database = json!({"endpoint": endpoint, "foreignReplicas": true});
        for reason in ["ForeignReplica", "HeartbeatsUnknown", "CannotWatch"] {
            let read = foreign(database.clone(), reason, endpoint);
            assert_eq!(read, (true, Some(true)), "{reason}");
        }
        let elsewhere = foreign(database, "ForeignReplica", "new.example.com:5432/bytebase");
        assert_eq!(elsewhere, (false, None));
        // As an earlier operator wrote it.
        let database = json!({"endpoint": endpoint});
        let read = foreign(database.clone(), "ForeignReplica", endpoint);
        assert_eq!(read, (true, Some(true)));
        let read = foreign(database, "HeartbeatsUnknown", endpoint);
        assert_eq!(read, (false, Some(false)));
    }

    #[test]
    fn that_several_replicas_were_not_allowed_is_remembered() {
        let unlicensed = |status, reason| {
            read(json!({"conditions": [condition("HALicensed", status, reason)]})).unlicensed
        };
        assert_eq!(
            unlicensed("False", "LicenseMissing"),
            Some(Reason::LicenseMissing)
        );
        assert_eq!(unlicensed("Unknown", "LicenseUnknown"), None);
        assert_eq!(unlicensed("True", "LicenseAllowsHa"), None);
    }

    #[test]
    fn what_was_learnt_of_another_database_is_not_remembered() {
        let status = json!({
            "database": {
                "endpoint": "old.example.com:5432/bytebase", "identity": "1234", "login": "Accepted",
            },
            "schemaVersion": "3.21.5",
            "license": {"source": "Database", "signature": "Verified"},
            "conditions": [
                condition("DatabaseReady", "False", "DatabaseForeignTables"),
                condition("HALicensed", "False", "LicenseMissing"),
            ],
        });
        let status: BytebaseClusterStatus = serde_json::from_value(status).unwrap();
        let of = |endpoint| remembered(&status, endpoint);
        let elsewhere = Some("new.example.com:5432/bytebase");
        assert_eq!(of(elsewhere), Remembered::default());
        // The license binds the replicas that still run there.
        let running = BytebaseClusterStatus {
            replicas: 3,
            ..status.clone()
        };
        let all = remembered(&running, None);
        assert_eq!(
            remembered(&running, elsewhere),
            Remembered {
                license: all.license.clone(),
                unlicensed: all.unlicensed,
                unlicensed_since: all.unlicensed_since,
                login: Some(LoginState::Accepted),
                ..Remembered::default()
            }
        );
        let all = of(Some("old.example.com:5432/bytebase"));
        assert!(all.refusal.is_some() && all.unlicensed.is_some() && all.license.is_some());
        assert_eq!(of(None), all, "a spec that names none takes nothing back");
    }

    #[test]
    fn the_database_on_which_a_cluster_has_served_is_remembered_whichever_its_spec_names() {
        let before = "old.example.com:5432/bytebase";
        let served_on = |database: Value, endpoint| {
            let status = json!({"database": database});
            remembered(&serde_json::from_value(status).unwrap(), endpoint).served_on
        };
        let known = Some("1234".to_owned());
        for at in [None, Some(before), Some("new.example.com:5432/bytebase")] {
            let database = json!({"endpoint": before, "identity": "1234", "servedOn": "1234"});
            assert_eq!(served_on(database, at), known, "{at:?}");
            let database = json!({"endpoint": before, "servedOn": "1234"});
            assert_eq!(served_on(database, at), known, "{at:?}");
            let database = json!({"endpoint": before, "identity": "1234"});
            assert_eq!(served_on(database, at), None, "{at:?}");
            // As an earlier operator wrote it.
            let database = json!({"endpoint": before, "identity": "1234", "hasServed": true});
            assert_eq!(served_on(database, at), known, "{at:?}");
        }
    }

    #[test]
    fn what_an_earlier_operator_wrote_of_serving_is_written_as_this_one_does() {
        let status = json!({"database": {"identity": "1234", "hasServed": true}});
        let database = read(status).database.unwrap();
        let written = serde_json::to_value(&database).unwrap();
        let expected = json!({"identity": "1234", "servedOn": "1234", "hasServed": true});
        assert_eq!(written, expected);
    }

    #[test]
    fn a_license_out_of_a_secret_is_not_the_stored_one() {
        let license = |source, signature| {
            let read = read(json!({"license": {"source": source, "signature": signature}}));
            (read.license.is_some(), read.stand_in.is_some())
        };
        assert_eq!(license("Database", "Verified"), (true, false));
        assert_eq!(license("Database", "Unverified"), (true, false));
        assert_eq!(license("Secret", "Verified"), (false, true));
        assert_eq!(license("Secret", "Unverified"), (false, false));
    }

    #[test]
    fn the_schema_is_remembered_by_its_version() {
        let version = read(json!({"schemaVersion": "3.21.5"})).schema_version;
        assert_eq!(
            version.map(|version| version.to_string()).as_deref(),
            Some("3.21.5")
        );
        assert_eq!(read(json!({})), Remembered::default());
    }
}
