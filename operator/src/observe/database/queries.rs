//! Reading everything in one round trip and one read-only transaction.
//!
//! The server builds one JSON document, sent for with one simple-protocol message: no prepared
//! statement, so that it works through any pooler, and one snapshot, so that the facts belong
//! together. A query that names a missing table fails as a whole, so the document also says which
//! tables there are, and the query is built for those seen last time ([`Shape`]): one round trip
//! while nothing changes, a second one when a table has appeared or gone. In a quiet cluster most
//! readings leave out what catalogs say ([`Seen`]).
//!
//! What no index serves is a question of its own ([`abandoned`]), for which the server has less time,
//! and without whose answer the rest stands.
//!
//! Tables are named without a schema, as Bytebase names them: the `search_path` decides.

use super::WhoseLogin;
use super::classify::{self, Moment, Place};
use super::connect;
use crate::contract::pg_url::PgUrl;
use crate::contract::version::Version;
use crate::contract::{hook, session_key};
use crate::observation::reading::ReadOptions;
use crate::observation::{
    DatabaseFacts, DatabaseIdentity, Fact, FailureClass, FailureReason, Heartbeat, ListenSession,
    ProbeFailure, RunningTasks, SchemaState, Sessions, StoredLicense, TaskRuns,
};
use futures::TryStreamExt as _;
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use sha2::{Digest as _, Sha256};
use sqlx::postgres::{PgConnection, PgDatabaseError, PgRow, PgSeverity};
use sqlx::{AssertSqlSafe, Row};
use std::fmt::{self, Write as _};
use std::future::ready;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

/// Limit set at the server, so that a cancelled probe leaves nothing running there.
const STATEMENT_TIMEOUT: &str = "4s";

/// Limit of our own, later than the server's so that its answer can still arrive.
pub const READ_TIMEOUT: Duration = Duration::from_secs(6);

/// The same two for [`abandoned`], for which a reading waits that has been made already.
const ABANDONED_STATEMENT_TIMEOUT: &str = "2s";
const ABANDONED_TIMEOUT: Duration = Duration::from_secs(4);

/// Rows of `replica_heartbeat` kept. Rows of ended processes stay up to two hours; those beyond one
/// hour are not read at all.
const MAX_HEARTBEATS: u32 = 100;

/// The oldest that a heartbeat is taken for, as old as the query asks for: ages are added to, and a
/// server may answer with any number.
const OLDEST_HEARTBEAT: Duration = Duration::from_hours(1);

/// Listening sessions and task owners kept; far beyond any number of replicas.
const MAX_ROWS: u32 = 200;

/// Ids of task runs kept of each owner, to be named in a message.
const MAX_RUNS: u32 = 10;

/// Bytes of a name in PostgreSQL, its end included; addresses and times are shorter.
const MAX_NAME: usize = 64;

/// Bytes of the id of a workspace. Bytebase makes much shorter ones.
const MAX_WORKSPACE: usize = 256;

/// Bytes of a license. Those that Bytebase issues have one or two thousand.
const MAX_LICENSE: usize = 16 * 1024;

/// Waiting task runs are counted up to here: what matters is none or some, and a count must not
/// scan a whole queue.
const MAX_COUNT: u32 = 10_000;

/// A document is read at most this often in one probe: once for the shape, once for the facts, once
/// for a table that came or went in between.
const MAX_ROUNDS: u32 = 3;

/// Tables the document draws from, the columns it needs of each, and the first version of the schema
/// that has them all. One that lacks a column is of an older Bytebase, or of one that this operator
/// does not know; which of the two, the version of the schema says. To its patch number: a migration
/// may end between any two.
const EXPECTED: [(&str, &[&str], Version); 5] = [
    (
        "replica_heartbeat",
        &["replica_id", "last_heartbeat"],
        HEARTBEATS_SINCE,
    ),
    (
        "instance_change_history",
        &["id", "version"],
        Version::new(0, 0, 0),
    ),
    ("workspace", &["resource_id", "deleted"], WORKSPACES_SINCE),
    ("setting", &["name", "workspace", "value"], WORKSPACES_SINCE),
    ("task_run", &["status", "replica_id"], HEARTBEATS_SINCE),
];

const HEARTBEATS_SINCE: Version = Version::new(3, 14, 27);
const WORKSPACES_SINCE: Version = Version::new(3, 17, 9);

/// What the catalogs say is read this often in a quiet cluster.
const CATALOG_KEPT: Duration = Duration::from_secs(30);

/// The encoding that Bytebase needs.
const UTF8: &str = "UTF8";

/// Places in `EXPECTED`.
const HEARTBEAT_TABLE: usize = 0;
const HISTORY: usize = 1;
const WORKSPACE_TABLE: usize = 2;
const SETTING_TABLE: usize = 3;
const TASK_TABLE: usize = 4;

/// What earlier readings of a database found, on one connection.
#[derive(Default)]
pub struct Seen {
    shape: Shape,
    /// What its catalogs said, and when they were read.
    catalog: Option<(Instant, Catalog)>,
    /// The version of the schema then. Another one means that a migration has been there.
    version: Option<String>,
}

/// How much one message asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// [`Live`] without the sessions.
    Live,
    /// All, with the sessions or without.
    Whole { sessions: bool },
}

/// What a database was last seen to hold.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is of another table or column, which comes and goes by itself"
)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    /// It has Bytebase's `principal`, so tables of others need not be searched for.
    principal: bool,
    /// Who signed up may be read of it.
    users: bool,
    /// `task_run` says from when on each may run.
    run_at: bool,
    /// And since when each has run, and when it was last changed.
    begun: bool,
    /// And what came of each, and when it was last changed.
    results: bool,
    /// And each has an id.
    ids: bool,
    /// Which of the expected tables are there, in the order of `EXPECTED`.
    tables: [bool; EXPECTED.len()],
}

/// Facts that hold as long as a connection does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFacts {
    /// See [`DatabaseFacts::identity`].
    pub identity: DatabaseIdentity,
    /// Since when the server has run, by this process' clock.
    pub server_since: Instant,
    /// See [`DatabaseFacts::transaction_pooler`].
    pub transaction_pooler: Option<bool>,
    /// See [`DatabaseFacts::has_version_1_certificate`].
    pub has_version_1_certificate: bool,
    /// What was set for the role when the session began, as [`SETTINGS_OF_ROLE`] tells it.
    pub settings: Option<i64>,
}

/// All that a reading knows. The field names of its parts are those of the query.
struct Document {
    catalog: Catalog,
    live: Live,
}

