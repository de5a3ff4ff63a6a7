//! What the metadata database says of the replica beside this hook.
//!
//! No column names the pod of a replica, and the head of its log may be gone. But it gives itself
//! away each ten seconds: its heartbeat is one statement, by which its session and the row it
//! writes carry the same time. The sessions are the replica's own by their `application_name`, and
//! of its present process by their age.

use bytebase_contract::replica::{ACTIVE_WINDOW, HEARTBEAT_INTERVAL, MIGRATION_LOCK, QUEUE_LOCK};
use bytebase_contract::{abandonment, hook, session_key};
use bytebase_drain::drain::{Run, Seen};
use bytebase_drain::identity::{Candidate, Heartbeat, Heartbeats, nearest};
use bytebase_login::error::{in_brackets, sqlstate};
use sqlx::postgres::{PgArguments, PgConnection, PgDatabaseError, PgRow, PgSeverity};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};
use std::collections::BTreeSet;
use std::mem::take;
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use tokio::time::{sleep, timeout};

/// Longest for one question.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The server ends a question before that, and sooner one that waits for a lock: a session that is
/// dropped with its question open stays at the server for as long as the lock is held. No longer
/// than for one transaction: the next user of the session may be Bytebase, where a pooler stands
/// before the server. A question about a table whose rows row security may leave out is refused.
const LIMITS: &str = "BEGIN; SET LOCAL statement_timeout = '4s'; SET LOCAL lock_timeout = '1s'; \
     SET LOCAL row_security = off";
/// The same for what Bytebase has failed as abandoned. No index serves that question, and the last
/// reading before the replica ends must not take longer than the hold on the queue.
const ABANDONED_LIMITS: &str = "BEGIN; SET LOCAL statement_timeout = '2s'; SET LOCAL lock_timeout = '1s'; \
     SET LOCAL row_security = off";
/// Longest from the time of a transaction to that of its statement, in seconds. Both are taken by
/// the server, in this order: with the first message of the statement, which begins the
/// transaction, and with its last one.
const SAME: f64 = 0.02;
/// A heartbeat is awaited so much before it is due, in seconds: the one before may have been late.
const EARLY: f64 = 0.2;
/// Between two glances at the sessions. A session shows a heartbeat only until its next statement,
/// and of several sessions Bytebase takes the one that it used last.
const GLANCE: Duration = Duration::from_millis(25);

/// By whose role a session is logged in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// Bytebase's own: it sees the tables where Bytebase sees them.
    Bytebases,
    /// Another, which came after it. Where it sees tables need not be where Bytebase does.
    Another,
    /// One of `database.monitorSecretRef`, for a login that the hook cannot perform. Its database
    /// need not be Bytebase's either.
    Monitors,
}

/// Watches one replica.
pub struct Watch {
    /// `application_name` of its sessions; empty if it has none of its own.
    sessions: String,
    /// `application_name` that the hook asks for.
    own_sessions: String,
    /// Bytebase's, if its name is known.
    database: Option<String>,
    heartbeats: Heartbeats,
    /// Statements that were seen since the last reading, as in [`Activity::heartbeats`].
    glimpsed: BTreeSet<String>,
    abandoned: Abandoned,
}

/// What Bytebase has failed as abandoned, as it was read last by the session that reads.
#[derive(Default)]
struct Abandoned {
    /// When that was asked for last. `None`: it is to be asked for at once.
    asked: Option<Instant>,
    /// Which replica was known then to be the one beside.
    own: Option<String>,
    /// The last answer.
    runs: Vec<Run>,
    /// What was RUNNING at the last reading of that.
    before: Vec<Run>,
    /// How often it has been asked in vain since the last answer.
    unanswered: u32,
}

