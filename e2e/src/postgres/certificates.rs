//! A certificate authority of the tests' own, and the server certificate it signs.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::machine::command::Call;

/// Files of a certificate authority and of a server certificate that it signed.
#[derive(Debug, Clone)]
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes them in this folder, for a server at this address, unless they are there.
    pub async fn open(folder: &Path, address: &str) -> Result<Self> {
        let this = Self {
            folder: folder.to_owned(),
        };
        if this.certificate().exists() {
            return Ok(this);
        }
        fs::create_dir_all(folder)?;
        let path = |name: &str| folder.join(name).display().to_string();
        let (ca, ca_key, key, request) = (
            path("ca.crt"),
            path("ca.key"),
            path("server.key"),
            path("server.csr"),
        );
        let new_key = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ];
        let mut authority = vec!["req", "-x509", "-days", "3650", "-subj", "/CN=database CA"];
        authority.extend(new_key);
        authority.extend(["-keyout", &ca_key, "-out", &ca]);
        Call::new("openssl", &authority).run().await?;
        let mut asked = vec!["req", "-subj", "/CN=database"];
        asked.extend(new_key);
        asked.extend(["-keyout", &key, "-out", &request]);
        Call::new("openssl", &asked).run().await?;
        let extensions = folder.join("extensions");
        fs::write(
            &extensions,
            format!(
                "basicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\nsubjectAltName=IP:{address}\n"
            ),
        )?;
        // Under its own name only when it is complete, since that is what is looked for above.
        let part = path("server.part");
        Call::new(
            "openssl",
            &[
                "x509",
                "-req",
                "-days",
                "3650",
                "-in",
                &request,
                "-CA",
                &ca,
                "-CAkey",
                &ca_key,
                "-CAcreateserial",
                "-extfile",
                &extensions.display().to_string(),
                "-out",
                &part,
            ],
        )
        .run()
        .await?;
        fs::rename(part, this.certificate())?;
        Ok(this)
    }

    /// The authority's certificate, as text.
    pub fn authority(&self) -> Result<String> {
        Ok(fs::read_to_string(self.folder.join("ca.crt"))?)
    }

    /// The server's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("server.crt")
    }

    /// The server's key.
    pub fn key(&self) -> PathBuf {
        self.folder.join("server.key")
    }
}
