//! Which clusters a changed Secret or ConfigMap concerns.

use crate::kubernetes::Kind;
use crate::process::queue::Key;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Which clusters name which Secret or ConfigMap.
#[derive(Default)]
pub struct ReferenceIndex(Mutex<Index>);

#[derive(Default)]
struct Index {
    clusters: HashMap<Reference, HashSet<Key>>,
    references: HashMap<Key, HashSet<Reference>>,
}

/// Whether it is a Secret (else a ConfigMap), namespace, and name.
type Reference = (bool, String, String);

impl ReferenceIndex {
    /// The Secrets and ConfigMaps a cluster names now.
    pub fn set(&self, key: &Key, secrets: &BTreeSet<String>, config_maps: &BTreeSet<String>) {
        let namespace = key.namespace.clone().unwrap_or_default();
        let named = |secret: bool, names: &BTreeSet<String>| {
            names
                .iter()
                .map(|name| (secret, namespace.clone(), name.clone()))
                .collect::<Vec<_>>()
        };
        let references: HashSet<_> = named(true, secrets)
            .into_iter()
            .chain(named(false, config_maps))
            .collect();
        let mut index = self.0.lock();
        if index.references.get(key) == Some(&references) {
            return;
        }
        index.remove(key);
        for reference in &references {
            index
                .clusters
                .entry(reference.clone())
                .or_default()
                .insert(key.clone());
        }
        index.references.insert(key.clone(), references);
    }

    /// Clusters that name this object.
    pub fn of(&self, kind: Kind, namespace: &str, name: &str) -> Vec<Key> {
        let reference = (kind == Kind::Secret, namespace.to_owned(), name.to_owned());
        self.0
            .lock()
            .clusters
            .get(&reference)
            .map(|keys| keys.iter().cloned().collect())
            .unwrap_or_default()
    }

    /// Forgets a cluster.
    pub fn forget(&self, key: &Key) {
        self.0.lock().remove(key);
    }
}

impl Index {
    fn remove(&mut self, key: &Key) {
        for reference in self.references.remove(key).unwrap_or_default() {
            if let Some(keys) = self.clusters.get_mut(&reference) {
                keys.remove(key);
                if keys.is_empty() {
                    self.clusters.remove(&reference);
                }
            }
        }
    }
}
