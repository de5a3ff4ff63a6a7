//! A key pair made for this run, and licenses signed with it.

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::{AsDer as _, PublicKeyX509Der},
    rand::SystemRandom,
    rsa::KeySize,
    signature::{
        KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RSA_PSS_SHA256,
        RsaEncoding, RsaKeyPair,
    },
};
use serde_json::{Value, json};

static KEY: LazyLock<RsaKeyPair> =
    LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());

/// The public half as PEM.
pub static PUBLIC_KEY: LazyLock<String> = LazyLock::new(|| {
    let der: PublicKeyX509Der<'_> = KEY.public_key().as_der().unwrap();
    let body = base64(der.as_ref(), *b"+/");
    let padding = "=".repeat((4 - body.len() % 4) % 4);
    format!("-----BEGIN PUBLIC KEY-----\n{body}{padding}\n-----END PUBLIC KEY-----\n")
});

/// A good license with some claims changed; null takes one away.
pub fn license(changes: &Value) -> String {
    signed(
        &json!({"alg": "RS256", "kid": "v1", "typ": "JWT"}),
        &claims(changes),
        &KEY,
    )
}

/// A good license under another header.
pub fn license_with_header(header: &Value) -> String {
    signed(header, &claims(&json!({})), &KEY)
}

/// A good license signed by somebody else.
pub fn forged_license() -> String {
    let key = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    signed(
        &json!({"alg": "RS256", "kid": "v1"}),
        &claims(&json!({})),
        &key,
    )
}

fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": "bytebase", "aud": ["bb.license"], "sub": "somebody", "plan": "ENTERPRISE", "ha": true,
        "trialing": false, "instanceCount": 20, "seat": 100, "orgName": "Example", "workspaceId": "",
    });
    for (key, value) in changes.as_object().unwrap() {
        claims[key] = value.clone();
    }
    claims
        .as_object_mut()
        .unwrap()
        .retain(|_, value| !value.is_null());
    claims
}

fn signed(header: &Value, claims: &Value, key: &RsaKeyPair) -> String {
    let encode = |value: &Value| base64(value.to_string().as_bytes(), *b"-_");
    let message = format!("{}.{}", encode(header), encode(claims));
    let algorithm: &dyn RsaEncoding = match header["alg"].as_str() {
        Some("RS384") => &RSA_PKCS1_SHA384,
        Some("RS512") => &RSA_PKCS1_SHA512,
        Some("PS256") => &RSA_PSS_SHA256,
        _ => &RSA_PKCS1_SHA256,
    };
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(
        algorithm,
        &SystemRandom::new(),
        message.as_bytes(),
        &mut signature,
    )
    .unwrap();
    format!("{message}.{}", base64(&signature, *b"-_"))
}

/// Base64 without padding; the last two characters of its alphabet differ between PEM and tokens.
fn base64(bytes: &[u8], last_two: [u8; 2]) -> String {
    let alphabet: Vec<u8> = (b'A'..=b'Z')
        .chain(b'a'..=b'z')
        .chain(b'0'..=b'9')
        .chain(last_two)
        .collect();
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(*chunk.get(at).unwrap_or(&0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..=chunk.len() {
            let index = bits >> (18 - 6 * at) & 63;
            text.push(char::from(alphabet[index as usize]));
        }
    }
    text
}
