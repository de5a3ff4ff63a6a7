//! Which cluster has which metadata database: one database belongs to one cluster. That is one
//! whose replicas have been seen to serve there; of several such, or of none, one that has replicas
//! there; of several such, or of none, the oldest. So of the clusters that have been read on one
//! database exactly one is held by no other; and that someone's spec names a database, or that pods
//! of theirs run, takes it from no cluster that has served there.
//!
//! A cluster that has served keeps its database whatever place its spec names, since another name
//! may lead to the same one: see [`Remembered::served_on_after`].
//!
//! What a claim rests on is in the status of each cluster, so it survives the operator; this index
//! is a cache of it, by the uid of the cluster: one that is made again under its name is another.

use crate::api::status::LoginState;
use crate::api::{BytebaseCluster, Reason};
use crate::contract::pg_url::is_of_each_machine;
use crate::observation::{DatabaseIdentity, Holder, Remembered, Usage};
use crate::process::queue::{Key, name};
use jiff::Timestamp;
use kube::ResourceExt as _;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;
use tokio::time::Instant;

/// So much later than a server gave it, an answer may come in.
const LATE_ANSWER: Duration = Duration::from_secs(10);

/// The claims of all clusters.
#[derive(Default)]
pub struct Claims(Mutex<Index>);

#[derive(Default)]
struct Index {
    claims: HashMap<String, Claim>,
    /// Uids by database and by endpoint, oldest first.
    by_mark: HashMap<Mark, BTreeSet<Seniority>>,
}

/// When a cluster was made, its name, and its uid.
type Seniority = (Timestamp, String, String);

/// By what two claims may be found to be on the same database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Mark {
    /// [`DatabaseIdentity::database`].
    Database(String),
    /// `host:port/database`, within its namespace only where a host may lead somewhere else in
    /// another one.
    Endpoint(String),
}

/// What is known of the database of one cluster.
#[derive(Clone, Debug)]
struct Claim {
    key: Key,
    created: Timestamp,
    /// The place that its spec names.
    endpoint: Option<Mark>,
    /// The database to which that leads, if that has been read.
    database: Option<Mark>,
    /// The database that is its own since it has served there.
    served_on: Option<Mark>,
    /// What the latest reading found of the server, if it was a good one.
    sighting: Option<Sighting>,
    /// [`Presence::is_refused`].
    is_refused: bool,
    /// It has replicas, or a StatefulSet that wants some, and they are not to move there only now.
    runs: bool,
    /// Whether its replicas send heartbeats cannot be read.
    is_unread: bool,
}

/// What a reconcile sees of a cluster at its database.
#[derive(Clone, Copy, Debug, Default)]
pub struct Presence<'a> {
    /// The server refuses its login, and it has no replica: none can start.
    pub is_refused: bool,
    /// It has replicas, or a StatefulSet that wants some.
    pub runs: bool,
    /// They were started with another login than the one by which it is read now.
    pub moves: bool,
    /// Whether its heartbeats can be read. `None`: no reading has ended yet.
    pub is_readable: Option<bool>,
    /// [`Remembered::served_on_after`] its latest reading.
    pub served_on: Option<&'a str>,
}

/// What a reading finds of the server that it reached.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// Which database and which start of its server.
    pub identity: DatabaseIdentity,
    /// Since when each reading has found this server to take writes.
    pub since: Instant,
    /// When it was read last.
    pub at: Instant,
}

/// Who claims.
pub struct Claimant<'a> {
    /// Namespace and name.
    pub key: &'a Key,
    /// Uid.
    pub uid: &'a str,
    /// When it was made.
    pub created: Timestamp,
}

impl<'a> Claimant<'a> {
    /// Of a cluster.
    pub fn of(cluster: &'a BytebaseCluster, key: &'a Key) -> Self {
        Self {
            key,
            uid: cluster.metadata.uid.as_deref().unwrap_or_default(),
            created: cluster
                .creation_timestamp()
                .map_or(Timestamp::MIN, |time| time.0),
        }
    }
}

// === impl Claims ===

impl Claims {
    /// Takes up what the status of a cluster says, unless more is known already. To be done before
    /// the first verdict, so that it changes none.
    pub fn learn(&self, cluster: &BytebaseCluster) {
        let key = ObjectRef::from_obj(cluster);
        let claimant = Claimant::of(cluster, &key);
        let database = cluster
            .status
            .as_ref()
            .and_then(|status| status.database.as_ref());
        let Some(database) = database else {
            return;
        };
        let database = database.clone().of_today();
        let status = cluster.status.as_ref();
        let replicas = status.map_or(0, |status| status.replicas);
        let mut index = self.0.lock();
        if index.claims.contains_key(claimant.uid) {
            return;
        }
        let claim = Claim {
            key: key.clone(),
            created: claimant.created,
            endpoint: database
                .endpoint
                .as_deref()
                .map(|endpoint| mark_of_endpoint(endpoint, &key)),
            runs: replicas > 0
                && (database.changed_login.is_none()
                    || are_there(database.identity.as_ref(), database.served_on.as_ref())),
            database: database.identity.map(Mark::Database),
            served_on: database.served_on.map(Mark::Database),
            sighting: None,
            is_refused: replicas == 0 && database.login == Some(LoginState::Refused),
            is_unread: status.is_some_and(|status| status.active_replicas.is_none()),
        };
        index.put(claimant.uid, claim);
    }

