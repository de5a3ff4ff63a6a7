//! Reads of the outside world: [`observe`] gathers what the watches, the logs of pods and the probe
//! of the metadata database show of one cluster. What is done about it is decided elsewhere; of
//! rules there are only those that rest on the claims of all clusters, which rank who has a
//! database ([`claims`]), and on a series of readings, which say whether one is late, how long a
//! server has taken writes and whether its clock was set forward (`database::known`).

pub(crate) mod caches;
pub mod claims;
mod cluster;
pub mod database;
mod log_cause;
mod log_ids;
mod log_lines;
mod log_reads;
pub(crate) mod pod;
pub(crate) mod pod_events;
pub(crate) mod remembered;
mod route;

use crate::api::spec::MOST_REPLICAS;
use crate::api::status::LoginState;
use crate::api::{BytebaseCluster, BytebaseClusterStatus};
use crate::desired::ownership::Owner;
use crate::kubernetes::Kind;
use crate::observation::reading::Latest;
use crate::observation::{
    CallFailure, DatabaseFacts, DatabaseView, FailureClass, FailureReason, Holder, Observation,
    PodRefusal, PodView, ProbeFailure, RefusedEviction, Remembered, ServiceWay, has_replicas,
};
use crate::process::queue::{Key, Queue, name};
use crate::validate::{References, ValidDatabase, Validation, known_secrets};
use caches::Caches;
use claims::{Claimant, Claims, Presence, Sighting};
use cluster::{Logs, Pods};
use database::Access;
use database::probe::Probes;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::Ingress;
use kube::{Api, Client, ResourceExt};
use log_ids::LogIds;
use log_lines::LogLines;
use log_reads::{LOG_READS, LogReader};
use std::cell::LazyCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use uuid::Uuid;

/// Says what time it is.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the observations of all clusters share.
pub struct Sources {
    /// What the watches have seen.
    pub caches: Arc<Caches>,
    /// Database probes.
    pub probes: Arc<Probes<Key>>,
    /// Replica ids out of logs.
    pub log_ids: LogIds,
    /// Lines of logs that say why replicas are not up.
    pub log_lines: LogLines,
    /// Which cluster uses which database.
    pub claims: Claims,
    /// What decisions go by.
    pub clock: Clock,
    client: Client,
    /// Logs that are read at a time, over all clusters.
    log_reads: Arc<Semaphore>,
    queue: Queue,
}

/// What is remembered of a cluster from one observation to the next. Losing it is harmless.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Since when each fresh heartbeat has belonged to no pod.
    unmatched_since: BTreeMap<Uuid, Timestamp>,
}

/// What the operator itself did last to a cluster: no watch shows it, or not yet.
#[derive(Clone, Debug, Default)]
pub struct OwnActions {
    /// The status as last written, which the cache may not show yet.
    pub status: BytebaseClusterStatus,
    /// Uid of the pod that was evicted last, while the watch may still show it as before.
    pub evicted: Option<String>,
    /// The last eviction, if it has been refused for a while.
    pub refused_eviction: Option<RefusedEviction>,
    /// The last call to Bytebase's API, if it failed.
    pub call_failure: Option<CallFailure>,
}

/// Gathers everything seen of one cluster, and sees to it that its database is read.
pub fn observe(
    sources: &Sources,
    key: &Key,
    cluster: &BytebaseCluster,
    references: &References,
    validation: &Validation,
    own: OwnActions,
    memory: &Memory,
) -> Observation {
    let subject = Subject {
        sources,
        key,
        cluster,
        references,
        validation,
        namespace: &cluster.namespace().unwrap_or_default(),
        name: &cluster.name_any(),
    };
    subject.observe(own, memory)
}

// === impl Sources ===

impl Sources {
    /// Sources that have seen nothing yet. Clusters that something new concerns go into `queue`.
    pub fn new(client: Client, probes: Probes<Key>, queue: Queue, clock: Clock) -> Self {
        Self {
            caches: Arc::default(),
            probes: Arc::new(probes),
            log_ids: LogIds::default(),
            log_lines: LogLines::default(),
            claims: Claims::default(),
            clock,
            client,
            log_reads: Arc::new(Semaphore::new(LOG_READS)),
            queue,
        }
    }

    /// Whether this very cluster is still there.
    pub fn is_there(&self, key: &Key, uid: Option<&str>) -> bool {
        let found = self.caches.clusters.store().get(key);
        found.is_some_and(|found| found.metadata.uid.as_deref() == uid)
    }

