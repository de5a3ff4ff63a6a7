//! `PG_URL`: where a Bytebase replica finds its metadata database, read the way its driver (pgx)
//! reads it.
//!
//! What the driver would misread, silently drop or look up inside the pod is refused, so that a
//! value of [`PgUrl`] means the same to Bytebase, to this program and to the person who wrote it.

mod error;
mod keyword;
mod parameters;
mod raw;
#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test fails by panicking")]
mod tests;
mod uri;

pub use error::{FileTrap, ParameterLabel, Part, PgUrlError};

use crate::version::Version;
use parameters::{AWS_IAM, AWS_REGION, GCP_IAM, GCP_INSTANCE, GCP_IP_TYPE, Owner};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use raw::Raw;
use secrecy::{ExposeSecret, SecretString};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// A parsed `PG_URL`, with every default of the driver filled in.
#[derive(Clone)]
pub struct PgUrl {
    /// Servers to try, in order. Empty only for a Cloud SQL login, which finds its server by the
    /// name of the instance.
    pub hosts: Vec<HostPort>,
    /// Role to log in as.
    pub user: String,
    /// Password, if the string (or the `PGPASSWORD` part) gives one.
    pub password: Option<SecretString>,
    /// Database name.
    pub database: String,
    /// How the connection is protected.
    pub ssl_mode: SslMode,
    /// Path of the CA bundle **in the Bytebase pod**; the operator never opens it.
    pub ssl_root_cert: Option<String>,
    /// Which of several servers is acceptable.
    pub target_session_attrs: TargetSessionAttrs,
    /// Cloud IAM login, which the operator cannot perform itself.
    pub iam: Option<Iam>,
    /// Parameters sent to the server at start-up (`search_path`, `options`, …).
    pub runtime_params: BTreeMap<String, String>,
    /// Passphrase of the client key.
    ssl_password: Option<SecretString>,
    /// Parameters that the driver consumes and that have no field of their own.
    driver_params: BTreeMap<String, String>,
    form: PgUrlForm,
}

/// Stands for a role whose name only a Secret gives.
const HIDDEN_USER: &str = "(the user in userSecretRef)";

/// The ways to write a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PgUrlForm {
    /// `postgresql://…`: every supported Bytebase.
    Uri,
    /// `host=… user=…`: from 3.18.0.
    KeywordValue,
    /// In parts: no string is written at all.
    Parts,
}

/// A connection given in parts, none of them percent-encoded.
#[derive(Clone)]
pub struct PgParts {
    /// One host, or several separated by commas.
    pub host: String,
    /// Port of all hosts; 5432 if absent.
    pub port: Option<u16>,
    /// Database; named like the user if empty.
    pub database: String,
    /// Role to log in as.
    pub user: String,
    /// Its password.
    pub password: Option<SecretString>,
    /// Anything else, such as `sslmode`.
    pub params: BTreeMap<String, String>,
}

/// One server of a connection string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// DNS name or address (IPv6 without brackets), or the directory of a Unix socket in the pod.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// `sslmode`, by libpq's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, strum::AsRefStr, strum::EnumString)]
#[strum(serialize_all = "kebab-case")]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS only if the server insists.
    Allow,
    /// TLS if the server offers it.
    #[default]
    Prefer,
    /// Always TLS, unverified (verified like `VerifyCa` when a CA is given).
    Require,
    /// TLS with a verified chain.
    VerifyCa,
    /// TLS with a verified chain and host name.
    VerifyFull,
}

/// How one attempt at a login is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// In clear text.
    None,
    /// By TLS, with a server that must prove this much.
    Tls(Proof),
}

/// What a server must prove by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// Nothing: any certificate will do.
    Nothing,
    /// That an authority vouches for it.
    Chain,
    /// That an authority vouches for it under the name of the host.
    ChainAndName,
}

/// `target_session_attrs`, by libpq's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, strum::AsRefStr, strum::EnumString)]
#[strum(serialize_all = "kebab-case")]
pub enum TargetSessionAttrs {
    /// Any server.
    #[default]
    Any,
    /// A server that accepts writes.
    ReadWrite,
    /// A server that refuses writes.
    ReadOnly,
    /// A server not in recovery.
    Primary,
    /// A server in recovery.
    Standby,
    /// A standby, else any.
    PreferStandby,
}

