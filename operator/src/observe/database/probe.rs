//! One task per cluster that reads its database on its own clock, and the registry that starts,
//! pokes and asks them.
//!
//! A task keeps one connection while it works, unless the cluster is stopped. It reads every
//! [`DEFAULT_INTERVAL`], and in between exactly when the heartbeat of a replica that sends none any
//! more crosses an age that matters. It wakes the caller only when the
//! [`Digest`](super::digest::Digest) of what it read has changed. What is known meanwhile is in
//! [`known`](super::known).

use super::abandoned::{self, Abandoned};
use super::classify::Place;
use super::connect::{self, Dialled};
use super::facts::SessionFacts;
use super::known::{FIRST_READ_OPTIONS, Knowledge, SPREAD, State, Subject, carry_forward};
use super::queries::{self, Seen};
use super::{Access, WhoseLogin, pooler};
use crate::contract::hook;
use crate::observation::heartbeat::Freshness;
use crate::observation::reading::{Latest, ReadOptions, Renewal};
use crate::observation::{
    Asked, DatabaseFacts, DatabaseIdentity, DatabaseView, Fact, FailureClass, FailureReason,
    LoginTrial, ProbeFailure,
};
use bytebase_login::Lookups;
use futures::FutureExt as _;
use parking_lot::Mutex;
use sqlx::postgres::PgConnection;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Replicas send a heartbeat every ten seconds; reading more often shows nothing new in a quiet
/// cluster.
pub const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// A connection is replaced this often, so that a changed address of the server, a pooler put in
/// between or a revoked login is seen without waiting for it to break.
const CONNECTION_LIFETIME: Duration = Duration::from_hours(1);

/// A connection to a database that is refused is replaced this often: at each reading of the usual
/// pace, and not each second while replicas come and go.
const REFUSED_CONNECTION_LIFETIME: Duration = Duration::from_secs(8);

/// A connection to a database that a Ready replica sends no heartbeats to is replaced this often. A
/// login that fails meanwhile leaves the time in which all replicas that live are heard.
const UNHEARD_CONNECTION_LIFETIME: Duration = Duration::from_mins(1);

/// First pause after a failure; doubles up to the cap.
const FIRST_RETRY: Duration = Duration::from_secs(1);

/// Longest pause after a failure, or the interval if that is longer: recovery should be seen within
/// one probe interval.
const RETRY_CAP: Duration = Duration::from_secs(10);

/// Longest pause after a refused password. Some servers lock an account out after repeated
/// failures, Bytebase's own account in this case; a corrected Secret restarts the probe at once
/// anyway.
const REFUSED_RETRY_CAP: Duration = Duration::from_mins(1);

/// A login as Bytebase's that was tried and failed is tried again after this long: one that was
/// refused in [`REFUSED_RETRY_CAP`].
const TRIAL_RETRY: Duration = Duration::from_secs(10);
/// To find out what stands before that login takes so long at most: a reading waits for it.
const TRIAL_POOLER: Duration = Duration::from_secs(5);

/// Read this long after an age is crossed, so that the reading is on the far side.
const CROSSING_MARGIN: Duration = Duration::from_millis(100);

/// Least pause between two readings, whatever asks for them.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// Clusters at a time that log in. A login costs the server a process and a key exchange; a
/// thousand after a restart must leave processor time to others.
const CONCURRENT_OPENINGS: usize = 8;

/// How long a cluster may hold its place among those. A working login is done by then; one into a
/// black hole takes seconds but no processor time, so it goes on without its place. A thousand
/// black holes, each tried again ten seconds after its five, leave places to others.
const OPENING_PERMIT: Duration = Duration::from_millis(100);

/// Called after each probe with the reason of its failure, if it failed, and the time it took.
pub type ProbeObserver = Arc<dyn Fn(Option<FailureReason>, Duration) + Send + Sync>;

/// Names the cluster of a key, its namespace first and a slash after that.
pub type Naming<K> = fn(&K) -> String;

/// The probes of all clusters, by a key of the caller's choice. Dropping it ends them all.
pub struct Probes<K> {
    entries: Mutex<HashMap<K, Entry>>,
    wake: UnboundedSender<K>,
    name: Naming<K>,
    openings: Openings,
    observer: ProbeObserver,
}

