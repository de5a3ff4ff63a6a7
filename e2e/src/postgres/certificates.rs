//! The certificates of the tests' PostgreSQL, as files that outlive one run.

use crate::session::state::write_private;
use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use testkit::certificates::{Authority, Certified};

/// Files of a certificate authority, and of a server's and a client's certificate that it signed.
#[derive(Debug, Clone)]
pub struct Certificates {
    folder: PathBuf,
}

impl Certificates {
    /// Makes them in this folder, for a server at this address, unless they are there.
    pub fn open(folder: &Path, address: &str) -> Result<Self> {
        let this = Self {
            folder: folder.to_owned(),
        };
        let last = folder.join("client.crt");
        if last.exists() {
            return Ok(this);
        }
        fs::create_dir_all(folder)?;
        let authority = Authority::new("database CA");
        let server = authority.certify(&[address]);
        let client = authority.certify_role("client");
        fs::write(folder.join("ca.crt"), authority.certificate())?;
        write_private(&this.key(), server.key.as_bytes())?;
        fs::write(this.certificate(), server.certificate)?;
        write_private(&folder.join("client.key"), client.key.as_bytes())?;
        // Under its own name only when all is complete, since that is what is looked for above.
        let part = folder.join("client.part");
        fs::write(&part, client.certificate)?;
        fs::rename(part, last)?;
        Ok(this)
    }

    /// A client's certificate, with its key.
    pub fn client(&self) -> Result<Certified> {
        let read = |name| fs::read_to_string(self.folder.join(name));
        Ok(Certified {
            certificate: read("client.crt")?,
            key: read("client.key")?,
        })
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
