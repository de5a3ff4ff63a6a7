//! Logging in, the way Bytebase's driver (pgx) would, with nothing of the operator's own
//! environment in it.

use super::Access;
use super::classify::{self, Phase, Place};
use crate::contract::pg_url::{HostPort, PgUrl, SslMode, TargetSessionAttrs};
use crate::observation::{FailureClass, FailureReason, ProbeFailure};
use secrecy::ExposeSecret;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgSslMode};
use sqlx::{ConnectOptions, Connection, Row};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// For one server of a connection string, from the name look-up to the end of the login. Bytebase
/// sets no limit of its own; five seconds is far beyond any login that works and short enough that
/// a failure is told within one probe interval.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// For saying goodbye to a server that may be gone.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How the operator's sessions are labelled in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "bytebase-operator";

/// Variables that the driver reads from the environment and lets nobody unset. Such an operator
/// must not log in anywhere: it would offer its own client certificate or settings to the database
/// of a tenant.
const LEAKING_VARIABLES: [&str; 3] = ["PGOPTIONS", "PGSSLCERT", "PGSSLKEY"];

/// An open session and the server it leads to.
pub struct Dialled {
    /// The session.
    pub connection: PgConnection,
    /// Index into [`PgUrl::hosts`].
    pub host: usize,
}

/// Whether a server may be used under `target_session_attrs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ServerState {
    in_recovery: bool,
    read_only: bool,
}

// === Dialling ===

/// Logs in to the first acceptable server.
///
/// Like the driver, a refusal of the login itself ends the search, whatever other servers there
/// are.
pub async fn dial(access: &Access) -> Result<Dialled, ProbeFailure> {
    let url = &access.url;
    match dial_pass(access, url.target_session_attrs).await {
        Err(_) if url.target_session_attrs == TargetSessionAttrs::PreferStandby => {
            dial_pass(access, TargetSessionAttrs::Any).await
        }
        outcome => outcome,
    }
}

/// Ends a session politely, so that the server logs nothing.
pub async fn close(connection: PgConnection) {
    let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
}

async fn dial_pass(access: &Access, attrs: TargetSessionAttrs) -> Result<Dialled, ProbeFailure> {
    let mut failure = None;
    for (index, host) in access.url.hosts.iter().enumerate() {
        let place = Place::new(&access.url, host, &access.login);
        match dial_host(access, host, attrs, &place).await {
            Ok(connection) => {
                return Ok(Dialled {
                    connection,
                    host: index,
                });
            }
            Err(found) => {
                let refused = found.class == FailureClass::Definite && !is_unfit(found.reason);
                // An unreachable server weighs more than one that answered and does not fit: it may
                // be the fitting one.
                let weightier = !matches!(
                    &failure,
                    Some(ProbeFailure {
                        class: FailureClass::Unknown,
                        ..
                    })
                );
                if refused || weightier {
                    failure = Some(found);
                }
                if refused {
                    break;
                }
            }
        }
    }
    Err(failure.unwrap_or_else(|| ProbeFailure {
        class: FailureClass::Definite,
        reason: FailureReason::Other,
        message: "the connection string names no host".to_owned(),
    }))
}

/// The server lets the role in and is not the one that is asked for: another may be.
fn is_unfit(reason: FailureReason) -> bool {
    matches!(
        reason,
        FailureReason::Standby | FailureReason::ReadOnly | FailureReason::Other
    )
}