    /// Whether a cluster has a StatefulSet that stands: one of its own that wants replicas and is
    /// not being deleted.
    pub fn has_set(&self, key: &Key, uid: &str) -> bool {
        let (namespace, name) = (key.namespace.as_deref().unwrap_or_default(), &key.name);
        let set = self.caches.get(Kind::StatefulSet, namespace, name);
        set.is_some_and(|set| {
            set.metadata.deletion_timestamp.is_none()
                && set.data["spec"]["replicas"] != 0
                && Owner { uid, name }.controls(&set)
        })
    }

    /// Gives up the claim of a cluster on its database. Those that were held back by it alone go
    /// on.
    pub fn release(&self, uid: &str) {
        self.queue.enqueue_all(self.claims.forget(uid));
    }
}

// === impl Memory ===

impl Memory {
    /// Takes up which fresh heartbeats belong to no pod now. `None`: heartbeats cannot be read, so
    /// those of before may go on.
    pub fn note_unmatched(&mut self, unmatched: Option<&[Uuid]>, now: Timestamp) {
        let Some(unmatched) = unmatched else {
            return;
        };
        self.unmatched_since.retain(|id, _| unmatched.contains(id));
        for id in unmatched {
            let since = self.unmatched_since.entry(*id).or_insert(now);
            *since = (*since).min(now);
        }
    }

    /// Since when each has, by the clock of now: one that was set back must not make any of them
    /// wait for longer.
    fn unmatched_by(&self, now: Timestamp) -> BTreeMap<Uuid, Timestamp> {
        let since = self.unmatched_since.iter();
        since.map(|(id, since)| (*id, (*since).min(now))).collect()
    }
}

/// The cluster that is observed.
#[derive(Clone, Copy)]
struct Subject<'a> {
    sources: &'a Sources,
    key: &'a Key,
    cluster: &'a BytebaseCluster,
    references: &'a References,
    validation: &'a Validation,
    namespace: &'a str,
    name: &'a str,
}

