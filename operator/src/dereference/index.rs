//! Which clusters a changed Secret or ConfigMap concerns, and what was just read of it.

use crate::kubernetes::Kind;
use crate::process::queue::Key;
use crate::validate::Fetched;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::{Duration, Instant};

/// How long what was read is kept: until a new cluster, even one of a thousand, has come to rest.
/// The reconciles that its own objects cause in that time need no further read.
pub const KEEP: Duration = Duration::from_mins(2);
/// Largest object that is kept, in bytes of its values. A connection string, a license and a CA
/// bundle are smaller; what a tenant puts beside them must not fill the memory.
const LARGEST: usize = 32 * 1024;

/// Which clusters name which Secret or ConfigMap, and what was read of one in the last minutes.
///
/// Nothing is kept that the watch of its kind would not take back: a value stands until the watch
/// shows another version, and none is kept while the watch fails.
#[derive(Default)]
pub struct ReferenceIndex(Mutex<Index>);

#[derive(Default)]
struct Index {
    references: HashMap<Reference, Named>,
    clusters: HashMap<Key, HashSet<Reference>>,
    /// Kinds and namespaces (`None`: all) whose watch works.
    watched: HashSet<(bool, Option<String>)>,
}

/// Whether it is a Secret (else a ConfigMap), namespace, and name.
type Reference = (bool, String, String);

/// An object that some cluster names.
#[derive(Default)]
struct Named {
    clusters: HashSet<Key>,
    /// `resourceVersion` that the watch showed last.
    shown: Option<String>,
    /// The listing that is coming in has shown it.
    is_listed: bool,
    /// How often the watch has shown it, or has failed.
    changes: u64,
    kept: Option<Kept>,
    /// Since when each answer of the API server is a failure.
    fails_since: Option<Instant>,
}

struct Kept {
    version: String,
    fetched: Fetched,
    read_at: Instant,
}

/// What is known of an object before it is read.
pub enum Known {
    /// This, which still holds.
    Kept(Fetched),
    /// Nothing: read it, and hand this back with what came.
    Unread(Ticket),
}

