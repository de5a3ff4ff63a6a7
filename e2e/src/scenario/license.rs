//! Licenses for the tests: signed with a key pair of our own, whose public half the stand-in and
//! the operator are given in place of Bytebase's.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use jiff::{SignedDuration, Timestamp};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pem::{EncodeConfig, LineEnding, Pem};
use serde_json::json;

use crate::session::state::write_private;

/// Name of the key that Bytebase expects in the header of a license.
const KEY_ID: &str = "v1";
const ISSUER: &str = "bytebase";
const AUDIENCE: &str = "bb.license";
const A_YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);

/// A key pair that signs licenses.
#[derive(Clone)]
pub struct LicenseKey {
    private: EncodingKey,
    public: String,
}

/// What a license says. The default is a year of the plan that allows everything.
#[derive(Debug, Clone)]
pub struct License {
    /// `FREE`, `TEAM` or `ENTERPRISE`.
    pub plan: &'static str,
    /// Whether more than one replica may run.
    pub ha: bool,
    /// `None` never expires.
    pub expires: Option<Timestamp>,
    /// Compared by Bytebase if it is not empty, on an `ENTERPRISE` plan that is no trial.
    pub workspace_id: String,
    pub trialing: bool,
    pub organization: String,
    pub instances: u32,
    pub seats: u32,
}

impl Default for License {
    fn default() -> Self {
        Self {
            plan: "ENTERPRISE",
            ha: true,
            expires: Some(Timestamp::now() + A_YEAR),
            workspace_id: String::new(),
            trialing: false,
            organization: "End-to-end tests".to_owned(),
            instances: 100,
            seats: 100,
        }
    }
}

impl License {
    /// The same license with or without high availability.
    #[must_use]
    pub fn ha(mut self, ha: bool) -> Self {
        self.ha = ha;
        self
    }

    /// The same license, expiring this long from now; a negative duration has expired already.
    #[must_use]
    pub fn expires_in(mut self, duration: SignedDuration) -> Self {
        self.expires = Some(Timestamp::now() + duration);
        self
    }
}

impl LicenseKey {
    /// The key pair of this folder, made at the first call.
    pub fn open(folder: &Path) -> Result<Self> {
        let (private, public) = (folder.join("license.key"), folder.join("license.pub"));
        if !(private.is_file() && public.is_file()) {
            fs::create_dir_all(folder)?;
            let pair = KeyPair::generate(KeySize::Rsa2048).context("cannot make an RSA key")?;
            let pkcs8: Pkcs8V1Der<'_> = pair.as_der().context("cannot encode the key")?;
            let x509: PublicKeyX509Der<'_> = pair
                .public_key()
                .as_der()
                .context("cannot encode the key")?;
            write_private(&private, encode("PRIVATE KEY", pkcs8.as_ref()).as_bytes())?;
            fs::write(&public, encode("PUBLIC KEY", x509.as_ref()))?;
        }
        Ok(Self {
            private: EncodingKey::from_rsa_pem(&fs::read(private)?)?,
            public: fs::read_to_string(public)?,
        })
    }

    /// The public half, as PEM.
    pub fn public_pem(&self) -> &str {
        &self.public
    }

    /// The license as the text a customer would be sent.
    pub fn sign(&self, license: &License) -> Result<String> {
        let License {
            plan,
            ha,
            expires,
            workspace_id,
            trialing,
            organization,
            instances,
            seats,
        } = license;
        let mut claims = json!({
            "iss": ISSUER,
            "aud": [AUDIENCE],
            "iat": Timestamp::now().as_second(),
            "plan": plan,
            "ha": ha,
            "workspaceId": workspace_id,
            "trialing": trialing,
            "orgName": organization,
            "instance": instances,
            "instanceCount": instances,
            "seat": seats,
        });
        if let Some(expires) = expires {
            claims["exp"] = expires.as_second().into();
        }
        let mut header = Header::new(Algorithm::RS256);
        header.kid = Some(KEY_ID.to_owned());
        Ok(jsonwebtoken::encode(&header, &claims, &self.private)?)
    }
}

fn encode(label: &str, der: &[u8]) -> String {
    let configuration = EncodeConfig::new().set_line_ending(LineEnding::LF);
    pem::encode_config(&Pem::new(label, der), configuration)
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{DecodingKey, Validation, decode};
    use serde_json::Value;

    use super::*;

    fn read(key: &LicenseKey, token: &str) -> Result<jsonwebtoken::TokenData<Value>> {
        let mut rules = Validation::new(Algorithm::RS256);
        rules.set_audience(&[AUDIENCE]);
        rules.set_issuer(&[ISSUER]);
        let public = DecodingKey::from_rsa_pem(key.public_pem().as_bytes())?;
        Ok(decode(token, &public, &rules)?)
    }

    #[test]
    fn a_license_verifies_with_the_public_half() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let key = LicenseKey::open(folder.path())?;
        let data = read(&key, &key.sign(&License::default())?)?;
        assert_eq!(data.header.kid.as_deref(), Some("v1"));
        assert_eq!(data.claims["ha"], true);
        assert_eq!(data.claims["plan"], "ENTERPRISE");
        Ok(())
    }

    #[test]
    fn the_key_pair_stays_the_same() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let first = LicenseKey::open(folder.path())?;
        let second = LicenseKey::open(folder.path())?;
        assert_eq!(first.public_pem(), second.public_pem());
        read(&first, &second.sign(&License::default())?)?;
        Ok(())
    }

    #[test]
    fn an_expired_license_and_a_foreign_one_do_not_verify() -> Result<()> {
        let (one, two) = (tempfile::tempdir()?, tempfile::tempdir()?);
        let (own, foreign) = (LicenseKey::open(one.path())?, LicenseKey::open(two.path())?);
        let expired = License::default().expires_in(SignedDuration::from_hours(-1));
        assert!(read(&own, &own.sign(&expired)?).is_err());
        assert!(read(&own, &foreign.sign(&License::default())?).is_err());
        Ok(())
    }
}
