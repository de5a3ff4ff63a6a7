//! PostgreSQL for the tests: a server of its own on this machine, reached by pods through the
//! gateway of the cluster's network, with a database and a role per scenario.

pub mod certificates;
pub mod companions;

use crate::machine::Machine;
use crate::machine::command::{Call, tail};
use crate::machine::process::ProcessId;
use crate::postgres::certificates::Certificates;
use crate::session::state::{PostgresRecord, State, write_private};
use anyhow::{Context, Result, ensure};
use parking_lot::Mutex;
use rand::Rng;
use rustix::process::Signal;
use sqlx::Connection;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use testkit::programs::USER;
use testkit::{ports, programs};

/// Bytebase wants up to 50 sessions a replica; several scenarios with three replicas run at once.
const MAX_CONNECTIONS: u32 = 600;
/// Members of this role, if there is one, log in with a client's certificate as well.
pub const CERTIFIED: &str = "certified";
/// From anywhere that can reach the two addresses it listens on, with a password.
const CLIENTS: &str = "hostssl all +certified 0.0.0.0/0 scram-sha-256 clientcert=verify-ca\n\
     hostnossl all +certified 0.0.0.0/0 reject\n\
     host all all 0.0.0.0/0 scram-sha-256\n\
     host replication postgres 127.0.0.1/32 scram-sha-256\n";
/// A fast shutdown ends all sessions and writes one checkpoint.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug, Clone)]
pub struct Server {
    state: State,
    record: PostgresRecord,
    /// Changes with every start.
    process: Arc<Mutex<Option<ProcessId>>>,
    binaries: PathBuf,
    root: bool,
    admin: PgPool,
}

/// A scenario's own database, owned by a role of the same name.
#[derive(Debug, Clone)]
pub struct Database {
    pub name: String,
    pub password: String,
    host: String,
    port: u16,
}

impl Database {
    /// The connection string for pods.
    pub fn url(&self) -> String {
        self.url_at(&format!("{}:{}", self.host, self.port), "sslmode=disable")
    }

    /// The connection string through other servers (`host:port`, several with commas) and with
    /// these parameters.
    pub fn url_at(&self, servers: &str, parameters: &str) -> String {
        let Self { name, password, .. } = self;
        format!("postgres://{name}:{password}@{servers}/{name}?{parameters}")
    }

    /// The connection string for this machine.
    pub fn local_url(&self) -> String {
        self.url()
            .replace(&format!("@{}:", self.host), "@127.0.0.1:")
    }

    /// The connection string for this machine to the copy of it that the server at this port has.
    pub fn local_url_at(&self, port: u16) -> String {
        self.url_at(&format!("127.0.0.1:{port}"), "sslmode=disable")
    }

    /// Address of the server for pods.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Port of the server.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Server {
    /// Starts the server of this cluster, or finds it running. `gateway` is the address of this
    /// machine for pods.
    pub async fn open(state: &State, machine: Machine, gateway: &str) -> Result<Self> {
        let binaries = programs::postgres()?;
        if let Some(record) = state.record()?.postgres
            && record.process.as_ref().is_some_and(ProcessId::runs)
            && record.gateway == gateway
        {
            let server = Self::connect(state, machine, binaries, record);
            // An older checkout may have started it.
            if server.configure().await? {
                server.execute("SELECT pg_reload_conf()").await?;
            }
            return Ok(server);
        }
        remove(state).await?;
        let record = PostgresRecord {
            process: None,
            data: data_folder(state, machine),
            port: ports::free(),
            gateway: gateway.to_owned(),
            password: password(),
        };
        state.update(|all| all.postgres = Some(record.clone()))?;
        let server = Self::connect(state, machine, binaries, record);
        server.initialise().await?;
        server.start().await?;
        Ok(server)
    }

    /// Makes a database and its owner. The name is made of the scenario's.
    pub async fn create_database(&self, name: &str) -> Result<Database> {
        ensure!(
            name.len() <= 63
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'),
            "not a plain database name: {name}"
        );
        let database = self.database(name, password());
        self.execute(&format!(
            "CREATE ROLE {name} LOGIN PASSWORD '{}'",
            database.password
        ))
        .await?;
        self.execute(&format!("CREATE DATABASE {name} OWNER {name}"))
            .await?;
        Ok(database)
    }

