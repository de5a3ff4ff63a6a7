//! Licenses: RSA-signed tokens with claims that are checked one by one, so that the reason can be
//! given.

use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};
use std::path::Path;

const KEY_ID: &str = "v1";
const ISSUER: &str = "bytebase";
const AUDIENCE: &str = "bb.license";

/// Plans in rising order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Plan {
    /// What every workspace has.
    Free,
    /// Paid, small.
    Team,
    /// Paid, large.
    Enterprise,
}

/// A license that was found good, or the free plan in place of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct License {
    /// The plan.
    pub plan: Plan,
    /// Whether several replicas may run; independent of the plan.
    pub ha: bool,
    /// Whether it is a trial.
    pub trialing: bool,
    /// Number of seats; 0 when not stated.
    pub seats: i64,
    /// Number of instances; 0 when not stated.
    pub instances: i64,
    /// Whom it was made out to.
    pub organization: String,
    /// End, in seconds since 1970; none for ever.
    pub expires: Option<i64>,
}

/// Why a license does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LicenseError {
    /// This server has no key to verify with.
    #[error("no public key to verify licenses with")]
    NoKey,
    /// Not a token at all.
    #[error("malformed token")]
    Malformed,
    /// Signed in a way that is not accepted.
    #[error("unexpected signing method")]
    Algorithm,
    /// Signed with a key of another name.
    #[error("unexpected key id")]
    KeyId,
    /// The signature is not by our key.
    #[error("signature is invalid")]
    Signature,
    /// Not made by Bytebase.
    #[error("unexpected issuer")]
    Issuer,
    /// A token for something else.
    #[error("unexpected audience")]
    Audience,
    /// Its time has not come.
    #[error("license is not valid yet")]
    NotYetValid,
    /// Its time is over.
    #[error("license is expired")]
    Expired,
    /// Made out to another workspace.
    #[error("license belongs to another workspace")]
    Workspace,
}

/// Verifies licenses with the configured key.
pub struct Verifier {
    key: Option<DecodingKey>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    #[serde(default)]
    iss: String,
    #[serde(default)]
    aud: Audience,
    nbf: Option<f64>,
    exp: Option<f64>,
    plan: Plan,
    #[serde(default)]
    ha: bool,
    #[serde(default)]
    trialing: bool,
    #[serde(default)]
    seat: i64,
    #[serde(default)]
    instance: i64,
    #[serde(default)]
    instance_count: i64,
    #[serde(default)]
    org_name: String,
    #[serde(default)]
    workspace_id: String,
}

#[derive(Default, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
    #[default]
    None,
}

impl License {
    /// The plan without a license.
    pub fn free() -> Self {
        Self {
            plan: Plan::Free,
            ha: false,
            trialing: false,
            seats: 0,
            instances: 0,
            organization: String::new(),
            expires: None,
        }
    }

    /// What is left of it at `now`: expired means the free plan, silently.
    pub fn at(self, now: Timestamp) -> Self {
        if self.expires.is_some_and(|end| now.as_second() >= end) {
            Self::free()
        } else {
            self
        }
    }
}

impl Verifier {
    /// Reads the public key. Without one no license holds, and the log says so once.
    pub fn from_file(path: &Path) -> Self {
        let key = std::fs::read(path)
            .ok()
            .and_then(|pem| DecodingKey::from_rsa_pem(&pem).ok());
        if key.is_none() {
            tracing::warn!(path = %path.display(), "no public key for licenses, every license will be refused");
        }
        Self { key }
    }

    /// Checks `token` as a license of `workspace`. Line breaks in it are ignored.
    pub fn verify(
        &self,
        token: &str,
        workspace: &str,
        now: Timestamp,
    ) -> Result<License, LicenseError> {
        let token = strip_line_breaks(token);
        let key = self.key.as_ref().ok_or(LicenseError::NoKey)?;
        let header = decode_header(&token).map_err(|error| match error.kind() {
            // An algorithm unknown to the library, `none` among them.
            jsonwebtoken::errors::ErrorKind::Json(_) => LicenseError::Algorithm,
            _ => LicenseError::Malformed,
        })?;
        if !matches!(
            header.alg,
            Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512
        ) {
            return Err(LicenseError::Algorithm);
        }
        if header.kid.as_deref() != Some(KEY_ID) {
            return Err(LicenseError::KeyId);
        }
        let mut signature_only = Validation::new(header.alg);
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        signature_only.required_spec_claims.clear();
        let claims = decode::<Claims>(&token, key, &signature_only)
            .map_err(|error| match error.kind() {
                jsonwebtoken::errors::ErrorKind::InvalidSignature => LicenseError::Signature,
                _ => LicenseError::Malformed,
            })?
            .claims;
        check(claims, workspace, now)
    }
}