/// Cloud IAM logins that Bytebase performs itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Iam {
    /// `bytebase_aws_rds_iam=true`.
    AwsRds {
        /// `bytebase_aws_region`.
        region: String,
    },
    /// `bytebase_gcp_cloud_sql_iam=true`.
    GcpCloudSql {
        /// `bytebase_gcp_cloud_sql_instance_connection_name`.
        instance: String,
        /// `bytebase_gcp_cloud_sql_ip_type`.
        ip_type: Option<String>,
    },
}

/// No sensible connection string comes near it; an environment variable takes far more.
const MAX_LENGTH: usize = 16 * 1024;

/// Servers of one database. Each login tries them all.
const MAX_HOSTS: usize = 32;

/// The `sslrootcert` that names no file.
const SYSTEM: &str = "system";

/// The port of a server where none is named: PostgreSQL's own.
pub const DEFAULT_PORT: u16 = 5432;

/// Everything but what RFC 3986 calls unreserved.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// Where AWS and Google Cloud serve a machine's credentials, or those of its pods, by IPv6: none of
/// these addresses is link-local.
const METADATA_SERVERS: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// An address that leads somewhere else from each machine. On the link of a cloud's machine the
/// credentials of that machine are served.
pub fn is_of_each_machine(address: IpAddr) -> bool {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    let serves_credentials = METADATA_SERVERS.map(IpAddr::V6).contains(&address);
    address.is_loopback() || address.is_unspecified() || is_link_local || serves_credentials
}

// === impl PgUrl ===

impl PgUrl {
    /// Reads either form.
    pub fn parse(text: &str) -> Result<Self, PgUrlError> {
        if text.is_empty() {
            return Err(PgUrlError::Empty);
        }
        if text.len() > MAX_LENGTH {
            return Err(PgUrlError::TooLong {
                length: text.len(),
                limit: MAX_LENGTH,
            });
        }
        for scheme in ["postgresql://", "postgres://"] {
            if let Some(rest) = text.strip_prefix(scheme) {
                return Self::from_raw(uri::parse(rest, scheme.len())?, PgUrlForm::Uri);
            }
        }
        if keyword::is_keyword_form(text) {
            return Self::from_raw(keyword::parse(text)?, PgUrlForm::KeywordValue);
        }
        if text.starts_with(['/', '.']) {
            return Err(PgUrlError::FileInPod);
        }
        Err(PgUrlError::NotAConnectionString(file_trap(text)))
    }

    /// Puts a connection together from parts. [`PgUrl::to_uri`] is how it reaches Bytebase.
    pub fn from_parts(parts: PgParts) -> Result<Self, PgUrlError> {
        let PgParts {
            host,
            port,
            database,
            user,
            password,
            params,
        } = parts;
        let mut raw = Raw::default();
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(&host);
        raw.add("host", host.to_owned(), 0)?;
        if let Some(port) = port {
            raw.add("port", port.to_string(), 0)?;
        }
        raw.add("user", user, 0)?;
        raw.add("database", database, 0)?;
        if let Some(password) = password {
            raw.add("password", password.expose_secret().to_owned(), 0)?;
        }
        for (index, (name, value)) in params.into_iter().enumerate() {
            for own in ["host", "port", "user", "database", "dbname", "password"] {
                if name.eq_ignore_ascii_case(own) {
                    return Err(PgUrlError::HasOwnField { name: own });
                }
            }
            raw.add(&name, value, index + 1)?;
        }
        Self::from_raw(raw, PgUrlForm::Parts)
    }

    /// Adds a password given beside the string (`PGPASSWORD`): one in the string goes first, and an
    /// empty one counts as none.
    #[must_use]
    pub fn with_default_password(mut self, password: Option<SecretString>) -> Self {
        self.password = self
            .password
            .or(password.filter(|password| !password.expose_secret().is_empty()));
        self
    }

    /// Name of the role for messages. Of a connection in parts it is the value of a Secret, into
    /// which people also put the password by mistake, so something else stands for it.
    pub fn shown_user(&self) -> &str {
        match self.form {
            PgUrlForm::Uri | PgUrlForm::KeywordValue => &self.user,
            PgUrlForm::Parts => HIDDEN_USER,
        }
    }

