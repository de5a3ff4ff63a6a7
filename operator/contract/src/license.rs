//! The license: a signed token whose claims decide how many replicas may run.
//!
//! The claims are checked here one by one, not by the token library, so that each reason for
//! refusal can be reported. A [`License`] holds claims only, never the token; errors hold nothing
//! of the token either.

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use std::fmt;

/// The claims of a license. Whether its signature was verified is known by the function that
/// returned it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct License {
    /// What was bought.
    pub plan: Plan,
    /// Whether several replicas may run. Independent of the plan.
    pub ha: bool,
    /// A trial.
    pub trialing: bool,
    /// How many instances may be registered; `None` where the license does not say.
    pub instance: Option<i64>,
    /// How many instances may be activated; `None` where the license does not say.
    pub instance_count: Option<i64>,
    /// How many users; `None` where the license does not say.
    pub seat: Option<i64>,
    /// Whom it was issued to, for people to read: shortened, without control characters.
    pub organization: String,
    /// The only workspace it may be used in; `None` when it is bound to none.
    pub workspace_id: Option<String>,
    /// First moment of validity; `None` when it holds from the start.
    pub not_before: Option<Timestamp>,
    /// First moment after validity; `None` when it is perpetual.
    pub expires_at: Option<Timestamp>,
}

/// The plans of Bytebase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Plan {
    /// No payment.
    Free,
    /// The middle plan.
    Team,
    /// The full plan.
    Enterprise,
}

/// Whether a license holds at one moment in one workspace. Anything but `Valid` means that Bytebase
/// runs as FREE, without HA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LicenseValidity {
    /// It holds.
    Valid,
    /// Its time has not come.
    NotYetValid,
    /// Its time has passed.
    Expired,
    /// It was issued for another workspace.
    OtherWorkspace,
}

/// A public RSA key that licenses are verified with.
#[derive(Clone)]
pub struct LicenseKey(DecodingKey);

/// Why a text is no license. No message holds any piece of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LicenseError {
    /// Nothing but blanks.
    #[error("the license is empty: paste the whole token")]
    Empty,
    /// Longer than any license.
    #[error(
        "the license has {length} characters, more than any license: check that only the token was pasted"
    )]
    TooLong {
        /// Its length in bytes, without blanks.
        length: usize,
    },
    /// Not three parts separated by dots.
    #[error(
        "a token has three parts between dots, and the license has {parts}: paste it whole and without anything around it"
    )]
    NotAToken {
        /// How many there are.
        parts: usize,
    },
    /// A part that is not base64url.
    #[error("the {part} of the license is not base64url: it was cut or changed, paste it again")]
    Encoding {
        /// Which part.
        part: TokenPart,
    },
    /// A part that is no JSON object of the expected form.
    #[error(
        "the {part} of the license is not the JSON object it should be: this is not a Bytebase license, or it was changed"
    )]
    Json {
        /// Which part.
        part: TokenPart,
    },
    /// HS256, PS256, none…
    #[error(
        "the license is not signed with RS256, RS384 or RS512: Bytebase takes no other algorithm"
    )]
    Algorithm,
    /// A key id other than `v1`.
    #[error("the license does not name the key `v1`: it is not one Bytebase issued")]
    KeyId,
    /// An issuer other than `bytebase`.
    #[error("the license was not issued by `bytebase`: it is a token of something else")]
    Issuer,
    /// An audience without `bb.license`.
    #[error(
        "the token is not meant to be a license (its audience lacks `bb.license`): it is another kind of Bytebase token"
    )]
    Audience,
    /// An unknown plan.
    #[error("the license names no known plan (FREE, TEAM or ENTERPRISE)")]
    Plan,
    /// A time that is none.
    #[error("the claim `{claim}` of the license is not a time")]
    Time {
        /// `exp` or `nbf`.
        claim: &'static str,
    },
    /// The signature was not made with the key.
    #[error(
        "the signature of the license does not fit the verification key: it was changed, or the key is the wrong one"
    )]
    Signature,
}

/// The parts of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenPart {
    /// Says how it is signed.
    Header,
    /// The claims.
    Payload,
    /// Proves the other two.
    Signature,
}