async fn dial_host(
    access: &Access,
    host: &HostPort,
    attrs: TargetSessionAttrs,
    place: &Place<'_>,
) -> Result<PgConnection, ProbeFailure> {
    let attempts = ssl_attempts(access, place)?;
    let login = async {
        let mut last = None;
        for (index, mode) in attempts.iter().enumerate() {
            let ca = authorities(access);
            let options = options(&access.url, host, ca, *mode, place)?;
            // Boxed: it is large, and both arms below would have room for it.
            let login = Box::pin(options.connect());
            let outcome = match ca {
                Some(_) => login.await,
                None => webpki_roots::trusting_public(login).await,
            };
            match outcome {
                Ok(connection) => return check_session(connection, attrs, place).await,
                Err(error) => {
                    let again = attempts
                        .get(index + 1)
                        .is_some_and(|_| worth_another_mode(&error, *mode));
                    last = Some(classify::classify(&error, place, Phase::Connect));
                    if !again {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| {
            place.failure(
                FailureClass::Unknown,
                FailureReason::Other,
                "no way to connect",
            )
        }))
    };
    timeout(DIAL_TIMEOUT, login)
        .await
        .unwrap_or_else(|_| Err(classify::timed_out(place, Phase::Connect, DIAL_TIMEOUT)))
}

/// The driver goes on from an encrypted to a plain attempt (`prefer`) when TLS could not be set up,
/// and from a plain to an encrypted one (`allow`) when the server does not let the role in like
/// that. An unreachable server stays unreachable.
fn worth_another_mode(error: &sqlx::Error, mode: PgSslMode) -> bool {
    classify::is_tls(error)
        || matches!(error, sqlx::Error::Database(e)
            if e.try_downcast_ref::<PgDatabaseError>()
                .is_some_and(|e| refusal_leaves_another_mode(e.code(), mode)))
}

/// A role that is refused over TLS is refused for good: the driver does not offer it in clear text.
fn refusal_leaves_another_mode(sqlstate: &str, mode: PgSslMode) -> bool {
    sqlstate == "28000" && matches!(mode, PgSslMode::Disable)
}

/// The CA that the driver verifies the server by; `None` for the public ones. They stand for those
/// of the pods, which the operator does not see: Bytebase's image brings the same list.
fn authorities(access: &Access) -> Option<&[u8]> {
    let is_system = access.url.ssl_root_cert.as_deref() == Some("system");
    access.ca.as_deref().filter(|_| !is_system)
}

async fn check_session(
    mut connection: PgConnection,
    attrs: TargetSessionAttrs,
    place: &Place<'_>,
) -> Result<PgConnection, ProbeFailure> {
    if attrs == TargetSessionAttrs::Any {
        return Ok(connection);
    }
    let sql = "SELECT pg_is_in_recovery()::text || ' ' || current_setting('transaction_read_only')";
    let row = sqlx::raw_sql(sql)
        .fetch_one(&mut connection)
        .await
        .map_err(|e| classify::classify(&e, place, Phase::Query))?;
    let text = row
        .try_get_raw(0)
        .ok()
        .and_then(|value| value.as_bytes().ok().map(<[u8]>::to_vec))
        .unwrap_or_default();
    let state = ServerState {
        in_recovery: text.starts_with(b"true"),
        read_only: text.ends_with(b" on"),
    };
    if acceptable(attrs, state) {
        return Ok(connection);
    }
    close(connection).await;
    let (reason, text) = unfit(attrs, state);
    // Bytebase's driver asks the same question, but of every address that a name has.
    let class = if has_one_address(place.host()).await {
        FailureClass::Definite
    } else {
        FailureClass::Unknown
    };
    Err(place.failure(class, reason, text))
}

/// What a server is that the connection string does not want.
fn unfit(attrs: TargetSessionAttrs, state: ServerState) -> (FailureReason, &'static str) {
    match attrs {
        TargetSessionAttrs::ReadWrite | TargetSessionAttrs::Primary if state.in_recovery => (
            FailureReason::Standby,
            "the server is a standby, and the connection string asks for one that accepts writes; give the primary's address",
        ),
        TargetSessionAttrs::ReadWrite | TargetSessionAttrs::Primary => (
            FailureReason::ReadOnly,
            "the server accepts no writes (default_transaction_read_only is on; hosted PostgreSQL does that when its disk is full), and the connection string asks for one that accepts writes; free or add space there, or reset the setting",
        ),
        _ => (
            FailureReason::Other,
            "the server accepts writes, and the connection string asks for a standby; Bytebase needs the primary",
        ),
    }
}

async fn has_one_address(host: &HostPort) -> bool {
    let found = lookup_host((host.host.as_str(), host.port)).await;
    found.is_ok_and(|addresses| is_one_server(addresses.map(|address| address.ip())))
}

/// Whether these can be the addresses of one server: `localhost` and many others have one of each
/// family.
fn is_one_server(addresses: impl Iterator<Item = IpAddr>) -> bool {
    let addresses = addresses.map(|address| address.to_canonical());
    let (four, six): (BTreeSet<_>, BTreeSet<_>) = addresses.partition(IpAddr::is_ipv4);
    four.len() <= 1 && six.len() <= 1
}

fn acceptable(attrs: TargetSessionAttrs, state: ServerState) -> bool {
    match attrs {
        TargetSessionAttrs::Any => true,
        TargetSessionAttrs::ReadWrite => !state.read_only,
        TargetSessionAttrs::ReadOnly => state.read_only,
        TargetSessionAttrs::Primary => !state.in_recovery,
        TargetSessionAttrs::Standby | TargetSessionAttrs::PreferStandby => state.in_recovery,
    }
}

// === Options ===

/// `sslmode` as a list of attempts, by pgx's rules.
///
/// The driver used here treats `allow` as `disable`, does not fall back from a failed handshake
/// under `prefer`, and under `require` verifies nothing even with a CA at hand, where pgx verifies
/// the chain.
fn ssl_attempts(access: &Access, place: &Place<'_>) -> Result<&'static [PgSslMode], ProbeFailure> {
    let url = &access.url;
    let mode = url.effective_ssl_mode();
    let verifies = matches!(mode, SslMode::VerifyCa | SslMode::VerifyFull);
    // A CA named by its path in the pod is one the operator cannot have. Going on without it would
    // hand the password to a server that the user asked to have verified.
    // It is not quoted: what was pasted there in place of a name may be a key.
    let named = url.ssl_root_cert.as_deref() != Some("system") && url.ssl_root_cert.is_some();
    if verifies && named && access.ca.is_none() {
        return Err(place.failure(
            FailureClass::Unknown,
            FailureReason::TlsFailed,
            "sslrootcert in the connection string names a CA file in the Bytebase pod, which the operator does not open; give the CA \
             in database.caSecretRef or database.caConfigMapRef",
        ));
    }
    Ok(match mode {
        SslMode::Disable => &[PgSslMode::Disable],
        SslMode::Allow => &[PgSslMode::Disable, PgSslMode::Require],
        SslMode::Prefer => &[PgSslMode::Prefer, PgSslMode::Disable],
        SslMode::Require if access.ca.is_some() => &[PgSslMode::VerifyCa],
        SslMode::Require => &[PgSslMode::Require],
        SslMode::VerifyCa => &[PgSslMode::VerifyCa],
        SslMode::VerifyFull => &[PgSslMode::VerifyFull],
    })
}

/// Every field of the driver's options is set, because each has a default from the environment of
/// the process.
fn options(
    url: &PgUrl,
    host: &HostPort,
    ca: Option<&[u8]>,
    mode: PgSslMode,
    place: &Place<'_>,
) -> Result<PgConnectOptions, ProbeFailure> {
    if let Some(name) = LEAKING_VARIABLES
        .iter()
        .find(|name| std::env::var_os(name).is_some())
    {
        return Err(place.failure(
            FailureClass::Unknown,
            FailureReason::Other,
            &format!("the operator's own environment sets {name}, which would leak into this login; unset it in the operator's pod"),
        ));
    }
    if host.host.starts_with('/') || host.host.starts_with('@') {
        return Err(place.failure(
            FailureClass::Unknown,
            FailureReason::Unreachable,
            "the host is a socket directory in the Bytebase pod, which the operator cannot reach",
        ));
    }
    let password = url.password.as_ref().map_or("", |p| p.expose_secret());
    let options = PgConnectOptions::new_without_pgpass()
        .host(&host.host)
        .port(host.port)
        .username(&url.user)
        // An empty password and none are the same to the driver.
        .password(password)
        .database(&url.database)
        .ssl_mode(mode)
        // Without a CA an empty bundle: it replaces PGSSLROOTCERT.
        .ssl_root_cert_from_pem(ca.unwrap_or_default().to_vec())
        .application_name(APPLICATION_NAME)
        // A start-up parameter that PgBouncer refuses.
        .extra_float_digits(None)
        // Through a pooler a prepared statement may meet another server session.
        .statement_cache_capacity(0)
        .disable_statement_logging();
    let parameters = server_parameters(url);
    if parameters.is_empty() {
        return Ok(options);
    }
    Ok(options.options(parameters))
}

/// Settings for the server, which the driver can only send as `options`. Left out are those the
/// driver sets itself and those that label or time-limit the session.
pub(super) fn server_parameters(url: &PgUrl) -> Vec<(String, String)> {
    const OURS: [&str; 6] = [
        "application_name",
        "client_encoding",
        "datestyle",
        "timezone",
        "extra_float_digits",
        "statement_timeout",
    ];
    let mut parameters = Vec::new();
    for (key, value) in &url.runtime_params {
        if key == "options" {
            parameters.extend(split_options(value));
        } else {
            parameters.push((key.clone(), value.clone()));
        }
    }
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
    use super::super::Login;
    use super::*;

    pub(crate) const PASSWORD: &str = "p4ss-w0rd-of-the-test";

    pub(crate) fn url(host: &str, port: u16) -> PgUrl {
        let text = format!("postgres://bytebase:{PASSWORD}@host:{port}/meta?sslmode=disable");
        let mut url = PgUrl::parse(&text).unwrap();
        host.clone_into(&mut url.hosts[0].host);
        url
    }

    fn access(url: PgUrl, ca: Option<&[u8]>) -> Access {
        Access {
            url,
            ca: ca.map(<[u8]>::to_vec),
            login: Login::Bytebase,
            trial: None,
            fingerprint: [0; 32],
        }
    }

    fn attempts(
        mode: SslMode,
        path: Option<&str>,
        ca: Option<&[u8]>,
    ) -> Result<String, FailureReason> {
        let mut url = url("db", 5432);
        url.ssl_mode = mode;
        url.ssl_root_cert = path.map(str::to_owned);
        let access = access(url, ca);
        let place = Place::new(&access.url, &access.url.hosts[0], &access.login);
        ssl_attempts(&access, &place)
            .map(|modes| format!("{modes:?}"))
            .map_err(|f| {
                assert_eq!(f.class, FailureClass::Unknown);
                assert!(!f.message.contains("/etc/ca.pem"), "{}", f.message);
                f.reason
            })
    }

    #[test]
    fn sslmode_becomes_the_attempts_that_pgx_makes() {
        let ca: Option<&[u8]> = Some(b"pem");
        let path = Some("/etc/ca.pem");
        let table = [
            (SslMode::Disable, None, None, Ok("[Disable]")),
            (SslMode::Allow, None, None, Ok("[Disable, Require]")),
            (SslMode::Prefer, None, None, Ok("[Prefer, Disable]")),
            (SslMode::Prefer, path, None, Ok("[Prefer, Disable]")),
            (SslMode::Require, None, None, Ok("[Require]")),
            (SslMode::Require, None, ca, Ok("[VerifyCa]")),
            (SslMode::Require, path, ca, Ok("[VerifyCa]")),
            (SslMode::Require, path, None, Err(FailureReason::TlsFailed)),
            (SslMode::Require, Some("system"), None, Ok("[VerifyFull]")),
            (SslMode::VerifyCa, None, None, Ok("[VerifyCa]")),
            (SslMode::VerifyCa, path, None, Err(FailureReason::TlsFailed)),
            (SslMode::Prefer, Some("system"), None, Ok("[VerifyFull]")),
            (SslMode::Disable, Some("system"), None, Ok("[VerifyFull]")),
            (SslMode::VerifyCa, Some("system"), ca, Ok("[VerifyFull]")),
            (SslMode::VerifyFull, path, ca, Ok("[VerifyFull]")),
            (SslMode::VerifyFull, None, None, Ok("[VerifyFull]")),
        ];
        for (mode, path, ca, expected) in table {
            assert_eq!(
                attempts(mode, path, ca),
                expected.map(str::to_owned),
                "{mode:?} {path:?}"
            );
        }
    }

    #[test]
    fn the_systems_authorities_are_not_joined_by_the_given_one() {
        let mut url = url("db", 5432);
        url.ssl_root_cert = Some("system".to_owned());
        let access = access(url, Some(b"pem"));
        assert_eq!(authorities(&access), None);
        let mut named = access.clone();
        named.url.ssl_root_cert = Some("/etc/ca.pem".to_owned());
        assert_eq!(authorities(&named), Some(b"pem".as_slice()));
    }

    #[test]
    fn a_refused_role_is_tried_again_only_after_a_login_in_clear_text() {
        for (mode, again) in [
            (PgSslMode::Disable, true),
            (PgSslMode::Prefer, false),
            (PgSslMode::Require, false),
        ] {
            assert_eq!(
                refusal_leaves_another_mode("28000", mode),
                again,
                "{mode:?}"
            );
            assert!(!refusal_leaves_another_mode("28P01", mode));
        }
    }

    #[test]
    fn target_session_attrs_choose_by_recovery_and_read_only() {
        let primary = ServerState {
            in_recovery: false,
            read_only: false,
        };
        let frozen = ServerState {
            in_recovery: false,
            read_only: true,
        };
        let standby = ServerState {
            in_recovery: true,
            read_only: true,
        };
        let table = [
            (TargetSessionAttrs::Any, [true, true, true]),
            (TargetSessionAttrs::ReadWrite, [true, false, false]),
            (TargetSessionAttrs::ReadOnly, [false, true, true]),
            (TargetSessionAttrs::Primary, [true, true, false]),
            (TargetSessionAttrs::Standby, [false, false, true]),
            (TargetSessionAttrs::PreferStandby, [false, false, true]),
        ];
        for (attrs, expected) in table {
            assert_eq!(
                [primary, frozen, standby].map(|s| acceptable(attrs, s)),
                expected,
                "{attrs:?}"
            );
        }
    }

    #[test]
    fn a_name_with_several_servers_is_recognised() {
        for (addresses, expected) in [
            (&["10.0.0.1"][..], true),
            (&["10.0.0.1", "10.0.0.1"], true),
            (&["127.0.0.1", "::1"], true),
            (&["10.0.0.1", "::ffff:10.0.0.1"], true),
            (&["10.0.0.1", "10.0.0.2"], false),
            (&["10.0.0.1", "fd00::1", "fd00::2"], false),
        ] {
            let parsed = addresses.iter().map(|address| address.parse().unwrap());
            assert_eq!(is_one_server(parsed), expected, "{addresses:?}");
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

    /// The child half of the next test: prints what would be dialled in a hostile environment.
    #[test]
    fn in_a_child_process_prints_the_options() {
        let Ok(role) = std::env::var("PROBE_TEST_CHILD") else {
            return;
        };
        let url = url("db.example.com", 6543);
        let place = Place::new(&url, &url.hosts[0], &Login::Bytebase);
        let outcome = options(&url, &url.hosts[0], None, PgSslMode::Disable, &place);
        if role == "refuses" {
            assert!(outcome.is_err_and(|f| f.message.contains("PG")));
            return;
        }
        let shown = format!("{:?}", outcome.unwrap());
        for leak in ["LEAK", "4711", "Require"] {
            assert!(!shown.contains(leak), "{shown}");
        }
        for own in [
            "db.example.com",
            "6543",
            "Disable",
            "options: None",
            "ssl_client_cert: None",
        ] {
            assert!(shown.contains(own), "{shown}");
        }
    }

    #[test]
    fn nothing_of_the_environment_reaches_a_login() {
        let child = |role: &str, variables: &[(&str, &str)]| {
            let status = std::process::Command::new(std::env::current_exe().unwrap())
                .args([
                    "--exact",
                    "observe::database::connect::tests::in_a_child_process_prints_the_options",
                ])
                .env("PROBE_TEST_CHILD", role)
                .envs(variables.iter().copied())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&status.stdout).into_owned();
            assert!(
                status.status.success() && text.contains("1 passed"),
                "{variables:?}\n{text}"
            );
        };
        child(
            "sets all",
            &[
                ("PGHOST", "LEAK"),
                ("PGHOSTADDR", "LEAK"),
                ("PGPORT", "4711"),
                ("PGUSER", "LEAK"),
                ("PGPASSWORD", "LEAK"),
                ("PGDATABASE", "LEAK"),
                ("PGSSLMODE", "require"),
                ("PGSSLROOTCERT", "/LEAK"),
                ("PGAPPNAME", "LEAK"),
                ("PGPASSFILE", "/LEAK"),
            ],
        );
        child("refuses", &[("PGOPTIONS", "-c geqo=off")]);
        child("refuses", &[("PGSSLCERT", "/LEAK")]);
        child("refuses", &[("PGSSLKEY", "/LEAK")]);
    }

    #[test]
    fn a_socket_directory_is_never_opened() {
        // The parser refuses one already; this is the second lock on the same door.
        let mut url = url("db", 5432);
        url.hosts[0].host = "/var/run/postgresql".to_owned();
        let place = Place::new(&url, &url.hosts[0], &Login::Bytebase);
        let failure = options(&url, &url.hosts[0], None, PgSslMode::Disable, &place).unwrap_err();
        assert_eq!(failure.class, FailureClass::Unknown);
    }
}
