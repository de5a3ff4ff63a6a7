//! Reads of the outside world.
