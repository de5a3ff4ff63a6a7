//! The messages of a login, each bounded before there is room for it.

use crate::error::{Error, Refusal, sqlstate};
use crate::scram::{MECHANISM, Scram};
use bytebase_contract::pg_url::{PgUrl, TargetSessionAttrs};
use bytes::BytesMut;
use fallible_iterator::FallibleIterator as _;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::message::backend::{ErrorFields, Header, Message};
use postgres_protocol::message::frontend;
use secrecy::ExposeSecret as _;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest message of a login. The longest that PostgreSQL sends are errors.
const MAX_MESSAGE: i32 = 64 * 1024;

/// Messages of a login and its check. PostgreSQL sends about twenty; a login trigger may raise
/// notices.
const MAX_MESSAGES: u32 = 1_000;

/// Bytes of a login and its check. PostgreSQL sends about one thousand, and a login trigger may
/// raise notices.
const MAX_BYTES: usize = 256 * 1024;

/// The parameters that are kept: what is read here, and what sqlx reads.
const PARAMETERS: [&str; 6] = [
    "server_version",
    "client_encoding",
    "in_hot_standby",
    "crdb_version",
    "mz_version",
    "questdb_version",
];

/// Bytes of the value of one that is kept. A version with the name of its distribution is the
/// longest.
const MAX_VALUE: usize = 256;

/// What a session is called. The driver's name for it is not sent: the session is not Bytebase's.
const LABEL: &str = "application_name";

/// What sqlx reads, whatever the string or the server asks for.
const ENCODING: &str = "UTF8";

/// A stream to a server, encrypted or not.
pub trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// An authenticated stream that is ready for a query.
pub struct Session {
    pub(crate) wire: Wire,
    /// What the server said of itself, in its order, as far as it is read.
    pub(crate) parameters: Vec<(String, String)>,
    /// The server's TLS certificate is of X.509 version 1, which holds no names: `verify-full`
    /// refuses it.
    pub has_version_1_certificate: bool,
}

impl Session {
    /// A parameter that the server reported, such as `server_version`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    /// Whether the server is of this kind, by the driver's own question.
    pub(crate) async fn check(&mut self, attrs: TargetSessionAttrs) -> Result<(), Error> {
        use TargetSessionAttrs::{Any, PreferStandby, Primary, ReadOnly, ReadWrite, Standby};
        const READ_ONLY: &str = "show transaction_read_only";
        const IN_RECOVERY: &str = "select pg_is_in_recovery()";
        let (question, yes, wanted) = match attrs {
            Any => return Ok(()),
            ReadWrite => (READ_ONLY, "on", false),
            ReadOnly => (READ_ONLY, "on", true),
            Primary => (IN_RECOVERY, "t", false),
            Standby | PreferStandby => (IN_RECOVERY, "t", true),
        };
        let answer = self.wire.ask(question).await?.ok_or(GARBAGE)?;
        if (answer == yes.as_bytes()) == wanted {
            return Ok(());
        }
        // PostgreSQL 14 and later report it unasked.
        let reported = self.parameter("in_hot_standby") == Some("on");
        self.wire.leave().await;
        Err(Error::Unfit {
            is_standby: reported || (question == IN_RECOVERY && answer == b"t"),
        })
    }

    /// Takes leave of the server, so that it logs nothing.
    pub async fn close(mut self) {
        self.wire.leave().await;
    }
}

/// Logs in over a stream, with the words that the driver uses.
pub async fn start(stream: Box<dyn Transport>, url: &PgUrl, label: &str) -> Result<Session, Error> {
    let mut wire = Wire::new(stream);
    let mut parameters = vec![("user", url.user.as_str())];
    if !url.database.is_empty() {
        parameters.push(("database", &url.database));
    }
    let settings = url.runtime_params.iter();
    let settings = settings.filter(|(name, _)| !name.eq_ignore_ascii_case(LABEL));
    parameters.extend(settings.map(|(name, value)| (name.as_str(), value.as_str())));
    parameters.push((LABEL, label));
    wire.send(|buffer| frontend::startup_message(parameters, buffer))
        .await?;
    let mut session = wire.authenticate(url).await?;
    let encoding = session.parameter("client_encoding");
    if encoding.is_some_and(|encoding| encoding != ENCODING) {
        session.wire.ask("set client_encoding = 'UTF8'").await?;
    }
    Ok(session)
}

/// A stream of messages.
pub(crate) struct Wire {
    pub(crate) stream: Box<dyn Transport>,
    /// What was received and is not read yet.
    pub(crate) received: BytesMut,
    messages: u32,
    bytes: usize,
}

impl Wire {
    fn new(stream: Box<dyn Transport>) -> Self {
        Self {
            stream,
            received: BytesMut::new(),
            messages: 0,
            bytes: 0,
        }
    }

