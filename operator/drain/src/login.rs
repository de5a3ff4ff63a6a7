//! Logging in as Bytebase does: by the same environment, with the same files, from the same place.

use crate::passfile;
use crate::watch::Whose;
use bytebase_contract::ca_bundle::CaBundle;
use bytebase_contract::hook;
use bytebase_contract::pg_url::{PgUrl, Protection, TargetSessionAttrs};
use bytebase_login::plan::Reach;
use bytebase_login::tls::{Authorities, ClientCertificate};
use bytebase_login::{Error, Failed, LoggedIn, LoginTo, Lookups, log_in};
use jiff::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::PgConnection;
use std::fs;
use std::path::Path;
use std::slice;

/// Where the pod mounts the Secrets of its login: what they hold now, while the environment is as
/// it was when the container started. A rotated password is here before it is there. Of a cloud IAM
/// login, which this hook cannot perform, the operator mounts another in its place.
const LOGIN_DIRECTORY: &str = "/bytebase-drain-login";

/// The ways to log in, and what the sessions of the replica are called.
pub struct Logins {
    ways: Vec<Login>,
    /// `application_name` of the replica's sessions; empty if they have none of their own.
    pub replica_sessions: String,
    /// `application_name` of the hook's own.
    pub own_sessions: String,
    /// Bytebase's database, if its name is known.
    pub database: Option<String>,
}

struct Login {
    url: PgUrl,
    whose: Whose,
    /// The CAs that vouch for the server; none where it is not verified.
    authorities: Vec<CertificateDer<'static>>,
    /// What Bytebase proves itself by.
    certificate: Option<ClientCertificate>,
    /// Why a client certificate or a password that is in a file is not used. A server may let the
    /// role in all the same.
    lacks: Vec<String>,
}

/// A connection string, and what the driver takes from elsewhere.
struct Given {
    url: PgUrl,
    /// The files of the client certificate and of its key.
    certificate: Option<(String, String)>,
    /// As in [`Login`].
    lacks: Vec<String>,
}

/// Why there is no login; holds no part of a connection string.
#[derive(Debug, PartialEq, Eq)]
pub struct LoginError {
    /// In fixed words.
    pub why: String,
    /// The server works, and has no room for one more session.
    pub is_full: bool,
}

impl LoginError {
    fn new(why: impl Into<String>) -> Self {
        Self {
            why: why.into(),
            is_full: false,
        }
    }
}

impl Logins {
    /// From the environment of the container, and the Secrets that the pod mounts.
    pub fn find() -> Result<Self, LoginError> {
        let env = |name: &str| std::env::var(name).ok();
        Self::from(env, Path::new(LOGIN_DIRECTORY))
    }

    fn from(env: impl Fn(&str) -> Option<String>, mounted: &Path) -> Result<Self, LoginError> {
        let own = read(&env);
        let named = own.as_ref().ok();
        let named =
            named.and_then(|given| given.url.runtime_params.get("application_name").cloned());
        let replica_sessions = named.or_else(|| env("PGAPPNAME")).unwrap_or_default();
        let file = |name: &str| fs::read_to_string(mounted.join(name)).ok();
        let current = file("PG_URL")
            .or_else(|| file("PGPASSWORD"))
            .map(|_| read(&|name: &str| file(name).or_else(|| env(name))));
        let bytebases = own.as_ref().ok().map(|given| given.url.clone());
        // The replica runs its tasks by the database that it was started with.
        let leads_there = |given: &Given| {
            let own = bytebases.as_ref();
            own.is_none_or(|own| own.iam.is_some() || own.database == given.url.database)
        };
        let current = current.filter(|given| given.as_ref().map_or(true, leads_there));
        let mut ways = Vec::new();
        let mut failure = None;
        for given in [Some(own), current].into_iter().flatten() {
            match given.and_then(|given| Login::new(given, bytebases.as_ref())) {
                Ok(login) => ways.push(login),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            Some(error) if ways.is_empty() => Err(error),
            _ => Ok(Self {
                ways,
                replica_sessions,
                own_sessions: hook::sessions_of(&env("PGAPPNAME").unwrap_or_default()),
                database: bytebases.map(|url| url.database),
            }),
        }
    }

    /// A session by the first way that leads to one.
    pub async fn dial(&self) -> Result<(PgConnection, Whose), LoginError> {
        let mut failure: Option<LoginError> = None;
        for way in &self.ways {
            match way.dial(&self.own_sessions).await {
                Ok(connection) => return Ok((connection, way.whose)),
                Err(error) => match &mut failure {
                    Some(failure) => failure.is_full |= error.is_full,
                    None => failure = Some(error),
                },
            }
        }
        Err(failure.unwrap_or_else(|| LoginError::new("PG_URL is not set")))
    }
}

impl Login {
    /// `bytebases`: its own connection string, if that is known.
    fn new(given: Given, bytebases: Option<&PgUrl>) -> Result<Self, LoginError> {
        let Given {
            url,
            certificate,
            mut lacks,
        } = given;
        if url.iam.is_some() {
            return Err(LoginError::new(
                "PG_URL has a cloud IAM login, which this hook cannot perform; database.monitorSecretRef gives it another",
            ));
        }
        let authorities = match url.ssl_root_cert.as_deref() {
            // Read whatever it is for, as Bytebase does.
            Some(path) if url.names_a_ca() => authorities(path)?,
            _ if url.verifies() => rustls_native_certs::load_native_certs().certs,
            _ => Vec::new(),
        };
        let certificate = match certificate {
            Some((certificate, key)) if url.protections() != [Protection::None] => {
                client_certificate(&certificate, &key)
                    .map_err(|error| lacks.push(error.why))
                    .ok()
            }
            _ => None,
        };
        let whose = match bytebases {
            Some(own) if own.iam.is_some() => Whose::Monitors,
            Some(own) if own.user == url.user => Whose::Bytebases,
            _ => Whose::Another,
        };
        Ok(Self {
            url,
            whose,
            authorities,
            certificate,
            lacks,
        })
    }

