//! Of each replica that does not come up the line of its log that says why, as far as it may be
//! shown.

use super::log_cause;
use super::pod::{LogReader, condition, container, node_is_silent};
use crate::api::status::ReplicaStatus;
use crate::desired::CONTAINER;
use crate::kubernetes::error_text::plain;
use crate::observe::caches::ObjectName;
use crate::redaction::{KnownSecrets, RedactedLine};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::LogParams;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// So many lines of the end of a log are read: a panic prints its stack after it.
const TAIL_LINES: i64 = 100;
/// No more than this of them: an error may bring stacks of its own.
const TAIL_BYTES: i64 = 128 * 1024;
/// A kubelet that does not answer within this long is asked again later.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A reconcile waits so long for a log that it has begun to read, so that status need not be written
/// twice. It nearly always takes a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(250);
/// A log that could not be read is read again no sooner than this.
const RETRY: Duration = Duration::from_secs(10);
/// A log that could not be read so often is left alone until the container has another one.
const TRIES: u32 = 3;
/// A read that has not ended by then has panicked: the queue for it and itself take less.
const LOST_READ: Duration = Duration::from_mins(1);

/// A log that says why a replica is not up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The container that wrote it: a new one at each start.
    container: String,
    /// It runs; otherwise it has ended, and another one has taken its place or is to.
    runs: bool,
}

impl LogPlace {
    /// The log that says why a pod is not up, if one does: of the process that ended last, or of one that
    /// has had `patience` to become Ready and never was. On a node that is silent it may do its work.
    pub fn of(pod: &Pod, patience: Option<SignedDuration>, now: Timestamp) -> Option<Self> {
        let ready = condition(pod, "Ready");
        let is_ready = ready.is_some_and(|ready| ready.status == "True");
        if is_ready || pod.metadata.deletion_timestamp.is_some() || node_is_silent(pod) {
            return None;
        }
        let status = container(pod)?;
        let running = status.state.as_ref()?.running.as_ref();
        let started = running.and_then(|running| running.started_at.as_ref());
        let started = started.map(|time| time.0);
        let unready = ready.and_then(|ready| ready.last_transition_time.as_ref());
        let unready = unready.map(|time| time.0);
        // One that was Ready since its start has left the end before it behind, and its own log is full
        // of other things.
        if started.is_some_and(|started| unready > Some(started)) {
            return None;
        }
        let last = status.last_state.as_ref();
        let last = last.and_then(|last| last.terminated.as_ref());
        let is_over = |since: Option<Timestamp>| {
            let patience = patience.zip(since);
            patience.is_some_and(|(patience, since)| now.duration_since(since) >= patience)
        };
        let created = pod.creation_timestamp().map(|time| time.0);
        let is_late = running.is_some()
            && is_over(unready.or(created))
            && (last.is_none() || is_over(started));
        let id = if is_late {
            status.container_id.clone()
        } else {
            // The log of one that was killed for its memory does not say so.
            let last = last.filter(|last| last.reason.as_deref() != Some("OOMKilled"));
            last.and_then(|last| last.container_id.clone())
        };
        Some(Self {
            container: id.filter(|id| !id.is_empty())?,
            runs: is_late,
        })
    }
}

/// The lines, by the names of the pods. Each log is read once, in a task of its own, and its line goes
/// into status, from where a later operator takes it ([`LogLines::recall`]).
#[derive(Clone, Default)]
pub struct LogLines(Arc<Mutex<HashMap<ObjectName, Entry>>>);

struct Entry {
    /// Of the pod.
    uid: String,
    line: Option<RedactedLine>,
    /// The log that was read last, and how that went. A process that hung may say why as it ends.
    read: Option<(LogPlace, Read)>,
}

#[derive(Clone, Copy)]
enum Read {
    /// Since then, after so many that failed.
    Begun(Instant, u32),
    Failed(Instant, u32),
    Done,
}

