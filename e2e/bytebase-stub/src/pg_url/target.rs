//! The merged settings as a list of connection attempts, in the driver's order.

use super::{PgUrlError, Settings, files};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use std::time::Duration;

/// Settings that configure the driver; every other one is a parameter for the server.
const FOR_THE_DRIVER: [&str; 22] = [
    "host",
    "port",
    "database",
    "user",
    "password",
    "passfile",
    "connect_timeout",
    "sslmode",
    "sslkey",
    "sslcert",
    "sslrootcert",
    "sslpassword",
    "sslsni",
    "krbspn",
    "krbsrvname",
    "target_session_attrs",
    "service",
    "servicefile",
    "application_name",
    "default_query_exec_mode",
    "statement_cache_capacity",
    "description_cache_capacity",
];

/// The `sslrootcert` that is no file.
pub const SYSTEM: &str = "system";

/// Where the metadata database is and how to get in. Holds the password, so it cannot be printed.
#[derive(Clone)]
pub struct PgTarget {
    attempts: Vec<Attempt>,
    requirement: SessionRequirement,
    connect_timeout: Option<Duration>,
}

/// One host with one way of encryption.
#[derive(Clone)]
pub struct Attempt {
    /// Everything the connection needs.
    pub options: PgConnectOptions,
    /// Whether this attempt encrypts.
    pub encrypted: bool,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionRequirement {
    /// Whatever answers.
    Any,
    /// A session that may write.
    ReadWrite,
    /// A session that may not.
    ReadOnly,
    /// Not in recovery.
    Primary,
    /// In recovery.
    Standby,
    /// In recovery if there is one, else whatever answers.
    PreferStandby,
}

impl PgTarget {
    /// The attempts in their order.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// What a session must be.
    pub fn requirement(&self) -> SessionRequirement {
        self.requirement
    }

    /// How long one attempt may take; without end when it is not set.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }
}

impl SessionRequirement {
    /// The rounds over all attempts, each with what it asks.
    pub fn rounds(self) -> &'static [SessionRequirement] {
        match self {
            Self::Any => &[Self::Any],
            Self::ReadWrite => &[Self::ReadWrite],
            Self::ReadOnly => &[Self::ReadOnly],
            Self::Primary => &[Self::Primary],
            Self::Standby => &[Self::Standby],
            Self::PreferStandby => &[Self::Standby, Self::Any],
        }
    }

    /// Whether a session with these properties will do.
    pub fn accepts(self, in_recovery: bool, read_only: bool) -> bool {
        match self {
            Self::Any | Self::PreferStandby => true,
            Self::ReadWrite => !read_only,
            Self::ReadOnly => read_only,
            Self::Primary => !in_recovery,
            Self::Standby => in_recovery,
        }
    }
}

/// Checks the settings and spells out the attempts.
pub fn build(settings: &Settings) -> Result<PgTarget, PgUrlError> {
    let get = |key: &str| {
        settings
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    };
    let requirement = parse_requirement(get("target_session_attrs"))?;
    let connect_timeout = get("connect_timeout")
        .map(|text| match text.parse::<u64>() {
            Ok(seconds) => Ok(seconds),
            Err(_) => refuse("connect_timeout", "not a number of seconds"),
        })
        .transpose()?
        .filter(|seconds| *seconds > 0)
        .map(Duration::from_secs);
    check_driver_settings(settings)?;

    let mut attempts = Vec::new();
    for (host, port) in hosts(settings)? {
        let options = base_options(settings, &host, port)?;
        if host.starts_with('/') {
            // A socket is never encrypted, and no file of certificates is opened for it.
            attempts.push(Attempt {
                encrypted: false,
                options: options.ssl_mode(PgSslMode::Disable),
            });
            continue;
        }
        let options = with_certificates(options, settings)?;
        for mode in modes(get("sslmode").unwrap_or("prefer"), get("sslrootcert"))? {
            attempts.push(Attempt {
                encrypted: !matches!(mode, PgSslMode::Disable),
                options: options.clone().ssl_mode(mode),
            });
        }
    }
    Ok(PgTarget {
        attempts,
        requirement,
        connect_timeout,
    })
}

fn refuse<T>(key: &'static str, reason: impl Into<String>) -> Result<T, PgUrlError> {
    Err(PgUrlError::Setting {
        key,
        reason: reason.into(),
    })
}

