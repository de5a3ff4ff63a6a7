//! The books: what must never happen, found in what was seen. Pure.

use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

/// Before a license for several ends, more than one replica may live on for this long: the operator
/// takes the others away one at a time, and each finishes its tasks, for which it may have to wait
/// until the queue may be held. Bytebase itself begins to do harm ten minutes after the end.
pub const TOLERANCE: Duration = Duration::from_mins(8);
/// Once it has ended, for this long: each that goes begins to end within a minute, has five minutes
/// for its tasks, and counts for some seconds after its end.
pub const AFTER_THE_END: Duration = Duration::from_mins(7);
/// So much longer if a disaster kept the operator from acting.
pub const DISASTER: Duration = Duration::from_mins(3);
/// The queue may be held for `holdLimitSeconds` of any time that is twice as long, and for as long
/// as this by the samples around it.
const SAMPLES: Duration = Duration::from_secs(3);
/// A hook may hold it for its last reading as well, at any time.
pub const LAST_READING: Duration = Duration::from_secs(8);
/// A pod that has gone counts as one that is down once so many samples have shown no other one in
/// its place: most are made again at once.
const MISSING: u32 = 2;
/// In so short a time no operator that ends one pod after another ends them all.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Of so many seconds one may have passed unseen, although nothing was struck.
const UNSEEN_IN: u32 = 20;

/// A pod as it was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    pub name: String,
    pub uid: String,
    pub ready: bool,
    pub ending: bool,
    /// Since when it is Ready, as Kubernetes has it.
    pub ready_since: Option<Timestamp>,
    /// Since when it is ending.
    pub ending_since: Option<Timestamp>,
}

/// One sample of one cluster.
#[derive(Debug, Clone, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is something seen of its own"
)]
pub struct Sample {
    pub pods: Vec<PodSeen>,
    /// Active replicas.
    pub active: i64,
    /// Whether a license is stored that allows several.
    pub ha: bool,
    /// Whether the license for several has ended, or there is none: then all surplus pods end at
    /// once.
    pub ended: bool,
    /// Wanted replicas after the license.
    pub target: i32,
    /// Pods may be down by our own doing.
    pub disturbed: bool,
    /// The operator may be unable to act.
    pub struck: bool,
    /// A session keeps all replicas from promoting work.
    pub held: bool,
    /// `holdLimitSeconds` of the cluster.
    pub hold_limit: Duration,
    /// Task runs that are lost, since their replica ended without being struck: id and owner.
    pub lost: Vec<(i64, String)>,
    /// Queued task runs that Bytebase has failed, which it does after ten minutes with several
    /// replicas and no license for them.
    pub given_up: Vec<i64>,
    /// Its database is refused or in use by another Bytebase, and it had no replica.
    pub refused: bool,
    /// Pods that we deleted.
    pub deleted: BTreeSet<String>,
    /// Time since the sample before.
    pub passed: Duration,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Books {
    pub samples: u64,
    pub blind: u64,
    seen: Duration,
    /// What passed unseen although nothing was struck.
    unseen: Duration,
    pub too_many_without_ha: Vec<String>,
    pub two_down_by_operator: Vec<String>,
    pub none_left: Vec<String>,
    pub started_on_refused: Vec<String>,
    pub tasks_lost: Vec<String>,
    pub queued_tasks_failed: Vec<String>,
    pub held_too_long: Vec<String>,
    pub foreign_touched: Vec<String>,
    pub secrets: Vec<String>,
    accounts: BTreeMap<usize, Account>,
}

#[derive(Debug, Default)]
struct Account {
    before: Vec<PodSeen>,
    /// Ordinals whose pods have gone although they are wanted, and for how many samples.
    vacant: BTreeMap<i32, u32>,
    /// For how long there have been too many.
    surplus: Duration,
    /// A disaster was among that time.
    was_struck: bool,
    /// Since the first sample.
    clock: Duration,
    /// When the queue was held, for how long at that sample, and how many pods were found gone.
    holds: VecDeque<(Duration, Duration, u32)>,
    lost: BTreeSet<(i64, String)>,
    given_up: BTreeSet<i64>,
}

impl Books {
    /// Nothing that must not happen has happened, and there were samples to show it.
    pub fn clean(&self) -> bool {
        self.samples > 0
            && self.unseen * UNSEEN_IN <= self.seen
            && [
                &self.too_many_without_ha,
                &self.two_down_by_operator,
                &self.none_left,
                &self.started_on_refused,
                &self.tasks_lost,
                &self.queued_tasks_failed,
                &self.held_too_long,
                &self.foreign_touched,
                &self.secrets,
            ]
            .iter()
            .all(|list| list.is_empty())
    }

