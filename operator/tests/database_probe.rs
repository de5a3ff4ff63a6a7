//! The probe against a real PostgreSQL, with a real PgBouncer in between where that matters.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a failed expectation is the report"
)]

use bytebase_login::plan::Reach;
use bytebase_operator::contract::ca_bundle::CaBundle;
use bytebase_operator::contract::pg_url::{HostPort, PgUrl, SslMode, TargetSessionAttrs};
use bytebase_operator::contract::version::Version;
use bytebase_operator::contract::{hook, session_key};
use bytebase_operator::observation::reading::{Latest, ReadOptions, Renewal};
use bytebase_operator::observation::{
    DatabaseFacts, DatabaseView, Fact, FailureClass, FailureReason, ListenSession, LoginTrial,
    ProbeFailure, SchemaState, StoredLicense,
};
use bytebase_operator::observe::database::monitor::Watched;
use bytebase_operator::observe::database::probe::{DEFAULT_INTERVAL, Probes};
use bytebase_operator::observe::database::{Access, WhoseLogin};
use secrecy::{ExposeSecret, SecretString};
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use testkit::memory::resident_kib;
use testkit::postgres::Server;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use uuid::Uuid;

const PASSWORD: &str = "s3cret-of-the-role";

const BYTEBASE_TABLES: &str = "
    CREATE TABLE principal (id serial PRIMARY KEY);
    CREATE TABLE replica_heartbeat (replica_id text PRIMARY KEY, last_heartbeat timestamptz NOT NULL);
    CREATE TABLE instance_change_history (id bigserial PRIMARY KEY, version text NOT NULL);
    CREATE TABLE workspace (resource_id text PRIMARY KEY, deleted boolean NOT NULL DEFAULT false);
    CREATE TABLE setting (name text, workspace text, value jsonb NOT NULL);
    CREATE TABLE task_run (status text NOT NULL, replica_id text, started_at timestamptz);
";

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start("max_connections = 60"))
}

fn url(port: u16, name: &str) -> PgUrl {
    PgUrl::parse(&format!(
        "postgres://{name}:{PASSWORD}@127.0.0.1:{port}/{name}?sslmode=disable"
    ))
    .unwrap()
}

/// Where the pods mount the CA bundle.
const CA_PATH: &str = "/etc/bytebase/database-ca/ca.crt";

fn bundle(server: &Server) -> CaBundle {
    CaBundle::parse(&server.ca()).unwrap()
}

fn access(url: PgUrl) -> Access {
    Access {
        url,
        ca: None,
        // The servers of these tests are on this machine.
        reach: Reach::Anywhere,
        login: WhoseLogin::Bytebase,
        trial: None,
        fingerprint: [1; 32],
    }
}

/// One probe with its wake-ups.
struct Probe {
    probes: Probes<&'static str>,
    woken: UnboundedReceiver<&'static str>,
}

impl Probe {
    fn start(access: Access, every: Duration) -> Self {
        let (wake, woken) = unbounded_channel();
        let probes = Probes::new(wake, ToString::to_string, Arc::new(|_, _| {}));
        probes.ensure(&"it", access);
        probes.pace(
            &"it",
            ReadOptions {
                every,
                sessions: true,
                renewal: Renewal::Usual,
                keep_session: true,
                try_login: false,
                awaited: 0,
            },
        );
        Self { probes, woken }
    }

    async fn wake(&mut self, within: Duration) -> Option<Latest> {
        timeout(within, self.woken.recv()).await.ok().flatten()?;
        Some(self.probes.latest(&"it"))
    }
}

async fn outcome(access: Access) -> Result<DatabaseFacts, ProbeFailure> {
    let mut probe = Probe::start(access, DEFAULT_INTERVAL);
    let latest = probe
        .wake(Duration::from_secs(20))
        .await
        .expect("no outcome");
    match latest.view {
        DatabaseView::Probed(outcome) => outcome,
        other => panic!("{other:?}"),
    }
}

async fn facts(access: Access) -> DatabaseFacts {
    outcome(access)
        .await
        .unwrap_or_else(|failure| panic!("{failure:?}"))
}

async fn failure(access: Access) -> (FailureClass, FailureReason, String) {
    let failure = outcome(access).await.expect_err("it should fail");
    let shown = format!("{failure:?}");
    assert!(!shown.contains(PASSWORD), "{shown}");
    (failure.class, failure.reason, failure.message)
}

fn migrating(facts: &DatabaseFacts) -> bool {
    facts.sessions.as_ref().unwrap().migration_running
}

fn listeners(facts: &DatabaseFacts) -> Option<Vec<ListenSession>> {
    facts.sessions.as_ref().unwrap().listeners.clone()
}

/// A database of that name with Bytebase's tables in it.
fn bytebase(name: &str) -> PgUrl {
    server().database(name, PASSWORD);
    server().sql(name, &format!("SET ROLE {name}; {BYTEBASE_TABLES}"));
    url(server().port, name)
}

/// As often as while all is well.
fn usual(sessions: bool, awaited: usize) -> ReadOptions {
    ReadOptions {
        every: DEFAULT_INTERVAL,
        sessions,
        renewal: Renewal::Usual,
        keep_session: true,
        try_login: false,
        awaited,
    }
}

// === What a database holds ===

#[tokio::test]
async fn an_empty_database_is_empty() {
    server().database("empty", PASSWORD);
    let facts = facts(access(url(server().port, "empty"))).await;
    assert_eq!(facts.schema, SchemaState::Empty);
    assert!(
        facts.can_create
            && !facts.in_recovery
            && facts.transaction_pooler == Some(false)
            && !migrating(&facts)
    );
    assert!(facts.server_version_num >= 140_000);
    assert_eq!(
        (
            facts.encoding.as_str(),
            facts.max_connections,
            facts.reserved_connections
        ),
        ("UTF8", 60, 3)
    );
    assert!(matches!(facts.license, Fact::Absent));
    assert_eq!(listeners(&facts), Some(vec![]));
}

#[tokio::test]
async fn a_heartbeat_that_is_too_old_to_be_read_shows_that_there_has_been_a_replica() {
    let url = bytebase("silent");
    let before = facts(access(url.clone())).await;
    assert_eq!(before.heartbeats.known().map(Vec::len), Some(0));
    assert!(!before.has_heartbeat_rows);
    let old = "INSERT INTO replica_heartbeat VALUES ('old', now() - interval '61 min')";
    server().sql("silent", old);
    let after = facts(access(url)).await;
    assert_eq!(after.heartbeats.known().map(Vec::len), Some(0));
    assert!(after.has_heartbeat_rows);
}

#[tokio::test]
async fn bytebases_tables_are_read() {
    let url = bytebase("whole");
    let (live, dead) = (Uuid::new_v4(), Uuid::new_v4());
    server().sql(
        "whole",
        &format!(
            "INSERT INTO replica_heartbeat VALUES ('{live}', now() - interval '4 s'), ('{dead}', now() - interval '50 s'),
               ('host-7', now() - interval '70 s'), ('old', now() - interval '61 min'), ('odd', 'infinity'), ('future', now() + interval '1 h');
             INSERT INTO instance_change_history (version) VALUES ('3.20.1'), ('3.21.5');
             INSERT INTO workspace VALUES ('gone', true), ('ws-1', false);
             INSERT INTO setting VALUES ('SYSTEM', 'ws-1', '{{\"license\": \"ey.j.wt\"}}'), ('OTHER', 'ws-1', '{{}}');
             INSERT INTO task_run VALUES ('RUNNING', '{live}', now()), ('RUNNING', '{live}', now()), ('RUNNING', 'host-7', now()),
               ('RUNNING', NULL, now()), ('DONE', '{live}', now()), ('PENDING', NULL, NULL), ('PENDING', NULL, NULL),
               ('PENDING', NULL, NULL), ('AVAILABLE', NULL, NULL)"
        ),
    );
    let facts = facts(access(url)).await;
    let version = Some(Version {
        major: 3,
        minor: 21,
        patch: 5,
    });
    assert_eq!(facts.schema, SchemaState::Bytebase { version });
    assert!(facts.has_heartbeat_rows);
    let heartbeats = facts.heartbeats.rows();
    let ages: Vec<u64> = heartbeats.iter().map(|h| h.age.as_secs()).collect();
    assert!(matches!(ages[..], [0, 4..=6, 50..=52, 70..=72]), "{ages:?}");
    assert_eq!(
        (heartbeats[1].replica_id, heartbeats[2].replica_id),
        (live, dead)
    );
    let Fact::Known(StoredLicense::Present {
        workspace_id,
        token,
    }) = &facts.license
    else {
        panic!("{:?}", facts.license)
    };
    assert_eq!(
        (workspace_id.as_str(), token.expose_secret()),
        ("ws-1", "ey.j.wt")
    );
    let running = facts.running_tasks.rows();
    assert_eq!(running.iter().map(|t| t.count).sum::<u64>(), 3);
    for (owner, count) in [(live, 2), (heartbeats[3].replica_id, 1)] {
        let mut rows = running.iter();
        assert!(rows.any(|t| t.replica_id == owner && t.count == count));
    }
    assert_eq!(
        (facts.pending_tasks, facts.available_tasks),
        (Fact::Known(3), Fact::Known(1))
    );
    assert_eq!(facts.not_understood, [""; 0]);
}

#[tokio::test]
async fn tasks_that_their_replica_has_not_begun_are_read_where_the_table_says_since_when() {
    let url = bytebase("unbegun");
    let owner = Uuid::new_v4();
    server().sql(
        "unbegun",
        &format!("INSERT INTO task_run VALUES ('RUNNING', '{owner}', NULL)"),
    );
    let unbegun = async || {
        let rows = facts(access(url.clone())).await.unbegun_tasks.into_iter();
        rows.map(|tasks| (tasks.replica_id, tasks.count))
            .collect::<Vec<_>>()
    };
    assert_eq!(unbegun().await, []);
    server().sql(
        "unbegun",
        &format!(
            "ALTER TABLE task_run ADD updated_at timestamptz NOT NULL DEFAULT now() - interval '11 minutes';
             INSERT INTO task_run VALUES ('RUNNING', '{owner}', NULL, now() - interval '9 minutes'), ('RUNNING', '{owner}', now(), DEFAULT),
               ('PENDING', NULL, NULL, DEFAULT), ('DONE', '{owner}', NULL, DEFAULT)"
        ),
    );
    assert_eq!(unbegun().await, [(owner, 1)]);
}

#[tokio::test]
async fn a_task_that_was_failed_as_abandoned_runs_as_long_as_its_owner_is_heard() {
    let url = bytebase("abandoned");
    let (heard, gone) = (Uuid::new_v4(), Uuid::new_v4());
    let abandoned = r#"{"detail": "Task run abandoned: owning replica stopped responding"}"#;
    server().sql(
        "abandoned",
        &format!(
            "INSERT INTO replica_heartbeat VALUES ('{heard}', now() - interval '20 s'), ('{gone}', now() - interval '61 s');
             INSERT INTO task_run VALUES ('RUNNING', '{heard}', now()), ('FAILED', '{heard}', now()), ('DONE', '{heard}', now())"
        ),
    );
    let running = async || {
        let facts = facts(access(url.clone())).await;
        assert_eq!(facts.not_understood, [""; 0]);
        let rows = facts.running_tasks.rows().iter();
        rows.map(|tasks| (tasks.replica_id, tasks.count))
            .collect::<Vec<_>>()
    };
    assert_eq!(running().await, [(heard, 1)], "no column says why");
    server().sql(
        "abandoned",
        "ALTER TABLE task_run ADD updated_at timestamptz NOT NULL DEFAULT now()",
    );
    server().sql(
        "abandoned",
        &format!(
            r#"ALTER TABLE task_run ADD result jsonb NOT NULL DEFAULT '{{}}';
               INSERT INTO task_run (status, replica_id, started_at, result) VALUES ('FAILED', '{heard}', now(), '{abandoned}'), ('DONE', '{heard}', now(), '{abandoned}'),
                 ('FAILED', '{gone}', now(), '{abandoned}'), ('FAILED', NULL, now(), '{abandoned}'), ('FAILED', 'host-1', now(), '{abandoned}'),
                 ('FAILED', '{heard}', now(), '{{"detail": "syntax error"}}'), ('FAILED', '{heard}', now(), '"Task run abandoned"')"#
        ),
    );
    assert_eq!(running().await, [(heard, 2)]);
    for (kind, count) in [("json", 2), ("text", 1), ("jsonb", 2)] {
        server().sql(
            "abandoned",
            &format!("ALTER TABLE task_run ALTER result DROP DEFAULT, ALTER result TYPE {kind} USING result::{kind}"),
        );
        assert_eq!(running().await, [(heard, count)], "{kind}");
    }
    // An end that could not be written once never will be.
    for (hours, count) in [(23, 2), (25, 1)] {
        server().sql(
            "abandoned",
            &format!("UPDATE task_run SET updated_at = now() - interval '{hours} hours'"),
        );
        assert_eq!(running().await, [(heard, count)], "{hours}");
    }
    let rename = |from: &str, to: &str| format!("ALTER TABLE task_run RENAME {from} TO {to}");
    server().sql("abandoned", "UPDATE task_run SET updated_at = now()");
    server().sql("abandoned", &rename("updated_at", "changed"));
    assert_eq!(running().await, [(heard, 1)], "no column says when");
    server().sql("abandoned", &rename("changed", "updated_at"));
    assert_eq!(running().await, [(heard, 2)]);
    // Its owner writes over it.
    server().sql(
        "abandoned",
        "UPDATE task_run SET status = 'DONE', result = '{}' WHERE status = 'FAILED'",
    );
    assert_eq!(running().await, [(heard, 1)]);
}

