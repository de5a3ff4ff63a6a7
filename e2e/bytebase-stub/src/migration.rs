//! A user's migration in transaction mode: all of it is in one transaction, on a session with the
//! user's own database. The metadata database sees nothing of it but the row of the task run. Where
//! the task is cancelled the session ends, and the server rolls the transaction back.

use crate::{
    database::{self, ConnectError},
    pg_url::{self, PgUrlError},
};
use sqlx::Connection as _;
use std::time::Duration;
use tokio::time::Instant;

/// Longest single statement: the server notices only between two of them that the session has
/// ended.
const STATEMENT: Duration = Duration::from_secs(1);

/// Why a migration failed: for no reason of this replica's.
#[derive(Debug, thiserror::Error)]
pub enum MigrationError {
    /// The task names no database.
    #[error("the target database: {0}")]
    Target(#[from] PgUrlError),
    /// The database could not be reached.
    #[error("the target database: {0}")]
    Connect(#[from] ConnectError),
    /// The database refused a statement, or went away.
    #[error("the target database: {0}")]
    Sqlx(#[from] sqlx::Error),
}

/// Makes a table whose name begins with `migration_ID`, and takes its time over it. The rest of the
/// name is drawn: where a metadata database takes the place of another, ids begin again.
pub async fn run(id: i64, takes: Duration, target: &str) -> Result<(), MigrationError> {
    let start = Instant::now();
    // By the driver that Bytebase reaches its own database with, so the environment counts here
    // too.
    let target = pg_url::resolve(target, &|name| std::env::var(name).ok())?;
    let (mut session, _) = database::connect(&target).await?;
    let mut transaction = session.begin().await?;
    let number = rand::random::<u32>();
    let table = format!("CREATE TABLE migration_{id}_{number} (at timestamptz DEFAULT now())");
    sqlx::raw_sql(sqlx::AssertSqlSafe(table))
        .execute(&mut *transaction)
        .await?;
    loop {
        let rest = takes.saturating_sub(start.elapsed());
        if rest.is_zero() {
            break;
        }
        sqlx::query("SELECT pg_sleep($1)")
            .bind(rest.min(STATEMENT).as_secs_f64())
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await?;
    // The work is committed; whether the farewell arrives does not matter.
    let _ = session.close().await;
    Ok(())
}