/// What the server's catalogs and settings say. While nothing is under way it changes by the hand of
/// an administrator only.
#[derive(Clone, Deserialize)]
struct Catalog {
    server_version_num: u32,
    encoding: String,
    max_connections: u32,
    reserved_connections: u32,
    role_connections: Option<u32>,
    database_connections: Option<u32>,
    settings: Option<i64>,
    schema: Option<String>,
    /// Only for a monitoring login, as is the next.
    #[serde(default)]
    unseen: Option<String>,
    knows_role: Option<bool>,
    can_create: Option<bool>,
    missing_schema: Option<String>,
    not_owned: Option<String>,
    principal: Option<String>,
    users_shown: Option<bool>,
    task_times: Option<AtMost<Name, MAX_ROWS>>,
    results_shown: Option<bool>,
    ids_shown: Option<bool>,
    /// Only where there are tasks.
    other_states: Option<bool>,
    foreign: Option<String>,
    off_path: Option<String>,
    tables: Option<AtMost<TableSeen, MAX_ROWS>>,
}

/// What the tables of Bytebase and the sessions of the database say.
#[derive(Deserialize)]
struct Live {
    in_recovery: bool,
    read_only: bool,
    clock: Option<f64>,
    sessions: Option<SessionsSeen>,
    others: Option<AtMost<(Option<Name>, Option<Name>), MAX_ROWS>>,
    heartbeats: Option<AtMost<(Option<String>, f64), MAX_HEARTBEATS>>,
    version: Option<String>,
    license: Option<(String, Option<String>)>,
    has_users: Option<bool>,
    running: Option<AtMost<(String, u64), MAX_ROWS>>,
    runs: Option<AtMost<(String, AtMost<i64, MAX_RUNS>), MAX_ROWS>>,
    unbegun: Option<AtMost<(String, u64), MAX_ROWS>>,
    pending: Option<u64>,
    available: Option<u64>,
}

#[derive(Deserialize)]
struct SessionsSeen {
    migration_running: bool,
    queue_held_by: Option<AtMost<Option<Name>, MAX_ROWS>>,
    sees_all: bool,
    /// A session whose question is not shown may be a replica's. Its name is shown whoever reads
    /// it: those of replicas end like those of their pods, unless a pooler has taken them away.
    hidden: Option<bool>,
    listeners: Option<AtMost<(Option<Name>, Option<Name>), MAX_ROWS>>,
}

#[derive(Clone, Deserialize)]
struct TableSeen {
    name: String,
    complete: bool,
    readable: bool,
}

/// A name that is kept. A longer one than a server can have makes the whole answer one that is not
/// understood: names fill the memory as long as the cluster is there.
#[derive(Clone)]
struct Name(String);

/// A list that is read as far as it was asked for: a server that sends more must not fill the
/// memory.
#[derive(Clone, Default)]
struct AtMost<T, const N: u32>(Vec<T>);

// === impl Name ===

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        if name.len() > MAX_NAME {
            return Err(D::Error::custom("too long for a name"));
        }
        Ok(Self(name))
    }
}

// === impl AtMost ===

impl<'de, T: Deserialize<'de>, const N: u32> Deserialize<'de> for AtMost<T, N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List<T, const N: u32>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const N: u32> Visitor<'de> for List<T, N> {
            type Value = AtMost<T, N>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Self::Value, A::Error> {
                let mut kept = Vec::new();
                for _ in 0..N {
                    match rows.next_element()? {
                        Some(row) => kept.push(row),
                        None => return Ok(AtMost(kept)),
                    }
                }
                while rows.next_element::<IgnoredAny>()?.is_some() {}
                Ok(AtMost(kept))
            }
        }

        deserializer.deserialize_seq(List(PhantomData))
    }
}

impl<T, const N: u32> AtMost<T, N> {
    /// The rows of a list that may be missing.
    fn rows(list: Option<&Self>) -> impl Iterator<Item = &T> {
        list.into_iter().flat_map(|list| &list.0)
    }
}

// === Reading ===

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
                Some(why) => Err(elsewhere(place, &why)),
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
    /// What need not be read now: catalogs cost the server twice as much as all the rest. Each step of
    /// a rollout rests on a reading of its own with the sessions, so on catalogs as they are then.
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
    let begin = begin(ABANDONED_STATEMENT_TIMEOUT, login, place.url());
    let question = ABANDONED.replace("{rows}", &MAX_ROWS.to_string());
    let answer = fetch(connection, format!("{begin}{question}"));
    match timeout(ABANDONED_TIMEOUT, answer).await {
        Ok(Ok(row)) => {
            let rows = part::<AtMost<(String, u64), MAX_ROWS>>(&text_of(&row), place);
            Ok(rows.ok().map(|rows| running_tasks(rows.0)))
        }
        Ok(Err(Failed::Sql(error))) if is_outlived(&error) => Ok(None),
        Ok(Err(Failed::Sql(error))) => Err(classify::query(&error, place)),
        Ok(Err(Failed::TimedOut)) | Err(_) => {
            Err(classify::timed_out(place, Moment::Query, ABANDONED_TIMEOUT))
        }
    }
}

/// Reads one part of the answer.
fn part<T: DeserializeOwned>(text: &str, place: &Place<'_>) -> Result<T, ProbeFailure> {
    serde_json::from_str(text).map_err(|error| {
        // The error itself quotes what it stumbled over.
        let text = format!(
            "the answer is not what was asked for (at column {})",
            error.column()
        );
        place.failure(FailureClass::Unknown, FailureReason::Other, &text)
    })
}

impl Catalog {
    /// What messages take over from it is made fit for them.
    fn parse(text: &str, place: &Place<'_>) -> Result<Self, ProbeFailure> {
        let mut catalog: Self = part(text, place)?;
        let Self {
            encoding,
            unseen,
            missing_schema,
            not_owned,
            principal,
            foreign,
            off_path,
            ..
        } = &mut catalog;
        let names = [
            unseen,
            missing_schema,
            not_owned,
            principal,
            foreign,
            off_path,
        ];
        for name in names.into_iter().flatten() {
            *name = place.foreign(name);
        }
        if encoding != UTF8 {
            *encoding = place.foreign(encoding);
        }
        // No other table was asked for.
        if let Some(tables) = &mut catalog.tables {
            let is_expected =
                |table: &TableSeen| EXPECTED.iter().any(|(name, ..)| *name == table.name);
            tables.0.retain(is_expected);
        }
        Ok(catalog)
    }
}

impl Live {
    /// What messages take over from it is made fit for them.
    fn parse(text: &str, place: &Place<'_>) -> Result<Self, ProbeFailure> {
        let mut live: Self = part(text, place)?;
        let sessions = live.sessions.as_mut();
        let holders = sessions.and_then(|sessions| sessions.queue_held_by.as_mut());
        let holders = holders.into_iter().flat_map(|holders| &mut holders.0);
        let others = live.others.iter_mut().flat_map(|others| &mut others.0);
        let others = others.flat_map(|(role, name)| [role, name]);
        for Name(name) in holders.chain(others).flatten() {
            *name = place.foreign(name);
        }
        Ok(live)
    }
}

