//! What a database has to be for Bytebase: findings with which it would fail or do harm, and what
//! it would lack.

use crate::api::Reason;
use crate::decide::database::{answers, can_tell, is_first_start, occupancy, was_refused};
use crate::observation::{DatabaseFacts, FailureClass, LoginTrial, Observation, SchemaState};
use crate::validate::ValidDatabase;

/// Oldest PostgreSQL that Bytebase supports.
const OLDEST_SERVER: u32 = 140_000;
/// Largest pool of one replica.
const POOL: u32 = 50;

/// Why nothing starts where it could not be found out whether a pooler in transaction mode is in
/// between: one was, when that could last be found out, which stands, or there is no replica yet.
pub(in crate::decide) fn may_be_pooled(
    database: &ValidDatabase,
    wanted: i32,
    observation: &Observation,
    facts: &DatabaseFacts,
) -> Option<(Option<bool>, String)> {
    let was = was_refused(observation, Reason::DatabaseTransactionPooler);
    // A monitoring login that leads to another place does not show what stands before Bytebase's,
    // and what that one once led through says nothing of now. Nothing starts where none is wanted.
    let elsewhere = database.is_read_elsewhere() && database.is_open_to_the_operator();
    let untried = match &facts.login {
        Some(LoginTrial::Accepted) => None,
        // One that could not be made from here before is not waited for.
        Some(LoginTrial::Failed(failure)) => {
            let could = answers(failure.reason) || can_tell(&observation.remembered);
            let waits = could && failure.class == FailureClass::Unknown;
            (was || (waits && is_first_start(observation))).then_some(
                "the operator's monitoring login leads to another place, and by Bytebase's own the operator cannot log in now; it tries again every few seconds",
            )
        }
        None => (was || is_first_start(observation)).then_some(
            "the operator's monitoring login leads to another place, and it has not logged in as Bytebase does yet",
        ),
    };
    let untried = untried.filter(|_| elsewhere && (was || wanted > 0));
    if facts.transaction_pooler.is_some() && untried.is_none() {
        return None;
    }
    let place = database.replicas.identity_hint();
    let why = untried.unwrap_or("it gave the operator no second session, of which each replica needs several; the operator tries again every few seconds");
    if was {
        let message = format!(
            "{place} was a pooler in transaction mode when that could last be found out. Whether it still is, is not known: {why}"
        );
        return Some((Some(false), message));
    }
    is_first_start(observation).then(|| {
        let message =
            format!("whether {place} is a pooler in transaction mode is not known: {why}");
        (None, message)
    })
}

/// Findings with which Bytebase would fail or do harm.
pub(in crate::decide) fn fatal(
    database: &ValidDatabase,
    observation: &Observation,
    facts: &DatabaseFacts,
) -> Option<(Reason, String)> {
    let place = database.replicas.identity_hint();
    if facts.server_version_num < OLDEST_SERVER {
        return Some((
            Reason::DatabaseTooOld,
            format!(
                "{place} is PostgreSQL {}, Bytebase needs 14 or later",
                server_version(facts.server_version_num)
            ),
        ));
    }
    if facts.in_recovery {
        return Some((
            Reason::DatabaseIsStandby,
            format!(
                "{place} is a standby, to which no replica can write: point PG_URL at the primary, or list all servers with target_session_attrs=read-write; after a failover this passes by itself: the name is looked up again about every ten seconds"
            ),
        ));
    }
    if facts.read_only {
        return Some((
            Reason::DatabaseReadOnly,
            format!(
                "{place} lets Bytebase log in and write nothing (default_transaction_read_only is on; hosted PostgreSQL does that when its disk is full): free or add space there, or reset the setting of the server, the database and the role"
            ),
        ));
    }
    if facts.encoding != "UTF8" {
        return Some((
            Reason::DatabaseEncoding,
            format!(
                "{place} has the encoding {}, Bytebase needs UTF8: create the database again with ENCODING 'UTF8' TEMPLATE template0",
                facts.encoding
            ),
        ));
    }
    if facts.transaction_pooler == Some(true) {
        return Some((
            Reason::DatabaseTransactionPooler,
            format!(
                "{place} is a pooler in transaction mode, which breaks the locks and notifications that replicas coordinate by: use session mode or the server's own address"
            ),
        ));
    }
    if let Some(other) = &observation.database_shared_with {
        return Some(occupancy::shared(&place, other));
    }
    if let SchemaState::Foreign { example } = &facts.schema {
        return Some((
            Reason::DatabaseForeignTables,
            format!(
                "{place} holds another application's tables (such as {example}): give Bytebase an empty database of its own"
            ),
        ));
    }
    // Where Bytebase's own tables went out of sight, another message says so.
    if let SchemaState::OffPath { schema } = &facts.schema
        && !observation.has_lost_tables(facts)
    {
        let role = database.replicas.shown_user();
        return Some((
            Reason::DatabaseForeignTables,
            format!(
                "{place} holds a table \"principal\" in the schema \"{schema}\", off the search_path of role \"{role}\": Bytebase takes the database for one of its own by that table, and then fails at each start. If the table is Bytebase's, name the schema in the search_path (ALTER ROLE \"{role}\" SET search_path = \"{schema}\"); if it is another application's, give Bytebase an empty database of its own"
            ),
        ));
    }
    // What a monitoring login finds out about another role is not certain enough for a refusal.
    if database.monitored {
        return None;
    }
    lacking_right(&place, database.replicas.shown_user(), facts)
}