    /// Whether both lead to the same database of the same server. Of several servers each takes the
    /// first of the kind that it asks for.
    pub fn is_at_the_place_of(&self, other: &Self) -> bool {
        let takes_the_same =
            self.hosts.len() <= 1 || self.target_session_attrs == other.target_session_attrs;
        takes_the_same && self.hosts == other.hosts && self.database == other.database
    }

    /// Whether the driver may take a standby although a primary is among the servers.
    pub fn may_take_a_standby(&self) -> bool {
        use TargetSessionAttrs::{Primary, ReadWrite};
        self.hosts.len() > 1 && !matches!(self.target_session_attrs, ReadWrite | Primary)
    }

    /// How the string was written.
    pub fn form(&self) -> PgUrlForm {
        self.form
    }

    /// The oldest Bytebase that understands this connection as it was written; `None` if every
    /// supported one does.
    pub fn minimum_version(&self) -> Option<Version> {
        let of_form = (self.form == PgUrlForm::KeywordValue).then_some(Version::new(3, 18, 0));
        let of_login = self.iam.as_ref().map(|iam| match iam {
            Iam::AwsRds { .. } => Version::new(3, 18, 0),
            Iam::GcpCloudSql { .. } => Version::new(3, 20, 0),
        });
        of_form.max(of_login)
    }

    /// How the connection is really protected: a CA strengthens `require`, and the system's CAs
    /// strengthen everything.
    pub fn effective_ssl_mode(&self) -> SslMode {
        match (self.ssl_mode, self.ssl_root_cert.as_deref()) {
            (_, Some(SYSTEM)) => SslMode::VerifyFull,
            (SslMode::Require, Some(_)) => SslMode::VerifyCa,
            (mode, _) => mode,
        }
    }

