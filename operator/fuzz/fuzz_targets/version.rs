//! An accepted version, tag or digest prints as it was read.
#![no_main]

use bytebase_contract::version::{ImageDigest, ImageTag, Version};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(version) = Version::parse(text) {
        assert_eq!(version.to_string(), text);
    }
    if let Ok(tag) = ImageTag::parse(text) {
        assert_eq!(tag.as_str(), text);
    }
    if let Ok(digest) = ImageDigest::parse(text) {
        assert_eq!(digest.as_str(), text);
    }
});