struct Entry {
    fingerprint: [u8; 32],
    shared: Arc<Shared>,
    /// Those of the task before this one may go on.
    lookups: Lookups,
    /// `None` for a database that cannot be read at all.
    task: Option<AbortHandle>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

struct Shared {
    state: Mutex<State>,
    poke: Notify,
}

/// A reading that has begun.
struct Begun {
    at: Instant,
    read_options: ReadOptions,
}

/// An open connection and what was learnt on it.
struct OpenSession {
    connection: PgConnection,
    host: usize,
    facts: SessionFacts,
    seen: Seen,
    opened: Instant,
    /// Whether it holds locks by which drain hooks are asked to let their replicas end.
    asks: bool,
}

/// The places of those that log in, shared by all clusters.
#[derive(Clone)]
struct Openings(Arc<Semaphore>);

struct Prober {
    access: Access,
    openings: Openings,
    lookups: Lookups,
    session: Option<OpenSession>,
    /// The server of the latest session, and since when it has run, as it was first found. A clock
    /// that was set back says of each session that the server has just started.
    server: Option<(DatabaseIdentity, Instant)>,
    /// Whether a pooler in transaction mode stands before the server, as far as it was found out
    /// for the server and the address of the latest session.
    pooler: Option<pooler::Found>,
    /// What came of the login that Bytebase uses, beside a monitoring one, and when.
    trial: Option<(LoginTrial, Instant)>,
    /// Whether that login leads through a pooler in transaction mode, where the monitoring login
    /// leads to another place.
    trial_pooler: Option<bool>,
    /// What Bytebase has failed as abandoned.
    abandoned: Abandoned,
}

// === impl Probes ===

impl<K: Clone + Eq + Hash + Send + Sync + 'static> Probes<K> {
    /// An empty registry. A key is sent to `wake` when what is known of its database has changed.
    pub fn new(wake: UnboundedSender<K>, name: Naming<K>, observer: ProbeObserver) -> Self {
        Self {
            entries: Mutex::default(),
            wake,
            name,
            openings: Openings::default(),
            observer,
        }
    }

    /// Lets no probe log in until [`Self::admit`].
    pub fn hold(&self) {
        self.openings.0.forget_permits(CONCURRENT_OPENINGS);
    }

    /// Lets clusters log in that were held back by [`Self::hold`].
    pub fn admit(&self) {
        self.openings.0.add_permits(CONCURRENT_OPENINGS);
    }

    /// Makes sure that `access` is probed under `key`, wholly and about every [`DEFAULT_INTERVAL`],
    /// or as [`Self::pace`] said. An unchanged fingerprint keeps the task and all it knows.
    ///
    /// Must be called within a tokio runtime.
    pub fn ensure(&self, key: &K, access: Access) {
        let mut entries = self.entries.lock();
        let mut read_options = FIRST_READ_OPTIONS;
        let mut lookups = None;
        if let Some(entry) = entries.get(key) {
            if entry.fingerprint == access.fingerprint {
                return;
            }
            read_options = entry.shared.state.lock().read_options;
            lookups = Some(entry.lookups.clone());
        }
        let cluster = (self.name)(key);
        // One namespace is one tenant's, for all that is known.
        let namespace = cluster.split('/').next().unwrap_or_default();
        let lookups = lookups.unwrap_or_else(|| Lookups::of(namespace));
        // A cloud IAM login takes a token that only Bytebase's own service account can fetch.
        let readable = access.url.iam.is_none() || access.login != WhoseLogin::Bytebase;
        let fingerprint = access.fingerprint;
        let subject = Subject {
            cluster,
            database: access.url.identity_hint(),
        };
        let shared = Arc::new(Shared::new(subject, read_options, readable));
        let task = readable.then(|| {
            let prober = Prober {
                access,
                openings: self.openings.clone(),
                lookups: lookups.clone(),
                session: None,
                server: None,
                pooler: None,
                trial: None,
                trial_pooler: None,
                abandoned: Abandoned::default(),
            };
            let (wake, key) = (self.wake.clone(), key.clone());
            let observer = Arc::clone(&self.observer);
            let shared = Arc::clone(&shared);
            tokio::spawn(run(prober, shared, observer, move || {
                // The receiver is gone at shutdown.
                let _ = wake.send(key.clone());
            }))
            .abort_handle()
        });
        entries.insert(
            key.clone(),
            Entry {
                fingerprint,
                shared,
                lookups,
                task,
            },
        );
    }

    /// From now on reads like this: often while something is going on. At once, if more is asked
    /// for than before, or the session is to be let go.
    pub fn pace(&self, key: &K, read_options: ReadOptions) {
        if let Some(entry) = self.entries.lock().get(key) {
            let before =
                std::mem::replace(&mut entry.shared.state.lock().read_options, read_options);
            if read_options.every < before.every
                || (read_options.sessions && !before.sessions)
                || (read_options.try_login && !before.try_login)
                || read_options.awaited > before.awaited
                || (before.keep_session && !read_options.keep_session)
            {
                entry.shared.poke.notify_one();
            }
        }
    }

    /// From now on asks the drain hooks of these pods, and of no others, to let their replicas end.
    pub fn let_go(&self, key: &K, pods: &BTreeSet<String>) {
        if let Some(entry) = self.entries.lock().get(key) {
            let mut state = entry.shared.state.lock();
            if state.let_go != *pods {
                state.let_go.clone_from(pods);
                state.asked.reached.retain(|pod| pods.contains(pod));
                state.asked.missed.retain(|pod| pods.contains(pod));
                entry.shared.poke.notify_one();
            }
        }
    }

