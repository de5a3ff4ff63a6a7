//! What no real server does: a double, written after the description of the protocol
//! (<https://www.postgresql.org/docs/current/protocol-flow.html>), that goes wrong at a chosen
//! step.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    reason = "a failed expectation is the report"
)]

use bytebase_contract::pg_url::{PgUrl, TargetSessionAttrs};
use bytebase_login::plan::Reach;
use bytebase_login::tls::Authorities;
use bytebase_login::{Error, Failed, LoginTo, Lookups, Refusal, log_in};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use testkit::memory::resident_kib;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const PASSWORD: &str = "pl4nted";

/// Where the double goes wrong: in place of its answer to this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    TlsRequest,
    Start,
    Password,
    ScramFirst,
    ScramLast,
    /// What comes once the login is accepted.
    Parameters,
    /// `target_session_attrs`.
    Check,
    /// A question by sqlx.
    Query,
}

const STEPS: [Step; 8] = [
    Step::TlsRequest,
    Step::Start,
    Step::Password,
    Step::ScramFirst,
    Step::ScramLast,
    Step::Parameters,
    Step::Check,
    Step::Query,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Gigabyte,
    Silence,
    Refusal(&'static str),
    /// With the password in each field, and for the SQLSTATE.
    Echo,
    Garbage(&'static [u8]),
    Close,
    /// Without end.
    Notices,
    /// As many and as long as may be, and then the end of the login.
    Parameters,
    /// Of a thousand bytes each, without end.
    Rows,
}

struct Double {
    port: u16,
    connections: Arc<AtomicUsize>,
}

impl Double {
    async fn start(step: Step, fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::Relaxed);
                // Ends with an error when the client goes.
                tokio::spawn(serve(stream, step, fault));
            }
        });
        Self { port, connections }
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

fn refusal(code: &str) -> Vec<u8> {
    let fields = format!("SFATAL\0C{code}\0Mno, {PASSWORD}\0Rauth_failed\0\0");
    message(b'E', fields.as_bytes())
}

fn echo() -> Vec<u8> {
    let kinds = b"SVCMDHpPqWsctdnFLR";
    let fields = kinds.map(|kind| [&[kind][..], PASSWORD.as_bytes(), b"\0"].concat());
    message(b'E', &[&fields.concat()[..], b"\0"].concat())
}

async fn read_start(stream: &mut TcpStream) -> io::Result<u32> {
    let length = stream.read_u32().await?;
    let code = stream.read_u32().await?;
    let mut rest = vec![0; length as usize - 8];
    stream.read_exact(&mut rest).await?;
    Ok(code)
}

async fn read(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    stream.read_u8().await?;
    let length = stream.read_u32().await?;
    let mut body = vec![0; length as usize - 4];
    stream.read_exact(&mut body).await?;
    Ok(body)
}

async fn fail(stream: &mut TcpStream, fault: Fault) -> io::Result<()> {
    match fault {
        Fault::Gigabyte => {
            stream.write_all(&[b'S', 0x40, 0, 0, 0]).await?;
            // It goes on as announced for as long as the client listens.
            loop {
                stream.write_all(&[b'x'; 4096]).await?;
            }
        }
        Fault::Silence => std::future::pending().await,
        Fault::Refusal(code) => stream.write_all(&refusal(code)).await?,
        Fault::Echo => stream.write_all(&echo()).await?,
        Fault::Garbage(bytes) => stream.write_all(bytes).await?,
        Fault::Close => {}
        Fault::Notices => loop {
            stream
                .write_all(&message(b'N', b"SNOTICE\0Mhello\0\0"))
                .await?;
        },
        Fault::Parameters => {
            for number in 0..990 {
                let value = "x".repeat(60_000);
                let parameter = format!("parameter_{number}\0{value}\0");
                stream
                    .write_all(&message(b'S', parameter.as_bytes()))
                    .await?;
            }
            stream.write_all(&message(b'Z', b"I")).await?;
        }
        Fault::Rows => {
            stream.write_all(&description()).await?;
            loop {
                stream.write_all(&row(&"x".repeat(1000))).await?;
            }
        }
    }
    Ok(())
}

