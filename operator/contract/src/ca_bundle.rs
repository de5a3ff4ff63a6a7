//! The CA bundle that replicas trust, read as Bytebase's own TLS (Go's) reads it: block by block,
//! passing over what is no certificate, an error only if none is left.

use crate::certificate;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// A bundle with more certificates is one of authorities in general, of which some always end.
const OWN_AUTHORITIES: usize = 10;

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

/// Until when a bundle vouches for anything. Bytebase refuses a server whose chain ends at a
/// certificate that is not valid now, so what counts is that one of them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// At least one certificate is valid.
    Valid {
        /// When the last of them ends; `None` if that cannot be read.
        until: Option<Timestamp>,
    },
    /// All have ended, the last one at this time.
    Ended(Timestamp),
    /// None is valid yet, the first one from this time on.
    NotYet(Timestamp),
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
            .filter(|certificate| certificate::has_outer_form(certificate))
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

    /// Whether any certificate is valid at `now`. One whose times cannot be read counts as valid:
    /// TLS may read it otherwise.
    pub fn trust(&self, now: Timestamp) -> Trust {
        let times = self
            .certificates
            .iter()
            .map(|der| certificate::validity(der));
        let Some(times) = times.collect::<Option<Vec<_>>>() else {
            return Trust::Valid { until: None };
        };
        let valid = times
            .iter()
            .filter(|(from, until)| (*from..=*until).contains(&now));
        let ends = times.iter().map(|(_, until)| *until);
        let begins = times
            .iter()
            .map(|(from, _)| *from)
            .filter(|from| *from > now);
        match (valid.map(|(_, until)| *until).max(), begins.min()) {
            (Some(until), _) => Trust::Valid { until: Some(until) },
            (None, Some(from)) => Trust::NotYet(from),
            (None, None) => Trust::Ended(ends.max().unwrap_or(now)),
        }
    }

    /// When the first of the certificates that are valid now ends; `None` if that cannot be read,
    /// or the bundle is one of authorities in general.
    pub fn first_end(&self, now: Timestamp) -> Option<Timestamp> {
        if self.certificates.len() > OWN_AUTHORITIES {
            return None;
        }
        let times = self
            .certificates
            .iter()
            .map(|der| certificate::validity(der));
        let times = times.collect::<Option<Vec<_>>>()?;
        let valid = times
            .iter()
            .filter(|(from, until)| (*from..=*until).contains(&now));
        valid.map(|(_, until)| *until).min()
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
        let [algorithm, issuer] = [element(0x30, &[]), element(0x30, &[])];
        let fields = [version, serial, algorithm, issuer, validity].concat();
        let der = element(0x30, &element(0x30, &fields));
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
                    until: Some(at("2030-01-01T12:00:00Z")),
                },
            ),
            (
                format!("{longer}{valid}"),
                Trust::Valid {
                    until: Some(at("2070-01-01T00:00:00Z")),
                },
            ),
            (
                format!("{old}{coming}"),
                Trust::NotYet(at("2027-01-01T00:00:00Z")),
            ),
            (
                endless,
                Trust::Valid {
                    until: Some(Timestamp::MAX),
                },
            ),
            // Whether TLS reads it is for TLS to say.
            (format!("{old}{ONE}"), Trust::Valid { until: None }),
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
        assert_eq!(first_end(&format!("{valid}{ONE}")), None);
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
        assert_eq!(bundle.trust(from), Trust::Valid { until: Some(until) });
        assert_eq!(bundle.trust(until), Trust::Valid { until: Some(until) });
        assert_eq!(bundle.trust(until + second), Trust::Ended(until));
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