    /// What has come of [`Self::let_go`]. `None` where no session will ever ask.
    pub fn asked(&self, key: &K) -> Option<Asked> {
        let entries = self.entries.lock();
        let entry = entries.get(key).filter(|entry| entry.task.is_some())?;
        Some(entry.shared.state.lock().asked.clone())
    }

    /// A cluster that was stopped is wanted again. What was seen now and then is too old for its
    /// first replica to rest on: it counts as never read, and is read now.
    pub fn resume(&self, key: &K) {
        if let Some(entry) = self.entries.lock().get(key) {
            let mut state = entry.shared.state.lock();
            if !state.read_options.keep_session && !matches!(state.outcome, Knowledge::CannotRead) {
                state.forget();
                entry.shared.poke.notify_one();
            }
        }
    }

    /// Ends the probe of `key` and forgets what it knew.
    pub fn remove(&self, key: &K) {
        self.entries.lock().remove(key);
    }

    /// Probes now rather than at the next turn.
    pub fn poke(&self, key: &K) {
        if let Some(entry) = self.entries.lock().get(key) {
            entry.shared.poke.notify_one();
        }
    }

    /// Something has happened that what was read last need not show: a rollout would wait for the
    /// next turn. Reads now, unless reading fails, whose pauses spare a server and the accounts on
    /// it.
    pub fn outdate(&self, key: &K) {
        if let Some(entry) = self.entries.lock().get(key)
            && entry.shared.state.lock().is_well()
        {
            entry.shared.poke.notify_one();
        }
    }

    /// Whether what is known was read by a reading that began after this moment.
    pub fn is_read_since(&self, key: &K, moment: Instant) -> bool {
        let entries = self.entries.lock();
        let shared = entries.get(key).map(|entry| &entry.shared);
        let begun = shared.and_then(|shared| shared.state.lock().begun);
        begun.is_some_and(|begun| begun >= moment)
    }

    /// Whether a reading has been asked for that has not begun.
    #[cfg(test)]
    pub fn is_poked(&self, key: &K) -> bool {
        let entries = self.entries.lock();
        let shared = entries.get(key).map(|entry| &entry.shared);
        shared.is_some_and(|shared| shared.poke.notified().now_or_never().is_some())
    }

    /// Whether the first outcome of a probe that was ensured is still to come.
    pub fn awaits_first(&self, key: &K) -> bool {
        let entries = self.entries.lock();
        let shared = entries.get(key).map(|entry| &entry.shared);
        shared.is_some_and(|shared| matches!(shared.state.lock().outcome, Knowledge::NotProbed))
    }

    /// Takes this for the outcome of a reading that has just ended. True if that is news.
    #[cfg(test)]
    pub fn report(&self, key: &K, outcome: Result<DatabaseFacts, ProbeFailure>) -> bool {
        let shared = self
            .entries
            .lock()
            .get(key)
            .map(|entry| Arc::clone(&entry.shared));
        shared.is_some_and(|shared| shared.state.lock().record(outcome, Instant::now()))
    }

    /// Keys of all that are probed.
    #[cfg(test)]
    pub fn keys(&self) -> Vec<K> {
        self.entries.lock().keys().cloned().collect()
    }

    /// What is known now. [`DatabaseView::NotProbed`] for a key that was not ensured.
    pub fn latest(&self, key: &K) -> Latest {
        let shared = self
            .entries
            .lock()
            .get(key)
            .map(|entry| Arc::clone(&entry.shared));
        shared.map_or(
            Latest {
                view: DatabaseView::NotProbed,
                last_good: None,
            },
            |shared| shared.state.lock().latest(Instant::now()),
        )
    }
}

// === impl Shared ===

impl Shared {
    fn new(subject: Subject, read_options: ReadOptions, readable: bool) -> Self {
        Self {
            state: Mutex::new(State::new(subject, read_options, readable)),
            poke: Notify::new(),
        }
    }
}

// === The task ===

/// Reads for ever. Should a turn fail in the operator itself, what was known counts as never read:
/// nothing must go on resting on a picture that no one renews.
async fn run(mut prober: Prober, shared: Arc<Shared>, observer: ProbeObserver, wake: impl Fn()) {
    let mut failures = 0;
    loop {
        let turn = turn(&mut prober, &shared, &observer, &wake, &mut failures);
        // The panic itself has been printed by the time it arrives here.
        if AssertUnwindSafe(turn).catch_unwind().await.is_err() {
            shared.state.lock().forget();
            sleep(RETRY_CAP).await;
        }
    }
}