fn elsewhere(place: &Place<'_>, why: &str) -> ProbeFailure {
    place.failure(
        FailureClass::Unknown,
        FailureReason::MonitorElsewhere,
        &format!("{why}; give database.monitorSecretRef a connection string that leads to the database of PG_URL, on its primary"),
    )
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

/// The table, a column or the right that the query was built for is gone.
fn shape_is_outdated(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e)
        if e.try_downcast_ref::<PgDatabaseError>().is_some_and(|e| matches!(e.code(), "42P01" | "42703" | "42501")))
}

/// It is the server's answer, and its session goes on.
fn is_outlived(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(e)
        if e.try_downcast_ref::<PgDatabaseError>().is_some_and(|e| e.severity() == PgSeverity::Error))
}

// === The query ===

// No string in them has a backslash, which means something else where `standard_conforming_strings`
// is off.

/// What is read from catalogs, and needs no table of Bytebase's. Words in braces are filled in.
const CATALOG: &str = include_str!("sql/catalog.sql");

/// What goes before each reading.
const BEGIN: &str = include_str!("sql/begin.sql");

/// What is read each time. Words in braces are filled in.
const LIVE: &str = include_str!("sql/live.sql");

/// What a new session of Bytebase's role has as one setting, by the server's own order of
/// precedence: for the role in the database, for the role, for the database. NULL where it is
/// set for none of these.
const ROLE_SETTING: &str = include_str!("sql/role_setting.sql");

/// A number for all that is set for the role that logged in, for the database and for both: another
/// one means that a new session begins with other settings. An open session keeps those that it
/// began with, its `search_path` among them.
const SETTINGS_OF_ROLE: &str = include_str!("sql/settings_of_role.sql");

/// For a monitoring login: names without a schema then mean what they mean to Bytebase.
const PATH_OF_ROLE: &str = include_str!("sql/path_of_role.sql");

/// For a monitoring login: a schema that Bytebase's role may use and the login may not, where
/// tables would seem not to exist.
const UNSEEN: &str = include_str!("sql/unseen.sql");

/// The first schema of the `search_path`, if none of them exists.
const MISSING_SCHEMA: &str = include_str!("sql/missing_schema.sql");

/// One of Bytebase's tables that the role does not own, and so cannot alter. They are listed by their
/// names: others in the same schema, such as a copy that an administrator made, are not Bytebase's.
const NOT_OWNED: &str = include_str!("sql/not_owned.sql");

/// A table that is neither of the server (whose objects have the oids below) nor of an extension.
const FOREIGN: &str = include_str!("sql/foreign.sql");

/// A schema off the `search_path` with a `principal`, as Bytebase looks for one: among all tables
/// that `information_schema.tables` shows to its role.
const OFF_PATH: &str = include_str!("sql/off_path.sql");

/// From the functions below `pg_stat_activity`: the view makes a row of every session of the server
/// before it leaves out those of other databases. Even so the server copies the state of every
/// session it has room for. What a session does is shown to the role that logged in to it, and to
/// those that have its rights.
const SESSIONS_OF_DATABASE: &str = include_str!("sql/sessions_of_database.sql");

/// `pg_locks` reads the locks of the whole server, so it is asked only where there is another
/// session that may hold one.
///
/// The replica that promotes queued work holds the lock of the queue for some milliseconds. A drain
/// hook holds it shared, and any other session that has held it for five seconds is no promotion.
///
/// A session may be Bytebase's if its role is, or works by the rights of the role that owns the
/// tables: after a change of the login some replicas still have the former one. Superusers, backups
/// and monitors are not counted as such.
const SESSIONS: &str = include_str!("sql/sessions.sql");

/// Clients that are neither an operator nor a drain hook. To a login without `pg_monitor` the server
/// does not say which sessions are of clients; it names the role and the application all the same.
const OTHERS: &str = include_str!("sql/others.sql");

const HEARTBEATS: &str = include_str!("sql/heartbeats.sql");

const VERSION: &str =
    ", 'version', (SELECT version::text FROM instance_change_history ORDER BY id DESC LIMIT 1)";

const LICENSE: &str = include_str!("sql/license.sql");

const WORKSPACE: &str = include_str!("sql/workspace.sql");

/// Where there are workspaces, this table holds those who have signed up and nothing else.
const USERS: &str = ", 'has_users', EXISTS (SELECT FROM principal)";

/// Tasks without an owner are left out, as Bytebase leaves them out when it searches for work of
/// dead replicas.
const TASKS: &str = include_str!("sql/tasks.sql");

/// Which these are.
const RUNS: &str = include_str!("sql/runs.sql");

/// Whether the table allows a state of tasks that this operator does not know, by the words of a
/// constraint on that column alone or of its type. Then RUNNING need not mean any more what it did.
/// The server locks the table to say so, as it does for each reading of tasks.
const STATES: &str = include_str!("sql/states.sql");

/// Bytebase fails the tasks of a replica that has sent no heartbeat for a minute, and says nothing
/// of it to that replica. After an outage of the database a replica that lives finds its own failed
/// so, goes on with them, and writes their ends over that. Those of a replica that is gone stay as
/// they are. So does one whose end could not be written, which is written once: hence no longer than
/// for a day. What came of a task is read of the few that failed under a replica which is heard, for
/// which all that ever failed are gone through.
const ABANDONED: &str = include_str!("sql/abandoned.sql");

/// A replica takes a task run and begins it within the second. Where that fails in between, for want
/// of the database, it stays as it is for as long as the replica lives.
const UNBEGUN: &str = include_str!("sql/unbegun.sql");

/// As an interval of SQL.
const UNBEGUN_AFTER: &str = "10 minutes";

/// A task run that is to wait for its time waits for no promotion, perhaps for days.
const DUE: &str = "AND (run_at IS NULL OR run_at <= now())";

