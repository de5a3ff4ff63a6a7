//! Bytebase versions, and the image tags and digests that carry them.

use std::fmt;
use std::str::FromStr;

/// `major.minor.patch` of a Bytebase release or of a metadata schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number: the one that decides whether two schemas agree.
    pub minor: u32,
    /// Third number.
    pub patch: u32,
}

/// Tag of an image, as a registry accepts it. Not always a version: `latest` and private tags are
/// legal.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageTag(String);

/// Digest of an image: `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageDigest(String);

/// Why a text is not a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    /// Nothing there.
    #[error("the version is empty: give three numbers such as 3.21.1")]
    Empty,
    /// `v3.21.1`, which is the form of a Git tag; no image has that tag.
    #[error(
        "the version begins with `{prefix}`: image tags have no such prefix, write the numbers alone, such as 3.21.1"
    )]
    Prefix {
        /// `v` or `V`.
        prefix: char,
    },
    /// Fewer or more than three parts.
    #[error(
        "a version has three parts, and this one has {parts}: give exactly three numbers separated by dots, such as 3.21.1"
    )]
    NotThreeParts {
        /// How many there are.
        parts: usize,
    },
    /// A part holds something other than digits, such as a pre-release suffix.
    #[error(
        "the {part} part of the version is not a plain number: give three numbers such as 3.21.1, without a suffix"
    )]
    NotANumber {
        /// Which of the three.
        part: VersionPart,
    },
    /// `3.021.1` would print as another text than it was read from.
    #[error("the {part} part of the version has a leading zero: write it without")]
    LeadingZero {
        /// Which of the three.
        part: VersionPart,
    },
    /// More than 32 bits.
    #[error("the {part} part of the version is too large to be one")]
    TooLarge {
        /// Which of the three.
        part: VersionPart,
    },
}

/// Names the part of a version that an error is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionPart {
    /// First number.
    Major,
    /// Second number.
    Minor,
    /// Third number.
    Patch,
}

/// Why a text is not an image tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageTagError {
    /// Nothing there.
    #[error("the image tag is empty: give a version such as 3.21.1")]
    Empty,
    /// More than a registry takes.
    #[error("the image tag has {length} characters: a registry takes at most {MAX_TAG_LENGTH}")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// `.` and `-` cannot come first.
    #[error("the image tag begins with `.` or `-`: begin with a letter, a digit or `_`")]
    BadStart,
    /// A character no tag may hold.
    #[error(
        "character {position} of the image tag is not allowed: use letters, digits, `.`, `_` and `-` only{hint}"
    )]
    BadCharacter {
        /// Counted from 1.
        position: usize,
        /// What it probably was meant as.
        hint: &'static str,
    },
}

/// Why a text is not an image digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageDigestError {
    /// Another algorithm, or none.
    #[error(
        "the image digest does not begin with `sha256:`: copy it whole, as the registry shows it"
    )]
    NotSha256,
    /// Not 64 digits.
    #[error("the image digest has {length} characters after `sha256:`: it must have exactly 64")]
    WrongLength {
        /// How many there are.
        length: usize,
    },
    /// Something other than 0-9 and a-f.
    #[error("character {position} after `sha256:` is not one of 0-9 and a-f (lower case)")]
    NotHexadecimal {
        /// Counted from 1.
        position: usize,
    },
}

/// The distribution specification's limit for a tag.
const MAX_TAG_LENGTH: usize = 128;

// === impl Version ===

impl Version {
    /// The oldest release whose HA mode is supported: the one that launched it officially.
    pub const HA_FLOOR: Self = Self::new(3, 17, 0);

    /// The newest minor release against whose tables, locks and licenses this operator was checked.
    pub const NEWEST_CHECKED: Self = Self::new(3, 23, 0);

