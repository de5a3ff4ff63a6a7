//! Why an attempt failed. Nothing here quotes what a server sent, except [`Refusal`].

use std::io;
use std::time::Duration;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the server cannot be looked up.
    #[error("the name cannot be looked up: {0}")]
    Name(#[source] io::Error),
    /// Too many lookups that were begun before go on.
    #[error("this process is busy with lookups of other names that do not answer")]
    Busy,
    /// The host leads to nothing but this machine or its link, where the login must not go.
    #[error("the host leads to this machine itself or to its link")]
    OwnMachine,
    /// There is no connection, or it broke.
    #[error("no connection: {0}")]
    Network(#[source] io::Error),
    /// Nothing came back in this time.
    #[error("no answer within {} s", .0.as_secs_f64())]
    TimedOut(Duration),
    /// The server does not speak TLS.
    #[error("the server does not support TLS")]
    NoTls,
    /// TLS could not be set up, or the server did not prove itself.
    #[error("TLS failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The server answered with an error.
    #[error("the server refuses the login{}", in_brackets(&.0.code))]
    Refused(Refusal),
    /// The server asks for a way to log in that the driver does not have, or does not prove that it
    /// knows the password.
    #[error("{0}")]
    Authentication(&'static str),
    /// What came is not what a PostgreSQL server sends.
    #[error("{0}")]
    Protocol(&'static str),
    /// The server lets the role in, and is not of the kind that is asked for.
    #[error("the server is not of the kind that target_session_attrs asks for")]
    Unfit {
        /// It says that it follows another one; not all servers say so.
        is_standby: bool,
    },
}

/// An error of the server, in its words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// SQLSTATE, by [`sqlstate`].
    pub code: String,
    /// Text for people. A server that is not what it claims to be may have put anything there.
    pub message: String,
    /// The routine of the server that reported it, if it says so.
    pub routine: Option<String>,
}

impl Refusal {
    /// There is no room for one more session: of the server, the database, the role or a pooler.
    /// What has sessions goes on.
    pub fn is_full(&self) -> bool {
        self.code == "53300" || is_full_pooler(&self.message)
    }
}

/// Whether a pooler says that it takes no more clients. Poolers say so under several codes; these
/// are PgBouncer's and Supavisor's words, among others'.
pub fn is_full_pooler(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["max_client", "max client", "no more connections allowed"]
        .iter()
        .any(|words| said.contains(words))
}

/// A server's SQLSTATE where it is one, and otherwise nothing: a server that is not what it claims
/// to be may have put anything there, the password too, and it is shown as it is.
pub fn sqlstate(code: &str) -> &str {
    let is_one = code.len() == 5
        && code
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    if is_one { code } else { "" }
}

/// A SQLSTATE as it stands at the end of a message.
pub fn in_brackets(sqlstate: &str) -> String {
    if sqlstate.is_empty() {
        String::new()
    } else {
        format!(" (SQLSTATE {sqlstate})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_or_a_pooler_without_room_is_full() {
        for (code, message, expected) in [
            ("53300", "sorry, too many clients already", true),
            ("53300", "", true),
            (
                "08P01",
                "no more connections allowed (max_client_conn)",
                true,
            ),
            ("XX000", "Max client connections reached", true),
            ("08P01", "no such user: max", false),
            ("28P01", "password authentication failed", false),
            ("57P03", "the database system is starting up", false),
        ] {
            let refusal = Refusal {
                code: code.to_owned(),
                message: message.to_owned(),
                routine: None,
            };
            assert_eq!(refusal.is_full(), expected, "{code} {message}");
        }
    }
}