    /// How the driver protects the connection, attempt by attempt.
    pub fn protections(&self) -> &'static [Protection] {
        use Protection::{None, Tls};
        match self.effective_ssl_mode() {
            SslMode::Disable => &[None],
            SslMode::Allow => &[None, Tls(Proof::Nothing)],
            SslMode::Prefer => &[Tls(Proof::Nothing), None],
            SslMode::Require => &[Tls(Proof::Nothing)],
            SslMode::VerifyCa => &[Tls(Proof::Chain)],
            SslMode::VerifyFull => &[Tls(Proof::ChainAndName)],
        }
    }

    /// Whether the server must prove itself before it is given the password.
    pub fn verifies(&self) -> bool {
        matches!(
            self.effective_ssl_mode(),
            SslMode::VerifyCa | SslMode::VerifyFull
        )
    }

    /// Whether the string asks for the authorities of the system in place of a CA bundle.
    pub fn trusts_the_system(&self) -> bool {
        self.ssl_root_cert.as_deref() == Some(SYSTEM)
    }

    /// Whether the string names the file of a CA bundle, which the driver opens whatever `sslmode`
    /// says. Without it the driver takes `~/.postgresql/root.crt` where there is one, and likewise
    /// `postgresql.crt` and `postgresql.key`. Bytebase's image has no such files; what is mounted
    /// there is not seen here.
    pub fn names_a_ca(&self) -> bool {
        self.ssl_root_cert.is_some() && !self.trusts_the_system()
    }

    /// Whether the driver names the host in the clear when TLS begins, which it also does wherever
    /// the server must prove that name.
    pub fn announces_name(&self) -> bool {
        let is_asked_for = self
            .driver_params
            .get("sslsni")
            .is_none_or(|value| value != "0");
        is_asked_for || self.effective_ssl_mode() == SslMode::VerifyFull
    }

    /// How long the driver tries one host; `None` means without limit, which is its default.
    pub fn connect_timeout(&self) -> Option<Duration> {
        let seconds = self.driver_params.get("connect_timeout")?.parse().ok()?;
        (seconds > 0).then_some(Duration::from_secs(seconds))
    }

    /// Parameters that make the driver open a file **in the Bytebase pod**, beside `sslrootcert`.
    /// This program never follows them.
    pub fn pod_file_parameters(&self) -> Vec<&'static str> {
        parameters::POD_FILES
            .iter()
            .copied()
            .filter(|name| self.driver_params.contains_key(*name))
            .collect()
    }

    /// Parameters that the driver keeps for itself, beside those with a field of their own.
    pub fn driver_params(&self) -> &BTreeMap<String, String> {
        &self.driver_params
    }

    /// Every value of it that is secret by itself.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        self.password.iter().chain(&self.ssl_password)
    }

    /// Whether a password is known.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// Whether a host is the pod itself or a socket in it (a proxy beside Bytebase), or on the link
    /// of its machine: from anywhere else it is another server, or none.
    pub fn is_inside_the_pod(&self) -> bool {
        self.hosts.iter().any(|HostPort { host, .. }| {
            let name = host.trim_end_matches('.').to_ascii_lowercase();
            let address = name.parse::<IpAddr>();
            is_socket(host)
                || name == "localhost"
                || name.ends_with(".localhost")
                || address.is_ok_and(is_of_each_machine)
        })
    }

    /// Hosts and ports (or the Cloud SQL instance) and database, for messages: neither user nor
    /// password.
    pub fn identity_hint(&self) -> String {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        let server = match &self.iam {
            Some(Iam::GcpCloudSql { instance, .. }) if hosts.is_empty() => instance.clone(),
            _ => hosts.join(","),
        };
        format!("{server}/{}", self.database)
    }

    /// The connection as a URI, with everything that needs it percent-encoded. Reading it gives an
    /// equal value.
    pub fn to_uri(&self) -> SecretString {
        let mut login = encode(&self.user);
        if let Some(password) = &self.password {
            login.push(':');
            login.push_str(&encode(password.expose_secret()));
        }
        login.push('@');
        self.uri(&login).into()
    }

    /// The same without user and password: what the driver then takes from `PGUSER` and
    /// `PGPASSWORD`.
    pub fn to_uri_without_login(&self) -> String {
        self.uri("")
    }

    fn uri(&self, login: &str) -> String {
        let mut uri = format!("postgresql://{login}");
        let mut params: Vec<(&str, String)> = Vec::new();
        let (hosts, ports): (Vec<_>, Vec<_>) = self
            .hosts
            .iter()
            .map(|at| (at.host.clone(), at.port.to_string()))
            .unzip();
        let only_as_parameter =
            |host: &String| is_socket(host) || (self.hosts.len() > 1 && host.contains(':'));
        if hosts.iter().any(only_as_parameter) {
            // The driver does not take a directory, or a list with an IPv6 address, in the usual
            // place.
            params.push(("host", hosts.join(",")));
            params.push(("port", ports.join(",")));
        } else {
            let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
            uri.push_str(&hosts.join(","));
        }
        uri.push('/');
        if self.database.starts_with('/') {
            // The driver strips slashes in front of the name from the usual place.
            params.push(("database", self.database.clone()));
        } else {
            uri.push_str(&encode(&self.database));
        }
        self.push_params(&mut params);
        for (index, (name, value)) in params.iter().enumerate() {
            uri.push(if index == 0 { '?' } else { '&' });
            uri.push_str(&encode(name));
            uri.push('=');
            uri.push_str(&encode(value));
        }
        uri
    }

    fn push_params<'a>(&'a self, params: &mut Vec<(&'a str, String)>) {
        if self.ssl_mode != SslMode::default() {
            params.push(("sslmode", self.ssl_mode.as_ref().to_owned()));
        }
        if let Some(path) = &self.ssl_root_cert {
            params.push(("sslrootcert", path.clone()));
        }
        if let Some(password) = &self.ssl_password {
            params.push(("sslpassword", password.expose_secret().to_owned()));
        }
        if self.target_session_attrs != TargetSessionAttrs::default() {
            params.push((
                "target_session_attrs",
                self.target_session_attrs.as_ref().to_owned(),
            ));
        }
        match &self.iam {
            Some(Iam::AwsRds { region }) => {
                params.push((AWS_IAM, "true".to_owned()));
                params.push((AWS_REGION, region.clone()));
            }
            Some(Iam::GcpCloudSql { instance, ip_type }) => {
                params.push((GCP_IAM, "true".to_owned()));
                params.push((GCP_INSTANCE, instance.clone()));
                params.extend(ip_type.clone().map(|ip_type| (GCP_IP_TYPE, ip_type)));
            }
            None => {}
        }
        for (name, value) in self.driver_params.iter().chain(&self.runtime_params) {
            params.push((name, value.clone()));
        }
    }

    fn from_raw(mut raw: Raw, form: PgUrlForm) -> Result<Self, PgUrlError> {
        // A zero byte ends a text on the way to the server.
        if raw.contains('\0') {
            return Err(PgUrlError::NotText {
                part: Part::Parameters,
            });
        }
        let iam = parse_iam(&mut raw)?;
        let hosts = match parse_hosts(&mut raw) {
            // Bytebase dials the instance.
            Err(PgUrlError::MissingHost) if matches!(iam, Some(Iam::GcpCloudSql { .. })) => {
                Vec::new()
            }
            hosts => hosts?,
        };
        let user = raw.take_filled("user").ok_or(PgUrlError::MissingUser)?;
        let password = raw.take("password");
        if password.as_deref() == Some("") {
            return Err(PgUrlError::EmptyPassword);
        }
        let database = raw.take_filled("database").unwrap_or_else(|| user.clone());
        for (text, part) in [(&user, Part::User), (&database, Part::Database)] {
            if text.chars().any(char::is_control) {
                return Err(PgUrlError::ControlIn { part });
            }
        }
        let ssl_mode = raw
            .take_filled("sslmode")
            .map_or(Ok(SslMode::default()), |text| SslMode::parse(&text))?;
        let target_session_attrs = raw
            .take("target_session_attrs")
            .map_or(Ok(TargetSessionAttrs::default()), |text| {
                TargetSessionAttrs::parse(&text)
            })?;
        let ssl_root_cert = raw.take_filled("sslrootcert");
        let ssl_password = raw.take_filled("sslpassword").map(SecretString::from);
        let (driver_params, runtime_params) = divide_rest(raw)?;
        if driver_params.contains_key("sslcert") != driver_params.contains_key("sslkey") {
            return Err(PgUrlError::HalfClientCertificate);
        }
        let url = Self {
            hosts,
            user,
            password: password.map(SecretString::from),
            database,
            ssl_mode,
            ssl_root_cert,
            target_session_attrs,
            iam,
            runtime_params,
            ssl_password,
            driver_params,
            form,
        };
        if matches!(url.iam, Some(Iam::AwsRds { .. })) {
            if url.hosts.len() > 1 {
                return Err(PgUrlError::IamOneHost);
            }
            // Bytebase wants the server's name verified: `verify-ca` is not enough.
            if url.effective_ssl_mode() != SslMode::VerifyFull {
                return Err(PgUrlError::IamTls);
            }
        }
        Ok(url)
    }
}

