//! One cluster as it stands: its objects out of the caches, its Secrets by a fresh read, its
//! replicas' ids out of their logs.

use super::pod::{self, LogIds, LogReader};
use crate::api::BytebaseCluster;
use crate::decide::observation::{PodView, StatefulSetView};
use crate::desired::{VERSION_ANNOTATION, selector_labels};
use crate::validate::{Fetched, References, wanted_references};
use futures::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod, Secret};
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt as _};
use std::collections::{BTreeMap, BTreeSet};

/// Reads the Secrets and ConfigMaps that a cluster names. Values are never cached.
pub async fn references(
    client: &Client,
    cluster: &BytebaseCluster,
    namespace: &str,
) -> Result<References, kube::Error> {
    let (secrets, config_maps) = wanted_references(&cluster.spec);
    let secret_api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let config_map_api: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let secrets = fetch_all(secrets, |name| {
        let api = &secret_api;
        async move {
            api.get(&name).await.map(|secret| {
                secret
                    .data
                    .unwrap_or_default()
                    .into_iter()
                    .map(|(key, value)| (key, value.0))
                    .collect()
            })
        }
    });
    let config_maps = fetch_all(config_maps, |name| {
        let api = &config_map_api;
        async move { api.get(&name).await.map(config_map_values) }
    });
    let (secrets, config_maps) = futures::future::try_join(secrets, config_maps).await?;
    Ok(References {
        secrets,
        config_maps,
    })
}

/// The keys of a ConfigMap, whichever of its two fields they stand in. Kubernetes lets no key stand
/// in both, and mounts both alike.
fn config_map_values(map: ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map.data.unwrap_or_default().into_iter();
    let binary = map.binary_data.unwrap_or_default().into_iter();
    text.map(|(key, value)| (key, value.into_bytes()))
        .chain(binary.map(|(key, value)| (key, value.0)))
        .collect()
}

async fn fetch_all<F, R>(
    names: BTreeSet<String>,
    get: F,
) -> Result<BTreeMap<String, Fetched>, kube::Error>
where
    F: Fn(String) -> R,
    R: Future<Output = Result<BTreeMap<String, Vec<u8>>, kube::Error>>,
{
    let reads = names.into_iter().map(|name| {
        let read = get(name.clone());
        async move {
            let fetched = match read.await {
                Ok(values) => Fetched::Present(
                    values
                        .into_iter()
                        .map(|(key, value)| (key, value.into()))
                        .collect(),
                ),
                Err(kube::Error::Api(status)) if status.code == 404 => Fetched::Missing,
                Err(kube::Error::Api(status)) if status.code == 403 => Fetched::Forbidden,
                Err(error) => return Err(error),
            };
            Ok((name, fetched))
        }
    });
    join_all(reads).await.into_iter().collect()
}

