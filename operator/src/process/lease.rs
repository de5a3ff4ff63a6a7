//! Leader election over a `coordination.k8s.io/v1` Lease: the well-known algorithm of Kubernetes'
//! own clients.
//!
//! A process that finds the Lease free, or unchanged for as long as it is good for, writes its name
//! into it; the `resourceVersion` lets only one of several win. Clocks of different machines are
//! never compared: a record is expired when *we* have seen it unchanged for its duration, by our
//! own monotonic clock.
//!
//! The numbers: a leader renews every 2 s and stops being one 10 s after the start of its last
//! successful renewal; no other takes over before 15 s. The 5 s between are for writes in
//! flight.
//!
//! The version of the Lease also shows that the API server's store was set back, as by a backup of
//! etcd that is restored. Watches that were begun before show nothing then until the counter of
//! the store has caught up, so leader and standby alike must start with other caches.
//!
//! **On loss the process must exit.** A write that has left cannot be called back, and tasks that
//! hold on to what they read as leader would write it later; only the end of the process ends them
//! all.

use crate::kubernetes::error_text::plain;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams, WatchEvent, WatchParams};
use kube::{Api, Client, Config};
use parking_lot::Mutex;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long others leave an unchanged record alone.
pub const LEASE_DURATION: Duration = Duration::from_secs(15);

/// How long a leader leads on without a successful renewal.
pub const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// Between two renewals of a leader.
pub const RENEW_PERIOD: Duration = Duration::from_secs(2);

/// Between two readings of a standby, which mostly learns sooner that the Lease was given up: it
/// watches it. Below a second, for where it may not.
pub const STANDBY_PERIOD: Duration = Duration::from_millis(900);

/// Between two attempts of a leader whose renewal failed.
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// How long one attempt to take or renew the Lease may last. Under a third of the deadline: when an
/// answer is lost there is time for the conflict that follows, for finding out that it was our own
/// write, and for writing again.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long the client waits for a connection, or for what is next on one: a request may linger
/// there after its attempt was given up.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// The API server ends each watch of a standby after so long.
const WATCH_SECONDS: u32 = 60;

/// Part of each period that is random.
const JITTER: f64 = 0.2;

/// Leadership is lost, or was never there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this process does not lead (any more)")]
pub struct NotLeading;

/// Why an election ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LostLease {
    /// Another process holds the Lease.
    #[error("the lease is held by {0:?}")]
    TakenBy(String),
    /// The Lease could not be renewed in time, or this process stood still for too long.
    #[error("the lease could not be renewed within {} s", RENEW_DEADLINE.as_secs())]
    Expired,
    /// The Lease is older than this process has seen it before.
    #[error(
        "its resourceVersion went back from {from} to {to}, as when etcd is restored from a backup, so what this process has cached is not what is stored"
    )]
    SetBack {
        /// The highest that this process has seen.
        from: u128,
        /// That of now.
        to: u128,
    },
}

/// Whether this process leads, right now. Cheap to clone and to ask; to be asked before every
/// write.
#[derive(Clone, Debug, Default)]
pub struct Leadership {
    until: Arc<Mutex<Option<Until>>>,
}

/// By both clocks: the monotonic one counts on while a process is stopped, but not on every machine
/// while the machine is.
#[derive(Clone, Copy, Debug)]
struct Until {
    monotonic: Instant,
    renewed: SystemTime,
}

/// The parts of a Lease that count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// `None` if no process holds it.
    pub holder: Option<String>,
    /// How long the holder wants to be left alone.
    pub duration: Duration,
    /// Changes with every write.
    pub version: String,
}

/// What one process knows of the Lease.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Election {
    /// The record last seen, and since when it has been unchanged.
    seen: Option<(Record, Instant)>,
    /// Start of the last renewal that succeeded, while leading.
    renewed: Option<Instant>,
    /// The highest version seen, where they are numbers, as those of etcd are.
    highest: Option<u128>,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create the Lease in our name.
    Create,
    /// Write our name over the one in it.
    Take,
    /// Renew our own.
    Renew,
    /// Another holds it: read it again later.
    Wait,
    /// Leadership is over.
    Lost(LostLease),
}

