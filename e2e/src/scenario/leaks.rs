//! Looking for secrets where none may be: whatever a scenario planted must not turn up in anything
//! the operator wrote.

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use std::collections::{BTreeMap, BTreeSet};

/// Anything shorter turns up anywhere by chance.
const SHORTEST: usize = 8;
/// So many characters of a random secret turn up nowhere by chance.
const PART: usize = 12;
/// Begins the first and the last line of a key or a certificate; they are the same in all.
const PEM_BOUNDARY: &str = "-----";

/// A secret that was planted, under the name an error may call it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planted {
    pub label: String,
    /// What is looked for; nothing if the secret is too short.
    forms: BTreeSet<String>,
}

impl Planted {
    /// A secret to look for: each of its lines, and what base64 makes of it. Of a key that stands
    /// in a log line by line, no line is the whole of it.
    pub fn new(label: impl Into<String>, value: impl AsRef<str>) -> Self {
        let value = value.as_ref();
        let lines = value.lines().map(str::trim);
        let lines: Vec<_> = lines
            .filter(|line| line.len() >= SHORTEST && !line.starts_with(PEM_BOUNDARY))
            .collect();
        let whole = (!lines.is_empty()).then_some(value);
        let encoded = lines.iter().copied().chain(whole).flat_map(in_base64);
        let plain = lines.iter().map(|line| (*line).to_owned());
        Self {
            label: label.into(),
            forms: plain.chain(encoded).collect(),
        }
    }

    /// One of random letters and digits alone, each part of which is looked for as well: a message
    /// may be cut off in the middle of it.
    pub fn random(label: impl Into<String>, value: &str) -> Self {
        let mut planted = Self::new(label, value);
        let parts = value.as_bytes().windows(PART);
        let parts = parts.filter_map(|part| str::from_utf8(part).ok());
        planted.forms.extend(parts.map(str::to_owned));
        planted
    }
}

/// Every place that holds one of the secrets. `places` are names with texts. A find names the
/// secret and the place, and shows neither the secret nor the line.
pub fn find(planted: &[Planted], places: &[(String, String)]) -> Vec<String> {
    let too_short = planted.iter().filter(|secret| secret.forms.is_empty());
    let mut found: Vec<_> = too_short
        .map(|secret| format!("the {} is too short to be looked for", secret.label))
        .collect();
    let forms: Vec<_> = planted
        .iter()
        .flat_map(|secret| secret.forms.iter().map(move |form| (secret, form)))
        .collect();
    // All of them are looked for at once.
    let search = match AhoCorasick::new(forms.iter().map(|(_, form)| form)) {
        Ok(search) => search,
        Err(error) => {
            found.push(format!("what was planted cannot be looked for: {error}"));
            return found;
        }
    };
    for (place, text) in places {
        let mut stands = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            for reading in readings(text) {
                for hit in search.find_overlapping_iter(&reading) {
                    let (secret, _) = forms[hit.pattern().as_usize()];
                    stands.entry(&secret.label).or_insert(line);
                }
            }
        }
        let stands = stands.into_iter();
        found.extend(
            stands.map(|(label, line)| format!("the {label} stands in {place}, line {line}")),
        );
    }
    found
}

/// What base64 makes of a text wherever it begins inside a longer one: for each place that its
/// first byte may have in a group of three, the characters in which no other byte has a part.
fn in_base64(text: &str) -> impl Iterator<Item = String> {
    (0..3).map(move |skipped| {
        let bytes = text.as_bytes().get(skipped..).unwrap_or_default();
        let groups = bytes.len() / 3 * 3;
        STANDARD_NO_PAD.encode(bytes.get(..groups).unwrap_or_default())
    })
}

/// A line as it stands, and what it says in JSON, in YAML and in a URL. A log in JSON may quote
/// JSON.
fn readings(line: &str) -> Vec<String> {
    // Most lines say the same in all of them.
    let mut readings = vec![line.to_owned()];
    if line.contains('\\') {
        let once = unescaped(line);
        readings.push(unescaped(&once));
        readings.push(once);
    }
    if line.contains("''") {
        readings.push(line.replace("''", "'"));
    }
    let encoded = readings.iter().filter(|text| text.contains('%'));
    let decoded: Vec<_> = encoded.map(|text| percent_decoded(text)).collect();
    readings.extend(decoded);
    readings
}

/// The text without the backslashes of JSON and of quoted YAML.
fn unescaped(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars();
    while let Some(char) = rest.next() {
        let next = if char == '\\' { rest.next() } else { None };
        plain.push(match next {
            None => char,
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => {
                let digits: String = rest.by_ref().take(4).collect();
                let code = u32::from_str_radix(&digits, 16).ok();
                code.and_then(char::from_u32)
                    .unwrap_or(char::REPLACEMENT_CHARACTER)
            }
            Some(other) => other,
        });
    }
    plain
}

