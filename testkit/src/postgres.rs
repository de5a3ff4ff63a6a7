//! A real PostgreSQL (and PgBouncer) for one test program, gone when the program is.

use crate::certificates::{Authority, Certified};
use crate::{ports, programs};
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// Password of the superuser; must never be seen in a log.
pub const PASSWORD: &str = "pg-Pa55word-in-no-log";
/// For a start, also on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_millis(20);

/// A server that listens at `localhost`, with passwords, and at a socket in its folder, without. It
/// has a certificate for `localhost` and demands no encryption.
pub struct Server {
    /// Where it listens.
    pub port: u16,
    directory: PathBuf,
    authority: Authority,
    process: Option<Child>,
}

/// PgBouncer in front of a server.
pub struct Pooler {
    /// Where it listens, at `127.0.0.1`.
    pub port: u16,
    _process: Child,
}

impl Server {
    /// A new one, with these lines in its configuration beside the usual ones.
    pub fn start(configuration: &str) -> Self {
        let directory = scratch("postgres");
        let password = directory.join("password");
        write(&password, PASSWORD);
        let mut initdb = program("initdb");
        initdb
            .args(["--username=postgres", "--encoding=UTF8", "--locale=C"])
            .args([
                "--auth-host=scram-sha-256",
                "--auth-local=trust",
                "--no-sync",
            ])
            .arg("--pwfile")
            .arg(password)
            .arg("--pgdata")
            .arg(directory.join("data"));
        run(initdb);
        Self::configure(directory, configuration)
    }

    /// A standby that follows this server. Its files are copied by hand: `pg_basebackup` goes with
    /// one version of the server, and only full installations have it.
    #[must_use]
    pub fn standby(&self) -> Self {
        let directory = scratch("standby");
        let (from, to) = (self.file("data"), directory.join("data"));
        let version = self.sql("postgres", "SHOW server_version_num");
        let (begin, end) = if version.trim() < "150000" {
            (
                "pg_start_backup('standby', true, false)",
                "pg_stop_backup(false)",
            )
        } else {
            ("pg_backup_start('standby', true)", "pg_backup_stop(false)")
        };
        // The backup is over when its session is.
        let mut backup = self.client("postgres");
        backup
            .args(["-c", &format!("SELECT 'begun' FROM {begin}")])
            .args([
                "-c",
                &format!("\\! cp -a {} {}", from.display(), to.display()),
            ])
            .args(["-c", &format!("SELECT labelfile FROM {end}")]);
        let output = backup.output().expect("psql starts");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let label = printed.trim_start().strip_prefix("begun\n");
        let label = label.unwrap_or_else(|| panic!("no backup: {output:?}"));
        // The last line break is psql's.
        let label = label.strip_suffix('\n').unwrap_or(label);
        write(&to.join("backup_label"), label);
        write(&to.join("standby.signal"), "");
        for of_the_original in ["postmaster.pid", "postmaster.opts"] {
            let _ = fs::remove_file(to.join(of_the_original));
        }
        let primary = format!(
            "primary_conninfo = 'host={} port={} user=postgres'\n",
            self.directory.display(),
            self.port
        );
        let settings = to.join("postgresql.auto.conf");
        let before = fs::read_to_string(&settings).unwrap_or_default();
        write(&settings, &format!("{before}{primary}"));
        Self::configure(directory, "")
    }

    fn configure(directory: PathBuf, more: &str) -> Self {
        let authority = Authority::new("test CA");
        let mut server = Self {
            port: ports::free(),
            directory,
            authority,
            process: None,
        };
        write(&server.file("ca.crt"), &server.authority.certificate());
        write(&server.file("expired.crt"), &server.authority.expired());
        server.install("server", &server.authority.certify(&["localhost"]));
        let (port, folder) = (server.port, server.directory.display());
        let configuration = format!(
            "port = {port}\n\
             listen_addresses = 'localhost'\n\
             unix_socket_directories = '{folder}'\n\
             fsync = off\n\
             ssl = on\n\
             ssl_cert_file = '{folder}/server.crt'\n\
             ssl_key_file = '{folder}/server.key'\n\
             wal_level = replica\n\
             {more}\n"
        );
        write(&server.file("data/postgresql.conf"), &configuration);
        server.resume();
        server
    }