async fn serve(mut stream: TcpStream, wrong: Step, fault: Fault) -> io::Result<()> {
    const TLS: u32 = 80_877_103;
    let s = &mut stream;
    if read_start(s).await? == TLS {
        if wrong == Step::TlsRequest {
            return fail(s, fault).await;
        }
        s.write_all(b"N").await?;
        return Ok(());
    }
    if wrong == Step::Start {
        return fail(s, fault).await;
    }
    if matches!(wrong, Step::ScramFirst | Step::ScramLast) {
        s.write_all(&message(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"))
            .await?;
        let first = String::from_utf8(read(s).await?).unwrap();
        if wrong == Step::ScramFirst {
            return fail(s, fault).await;
        }
        let (_, nonce) = first.rsplit_once("r=").unwrap();
        let answer = format!("\0\0\0\x0br={nonce}x,s=AAAA,i=4096");
        s.write_all(&message(b'R', answer.as_bytes())).await?;
        read(s).await?;
        return fail(s, fault).await;
    }
    s.write_all(&message(b'R', &[0, 0, 0, 3])).await?;
    read(s).await?;
    if wrong == Step::Password {
        return fail(s, fault).await;
    }
    s.write_all(&message(b'R', &[0; 4])).await?;
    if wrong == Step::Parameters {
        return fail(s, fault).await;
    }
    s.write_all(&message(b'S', b"server_version\x0015.1\0"))
        .await?;
    s.write_all(&message(b'K', &[0; 8])).await?;
    s.write_all(&message(b'Z', b"I")).await?;
    read(s).await?;
    if wrong == Step::Check {
        return fail(s, fault).await;
    }
    answer(s, "off").await?;
    read(s).await?;
    if wrong == Step::Query {
        return fail(s, fault).await;
    }
    answer(s, "1").await
}

/// Of one column.
fn description() -> Vec<u8> {
    const TEXT: [u8; 18] = [
        0, 0, 0, 0, 0, 0, 0, 0, 0, 25, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0,
    ];
    message(b'T', &[&[0, 1][..], b"c\0", &TEXT].concat())
}

fn row(text: &str) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_be_bytes();
    message(b'D', &[&[0, 1][..], &length, text.as_bytes()].concat())
}

/// One row of one column.
async fn answer(stream: &mut TcpStream, text: &str) -> io::Result<()> {
    let done = message(b'C', b"SELECT 1\0");
    let ready = message(b'Z', b"I");
    let answer = [description(), row(text), done, ready].concat();
    stream.write_all(&answer).await
}

/// What comes of a login and a question after it.
async fn outcome(port: u16, step: Step) -> Result<(), Vec<Failed>> {
    let mode = if step == Step::TlsRequest {
        "require"
    } else {
        "disable"
    };
    let url =
        format!("postgres://u:{PASSWORD}@127.0.0.1:{port}/d?sslmode={mode}&connect_timeout=2");
    by(&PgUrl::parse(&url).unwrap(), Reach::Anywhere).await
}

async fn by(url: &PgUrl, reach: Reach) -> Result<(), Vec<Failed>> {
    let target = LoginTo {
        url,
        authorities: &Authorities::none(),
        certificate: None,
        reach,
        lookups: &Lookups::default(),
        attrs: TargetSessionAttrs::ReadWrite,
        label: "test",
    };
    let session = log_in(&target).await?.session;
    let mut connection = session.into_sqlx().await.unwrap();
    let question = sqlx::raw_sql("SELECT 1").fetch_one(&mut connection);
    let answered = tokio::time::timeout(Duration::from_secs(2), question).await;
    let error = match answered {
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(sqlx::Error::Database(error))) => Error::Refused(Refusal {
            code: error.code().unwrap().into_owned(),
            message: String::new(),
            routine: None,
        }),
        Ok(Err(_)) => Error::Protocol("sqlx"),
        Err(_) => Error::TimedOut(Duration::from_secs(2)),
    };
    Err(vec![Failed {
        host: 0,
        endpoint: None,
        encrypted: false,
        error,
    }])
}

async fn failure(step: Step, fault: Fault) -> Error {
    let double = Double::start(step, fault).await;
    let failures = outcome(double.port, step).await.expect_err("it went wrong");
    let [failed] = <[Failed; 1]>::try_from(failures).unwrap();
    let shown = failed.error.to_string();
    assert!(!shown.contains(PASSWORD), "{shown}");
    failed.error
}

