//! The hook against a real PostgreSQL: what it takes for its replica, what it waits for, and how it
//! holds the queue.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    dead_code,
    reason = "a failed expectation is the report; the modules under test are compiled once more here"
)]

#[path = "../src/watch.rs"]
mod watch;

use bytebase_contract::hook::{LET_GO, sessions_of};
use bytebase_drain::drain::Seen;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use testkit::certificates::Certified;
use testkit::postgres::Server;
use tokio::net::{TcpListener, TcpStream};
use watch::Whose::{Another, Bytebases, Monitors};
use watch::{Unread, Watch};

static SERVER: OnceLock<Server> = OnceLock::new();
/// Older than every session of these tests.
const LONG: Option<Duration> = Some(Duration::from_hours(1));
/// `application_name` of the hook's own sessions.
const HOOK: &str = "drain/demo";
const SCHEMA: &str = "CREATE TABLE replica_heartbeat (replica_id text PRIMARY KEY, last_heartbeat timestamptz NOT NULL); \
     CREATE TABLE task_run (id bigserial PRIMARY KEY, status text NOT NULL, replica_id text, started_at timestamptz)";

struct Database {
    name: &'static str,
}

impl Database {
    fn new(name: &'static str, schema: &str) -> Self {
        let server = SERVER.get_or_init(|| Server::start(""));
        server.database(name, "pl4nted");
        let database = Self { name };
        database.sql(schema);
        database
    }

    /// As the role that Bytebase has.
    fn sql(&self, statements: &str) -> String {
        let server = SERVER.get().unwrap();
        let role = format!("SET ROLE {}; {statements}", self.name);
        server.sql(self.name, &role).trim().to_owned()
    }

    async fn session(&self, application_name: &str) -> PgConnection {
        self.options(application_name).connect().await.unwrap()
    }

    fn options(&self, application_name: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("localhost")
            .port(SERVER.get().unwrap().port)
            .username(self.name)
            .password("pl4nted")
            .database(self.name)
            .application_name(application_name)
    }

    fn url(&self, port: u16) -> String {
        format!(
            "postgres://{0}:pl4nted@localhost:{port}/{0}?sslmode=disable",
            self.name
        )
    }
}

/// What a replica does each ten seconds.
async fn heartbeat(session: &mut PgConnection, replica: &str) {
    sqlx::query(
        "\n\t\tINSERT INTO replica_heartbeat (replica_id, last_heartbeat)\n\t\tVALUES ($1, now())\n\t\tON CONFLICT (replica_id)\n\t\tDO UPDATE SET last_heartbeat = now()",
    )
    .bind(replica)
    .execute(session)
    .await
    .unwrap();
}

/// `sessions`: the name of the replica's.
fn watch_of(sessions: String) -> Watch {
    Watch::new(sessions, HOOK.to_owned(), None)
}

async fn read(watch: &mut Watch, session: &mut PgConnection) -> Seen {
    let reading = watch.read(session, Bytebases, LONG).await.unwrap();
    reading.seen
}

#[tokio::test]
async fn a_replica_is_known_by_two_heartbeats_of_its_own_sessions() {
    let database = Database::new("two_heartbeats", SCHEMA);
    let mut own = database.session("demo-1").await;
    let mut other = database.session("demo-0").await;
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    database.sql("INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'other', now()), ('AVAILABLE', NULL, NULL), ('DONE', 'own', now())");
    for (heartbeats, known) in [(0, None), (1, None), (1, Some("own")), (1, Some("own"))] {
        for _ in 0..heartbeats {
            heartbeat(&mut other, "other").await;
            tokio::time::sleep(Duration::from_millis(60)).await;
            heartbeat(&mut own, "own").await;
        }
        for _ in 0..2 {
            // The same heartbeat counts once.
            let seen = read(&mut watch, &mut hook).await;
            assert_eq!(seen.replica.as_deref(), known);
            assert_eq!(seen.running.unwrap().len(), 1);
            assert_eq!((seen.available, seen.sessions), (Some(1), Some(1)));
        }
    }
}

#[tokio::test]
async fn a_replica_is_known_where_a_backslash_in_a_string_escapes() {
    let database = Database::new("escapes", SCHEMA);
    let mut own = database.session("demo-1").await;
    let hook = database.options(HOOK);
    let hook = hook.options([("standard_conforming_strings", "off")]);
    let mut hook = hook.connect().await.unwrap();
    let mut watch = watch_of("demo-1".to_owned());
    for known in [None, Some("own")] {
        heartbeat(&mut own, "own").await;
        let seen = read(&mut watch, &mut hook).await;
        assert_eq!(seen.replica.as_deref(), known);
    }
}

/// As if the last heartbeat had come so long ago, in seconds.
fn backdate(database: &Database, replica: &str, seconds: f64) {
    database.sql(&format!(
        "INSERT INTO replica_heartbeat VALUES ('{replica}', now() - interval '{seconds} s') ON CONFLICT (replica_id) DO UPDATE SET last_heartbeat = excluded.last_heartbeat"
    ));
}

/// Bytebase gives the session of a heartbeat to the next statement, which overwrites it.
async fn soon_overwritten_heartbeat(session: &mut PgConnection, shown: u64) {
    heartbeat(session, "own").await;
    tokio::time::sleep(Duration::from_millis(shown)).await;
    sqlx::query("SELECT 1").execute(session).await.unwrap();
}

#[tokio::test]
async fn a_heartbeat_that_a_session_shows_for_a_moment_is_seen_where_it_is_awaited() {
    let database = Database::new("overwritten", SCHEMA);
    let mut own = database.session("demo-1").await;
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    let due = async |watch: &mut Watch, hook: &mut PgConnection, age| {
        let reading = watch.read(hook, Bytebases, age).await.unwrap();
        let due = reading.due.map(|due| due.as_secs_f64());
        (reading.seen.replica, due)
    };
    assert_eq!(due(&mut watch, &mut hook, LONG).await, (None, None));
    // The next one of any replica is due, and at once if it is late.
    backdate(&database, "other", 2.0);
    let (_, next) = due(&mut watch, &mut hook, LONG).await;
    assert!((5.0..8.0).contains(&next.unwrap()), "{next:?}");
    backdate(&database, "another", 25.0);
    assert_eq!(due(&mut watch, &mut hook, LONG).await.1, Some(0.0));
    assert_eq!(due(&mut watch, &mut hook, None).await.1, None, "no use");
    backdate(&database, "another", 31.0);
    let (_, next) = due(&mut watch, &mut hook, LONG).await;
    assert!(next.unwrap() > 1.0, "one is gone: {next:?}");
    // Of sessions that are older than the process nothing counts.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let young = Some(Duration::ZERO);
    for (age, known) in [
        (young, None),
        (young, None),
        (LONG, None),
        (LONG, Some("own")),
    ] {
        let until = Instant::now() + Duration::from_millis(900);
        let (watched, ()) = tokio::join!(
            watch.closely(&mut hook, age, until),
            soon_overwritten_heartbeat(&mut own, 400)
        );
        watched.unwrap();
        let (replica, next) = due(&mut watch, &mut hook, LONG).await;
        assert_eq!(replica.as_deref(), known);
        assert_eq!(next.is_none(), known.is_some(), "{next:?}");
    }
}

