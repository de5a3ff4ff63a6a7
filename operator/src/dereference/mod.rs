//! The first step: reads the Secrets and ConfigMaps that a spec refers to, so that `validate` has
//! their values. Nothing here judges them.

mod index;

pub use index::{KEEP, ReferenceIndex};

use crate::api::BytebaseCluster;
use crate::kubernetes::Kind;
use crate::process::queue::Key;
use crate::validate::{Fetched, References, wanted_references};
use futures::future::join_all;
use index::{Known, Ticket};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt as _};
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::{Duration, Instant};

/// A read that fails is repeated; where that lasts so long it is reported as what it is, and the
/// cluster goes on without the object: the license gate waits for no Secret.
const UNREADABLE_AFTER: Duration = Duration::from_secs(30);

/// A read takes milliseconds. One without an answer has failed after so long: a reconcile waits for
/// it, and with it one of the few that run beside each other.
const READ_WITHIN: Duration = Duration::from_secs(10);

/// Reads the Secrets and ConfigMaps that a cluster names, and notes in `index` that it names them.
/// What was read a moment ago and has not changed since is not read again.
pub async fn dereference(
    client: &Client,
    index: &ReferenceIndex,
    key: &Key,
    cluster: &BytebaseCluster,
    now: Instant,
) -> Result<References, kube::Error> {
    let namespace = cluster.namespace().unwrap_or_default();
    let (secrets, config_maps) = wanted_references(&cluster.spec);
    index.set(key, &secrets, &config_maps);
    let reader = Reader {
        client,
        index,
        namespace: &namespace,
        now,
    };
    let secrets = reader.all(Kind::Secret, secrets, secret_values);
    let config_maps = reader.all(Kind::ConfigMap, config_maps, config_map_values);
    let (secrets, config_maps) = futures::future::try_join(secrets, config_maps).await?;
    Ok(References {
        secrets,
        config_maps,
    })
}

/// What is logged of a read that has taken too long.
const NO_ANSWER: &str = "the API server has not answered in time";

/// The values of an object, by key.
type Values = BTreeMap<String, Vec<u8>>;

fn secret_values(secret: Secret) -> Values {
    let data = secret.data.unwrap_or_default().into_iter();
    data.map(|(key, value)| (key, value.0)).collect()
}

/// The keys of a ConfigMap, whichever of its two fields they stand in. Kubernetes lets no key stand
/// in both, and mounts both alike.
fn config_map_values(map: ConfigMap) -> Values {
    let text = map.data.unwrap_or_default().into_iter();
    let binary = map.binary_data.unwrap_or_default().into_iter();
    text.map(|(key, value)| (key, value.into_bytes()))
        .chain(binary.map(|(key, value)| (key, value.0)))
        .collect()
}

/// Reads objects of one namespace.
struct Reader<'a> {
    client: &'a Client,
    index: &'a ReferenceIndex,
    namespace: &'a str,
    now: Instant,
}