impl Abandoned {
    /// Whether the last answer does not serve any more, where this is RUNNING. What was so before
    /// and is not any more may have been failed as abandoned since.
    fn is_to_be_asked(&self, own: Option<&str>, running: &[Run], now: Instant) -> bool {
        let serves = |asked| now.saturating_duration_since(asked) < abandonment::KEPT;
        let is_missing =
            |run: &Run| own.is_none_or(|own| run.owner == own) && !running.contains(run);
        !self.asked.is_some_and(serves)
            || self.own.as_deref() != own
            || self.before.iter().any(is_missing)
    }
}

/// What one reading brought.
#[derive(Debug)]
pub struct Reading {
    /// What was seen.
    pub seen: Seen,
    /// The session can be read by again.
    pub goes_on: bool,
    /// In how long a heartbeat is due that may give the replica away. `None` where it is known, or
    /// no heartbeat would show it, or has shown it for long.
    pub due: Option<Duration>,
}

/// Why a reading brought nothing.
#[derive(Debug, PartialEq, Eq)]
pub enum Unread {
    /// The server follows another one: Bytebase works there.
    Standby,
    /// The server goes on, and answers the question with this SQLSTATE.
    Refused(String),
    /// There was no answer, or the session is over.
    BrokenOff,
}

impl Unread {
    /// In words, which quote nothing that a server sent.
    pub fn why(&self) -> String {
        match self {
            Self::Standby => "the server is a standby".to_owned(),
            Self::Refused(code) => format!(
                "the server refuses to be read{}",
                in_brackets(sqlstate(code))
            ),
            Self::BrokenOff => "the session broke off".to_owned(),
        }
    }
}

impl From<sqlx::Error> for Unread {
    fn from(error: sqlx::Error) -> Self {
        match refusal(&error) {
            Some(refusal) => Self::Refused(refusal.code().to_owned()),
            None => Self::BrokenOff,
        }
    }
}

/// Why a question about a table has no answer, where the database has just answered another one.
enum Spoilt {
    /// The table is not as it was when this was written, may not be read, or is locked.
    NotUnderstood,
    /// The session is over, or still busy with the question.
    SessionOver,
}

impl From<sqlx::Error> for Spoilt {
    fn from(error: sqlx::Error) -> Self {
        let is_unlike = matches!(
            error,
            sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)
        );
        if is_unlike || refusal(&error).is_some() {
            Self::NotUnderstood
        } else {
            Self::SessionOver
        }
    }
}

/// The server's answer, where that is an error that its session outlives.
fn refusal(error: &sqlx::Error) -> Option<&PgDatabaseError> {
    let error = error.as_database_error()?;
    let error = error.try_downcast_ref::<PgDatabaseError>()?;
    (error.severity() == PgSeverity::Error).then_some(error)
}

/// What the sessions show.
struct Activity {
    sessions: i64,
    quiet: Option<f64>,
    migrates: bool,
    starts: bool,
    asked: bool,
    /// When the statements began that are heartbeats of the replica's present process: an array as
    /// text, in UTC.
    heartbeats: Option<String>,
}

/// What each reading begins with.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is something seen of its own"
)]
struct Beginning {
    clock: f64,
    activity: Activity,
    is_standby: bool,
    /// The session works by another role than the one that logged in.
    has_other_role: bool,
    /// The hook's session is called as it asked to be. A pooler may call all sessions as it likes.
    keeps_names: bool,
    has_heartbeats: bool,
    has_tasks: bool,
    /// What came of a task and when can be read, and whose heartbeat is young.
    shows_results: bool,
    /// Schemas with Bytebase's tables of tasks and heartbeats, also where this role may not use
    /// them.
    schemas: i64,
    /// One of them, as SQL.
    schema: Option<String>,
    /// The table that the role sees is that of this schema.
    sees_it: bool,
    /// The database is called otherwise than Bytebase's.
    is_other_database: bool,
}

// === The questions ===

// No string in them has a backslash, which means something else where `standard_conforming_strings`
// is off.

