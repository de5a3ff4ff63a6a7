//! The keyword/value form (`host=… user=…`), read the way the driver reads it, which is almost
//! libpq's way: a backslash only protects a quote or a backslash, and stays where it is in front of
//! anything else.

use super::error::PgUrlError;
use super::parameters::MARKS_KEYWORD_FORM;
use super::raw::Raw;

/// What the driver takes for a blank.
const BLANKS: [char; 6] = [' ', '\t', '\n', '\r', '\u{b}', '\u{c}'];

/// Whether Bytebase takes the text for this form. (It checks blank-separated fields, even inside
/// quotes.)
pub(super) fn is_keyword_form(text: &str) -> bool {
    text.split_whitespace().any(|field| {
        field
            .split_once('=')
            .is_some_and(|(name, _)| MARKS_KEYWORD_FORM.contains(&name))
    })
}

pub(super) fn parse(text: &str) -> Result<Raw, PgUrlError> {
    let mut raw = Raw::default();
    let mut rest = text;
    let mut position = 0;
    if let Some(index) = text.find('\0') {
        return Err(PgUrlError::ControlCharacter { offset: index + 1 });
    }
    while !rest.is_empty() {
        position += 1;
        let Some((name, after)) = rest.split_once('=') else {
            let blank = rest.trim_matches(BLANKS).is_empty();
            return Err(if blank {
                PgUrlError::TrailingBlanks
            } else {
                missing_equals(text, rest)
            });
        };
        let name = name.trim_matches(BLANKS);
        if name.contains(BLANKS) {
            return Err(missing_equals(text, rest));
        }
        let (value, after) = take_value(text, after.trim_start_matches(BLANKS))?;
        let value = value.replace("\\\\", "\\").replace("\\'", "'");
        rest = after;
        // The driver skips an empty user, so that a default can take its place.
        if !(name == "user" && value.is_empty()) {
            raw.add(name, value, position)?;
        }
    }
    Ok(raw)
}

/// Divides off the value that the text begins with, still with its backslashes.
fn take_value<'a>(whole: &str, text: &'a str) -> Result<(&'a str, &'a str), PgUrlError> {
    let Some(quoted) = text.strip_prefix('\'') else {
        let mut characters = text.char_indices();
        while let Some((index, c)) = characters.next() {
            if BLANKS.contains(&c) {
                return Ok((&text[..index], &text[index + 1..]));
            }
            if c == '\\' && characters.next().is_none() {
                return Err(PgUrlError::LoneBackslash);
            }
        }
        return Ok((text, ""));
    };
    let mut characters = quoted.char_indices();
    while let Some((index, c)) = characters.next() {
        match c {
            '\'' => {
                let after = &quoted[index + 1..];
                if !after.is_empty() && !after.starts_with(BLANKS) {
                    return Err(PgUrlError::TextAfterQuote {
                        offset: offset(whole, after),
                    });
                }
                return Ok((&quoted[..index], after));
            }
            '\\' => {
                characters.next();
            }
            _ => {}
        }
    }
    Err(PgUrlError::OpenQuote {
        offset: offset(whole, text),
    })
}

fn missing_equals(whole: &str, rest: &str) -> PgUrlError {
    PgUrlError::MissingEquals {
        offset: offset(whole, rest.trim_start_matches(BLANKS)),
    }
}

/// Where the end piece `rest` begins in `whole`, counted from 1.
fn offset(whole: &str, rest: &str) -> usize {
    whole.len() - rest.len() + 1
}
