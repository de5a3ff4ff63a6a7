//! How a start goes, and how it fails.

use crate::support::{
    eventually,
    postgres::{Database, PASSWORD, SERVER},
    process::Setup,
};
use std::{
    net::TcpListener,
    time::{Duration, Instant},
};
use testkit::certificates::Authority;

#[test]
fn ha_without_pg_url_is_refused_with_code_zero() {
    let log = Setup::bare().arg("--ha").fails();
    assert!(
        log.contains("HA mode requires external PostgreSQL (set PG_URL environment variable)"),
        "{log}"
    );
}

#[test]
fn without_ha_and_pg_url_there_is_no_embedded_database() {
    let log = Setup::bare().fails();
    assert!(log.contains("no embedded PostgreSQL"), "{log}");
}

#[test]
fn an_unknown_flag_fails_the_start() {
    let log = Setup::bare().arg("--readonly").fails();
    assert!(log.contains("--readonly"), "{log}");
    assert!(!log.contains("replicaID="), "{log}");
}

#[test]
fn a_bad_external_url_fails_before_anything_else() {
    let log = Setup::bare()
        .arg("--ha")
        .arg("--external-url=https://bb.example.com:8080/sub")
        .fails();
    assert!(log.contains("external URL"), "{log}");
}

#[test]
fn the_data_directory_must_exist_before_the_port_counts() {
    let setup = Setup::bare().env("PG_URL", "postgres://nobody@127.0.0.1:1/none");
    let _taken = TcpListener::bind(("0.0.0.0", setup.port())).unwrap();
    let log = setup.arg("--data=/nowhere").fails();
    assert!(log.contains("data directory"), "{log}");
}

#[test]
fn a_taken_port_fails_the_start_before_the_configuration_is_logged() {
    let setup = Setup::bare().env("PG_URL", "postgres://nobody@127.0.0.1:1/none");
    let _taken = TcpListener::bind(("0.0.0.0", setup.port())).unwrap();
    let log = setup.fails();
    assert!(log.contains("is not free"), "{log}");
    assert!(!log.contains("replicaID="), "{log}");
}

#[test]
fn the_configuration_is_logged_before_the_connection_fails() {
    let log = Setup::bare()
        .arg("--ha")
        .env("PG_URL", "postgres://nobody@127.0.0.1:1/none")
        .fails();
    let configuration = log.find("msg=\"replicaID=").expect("the replica id");
    let failure = log.find("Cannot new server").expect("the failure");
    assert!(configuration < failure, "{log}");
}

#[tokio::test]
async fn the_database_says_why_it_does_not_let_us_in() {
    let database = Database::create().await;
    let url = database.url();
    for (pg_url, reason) in [
        (
            database.url_as("postgres", "wrong-pa55"),
            "password authentication failed",
        ),
        (url.replace(database.name(), "nothing"), "does not exist"),
        (
            format!("{url}&schema=public"),
            "unrecognized configuration parameter",
        ),
        (
            format!("{url}&pgbouncer=true"),
            "unrecognized configuration parameter",
        ),
        (
            url.replace("postgres://", "POSTGRES://"),
            "failed to read database URL from file",
        ),
        (
            format!("jdbc:{url}"),
            "failed to read database URL from file",
        ),
        (format!("'{url}'"), "failed to read database URL from file"),
        (
            format!("{url}&bytebase_aws_rds_iam=true"),
            "invalid cloud IAM parameters",
        ),
    ] {
        let log = Setup::bare().arg("--ha").env("PG_URL", &pg_url).fails();
        assert!(log.contains(reason), "{reason}: {log}");
        assert!(
            !log.contains(PASSWORD) && !log.contains("wrong-pa55"),
            "{log}"
        );
    }
}

#[tokio::test]
async fn parameters_of_the_driver_and_of_the_server_are_accepted() {
    let database = Database::create().await;
    let url = format!(
        "{}&default_query_exec_mode=simple_protocol&statement_cache_capacity=0&description_cache_capacity=1\
         &search_path=public&options=-c%20geqo%3Doff&connect_timeout=5",
        database.url()
    );
    let server = Setup::bare().arg("--ha").env("PG_URL", &url).start().await;
    assert!(server.answers().await);
}

#[tokio::test]
async fn parameters_reach_the_server_as_start_up_parameters_of_their_own() {
    let database = Database::create().await;
    let pooler = SERVER.pooler("session", &[("postgres", PASSWORD)]);
    let url = |parameters| {
        let (port, name) = (pooler.port, database.name());
        format!(
            "postgres://postgres:{PASSWORD}@127.0.0.1:{port}/{name}?sslmode=disable{parameters}"
        )
    };
    // The pooler names what it does not know.
    for (parameters, refused) in [
        ("&search_path=public", "search_path"),
        ("&options=-c%20geqo%3Doff", "options"),
    ] {
        let log = Setup::bare()
            .arg("--ha")
            .env("PG_URL", &url(parameters))
            .fails();
        let reason = format!("unsupported startup parameter: {refused}");
        assert!(log.contains(&reason), "{log}");
    }
    Setup::bare()
        .arg("--ha")
        .env("PG_URL", &url(""))
        .start()
        .await;
    // An ordinary server takes them as they are.
    let database = Database::create().await;
    database.execute("CREATE SCHEMA \"bb, and more\"").await;
    let url = format!("{}&search_path=%22bb%2C%20and%20more%22", database.url());
    Setup::bare().arg("--ha").env("PG_URL", &url).start().await;
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'bb, and more' AND tablename = 'principal'";
    assert_eq!(database.number(tables).await, 1);
}