/// Why a text is no verification key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LicenseKeyError {
    /// A private key, which has no business here.
    #[error(
        "the verification key is a private key: give the public one, and replace this one since it has been exposed"
    )]
    Private,
    /// Not a PEM file with an RSA public key.
    #[error(
        "the verification key is not an RSA public key in PEM form (-----BEGIN PUBLIC KEY-----)"
    )]
    NotAnRsaPublicKey,
}

/// A real license has less than 2,000 characters.
const MAX_LENGTH: usize = 16 * 1024;

/// Enough for a name, little enough for a status.
const MAX_TEXT: usize = 256;

/// Seconds that `jiff` can hold, far beyond any license.
const MAX_SECONDS: f64 = 253_402_207_200.0;

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
}

/// Bytebase reads a claim that is null as one that is absent.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    iss: Option<String>,
    aud: Option<Audience>,
    nbf: Option<serde_json::Number>,
    exp: Option<serde_json::Number>,
    plan: Option<String>,
    ha: Option<bool>,
    trialing: Option<bool>,
    instance: Option<i64>,
    instance_count: Option<i64>,
    seat: Option<i64>,
    org_name: Option<String>,
    workspace_id: Option<String>,
}

/// JWT allows one audience or several.
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

struct Token {
    /// Header and payload, as they were signed.
    message: String,
    payload: Vec<u8>,
    signature: String,
    algorithm: Algorithm,
}

// === impl License ===

impl License {
    /// Reads the claims of a token **without verifying its signature**. Blanks and line breaks
    /// anywhere are ignored.
    pub fn decode(token: &str) -> Result<Self, LicenseError> {
        Self::from_payload(&Token::split(token)?.payload)
    }

    /// Reads the claims of a token whose signature fits the key.
    pub fn verify(token: &str, key: &LicenseKey) -> Result<Self, LicenseError> {
        let token = Token::split(token)?;
        let verified = jsonwebtoken::crypto::verify(
            &token.signature,
            token.message.as_bytes(),
            &key.0,
            token.algorithm,
        );
        if !verified.unwrap_or(false) {
            return Err(LicenseError::Signature);
        }
        Self::from_payload(&token.payload)
    }

    /// Whether the license holds `now`, in that workspace if one is known.
    ///
    /// The workspace is compared as Bytebase compares it: only for an ENTERPRISE license that is no
    /// trial and is bound to one.
    pub fn validity(&self, now: Timestamp, workspace_id: Option<&str>) -> LicenseValidity {
        if self.not_before.is_some_and(|not_before| now < not_before) {
            return LicenseValidity::NotYetValid;
        }
        if self.expires_at.is_some_and(|expires_at| now >= expires_at) {
            return LicenseValidity::Expired;
        }
        let bound = self
            .workspace_id
            .as_deref()
            .filter(|_| self.plan == Plan::Enterprise && !self.trialing);
        match (bound, workspace_id) {
            (Some(bound), Some(actual)) if bound != actual => LicenseValidity::OtherWorkspace,
            _ => LicenseValidity::Valid,
        }
    }

