//! One reconcile of one cluster: dereference → validate → observe → decide → apply → report.

use super::context::Context;
use super::slots::NEXT_TURN;
use crate::api::BytebaseCluster;
use crate::apply::{ApplyFailure, FailureKind, apply};
use crate::decide::decide;
use crate::dereference::dereference;
use crate::kubernetes::error_text::plain;
use crate::observe::{OwnActions, observe};
use crate::process::lease::NotLeading;
use crate::process::metrics::{ErrorClass, ReconcileOutcome};
use crate::process::queue::{Key, name};
use crate::report::{self, report, report_unseen};
use crate::validate::validate;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// Longest one reconcile may take; the slowest call in it ends by itself after 30 s.
const TIMEOUT: Duration = Duration::from_mins(1);
/// A Secret or ConfigMap that the API server cannot read is asked for again after so long.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// Why a reconcile ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server did not answer a read.
    #[error("reading failed: {0}")]
    Read(#[from] kube::Error),
    /// Another process leads now.
    #[error("this process no longer leads")]
    NotLeading(#[from] NotLeading),
    /// Nothing could be reported.
    #[error(transparent)]
    Report(#[from] report::Error),
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
            Self::Report(report::Error::Outdated) | Self::Apply(_, FailureKind::Conflict) => {
                ErrorClass::Conflict
            }
            Self::Read(_)
            | Self::Report(_)
            | Self::NotLeading(_)
            | Self::Apply(_, FailureKind::Transient | FailureKind::Lasting) => {
                ErrorClass::Transient
            }
            Self::Apply(..) | Self::Blind(_) => ErrorClass::User,
            Self::TimedOut => ErrorClass::TimedOut,
            Self::Panic(_) => ErrorClass::Panic,
        }
    }
}

/// What the queue calls: one reconcile, bounded in time, with panics contained, counted and logged.
pub async fn reconcile(
    cluster: Arc<BytebaseCluster>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let key = ObjectRef::from_obj(cluster.as_ref());
    let Some(_slot) = context.slots.take(&key) else {
        return Ok(Action::requeue(NEXT_TURN));
    };
    let started = Instant::now();
    let pass = Pass {
        cluster: Arc::clone(&cluster),
        context: Arc::clone(&context),
        key: key.clone(),
    };
    // In a task of its own: the queue polls all reconciles in one, and so on one thread. It ends
    // with the queue, and a panic ends it alone.
    let pass = tokio::spawn(timeout(TIMEOUT, pass.run()).in_current_span());
    let result = match AbortOnDropHandle::new(pass).await {
        // The watch shows that as well, and which cluster has its name now.
        Ok(Ok(Err(Error::Report(report::Error::Gone)))) => Ok((Action::await_change(), 0)),
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(Error::TimedOut),
        Err(ended) => Err(Error::Panic(panic_message(ended))),
    };
    let outcome = match &result {
        Ok((_, 0)) => ReconcileOutcome::Unchanged,
        Ok(_) => ReconcileOutcome::Changed,
        Err(error) => ReconcileOutcome::Error(error.class()),
    };
    context.metrics.reconciled(outcome, started.elapsed());
    context.slots.took(&key, started.elapsed());
    let uid = cluster.metadata.uid.as_deref();
    if !context.sources.is_there(&key, uid) {
        // It went meanwhile, and what was learnt after that would stay for ever.
        context.forget(&key, uid);
    }
    context.first_pass.passed(&key);
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
    let Some(wait) = context.failed(&key, cluster.metadata.uid.as_deref()) else {
        tracing::debug!(cluster = %name(&key), error = plain(error), "a reconcile failed of a cluster that is gone");
        return Action::await_change();
    };
    if matches!(error, Error::Report(report::Error::Outdated)) {
        // Such as every take-over may bring.
        tracing::debug!(cluster = %name(&key), error = plain(error), retry_in = ?wait, "a reconcile is made again");
    } else {
        tracing::warn!(cluster = %name(&key), error = plain(error), retry_in = ?wait, "a reconcile failed");
    }
    Action::requeue(wait)
}