/// When the statements began that are heartbeats, as in [`Activity::heartbeats`], of the sessions
/// of the name `$1` that are no older than `$2` seconds.
const HEARTBEATS: &str = include_str!("sql/heartbeats.sql");

/// What is asked first, see [`Beginning`].
static BEGINNING: LazyLock<String> = LazyLock::new(|| {
    let question = include_str!("sql/beginning.sql").replace("{heartbeats}", HEARTBEATS);
    question.replace("{session_key}", session_key!())
});

/// Heartbeats that came no more than `$2` seconds before one of the statements of `$1`.
const CANDIDATES: &str = include_str!("sql/candidates.sql");

/// In how many seconds the next heartbeat is due of the replicas that were heard in the last `$2`
/// seconds, less than none where it is late. `$1`: from one heartbeat to the next.
const NEXT_HEARTBEAT: &str = include_str!("sql/next_heartbeat.sql");

/// What runs, and how much may be claimed: by one question, between whose answers no replica claims
/// anything. Each row of the answer, and the one that there is without any task, says whether each
/// state that the table allows is one that this version knows, by the words of a constraint on that
/// column alone or of its type. Otherwise RUNNING need not mean what it did. The state is compared
/// as it is: in a column of a type that has no such word the server refuses that, where its text
/// would be one that matches nothing.
const RUNNING: &str = include_str!("sql/running.sql");

/// What Bytebase has failed as abandoned ([`abandonment`]), of owners that were heard, and of the
/// replica `$1`. What came of a task is read of the few of a living owner.
static ABANDONED: LazyLock<String> =
    LazyLock::new(|| abandonment::filled_in(include_str!("sql/abandoned.sql")));

// === impl Watch ===

impl Watch {
    /// Of the replica whose sessions have the first name, by sessions that have the second.
    /// `database`: Bytebase's, if its name is known.
    pub fn new(sessions: String, own_sessions: String, database: Option<String>) -> Self {
        Self {
            sessions,
            own_sessions,
            database,
            heartbeats: Heartbeats::default(),
            glimpsed: BTreeSet::new(),
            abandoned: Abandoned::default(),
        }
    }

    /// The next reading is by another session than the last one: what was read before may be of
    /// another server, and of before an outage.
    pub fn changes_session(&mut self) {
        self.abandoned = Abandoned::default();
    }

    /// One reading. `age`: how long the replica's process has run, if that is known.
    ///
    /// Once the database has answered its first question, it is there: what becomes of the others
    /// leaves the tasks unknown, and no more.
    pub async fn read(
        &mut self,
        connection: &mut PgConnection,
        whose: Whose,
        age: Option<Duration>,
    ) -> Result<Reading, Unread> {
        let mut begins = timeout(READ_TIMEOUT, self.begin(connection, whose, age))
            .await
            .unwrap_or(Err(Unread::BrokenOff))?;
        // Those of a database that is perhaps not Bytebase's are not the replica's.
        let is_there = whose != Whose::Monitors || begins.is_perhaps_bytebases();
        let is_named = !self.sessions.is_empty() && begins.keeps_names && is_there;
        let mut goes_on = true;
        let mut due = None;
        let mut statements = take(&mut self.glimpsed);
        statements.extend(begins.activity.heartbeats.take());
        let is_of_use = !statements.is_empty() || self.is_to_be_known(age);
        if is_of_use && is_named && begins.has_heartbeats {
            let statements: Vec<_> = statements.into_iter().collect();
            let question = async |connection: &mut PgConnection| {
                let found = candidates(connection, &statements).await?;
                Ok((found, next_heartbeat(connection).await?))
            };
            match within(connection, LIMITS, question).await {
                Ok((found, next)) => {
                    if let Some(heartbeat) = nearest(&found) {
                        self.heartbeats.note(heartbeat.clone());
                    }
                    let is_worth_it = self.heartbeats.are_worth_watching();
                    due = next.filter(|_| is_worth_it && self.is_to_be_known(age));
                }
                Err(Spoilt::NotUnderstood) => {}
                Err(Spoilt::SessionOver) => goes_on = false,
            }
        }
        let mut running = None;
        let mut available = None;
        if begins.is_elsewhere(whose) {
            // This role may not use the schema, there are several, or it is another database.
        } else if !begins.has_tasks {
            // A database before its first migration has no tasks, nor has one whose tables are
            // gone.
            (running, available) = (Some(Vec::new()), Some(0));
        } else if goes_on {
            match self.work(connection, begins.shows_results).await {
                Ok((found, count)) => (running, available) = (Some(found), Some(count)),
                Err(Spoilt::NotUnderstood) => {}
                Err(Spoilt::SessionOver) => goes_on = false,
            }
        }
        let has_tables = begins.has_tables(whose);
        let activity = begins.activity;
        let seen = Seen {
            clock: begins.clock,
            replica: self.heartbeats.replica().map(str::to_owned),
            sessions: is_named.then_some(activity.sessions.unsigned_abs()),
            quiet: activity.quiet.filter(|_| is_named),
            migrates: activity.migrates,
            starts: activity.starts && is_named,
            asked: activity.asked,
            has_tables,
            running,
            available,
        };
        Ok(Reading { seen, goes_on, due })
    }

