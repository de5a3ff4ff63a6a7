//! The queue: PENDING → AVAILABLE by one replica at a time, AVAILABLE → RUNNING by whoever claims
//! it, and the end of both.

use crate::{
    database::Database,
    entitlement::Entitlement,
    knobs::Knobs,
    migration::{self, MigrationError},
};
use sqlx::{Connection as _, PgConnection};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Whoever holds this lock, shared or not, keeps every replica from promoting.
const PROMOTION_LOCK: i64 = 1001;
/// Most ends recorded with one statement.
const BATCH: usize = 1000;

/// One replica's part in the queue.
pub struct Scheduler {
    database: Database,
    entitlement: Arc<Entitlement>,
    replica_id: String,
    knobs: Knobs,
    stop: CancellationToken,
    running: TaskTracker,
    /// Tasks that came to their end, from the tasks themselves.
    ended: (UnboundedSender<End>, UnboundedReceiver<End>),
    /// Those whose end the database does not know yet.
    unrecorded: Vec<End>,
    restricted_since: Option<Instant>,
}

/// The end of a task, and why it failed if it did.
type End = (i64, Result<(), MigrationError>);

impl Scheduler {
    /// A scheduler that has not begun.
    pub fn new(
        database: Database,
        entitlement: Arc<Entitlement>,
        replica_id: String,
        knobs: Knobs,
        stop: CancellationToken,
    ) -> Self {
        Self {
            database,
            entitlement,
            replica_id,
            knobs,
            stop,
            running: TaskTracker::new(),
            ended: unbounded_channel(),
            unrecorded: Vec::new(),
            restricted_since: None,
        }
    }

    /// Works until the end. Tasks that run then are dropped at once, and their rows stay RUNNING.
    pub async fn run(mut self) {
        // Between the heartbeats, and apart from each other: an idle replica then needs one session
        // for all three.
        let start = Instant::now() + self.knobs.scheduler / 2;
        let mut rounds = interval_at(start, self.knobs.scheduler);
        let first_check = start + self.knobs.stale_check + self.knobs.scheduler / 4;
        let mut stale_checks = interval_at(first_check, self.knobs.stale_check);
        for timer in [&mut rounds, &mut stale_checks] {
            timer.set_missed_tick_behavior(MissedTickBehavior::Skip);
        }
        let stop = self.stop.clone();
        loop {
            let outcome = tokio::select! {
                () = stop.cancelled() => break,
                _ = rounds.tick() => self.round().await,
                _ = self.ended.1.recv_many(&mut self.unrecorded, BATCH) => self.record_ends().await,
                _ = stale_checks.tick() => self.fail_tasks_of_dead_owners().await,
            };
            if let Err(error) = outcome {
                tracing::error!(%error, "the task scheduler failed");
            }
        }
        self.running.close();
        self.running.wait().await;
    }

    async fn round(&mut self) -> sqlx::Result<()> {
        self.record_ends().await?; // what the database did not take before
        let mut session = self.database.pool().acquire().await?;
        if self.entitlement.is_restricted(&mut session).await? {
            let since = *self.restricted_since.get_or_insert_with(Instant::now);
            tracing::warn!(
                runner = "task scheduler",
                "skipped due to HA license restriction"
            );
            if since.elapsed() >= self.knobs.restriction_grace {
                fail_queued_tasks(&mut session).await?;
            }
            return Ok(());
        }
        self.restricted_since = None;
        promote(&mut session).await?;
        self.claim(&mut session).await
    }

