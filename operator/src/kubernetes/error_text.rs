//! Errors of the API server, and of what is read of it, as people read them.

use std::fmt::Display;

/// Where the client begins to repeat an answer in the notation of its own types.
const REPETITION: &str = " (Status {";

/// An error's text without the repetition.
pub fn plain(error: &impl Display) -> String {
    let mut text = error.to_string();
    if let Some(end) = text.find(REPETITION) {
        text.truncate(end);
    }
    text
}

/// Longest path that is shown, in characters.
const LONGEST_PATH: usize = 200;

/// What of an object cannot be read. The parser's own words quote what stands there, which may be a
/// password that looks like a number.
pub fn misfit<E>(error: &serde_path_to_error::Error<E>) -> String {
    let path = error.path().to_string();
    let path: String = path.chars().take(LONGEST_PATH).collect();
    format!("{path} holds a value of another type or form than belongs there")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn an_answer_is_written_once() {
        let status = Status::failure("pods is forbidden", "Forbidden").with_code(403);
        let error = kube::Error::Api(status.boxed());
        let text = plain(&error);
        assert!(error.to_string().len() > text.len(), "{error}");
        assert_eq!(text, "ApiError: pods is forbidden: Forbidden");
        assert_eq!(plain(&"anything else"), "anything else");
    }
}