/// One reading, and the pause until the next.
async fn turn(
    prober: &mut Prober,
    shared: &Shared,
    observer: &ProbeObserver,
    wake: &impl Fn(),
    failures: &mut u32,
) {
    let mut begun = prober.begin(shared);
    // Boxed, so that a waiting task holds no room for a login in progress.
    let outcome = AssertUnwindSafe(Box::pin(prober.probe(shared, &mut begun)))
        .catch_unwind()
        .await;
    let (outcome, read) = outcome.unwrap_or_else(|_| {
        prober.session = None;
        let failure = prober.failure(
            FailureReason::Other,
            "reading the answer failed inside the operator; please report this",
        );
        (Err(failure), Instant::now())
    });
    observer(
        outcome.as_ref().err().map(|f| f.reason),
        read.saturating_duration_since(begun.at),
    );
    *failures = if outcome.is_ok() { 0 } else { *failures + 1 };

    let interval = shared.state.lock().read_options.every;
    let pause = pause(outcome.as_ref(), *failures, interval, rand::random());
    if shared.state.lock().record_of(begun.at, outcome, read) {
        wake();
    }
    let let_go = shared.state.lock().let_go.clone();
    // Boxed likewise.
    let reached = Box::pin(prober.ask_hooks(&let_go, shared)).await;
    if shared.state.lock().note_asked(&let_go, reached) {
        wake();
    }
    sleep_until(read + LEAST_PAUSE).await;
    tokio::select! {
        () = sleep_until(read + pause) => {}
        () = shared.poke.notified() => {}
    }
}

/// Time from a reading to the next. `random` is in 0..1 and spreads clusters that started together.
fn pause(
    outcome: Result<&DatabaseFacts, &ProbeFailure>,
    failures: u32,
    interval: Duration,
    random: f64,
) -> Duration {
    match outcome {
        Ok(facts) => {
            let crossing = facts
                .heartbeats
                .rows()
                .iter()
                .filter_map(|h| Freshness::lasts(h.age))
                .min();
            let crossing = crossing.map_or(Duration::MAX, |c| c.saturating_add(CROSSING_MARGIN));
            interval
                .mul_f64(1.0 + SPREAD * (2.0 * random - 1.0))
                .min(crossing)
        }
        Err(failure) => {
            let cap = match (failure.class, failure.reason) {
                (FailureClass::Definite, FailureReason::AuthenticationFailed) => REFUSED_RETRY_CAP,
                _ => RETRY_CAP,
            };
            let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(6));
            doubled.min(cap.max(interval)).mul_f64(0.8 + 0.2 * random)
        }
    }
}

// === impl Openings ===

impl Default for Openings {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONCURRENT_OPENINGS)))
    }
}

impl Openings {
    /// Does the work when there is a place, and gives the place up before the work is done if that
    /// takes long.
    async fn take_turn<T>(&self, work: impl Future<Output = T>) -> T {
        // The semaphore is never closed.
        let place = self.0.acquire().await;
        let mut work = pin!(work);
        if let Ok(done) = timeout(OPENING_PERMIT, &mut work).await {
            return done;
        }
        drop(place);
        work.await
    }
}

// === impl OpenSession ===

impl OpenSession {
    /// See [`Seen::is_outdated`].
    fn is_outdated(&self) -> bool {
        self.seen.is_outdated(&self.facts)
    }
}

// === impl Prober ===

impl Prober {
    /// Begins a reading that answers what was asked for so far: else each new cluster would be read
    /// twice, since its pace is set before its task runs, or while that waits for a place.
    fn begin(&mut self, shared: &Shared) -> Begun {
        // First of all: a request from here on stays for the next reading, and this one must not
        // count as begun before those it answers. Whoever asks changes the state before, and the
        // state is read after this.
        let _ = shared.poke.notified().now_or_never();
        let at = Instant::now();
        let (read_options, is_forgotten) = shared.state.lock().next_reading();
        if is_forgotten {
            // While the cluster was stopped a pooler may have come before its server.
            self.pooler = None;
        }
        Begun { at, read_options }
    }

    /// Reads, and returns when that was: what a trial of Bytebase's own login takes comes after it.
    async fn probe(
        &mut self,
        shared: &Shared,
        begun: &mut Begun,
    ) -> (Result<DatabaseFacts, ProbeFailure>, Instant) {
        let mut outcome = self.read_facts(shared, begun).await;
        let read = Instant::now();
        let read_options = begun.read_options;
        if read_options.try_login && outcome.is_ok() {
            self.try_login().await;
        }
        if let Ok(facts) = &mut outcome {
            facts.login = self.trial.as_ref().map(|(trial, _)| trial.clone());
            if !self.access.login.shares_the_place() {
                facts.transaction_pooler = match &self.trial {
                    Some((LoginTrial::Accepted, _)) => self.trial_pooler,
                    // What stands before the monitoring login says nothing of Bytebase's.
                    Some((LoginTrial::Failed(_), _)) | None => Some(false),
                };
            }
        }
        if !read_options.keep_session
            && let Some(session) = self.session.take()
        {
            connect::close(session.connection).await;
        }
        // By then another pooler may stand where that login leads.
        let was_accepted = matches!(self.trial, Some((LoginTrial::Accepted, _)));
        if !read_options.keep_session && was_accepted {
            (self.trial, self.trial_pooler) = (None, None);
        }
        (outcome, read)
    }