    /// What runs, and how much may be claimed. What runs is what is RUNNING, and what Bytebase has
    /// failed as abandoned where that can be read.
    async fn work(
        &mut self,
        connection: &mut PgConnection,
        shows_results: bool,
    ) -> Result<(Vec<Run>, u64), Spoilt> {
        let first = within(connection, LIMITS, tasks).await;
        let (mut running, mut available) = first.inspect_err(|_| self.abandoned.asked = None)?;
        if shows_results {
            if self.asks_for_abandoned(connection, &running).await? {
                // That may have taken seconds, in which a task may have been claimed. One that has
                // ended in them may have been failed after that answer: it counts until the next
                // reading, which asks again.
                let again = within(connection, LIMITS, tasks).await;
                let (now, count) = again.inspect_err(|_| self.abandoned.asked = None)?;
                running.retain(|run| !now.contains(run));
                running.extend(now);
                available = count;
            }
            self.abandoned.before.clone_from(&running);
            running.extend_from_slice(&self.abandoned.runs);
        }
        Ok((running, available))
    }

    /// Asks what Bytebase has failed as abandoned, where the last answer does not serve any more.
    /// Whether it was asked. Where it cannot be read it is not known what runs, until that was
    /// asked [`abandonment::UNANSWERED`] times in vain: then what was read last counts.
    async fn asks_for_abandoned(
        &mut self,
        connection: &mut PgConnection,
        running: &[Run],
    ) -> Result<bool, Spoilt> {
        let own = self.heartbeats.replica();
        let last = &mut self.abandoned;
        if !last.is_to_be_asked(own, running, Instant::now()) {
            return Ok(false);
        }
        let question = async |connection: &mut PgConnection| abandoned(connection, own).await;
        match within(connection, ABANDONED_LIMITS, question).await {
            Ok(runs) => (last.runs, last.unanswered) = (runs, 0),
            Err(Spoilt::NotUnderstood) if last.unanswered >= abandonment::UNANSWERED => {}
            Err(spoilt) => {
                last.unanswered += 1;
                return Err(spoilt);
            }
        }
        last.asked = Some(Instant::now());
        last.own = own.map(str::to_owned);
        Ok(true)
    }

    /// The replica is not known, and a heartbeat would show which one it is.
    fn is_to_be_known(&self, age: Option<Duration>) -> bool {
        self.heartbeats.replica().is_none() && age.is_some()
    }

