//! What `apply` remembers of a cluster.

use super::Calls;
use super::ECHO;
use super::contest::Contest;
use super::objects::hash;
use crate::api::BytebaseClusterStatus;
use crate::api::status::OverruledObject;
use crate::desired::DesiredObject;
use crate::kubernetes::Kind;
use crate::observation::{PodView, RefusedEviction};
use crate::process::queue::Key;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// After so many refusals in a row, some eight seconds, it is reported.
const LASTING_REFUSAL: u32 = 6;

/// What is remembered of a cluster from one plan to the next. Losing it is harmless.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The last eviction, if a PodDisruptionBudget refused it, and how often in a row.
    refused_eviction: Option<(RefusedEviction, u32)>,
    /// The pod that was evicted last, while the watch may still show it as before.
    evicted: Option<EvictedPod>,
    /// Objects that the API server took and changed nothing of.
    kept: HashMap<Slot, Kept>,
    /// Objects that were written on a version that was not the present one any more, and since
    /// when.
    outdated: HashMap<Slot, (Option<String>, Instant)>,
    /// Objects as last written, likewise.
    writes: HashMap<Slot, RecentWrite>,
    /// Objects that were written lately, which another party may keep changing back.
    contests: HashMap<Slot, Contest>,
    /// Whether this process has taken from status what an earlier one wrote down.
    is_recalled: bool,
}

/// A pod that was evicted.
#[derive(Clone, Debug)]
struct EvictedPod {
    uid: String,
    /// Until when it counts as such, where the eviction was not answered.
    until: Option<Instant>,
}

/// Kind and name of an object.
type Slot = (Kind, String);

/// An object that was asked for in vain.
#[derive(Clone, Debug)]
struct Kept {
    /// Its `resourceVersion`; `None` where an earlier process asked.
    before: Option<String>,
    /// Hash of what was asked for.
    hash: String,
    /// The field that a webhook keeps otherwise.
    field: Option<String>,
}

/// A write whose echo the cache may not have seen.
#[derive(Clone, Debug)]
struct RecentWrite {
    at: Instant,
    /// `resourceVersion` in the cache before it; `None` if it was not there.
    before: Option<String>,
    /// Hash of what was written; the objects of a thousand clusters are too much to remember.
    hash: String,
}

/// An object that is to stand, and the version of it that the cache shows.
pub(super) struct Candidate {
    slot: Slot,
    before: Option<String>,
    hash: String,
}

impl EvictedPod {
    fn counts(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }
}

impl Candidate {
    /// Of a desired object. `before`: `resourceVersion` in the cache; `None` if it is not there.
    pub(super) fn new(desired: &DesiredObject, before: Option<String>) -> Self {
        Self {
            slot: (desired.kind, desired.name.clone()),
            before,
            hash: hash(desired),
        }
    }
}

impl Memory {
    /// Has a process that sees the cluster for the first time take over from status the refused
    /// call and what a webhook keeps otherwise. Later ones are its own.
    pub fn recall(&mut self, calls: &Calls, key: &Key, status: &BytebaseClusterStatus) {
        if std::mem::replace(&mut self.is_recalled, true) {
            return;
        }
        if let Some(refused) = &status.refused_call {
            calls.recall(key, refused);
        }
        for OverruledObject { object, field } in &status.overruled {
            let slot = object.split_once('/').and_then(|(plural, name)| {
                let kind = Kind::owned().find(|kind| kind.plural() == plural)?;
                Some((kind, name.to_owned()))
            });
            // Of no version: the next write of it, if there is one, shows how it is now.
            let kept = Kept {
                before: None,
                hash: String::new(),
                field: Some(field.clone()),
            };
            self.kept.extend(slot.map(|slot| (slot, kept)));
        }
    }

    /// Uid of the pod that was evicted last, while the watch may still show it as before.
    pub fn evicted(&self) -> Option<String> {
        let evicted = self.evicted.as_ref().filter(|pod| pod.counts());
        evicted.map(|pod| pod.uid.clone())
    }

