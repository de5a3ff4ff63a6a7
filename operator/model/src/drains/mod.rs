//! Drains: several replicas that end, each with its hook, on one database with one queue. The hooks
//! decide as the real ones do; what happens around them is a world of its own.
//!
//! [`world`] is what there is and what may happen; [`hook`] is one hook, which asks the real
//! decisions and does what they say; [`promises`] says what must hold; [`check`] brings them before
//! the checker; [`profiles`] says what may happen in which run, and which planted bug it must find.

mod check;
mod hook;
mod profiles;
mod promises;
mod world;

pub use profiles::run;
