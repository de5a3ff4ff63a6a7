//! Reading everything in one round trip and one read-only transaction.
//!
//! The server builds one JSON document, sent for with one simple-protocol message: no prepared
//! statement, so that it works through any pooler, and one snapshot, so that the facts belong
//! together. A query that names a missing table fails as a whole, so the document also says which
//! tables there are, and the query is built for those seen last time ([`Shape`]): one round trip
//! while nothing changes, a second one when a table has appeared or gone. In a quiet cluster most
//! readings leave out what catalogs say ([`Seen`]).
//!
//! What no index serves is a question of its own ([`abandoned`]), for which the server has less
//! time, and without whose answer the rest stands.

use super::WhoseLogin;
use super::classify::{self, Moment, Place};
use super::facts::{self, Catalog, Document, Live, MAX_NAME, SessionFacts, facts, shape_of};
use super::query::{self, Extent, HEARTBEAT_TABLE, SETTINGS_OF_ROLE, Shape, TASK_TABLE, query};
use crate::contract::{hook, session_key};
use crate::observation::reading::ReadOptions;
use crate::observation::{
    DatabaseFacts, DatabaseIdentity, FailureClass, FailureReason, ProbeFailure, RunningTasks,
};
use futures::TryStreamExt as _;
use sqlx::postgres::{PgConnection, PgDatabaseError, PgRow, PgSeverity};
use sqlx::{AssertSqlSafe, Row};
use std::future::ready;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Limit of our own, later than the server's so that its answer can still arrive.
pub const READ_TIMEOUT: Duration = Duration::from_secs(6);

/// The same for [`abandoned`], for which a reading waits that has been made already.
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(4);

/// A document is read at most this often in one probe: once for the shape, once for the facts, once
/// for a table that came or went in between.
const MAX_ROUNDS: u32 = 3;

/// What the catalogs say is read this often in a quiet cluster.
const CATALOG_KEPT: Duration = Duration::from_secs(30);

/// What earlier readings of a database found, on one connection.
#[derive(Default)]
pub struct Seen {
    shape: Shape,
    /// What its catalogs said, and when they were read.
    catalog: Option<(Instant, Catalog)>,
    /// The version of the schema then. Another one means that a migration has been there.
    version: Option<String>,
}

/// Reads the facts. `seen` is what earlier calls on this connection found, and is left at what this
/// one finds.
pub async fn read(
    connection: &mut PgConnection,
    seen: &mut Seen,
    read_options: ReadOptions,
    session: &SessionFacts,
    place: &Place<'_>,
    login: &WhoseLogin,
) -> Result<DatabaseFacts, ProbeFailure> {
    for _ in 0..MAX_ROUNDS {
        let known = seen.known(read_options);
        let extent = match &known {
            Some(_) => Extent::Live,
            None => Extent::Whole {
                sessions: read_options.sessions,
            },
        };
        let row = match fetch(connection, query(seen.shape, extent, login, place.url())).await {
            Ok(row) => row,
            Err(Failed::Sql(error))
                if seen.shape != Shape::default() && shape_is_outdated(&error) =>
            {
                *seen = Seen::default();
                continue;
            }
            Err(Failed::Sql(error)) => return Err(classify::query(&error, place)),
            Err(Failed::TimedOut) => {
                return Err(classify::timed_out(place, Moment::Query, READ_TIMEOUT));
            }
        };
        let live = Live::parse(&column(&row, 0), place)?;
        let is_of_known = known.is_some();
        let catalog = match known {
            Some(catalog) => catalog,
            None => Catalog::parse(&column(&row, 1), place)?,
        };
        let found = shape_of(&catalog, place, login)?;
        let is_same = found == seen.shape && !(is_of_known && live.version != seen.version);
        if !is_of_known || !is_same {
            *seen = Seen {
                shape: found,
                catalog: is_same.then(|| (Instant::now(), catalog.clone())),
                version: live.version.clone(),
            };
        }
        if is_same {
            let knows_role = catalog.knows_role == Some(true);
            let facts = facts(Document { catalog, live }, found, session);
            return match login.distrust(&facts, place.database(), knows_role) {
                None => Ok(facts),
                Some(why) => {
                    Err(place.failure(FailureClass::Unknown, FailureReason::MonitorElsewhere, &why))
                }
            };
        }
    }
    Err(place.failure(
        FailureClass::Unknown,
        FailureReason::Other,
        "the tables changed while they were read; a schema migration is going on",
    ))
}

impl Seen {
    /// What need not be read now: catalogs cost the server twice as much as all the rest. Each step
    /// of a rollout rests on a reading of its own with the sessions, so on catalogs as they are
    /// then.
    fn known(&self, read_options: ReadOptions) -> Option<Catalog> {
        let (at, catalog) = self.catalog.as_ref()?;
        let suffices =
            read_options.is_quiet() && self.shape.principal && at.elapsed() < CATALOG_KEPT;
        suffices.then(|| catalog.clone())
    }

