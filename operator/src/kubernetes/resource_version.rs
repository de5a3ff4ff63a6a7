//! `metadata.resourceVersion`.

use serde::Deserialize;
use std::cmp::Ordering;

/// The version of an object, or of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct ResourceVersion(String);

impl From<String> for ResourceVersion {
    fn from(version: String) -> Self {
        Self(version)
    }
}

impl ResourceVersion {
    /// Which of two versions of objects of the same kind is later. They are numbers that grow with
    /// each write: Kubernetes promises it since 1.35, and its own storage has never made others.
    /// `None`: they are not, and differ.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self.number(), other.number()) {
            (Some(own), Some(other)) => Some(own.cmp(&other)),
            _ => (self == other).then_some(Ordering::Equal),
        }
    }

    /// Whether this is known to be that version, or a later one.
    pub fn is_at_least(&self, other: &Self) -> bool {
        self.compare(other).is_some_and(Ordering::is_ge)
    }

    fn number(&self) -> Option<u128> {
        self.0.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers_and_others_are_the_same_or_not_known_to_be_newer() {
        for (one, other, expected) in [
            ("7", "7", true),
            ("10", "9", true),
            ("9", "10", false),
            ("b", "a", false),
            ("a", "a", true),
            ("8", "a", false),
            ("", "7", false),
        ] {
            let [one, other] = [one, other].map(|text| ResourceVersion::from(text.to_owned()));
            assert_eq!(one.is_at_least(&other), expected, "{one:?} {other:?}");
        }
    }
}
