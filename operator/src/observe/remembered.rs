//! What the status says of earlier reconciles, read leniently: a word that this operator does not
//! know (a newer one wrote it) is not remembered, and nothing fails.

use crate::api::status::LicenseSource;
use crate::api::{BytebaseClusterStatus, ConditionType};
use crate::contract::version::Version;
use crate::decide::observation::{Refusal, Remembered};

/// What a decision may fall back on.
pub fn remembered(status: &BytebaseClusterStatus) -> Remembered {
    let refusal = status.conditions.iter().find(|condition| {
        condition.type_ == ConditionType::DatabaseReady.as_ref() && condition.status == "False"
    });
    Remembered {
        database: status.database.clone(),
        refusal: refusal.and_then(|condition| {
            Some(Refusal {
                reason: condition.reason.parse().ok()?,
                message: condition.message.clone(),
            })
        }),
        license: status
            .license
            .clone()
            .filter(|license| license.source == LicenseSource::Database),
        schema_version: status
            .schema_version
            .as_deref()
            .and_then(|version| Version::parse(version).ok()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;
    use serde_json::{Value, json};

    fn read(status: Value) -> Remembered {
        remembered(&serde_json::from_value(status).unwrap())
    }

    fn condition(status: &str, reason: &str) -> Value {
        json!({
            "type": "DatabaseReady", "status": status, "reason": reason, "message": "m",
            "lastTransitionTime": "2026-06-01T00:00:00Z",
        })
    }

    #[test]
    fn only_a_definite_refusal_is_remembered() {
        let refused = |status, reason| read(json!({"conditions": [condition(status, reason)]}));
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
    fn a_license_out_of_a_secret_is_not_the_stored_one() {
        let license =
            |source| read(json!({"license": {"source": source, "signature": "Verified"}}));
        assert!(license("Database").license.is_some());
        assert!(license("Secret").license.is_none());
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
