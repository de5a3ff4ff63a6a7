//! Servers that stand beside PostgreSQL for one scenario: a streaming standby, a connection pooler.
//! Each is written down before it is started and goes with its scenario, or with PostgreSQL itself.

use crate::machine::process::ProcessId;
use crate::postgres::{Database, Server};
use crate::session::state::{CompanionRecord, State, write_private};
use crate::wait;
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use sqlx::Connection as _;
use sqlx::postgres::{PgConnection, PgPoolOptions};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use testkit::programs::USER;
use testkit::{ports, programs};

/// Both end at once when asked to quit.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// A program that goes to the background writes its number a moment later.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How PgBouncer shares server sessions among its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// A server session per client session.
    Session,
    /// A server session per transaction.
    Transaction,
}

impl fmt::Display for PoolMode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Session => "session",
            Self::Transaction => "transaction",
        })
    }
}

impl Server {
    /// Starts a hot standby that follows this server; returns its port, at the same addresses.
    pub async fn start_standby(&self, owner: &str) -> Result<u16> {
        self.start_standby_of(self.port(), owner).await
    }

    /// The same of the server at this port, which may be a standby that has been promoted.
    pub async fn start_standby_of(&self, primary: u16, owner: &str) -> Result<u16> {
        let port = ports::free();
        let folder = self.companion_folder(owner, port).await?;
        let data = folder.join("data");
        let path = data.display().to_string();
        let primary = primary.to_string();
        let pid_file = data.join("postmaster.pid");
        self.note(owner, &folder, &pid_file, None)?;
        self.program(
            "pg_basebackup",
            &[
                "--pgdata",
                &path,
                "--host=127.0.0.1",
                "--port",
                &primary,
                "--username",
                USER,
                "--checkpoint=fast",
                "--wal-method=stream",
                "--write-recovery-conf",
                "--no-sync",
            ],
        )
        .env("PGPASSWORD", self.admin_password())
        .run()
        .await?;
        // The copy came with the configuration of the original; of two lines for a setting the last
        // counts. What it shares with its sessions lies in its folder, so that nothing of one that
        // is killed is left.
        let configuration = data.join("postgresql.auto.conf");
        let text = fs::read_to_string(&configuration)?;
        let own = format!("{text}port = {port}\ndynamic_shared_memory_type = mmap\n");
        fs::write(&configuration, own)?;
        let log = folder.join("log").display().to_string();
        self.program(
            "pg_ctl",
            &["-D", &path, "-l", &log, "-w", "-t", "60", "start"],
        )
        .run()
        .await?;
        self.note(
            owner,
            &folder,
            &pid_file,
            Some(ProcessId::from_file(&pid_file)?),
        )?;
        Ok(port)
    }

    /// Has a standby go on as a primary; returns once it takes writes.
    pub async fn promote(&self, standby: u16) -> Result<()> {
        let options = self.admin().connect_options().as_ref().clone();
        let mut session = PgConnection::connect_with(&options.port(standby)).await?;
        let is_promoted: bool = sqlx::query_scalar("SELECT pg_promote()")
            .fetch_one(&mut session)
            .await?;
        session.close().await?;
        ensure!(is_promoted, "the standby at port {standby} still follows");
        Ok(())
    }

    /// Kills what this owner has at this port, with all its sessions at once, as where its machine
    /// is lost.
    pub fn kill_companion(&self, owner: &str, port: u16) -> Result<()> {
        let folder = self.companion_path(owner, port);
        let companions = self.state().record()?.companions;
        let companion = companions.iter().find(|other| other.folder == folder);
        let process = companion.and_then(|companion| companion.process.as_ref());
        process.context("it was not started")?.kill_tree()
    }

