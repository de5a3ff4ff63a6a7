//! Logging in as Bytebase does: by the same environment, with the same files, from the same place.

use bytebase_contract::pg_url::{HostPort, PgUrl, SslMode, TargetSessionAttrs};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Row as _};
use std::fs;
use std::time::Duration;
use tokio::time::timeout;

/// For one server, from its name to the end of the login.
const DIAL: Duration = Duration::from_secs(5);
/// How the sessions of the hook are labelled. Not as Bytebase's own, among which it looks for the
/// replica's.
const APPLICATION_NAME: &str = "bytebase-drain";

/// Where the metadata database is, and what the sessions of the replica are called there.
pub struct Login {
    url: PgUrl,
    ca: Vec<u8>,
    /// `application_name` of the replica's sessions.
    pub replica_sessions: String,
}

/// Why there is no login; holds no part of a connection string.
#[derive(Debug, PartialEq, Eq)]
pub struct LoginError(pub String);

impl Login {
    /// From the environment of the container. `env` looks a variable up.
    pub fn from_environment(env: impl Fn(&str) -> Option<String>) -> Result<Self, LoginError> {
        let own = env("PG_URL").ok_or_else(|| LoginError("PG_URL is not set".to_owned()))?;
        let own = read(&own, &env)?;
        let replica_sessions = own.runtime_params.get("application_name").cloned();
        let replica_sessions = replica_sessions.or_else(|| env("PGAPPNAME"));
        // A cloud IAM login takes a token that only Bytebase fetches.
        let url = match (own.iam.is_some(), env("BYTEBASE_DRAIN_PG_URL")) {
            (true, Some(other)) => read(&other, &env)?,
            (true, None) => {
                return Err(LoginError(
                    "PG_URL has a cloud IAM login, which this hook cannot perform; database.monitorSecretRef gives it another".to_owned(),
                ));
            }
            (false, _) => own,
        };
        let ca = match url.ssl_root_cert.as_deref() {
            None | Some("system") => Vec::new(),
            Some(path) => fs::read(path).map_err(|error| {
                LoginError(format!("the CA bundle {path} cannot be read: {error}"))
            })?,
        };
        Ok(Self {
            url,
            ca,
            replica_sessions: replica_sessions.unwrap_or_default(),
        })
    }

    /// A session on the first server that is not a standby.
    pub async fn dial(&self) -> Result<PgConnection, LoginError> {
        let mut failure = LoginError("PG_URL names no server".to_owned());
        for host in &self.url.hosts {
            for mode in self.modes() {
                let options = self.options(host, *mode);
                let place = format!("{}:{}", host.host, host.port);
                match timeout(DIAL, options.connect()).await {
                    Ok(Ok(connection)) => match self.check(connection).await {
                        Some(connection) => return Ok(connection),
                        None => failure = LoginError(format!("{place} is a standby")),
                    },
                    Ok(Err(error)) => failure = LoginError(format!("{place}: {}", kind(&error))),
                    Err(_) => failure = LoginError(format!("{place} does not answer")),
                }
            }
        }
        Err(failure)
    }

    async fn check(&self, mut connection: PgConnection) -> Option<PgConnection> {
        if self.url.target_session_attrs == TargetSessionAttrs::Any && self.url.hosts.len() == 1 {
            return Some(connection);
        }
        let row = sqlx::raw_sql("SELECT pg_is_in_recovery()")
            .fetch_one(&mut connection)
            .await
            .ok()?;
        let standby: bool = row.try_get(0).ok()?;
        (!standby).then_some(connection)
    }

    fn modes(&self) -> &'static [PgSslMode] {
        match self.url.effective_ssl_mode() {
            SslMode::Disable => &[PgSslMode::Disable],
            SslMode::Allow => &[PgSslMode::Disable, PgSslMode::Require],
            SslMode::Prefer => &[PgSslMode::Prefer, PgSslMode::Disable],
            SslMode::Require if !self.ca.is_empty() => &[PgSslMode::VerifyCa],
            SslMode::Require => &[PgSslMode::Require],
            SslMode::VerifyCa => &[PgSslMode::VerifyCa],
            SslMode::VerifyFull => &[PgSslMode::VerifyFull],
        }
    }

    fn options(&self, host: &HostPort, mode: PgSslMode) -> PgConnectOptions {
        let url = &self.url;
        let password = url.password.as_ref();
        let options = PgConnectOptions::new_without_pgpass()
            .port(host.port)
            .username(&url.user)
            .password(password.map_or("", |password| password.expose_secret()))
            .database(&url.database)
            .ssl_mode(mode)
            .ssl_root_cert_from_pem(self.ca.clone())
            .application_name(APPLICATION_NAME)
            .extra_float_digits(None)
            .statement_cache_capacity(0)
            .disable_statement_logging();
        let options = if host.host.starts_with('/') {
            options.socket(&host.host)
        } else {
            options.host(&host.host)
        };
        let wanted = ["search_path", "role"];
        let settings = url.runtime_params.iter();
        let settings: Vec<_> = settings
            .filter(|(name, _)| wanted.contains(&name.to_ascii_lowercase().as_str()))
            .collect();
        if settings.is_empty() {
            options
        } else {
            options.options(settings)
        }
    }
}

