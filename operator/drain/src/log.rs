//! What the hook says, in the log of the container that it runs in. The kubelet keeps the output of
//! a hook to itself, so the lines go where those of the container's own process go.

use jiff::Timestamp;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write as _;

/// Standard output of the container's own process.
const CONTAINER_LOG: &str = "/proc/1/fd/1";

/// Writes one line, in the form of Bytebase's own.
pub fn line(level: &str, message: &str) {
    let line = json!({
        "time": Timestamp::now().to_string(),
        "level": level,
        "msg": format!("drain: {message}"),
    });
    let line = format!("{line}\n");
    let log = OpenOptions::new().append(true).open(CONTAINER_LOG);
    let written = log.and_then(|mut log| log.write_all(line.as_bytes()));
    if written.is_err() {
        eprint!("{line}");
    }
}
