//! The load: tasks for the replicas, at a steady pace, some short and some not, some in a
//! transaction.

use super::Subject;
use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fmt;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Seconds that most tasks take at most.
const SHORT: u32 = 20;
/// `holdLimitSeconds` of a cluster under this load. The queue must be held for longer than the
/// longest task takes: else a replica to which work keeps coming is never idle, and has to give up
/// its drain.
pub const HOLD_LIMIT: u32 = 120;
/// `drainTimeoutSeconds` of a cluster under this load: for the pause after a hold that has just
/// ended, and for one that is long enough.
pub const DRAIN_TIMEOUT: u32 = HOLD_LIMIT * 5 / 2;
/// Seconds that the longest task takes.
const LONGEST: u32 = HOLD_LIMIT * 3 / 4;
/// One task in so many is a long one.
const LONG_IN: u32 = 20;
/// One task in so many is a migration in transaction mode.
const TRANSACTION_IN: u32 = 4;

/// The task that gives tasks.
pub struct Load {
    task: JoinHandle<Vec<Tally>>,
    stop: oneshot::Sender<()>,
}

/// What became of the tasks for one cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Its name.
    cluster: String,
    /// How many its database took.
    pub given: u64,
    /// How many it did not take.
    refused: u64,
    /// Why it did not take the last of them.
    why: Option<String>,
}

impl Load {
    /// Begins. `rate`: tasks a minute for each cluster.
    pub fn start(subjects: Vec<Subject>, rate: u32, seed: u64) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            task: tokio::spawn(give(subjects, rate, seed, stopped)),
            stop,
        }
    }

    /// Ends it. Returns what became of the tasks, for each cluster.
    pub async fn end(self) -> Result<Vec<Tally>> {
        drop(self.stop);
        self.task.await.context("the load broke off")
    }
}

// === impl Tally ===

impl Tally {
    fn of(subject: &Subject) -> Self {
        Self {
            cluster: subject.name.clone(),
            given: 0,
            refused: 0,
            why: None,
        }
    }

    /// One more was given, or could not be.
    fn note(&mut self, error: Option<&sqlx::Error>) {
        match error {
            None => self.given += 1,
            Some(error) => {
                self.refused += 1;
                self.why = Some(error.to_string());
            }
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cluster,
            given,
            refused,
            why,
        } = self;
        write!(f, "the database of {cluster} took {given} tasks")?;
        match why {
            Some(why) => write!(f, " and did not take {refused} (the last time: {why})"),
            None => Ok(()),
        }
    }
}

/// An error if the database of any cluster took no task at all: no book shows anything of its tasks
/// then, however many the others took.
pub fn all_took_some(tallies: &[Tally]) -> Result<()> {
    for tally in tallies {
        ensure!(
            tally.given > 0,
            "{tally}: no book shows anything of its tasks"
        );
    }
    Ok(())
}

async fn give(
    subjects: Vec<Subject>,
    rate: u32,
    seed: u64,
    mut stopped: oneshot::Receiver<()>,
) -> Vec<Tally> {
    // Not the numbers that the rounds are drawn from.
    let mut rng = StdRng::seed_from_u64(!seed);
    let mut tallies: Vec<_> = subjects.iter().map(Tally::of).collect();
    if rate == 0 {
        return tallies;
    }
    let mut pace = interval(Duration::from_mins(1) / rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut stopped => return tallies,
            _ = pace.tick() => {}
        }
        for (subject, tally) in subjects.iter().zip(&mut tallies) {
            let longest = if rng.random_ratio(1, LONG_IN) {
                LONGEST
            } else {
                SHORT
            };
            let seconds = i64::from(rng.random_range(1..=longest));
            let is_transaction = rng.random_ratio(1, TRANSACTION_IN);
            let target = is_transaction.then(|| subject.target.url());
            let insert = sqlx::query(
                "INSERT INTO task_run (payload)
                 VALUES (jsonb_strip_nulls(jsonb_build_object('seconds', $1::bigint, 'target', $2::text)))",
            );
            // A database that is away or was swapped takes none.
            let done = insert
                .bind(seconds)
                .bind(target)
                .execute(&subject.pool)
                .await;
            tally.note(done.as_ref().err());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_that_took_no_task_is_not_made_up_for_by_another() {
        let tally = |cluster: &str| Tally {
            cluster: cluster.to_owned(),
            given: 0,
            refused: 0,
            why: None,
        };
        let (mut one, mut other) = (tally("soak-0"), tally("soak-1"));
        one.note(None);
        one.note(None);
        other.note(Some(&sqlx::Error::PoolTimedOut));
        let error = all_took_some(&[one.clone(), other.clone()]).unwrap_err();
        let said = error.to_string();
        let why = sqlx::Error::PoolTimedOut;
        let expected = format!(
            "the database of soak-1 took 0 tasks and did not take 1 (the last time: {why}): no book shows anything of its tasks"
        );
        assert_eq!(said, expected);
        other.note(None);
        assert!(all_took_some(&[one, other]).is_ok());
    }
}