    /// Starts it again after [`Self::stop`].
    pub fn resume(&mut self) {
        let folder = self.directory.display();
        // QUIT ends the server at once. One that is stopped is started again, so its files go only
        // with the test program.
        self.process = Some(tied_to_us(&format!(
            "{} -D {folder}/data >{folder}/log 2>&1 & server=$!; read word; \
             kill -QUIT $server; wait $server; [ \"$word\" = stop ] || rm -rf {folder}",
            binary("postgres").display()
        )));
        let start = Instant::now();
        while self.psql("postgres", "SELECT 1").is_none() {
            assert!(
                start.elapsed() < PATIENCE,
                "PostgreSQL did not start:\n{}",
                fs::read_to_string(self.file("log")).unwrap_or_default()
            );
            sleep(PAUSE);
        }
    }

    /// Ends it at once, as a crash does.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        let input = process.stdin.as_mut().expect("a pipe");
        input.write_all(b"stop\n").expect("it reads");
        process.wait().expect("its end");
    }

    /// Runs statements as the superuser; returns the rows as `psql` prints them, bare.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.psql(database, sql)
            .unwrap_or_else(|| panic!("failed: {sql}"))
    }

    fn psql(&self, database: &str, sql: &str) -> Option<String> {
        let output = self.client(database).args(["-c", sql]).output();
        let output = output.expect("psql starts");
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then_some(printed)
    }

    /// `psql` as the superuser, for what more a test gives it.
    pub fn client(&self, database: &str) -> Command {
        let mut psql = Command::new(binary("psql"));
        psql.env_remove("PGOPTIONS")
            .args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet"])
            .args([
                "--set=ON_ERROR_STOP=1",
                "--username=postgres",
                "--dbname",
                database,
            ])
            .args(["--port", &self.port.to_string(), "--host"])
            .arg(&self.directory);
        psql
    }

    /// A new database, and a role of the same name that owns it.
    pub fn database(&self, name: &str, password: &str) {
        let role = format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'");
        self.sql("postgres", &role);
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {name}"));
        // As PostgreSQL has it from 15 on.
        self.sql(name, "REVOKE CREATE ON SCHEMA public FROM PUBLIC");
        self.sql(name, "ALTER SCHEMA public OWNER TO pg_database_owner");
    }

    /// Where its socket lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A file in its folder, such as `ca.crt`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The certificate, as PEM, of the authority that its own is signed by; in its folder as
    /// `ca.crt`, and as `expired.crt` the same authority when its time is over.
    pub fn ca(&self) -> Vec<u8> {
        self.authority.certificate().into_bytes()
    }

    /// The authority that its own certificate is signed by.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Presents its authority's certificate from now on, as many self-made installations do.
    pub fn present_ca(&self) {
        self.present(&self.authority.own());
    }

    /// Presents a certificate of version 1 from now on, which has no names but the common one.
    pub fn present_version_1(&self) {
        self.present(&self.authority.certify_version_1("localhost"));
    }

    /// Presents this certificate from now on, with those that may stand behind it.
    pub fn present(&self, certified: &Certified) {
        self.install("presented", certified);
        for (setting, ending) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
            let file = self.file("presented").with_extension(ending);
            let set = format!("ALTER SYSTEM SET {setting} = '{}'", file.display());
            self.sql("postgres", &set);
        }
        self.reload();
    }

    /// Puts lines in front of those of `pg_hba.conf`, which say who may log in, and how.
    pub fn let_in(&self, lines: &str) {
        let path = self.file("data/pg_hba.conf");
        let rest = fs::read_to_string(&path).expect("what initdb wrote");
        write(&path, &format!("{lines}\n{rest}"));
        // For one line that the server does not take it would leave all of the old ones in force.
        let faults = self.sql(
            "postgres",
            "SELECT line_number || ': ' || error FROM pg_hba_file_rules WHERE error IS NOT NULL",
        );
        assert!(faults.trim().is_empty(), "pg_hba.conf, line {faults}");
        self.reload();
    }

    /// Returns when new sessions find the server with the configuration that lies in its files.
    fn reload(&self) {
        let loaded = || self.sql("postgres", "SELECT pg_conf_load_time()");
        let (before, start) = (loaded(), Instant::now());
        self.sql("postgres", "SELECT pg_reload_conf()");
        while loaded() == before {
            assert!(
                start.elapsed() < PATIENCE,
                "PostgreSQL reads no configuration"
            );
            sleep(PAUSE);
        }
    }

    fn install(&self, name: &str, certified: &Certified) {
        let file = self.file(name);
        write(&file.with_extension("crt"), &certified.certificate);
        write(&file.with_extension("key"), &certified.key);
    }

    /// PgBouncer in front of this server, for these roles with their passwords. `mode` is
    /// `session`, `transaction` or `statement`.
    pub fn pooler(&self, mode: &str, roles: &[(&str, &str)]) -> Pooler {
        self.pooler_with(mode, roles, "")
    }

    /// The same with these lines in its configuration beside the usual ones.
    pub fn pooler_with(&self, mode: &str, roles: &[(&str, &str)], lines: &str) -> Pooler {
        let program = programs::pgbouncer().unwrap_or_else(|e| panic!("{e:#}"));
        let (directory, port) = (scratch("pgbouncer"), ports::free());
        let mut list = String::new();
        for (role, password) in roles {
            let _ = writeln!(list, "\"{role}\" \"{password}\"");
        }
        write(&directory.join("users"), &list);
        let folder = directory.display();
        let configuration = format!(
            "[databases]\n\
             * = host=localhost port={}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             auth_type = scram-sha-256\n\
             auth_file = {folder}/users\n\
             pool_mode = {mode}\n\
             {lines}\n",
            self.port
        );
        write(&directory.join("pgbouncer.ini"), &configuration);
        let process = tied_to_us(&format!(
            "{} -q {folder}/pgbouncer.ini >{folder}/log 2>&1 & pooler=$!; read word; \
             kill -INT $pooler; wait $pooler; rm -rf {folder}",
            program.display()
        ));
        let start = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(start.elapsed() < PATIENCE, "PgBouncer did not start");
            sleep(PAUSE);
        }
        Pooler {
            port,
            _process: process,
        }
    }
}