#[tokio::test]
async fn which_task_runs_a_replica_has_is_read_where_they_have_ids() {
    let url = bytebase("runs");
    let (one, other) = (Uuid::from_u128(1), Uuid::from_u128(2));
    server().sql(
        "runs",
        &format!(
            "INSERT INTO task_run SELECT 'RUNNING', '{one}', now() FROM generate_series(1, 12)"
        ),
    );
    let runs = async || {
        let rows = facts(access(url.clone())).await.task_runs.into_iter();
        rows.map(|runs| (runs.replica_id, runs.ids))
            .collect::<Vec<_>>()
    };
    assert_eq!(runs().await, []);
    server().sql(
        "runs",
        &format!(
            "ALTER TABLE task_run ADD id bigserial;
             INSERT INTO task_run VALUES ('RUNNING', '{other}', NULL), ('DONE', '{other}', now()), ('RUNNING', NULL, now())"
        ),
    );
    let expected = [(one, (1..=10).collect::<Vec<i64>>()), (other, vec![13])];
    assert_eq!(runs().await, expected);
    server().sql("runs", "ALTER TABLE task_run ALTER id TYPE text");
    assert_eq!(runs().await, []);
}

/// How many tasks run by the facts. `None` where that is not known.
fn running_count(latest: Latest) -> Option<u64> {
    match latest.view {
        DatabaseView::Probed(Ok(facts)) => {
            assert!(!facts.heartbeats.is_unknown() && facts.sessions.is_some());
            assert_eq!(facts.not_understood, [""; 0]);
            let running = facts.running_tasks.known()?;
            Some(running.iter().map(|tasks| tasks.count).sum())
        }
        other => panic!("{other:?}"),
    }
}

const FAIL: &str = r#"UPDATE task_run SET status = 'FAILED', updated_at = now(), result = '{"detail": "Task run abandoned: owning replica stopped responding"}'"#;

#[tokio::test]
async fn what_was_failed_as_abandoned_is_kept_and_asked_for_at_once_where_a_task_is_missing() {
    let url = bytebase("kept");
    let heard = Uuid::new_v4();
    server().sql(
        "kept",
        &format!(
            "ALTER TABLE task_run ADD updated_at timestamptz NOT NULL DEFAULT now(), ADD result jsonb NOT NULL DEFAULT '{{}}';
             INSERT INTO replica_heartbeat VALUES ('{heard}', now() + interval '1 hour');
             INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', '{heard}', now())"
        ),
    );
    let mut probe = Probe::start(access(url), Duration::from_millis(200));
    let at_once = Duration::from_secs(3);
    let first = probe.wake(Duration::from_secs(20)).await;
    assert_eq!(running_count(first.expect("no outcome")), Some(1));
    server().sql("kept", FAIL);
    assert!(
        probe.wake(at_once).await.is_none(),
        "it runs as it did before"
    );
    assert_eq!(running_count(probe.probes.latest(&"it")), Some(1));
    // What came of it since is read only later.
    server().sql("kept", "UPDATE task_run SET status = 'DONE', result = '{}'");
    let kept = Duration::from_secs(30);
    let done = probe.wake(kept).await.expect("it is kept for ever");
    assert_eq!(running_count(done), Some(0));
}

/// The rest of the reading stands, and the session goes on.
#[tokio::test]
async fn where_it_cannot_be_read_in_time_what_was_failed_as_abandoned_it_is_not_known_what_runs() {
    let url = bytebase("slow");
    let heard = Uuid::new_v4();
    server().sql(
        "slow",
        &format!(
            "SET ROLE slow;
             ALTER TABLE task_run ADD updated_at timestamptz NOT NULL DEFAULT now(), ADD result jsonb NOT NULL DEFAULT '{{}}';
             INSERT INTO replica_heartbeat VALUES ('{heard}', now() + interval '1 hour');
             INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', '{heard}', now());
             {FAIL};
             INSERT INTO task_run (status, replica_id, started_at) VALUES ('RUNNING', '{heard}', now());
             ALTER TABLE task_run RENAME TO runs;
             CREATE TABLE pause (seconds float8);
             INSERT INTO pause VALUES (60);
             CREATE FUNCTION slow(was jsonb) RETURNS jsonb LANGUAGE plpgsql STABLE AS 'BEGIN PERFORM pg_sleep(seconds) FROM pause; RETURN was; END';
             CREATE VIEW task_run AS SELECT status, replica_id, started_at, updated_at, slow(result) AS result FROM runs"
        ),
    );
    let session = || {
        let sql = "SELECT min(pid) || ' ' || count(*) FROM pg_stat_activity WHERE usename = 'slow'";
        server().sql("postgres", sql).trim().to_owned()
    };
    let mut probe = Probe::start(access(url), Duration::from_millis(200));
    let first = probe.wake(Duration::from_secs(20)).await;
    assert_eq!(running_count(first.expect("no outcome")), None);
    let before = session();
    server().sql("slow", "UPDATE pause SET seconds = 0");
    let answered = probe.wake(Duration::from_secs(10)).await;
    assert_eq!(
        running_count(answered.expect("it is not asked again")),
        Some(2)
    );
    assert_eq!(session(), before);
    // After five tries the last answer counts.
    server().sql("slow", "UPDATE pause SET seconds = 60");
    for (within, expected) in [(30, None), (60, Some(2))] {
        let next = probe.wake(Duration::from_secs(within)).await;
        assert_eq!(
            running_count(next.expect("it is not asked again")),
            expected
        );
    }
    assert_eq!(session(), before);
}

#[tokio::test]
async fn tasks_are_unknown_where_the_table_allows_a_state_that_is() {
    let url = bytebase("states");
    let owner = Uuid::new_v4();
    let known = "'PENDING', 'AVAILABLE', 'RUNNING', 'DONE', 'FAILED', 'CANCELED'";
    server().sql(
        "states",
        &format!(
            "ALTER TABLE task_run ADD updated_at timestamptz NOT NULL DEFAULT now() - interval '11 minutes';
             INSERT INTO task_run VALUES ('RUNNING', '{owner}', NULL)"
        ),
    );
    for (change, is_understood) in [
        (format!("ADD CHECK (status IN ({known}))"), true),
        (
            format!("DROP CONSTRAINT task_run_status_check, ADD CHECK (status IN ({known}, 'PAUSED'))"),
            false,
        ),
        ("DROP CONSTRAINT task_run_status_check".to_owned(), true),
        // Of another column, and of two.
        (
            "ADD CHECK (replica_id <> 'PAUSED'), ADD CHECK (status <> 'PAUSED' OR replica_id = 'a')"
                .to_owned(),
            true,
        ),
        ("ALTER status TYPE state USING status::state".to_owned(), false),
    ] {
        server().sql(
            "states",
            &format!(
                "DROP TYPE IF EXISTS state; CREATE TYPE state AS ENUM ({known}, 'PAUSED');
                 ALTER TABLE task_run DROP CONSTRAINT IF EXISTS task_run_check; ALTER TABLE task_run {change}"
            ),
        );
        let facts = facts(access(url.clone())).await;
        let not_understood: &[&str] = if is_understood { &[] } else { &["task_run"] };
        assert_eq!(facts.not_understood, not_understood, "{change}");
        assert_eq!(facts.running_tasks.is_unknown(), !is_understood, "{change}");
        assert_eq!(facts.pending_tasks.is_unknown(), !is_understood, "{change}");
        assert_eq!(facts.unbegun_tasks.len(), usize::from(is_understood), "{change}");
        assert!(!facts.heartbeats.is_unknown(), "{change}");
    }
}

#[tokio::test]
async fn tables_that_come_and_go_under_a_probe_are_followed() {
    server().database("growing", PASSWORD);
    let mut probe = Probe::start(
        access(url(server().port, "growing")),
        Duration::from_millis(200),
    );
    let mut next = async || match probe.wake(Duration::from_secs(5)).await.unwrap().view {
        DatabaseView::Probed(Ok(facts)) => facts,
        other => panic!("{other:?}"),
    };
    assert_eq!(next().await.schema, SchemaState::Empty);
    server().sql(
        "growing",
        &format!(
            "BEGIN; SET ROLE growing; {BYTEBASE_TABLES} INSERT INTO workspace VALUES ('w'); COMMIT"
        ),
    );
    let grown = next().await;
    assert_eq!(grown.schema, SchemaState::Bytebase { version: None });
    assert!(matches!(
        grown.license,
        Fact::Known(StoredLicense::NoWorkspace)
    ));
    server().sql("growing", "INSERT INTO principal DEFAULT VALUES");
    assert!(matches!(
        next().await.license,
        Fact::Known(StoredLicense::Absent { .. })
    ));
    server().sql(
        "growing",
        "INSERT INTO instance_change_history (version) VALUES ('3.21.5')",
    );
    assert_eq!(next().await.not_understood, [""; 0]);
    // A Bytebase of this version has these: what they held is unknown now, and not none.
    server().sql("growing", "ALTER TABLE workspace RENAME TO tenant");
    let renamed = next().await;
    assert!(renamed.license.is_unknown() && !renamed.heartbeats.is_unknown());
    server().sql("growing", "ALTER TABLE replica_heartbeat RENAME COLUMN last_heartbeat TO seen; INSERT INTO task_run VALUES ('PENDING')");
    let renamed = next().await;
    assert!(renamed.heartbeats.is_unknown());
    assert_eq!(renamed.pending_tasks, Fact::Known(1));
    server().sql(
        "growing",
        "ALTER TABLE task_run ADD run_at timestamptz; UPDATE task_run SET run_at = now() + interval '1 day'",
    );
    assert_eq!(next().await.pending_tasks, Fact::Known(0), "not due");
    server().sql(
        "growing",
        "INSERT INTO task_run (status, run_at) VALUES ('PENDING', NULL), ('PENDING', now() - interval '1 s')",
    );
    assert_eq!(next().await.pending_tasks, Fact::Known(2));
    assert_eq!(renamed.not_understood, ["replica_heartbeat", "workspace"]);
}

#[tokio::test]
async fn a_reader_to_whom_users_are_not_shown_knows_of_no_lack_of_them() {
    let url = bytebase("unshown");
    let monitor = monitor(&url, "unshown_monitor", server().port);
    server().sql(
        "unshown",
        "INSERT INTO workspace VALUES ('w'); REVOKE pg_read_all_data FROM unshown_monitor;
         GRANT SELECT ON replica_heartbeat, instance_change_history, workspace, setting, task_run TO unshown_monitor",
    );
    let signed_up = async |access: Access| match facts(access).await.license {
        Fact::Known(StoredLicense::NoWorkspace) => false,
        Fact::Known(StoredLicense::Absent { .. }) => true,
        other => panic!("{other:?}"),
    };
    assert!(!signed_up(access(url)).await);
    assert!(signed_up(monitor.clone()).await);
    server().sql(
        "unshown",
        "GRANT SELECT (id) ON principal TO unshown_monitor",
    );
    assert!(!signed_up(monitor).await);
}

#[tokio::test]
async fn an_older_bytebase_without_some_tables_is_still_bytebases() {
    server().database("older", PASSWORD);
    server().sql(
        "older",
        "SET ROLE older; CREATE TABLE principal (); CREATE TABLE instance_change_history (id bigserial, version text);
         CREATE TABLE setting (name text, value text)",
    );
    let facts = facts(access(url(server().port, "older"))).await;
    assert_eq!(facts.schema, SchemaState::Bytebase { version: None });
}

#[tokio::test]
async fn sessions_beside_a_bytebase_from_before_heartbeats_are_seen_whoever_reads() {
    server().database("unheard", PASSWORD);
    server().sql(
        "unheard",
        "SET ROLE unheard; CREATE TABLE principal (); CREATE TABLE instance_change_history (id bigserial, version text);
         INSERT INTO instance_change_history (version) VALUES ('3.13.32')",
    );
    let url = url(server().port, "unheard");
    let sees_all = monitor(&url, "unheard_monitor", server().port);
    let sees_little = monitor(&url, "unheard_reader", server().port);
    server().sql("postgres", "REVOKE pg_monitor FROM unheard_reader");
    let others = async |access: &Access| {
        let facts = facts(access.clone()).await;
        let others = facts.sessions.unwrap().others;
        others.into_iter().collect::<Vec<_>>()
    };
    let readers = [access(url.clone()), sees_all, sees_little];
    let operator = session(&url, "bytebase-operator").await;
    let hook = session(&url, "drain/demo-0").await;
    for reader in &readers {
        assert_eq!(others(reader).await, [""; 0], "{:?}", reader.login);
    }
    let bytebase = [session(&url, "").await, session(&url, "").await];
    let person = session(&url, "psql").await;
    for reader in &readers {
        assert_eq!(others(reader).await, ["unheard", "unheard (psql)"]);
    }
    // A Bytebase that has the table sends heartbeats.
    server().sql(
        "unheard",
        "SET ROLE unheard; CREATE TABLE replica_heartbeat (replica_id text PRIMARY KEY, last_heartbeat timestamptz NOT NULL)",
    );
    assert_eq!(others(&readers[0]).await, [""; 0]);
    drop((operator, hook, bytebase, person));
}

