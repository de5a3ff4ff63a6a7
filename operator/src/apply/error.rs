//! Refused writes, by what follows from them.

use crate::api::Reason;
use crate::desired::DesiredObject;
use crate::kubernetes::{Kind, is_garbage_collectors};
use jiff::{SignedDuration, Timestamp};

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
    /// The object is being deleted, or about to be; its end wakes the next reconcile.
    Ending,
    /// It has been for a while, and a finalizer keeps it.
    Stuck,
}

/// An object that is being deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// When its deletion was asked for.
    pub since: Timestamp,
    /// What it waits for.
    pub finalizers: Vec<String>,
    /// Whether the watch shows it, and so its end.
    pub is_watched: bool,
}

/// A finalizer that stands for so long may stand for ever: its controller may be away. One that
/// takes a load balancer of a cloud down needs some minutes.
const STUCK_AFTER: SignedDuration = SignedDuration::from_mins(10);

/// The garbage collector comes to what a cluster has left behind within seconds, and later where it
/// has just started, or has much to do.
const COLLECTED_AFTER: SignedDuration = SignedDuration::from_mins(2);

/// Until when the garbage collector is waited for: it has had something to do once both the cluster
/// and the object, made at these times, were there.
pub(super) fn collected_by(times: [Option<Timestamp>; 2]) -> Timestamp {
    let since = times.into_iter().flatten().max();
    let since = since.unwrap_or(Timestamp::MIN);
    since
        .saturating_add(COLLECTED_AFTER)
        .unwrap_or(Timestamp::MAX)
}

impl Ending {
    /// From when on it is not about to go by itself.
    pub fn stuck_from(&self) -> Timestamp {
        self.since
            .saturating_add(STUCK_AFTER)
            .unwrap_or(Timestamp::MAX)
    }
}

