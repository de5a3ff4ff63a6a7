//! Which attempts are made, in which order, and after which of them no other is made. Pure.

use crate::error::Error;
use bytebase_contract::pg_url::{HostPort, Protection};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Addresses of one name that are tried.
pub const MAX_ADDRESSES: usize = 16;

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Endpoint {
    /// By an address.
    Tcp(SocketAddr),
    /// By a Unix socket of this machine.
    Socket(PathBuf),
}

impl Endpoint {
    /// The socket in the directory that a host names.
    pub fn socket(at: &HostPort) -> Self {
        Self::Socket(PathBuf::from(&at.host).join(format!(".s.PGSQL.{}", at.port)))
    }
}

/// Whether a host is the directory of a Unix socket.
pub fn is_socket(host: &str) -> bool {
    host.starts_with('/')
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Index into the hosts of the connection string.
    pub host: usize,
    /// Where.
    pub endpoint: Endpoint,
    /// How.
    pub protection: Protection,
}

/// All attempts in the driver's order: each host in turn, of it each kind of protection in turn, by
/// that each address of the name. Over a socket there is no TLS.
pub fn attempts(addresses: &[Vec<Endpoint>], protections: &[Protection]) -> Vec<Attempt> {
    let mut attempts = Vec::new();
    for (host, endpoints) in addresses.iter().enumerate() {
        let is_socket = matches!(endpoints[..], [Endpoint::Socket(_)]);
        let protections = if is_socket {
            &[Protection::None]
        } else {
            protections
        };
        for protection in protections {
            attempts.extend(endpoints.iter().map(|endpoint| Attempt {
                host,
                endpoint: endpoint.clone(),
                protection: *protection,
            }));
        }
    }
    attempts
}

/// Whether the driver gives up after this: a refused password, a missing database, a missing right,
/// and over TLS any refusal of the role.
pub fn is_final(error: &Error, encrypted: bool) -> bool {
    let Error::Refused(refusal) = error else {
        return false;
    };
    match refusal.code.as_str() {
        "28P01" | "3D000" | "42501" => true,
        "28000" => encrypted,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Refusal;
    use bytebase_contract::pg_url::Proof;

    #[test]
    fn hosts_then_protections_then_addresses() {
        let tcp = |port| Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], port)));
        let socket = Endpoint::socket(&HostPort {
            host: "/run/pg".to_owned(),
            port: 5433,
        });
        assert_eq!(socket, Endpoint::Socket("/run/pg/.s.PGSQL.5433".into()));
        let tls = Protection::Tls(Proof::Nothing);
        let planned = attempts(
            &[
                vec![tcp(1), tcp(2)],
                vec![],
                vec![socket.clone()],
                vec![tcp(3)],
            ],
            &[tls, Protection::None],
        );
        let seen: Vec<_> = planned
            .into_iter()
            .map(|attempt| (attempt.host, attempt.endpoint, attempt.protection))
            .collect();
        assert_eq!(
            seen,
            [
                (0, tcp(1), tls),
                (0, tcp(2), tls),
                (0, tcp(1), Protection::None),
                (0, tcp(2), Protection::None),
                (2, socket, Protection::None),
                (3, tcp(3), tls),
                (3, tcp(3), Protection::None),
            ]
        );
    }

    #[test]
    fn some_refusals_end_the_search() {
        let refused = |code: &str| {
            Error::Refused(Refusal {
                code: code.to_owned(),
                message: String::new(),
                routine: None,
            })
        };
        for (code, in_clear, over_tls) in [
            ("28P01", true, true),
            ("28000", false, true),
            ("3D000", true, true),
            ("42501", true, true),
            ("57P03", false, false),
            ("53300", false, false),
            ("42704", false, false),
        ] {
            let error = refused(code);
            assert_eq!(
                (is_final(&error, false), is_final(&error, true)),
                (in_clear, over_tls),
                "{code}"
            );
        }
        assert!(!is_final(&Error::NoTls, true));
    }
}
