//! Writes to the API server: [`apply`] carries out a plan. It applies what differs, prunes what is
//! no longer wanted, evicts, and has Bytebase's own API called. A failure is reported, never
//! swallowed.

pub mod bytebase;
mod calls;
mod contest;
pub mod error;
pub mod event;
mod memory;
pub mod objects;
mod outcome;

pub use calls::Calls;
pub use error::{ApplyFailure, FailureKind};
pub use memory::Memory;
pub use outcome::Outcome;

use crate::api::{BytebaseCluster, Reason};
use crate::decide::plan::{BytebaseCall, BytebaseRequest, Plan, Size, Wanted};
use crate::decide::rollout::step::Eviction;
use crate::desired::DesiredObject;
use crate::desired::ownership::Owner;
use crate::kubernetes::Kind;
use crate::observation::Observation;
use crate::process::lease::{Leadership, NotLeading};
use crate::process::metrics::{Metrics, WriteVerb};
use crate::process::queue::{Key, Queue, name};
use contest::Contest;
use event::{Notice, Publisher};
use futures::future::join_all;
use jiff::Timestamp;
use kube::api::DynamicObject;
use kube::{Client, ResourceExt};
use memory::Candidate;
use objects::{Applied, Evicted, Objects};
use outcome::pause_until;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// The one field manager of everything this operator writes.
pub const FIELD_MANAGER: &str = "bytebase-operator";

/// A write that the cache has not echoed after this long is forgotten.
pub const ECHO: Duration = Duration::from_secs(3);

/// An object that has not been written after so long, in all the calls that it takes, is given up
/// until the next reconcile: whatever the others are waiting for is not held up by it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(20);
/// No write of a reconcile is waited for any longer after this, so that there is time to report
/// those that were not answered. With a last [`SHORTEST_TRY`] of each step all of them end within
/// 40 seconds.
const WRITES_TIMEOUT: Duration = Duration::from_secs(35);
/// Each is tried for so long in any case.
const SHORTEST_TRY: Duration = Duration::from_secs(1);

/// An object that is being deleted, and that the watch does not show, is asked for again after so
/// long: no event shows its end.
const UNWATCHED_RETRY: Duration = Duration::from_secs(10);
/// What no watch shows is read again after so long.
const READ_UNSEEN: Duration = Duration::from_mins(1);

/// A pod that a PodDisruptionBudget protects is tried again after so long, doubled each time up to
/// the longest: a budget often lags behind the pods for a moment.
const FIRST_BUDGET_RETRY: Duration = Duration::from_millis(250);
const LONGEST_BUDGET_RETRY: Duration = Duration::from_secs(5);

/// What the writes of all clusters share.
pub struct Writer {
    /// Client of the reconciles. It tries nothing again by itself: each cluster has a back-off of
    /// its own.
    pub client: Client,
    /// Client for Bytebase's API.
    pub http: reqwest::Client,
    /// Asked before every write.
    pub leadership: Leadership,
    /// Counts every write.
    pub metrics: Arc<Metrics>,
    /// Publishes the events of this process.
    pub publisher: Publisher,
    /// Calls to Bytebase's API.
    pub calls: Arc<Calls>,
    /// Where a cluster goes whose call has ended.
    pub queue: Queue,
    /// Asked for an object of a kind, by namespace and name, as the watch last showed it.
    pub cached: FindCached,
    /// Whether the watch of a kind shows all that there is in a namespace.
    pub sees: SeesKind,
    /// Called when a call to Bytebase's API has ended, answered or not, since its database may hold
    /// something new.
    pub call_ended: CallEnded,
    /// Whether a cluster's database has been read by a reading that began after this moment.
    pub is_read_since: IsReadSince,
}

/// Finds an object by kind, namespace and name.
pub type FindCached = Box<dyn Fn(Kind, &str, &str) -> Option<DynamicObject> + Send + Sync>;

/// Whether a kind can be seen in a namespace.
pub type SeesKind = Box<dyn Fn(Kind, &str) -> bool + Send + Sync>;

/// Takes note of a cluster.
pub type CallEnded = Arc<dyn Fn(&Key) + Send + Sync>;

