//! The external URL in the form that every supported version accepts.

/// Why an external URL is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExternalUrlError {
    /// Wrong scheme, or none.
    #[error("the external URL must start with http:// or https://, in lower case")]
    Scheme,
    /// Nothing between scheme and path.
    #[error("the external URL names no host")]
    NoHost,
    /// An address such as `[::1]`.
    #[error("the external URL must not hold an IPv6 literal")]
    Ipv6,
    /// `user@host`.
    #[error("the external URL must not hold user information")]
    UserInfo,
    /// `?…` or `#…`.
    #[error("the external URL must not hold a query or a fragment")]
    QueryOrFragment,
    /// The part behind the colon is no port; a path behind a port ends here too.
    #[error("the external URL has an invalid port")]
    Port,
}

/// Drops one trailing slash and the ports 80 and 443. Nothing at all stays nothing: the value then
/// comes from the database.
pub fn normalise(raw: &str) -> Result<String, ExternalUrlError> {
    let raw = raw.trim();
    if raw.is_empty() {
        return Ok(String::new());
    }
    let url = raw.strip_suffix('/').unwrap_or(raw);
    let (scheme, rest) = ["http://", "https://"]
        .iter()
        .find_map(|scheme| url.strip_prefix(scheme).map(|rest| (*scheme, rest)))
        .ok_or(ExternalUrlError::Scheme)?;
    if rest.contains(['?', '#']) {
        return Err(ExternalUrlError::QueryOrFragment);
    }
    if rest.contains('@') {
        return Err(ExternalUrlError::UserInfo);
    }
    if rest.starts_with('[')
        || rest
            .split('/')
            .next()
            .is_some_and(|host| host.matches(':').count() > 1)
    {
        return Err(ExternalUrlError::Ipv6);
    }
    let Some((host, port)) = rest.split_once(':') else {
        return match rest.split('/').next() {
            None | Some("") => Err(ExternalUrlError::NoHost),
            Some(_) => Ok(format!("{scheme}{rest}")),
        };
    };
    // `host:3000/path` fails here, as its "port" is `3000/path`.
    match port.parse::<u16>() {
        _ if host.is_empty() => Err(ExternalUrlError::NoHost),
        Ok(80 | 443) => Ok(format!("{scheme}{host}")),
        Ok(port) if port > 0 => Ok(format!("{scheme}{host}:{port}")),
        _ => Err(ExternalUrlError::Port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_every_version_accepts_is_normalised() {
        for (raw, normal) in [
            ("", ""),
            ("https://bb.example.com", "https://bb.example.com"),
            ("https://bb.example.com/", "https://bb.example.com"),
            ("https://bb.example.com:443/", "https://bb.example.com"),
            ("http://bb.example.com:80", "http://bb.example.com"),
            ("http://bb.example.com:8080", "http://bb.example.com:8080"),
            ("http://bb.example.com/sub", "http://bb.example.com/sub"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(normal), "{raw}");
        }
    }

    #[test]
    fn what_some_version_refuses_is_refused() {
        use ExternalUrlError as E;
        for (raw, error) in [
            ("bb.example.com", E::Scheme),
            ("HTTPS://bb.example.com", E::Scheme),
            ("https://", E::Scheme),
            ("https:///sub", E::NoHost),
            ("https://:8080", E::NoHost),
            ("https://[::1]:8080", E::Ipv6),
            ("https://::1", E::Ipv6),
            ("https://user@bb.example.com", E::UserInfo),
            ("https://bb.example.com?a=b", E::QueryOrFragment),
            ("https://bb.example.com/#top", E::QueryOrFragment),
            ("https://bb.example.com:8080/sub", E::Port),
            ("https://bb.example.com:http", E::Port),
        ] {
            assert_eq!(normalise(raw), Err(error), "{raw}");
        }
    }
}