/// Equal when they lead to the same connection, however they were written. Not in constant time:
/// only ever compare with what the same person gave before.
impl PartialEq for PgUrl {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            hosts,
            user,
            password,
            database,
            ssl_mode,
            ssl_root_cert,
            target_session_attrs,
            iam,
            runtime_params,
            ssl_password,
            driver_params,
            form: _,
        } = self;
        let exposed = |secret: &Option<SecretString>| {
            secret
                .as_ref()
                .map(|secret| secret.expose_secret().to_owned())
        };
        *hosts == other.hosts
            && *user == other.user
            && exposed(password) == exposed(&other.password)
            && *database == other.database
            && *ssl_mode == other.ssl_mode
            && *ssl_root_cert == other.ssl_root_cert
            && *target_session_attrs == other.target_session_attrs
            && *iam == other.iam
            && *runtime_params == other.runtime_params
            && exposed(ssl_password) == exposed(&other.ssl_password)
            && *driver_params == other.driver_params
    }
}

impl Eq for PgUrl {}

/// Without password, and of the parameters only the number: values can be secrets too. So can what
/// stands where a file's name belongs.
impl fmt::Debug for PgUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PgUrl")
            .field("hosts", &self.hosts)
            .field("user", &self.shown_user())
            .field("has_password", &self.has_password())
            .field("database", &self.database)
            .field("ssl_mode", &self.ssl_mode)
            .field("has_ssl_root_cert", &self.ssl_root_cert.is_some())
            .field("target_session_attrs", &self.target_session_attrs)
            .field("iam", &self.iam)
            .field("runtime_params", &self.runtime_params.len())
            .field("driver_params", &self.driver_params.len())
            .field("form", &self.form)
            .finish_non_exhaustive()
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

