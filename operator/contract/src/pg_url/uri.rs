//! The URI form, divided the way Go's `net/url` and the driver divide it.
//!
//! Where those silently drop something (a fragment, a parameter with a bad percent code) or guess
//! (a list in which only some hosts have a port), the text is refused instead.

use super::error::{Part, PgUrlError};
use super::raw::Raw;
use std::net::Ipv6Addr;

/// `start` is where `rest`, the text after the scheme, begins in the whole text.
pub(super) fn parse(rest: &str, start: usize) -> Result<Raw, PgUrlError> {
    if let Some(index) = rest.bytes().position(|byte| byte.is_ascii_control()) {
        return Err(if rest[index..].trim_end_matches(['\r', '\n']).is_empty() {
            PgUrlError::TrailingLineBreak
        } else {
            PgUrlError::ControlCharacter {
                offset: start + index + 1,
            }
        });
    }
    if let Some(index) = rest.find('#') {
        return Err(PgUrlError::Fragment {
            offset: start + index + 1,
        });
    }
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    if let Some(index) = tail.find('@') {
        return Err(PgUrlError::LateAt {
            offset: start + authority_end + index + 1,
        });
    }
    let mut raw = Raw::default();
    // The last `@` divides: the driver takes earlier ones as part of the login.
    let hosts = match authority.rsplit_once('@') {
        Some((login, hosts)) => {
            parse_login(login, start, &mut raw)?;
            hosts
        }
        None => authority,
    };
    parse_hosts(hosts, &mut raw)?;
    let (path, query) = match tail.find('?') {
        Some(index) => (&tail[..index], &tail[index + 1..]),
        None => (tail, ""),
    };
    let tail_start = start + authority_end;
    if let Some(database) = path
        .strip_prefix('/')
        .filter(|database| !database.is_empty())
    {
        if database.contains('/') {
            return Err(PgUrlError::SlashInDatabase);
        }
        let database = decode(database, tail_start + 1, Part::Database, false)?;
        // The driver strips slashes from the decoded name as well.
        if database.starts_with('/') {
            return Err(PgUrlError::SlashInDatabase);
        }
        raw.add("database", database, 0)?;
    }
    parse_query(query, tail_start + path.len() + 1, &mut raw)?;
    Ok(raw)
}

fn parse_login(login: &str, start: usize, raw: &mut Raw) -> Result<(), PgUrlError> {
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._:~!$&'()*+,;=%@".contains(&byte);
    if let Some(index) = login.bytes().position(|byte| !is_allowed(byte)) {
        return Err(PgUrlError::ReservedInLogin {
            offset: start + index + 1,
        });
    }
    let (user, password) = match login.split_once(':') {
        Some((user, password)) => (user, Some(password)),
        None => (login, None),
    };
    if !user.is_empty() {
        raw.add("user", decode(user, start, Part::User, false)?, 0)?;
    }
    if let Some(password) = password {
        raw.add(
            "password",
            decode(password, start + user.len() + 1, Part::Password, false)?,
            0,
        )?;
    }
    Ok(())
}

fn parse_hosts(text: &str, raw: &mut Raw) -> Result<(), PgUrlError> {
    if text.is_empty() {
        return Ok(());
    }
    let mut hosts = Vec::new();
    let mut ports = Vec::new();
    if let Some((address, port)) = text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        if address.parse::<Ipv6Addr>().is_err() {
            return Err(PgUrlError::BadHost { position: 1 });
        }
        hosts.push(address);
        if port.contains(',') {
            return Err(PgUrlError::Ipv6Form);
        }
        match port.strip_prefix(':') {
            Some(port) => ports.push(port),
            None if port.is_empty() => {}
            None => return Err(PgUrlError::BadPort { position: 1 }),
        }
    } else {
        for (index, element) in text.split(',').enumerate() {
            if element.contains(['[', ']']) || element.parse::<Ipv6Addr>().is_ok() {
                return Err(PgUrlError::Ipv6Form);
            }
            match element.split_once(':') {
                Some((host, port)) => {
                    if port.contains(':') {
                        return Err(PgUrlError::BadPort {
                            position: index + 1,
                        });
                    }
                    hosts.push(host);
                    ports.push(port);
                }
                None => hosts.push(element),
            }
        }
    }
    // `host:` is the same as `host`.
    ports.retain(|port| !port.is_empty());
    if !ports.is_empty() {
        if ports.len() != hosts.len() {
            return Err(PgUrlError::PortsDoNotMatchHosts {
                hosts: hosts.len(),
                ports: ports.len(),
            });
        }
        raw.add("port", ports.join(","), 0)?;
    }
    raw.add("host", hosts.join(","), 0)
}

fn parse_query(query: &str, start: usize, raw: &mut Raw) -> Result<(), PgUrlError> {
    let mut offset = start;
    for (index, piece) in query.split('&').enumerate() {
        let position = index + 1;
        if let Some(index) = piece.find(';') {
            return Err(PgUrlError::Semicolon {
                offset: offset + index + 1,
            });
        }
        if !piece.is_empty() {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            let name_length = name.len();
            let name = decode(name, offset, Part::Parameters, true)?;
            let value = decode(value, offset + name_length + 1, Part::Parameters, true)?;
            raw.add(&name, value, position)?;
        }
        offset += piece.len() + 1;
    }
    Ok(())
}

/// Undoes percent-encoding; in parameters a plus sign is a blank too. `start` is where `text`
/// begins in the whole text.
fn decode(text: &str, start: usize, part: Part, plus_is_blank: bool) -> Result<String, PgUrlError> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        match byte {
            b'%' => {
                let digit = |at: usize| {
                    bytes
                        .get(at)
                        .and_then(|digit| char::from(*digit).to_digit(16))
                };
                let (Some(high), Some(low)) = (digit(index + 1), digit(index + 2)) else {
                    return Err(PgUrlError::BadPercent {
                        offset: start + index + 1,
                    });
                };
                decoded.push(u8::try_from(high * 16 + low).unwrap_or_default());
                index += 2;
            }
            b'+' if plus_is_blank => decoded.push(b' '),
            _ => decoded.push(byte),
        }
        index += 1;
    }
    String::from_utf8(decoded)
        .ok()
        .filter(|text| !text.contains('\0'))
        .ok_or(PgUrlError::NotText { part })
}
