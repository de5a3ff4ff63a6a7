//! One cluster as it stands: its objects out of the caches, its Secrets by a fresh read, its
//! replicas' ids out of their logs.

use super::pod::{self, LogIds, LogReader};
use crate::api::BytebaseCluster;
use crate::api::spec::MOST_REPLICAS;
use crate::desired::drain::TEMPLATE_ANNOTATION;
use crate::desired::{VERSION_ANNOTATION, selector_labels};
use crate::observation::{PodView, StatefulSetView};
use crate::validate::{Fetched, References, wanted_references};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
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
/// cluster, whatever size somebody has scaled it to.
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

/// The pods of one cluster as plain values, by ordinal, each with the id out of its log.
/// `unmounted` says which volume of a pod cannot be mounted.
pub async fn pods(
    ids: &LogIds,
    reader: &LogReader,
    pods: &[Pod],
    unmounted: impl Fn(&Pod) -> Option<String>,
) -> Vec<PodView> {
    let mut views: Vec<_> = join_all(pods.iter().map(|pod| async {
        let id = ids.get(pod, reader).await;
        pod::view(pod, id, unmounted(pod).as_deref())
    }))
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
}