/// Whether there is a reading of a cluster's database that young.
pub type IsReadSince = Box<dyn Fn(&Key, tokio::time::Instant) -> bool + Send + Sync>;

/// Carries out a plan. One refused object does not keep the others from standing.
pub async fn apply(
    writer: &Writer,
    key: &Key,
    cluster: &BytebaseCluster,
    plan: &Plan,
    observation: &Observation,
    memory: &mut Memory,
) -> Result<Outcome, NotLeading> {
    memory.forget_gone(&observation.pods);
    memory.forget_old_writes();
    writer.leadership.check()?;
    let namespace = &cluster.namespace().unwrap_or_default();
    let (uid, name) = (&cluster.uid().unwrap_or_default(), &cluster.name_any());
    let mut execution = Execution {
        writer,
        key,
        cluster,
        objects: Objects {
            client: &writer.client,
            namespace,
            owner: Owner { uid, name },
        },
        memory,
        outcome: Outcome::new(observation.now, plan.requeue_at),
        is_set_refused: false,
        ends_at: tokio::time::Instant::now() + WRITES_TIMEOUT,
    };
    execution.forget_kept();
    if let Some(left) = execution.memory.perhaps_evicted_for() {
        execution.outcome.requeue_after(left);
    }
    let missing = execution.stand(plan, observation).await?;
    execution.outcome.overruled = execution.memory.overruled();
    // What the API server, or who it asks, has against a new template must not keep the license
    // gate open.
    let refused = plan.gate_size.filter(|_| execution.is_set_refused);
    if let Some(size) = plan.resize.or(refused) {
        execution.resize(size, observation).await?;
    }
    execution.prune(&plan.prune).await?;
    match &plan.eviction {
        Some(eviction) if missing.is_empty() => execution.evict(eviction).await?,
        Some(_) => execution.outcome.withheld_for = missing,
        None => {}
    }
    execution.call(&plan.call)?;
    Ok(execution.outcome)
}

/// A plan that is being carried out.
struct Execution<'a> {
    writer: &'a Writer,
    key: &'a Key,
    cluster: &'a BytebaseCluster,
    objects: Objects<'a>,
    memory: &'a mut Memory,
    outcome: Outcome,
    /// The StatefulSet could not be written as it is wanted.
    is_set_refused: bool,
    /// When no write is waited for any longer.
    ends_at: tokio::time::Instant,
}

/// What is to be done about one object.
enum Todo<'d> {
    /// Nothing: it stands.
    Nothing,
    /// Nothing now: what stands is not known yet, or another party keeps changing it back.
    Later(Duration),
    /// The same of a StatefulSet by which pods are made as they are wanted.
    LaterButForPods(Duration),
    /// It is to be made to stand.
    Write(Box<Write<'d>>),
}

/// One object that is to be made to stand.
struct Write<'d> {
    desired: &'d DesiredObject,
    cached: Option<DynamicObject>,
    candidate: Candidate,
    /// Another party keeps changing it back.
    is_contested: bool,
    /// Which one, if that was asked.
    by: Option<String>,
}

/// What came of an object that is no longer wanted.
enum Pruned {
    /// No watch shows whether it stands, and it cannot be read.
    Unread(FailureKind),
    /// Whether there was one to delete.
    Tried(Result<bool, ApplyFailure>),
}