/// What a task said that ended of a panic. Nothing else ends one that is waited for.
fn panic_message(ended: JoinError) -> String {
    let panic = ended.try_into_panic().ok();
    let text = panic.as_ref().and_then(|panic| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
    });
    text.unwrap_or_else(|| "no message".to_owned())
}

/// A reconcile of one cluster.
struct Pass {
    cluster: Arc<BytebaseCluster>,
    context: Arc<Context>,
    key: Key,
}

impl Pass {
    /// Returns when to reconcile again, and how many writes it took.
    async fn run(self) -> Result<(Action, usize), Error> {
        let (cluster, context, key) = (&*self.cluster, &*self.context, &self.key);
        let uid = cluster.metadata.uid.as_deref();
        let sources = &context.sources;
        if cluster.metadata.deletion_timestamp.is_some()
            && !sources.has_set(key, uid.unwrap_or_default())
        {
            // Everything it owns goes with it by its owner references. Its replicas run on only as
            // long as a finalizer of another party keeps the cluster, and no cascade has begun.
            context.forget(key, uid);
            return Ok((Action::await_change(), 0));
        }
        let writer = &context.writer;
        let namespace = cluster.namespace().unwrap_or_default();
        if let Some(message) = sources.caches.unseen(&namespace) {
            // Nothing can be decided without it.
            let mut memory = context.recall(key, uid);
            let now = (sources.clock)();
            let reported = report_unseen(writer, key, cluster, &message, now, &mut memory.report);
            let reported = reported.await;
            context.remember(key, memory);
            writer.publisher.publish(cluster, &reported?);
            return Err(Error::Blind(message));
        }
        let references = dereference(
            &context.client,
            &context.references,
            key,
            cluster,
            Instant::now(),
        )
        .await?;
        let settings = context.settings();
        let license_key = settings.license_key.as_ref();
        let validation = validate(cluster, &references, license_key, (sources.clock)());

        let mut memory = context.recall(key, uid);
        let status = memory.report.last_status(cluster);
        memory.apply.recall(&writer.calls, key, &status);
        let own = OwnActions {
            status,
            evicted: memory.apply.evicted(),
            refused_eviction: memory.apply.refused_eviction(),
            call_failure: writer.calls.failure(key),
        };
        let seen = observe(
            sources,
            key,
            cluster,
            &references,
            &validation,
            own,
            &memory.observe,
        );
        let plan = decide(&validation, &seen, &settings);
        sources.probes.pace(key, plan.read_options);
        sources.probes.let_go(key, &plan.let_go);
        memory
            .observe
            .note_unmatched(plan.unmatched.as_deref(), seen.now);

        let outcome = apply(writer, key, cluster, &plan, &seen, &mut memory.apply);
        let mut outcome = outcome.await?;
        let reported = report(
            writer,
            key,
            cluster,
            plan,
            &seen,
            &mut outcome,
            &mut memory.report,
        );
        // Large: it holds the plan.
        let reported = Box::pin(reported).await;
        // Before anything else that takes time: the watch is about to show what was written.
        context.remember(key, memory);
        writer.publisher.publish(cluster, &outcome.notices);
        reported?;
        let failed = |failure: &&ApplyFailure| failure.kind.asks_for_another_try();
        if let Some(failure) = outcome.failures.iter().find(failed) {
            return Err(Error::Apply(failure.message.clone(), failure.kind));
        }
        // No watch shows when the API server can read it again.
        if references.holds_unreadable() {
            outcome.requeue_after(READ_AGAIN);
        }
        let requeue = outcome.requeue();
        Ok((
            requeue.map_or_else(Action::await_change, Action::requeue),
            outcome.writes,
        ))
    }
}
