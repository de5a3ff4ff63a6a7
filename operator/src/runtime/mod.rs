//! Wiring: watches, the queue of clusters to look at, leadership, time-outs, shutdown.

pub mod backoff;
pub mod caches;
pub mod calls;
pub mod claims;
pub mod context;
pub mod lease;
pub mod logging;
pub mod metrics;
pub mod queue;
pub mod reconcile;
pub mod run;
pub mod server;
pub mod tasks;
pub mod watches;
