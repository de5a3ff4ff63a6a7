//! How a question to the metadata database is put together.
//!
//! A query that names a missing table fails as a whole, so it is built for the tables that were
//! seen last time ([`Shape`]), and for as much as is asked for ([`Extent`]). Tables are named
//! without a schema, as Bytebase names them: the `search_path` decides.

use super::WhoseLogin;
use super::connect;
use crate::contract::pg_url::PgUrl;
use crate::contract::replica::{MIGRATION_LOCK, QUEUE_LOCK};
use crate::contract::version::Version;
use crate::contract::{abandonment, hook};
use std::fmt::Write as _;

/// Limit set at the server, so that a cancelled probe leaves nothing running there.
const STATEMENT_TIMEOUT: &str = "4s";

/// The same for [`abandoned`], for which a reading waits that has been made already.
const ABANDONED_STATEMENT_TIMEOUT: &str = "2s";

/// Rows of `replica_heartbeat` kept. Rows of ended processes stay up to two hours; those beyond one
/// hour are not read at all.
pub(super) const MAX_HEARTBEATS: u32 = 100;

/// Listening sessions and task owners kept; far beyond any number of replicas.
pub(super) const MAX_ROWS: u32 = 200;

/// Ids of task runs kept of each owner, to be named in a message.
pub(super) const MAX_RUNS: u32 = 10;

/// Waiting task runs are counted up to here: what matters is none or some, and a count must not
/// scan a whole queue.
const MAX_COUNT: u32 = 10_000;

/// Tables the document draws from, the columns it needs of each, and the first version of the
/// schema that has them all. One that lacks a column is of an older Bytebase, or of one that this
/// operator does not know; which of the two, the version of the schema says. To its patch number: a
/// migration may end between any two.
pub(super) const EXPECTED: [(&str, &[&str], Version); 5] = [
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

/// Places in `EXPECTED`.
pub(super) const HEARTBEAT_TABLE: usize = 0;
pub(super) const HISTORY: usize = 1;
pub(super) const WORKSPACE_TABLE: usize = 2;
pub(super) const SETTING_TABLE: usize = 3;
pub(super) const TASK_TABLE: usize = 4;

/// How much one message asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// [`Live`](super::facts::Live) without the sessions.
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
pub(super) struct Shape {
    /// It has Bytebase's `principal`, so tables of others need not be searched for.
    pub(super) principal: bool,
    /// Who signed up may be read of it.
    pub(super) users: bool,
    /// `task_run` says from when on each may run.
    pub(super) run_at: bool,
    /// And since when each has run, and when it was last changed.
    pub(super) begun: bool,
    /// And what came of each, and when it was last changed.
    pub(super) results: bool,
    /// And each has an id.
    pub(super) ids: bool,
    /// Which of the expected tables are there, in the order of `EXPECTED`.
    pub(super) tables: [bool; EXPECTED.len()],
}

// No string in them has a backslash, which means something else where `standard_conforming_strings`
// is off.

/// What is read from catalogs, and needs no table of Bytebase's. Words in braces are filled in.
const CATALOG: &str = include_str!("sql/catalog.sql");

/// What goes before each reading. Row security leaves rows out without a word: the server is to
/// refuse the question instead.
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
pub(super) const SETTINGS_OF_ROLE: &str = include_str!("sql/settings_of_role.sql");

/// For a monitoring login: names without a schema then mean what they mean to Bytebase.
const PATH_OF_ROLE: &str = include_str!("sql/path_of_role.sql");

/// For a monitoring login: a schema that Bytebase's role may use and the login may not, where
/// tables would seem not to exist.
const UNSEEN: &str = include_str!("sql/unseen.sql");

/// The first schema of the `search_path`, if none of them exists.
const MISSING_SCHEMA: &str = include_str!("sql/missing_schema.sql");

/// One of Bytebase's tables that the role does not own, and so cannot alter. They are listed by
/// their names: others in the same schema, such as a copy that an administrator made, are not
/// Bytebase's.
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

/// Clients that are neither an operator nor a drain hook. To a login without `pg_monitor` the
/// server does not say which sessions are of clients; it names the role and the application all the
/// same.
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

/// What came of a task is read of the few that failed under a replica which is heard, for which all
/// that ever failed are gone through: see [`abandonment`].
const ABANDONED: &str = include_str!("sql/abandoned.sql");

/// A replica takes a task run and begins it within the second. Where that fails in between, for
/// want of the database, it stays as it is for as long as the replica lives.
const UNBEGUN: &str = include_str!("sql/unbegun.sql");

/// As an interval of SQL.
const UNBEGUN_AFTER: &str = "10 minutes";

/// A task run that is to wait for its time waits for no promotion, perhaps for days.
const DUE: &str = "AND (run_at IS NULL OR run_at <= now())";

/// `url` is what was logged in by.
pub(super) fn query(shape: Shape, extent: Extent, login: &WhoseLogin, url: &PgUrl) -> String {
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
        .replace("{queue_lock}", &QUEUE_LOCK.to_string())
        .replace("{migration_lock}", &MIGRATION_LOCK.to_string())
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

/// The question which tasks Bytebase has failed as abandoned, with what goes before it.
pub(super) fn abandoned(login: &WhoseLogin, url: &PgUrl) -> String {
    let begin = begin(ABANDONED_STATEMENT_TIMEOUT, login, url);
    let question = abandonment::filled_in(ABANDONED).replace("{rows}", &MAX_ROWS.to_string());
    format!("{begin}{question}")
}

/// What goes before a question for which the server has so much time. A monitoring login takes
/// names without a schema as Bytebase does.
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

#[cfg(test)]
mod tests {
    use super::super::connect::tests::url;
    use super::*;

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
        let abandoned = abandoned(&WhoseLogin::Bytebase, &url);
        for text in [empty, full, live, abandoned] {
            assert!(!text.contains(['{', '\\']), "{text}");
        }
    }
}
