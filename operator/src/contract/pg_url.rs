//! `PG_URL`: where a Bytebase replica finds its metadata database, read the way its driver (pgx) reads it.

use secrecy::SecretString;
use std::collections::BTreeMap;

/// A parsed `PG_URL`, with every default of the driver filled in.
#[derive(Clone)]
pub struct PgUrl {
    /// Servers to try, in order. Never empty.
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
}

/// One server of a connection string.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// DNS name, address, or socket directory.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// `sslmode`, by libpq's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
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

/// `target_session_attrs`, by libpq's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
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