    /// Whether a new session would begin with other settings than this one did, by the catalogs as
    /// they were last read.
    pub fn is_outdated(&self, session: &SessionFacts) -> bool {
        let catalog = self.catalog.as_ref();
        catalog.is_some_and(|(_, catalog)| catalog.settings != session.settings)
    }

    /// Whether the tables are such that [`abandoned`] can be asked.
    pub fn shows_abandoned(&self) -> bool {
        let tables = self.shape.tables;
        tables[HEARTBEAT_TABLE] && tables[TASK_TABLE] && self.shape.results
    }
}

/// Asks which tasks Bytebase has failed as abandoned, by owner. `None` where the server goes on and
/// has no answer: it took too long, or the tables have just become others.
///
/// In a transaction of its own, which the time limit does not outlive.
pub async fn abandoned(
    connection: &mut PgConnection,
    place: &Place<'_>,
    login: &WhoseLogin,
) -> Result<Option<Vec<RunningTasks>>, ProbeFailure> {
    let answer = fetch(connection, query::abandoned(login, place.url()));
    match timeout(ABANDONED_TIMEOUT, answer).await {
        Ok(Ok(row)) => Ok(facts::abandoned(&text_of(&row), place).ok()),
        Ok(Err(Failed::Sql(error))) if is_outlived(&error) => Ok(None),
        Ok(Err(Failed::Sql(error))) => Err(classify::query(&error, place)),
        Ok(Err(Failed::TimedOut)) | Err(_) => {
            Err(classify::timed_out(place, Moment::Query, ABANDONED_TIMEOUT))
        }
    }
}

/// Which server a session is on.
pub struct Server {
    /// Which database this is.
    pub identity: DatabaseIdentity,
    /// How long the server had run at that moment, by its own clock.
    pub uptime: Duration,
    /// Where it was reached; `None` over a socket of its own machine.
    pub reached_at: Option<SocketAddr>,
    /// See [`SessionFacts::settings`].
    pub settings: Option<i64>,
}

/// Reads which server this is.
pub async fn read_server(
    connection: &mut PgConnection,
    place: &Place<'_>,
) -> Result<Server, ProbeFailure> {
    const VERSION: &str = "SELECT version()";
    const SYSTEM: &str = "SELECT system_identifier::text FROM pg_control_system()";
    const REST: &str = "SELECT coalesce(host(inet_server_addr()), '') || ' ' || coalesce(inet_server_port(), 0) || ' ' \
         || oid || ' ' || extract(epoch FROM pg_postmaster_start_time()) || ' ' \
         || greatest(0, floor(extract(epoch FROM clock_timestamp() - pg_postmaster_start_time())))::bigint \
         || ' ' || coalesce({settings}::text, '') \
         FROM pg_database WHERE datname = current_database()";
    let classified = |failed| match failed {
        Failed::Sql(error) => classify::query(&error, place),
        Failed::TimedOut => classify::timed_out(place, Moment::Query, READ_TIMEOUT),
    };
    let version = text_of(
        &fetch(connection, VERSION.to_owned())
            .await
            .map_err(classified)?,
    );
    if let Some(product) = other_product(&version) {
        let text = format!(
            "this is {product}, not PostgreSQL, and lacks what Bytebase keeps its metadata by (advisory locks, LISTEN, heartbeats); give it a PostgreSQL 14 or later"
        );
        return Err(place.failure(FailureClass::Definite, FailureReason::NotPostgres, &text));
    }
    // Managed servers may forbid the function, or not have it.
    let system = match fetch(connection, SYSTEM.to_owned()).await {
        Ok(row) => Some(text_of(&row)),
        Err(Failed::Sql(sqlx::Error::Database(_))) => None,
        Err(failed) => return Err(classified(failed)),
    };
    let rest = text_of(
        &fetch(connection, REST.replace("{settings}", SETTINGS_OF_ROLE))
            .await
            .map_err(classified)?,
    );
    let mut parts = rest.splitn(6, ' ');
    let mut next = || parts.next().unwrap_or_default();
    let (address, port, database, server_start) = (next(), next(), next(), next());
    let uptime = next().parse().map_or(Duration::ZERO, Duration::from_secs);
    let settings = next().trim().parse().ok();
    if server_start.len() > MAX_NAME {
        return Err(place.failure(
            FailureClass::Unknown,
            FailureReason::Other,
            "the server does not say when it was started",
        ));
    }
    let server = system.unwrap_or_else(|| format!("{address}:{port}"));
    let reached_at = address.parse::<IpAddr>().ok().zip(port.parse().ok());
    Ok(Server {
        identity: DatabaseIdentity::new(&format!("{server}/{database}"), server_start),
        uptime,
        reached_at: reached_at.map(SocketAddr::from),
        settings,
    })
}

