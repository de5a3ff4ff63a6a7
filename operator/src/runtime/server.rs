//! Health and metrics over HTTP. Bound before anything else, so that a probe never meets a closed
//! port.
//!
//! Liveness depends on nothing but this program answering: an unreachable API server or database is
//! no reason to restart the operator, and restarting would take the queue of work with it.
//! Readiness says what is still missing. A standby is ready: it has done all it can do.
//!
//! Any pod may connect, so what all connections together can take is bounded: how many there are,
//! how long each lasts, how much of a request is kept, and how many texts of the metrics are.

use crate::process::metrics::Metrics;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{fmt, io};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// So many connections are open at a time on each address. One more ends the oldest: were it
/// refused, or had it to wait, whoever holds the others would keep the kubelet's probes out, and
/// the kubelet would restart the operator. A probe is over in a moment, and is hardly the oldest.
const CONNECTIONS: usize = 64;
/// A connection is there for one request, and ends after so long however far that has come.
const LONGEST: Duration = Duration::from_secs(10);
/// The head of a request, and whatever else is read ahead, has at most so many bytes.
const LONGEST_HEAD: usize = 16 * 1024;
/// A text of the metrics that is still being sent is sent as well to those who ask so soon after
/// it was written. As no connection outlasts [`LONGEST`], there are three texts at most.
const SHARED_FOR: Duration = Duration::from_secs(5);
/// At shutdown, requests in flight have so long to be finished.
const LAST: Duration = Duration::from_secs(2);
/// After a failure to accept a connection, such as for want of files, which does not pass at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Why the server did not come up.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
}

/// What has to be there before the operator is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    missing: Arc<Mutex<BTreeMap<&'static str, usize>>>,
}

/// One thing that is missing, as long as this exists. Give it to the task that brings the thing
/// about.
#[derive(Debug)]
#[must_use = "what is dropped at once counts as there at once"]
pub struct Missing {
    name: &'static str,
    readiness: Readiness,
}

/// Sockets that are open and not served yet.
#[derive(Debug)]
pub struct Server {
    health: TcpListener,
    metrics: Option<TcpListener>,
}

/// The text of the metrics, of which few exist at a time however slowly each is read.
struct Texts {
    metrics: Arc<Metrics>,
    /// The last one, and when it was written. It is written under this lock: one at a time.
    last: tokio::sync::Mutex<Option<(Weak<String>, Instant)>>,
}

/// A text for as long as a part of it has not been sent.
struct Sending(Arc<String>);

#[derive(Serialize)]
struct ReadinessReport {
    ready: bool,
    missing: Vec<&'static str>,
}

// === impl Readiness ===

impl Readiness {
    /// Declares something missing. It is there when the returned handle is dropped.
    pub fn missing(&self, name: &'static str) -> Missing {
        *self.names().entry(name).or_default() += 1;
        Missing {
            name,
            readiness: self.clone(),
        }
    }

    /// Whether nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.names().is_empty()
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.missing.lock()
    }
}

// === impl Missing ===

impl Missing {
    /// The thing is there.
    pub fn found(self) {
        drop(self);
    }
}

impl Drop for Missing {
    fn drop(&mut self) {
        // A task that dies of a panic has not brought about what it was asked for.
        if std::thread::panicking() {
            return;
        }
        let mut names = self.readiness.names();
        if let Some(count) = names.get_mut(self.name) {
            *count -= 1;
            if *count == 0 {
                names.remove(self.name);
            }
        }
    }
}

// === impl Server ===

