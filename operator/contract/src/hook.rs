//! What the operator and the drain hooks of its pods know of each other, by way of the metadata
//! database: the hooks have no access to Kubernetes, and a hook that runs hears nothing more of the
//! kubelet.

/// `application_name` of a hook's sessions: this and the name of its pod. Not as Bytebase's own,
/// among which the hook finds the replica's.
pub const SESSIONS: &str = "drain/";

/// Longest name that PostgreSQL keeps (`NAMEDATALEN`).
const LONGEST_NAME: usize = 63;

/// The operator asks a hook to let its replica end by an advisory lock of two keys: this, and
/// [`session_key!`](crate::session_key) of the hook's session. It holds as long as the operator
/// wants it, and the server releases it when the operator's session is gone. Bytebase's own
/// advisory locks have one key, or two of which the first is a small number (1004, 1005, 1008).
pub const LET_GO: i32 = 1_627_389_952;

/// SQL: the key of a session, of its row in `pg_stat_activity`. Its number alone may be that of
/// another hook's session later, while a server that has lost the operator still holds the lock.
#[macro_export]
macro_rules! session_key {
    () => {
        "((pid + 7919 * (extract(epoch FROM backend_start) * 1000)::int8) % 2147483647)::int4"
    };
}

/// `application_name` of the sessions of the hook in this pod, as the server shows it.
pub fn sessions_of(pod: &str) -> String {
    let mut name = format!("{SESSIONS}{pod}");
    name.truncate(name.floor_char_boundary(LONGEST_NAME));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_named_as_the_server_shows_them() {
        assert_eq!(sessions_of("demo-0"), "drain/demo-0");
        assert_eq!(sessions_of(&"a".repeat(80)).len(), 63);
    }
}