impl Reader<'_> {
    async fn all<K>(
        &self,
        kind: Kind,
        names: BTreeSet<String>,
        values: fn(K) -> Values,
    ) -> Result<BTreeMap<String, Fetched>, kube::Error>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let api: Api<K> = Api::namespaced(self.client.clone(), self.namespace);
        let reads = names.into_iter().map(|name| {
            let api = &api;
            async move {
                let fetched = match self.index.known(kind, self.namespace, &name) {
                    Known::Kept(fetched) => fetched,
                    Known::Unread(ticket) => self.read(kind, api, &name, ticket, values).await?,
                };
                Ok((name, fetched))
            }
        });
        join_all(reads).await.into_iter().collect()
    }

    async fn read<K>(
        &self,
        kind: Kind,
        api: &Api<K>,
        name: &str,
        ticket: Ticket,
        values: fn(K) -> Values,
    ) -> Result<Fetched, kube::Error>
    where
        K: kube::Resource + Clone + Debug + DeserializeOwned,
    {
        let read = tokio::time::timeout(READ_WITHIN, api.get(name)).await;
        let read = read.unwrap_or_else(|_| Err(kube::Error::Service(NO_ANSWER.into())));
        let code = match &read {
            Err(kube::Error::Api(status)) => Some(status.code),
            Ok(_) | Err(_) => None,
        };
        let fails = read.is_err() && !matches!(code, Some(403 | 404));
        let since = fails.then_some(self.now);
        let failing = self.index.failing(kind, self.namespace, name, since);
        let lasts = failing
            .is_some_and(|since| self.now.saturating_duration_since(since) >= UNREADABLE_AFTER);
        let object = match (read, code) {
            (Ok(object), _) => object,
            (Err(_), Some(404)) => return Ok(Fetched::Missing),
            (Err(_), Some(403)) => return Ok(Fetched::Forbidden),
            (Err(_), code) if lasts => return Ok(Fetched::Unreadable(code)),
            (Err(error), _) => return Err(error),
        };
        let metadata = object.meta().clone();
        let values = values(object).into_iter();
        let fetched = Fetched::Present(values.map(|(key, value)| (key, value.into())).collect());
        self.index.keep(kind, &metadata, &fetched, ticket, self.now);
        Ok(fetched)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate::validate;
    use serde_json::json;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};

    #[tokio::test]
    async fn what_the_api_server_fails_to_read_for_long_is_reported_and_read_again() {
        let code = Arc::new(AtomicU16::new(500));
        let answers = Arc::clone(&code);
        let client = crate::testing::api_server("apps", move |_, uri, _| {
            let code = answers.load(Ordering::Relaxed);
            let body = if code == 200 {
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "pg"}, "data": {"url": "cG9zdGdyZXM="}})
            } else {
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "InternalError", "message": "pl4nted"})
            };
            assert!(uri.path().ends_with("/secrets/pg"), "{uri}");
            Some((code, body))
        });
        let spec = json!({"database": {"urlSecretRef": {"name": "pg", "key": "url"}}});
        let cluster = crate::testing::cluster(&spec);
        let index = ReferenceIndex::default();
        let (key, start) = (Key::from_obj(&cluster), Instant::now());
        let read = async |seconds| {
            let now = start + Duration::from_secs(seconds);
            dereference(&client, &index, &key, &cluster, now).await
        };
        for seconds in [0, 10, 29] {
            assert!(read(seconds).await.is_err(), "after {seconds} s");
        }
        let lasting = read(30).await.unwrap();
        assert!(lasting.holds_unreadable());
        let validation = validate(&cluster, &lasting, None, crate::testing::now());
        let message = &validation.problems[0].message;
        assert!(message.contains("HTTP status 500"), "{message}");
        assert!(!format!("{validation:?}").contains("pl4nted"));
        code.store(200, Ordering::Relaxed);
        assert!(!read(31).await.unwrap().holds_unreadable());
        // It counts from the beginning again.
        code.store(503, Ordering::Relaxed);
        assert!(read(400).await.is_err());
    }

    /// Such as where the API server waits for the service that decrypts Secrets.
    #[tokio::test(start_paused = true)]
    async fn a_read_that_is_not_answered_for_long_is_reported_too() {
        let client = crate::testing::api_server("apps", |_, _, _| None);
        let spec = json!({"database": {"urlSecretRef": {"name": "pg", "key": "url"}}});
        let cluster = crate::testing::cluster(&spec);
        let index = ReferenceIndex::default();
        let (key, start) = (Key::from_obj(&cluster), Instant::now());
        let read = async |seconds| {
            let begun = tokio::time::Instant::now();
            let now = start + Duration::from_secs(seconds);
            let read = dereference(&client, &index, &key, &cluster, now).await;
            (read, begun.elapsed())
        };
        for seconds in [0, 11, 29] {
            let (read, took) = read(seconds).await;
            assert!(read.is_err(), "after {seconds} s");
            assert!(took <= READ_WITHIN + Duration::from_secs(1), "{took:?}");
        }
        let lasting = read(30).await.0.unwrap();
        assert!(lasting.holds_unreadable());
        let validation = validate(&cluster, &lasting, None, crate::testing::now());
        let message = &validation.problems[0].message;
        assert!(message.contains("has not answered"), "{message}");
        assert!(!message.contains("decrypted"), "{message}");
    }

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
