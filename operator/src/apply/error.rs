//! Refused writes, by what follows from them.

use crate::api::Reason;
use crate::kubernetes::Kind;

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
    /// An object of that name belongs to another owner.
    NameTaken,
    /// A quota, a policy, a webhook or the API server says no.
    Refused,
    /// What would come of it breaks the rules of its kind, perhaps by what another writer put
    /// there.
    Invalid,
    /// The object changed in between: read again.
    Conflict,
    /// It may work next time.
    Transient,
    /// It was to work the next time, and has not for a while.
    Lasting,
    /// It worked, and another party keeps changing the object back.
    ChangedBack,
}

impl FailureKind {
    /// The reason on conditions; `None` for what passes by itself.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Forbidden => Some(Reason::Forbidden),
            Self::NameTaken => Some(Reason::NameTaken),
            Self::Refused | Self::Invalid | Self::Lasting => Some(Reason::ApplyFailed),
            Self::ChangedBack => Some(Reason::ChangedBack),
            Self::Conflict | Self::Transient => None,
        }
    }
}

impl ApplyFailure {
    /// No answer came in time. `verb`: what was tried on an object of this kind and name.
    pub(super) fn timed_out(verb: &str, kind: Kind, name: &str) -> Self {
        Self {
            kind: FailureKind::Transient,
            exposes: kind.exposes(),
            message: format!(
                "{verb} {}/{name}: the API server did not answer in time; a webhook that it asks first may not answer",
                kind.plural(),
            ),
        }
    }

    /// From an error of the API server. `what`: verb and object, such as `patch statefulsets/demo`.
    pub fn new(error: &kube::Error, what: &str, exposes: bool) -> Self {
        let (kind, message) = match error {
            kube::Error::Api(status) => match status.code {
                403 if is_of_the_authoriser(&status.message) => (
                    FailureKind::Forbidden,
                    format!(
                        "the operator may not {what}: grant its role this verb ({})",
                        status.message
                    ),
                ),
                409 => (FailureKind::Conflict, format!("{what}: {}", status.message)),
                422 => (
                    FailureKind::Invalid,
                    format!("{what} was refused: {}", status.message),
                ),
                400..=499 if status.code != 429 && status.code != 408 => (
                    FailureKind::Refused,
                    format!("{what} was refused: {}", status.message),
                ),
                // A webhook that does not answer stands in the way until its owner fixes it.
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

/// Whether a message is the authoriser's: `x is forbidden: User "y" cannot patch resource "z"`. A
/// quota, pod security and a webhook answer 403 as well, in whatever words.
fn is_of_the_authoriser(message: &str) -> bool {
    let said = message.split_once("is forbidden: User \"");
    let said = said.and_then(|(_, rest)| rest.split_once("\" cannot "));
    said.is_some_and(|(_, what)| what.contains(" resource \""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::core::Status;

    #[test]
    fn the_authoriser_is_recognised_by_the_form_of_its_answer() {
        let user = "system:serviceaccount:ops:bytebase-operator";
        for (message, kind) in [
            (
                format!("ingresses.networking.k8s.io \"demo\" is forbidden: User \"{user}\" cannot patch resource \"ingresses\" in API group \"networking.k8s.io\" in the namespace \"team\""),
                FailureKind::Forbidden,
            ),
            (
                "pods \"demo-0\" is forbidden: exceeded quota: small, requested: pods=1".to_owned(),
                FailureKind::Refused,
            ),
            (
                "admission webhook \"w\" denied the request: you cannot use resource \"ingresses\" on a Friday".to_owned(),
                FailureKind::Refused,
            ),
            (
                "ingresses \"demo\" is forbidden: ValidatingAdmissionPolicy denied request: users cannot do that".to_owned(),
                FailureKind::Refused,
            ),
        ] {
            let status = Status::failure(&message, "Forbidden").with_code(403);
            let error = kube::Error::Api(status.boxed());
            let failure = ApplyFailure::new(&error, "patch ingresses/demo", true);
            assert_eq!(failure.kind, kind, "{message}");
            assert!(failure.message.contains(&message));
        }
    }
}