/// What the end of a log says.
enum Found {
    /// It could not be read.
    Unknown,
    /// No failure, or nothing of one that may be shown.
    Nothing,
    Line(RedactedLine),
}

impl Found {
    fn of(tail: Option<String>, secrets: &KnownSecrets) -> Self {
        let Some(tail) = tail else {
            return Self::Unknown;
        };
        let cause = log_cause::find(&tail);
        let line = cause.and_then(|cause| RedactedLine::of(&cause, secrets));
        line.map_or(Self::Nothing, Self::Line)
    }
}

impl Read {
    /// How many have failed, if the log is to be read once more.
    fn failures_before_another(self) -> Option<u32> {
        match self {
            Self::Begun(at, failures) if at.elapsed() >= LOST_READ => Some(failures + 1),
            Self::Failed(at, failures) if at.elapsed() >= RETRY => Some(failures),
            Self::Begun(..) | Self::Failed(..) | Self::Done => None,
        }
    }
}

impl LogLines {
    /// Takes up what the status of a cluster says of its pods, as far as it may be shown now.
    pub fn recall(&self, pods: &[Pod], remembered: &[ReplicaStatus], secrets: &KnownSecrets) {
        for pod in pods {
            let (place, name) = (ObjectName::of(pod), pod.name_any());
            let Some(uid) = pod.uid() else { continue };
            let is_known = |entry: &Entry| entry.uid == uid;
            if self.0.lock().get(&place).is_some_and(is_known) {
                continue;
            }
            let mut said = remembered.iter().filter(|status| status.pod == name);
            let said = said.find_map(|status| status.log_line.as_ref());
            let said = said.filter(|said| said.pod_uid == uid);
            let Some(line) = said.and_then(|said| RedactedLine::of(&said.text, secrets)) else {
                continue;
            };
            let (line, read) = (Some(line), None);
            self.0.lock().insert(place, Entry { uid, line, read });
        }
    }

    /// The line of this log, or of the one before until it has been read. `None` for `log`: nothing
    /// has to be explained.
    pub async fn get(
        &self,
        pod: &Pod,
        log: Option<LogPlace>,
        secrets: &Arc<KnownSecrets>,
        reader: &LogReader,
    ) -> Option<RedactedLine> {
        let (place, uid) = (ObjectName::of(pod), pod.uid()?);
        let Some(log) = log else {
            self.forget(&place);
            return None;
        };
        {
            let mut entries = self.0.lock();
            let entry = entries.entry(place.clone()).or_insert_with(|| Entry {
                uid: uid.clone(),
                line: None,
                read: None,
            });
            if entry.uid != uid {
                (entry.uid, entry.line, entry.read) = (uid.clone(), None, None);
            }
            let before = entry.read.as_ref();
            let before = before.filter(|(place, _)| *place == log);
            let failures = match before {
                None => 0,
                Some((_, read)) => match read.failures_before_another() {
                    Some(failures) if failures < TRIES => failures,
                    _ => return entry.line.clone(),
                },
            };
            let begun = Read::Begun(Instant::now(), failures);
            entry.read = Some((log.clone(), begun));
        }
        let (lines, secrets) = (self.clone(), Arc::clone(secrets));
        let (api, name, cluster) = (reader.api.clone(), pod.name_any(), reader.cluster.clone());
        let (permits, wake) = (Arc::clone(&reader.permits), Arc::clone(&reader.wake));
        let at = place.clone();
        let read = tokio::spawn(async move {
            let permit = permits.acquire().await;
            let tail = timeout(TIMEOUT, read_tail(&api, &cluster, &name, !log.runs)).await;
            drop(permit);
            let found = Found::of(tail.ok().flatten(), &secrets);
            if lines.put(&at, &uid, &log, found) {
                wake();
            }
        });
        // What it finds is there afterwards, or wakes the cluster.
        let _ = timeout(PATIENCE, read).await;
        let entries = self.0.lock();
        entries.get(&place)?.line.clone()
    }

