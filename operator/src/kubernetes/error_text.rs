//! Errors of the API server as people read them.

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
