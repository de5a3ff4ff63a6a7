//! Wiring: watches, the reconcile, time-outs, shutdown.

pub mod backoff;
pub mod context;
mod first_pass;
pub mod logging;
pub mod reconcile;
pub mod run;
pub mod server;
pub mod tasks;
#[cfg(test)]
mod tests;
pub mod watches;