/// PgBouncer gives a client the session that another one had. Its name goes along; its age does
/// not.
#[tokio::test]
async fn behind_a_session_pooler_a_replica_is_known_by_its_sessions_too() {
    let database = Database::new("pooled", SCHEMA);
    let server = SERVER.get().unwrap();
    let pooler = server.pooler("session", &[("pooled", "pl4nted")]);
    let through = async |name| {
        // PgBouncer refuses the parameter that sqlx adds of itself.
        let options = database.options(name).extra_float_digits(None);
        options.port(pooler.port).connect().await.unwrap()
    };
    through("demo-1").await.close().await.unwrap();
    let mut own = through("demo-0").await;
    // PgBouncer gives a client a session, and that the client's name, with its first statement.
    sqlx::query("SELECT 1").execute(&mut own).await.unwrap();
    let mut hook = through(HOOK).await;
    for (name, sessions) in [("demo-0", 1), ("demo-1", 0)] {
        let seen = read(&mut watch_of(name.to_owned()), &mut hook).await;
        assert_eq!(seen.sessions, Some(sessions), "{name}");
    }
    // A session that is older than the replica's process gives no id: every running task counts.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for (age, known) in [(LONG, Some("own")), (Some(Duration::ZERO), None)] {
        let mut watch = watch_of("demo-0".to_owned());
        let mut seen = None;
        for _ in 0..2 {
            heartbeat(&mut own, "own").await;
            let reading = watch.read(&mut hook, Bytebases, age).await;
            seen = reading.unwrap().seen.replica;
        }
        assert_eq!(seen.as_deref(), known);
    }
}

#[tokio::test]
async fn readings_leave_nothing_behind_at_the_server() {
    let database = Database::new("tidy", SCHEMA);
    let mut own = database.session("demo-1").await;
    heartbeat(&mut own, "own").await;
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    for _ in 0..3 {
        read(&mut watch, &mut hook).await;
    }
    assert!(
        watch::hold(&mut hook, Duration::from_secs(5))
            .await
            .unwrap()
    );
    watch::release(&mut hook).await.unwrap();
    let kept = sqlx::raw_sql("SELECT count(*) FROM pg_prepared_statements");
    let kept: i64 = kept.fetch_one(&mut hook).await.unwrap().get(0);
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn a_heartbeat_that_may_be_that_of_two_replicas_counts_for_none() {
    let database = Database::new("same_instant", SCHEMA);
    let mut own = database.session("demo-1").await;
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    for _ in 0..3 {
        heartbeat(&mut own, "own").await;
        database.sql("INSERT INTO replica_heartbeat SELECT 'other', last_heartbeat FROM replica_heartbeat WHERE replica_id = 'own' ON CONFLICT (replica_id) DO UPDATE SET last_heartbeat = excluded.last_heartbeat");
        assert_eq!(read(&mut watch, &mut hook).await.replica, None);
    }
    // Two processes in turn under one name are no one for sure either.
    database.sql("DELETE FROM replica_heartbeat");
    for replica in ["a", "b", "a", "b"] {
        heartbeat(&mut own, replica).await;
        assert_eq!(read(&mut watch, &mut hook).await.replica, None, "{replica}");
        database.sql("DELETE FROM replica_heartbeat");
    }
}

/// Replicas whose clocks tick together send their heartbeats in the same milliseconds each time.
#[tokio::test]
async fn heartbeats_that_keep_falling_close_together_are_distinguished() {
    for (place, name) in [("earlier", "close_before"), ("later", "close_after")] {
        let database = Database::new(name, SCHEMA);
        let mut own = database.session("demo-1").await;
        let mut hook = database.session(HOOK).await;
        let mut watch = watch_of("demo-1".to_owned());
        let sign = if place == "earlier" { "-" } else { "+" };
        let other = format!(
            "INSERT INTO replica_heartbeat SELECT 'other', last_heartbeat {sign} interval '12 ms' FROM replica_heartbeat WHERE replica_id = 'own' ON CONFLICT (replica_id) DO UPDATE SET last_heartbeat = excluded.last_heartbeat"
        );
        let mut known = None;
        // On a busy machine one or the other heartbeat may take longer.
        for _ in 0..10 {
            heartbeat(&mut own, "own").await;
            database.sql(&other);
            known = read(&mut watch, &mut hook).await.replica;
            assert_ne!(known.as_deref(), Some("other"), "{place}");
            if known.is_some() {
                break;
            }
        }
        assert_eq!(known.as_deref(), Some("own"), "{place}");
    }
}

#[tokio::test]
async fn a_session_of_an_earlier_start_of_the_container_gives_no_id() {
    let database = Database::new("lingering", SCHEMA);
    let mut lingering = database.session("demo-1").await;
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    tokio::time::sleep(Duration::from_millis(1500)).await;
    for _ in 0..3 {
        heartbeat(&mut lingering, "old").await;
        let young = Some(Duration::from_millis(100));
        let of_age = async |watch: &mut Watch, hook: &mut PgConnection, age| {
            let reading = watch.read(hook, Bytebases, age).await;
            reading.unwrap().seen.replica
        };
        assert_eq!(of_age(&mut watch, &mut hook, young).await, None);
        let unknown = of_age(&mut watch, &mut hook, None).await;
        assert_eq!(unknown, None, "of a process of unknown age");
    }
}

#[tokio::test]
async fn what_is_missing_and_what_is_not_understood_are_two_things() {
    let database = Database::new("unknown_tables", "SELECT");
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    let empty = read(&mut watch, &mut hook).await;
    assert_eq!((empty.running, empty.available), (Some(vec![]), Some(0)));
    assert_eq!((empty.sessions, empty.has_tables), (Some(0), Some(false)));
    database.sql(SCHEMA);
    database.sql("ALTER TABLE task_run RENAME COLUMN replica_id TO owner");
    let unlike = read(&mut watch, &mut hook).await;
    assert_eq!((unlike.running, unlike.has_tables), (None, Some(true)));
    database.sql("ALTER TABLE task_run RENAME COLUMN status TO state");
    assert_eq!(read(&mut watch, &mut hook).await.available, None);
    let mut unnamed = watch_of(String::new());
    assert_eq!(read(&mut unnamed, &mut hook).await.sessions, None);
    // A table of the name alone is from before heartbeats.
    database.sql("DROP TABLE replica_heartbeat");
    assert_eq!(read(&mut watch, &mut hook).await.has_tables, Some(true));
    database.sql("DROP TABLE task_run");
    assert_eq!(read(&mut watch, &mut hook).await.has_tables, Some(false));
}

/// As a migration of a newer replica locks it, or a VACUUM FULL.
#[tokio::test]
async fn a_locked_table_leaves_the_tasks_unknown_and_no_session_behind() {
    let database = Database::new("locked", SCHEMA);
    let mut own = database.session("demo-1").await;
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    let mut migration = database.session("demo-0").await;
    let mut locked = async |tables: &str| {
        let lock = format!("ROLLBACK; BEGIN; LOCK TABLE {tables}");
        let lock = sqlx::AssertSqlSafe(lock);
        sqlx::raw_sql(lock).execute(&mut migration).await.unwrap();
    };
    for known in [None, Some("own")] {
        locked("pg_proc IN ACCESS SHARE MODE").await;
        heartbeat(&mut own, "own").await;
        locked("task_run").await;
        let start = Instant::now();
        let reading = watch.read(&mut hook, Bytebases, LONG).await.unwrap();
        assert!(reading.goes_on && start.elapsed() < Duration::from_secs(4));
        let seen = reading.seen;
        assert_eq!((seen.running, seen.available), (None, None));
        assert_eq!((seen.replica.as_deref(), seen.sessions), (known, Some(1)));
    }
    locked("replica_heartbeat").await;
    let seen = read(&mut watch, &mut hook).await;
    assert_eq!((seen.running, seen.available), (Some(vec![]), Some(0)));
    locked("replica_heartbeat, task_run").await;
    assert_eq!(read(&mut watch, &mut hook).await.running, None);
    let sessions = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{HOOK}' AND datname = 'locked'"
    );
    assert_eq!(database.sql(&sessions), "1");
    // A pooler may give this session to Bytebase next.
    for (limit, expected) in [("statement_timeout", "0"), ("lock_timeout", "0")] {
        let show = sqlx::AssertSqlSafe(format!("SHOW {limit}"));
        let row = sqlx::raw_sql(show).fetch_one(&mut hook).await.unwrap();
        assert_eq!(row.get::<String, _>(0), expected);
    }
}

