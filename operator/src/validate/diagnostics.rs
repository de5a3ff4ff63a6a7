//! Problems and warnings, and what collects them.

use crate::api::Reason;
use crate::api::read::UnreadableField;
use crate::kubernetes::Kind;
use jiff::Timestamp;
use std::ops::RangeInclusive;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Path of the field, such as `spec.database.urlSecretRef`.
    pub field: String,
    /// `InvalidSpec`, `ReferenceMissing`, `InvalidSecret`, `KindNotInstalled` or `BeingDeleted`.
    pub reason: Reason,
    /// What is wrong and what to do; never a secret.
    pub message: String,
    /// Whether Bytebase could not run with it. A blocking problem changes nothing that runs; any
    /// other is only reported.
    pub blocking: bool,
}

impl Problem {
    pub(super) fn blocking(
        field: impl Into<String>,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            reason,
            message: message.into(),
            blocking: true,
        }
    }

    pub(super) fn reported(
        field: impl Into<String>,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            blocking: false,
            ..Self::blocking(field, reason, message)
        }
    }

    /// A kind that the spec asks for and this Kubernetes cluster lacks.
    pub fn kind_not_installed(kind: Kind) -> Self {
        let (plural, group) = (kind.plural(), kind.group());
        let brought_by = kind.brought_by().unwrap_or("whoever brings it");
        Self::reported(
            kind.asked_for_by().unwrap_or("spec"),
            Reason::KindNotInstalled,
            format!(
                "this Kubernetes cluster has no {plural}.{group}: install the definitions of {brought_by}, or take the field out"
            ),
        )
    }

    /// The cluster is being deleted. `is_held`: another party has set a finalizer.
    pub(super) fn being_deleted(is_held: bool) -> Self {
        Self::blocking(
            "metadata.deletionTimestamp",
            Reason::BeingDeleted,
            if is_held {
                "the cluster is being deleted, and its replicas run until whoever set one of metadata.finalizers has taken it out"
            } else {
                "the cluster is being deleted, and goes when Kubernetes' garbage collector has deleted what was made for it"
            },
        )
    }

    /// A field that there is not.
    pub fn unknown_field(path: String) -> Self {
        Self::blocking(
            path,
            Reason::InvalidSpec,
            "is no field of a BytebaseCluster",
        )
    }

    /// A problem of the merged pod template, found while building it.
    pub fn pod_template(message: impl Into<String>) -> Self {
        Self::blocking("spec.podTemplate", Reason::InvalidSpec, message)
    }
}

/// `spec.database` of `spec.database.params.sslmode: …`.
fn top_level(path: &str) -> &str {
    let end = path
        .match_indices(|c: char| !c.is_ascii_alphanumeric())
        .nth(1)
        .map_or(path.len(), |(end, _)| end);
    &path[..end]
}

/// Collects problems and warnings on the way.
#[derive(Default)]
pub(super) struct Diagnostics {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    pub(super) ends_soon: Option<String>,
    pub(super) ca_ends: Option<Timestamp>,
    pub(super) changes_at: Option<Timestamp>,
}

impl Diagnostics {
    /// Fields that could not be read. What else was found of them was found of a placeholder.
    pub(super) fn unreadable(&mut self, fields: &[UnreadableField]) {
        for UnreadableField { path, message } in fields {
            let field = top_level(path);
            self.problems
                .retain(|problem| top_level(&problem.field) != field);
            self.warnings.retain(|warning| top_level(warning) != field);
            self.invalid(path, *message);
        }
    }

    pub(super) fn invalid(&mut self, field: &str, message: impl Into<String>) {
        self.problems
            .push(Problem::blocking(field, Reason::InvalidSpec, message));
    }

    /// A duration as Gateway API writes it: `30s`, `1h30m`.
    pub(super) fn duration(&mut self, field: &str, text: Option<&str>) {
        if text.is_some_and(|text| !is_duration(text)) {
            self.invalid(
                field,
                "must be a duration such as 30s or 1h30m: numbers, each with h, m, s or ms",
            );
        }
    }

    /// The number that is given, or the default. One outside of its range is noted.
    pub(super) fn number(
        &mut self,
        field: &str,
        given: Option<i32>,
        default: i32,
        range: RangeInclusive<i32>,
    ) -> i32 {
        let number = given.unwrap_or(default);
        if !range.contains(&number) {
            let (least, most) = range.into_inner();
            self.invalid(field, format!("must be between {least} and {most}"));
        }
        number
    }

    pub(super) fn warn(&mut self, message: impl Into<String>) {
        self.warnings.push(message.into());
    }

    /// Keeps what a field was parsed to, or notes why it could not be.
    pub(super) fn parsed<T>(
        &mut self,
        field: &str,
        result: Result<T, impl std::error::Error>,
    ) -> Option<T> {
        result
            .map_err(|error| self.invalid(field, error.to_string()))
            .ok()
    }

    /// Keeps the value, or notes the problem.
    pub(super) fn keep<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.problems.push(problem)).ok()
    }
}

fn is_duration(text: &str) -> bool {
    let mut rest = text;
    for _ in 0..4 {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let unit = rest.get(digits..).unwrap_or_default();
        let Some(after) = ["ms", "h", "m", "s"]
            .iter()
            .find_map(|known| unit.strip_prefix(known))
            .filter(|_| (1..=5).contains(&digits))
        else {
            return false;
        };
        if after.is_empty() {
            return true;
        }
        rest = after;
    }
    false
}