    /// A session on the first server that Bytebase would take; of several one that is no standby.
    async fn dial(&self, name: &str) -> Result<PgConnection, LoginError> {
        let url = &self.url;
        let attrs = match url.target_session_attrs {
            TargetSessionAttrs::Any if url.hosts.len() == 1 => TargetSessionAttrs::Any,
            _ => TargetSessionAttrs::Primary,
        };
        let target = LoginTo {
            url,
            authorities: &Authorities::given(&self.authorities, Timestamp::now()),
            certificate: self.certificate.as_ref(),
            // A proxy beside Bytebase is here as well.
            reach: Reach::Anywhere,
            lookups: &Lookups::default(),
            attrs,
            label: name,
        };
        // Boxed: it is large, and there is room for it in each wait of the hook otherwise.
        match Box::pin(log_in(&target)).await {
            Ok(LoggedIn { session, .. }) => session
                .into_sqlx()
                .await
                .map_err(|_| LoginError::new("the session broke off")),
            Err(failures) => Err(self.why(&failures)),
        }
    }

    /// What the last attempt failed by, in fixed words: a server's own may quote anything. Each
    /// attempt may have shown that the server has no room, the one in clear text after it what else
    /// is wrong.
    fn why(&self, failures: &[Failed]) -> LoginError {
        let Some(failed) = failures.last() else {
            return LoginError::new("PG_URL names no server");
        };
        let place = &self.url.hosts[failed.host];
        let is_full =
            |failed: &Failed| matches!(&failed.error, Error::Refused(refusal) if refusal.is_full());
        let is_full = failures.iter().any(is_full);
        let why = match &failed.error {
            Error::Unfit { .. } => format!("{place} is a standby"),
            Error::TimedOut(_) => format!("{place} does not answer"),
            Error::Name(error) | Error::Network(error) => {
                format!("{place}: no connection ({})", error.kind())
            }
            error => format!("{place}: {error}"),
        };
        let why = [slice::from_ref(&why), &self.lacks].concat().join("; ");
        LoginError { why, is_full }
    }
}

/// The certificates of a bundle, which must have some.
fn authorities(path: &str) -> Result<Vec<CertificateDer<'static>>, LoginError> {
    let bytes = bytes(path, "the CA bundle that sslrootcert names")?;
    let bundle = CaBundle::parse(&bytes).map_err(|error| {
        LoginError::new(format!("the CA bundle that sslrootcert names {error}"))
    })?;
    Ok(bundle.certificates().to_vec())
}

fn client_certificate(certificate: &str, key: &str) -> Result<ClientCertificate, LoginError> {
    let certificate = bytes(certificate, "the client certificate that sslcert names")?;
    let key = bytes(key, "the private key that sslkey names")?;
    ClientCertificate::from_pem(&certificate, &key)
        .map_err(|error| LoginError::new(error.to_string()))
}