    /// Takes up what was found. Returns whether that is news.
    fn put(&self, pod: &ObjectName, uid: &str, log: &LogPlace, found: Found) -> bool {
        let mut entries = self.0.lock();
        // The pod may have gone, or restarted, while its log was read.
        let entry = entries.get_mut(pod).filter(|entry| entry.uid == uid);
        let Some(entry) = entry else { return false };
        let Some((place, Read::Begun(_, failures))) = &entry.read else {
            return false;
        };
        if place != log {
            return false;
        }
        let failures = *failures;
        let line = match found {
            Found::Unknown => {
                let failed = Read::Failed(Instant::now(), failures + 1);
                entry.read = Some((log.clone(), failed));
                return false;
            }
            Found::Nothing => None,
            Found::Line(line) => Some(line),
        };
        entry.read = Some((log.clone(), Read::Done));
        let is_same = match (&line, &entry.line) {
            // It may say something later; the end before may be the reason.
            (None, _) if log.runs => true,
            // Status is not to change with each start.
            (Some(line), Some(before)) => line.says_the_same_as(before),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !is_same {
            entry.line = line;
        }
        !is_same
    }

    /// All pods of which something is known.
    #[cfg(test)]
    pub fn pods(&self) -> Vec<ObjectName> {
        self.0.lock().keys().cloned().collect()
    }

    /// Forgets a pod that is gone, or is well.
    pub fn forget(&self, pod: &ObjectName) {
        self.0.lock().remove(pod);
    }
}

async fn read_tail(
    api: &kube::Api<Pod>,
    cluster: &str,
    pod: &str,
    previous: bool,
) -> Option<String> {
    let parameters = LogParams {
        container: Some(CONTAINER.to_owned()),
        previous,
        tail_lines: Some(TAIL_LINES),
        limit_bytes: Some(TAIL_BYTES),
        ..LogParams::default()
    };
    let read = api.logs(pod, &parameters).await;
    read.inspect_err(|error| {
        let error = plain(error);
        tracing::debug!(
            cluster,
            pod,
            error,
            "the log cannot be read, so it is not known what it says of the replica's end"
        );
    })
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PASSWORD, after, api_server, now};
    use kube::Api;
    use parking_lot::Mutex;
    use serde_json::{Value, json};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Semaphore;

    /// The log of a start that failed.
    fn failure(why: &str) -> Value {
        json!({"level": "ERROR", "msg": "Cannot new server", "error": why})
    }

    /// A log that says nothing of a failure.
    fn nothing() -> Value {
        json!({"level": "INFO", "msg": "started"})
    }

    fn at(seconds: i64) -> String {
        after(SignedDuration::from_secs(seconds)).to_string()
    }

