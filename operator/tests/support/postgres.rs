//! A real PostgreSQL (and PgBouncer) for one test program, gone when the program is.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A directory of PostgreSQL's programs; other places can be named in `POSTGRES_BIN`.
const BIN: &str = "/usr/lib/postgresql/15/bin";

pub struct Server {
    pub port: u16,
    directory: PathBuf,
    process: Option<Child>,
}

pub struct Pooler {
    pub port: u16,
    _process: Child,
}

/// A process that lives as long as the pipe to its standard input: the kernel closes that pipe
/// however this program ends.
fn tied_to_us(script: &str) -> Child {
    as_postgres("sh")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start a shell: {e}"))
}

/// PostgreSQL refuses to run as root.
fn as_postgres(program: &str) -> Command {
    if fs::metadata("/proc/self")
        .map(|m| std::os::unix::fs::MetadataExt::uid(&m))
        .unwrap()
        != 0
    {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid=postgres",
        "--regid=postgres",
        "--clear-groups",
        "--",
        program,
    ]);
    command
}

fn run(mut command: Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub fn bin(name: &str) -> String {
    let directory = std::env::var("POSTGRES_BIN").unwrap_or_else(|_| BIN.to_owned());
    let path = format!("{directory}/{name}");
    assert!(
        Path::new(&path).exists(),
        "these tests need PostgreSQL: {path} does not exist; install postgresql-15, or set POSTGRES_BIN"
    );
    path
}

/// A port that nothing listens on. The kernel may give the same one twice in a row, so each is handed
/// out once only.
fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}

fn scratch(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!(
        "bytebase-operator-{name}-{}-{}",
        std::process::id(),
        free_port()
    ));
    run({
        let mut command = as_postgres("mkdir");
        command.arg("-m").arg("755").arg(&directory);
        command
    });
    directory
}

