//! One look at one cluster: observe → validate → decide → apply → report.

use super::context::{Context, Memory, RecentWrite, WrittenStatus};
use crate::api::{BytebaseCluster, BytebaseClusterStatus, ConditionType, Reason};
use crate::apply::event::Notice;
use crate::apply::objects::{Applied, Evicted, Objects, hash};
use crate::apply::{ApplyFailure, FailureKind};
use crate::decide::decide;
use crate::decide::plan::{BytebaseCall, BytebaseRequest, Plan, Wanted};
use crate::decide::rollout::Eviction;
use crate::decide::scale::Size;
use crate::dereference::dereference;
use crate::desired::ownership::Owner;
use crate::kubernetes::Kind;
use crate::kubernetes::error_text::plain;
use crate::observation::{Observation, PodView, RefusedEviction};
use crate::observe::{OwnActions, observe};
use crate::process::lease::NotLeading;
use crate::process::metrics::{ClusterSample, ErrorClass, ReconcileOutcome, WriteVerb};
use crate::process::queue::{Key, name};
use crate::report;
use crate::validate::validate;
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Longest one look may take; the slowest call in it ends by itself after 30 s.
const TIMEOUT: Duration = Duration::from_mins(1);
/// A write that the cache has not echoed after this long is forgotten.
const ECHO: Duration = Duration::from_secs(3);
/// A pod that a PodDisruptionBudget protects is tried again after so long, doubled each time up to
/// the longest: a budget often lags behind the pods for a moment.
const FIRST_BUDGET_RETRY: Duration = Duration::from_millis(250);
const LONGEST_BUDGET_RETRY: Duration = Duration::from_secs(5);
/// After so many refusals in a row, some eight seconds, it is told.
const LASTING_REFUSAL: u32 = 6;

/// Why a look ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer a read.
    #[error("reading failed: {0}")]
    Read(#[from] kube::Error),
    /// Somebody else leads now.
    #[error("this process no longer leads")]
    NotLeading(#[from] NotLeading),
    /// The status could not be written.
    #[error("the status could not be written: {0}")]
    Status(#[source] kube::Error),
    /// Some object could not be written.
    #[error("{0}")]
    Apply(String, FailureKind),
    /// A cache that nothing can be decided without is missing.
    #[error("{0}")]
    Blind(String),
    /// It took too long.
    #[error("took longer than {} s", TIMEOUT.as_secs())]
    TimedOut,
    /// A defect.
    #[error("panicked: {0}")]
    Panic(String),
}

impl Error {
    fn class(&self) -> ErrorClass {
        match self {
            Self::Read(_)
            | Self::Status(_)
            | Self::NotLeading(_)
            | Self::Apply(_, FailureKind::Transient | FailureKind::Lasting) => {
                ErrorClass::Transient
            }
            Self::Apply(_, FailureKind::Conflict) => ErrorClass::Conflict,
            Self::Apply(..) | Self::Blind(_) => ErrorClass::User,
            Self::TimedOut => ErrorClass::TimedOut,
            Self::Panic(_) => ErrorClass::Panic,
        }
    }
}

/// What the queue calls: one look, bounded in time, with panics contained, counted and logged.
pub async fn reconcile(
    cluster: Arc<BytebaseCluster>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let key = ObjectRef::from_obj(cluster.as_ref());
    let started = Instant::now();
    let look = Look {
        cluster: &cluster,
        context: &context,
        key: &key,
    };
    let look = AssertUnwindSafe(look.run()).catch_unwind();
    let result = match tokio::time::timeout(TIMEOUT, look).await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => Err(Error::Panic(panic_message(panic.as_ref()))),
        Err(_) => Err(Error::TimedOut),
    };
    let outcome = match &result {
        Ok((_, 0)) => ReconcileOutcome::Unchanged,
        Ok(_) => ReconcileOutcome::Changed,
        Err(error) => ReconcileOutcome::Error(error.class()),
    };
    context.metrics.reconciled(outcome, started.elapsed());
    let uid = cluster.metadata.uid.as_deref();
    if !context.sources.is_there(&key, uid) {
        // It went meanwhile, and what was learnt after that would stay for ever.
        context.forget(&key, uid);
    }
    context.passed(&key);
    let (action, _) = result?;
    context.succeeded(&key);
    Ok(action)
}

/// What the queue asks after a failure: each cluster has a back-off of its own.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the queue hands these over by value"
)]
pub fn after_failure(
    cluster: Arc<BytebaseCluster>,
    error: &Error,
    context: Arc<Context>,
) -> Action {
    let key = ObjectRef::from_obj(cluster.as_ref());
    let wait = context.failed(&key);
    tracing::warn!(cluster = %name(&key), error = plain(error), retry_in = ?wait, "a reconcile failed");
    Action::requeue(wait)
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

impl Outcome {
    /// Looks again after this long, or sooner.
    fn requeue(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |again| again.min(after)));
    }
}

