//! Objects that another party changes back each time the operator has written them: another
//! controller, a GitOps tool, a webhook. Writing again at once would go on for ever, many times a
//! second, and change nothing in the end.

use std::time::{Duration, Instant};

/// So many writes of the same content within [`WINDOW`] are no coincidence.
const WRITES: usize = 5;
/// See [`WRITES`].
const WINDOW: Duration = Duration::from_mins(1);
/// From then on this long until the next, doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
/// An object that has stood for so long is not being changed back now.
const STANDS_AFTER: Duration = Duration::from_secs(30);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// What is remembered of the writes of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contest {
    /// Hash of what was written.
    hash: String,
    /// The latest writes, oldest first; no more than [`WRITES`].
    writes: Vec<Instant>,
    /// Between the latest write and the next, once it is contested.
    pause: Option<Duration>,
    /// Who changed it back before the latest write, as far as the API server says.
    by: Option<String>,
}

impl Contest {
    /// Of an object that is written for the first time.
    pub fn new(hash: &str) -> Self {
        Self {
            hash: hash.to_owned(),
            writes: Vec::new(),
            pause: None,
            by: None,
        }
    }

    /// Whether it is about this content. Another content is another matter.
    pub fn is_about(&self, hash: &str) -> bool {
        self.hash == hash
    }

    /// Whether another party keeps changing it back, or one more write would say so.
    pub fn is_near(&self) -> bool {
        self.pause.is_some() || self.writes.len() + 1 >= WRITES
    }

    /// It was written, which was needed only because another party had changed it.
    pub fn wrote(&mut self, now: Instant, by: Option<String>) {
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

    /// It has been left alone for so long that it can be forgotten.
    pub fn is_over(&self, now: Instant) -> bool {
        let pause = self.pause.unwrap_or_default();
        let last = self.writes.last();
        last.is_none_or(|last| now.duration_since(*last) > pause + WINDOW)
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
        let mut contest = Contest::new("a");
        for second in at {
            contest.wrote(start + seconds(*second), None);
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
            contest.wrote(moment, Some("kustomize-controller".to_owned()));
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
        assert!(
            contest.is_over(moment + seconds(361)),
            "a minute beyond the pause"
        );
    }
}
