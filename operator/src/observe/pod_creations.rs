//! Why pods could not be made: what the StatefulSet controller says of it in its events.
//!
//! The events of all StatefulSets come by one watch. A reconcile that listed them would make a
//! request that grows with the namespace, most often when the API server is busiest: while no pod
//! can be made.

use crate::decide::observation::PodRefusal;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt as _;
use std::collections::HashMap;

/// The field selector of the events that are needed.
pub const SELECTOR: &str = "involvedObject.kind=StatefulSet";

/// Longest message that is kept, in bytes; the API server takes 1024.
const LONGEST: usize = 1024;

/// Namespace and name of an object.
type Name = (String, String);

/// The events in which pods were made or refused.
#[derive(Default)]
pub struct PodCreations {
    /// By the name of the StatefulSet, then by the name of the event.
    by_set: HashMap<Name, HashMap<String, Creation>>,
}

struct Creation {
    set_uid: String,
    first: Timestamp,
    last: Timestamp,
    /// What the controller says; `None` where it made the pod.
    refused: Option<String>,
    /// Names the pod.
    message: String,
}

/// The StatefulSet that an event is about, if it tells of pods that were made or refused.
pub fn set_of(event: &Event) -> Option<(&str, &str)> {
    let about = &event.involved_object;
    let reason = event.reason.as_deref()?;
    if !matches!(reason, "FailedCreate" | "SuccessfulCreate") {
        return None;
    }
    Some((about.namespace.as_deref()?, about.name.as_deref()?))
}

/// Whether an event tells that a pod was refused.
pub fn is_refusal(event: &Event) -> bool {
    event.reason.as_deref() == Some("FailedCreate")
}

impl PodCreations {
    /// Adds an event that came at `now`, or replaces it. True if it tells something new: a repetition
    /// does so only where a pod was made in between.
    pub fn put(&mut self, event: &Event, now: Timestamp) -> bool {
        let Some((namespace, set)) = set_of(event) else {
            return false;
        };
        let mut message = event.message.clone().unwrap_or_default();
        if message.len() > LONGEST {
            let end = (0..=LONGEST)
                .rev()
                .find(|end| message.is_char_boundary(*end));
            message.truncate(end.unwrap_or(0));
        }
        let of_set = self
            .by_set
            .entry((namespace.to_owned(), set.to_owned()))
            .or_default();
        let before = of_set.get(&event.name_any());
        let is_news = before.is_none_or(|before| {
            let mut made = of_set.values().filter(|other| other.refused.is_none());
            made.any(|made| made.last > before.last)
        });
        let before = before.map(|before| before.first);
        // The controller's clock may be ahead.
        let [first, last] = times(event).map(|time| time.min(now));
        let creation = Creation {
            set_uid: event.involved_object.uid.clone().unwrap_or_default(),
            first: before.map_or(first, |before| before.min(first)),
            last,
            refused: is_refusal(event).then(|| message.clone()),
            message,
        };
        of_set.insert(event.name_any(), creation);
        is_news
    }

    /// Takes an event away.
    pub fn remove(&mut self, event: &Event) {
        let Some((namespace, set)) = set_of(event) else {
            return;
        };
        let key = (namespace.to_owned(), set.to_owned());
        if let Some(of_set) = self.by_set.get_mut(&key) {
            of_set.remove(&event.name_any());
            if of_set.is_empty() {
                self.by_set.remove(&key);
            }
        }
    }

    /// Events, as far as [`PodCreations::remove`] needs them, whose name `gone` says is gone.
    pub fn select(&self, gone: impl Fn(&str, &str) -> bool) -> Vec<Event> {
        let mut selected = Vec::new();
        for ((namespace, set), events) in &self.by_set {
            for (name, creation) in events {
                if gone(namespace, name) {
                    let mut event = Event::default();
                    event.metadata.namespace = Some(namespace.clone());
                    event.metadata.name = Some(name.clone());
                    event.involved_object.namespace = Some(namespace.clone());
                    event.involved_object.name = Some(set.clone());
                    event.reason = Some(if creation.refused.is_some() {
                        "FailedCreate".to_owned()
                    } else {
                        "SuccessfulCreate".to_owned()
                    });
                    selected.push(event);
                }
            }
        }
        selected
    }

    /// Why the controller of this StatefulSet could not make one of these pods. Of several reasons
    /// always the same, since status must not change while nothing does. A refusal of before the pod
    /// was last made explains nothing.
    pub fn refusal(
        &self,
        namespace: &str,
        set: &str,
        set_uid: &str,
        missing: &[String],
    ) -> Option<PodRefusal> {
        let events = self.by_set.get(&(namespace.to_owned(), set.to_owned()))?;
        let of = |pod: &str| {
            let about = format!("Pod {pod} ");
            events.values().filter(move |creation| {
                creation.set_uid == set_uid && creation.message.contains(&about)
            })
        };
        let refused = missing.iter().flat_map(|pod| {
            let made = of(pod)
                .filter(|creation| creation.refused.is_none())
                .map(|creation| creation.last)
                .max();
            of(pod).filter_map(move |creation| {
                let message = creation.refused.clone()?;
                let since = [creation.first, creation.last]
                    .into_iter()
                    .find(|time| Some(*time) > made)?;
                Some(PodRefusal { since, message })
            })
        });
        refused.min_by(|a, b| a.message.cmp(&b.message))
    }
}