/// How often an object had changed before it was read.
#[derive(Clone, Copy, Debug)]
pub struct Ticket(u64);

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
        let before = index.clusters.get(key).cloned().unwrap_or_default();
        if before == references {
            return;
        }
        for reference in &references {
            let named = index.references.entry(reference.clone()).or_default();
            named.clusters.insert(key.clone());
        }
        index.withdraw(key, before.difference(&references));
        index.clusters.insert(key.clone(), references);
    }

    /// What is known of an object that a cluster names.
    pub fn known(&self, kind: Kind, namespace: &str, name: &str) -> Known {
        let index = self.0.lock();
        let named = index.references.get(&reference(kind, namespace, name));
        match named.and_then(|named| named.kept.as_ref()) {
            Some(kept) => Known::Kept(kept.fetched.clone()),
            None => Known::Unread(Ticket(named.map_or(0, |named| named.changes))),
        }
    }

    /// Keeps what was read, unless it has changed since, or no watch would show if it did.
    pub fn keep(
        &self,
        kind: Kind,
        metadata: &ObjectMeta,
        fetched: &Fetched,
        ticket: Ticket,
        now: Instant,
    ) {
        let (Some(namespace), Some(name), Some(version)) = (
            metadata.namespace.as_deref(),
            metadata.name.as_deref(),
            metadata.resource_version.clone(),
        ) else {
            return;
        };
        let mut index = self.0.lock();
        if !index.is_watched(kind, namespace) || fetched.size() > LARGEST {
            return;
        }
        let Some(named) = index.references.get_mut(&reference(kind, namespace, name)) else {
            return;
        };
        if named.changes == ticket.0 || named.shown.as_ref() == Some(&version) {
            // It is there, whether or not the watch has had a reason to show it since it is named.
            named.shown.get_or_insert_with(|| version.clone());
            named.kept = Some(Kept {
                version,
                fetched: fetched.clone(),
                read_at: now,
            });
        }
    }

    /// Notes what came of a read of an object: `at` is the moment of it if the read has failed, and
    /// `None` if it has not. Returns since when it has done
    /// nothing else.
    pub fn failing(
        &self,
        kind: Kind,
        namespace: &str,
        name: &str,
        at: Option<Instant>,
    ) -> Option<Instant> {
        let mut index = self.0.lock();
        let named = index
            .references
            .get_mut(&reference(kind, namespace, name))?;
        named.fails_since = at.map(|at| named.fails_since.unwrap_or(at));
        named.fails_since
    }

    /// The watch shows an object, changed or gone. Returns the clusters that this is news to: a
    /// listing shows all objects, and may be repeated again and again.
    pub fn shown(&self, kind: Kind, metadata: &ObjectMeta) -> Vec<Key> {
        let (namespace, name) = (metadata.namespace.as_deref(), metadata.name.as_deref());
        let (Some(namespace), Some(name)) = (namespace, name) else {
            return Vec::new();
        };
        let mut index = self.0.lock();
        let Some(named) = index.references.get_mut(&reference(kind, namespace, name)) else {
            return Vec::new();
        };
        named.changes += 1;
        named.is_listed = true;
        let version = metadata.resource_version.clone();
        let before = std::mem::replace(&mut named.shown, version);
        let kept = named.kept.as_ref().map(|kept| &kept.version);
        if named.shown.is_some() && [before.as_ref(), kept].contains(&named.shown.as_ref()) {
            return Vec::new();
        }
        named.kept = None;
        named.clusters.iter().cloned().collect()
    }

    /// A watch lists all objects of a kind, in one namespace (`None`: in all).
    pub fn listing_begins(&self, kind: Kind, namespace: Option<&str>) {
        let mut index = self.0.lock();
        for (_, named) in index.watched_by(kind, namespace) {
            named.is_listed = false;
        }
    }

    /// The listing has come in: what was shown before and is not in it has gone while the watch was
    /// away. Returns the clusters that this is news to.
    pub fn listing_ends(&self, kind: Kind, namespace: Option<&str>) -> Vec<Key> {
        let mut index = self.0.lock();
        let mut concerned = Vec::new();
        for (_, named) in index.watched_by(kind, namespace) {
            if !named.is_listed && named.shown.take().is_some() {
                named.changes += 1;
                named.kept = None;
                concerned.extend(named.clusters.iter().cloned());
            }
        }
        concerned
    }

    /// Notes whether the watch of a kind works, in one namespace (`None`: in all).
    pub fn watched(&self, kind: Kind, namespace: Option<&str>, works: bool) {
        let watch = (kind == Kind::Secret, namespace.map(str::to_owned));
        let mut index = self.0.lock();
        if works {
            index.watched.insert(watch);
        } else if index.watched.remove(&watch) {
            // What changes now is shown late or never.
            for (_, named) in index.watched_by(kind, namespace) {
                named.changes += 1;
                named.kept = None;
            }
        }
    }

    /// Lets go of what was read long enough ago.
    pub fn expire(&self, now: Instant) {
        for named in self.0.lock().references.values_mut() {
            named
                .kept
                .take_if(|kept| now.saturating_duration_since(kept.read_at) >= KEEP);
        }
    }

    /// Forgets a cluster.
    pub fn forget(&self, key: &Key) {
        let mut index = self.0.lock();
        let before = index.clusters.remove(key).unwrap_or_default();
        index.withdraw(key, &before);
    }
}

