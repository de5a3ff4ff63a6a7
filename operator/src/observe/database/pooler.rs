//! What is read once per connection: which database this is, and whether a transaction-mode pooler
//! stands before it.
//!
//! Bytebase needs sessions: advisory locks held across transactions, `LISTEN`, prepared statements.
//! A pooler in transaction mode breaks them without any error at the start.

use super::Access;
use super::classify::Place;
use super::connect::{self, Dialled};
use super::facts::SessionFacts;
use super::queries::{self, Failed};
use crate::observation::{DatabaseIdentity, ProbeFailure};
use bytebase_login::Lookups;
use sqlx::postgres::{PgConnection, PgDatabaseError};
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How often it is tried. On a pooler that others use too, one attempt may by chance meet the same
/// server process twice.
const ROUNDS: usize = 3;

/// For the second session altogether. A session-mode pooler that is full makes it wait; then
/// nothing is known, which is not a reason to delay the facts.
const SECOND_SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// A session that has no answer after so long may wait for the server process of the other one,
/// whose transaction then ends.
const HELD_UP_AFTER: Duration = Duration::from_secs(1);

/// That no pooler stands before a server is looked into again after so long: it costs a second
/// session.
const KEPT: Duration = Duration::from_hours(1);

const PID: &str = "SELECT pg_backend_pid()::text";

/// Whether a pooler in transaction mode stands before a server, as it was found out last.
#[derive(Clone, Debug)]
pub struct Found {
    is_there: bool,
    at: Instant,
    /// Which server it stands before, or does not.
    identity: DatabaseIdentity,
    /// The address that was dialled. At another one there may be another pooler, or none.
    address: Option<SocketAddr>,
}

impl Found {
    /// Whether it says something of a session that leads to this server by this address.
    fn counts(&self, identity: &DatabaseIdentity, address: Option<SocketAddr>) -> bool {
        self.identity == *identity && self.address == address && self.at.elapsed() < KEPT
    }
}

/// Reads the identity and checks for a transaction-mode pooler, unless `found` says already that
/// there is none. That there is one is what a session is made again for, so it is looked into each
/// time, and stands where it cannot be found out.
pub async fn read(
    dialled: &mut Dialled,
    access: &Access,
    lookups: &Lookups,
    found: &mut Option<Found>,
) -> Result<SessionFacts, ProbeFailure> {
    let place = Place::new(&access.url, &access.url.hosts[dialled.host], &access.login);
    let server = queries::read_server(&mut dialled.connection, &place).await?;
    let read = Instant::now();
    let address = dialled.address;
    found.take_if(|found| !found.counts(&server.identity, address));
    let before = found.as_ref().map(|found| found.is_there);
    let mut pooler = before;
    if before != Some(false)
        && let Some(is_there) = stands_before(dialled, access, lookups, server.reached_at).await
    {
        pooler = Some(is_there);
        *found = Some(Found {
            is_there,
            at: Instant::now(),
            identity: server.identity.clone(),
            address,
        });
    }
    Ok(SessionFacts {
        identity: server.identity,
        server_since: read.checked_sub(server.uptime).unwrap_or(read),
        transaction_pooler: pooler,
        has_version_1_certificate: dialled.has_version_1_certificate,
        settings: server.settings,
    })
}

/// Whether a pooler in transaction mode stands before a login that was made to find out no more
/// than that. `None` if that is not known.
pub async fn find(dialled: &mut Dialled, access: &Access, lookups: &Lookups) -> Option<bool> {
    let place = Place::new(&access.url, &access.url.hosts[dialled.host], &access.login);
    let server = queries::read_server(&mut dialled.connection, &place).await;
    let reached_at = server.ok().and_then(|server| server.reached_at);
    stands_before(dialled, access, lookups, reached_at).await
}

/// Whether a pooler in transaction mode stands before a session whose server says that it was
/// reached at `reached_at`. `None` if that is not known.
async fn stands_before(
    dialled: &mut Dialled,
    access: &Access,
    lookups: &Lookups,
    reached_at: Option<SocketAddr>,
) -> Option<bool> {
    if is_direct(dialled.address, reached_at) {
        return Some(false);
    }
    // Large, and rarely there.
    let connection = &mut dialled.connection;
    let finds_out = Box::pin(shares_a_server_process(connection, access, lookups));
    let found = timeout(SECOND_SESSION_TIMEOUT, finds_out).await;
    found.unwrap_or(None)
}

/// Whether the server was reached at the very address that was dialled. Then there is no room for a
/// pooler, and no need for a second session to find one. Behind a Kubernetes Service or other
/// address translation it cannot be known.
fn is_direct(dialled: Option<SocketAddr>, reached_at: Option<SocketAddr>) -> bool {
    let canonical = |address: SocketAddr| (address.ip().to_canonical(), address.port());
    let (dialled, reached_at) = (dialled.map(canonical), reached_at.map(canonical));
    dialled.is_some() && dialled == reached_at
}

