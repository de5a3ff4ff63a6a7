//! One PostgreSQL for this program, and a database of it for each test.

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use std::sync::LazyLock;
pub use testkit::postgres::PASSWORD;
use testkit::postgres::Server;

/// The server of this test program.
pub static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start("max_connections = 300"));

/// A database of its own for one test.
pub struct Database {
    name: String,
}

async fn connect(database: &str) -> PgConnection {
    let options = PgConnectOptions::new_without_pgpass()
        .socket(SERVER.directory())
        .port(SERVER.port)
        .username("postgres")
        .database(database)
        .application_name("test");
    PgConnection::connect_with(&options).await.unwrap()
}

impl Database {
    /// A new empty database.
    pub async fn create() -> Self {
        Self::create_with("").await
    }

    /// A new empty database with options for `CREATE DATABASE`.
    pub async fn create_with(options: &str) -> Self {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let mut admin = connect("postgres").await;
        execute(&mut admin, &format!("CREATE DATABASE {name} {options}")).await;
        Self { name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port of the server that all of them are on.
    pub fn port() -> u16 {
        SERVER.port
    }

    /// A `PG_URL` with everything in it.
    pub fn url(&self) -> String {
        self.url_as("postgres", PASSWORD)
    }

    /// A `PG_URL` for another role.
    pub fn url_as(&self, role: &str, password: &str) -> String {
        format!(
            "postgres://{role}:{password}@127.0.0.1:{}/{}?sslmode=disable",
            SERVER.port, self.name
        )
    }

    /// A session of the test itself, as the superuser.
    pub async fn session(&self) -> PgConnection {
        connect(&self.name).await
    }

    /// Runs statements in a session of their own.
    pub async fn execute(&self, statements: &str) {
        execute(&mut self.session().await, statements).await;
    }

    /// The first column of the first row, as a number.
    pub async fn number(&self, query: &str) -> i64 {
        let query = format!("SELECT ({query})::bigint");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(&mut self.session().await)
            .await
            .unwrap()
    }

    /// The first column of the first row, as text; empty for none.
    pub async fn text(&self, query: &str) -> String {
        let query = format!("SELECT coalesce(({query})::text, '')");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query))
            .fetch_one(&mut self.session().await)
            .await
            .unwrap()
    }

    /// Statements that need another database to run from, such as `ALTER DATABASE`.
    pub async fn administer(&self, statements: &str) {
        execute(&mut connect("postgres").await, statements).await;
    }
}

async fn execute(session: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()))
        .execute(session)
        .await
        .unwrap();
}
