//! When it is asked what Bytebase has failed as abandoned, and what counts of the answers. Pure.
//!
//! No index serves that question, so it is one of its own beside the reading: where its answer
//! takes too long, no more is lost than that. A drain hook keeps the same rule for its replica.

use crate::contract::abandonment::{HEARD, KEPT, UNANSWERED};
use crate::observation::{DatabaseIdentity, Heartbeat, RunningTasks};
use std::collections::BTreeSet;
use tokio::time::Instant;
use uuid::Uuid;

/// What was answered of one database, and what makes that too old.
#[derive(Debug, Default)]
pub struct Abandoned {
    /// Of which database.
    identity: Option<DatabaseIdentity>,
    /// When it was asked last, where what is kept here counts since then. `None`: it is to be asked
    /// at once.
    asked: Option<Instant>,
    /// The last answer.
    tasks: Vec<RunningTasks>,
    /// What said RUNNING at the last reading.
    before: Vec<RunningTasks>,
    /// Who was heard at the last reading.
    heard: BTreeSet<Uuid>,
    /// How often it has been asked in vain since the last answer.
    unanswered: u32,
}

impl Abandoned {
    /// Takes up what says RUNNING by a reading of this database. What did so before and does not
    /// any more may have been failed as abandoned since. What was failed of an owner that was not
    /// heard counts once it is heard again. What was answered of another database, or of a server
    /// that has started again, says nothing of this one.
    pub fn note(
        &mut self,
        identity: &DatabaseIdentity,
        running: &[RunningTasks],
        heartbeats: &[Heartbeat],
    ) {
        if self.identity.as_ref() != Some(identity) {
            *self = Self {
                identity: Some(identity.clone()),
                ..Self::default()
            };
        }
        let is_missing = |before: &RunningTasks| {
            let mut running = running.iter();
            let same = running.find(|tasks| tasks.replica_id == before.replica_id);
            same.is_none_or(|tasks| tasks.count < before.count)
        };
        let heard = heartbeats
            .iter()
            .filter(|heartbeat| heartbeat.age < HEARD)
            .map(|heartbeat| heartbeat.replica_id)
            .collect::<BTreeSet<_>>();
        if self.before.iter().any(is_missing) || !heard.is_subset(&self.heard) {
            self.outdate();
        }
        self.before = running.to_vec();
        self.heard = heard;
    }

    /// The last answer does not serve any more.
    pub fn outdate(&mut self) {
        self.asked = None;
    }

    /// Whether the last answer does not serve at this moment.
    pub fn is_to_be_asked(&self, now: Instant) -> bool {
        let serves = |asked| now.saturating_duration_since(asked) < KEPT;
        !self.asked.is_some_and(serves)
    }

    /// Takes an answer, or that there was none.
    pub fn take(&mut self, answer: Option<Vec<RunningTasks>>, now: Instant) {
        match answer {
            Some(tasks) => (self.tasks, self.unanswered) = (tasks, 0),
            None if self.unanswered >= UNANSWERED => {}
            None => {
                self.unanswered += 1;
                self.outdate();
                return;
            }
        }
        self.asked = Some(now);
    }

    /// What counts as failed so. `None` while that is not known.
    pub fn tasks(&self) -> Option<&[RunningTasks]> {
        self.asked.map(|_| self.tasks.as_slice())
    }
}

