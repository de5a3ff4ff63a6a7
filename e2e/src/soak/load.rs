//! The load: tasks for the replicas, at a steady pace, some short and some not, some in a
//! transaction.

use super::Subject;
use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
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
    task: JoinHandle<u64>,
    stop: oneshot::Sender<()>,
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

    /// Ends it. Returns how many tasks were given.
    pub async fn end(self) -> Result<u64> {
        drop(self.stop);
        self.task.await.context("the load broke off")
    }
}

async fn give(
    subjects: Vec<Subject>,
    rate: u32,
    seed: u64,
    mut stopped: oneshot::Receiver<()>,
) -> u64 {
    // Not the numbers that the rounds are drawn from.
    let mut rng = StdRng::seed_from_u64(!seed);
    let mut given = 0;
    if rate == 0 {
        return given;
    }
    let mut pace = interval(Duration::from_mins(1) / rate);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = &mut stopped => return given,
            _ = pace.tick() => {}
        }
        for subject in &subjects {
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
            given += u64::from(done.is_ok());
        }
    }
}
