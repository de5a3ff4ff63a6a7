//! The login beside the driver that Bytebase is built with, on the same servers: who gets in, to
//! which server, encrypted or not, by which refusal not. `tests/driver` is the driver, built from
//! its public module.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    dead_code,
    reason = "a failed expectation is the report; the support of other tests is compiled once more here"
)]

mod reading;

use bytebase_contract::ca_bundle::CaBundle;
use bytebase_contract::pg_url::{HostPort, PgUrl};
use bytebase_login::names::Turn;
use bytebase_login::plan::Reach;
use bytebase_login::tls::{Authorities, ClientCertificate};
use bytebase_login::{Error, LoggedIn, LoginTo, Lookups, Names, log_in_by};
use jiff::Timestamp;
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use sqlx::{ConnectOptions as _, Row as _};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};
use testkit::certificates::Limit;
use testkit::postgres::Server;
use tokio::net::lookup_host;

const PASSWORD: &str = "s3cret-of-the-role";

/// What a session says of itself: server, encryption, place, what the role sees.
const QUESTION: &str = "SELECT current_setting('port') \
     || ' encrypted=' || coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) \
     || ' standby=' || pg_is_in_recovery() || ' database=' || current_database() || ' user=' || current_user \
     || ' path=' || current_setting('search_path') || ' memory=' || current_setting('work_mem') \
     || ' zone=' || current_setting('TimeZone')";

