//! What one operator process has whatever its clusters are like: the lease by which it leads, the
//! queue of clusters to reconcile, its metrics, the limit of open files. It stands below the steps
//! and knows none of them.

pub(crate) mod descriptors;
pub(crate) mod lease;
pub mod metrics;
pub(crate) mod queue;
