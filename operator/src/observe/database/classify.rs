//! From a driver's error to one of a fixed list of failures, each saying what is wrong, where, and
//! what to do. Pure.
//!
//! A failure is `Definite` only if Bytebase, standing elsewhere in the cluster with the same
//! connection string, must be refused in the same way. Everything that depends on where one stands
//! is `Unknown`.

use super::Login;
use crate::contract::pg_url::{HostPort, PgUrl};
use crate::observation::{FailureClass, FailureReason, ProbeFailure};
use secrecy::ExposeSecret;
use sqlx::postgres::PgDatabaseError;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

/// Longest text taken over from a server; conditions hold at most 32 KiB and people read one line.
const MAX_SERVER_TEXT: usize = 300;

/// What a message needs to say where something went wrong, and what it must never say.
pub struct Place<'a> {
    url: &'a PgUrl,
    host: &'a HostPort,
    login: &'a Login,
}

/// What was going on when an error came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Logging in.
    Connect,
    /// Reading.
    Query,
}

// === impl Place ===

impl<'a> Place<'a> {
    /// One server of a connection string.
    pub fn new(url: &'a PgUrl, host: &'a HostPort, login: &'a Login) -> Self {
        Self { url, host, login }
    }

    /// The role that logs in.
    pub fn role(&self) -> &str {
        &self.url.user
    }

    /// The server that is logged in to.
    pub fn host(&self) -> &HostPort {
        self.host
    }

    /// What is logged in by.
    pub fn url(&self) -> &PgUrl {
        self.url
    }

    /// The database that the connection string names.
    pub fn database(&self) -> &str {
        &self.url.database
    }

    /// A failure with `text` behind the name of the place. `Definite` is softened to `Unknown` for
    /// a monitoring login.
    pub fn failure(&self, class: FailureClass, reason: FailureReason, text: &str) -> ProbeFailure {
        let class = match self.login {
            Login::Bytebase => class,
            Login::Monitor(_) => FailureClass::Unknown,
        };
        ProbeFailure {
            class,
            reason,
            message: format!("{self}: {text}"),
        }
    }

    /// Text that came from the other side, made fit for a status message: one line, bounded, and
    /// without the password, which a server that is not what it claims to be could send back.
    fn foreign(&self, text: &str) -> String {
        let mut text = text.to_owned();
        if let Some(password) = &self.url.password {
            let password = password.expose_secret();
            if !password.is_empty() {
                text = text.replace(password, "***");
            }
        }
        let mut line: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(MAX_SERVER_TEXT)
            .collect();
        line.truncate(line.trim_end().len());
        line
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self.host;
        if host.contains(':') {
            write!(f, "[{host}]:{port}/{}", self.url.database)
        } else {
            write!(f, "{host}:{port}/{}", self.url.database)
        }
    }
}

// === Classification ===

/// Nothing came back in time.
pub fn timed_out(place: &Place<'_>, phase: Phase, after: Duration) -> ProbeFailure {
    let seconds = after.as_secs();
    match phase {
        Phase::Connect => place.failure(
            FailureClass::Unknown,
            FailureReason::Unreachable,
            &format!(
                "no answer to the login within {seconds} s; check the host and port, network policies and firewalls between the \
                 operator and the server"
            ),
        ),
        Phase::Query => place.failure(
            FailureClass::Unknown,
            FailureReason::Unreachable,
            &format!("the server stopped answering: nothing came back within {seconds} s"),
        ),
    }
}

/// Any error of the driver.
pub fn classify(error: &sqlx::Error, place: &Place<'_>, phase: Phase) -> ProbeFailure {
    match error {
        sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => refused(&ServerError::from(error), place, phase),
            None => other(place, phase),
        },
        sqlx::Error::Tls(source) => tls(place, source.as_ref()),
        sqlx::Error::Io(error) => match tls_cause(error) {
            Some(cause) => tls(place, cause),
            None => unreachable(place, error, phase),
        },
        // Raised before anything is sent: of what the login is made of, only the password can hold
        // what the operator's own library refuses.
        sqlx::Error::Configuration(_) => place.failure(
            FailureClass::Unknown,
            FailureReason::AuthenticationFailed,
            "the user or password holds a character with which the operator cannot log in, although Bytebase may; give the role \
             a password of printable characters",
        ),
        _ => other(place, phase),
    }
}

/// Whether an error came from TLS rather than from the server or the network.
pub fn is_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        sqlx::Error::Io(error) => tls_cause(error).is_some(),
        _ => false,
    }
}

