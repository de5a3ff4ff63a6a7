//! A Kubernetes operator that runs Bytebase with several replicas and proves each step against its
//! metadata database.
//!
//! Data flows one way through every reconcile:
//!
//! ```text
//! observe (I/O) → validate (pure) → decide (pure) → apply (I/O) → report (I/O)
//! ```
//!
//! `kubernetes`, `api`, `contract`, `validate`, `decide` and `desired` are pure: they know no
//! Kubernetes client, no database driver and no async runtime (`tests/purity.rs` holds them to
//! it). `runtime` wires the steps to the cluster.
//!
//! A module is public only where `main`, a test under `tests` or the model names it, so that the
//! compiler finds what nothing uses.

pub mod api;
mod apply;
pub use bytebase_contract as contract;
pub mod cli;
pub mod decide;
mod dereference;
pub mod desired;
pub mod kubernetes;
pub mod observation;
pub mod observe;
pub mod process;
mod report;
pub mod runtime;
#[cfg(test)]
mod testing;
pub mod validate;