    /// Notes what a reconcile knows: the endpoint, what the latest reading found of the server if
    /// it is a good one, and what there is of the cluster. Other clusters whose verdict may change
    /// by it are returned.
    pub fn set(
        &self,
        claimant: &Claimant<'_>,
        endpoint: &str,
        sighting: Option<Sighting>,
        presence: Presence<'_>,
        remembered: &Remembered,
    ) -> Vec<Key> {
        let mut index = self.0.lock();
        let endpoint = mark_of_endpoint(endpoint, claimant.key);
        let before = index.claims.get(claimant.uid);
        // What was read at another endpoint is another database.
        let known = before
            .filter(|claim| claim.endpoint.as_ref() == Some(&endpoint))
            .and_then(|claim| claim.database.clone());
        let stored = remembered.database.as_ref().filter(|database| {
            let at = database.endpoint.as_deref();
            at.map(|at| mark_of_endpoint(at, claimant.key)).as_ref() == Some(&endpoint)
        });
        let database = sighting
            .as_ref()
            .map(|sighting| Mark::Database(sighting.identity.database.clone()))
            .or(known)
            .or_else(|| stored?.identity.clone().map(Mark::Database));
        let served_on = presence.served_on.map(str::to_owned).map(Mark::Database);
        // A process that has not read it yet goes by what status says.
        let was_unread = before.is_some_and(|claim| claim.is_unread);
        let claim = Claim {
            key: claimant.key.clone(),
            created: claimant.created,
            endpoint: Some(endpoint),
            runs: presence.runs
                && (!presence.moves || are_there(database.as_ref(), served_on.as_ref())),
            database,
            served_on,
            sighting,
            is_refused: presence.is_refused,
            is_unread: presence
                .is_readable
                .map_or(was_unread, |readable| !readable),
        };
        index.put(claimant.uid, claim)
    }

    /// Another cluster that has the same database, by its full name. `runs`: whether there are
    /// replicas of this one. `latest`: what the latest reading of another cluster found, which that
    /// may not be reconciled with yet.
    pub fn holder(
        &self,
        uid: &str,
        runs: bool,
        remembered: &Remembered,
        latest: impl Fn(&Key) -> Option<Sighting>,
    ) -> Option<Holder> {
        let index = self.0.lock();
        let claim = index.claims.get(uid)?;
        let seniority = claim.seniority(uid);
        let marks = [&claim.database, &claim.endpoint].into_iter().flatten();
        marks
            .flat_map(|mark| index.by_mark.get(mark).into_iter().flatten())
            .find_map(|age| {
                let other = index.claims.get(&age.2).filter(|_| age.2 != uid)?;
                if !other.goes_before(claim, *age < seniority) {
                    return None;
                }
                let theirs = latest(&other.key);
                let theirs = theirs.as_ref().or(other.sighting.as_ref());
                let is_shared = claim.is_on_database_of(other, theirs, runs, remembered);
                is_shared.then(|| Holder {
                    name: age.1.clone(),
                    usage: other.usage_of_named(claim),
                })
            })
    }

    /// Uids of all that claim.
    #[cfg(test)]
    pub fn uids(&self) -> Vec<String> {
        self.0.lock().claims.keys().cloned().collect()
    }

    /// Forgets a cluster that is gone. Those that it may have held back are returned.
    pub fn forget(&self, uid: &str) -> Vec<Key> {
        let mut index = self.0.lock();
        match index.take(uid) {
            Some(claim) => index.neighbours(&claim),
            None => Vec::new(),
        }
    }
}

/// Whether replicas that have another login serve on the very database that the spec names: by
/// another name of it, or as another role.
fn are_there<T: PartialEq>(database: Option<&T>, served_on: Option<&T>) -> bool {
    database.is_some() && database == served_on
}

/// An endpoint means the same everywhere if all its hosts do; so does a Cloud SQL instance
/// (`project:region:name`).
fn mark_of_endpoint(endpoint: &str, key: &Key) -> Mark {
    let servers = endpoint.split('/').next().unwrap_or_default();
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let is_instance = !servers.contains(',') && servers.matches(':').count() == 2;
    let means_the_same = |server: &str| {
        let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
        is_the_same_everywhere(host)
    };
    Mark::Endpoint(if is_instance || servers.split(',').all(means_the_same) {
        endpoint.to_owned()
    } else {
        format!("{namespace}: {endpoint}")
    })
}

/// Whether a host leads to one place from all namespaces: an address, unless that is the pod's own,
/// or a name that is whole. One of two parts is a Service and its namespace, unless it begins as
/// the pod of a StatefulSet does: then it may be a pod and its Service, which is another one in
/// each namespace. Kubernetes completes no name of three parts with the namespace of the pod that
/// asks.
fn is_the_same_everywhere(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(address) => !is_of_each_machine(address),
        Err(_) => match host.split_once('.') {
            Some((first, rest)) => rest.is_empty() || rest.contains('.') || !has_ordinal(first),
            None => false,
        },
    }
}

