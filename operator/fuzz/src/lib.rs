//! The contract parsers, compiled by themselves: as a dependency, the operator would bring its Kubernetes client and database
//! driver along, to be built anew with sanitizers for nothing.

#[path = "../../src/contract/mod.rs"]
pub mod contract;
