//! Of each replica that does not come up the line of its log that says why, as far as it may be
//! shown.

use super::caches::ObjectName;
use super::log_cause;
use super::log_reads::{Finding, Found, KnownFromLog, Log, LogReader, LogReads, Part, Retries};
use super::pod::{condition, container, node_is_silent};
use crate::api::status::ReplicaStatus;
use crate::redaction::{KnownSecrets, RedactedLine};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use std::sync::Arc;
use std::time::Duration;

/// So many lines of the end of a log are read: a panic prints its stack after it.
const TAIL_LINES: i64 = 100;
/// No more than this of them: an error may bring stacks of its own.
const TAIL_BYTES: i64 = 128 * 1024;

/// A log that says why a replica is not up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPlace {
    /// The container that wrote it: a new one at each start.
    container: String,
    /// It runs; otherwise it has ended, and another one has taken its place or is to.
    runs: bool,
}

impl LogPlace {
    /// The log that says why a pod is not up, if one does: of the process that ended last, or of
    /// one that has had `patience` to become Ready and never was. On a node that is silent it may
    /// do its work.
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
        // One that was Ready since its start has left the end before it behind, and its own log is
        // full of other things.
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

/// The lines, by the names of the pods. Each goes into status, from where a later operator takes it
/// ([`LogLines::recall`]).
#[derive(Clone, Default)]
pub struct LogLines(LogReads<RedactedLine>);

impl Finding for RedactedLine {
    const RETRIES: Retries = Retries {
        pause: Duration::from_secs(10),
        most: 3,
    };
    const WITHOUT_IT: &'static str = "it is not known why the replica is not up";

    /// Status is not to change with each start.
    fn repeats(&self, before: &Self) -> bool {
        self.says_the_same_as(before)
    }
}

impl LogPlace {
    /// Its container has ended, and another one has taken its place or is to.
    pub fn is_previous(&self) -> bool {
        !self.runs
    }

    fn log(&self) -> Log {
        let part = Part {
            previous: self.is_previous(),
            tail_lines: Some(TAIL_LINES),
            bytes: TAIL_BYTES,
        };
        Log {
            container: self.container.clone(),
            part,
        }
    }

    /// What the end of this log says.
    fn found(&self, tail: &str, secrets: &KnownSecrets) -> Found<RedactedLine> {
        let cause = log_cause::find(tail);
        let line = cause.and_then(|cause| RedactedLine::of(&cause, secrets));
        // One that hangs may say something later, and the end before it may be the reason.
        if line.is_none() && self.runs {
            return Found::NothingNew;
        }
        Found::Now(line)
    }
}

impl LogLines {
    /// Takes up what the status of a cluster says of a pod, as far as it may be shown now.
    pub fn recall(&self, pod: &Pod, remembered: &[ReplicaStatus], secrets: &KnownSecrets) {
        let (place, name) = (ObjectName::of(pod), pod.name_any());
        let Some(uid) = pod.uid().filter(|uid| !self.0.has(&place, uid)) else {
            return;
        };
        let mut said = remembered.iter().filter(|status| status.pod == name);
        let said = said.find_map(|status| status.log_line.as_ref());
        let said = said.filter(|said| said.pod_uid == uid);
        let line = said.and_then(|said| RedactedLine::of(&said.text, secrets));
        if let Some(line) = line {
            self.0.recall(place, &uid, line);
        }
    }

    /// The line of this log, or of the one before until it has been read.
    pub fn get(
        &self,
        pod: &Pod,
        place: LogPlace,
        secrets: Arc<KnownSecrets>,
        reader: &LogReader,
    ) -> KnownFromLog<RedactedLine> {
        let (uid, log) = (pod.uid().unwrap_or_default(), place.log());
        let take = move |tail: &str| place.found(tail, &secrets);
        self.0.get(pod, &uid, log, reader, take)
    }

    /// All pods of which something is known.
    #[cfg(test)]
    pub fn pods(&self) -> Vec<ObjectName> {
        self.0.pods()
    }

    /// Quotes nothing of this log, now or later, and nothing of those before it.
    pub fn withhold(&self, pod: &Pod, place: &LogPlace) {
        let uid = pod.uid().unwrap_or_default();
        self.0.close(ObjectName::of(pod), &uid, place.log());
    }

    /// Forgets a pod that is gone, or is well.
    pub fn forget(&self, pod: &ObjectName) {
        self.0.forget(pod);
    }
}

#[cfg(test)]
mod tests {
    use super::super::log_reads::kubelet::Kubelet;
    use super::*;
    use crate::desired::CONTAINER;
    use crate::testing::{PASSWORD, after, now};
    use serde_json::{Value, json};

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

    fn secrets() -> Arc<KnownSecrets> {
        let mut secrets = KnownSecrets::default();
        secrets.add(&PASSWORD.to_owned().into());
        Arc::new(secrets)
    }

    async fn line(lines: &LogLines, pod: &Pod, reader: &LogReader) -> Option<String> {
        let get = || lines.get(pod, log_of(pod).unwrap(), secrets(), reader);
        let before = get();
        Kubelet::answers().await;
        let after = get();
        // Status goes on saying what it says until the next log has been read.
        assert!(!(before.value.is_some() && before.is_awaited || after.is_awaited));
        after.value.map(|line| line.to_string())
    }

    #[tokio::test]
    async fn the_log_of_each_end_is_read_once_and_bounded() {
        let (lines, logs) = (LogLines::default(), Kubelet::default());
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
        let woken = logs.woken();
        logs.say(failure("port 22 is in use"));
        assert_eq!(line(&lines, &crashed("u", "c-3"), &reader).await, before);
        assert_eq!(logs.woken(), woken);
        // One that says nothing takes back what the end before said, and another pod has a log of
        // its own.
        logs.say(nothing());
        assert_eq!(line(&lines, &crashed("u", "c-4"), &reader).await, None);
        logs.say(failure("port 1 is in use"));
        assert_eq!(line(&lines, &crashed("u", "c-5"), &reader).await, before);
        logs.say(nothing());
        assert_eq!(line(&lines, &crashed("other", "c-6"), &reader).await, None);
    }

    #[tokio::test]
    async fn a_process_that_hangs_may_speak_later_and_the_end_before_it_may_be_the_reason() {
        let (lines, logs) = (LogLines::default(), Kubelet::default());
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
        let logs = Kubelet::default();
        let reader = logs.reader();
        *logs.answer.lock() = Some((500, json!({})));
        let remembered: Vec<ReplicaStatus> = serde_json::from_value(json!([{
            "pod": "demo-1", "heartbeat": "Missing",
            "logLine": {"text": format!("it was {PASSWORD} in the end"), "podUID": "u"},
        }]))
        .unwrap();
        for (uid, expected) in [("u", Some("it was *** in the end")), ("other", None)] {
            let (lines, pod) = (LogLines::default(), crashed(uid, "c-1"));
            lines.recall(&pod, &remembered, &secrets());
            let said = line(&lines, &pod, &reader).await;
            assert_eq!(said.as_deref(), expected, "{uid}");
        }
    }
}