impl Execution<'_> {
    /// An object as its watch shows it. What a watch showed before it was lost counts for nothing.
    fn cached(&self, kind: Kind, name: &str) -> Option<DynamicObject> {
        let is_seen = self.sees(kind);
        is_seen.then(|| (self.writer.cached)(kind, self.objects.namespace, name))?
    }

    /// Of StatefulSets the observation has asked.
    fn sees(&self, kind: Kind) -> bool {
        kind == Kind::StatefulSet || (self.writer.sees)(kind, self.objects.namespace)
    }

    fn forget_kept(&mut self) {
        let (writer, namespace) = (self.writer, self.objects.namespace);
        self.memory
            .forget_kept(|kind, name| (writer.cached)(kind, namespace, name).is_some());
    }

    /// Whether this is a StatefulSet that has changed while its size and its template were decided.
    fn is_outdated(
        &self,
        desired: &DesiredObject,
        cached: Option<&DynamicObject>,
        observation: &Observation,
    ) -> bool {
        desired.kind == Kind::StatefulSet
            && cached.is_some_and(|cached| {
                self.objects.owner.has(cached)
                    && !is_version_of(observation, cached)
                    && !objects::stands(desired, cached)
            })
    }

    /// Does something to an object, for as long as there is time.
    async fn in_time<T>(
        &self,
        verb: &str,
        kind: Kind,
        name: &str,
        write: impl Future<Output = Result<T, ApplyFailure>>,
    ) -> Result<T, ApplyFailure> {
        let done = timeout(self.time_left(), write).await;
        done.unwrap_or_else(|_| Err(ApplyFailure::timed_out(verb, kind, name)))
    }

    /// How long one more write may take.
    fn time_left(&self) -> Duration {
        let left = self.ends_at.duration_since(tokio::time::Instant::now());
        left.clamp(SHORTEST_TRY, WRITE_TIMEOUT)
    }

    /// Counts a write of an object that the cluster owns.
    fn wrote(&mut self, verb: WriteVerb, kind: Kind) {
        self.outcome.writes += 1;
        self.outcome.applied += 1;
        self.writer.metrics.wrote(verb, kind);
    }

    /// Makes the objects stand. Returns those that pods are made from and that do not stand: a pod
    /// that ended now might come back from the template that is being left. Whatever else cannot be
    /// written holds no rollout back, nor does a StatefulSet of which another party keeps changing
    /// what no pod depends on.
    ///
    /// What does not wait for another object is written at the same time: one webhook that does not
    /// answer may stand before each of them, and the time for a reconcile is limited.
    async fn stand(
        &mut self,
        plan: &Plan,
        observation: &Observation,
    ) -> Result<Vec<String>, NotLeading> {
        let mut missing = Vec::new();
        let mut note_missing = |desired: &DesiredObject| {
            if desired.kind.is_needed_by_pods() {
                missing.push(format!("{}/{}", desired.kind.plural(), desired.name));
            }
        };
        let comes_first = |desired: &&DesiredObject| desired.kind.comes_before_pods();
        let (first, then): (Vec<_>, Vec<_>) = plan.objects.iter().partition(comes_first);
        for objects in [first, then] {
            let mut writes = Vec::new();
            for desired in objects {
                match self.todo(desired, observation) {
                    Todo::Nothing => {}
                    Todo::Later(pause) => {
                        note_missing(desired);
                        self.outcome.requeue_after(pause);
                    }
                    Todo::LaterButForPods(pause) => self.outcome.requeue_after(pause),
                    Todo::Write(write) => writes.push(write),
                }
            }
            let execution = &*self;
            let written = join_all(writes.into_iter().map(|write| execution.write(write))).await;
            for written in written {
                let (write, applied) = written?;
                if !matches!(applied, Ok(Applied::Unchanged | Applied::Kept(_))) {
                    note_missing(write.desired);
                }
                self.note(*write, applied, observation.now);
            }
        }
        Ok(missing)
    }

    /// What is to be done about one object.
    fn todo<'d>(&mut self, desired: &'d DesiredObject, observation: &Observation) -> Todo<'d> {
        let sees = self.sees(desired.kind);
        if !sees {
            self.outcome.requeue_after(READ_UNSEEN);
        }
        let cached = self.cached(desired.kind, &desired.name);
        let before = cached.as_ref().and_then(ResourceExt::resource_version);
        let candidate = Candidate::new(desired, before);
        // Where no watch shows it, no echo comes, and it may have changed since.
        if sees && self.memory.awaits_echo(&candidate) {
            return Todo::Later(ECHO);
        }
        if sees && self.memory.is_kept(&candidate) {
            return Todo::Nothing;
        }
        if self.is_outdated(desired, cached.as_ref(), observation) {
            return Todo::Later(ECHO);
        }
        // Whether it stands is asked only where something depends on it: `apply` asks again.
        let contested = |contest: &&Contest| {
            let stands = |cached: &DynamicObject| objects::stands(desired, cached);
            contest.is_near() && !cached.as_ref().is_some_and(stands)
        };
        let contest = self.memory.contest(&candidate).filter(contested);
        if let Some(contest) = contest
            && let Some(left) = contest.left_alone_for(Instant::now())
        {
            self.outcome.failures.extend(changed_back(desired, contest));
            let makes_wanted_pods =
                |live: &DynamicObject| objects::makes_wanted_pods(desired, live);
            return if cached.as_ref().is_some_and(makes_wanted_pods) {
                Todo::LaterButForPods(left)
            } else {
                Todo::Later(left)
            };
        }
        Todo::Write(Box::new(Write {
            is_contested: contest.is_some(),
            desired,
            cached,
            candidate,
            by: None,
        }))
    }

    /// Makes one object stand.
    async fn write<'d>(
        &self,
        mut write: Box<Write<'d>>,
    ) -> Result<(Box<Write<'d>>, Result<Applied, ApplyFailure>), NotLeading> {
        self.writer.leadership.check()?;
        let desired = write.desired;
        let applied = self.in_time("patch", desired.kind, &desired.name, async {
            if write.is_contested {
                // Asked before the write, which takes the fields over.
                write.by = self.objects.last_manager(desired).await;
            }
            let live = if self.sees(desired.kind) {
                write.cached.take()
            } else {
                // Where it cannot be read, the write shows whether it is there.
                let live = self.objects.read(desired.kind, &desired.name).await;
                live.unwrap_or_default()
            };
            self.objects.apply(desired, live).await
        });
        let applied = applied.await;
        Ok((write, applied))
    }

    /// Takes note of what came of it.
    fn note(&mut self, write: Write<'_>, applied: Result<Applied, ApplyFailure>, now: Timestamp) {
        let Write {
            desired,
            candidate,
            by,
            ..
        } = write;
        match applied {
            Ok(Applied::Unchanged) => {
                self.memory.note_standing(&candidate);
                if let Some(contest) = self.memory.contest(&candidate)
                    && let Some(left) = contest.unsettled_for(Instant::now())
                    && let Some(failure) = changed_back(desired, contest)
                {
                    // It stands for the moment: another writer seldom changes it back at once.
                    self.outcome.failures.push(failure);
                    self.outcome.requeue_after(left);
                }
            }
            Ok(Applied::Ending(ending)) => {
                let failure = ApplyFailure::ending(desired, &ending, now);
                if failure.kind == FailureKind::Ending && ending.stuck_from() > now {
                    self.outcome
                        .requeue_after(pause_until(ending.stuck_from(), now));
                }
                if !ending.is_watched {
                    self.outcome.requeue_after(UNWATCHED_RETRY);
                }
                self.outcome.failures.push(failure);
            }
            Ok(Applied::LeftBehind(made)) => {
                let cluster = self.cluster.creation_timestamp().map(|time| time.0);
                let by = error::collected_by([cluster, made]);
                if by > now {
                    self.outcome.requeue_after(pause_until(by, now));
                }
                let failure = ApplyFailure::left_behind(desired, by, now);
                self.outcome.failures.push(failure);
            }
            Ok(Applied::Kept(field)) => self.memory.note_kept(candidate, field),
            Ok(Applied::Written) => {
                self.wrote(WriteVerb::Apply, desired.kind);
                tracing::info!(cluster = %name(self.key), object = format!("{}/{}", desired.kind, desired.name), "applied");
                let Some(contest) = self.memory.note_written(candidate, by) else {
                    return;
                };
                self.outcome.failures.extend(changed_back(desired, contest));
                if let Some(warning) = contest.warning(Instant::now()) {
                    let subject = format!("{}/{}", desired.kind.plural(), desired.name);
                    self.outcome.notices.push(Notice {
                        warning: true,
                        condition: None,
                        reason: Reason::ChangedBack,
                        message: format!("{subject} {warning}"),
                        subject,
                    });
                }
            }
            // The watch is about to show what changed, and wakes the next reconcile.
            Err(failure)
                if failure.kind == FailureKind::Conflict
                    && desired.kind == Kind::StatefulSet
                    && !self.memory.is_outdated_for_long(candidate) =>
            {
                self.outcome.requeue_after(ECHO);
            }
            Err(failure) => {
                let is_set = desired.kind == Kind::StatefulSet;
                self.is_set_refused |= is_set && failure.kind != FailureKind::Conflict;
                self.outcome.failures.push(failure);
            }
        }
    }

    async fn resize(&mut self, size: Size, observation: &Observation) -> Result<(), NotLeading> {
        let Some(cached) = self.cached(Kind::StatefulSet, &self.cluster.name_any()) else {
            return Ok(());
        };
        if !is_version_of(observation, &cached) {
            self.outcome.requeue_after(ECHO);
            return Ok(());
        }
        self.writer.leadership.check()?;
        let name_of_set = &cached.name_any();
        let resize = self.objects.resize(&cached, size);
        let resized = self.in_time("patch", Kind::StatefulSet, name_of_set, resize);
        let resized = resized.await;
        match resized {
            Ok(false) => self.outcome.requeue_after(ECHO),
            Ok(true) => {
                self.wrote(WriteVerb::Patch, Kind::StatefulSet);
                tracing::info!(cluster = %name(self.key), replicas = size.replicas, first_ordinal = size.start, "resized the StatefulSet for the license gate");
            }
            Err(failure) => self.outcome.failures.push(failure),
        }
        Ok(())
    }

    /// Deletes what is no longer wanted, all at the same time.
    async fn prune(&mut self, kinds: &[Kind]) -> Result<(), NotLeading> {
        self.writer.leadership.check()?;
        let execution = &*self;
        let name_of_all = &self.cluster.name_any();
        let pruned = kinds.iter().map(|kind| async move {
            let live = if execution.sees(*kind) {
                execution.cached(*kind, name_of_all)?
            } else {
                let read = execution.objects.read(*kind, name_of_all);
                let read = execution.in_time("get", *kind, name_of_all, read).await;
                match read {
                    Ok(live) => live?,
                    Err(failure) => return Some((*kind, Pruned::Unread(failure.kind))),
                }
            };
            let prune = execution.objects.prune(*kind, &live);
            let pruned = execution.in_time("delete", *kind, name_of_all, prune).await;
            Some((*kind, Pruned::Tried(pruned)))
        });
        for (kind, pruned) in join_all(pruned).await.into_iter().flatten() {
            match pruned {
                // Status says that the kind cannot be seen, and a right that comes shows by its
                // watch.
                Pruned::Tried(Ok(false))
                | Pruned::Unread(FailureKind::Forbidden | FailureKind::Refused) => {}
                Pruned::Unread(_) => self.outcome.requeue_after(READ_UNSEEN),
                Pruned::Tried(Ok(true)) => {
                    self.wrote(WriteVerb::Delete, kind);
                    tracing::info!(cluster = %name(self.key), object = %kind, "deleted, since it is no longer wanted");
                }
                Pruned::Tried(Err(failure)) => self.outcome.failures.push(failure),
            }
        }
        Ok(())
    }

    async fn evict(&mut self, eviction: &Eviction) -> Result<(), NotLeading> {
        self.writer.leadership.check()?;
        let evicted_pod = timeout(self.time_left(), self.objects.evict(eviction)).await;
        let unanswered = |_| {
            let failure = ApplyFailure::timed_out("evict", Kind::Pod, &eviction.pod);
            Ok(Evicted::Unanswered(failure))
        };
        match evicted_pod.unwrap_or_else(unanswered) {
            Ok(Evicted::Done) => {
                self.outcome.writes += 1;
                self.memory.note_evicted(&eviction.uid);
                self.writer.metrics.wrote(WriteVerb::Evict, Kind::Pod);
                self.outcome.notices.push(evicted(eviction));
            }
            // The watch is about to show it.
            Ok(Evicted::Gone) => self.outcome.requeue_after(ECHO),
            Ok(Evicted::Refused(why)) => {
                let times = self.memory.note_refused(&eviction.uid, why);
                self.outcome.requeue_after(budget_pause(times));
            }
            // By then the watch shows whether it is ending; until then no other one is ended.
            Ok(Evicted::Unanswered(failure)) => {
                self.memory.note_perhaps_evicted(&eviction.uid);
                self.outcome.failures.push(failure);
            }
            Err(failure) => self.outcome.failures.push(failure),
        }
        Ok(())
    }

    /// Has Bytebase's own API called, beside the reconciles. The end of a call wakes the cluster.
    fn call(&mut self, wanted: &Wanted) -> Result<(), NotLeading> {
        let Writer { calls, http, .. } = self.writer;
        let call = match wanted {
            Wanted::No => {
                calls.forget(self.key);
                return Ok(());
            }
            Wanted::NotNow => return Ok(()),
            Wanted::Call(call) => call.clone(),
        };
        self.writer.leadership.check()?;
        let (publisher, queue) = (self.writer.publisher.clone(), self.writer.queue.clone());
        let (cluster, key) = (self.cluster.clone(), self.key.clone());
        let call_ended = Arc::clone(&self.writer.call_ended);
        let is_read_since = |moment| (self.writer.is_read_since)(self.key, moment);
        let made = calls.make(self.key, call, http, is_read_since, move |call, result| {
            match result {
                Ok(()) => {
                    let notice = Notice {
                        warning: false,
                        condition: None,
                        reason: Reason::Progressing,
                        subject: String::new(),
                        message: done(&cluster, &call),
                    };
                    publisher.publish(&cluster, &[notice]);
                }
                Err(error) => {
                    tracing::warn!(cluster = %name(&key), %error, "a call to Bytebase failed");
                }
            }
            call_ended(&key);
            queue.enqueue(key);
        });
        if let Err(not_before) = made
            && not_before != Timestamp::MAX
        {
            self.outcome
                .requeue_after(pause_until(not_before, Timestamp::now()));
        }
        Ok(())
    }
}

