//! Why an attempt failed. Nothing here quotes what a server sent, except [`Refusal`].

use std::io;
use std::time::Duration;

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The name of the server cannot be looked up.
    #[error("the name cannot be looked up: {0}")]
    Name(#[source] io::Error),
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
    #[error("the server refuses the login (SQLSTATE {})", .0.code)]
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
    /// SQLSTATE.
    pub code: String,
    /// Text for people. A server that is not what it claims to be may have put anything there.
    pub message: String,
    /// The routine of the server that reported it, if it says so.
    pub routine: Option<String>,
}