/// `url` is what was logged in by.
fn query(shape: Shape, extent: Extent, login: &WhoseLogin, url: &PgUrl) -> String {
    let sessions = extent == Extent::Whole { sessions: true };
    let mut expected = String::new();
    for (name, columns, _) in EXPECTED {
        let comma = if expected.is_empty() { "" } else { ", " };
        let columns = columns.join("','");
        let _ = write!(expected, "{comma}('{name}', ARRAY['{columns}'])");
    }
    let own = "has_schema_privilege(current_schema(), 'CREATE')";
    let create = match login {
        WhoseLogin::Bytebase => own.to_owned(),
        WhoseLogin::Monitor(_) => format!(
            "(SELECT has_schema_privilege(r.oid, current_schema(), 'CREATE') FROM pg_roles r WHERE r.rolname = {})",
            worker_name(login)
        ),
    };
    let [heartbeat, history, workspace, setting, tasks] = shape.tables;
    let wanted = |(wanted, part): (bool, &'static str)| wanted.then_some(part);
    let of_catalogs = [
        (!shape.principal, FOREIGN),
        (!shape.principal, OFF_PATH),
        (tasks, STATES),
    ];
    let of_catalogs: String = of_catalogs.into_iter().filter_map(wanted).collect();
    let parts: String = [
        (sessions, SESSIONS),
        // A Bytebase that sends no heartbeats yet shows by its session alone.
        (sessions && shape.principal && !heartbeat, OTHERS),
        (heartbeat, HEARTBEATS),
        (history, VERSION),
        (workspace && setting, LICENSE),
        (workspace && !setting, WORKSPACE),
        (workspace && shape.users, USERS),
        (tasks, TASKS),
        (sessions && tasks && shape.ids, RUNS),
        (tasks && shape.begun, UNBEGUN),
    ]
    .into_iter()
    .filter_map(wanted)
    .collect();
    let live = LIVE.replace("{parts}", &parts);
    let question = match extent {
        Extent::Live => format!("SELECT {live}"),
        Extent::Whole { .. } => CATALOG
            .replace("{parts}", &of_catalogs)
            .replace("{live}", &live),
    };
    let begin = begin(STATEMENT_TIMEOUT, login, url);
    let unseen = match login {
        WhoseLogin::Bytebase => "",
        WhoseLogin::Monitor(_) => UNSEEN,
    };
    format!("{begin}{question}")
        .replace("{with}", if sessions { SESSIONS_OF_DATABASE } else { "" })
        .replace("{due}", if shape.run_at { DUE } else { "" })
        .replace("{unbegun_after}", UNBEGUN_AFTER)
        .replace("{expected}", &expected)
        .replace("{operator}", connect::APPLICATION_NAME)
        .replace("{hooks}", hook::SESSIONS)
        .replace("{limit}", &MAX_HEARTBEATS.to_string())
        .replace("{rows}", &MAX_ROWS.to_string())
        .replace("{runs}", &MAX_RUNS.to_string())
        .replace("{count}", &MAX_COUNT.to_string())
        .replace("{settings}", SETTINGS_OF_ROLE)
        .replace("{create}", &create)
        .replace("{missing}", MISSING_SCHEMA)
        .replace("{not_owned}", NOT_OWNED)
        .replace("{read_only}", &read_only(login, url))
        .replace("{unseen}", unseen)
        .replace("{worker}", &worker_name(login))
        .replace("{role}", &role_name(login))
}

/// What goes before a question for which the server has so much time. A monitoring login takes names
/// without a schema as Bytebase does.
fn begin(time: &str, login: &WhoseLogin, url: &PgUrl) -> String {
    let path = match login {
        WhoseLogin::Bytebase => String::new(),
        WhoseLogin::Monitor(watched) => {
            let path = watched.setting("search_path").map_or_else(
                || {
                    let of_role = role_setting("search_path", &literal(&watched.role));
                    let default = server_setting("search_path", "\"$user\", public", url);
                    format!("coalesce({of_role}, {default})")
                },
                literal,
            );
            PATH_OF_ROLE
                .replace("{path}", &path)
                .replace("{worker}", &worker_name(login))
        }
    };
    BEGIN.replace("{timeout}", time).replace("{path}", &path)
}

/// The name of the role by whose rights Bytebase works, as SQL: a login may have another one as its
/// setting `role`.
fn worker_name(login: &WhoseLogin) -> String {
    const NAME: &str = "role";
    match login {
        WhoseLogin::Bytebase => "current_user".to_owned(),
        WhoseLogin::Monitor(watched) => {
            let role = literal(&watched.role);
            let set = watched
                .setting(NAME)
                .map_or_else(|| role_setting(NAME, &role), literal);
            format!("coalesce(nullif({set}, 'none'), {role})")
        }
    }
}

/// The name of the role that Bytebase logs in as, as SQL.
fn role_name(login: &WhoseLogin) -> String {
    match login {
        WhoseLogin::Bytebase => "session_user".to_owned(),
        WhoseLogin::Monitor(watched) => literal(&watched.role),
    }
}

/// The value that Bytebase's role has for a setting, as SQL; `role` is a literal.
fn role_setting(name: &str, role: &str) -> String {
    ROLE_SETTING.replace("{name}", name).replace("{role}", role)
}

/// The value of a setting that holds for all roles, as SQL, and `default` where the login has one
/// of its own, which hides that value.
fn server_setting(name: &str, default: &str, url: &PgUrl) -> String {
    if connect::setting(&connect::server_parameters(url), name).is_some() {
        return literal(default);
    }
    let own = role_setting(name, "session_user");
    let default = literal(default);
    format!("CASE WHEN {own} IS NULL THEN current_setting('{name}') ELSE {default} END")
}

/// Whether a new session of Bytebase's begins read-only, as SQL. The one that asks may be older
/// than the setting.
fn read_only(login: &WhoseLogin, url: &PgUrl) -> String {
    const NAME: &str = "default_transaction_read_only";
    let is_on = |value: &str| {
        let value = value.trim().to_ascii_lowercase();
        !value.is_empty()
            && ["on", "true", "yes", "1"]
                .iter()
                .any(|on| on.starts_with(&value))
    };
    let own = connect::server_parameters(url);
    let (asked, of_role, otherwise) = match login {
        WhoseLogin::Bytebase => (
            connect::setting(&own, NAME),
            role_setting(NAME, "session_user"),
            format!("current_setting('{NAME}')"),
        ),
        WhoseLogin::Monitor(watched) => (
            watched.setting(NAME),
            role_setting(NAME, &literal(&watched.role)),
            server_setting(NAME, "off", url),
        ),
    };
    match asked {
        Some(value) => is_on(value).to_string(),
        None => format!("coalesce({of_role}, {otherwise})::bool"),
    }
}

/// A string literal that reads the same under every `standard_conforming_strings`, and in which no
/// placeholder of a query can stand.
fn literal(text: &str) -> String {
    let escaped = text
        .replace('\\', "\\\\")
        .replace('{', "\\x7B")
        .replace('\'', "''")
        .replace('\0', "");
    format!("E'{escaped}'")
}

// === The facts ===

/// Which tables to read from, or why they cannot be read.
///
/// A right that is missing fails the probe: there is no honest value for a heartbeat that may not
/// be seen.
fn shape_of(
    catalog: &Catalog,
    place: &Place<'_>,
    login: &WhoseLogin,
) -> Result<Shape, ProbeFailure> {
    let role = place.role();
    if catalog.schema.is_none() && *login != WhoseLogin::Bytebase {
        let text = match &catalog.missing_schema {
            Some(schema) => format!(
                "the search_path of Bytebase's role names the schema \"{schema}\", which does not exist; create it, owned by that role"
            ),
            None => format!(
                "role \"{role}\" may use no schema of its search_path; GRANT USAGE ON SCHEMA to it, or set search_path"
            ),
        };
        return Err(place.failure(
            FailureClass::Unknown,
            FailureReason::PermissionDenied,
            &text,
        ));
    }
    if let Some(unseen) = &catalog.unseen {
        let text = format!(
            "role \"{role}\" may not use the schema \"{unseen}\", in which Bytebase's role looks for its tables; GRANT USAGE ON SCHEMA \"{unseen}\" TO \"{role}\""
        );
        return Err(place.failure(
            FailureClass::Unknown,
            FailureReason::PermissionDenied,
            &text,
        ));
    }
    // `principal` is not ours to judge by: without it these tables belong to another application.
    if catalog.principal.is_none() {
        return Ok(Shape::default());
    }
    let denied: Vec<&str> = catalog
        .tables_seen()
        .filter(|t| !t.readable)
        .map(|t| t.name.as_str())
        .collect();
    if !denied.is_empty() {
        let denied = denied.join(", ");
        let text = format!(
            "role \"{role}\" may not read {denied}; GRANT SELECT ON {denied} TO \"{role}\", or make it the owner"
        );
        return Err(place.failure(
            FailureClass::Definite,
            FailureReason::PermissionDenied,
            &text,
        ));
    }
    Ok(catalog.shape())
}

impl Catalog {
    fn tables_seen(&self) -> impl Iterator<Item = &TableSeen> {
        AtMost::rows(self.tables.as_ref())
    }

    fn shape(&self) -> Shape {
        let complete = |name| {
            let mut tables = self.tables_seen();
            tables.any(|table| table.name == name && table.complete)
        };
        let has_time = |column: &str| {
            let mut times = AtMost::rows(self.task_times.as_ref());
            times.any(|Name(time)| time == column)
        };
        Shape {
            principal: self.principal.is_some(),
            users: self.users_shown == Some(true),
            run_at: has_time("run_at"),
            begun: has_time("started_at") && has_time("updated_at"),
            results: self.results_shown == Some(true) && has_time("updated_at"),
            ids: self.ids_shown == Some(true),
            tables: EXPECTED.map(|(name, ..)| self.principal.is_some() && complete(name)),
        }
    }
}

/// What is known of each expected table, in the order of `EXPECTED`.
fn tables_understood(
    shape: Shape,
    schema: &SchemaState,
    history_is_empty: bool,
) -> [Fact<()>; EXPECTED.len()] {
    let mut place = 0;
    EXPECTED.map(|(.., since)| {
        let readable = shape.tables[place];
        place += 1;
        let SchemaState::Bytebase { version } = schema else {
            return Fact::Absent;
        };
        // The first migration has made some tables and is still to record itself.
        let too_old = match version {
            Some(version) => *version < since,
            None => history_is_empty,
        };
        match (readable, too_old) {
            (true, _) => Fact::Known(()),
            (false, true) => Fact::Absent,
            (false, false) => Fact::Unknown,
        }
    })
}

impl Fact<()> {
    /// What the document holds of a table, as far as the table is understood.
    fn of<T>(self, value: impl FnOnce() -> T) -> Fact<T> {
        match self {
            Self::Known(()) => Fact::Known(value()),
            Self::Absent => Fact::Absent,
            Self::Unknown => Fact::Unknown,
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Absent, _) | (_, Self::Absent) => Self::Absent,
            (Self::Known(()), Self::Known(())) => Self::Known(()),
        }
    }
}