/// When what an event tells of happened first and last.
fn times(event: &Event) -> [Timestamp; 2] {
    let series = event.series.as_ref();
    let micro = event.event_time.as_ref().map(|time| time.0);
    let first = event.first_timestamp.as_ref().map(|time| time.0).or(micro);
    let last = [
        series.and_then(|series| series.last_observed_time.as_ref().map(|time| time.0)),
        event.last_timestamp.as_ref().map(|time| time.0),
        micro,
    ];
    let last = last.into_iter().flatten().max();
    let first = first.or(last).unwrap_or(Timestamp::MIN);
    [first, last.unwrap_or(first)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-06-01T01:00:00Z".parse().unwrap()
    }

    fn event(reason: &str, pod: &str, first: u32, last: u32) -> Event {
        serde_json::from_value(json!({
            "metadata": {"name": format!("{reason}.{pod}"), "namespace": "team"},
            "involvedObject": {"kind": "StatefulSet", "namespace": "team", "name": "demo", "uid": "set"},
            "reason": reason, "message": format!("create Pod {pod} in StatefulSet demo: {last}"),
            "firstTimestamp": format!("2026-06-01T00:{first:02}:00Z"),
            "lastTimestamp": format!("2026-06-01T00:{last:02}:00Z"),
        }))
        .unwrap()
    }

    fn refusal(events: &[Event]) -> Option<PodRefusal> {
        let mut creations = PodCreations::default();
        for event in events {
            creations.put(event, now());
        }
        let missing = ["demo-1".to_owned()];
        assert_eq!(creations.refusal("team", "demo", "another", &missing), None);
        assert_eq!(creations.refusal("other", "demo", "set", &missing), None);
        creations.refusal("team", "demo", "set", &missing)
    }

    fn minute(refusal: Option<PodRefusal>) -> Option<String> {
        refusal.map(|refusal| refusal.since.to_string())
    }

    #[test]
    fn a_refusal_explains_the_pod_that_it_names_until_that_pod_is_made() {
        let refused = event("FailedCreate", "demo-1", 4, 5);
        let since = |text: &str| Some(format!("2026-06-01T00:{text}:00Z"));
        assert_eq!(minute(refusal(std::slice::from_ref(&refused))), since("04"));
        let of_another = event("FailedCreate", "demo-10", 4, 5);
        assert_eq!(refusal(&[of_another]), None);
        let made = event("SuccessfulCreate", "demo-1", 6, 6);
        assert_eq!(refusal(&[refused, made]), None);
        assert_eq!(
            minute(refusal(&[
                event("FailedCreate", "demo-1", 4, 7),
                event("SuccessfulCreate", "demo-1", 6, 6),
                event("SuccessfulCreate", "demo-2", 9, 9),
            ])),
            since("07"),
            "one event tells of refusals before and after"
        );
    }

    #[test]
    fn a_refusal_of_a_controller_whose_clock_is_ahead_dates_from_its_arrival() {
        let mut creations = PodCreations::default();
        let ahead = event("FailedCreate", "demo-1", 40, 50);
        let arrival = |minute: u32| -> Timestamp {
            format!("2026-06-01T00:{minute:02}:00Z").parse().unwrap()
        };
        for minute in [10, 20] {
            creations.put(&ahead, arrival(minute));
            let missing = ["demo-1".to_owned()];
            let refused = creations.refusal("team", "demo", "set", &missing).unwrap();
            assert_eq!(refused.since, arrival(10), "the arrival of the first");
        }
    }

    #[test]
    fn a_repeated_refusal_is_news_only_after_the_pod_was_made() {
        let mut creations = PodCreations::default();
        assert!(creations.put(&event("FailedCreate", "demo-1", 4, 5), now()));
        assert!(!creations.put(&event("FailedCreate", "demo-1", 4, 6), now()));
        assert!(creations.put(&event("SuccessfulCreate", "demo-1", 7, 7), now()));
        assert!(creations.put(&event("FailedCreate", "demo-1", 4, 8), now()));
        assert!(!creations.put(&event("FailedCreate", "demo-1", 4, 9), now()));
    }

    #[test]
    fn an_event_that_is_gone_leaves_nothing() {
        let mut creations = PodCreations::default();
        for event in [
            event("FailedCreate", "demo-1", 4, 5),
            event("SuccessfulCreate", "demo-2", 4, 5),
        ] {
            creations.put(&event, now());
        }
        creations.put(&event("RecreatingFailedPod", "demo-1", 4, 5), now());
        for event in creations.select(|namespace, name| {
            assert_eq!(namespace, "team");
            name.ends_with("demo-1")
        }) {
            creations.remove(&event);
        }
        assert_eq!(creations.by_set.len(), 1);
        for event in creations.select(|_, _| true) {
            creations.remove(&event);
        }
        assert!(creations.by_set.is_empty());
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut long = event("FailedCreate", "demo-1", 4, 5);
        long.message = Some(format!("create Pod demo-1 {}", "é".repeat(LONGEST)));
        let message = refusal(&[long]).unwrap().message;
        assert!(message.len() <= LONGEST);
    }
}