    /// Enters that no pods were seen. `is_excused`: something was struck, or the database is out of
    /// reach on purpose.
    pub fn enter_blind(&mut self, cluster: usize, passed: Duration, is_excused: bool) {
        self.blind += 1;
        if !is_excused {
            self.unseen += passed;
        }
        let account = self.accounts.entry(cluster).or_default();
        account.clock += passed;
        // Meanwhile one pod may have ended and come up again, and then another ended.
        account.before.clear();
        account.vacant.clear();
    }

    /// Enters one sample of which the database said nothing: what the pods show counts all the
    /// same.
    pub fn enter_unread(&mut self, cluster: usize, sample: &Sample, is_excused: bool) {
        self.blind += 1;
        if !is_excused {
            self.unseen += sample.passed;
        }
        self.judge(cluster, sample);
    }

    /// Enters one sample.
    pub fn enter(&mut self, cluster: usize, sample: &Sample) {
        self.samples += 1;
        self.seen += sample.passed;
        self.judge(cluster, sample);
    }

    fn judge(&mut self, cluster: usize, sample: &Sample) {
        let account = self.accounts.entry(cluster).or_default();
        account.clock += sample.passed;
        self.too_many_without_ha
            .extend(account.too_many(cluster, sample));
        self.held_too_long
            .extend(account.held_too_long(cluster, sample));
        if let (true, Some(pod)) = (sample.refused, sample.pods.first()) {
            self.started_on_refused
                .push(format!("cluster {cluster}: {} was made", pod.name));
        }
        for (id, owner) in &sample.lost {
            if account.lost.insert((*id, owner.clone())) {
                self.tasks_lost.push(format!(
                    "cluster {cluster}: task run {id} of replica {owner}"
                ));
            }
        }
        for id in &sample.given_up {
            if account.given_up.insert(*id) {
                self.queued_tasks_failed
                    .push(format!("cluster {cluster}: task run {id}"));
            }
        }
        self.two_down_by_operator
            .extend(account.two_down(cluster, sample));
        self.none_left.extend(account.none_left(cluster, sample));
        account.note_vacant(sample);
        account.before.clone_from(&sample.pods);
    }
}

impl Account {
    /// More than one replica without a license for several, for too long.
    fn too_many(&mut self, cluster: usize, sample: &Sample) -> Option<String> {
        if sample.ha || sample.active <= 1 {
            (self.surplus, self.was_struck) = (Duration::ZERO, false);
            return None;
        }
        self.surplus += sample.passed;
        self.was_struck |= sample.struck;
        let mut tolerance = if sample.ended {
            AFTER_THE_END
        } else {
            TOLERANCE
        };
        if self.was_struck {
            tolerance += DISASTER;
        }
        if self.surplus <= tolerance {
            return None;
        }
        let (active, seconds) = (sample.active, self.surplus.as_secs());
        self.surplus = Duration::ZERO;
        Some(format!(
            "cluster {cluster}: {active} replicas without HA for {seconds} s"
        ))
    }

