//! The port: what is open, what is not there, and what an ingress must carry.

use crate::support::{
    postgres::Database,
    process::{Server, Setup},
};
use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

#[tokio::test]
async fn probes_metrics_and_profiles_are_open_and_there_is_no_readyz() {
    let database = Database::create().await;
    let server = Setup::replica(&database)
        .arg("--external-url=https://bb.example.com/")
        .start()
        .await;
    for (path, status) in [
        ("/healthz", 200),
        ("/metrics", 200),
        ("/debug/pprof/", 200),
        ("/readyz", 404),
        ("/", 200),
        ("/v1/nothing", 404),
    ] {
        assert_eq!(server.get(path, None).await.0, status, "{path}");
    }
    let (status, info) = server.get("/v1/actuator/info", None).await;
    assert_eq!(status, 200);
    assert_eq!(info["version"], "3.21.1");
    assert_eq!(info["externalUrl"], "https://bb.example.com");
    assert_eq!(info["replicaCount"], 1);
}

#[tokio::test]
async fn answers_name_the_replica_that_gave_them() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    let response = server.request("GET", "/healthz").send().await.unwrap();
    assert_eq!(
        response.headers()["x-bytebase-stub-replica"],
        server.replica_id().as_str()
    );
}

/// Sends bytes and returns the first ones that come back.
fn exchange(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = vec![0; 64];
    let length = stream.read(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

#[tokio::test]
async fn http_2_is_spoken_without_tls() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    // The client's preface and an empty SETTINGS frame; the server answers with SETTINGS, frame
    // type 4.
    let answer = exchange(
        &server,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    );
    assert_eq!(answer.get(3), Some(&4), "{answer:?}");
}

#[tokio::test]
async fn web_sockets_open_on_both_paths() {
    let database = Database::create().await;
    let server = Setup::replica(&database).start().await;
    for path in ["/lsp", "/v1:adminExecute"] {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: bb\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        let answer = exchange(&server, request.as_bytes());
        assert!(answer.starts_with(b"HTTP/1.1 101"), "{path}");
    }
}

#[tokio::test]
async fn mcp_sessions_live_on_one_replica_only() {
    let database = Database::create().await;
    let (first, second) = (
        Setup::replica(&database).start().await,
        Setup::replica(&database).start().await,
    );
    let opened = first.request("POST", "/mcp").send().await.unwrap();
    let session = opened.headers()["mcp-session-id"].clone();
    let call = async |server: &Server| {
        let request = server
            .request("POST", "/mcp")
            .header("mcp-session-id", &session);
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(call(&first).await, 200);
    assert_eq!(call(&second).await, 404);
    let mut stream = first
        .request("GET", "/mcp")
        .header("mcp-session-id", &session)
        .send()
        .await
        .unwrap();
    let event = stream.chunk().await.unwrap().unwrap();
    assert!(event.starts_with(b"data: 0"), "{event:?}");
}
