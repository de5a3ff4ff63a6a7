//! Whatever a server sends, a login neither panics nor goes on without end, and the error does not
//! quote it.

#![no_main]

use bytebase_contract::pg_url::PgUrl;
use bytebase_login::{Error, wire};
use libfuzzer_sys::fuzz_target;
use std::io::Cursor;
use std::sync::LazyLock;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

static URL: LazyLock<PgUrl> =
    LazyLock::new(|| PgUrl::parse("postgres://u:p@h/d?search_path=s").expect("a string"));

fuzz_target!(|data: &[u8]| {
    let server = tokio::io::join(Cursor::new(data.to_vec()), tokio::io::sink());
    let outcome = RUNTIME.block_on(wire::start(Box::new(server), &URL, "fuzz"));
    if let Err(error) = outcome
        && !matches!(error, Error::Refused(_))
    {
        assert!(error.to_string().len() < 200);
    }
});