impl Subject<'_> {
    fn observe(self, own: OwnActions, memory: &Memory) -> Observation {
        let Self {
            sources,
            validation,
            namespace,
            name,
            ..
        } = self;
        let set = sources
            .caches
            .read::<StatefulSet>(Kind::StatefulSet, namespace, name)
            .filter(|set| self.owns(set));
        let Pods {
            views: pods,
            await_logs,
        } = self.pods(set.as_ref(), &own);
        let now = (sources.clock)();
        let refused_pod = set.as_ref().and_then(|set| self.refused_pod(set, &pods));
        let sized = set.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
        let usage = match (validation.gate.wanted, pods.as_slice()) {
            (0, []) => DatabaseUse::Stopped,
            (_, []) if sized.unwrap_or(0) == 0 => DatabaseUse::Waits,
            _ => DatabaseUse::Runs,
        };
        let present = Present {
            usage,
            has_replicas: has_replicas(sized, &pods),
            pods: &pods,
        };
        let database = self.database(validation.database.as_ref(), present, &own.status);
        let kinds_unseen = sources.caches.kinds_unseen(namespace);
        // What a watch showed before it was lost need not stand any more.
        let is_seen = |wanted| kinds_unseen.iter().all(|(kind, _)| *kind != wanted);
        let ingress = sources
            .caches
            .read::<Ingress>(Kind::Ingress, namespace, name)
            .filter(|ingress| self.owns(ingress) && is_seen(Kind::Ingress));
        let route = sources.caches.get(Kind::HttpRoute, namespace, name);
        let route = route.filter(|route| self.owns(route) && is_seen(Kind::HttpRoute));
        Observation {
            now,
            stateful_set: set.as_ref().map(cluster::stateful_set),
            pods,
            awaits_logs: await_logs,
            ingress_has_address: ingress.as_ref().map(|ingress| {
                let balancer = ingress
                    .status
                    .as_ref()
                    .and_then(|status| status.load_balancer.as_ref());
                balancer
                    .and_then(|balancer| balancer.ingress.as_ref())
                    .is_some_and(|addresses| !addresses.is_empty())
            }),
            service_way: self.service_way(),
            exposed_hosts: route::exposed_hosts(ingress.as_ref(), route.as_ref()),
            route: route.as_ref().map(route::view),
            kinds_not_installed: sources.caches.not_installed(),
            kinds_unseen,
            database: database.view,
            last_facts: database.last_facts,
            database_shared_with: database.shared_with,
            remembered: database.remembered,
            call_failure: own.call_failure,
            asked: sources.probes.asked(self.key),
            unmatched_since: memory.unmatched_by(now),
            refused_pod,
            refused_eviction: own.refused_eviction,
        }
        .with_lost_tables_unknown()
    }

    /// The pods of the cluster, by ordinal.
    fn pods(&self, set: Option<&StatefulSet>, own: &OwnActions) -> Pods {
        let Self {
            sources,
            namespace,
            name,
            ..
        } = *self;
        let set_uid = set.and_then(ResourceExt::uid);
        // Pods have the names of their ordinals; beyond the largest size there are none.
        let pods: Vec<_> = (0..=MOST_REPLICAS)
            .filter_map(|ordinal| {
                let pods = &sources.caches.pods;
                pods.get(namespace, &format!("{name}-{ordinal}"))
            })
            .filter(|pod| cluster::is_ours(pod, name, set_uid.as_deref()))
            .collect();
        let remembered = &own.status.replica_statuses;
        sources.log_ids.recall(&pods, remembered);
        let unprepared = |pod: &Pod| sources.caches.unprepared(namespace, name, &pod.uid()?);
        let secrets =
            LazyCell::new(|| known_secrets(&self.cluster.spec, self.references).map(Arc::new));
        let (cluster, database) = (&self.validation.cluster, &self.validation.database);
        let (cluster, database) = (cluster.as_ref(), database.as_ref());
        let logs = Logs {
            ids: &sources.log_ids,
            lines: &sources.log_lines,
            reader: self.log_reader(),
            remembered,
            secrets: &|| secrets.clone(),
            checksum: database.map(|database| database.checksum.as_str()),
            patience: cluster.map(|cluster| cluster.rollout.ready_timeout),
            now: (sources.clock)(),
        };
        let mut pods = cluster::pods(&logs, &pods, unprepared);
        // What was evicted is ending, whether the watch has shown it yet or not: otherwise the next
        // one would be evicted on a picture of before.
        let evicted = pods
            .views
            .iter_mut()
            .find(|pod| Some(&pod.uid) == own.evicted.as_ref());
        if let Some(pod) = evicted {
            pod.deleting = true;
        }
        pods
    }

    /// Whether an object is this very cluster's.
    fn owns(&self, object: &impl ResourceExt) -> bool {
        let (uid, name) = (self.cluster.metadata.uid.as_deref(), self.name);
        uid.is_some_and(|uid| Owner { uid, name }.has(object))
    }

    /// How the client Service lets users in by its type, where it stands and does.
    fn service_way(&self) -> Option<ServiceWay> {
        let caches = &self.sources.caches;
        let service = caches.read::<Service>(Kind::Service, self.namespace, self.name);
        let service = service.filter(|service| self.owns(service));
        service.as_ref().and_then(route::service_way)
    }

    fn log_reader(&self) -> LogReader {
        let queue = self.sources.queue.clone();
        let key = self.key.clone();
        LogReader {
            api: Api::namespaced(self.sources.client.clone(), self.namespace),
            cluster: name(self.key),
            permits: Arc::clone(&self.sources.log_reads),
            wake: Arc::new(move || queue.enqueue(key.clone())),
        }
    }

    /// Why a pod that should be there could not be made.
    fn refused_pod(&self, set: &StatefulSet, pods: &[PodView]) -> Option<PodRefusal> {
        let missing = cluster::missing(set, pods);
        if missing.is_empty() {
            return None;
        }
        let caches = &self.sources.caches;
        caches.refusal(self.namespace, &set.name_any(), &set.uid()?, &missing)
    }

    /// What is known of the database, and which other cluster uses it.
    fn database(
        &self,
        valid: Option<&ValidDatabase>,
        present: Present<'_>,
        status: &BytebaseClusterStatus,
    ) -> DatabaseKnowledge {
        let Self { sources, key, .. } = *self;
        let usage = present.usage;
        if usage != DatabaseUse::Stopped {
            sources.probes.resume(key);
        }
        let latest = self.probed(valid);
        let endpoint = valid.map(|database| database.replicas.identity_hint());
        let remembered = remembered::remembered(status, endpoint.as_deref());
        let served_on = served_on(&latest, &remembered, present);
        // One that is stopped leaves a database to others on which it has never served.
        let shared_with = if usage == DatabaseUse::Stopped && served_on.is_none() {
            sources.release(self.cluster.metadata.uid.as_deref().unwrap_or_default());
            None
        } else {
            valid.and_then(|valid| {
                self.shared_with(valid, present, &latest, served_on.as_deref(), &remembered)
            })
        };
        DatabaseKnowledge {
            view: latest.view,
            last_facts: latest.last_good,
            shared_with,
            remembered,
        }
    }

    /// What is known of the database now; sees to it that it is read, if it can be.
    fn probed(&self, database: Option<&ValidDatabase>) -> Latest {
        let probes = &self.sources.probes;
        match database.map(Access::of) {
            Some(Some(access)) => probes.ensure(self.key, access),
            // It can no longer be read, and an earlier login must not go on being tried.
            Some(None) => {
                probes.remove(self.key);
                return Latest {
                    view: DatabaseView::CannotRead,
                    last_good: None,
                };
            }
            // Nothing new is known: an earlier probe goes on.
            None => {}
        }
        let latest = probes.latest(self.key);
        if database.is_none() && matches!(latest.view, DatabaseView::NotProbed) {
            // No reading will come.
            return Latest {
                view: DatabaseView::Probed(Err(ProbeFailure {
                    class: FailureClass::Unknown,
                    reason: FailureReason::Other,
                    message: "spec.database, or what it names, cannot be used".to_owned(),
                })),
                last_good: None,
            };
        }
        latest
    }

    /// Another cluster that has the same database.
    fn shared_with(
        &self,
        database: &ValidDatabase,
        present: Present<'_>,
        latest: &Latest,
        served_on: Option<&str>,
        remembered: &Remembered,
    ) -> Option<Holder> {
        let usage = present.usage;
        let claimant = Claimant::of(self.cluster, self.key);
        let endpoint = database.replicas.identity_hint();
        let Sources { claims, probes, .. } = self.sources;
        let runs = usage == DatabaseUse::Runs;
        let before = remembered.database.as_ref();
        let presence = Presence {
            is_refused: usage == DatabaseUse::Waits && is_refused(latest, remembered),
            runs,
            moves: before.is_none_or(|before| before.changed_login.is_some()),
            is_readable: is_readable(latest, remembered, present.pods),
            served_on,
        };
        let seen = sighting(latest);
        let concerned = claims.set(&claimant, &endpoint, seen, presence, remembered);
        self.sources.queue.enqueue_all(concerned);
        if usage == DatabaseUse::Stopped {
            return None;
        }
        let latest = |key: &Key| sighting(&probes.latest(key));
        let other = claims.holder(claimant.uid, runs, remembered, latest)?;
        let own = self.key.namespace.as_deref().unwrap_or_default();
        Some(Holder {
            name: name_for(own, &other.name),
            usage: other.usage,
        })
    }
}

