//! Logs of pods. Each is read once, in a task of its own: a kubelet that does not answer holds no
//! reconcile. What is taken out of a log is for others to say ([`super::log_ids`],
//! [`super::log_lines`]).

use super::caches::ObjectName;
use crate::desired::CONTAINER;
use crate::kubernetes::error_text::plain;
use crate::observation::LOG_PATIENCE;
use k8s_openapi::api::core::v1::Pod;
use kube::api::LogParams;
use kube::{Api, ResourceExt as _};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

/// Logs that are read at a time.
pub const LOG_READS: usize = 16;
/// A kubelet that does not answer within this long is asked again later.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A read that has not ended by then has panicked: the queue for it and itself take less.
const LOST_READ: Duration = Duration::from_mins(1);

/// After so many reads in vain a log is not about to say anything soon.
const SOON: u32 = 30;
/// The pauses between reads are then so many times as long.
const LATER: u32 = 15;

/// Where the logs of a cluster's pods are, and whom to wake when one has been read.
#[derive(Clone)]
pub struct LogReader {
    /// Client for the read.
    pub api: Api<Pod>,
    /// Namespace and name of the cluster, for the operator's own log.
    pub cluster: String,
    /// Reads of all clusters together.
    pub permits: Arc<Semaphore>,
    /// Wakes the cluster.
    pub wake: Arc<dyn Fn() + Send + Sync>,
}

/// The log of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The container that writes or wrote it: a new one at each start.
    pub container: String,
    /// How much of it is read.
    pub part: Part,
}

/// How much of a log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Of the container that was there before the present one.
    pub previous: bool,
    /// So many lines of its end; of its beginning, where there is no number.
    pub tail_lines: Option<i64>,
    /// No more than this of them.
    pub bytes: i64,
}

/// How a log is read that could not be read, or that does not say yet what it is read for.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    /// No sooner than this, and much later after many reads in vain.
    pub pause: Duration,
    /// So often, until the container has another log.
    pub most: u32,
}

/// What is taken out of logs.
pub trait Finding: Clone + Send + 'static {
    /// When to read again.
    const RETRIES: Retries;
    /// What follows where a log cannot be read, for the operator's own log.
    const WITHOUT_IT: &'static str;

    /// Whether this is no news after that.
    fn repeats(&self, before: &Self) -> bool;
}

/// What a log says.
pub enum Found<T> {
    /// The log does not say yet what it is read for, and may later.
    NotYet,
    /// The log says nothing that takes back what was known before.
    NothingNew,
    /// The log says this, or (`None`) it is certain that it says nothing.
    Now(Option<T>),
}

/// What is known out of a log by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownFromLog<T> {
    /// What the log said.
    pub value: Option<T>,
    /// Nothing is known, and a first read of the log is about to end.
    pub is_awaited: bool,
}

/// What is known of each pod out of its log.
#[derive(Clone)]
pub struct LogReads<T>(Arc<Mutex<HashMap<ObjectName, Entry<T>>>>);

struct Entry<T> {
    /// The pod or the container of which something is known; of another one nothing is.
    of: String,
    known: Option<T>,
    /// The log that was read last, and how that went.
    read: Option<(Log, Read)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Read {
    /// The log has been read since then, after so many reads that failed.
    Begun(Instant, u32),
    /// The latest read failed then, and so many did in all.
    Failed(Instant, u32),
    Done,
}

// === impl Read ===

impl Read {
    /// How many have failed, if the log is to be read once more.
    fn failures_before_another(self, retries: Retries) -> Option<u32> {
        let pause = |failures| retries.pause * if failures < SOON { 1 } else { LATER };
        let failures = match self {
            Self::Begun(at, failures) if at.elapsed() >= LOST_READ => failures.saturating_add(1),
            Self::Failed(at, failures) if at.elapsed() >= pause(failures) => failures,
            Self::Begun(..) | Self::Failed(..) | Self::Done => return None,
        };
        (failures < retries.most).then_some(failures)
    }
}

// === impl Entry ===

impl<T> Entry<T> {
    fn new(of: &str) -> Self {
        Self {
            of: of.to_owned(),
            known: None,
            read: None,
        }
    }

    /// Notes that this log is being read from now on, unless it has been or is. Returns whether so.
    fn begin(&mut self, log: &Log, retries: Retries) -> bool {
        let before = self.read.as_ref().filter(|(before, _)| before == log);
        let failures = match before {
            None => 0,
            Some((_, read)) => match read.failures_before_another(retries) {
                Some(failures) => failures,
                None => return false,
            },
        };
        self.read = Some((log.clone(), Read::Begun(Instant::now(), failures)));
        true
    }
}

impl<T: Finding> Entry<T> {
    /// How long a first read of a log has taken, of which nothing else is known.
    fn awaited_for(&self) -> Option<Duration> {
        match self.read {
            Some((_, Read::Begun(at, 0))) if self.known.is_none() => Some(at.elapsed()),
            _ => None,
        }
    }

