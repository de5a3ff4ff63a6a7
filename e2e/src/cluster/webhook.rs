//! Admission webhooks that this process serves. The API server asks them through the gateway of the
//! cluster's network, as pods ask PostgreSQL.

use anyhow::{Context as _, Result};
use axum::Json;
use axum::Router;
use axum::routing::post;
use axum::serve::Listener;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use testkit::certificates::{Authority, Certified};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// A failed accept is tried again after this long.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Changes an object before it is stored. It is asked about what it has changed already, too, and
/// must leave that as it is.
pub type Mutate = fn(&mut Value);

/// A webhook that is served until this is dropped.
#[derive(Debug)]
pub struct Webhook {
    address: SocketAddr,
    /// What its certificate is verified with, as PEM.
    authority: String,
    _serving: JoinSet<()>,
}

impl Webhook {
    /// One at this address that allows everything and changes it in this way.
    pub async fn mutating(host: &str, mutate: Mutate) -> Result<Self> {
        let authority = Authority::new("webhook CA");
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let tls = Tls {
            listener,
            acceptor: acceptor(&authority.certify(&[host]))?,
        };
        let asked =
            post(move |Json(review): Json<Value>| async move { Json(answer(&review, mutate)) });
        let serving = serve(async move {
            // It ends only by being dropped.
            let _ = axum::serve(tls, Router::new().route("/", asked)).await;
        });
        Ok(Self {
            address,
            authority: authority.certificate(),
            _serving: serving,
        })
    }

    /// One at this address that takes connections and stays silent.
    pub async fn silent(host: &str) -> Result<Self> {
        let listener = TcpListener::bind((host, 0)).await?;
        let address = listener.local_addr()?;
        let serving = serve(async move {
            let mut taken = Vec::new();
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => taken.push(stream),
                    Err(_) => sleep(ACCEPT_AGAIN).await,
                }
            }
        });
        Ok(Self {
            address,
            authority: Authority::new("webhook CA").certificate(),
            _serving: serving,
        })
    }

    /// What a webhook configuration calls it by.
    pub fn client_config(&self) -> Value {
        json!({
            "url": format!("https://{}/", self.address),
            "caBundle": STANDARD.encode(&self.authority),
        })
    }
}

fn serve(serving: impl Future<Output = ()> + Send + 'static) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(serving);
    tasks
}

/// A listener whose connections speak TLS.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let Ok((stream, address)) = self.listener.accept().await else {
                sleep(ACCEPT_AGAIN).await;
                continue;
            };
            // The API server is the only one that asks, so the next may wait for this handshake.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

fn acceptor(server: &Certified) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_slice(server.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes());
    let configuration = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.context("the webhook's certificate")?],
            key.context("the webhook's key")?,
        )?;
    Ok(TlsAcceptor::from(Arc::new(configuration)))
}

/// The answer to a review: allowed, with a patch where something is to change.
fn answer(review: &Value, mutate: Mutate) -> Value {
    let request = &review["request"];
    let before = &request["object"];
    let mut after = before.clone();
    mutate(&mut after);
    let mut response = json!({"uid": request["uid"], "allowed": true});
    let mut patch = Vec::new();
    differences(before, &after, "", &mut patch);
    if !patch.is_empty() {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(Value::from(patch).to_string()));
    }
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})
}

/// Notes the fields that differ or are new; a list that differs is replaced as a whole. Nothing is
/// removed.
fn differences(before: &Value, after: &Value, at: &str, patch: &mut Vec<Value>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (name, part) in after {
                let field = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                match before.get(name) {
                    Some(known) => differences(known, part, &field, patch),
                    None => patch.push(json!({"op": "add", "path": field, "value": part})),
                }
            }
        }
        (before, after) if before != after => {
            patch.push(json!({"op": "replace", "path": at, "value": after}));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_rustls::TlsConnector;

    fn marks(object: &mut Value) {
        object["metadata"]["annotations"]["marked"] = json!("yes");
    }

    fn review(object: &Value) -> Value {
        json!({"request": {"uid": "u", "object": object}})
    }

    #[test]
    fn only_what_differs_is_patched() -> Result<()> {
        let list = json!([{"a": 1}]);
        let object = json!({"metadata": {"annotations": {"x/y": "no", "z": "kept"}}, "list": list});
        let response = answer(&review(&object), |object| {
            object["metadata"]["annotations"]["x/y"] = json!("yes");
            object["metadata"]["labels"]["new"] = json!("yes");
            object["list"] = json!([{"a": 2}]);
        });
        let response = &response["response"];
        assert_eq!(response["uid"], "u");
        assert_eq!(response["allowed"], true);
        assert_eq!(response["patchType"], "JSONPatch");
        let patch = STANDARD.decode(response["patch"].as_str().context("no patch")?)?;
        assert_eq!(
            serde_json::from_slice::<Value>(&patch)?,
            json!([
                {"op": "replace", "path": "/list", "value": [{"a": 2}]},
                {"op": "replace", "path": "/metadata/annotations/x~1y", "value": "yes"},
                {"op": "add", "path": "/metadata/labels", "value": {"new": "yes"}},
            ])
        );
        let marked = json!({"metadata": {"annotations": {"marked": "yes"}}});
        let response = answer(&review(&marked), marks)["response"].clone();
        assert_eq!(response, json!({"uid": "u", "allowed": true}));
        Ok(())
    }

    #[tokio::test]
    async fn it_is_asked_by_what_its_configuration_says() -> Result<()> {
        let webhook = Webhook::mutating("127.0.0.1", marks).await?;
        let client = webhook.client_config();
        let url = client["url"].as_str().context("no url")?;
        let address = url.trim_start_matches("https://").trim_end_matches('/');
        let authority = STANDARD.decode(client["caBundle"].as_str().context("no bundle")?)?;
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&authority)?)?;
        let configuration = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(address).await?;
        let connector = TlsConnector::from(Arc::new(configuration));
        let name = ServerName::try_from("127.0.0.1")?;
        let mut stream = connector.connect(name, stream).await?;
        let body = review(&json!({"metadata": {}})).to_string();
        let head = format!(
            "POST /?timeout=5s HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let answer = String::from_utf8(answer)?;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.contains(r#""patchType":"JSONPatch""#), "{answer}");
        Ok(())
    }
}