/// Shows a standby that the Lease was given up, sooner than its next reading would.
#[derive(Default)]
enum LeaseWatch {
    /// There is none now; one is begun at the next reading.
    #[default]
    Closed,
    /// What the API server sends.
    Open(BoxStream<'static, kube::Result<WatchEvent<Lease>>>),
    /// The API server refuses it.
    Refused,
}

/// A contender for one Lease.
pub struct Contender {
    api: Api<Lease>,
    name: String,
    identity: String,
    election: Election,
    /// The whole object, so that labels and annotations of others survive our writes.
    object: Option<Lease>,
    leadership: Leadership,
}

// === The algorithm ===

impl Election {
    /// Notes what was read at `now`; `None` if there is no Lease.
    pub fn observe(&mut self, record: Option<Record>, now: Instant) {
        self.note_version(record.as_ref());
        match record {
            None => self.seen = None,
            Some(record) if self.seen.as_ref().is_some_and(|(seen, _)| *seen == record) => {}
            Some(record) => self.seen = Some((record, now)),
        }
    }

    /// Notes that a write begun at `started` succeeded.
    pub fn renewed(&mut self, record: Record, started: Instant) {
        self.note_version(Some(&record));
        self.seen = Some((record, started));
        self.renewed = Some(started);
    }

    fn note_version(&mut self, record: Option<&Record>) {
        let version = record.and_then(|record| record.version.parse().ok());
        self.highest = self.highest.max(version);
    }

    /// That the store was set back, if the record seen last shows it.
    fn set_back(&self) -> Option<LostLease> {
        let (record, _) = self.seen.as_ref()?;
        let (from, to) = (self.highest?, record.version.parse().ok()?);
        (to < from).then_some(LostLease::SetBack { from, to })
    }

    /// What to do at `now`.
    pub fn next(&self, identity: &str, now: Instant) -> Action {
        if let Some(set_back) = self.set_back() {
            return Action::Lost(set_back);
        }
        if let Some(renewed) = self.renewed {
            // Before all else: a process that stood still must find out before it writes.
            if now.saturating_duration_since(renewed) >= RENEW_DEADLINE {
                return Action::Lost(LostLease::Expired);
            }
        }
        let Some((record, since)) = &self.seen else {
            return Action::Create;
        };
        match &record.holder {
            Some(holder) if holder == identity => Action::Renew,
            // Another process took over or cleared the record behind a leader's back.
            other if self.renewed.is_some() => {
                Action::Lost(LostLease::TakenBy(other.clone().unwrap_or_default()))
            }
            None => Action::Take,
            // The longer of the two: the holder may run with other settings, and ours must hold for
            // us.
            Some(_)
                if now.saturating_duration_since(*since) >= record.duration.max(LEASE_DURATION) =>
            {
                Action::Take
            }
            Some(_) => Action::Wait,
        }
    }
}

// === impl Leadership ===

impl Leadership {
    /// Leadership that has just been renewed.
    #[cfg(test)]
    pub fn renewed() -> Self {
        let leadership = Self::default();
        leadership.renew();
        leadership
    }

    /// Renews it.
    #[cfg(test)]
    pub fn renew(&self) {
        self.extend(Instant::now(), SystemTime::now());
    }

    /// Whether a write may begin now.
    pub fn is_valid(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Fails if a write may not begin now.
    pub fn check(&self) -> Result<(), NotLeading> {
        if self.is_valid() {
            Ok(())
        } else {
            Err(NotLeading)
        }
    }

    /// How long writes may still begin. One that has begun should end within `LEASE_DURATION -
    /// RENEW_DEADLINE` beyond that.
    pub fn remaining(&self) -> Duration {
        let until = *self.until.lock();
        let Some(until) = until else {
            return Duration::ZERO;
        };
        // A wall clock set back says nothing; one far ahead means that the machine slept, until
        // the next renewal shows otherwise.
        let by_wall = until
            .renewed
            .elapsed()
            .map_or(RENEW_DEADLINE, |e| RENEW_DEADLINE.saturating_sub(e));
        until
            .monotonic
            .saturating_duration_since(Instant::now())
            .min(by_wall)
    }

    fn extend(&self, started: Instant, renewed: SystemTime) {
        self.set(Some(Until {
            monotonic: started + RENEW_DEADLINE,
            renewed,
        }));
    }

    fn set(&self, until: Option<Until>) {
        *self.until.lock() = until;
    }
}

// === impl Contender ===

/// A client for the Lease alone: quick to give up, and without retries of its own, which would
/// renew with what was true before.
pub fn client(mut config: Config) -> Result<Client, Box<kube::Error>> {
    config.connect_timeout = Some(REQUEST_TIMEOUT);
    config.read_timeout = Some(REQUEST_TIMEOUT);
    config.write_timeout = Some(REQUEST_TIMEOUT);
    config.default_retry = false;
    Client::try_from(config).map_err(Box::new)
}

impl Contender {
    /// A contender under `identity`, which must be of this process alone: a restarted one must not
    /// take itself for its predecessor.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity,
            election: Election::default(),
            object: None,
            leadership: Leadership::default(),
        }
    }

