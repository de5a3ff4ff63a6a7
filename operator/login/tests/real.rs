//! The login and sqlx over it, on a real server.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    dead_code,
    reason = "a failed expectation is the report; the support of other tests is compiled once more here"
)]

use bytebase_contract::ca_bundle::CaBundle;
use bytebase_contract::pg_url::PgUrl;
use bytebase_login::plan::Reach;
use bytebase_login::tls::Authorities;
use bytebase_login::{LoggedIn, LoginTo, Lookups, log_in};
use jiff::Timestamp;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _, Row as _};
use std::process::Command;
use std::time::{Duration, Instant};
use testkit::memory::resident_kib;
use testkit::postgres::Server;

const PASSWORD: &str = "s3cret-of-the-role";

async fn session(server: &Server, mode: &str) -> LoggedIn {
    let port = server.port;
    // The file is named only: its certificates are given below.
    let url =
        format!("postgres://app:{PASSWORD}@localhost:{port}/app?sslmode={mode}&sslrootcert=/ca");
    let bundle = CaBundle::parse(&server.ca()).unwrap();
    let target = LoginTo {
        url: &PgUrl::parse(&url).unwrap(),
        authorities: &Authorities::given(bundle.certificates(), Timestamp::now()),
        certificate: None,
        reach: Reach::Anywhere,
        lookups: &Lookups::default(),
        attrs: bytebase_contract::pg_url::TargetSessionAttrs::Any,
        label: "the label",
    };
    log_in(&target)
        .await
        .unwrap_or_else(|failures| panic!("{failures:?}"))
}

async fn connection(server: &Server, mode: &str) -> PgConnection {
    session(server, mode)
        .await
        .session
        .into_sqlx()
        .await
        .unwrap()
}

async fn text(connection: &mut PgConnection, sql: &'static str) -> String {
    let row = sqlx::raw_sql(sql).fetch_one(connection).await.unwrap();
    row.get(0)
}

fn start() -> Server {
    let server = Server::start("");
    server.database("app", PASSWORD);
    server
}

#[tokio::test]
async fn sqlx_works_over_a_session_as_over_one_of_its_own() {
    let server = start();
    for mode in ["disable", "require", "verify-full"] {
        let logged_in = session(&server, mode).await;
        let version = logged_in
            .session
            .parameter("server_version")
            .unwrap()
            .to_owned();
        let mut sqlx = logged_in.session.into_sqlx().await.unwrap();
        assert_eq!(text(&mut sqlx, "SHOW server_version").await, version);
        assert_eq!(text(&mut sqlx, "SHOW application_name").await, "the label");
        let row = sqlx::query("SELECT $1 || 'b', 2::int8")
            .persistent(false)
            .bind("a")
            .fetch_one(&mut sqlx)
            .await;
        let row = row.unwrap();
        assert_eq!((row.get::<&str, _>(0), row.get::<i64, _>(1)), ("ab", 2));
        let prepared = "SELECT count(*)::text FROM pg_prepared_statements";
        assert_eq!(text(&mut sqlx, prepared).await, "0");
        // More than goes through in one piece, and an error in between.
        let long = text(&mut sqlx, "SELECT repeat('x', 200000)").await;
        assert_eq!(long.len(), 200_000);
        assert!(
            sqlx::raw_sql("SELECT nonsense")
                .fetch_one(&mut sqlx)
                .await
                .is_err()
        );
        assert_eq!(text(&mut sqlx, "SELECT 'on'").await, "on");
        // Longer than any answer has a right to be.
        let endless = sqlx::raw_sql("SELECT repeat('x', 1000) FROM generate_series(1, 100000)");
        assert!(endless.fetch_all(&mut sqlx).await.is_err());
        assert!(
            sqlx::raw_sql("SELECT 1")
                .fetch_one(&mut sqlx)
                .await
                .is_err(),
            "it is cut off"
        );
    }
}

/// How many sessions the server has of the role.
async fn wait_for_sessions(server: &Server, wanted: &str) {
    let patience = Instant::now() + Duration::from_secs(10);
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'";
    while server.sql("postgres", sql).trim() != wanted {
        assert!(Instant::now() < patience, "not {wanted} sessions");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_session_ends_when_either_side_ends_it() {
    let server = start();
    for mode in ["disable", "require"] {
        let closed = connection(&server, mode).await;
        let dropped = connection(&server, mode).await;
        let mut ended = connection(&server, mode).await;
        wait_for_sessions(&server, "3").await;
        closed.close().await.unwrap();
        drop(dropped);
        wait_for_sessions(&server, "1").await;
        server.sql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'",
        );
        assert!(
            sqlx::raw_sql("SELECT 1")
                .fetch_one(&mut ended)
                .await
                .is_err()
        );
        wait_for_sessions(&server, "0").await;
    }
}

#[tokio::test]
async fn what_sqlx_reads_is_utf_8_whatever_the_server_begins_with() {
    let server = start();
    server.sql("postgres", "ALTER ROLE app SET client_encoding = LATIN1");
    let mut sqlx = connection(&server, "disable").await;
    assert_eq!(text(&mut sqlx, "SELECT chr(233)").await, "\u{e9}");
}

/// Bytes, by the measurement below in a process of its own: what sessions of another way let go
/// would be taken up again.
fn memory_of_a_session(way: &str) -> u64 {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_memory_of_a_session"])
        .args(["--ignored", "--nocapture"])
        .env("WAY", way)
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{way}: {printed}");
    let (_, sizes) = printed.split_once(&format!("{way}: [")).unwrap();
    let (sizes, _) = sizes.split_once(']').unwrap();
    let sizes: Vec<u64> = sizes
        .split(", ")
        .map(|size| size.parse().unwrap())
        .collect();
    sizes.iter().sum::<u64>() / sizes.len() as u64
}

#[test]
fn a_session_takes_less_than_twice_the_memory_of_one_of_sqlx() {
    let (own, by_sqlx) = (memory_of_a_session("disable"), memory_of_a_session("sqlx"));
    assert!(
        own < 2 * by_sqlx,
        "{own} bytes, and {by_sqlx} of a session of sqlx's own"
    );
}

/// `WAY=require cargo test --release -p bytebase-login --test real -- --ignored --nocapture`, with
/// `sslmode` or `sqlx` as the way: what was let go by another one would be taken up again.
#[tokio::test]
#[ignore = "a measurement"]
#[allow(clippy::print_stdout)]
async fn the_memory_of_a_session() {
    const N: usize = 100;
    let way = std::env::var("WAY").expect("WAY");
    let server = Server::start("max_connections = 1000");
    server.database("app", PASSWORD);
    let by_sqlx = PgConnectOptions::new_without_pgpass()
        .host("localhost")
        .port(server.port)
        .username("app")
        .password(PASSWORD)
        .database("app")
        .ssl_mode(PgSslMode::Disable)
        .statement_cache_capacity(0);
    let mut kept = Vec::with_capacity(3 * N);
    let mut sizes = Vec::new();
    // The first ones make what all share.
    for _ in 0..3 {
        for _ in 0..N {
            let mut session = if way == "sqlx" {
                by_sqlx.connect().await.unwrap()
            } else {
                connection(&server, &way).await
            };
            // What a reading needs is part of what a session holds.
            text(&mut session, "SELECT repeat('x', 4000)").await;
            kept.push(session);
        }
        sizes.push(resident_kib());
    }
    let each = sizes
        .windows(2)
        .map(|pair| pair[1].saturating_sub(pair[0]) * 1024 / N as u64);
    println!("{way}: {:?} bytes a session", each.collect::<Vec<_>>());
}