/// Where names lead to that no resolver knows.
struct Table(BTreeMap<&'static str, Vec<SocketAddr>>);

impl Names for Table {
    async fn look_up(&self, at: &HostPort, _: Turn) -> io::Result<Vec<SocketAddr>> {
        match self.0.get(&*at.host) {
            Some(addresses) => Ok(addresses.clone()),
            None => Ok(lookup_host((&*at.host, at.port)).await?.collect()),
        }
    }
}

/// What came of a login: what the session said, or how it failed.
type Outcome = Result<String, Failure>;

#[derive(Debug, PartialEq)]
struct Failure {
    kind: Kind,
    /// SQLSTATE of the refusal that it ended with.
    code: Option<String>,
}

/// Where a login failed. What the server says of why it refuses is in its SQLSTATE.
#[derive(Debug, PartialEq)]
enum Kind {
    /// Before anything was sent: the connection string, or a file that it names.
    Parse,
    /// The client does not take what the server shows or offers.
    Tls,
    /// There was no connection, or not to its end.
    Network,
    /// The server, or what it is.
    Server,
    /// Nobody was asked: the login needs a token that only Bytebase can get.
    Unasked,
}

impl Kind {
    /// By the word of the driver's program.
    fn of(word: &str) -> Self {
        match word {
            "parse" => Self::Parse,
            "tls" => Self::Tls,
            "network" => Self::Network,
            "server" => Self::Server,
            other => panic!("a failure of no known kind: {other:?}"),
        }
    }
}

impl Failure {
    /// The connection string, or a file that it names, is not taken.
    fn unparsed() -> Self {
        Self {
            kind: Kind::Parse,
            code: None,
        }
    }

    fn unasked() -> Self {
        Self {
            kind: Kind::Unasked,
            code: None,
        }
    }

    fn of(error: &Error) -> Self {
        let kind = match error {
            // The other side broke off, which need not be all that arrives.
            Error::Tls(rustls::Error::AlertReceived(_))
            | Error::Name(_)
            | Error::Busy
            | Error::OwnMachine
            | Error::Network(_)
            | Error::TimedOut(_) => Kind::Network,
            Error::NoTls | Error::Tls(_) => Kind::Tls,
            Error::Refused(_)
            | Error::Authentication(_)
            | Error::Protocol(_)
            | Error::Unfit { .. } => Kind::Server,
        };
        let code = match error {
            Error::Refused(refusal) => Some(refusal.code.clone()),
            _ => None,
        };
        Self { kind, code }
    }
}

// === The driver ===

/// Built once, which takes a second where its module is there already.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/driver");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("driver");
    let built = Command::new("go")
        .args(["build", "-mod=readonly", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .env("CGO_ENABLED", "0")
        .output()
        .unwrap_or_else(|error| {
            panic!("this test compares with a Go program, and needs Go 1.25 or later: {error}")
        });
    assert!(
        built.status.success(),
        "the driver cannot be built:\n{}",
        String::from_utf8_lossy(&built.stderr)
    );
    program
});

struct Driver {
    _process: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Driver {
    fn start(system: &Path) -> Self {
        let mut command = Command::new(&*PROGRAM);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        let mut process = command
            .env("SSL_CERT_FILE", system)
            .env("SSL_CERT_DIR", "/nonexistent")
            .env("HOME", "/nonexistent")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let asks = process.stdin.take().unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self {
            _process: process,
            asks,
            answers,
        }
    }

    fn ask(&mut self, asked: &Value) -> Value {
        writeln!(self.asks, "{asked}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).expect("the driver broke off")
    }

    fn log_in(&mut self, url: &str, names: &Table) -> (Outcome, String) {
        let answer = self.ask(&json!({"url": url, "question": QUESTION, "names": names.0}));
        let text = |name: &str| answer[name].as_str().unwrap().to_owned();
        let (session, code, error) = (text("session"), text("code"), text("error"));
        let outcome = if error.is_empty() {
            Ok(session)
        } else {
            Err(Failure {
                kind: Kind::of(&text("kind")),
                code: Some(code).filter(|code| !code.is_empty()),
            })
        };
        (outcome, error)
    }
}

// === The login ===

async fn log_in(url: &str, names: &Table, system: &Path) -> (Outcome, String) {
    let url = match PgUrl::parse(url) {
        Ok(url) => url,
        Err(error) => return (Err(Failure::unparsed()), error.to_string()),
    };
    if url.iam.is_some() {
        return (Err(Failure::unasked()), String::new());
    }
    let bundle = match url.ssl_root_cert.as_deref() {
        Some(_) if url.trusts_the_system() => fs::read(system),
        None => fs::read(system),
        Some(path) => fs::read(path),
    };
    let bundle = bundle.ok().and_then(|pem| CaBundle::parse(&pem).ok());
    let Some(bundle) = bundle else {
        return (
            Err(Failure::unparsed()),
            "the bundle cannot be read".to_owned(),
        );
    };
    let file = |name: &str| {
        url.driver_params()
            .get(name)
            .and_then(|path| fs::read(path).ok())
    };
    let certificate = match file("sslcert").zip(file("sslkey")) {
        Some((certificate, key)) => match ClientCertificate::from_pem(&certificate, &key) {
            Ok(certificate) => Some(certificate),
            Err(error) => return (Err(Failure::unparsed()), error.to_string()),
        },
        None => None,
    };
    let target = LoginTo {
        url: &url,
        authorities: &Authorities::given(bundle.certificates(), Timestamp::now()),
        certificate: certificate.as_ref(),
        reach: Reach::Anywhere,
        lookups: &Lookups::default(),
        attrs: url.target_session_attrs,
        label: "compared",
    };
    match log_in_by(&target, names).await {
        Ok(LoggedIn { session, .. }) => {
            let mut connection = session.into_sqlx().await.unwrap();
            let row = sqlx::raw_sql(QUESTION)
                .fetch_one(&mut connection)
                .await
                .unwrap();
            (Ok(row.get(0)), String::new())
        }
        Err(failures) => {
            let last = failures.last().expect("an attempt");
            (Err(Failure::of(&last.error)), format!("{failures:?}"))
        }
    }
}

// === The comparison ===

struct Comparison {
    driver: Driver,
    names: Table,
    system: PathBuf,
    cases: usize,
    logged_in: usize,
    /// Disagreements that are wanted, and why.
    exceptions: Vec<(String, &'static str)>,
    faults: Vec<String>,
}

impl Comparison {
    async fn agree(&mut self, url: &str) {
        let (ours, theirs) = self.both(url).await;
        if ours.0 != theirs.0 {
            self.faults
                .push(format!("{url}\n  login:  {ours:?}\n  driver: {theirs:?}"));
        }
    }

    /// They get in, and to this server.
    async fn lead_to(&mut self, url: &str, server: &Server) {
        let (ours, theirs) = self.both(url).await;
        let expected = server.port.to_string();
        let leads = ours
            .0
            .as_ref()
            .is_ok_and(|session| session.starts_with(&expected));
        if ours.0 != theirs.0 || !leads {
            self.faults.push(format!(
                "{url} does not lead to {expected}\n  login:  {ours:?}\n  driver: {theirs:?}"
            ));
        }
    }

    /// Neither gets in.
    async fn refused(&mut self, url: &str) {
        let (ours, theirs) = self.both(url).await;
        if ours.0.is_ok() || ours.0 != theirs.0 {
            self.faults.push(format!(
                "{url} is let in, or refused otherwise\n  login:  {ours:?}\n  driver: {theirs:?}"
            ));
        }
    }

    /// They differ, on purpose.
    async fn differ(&mut self, url: &str, why: &'static str) {
        let (ours, theirs) = self.both(url).await;
        if ours.0 == theirs.0 {
            self.faults
                .push(format!("{url}\n  is no exception any more: {ours:?}"));
        }
        self.exceptions.push((url.to_owned(), why));
    }

    async fn both(&mut self, url: &str) -> ((Outcome, String), (Outcome, String)) {
        let ours = log_in(url, &self.names, &self.system).await;
        let theirs = self.driver.log_in(url, &self.names);
        self.cases += 1;
        self.logged_in += usize::from(theirs.0.is_ok());
        (ours, theirs)
    }

    fn report(self) {
        let Self {
            cases,
            logged_in,
            exceptions,
            faults,
            ..
        } = self;
        let mut report = format!(
            "login and driver: {cases} cases, {logged_in} of them let in; {} agree, {} differ on purpose, {} by mistake\n",
            cases - exceptions.len() - faults.len(),
            exceptions.len(),
            faults.len(),
        );
        for (url, why) in exceptions {
            let _ = writeln!(report, "  on purpose: {why}: {url}");
        }
        conclude(report, &faults);
    }
}

/// Prints a comparison's report with its faults, of which there may be none.
fn conclude(mut report: String, faults: &[String]) {
    for fault in faults {
        let _ = writeln!(report, "  BY MISTAKE: {fault}");
    }
    // Past the capture of a test that succeeds: the numbers are the result.
    io::stderr().write_all(report.as_bytes()).unwrap();
    assert!(
        faults.is_empty(),
        "{} disagreements, listed above",
        faults.len()
    );
}

#[tokio::test]
async fn the_login_comes_to_the_same_end_as_the_driver() {
    let primary = Server::start("ssl_ca_file = '../ca.crt'");
    primary.database("app", PASSWORD);
    let standby = primary.standby();
    primary.sql("app", "CREATE SCHEMA bb AUTHORIZATION app");
    let file = |server: &Server, name: &str| server.file(name).display().to_string();
    let scratch = tempfile::tempdir().unwrap();
    let mut c = Comparison {
        driver: Driver::start(&primary.file("ca.crt")),
        names: names(&primary, &standby),
        system: primary.file("ca.crt"),
        cases: 0,
        logged_in: 0,
        exceptions: Vec::new(),
        faults: Vec::new(),
    };
    protection(&mut c, &primary, &standby, scratch.path()).await;
    servers(&mut c, &primary, &standby).await;
    parameters(&mut c, &primary).await;
    passwords(&mut c, &primary).await;
    rules(&mut c, &primary).await;
    forms(&mut c, &primary).await;
    pooler(&mut c, &primary).await;
    full_pooler(&mut c, &primary).await;
    certificates(&mut c, &primary, &standby, scratch.path()).await;
    // From here on it presents other certificates.
    primary.present_version_1();
    let at = |rest: &str| {
        format!(
            "postgres://app:{PASSWORD}@localhost:{}/app?{rest}",
            primary.port
        )
    };
    let (own, other) = (file(&primary, "ca.crt"), file(&standby, "ca.crt"));
    for mode in ["prefer", "allow", "require"] {
        c.lead_to(&at(&format!("sslmode={mode}")), &primary).await;
    }
    for mode in ["require", "verify-ca"] {
        c.lead_to(&at(&format!("sslmode={mode}&sslrootcert={own}")), &primary)
            .await;
        c.refused(&at(&format!("sslmode={mode}&sslrootcert={other}")))
            .await;
    }
    c.refused(&at(&format!("sslmode=verify-full&sslrootcert={own}")))
        .await;
    primary.present_ca();
    for mode in ["prefer", "require", "verify-ca", "verify-full"] {
        c.lead_to(&at(&format!("sslmode={mode}&sslrootcert={own}")), &primary)
            .await;
    }
    c.refused(&at(&format!("sslmode=verify-ca&sslrootcert={other}")))
        .await;
    purposes(&mut c, &primary, scratch.path()).await;
    c.report();
}

/// What the certificates of an authority and of a server are good for.
async fn purposes(c: &mut Comparison, primary: &Server, scratch: &Path) {
    let authority = primary.authority();
    let limits = [
        Limit::NoAuthority,
        Limit::NoSigning,
        Limit::ForClients,
        Limit::NoneBelow,
    ];
    let by = |mode: &str, name: &str, bundle: &str| {
        let path = scratch.join(name);
        fs::write(&path, bundle).unwrap();
        format!(
            "postgres://app:{PASSWORD}@localhost:{}/app?sslmode={mode}&sslrootcert={}",
            primary.port,
            path.display()
        )
    };
    for mode in ["verify-ca", "verify-full"] {
        let leaf = authority.certify(&["localhost"]);
        primary.present(&leaf);
        for limit in limits {
            let url = by(mode, &format!("{limit:?}"), &authority.limited(limit));
            match limit {
                Limit::NoneBelow => c.lead_to(&url, primary).await,
                _ => c.refused(&url).await,
            }
        }
        c.lead_to(&by(mode, "leaf", &leaf.certificate), primary)
            .await;
        primary.present(&authority.certify_below(&["localhost"]));
        c.lead_to(&by(mode, "whole", &authority.certificate()), primary)
            .await;
        for limit in limits {
            c.refused(&by(mode, &format!("{limit:?}"), &authority.limited(limit)))
                .await;
        }
        let client = authority.certify_client(&["localhost"]);
        primary.present(&client);
        c.refused(&by(mode, "client", &client.certificate)).await;
    }
    primary.present(&authority.certify_version_1("localhost"));
    for limit in limits {
        c.agree(&by(
            "verify-ca",
            &format!("{limit:?}"),
            &authority.limited(limit),
        ))
        .await;
    }
    primary.present(&authority.certify_version_1_below("localhost"));
    c.lead_to(&by("verify-ca", "whole", &authority.certificate()), primary)
        .await;
    for limit in limits {
        let bundle = authority.limited(limit);
        c.refused(&by("verify-ca", &format!("{limit:?}"), &bundle))
            .await;
        // The same of the one between.
        let between = authority.limited_below("between", limit);
        let mut certified = between.certify_version_1("localhost");
        certified.certificate.push_str(&between.certificate());
        primary.present(&certified);
        let url = by("verify-ca", "whole", &authority.certificate());
        match limit {
            Limit::NoneBelow => c.lead_to(&url, primary).await,
            _ => c.refused(&url).await,
        }
        primary.present(&authority.certify_version_1_below("localhost"));
    }
    let between = authority.below("between");
    let mut certified = between.certify_version_1("localhost");
    let expired = authority.expired_below(&between);
    certified.certificate.push_str(&expired);
    primary.present(&certified);
    c.refused(&by("verify-ca", "whole", &authority.certificate()))
        .await;
}

/// Names that no resolver knows.
fn names(primary: &Server, standby: &Server) -> Table {
    let at = |server: &Server| SocketAddr::from(([127, 0, 0, 1], server.port));
    let dead = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let table = [
        ("standby-first.test", vec![at(standby), at(primary)]),
        ("primary-first.test", vec![at(primary), at(standby)]),
        ("standbys.test", vec![at(standby), at(standby)]),
        ("one-dead.test", vec![dead, at(primary)]),
        ("dead.test", vec![dead]),
    ];
    Table(table.into())
}

/// Each way to name a CA bundle, as a parameter. Those from the ninth on only show how one is read.
fn bundles(primary: &Server, standby: &Server, scratch: &Path) -> Vec<String> {
    let own = primary.file("ca.crt");
    let pem = fs::read_to_string(&own).unwrap();
    let other = fs::read_to_string(standby.file("ca.crt")).unwrap();
    let expired = fs::read_to_string(primary.file("expired.crt")).unwrap();
    let key = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    let block = |content: &str| {
        format!("-----BEGIN CERTIFICATE-----\n{content}\n-----END CERTIFICATE-----\n")
    };
    let written = [
        ("other", other.clone()),
        ("both", format!("{other}{pem}")),
        ("expired", expired.clone()),
        ("renewed", format!("{expired}{pem}")),
        ("with-key", format!("{key}# text\n{}{pem}", block("!!!"))),
        ("windows", pem.replace('\n', "\r\n")),
        ("escaped", pem.replace('\n', "\\n")),
        ("one-line", pem.replace('\n', " ")),
        ("indented", pem.replace("-----B", "  -----B")),
        ("marked", format!("\u{feff}{pem}")),
        ("key-only", key.to_owned()),
        ("joined", format!("{}{other}", pem.trim_end())),
        (
            "no-end",
            format!("-----BEGIN CERTIFICATE-----\nMAIw\n{pem}"),
        ),
        (
            "tab",
            pem.replace("CERTIFICATE-----\n", "CERTIFICATE-----\t\n"),
        ),
        ("text-behind", pem.replace("-----\n", "----- #\n")),
        ("macintosh", pem.replace('\n', "\r")),
        ("hollow", block("MAIwAA==")),
        ("empty", String::new()),
    ];
    let files = written.map(|(name, text)| {
        let path = scratch.join(name);
        fs::write(&path, text).unwrap();
        path
    });
    let files = [own]
        .into_iter()
        .chain(files)
        .chain([scratch.join("missing")]);
    let named = files.map(|path| format!("&sslrootcert={}", path.display()));
    let unnamed = [String::new(), "&sslrootcert=system".to_owned()];
    unnamed.into_iter().chain(named).collect()
}

/// `sslmode` and `sslrootcert`.
async fn protection(c: &mut Comparison, primary: &Server, standby: &Server, scratch: &Path) {
    let own = primary.file("ca.crt");
    let bundles = bundles(primary, standby, scratch);
    let port = primary.port;
    for mode in [
        "",
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ] {
        for (n, bundle) in bundles.iter().enumerate() {
            // Behind these a bundle is read the same whatever it is for.
            if n >= 8 && !matches!(mode, "disable" | "prefer" | "verify-full") {
                continue;
            }
            let rest = format!("{port}/app?sslmode={mode}{bundle}");
            c.agree(&format!("postgres://app:{PASSWORD}@localhost:{rest}"))
                .await;
            if n < 4 && mode.starts_with("verify") {
                c.agree(&format!("postgres://app:{PASSWORD}@127.0.0.1:{rest}"))
                    .await;
            }
        }
    }
    for rest in [
        "sslsni=0&sslmode=require",
        "sslsni=0&sslmode=verify-full",
        "sslsni=1",
    ] {
        c.agree(&format!(
            "postgres://app:{PASSWORD}@localhost:{port}/app?{rest}"
        ))
        .await;
    }
    // The name of the certificate in another spelling.
    for host in ["LOCALHOST", "localhost."] {
        c.agree(&format!(
            "postgres://app:{PASSWORD}@{host}:{port}/app?sslmode=verify-full&sslrootcert={}",
            own.display()
        ))
        .await;
    }
}

/// Which of several servers.
async fn servers(c: &mut Comparison, primary: &Server, standby: &Server) {
    let (p, s) = (primary.port, standby.port);
    let lists = [
        format!("127.0.0.1:{p}"),
        format!("127.0.0.1:{s}"),
        format!("127.0.0.1:{s},127.0.0.1:{p}"),
        format!("127.0.0.1:{p},127.0.0.1:{s}"),
        format!("127.0.0.1:1,127.0.0.1:{p}"),
        "standby-first.test".to_owned(),
        "primary-first.test".to_owned(),
        "standbys.test".to_owned(),
        "one-dead.test".to_owned(),
        "dead.test".to_owned(),
        format!("dead.test:1,127.0.0.1:{s},standby-first.test:1"),
        format!("no-such-name.invalid:1,127.0.0.1:{p}"),
        "no-such-name.invalid".to_owned(),
    ];
    for list in &lists {
        for attrs in [
            "any",
            "read-write",
            "read-only",
            "primary",
            "standby",
            "prefer-standby",
            "nonsense",
        ] {
            // The order of attempts is another one where there are two for each address.
            let mode = if attrs.starts_with('p') {
                "prefer"
            } else {
                "disable"
            };
            c.agree(&format!(
                "postgres://app:{PASSWORD}@{list}/app?sslmode={mode}&target_session_attrs={attrs}"
            ))
            .await;
        }
    }
    primary.sql("postgres", "CREATE DATABASE frozen");
    primary.sql(
        "postgres",
        "ALTER DATABASE frozen SET default_transaction_read_only = on",
    );
    let arrived = "SELECT count(*) FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase WHERE d.datname = 'frozen'";
    while standby.sql("postgres", arrived).trim() != "1" {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    for list in [
        format!("localhost:{p}"),
        format!("localhost:{p},localhost:{s}"),
        format!("localhost:{s},localhost:{p}"),
    ] {
        for attrs in ["any", "read-write", "read-only", "primary"] {
            c.agree(&format!(
                "postgres://app:{PASSWORD}@{list}/frozen?target_session_attrs={attrs}"
            ))
            .await;
        }
    }
}

/// What is sent to the server at the start.
async fn parameters(c: &mut Comparison, primary: &Server) {
    for rest in [
        "search_path=bb",
        "search_path=%22%24user%22%2C%20bb",
        "options=-c%20search_path%3Dbb",
        "options=-csearch_path%3Dbb%20--work-mem%3D8MB",
        "options=-c%20search_path%3Da%5C%2C%5C%20b",
        "search_path=bb&options=-c%20search_path%3Dpublic",
        "options=-c%20nonsense%3D1",
        "options=nonsense",
        "work_mem=8MB",
        "work_mem=lots",
        "timezone=Europe%2FBerlin",
        "TimeZone=Mars",
        "datestyle=German",
        "client_encoding=LATIN1",
        "client_encoding=Klingon",
        "statement_timeout=1min",
        "statement_timeout=soon",
        "application_name=mine",
        "role=app",
        "role=postgres",
        "session_authorization=postgres",
        "default_transaction_read_only=on&target_session_attrs=read-write",
        "log_connections=on",
        "my.setting=1",
        "connect_timeout=5",
        "connect_timeout=0",
        "connect_timeout=-1",
        "connect_timeout=soon",
        "default_query_exec_mode=simple_protocol",
        "default_query_exec_mode=other",
        "statement_cache_capacity=0",
        "statement_cache_capacity=many",
        "krbsrvname=postgres",
    ] {
        c.agree(&at(primary, rest)).await;
    }
    // No setting by the parser of connection strings, and so not asked of the server.
    for rest in [
        "sslnegotiation=direct",
        "channel_binding=require",
        "require_auth=scram-sha-256",
        "min_protocol_version=3.0",
        "schema=bb",
        "pgbouncer=true",
        "shared_buffers=1GB",
    ] {
        let (ours, theirs) = c.both(&at(primary, rest)).await;
        assert!(
            ours.0.is_err() && theirs.0.is_err(),
            "{rest}: {ours:?} {theirs:?}"
        );
    }
    c.differ(
        &at(primary, "application_name=mine&replication=off"),
        "`replication` is no setting that Bytebase can have a use for, and is refused as a mistake",
    )
    .await;
}

fn at(server: &Server, rest: &str) -> String {
    format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{}/app?sslmode=disable&{rest}",
        server.port
    )
}

/// Passwords as the server takes them, which is by SASLprep.
async fn passwords(c: &mut Comparison, primary: &Server) {
    for (n, password) in [
        "plain",
        "with space",
        "%41:/?#[]@",
        "e\u{301}",
        "\u{e9}",
        "\u{2167}",
        "\u{ff21}",
        "a\u{a0}b",
        "a\u{3000}b",
        "a\u{ad}b",
        "a\u{200b}b",
        "\u{e000}",
        "\u{627}1",
        "1\u{627}",
        "a\u{7}b",
        "a\tb",
        "\u{1f511}",
        "\u{378}",
        "\u{fb01}",
        " ",
    ]
    .into_iter()
    .enumerate()
    {
        let role = format!("pw{n}");
        let literal = password.replace('\'', "''");
        primary.sql(
            "postgres",
            &format!("CREATE ROLE {role} LOGIN PASSWORD '{literal}'"),
        );
        let mut encoded = String::new();
        for byte in password.bytes() {
            let _ = write!(encoded, "%{byte:02X}");
        }
        let port = primary.port;
        c.agree(&format!(
            "postgres://{role}:{encoded}@127.0.0.1:{port}/app?sslmode=disable"
        ))
        .await;
        c.refused(&format!(
            "postgres://{role}:{encoded}x@127.0.0.1:{port}/app?sslmode=disable"
        ))
        .await;
    }
}

/// `pg_hba.conf`, rights and limits.
async fn rules(c: &mut Comparison, primary: &Server) {
    for role in [
        "only_tls",
        "only_clear",
        "in_clear",
        "by_hash",
        "trusted",
        "nobody",
        "by_ident",
        "crowded",
    ] {
        primary.sql(
            "postgres",
            &format!(
                "SET password_encryption = '{}'; CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'",
                if role == "by_hash" {
                    "md5"
                } else {
                    "scram-sha-256"
                }
            ),
        );
    }
    primary.sql(
        "postgres",
        "ALTER ROLE crowded CONNECTION LIMIT 0; CREATE ROLE group_only PASSWORD 'x'",
    );
    for sql in [
        "CREATE DATABASE closed",
        "REVOKE CONNECT ON DATABASE closed FROM PUBLIC",
        "CREATE DATABASE shut ALLOW_CONNECTIONS false",
    ] {
        primary.sql("postgres", sql);
    }
    primary.let_in(
        "hostssl all only_tls all scram-sha-256\nhostnossl all only_tls all reject\n\
         hostnossl all only_clear all scram-sha-256\nhostssl all only_clear all reject\n\
         host all in_clear all password\nhost all by_hash all md5\nhost all trusted all trust\n\
         host all nobody all reject\nhost all by_ident all ident",
    );
    let port = primary.port;
    for role in [
        "only_tls",
        "only_clear",
        "in_clear",
        "by_hash",
        "trusted",
        "nobody",
        "by_ident",
        "crowded",
        "group_only",
        "absent",
        "app",
    ] {
        for mode in ["disable", "allow", "prefer", "require"] {
            c.agree(&format!(
                "postgres://{role}:{PASSWORD}@127.0.0.1:{port}/app?sslmode={mode}"
            ))
            .await;
        }
        for login in [format!("{role}:wrong"), role.to_owned()] {
            c.agree(&format!(
                "postgres://{login}@127.0.0.1:{port}/app?sslmode=allow"
            ))
            .await;
        }
    }
    for database in ["closed", "shut", "absent", "template0"] {
        // A refusal of the first host ends the search, or does not.
        for hosts in [
            format!("127.0.0.1:{port}"),
            format!("127.0.0.1:{port},127.0.0.1:{port}"),
        ] {
            c.agree(&format!("postgres://app:{PASSWORD}@{hosts}/{database}"))
                .await;
        }
    }
    c.differ(
        &format!("postgres://trusted:@127.0.0.1:{port}/app"),
        "an empty password is a mistake, which the parser of connection strings refuses",
    )
    .await;
}

/// `sslcert` and `sslkey`.
async fn certificates(c: &mut Comparison, primary: &Server, standby: &Server, scratch: &Path) {
    for role in ["by_certificate", "by_both"] {
        let create = format!("CREATE ROLE {role} LOGIN PASSWORD '{PASSWORD}'");
        primary.sql("postgres", &create);
    }
    primary.let_in(
        "hostssl all by_certificate all cert\nhostnossl all by_certificate all reject\n\
         hostssl all by_both all scram-sha-256 clientcert=verify-full\nhostnossl all by_both all reject",
    );
    let written = |name: &str, text: &str| {
        let path = scratch.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (own, other) = (primary.authority(), standby.authority());
    let first = own.certify_role("by_certificate");
    let mut mixed = own.certify_role("by_certificate");
    mixed.certificate.clone_from(&first.certificate);
    let mut bundled = first.clone();
    bundled.certificate.push_str(&own.certificate());
    let certified = [
        ("none", None),
        ("right", Some(first)),
        ("bundled", Some(bundled)),
        ("old", Some(own.certify_version_1("by_certificate"))),
        ("both", Some(own.certify_role("by_both"))),
        // The server does not know who signed it, so it is not shown.
        ("foreign", Some(other.certify_role("by_certificate"))),
        ("mixed", Some(mixed)),
    ];
    for (name, certified) in certified {
        let files = certified.map_or_else(String::new, |certified| {
            let certificate = written(&format!("{name}.crt"), &certified.certificate);
            let key = written(&format!("{name}.key"), &certified.key);
            format!("&sslcert={certificate}&sslkey={key}")
        });
        for role in ["by_certificate", "by_both", "app"] {
            for mode in ["disable", "allow", "prefer", "require"] {
                // The driver has no use for them then, and reads none.
                if name == "mixed" && mode == "disable" {
                    continue;
                }
                let port = primary.port;
                c.agree(&format!(
                    "postgres://{role}:{PASSWORD}@localhost:{port}/app?sslmode={mode}{files}"
                ))
                .await;
            }
        }
    }
}

/// How a connection string is written.
async fn forms(c: &mut Comparison, primary: &Server) {
    let port = primary.port;
    for url in [
        format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/app"),
        format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}"),
        format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/?dbname=app"),
        format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/app?sslmode=nonsense"),
        format!("postgresql://app@127.0.0.1:{port}/app?password={PASSWORD}"),
        format!("postgresql://127.0.0.1/app?user=app&password={PASSWORD}&port={port}"),
        format!("postgresql:///app?host=127.0.0.1&user=app&password={PASSWORD}&port={port}"),
        format!("postgresql://app:{PASSWORD}@[::1]:{port}/app"),
        format!("postgresql://app:{PASSWORD}@localhost:{port}/%61pp"),
        format!("host=127.0.0.1 port={port} user=app password={PASSWORD} dbname=app"),
        format!(
            "host=127.0.0.1 port={port} user=app password='{PASSWORD}' database=app sslmode=require"
        ),
        format!("host=127.0.0.1,127.0.0.1 port=1,{port} user=app password={PASSWORD}"),
        format!(
            "host=127.0.0.1 port={port} user=app password={PASSWORD} options='-c search_path=bb'"
        ),
        format!("host=127.0.0.1 port={port} user=app password={PASSWORD} dbname=app bad"),
    ] {
        c.agree(&url).await;
    }
    // Over a socket the server asks for no password, and neither side for TLS.
    let folder = primary.directory().display();
    for mode in [
        "disable",
        "allow",
        "prefer",
        "require",
        "verify-ca",
        "verify-full",
    ] {
        for url in [
            format!("host={folder} port={port} user=app password={PASSWORD} sslmode={mode}"),
            format!("postgres:///app?host={folder}&user=app&port={port}&sslmode={mode}"),
        ] {
            c.lead_to(&url, primary).await;
        }
    }
    for url in [
        format!("host={folder} port=1 user=app sslmode=require"),
        format!("host={folder} port={port} user=absent sslmode=require"),
        format!("host=/nonexistent,{folder} port={port} user=app sslmode=verify-full"),
        format!("host=/nonexistent port={port} user=app sslmode=verify-full"),
    ] {
        c.agree(&url).await;
    }
    let ca = primary.file("ca.crt");
    for url in [
        format!(
            "postgres://app@localhost:{port}/app?sslmode=verify-full&sslrootcert={}\
             &bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1",
            ca.display()
        ),
        "user=app dbname=app bytebase_gcp_cloud_sql_iam=true \
         bytebase_gcp_cloud_sql_instance_connection_name=p:r:i"
            .to_owned(),
    ] {
        c.differ(
            &url,
            "only Bytebase can get the token of a cloud, so no one else asks the server",
        )
        .await;
    }
    for rest in ["other?database=app", "app?sslmode=prefer&sslmode=disable"] {
        c.differ(
            &format!("postgresql://app:{PASSWORD}@127.0.0.1:{port}/{rest}"),
            "what is given twice is a mistake, which the parser of connection strings refuses",
        )
        .await;
    }
}

/// PgBouncer, which has no TLS here and takes few parameters.
async fn pooler(c: &mut Comparison, primary: &Server) {
    let pooler = primary.pooler("session", &[("app", PASSWORD)]);
    let port = pooler.port;
    for mode in ["disable", "allow", "prefer", "require", "verify-full"] {
        for rest in [
            "",
            "&search_path=bb",
            "&options=-c%20search_path%3Dbb",
            "&timezone=UTC",
            "&work_mem=8MB",
        ] {
            c.agree(&format!(
                "postgres://app:{PASSWORD}@127.0.0.1:{port}/app?sslmode={mode}{rest}"
            ))
            .await;
        }
    }
    for login in ["app:wrong", "absent:x"] {
        c.agree(&format!("postgres://{login}@127.0.0.1:{port}/app"))
            .await;
    }
    for attrs in ["read-write", "standby"] {
        c.agree(&format!(
            "postgres://app:{PASSWORD}@127.0.0.1:{port}/app?target_session_attrs={attrs}"
        ))
        .await;
    }
    c.agree(&format!(
        "postgres://app:{PASSWORD}@127.0.0.1:{port}/absent"
    ))
    .await;
}

/// PgBouncer with room for one client, which is there already.
async fn full_pooler(c: &mut Comparison, primary: &Server) {
    let roles = [("app", PASSWORD)];
    let pooler = primary.pooler_with("session", &roles, "max_client_conn = 1");
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(pooler.port)
        .username("app")
        .password(PASSWORD)
        .database("app")
        .ssl_mode(PgSslMode::Disable)
        // A pooler takes no such parameter.
        .extra_float_digits(None);
    let patience = Instant::now() + Duration::from_secs(10);
    // The one that saw whether it listens may be there for a moment.
    let _one: PgConnection = loop {
        match options.connect().await {
            Ok(connection) => break connection,
            Err(error) => assert!(Instant::now() < patience, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let port = pooler.port;
    for mode in ["disable", "allow", "prefer", "require"] {
        // The server behind it would have room.
        for hosts in [
            format!("127.0.0.1:{port}"),
            format!("127.0.0.1:{port},127.0.0.1:{port}"),
        ] {
            c.refused(&format!(
                "postgres://app:{PASSWORD}@{hosts}/app?sslmode={mode}"
            ))
            .await;
        }
        c.agree(&format!(
            "postgres://app:{PASSWORD}@127.0.0.1:{port},127.0.0.1:{}/app?sslmode={mode}",
            primary.port
        ))
        .await;
    }
}
