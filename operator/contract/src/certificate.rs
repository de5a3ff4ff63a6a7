//! The parts of an X.509 certificate that a verdict on a server rests on, read by their place: no
//! signature is checked here, and what is inside a name or a key is for TLS to judge.

use jiff::Timestamp;

/// Tag of a DER boolean.
const BOOLEAN: u8 = 0x01;
/// Tag of a DER integer.
const INTEGER: u8 = 0x02;
/// Tag of a DER sequence.
const SEQUENCE: u8 = 0x30;
/// Tag of a DER bit string.
const BIT_STRING: u8 = 0x03;
/// Tag of a DER octet string.
const OCTET_STRING: u8 = 0x04;
/// Tag of a DER object identifier.
const IDENTIFIER: u8 = 0x06;
/// Tag of the version, which version 1 leaves out.
const VERSION: u8 = 0xa0;
/// Tags of the unique identifiers of issuer and subject, which hardly a certificate has.
const UNIQUE: [u8; 2] = [0x81, 0x82];
/// Tag of the extensions.
const EXTENSIONS: u8 = 0xa3;

/// Identifier of the extension that says whether the subject is an authority.
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 19];
/// Of the one that says what the key is for.
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 15];
/// Of the one that says what the certificate is for.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 37];
/// Identifier of the use by servers.
const SERVERS: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 1];
/// Of any use.
const ANY_USE: &[u8] = &[0x55, 0x1d, 37, 0];
/// Of the bits of the key's uses that of signing certificates.
const SIGNING: u8 = 0b0000_0100;

/// A certificate, borrowed from its DER.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Certificate<'a> {
    /// 1, 2 or 3.
    pub version: u8,
    /// What the issuer signed.
    pub signed: &'a [u8],
    /// Who issued it, as DER.
    pub issuer: &'a [u8],
    /// First moment at which it is valid.
    pub from: Timestamp,
    /// Last moment at which it is valid.
    pub until: Timestamp,
    /// Whom it is for, as DER.
    pub subject: &'a [u8],
    /// `SubjectPublicKeyInfo`, as DER.
    pub public_key: &'a [u8],
    /// The list of extensions, as DER; empty where there is none.
    extensions: &'a [u8],
    /// The content of the `AlgorithmIdentifier` of the signature.
    pub algorithm: &'a [u8],
    /// The issuer's signature.
    pub signature: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// `None` for what is not a certificate.
    pub fn parse(der: &'a [u8]) -> Option<Self> {
        let (outer, rest) = take(der, SEQUENCE)?;
        if !rest.is_empty() {
            return None;
        }
        let (_, _, after_signed) = element(outer)?;
        let signed = &outer[..outer.len() - after_signed.len()];
        let (mut fields, _) = take(signed, SEQUENCE)?;
        let (algorithm, rest) = take(after_signed, SEQUENCE)?;
        let (signature, _) = take(rest, BIT_STRING)?;
        // In front of the bits stands how many of the last byte are unused.
        let (0, signature) = signature.split_first()? else {
            return None;
        };
        let version = match element(fields)? {
            (VERSION, version, rest) => {
                fields = rest;
                version.last().filter(|version| **version <= 2)? + 1
            }
            _ => 1,
        };
        let (_serial, fields) = take(fields, INTEGER)?;
        let (_algorithm, fields) = take(fields, SEQUENCE)?;
        let (issuer, fields) = whole(fields)?;
        let (validity, fields) = take(fields, SEQUENCE)?;
        let (subject, fields) = whole(fields)?;
        let (public_key, mut fields) = whole(fields)?;
        for tag in UNIQUE {
            fields = take(fields, tag).map_or(fields, |(_, rest)| rest);
        }
        let extensions = take(fields, EXTENSIONS).map_or(&[][..], |(list, _)| list);
        let (from_tag, from, rest) = element(validity)?;
        let (until_tag, until, _) = element(rest)?;
        Some(Self {
            version,
            signed,
            issuer,
            from: time(from_tag, from)?,
            until: time(until_tag, until)?,
            subject,
            public_key,
            extensions,
            algorithm,
            signature,
        })
    }

    /// Whether `now` is within its time.
    pub fn is_valid_at(&self, now: Timestamp) -> bool {
        (self.from..=self.until).contains(&now)
    }

    /// Whether Go lets its subject vouch for a server. One of version 3 must say that it is of an
    /// authority. What its key, and what it is for itself, are lists that it may leave out.
    pub fn may_vouch_for_servers(&self) -> bool {
        let is_authority = match self.basic_constraints() {
            Some(constraints) => matches!(element(constraints), Some((BOOLEAN, [0xff], _))),
            None => self.version < 3,
        };
        let uses = self.extension(KEY_USAGE);
        let may_sign = match uses.and_then(|uses| take(uses, BIT_STRING)) {
            // In front of the bits stands how many of the last byte are unused.
            Some(([_, bits @ ..], _)) if bits.iter().any(|byte| *byte != 0) => {
                bits.first().is_some_and(|byte| byte & SIGNING != 0)
            }
            _ => true,
        };
        is_authority && may_sign && self.is_for_servers()
    }

    /// Whether the certificates of so many other authorities may stand between its own and that of
    /// a server.
    pub fn may_stand_above(&self, authorities: u8) -> bool {
        let depth = self.basic_constraints().and_then(element);
        let depth = depth.and_then(|(_, _, depth)| take(depth, INTEGER));
        match depth {
            Some(([depth @ 0..=0x7f], _)) => *depth >= authorities,
            // It says none, or more than there ever are.
            _ => true,
        }
    }

    /// Whether it is for servers: it lists no uses, or that one among them, or any.
    pub fn is_for_servers(&self) -> bool {
        let uses = self.extension(EXTENDED_KEY_USAGE);
        let Some((mut uses, _)) = uses.and_then(|uses| take(uses, SEQUENCE)) else {
            return true;
        };
        let lists_none = uses.is_empty();
        while let Some((found, rest)) = take(uses, IDENTIFIER) {
            if [SERVERS, ANY_USE].contains(&found) {
                return true;
            }
            uses = rest;
        }
        lists_none
    }

    fn basic_constraints(&self) -> Option<&'a [u8]> {
        let value = self.extension(BASIC_CONSTRAINTS)?;
        take(value, SEQUENCE).map(|(constraints, _)| constraints)
    }

    /// The value of an extension.
    fn extension(&self, identifier: &[u8]) -> Option<&'a [u8]> {
        let (mut list, _) = take(self.extensions, SEQUENCE)?;
        while let Some((extension, rest)) = take(list, SEQUENCE) {
            let (found, value) = take(extension, IDENTIFIER)?;
            if found == identifier {
                // One that must be understood says so in front of its value.
                let value = take(value, BOOLEAN).map_or(value, |(_, value)| value);
                return take(value, OCTET_STRING).map(|(value, _)| value);
            }
            list = rest;
        }
        None
    }
}