/// A connection string, or the path of a file with one; completed by `PGUSER` and `PGPASSWORD`.
fn read(text: &str, env: &impl Fn(&str) -> Option<String>) -> Result<PgUrl, LoginError> {
    let from_file;
    let text = if text.starts_with(['/', '.']) {
        from_file = fs::read_to_string(text).map_err(|error| {
            LoginError(format!(
                "the file that PG_URL names cannot be read: {error}"
            ))
        })?;
        from_file.trim()
    } else {
        text
    };
    let text = with_user(text, env("PGUSER"));
    let url = PgUrl::parse(text.expose_secret())
        .map_err(|error| LoginError(format!("PG_URL cannot be used: {error}")))?;
    Ok(url.with_default_password(env("PGPASSWORD").map(SecretString::from)))
}

/// Puts the user of the environment into a URI that names none.
fn with_user(text: &str, user: Option<String>) -> SecretString {
    let Some(user) = user else {
        return text.to_owned().into();
    };
    for scheme in ["postgresql://", "postgres://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            let authority = rest.split(['/', '?']).next().unwrap_or_default();
            if !authority.contains('@') {
                let user = utf8_percent_encode(&user, NON_ALPHANUMERIC);
                return format!("{scheme}{user}@{rest}").into();
            }
        }
    }
    text.to_owned().into()
}

/// What kind of error it is, in fixed words: its own text may quote a certificate or a password.
fn kind(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => {
            let code = error.code();
            format!(
                "the server refuses the login (SQLSTATE {})",
                code.as_deref().unwrap_or("unknown")
            )
        }
        sqlx::Error::Io(error) => format!("no connection ({})", error.kind()),
        sqlx::Error::Tls(_) => "TLS could not be set up".to_owned(),
        _ => "the login failed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(variables: &[(&str, &str)]) -> Result<Login, LoginError> {
        Login::from_environment(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn seen(login: &Login) -> (&str, &str, &str, Option<&str>) {
        let url = &login.url;
        let password = url
            .password
            .as_ref()
            .map(secrecy::ExposeSecret::expose_secret);
        (&url.hosts[0].host, &url.user, &url.database, password)
    }

    #[test]
    fn the_environment_completes_the_string_as_for_bytebase() {
        let in_parts = login(&[
            ("PG_URL", "postgres://db:5432/bytebase?sslmode=disable"),
            ("PGUSER", "by te"),
            ("PGPASSWORD", "p%w"),
            ("PGAPPNAME", "demo-1"),
        ])
        .unwrap();
        assert_eq!(seen(&in_parts), ("db", "by te", "bytebase", Some("p%w")));
        assert_eq!(in_parts.replica_sessions, "demo-1");
        let whole = login(&[
            ("PG_URL", "postgres://u:p@db/bytebase?application_name=mine"),
            ("PGUSER", "other"),
            ("PGPASSWORD", "other"),
            ("PGAPPNAME", "demo-1"),
        ])
        .unwrap();
        assert_eq!(seen(&whole), ("db", "u", "bytebase", Some("p")));
        assert_eq!(whole.replica_sessions, "mine", "the string wins");
        let keyword = login(&[("PG_URL", "host=db user=u dbname=bytebase")]).unwrap();
        assert_eq!(seen(&keyword), ("db", "u", "bytebase", None));
    }

    #[test]
    fn files_of_the_pod_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let ca = file("ca.crt", "a bundle");
        let text = format!("postgres://u@db/b?sslmode=verify-ca&sslrootcert={ca}\n");
        let url = file("url", &text);
        let found = login(&[("PG_URL", &url)]).unwrap();
        assert_eq!(seen(&found), ("db", "u", "b", None));
        assert_eq!(found.ca, b"a bundle");
        assert!(matches!(found.modes(), [PgSslMode::VerifyCa]));
    }

    #[test]
    fn a_cloud_login_takes_the_one_beside_it() {
        let iam = "postgres://sa@db/bytebase?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1";
        let error = login(&[("PG_URL", iam)]).err().unwrap();
        assert!(error.0.contains("monitorSecretRef"), "{error:?}");
        let found = login(&[
            ("PG_URL", iam),
            ("BYTEBASE_DRAIN_PG_URL", "postgres://watcher@db/bytebase"),
            ("PGAPPNAME", "demo-0"),
        ])
        .unwrap();
        assert_eq!(seen(&found), ("db", "watcher", "bytebase", None));
        assert_eq!(found.replica_sessions, "demo-0");
    }

    #[test]
    fn no_error_holds_a_part_of_the_string() {
        for text in [
            "postgres://u:pl4nted@:x/y",
            "postgres://u:pl4nted",
            "pl4nted",
            "/nowhere/pl4nted-is-a-path",
        ] {
            if let Err(LoginError(message)) = login(&[("PG_URL", text)]) {
                assert!(!message.contains("u:pl4nted"), "{message}");
                assert!(
                    text.starts_with('/') || !message.contains("pl4nted"),
                    "{message}"
                );
            }
        }
    }
}
