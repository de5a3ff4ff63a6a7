//! Which pod is which heartbeat.

use crate::api::status::HeartbeatState;
use crate::contract::replica::DEAD_AFTER;
use crate::observation::heartbeat::{ALL_HEARD_AFTER, Freshness};
use crate::observation::{
    DatabaseFacts, DatabaseView, Heartbeat, Observation, PodRefusal, PodTrouble, PodView,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;

/// Heartbeats of ended processes stay fresh for 30 s; one that still is after this long is of a
/// foreign replica.
pub const FOREIGN_AFTER: Duration = Duration::from_mins(1);
/// A pod that is refused for less than this is often made at the next try.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// One pod with its heartbeat.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a fact of its own about the replica"
)]
#[derive(Clone, Debug)]
pub struct Replica<'a> {
    /// The pod.
    pub pod: &'a PodView,
    /// The id of its heartbeats, if known.
    pub id: Option<Uuid>,
    /// What its heartbeat says.
    pub heartbeat: HeartbeatState,
    /// When the last heartbeat was sent that was read of it.
    pub sent: Option<Timestamp>,
    /// Its heartbeat is so old that Bytebase has given its tasks to others, and that is no mere
    /// effect of an outage.
    pub given_up: bool,
    /// Tasks it is running; `None` when it cannot be known.
    pub running_tasks: Option<u64>,
    /// Nothing speaks against it: Ready, and its heartbeat fresh where heartbeats can ever be read.
    pub serves: bool,
    /// It was started with another login, and the database that was read has no heartbeat of it: it
    /// may run on another one, of which nothing is known.
    pub elsewhere: bool,
    /// It is so by a reading that has just been made. Only then is it reported: the next process
    /// knows of no other reading.
    pub is_seen_elsewhere: bool,
}

/// Whether every active replica has had the time to send a heartbeat. Right after an outage all
/// heartbeats are old, those of replicas that outlived it too.
pub(super) fn all_heard(facts: &DatabaseFacts) -> bool {
    facts.writable_for >= ALL_HEARD_AFTER
}

impl<'a> Replica<'a> {
    fn new(pod: &'a PodView, heartbeat: HeartbeatState, readable_ever: bool) -> Self {
        let active = heartbeat == HeartbeatState::Fresh;
        Replica {
            pod,
            id: pod.replica_id,
            heartbeat,
            sent: None,
            given_up: false,
            running_tasks: None,
            serves: pod.is_ready() && (active || !readable_ever),
            elsewhere: false,
            is_seen_elsewhere: false,
        }
    }

    /// This replica, of which nothing is known if it runs on another database than the one that was
    /// read (`elsewhere`). `is_read`: that has just been read.
    fn where_it_runs(self, elsewhere: bool, is_read: bool) -> Self {
        if !elsewhere {
            return self;
        }
        Replica {
            elsewhere,
            is_seen_elsewhere: is_read,
            ..Replica::new(self.pod, HeartbeatState::Unknown, true)
        }
    }

    /// It serves, or may: Ready, and nothing is known of its heartbeat.
    pub fn may_serve(&self) -> bool {
        let unknown = self.heartbeat == HeartbeatState::Unknown;
        self.serves || (unknown && self.pod.is_ready())
    }

    /// Ready, and its heartbeat is fresh.
    pub fn ready_and_active(&self) -> bool {
        self.pod.is_ready() && self.heartbeat == HeartbeatState::Fresh
    }

    /// Its node no longer reports.
    pub fn node_is_silent(&self) -> bool {
        matches!(self.pod.trouble, Some(PodTrouble::NodeSilent(_)))
    }
}

/// All pods with their heartbeats.
#[derive(Clone, Debug)]
pub struct Health<'a> {
    /// By ordinal.
    pub replicas: Vec<Replica<'a>>,
    /// Heartbeats can be read now.
    pub readable: bool,
    /// Fresh heartbeats that belong to no pod of the cluster: of a process that has just ended, or
    /// of a foreign replica.
    pub unmatched: Vec<Uuid>,
    /// How many foreign replicas there are.
    pub foreign: usize,
    /// There were foreign replicas when that could last be known, and no reading shows yet that
    /// they have ended.
    pub had_foreign: bool,
}