    /// The queue held for longer than allowed, in one piece or in several that are too near to each
    /// other.
    fn held_too_long(&mut self, cluster: usize, sample: &Sample) -> Option<String> {
        let is_there = |pod: &PodSeen| sample.pods.iter().any(|now| now.uid == pod.uid);
        let count = |pods: usize| u32::try_from(pods).unwrap_or(u32::MAX);
        let gone = count(self.before.iter().filter(|pod| !is_there(pod)).count());
        let held = if sample.held {
            sample.passed
        } else {
            Duration::ZERO
        };
        self.holds.push_back((self.clock, held, gone));
        let cycle = sample.hold_limit * 2;
        let begins = self.clock.saturating_sub(cycle);
        while self.holds.front().is_some_and(|(at, ..)| *at <= begins) {
            self.holds.pop_front();
        }
        let held: Duration = self.holds.iter().map(|(_, held, _)| *held).sum();
        let gone: u32 = self.holds.iter().map(|(.., gone)| *gone).sum();
        let ending = count(sample.pods.iter().filter(|pod| pod.ending).count());
        if held <= sample.hold_limit + SAMPLES + LAST_READING * (gone + ending) {
            return None;
        }
        self.holds.clear();
        let (held, cycle) = (held.as_secs(), cycle.as_secs());
        Some(format!("cluster {cluster}: for {held} of {cycle} s"))
    }

    /// A pod that was Ready and that the operator, and no one else, ends while another is down.
    fn two_down(&self, cluster: usize, sample: &Sample) -> Option<String> {
        if sample.disturbed || sample.ended || sample.target == 0 {
            return None;
        }
        let now = |uid: &str| sample.pods.iter().find(|pod| pod.uid == uid);
        let ended: Vec<_> = self
            .before
            .iter()
            .filter(|pod| pod.ready && !pod.ending && !sample.deleted.contains(&pod.uid))
            .filter(|pod| now(&pod.uid).is_none_or(|pod| pod.ending))
            .collect();
        let first = ended.first()?;
        // Surplus pods go one by one as well, but whether the others are Ready is not their
        // business.
        let surplus = |name: &str| ordinal(name) >= Some(sample.target);
        let shrinks = surplus(&first.name);
        let began = now(&first.uid).and_then(|pod| pod.ending_since);
        // It may have come up, or gone for good, between the two samples and before the other began
        // to end.
        let in_time = |down: &str| {
            let successor = sample.pods.iter().find(|pod| pod.name == down);
            successor.map_or(surplus(down), |pod| {
                pod.ready && !pod.ending && pod.ready_since.is_some() && pod.ready_since <= began
            })
        };
        let down = self
            .before
            .iter()
            .filter(|pod| pod.uid != first.uid)
            .filter(|pod| pod.ending || (!pod.ready && !shrinks))
            .find(|pod| !in_time(&pod.name));
        let second = ended.get(1).copied().or(down);
        let missing = || {
            let (set, _) = first.name.rsplit_once('-')?;
            let long = self.vacant.iter().filter(|(_, seen)| **seen >= MISSING);
            let mut names = long.map(|(number, _)| format!("{set}-{number}"));
            names.find(|name| !shrinks && !in_time(name))
        };
        let second = second.map(|pod| pod.name.clone()).or_else(missing)?;
        Some(format!(
            "cluster {cluster}: {} was ended while {second} was down",
            first.name
        ))
    }

    /// Several that served, all of which the operator, and no one else, ends at once although some
    /// are wanted: also where a license has ended, one stays. One that is alone may be replaced.
    fn none_left(&self, cluster: usize, sample: &Sample) -> Option<String> {
        if sample.disturbed || sample.struck || sample.target == 0 || sample.passed > AT_ONCE {
            return None;
        }
        let served = self.before.iter().filter(|pod| pod.ready && !pod.ending);
        let names: Vec<_> = served.map(|pod| pod.name.as_str()).collect();
        // One that is not Ready for a moment may be the one that was to stay.
        let goes_on = |before: &PodSeen| {
            let mut now = sample.pods.iter();
            sample.deleted.contains(&before.uid)
                || now.any(|pod| pod.uid == before.uid && !pod.ending)
        };
        if names.len() < 2 || self.before.iter().any(goes_on) {
            return None;
        }
        let names = names.join(", ");
        Some(format!("cluster {cluster}: {names} were ended at once"))
    }

