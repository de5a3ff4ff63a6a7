//! The answer of one rule, before it becomes a condition.

use super::plan::ConditionDraft;
use crate::api::{ConditionType, Reason};

/// A condition that does not know its type: each rule answers, and the list of conditions says to
/// which question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// True, False or (`None`) Unknown.
    pub status: Option<bool>,
    /// Why.
    pub reason: Reason,
    /// Status and reason in words, for users.
    pub message: String,
}

impl Verdict {
    /// A verdict whose status is a value.
    pub fn new(status: Option<bool>, reason: Reason, message: impl Into<String>) -> Self {
        Self {
            status,
            reason,
            message: message.into(),
        }
    }

    /// The condition of this type.
    pub fn of(self, type_: ConditionType) -> ConditionDraft {
        ConditionDraft::new(type_, self.status, self.reason, self.message)
    }
}

/// True.
pub fn yes(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict::new(Some(true), reason, message)
}

/// False.
pub fn no(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict::new(Some(false), reason, message)
}

/// Unknown.
pub fn unknown(reason: Reason, message: impl Into<String>) -> Verdict {
    Verdict::new(None, reason, message)
}