    /// For how long one counts as evicted whose eviction was not answered.
    pub(super) fn perhaps_evicted_for(&self) -> Option<Duration> {
        let until = self.evicted.as_ref()?.until?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// The last eviction, if it has been refused for a while.
    pub fn refused_eviction(&self) -> Option<RefusedEviction> {
        self.refused_eviction
            .as_ref()
            .filter(|(_, times)| *times >= LASTING_REFUSAL)
            .map(|(refused, _)| refused.clone())
    }

    /// Forgets an eviction whose pod has gone, and one that was not answered after a while.
    pub(super) fn forget_gone(&mut self, pods: &[PodView]) {
        self.evicted.take_if(|evicted| {
            let is_there = pods.iter().any(|pod| pod.uid == evicted.uid);
            !is_there || !evicted.counts()
        });
    }

    /// Forgets writes whose echo is not to be waited for any longer.
    pub(super) fn forget_old_writes(&mut self) {
        self.writes.retain(|_, write| write.at.elapsed() < ECHO);
        let now = Instant::now();
        self.contests.retain(|_, contest| !contest.is_over(now));
    }

    /// Whether this was written a moment ago, and the watch has not shown it yet. Another
    /// decision on the same version of a StatefulSet waits as well: of two sizes that each leave
    /// one replica the second could end the one that the first left.
    pub(super) fn awaits_echo(&self, candidate: &Candidate) -> bool {
        let any = candidate.slot.0 == Kind::StatefulSet;
        self.writes.get(&candidate.slot).is_some_and(|write| {
            write.before == candidate.before && (any || write.hash == candidate.hash)
        })
    }

    /// Whether the API server holds this in a form of its own: it was asked, and changed nothing.
    pub(super) fn is_kept(&self, candidate: &Candidate) -> bool {
        candidate.before.is_some()
            && self.kept.get(&candidate.slot).is_some_and(|kept| {
                (&kept.before, &kept.hash) == (&candidate.before, &candidate.hash)
            })
    }

    /// Notes that the API server was asked for this, and changed nothing. `field`: one that a
    /// webhook keeps otherwise.
    pub(super) fn note_kept(&mut self, candidate: Candidate, field: Option<String>) {
        let Candidate { slot, before, hash } = candidate;
        let kept = Kept {
            before,
            hash,
            field,
        };
        self.kept.insert(slot, kept);
    }

    /// Notes that this stands as it is wanted.
    pub(super) fn note_standing(&mut self, candidate: &Candidate) {
        self.kept.remove(&candidate.slot);
    }

    /// Forgets what was asked for in vain of objects that are not there any more.
    pub(super) fn forget_kept(&mut self, is_there: impl Fn(Kind, &str) -> bool) {
        self.kept.retain(|(kind, name), _| is_there(*kind, name));
    }

    /// Objects that a webhook keeps otherwise than they were written.
    pub(super) fn overruled(&self) -> Vec<OverruledObject> {
        let kept = self.kept.iter().filter_map(|((kind, name), kept)| {
            Some(OverruledObject {
                object: format!("{}/{name}", kind.plural()),
                field: kept.field.clone()?,
            })
        });
        let mut overruled: Vec<_> = kept.collect();
        overruled.sort();
        overruled
    }

    /// Notes that this was refused since it has changed meanwhile. Whether the watch should have
    /// shown that change by now: then it was refused for another reason.
    pub(super) fn is_outdated_for_long(&mut self, candidate: Candidate) -> bool {
        let Candidate { slot, before, .. } = candidate;
        let now = Instant::now();
        match self.outdated.get(&slot) {
            Some((version, since)) if *version == before => since.elapsed() >= ECHO,
            _ => {
                self.outdated.insert(slot, (before, now));
                false
            }
        }
    }

    /// The earlier writes of this, if there were some lately.
    pub(super) fn contest(&self, candidate: &Candidate) -> Option<&Contest> {
        let contest = self.contests.get(&candidate.slot)?;
        contest.is_about(&candidate.hash).then_some(contest)
    }

    /// Notes that this was written. `by`: who had changed it, if that was asked. The contest is
    /// returned if the same was written lately; what is new has not been changed back by anyone.
    pub(super) fn note_written(
        &mut self,
        candidate: Candidate,
        by: Option<String>,
    ) -> Option<&mut Contest> {
        let Candidate { slot, before, hash } = candidate;
        let at = Instant::now();
        let contest = self.contests.entry(slot.clone()).or_default();
        let is_known = contest.is_about(&hash);
        contest.wrote(&hash, at, by);
        self.writes.insert(slot, RecentWrite { at, before, hash });
        is_known.then_some(contest)
    }

    /// Notes an eviction.
    pub(super) fn note_evicted(&mut self, uid: &str) {
        self.refused_eviction = None;
        self.evicted = Some(EvictedPod {
            uid: uid.to_owned(),
            until: None,
        });
    }

    /// Notes an eviction that was not answered: the pod may be ending.
    pub(super) fn note_perhaps_evicted(&mut self, uid: &str) {
        self.evicted = Some(EvictedPod {
            uid: uid.to_owned(),
            until: Some(Instant::now() + ECHO),
        });
    }

    /// Notes an eviction that a PodDisruptionBudget refused, and returns how often in a row.
    pub(super) fn note_refused(&mut self, uid: &str, why: String) -> u32 {
        let before = self.refused_eviction.take();
        let before = before.filter(|(refused, _)| refused.uid == uid);
        let times = before.map_or(0, |(_, times)| times) + 1;
        let uid = uid.to_owned();
        self.refused_eviction = Some((RefusedEviction { uid, why }, times));
        times
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_webhook_keeps_is_known_until_it_stands_or_is_gone() {
        let mut memory = Memory::default();
        let candidate = |name: &str| Candidate {
            slot: (Kind::Service, name.to_owned()),
            before: Some("7".to_owned()),
            hash: "a".to_owned(),
        };
        let field = || Some("spec.type".to_owned());
        let of = |names: &[&str]| -> Vec<_> {
            let names = names.iter();
            let overruled = |name: &&str| OverruledObject {
                object: format!("services/{name}"),
                field: "spec.type".to_owned(),
            };
            names.map(overruled).collect()
        };
        for (name, field) in [
            ("two", field()),
            ("one", field()),
            ("three", field()),
            ("form", None),
        ] {
            memory.note_kept(candidate(name), field);
        }
        assert_eq!(memory.overruled(), of(&["one", "three", "two"]));
        memory.note_standing(&candidate("one"));
        memory.forget_kept(|_, name| name != "three");
        assert_eq!(memory.overruled(), of(&["two"]));
        assert!(memory.is_kept(&candidate("form")) && !memory.is_kept(&candidate("one")));
    }

    #[test]
    fn what_a_webhook_keeps_is_known_to_the_next_process_which_writes_nothing() {
        let candidate = |name: &str| Candidate {
            slot: (Kind::Service, name.to_owned()),
            before: Some("7".to_owned()),
            hash: "a".to_owned(),
        };
        let mut before = Memory::default();
        for name in ["one", "two", "three", "gone"] {
            before.note_kept(candidate(name), Some("spec.type".to_owned()));
        }
        let mut status = BytebaseClusterStatus {
            overruled: before.overruled(),
            ..BytebaseClusterStatus::default()
        };
        // A kind that this operator does not know, and a word without a kind.
        for object in ["pancakes/demo", "demo"] {
            status.overruled.push(OverruledObject {
                object: object.to_owned(),
                field: "spec.type".to_owned(),
            });
        }
        let (calls, key) = (Calls::default(), Key::new("demo").within("apps"));
        let mut memory = Memory::default();
        memory.recall(&calls, &key, &status);
        assert_eq!(memory.overruled(), before.overruled());
        // Nothing keeps this process from a write, which shows how it is now.
        assert!(!memory.is_kept(&candidate("one")));
        memory.note_standing(&candidate("one"));
        memory.note_kept(candidate("two"), Some("spec.ports".to_owned()));
        memory.forget_kept(|_, name| name != "gone");
        // What was found out since is not taken back by the same status.
        memory.recall(&calls, &key, &status);
        let now: Vec<_> = memory
            .overruled()
            .into_iter()
            .map(|overruled| (overruled.object, overruled.field))
            .collect();
        let expected = [("three", "spec.type"), ("two", "spec.ports")];
        let expected = expected.map(|(name, field)| (format!("services/{name}"), field.to_owned()));
        assert_eq!(now, expected);
    }

    #[test]
    fn an_eviction_that_was_not_answered_counts_for_a_moment_and_another_until_the_pod_is_gone() {
        let mut memory = Memory::default();
        memory.note_perhaps_evicted("a");
        assert_eq!(memory.evicted().as_deref(), Some("a"));
        assert!(
            memory
                .perhaps_evicted_for()
                .is_some_and(|left| left <= ECHO)
        );
        memory.evicted.as_mut().unwrap().until = Some(Instant::now());
        assert_eq!(memory.evicted(), None);
        memory.note_evicted("b");
        assert_eq!(memory.evicted().as_deref(), Some("b"));
        assert_eq!(memory.perhaps_evicted_for(), None);
        memory.forget_gone(&[]);
        assert_eq!(memory.evicted(), None);
    }

    #[test]
    fn new_content_is_not_changed_back_by_anyone_while_another_is() {
        let mut memory = Memory::default();
        let mut reports = |hash: &str| {
            let candidate = Candidate {
                slot: (Kind::Service, "demo".to_owned()),
                before: None,
                hash: hash.to_owned(),
            };
            let contest = memory.note_written(candidate, None);
            contest.is_some_and(|contest| contest.report().is_some())
        };
        assert_eq!(
            ["a", "a", "a", "a", "a", "b", "b"].map(&mut reports),
            [false, false, false, false, true, false, true]
        );
    }
}