fn binary(name: &str) -> PathBuf {
    static FOLDER: LazyLock<PathBuf> =
        LazyLock::new(|| programs::postgres().unwrap_or_else(|e| panic!("{e:#}")));
    FOLDER.join(name)
}

fn program(name: &str) -> Command {
    programs::unprivileged(&binary(name))
}

/// A shell's process that lives as long as the pipe to its standard input: the kernel closes that
/// pipe however this program ends.
fn tied_to_us(script: &str) -> Child {
    programs::unprivileged(Path::new("sh"))
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("a shell starts")
}

fn run(mut command: Command) {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A new folder of the user that the programs run as.
fn scratch(name: &str) -> PathBuf {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let number = MADE.fetch_add(1, Ordering::Relaxed);
    let name = format!("bytebase-operator-{name}-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    let mut mkdir = programs::unprivileged(Path::new("mkdir"));
    mkdir.args(["-m", "755"]).arg(&directory);
    run(mkdir);
    directory
}

/// Writes a file of that user. A key must be readable by no one else; a certificate may be.
fn write(path: &Path, content: &str) {
    let mode = if path.extension().is_some_and(|ending| ending == "crt") {
        "644"
    } else {
        "600"
    };
    let script = format!("cat > {0} && chmod {mode} {0}", path.display());
    let mut shell = programs::unprivileged(Path::new("sh"));
    let mut shell = shell
        .args(["-c", &script])
        .stdin(Stdio::piped())
        .spawn()
        .expect("a shell");
    let mut input = shell.stdin.take().expect("a pipe");
    input.write_all(content.as_bytes()).expect("it reads");
    drop(input);
    assert!(
        shell.wait().expect("its end").success(),
        "{}",
        path.display()
    );
}
