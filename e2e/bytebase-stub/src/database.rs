//! Sessions with the metadata database: which host, how many, and what happens when it moves.
//!
//! sqlx logs in, and so this differs from Bytebase's driver in what sqlx has no setting for:
//!
//! - A CA bundle is trusted beside Mozilla's authorities, not in their place.
//! - A certificate of version 1 is refused wherever TLS is spoken, and passed over in a bundle.
//! - Of a name with several addresses the first that answers is taken, where a server is not asked
//!   what it is, and where it must prove its name.
//! - A client certificate is read at each login, not once at the start, and shown to every server
//!   that asks.
//!
//! What depends on these is tested with the login itself.

use crate::pg_url::{Attempt, PgTarget, SessionRequirement};
use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool, Row as _,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use std::{future::Future, io, sync::Arc, time::Duration};

/// Most sessions one replica opens, however many the server would give.
const POOL_LIMIT: u32 = 50;
/// Oldest server that will do, as `server_version_num`.
const OLDEST_SERVER: i32 = 140_000;
/// A query waits this long for a session, so that a dead database shows within one heartbeat.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than a round of the scheduler, so that one session of the pool stays at rest; shorter
/// than two, so that a second goes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(7);
/// Codes after which another attempt would only be refused again.
const FINAL_CODES: [&str; 3] = ["28P01", "3D000", "42501"];
const INVALID_AUTHORIZATION: &str = "28000";

/// The pool and the target it was made for.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    target: Arc<PgTarget>,
}

/// Why no session could be opened.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The server, the network or TLS said no.
    #[error("failed to connect to the metadata database: {0}")]
    Sqlx(#[from] sqlx::Error),
    /// `connect_timeout` passed.
    #[error("failed to connect to the metadata database: timeout")]
    Timeout,
    /// No host has the properties asked for by `target_session_attrs`.
    #[error("failed to connect to the metadata database: no host satisfies target_session_attrs")]
    Unsuitable,
    /// The server is older than PostgreSQL 14.
    #[error("the metadata database must be PostgreSQL 14 or newer")]
    TooOld,
}

/// Opens one session with the first host that fits.
pub async fn connect(target: &PgTarget) -> Result<(PgConnection, PgConnectOptions), ConnectError> {
    let mut last = ConnectError::Unsuitable;
    for requirement in target.requirement().rounds() {
        for attempt in target.attempts() {
            for options in addresses(&attempt.options, *requirement).await {
                match open(&options, *requirement, target.connect_timeout()).await {
                    Ok(session) => return Ok((session, options)),
                    Err(error) if is_final(&error, attempt) => return Err(error),
                    Err(error) => last = error,
                }
            }
        }
    }
    Err(last)
}

/// The options once for each address of their host, if servers are to be asked what they are: the
/// library stops at the first that answers. A server that must prove its name keeps it, since the
/// library takes name and address from the same place.
async fn addresses(
    options: &PgConnectOptions,
    requirement: SessionRequirement,
) -> Vec<PgConnectOptions> {
    let host = options.get_host();
    let proves_its_name = matches!(options.get_ssl_mode(), PgSslMode::VerifyFull);
    if requirement != SessionRequirement::Any && !proves_its_name && !host.starts_with('/') {
        let found = tokio::net::lookup_host((host, options.get_port())).await;
        let by_address = found.into_iter().flatten();
        let all: Vec<_> = by_address
            .map(|address| options.clone().host(&address.ip().to_string()))
            .collect();
        if !all.is_empty() {
            return all;
        }
    }
    // What cannot be looked up fails as it stands.
    vec![options.clone()]
}

async fn open(
    options: &PgConnectOptions,
    requirement: SessionRequirement,
    timeout: Option<Duration>,
) -> Result<PgConnection, ConnectError> {
    let opening = async {
        let mut session = options.connect().await?;
        if fits(&mut session, requirement).await? {
            Ok(session)
        } else {
            Err(ConnectError::Unsuitable)
        }
    };
    match timeout {
        None => opening.await,
        Some(limit) => tokio::time::timeout(limit, opening)
            .await
            .unwrap_or(Err(ConnectError::Timeout)),
    }
}

