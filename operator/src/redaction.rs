//! What of a log line may be shown to whoever may read a status or an event.
//!
//! Two rules hold at the same time. No part of a secret that the operator knows is shown. And of
//! what it does not know, only words are shown that look like words of a message: a login, a token
//! or a key looks like none.

use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret as _, SecretString};
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// Longest line that is shown, in characters.
const LONGEST: usize = 200;
/// No more of a line than this is looked at.
const LONGEST_READ: usize = 4096;
/// A part of a known secret counts as that secret from this many characters on.
const PIECE: usize = 6;
/// No line is compared with more than so many bytes of secrets: it is not shown at all. A license
/// has two thousand.
const LARGEST_KNOWN: usize = 256 * 1024;
/// Stands for what is left out.
const HIDDEN: &str = "***";
/// Stands for the rest of a line that is too long.
const CUT: &str = "…";
/// A run of letters, digits and what base64 adds to them is no word from this length on.
const RUN: usize = 20;

/// Names whose values are secret, in lower case, wherever they stand in a longer name.
const SECRET_NAMES: [&str; 11] = [
    "passw",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "credential",
    "apikey",
    "api_key",
    "api-key",
    "private",
    "authorization",
];
/// Words that announce a secret as the next word.
const SCHEMES: [&str; 3] = ["Bearer", "bearer", "Basic"];

/// Values that are known to be secret.
#[derive(Clone, Debug, Default)]
pub struct KnownSecrets(Vec<SecretString>);

/// A line that may be shown. Only [`RedactedLine::of`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedactedLine(String);

// === impl KnownSecrets ===

impl KnownSecrets {
    /// Adds a value.
    pub fn add(&mut self, secret: &SecretString) {
        self.0.push(secret.clone());
    }

    /// Each as one line, in lower case. `None`: they are too many to compare a line with.
    fn lines(&self) -> Option<Vec<String>> {
        let sizes = self.0.iter().map(|secret| secret.expose_secret().len());
        let lines = self.0.iter();
        let lines = lines.map(|secret| one_line(secret.expose_secret()).to_ascii_lowercase());
        (sizes.sum::<usize>() <= LARGEST_KNOWN).then(|| lines.collect())
    }
}

/// The secrets that a line is compared with, taken apart once for all its words.
struct Parts<'a> {
    /// Those that are shorter than a piece.
    short: Vec<&'a str>,
    /// The pieces of all others.
    pieces: HashSet<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(lines: &'a [String]) -> Self {
        let (short, long): (Vec<_>, Vec<_>) = lines
            .iter()
            .filter(|line| !line.trim().is_empty())
            .partition(|line| line.trim().chars().count() < PIECE);
        let pieces = long.into_iter().flat_map(|line| pieces(line));
        Self {
            short: short.into_iter().map(|line| line.trim()).collect(),
            pieces: pieces.map(|(_, piece)| piece).collect(),
        }
    }

    /// Where a text of one line repeats a part of a secret, whatever the case of its letters.
    fn places(&self, text: &str) -> Vec<Range<usize>> {
        let text = text.to_ascii_lowercase();
        let short = self
            .short
            .iter()
            .flat_map(|whole| text.match_indices(whole));
        let pieces = pieces(&text).filter(|(_, piece)| self.pieces.contains(piece));
        let found = short.chain(pieces);
        found
            .map(|(start, found)| start..start + found.len())
            .collect()
    }

    fn are_in(&self, text: &str) -> bool {
        !self.places(text).is_empty()
    }

    /// Whether a word repeats a part of a secret in the form that addresses or quoted texts give
    /// it.
    fn are_encoded_in(&self, word: &str) -> bool {
        let is_encoded = word.contains(['%', '+', '\\']);
        is_encoded
            && [
                percent_decode_str(word).decode_utf8_lossy().into_owned(),
                percent_decode_str(&word.replace('+', " "))
                    .decode_utf8_lossy()
                    .into_owned(),
                unescaped(word),
            ]
            .iter()
            .any(|decoded| self.are_in(&one_line(decoded)))
    }
}

