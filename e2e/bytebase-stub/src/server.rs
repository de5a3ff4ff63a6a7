//! The start, in Bytebase's order, and the end.

use crate::{
    cli::Flags,
    database::{self, ConnectError, Database},
    entitlement::Entitlement,
    external_url::{self, ExternalUrlError},
    heartbeat,
    http::{self, App},
    knobs::{KnobError, Knobs, Version},
    license::Verifier,
    pg_url::{self, Environment, PgTarget, PgUrlError},
    schema::{self, MigrateError},
    session_lock, signals,
    tasks::Scheduler,
};
use parking_lot::Mutex;
use sqlx::Connection as _;
use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Open requests may end for this long after the listener closed.
const REQUESTS_GRACE: Duration = Duration::from_secs(1);
/// Then the sessions are given back, if the database still answers.
const SESSIONS_GRACE: Duration = Duration::from_millis(500);

/// Why the server did not start. The process ends with code 0 all the same, as Bytebase's does.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The external URL is not acceptable.
    #[error(transparent)]
    ExternalUrl(#[from] ExternalUrlError),
    /// A knob of the stand-in is malformed.
    #[error(transparent)]
    Knob(#[from] KnobError),
    /// Several replicas cannot share an embedded database.
    #[error("HA mode requires external PostgreSQL (set PG_URL environment variable)")]
    HaWithoutDatabase,
    /// Bytebase would start its embedded database here.
    #[error("this stand-in has no embedded PostgreSQL (set PG_URL environment variable)")]
    NoDatabase,
    /// The data directory is missing or read-only.
    #[error("the data directory {path} cannot be used: {error}")]
    DataDirectory {
        /// From the command line.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Somebody else listens there.
    #[error("port {port} is not free: {error}")]
    Port {
        /// From the command line.
        port: u16,
        /// What the system says.
        error: io::Error,
    },
    /// A knob says that this version fails. Like a driver that does not understand what it was
    /// given, it quotes all of it: the login as a URL and as words.
    #[error(
        "version {version} was made to fail: {pg_url} has the parts {}",
        parts(pg_url)
    )]
    MadeToFail {
        /// The version that this binary plays.
        version: Version,
        /// As given, with the password.
        pg_url: String,
    },
    /// `PG_URL` leads nowhere.
    #[error(transparent)]
    PgUrl(#[from] PgUrlError),
    /// No session with the database.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The schema is not what it should be.
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// A server that listens.
pub struct Server {
    database: Database,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Starts everything; when this returns, the port answers.
pub async fn start(flags: &Flags, env: Environment<'_>) -> Result<Server, StartError> {
    let external_url = external_url::normalise(&flags.external_url)?;
    let knobs = Knobs::read(env)?;
    let pg_url = env("PG_URL").filter(|url| !url.is_empty());
    if flags.ha && pg_url.is_none() {
        return Err(StartError::HaWithoutDatabase);
    }
    check_data_directory(&flags.data)?;
    let bind = async || {
        listen(flags.port).await.map_err(|error| StartError::Port {
            port: flags.port,
            error,
        })
    };
    drop(bind().await?);
    let replica_id = uuid::Uuid::new_v4().to_string();
    log_configuration(flags, &external_url, &knobs, &replica_id);

    let pg_url = pg_url.ok_or(StartError::NoDatabase)?;
    let version = knobs.version;
    if knobs.failing_version == Some(version) {
        return Err(StartError::MadeToFail { version, pg_url });
    }
    let target = pg_url::resolve(&pg_url, env)?;
    let database = prepare_database(target, &knobs).await?;
    // A standby takes no heartbeat and serves nevertheless.
    if let Err(error) = heartbeat::send(database.pool(), &replica_id).await {
        tracing::error!(%error, "failed to send heartbeat");
    }
    let verifier = Verifier::from_file(&knobs.public_key_file);
    let entitlement = Arc::new(Entitlement::new(verifier, &knobs, flags.ha));
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let app = App {
        database: database.clone(),
        entitlement,
        knobs,
        replica_id,
        external_url,
        mcp_sessions: Mutex::default(),
        stop: stop.clone(),
    };
    start_runners(&app, flags.ha, &tasks);
    let listener = bind().await?;
    tracing::info!(
        "Bytebase {} has started on port {}",
        app.knobs.version,
        flags.port
    );
    fill_memory(app.knobs.memory_mebibytes);
    let log_mebibytes = app.knobs.log_mebibytes;
    tasks.spawn(http::serve(listener, Arc::new(app)));
    fill_log(log_mebibytes);
    Ok(Server {
        database,
        stop,
        tasks,
    })
}

/// What stands between the separators of a URL.
fn parts(url: &str) -> String {
    let parts = url.split([':', '/', '@', '?']);
    let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
    parts.join(" ")
}

/// Logs so much that the kubelet rotates the log.
fn fill_log(mebibytes: u64) {
    let line = "x".repeat(1000);
    for _ in 0..mebibytes * 1024 {
        tracing::info!("{line}");
    }
}

/// Takes so much memory, and keeps it.
fn fill_memory(mebibytes: u64) {
    for _ in 0..mebibytes {
        let _kept: &mut [u8] = std::hint::black_box(vec![1_u8; 1 << 20].leak());
    }
}

async fn prepare_database(target: PgTarget, knobs: &Knobs) -> Result<Database, StartError> {
    let (mut session, options) = database::connect(&target).await?;
    schema::migrate(&mut session, knobs.version, knobs.migration).await?;
    let database = Database::new(target, options, &mut session).await?;
    // It has done its work; whether the farewell arrives does not matter.
    let _ = session.close().await;
    Ok(database)
}

/// Without `--ha` no task listens: such a process learns nothing from the others.
fn start_runners(app: &App, ha: bool, tasks: &TaskTracker) {
    let (database, stop) = (&app.database, &app.stop);
    tasks.spawn(heartbeat::run(
        database.clone(),
        app.replica_id.clone(),
        app.knobs.clone(),
        stop.clone(),
    ));
    if ha {
        tasks.spawn(signals::run(database.clone(), stop.clone()));
    }
    tasks.spawn(session_lock::run(database.clone(), stop.clone()));
    let scheduler = Scheduler::new(
        database.clone(),
        app.entitlement.clone(),
        app.replica_id.clone(),
        app.knobs.clone(),
        stop.clone(),
    );
    tasks.spawn(scheduler.run());
}

impl Server {
    /// Closes the listener and drops running tasks at once, then ends within about a second.
    pub async fn shut_down(self) {
        self.stop.cancel();
        self.tasks.close();
        let _ = tokio::time::timeout(REQUESTS_GRACE, self.tasks.wait()).await;
        self.database.close(SESSIONS_GRACE).await;
    }
}

fn check_data_directory(path: &Path) -> Result<(), StartError> {
    let probe = path.join(format!(".bytebase-stub-{}", std::process::id()));
    std::fs::write(&probe, [])
        .and_then(|()| std::fs::remove_file(&probe))
        .map_err(|error| StartError::DataDirectory {
            path: path.to_owned(),
            error,
        })
}

/// Both address families where the machine has both.
async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        outcome => outcome,
    }
}

fn log_configuration(flags: &Flags, external_url: &str, knobs: &Knobs, replica_id: &str) {
    let Flags {
        port,
        data,
        external_url: _, // as given; the normalised one is what counts
        ha,
        enable_json_logging,
    } = flags;
    tracing::info!("-----Config BEGIN-----");
    tracing::info!("version={}", knobs.version);
    tracing::info!("replicaID={replica_id}");
    tracing::info!("externalURL={external_url}");
    tracing::info!("port={port}");
    tracing::info!("dataDir={}", data.display());
    tracing::info!("ha={ha}");
    tracing::info!("enableJSONLogging={enable_json_logging}");
    tracing::info!("-----Config END-------");
}
