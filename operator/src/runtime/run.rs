//! From options to a running operator, and back down.

use super::catch_up::{Followed, catch_up};
use super::context::{Context, Options, Parts};
use super::own_image;
use super::reconcile::{after_failure, reconcile};
use super::server::{Readiness, Server, ServerError};
use super::slots::CONCURRENCY;
use super::tasks::Essential;
use super::wall_clock;
use super::watches;
use crate::apply::bytebase;
use crate::decide::Settings;
use crate::dereference;
use crate::observe::database::probe::Probes;
use crate::process::lease::{self, Contender};
use crate::process::metrics::{LiveSample, Metrics};
use crate::process::queue::{Incoming, Key, gather, is_urgent, name};
use futures::{Stream, StreamExt as _};
use jiff::Timestamp;
use kube::runtime::controller::{self, applier};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Config};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::unbounded_channel;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Longest that databases wait for the first reconcile of every cluster, since one may hang.
const FIRST_PASS: Duration = Duration::from_secs(5);
/// Longest that an answer of the API server to a reconcile may take.
const ANSWER: Duration = Duration::from_secs(20);
/// Longest a reconcile may take to end at shutdown.
const DRAIN: Duration = Duration::from_secs(20);
/// Longest that the last events may take at shutdown.
const LAST_EVENTS: Duration = Duration::from_secs(2);

/// How to run.
pub struct Run {
    /// Namespaces and identity.
    pub options: Options,
    /// What decisions rest on.
    pub settings: Settings,
    /// Where probes and metrics are served.
    pub http_address: SocketAddr,
    /// Namespace of the lease.
    pub lease_namespace: String,
    /// Name of the lease.
    pub lease_name: String,
    /// Name of the pod that this process runs in, in the namespace of the lease.
    pub pod_name: String,
}

/// Why the operator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No cluster to talk to.
    #[error("no Kubernetes configuration: {0}")]
    Config(#[from] kube::config::InferConfigError),
    /// A client could not be made.
    #[error("no client: {0}")]
    Client(#[from] Box<kube::Error>),
    /// The client for Bytebase's API could not be made.
    #[error("no HTTP client: {0}")]
    Http(#[from] reqwest::Error),
    /// Signals cannot be received.
    #[error("signals cannot be received: {0}")]
    Signal(#[from] std::io::Error),
    /// The health server.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The lease was lost.
    #[error(
        "the lease is lost ({0}); the process ends so that no write of an old leader can follow"
    )]
    LeaseLost(String),
    /// A task that is never to end has ended.
    #[error(
        "the task {0:?} has ended, which is a defect; the process ends so that nothing is decided on what it left behind"
    )]
    TaskEnded(String),
}

