//! Any text is read; any payload in a well-formed token is too, and only claims come out.
#![no_main]

use bytebase_operator_fuzz::contract::license::License;
use libfuzzer_sys::fuzz_target;

/// `{"alg":"RS256","kid":"v1"}`.
const HEADER: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InYxIn0";

fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = License::decode(text).map_err(|error| error.to_string());
    }
    let token = format!("{HEADER}.{}.e30", base64url(bytes));
    let _ = License::decode(&token).map(|license| format!("{license:?}"));
});

fn base64url(bytes: &[u8]) -> String {
    const SYMBOLS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - group.len()));
        for index in 0..=group.len() {
            text.push(char::from(SYMBOLS[bits >> (18 - 6 * index) & 63]));
        }
    }
    text
}
