//! A key pair made for this run, and licenses signed with it.

use serde_json::{Value, json};
use std::sync::LazyLock;
use testkit::license::{Signer, claims};

/// The one whose public half the server is given.
pub static SIGNER: LazyLock<Signer> = LazyLock::new(Signer::generate);

/// A good license with some claims changed; null takes one away.
pub fn license(changes: &Value) -> String {
    SIGNER.sign(&claims(changes))
}

/// A good license under another header.
pub fn license_with_header(header: &Value) -> String {
    SIGNER.sign_under(header, &claims(&json!({})))
}

/// A good license that another key has signed.
pub fn forged_license() -> String {
    Signer::generate().sign(&claims(&json!({})))
}
