//! Which pod is which heartbeat.

use crate::api::status::HeartbeatState;
use crate::observation::heartbeat::{DEAD_AFTER, Freshness};
use crate::observation::{
    DatabaseFacts, DatabaseView, Heartbeat, Observation, PodRefusal, PodTrouble, PodView,
};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use uuid::Uuid;

/// Rows of ended processes are normal for their 30 s tail; what still beats after this long is
/// somebody else's.
pub const FOREIGN_AFTER: Duration = Duration::from_mins(1);
/// A pod that is refused for less than this is often made at the next try.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

/// One pod with its heartbeat.
#[derive(Clone, Debug)]
pub struct Replica<'a> {
    /// The pod.
    pub pod: &'a PodView,
    /// The id it beats with, if known.
    pub id: Option<Uuid>,
    /// What its heartbeat says.
    pub heartbeat: HeartbeatState,
    /// Its last beat is so old that Bytebase has given its tasks to others.
    pub given_up: bool,
    /// Tasks it is running; `None` when it cannot be told.
    pub running_tasks: Option<u64>,
}

impl Replica<'_> {
    /// Ready and beating.
    pub fn ready_and_beating(&self) -> bool {
        self.pod.ready && !self.pod.deleting && self.heartbeat == HeartbeatState::Fresh
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
    /// Fresh heartbeats that belong to no pod of ours: of a process that has just ended, or of a
    /// stranger.
    pub unclaimed: Vec<Uuid>,
}

/// Joins pods and heartbeats: by the id in the pod's log, else by the session that listens under
/// the pod's name or address.
pub fn join(observation: &Observation) -> Health<'_> {
    let facts = observation.facts();
    let Some(facts) = facts.filter(|facts| !facts.heartbeats.is_unknown()) else {
        let replicas = observation.pods.iter().map(|pod| Replica {
            pod,
            id: pod.replica_id,
            heartbeat: HeartbeatState::Unknown,
            given_up: false,
            running_tasks: facts.and_then(|facts| running_tasks(pod.replica_id?, facts)),
        });
        return Health {
            replicas: replicas.collect(),
            readable: false,
            unclaimed: Vec::new(),
        };
    };
    let known: BTreeSet<Uuid> = observation
        .pods
        .iter()
        .filter_map(|pod| pod.replica_id)
        .collect();
    let unclaimed: Vec<_> = facts
        .heartbeats
        .rows()
        .iter()
        .filter(|beat| is_fresh(beat) && !known.contains(&beat.replica_id))
        .map(|beat| beat.replica_id)
        .collect();
    let sessions = UnnamedSessions::of(observation, facts, unclaimed.len());
    Health {
        replicas: observation
            .pods
            .iter()
            .map(|pod| replica(pod, facts, sessions, observation.now))
            .collect(),
        readable: true,
        unclaimed,
    }
}

/// What the sessions of pods whose id is not known prove.
#[derive(Clone, Copy)]
enum UnnamedSessions {
    /// Each of them can be one of the fresh heartbeats that no known id explains.
    AllActive,
    /// There are fewer such heartbeats than sessions: some replica is connected and frozen, and
    /// which one cannot be told.
    SomeFrozen,
}

impl UnnamedSessions {
    fn of(observation: &Observation, facts: &DatabaseFacts, unclaimed: usize) -> Self {
        let pods = observation.pods.iter();
        let connected = pods
            .filter(|pod| pod.replica_id.is_none() && listens(pod, facts) == Some(true))
            .count();
        if connected <= unclaimed {
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
    // A replica beats before it is Ready, and Bytebase deletes the row of one that has not beaten
    // for hours.
    let old = SignedDuration::try_from(DEAD_AFTER)
        .is_ok_and(|dead_after| now.duration_since(process_start(pod)) > dead_after);
    let Some(id) = pod.replica_id else {
        let heartbeat = by_session(pod, facts, sessions);
        return Replica {
            pod,
            id: None,
            heartbeat,
            given_up: old && heartbeat == HeartbeatState::Missing,
            running_tasks: None,
        };
    };
    let mut beats = facts.heartbeats.rows().iter();
    let beat = beats.find(|beat| beat.replica_id == id);
    let heartbeat = beat.map_or(HeartbeatState::Missing, state);
    Replica {
        pod,
        id: Some(id),
        heartbeat,
        given_up: beat.map_or(old, |beat| Freshness::of(beat.age) == Freshness::Gone),
        running_tasks: running_tasks(id, facts),
    }
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

fn state(beat: &Heartbeat) -> HeartbeatState {
    if is_fresh(beat) {
        HeartbeatState::Fresh
    } else {
        HeartbeatState::Stale
    }
}

fn is_fresh(beat: &Heartbeat) -> bool {
    Freshness::of(beat.age) == Freshness::Fresh
}

/// Whether the replica of a pod holds a session that listens; `None` where that cannot be seen.
fn listens(pod: &PodView, facts: &DatabaseFacts) -> Option<bool> {
    let listeners = facts.sessions.as_ref()?.listeners.as_ref()?;
    Some(listeners.iter().any(|session| {
        session.application_name == pod.name
            || (session.client_address.is_some() && session.client_address == pod.ip)
    }))
}

/// The second way. A session proves that the replica is connected, which a frozen one is as well:
/// it counts as active only while there are enough fresh heartbeats to go round.
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

    /// Heartbeats that have belonged to no pod of ours for longer than any ended process lingers.
    pub fn strangers(&self, observation: &Observation) -> usize {
        let long = SignedDuration::try_from(FOREIGN_AFTER).unwrap_or(SignedDuration::MAX);
        let lasting = self.unclaimed.iter().filter(|id| {
            // As long as there are any, those that status speaks of have not ended.
            if observation.remembered.foreign_replicas {
                return true;
            }
            let since = observation.unclaimed_since.get(id);
            since.is_some_and(|since| observation.now.duration_since(*since) > long)
        });
        // A row that no pod claims may be that of a Ready pod whose log could not be read, or of one
        // on a silent node; any other that is not Ready has not beaten for long.
        let unnamed = self.replicas.iter().filter(|replica| {
            replica.id.is_none() && (replica.pod.ready || replica.node_is_silent())
        });
        lasting.count().saturating_sub(unnamed.count())
    }

    /// Pods that beat, whatever Kubernetes says of them; `None` when heartbeats cannot be read.
    pub fn beating(&self) -> Option<usize> {
        let beats = |replica: &&Replica<'_>| replica.heartbeat == HeartbeatState::Fresh;
        self.readable
            .then(|| self.replicas.iter().filter(beats).count())
    }

    /// Nothing speaks against this replica: Ready, and beating where beats can ever be read.
    pub fn serves(&self, replica: &Replica<'_>, observation: &Observation) -> bool {
        let can_read = !matches!(observation.database, DatabaseView::CannotRead);
        if can_read {
            replica.ready_and_beating()
        } else {
            replica.pod.ready && !replica.pod.deleting
        }
    }
}