#[tokio::test]
async fn without_a_fault_it_is_a_server() {
    let never = Step::TlsRequest;
    let double = Double::start(never, Fault::Close).await;
    outcome(double.port, Step::Query).await.unwrap();
}

#[tokio::test]
async fn no_spelling_leads_a_login_to_this_machine_where_it_may_not_go() {
    let double = Double::start(Step::TlsRequest, Fault::Close).await;
    let port = double.port;
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0",
        "localhost",
    ] {
        let text = format!("postgres://u:{PASSWORD}@h:{port}/d?sslmode=disable");
        let mut url = PgUrl::parse(&text).unwrap();
        host.clone_into(&mut url.hosts[0].host);
        by(&url, Reach::Anywhere).await.unwrap();
        let led = double.connections.load(Ordering::Relaxed);
        let failures = by(&url, Reach::OtherMachines).await.unwrap_err();
        let [failed] = <[Failed; 1]>::try_from(failures).unwrap();
        assert!(matches!(failed.error, Error::OwnMachine), "{host}");
        assert_eq!(double.connections.load(Ordering::Relaxed), led, "{host}");
    }
    let mut url = PgUrl::parse("postgres://u@h/d").unwrap();
    "/run/postgresql".clone_into(&mut url.hosts[0].host);
    let failures = by(&url, Reach::OtherMachines).await.unwrap_err();
    assert!(matches!(failures[0].error, Error::OwnMachine));
}

#[tokio::test]
async fn a_gigabyte_is_refused_by_its_announcement() {
    let started = Instant::now();
    for step in STEPS {
        let error = failure(step, Fault::Gigabyte).await;
        match step {
            Step::TlsRequest => assert!(matches!(error, Error::Tls(_)), "{error}"),
            _ => assert!(matches!(error, Error::Protocol(_)), "{step:?}: {error}"),
        }
    }
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "it was waited for"
    );
    let shown = failure(Step::Start, Fault::Gigabyte).await.to_string();
    assert!(shown.contains("too long"), "{shown}");
}

#[tokio::test]
async fn silence_ends_after_its_time() {
    let tries = STEPS.map(|step| tokio::spawn(failure(step, Fault::Silence)));
    for (step, tried) in STEPS.into_iter().zip(tries) {
        let error = tried.await.unwrap();
        assert!(matches!(error, Error::TimedOut(_)), "{step:?}: {error}");
    }
}