#[tokio::test]
async fn columns_of_other_types_are_read_or_unknown() {
    let database = Database::new("other_types", SCHEMA);
    let mut own = database.session("demo-1").await;
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    let id = "7a3ff1b0-6f2b-4e33-9d5d-6d0b7c6d3b11";
    database.sql(&format!(
        "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', '{id}', now());
         INSERT INTO replica_heartbeat VALUES ('0a3ff1b0-6f2b-4e33-9d5d-6d0b7c6d3b11', 'infinity');
         ALTER TABLE task_run ALTER replica_id TYPE uuid USING replica_id::uuid;
         ALTER TABLE replica_heartbeat ALTER replica_id TYPE uuid USING replica_id::uuid"
    ));
    for known in [None, Some(id)] {
        let heartbeat = "INSERT INTO replica_heartbeat VALUES ($1::uuid, now()) ON CONFLICT (replica_id) DO UPDATE SET last_heartbeat = now()";
        let heartbeat = sqlx::query(heartbeat).bind(id);
        heartbeat.execute(&mut own).await.unwrap();
        let seen = read(&mut watch, &mut hook).await;
        assert_eq!(seen.replica.as_deref(), known);
        let running = seen.running.unwrap();
        assert_eq!(running[0].owner, id);
    }
    for (change, expected) in [
        (
            "CREATE TYPE state AS ENUM ('RUNNING', 'AVAILABLE'); ALTER TABLE task_run ALTER status TYPE state USING status::state",
            Some(1),
        ),
        ("ALTER TYPE state RENAME VALUE 'RUNNING' TO 'AT_WORK'", None),
        (
            "ALTER TABLE task_run ALTER status TYPE smallint USING 1",
            None,
        ),
        (
            "ALTER TABLE task_run ALTER status TYPE text, ALTER started_at TYPE bigint USING 1",
            None,
        ),
    ] {
        database.sql(change);
        let reading = watch.read(&mut hook, Bytebases, LONG).await.unwrap();
        assert!(reading.goes_on, "{change}");
        let running = reading.seen.running.map(|running| running.len());
        assert_eq!(running, expected, "{change}");
    }
}

#[tokio::test]
async fn tasks_are_unknown_where_the_table_allows_a_state_that_is() {
    const KNOWN: &str = "'PENDING', 'AVAILABLE', 'RUNNING', 'DONE', 'FAILED', 'CANCELED'";
    let database = Database::new("states", SCHEMA);
    database.sql("INSERT INTO task_run (status, replica_id) VALUES ('RUNNING', 'own')");
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    for (states, expected) in [
        (format!("text, ADD CHECK (status IN ({KNOWN}))"), Some(1)),
        (format!("varchar(20), ADD CHECK (status IN ({KNOWN}, 'PAUSED'))"), None),
        // Of another column, and of two.
        (
            "text, ADD CHECK (replica_id <> 'PAUSED'), ADD CHECK (status <> 'PAUSED' OR replica_id = 'a')".to_owned(),
            Some(1),
        ),
    ] {
        database.sql(&format!(
            "ALTER TABLE task_run DROP CONSTRAINT IF EXISTS task_run_status_check, ALTER status TYPE {states}"
        ));
        let seen = read(&mut watch, &mut hook).await;
        let running = seen.running.map(|running| running.len());
        assert_eq!(running, expected, "{states}");
        assert_eq!(seen.available, expected.map(|_| 0), "{states}");
    }
    database.sql("DELETE FROM task_run; ALTER TABLE task_run ADD CHECK (status <> 'PAUSED')");
    let seen = read(&mut watch, &mut hook).await;
    assert_eq!((seen.running, seen.available), (None, None), "none runs");
}

/// What Bytebase writes where an owner has sent no heartbeat for a minute.
const ABANDONED: &str = "UPDATE task_run SET status = 'FAILED', updated_at = now(), result = '{\"detail\": \"Task run abandoned: owning replica stopped responding\"}' WHERE status = 'RUNNING'";

fn owners(seen: &Seen) -> Vec<String> {
    let running = seen.running.as_ref().unwrap();
    let mut owners: Vec<_> = running.iter().map(|run| run.owner.clone()).collect();
    owners.sort();
    owners
}

#[tokio::test]
async fn a_task_that_was_failed_as_abandoned_runs_as_long_as_its_owner_lives() {
    let database = Database::new("abandoned", SCHEMA);
    let mut own = database.session("demo-1").await;
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    let mut owners_now = async || {
        // It asks at once.
        watch.changes_session();
        owners(&read(&mut watch, &mut hook).await)
    };
    backdate(&database, "heard", 30.0);
    backdate(&database, "gone", 61.0);
    database.sql(&format!(
        "ALTER TABLE task_run ADD result jsonb NOT NULL DEFAULT '{{}}', ADD updated_at timestamptz NOT NULL DEFAULT now();
         INSERT INTO task_run (status, replica_id, started_at) SELECT 'RUNNING', unnest(ARRAY['own', 'heard', 'gone', NULL]), now();
         {ABANDONED};
         INSERT INTO task_run (status, replica_id, started_at, result) VALUES ('FAILED', 'heard', now(), '{{\"detail\": \"syntax error\"}}'), ('DONE', 'heard', now(), DEFAULT)"
    ));
    assert_eq!(
        owners_now().await,
        ["heard"],
        "which is its own is not known"
    );
    for _ in 0..2 {
        heartbeat(&mut own, "own").await;
        assert_eq!(owners_now().await, ["heard", "own"]);
    }
    // The own one counts until its next heartbeat too.
    for replica in ["own", "heard"] {
        backdate(&database, replica, 3600.0);
    }
    assert_eq!(owners_now().await, ["own"]);
    database
        .sql("UPDATE task_run SET status = 'RUNNING', result = DEFAULT WHERE replica_id = 'own'");
    for (change, expected) in [
        ("UPDATE task_run SET result = DEFAULT", vec!["own"]),
        ("ALTER TABLE task_run ALTER result TYPE json", vec!["own"]),
        (ABANDONED, vec!["own"]),
        // Its end could not be written, and never will be.
        (
            "UPDATE task_run SET updated_at = now() - interval '23 hours'",
            vec!["own"],
        ),
        (
            "UPDATE task_run SET updated_at = now() - interval '25 hours'",
            vec![],
        ),
        (
            "UPDATE task_run SET status = 'DONE' WHERE replica_id = 'own'",
            vec![],
        ),
        (
            "UPDATE task_run SET status = 'RUNNING' WHERE replica_id = 'own'",
            vec!["own"],
        ),
        // Whatever becomes of the column, what runs is seen.
        (
            "ALTER TABLE task_run ALTER result DROP DEFAULT, ALTER result TYPE text",
            vec!["own"],
        ),
        ("ALTER TABLE task_run DROP result", vec!["own"]),
        (
            "ALTER TABLE replica_heartbeat RENAME last_heartbeat TO seen",
            vec!["own"],
        ),
        ("ALTER TABLE task_run DROP updated_at", vec!["own"]),
    ] {
        database.sql(change);
        assert_eq!(owners_now().await, expected, "{change}");
    }
}