fn heartbeats(rows: Vec<(Option<String>, f64)>) -> Vec<Heartbeat> {
    let mut heartbeats: Vec<Heartbeat> = rows
        .into_iter()
        .filter_map(|(id, age)| {
            Some(Heartbeat {
                replica_id: replica(&id?),
                age: Duration::try_from_secs_f64(age).ok()?.min(OLDEST_HEARTBEAT),
            })
        })
        .collect();
    heartbeats.sort_by_key(|h| (h.age, h.replica_id));
    heartbeats
}

/// A workspace may be there before anyone has signed up: an upgrade of an old Bytebase makes one, and
/// a sign-up makes it first, and the user in it only then.
fn stored_license(row: Option<(String, Option<String>)>, has_users: Option<bool>) -> StoredLicense {
    let Some((workspace_id, token)) = row else {
        return StoredLicense::NoWorkspace;
    };
    match token.filter(|token| !token.trim().is_empty()) {
        None if has_users == Some(false) => StoredLicense::NoWorkspace,
        None => StoredLicense::Absent { workspace_id },
        Some(token) => StoredLicense::Present {
            workspace_id,
            token: SecretString::from(token),
        },
    }
}

fn facts(document: Document, shape: Shape, session: &SessionFacts) -> DatabaseFacts {
    let schema = schema_state(&document);
    let Document { catalog, live } = document;
    let history_is_empty = shape.tables[HISTORY] && live.version.is_none();
    let mut understood = tables_understood(shape, &schema, history_is_empty);
    if let Some((workspace_id, token)) = &live.license {
        // What is too long to be kept in memory counts as not understood.
        if workspace_id.len() > MAX_WORKSPACE {
            understood[WORKSPACE_TABLE] = Fact::Unknown;
        }
        if token
            .as_ref()
            .is_some_and(|token| token.len() > MAX_LICENSE)
        {
            understood[SETTING_TABLE] = Fact::Unknown;
        }
    }
    if catalog.other_states == Some(true) {
        understood[TASK_TABLE] = Fact::Unknown;
    }
    let [heartbeat, _, workspace, setting, tasks] = understood;
    // Without `setting` a workspace can still be seen not to be there.
    let license = match (setting, &live.license) {
        (Fact::Unknown, Some(_)) => Fact::Unknown,
        (Fact::Absent, _) | (Fact::Unknown, None) => workspace,
        (Fact::Known(()), _) => workspace.and(setting),
    };
    let unknown = EXPECTED.iter().zip(understood);
    let unknown = unknown.filter(|(_, fact)| fact.is_unknown());
    let not_understood = match (&schema, shape.principal) {
        (SchemaState::Bytebase { .. }, false) => vec!["principal"],
        _ => unknown.map(|((name, ..), _)| *name).collect(),
    };
    DatabaseFacts {
        server_version_num: catalog.server_version_num,
        in_recovery: live.in_recovery,
        read_only: live.read_only,
        encoding: catalog.encoding,
        max_connections: catalog.max_connections,
        reserved_connections: catalog.reserved_connections,
        role_connections: catalog.role_connections,
        database_connections: catalog.database_connections,
        // NULL without a usable schema, and where only a monitor reads and Bytebase's role is not
        // known: nothing speaks against it.
        can_create: catalog.can_create.unwrap_or(catalog.schema.is_some()),
        missing_schema: catalog.missing_schema,
        not_owned: catalog.not_owned,
        transaction_pooler: session.transaction_pooler,
        has_version_1_certificate: session.has_version_1_certificate,
        identity: session.identity.clone(),
        server_uptime: session.server_since.elapsed(),
        // For how long it has been, only several readings show.
        writable_for: Duration::ZERO,
        server_clock: live
            .clock
            .and_then(|clock| Duration::try_from_secs_f64(clock).ok()),
        schema,
        license: license.of(|| stored_license(live.license, live.has_users)),
        heartbeats: heartbeat.of(|| heartbeats(live.heartbeats.unwrap_or_default().0)),
        sessions: live
            .sessions
            .map(|seen| sessions(seen, live.others.unwrap_or_default())),
        running_tasks: tasks.of(|| running_tasks(live.running.unwrap_or_default().0)),
        task_runs: match tasks {
            Fact::Known(()) => task_runs(live.runs.unwrap_or_default().0),
            Fact::Absent | Fact::Unknown => Vec::new(),
        },
        unbegun_tasks: match tasks {
            Fact::Known(()) => running_tasks(live.unbegun.unwrap_or_default().0),
            Fact::Absent | Fact::Unknown => Vec::new(),
        },
        pending_tasks: tasks.of(|| live.pending.unwrap_or(0)),
        available_tasks: tasks.of(|| live.available.unwrap_or(0)),
        not_understood,
        login: None,
    }
}