/// What another cluster (`namespace/name`) is called for one of this namespace. The names of one
/// user's objects are nothing for another.
fn name_for(namespace: &str, other: &str) -> String {
    let name = other.strip_prefix(namespace);
    let name = name.and_then(|name| name.strip_prefix('/'));
    name.map_or_else(|| "of another namespace".to_owned(), str::to_owned)
}

/// How far a cluster uses its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DatabaseUse {
    /// No replica is wanted, and none is left.
    Stopped,
    /// There is none yet.
    Waits,
    /// There are replicas, or are to be by its StatefulSet.
    Runs,
}

/// What there is of a cluster.
#[derive(Clone, Copy)]
struct Present<'a> {
    usage: DatabaseUse,
    /// [`has_replicas`].
    has_replicas: bool,
    pods: &'a [PodView],
}

/// What the latest reading found of the server, if it is a good one.
fn sighting(latest: &Latest) -> Option<Sighting> {
    let (age, facts) = read(latest)?;
    let now = Instant::now();
    let at = now.checked_sub(age).unwrap_or(now);
    Some(Sighting {
        identity: facts.identity.clone(),
        since: at.checked_sub(facts.writable_for).unwrap_or(at),
        at,
    })
}

/// The latest reading and its age, if it is a good one.
fn read(latest: &Latest) -> Option<(Duration, &DatabaseFacts)> {
    let (DatabaseView::Probed(Ok(facts)), Some((age, _))) = (&latest.view, &latest.last_good)
    else {
        return None;
    };
    Some((*age, facts))
}