/// The StatefulSet as a plain value.
pub fn stateful_set(set: &StatefulSet) -> StatefulSetView {
    let spec = set.spec.as_ref();
    let status = set.status.as_ref();
    let template = spec.map(|spec| &spec.template);
    StatefulSetView {
        replicas: spec.and_then(|spec| spec.replicas).unwrap_or(1),
        start: first_ordinal(set),
        settled: status.and_then(|status| status.observed_generation) >= set.metadata.generation,
        update_revision: status.and_then(|status| status.update_revision.clone()),
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

/// Names of the pods that the StatefulSet should have and has not.
pub fn missing(set: &StatefulSet, pods: &[PodView]) -> Vec<String> {
    let wanted = set
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1);
    let start = first_ordinal(set);
    (start..start.saturating_add(wanted))
        .filter(|ordinal| pods.iter().all(|pod| pod.ordinal != *ordinal))
        .map(|ordinal| format!("{}-{ordinal}", set.name_any()))
        .collect()
}

/// Why the controller of this StatefulSet could not make one of these pods, in the words of whoever
/// refused. Of several reasons always the same, since status must not change while nothing does. A
/// refusal of before the pod was last made explains nothing.
pub async fn refusal(
    client: &Client,
    namespace: &str,
    set_uid: &str,
    missing: &[String],
) -> Result<Option<String>, kube::Error> {
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    let of_set = format!("involvedObject.uid={set_uid}");
    let events = api.list(&ListParams::default().fields(&of_set)).await?;
    Ok(refusal_in(&events.items, missing))
}

fn refusal_in(events: &[Event], missing: &[String]) -> Option<String> {
    let of = |pod: &str, reason: &str| {
        let (about, reason) = (format!("Pod {pod} "), Some(reason.to_owned()));
        events.iter().filter(move |event| {
            let message = event.message.as_deref().unwrap_or_default();
            event.reason == reason && message.contains(&about)
        })
    };
    let refused = missing.iter().flat_map(|pod| {
        let made = of(pod, "SuccessfulCreate").map(last_seen).max();
        of(pod, "FailedCreate").filter(move |event| Some(last_seen(event)) > made)
    });
    refused.filter_map(|event| event.message.clone()).min()
}

/// When what an event speaks of last happened.
fn last_seen(event: &Event) -> Timestamp {
    let series = event.series.as_ref();
    let times = [
        series.and_then(|series| series.last_observed_time.as_ref().map(|time| time.0)),
        event.last_timestamp.as_ref().map(|time| time.0),
        event.event_time.as_ref().map(|time| time.0),
    ];
    times.into_iter().flatten().max().unwrap_or(Timestamp::MIN)
}

/// The pods of one cluster as plain values, by ordinal, each with the id out of its log.
pub async fn pods(ids: &LogIds, reader: &LogReader, pods: &[Pod]) -> Vec<PodView> {
    let mut views: Vec<_> = join_all(
        pods.iter()
            .map(|pod| async { pod::view(pod, ids.get(pod, reader).await) }),
    )
    .await
    .into_iter()
    .flatten()
    .collect();
    views.sort_by_key(|view| view.ordinal);
    views
}

/// Whether a pod is one of this cluster's StatefulSet, by owner and labels.
pub fn is_ours(pod: &Pod, name: &str, stateful_set_uid: Option<&str>) -> bool {
    let labelled = selector_labels(name)
        .iter()
        .all(|(key, value)| pod.labels().get(key) == Some(value));
    let owned = pod.owner_references().iter().any(|owner| {
        owner.controller == Some(true)
            && owner.kind == "StatefulSet"
            && stateful_set_uid.is_none_or(|uid| uid == owner.uid)
    });
    labelled && owned
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_config_map_holds_text_and_binary_data() {
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {}, "data": {"a": "text"}, "binaryData": {"ca.crt": "cGVt"},
        }))
        .unwrap();
        let values = config_map_values(map);
        assert_eq!(values["a"], b"text");
        assert_eq!(values.get("ca.crt"), Some(&b"pem".to_vec()));
    }

    #[test]
    fn a_refusal_of_before_the_pod_was_made_explains_nothing() {
        let event = |reason: &str, pod: &str, minute: u32| -> Event {
            serde_json::from_value(json!({
                "metadata": {}, "involvedObject": {}, "reason": reason,
                "message": format!("create Pod {pod} in StatefulSet demo: {minute}"),
                "lastTimestamp": format!("2026-06-01T00:{minute:02}:00Z"),
            }))
            .unwrap()
        };
        let missing = ["demo-1".to_owned()];
        let refusal = |events: &[Event]| refusal_in(events, &missing).is_some();
        assert!(refusal(&[event("FailedCreate", "demo-1", 5)]));
        assert!(
            !refusal(&[event("FailedCreate", "demo-10", 5)]),
            "of another pod"
        );
        assert!(!refusal(&[
            event("FailedCreate", "demo-1", 5),
            event("SuccessfulCreate", "demo-1", 6),
        ]));
        assert!(refusal(&[
            event("FailedCreate", "demo-1", 7),
            event("SuccessfulCreate", "demo-1", 6),
            event("SuccessfulCreate", "demo-2", 9),
        ]));
    }
}