fn has_ordinal(name: &str) -> bool {
    let ordinal = name.rsplit_once('-').map(|(_, ordinal)| ordinal);
    ordinal.is_some_and(|ordinal| ordinal.parse::<u32>().is_ok())
}

// === impl Claim ===

impl Claim {
    fn seniority(&self, uid: &str) -> Seniority {
        (self.created, name(&self.key), uid.to_owned())
    }

    fn same_as(&self, other: &Self) -> bool {
        let server = |claim: &Self| {
            let sighting = claim.sighting.as_ref();
            sighting.map(|sighting| sighting.identity.clone())
        };
        (
            &self.endpoint,
            &self.database,
            server(self),
            &self.served_on,
            (self.is_refused, self.runs, self.is_unread),
        ) == (
            &other.endpoint,
            &other.database,
            server(other),
            &other.served_on,
            (other.is_refused, other.runs, other.is_unread),
        )
    }

    /// By what it may be found.
    fn marks(&self) -> impl Iterator<Item = &Mark> {
        let marks = [&self.endpoint, &self.database, &self.served_on];
        marks.into_iter().flatten()
    }

    /// Whether the specs of both name one database, as far as that has been read: a name that both
    /// hold is enough until it has been of both.
    fn names_that_of(&self, other: &Self) -> bool {
        match (&self.database, &other.database) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => self.endpoint == other.endpoint,
        }
    }

    /// How far this one uses the database that the spec of `other` names, and that it has.
    fn usage_of_named(&self, other: &Self) -> Usage {
        match self {
            _ if !self.names_that_of(other) => Usage::Moves,
            Self { runs: false, .. } => Usage::Idle,
            Self {
                is_unread: true, ..
            } => Usage::Unread,
            Self { .. } => Usage::Runs,
        }
    }

    /// Whether the database that the spec of `other` names would be this one's, if both are on one.
    fn goes_before(&self, other: &Self, is_older: bool) -> bool {
        let named = other.database.as_ref().or(self.database.as_ref());
        // Whoever may write a spec may have pods, and a name in it that leads anywhere later. They
        // count where both have been read, since a first replica beside them could be a second one.
        let is_known = self.database.is_some() && self.database == other.database;
        let has_served = |claim: &Self| named.is_some() && claim.served_on.as_ref() == named;
        let rank = |claim: &Self| (has_served(claim), is_known && claim.runs);
        let (mine, theirs) = (rank(self), rank(other));
        mine > theirs || (mine == theirs && is_older)
    }

    /// Whether both are on one database, as far as is known. `theirs`: what was seen last of the
    /// other one's server.
    fn is_on_database_of(
        &self,
        other: &Self,
        theirs: Option<&Sighting>,
        runs: bool,
        remembered: &Remembered,
    ) -> bool {
        let names_it = self.names_that_of(other);
        let has_served = self.database.is_some() && self.database == other.served_on;
        if !names_it && !has_served {
            return false;
        }
        // Whoever may write a spec may name any database in it. One whose login the server refuses
        // starts nothing on it, and stops none of another user's, unless it has served there.
        if other.database.is_none()
            && !has_served
            && other.is_refused
            && self.key.namespace != other.key.namespace
        {
            return false;
        }
        // A clone has the identity of its original. What the other one sees of another database
        // says nothing of this one.
        let theirs = theirs.filter(|theirs| {
            let seen = Mark::Database(theirs.identity.database.clone());
            self.database.as_ref() == Some(&seen)
        });
        if let (Some(mine), Some(theirs)) = (&self.sighting, theirs) {
            if mine.identity == theirs.identity {
                return true;
            }
            if mine.runs_beside(theirs) {
                return false;
            }
        }
        // Which it is cannot be known while one of them is not read, or a server that has just
        // started may be the one that was seen before. For one that runs the verdict of before
        // stands: a spec that names this database with a login that does not work stops no one. A
        // first replica is held back: that nothing was refused before may be because nothing was
        // known of the other one yet.
        let refused = remembered.refusal.as_ref();
        let identity = remembered.database.as_ref();
        let identity = identity.and_then(|database| database.identity.clone());
        let passed = runs
            && self.database.is_some()
            && identity.map(Mark::Database) == self.database
            && refused.is_none_or(|refusal| refusal.reason != Reason::DatabaseShared);
        !passed
    }
}

// === impl Sighting ===

impl Sighting {
    /// Whether these are two databases, and not one before and after a restart or a failover: the
    /// one that was seen to take writes first still did when the other one did already.
    fn runs_beside(&self, other: &Self) -> bool {
        let (first, second) = if self.since <= other.since {
            (self, other)
        } else {
            (other, self)
        };
        first.at > second.since + LATE_ANSWER
    }
}

// === impl Index ===

