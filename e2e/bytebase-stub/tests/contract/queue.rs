//! Task runs: promoted under a lock, claimed once, dropped by SIGTERM and failed for the dead.

use crate::support::{
    eventually,
    postgres::{Database, PASSWORD},
    process::Setup,
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use std::time::{Duration, Instant};

async fn status_is(database: &Database, status: &str) {
    eventually(status, async || {
        let all =
            format!("SELECT coalesce(bool_and(status = '{status}'), false)::int FROM task_run");
        database.number(&all).await == 1
    })
    .await;
}

#[tokio::test]
async fn a_pending_task_is_promoted_claimed_and_done() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    database
        .execute(r#"INSERT INTO task_run (payload) VALUES ('{"seconds": 1}')"#)
        .await;
    status_is(&database, "RUNNING").await;
    let owner = database.text("SELECT replica_id FROM task_run").await;
    assert_eq!(owner, server.replica_id());
    status_is(&database, "DONE").await;
    let begun = "SELECT count(*) FROM task_run WHERE started_at >= created_at";
    assert_eq!(database.number(begun).await, 1);
}

#[tokio::test]
async fn a_task_that_is_to_run_later_is_not_promoted_before() {
    let database = Database::create().await;
    let _server = Setup::replica(&database).start().await;
    database
        .execute(
            "INSERT INTO task_run (run_at) VALUES (now() + interval '1 day'), (now() - interval '1 second')",
        )
        .await;
    let state = |status: &str| format!("SELECT count(*) FROM task_run WHERE status = '{status}'");
    eventually("the one that is due is done", async || {
        database.number(&state("DONE")).await == 1
    })
    .await;
    assert_eq!(database.number(&state("PENDING")).await, 1);
}

#[tokio::test]
async fn replicas_share_the_queue_and_claim_every_task_once() {
    let database = Database::create().await;
    // No replica counts as active, so that the license does not matter, and none as dead, however
    // slow the machine.
    let replica = || {
        Setup::replica(&database)
            .env("BYTEBASE_STUB_ACTIVE_SECONDS", "0")
            .env("BYTEBASE_STUB_OWNER_DEAD_SECONDS", "3600")
    };
    let servers = [replica().start().await, replica().start().await];
    database
        .execute("INSERT INTO task_run (payload) SELECT '{}' FROM generate_series(1, 200)")
        .await;
    let states = "SELECT jsonb_object_agg(status, n) FROM (SELECT status, count(*) AS n FROM task_run GROUP BY status) s";
    eventually("all are done", async || {
        let states = database.text(states).await;
        eprintln!("{states}"); // shown only when the test fails
        states == r#"{"DONE": 200}"#
    })
    .await;
    let claims: usize = servers
        .iter()
        .map(|server| server.log().matches("claimed a task run").count())
        .sum();
    assert_eq!(claims, 200);
}

async fn lock(database: &Database, query: &'static str) -> PgConnection {
    let mut session = database.session().await;
    sqlx::query(AssertSqlSafe(query))
        .execute(&mut session)
        .await
        .unwrap();
    session
}

#[tokio::test]
async fn a_held_promotion_lock_holds_the_queue_but_not_what_is_available_already() {
    let database = Database::create().await;
    let _server = Setup::replica(&database).start().await;
    for query in [
        "SELECT pg_advisory_lock(1001)",
        "SELECT pg_advisory_lock_shared(1001)",
    ] {
        database.execute("DELETE FROM task_run").await;
        let holder = lock(&database, query).await;
        database
            .execute("INSERT INTO task_run (status) VALUES ('PENDING'), ('AVAILABLE')")
            .await;
        let done = "SELECT count(*) FROM task_run WHERE status = 'DONE'";
        eventually("the available one is done", async || {
            database.number(done).await == 1
        })
        .await;
        tokio::time::sleep(Duration::from_millis(600)).await; // three rounds
        assert_eq!(
            database
                .number("SELECT count(*) FROM task_run WHERE status = 'PENDING'")
                .await,
            1
        );
        holder.close().await.unwrap();
        status_is(&database, "DONE").await;
    }
}

#[tokio::test]
async fn sigterm_drops_running_tasks_at_once_and_another_replica_fails_them_later() {
    let database = Database::create().await;
    let mut owner = Setup::replica(&database).start().await;
    database
        .execute(r#"INSERT INTO task_run (payload) VALUES ('{"seconds": 3600}')"#)
        .await;
    status_is(&database, "RUNNING").await;
    let start = Instant::now();
    owner.terminate();
    assert_eq!(owner.wait().code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    assert!(!owner.answers().await);
    status_is(&database, "RUNNING").await;

    let _other = Setup::replica(&database).start().await;
    status_is(&database, "FAILED").await;
    let age = database
        .number("SELECT extract(epoch FROM t.updated_at - h.last_heartbeat) * 1000 FROM task_run t JOIN replica_heartbeat h USING (replica_id)")
        .await;
    // Dead after 3 s, checked for every half second, on a busy machine.
    assert!((3000..6000).contains(&age), "{age}");
    let detail = database
        .text("SELECT result->>'detail' FROM task_run")
        .await;
    let abandoned = "Task run abandoned: owning replica stopped responding";
    assert_eq!(detail, abandoned);
}

#[tokio::test]
async fn an_owner_writes_the_end_of_a_task_over_what_others_have_made_of_it() {
    let database = Database::create().await;
    let _owner = Setup::replica(&database).start().await;
    database
        .execute(r#"INSERT INTO task_run (payload) VALUES ('{"seconds": 10}')"#)
        .await;
    status_is(&database, "RUNNING").await;
    // After its end nothing would write over it: then this test has seen nothing.
    database
        .execute(
            r#"DO $$ BEGIN
                 UPDATE task_run SET status = 'FAILED', result = '{"detail": "Task run abandoned: owning replica stopped responding"}' WHERE status = 'RUNNING';
                 IF NOT FOUND THEN RAISE EXCEPTION 'the task has ended already'; END IF;
               END $$"#,
        )
        .await;
    status_is(&database, "DONE").await;
    assert_eq!(database.text("SELECT result FROM task_run").await, "{}");
}

/// Gives a migration in transaction mode on `target`.
async fn give_migration(database: &Database, target: &str, seconds: f64) {
    let give = format!(
        "INSERT INTO task_run (payload) VALUES ('{{\"seconds\": {seconds}, \"target\": \"{target}\"}}')"
    );
    database.execute(&give).await;
}

const MIGRATED: &str = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'migration\\_%'";

#[tokio::test]
async fn a_migration_in_a_transaction_is_committed_at_its_end_by_a_session_with_the_users_database()
{
    let (database, target) = (Database::create().await, Database::create().await);
    let _server = Setup::replica(&database)
        .env("PGAPPNAME", "bytebase-0")
        .start()
        .await;
    give_migration(&database, &target.url(), 3.0).await;
    status_is(&database, "RUNNING").await;
    let in_transaction = |database: &Database| {
        let name = database.name();
        format!(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND application_name = 'bytebase-0' AND xact_start < now() - interval '1 second'"
        )
    };
    eventually("a transaction stays open", async || {
        target.number(&in_transaction(&target)).await == 1
    })
    .await;
    assert_eq!(target.number(&in_transaction(&database)).await, 0);
    assert_eq!(target.number(MIGRATED).await, 0);
    status_is(&database, "DONE").await;
    assert_eq!(target.number(MIGRATED).await, 1);
    assert_eq!(database.text("SELECT result FROM task_run").await, "{}");
}

#[tokio::test]
async fn sigterm_rolls_a_migration_in_a_transaction_back_and_leaves_its_row_running() {
    let (database, target) = (Database::create().await, Database::create().await);
    let mut server = Setup::replica(&database).start().await;
    give_migration(&database, &target.url(), 3600.0).await;
    let name = target.name();
    let others = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND application_name <> 'test'"
    );
    eventually("it runs", async || target.number(&others).await == 1).await;
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    eventually("its session ends", async || {
        target.number(&others).await == 0
    })
    .await;
    assert_eq!(target.number(MIGRATED).await, 0);
    status_is(&database, "RUNNING").await;
}

#[tokio::test]
async fn a_migration_that_its_database_refuses_is_failed_by_its_owner() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    let nowhere = format!("{}_not", database.url().replace("?sslmode=disable", ""));
    give_migration(&database, &nowhere, 1.0).await;
    status_is(&database, "FAILED").await;
    let owner = database.text("SELECT replica_id FROM task_run").await;
    assert_eq!(owner, server.replica_id());
    let detail = database
        .text("SELECT result->>'detail' FROM task_run")
        .await;
    assert!(detail.starts_with("the target database: "), "{detail}");
    assert!(!detail.contains(PASSWORD), "{detail}");
}

#[tokio::test]
async fn the_tasks_of_a_living_owner_are_left_alone() {
    let database = Database::create().await;
    let mut owner = Setup::replica(&database).start().await;
    database
        .execute(r#"INSERT INTO task_run (payload) VALUES ('{"seconds": 5}')"#)
        .await;
    status_is(&database, "RUNNING").await;
    // The other one only watches: its own rounds never come.
    let _other = Setup::replica(&database)
        .env("BYTEBASE_STUB_SCHEDULER_SECONDS", "3600")
        .start()
        .await;
    status_is(&database, "DONE").await;
    owner.kill();
}

#[tokio::test]
async fn the_listener_closes_at_once_while_an_open_request_keeps_the_process_a_moment() {
    let database = Database::create().await;
    let mut server = Setup::replica(&database).start().await;
    let session = server.request("POST", "/mcp").send().await.unwrap();
    let session = session.headers()["mcp-session-id"].clone();
    let _stream = server
        .request("GET", "/mcp")
        .header("mcp-session-id", session)
        .send()
        .await
        .unwrap();
    let start = Instant::now();
    server.terminate();
    eventually("the listener is closed", async || !server.answers().await).await;
    assert_eq!(server.wait().code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
}
