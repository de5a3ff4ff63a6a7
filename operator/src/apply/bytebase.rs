//! Calls to Bytebase's own API: the first sign-up, and installing the license.

use crate::decide::plan::{BytebaseCall, BytebaseRequest};
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

/// Bytebase answers a sign-up within a second; a replica under load may take longer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest answer that is read, in bytes; one with a token has about a thousand.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Why a call came to nothing. No message holds a secret: bodies of answers are not quoted.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nothing answered.
    #[error("Bytebase does not answer at {0}")]
    Unreachable(String),
    /// The login was refused.
    #[error(
        "Bytebase refuses the admin's email or password (HTTP {0}): check the Secret in admin.credentialsSecretRef"
    )]
    Login(StatusCode),
    /// The workspace lets accounts in by single sign-on alone.
    #[error(
        "Bytebase takes no password of the account in admin.credentialsSecretRef (HTTP {0}): where the workspace lets accounts in by single sign-on alone, install the license in Bytebase yourself"
    )]
    PasswordLogin(StatusCode),
    /// The login needs more than a password.
    #[error(
        "Bytebase asks the account in admin.credentialsSecretRef for a second factor, which the operator cannot give: name an account there without one that has the workspace admin role, or install the license in Bytebase yourself"
    )]
    SecondFactor,
    /// The account may not install a license.
    #[error(
        "the account in admin.credentialsSecretRef may not install a license (HTTP {0}): it needs the workspace admin role"
    )]
    Rights(StatusCode),
    /// The license was refused.
    #[error("Bytebase refuses the license (HTTP {0}): it is not valid for this workspace")]
    License(StatusCode),
    /// The sign-up was refused.
    #[error(
        "Bytebase refuses the sign-up of the first admin (HTTP {0}): check email and password, it may ask for a longer one"
    )]
    SignUp(StatusCode),
    /// The account is there, but no workspace: an earlier sign-up broke off in between.
    #[error(
        "Bytebase has an account of the admin's email already, but no workspace (HTTP {0}), as when a sign-up breaks off: give admin.credentialsSecretRef another email, or sign up in Bytebase yourself"
    )]
    HalfSignedUp(StatusCode),
    /// The operator itself failed.
    #[error(
        "the operator failed to call Bytebase, which is a defect of the operator: its log says more"
    )]
    Defect,
    /// Something else.
    #[error("Bytebase answered {what} with HTTP {status}")]
    Other {
        /// Which call.
        what: &'static str,
        /// Status code.
        status: StatusCode,
    },
}

impl CallError {
    /// Bytebase understood the call and said no: the same call will not do better.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Login(_)
            | Self::PasswordLogin(_)
            | Self::SecondFactor
            | Self::Rights(_)
            | Self::License(_)
            | Self::SignUp(_)
            | Self::HalfSignedUp(_) => true,
            Self::Unreachable(_) | Self::Defect | Self::Other { .. } => false,
        }
    }
}

/// The answer to a login that was not refused. Where a second factor is asked for, its token is
/// empty or missing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LoginAnswer {
    token: Option<SecretString>,
    /// By which a login goes on with the second factor.
    mfa_temp_token: Option<SecretString>,
}

/// A client that follows no redirect and uses no proxy: the password goes to the replica and
/// nowhere else.
pub fn client() -> Result<Client, reqwest::Error> {
    Client::builder()
        .timeout(TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        // Pods come and go, and an address may have another owner by the next call.
        .pool_max_idle_per_host(0)
        .build()
}

/// Performs a call.
pub async fn perform(client: &Client, call: &BytebaseCall) -> Result<(), CallError> {
    let base = &format!("http://{}", call.replica);
    match &call.request {
        BytebaseRequest::CreateFirstAdmin { email, password } => {
            let body = json!({
                "email": email.expose_secret(),
                "password": password.expose_secret(),
                "title": "Admin",
            });
            let answer = send(
                client.post(format!("{base}/v1/auth/signup")).json(&body),
                base,
            )
            .await?;
            match answer.status() {
                status if status.is_success() => Ok(()),
                status @ StatusCode::CONFLICT => Err(CallError::HalfSignedUp(status)),
                status if is_refusal(status) => Err(CallError::SignUp(status)),
                status => Err(CallError::Other {
                    what: "the sign-up",
                    status,
                }),
            }
        }
        BytebaseRequest::InstallLicense {
            email,
            password,
            token,
        } => {
            let login = log_in(client, base, email, password).await?;
            let body = json!({ "license": token.expose_secret() });
            let request = client
                .patch(format!("{base}/v1/subscription/license"))
                .bearer_auth(login.expose_secret())
                .json(&body);
            // That it is Bytebase has been shown by the login.
            let answer = request.send().await;
            let answer = answer.map_err(|_| CallError::Unreachable(base.to_owned()))?;
            match answer.status() {
                status if status.is_success() => Ok(()),
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                    Err(CallError::Rights(status))
                }
                StatusCode::BAD_REQUEST => Err(CallError::License(StatusCode::BAD_REQUEST)),
                status => Err(CallError::Other {
                    what: "the license",
                    status,
                }),
            }
        }
    }
}