    fn now(&self) -> KnownFromLog<T> {
        KnownFromLog {
            value: self.known.clone(),
            is_awaited: self.awaited_for().is_some_and(|time| time < LOG_PATIENCE),
        }
    }

    /// Takes up what this log says. Returns whether that is news, or was waited for.
    fn end(&mut self, log: &Log, found: Found<T>) -> bool {
        let failures = match &self.read {
            Some((of, Read::Begun(_, failures))) if of == log => *failures,
            _ => return false,
        };
        let was_awaited = self.awaited_for().is_some();
        let (read, is_news) = match found {
            Found::NotYet => (
                Read::Failed(Instant::now(), failures.saturating_add(1)),
                false,
            ),
            Found::NothingNew => (Read::Done, false),
            Found::Now(found) => (Read::Done, self.learn(found)),
        };
        self.read = Some((log.clone(), read));
        is_news || was_awaited
    }

    fn learn(&mut self, found: Option<T>) -> bool {
        let is_news = match (&found, &self.known) {
            (Some(found), Some(before)) => !found.repeats(before),
            (None, None) => false,
            (Some(_), None) | (None, Some(_)) => true,
        };
        if is_news {
            self.known = found;
        }
        is_news
    }
}

// === impl KnownFromLog ===

impl<T> KnownFromLog<T> {
    /// Nothing, and nothing is to come.
    pub fn nothing() -> Self {
        Self {
            value: None,
            is_awaited: false,
        }
    }
}

// === impl LogReads ===

// No `T: Default` is needed.
impl<T> Default for LogReads<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Finding> LogReads<T> {
    /// What is known of this pod or container, without any reading.
    pub fn known(&self, pod: &ObjectName, of: &str) -> Option<T> {
        let entries = self.0.lock();
        let entry = entries.get(pod).filter(|entry| entry.of == of)?;
        entry.known.clone()
    }

    /// Whether anything has been learnt or is being read of it.
    pub fn has(&self, pod: &ObjectName, of: &str) -> bool {
        self.0.lock().get(pod).is_some_and(|entry| entry.of == of)
    }

    /// Takes up what was known before.
    pub fn recall(&self, pod: ObjectName, of: &str, known: T) {
        let known = Some(known);
        let entry = Entry {
            known,
            ..Entry::new(of)
        };
        self.0.lock().insert(pod, entry);
    }

    /// Takes this log for one that was read and says nothing.
    pub fn close(&self, pod: ObjectName, of: &str, log: Log) {
        let read = Some((log, Read::Done));
        let entry = Entry {
            read,
            ..Entry::new(of)
        };
        self.0.lock().insert(pod, entry);
    }

    /// What is known of this pod or container by now. A log that has not been read is, and the
    /// cluster is woken if it says something new, or if status may wait for it.
    pub fn get(
        &self,
        pod: &Pod,
        of: &str,
        log: Log,
        reader: &LogReader,
        take: impl FnOnce(&str) -> Found<T> + Send + 'static,
    ) -> KnownFromLog<T> {
        let place = ObjectName::of(pod);
        let mut entries = self.0.lock();
        let entry = entries
            .entry(place.clone())
            .or_insert_with(|| Entry::new(of));
        if entry.of != of {
            *entry = Entry::new(of);
        }
        if entry.begin(&log, T::RETRIES) {
            let (reads, reader) = (self.clone(), reader.clone());
            let (of, name) = (of.to_owned(), pod.name_any());
            tokio::spawn(async move {
                let text = reader.read(&name, log.part, T::WITHOUT_IT).await;
                let found = text.map_or(Found::NotYet, |text| take(&text));
                if reads.end(&place, &of, &log, found) {
                    (reader.wake)();
                }
            });
        }
        entry.now()
    }

    /// Takes up what a log says. Returns whether that is news, or was waited for.
    fn end(&self, pod: &ObjectName, of: &str, log: &Log, found: Found<T>) -> bool {
        let mut entries = self.0.lock();
        // The pod may have gone, or restarted, while its log was read.
        let entry = entries.get_mut(pod).filter(|entry| entry.of == of);
        entry.is_some_and(|entry| entry.end(log, found))
    }
}

impl<T> LogReads<T> {
    /// Forgets a pod that is gone, or of which nothing need be known.
    pub fn forget(&self, pod: &ObjectName) {
        self.0.lock().remove(pod);
    }

