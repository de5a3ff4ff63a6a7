//! Log lines shaped as Go's `slog` shapes them, because the operator reads `replicaID=…` from them.

use serde_json::{Map, Value};
use std::{fmt::Write as _, io};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer as _,
    filter::Targets,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// Starts logging to standard error. Libraries stay silent: what they would log is not ours to
/// judge for secrets.
pub fn start(json: bool) {
    let only_ours = Targets::new().with_target("bytebase_stub", Level::INFO);
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Slog { json })
        .with_writer(io::stderr)
        .with_ansi(false)
        .with_filter(only_ours);
    // A second start would fail; there is only one, and its failure changes nothing that matters.
    let _ = tracing_subscriber::registry().with(lines).try_init();
}

struct Slog {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Slog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = format!("{:.3}", jiff::Timestamp::now());
        let level = event.metadata().level().as_str();
        let line = if self.json {
            json_line(&time, level, fields)
        } else {
            text_line(&time, level, &fields)
        };
        writeln!(writer, "{line}")
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.others.push((name, value.to_owned())),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }
}

fn json_line(time: &str, level: &str, fields: Fields) -> String {
    let mut object = Map::new();
    object.insert("time".to_owned(), time.into());
    object.insert("level".to_owned(), level.into());
    object.insert("msg".to_owned(), fields.message.into());
    for (name, value) in fields.others {
        object.insert(name.to_owned(), value.into());
    }
    Value::Object(object).to_string()
}

fn text_line(time: &str, level: &str, fields: &Fields) -> String {
    let mut line = format!("time={time} level={level} msg={}", quoted(&fields.message));
    for (name, value) in &fields.others {
        // Writing to a string cannot fail.
        let _ = write!(line, " {name}={}", quoted(value));
    }
    line
}

/// `slog` quotes a value that is empty or holds a space, a quote, an equals sign or a control
/// character.
fn quoted(value: &str) -> String {
    let plain = !value.is_empty()
        && !value
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || c == '"' || c == '=');
    if plain {
        value.to_owned()
    } else {
        Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        Fields {
            message: "replicaID=1".to_owned(),
            others: vec![
                ("error", "no such \"thing\"".to_owned()),
                ("port", "1".to_owned()),
            ],
        }
    }

    #[test]
    fn a_text_line_quotes_only_what_needs_it() {
        assert_eq!(
            text_line("T", "INFO", &fields()),
            r#"time=T level=INFO msg="replicaID=1" error="no such \"thing\"" port=1"#
        );
    }

    #[test]
    fn a_json_line_is_one_object_with_time_level_and_msg() {
        let line: Value = json_line("T", "WARN", fields()).parse().unwrap_or_default();
        assert_eq!(
            line,
            serde_json::json!({"time": "T", "level": "WARN", "msg": "replicaID=1", "error": "no such \"thing\"", "port": "1"})
        );
    }
}
