//! Licenses signed with a key pair of the tests' own, whose public half stands in for Bytebase's.

use anyhow::{Context as _, Result};
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey};
use pem::{EncodeConfig, LineEnding, Pem};
use serde_json::{Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// A key pair that signs licenses.
#[derive(Clone)]
pub struct Signer {
    private: EncodingKey,
    public: String,
}

/// The claims of a good license for every workspace, of which `changes` replaces some and takes
/// away those that are null.
pub fn claims(changes: &Value) -> Value {
    let mut claims = json!({
        "iss": "bytebase", "aud": ["bb.license"], "plan": "ENTERPRISE", "ha": true,
        "trialing": false, "instance": 100, "instanceCount": 100, "seat": 100,
        "orgName": "Example", "workspaceId": "",
    });
    let map = claims.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().into_iter().flatten() {
        if value.is_null() {
            map.remove(name);
        } else {
            map.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// The header that Bytebase expects.
pub fn header() -> Value {
    json!({"alg": "RS256", "kid": "v1", "typ": "JWT"})
}

/// The token of this header, these claims and this signature, whether it fits or not.
pub fn token(header: &Value, claims: &Value, signature: &[u8]) -> String {
    format!(
        "{}.{}",
        message(header, claims),
        BASE64_URL_SAFE_NO_PAD.encode(signature)
    )
}

impl Signer {
    /// A new key pair, which is nowhere but here: no private key lies in the repository.
    pub fn generate() -> Self {
        let (private, public) = new_pair().expect("a key pair");
        Self::of(&private, public).expect("its own encoding")
    }

    /// The key pair of this folder, made at the first call.
    pub fn open(folder: &Path) -> Result<Self> {
        let (private, public) = (folder.join("license.key"), folder.join("license.pub"));
        if !(private.is_file() && public.is_file()) {
            fs::create_dir_all(folder)?;
            let (private_pem, public_pem) = new_pair()?;
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600);
            options.open(&private)?.write_all(private_pem.as_bytes())?;
            fs::write(&public, public_pem)?;
        }
        Self::of(&fs::read_to_string(private)?, fs::read_to_string(public)?)
    }

    fn of(private: &str, public: String) -> Result<Self> {
        let private = EncodingKey::from_rsa_pem(private.as_bytes())?;
        Ok(Self { private, public })
    }

    /// The public half, as PEM.
    pub fn public_pem(&self) -> &str {
        &self.public
    }

    /// A license of these claims, as the text that a customer would be sent.
    pub fn sign(&self, claims: &Value) -> String {
        self.sign_under(&header(), claims)
    }

    /// The same under any header, signed as its `alg` says where that is a way to sign with RSA.
    pub fn sign_under(&self, header: &Value, claims: &Value) -> String {
        let algorithm = header["alg"].as_str().and_then(|name| name.parse().ok());
        let algorithm = match algorithm {
            Some(Algorithm::RS384 | Algorithm::RS512 | Algorithm::PS256) => algorithm,
            _ => None,
        };
        let message = message(header, claims);
        let signature = jsonwebtoken::crypto::sign(
            message.as_bytes(),
            &self.private,
            algorithm.unwrap_or(Algorithm::RS256),
        );
        format!("{message}.{}", signature.expect("a signature"))
    }
}

fn message(header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", encode(header), encode(claims))
}

/// Private and public half, as PEM.
fn new_pair() -> Result<(String, String)> {
    let encode = |label, der: &[u8]| {
        let configuration = EncodeConfig::new().set_line_ending(LineEnding::LF);
        pem::encode_config(&Pem::new(label, der), configuration)
    };
    let pair = KeyPair::generate(KeySize::Rsa2048).context("cannot make an RSA key")?;
    let private: Pkcs8V1Der<'_> = pair.as_der().context("cannot encode the key")?;
    let public: PublicKeyX509Der<'_> = pair
        .public_key()
        .as_der()
        .context("cannot encode the key")?;
    Ok((
        encode("PRIVATE KEY", private.as_ref()),
        encode("PUBLIC KEY", public.as_ref()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, TokenData, Validation, decode};

    fn read(signer: &Signer, token: &str) -> Result<TokenData<Value>> {
        let mut rules = Validation::new(Algorithm::RS256);
        rules.set_audience(&["bb.license"]);
        rules.set_issuer(&["bytebase"]);
        let key = DecodingKey::from_rsa_pem(signer.public_pem().as_bytes())?;
        Ok(decode(token, &key, &rules)?)
    }

    #[test]
    fn a_license_verifies_with_the_public_half_while_it_lasts() -> Result<()> {
        let signer = Signer::generate();
        let good = claims(&json!({"exp": 4_000_000_000_u32, "ha": null}));
        let data = read(&signer, &signer.sign(&good))?;
        assert_eq!(data.header.kid.as_deref(), Some("v1"));
        assert_eq!(data.claims, good);
        assert!(data.claims.get("ha").is_none() && data.claims["plan"] == "ENTERPRISE");
        let ended = claims(&json!({"exp": 1_000_000_000}));
        assert!(read(&signer, &signer.sign(&ended)).is_err());
        assert!(read(&signer, &Signer::generate().sign(&good)).is_err());
        Ok(())
    }

    #[test]
    fn the_key_pair_of_a_folder_stays_the_same() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (first, second) = (Signer::open(folder.path())?, Signer::open(folder.path())?);
        assert_eq!(first.public_pem(), second.public_pem());
        read(
            &first,
            &second.sign(&claims(&json!({"exp": 4_000_000_000_u32}))),
        )?;
        Ok(())
    }
}