    /// Asks the drain hooks of these pods, and no others, to let their replicas end. Returns which
    /// were there to be asked. A session that breaks off in this is opened again for the next
    /// reading.
    async fn ask_hooks(&mut self, pods: &BTreeSet<String>, shared: &Shared) -> BTreeSet<String> {
        let Some(session) = &mut self.session else {
            return BTreeSet::new();
        };
        // Another's session of the server may get what is sent through a transaction-mode pooler.
        let may_ask = !pods.is_empty() && session.facts.transaction_pooler != Some(true);
        if !may_ask && !session.asks {
            return BTreeSet::new();
        }
        let asked = pods.iter().filter(|_| may_ask);
        let sessions: Vec<_> = asked.map(|pod| hook::sessions_of(pod)).collect();
        match queries::let_go(&mut session.connection, &sessions).await {
            Ok(asked) => {
                session.asks = may_ask;
                let was_asked = |pod: &&String| asked.contains(&hook::sessions_of(pod));
                pods.iter().filter(was_asked).cloned().collect()
            }
            // The server understood it and said no: the session is as good as before.
            Err(queries::Failed::Sql(sqlx::Error::Database(_))) => {
                let state = shared.state.lock();
                tracing::debug!(
                    cluster = state.subject.cluster,
                    database = state.subject.database,
                    "the server takes no advisory lock, so no drain hook is asked"
                );
                BTreeSet::new()
            }
            Err(_) => {
                self.session = None;
                BTreeSet::new()
            }
        }
    }

    /// Logs in as Bytebase does, where a monitoring login reads, unless what came of it last still
    /// counts.
    async fn try_login(&mut self) {
        let Some(access) = &self.access.trial else {
            return;
        };
        let shares_the_place = self.access.login.shares_the_place();
        let lasts = match &self.trial {
            None => None,
            Some((LoginTrial::Accepted, at))
                if !shares_the_place && self.trial_pooler != Some(false) =>
            {
                Some((TRIAL_RETRY, at))
            }
            Some((LoginTrial::Accepted, _)) => return,
            Some((LoginTrial::Failed(failure), at)) => {
                let refused = failure.class == FailureClass::Definite;
                Some((
                    if refused {
                        REFUSED_RETRY_CAP
                    } else {
                        TRIAL_RETRY
                    },
                    at,
                ))
            }
        };
        if lasts.is_some_and(|(lasts, at)| at.elapsed() < lasts) {
            return;
        }
        let openings = self.openings.clone();
        let trial = match openings
            .take_turn(connect::dial(access, &self.lookups))
            .await
        {
            Ok(mut dialled) => {
                if !shares_the_place {
                    let finds = pooler::find(&mut dialled, access, &self.lookups);
                    let found = timeout(TRIAL_POOLER, openings.take_turn(finds)).await;
                    // What was found before stands where it could not be found out.
                    self.trial_pooler = found.unwrap_or(None).or(self.trial_pooler);
                }
                connect::close(dialled.connection).await;
                LoginTrial::Accepted
            }
            Err(failure) => LoginTrial::Failed(failure),
        };
        self.trial = Some((trial, Instant::now()));
    }

    async fn read_facts(
        &mut self,
        shared: &Shared,
        begun: &mut Begun,
    ) -> Result<DatabaseFacts, ProbeFailure> {
        let read_options = begun.read_options;
        let lifetime = match read_options.renewal {
            Renewal::Usual => CONNECTION_LIFETIME,
            Renewal::Soon => UNHEARD_CONNECTION_LIFETIME,
            Renewal::AtNextReading => REFUSED_CONNECTION_LIFETIME,
        };
        if let Some(session) = self.session.take() {
            if session.opened.elapsed() < lifetime {
                match self.read(session, read_options).await {
                    // A connection that broke while it lay idle says little: the server may be back
                    // already.
                    Err(failure) if broken(&failure) => {}
                    outcome => match self.session.take_if(|session| session.is_outdated()) {
                        // What a replica that starts now would find is what counts. The new session
                        // is not asked again: a pooler may hand out an old one, to replicas too.
                        Some(outdated) => connect::close(outdated.connection).await,
                        None => return outcome,
                    },
                }
            } else if read_options.renewal == Renewal::AtNextReading
                && session.facts.transaction_pooler != Some(false)
            {
                // Whether a pooler stands before the server is seen with a second session beside
                // the new one. A third may not have room.
                connect::close(session.connection).await;
            } else {
                // Once an hour as a rule: what it needs is not kept for all that time.
                let session = Box::pin(self.renew(session, shared, begun)).await?;
                return self.read(session, begun.read_options).await;
            }
        }
        let session = self.open_in_turn(shared, begun).await?;
        self.read(session, begun.read_options).await
    }