#[tokio::test]
async fn what_was_failed_as_abandoned_is_remembered_and_takes_nothing_from_what_runs() {
    let database = Database::new("remembered", SCHEMA);
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    for replica in ["own", "other"] {
        backdate(&database, replica, 1.0);
    }
    database.sql(
        "ALTER TABLE task_run ADD result jsonb NOT NULL DEFAULT '{}', ADD updated_at timestamptz NOT NULL DEFAULT now();
         INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())",
    );
    assert_eq!(owners(&read(&mut watch, &mut hook).await), ["own"]);
    // After an outage another replica may find it between two readings.
    database.sql(ABANDONED);
    assert_eq!(owners(&read(&mut watch, &mut hook).await), ["own"]);
    database.sql("UPDATE task_run SET status = 'DONE'");
    assert_eq!(owners(&read(&mut watch, &mut hook).await), ["own"], "kept");
    watch.changes_session();
    assert_eq!(owners(&read(&mut watch, &mut hook).await), [""; 0]);
    database.sql("UPDATE task_run SET status = 'FAILED'; INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'other', now())");
    assert_eq!(owners(&read(&mut watch, &mut hook).await), ["other"]);
    // After a reading that failed the last answer does not serve.
    let mut migration = database.session("demo-0").await;
    let mut execute = async |statements: &'static str| {
        let done = sqlx::raw_sql(statements).execute(&mut migration).await;
        done.unwrap();
    };
    execute("BEGIN; LOCK TABLE task_run").await;
    assert_eq!(read(&mut watch, &mut hook).await.running, None);
    execute("ROLLBACK").await;
    let both = ["other", "own"];
    assert_eq!(owners(&read(&mut watch, &mut hook).await), both);
    // Where it is asked for and cannot be read.
    for (changes, expected) in [(false, &both[1..]), (true, &both[..0])] {
        if changes {
            watch.changes_session();
        }
        execute("BEGIN; LOCK TABLE replica_heartbeat").await;
        database.sql("DELETE FROM task_run WHERE status = 'RUNNING'");
        for _ in 0..5 {
            let reading = watch.read(&mut hook, Bytebases, LONG).await.unwrap();
            assert!(reading.goes_on);
            assert_eq!(
                reading.seen.running, None,
                "{changes}: perhaps one was failed"
            );
        }
        let reading = watch.read(&mut hook, Bytebases, LONG).await.unwrap();
        assert!(reading.goes_on && reading.seen.running.is_some());
        assert_eq!(owners(&reading.seen), expected, "{changes}");
        assert_eq!(reading.seen.available, Some(0));
        execute("ROLLBACK").await;
    }
}

/// A reading whose question for what was failed as abandoned waits for a lock, while something
/// changes.
async fn read_during(
    change: &str,
    database: &Database,
    watch: &mut Watch,
    hook: &mut PgConnection,
) -> Seen {
    let mut migration = database.session("demo-0").await;
    sqlx::raw_sql("BEGIN; LOCK TABLE replica_heartbeat")
        .execute(&mut migration)
        .await
        .unwrap();
    let meanwhile = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        database.sql(change);
        migration.close().await.unwrap();
    };
    let (reading, ()) = tokio::join!(watch.read(hook, Bytebases, None), meanwhile);
    reading.unwrap().seen
}

#[tokio::test]
async fn what_runs_is_read_after_the_slow_question_for_what_was_failed_as_abandoned() {
    let database = Database::new("slow_question", SCHEMA);
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    database.sql("ALTER TABLE task_run ADD result jsonb NOT NULL DEFAULT '{}', ADD updated_at timestamptz NOT NULL DEFAULT now()");
    let claims =
        "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())";
    let seen = read_during(claims, &database, &mut watch, &mut hook).await;
    assert_eq!(owners(&seen), ["own"]);
    // It may have been failed as abandoned once that was answered.
    watch.changes_session();
    let ends = "UPDATE task_run SET status = 'DONE'";
    let seen = read_during(ends, &database, &mut watch, &mut hook).await;
    assert_eq!(owners(&seen), ["own"]);
    assert_eq!(owners(&read(&mut watch, &mut hook).await), [""; 0]);
}

/// The server shows the sessions of a role that works by `SET ROLE` to that role and not to the
/// other.
#[tokio::test]
async fn a_login_that_works_by_another_role_sees_its_replica() {
    let database = Database::new("set_role", "SELECT");
    let server = SERVER.get().unwrap();
    server.sql(
        "set_role",
        &format!("CREATE ROLE set_role_owner; ALTER ROLE set_role NOINHERIT; GRANT set_role_owner TO set_role;
         CREATE SCHEMA bb AUTHORIZATION set_role_owner; SET ROLE set_role_owner; SET search_path = bb; {SCHEMA};
         INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now()); RESET ROLE;
         ALTER ROLE set_role SET role = set_role_owner; ALTER ROLE set_role SET search_path = bb"),
    );
    let mut own = database.session("demo-1").await;
    let mut hook = database.session(HOOK).await;
    let mut operator = database.session("operator").await;
    sqlx::raw_sql("SET ROLE NONE")
        .execute(&mut operator)
        .await
        .unwrap();
    let hooks_key: i32 = sqlx::query_scalar(concat!(
        "SELECT ",
        bytebase_contract::session_key!(),
        " FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
    ))
    .bind(HOOK)
    .fetch_one(&mut operator)
    .await
    .unwrap();
    let mut watch = watch_of("demo-1".to_owned());
    for known in [None, Some("own")] {
        heartbeat(&mut own, "own").await;
        let seen = read(&mut watch, &mut hook).await;
        assert_eq!(seen.replica.as_deref(), known);
        assert_eq!(seen.sessions, Some(1));
        assert!(seen.quiet.is_some() && !seen.asked);
        assert_eq!(seen.running.unwrap().len(), 1, "read by the other role");
    }
    ask(&mut operator, hooks_key).await;
    assert!(read(&mut watch, &mut hook).await.asked);
}

/// A standby holds what its primary holds, but the sessions.
#[tokio::test]
async fn a_standby_gives_no_reading() {
    let database = Database::new("promoted", SCHEMA);
    let standby = SERVER.get().unwrap().standby();
    let mut behind = database
        .options(HOOK)
        .port(standby.port)
        .connect()
        .await
        .unwrap();
    let mut watch = watch_of("demo-1".to_owned());
    let unread = watch.read(&mut behind, Bytebases, LONG).await;
    assert_eq!(unread.err(), Some(Unread::Standby));
}

