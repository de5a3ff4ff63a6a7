//! Advisory lock 1003: one replica holds it for as long as its session lives, the others ask from
//! time to time.

use crate::database::Database;
use sqlx::Connection as _;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const SESSION_LOCK: i64 = 1003;
/// How often to ask for the lock, or whether the session that holds it still lives.
const PERIOD: Duration = Duration::from_secs(10);

/// Runs until the end; the lock goes with the session.
pub async fn run(database: Database, stop: CancellationToken) {
    let holding = async {
        loop {
            if let Err(error) = hold(&database).await {
                tracing::warn!(%error, "the session for the singleton lock was lost");
            }
            tokio::time::sleep(PERIOD).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = holding => {}
    }
}

async fn hold(database: &Database) -> sqlx::Result<()> {
    // Detached from the pool's hands: a session with the lock must never serve another query.
    let mut session = database.pool().acquire().await?;
    session.close_on_drop();
    let mut held = false;
    loop {
        if held {
            session.ping().await?;
        } else {
            held = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
                .bind(SESSION_LOCK)
                .fetch_one(&mut *session)
                .await?;
            if held {
                tracing::info!("acquired the singleton lock");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}