/// Adds what was failed as abandoned to what says RUNNING, for each replica.
pub fn add(running: &mut Vec<RunningTasks>, abandoned: &[RunningTasks]) {
    for tasks in abandoned {
        let mut owners = running.iter_mut();
        match owners.find(|owner| owner.replica_id == tasks.replica_id) {
            Some(owner) => owner.count = owner.count.saturating_add(tasks.count),
            None => running.push(*tasks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use uuid::Uuid;

    fn tasks(counts: &[(u128, u64)]) -> Vec<RunningTasks> {
        let tasks = counts.iter().map(|(id, count)| RunningTasks {
            replica_id: Uuid::from_u128(*id),
            count: *count,
        });
        tasks.collect()
    }

    fn identity(server_start: &str) -> DatabaseIdentity {
        DatabaseIdentity::new("db", server_start)
    }

    fn later(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn it_is_asked_seldom_and_at_once_where_a_task_is_missing() {
        let start = Instant::now();
        for (running, seconds, expected) in [
            (tasks(&[(1, 2), (2, 1)]), 9, false),
            (tasks(&[(1, 2), (2, 1)]), 10, true),
            (tasks(&[(2, 1), (1, 3), (3, 1)]), 9, false),
            (tasks(&[(1, 1), (2, 1)]), 1, true),
            (tasks(&[(1, 2)]), 1, true),
            (tasks(&[]), 1, true),
        ] {
            let mut abandoned = Abandoned::default();
            abandoned.note(&identity("1"), &tasks(&[(1, 2), (2, 1)]), &[]);
            assert!(abandoned.is_to_be_asked(start));
            abandoned.take(Some(Vec::new()), start);
            abandoned.note(&identity("1"), &running, &[]);
            let asks = abandoned.is_to_be_asked(later(start, seconds));
            assert_eq!(asks, expected, "{running:?} {seconds}");
        }
    }

    #[test]
    fn it_is_asked_at_once_where_an_owner_is_heard_again() {
        let start = Instant::now();
        let heard = |ages: &[(u128, u64)]| -> Vec<Heartbeat> {
            let heartbeats = ages.iter().map(|(id, age)| Heartbeat {
                replica_id: Uuid::from_u128(*id),
                age: Duration::from_secs(*age),
            });
            heartbeats.collect()
        };
        let before = [(1, 5), (2, 61)];
        for (ages, expected) in [
            ([(1, 15), (2, 71)], false),
            ([(1, 61), (2, 71)], false),
            ([(1, 15), (2, 1)], true),
            ([(1, 15), (3, 1)], true),
        ] {
            let mut abandoned = Abandoned::default();
            abandoned.note(&identity("1"), &[], &heard(&before));
            abandoned.take(Some(Vec::new()), start);
            abandoned.note(&identity("1"), &[], &heard(&ages));
            assert_eq!(
                abandoned.is_to_be_asked(later(start, 1)),
                expected,
                "{ages:?}"
            );
        }
    }

    #[test]
    fn after_a_failed_reading_or_on_another_server_it_is_asked_at_once() {
        let start = Instant::now();
        let answered = || {
            let mut abandoned = Abandoned::default();
            abandoned.note(&identity("1"), &[], &[]);
            abandoned.take(Some(tasks(&[(1, 1)])), start);
            abandoned
        };
        let mut same = answered();
        same.note(&identity("1"), &[], &[]);
        assert!(!same.is_to_be_asked(later(start, 1)));
        assert_eq!(same.tasks(), Some(&tasks(&[(1, 1)])[..]));
        same.outdate();
        assert!(same.is_to_be_asked(later(start, 1)));
        assert_eq!(same.tasks(), None);
        let mut other = answered();
        other.note(&identity("2"), &[], &[]);
        assert!(other.is_to_be_asked(later(start, 1)));
        for _ in 0..=UNANSWERED {
            assert_eq!(other.tasks(), None);
            other.take(None, later(start, 1));
        }
        assert_eq!(
            other.tasks(),
            Some(tasks(&[]).as_slice()),
            "of another server"
        );
    }

    #[test]
    fn without_an_answer_it_is_not_known_what_runs_and_then_the_last_answer_counts() {
        let start = Instant::now();
        for answered in [false, true] {
            let mut abandoned = Abandoned::default();
            let running = tasks(&[(1, 1)]);
            abandoned.note(&identity("1"), &running, &[]);
            let last = tasks(if answered { &[(2, 1)] } else { &[] });
            if answered {
                abandoned.take(Some(last.clone()), start);
            }
            for seconds in 10..15 {
                abandoned.note(&identity("1"), &running, &[]);
                assert!(abandoned.is_to_be_asked(later(start, seconds)));
                abandoned.take(None, later(start, seconds));
                assert_eq!(abandoned.tasks(), None, "{answered} {seconds}");
            }
            abandoned.take(None, later(start, 15));
            assert_eq!(abandoned.tasks(), Some(&last[..]), "{answered}");
            // From then on no oftener than with answers.
            assert!(!abandoned.is_to_be_asked(later(start, 24)));
            assert!(abandoned.is_to_be_asked(later(start, 25)));
            abandoned.take(None, later(start, 25));
            assert_eq!(abandoned.tasks(), Some(&last[..]), "{answered}");
            // An answer begins the five tries again.
            abandoned.take(Some(tasks(&[(3, 1)])), later(start, 35));
            assert_eq!(abandoned.tasks(), Some(&tasks(&[(3, 1)])[..]));
            abandoned.take(None, later(start, 45));
            assert_eq!(abandoned.tasks(), None);
        }
    }

    #[test]
    fn what_was_failed_as_abandoned_is_added_for_each_replica() {
        let mut running = tasks(&[(1, 1), (2, u64::MAX)]);
        add(&mut running, &tasks(&[(1, 2), (2, 1), (3, 1)]));
        assert_eq!(running, tasks(&[(1, 3), (2, u64::MAX), (3, 1)]));
    }
}