/// Joins pods and heartbeats: by the id in the pod's log, else by the session that listens under
/// the pod's name or address. `differs`: whether a pod was started with another login to the
/// database than the one that is wanted, which leads to the database that was read.
pub fn join(observation: &Observation, differs: impl Fn(&PodView) -> bool) -> Health<'_> {
    let facts = observation.facts();
    let elsewhere = |pod: &PodView| {
        let last = observation.last_facts.as_ref();
        last.is_some_and(|(_, facts)| {
            let has_left = has_served_another(observation, facts);
            (has_left || differs(pod)) && is_unseen(pod, facts, has_left)
        })
    };
    let Some(facts) = facts.filter(|facts| !facts.heartbeats.is_unknown()) else {
        let readable_ever = !matches!(observation.database, DatabaseView::CannotRead);
        let replicas = observation.pods.iter().map(|pod| {
            let replica = Replica {
                running_tasks: facts.and_then(|facts| running_tasks(pod.replica_id?, facts)),
                ..Replica::new(pod, HeartbeatState::Unknown, readable_ever)
            };
            replica.where_it_runs(elsewhere(pod), facts.is_some())
        });
        return Health {
            replicas: replicas.collect(),
            readable: false,
            unmatched: Vec::new(),
            foreign: 0,
            had_foreign: observation.remembered.foreign_replicas,
        };
    };
    let known: BTreeSet<Uuid> = observation
        .pods
        .iter()
        .filter_map(|pod| pod.replica_id)
        .collect();
    let unmatched: Vec<_> = facts
        .heartbeats
        .rows()
        .iter()
        .filter(|row| is_fresh(row) && !known.contains(&row.replica_id))
        .map(|row| row.replica_id)
        .collect();
    let sessions = UnnamedSessions::of(observation, facts, unmatched.len());
    let pods = observation.pods.iter();
    let replicas: Vec<_> = pods
        .map(|pod| {
            let replica = replica(pod, facts, sessions, observation.now);
            replica.where_it_runs(elsewhere(pod), true)
        })
        .collect();
    Health {
        foreign: foreign(&replicas, &unmatched, observation),
        // Right after an outage the heartbeats of those that outlived it are old as well.
        had_foreign: observation.remembered.foreign_replicas && !all_heard(facts),
        replicas,
        readable: true,
        unmatched,
    }
}

/// Heartbeats that have belonged to no pod of the cluster for longer than any ended process
/// lingers.
fn foreign(replicas: &[Replica<'_>], unmatched: &[Uuid], observation: &Observation) -> usize {
    let long = SignedDuration::try_from(FOREIGN_AFTER).unwrap_or(SignedDuration::MAX);
    let lasting = unmatched.iter().filter(|id| {
        // As long as there are any, those that status speaks of have not ended.
        if observation.remembered.foreign_replicas {
            return true;
        }
        let since = observation.unmatched_since.get(id);
        since.is_some_and(|since| observation.now.duration_since(*since) > long)
    });
    // An unmatched row may be that of a Ready pod whose log could not be read, or of one on a
    // silent node; any other pod that is not Ready sends no heartbeats for long.
    let unnamed = replicas
        .iter()
        .filter(|replica| replica.id.is_none() && (replica.pod.ready || replica.node_is_silent()));
    lasting.count().saturating_sub(unnamed.count())
}

/// What the sessions of pods whose id is not known prove.
#[derive(Clone, Copy)]
enum UnnamedSessions {
    /// Each of them can be one of the fresh heartbeats that no known id explains.
    AllActive,
    /// There are fewer such heartbeats than sessions: some replica is connected and frozen, and
    /// which one cannot be known.
    SomeFrozen,
}

impl UnnamedSessions {
    fn of(observation: &Observation, facts: &DatabaseFacts, unmatched: usize) -> Self {
        let pods = observation.pods.iter();
        let connected = pods
            .filter(|pod| pod.replica_id.is_none() && listens(pod, facts) == Some(true))
            .count();
        if connected <= unmatched {
            Self::AllActive
        } else {
            Self::SomeFrozen
        }
    }
}

fn replica<'a>(
    pod: &'a PodView,
    facts: &DatabaseFacts,
    sessions: UnnamedSessions,
    now: Timestamp,
) -> Replica<'a> {
    // A replica sends heartbeats before it is Ready, and Bytebase deletes the row of one that has
    // sent none for hours.
    let all_heard = all_heard(facts);
    let old = SignedDuration::try_from(DEAD_AFTER)
        .is_ok_and(|dead_after| now.duration_since(process_start(pod)) > dead_after);
    let Some(id) = pod.replica_id else {
        let heartbeat = by_session(pod, facts, sessions);
        return Replica {
            given_up: all_heard && old && heartbeat == HeartbeatState::Missing,
            ..Replica::new(pod, heartbeat, true)
        };
    };
    let mut rows = facts.heartbeats.rows().iter();
    let row = rows.find(|row| row.replica_id == id);
    let heartbeat = row.map_or(HeartbeatState::Missing, state);
    let age = row.and_then(|row| SignedDuration::try_from(row.age).ok());
    Replica {
        sent: age.and_then(|age| now.checked_sub(age).ok()),
        given_up: all_heard && row.map_or(old, |row| Freshness::of(row.age) == Freshness::Gone),
        running_tasks: running_tasks(id, facts),
        ..Replica::new(pod, heartbeat, true)
    }
}

