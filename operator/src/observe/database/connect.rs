//! Logging in, by the same attempts as Bytebase's driver makes, and what their failures come to.

use super::Access;
use super::classify::{self, Place};
use crate::contract::ca_bundle::CaBundle;
use crate::contract::pg_url::PgUrl;
use crate::observation::{FailureClass, FailureReason, ProbeFailure};
use crate::validate::CA_PATH;
use bytebase_login::plan::Endpoint;
use bytebase_login::tls::Authorities;
use bytebase_login::{Error, Failed, LoggedIn, LoginTo, Lookups, log_in};
use jiff::Timestamp;
use rustls::RootCertStore;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::time::timeout;

/// For saying goodbye to a server that may be gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How the operator's sessions are labelled in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "bytebase-operator";

/// The public authorities. They stand for those of the pods, which the operator does not see:
/// Bytebase's image brings the same list. Shared, since a copy takes 190 KiB.
static PUBLIC: LazyLock<Authorities> = LazyLock::new(|| {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter().cloned());
    Authorities::known(store.roots)
});

/// An open session and the server it leads to.
pub struct Dialled {
    /// The session.
    pub connection: PgConnection,
    /// Index into [`PgUrl::hosts`].
    pub host: usize,
    /// The address that was dialled.
    pub address: Option<SocketAddr>,
    /// See [`DatabaseFacts::has_version_1_certificate`](crate::observation::DatabaseFacts).
    pub has_version_1_certificate: bool,
}

// === Dialling ===

/// Logs in to the first acceptable server. `lookups`: those of the cluster.
pub async fn dial(access: &Access, lookups: &Lookups) -> Result<Dialled, ProbeFailure> {
    let url = &access.url;
    check_reach(access)?;
    let authorities = match ca(access) {
        Some(bundle) => Authorities::given(bundle.certificates(), Timestamp::now()),
        None => PUBLIC.clone(),
    };
    let target = LoginTo {
        url,
        authorities: &authorities,
        // The files of a client certificate are in the pod, out of the operator's reach.
        certificate: None,
        reach: access.reach,
        lookups,
        attrs: url.target_session_attrs,
        label: APPLICATION_NAME,
    };
    // Boxed: a login has much to keep, and a probe that waits for its next turn need not carry it.
    let LoggedIn {
        session,
        host,
        endpoint,
    } = Box::pin(log_in(&target))
        .await
        .map_err(|failures| verdict(access, &failures))?;
    let has_version_1_certificate = session.has_version_1_certificate;
    let connection = session.into_sqlx().await.map_err(|error| {
        let place = Place::new(url, &url.hosts[host], &access.login);
        classify::login(&error, &place, url.target_session_attrs)
    })?;
    Ok(Dialled {
        connection,
        host,
        address: match endpoint {
            Endpoint::Tcp(address) => Some(address),
            Endpoint::Socket(_) => None,
        },
        has_version_1_certificate,
    })
}

/// Ends a session politely, so that the server logs nothing.
pub async fn close(connection: PgConnection) {
    let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
}

/// The CA bundle by which the server is verified. One that is given counts for Bytebase only where
/// the connection string names its file, so only there it counts here.
fn ca(access: &Access) -> Option<&CaBundle> {
    let named = access.url.ssl_root_cert.as_deref();
    access.ca.as_ref().filter(|_| named == Some(CA_PATH))
}

/// What Bytebase reaches or trusts inside its pod is not here.
fn check_reach(access: &Access) -> Result<(), ProbeFailure> {
    let url = &access.url;
    for host in &url.hosts {
        let place = Place::new(url, host, &access.login);
        if host.host.starts_with('/') || host.host.starts_with('@') {
            return Err(place.failure(
                FailureClass::Unknown,
                FailureReason::Unreachable,
                "the host is a socket directory in the Bytebase pod, which the operator cannot reach",
            ));
        }
        // A CA named by its path in the pod is one the operator cannot have. Going on without it
        // would hand the password to a server that the user asked to have verified.
        // It is not quoted: what was pasted there in place of a name may be a key.
        if url.verifies() && url.names_a_ca() && ca(access).is_none() {
            return Err(place.failure(
                FailureClass::Unknown,
                FailureReason::TlsFailed,
                &format!(
                    "sslrootcert in the connection string names a CA file in the Bytebase pod, which the operator does not open; give the CA \
                     in database.caSecretRef or database.caConfigMapRef, and name it by sslrootcert={CA_PATH}"
                ),
            ));
        }
    }
    Ok(())
}

