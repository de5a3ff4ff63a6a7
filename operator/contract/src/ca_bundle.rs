//! The CA bundle that replicas trust, read as Bytebase's own TLS (Go's) reads it: block by block,
//! passing over what is no certificate, an error only if none is left.

use crate::certificate::Certificate;
use crate::pem::{self, Block};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use std::fmt;

/// A bundle with more certificates is one of authorities in general, of which some always end.
const OWN_AUTHORITIES: usize = 10;

/// Begins each certificate.
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
/// Ends it.
const END: &str = "-----END CERTIFICATE-----";
/// What the first line of a certificate says.
const LABEL: &[u8] = b"CERTIFICATE";

/// Blocks of which a message says what is wrong with them.
const MAX_LISTED: usize = 5;

/// The certificates of a bundle, at least one. What else a file held (a private key, say) is not in
/// here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaBundle {
    certificates: Vec<CertificateDer<'static>>,
    /// Blocks that were passed over.
    pub skipped: Skipped,
}

/// Blocks of a file that are no certificates to Bytebase, in a message of one line. None of their
/// text is in it: it may be a private key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Skipped(Vec<(usize, BlockFault)>);

/// What is wrong with one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::Display)]
enum BlockFault {
    #[strum(to_string = "is not base64 between a BEGIN and an END line of their own")]
    Form,
    #[strum(to_string = "is not labelled CERTIFICATE")]
    Label,
    #[strum(to_string = "has header lines")]
    Headers,
    #[strum(to_string = "holds no X.509 certificate")]
    NoCertificate,
}

/// Until when a bundle vouches for anything. Bytebase refuses a server whose chain ends at a
/// certificate that is not valid now, so what counts is that one of them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// At least one certificate is valid.
    Valid {
        /// When the last of them ends.
        until: Timestamp,
    },
    /// All have ended, the last one at this time.
    Ended(Timestamp),
    /// None is valid yet, the first one from this time on.
    NotYet(Timestamp),
}

/// Why a bundle holds no certificate. No text of it is quoted: it may hold a private key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaBundleError {
    /// No block begins as a certificate does.
    #[error("holds no PEM certificate (-----BEGIN CERTIFICATE-----)")]
    NoCertificate,
    /// Some do, and none can be read.
    #[error(
        "holds no certificate that can be read ({0}): put the BEGIN line, the base64 lines and the END line of each on lines of their own, without indentation, and without \\n in place of line breaks"
    )]
    Unreadable(Skipped),
}

impl CaBundle {
    /// Reads the certificates of a PEM file.
    pub fn parse(bytes: &[u8]) -> Result<Self, CaBundleError> {
        let mut blocks = pem::blocks(bytes).peekable();
        let (mut certificates, mut skipped) = (Vec::new(), Vec::new());
        for (index, at) in pem::begins(bytes).enumerate() {
            match certificate(blocks.next_if(|block| block.at == at)) {
                Ok(certificate) => certificates.push(certificate),
                Err(fault) => skipped.push((index + 1, fault)),
            }
        }
        let skipped = Skipped(skipped);
        if !certificates.is_empty() {
            return Ok(Self {
                certificates,
                skipped,
            });
        }
        let mut windows = bytes.windows(BEGIN.len());
        Err(if windows.any(|window| window == BEGIN.as_bytes()) {
            CaBundleError::Unreadable(skipped)
        } else {
            CaBundleError::NoCertificate
        })
    }

    /// Whether any certificate is valid at `now`.
    pub fn trust(&self, now: Timestamp) -> Trust {
        let valid = self.read().filter(|one| one.is_valid_at(now));
        let begins = self.read().map(|one| one.from).filter(|from| *from > now);
        let ends = self.read().map(|one| one.until);
        match (valid.map(|one| one.until).max(), begins.min()) {
            (Some(until), _) => Trust::Valid { until },
            (None, Some(from)) => Trust::NotYet(from),
            (None, None) => Trust::Ended(ends.max().unwrap_or(now)),
        }
    }

