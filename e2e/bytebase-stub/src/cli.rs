//! The command line: exactly the flags that are stable since 3.17, spelled the way Go's flag parser
//! takes them.

use clap::{ArgAction, Parser};
use std::path::PathBuf;

/// Flags of the server. An unknown one fails the start.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "bytebase",
    about = "A stand-in that keeps the contract of Bytebase",
    args_override_self = true // of a flag given twice the last counts, as in Go
)]
pub struct Flags {
    /// Port the server listens on, cleartext.
    #[arg(long, default_value_t = 8080)]
    pub port: u16,

    /// Directory that must exist and be writable.
    #[arg(long, default_value = ".")]
    pub data: PathBuf,

    /// URL under which users reach the server; the same on every replica.
    #[arg(long, default_value = "")]
    pub external_url: String,

    /// Be one replica of several.
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub ha: bool,

    /// Log JSON objects instead of text.
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_value_t = false, default_missing_value = "true")]
    pub enable_json_logging: bool,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_boolean_flag_stands_alone_or_takes_its_value_after_an_equals_sign() {
        assert!(Flags::try_parse_from(["bytebase", "--ha"]).unwrap().ha);
        assert!(
            !Flags::try_parse_from(["bytebase", "--ha=false"])
                .unwrap()
                .ha
        );
    }

    #[test]
    fn an_unknown_flag_is_an_error() {
        assert!(Flags::try_parse_from(["bytebase", "--readonly"]).is_err());
    }
}
