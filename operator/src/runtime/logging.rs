//! Logs, as text for people or JSON for collectors.

use std::io::{self, Write};
use tracing::Metadata;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::util::TryInitError;

/// The format of a log line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    #[default]
    Json,
    /// Plain text.
    Text,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one.
    #[error("bad log filter: {0}")]
    Filter(#[from] ParseError),
    /// Something has set up logging before.
    #[error("logging is set up already: {0}")]
    Init(#[from] TryInitError),
}

/// Sets up logging for the process, on standard error. `filter` is in the syntax of `RUST_LOG`,
/// such as `info,bytebase_operator=debug`.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LoggingError> {
    use tracing_subscriber::util::SubscriberInitExt as _;
    subscriber(format, filter, io::stderr)?.try_init()?;
    Ok(())
}

fn subscriber<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
) -> Result<Box<dyn tracing::Subscriber + Send + Sync>, ParseError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    // The database driver repeats notices of servers at the level they come with, and a tenant's
    // server may say anything. The queue's span repeats the name of the cluster that our own
    // lines carry, and its watches the errors that we log ourselves. The client warns with the
    // whole body of an answer that it cannot decode, and that may be one with a Secret.
    let muted = "sqlx=error,kube_runtime=error,kube_client=error";
    let filter = EnvFilter::try_new(format!("{muted},{filter}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(OneLine(writer));
    Ok(match format {
        LogFormat::Json => Box::new(
            builder
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false)
                .finish(),
        ),
        // Colour codes are noise in `kubectl logs | grep`.
        LogFormat::Text => Box::new(builder.with_ansi(false).finish()),
    })
}

/// Writes each event as one line, whatever control characters its words have: a user's field that
/// is quoted must not look like an event of its own.
struct OneLine<W>(W);

impl<'w, W: MakeWriter<'w>> MakeWriter<'w> for OneLine<W> {
    type Writer = OneLine<W::Writer>;

    fn make_writer(&'w self) -> Self::Writer {
        OneLine(self.0.make_writer())
    }

    fn make_writer_for(&'w self, event: &Metadata<'_>) -> Self::Writer {
        OneLine(self.0.make_writer_for(event))
    }
}

impl<W: Write> Write for OneLine<W> {
    /// The whole event comes at once.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let mut line = text.trim_end().replace(char::is_control, " ");
        line.push('\n');
        self.0.write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use parking_lot::Mutex;
    use serde_json::Value;
    use std::sync::Arc;
    use tracing::subscriber::DefaultGuard;

    /// What this thread logs while this value is there.
    pub(crate) struct Log {
        memory: Memory,
        _guard: DefaultGuard,
    }

    impl Log {
        pub(crate) fn begin(format: LogFormat, filter: &str) -> Self {
            let memory = Memory::default();
            let writer = memory.clone();
            let subscriber = subscriber(format, filter, move || writer.clone()).unwrap();
            Self {
                memory,
                _guard: tracing::subscriber::set_default(subscriber),
            }
        }

        pub(crate) fn text(&self) -> String {
            let bytes = self.memory.0.lock().clone();
            String::from_utf8(bytes).unwrap()
        }

        /// The lines of a log in JSON with these words in their message.
        pub(crate) fn lines(&self, words: &str) -> Vec<Value> {
            let text = self.text();
            let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
            let has_words = |line: &Value| line["message"].as_str().unwrap().contains(words);
            lines.filter(has_words).collect()
        }
    }

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, filter: &str) -> String {
        let log = Log::begin(format, filter);
        tracing::info!(cluster = "a/b", "reconciled");
        tracing::debug!("hidden");
        tracing::warn!(target: "sqlx::postgres::notice", "words of a server");
        tracing::warn!(target: "kube_client::client", "body of an answer, expected value");
        log.text()
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(LogFormat::Json, "info");
        assert_eq!(text.lines().count(), 1);
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["message"], &line["cluster"]),
            (&"reconciled".into(), &"a/b".into())
        );
    }

    #[test]
    fn text_is_plain() {
        let text = logged(LogFormat::Text, "info");
        assert!(
            text.contains("reconciled")
                && text.contains("cluster=\"a/b\"")
                && !text.contains('\u{1b}'),
            "{text:?}"
        );
    }

    #[test]
    fn a_value_that_is_quoted_begins_no_line_of_its_own() {
        for format in [LogFormat::Json, LogFormat::Text] {
            let log = Log::begin(format, "info");
            let forged = "x\n2026-01-01T00:00:00Z ERROR all is lost\u{1b}[2J\u{9b}\r";
            tracing::info!(cluster = %forged, "there is no volume {forged}");
            let text = log.text();
            let line = text.strip_suffix('\n').unwrap();
            assert!(line.contains("all is lost"), "{text:?}");
            assert!(!line.contains(char::is_control), "{text:?}");
        }
    }

    #[test]
    fn a_bad_filter_is_refused() {
        assert!(matches!(
            init(LogFormat::Json, "info,=="),
            Err(LoggingError::Filter(_))
        ));
    }
}
