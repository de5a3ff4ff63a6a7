//! What the metadata database says of the replica beside this hook.
//!
//! No column names the pod of a replica, and the head of its log may be gone. But it gives itself
//! away each ten seconds: its heartbeat is one statement, by which its session and the row it writes
//! carry the same time. The sessions are the replica's own by their `application_name`, and of its
//! present process by their age.

use bytebase_contract::{hook, session_key};
use bytebase_drain::drain::{Run, Seen};
use bytebase_drain::identity::{Heartbeat, Heartbeats};
use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};
use std::time::Duration;
use tokio::time::timeout;

/// Longest for one reading.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest between the time of a statement and that of its transaction, in seconds. Both are taken
/// by the server, one right after the other.
const SAME: f64 = 0.02;

/// The lock under which the schema is migrated.
const MIGRATION_LOCK: i64 = 1002;
/// A session that holds this lock, shared or not, keeps every replica from promoting work.
const QUEUE_LOCK: i64 = 1001;

/// By whose role a session is logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Bytebase's own: it sees the tables where Bytebase sees them.
    Bytebases,
    /// Another, for a login that the hook cannot perform, or one that came after it. Where it sees
    /// tables is not where Bytebase does.
    Another,
}

/// Watches one replica.
pub struct Watch {
    /// `application_name` of its sessions; empty if it has none of its own.
    sessions: String,
    /// `application_name` that the hook asks for.
    own_sessions: String,
    heartbeats: Heartbeats,
}

/// What each reading begins with.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is something seen of its own"
)]
struct Beginning {
    clock: f64,
    sessions: i64,
    quiet: Option<f64>,
    migrates: bool,
    asked: bool,
    /// The hook's session is called as it asked to be. A pooler may call all sessions as it likes.
    keeps_names: bool,
    has_heartbeats: bool,
    has_tasks: bool,
    /// Schemas with Bytebase's tables of tasks and heartbeats, also where this role may not use them.
    schemas: i64,
    /// One of them, as SQL.
    schema: Option<String>,
    /// The table that the role sees is that of this schema.
    sees_it: bool,
}

impl Watch {
    /// Of the replica whose sessions have the first name, by sessions that have the second.
    pub fn new(sessions: String, own_sessions: String) -> Self {
        Self {
            sessions,
            own_sessions,
            heartbeats: Heartbeats::default(),
        }
    }

