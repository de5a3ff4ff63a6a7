//! Certificates and bundles of them come from users and from servers.

#![no_main]

use bytebase_contract::ca_bundle::CaBundle;
use bytebase_contract::certificate::Certificate;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Some(certificate) = Certificate::parse(data) {
        assert!(certificate.signed.len() < data.len());
        assert!(matches!(certificate.version, 1..=3));
        let _ = certificate.may_vouch_for_servers() && certificate.may_stand_above(1);
    }
    if let Ok(bundle) = CaBundle::parse(data) {
        let again = CaBundle::parse(bundle.to_pem().as_bytes()).unwrap();
        assert_eq!(again.certificates(), bundle.certificates());
        assert!(again.skipped.is_empty());
    }
});