fn parse_requirement(text: Option<&str>) -> Result<SessionRequirement, PgUrlError> {
    match text.unwrap_or("any") {
        "any" => Ok(SessionRequirement::Any),
        "read-write" => Ok(SessionRequirement::ReadWrite),
        "read-only" => Ok(SessionRequirement::ReadOnly),
        "primary" => Ok(SessionRequirement::Primary),
        "standby" => Ok(SessionRequirement::Standby),
        "prefer-standby" => Ok(SessionRequirement::PreferStandby),
        _ => refuse("target_session_attrs", "unknown value"),
    }
}

/// These have no effect here, but the driver refuses a malformed one, and so the start fails with
/// it.
fn check_driver_settings(settings: &Settings) -> Result<(), PgUrlError> {
    for key in ["statement_cache_capacity", "description_cache_capacity"] {
        if settings
            .get(key)
            .is_some_and(|text| text.parse::<i32>().is_err())
        {
            return refuse(key, "not a number");
        }
    }
    let modes = [
        "cache_statement",
        "cache_describe",
        "describe_exec",
        "exec",
        "simple_protocol",
    ];
    if settings
        .get("default_query_exec_mode")
        .is_some_and(|mode| !modes.contains(&mode.as_str()))
    {
        return refuse("default_query_exec_mode", "unknown value");
    }
    Ok(())
}