#[tokio::test]
async fn another_applications_tables_are_foreign() {
    server().database("foreign1", PASSWORD);
    server().sql(
        "foreign1",
        "SET ROLE foreign1; CREATE TABLE users (); CREATE SCHEMA hidden; CREATE TABLE hidden.a ()",
    );
    let seen = facts(access(url(server().port, "foreign1"))).await;
    assert_eq!(
        seen.schema,
        SchemaState::Foreign {
            example: "public.users".to_owned()
        }
    );

    server().database("foreign2", PASSWORD);
    server().sql(
        "foreign2",
        "SET ROLE foreign2; CREATE TABLE principal (); CREATE TABLE aaa ()",
    );
    let seen = facts(access(url(server().port, "foreign2"))).await;
    assert_eq!(
        seen.schema,
        SchemaState::Foreign {
            example: "public.principal".to_owned()
        }
    );

    server().database("foreign3", PASSWORD);
    server().sql(
        "foreign3",
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.users ()",
    );
    let mut with_path = url(server().port, "foreign3");
    assert_eq!(
        facts(access(with_path.clone())).await.schema,
        SchemaState::Empty
    );
    with_path
        .runtime_params
        .insert("search_path".to_owned(), "elsewhere, public".to_owned());
    let seen = facts(access(with_path.clone())).await;
    assert_eq!(
        seen.schema,
        SchemaState::Empty,
        "a schema without USAGE is not in the path"
    );
    server().sql("foreign3", "GRANT USAGE ON SCHEMA elsewhere TO foreign3");
    let seen = facts(access(with_path)).await;
    assert_eq!(
        seen.schema,
        SchemaState::Foreign {
            example: "elsewhere.users".to_owned()
        }
    );
    assert!(
        !seen.can_create,
        "unqualified names go to the first schema of the path"
    );
}

/// As Bytebase sees it, to which any table counts that the server lets it know of.
#[tokio::test]
async fn a_principal_off_the_path_is_found_where_the_role_has_any_right_to_it() {
    server().database("off_path", PASSWORD);
    let url = url(server().port, "off_path");
    let monitor = monitor(&url, "off_path_monitor", server().port);
    server().sql(
        "off_path",
        "CREATE SCHEMA app; CREATE TABLE app.principal (id int, name text)",
    );
    let check = async |found: bool| {
        let expected = if found {
            SchemaState::OffPath {
                schema: "app".to_owned(),
            }
        } else {
            SchemaState::Empty
        };
        for access in [access(url.clone()), monitor.clone()] {
            assert_eq!(facts(access).await.schema, expected);
        }
        let shown = "SELECT count(*) FROM information_schema.tables WHERE table_name = 'principal'";
        let mut bytebase = session(&url, "bytebase").await;
        let shown: i64 = sqlx::query_scalar(shown)
            .fetch_one(&mut bytebase)
            .await
            .unwrap();
        assert_eq!(shown > 0, found, "as Bytebase asks");
    };
    check(false).await;
    for (grant, revoke) in [
        (
            "GRANT UPDATE (name) ON app.principal TO off_path",
            "REVOKE UPDATE (name) ON app.principal FROM off_path",
        ),
        (
            "GRANT TRIGGER ON app.principal TO PUBLIC",
            "REVOKE TRIGGER ON app.principal FROM PUBLIC",
        ),
        (
            "ALTER TABLE app.principal OWNER TO off_path",
            "ALTER TABLE app.principal OWNER TO postgres",
        ),
    ] {
        server().sql("off_path", grant);
        check(true).await;
        server().sql("off_path", revoke);
        check(false).await;
    }
    // On the path it shows as what it is.
    server().sql(
        "off_path",
        "GRANT USAGE ON SCHEMA app TO off_path; ALTER TABLE app.principal OWNER TO off_path",
    );
    let mut on_path = url.clone();
    on_path
        .runtime_params
        .insert("search_path".to_owned(), "public, app".to_owned());
    let seen = facts(access(on_path)).await;
    assert!(
        matches!(seen.schema, SchemaState::Foreign { .. }),
        "{seen:?}"
    );
}

#[tokio::test]
async fn the_encoding_is_reported() {
    server().sql(
        "postgres",
        &format!("CREATE ROLE ascii LOGIN PASSWORD '{PASSWORD}'"),
    );
    server().sql(
        "postgres",
        "CREATE DATABASE ascii OWNER ascii ENCODING 'SQL_ASCII' TEMPLATE template0",
    );
    server().sql("ascii", &format!("SET ROLE ascii; {BYTEBASE_TABLES}"));
    let facts = facts(access(url(server().port, "ascii"))).await;
    assert_eq!(facts.encoding, "SQL_ASCII");
}