    /// Puts three numbers together.
    pub const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self {
            major,
            minor,
            patch,
        }
    }

    /// Reads exactly three numbers separated by dots, the way image tags and stored schema versions
    /// are written.
    ///
    /// A leading `v` is refused rather than dropped: the text is used as an image tag, and no image
    /// has one with a `v`.
    pub fn parse(text: &str) -> Result<Self, VersionError> {
        let first = text.chars().next().ok_or(VersionError::Empty)?;
        if matches!(first, 'v' | 'V') {
            return Err(VersionError::Prefix { prefix: first });
        }
        let mut parts = text.split('.');
        let (Some(major), Some(minor), Some(patch), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(VersionError::NotThreeParts {
                parts: text.split('.').count(),
            });
        };
        Ok(Self {
            major: parse_part(major, VersionPart::Major)?,
            minor: parse_part(minor, VersionPart::Minor)?,
            patch: parse_part(patch, VersionPart::Patch)?,
        })
    }

    /// Whether this release line is older than the other's: an image that is `older_minor_than` its
    /// schema is a downgrade. Patch numbers of images and of schemas are counted separately, so
    /// they are not compared.
    pub const fn older_minor_than(self, other: Self) -> bool {
        self.major < other.major || (self.major == other.major && self.minor < other.minor)
    }

    /// Whether this operator was checked against this release line or a later one.
    pub const fn is_checked(self) -> bool {
        !Self::NEWEST_CHECKED.older_minor_than(self)
    }

    /// Whether several replicas are supported.
    pub fn supports_ha(self) -> bool {
        self >= Self::HA_FLOOR
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

fn parse_part(text: &str, part: VersionPart) -> Result<u32, VersionError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(VersionError::NotANumber { part });
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(VersionError::LeadingZero { part });
    }
    text.parse().map_err(|_| VersionError::TooLarge { part })
}

impl fmt::Display for VersionPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Major => "first",
            Self::Minor => "second",
            Self::Patch => "third",
        })
    }
}

// === impl ImageTag ===

impl ImageTag {
    /// Reads a tag by the rule of the OCI distribution specification.
    pub fn parse(text: &str) -> Result<Self, ImageTagError> {
        let first = text.chars().next().ok_or(ImageTagError::Empty)?;
        if text.len() > MAX_TAG_LENGTH {
            return Err(ImageTagError::TooLong { length: text.len() });
        }
        if matches!(first, '.' | '-') {
            return Err(ImageTagError::BadStart);
        }
        let bad = text
            .chars()
            .position(|c| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')));
        match bad {
            None => Ok(Self(text.to_owned())),
            Some(index) => Err(ImageTagError::BadCharacter {
                position: index + 1,
                hint: match text.chars().nth(index) {
                    Some('@') => "; a digest has its own field",
                    Some(':' | '/') => "; give the tag alone, without the repository",
                    Some(c) if c.is_whitespace() => "; remove the blank",
                    _ => "",
                },
            }),
        }
    }

    /// The tag as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The release it names, if it is a plain version.
    pub fn version(&self) -> Option<Version> {
        Version::parse(&self.0).ok()
    }
}

impl fmt::Display for ImageTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl ImageDigest ===

impl ImageDigest {
    /// Reads `sha256:` and 64 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, ImageDigestError> {
        let digits = text
            .strip_prefix("sha256:")
            .ok_or(ImageDigestError::NotSha256)?;
        let length = digits.chars().count();
        if length != 64 {
            return Err(ImageDigestError::WrongLength { length });
        }
        match digits
            .chars()
            .position(|c| !matches!(c, '0'..='9' | 'a'..='f'))
        {
            None => Ok(Self(text.to_owned())),
            Some(index) => Err(ImageDigestError::NotHexadecimal {
                position: index + 1,
            }),
        }
    }

