//! Everything the end-to-end tests and the demo of the operator stand on: a real Kubernetes cluster
//! made by kind, a real PostgreSQL server, the product's own images, and faults for all of them.
//!
//! A scenario (see [`scenarios`]) is an async function that gets a [`sandbox::Sandbox`]: a
//! namespace, a database and an operator of its own on the shared cluster. The harness shares no
//! code with the operator: it knows the custom resource as users do, by its YAML.
#![allow(
    clippy::print_stdout,
    missing_docs,
    reason = "a command-line program; items that say nothing more than their name need no sentence"
)]

pub mod audit;
pub mod bench;
pub mod certificates;
pub mod cli;
pub mod collect;
pub mod command;
pub mod companions;
pub mod demo;
pub mod engine;
pub mod faults;
pub mod followers;
pub mod harness;
pub mod helm;
pub mod images;
pub mod kind;
pub mod kubectl;
pub mod leaks;
pub mod license;
pub mod machine;
pub mod oci;
pub mod postgres;
pub mod process;
pub mod reaper;
pub mod runner;
pub mod sandbox;
pub mod scenario;
pub mod scenarios;
pub mod selfcheck;
pub mod soak;
pub mod state;
pub mod system_images;
pub mod teardown;
pub mod tools;
pub mod wait;
