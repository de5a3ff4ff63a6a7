//! Licenses for the tests: signed with a key pair of our own, whose public half the stand-in and
//! the operator are given in place of Bytebase's.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::path::Path;
use testkit::license::{Signer, claims};

const A_YEAR: SignedDuration = SignedDuration::from_hours(365 * 24);

/// A key pair that signs licenses.
#[derive(Clone)]
pub struct LicenseKey(Signer);

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
        Signer::open(folder).map(Self)
    }

    /// The public half, as PEM.
    pub fn public_pem(&self) -> &str {
        self.0.public_pem()
    }

    /// The license as the text a customer would be sent.
    pub fn sign(&self, license: &License) -> String {
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
        self.0.sign(&claims(&json!({
            "iat": Timestamp::now().as_second(),
            "exp": expires.map(Timestamp::as_second),
            "plan": plan,
            "ha": ha,
            "workspaceId": workspace_id,
            "trialing": trialing,
            "orgName": organization,
            "instance": instances,
            "instanceCount": instances,
            "seat": seats,
        })))
    }
}
