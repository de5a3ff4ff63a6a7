//! What Bytebase accepts, as types: a value of one of these types is one that every supported
//! Bytebase takes. Beside that, what both the operator and the drain hook rest on: facts of
//! Bytebase ([`replica`], [`abandonment`]), and how the two reach each other ([`hook`]).
//!
//! Parsers never panic, never read a file and never quote their input in an error: a connection
//! string or a license is a secret.

pub mod abandonment;
pub mod ca_bundle;
pub mod certificate;
pub mod external_url;
pub mod hook;
pub mod license;
mod pem;
pub mod pg_url;
pub mod replica;
pub mod version;