    /// One reading. `age`: how long the replica's process has run, if that is known.
    pub async fn read(
        &mut self,
        connection: &mut PgConnection,
        whose: Whose,
        age: Option<Duration>,
    ) -> Result<Seen, sqlx::Error> {
        timeout(READ_TIMEOUT, self.ask(connection, whose, age))
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn ask(
        &mut self,
        connection: &mut PgConnection,
        whose: Whose,
        age: Option<Duration>,
    ) -> Result<Seen, sqlx::Error> {
        let mut begins = self.begin(connection).await?;
        let is_elsewhere = |begins: &Beginning| {
            let is_meant = whose == Whose::Bytebases || (begins.sees_it && begins.schemas == 1);
            begins.schemas > 0 && !(begins.has_tasks && is_meant)
        };
        if is_elsewhere(&begins) && begins.schemas == 1 {
            ask("SELECT set_config('search_path', $1, false)")
                .bind(begins.schema.as_deref().unwrap_or_default())
                .execute(&mut *connection)
                .await?;
            begins = self.begin(connection).await?;
        }
        let is_named = !self.sessions.is_empty() && begins.keeps_names;
        if let Some(age) = age.filter(|_| is_named && begins.has_heartbeats) {
            self.note_heartbeat(connection, age).await?;
        }
        let (running, available) = if is_elsewhere(&begins) {
            // This role may not use the schema, or there are several.
            (None, None)
        } else if begins.has_tasks {
            (running(connection).await?, available(connection).await?)
        } else {
            // A database before its first migration has no tasks.
            (Some(Vec::new()), Some(0))
        };
        Ok(Seen {
            clock: begins.clock,
            replica: self.heartbeats.replica().map(str::to_owned),
            sessions: is_named.then_some(begins.sessions.unsigned_abs()),
            quiet: begins.quiet.filter(|_| is_named),
            migrates: begins.migrates,
            asked: begins.asked,
            running,
            available,
        })
    }

    async fn begin(&self, connection: &mut PgConnection) -> Result<Beginning, sqlx::Error> {
        let row = ask(concat!(
            "SELECT extract(epoch FROM clock_timestamp())::float8 AS clock, \
             (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1) AS sessions, \
             (SELECT CASE WHEN bool_or(state = 'active') THEN 0 ELSE extract(epoch FROM clock_timestamp() - max(state_change)) END \
             FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1)::float8 AS quiet, \
             EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.classid = 0 AND l.objid = $2::oid AND l.objsubid = 1 AND l.granted AND a.application_name = $1) AS migrates, \
             EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = $3::oid AND objid = (SELECT ",
            session_key!(),
            "::oid FROM pg_stat_activity WHERE pid = pg_backend_pid()) AND objsubid = 2 AND granted \
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())) AS asked, \
             current_setting('application_name') = $4 AS keeps_names, \
             to_regclass('replica_heartbeat') IS NOT NULL AS has_heartbeats, \
             to_regclass('task_run') IS NOT NULL AS has_tasks, schemas, schema, sees_it \
             FROM (SELECT count(*) AS schemas, min(quote_ident(n.nspname)) AS schema, \
             coalesce(bool_or(c.oid = to_regclass('task_run')), false) AS sees_it \
             FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relname = 'task_run' AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND EXISTS \
             (SELECT FROM pg_class h WHERE h.relname = 'replica_heartbeat' AND h.relnamespace = n.oid)) tables",
        ))
        .bind(&self.sessions)
        .bind(MIGRATION_LOCK)
        .bind(hook::LET_GO)
        .bind(&self.own_sessions)
        .fetch_one(connection)
        .await?;
        Ok(Beginning {
            clock: row.try_get("clock")?,
            sessions: row.try_get("sessions")?,
            quiet: row.try_get("quiet")?,
            migrates: row.try_get("migrates")?,
            asked: row.try_get("asked")?,
            keeps_names: row.try_get("keeps_names")?,
            has_heartbeats: row.try_get("has_heartbeats")?,
            has_tasks: row.try_get("has_tasks")?,
            schemas: row.try_get("schemas")?,
            schema: row.try_get("schema")?,
            sees_it: row.try_get("sees_it")?,
        })
    }

    /// Notes a heartbeat of the replica's sessions. One that is not certain counts as none.
    async fn note_heartbeat(
        &mut self,
        connection: &mut PgConnection,
        age: Duration,
    ) -> Result<(), sqlx::Error> {
        let found = ask(
            "SELECT h.replica_id, h.last_heartbeat::text FROM pg_stat_activity a JOIN replica_heartbeat h \
             ON abs(extract(epoch FROM (a.query_start - h.last_heartbeat))) <= $2 \
             WHERE a.datname = current_database() AND a.application_name = $1 \
             AND a.query ~* '^\\s*insert\\s+into\\s+(\\S+\\.)?replica_heartbeat\\M' \
             AND a.backend_start >= clock_timestamp() - make_interval(secs => $3)",
        )
        .bind(&self.sessions)
        .bind(SAME)
        .bind(age.as_secs_f64() + 1.0)
        .fetch_all(&mut *connection)
        .await;
        let rows = match found {
            Ok(rows) => rows,
            Err(error) if is_not_understood(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for row in rows {
            found.push(Heartbeat {
                replica: row.try_get(0)?,
                at: row.try_get(1)?,
            });
        }
        if let [heartbeat] = &found[..] {
            self.heartbeats.note(heartbeat.clone());
        }
        Ok(())
    }
}

/// A question whose plan the server does not keep: it would keep one for each reading.
fn ask(sql: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

async fn running(connection: &mut PgConnection) -> Result<Option<Vec<Run>>, sqlx::Error> {
    let rows = ask(
        "SELECT replica_id, coalesce(extract(epoch FROM started_at), 0)::float8 FROM task_run WHERE status = 'RUNNING' AND replica_id IS NOT NULL",
    )
    .fetch_all(connection)
    .await;
    let Some(rows) = understood(rows)? else {
        return Ok(None);
    };
    let runs = rows.iter().map(|row| {
        Ok(Run {
            owner: row.try_get(0)?,
            started: row.try_get(1)?,
        })
    });
    runs.collect::<Result<_, sqlx::Error>>().map(Some)
}

async fn available(connection: &mut PgConnection) -> Result<Option<u64>, sqlx::Error> {
    let row = ask("SELECT count(*) FROM task_run WHERE status = 'AVAILABLE'")
        .fetch_one(connection)
        .await;
    let Some(row) = understood(row)? else {
        return Ok(None);
    };
    let count: i64 = row.try_get(0)?;
    Ok(Some(count.unsigned_abs()))
}

/// `None` where a table or column is not as it was when this was written.
fn understood<T>(result: Result<T, sqlx::Error>) -> Result<Option<T>, sqlx::Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_not_understood(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_not_understood(error: &sqlx::Error) -> bool {
    let code = error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code);
    // No such table, column, function or type; no right to read it.
    matches!(
        code.as_deref(),
        Some("42P01" | "42703" | "42883" | "42804" | "42501")
    )
}

/// Holds the queue, by a transaction of its own that the server ends by itself after `longest`.
/// False if a replica is promoting work at this moment.
pub async fn hold(connection: &mut PgConnection, longest: Duration) -> Result<bool, sqlx::Error> {
    let held = async {
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        limit(&mut *connection, longest).await?;
        let row = ask("SELECT pg_try_advisory_xact_lock_shared($1)")
            .bind(QUEUE_LOCK)
            .fetch_one(&mut *connection)
            .await?;
        let held: bool = row.try_get(0)?;
        if !held {
            release(&mut *connection).await?;
        }
        Ok(held)
    };
    timeout(READ_TIMEOUT, held)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Has the server end a hold after so long, counted from now, should this process not do so.
pub async fn limit(connection: &mut PgConnection, longest: Duration) -> Result<(), sqlx::Error> {
    let longest = longest.as_millis().max(1);
    let set = format!("SET LOCAL idle_in_transaction_session_timeout = {longest}");
    let set = sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(connection);
    timeout(READ_TIMEOUT, set)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
        .map(drop)
}

/// Ends a hold.
pub async fn release(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let ended = sqlx::raw_sql("ROLLBACK").execute(connection);
    timeout(READ_TIMEOUT, ended)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
        .map(drop)
}

/// Leaves a hold behind that outlives this process by a moment: the server notices that the session
/// has gone only when the sleep is over, and by then the replica has been asked to end.
pub async fn leave_held(connection: &mut PgConnection) {
    let sleep = sqlx::raw_sql("SELECT pg_sleep(3)").execute(connection);
    // Long enough for the statement to be sent; its answer is not waited for.
    let _ = timeout(Duration::from_millis(300), sleep).await;
}