/// The content of the element that the bytes begin with, which must have this tag, and what
/// follows.
fn take(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    let (tag, content, rest) = element(der)?;
    (tag == wanted).then_some((content, rest))
}

/// The sequence that the bytes begin with, with its head, and what follows.
fn whole(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_, rest) = take(der, SEQUENCE)?;
    Some(der.split_at(der.len() - rest.len()))
}

/// Divides off the DER element that the bytes begin with: its tag, its content, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length, rest) = match der {
        [tag, length @ 0..=0x7f, rest @ ..] | [tag, 0x81, length @ 0x80..=0xff, rest @ ..] => {
            (*tag, usize::from(*length), rest)
        }
        [tag, 0x82, high @ 1..=0xff, low, rest @ ..] => {
            (*tag, usize::from(u16::from_be_bytes([*high, *low])), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

/// A time of a certificate, as Go reads it: `YYMMDDhhmmss` (of 1950 to 2049), where the seconds may
/// be left out, or `YYYYMMDDhhmmss`; then `Z` or an offset such as `+0100`.
fn time(tag: u8, content: &[u8]) -> Option<Timestamp> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let text = std::str::from_utf8(content).ok()?;
    let (text, offset) = text.split_at(text.find(['Z', '+', '-'])?);
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let is_offset = match offset.strip_prefix(['+', '-']) {
        // That of no hours and minutes is Z.
        Some(by) => by.len() == 4 && by != "0000" && by.bytes().all(|byte| byte.is_ascii_digit()),
        None => offset == "Z",
    };
    if !is_offset {
        return None;
    }
    let text = match (tag, text.len()) {
        (UTC_TIME, 10 | 12) if text < "50" => format!("20{text:0<12}"),
        (UTC_TIME, 10 | 12) => format!("19{text:0<12}"),
        (GENERALIZED_TIME, 14) => text.to_owned(),
        _ => return None,
    };
    // Without an end, by RFC 5280; later than any moment there is here.
    if text.starts_with("99991231") {
        return Some(Timestamp::MAX);
    }
    let part = |range| text.get(range).unwrap_or_default();
    let (year, month, day) = (part(0..4), part(4..6), part(6..8));
    let (hour, minute, second) = (part(8..10), part(10..12), part(12..14));
    format!("{year}-{month}-{day}T{hour}:{minute}:{second}{offset}")
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;
    use testkit::certificates::{Authority, Limit};

    /// Made by `openssl req -x509 -subj /CN=a`.
    const VERSION_3: &str = "-----BEGIN CERTIFICATE-----
MIIBbjCCARWgAwIBAgIUNEs9sA1LyoK5qGGvOmlcyFBSxCcwCgYIKoZIzj0EAwIwDDEKMAgGA1UEAwwBYTAg
Fw0yNjExMjgxNTA4NTJaGA8yMTI2MTEwNDE1MDg1MlowDDEKMAgGA1UEAwwBYTBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABAHdcD7li9WChBDja9iyiYMDJrm/svSiLNgsMqSJFHKpnx6QeesHnli3/ndkyMO/mcROBTmZ
KQURdZCkINK5rjyjUzBRMB0GA1UdDgQWBBTXDThnbwPi6LCdW1XXwMwbDSZXFzAfBgNVHSMEGDAWgBTXDThn
bwPi6LCdW1XXwMwbDSZXFzAPBgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0cAMEQCIGwbgJ3L3x/PMAwH
Q2h1+CBrDwMdJfXJ9OvZZQa2Dp/OAiB8nxcxizjld2Wg9zII2WbnJDAwHd3CI9co6mydORAu2Q==
-----END CERTIFICATE-----
";

    #[test]
    fn the_parts_of_a_certificate_are_read() {
        let der = CertificateDer::from_pem_slice(VERSION_3.as_bytes()).unwrap();
        let read = Certificate::parse(&der).unwrap();
        assert_eq!(read.version, 3);
        assert_eq!(read.issuer, read.subject);
        assert!(read.subject.ends_with(b"\x0c\x01a"));
        assert_eq!((read.public_key.len(), read.signature.len()), (91, 70));
        assert!(
            der.windows(read.signed.len())
                .any(|part| part == read.signed)
        );
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert!(read.is_valid_at(at("2026-11-28T15:08:52Z")));
        assert!(!read.is_valid_at(at("2026-11-28T15:08:51Z")));
        assert_eq!(read.until, at("2126-11-04T15:08:52Z"));
        // What is cut off anywhere, or goes on, is none.
        for end in 0..der.len() {
            assert_eq!(Certificate::parse(&der[..end]), None);
        }
        assert_eq!(Certificate::parse(&[&der[..], &[0]].concat()), None);
    }

    #[test]
    fn times_are_read_as_go_reads_them() {
        for (tag, text, expected) in [
            (0x17, "260601123045Z", Some("2026-06-01T12:30:45Z")),
            (0x17, "500601123045Z", Some("1950-06-01T12:30:45Z")),
            (0x17, "2606011230Z", Some("2026-06-01T12:30:00Z")),
            (0x17, "7006011230-0030", Some("1970-06-01T13:00:00Z")),
            (0x17, "260601123045+0100", Some("2026-06-01T11:30:45Z")),
            (0x18, "20600601123045+0100", Some("2060-06-01T11:30:45Z")),
            (0x17, "260601123045+0000", None),
            (0x17, "260601123045+01", None),
            (0x17, "260601123045+0170", None),
            (0x17, "260601123045", None),
            (0x17, "260601123045Z0", None),
            (0x17, "26060112Z", None),
            (0x17, "2613011230Z", None),
            (0x17, "é601123045Z", None),
            (0x18, "206006011230Z", None),
            (0x18, "260601123045Z", None),
        ] {
            let read = time(tag, text.as_bytes()).map(|at| at.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn what_a_certificate_is_good_for_is_read() {
        let authority = Authority::new("a");
        let limited = |limit| authority.limited(limit);
        let [leaf, client, old] = [
            authority.certify(&["localhost"]).certificate,
            authority.certify_client(&["localhost"]).certificate,
            authority.certify_version_1("localhost").certificate,
        ];
        for (pem, vouches, is_above, serves) in [
            (authority.certificate(), true, true, true),
            (limited(Limit::NoAuthority), false, true, true),
            (limited(Limit::NoSigning), false, true, true),
            (limited(Limit::ForClients), false, true, false),
            (limited(Limit::NoneBelow), true, false, true),
            (leaf, false, true, true),
            (client, false, true, false),
            // It has no extensions, and can say nothing of this.
            (old, true, true, true),
        ] {
            let der = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
            let read = Certificate::parse(&der).unwrap();
            let is = (
                read.may_vouch_for_servers(),
                read.may_stand_above(1),
                read.is_for_servers(),
            );
            assert_eq!(is, (vouches, is_above, serves), "{pem}");
            assert!(read.may_stand_above(0), "{pem}");
        }
    }
}