    /// When the first of the certificates that are valid now ends; `None` if none is, or the bundle
    /// is one of authorities in general.
    pub fn first_end(&self, now: Timestamp) -> Option<Timestamp> {
        if self.certificates.len() > OWN_AUTHORITIES {
            return None;
        }
        let valid = self.read().filter(|one| one.is_valid_at(now));
        valid.map(|one| one.until).min()
    }

    fn read(&self) -> impl Iterator<Item = Certificate<'_>> {
        let certificates = self.certificates.iter();
        certificates.filter_map(|der| Certificate::parse(der))
    }

    /// The certificates, in their order.
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The certificates and nothing else, as PEM.
    pub fn to_pem(&self) -> String {
        to_pem(&self.certificates)
    }
}

/// Certificates as PEM.
pub fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let blocks = certificates.iter().map(|certificate| {
        // One line of any length is what TLS libraries accept as well as lines of 64.
        format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(certificate))
    });
    blocks.collect()
}

/// The certificate of a block; `None` is one that Go does not read.
fn certificate(block: Option<Block<'_>>) -> Result<CertificateDer<'static>, BlockFault> {
    let block = block.ok_or(BlockFault::Form)?;
    if block.label != LABEL {
        Err(BlockFault::Label)
    } else if block.has_headers {
        Err(BlockFault::Headers)
    } else if Certificate::parse(&block.content).is_none() {
        Err(BlockFault::NoCertificate)
    } else {
        Ok(block.content.into())
    }
}

// === impl Skipped ===

impl Skipped {
    /// Whether the file holds nothing but certificates.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (number, fault)) in self.0.iter().take(MAX_LISTED).enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}block {number} {fault}")?;
        }
        match self.0.len().saturating_sub(MAX_LISTED) {
            0 => Ok(()),
            more => write!(f, ", and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n";
    const BROKEN: &str = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    /// A sequence of a sequence, and that is all.
    const HOLLOW: &str = "-----BEGIN CERTIFICATE-----\nMAIwAA==\n-----END CERTIFICATE-----\n";
    /// A request for a certificate, by `openssl req -new`, under another label than its own.
    const REQUEST: &str = "-----BEGIN CERTIFICATE-----
MIHGMG4CAQAwDDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IA
BDVJzYxiXgkQFtBe4zSCdO9/izLlijuoIlHnez5j2Id32QDQCvIeM663GgNQCWXK
EIhEL3RTp2tGhlPFX03ajNqgADAKBggqhkjOPQQDAgNIADBFAiEAhcCp2eD6PmJc
yPV699EJfZs7L9YVDwz0RiU3jwYi1NYCIAQz/2BowshROagVqbsraEef5W/klOqy
fMosmD83r3DZ
-----END CERTIFICATE-----
";

    fn one() -> String {
        between("200101000000Z", "300101000000Z")
    }

    fn other() -> String {
        between("200101000000Z", "400101000000Z")
    }

    #[test]
    fn what_is_no_certificate_is_passed_over() {
        let (one, other) = (&one(), &other());
        let form = "is not base64 between a BEGIN and an END line of their own";
        let first_line = "-----BEGIN CERTIFICATE-----";
        for (text, pem, skipped) in [
            (one.clone(), one.clone(), String::new()),
            (
                format!("# a comment\n{one}{other}"),
                format!("{one}{other}"),
                String::new(),
            ),
            (
                format!("{KEY}{one}"),
                one.clone(),
                "block 1 is not labelled CERTIFICATE".to_owned(),
            ),
            (
                format!("{one}{KEY}"),
                one.clone(),
                "block 2 is not labelled CERTIFICATE".to_owned(),
            ),
            (
                format!("{BROKEN}{one}{HOLLOW}{REQUEST}"),
                one.clone(),
                format!(
                    "block 1 {form}, block 3 holds no X.509 certificate, block 4 holds no X.509 certificate"
                ),
            ),
            (
                format!("{}{other}", one.replacen("-\n", "-\nname: a\n\n", 1)),
                other.clone(),
                "block 1 has header lines".to_owned(),
            ),
            (one.replace('\n', "\r\n"), one.clone(), String::new()),
            (
                one.replace(first_line, &format!("{first_line}\t")),
                one.clone(),
                String::new(),
            ),
            // A block without an end is none, and the one behind it is.
            (
                format!("{first_line}\nMAIw\n{one}"),
                one.clone(),
                format!("block 1 {form}"),
            ),
            // Two that share a line are none, and the one behind them is.
            (
                format!("{}{other}{one}", one.trim_end()),
                one.clone(),
                format!("block 1 {form}, block 2 {form}"),
            ),
            (
                format!("{} text\n{other}", one.trim_end()),
                other.clone(),
                format!("block 1 {form}"),
            ),
            (
                format!("{}{one}", BROKEN.repeat(7)),
                one.clone(),
                format!(
                    "block 1 {form}, block 2 {form}, block 3 {form}, block 4 {form}, block 5 {form}, and 2 more"
                ),
            ),
        ] {
            let bundle = CaBundle::parse(text.as_bytes()).unwrap();
            let read = (bundle.to_pem(), bundle.skipped.to_string());
            assert_eq!(read, (pem, skipped), "{text}");
        }
    }

    /// A certificate with these times and hardly anything else.
    fn between(from: &str, until: &str) -> String {
        let element = |tag: u8, content: &[u8]| {
            let length = u8::try_from(content.len()).unwrap();
            [&[tag, length][..], content].concat()
        };
        let time = |text: &str| {
            let tag = if text.len() == 13 { 0x17 } else { 0x18 };
            element(tag, text.as_bytes())
        };
        let validity = element(0x30, &[time(from), time(until)].concat());
        let [version, serial] = [element(0xa0, &[2, 1, 2]), element(2, &[1])];
        let empty = || element(0x30, &[]);
        let [algorithm, issuer, subject, key] = [empty(), empty(), empty(), empty()];
        let fields = [version, serial, algorithm, issuer, validity, subject, key].concat();
        let signature = [empty(), element(3, &[0])].concat();
        let der = element(0x30, &[element(0x30, &fields), signature].concat());
        format!("{BEGIN}\n{}\n{END}\n", STANDARD.encode(der))
    }

    #[test]
    fn a_bundle_lasts_as_long_as_its_last_certificate() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let trust = |pem: &str| {
            let bundle = CaBundle::parse(pem.as_bytes()).unwrap();
            bundle.trust(at("2026-06-01T00:00:00Z"))
        };
        let old = between("100101000000Z", "250101000000Z");
        let older = between("700101000000Z", "990101000000Z");
        let valid = between("200101000000Z", "300101120000Z");
        let longer = between("20200101000000Z", "20700101000000Z");
        let coming = between("270101000000Z", "300101000000Z");
        let endless = between("200101000000Z", "99991231235959Z");
        for (pem, expected) in [
            (old.clone(), Trust::Ended(at("2025-01-01T00:00:00Z"))),
            (
                format!("{old}{older}"),
                Trust::Ended(at("2025-01-01T00:00:00Z")),
            ),
            (older, Trust::Ended(at("1999-01-01T00:00:00Z"))),
            (
                format!("{old}{valid}"),
                Trust::Valid {
                    until: at("2030-01-01T12:00:00Z"),
                },
            ),
            (
                format!("{longer}{valid}"),
                Trust::Valid {
                    until: at("2070-01-01T00:00:00Z"),
                },
            ),
            (
                format!("{old}{coming}"),
                Trust::NotYet(at("2027-01-01T00:00:00Z")),
            ),
            (
                endless,
                Trust::Valid {
                    until: Timestamp::MAX,
                },
            ),
        ] {
            assert_eq!(trust(&pem), expected, "{pem}");
        }
    }

    #[test]
    fn the_first_end_is_that_of_a_certificate_that_is_valid() {
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let first_end = |pem: &str| {
            let bundle = CaBundle::parse(pem.as_bytes()).unwrap();
            bundle.first_end(at("2026-06-01T00:00:00Z"))
        };
        let old = between("100101000000Z", "250101000000Z");
        let valid = between("200101000000Z", "300101120000Z");
        let longer = between("20200101000000Z", "20700101000000Z");
        let coming = between("270101000000Z", "280101000000Z");
        let end = Some(at("2030-01-01T12:00:00Z"));
        assert_eq!(first_end(&format!("{longer}{valid}{coming}{old}")), end);
        assert_eq!(first_end(&valid), end);
        assert_eq!(first_end(&old), None);
        // Such as the one of an operating system.
        assert_eq!(first_end(&format!("{valid}{}", longer.repeat(9))), end);
        assert_eq!(first_end(&format!("{valid}{}", longer.repeat(10))), None);
    }

    #[test]
    fn the_times_of_a_real_certificate_are_read() {
        const PEM: &str = "-----BEGIN CERTIFICATE-----
MIIBbjCCAROgAwIBAgIUYyI9cddbI1BrPH1mZMXXbpCjt/EwCgYIKoZIzj0EAwIw
DDEKMAgGA1UEAwwBYTAeFw0yNjExMjcwNTA2MjdaFw0zNjExMjQwNTA2MjdaMAwx
CjAIBgNVBAMMAWEwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARwDwWiPwzbPqt0
OS25TtkbZTSYKvHljFzwpbCzCl+ZGaFR2B+1/UqbtBz3gosaClD293wYljdHOfJL
ZLp0R9bGo1MwUTAdBgNVHQ4EFgQUeiWQ9yxBNQxP0l8V3fe060OgT0gwHwYDVR0j
BBgwFoAUeiWQ9yxBNQxP0l8V3fe060OgT0gwDwYDVR0TAQH/BAUwAwEB/zAKBggq
hkjOPQQDAgNJADBGAiEAlHbZLvBjHvWH4rOA8oGVgIT3zgQ/RTp+bWIa5emrqN4C
IQDcOjtXVochxIfXG4uwmb0OvCXooa6Wuku/spOxg9KYfg==
-----END CERTIFICATE-----
";
        let bundle = CaBundle::parse(PEM.as_bytes()).unwrap();
        let [from, until] = ["2026-11-27T05:06:27Z", "2036-11-24T05:06:27Z"]
            .map(|text| text.parse::<Timestamp>().unwrap());
        let second = jiff::SignedDuration::from_secs(1);
        assert_eq!(bundle.trust(from - second), Trust::NotYet(from));
        assert_eq!(bundle.trust(from), Trust::Valid { until });
        assert_eq!(bundle.trust(until), Trust::Valid { until });
        assert_eq!(bundle.trust(until + second), Trust::Ended(until));
    }

    #[test]
    fn a_bundle_without_a_usable_certificate_is_refused() {
        let one = &one();
        for (text, skipped) in [
            (String::new(), None),
            (KEY.to_owned(), None),
            (BROKEN.to_owned(), Some("block 1 is not base64")),
            (HOLLOW.to_owned(), Some("block 1 holds no X.509")),
            (REQUEST.to_owned(), Some("block 1 holds no X.509")),
            (one.replace('\n', "\\n"), Some("block 1 is not base64")),
            (one.replace('\n', " "), Some("block 1 is not base64")),
            (one.replace('\n', "\r"), Some("block 1 is not base64")),
            (one.replace("-----B", "  -----B"), Some("block 1")),
            (format!("\u{feff}{one}"), Some("block 1")),
            (
                one.replace("-----END CERTIFICATE-----", ""),
                Some("block 1"),
            ),
            (format!("{}{}", one.trim_end(), other()), Some("block 2")),
            (format!("{KEY}{BROKEN}"), Some("block 1 is not labelled")),
        ] {
            let said = CaBundle::parse(text.as_bytes()).unwrap_err().to_string();
            match skipped {
                Some(skipped) => {
                    assert!(said.contains("certificate that can be read"), "{said}");
                    assert!(said.contains(skipped), "{said}");
                }
                None => assert!(said.contains("no PEM certificate"), "{said}"),
            }
        }
    }
}