fn running_tasks(rows: Vec<(String, u64)>) -> Vec<RunningTasks> {
    rows.into_iter()
        .map(|(id, count)| RunningTasks {
            replica_id: replica(&id),
            count,
        })
        .collect()
}

fn task_runs(rows: Vec<(String, AtMost<i64, MAX_RUNS>)>) -> Vec<TaskRuns> {
    rows.into_iter()
        .map(|(id, AtMost(ids))| TaskRuns {
            replica_id: replica(&id),
            ids,
        })
        .collect()
}

fn sessions(
    seen: SessionsSeen,
    others: AtMost<(Option<Name>, Option<Name>), MAX_ROWS>,
) -> Sessions {
    let visible = seen.sees_all || seen.hidden != Some(true);
    let listeners = visible.then(|| {
        let mut listeners: Vec<ListenSession> = seen
            .listeners
            .unwrap_or_default()
            .0
            .into_iter()
            .map(|(application_name, client_address)| ListenSession {
                application_name: application_name.map_or_else(String::new, |Name(name)| name),
                client_address: client_address.map(|Name(address)| address),
            })
            .collect();
        listeners.sort_by(|a, b| {
            (&a.application_name, &a.client_address).cmp(&(&b.application_name, &b.client_address))
        });
        listeners
    });
    let holders = seen.queue_held_by.unwrap_or_default().0.into_iter();
    Sessions {
        listeners,
        migration_running: seen.migration_running,
        queue_held_by: holders
            .map(|holder| holder.map_or_else(String::new, |Name(name)| name))
            .collect(),
        others: others.0.into_iter().map(other).collect(),
    }
}

/// A session as a message names it: its role, and the application if that has a name.
fn other((role, application): (Option<Name>, Option<Name>)) -> String {
    let [role, application] =
        [role, application].map(|name| name.map_or_else(String::new, |Name(name)| name));
    if application.is_empty() {
        role
    } else {
        format!("{role} ({application})")
    }
}

/// Bytebase takes any `principal` for its own, a visible one or another; a sibling shows whether it
/// is. Two of them without it are of a Bytebase whose tables have other names than this operator
/// knows.
fn schema_state(Document { catalog, live }: &Document) -> SchemaState {
    let has = |name: &str| catalog.tables_seen().any(|t| t.name == name);
    let siblings = [has("replica_heartbeat"), has("instance_change_history")];
    match (&catalog.principal, &catalog.foreign) {
        (Some(_), _) if siblings.contains(&true) => SchemaState::Bytebase {
            version: live.version.as_deref().and_then(version),
        },
        (None, _) if siblings == [true, true] => SchemaState::Bytebase { version: None },
        (Some(example), _) | (None, Some(example)) => SchemaState::Foreign {
            example: example.clone(),
        },
        (None, None) => match &catalog.off_path {
            Some(schema) => SchemaState::OffPath {
                schema: schema.clone(),
            },
            None => SchemaState::Empty,
        },
    }
}

fn version(text: &str) -> Option<Version> {
    let mut parts = text.trim().splitn(3, '.').map(str::parse);
    let mut next = || parts.next()?.ok();
    Some(Version {
        major: next()?,
        minor: next()?,
        patch: next()?,
    })
}