    /// A new session in place of this one. A server that is full gives no second one, and might not
    /// give this one again, without which nothing could be read: it stays for as long once more.
    async fn renew(
        &mut self,
        session: OpenSession,
        shared: &Shared,
        begun: &mut Begun,
    ) -> Result<OpenSession, ProbeFailure> {
        match self.open_in_turn(shared, begun).await {
            Err(failure) if failure.reason == FailureReason::TooManyConnections => {
                Ok(OpenSession {
                    opened: Instant::now(),
                    ..session
                })
            }
            renewed => {
                connect::close(session.connection).await;
                renewed
            }
        }
    }

    /// Reads, and keeps the session only if that worked.
    async fn read(
        &mut self,
        mut session: OpenSession,
        read_options: ReadOptions,
    ) -> Result<DatabaseFacts, ProbeFailure> {
        let place = Place::new(
            &self.access.url,
            &self.access.url.hosts[session.host],
            &self.access.login,
        );
        let facts = queries::read(
            &mut session.connection,
            &mut session.seen,
            read_options,
            &session.facts,
            &place,
            &self.access.login,
        )
        .await;
        if facts.is_err() {
            self.abandoned.outdate();
        }
        let mut facts = facts?;
        let read = Instant::now();
        let goes_on = self
            .add_abandoned(&mut session, read_options, &mut facts)
            .await;
        // Meanwhile time has passed.
        carry_forward(&mut facts, read.elapsed());
        self.session = goes_on.then_some(session);
        Ok(facts)
    }

    /// Adds what Bytebase has failed as abandoned to what runs, in a reading with the sessions:
    /// steps of a rollout rest on these. Where that may have become more and cannot be read, it is
    /// not known what runs. False where the session is of no more use: the rest of the reading
    /// stands.
    async fn add_abandoned(
        &mut self,
        session: &mut OpenSession,
        read_options: ReadOptions,
        facts: &mut DatabaseFacts,
    ) -> bool {
        let Fact::Known(running) = &mut facts.running_tasks else {
            self.abandoned.outdate();
            return true;
        };
        let heartbeats = facts.heartbeats.rows();
        self.abandoned.note(&facts.identity, running, heartbeats);
        if !read_options.sessions || !session.seen.shows_abandoned() {
            return true;
        }
        let mut goes_on = true;
        if self.abandoned.is_to_be_asked(Instant::now()) {
            let place = Place::new(
                &self.access.url,
                &self.access.url.hosts[session.host],
                &self.access.login,
            );
            let connection = &mut session.connection;
            let answer = queries::abandoned(connection, &place, &self.access.login).await;
            goes_on = answer.is_ok();
            self.abandoned
                .take(answer.unwrap_or_default(), Instant::now());
        }
        match self.abandoned.tasks() {
            Some(tasks) => abandoned::add(running, tasks),
            None => facts.running_tasks = Fact::Unknown,
        }
        goes_on
    }

    /// Opens a session when there is a place, and lets the reading begin only then: a thousand
    /// clusters may wait for theirs, and what is asked for meanwhile needs no reading of its own.
    async fn open_in_turn(
        &mut self,
        shared: &Shared,
        begun: &mut Begun,
    ) -> Result<OpenSession, ProbeFailure> {
        let openings = self.openings.clone();
        // Boxed, so that only one that logs in holds the room for it.
        let work = Box::pin(async {
            *begun = self.begin(shared);
            self.open().await
        });
        openings.take_turn(work).await
    }

    async fn open(&mut self) -> Result<OpenSession, ProbeFailure> {
        let mut dialled = connect::dial(&self.access, &self.lookups).await?;
        let (access, lookups) = (&self.access, &self.lookups);
        let mut facts = pooler::read(&mut dialled, access, lookups, &mut self.pooler).await?;
        facts.server_since = self.server_since(&facts);
        let Dialled {
            connection, host, ..
        } = dialled;
        Ok(OpenSession {
            connection,
            host,
            facts,
            seen: Seen::default(),
            opened: Instant::now(),
            asks: false,
        })
    }

    /// Since when the server of a new session has run, by that session or an earlier one.
    fn server_since(&mut self, facts: &SessionFacts) -> Instant {
        let before = self.server.take();
        let before = before.filter(|(identity, _)| *identity == facts.identity);
        let since = before.map_or(facts.server_since, |(_, since)| {
            since.min(facts.server_since)
        });
        self.server = Some((facts.identity.clone(), since));
        since
    }

