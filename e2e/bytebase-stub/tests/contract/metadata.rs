//! Heartbeats, sessions and locks, and what an outage does to them.

use crate::support::{eventually, postgres::Database, process::Setup};
use std::time::Duration;

const LISTENERS: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query = 'LISTEN bytebase_signal'";

#[tokio::test]
async fn a_replica_sends_heartbeats_and_leaves_its_row_behind() {
    let database = Database::create().await;
    let mut server = Setup::replica(&database).start().await;
    let last = "SELECT (extract(epoch FROM last_heartbeat) * 1000)::bigint FROM replica_heartbeat";
    let first = database.number(last).await;
    eventually("a second heartbeat", async || {
        database.number(last).await > first
    })
    .await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    assert_eq!(
        database
            .text("SELECT replica_id FROM replica_heartbeat")
            .await,
        server.replica_id()
    );
}

#[tokio::test]
async fn every_process_has_a_uuid_of_its_own() {
    let database = Database::create().await;
    let first = Setup::replica(&database).start().await.replica_id();
    let second = Setup::replica(&database).start().await.replica_id();
    assert_ne!(first, second);
    assert_eq!(
        database
            .number("SELECT count(*) FROM replica_heartbeat")
            .await,
        2
    );
}

#[tokio::test]
async fn rows_of_processes_long_gone_are_deleted() {
    let database = Database::create().await;
    let server = Setup::replica(&database)
        .env("BYTEBASE_STUB_HEARTBEAT_RETENTION_SECONDS", "1")
        .start()
        .await;
    database
        .execute("INSERT INTO replica_heartbeat VALUES ('gone', now() - interval '1 hour')")
        .await;
    eventually("the old row is gone", async || {
        database
            .text("SELECT string_agg(replica_id, ',') FROM replica_heartbeat")
            .await
            == server.replica_id()
    })
    .await;
}

#[tokio::test]
async fn an_idle_replica_holds_three_sessions_under_its_name_and_one_of_them_listens() {
    let database = Database::create().await;
    // With Bytebase's own periods: short ones keep more sessions busy.
    let _server = Setup::replica(&database)
        .env("PGAPPNAME", "bytebase-0")
        .env("BYTEBASE_STUB_HEARTBEAT_SECONDS", "10")
        .env("BYTEBASE_STUB_SCHEDULER_SECONDS", "5")
        .env("BYTEBASE_STUB_STALE_CHECK_SECONDS", "30")
        .start()
        .await;
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'bytebase-0'";
    tokio::time::sleep(Duration::from_secs(11)).await; // a round, and a round with a heartbeat
    eventually("three sessions", async || database.number(ours).await == 3).await;
    let listening =
        format!("{ours} AND query = 'LISTEN bytebase_signal' AND client_addr = '127.0.0.1'");
    assert_eq!(database.number(&listening).await, 1);
}

#[tokio::test]
async fn one_replica_holds_the_session_lock_and_another_takes_over() {
    let database = Database::create().await;
    let holders =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 1003 AND granted
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let first = Setup::replica(&database).start().await;
    first.logs("acquired the singleton lock").await;
    let second = Setup::replica(&database).start().await;
    eventually("the second listens", async || {
        database.number(LISTENERS).await == 2
    })
    .await;
    assert_eq!(database.number(holders).await, 1);
    assert!(!second.log().contains("acquired the singleton lock"));
    drop(first);
    second.logs("acquired the singleton lock").await;
    assert_eq!(database.number(holders).await, 1);
}

#[tokio::test]
async fn an_outage_leaves_healthz_green_and_ends_in_new_beats() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    eventually("it listens", async || database.number(LISTENERS).await == 1).await;
    let name = database.name();
    database
        .administer(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false"))
        .await;
    database
        .administer(&format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        ))
        .await;
    server.logs("failed to send heartbeat").await;
    assert!(server.answers().await);
    database
        .administer(&format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true"))
        .await;
    let late = database
        .number("SELECT (extract(epoch FROM now()) * 1000)::bigint")
        .await;
    let last =
        "SELECT (extract(epoch FROM max(last_heartbeat)) * 1000)::bigint FROM replica_heartbeat";
    eventually("it sends heartbeats again", async || {
        database.number(last).await > late
    })
    .await;
    eventually("it listens again", async || {
        database.number(LISTENERS).await == 1
    })
    .await;
    assert_eq!(server.log().matches("replicaID=").count(), 1);
}

#[tokio::test]
async fn a_database_that_takes_no_writes_serves_healthz_while_every_beat_fails() {
    let database = Database::create().await;
    drop(Setup::replica(&database).start().await);
    let read_only = format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        database.name()
    );
    database.administer(&read_only).await;
    let server = Setup::replica(&database).start().await;
    server.logs("failed to send heartbeat").await;
    assert!(server.answers().await);
    assert_eq!(
        database
            .number("SELECT count(*) FROM replica_heartbeat")
            .await,
        1
    );
}