impl Server {
    /// Opens the sockets: one for everything, or a second one for metrics, which may want another
    /// audience than probes.
    pub async fn bind(
        health: SocketAddr,
        metrics: Option<SocketAddr>,
    ) -> Result<Self, ServerError> {
        let metrics = match metrics.filter(|address| *address != health) {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        Ok(Self {
            health: listen(health).await?,
            metrics,
        })
    }

    /// Where `/livez` and `/readyz` are.
    #[cfg(test)]
    fn health_address(&self) -> io::Result<SocketAddr> {
        self.health.local_addr()
    }

    /// Where `/metrics` is.
    #[cfg(test)]
    fn metrics_address(&self) -> io::Result<SocketAddr> {
        self.metrics.as_ref().unwrap_or(&self.health).local_addr()
    }

    /// Serves until cancelled; requests in flight are finished.
    pub async fn run(self, readiness: Readiness, metrics: Arc<Metrics>, stop: CancellationToken) {
        let health_routes = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(readiness);
        let metrics_routes = Router::new()
            .route("/metrics", get(scrape))
            .with_state(Arc::new(Texts::new(metrics)));
        match self.metrics {
            Some(listener) => {
                let health = serve(self.health, health_routes, &stop);
                let metrics = serve(listener, metrics_routes, &stop);
                tokio::join!(health, metrics);
            }
            None => serve(self.health, health_routes.merge(metrics_routes), &stop).await,
        }
    }
}

// === impl Texts ===

impl Texts {
    fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            last: tokio::sync::Mutex::default(),
        }
    }

    /// The text of this moment, or one of shortly before that is still being sent.
    async fn current(&self) -> Result<Arc<String>, fmt::Error> {
        let mut last = self.last.lock().await;
        if let Some((text, written)) = &*last
            && let Some(text) = text.upgrade()
            && written.elapsed() < SHARED_FOR
        {
            return Ok(text);
        }
        let text = Arc::new(self.metrics.encode()?);
        *last = Some((Arc::downgrade(&text), Instant::now()));
        Ok(text)
    }
}

// === impl Sending ===

impl AsRef<[u8]> for Sending {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Serves what connects until cancelled.
async fn serve(listener: TcpListener, routes: Router, stop: &CancellationToken) {
    let mut connections: JoinSet<()> = JoinSet::new();
    let mut oldest_first: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            // What has ended is freed.
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                not_accepted(&error).await;
                continue;
            }
        };
        oldest_first.retain(|open| !open.is_finished());
        if oldest_first.len() >= CONNECTIONS
            && let Some(oldest) = oldest_first.pop_front()
        {
            oldest.abort();
        }
        // One that was ended holds its memory until it has.
        while connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        oldest_first.push_back(connections.spawn(connection(stream, routes.clone())));
    }
    drop(listener);
    // A request that has not come by then never will.
    let _ = timeout(LAST, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

/// Answers one request.
async fn connection(stream: TcpStream, routes: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(LONGEST_HEAD)
        // An answer is sent from where it is, not from a copy for each connection.
        .writev(true)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(routes));
    // How it fails is the other side's concern.
    let _ = timeout(LONGEST, connection).await;
}

async fn not_accepted(error: &io::Error) {
    let is_of_one = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionReset
    );
    if !is_of_one {
        tracing::warn!(%error, "a connection to the port of health and metrics cannot be accepted");
        sleep(PAUSE).await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServerError::Bind { address, source })
}

async fn ready(State(readiness): State<Readiness>) -> impl IntoResponse {
    let missing: Vec<&'static str> = readiness.names().keys().copied().collect();
    let ready = missing.is_empty();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, Json(ReadinessReport { ready, missing }))
}

