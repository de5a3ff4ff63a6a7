//! Reading by a login of the operator's own: as Bytebase's role would see it, and only as far as
//! the server that answers is the one that Bytebase uses.

use super::connect;
use crate::contract::pg_url::PgUrl;
use crate::observation::{DatabaseFacts, SchemaState};
use std::fmt;

/// Of a role or a database that is not called as in `PG_URL`.
const OR_RENAMED: &str = "or PG_URL leads through a pooler that names it otherwise: then give the monitoring login the same host, port and database";

/// What to do about a login that leads elsewhere.
const ADVICE: &str = "give database.monitorSecretRef a connection string that leads to the database of PG_URL, on its primary";

/// What `PG_URL` says that a monitoring login must know.
#[derive(Clone, PartialEq, Eq)]
pub struct Watched {
    /// The role that Bytebase logs in as.
    pub role: String,
    /// That role as messages show it.
    shown_role: String,
    /// The name of Bytebase's database.
    pub database: String,
    /// The monitoring login goes to the very server and database of `PG_URL`, so what that server
    /// is holds for Bytebase too.
    pub same_place: bool,
    /// `PG_URL` may lead to a standby of several servers, and another login to the primary.
    may_take_a_standby: bool,
    /// Settings that Bytebase asks for at its login, in the order in which the server takes them.
    settings: Vec<(String, String)>,
}

/// Without the settings, whose values can be secrets.
impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watched")
            .field("role", &self.shown_role)
            .field("database", &self.database)
            .field("same_place", &self.same_place)
            .field("may_take_a_standby", &self.may_take_a_standby)
            .field("settings", &self.settings.len())
            .finish()
    }
}

impl Watched {
    /// What a login by `monitor` must know of Bytebase's own.
    pub fn of(replicas: &PgUrl, monitor: &PgUrl) -> Self {
        Self {
            role: replicas.user.clone(),
            shown_role: replicas.shown_user().to_owned(),
            database: replicas.database.clone(),
            same_place: monitor.is_at_the_place_of(replicas),
            may_take_a_standby: replicas.may_take_a_standby(),
            settings: connect::server_parameters(replicas),
        }
    }

    /// The role that Bytebase logs in as, for messages.
    pub fn shown_role(&self) -> &str {
        &self.shown_role
    }

    /// Why what was read says nothing of Bytebase's database, and what to do: the login leads to
    /// another place than `PG_URL` does, or to one that `PG_URL` need not share the faults of.
    /// `database`: where the login leads to; `knows_role`: the server has Bytebase's role. That
    /// there are tables of Bytebase proves nothing: they may be those of another one.
    pub fn distrust(
        &self,
        facts: &DatabaseFacts,
        database: &str,
        knows_role: bool,
    ) -> Option<String> {
        if self.same_place {
            return None;
        }
        let (role, wanted) = (&self.shown_role, &self.database);
        let why = if facts.in_recovery {
            Some("the server is a standby, which says nothing certain of the primary".to_owned())
        } else if self.may_take_a_standby {
            return Some("PG_URL names several servers and does not ask for one that takes writes, so Bytebase may be on another one of them, a standby; add target_session_attrs=read-write to PG_URL".to_owned());
        } else if !knows_role {
            Some(format!(
                "the server does not know the role \"{role}\" that Bytebase logs in as, so it is another one, {OR_RENAMED}"
            ))
        } else if database != wanted {
            Some(format!(
                "PG_URL names the database \"{wanted}\", so this is another one, {OR_RENAMED}"
            ))
        } else if matches!(facts.schema, SchemaState::Foreign { .. }) {
            Some("this database holds the tables of another application".to_owned())
        } else if facts.encoding != "UTF8" {
            Some("this database is not encoded in UTF-8, as Bytebase's must be".to_owned())
        } else {
            None
        };
        why.map(|why| format!("{why}; {ADVICE}"))
    }

    /// What Bytebase asks for as the value of one setting.
    pub fn setting(&self, name: &str) -> Option<&str> {
        connect::setting(&self.settings, name)
    }
}
