//! Everything the end-to-end tests and the demo of the operator stand on: a real Kubernetes cluster
//! made by kind, a real PostgreSQL server, the product's own images, and faults for all of them.
//!
//! A scenario (see [`scenarios`]) is an async function that gets a [`scenario::sandbox::Sandbox`]:
//! a namespace, a database and an operator of its own on the shared cluster. The harness shares no
//! code with the operator: it knows the custom resource as users do, by its YAML.
#![allow(
    clippy::print_stdout,
    missing_docs,
    reason = "a command-line program; items that say nothing more than their name need no sentence"
)]

pub mod bench;
pub mod cli;
pub mod cluster;
pub mod demo;
pub mod images;
pub mod machine;
pub mod no_registry;
pub mod postgres;
pub mod scenario;
pub mod scenarios;
pub mod session;
pub mod soak;
pub mod times;
pub mod wait;
