//! From a driver's error to one of a fixed list of failures, each saying what is wrong, where, and
//! what to do. Pure.
//!
//! A failure is `Definite` only if Bytebase, standing elsewhere in the cluster with the same
//! connection string, must be refused in the same way. Everything that depends on where one stands
//! is `Unknown`.

use super::WhoseLogin;
use crate::contract::pg_url::{HostPort, PgUrl, TargetSessionAttrs};
use crate::observation::{FailureClass, FailureReason, ProbeFailure};
use bytebase_login::error::{in_brackets, is_full_pooler, sqlstate};
use bytebase_login::{Error, Refusal};
use rustls::CertificateError;
use secrecy::ExposeSecret;
use sqlx::postgres::PgDatabaseError;
use std::fmt;
use std::io;
use std::time::Duration;

/// Longest name of a role, in bytes.
const LONGEST_NAME: usize = 63;

/// Longest text taken over from a server; conditions hold at most 32 KiB and users read one line.
const MAX_SERVER_TEXT: usize = 300;

/// The routine of the server that finds row security before a table, where the question forbids
/// that rows are left out.
pub(super) const ROW_SECURITY: &str = "check_enable_rls";

/// What a message needs to say where something went wrong, and what it must never say.
pub struct Place<'a> {
    url: &'a PgUrl,
    host: &'a HostPort,
    login: &'a WhoseLogin,
}

/// What was going on when an error came up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Logging in.
    Connect,
    /// Reading.
    Query,
}

// === impl Place ===

impl<'a> Place<'a> {
    /// One server of a connection string.
    pub fn new(url: &'a PgUrl, host: &'a HostPort, login: &'a WhoseLogin) -> Self {
        Self { url, host, login }
    }

    /// The role that logs in, for messages.
    pub fn role(&self) -> &str {
        self.url.shown_user()
    }

    /// What is logged in by.
    pub fn url(&self) -> &PgUrl {
        self.url
    }

    /// The database that the connection string names.
    pub fn database(&self) -> &str {
        &self.url.database
    }

    /// The role that Bytebase logs in as, for messages.
    fn owner(&self) -> &str {
        match self.login {
            WhoseLogin::Bytebase => self.role(),
            WhoseLogin::Monitor(watched) => watched.shown_role(),
        }
    }

    /// A failure with `text` behind the name of the place. `Definite` is softened to `Unknown` for
    /// a monitoring login, unless that goes to the very place of Bytebase's and it is the place
    /// that is wrong.
    pub fn failure(&self, class: FailureClass, reason: FailureReason, text: &str) -> ProbeFailure {
        let class = if *self.login == WhoseLogin::Bytebase
            || (self.login.shares_the_place() && is_of_the_place(reason))
        {
            class
        } else {
            FailureClass::Unknown
        };
        ProbeFailure {
            class,
            reason,
            message: format!("{self}: {text}"),
        }
    }

    /// Text that came from the other side, made fit for a status message: one line, bounded, and
    /// without the password, which a server that is not what it claims to be could send back.
    pub fn foreign(&self, text: &str) -> String {
        self.short(text.to_owned())
    }