/// The parts of a server's error that decide.
struct ServerError<'a> {
    sqlstate: &'a str,
    message: &'a str,
    routine: Option<&'a str>,
}

impl<'a> From<&'a PgDatabaseError> for ServerError<'a> {
    fn from(error: &'a PgDatabaseError) -> Self {
        Self {
            sqlstate: error.code(),
            message: error.message(),
            routine: error.routine(),
        }
    }
}

fn refused(error: &ServerError<'_>, place: &Place<'_>, phase: Phase) -> ProbeFailure {
    use FailureClass::{Definite, Unknown};
    let said = place.foreign(error.message);
    let role = place.role();
    match (phase, error.sqlstate) {
        // Without a password in the connection string Bytebase may still find one where the operator must not look (a password
        // file in the pod).
        (Phase::Connect, "28P01") if place.url.password.is_none() => place.failure(
            Unknown,
            FailureReason::AuthenticationFailed,
            &format!("the server asks role \"{role}\" for a password and the connection string has none ({said}); add it"),
        ),
        (Phase::Connect, "28P01") => place.failure(
            Definite,
            FailureReason::AuthenticationFailed,
            &format!("the server refuses the password of role \"{role}\" ({said}); correct the Secret"),
        ),
        // `ClientAuthentication` is the server routine that finds no line of pg_hba.conf for an address, or one that wants a
        // client certificate: the pods have other addresses, and certificates the operator does not.
        (Phase::Connect, "28000") if error.routine == Some("ClientAuthentication") => place.failure(
            Unknown,
            FailureReason::AuthenticationFailed,
            &format!(
                "the server does not let role \"{role}\" in from the operator's address ({said}); allow it in pg_hba.conf, or \
                 check `sslmode`"
            ),
        ),
        (Phase::Connect, "28000") => place.failure(
            Definite,
            FailureReason::AuthenticationFailed,
            &format!("the server refuses role \"{role}\" ({said}); check that the role exists and may log in"),
        ),
        (Phase::Connect, "3D000") => place.failure(
            Definite,
            FailureReason::DatabaseMissing,
            &format!("the database does not exist ({said}); create it with encoding UTF8 and role \"{role}\" as its owner"),
        ),
        (Phase::Connect, "42501") => place.failure(
            Definite,
            FailureReason::PermissionDenied,
            &format!("role \"{role}\" may not connect ({said}); GRANT CONNECT ON DATABASE, or make it the owner"),
        ),
        (Phase::Query, "42501") => place.failure(
            Definite,
            FailureReason::PermissionDenied,
            &format!("role \"{role}\" may not read Bytebase's tables ({said})"),
        ),
        (_, "53300") => place.failure(
            Unknown,
            FailureReason::TooManyConnections,
            &format!("{} ({said}); Bytebase takes up to 50 connections per replica", full(&said)),
        ),
        // Poolers say so under several codes.
        (Phase::Connect, _) if is_full_pooler(&said) => place.failure(
            Unknown,
            FailureReason::TooManyConnections,
            &format!("{} ({said}); Bytebase takes up to 50 connections per replica", full(&said)),
        ),
        (_, "57P01" | "57P02" | "57P03" | "57P05") => place.failure(
            Unknown,
            FailureReason::ServerNotReady,
            &format!("the server is starting up, shutting down or ended the session ({said})"),
        ),
        // 42704 unknown parameter, 22023 bad value, 55P02 cannot be set now, 42602/42601 malformed name or `options`: the
        // server reads start-up parameters the same for everybody.
        (Phase::Connect, "42704" | "22023" | "55P02" | "42602" | "42601") => parameter(place, &said),
        // Poolers answer most things with 08P01; PgBouncer names the parameter it does not know.
        (Phase::Connect, "08P01") if said.contains("startup parameter") => parameter(place, &said),
        // PgBouncer's words for an unknown role or database, which have no SQLSTATE of their own in older releases.
        (Phase::Connect, "08P01") if said.contains("no such user") || said.contains("authentication failed") => place.failure(
            Definite,
            FailureReason::AuthenticationFailed,
            &format!("the pooler refuses role \"{role}\" ({said}); correct the Secret or the pooler's user list"),
        ),
        (Phase::Connect, "08P01") if said.contains("no such database") => place.failure(
            Definite,
            FailureReason::DatabaseMissing,
            &format!("the pooler knows no such database ({said}); create it, or add it to the pooler's configuration"),
        ),
        (Phase::Query, "57014") => place.failure(
            Unknown,
            FailureReason::Other,
            "reading took too long and was cancelled; a table is locked (a schema migration does that) or the server is overloaded",
        ),
        (_, code) => place.failure(
            Unknown,
            FailureReason::Other,
            &format!("the server answered with an error: {said} (SQLSTATE {code})"),
        ),
    }
}

