//! sqlx over a session that is logged in already.
//!
//! sqlx can connect to an address or a Unix socket, and to nothing else. So it connects to a socket
//! inside this process, is answered that it may come in, and from then on a task passes on what
//! either side says. The socket has a name that no file has (an abstract one), which cannot be
//! guessed, and a connection from another process is turned away. It is gone as soon as sqlx is
//! connected.
//!
//! The task reads along as far as the kind and the length of each message, since sqlx makes room
//! for whatever a server announces. What a server says unasked it keeps to itself: sqlx would log
//! notices and collect parameters, of which nothing here makes use.

use crate::error::Error;
use crate::wire::{Session, Transport, Wire};
use bytes::{BufMut as _, BytesMut};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;

/// Bytes of the answer to one question. The longest honest one has some tens of kilobytes: the
/// probe's, with as many heartbeats, sessions and task owners as it asks for.
const MAX_ANSWER: u64 = 256 * 1024;

/// The kinds of messages that a server sends unasked: notices, parameters and notifications.
const UNASKED: [u8; 3] = [b'N', b'S', b'A'];

/// Passed on in one go.
const CHUNK: usize = 4096;

/// Longest that either side may take to take something.
const PATIENCE: Duration = Duration::from_secs(30);

/// To connect inside this process.
const LOCAL: Duration = Duration::from_secs(5);

/// For saying goodbye to a server that may be gone.
const GOODBYE: Duration = Duration::from_secs(1);

impl Session {
    /// The same session as a connection of sqlx.
    pub async fn into_sqlx(self) -> Result<PgConnection, Error> {
        timeout(LOCAL, self.connect())
            .await
            .unwrap_or_else(|_| Err(Error::Network(io::ErrorKind::TimedOut.into())))
    }

    async fn connect(self) -> Result<PgConnection, Error> {
        let name = unguessable_name()?;
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&name)
            .ssl_mode(PgSslMode::Disable)
            .statement_cache_capacity(0)
            .disable_statement_logging();
        // As sqlx puts it together.
        let path = format!("{name}/.s.PGSQL.{}", options.get_port());
        let listener = UnixListener::bind(path).map_err(Error::Network)?;
        let let_in = async {
            let near = accept_own(&listener).await?;
            self.greet(near).await
        };
        let (connection, near) = tokio::join!(options.connect(), let_in);
        let (wire, near) = near.map_err(Error::Network)?;
        let connection =
            connection.map_err(|_| Error::Network(io::ErrorKind::ConnectionAborted.into()))?;
        tokio::spawn(relay(wire, near));
        Ok(connection)
    }

    /// Reads what sqlx begins with, and says that it may come in.
    async fn greet(self, mut near: UnixStream) -> io::Result<(Wire, UnixStream)> {
        let length = near.read_u32().await?.saturating_sub(4);
        let begins = (&mut near).take(length.into());
        tokio::io::copy(&mut { begins }, &mut tokio::io::sink()).await?;
        let mut greeting = BytesMut::new();
        greeting.extend_from_slice(&[b'R', 0, 0, 0, 8, 0, 0, 0, 0]);
        for (name, value) in &self.parameters {
            greeting.put_u8(b'S');
            let length = 4 + name.len() + 1 + value.len() + 1;
            greeting.put_u32(u32::try_from(length).map_err(io::Error::other)?);
            for text in [name, value] {
                greeting.extend_from_slice(text.as_bytes());
                greeting.put_u8(0);
            }
        }
        greeting.extend_from_slice(&[b'Z', 0, 0, 0, 5, b'I']);
        near.write_all(&greeting).await?;
        Ok((self.wire, near))
    }
}

/// Of all names that are no file's; it begins with a zero byte.
fn unguessable_name() -> Result<String, Error> {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| Error::Authentication("no random numbers"))?;
    Ok(format!(
        "\0bytebase-login-{:032x}",
        u128::from_be_bytes(random)
    ))
}

/// Who connects from another process has no business here.
async fn accept_own(listener: &UnixListener) -> io::Result<UnixStream> {
    let own = i32::try_from(std::process::id()).ok();
    loop {
        let (stream, _) = listener.accept().await?;
        if stream.peer_cred()?.pid() == own {
            return Ok(stream);
        }
    }
}

/// Until either side ends it, or the server says too much.
async fn relay(mut wire: Wire, mut near: UnixStream) {
    let _ = pass_on(&mut wire, &mut near).await;
    drop(near);
    let _ = timeout(GOODBYE, wire.stream.shutdown()).await;
}

async fn pass_on(wire: &mut Wire, near: &mut UnixStream) -> io::Result<()> {
    let mut answer = Answer::default();
    let mut next = Some(Part::Answer(wire.received.split().to_vec()));
    wire.received = BytesMut::new();
    while let Some(part) = next {
        match part {
            Part::Question(bytes) => {
                answer.bytes = 0;
                let passed_on = async {
                    wire.stream.write_all(&bytes).await?;
                    wire.stream.flush().await
                };
                timeout(PATIENCE, passed_on).await??;
            }
            Part::Answer(bytes) => {
                let bytes = answer.take(&bytes)?;
                timeout(PATIENCE, near.write_all(&bytes)).await??;
            }
        }
        next = poll_fn(|context| Part::poll(context, near, &mut wire.stream)).await?;
    }
    Ok(())
}

