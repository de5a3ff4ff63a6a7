//! What of a probe's outcome matters enough to wake a reconcile. Pure.
//!
//! Ages are left out: heartbeats that only go on must wake no reconcile.

use crate::observation::heartbeat::{ALL_HEARD_AFTER, Freshness};
use crate::observation::{
    DatabaseFacts, DatabaseIdentity, Fact, FailureClass, FailureReason, LoginTrial, ProbeFailure,
    RunningTasks, SchemaState, Sessions, StoredLicense,
};
use secrecy::ExposeSecret;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeMap;
use uuid::Uuid;

/// The part of an outcome whose change is worth a reconcile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Digest {
    /// Of facts.
    Facts(Box<FactsDigest>),
    /// Of a failure: not its message, whose words of a server may vary.
    Failure(FailureClass, FailureReason),
}

/// The facts without ages and with queues as empty or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FactsDigest {
    server: (u32, bool, bool, String, u32, u32),
    limits: (Option<u32>, Option<u32>),
    rights: (bool, Option<String>, Option<String>),
    transaction_pooler: Option<bool>,
    has_version_1_certificate: bool,
    identity: DatabaseIdentity,
    all_heard: bool,
    schema: SchemaState,
    license: Fact<[u8; 32]>,
    replicas: Fact<BTreeMap<Uuid, Freshness>>,
    has_heartbeat_rows: bool,
    sessions: Option<Sessions>,
    running: Fact<BTreeMap<Uuid, u64>>,
    unbegun: BTreeMap<Uuid, u64>,
    pending: Fact<bool>,
    available: Fact<bool>,
    login: Option<LoginTrial>,
}

impl Digest {
    /// Of an outcome at the moment of its reading.
    pub fn of(outcome: Result<&DatabaseFacts, &ProbeFailure>) -> Self {
        match outcome {
            Ok(facts) => Self::Facts(Box::new(FactsDigest::of(facts))),
            Err(failure) => Self::Failure(failure.class, failure.reason),
        }
    }

    /// Whether it says anything that `before` did not. Sessions that were not read this time are no
    /// news.
    pub fn is_news_after(&self, before: &Self) -> bool {
        match (self, before) {
            (Self::Facts(now), Self::Facts(before))
                if now.sessions.is_none() && before.sessions.is_some() =>
            {
                let mut before = before.clone();
                before.sessions = None;
                *now != before
            }
            _ => self != before,
        }
    }
}

impl FactsDigest {
    fn of(facts: &DatabaseFacts) -> Self {
        // Destructured so that a new fact cannot be forgotten here.
        let DatabaseFacts {
            server_version_num,
            in_recovery,
            read_only,
            encoding,
            max_connections,
            reserved_connections,
            role_connections,
            database_connections,
            can_create,
            missing_schema,
            not_owned,
            transaction_pooler,
            has_version_1_certificate,
            identity,
            // It grows by itself.
            server_uptime: _,
            writable_for,
            // Likewise.
            server_clock: _,
            schema,
            license,
            heartbeats,
            has_heartbeat_rows,
            sessions,
            running_tasks,
            // Names of what is counted above, for a message.
            task_runs: _,
            unbegun_tasks,
            pending_tasks,
            available_tasks,
            // Says of the facts above which are unknown, which they say themselves.
            not_understood: _,
            login,
        } = facts;
        let running = |tasks: &Vec<RunningTasks>| {
            let mut running = BTreeMap::<_, u64>::new();
            for tasks in tasks {
                let count = running.entry(tasks.replica_id).or_default();
                *count = count.saturating_add(tasks.count);
            }
            running
        };
        Self {
            server: (
                *server_version_num,
                *in_recovery,
                *read_only,
                encoding.clone(),
                *max_connections,
                *reserved_connections,
            ),
            limits: (*role_connections, *database_connections),
            rights: (*can_create, missing_schema.clone(), not_owned.clone()),
            transaction_pooler: *transaction_pooler,
            has_version_1_certificate: *has_version_1_certificate,
            identity: identity.clone(),
            all_heard: *writable_for >= ALL_HEARD_AFTER,
            schema: schema.clone(),
            license: license.map(license_digest),
            // Youngest first, so that of two rows of one replica the younger counts.
            replicas: heartbeats.map(|rows| {
                rows.iter()
                    .rev()
                    .map(|h| (h.replica_id, Freshness::of(h.age)))
                    .collect()
            }),
            has_heartbeat_rows: *has_heartbeat_rows,
            sessions: sessions.clone(),
            running: running_tasks.map(running),
            unbegun: running(unbegun_tasks),
            pending: pending_tasks.map(|count| *count > 0),
            available: available_tasks.map(|count| *count > 0),
            login: login.clone(),
        }
    }
}

