//! The load: tasks for the replicas, at a steady pace, some short and some not.

use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::PgPool;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

/// Seconds that most tasks take at most.
const SHORT: i32 = 20;
/// Seconds that the longest task takes: less than the queue may be held, or a single replica to which
/// work keeps coming would have to give up its drain.
const LONGEST: i32 = 90;
/// One task in so many is a long one.
const LONG_IN: u32 = 20;

/// The task that gives tasks.
pub struct Load {
    task: JoinHandle<u64>,
    stop: oneshot::Sender<()>,
}

impl Load {
    /// Begins. `rate`: tasks a minute for each cluster.
    pub fn start(pools: Vec<PgPool>, rate: u32, seed: u64) -> Self {
        let (stop, stopped) = oneshot::channel();
        Self {
            task: tokio::spawn(give(pools, rate, seed, stopped)),
            stop,
        }
    }

    /// Ends it. Returns how many tasks were given.
    pub async fn end(self) -> Result<u64> {
        drop(self.stop);
        self.task.await.context("the load broke off")
    }
}

async fn give(pools: Vec<PgPool>, rate: u32, seed: u64, mut stopped: oneshot::Receiver<()>) -> u64 {
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
        for pool in &pools {
            let longest = if rng.random_ratio(1, LONG_IN) {
                LONGEST
            } else {
                SHORT
            };
            let seconds = rng.random_range(1..=longest);
            let insert = sqlx::query(
                "INSERT INTO task_run (payload) VALUES (jsonb_build_object('seconds', $1::int))",
            );
            // A database that is away or was swapped takes none.
            let done = insert.bind(seconds).execute(pool).await;
            given += u64::from(done.is_ok());
        }
    }
}
