//! Objects that another party changes back each time the operator has written them: another
//! controller, a GitOps tool, a webhook. Writing again at once would go on for ever, many times a
//! second, and change nothing in the end.

use std::time::{Duration, Instant};

/// So many writes of the same within [`WINDOW`] are no coincidence.
const WRITES: usize = 5;
/// See [`WRITES`].
const WINDOW: Duration = Duration::from_mins(1);
/// As many within so long make no load, but someone should know of them.
const SLOW_WINDOW: Duration = Duration::from_hours(2);
/// So many contents are remembered: a size that is fought over has several, by turns.
const CONTENTS: usize = 5;
/// From a contest within [`WINDOW`] on this long until the next write, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// An object that has stood for so long is not being changed back now.
const STANDS_AFTER: Duration = Duration::from_secs(30);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What is remembered of the writes of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contest {
    /// Hashes of what was written, the latest last; no more than [`CONTENTS`].
    contents: Vec<String>,
    /// The first write, and the latest of what had been written before, oldest first; no more than
    /// [`WRITES`].
    writes: Vec<Instant>,
    /// Between the latest write and the next, once it is contested.
    pause: Option<Duration>,
    /// Who changed it back before the latest write, as far as the API server says.
    by: Option<String>,
    /// When a slow contest was reported last.
    warned: Option<Instant>,
}

impl Contest {
    /// Whether this content is among the latest that were written. Where it is not, the operator
    /// itself wants a change, and no other party is the cause of the write.
    pub fn is_about(&self, hash: &str) -> bool {
        self.contents.iter().any(|content| content == hash)
    }

    /// Whether another party keeps changing it back, or one more write would say so.
    pub fn is_near(&self) -> bool {
        self.pause.is_some() || self.writes.len() + 1 >= WRITES
    }

    /// It was written. For content that was written before, that was needed only because another
    /// party had changed it; what is new is wanted by the operator itself.
    pub fn wrote(&mut self, hash: &str, now: Instant, by: Option<String>) {
        if !self.is_about(hash) {
            self.contents.push(hash.to_owned());
            let surplus = self.contents.len().saturating_sub(CONTENTS);
            self.contents.drain(..surplus);
            if !self.writes.is_empty() {
                return;
            }
        }
        self.writes.push(now);
        let surplus = self.writes.len().saturating_sub(WRITES);
        self.writes.drain(..surplus);
        let first = self.writes.first().filter(|_| self.writes.len() == WRITES);
        let is_hot = first.is_some_and(|first| now.duration_since(*first) <= WINDOW);
        self.pause = match self.pause {
            Some(pause) => Some(pause.saturating_mul(2).min(LONGEST_PAUSE)),
            None => is_hot.then_some(FIRST_PAUSE),
        };
        self.by = by;
    }

    /// How long it is to be left alone from now on; `None`: it may be written.
    pub fn left_alone_for(&self, now: Instant) -> Option<Duration> {
        left_of(*self.writes.last()? + self.pause?, now)
    }

    /// How much longer an object that stands has to stand until it counts as left alone.
    pub fn unsettled_for(&self, now: Instant) -> Option<Duration> {
        left_of(*self.writes.last()? + STANDS_AFTER, now)
    }

    /// Ends the pauses if it has been left alone for long enough. Returns whether so long that it
    /// can be forgotten.
    pub fn is_over(&mut self, now: Instant) -> bool {
        let Some(last) = self.writes.last() else {
            return true;
        };
        let left_alone = now.duration_since(*last);
        self.pause.take_if(|pause| left_alone > *pause + WINDOW);
        left_alone > SLOW_WINDOW
    }

    /// What is to be published once another party changes it back seldom, but again and again. It
    /// is written as ever.
    pub fn warning(&mut self, now: Instant) -> Option<String> {
        let is_recent = |moment: &Instant| now.duration_since(*moment) <= SLOW_WINDOW;
        let first = self.writes.first().filter(|_| self.writes.len() == WRITES);
        let is_due = self.pause.is_none()
            && first.is_some_and(is_recent)
            && !self.warned.as_ref().is_some_and(is_recent);
        let by = self.by.as_ref().filter(|_| is_due)?;
        self.warned = Some(now);
        Some(format!(
            "has been written {WRITES} times within {} hours, since it is changed back again and again, last by the field manager {by:?}: have one of the two leave these fields alone",
            SLOW_WINDOW.as_secs() / 3600
        ))
    }

