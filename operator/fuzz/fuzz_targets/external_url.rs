//! An accepted URL is stable: reading its normal form gives itself.
#![no_main]

use bytebase_contract::external_url::ExternalUrl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| match ExternalUrl::parse(text) {
    Ok(url) => assert_eq!(ExternalUrl::parse(url.as_str()).as_ref(), Ok(&url)),
    Err(error) => drop(error.to_string()),
});