fn license_digest(license: &StoredLicense) -> [u8; 32] {
    let mut hash = Sha256::new();
    match license {
        StoredLicense::NoWorkspace => {}
        StoredLicense::Absent { workspace_id } => {
            hash.update(b"absent\0");
            hash.update(workspace_id);
        }
        StoredLicense::Present {
            workspace_id,
            token,
        } => {
            hash.update(b"present\0");
            hash.update(workspace_id);
            hash.update(b"\0");
            hash.update(token.expose_secret());
        }
    }
    hash.finalize().into()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::observation::{Heartbeat, RunningTasks};
    use secrecy::SecretString;
    use std::time::Duration;

    pub(in super::super) fn facts(ages: &[u64]) -> DatabaseFacts {
        DatabaseFacts {
            server_version_num: 150_018,
            in_recovery: false,
            read_only: false,
            encoding: "UTF8".to_owned(),
            max_connections: 100,
            reserved_connections: 3,
            role_connections: None,
            database_connections: None,
            can_create: true,
            missing_schema: None,
            not_owned: None,
            transaction_pooler: Some(false),
            has_version_1_certificate: false,
            identity: DatabaseIdentity::new("id", "1"),
            server_uptime: Duration::from_hours(1),
            writable_for: Duration::from_hours(1),
            server_clock: None,
            schema: SchemaState::Empty,
            license: Fact::Known(StoredLicense::NoWorkspace),
            heartbeats: Fact::Known(
                (1..)
                    .zip(ages)
                    .map(|(n, age)| Heartbeat {
                        replica_id: Uuid::from_u128(n),
                        age: Duration::from_secs(*age),
                    })
                    .collect(),
            ),
            has_heartbeat_rows: false,
            sessions: None,
            running_tasks: Fact::Known(vec![]),
            task_runs: vec![],
            unbegun_tasks: vec![],
            pending_tasks: Fact::Known(0),
            available_tasks: Fact::Known(0),
            not_understood: Vec::new(),
            login: None,
        }
    }

    fn digest(facts: &DatabaseFacts) -> Digest {
        Digest::of(Ok(facts))
    }

    #[test]
    fn new_heartbeats_change_nothing() {
        assert_eq!(digest(&facts(&[0, 9])), digest(&facts(&[10, 30])));
    }

    #[test]
    fn each_step_of_a_dying_replica_changes_something() {
        let steps: [&[u64]; 4] = [&[3, 30], &[3, 31], &[3, 61], &[3]];
        for pair in steps.windows(2) {
            assert_ne!(digest(&facts(pair[0])), digest(&facts(pair[1])), "{pair:?}");
        }
        assert_eq!(digest(&facts(&[3, 61])), digest(&facts(&[3, 3000])));
    }

    #[test]
    fn sessions_are_news_when_they_are_read_and_not_when_they_are_not() {
        let unseen = facts(&[3]);
        let mut seen = unseen.clone();
        seen.sessions = Some(Sessions::default());
        let (unseen, seen) = (digest(&unseen), digest(&seen));
        assert!(seen.is_news_after(&unseen) && !seen.is_news_after(&seen));
        assert!(!unseen.is_news_after(&seen) && !unseen.is_news_after(&unseen));
        assert!(digest(&facts(&[31])).is_news_after(&seen));
    }

    #[test]
    fn what_matters_changes_the_digest() {
        type Change = fn(&mut DatabaseFacts);
        let base = facts(&[3]);
        let changes: [(&str, Change); 21] = [
            ("license", |f| {
                f.license = Fact::Known(StoredLicense::Present {
                    workspace_id: "w".into(),
                    token: SecretString::from("t"),
                });
            }),
            ("workspace", |f| {
                f.license = Fact::Known(StoredLicense::Absent {
                    workspace_id: "w".into(),
                });
            }),
            ("schema", |f| {
                f.schema = SchemaState::Bytebase { version: None };
            }),
            ("tasks", |f| {
                f.running_tasks = Fact::Known(vec![RunningTasks {
                    replica_id: Uuid::from_u128(1),
                    count: 1,
                }]);
            }),
            ("unbegun tasks", |f| {
                f.unbegun_tasks = vec![RunningTasks {
                    replica_id: Uuid::from_u128(1),
                    count: 1,
                }];
            }),
            ("pending", |f| f.pending_tasks = Fact::Known(1)),
            ("available", |f| f.available_tasks = Fact::Known(1)),
            ("unknown license", |f| f.license = Fact::Unknown),
            ("unknown heartbeats", |f| f.heartbeats = Fact::Unknown),
            ("old heartbeats", |f| f.has_heartbeat_rows = true),
            ("unknown tasks", |f| f.running_tasks = Fact::Unknown),
            ("unknown queue", |f| f.pending_tasks = Fact::Unknown),
            ("lock", |f| {
                f.sessions = Some(Sessions {
                    migration_running: true,
                    ..Sessions::default()
                });
            }),
            ("queue", |f| {
                f.sessions = Some(Sessions {
                    queue_held_by: ["drain/demo-1".to_owned()].into(),
                    ..Sessions::default()
                });
            }),
            ("recovery", |f| f.in_recovery = true),
            ("read-only", |f| f.read_only = true),
            ("limit", |f| f.role_connections = Some(20)),
            ("owner", |f| f.not_owned = Some("principal".to_owned())),
            ("schema of the path", |f| {
                f.missing_schema = Some("bb".to_owned());
            }),
            ("login", |f| f.login = Some(LoginTrial::Accepted)),
            ("sessions", |f| f.sessions = Some(Sessions::default())),
        ];
        for (name, change) in changes {
            let mut other = base.clone();
            change(&mut other);
            assert_ne!(digest(&base), digest(&other), "{name}");
        }
    }

    #[test]
    fn the_length_of_a_queue_does_not_matter() {
        let mut short = facts(&[]);
        short.pending_tasks = Fact::Known(1);
        let mut long = facts(&[]);
        long.pending_tasks = Fact::Known(99);
        assert_eq!(digest(&short), digest(&long));
    }

    #[test]
    fn a_failure_is_its_class_and_reason() {
        let failure = |message: &str, reason| ProbeFailure {
            class: FailureClass::Unknown,
            reason,
            message: message.to_owned(),
        };
        let a = failure("a", FailureReason::Unreachable);
        let b = failure("b", FailureReason::Unreachable);
        let c = failure("a", FailureReason::TlsFailed);
        assert_eq!(Digest::of(Err(&a)), Digest::of(Err(&b)));
        assert_ne!(Digest::of(Err(&a)), Digest::of(Err(&c)));
    }
}