    /// The digest as written, with its algorithm.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_version_is_exactly_three_plain_numbers() {
        for (text, expected) in [
            ("3.21.1", Ok(Version::new(3, 21, 1))),
            ("3.17.0", Ok(Version::HA_FLOOR)),
            ("0.0.0", Ok(Version::new(0, 0, 0))),
            ("3.21.4294967295", Ok(Version::new(3, 21, u32::MAX))),
            ("", Err(VersionError::Empty)),
            ("v3.21.1", Err(VersionError::Prefix { prefix: 'v' })),
            ("3.21", Err(VersionError::NotThreeParts { parts: 2 })),
            ("3.21.1.0", Err(VersionError::NotThreeParts { parts: 4 })),
            ("latest", Err(VersionError::NotThreeParts { parts: 1 })),
            (
                "3.21.1-rc1",
                Err(VersionError::NotANumber {
                    part: VersionPart::Patch,
                }),
            ),
            (
                "3..1",
                Err(VersionError::NotANumber {
                    part: VersionPart::Minor,
                }),
            ),
            (
                " 3.21.1",
                Err(VersionError::NotANumber {
                    part: VersionPart::Major,
                }),
            ),
            (
                "3.+21.1",
                Err(VersionError::NotANumber {
                    part: VersionPart::Minor,
                }),
            ),
            (
                "3.٢.1",
                Err(VersionError::NotANumber {
                    part: VersionPart::Minor,
                }),
            ),
            (
                "3.021.1",
                Err(VersionError::LeadingZero {
                    part: VersionPart::Minor,
                }),
            ),
            (
                "3.21.4294967296",
                Err(VersionError::TooLarge {
                    part: VersionPart::Patch,
                }),
            ),
        ] {
            assert_eq!(Version::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn versions_compare_by_number_and_not_by_text() {
        assert!(Version::new(3, 9, 0) < Version::new(3, 17, 0));
        assert!(!Version::new(3, 16, 9).supports_ha());
        assert!(Version::new(3, 17, 0).supports_ha());
        assert!(Version::new(4, 0, 0).supports_ha());
    }

    #[test]
    fn a_patch_of_the_newest_release_line_is_checked_and_the_next_line_is_not() {
        let Version { major, minor, .. } = Version::NEWEST_CHECKED;
        for (version, checked) in [
            (Version::HA_FLOOR, true),
            (Version::new(major, minor, u32::MAX), true),
            (Version::new(major, minor + 1, 0), false),
            (Version::new(major + 1, 0, 0), false),
        ] {
            assert_eq!(version.is_checked(), checked, "{version}");
        }
    }

    #[test]
    fn only_an_older_minor_is_a_downgrade() {
        let schema = Version::new(3, 21, 5);
        for (image, older) in [
            (Version::new(3, 21, 1), false),
            (Version::new(3, 21, 9), false),
            (Version::new(3, 20, 9), true),
            (Version::new(3, 22, 0), false),
            (Version::new(2, 99, 0), true),
            (Version::new(4, 0, 0), false),
        ] {
            assert_eq!(image.older_minor_than(schema), older, "{image}");
        }
    }

    #[test]
    fn a_tag_is_what_a_registry_takes_and_may_name_no_version() {
        let longest = "a".repeat(128);
        for (text, version) in [
            ("3.21.1", Some(Version::new(3, 21, 1))),
            ("latest", None),
            ("3.21.1-arm64", None),
            ("_x", None),
            (&longest, None),
        ] {
            let tag = ImageTag::parse(text).expect(text);
            assert_eq!(tag.version(), version, "{text}");
            assert_eq!(tag.to_string(), text);
        }
        let too_long = "a".repeat(129);
        for (text, expected) in [
            ("", ImageTagError::Empty),
            (too_long.as_str(), ImageTagError::TooLong { length: 129 }),
            (".1", ImageTagError::BadStart),
            ("-1", ImageTagError::BadStart),
            (
                "bytebase:3",
                ImageTagError::BadCharacter {
                    position: 9,
                    hint: "; give the tag alone, without the repository",
                },
            ),
            (
                "3@sha256",
                ImageTagError::BadCharacter {
                    position: 2,
                    hint: "; a digest has its own field",
                },
            ),
            (
                "3 ",
                ImageTagError::BadCharacter {
                    position: 2,
                    hint: "; remove the blank",
                },
            ),
            (
                "é",
                ImageTagError::BadCharacter {
                    position: 1,
                    hint: "",
                },
            ),
        ] {
            assert_eq!(ImageTag::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn a_digest_is_sha256_and_64_lower_case_digits() {
        let good = format!("sha256:{}", "0a".repeat(32));
        assert_eq!(ImageDigest::parse(&good).expect("a digest").as_str(), good);
        for (text, expected) in [
            (String::new(), ImageDigestError::NotSha256),
            ("0a".repeat(32), ImageDigestError::NotSha256),
            (
                format!("sha512:{}", "0a".repeat(32)),
                ImageDigestError::NotSha256,
            ),
            (
                format!("sha256:{}", "0a".repeat(31)),
                ImageDigestError::WrongLength { length: 62 },
            ),
            (
                format!("sha256:{}0A", "0a".repeat(31)),
                ImageDigestError::NotHexadecimal { position: 64 },
            ),
            (
                format!("sha256:{}é", "0".repeat(63)),
                ImageDigestError::NotHexadecimal { position: 64 },
            ),
        ] {
            assert_eq!(ImageDigest::parse(&text), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_version_reads_back_what_it_prints(major: u32, minor: u32, patch: u32) {
            let version = Version::new(major, minor, patch);
            prop_assert_eq!(Version::parse(&version.to_string()), Ok(version));
        }

        #[test]
        fn any_text_is_read_without_a_panic_and_only_canonical_text_is_taken(text in "\\PC*|[v0-9.]{0,14}") {
            if let Ok(version) = Version::parse(&text) {
                prop_assert_eq!(version.to_string(), text.as_str());
            }
            if let Ok(tag) = ImageTag::parse(&text) {
                prop_assert_eq!(tag.as_str(), text.as_str());
            }
            let _ = ImageDigest::parse(&text);
            let _ = ImageDigest::parse(&format!("sha256:{text}"));
        }
    }
}