fn parse_hosts(raw: &mut Raw) -> Result<Vec<HostPort>, PgUrlError> {
    let hosts = raw.take_filled("host");
    let ports = match raw.take("port") {
        None => vec![DEFAULT_PORT],
        Some(ports) => {
            let parse = |(index, port): (usize, &str)| {
                parse_port(port).ok_or(PgUrlError::BadPort {
                    position: index + 1,
                })
            };
            ports
                .split(',')
                .enumerate()
                .map(parse)
                .collect::<Result<_, _>>()?
        }
    };
    let hosts = hosts.ok_or(PgUrlError::MissingHost)?;
    let hosts: Vec<&str> = hosts.split(',').collect();
    if hosts.len() > MAX_HOSTS {
        return Err(PgUrlError::TooManyHosts {
            count: hosts.len(),
            limit: MAX_HOSTS,
        });
    }
    if ports.len() != 1 && ports.len() != hosts.len() {
        return Err(PgUrlError::PortsDoNotMatchHosts {
            hosts: hosts.len(),
            ports: ports.len(),
        });
    }
    let port_of = |index: usize| {
        ports
            .get(index)
            .or(ports.first())
            .copied()
            .unwrap_or(DEFAULT_PORT)
    };
    hosts
        .into_iter()
        .enumerate()
        .map(|(index, host)| {
            check_host(host, index + 1)?;
            Ok(HostPort {
                host: host.to_owned(),
                port: port_of(index),
            })
        })
        .collect()
}

/// Whether the driver takes a host for the directory of a Unix socket.
fn is_socket(host: &str) -> bool {
    host.starts_with('/')
}