/// [`Remembered::served_on_after`] the last good reading.
fn served_on(latest: &Latest, remembered: &Remembered, present: Present<'_>) -> Option<String> {
    let Present {
        has_replicas, pods, ..
    } = present;
    match &latest.last_good {
        Some((_, facts)) => remembered.served_on_after(facts, pods, has_replicas),
        None => remembered.served_on.clone(),
    }
}

/// Whether heartbeats can be read, as the status reports it. `None`: no reading has ended yet.
fn is_readable(latest: &Latest, remembered: &Remembered, pods: &[PodView]) -> Option<bool> {
    match &latest.view {
        DatabaseView::NotProbed => None,
        DatabaseView::Probed(Err(_)) | DatabaseView::CannotRead => Some(false),
        DatabaseView::Probed(Ok(facts)) => {
            Some(!facts.heartbeats.is_unknown() && !remembered.has_lost_tables(facts, pods))
        }
    }
}

/// Whether the server refuses the login, as far as is known: no replica may start by it.
fn is_refused(latest: &Latest, remembered: &Remembered) -> bool {
    match &latest.view {
        DatabaseView::NotProbed => remembered.login == Some(LoginState::Refused),
        DatabaseView::Probed(Err(failure)) => failure.class == FailureClass::Definite,
        DatabaseView::Probed(Ok(_)) | DatabaseView::CannotRead => false,
    }
}

/// What is known of the metadata database of one cluster.
struct DatabaseKnowledge {
    view: DatabaseView,
    last_facts: Option<(Duration, DatabaseFacts)>,
    shared_with: Option<Holder>,
    remembered: Remembered,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{after, facts, id, no_license, now};
    use jiff::SignedDuration;

    #[tokio::test(start_paused = true)]
    async fn a_server_counts_from_when_it_was_seen_to_take_writes_not_from_its_start() {
        let seconds = Duration::from_secs;
        // A standby that has run for an hour was promoted ten seconds before it was read last.
        let mut facts = facts(0, no_license());
        facts.server_uptime = seconds(3600);
        facts.writable_for = seconds(10);
        tokio::time::advance(seconds(7200)).await;
        let now = Instant::now();
        let seen = sighting(&Latest {
            view: DatabaseView::Probed(Ok(facts.clone())),
            last_good: Some((seconds(4), facts)),
        });
        let seen = seen.unwrap();
        assert_eq!((now - seen.at, now - seen.since), (seconds(4), seconds(14)));
    }

    #[test]
    fn a_clock_that_is_set_back_makes_no_heartbeat_wait_for_longer() {
        let at = |seconds| after(SignedDuration::from_secs(seconds));
        let mut memory = Memory::default();
        for (seconds, expected) in [(0, 0), (20, 0), (-3600, -3600), (-3560, -3600)] {
            memory.note_unmatched(Some(&[id(7)]), at(seconds));
            let since = memory.unmatched_by(at(seconds));
            assert_eq!(since.get(&id(7)), Some(&at(expected)), "{seconds}");
        }
        // It was set back since the pass before.
        let since = memory.unmatched_by(at(-7200));
        assert_eq!(since.get(&id(7)), Some(&at(-7200)));
        memory.note_unmatched(Some(&[]), now());
        assert!(memory.unmatched_by(now()).is_empty());
    }

    #[test]
    fn an_outage_makes_no_heartbeat_wait_again() {
        let at = |seconds| after(SignedDuration::from_secs(seconds));
        let mut memory = Memory::default();
        memory.note_unmatched(Some(&[id(7), id(8)]), at(0));
        memory.note_unmatched(None, at(20));
        memory.note_unmatched(Some(&[id(7)]), at(40));
        let expected = BTreeMap::from([(id(7), at(0))]);
        assert_eq!(memory.unmatched_by(at(40)), expected);
    }

    #[test]
    fn a_cluster_is_named_to_its_own_namespace_only() {
        for (namespace, other, expected) in [
            ("apps", "apps/demo", "demo"),
            ("apps", "apps-2/demo", "of another namespace"),
            ("apps-2", "apps/demo", "of another namespace"),
        ] {
            assert_eq!(name_for(namespace, other), expected);
        }
    }
}
