//! Looking for secrets where none may be: whatever a scenario planted must not turn up in anything
//! the operator wrote.

use k8s_openapi::ByteString;

/// A secret that was planted, under the name an error may call it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planted {
    pub label: String,
    value: String,
}

impl Planted {
    /// A secret to look for.
    pub fn new(label: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            value: value.into(),
        }
    }
}

/// Every place that holds one of the secrets, plain or in base64. `places` are names with texts. A
/// find names the secret and the place, and shows neither the secret nor the line.
pub fn find(planted: &[Planted], places: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for Planted { label, value } in planted {
        // A short word turns up anywhere by chance.
        if value.len() < 8 {
            found.push(format!("the {label} is too short to be looked for"));
            continue;
        }
        let encoded = base64(value);
        for (place, text) in places {
            let line = text
                .lines()
                .position(|line| line.contains(value.as_str()) || line.contains(&encoded));
            if let Some(line) = line {
                found.push(format!("the {label} stands in {place}, line {}", line + 1));
            }
        }
    }
    found
}

fn base64(value: &str) -> String {
    let encoded = serde_json::to_value(ByteString(value.as_bytes().to_vec())).unwrap_or_default();
    // Without the padding it is also found inside a longer text.
    encoded
        .as_str()
        .unwrap_or_default()
        .trim_end_matches('=')
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<(String, String)> {
        vec![("the log".to_owned(), text.to_owned())]
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
        assert_eq!(find(&[Planted::new("password", "abc")], &[]).len(), 1);
    }
}
