//! What is read once per connection: which database this is, and whether a transaction-mode pooler stands before it.
//!
//! Bytebase needs sessions: advisory locks held across transactions, `LISTEN`, prepared statements. A pooler in transaction mode
//! breaks them without any error at the start.

use super::Target;
use super::classify::Place;
use super::connect;
use super::queries::{self, Failed, SessionFacts};
use crate::decide::observation::ProbeFailure;
use sqlx::postgres::PgConnection;
use std::time::Duration;
use tokio::time::timeout;

/// Rounds of looking. On a pooler that others use too, one look may by chance meet the same server process twice.
const ROUNDS: usize = 3;

/// For the second session altogether. A session-mode pooler that is full makes it wait; then nothing is known, which is not a
/// reason to delay the facts.
const SECOND_SESSION_TIMEOUT: Duration = Duration::from_secs(3);

const PID: &str = "SELECT pg_backend_pid()::text";

/// Reads the identity and, unless `pooler` is known, looks for a transaction-mode pooler.
pub async fn read(
    connection: &mut PgConnection,
    target: &Target,
    place: &Place<'_>,
    pooler: Option<bool>,
) -> Result<(SessionFacts, Option<bool>), ProbeFailure> {
    let identity = queries::read_identity(connection, place).await?;
    let pooler = match pooler {
        Some(known) => Some(known),
        None => timeout(
            SECOND_SESSION_TIMEOUT,
            shares_a_server_process(connection, target),
        )
        .await
        .unwrap_or(None),
    };
    let facts = SessionFacts {
        identity,
        transaction_pooler: pooler.unwrap_or(false),
    };
    Ok((facts, pooler))
}

/// Whether a session of ours moves between server processes. `None` if it could not be told.
///
/// Session `a` is idle between its statements while session `b` holds a transaction. Behind a transaction-mode pooler `b` is given
/// the server process that `a` just left, and `a` finds itself on another. With sessions of their own neither can happen.
async fn shares_a_server_process(a: &mut PgConnection, target: &Target) -> Option<bool> {
    let mut b = connect::dial(target).await.ok()?.connection;
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