#[tokio::test]
async fn a_refusal_is_taken_at_each_step() {
    for step in STEPS {
        for code in ["28P01", "57P03", "XX000"] {
            let error = failure(step, Fault::Refusal(code)).await;
            match (step, &error) {
                // Before TLS a server may say anything: it is not taken for its word.
                (Step::TlsRequest, Error::NoTls) => {}
                (_, Error::Refused(refusal)) => {
                    assert_eq!(refusal.code, code);
                    let is_login = step != Step::Query;
                    assert_eq!(refusal.routine.as_deref() == Some("auth_failed"), is_login);
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_gives_the_password_for_a_sqlstate_gives_none() {
    for step in [Step::Start, Step::Password, Step::Parameters, Step::Check] {
        let Error::Refused(refusal) = failure(step, Fault::Echo).await else {
            panic!("{step:?}")
        };
        assert_eq!(refusal.code, "", "{step:?}");
    }
    for code in ["", "28p01", "28P0", "28P012", "28 01", "28P0ä", "28P0\n"] {
        let Error::Refused(refusal) = failure(Step::Start, Fault::Refusal(code)).await else {
            panic!("{code:?}")
        };
        assert_eq!(refusal.code, "", "{code:?}");
    }
}

#[tokio::test]
async fn garbage_is_no_login() {
    let garbage: [&[u8]; 8] = [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"S",
        &[0; 64],
        &[0xff; 64],
        b"R\0\0\0\x04",
        b"R\0\0\0\x08\0\0\0\x63",
        b"R\0\0\0\x03",
        b"D\0\0\0\x06\xff\xff",
    ];
    for step in STEPS {
        for bytes in garbage {
            failure(step, Fault::Garbage(bytes)).await;
        }
        failure(step, Fault::Close).await;
    }
}

#[tokio::test]
async fn notices_without_end_are_no_login() {
    for step in [Step::Start, Step::Password, Step::Parameters, Step::Check] {
        let error = failure(step, Fault::Notices).await;
        assert!(matches!(error, Error::Protocol(_)), "{step:?}: {error}");
    }
}

/// More than the other tests of this program take at the same time.
const ROOM_KIB: u64 = 16 * 1024;

/// The most that the program has taken while this was done, beyond what it took before.
async fn growth_kib<T>(work: impl Future<Output = T>) -> (T, u64) {
    let before = resident_kib();
    let mut most = before;
    let watch = async {
        loop {
            most = most.max(resident_kib());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let done = tokio::select! {
        done = work => done,
        () = watch => unreachable!(),
    };
    (done, most.max(resident_kib()).saturating_sub(before))
}

#[tokio::test]
async fn parameters_by_the_megabyte_are_no_login() {
    for step in [Step::Start, Step::Password, Step::Parameters, Step::Check] {
        let (error, growth) = growth_kib(failure(step, Fault::Parameters)).await;
        let shown = error.to_string();
        assert!(shown.contains("too much"), "{step:?}: {shown}");
        assert!(growth < ROOM_KIB, "{step:?}: {growth} KiB");
    }
}

#[tokio::test]
async fn a_parameter_that_is_kept_is_short() {
    let long = format!("server_version\0{}\0", "1".repeat(257));
    let fault = Fault::Garbage(message(b'S', long.as_bytes()).leak());
    let error = failure(Step::Parameters, fault).await;
    assert!(matches!(error, Error::Protocol(_)), "{error}");
}

#[tokio::test]
async fn rows_without_end_are_no_answer() {
    let (error, growth) = growth_kib(failure(Step::Query, Fault::Rows)).await;
    assert!(matches!(error, Error::Protocol("sqlx")), "{error}");
    assert!(growth < ROOM_KIB, "{growth} KiB");
}

#[tokio::test]
async fn a_server_that_does_not_know_the_password_is_not_believed() {
    for last in [
        &b"\0\0\0\x0cv=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="[..],
        b"\0\0\0\x0ce=invalid-proof",
        b"\0\0\0\0",
    ] {
        let fault = Fault::Garbage(message(b'R', last).leak());
        let error = failure(Step::ScramLast, fault).await;
        assert!(
            matches!(error, Error::Authentication(_) | Error::Protocol(_)),
            "{error}"
        );
    }
}

#[tokio::test]
async fn some_refusals_end_the_search_and_others_do_not() {
    for (code, connections) in [
        ("28P01", 1),
        ("28000", 2),
        ("3D000", 1),
        ("42501", 1),
        ("57P03", 2),
    ] {
        let double = Double::start(Step::Start, Fault::Refusal(code)).await;
        let port = double.port;
        let url = format!("postgres://u@127.0.0.1:{port},127.0.0.1:{port}/d?sslmode=disable");
        let failures = by(&PgUrl::parse(&url).unwrap(), Reach::Anywhere)
            .await
            .unwrap_err();
        assert_eq!(
            double.connections.load(Ordering::Relaxed),
            connections,
            "{code}"
        );
        assert_eq!(failures.len(), connections);
        assert_eq!(failures.last().unwrap().is_final(), connections == 1);
    }
}

#[tokio::test]
async fn an_address_that_is_silent_is_tried_once() {
    let double = Double::start(Step::TlsRequest, Fault::Silence).await;
    let url = format!("postgres://u@127.0.0.1:{}/d?connect_timeout=1", double.port);
    let failures = by(&PgUrl::parse(&url).unwrap(), Reach::Anywhere)
        .await
        .unwrap_err();
    assert_eq!(failures.len(), 1, "not once more in clear text");
    // One that says that it has no TLS is asked again.
    let double = Double::start(Step::Start, Fault::Refusal("57P03")).await;
    let url = format!("postgres://u@127.0.0.1:{}/d", double.port);
    let failures = by(&PgUrl::parse(&url).unwrap(), Reach::Anywhere)
        .await
        .unwrap_err();
    let seen: Vec<_> = failures.iter().map(|failed| failed.encrypted).collect();
    assert_eq!(seen, [true, false]);
}
