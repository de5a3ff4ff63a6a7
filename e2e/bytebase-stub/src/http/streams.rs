//! The paths that need more of an ingress than plain requests: WebSockets that echo, and `/mcp`
//! with sessions in memory.
//!
//! They keep the shape of Bytebase's connections, not their content, and ask for no login.

use super::{App, Shared, errors::ApiError};
use axum::{
    Json,
    extract::{
        State, WebSocketUpgrade,
        ws::{Message, WebSocket},
    },
    http::{HeaderMap, HeaderName},
    response::{IntoResponse, Response, Sse, sse::Event},
};
use futures::{Stream, stream};
use serde_json::json;
use std::{convert::Infallible, time::Duration};
use tokio_util::sync::CancellationToken;

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const EVENT_PERIOD: Duration = Duration::from_secs(1);

/// Answers every message with itself until one side ends.
pub async fn web_socket(State(app): Shared, upgrade: WebSocketUpgrade) -> Response {
    let stop = app.stop.clone();
    upgrade.on_upgrade(move |socket| async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = echo(socket) => {}
        }
    })
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        let is_content = matches!(message, Message::Text(_) | Message::Binary(_));
        if is_content && socket.send(message).await.is_err() {
            return;
        }
    }
}

/// A call without a session opens one; a call with a session that another replica opened finds
/// nothing.
pub async fn mcp_call(State(app): Shared, headers: HeaderMap) -> Result<Response, ApiError> {
    let body = Json(json!({"jsonrpc": "2.0", "id": null, "result": {}}));
    if headers.contains_key(SESSION) {
        known_session(&app, &headers)?;
        return Ok(body.into_response());
    }
    let session = uuid::Uuid::new_v4().to_string();
    let mut sessions = app.mcp_sessions.lock();
    sessions.insert(session.clone());
    Ok(([(SESSION, session)], body).into_response())
}

/// One event each second, so that buffering on the way shows.
pub async fn mcp_stream(
    State(app): Shared,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    known_session(&app, &headers)?;
    Ok(Sse::new(ticks(app.stop.clone())))
}

fn ticks(stop: CancellationToken) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((0_u64, stop), |(count, stop)| async move {
        if count > 0 {
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(EVENT_PERIOD) => {}
            }
        }
        Some((
            Ok(Event::default().data(count.to_string())),
            (count + 1, stop),
        ))
    })
}

fn known_session(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let sessions = app.mcp_sessions.lock();
    let session = headers.get(SESSION).and_then(|value| value.to_str().ok());
    if session.is_some_and(|session| sessions.contains(session)) {
        Ok(())
    } else {
        Err(ApiError::NotFound)
    }
}