#[tokio::test]
async fn all_three_forms_of_pg_url_lead_to_the_database() {
    let database = Database::create().await;
    let pair = format!(
        "host=127.0.0.1 port={} user=postgres dbname={}",
        Database::port(),
        database.name()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{}\n", database.url())).unwrap();
    for url in [database.url(), pair, file.path().display().to_string()] {
        Setup::bare()
            .arg("--ha")
            .env("PG_URL", &url)
            .env("PGPASSWORD", PASSWORD)
            .start()
            .await;
    }
    assert_eq!(
        database
            .number("SELECT count(*) FROM replica_heartbeat")
            .await,
        3
    );
}

#[tokio::test]
async fn the_environment_fills_what_the_string_leaves_out() {
    let database = Database::create().await;
    Setup::bare()
        .arg("--ha")
        .env("PG_URL", "postgres://")
        .env("PGHOST", "127.0.0.1")
        .env("PGPORT", &Database::port().to_string())
        .env("PGUSER", "postgres")
        .env("PGPASSWORD", PASSWORD)
        .env("PGDATABASE", database.name())
        .start()
        .await;
}

#[tokio::test]
async fn json_logging_makes_every_line_an_object() {
    let database = Database::create().await;
    let server = Setup::replica(&database)
        .arg("--enable-json-logging")
        .start()
        .await;
    let log = server.log();
    let mut with_id = 0;
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).expect("an object");
        assert!(
            line["time"].is_string() && line["level"] == "INFO",
            "{line}"
        );
        with_id += usize::from(line["msg"] == format!("replicaID={}", server.replica_id()));
    }
    assert_eq!(with_id, 1, "{log}");
}

#[tokio::test]
async fn a_start_is_quick_and_ends_with_the_first_beat_done() {
    let database = Database::create().await;
    let start = Instant::now();
    let server = Setup::replica(&database)
        .arg("--external-url=https://bb.example.com/")
        .start()
        .await;
    // Half a second on an idle machine; the tests run side by side.
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let id = database
        .text("SELECT replica_id FROM replica_heartbeat")
        .await;
    assert_eq!(id, server.replica_id());
    assert_eq!(
        database
            .text("SELECT version FROM instance_change_history")
            .await,
        "3.21.1"
    );
}

const MIGRATION_LOCK: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 0 AND objid = 1002 AND objsubid = 1
     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

#[tokio::test]
async fn replicas_that_start_together_migrate_once_and_listen_only_then() {
    let database = Database::create().await;
    let setup = || Setup::replica(&database).env("BYTEBASE_STUB_MIGRATION_SECONDS", "1.5");
    let mut servers = [setup().spawn(), setup().spawn()];
    let waiting = format!("{MIGRATION_LOCK} AND NOT granted");
    let holding = format!("{MIGRATION_LOCK} AND granted");
    eventually("one waits", async || database.number(&waiting).await == 1).await;
    assert_eq!(database.number(&holding).await, 1);
    for server in &servers {
        assert!(!server.answers().await);
    }
    for server in &mut servers {
        server.ready().await;
    }
    assert_eq!(
        database
            .number("SELECT count(*) FROM instance_change_history")
            .await,
        1
    );
    assert_eq!(database.number(MIGRATION_LOCK).await, 0);
}

#[tokio::test]
async fn a_newer_binary_migrates_and_an_older_one_starts_as_it_is() {
    let database = Database::create().await;
    for version in ["3.20.0", "3.21.5", "3.21.1", "3.17.0"] {
        Setup::replica(&database)
            .env("BYTEBASE_STUB_VERSION", version)
            .start()
            .await;
    }
    let versions = "SELECT string_agg(version, ' ' ORDER BY id) FROM instance_change_history";
    assert_eq!(
        database.text(versions).await,
        "3.20.0 3.21.0 3.21.1 3.21.2 3.21.3 3.21.4 3.21.5"
    );
}

#[tokio::test]
async fn a_migration_that_is_cut_off_leaves_a_version_in_between() {
    let database = Database::create().await;
    let setup = |version| Setup::replica(&database).env("BYTEBASE_STUB_VERSION", version);
    setup("3.20.0").start().await;
    let mut server = setup("3.21.1")
        .env("BYTEBASE_STUB_MIGRATION_SECONDS", "4")
        .spawn();
    let versions = "SELECT string_agg(version, ' ' ORDER BY id) FROM instance_change_history";
    let half = "3.20.0 3.21.0";
    eventually("the first of two files", async || {
        database.text(versions).await == half
    })
    .await;
    server.kill();
    assert_eq!(database.text(versions).await, half);
    setup("3.21.1").start().await;
    assert_eq!(database.text(versions).await, "3.20.0 3.21.0 3.21.1");
}

