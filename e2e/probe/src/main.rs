//! Proves a cluster's network from inside a pod. It needs nothing but its own static binary, so it
//! also proves that an image made of one such binary runs, and resolves names, on this cluster.
//!
//! - `probe serve PORT` answers every HTTP request with the name of its pod;
//! - `probe check [http://HOST:PORT | postgres://HOST:PORT]…` ends with 0 once every address has
//!   answered in its protocol, and with 1 and the last error after [`PATIENCE`];
//! - `probe say WORD…` prints the words and then does nothing until it is ended.
#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::env;
use std::io::{Error, ErrorKind, Read, Result, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

/// How long an address may refuse before the check gives up: a Service serves a moment after its
/// pods are ready.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// The first message of a PostgreSQL session that asks for TLS: its length, 8, and the request
/// code. Every PostgreSQL answers with the single byte `S` or `N`, before any authentication.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        ["serve", port] => serve(port),
        ["check", addresses @ ..] => addresses.iter().try_for_each(|address| check(address)),
        ["say", words @ ..] => {
            println!("{}", words.join(" "));
            loop {
                thread::park();
            }
        }
        _ => Err(Error::new(
            ErrorKind::InvalidInput,
            "usage: probe serve PORT | check URL… | say WORD…",
        )),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(port: &str) -> Result<()> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    // Kubernetes sets HOSTNAME to the pod's name.
    let name = env::var("HOSTNAME").unwrap_or_default();
    for stream in listener.incoming() {
        if let Err(error) = stream.and_then(|stream| answer(stream, &name)) {
            println!("a client went away: {error}");
        }
    }
    Ok(())
}

fn answer(mut stream: TcpStream, name: &str) -> Result<()> {
    stream.set_read_timeout(Some(ATTEMPT))?;
    let mut request = [0; 1024];
    // Whatever was asked, the answer is the same, so the rest of the request does not matter.
    let _length = stream.read(&mut request)?;
    write!(
        stream,
        "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{name}",
        name.len()
    )
}

fn check(address: &str) -> Result<()> {
    let start = Instant::now();
    loop {
        match attempt(address) {
            Ok(answer) => {
                println!("{address} answers: {answer}");
                return Ok(());
            }
            Err(error) if start.elapsed() > PATIENCE => {
                return Err(Error::new(error.kind(), format!("{address}: {error}")));
            }
            Err(error) => println!("{address}: {error}"),
        }
        thread::sleep(Duration::from_millis(250));
    }
}

fn attempt(address: &str) -> Result<String> {
    if let Some(server) = address.strip_prefix("postgres://") {
        let mut stream = connect(server)?;
        stream.write_all(&SSL_REQUEST)?;
        let mut reply = [0];
        stream.read_exact(&mut reply)?;
        return match reply {
            [b'S' | b'N'] => Ok(format!("PostgreSQL ({})", char::from(reply[0]))),
            [other] => Err(Error::other(format!(
                "not PostgreSQL: replied with byte {other}"
            ))),
        };
    }
    let server = address
        .strip_prefix("http://")
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "neither http:// nor postgres://"))?;
    let mut stream = connect(server)?;
    write!(stream, "GET / HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    if reply.starts_with("HTTP/1.0 200") || reply.starts_with("HTTP/1.1 200") {
        Ok(reply.lines().last().unwrap_or_default().to_owned())
    } else {
        Err(Error::other(format!(
            "not an HTTP 200: {}",
            reply.lines().next().unwrap_or_default()
        )))
    }
}

fn connect(server: &str) -> Result<TcpStream> {
    let mut last = Error::new(ErrorKind::NotFound, "the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, ATTEMPT) {
            Ok(stream) => {
                stream.set_read_timeout(Some(ATTEMPT))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