/// Whether the database on which replicas of the cluster were last seen is another one than that of
/// these facts. The one that is named now may have been made again, or be the one to move to.
fn has_served_another(observation: &Observation, facts: &DatabaseFacts) -> bool {
    let served_on = observation.remembered.served_on.as_ref();
    served_on.is_some_and(|served_on| *served_on != facts.identity.database)
}

/// Whether a process runs in this pod of which these facts of the database show nothing.
/// `is_another`: none was ever seen there. Rows that are not fresh then came with a copy.
fn is_unseen(pod: &PodView, facts: &DatabaseFacts, is_another: bool) -> bool {
    let mut rows = facts.heartbeats.rows().iter();
    let is_seen = match pod.replica_id {
        Some(id) => rows.any(|row| row.replica_id == id && (is_fresh(row) || !is_another)),
        None => listens(pod, facts) == Some(true),
    };
    pod.started_at.is_some() && !is_seen
}

/// When the process began whose heartbeats count: an old pod may have restarted a moment ago.
pub fn process_start(pod: &PodView) -> Timestamp {
    pod.started_at.unwrap_or(pod.created_at)
}

/// Task runs of one replica; `None` where they cannot be read.
fn running_tasks(id: Uuid, facts: &DatabaseFacts) -> Option<u64> {
    if facts.running_tasks.is_unknown() {
        return None;
    }
    let rows = facts.running_tasks.rows().iter();
    let owned = rows.filter(|tasks| tasks.replica_id == id);
    Some(owned.fold(0, |sum: u64, tasks| sum.saturating_add(tasks.count)))
}

fn state(heartbeat: &Heartbeat) -> HeartbeatState {
    if is_fresh(heartbeat) {
        HeartbeatState::Fresh
    } else {
        HeartbeatState::Stale
    }
}

fn is_fresh(heartbeat: &Heartbeat) -> bool {
    Freshness::of(heartbeat.age) == Freshness::Fresh
}

/// Whether the replica of a pod holds a session that listens; `None` where that cannot be seen.
fn listens(pod: &PodView, facts: &DatabaseFacts) -> Option<bool> {
    let listeners = facts.sessions.as_ref()?.listeners.as_ref()?;
    Some(listeners.iter().any(|session| {
        session.application_name == pod.name
            || (session.client_address.is_some() && session.client_address == pod.ip)
    }))
}

/// The heartbeat of a replica whose id is not known, by its session. That proves that the replica
/// is connected, which a frozen one is as well: it counts as active only while there are enough
/// fresh heartbeats to go round.
fn by_session(pod: &PodView, facts: &DatabaseFacts, sessions: UnnamedSessions) -> HeartbeatState {
    match (listens(pod, facts), sessions) {
        (None, _) | (Some(true), UnnamedSessions::SomeFrozen) => HeartbeatState::Unknown,
        (Some(true), UnnamedSessions::AllActive) => HeartbeatState::Fresh,
        (Some(false), _) => HeartbeatState::Missing,
    }
}