/// A text as it was before Go or JSON wrote it between quotes.
pub fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            plain.push(c);
            continue;
        }
        let digits = match chars.next() {
            Some('n') => {
                plain.push('\n');
                continue;
            }
            Some('t') => {
                plain.push('\t');
                continue;
            }
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            Some(c) if c.is_ascii_alphabetic() => {
                plain.push(' ');
                continue;
            }
            Some(c) => {
                plain.push(c);
                continue;
            }
            None => break,
        };
        let code: String = chars.by_ref().take(digits).collect();
        let code = u32::from_str_radix(&code, 16).ok().and_then(char::from_u32);
        plain.push(code.unwrap_or(' '));
    }
    plain
}

/// Each part of [`PIECE`] characters, and where it begins.
fn pieces(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts = text.char_indices().map(|(start, _)| start);
    let ends = text.char_indices().map(|(start, c)| start + c.len_utf8());
    let pieces = starts.zip(ends.skip(PIECE - 1));
    pieces.map(|(start, end)| (start, &text[start..end]))
}

// === impl RedactedLine ===

impl RedactedLine {
    /// Of a text, without whatever is secret in it or could be. `None` where nothing of it is left.
    pub fn of(text: &str, secrets: &KnownSecrets) -> Option<Self> {
        let text: String = one_line(text).chars().take(LONGEST_READ).collect();
        let lines = secrets.lines()?;
        let secrets = &Parts::of(&lines);
        let mut words = Words::of(&text);
        words.hide_known(secrets);
        words.hide_blocks();
        words.hide_addresses();
        words.hide_named();
        words.hide_unlikely();
        let shown = shortened(&words.shown());
        let is_message = |word: &str| {
            let letters = word.chars().filter(|c| c.is_alphabetic());
            letters.count() >= 3
        };
        // Whatever was overlooked above, this was not.
        (shown.split(' ').any(is_message) && !secrets.are_in(&shown)).then_some(Self(shown))
    }

    /// The line.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether two lines say the same but for numbers, such as the port of a connection, which are
    /// others at each start.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let words = |line: &Self| {
            let mut words = line.0.replace(|c: char| c.is_ascii_digit(), "0");
            while words.contains("00") {
                words = words.replace("00", "0");
            }
            words
        };
        words(self) == words(other)
    }
}

impl fmt::Display for RedactedLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text as one line of words, each after one blank, without characters that cannot be seen or
/// that change how others are.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_graphic() || c.is_alphanumeric() || c == '…' {
            line.push(c);
        } else if !line.ends_with(' ') {
            line.push(' ');
        }
    }
    line
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(LONGEST - 2).collect();
    // A part of a word says little, and could look like a whole one.
    short.truncate(short.rfind(' ').unwrap_or(0));
    format!("{short} {CUT}")
}

/// The words of a line, of which some are not to be shown.
struct Words<'a> {
    text: &'a str,
    /// Where each is, and whether it is hidden.
    words: Vec<(Range<usize>, bool)>,
}

impl<'a> Words<'a> {
    fn of(text: &'a str) -> Self {
        let mut at = 0;
        let words = text.split(' ').map(|word| {
            let start = at;
            at += word.len() + 1;
            (start..start + word.len(), false)
        });
        let words = words.filter(|(range, _)| !range.is_empty());
        Self {
            text,
            words: words.collect(),
        }
    }