    /// A database made earlier, if it is still there.
    pub async fn find_database(&self, name: &str, password: &str) -> Result<Option<Database>> {
        let exists: bool =
            sqlx::query_scalar("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                .bind(name)
                .fetch_one(&self.admin)
                .await?;
        Ok(exists.then(|| self.database(name, password.to_owned())))
    }

    /// A database that exists, or is about to.
    fn database(&self, name: &str, password: String) -> Database {
        Database {
            name: name.to_owned(),
            password,
            host: self.record.gateway.clone(),
            port: self.record.port,
        }
    }

    /// Drops a scenario's database and role, whoever is connected to it, and all databases and
    /// roles it made under names that begin with its own.
    pub async fn drop_database(&self, database: &Database) -> Result<()> {
        let name = &database.name;
        for (kind, listed, force) in [
            (
                "DATABASE",
                "SELECT datname::text FROM pg_database WHERE datname = $1 OR starts_with(datname, $1 || '_')",
                " WITH (FORCE)",
            ),
            (
                "ROLE",
                "SELECT rolname::text FROM pg_roles WHERE rolname = $1 OR starts_with(rolname, $1 || '_')",
                "",
            ),
        ] {
            let found: Vec<String> = sqlx::query_scalar(listed)
                .bind(name)
                .fetch_all(&self.admin)
                .await?;
            for each in found {
                self.execute(&format!("DROP {kind} IF EXISTS {each}{force}"))
                    .await?;
            }
        }
        Ok(())
    }

    /// Runs a statement as the superuser, in the database of this name.
    pub async fn execute_in(&self, database: &str, statement: &str) -> Result<()> {
        let options = self.admin.connect_options().as_ref().clone();
        let mut session = PgConnection::connect_with(&options.database(database)).await?;
        // The scenarios' own words; names in them are letters, digits and underscores.
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&mut session)
            .await?;
        Ok(session.close().await?)
    }

    /// Ends every session of a database; returns how many. Clients see their connection reset.
    pub async fn disconnect(&self, database: &Database) -> Result<usize> {
        let ended: Vec<bool> = sqlx::query_scalar(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE datname = $1 AND pid <> pg_backend_pid()",
        )
        .bind(&database.name)
        .fetch_all(&self.admin)
        .await?;
        Ok(ended.len())
    }

    /// Lets no one connect to a database, or everybody again. Unlike [`Self::stop`] it leaves the
    /// other scenarios alone.
    pub async fn allow_connections(&self, database: &Database, allowed: bool) -> Result<()> {
        self.execute(&format!(
            "ALTER DATABASE {} ALLOW_CONNECTIONS {allowed}",
            database.name
        ))
        .await?;
        if !allowed {
            self.disconnect(database).await?;
        }
        Ok(())
    }

    /// Starts the server and waits until it accepts connections. Only for scenarios that run alone,
    /// as are the next four: they strike the databases of all scenarios.
    pub async fn start(&self) -> Result<()> {
        let log = self.log();
        self.program(
            "pg_ctl",
            &[
                "-D",
                &self.data(),
                "-l",
                &log.display().to_string(),
                "-w",
                "-t",
                "60",
                "start",
            ],
        )
        .run()
        .await
        .with_context(|| self.log_tail(15))?;
        let process = ProcessId::from_file(&self.record.data.join("postmaster.pid"))?;
        self.state.update(|all| {
            all.postgres = Some(PostgresRecord {
                process: Some(process.clone()),
                ..self.record.clone()
            });
        })?;
        *self.process.lock() = Some(process);
        Ok(())
    }

    /// Stops the server: everybody is disconnected, and connections are refused.
    pub async fn stop(&self) -> Result<()> {
        self.process()?.end(Signal::INT, STOP_PATIENCE).await
    }

    /// Freezes the server with all its sessions: connections stay open and nothing answers, as
    /// behind a broken network or on a stuck disk.
    pub fn freeze(&self) -> Result<()> {
        self.process()?.signal_tree(Signal::STOP)
    }

    /// Lets a frozen server go on.
    pub fn thaw(&self) -> Result<()> {
        self.process()?.signal_tree(Signal::CONT)
    }

    /// Kills the server's main process. Its sessions end by themselves when they notice.
    pub fn kill(&self) -> Result<()> {
        self.process()?.signal(Signal::KILL)
    }

    /// Undoes what a scenario that failed half-way may have left: a frozen or stopped server.
    pub async fn heal(&self) -> Result<()> {
        if self.process()?.runs() {
            self.thaw()
        } else {
            self.start().await
        }
    }

    /// A pool of the superuser, connected to the database `postgres`.
    pub fn admin(&self) -> &PgPool {
        &self.admin
    }