    /// The guard to ask before every write. Valid only between [`Contender::acquire`] and the loss.
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Waits until this process leads. An error if it never can, so that it must exit. May be
    /// cancelled.
    pub async fn acquire(&mut self) -> Result<(), LostLease> {
        let mut watch = LeaseWatch::default();
        loop {
            if let Err(error) = self.read().await {
                tracing::warn!("cannot read the lease: {}", plain(&error));
            } else {
                let action = self.election.next(&self.identity, Instant::now());
                if let Action::Lost(lost) = action {
                    return Err(lost);
                }
                match self.act(&action).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => {}
                    Err(error) => tracing::warn!("cannot take the lease: {}", plain(&error)),
                }
            }
            // Whatever becomes of the watch, the next reading is not far.
            let pause = sleep(jittered(STANDBY_PERIOD, false));
            tokio::select! {
                () = pause => {}
                () = watch.given_up(&self.api, &self.name) => {}
            }
        }
    }

    /// Renews for as long as it can. Returns why it could not, at the latest when the deadline
    /// passes; the process must then exit.
    pub async fn keep(&mut self) -> LostLease {
        let lost = loop {
            let deadline = self
                .election
                .renewed
                .map_or_else(Instant::now, |at| at + RENEW_DEADLINE);
            match timeout_at(deadline, self.renew()).await {
                Ok(None) => {}
                Ok(Some(lost)) => break lost,
                Err(_) => break LostLease::Expired,
            }
        };
        self.leadership.set(None);
        lost
    }

    /// One renewal, with as many attempts as it takes.
    async fn renew(&mut self) -> Option<LostLease> {
        sleep(jittered(RENEW_PERIOD, true)).await;
        loop {
            let action = self.election.next(&self.identity, Instant::now());
            if let Action::Lost(lost) = action {
                return Some(lost);
            }
            // A Lease that was deleted is created again: others may do so too, and the server lets
            // one of us win.
            let outcome = match self.act(&action).await {
                Ok(true) => return None,
                // There was a write in between; it may have been our own whose answer was lost.
                Ok(false) => self.read().await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                tracing::warn!("cannot renew the lease: {}", plain(&error));
            }
            sleep(jittered(RETRY_PERIOD, true)).await;
        }
    }

    /// Gives the Lease up, after everything that wrote has ended. A standby takes over at its next
    /// reading.
    pub async fn release(mut self) {
        self.leadership.set(None);
        if self.election.renewed.is_none() {
            return;
        }
        if self.object.is_none() {
            return;
        }
        // On failure the Lease simply runs out.
        if let Err(error) = self.give_up().await {
            tracing::warn!("cannot release the lease: {}", plain(&error));
        }
    }

    async fn give_up(&mut self) -> Result<(), String> {
        // The last renewal may have been written although its answer was not waited for.
        for _ in 0..2 {
            let Some(mut object) = self.object.take() else {
                return Ok(());
            };
            let spec = object.spec.get_or_insert_default();
            if spec.holder_identity.as_deref() != Some(&self.identity) {
                return Ok(());
            }
            spec.holder_identity = Some(String::new());
            spec.lease_duration_seconds = Some(1);
            spec.renew_time = Some(MicroTime(jiff::Timestamp::now()));
            if self.write(&object, false).await?.is_some() {
                return Ok(());
            }
            self.read().await?;
        }
        Ok(())
    }

    async fn read(&mut self) -> Result<(), String> {
        let object = within(self.api.get_opt(&self.name)).await?;
        self.election
            .observe(object.as_ref().map(record), Instant::now());
        self.object = object;
        Ok(())
    }

    /// Whether this process holds the Lease by this action. `false` if there was nothing to do, or
    /// another process was faster.
    async fn act(&mut self, action: &Action) -> Result<bool, String> {
        let create = match action {
            Action::Create => true,
            Action::Take | Action::Renew => false,
            Action::Wait | Action::Lost(_) => return Ok(false),
        };
        let mut object = self.object.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                ..ObjectMeta::default()
            },
            spec: None,
        });
        if create {
            object.metadata.resource_version = None;
        }
        let now = MicroTime(jiff::Timestamp::now());
        let spec: &mut LeaseSpec = object.spec.get_or_insert_default();
        if *action != Action::Renew {
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions =
                Some(spec.lease_transitions.map_or(0, |n| n.saturating_add(1)));
        }
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
        spec.renew_time = Some(now);

        // Taken before the request: the server may apply it at any time after.
        let (started, wall) = (Instant::now(), SystemTime::now());
        let Some(written) = self.write(&object, create).await? else {
            return Ok(false);
        };
        self.election.renewed(record(&written), started);
        self.object = Some(written);
        // One that was created again in a store that was set back; the next action says so.
        if self.election.set_back().is_some() {
            return Ok(false);
        }
        self.leadership.extend(started, wall);
        Ok(true)
    }

    /// `None` if another process wrote first.
    async fn write(&self, object: &Lease, create: bool) -> Result<Option<Lease>, String> {
        let parameters = PostParams::default();
        let request = async {
            let outcome = if create {
                self.api.create(&parameters, object).await
            } else {
                self.api.replace(&self.name, &parameters, object).await
            };
            match outcome {
                // A deleted Lease is a conflict too: read again.
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(None),
                outcome => outcome.map(Some),
            }
        };
        within(request).await
    }
}

