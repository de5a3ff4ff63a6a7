//! One cluster as it stands: its objects out of the caches, its replicas' ids out of their logs.

use super::caches::ObjectName;
use super::log_ids::LogIds;
use super::log_lines::{LogLines, LogPlace};
use super::log_reads::{KnownFromLog, LogReader};
use super::pod;
use crate::api::spec::MOST_REPLICAS;
use crate::api::status::ReplicaStatus;
use crate::desired::template::TEMPLATE_ANNOTATION;
use crate::desired::{CHECKSUM_ANNOTATION, VERSION_ANNOTATION, selector_labels};
use crate::observation::{LogQuote, PodView, StatefulSetView};
use crate::redaction::KnownSecrets;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use std::sync::Arc;

/// The StatefulSet as a plain value.
pub fn stateful_set(set: &StatefulSet) -> StatefulSetView {
    let spec = set.spec.as_ref();
    let status = set.status.as_ref();
    let template = spec.map(|spec| &spec.template);
    StatefulSetView {
        resource_version: set.resource_version(),
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        start: first_ordinal(set),
        settled: status.and_then(|status| status.observed_generation) >= set.metadata.generation,
        pods: status.map_or(0, |status| status.replicas),
        update_revision: status.and_then(|status| status.update_revision.clone()),
        template_digest: set.annotations().get(TEMPLATE_ANNOTATION).cloned(),
        // Kubernetes' own types are JSON.
        template: serde_json::to_value(template).unwrap_or_default(),
        version: template
            .and_then(|template| template.metadata.as_ref())
            .and_then(|metadata| metadata.annotations.as_ref())
            .and_then(|annotations| annotations.get(VERSION_ANNOTATION).cloned()),
    }
}

fn first_ordinal(set: &StatefulSet) -> i32 {
    let spec = set.spec.as_ref();
    spec.and_then(|spec| spec.ordinals.as_ref()?.start)
        .unwrap_or(0)
}

/// Names of the pods that the StatefulSet should have and has not; of those that fit into any
/// cluster, whatever size it was scaled to by hand.
pub fn missing(set: &StatefulSet, pods: &[PodView]) -> Vec<String> {
    let wanted = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let start = first_ordinal(set);
    (start..start.saturating_add(wanted.min(MOST_REPLICAS)))
        .filter(|ordinal| pods.iter().all(|pod| pod.ordinal != *ordinal))
        .map(|ordinal| format!("{}-{ordinal}", set.name_any()))
        .collect()
}

/// What is read of the logs of pods.
pub struct Logs<'a> {
    /// Ids of the replicas.
    pub ids: &'a LogIds,
    /// Why replicas are not up.
    pub lines: &'a LogLines,
    /// How they are read.
    pub reader: LogReader,
    /// What status said of the replicas.
    pub remembered: &'a [ReplicaStatus],
    /// What no line may show; `None` where that is not known, and then none is shown. Asked only
    /// where there is a line to show: nearly always all replicas are up.
    pub secrets: &'a dyn Fn() -> Option<Arc<KnownSecrets>>,
    /// Checksum of the secrets that a replica is started with now, where it is known.
    pub checksum: Option<&'a str>,
    /// How long a replica may take to come up.
    pub patience: Option<SignedDuration>,
    /// The time.
    pub now: Timestamp,
}

impl Logs<'_> {
    fn quote(&self, pod: &Pod) -> KnownFromLog<LogQuote> {
        let Some(log) = LogPlace::of(pod, self.patience, self.now) else {
            self.lines.forget(&ObjectName::of(pod));
            return KnownFromLog::nothing();
        };
        let Some(secrets) = (self.secrets)() else {
            return KnownFromLog::nothing();
        };
        // A process that was started with another login may print that. It is known no longer, so
        // nothing could find it in the log.
        let checksum = pod.annotations().get(CHECKSUM_ANNOTATION);
        if checksum.is_none() || checksum.map(String::as_str) != self.checksum {
            self.lines.withhold(pod, &log);
            let previous = log.is_previous();
            return KnownFromLog {
                value: Some(LogQuote::Withheld { previous }),
                is_awaited: false,
            };
        }
        self.lines.recall(pod, self.remembered, &secrets);
        let line = self.lines.get(pod, log, secrets, &self.reader);
        KnownFromLog {
            value: line.value.map(LogQuote::Line),
            is_awaited: line.is_awaited,
        }
    }
}

/// The pods of one cluster.
pub struct Pods {
    /// By ordinal, each with what its log says.
    pub views: Vec<PodView>,
    /// One of the logs may say more in a moment.
    pub await_logs: bool,
}

/// The pods of one cluster as plain values. `unprepared` says why a pod cannot be prepared for its
/// containers.
pub fn pods(logs: &Logs<'_>, pods: &[Pod], unprepared: impl Fn(&Pod) -> Option<String>) -> Pods {
    let mut await_logs = false;
    let views = pods.iter().filter_map(|pod| {
        let (id, quote) = (logs.ids.get(pod, &logs.reader), logs.quote(pod));
        await_logs |= id.is_awaited || quote.is_awaited;
        Some(PodView {
            log_quote: quote.value,
            ..pod::view(pod, id.value, unprepared(pod).as_deref())?
        })
    });
    let mut views: Vec<_> = views.collect();
    views.sort_by_key(|view| view.ordinal);
    Pods { views, await_logs }
}