/// What one of the two sides said.
enum Part {
    Question(Vec<u8>),
    Answer(Vec<u8>),
}

impl Part {
    /// `None` when a side has ended. While neither says anything, no room is held for it.
    fn poll(
        context: &mut Context<'_>,
        near: &mut UnixStream,
        far: &mut (impl Transport + ?Sized),
    ) -> Poll<io::Result<Option<Self>>> {
        let mut room = [0; CHUNK];
        let mut said = ReadBuf::new(&mut room);
        let side = if Pin::new(near).poll_read(context, &mut said)?.is_ready() {
            Self::Question
        } else if Pin::new(far).poll_read(context, &mut said)?.is_ready() {
            Self::Answer
        } else {
            return Poll::Pending;
        };
        let said = said.filled();
        Poll::Ready(Ok((!said.is_empty()).then(|| side(said.to_vec()))))
    }
}

/// How much of an answer there was, and where in a message it is.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Since the last question.
    bytes: u64,
    /// Of the present message, yet to come behind its head.
    body: u64,
    /// Of the head: its bytes so far.
    head: [u8; 5],
    seen: usize,
}

/// What is passed on of an answer that comes in these parts.
#[doc(hidden)]
pub fn passed_on<'p>(parts: impl IntoIterator<Item = &'p [u8]>) -> io::Result<Vec<u8>> {
    let mut answer = Answer::default();
    let passed_on = parts.into_iter().map(|part| answer.take(part));
    Ok(passed_on.collect::<io::Result<Vec<_>>>()?.concat())
}

impl Answer {
    /// Follows the messages, and returns what is to be passed on of them; an error for one that is
    /// too long by its own announcement, or by what there was before it.
    pub(crate) fn take(&mut self, mut part: &[u8]) -> io::Result<Vec<u8>> {
        let mut passed_on = Vec::with_capacity(part.len() + self.seen);
        while !part.is_empty() {
            let is_asked_for = !UNASKED.contains(&self.head[0]);
            let within = if self.body > 0 {
                let within = part
                    .len()
                    .min(usize::try_from(self.body).unwrap_or(usize::MAX));
                self.body -= within as u64;
                if is_asked_for {
                    passed_on.extend_from_slice(&part[..within]);
                }
                within
            } else {
                self.head[self.seen] = part[0];
                self.seen += 1;
                if self.seen == self.head.len() {
                    let [_, length @ ..] = self.head;
                    let length = u64::from(u32::from_be_bytes(length));
                    self.body = length.checked_sub(4).ok_or(io::ErrorKind::InvalidData)?;
                    self.seen = 0;
                    if is_asked_for {
                        passed_on.extend_from_slice(&self.head);
                    }
                }
                1
            };
            self.bytes += within as u64;
            if self.bytes + self.body > MAX_ANSWER {
                return Err(io::ErrorKind::FileTooLarge.into());
            }
            part = &part[within..];
        }
        Ok(passed_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(length: u32) -> Vec<u8> {
        let mut message = vec![b'D'];
        message.put_u32(length);
        message
    }

    #[test]
    fn messages_are_followed_wherever_they_are_cut() {
        let mut stream = Vec::new();
        for length in [4_u32, 5, 300, 70_000] {
            stream.extend(message(length));
            stream.resize(stream.len() + length as usize - 4, 0xff);
        }
        for size in [1, 2, 3, 7, 1024, stream.len()] {
            let passed_on = passed_on(stream.chunks(size)).unwrap();
            assert!(passed_on == stream, "{size}");
            let mut answer = Answer::default();
            for part in stream.chunks(size) {
                answer.take(part).unwrap();
            }
            assert_eq!((answer.body, answer.seen), (0, 0), "{size}");
        }
    }

    #[test]
    fn what_a_server_says_unasked_is_not_passed_on() {
        let said = |kind: u8| {
            let mut said = message(104);
            said[0] = kind;
            said.resize(105, kind);
            said
        };
        let stream: Vec<u8> = b"NDSSEAZ".iter().flat_map(|kind| said(*kind)).collect();
        let asked_for: Vec<u8> = b"DEZ".iter().flat_map(|kind| said(*kind)).collect();
        for size in [1, 2, 3, 7, 100, stream.len()] {
            let mut answer = Answer::default();
            let parts = stream.chunks(size).map(|part| answer.take(part).unwrap());
            assert_eq!(parts.collect::<Vec<_>>().concat(), asked_for, "{size}");
            assert_eq!(answer.bytes, stream.len() as u64, "it counts all the same");
        }
    }

    #[test]
    fn what_is_announced_counts_before_it_comes() {
        let mut answer = Answer::default();
        answer.take(&message(1 << 17)).unwrap();
        for length in [1 << 30, u32::MAX, 1 << 18] {
            assert!(
                Answer::default().take(&message(length)).is_err(),
                "{length}"
            );
        }
        assert!(
            Answer::default().take(&message(3)).is_err(),
            "shorter than its own length"
        );
    }

    #[test]
    fn many_short_messages_come_to_an_end_too() {
        let mut answer = Answer::default();
        let row = [message(1004), vec![0; 1000]].concat();
        let fitting = MAX_ANSWER / row.len() as u64;
        for _ in 0..fitting {
            answer.take(&row).unwrap();
        }
        assert!(answer.take(&row).is_err());
        answer.bytes = 0;
        answer.body = 0;
        answer.take(&row).unwrap();
    }
}
