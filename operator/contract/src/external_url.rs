//! The external URL: the address that people, webhooks and single sign-on use to reach Bytebase.
//!
//! Releases of Bytebase differ in what they accept here. This type holds what all supported ones
//! accept and read alike.

use std::fmt;
use std::net::Ipv6Addr;

/// A URL that every supported Bytebase accepts and leaves as it is.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ExternalUrl {
    text: String,
    scheme: Scheme,
    host: String,
    port: Option<u16>,
    path: Option<String>,
}

/// Why a text is no external URL. Each message says what is wrong, where, and what to do.
///
/// A user name and password in front of the host are refused but never repeated; nothing of the
/// input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExternalUrlError {
    /// Nothing there.
    #[error(
        "the URL is empty: give the address people open in the browser, such as https://bytebase.example.com"
    )]
    Empty,
    /// Longer than any proxy takes.
    #[error("the URL has {length} characters: give one of at most {MAX_LENGTH}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A blank, tab or line break, at an end or inside.
    #[error("there is a blank or line break at character {position}: remove it")]
    Whitespace {
        /// Counted from 1.
        position: usize,
    },
    /// An unprintable character.
    #[error("there is an unprintable character at position {position}: type the URL again")]
    ControlCharacter {
        /// Counted from 1.
        position: usize,
    },
    /// An international name in its readable form.
    #[error(
        "character {position} is not ASCII: write an international host name in its xn-- form and percent-encode the path"
    )]
    NotAscii {
        /// Counted from 1.
        position: usize,
    },
    /// `HTTPS://`: the same to a browser, not to Bytebase.
    #[error("the scheme is not in lower case: begin with http:// or https://")]
    UpperCaseScheme,
    /// Another scheme, or none.
    #[error("the URL does not begin with http:// or https://: put the scheme in front of the host")]
    Scheme,
    /// `https://` alone, or `https:///path`.
    #[error(
        "there is no host after the scheme: put one there, such as https://bytebase.example.com"
    )]
    MissingHost,
    /// `user@` or `user:password@`.
    #[error(
        "there is a user name in front of the host (ending with `@` at character {position}): remove it"
    )]
    UserInfo {
        /// Counted from 1.
        position: usize,
    },
    /// `[::1]`: its colons would be taken for a port.
    #[error(
        "the host is an IPv6 address: Bytebase cannot distinguish its colons from that of a port; use a DNS name"
    )]
    Ipv6,
    /// A host that is no DNS name or IPv4 address.
    #[error("character {position} cannot be part of a host name: use letters, digits, `-` and `.`")]
    HostCharacter {
        /// Counted from 1.
        position: usize,
    },
    /// Empty or oversized label, or one that begins or ends with a hyphen.
    #[error(
        "the host is not a DNS name: each part between dots needs 1 to 63 characters and no hyphen at its ends, 253 in all"
    )]
    HostForm,
    /// `https://host:`.
    #[error("there is a colon after the host but no port: remove the colon or add the port")]
    EmptyPort,
    /// Not a number from 1 to 65535.
    #[error(
        "the port after the host is not a number from 1 to 65535: correct it, or leave it out for the usual one"
    )]
    Port,
    /// `http://host:443`: older releases drop either port under either scheme, which changes the
    /// meaning.
    #[error("port {port} does not belong to the scheme: use {use_instead}, or another port")]
    PortOfOtherScheme {
        /// 80 or 443.
        port: u16,
        /// What was probably meant.
        use_instead: &'static str,
    },
    /// Path and port together.
    #[error(
        "there are both a port and a path: Bytebase accepts only one of the two, remove the path"
    )]
    PathWithPort,
    /// Slashes at the end that no release drops.
    #[error(
        "the URL has an empty path segment (`//`) at character {position}: remove the extra slash"
    )]
    EmptySegment {
        /// Counted from 1.
        position: usize,
    },
    /// A colon in the path is counted as one before a port.
    #[error(
        "character {position} is not allowed in the path: use letters, digits, `/`, `-`, `.`, `_` and `~`"
    )]
    PathCharacter {
        /// Counted from 1.
        position: usize,
    },
    /// A percent sign, which releases unescape differently.
    #[error(
        "there is a percent sign at character {position}: use characters that need no encoding"
    )]
    Percent {
        /// Counted from 1.
        position: usize,
    },
    /// `?…`.
    #[error("there is a query (from `?` at character {position}): remove it")]
    Query {
        /// Counted from 1.
        position: usize,
    },
    /// `#…`.
    #[error("there is a fragment (from `#` at character {position}): remove it")]
    Fragment {
        /// Counted from 1.
        position: usize,
    },
}