    fn failure(&self, reason: FailureReason, text: &str) -> ProbeFailure {
        match self.access.url.hosts.first() {
            Some(host) => Place::new(&self.access.url, host, &self.access.login).failure(
                FailureClass::Unknown,
                reason,
                text,
            ),
            None => ProbeFailure {
                class: FailureClass::Unknown,
                reason,
                message: text.to_owned(),
            },
        }
    }
}

/// A failure of the connection rather than of the reading.
fn broken(failure: &ProbeFailure) -> bool {
    matches!(
        failure.reason,
        FailureReason::Unreachable | FailureReason::ServerNotReady
    )
}

#[cfg(test)]
mod tests {
    use super::super::connect::tests::{access, url};
    use super::super::digest::tests::facts;
    use super::super::known::tests::{failure, seconds, subject};
    use super::*;
    use crate::contract::pg_url::Iam;
    use tokio::sync::mpsc::unbounded_channel;

    #[test]
    fn a_quiet_cluster_is_read_every_interval() {
        let live = facts(&[1, 9]);
        assert_eq!(pause(Ok(&live), 0, seconds(10), 0.5), seconds(10));
        assert_eq!(pause(Ok(&live), 0, seconds(10), 0.0), seconds(9));
        assert_eq!(pause(Ok(&live), 0, seconds(1), 0.5), seconds(1));
    }

    #[test]
    fn a_dying_replica_is_read_when_its_window_ends() {
        for (age, expected) in [(28, 2), (30, 0), (55, 5), (61, 10), (4000, 10)] {
            let margin = if expected == 10 {
                Duration::ZERO
            } else {
                CROSSING_MARGIN
            };
            assert_eq!(
                pause(Ok(&facts(&[3, age])), 0, seconds(10), 0.5),
                seconds(expected) + margin,
                "{age}"
            );
        }
    }

    #[test]
    fn failures_are_retried_ever_more_slowly() {
        let lost = failure(FailureClass::Unknown, FailureReason::Unreachable);
        let pauses = [1, 2, 3, 4, 5, 40].map(|n| pause(Err(&lost), n, seconds(10), 1.0).as_secs());
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        // Where little is read, little is tried.
        let pauses = [1, 5, 40].map(|n| pause(Err(&lost), n, seconds(60), 1.0).as_secs());
        assert_eq!(pauses, [1, 16, 60]);
        let refused = failure(FailureClass::Definite, FailureReason::AuthenticationFailed);
        assert_eq!(pause(Err(&refused), 40, seconds(10), 1.0), seconds(60));
    }