/// What is stored and verified: the token without line breaks.
pub fn strip_line_breaks(token: &str) -> String {
    token
        .chars()
        .filter(|c| !matches!(c, '\n' | '\r'))
        .collect()
}

fn check(claims: Claims, workspace: &str, now: Timestamp) -> Result<License, LicenseError> {
    let for_licenses = match &claims.aud {
        Audience::One(one) => one == AUDIENCE,
        Audience::Several(several) => several.iter().any(|one| one == AUDIENCE),
        Audience::None => false,
    };
    // Claims may hold fractions; whole seconds are what the clock is compared in.
    #[allow(
        clippy::cast_possible_truncation,
        reason = "seconds since 1970 are far from the limits"
    )]
    let seconds = |time: f64| time as i64;
    let now = now.as_second();
    let other_workspace = !claims.workspace_id.is_empty()
        && claims.plan == Plan::Enterprise
        && !claims.trialing
        && claims.workspace_id != workspace;
    if claims.iss != ISSUER {
        Err(LicenseError::Issuer)
    } else if !for_licenses {
        Err(LicenseError::Audience)
    } else if claims.nbf.is_some_and(|start| now < seconds(start)) {
        Err(LicenseError::NotYetValid)
    } else if claims.exp.is_some_and(|end| now >= seconds(end)) {
        Err(LicenseError::Expired)
    } else if other_workspace {
        Err(LicenseError::Workspace)
    } else {
        Ok(License {
            plan: claims.plan,
            ha: claims.ha,
            trialing: claims.trialing,
            seats: claims.seat,
            instances: claims.instance.max(claims.instance_count),
            organization: claims.org_name,
            expires: claims.exp.map(seconds),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use serde_json::{Value, json};

    const NOW: i64 = 1_700_000_000;

    fn checked(change: &Value) -> Result<License, LicenseError> {
        let mut claims =
            json!({"iss": "bytebase", "aud": "bb.license", "plan": "ENTERPRISE", "ha": true});
        for (key, value) in change.as_object().unwrap() {
            claims[key] = value.clone();
        }
        let claims = serde_json::from_value(claims).map_err(|_| LicenseError::Malformed)?;
        check(claims, "ws-1", Timestamp::from_second(NOW).unwrap())
    }

    #[test]
    fn a_license_without_an_end_is_perpetual() {
        let license = checked(&json!({})).unwrap();
        assert_eq!(license.expires, None);
        assert!(license.ha);
    }

    #[test]
    fn ha_is_independent_of_the_plan_and_off_when_absent() {
        assert!(checked(&json!({"plan": "FREE"})).unwrap().ha);
        assert!(!checked(&json!({"ha": false})).unwrap().ha);
    }

    #[test]
    fn each_claim_that_does_not_fit_has_its_own_reason() {
        use LicenseError as E;
        for (change, error) in [
            (json!({"iss": "somebody"}), E::Issuer),
            (json!({"aud": "bb.user"}), E::Audience),
            (json!({"aud": []}), E::Audience),
            (json!({"nbf": NOW + 1}), E::NotYetValid),
            (json!({"exp": NOW}), E::Expired),
            (json!({"workspaceId": "ws-2"}), E::Workspace),
            (json!({"plan": "GOLD"}), E::Malformed),
        ] {
            assert_eq!(checked(&change), Err(error), "{change}");
        }
    }

    #[test]
    fn the_workspace_counts_only_for_a_paid_enterprise_license() {
        for change in [
            json!({"workspaceId": "ws-1"}),
            json!({"workspaceId": ""}),
            json!({"workspaceId": "ws-2", "plan": "TEAM"}),
            json!({"workspaceId": "ws-2", "trialing": true}),
        ] {
            assert!(checked(&change).is_ok(), "{change}");
        }
    }

    #[test]
    fn a_license_in_force_turns_free_when_its_end_comes() {
        let license = checked(&json!({"exp": NOW + 1, "aud": ["x", "bb.license"]})).unwrap();
        assert!(license.clone().at(Timestamp::from_second(NOW).unwrap()).ha);
        assert_eq!(
            license.at(Timestamp::from_second(NOW + 1).unwrap()),
            License::free()
        );
    }
}
