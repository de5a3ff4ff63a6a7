//! A Kubernetes operator that runs Bytebase with several replicas and proves each step against its
//! metadata database.
//!
//! Data flows one way through every reconcile:
//!
//! ```text
//! dereference (I/O) → validate (pure) → observe (I/O) → decide (pure) → apply (I/O) → report (I/O)
//! ```
//!
//! Each step is a module with one function of its name, and `runtime::reconcile` calls them in this
//! order. `kubernetes`, `api`, `contract`, `redaction`, `observation`, `validate`, `desired` and
//! `decide` are pure: they know no Kubernetes client, no database driver and no async runtime.
//! `process` stands below the steps, `runtime` above them (`tests/purity.rs` holds all of them to
//! it).
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
mod redaction;
mod report;
mod runtime;
#[cfg(test)]
mod testing;
pub mod validate;