/// Runs until a signal or the loss of the lease.
pub async fn run(run: Run) -> Result<(), RunError> {
    let Run {
        options,
        settings,
        http_address,
        lease_namespace,
        lease_name,
        pod_name,
    } = run;
    // First: nothing that follows may be waited for by a process that is to stop.
    let terminated = terminated()?;
    tokio::pin!(terminated);
    let server = Server::bind(http_address, None).await?;
    let readiness = Readiness::default();
    let metrics = Arc::new(Metrics::new());
    let stop = CancellationToken::new();
    let starting = readiness.missing("Kubernetes client");
    let serving = tokio::spawn(server.run(readiness.clone(), Arc::clone(&metrics), stop.clone()));

    let config = Config::infer().await?;
    let watch_client = Client::try_from(for_watches(&config)).map_err(Box::new)?;
    let client = Client::try_from(without_retries(&config)).map_err(Box::new)?;
    let mut contender = Contender::new(
        lease::client(config)?,
        &lease_namespace,
        &lease_name,
        options.instance.clone(),
    );
    let (queue, changes) = unbounded_channel();
    let (read, readings) = unbounded_channel();
    let (essential, mut ended) = Essential::new();
    let observer = Arc::clone(&metrics);
    let probes = Probes::new(
        read,
        name,
        Arc::new(move |failure, took| observer.probed(failure, took)),
    );
    let http = bytebase::client()?;
    let context = Arc::new(Context::new(Parts {
        clock: Arc::new(Timestamp::now),
        options,
        settings,
        client,
        http,
        probes,
        metrics: Arc::clone(&metrics),
        leadership: contender.leadership(),
        queue,
    }));
    let (clusters, starter) = (context.sources.caches.clusters.store(), essential.clone());
    let is_urgent = move |key: &Key| clusters.get(key).is_some_and(|cluster| is_urgent(&cluster));
    let incoming = Incoming { changes, readings };
    let keys = gather(incoming, is_urgent, move |task| {
        starter.spawn("the queue of clusters".to_owned(), task);
    });
    serve_live_values(&context, &metrics);
    let followed = watches::start(&context, &watch_client, &readiness, &essential);
    start_keepers(&context, &essential);
    let image_answered = own_image::start(&context, &essential, lease_namespace, pod_name);
    starting.found();

    tracing::info!(identity = context.options.instance, namespaces = ?context.options.namespaces, "started; waiting for the lease");
    tokio::select! {
        acquired = contender.acquire() => if let Err(lost) = acquired {
            return Err(RunError::LeaseLost(lost.to_string()));
        },
        Some(task) = ended.recv() => return Err(RunError::TaskEnded(task)),
        () = &mut terminated => { stop.cancel(); return Ok(()); }
    }
    tracing::info!("leading");

    let drain = CancellationToken::new();
    let ready = ready(readiness, followed, image_answered);
    let mut work = tokio::spawn(work(Arc::clone(&context), keys, ready, drain.clone()));
    let lost = tokio::select! {
        lost = contender.keep() => Some(lost),
        Some(task) = ended.recv() => return Err(RunError::TaskEnded(task)),
        () = &mut terminated => None,
        _ = &mut work => return Err(RunError::TaskEnded("reconciles".to_owned())),
    };
    if let Some(lost) = lost {
        return Err(RunError::LeaseLost(lost.to_string()));
    }
    tracing::info!("stopping: running reconciles end first");
    drain.cancel();
    ends(&context, &mut contender, &mut work).await?;
    work.abort();
    contender.release().await;
    stop.cancel();
    let _ = serving.await;
    tracing::info!("stopped");
    Ok(())
}

/// Lets what runs end. The lease goes on being renewed until the last write is done.
async fn ends(
    context: &Context,
    contender: &mut Contender,
    work: &mut JoinHandle<()>,
) -> Result<(), RunError> {
    let ends = async {
        let _ = work.await;
        // What the last of them reported, if the API server takes it soon.
        let events = context.writer.publisher.flush();
        let _ = tokio::time::timeout(LAST_EVENTS, events).await;
    };
    let drained = tokio::time::timeout(DRAIN, async {
        tokio::select! {
            lost = contender.keep() => Err(RunError::LeaseLost(lost.to_string())),
            () = ends => Ok(()),
        }
    });
    drained.await.unwrap_or(Ok(()))
}

/// Waits until clusters may be reconciled. `followed`: the watches that must show what is stored.
/// `image_answered`: cancelled once the operator's own image is known, or has been refused.
pub(super) async fn ready(
    readiness: Readiness,
    followed: Vec<Followed>,
    image_answered: CancellationToken,
) {
    // Nothing is decided on half-filled caches: what is not there yet would be taken for missing.
    complete(&readiness).await;
    // Nor on what was stored before the previous leader's last write. Even what has just been
    // listed may be of before.
    catch_up(&followed, &readiness).await;
    complete(&readiness).await;
    // A new cluster that is made a moment too early has no drain hook until its pods change.
    let _ = tokio::time::timeout(ANSWER, image_answered.cancelled()).await;
}