    /// Takes note of pods that have gone. One that was never there, such as after a rise of the
    /// size, may not have been asked for yet. Where as many run as are wanted, those that do may
    /// have been kept in the place of lower ordinals.
    fn note_vacant(&mut self, sample: &Sample) {
        let target = usize::try_from(sample.target).unwrap_or(0);
        if sample.pods.len() >= target {
            self.vacant.clear();
            return;
        }
        let numbers = |pods: &[PodSeen]| -> BTreeSet<i32> {
            let numbers = pods.iter().filter_map(|pod| ordinal(&pod.name));
            numbers.collect()
        };
        let there = numbers(&sample.pods);
        for number in numbers(&self.before) {
            self.vacant.entry(number).or_default();
        }
        self.vacant.retain(|number, seen| {
            *seen += 1;
            *number < sample.target && !there.contains(number)
        });
    }
}

fn ordinal(pod: &str) -> Option<i32> {
    pod.rsplit_once('-')?.1.parse().ok()
}

impl fmt::Display for Books {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "| Book | Entries |\n|---|---|")?;
        for (name, list) in [
            (
                "more than one active replica without HA, beyond the tolerance",
                &self.too_many_without_ha,
            ),
            (
                "more than one pod down by the operator's hand",
                &self.two_down_by_operator,
            ),
            (
                "all replicas that served ended at once by the operator's hand",
                &self.none_left,
            ),
            (
                "a first replica on a refused database, or beside another Bytebase",
                &self.started_on_refused,
            ),
            (
                "task runs lost with a replica that ended on purpose",
                &self.tasks_lost,
            ),
            (
                "queued task runs that Bytebase failed for want of a license",
                &self.queued_tasks_failed,
            ),
            ("the queue held for too long", &self.held_too_long),
            ("objects of others touched", &self.foreign_touched),
            ("secrets seen", &self.secrets),
        ] {
            writeln!(formatter, "| {name} | {} |", list.len())?;
            for entry in list {
                writeln!(formatter, "| | {entry} |")?;
            }
        }
        write!(
            formatter,
            "| samples taken (samples without the database or the pods; seconds of them although nothing was struck) | {} ({}; {}) |",
            self.samples,
            self.blind,
            self.unseen.as_secs()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::slice;

    const HOLD_LIMIT: Duration = Duration::from_secs(20);

    fn pod(name: &str, ready: bool, ending: bool) -> PodSeen {
        PodSeen {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            ready,
            ending,
            ready_since: None,
            ending_since: None,
        }
    }

    fn at(second: i64) -> Option<Timestamp> {
        Timestamp::from_second(second).ok()
    }

    fn sample(pods: &[PodSeen]) -> Sample {
        Sample {
            pods: pods.to_vec(),
            ha: true,
            target: 3,
            hold_limit: HOLD_LIMIT,
            passed: Duration::from_secs(1),
            ..Sample::default()
        }
    }

    fn entries(samples: &[Sample]) -> (usize, usize) {
        let mut books = Books::default();
        for sample in samples {
            books.enter(0, sample);
        }
        (
            books.too_many_without_ha.len(),
            books.two_down_by_operator.len(),
        )
    }

    #[test]
    fn too_many_without_a_license_count_once_the_tolerance_is_over() {
        let two = Sample {
            ha: false,
            active: 2,
            ..sample(&[])
        };
        let seconds = |time: Duration| usize::try_from(time.as_secs()).unwrap_or(0);
        for ended in [false, true] {
            let two = Sample {
                ended,
                ..two.clone()
            };
            let tolerance = if ended { AFTER_THE_END } else { TOLERANCE };
            let longest = seconds(tolerance);
            assert_eq!(entries(&vec![two.clone(); longest]).0, 0);
            assert_eq!(entries(&vec![two.clone(); longest + 1]).0, 1);
            // A disaster on the way gives the operator some time, and not all the time.
            let struck = Sample {
                struck: true,
                ..two.clone()
            };
            let excused = |longest| [vec![struck.clone()], vec![two.clone(); longest - 1]].concat();
            let longest = seconds(tolerance + DISASTER);
            assert_eq!(entries(&excused(longest)).0, 0);
            assert_eq!(entries(&excused(longest + 1)).0, 1);
        }
        let seconds = seconds(TOLERANCE);
        let licensed = Sample {
            ha: true,
            ..two.clone()
        };
        assert_eq!(entries(&vec![licensed; seconds + 1]).0, 0);
        let single = Sample { active: 1, ..two };
        assert_eq!(entries(&vec![single; seconds + 1]).0, 0);
    }

    #[test]
    fn a_lost_task_counts_once() {
        let mut books = Books::default();
        let lost = Sample {
            lost: vec![(7, "a".to_owned())],
            ..sample(&[])
        };
        books.enter(0, &lost);
        books.enter(0, &lost);
        assert_eq!(books.tasks_lost.len(), 1);
        assert!(!books.clean());
        let mut books = Books::default();
        let failed = Sample {
            given_up: vec![8, 9],
            ..sample(&[])
        };
        books.enter(0, &failed);
        books.enter(0, &failed);
        assert_eq!(books.queued_tasks_failed.len(), 2);
        assert!(!books.clean());
    }

    #[test]
    fn the_queue_may_be_held_for_half_of_the_time_whatever_becomes_of_the_pods() {
        let sample = |held, pods: &[PodSeen]| Sample {
            held,
            ..sample(pods)
        };
        let too_long = |samples: &[Sample]| {
            let mut books = Books::default();
            for sample in samples {
                books.enter(0, sample);
            }
            assert_eq!(books.clean(), books.held_too_long.is_empty());
            books.held_too_long.len()
        };
        let seconds = |time: Duration| usize::try_from(time.as_secs()).unwrap_or(0);
        let (limit, longest) = (seconds(HOLD_LIMIT), seconds(HOLD_LIMIT + SAMPLES));
        let held = |pods: &[PodSeen], seconds| vec![sample(true, pods); seconds];
        let free = |seconds| vec![sample(false, &[]); seconds];
        assert_eq!(too_long(&held(&[], longest)), 0);
        assert_eq!(too_long(&held(&[], longest + 1)), 1);
        // Free for a moment is not free for as long.
        for (pause, expected) in [(limit, 0), (limit - 10, 1), (1, 1)] {
            let twice = [held(&[], limit), free(pause), held(&[], limit)].concat();
            assert_eq!(too_long(&twice), expected, "{pause}");
        }
        // Each hook may read once more.
        let more = seconds(LAST_READING);
        let pod = [pod("a-0", true, true)];
        assert_eq!(too_long(&held(&pod, longest + more)), 0);
        assert_eq!(too_long(&held(&pod, longest + more + 1)), 1);
        let gone = [held(&pod, longest), held(&[], more)].concat();
        assert_eq!(too_long(&gone), 0);
        assert_eq!(too_long(&[gone, held(&[], 1)].concat()), 1);
        // While nothing is seen time goes on.
        let mut books = Books::default();
        for second in 0..2 * limit {
            books.enter(0, &sample(true, &[]));
            if second % limit == limit - 1 {
                books.enter_blind(0, HOLD_LIMIT, true);
            }
        }
        assert!(books.clean());
    }

    #[test]
    fn what_was_not_seen_is_no_proof() {
        let mut books = Books::default();
        for _ in 0..20 {
            books.enter(0, &sample(&[]));
        }
        books.enter_blind(1, Duration::from_mins(1), true);
        assert!(books.clean());
        books.enter_blind(1, Duration::from_secs(1), false);
        books.enter_unread(1, &sample(&[]), true);
        assert!(books.clean());
        books.enter_unread(1, &sample(&[]), false);
        assert!(!books.clean());
        // Two that go while nothing is seen may have gone one after the other.
        let mut books = Books::default();
        books.enter(
            0,
            &sample(&[pod("a-0", true, false), pod("a-1", true, false)]),
        );
        books.enter_blind(0, Duration::from_secs(30), true);
        books.enter(0, &sample(&[]));
        assert!(books.clean());
    }

    #[test]
    fn no_pod_may_be_there_while_its_database_is_refused() {
        for (refused, pods, expected) in [(true, 1, 1), (true, 0, 0), (false, 1, 0)] {
            let pods = vec![pod("a-0", false, false); pods];
            let seen = Sample {
                refused,
                ..sample(&pods)
            };
            for is_read in [true, false] {
                let mut books = Books::default();
                books.enter(0, &sample(&[]));
                if is_read {
                    books.enter(0, &seen);
                } else {
                    books.enter_unread(0, &seen, true);
                }
                assert_eq!(books.started_on_refused.len(), expected);
                assert_eq!(books.clean(), expected == 0);
            }
        }
    }

    #[test]
    fn a_second_pod_must_not_go_while_one_is_down() {
        let (up, down) = (pod("a-0", true, false), pod("a-1", false, false));
        let ending = pod("a-0", true, true);
        let other = pod("a-1", true, false);
        let both = [
            sample(&[up.clone(), down.clone()]),
            sample(&[ending.clone(), down]),
        ];
        assert_eq!(entries(&both).1, 1);
        let one = [
            sample(&[up.clone(), other.clone()]),
            sample(&[ending.clone(), other.clone()]),
        ];
        assert_eq!(entries(&one).1, 0);
        let together = [sample(&[up.clone(), other.clone()]), sample(&[])];
        assert_eq!(entries(&together).1, 1);
        let mut ours = sample(&[ending, pod("a-1", true, true)]);
        ours.deleted.insert("uid-a-1".to_owned());
        assert_eq!(entries(&[sample(&[up, other]), ours]).1, 0);
    }

    #[test]
    fn pods_are_judged_while_the_database_says_nothing() {
        let mut books = Books::default();
        let both = [pod("a-0", true, false), pod("a-1", true, false)];
        books.enter(0, &sample(&both));
        let ending = both.map(|pod| PodSeen {
            ending: true,
            ..pod
        });
        books.enter_unread(0, &sample(&ending), true);
        assert_eq!(books.two_down_by_operator.len(), 1);
    }

    #[test]
    fn what_came_up_between_two_samples_was_up_only_if_it_came_up_first() {
        let before = sample(&[pod("a-0", true, false), pod("a-1", false, false)]);
        for (ready_since, ending_since, expected) in [
            (at(10), at(10), 0),
            (at(10), at(11), 0),
            (at(11), at(10), 1),
            (at(10), None, 1),
        ] {
            let ending = PodSeen {
                ending_since,
                ..pod("a-0", true, true)
            };
            let up = PodSeen {
                ready_since,
                ..pod("a-1", true, false)
            };
            let samples = [before.clone(), sample(&[ending, up])];
            assert_eq!(
                entries(&samples).1,
                expected,
                "{ready_since:?} {ending_since:?}"
            );
        }
        // A surplus pod that has gone for good makes room for the next.
        let shrink = |pods: &[PodSeen]| Sample {
            target: 1,
            ..sample(pods)
        };
        let samples = [
            shrink(&[pod("a-1", true, false), pod("a-2", true, true)]),
            shrink(&[pod("a-1", true, true)]),
        ];
        assert_eq!(entries(&samples).1, 0);
    }

    #[test]
    fn what_is_stopped_may_go_at_once_and_a_broken_pod_at_any_time() {
        let all = [pod("a-0", true, false), pod("a-1", true, false)];
        let stopped = Sample {
            target: 0,
            ..sample(&[])
        };
        assert_eq!(entries(&[sample(&all), stopped]).1, 0);
        let broken = [pod("a-0", false, false), pod("a-1", false, false)];
        assert_eq!(entries(&[sample(&broken), sample(&broken[..1])]).1, 0);
    }

    #[test]
    fn surplus_pods_go_one_by_one_whatever_the_others_are() {
        let (starting, surplus) = (pod("a-0", false, false), pod("a-2", true, false));
        let shrink = |pods: &[PodSeen]| Sample {
            target: 1,
            ..sample(pods)
        };
        let before = shrink(&[starting.clone(), surplus]);
        assert_eq!(entries(&[before, shrink(&[starting])]).1, 0);
        let pair = [pod("a-1", true, true), pod("a-2", true, false)];
        assert_eq!(entries(&[shrink(&pair), shrink(&pair[..1])]).1, 1);
    }

    #[test]
    fn a_pod_that_was_not_made_again_is_down() {
        let (other, up) = (pod("a-0", true, false), pod("a-1", true, false));
        let pair = |pods: &[PodSeen]| Sample {
            target: 2,
            ..sample(pods)
        };
        let alone = pair(slice::from_ref(&up));
        let ending = PodSeen {
            ending: true,
            ending_since: at(10),
            ..up.clone()
        };
        let ends = pair(slice::from_ref(&ending));
        let missed = |samples: &[Sample]| entries(samples).1;
        let two = pair(&[other.clone(), up.clone()]);
        assert_eq!(
            missed(&[two.clone(), alone.clone(), alone.clone(), ends.clone()]),
            1
        );
        // The next one may be made between two samples.
        assert_eq!(missed(&[two.clone(), alone.clone(), ends.clone()]), 0);
        for (ready_since, expected) in [(at(10), 0), (at(11), 1)] {
            let next = PodSeen {
                uid: "of-the-next".to_owned(),
                ready_since,
                ..other.clone()
            };
            let comes = pair(&[next, ending.clone()]);
            let samples = [two.clone(), alone.clone(), alone.clone(), comes];
            assert_eq!(missed(&samples), expected, "{ready_since:?}");
        }
        // It was not there before: the size has risen.
        assert_eq!(missed(&[alone.clone(), alone.clone(), ends.clone()]), 0);
        // Nor is it wanted: the size has gone down to one, which is not the lowest.
        let kept = Sample {
            target: 1,
            ..alone.clone()
        };
        assert_eq!(missed(&[two.clone(), kept.clone(), kept, ends.clone()]), 0);
        // It was not seen for a while.
        let mut books = Books::default();
        for sample in [&two, &alone, &alone] {
            books.enter(0, sample);
        }
        books.enter_blind(0, Duration::from_secs(30), true);
        for sample in [&alone, &ends] {
            books.enter(0, sample);
        }
        assert_eq!(books.two_down_by_operator.len(), 0);
    }

    #[test]
    fn of_several_that_serve_one_stays_also_where_the_license_has_ended() {
        let all = ["a-0", "a-1", "a-2"].map(|name| pod(name, true, false));
        let ends = |pod: &PodSeen| PodSeen {
            ending: true,
            ..pod.clone()
        };
        let unlicensed = |pods: &[PodSeen]| Sample {
            ended: true,
            target: 1,
            ..sample(pods)
        };
        let count = |before: &[PodSeen], now: Sample| {
            let mut books = Books::default();
            books.enter(0, &unlicensed(before));
            books.enter(0, &now);
            assert_eq!(books.clean(), books.none_left.is_empty());
            books.none_left.len()
        };
        let ending = all.each_ref().map(ends);
        let [one, two, _] = ending.clone();
        let [.., stays] = all.clone();
        assert_eq!(count(&all, unlicensed(&[one, two, stays.clone()])), 0);
        assert_eq!(count(&all, unlicensed(&ending)), 1);
        assert_eq!(count(&all, unlicensed(&[])), 1);
        // One alone may be replaced.
        assert_eq!(count(&all[..1], unlicensed(&ending[..1])), 0);
        let [one, two, _] = ending.clone();
        let slow_one = PodSeen {
            ready: false,
            ..stays
        };
        let before = [all[0].clone(), all[1].clone(), slow_one.clone()];
        assert_eq!(count(&before, unlicensed(&[one, two, slow_one])), 0);
        let stopped = Sample {
            target: 0,
            ..unlicensed(&ending)
        };
        let slow = Sample {
            passed: AT_ONCE + Duration::from_millis(1),
            ..unlicensed(&ending)
        };
        let struck = Sample {
            struck: true,
            ..unlicensed(&ending)
        };
        let disturbed = Sample {
            disturbed: true,
            ..unlicensed(&ending)
        };
        let ours = Sample {
            deleted: [all[0].uid.clone()].into(),
            ..unlicensed(&ending)
        };
        for excused in [stopped, slow, struck, disturbed, ours] {
            assert_eq!(count(&all, excused), 0);
        }
    }
}
