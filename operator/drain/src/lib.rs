//! What is pure in the drain hook, so that the model can run it as it is: [`drain`] says what the
//! hook does next, [`identity`] which replica it stands beside.

pub mod drain;
pub mod identity;