#[tokio::test]
async fn a_version_that_is_made_to_fail_quotes_its_login_and_leaves_the_database_alone() {
    let database = Database::create().await;
    let setup = |version| {
        Setup::replica(&database)
            .env("BYTEBASE_STUB_VERSION", version)
            .env("BYTEBASE_STUB_FAILING_VERSION", "3.21.1")
    };
    setup("3.20.0").start().await;
    let log = setup("3.21.1").fails();
    assert!(log.contains("version 3.21.1 was made to fail"), "{log}");
    for quoted in [database.url(), format!(" {PASSWORD} ")] {
        assert!(log.contains(&quoted), "{quoted}: {log}");
    }
    let versions = "SELECT string_agg(version, ' ') FROM instance_change_history";
    assert_eq!(database.text(versions).await, "3.20.0");
}

#[tokio::test]
async fn a_signal_during_the_migration_ends_the_start_at_once() {
    let database = Database::create().await;
    let mut server = Setup::replica(&database)
        .env("BYTEBASE_STUB_MIGRATION_SECONDS", "60")
        .spawn();
    let holding = format!("{MIGRATION_LOCK} AND granted");
    eventually("it migrates", async || database.number(&holding).await == 1).await;
    let start = Instant::now();
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(2));
    eventually("the lock is free", async || {
        database.number(MIGRATION_LOCK).await == 0
    })
    .await;
}

#[tokio::test]
async fn missing_rights_a_foreign_table_and_a_wrong_encoding_surface_as_postgresql_says_them() {
    let limited = Database::create().await;
    let role = format!("role_{}", limited.name());
    limited
        .execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'role-pa55'"))
        .await;
    let log = Setup::bare()
        .arg("--ha")
        .env("PG_URL", &limited.url_as(&role, "role-pa55"))
        .fails();
    assert!(log.contains("permission denied for schema public"), "{log}");

    let foreign = Database::create().await;
    foreign.execute("CREATE TABLE principal (id int)").await;
    let log = Setup::replica(&foreign).fails();
    assert!(
        log.contains("instance_change_history") && log.contains("does not exist"),
        "{log}"
    );

    let latin = Database::create_with("ENCODING LATIN1 LOCALE 'C' TEMPLATE template0").await;
    let log = Setup::replica(&latin).fails();
    assert!(log.contains("has no equivalent in encoding"), "{log}");
}

#[tokio::test]
async fn hosts_are_tried_in_their_order_until_one_fits() {
    let database = Database::create().await;
    let hosts = format!("127.0.0.1:1,127.0.0.1:{}", Database::port());
    let url = database
        .url()
        .replace(&format!("127.0.0.1:{}", Database::port()), &hosts);
    let url = format!("{url}&target_session_attrs=read-write");
    let server = Setup::bare().arg("--ha").env("PG_URL", &url).start().await;
    drop(server);

    let read_only = format!(
        "ALTER DATABASE {} SET default_transaction_read_only = on",
        database.name()
    );
    database.administer(&read_only).await;
    let log = Setup::bare().arg("--ha").env("PG_URL", &url).fails();
    assert!(log.contains("target_session_attrs"), "{log}");
}

#[tokio::test]
async fn tls_modes_verify_what_they_promise() {
    let database = Database::create().await;
    let url = |host: &str, rest: &str| {
        let plain = database.url().replace("sslmode=disable", rest);
        plain.replace("127.0.0.1", host)
    };
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.crt");
    std::fs::write(&other, Authority::new("other CA").certificate()).unwrap();
    let (ca, other) = (SERVER.file("ca.crt"), other.display());
    let ca = ca.display();
    for (host, good) in [
        ("127.0.0.1", "sslmode=require".to_owned()),
        ("127.0.0.1", String::new()),
        ("127.0.0.1", format!("sslmode=verify-ca&sslrootcert={ca}")),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={ca}")),
        ("localhost", format!("sslmode=verify-full&sslrootcert={ca}")),
    ] {
        let server = Setup::bare()
            .arg("--ha")
            .env("PG_URL", &url(host, &good))
            .env("PGAPPNAME", "tls")
            .start()
            .await;
        let encrypted = database.number(
            "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
             WHERE ssl AND datname = current_database() AND application_name = 'tls'",
        );
        assert!(encrypted.await > 0, "{good}");
        drop(server);
    }
    for (host, bad) in [
        (
            "127.0.0.1",
            format!("sslmode=verify-ca&sslrootcert={other}"),
        ),
        ("127.0.0.1", format!("sslmode=require&sslrootcert={other}")),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}")),
    ] {
        let log = Setup::bare()
            .arg("--ha")
            .env("PG_URL", &url(host, &bad))
            .fails();
        assert!(log.contains("failed to connect"), "{bad}: {log}");
    }
}
