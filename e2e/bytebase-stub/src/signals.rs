//! Word between replicas: one session that listens. Bytebase signals that a task run was cancelled,
//! and the stand-in cancels none, so nothing follows from what is heard. Of a new license no signal
//! speaks.

use crate::database::Database;
use sqlx::{Executor as _, postgres::PgListener};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Found by its exact text in `pg_stat_activity`: unquoted, and never followed by another query.
const LISTEN: &str = "LISTEN bytebase_signal";
/// After a lost session.
const RETRY: Duration = Duration::from_secs(5);

/// Listens until the end, with a new session whenever the last one was lost.
pub async fn run(database: Database, stop: CancellationToken) {
    let listening = async {
        loop {
            if let Err(error) = listen(&database).await {
                tracing::warn!(%error, "the listening session was lost");
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
    }
}

async fn listen(database: &Database) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(database.pool()).await?;
    listener.eager_reconnect(false);
    listener.execute(LISTEN).await?;
    while listener.try_recv().await?.is_some() {}
    Ok(())
}
