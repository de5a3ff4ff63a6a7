//! An accepted connection string means the same after a round trip, and does not show its password.
#![no_main]

use bytebase_contract::pg_url::PgUrl;
use libfuzzer_sys::fuzz_target;
use secrecy::ExposeSecret;

fuzz_target!(|text: &str| match PgUrl::parse(text) {
    Ok(url) => {
        let uri = url.to_uri();
        // Encoding lengthens: a text near the limit may not fit any more.
        if uri.expose_secret().len() <= 16 * 1024 {
            assert!(PgUrl::parse(uri.expose_secret()).is_ok_and(|again| again == url));
        }
        drop(format!(
            "{url:?} {} {:?}",
            url.identity_hint(),
            url.effective_ssl_mode()
        ));
    }
    Err(error) => drop(error.to_string()),
});