    /// Watches the sessions for heartbeats until then, and for nothing else. The next reading makes
    /// of them what it makes of those that it sees itself.
    pub async fn closely(
        &mut self,
        connection: &mut PgConnection,
        age: Option<Duration>,
        until: Instant,
    ) -> Result<(), sqlx::Error> {
        let watches = async {
            // The server shows what a session does to the role that logged in to it.
            sqlx::raw_sql("SET ROLE NONE")
                .execute(&mut *connection)
                .await?;
            while Instant::now() < until {
                let row = ask(HEARTBEATS)
                    .bind(&self.sessions)
                    .bind(at_least(age))
                    .fetch_one(&mut *connection)
                    .await?;
                self.glimpsed.extend(row.try_get::<Option<String>, _>(0)?);
                sleep(GLANCE).await;
            }
            sqlx::raw_sql("RESET ROLE")
                .execute(&mut *connection)
                .await?;
            Ok(())
        };
        let start = Instant::now();
        let longest = until.saturating_duration_since(start) + READ_TIMEOUT;
        let outcome = timeout(longest, watches)
            .await
            .unwrap_or(Err(sqlx::Error::PoolTimedOut));
        self.heartbeats.watched(start.elapsed());
        outcome
    }

    /// Begins, and goes where the tables are.
    async fn begin(
        &self,
        connection: &mut PgConnection,
        whose: Whose,
        age: Option<Duration>,
    ) -> Result<Beginning, Unread> {
        let mut begins = self.ask(connection, age).await?;
        if begins.is_standby {
            return Err(Unread::Standby);
        }
        if begins.is_elsewhere(whose) && begins.schemas == 1 {
            ask("SELECT set_config('search_path', $1, false)")
                .bind(begins.schema.as_deref().unwrap_or_default())
                .execute(&mut *connection)
                .await?;
            begins = self.ask(connection, age).await?;
        }
        if begins.has_other_role {
            // The server shows what a session does to the role that logged in to it, and the tables
            // to the other one.
            sqlx::raw_sql("SET ROLE NONE")
                .execute(&mut *connection)
                .await?;
            let activity = self.ask(connection, age).await;
            sqlx::raw_sql("RESET ROLE")
                .execute(&mut *connection)
                .await?;
            begins.activity = activity?.activity;
        }
        Ok(begins)
    }

    async fn ask(
        &self,
        connection: &mut PgConnection,
        age: Option<Duration>,
    ) -> Result<Beginning, sqlx::Error> {
        let row = ask(&BEGINNING)
            .bind(&self.sessions)
            .bind(at_least(age))
            .bind(MIGRATION_LOCK)
            .bind(hook::LET_GO)
            .bind(&self.own_sessions)
            .bind(&self.database)
            .fetch_one(connection)
            .await?;
        Ok(Beginning {
            clock: row.try_get("clock")?,
            activity: Activity {
                sessions: row.try_get("sessions")?,
                quiet: row.try_get("quiet")?,
                migrates: row.try_get("migrates")?,
                starts: row.try_get("starts")?,
                asked: row.try_get("asked")?,
                heartbeats: row.try_get("heartbeats")?,
            },
            is_standby: row.try_get("is_standby")?,
            has_other_role: row.try_get("has_other_role")?,
            keeps_names: row.try_get("keeps_names")?,
            has_heartbeats: row.try_get("has_heartbeats")?,
            has_tasks: row.try_get("has_tasks")?,
            shows_results: row.try_get("shows_results")?,
            schemas: row.try_get("schemas")?,
            schema: row.try_get("schema")?,
            sees_it: row.try_get("sees_it")?,
            is_other_database: row.try_get("is_other_database")?,
        })
    }
}

impl Beginning {
    /// The tasks are not where this role finds tables, as far as is known: it may not use their
    /// schema, or there are several. Where there is none at all, a login by `PG_URL` has come
    /// before the first migration or after their loss, and a monitoring one perhaps to another
    /// database.
    fn is_elsewhere(&self, whose: Whose) -> bool {
        let is_certain = self.has_tasks && self.sees_it && self.schemas == 1;
        match whose {
            Whose::Bytebases => self.schemas > 0 && !self.has_tasks,
            Whose::Another => self.schemas > 0 && !is_certain,
            Whose::Monitors => !(is_certain && self.is_perhaps_bytebases()),
        }
    }