/// Why a pod cannot be made, once it has been refused for long enough.
pub fn lasting_refusal(observation: &Observation) -> Option<&PodRefusal> {
    let refused = observation.refused_pod.as_ref()?;
    (refusal_counts_at(refused) <= observation.now).then_some(refused)
}

/// When a refusal that does not count yet will count.
pub fn awaited_refusal(observation: &Observation) -> Option<Timestamp> {
    let counts_at = refusal_counts_at(observation.refused_pod.as_ref()?);
    (counts_at > observation.now).then_some(counts_at)
}

fn refusal_counts_at(refused: &PodRefusal) -> Timestamp {
    let counts_at = refused.since.saturating_add(REFUSAL_PATIENCE);
    counts_at.unwrap_or(Timestamp::MAX)
}

impl Health<'_> {
    /// When the first replica that is not up has had `timeout` to come up, or the first pod that is
    /// refused. Of one on a silent node the kubelet knows nothing, and Kubernetes replaces it.
    pub fn late_at(&self, observation: &Observation, timeout: SignedDuration) -> Option<Timestamp> {
        let down = self.replicas.iter().filter(|replica| {
            !replica.pod.ready && !replica.pod.deleting && !replica.node_is_silent()
        });
        let since = down.map(|replica| replica.pod.unready_since.unwrap_or(replica.pod.created_at));
        let refused = observation
            .refused_pod
            .as_ref()
            .map(|refused| refused.since);
        let since = since.chain(refused).min()?;
        since.checked_add(timeout).ok()
    }

    /// Whether foreign replicas are active, as far as that is known: what was last seen of them
    /// stands until a reading shows that there are none.
    pub fn is_beside_foreign(&self) -> bool {
        self.foreign > 0 || self.had_foreign
    }

    /// Pods with a fresh heartbeat, whatever Kubernetes says of them; `None` when heartbeats
    /// cannot be read, or not those of every replica.
    pub fn active(&self) -> Option<usize> {
        let is_active = |replica: &&Replica<'_>| replica.heartbeat == HeartbeatState::Fresh;
        let is_known = self.readable && !self.replicas.iter().any(|replica| replica.elsewhere);
        is_known.then(|| self.replicas.iter().filter(is_active).count())
    }

    /// Whether every replica that runs may run on another database than the one that was read:
    /// what was read there says nothing of them.
    pub fn all_run_elsewhere(&self) -> bool {
        self.running().next().is_some() && self.running().all(|replica| replica.elsewhere)
    }

    /// Whether all heartbeats in what was read are another Bytebase's: every replica that runs may
    /// run on another database, and the id of each is known. Where one is not known, a heartbeat
    /// may be that replica's although its session cannot be seen. A pod in which no replica runs
    /// sends none, so this also holds where no pod has one.
    pub fn none_is_heard_here(&self) -> bool {
        self.running()
            .all(|replica| replica.elsewhere && replica.id.is_some())
    }

    fn running(&self) -> impl Iterator<Item = &Replica<'_>> {
        let replicas = self.replicas.iter();
        replicas.filter(|replica| replica.pod.started_at.is_some())
    }

    /// Replicas that are Ready and of which no fresh heartbeat has been seen.
    pub fn awaited(&self) -> usize {
        let is_awaited = |replica: &&Replica<'_>| {
            replica.pod.is_ready() && replica.heartbeat != HeartbeatState::Fresh
        };
        self.replicas.iter().filter(is_awaited).count()
    }

    /// How many replicas serve.
    pub fn serving(&self) -> usize {
        let serving = self.replicas.iter().filter(|replica| replica.serves);
        serving.count()
    }

    /// How many pods are Ready and not ending.
    pub fn ready_pods(&self) -> usize {
        let ready = self
            .replicas
            .iter()
            .filter(|replica| replica.pod.is_ready());
        ready.count()
    }
}