/// Which limit is reached, and what raises it.
fn full(said: &str) -> &'static str {
    if is_full_pooler(said) {
        "the pooler takes no more clients; raise its own limit of them, which max_connections of the server does not"
    } else if said.contains("connections for role") {
        "the role has as many connections as its CONNECTION LIMIT allows; raise that with ALTER ROLE … CONNECTION LIMIT"
    } else if said.contains("connections for database") {
        "the database has as many connections as its CONNECTION LIMIT allows; raise that with ALTER DATABASE … CONNECTION LIMIT"
    } else {
        "the server has no free connection; raise max_connections"
    }
}

/// PgBouncer's and Supavisor's words, among others'.
fn is_full_pooler(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["max_client", "max client", "no more connections allowed"]
        .iter()
        .any(|words| said.contains(words))
}

fn parameter(place: &Place<'_>, said: &str) -> ProbeFailure {
    place.failure(
        FailureClass::Definite,
        FailureReason::ParameterRefused,
        &format!(
            "the server refuses a parameter of the connection string ({said}); remove it: keys that are not connection settings \
             are sent to the server"
        ),
    )
}

/// Always `Unknown`, even with a CA that the user gave for the pods as well: this verifier (webpki)
/// and the one in Bytebase (Go) disagree on certificates that exist in practice, such as a
/// self-signed certificate that serves as its own CA, or one of version 1, which Go accepts. Holding back the first pod
/// on this verdict alone could hold back one that would have worked.
fn tls(place: &Place<'_>, cause: &(dyn StdError + 'static)) -> ProbeFailure {
    let said = place.foreign(&tls_text(cause));
    let hint = if said.contains("CaUsedAsEndEntity") {
        "the server presents a CA certificate as its own; issue it a leaf certificate, or give the operator a connection string of \
         its own with database.monitorSecretRef"
    } else if said.contains("UnsupportedCertVersion") {
        "the server presents an X.509 certificate of version 1, which Bytebase accepts and the operator cannot read; issue it one of \
         version 3 (`openssl x509 -req` does with -extfile)"
    } else if said.contains("does not support TLS") {
        "turn on TLS at the server, or lower `sslmode`"
    } else if said.contains("NotValidForName") || said.contains("not valid for name") {
        "the certificate is for another host name; use the name it is for, or `sslmode=verify-ca`"
    } else if said.contains("UnknownIssuer") || said.contains("BadSignature") {
        "the certificate is not signed by the given CA; check database.caSecretRef or database.caConfigMapRef"
    } else if said.contains("Expired") {
        "the certificate has expired; renew it"
    } else {
        "check `sslmode` and the CA"
    };
    place.failure(
        FailureClass::Unknown,
        FailureReason::TlsFailed,
        &format!("TLS failed ({said}); {hint}"),
    )
}

