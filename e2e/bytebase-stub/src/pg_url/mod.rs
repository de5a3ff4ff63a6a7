//! `PG_URL` understood the way Bytebase and its Go driver do: three forms, and defaults below `PG*`
//! variables below the string.
//!
//! Nothing in here prints what it read: an error says what is wrong, never with which words.

mod files;
mod keyword_value;
mod target;
mod uri;

use std::{collections::BTreeMap, io};

pub use target::{Attempt, PgTarget, SessionRequirement};

/// Settings by their keyword, as the driver names them.
pub type Settings = BTreeMap<String, String>;

/// Environment, as a function so that tests need not change the real one.
pub type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Why a `PG_URL` leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum PgUrlError {
    /// Neither a URI nor keyword/value: taken for a path that cannot be read.
    #[error("failed to read database URL from file: {0}")]
    File(io::ErrorKind),
    /// The URI does not parse.
    #[error("cannot parse the database URL: {0}")]
    Uri(&'static str),
    /// The keyword/value string does not parse.
    #[error("cannot parse the database keyword/value string: {0}")]
    KeywordValue(&'static str),
    /// A setting has a value that the driver refuses.
    #[error("cannot use the database setting {key}: {reason}")]
    Setting {
        /// The keyword.
        key: &'static str,
        /// What is wrong with the value.
        reason: String,
    },
    /// The IAM parameters contradict each other or lack one.
    #[error("invalid cloud IAM parameters: {0}")]
    Iam(&'static str),
    /// The IAM parameters are in order, but there is no cloud here.
    #[error(
        "{0} database authentication was asked for, and this stand-in has no cloud to ask for a token"
    )]
    NoCloud(&'static str),
}

/// The variables the driver reads, and the settings they stand for.
const ENVIRONMENT: [(&str, &str); 17] = [
    ("PGHOST", "host"),
    ("PGPORT", "port"),
    ("PGDATABASE", "database"),
    ("PGUSER", "user"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGAPPNAME", "application_name"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLSNI", "sslsni"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLPASSWORD", "sslpassword"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGSERVICE", "service"),
    ("PGSERVICEFILE", "servicefile"),
];

/// Reads `raw` in whichever form it has and merges it with everything below it.
pub fn resolve(raw: &str, env: Environment<'_>) -> Result<PgTarget, PgUrlError> {
    target::build(&merge(raw, env)?)
}

fn merge(raw: &str, env: Environment<'_>) -> Result<Settings, PgUrlError> {
    let mut given = if is_inline(raw) {
        parse_inline(raw)?
    } else {
        let content =
            std::fs::read_to_string(raw).map_err(|error| PgUrlError::File(error.kind()))?;
        parse_inline(content.trim())?
    };
    refuse_cloud(&mut given)?;

    let mut settings = files::defaults(env);
    for (variable, key) in ENVIRONMENT {
        if let Some(value) = env(variable).filter(|value| !value.is_empty()) {
            settings.insert(key.to_owned(), value);
        }
    }
    // A service stands between the environment and the string, whoever names it.
    if let Some(service) = given.get("service").or_else(|| settings.get("service")) {
        let file = given
            .get("servicefile")
            .or_else(|| settings.get("servicefile"));
        let from_service = files::service(service, file.map(String::as_str))?;
        settings.extend(from_service);
    }
    settings.extend(given);
    Ok(settings)
}

fn is_uri(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

fn is_inline(text: &str) -> bool {
    is_uri(text) || keyword_value::looks_like(text)
}

fn parse_inline(text: &str) -> Result<Settings, PgUrlError> {
    if is_uri(text) {
        uri::parse(text)
    } else {
        keyword_value::parse(text)
    }
}

/// Takes the IAM parameters out. When they are asked for, the stand-in cannot serve: it says so
/// after checking them.
fn refuse_cloud(settings: &mut Settings) -> Result<(), PgUrlError> {
    let mut take = |key: &str| settings.remove(key);
    let aws = take("bytebase_aws_rds_iam").is_some_and(|value| value == "true");
    let region = take("bytebase_aws_region");
    let gcp = take("bytebase_gcp_cloud_sql_iam").is_some_and(|value| value == "true");
    let instance = take("bytebase_gcp_cloud_sql_instance_connection_name");
    let ip_type = take("bytebase_gcp_cloud_sql_ip_type");
    match (aws, gcp) {
        (false, false) => Ok(()),
        (true, true) => Err(PgUrlError::Iam("AWS and Google Cloud at once")),
        (true, false) => {
            let several_hosts = settings.get("host").is_some_and(|host| host.contains(','));
            let is = |key: &str, wanted: &str| settings.get(key).is_some_and(|it| it == wanted);
            // The name too, which `verify-ca` leaves out.
            let verified = is("sslmode", "verify-full") || is("sslrootcert", target::SYSTEM);
            if region.is_none_or(|region| region.is_empty()) {
                Err(PgUrlError::Iam("bytebase_aws_region is missing"))
            } else if several_hosts || !settings.contains_key("host") {
                Err(PgUrlError::Iam("AWS needs exactly one host"))
            } else if !verified {
                Err(PgUrlError::Iam("AWS needs verified TLS"))
            } else {
                Err(PgUrlError::NoCloud("AWS RDS IAM"))
            }
        }
        (false, true) => {
            if instance.is_none_or(|instance| instance.is_empty()) {
                Err(PgUrlError::Iam(
                    "bytebase_gcp_cloud_sql_instance_connection_name is missing",
                ))
            } else if !settings.contains_key("user") {
                Err(PgUrlError::Iam("Google Cloud needs a user"))
            } else if ip_type
                .is_some_and(|kind| !["public", "private", "psc"].contains(&kind.as_str()))
            {
                Err(PgUrlError::Iam(
                    "bytebase_gcp_cloud_sql_ip_type is none of public, private, psc",
                ))
            } else {
                Err(PgUrlError::NoCloud("Google Cloud SQL IAM"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    fn environment<'a>(pairs: &'a [(&str, &str)]) -> impl Fn(&str) -> Option<String> + 'a {
        |name| {
            let pair = pairs.iter().find(|(key, _)| *key == name);
            pair.map(|(_, value)| (*value).to_owned())
        }
    }

    fn resolved(raw: &str) -> PgTarget {
        resolve(raw, &|_| None).unwrap()
    }

    fn merged(raw: &str, pairs: &[(&str, &str)]) -> Settings {
        merge(raw, &environment(pairs)).unwrap()
    }

    fn error(raw: &str) -> String {
        match resolve(raw, &|_| None) {
            Ok(_) => panic!("{raw} was accepted"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_string_beats_the_environment_and_the_environment_beats_the_defaults() {
        let environment = [
            ("PGUSER", "env"),
            ("PGPASSWORD", "p@ss/word"),
            ("PGPORT", "6000"),
            ("PGAPPNAME", "pod-0"),
        ];
        let settings = merged("postgres://bb@db.example/meta", &environment);
        assert_eq!(settings["user"], "bb");
        assert_eq!(settings["password"], "p@ss/word");
        assert_eq!(settings["database"], "meta");
        assert_eq!(settings["application_name"], "pod-0");
        assert_eq!(settings["port"], "6000");
        assert_eq!(settings["target_session_attrs"], "any");
    }

    #[test]
    fn keyword_value_strings_are_recognised_by_one_known_key() {
        let text = r"host=db.example user = 'b b' password='it\'s' dbname=meta";
        let settings = merged(text, &[]);
        assert_eq!(settings["user"], "b b");
        assert_eq!(settings["password"], "it's");
        assert_eq!(settings["database"], "meta");
    }

    #[test]
    fn anything_else_is_a_file_and_its_words_are_not_repeated() {
        for raw in [
            "POSTGRES://u:secret@h/d",
            "jdbc:postgresql://h/d",
            "'postgres://u:secret@h/d'",
            "colour=red",
            "",
        ] {
            let error = error(raw);
            assert!(
                error.starts_with("failed to read database URL from file"),
                "{raw}: {error}"
            );
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_file_may_hold_a_url_with_a_line_break_behind_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "postgres://bb@db.example/meta\n").unwrap();
        let settings = merged(file.path().to_str().unwrap(), &[]);
        assert_eq!(settings["database"], "meta");
    }

    #[test]
    fn several_hosts_keep_their_order_and_share_a_single_port() {
        let target = resolved("postgres://bb@a:1,b:2/meta?target_session_attrs=read-write");
        assert_eq!(target.hosts(), [("a".to_owned(), 1), ("b".to_owned(), 2)]);
        assert_eq!(target.requirement(), SessionRequirement::ReadWrite);
        let target = resolved("host=a,b port=7 user=bb");
        assert_eq!(target.hosts(), [("a".to_owned(), 7), ("b".to_owned(), 7)]);
    }

    #[test]
    fn iam_parameters_are_recognised_and_end_at_the_missing_cloud() {
        let aws = "postgres://bb@db.example/meta?bytebase_aws_rds_iam=true";
        assert!(error(aws).contains("bytebase_aws_region"));
        assert!(error(&format!("{aws}&bytebase_aws_region=eu-west-1")).contains("verified TLS"));
        assert!(
            error(&format!(
                "{aws}&bytebase_aws_region=eu-west-1&sslmode=verify-ca"
            ))
            .contains("verified TLS")
        );
        assert!(
            error(&format!(
                "{aws}&bytebase_aws_region=eu-west-1&sslmode=verify-full"
            ))
            .contains("AWS RDS IAM")
        );
        let gcp = "postgres://bb@/meta?bytebase_gcp_cloud_sql_iam=true";
        assert!(error(gcp).contains("connection_name"));
        let gcp = format!("{gcp}&bytebase_gcp_cloud_sql_instance_connection_name=p:r:i");
        assert!(error(&gcp).contains("Google Cloud SQL IAM"));
        assert!(error(&format!("{gcp}&bytebase_aws_rds_iam=true")).contains("at once"));
    }

    #[test]
    fn what_the_driver_refuses_is_refused() {
        for (raw, part) in [
            ("postgres://bb@db:port/meta", "port"),
            ("postgres://b b@db/meta", "user information"),
            ("postgres://bb:%zz@db/meta", "escape"),
            ("postgres://bb@db/meta?sslmode=maybe", "sslmode"),
            (
                "postgres://bb@db/meta?sslmode=verify-ca&sslrootcert=/nowhere",
                "sslrootcert",
            ),
            (
                "postgres://bb@db/meta?sslmode=disable&sslrootcert=/nowhere",
                "sslrootcert",
            ),
            ("postgres://bb@db/meta?sslcert=/a", "sslcert"),
            (
                "postgres://bb@db/meta?connect_timeout=soon",
                "connect_timeout",
            ),
            (
                "postgres://bb@db/meta?target_session_attrs=best",
                "target_session_attrs",
            ),
            (
                "postgres://bb@db/meta?default_query_exec_mode=fast",
                "default_query_exec_mode",
            ),
            (
                "postgres://bb@db/meta?service=x&servicefile=/nowhere",
                "service",
            ),
            ("host=db port=0", "port"),
            ("host='db", "quote"),
            ("host=db nonsense", "keyword/value"),
        ] {
            let error = error(raw);
            assert!(error.contains(part), "{raw}: {error}");
        }
    }
}