/// What the failed attempts come to.
///
/// A refusal that ended the search is the driver's own verdict. Without one, an unreachable server
/// weighs more than one that answered and does not fit: it may be the fitting one.
fn verdict(access: &Access, failures: &[Failed]) -> ProbeFailure {
    let url = &access.url;
    let classified = |failed: &Failed| {
        let place = Place::new(url, &url.hosts[failed.host], &access.login);
        classify::login(&failed.error, &place, url.target_session_attrs)
    };
    if let Some(last) = failures.last().filter(|last| last.is_final()) {
        return classified(last);
    }
    // Of the attempts at one address the one that came furthest counts, and of several the last:
    // the others led to it.
    let counts = failures.iter().enumerate().filter(|(index, failed)| {
        let mut attempts = failures.iter().enumerate();
        !attempts.any(|(other_index, other)| {
            (other.host, &other.endpoint) == (failed.host, &failed.endpoint)
                && (stage(other), other_index) > (stage(failed), *index)
        })
    });
    let mut found: Vec<_> = counts
        .map(|(_, failed)| (failed, classified(failed)))
        .collect();
    let fits_not = |failed: &Failed| matches!(failed.error, Error::Unfit { .. });
    let weighty = found
        .iter()
        .position(|(failed, failure)| !fits_not(failed) && failure.class == FailureClass::Unknown);
    // What is wrong with the primary counts before what is as it should be with its standbys, in
    // whatever order they stand.
    let primary = found
        .iter()
        .rposition(|(failed, _)| matches!(failed.error, Error::Unfit { is_standby: false }));
    let ends_unfit = found.last().is_some_and(|(failed, _)| fits_not(failed));
    let index = weighty
        .or(primary.filter(|_| ends_unfit))
        .unwrap_or_else(|| found.len().saturating_sub(1));
    if index < found.len() {
        return found.swap_remove(index).1;
    }
    ProbeFailure {
        class: FailureClass::Definite,
        reason: FailureReason::Other,
        message: "the connection string names no host".to_owned(),
    }
}

/// How far an attempt came, as far as the attempts at one address differ in it by their protection:
/// where there is no TLS, or no way in without it, the server has not said yet what is wrong.
fn stage(failed: &Failed) -> u8 {
    match &failed.error {
        Error::NoTls => 0,
        Error::Refused(refusal) if !failed.encrypted && refusal.code == "28000" => 1,
        _ => 2,
    }
}

// === Settings ===

/// Settings that the connection string asks the server for, in the order in which it takes them:
/// those in `options` first. Left out are those that only label, format or time-limit the session.
pub(super) fn server_parameters(url: &PgUrl) -> Vec<(String, String)> {
    const OURS: [&str; 6] = [
        "application_name",
        "client_encoding",
        "datestyle",
        "timezone",
        "extra_float_digits",
        "statement_timeout",
    ];
    let options = url.runtime_params.get("options");
    let mut parameters = options.map_or_else(Vec::new, |options| split_options(options));
    let others = url
        .runtime_params
        .iter()
        .filter(|(key, _)| *key != "options");
    parameters.extend(others.map(|(key, value)| (key.clone(), value.clone())));
    parameters.retain(|(key, _)| !OURS.contains(&key.to_ascii_lowercase().as_str()));
    parameters
}

/// The value of one of these settings: of several the last one counts.
pub(super) fn setting<'a>(settings: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let mut settings = settings.iter().rev();
    let (_, value) = settings.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
    Some(value)
}