    fn short(&self, mut text: String) -> String {
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

    /// The text of a refusal, made fit as by [`Self::foreign`]. It repeats who logs in, so the user
    /// is left out as well, where that is a Secret's. The name of the database stands in the spec.
    fn refusal(&self, text: &str) -> String {
        let user = &*self.url.user;
        if user == self.role() || user == self.url.database {
            return self.foreign(text);
        }
        // The server takes no more of a name than that.
        let user = &user[..user.floor_char_boundary(LONGEST_NAME)];
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        let mut shown = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find(user).filter(|_| !user.is_empty()) {
            let (before, after) = (&rest[..at], &rest[at + user.len()..]);
            let is_whole = user.len() < LONGEST_NAME;
            let inside = before.ends_with(is_part) || after.starts_with(is_part);
            shown.push_str(before);
            shown.push_str(if is_whole && inside { user } else { "***" });
            rest = after;
        }
        shown.push_str(rest);
        self.short(shown)
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

/// Whether a failure is about what stands where the login leads to, whoever logs in. That sessions
/// begin read-only may be set for one role alone.
fn is_of_the_place(reason: FailureReason) -> bool {
    matches!(
        reason,
        FailureReason::NotPostgres | FailureReason::Standby | FailureReason::DatabaseMissing
    )
}

// === Classification ===

/// Nothing came back in time.
pub fn timed_out(place: &Place<'_>, moment: Moment, after: Duration) -> ProbeFailure {
    let seconds = after.as_secs();
    match moment {
        Moment::Connect => place.failure(
            FailureClass::Unknown,
            FailureReason::Unreachable,
            &format!(
                "no answer to the login within {seconds} s; check the host and port, network policies and firewalls between the \
                 operator and the server"
            ),
        ),
        Moment::Query => place.failure(
            FailureClass::Unknown,
            FailureReason::Unreachable,
            &format!("the server stopped answering: nothing came back within {seconds} s"),
        ),
    }
}

/// Why a login failed. `attrs`: what of the server was asked for.
pub fn login(error: &Error, place: &Place<'_>, attrs: TargetSessionAttrs) -> ProbeFailure {
    match error {
        Error::Name(error) | Error::Network(error) => unreachable(place, error, Moment::Connect),
        Error::TimedOut(after) => timed_out(place, Moment::Connect, *after),
        Error::Busy => place.failure(
            FailureClass::Unknown,
            FailureReason::Unreachable,
            "the operator is busy with lookups of other names that do not answer, so this one was not looked up; check the name servers",
        ),
        Error::OwnMachine => place.failure(
            FailureClass::Unknown,
            FailureReason::Unreachable,
            "the host leads to a socket, or to loopback or link-local addresses only, which are others for the operator than for Bytebase; give the server's name or address, or give the operator a login of its own with database.monitorSecretRef",
        ),
        Error::NoTls => tls(
            place,
            "server does not support TLS",
            "turn on TLS at the server, or lower `sslmode`",
        ),
        Error::Tls(error) => {
            let error = timeless(error);
            // Its text quotes no input.
            let said = error.to_string();
            tls(place, &said, tls_hint(place, &error, &said))
        }
        Error::Refused(refusal) => refused(&ServerError::from(refusal), place, Moment::Connect),
        Error::Authentication(text) => place.failure(
            FailureClass::Unknown,
            FailureReason::AuthenticationFailed,
            text,
        ),
        Error::Protocol(text) => place.failure(
            FailureClass::Unknown,
            FailureReason::Other,
            &format!("{text}; check the host and the port"),
        ),
        Error::Unfit { is_standby } => unfit(place, attrs, *is_standby),
    }
}

/// What a server is that the connection string does not want. Bytebase asks the same question of
/// the same addresses.
fn unfit(place: &Place<'_>, attrs: TargetSessionAttrs, is_standby: bool) -> ProbeFailure {
    let (reason, text) = match attrs {
        TargetSessionAttrs::ReadWrite | TargetSessionAttrs::Primary if is_standby => (
            FailureReason::Standby,
            "the server is a standby, and the connection string asks for one that accepts writes; give the primary's address; after a failover this passes by itself: the name is looked up again about every ten seconds",
        ),
        TargetSessionAttrs::ReadWrite | TargetSessionAttrs::Primary => (
            FailureReason::ReadOnly,
            "the server accepts no writes (default_transaction_read_only is on; hosted PostgreSQL does that when its disk is full), and the connection string asks for one that accepts writes; free or add space there, or reset the setting",
        ),
        _ => (
            FailureReason::Other,
            "the server accepts writes, and the connection string asks for a standby; Bytebase needs the primary",
        ),
    };
    place.failure(FailureClass::Definite, reason, text)
}

/// Any error of a query.
pub fn query(error: &sqlx::Error, place: &Place<'_>) -> ProbeFailure {
    match error {
        sqlx::Error::Database(error) => match error.try_downcast_ref::<PgDatabaseError>() {
            Some(error) => refused(&ServerError::from(error), place, Moment::Query),
            None => other(place),
        },
        sqlx::Error::Io(error) => unreachable(place, error, Moment::Query),
        _ => other(place),
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

impl<'a> From<&'a Refusal> for ServerError<'a> {
    fn from(refusal: &'a Refusal) -> Self {
        Self {
            sqlstate: &refusal.code,
            message: &refusal.message,
            routine: refusal.routine.as_deref(),
        }
    }
}

fn refused(error: &ServerError<'_>, place: &Place<'_>, moment: Moment) -> ProbeFailure {
    use FailureClass::{Definite, Unknown};
    let said = place.refusal(error.message);
    let role = place.role();
    match (moment, error.sqlstate) {
        // Without a password in the connection string Bytebase may still find one that the operator
        // must not read (a password file in the pod).
        (Moment::Connect, "28P01") if place.url.password.is_none() => place.failure(
            Unknown,
            FailureReason::AuthenticationFailed,
            &format!("the server asks role \"{role}\" for a password and the connection string has none ({said}); add it"),
        ),
        (Moment::Connect, "28P01") => place.failure(
            Definite,
            FailureReason::AuthenticationFailed,
            &format!("the server refuses the password of role \"{role}\" ({said}); correct the Secret"),
        ),
        // `ClientAuthentication` is the server routine that finds no line of pg_hba.conf for an
        // address, or one that wants a client certificate: the pods have other addresses, and
        // certificates the operator does not.
        (Moment::Connect, "28000") if error.routine == Some("ClientAuthentication") => place.failure(
            Unknown,
            FailureReason::AuthenticationFailed,
            &format!(
                "the server does not let role \"{role}\" in from the operator's address ({said}); allow it in pg_hba.conf, or \
                 check `sslmode`"
            ),
        ),
        (Moment::Connect, "28000") => place.failure(
            Definite,
            FailureReason::AuthenticationFailed,
            &format!("the server refuses role \"{role}\" ({said}); check that the role exists and may log in"),
        ),
        (Moment::Connect, "3D000") => place.failure(
            // A pooler (Odyssey) says so as well of a role that it has no route for, which need not
            // be Bytebase's. PostgreSQL itself names the routine that found it.
            if *place.login != WhoseLogin::Bytebase && error.routine.is_none() {
                Unknown
            } else {
                Definite
            },
            FailureReason::DatabaseMissing,
            &format!("the database does not exist ({said}); create it with encoding UTF8 and role \"{}\" as its owner", place.owner()),
        ),
        (_, "42501") => denied(error, place, moment),
        (_, "53300") => place.failure(
            Unknown,
            FailureReason::TooManyConnections,
            &format!("{} ({said}); Bytebase takes up to 50 connections per replica", full(error.message)),
        ),
        // Poolers say so under several codes.
        (Moment::Connect, _) if is_full_pooler(error.message) => place.failure(
            Unknown,
            FailureReason::TooManyConnections,
            &format!("{} ({said}); Bytebase takes up to 50 connections per replica", full(error.message)),
        ),
        (_, "57P01" | "57P02" | "57P03" | "57P05") => place.failure(
            Unknown,
            FailureReason::ServerNotReady,
            &format!("the server is starting up, shutting down or ended the session ({said})"),
        ),
        // 42704 unknown parameter, 22023 bad value, 55P02 cannot be set now, 42602/42601 malformed
        // name or `options`: the server reads start-up parameters the same for every client.
        (Moment::Connect, "42704" | "22023" | "55P02" | "42602" | "42601") => parameter(place, &said),
        // Poolers answer most things with 08P01; PgBouncer names the parameter it does not know.
        (Moment::Connect, "08P01") if error.message.contains("startup parameter") => parameter(place, &said),
        // PgBouncer's words for an unknown role or database, which have no SQLSTATE of their own in
        // older releases.
        (Moment::Connect, "08P01") if error.message.contains("no such user") || error.message.contains("authentication failed") => place.failure(
            Definite,
            FailureReason::AuthenticationFailed,
            &format!("the pooler refuses role \"{role}\" ({said}); correct the Secret or the pooler's user list"),
        ),
        (Moment::Connect, "08P01") if error.message.contains("no such database") => place.failure(
            Definite,
            FailureReason::DatabaseMissing,
            &format!("the pooler knows no such database ({said}); create it, or add it to the pooler's configuration"),
        ),
        (Moment::Query, "57014") => place.failure(
            Unknown,
            FailureReason::Other,
            "reading took too long and was cancelled; a table is locked (a schema migration does that) or the server is overloaded",
        ),
        (_, code) => place.failure(
            Unknown,
            FailureReason::Other,
            &format!("the server answered with an error: {said}{}", in_brackets(sqlstate(code))),
        ),
    }
}

/// A right is missing; which one, the routine shows that found it.
fn denied(error: &ServerError<'_>, place: &Place<'_>, moment: Moment) -> ProbeFailure {
    use FailureClass::{Definite, Unknown};
    let (said, role) = (place.refusal(error.message), place.role());
    let is_of_a_setting =
        |routine: &str| routine.starts_with("set_config") || routine.starts_with("call_");
    let (class, text) = match moment {
        Moment::Connect if error.routine.is_some_and(is_of_a_setting) => (
            Definite,
            format!(
                "role \"{role}\" may not set a parameter of the connection string ({said}); remove that parameter, or GRANT \
                 the right to set it: for `role`, GRANT the role that it names TO \"{role}\""
            ),
        ),
        Moment::Connect => (
            Definite,
            format!(
                "role \"{role}\" may not connect ({said}); GRANT CONNECT ON DATABASE, or make it the owner"
            ),
        ),
        Moment::Query if error.routine == Some(ROW_SECURITY) => (
            Unknown,
            format!(
                "row security may keep rows of Bytebase's tables from role \"{role}\", also where a policy shows some or all \
                 ({said}); ALTER ROLE \"{role}\" BYPASSRLS, or ALTER TABLE … DISABLE ROW LEVEL SECURITY"
            ),
        ),
        // Of the catalogs and functions of the server Bytebase needs none, and of its tables the
        // reading itself says which may not be read.
        Moment::Query => (
            Unknown,
            format!(
                "the operator may not read what it needs ({said}); GRANT that right to role \"{role}\", or give the \
                 operator a login of its own that has it, with database.monitorSecretRef"
            ),
        ),
    };
    place.failure(class, FailureReason::PermissionDenied, &text)
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
/// and the one in Bytebase (Go) may disagree on a certificate of a rare kind. Holding back the
/// first pod on this verdict alone could hold back one that would have worked.
fn tls(place: &Place<'_>, said: &str, hint: &str) -> ProbeFailure {
    let said = place.foreign(said);
    place.failure(
        FailureClass::Unknown,
        FailureReason::TlsFailed,
        &format!("TLS failed ({said}); {hint}"),
    )
}

/// An error without the seconds that have passed: its words would be others each time.
fn timeless(error: &rustls::Error) -> rustls::Error {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error {
        rustls::Error::InvalidCertificate(ExpiredContext { .. }) => Expired.into(),
        rustls::Error::InvalidCertificate(NotValidYetContext { .. }) => NotValidYet.into(),
        other => other.clone(),
    }
}

fn tls_hint(place: &Place<'_>, error: &rustls::Error, said: &str) -> &'static str {
    use CertificateError as Fault;
    const OTHER: &str = "check `sslmode` and the CA";
    let rustls::Error::InvalidCertificate(fault) = error else {
        return OTHER;
    };
    match fault {
        Fault::NotValidForName | Fault::NotValidForNameContext { .. } => {
            "the certificate is for another host name; use the name it is for, or `sslmode=verify-ca`"
        }
        Fault::UnknownIssuer | Fault::BadSignature if place.url.names_a_ca() => {
            "the certificate is not signed by the given CA, or that one is no CA by its own certificate; check database.caSecretRef or database.caConfigMapRef"
        }
        Fault::UnknownIssuer | Fault::BadSignature => {
            "the certificate is not signed by a public CA, and the connection string names no other; give the CA in database.caSecretRef or database.caConfigMapRef, and add sslrootcert=/etc/bytebase/database-ca/ca.crt"
        }
        Fault::Expired => {
            "the certificate of the server, or one between it and the CA, has expired; renew it"
        }
        Fault::NotValidYet => {
            "the certificate of the server, or one between it and the CA, is not valid yet; check the times in it, and the clock of this node"
        }
        Fault::InvalidPurpose | Fault::InvalidPurposeContext { .. } => {
            "the certificate is not one for servers; issue one with the extended key usage serverAuth"
        }
        _ if said.contains("CaUsedAsEndEntity") => {
            "the server presents a CA certificate as its own, which is not in the given CA bundle; add it there, or issue the server a leaf certificate"
        }
        _ => OTHER,
    }
}

fn unreachable(place: &Place<'_>, error: &io::Error, moment: Moment) -> ProbeFailure {
    let said = place.foreign(&error.to_string());
    let text = match (moment, error.kind()) {
        (_, io::ErrorKind::ConnectionRefused) => {
            format!("nothing listens there ({said}); check the host and the port")
        }
        (Moment::Connect, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            format!(
                "the connection was closed during the login ({said}); check that this is a PostgreSQL server"
            )
        }
        (Moment::Connect, _) => {
            format!("cannot connect ({said}); check the host name and the network")
        }
        (Moment::Query, _) => format!("the connection broke ({said})"),
    };
    place.failure(FailureClass::Unknown, FailureReason::Unreachable, &text)
}

/// Not in the words of the library, which may quote what it was given.
fn other(place: &Place<'_>) -> ProbeFailure {
    let text = "the answer is not one that a PostgreSQL server gives";
    place.failure(FailureClass::Unknown, FailureReason::Other, text)
}

#[cfg(test)]
mod tests {
    use super::super::connect::tests::{PASSWORD, url};
    use super::super::monitor::Watched;
    use super::*;
    use crate::contract::pg_url::PgParts;
    use rustls::pki_types::UnixTime;
    use std::collections::BTreeMap;
    use strum::IntoEnumIterator as _;

    fn classify_server(
        sqlstate: &str,
        message: &str,
        routine: Option<&str>,
        moment: Moment,
    ) -> ProbeFailure {
        let url = url("db.example.com", 5432);
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        let error = ServerError {
            sqlstate,
            message,
            routine,
        };
        refused(&error, &place, moment)
    }

    #[test]
    fn each_sqlstate_has_its_class_and_reason() {
        use FailureClass::{Definite, Unknown};
        use FailureReason as R;
        use Moment::{Connect, Query};
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
            (Query, "42501", None, Unknown, R::PermissionDenied),
            // Administrators close a database for a while. It is away then, and nothing is wrong
            // with it.
            (Connect, "55000", Some("CheckMyDatabase"), Unknown, R::Other),
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
        for (moment, sqlstate, routine, class, reason) in table {
            let failure = classify_server(sqlstate, "words of the server", routine, moment);
            assert_eq!(
                (failure.class, failure.reason),
                (class, reason),
                "{moment:?} {sqlstate}"
            );
            assert!(
                failure.message.contains("db.example.com:5432/meta"),
                "{}",
                failure.message
            );
        }
    }

    #[test]
    fn what_a_role_may_not_is_followed_by_what_lets_it() {
        for (moment, routine, advice) in [
            (Moment::Connect, "CheckMyDatabase", "GRANT CONNECT"),
            (Moment::Connect, "call_string_check_hook", "for `role`"),
            (
                Moment::Connect,
                "set_config_with_handle",
                "remove that parameter",
            ),
            (Moment::Query, ROW_SECURITY, "BYPASSRLS"),
            (Moment::Query, "aclcheck_error", "database.monitorSecretRef"),
        ] {
            let failure = classify_server("42501", "m", Some(routine), moment);
            assert_eq!(failure.reason, FailureReason::PermissionDenied);
            let is_definite = failure.class == FailureClass::Definite;
            assert_eq!(is_definite, moment == Moment::Connect, "{routine}");
            assert!(failure.message.contains(advice), "{}", failure.message);
        }
    }

    #[test]
    fn a_poolers_refusals_are_distinguished_by_its_words() {
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
            let failure = classify_server("08P01", message, None, Moment::Connect);
            assert_eq!(
                (failure.class, failure.reason),
                (FailureClass::Definite, reason),
                "{message}"
            );
        }
        let failure = classify_server("08P01", "server login failed", None, Moment::Connect);
        assert_eq!(failure.class, FailureClass::Unknown);
    }

    #[test]
    fn what_is_full_is_reported_with_what_raises_it() {
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
            let failure = classify_server(sqlstate, message, None, Moment::Connect);
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
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        let error = ServerError {
            sqlstate: "28P01",
            message: "m",
            routine: None,
        };
        assert_eq!(
            refused(&error, &place, Moment::Connect).class,
            FailureClass::Unknown
        );
    }

    #[test]
    fn a_monitors_refusal_says_nothing_definite() {
        let url = url("db", 5432);
        let login = WhoseLogin::Monitor(Watched::of(&url, &url));
        let place = Place::new(&url, &url.hosts[0], &login);
        let error = ServerError {
            sqlstate: "28P01",
            message: "m",
            routine: None,
        };
        assert_eq!(
            refused(&error, &place, Moment::Connect).class,
            FailureClass::Unknown
        );
    }

    #[test]
    fn a_server_that_echoes_the_password_does_not_get_it_into_a_message() {
        let echo = format!("you said {PASSWORD}\nreally\u{1b}[31m");
        let failure = classify_server("XX000", &echo, None, Moment::Connect);
        assert!(
            failure.message.contains("you said *** really"),
            "{}",
            failure.message
        );
        assert!(!failure.message.chars().any(char::is_control));
        for moment in [Moment::Connect, Moment::Query] {
            let failure = classify_server(PASSWORD, PASSWORD, Some(PASSWORD), moment);
            assert!(!failure.message.contains(PASSWORD), "{}", failure.message);
            assert!(!failure.message.contains("SQLSTATE"), "{}", failure.message);
        }
    }

    /// A password that stands where the user belongs is sent as one, and servers repeat it.
    #[test]
    fn the_user_of_a_secret_gets_into_no_message() {
        const USER: &str = "h0rse-b4ttery";
        let mut parts = PgParts {
            host: "db".to_owned(),
            port: None,
            database: "meta".to_owned(),
            user: USER.to_owned(),
            password: Some("p".into()),
            params: BTreeMap::new(),
        };
        let monitor = WhoseLogin::Monitor(Watched::of(
            &PgUrl::from_parts(parts.clone()).unwrap(),
            &url("db", 5432),
        ));
        for password in [Some("p".into()), None] {
            parts.password = password;
            let url = PgUrl::from_parts(parts.clone()).unwrap();
            for login in [&WhoseLogin::Bytebase, &monitor] {
                let place = Place::new(&url, &url.hosts[0], login);
                for moment in [Moment::Connect, Moment::Query] {
                    for sqlstate in [
                        "28P01", "28000", "3D000", "42501", "53300", "42704", "08P01", "XX000",
                    ] {
                        let error = ServerError {
                            sqlstate,
                            message: &format!("no such user: \"{USER}\" of \"meta\""),
                            routine: None,
                        };
                        let message = refused(&error, &place, moment).message;
                        assert!(!message.contains(USER), "{message}");
                        assert!(message.contains("\"***\" of \"meta\""), "{message}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_user_that_is_cut_by_the_server_or_longer_than_a_message_is_hidden_too() {
        let user = "0123456789abcdef".repeat(4);
        let url = PgUrl::from_parts(PgParts {
            host: "db".to_owned(),
            port: None,
            database: "meta".to_owned(),
            user: user.clone(),
            password: Some("p".into()),
            params: BTreeMap::new(),
        });
        let url = url.unwrap();
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        for said in [&user[..63], &user] {
            for before in [0, MAX_SERVER_TEXT - 40] {
                let text = format!("{}\"{said}\"", "x".repeat(before));
                let shown = place.refusal(&text);
                assert!(!shown.contains(&user[..8]), "{shown}");
            }
        }
        // A part of a longer word is none.
        let short = PgUrl::from_parts(PgParts {
            host: "db".to_owned(),
            port: None,
            database: "meta".to_owned(),
            user: "pg".to_owned(),
            password: None,
            params: BTreeMap::new(),
        });
        let short = short.unwrap();
        let place = Place::new(&short, &short.hosts[0], &WhoseLogin::Bytebase);
        let shown = place.refusal("no entry in pg_hba.conf for \"pg\"");
        assert_eq!(shown, "no entry in pg_hba.conf for \"***\"");
    }

    #[test]
    fn long_words_of_a_server_are_cut() {
        let failure = classify_server("XX000", &"ä".repeat(100_000), None, Moment::Connect);
        assert!(failure.message.chars().count() < 500);
    }

    #[test]
    fn network_errors_are_unknown() {
        let url = url("::1", 5432);
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        for kind in [
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::UnexpectedEof,
            io::ErrorKind::TimedOut,
        ] {
            for moment in [Moment::Connect, Moment::Query] {
                let failure = match moment {
                    Moment::Connect => at_login(&Error::Network(kind.into()), &place),
                    Moment::Query => query(&sqlx::Error::Io(kind.into()), &place),
                };
                assert_eq!(
                    (failure.class, failure.reason),
                    (FailureClass::Unknown, FailureReason::Unreachable)
                );
                assert!(failure.message.starts_with("[::1]:5432/meta: "));
            }
        }
    }

    fn at_login(error: &Error, place: &Place<'_>) -> ProbeFailure {
        login(error, place, TargetSessionAttrs::Any)
    }

    #[test]
    fn a_library_that_quotes_its_input_is_not_quoted() {
        let url = url("db", 5432);
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        let key = "-----BEGIN PRIVATE KEY-----";
        for error in [
            sqlx::Error::Tls(format!("Invalid certificate {key}").into()),
            sqlx::Error::Configuration(key.into()),
            sqlx::Error::Protocol(key.to_owned()),
        ] {
            let failure = query(&error, &place);
            assert_eq!(failure.class, FailureClass::Unknown);
            assert!(!failure.message.contains("PRIVATE"), "{}", failure.message);
        }
    }

    #[test]
    fn what_goes_wrong_with_tls_is_never_definite() {
        let mut url = url("db", 5432);
        let tls = |error| Error::Tls(rustls::Error::InvalidCertificate(error));
        for (ca, error, hint) in [
            (None, Error::NoTls, "turn on TLS"),
            (
                None,
                tls(CertificateError::UnknownIssuer),
                "add sslrootcert=",
            ),
            (
                Some("/ca"),
                tls(CertificateError::UnknownIssuer),
                "check database.caSecretRef",
            ),
            (
                None,
                tls(CertificateError::NotValidForName),
                "another host name",
            ),
            (None, tls(CertificateError::Expired), "has expired"),
            (None, tls(CertificateError::NotValidYet), "is not valid yet"),
            (None, tls(CertificateError::InvalidPurpose), "serverAuth"),
        ] {
            url.ssl_root_cert = ca.map(str::to_owned);
            let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
            let failure = at_login(&error, &place);
            assert_eq!(
                (failure.class, failure.reason),
                (FailureClass::Unknown, FailureReason::TlsFailed)
            );
            assert!(failure.message.contains(hint), "{}", failure.message);
        }
    }

    #[test]
    fn the_time_that_passes_is_not_in_what_is_said_of_a_certificate() {
        let url = url("db", 5432);
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let said = |fault: CertificateError| {
            let error = Error::Tls(rustls::Error::InvalidCertificate(fault));
            at_login(&error, &place).message
        };
        for seconds in [1000, 1001] {
            let time = at(seconds);
            let expired = CertificateError::ExpiredContext {
                time,
                not_after: at(900),
            };
            assert_eq!(said(expired), said(CertificateError::Expired));
            let early = CertificateError::NotValidYetContext {
                time,
                not_before: at(2000),
            };
            assert_eq!(said(early), said(CertificateError::NotValidYet));
        }
    }

    #[test]
    fn target_session_attrs_say_what_a_server_should_have_been() {
        use TargetSessionAttrs::{Primary, ReadOnly, ReadWrite, Standby};
        let url = url("db", 5432);
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        for (attrs, is_standby, reason) in [
            (ReadWrite, true, FailureReason::Standby),
            (Primary, true, FailureReason::Standby),
            (ReadWrite, false, FailureReason::ReadOnly),
            (Standby, false, FailureReason::Other),
            (ReadOnly, false, FailureReason::Other),
        ] {
            let failure = login(&Error::Unfit { is_standby }, &place, attrs);
            assert_eq!(
                (failure.class, failure.reason),
                (FailureClass::Definite, reason),
                "{attrs:?}"
            );
            let monitor = WhoseLogin::Monitor(Watched::of(&url, &url));
            let place = Place::new(&url, &url.hosts[0], &monitor);
            let failure = login(&Error::Unfit { is_standby }, &place, attrs);
            let is_definite = failure.class == FailureClass::Definite;
            // A standby that the monitor asks for is no fault of the place, and that sessions begin
            // read-only may be set for it alone.
            assert_eq!(is_definite, is_standby, "{attrs:?} of a monitor");
        }
    }

    #[test]
    fn a_monitor_at_the_place_of_bytebases_own_login_shows_what_is_wrong_with_the_place() {
        use FailureReason as R;
        let here = url("db", 5432);
        let mut elsewhere = here.clone();
        elsewhere.hosts[0].port = 5433;
        for (at, shares) in [(&here, true), (&elsewhere, false)] {
            let login = WhoseLogin::Monitor(Watched::of(&here, at));
            let place = Place::new(at, &at.hosts[0], &login);
            for reason in R::iter() {
                let of_place = matches!(reason, R::NotPostgres | R::Standby | R::DatabaseMissing);
                let failure = place.failure(FailureClass::Definite, reason, "words");
                let is_definite = failure.class == FailureClass::Definite;
                assert_eq!(is_definite, shares && of_place, "{reason:?}");
                let unsure = place.failure(FailureClass::Unknown, reason, "words");
                assert_eq!(unsure.class, FailureClass::Unknown, "{reason:?}");
            }
        }
    }

    #[test]
    fn a_missing_database_is_to_be_bytebases_own_whoever_finds_it_missing() {
        let replicas = url("db", 5432);
        let mut monitor = replicas.clone();
        "watcher".clone_into(&mut monitor.user);
        let login = WhoseLogin::Monitor(Watched::of(&replicas, &monitor));
        let place = Place::new(&monitor, &monitor.hosts[0], &login);
        let error = ServerError {
            sqlstate: "3D000",
            message: "m",
            routine: None,
        };
        let message = refused(&error, &place, Moment::Connect).message;
        assert!(
            message.contains("role \"bytebase\" as its owner"),
            "{message}"
        );
    }
}