/// What a TLS library says, where it is known to quote no input: the database library's own errors
/// quote the CA bundle.
fn tls_text(cause: &(dyn StdError + 'static)) -> String {
    let mut next = Some(cause);
    while let Some(error) = next {
        if let Some(known) = error.downcast_ref::<rustls::Error>() {
            return known.to_string();
        }
        next = error.source();
    }
    let lacking = "server does not support TLS";
    if cause.to_string() == lacking {
        lacking.to_owned()
    } else {
        "it could not be set up".to_owned()
    }
}

fn unreachable(place: &Place<'_>, error: &io::Error, phase: Phase) -> ProbeFailure {
    let said = place.foreign(&error.to_string());
    let text = match (phase, error.kind()) {
        (_, io::ErrorKind::ConnectionRefused) => {
            format!("nothing listens there ({said}); check the host and the port")
        }
        (Phase::Connect, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            format!(
                "the connection was closed during the login ({said}); check that this is a PostgreSQL server"
            )
        }
        (Phase::Connect, _) => {
            format!("cannot connect ({said}); check the host name and the network")
        }
        (Phase::Query, _) => format!("the connection broke ({said})"),
    };
    place.failure(FailureClass::Unknown, FailureReason::Unreachable, &text)
}

/// Not in the words of the library, which may quote what it was given.
fn other(place: &Place<'_>, phase: Phase) -> ProbeFailure {
    let text = match phase {
        Phase::Connect => {
            "the answer to the login is not that of a PostgreSQL server; check the host and the port"
        }
        Phase::Query => "the answer is not one that a PostgreSQL server gives",
    };
    place.failure(FailureClass::Unknown, FailureReason::Other, text)
}

/// rustls reports a failed handshake through `io::Error`.
fn tls_cause(error: &io::Error) -> Option<&(dyn StdError + 'static)> {
    let inner = error.get_ref()?;
    inner.downcast_ref::<rustls::Error>().map(|e| e as _)
}

#[cfg(test)]
mod tests {
    use super::super::connect::tests::url;
    use super::super::monitor::Watched;
    use super::*;

    fn classify_server(
        sqlstate: &str,
        message: &str,
        routine: Option<&str>,
        phase: Phase,
    ) -> ProbeFailure {
        let url = url("db.example.com", 5432);
        let place = Place::new(&url, &url.hosts[0], &Login::Bytebase);
        let error = ServerError {
            sqlstate,
            message,
            routine,
        };
        refused(&error, &place, phase)
    }

    #[test]
    fn each_sqlstate_has_its_class_and_reason() {
        use FailureClass::{Definite, Unknown};
        use FailureReason as R;
        use Phase::{Connect, Query};
        let table = [
            (Connect, "28P01", None, Definite, R::AuthenticationFailed),
            (
                Connect,
                "28000",
                Some("InitializeSessionUserId"),
                Definite,
                R::AuthenticationFailed,
            ),
            (
                Connect,
                "28000",
                Some("ClientAuthentication"),
                Unknown,
                R::AuthenticationFailed,
            ),
            (Connect, "3D000", None, Definite, R::DatabaseMissing),
            (Connect, "42501", None, Definite, R::PermissionDenied),
            (Query, "42501", None, Definite, R::PermissionDenied),
            (Connect, "53300", None, Unknown, R::TooManyConnections),
            (Query, "57P01", None, Unknown, R::ServerNotReady),
            (Connect, "57P02", None, Unknown, R::ServerNotReady),
            (Connect, "57P03", None, Unknown, R::ServerNotReady),
            (Connect, "42704", None, Definite, R::ParameterRefused),
            (Connect, "22023", None, Definite, R::ParameterRefused),
            (Query, "22023", None, Unknown, R::Other),
            (Query, "57014", None, Unknown, R::Other),
            (Connect, "XX000", None, Unknown, R::Other),
        ];
        for (phase, sqlstate, routine, class, reason) in table {
            let failure = classify_server(sqlstate, "words of the server", routine, phase);
            assert_eq!(
                (failure.class, failure.reason),
                (class, reason),
                "{phase:?} {sqlstate}"
            );
            assert!(
                failure.message.contains("db.example.com:5432/meta"),
                "{}",
                failure.message
            );
        }
    }

    #[test]
    fn a_poolers_refusals_are_told_apart_by_its_words() {
        let table = [
            (
                "unsupported startup parameter: search_path",
                FailureReason::ParameterRefused,
            ),
            (
                "no such user: bytebase",
                FailureReason::AuthenticationFailed,
            ),
            ("no such database: meta", FailureReason::DatabaseMissing),
        ];
        for (message, reason) in table {
            let failure = classify_server("08P01", message, None, Phase::Connect);
            assert_eq!(
                (failure.class, failure.reason),
                (FailureClass::Definite, reason),
                "{message}"
            );
        }
        let failure = classify_server("08P01", "server login failed", None, Phase::Connect);
        assert_eq!(failure.class, FailureClass::Unknown);
    }

    #[test]
    fn what_is_full_is_told_with_what_raises_it() {
        for (sqlstate, message, advice) in [
            (
                "53300",
                "sorry, too many clients already",
                "raise max_connections",
            ),
            (
                "53300",
                "remaining connection slots are reserved for roles with the SUPERUSER attribute",
                "raise max_connections",
            ),
            (
                "53300",
                "too many connections for role \"bb\"",
                "ALTER ROLE",
            ),
            (
                "53300",
                "too many connections for database \"bb\"",
                "ALTER DATABASE",
            ),
            (
                "08P01",
                "no more connections allowed (max_client_conn)",
                "the pooler",
            ),
            (
                "53300",
                "no more connections allowed (max_client_conn)",
                "the pooler",
            ),
            (
                "XX000",
                "MaxClientsInSessionMode: max clients reached - in Session mode max clients are limited to pool_size",
                "the pooler",
            ),
        ] {
            let failure = classify_server(sqlstate, message, None, Phase::Connect);
            assert_eq!(
                (failure.class, failure.reason),
                (FailureClass::Unknown, FailureReason::TooManyConnections),
                "{message}"
            );
            assert!(failure.message.contains(advice), "{}", failure.message);
        }
    }

    #[test]
    fn a_missing_password_is_not_a_wrong_one() {
        let mut url = url("db", 5432);
        url.password = None;
        let place = Place::new(&url, &url.hosts[0], &Login::Bytebase);
        let error = ServerError {
            sqlstate: "28P01",
            message: "m",
            routine: None,
        };
        assert_eq!(
            refused(&error, &place, Phase::Connect).class,
            FailureClass::Unknown
        );
    }

    #[test]
    fn a_monitors_refusal_says_nothing_definite() {
        let url = url("db", 5432);
        let login = Login::Monitor(Watched::of(&url, &url));
        let place = Place::new(&url, &url.hosts[0], &login);
        let error = ServerError {
            sqlstate: "28P01",
            message: "m",
            routine: None,
        };
        assert_eq!(
            refused(&error, &place, Phase::Connect).class,
            FailureClass::Unknown
        );
    }

    #[test]
    fn a_server_that_echoes_the_password_does_not_get_it_into_a_message() {
        let echo = format!(
            "you said {}\nreally\u{1b}[31m",
            crate::observe::database::connect::tests::PASSWORD
        );
        let failure = classify_server("XX000", &echo, None, Phase::Connect);
        assert!(
            failure.message.contains("you said *** really"),
            "{}",
            failure.message
        );
        assert!(!failure.message.chars().any(char::is_control));
    }

    #[test]
    fn long_words_of_a_server_are_cut() {
        let failure = classify_server("XX000", &"ä".repeat(100_000), None, Phase::Connect);
        assert!(failure.message.chars().count() < 500);
    }

    #[test]
    fn network_errors_are_unknown() {
        let url = url("::1", 5432);
        let place = Place::new(&url, &url.hosts[0], &Login::Bytebase);
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::TimedOut,
        ] {
            for phase in [Phase::Connect, Phase::Query] {
                let failure = classify(&sqlx::Error::Io(kind.into()), &place, phase);
                assert_eq!(
                    (failure.class, failure.reason),
                    (FailureClass::Unknown, FailureReason::Unreachable)
                );
                assert!(failure.message.starts_with("[::1]:5432/meta: "));
            }
        }
    }

    #[test]
    fn a_library_that_quotes_its_input_is_not_quoted() {
        let url = url("db", 5432);
        let place = Place::new(&url, &url.hosts[0], &Login::Bytebase);
        let key = "-----BEGIN PRIVATE KEY-----";
        let quoted = sqlx::Error::Tls(format!("Invalid certificate {key}").into());
        let message = classify(&quoted, &place, Phase::Connect).message;
        assert!(!message.contains("PRIVATE"), "{message}");
        let lacking = sqlx::Error::Tls("server does not support TLS".into());
        let message = classify(&lacking, &place, Phase::Connect).message;
        assert!(message.contains("turn on TLS"), "{message}");
    }

    #[test]
    fn a_password_that_cannot_be_prepared_is_not_quoted() {
        let url = url("db", 5432);
        let place = Place::new(&url, &url.hosts[0], &Login::Bytebase);
        let text = "Failed to saslprep password: Error(ProhibitedCharacter('\u{e000}'))";
        for error in [
            sqlx::Error::Configuration(text.into()),
            sqlx::Error::Protocol(text.to_owned()),
        ] {
            let failure = classify(&error, &place, Phase::Connect);
            assert_eq!(failure.class, FailureClass::Unknown);
            assert!(!failure.message.contains("e000"), "{}", failure.message);
            assert!(!failure.message.contains('\u{e000}'), "{}", failure.message);
            assert!(!failure.message.contains("Failed"), "{}", failure.message);
        }
    }

    #[test]
    fn a_failed_handshake_inside_an_io_error_is_a_tls_failure() {
        let url = url("db", 5432);
        let place = Place::new(&url, &url.hosts[0], &Login::Bytebase);
        let inner = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let error = sqlx::Error::Io(io::Error::new(io::ErrorKind::InvalidData, inner));
        assert!(is_tls(&error));
        let failure = classify(&error, &place, Phase::Connect);
        assert_eq!(
            (failure.class, failure.reason),
            (FailureClass::Unknown, FailureReason::TlsFailed)
        );
        assert!(
            failure.message.contains("caSecretRef"),
            "{}",
            failure.message
        );
    }
}