    /// Whether Bytebase's tables are there, as far as it is known that this is its database.
    fn has_tables(&self, whose: Whose) -> Option<bool> {
        match whose {
            Whose::Bytebases | Whose::Another => Some(self.schemas > 0 || self.has_tasks),
            Whose::Monitors => self.is_perhaps_bytebases().then_some(true),
        }
    }

    /// The database is called as Bytebase's, and has its tables somewhere.
    fn is_perhaps_bytebases(&self) -> bool {
        self.schemas > 0 && !self.is_other_database
    }
}

/// Asks what may meet a lock, in a transaction of its own, which begins with these limits.
async fn within<T>(
    connection: &mut PgConnection,
    limits: &'static str,
    question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Spoilt>,
) -> Result<T, Spoilt> {
    let answer = async {
        sqlx::raw_sql(limits).execute(&mut *connection).await?;
        let answer = question(&mut *connection).await;
        if !matches!(answer, Err(Spoilt::SessionOver)) {
            sqlx::raw_sql("ROLLBACK").execute(&mut *connection).await?;
        }
        answer
    };
    let answer = timeout(READ_TIMEOUT, answer).await;
    answer.unwrap_or(Err(Spoilt::SessionOver))
}

/// A session that is older than this, in seconds, is none of the replica's present process.
fn at_least(age: Option<Duration>) -> Option<f64> {
    age.map(|age| age.as_secs_f64() + 1.0)
}

/// Heartbeats that may be those of the statements that began at these times.
async fn candidates(
    connection: &mut PgConnection,
    statements: &[String],
) -> Result<Vec<Candidate>, Spoilt> {
    let rows = ask(CANDIDATES)
        .bind(statements)
        .bind(SAME)
        .fetch_all(connection)
        .await?;
    let candidate = |row: &PgRow| {
        Ok(Candidate {
            heartbeat: Heartbeat {
                replica: row.try_get(0)?,
                at: row.try_get(1)?,
            },
            distance: row.try_get(2)?,
        })
    };
    rows.iter().map(candidate).collect()
}