    fn word(&self, index: usize) -> &'a str {
        self.words
            .get(index)
            .map_or("", |(range, _)| &self.text[range.clone()])
    }

    fn hide(&mut self, words: Range<usize>) {
        let end = words.end.min(self.words.len());
        for (_, hidden) in &mut self.words[words.start.min(end)..end] {
            *hidden = true;
        }
    }

    fn hide_known(&mut self, secrets: &Parts<'_>) {
        let places = secrets.places(self.text);
        for index in 0..self.words.len() {
            let (range, _) = &self.words[index];
            let overlaps =
                |place: &Range<usize>| place.start < range.end && range.start < place.end;
            if places.iter().any(overlaps) || secrets.are_encoded_in(self.word(index)) {
                self.hide(index..index + 1);
            }
        }
    }

    /// Keys and certificates from their `-----BEGIN` to their `-----END`, or to the end.
    fn hide_blocks(&mut self) {
        let (mut inside, mut ends) = (false, false);
        for index in 0..self.words.len() {
            let word = self.word(index);
            inside |= word.contains("-----BEGIN");
            if inside {
                self.hide(index..index + 1);
                ends |= word.contains("-----END");
            }
            if ends && word.ends_with("-----") {
                (inside, ends) = (false, false);
            }
        }
    }

    /// Addresses with what may be a login in them. A password that is not encoded may hold blanks,
    /// so all is hidden up to the last `@`.
    fn hide_addresses(&mut self) {
        let count = self.words.len();
        let mut all = 0..count;
        let Some(first) = all.find(|index| self.word(*index).contains("://")) else {
            return;
        };
        let at = (first..count).rfind(|index| self.word(*index).contains('@'));
        if let Some(at) = at {
            self.hide(first..at + 1);
        }
        for index in first..count {
            if self.word(index).contains("://") {
                self.hide(index..index + 1);
            }
        }
    }

    /// Values of names that say that they are secret.
    fn hide_named(&mut self) {
        for index in 0..self.words.len() {
            let word = self.word(index);
            let lower = word.to_ascii_lowercase();
            let bare = word.trim_matches(|c: char| !c.is_alphanumeric());
            let is_flag = word.starts_with('-') && !word.contains('=') && is_secret_name(&lower);
            let value = if SCHEMES.contains(&bare) || is_flag {
                Some((index + 1, self.word(index + 1)))
            } else {
                match secret_value(word) {
                    Some("") => Some((index + 1, self.word(index + 1))),
                    Some(value) => Some((index, value)),
                    None => None,
                }
            };
            if let Some((at, value)) = value {
                let end = self.end_of_value(at, value);
                self.hide(at..end);
            }
        }
    }

    /// The word after a value that begins in this one: a quoted one may hold blanks.
    fn end_of_value(&self, at: usize, value: &str) -> usize {
        let value = value.trim_start_matches('\\');
        let quote = value.chars().next().filter(|c| "'\"`".contains(*c));
        let Some(quote) = quote else {
            return at + 1;
        };
        if value[1..].contains(quote) {
            return at + 1;
        }
        let mut rest = at + 1..self.words.len();
        rest.find(|index| self.word(*index).contains(quote))
            .map_or(self.words.len(), |last| last + 1)
    }

    fn hide_unlikely(&mut self) {
        for index in 0..self.words.len() {
            if !is_plain(self.word(index)) {
                self.hide(index..index + 1);
            }
        }
    }

    /// Hidden words that follow one another are one: how many there are says something of them.
    fn shown(&self) -> String {
        let mut shown: Vec<&str> = Vec::new();
        for (range, hidden) in &self.words {
            let word = match &self.text[range.clone()] {
                word if word == CUT => word,
                _ if *hidden => HIDDEN,
                word => word,
            };
            if word != HIDDEN || shown.last() != Some(&HIDDEN) {
                shown.push(word);
            }
        }
        shown.join(" ")
    }
}

fn is_secret_name(name: &str) -> bool {
    SECRET_NAMES.iter().any(|secret| name.contains(secret))
}

/// What a word assigns to a name that says that it is secret; empty where the next word does.
fn secret_value(word: &str) -> Option<&str> {
    let mut rest = word;
    let mut begins = 0;
    while let Some(at) = rest.find([':', '=']) {
        let name = word[begins..begins + at].to_ascii_lowercase();
        let value = &rest[at + 1..];
        // `duplicate key: it exists` names no key to anything.
        let is_key = name
            .trim_end_matches(|c: char| !c.is_alphanumeric())
            .ends_with("key")
            && !value.is_empty();
        if is_secret_name(&name) || is_key {
            return Some(value.trim_start_matches(['=', ':', '>']));
        }
        begins += at + 1;
        rest = value;
    }
    None
}

