//! What the hook says, in the log of the container that it runs in. The kubelet keeps the output of
//! a hook to itself, so the lines go where those of the container's own process go.

use crate::process;
use jiff::Timestamp;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::PathBuf;

/// Where the lines go.
pub struct Log(pub PathBuf);

impl Log {
    /// To standard output of the container's own process.
    pub fn of_container() -> Self {
        let process = process::id().unwrap_or(1);
        Self(format!("/proc/{process}/fd/1").into())
    }

    /// What is as expected.
    pub fn info(&self, message: &str) {
        self.line("INFO", message);
    }

    /// What loses something.
    pub fn warn(&self, message: &str) {
        self.line("WARN", message);
    }

    /// One line, in the form of Bytebase's own.
    fn line(&self, level: &str, message: &str) {
        let line = json!({
            "time": Timestamp::now().to_string(),
            "level": level,
            "msg": format!("drain: {message}"),
        });
        let line = format!("{line}\n");
        let log = OpenOptions::new().append(true).open(&self.0);
        let written = log.and_then(|mut log| log.write_all(line.as_bytes()));
        if written.is_err() {
            eprint!("{line}");
        }
    }
}