    fn from_payload(payload: &[u8]) -> Result<Self, LicenseError> {
        let claims: Claims = serde_json::from_slice(payload).map_err(|_| LicenseError::Json {
            part: TokenPart::Payload,
        })?;
        if claims.iss.as_deref() != Some("bytebase") {
            return Err(LicenseError::Issuer);
        }
        if !claims
            .aud
            .is_some_and(|audience| audience.contains("bb.license"))
        {
            return Err(LicenseError::Audience);
        }
        let plan = match claims.plan.as_deref() {
            Some("FREE") => Plan::Free,
            Some("TEAM") => Plan::Team,
            Some("ENTERPRISE") => Plan::Enterprise,
            _ => return Err(LicenseError::Plan),
        };
        Ok(Self {
            plan,
            ha: claims.ha.unwrap_or_default(),
            trialing: claims.trialing.unwrap_or_default(),
            instance: claims.instance,
            instance_count: claims.instance_count,
            seat: claims.seat,
            organization: claims
                .org_name
                .unwrap_or_default()
                .chars()
                .filter(|c| !c.is_control())
                .take(MAX_TEXT)
                .collect(),
            workspace_id: claims.workspace_id.filter(|id| !id.is_empty()),
            not_before: claims
                .nbf
                .map(|number| timestamp(&number, "nbf"))
                .transpose()?,
            expires_at: claims
                .exp
                .map(|number| timestamp(&number, "exp"))
                .transpose()?,
        })
    }
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Many(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

/// JWT's NumericDate: seconds, possibly with a fraction.
fn timestamp(number: &serde_json::Number, claim: &'static str) -> Result<Timestamp, LicenseError> {
    let error = LicenseError::Time { claim };
    if let Some(seconds) = number.as_i64() {
        return Timestamp::from_second(seconds).map_err(|_| error);
    }
    let seconds = number
        .as_f64()
        .filter(|seconds| seconds.abs() < MAX_SECONDS)
        .ok_or(error)?;
    let duration = jiff::SignedDuration::try_from_secs_f64(seconds).map_err(|_| error)?;
    Timestamp::from_duration(duration).map_err(|_| error)
}

// === impl Token ===

impl Token {
    fn split(text: &str) -> Result<Self, LicenseError> {
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        if text.is_empty() {
            return Err(LicenseError::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(LicenseError::TooLong { length: text.len() });
        }
        let parts: Vec<&str> = text.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(LicenseError::NotAToken { parts: parts.len() });
        };
        let decode = |part, text: &str| {
            BASE64URL
                .decode(text)
                .map_err(|_| LicenseError::Encoding { part })
        };
        let header_json = decode(TokenPart::Header, header)?;
        let payload_json = decode(TokenPart::Payload, payload)?;
        decode(TokenPart::Signature, signature)?;
        let Header { alg, kid } =
            serde_json::from_slice(&header_json).map_err(|_| LicenseError::Json {
                part: TokenPart::Header,
            })?;
        let algorithm = match alg.as_str() {
            "RS256" => Algorithm::RS256,
            "RS384" => Algorithm::RS384,
            "RS512" => Algorithm::RS512,
            _ => return Err(LicenseError::Algorithm),
        };
        if kid.as_deref() != Some("v1") {
            return Err(LicenseError::KeyId);
        }
        Ok(Self {
            message: format!("{header}.{payload}"),
            payload: payload_json,
            signature: signature.to_owned(),
            algorithm,
        })
    }
}

/// base64url without padding, as JWT uses it. The bits beyond the last whole byte carry nothing, so
/// any value of them is read.
const BASE64URL: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(true),
);

impl fmt::Display for TokenPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Free => "FREE",
            Self::Team => "TEAM",
            Self::Enterprise => "ENTERPRISE",
        })
    }
}

// === impl LicenseKey ===

impl LicenseKey {
    /// Reads an RSA public key in PEM form.
    pub fn from_pem(pem: &[u8]) -> Result<Self, LicenseKeyError> {
        const PRIVATE: &[u8] = b"PRIVATE KEY-----";
        if pem.windows(PRIVATE.len()).any(|window| window == PRIVATE) {
            return Err(LicenseKeyError::Private);
        }
        DecodingKey::from_rsa_pem(pem)
            .map(Self)
            .map_err(|_| LicenseKeyError::NotAnRsaPublicKey)
    }
}

