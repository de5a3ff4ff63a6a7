//! The heart: from what is wanted and what is seen to what is done. Pure, total and synchronous.

pub mod observation;