    /// All pods of which something is known.
    #[cfg(test)]
    pub fn pods(&self) -> Vec<ObjectName> {
        self.0.lock().keys().cloned().collect()
    }
}

// === impl LogReader ===

impl LogReader {
    /// A part of the log of a pod, once it is its turn.
    async fn read(&self, pod: &str, part: Part, without_it: &'static str) -> Option<String> {
        let parameters = LogParams {
            container: Some(CONTAINER.to_owned()),
            previous: part.previous,
            tail_lines: part.tail_lines,
            limit_bytes: Some(part.bytes),
            ..LogParams::default()
        };
        let permit = self.permits.acquire().await;
        let read = timeout(TIMEOUT, self.api.logs(pod, &parameters)).await;
        drop(permit);
        let cluster = &self.cluster;
        match read.ok()? {
            Ok(text) => Some(text),
            Err(kube::Error::Api(error)) if error.code == 403 => {
                let error = error.message;
                tracing::warn!(
                    cluster,
                    pod,
                    error,
                    "the operator may not read the log of a pod; {without_it}"
                );
                None
            }
            Err(error) => {
                let error = plain(&error);
                tracing::debug!(
                    cluster,
                    pod,
                    error,
                    "the log of a pod cannot be read; {without_it}"
                );
                None
            }
        }
    }
}

#[cfg(test)]
pub(super) mod kubelet {
    use super::*;
    use crate::testing::api_server;
    use serde_json::Value;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A kubelet with one log, what it was asked, and how often its reader woke the cluster.
    #[derive(Clone, Default)]
    pub struct Kubelet {
        /// Status and body of its answer; `None`: it never answers.
        pub answer: Arc<Mutex<Option<(u16, Value)>>>,
        pub asked: Arc<Mutex<Vec<String>>>,
        woken: Arc<AtomicUsize>,
    }

    impl Kubelet {
        pub fn say(&self, log: impl Into<Value>) {
            *self.answer.lock() = Some((200, log.into()));
        }

        pub fn asked(&self) -> usize {
            self.asked.lock().len()
        }

        /// Lets a read that has begun come to its end, if it has one.
        pub async fn answers() {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }

        pub fn woken(&self) -> usize {
            self.woken.load(Ordering::Relaxed)
        }

        pub fn reader(&self) -> LogReader {
            let (answer, asked) = (Arc::clone(&self.answer), Arc::clone(&self.asked));
            let client = api_server("team", move |_, uri, _| {
                asked.lock().push(uri.to_string());
                answer.lock().clone()
            });
            let woken = Arc::clone(&self.woken);
            LogReader {
                api: Api::namespaced(client, "team"),
                cluster: "team/demo".to_owned(),
                permits: Arc::new(Semaphore::new(1)),
                wake: Arc::new(move || {
                    woken.fetch_add(1, Ordering::Relaxed);
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::kubelet::Kubelet;
    use super::*;
    use crate::runtime::logging::LogFormat;
    use crate::runtime::logging::tests::Log as OwnLog;
    use serde_json::json;

    #[tokio::test]
    async fn a_log_that_may_not_be_read_is_reported_with_its_cluster() {
        let log = OwnLog::begin(LogFormat::Json, "info");
        let kubelet = Kubelet::default();
        let refusal = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure",
            "message": "may not get pods/log", "reason": "Forbidden", "code": 403,
        });
        *kubelet.answer.lock() = Some((403, refusal));
        let part = Part {
            previous: false,
            tail_lines: None,
            bytes: 1,
        };
        let read = kubelet.reader().read("demo-1", part, "so what").await;
        assert_eq!(read, None);
        let lines = log.lines("may not read the log of a pod");
        assert_eq!(lines.len(), 1, "{}", log.text());
        assert_eq!(
            (&lines[0]["cluster"], &lines[0]["pod"]),
            (&"team/demo".into(), &"demo-1".into())
        );
    }

    #[test]
    fn a_log_that_cannot_be_read_is_not_asked_for_for_ever() {
        let long_ago = Instant::now().checked_sub(LOST_READ).unwrap();
        let retries = Retries {
            pause: LOST_READ,
            most: 3,
        };
        for (read, expected) in [
            (Read::Done, None),
            (Read::Begun(Instant::now(), 0), None),
            (Read::Begun(long_ago, 0), Some(1)),
            (Read::Begun(long_ago, 2), None),
            (Read::Failed(Instant::now(), 1), None),
            (Read::Failed(long_ago, 2), Some(2)),
            (Read::Failed(long_ago, 3), None),
        ] {
            assert_eq!(read.failures_before_another(retries), expected, "{read:?}");
        }
        // One that says nothing is read seldom in the end.
        let retries = Retries {
            pause: Duration::from_secs(2),
            most: u32::MAX,
        };
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds));
        for (failures, seconds, expected) in [(29, 2, true), (30, 29, false), (30, 30, true)] {
            let read = Read::Failed(ago(seconds).unwrap(), failures);
            let again = read.failures_before_another(retries);
            assert_eq!(again, expected.then_some(failures), "{failures} {seconds}");
        }
    }
}
