//! Reading by a login of the operator's own: as Bytebase's role would see it, and only as far as the
//! server that answers is the one that Bytebase uses.

use super::connect;
use crate::contract::pg_url::PgUrl;

/// What `PG_URL` says that a monitoring login must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The role that Bytebase logs in as.
    pub role: String,
    /// The name of Bytebase's database.
    pub database: String,
    /// The monitoring login goes to the very server and database of `PG_URL`, so what that server
    /// is holds for Bytebase too.
    pub same_place: bool,
    /// Settings that Bytebase asks for at its login, in the order in which the server takes them.
    settings: Vec<(String, String)>,
}

impl Watched {
    /// What a login by `monitor` must know of Bytebase's own.
    pub fn of(replicas: &PgUrl, monitor: &PgUrl) -> Self {
        Self {
            role: replicas.user.clone(),
            database: replicas.database.clone(),
            same_place: replicas.hosts == monitor.hosts && replicas.database == monitor.database,
            settings: connect::server_parameters(replicas),
        }
    }

    /// What Bytebase asks for as the value of one setting.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let mut settings = self.settings.iter().rev();
        let (_, value) = settings.find(|(key, _)| key.eq_ignore_ascii_case(name))?;
        Some(value)
    }
}
