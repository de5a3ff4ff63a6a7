//! The Bytebase operator.
