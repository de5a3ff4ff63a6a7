//! A PostgreSQL for the whole test program, a database per test, and the server as a process.

pub mod keys;
pub mod postgres;
pub mod process;

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Longer than anything takes, on a busy machine too.
pub const PATIENCE: Duration = Duration::from_secs(40);

/// Asks until the answer is yes.
pub async fn eventually<F: Future<Output = bool>>(what: &str, mut question: impl FnMut() -> F) {
    let start = Instant::now();
    while !question().await {
        assert!(start.elapsed() < PATIENCE, "never happened: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