impl LeaseWatch {
    /// Begins a watch, unless there is one, or none is to be had.
    async fn open(&mut self, api: &Api<Lease>, name: &str) {
        if !matches!(self, Self::Closed) {
            return;
        }
        let parameters = WatchParams::default()
            .fields(&format!("metadata.name={name}"))
            .timeout(WATCH_SECONDS);
        *self = match timeout(ATTEMPT_TIMEOUT, api.watch(&parameters, "0")).await {
            Ok(Ok(events)) => Self::Open(events.boxed()),
            Ok(Err(kube::Error::Api(status))) if status.code == 403 => Self::Refused,
            Ok(Err(_)) | Err(_) => Self::Closed,
        };
    }

    /// Ends when no process holds the Lease any more, as far as is known. May be cancelled.
    async fn given_up(&mut self, api: &Api<Lease>, name: &str) {
        self.open(api, name).await;
        if let Self::Open(events) = self {
            while let Some(Ok(event)) = events.next().await {
                let is_free = match event {
                    WatchEvent::Added(lease) | WatchEvent::Modified(lease) => {
                        record(&lease).holder.is_none()
                    }
                    WatchEvent::Deleted(_) => true,
                    WatchEvent::Bookmark(_) => false,
                    WatchEvent::Error(_) => break,
                };
                if is_free {
                    return;
                }
            }
            *self = Self::Closed;
        }
        std::future::pending::<()>().await;
    }
}

fn record(lease: &Lease) -> Record {
    let spec = lease.spec.as_ref();
    let seconds = spec.and_then(|s| s.lease_duration_seconds).unwrap_or(0);
    Record {
        holder: spec
            .and_then(|s| s.holder_identity.clone())
            .filter(|holder| !holder.is_empty()),
        duration: Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

async fn within<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match timeout(ATTEMPT_TIMEOUT, request).await {
        Ok(outcome) => outcome.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} s", ATTEMPT_TIMEOUT.as_secs())),
    }
}

