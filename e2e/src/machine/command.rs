//! Running other programs: what they print, or an error that shows the whole call and the end of
//! what they complained about.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::timeout;

/// Long enough for the slowest single call (making a cluster on a busy machine), short enough that
/// a call that hangs shows as its own failure and not as a scenario's time-out.
const DEFAULT_LIMIT: Duration = Duration::from_mins(5);
/// How much of a failed program's output an error shows.
const SHOWN_LINES: usize = 25;

/// One call of a program.
#[derive(Debug)]
pub struct Call {
    command: Command,
    shown: String,
    input: Option<Vec<u8>>,
    limit: Duration,
}

impl Call {
    /// A call of `program` with these arguments.
    pub fn new<S: AsRef<OsStr>>(program: impl AsRef<OsStr>, arguments: &[S]) -> Self {
        let mut command = Command::new(program.as_ref());
        command.args(arguments).kill_on_drop(true);
        let name = Path::new(program.as_ref()).file_name().unwrap_or_default();
        let mut shown = name.to_string_lossy().into_owned();
        for argument in arguments {
            shown.push(' ');
            shown.push_str(&argument.as_ref().to_string_lossy());
        }
        Self {
            command,
            shown,
            input: None,
            limit: DEFAULT_LIMIT,
        }
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs the program in this folder.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Gives the program this text as its standard input; without it the input is empty.
    #[must_use]
    pub fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Replaces the default time limit of five minutes.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs it to its end and returns what it printed. A non-zero exit code is an error.
    pub async fn run(mut self) -> Result<String> {
        self.command
            .stdin(if self.input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("cannot run `{}`", self.shown))?;
        let stdin = child.stdin.take();
        let input = self.input.take();
        // Written beside the reading of the output: a program may answer before it has read all.
        let write = async move {
            if let (Some(mut stdin), Some(input)) = (stdin, input) {
                // A program that ends without reading its input says why by its exit code.
                drop(stdin.write_all(&input).await);
            }
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = timeout(self.limit, both)
            .await
            .with_context(|| format!("`{}` took longer than {:?}", self.shown, self.limit))??;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(printed);
        }
        let complaint = String::from_utf8_lossy(&output.stderr);
        let shown = if complaint.trim().is_empty() {
            printed.as_str()
        } else {
            complaint.as_ref()
        };
        bail!(
            "`{}`: {}\n{}",
            self.shown,
            output.status,
            tail(shown, SHOWN_LINES)
        );
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_shows_the_call_and_the_complaint() {
        let error = Call::new("sh", &["-c", "echo reason >&2; exit 3"])
            .run()
            .await
            .map_err(|error| error.to_string());
        assert!(
            matches!(&error, Err(text) if text.contains("sh -c") && text.contains("reason") && text.contains('3')),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_call_that_hangs_ends_at_its_limit() {
        let result = Call::new("sleep", &["60"])
            .limit(Duration::from_millis(50))
            .run()
            .await;
        assert!(matches!(&result, Err(error) if error.to_string().contains("took longer")));
    }

    #[tokio::test]
    async fn input_reaches_the_program() -> Result<()> {
        assert_eq!(
            Call::new::<&str>("cat", &[]).input("text").run().await?,
            "text"
        );
        Ok(())
    }
}