#[tokio::test]
async fn a_server_that_refuses_the_question_is_not_away() {
    let database = Database::new("refusing", SCHEMA);
    SERVER
        .get()
        .unwrap()
        .sql("refusing", "REVOKE ALL ON pg_locks FROM PUBLIC");
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    let unread = watch.read(&mut hook, Bytebases, LONG).await.err().unwrap();
    assert_eq!(unread, Unread::Refused("42501".to_owned()));
    assert_eq!(
        unread.why(),
        "the server refuses to be read (SQLSTATE 42501)"
    );
    SERVER.get().unwrap().sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'refusing'",
    );
    let unread = watch.read(&mut hook, Bytebases, LONG).await.err();
    assert_eq!(unread, Some(Unread::BrokenOff));
}

/// What no name distinguishes is not gone: a pooler may put the client's address behind each name.
#[tokio::test]
async fn sessions_that_a_pooler_renames_cannot_be_distinguished() {
    let database = Database::new("renamed", SCHEMA);
    let mut own = database.session("demo-1 - 10.0.0.7:4711").await;
    let mut hook = database.session(&format!("{HOOK} - 10.0.0.7:4712")).await;
    let mut watch = watch_of("demo-1".to_owned());
    let seen = read(&mut watch, &mut hook).await;
    assert_eq!((seen.sessions, seen.quiet), (None, None));
    assert!(!seen.migrates);
    sqlx::query("SELECT pg_advisory_lock(1002)")
        .execute(&mut own)
        .await
        .unwrap();
    assert!(read(&mut watch, &mut hook).await.migrates);
}

/// A login that is not Bytebase's own has another `search_path`.
#[tokio::test]
async fn tasks_are_seen_in_the_schema_that_holds_them_or_unknown() {
    let database = Database::new("elsewhere", "CREATE SCHEMA bb AUTHORIZATION elsewhere");
    database.sql(&format!("SET search_path = bb; {SCHEMA}; INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())"));
    let server = SERVER.get().unwrap();
    let guest =
        "CREATE ROLE elsewhere_guest LOGIN PASSWORD 'pl4nted'; GRANT pg_monitor TO elsewhere_guest";
    server.sql("elsewhere", guest);
    let options = database.options(HOOK).username("elsewhere_guest");
    let seen = async |whose| {
        let mut hook = options.connect().await.unwrap();
        let mut watch = watch_of("demo-1".to_owned());
        let mut seen = None;
        for _ in 0..2 {
            let reading = watch.read(&mut hook, whose, LONG).await.unwrap();
            seen = reading.seen.running;
        }
        hook.close().await.unwrap();
        seen.map(|running| running.len())
    };
    for (grant, expected) in [
        ("SELECT", None),
        ("GRANT USAGE ON SCHEMA bb TO elsewhere_guest", None),
        (
            "GRANT SELECT ON ALL TABLES IN SCHEMA bb TO elsewhere_guest",
            Some(1),
        ),
    ] {
        database.sql(grant);
        for whose in [Bytebases, Another, Monitors] {
            assert_eq!(seen(whose).await, expected, "{grant} {whose:?}");
        }
    }
    // Of two places only Bytebase's own login knows which one is meant.
    let copy =
        format!("SET search_path = public; {SCHEMA}; GRANT SELECT ON task_run TO elsewhere_guest");
    database.sql(&copy);
    assert_eq!(seen(Bytebases).await, Some(0));
    assert_eq!(seen(Another).await, None);
    assert_eq!(seen(Monitors).await, None);
}

#[tokio::test]
async fn tasks_are_unknown_where_row_security_may_keep_some_from_the_login() {
    let database = Database::new("guarded", SCHEMA);
    database.sql(
        "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())",
    );
    SERVER.get().unwrap().sql(
        "guarded",
        "CREATE ROLE guarded_guest LOGIN PASSWORD 'pl4nted'; GRANT pg_read_all_data, pg_monitor TO guarded_guest",
    );
    let guest = database.options(HOOK).username("guarded_guest");
    let seen = async |options: &PgConnectOptions, whose| {
        let mut hook = options.connect().await.unwrap();
        let mut watch = watch_of("demo-1".to_owned());
        let reading = watch.read(&mut hook, whose, LONG).await.unwrap();
        assert!(reading.goes_on);
        hook.close().await.unwrap();
        reading.seen.running.map(|running| running.len())
    };
    for (change, expected) in [
        ("SELECT", Some(1)),
        ("ALTER TABLE task_run ENABLE ROW LEVEL SECURITY", None),
    ] {
        database.sql(change);
        for whose in [Another, Monitors] {
            assert_eq!(seen(&guest, whose).await, expected, "{change} {whose:?}");
        }
        // It does not reach the owner.
        let own = database.options(HOOK);
        assert_eq!(seen(&own, Bytebases).await, Some(1), "{change}");
    }
}

/// As of `database.monitorSecretRef`, which names another database of the server.
#[tokio::test]
async fn a_monitoring_login_to_another_database_shows_nothing_of_the_replica() {
    let empty = Database::new("wrong", "SELECT");
    let neighbours = Database::new("of_a_neighbour", SCHEMA);
    for (database, bytebases, whose, counts) in [
        // Before the first migration, also where `PG_URL` was changed.
        (&empty, "wrong", Bytebases, true),
        (&empty, "wrong", Another, true),
        (&empty, "wrong", Monitors, false),
        (&neighbours, "of_a_neighbour", Monitors, true),
        (&neighbours, "bytebase", Monitors, false),
        // As one that a pooler calls otherwise.
        (&neighbours, "bytebase", Another, true),
    ] {
        let mut hook = database.session(HOOK).await;
        let bytebases = Some(bytebases.to_owned());
        let mut watch = Watch::new("demo-1".to_owned(), HOOK.to_owned(), bytebases);
        let seen = watch.read(&mut hook, whose, LONG).await.unwrap().seen;
        let found = (seen.running.clone(), seen.sessions, seen.is_lifeless());
        let expected = (counts.then(Vec::new), counts.then_some(0), counts);
        assert_eq!(found, expected, "{} {whose:?}", database.name);
        let has_tables = counts.then_some(database.name != empty.name);
        assert_eq!(seen.has_tables, has_tables, "{} {whose:?}", database.name);
    }
    // A pod of a neighbour may have the same name.
    let mut own = neighbours.session("demo-1").await;
    heartbeat(&mut own, "theirs").await;
    let mut hook = neighbours.session(HOOK).await;
    let bytebases = Some("bytebase".to_owned());
    let mut watch = Watch::new("demo-1".to_owned(), HOOK.to_owned(), bytebases);
    let reading = watch.read(&mut hook, Monitors, LONG).await.unwrap();
    let seen = reading.seen;
    assert_eq!(
        (seen.running, seen.sessions, seen.quiet),
        (None, None, None)
    );
}

#[tokio::test]
async fn a_migration_counts_where_the_replica_itself_runs_it() {
    let database = Database::new("migrates", SCHEMA);
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    for (name, expected) in [("demo-0", false), ("demo-1", true)] {
        let mut session = database.session(name).await;
        sqlx::query("SELECT pg_advisory_lock(1002)")
            .execute(&mut session)
            .await
            .unwrap();
        assert_eq!(
            read(&mut watch, &mut hook).await.migrates,
            expected,
            "{name}"
        );
        session.close().await.unwrap();
    }
    // A cluster of the same name may have its database on the same server.
    let neighbour = Database::new("migrates_too", SCHEMA);
    let mut session = neighbour.session("demo-1").await;
    sqlx::query("SELECT pg_advisory_lock(1002)")
        .execute(&mut session)
        .await
        .unwrap();
    assert!(!read(&mut watch, &mut hook).await.migrates);
}