    async fn authenticate(mut self, url: &PgUrl) -> Result<Session, Error> {
        let password = url
            .password
            .as_ref()
            .map_or("", |password| password.expose_secret());
        let mut parameters = Vec::new();
        loop {
            match self.receive().await? {
                Message::AuthenticationOk
                | Message::BackendKeyData(_)
                | Message::NoticeResponse(_)
                | Message::NotificationResponse(_) => {}
                Message::AuthenticationCleartextPassword => {
                    self.answer(password.as_bytes()).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(url.user.as_bytes(), password.as_bytes(), body.salt());
                    self.answer(hash.as_bytes()).await?;
                }
                Message::AuthenticationSasl(body) => {
                    let mut offered = body.mechanisms();
                    let spoken = offered.any(|name| Ok(name == MECHANISM));
                    let spoken = spoken.map_err(|_| GARBAGE)?;
                    if !spoken {
                        return Err(Error::Authentication(
                            "the server does not offer SCRAM-SHA-256, the only way of its kind that Bytebase's driver has",
                        ));
                    }
                    self.scram(password).await?;
                }
                Message::AuthenticationGss
                | Message::AuthenticationSspi
                | Message::AuthenticationKerberosV5
                | Message::AuthenticationScmCredential => {
                    return Err(Error::Authentication(
                        "the server asks for a Kerberos login, which Bytebase's driver does not have",
                    ));
                }
                Message::ParameterStatus(body) => {
                    let text =
                        |part: io::Result<&str>| part.map(str::to_owned).map_err(|_| GARBAGE);
                    let name = text(body.name())?;
                    if PARAMETERS.contains(&name.as_str()) {
                        let value = text(body.value())?;
                        if value.len() > MAX_VALUE {
                            return Err(GARBAGE);
                        }
                        parameters.push((name, value));
                    }
                }
                Message::ReadyForQuery(_) => {
                    return Ok(Session {
                        wire: self,
                        parameters,
                        has_version_1_certificate: false,
                    });
                }
                _ => return Err(GARBAGE),
            }
        }
    }

    async fn scram(&mut self, password: &str) -> Result<(), Error> {
        let scram = Scram::new(password)?;
        let first = scram.first();
        self.send(|buffer| frontend::sasl_initial_response(MECHANISM, first.as_bytes(), buffer))
            .await?;
        let Message::AuthenticationSaslContinue(body) = self.receive().await? else {
            return Err(GARBAGE);
        };
        let challenge = scram.challenge(body.data())?;
        let turn = challenge.turn().await;
        // Rounds by the thousand, which nothing else should wait for. Lookups leave threads for it.
        let mut kept = scram;
        let (scram, last) = tokio::task::spawn_blocking(move || {
            let last = kept.last(&challenge);
            // Not before: one that is given up goes on all the same.
            drop(turn);
            (kept, last)
        })
        .await
        .map_err(|_| Error::Authentication("the password exchange broke off"))?;
        self.send(|buffer| frontend::sasl_response(last.as_bytes(), buffer))
            .await?;
        let Message::AuthenticationSaslFinal(body) = self.receive().await? else {
            return Err(GARBAGE);
        };
        scram.finish(body.data())
    }

    async fn answer(&mut self, password: &[u8]) -> Result<(), Error> {
        self.send(|buffer| frontend::password_message(password, buffer))
            .await
    }

    /// Asks one question and returns the first column of the first row, if there is one.
    async fn ask(&mut self, question: &str) -> Result<Option<Vec<u8>>, Error> {
        self.send(|buffer| frontend::query(question, buffer))
            .await?;
        let mut answer = None;
        loop {
            match self.receive().await? {
                Message::DataRow(row) if answer.is_none() => {
                    let first = row.ranges().next().map_err(|_| GARBAGE)?.flatten();
                    let first = first.and_then(|range| row.buffer().get(range));
                    answer = Some(first.unwrap_or_default().to_vec());
                }
                Message::RowDescription(_)
                | Message::DataRow(_)
                | Message::CommandComplete(_)
                | Message::ParameterStatus(_)
                | Message::NotificationResponse(_)
                | Message::NoticeResponse(_) => {}
                Message::ReadyForQuery(_) => return Ok(answer),
                _ => return Err(GARBAGE),
            }
        }
    }

    async fn leave(&mut self) {
        let _ = self
            .send(|buffer| {
                frontend::terminate(buffer);
                Ok(())
            })
            .await;
        let _ = self.stream.shutdown().await;
    }

    async fn send(
        &mut self,
        message: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), Error> {
        let mut buffer = BytesMut::new();
        // A zero byte ends a text; the parser of connection strings lets none through.
        message(&mut buffer).map_err(|_| Error::Protocol("the login cannot be put into words"))?;
        self.stream
            .write_all(&buffer)
            .await
            .map_err(Error::Network)?;
        self.stream.flush().await.map_err(Error::Network)
    }

    /// The next message; an error of the server is an error here.
    async fn receive(&mut self) -> Result<Message, Error> {
        self.messages += 1;
        if self.messages > MAX_MESSAGES {
            return Err(Error::Protocol(
                "the server does not come to the end of the login",
            ));
        }
        loop {
            if let Some(message) = next(&mut self.received)? {
                return match message {
                    Message::ErrorResponse(body) => Err(Error::Refused(refusal(body.fields()))),
                    message => Ok(message),
                };
            }
            let read = self.stream.read_buf(&mut self.received).await;
            let read = read.map_err(Error::Network)?;
            if read == 0 {
                return Err(Error::Network(io::ErrorKind::UnexpectedEof.into()));
            }
            self.bytes += read;
            if self.bytes > MAX_BYTES {
                return Err(Error::Protocol("the server says too much for a login"));
            }
        }
    }
}

const GARBAGE: Error =
    Error::Protocol("the answer to the login is not that of a PostgreSQL server");

/// Takes a message off, once it is there; one that is too long is refused by its head.
pub fn next(received: &mut BytesMut) -> Result<Option<Message>, Error> {
    if let Some(header) = Header::parse(received).map_err(|_| GARBAGE)?
        && header.len() > MAX_MESSAGE
    {
        return Err(Error::Protocol(
            "the server announces a message that is too long for a login",
        ));
    }
    Message::parse(received).map_err(|_| GARBAGE)
}

fn refusal(mut fields: ErrorFields<'_>) -> Refusal {
    let mut refusal = Refusal {
        code: String::new(),
        message: String::new(),
        routine: None,
    };
    while let Ok(Some(field)) = fields.next() {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => sqlstate(&text()).clone_into(&mut refusal.code),
            b'M' => refusal.message = text(),
            b'R' => refusal.routine = Some(text()),
            _ => {}
        }
    }
    refusal
}
