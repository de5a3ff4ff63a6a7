//! The Secrets and ConfigMaps that a cluster names, as they were fetched.

use super::Problem;
use crate::api::Reason;
use crate::api::spec::{BytebaseClusterSpec, ConfigMapKeyRef, SecretKeyRef};
use secrecy::{ExposeSecret as _, SecretSlice, SecretString};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What came of reading one object.
#[derive(Clone)]
pub enum Fetched {
    /// Its keys and values.
    Present(BTreeMap<String, SecretSlice<u8>>),
    /// There is none of that name.
    Missing,
    /// The operator's role may not read it.
    Forbidden,
    /// The API server has failed at it for long, with this HTTP status, or without an answer.
    Unreadable(Option<u16>),
}

impl Fetched {
    /// Bytes of its values.
    pub fn size(&self) -> usize {
        match self {
            Self::Present(keys) => keys.values().map(|value| value.expose_secret().len()).sum(),
            Self::Missing | Self::Forbidden | Self::Unreadable(_) => 0,
        }
    }
}

impl fmt::Debug for Fetched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Present(keys) => write!(f, "Present({:?})", keys.keys().collect::<Vec<_>>()),
            Self::Missing => f.write_str("Missing"),
            Self::Forbidden => f.write_str("Forbidden"),
            Self::Unreadable(code) => write!(f, "Unreadable({code:?})"),
        }
    }
}

/// Every object a cluster names, by name.
#[derive(Clone, Debug, Default)]
pub struct References {
    /// Secrets.
    pub secrets: BTreeMap<String, Fetched>,
    /// ConfigMaps.
    pub config_maps: BTreeMap<String, Fetched>,
}

impl References {
    /// Whether the API server cannot read one of them.
    pub fn holds_unreadable(&self) -> bool {
        let mut all = self.secrets.values().chain(self.config_maps.values());
        all.any(|fetched| matches!(fetched, Fetched::Unreadable(_)))
    }
}

/// Names of the Secrets and of the ConfigMaps that a spec names and whose values the operator
/// reads.
pub fn wanted_references(spec: &BytebaseClusterSpec) -> (BTreeSet<String>, BTreeSet<String>) {
    let database = &spec.database;
    let secrets = [
        &database.url_secret_ref,
        &database.user_secret_ref,
        &database.password_secret_ref,
        &database.ca_secret_ref,
        &database.monitor_secret_ref,
    ]
    .into_iter()
    .flatten()
    .chain(
        spec.license
            .iter()
            .filter_map(|license| license.secret_ref.as_ref()),
    )
    .map(|reference| reference.name.clone())
    .chain(
        spec.admin
            .iter()
            .map(|admin| admin.credentials_secret_ref.name.clone()),
    )
    .collect();
    let config_maps = database
        .ca_config_map_ref
        .iter()
        .map(|reference| reference.name.clone())
        .collect();
    (secrets, config_maps)
}

impl References {
    /// The bytes behind a Secret key.
    pub(super) fn secret_bytes(
        &self,
        field: &str,
        reference: &SecretKeyRef,
    ) -> Result<SecretSlice<u8>, Problem> {
        lookup(
            field,
            "Secret",
            self.secrets.get(&reference.name),
            &reference.name,
            &reference.key,
        )
    }

    /// The bytes behind a ConfigMap key.
    pub(super) fn config_map_bytes(
        &self,
        field: &str,
        reference: &ConfigMapKeyRef,
    ) -> Result<SecretSlice<u8>, Problem> {
        lookup(
            field,
            "ConfigMap",
            self.config_maps.get(&reference.name),
            &reference.name,
            &reference.key,
        )
    }

    /// The text behind a Secret key, exactly as a container would get it in its environment.
    pub(super) fn secret_text(
        &self,
        field: &str,
        reference: &SecretKeyRef,
    ) -> Result<SecretString, Problem> {
        let bytes = self.secret_bytes(field, reference)?;
        match std::str::from_utf8(bytes.expose_secret()) {
            Ok(text) if !text.trim().is_empty() => Ok(text.to_owned().into()),
            Ok(_) => Err(Problem::blocking(
                field,
                Reason::InvalidSecret,
                format!("{reference} is empty"),
            )),
            Err(_) => Err(Problem::blocking(
                field,
                Reason::InvalidSecret,
                format!("{reference} is not text"),
            )),
        }
    }
}

/// A user or a password out of a Secret. A server compares both byte by byte, and neither is ever
/// meant to end with the line break that `echo` and editors put there.
pub(super) fn login_text(
    field: &str,
    reference: &SecretKeyRef,
    text: &SecretString,
    is_name: bool,
) -> Result<(), Problem> {
    let exposed = text.expose_secret();
    let fault = if exposed.ends_with(['\n', '\r']) {
        "ends with a line break: create the Secret without it (`echo -n`, `printf %s`)"
    } else if exposed.contains('\0') {
        "holds a zero byte, which no environment variable can: remove it"
    } else if is_name && exposed.chars().any(char::is_control) {
        "holds a control character: remove it"
    } else {
        return Ok(());
    };
    Err(Problem::blocking(
        field,
        Reason::InvalidSecret,
        format!("{reference} {fault}"),
    ))
}

fn lookup(
    field: &str,
    kind: &str,
    fetched: Option<&Fetched>,
    name: &str,
    key: &str,
) -> Result<SecretSlice<u8>, Problem> {
    let missing = |message: String| Problem::blocking(field, Reason::ReferenceMissing, message);
    match fetched {
        Some(Fetched::Present(keys)) => keys.get(key).cloned().ok_or_else(|| {
            let has = if keys.is_empty() {
                "none".to_owned()
            } else {
                keys.keys().cloned().collect::<Vec<_>>().join(", ")
            };
            missing(format!("{kind} {name} has no key {key} (its keys: {has})"))
        }),
        Some(Fetched::Forbidden) => Err(missing(format!(
            "the operator may not read {kind} {name}: grant its role get on {}s in this namespace",
            kind.to_lowercase()
        ))),
        Some(Fetched::Unreadable(None)) => Err(missing(format!(
            "{kind} {name} could not be read for over half a minute: the API server has not answered, or not in a form that can be understood. See whether `kubectl get` of it answers"
        ))),
        Some(Fetched::Unreadable(Some(code @ ..500))) => Err(missing(format!(
            "{kind} {name} could not be read for over half a minute: the API server has refused that with HTTP status {code}"
        ))),
        Some(Fetched::Unreadable(Some(code))) => Err(missing(format!(
            "the API server cannot read {kind} {name}: it has answered with HTTP status {code} for over half a minute, as it does where the object cannot be decrypted. If `kubectl get` fails as well, write the object again"
        ))),
        Some(Fetched::Missing) | None => Err(missing(format!(
            "{kind} {name} does not exist in this namespace: create it with the key {key}"
        ))),
    }
}