/// Whether a StatefulSet is the very version that was observed.
fn is_version_of(observation: &Observation, cached: &DynamicObject) -> bool {
    let seen = observation.stateful_set.as_ref();
    seen.is_some_and(|seen| seen.resource_version == cached.metadata.resource_version)
}

/// Another party keeps changing an object back.
fn changed_back(desired: &DesiredObject, contest: &Contest) -> Option<ApplyFailure> {
    let report = contest.report()?;
    Some(ApplyFailure {
        kind: FailureKind::ChangedBack,
        exposes: desired.kind.exposes(),
        message: format!("{}/{} {report}", desired.kind.plural(), desired.name),
    })
}

/// What a call to Bytebase's API brought about. The email is a value of a Secret, and events are
/// read by more users than Secrets are.
fn done(cluster: &BytebaseCluster, call: &BytebaseCall) -> String {
    match &call.request {
        BytebaseRequest::CreateFirstAdmin { .. } => {
            let admin = cluster.spec.admin.as_ref();
            let secret = admin.map(|admin| admin.credentials_secret_ref.name.as_str());
            format!(
                "made the account in Secret {} the first admin",
                secret.unwrap_or_default()
            )
        }
        BytebaseRequest::InstallLicense { .. } => {
            "installed the license from the Secret".to_owned()
        }
    }
}