impl FailureKind {
    /// The reason on conditions; `None` for what passes by itself.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Forbidden => Some(Reason::Forbidden),
            Self::NameTaken => Some(Reason::NameTaken),
            Self::Refused | Self::Invalid | Self::Lasting | Self::Stuck => {
                Some(Reason::ApplyFailed)
            }
            Self::ChangedBack => Some(Reason::ChangedBack),
            Self::Conflict | Self::Transient | Self::Ending => None,
        }
    }

    /// Whether to try again would help: what another party does meanwhile wakes the next reconcile,
    /// or has a pace of its own.
    pub fn asks_for_another_try(self) -> bool {
        !matches!(self, Self::ChangedBack | Self::Ending | Self::Stuck)
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

    /// An object of that name is another's.
    pub(super) fn name_taken(desired: &DesiredObject) -> Self {
        Self {
            kind: FailureKind::NameTaken,
            exposes: desired.kind.exposes(),
            message: format!(
                "{}/{} exists and is not this cluster's: rename or delete it, or give the cluster another name",
                desired.kind.plural(),
                desired.name
            ),
        }
    }

    /// An earlier cluster of this name has left the object behind. `by`: until when the garbage
    /// collector is waited for.
    pub(super) fn left_behind(desired: &DesiredObject, by: Timestamp, now: Timestamp) -> Self {
        Self {
            kind: if now < by {
                FailureKind::Ending
            } else {
                FailureKind::NameTaken
            },
            exposes: desired.kind.exposes(),
            message: format!(
                "{}/{} belongs to an earlier BytebaseCluster of this name, and Kubernetes' garbage collector has not deleted it: delete it, then the operator makes its own",
                desired.kind.plural(),
                desired.name
            ),
        }
    }

    /// The object that is there is being deleted, and what is wanted cannot stand until it has
    /// gone.
    pub(super) fn ending(desired: &DesiredObject, ending: &Ending, now: Timestamp) -> Self {
        // Those of the garbage collector go by themselves, though pods may take hours to end.
        let is_kept = ending
            .finalizers
            .iter()
            .any(|finalizer| !is_garbage_collectors(finalizer));
        let is_stuck = is_kept && now >= ending.stuck_from();
        Self {
            kind: if is_stuck {
                FailureKind::Stuck
            } else {
                FailureKind::Ending
            },
            exposes: desired.kind.exposes(),
            message: format!(
                "{}/{} is being deleted and does not go, since its finalizers stand: {}. Have the controllers that set them end their work; then the operator makes the object again",
                desired.kind.plural(),
                desired.name,
                ending.finalizers.join(", ")
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
                409 if !is_of_a_webhook(&status.message) => {
                    (FailureKind::Conflict, format!("{what}: {}", status.message))
                }
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

    /// This failure without the names of Ingresses in other namespaces: the webhook of an Ingress
    /// controller names the one that has a host already, and users of one namespace need not learn
    /// what is in another. Whoever says so writes `ingress namespace/name`.
    pub(super) fn without_others(self, namespace: &str) -> Self {
        let mut may_name = false;
        let words = self.message.split(' ').map(|word| {
            let named = word.split_once('/').filter(|_| may_name);
            let place = named.map(|(place, _)| place.trim_matches(['"', '\'', '`']));
            may_name = word.eq_ignore_ascii_case("ingress");
            match place {
                Some(place) if place != namespace => "in another namespace",
                _ => word,
            }
        });
        let message = words.collect::<Vec<_>>().join(" ");
        Self { message, ..self }
    }
}

/// Whether a message is of a webhook that denied the request, by whichever code it chose.
pub(super) fn is_of_a_webhook(message: &str) -> bool {
    message.starts_with("admission webhook ")
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
    use crate::testing::{after, now};
    use kube::core::Status;

    #[test]
    fn what_is_being_deleted_is_reported_once_a_finalizer_has_kept_it_for_long() {
        let desired = DesiredObject {
            kind: Kind::Service,
            name: "demo".to_owned(),
            value: serde_json::json!({}),
        };
        for (finalizer, seconds, kind) in [
            ("example.com/cloud", 599, FailureKind::Ending),
            ("example.com/cloud", 600, FailureKind::Stuck),
            ("foregroundDeletion", 9999, FailureKind::Ending),
        ] {
            let ending = Ending {
                since: now(),
                is_watched: true,
                finalizers: vec![finalizer.to_owned()],
            };
            let later = after(SignedDuration::from_secs(seconds));
            let failure = ApplyFailure::ending(&desired, &ending, later);
            assert_eq!(failure.kind, kind, "{finalizer} {seconds}");
            let words = format!(
                "services/demo is being deleted and does not go, since its finalizers stand: {finalizer}."
            );
            assert!(failure.message.starts_with(&words), "{}", failure.message);
        }
    }

    #[test]
    fn what_an_earlier_cluster_has_left_behind_is_reported_once_no_one_has_deleted_it_for_long() {
        let desired = DesiredObject {
            kind: Kind::Ingress,
            name: "demo".to_owned(),
            value: serde_json::json!({}),
        };
        let at = |seconds| after(SignedDuration::from_secs(seconds));
        // By the younger of cluster and object: a backup may bring back either of them first.
        for times in [
            [Some(at(0)), Some(at(-9999))],
            [Some(at(-9999)), Some(at(0))],
        ] {
            let by = collected_by(times);
            for (seconds, kind) in [(119, FailureKind::Ending), (120, FailureKind::NameTaken)] {
                let failure = ApplyFailure::left_behind(&desired, by, at(seconds));
                assert_eq!((failure.kind, failure.exposes), (kind, true), "{seconds}");
                let words = "ingresses/demo belongs to an earlier BytebaseCluster of this name";
                assert!(failure.message.starts_with(words), "{}", failure.message);
            }
        }
    }

    #[test]
    fn a_webhook_refuses_by_whichever_code_it_chooses() {
        let denied = "admission webhook \"w\" denied the request: not on a Friday";
        let modified = "the object has been modified";
        for (code, message, kind) in [
            (409, denied, FailureKind::Refused),
            (400, denied, FailureKind::Refused),
            (409, modified, FailureKind::Conflict),
        ] {
            let status = Status::failure(message, "").with_code(code);
            let error = kube::Error::Api(status.boxed());
            let failure = ApplyFailure::new(&error, "patch services/demo", false);
            assert_eq!(failure.kind, kind, "{code} {message}");
            assert!(failure.message.contains(message));
        }
    }

    #[test]
    fn the_names_of_ingresses_in_other_namespaces_are_left_out() {
        let denied = |ingress: &str| {
            format!(
                "admission webhook \"validate.nginx.ingress.kubernetes.io\" denied the request: host \"a.example.com\" and path \"/\" is already defined in ingress {ingress}"
            )
        };
        for (ingress, expected) in [
            ("finance/secret-project", "in another namespace"),
            ("\"finance/secret-project\"", "in another namespace"),
            ("team/other", "team/other"),
            ("class a/b", "class a/b"),
        ] {
            let status = Status::failure(&denied(ingress), "BadRequest").with_code(400);
            let error = kube::Error::Api(status.boxed());
            let failure = ApplyFailure::new(&error, "patch ingresses/demo", true);
            let failure = failure.without_others("team");
            assert_eq!(failure.kind, FailureKind::Refused);
            let expected = format!("patch ingresses/demo was refused: {}", denied(expected));
            assert_eq!(failure.message, expected);
        }
    }

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
