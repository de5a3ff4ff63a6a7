//! Health and metrics over HTTP. Bound before anything else, so that a probe never meets a closed
//! port.
//!
//! Liveness depends on nothing but this program answering: an unreachable API server or database is
//! no reason to restart the operator, and restarting would take the queue of work with it.
//! Readiness says what is still missing. A standby is ready: it has done all it can do.

use crate::process::metrics::Metrics;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use parking_lot::{Mutex, MutexGuard};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why the server did not come up or ended.
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
    /// The server ended by itself.
    #[error("the HTTP server failed: {0}")]
    Serve(#[from] io::Error),
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
    pub async fn run(
        self,
        readiness: Readiness,
        metrics: Arc<Metrics>,
        stop: CancellationToken,
    ) -> Result<(), ServerError> {
        let health_routes = Router::new()
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .with_state(readiness);
        let metrics_routes = Router::new()
            .route("/metrics", get(scrape))
            .with_state(metrics);
        let serve = |listener, routes| {
            let stop = stop.clone();
            axum::serve(listener, routes)
                .with_graceful_shutdown(async move { stop.cancelled().await })
        };
        match self.metrics {
            Some(listener) => {
                let health = serve(self.health, health_routes);
                let metrics = serve(listener, metrics_routes);
                tokio::try_join!(health.into_future(), metrics.into_future())?;
            }
            None => serve(self.health, health_routes.merge(metrics_routes)).await?,
        }
        Ok(())
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

async fn scrape(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

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
        running.await.unwrap().unwrap();
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