impl fmt::Debug for LicenseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LicenseKey(RSA public key)")
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};
    use std::sync::LazyLock;
    use testkit::license::{Signer, header, token};

    static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::generate);

    const NOW: &str = "2026-06-01T00:00:00Z";

    fn key(signer: &Signer) -> LicenseKey {
        LicenseKey::from_pem(signer.public_pem().as_bytes()).expect("a key")
    }

    fn url64(bytes: &[u8]) -> String {
        BASE64URL.encode(bytes)
    }

    fn unsigned(header: &Value, claims: &Value) -> String {
        token(header, claims, b"no signature")
    }

    fn claims() -> Value {
        json!({
            "iss": "bytebase", "aud": ["bb.license"], "sub": "x", "iat": 1_700_000_000, "exp": 1_800_000_000,
            "plan": "ENTERPRISE", "ha": true, "trialing": false, "instance": 50, "instanceCount": 20, "seat": 10,
            "orgName": "Example", "workspaceId": "ws-1",
        })
    }

    /// The claims with one of them set, or removed when null.
    fn claims_with(name: &str, value: Value) -> Value {
        let mut claims = claims();
        let map = claims.as_object_mut().expect("an object");
        if value.is_null() {
            map.remove(name);
        } else {
            map.insert(name.to_owned(), value);
        }
        claims
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_license_shows_its_claims() {
        let license = License::decode(&unsigned(&header(), &claims())).expect("a license");
        assert_eq!(
            license,
            License {
                plan: Plan::Enterprise,
                ha: true,
                trialing: false,
                instance: Some(50),
                instance_count: Some(20),
                seat: Some(10),
                organization: "Example".into(),
                workspace_id: Some("ws-1".into()),
                not_before: None,
                expires_at: Some(at("2027-01-15T08:00:00Z")),
            }
        );
    }

    #[test]
    fn line_breaks_and_blanks_do_not_matter() {
        let token = unsigned(&header(), &claims());
        let wrapped: String = token
            .as_bytes()
            .chunks(60)
            .flat_map(|line| [std::str::from_utf8(line).expect("ASCII"), "\r\n "])
            .collect();
        assert_eq!(
            License::decode(&format!("\n{wrapped}\n")),
            License::decode(&token)
        );
    }

    #[test]
    fn claims_that_are_absent_have_the_careful_meaning() {
        let license = License::decode(&unsigned(
            &header(),
            &json!({"iss": "bytebase", "aud": "bb.license", "plan": "TEAM"}),
        ))
        .expect("a license");
        assert!(!license.ha);
        assert_eq!((license.expires_at, license.workspace_id), (None, None));
    }

    #[test]
    fn a_claim_that_is_null_is_read_as_one_that_is_absent() {
        let all = [
            "iss",
            "aud",
            "nbf",
            "exp",
            "plan",
            "ha",
            "trialing",
            "instance",
            "instanceCount",
            "seat",
            "orgName",
            "workspaceId",
        ];
        for name in all {
            let absent = claims_with(name, Value::Null);
            let mut null = claims();
            null[name] = Value::Null;
            let [null, absent] =
                [null, absent].map(|claims| License::decode(&unsigned(&header(), &claims)));
            assert_eq!(null, absent, "{name}");
            let is_needed = ["iss", "aud", "plan"].contains(&name);
            assert_eq!(null.is_err(), is_needed, "{name}");
        }
    }

    #[test]
    fn each_wrong_header_and_claim_has_its_own_reason() {
        use LicenseError as E;
        for (header, expected) in [
            (json!({"alg": "HS256", "kid": "v1"}), E::Algorithm),
            (json!({"alg": "PS256", "kid": "v1"}), E::Algorithm),
            (json!({"alg": "none", "kid": "v1"}), E::Algorithm),
            (json!({"alg": "rs256", "kid": "v1"}), E::Algorithm),
            (json!({"alg": "RS256", "kid": "v2"}), E::KeyId),
            (json!({"alg": "RS256"}), E::KeyId),
            (
                json!({"kid": "v1"}),
                E::Json {
                    part: TokenPart::Header,
                },
            ),
            (
                json!([]),
                E::Json {
                    part: TokenPart::Header,
                },
            ),
        ] {
            assert_eq!(
                License::decode(&unsigned(&header, &claims())),
                Err(expected),
                "{header}"
            );
        }
        for (claims, expected) in [
            (claims_with("iss", json!("other")), E::Issuer),
            (claims_with("iss", Value::Null), E::Issuer),
            (claims_with("aud", json!(["bb.user"])), E::Audience),
            (claims_with("aud", json!("bb.user")), E::Audience),
            (claims_with("aud", json!([])), E::Audience),
            (claims_with("aud", Value::Null), E::Audience),
            (claims_with("plan", json!("PLATINUM")), E::Plan),
            (claims_with("plan", json!("enterprise")), E::Plan),
            (claims_with("plan", Value::Null), E::Plan),
            (claims_with("exp", json!(1e18)), E::Time { claim: "exp" }),
            (
                claims_with("exp", json!(u64::MAX)),
                E::Time { claim: "exp" },
            ),
            (
                claims_with("nbf", json!(i64::MIN)),
                E::Time { claim: "nbf" },
            ),
            (
                claims_with("exp", json!("tomorrow")),
                E::Json {
                    part: TokenPart::Payload,
                },
            ),
            (
                claims_with("ha", json!("yes")),
                E::Json {
                    part: TokenPart::Payload,
                },
            ),
            (
                json!("text"),
                E::Json {
                    part: TokenPart::Payload,
                },
            ),
        ] {
            assert_eq!(
                License::decode(&unsigned(&header(), &claims)),
                Err(expected),
                "{claims}"
            );
        }
    }

    #[test]
    fn what_is_no_token_is_recognized_by_its_shape() {
        use LicenseError as E;
        let long = "a".repeat(MAX_LENGTH + 1);
        for (text, expected) in [
            ("", E::Empty),
            (" \n\t", E::Empty),
            (
                long.as_str(),
                E::TooLong {
                    length: MAX_LENGTH + 1,
                },
            ),
            ("token", E::NotAToken { parts: 1 }),
            ("a.b", E::NotAToken { parts: 2 }),
            ("a.b.c.d", E::NotAToken { parts: 4 }),
            (
                "..",
                E::Json {
                    part: TokenPart::Header,
                },
            ),
            (
                "a.e30.e30",
                E::Encoding {
                    part: TokenPart::Header,
                },
            ),
            (
                "e30=.e30.e30",
                E::Encoding {
                    part: TokenPart::Header,
                },
            ),
            (
                "e30.e+0.e30",
                E::Encoding {
                    part: TokenPart::Payload,
                },
            ),
            (
                "e30.e30.é",
                E::Encoding {
                    part: TokenPart::Signature,
                },
            ),
            (
                "e30.e30.e30",
                E::Json {
                    part: TokenPart::Header,
                },
            ),
        ] {
            assert_eq!(License::decode(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_license_holds_from_its_first_moment_until_before_its_last() {
        let claims = json!({"iss": "bytebase", "aud": "bb.license", "plan": "TEAM", "ha": true,
            "nbf": 1_780_000_000, "exp": 1_790_000_000.5});
        let license = License::decode(&unsigned(&header(), &claims)).expect("a license");
        let start = Timestamp::from_second(1_780_000_000).expect("a time");
        let end = Timestamp::from_millisecond(1_790_000_000_500).expect("a time");
        let moment = jiff::SignedDuration::from_nanos(1);
        for (now, expected) in [
            (start - moment, LicenseValidity::NotYetValid),
            (start, LicenseValidity::Valid),
            (end - moment, LicenseValidity::Valid),
            (end, LicenseValidity::Expired),
        ] {
            assert_eq!(license.validity(now, None), expected, "{now}");
        }
    }

    #[test]
    fn only_a_paid_enterprise_license_is_bound_to_its_workspace() {
        use LicenseValidity::{OtherWorkspace, Valid};
        for (plan, trialing, bound_to, workspace, expected) in [
            ("ENTERPRISE", false, "ws-1", Some("ws-1"), Valid),
            ("ENTERPRISE", false, "ws-1", Some("ws-2"), OtherWorkspace),
            ("ENTERPRISE", false, "ws-1", None, Valid),
            ("ENTERPRISE", false, "", Some("ws-2"), Valid),
            ("ENTERPRISE", true, "ws-1", Some("ws-2"), Valid),
            ("TEAM", false, "ws-1", Some("ws-2"), Valid),
        ] {
            let mut claims = claims_with("plan", json!(plan));
            claims["trialing"] = json!(trialing);
            claims["workspaceId"] = json!(bound_to);
            let license = License::decode(&unsigned(&header(), &claims)).expect("a license");
            assert_eq!(
                license.validity(at(NOW), workspace),
                expected,
                "{claims} in {workspace:?}"
            );
        }
    }

    #[test]
    fn ha_is_independent_of_the_plan() {
        for (plan, ha) in [("FREE", true), ("TEAM", true), ("ENTERPRISE", false)] {
            let mut claims = claims_with("plan", json!(plan));
            claims["ha"] = json!(ha);
            let license = License::decode(&unsigned(&header(), &claims)).expect("a license");
            assert_eq!(license.ha, ha, "{plan}");
        }
    }

    #[test]
    fn a_signature_is_verified_with_every_rsa_hash() {
        let key = key(&SIGNER);
        for algorithm in ["RS256", "RS384", "RS512"] {
            let token = SIGNER.sign_under(&json!({"alg": algorithm, "kid": "v1"}), &claims());
            assert_eq!(
                License::verify(&token, &key),
                License::decode(&token),
                "{algorithm}"
            );
            assert!(License::verify(&token, &key).is_ok(), "{algorithm}");
        }
    }

    #[test]
    fn a_changed_license_or_another_key_is_refused() {
        let own = key(&SIGNER);
        let good = SIGNER.sign(&claims_with("ha", json!(false)));
        assert!(License::verify(&good, &own).is_ok());
        let (_, signature) = good.rsplit_once('.').expect("a token");
        let forged = unsigned(&header(), &claims());
        let (message, _) = forged.rsplit_once('.').expect("a token");
        let swapped = SIGNER.sign_under(&json!({"alg": "RS512", "kid": "v1"}), &claims());
        let (message_512, _) = swapped.rsplit_once('.').expect("a token");
        for (token, key) in [
            (format!("{message}.{signature}"), &own),
            (format!("{message_512}.{signature}"), &own),
            (good, &key(&Signer::generate())),
        ] {
            assert_eq!(License::verify(&token, key), Err(LicenseError::Signature));
        }
    }

    #[test]
    fn a_private_key_and_other_texts_are_no_verification_key() {
        for (pem, expected) in [
            ("", LicenseKeyError::NotAnRsaPublicKey),
            ("nonsense", LicenseKeyError::NotAnRsaPublicKey),
            (
                "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
                LicenseKeyError::NotAnRsaPublicKey,
            ),
            (
                "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
                LicenseKeyError::Private,
            ),
            (
                "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n",
                LicenseKeyError::Private,
            ),
        ] {
            assert_eq!(
                LicenseKey::from_pem(pem.as_bytes()).expect_err(pem),
                expected
            );
        }
    }

    #[test]
    fn the_organization_is_fit_to_be_printed() {
        let name = format!("A\u{1b}[31mcme\n{}", "x".repeat(1000));
        let license = License::decode(&unsigned(&header(), &claims_with("orgName", json!(name))))
            .expect("a license");
        assert!(license.organization.starts_with("A[31mcmex"));
        assert_eq!(license.organization.chars().count(), MAX_TEXT);
    }

    #[test]
    fn bits_that_carry_nothing_are_passed_over_and_padding_is_refused() {
        assert_eq!(BASE64URL.decode("QQ").ok(), Some(b"A".to_vec()));
        assert_eq!(BASE64URL.decode("QR").ok(), Some(b"A".to_vec()));
        assert!(BASE64URL.decode("QQ==").is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*|[A-Za-z0-9_.-]{0,60}") {
            let _ = License::decode(&text);
        }

        #[test]
        fn any_payload_is_read_without_a_panic(payload: Vec<u8>, number: f64) {
            let token = |payload: &[u8]| format!("{}.{}.e30", url64(header().to_string().as_bytes()), url64(payload));
            let _ = License::decode(&token(&payload));
            let _ = License::decode(&unsigned(&header(), &claims_with("exp", json!(number))));
        }

        #[test]
        fn base64url_reads_back_what_was_written(bytes: Vec<u8>) {
            prop_assert_eq!(BASE64URL.decode(url64(&bytes)), Ok(bytes));
        }

        #[test]
        fn no_piece_of_a_broken_token_is_in_the_error(cut in 0_usize..300, insert in "[!%.=é ]") {
            let token = unsigned(&header(), &claims());
            let cut = cut.min(token.len());
            let broken = format!("{}{insert}{}", &token[..cut], &token[cut..]);
            if let Err(error) = License::decode(&broken) {
                let texts = format!("{error} {error:?}");
                for start in 0..token.len() - 8 {
                    prop_assert!(!texts.contains(&token[start..start + 8]));
                }
            }
        }
    }
}
