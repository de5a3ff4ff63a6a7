//! One temporary cluster, which ends when this program does, however it ends.

use std::{
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};

use super::eventually;

/// Password of the superuser; must never be seen in a log.
pub const PASSWORD: &str = "pg-Pa55word-in-no-log";
const BINARIES: &str = "/usr/lib/postgresql/15/bin";

/// Starts the server and waits for the end of its standard input, which is the end of the test
/// program.
const SCRIPT: &str = r#"
set -e
cd /
dir=$(mktemp -d /tmp/bytebase-stub-test.XXXXXX)
trap 'rm -rf "$dir"' EXIT
exec 3>&1 >"$dir/script.log" 2>&1
printf %s "$PASSWORD" >"$dir/password"
"$BINARIES/initdb" -D "$dir/data" -U postgres -E UTF8 --locale=C.UTF-8 --pwfile="$dir/password" \
    --auth-local=trust --auth-host=scram-sha-256 --no-sync
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test-ca -keyout "$dir/ca.key" -out "$dir/ca.crt"
openssl req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout "$dir/server.key" -out "$dir/server.csr"
printf 'subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n' >"$dir/extensions"
openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.crt" -CAkey "$dir/ca.key" -CAcreateserial -days 2 \
    -extfile "$dir/extensions" -out "$dir/server.crt"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=other-ca -keyout "$dir/other.key" -out "$dir/other.crt"
chmod 755 "$dir" && chmod 644 "$dir/ca.crt" "$dir/other.crt"
"$BINARIES/postgres" -D "$dir/data" -p "$PORT" -k "$dir" -c listen_addresses=127.0.0.1 -c fsync=off \
    -c max_connections=300 -c ssl=on -c ssl_cert_file="$dir/server.crt" -c ssl_key_file="$dir/server.key" &
server=$!
echo "$dir" >&3
cat
kill -QUIT "$server"
wait "$server" || true
"#;

/// The cluster of this test program.
pub struct Cluster {
    directory: PathBuf,
    port: u16,
    /// Ends when its standard input closes, that is with this program.
    _script: Child,
}

/// A database of its own for one test.
pub struct Database {
    cluster: &'static Cluster,
    name: String,
}

/// The cluster, started by whoever asks first.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(start)
}

fn start() -> Cluster {
    let port = free_port();
    // PostgreSQL refuses to run as root.
    let is_root = std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .lines()
        .any(|line| line.starts_with("Uid:\t0\t"));
    let mut command = if is_root {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--init-groups"]);
        command.args(["sh", "-c", SCRIPT]);
        command
    } else {
        let mut command = Command::new("sh");
        command.args(["-c", SCRIPT]);
        command
    };
    let mut child = command
        .env("BINARIES", BINARIES)
        .env("PASSWORD", PASSWORD)
        .env("PORT", port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut directory = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut directory)
        .unwrap();
    assert!(!directory.is_empty(), "PostgreSQL did not start");
    Cluster {
        directory: directory.trim().into(),
        port,
        _script: child,
    }
}

/// A port that nobody listens on, in either address family.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("[::]:0").or_else(|_| TcpListener::bind("0.0.0.0:0"));
    listener.unwrap().local_addr().unwrap().port()
}

impl Cluster {
    /// A file of the cluster's directory, such as `ca.crt`.
    pub fn file(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.directory)
            .port(self.port)
            .username("postgres")
            .database(database)
            .application_name("test")
    }

    async fn connect(&self, database: &str) -> PgConnection {
        let options = self.options(database);
        eventually("PostgreSQL accepts connections", async || {
            PgConnection::connect_with(&options).await.is_ok()
        })
        .await;
        PgConnection::connect_with(&options).await.unwrap()
    }
}

impl Database {
    /// A new empty database.
    pub async fn create() -> Self {
        Self::create_with("").await
    }

    /// A new empty database with options for `CREATE DATABASE`.
    pub async fn create_with(options: &str) -> Self {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let cluster = cluster();
        let mut admin = cluster.connect("postgres").await;
        execute(&mut admin, &format!("CREATE DATABASE {name} {options}")).await;
        Self { cluster, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The port of its server.
    pub fn port(&self) -> u16 {
        self.cluster.port
    }

    /// A `PG_URL` with everything in it.
    pub fn url(&self) -> String {
        self.url_as("postgres", PASSWORD)
    }

    /// A `PG_URL` for another role.
    pub fn url_as(&self, role: &str, password: &str) -> String {
        let Self { cluster, name } = self;
        format!(
            "postgres://{role}:{password}@127.0.0.1:{}/{name}?sslmode=disable",
            cluster.port
        )
    }

    /// A session of the test itself, as the superuser.
    pub async fn session(&self) -> PgConnection {
        self.cluster.connect(&self.name).await
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
        execute(&mut self.cluster.connect("postgres").await, statements).await;
    }
}

async fn execute(session: &mut PgConnection, statements: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(statements.to_owned()))
        .execute(session)
        .await
        .unwrap();
}
