//! Drains: several replicas that end, each with its hook, on one database with one queue. The hooks
//! decide as the real ones do; what happens around them is a world of its own.
//!
//! [`promises`] says what must hold; [`hook`] is one hook; [`world`] is what there is and what may
//! happen; [`judge`] finds the promises that are broken; [`readings`] is what a hook does, by the
//! real decisions; [`next`] is what becomes of the world; [`check`] brings all of it before the
//! checker; [`profiles`] says what may happen in which run, and which planted bug it must find.

mod check;
mod hook;
mod judge;
mod next;
mod profiles;
mod promises;
mod readings;
mod world;

pub use profiles::run;