    /// What is reported of it, once another party keeps changing the object back.
    pub fn report(&self) -> Option<String> {
        self.pause?;
        let by = match &self.by {
            Some(by) => format!(", last by the field manager {by:?}"),
            None => String::new(),
        };
        Some(format!(
            "is changed back each time that the operator writes it{by}: have one of the two leave these fields alone. Meanwhile the operator writes it every {} minutes at most",
            LONGEST_PAUSE.as_secs() / 60
        ))
    }
}

fn left_of(until: Instant, now: Instant) -> Option<Duration> {
    let left = until.checked_duration_since(now);
    left.filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn written(at: &[u64]) -> (Contest, Instant) {
        let start = Instant::now();
        let mut contest = Contest::default();
        for second in at {
            contest.wrote("a", start + seconds(*second), None);
        }
        (contest, start)
    }

    #[test]
    fn a_few_writes_are_no_contest_and_many_are() {
        let (few, start) = written(&[0, 1, 2, 3]);
        assert_eq!(few.left_alone_for(start + seconds(3)), None);
        let (slow, start) = written(&[0, 16, 32, 48, 64]);
        assert_eq!(slow.left_alone_for(start + seconds(64)), None);
        let (many, start) = written(&[0, 1, 2, 3, 4]);
        assert!(many.report().is_some() && slow.report().is_none());
        assert_eq!(many.left_alone_for(start + seconds(5)), Some(seconds(29)));
        assert_eq!(many.left_alone_for(start + seconds(34)), None);
    }

    #[test]
    fn each_pause_is_longer_up_to_a_limit_and_ends_with_the_contest() {
        let (mut contest, start) = written(&[0, 1, 2, 3, 4]);
        let mut moment = start + seconds(4);
        for pause in [60, 120, 240, 300, 300] {
            moment += contest.left_alone_for(moment).unwrap();
            contest.wrote("a", moment, Some("kustomize-controller".to_owned()));
            assert_eq!(contest.left_alone_for(moment), Some(seconds(pause)));
        }
        let report = contest.report().unwrap();
        assert!(
            report.contains(r#"by the field manager "kustomize-controller""#),
            "{report}"
        );
        assert_eq!(
            contest.unsettled_for(moment + seconds(29)),
            Some(seconds(1))
        );
        assert_eq!(contest.unsettled_for(moment + seconds(30)), None);
        assert!(!contest.is_over(moment + seconds(360)));
        assert!(contest.report().is_some());
        assert!(!contest.is_over(moment + seconds(361)));
        assert_eq!(contest.report(), None, "a minute beyond the pause");
        assert!(!contest.is_over(moment + SLOW_WINDOW));
        assert!(contest.is_over(moment + SLOW_WINDOW + seconds(1)));
    }

    #[test]
    fn contents_that_alternate_are_one_contest_and_new_ones_are_none() {
        for (contents, is_contest) in [
            (["5", "4", "3", "2", "1", "0"], false),
            (["4", "3", "4", "3", "4", "3"], true),
        ] {
            let start = Instant::now();
            let mut contest = Contest::default();
            for (content, second) in contents.iter().zip(0..) {
                contest.wrote(content, start + seconds(second), None);
            }
            assert_eq!(contest.report().is_some(), is_contest, "{contents:?}");
            assert!(contest.is_about("3") && !contest.is_about("9"));
        }
    }

    #[test]
    fn a_slow_contest_is_warned_of_once_and_holds_no_write_back() {
        let start = Instant::now();
        let minutes = |minutes: u64| start + seconds(60 * minutes);
        let by = || Some("kustomize-controller".to_owned());
        let mut contest = Contest::default();
        let mut warns = |minute, by| {
            contest.wrote("a", minutes(minute), by);
            assert_eq!(contest.left_alone_for(minutes(minute)), None);
            assert_eq!(contest.report(), None);
            contest.warning(minutes(minute)).is_some()
        };
        for minute in [0, 20, 40, 60] {
            assert!(!warns(minute, None), "{minute}");
        }
        assert!(!warns(80, None), "no other party is known");
        assert!(warns(100, by()));
        for minute in [120, 140, 160, 180] {
            assert!(!warns(minute, by()), "it was said");
        }
        assert!(warns(221, by()));
        let mut seldom = Contest::default();
        for minute in [0, 40, 80, 120, 160] {
            seldom.wrote("a", minutes(minute), by());
            assert_eq!(seldom.warning(minutes(minute)), None, "{minute}");
        }
    }
}