fn hosts(settings: &Settings) -> Result<Vec<(String, u16)>, PgUrlError> {
    let list = |key: &str| {
        settings
            .get(key)
            .map(String::as_str)
            .unwrap_or_default()
            .split(',')
    };
    let ports = list("port")
        .map(|text| match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            _ => refuse("port", "not a port"),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(list("host")
        .enumerate()
        .map(|(at, host)| (host.to_owned(), *ports.get(at).unwrap_or(&ports[0])))
        .collect())
}

/// The encryption of the first and, where the mode has one, of the second try.
fn modes(text: &str, root: Option<&str>) -> Result<Vec<PgSslMode>, PgUrlError> {
    Ok(match text {
        // The driver verifies by the system's authorities, whatever the mode says. This stand-in
        // has none, so no server passes.
        _ if root == Some(SYSTEM) => vec![PgSslMode::VerifyFull],
        "disable" => vec![PgSslMode::Disable],
        "allow" => vec![PgSslMode::Disable, PgSslMode::Require],
        // Not the library's own `Prefer`, which goes on in the clear within one attempt.
        "prefer" => vec![PgSslMode::Require, PgSslMode::Disable],
        // With a root certificate the driver verifies it, as libpq does.
        "require" if root.is_some() => vec![PgSslMode::VerifyCa],
        "require" => vec![PgSslMode::Require],
        "verify-ca" => vec![PgSslMode::VerifyCa],
        "verify-full" => vec![PgSslMode::VerifyFull],
        _ => return refuse("sslmode", "unknown value"),
    })
}

/// Every field is set here: the library would otherwise fill it from variables in its own order of
/// precedence.
fn base_options(
    settings: &Settings,
    host: &str,
    port: u16,
) -> Result<PgConnectOptions, PgUrlError> {
    let get = |key: &str| {
        settings
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    };
    let user = get("user").unwrap_or_default();
    let database = get("database").unwrap_or(user);
    let password = get("password")
        .map(str::to_owned)
        .or_else(|| files::password(get("passfile")?, host, port, database, user));
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(host)
        .port(port)
        .username(user)
        .password(&password.unwrap_or_default())
        .database(&with_parameters(database, settings)?)
        // The driver sends none, and poolers refuse it.
        .extra_float_digits(None);
    if let Some(name) = get("application_name") {
        options = options.application_name(name);
    }
    Ok(options)
}

/// The name of the database with the start-up parameters behind it. In the start-up message names
/// and values follow each other, each with a zero byte at its end, and the library has no other
/// place for more of them: it would make `options` of all, which poolers treat differently.
fn with_parameters(database: &str, settings: &Settings) -> Result<String, PgUrlError> {
    let mut text = database.to_owned();
    let mut is_sound = !database.contains('\0');
    for (key, value) in settings {
        if !FOR_THE_DRIVER.contains(&key.as_str()) {
            // No name at all would end the message.
            is_sound &= !key.is_empty() && !key.contains('\0') && !value.contains('\0');
            text.extend(["\0", key, "\0", value]);
        }
    }
    if is_sound {
        Ok(text)
    } else {
        refuse("database", "a zero byte, or a parameter without a name")
    }
}

fn with_certificates(
    mut options: PgConnectOptions,
    settings: &Settings,
) -> Result<PgConnectOptions, PgUrlError> {
    let get = |key: &str| {
        settings
            .get(key)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    };
    if let Some(root) = get("sslrootcert").filter(|root| *root != SYSTEM) {
        // The driver opens it in every mode.
        let Ok(bundle) = std::fs::read(root) else {
            return refuse("sslrootcert", "the file cannot be read");
        };
        let Some(usable) = usable(&bundle) else {
            return refuse("sslrootcert", "the file holds no certificate");
        };
        options = options.ssl_root_cert_from_pem(usable);
    }
    match (get("sslcert"), get("sslkey")) {
        (None, None) => {}
        (Some(certificate), Some(key)) => {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
        _ => return refuse("sslcert", "sslcert and sslkey are needed together"),
    }
    Ok(options)
}

/// The certificates of a bundle, as a bundle of their own. The driver passes over a block that is
/// none, where the library would refuse every server; without any the driver fails as well.
fn usable(bundle: &[u8]) -> Option<Vec<u8>> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----";
    let bundle = String::from_utf8_lossy(bundle);
    let mut usable = String::new();
    for part in bundle.split_inclusive(END) {
        let Some(begin) = part.rfind(BEGIN) else {
            continue;
        };
        let block = &part[begin..];
        let certificate = CertificateDer::from_pem_slice(block.as_bytes());
        if certificate.is_ok_and(|der| RootCertStore::empty().add(der).is_ok()) {
            usable.push_str(block);
            usable.push('\n');
        }
    }
    (!usable.is_empty()).then(|| usable.into_bytes())
}

#[cfg(test)]
impl PgTarget {
    pub fn hosts(&self) -> Vec<(String, u16)> {
        let mut hosts: Vec<_> = self
            .attempts
            .iter()
            .map(|attempt| {
                (
                    attempt.options.get_host().to_owned(),
                    attempt.options.get_port(),
                )
            })
            .collect();
        hosts.dedup();
        hosts
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;
    use testkit::certificates::Authority;

    #[test]
    fn a_bundle_is_read_block_by_block() {
        let good = Authority::new("an authority").certificate();
        let block = |text: &str| {
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        };
        let (broken, hollow) = (block("!!!"), block("MAIwAA=="));
        let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
        for bundle in [
            good.clone(),
            format!("{broken}{good}"),
            format!("{good}{hollow}"),
            format!("# text\n{key}{good}"),
        ] {
            let usable = String::from_utf8(usable(bundle.as_bytes()).unwrap()).unwrap();
            assert_eq!(usable.trim(), good.trim());
        }
        for bundle in ["", &broken, &hollow, key] {
            assert_eq!(usable(bundle.as_bytes()), None, "{bundle}");
        }
    }

    #[test]
    fn require_with_a_root_certificate_verifies_it() {
        assert!(matches!(
            modes("require", Some("/ca")).unwrap()[..],
            [PgSslMode::VerifyCa]
        ));
        for mode in ["disable", "prefer", "verify-ca"] {
            assert!(matches!(
                modes(mode, Some("system")).unwrap()[..],
                [PgSslMode::VerifyFull]
            ));
        }
        assert!(matches!(
            modes("require", None).unwrap()[..],
            [PgSslMode::Require]
        ));
    }

    #[test]
    fn allow_starts_in_the_clear_and_prefer_ends_there() {
        assert!(matches!(
            modes("allow", None).unwrap()[..],
            [PgSslMode::Disable, PgSslMode::Require]
        ));
        assert!(matches!(
            modes("prefer", None).unwrap()[..],
            [PgSslMode::Require, PgSslMode::Disable]
        ));
    }

    #[test]
    fn unknown_settings_become_parameters_for_the_server() {
        let settings = [
            ("host", "h"),
            ("port", "1"),
            ("user", "u"),
            ("schema", "public"),
            ("sslnegotiation", "direct"),
            ("options", "-c geqo=off --work_mem=1MB"),
            ("database", "meta"),
        ];
        let target = build(&settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into()).unwrap();
        let options = &target.attempts()[0].options;
        assert_eq!(options.get_options(), None);
        assert_eq!(
            options.get_database(),
            Some(
                "meta\0options\0-c geqo=off --work_mem=1MB\0schema\0public\0sslnegotiation\0direct"
            )
        );
    }

    #[test]
    fn no_value_is_taken_for_two() {
        for setting in [("search_path", "a\0b"), ("", "a"), ("database", "a\0b\0c")] {
            let settings = [("host", "h"), ("port", "1"), ("user", "u"), setting];
            let settings = settings.map(|(k, v)| (k.to_owned(), v.to_owned()));
            assert!(build(&settings.into()).is_err(), "{setting:?}");
        }
    }
}