    fn pod(uid: &str, state: &Value, last: &Value, unready: i64) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "demo-1", "uid": uid, "creationTimestamp": at(-999)},
            "status": {
                "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": at(unready)}],
                "containerStatuses": [{
                    "name": CONTAINER, "containerID": "c-now", "ready": false, "restartCount": 1,
                    "image": "", "imageID": "", "state": state, "lastState": last,
                }],
            },
        }))
        .unwrap()
    }

    fn ended(container: &str, reason: &str) -> Value {
        json!({"terminated": {"exitCode": 0, "reason": reason, "containerID": container}})
    }

    fn waits() -> Value {
        json!({"waiting": {"reason": "CrashLoopBackOff"}})
    }

    /// A pod of this uid that crashed, and whose container of before was this.
    fn crashed(uid: &str, container: &str) -> Pod {
        pod(uid, &waits(), &ended(container, "Completed"), -60)
    }

    fn log_of(pod: &Pod) -> Option<LogPlace> {
        LogPlace::of(pod, Some(SignedDuration::from_secs(600)), now())
    }

    #[test]
    fn the_log_that_says_why_is_that_of_the_last_end_or_of_one_that_is_late() {
        let runs = |since: i64| json!({"running": {"startedAt": at(since)}});
        let none = json!({});
        let end = ended("c-before", "Completed");
        let place = |container: &str, runs| {
            Some(LogPlace {
                container: container.to_owned(),
                runs,
            })
        };
        let before = place("c-before", false);
        let present = place("c-now", true);
        for (state, last, unready, expected, case) in [
            (waits(), end.clone(), -60, before.clone(), "crashes"),
            (runs(-5), end.clone(), -60, before.clone(), "starts again"),
            (
                runs(-60),
                end.clone(),
                -60,
                before.clone(),
                "started at once",
            ),
            (runs(-60), end.clone(), -5, None, "was Ready since"),
            (runs(-5000), none.clone(), -900, None, "was Ready long ago"),
            (runs(-60), none.clone(), -60, None, "starts"),
            (runs(-590), none.clone(), -600, present.clone(), "is late"),
            (runs(-5), end.clone(), -900, before, "crashes for long"),
            (runs(-600), end.clone(), -900, present, "hangs after an end"),
            (waits(), ended("c-before", "OOMKilled"), -60, None, "memory"),
            (waits(), none.clone(), -900, None, "never started"),
        ] {
            assert_eq!(
                log_of(&pod("u", &state, &last, unready)),
                expected,
                "{case}"
            );
        }
        let mut ready = crashed("u", "c-1");
        let conditions = ready.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions[0].status = "True".to_owned();
        let mut ending = crashed("u", "c-1");
        ending.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
        assert_eq!((log_of(&ready), log_of(&ending)), (None, None));
        let mut silent = crashed("u", "c-1");
        let conditions = silent.status.as_mut().unwrap().conditions.as_mut().unwrap();
        conditions.push(
            serde_json::from_value(json!({"type": "ContainersReady", "status": "True"})).unwrap(),
        );
        assert_eq!(log_of(&silent), None);
    }

    /// Answers of the API server, and what it was asked.
    #[derive(Clone, Default)]
    struct Logs {
        answer: Arc<Mutex<Option<(u16, Value)>>>,
        asked: Arc<Mutex<Vec<String>>>,
        woken: Arc<AtomicUsize>,
    }

    impl Logs {
        fn say(&self, log: Value) {
            *self.answer.lock() = Some((200, log));
        }

        fn reader(&self) -> LogReader {
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

    fn secrets() -> Arc<KnownSecrets> {
        let mut secrets = KnownSecrets::default();
        secrets.add(&PASSWORD.to_owned().into());
        Arc::new(secrets)
    }

    async fn line(lines: &LogLines, pod: &Pod, reader: &LogReader) -> Option<String> {
        let line = lines.get(pod, log_of(pod), &secrets(), reader).await;
        line.map(|line| line.to_string())
    }

    #[tokio::test]
    async fn the_log_of_each_end_is_read_once_and_bounded() {
        let (lines, logs) = (LogLines::default(), Logs::default());
        let reader = logs.reader();
        logs.say(failure(&format!("port 1 is {PASSWORD} in use")));
        let said = Some("Cannot new server: port 1 is *** in use".to_owned());
        for _ in 0..3 {
            assert_eq!(line(&lines, &crashed("u", "c-1"), &reader).await, said);
        }
        let asked = logs.asked.lock().clone();
        let [asked] = asked.as_slice() else {
            panic!("{asked:?}")
        };
        for parameter in [
            "container=bytebase",
            "previous=true",
            "limitBytes=131072",
            "tailLines=100",
        ] {
            assert!(asked.contains(parameter), "{asked}");
        }
        // Another end that says the same but for numbers is no news.
        let before = Some("Cannot new server: port 1 is in use".to_owned());
        logs.say(failure("port 1 is in use"));
        assert_eq!(line(&lines, &crashed("u", "c-2"), &reader).await, before);
        let woken = logs.woken.load(Ordering::Relaxed);
        logs.say(failure("port 22 is in use"));
        assert_eq!(line(&lines, &crashed("u", "c-3"), &reader).await, before);
        assert_eq!(logs.woken.load(Ordering::Relaxed), woken);
        // One that says nothing takes back what the end before said, and another pod has a log of its own.
        logs.say(nothing());
        assert_eq!(line(&lines, &crashed("u", "c-4"), &reader).await, None);
        logs.say(failure("port 1 is in use"));
        assert_eq!(line(&lines, &crashed("u", "c-5"), &reader).await, before);
        logs.say(nothing());
        assert_eq!(line(&lines, &crashed("other", "c-6"), &reader).await, None);
        // Of one that is well nothing is kept.
        let well = pod("other", &json!({"running": {}}), &json!({}), 0);
        assert_eq!(line(&lines, &well, &reader).await, None);
        assert_eq!(lines.pods(), []);
    }

    #[tokio::test]
    async fn a_process_that_hangs_may_speak_later_and_the_end_before_it_may_be_the_reason() {
        let (lines, logs) = (LogLines::default(), Logs::default());
        let reader = logs.reader();
        logs.say(failure("port 1 is in use"));
        let said = line(&lines, &crashed("u", "c-1"), &reader).await;
        assert!(said.is_some());
        let hangs = json!({"running": {"startedAt": at(-601)}});
        let hangs = pod("u", &hangs, &ended("c-1", "Completed"), -900);
        logs.say(nothing());
        assert_eq!(line(&lines, &hangs, &reader).await, said);
        let asked = logs.asked.lock().clone();
        assert!(
            asked.len() == 2 && !asked[1].contains("previous=true"),
            "{asked:?}"
        );
    }

    #[tokio::test]
    async fn what_status_says_is_taken_up_for_the_same_pod_and_redacted_again() {
        let logs = Logs::default();
        let reader = logs.reader();
        *logs.answer.lock() = Some((500, json!({})));
        let remembered: Vec<ReplicaStatus> = serde_json::from_value(json!([{
            "pod": "demo-1", "heartbeat": "Missing",
            "logLine": {"text": format!("it was {PASSWORD} in the end"), "podUID": "u"},
        }]))
        .unwrap();
        for (uid, expected) in [("u", Some("it was *** in the end")), ("other", None)] {
            let (lines, pod) = (LogLines::default(), crashed(uid, "c-1"));
            lines.recall(std::slice::from_ref(&pod), &remembered, &secrets());
            let said = line(&lines, &pod, &reader).await;
            assert_eq!(said.as_deref(), expected, "{uid}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_that_does_not_answer_holds_no_reconcile() {
        let (lines, logs) = (LogLines::default(), Logs::default());
        let reader = logs.reader();
        let start = tokio::time::Instant::now();
        for _ in 0..20 {
            assert_eq!(line(&lines, &crashed("u", "c-1"), &reader).await, None);
        }
        assert!(start.elapsed() <= PATIENCE + Duration::from_millis(10));
        assert_eq!(logs.asked.lock().len(), 1);
    }

    #[test]
    fn a_log_that_cannot_be_read_is_not_asked_for_for_ever() {
        let long_ago = Instant::now().checked_sub(LOST_READ).unwrap();
        for (read, expected) in [
            (Read::Done, None),
            (Read::Begun(Instant::now(), 0), None),
            (Read::Begun(long_ago, 0), Some(1)),
            (Read::Failed(Instant::now(), 1), None),
            (Read::Failed(long_ago, 1), Some(1)),
        ] {
            assert_eq!(read.failures_before_another(), expected);
        }
        let again = Read::Failed(long_ago, TRIES).failures_before_another();
        assert!(
            again.is_some_and(|failures| failures >= TRIES),
            "the last try was the last"
        );
    }
}