/// Whether a pod is one of this cluster's StatefulSet, by owner and labels. Where there is none,
/// one that nothing controls is as well: it lost its StatefulSet (`kubectl delete statefulset
/// --cascade=orphan`), and the next one takes it over. One that ends with the StatefulSet before
/// (`kubectl delete statefulset`) is as well: it works until its drain is over.
pub fn is_ours(pod: &Pod, name: &str, stateful_set_uid: Option<&str>) -> bool {
    let labelled = selector_labels(name)
        .iter()
        .all(|(key, value)| pod.labels().get(key) == Some(value));
    let mut owners = pod.owner_references().iter();
    let controller = owners.find(|owner| owner.controller == Some(true));
    let belongs = match (controller, stateful_set_uid) {
        (Some(owner), uid) => {
            let ends_with_it = pod.metadata.deletion_timestamp.is_some() && owner.name == name;
            owner.kind == "StatefulSet" && uid.is_none_or(|uid| uid == owner.uid || ends_with_it)
        }
        (None, uid) => uid.is_none(),
    };
    labelled && belongs
}

#[cfg(test)]
mod tests {
    use super::super::log_reads::kubelet::Kubelet;
    use super::*;
    use crate::testing::now;
    use serde_json::{Value, json};

    /// A pod with a process that ended, whatever it is now.
    fn pod(ready: &str) -> Pod {
        let state = |name: &str, container: &str| -> Value {
            json!({name: {"exitCode": 0, "containerID": container}})
        };
        serde_json::from_value(json!({
            "metadata": {"name": "demo-0", "uid": "u", "annotations": {CHECKSUM_ANNOTATION: "now"}},
            "status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "containerStatuses": [{
                    "name": "bytebase", "ready": false, "restartCount": 1, "image": "", "imageID": "",
                    "state": {"waiting": {}}, "lastState": state("terminated", "containerd://1"),
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_pod_that_ends_with_the_stateful_set_before_belongs_to_the_cluster() {
        let owned = |kind: &str, name: &str, uid: &str, deleting: bool| -> Pod {
            serde_json::from_value(json!({"metadata": {
                "name": "demo-2",
                "labels": selector_labels("demo"),
                "deletionTimestamp": deleting.then_some("2026-06-01T01:00:00Z"),
                "ownerReferences": [{
                    "apiVersion": "apps/v1", "kind": kind, "name": name, "uid": uid,
                    "controller": true,
                }],
            }}))
            .unwrap()
        };
        for (kind, name, uid, deleting, expected) in [
            ("StatefulSet", "demo", "now", false, true),
            ("StatefulSet", "demo", "before", true, true),
            ("StatefulSet", "demo", "before", false, false),
            ("StatefulSet", "other", "before", true, false),
            ("ReplicaSet", "demo", "before", true, false),
        ] {
            let pod = owned(kind, name, uid, deleting);
            let is_ours = is_ours(&pod, "demo", Some("now"));
            assert_eq!(is_ours, expected, "{kind} {name} {uid} {deleting}");
        }
        let before = owned("StatefulSet", "demo", "before", true);
        assert!(!is_ours(&before, "another", Some("now")));
    }

    #[tokio::test]
    async fn secrets_are_gathered_only_where_a_log_is_to_be_quoted() {
        let (ids, lines) = (LogIds::default(), LogLines::default());
        for (ready, expected) in [("True", 0), ("False", 1), ("True", 0)] {
            let asked = std::cell::Cell::new(0);
            let logs = Logs {
                ids: &ids,
                lines: &lines,
                reader: Kubelet::default().reader(),
                remembered: &[],
                secrets: &|| {
                    asked.set(asked.get() + 1);
                    Some(Arc::default())
                },
                checksum: Some("now"),
                patience: None,
                now: now(),
            };
            assert_eq!(pods(&logs, &[pod(ready)], |_| None).views.len(), 1);
            assert_eq!(asked.get(), expected, "{ready}");
            // Nothing is kept of one that is well.
            assert_eq!(lines.pods().len(), expected, "{ready}");
        }
    }

    #[tokio::test]
    async fn the_log_of_a_process_with_other_secrets_is_neither_read_nor_quoted() {
        let kubelet = Kubelet::default();
        kubelet.say("Error: it was correcthorse");
        let withheld = Some(LogQuote::Withheld { previous: true });
        for (checksum, expected, reads) in [
            (Some("before"), withheld.clone(), 0),
            // It cannot be known.
            (None, withheld, 0),
            (Some("now"), None, 1),
        ] {
            let logs = Logs {
                ids: &LogIds::default(),
                lines: &LogLines::default(),
                reader: kubelet.reader(),
                remembered: &[],
                secrets: &|| Some(Arc::default()),
                checksum,
                patience: None,
                now: now(),
            };
            let seen = pods(&logs, &[pod("False")], |_| None);
            assert_eq!(seen.views[0].log_quote, expected, "{checksum:?}");
            Kubelet::answers().await;
            assert_eq!(kubelet.asked(), reads, "{checksum:?}");
        }
    }

    /// What the Secret held when the process started may be put back before anything is read.
    #[tokio::test]
    async fn a_log_that_was_withheld_stays_so() {
        let kubelet = Kubelet::default();
        kubelet.say("Error: it was correcthorse");
        let (ids, lines) = (LogIds::default(), LogLines::default());
        for checksum in ["other", "now", "now"] {
            let logs = Logs {
                ids: &ids,
                lines: &lines,
                reader: kubelet.reader(),
                remembered: &[],
                secrets: &|| Some(Arc::default()),
                checksum: Some(checksum),
                patience: None,
                now: now(),
            };
            let quote = pods(&logs, &[pod("False")], |_| None).views[0]
                .log_quote
                .clone();
            assert!(!matches!(quote, Some(LogQuote::Line(_))), "{quote:?}");
            Kubelet::answers().await;
        }
        assert_eq!(kubelet.asked(), 0);
    }
}