/// Standbys only ever read earlier, so that their period is an upper bound.
fn jittered(period: Duration, both_ways: bool) -> Duration {
    let random: f64 = rand::random();
    let up = if both_ways { JITTER } else { 0.0 };
    period.mul_f64(1.0 - JITTER + (JITTER + up) * random)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::respond;
    use serde_json::{Value, json};

    /// A scripted API server that keeps one Lease.
    mod api {
        use super::*;
        use crate::testing::api_server;
        use std::collections::VecDeque;

        pub type Calls = Arc<Mutex<Vec<(String, Value)>>>;

        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum Fault {
            Hang,
            LoseAnswer,
        }

        #[derive(Default)]
        pub struct Server {
            pub lease: Option<Value>,
            pub version: u64,
            pub faults: VecDeque<Option<Fault>>,
            /// What is sent to the next watch, which then ends.
            pub watch: Option<(u16, Value)>,
            pub watches: usize,
        }

        fn status(code: u16, reason: &str) -> (u16, Value) {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code, "message": reason}),
            )
        }

        impl Server {
            pub fn put(&mut self, mut lease: Value) -> Value {
                self.version += 1;
                lease["metadata"]["resourceVersion"] = json!(self.version.to_string());
                self.lease = Some(lease.clone());
                lease
            }

            fn handle(&mut self, method: &str, body: Value) -> (u16, Value) {
                match (method, &self.lease) {
                    ("GET", Some(lease)) => (200, lease.clone()),
                    ("GET" | "PUT", None) => status(404, "NotFound"),
                    ("POST", Some(_)) => status(409, "AlreadyExists"),
                    ("PUT", Some(lease))
                        if lease["metadata"]["resourceVersion"]
                            != body["metadata"]["resourceVersion"] =>
                    {
                        status(409, "Conflict")
                    }
                    _ => (200, self.put(body)),
                }
            }
        }

        pub fn respond() -> (Client, Arc<Mutex<Server>>, Calls) {
            let server = Arc::new(Mutex::new(Server::default()));
            let calls = Calls::default();
            let (shared, log) = (Arc::clone(&server), Arc::clone(&calls));
            let client = api_server("operators", move |method, uri, body| {
                let mut server = shared.lock();
                if uri
                    .query()
                    .is_some_and(|query| query.contains("watch=true"))
                {
                    server.watches += 1;
                    return Some(server.watch.take().unwrap_or((200, Value::Null)));
                }
                log.lock().push((method.to_owned(), body.clone()));
                let fault = server.faults.pop_front().flatten();
                if fault == Some(Fault::Hang) {
                    return None;
                }
                let answer = server.handle(method, body);
                (fault != Some(Fault::LoseAnswer)).then_some(answer)
            });
            (client, server, calls)
        }
    }
    use api::{Fault, Server};

    fn contender(client: &Client, identity: &str) -> Contender {
        Contender::new(
            client.clone(),
            "operators",
            "bytebase-operator",
            identity.to_owned(),
        )
    }

    fn held_by(holder: &str) -> Value {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "bytebase-operator", "namespace": "operators", "labels": {"kept": "yes"}},
            "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "leaseTransitions": 4}
        })
    }

    fn holder(server: &Mutex<Server>) -> String {
        let server = server.lock();
        server.lease.as_ref().unwrap()["spec"]["holderIdentity"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn seen(holder: Option<&str>, version: &str) -> Record {
        Record {
            holder: holder.map(str::to_owned),
            duration: LEASE_DURATION,
            version: version.to_owned(),
        }
    }

    #[test]
    fn the_next_action_follows_from_record_and_clock() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let standby = |record: Option<Record>| {
            let mut election = Election::default();
            election.observe(record, start);
            election
        };
        let leader = |record: Option<Record>| Election {
            renewed: Some(start),
            ..standby(record)
        };
        let taken = || Action::Lost(LostLease::TakenBy("b".to_owned()));
        let table = [
            ("no lease", standby(None), 0, Action::Create),
            ("free", standby(Some(seen(None, "1"))), 0, Action::Take),
            (
                "held",
                standby(Some(seen(Some("b"), "1"))),
                14,
                Action::Wait,
            ),
            (
                "run out",
                standby(Some(seen(Some("b"), "1"))),
                15,
                Action::Take,
            ),
            (
                "ours, renewing",
                leader(Some(seen(Some("a"), "1"))),
                9,
                Action::Renew,
            ),
            (
                "ours, too late",
                leader(Some(seen(Some("a"), "1"))),
                10,
                Action::Lost(LostLease::Expired),
            ),
            (
                "taken from us",
                leader(Some(seen(Some("b"), "2"))),
                3,
                taken(),
            ),
            (
                "taken from us long ago",
                leader(Some(seen(Some("b"), "2"))),
                60,
                Action::Lost(LostLease::Expired),
            ),
            ("deleted under us", leader(None), 3, Action::Create),
            (
                "deleted, too late",
                leader(None),
                10,
                Action::Lost(LostLease::Expired),
            ),
        ];
        for (name, election, seconds, expected) in table {
            assert_eq!(election.next("a", at(seconds)), expected, "{name}");
        }
    }

    #[test]
    fn any_change_of_the_record_starts_its_time_again() {
        let start = Instant::now();
        let mut election = Election::default();
        election.observe(Some(seen(Some("b"), "1")), start);
        election.observe(Some(seen(Some("b"), "1")), start + Duration::from_secs(14));
        assert_eq!(
            election.next("a", start + Duration::from_secs(15)),
            Action::Take
        );
        election.observe(Some(seen(Some("b"), "2")), start + Duration::from_secs(14));
        assert_eq!(
            election.next("a", start + Duration::from_secs(28)),
            Action::Wait
        );
    }

    #[test]
    fn a_holder_with_a_longer_duration_is_left_alone_longer() {
        let start = Instant::now();
        let mut election = Election::default();
        let mut record = seen(Some("b"), "1");
        record.duration = Duration::from_mins(1);
        election.observe(Some(record), start);
        assert_eq!(
            election.next("a", start + Duration::from_secs(59)),
            Action::Wait
        );
    }

    #[test]
    fn a_version_that_goes_back_ends_leader_and_standby() {
        let start = Instant::now();
        let set_back = |versions: &[Option<&str>], renewed| {
            let mut election = Election {
                renewed,
                ..Election::default()
            };
            for version in versions {
                let record = version.map(|version| seen(Some("a"), version));
                election.observe(record, start);
            }
            matches!(
                election.next("a", start),
                Action::Lost(LostLease::SetBack { .. })
            )
        };
        for (versions, expected) in [
            (&[Some("9"), Some("10")][..], false),
            (&[Some("10"), Some("10")], false),
            (&[Some("10"), Some("9")], true),
            (&[Some("10"), None], false),
            (&[Some("10"), None, Some("11")], false),
            (&[Some("10"), None, Some("9")], true),
            // Not etcd's, so nothing follows.
            (&[Some("b"), Some("a")], false),
            (&[Some("10"), Some("")], false),
            (&[Some("18446744073709551616"), Some("7")], true),
        ] {
            for renewed in [None, Some(start)] {
                assert_eq!(set_back(versions, renewed), expected, "{versions:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_was_set_back_is_neither_led_on_nor_waited_for() {
        let (client, server, _) = respond();
        server.lock().version = 900;
        let mut leader = contender(&client, "a");
        leader.acquire().await.unwrap();
        let mut standby = contender(&client, "b");
        let waits = timeout(Duration::from_secs(3), standby.acquire());
        assert!(waits.await.is_err());
        server.lock().version = 100;
        server.lock().put(held_by("z"));
        let set_back = |lost: &LostLease| {
            matches!(
                lost,
                LostLease::SetBack {
                    from: 900..,
                    to: 101
                }
            )
        };
        let lost = standby.acquire().await.unwrap_err();
        assert!(set_back(&lost), "{lost}");
        let lost = leader.keep().await;
        assert!(set_back(&lost), "{lost}");
        assert_eq!(holder(&server), "z", "nothing was written");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_created_in_a_store_that_was_set_back_is_not_led_by() {
        let (client, server, _) = respond();
        server.lock().version = 900;
        let mut leader = contender(&client, "a");
        leader.acquire().await.unwrap();
        *server.lock() = Server::default();
        let lost = leader.keep().await;
        assert_eq!(lost, LostLease::SetBack { from: 901, to: 1 });
        assert!(!leader.leadership().is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_creates_and_renews() {
        let (client, server, calls) = respond();
        let mut contender = contender(&client, "a");
        let leadership = contender.leadership();
        assert_eq!(leadership.check(), Err(NotLeading));
        contender.acquire().await.unwrap();
        assert!(leadership.is_valid());
        assert!(
            timeout(Duration::from_mins(1), contender.keep())
                .await
                .is_err()
        );
        assert!(leadership.is_valid());
        assert_eq!(holder(&server), "a");
        let calls = calls.lock();
        let methods: Vec<&str> = calls.iter().map(|(m, _)| m.as_str()).collect();
        assert_eq!(methods[..2], ["GET", "POST"]);
        assert!(
            methods[2..].iter().all(|m| *m == "PUT") && (20..40).contains(&methods.len()),
            "{methods:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_released_lease_is_taken_within_a_second() {
        let (client, server, _) = respond();
        let mut first = contender(&client, "a");
        first.acquire().await.unwrap();
        let guard = first.leadership();
        let mut second = contender(&client, "b");
        assert!(
            timeout(Duration::from_secs(5), second.acquire())
                .await
                .is_err()
        );
        let released = Instant::now();
        first.release().await;
        assert!(!guard.is_valid());
        second.acquire().await.unwrap();
        assert!(released.elapsed() <= Duration::from_secs(1));
        assert_eq!(holder(&server), "b");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_released_although_an_answer_was_not_waited_for() {
        let (client, server, _) = respond();
        for taken_by_another in [false, true] {
            let mut contender = contender(&client, "a");
            contender.acquire().await.unwrap();
            let mut lease = server.lock().lease.clone().unwrap();
            if taken_by_another {
                lease["spec"]["holderIdentity"] = json!("b");
            }
            server.lock().put(lease);
            contender.release().await;
            let expected = if taken_by_another { "b" } else { "" };
            assert_eq!(holder(&server), expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_reads_at_once_when_the_watch_shows_a_lease_that_was_given_up() {
        let (client, server, calls) = respond();
        server.lock().put(held_by("b"));
        server.lock().watch = Some((200, json!({"type": "MODIFIED", "object": held_by("")})));
        let started = Instant::now();
        let mut standby = contender(&client, "a");
        let soon = timeout(STANDBY_PERIOD / 2, standby.acquire());
        assert!(soon.await.is_err(), "another one holds it");
        let readings = calls.lock().len();
        assert!(
            readings >= 2,
            "{readings} readings in {:?}",
            started.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_that_may_not_watch_does_not_ask_again_and_still_reads() {
        let (client, server, calls) = respond();
        server.lock().put(held_by("b"));
        let refusal = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "code": 403, "message": "no",
        });
        server.lock().watch = Some((403, refusal));
        let mut standby = contender(&client, "a");
        let waiting = timeout(Duration::from_secs(10), standby.acquire());
        assert!(waiting.await.is_err());
        assert_eq!(server.lock().watches, 1);
        assert!(calls.lock().len() >= 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_abandoned_lease_is_taken_when_it_has_run_out_and_not_before() {
        let (client, server, _) = respond();
        server.lock().put(held_by("gone"));
        let started = Instant::now();
        let mut contender = contender(&client, "a");
        contender.acquire().await.unwrap();
        let took = started.elapsed();
        assert!(
            took >= LEASE_DURATION && took < LEASE_DURATION + Duration::from_secs(1),
            "{took:?}"
        );
        let lease = server.lock().lease.clone().unwrap();
        assert_eq!(
            (
                &lease["spec"]["leaseTransitions"],
                &lease["metadata"]["labels"]["kept"]
            ),
            (&json!(5), &json!("yes"))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_cut_off_stops_before_anybody_else_may_start() {
        let (client, server, _) = respond();
        let mut contender = contender(&client, "a");
        contender.acquire().await.unwrap();
        let leadership = contender.leadership();
        server.lock().faults.extend(vec![Some(Fault::Hang); 20]);
        let started = Instant::now();
        assert_eq!(contender.keep().await, LostLease::Expired);
        assert!(!leadership.is_valid());
        assert!(
            started.elapsed() <= RENEW_DEADLINE,
            "{:?}",
            started.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_whose_answer_was_lost_is_still_ours() {
        let (client, server, _) = respond();
        let mut contender = contender(&client, "a");
        contender.acquire().await.unwrap();
        server.lock().faults.push_back(Some(Fault::LoseAnswer));
        assert!(
            timeout(Duration::from_mins(1), contender.keep())
                .await
                .is_err()
        );
        assert!(contender.leadership().is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_was_overwritten_knows_by_whom() {
        let (client, server, _) = respond();
        let mut contender = contender(&client, "a");
        contender.acquire().await.unwrap();
        server.lock().put(held_by("b"));
        assert_eq!(contender.keep().await, LostLease::TakenBy("b".to_owned()));
        assert_eq!(holder(&server), "b", "and has not written since");
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_leader_finds_out_before_it_writes() {
        let (client, _server, calls) = respond();
        let mut contender = contender(&client, "a");
        contender.acquire().await.unwrap();
        let leadership = contender.leadership();
        let before = calls.lock().len();
        // The clock goes on while nothing runs, as under SIGSTOP.
        tokio::time::advance(RENEW_DEADLINE).await;
        assert_eq!(leadership.check(), Err(NotLeading));
        assert_eq!(contender.keep().await, LostLease::Expired);
        assert_eq!(calls.lock().len(), before);
    }
}