/// `-c name=value`, `-cname=value` and `--name=value` of an `options` parameter; other switches do
/// not matter to a reader.
fn split_options(options: &str) -> Vec<(String, String)> {
    let mut words: Vec<String> = Vec::new();
    let mut word: Option<String> = None;
    let mut chars = options.chars();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            '\\' => word.get_or_insert_default().extend(chars.next()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);

    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(long) => Some(long.to_owned()),
            None if word == "-c" => words.next(),
            None => word.strip_prefix("-c").map(str::to_owned),
        };
        if let Some((name, value)) = setting.as_deref().and_then(|s| s.split_once('=')) {
            settings.push((name.replace('-', "_"), value.to_owned()));
        }
    }
    settings
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::WhoseLogin;
    use super::*;
    use crate::contract::pg_url::{SslMode, TargetSessionAttrs};
    use crate::testing::CA_CERTIFICATE;
    use bytebase_login::Refusal;
    use bytebase_login::plan::Reach;

    pub(crate) const PASSWORD: &str = "p4ss-w0rd-of-the-test";

    pub(crate) fn url(host: &str, port: u16) -> PgUrl {
        let text = format!("postgres://bytebase:{PASSWORD}@host:{port}/meta?sslmode=disable");
        let mut url = PgUrl::parse(&text).unwrap();
        host.clone_into(&mut url.hosts[0].host);
        url
    }

    /// The login of Bytebase itself, in clear text.
    pub(crate) fn access(url: PgUrl) -> Access {
        Access {
            url,
            ca: None,
            reach: Reach::Anywhere,
            login: WhoseLogin::Bytebase,
            trial: None,
            fingerprint: [0; 32],
        }
    }

    fn failed(host: usize, port: u16, encrypted: bool, error: Error) -> Failed {
        Failed {
            host,
            endpoint: Some(Endpoint::Tcp(([10, 0, 0, 1], port).into())),
            encrypted,
            error,
        }
    }

    fn refused(code: &str) -> Error {
        Error::Refused(Refusal {
            code: code.to_owned(),
            message: "m".to_owned(),
            routine: None,
        })
    }

    #[test]
    fn a_ca_that_the_operator_cannot_have_is_not_done_without() {
        for (mode, path, is_reached) in [
            (SslMode::Prefer, "/etc/ca.pem", true),
            (SslMode::Require, "/etc/ca.pem", false),
            (SslMode::VerifyCa, "/etc/ca.pem", false),
            (SslMode::VerifyFull, "/etc/ca.pem", false),
            (SslMode::Prefer, "system", true),
            (SslMode::VerifyFull, "system", true),
        ] {
            let mut url = url("db", 5432);
            url.ssl_mode = mode;
            url.ssl_root_cert = Some(path.to_owned());
            let reach = check_reach(&access(url));
            assert_eq!(reach.is_ok(), is_reached, "{mode:?} {path}");
            if let Err(failure) = reach {
                assert_eq!(failure.class, FailureClass::Unknown);
                assert_eq!(failure.reason, FailureReason::TlsFailed);
                assert!(!failure.message.contains(path), "{}", failure.message);
            }
        }
    }

    #[test]
    fn a_ca_counts_only_where_the_connection_string_names_its_file() {
        for (path, counts) in [
            (Some(CA_PATH), true),
            (Some("/elsewhere/ca.crt"), false),
            (Some("system"), false),
            (None, false),
        ] {
            let mut access = access(url("db", 5432));
            access.url.ssl_mode = SslMode::VerifyFull;
            access.url.ssl_root_cert = path.map(str::to_owned);
            access.ca = Some(CaBundle::parse(CA_CERTIFICATE.as_bytes()).unwrap());
            assert_eq!(ca(&access).is_some(), counts, "{path:?}");
            let is_unknown = path == Some("/elsewhere/ca.crt");
            assert_eq!(check_reach(&access).is_err(), is_unknown, "{path:?}");
            // Where nothing is verified by it, what is in it does not matter to the operator.
            access.url.ssl_mode = SslMode::Prefer;
            check_reach(&access).unwrap();
        }
    }

    #[test]
    fn a_socket_directory_is_never_opened() {
        // The validation refuses one already; this is the second lock on the same door.
        let url = url("/var/run/postgresql", 5432);
        let failure = check_reach(&access(url)).unwrap_err();
        assert_eq!(failure.class, FailureClass::Unknown);
    }

    fn unfit() -> Error {
        Error::Unfit { is_standby: true }
    }

    fn dead() -> Error {
        Error::TimedOut(Duration::from_secs(5))
    }

    /// What these failures of two hosts come to, of which one that takes writes is asked for: the
    /// reason, and whether it is definite.
    fn verdict_of(failures: &[Failed]) -> (FailureReason, bool) {
        let mut url = url("one", 5432);
        let mut two = url.hosts[0].clone();
        "two".clone_into(&mut two.host);
        url.hosts.push(two);
        url.target_session_attrs = TargetSessionAttrs::ReadWrite;
        let failure = verdict(&access(url), failures);
        (failure.reason, failure.class == FailureClass::Definite)
    }

    #[test]
    fn failures_come_to_one_verdict() {
        for (failures, expected) in [
            (
                vec![
                    failed(0, 1, false, dead()),
                    failed(1, 2, false, refused("28P01")),
                ],
                (FailureReason::AuthenticationFailed, true),
            ),
            (
                vec![failed(0, 1, false, dead()), failed(1, 2, false, unfit())],
                (FailureReason::Unreachable, false),
            ),
            (
                vec![failed(0, 1, false, unfit()), failed(0, 2, false, dead())],
                (FailureReason::Unreachable, false),
            ),
            (
                vec![failed(0, 1, false, unfit()), failed(0, 2, false, unfit())],
                (FailureReason::Standby, true),
            ),
            // The primary takes no writes, and its standby never does.
            (
                vec![
                    failed(0, 1, false, Error::Unfit { is_standby: false }),
                    failed(1, 2, false, unfit()),
                ],
                (FailureReason::ReadOnly, true),
            ),
            (
                vec![
                    failed(0, 1, false, unfit()),
                    failed(1, 2, false, Error::Unfit { is_standby: false }),
                ],
                (FailureReason::ReadOnly, true),
            ),
            // TLS that there is not, and then what it is without.
            (
                vec![
                    failed(0, 1, true, Error::NoTls),
                    failed(0, 1, false, unfit()),
                ],
                (FailureReason::Standby, true),
            ),
            (
                vec![
                    failed(0, 1, false, refused("57P03")),
                    failed(1, 2, false, unfit()),
                ],
                (FailureReason::ServerNotReady, false),
            ),
            (
                vec![failed(0, 1, false, refused("42704"))],
                (FailureReason::ParameterRefused, true),
            ),
            // A server that is full, or not ready, and lets no one in without TLS.
            (
                vec![
                    failed(0, 1, true, refused("53300")),
                    failed(0, 1, false, refused("28000")),
                ],
                (FailureReason::TooManyConnections, false),
            ),
            (
                vec![
                    failed(0, 1, true, refused("57P03")),
                    failed(0, 1, false, refused("28000")),
                    failed(1, 2, false, unfit()),
                ],
                (FailureReason::ServerNotReady, false),
            ),
            // What ends the search says more, and without TLS there is nothing to outweigh it.
            (
                vec![
                    failed(0, 1, true, refused("53300")),
                    failed(0, 1, false, refused("28P01")),
                ],
                (FailureReason::AuthenticationFailed, true),
            ),
            (
                vec![
                    failed(0, 1, true, Error::NoTls),
                    failed(0, 1, false, refused("28000")),
                ],
                (FailureReason::AuthenticationFailed, true),
            ),
            (vec![], (FailureReason::Other, true)),
        ] {
            assert_eq!(verdict_of(&failures), expected, "{failures:?}");
        }
    }

    #[test]
    fn of_one_address_the_attempt_that_came_furthest_counts() {
        for (failures, expected) in [
            // A server that lets no one in without TLS, and over TLS is not what is asked for.
            (
                vec![
                    failed(0, 1, true, unfit()),
                    failed(0, 1, false, refused("28000")),
                ],
                (FailureReason::Standby, true),
            ),
            (
                vec![
                    failed(0, 1, true, refused("22023")),
                    failed(0, 1, false, refused("28000")),
                ],
                (FailureReason::ParameterRefused, true),
            ),
            (
                vec![
                    failed(0, 1, true, unfit()),
                    failed(0, 1, false, refused("28000")),
                    failed(1, 2, false, dead()),
                ],
                (FailureReason::Unreachable, false),
            ),
            // A server without TLS, of which `sslmode=allow` asks for it last.
            (
                vec![
                    failed(0, 1, false, unfit()),
                    failed(0, 1, true, Error::NoTls),
                ],
                (FailureReason::Standby, true),
            ),
            (
                vec![
                    failed(0, 1, false, refused("42704")),
                    failed(0, 1, true, Error::NoTls),
                ],
                (FailureReason::ParameterRefused, true),
            ),
            (
                vec![
                    failed(0, 1, false, refused("53300")),
                    failed(0, 1, true, Error::NoTls),
                ],
                (FailureReason::TooManyConnections, false),
            ),
            // Whether a standby may become the primary is not known while it starts.
            (
                vec![
                    failed(0, 1, true, unfit()),
                    failed(0, 1, false, refused("57P03")),
                ],
                (FailureReason::ServerNotReady, false),
            ),
        ] {
            assert_eq!(verdict_of(&failures), expected, "{failures:?}");
        }
    }

    #[test]
    fn options_are_split_like_the_server_does() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(
            split_options(r"-c search_path=a,\ b  --lock-timeout=5s -cgeqo=off -d 5 -c"),
            [
                pair("search_path", "a, b"),
                pair("lock_timeout", "5s"),
                pair("geqo", "off")
            ]
        );
    }

    #[test]
    fn parameters_of_our_own_are_not_taken_from_the_url() {
        let mut url = url("db", 5432);
        for (k, v) in [
            ("TimeZone", "Mars"),
            ("search_path", "bb"),
            ("application_name", "x"),
            ("options", "-c geqo=off"),
        ] {
            url.runtime_params.insert(k.to_owned(), v.to_owned());
        }
        let names: Vec<String> = server_parameters(&url)
            .into_iter()
            .map(|(k, _)| k)
            .collect();
        assert_eq!(names, ["geqo", "search_path"]);
    }

    #[test]
    fn a_parameter_of_its_own_outweighs_one_in_options() {
        let mut url = url("db", 5432);
        for (k, v) in [
            ("default_transaction_read_only", "off"),
            ("options", "-c default_transaction_read_only=on -c role=a"),
            ("role", "b"),
        ] {
            url.runtime_params.insert(k.to_owned(), v.to_owned());
        }
        let settings = server_parameters(&url);
        let of = |name| setting(&settings, name);
        assert_eq!(of("default_transaction_read_only"), Some("off"));
        assert_eq!(of("role"), Some("b"));
    }
}
