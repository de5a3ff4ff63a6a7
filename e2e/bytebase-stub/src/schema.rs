//! Schema migration under advisory lock 1002, which waiters wait for without end.

use crate::knobs::Version;
use sqlx::{Connection as _, PgConnection};
use std::time::Duration;

const MIGRATION_LOCK: i64 = 1002;
const TABLES: &str = include_str!("schema.sql");

/// Why the schema could not be brought up to this binary.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The database said no: missing rights, foreign tables, read-only.
    #[error("failed to migrate the schema: {0}")]
    Sqlx(#[from] sqlx::Error),
    /// The newest recorded version is none.
    #[error("failed to migrate the schema: the recorded schema version cannot be read")]
    Version,
}

/// Brings the schema to `version` unless it is there or beyond; a newer schema is no reason to
/// stop.
pub async fn migrate(
    session: &mut PgConnection,
    version: Version,
    takes: Duration,
) -> Result<(), MigrateError> {
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *session)
        .await?;
    let outcome = migrate_locked(session, version, takes).await;
    let unlocked = sqlx::query("SELECT pg_advisory_unlock($1)")
        .bind(MIGRATION_LOCK)
        .execute(&mut *session)
        .await;
    outcome?;
    unlocked?;
    Ok(())
}

async fn migrate_locked(
    session: &mut PgConnection,
    version: Version,
    takes: Duration,
) -> Result<(), MigrateError> {
    let stored = if is_initialised(session).await? {
        Some(stored_version(session).await?)
    } else {
        None
    };
    if stored.is_some_and(|stored| stored >= version) {
        return Ok(());
    }
    let files = match stored {
        None => {
            tracing::info!("creating the schema at version {version}");
            vec![version]
        }
        Some(stored) => {
            tracing::info!("migrating the schema from {stored} to {version}");
            version.files_since(stored)
        }
    };
    let takes = takes / u32::try_from(files.len()).unwrap_or(u32::MAX).max(1);
    // A transaction for each file, as in Bytebase: one that is cut off leaves a version in between.
    for file in files {
        let mut transaction = session.begin().await?;
        if stored.is_none() {
            sqlx::raw_sql(TABLES).execute(&mut *transaction).await?;
        }
        sqlx::query("INSERT INTO instance_change_history (version) VALUES ($1)")
            .bind(file.to_string())
            .execute(&mut *transaction)
            .await?;
        tokio::time::sleep(takes).await;
        transaction.commit().await?;
    }
    tracing::info!("schema migrated");
    Ok(())
}

/// Any visible table of this name counts, whoever made it.
async fn is_initialised(session: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM information_schema.tables WHERE table_name = 'principal')",
    )
    .fetch_one(session)
    .await
}

async fn stored_version(session: &mut PgConnection) -> Result<Version, MigrateError> {
    let newest = "SELECT version FROM instance_change_history ORDER BY id DESC LIMIT 1";
    let text: Option<String> = sqlx::query_scalar(newest).fetch_optional(session).await?;
    text.and_then(|text| text.parse().ok())
        .ok_or(MigrateError::Version)
}
