//! What the rows of an answer mean. No server is asked here.

use super::WhoseLogin;
use super::classify::Place;
use super::query::{
    EXPECTED, HISTORY, MAX_HEARTBEATS, MAX_ROWS, MAX_RUNS, SETTING_TABLE, Shape, TASK_TABLE,
    WORKSPACE_TABLE,
};
use crate::contract::version::Version;
use crate::observation::{
    DatabaseFacts, DatabaseIdentity, Fact, FailureClass, FailureReason, Heartbeat, ListenSession,
    ProbeFailure, RunningTasks, SchemaState, Sessions, StoredLicense, TaskRuns,
};
use secrecy::SecretString;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, IgnoredAny, SeqAccess, Visitor};
use sha2::{Digest as _, Sha256};
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;
use tokio::time::Instant;
use uuid::Uuid;

/// The oldest that a heartbeat is taken for, as old as the query asks for: ages are added to, and a
/// server may answer with any number.
const OLDEST_HEARTBEAT: Duration = Duration::from_hours(1);

/// Bytes of a name in PostgreSQL, its end included; addresses and times are shorter.
pub(super) const MAX_NAME: usize = 64;

/// Bytes of the id of a workspace. Bytebase makes much shorter ones.
const MAX_WORKSPACE: usize = 256;

/// Bytes of a license. Those that Bytebase issues have one or two thousand.
const MAX_LICENSE: usize = 16 * 1024;

/// The encoding that Bytebase needs.
const UTF8: &str = "UTF8";

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
    /// What was set for the role when the session began, as
    /// [`SETTINGS_OF_ROLE`](super::query::SETTINGS_OF_ROLE) tells it.
    pub settings: Option<i64>,
}

/// All that a reading knows. The field names of its parts are those of the query.
pub(super) struct Document {
    pub(super) catalog: Catalog,
    pub(super) live: Live,
}

/// What the server's catalogs and settings say. While nothing is under way it changes by the hand
/// of an administrator only.
#[derive(Clone, Deserialize)]
pub(super) struct Catalog {
    server_version_num: u32,
    encoding: String,
    max_connections: u32,
    reserved_connections: u32,
    role_connections: Option<u32>,
    database_connections: Option<u32>,
    pub(super) settings: Option<i64>,
    schema: Option<String>,
    /// Only for a monitoring login, as is the next.
    #[serde(default)]
    unseen: Option<String>,
    pub(super) knows_role: Option<bool>,
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
pub(super) struct Live {
    in_recovery: bool,
    read_only: bool,
    clock: Option<f64>,
    sessions: Option<SessionsSeen>,
    others: Option<AtMost<(Option<Name>, Option<Name>), MAX_ROWS>>,
    heartbeats: Option<AtMost<(Option<String>, f64), MAX_HEARTBEATS>>,
    has_heartbeat_rows: Option<bool>,
    pub(super) version: Option<String>,
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
    pub(super) fn parse(text: &str, place: &Place<'_>) -> Result<Self, ProbeFailure> {
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
    pub(super) fn parse(text: &str, place: &Place<'_>) -> Result<Self, ProbeFailure> {
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

/// Which tables to read from, or why they cannot be read.
///
/// A right that is missing fails the probe: there is no honest value for a heartbeat that may not
/// be seen.
pub(super) fn shape_of(
    catalog: &Catalog,
    place: &Place<'_>,
    login: &WhoseLogin,
) -> Result<Shape, ProbeFailure> {
    let role = place.role();
    let denied =
        |class, text: &str| Err(place.failure(class, FailureReason::PermissionDenied, text));
    if catalog.schema.is_none() && *login != WhoseLogin::Bytebase {
        let text = match &catalog.missing_schema {
            Some(schema) => format!(
                "the search_path of Bytebase's role names the schema \"{schema}\", which does not exist; create it, owned by that role"
            ),
            None => format!(
                "role \"{role}\" may use no schema of its search_path; GRANT USAGE ON SCHEMA to it, or set search_path"
            ),
        };
        return denied(FailureClass::Unknown, &text);
    }
    if let Some(unseen) = &catalog.unseen {
        let text = format!(
            "role \"{role}\" may not use the schema \"{unseen}\", in which Bytebase's role looks for its tables; GRANT USAGE ON SCHEMA \"{unseen}\" TO \"{role}\""
        );
        return denied(FailureClass::Unknown, &text);
    }
    // `principal` is not ours to judge by: without it these tables belong to another application.
    if catalog.principal.is_none() {
        return Ok(Shape::default());
    }
    let unreadable: Vec<&str> = catalog
        .tables_seen()
        .filter(|t| !t.readable)
        .map(|t| t.name.as_str())
        .collect();
    if !unreadable.is_empty() {
        let tables = unreadable.join(", ");
        let text = format!(
            "role \"{role}\" may not read {tables}; GRANT SELECT ON {tables} TO \"{role}\", or make it the owner"
        );
        return denied(FailureClass::Definite, &text);
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

/// A workspace may be there before anyone has signed up: an upgrade of an old Bytebase makes one,
/// and a sign-up makes it first, and the user in it only then.
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

pub(super) fn facts(document: Document, shape: Shape, session: &SessionFacts) -> DatabaseFacts {
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
        _ if live.in_recovery => Fact::Unknown,
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
        has_heartbeat_rows: live.has_heartbeat_rows == Some(true),
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

/// Who has failed tasks as abandoned, and how many, by the answer to
/// [`abandoned`](super::query::abandoned).
pub(super) fn abandoned(text: &str, place: &Place<'_>) -> Result<Vec<RunningTasks>, ProbeFailure> {
    let rows = part::<AtMost<(String, u64), MAX_ROWS>>(text, place)?;
    Ok(running_tasks(rows.0))
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
    fn what_a_standby_holds_of_a_license_is_not_taken_for_what_is_stored() {
        for license in [r#"["w", "t"]"#, r#"["w", null]"#, "null"] {
            let of = |in_recovery: bool| {
                let facts =
                    read_with_license(&format!(r#"{license}, "in_recovery": {in_recovery}"#));
                assert_eq!(facts.not_understood, [""; 0]);
                facts.license.is_unknown()
            };
            assert!(of(true) && !of(false), "{license}");
        }
        let without_tables = read(r#"{"in_recovery": true}"#);
        assert!(without_tables.license.is_unknown());
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
}
