//! The CA bundle that replicas trust, read as Bytebase's own TLS (Go's) reads it: block by block,
//! passing over what is no certificate, an error only if none is left.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// Begins each certificate.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
/// Ends it.
const END: &str = "-----END CERTIFICATE-----";
/// Begins a block of any kind.
const ANY_BEGIN: &[u8] = b"-----BEGIN ";

/// The certificates of a bundle, at least one. What else a file held (a private key, say) is not in
/// here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaBundle {
    certificates: Vec<CertificateDer<'static>>,
    /// Blocks that were passed over.
    pub skipped: usize,
}

/// Why a bundle holds no certificate. No text of it is quoted: it may hold a private key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaBundleError {
    /// No block begins as a certificate does.
    #[error("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// Some do, and none can be read.
    #[error(
        "holds no certificate that can be read: put the BEGIN line, the base64 lines and the END line of each on lines of their own, without indentation, and without \\n in place of line breaks"
    )]
    Unreadable,
}

impl CaBundle {
    /// Reads the certificates of a PEM file.
    pub fn parse(bytes: &[u8]) -> Result<Self, CaBundleError> {
        let certificates: Vec<_> = CertificateDer::pem_slice_iter(bytes)
            .filter_map(Result::ok)
            .filter(|certificate| is_certificate(certificate))
            .collect();
        if certificates.is_empty() {
            let begins = count(bytes, BEGIN.as_bytes()) > 0;
            return Err(if begins {
                CaBundleError::Unreadable
            } else {
                CaBundleError::NoCertificate
            });
        }
        let skipped = count(bytes, ANY_BEGIN).saturating_sub(certificates.len());
        Ok(Self {
            certificates,
            skipped,
        })
    }

    /// The certificates and nothing else, as PEM.
    pub fn to_pem(&self) -> String {
        let blocks = self.certificates.iter().map(|certificate| {
            // One line of any length is what TLS libraries accept as well as lines of 64.
            format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(certificate))
        });
        blocks.collect()
    }
}

/// Whether this has the outer form of a certificate: a DER sequence, as long as it says, that begins
/// with a sequence. What is inside is for TLS to judge.
fn is_certificate(der: &[u8]) -> bool {
    let (length, content) = match der {
        [0x30, length @ 0..=0x7f, rest @ ..] | [0x30, 0x81, length, rest @ ..] => {
            (usize::from(*length), rest)
        }
        [0x30, 0x82, high, low, rest @ ..] => {
            (usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return false,
    };
    length == content.len() && content.first() == Some(&0x30)
}

fn count(bytes: &[u8], pattern: &[u8]) -> usize {
    let windows = bytes.windows(pattern.len());
    windows.filter(|window| *window == pattern).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nMAIwAA==\n-----END CERTIFICATE-----\n";
    const OTHER: &str = "-----BEGIN CERTIFICATE-----\nMAMwAQA=\n-----END CERTIFICATE-----\n";
    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    const BROKEN: &str = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    const NONSENSE: &str = "-----BEGIN CERTIFICATE-----\nbm9uc2Vuc2U=\n-----END CERTIFICATE-----\n";

    #[test]
    fn what_is_no_certificate_is_passed_over() {
        for (text, pem, skipped) in [
            (ONE.to_owned(), ONE.to_owned(), 0),
            (
                format!("# a comment\n{ONE}{OTHER}"),
                format!("{ONE}{OTHER}"),
                0,
            ),
            (format!("{KEY}{ONE}"), ONE.to_owned(), 1),
            (format!("{ONE}{KEY}"), ONE.to_owned(), 1),
            (format!("{BROKEN}{ONE}{NONSENSE}"), ONE.to_owned(), 2),
            (ONE.replace('\n', "\r\n"), ONE.to_owned(), 0),
        ] {
            let bundle = CaBundle::parse(text.as_bytes()).unwrap();
            assert_eq!((bundle.to_pem(), bundle.skipped), (pem, skipped), "{text}");
        }
    }

    #[test]
    fn a_bundle_without_a_usable_certificate_is_refused() {
        for (text, error) in [
            (String::new(), CaBundleError::NoCertificate),
            (KEY.to_owned(), CaBundleError::NoCertificate),
            (BROKEN.to_owned(), CaBundleError::Unreadable),
            (NONSENSE.to_owned(), CaBundleError::Unreadable),
            (ONE.replace('\n', "\\n"), CaBundleError::Unreadable),
            (ONE.replace('\n', " "), CaBundleError::Unreadable),
            (ONE.replace("-----B", "  -----B"), CaBundleError::Unreadable),
            (format!("\u{feff}{ONE}"), CaBundleError::Unreadable),
            (
                ONE.replace("-----END CERTIFICATE-----", ""),
                CaBundleError::Unreadable,
            ),
        ] {
            assert_eq!(CaBundle::parse(text.as_bytes()), Err(error), "{text:?}");
        }
    }
}