async fn log_in(
    client: &Client,
    base: &str,
    email: &SecretString,
    password: &SecretString,
) -> Result<SecretString, CallError> {
    let body = json!({
        "email": email.expose_secret(),
        "password": password.expose_secret(),
    });
    let answer = send(
        client.post(format!("{base}/v1/auth/login")).json(&body),
        base,
    )
    .await?;
    let status = answer.status();
    if is_refusal(status) {
        return Err(match status {
            StatusCode::FORBIDDEN => CallError::PasswordLogin(status),
            _ => CallError::Login(status),
        });
    }
    if !status.is_success() {
        return Err(CallError::Other {
            what: "the login",
            status,
        });
    }
    let body = bounded(answer).await;
    let login = body.and_then(|body| serde_json::from_slice::<LoginAnswer>(&body).ok());
    let is_given = |token: &SecretString| !token.expose_secret().is_empty();
    match login {
        Some(LoginAnswer {
            token: Some(token), ..
        }) if is_given(&token) => Ok(token),
        Some(LoginAnswer {
            mfa_temp_token: Some(temporary),
            ..
        }) if is_given(&temporary) => Err(CallError::SecondFactor),
        _ => Err(CallError::Other {
            what: "the login without a token",
            status,
        }),
    }
}

/// Whether Bytebase, or what stands before it, has understood a call and said no. The other codes
/// of this class ask for the same call later.
fn is_refusal(status: StatusCode) -> bool {
    status.is_client_error()
        && !matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS
        )
}

/// The body of an answer, unless it is longer than any answer with a token: another process that
/// has a pod's address may send without end.
async fn bounded(mut answer: Response) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(part) = answer.chunk().await.ok()? {
        if body.len() + part.len() > LONGEST_ANSWER {
            return None;
        }
        body.extend_from_slice(&part);
    }
    Some(body)
}

async fn send(request: reqwest::RequestBuilder, base: &str) -> Result<Response, CallError> {
    let answer = request.send().await;
    match answer {
        // Bytebase knows these paths, so one that does not is the next owner of a pod's address.
        Ok(answer) if answer.status() != StatusCode::NOT_FOUND => Ok(answer),
        _ => Err(CallError::Unreachable(base.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    /// Answers one request with this body, again and again without end, and says how many bytes it
    /// got rid of before the other side hung up.
    async fn endless(body: &'static str) -> (SocketAddr, tokio::task::JoinHandle<usize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let sending = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
            stream.write_all(head).await.unwrap();
            let mut sent = 0;
            while stream.write_all(body.as_bytes()).await.is_ok() {
                sent += body.len();
            }
            sent
        });
        (address, sending)
    }

    /// Answers one request with this status and body.
    async fn answering(status: u16, body: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            let length = body.len();
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
            // To close it with something unread would take the answer back.
            while stream
                .read(&mut [0; 4096])
                .await
                .is_ok_and(|bytes| bytes > 0)
            {}
        });
        address
    }

    #[tokio::test]
    async fn only_an_answer_that_says_no_blames_the_login() {
        let (email, password) = (
            SecretString::from("admin@example.com"),
            SecretString::from("p"),
        );
        let requests = [
            BytebaseRequest::CreateFirstAdmin {
                email: email.clone(),
                password: password.clone(),
            },
            BytebaseRequest::InstallLicense {
                email,
                password,
                token: "t".into(),
            },
        ];
        for (status, refused) in [
            (400, true),
            (401, true),
            (403, true),
            (409, true),
            (408, false),
            (425, false),
            (429, false),
            (500, false),
            (503, false),
        ] {
            for request in &requests {
                let call = BytebaseCall {
                    replica: answering(status, "").await,
                    request: request.clone(),
                };
                let error = perform(&client().unwrap(), &call).await.unwrap_err();
                assert_eq!(error.is_refusal(), refused, "{status}: {error}");
                assert!(error.to_string().contains(&status.to_string()), "{error}");
            }
        }
    }

    #[tokio::test]
    async fn a_refusal_names_its_own_cause() {
        let sign_up = |replica| BytebaseCall {
            replica,
            request: BytebaseRequest::CreateFirstAdmin {
                email: "admin@example.com".into(),
                password: "p".into(),
            },
        };
        let said = async |call| perform(&client().unwrap(), &call).await.unwrap_err();
        for (status, words) in [(400, "a longer one"), (409, "but no workspace")] {
            let error = said(sign_up(answering(status, "").await)).await;
            assert!(error.to_string().contains(words), "{status}: {error}");
        }
        for (status, words) in [(401, "check the Secret"), (403, "single sign-on")] {
            let error = said(install(answering(status, "").await)).await;
            assert!(error.to_string().contains(words), "{status}: {error}");
        }
    }

    fn install(replica: SocketAddr) -> BytebaseCall {
        BytebaseCall {
            replica,
            request: BytebaseRequest::InstallLicense {
                email: "admin@example.com".into(),
                password: "p".into(),
                token: "t".into(),
            },
        }
    }

    #[tokio::test]
    async fn a_login_that_asks_for_a_second_factor_says_so() {
        for (body, is_asked) in [
            (r#"{"mfaTempToken":"m"}"#, true),
            (
                r#"{"token":"","mfaTempToken":"m","requireResetPassword":false}"#,
                true,
            ),
            (r#"{"token":"","mfaTempToken":null}"#, false),
            ("{}", false),
        ] {
            let call = install(answering(200, body).await);
            let error = perform(&client().unwrap(), &call).await.unwrap_err();
            assert_eq!(error.is_refusal(), is_asked, "{body}: {error}");
            let message = error.to_string();
            assert_eq!(message.contains("second factor"), is_asked, "{message}");
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let (replica, sending) = endless("                                ").await;
        let call = install(replica);
        let result = perform(&client().unwrap(), &call).await;
        assert!(
            matches!(
                result,
                Err(CallError::Other {
                    what: "the login without a token",
                    ..
                })
            ),
            "{result:?}"
        );
        // What the sockets hold on both sides comes on top.
        let sent = sending.await.unwrap();
        assert!(sent < 32 * 1024 * 1024, "{sent} bytes");
    }
}