/// Whether a session of ours moves between server processes. `None` if that is not known.
///
/// Session `a` is idle between its statements while session `b` holds a transaction. Behind a
/// transaction-mode pooler `b` is given the server process that `a` just left, and `a` finds itself
/// on another. With sessions of their own neither can happen. One that hands out its server
/// processes in turn may do so evenly, so `a` is also asked twice in a row.
async fn shares_a_server_process(
    a: &mut PgConnection,
    access: &Access,
    lookups: &Lookups,
) -> Option<bool> {
    let mut b = connect::dial(access, lookups).await.ok()?.connection;
    let mut shared = Some(false);
    let mut last = pid(a).await?;
    for _ in 0..ROUNDS {
        let before = pid(a).await?;
        let other = match queries::fetch(&mut b, format!("BEGIN; {PID}")).await {
            Ok(row) => queries::text_of(&row),
            Err(Failed::Sql(sqlx::Error::Database(error))) => {
                let error = error.try_downcast_ref::<PgDatabaseError>()?;
                shared = refuses_transactions(error.code(), error.message()).then_some(true);
                break;
            }
            Err(_) => return None,
        };
        // Where the pooler has one server process only, `b` has it until its transaction ends.
        let mut waiting = pin!(pid(a));
        let after = timeout(HELD_UP_AFTER, &mut waiting).await;
        queries::fetch(&mut b, format!("COMMIT; {PID}"))
            .await
            .ok()?;
        let after = match after {
            Ok(after) => after?,
            Err(_) => waiting.await?,
        };
        if before == other || before != after || before != last {
            shared = Some(true);
            break;
        }
        last = after;
    }
    connect::close(b).await;
    shared
}

/// Whether these are the words of a pooler in statement mode (PgBouncer's), in which a session
/// moves even between the statements of a transaction. A server that is being shut down refuses one
/// as well.
fn refuses_transactions(code: &str, message: &str) -> bool {
    code == "08P01" && message.contains("not allowed in statement pooling mode")
}

async fn pid(connection: &mut PgConnection) -> Option<String> {
    let row = queries::fetch(connection, PID.to_owned()).await.ok()?;
    Some(queries::text_of(&row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_refusal_of_a_transaction_shows_a_pooler_in_statement_mode() {
        for (code, message, expected) in [
            (
                "08P01",
                "transaction blocks not allowed in statement pooling mode",
                true,
            ),
            ("08P01", "query_wait_timeout", false),
            (
                "57P01",
                "terminating connection due to administrator command",
                false,
            ),
            (
                "53300",
                "no more connections allowed (max_client_conn)",
                false,
            ),
            (
                "42501",
                "transaction blocks not allowed in statement pooling mode",
                false,
            ),
        ] {
            assert_eq!(refuses_transactions(code, message), expected, "{message}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_found_counts_for_an_hour_and_for_the_same_server_at_the_same_address() {
        let server = DatabaseIdentity::new("one", "start");
        let address: Option<SocketAddr> = "10.0.0.1:5432".parse().ok();
        let found = Found {
            is_there: false,
            at: Instant::now(),
            identity: server.clone(),
            address,
        };
        assert!(found.counts(&server, address));
        assert!(!found.counts(&DatabaseIdentity::new("two", "start"), address));
        assert!(!found.counts(&DatabaseIdentity::new("one", "restart"), address));
        assert!(!found.counts(&server, "10.0.0.2:5432".parse().ok()));
        tokio::time::advance(KEPT).await;
        assert!(!found.counts(&server, address));
    }

    #[test]
    fn direct_is_what_answers_at_the_address_that_was_dialled() {
        for (dialled, reached_at, direct) in [
            (Some("10.0.0.1:5432"), Some("10.0.0.1:5432"), true),
            (Some("[fd00::1]:5432"), Some("[fd00::1]:5432"), true),
            (Some("[::ffff:10.0.0.1]:5432"), Some("10.0.0.1:5432"), true),
            // A pooler beside the server, a Service before it, a socket behind the pooler.
            (Some("10.0.0.1:5432"), Some("10.0.0.1:5433"), false),
            (Some("10.0.0.1:5432"), Some("10.0.0.2:5432"), false),
            (Some("10.0.0.1:5432"), None, false),
            (None, None, false),
        ] {
            let address = |text: Option<&str>| text.map(|text| text.parse().unwrap());
            assert_eq!(
                is_direct(address(dialled), address(reached_at)),
                direct,
                "{dialled:?} {reached_at:?}"
            );
        }
    }
}