    /// One that reaches no server.
    fn prober() -> Prober {
        Prober {
            access: access(url("127.0.0.1", 1)),
            openings: Openings::default(),
            lookups: Lookups::default(),
            session: None,
            server: None,
            pooler: None,
            trial: None,
            trial_pooler: None,
            abandoned: Abandoned::default(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_whose_clock_was_set_back_has_run_since_it_was_first_found() {
        let mut prober = prober();
        let first = Instant::now();
        let mut since = |after, server_start| {
            let facts = SessionFacts {
                identity: DatabaseIdentity::new("id", server_start),
                server_since: first + seconds(after),
                transaction_pooler: Some(false),
                has_version_1_certificate: false,
                settings: None,
            };
            prober.server_since(&facts) - first
        };
        // Each session is opened when the server says that it started.
        for opened in [0, 8, 16, 50] {
            assert_eq!(since(opened, "ahead"), Duration::ZERO, "{opened}");
        }
        assert_eq!(since(60, "restarted"), seconds(60));
        assert_eq!(since(68, "restarted"), seconds(60));
        // By a clock that was set right again it has run for longer.
        assert_eq!(since(20, "restarted"), seconds(20));
        assert_eq!(since(90, "ahead"), seconds(90), "another in between");
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_that_fails_in_the_operator_itself_leaves_no_frozen_picture_and_others_follow() {
        let shared = Arc::new(Shared::new(subject(), FIRST_READ_OPTIONS, true));
        let known = shared.state.lock().record(Ok(facts(&[5])), Instant::now());
        assert!(known);
        let prober = prober();
        let (panicked, mut after_panic) = unbounded_channel();
        let first = Mutex::new(Some(panicked));
        let observer: ProbeObserver = Arc::new(move |_, _| {
            if let Some(panicked) = first.lock().take() {
                drop(panicked);
                panic!("planted");
            }
        });
        let (wake, mut woken) = unbounded_channel();
        tokio::spawn(run(prober, Arc::clone(&shared), observer, move || {
            let _ = wake.send(());
        }));
        assert_eq!(after_panic.recv().await, None::<()>);
        let view = || shared.state.lock().latest(Instant::now()).view;
        sleep(seconds(1)).await;
        assert!(matches!(view(), DatabaseView::NotProbed));
        let next = timeout(seconds(60), woken.recv()).await;
        assert_eq!(next, Ok(Some(())));
        assert!(matches!(view(), DatabaseView::Probed(Err(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_while_a_login_waits_for_its_place_is_answered_by_one_reading() {
        let (wake, _woken) = unbounded_channel();
        let (read, mut readings) = unbounded_channel();
        let observer: ProbeObserver = Arc::new(move |_, took| {
            let _ = read.send(took);
        });
        let probes = Probes::new(wake, ToString::to_string, observer);
        probes.hold();
        probes.ensure(&"a", access(url("127.0.0.1", 1)));
        // Its task waits for a place by then.
        sleep(seconds(60)).await;
        let often = ReadOptions {
            every: seconds(1),
            ..FIRST_READ_OPTIONS
        };
        probes.pace(&"a", often);
        probes.admit();
        let took = readings.recv().await.unwrap();
        assert!(took < seconds(60), "{took:?}");
        assert!(!probes.is_poked(&"a"), "it would be read twice");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_begins_with_the_options_of_the_moment_when_its_login_has_a_place() {
        let (shared, mut prober) = (Shared::new(subject(), FIRST_READ_OPTIONS, true), prober());
        let places = prober.openings.clone();
        places.0.forget_permits(CONCURRENT_OPENINGS);
        let mut begun = prober.begin(&shared);
        let reading = Box::pin(prober.probe(&shared, &mut begun));
        let asked_meanwhile = async {
            sleep(seconds(60)).await;
            shared.state.lock().read_options.every = seconds(1);
            places.0.add_permits(CONCURRENT_OPENINGS);
            Instant::now()
        };
        let (_, asked_at) = tokio::join!(reading, asked_meanwhile);
        assert!(begun.at >= asked_at);
        assert_eq!(begun.read_options.every, seconds(1));
    }

    #[tokio::test]
    async fn a_hook_that_was_reached_once_stays_so_as_long_as_that_is_wanted() {
        let (wake, _woken) = unbounded_channel();
        let probes = Probes::new(wake, ToString::to_string, Arc::new(|_, _| panic!("probed")));
        let access = access(url("127.0.0.1", 1));
        // Its task does not run before this test waits for something, which it does not.
        probes.ensure(&"a", access);
        assert_eq!(probes.asked(&"b"), None, "no session asks");
        let of =
            |pods: &[&str]| -> BTreeSet<String> { pods.iter().map(ToString::to_string).collect() };
        let wants = |pods: &[&str]| probes.let_go(&"a", &of(pods));
        let tried = |pods: &[&str], reached: &[&str]| {
            let shared = Arc::clone(&probes.entries.lock()[&"a"].shared);
            let news = shared.state.lock().note_asked(&of(pods), of(reached));
            let asked = probes.asked(&"a").unwrap();
            (news, asked.reached, asked.missed)
        };
        assert_eq!(tried(&[], &[]), (false, of(&[]), of(&[])));
        wants(&["one", "two"]);
        assert_eq!(probes.asked(&"a"), Some(Asked::default()), "not tried yet");
        let first = tried(&["one", "two"], &["one"]);
        assert_eq!(first, (true, of(&["one"]), of(&["two"])));
        let lost = tried(&["one", "two"], &[]);
        assert_eq!(lost, (false, of(&["one"]), of(&["two"])));
        let found = tried(&["one", "two"], &["two"]);
        assert_eq!(found, (true, of(&["one", "two"]), of(&[])));
        // What is no longer wanted begins again, also where a try for it has just ended.
        wants(&["two"]);
        assert_eq!(tried(&["one", "two"], &["one"]).1, of(&["two"]));
        wants(&[]);
        assert_eq!(tried(&[], &[]), (false, of(&[]), of(&[])));
        wants(&["one"]);
        assert_eq!(tried(&["one"], &[]), (true, of(&[]), of(&["one"])));
    }

    #[tokio::test]
    async fn a_cloud_login_is_never_tried() {
        let (wake, _woken) = unbounded_channel();
        let probes = Probes::new(wake, ToString::to_string, Arc::new(|_, _| panic!("probed")));
        let mut url = url("127.0.0.1", 1);
        url.iam = Some(Iam::AwsRds {
            region: "eu-west-1".to_owned(),
        });
        let access = access(url);
        let mut other = access.clone();
        other.url.iam = None;
        probes.ensure(&"a", access);
        // Its task does not run before this test waits for something, which it does not.
        probes.ensure(&"c", other);
        assert!(probes.awaits_first(&"c"));
        assert!(matches!(probes.latest(&"a").view, DatabaseView::CannotRead));
        assert!(matches!(probes.latest(&"b").view, DatabaseView::NotProbed));
        assert!(!probes.awaits_first(&"a") && !probes.awaits_first(&"b"));
    }
}