fn parse_port(text: &str) -> Option<u16> {
    // `parse` alone would take a plus sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

fn check_host(host: &str, position: usize) -> Result<(), PgUrlError> {
    if host.is_empty() {
        return Err(PgUrlError::EmptyHost { position });
    }
    if is_socket(host) {
        return if host.chars().any(char::is_control) {
            Err(PgUrlError::BadHost { position })
        } else {
            Ok(())
        };
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Ok(());
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    // A dot at the end makes a name absolute.
    let name = host.strip_suffix('.').unwrap_or(host);
    if host.len() > 253 || !name.split('.').all(is_label) {
        return Err(PgUrlError::BadHost { position });
    }
    if host.parse::<Ipv4Addr>().is_err() && name.rsplit('.').next().is_some_and(is_number) {
        return Err(PgUrlError::NumericHost { position });
    }
    Ok(())
}

/// What C libraries read as a part of an IPv4 address. The driver, written in Go, does not.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or(label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

fn parse_iam(raw: &mut Raw) -> Result<Option<Iam>, PgUrlError> {
    let mut flag = |name: &'static str| match raw.take(name).as_deref() {
        None => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(PgUrlError::IamFlag { name }),
    };
    let (aws, gcp) = (flag(AWS_IAM)?, flag(GCP_IAM)?);
    let mut detail =
        |name: &'static str, flag: &'static str, wanted: bool| match raw.take_filled(name) {
            Some(_) if !wanted => Err(PgUrlError::IamWithoutFlag { name, flag }),
            value => Ok(value),
        };
    let region = detail(AWS_REGION, AWS_IAM, aws)?;
    let instance = detail(GCP_INSTANCE, GCP_IAM, gcp)?;
    let ip_type = detail(GCP_IP_TYPE, GCP_IAM, gcp)?;
    match (aws, gcp) {
        (false, false) => Ok(None),
        (true, true) => Err(PgUrlError::IamTwice),
        (true, false) => {
            let region = region.ok_or(PgUrlError::IamNeeds {
                flag: AWS_IAM,
                name: AWS_REGION,
            })?;
            Ok(Some(Iam::AwsRds { region }))
        }
        (false, true) => {
            if ip_type
                .as_deref()
                .is_some_and(|ip_type| !["public", "private", "psc"].contains(&ip_type))
            {
                return Err(PgUrlError::BadValue {
                    name: GCP_IP_TYPE,
                    allowed: "public, private or psc",
                });
            }
            let instance = instance.ok_or(PgUrlError::IamNeeds {
                flag: GCP_IAM,
                name: GCP_INSTANCE,
            })?;
            Ok(Some(Iam::GcpCloudSql { instance, ip_type }))
        }
    }
}

type Params = BTreeMap<String, String>;

/// Divides what is left into the driver's and the server's parameters.
fn divide_rest(raw: Raw) -> Result<(Params, Params), PgUrlError> {
    let (mut driver_params, mut runtime_params) = (Params::new(), Params::new());
    for raw::Entry {
        name,
        value,
        position,
    } in raw.into_rest()
    {
        match parameters::owner(&name) {
            Owner::Driver => {
                check_driver_value(&name, &value)?;
                if !value.is_empty() {
                    driver_params.insert(name, value);
                }
            }
            Owner::Server => {
                runtime_params.insert(name, value);
            }
            Owner::OtherDriver(name) => return Err(PgUrlError::UnsupportedParameter { name }),
            // Every name with a field of its own has been taken before.
            Owner::Own | Owner::Unknown => {
                return Err(PgUrlError::UnknownParameter(raw::label(&name, position)));
            }
        }
    }
    Ok((driver_params, runtime_params))
}

/// The driver's own checks, made before it dials.
fn check_driver_value(name: &str, value: &str) -> Result<(), PgUrlError> {
    let is_number = || {
        let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
        digits && value.parse::<i32>().is_ok()
    };
    let (name, allowed, good) = match name {
        "connect_timeout" => (
            "connect_timeout",
            "a whole number of seconds, 0 for no limit",
            is_number(),
        ),
        "statement_cache_capacity" => ("statement_cache_capacity", "a whole number", is_number()),
        "description_cache_capacity" => {
            ("description_cache_capacity", "a whole number", is_number())
        }
        "default_query_exec_mode" => (
            "default_query_exec_mode",
            "cache_statement, cache_describe, describe_exec, exec or simple_protocol",
            [
                "cache_statement",
                "cache_describe",
                "describe_exec",
                "exec",
                "simple_protocol",
            ]
            .contains(&value),
        ),
        "sslsni" => ("sslsni", "0 or 1", ["", "0", "1"].contains(&value)),
        "service" => ("service", "the name of a service", !value.is_empty()),
        _ => return Ok(()),
    };
    if good {
        Ok(())
    } else {
        Err(PgUrlError::BadValue { name, allowed })
    }
}

/// Guesses what a text that is no connection string was meant to be.
fn file_trap(text: &str) -> FileTrap {
    let lower = text.to_ascii_lowercase();
    if text.starts_with(|c: char| c.is_whitespace() || c.is_control() || c == '\u{feff}') {
        FileTrap::LeadingBlank
    } else if text.starts_with(['"', '\'', '`']) {
        FileTrap::Quoted
    } else if lower.starts_with("postgres://") || lower.starts_with("postgresql://") {
        FileTrap::UpperCaseScheme
    } else if lower.starts_with("jdbc:") {
        FileTrap::Jdbc
    } else if lower.starts_with("file:") {
        FileTrap::FileUrl
    } else if lower.starts_with("pg_url=") || lower.starts_with("database_url=") {
        FileTrap::Assignment
    } else if text.contains("://") {
        FileTrap::OtherScheme
    } else if text.contains('@') {
        FileTrap::NoScheme
    } else {
        FileTrap::Other
    }
}

// === impl HostPort ===

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') && !is_socket(&self.host) {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

// === impl SslMode ===

impl SslMode {
    fn parse(text: &str) -> Result<Self, PgUrlError> {
        text.parse().map_err(|_| PgUrlError::BadValue {
            name: "sslmode",
            allowed: "disable, allow, prefer, require, verify-ca or verify-full",
        })
    }
}

// === impl TargetSessionAttrs ===

impl TargetSessionAttrs {
    fn parse(text: &str) -> Result<Self, PgUrlError> {
        text.parse().map_err(|_| PgUrlError::BadValue {
            name: "target_session_attrs",
            allowed: "any, read-write, read-only, primary, standby or prefer-standby",
        })
    }
}
