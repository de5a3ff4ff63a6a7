//! The keyword/value form, `host=… user=…`.

use super::{PgUrlError, Settings};

/// One of these in front of an equals sign distinguishes the form from a file path.
const KNOWN: [&str; 21] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "password",
    "dbname",
    "database",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "sslpassword",
    "sslsni",
    "connect_timeout",
    "application_name",
    "target_session_attrs",
    "passfile",
    "service",
    "servicefile",
    "options",
    "search_path",
];

/// Whether some field of `text` is `k=v` with a known key.
pub fn looks_like(text: &str) -> bool {
    text.split_whitespace()
        .filter_map(|field| field.split_once('='))
        .any(|(key, _)| KNOWN.contains(&key))
}

/// Parses the form; values may be quoted, and a backslash keeps the next character.
pub fn parse(text: &str) -> Result<Settings, PgUrlError> {
    let mut settings = Settings::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or(PgUrlError::KeywordValue("invalid keyword/value"))?;
        let key = key.trim();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(PgUrlError::KeywordValue("invalid keyword/value"));
        }
        let (value, after) = read_value(after.trim_start())?;
        let key = if key == "dbname" { "database" } else { key };
        settings.insert(key.to_owned(), value);
        rest = after.trim_start();
    }
    Ok(settings)
}

fn read_value(text: &str) -> Result<(String, &str), PgUrlError> {
    let (quoted, text) = match text.strip_prefix('\'') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => match characters.next() {
                Some((_, kept)) => value.push(kept),
                None => return Err(PgUrlError::KeywordValue("invalid backslash at the end")),
            },
            '\'' if quoted => return Ok((value, &text[at + 1..])),
            space if !quoted && space.is_whitespace() => return Ok((value, &text[at..])),
            other => value.push(other),
        }
    }
    if quoted {
        return Err(PgUrlError::KeywordValue("a quote is not closed"));
    }
    Ok((value, ""))
}