async fn scrape(State(texts): State<Arc<Texts>>) -> impl IntoResponse {
    match texts.current().await {
        Ok(text) => {
            let body = Bytes::from_owner(Sending(text));
            ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], body).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::tcp::OwnedWriteHalf;
    use tokio::time::advance;

    async fn request(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let text = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn any() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    /// The address of a server that runs until the test ends.
    async fn serving() -> SocketAddr {
        let server = Server::bind(any(), None).await.unwrap();
        let address = server.health_address().unwrap();
        let metrics = Arc::new(Metrics::new());
        tokio::spawn(server.run(Readiness::default(), metrics, CancellationToken::new()));
        address
    }

    #[tokio::test]
    async fn a_head_without_an_end_is_read_no_further_than_its_bound() {
        let address = serving().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut head = b"GET /livez HTTP/1.1\r\nHost: x\r\nLong: ".to_vec();
        head.resize(LONGEST_HEAD, b'a');
        stream.write_all(&head).await.unwrap();
        let mut answer = String::new();
        let closed = timeout(LONGEST / 2, stream.read_to_string(&mut answer)).await;
        closed.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    /// Sends a byte a second of a request without an end.
    async fn trickle(mut writer: OwnedWriteHalf) -> io::Result<()> {
        writer.write_all(b"GET /livez HTTP/1.1\r\nLong: ").await?;
        loop {
            sleep(Duration::from_secs(1)).await;
            writer.write_all(b"a").await?;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_trickles_in_does_not_hold_its_connection_for_longer() {
        let address = serving().await;
        let began = Instant::now();
        let stream = TcpStream::connect(address).await.unwrap();
        let (mut reader, writer) = stream.into_split();
        tokio::spawn(trickle(writer));
        // It may be closed before the last byte was read, and is reset then.
        let _ = reader.read_to_end(&mut Vec::new()).await;
        let took = began.elapsed();
        assert!(took >= LONGEST && took < LONGEST * 2, "{took:?}");
    }

    #[tokio::test]
    async fn connections_without_a_request_neither_add_up_nor_keep_probes_out() {
        let address = serving().await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS + 36 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = timeout(LONGEST / 2, request(address, "/livez")).await;
        assert!(answer.unwrap().starts_with("HTTP/1.1 200"));
        let mut open = 0;
        for stream in &mut idle {
            let mut byte = [0];
            let closed = timeout(Duration::from_millis(20), stream.read(&mut byte)).await;
            open += usize::from(closed.is_err());
        }
        assert_eq!(
            open,
            CONNECTIONS - 1,
            "the newest, without the oldest for the probe"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_text_that_is_being_sent_is_shared_for_a_while() {
        let metrics = Arc::new(Metrics::new());
        let texts = Texts::new(Arc::clone(&metrics));
        let first = texts.current().await.unwrap();
        metrics.leads(true);
        let sent_slowly = texts.current().await.unwrap();
        assert!(Arc::ptr_eq(&first, &sent_slowly));
        advance(SHARED_FOR).await;
        let second = texts.current().await.unwrap();
        assert_ne!(first, second);
        // Once all of it is sent, whoever asks gets the text of that moment.
        let sent = String::clone(&second);
        drop(second);
        metrics.leads(false);
        assert_ne!(*texts.current().await.unwrap(), sent);
    }

    #[tokio::test]
    async fn it_says_what_is_missing_and_ends_at_shutdown() {
        let readiness = Readiness::default();
        let (watches, lease) = (readiness.missing("watches"), readiness.missing("lease"));
        let server = Server::bind(any(), None).await.unwrap();
        let address = server.health_address().unwrap();
        assert_eq!(server.metrics_address().unwrap(), address);
        let stop = CancellationToken::new();
        let running =
            tokio::spawn(server.run(readiness.clone(), Arc::new(Metrics::new()), stop.clone()));

        assert!(request(address, "/livez").await.starts_with("HTTP/1.1 200"));
        let answer = request(address, "/readyz").await;
        assert!(
            answer.starts_with("HTTP/1.1 503")
                && answer.ends_with(r#"{"ready":false,"missing":["lease","watches"]}"#),
            "{answer}"
        );
        watches.found();
        assert!(
            request(address, "/readyz")
                .await
                .ends_with(r#"{"ready":false,"missing":["lease"]}"#)
        );
        drop(lease);
        assert!(
            request(address, "/readyz")
                .await
                .starts_with("HTTP/1.1 200")
        );
        let answer = request(address, "/metrics").await;
        assert!(
            answer.contains("application/openmetrics-text") && answer.ends_with("# EOF\n"),
            "{answer}"
        );

        stop.cancel();
        running.await.unwrap();
    }

    #[tokio::test]
    async fn metrics_may_have_an_address_of_their_own() {
        let server = Server::bind(any(), Some(SocketAddr::from(([127, 0, 0, 2], 0))))
            .await
            .unwrap();
        let (health, metrics) = (
            server.health_address().unwrap(),
            server.metrics_address().unwrap(),
        );
        tokio::spawn(server.run(
            Readiness::default(),
            Arc::new(Metrics::new()),
            CancellationToken::new(),
        ));
        assert!(
            request(health, "/metrics")
                .await
                .starts_with("HTTP/1.1 404")
        );
        assert!(
            request(metrics, "/metrics")
                .await
                .starts_with("HTTP/1.1 200")
        );
        assert!(
            request(metrics, "/readyz")
                .await
                .starts_with("HTTP/1.1 404")
        );
    }

    #[tokio::test]
    async fn a_taken_address_is_an_error_that_names_it() {
        let first = Server::bind(any(), None).await.unwrap();
        let address = first.health_address().unwrap();
        let error = Server::bind(address, None).await.unwrap_err();
        assert!(error.to_string().contains(&address.to_string()));
    }

    #[test]
    fn a_panic_makes_nothing_ready() {
        let readiness = Readiness::default();
        let missing = readiness.missing("cache");
        let _ = std::thread::spawn(move || {
            let _held = missing;
            panic!("on purpose");
        })
        .join();
        assert!(!readiness.is_ready());
    }
}