impl Index {
    /// What a watch shows.
    fn watched_by<'a>(
        &'a mut self,
        kind: Kind,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Reference, &'a mut Named)> {
        self.references
            .iter_mut()
            .filter(move |((secret, of, _), _)| {
                let is_there = namespace.is_none_or(|namespace| namespace == of);
                *secret == (kind == Kind::Secret) && is_there
            })
    }

    /// A cluster names these no longer.
    fn withdraw<'a>(&mut self, key: &Key, references: impl IntoIterator<Item = &'a Reference>) {
        for reference in references {
            if let Some(named) = self.references.get_mut(reference) {
                named.clusters.remove(key);
                if named.clusters.is_empty() {
                    self.references.remove(reference);
                }
            }
        }
    }

    fn is_watched(&self, kind: Kind, namespace: &str) -> bool {
        let secret = kind == Kind::Secret;
        [None, Some(namespace.to_owned())]
            .into_iter()
            .any(|watched| self.watched.contains(&(secret, watched)))
    }
}

fn reference(kind: Kind, namespace: &str, name: &str) -> Reference {
    (kind == Kind::Secret, namespace.to_owned(), name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::reflector::ObjectRef;

    #[test]
    fn failures_count_from_the_first_after_any_other_answer() {
        let index = ReferenceIndex::default();
        let at = Instant::now();
        let note = |at| index.failing(Kind::Secret, "apps", "pg", at);
        let failed = |seconds| {
            let now = at + Duration::from_secs(seconds);
            note(Some(now)).map_or(0, |since| now.duration_since(since).as_secs())
        };
        assert_eq!([failed(0), failed(40)], [0, 0], "no cluster names it");
        index.set(&key(), &["pg".to_owned()].into(), &BTreeSet::new());
        assert_eq!([failed(50), failed(79)], [0, 29]);
        assert_eq!(note(None), None);
        assert_eq!([failed(80), failed(81)], [0, 1]);
        index.forget(&key());
        assert_eq!(failed(99), 0);
    }

    fn key() -> Key {
        ObjectRef::new("demo").within("apps")
    }

    fn metadata(version: &str) -> ObjectMeta {
        ObjectMeta {
            namespace: Some("apps".to_owned()),
            name: Some("pg".to_owned()),
            resource_version: Some(version.to_owned()),
            ..ObjectMeta::default()
        }
    }

    fn fetched(bytes: usize) -> Fetched {
        Fetched::Present([("key".to_owned(), vec![0; bytes].into())].into())
    }

    /// An index over one cluster that names one Secret, whose watch works.
    fn index() -> ReferenceIndex {
        let index = ReferenceIndex::default();
        index.watched(Kind::Secret, Some("apps"), true);
        index.set(&key(), &["pg".to_owned()].into(), &BTreeSet::new());
        index
    }

    fn known(index: &ReferenceIndex) -> Known {
        index.known(Kind::Secret, "apps", "pg")
    }

    fn is_kept(index: &ReferenceIndex) -> bool {
        matches!(known(index), Known::Kept(_))
    }

    /// Reads version 1, in the middle of which something happens.
    fn read(index: &ReferenceIndex, meanwhile: impl FnOnce(&ReferenceIndex)) {
        let Known::Unread(ticket) = known(index) else {
            panic!("it is kept");
        };
        meanwhile(index);
        let now = Instant::now();
        index.keep(Kind::Secret, &metadata("1"), &fetched(1), ticket, now);
    }

    #[test]
    fn what_was_read_stands_until_the_watch_shows_another_version() {
        let index = index();
        read(&index, |_| {});
        assert!(is_kept(&index));
        // The watch is late, or lists again.
        assert_eq!(index.shown(Kind::Secret, &metadata("1")), []);
        // Another object of that name.
        assert_eq!(index.shown(Kind::ConfigMap, &metadata("2")), []);
        assert!(is_kept(&index));
        assert_eq!(index.shown(Kind::Secret, &metadata("2")), [key()]);
        assert!(!is_kept(&index));
        assert_eq!(index.shown(Kind::Secret, &metadata("3")), [key()]);
    }

    #[test]
    fn a_listing_that_is_repeated_is_no_news_whether_or_not_the_value_is_kept() {
        let index = index();
        assert_eq!(index.shown(Kind::Secret, &metadata("1")), [key()]);
        for _ in 0..2 {
            index.watched(Kind::Secret, Some("apps"), false);
            assert_eq!(index.shown(Kind::Secret, &metadata("1")), []);
        }
        assert_eq!(index.shown(Kind::Secret, &metadata("2")), [key()]);
    }

    #[test]
    fn what_went_while_the_watch_was_away_is_noticed_at_the_end_of_the_listing() {
        let index = index();
        let list = |namespace, shows: bool| {
            index.listing_begins(Kind::Secret, namespace);
            if shows {
                index.shown(Kind::Secret, &metadata("1"));
            }
            index.listing_ends(Kind::Secret, namespace)
        };
        assert_eq!(list(None, false), [], "it was never there");
        assert_eq!(list(None, true), []);
        read(&index, |_| {});
        assert_eq!(list(None, true), []);
        assert_eq!(list(Some("elsewhere"), false), []);
        assert!(is_kept(&index));
        assert_eq!(list(Some("apps"), false), [key()]);
        assert!(!is_kept(&index));
        assert_eq!(list(None, false), [], "that is no news");
        // One that no watch has shown since it is named has been read.
        read(&index, |_| {});
        index.watched(Kind::Secret, Some("apps"), false);
        assert_eq!(list(None, false), [key()]);
    }

    #[test]
    fn what_changes_while_it_is_read_is_not_kept() {
        let index = index();
        read(&index, |index| {
            index.shown(Kind::Secret, &metadata("2"));
        });
        assert!(!is_kept(&index));
        read(&index, |index| {
            index.shown(Kind::Secret, &metadata("1"));
        });
        assert!(is_kept(&index), "the watch showed what was read");
    }

    #[test]
    fn nothing_is_kept_while_no_watch_would_show_that_it_changed() {
        let fail = |index: &ReferenceIndex| index.watched(Kind::Secret, Some("apps"), false);
        let index = index();
        read(&index, |_| {});
        fail(&index);
        assert!(!is_kept(&index));
        read(&index, |_| {});
        assert!(!is_kept(&index));
        index.watched(Kind::Secret, None, true);
        read(&index, |_| {});
        assert!(is_kept(&index), "a watch over all namespaces shows it");
        let other = ObjectRef::new("demo").within("other");
        index.set(&other, &["pg".to_owned()].into(), &BTreeSet::new());
        index.watched(Kind::Secret, Some("other"), true);
        index.watched(Kind::Secret, Some("other"), false);
        assert!(is_kept(&index), "another namespace");
    }

    #[test]
    fn a_watch_that_fails_while_something_is_read_may_have_missed_a_change() {
        let index = index();
        read(&index, |index| {
            index.watched(Kind::Secret, Some("apps"), false);
            index.watched(Kind::Secret, Some("apps"), true);
        });
        assert!(!is_kept(&index));
    }

    #[test]
    fn nothing_is_kept_for_longer_than_it_is_needed() {
        let index = index();
        read(&index, |_| {});
        let read_at = Instant::now();
        index.expire(read_at + KEEP / 2);
        assert!(is_kept(&index));
        index.expire(read_at + KEEP);
        assert!(!is_kept(&index));
        read(&index, |_| {});
        index.forget(&key());
        assert!(!is_kept(&index));
        assert_eq!(index.shown(Kind::Secret, &metadata("2")), []);
    }

    #[test]
    fn nothing_large_is_kept() {
        let index = index();
        let Known::Unread(ticket) = known(&index) else {
            panic!("it is kept");
        };
        let large = fetched(LARGEST + 1);
        index.keep(Kind::Secret, &metadata("1"), &large, ticket, Instant::now());
        assert!(!is_kept(&index));
    }
}
