//! Wiring: watches, the reconcile, time-outs, shutdown.

pub(crate) mod backoff;
mod catch_up;
pub(crate) mod context;
mod first_pass;
pub(crate) mod logging;
mod own_image;
pub(crate) mod reconcile;
pub(crate) mod run;
pub(crate) mod server;
mod slots;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;
mod wall_clock;
pub(crate) mod watches;
