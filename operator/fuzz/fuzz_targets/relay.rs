//! Whatever a server sends and however it is cut, sqlx is given whole heads and the bodies that
//! belong to them, without what was not asked for, and not too much.

#![no_main]

use bytebase_login::passed_on;
use libfuzzer_sys::fuzz_target;

/// The same, by the whole of the stream.
fn expected(mut stream: &[u8]) -> Vec<u8> {
    let mut expected = Vec::new();
    while let [kind, a, b, c, d, rest @ ..] = stream {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let body = rest
            .len()
            .min(length.checked_sub(4).expect("a length includes itself"));
        if !b"NSA".contains(kind) {
            expected.extend_from_slice(&stream[..5 + body]);
        }
        stream = &rest[body..];
    }
    expected
}

fuzz_target!(|data: &[u8]| {
    let Some((size, stream)) = data.split_first() else {
        return;
    };
    let whole = passed_on([stream]);
    let cut = passed_on(stream.chunks(usize::from(*size).max(1)));
    match (whole, cut) {
        (Ok(whole), Ok(cut)) => {
            assert!(whole == expected(stream));
            assert!(cut == whole);
            assert!(whole.len() <= 256 * 1024);
        }
        (whole, cut) => assert!(whole.is_err() && cut.is_err()),
    }
});
