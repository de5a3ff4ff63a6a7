//! Word between replicas: one session that listens, and one notification when the license changes.

use crate::{database::Database, entitlement::Entitlement};
use sqlx::{Executor as _, PgConnection, postgres::PgListener};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Found by its exact text in `pg_stat_activity`: unquoted, and never followed by another query.
const LISTEN: &str = "LISTEN bytebase_signal";
const CHANNEL: &str = "bytebase_signal";
const LICENSE_CHANGED: &str = "license";
/// After a lost session, long enough not to hammer a database that comes up.
const RETRY: Duration = Duration::from_secs(2);

/// Notifies every replica, as part of the transaction on `session`.
pub async fn license_changed(session: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(LICENSE_CHANGED)
        .execute(session)
        .await
        .map(|_| ())
}

/// Listens until the end, with a new session whenever the last one was lost.
pub async fn run(database: Database, entitlement: Arc<Entitlement>, stop: CancellationToken) {
    let listening = async {
        loop {
            if let Err(error) = listen(&database, &entitlement).await {
                tracing::warn!(%error, "the listening session was lost");
            }
            // Something may have been said while no session listened.
            entitlement.forget();
            tokio::time::sleep(RETRY).await;
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = listening => {}
    }
}

async fn listen(database: &Database, entitlement: &Entitlement) -> sqlx::Result<()> {
    let mut listener = PgListener::connect_with(database.pool()).await?;
    listener.eager_reconnect(false);
    listener.execute(LISTEN).await?;
    while let Some(signal) = listener.try_recv().await? {
        if signal.payload() == LICENSE_CHANGED {
            entitlement.forget();
        }
    }
    Ok(())
}