/// In how long a heartbeat of any replica is due, or at once if one is late. `None`: there is none
/// to be expected.
async fn next_heartbeat(connection: &mut PgConnection) -> Result<Option<Duration>, Spoilt> {
    let row = ask(NEXT_HEARTBEAT)
        .bind(HEARTBEAT_INTERVAL.as_secs_f64() - EARLY)
        .bind(ACTIVE_WINDOW.as_secs_f64())
        .fetch_one(connection)
        .await?;
    let seconds: Option<f64> = row.try_get(0)?;
    // Less than nothing is no duration.
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

/// A question whose plan the server does not keep: it would keep one for each reading.
fn ask(sql: &'static str) -> Query<'static, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

/// What is RUNNING, and how much is AVAILABLE.
async fn tasks(connection: &mut PgConnection) -> Result<(Vec<Run>, u64), Spoilt> {
    let rows = ask(RUNNING).fetch_all(connection).await?;
    let (mut running, mut available) = (Vec::new(), 0);
    for row in &rows {
        if !row.try_get::<bool, _>(0)? {
            return Err(Spoilt::NotUnderstood);
        }
        available = row.try_get::<i64, _>(1)?.unsigned_abs();
        let owner: Option<String> = row.try_get(2)?;
        if let Some(owner) = owner {
            let started = row.try_get(3)?;
            running.push(Run { owner, started });
        }
    }
    Ok((running, available))
}

/// What Bytebase has failed as abandoned. `own`: the replica beside, where it is known.
async fn abandoned(connection: &mut PgConnection, own: Option<&str>) -> Result<Vec<Run>, Spoilt> {
    let rows = ask(&ABANDONED).bind(own).fetch_all(connection).await?;
    let run = |row: &PgRow| {
        Ok(Run {
            owner: row.try_get(0)?,
            started: row.try_get(1)?,
        })
    };
    rows.iter().map(run).collect()
}

/// Holds the queue, by a transaction of its own that the server ends by itself after `longest`.
/// False if a replica is promoting work at this moment.
pub async fn hold(connection: &mut PgConnection, longest: Duration) -> Result<bool, sqlx::Error> {
    let held = async {
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        limit(&mut *connection, longest).await?;
        let row = ask("SELECT pg_try_advisory_xact_lock_shared($1)")
            .bind(QUEUE_LOCK)
            .fetch_one(&mut *connection)
            .await?;
        let held: bool = row.try_get(0)?;
        if !held {
            release(&mut *connection).await?;
        }
        Ok(held)
    };
    timeout(READ_TIMEOUT, held)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

/// Has the server end a hold after so long, counted from now, should this process not do so.
pub async fn limit(connection: &mut PgConnection, longest: Duration) -> Result<(), sqlx::Error> {
    let longest = longest.as_millis().max(1);
    let set = format!("SET LOCAL idle_in_transaction_session_timeout = {longest}");
    let set = sqlx::raw_sql(sqlx::AssertSqlSafe(set)).execute(connection);
    timeout(READ_TIMEOUT, set)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
        .map(drop)
}

/// Ends a hold.
pub async fn release(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let ended = sqlx::raw_sql("ROLLBACK").execute(connection);
    timeout(READ_TIMEOUT, ended)
        .await
        .unwrap_or(Err(sqlx::Error::PoolTimedOut))
        .map(drop)
}

/// Goes on with a hold for five seconds, also where this process ends before: the server notices
/// that the session has gone only when the sleep is over, and by then the replica has been asked to
/// end.
pub async fn hold_on(mut connection: PgConnection) {
    let _ = sqlx::raw_sql("SELECT pg_sleep(5)")
        .execute(&mut connection)
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_in_braces_is_filled_in() {
        for question in [&*BEGINNING, &*ABANDONED] {
            assert!(!question.contains(['{', '}']), "{question}");
        }
    }

    #[test]
    fn no_question_holds_a_backslash() {
        for question in [
            BEGINNING.as_str(),
            HEARTBEATS,
            CANDIDATES,
            NEXT_HEARTBEAT,
            RUNNING,
            ABANDONED.as_str(),
        ] {
            assert!(!question.contains('\\'), "{question}");
        }
    }

    #[test]
    fn what_was_failed_as_abandoned_is_asked_for_seldom_and_at_once_where_a_task_is_missing() {
        let run = |owner: &str| Run {
            owner: owner.to_owned(),
            started: 1.0,
        };
        let now = Instant::now();
        let last = |own: Option<&str>| Abandoned {
            asked: Some(now),
            own: own.map(str::to_owned),
            runs: Vec::new(),
            before: vec![run("own"), run("other")],
            unanswered: 0,
        };
        let runs = [run("own"), run("other")];
        let (none, own, other, both) = (&runs[..0], &runs[..1], &runs[1..], &runs[..]);
        let known = Some("own");
        for (before, after, running, seconds, expected) in [
            (None, None, both, 9, false),
            (None, None, both, 10, true),
            (known, known, both, 9, false),
            (None, known, both, 1, true),
            (known, known, own, 1, false),
            (known, known, other, 1, true),
            (None, None, own, 1, true),
            (None, None, none, 1, true),
        ] {
            let later = now + Duration::from_secs(seconds);
            let asks = last(before).is_to_be_asked(after, running, later);
            assert_eq!(asks, expected, "{before:?} {after:?} {running:?} {seconds}");
        }
        assert!(Abandoned::default().is_to_be_asked(None, &[], now));
    }
}