/// The text with `%41` as `A`.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let mut byte = [*first];
        rest = match rest {
            [b'%', high, low, after @ ..]
                if hex::decode_to_slice([*high, *low], &mut byte).is_ok() =>
            {
                after
            }
            _ => after,
        };
        bytes.extend(byte);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HARD: &str = "it's \\ a \"password\" & more";

    fn places(text: &str) -> Vec<(String, String)> {
        vec![("the log".to_owned(), text.to_owned())]
    }

    fn is_found(secret: &str, text: &str) -> bool {
        !find(&[Planted::new("secret", secret)], &places(text)).is_empty()
    }

    #[test]
    fn a_secret_is_found_plain_and_encoded_and_not_repeated() {
        let planted = [Planted::new("password", "correct-horse")];
        for text in [
            "a\nurl=postgres://u:correct-horse@h/d",
            "x\nY29ycmVjdC1ob3JzZQ==",
        ] {
            let found = find(&planted, &places(text));
            assert_eq!(found, ["the password stands in the log, line 2"]);
        }
        assert!(find(&planted, &places("nothing here")).is_empty());
    }

    #[test]
    fn a_secret_too_short_to_look_for_is_an_error() {
        for short in ["abc", "", "one\ntwo", "-----BEGIN KEY-----\nabc"] {
            assert_eq!(find(&[Planted::new("password", short)], &[]).len(), 1);
        }
    }

    #[test]
    fn each_line_of_a_secret_is_found_and_what_all_keys_have_is_not() {
        let key = "-----BEGIN KEY-----\nMC4CAQAwBQYDK2Vw\n  BCIEIJ+9kPjQ4Zq0\n-----END KEY-----\n";
        for text in [
            "key: MC4CAQAwBQYDK2Vw",
            "BCIEIJ+9kPjQ4Zq0",
            r#"{"key":"-----BEGIN KEY-----\nMC4CAQAwBQYDK2Vw\n"}"#,
        ] {
            assert!(is_found(key, text), "{text}");
        }
        assert!(is_found(key, &STANDARD_NO_PAD.encode(key)));
        assert!(!is_found(
            key,
            "-----BEGIN KEY-----\nanother\n-----END KEY-----"
        ));
    }

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        let json = serde_json::json!({ "message": HARD }).to_string();
        let quoted = serde_json::json!({ "message": json }).to_string();
        for text in [
            HARD,
            &json,
            &quoted,
            &json.replace('&', "\\u0026"),
            "message: 'it''s \\ a \"password\" & more'",
            "it%27s%20%5C%20a%20%22password%22%20%26%20more",
            "it's%20%5c%20a%20\"password\"%20&%20more",
        ] {
            assert!(is_found(HARD, text), "{text}");
        }
        assert!(!is_found(HARD, "it's a password & more"));
    }

    #[test]
    fn a_secret_is_found_in_base64_wherever_it_begins() {
        for before in ["", "u", "us", "use"] {
            let login = STANDARD_NO_PAD.encode(format!("{before}:{HARD}@host"));
            assert!(is_found(HARD, &login), "{before}");
        }
    }

    #[test]
    fn a_secret_is_found_in_its_first_line_and_inside_another() {
        let planted = ["correct-horse-battery", "horse-battery", "not-planted"]
            .map(|secret| Planted::new(secret, secret));
        let found = find(&planted, &places("a\ncorrect-horse-battery\nhorse-battery"));
        assert_eq!(
            found,
            [
                "the correct-horse-battery stands in the log, line 2",
                "the horse-battery stands in the log, line 2",
            ]
        );
    }

    #[test]
    fn of_a_random_secret_each_part_is_found() {
        let secret = "q8Zr1kTn5Wc0Yb7Lx3Pd9Vgs";
        let planted = [Planted::random("password", secret)];
        for (from, to, is_found) in [(0, 12, true), (7, 20, true), (12, 24, true), (0, 11, false)] {
            let found = find(&planted, &places(&format!("it is {}", &secret[from..to])));
            assert_eq!(!found.is_empty(), is_found, "{from} to {to}");
        }
        assert_eq!(
            find(&planted, &places(&STANDARD_NO_PAD.encode(secret))).len(),
            1
        );
        assert_eq!(find(&[Planted::random("password", "abc")], &[]).len(), 1);
    }

    #[test]
    fn what_is_no_escape_stays_as_it_is() {
        assert_eq!(unescaped("a\\"), "a\\");
        assert_eq!(unescaped("\\u00e4\\ud800"), "ä\u{fffd}");
        assert_eq!(percent_decoded("100 % %4 %zz %41"), "100 % %4 %zz A");
    }
}