    async fn claim(&self, session: &mut PgConnection) -> sqlx::Result<()> {
        let claimed: Vec<(i64, Option<f64>, Option<String>)> = sqlx::query_as(
            "UPDATE task_run SET status = 'RUNNING', replica_id = $1, updated_at = now()
             WHERE id IN (SELECT id FROM task_run WHERE status = 'AVAILABLE' ORDER BY id FOR UPDATE SKIP LOCKED)
             RETURNING id, (payload->>'seconds')::float8, payload->>'target'",
        )
        .bind(&self.replica_id)
        .fetch_all(&mut *session)
        .await?;
        for (id, seconds, target) in claimed {
            // By a statement of its own, so that a claimed task may be seen that has not begun. One
            // whose beginning the database does not take runs all the same, unlike in Bytebase.
            let statement =
                "UPDATE task_run SET started_at = now(), updated_at = now() WHERE id = $1";
            let begun = sqlx::query(statement).bind(id).execute(&mut *session).await;
            if let Err(error) = begun {
                tracing::warn!(task_run = id, %error, "the beginning of a task run is not recorded");
            }
            tracing::info!(task_run = id, "claimed a task run");
            let takes =
                Duration::try_from_secs_f64(seconds.unwrap_or_default()).unwrap_or_default();
            let ended = self.ended.0.clone();
            let stop = self.stop.clone();
            self.running.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => tracing::warn!(task_run = id, "canceled a running task run"),
                    outcome = work(id, takes, target.as_deref()) => {
                        // No one receives only when the scheduler has ended too.
                        let _ = ended.send((id, outcome));
                    }
                }
            });
        }
        Ok(())
    }

    /// Whatever the row says by now: another replica may have failed it while this one was not
    /// heard, as it is in Bytebase.
    async fn record_ends(&mut self) -> sqlx::Result<()> {
        if self.unrecorded.is_empty() {
            return Ok(());
        }
        let failure =
            |outcome: &Result<(), MigrationError>| outcome.as_ref().err().map(ToString::to_string);
        let (ids, failures): (Vec<_>, Vec<_>) = self
            .unrecorded
            .iter()
            .map(|(id, outcome)| (*id, failure(outcome)))
            .unzip();
        sqlx::query(
            "UPDATE task_run t SET updated_at = now(),
                    status = CASE WHEN e.failure IS NULL THEN 'DONE' ELSE 'FAILED' END,
                    result = jsonb_strip_nulls(jsonb_build_object('detail', e.failure))
             FROM unnest($1::bigint[], $2::text[]) e (id, failure)
             WHERE t.id = e.id",
        )
        .bind(&ids)
        .bind(&failures)
        .execute(self.database.pool())
        .await?;
        tracing::info!(task_runs = ?ids, "finished task runs");
        self.unrecorded.clear();
        Ok(())
    }

    /// In Bytebase's own words. An owner that lives is not notified, and goes on.
    async fn fail_tasks_of_dead_owners(&self) -> sqlx::Result<()> {
        let failed = sqlx::query(
            "UPDATE task_run SET status = 'FAILED', updated_at = now(),
                    result = jsonb_build_object('detail', 'Task run abandoned: owning replica stopped responding')
             WHERE status = 'RUNNING' AND replica_id IS NOT NULL AND NOT EXISTS (
                 SELECT FROM replica_heartbeat h WHERE h.replica_id = task_run.replica_id
                 AND h.last_heartbeat >= now() - make_interval(secs => $1))",
        )
        .bind(self.knobs.owner_dead_after.as_secs_f64())
        .execute(self.database.pool())
        .await?
        .rows_affected();
        if failed > 0 {
            tracing::warn!(count = failed, "failed task runs of replicas that are gone");
        }
        Ok(())
    }
}

/// A migration in a transaction if a database is named for it, else nothing but the time it takes:
/// the metadata database shows the same of both.
async fn work(id: i64, takes: Duration, target: Option<&str>) -> Result<(), MigrationError> {
    if let Some(target) = target {
        return migration::run(id, takes, target).await;
    }
    tokio::time::sleep(takes).await;
    Ok(())
}

async fn promote(session: &mut PgConnection) -> sqlx::Result<()> {
    let mut transaction = session.begin().await?;
    let ours: bool = sqlx::query_scalar("SELECT pg_try_advisory_xact_lock($1)")
        .bind(PROMOTION_LOCK)
        .fetch_one(&mut *transaction)
        .await?;
    if ours {
        sqlx::query(
            "UPDATE task_run SET status = 'AVAILABLE', updated_at = now()
             WHERE status = 'PENDING' AND (run_at IS NULL OR run_at <= now())",
        )
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await
}

/// Fails the queued work of all replicas, not only this one's: the reason for the license gate.
async fn fail_queued_tasks(session: &mut PgConnection) -> sqlx::Result<()> {
    let failed = sqlx::query(
        "UPDATE task_run SET status = 'FAILED', updated_at = now(),
                result = jsonb_build_object('detail', 'several replicas without an HA license')
         WHERE status IN ('PENDING', 'AVAILABLE')",
    )
    .execute(session)
    .await?
    .rows_affected();
    if failed > 0 {
        tracing::error!(
            count = failed,
            "failed queued task runs due to HA license restriction"
        );
    }
    Ok(())
}
