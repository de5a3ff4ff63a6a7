//! PEM by the rules of Go's `encoding/pem`, which Bytebase reads a CA bundle by. Other readers
//! differ where a file is not quite in order: on blanks, on a block without an end, on two blocks
//! that share a line.

use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine as _};

/// Begins the first line of a block.
const BEGIN: &[u8] = b"-----BEGIN ";
/// The end of the line before, and what the last line begins with.
const END: &[u8] = b"\n-----END ";
/// Ends both lines.
const DASHES: &[u8] = b"-----";

/// Go does not look at the bits of the last character that belong to no byte.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A block that Go reads.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Block<'a> {
    /// Where it begins.
    pub at: usize,
    /// What its first line says that it holds.
    pub label: &'a [u8],
    /// Whether there are lines of the form `key: value` in front of the content.
    pub has_headers: bool,
    /// The content.
    pub content: Vec<u8>,
}

/// All blocks of a file, in their order.
pub(crate) fn blocks(file: &[u8]) -> impl Iterator<Item = Block<'_>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        let (block, rest) = next(file, from)?;
        from = rest;
        Some(block)
    })
}

/// Where it looks as if a block began.
pub(crate) fn begins(file: &[u8]) -> impl Iterator<Item = usize> {
    let windows = file.windows(BEGIN.len()).enumerate();
    windows.filter_map(|(at, window)| (window == BEGIN).then_some(at))
}

/// The next block from there on, and where its last line ends. `None` also where Go gives up: on a
/// block of which everything up to its end, or to that of the file, reads as headers.
fn next(file: &[u8], mut from: usize) -> Option<(Block<'_>, usize)> {
    loop {
        let end = from + find(file.get(from..)?, END)?;
        let start = from;
        let behind_end = end + END.len();
        from = behind_end;
        // Of several first lines the one next to the last line counts.
        let Some(at) = find_last(&file[start..end], BEGIN) else {
            continue;
        };
        let at = start + at;
        if at > start && file[at - 1] != b'\n' {
            continue;
        }
        let (first, mut content) = line(file, at + BEGIN.len());
        let Some(label) = first.strip_suffix(DASHES) else {
            continue;
        };
        let headers = content;
        loop {
            if content == file.len() {
                return None;
            }
            let (text, following) = line(file, content);
            if !text.contains(&b':') {
                break;
            }
            content = following;
        }
        let has_headers = content > headers;
        if has_headers && end < content {
            if behind_end < content {
                return None;
            }
            continue;
        }
        let tail = file[behind_end..].strip_prefix(label);
        let Some(tail) = tail.and_then(|tail| tail.strip_prefix(DASHES)) else {
            continue;
        };
        let ([], following) = line(file, file.len() - tail.len()) else {
            continue;
        };
        // Without content the line break in front of the last line is that behind the first.
        let mut base64 = file.get(content..end).unwrap_or_default().to_vec();
        base64.retain(|byte| !b" \t\r\n".contains(byte));
        let Ok(decoded) = BASE64.decode(base64) else {
            continue;
        };
        let block = Block {
            at,
            label,
            has_headers,
            content: decoded,
        };
        return Some((block, following));
    }
}

/// The line from there on, without blanks at its end, and where the next one begins.
fn line(file: &[u8], from: usize) -> (&[u8], usize) {
    let rest = &file[from..];
    let (mut line, next) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => {
            let line = &rest[..end];
            (line.strip_suffix(b"\r").unwrap_or(line), from + end + 1)
        }
        None => (rest, file.len()),
    };
    while let [shorter @ .., b' ' | b'\t'] = line {
        line = shorter;
    }
    (line, next)
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(pattern.len());
    windows.position(|window| window == pattern)
}

fn find_last(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    let mut windows = bytes.windows(pattern.len());
    windows.rposition(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The contents of the blocks, and whether each has headers. What is expected here is what Go
    /// makes of the same texts.
    #[test]
    fn blocks_are_those_that_go_reads() {
        let a = "-----BEGIN A-----\nYQ==\n-----END A-----";
        for (file, expected) in [
            (format!("{a}\n"), "a"),
            (a.to_owned(), "a"),
            (format!("text\n{a}\ntext\n{a}\n"), "aa"),
            (format!("text{a}\n"), ""),
            (format!("{a}{a}\n"), ""),
            (format!("{a}text\n{a}\n"), "a"),
            (format!("{a} \t\r\n{a}\n"), "aa"),
            (format!("{a}\r"), ""),
            (a.replace('\n', "\r\n"), "a"),
            (a.replace('\n', "\r"), ""),
            (a.replace('\n', "\n\n"), "a"),
            (a.replace("YQ==", " Y Q\t=\n="), "a"),
            (a.replace("YQ==", "YR=="), "a"),
            (a.replace("YQ==", "YQ"), ""),
            (a.replace("YQ==", "YQ==YQ=="), ""),
            (a.replace("YQ==", "!"), ""),
            (format!("{}\n{a}", a.replace("YQ==", "!")), "a"),
            (a.replace("YQ==\n", ""), "-"),
            (a.replace("BEGIN A-----", "BEGIN A----- \t"), "a"),
            (a.replace("BEGIN A-----", "BEGIN A"), ""),
            (a.replace("END A", "END B"), ""),
            (a.replace("-----BEGIN", " -----BEGIN"), ""),
            (a.replace("-----END", " -----END"), ""),
            (format!("-----BEGIN B-----\nYg==\n{a}\n"), "a"),
            (format!("-----END A-----\n{a}\n"), "a"),
            (a.replace("YQ==", "k: v\n\nYQ=="), "[a]"),
            (a.replace("YQ==", "k: v\nYQ=="), "[a]"),
            (format!("{}\n{a}\n", a.replace("YQ==", "k: v")), "a"),
            (
                "-----BEGIN A-----\nk: v\n-----END A:\nx:\n".to_owned() + a,
                "",
            ),
            ("-----BEGIN A-----\n".to_owned(), ""),
            (String::new(), ""),
        ] {
            let read = blocks(file.as_bytes()).map(|block| {
                let content = String::from_utf8(block.content).unwrap();
                assert!(file[block.at..].starts_with("-----BEGIN A"), "{file:?}");
                assert_eq!(block.label, b"A");
                match (block.has_headers, content.is_empty()) {
                    (true, _) => format!("[{content}]"),
                    (false, true) => "-".to_owned(),
                    (false, false) => content,
                }
            });
            assert_eq!(read.collect::<String>(), expected, "{file:?}");
        }
    }
}
