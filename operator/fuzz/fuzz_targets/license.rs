//! Any text is read; any payload in a well-formed token is too, and only claims come out.
#![no_main]

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytebase_contract::license::License;
use libfuzzer_sys::fuzz_target;

/// `{"alg":"RS256","kid":"v1"}`.
const HEADER: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InYxIn0";

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = License::decode(text).map_err(|error| error.to_string());
    }
    let token = format!("{HEADER}.{}.e30", BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let _ = License::decode(&token).map(|license| format!("{license:?}"));
});
