//! Logs in to PostgreSQL as Bytebase's driver does, a fork of pgx 5.7.2: the same attempts in the
//! same order, the same trust, the same words to the server. A check of whether Bytebase can use a
//! database must come to the same answer as the driver.
//!
//! ```text
//!   PgUrl ──► plan ──► wire (TCP, TLS, messages, SCRAM) ──► Session ──► relay ──► sqlx
//!             pure     one attempt after the other          an authenticated stream
//! ```
//!
//! What comes from the other side is bounded in bytes, messages, rounds and time, and no error
//! quotes it except the words of a server's refusal.

pub mod error;
pub mod names;
pub mod plan;
mod relay;
mod scram;
mod search;
pub mod tls;
pub mod wire;

pub use error::{Error, Refusal};
pub use names::{Lookups, Names};
#[doc(hidden)]
pub use relay::passed_on;

use bytebase_contract::pg_url::{HostPort, PgUrl, Protection, TargetSessionAttrs};
use plan::{Attempt, Endpoint, Reach};
use std::collections::BTreeSet;
use std::time::Duration;
use tls::{Authorities, ClientCertificate};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, timeout};
use wire::{Session, Transport};

/// For one attempt at one address, to the end of the login. The driver sets no limit of its own;
/// five seconds is far beyond any login that works.
pub const ATTEMPT: Duration = Duration::from_secs(5);

/// For all attempts together.
pub const ALTOGETHER: Duration = Duration::from_secs(20);

/// What to log in to, and how.
#[derive(Clone, Copy)]
pub struct LoginTo<'a> {
    /// The connection string. Its own `target_session_attrs` does not count.
    pub url: &'a PgUrl,
    /// Who vouches for the server, where it must prove itself.
    pub authorities: &'a Authorities,
    /// What the client proves itself by, where the server asks for it.
    pub certificate: Option<&'a ClientCertificate>,
    /// How far the login may go.
    pub reach: Reach,
    /// Of the same one who logged in before, so that what was begun then counts.
    pub lookups: &'a Lookups,
    /// Which of several servers will do.
    pub attrs: TargetSessionAttrs,
    /// `application_name` of the session.
    pub label: &'a str,
}

/// A login that worked.
pub struct LoggedIn {
    /// The session.
    pub session: Session,
    /// Index into [`PgUrl::hosts`].
    pub host: usize,
    /// The address.
    pub endpoint: Endpoint,
}

/// An attempt that did not.
#[derive(Debug)]
pub struct Failed {
    /// Index into [`PgUrl::hosts`].
    pub host: usize,
    /// The address; `None` where the name could not be looked up.
    pub endpoint: Option<Endpoint>,
    /// Whether it was encrypted, or was to be.
    pub encrypted: bool,
    /// Why.
    pub error: Error,
}

impl Failed {
    /// The driver makes no other attempt after this one, whatever other servers there are.
    pub fn is_final(&self) -> bool {
        plan::is_final(&self.error, self.encrypted)
    }
}

/// Logs in to the first server that lets the role in and will do.
///
/// Without one, every attempt is returned, in its order; none only if the string names no host.
pub async fn log_in(target: &LoginTo<'_>) -> Result<LoggedIn, Vec<Failed>> {
    log_in_by(target, &target.lookups.system()).await
}