/// What a call to Bytebase's API brought about.
fn done(call: &BytebaseCall) -> String {
    match &call.request {
        BytebaseRequest::CreateFirstAdmin { email, .. } => {
            format!("made {email} the first admin")
        }
        BytebaseRequest::InstallLicense { .. } => {
            "installed the license from the Secret".to_owned()
        }
    }
}

struct Look<'a> {
    cluster: &'a BytebaseCluster,
    context: &'a Context,
    key: &'a Key,
}

/// What came of a plan.
#[derive(Default)]
struct Outcome {
    /// Of whatever kind.
    writes: usize,
    /// Of objects that the cluster owns.
    applied: usize,
    failures: Vec<ApplyFailure>,
    notices: Vec<Notice>,
    /// Look again after this long.
    again: Option<Duration>,
}

impl Look<'_> {
    /// Returns when to look again, and how many writes it took.
    async fn run(&self) -> Result<(Action, usize), Error> {
        let Self {
            cluster,
            context,
            key,
        } = *self;
        if cluster.metadata.deletion_timestamp.is_some() {
            // Everything it owns goes with it by its owner references.
            context.forget(key, cluster.metadata.uid.as_deref());
            return Ok((Action::await_change(), 0));
        }
        let namespace = cluster.namespace().unwrap_or_default();
        self.can_see(&namespace).await?;
        let references = dereference(&context.client, &context.references, key, cluster).await?;
        let key_of_licenses = context.settings.license_key.as_ref();
        let validation = validate(cluster, &references, key_of_licenses, Timestamp::now());

        let mut memory = context.recall(key, cluster.metadata.uid.as_deref());
        let own = self.own_actions(&memory);
        let observation = observe(
            &context.sources,
            key,
            cluster,
            &validation,
            own,
            &memory.observe,
        );
        let observation = observation.await;
        let plan = decide(&validation, &observation, &context.settings);
        context.sources.probes.pace(key, plan.reading);
        memory
            .observe
            .note_unclaimed(&plan.unclaimed, observation.now);
        forget_ended(&mut memory, &observation.pods);

        context.leadership.check()?;
        let mut outcome = self.carry_out(&plan, &namespace, &mut memory).await?;
        self.call(&plan.call, &mut outcome)?;
        let written = self
            .report(plan, &observation, &mut memory, &mut outcome)
            .await;
        // Before anything else that takes time: the watch is about to show what was written.
        context.remember(key, memory);
        self.tell(&outcome.notices).await;
        let next = written?;
        if let Some(failure) = outcome.failures.first() {
            return Err(Error::Apply(failure.message.clone(), failure.kind));
        }
        let again = [outcome.again, next].into_iter().flatten().min();
        Ok((
            again.map_or_else(Action::await_change, Action::requeue),
            outcome.writes,
        ))
    }

    /// What this process did last to the cluster.
    fn own_actions(&self, memory: &Memory) -> OwnActions {
        OwnActions {
            status: self.last_status(memory),
            evicted: memory.evicted.clone(),
            refused_eviction: memory
                .refused_eviction
                .as_ref()
                .filter(|(_, times)| *times >= LASTING_REFUSAL)
                .map(|(refused, _)| refused.clone()),
            call_failure: self.context.calls.failure(self.key),
        }
    }

    /// The status as last written, which the cache may not show yet.
    fn last_status(&self, memory: &Memory) -> BytebaseClusterStatus {
        match &memory.status {
            Some(written) if written.before == self.cluster.resource_version() => {
                written.status.clone()
            }
            _ => self.cluster.status.clone().unwrap_or_default(),
        }
    }

    /// Whether everything is seen that nothing can be decided without. What is not is reported, so
    /// that a status of before does not go on standing for the present.
    async fn can_see(&self, namespace: &str) -> Result<(), Error> {
        let Self {
            cluster,
            context,
            key,
        } = *self;
        let Some(message) = context.sources.caches.unseen(namespace) else {
            return Ok(());
        };
        context.leadership.check()?;
        let memory = context.recall(key, cluster.metadata.uid.as_deref());
        let previous = self.last_status(&memory);
        let status = report::unseen(&previous, &message, Timestamp::now());
        if status != previous {
            report::write(&context.client, cluster, &status)
                .await
                .map_err(Error::Status)?;
            self.tell(&report::notices(&previous, &status)).await;
        }
        Err(Error::Blind(message))
    }

    /// Applies, prunes and evicts. One refused object does not keep the others from standing.
    async fn carry_out(
        &self,
        plan: &Plan,
        namespace: &str,
        memory: &mut Memory,
    ) -> Result<Outcome, Error> {
        let Self {
            cluster, context, ..
        } = *self;
        let (uid, name_of_cluster) = (cluster.uid().unwrap_or_default(), cluster.name_any());
        let objects = Objects {
            client: &context.client,
            namespace,
            owner: Owner {
                uid: &uid,
                name: &name_of_cluster,
            },
        };
        let mut outcome = Outcome::default();
        // What pods are made from: otherwise one might come back from the template that is being
        // left. Whatever else cannot be written holds no rollout back.
        let mut pods_need_stands = plan.resize.is_none();
        memory.writes.retain(|_, write| write.at.elapsed() < ECHO);
        for desired in &plan.objects {
            let cached = context
                .sources
                .caches
                .get(desired.kind, namespace, &desired.name);
            let slot = (desired.kind, desired.name.clone());
            let before = cached.as_ref().and_then(ResourceExt::resource_version);
            let hash = hash(desired);
            if memory
                .writes
                .get(&slot)
                .is_some_and(|write| write.before == before && write.hash == hash)
            {
                // Written a moment ago, and the watch has not shown it yet.
                pods_need_stands &= !desired.kind.is_needed_by_pods();
                outcome.again = Some(ECHO);
                continue;
            }
            let kept = memory.kept.get(&slot);
            if before.is_some() && kept.is_some_and(|kept| *kept == (before.clone(), hash.clone()))
            {
                // The API server holds this in a form of its own: it was asked, and changed nothing.
                continue;
            }
            context.leadership.check()?;
            let applied = objects.apply(desired, cached).await;
            if !matches!(applied, Ok(Applied::Unchanged | Applied::Kept)) {
                pods_need_stands &= !desired.kind.is_needed_by_pods();
            }
            match applied {
                Ok(Applied::Unchanged | Applied::Ending) => {}
                Ok(Applied::Kept) => {
                    memory.kept.insert(slot, (before, hash));
                }
                Ok(Applied::Written) => {
                    outcome.writes += 1;
                    outcome.applied += 1;
                    context.metrics.wrote(WriteVerb::Apply, desired.kind);
                    tracing::info!(cluster = %name(self.key), object = format!("{}/{}", desired.kind, desired.name), "applied");
                    memory.writes.insert(
                        slot,
                        RecentWrite {
                            at: Instant::now(),
                            before,
                            hash,
                        },
                    );
                }
                Err(failure) => outcome.failures.push(failure),
            }
        }
        if let Some(size) = plan.resize {
            self.resize(&objects, size, namespace, &mut outcome).await?;
        }
        for kind in &plan.prune {
            let Some(cached) = context
                .sources
                .caches
                .get(*kind, namespace, &cluster.name_any())
            else {
                continue;
            };
            context.leadership.check()?;
            match objects.prune(*kind, &cached).await {
                Ok(false) => {}
                Ok(true) => {
                    outcome.writes += 1;
                    outcome.applied += 1;
                    context.metrics.wrote(WriteVerb::Delete, *kind);
                    tracing::info!(cluster = %name(self.key), object = %kind, "deleted, since it is no longer wanted");
                }
                Err(failure) => outcome.failures.push(failure),
            }
        }
        if let Some(eviction) = plan.eviction.as_ref().filter(|_| pods_need_stands) {
            context.leadership.check()?;
            self.evict(&objects, eviction, memory, &mut outcome).await;
        }
        Ok(outcome)
    }

    async fn resize(
        &self,
        objects: &Objects<'_>,
        size: Size,
        namespace: &str,
        outcome: &mut Outcome,
    ) -> Result<(), Error> {
        let Self {
            cluster, context, ..
        } = *self;
        let name_of_set = cluster.name_any();
        let Some(cached) = context
            .sources
            .caches
            .get(Kind::StatefulSet, namespace, &name_of_set)
        else {
            return Ok(());
        };
        context.leadership.check()?;
        match objects.resize(&cached, size).await {
            Ok(false) => outcome.requeue(ECHO),
            Ok(true) => {
                outcome.writes += 1;
                outcome.applied += 1;
                context.metrics.wrote(WriteVerb::Patch, Kind::StatefulSet);
                tracing::info!(cluster = %name(self.key), replicas = size.replicas, first_ordinal = size.start, "resized the StatefulSet for the license gate");
            }
            Err(failure) => outcome.failures.push(failure),
        }
        Ok(())
    }

    async fn evict(
        &self,
        objects: &Objects<'_>,
        eviction: &Eviction,
        memory: &mut Memory,
        outcome: &mut Outcome,
    ) {
        match objects.evict(eviction).await {
            Ok(Evicted::Done) => {
                outcome.writes += 1;
                memory.refused_eviction = None;
                memory.evicted = Some(eviction.uid.clone());
                let metrics = &self.context.metrics;
                metrics.wrote(WriteVerb::Evict, Kind::Pod);
                tracing::info!(cluster = %name(self.key), pod = eviction.pod, why = eviction.why, "evicted");
                outcome.notices.push(Notice {
                    warning: false,
                    reason: Reason::RolloutProgressing,
                    message: format!("evicted {}: {}", eviction.pod, eviction.why),
                });
            }
            // The watch is about to show it.
            Ok(Evicted::Gone) => outcome.again = Some(ECHO),
            Ok(Evicted::Refused(why)) => {
                let before = memory.refused_eviction.take();
                let before = before.filter(|(refused, _)| refused.uid == eviction.uid);
                let times = before.map_or(0, |(_, times)| times) + 1;
                outcome.again = Some(budget_pause(times));
                let uid = eviction.uid.clone();
                memory.refused_eviction = Some((RefusedEviction { uid, why }, times));
            }
            Err(failure) => outcome.failures.push(failure),
        }
    }

    /// Has Bytebase's own API called, beside the reconciles. The end of a call wakes the cluster.
    fn call(&self, wanted: &Wanted, outcome: &mut Outcome) -> Result<(), Error> {
        let Self {
            cluster,
            context,
            key,
        } = *self;
        let call = match wanted {
            Wanted::No => {
                context.calls.forget(key);
                return Ok(());
            }
            Wanted::NotNow => return Ok(()),
            Wanted::Call(call) => call.clone(),
        };
        context.leadership.check()?;
        let (publisher, queue, key) = (context.publisher(), context.queue(), key.clone());
        let (cluster, probes) = (cluster.clone(), Arc::clone(&context.sources.probes));
        let made = context.calls.make(
            &key.clone(),
            call,
            &context.http,
            move |call, result| async move {
                match result {
                    Ok(()) => {
                        let message = done(&call);
                        tracing::info!(cluster = %name(&key), "{message}");
                        let reason = Reason::Progressing;
                        let notice = Notice {
                            warning: false,
                            reason,
                            message,
                        };
                        publisher.publish(&cluster, &notice).await;
                        probes.poke(&key);
                    }
                    Err(error) => {
                        tracing::warn!(cluster = %name(&key), %error, "a call to Bytebase failed");
                    }
                }
                queue.enqueue(key);
            },
        );
        if let Err(not_before) = made
            && not_before != Timestamp::MAX
        {
            outcome.requeue(pause_until(not_before, Timestamp::now()));
        }
        Ok(())
    }

    /// Writes status if it differs, and notes what is to be told. Returns when to look again.
    async fn report(
        &self,
        plan: Plan,
        observation: &Observation,
        memory: &mut Memory,
        outcome: &mut Outcome,
    ) -> Result<Option<Duration>, Error> {
        let Self {
            cluster, context, ..
        } = *self;
        let before = cluster.resource_version();
        let previous = self.last_status(memory);
        if memory
            .status
            .as_ref()
            .is_some_and(|written| written.before != before)
        {
            memory.status = None;
        }
        let next = plan.next.map(|at| pause_until(at, observation.now));
        if plan.unsettled && outcome.failures.is_empty() {
            return Ok(next);
        }
        // What was decided was decided on objects that are not the same any more. Once: status must
        // come in any case.
        memory.status_due =
            outcome.applied > 0 && outcome.failures.is_empty() && !memory.status_due;
        if memory.status_due {
            outcome.requeue(ECHO);
            return Ok(next);
        }
        report::mark_lasting(
            &mut outcome.failures,
            &previous,
            &mut memory.failing_since,
            observation.now,
        );
        let status = report::status(
            &previous,
            plan.report,
            &outcome.failures,
            cluster.metadata.generation,
            observation.now,
        );
        self.sample(&status, observation);
        if status != previous {
            context.leadership.check()?;
            let after = report::write(&context.client, cluster, &status)
                .await
                .map_err(Error::Status)?;
            context
                .metrics
                .wrote(WriteVerb::PatchStatus, Kind::BytebaseCluster);
            outcome.writes += 1;
            outcome.notices.extend(report::notices(&previous, &status));
            memory.status = Some(WrittenStatus {
                before,
                after,
                status,
            });
        }
        Ok(next)
    }

    async fn tell(&self, notices: &[Notice]) {
        let Self {
            cluster, context, ..
        } = *self;
        let publisher = context.publisher();
        for notice in notices {
            tracing::info!(cluster = %name(self.key), reason = notice.reason.as_ref(), "{}", notice.message);
            publisher.publish(cluster, notice).await;
        }
    }

    fn sample(&self, status: &BytebaseClusterStatus, observation: &Observation) {
        let count = |number: i32| u32::try_from(number).unwrap_or(0);
        let conditions = status.conditions.iter().filter_map(|condition| {
            let type_: ConditionType = condition.type_.parse().ok()?;
            let status = match condition.status.as_str() {
                "True" => "True",
                "False" => "False",
                _ => "Unknown",
            };
            Some((type_.into(), status))
        });
        let expiry = status
            .license
            .as_ref()
            .and_then(|license| license.expiration_time.as_ref());
        self.context.metrics.set_cluster(
            self.key.namespace.as_deref().unwrap_or_default(),
            &self.key.name,
            ClusterSample {
                wanted: count(self.cluster.spec.replicas),
                target: count(status.target_replicas.unwrap_or(0)),
                ready: count(status.ready_replicas),
                queue_held: status.queue_hold.is_some(),
                license_expiry: expiry.map(|time| time.0.as_second()),
                pods: observation
                    .pods
                    .iter()
                    .map(|pod| (pod.name.clone(), pod.replica_id))
                    .collect(),
                conditions: conditions.collect(),
            },
        );
    }
}

/// Until a moment, and never so short that a clock that stands still makes a loop of it.
fn pause_until(moment: Timestamp, now: Timestamp) -> Duration {
    let pause = moment.duration_since(now);
    pause.max(SignedDuration::from_millis(100)).unsigned_abs()
}

fn budget_pause(times: u32) -> Duration {
    let doublings = times.saturating_sub(1).min(8);
    (FIRST_BUDGET_RETRY * (1 << doublings)).min(LONGEST_BUDGET_RETRY)
}

/// Forgets an eviction whose pod has gone.
fn forget_ended(memory: &mut Memory, pods: &[PodView]) {
    if pods
        .iter()
        .all(|pod| Some(&pod.uid) != memory.evicted.as_ref())
    {
        memory.evicted = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_asked_again_soon_and_then_seldom() {
        let pauses = [1, 2, 5, 6, u32::MAX].map(|times| budget_pause(times).as_millis());
        assert_eq!(pauses, [250, 500, 4000, 5000, 5000]);
    }
}