#[tokio::test]
async fn a_process_that_waits_for_the_lock_of_the_migration_has_not_started() {
    let lock = "SELECT pg_advisory_lock(1002)";
    let database = Database::new("starts", SCHEMA);
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    let mut other = database.session("demo-0").await;
    sqlx::query(lock).execute(&mut other).await.unwrap();
    let mut own = database.session("demo-1").await;
    assert!(!read(&mut watch, &mut hook).await.starts);
    let waits = tokio::spawn(async move {
        sqlx::query(lock).execute(&mut own).await.unwrap();
        own
    });
    let begun = Instant::now();
    while !read(&mut watch, &mut hook).await.starts {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // A session of an earlier process of the container, or perhaps.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    for age in [None, Some(Duration::ZERO)] {
        let reading = watch.read(&mut hook, Bytebases, age).await.unwrap();
        assert!(!reading.seen.starts, "{age:?}");
    }
    for name in ["demo-2", ""] {
        let mut watch = watch_of(name.to_owned());
        assert!(!read(&mut watch, &mut hook).await.starts, "{name}");
    }
    other.close().await.unwrap();
    let _own = waits.await.unwrap();
    let seen = read(&mut watch, &mut hook).await;
    assert!(seen.migrates && !seen.starts);
}

#[tokio::test]
async fn a_replica_is_quiet_since_its_last_statement() {
    let database = Database::new("quiet", SCHEMA);
    let mut hook = database.session(HOOK).await;
    let mut watch = watch_of("demo-1".to_owned());
    assert_eq!(read(&mut watch, &mut hook).await.quiet, None, "no session");
    let mut own = database.session("demo-1").await;
    let mut second = database.session("demo-1").await;
    sqlx::query("SELECT 1").execute(&mut own).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    let quiet = read(&mut watch, &mut hook).await.quiet.unwrap();
    assert!((0.6..30.0).contains(&quiet), "{quiet}");
    // The latest of all sessions counts, and one that asks at this moment is not quiet.
    sqlx::query("SELECT 1").execute(&mut second).await.unwrap();
    let later = read(&mut watch, &mut hook).await.quiet.unwrap();
    assert!(later < quiet, "{later}");
    let asks = tokio::spawn(async move {
        let sleep = sqlx::query("SELECT pg_sleep(2)").execute(&mut second);
        sleep.await.unwrap();
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(read(&mut watch, &mut hook).await.quiet, Some(0.0));
    asks.await.unwrap();
    // A role that may not see what others do learns that there are sessions, and no more.
    let server = SERVER.get().unwrap();
    server.sql(
        "postgres",
        "CREATE ROLE quiet_reader LOGIN PASSWORD 'pl4nted'",
    );
    let reader = Database {
        name: "quiet_reader",
    };
    let mut reader = reader
        .options(HOOK)
        .database("quiet")
        .connect()
        .await
        .unwrap();
    let seen = read(&mut watch, &mut reader).await;
    assert_eq!((seen.sessions, seen.quiet), (Some(1), None));
}

/// As the operator asks, by a lock that its session keeps.
async fn ask(operator: &mut PgConnection, session: i32) {
    let asked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock_shared($1, $2)")
        .bind(LET_GO)
        .bind(session)
        .fetch_one(operator)
        .await
        .unwrap();
    assert!(asked);
}

async fn take_back(operator: &mut PgConnection, session: i32) {
    sqlx::query("SELECT pg_advisory_unlock_shared($1, $2)")
        .bind(LET_GO)
        .bind(session)
        .execute(operator)
        .await
        .unwrap();
}

async fn key(session: &mut PgConnection) -> i32 {
    let key = concat!(
        "SELECT ",
        bytebase_contract::session_key!(),
        " FROM pg_stat_activity WHERE pid = pg_backend_pid()"
    );
    sqlx::query_scalar(key).fetch_one(session).await.unwrap()
}

#[tokio::test]
async fn a_hook_is_asked_while_a_session_holds_the_lock_with_its_key() {
    let database = Database::new("asks", SCHEMA);
    let server = SERVER.get().unwrap();
    server.sql(
        "postgres",
        "CREATE ROLE asks_operator LOGIN PASSWORD 'pl4nted'",
    );
    let operator = async |database: &str| {
        // Any role may ask, and any may see it.
        let role = Database {
            name: "asks_operator",
        };
        let options = role.options("operator").database(database);
        options.connect().await.unwrap()
    };
    let mut hook = database.session("drain/demo-1").await;
    let mut other = database.session("drain/demo-0").await;
    let (own_key, other_key) = (key(&mut hook).await, key(&mut other).await);
    let mut watch = watch_of("demo-1".to_owned());
    let mut first = operator("asks").await;
    assert!(!read(&mut watch, &mut hook).await.asked);
    ask(&mut first, other_key).await;
    assert!(!read(&mut watch, &mut hook).await.asked, "another is asked");
    assert!(read(&mut watch, &mut other).await.asked);
    ask(&mut first, own_key).await;
    assert!(read(&mut watch, &mut hook).await.asked);
    // Two operators ask for a moment while one takes over from the other.
    let mut second = operator("asks").await;
    ask(&mut second, own_key).await;
    take_back(&mut first, own_key).await;
    assert!(read(&mut watch, &mut hook).await.asked);
    second.close().await.unwrap();
    let start = Instant::now();
    while read(&mut watch, &mut hook).await.asked {
        assert!(start.elapsed() < Duration::from_secs(10), "it is forgotten");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Of locks that look alike none counts.
    let mut elsewhere = operator("postgres").await;
    ask(&mut elsewhere, own_key).await;
    for lock in [
        format!("pg_advisory_lock_shared({own_key}, {LET_GO})"),
        format!("pg_advisory_lock_shared(({LET_GO}::bigint << 32) + {own_key})"),
        format!("pg_advisory_lock_shared({own_key})"),
    ] {
        let lock = sqlx::AssertSqlSafe(format!("SELECT {lock}"));
        sqlx::raw_sql(lock).execute(&mut first).await.unwrap();
    }
    assert!(!read(&mut watch, &mut hook).await.asked);
    ask(&mut first, own_key).await;
    assert!(read(&mut watch, &mut hook).await.asked);
    take_back(&mut first, own_key).await;
    assert!(!read(&mut watch, &mut hook).await.asked, "released");
}

/// Whether a replica can promote work at this moment.
async fn promotes(session: &mut PgConnection) -> bool {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(1001)")
        .fetch_one(session)
        .await
        .unwrap()
}

async fn until_it_promotes(session: &mut PgConnection) -> Duration {
    let start = Instant::now();
    while !promotes(session).await {
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "the queue stays held"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

#[tokio::test]
async fn the_server_ends_a_hold_whose_holder_says_nothing_more() {
    let database = Database::new("held", SCHEMA);
    let mut replica = database.session("demo-0").await;
    let mut holder = database.session(HOOK).await;
    assert!(promotes(&mut replica).await);
    let hold = watch::hold(&mut holder, Duration::from_millis(400)).await;
    assert!(hold.unwrap() && !promotes(&mut replica).await);
    let took = until_it_promotes(&mut replica).await;
    assert!(took >= Duration::from_millis(300), "{took:?}");
    assert!(
        watch::limit(&mut holder, Duration::from_secs(1))
            .await
            .is_err()
    );
    // Several hooks hold it together; one that is promoting at this moment is left alone.
    let mut holder = database.session(HOOK).await;
    let mut second = database.session(HOOK).await;
    for hook in [&mut holder, &mut second] {
        assert!(watch::hold(hook, Duration::from_mins(1)).await.unwrap());
    }
    watch::release(&mut holder).await.unwrap();
    assert!(!promotes(&mut replica).await);
    watch::release(&mut second).await.unwrap();
    sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock(1001)")
        .execute(&mut replica)
        .await
        .unwrap();
    assert!(
        !watch::hold(&mut holder, Duration::from_mins(1))
            .await
            .unwrap()
    );
}

#[tokio::test]
async fn the_last_hold_outlives_its_process_by_a_moment() {
    let database = Database::new("outlives", SCHEMA);
    let mut replica = database.session("demo-0").await;
    let mut holder = database.session(HOOK).await;
    assert!(
        watch::hold(&mut holder, Duration::from_secs(5))
            .await
            .unwrap()
    );
    let holds = tokio::spawn(watch::hold_on(holder));
    // It is sent while a reading is awaited.
    let mut watch = watch_of("demo-1".to_owned());
    read(&mut watch, &mut replica).await;
    // As the end of a process does.
    holds.abort();
    assert!(!promotes(&mut replica).await);
    let took = until_it_promotes(&mut replica).await;
    assert!(took >= Duration::from_secs(4), "{took:?}");
    assert!(took < Duration::from_secs(7), "{took:?}");
}

/// The program itself, beside no Bytebase: the first process of this machine stands for it.
fn hook(database: &Database, log: &Path, options: &[&str], name: &str) -> Child {
    let port = SERVER.get().unwrap().port;
    hook_at(&database.url(port), log, options, name)
}

fn hook_at(url: &str, log: &Path, options: &[&str], name: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_bytebase-drain"))
        .arg("wait")
        .arg(format!("--log={}", log.display()))
        .args(options)
        .env_clear()
        .env("PG_URL", url)
        .env("PGAPPNAME", name)
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn ended(hook: &mut Child, patience: Duration) -> Option<Duration> {
    let start = Instant::now();
    while start.elapsed() < patience {
        if let Some(status) = hook.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return Some(start.elapsed());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_returns_when_the_task_of_its_replica_is_done() {
    let database = Database::new("whole", SCHEMA);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    database.sql("INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now()), ('RUNNING', 'other', now())");
    let mut own = database.session("demo-1").await;
    let mut program = hook(&database, &log, &["--timeout=60"], "demo-1");
    for _ in 0..3 {
        heartbeat(&mut own, "own").await;
        tokio::time::sleep(Duration::from_millis(1200)).await;
    }
    let said = fs::read_to_string(&log).unwrap();
    assert!(
        said.contains("2 running tasks may be this replica's"),
        "{said}"
    );
    assert!(
        said.contains("waiting for a task that this replica runs"),
        "{said}"
    );
    assert_eq!(
        ended(&mut program, Duration::from_millis(500)),
        None,
        "it is busy"
    );
    database.sql("UPDATE task_run SET status = 'DONE' WHERE replica_id = 'own'");
    let took =
        ended(&mut program, Duration::from_secs(10)).expect("it waits for the task of another");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("runs no task and may end"), "{said}");
    assert!(!said.contains("pl4nted"), "{said}");
    for line in said.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_waits_for_a_task_that_others_have_given_up_while_its_replica_lives() {
    let database = Database::new("given_up", SCHEMA);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    backdate(&database, "gone", 61.0);
    database.sql(&format!(
        "ALTER TABLE task_run ADD result jsonb NOT NULL DEFAULT '{{}}', ADD updated_at timestamptz NOT NULL DEFAULT now();
         INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now()), ('RUNNING', 'gone', now());
         {ABANDONED}"
    ));
    let mut own = database.session("demo-1").await;
    // After the outage.
    heartbeat(&mut own, "own").await;
    let mut program = hook(&database, &log, &["--timeout=60"], "demo-1");
    until_it_says(&log, "a running task may be this replica's").await;
    heartbeat(&mut own, "own").await;
    until_it_says(&log, "waiting for a task that this replica runs").await;
    assert_eq!(
        ended(&mut program, Duration::from_millis(1500)),
        None,
        "its replica goes on with it"
    );
    database.sql("UPDATE task_run SET status = 'DONE', result = '{}' WHERE replica_id = 'own'");
    // What was abandoned is asked for each ten seconds.
    let took = ended(&mut program, Duration::from_secs(20)).expect("it waits for one that is gone");
    assert!(took < Duration::from_secs(14), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_knows_a_replica_whose_sessions_are_busy() {
    let database = Database::new("busy", SCHEMA);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    database.sql("INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now()), ('RUNNING', 'other', now())");
    let mut own = database.session("demo-1").await;
    backdate(&database, "own", 8.0);
    let mut program = hook(&database, &log, &["--timeout=60"], "demo-1");
    until_it_says(&log, "2 running tasks may be this replica's").await;
    let knows = || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains("waiting for a task that this replica runs")
    };
    // One or the other may be missed on a busy machine.
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(1900)).await;
        soon_overwritten_heartbeat(&mut own, 100).await;
        tokio::time::sleep(Duration::from_millis(1200)).await;
        if knows() {
            break;
        }
        backdate(&database, "own", 8.0);
    }
    assert!(knows(), "{}", fs::read_to_string(&log).unwrap());
    program.kill().unwrap();
    program.wait().unwrap();
}

/// What the driver opens in the pod, the hook opens there too.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_logs_in_by_a_client_certificate_and_by_a_password_file() {
    let server = Server::start("ssl_ca_file = '../ca.crt'");
    for role in ["certified", "filed"] {
        server.database(role, "pl4nted");
        server.sql(
            role,
            &format!("SET ROLE {role}; {SCHEMA}; INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())"),
        );
    }
    server.let_in("hostssl all certified all cert\nhostnossl all certified all reject");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let place = |role: &str| format!("postgres://{role}@localhost:{}/{role}", server.port);
    let trust = format!(
        "sslmode=verify-full&sslrootcert={}",
        file("ca", &String::from_utf8(server.ca()).unwrap())
    );
    let by_certificate = |name: &str, certified: &Certified| {
        let certificate = file(&format!("{name}.crt"), &certified.certificate);
        let key = file(&format!("{name}.key"), &certified.key);
        let place = place("certified");
        format!("{place}?{trust}&sslcert={certificate}&sslkey={key}")
    };
    let by_file = |name: &str, port: u16| {
        let passwords = format!("# of the team\nlocalhost:{port}:*:filed:pl4nted\n");
        format!("{}?passfile={}", place("filed"), file(name, &passwords))
    };
    let authority = server.authority();
    let sees = "waiting: a running task may be this replica's";
    for (name, url, expected) in [
        (
            "right",
            by_certificate("right", &authority.certify_role("certified")),
            sees,
        ),
        // As many scripts make them.
        (
            "old",
            by_certificate("old", &authority.certify_version_1("certified")),
            sees,
        ),
        (
            "other",
            by_certificate("other", &authority.certify_role("filed")),
            "(SQLSTATE 28000)",
        ),
        ("filed", by_file("filed", server.port), sees),
        ("unfit", by_file("unfit", 1), "has no line for this host"),
    ] {
        let log = folder.path().join("log");
        fs::write(&log, "").unwrap();
        let mut program = hook_at(&url, &log, &["--timeout=60"], "demo-1");
        until_it_says(&log, expected).await;
        program.kill().unwrap();
        program.wait().unwrap();
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.contains("pl4nted"), "{name}: {said}");
    }
}

/// A name that leads somewhere else from one moment to the next, while sessions that are open stay
/// where they are.
async fn name(leads_to: u16) -> (u16, Arc<AtomicU16>) {
    let listener = TcpListener::bind("localhost:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let leads_to = Arc::new(AtomicU16::new(leads_to));
    let server = Arc::clone(&leads_to);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let port = server.load(Ordering::Relaxed);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("localhost", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, leads_to)
}

async fn until_it_says(log: &Path, words: &str) {
    let start = Instant::now();
    loop {
        let said = fs::read_to_string(log).unwrap();
        if said.contains(words) {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(20), "{words}: {said}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// After a failover the name may lead to the old server for a while, which goes on and keeps the
/// session.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_follows_its_replica_to_another_server() {
    let tasks =
        "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())";
    let database = Database::new("failed_over", SCHEMA);
    database.sql(tasks);
    let old = Server::start("");
    old.database("failed_over", "pl4nted");
    old.sql(
        "failed_over",
        &format!("SET ROLE failed_over; {SCHEMA}; {tasks}"),
    );
    let (port, leads_to) = name(old.port).await;
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    let mut own = database.session("demo-1").await;
    let mut program = hook_at(&database.url(port), &log, &["--timeout=60"], "demo-1");
    until_it_says(&log, "a running task may be this replica's").await;
    leads_to.store(SERVER.get().unwrap().port, Ordering::Relaxed);
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_millis(1200)).await;
        heartbeat(&mut own, "own").await;
    }
    until_it_says(&log, "waiting for a task that this replica runs").await;
    database.sql("UPDATE task_run SET status = 'DONE'");
    let took = ended(&mut program, Duration::from_secs(10)).expect("it is idle");
    assert!(took < Duration::from_secs(4), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_returns_within_seconds_once_it_is_asked() {
    let database = Database::new("asked", SCHEMA);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    database.sql(
        "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())",
    );
    let mut own = database.session("demo-1").await;
    sqlx::query("SELECT pg_advisory_lock(1002)")
        .execute(&mut own)
        .await
        .unwrap();
    let mut program = hook(&database, &log, &["--timeout=60"], "demo-1");
    let mut operator = database.session("operator").await;
    let sessions = async |operator: &mut PgConnection| -> Vec<i32> {
        sqlx::query_scalar(concat!(
            "SELECT ",
            bytebase_contract::session_key!(),
            " FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
        ))
        .bind(sessions_of("demo-1"))
        .fetch_all(operator)
        .await
        .unwrap()
    };
    let start = Instant::now();
    let found = loop {
        let found = sessions(&mut operator).await;
        if !found.is_empty() {
            break found;
        }
        assert!(
            start.elapsed() < Duration::from_secs(20),
            "it has no session"
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    for session in found {
        ask(&mut operator, session).await;
    }
    let patience = Duration::from_millis(2500);
    assert_eq!(ended(&mut program, patience), None, "its replica migrates");
    operator.close().await.unwrap();
    let mut operator = database.session("operator").await;
    sqlx::query("SELECT pg_advisory_unlock(1002)")
        .execute(&mut own)
        .await
        .unwrap();
    assert_eq!(ended(&mut program, patience), None, "it is asked no more");
    for session in sessions(&mut operator).await {
        ask(&mut operator, session).await;
    }
    let took = ended(&mut program, Duration::from_secs(20)).expect("it was asked");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let said = fs::read_to_string(&log).unwrap();
    for line in [
        "waiting for the schema migration",
        "waiting: a running task may be this replica's",
        "the operator asks for the end of this replica",
        "what this replica still runs is cancelled",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("pl4nted"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_keeps_the_pause_and_the_time_out() {
    let database = Database::new("times", SCHEMA);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    let _own = database.session("demo-1").await;
    let mut idle = hook(&database, &log, &["--timeout=60", "--pause=2"], "demo-1");
    let took = ended(&mut idle, Duration::from_secs(20)).unwrap();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    // No work is promoted before the replica has been asked to end.
    let mut replica = database.session("demo-0").await;
    assert!(!promotes(&mut replica).await);
    let took = until_it_promotes(&mut replica).await;
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    database.sql(
        "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())",
    );
    let mut busy = hook(&database, &log, &["--timeout=3"], "demo-1");
    let took = ended(&mut busy, Duration::from_secs(20)).unwrap();
    assert!(took >= Duration::from_millis(2900), "{took:?}");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("the time for the drain is up"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_waits_for_queued_work_unless_no_replica_claims_it() {
    let database = Database::new("queued_work", SCHEMA);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    let _own = database.session("demo-1").await;
    database.sql("INSERT INTO task_run (status) VALUES ('AVAILABLE')");
    let mut program = hook(&database, &log, &["--timeout=60"], "demo-1");
    until_it_says(&log, "waiting for a queued task to be claimed").await;
    assert_eq!(ended(&mut program, Duration::from_secs(2)), None);
    database.sql("UPDATE task_run SET status = 'DONE'");
    let took = ended(&mut program, Duration::from_secs(20)).unwrap();
    assert!(took < Duration::from_secs(4), "{took:?}");
    database.sql("UPDATE task_run SET status = 'AVAILABLE'");
    let mut program = hook(&database, &log, &["--timeout=60"], "demo-1");
    let took = ended(&mut program, Duration::from_secs(30)).unwrap();
    assert!(took >= Duration::from_secs(12), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_takes_tables_that_are_gone_for_no_end_of_its_tasks() {
    let database = Database::new("vanished", SCHEMA);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    let _own = database.session("demo-1").await;
    database.sql(
        "INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', 'own', now())",
    );
    let mut program = hook(&database, &log, &["--timeout=60"], "demo-1");
    until_it_says(&log, "a running task may be this replica's").await;
    database.sql("DROP TABLE task_run, replica_heartbeat");
    until_it_says(
        &log,
        "none of Bytebase's tables is in the metadata database",
    )
    .await;
    assert_eq!(ended(&mut program, Duration::from_secs(3)), None);
    // As from a backup.
    database.sql(SCHEMA);
    let took = ended(&mut program, Duration::from_secs(20));
    assert!(took.is_some());
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("runs no task and may end"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_returns_without_a_hold_only_after_several_attempts() {
    let database = Database::new("unheld", SCHEMA);
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log");
    fs::write(&log, "").unwrap();
    // As one that promotes work, and never gets done.
    let mut promoter = database.session("demo-0").await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1001)")
        .execute(&mut promoter)
        .await
        .unwrap();
    let _own = database.session("demo-1").await;
    let mut program = hook(&database, &log, &["--timeout=60", "--pause=0"], "demo-1");
    let took = ended(&mut program, Duration::from_secs(20)).unwrap();
    assert!(took >= Duration::from_millis(1900), "{took:?}");
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("runs no task and may end"), "{said}");
}