async fn fits(session: &mut PgConnection, requirement: SessionRequirement) -> sqlx::Result<bool> {
    if requirement == SessionRequirement::Any {
        return Ok(true);
    }
    let row =
        sqlx::query("SELECT pg_is_in_recovery(), current_setting('transaction_read_only') = 'on'")
            .fetch_one(session)
            .await?;
    Ok(requirement.accepts(row.try_get(0)?, row.try_get(1)?))
}

fn is_final(error: &ConnectError, attempt: &Attempt) -> bool {
    let ConnectError::Sqlx(error) = error else {
        return false;
    };
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| {
            FINAL_CODES.contains(&&*code) || (code == INVALID_AUTHORIZATION && attempt.encrypted)
        })
}

impl Database {
    /// Makes the pool for the host that `session` is connected to, sized by that server's limits.
    pub async fn new(
        target: PgTarget,
        options: PgConnectOptions,
        session: &mut PgConnection,
    ) -> Result<Self, ConnectError> {
        let row = sqlx::query(
            "SELECT current_setting('server_version_num')::int,
                    current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int",
        )
        .fetch_one(session)
        .await?;
        let (version, available): (i32, i32) = (row.try_get(0)?, row.try_get(1)?);
        if version < OLDEST_SERVER {
            return Err(ConnectError::TooOld);
        }
        let requirement = target.requirement();
        let pool = PgPoolOptions::new()
            .max_connections(pool_size(available))
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(IDLE_TIMEOUT)
            .after_connect(move |session, _| {
                Box::pin(async move {
                    if fits(session, requirement).await? {
                        return Ok(());
                    }
                    let reason = "the host does not satisfy target_session_attrs";
                    Err(sqlx::Error::Io(io::Error::other(reason)))
                })
            })
            .connect_lazy_with(options);
        Ok(Self {
            pool,
            target: Arc::new(target),
        })
    }

    /// The sessions.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Looks for the host that fits now; new sessions go there. Call it when queries fail.
    pub async fn find_host_again(&self) {
        // Otherwise each new session looks for it anyway.
        let is_fixed = self.target.requirement() != SessionRequirement::Any;
        if self.target.attempts().len() < 2 && !is_fixed {
            return;
        }
        if let Ok(Ok((session, options))) = limited(connect(&self.target)).await {
            self.pool.set_connect_options(options);
            // The session was only to prove that the host answers.
            let _ = session.close().await;
        }
    }

    /// Gives all sessions back in good order, unless that takes too long.
    pub async fn close(&self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.pool.close()).await;
    }
}

fn pool_size(available: i32) -> u32 {
    u32::try_from(available)
        .unwrap_or_default()
        .clamp(1, POOL_LIMIT)
}

async fn limited<T>(work: impl Future<Output = T>) -> Result<T, tokio::time::error::Elapsed> {
    tokio::time::timeout(ACQUIRE_TIMEOUT, work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_address_is_asked_unless_the_server_must_prove_its_name() {
        let hosts = async |host: &str, mode, requirement| {
            let options = PgConnectOptions::new_without_pgpass();
            let options = options.host(host).ssl_mode(mode);
            let all = addresses(&options, requirement).await;
            let hosts = all.iter().map(|options| options.get_host().to_owned());
            hosts.collect::<Vec<_>>()
        };
        let (any, primary) = (SessionRequirement::Any, SessionRequirement::Primary);
        let by_address = hosts("localhost", PgSslMode::Require, primary).await;
        assert!(!by_address.is_empty());
        for host in by_address {
            assert!(host.parse::<std::net::IpAddr>().is_ok(), "{host}");
        }
        for (host, mode, requirement) in [
            ("localhost", PgSslMode::VerifyFull, primary),
            ("localhost", PgSslMode::Require, any),
            ("/run/postgresql", PgSslMode::Disable, primary),
            ("no-such-name.invalid", PgSslMode::Disable, primary),
        ] {
            assert_eq!(hosts(host, mode, requirement).await, [host]);
        }
    }

    #[test]
    fn the_pool_takes_fifty_sessions_or_what_the_server_has() {
        assert_eq!(pool_size(97), 50);
        assert_eq!(pool_size(17), 17);
        assert_eq!(pool_size(-3), 1);
    }
}