/// What is accepted but will not do what one may expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExternalUrlWarning {
    /// A path, though the server serves at `/`.
    #[error(
        "the URL has a path, but Bytebase serves at `/`: a proxy in front has to strip the path, or pages will not load"
    )]
    Path,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Scheme {
    Http,
    Https,
}

/// Proxies and browsers differ above this; no real address comes near it.
const MAX_LENGTH: usize = 2048;

// === impl ExternalUrl ===

impl ExternalUrl {
    /// Reads and normalises a URL: one trailing slash is dropped, and so is a port that the scheme
    /// implies.
    pub fn parse(text: &str) -> Result<Self, ExternalUrlError> {
        check_characters(text)?;
        let (scheme, rest) = split_scheme(text)?;
        let start = text.len() - rest.len();
        if let Some(index) = rest.find('#') {
            return Err(ExternalUrlError::Fragment {
                position: start + index + 1,
            });
        }
        if let Some(index) = rest.find('?') {
            return Err(ExternalUrlError::Query {
                position: start + index + 1,
            });
        }
        let (authority, path) = match rest.find('/') {
            Some(index) => rest.split_at(index),
            None => (rest, ""),
        };
        let (host, port) = parse_authority(authority, start, scheme)?;
        let path = path.strip_suffix('/').unwrap_or(path);
        check_path(path, start + authority.len())?;
        if port.is_some() && !path.is_empty() {
            return Err(ExternalUrlError::PathWithPort);
        }
        let port = port.filter(|port| *port != scheme.default_port());
        let mut text = format!("{}://{host}", scheme.as_str());
        if let Some(port) = port {
            text.push(':');
            text.push_str(&port.to_string());
        }
        text.push_str(path);
        Ok(Self {
            text,
            scheme,
            host,
            port,
            path: (!path.is_empty()).then(|| path.to_owned()),
        })
    }

    /// The normalised URL, as handed to Bytebase.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// `http` or `https`.
    pub fn scheme(&self) -> &'static str {
        self.scheme.as_str()
    }

    /// The host, as written.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if the URL names one that the scheme does not imply.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The path with its leading slash, if there is one beyond `/`.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// What to warn the user of although the URL is accepted.
    pub fn warning(&self) -> Option<ExternalUrlWarning> {
        self.path.as_ref().map(|_| ExternalUrlWarning::Path)
    }
}

impl fmt::Display for ExternalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ExternalUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ExternalUrl({})", self.text)
    }
}

// === impl Scheme ===