/// Waits until nothing is missing.
async fn complete(readiness: &Readiness) {
    while !readiness.is_ready() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Takes clusters off the queue, once it is `ready`, until it is asked to drain.
async fn work(
    context: Arc<Context>,
    keys: impl Stream<Item = Key> + Send,
    ready: impl Future<Output = ()> + Send,
    drain: CancellationToken,
) {
    tokio::select! {
        () = ready => {}
        () = drain.cancelled() => return,
    }
    // One that sees nothing yet serves no cluster, however long it leads.
    context.metrics.leads(true);
    context.begin_first_pass();
    let passing = Arc::clone(&context);
    tokio::spawn(async move {
        tokio::time::sleep(FIRST_PASS).await;
        passing.first_pass.end();
    });
    let queue = keys
        .map(Ok::<_, std::convert::Infallible>)
        .take_until(drain.cancelled_owned());
    // Without its `debounce`, by which each event would postpone the reconcile again: the queue has
    // gathered them.
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let store = context.sources.caches.clusters.store();
    applier(
        |cluster, context| Box::pin(reconcile(cluster, context)),
        after_failure,
        context,
        store,
        queue,
        config,
    )
    .for_each(|result| {
        match result {
            Ok((cluster, _)) => tracing::debug!(cluster = %name(&cluster), "reconciled"),
            // A cluster that went while it waited, or a failure that `after_failure` has already
            // logged.
            Err(error) => {
                let cluster = match &error {
                    controller::Error::ObjectNotFound(key)
                    | controller::Error::ReconcilerFailed(_, key) => Some(name(key)),
                    _ => None,
                };
                tracing::debug!(cluster, %error, "not reconciled");
            }
        }
        std::future::ready(())
    })
    .await;
}

/// A watch is silent for as long as nothing happens, so its client must not give up on silence
/// before the server ends the watch.
fn for_watches(config: &Config) -> Config {
    let mut config = config.clone();
    // A watch tries again by itself, and soon. The client's own pauses grow to minutes, in which
    // nothing would say that it has failed.
    config.default_retry = false;
    config.read_timeout = Some(Duration::from_secs(watches::SILENCE_SECONDS.into()));
    // The time that a connection was not in use does not count.
    config.reset_reader_on_write = true;
    config
}

/// Each cluster has a back-off of its own. A client that tries again by itself would hold a
/// reconcile for a minute, above all where a PodDisruptionBudget refuses an eviction, and nothing
/// would be reported meanwhile.
fn without_retries(config: &Config) -> Config {
    let mut config = config.clone();
    config.default_retry = false;
    // An API server that takes a request and never answers must not hold one of the few slots for
    // longer than a reconcile may take.
    config.read_timeout = Some(ANSWER);
    // The time that a connection was not in use does not count.
    config.reset_reader_on_write = true;
    config
}

/// Starts what goes on beside the watches.
fn start_keepers(context: &Arc<Context>, essential: &Essential) {
    let keeper = Arc::clone(context);
    essential.spawn("expiry of what was read".to_owned(), async move {
        loop {
            tokio::time::sleep(dereference::KEEP / 2).await;
            keeper.references.expire(Instant::now());
        }
    });
    let compared = wall_clock::compare(Arc::clone(context));
    essential.spawn("comparison of the clocks".to_owned(), compared);
}

/// Ages come from the probes at each scrape: a quiet cluster is not reconciled.
fn serve_live_values(context: &Arc<Context>, metrics: &Arc<Metrics>) {
    let weak = Arc::downgrade(context);
    metrics.set_live_source(Box::new(move |namespace, name| {
        let latest = weak
            .upgrade()?
            .sources
            .probes
            .latest(&ObjectRef::new(name).within(namespace));
        LiveSample::of(&latest)
    }));
}

fn terminated() -> Result<impl Future<Output = ()>, std::io::Error> {
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_of_the_reconciles_waits_for_no_answer_for_ever_and_tries_nothing_again_by_itself()
    {
        let config = Config::new("http://localhost".parse().unwrap());
        let config = without_retries(&config);
        assert_eq!(config.read_timeout, Some(ANSWER));
        assert!(!config.default_retry && config.reset_reader_on_write);
    }
}