/// Whether a word looks like one of a message: a name, a number, a path, an address without a
/// login.
fn is_plain(word: &str) -> bool {
    let is_separator = |c: char| !c.is_alphanumeric();
    let is_of_run = |c: char| c.is_alphanumeric() || "+/_-".contains(c);
    !word.contains('@')
        && !has_inner_symbol(word)
        && word.split(is_separator).all(is_plain_part)
        && word.split(|c| !is_of_run(c)).all(is_plain_run)
}

/// Between letters and digits these stand in passwords, escapes and queries of addresses.
fn has_inner_symbol(word: &str) -> bool {
    let mut after_part = false;
    for (at, c) in word.char_indices() {
        let rest = &word[at + c.len_utf8()..];
        if after_part && "!$%^&~?;|\\".contains(c) && rest.contains(char::is_alphanumeric) {
            return true;
        }
        after_part = c.is_alphanumeric();
    }
    false
}

fn is_plain_part(part: &str) -> bool {
    let length = part.chars().count();
    let digits = part.chars().filter(|c| c.is_numeric()).count();
    match digits {
        0 => length < RUN && (length < 8 || rises(part) < 3),
        _ if digits == length => length <= 6,
        // `28P01`, `x509`, `utf8`.
        _ => length <= 5,
    }
}

/// How often a capital follows a small letter.
fn rises(part: &str) -> usize {
    let pairs = part.chars().zip(part.chars().skip(1));
    pairs
        .filter(|(first, second)| first.is_lowercase() && second.is_uppercase())
        .count()
}

