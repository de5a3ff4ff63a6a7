//! What several tests need: PostgreSQL and PgBouncer of their own, certificates, signed licenses,
//! free ports. Nothing of it is part of the product.
//!
//! Add it under `[dev-dependencies]`; a test that needs a database then reads:
//!
//! ```ignore
//! use testkit::postgres::Server;
//!
//! static SERVER: LazyLock<Server> = LazyLock::new(|| Server::start(""));
//!
//! SERVER.database("orders", "a password");
//! connect(&format!("postgres://orders:a password@localhost:{}/orders", SERVER.port));
//! ```

#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "only tests call it, and a panic is how a test reports"
)]

pub mod certificates;
pub mod license;
pub mod memory;
pub mod ports;
pub mod postgres;
pub mod programs;
