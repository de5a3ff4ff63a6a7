//! `bytebase-operator`: parses the command line and calls one function.

use std::process::ExitCode;

fn main() -> ExitCode {
    bytebase_operator::cli::main()
}