/// A right that Bytebase's role seems to lack for the migration of the next version: nothing is
/// refused on it, and no pod is given up for it either. A first pod may try.
pub(in crate::decide) fn unsure_right(
    database: &ValidDatabase,
    facts: &DatabaseFacts,
) -> Option<(Reason, String)> {
    let is_bytebases = matches!(facts.schema, SchemaState::Bytebase { .. });
    if !database.monitored || !is_bytebases {
        return None;
    }
    let place = database.replicas.identity_hint();
    lacking_right(&place, database.replicas.shown_user(), facts)
}

/// A right that Bytebase's migrations need: the first, or that of the version which the next pod
/// may bring.
fn lacking_right(place: &str, role: &str, facts: &DatabaseFacts) -> Option<(Reason, String)> {
    let is_bytebases = match facts.schema {
        SchemaState::Empty => false,
        SchemaState::Bytebase { .. } => true,
        SchemaState::OffPath { .. } | SchemaState::Foreign { .. } => return None,
    };
    let message = if let Some(schema) = &facts.missing_schema {
        format!(
            "the search_path of role \"{role}\" in {place} names the schema \"{schema}\", which does not exist: create the schema (CREATE SCHEMA \"{schema}\" AUTHORIZATION \"{role}\"), or correct search_path"
        )
    } else if let Some(table) = facts.not_owned.as_ref().filter(|_| is_bytebases) {
        format!(
            "the table {table} in {place} belongs to another role, and only its owner can alter it, as migrations of Bytebase do: make role \"{role}\" the owner of all of Bytebase's tables, or a member of the role that owns them"
        )
    } else if facts.can_create {
        return None;
    } else if is_bytebases {
        format!(
            "role \"{role}\" may no longer create tables in the schema of {place} that holds Bytebase, as migrations of Bytebase do: GRANT CREATE ON that SCHEMA to it, or make it the owner"
        )
    } else {
        format!(
            "the role may not create tables in {place} (PostgreSQL 15 and later grant that to the owner only): ALTER DATABASE … OWNER TO the role, or GRANT CREATE ON SCHEMA public"
        )
    };
    Some((Reason::DatabasePermissionDenied, message))
}

/// What allows the fewest connections, if that is fewer than the wanted replicas may open.
pub(in crate::decide) fn too_few_connections(
    database: &ValidDatabase,
    wanted: i32,
    facts: &DatabaseFacts,
) -> Option<String> {
    let budget = budget(wanted);
    let server = facts
        .max_connections
        .saturating_sub(facts.reserved_connections);
    // A replica's pool takes at most what the server has, so a small server serves one replica; a
    // second would starve the first. Of the other limits Bytebase knows nothing.
    let needed = |knows| match (wanted, knows) {
        (..=0, _) | (1, true) => 0,
        (1, false) => POOL,
        _ => budget,
    };
    let role = database.replicas.shown_user();
    let limits = [
        (Some(server), true),
        (facts.role_connections, false),
        (facts.database_connections, false),
    ];
    let limits = limits.into_iter().enumerate();
    let limits = limits.filter_map(|(place, (limit, knows))| Some((limit?, place, knows)));
    // Of those that are too small the least; of equal ones the first.
    let (limit, place, _) = limits
        .filter(|(limit, _, knows)| *limit < needed(*knows))
        .min()?;
    let open = if wanted == 1 {
        format!("1 replica may open {POOL} connections, and twice as many during a rollout")
    } else {
        format!(
            "{wanted} replicas and one more during a rollout may open {budget} connections ({POOL} each)"
        )
    };
    Some(match place {
        0 => format!(
            "{open}, the server offers {limit}: raise max_connections to at least {}",
            budget.saturating_add(facts.reserved_connections)
        ),
        1 => format!(
            "{open}, role \"{role}\" may have {limit}: ALTER ROLE \"{role}\" CONNECTION LIMIT {budget}"
        ),
        _ => format!(
            "{open}, the database takes {limit}: ALTER DATABASE \"{}\" CONNECTION LIMIT {budget}",
            database.replicas.database
        ),
    })
}

/// Connections that the wanted replicas, and one more during a rollout, may open.
pub(in crate::decide) fn budget(replicas: i32) -> u32 {
    let replicas = u32::try_from(replicas).unwrap_or(0);
    POOL.saturating_mul(replicas.saturating_add(1))
}

/// `150018` is 15.18.
pub(in crate::decide) fn server_version(num: u32) -> String {
    format!("{}.{}", num / 10_000, num % 10_000)
}