fn evicted(eviction: &Eviction) -> Notice {
    Notice {
        warning: false,
        condition: None,
        reason: Reason::RolloutProgressing,
        subject: eviction.pod.clone(),
        message: format!("evicted {}: {}", eviction.pod, eviction.why),
    }
}

fn budget_pause(times: u32) -> Duration {
    let doublings = times.saturating_sub(1).min(8);
    (FIRST_BUDGET_RETRY * (1 << doublings)).min(LONGEST_BUDGET_RETRY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_first_admin_is_named_by_its_secret() {
        let spec =
            json!({"admin": {"credentialsSecretRef": {"name": "boss"}, "createFirst": true}});
        let call = BytebaseCall {
            replica: ([10, 0, 0, 1], 8080).into(),
            request: BytebaseRequest::CreateFirstAdmin {
                email: "admin@example.com".into(),
                password: "p".into(),
            },
        };
        let message = done(&crate::testing::cluster(&spec), &call);
        assert_eq!(message, "made the account in Secret boss the first admin");
    }

    #[test]
    fn a_budget_is_asked_again_soon_and_then_seldom() {
        let pauses = [1, 2, 5, 6, u32::MAX].map(|times| budget_pause(times).as_millis());
        assert_eq!(pauses, [250, 500, 4000, 5000, 5000]);
    }
}
