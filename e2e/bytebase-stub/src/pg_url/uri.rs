//! The URI form, with the strictness of Go's URL parser where it matters to users.

use super::{PgUrlError, Settings};
use percent_encoding::percent_decode_str;

/// Parses `postgres://…` into settings.
pub fn parse(text: &str) -> Result<Settings, PgUrlError> {
    let rest = text
        .split_once("://")
        .map(|(_, rest)| rest)
        .ok_or(PgUrlError::Uri("no scheme"))?;
    if rest.contains(|c: char| c.is_ascii_control()) {
        return Err(PgUrlError::Uri("invalid control character"));
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));

    let mut settings = Settings::new();
    let hosts = match authority.rsplit_once('@') {
        Some((user_info, hosts)) => {
            read_user_info(user_info, &mut settings)?;
            hosts
        }
        None => authority,
    };
    read_hosts(hosts, &mut settings)?;
    let database = decode(path)?;
    if !database.is_empty() {
        settings.insert("database".to_owned(), database);
    }
    read_query(query, &mut settings);
    Ok(settings)
}

fn read_user_info(text: &str, settings: &mut Settings) -> Result<(), PgUrlError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
    if !text.chars().all(legal) {
        return Err(PgUrlError::Uri("invalid user information"));
    }
    let (user, password) = match text.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (text, None),
    };
    settings.insert("user".to_owned(), decode(user)?);
    if let Some(password) = password {
        settings.insert("password".to_owned(), decode(password)?);
    }
    Ok(())
}

fn read_hosts(text: &str, settings: &mut Settings) -> Result<(), PgUrlError> {
    // The Go parser knows escapes in a host only beyond ASCII: a socket directory goes into
    // `?host=`.
    if text.contains('%') {
        return Err(PgUrlError::Uri("invalid URL escape in the host"));
    }
    if text.contains(|c: char| c == ' ' || "<>\"\\^`{|}".contains(c)) {
        return Err(PgUrlError::Uri("invalid character in the host name"));
    }
    let (mut hosts, mut ports) = (Vec::new(), Vec::new());
    for item in text.split(',').filter(|item| !item.is_empty()) {
        let (host, port) = split_port(item)?;
        if !host.is_empty() {
            hosts.push(host);
        }
        if !port.is_empty() {
            if port.parse::<u32>().is_err() {
                return Err(PgUrlError::Uri("invalid port behind the host"));
            }
            ports.push(port);
        }
    }
    for (key, values) in [("host", hosts), ("port", ports)] {
        if !values.is_empty() {
            settings.insert(key.to_owned(), values.join(","));
        }
    }
    Ok(())
}

fn split_port(item: &str) -> Result<(&str, &str), PgUrlError> {
    if let Some(bracketed) = item.strip_prefix('[') {
        let (host, rest) = bracketed
            .split_once(']')
            .ok_or(PgUrlError::Uri("missing ']' in the host"))?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, port)),
            None if rest.is_empty() => Ok((host, "")),
            None => Err(PgUrlError::Uri("invalid port behind the host")),
        };
    }
    match item.matches(':').count() {
        0 => Ok((item, "")),
        1 => Ok(item.split_once(':').unwrap_or((item, ""))),
        _ => Err(PgUrlError::Uri("too many colons in the host")),
    }
}

/// As in Go, a pair that does not decode is dropped in silence and the first of several wins.
fn read_query(text: &str, settings: &mut Settings) {
    let mut seen = Settings::new();
    for pair in text
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.contains(';'))
    {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let (Ok(key), Ok(value)) = (
            decode(&key.replace('+', " ")),
            decode(&value.replace('+', " ")),
        ) {
            let key = if key == "dbname" {
                "database".to_owned()
            } else {
                key
            };
            seen.entry(key).or_insert(value);
        }
    }
    settings.extend(seen);
}

fn decode(text: &str) -> Result<String, PgUrlError> {
    let bytes = text.as_bytes();
    let is_hex = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_hexdigit);
    let sound = (0..bytes.len()).all(|at| bytes[at] != b'%' || (is_hex(at + 1) && is_hex(at + 2)));
    if !sound {
        return Err(PgUrlError::Uri("invalid URL escape"));
    }
    percent_decode_str(text)
        .decode_utf8()
        .map(Into::into)
        .map_err(|_| PgUrlError::Uri("an escape is not UTF-8"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn parts_are_decoded_and_the_query_beats_the_authority() {
        let settings =
            parse("postgresql://b%40b:p%2Fw@one:5433/my%20db?host=/tmp&search_path=a+b&x=%zz")
                .unwrap();
        let expected = [
            ("database", "my db"),
            ("host", "/tmp"),
            ("password", "p/w"),
            ("port", "5433"),
            ("search_path", "a b"),
            ("user", "b@b"),
        ];
        assert_eq!(
            settings,
            expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into()
        );
    }

    #[test]
    fn an_address_of_version_six_needs_brackets() {
        assert_eq!(parse("postgres://[::1]:5/").unwrap()["host"], "::1");
        assert!(parse("postgres://::1/").is_err());
    }
}