#[tokio::test]
async fn a_role_that_may_not_create_tables_is_reported() {
    server().sql(
        "postgres",
        &format!("CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'"),
    );
    server().sql("postgres", "CREATE DATABASE guest");
    // As PostgreSQL has it from 15 on.
    server().sql("guest", "REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    let seen = facts(access(url(server().port, "guest"))).await;
    assert!(!seen.can_create, "only the owner creates in public");
    server().sql("guest", "REVOKE ALL ON SCHEMA public FROM PUBLIC");
    let seen = facts(access(url(server().port, "guest"))).await;
    assert!(!seen.can_create, "no usable schema at all");
}

#[tokio::test]
async fn limits_of_role_and_database_are_read() {
    let url = bytebase("limited");
    let monitor = monitor(&url, "limit_monitor", server().port);
    let limits = |facts: &DatabaseFacts| (facts.role_connections, facts.database_connections);
    assert_eq!(limits(&facts(access(url.clone())).await), (None, None));
    server().sql(
        "limited",
        "ALTER ROLE limited CONNECTION LIMIT 20; ALTER DATABASE limited CONNECTION LIMIT 30",
    );
    assert_eq!(
        limits(&facts(access(url.clone())).await),
        (Some(20), Some(30))
    );
    assert_eq!(limits(&facts(monitor).await), (Some(20), Some(30)));
    server().sql("limited", "ALTER ROLE limited CONNECTION LIMIT 0");
    let (class, reason, message) = failure(access(url)).await;
    assert_eq!(
        (class, reason),
        (FailureClass::Unknown, FailureReason::TooManyConnections)
    );
    assert!(message.contains("ALTER ROLE"), "{message}");
}

#[tokio::test]
async fn rights_that_the_next_migration_needs_are_read() {
    let url = bytebase("shrunk");
    let seen = facts(access(url.clone())).await;
    assert!(seen.can_create && seen.not_owned.is_none() && seen.missing_schema.is_none());
    server().sql("shrunk", "CREATE ROLE shrunk_owner; ALTER TABLE setting OWNER TO shrunk_owner; GRANT ALL ON setting TO shrunk");
    let seen = facts(access(url.clone())).await;
    assert_eq!(seen.not_owned.as_deref(), Some("setting"));
    let watcher = monitor(&url, "rights_monitor", server().port);
    let seen = facts(watcher.clone()).await;
    assert_eq!(seen.not_owned.as_deref(), Some("setting"));
    server().sql("shrunk", "GRANT shrunk_owner TO shrunk");
    assert_eq!(facts(access(url.clone())).await.not_owned, None);
    // One that nothing else is read of counts too, and one that is not Bytebase's does not.
    server().sql("shrunk", "CREATE TABLE copy_of_principal ()");
    for table in [
        "audit_log",
        "email_verification_code",
        "review_run",
        "server_config",
        "subscription",
        "vcs_provider_user",
    ] {
        server().sql("shrunk", &format!("CREATE TABLE {table} ()"));
        let seen = facts(access(url.clone())).await;
        assert_eq!(seen.not_owned.as_deref(), Some(table));
        server().sql("shrunk", &format!("ALTER TABLE {table} OWNER TO shrunk"));
        assert_eq!(facts(access(url.clone())).await.not_owned, None);
    }
    assert_eq!(facts(watcher).await.not_owned, None);
    server().sql(
        "shrunk",
        "ALTER DATABASE shrunk OWNER TO postgres; REVOKE ALL ON SCHEMA public FROM shrunk; GRANT USAGE ON SCHEMA public TO shrunk",
    );
    assert!(!facts(access(url.clone())).await.can_create);

    let mut nowhere = url;
    nowhere
        .runtime_params
        .insert("search_path".to_owned(), "\"$user\", \"Bb\", cc".to_owned());
    let seen = facts(access(nowhere.clone())).await;
    assert_eq!(seen.missing_schema.as_deref(), Some("Bb"));
    assert!(!seen.can_create);
    // One that exists and may not be used is another matter.
    server().sql("shrunk", "CREATE SCHEMA cc");
    let seen = facts(access(nowhere)).await;
    assert_eq!((seen.missing_schema, seen.can_create), (None, false));
}

/// A role that may do nothing by itself, and works by another one.
#[tokio::test]
async fn the_rights_of_a_role_that_works_by_another_one_are_those_of_the_other() {
    server().database("set_role", PASSWORD);
    let url = url(server().port, "set_role");
    server().sql(
        "set_role",
        &format!(
            "CREATE ROLE set_role_owner; ALTER ROLE set_role NOINHERIT; GRANT set_role_owner TO set_role;
             ALTER DATABASE set_role OWNER TO postgres; CREATE SCHEMA set_role_owner AUTHORIZATION set_role_owner;
             SET ROLE set_role_owner; SET search_path = set_role_owner; {BYTEBASE_TABLES}"
        ),
    );
    let monitor = |url: &PgUrl| monitor(url, "set_role_monitor", server().port);
    let check = async |access: Access, works: bool| {
        let seen = facts(access).await;
        assert_eq!((seen.can_create, seen.not_owned), (works, None));
        let expected = if works {
            SchemaState::Bytebase { version: None }
        } else {
            SchemaState::Empty
        };
        assert_eq!(seen.schema, expected);
    };
    let mut by_url = url.clone();
    by_url
        .runtime_params
        .insert("role".to_owned(), "set_role_owner".to_owned());
    let mut by_options = url.clone();
    by_options
        .runtime_params
        .insert("options".to_owned(), "-c role=set_role_owner".to_owned());
    for replicas in [by_url, by_options] {
        check(access(replicas.clone()), true).await;
        check(monitor(&replicas), true).await;
    }
    check(monitor(&url), false).await;
    server().sql(
        "set_role",
        "ALTER ROLE set_role IN DATABASE set_role SET role = set_role_owner",
    );
    check(access(url.clone()), true).await;
    check(monitor(&url), true).await;
    let mut by_itself = url.clone();
    by_itself
        .runtime_params
        .insert("role".to_owned(), "none".to_owned());
    check(monitor(&by_itself), false).await;
    // A table that the other one does not own is found all the same.
    server().sql(
        "set_role",
        "ALTER TABLE set_role_owner.setting OWNER TO postgres; GRANT ALL ON set_role_owner.setting TO set_role_owner",
    );
    for access in [access(url.clone()), monitor(&url)] {
        assert_eq!(facts(access).await.not_owned.as_deref(), Some("setting"));
    }
}

#[tokio::test]
async fn a_right_that_only_the_operator_needs_says_nothing_of_bytebase() {
    let url = bytebase("revoked");
    server().sql(
        "revoked",
        "REVOKE EXECUTE ON FUNCTION pg_postmaster_start_time() FROM PUBLIC",
    );
    let (class, reason, message) = failure(access(url)).await;
    assert_eq!(
        (class, reason),
        (FailureClass::Unknown, FailureReason::PermissionDenied)
    );
    assert!(message.contains("pg_postmaster_start_time"), "{message}");
    assert!(message.contains("database.monitorSecretRef"), "{message}");
}

#[tokio::test]
async fn a_login_from_which_row_security_may_keep_rows_knows_nothing_of_them() {
    let replicas = bytebase("guarded");
    server().sql(
        "guarded",
        "INSERT INTO replica_heartbeat VALUES ('one', now()); INSERT INTO task_run VALUES ('RUNNING', 'one', now())",
    );
    let monitor = || monitor(&replicas, "guarded_monitor", server().port);
    let running = async |access: Access| facts(access).await.running_tasks.rows().len();
    let refused = async |access: Access, table: &str| {
        let (class, reason, message) = failure(access).await;
        assert_eq!(
            (class, reason),
            (FailureClass::Unknown, FailureReason::PermissionDenied),
            "{message}"
        );
        for words in ["row security", "BYPASSRLS", table] {
            assert!(message.contains(words), "{message}");
        }
    };
    assert_eq!(running(monitor()).await, 1);
    for table in ["task_run", "replica_heartbeat", "workspace"] {
        let alter = |what: &str| {
            let sql = format!("ALTER TABLE {table} {what} ROW LEVEL SECURITY");
            server().sql("guarded", &sql);
        };
        alter("ENABLE");
        refused(monitor(), table).await;
        // It does not reach the owner, unless it is forced upon that one.
        assert_eq!(running(access(replicas.clone())).await, 1);
        alter("FORCE");
        refused(access(replicas.clone()), table).await;
        alter("NO FORCE");
        alter("DISABLE");
    }
    // Which rows a policy shows, the server does not say.
    server().sql(
        "guarded",
        "ALTER TABLE task_run ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON task_run USING (replica_id = 'two')",
    );
    refused(monitor(), "task_run").await;
    server().sql("postgres", "ALTER ROLE guarded_monitor BYPASSRLS");
    assert_eq!(running(monitor()).await, 1);
}

#[tokio::test]
async fn the_migration_lock_of_this_database_is_seen() {
    let url = bytebase("locked");
    server().database("neighbour", PASSWORD);
    server().sql("postgres", "CREATE EXTENSION IF NOT EXISTS dblink");
    let holder = |database: &str| {
        server()
            .client(database)
            .args([
                "-c",
                "SELECT pg_advisory_lock(1002)",
                "-c",
                "SELECT pg_sleep(20)",
            ])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut other = holder("neighbour");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(
        !migrating(&facts(access(url.clone())).await),
        "the lock of another database is another lock"
    );
    let mut own = holder("locked");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let seen = facts(access(url)).await;
    for process in [&mut other, &mut own] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    assert!(migrating(&seen));
}

#[tokio::test]
async fn the_holder_of_the_queue_is_named_and_a_promotion_is_no_hold() {
    let url = bytebase("queue");
    let held_by = async || {
        let sessions = facts(access(url.clone())).await.sessions.unwrap();
        sessions.queue_held_by.into_iter().collect::<Vec<_>>()
    };
    let mut replica = session(&url, "demo-0").await;
    let lock = sqlx::raw_sql("SELECT pg_advisory_lock(1001)");
    lock.execute(&mut replica).await.unwrap();
    assert_eq!(held_by().await, [""; 0], "as a replica does that promotes");
    tokio::time::sleep(Duration::from_millis(5500)).await;
    assert_eq!(held_by().await, ["demo-0"]);
    drop(replica);
    let mut hook = session(&url, "drain/demo-1").await;
    let hold = sqlx::raw_sql("BEGIN; SELECT pg_advisory_xact_lock_shared(1001)");
    hold.execute(&mut hook).await.unwrap();
    assert_eq!(held_by().await, ["drain/demo-1"]);
    sqlx::raw_sql("ROLLBACK").execute(&mut hook).await.unwrap();
    assert_eq!(held_by().await, [""; 0]);
}

/// As the hook itself sees it: whether the lock of this session's number is held.
async fn is_asked(hook: &mut sqlx::PgConnection) -> bool {
    let held = concat!(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::int8::oid \
         AND objid = (SELECT ",
        session_key!(),
        "::oid FROM pg_stat_activity WHERE pid = pg_backend_pid()) AND objsubid = 2 AND granted)"
    );
    let held = sqlx::query_scalar(held).bind(i64::from(hook::LET_GO));
    held.fetch_one(hook).await.unwrap()
}

#[tokio::test]
async fn the_hooks_of_some_pods_are_asked_to_let_their_replicas_end_for_as_long_as_that_is_wanted()
{
    let url = bytebase("asks");
    let mut one = session(&url, &hook::sessions_of("demo-1")).await;
    let mut other = session(&url, &hook::sessions_of("demo-10")).await;
    let probe = Probe::start(access(url.clone()), Duration::from_millis(200));
    let mut wait = async |pods: &[&str], expected: [bool; 2]| {
        let pods = pods.iter().map(ToString::to_string).collect();
        probe.probes.let_go(&"it", &pods);
        let start = Instant::now();
        loop {
            let asked = [is_asked(&mut one).await, is_asked(&mut other).await];
            if asked == expected {
                return;
            }
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{asked:?}, not {expected:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    wait(&[], [false, false]).await;
    wait(&["demo-1"], [true, false]).await;
    wait(&["demo-1", "demo-10"], [true, true]).await;
    // A pod without a hook that asks the database is not said to have been asked.
    wait(&["demo-1", "demo-2"], [true, false]).await;
    let came_of_it = || {
        let asked = probe.probes.asked(&"it").unwrap();
        [asked.reached, asked.missed].map(|pods| pods.into_iter().collect::<Vec<_>>())
    };
    let start = Instant::now();
    while came_of_it() != [["demo-1"], ["demo-2"]] {
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "{:?}",
            came_of_it()
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    wait(&["demo-1", "demo-10"], [true, true]).await;
    // Each reading asks again, and one is enough to take it back.
    tokio::time::sleep(Duration::from_secs(1)).await;
    wait(&["demo-10"], [false, true]).await;
    wait(&[], [false, false]).await;
    wait(&["demo-1"], [true, false]).await;
    // A hook that has logged in again is another session.
    let mut again = session(&url, &hook::sessions_of("demo-1")).await;
    let start = Instant::now();
    while !is_asked(&mut again).await {
        assert!(start.elapsed() < Duration::from_secs(10), "not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Nothing is asked by a process that is gone.
    drop(probe);
    let start = Instant::now();
    while is_asked(&mut again).await {
        assert!(start.elapsed() < Duration::from_secs(10), "still asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The server shows when a session began to the role that logged in to it, and not to the one it
/// works by.
#[tokio::test]
async fn a_hook_is_asked_by_a_login_that_works_by_another_role() {
    let mut url = bytebase("asks_by_role");
    let mut hook = session(&url, &hook::sessions_of("demo-1")).await;
    server().sql(
        "asks_by_role",
        "CREATE ROLE asks_by_role_owner; GRANT asks_by_role_owner TO asks_by_role; REASSIGN OWNED BY asks_by_role TO asks_by_role_owner",
    );
    url.runtime_params
        .insert("role".to_owned(), "asks_by_role_owner".to_owned());
    let probe = Probe::start(access(url), Duration::from_millis(200));
    probe.probes.let_go(&"it", &["demo-1".to_owned()].into());
    let start = Instant::now();
    while !is_asked(&mut hook).await {
        assert!(start.elapsed() < Duration::from_secs(10), "not asked");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

// === Sessions and rights ===

async fn listener(url: &PgUrl, application: &str) -> sqlx::PgConnection {
    let mut connection = session(url, application).await;
    sqlx::raw_sql("listen \"bytebase_signal\"")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

async fn session(url: &PgUrl, application: &str) -> sqlx::PgConnection {
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(url.hosts[0].port)
        .username(&url.user)
        .password(PASSWORD)
        .database(&url.database)
        .application_name(application);
    options.connect().await.unwrap()
}

#[tokio::test]
async fn sessions_are_read_when_asked_for_and_then_at_once() {
    let url = bytebase("asked");
    let _replica = listener(&url, "bb-0").await;
    let mut probe = Probe::start(access(url), DEFAULT_INTERVAL);
    let seen = |latest: Latest| match latest.view {
        DatabaseView::Probed(Ok(facts)) => facts.sessions,
        other => panic!("{other:?}"),
    };
    let at_once = DEFAULT_INTERVAL / 2;
    let first = seen(probe.wake(at_once).await.expect("no outcome"));
    assert_eq!(first.unwrap().listeners.unwrap().len(), 1);

    let read_options = |sessions| usual(sessions, 0);
    probe.probes.pace(&"it", read_options(false));
    probe.probes.poke(&"it");
    assert!(
        probe.wake(at_once).await.is_none(),
        "what is not read is no news"
    );
    assert_eq!(seen(probe.probes.latest(&"it")), None);

    probe.probes.pace(&"it", read_options(true));
    let again = seen(probe.wake(at_once).await.expect("no outcome"));
    assert_eq!(again.unwrap().listeners.unwrap().len(), 1);
}

#[tokio::test]
async fn catalogs_are_read_where_something_is_under_way_or_has_changed_and_seldom_otherwise() {
    let url = bytebase("catalogs");
    let mut probe = Probe::start(access(url), DEFAULT_INTERVAL);
    let at_once = DEFAULT_INTERVAL / 2;
    assert!(probe.wake(at_once).await.is_some());
    let read_options = |sessions| usual(sessions, 0);
    let limit = |limit: u32| {
        let sql = format!("ALTER DATABASE catalogs CONNECTION LIMIT {limit}");
        server().sql("postgres", &sql);
    };
    let seen = |latest: Latest| match latest.view {
        DatabaseView::Probed(Ok(facts)) => facts,
        other => panic!("{other:?}"),
    };
    probe.probes.pace(&"it", read_options(false));
    limit(77);
    probe.probes.poke(&"it");
    assert!(probe.wake(at_once / 2).await.is_none());
    let quiet = seen(probe.probes.latest(&"it"));
    assert_eq!((quiet.sessions, quiet.database_connections), (None, None));

    // A step rests on what holds now.
    probe.probes.pace(&"it", read_options(true));
    let stepping = seen(probe.wake(at_once).await.expect("no reading"));
    assert_eq!(stepping.database_connections, Some(77));

    // Of a migration the quiet readings show the version.
    probe.probes.pace(&"it", read_options(false));
    limit(78);
    let sql = "INSERT INTO instance_change_history (version) VALUES ('3.99.0')";
    server().sql("catalogs", sql);
    probe.probes.poke(&"it");
    let migrated = seen(probe.wake(at_once).await.expect("no reading"));
    let version = SchemaState::Bytebase {
        version: Some("3.99.0".parse().unwrap()),
    };
    assert_eq!(migrated.schema, version);
    assert_eq!(migrated.database_connections, Some(78));

    // And what is not there any more cannot be read.
    server().sql(
        "catalogs",
        "ALTER TABLE task_run RENAME COLUMN replica_id TO owner",
    );
    probe.probes.poke(&"it");
    let renamed = seen(probe.wake(at_once).await.expect("no reading"));
    assert_eq!(renamed.running_tasks, Fact::Unknown);
}

#[tokio::test]
async fn one_more_replica_whose_heartbeat_is_awaited_is_a_reason_to_read_at_once() {
    let url = bytebase("awaited");
    let mut probe = Probe::start(access(url), DEFAULT_INTERVAL);
    let at_once = DEFAULT_INTERVAL / 2;
    assert!(probe.wake(at_once).await.is_some());
    let heartbeat = || {
        let sql = "INSERT INTO replica_heartbeat VALUES (gen_random_uuid(), clock_timestamp())";
        server().sql("awaited", sql);
    };
    let read_options = |awaited| usual(true, awaited);
    heartbeat();
    probe.probes.pace(&"it", read_options(1));
    assert!(probe.wake(at_once).await.is_some());
    // The same one again, and one less, are none.
    heartbeat();
    probe.probes.pace(&"it", read_options(1));
    probe.probes.pace(&"it", read_options(0));
    assert!(probe.wake(at_once / 2).await.is_none());
}

#[tokio::test]
async fn the_database_of_a_stopped_cluster_is_left_alone_between_readings() {
    let url = bytebase("stopped");
    let mut probe = Probe::start(access(url.clone()), DEFAULT_INTERVAL);
    assert!(probe.wake(Duration::from_secs(10)).await.is_some());
    let sessions = || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'stopped'";
        server().sql("postgres", sql).trim().to_owned()
    };
    assert_eq!(sessions(), "1");
    let stopped = ReadOptions {
        every: Duration::from_mins(1),
        sessions: false,
        renewal: Renewal::Usual,
        keep_session: false,
        try_login: false,
        awaited: 0,
    };
    probe.probes.pace(&"it", stopped);
    let patience = Instant::now() + Duration::from_secs(5);
    while sessions() != "0" {
        assert!(Instant::now() < patience, "the session is kept");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let latest = probe.probes.latest(&"it");
    assert!(matches!(latest.view, DatabaseView::Probed(Ok(_))));
    // It is replaced by another.
    server().sql("postgres", "DROP DATABASE stopped");
    server().sql("postgres", "CREATE DATABASE stopped OWNER stopped");

    // What was read before says nothing of it.
    probe.probes.resume(&"it");
    let latest = probe.probes.latest(&"it");
    assert!(matches!(latest.view, DatabaseView::NotProbed));
    assert!(probe.probes.awaits_first(&"it"));
    let latest = probe.wake(Duration::from_secs(5)).await.unwrap();
    let DatabaseView::Probed(Ok(facts)) = latest.view else {
        panic!("{:?}", latest.view)
    };
    assert_eq!(facts.schema, SchemaState::Empty);
    assert_eq!(sessions(), "1");
    // One that runs is read on as it was.
    probe.probes.resume(&"it");
    assert!(!probe.probes.awaits_first(&"it"));
    assert!(probe.wake(Duration::from_secs(2)).await.is_none());
}

#[tokio::test]
async fn what_is_asked_for_before_a_reading_begins_is_answered_by_that_one() {
    // No other session than the probe's is ever in this database.
    for statement in [
        format!("CREATE ROLE once LOGIN PASSWORD '{PASSWORD}'"),
        "CREATE DATABASE once OWNER once".to_owned(),
    ] {
        server().sql("postgres", &statement);
    }
    let (wake, mut woken) = unbounded_channel();
    let (read, mut readings) = unbounded_channel();
    let probes = Probes::new(
        wake,
        ToString::to_string,
        Arc::new(move |_, _| {
            let _ = read.send(());
        }),
    );
    probes.ensure(&"it", access(url(server().port, "once")));
    // As the reconcile does that finds a new cluster stopped: its task has not run yet.
    let stopped = ReadOptions {
        every: Duration::from_mins(1),
        sessions: false,
        renewal: Renewal::Usual,
        keep_session: false,
        try_login: false,
        awaited: 0,
    };
    probes.pace(&"it", stopped);
    let first = timeout(Duration::from_secs(10), woken.recv()).await;
    assert_eq!(first, Ok(Some("it")));
    // Several times the least pause between two readings.
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(readings.len(), 1, "readings");
    let logins = || {
        let sql = "SELECT sessions FROM pg_stat_database WHERE datname = 'once'";
        server().sql("postgres", sql).trim().to_owned()
    };
    assert_eq!(logins(), "1");
    // What is asked for later is read for.
    probes.poke(&"it");
    for _ in 0..2 {
        let reading = timeout(Duration::from_secs(5), readings.recv()).await;
        assert_eq!(reading, Ok(Some(())));
    }
}

#[tokio::test]
async fn listening_sessions_are_seen_by_their_own_role_and_by_a_monitor_that_may() {
    let url = bytebase("listen");
    let _replica = listener(&url, "bb-0").await;
    let seen = listeners(&facts(access(url.clone())).await).unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!(
        (
            seen[0].application_name.as_str(),
            seen[0].client_address.as_deref()
        ),
        ("bb-0", Some("127.0.0.1"))
    );

    server().sql(
        "listen",
        &format!("CREATE ROLE watcher LOGIN PASSWORD '{PASSWORD}'"),
    );
    let mut monitor = access(url.clone());
    monitor.url.user = "watcher".to_owned();
    monitor.login = WhoseLogin::Monitor(Watched::of(&url, &monitor.url));
    let refused = outcome(monitor.clone()).await.unwrap_err();
    assert_eq!(
        (refused.class, refused.reason),
        (FailureClass::Unknown, FailureReason::PermissionDenied)
    );
    assert!(
        refused
            .message
            .contains("GRANT SELECT ON replica_heartbeat"),
        "{}",
        refused.message
    );

    server().sql(
        "listen",
        "GRANT SELECT ON replica_heartbeat, instance_change_history, workspace, setting TO watcher",
    );
    server().sql(
        "listen",
        "GRANT SELECT (status, replica_id) ON task_run TO watcher",
    );
    let blind = facts(monitor.clone()).await;
    assert_eq!(listeners(&blind), None);
    assert!(
        blind.can_create,
        "the question is what Bytebase's role may do"
    );
    assert_eq!(blind.schema, SchemaState::Bytebase { version: None });
    server().sql("listen", "GRANT pg_read_all_stats TO watcher");
    let seen = listeners(&facts(monitor.clone()).await).unwrap();
    assert_eq!(seen.len(), 1);
    monitor.login = WhoseLogin::Monitor(Watched::of(&monitor.url, &monitor.url));
    assert!(!facts(monitor.clone()).await.can_create);
    server().sql(
        "listen",
        "REVOKE USAGE ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO listen",
    );
    let refused = outcome(monitor).await.unwrap_err();
    assert!(
        refused.message.contains("GRANT USAGE ON SCHEMA"),
        "{}",
        refused.message
    );
}

#[tokio::test]
async fn a_reading_is_of_after_a_moment_only_if_it_began_after_it() {
    let before = tokio::time::Instant::now();
    let mut probe = Probe::start(access(bytebase("after")), DEFAULT_INTERVAL);
    assert!(!probe.probes.is_read_since(&"it", before), "it is not read");
    probe.wake(Duration::from_secs(20)).await.unwrap();
    assert!(probe.probes.is_read_since(&"it", before));
    let after = tokio::time::Instant::now();
    assert!(!probe.probes.is_read_since(&"it", after));
    probe.probes.poke(&"it");
    let read = async {
        while !probe.probes.is_read_since(&"it", after) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(5), read).await.unwrap();
}

#[tokio::test]
async fn listening_sessions_are_seen_where_a_backslash_in_a_string_escapes() {
    let url = bytebase("escapes");
    server().sql(
        "escapes",
        "ALTER DATABASE escapes SET standard_conforming_strings = off",
    );
    let _replica = listener(&url, "bb-0").await;
    assert_eq!(listeners(&facts(access(url)).await).unwrap().len(), 1);
}

/// What a session does is shown to its role, not to the owner of the tables.
#[tokio::test]
async fn sessions_of_a_login_that_is_not_the_owner_are_not_taken_for_none() {
    let url = bytebase("grouped");
    server().sql(
        "grouped",
        &format!(
            "CREATE ROLE grouped_owner; GRANT grouped_owner TO grouped; REASSIGN OWNED BY grouped TO grouped_owner;
             CREATE ROLE grouped_next LOGIN PASSWORD '{PASSWORD}' IN ROLE grouped_owner;
             CREATE ROLE grouped_monitor LOGIN PASSWORD '{PASSWORD}' IN ROLE grouped_owner"
        ),
    );
    let _replica = listener(&url, "bb-0").await;
    let mut superuser = server()
        .client("grouped")
        .args(["-c", "SELECT pg_sleep(60)"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let own = async || listeners(&facts(access(url.clone())).await).map(|found| found.len());
    assert_eq!(own().await, Some(1), "of others it need not know");
    let mut monitor = access(url.clone());
    monitor.url.user = "grouped_monitor".to_owned();
    monitor.login = WhoseLogin::Monitor(Watched::of(&url, &monitor.url));
    assert_eq!(listeners(&facts(monitor.clone()).await), None);
    // A pooler may give the role another name.
    let mut renamed = url.clone();
    renamed.user = "nowhere".to_owned();
    monitor.login = WhoseLogin::Monitor(Watched::of(&renamed, &monitor.url));
    assert_eq!(listeners(&facts(monitor.clone()).await), None);
    server().sql("grouped", "GRANT grouped TO grouped_monitor");
    monitor.login = WhoseLogin::Monitor(Watched::of(&url, &monitor.url));
    let seen = listeners(&facts(monitor).await);
    assert_eq!(seen.map(|found| found.len()), Some(1));
    let mut next = url.clone();
    next.user = "grouped_next".to_owned();
    // No replica's session is called so.
    let _administrator = listener(&next, "psql").await;
    assert_eq!(own().await, Some(1));
    // The login of Bytebase has changed, and some replicas have the former one yet.
    let _next = listener(&next, "bb-1").await;
    assert_eq!(own().await, None);
    superuser.kill().unwrap();
    superuser.wait().unwrap();
}

/// The documented monitoring role, and a access that reads by it what Bytebase uses by `replicas`.
fn monitor(replicas: &PgUrl, role: &str, through: u16) -> Access {
    server().sql(
        "postgres",
        &format!(
            "DO $$ BEGIN IF to_regrole('{role}') IS NULL THEN CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}';
             GRANT pg_read_all_data, pg_monitor TO {role}; END IF; END $$"
        ),
    );
    let mut access = access(replicas.clone());
    role.clone_into(&mut access.url.user);
    access.url.hosts[0].port = through;
    access.url.runtime_params.clear();
    access.login = WhoseLogin::Monitor(Watched::of(replicas, &access.url));
    access
}

#[tokio::test]
async fn a_monitor_reads_where_bytebases_role_reads() {
    server().database("pathed", PASSWORD);
    let replicas = url(server().port, "pathed");
    let monitor = |url: &PgUrl| monitor(url, "path_monitor", server().port);
    let bytebases = SchemaState::Bytebase { version: None };
    server().sql("pathed", "SET ROLE pathed; CREATE SCHEMA bb");
    let tables = format!("SET ROLE pathed; SET search_path = bb; {BYTEBASE_TABLES}");
    server().sql("pathed", &tables);
    let off_path = SchemaState::OffPath {
        schema: "bb".to_owned(),
    };
    assert_eq!(facts(monitor(&replicas)).await.schema, off_path);
    let mut by_url = replicas.clone();
    by_url
        .runtime_params
        .insert("options".to_owned(), "-c search_path=bb".to_owned());
    assert_eq!(facts(monitor(&by_url)).await.schema, bytebases);
    for (set, reset) in [
        ("ROLE pathed SET search_path = bb", "ROLE pathed RESET ALL"),
        (
            "DATABASE pathed SET search_path = bb, public",
            "DATABASE pathed RESET ALL",
        ),
        (
            "ROLE pathed IN DATABASE pathed SET search_path = 'nowhere', \"bb\"",
            "ROLE pathed IN DATABASE pathed RESET ALL",
        ),
        ("SCHEMA bb RENAME TO pathed", "SCHEMA pathed RENAME TO bb"),
    ] {
        server().sql("pathed", &format!("ALTER {set}"));
        assert_eq!(facts(monitor(&replicas)).await.schema, bytebases, "{set}");
        server().sql("pathed", &format!("ALTER {reset}"));
    }
    // What is set for the monitor alone is not how Bytebase searches.
    server().sql(
        "pathed",
        "ALTER ROLE path_monitor SET search_path = nowhere; ALTER SCHEMA bb RENAME TO pathed",
    );
    assert_eq!(facts(monitor(&replicas)).await.schema, bytebases);
    let mut by_its_url = monitor(&replicas);
    by_its_url
        .url
        .runtime_params
        .insert("search_path".to_owned(), "public".to_owned());
    assert_eq!(facts(by_its_url).await.schema, bytebases);
    server().sql("pathed", "ALTER SCHEMA pathed RENAME TO bb");
    // What the monitor may not see is unknown, and not absent.
    server().sql("pathed", "ALTER ROLE pathed SET search_path = bb, public");
    let blind = monitor(&replicas);
    server().sql("postgres", "REVOKE pg_read_all_data FROM path_monitor");
    let (class, reason, message) = failure(blind).await;
    assert_eq!(
        (class, reason),
        (FailureClass::Unknown, FailureReason::PermissionDenied)
    );
    assert!(
        message.contains("GRANT USAGE ON SCHEMA \"bb\" TO \"path_monitor\""),
        "{message}"
    );
}

/// Readings that also try Bytebase's own login.
const WITH_TRIAL: ReadOptions = ReadOptions {
    every: Duration::from_secs(1),
    sessions: true,
    renewal: Renewal::Usual,
    keep_session: true,
    try_login: true,
    awaited: 0,
};

#[tokio::test]
async fn a_login_of_bytebases_is_tried_beside_a_monitor_only_when_asked_for() {
    let replicas = bytebase("tried");
    for (password, host, expected) in [
        (PASSWORD, "127.0.0.1", None),
        ("another", "127.0.0.1", Some(FailureClass::Definite)),
        (PASSWORD, "nowhere.invalid", Some(FailureClass::Unknown)),
    ] {
        let mut tried = replicas.clone();
        tried.password = Some(password.to_owned().into());
        host.clone_into(&mut tried.hosts[0].host);
        let mut access = monitor(&replicas, "trial_monitor", server().port);
        access.trial = Some(Box::new(self::access(tried)));
        let mut probe = Probe::start(access, DEFAULT_INTERVAL);
        let login = |latest: Latest| match latest.view {
            DatabaseView::Probed(Ok(facts)) => facts.login,
            other => panic!("{other:?}"),
        };
        let patience = Duration::from_secs(10);
        let first = probe.wake(patience).await.expect("no outcome");
        assert_eq!(login(first), None);
        probe.probes.pace(&"it", WITH_TRIAL);
        let found = login(probe.wake(patience).await.expect("no trial"));
        match (found, expected) {
            (Some(LoginTrial::Accepted), None) => {}
            (Some(LoginTrial::Failed(failure)), Some(class)) => assert_eq!(failure.class, class),
            other => panic!("{other:?}"),
        }
        no_session_stays("tried").await;
    }
}

/// The monitoring login goes past the pooler that the replicas go through.
#[tokio::test]
async fn a_pooler_before_bytebases_own_login_is_found_beside_a_monitor() {
    let replicas = bytebase("behind");
    let pooler = server().pooler("transaction", &[("behind", PASSWORD)]);
    for (port, expected) in [(server().port, false), (pooler.port, true)] {
        let mut own = replicas.clone();
        own.hosts[0].port = port;
        let mut access = monitor(&own, "behind_monitor", server().port);
        // Another name of the same place.
        access.url.hosts[0].host = "localhost".to_owned();
        access.login = WhoseLogin::Monitor(Watched::of(&own, &access.url));
        access.trial = Some(Box::new(self::access(own)));
        let mut probe = Probe::start(access, DEFAULT_INTERVAL);
        let found = |latest: Latest| match latest.view {
            DatabaseView::Probed(Ok(facts)) => (facts.login, facts.transaction_pooler),
            other => panic!("{other:?}"),
        };
        let patience = Duration::from_secs(15);
        let first = probe.wake(patience).await.expect("no outcome");
        assert_eq!(found(first), (None, Some(false)), "nothing says so yet");
        probe.probes.pace(&"it", WITH_TRIAL);
        let mut tried = found(probe.wake(patience).await.expect("no trial"));
        // The second session may have come too late.
        while tried.1.is_none() {
            tried = found(probe.wake(patience).await.expect("no other trial"));
        }
        assert_eq!(tried, (Some(LoginTrial::Accepted), Some(expected)));
        // The pooler keeps some for its next clients.
        if !expected {
            no_session_stays("behind").await;
        }
    }
}

/// The server ends a session a moment after its client has said goodbye.
async fn no_session_stays(user: &str) {
    let count = format!("SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}'");
    let start = Instant::now();
    while server().sql("postgres", &count).trim() != "0" {
        assert!(start.elapsed() < Duration::from_secs(5), "a session stays");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_monitor_that_leads_elsewhere_says_nothing_of_bytebases_database() {
    let replicas = bytebase("watched");
    let own = monitor(&replicas, "place_monitor", server().port);

    // A pooler in front of the monitor alone is no trouble: one message is all that it sends.
    let pooler = server().pooler("transaction", &[("place_monitor", PASSWORD)]);
    let through = monitor(&replicas, "place_monitor", pooler.port);
    let seen = facts(through).await;
    assert_eq!(seen.transaction_pooler, Some(false));
    assert_eq!(seen.schema, SchemaState::Bytebase { version: None });

    // Another database of the server, as by a forgotten name.
    let mut elsewhere = own.clone();
    elsewhere.url.database = "postgres".to_owned();
    elsewhere.login = WhoseLogin::Monitor(Watched::of(&replicas, &elsewhere.url));
    // Another server, which knows no such role.
    let other = Server::start("");
    other.database("place_monitor", PASSWORD);
    other.sql("postgres", "CREATE DATABASE watched");
    let other_server = monitor(&replicas, "place_monitor", other.port);
    // That of another Bytebase, in a database of another name.
    other.database("staging", PASSWORD);
    other.sql(
        "staging",
        &format!("GRANT USAGE ON SCHEMA public TO place_monitor; {BYTEBASE_TABLES}"),
    );
    other.sql(
        "postgres",
        "GRANT pg_read_all_data, pg_monitor TO place_monitor",
    );
    let mut staging = other_server.clone();
    staging.url.database = "staging".to_owned();
    staging.login = WhoseLogin::Monitor(Watched::of(&replicas, &staging.url));
    // A database of another name that holds tables of Bytebase, on the same server.
    let _second = bytebase("second_watched");
    let mut second = own.clone();
    second.url.database = "second_watched".to_owned();
    second.login = WhoseLogin::Monitor(Watched::of(&replicas, &second.url));
    // A standby of the right server.
    let standby = server().standby();
    let behind = monitor(&replicas, "place_monitor", standby.port);
    for (access, words) in [
        (
            elsewhere,
            "PG_URL names the database \"watched\", so this is another one, or PG_URL leads through a pooler that names it otherwise",
        ),
        (
            staging,
            "does not know the role \"watched\" that Bytebase logs in as, so it is another one, or PG_URL leads through a pooler",
        ),
        (second, "PG_URL names the database \"watched\""),
        (other_server, "does not know the role \"watched\""),
        (behind, "is a standby"),
    ] {
        let place = format!("127.0.0.1:{}/", access.url.hosts[0].port);
        let (class, reason, message) = failure(access).await;
        assert_eq!(
            (class, reason),
            (FailureClass::Unknown, FailureReason::MonitorElsewhere),
            "{message}"
        );
        assert!(message.starts_with(&place), "{message}");
        assert!(message.contains("database.monitorSecretRef"), "{message}");
        assert!(message.contains(words), "{message}");
    }

    // At the very place of PG_URL what the server is holds for Bytebase too.
    let mut same = monitor(&url(standby.port, "watched"), "place_monitor", standby.port);
    assert!(facts(same.clone()).await.in_recovery);
    same.url.hosts[0].port = pooler.port;
    same.login = WhoseLogin::Monitor(Watched::of(&same.url, &same.url));
    assert_eq!(facts(same).await.transaction_pooler, Some(true));
}

#[tokio::test]
async fn sessions_that_begin_read_only_are_reported() {
    let replicas = bytebase("frozen");
    let access = access(replicas.clone());
    let mut probe = Probe::start(access.clone(), Duration::from_millis(200));
    let mut next = async || match probe.wake(Duration::from_secs(5)).await.unwrap().view {
        DatabaseView::Probed(Ok(facts)) => facts.read_only,
        other => panic!("{other:?}"),
    };
    assert!(!next().await);
    let monitor = monitor(&replicas, "freeze_monitor", server().port);
    for (set, reset) in [
        (
            "DATABASE frozen SET default_transaction_read_only = on",
            "DATABASE frozen RESET default_transaction_read_only",
        ),
        (
            "ROLE frozen SET default_transaction_read_only = true",
            "ROLE frozen RESET default_transaction_read_only",
        ),
    ] {
        server().sql("postgres", &format!("ALTER {set}"));
        assert!(next().await, "an open session shows it as well");
        assert!(facts(monitor.clone()).await.read_only);
        let mut by_url = access.clone();
        by_url.url.runtime_params.insert(
            "options".to_owned(),
            "-c default_transaction_read_only=off".to_owned(),
        );
        assert!(!facts(by_url).await.read_only, "the string wins");
        server().sql("postgres", &format!("ALTER {reset}"));
        assert!(!next().await);
    }
    // What is set for the monitor alone.
    server().sql(
        "postgres",
        "ALTER ROLE freeze_monitor SET default_transaction_read_only = on",
    );
    assert!(!facts(monitor).await.read_only);
}

#[tokio::test]
async fn what_is_set_for_the_role_counts_as_for_a_session_that_begins_now() {
    let replicas = bytebase("resettled");
    let mut probe = Probe::start(access(replicas.clone()), Duration::from_millis(200));
    let mut next = async || match probe.wake(Duration::from_secs(5)).await.unwrap().view {
        DatabaseView::Probed(Ok(facts)) => facts.schema,
        other => panic!("{other:?}"),
    };
    let bytebases = SchemaState::Bytebase { version: None };
    let off_path = SchemaState::OffPath {
        schema: "public".to_owned(),
    };
    assert_eq!(next().await, bytebases);
    let sessions =
        "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE usename = 'resettled'";
    let session = server().sql("postgres", sessions);
    // Of another database: the session goes on.
    server().sql(
        "resettled",
        "CREATE SCHEMA elsewhere AUTHORIZATION resettled;
         ALTER ROLE resettled IN DATABASE postgres SET search_path = elsewhere",
    );
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(server().sql("postgres", sessions), session);

    for (set, reset) in [
        (
            "ROLE resettled SET search_path = elsewhere",
            "ROLE resettled RESET search_path",
        ),
        (
            "DATABASE resettled SET search_path = elsewhere",
            "DATABASE resettled RESET search_path",
        ),
        (
            "ROLE resettled IN DATABASE resettled SET search_path = elsewhere",
            "ROLE resettled IN DATABASE resettled RESET search_path",
        ),
    ] {
        server().sql("postgres", &format!("ALTER {set}"));
        assert_eq!(next().await, off_path, "{set}");
        let mut by_url = replicas.clone();
        by_url
            .runtime_params
            .insert("search_path".to_owned(), "public".to_owned());
        assert_eq!(facts(access(by_url)).await.schema, bytebases, "{set}");
        server().sql("postgres", &format!("ALTER {reset}"));
        assert_eq!(next().await, bytebases, "{reset}");
    }
}

#[tokio::test]
async fn two_strings_to_one_database_have_one_identity() {
    server().database("same", PASSWORD);
    server().database("different", PASSWORD);
    let by_address = facts(access(url(server().port, "same"))).await.identity;
    let mut by_name = url(server().port, "same");
    by_name.hosts[0].host = "localhost".to_owned();
    assert_eq!(facts(access(by_name)).await.identity, by_address);
    let other = facts(access(url(server().port, "different")))
        .await
        .identity;
    assert_ne!(other, by_address);

    // Where the function is forbidden, the address stands in.
    server().sql(
        "same",
        "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC",
    );
    let without = facts(access(url(server().port, "same"))).await.identity;
    assert_eq!(without.server_start, by_address.server_start);
    assert_ne!(without.database, by_address.database, "by its address");
}

// === Failures ===

#[tokio::test]
async fn a_wrong_password_is_definite() {
    server().database("wrong", "another one");
    let (class, reason, message) = failure(access(url(server().port, "wrong"))).await;
    assert_eq!(
        (class, reason),
        (FailureClass::Definite, FailureReason::AuthenticationFailed)
    );
    assert!(
        message.contains("/wrong: ") && message.contains("\"wrong\""),
        "{message}"
    );
}

#[tokio::test]
async fn a_missing_database_is_definite() {
    server().database("present", PASSWORD);
    let mut url = url(server().port, "present");
    url.database = "absent".to_owned();
    let monitor = monitor(&url, "missing_monitor", server().port);
    for access in [access(url), monitor] {
        let (class, reason, _) = failure(access).await;
        assert_eq!(
            (class, reason),
            (FailureClass::Definite, FailureReason::DatabaseMissing)
        );
    }
}

#[tokio::test]
async fn a_role_that_may_not_connect_is_definite() {
    server().database("closed", PASSWORD);
    server().sql("postgres", &format!("CREATE ROLE other_role LOGIN PASSWORD '{PASSWORD}'; REVOKE CONNECT ON DATABASE closed FROM PUBLIC"));
    let own = url(server().port, "closed");
    let mut other = own.clone();
    other.user = "other_role".to_owned();
    let mut by_role = own.clone();
    by_role
        .runtime_params
        .insert("role".to_owned(), "other_role".to_owned());
    let refused = async |url: PgUrl, words: &str| {
        let (class, reason, message) = failure(access(url)).await;
        assert_eq!(
            (class, reason),
            (FailureClass::Definite, FailureReason::PermissionDenied),
            "{message}"
        );
        assert!(message.contains(words), "{message}");
    };
    refused(other, "GRANT CONNECT").await;
    refused(by_role, "GRANT the role that it names TO \"closed\"").await;
    // Administrators close a database for a while: it is away, and nothing is wrong with it.
    server().sql("postgres", "ALTER DATABASE closed ALLOW_CONNECTIONS false");
    let (class, _, message) = failure(access(own)).await;
    assert_eq!(class, FailureClass::Unknown);
    assert!(
        message.contains("not currently accepting connections"),
        "{message}"
    );
}

#[tokio::test]
async fn an_unknown_parameter_is_definite() {
    server().database("params", PASSWORD);
    for (key, value) in [
        ("schema", "public"),
        ("pgbouncer", "true"),
        ("options", "-c nonsense=1"),
        ("work_mem", "lots"),
    ] {
        let mut url = url(server().port, "params");
        url.runtime_params.insert(key.to_owned(), value.to_owned());
        let (class, reason, message) = failure(access(url)).await;
        assert_eq!(
            (class, reason),
            (FailureClass::Definite, FailureReason::ParameterRefused),
            "{message}"
        );
    }
}

#[tokio::test]
async fn a_port_where_nothing_listens_is_unknown() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let (class, reason, _) = failure(access(url(port, "x"))).await;
    assert_eq!(
        (class, reason),
        (FailureClass::Unknown, FailureReason::Unreachable)
    );
    let mut url = url(port, "x");
    url.hosts[0].host = "no-such-host.invalid".to_owned();
    let (class, reason, message) = failure(access(url)).await;
    assert_eq!(
        (class, reason),
        (FailureClass::Unknown, FailureReason::Unreachable)
    );
    assert!(message.contains("no-such-host.invalid"));
}

#[tokio::test]
async fn something_that_is_no_postgresql_is_unknown() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let (class, reason, _) = failure(access(url(port, "x"))).await;
    assert_eq!(class, FailureClass::Unknown, "{reason:?}");
}

#[tokio::test]
async fn another_product_behind_the_protocol_is_definite() {
    server().database("product", PASSWORD);
    server().sql(
        "postgres",
        "ALTER ROLE product SET search_path = public, pg_catalog",
    );
    for (version, name) in [
        (
            "CockroachDB CCL v23.1.11 (x86_64-pc-linux-gnu, built 2023/09/27)",
            "CockroachDB",
        ),
        (
            "PostgreSQL 11.2-YB-2.20.1.3-b0 on x86_64-pc-linux-gnu",
            "YugabyteDB",
        ),
        ("Something 1.0", "another database"),
    ] {
        // What a server calls itself, said by a real one.
        let call = format!(
            "CREATE OR REPLACE FUNCTION public.version() RETURNS text LANGUAGE sql AS $$SELECT '{version}'::text$$"
        );
        server().sql("product", &call);
        let own = url(server().port, "product");
        // It finds the server's own function first, unless it looks where Bytebase's role does.
        let mut monitor = monitor(&own, "product_monitor", server().port);
        monitor
            .url
            .runtime_params
            .insert("search_path".to_owned(), "public, pg_catalog".to_owned());
        for access in [access(own), monitor] {
            let (class, reason, message) = failure(access).await;
            assert_eq!(
                (class, reason),
                (FailureClass::Definite, FailureReason::NotPostgres),
                "{message}"
            );
            assert!(
                message.contains(&format!("{name}, not PostgreSQL")),
                "{message}"
            );
        }
    }
}

#[tokio::test]
async fn black_holes_are_unknown_and_delay_no_other_cluster() {
    server().database("healthy", PASSWORD);
    let hole = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = hole.local_addr().unwrap().port();
    let (wake, mut woken) = unbounded_channel();
    let probes = Probes::new(wake, ToString::to_string, Arc::new(|_, _| {}));
    for key in 1..=150 {
        probes.ensure(&key, access(url(port, "x")));
    }
    let started = Instant::now();
    probes.ensure(&0, access(url(server().port, "healthy")));
    assert_eq!(woken.recv().await, Some(0));
    // Before any black hole has timed out (after five seconds), on however busy a machine.
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "{:?}",
        started.elapsed()
    );
    assert!(matches!(probes.latest(&1).view, DatabaseView::NotProbed));
    let key = woken.recv().await.unwrap();
    let DatabaseView::Probed(Err(failure)) = probes.latest(&key).view else {
        panic!("it should fail")
    };
    assert_eq!(
        (failure.class, failure.reason),
        (FailureClass::Unknown, FailureReason::Unreachable)
    );
    // Two logins, since the first failure is not reported.
    assert!(
        (9..14).contains(&started.elapsed().as_secs()),
        "{:?}",
        started.elapsed()
    );
}

/// By the server's log, which has a line for each message of a session, and three for one with a
/// statement to prepare.
#[tokio::test]
async fn a_quiet_reading_is_one_message_to_the_server_and_leaves_no_prepared_statement() {
    const READINGS: usize = 5;
    let server = Server::start("log_min_duration_statement = 0\nlog_line_prefix = 'of %u '");
    server.database("quiet", PASSWORD);
    server.sql("quiet", &format!("SET ROLE quiet; {BYTEBASE_TABLES}"));
    server.sql(
        "quiet",
        "INSERT INTO replica_heartbeat SELECT gen_random_uuid(), now() FROM generate_series(1, 3)",
    );
    // What the test asks it asks as another role.
    let messages = || {
        let log = std::fs::read_to_string(server.file("log")).unwrap();
        let own = log
            .lines()
            .filter(|line| line.starts_with("of quiet LOG:  duration: "));
        own.map(ToOwned::to_owned).collect::<Vec<_>>()
    };
    let (wake, mut woken) = unbounded_channel();
    let (read, mut readings) = unbounded_channel();
    let observer = Arc::new(move |_, _| {
        let _ = read.send(());
    });
    let probes = Probes::new(wake, ToString::to_string, observer);
    probes.ensure(&"it", access(url(server.port, "quiet")));
    probes.pace(&"it", usual(false, 0));
    let first = timeout(Duration::from_secs(10), woken.recv()).await;
    assert_eq!(first, Ok(Some("it")));
    // Several times the least pause between two readings.
    tokio::time::sleep(Duration::from_secs(1)).await;
    while readings.try_recv().is_ok() {}
    let before = messages().len();
    for _ in 0..READINGS {
        probes.poke(&"it");
        let reading = timeout(Duration::from_secs(5), readings.recv()).await;
        assert_eq!(reading, Ok(Some(())));
    }
    let all = messages();
    // One more may be under way by itself.
    let more = all.len() - before;
    assert!(
        (READINGS..=READINGS + 1 + readings.len()).contains(&more),
        "{more} messages for {READINGS} readings: {:#?}",
        &all[before..]
    );
    for line in &all {
        let is_kept = line.contains("  parse ") && !line.contains("  parse <unnamed>:");
        assert!(!is_kept, "{line}");
    }
}

/// What PostgreSQL itself counts, by the same command.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn the_servers_time_for_a_reading() {
    let url = bytebase("cost");
    server().sql(
        "cost",
        "INSERT INTO replica_heartbeat SELECT gen_random_uuid(), now() FROM generate_series(1, 3)",
    );
    let readings = Arc::new(AtomicU16::new(0));
    let count = Arc::clone(&readings);
    let (wake, _woken) = unbounded_channel();
    let observer = Arc::new(move |_, _| {
        count.fetch_add(1, Ordering::Relaxed);
    });
    let probes = Probes::new(wake, ToString::to_string, observer);
    // A quiet cluster is read as in the first line, and every half a minute as in the second.
    for (what, every, sessions) in [
        ("what is live", DEFAULT_INTERVAL, false),
        ("catalogs too", Duration::from_millis(50), false),
        ("sessions too", Duration::from_millis(50), true),
    ] {
        probes.ensure(&"it", access(url.clone()));
        let pace = ReadOptions {
            every,
            sessions,
            renewal: Renewal::Usual,
            keep_session: true,
            try_login: false,
            awaited: 0,
        };
        probes.pace(&"it", pace);
        let read_for = async |seconds| {
            for _ in 0..seconds * 5 {
                probes.poke(&"it");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        read_for(3).await;
        let sample = || {
            let active = "SELECT active_time FROM pg_stat_database WHERE datname = 'cost'";
            let active: f64 = server().sql("postgres", active).trim().parse().unwrap();
            (active, readings.load(Ordering::Relaxed))
        };
        let (active, before) = sample();
        read_for(20).await;
        let (now, after) = sample();
        let readings = after - before;
        println!(
            "{what}: {readings} readings, {:.3} ms of the server each",
            (now - active) / f64::from(readings)
        );
    }
}

// === Over time ===

#[tokio::test]
async fn a_quiet_cluster_is_not_woken_and_a_dead_replica_is_reported_within_a_second() {
    let url = bytebase("quiet");
    let replica = Uuid::new_v4();
    let heartbeat = |age: &str| {
        server().sql(
            "quiet",
            &format!(
                "INSERT INTO replica_heartbeat VALUES ('{replica}', clock_timestamp() - interval '{age}')
                 ON CONFLICT (replica_id) DO UPDATE SET last_heartbeat = EXCLUDED.last_heartbeat"
            ),
        )
    };
    heartbeat("0 s");
    let mut probe = Probe::start(access(url), Duration::from_millis(200));
    assert!(probe.wake(Duration::from_secs(5)).await.is_some());
    for _ in 0..10 {
        heartbeat("0 s");
        assert!(probe.wake(Duration::from_millis(250)).await.is_none());
    }
    // At the usual interval, and no heartbeat comes any more.
    let mut slow = access(probe_url());
    slow.fingerprint = [2; 32];
    heartbeat("27 s");
    let died = Instant::now();
    probe.probes.ensure(&"it", slow);
    assert!(
        probe.wake(Duration::from_secs(2)).await.is_some(),
        "a new access is read at once"
    );
    assert!(
        probe
            .wake(Duration::from_millis(4100).saturating_sub(died.elapsed()))
            .await
            .is_some(),
        "not reported within a second"
    );
    assert!(
        died.elapsed() >= Duration::from_millis(2900),
        "reported too early"
    );
}

fn probe_url() -> PgUrl {
    url(server().port, "quiet")
}

#[tokio::test]
async fn a_server_that_goes_and_comes_back_is_seen_going_and_coming_back() {
    let mut server = Server::start("");
    server.database("restarted", PASSWORD);
    let mut probe = Probe::start(
        access(url(server.port, "restarted")),
        Duration::from_millis(500),
    );
    assert!(matches!(
        probe.wake(Duration::from_secs(5)).await.unwrap().view,
        DatabaseView::Probed(Ok(_))
    ));
    server.stop();
    let latest = probe.wake(Duration::from_secs(3)).await.unwrap();
    let DatabaseView::Probed(Err(failure)) = latest.view else {
        panic!("it is gone")
    };
    assert_eq!(
        (failure.class, failure.reason),
        (FailureClass::Unknown, FailureReason::Unreachable)
    );
    assert!(latest.last_good.is_some());
    server.resume();
    let mut latest = probe.wake(Duration::from_secs(12)).await.unwrap();
    if matches!(latest.view, DatabaseView::Probed(Err(_))) {
        latest = probe.wake(Duration::from_secs(12)).await.unwrap();
    }
    assert!(matches!(latest.view, DatabaseView::Probed(Ok(_))));

    // A restart between two readings is no failure; a terminated session neither.
    let mut probe = Probe::start(access(url(server.port, "restarted")), DEFAULT_INTERVAL);
    assert!(probe.wake(Duration::from_secs(5)).await.is_some());
    server.sql(
        "postgres",
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'restarted'",
    );
    probe.probes.poke(&"it");
    assert!(probe.wake(Duration::from_secs(1)).await.is_none());
}

#[tokio::test]
async fn a_locked_table_holds_a_probe_for_seconds_only() {
    let url = bytebase("stuck");
    let mut lock = server()
        .client("stuck")
        .args(["-c", "BEGIN; LOCK TABLE task_run; SELECT pg_sleep(30)"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let started = Instant::now();
    let (class, reason, message) = failure(access(url)).await;
    lock.kill().unwrap();
    lock.wait().unwrap();
    assert_eq!(
        (class, reason),
        (FailureClass::Unknown, FailureReason::Other)
    );
    assert!(
        message.contains("locked") && started.elapsed() < Duration::from_secs(14),
        "{message}"
    );
}

// === What stands in between ===

#[tokio::test]
async fn a_transaction_mode_pooler_is_distinguished_from_a_session_mode_one() {
    bytebase("pooled");
    let users = [("pooled", PASSWORD)];
    let pooler = server().pooler("transaction", &users);
    let seen = facts(access(url(pooler.port, "pooled"))).await;
    assert_eq!(seen.transaction_pooler, Some(true));
    // Its one server process is the other session's until the transaction ends.
    let pooler = server().pooler("transaction\ndefault_pool_size = 1", &users);
    let seen = facts(access(url(pooler.port, "pooled"))).await;
    assert_eq!(seen.transaction_pooler, Some(true));
    // It hands out its two server processes in turn.
    let taking_turns = "server_round_robin = 1\ndefault_pool_size = 2\nignore_startup_parameters = extra_float_digits";
    let pooler = server().pooler_with("transaction", &users, taking_turns);
    let through = url(pooler.port, "pooled");
    let mut two = [session(&through, "a").await, session(&through, "b").await];
    for sql in ["BEGIN; SELECT 1", "COMMIT"] {
        for session in &mut two {
            sqlx::raw_sql(sql).execute(session).await.unwrap();
        }
    }
    drop(two);
    assert_eq!(facts(access(through)).await.transaction_pooler, Some(true));
    // There is no second session.
    let pooler = server().pooler("session\nmax_client_conn = 1", &users);
    let seen = facts(access(url(pooler.port, "pooled"))).await;
    assert_eq!(seen.transaction_pooler, None);
    let pooler = server().pooler("statement", &users);
    let seen = facts(access(url(pooler.port, "pooled"))).await;
    assert_eq!(seen.transaction_pooler, Some(true));
    let pooler = server().pooler("session", &users);
    let seen = facts(access(url(pooler.port, "pooled"))).await;
    assert_eq!(seen.transaction_pooler, Some(false));
    assert_eq!(seen.schema, SchemaState::Bytebase { version: None });

    let mut refused = url(pooler.port, "pooled");
    refused.password = Some(SecretString::from("not the one"));
    let (class, reason, message) = failure(access(refused)).await;
    assert_eq!(
        (class, reason),
        (FailureClass::Definite, FailureReason::AuthenticationFailed),
        "{message}"
    );
    let mut parameter = url(pooler.port, "pooled");
    parameter
        .runtime_params
        .insert("search_path".to_owned(), "public".to_owned());
    let (_, reason, message) = failure(access(parameter)).await;
    assert_eq!(reason, FailureReason::ParameterRefused, "{message}");
}

/// A name that leads somewhere else from one moment to the next, while sessions that are open stay
/// where they are.
async fn name(leads_to: u16) -> (u16, Arc<AtomicU16>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let leads_to = Arc::new(AtomicU16::new(leads_to));
    let server = Arc::clone(&leads_to);
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            let port = server.load(Ordering::Relaxed);
            tokio::spawn(async move {
                let mut far = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    (port, leads_to)
}

/// What is read once the name leads to `there`: as long as a verdict on what it led to before was
/// bad.
async fn moved(from: u16, there: u16, database: &str) -> (DatabaseFacts, DatabaseFacts) {
    let (port, leads_to) = name(from).await;
    let mut probe = Probe::start(access(url(port, database)), Duration::from_millis(300));
    let seen = |latest: Latest| match latest.view {
        DatabaseView::Probed(Ok(facts)) => facts,
        other => panic!("{other:?}"),
    };
    let before = seen(probe.wake(Duration::from_secs(10)).await.unwrap());
    probe.probes.pace(
        &"it",
        ReadOptions {
            every: Duration::from_millis(300),
            sessions: true,
            renewal: Renewal::AtNextReading,
            keep_session: true,
            try_login: false,
            awaited: 0,
        },
    );
    leads_to.store(there, Ordering::Relaxed);
    let after = probe.wake(DEFAULT_INTERVAL * 2).await;
    (before, seen(after.expect("the old session is kept")))
}

#[tokio::test]
async fn a_session_that_is_to_be_replaced_stays_where_the_server_is_full() {
    let name = "full_up";
    server().database(name, PASSWORD);
    let limit = |limit: &str| {
        let sql = format!("ALTER ROLE {name} CONNECTION LIMIT {limit}");
        server().sql("postgres", &sql);
    };
    let pid = || {
        let sql = format!("SELECT pid FROM pg_stat_activity WHERE usename = '{name}'");
        server().sql("postgres", &sql).trim().to_owned()
    };
    limit("1");
    let mut probe = Probe::start(access(url(server().port, name)), Duration::from_secs(1));
    probe.wake(Duration::from_secs(10)).await.unwrap();
    let first = pid();
    let refused = ReadOptions {
        every: Duration::from_secs(1),
        renewal: Renewal::AtNextReading,
        ..usual(false, 0)
    };
    probe.probes.pace(&"it", refused);
    // Longer than such a session lasts.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let latest = probe.probes.latest(&"it");
    assert!(matches!(latest.view, DatabaseView::Probed(Ok(_))));
    let (since, _) = latest.last_good.unwrap();
    assert!(since < Duration::from_secs(5), "{since:?}");
    assert_eq!(pid(), first, "the session is another one");
    limit("2");
    tokio::time::sleep(Duration::from_secs(12)).await;
    let second = pid();
    assert!(!second.is_empty() && second != first, "{first} {second}");
}

#[tokio::test]
async fn a_name_that_leads_to_the_new_primary_is_looked_up_again() {
    let primary = Server::start("");
    primary.database("moved", PASSWORD);
    let standby = primary.standby();
    let (before, after) = moved(standby.port, primary.port, "moved").await;
    assert!(before.in_recovery && !after.in_recovery);
}

#[tokio::test]
async fn a_pooler_that_has_changed_its_mode_is_examined_again() {
    bytebase("repooled");
    let users = [("repooled", PASSWORD)];
    let transaction = server().pooler("transaction", &users);
    let session = server().pooler("session", &users);
    let (before, after) = moved(transaction.port, session.port, "repooled").await;
    let found = [before, after].map(|facts| facts.transaction_pooler);
    assert_eq!(found, [Some(true), Some(false)]);
}

#[tokio::test]
async fn that_no_pooler_stands_before_one_server_says_nothing_of_another() {
    let name = "unpooled";
    bytebase(name);
    let other = Server::start("");
    other.database(name, PASSWORD);
    let pooler = other.pooler("transaction", &[(name, PASSWORD)]);
    let (before, after) = moved(server().port, pooler.port, name).await;
    let found = [before, after].map(|facts| facts.transaction_pooler);
    assert_eq!(found, [Some(false), Some(true)]);
}

/// The pooler stands before the same server, and at the same address.
#[tokio::test]
async fn after_a_stop_a_pooler_is_searched_for_again() {
    bytebase("stopped_unpooled");
    let pooler = server().pooler("transaction", &[("stopped_unpooled", PASSWORD)]);
    let (port, leads_to) = name(server().port).await;
    let mut probe = Probe::start(access(url(port, "stopped_unpooled")), DEFAULT_INTERVAL);
    let found = |latest: Latest| match latest.view {
        DatabaseView::Probed(Ok(facts)) => facts.transaction_pooler,
        other => panic!("{other:?}"),
    };
    let patience = Duration::from_secs(20);
    let first = probe.wake(patience).await.expect("no outcome");
    assert_eq!(found(first), Some(false));
    let stopped = ReadOptions {
        keep_session: false,
        ..usual(false, 0)
    };
    probe.probes.pace(&"it", stopped);
    no_session_stays("stopped_unpooled").await;
    leads_to.store(pooler.port, Ordering::Relaxed);
    probe.probes.resume(&"it");
    let next = probe.wake(patience).await.expect("no reading");
    assert_eq!(found(next), Some(true));
}

#[tokio::test]
async fn a_standby_is_reported_and_several_hosts_lead_to_the_primary() {
    let primary = Server::start("");
    primary.database("replicated", PASSWORD);
    let standby = primary.standby();
    let mut behind = url(standby.port, "replicated");
    let seen = facts(access(behind.clone())).await;
    assert!(seen.in_recovery);

    behind.hosts.push(HostPort {
        host: "127.0.0.1".to_owned(),
        port: primary.port,
    });
    for (attrs, in_recovery) in [
        (TargetSessionAttrs::ReadWrite, false),
        (TargetSessionAttrs::Primary, false),
        (TargetSessionAttrs::PreferStandby, true),
        (TargetSessionAttrs::Any, true),
    ] {
        behind.target_session_attrs = attrs;
        assert_eq!(
            facts(access(behind.clone())).await.in_recovery,
            in_recovery,
            "{attrs:?}"
        );
    }
    behind.hosts.pop();
    for attrs in [TargetSessionAttrs::ReadWrite, TargetSessionAttrs::Primary] {
        behind.target_session_attrs = attrs;
        let mut monitor = access(behind.clone());
        // `PG_URL` leads there and does not ask for a primary, which Bytebase needs all the same.
        let mut replicas = behind.clone();
        replicas.target_session_attrs = TargetSessionAttrs::Any;
        monitor.login = WhoseLogin::Monitor(Watched::of(&replicas, &behind));
        for access in [access(behind.clone()), monitor] {
            let (class, reason, message) = failure(access).await;
            assert_eq!(
                (class, reason),
                (FailureClass::Definite, FailureReason::Standby)
            );
            assert!(message.contains("standby"), "{message}");
        }
    }
    let mut frozen = url(primary.port, "replicated");
    frozen.target_session_attrs = TargetSessionAttrs::ReadWrite;
    primary.sql(
        "postgres",
        "ALTER DATABASE replicated SET default_transaction_read_only = on",
    );
    let mut monitor = access(frozen.clone());
    monitor.login = WhoseLogin::Monitor(Watched::of(&frozen, &frozen));
    for (access, expected) in [
        (access(frozen), FailureClass::Definite),
        // It may be set for the monitor alone.
        (monitor, FailureClass::Unknown),
    ] {
        let (class, reason, message) = failure(access).await;
        assert_eq!((class, reason), (expected, FailureReason::ReadOnly));
        assert!(
            message.contains("default_transaction_read_only"),
            "{message}"
        );
    }
}

#[tokio::test]
async fn of_several_servers_a_monitor_is_where_bytebase_is_only_if_both_ask_for_the_same() {
    use TargetSessionAttrs::{Any, ReadWrite};
    let primary = Server::start("");
    primary.database("several", PASSWORD);
    let standby = primary.standby();
    let mut servers = url(standby.port, "several");
    servers.hosts.push(HostPort {
        host: "127.0.0.1".to_owned(),
        port: primary.port,
    });
    for (theirs, own, words) in [
        (ReadWrite, Any, "the server is a standby"),
        (
            Any,
            ReadWrite,
            "add target_session_attrs=read-write to PG_URL",
        ),
    ] {
        let mut replicas = servers.clone();
        replicas.target_session_attrs = theirs;
        servers.target_session_attrs = own;
        let mut monitor = access(servers.clone());
        monitor.login = WhoseLogin::Monitor(Watched::of(&replicas, &servers));
        let (class, reason, message) = failure(monitor).await;
        assert_eq!(
            (class, reason),
            (FailureClass::Unknown, FailureReason::MonitorElsewhere),
            "{message}"
        );
        assert!(message.contains(words), "{message}");
    }
    let mut same = access(servers.clone());
    same.login = WhoseLogin::Monitor(Watched::of(&servers, &servers));
    assert!(!facts(same).await.in_recovery);
}

#[tokio::test]
async fn certificates_are_verified_as_sslmode_says() {
    server().database("tls", PASSWORD);
    let attempt = |host: &str, mode: SslMode, ca: Option<CaBundle>| {
        let mut access = access(url(server().port, "tls"));
        access.url.hosts[0].host = host.to_owned();
        access.url.ssl_mode = mode;
        access.url.ssl_root_cert = ca.as_ref().map(|_| CA_PATH.to_owned());
        access.ca = ca;
        access
    };
    let unnamed = |mode: SslMode| {
        let mut access = attempt("localhost", mode, Some(bundle(server())));
        access.url.ssl_root_cert = None;
        access
    };
    let right = Some(bundle(server()));
    let other = Server::start("");
    let wrong = Some(bundle(&other));
    for (host, mode, ca) in [
        ("127.0.0.1", SslMode::Prefer, None),
        ("127.0.0.1", SslMode::Allow, None),
        ("127.0.0.1", SslMode::Require, None),
        ("127.0.0.1", SslMode::Require, right.clone()),
        ("127.0.0.1", SslMode::VerifyCa, right.clone()),
        ("localhost", SslMode::VerifyFull, right.clone()),
    ] {
        facts(attempt(host, mode, ca)).await;
    }
    // A CA that the string does not name is none, for Bytebase neither.
    facts(unnamed(SslMode::Require)).await;
    let (_, reason, message) = failure(unnamed(SslMode::VerifyFull)).await;
    assert_eq!(reason, FailureReason::TlsFailed);
    assert!(message.contains("add sslrootcert="), "{message}");
    for (host, mode, ca, hint) in [
        (
            "localhost",
            SslMode::VerifyFull,
            wrong.clone(),
            "not signed by the given CA",
        ),
        (
            "localhost",
            SslMode::VerifyFull,
            None,
            "not signed by a public CA",
        ),
        (
            "127.0.0.1",
            SslMode::Require,
            wrong,
            "not signed by the given CA",
        ),
        ("127.0.0.1", SslMode::VerifyFull, right, "another host name"),
    ] {
        let (class, reason, message) = failure(attempt(host, mode, ca)).await;
        assert_eq!(
            (class, reason),
            (FailureClass::Unknown, FailureReason::TlsFailed),
            "{message}"
        );
        assert!(message.contains(hint), "{message}");
    }

    other.database("tls", PASSWORD);
    other.present_ca();
    let mut own_ca = attempt("localhost", SslMode::VerifyFull, Some(bundle(&other)));
    own_ca.url.hosts[0].port = other.port;
    facts(own_ca.clone()).await;
    own_ca.ca = Some(bundle(server()));
    let (_, reason, message) = failure(own_ca).await;
    assert_eq!(reason, FailureReason::TlsFailed);
    assert!(message.contains("CA certificate as its own"), "{message}");
}

/// `openssl x509 -req` makes them unless asked otherwise.
#[tokio::test]
async fn a_certificate_of_version_1_is_read_as_bytebase_reads_it() {
    let server = Server::start("");
    server.database("old_tls", PASSWORD);
    let attempt = |mode: SslMode, ca: Option<CaBundle>| {
        let mut access = access(url(server.port, "old_tls"));
        access.url.ssl_mode = mode;
        access.url.ssl_root_cert = ca.as_ref().map(|_| CA_PATH.to_owned());
        access.ca = ca;
        access
    };
    let before = facts(attempt(SslMode::Require, None)).await;
    assert!(!before.has_version_1_certificate);
    server.present_version_1();
    for (mode, ca) in [
        (SslMode::Prefer, None),
        (SslMode::Require, None),
        (SslMode::Require, Some(bundle(&server))),
        (SslMode::VerifyCa, Some(bundle(&server))),
    ] {
        assert!(facts(attempt(mode, ca)).await.has_version_1_certificate);
    }
    let in_clear_text = facts(attempt(SslMode::Disable, None)).await;
    assert!(!in_clear_text.has_version_1_certificate);
    // It holds no names, and no other authority signed it.
    for access in [
        attempt(SslMode::VerifyFull, Some(bundle(&server))),
        attempt(SslMode::VerifyCa, Some(bundle(self::server()))),
    ] {
        let (class, reason, message) = failure(access).await;
        assert_eq!(
            (class, reason),
            (FailureClass::Unknown, FailureReason::TlsFailed),
            "{message}"
        );
    }
}

// === Cost ===

/// `cargo test --release -p bytebase-operator --test database_probe -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn the_memory_of_a_probe() {
    const N: usize = 400;
    // Half of what a login, or an answer, may have for a moment: none of that is kept.
    const MOST_KIB: u64 = 128;
    let server = Server::start("max_connections = 1000");
    server.database("many", PASSWORD);
    server.sql("many", &format!("SET ROLE many; {BYTEBASE_TABLES}"));
    server.sql(
        "many",
        "INSERT INTO replica_heartbeat SELECT gen_random_uuid(), now() FROM generate_series(1, 5)",
    );
    let mut last = resident_kib();
    for mode in [SslMode::Disable, SslMode::Require, SslMode::VerifyCa] {
        let (wake, mut woken) = unbounded_channel();
        let probes = Probes::new(wake, ToString::to_string, Arc::new(|_, _| {}));
        let started = Instant::now();
        for key in 0..N {
            let mut url = url(server.port, "many");
            url.ssl_mode = mode;
            let mut access = access(url);
            access.ca = (mode == SslMode::VerifyCa).then(|| bundle(&server));
            access.url.ssl_root_cert = access.ca.as_ref().map(|_| CA_PATH.to_owned());
            probes.ensure(&key, access);
        }
        for _ in 0..N {
            woken.recv().await.unwrap();
        }
        let took = started.elapsed();
        tokio::time::sleep(Duration::from_secs(12)).await;
        let now = resident_kib();
        let each = now.saturating_sub(last) / N as u64;
        println!("{mode:?}: {N} probes up in {took:?}, {each} KiB each");
        assert!(each <= MOST_KIB, "{mode:?}: {each} KiB each");
        last = now;
        std::mem::forget(probes);
    }
}