/// Bytebase names its processes by uuid. Another name (a row made by hand, a future scheme) still
/// counts for Bytebase's license check, so it must count here: it becomes a uuid of its own, the
/// same one each time.
fn replica(id: &str) -> Uuid {
    Uuid::parse_str(id).unwrap_or_else(|_| {
        let hash: [u8; 32] = Sha256::digest(id.as_bytes()).into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Uuid::from_bytes(bytes)
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::connect::tests::{PASSWORD, url};
    use super::super::monitor::Watched;
    use super::*;

    fn document(json: &str) -> Document {
        let mut base: serde_json::Value = serde_json::json!({
            "server_version_num": 150_018, "in_recovery": false, "read_only": false, "encoding": "UTF8", "max_connections": 100,
            "reserved_connections": 3, "schema": "public", "can_create": true, "principal": null, "foreign": null,
            "tables": null, "sessions": null
        });
        let extra: serde_json::Value = serde_json::from_str(json).unwrap();
        for (key, value) in extra.as_object().unwrap() {
            base[key] = value.clone();
        }
        Document {
            catalog: serde_json::from_value(base.clone()).unwrap(),
            live: serde_json::from_value(base).unwrap(),
        }
    }

    /// Both parts of an answer in one.
    fn parse(text: &str, place: &Place<'_>) -> Result<Document, ProbeFailure> {
        Ok(Document {
            catalog: Catalog::parse(text, place)?,
            live: Live::parse(text, place)?,
        })
    }

    pub(in super::super) fn read(json: &str) -> DatabaseFacts {
        let session = SessionFacts {
            identity: DatabaseIdentity::new("id", "1"),
            server_since: Instant::now(),
            transaction_pooler: Some(false),
            has_version_1_certificate: false,
            settings: None,
        };
        let document = document(json);
        let shape = document.catalog.shape();
        facts(document, shape, &session)
    }

    #[test]
    fn a_document_that_echoes_the_password_does_not_get_it_into_a_message() {
        let url = url("db", 5432);
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        let long = "x".repeat(100_000);
        for name in [PASSWORD, &long] {
            let wrong = serde_json::json!({ "server_version_num": name }).to_string();
            let failure = parse(&wrong, &place).err().unwrap();
            assert!(!failure.message.contains(name), "{}", failure.message);
            let echo = serde_json::json!({
                "server_version_num": 1, "in_recovery": false, "read_only": false, "encoding": name, "max_connections": 1,
                "reserved_connections": 1, "schema": name, "unseen": name, "missing_schema": name, "not_owned": name,
                "principal": name, "foreign": name, "off_path": name, "sessions": {"migration_running": false, "sees_all": true,
                "queue_held_by": [name.get(..MAX_NAME).unwrap_or(name)]},
                "tables": [{"name": name, "complete": true, "readable": false}],
            });
            let mut document = parse(&echo.to_string(), &place).unwrap();
            for login in [
                WhoseLogin::Bytebase,
                WhoseLogin::Monitor(Watched::of(&url, &url)),
            ] {
                document.catalog.schema = None;
                let failure = shape_of(&document.catalog, &place, &login).unwrap_err();
                assert!(!failure.message.contains(name), "{}", failure.message);
            }
            document.catalog.unseen = None;
            let shape = shape_of(&document.catalog, &place, &WhoseLogin::Bytebase).unwrap();
            assert_eq!(shape.tables, [false; EXPECTED.len()]);
            let session = SessionFacts {
                identity: DatabaseIdentity::new("id", "1"),
                server_since: Instant::now(),
                transaction_pooler: Some(false),
                has_version_1_certificate: false,
                settings: None,
            };
            let facts = format!("{:?}", facts(document, Shape::default(), &session));
            assert!(!facts.contains(name), "{facts}");
        }
    }

    #[test]
    fn a_schema_is_recognized_by_principal_and_a_sibling() {
        let table = [
            ("{}", SchemaState::Empty),
            (
                r#"{"foreign": "public.users"}"#,
                SchemaState::Foreign {
                    example: "public.users".to_owned(),
                },
            ),
            (
                r#"{"principal": "public.principal"}"#,
                SchemaState::Foreign {
                    example: "public.principal".to_owned(),
                },
            ),
            (
                r#"{"principal": "p.principal", "tables": [{"name": "replica_heartbeat", "complete": true, "readable": true}]}"#,
                SchemaState::Bytebase { version: None },
            ),
            // The next Bytebase calls `principal` something else.
            (
                r#"{"foreign": "public.users", "tables": [
                    {"name": "replica_heartbeat", "complete": true, "readable": true},
                    {"name": "instance_change_history", "complete": true, "readable": true}]}"#,
                SchemaState::Bytebase { version: None },
            ),
            (
                r#"{"principal": "p.principal", "version": "3.21.0005",
                    "tables": [{"name": "instance_change_history", "complete": true, "readable": true}]}"#,
                SchemaState::Bytebase {
                    version: Some(Version {
                        major: 3,
                        minor: 21,
                        patch: 5,
                    }),
                },
            ),
        ];
        for (json, expected) in table {
            assert_eq!(read(json).schema, expected, "{json}");
        }
    }

    #[test]
    fn a_replica_that_is_no_uuid_keeps_one_identity() {
        let facts = read(
            r#"{"principal": "p.principal", "version": "3.21.1", "tables": [
                {"name": "replica_heartbeat", "complete": true, "readable": true},
                {"name": "instance_change_history", "complete": true, "readable": true},
                {"name": "task_run", "complete": true, "readable": true}],
                "heartbeats": [["host-1", 4.5], ["host-2", 1], ["host-1", 9], [null, 1], ["host-3", 18446744073709549568], ["host-4", -1]],
                "running": [["host-1", 2]]}"#,
        );
        let [first, second, third, oldest] = facts.heartbeats.rows() else {
            panic!("{:?}", facts.heartbeats)
        };
        assert_eq!(oldest.age, OLDEST_HEARTBEAT);
        assert_eq!(first.age, Duration::from_secs(1));
        assert_eq!(second.replica_id, third.replica_id);
        assert_ne!(first.replica_id, second.replica_id);
        assert_eq!(facts.running_tasks.rows()[0].replica_id, second.replica_id);
    }

    #[test]
    fn lists_are_read_as_far_as_they_were_asked_for() {
        let names = ["replica_heartbeat", "instance_change_history", "task_run"];
        let tables = names
            .map(|name| serde_json::json!({"name": name, "complete": true, "readable": true}))
            .to_vec();
        let read = |rows: usize| {
            let document = serde_json::json!({
                "principal": "p.principal", "version": "3.21.1", "tables": tables,
                "heartbeats": vec![("a", 1.0); rows], "running": vec![("a", 1); rows],
                "sessions": {
                    "migration_running": false, "sees_all": true, "hidden": false,
                    "listeners": vec![("a", "b"); rows],
                    "queue_held_by": (0..rows).map(|n| n.to_string()).collect::<Vec<_>>(),
                },
            });
            let facts = read(&document.to_string());
            let sessions = facts.sessions.unwrap();
            [
                facts.heartbeats.rows().len(),
                facts.running_tasks.rows().len(),
                sessions.listeners.unwrap().len(),
                sessions.queue_held_by.len(),
            ]
        };
        assert_eq!(read(99), [99; 4]);
        assert_eq!(read(1000), [100, 200, 200, 200]);
    }

    #[test]
    fn an_answer_with_a_longer_name_than_a_server_has_is_not_understood() {
        let url = url("db", 5432);
        let place = Place::new(&url, &url.hosts[0], &WhoseLogin::Bytebase);
        let read = |length: usize, place_of_name: &str| {
            let mut document = serde_json::json!({
                "server_version_num": 1, "in_recovery": false, "read_only": false, "encoding": "UTF8",
                "max_connections": 1, "reserved_connections": 1,
                "sessions": {"migration_running": false, "sees_all": true,
                    "queue_held_by": ["a"], "listeners": [["a", "b"]]},
            });
            let name = document.pointer_mut(place_of_name).unwrap();
            *name = "x".repeat(length).into();
            parse(&document.to_string(), &place)
        };
        for place_of_name in [
            "/sessions/queue_held_by/0",
            "/sessions/listeners/0/0",
            "/sessions/listeners/0/1",
        ] {
            assert!(read(MAX_NAME, place_of_name).is_ok(), "{place_of_name}");
            let failure = read(MAX_NAME + 1, place_of_name).err().unwrap();
            assert_eq!(failure.class, FailureClass::Unknown, "{place_of_name}");
        }
    }

    #[test]
    fn sessions_that_may_not_be_seen_are_not_taken_for_none() {
        assert!(read("{}").sessions.is_none());
        for (sees_all, hidden, visible) in [
            (false, true, false),
            (false, false, true),
            (true, true, true),
        ] {
            let seen = format!(
                r#"{{"sessions": {{"migration_running": true, "sees_all": {sees_all}, "hidden": {hidden}, "listeners": null}}}}"#
            );
            let sessions = read(&seen).sessions.unwrap();
            assert!(sessions.migration_running);
            assert_eq!(sessions.listeners, visible.then(Vec::new), "{seen}");
        }
    }

    #[test]
    fn without_a_usable_schema_nothing_can_be_created() {
        assert!(!read(r#"{"schema": null, "can_create": null}"#).can_create);
        assert!(read(r#"{"can_create": null}"#).can_create);
        assert!(!read(r#"{"can_create": false}"#).can_create);
    }

    fn read_with_license(license: &str) -> DatabaseFacts {
        read(&format!(
            r#"{{"principal": "p.principal", "version": "3.21.1", "license": {license}, "tables": [
            {{"name": "replica_heartbeat", "complete": true, "readable": true}},
            {{"name": "instance_change_history", "complete": true, "readable": true}},
            {{"name": "workspace", "complete": true, "readable": true}},
            {{"name": "setting", "complete": true, "readable": true}},
            {{"name": "task_run", "complete": true, "readable": true}}]}}"#
        ))
    }

    #[test]
    fn a_longer_license_than_bytebase_issues_is_not_understood() {
        for (workspace, token, not_understood) in [
            (MAX_WORKSPACE, MAX_LICENSE, None),
            (MAX_WORKSPACE + 1, MAX_LICENSE, Some("workspace")),
            (MAX_WORKSPACE, MAX_LICENSE + 1, Some("setting")),
        ] {
            let license = serde_json::json!(["w".repeat(workspace), "t".repeat(token)]);
            let facts = read_with_license(&license.to_string());
            assert_eq!(facts.license.is_unknown(), not_understood.is_some());
            assert!(facts.not_understood.iter().copied().eq(not_understood));
        }
    }

    #[test]
    fn a_workspace_without_a_user_is_none_that_anyone_signed_up_in() {
        let read = |license: &str, has_users: &str| {
            let facts = read_with_license(&format!(r#"{license}, "has_users": {has_users}"#));
            facts.license.known().cloned().unwrap()
        };
        let without = r#"["w", null]"#;
        assert!(matches!(read(without, "false"), StoredLicense::NoWorkspace));
        // Whether there is one may not be shown.
        for has_users in ["true", "null"] {
            assert!(matches!(
                read(without, has_users),
                StoredLicense::Absent { .. }
            ));
        }
        assert!(matches!(
            read(r#"["w", "ey"]"#, "false"),
            StoredLicense::Present { .. }
        ));
    }

    #[test]
    fn an_empty_license_is_none() {
        let read = |license: &str| read_with_license(license).license;
        assert!(matches!(
            read("null"),
            Fact::Known(StoredLicense::NoWorkspace)
        ));
        assert!(matches!(
            read(r#"["w", " "]"#),
            Fact::Known(StoredLicense::Absent { .. })
        ));
        assert!(matches!(
            read(r#"["w", "ey"]"#),
            Fact::Known(StoredLicense::Present { .. })
        ));
    }

    /// The tables of a Bytebase 3.21, without one of them or with a column of it renamed.
    fn without(lost: &str, renamed: bool, version: &str) -> DatabaseFacts {
        let tables: Vec<_> = EXPECTED
            .iter()
            .filter(|(name, ..)| renamed || *name != lost)
            .map(|(name, ..)| {
                serde_json::json!({"name": name, "complete": *name != lost, "readable": true})
            })
            .collect();
        let mut document = serde_json::json!({
            "principal": "p.principal", "tables": tables, "heartbeats": [], "running": [],
            "license": ["w", "ey"], "pending": 0, "available": 0,
        });
        // What the query cannot name it does not read.
        let parts: &[&str] = match lost {
            "replica_heartbeat" => &["heartbeats"],
            "workspace" => &["license"],
            "task_run" => &["running", "pending", "available"],
            _ => &[],
        };
        for part in parts {
            document[part] = serde_json::Value::Null;
        }
        if lost != "instance_change_history" && !version.is_empty() {
            document["version"] = version.into();
        }
        read(&document.to_string())
    }

    #[test]
    fn what_a_later_bytebase_has_renamed_is_unknown_and_not_none() {
        for renamed in [false, true] {
            for (lost, ..) in EXPECTED {
                let facts = without(lost, renamed, "3.22.0");
                assert_eq!(facts.not_understood, [lost]);
                assert_eq!(facts.heartbeats.is_unknown(), lost == "replica_heartbeat");
                assert_eq!(
                    facts.license.is_unknown(),
                    matches!(lost, "workspace" | "setting")
                );
                assert_eq!(facts.running_tasks.is_unknown(), lost == "task_run");
                assert_eq!(facts.pending_tasks.is_unknown(), lost == "task_run");
            }
        }
    }

    #[test]
    fn what_the_schema_has_had_since_this_version_is_unknown_where_it_is_not_seen() {
        for (lost, version) in [
            ("replica_heartbeat", "3.14.27"),
            ("task_run", "3.14.27"),
            ("workspace", "3.17.9"),
            ("setting", "3.17.9"),
        ] {
            let facts = without(lost, false, version);
            assert_eq!(facts.not_understood, [lost], "{version}");
        }
    }

    #[test]
    fn what_an_earlier_bytebase_did_not_have_yet_is_known_to_be_absent() {
        for (lost, version) in [
            ("replica_heartbeat", "3.13.0"),
            ("task_run", "3.13.0"),
            ("workspace", "3.16.2"),
            // A migration was cut off just before.
            ("replica_heartbeat", "3.14.26"),
            ("task_run", "3.14.26"),
            ("workspace", "3.17.8"),
            ("setting", "3.17.8"),
            // The first migration is still to record itself.
            ("task_run", ""),
        ] {
            let facts = without(lost, true, version);
            assert_eq!(facts.not_understood, [""; 0], "{lost} at {version}");
            assert_eq!(facts.running_tasks == Fact::Absent, lost == "task_run");
            assert!(!facts.license.is_unknown());
        }
        assert!(matches!(read("{}").license, Fact::Absent));
    }

    #[test]
    fn a_role_name_cannot_end_its_literal() {
        assert_eq!(literal(r"a'b\'; --"), r"E'a''b\\''; --'");
    }

    #[test]
    fn the_query_names_only_tables_that_are_there() {
        let url = url("db", 5432);
        let empty = query(
            Shape::default(),
            Extent::Whole { sessions: true },
            &WhoseLogin::Bytebase,
            &url,
        );
        assert!(!empty.contains("FROM replica_heartbeat") && !empty.contains("FROM task_run"));
        assert!(empty.contains("'foreign'") && empty.contains("pg_locks"));
        let all = Shape {
            principal: true,
            users: true,
            run_at: true,
            begun: true,
            results: true,
            ids: true,
            tables: [true; 5],
        };
        let full = query(
            all,
            Extent::Whole { sessions: false },
            &WhoseLogin::Bytebase,
            &url,
        );
        assert!(
            full.contains("FROM replica_heartbeat")
                && full.contains("FROM task_run")
                && full.contains("LIMIT 100")
        );
        assert!(!full.contains("'foreign'") && !full.contains("backend_idset"));
        let live = query(all, Extent::Live, &WhoseLogin::Bytebase, &url);
        assert!(live.contains("FROM replica_heartbeat") && live.contains("FROM task_run"));
        assert!(!live.contains("server_version_num") && !live.contains("backend_idset"));
        for text in [empty, full, live] {
            assert!(!text.contains(['{', '\\']), "{text}");
        }
    }
}