impl Scheme {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

fn check_characters(text: &str) -> Result<(), ExternalUrlError> {
    if text.is_empty() {
        return Err(ExternalUrlError::Empty);
    }
    if text.len() > MAX_LENGTH {
        return Err(ExternalUrlError::TooLong { length: text.len() });
    }
    for (index, c) in text.chars().enumerate() {
        let position = index + 1;
        if c.is_whitespace() {
            return Err(ExternalUrlError::Whitespace { position });
        }
        if c.is_control() {
            return Err(ExternalUrlError::ControlCharacter { position });
        }
        if !c.is_ascii() {
            return Err(ExternalUrlError::NotAscii { position });
        }
    }
    Ok(())
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), ExternalUrlError> {
    if let Some(rest) = text.strip_prefix("https://") {
        return Ok((Scheme::Https, rest));
    }
    if let Some(rest) = text.strip_prefix("http://") {
        return Ok((Scheme::Http, rest));
    }
    let lower = text.to_ascii_lowercase();
    if lower.starts_with("https://") || lower.starts_with("http://") {
        return Err(ExternalUrlError::UpperCaseScheme);
    }
    Err(ExternalUrlError::Scheme)
}

/// `start` is the offset of `authority` in the whole text, which is ASCII by now: a byte is a
/// character.
fn parse_authority(
    authority: &str,
    start: usize,
    scheme: Scheme,
) -> Result<(String, Option<u16>), ExternalUrlError> {
    if let Some(index) = authority.rfind('@') {
        return Err(ExternalUrlError::UserInfo {
            position: start + index + 1,
        });
    }
    if authority.contains(['[', ']']) || authority.parse::<Ipv6Addr>().is_ok() {
        return Err(ExternalUrlError::Ipv6);
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    if host.is_empty() {
        return Err(ExternalUrlError::MissingHost);
    }
    for (index, c) in host.char_indices() {
        let position = start + index + 1;
        match c {
            '%' => return Err(ExternalUrlError::Percent { position }),
            c if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') => {}
            _ => return Err(ExternalUrlError::HostCharacter { position }),
        }
    }
    let label_is_good = |label: &str| {
        (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label_is_good) {
        return Err(ExternalUrlError::HostForm);
    }
    let port = port.map(parse_port).transpose()?;
    match (scheme, port) {
        (Scheme::Http, Some(443)) => Err(ExternalUrlError::PortOfOtherScheme {
            port: 443,
            use_instead: "https",
        }),
        (Scheme::Https, Some(80)) => Err(ExternalUrlError::PortOfOtherScheme {
            port: 80,
            use_instead: "http",
        }),
        _ => Ok((host.to_owned(), port)),
    }
}

fn parse_port(text: &str) -> Result<u16, ExternalUrlError> {
    if text.is_empty() {
        return Err(ExternalUrlError::EmptyPort);
    }
    // `parse` alone would take a plus sign; a leading zero would be dropped, and the text would
    // differ from Bytebase's.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) || text.starts_with('0') {
        return Err(ExternalUrlError::Port);
    }
    text.parse().map_err(|_| ExternalUrlError::Port)
}

fn check_path(path: &str, start: usize) -> Result<(), ExternalUrlError> {
    if let Some(index) = path.find("//") {
        return Err(ExternalUrlError::EmptySegment {
            position: start + index + 2,
        });
    }
    if path.ends_with('/') {
        return Err(ExternalUrlError::EmptySegment {
            position: start + path.len() + 1,
        });
    }
    for (index, c) in path.char_indices() {
        let position = start + index + 1;
        match c {
            '%' => return Err(ExternalUrlError::Percent { position }),
            c if c.is_ascii_alphanumeric() || matches!(c, '/' | '-' | '.' | '_' | '~') => {}
            _ => return Err(ExternalUrlError::PathCharacter { position }),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn accepted_urls_are_normalised_as_bytebase_normalises_them() {
        for (text, expected) in [
            (
                "https://bytebase.example.com",
                "https://bytebase.example.com",
            ),
            (
                "https://bytebase.example.com/",
                "https://bytebase.example.com",
            ),
            (
                "https://bytebase.example.com:443",
                "https://bytebase.example.com",
            ),
            (
                "http://bytebase.example.com:80/",
                "http://bytebase.example.com",
            ),
            ("http://localhost:8080", "http://localhost:8080"),
            (
                "https://bytebase.example.com:8443/",
                "https://bytebase.example.com:8443",
            ),
            ("https://10.0.0.1", "https://10.0.0.1"),
            (
                "https://Bytebase.Example.com",
                "https://Bytebase.Example.com",
            ),
            (
                "https://example.com/bytebase",
                "https://example.com/bytebase",
            ),
            (
                "https://example.com/bytebase/",
                "https://example.com/bytebase",
            ),
            (
                "https://xn--bcher-kva.example",
                "https://xn--bcher-kva.example",
            ),
        ] {
            let url = ExternalUrl::parse(text).expect(text);
            assert_eq!(url.as_str(), expected, "{text}");
        }
    }

    #[test]
    fn the_parts_of_a_url_can_be_read() {
        let url = ExternalUrl::parse("http://bytebase.example.com:8080").expect("a URL");
        assert_eq!(
            (url.scheme(), url.host(), url.port(), url.path()),
            ("http", "bytebase.example.com", Some(8080), None)
        );
        assert_eq!(url.warning(), None);
        let url = ExternalUrl::parse("https://example.com/db/").expect("a URL");
        assert_eq!(
            (url.scheme(), url.host(), url.port(), url.path()),
            ("https", "example.com", None, Some("/db"))
        );
        assert_eq!(url.warning(), Some(ExternalUrlWarning::Path));
        assert_eq!(
            (format!("{url}"), format!("{url:?}")),
            (
                "https://example.com/db".into(),
                "ExternalUrl(https://example.com/db)".into()
            )
        );
    }

    #[test]
    fn each_rule_refuses_with_its_own_reason_and_place() {
        use ExternalUrlError as E;
        let long = format!("https://{}", "a".repeat(2041));
        let long_label = format!("https://{}.com", "a".repeat(64));
        for (text, expected) in [
            ("", E::Empty),
            (long.as_str(), E::TooLong { length: 2049 }),
            (" https://a.b", E::Whitespace { position: 1 }),
            ("https://a.b\n", E::Whitespace { position: 12 }),
            ("https://a b", E::Whitespace { position: 10 }),
            ("https://a\u{0}b", E::ControlCharacter { position: 10 }),
            ("https://bücher.example", E::NotAscii { position: 10 }),
            ("HTTPS://a.b", E::UpperCaseScheme),
            ("Http://a.b", E::UpperCaseScheme),
            ("a.b", E::Scheme),
            ("ftp://a.b", E::Scheme),
            ("https:/a.b", E::Scheme),
            ("//a.b", E::Scheme),
            ("https://", E::MissingHost),
            ("https:///path", E::MissingHost),
            ("https://:8080", E::MissingHost),
            ("https://me:secret@a.b", E::UserInfo { position: 18 }),
            ("https://[::1]", E::Ipv6),
            ("https://[::1]:8080", E::Ipv6),
            ("https://2001:db8::1", E::Ipv6),
            ("https://a_b.c", E::HostCharacter { position: 10 }),
            ("https://a,b", E::HostCharacter { position: 10 }),
            ("https://a%41.b", E::Percent { position: 10 }),
            ("https://a..b", E::HostForm),
            ("https://.a", E::HostForm),
            ("https://a.b.", E::HostForm),
            ("https://-a.b", E::HostForm),
            (long_label.as_str(), E::HostForm),
            ("https://a.b:", E::EmptyPort),
            ("https://a.b:/", E::EmptyPort),
            ("https://a.b:0", E::Port),
            ("https://a.b:70000", E::Port),
            ("https://a.b:+1", E::Port),
            ("https://a.b:0443", E::Port),
            ("https://a.b:1:2", E::Port),
            (
                "http://a.b:443",
                E::PortOfOtherScheme {
                    port: 443,
                    use_instead: "https",
                },
            ),
            (
                "https://a.b:80",
                E::PortOfOtherScheme {
                    port: 80,
                    use_instead: "http",
                },
            ),
            ("https://a.b:8080/path", E::PathWithPort),
            ("https://a.b:443/path", E::PathWithPort),
            ("https://a.b//", E::EmptySegment { position: 13 }),
            ("https://a.b/c//d", E::EmptySegment { position: 15 }),
            ("https://a.b/c:d", E::PathCharacter { position: 14 }),
            ("https://a.b/c@d", E::PathCharacter { position: 14 }),
            ("https://a.b/%20", E::Percent { position: 13 }),
            ("https://a.b?x=1", E::Query { position: 12 }),
            ("https://a.b/?", E::Query { position: 13 }),
            ("https://a.b#x", E::Fragment { position: 12 }),
        ] {
            assert_eq!(ExternalUrl::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_password_in_the_url_is_not_repeated() {
        let error = ExternalUrl::parse("https://admin:hunter2@a.b").expect_err("refused");
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in "\\PC*|(https?://)?[a-z0-9.:/@?#%\\[\\] -]{0,40}") {
            if let Ok(url) = ExternalUrl::parse(&text) {
                prop_assert_eq!(ExternalUrl::parse(url.as_str()), Ok(url.clone()), "normal form is stable");
            }
        }

        #[test]
        fn what_is_built_from_good_parts_is_accepted(
            https: bool,
            host in "[a-z0-9]{1,8}(\\.[a-z]{1,8}){0,3}",
            port in proptest::option::of(1_u16..),
        ) {
            let (scheme, other) = if https { ("https", 80) } else { ("http", 443) };
            prop_assume!(port != Some(other));
            let text = format!("{scheme}://{host}{}", port.map(|port| format!(":{port}")).unwrap_or_default());
            let url = ExternalUrl::parse(&text).expect("good parts");
            prop_assert_eq!(url.host(), host);
        }
    }
}