/// Who speaks PostgreSQL's protocol without being it, by what the server calls itself.
fn other_product(version: &str) -> Option<&'static str> {
    const PRODUCTS: [(&str, &str); 7] = [
        ("CockroachDB", "CockroachDB"),
        ("-YB-", "YugabyteDB"),
        ("Redshift", "Amazon Redshift"),
        ("Greenplum", "Greenplum"),
        ("Materialize", "Materialize"),
        ("RisingWave", "RisingWave"),
        ("CrateDB", "CrateDB"),
    ];
    let known = PRODUCTS.iter().find(|(mark, _)| version.contains(mark));
    match known {
        Some((_, name)) => Some(name),
        // `EnterpriseDB` puts its own name in front or behind.
        None if version.starts_with("PostgreSQL ") || version.contains("EnterpriseDB") => None,
        None => Some("another database"),
    }
}

pub(super) enum Failed {
    Sql(sqlx::Error),
    TimedOut,
}

/// Runs one message and returns its last row: of all its statements the last one is the question.
pub(super) async fn fetch(connection: &mut PgConnection, sql: String) -> Result<PgRow, Failed> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch(connection);
    // One at a time is held: an answer of many short rows takes several times its bytes.
    let last = rows.try_fold(None, |_, row| ready(Ok(Some(row))));
    match timeout(READ_TIMEOUT, last).await {
        Ok(Ok(Some(row))) => Ok(row),
        Ok(Ok(None)) => Err(Failed::Sql(sqlx::Error::RowNotFound)),
        Ok(Err(error)) => Err(Failed::Sql(error)),
        Err(_) => Err(Failed::TimedOut),
    }
}

/// The first column.
pub(super) fn text_of(row: &PgRow) -> String {
    column(row, 0)
}

/// A column, whatever its bytes: a database in `SQL_ASCII` may hold any.
fn column(row: &PgRow, place: usize) -> String {
    row.try_get_raw(place)
        .ok()
        .and_then(|value| {
            value
                .as_bytes()
                .ok()
                .map(|b| String::from_utf8_lossy(b).into_owned())
        })
        .unwrap_or_default()
}

/// Asks the drain hooks whose sessions have these names to let their replicas end, and takes the
/// request back from all others: by advisory locks, which the server releases with this session.
/// Returns the names of the sessions that were found and whose keys could be known: without
/// `pg_monitor` the server does not show when another role's session began.
pub(super) async fn let_go(
    connection: &mut PgConnection,
    sessions: &[String],
) -> Result<Vec<String>, Failed> {
    let asked = async {
        // Locks of a session are counted, so what was asked before is taken back first.
        // By the role that logged in, to which the server shows what its sessions are. Their locks
        // outlive the transaction.
        let release = "BEGIN; SET LOCAL ROLE NONE; SELECT pg_advisory_unlock_all()";
        sqlx::raw_sql(release).execute(&mut *connection).await?;
        let ask = sqlx::query_as::<_, (String, Option<bool>)>(concat!(
            "SELECT application_name, pg_try_advisory_lock_shared($1, ",
            session_key!(),
            ") FROM pg_stat_activity WHERE datname = current_database() AND application_name = ANY($2)",
        ));
        let ask = ask.bind(hook::LET_GO).bind(sessions).persistent(false);
        let found = ask.fetch_all(&mut *connection).await;
        sqlx::raw_sql("COMMIT").execute(connection).await?;
        let locked = found?
            .into_iter()
            .filter(|(_, locked)| *locked == Some(true));
        Ok(locked.map(|(session, _)| session).collect())
    };
    match timeout(READ_TIMEOUT, asked).await {
        Ok(asked) => asked.map_err(Failed::Sql),
        Err(_) => Err(Failed::TimedOut),
    }
}

/// The table, a column or the right that the query was built for is gone. Row security is no such
/// right: another shape does not get around it.
fn shape_is_outdated(error: &sqlx::Error) -> bool {
    let is_gone = |error: &PgDatabaseError| match error.code() {
        "42501" => error.routine() != Some(classify::ROW_SECURITY),
        code => matches!(code, "42P01" | "42703"),
    };
    matches!(error, sqlx::Error::Database(e)
        if e.try_downcast_ref::<PgDatabaseError>().is_some_and(is_gone))
}

/// It is the server's answer, and its session goes on.
fn is_outlived(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e)
        if e.try_downcast_ref::<PgDatabaseError>().is_some_and(|e| e.severity() == PgSeverity::Error))
}
