//! The license and the admin's login that installs it. Neither ever blocks: Bytebase runs without a
//! license, with one replica.

use super::{Diagnostics, Problem, References};
use crate::api::Reason;
use crate::api::spec::{AdminSpec, Enforcement, LicenseSpec, SecretKeyRef};
use crate::api::status::SignatureState;
use crate::contract::license::{License, LicenseError, LicenseKey};
use secrecy::{ExposeSecret as _, SecretString};

/// The license from the Secret and what to do about licenses.
#[derive(Clone, Debug)]
pub struct ValidLicense {
    /// Enforce or warn.
    pub enforcement: Enforcement,
    /// Whether the spec names a Secret, usable or not.
    pub is_named: bool,
    /// The license in that Secret, if it can be used.
    pub secret: Option<SecretLicense>,
}

/// A license in a Secret.
#[derive(Clone, Debug)]
pub struct SecretLicense {
    /// The token, without blanks.
    pub token: SecretString,
    /// Its claims.
    pub license: License,
    /// What is known of its signature.
    pub signature: SignatureState,
}

/// What the operator does as a workspace admin.
#[derive(Clone, Debug)]
pub struct ValidAdmin {
    /// Make the first admin.
    pub create_first: bool,
    /// The login, if it could be read.
    pub login: Option<AdminLogin>,
}

/// A workspace admin's login.
#[derive(Clone, Debug)]
pub struct AdminLogin {
    /// Email.
    pub email: SecretString,
    /// Password.
    pub password: SecretString,
}

pub(super) fn validate(
    spec: Option<&LicenseSpec>,
    references: &References,
    key: Option<&LicenseKey>,
    diagnostics: &mut Diagnostics,
) -> ValidLicense {
    let reference = spec.and_then(|license| license.secret_ref.as_ref());
    let secret = reference.and_then(|reference| {
        let field = "spec.license.secretRef";
        let text = match references.secret_text(field, reference) {
            Ok(text) => text,
            Err(problem) => {
                diagnostics.problems.push(Problem {
                    blocking: false,
                    ..problem
                });
                return None;
            }
        };
        match read_license(text.expose_secret(), key) {
            Ok(license) => Some(license),
            Err(error) => {
                diagnostics.problems.push(Problem::reported(
                    field,
                    Reason::InvalidSecret,
                    format!("{reference}: {error}"),
                ));
                None
            }
        }
    });
    ValidLicense {
        enforcement: enforcement(spec),
        is_named: reference.is_some(),
        secret,
    }
}

/// What the license gate does, also where the spec says nothing of a license.
pub(super) fn enforcement(spec: Option<&LicenseSpec>) -> Enforcement {
    spec.map(|license| license.enforcement).unwrap_or_default()
}

/// Decodes a license, and verifies it where there is a key.
pub fn read_license(text: &str, key: Option<&LicenseKey>) -> Result<SecretLicense, LicenseError> {
    let token: String = text.split_whitespace().collect();
    let (license, signature) = match key {
        Some(key) => (License::verify(&token, key)?, SignatureState::Verified),
        None => (License::decode(&token)?, SignatureState::Unverified),
    };
    Ok(SecretLicense {
        token: token.into(),
        license,
        signature,
    })
}

pub(super) fn admin(
    admin: &AdminSpec,
    references: &References,
    diagnostics: &mut Diagnostics,
) -> ValidAdmin {
    let field = "spec.admin.credentialsSecretRef";
    let mut read = |key: &str| {
        let reference = SecretKeyRef {
            name: admin.credentials_secret_ref.name.clone(),
            key: key.to_owned(),
        };
        diagnostics.keep(
            references
                .secret_text(field, &reference)
                .map_err(|problem| Problem {
                    blocking: false,
                    ..problem
                }),
        )
    };
    let (email, password) = (read("email"), read("password"));
    // A file or a here-document brings it along, and no user types it when they log in.
    let password = password.filter(|password| {
        let broken = password.expose_secret().ends_with(['\n', '\r']);
        if broken {
            diagnostics.problems.push(Problem::reported(
                field,
                Reason::InvalidSecret,
                format!(
                    "Secret {}, key password ends with a line break, which would become part of the password: write it without one, for example with kubectl create secret --from-literal",
                    admin.credentials_secret_ref.name
                ),
            ));
        }
        !broken
    });
    ValidAdmin {
        create_first: admin.create_first,
        login: email.zip(password).map(|(email, password)| AdminLogin {
            // Bytebase refuses an email with capitals at the sign-up, and finds no account by one
            // at the login.
            email: email.expose_secret().trim().to_lowercase().into(),
            password,
        }),
    }
}
