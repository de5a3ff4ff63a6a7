//! The server as a process with short intervals, and everything it wrote.

use super::{PATIENCE, eventually, keys::SIGNER, postgres::Database};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use testkit::ports;

/// Intervals that make a test quick. An owner is dead only after several missed heartbeats.
const SHORT: [(&str, &str); 8] = [
    ("BYTEBASE_STUB_HEARTBEAT_SECONDS", "0.3"),
    ("BYTEBASE_STUB_ACTIVE_SECONDS", "2"),
    ("BYTEBASE_STUB_OWNER_DEAD_SECONDS", "3"),
    ("BYTEBASE_STUB_STALE_CHECK_SECONDS", "0.5"),
    ("BYTEBASE_STUB_SCHEDULER_SECONDS", "0.2"),
    ("BYTEBASE_STUB_LICENSE_CACHE_SECONDS", "60"),
    ("BYTEBASE_STUB_ACTIVE_CACHE_SECONDS", "0.2"),
    ("BYTEBASE_STUB_RESTRICTION_GRACE_SECONDS", "600"),
];

/// What to start.
pub struct Setup {
    command: Command,
    port: u16,
    directory: TempDir,
}

/// A started process; it ends with the test.
pub struct Server {
    child: Child,
    port: u16,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
    client: reqwest::Client,
    _directory: TempDir,
}

impl Setup {
    /// The plain program on a free port, with an empty environment and a data directory.
    pub fn bare() -> Self {
        let directory = TempDir::new().unwrap();
        let port = ports::free();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bytebase-stub"));
        let public_key = directory.path().join("license.pub");
        std::fs::write(&public_key, SIGNER.public_pem()).unwrap();
        command
            .env_clear()
            .env("BYTEBASE_STUB_LICENSE_PUBLIC_KEY_FILE", public_key)
            .envs(SHORT)
            .arg("--port")
            .arg(port.to_string())
            .arg("--data")
            .arg(directory.path());
        Self {
            command,
            port,
            directory,
        }
    }

    /// One replica of several on `database`.
    pub fn replica(database: &Database) -> Self {
        Self::bare().arg("--ha").env("PG_URL", &database.url())
    }

    pub fn arg(mut self, arg: &str) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// The port it will listen on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Starts it and returns at once.
    pub fn spawn(self) -> Server {
        let Self {
            mut command,
            port,
            directory,
        } = self;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let copy = log.clone();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let mut log = copy.lock();
                log.push_str(&line);
                log.push('\n');
            }
        });
        Server {
            child,
            port,
            log,
            reader: Some(reader),
            client: reqwest::Client::builder().no_proxy().build().unwrap(),
            _directory: directory,
        }
    }

    /// Starts it and waits until it answers.
    pub async fn start(self) -> Server {
        let mut server = self.spawn();
        server.ready().await;
        server
    }

    /// Starts it, waits for its end and returns its log: for starts that fail.
    pub fn fails(self) -> String {
        let mut server = self.spawn();
        let status = server.wait();
        let log = server.log();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("Cannot new server"), "{log}");
        log
    }
}

impl Server {
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything written so far.
    pub fn log(&self) -> String {
        self.log.lock().clone()
    }

    /// The uuid from the log, as the operator reads it.
    pub fn replica_id(&self) -> String {
        let log = self.log();
        let (_, rest) = log
            .split_once("replicaID=")
            .expect("a replica id in the log");
        rest[..36].to_owned()
    }

    /// Waits until the port answers.
    pub async fn ready(&mut self) {
        let start = Instant::now();
        while !self.answers().await {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "the server ended: {}", self.log());
            assert!(
                start.elapsed() < PATIENCE,
                "the server never answered: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether `/healthz` answers as it should.
    pub async fn answers(&self) -> bool {
        match self.client.get(self.at("/healthz")).send().await {
            Ok(response) => response.status() == 200 && response.text().await.unwrap() == "OK",
            Err(_) => false,
        }
    }

    pub async fn logs(&self, part: &str) {
        eventually(part, async || self.log().contains(part)).await;
    }

    fn at(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// A request with an optional bearer token; the status and the body as JSON, or null.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        token: Option<&str>,
        body: &Value,
    ) -> (u16, Value) {
        let method = method.parse().unwrap();
        let mut request = self.client.request(method, self.at(path));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.json(body);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, response.json().await.unwrap_or_default())
    }

    pub async fn get(&self, path: &str, token: Option<&str>) -> (u16, Value) {
        self.call("GET", path, token, &Value::Null).await
    }

    /// Any request, for tests that check headers.
    pub fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method.parse().unwrap(), self.at(path))
    }

    /// Signs up and returns the status.
    pub async fn sign_up(&self, email: &str, password: &str) -> u16 {
        let body = json!({"email": email, "password": password, "title": "Somebody"});
        self.call("POST", "/v1/auth/signup", None, &body).await.0
    }

    /// Logs in and returns the token.
    pub async fn log_in(&self, email: &str, password: &str) -> String {
        let body = json!({"email": email, "password": password});
        let (status, answer) = self.call("POST", "/v1/auth/login", None, &body).await;
        assert_eq!(status, 200, "{answer}");
        answer["token"].as_str().unwrap().to_owned()
    }

    /// Uploads a license and returns the status.
    pub async fn upload(&self, token: Option<&str>, license: &str) -> u16 {
        let body = json!({"license": license});
        self.call("PATCH", "/v1/subscription/license", token, &body)
            .await
            .0
    }

    /// Asks it to end, as Kubernetes does.
    pub fn terminate(&self) {
        let sent = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.wait();
    }

    /// Waits for its end and for the last line of its log.
    pub fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                start.elapsed() < PATIENCE,
                "the server does not end: {}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(10));
        };
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        status
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
