//! The one cleartext port: HTTP/1.1 and HTTP/2 without TLS.

mod accounts;
mod errors;
mod streams;
mod subscription;

use crate::{database::Database, entitlement::Entitlement, knobs::Knobs};
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::{any, get, patch, post},
};
use errors::ApiError;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{collections::HashSet, sync::Arc};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Says which replica answered; Bytebase has nothing like it, tests of the load balancer do need
/// it.
const REPLICA_HEADER: HeaderName = HeaderName::from_static("x-bytebase-stub-replica");

/// What every handler may use.
pub struct App {
    /// The metadata database.
    pub database: Database,
    /// License and replica count.
    pub entitlement: Arc<Entitlement>,
    /// Version and times.
    pub knobs: Knobs,
    /// Uuid of this process.
    pub replica_id: String,
    /// From the command line, normalised.
    pub external_url: String,
    /// Sessions of `/mcp`, which live in memory only.
    pub mcp_sessions: Mutex<HashSet<String>>,
    /// Set when the process ends.
    pub stop: CancellationToken,
}

type Shared = State<Arc<App>>;

/// Serves until the end. The listener closes at once then, and open requests get until the caller
/// loses patience.
pub async fn serve(listener: TcpListener, app: Arc<App>) {
    let stop = app.stop.clone();
    let served = axum::serve(listener, router(app)).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(error) = served.await {
        tracing::error!(%error, "the HTTP server failed");
    }
}

fn router(app: Arc<App>) -> Router {
    let replica = HeaderValue::from_str(&app.replica_id).ok();
    Router::new()
        .route("/healthz", get(async || "OK"))
        .route("/metrics", get(metrics))
        .route(
            "/debug/pprof/",
            get(async || "profiles: none in this stand-in\n"),
        )
        .route("/v1/auth/signup", post(accounts::sign_up))
        .route("/v1/auth/login", post(accounts::log_in))
        .route("/v1/subscription", get(subscription::show))
        .route("/v1/subscription/license", patch(subscription::upload))
        .route("/v1/actuator/info", get(info))
        .route("/lsp", any(streams::web_socket))
        .route("/v1:adminExecute", any(streams::web_socket))
        .route("/mcp", get(streams::mcp_stream).post(streams::mcp_call))
        .fallback(fallback)
        .layer(middleware::map_response(move |mut response: Response| {
            let replica = replica.clone();
            async move {
                response
                    .headers_mut()
                    .extend(replica.map(|id| (REPLICA_HEADER, id)));
                response
            }
        }))
        .with_state(app)
}

/// The front end answers every path that is not the API.
async fn fallback(uri: axum::http::Uri) -> Response {
    if uri.path().starts_with("/v1") || uri.path() == "/readyz" {
        return ApiError::NotFound.into_response();
    }
    Html("<!doctype html><title>Bytebase</title><p>A stand-in for Bytebase.</p>").into_response()
}

async fn metrics(State(app): Shared) -> impl IntoResponse {
    let pool = app.database.pool();
    let text = format!(
        "# TYPE bytebase_stub_build_info gauge\nbytebase_stub_build_info{{version=\"{}\"}} 1\n\
         # TYPE bytebase_stub_database_sessions gauge\nbytebase_stub_database_sessions {}\n",
        app.knobs.version,
        pool.size(),
    );
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        text,
    )
}

/// Open to every caller, as up to 3.21.1.
async fn info(State(app): Shared) -> Result<Json<Value>, ApiError> {
    let mut session = app.database.pool().acquire().await?;
    let workspace: Option<String> =
        sqlx::query_scalar("SELECT resource_id FROM workspace WHERE NOT deleted")
            .fetch_optional(&mut *session)
            .await?;
    Ok(Json(json!({
        "version": app.knobs.version.to_string(),
        "externalUrl": app.external_url,
        "replicaCount": app.entitlement.active_replicas(&mut session).await?,
        "needAdminSetup": workspace.is_none(),
        "workspace": workspace.map(|id| format!("workspaces/{id}")).unwrap_or_default(),
    })))
}