    /// Address of the server for pods, as `host:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.record.gateway, self.record.port)
    }

    /// Has the server log what is asked in a database, by sessions that begin from now on.
    pub async fn log_statements(&self, database: &Database) -> Result<()> {
        let name = &database.name;
        self.execute(&format!("ALTER DATABASE {name} SET log_statement = 'all'"))
            .await
    }

    /// What the first session asked that was logged so, message by message.
    pub fn logged_statements(&self, database: &Database) -> Result<Vec<String>> {
        let log = fs::read(self.log())?;
        Ok(statements(&String::from_utf8_lossy(&log), &database.name))
    }

    /// The end of the server's log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read(self.log()).unwrap_or_default();
        tail(&String::from_utf8_lossy(&text), lines)
    }

    fn connect(state: &State, machine: Machine, binaries: PathBuf, record: PostgresRecord) -> Self {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(record.port)
            .username(USER)
            .password(&record.password)
            .database("postgres")
            .ssl_mode(sqlx::postgres::PgSslMode::Disable);
        let admin = PgPoolOptions::new()
            .max_connections(8)
            .acquire_timeout(Duration::from_secs(20))
            .connect_lazy_with(options);
        Self {
            state: state.clone(),
            process: Arc::new(Mutex::new(record.process.clone())),
            record,
            binaries,
            root: machine.root,
            admin,
        }
    }

    async fn initialise(&self) -> Result<()> {
        let folder = self.record.data.parent().context("no parent folder")?;
        fs::create_dir_all(folder)?;
        let password_file = folder.join("password");
        write_private(&password_file, self.record.password.as_bytes())?;
        self.give_to_user(folder).await?;
        self.program(
            "initdb",
            &[
                "-D",
                &self.data(),
                "-U",
                USER,
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
                "--pwfile",
                &password_file.display().to_string(),
            ],
        )
        .run()
        .await?;
        fs::remove_file(password_file)?;
        self.configure().await?;
        Ok(())
    }

    /// Writes the server's configuration; returns whether anything changed.
    async fn configure(&self) -> Result<bool> {
        let folder = self.certificate_folder();
        Certificates::open(&folder, &self.record.gateway)?;
        self.give_to_user(&folder).await?;
        let mut changed = false;
        for (name, text) in [
            ("postgresql.auto.conf", self.configuration()),
            ("pg_hba.conf", CLIENTS.to_owned()),
        ] {
            let path = self.record.data.join(name);
            if fs::read_to_string(&path).ok().as_ref() != Some(&text) {
                fs::write(&path, text)?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn configuration(&self) -> String {
        let PostgresRecord { gateway, port, .. } = &self.record;
        let certificates = self.certificate_folder();
        let certificates = certificates.display();
        // Durability is worth nothing here, and costs most of the time a small server takes.
        format!(
            "listen_addresses = '127.0.0.1,{gateway}'\n\
             port = {port}\n\
             unix_socket_directories = ''\n\
             max_connections = {MAX_CONNECTIONS}\n\
             fsync = off\n\
             synchronous_commit = off\n\
             full_page_writes = off\n\
             ssl = on\n\
             ssl_cert_file = '{certificates}/server.crt'\n\
             ssl_key_file = '{certificates}/server.key'\n\
             ssl_ca_file = '{certificates}/ca.crt'\n\
             log_line_prefix = '%m [%p] %q%u@%d/%a '\n\
             log_lock_waits = on\n"
        )
    }

    async fn execute(&self, statement: &str) -> Result<()> {
        // Names and passwords in it are our own: letters, digits and underscores.
        sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
            .execute(&self.admin)
            .await?;
        Ok(())
    }

    fn process(&self) -> Result<ProcessId> {
        self.process
            .lock()
            .clone()
            .context("PostgreSQL was not started")
    }

    fn data(&self) -> String {
        self.record.data.display().to_string()
    }

    fn log(&self) -> PathBuf {
        log_of(&self.record.data)
    }

    /// A call of one of PostgreSQL's programs.
    pub(crate) fn program(&self, name: &str, arguments: &[&str]) -> Call {
        let program = self.binaries.join(name).display().to_string();
        self.as_user(&program, arguments)
    }

    /// A call of a program that refuses to run as root.
    pub(crate) fn as_user(&self, program: &str, arguments: &[&str]) -> Call {
        if !self.root {
            return Call::new(program, arguments);
        }
        let mut all = vec!["-u", USER, "--", program];
        all.extend(arguments);
        Call::new("runuser", &all)
    }

    /// Makes a folder and all in it the server's user's.
    pub(crate) async fn give_to_user(&self, folder: &Path) -> Result<()> {
        if self.root {
            let path = folder.display().to_string();
            Call::new("chown", &["-R", &format!("{USER}:"), &path])
                .run()
                .await?;
        }
        Ok(())
    }

    /// Where the server keeps everything of its own.
    pub(crate) fn folder(&self) -> &Path {
        self.record.data.parent().unwrap_or(&self.record.data)
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    pub(crate) fn gateway(&self) -> &str {
        &self.record.gateway
    }

    pub(crate) fn port(&self) -> u16 {
        self.record.port
    }

    pub(crate) fn admin_password(&self) -> &str {
        &self.record.password
    }

    fn certificate_folder(&self) -> PathBuf {
        self.folder().join("tls")
    }

    /// What the server's certificate is verified with; it is for the gateway's address.
    pub fn certificates(&self) -> Result<Certificates> {
        Certificates::open(&self.certificate_folder(), &self.record.gateway)
    }
}

/// Stops the recorded server, if it still runs, and removes its data. What stands beside it must be
/// gone.
pub async fn remove(state: &State) -> Result<()> {
    let Some(record) = state.record()?.postgres else {
        return Ok(());
    };
    let process = match record.process {
        Some(process) => Some(process),
        // Interrupted between the start and the writing down of the number.
        None => ProcessId::from_file(&record.data.join("postmaster.pid")).ok(),
    };
    if let Some(process) = process.filter(ProcessId::runs) {
        // A frozen server hears nothing until it is thawed.
        process.signal_tree(Signal::CONT)?;
        process.end(Signal::QUIT, STOP_PATIENCE).await?;
    }
    if let Some(folder) = record.data.parent()
        && folder.exists()
    {
        fs::remove_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
    }
    state.update(|all| all.postgres = None)?;
    Ok(())
}

/// The server's user cannot enter root's home, so root's servers lie elsewhere.
fn data_folder(state: &State, machine: Machine) -> PathBuf {
    if machine.root {
        Path::new("/var/lib/bytebase-operator-e2e")
            .join(&state.cluster)
            .join("data")
    } else {
        state.path("postgres").join("data")
    }
}

fn log_of(data: &Path) -> PathBuf {
    data.with_file_name("log")
}

/// What the first session in this database asked of which the log has statements. The lines begin
/// as `log_line_prefix` says; further lines of a statement begin with a tab.
fn statements(log: &str, database: &str) -> Vec<String> {
    let place = format!("@{database}/");
    let mut found: Vec<String> = Vec::new();
    let (mut session, mut goes_on) = (None, false);
    for line in log.lines() {
        if let Some(more) = line.strip_prefix('\t') {
            if goes_on && let Some(statement) = found.last_mut() {
                statement.push('\n');
                statement.push_str(more);
            }
            continue;
        }
        let logged = line.split_once(" LOG:  statement: ");
        let logged = logged.filter(|(prefix, _)| prefix.contains(&place));
        goes_on = logged.is_some_and(|(prefix, _)| {
            let process = prefix.split(['[', ']']).nth(1);
            *session.get_or_insert(process) == process
        });
        if goes_on && let Some((_, statement)) = logged {
            found.push(statement.to_owned());
        }
    }
    found
}

/// 24 letters and digits: nothing in it needs quoting in SQL, in a URL or in a shell.
pub fn password() -> String {
    rand::rng()
        .sample_iter(rand::distr::Alphanumeric)
        .take(24)
        .map(char::from)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Database {
        Database {
            name: "scale_up".into(),
            password: "secret".into(),
            host: "172.18.0.1".into(),
            port: 5433,
        }
    }

    #[test]
    fn pods_and_this_machine_use_different_addresses_of_the_same_server() {
        assert_eq!(
            sample().url(),
            "postgres://scale_up:secret@172.18.0.1:5433/scale_up?sslmode=disable"
        );
        assert_eq!(
            sample().local_url(),
            "postgres://scale_up:secret@127.0.0.1:5433/scale_up?sslmode=disable"
        );
        assert_eq!(sample().local_url_at(5433), sample().local_url());
    }

    #[test]
    fn statements_are_those_of_the_first_session_in_a_database() {
        let log = "2026-12-01 03:56:05.869 UTC [7] LOG:  database system is ready\n\
            2026-12-01 03:56:06.355 UTC [8] one@one_1/psql LOG:  statement: SELECT 1\n\
            2026-12-01 03:56:06.355 UTC [9] one@one/psql LOG:  statement: SELECT 2,\n\
            \t  3\n\
            \t\n\
            2026-12-01 03:56:06.400 UTC [9] one@one/psql ERROR:  no\n\
            \tway\n\
            2026-12-01 03:56:06.448 UTC [9] one@one/psql LOG:  statement: SELECT 4\n\
            2026-12-01 03:56:06.500 UTC [10] one@one/psql LOG:  statement: SELECT 5\n\
            \t+ 6\n";
        let expected = ["SELECT 2,\n  3\n", "SELECT 4"];
        assert_eq!(statements(log, "one"), expected);
        assert_eq!(statements(log, "other"), [""; 0]);
    }

    #[test]
    fn passwords_need_no_quoting_and_differ() {
        let (one, two) = (password(), password());
        assert_ne!(one, two);
        assert!(one.len() == 24 && one.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
