//! The program as the init container starts it.

#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a failed expectation is the report"
)]

use std::process::Command;

#[test]
fn the_program_copies_itself_and_its_copy_can_be_started() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bytebase-drain");
    let version = concat!("bytebase-drain ", env!("CARGO_PKG_VERSION"), "\n");
    let program = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let path = path.to_str().unwrap();
    for _ in 0..2 {
        let said = program(env!("CARGO_BIN_EXE_bytebase-drain"), &["install", path]);
        assert_eq!(said, version, "of the copy");
    }
    assert_eq!(program(path, &["--version"]), version);
}