impl Index {
    /// Returns the other clusters that it may concern, if it is another claim than before.
    fn put(&mut self, uid: &str, claim: Claim) -> Vec<Key> {
        let before = self.take(uid);
        for mark in claim.marks() {
            let seniorities = self.by_mark.entry(mark.clone()).or_default();
            seniorities.insert(claim.seniority(uid));
        }
        let mut concerned = Vec::new();
        if before.as_ref().is_none_or(|before| !before.same_as(&claim)) {
            concerned = self.neighbours(&claim);
            concerned.extend(before.iter().flat_map(|before| self.neighbours(before)));
            concerned.retain(|key| *key != claim.key);
        }
        self.claims.insert(uid.to_owned(), claim);
        concerned
    }

    fn take(&mut self, uid: &str) -> Option<Claim> {
        let claim = self.claims.remove(uid)?;
        for mark in claim.marks() {
            if let Some(seniorities) = self.by_mark.get_mut(mark) {
                seniorities.remove(&claim.seniority(uid));
                if seniorities.is_empty() {
                    self.by_mark.remove(mark);
                }
            }
        }
        Some(claim)
    }

    /// Clusters with a mark of this claim.
    fn neighbours(&self, claim: &Claim) -> Vec<Key> {
        let marks = claim.marks();
        marks
            .flat_map(|mark| self.by_mark.get(mark).into_iter().flatten())
            .filter_map(|(.., uid)| Some(self.claims.get(uid)?.key.clone()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::status::DatabaseStatus;
    use crate::observation::Refusal;
    use serde_json::json;
    use std::cmp::Reverse;

    const WAITS: Presence<'static> = Presence {
        is_refused: false,
        runs: false,
        moves: false,
        is_readable: Some(true),
        served_on: None,
    };
    const RUNS: Presence<'static> = Presence {
        runs: true,
        ..WAITS
    };

    impl Claims {
        fn shared_with(
            &self,
            uid: &str,
            runs: bool,
            remembered: &Remembered,
            latest: impl Fn(&Key) -> Option<Sighting>,
        ) -> Option<String> {
            let holder = self.holder(uid, runs, remembered, latest)?;
            Some(holder.name)
        }
    }

    fn key(name: &str) -> Key {
        ObjectRef::new(name).within("prod")
    }

    /// Of a server that has run for an hour.
    fn sighting(database: &str, start: &str) -> Sighting {
        let at = Instant::now();
        Sighting {
            identity: DatabaseIdentity {
                database: database.to_owned(),
                server_start: start.to_owned(),
            },
            since: at - Duration::from_hours(1),
            at,
        }
    }

    /// A cluster named after its age in seconds; its uid is the same.
    fn set(
        claims: &Claims,
        age: i64,
        endpoint: &str,
        read: Option<(&str, &str)>,
    ) -> Option<String> {
        let name = age.to_string();
        let remembered = Remembered::default();
        let claimant = Claimant {
            key: &key(&name),
            uid: &name,
            created: Timestamp::from_second(age).unwrap(),
        };
        let sighting = read.map(|(database, start)| sighting(database, start));
        claims.set(&claimant, endpoint, sighting, RUNS, &remembered);
        shared_with(claims, &name, &remembered)
    }

    fn shared_with(claims: &Claims, uid: &str, remembered: &Remembered) -> Option<String> {
        claims.shared_with(uid, true, remembered, |_| None)
    }

    fn with_status(name: &str, created: &str, endpoint: &str, identity: &str) -> BytebaseCluster {
        serde_json::from_value(json!({
            "apiVersion": "bytebase.com/v1alpha1", "kind": "BytebaseCluster",
            "metadata": {"name": name, "namespace": "prod", "uid": name, "creationTimestamp": created},
            "spec": {"version": "3.21.1", "externalURL": "https://b.example.com", "database": {}},
            "status": {
                "replicas": 1, "database": {"endpoint": endpoint, "identity": identity},
            },
        }))
        .unwrap()
    }

    #[test]
    fn the_oldest_has_the_database_in_any_order_of_reading() {
        for order in [[1, 2], [2, 1]] {
            let claims = Claims::default();
            for age in order {
                set(&claims, age, &format!("h{age}.x:1/d"), Some(("db", "s")));
            }
            let none = Remembered::default();
            assert_eq!(shared_with(&claims, "1", &none), None);
            assert_eq!(shared_with(&claims, "2", &none).as_deref(), Some("prod/1"));
        }
    }

    #[test]
    fn a_claim_survives_the_operator_in_status() {
        let claims = Claims::default();
        claims.learn(&with_status("old", "2026-01-01T00:00:00Z", "a.x:1/d", "db"));
        let young = 1_780_000_000;
        let shared = set(&claims, young, "b.x:1/d", Some(("db", "s")));
        assert_eq!(shared.as_deref(), Some("prod/old"));
    }

    #[test]
    fn a_name_that_both_specs_hold_is_enough_until_both_are_read() {
        let claims = Claims::default();
        assert_eq!(set(&claims, 1, "h.x.y:1/d", None), None);
        assert_eq!(
            set(&claims, 2, "h.x.y:1/d", None).as_deref(),
            Some("prod/1")
        );
        assert_eq!(
            set(&claims, 2, "h.x.y:1/d", Some(("b", "s"))).as_deref(),
            Some("prod/1")
        );
        set(&claims, 1, "h.x.y:1/d", Some(("a", "s")));
        assert_eq!(set(&claims, 2, "h.x.y:1/d", Some(("b", "s"))), None);
    }

    #[test]
    fn a_spec_that_was_never_read_takes_no_database_from_replicas_that_run_on_it() {
        let claims = Claims::default();
        set(&claims, 1, "h.x.y:1/d", None);
        set(&claims, 2, "h.x.y:1/d", Some(("db", "s")));
        let passed = Remembered {
            database: Some(DatabaseStatus {
                identity: Some("db".to_owned()),
                ..DatabaseStatus::default()
            }),
            ..Remembered::default()
        };
        let unread = Remembered::default();
        let by = |runs, remembered| claims.shared_with("2", runs, remembered, |_| None);
        assert_eq!(by(true, &passed), None);
        assert_eq!(by(false, &passed).as_deref(), Some("prod/1"));
        assert_eq!(by(true, &unread).as_deref(), Some("prod/1"));
        // Until it is read as well.
        set(&claims, 1, "h.x.y:1/d", Some(("db", "s")));
        assert_eq!(by(true, &passed).as_deref(), Some("prod/1"));
    }

    #[test]
    fn a_spec_whose_login_is_refused_holds_back_no_cluster_of_another_namespace() {
        let none = Remembered::default();
        let claims = Claims::default();
        let younger = |namespace: &str, uid: &str| {
            let key = ObjectRef::new(uid).within(namespace);
            let claimant = Claimant {
                key: &key,
                uid,
                created: Timestamp::from_second(2).unwrap(),
            };
            claims.set(&claimant, "h.x.y:1/d", None, WAITS, &none);
            claims.shared_with(uid, false, &none, |_| None).is_some()
        };
        let key = key("1");
        let older = Claimant {
            key: &key,
            uid: "1",
            created: Timestamp::from_second(1).unwrap(),
        };
        let set = |sighting, is_refused| {
            let presence = Presence {
                is_refused,
                ..WAITS
            };
            claims.set(&older, "h.x.y:1/d", sighting, presence, &none);
            (younger("other", "2"), younger("prod", "3"))
        };
        assert_eq!(set(None, false), (true, true), "it may start one");
        assert_eq!(set(None, true), (false, true));
        let concerned = claims.set(&older, "h.x.y:1/d", None, WAITS, &none);
        assert!(concerned.contains(&ObjectRef::new("2").within("other")));
        let read = Some(sighting("db", "s"));
        assert_eq!(set(read, false), (true, true), "it was read");
        assert_eq!(set(None, true), (true, true), "it was read before");
    }

    #[test]
    fn one_that_does_not_run_does_not_start_beside_a_younger_one_that_does() {
        let none = Remembered::default();
        let claims = Claims::default();
        let older = ObjectRef::new("1").within("x");
        let younger = ObjectRef::new("2").within("y");
        let set = |key: &Key, is_read: bool, is_refused, runs| {
            let claimant = Claimant {
                key,
                uid: &key.name,
                created: Timestamp::from_second(key.name.parse().unwrap()).unwrap(),
            };
            let seen = is_read.then(|| sighting("db", "s"));
            let presence = Presence {
                is_refused,
                runs,
                ..WAITS
            };
            let concerned = claims.set(&claimant, "h.x.y:1/d", seen, presence, &none);
            let shared = claims.shared_with(&key.name, runs, &none, |_| None);
            (shared.is_some(), !concerned.is_empty())
        };
        assert!(!set(&older, false, true, false).0);
        assert!(!set(&younger, true, false, false).0, "it may start");
        assert!(set(&younger, true, false, true).1, "that wakes the other");
        assert!(set(&older, true, false, false).0);
        assert!(
            !set(&younger, true, false, true).0,
            "they do not hold each other"
        );
        // Of two that run, or do not, it goes by age.
        for runs in [true, false] {
            set(&older, true, false, runs);
            assert!(set(&younger, true, false, runs).0, "{runs}");
            assert!(!set(&older, true, false, runs).0, "{runs}");
        }
    }

    #[test]
    fn of_any_clusters_that_were_read_on_one_database_exactly_one_is_held_by_no_other() {
        let none = Remembered::default();
        for code in 0..64_u8 {
            let presences = [0, 2, 4].map(|shift| Presence {
                runs: code >> shift & 1 == 1,
                served_on: (code >> shift & 2 == 2).then_some("db"),
                ..WAITS
            });
            let claims = Claims::default();
            for (age, presence) in (0..).zip(presences) {
                let uid = age.to_string();
                let claimant = Claimant {
                    key: &key(&uid),
                    uid: &uid,
                    created: Timestamp::from_second(age).unwrap(),
                };
                let (endpoint, seen) = (format!("h{age}.x:1/d"), sighting("db", "s"));
                claims.set(&claimant, &endpoint, Some(seen), presence, &none);
            }
            let rank = |place: &usize| {
                let Presence {
                    runs, served_on, ..
                } = presences[*place];
                (served_on.is_some(), runs, Reverse(*place))
            };
            let first = (0..3).max_by_key(rank);
            for (place, presence) in presences.iter().enumerate() {
                let uid = place.to_string();
                let held = claims.shared_with(&uid, presence.runs, &none, |_| None);
                assert_eq!(
                    held.is_none(),
                    first == Some(place),
                    "{presences:?} {place}"
                );
            }
        }
    }

    #[test]
    fn a_database_stays_with_the_cluster_that_has_served_there_also_while_it_is_stopped() {
        let none = Remembered::default();
        let mut young = with_status("2", "2026-01-01T00:00:00Z", "b.x:1/d", "db");
        let status = young.status.as_mut().unwrap();
        status.replicas = 0;
        let before = status.database.as_mut().unwrap();
        before.served_on = Some("db".to_owned());
        let served = Presence {
            served_on: Some("db"),
            ..WAITS
        };
        let key = ObjectRef::from_obj(&young);
        let claimant = Claimant::of(&young, &key);
        // Another process of the operator.
        let claims = Claims::default();
        claims.learn(&young);
        let old = |database| set(&claims, 1, "a.x:1/d", Some((database, "s")));
        let young = |seen| {
            claims.set(&claimant, "b.x:1/d", seen, served, &none);
            claims.shared_with("2", false, &none, |_| None)
        };
        assert_eq!(old("db").as_deref(), Some("prod/2"));
        assert_eq!(young(None), None);
        assert_eq!(young(Some(sighting("db", "s"))), None);
        assert_eq!(old("db").as_deref(), Some("prod/2"));
        // On another database it has not.
        old("db2");
        assert_eq!(young(Some(sighting("db2", "s"))).as_deref(), Some("prod/1"));
        assert_eq!(old("db2"), None);
        // Nor does it say anything of a place that it was moved to.
        claims.set(&claimant, "a.x:1/d", None, served, &none);
        let moved = claims.shared_with("2", false, &none, |_| None);
        assert_eq!(moved.as_deref(), Some("prod/1"));
    }

    /// What holds the cluster "1", which is older and reads this at a place of its own.
    fn holder_of_older(claims: &Claims, database: &str) -> Option<Holder> {
        set(claims, 1, "a.x:1/d", Some((database, "s")));
        claims.holder("1", false, &Remembered::default(), |_| None)
    }

    #[test]
    fn a_database_stays_with_the_cluster_that_has_served_there_whatever_place_its_spec_names() {
        let none = Remembered::default();
        for runs in [false, true] {
            let mut young = with_status("2", "2026-01-01T00:00:00Z", "b.x:1/d", "db");
            let status = young.status.as_mut().unwrap();
            status.replicas = i32::from(runs);
            status.database.as_mut().unwrap().served_on = Some("db".to_owned());
            let key = ObjectRef::from_obj(&young);
            let claimant = Claimant::of(&young, &key);
            let claims = Claims::default();
            claims.learn(&young);
            let holds = |usage| {
                let name = "prod/2".to_owned();
                Some(Holder { name, usage })
            };
            let moved = Presence {
                runs,
                moves: runs,
                served_on: Some("db"),
                ..WAITS
            };
            claims.set(&claimant, "c.x:1/d", None, moved, &none);
            assert_eq!(holder_of_older(&claims, "db"), holds(Usage::Moves));
            assert_eq!(holder_of_older(&claims, "db2"), None);
            holder_of_older(&claims, "db");
            // It is the same database by another name.
            let seen = Some(sighting("db", "s"));
            let concerned = claims.set(&claimant, "c.x:1/d", seen, moved, &none);
            assert!(concerned.contains(&ObjectRef::new("1").within("prod")));
            let usage = if runs { Usage::Runs } else { Usage::Idle };
            assert_eq!(holder_of_older(&claims, "db"), holds(usage));
            assert_eq!(claims.holder("2", runs, &none, |_| None), None);
            // It is another one, to which its replicas move; and they have moved.
            let seen = Some(sighting("db3", "s"));
            claims.set(&claimant, "c.x:1/d", seen.clone(), moved, &none);
            assert_eq!(holder_of_older(&claims, "db"), holds(Usage::Moves));
            let left = Presence {
                served_on: runs.then_some("db3"),
                ..moved
            };
            let concerned = claims.set(&claimant, "c.x:1/d", seen, left, &none);
            assert!(concerned.contains(&ObjectRef::new("1").within("prod")));
            assert_eq!(holder_of_older(&claims, "db"), None);
        }
    }

    #[test]
    fn what_an_earlier_operator_wrote_of_serving_is_a_claim() {
        let mut young = with_status("2", "2026-01-01T00:00:00Z", "b.x:1/d", "db");
        young.status.as_mut().unwrap().replicas = 0;
        for has_served in [false, true] {
            let database = young.status.as_mut().unwrap().database.as_mut();
            database.unwrap().has_served = has_served;
            let claims = Claims::default();
            claims.learn(&young);
            assert_eq!(holder_of_older(&claims, "db").is_some(), has_served);
        }
    }

    #[test]
    fn how_far_a_cluster_uses_a_database_is_said_of_it_before_and_after_a_restart() {
        let none = Remembered::default();
        let held = |claims: &Claims| {
            let claimant = Claimant {
                key: &key("2"),
                uid: "2",
                created: Timestamp::now(),
            };
            let seen = Some(sighting("db", "s"));
            claims.set(&claimant, "b.x:1/d", seen, WAITS, &none);
            let holder = claims.holder("2", false, &none, |_| None);
            holder.map(|holder| holder.usage)
        };
        let claims = Claims::default();
        for (runs, is_readable, usage) in [
            (true, Some(true), Usage::Runs),
            (true, Some(false), Usage::Unread),
            // One whose spec was edited is still to be read.
            (true, None, Usage::Unread),
            (true, Some(true), Usage::Runs),
            (true, None, Usage::Runs),
            (false, Some(true), Usage::Idle),
            (false, Some(false), Usage::Idle),
        ] {
            let claimant = Claimant {
                key: &key("1"),
                uid: "1",
                created: Timestamp::UNIX_EPOCH,
            };
            let presence = Presence {
                runs,
                is_readable,
                ..WAITS
            };
            let seen = (is_readable == Some(true)).then(|| sighting("db", "s"));
            claims.set(&claimant, "a.x:1/d", seen, presence, &none);
            assert_eq!(held(&claims), Some(usage), "{runs} {is_readable:?}");
        }
        for (replicas, active, usage) in [
            (1, Some(1), Usage::Runs),
            (1, None, Usage::Unread),
            (0, None, Usage::Idle),
        ] {
            let mut older = with_status("1", "2020-01-01T00:00:00Z", "a.x:1/d", "db");
            let status = older.status.as_mut().unwrap();
            (status.replicas, status.active_replicas) = (replicas, active);
            let claims = Claims::default();
            claims.learn(&older);
            assert_eq!(held(&claims), Some(usage), "{replicas} {active:?}");
        }
    }

    #[test]
    fn an_older_cluster_that_cannot_be_read_is_held_where_a_younger_one_has_served() {
        let none = Remembered::default();
        for serves in [false, true] {
            let claims = Claims::default();
            set(&claims, 1, "h.x.y:1/d", None);
            let claimant = Claimant {
                key: &key("2"),
                uid: "2",
                created: Timestamp::from_second(2).unwrap(),
            };
            let presence = Presence {
                served_on: serves.then_some("db"),
                ..RUNS
            };
            let seen = Some(sighting("db", "s"));
            claims.set(&claimant, "h.x.y:1/d", seen, presence, &none);
            assert_eq!(shared_with(&claims, "1", &none).is_some(), serves);
            assert_eq!(shared_with(&claims, "2", &none).is_none(), serves);
        }
    }

    #[test]
    fn that_a_login_was_refused_survives_the_operator_in_status() {
        let none = Remembered::default();
        let other = ObjectRef::new("2").within("other");
        for (replicas, login, holds) in [
            (0, "Refused", false),
            (1, "Refused", true),
            (0, "Accepted", true),
        ] {
            let mut older = with_status("old", "2020-01-01T00:00:00Z", "h.x.y:1/d", "");
            let status = older.status.as_mut().unwrap();
            status.replicas = replicas;
            let database = status.database.as_mut().unwrap();
            database.identity = None;
            database.login = serde_json::from_value(json!(login)).unwrap();
            let claims = Claims::default();
            claims.learn(&older);
            let claimant = Claimant {
                key: &other,
                uid: "2",
                created: Timestamp::now(),
            };
            claims.set(&claimant, "h.x.y:1/d", None, WAITS, &none);
            let shared = claims.shared_with("2", false, &none, |_| None);
            assert_eq!(shared.is_some(), holds, "{replicas} {login}");
        }
    }

    #[test]
    fn a_short_name_means_another_host_in_another_namespace() {
        for endpoint in [
            "postgres:5432/d",
            "cluster-rw:5432/d",
            // The first pod of a StatefulSet `pg`, by its Service.
            "pg-0.pg:5432/d",
            "db.example.com:5432,pg-1.pg:5432/d",
            // The pod's own addresses are another host in any pod.
            "localhost:5432/d",
            "/run/proxy.d:5432/d",
            "db.example.com:5432,/run/proxy.d:5432/d",
            "127.0.0.1:5432/d",
            "10.0.0.1:5432,127.0.0.1:5432/d",
            "[::1]:5432/d",
        ] {
            assert_eq!(held_in_another_namespace(endpoint), None, "{endpoint}");
            let claims = Claims::default();
            set(&claims, 1, endpoint, None);
            assert_eq!(set(&claims, 3, endpoint, None).as_deref(), Some("prod/1"));
        }
    }

    /// What holds a cluster of another namespace, where neither has been read.
    fn held_in_another_namespace(endpoint: &str) -> Option<String> {
        let claims = Claims::default();
        set(&claims, 1, endpoint, None);
        let other = ObjectRef::new("2").within("test");
        let claimant = Claimant {
            key: &other,
            uid: "2",
            created: Timestamp::from_second(2).unwrap(),
        };
        let none = Remembered::default();
        claims.set(&claimant, endpoint, None, RUNS, &none);
        shared_with(&claims, "2", &none)
    }

    #[test]
    fn a_whole_name_an_address_and_a_cloud_sql_instance_are_the_same_in_every_namespace() {
        for endpoint in [
            "db.example.com:5432/d",
            "postgres.data:5432/d",
            "cluster-rw.data:5432/d",
            "postgres.data.svc:5432/d",
            "pg-0.pg.data:5432/d",
            "postgres.:5432/d",
            "10.0.0.1:5432/d",
            "[fd00::1]:5432/d",
            "10.0.0.1:5432,db.example.com:5433/d",
            "p:r:i/d",
        ] {
            let held = held_in_another_namespace(endpoint);
            assert_eq!(held.as_deref(), Some("prod/1"), "{endpoint}");
        }
    }

    #[test]
    fn a_clone_is_distinguished_from_its_original_by_the_start_of_its_server() {
        let claims = Claims::default();
        set(&claims, 1, "a.x:1/d", Some(("db", "s1")));
        assert_eq!(set(&claims, 2, "b.x:1/d", Some(("db", "s2"))), None);
        // While the original is not read, the verdict of before stands.
        set(&claims, 1, "a.x:1/d", None);
        let passed = Remembered {
            database: Some(DatabaseStatus {
                identity: Some("db".to_owned()),
                ..DatabaseStatus::default()
            }),
            ..Remembered::default()
        };
        let refused = Remembered {
            refusal: Some(Refusal {
                reason: Reason::DatabaseShared,
                message: String::new(),
            }),
            ..passed.clone()
        };
        assert_eq!(shared_with(&claims, "2", &passed), None);
        assert_eq!(
            shared_with(&claims, "2", &refused).as_deref(),
            Some("prod/1")
        );
        let none = claims.shared_with("2", false, &passed, |_| None);
        assert_eq!(none.as_deref(), Some("prod/1"), "none of it runs");
        let first = Remembered::default();
        assert_eq!(shared_with(&claims, "2", &first).as_deref(), Some("prod/1"));
    }

    #[test]
    fn a_server_that_has_just_started_is_no_other_one_because_it_was_read_first() {
        let claims = Claims::default();
        set(&claims, 1, "a.x:1/d", Some(("db", "s1")));
        let refused = Remembered {
            refusal: Some(Refusal {
                reason: Reason::DatabaseShared,
                message: String::new(),
            }),
            ..Remembered::default()
        };
        let claimant = Claimant {
            key: &key("2"),
            uid: "2",
            created: Timestamp::from_second(2).unwrap(),
        };
        // The server was restarted a moment ago, and the older cluster has not read it since.
        let restarted = Sighting {
            since: Instant::now(),
            ..sighting("db", "s2")
        };
        for remembered in [&refused, &Remembered::default()] {
            let seen = Some(restarted.clone());
            claims.set(&claimant, "b.x:1/d", seen, RUNS, remembered);
            let shared = |latest: Option<&Sighting>| {
                claims.shared_with("2", true, remembered, |_| latest.cloned())
            };
            assert_eq!(shared(None).as_deref(), Some("prod/1"));
            assert_eq!(shared(Some(&restarted)).as_deref(), Some("prod/1"));
            // An answer that was given before the restart may have come as late.
            let late = Sighting {
                at: restarted.since + LATE_ANSWER,
                ..sighting("db", "s1")
            };
            assert_eq!(shared(Some(&late)).as_deref(), Some("prod/1"));
            // Seen again beside it, the older one's server is another.
            let later = Sighting {
                at: restarted.since + LATE_ANSWER + Duration::from_secs(1),
                ..sighting("db", "s1")
            };
            assert_eq!(shared(Some(&later)), None);
        }
    }

    #[test]
    fn one_made_again_under_its_name_is_not_held_back_by_itself() {
        let claims = Claims::default();
        set(&claims, 1, "h.x.y:1/d", Some(("db", "s")));
        let waiting = set(&claims, 2, "h.x.y:1/d", Some(("db", "s")));
        assert_eq!(waiting.as_deref(), Some("prod/1"));
        assert_eq!(claims.forget("1"), [key("2"), key("2")]);
        assert_eq!(shared_with(&claims, "2", &Remembered::default()), None);
        assert!(claims.forget("1").is_empty());
    }

    #[test]
    fn another_database_takes_the_claim_with_it() {
        let claims = Claims::default();
        set(&claims, 1, "h.x.y:1/d", Some(("db", "s")));
        set(&claims, 1, "h.x:1/e", None);
        assert_eq!(set(&claims, 2, "h.x.y:1/d", Some(("db", "s"))), None);
    }
}