    /// Starts PgBouncer before this server, for one database's owner; returns its port at the
    /// gateway.
    pub async fn start_pooler(
        &self,
        owner: &str,
        mode: PoolMode,
        database: &Database,
    ) -> Result<u16> {
        let port = ports::free();
        let folder = self.companion_folder(owner, port).await?;
        let shown = folder.display();
        let pid_file = folder.join("pid");
        self.note(owner, &folder, &pid_file, None)?;
        let Database { name, password, .. } = database;
        write_private(
            &folder.join("users"),
            format!("\"{name}\" \"{password}\"\n").as_bytes(),
        )?;
        let configuration = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n\
             * = host=127.0.0.1 port={server}\n\
             [pgbouncer]\n\
             listen_addr = {gateway}\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = scram-sha-256\n\
             auth_file = {shown}/users\n\
             pool_mode = {mode}\n\
             max_client_conn = 200\n\
             default_pool_size = 60\n\
             ignore_startup_parameters = extra_float_digits\n\
             logfile = {shown}/log\n\
             pidfile = {shown}/pid\n",
            server = self.port(),
            gateway = self.gateway(),
        );
        fs::write(&configuration, text)?;
        self.give_to_user(&folder).await?;
        let program = programs::pgbouncer()?.display().to_string();
        self.as_user(
            &program,
            &["-d", "-q", &configuration.display().to_string()],
        )
        .run()
        .await?;
        let process = wait::until(
            "PgBouncer's number",
            START_PATIENCE,
            || async { Ok(ProcessId::from_file(&pid_file).ok()) },
            Option::is_some,
        )
        .await?;
        self.note(owner, &folder, &pid_file, process)?;
        let url = database.url_at(&format!("{}:{port}", self.gateway()), "sslmode=disable");
        let pool = PgPoolOptions::new()
            .acquire_timeout(START_PATIENCE)
            .connect(&url)
            .await
            .context("a first login through PgBouncer")?;
        pool.close().await;
        Ok(port)
    }

    /// Stops and removes what stands beside the server for this owner.
    pub async fn remove_companions(&self, owner: &str) -> Result<()> {
        remove(self.state(), |companion| companion.owner == owner).await
    }

    fn companion_path(&self, owner: &str, port: u16) -> PathBuf {
        let name = format!("{owner}-{port}");
        self.folder().join("companions").join(name)
    }

    async fn companion_folder(&self, owner: &str, port: u16) -> Result<PathBuf> {
        let folder = self.companion_path(owner, port);
        fs::create_dir_all(&folder)?;
        self.give_to_user(&folder).await?;
        Ok(folder)
    }

    fn note(
        &self,
        owner: &str,
        folder: &Path,
        pid_file: &Path,
        process: Option<ProcessId>,
    ) -> Result<()> {
        let note = CompanionRecord {
            owner: owner.to_owned(),
            folder: folder.to_owned(),
            pid_file: pid_file.to_owned(),
            process,
        };
        self.state().update(|all| {
            all.companions.retain(|other| other.folder != note.folder);
            all.companions.push(note);
        })?;
        Ok(())
    }
}

/// Stops and removes the recorded companions that are `chosen`.
pub async fn remove(state: &State, chosen: impl Fn(&CompanionRecord) -> bool) -> Result<()> {
    for companion in state.record()?.companions {
        if !chosen(&companion) {
            continue;
        }
        let CompanionRecord {
            folder,
            pid_file,
            process,
            ..
        } = &companion;
        // Without a number it was interrupted between the start and the writing down.
        let process = process
            .clone()
            .or_else(|| ProcessId::from_file(pid_file).ok());
        if let Some(process) = process.filter(ProcessId::runs) {
            // A frozen one hears nothing until it is thawed.
            process.signal_tree(Signal::CONT)?;
            process.end(Signal::QUIT, STOP_PATIENCE).await?;
        }
        if folder.exists() {
            fs::remove_dir_all(folder).with_context(|| format!("{}", folder.display()))?;
        }
        state.update(|all| all.companions.retain(|other| other.folder != *folder))?;
    }
    Ok(())
}
