//! The password file, read as Bytebase's driver reads it.

use bytebase_contract::pg_url::PgUrl;

/// The password of the first line that fits. The driver takes that of the first host for all of
/// them.
pub fn password(text: &str, url: &PgUrl) -> Option<String> {
    let at = url.hosts.first()?;
    let host = if at.host.starts_with('/') {
        "localhost"
    } else {
        &at.host
    };
    let port = at.port.to_string();
    let wanted = [host, &port, &url.database, &url.user];
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.map(fields).find_map(|fields| match &fields[..] {
        [place @ .., password] if place.len() == wanted.len() => {
            let mut pairs = place.iter().zip(wanted);
            let fits = pairs.all(|(field, wanted)| field == "*" || field == wanted);
            fits.then(|| password.clone())
        }
        _ => None,
    })
}

/// Divides at colons. A backslash takes the meaning from a colon and from a backslash, and has none
/// of its own before anything else.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![];
    let mut field = String::new();
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let escaped = characters.next_if(|next| character == '\\' && matches!(next, ':' | '\\'));
        match (character, escaped) {
            (_, Some(escaped)) => field.push(escaped),
            (':', None) => fields.push(std::mem::take(&mut field)),
            (other, None) => field.push(other),
        }
    }
    fields.push(field);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits_counts() {
        let url = PgUrl::parse("postgres://u@db:5433,other:5434/b").unwrap();
        let socket = PgUrl::parse("postgres:///b?host=/run/pg&user=u").unwrap();
        for (text, expected, by_socket) in [
            ("", None, None),
            ("db:5433:b:u:p", Some("p"), None),
            ("other:5434:b:u:p", None, None),
            ("localhost:5432:b:u:p", None, Some("p")),
            ("*:*:*:*:p", Some("p"), Some("p")),
            (
                "db:5433:b:v:no\ndb:5433:*:u:p\n*:*:*:*:no",
                Some("p"),
                Some("no"),
            ),
            ("#*:*:*:*:no\r\n  *:*:*:*:p \r\n", Some("p"), Some("p")),
            (
                r"*:*:*:*:a\:b\\\:c\d\\",
                Some(r"a:b\:c\d\"),
                Some(r"a:b\:c\d\"),
            ),
            (r"*:*:*:\u:no", None, None),
            ("*:*:*:*:a:b", None, None),
            ("*:*:*:p", None, None),
            ("*:*:*:*:", Some(""), Some("")),
        ] {
            assert_eq!(password(text, &url).as_deref(), expected, "{text}");
            assert_eq!(password(text, &socket).as_deref(), by_socket, "{text}");
        }
    }
}