/// A long run of letters and digits is base64 or hexadecimal, unless it is words with something
/// between them.
fn is_plain_run(run: &str) -> bool {
    if run.chars().count() < RUN {
        return true;
    }
    let is_word = |part: &str| {
        let rest = part.chars().skip(1);
        let is_small = rest.clone().all(char::is_lowercase);
        let is_large = part.chars().all(char::is_uppercase);
        part.chars().count() <= 15
            && part.chars().all(char::is_alphabetic)
            && (is_small || is_large)
    };
    let digits = run.chars().filter(|c| c.is_numeric()).count();
    let is_number = |part: &str| part.chars().all(char::is_numeric);
    !run.contains('+')
        && digits <= 4
        && run
            .split(['/', '_', '-'])
            .all(|part| is_word(part) || is_number(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_would_be_compared_with_too_much_is_not_shown() {
        let known = |bytes: usize| {
            let mut secrets = KnownSecrets::default();
            secrets.add(&"s".repeat(bytes).into());
            RedactedLine::of("Error: the port is taken", &secrets)
        };
        assert!(known(LARGEST_KNOWN).is_some());
        assert_eq!(known(LARGEST_KNOWN + 1), None);
    }
    use proptest::prelude::*;
    use serde_json::Value;

    fn known(secrets: &[&str]) -> KnownSecrets {
        let mut known = KnownSecrets::default();
        for secret in secrets {
            known.add(&(*secret).to_owned().into());
        }
        known
    }

    fn shown(text: &str, secrets: &[&str]) -> String {
        let line = RedactedLine::of(text, &known(secrets));
        line.map(|line| line.to_string()).unwrap_or_default()
    }

    #[test]
    fn what_bytebase_says_of_a_failed_start_can_be_read() {
        for line in [
            "Cannot new server: failed to connect to `user=bytebase database=bytebase`: 10.96.0.10:5432 (db.example.com): server error: FATAL: password authentication failed for user \"bytebase\" (SQLSTATE 28P01)",
            "Cannot new server: HA mode requires external PostgreSQL (set PG_URL environment variable)",
            "Cannot new server: failed to migrate: backend/migrator/migration/3.21/0009##add_workspace_table.sql: ERROR: relation \"task_run\" does not exist (SQLSTATE 42P01)",
            "panic: runtime error: invalid memory address or nil pointer dereference",
            "listen tcp :8080: bind: address already in use",
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
            "lookup bytebase-postgresql-primary.db.svc.cluster.local on 10.96.0.10:53: no such host",
            "Error: unknown flag: --frobnicate",
        ] {
            assert_eq!(shown(line, &["hunter2-and-more"]), line);
        }
    }

    #[test]
    fn what_could_be_secret_is_left_out() {
        for (line, expected) in [
            (
                "failed to parse postgres://bytebase:hunter@db.example.com/bytebase as URL",
                "failed to parse *** as URL",
            ),
            (
                "failed to parse 'postgres://bytebase:my own pass@db.example.com/bytebase' as URL",
                "failed to parse *** as URL",
            ),
            (
                "bad string host=db password=hunter user=bytebase",
                "bad string host=db *** user=bytebase",
            ),
            (
                "bad string password='my own pass' user=bytebase",
                "bad string *** user=bytebase",
            ),
            (
                "it was password: hunter again",
                "it was password: *** again",
            ),
            (
                "started with --admin-password hunter here",
                "started with --admin-password *** here",
            ),
            (
                "map[user:bytebase password:hunter port:5432]",
                "map[user:bytebase *** port:5432]",
            ),
            (
                "the header Authorization: Bearer abcdef was refused",
                "the header Authorization: *** was refused",
            ),
            (
                "key -----BEGIN RSA PRIVATE KEY----- abcd efgh -----END RSA PRIVATE KEY----- is not valid",
                "key *** is not valid",
            ),
            (
                "token eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJieXRlYmFzZSJ9.c2ln is not valid",
                "token *** is not valid",
            ),
            ("admin@example.com may not log in", "*** may not log in"),
            ("the value Tr0ub4dor&3 is wrong", "the value *** is wrong"),
            ("the value hunter2 is wrong", "the value *** is wrong"),
            (
                "the digest deadbeefdeadbeefdeadbeef differs",
                "the digest *** differs",
            ),
        ] {
            assert_eq!(shown(line, &[]), expected);
        }
        for nothing in [
            "",
            " \n",
            "***",
            "postgres://a:b@c",
            "12 34",
            "aGVsbG8gd29ybGQgaGVsbG8gd29ybGQ=",
        ] {
            assert_eq!(RedactedLine::of(nothing, &known(&[])), None, "{nothing}");
        }
    }

    #[test]
    fn a_known_secret_is_left_out_however_short_or_plain_it_is() {
        for (secret, line, expected) in [
            (
                "abc",
                "the role abc and abcdef failed",
                "the role *** and *** failed",
            ),
            (
                "correct horse",
                "it said correct horse twice",
                "it said *** twice",
            ),
            (
                "correct  horse",
                "it said correct\thorse twice",
                "it said *** twice",
            ),
            (
                "correcthorse",
                "it said CorrectHorse twice",
                "it said *** twice",
            ),
            (
                "correcthorse\n",
                "it said correcthorse twice",
                "it said *** twice",
            ),
            (
                "a/b+c=d e",
                "it said a%2Fb%2Bc%3Dd%20e twice",
                "it said *** twice",
            ),
            (
                "a\"b'c\\d",
                "it said a\\\"b'c\\\\d twice",
                "it said *** twice",
            ),
            // A part of it.
            ("correcthorse", "it said recthor twice", "it said *** twice"),
        ] {
            assert_eq!(shown(line, &[secret]), expected, "{secret}");
        }
        // What stands for it spells it out by chance.
        assert_eq!(shown("the value hunter2 is wrong", &["*"]), "");
    }

    #[test]
    fn a_line_is_one_and_short() {
        let long = "word and ".repeat(100);
        let line = shown(&format!("first\u{1b}[31m\n\u{202e}second {long}"), &[]);
        assert!(line.starts_with("first [31m second word and"), "{line}");
        assert!(
            line.ends_with(" …") && line.chars().count() <= LONGEST,
            "{line}"
        );
    }

    #[test]
    fn lines_that_differ_by_numbers_only_say_the_same() {
        let line = |text| RedactedLine::of(text, &known(&[])).unwrap();
        let first = line("read tcp 10.0.0.7:41234: connection reset");
        assert!(first.says_the_same_as(&line("read tcp 10.0.1.17:7: connection reset")));
        assert!(!first.says_the_same_as(&line("read tcp 10.0.0.7:41234: connection refused")));
    }

    /// A secret as people and generators make them.
    fn secrets() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{1,40}",
            "[a-z]{1,12}",
            "\\PC{1,20}",
            "[A-Za-z0-9+/]{20,80}={0,2}",
            "[a-z]{3,8}( [a-z]{3,8}){1,4}",
        ]
    }

    /// A text around the secret, which may stick to it.
    fn contexts() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ -~]{0,60}",
            "([a-z]{1,9} ){0,12}",
            "\\PC{0,30}",
            Just("password='".to_owned()),
            Just("postgres://bytebase:".to_owned()),
            Just("\"key\":\"".to_owned()),
        ]
    }

    /// No six characters in a row that are a part of the secret, nor the whole of a shorter one.
    fn survives(secret: &str, line: &str) -> bool {
        let length = secret.chars().count();
        if length < PIECE {
            return !secret.trim().is_empty() && line.contains(secret.trim());
        }
        let chars: Vec<_> = secret.chars().collect();
        let mut pieces = chars
            .windows(PIECE)
            .map(|piece| piece.iter().collect::<String>());
        pieces.any(|piece| !piece.trim().is_empty() && line.contains(&piece))
    }

    proptest! {
        #[test]
        fn a_known_secret_never_survives(
            before in contexts(), secret in secrets(), after in contexts(),
            form in 0..5_u8, cut in 0..40_usize,
        ) {
            let written = match form {
                0 => secret.clone(),
                1 => percent_encoding::utf8_percent_encode(&secret, percent_encoding::NON_ALPHANUMERIC).to_string(),
                2 => Value::from(secret.as_str()).to_string(),
                3 => secret.chars().skip(cut).collect(),
                _ => secret.chars().map(|c| format!("{c}")).collect::<Vec<_>>().join("\u{200b}"),
            };
            let line = shown(&format!("{before}{written}{after}"), &[&secret]);
            prop_assert!(!survives(&secret, &line), "{line}");
        }

        #[test]
        fn a_secret_that_is_not_known_never_survives_where_its_form_shows_it(
            before in "([a-z]{1,9} ){0,6}", after in "( [a-z]{1,9}){0,6}",
            form in 0..7_u8, password in "[a-z]{6,19}",
            base64 in "[A-Za-z0-9+/]{20,90}", hexadecimal in "[0-9a-f]{20,64}",
        ) {
            let (secret, written) = match form {
                0 => (&password, format!("postgres://bytebase:{password}@db.example.com/x")),
                1 => (&password, format!("password={password}")),
                2 => (&password, format!("{{\"password\": \"{password}\"}}")),
                3 => (&password, format!("api_token: {password}")),
                4 => (&password, format!("-----BEGIN KEY----- {password} -----END KEY-----")),
                5 => (&base64, base64.clone()),
                _ => (&hexadecimal, format!("id={hexadecimal};")),
            };
            // Chance may put a part of it into the words around it.
            prop_assume!(!survives(secret, &before) && !survives(secret, &after));
            let line = shown(&format!("{before}{written}{after}"), &[]);
            prop_assert!(!survives(secret, &line), "{line}");
        }

        #[test]
        fn a_line_is_printable_short_and_stays_what_it_is(
            text in prop_oneof!["\\PC*", contexts(), "(?s).{0,400}", "([A-Za-z:='\"@/-]{1,12} ){0,60}"],
            secret in secrets(),
        ) {
            let known = known(&[&secret]);
            if let Some(line) = RedactedLine::of(&text, &known) {
                let text = line.as_str();
                prop_assert!(text.chars().count() <= LONGEST);
                prop_assert!(!text.contains(char::is_control));
                prop_assert_eq!(RedactedLine::of(text, &known), Some(line.clone()));
            }
        }
    }
}
