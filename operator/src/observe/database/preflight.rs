//! What is read once per connection: which database this is, and whether a transaction-mode pooler
//! stands before it.
//!
//! Bytebase needs sessions: advisory locks held across transactions, `LISTEN`, prepared statements.
//! A pooler in transaction mode breaks them without any error at the start.

use super::Access;
use super::classify::Place;
use super::connect;
use super::queries::{self, Failed, SessionFacts};
use crate::contract::pg_url::HostPort;
use crate::observation::ProbeFailure;
use sqlx::postgres::PgConnection;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

/// How often it is tried. On a pooler that others use too, one attempt may by chance meet the same
/// server process twice.
const ROUNDS: usize = 3;

/// For the second session altogether. A session-mode pooler that is full makes it wait; then
/// nothing is known, which is not a reason to delay the facts.
const SECOND_SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// For the name of a server that was found by it a moment ago.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);

const PID: &str = "SELECT pg_backend_pid()::text";

/// Reads the identity and, unless `pooler` is known, checks for a transaction-mode pooler.
pub async fn read(
    connection: &mut PgConnection,
    access: &Access,
    host: &HostPort,
    pooler: Option<bool>,
) -> Result<(SessionFacts, Option<bool>), ProbeFailure> {
    let place = Place::new(&access.url, host, &access.login);
    let server = queries::read_server(connection, &place).await?;
    let read = Instant::now();
    let pooler = match pooler {
        Some(known) => Some(known),
        // A monitoring login works through any pooler, and Bytebase need not go through this one.
        None if !access.login.shares_the_place() => Some(false),
        None if is_direct(host, server.reached_at).await => Some(false),
        None => timeout(
            SECOND_SESSION_TIMEOUT,
            shares_a_server_process(connection, access),
        )
        .await
        .unwrap_or(None),
    };
    let facts = SessionFacts {
        identity: server.identity,
        server_since: read.checked_sub(server.uptime).unwrap_or(read),
        transaction_pooler: pooler.unwrap_or(false),
    };
    Ok((facts, pooler))
}

/// Whether the server was reached at the very address that was dialled. Then there is no room for a
/// pooler, and no need for a second session to find one. Behind a Kubernetes Service or other
/// address translation it cannot be known.
async fn is_direct(dialled: &HostPort, reached_at: Option<SocketAddr>) -> bool {
    let Some(server) = reached_at.filter(|server| server.port() == dialled.port) else {
        return false;
    };
    let found = timeout(
        LOOK_UP_TIMEOUT,
        lookup_host((dialled.host.as_str(), dialled.port)),
    );
    let Ok(Ok(mut addresses)) = found.await else {
        return false;
    };
    addresses.any(|address| address.ip().to_canonical() == server.ip().to_canonical())
}

/// Whether a session of ours moves between server processes. `None` if that is not known.
///
/// Session `a` is idle between its statements while session `b` holds a transaction. Behind a
/// transaction-mode pooler `b` is given the server process that `a` just left, and `a` finds itself
/// on another. With sessions of their own neither can happen.
async fn shares_a_server_process(a: &mut PgConnection, access: &Access) -> Option<bool> {
    let mut b = connect::dial(access).await.ok()?.connection;
    let mut shared = Some(false);
    for _ in 0..ROUNDS {
        let before = pid(a).await?;
        // A statement-mode pooler refuses the transaction, which is the same verdict.
        let other = match queries::fetch(&mut b, format!("BEGIN; {PID}")).await {
            Ok(row) => queries::text_of(&row),
            Err(Failed::Sql(sqlx::Error::Database(_))) => {
                shared = Some(true);
                break;
            }
            Err(_) => return None,
        };
        let after = pid(a).await?;
        if before == other || before != after {
            shared = Some(true);
            break;
        }
        queries::fetch(&mut b, format!("COMMIT; {PID}"))
            .await
            .ok()?;
    }
    connect::close(b).await;
    shared
}

async fn pid(connection: &mut PgConnection) -> Option<String> {
    let row = queries::fetch(connection, PID.to_owned()).await.ok()?;
    Some(queries::text_of(&row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn direct_is_what_answers_at_the_address_that_was_dialled() {
        let dialled = |host: &str| HostPort {
            host: host.to_owned(),
            port: 5432,
        };
        for (host, reached_at, direct) in [
            ("10.0.0.1", Some("10.0.0.1:5432"), true),
            ("fd00::1", Some("[fd00::1]:5432"), true),
            ("localhost", Some("127.0.0.1:5432"), true),
            ("::ffff:10.0.0.1", Some("10.0.0.1:5432"), true),
            // A pooler beside the server, a Service before it, a socket behind the pooler.
            ("10.0.0.1", Some("10.0.0.1:5433"), false),
            ("10.0.0.1", Some("10.0.0.2:5432"), false),
            ("10.0.0.1", None, false),
        ] {
            let reached_at = reached_at.map(|address| address.parse().unwrap());
            assert_eq!(
                is_direct(&dialled(host), reached_at).await,
                direct,
                "{host} {reached_at:?}"
            );
        }
    }
}
