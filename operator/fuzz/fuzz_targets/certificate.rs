//! Certificates and bundles of them come from users and from servers.

#![no_main]

use bytebase_contract::ca_bundle::CaBundle;
use bytebase_contract::certificate::Certificate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(certificate) = Certificate::parse(data) {
        assert!(certificate.signed.len() < data.len());
        assert!(matches!(certificate.version, 1..=u8::MAX));
    }
    let _ = CaBundle::parse(data);
});
