//! One row per process, renewed for as long as it lives and left behind when it ends.

use crate::{database::Database, knobs::Knobs};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// Sends one heartbeat, with the database's clock.
pub async fn send(database: &Database, replica_id: &str) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO replica_heartbeat (replica_id, last_heartbeat) VALUES ($1, now())
         ON CONFLICT (replica_id) DO UPDATE SET last_heartbeat = excluded.last_heartbeat",
    )
    .bind(replica_id)
    .execute(database.pool())
    .await
    .map(|_| ())
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
                if let Err(error) = send(&database, &replica_id).await {
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
