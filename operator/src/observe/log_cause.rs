//! The line of a log that says why Bytebase ended. Pure.
//!
//! Bytebase logs by Go's `slog`, as JSON or as text, and Go itself prints a panic. The exit code
//! says nothing: Bytebase ends with 0 whatever kept it from starting.

use crate::redaction::unescaped;
use serde_json::Value;
use std::collections::BTreeMap;

/// Levels of a line that may say why a process ended. `slog` may add a number to them.
const LEVELS: [&str; 3] = ["ERROR", "FATAL", "PANIC"];
/// What a line begins with that Go or the command line prints.
const BEGINNINGS: [&str; 6] = [
    "panic:",
    "fatal error:",
    "Error:",
    "ERROR",
    "FATAL",
    "PANIC",
];
/// Words of a line that says why, where no line says it by its form.
const WORDS: [&str; 6] = ["error", "fatal", "panic", "failed", "cannot", "denied"];

/// What the last line that reports a failure says, without its time and place. It may hold secrets.
pub fn find(log: &str) -> Option<String> {
    let mut lines = log.lines().rev();
    let reported = lines.clone().find_map(by_form);
    reported.or_else(|| lines.find_map(by_words))
}

fn by_form(line: &str) -> Option<String> {
    let line = line.trim();
    let fields = fields(line);
    if let Some(level) = fields.get("level") {
        let is_failure = LEVELS.iter().any(|failure| level.starts_with(failure));
        return is_failure.then(|| {
            let parts = ["msg", "error", "err"].iter();
            let parts = parts.filter_map(|name| fields.get(*name));
            let parts: Vec<_> = parts.map(|part| without_stack(part)).collect();
            parts.join(": ")
        });
    }
    let line = without_time(line);
    let reports = BEGINNINGS
        .iter()
        .any(|beginning| line.starts_with(beginning));
    reports.then(|| line.to_owned())
}

/// A line of no known form, which mentions a failure.
fn by_words(line: &str) -> Option<String> {
    let line = line.trim();
    let lower = line.to_ascii_lowercase();
    let mentions = WORDS.iter().any(|word| lower.contains(word));
    let is_frame = line.contains(".go:") || !line.contains(' ');
    (mentions && !is_frame && fields(line).is_empty()).then(|| without_time(line).to_owned())
}

/// The fields of a line of `slog`; none of any other line.
fn fields(line: &str) -> BTreeMap<String, String> {
    if line.starts_with('{') {
        let Ok(Value::Object(object)) = serde_json::from_str(line) else {
            return BTreeMap::new();
        };
        let texts = object.into_iter().filter_map(|(name, value)| match value {
            Value::String(text) => Some((name, text)),
            _ => None,
        });
        return texts.collect();
    }
    let mut fields = BTreeMap::new();
    if !(line.starts_with("time=") || line.starts_with("level=")) {
        return fields;
    }
    let mut rest = line;
    while let Some((name, value)) = rest.split_once('=') {
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => {
                let end = end_of_quoted(quoted);
                (
                    unescaped(&quoted[..end]),
                    quoted.get(end + 1..).unwrap_or(""),
                )
            }
            None => match value.split_once(' ') {
                Some((value, after)) => (value.to_owned(), after),
                None => (value.to_owned(), ""),
            },
        };
        fields.entry(name.trim().to_owned()).or_insert(value);
        rest = after;
    }
    fields
}

/// Where the closing quote is, or the text ends.
fn end_of_quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at,
            _ => {}
        }
    }
    text.len()
}

/// A time that a logger puts in front changes with every start.
fn without_time(line: &str) -> &str {
    let is_time = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_digit())
            && word.contains([':', '/', '-'])
            && word
                .chars()
                .all(|c| c.is_ascii_digit() || ":/-.TZ+".contains(c))
    };
    let mut rest = line;
    while let Some((word, after)) = rest.split_once(' ') {
        if !is_time(word) {
            break;
        }
        rest = after.trim_start();
    }
    rest
}

/// The messages of an error that brings its stacks along: a frame is a function, and below it its
/// file.
fn without_stack(error: &str) -> String {
    let mut messages: Vec<&str> = Vec::new();
    let mut lines = error.lines().peekable();
    while let Some(line) = lines.next() {
        let is_file = |line: &str| line.starts_with('\t') && line.contains(".go:");
        if lines.peek().is_some_and(|next| is_file(next)) {
            lines.next();
        } else if !line.trim().is_empty() && messages.last() != Some(&line.trim()) {
            messages.push(line.trim());
        }
    }
    messages.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_failure_is_found_in_every_form() {
        for (log, expected) in [
            (
                r#"{"time":"2026-06-01T00:00:00Z","level":"INFO","msg":"replicaID=1"}
{"time":"2026-06-01T00:00:01Z","level":"ERROR","source":{"file":"bin/server.go","line":9},"msg":"Cannot new server","error":"failed to migrate: no such column"}"#,
                "Cannot new server: failed to migrate: no such column",
            ),
            (
                "time=2026-06-01T00:00:00.000Z level=INFO msg=\"replicaID=1\"\ntime=2026-06-01T00:00:01.000Z level=ERROR source=a.go:1 msg=\"Cannot new server\" error=\"no such \\\"thing\\\"\" port=1\n",
                "Cannot new server: no such \"thing\"",
            ),
            (
                "level=ERROR msg=first\nlevel=ERROR+4 msg=second\nlevel=WARN msg=\"an error\"",
                "second",
            ),
            (
                "{\"level\":\"ERROR\",\"msg\":\"before\"}\npanic: runtime error: index out of range [3]\n\ngoroutine 1 [running]:\nmain.main()\n\t/build/main.go:7 +0x1d\nexit status 2",
                "panic: runtime error: index out of range [3]",
            ),
            (
                "2026/06/01 00:00:00 ERROR Cannot new server\n",
                "ERROR Cannot new server",
            ),
            (
                "Error: unknown flag: --x\nUsage:\n  bytebase [flags]\n",
                "Error: unknown flag: --x",
            ),
            (
                "exec /usr/local/bin/bytebase: exec format error",
                "exec /usr/local/bin/bytebase: exec format error",
            ),
        ] {
            assert_eq!(find(log).as_deref(), Some(expected), "{log}");
        }
        for log in [
            "",
            "{\"level\":\"INFO\",\"msg\":\"no error\"}",
            "time=x level=WARN msg=\"it failed\"",
            "\t/build/errors.go:1 +0x1 error",
        ] {
            assert_eq!(find(log), None, "{log}");
        }
    }

    #[test]
    fn the_stack_of_an_error_is_left_out() {
        let error = "dial tcp: no route\ngithub.com/bytebase/bytebase/backend/store.New\n\t/build/store.go:12\nmain.main\n\t/build/main.go:3\nfailed to connect:\n\t10.0.0.1:5432 (db): refused\nmain.main\n\t/build/main.go:4";
        let line =
            serde_json::json!({"level": "ERROR", "msg": "Cannot new server", "error": error});
        assert_eq!(
            find(&line.to_string()).as_deref(),
            Some(
                "Cannot new server: dial tcp: no route; failed to connect:; 10.0.0.1:5432 (db): refused"
            )
        );
    }

    proptest! {
        #[test]
        fn any_log_is_read_without_a_panic(log in "(?s).{0,200}|(level=|msg=\"|\\\\|\"|time=| |\n|[a-z]|é|=|\\{){0,60}") {
            let _ = find(&log);
        }
    }
}
