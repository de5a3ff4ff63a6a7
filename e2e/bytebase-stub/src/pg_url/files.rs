//! What the driver takes from the machine: the socket directory, the user's name, password and
//! service files.

use super::{Environment, PgUrlError, Settings};
use std::{os::unix::fs::MetadataExt as _, path::Path};

/// Settings that hold when neither the environment nor the string says otherwise.
pub fn defaults(env: Environment<'_>) -> Settings {
    let socket = ["/var/run/postgresql", "/private/tmp", "/tmp"]
        .into_iter()
        .find(|directory| Path::new(directory).exists());
    let mut settings = Settings::from([
        ("host".to_owned(), socket.unwrap_or("localhost").to_owned()),
        ("port".to_owned(), "5432".to_owned()),
        ("target_session_attrs".to_owned(), "any".to_owned()),
    ]);
    if let Some(user) = user_of_this_process() {
        settings.insert("user".to_owned(), user);
    }
    if let Some(home) = env("HOME") {
        settings.insert("passfile".to_owned(), format!("{home}/.pgpass"));
        settings.insert("servicefile".to_owned(), format!("{home}/.pg_service.conf"));
    }
    settings
}

fn user_of_this_process() -> Option<String> {
    let uid = std::fs::metadata("/proc/self").ok()?.uid().to_string();
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

/// The settings of one section of a service file.
pub fn service(name: &str, file: Option<&str>) -> Result<Settings, PgUrlError> {
    let failed = |reason: &str| PgUrlError::Setting {
        key: "service",
        reason: reason.to_owned(),
    };
    let text = file
        .and_then(|file| std::fs::read_to_string(file).ok())
        .ok_or_else(|| failed("the service file cannot be read"))?;
    let header = format!("[{name}]");
    let mut lines = text
        .lines()
        .map(str::trim)
        .skip_while(|line| *line != header);
    lines
        .next()
        .ok_or_else(|| failed("no such service in the file"))?;
    Ok(lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| {
            let key = key.trim();
            let key = if key == "dbname" { "database" } else { key };
            (key.to_owned(), value.trim().to_owned())
        })
        .collect())
}

/// The password for one place in a password file; none when the file is not there or does not know
/// the place.
pub fn password(file: &str, host: &str, port: u16, database: &str, user: &str) -> Option<String> {
    let host = if host.starts_with('/') {
        "localhost"
    } else {
        host
    };
    let place = [host, &port.to_string(), database, user].map(ToOwned::to_owned);
    let text = std::fs::read_to_string(file).ok()?;
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .find_map(|line| {
            let fields = split_escaped(line);
            let fits = fields.len() == 5
                && place
                    .iter()
                    .zip(&fields)
                    .all(|(wanted, field)| field == "*" || field == wanted);
            fits.then(|| fields[4].clone())
        })
}

fn split_escaped(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => fields.push(String::new()),
            other => {
                let kept = if other == '\\' {
                    characters.next().unwrap_or(other)
                } else {
                    other
                };
                if let Some(field) = fields.last_mut() {
                    field.push(kept);
                }
            }
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_first_fitting_line_of_a_password_file_counts() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "# note\nother:*:*:*:no\ndb:5432:*:bb:a\\:b\n*:*:*:*:c\n",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(
            password(path, "db", 5432, "meta", "bb").as_deref(),
            Some("a:b")
        );
        assert_eq!(
            password(path, "/tmp", 1, "meta", "bb").as_deref(),
            Some("c")
        );
    }

    #[test]
    fn a_service_is_one_section() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "[a]\nhost=x\n[b]\nhost=y\ndbname=meta\n[c]\nport=1\n",
        )
        .unwrap();
        let settings = service("b", file.path().to_str()).unwrap();
        assert_eq!(settings.len(), 2);
        assert_eq!(settings["host"], "y");
        assert_eq!(settings["database"], "meta");
    }
}
