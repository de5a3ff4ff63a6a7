//! The first step: reads the Secrets and ConfigMaps that a spec refers to, so that `validate` has
//! their values. Nothing here judges them.

mod index;

pub use index::ReferenceIndex;

use crate::api::BytebaseCluster;
use crate::process::queue::Key;
use crate::validate::{Fetched, References, wanted_references};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _};
use std::collections::{BTreeMap, BTreeSet};

/// Reads the Secrets and ConfigMaps that a cluster names, and notes in `index` that it names them.
/// Values are never cached.
pub async fn dereference(
    client: &Client,
    index: &ReferenceIndex,
    key: &Key,
    cluster: &BytebaseCluster,
) -> Result<References, kube::Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let (secrets, config_maps) = wanted_references(&cluster.spec);
    index.set(key, &secrets, &config_maps);
    let secret_api: Api<Secret> = Api::namespaced(client.clone(), &namespace);
    let config_map_api: Api<ConfigMap> = Api::namespaced(client.clone(), &namespace);
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
