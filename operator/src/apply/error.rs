//! Refused writes, by what follows from them.

use crate::api::Reason;

/// A write that did not come off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplyFailure {
    /// Decides what follows.
    pub kind: FailureKind,
    /// Whether it was about a way in from outside.
    pub exposes: bool,
    /// What was tried on what, why not, and what to do.
    pub message: String,
}

/// What follows from a refused write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The operator's role lacks a verb.
    Forbidden,
    /// An object of that name belongs to somebody else.
    NameTaken,
    /// The API server, a quota, a policy or a webhook says no.
    Refused,
    /// The object changed in between: read again.
    Conflict,
    /// It may work next time.
    Transient,
}

impl FailureKind {
    /// The reason on conditions; `None` for what mends itself.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Forbidden => Some(Reason::Forbidden),
            Self::NameTaken => Some(Reason::NameTaken),
            Self::Refused => Some(Reason::ApplyFailed),
            Self::Conflict | Self::Transient => None,
        }
    }
}

impl ApplyFailure {
    /// From an error of the API server. `what`: verb and object, such as `patch statefulsets/demo`.
    pub fn new(error: &kube::Error, what: &str, exposes: bool) -> Self {
        let (kind, message) = match error {
            kube::Error::Api(status) => match status.code {
                // A quota, pod security or a webhook also answer 403; what they lack is the words
                // of the authorizer.
                403 if status.message.contains("cannot") => (
                    FailureKind::Forbidden,
                    format!(
                        "the operator may not {what}: grant its role this verb ({})",
                        status.message
                    ),
                ),
                409 => (FailureKind::Conflict, format!("{what}: {}", status.message)),
                400..=499 if status.code != 429 && status.code != 408 => (
                    FailureKind::Refused,
                    format!("{what} was refused: {}", status.message),
                ),
                // A webhook that does not answer stands in the way until somebody mends it.
                500 if status.message.contains("failed calling webhook") => (
                    FailureKind::Refused,
                    format!("{what} was refused: {}", status.message),
                ),
                _ => (
                    FailureKind::Transient,
                    format!("{what}: {}", status.message),
                ),
            },
            other => (FailureKind::Transient, format!("{what}: {other}")),
        };
        Self {
            kind,
            exposes,
            message,
        }
    }
}