/// The same with names looked up by other means.
pub async fn log_in_by(target: &LoginTo<'_>, names: &impl Names) -> Result<LoggedIn, Vec<Failed>> {
    let end = Instant::now() + ALTOGETHER;
    let mut failures = Vec::new();
    let mut addresses = Vec::new();
    for (host, at) in target.url.hosts.iter().enumerate() {
        addresses.push(match endpoints(target, at, end, names).await {
            Ok(endpoints) => endpoints,
            Err(error) => {
                failures.push(Failed {
                    host,
                    endpoint: None,
                    encrypted: false,
                    error,
                });
                Vec::new()
            }
        });
    }
    let protections = target.url.protections();
    let mut silent = BTreeSet::new();
    let mut second_best = None;
    for next in plan::attempts(&addresses, protections) {
        // The driver would wait there once more, without end.
        if silent.contains(&next.endpoint) {
            continue;
        }
        let tried = within(target, end, attempt(target, &next, target.attrs)).await;
        let error = match tried {
            Ok(session) => {
                return Ok(LoggedIn {
                    session,
                    host: next.host,
                    endpoint: next.endpoint,
                });
            }
            Err(error) => error,
        };
        match error {
            Error::TimedOut(_) => {
                silent.insert(next.endpoint.clone());
            }
            Error::Unfit { .. } => second_best = Some(next.clone()),
            _ => {}
        }
        let failed = Failed::new(&next, error);
        let is_final = failed.is_final();
        failures.push(failed);
        if is_final {
            return Err(failures);
        }
    }
    // As good as none, unless a standby was only preferred.
    if let Some(next) = second_best.filter(|_| target.attrs == TargetSessionAttrs::PreferStandby) {
        let tried = within(target, end, attempt(target, &next, TargetSessionAttrs::Any)).await;
        match tried {
            Ok(session) => {
                return Ok(LoggedIn {
                    session,
                    host: next.host,
                    endpoint: next.endpoint,
                });
            }
            Err(error) => failures.push(Failed::new(&next, error)),
        }
    }
    Err(failures)
}

async fn endpoints(
    target: &LoginTo<'_>,
    at: &HostPort,
    end: Instant,
    names: &impl Names,
) -> Result<Vec<Endpoint>, Error> {
    if plan::is_socket(&at.host) {
        return match target.reach {
            Reach::Anywhere => Ok(vec![Endpoint::socket(at)]),
            Reach::OtherMachines => Err(Error::OwnMachine),
        };
    }
    let left = end.saturating_duration_since(Instant::now());
    let found = target.lookups.find(at, ATTEMPT.min(left), names).await?;
    // By what was found and not by the name: many names and spellings lead to this machine.
    let within = target.reach.within(found)?;
    Ok(within.into_iter().map(Endpoint::Tcp).collect())
}

impl Failed {
    fn new(attempt: &Attempt, error: Error) -> Self {
        Self {
            host: attempt.host,
            endpoint: Some(attempt.endpoint.clone()),
            encrypted: attempt.protection != Protection::None,
            error,
        }
    }
}

/// Bounds an attempt by its own limit, the string's and that of all attempts.
async fn within<T>(
    target: &LoginTo<'_>,
    end: Instant,
    attempt: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let limit = target.url.connect_timeout().unwrap_or(ATTEMPT).min(ATTEMPT);
    let left = end.saturating_duration_since(Instant::now());
    let limit = limit.min(left);
    timeout(limit, attempt)
        .await
        .unwrap_or(Err(Error::TimedOut(limit)))
}

async fn attempt(
    target: &LoginTo<'_>,
    attempt: &Attempt,
    attrs: TargetSessionAttrs,
) -> Result<Session, Error> {
    let mut has_version_1_certificate = false;
    let stream: Box<dyn Transport> = match (&attempt.endpoint, attempt.protection) {
        (Endpoint::Socket(path), _) => {
            Box::new(UnixStream::connect(path).await.map_err(Error::Network)?)
        }
        (Endpoint::Tcp(address), protection) => {
            let stream = TcpStream::connect(address).await.map_err(Error::Network)?;
            stream.set_nodelay(true).map_err(Error::Network)?;
            match protection {
                Protection::None => Box::new(stream),
                Protection::Tls(proof) => {
                    let host = &target.url.hosts[attempt.host].host;
                    let sni = target.url.announces_name();
                    let (authorities, certificate) = (target.authorities, target.certificate);
                    let tls = tls::start(stream, host, proof, authorities, certificate, sni);
                    let (stream, is_version_1) = tls.await?;
                    has_version_1_certificate = is_version_1;
                    Box::new(stream)
                }
            }
        }
    };
    let mut session = wire::start(stream, target.url, target.label).await?;
    session.has_version_1_certificate = has_version_1_certificate;
    session.check(attrs).await?;
    Ok(session)
}
