//! Ids of replicas, out of the heads of their logs.

use super::caches::ObjectName;
use super::log_reads::{Finding, Found, KnownFromLog, Log, LogReader, LogReads, Part, Retries};
use super::pod::running_container;
use crate::api::status::ReplicaStatus;
use k8s_openapi::api::core::v1::Pod;
use std::time::Duration;
use uuid::Uuid;

/// The id stands near the top of the log; this much of it is read.
const HEAD: Part = Part {
    previous: false,
    tail_lines: None,
    bytes: 32 * 1024,
};

/// Ids of replicas, each bound to the container that logged it: a new process has a new one. By the
/// names of their pods, so that one that was made again takes the place of the one before.
///
/// An id is read from the head of the log once. The kubelet throws that head away when it rotates
/// the log, so the id goes into status as well, from where a later operator takes it
/// ([`LogIds::recall`]).
#[derive(Clone, Default)]
pub struct LogIds(LogReads<Uuid>);

impl Finding for Uuid {
    /// A process that has just started has not logged it yet.
    const RETRIES: Retries = Retries {
        pause: Duration::from_secs(2),
        most: u32::MAX,
    };
    const WITHOUT_IT: &'static str = "the session in the database identifies the replica instead";

    fn repeats(&self, before: &Self) -> bool {
        self == before
    }
}

impl LogIds {
    /// Takes up what the status of a cluster says of its pods.
    pub fn recall(&self, pods: &[Pod], remembered: &[ReplicaStatus]) {
        for pod in pods {
            let (name, container) = (ObjectName::of(pod), running_container(pod));
            let Some(container) = container.filter(|container| !self.0.has(&name, container))
            else {
                continue;
            };
            let id = remembered.iter().find_map(|status| {
                let same = status.container_id.as_ref() == Some(&container);
                let id = status.replica_id.as_deref().filter(|_| same)?;
                Uuid::try_parse(id).ok()
            });
            if let Some(id) = id {
                self.0.recall(name, &container, id);
            }
        }
    }

    /// The id of the replica that runs in this pod, if it is known by now. Otherwise its log is
    /// read.
    pub fn get(&self, pod: &Pod, reader: &LogReader) -> KnownFromLog<Uuid> {
        let Some(container) = running_container(pod) else {
            return KnownFromLog::nothing();
        };
        let value = self.0.known(&ObjectName::of(pod), &container);
        if value.is_some() {
            return KnownFromLog {
                value,
                is_awaited: false,
            };
        }
        let log = Log {
            container: container.clone(),
            part: HEAD,
        };
        let take = |head: &str| find_id(head).map_or(Found::NotYet, |id| Found::Now(Some(id)));
        self.0.get(pod, &container, log, reader, take)
    }

    /// All pods of which something is known.
    #[cfg(test)]
    pub fn pods(&self) -> Vec<ObjectName> {
        self.0.pods()
    }

    /// Forgets a pod that is gone.
    pub fn forget(&self, pod: &ObjectName) {
        self.0.forget(pod);
    }
}

/// `replicaID=<uuid>`, in text or inside JSON.
fn find_id(log: &str) -> Option<Uuid> {
    log.split("replicaID=")
        .skip(1)
        .find_map(|rest| rest.get(..36).and_then(|id| Uuid::try_parse(id).ok()))
}

#[cfg(test)]
mod tests {
    use super::super::log_reads::kubelet::Kubelet;
    use super::*;
    use crate::desired::CONTAINER;
    use crate::observation::LOG_PATIENCE;
    use serde_json::json;

    const ID: &str = "0b3a1c1e-5f55-4f53-9a71-3f2c0f7f9a10";

    fn running(container: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "demo-1", "uid": "u"},
            "status": {"containerStatuses": [{
                "name": CONTAINER, "containerID": container, "ready": true, "restartCount": 0,
                "image": "", "imageID": "", "state": {"running": {}},
            }]},
        }))
        .unwrap()
    }

    /// The id once its log has been read, if it was not known before.
    async fn get(ids: &LogIds, container: &str, reader: &LogReader) -> Option<Uuid> {
        let pod = running(container);
        let before = ids.get(&pod, reader);
        assert_eq!(before.is_awaited, before.value.is_none());
        Kubelet::answers().await;
        let after = ids.get(&pod, reader);
        assert!(!after.is_awaited);
        after.value
    }

    #[tokio::test]
    async fn an_id_is_read_once_for_each_container() {
        let (ids, kubelet) = (LogIds::default(), Kubelet::default());
        let reader = kubelet.reader();
        kubelet.say(format!("msg=replicaID={ID}"));
        for (container, times) in [
            ("containerd://1", 1),
            ("containerd://1", 1),
            ("containerd://2", 2),
        ] {
            let id = get(&ids, container, &reader).await;
            assert_eq!(id.map(|id| id.to_string()).as_deref(), Some(ID));
            assert_eq!(kubelet.asked(), times, "{container}");
            assert_eq!(kubelet.woken(), times);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_kubelet_that_does_not_answer_is_asked_once_and_waited_for_for_a_moment() {
        let (ids, kubelet) = (LogIds::default(), Kubelet::default());
        let (reader, pod) = (kubelet.reader(), running("containerd://1"));
        for (passed, is_awaited) in [
            (Duration::ZERO, true),
            (Duration::ZERO, true),
            (LOG_PATIENCE, false),
        ] {
            tokio::time::advance(passed).await;
            let value = None;
            assert_eq!(ids.get(&pod, &reader), KnownFromLog { value, is_awaited });
            Kubelet::answers().await;
        }
        assert_eq!(kubelet.asked(), 1);
    }

    #[tokio::test]
    async fn an_id_out_of_the_status_is_of_the_same_container_or_none() {
        let kubelet = Kubelet::default();
        let reader = kubelet.reader();
        kubelet.say("the head of this log is gone");
        let remembered = [ReplicaStatus {
            container_id: Some("containerd://1".to_owned()),
            replica_id: Some(ID.to_owned()),
            ..serde_json::from_value(json!({"pod": "demo-1", "heartbeat": "Fresh"})).unwrap()
        }];
        for (container, known) in [("containerd://1", true), ("containerd://2", false)] {
            let ids = LogIds::default();
            let pod = running(container);
            ids.recall(std::slice::from_ref(&pod), &remembered);
            let id = get(&ids, container, &reader).await;
            assert_eq!(id.is_some(), known, "{container}");
        }
        assert_eq!(kubelet.asked(), 1);
    }

    #[test]
    fn the_replica_id_is_found_in_text_and_in_json() {
        for line in [
            format!("time=x level=INFO msg=\"replicaID={ID}\""),
            format!("{{\"msg\":\"replicaID={ID}\"}}"),
            format!("a\nreplicaID=short\nb replicaID={ID}\n"),
        ] {
            assert_eq!(
                find_id(&line).map(|id| id.to_string()).as_deref(),
                Some(ID),
                "{line}"
            );
        }
        assert_eq!(find_id("nothing here"), None);
        assert_eq!(find_id("replicaID="), None);
    }
}
