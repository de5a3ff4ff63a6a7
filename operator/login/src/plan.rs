//! Which attempts are made, in which order, and after which of them no other is made. Pure.

use crate::error::Error;
use bytebase_contract::pg_url::{HostPort, Protection, is_of_each_machine};
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

/// How far a login may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anywhere: from where Bytebase itself stands.
    Anywhere,
    /// To other machines only. A socket, a loopback address and a link-local one lead somewhere
    /// else than for Bytebase, and whoever writes the string must not reach this machine by them.
    OtherMachines,
}

impl Reach {
    /// The addresses of a host that may be dialled; an error if it has some and none of them may.
    pub fn within(self, addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Error> {
        let had_some = !addresses.is_empty();
        let mut within = addresses;
        within.retain(|address| self == Self::Anywhere || !is_of_each_machine(address.ip()));
        within.truncate(MAX_ADDRESSES);
        if had_some && within.is_empty() {
            return Err(Error::OwnMachine);
        }
        Ok(within)
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
    fn of_a_name_that_leads_to_this_machine_as_well_the_other_addresses_count() {
        let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 5432);
        let own = [
            "127.0.0.1",
            "127.8.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "::1",
            "::",
            "fe80::1",
            "febf::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd20:ce::254",
        ];
        let others = [
            "10.0.0.1",
            "192.0.2.1",
            "fd00::1",
            "fd00:ec2::1",
            "::ffff:10.0.0.1",
        ];
        for own in own {
            let within = |reach: Reach| reach.within(vec![at(own)]);
            assert_eq!(within(Reach::Anywhere).unwrap(), [at(own)], "{own}");
            let refused = within(Reach::OtherMachines);
            assert!(matches!(refused, Err(Error::OwnMachine)), "{own}");
            for other in others {
                let both = vec![at(own), at(other)];
                let within = Reach::OtherMachines.within(both);
                assert_eq!(within.unwrap(), [at(other)], "{own} {other}");
            }
        }
        let many = [vec![at("127.0.0.1"); 99], vec![at("10.0.0.1"); 99]].concat();
        let within = Reach::OtherMachines.within(many).unwrap();
        assert_eq!(within, [at("10.0.0.1"); MAX_ADDRESSES]);
        assert!(Reach::OtherMachines.within(Vec::new()).unwrap().is_empty());
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
