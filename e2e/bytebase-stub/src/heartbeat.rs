//! One row per process, renewed for as long as it lives and left behind when it ends.

use crate::{database::Database, knobs::Knobs};
use sqlx::PgExecutor;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

/// After so long another statement of the replica goes over the session of a heartbeat.
const NEXT_STATEMENT: Duration = Duration::from_millis(200);

/// Sends one heartbeat, with the database's clock.
pub async fn send(session: impl PgExecutor<'_>, replica_id: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO replica_heartbeat (replica_id, last_heartbeat) VALUES ($1, now())
         ON CONFLICT (replica_id) DO UPDATE SET last_heartbeat = excluded.last_heartbeat",
    )
    .bind(replica_id)
    .execute(session)
    .await
    .map(|_| ())
}

/// Sends one as a replica with work does: the pool of its driver gives the session that was used
/// last to the next query, so the session does not show the heartbeat for long.
async fn send_in_passing(database: &Database, replica_id: &str) -> sqlx::Result<()> {
    let mut session = database.pool().acquire().await?;
    send(&mut *session, replica_id).await?;
    sleep(NEXT_STATEMENT).await;
    sqlx::query("SELECT 1").execute(&mut *session).await?;
    Ok(())
}

/// Sends heartbeats until the end. A failed one is logged; the next one comes at its time.
pub async fn run(database: Database, replica_id: String, knobs: Knobs, stop: CancellationToken) {
    let mut heartbeats = interval(knobs.heartbeat);
    let mut clean_ups = interval(knobs.heartbeat_retention);
    for timer in [&mut heartbeats, &mut clean_ups] {
        timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
        timer.tick().await; // the first tick is at once, and the first heartbeat is sent
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = heartbeats.tick() => {
                if let Err(error) = send_in_passing(&database, &replica_id).await {
                    tracing::error!(%error, "failed to send heartbeat");
                    database.find_host_again().await;
                }
            }
            _ = clean_ups.tick() => {
                if let Err(error) = delete_old(&database, knobs.heartbeat_retention).await {
                    tracing::error!(%error, "failed to delete old heartbeats");
                }
            }
        }
    }
}

async fn delete_old(database: &Database, age: Duration) -> sqlx::Result<()> {
    sqlx::query(
        "DELETE FROM replica_heartbeat WHERE last_heartbeat < now() - make_interval(secs => $1)",
    )
    .bind(age.as_secs_f64())
    .execute(database.pool())
    .await
    .map(|_| ())
}