fn write(path: &Path, content: &str) {
    let mut command = as_postgres("sh");
    command
        .arg("-c")
        .arg(format!("cat > {} && chmod 600 {0}", path.display()));
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(child.stdin.as_mut().unwrap(), content.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

impl Server {
    /// A new cluster: passwords over TCP, no password over its socket.
    pub fn start(extra_configuration: &str) -> Self {
        let directory = scratch("postgres");
        let data = directory.join("data");
        let mut initdb = as_postgres(&bin("initdb"));
        initdb.args([
            "-A",
            "scram-sha-256",
            "--auth-local=trust",
            "-U",
            "postgres",
            "-E",
            "UTF8",
            "--locale=C",
            "-N",
        ]);
        run({
            initdb.arg("--pwfile").arg({
                let file = directory.join("password");
                write(&file, "superuser's\n");
                file
            });
            initdb.arg("-D").arg(&data);
            initdb
        });
        certificates(&directory);
        Self::configure(directory, extra_configuration)
    }

    /// A standby that follows `self`.
    pub fn standby(&self) -> Self {
        let directory = scratch("standby");
        let mut backup = as_postgres(&bin("pg_basebackup"));
        backup.arg("-h").arg(&self.directory).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
            "-R",
            "-c",
            "fast",
        ]);
        backup.arg("-D").arg(directory.join("data"));
        run(backup);
        run({
            let mut command = as_postgres("chmod");
            command.arg("700").arg(directory.join("data"));
            command
        });
        certificates(&directory);
        Self::configure(directory, "")
    }

    fn configure(directory: PathBuf, extra: &str) -> Self {
        let port = free_port();
        let d = directory.display();
        let configuration = format!(
            "port = {port}\nlisten_addresses = 'localhost'\nunix_socket_directories = '{d}'\nfsync = off\nssl = on\n\
             ssl_cert_file = '{d}/server.crt'\nssl_key_file = '{d}/server.key'\nmax_connections = 60\nwal_level = replica\n{extra}\n"
        );
        write(&directory.join("data/postgresql.conf"), &configuration);
        let mut server = Self {
            port,
            directory,
            process: None,
        };
        server.resume();
        server
    }

    pub fn resume(&mut self) {
        let (d, postgres) = (self.directory.display(), bin("postgres"));
        // QUIT ends the server at once; stopped on purpose it is started again, so its files go
        // only with the test program.
        self.process = Some(tied_to_us(&format!(
            "{postgres} -D {d}/data >{d}/log 2>&1 & p=$!; read word; kill -QUIT $p; wait $p; [ \"$word\" = stop ] || rm -rf {d}"
        )));
        let deadline = Instant::now() + Duration::from_secs(30);
        while self
            .psql("postgres", "SELECT 1")
            .is_none_or(|t| t.trim() != "1")
        {
            assert!(
                Instant::now() < deadline,
                "PostgreSQL did not start:\n{}",
                fs::read_to_string(self.directory.join("log")).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        std::io::Write::write_all(process.stdin.as_mut().unwrap(), b"stop\n").unwrap();
        process.wait().unwrap();
    }

    fn psql(&self, database: &str, sql: &str) -> Option<String> {
        let output = Command::new(bin("psql"))
            .arg("-h")
            .arg(&self.directory)
            .args([
                "-p",
                &self.port.to_string(),
                "-U",
                "postgres",
                "-XAtq",
                "-v",
                "ON_ERROR_STOP=1",
                "-d",
                database,
                "-c",
                sql,
            ])
            .env_remove("PGOPTIONS")
            .output()
            .unwrap();
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs statements as the superuser.
    pub fn sql(&self, database: &str, sql: &str) -> String {
        self.psql(database, sql)
            .unwrap_or_else(|| panic!("failed: {sql}"))
    }

    /// A new database with a role of the same name as its owner.
    pub fn database(&self, name: &str, password: &str) {
        self.sql(
            "postgres",
            &format!("CREATE ROLE {name} LOGIN PASSWORD '{password}'"),
        );
        self.sql("postgres", &format!("CREATE DATABASE {name} OWNER {name}"));
    }

    pub fn ca(&self) -> Vec<u8> {
        fs::read(self.directory.join("ca.crt")).unwrap()
    }

    /// Serves its own CA certificate from now on, as many self-made installations do.
    pub fn present_ca(&self) {
        self.present("ca");
    }

    /// Serves a certificate of version 1 from now on, which is what `openssl x509 -req` makes unless
    /// told otherwise.
    pub fn present_version_1(&self) {
        self.present("v1");
    }

    fn present(&self, certificate: &str) {
        for (setting, ending) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
            let file = self.directory.join(format!("{certificate}.{ending}"));
            self.sql(
                "postgres",
                &format!("ALTER SYSTEM SET {setting} = '{}'", file.display()),
            );
        }
        self.sql("postgres", "SELECT pg_reload_conf()");
        std::thread::sleep(Duration::from_millis(300));
    }

    /// PgBouncer in front of this server.
    pub fn pooler(&self, mode: &str, users: &[(&str, &str)]) -> Pooler {
        let program = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"]
            .into_iter()
            .find(|p| Path::new(p).exists());
        let program =
            program.unwrap_or_else(|| panic!("these tests need PgBouncer: install pgbouncer"));
        let directory = scratch("pgbouncer");
        let port = free_port();
        let d = directory.display();
        let mut list = String::new();
        for (user, password) in users {
            let _ = writeln!(list, "\"{user}\" \"{password}\"");
        }
        write(&directory.join("users"), &list);
        write(
            &directory.join("pgbouncer.ini"),
            &format!(
                "[databases]\n* = host=localhost port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
                 unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {d}/users\npool_mode = {mode}\n",
                self.port
            ),
        );
        let process = tied_to_us(&format!(
            "{program} -q {d}/pgbouncer.ini >{d}/log 2>&1 & p=$!; read word; kill -INT $p; wait $p; rm -rf {d}"
        ));
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "PgBouncer did not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Pooler {
            port,
            _process: process,
        }
    }
}

/// A CA and a certificate for `localhost`.
fn certificates(directory: &Path) {
    let d = directory.display();
    let script = format!(
        "cd {d} && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=test-ca \
           -addext subjectAltName=DNS:localhost -keyout ca.key -out ca.crt && \
         openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=localhost -keyout server.key -out server.csr && \
         printf 'subjectAltName=DNS:localhost\\nbasicConstraints=CA:FALSE\\n' > ext && \
         openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext -out server.crt && \
         openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -days 2 -out v1.crt && cp server.key v1.key && \
         chmod 600 *.key && chmod 644 ca.crt"
    );
    let mut command = as_postgres("sh");
    command.args(["-c", &script]);
    run(command);
}

/// Resident memory of this program, in KiB.
pub fn resident_kib() -> u64 {
    let mut text = String::new();
    fs::File::open("/proc/self/status")
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    let line = text.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