/// What a file holds. Its name is not logged: what was pasted in its place may be a key.
fn bytes(path: &str, what: &str) -> Result<Vec<u8>, LoginError> {
    fs::read(path).map_err(|error| LoginError::new(format!("{what} cannot be read: {error}")))
}

/// `PG_URL`, or the file that it names, completed by `PGUSER`, `PGPASSWORD` and the files of the
/// pod that the string or the environment names.
fn read(env: &impl Fn(&str) -> Option<String>) -> Result<Given, LoginError> {
    let text = env("PG_URL").ok_or_else(|| LoginError::new("PG_URL is not set"))?;
    let text = if text.starts_with(['/', '.']) {
        fs::read_to_string(text).map_err(|error| {
            LoginError::new(format!(
                "the file that PG_URL names cannot be read: {error}"
            ))
        })?
    } else {
        text
    };
    let text = with_user(text.trim(), env("PGUSER"));
    let url = PgUrl::parse(text.expose_secret())
        .map_err(|error| LoginError::new(format!("PG_URL cannot be used: {error}")))?;
    let url = url.with_default_password(env("PGPASSWORD").map(SecretString::from));
    let file = |parameter: &str, variable: &str| {
        let named = url.driver_params().get(parameter).cloned();
        let path = named.or_else(|| env(variable));
        path.filter(|path| !path.is_empty())
    };
    let certificate = file("sslcert", "PGSSLCERT").zip(file("sslkey", "PGSSLKEY"));
    let passwords = file("passfile", "PGPASSFILE").filter(|_| !url.has_password());
    let found = passwords.map(|path| {
        let text = fs::read(path).map_err(|error| {
            format!("the password file that passfile names cannot be read: {error}")
        })?;
        // As the driver, which takes the bytes of a line as they are.
        let text = String::from_utf8_lossy(&text);
        passfile::password(&text, &url).ok_or_else(|| {
            "the password file that passfile names has no line for this host, port, database and user"
                .to_owned()
        })
    });
    let (password, lacks) = match found {
        Some(Ok(password)) => (Some(password), Vec::new()),
        Some(Err(why)) => (None, vec![why]),
        None => (None, Vec::new()),
    };
    Ok(Given {
        url: url.with_default_password(password.map(SecretString::from)),
        certificate,
        lacks,
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytebase_contract::ca_bundle;
    use bytebase_login::Refusal;
    use testkit::certificates::Authority;

    /// Of a CA, valid for a hundred years.
    const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBbjCCARWgAwIBAgIUNEs9sA1LyoK5qGGvOmlcyFBSxCcwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBYTAg\
        Fw0yNjExMjgxNTA4NTJaGA8yMTI2MTEwNDE1MDg1MlowDDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqG\
        SM49AwEHA0IABAHdcD7li9WChBDja9iyiYMDJrm/svSiLNgsMqSJFHKpnx6QeesHnli3/ndkyMO/mcROBTmZ\
        KQURdZCkINK5rjyjUzBRMB0GA1UdDgQWBBTXDThnbwPi6LCdW1XXwMwbDSZXFzAfBgNVHSMEGDAWgBTXDThn\
        bwPi6LCdW1XXwMwbDSZXFzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIGwbgJ3L3x/PMAwH\
        Q2h1+CBrDwMdJfXJ9OvZZQa2Dp/OAiB8nxcxizjld2Wg9zII2WbnJDAwHd3CI9co6mydORAu2Q==\n\
        -----END CERTIFICATE-----\n";
    /// Of another one.
    const OTHER_CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\n\
        MIIBbzCCARWgAwIBAgIUIXoCbrE0+P51v8GNpFvoSI/5/KkwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBYjAg\
        Fw0yNjExMjgxNTA4NTJaGA8yMTI2MTEwNDE1MDg1MlowDDEKMAgGA1UEAwwBYjBZMBMGByqGSM49AgEGCCqG\
        SM49AwEHA0IABHR+2FrT6Rkf+vl6h5rvay286FwmrE5WdS7KxyBTiHp+NMtGpLW2BcKn3JN8IQTKzyT6xSzx\
        TNYBptnA/41q37OjUzBRMB0GA1UdDgQWBBQ+JZfxum91gGUb00vqkXn/kOGHqzAfBgNVHSMEGDAWgBQ+JZfx\
        um91gGUb00vqkXn/kOGHqzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIEFyPNxgSF2JsyrZ\
        a+Na2dNwGhfvYOaSu6pckKKLaVh1AiEAvarcliikHYzl9Xiir3NYA5/2NoXBFjjbgroARHhtj5I=\n\
        -----END CERTIFICATE-----\n";
    fn pem(way: &Login) -> String {
        ca_bundle::to_pem(&way.authorities)
    }

    fn logins(variables: &[(&str, &str)], mounted: &Path) -> Result<Logins, LoginError> {
        let env = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        Logins::from(env, mounted)
    }

    fn without_files(variables: &[(&str, &str)]) -> Result<Logins, LoginError> {
        logins(variables, Path::new("/nowhere"))
    }

    /// Host, user, database and password of each way.
    fn seen(logins: &Logins) -> Vec<(&str, &str, &str, Option<&str>)> {
        let ways = logins.ways.iter().map(|way| {
            let url = &way.url;
            let password = url.password.as_ref();
            let password = password.map(secrecy::ExposeSecret::expose_secret);
            (&*url.hosts[0].host, &*url.user, &*url.database, password)
        });
        ways.collect()
    }

    #[test]
    fn the_environment_completes_the_string_as_for_bytebase() {
        let in_parts = without_files(&[
            ("PG_URL", "postgres://db:5432/bytebase?sslmode=disable"),
            ("PGUSER", "by te"),
            ("PGPASSWORD", "p%w"),
            ("PGAPPNAME", "demo-1"),
        ])
        .unwrap();
        assert_eq!(seen(&in_parts), [("db", "by te", "bytebase", Some("p%w"))]);
        assert_eq!(in_parts.replica_sessions, "demo-1");
        let whole = without_files(&[
            ("PG_URL", "postgres://u:p@db/bytebase?application_name=mine"),
            ("PGUSER", "other"),
            ("PGPASSWORD", "other"),
            ("PGAPPNAME", "demo-1"),
        ])
        .unwrap();
        assert_eq!(seen(&whole), [("db", "u", "bytebase", Some("p"))]);
        assert_eq!(whole.replica_sessions, "mine", "the string wins");
        let keyword = without_files(&[("PG_URL", "host=db user=u dbname=bytebase")]).unwrap();
        assert_eq!(seen(&keyword), [("db", "u", "bytebase", None)]);
    }

    #[test]
    fn what_a_secret_holds_now_is_tried_after_what_it_held() {
        let folder = tempfile::tempdir().unwrap();
        let old = [
            (
                "PG_URL",
                "postgres://u:old@db/bytebase?application_name=mine",
            ),
            ("PGAPPNAME", "demo-1"),
        ];
        fs::write(
            folder.path().join("PG_URL"),
            "postgres://u:new@db/bytebase\n",
        )
        .unwrap();
        let both = logins(&old, folder.path()).unwrap();
        let expected = [
            ("db", "u", "bytebase", Some("old")),
            ("db", "u", "bytebase", Some("new")),
        ];
        assert_eq!(seen(&both), expected);
        assert_eq!(both.replica_sessions, "mine", "as Bytebase was started");
        let parts = tempfile::tempdir().unwrap();
        fs::write(parts.path().join("PGPASSWORD"), "new").unwrap();
        let old = [
            ("PG_URL", "postgres://db/bytebase"),
            ("PGUSER", "u"),
            ("PGPASSWORD", "old"),
        ];
        assert_eq!(seen(&logins(&old, parts.path()).unwrap()), expected);
    }

    #[test]
    fn a_login_by_another_role_is_not_bytebases() {
        let folder = tempfile::tempdir().unwrap();
        let mount = |url: &str| fs::write(folder.path().join("PG_URL"), url).unwrap();
        let whose = |own: &str| {
            let found = logins(&[("PG_URL", own)], folder.path()).unwrap();
            found.ways.iter().map(|way| way.whose).collect::<Vec<_>>()
        };
        mount("postgres://u:new@db/bytebase");
        assert_eq!(whose("postgres://u:old@db/bytebase"), [Whose::Bytebases; 2]);
        mount("postgres://other:new@db/bytebase");
        let expected = [Whose::Bytebases, Whose::Another];
        assert_eq!(whose("postgres://u:old@db/bytebase"), expected);
        mount("postgres://u:new@other/moved");
        assert_eq!(whose("postgres://u:old@db/bytebase"), [Whose::Bytebases]);
        mount("postgres://monitor:m@db/bytebase");
        let iam = "user=sa@project.iam dbname=bytebase bytebase_gcp_cloud_sql_iam=true bytebase_gcp_cloud_sql_instance_connection_name=p:r:i";
        assert_eq!(whose(iam), [Whose::Monitors]);
    }

    #[test]
    fn a_server_without_room_is_distinguished_from_one_that_is_away() {
        let variables = [("PG_URL", "postgres://u@db/bytebase")];
        let logins = without_files(&variables).unwrap();
        let login = &logins.ways[0];
        let failed = |error| Failed {
            host: 0,
            endpoint: None,
            encrypted: false,
            error,
        };
        let refused = |code: &str, message: &str| {
            failed(Error::Refused(Refusal {
                code: code.to_owned(),
                message: message.to_owned(),
                routine: None,
            }))
        };
        let is_full = |failures: &[Failed]| login.why(failures).is_full;
        assert!(is_full(&[refused("53300", "")]));
        let pooler = "no more connections allowed (max_client_conn)";
        assert!(is_full(&[refused("08P01", pooler)]));
        // In clear text no one may log in.
        assert!(is_full(&[refused("53300", ""), refused("28000", "")]));
        assert!(!is_full(&[refused("28P01", "")]));
        assert!(!is_full(&[refused("57P03", "")]));
        assert!(!is_full(&[silent()]));
        assert!(!is_full(&[]));
    }

    #[test]
    fn files_of_the_pod_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let ca = file("ca.crt", &format!("of the company\n{CERTIFICATE}"));
        let text = format!("postgres://u@db/b?sslmode=verify-ca&sslrootcert={ca}\n");
        let url = file("url", &text);
        let found = without_files(&[("PG_URL", &url)]).unwrap();
        assert_eq!(seen(&found), [("db", "u", "b", None)]);
        assert_eq!(pem(&found.ways[0]), CERTIFICATE);
    }

    #[test]
    fn a_password_file_is_read_where_nothing_else_gives_a_password() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let right = file("right", "db:5432:b:u:filed\n");
        let wrong = file("wrong", "other:5432:b:u:filed\n");
        let missing = folder.path().join("missing").display().to_string();
        let latin = folder.path().join("latin");
        fs::write(&latin, b"# caf\xe9\ndb:5432:b:u:filed\n").unwrap();
        let latin = latin.display().to_string();
        let of = |url: &str, more: &[(&str, &str)]| {
            let found = without_files(&[&[("PG_URL", url)], more].concat()).unwrap();
            let password = seen(&found)[0].3.map(str::to_owned);
            (password, found.ways[0].lacks.concat())
        };
        let by = |path: &str| format!("postgres://u@db/b?passfile={path}");
        let filed = (Some("filed".to_owned()), String::new());
        assert_eq!(of(&by(&right), &[]), filed);
        assert_eq!(of(&by(&latin), &[]), filed);
        let variable = [("PGPASSFILE", &*right)];
        assert_eq!(of("postgres://u@db/b", &variable), filed);
        assert_eq!(of(&by(&right), &[("PGPASSFILE", &wrong)]), filed);
        let other = (Some("other".to_owned()), String::new());
        assert_eq!(of(&by(&right), &[("PGPASSWORD", "other")]), other);
        for (path, expected) in [(wrong, "no line for"), (missing, "cannot be read")] {
            let (password, why) = of(&by(&path), &[]);
            assert_eq!(password, None);
            assert!(why.contains(expected), "{why}");
        }
    }

    /// An attempt that the server did not answer.
    fn silent() -> Failed {
        Failed {
            host: 0,
            endpoint: None,
            encrypted: false,
            error: Error::TimedOut(std::time::Duration::from_secs(1)),
        }
    }

    #[test]
    fn a_client_certificate_is_read_or_done_without() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let certified = Authority::new("a").certify_role("u");
        let certificate = file("crt", &certified.certificate);
        let key = file("key", &certified.key);
        let other_key = file("other", &Authority::new("b").certify_role("u").key);
        let encrypted = certified.key.replace("PRIVATE", "ENCRYPTED PRIVATE");
        let encrypted = file("encrypted", &encrypted);
        let of = |mode: &str, certificate: &str, key: &str| {
            let url =
                format!("postgres://u@db/b?sslmode={mode}&sslcert={certificate}&sslkey={key}");
            without_files(&[("PG_URL", &url)])
        };
        let found = of("prefer", &certificate, &key).unwrap();
        assert!(found.ways[0].certificate.is_some());
        let found = of("disable", "/nowhere", "/nowhere").unwrap();
        assert!(found.ways[0].certificate.is_none(), "as the driver");
        let variables = [
            ("PG_URL", "postgres://u@db/b"),
            ("PGSSLCERT", &certificate),
            ("PGSSLKEY", &key),
        ];
        let found = without_files(&variables).unwrap();
        assert!(found.ways[0].certificate.is_some());
        for (certificate, key, expected) in [
            (&*certificate, &*other_key, "is not that of the certificate"),
            (&certificate, &encrypted, "holds no private key"),
            (&certificate, &certificate, "holds no private key"),
            (&key, &key, "holds no PEM certificate"),
            ("/nowhere", &key, "sslcert names cannot be read"),
            (&certificate, "/nowhere", "sslkey names cannot be read"),
        ] {
            let found = of("prefer", certificate, key).unwrap();
            assert!(found.ways[0].certificate.is_none(), "{expected}");
            let LoginError { why, .. } = found.ways[0].why(&[silent()]);
            assert!(why.contains(expected), "{why}");
            assert!(!why.contains("nowhere"), "{why}");
        }
    }

    #[test]
    fn a_bundle_without_a_certificate_is_no_login() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.crt");
        let attempt = |mode: &str| {
            let path = path.display();
            let url = format!("postgres://u@db/b?sslmode={mode}&sslrootcert={path}");
            without_files(&[("PG_URL", &url)])
        };
        for text in ["", "a bundle", "-----BEGIN PRIVATE KEY-----\nAA==\n"] {
            fs::write(&path, text).unwrap();
            for mode in ["disable", "prefer", "require", "verify-ca", "verify-full"] {
                let message = attempt(mode).err().unwrap().why;
                assert!(message.contains("no PEM certificate"), "{message}");
            }
        }
    }

    /// The child half of the next test: it has an environment of its own.
    #[test]
    fn in_a_child_process_reads_the_system() {
        if std::env::var_os("LOGIN_TEST_CHILD").is_none() {
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("ca.crt");
        fs::write(&other, OTHER_CERTIFICATE).unwrap();
        let other = format!("sslmode=verify-full&sslrootcert={}", other.display());
        for (parameters, trusted) in [
            ("sslmode=verify-full", CERTIFICATE),
            ("sslmode=verify-ca", CERTIFICATE),
            ("sslrootcert=system", CERTIFICATE),
            ("sslmode=require", ""),
            (&other, OTHER_CERTIFICATE),
        ] {
            let url = format!("postgres://u@db/b?{parameters}");
            let found = without_files(&[("PG_URL", &url)]).unwrap();
            assert_eq!(pem(&found.ways[0]), trusted, "{parameters}");
        }
    }

    #[test]
    fn without_a_bundle_the_authorities_of_the_container_count() {
        let folder = tempfile::tempdir().unwrap();
        let system = folder.path().join("system.crt");
        fs::write(&system, CERTIFICATE).unwrap();
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "login::tests::in_a_child_process_reads_the_system",
            ])
            .env("LOGIN_TEST_CHILD", "1")
            .env("SSL_CERT_FILE", &system)
            .env_remove("SSL_CERT_DIR")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout);
        assert!(
            child.status.success() && text.contains("1 passed"),
            "{text}"
        );
    }

    #[test]
    fn a_cloud_login_takes_the_one_that_is_mounted() {
        let iam = "postgres://sa@db/bytebase?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1";
        let variables = [("PG_URL", iam), ("PGAPPNAME", "demo-0")];
        let error = without_files(&variables).err().unwrap();
        assert!(error.why.contains("monitorSecretRef"), "{error:?}");
        let folder = tempfile::tempdir().unwrap();
        let monitor = "postgres://watcher@db/other?application_name=watcher";
        fs::write(folder.path().join("PG_URL"), monitor).unwrap();
        let found = logins(&variables, folder.path()).unwrap();
        assert_eq!(seen(&found), [("db", "watcher", "other", None)]);
        assert_eq!(found.database.as_deref(), Some("bytebase"));
        assert_eq!(found.replica_sessions, "demo-0");
    }

    #[test]
    fn no_error_holds_a_part_of_the_string() {
        for text in [
            "postgres://u:pl4nted@:x/y",
            "postgres://u:pl4nted",
            "pl4nted",
            "postgres://u:pl4nted@db/b?sslrootcert=/nowhere",
            "postgres://u@db/b?sslrootcert=pl4nted",
            "postgres://u@db/b?sslcert=pl4nted&sslkey=pl4nted",
        ] {
            let message = match without_files(&[("PG_URL", text)]) {
                Ok(found) => found.ways[0].why(&[silent()]).why,
                Err(error) => error.why,
            };
            assert!(!message.contains("pl4nted"), "{message}");
        }
    }
}
