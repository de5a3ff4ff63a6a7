//! Why pods could not be made or started, where only events say so: those of the StatefulSet
//! controller about pods that it may not make, those of the controller that attaches volumes, and
//! those of the kubelet about volumes that it cannot mount and sandboxes that it cannot make.
//!
//! They come by watches. A reconcile that listed them would make a request that grows with the
//! namespace, most often when the API server is busiest: while no pod can be made.

use crate::observation::PodRefusal;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use kube::ResourceExt as _;
use std::collections::HashMap;

/// The field selector of events that say which pods were made or refused.
pub const CREATIONS: &str = "involvedObject.kind=StatefulSet";
/// The reason of events that say why the kubelet could not make the sandbox of a pod: most often
/// its network, such as one that has no address left.
const SANDBOX: &str = "FailedCreatePodSandBox";
/// The reasons of events that say why a pod could not be prepared for its containers: which volumes
/// could not be attached or mounted, and why there is no sandbox. A field selector cannot ask for
/// one of several.
pub const PREPARATIONS: [&str; 4] = [
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedMount",
    SANDBOX,
];

/// The field selector of events about pods that have this reason.
pub fn of_pods(reason: &str) -> String {
    format!("involvedObject.kind=Pod,reason={reason}")
}

/// Longest message that is kept, in bytes; the API server takes 1024, and most say why in the first
/// 500.
const LONGEST: usize = 512;

/// Most events that are kept. They are those of all StatefulSets in the Kubernetes cluster, for
/// which of them is a cluster's is not known while clusters are still being listed.
const MOST: usize = 10_000;

/// As many are left when there are more.
const LEFT: usize = 9_000;

/// Namespace and name of an object.
type Name = (String, String);

/// The events in which pods were made or refused.
#[derive(Default)]
pub struct PodEvents {
    /// By the name of the StatefulSet, then by the name of the event.
    by_set: HashMap<Name, HashMap<String, Seen>>,
    /// Events in all.
    count: usize,
    /// Events that ever came.
    arrivals: u64,
}

struct Seen {
    /// Uid of the StatefulSet or the pod that it is about.
    uid: String,
    reason: String,
    /// Which of all that came it was when it came last.
    arrival: u64,
    first: Timestamp,
    last: Timestamp,
    /// Whether something failed; else a pod was made.
    failed: bool,
    /// Of a StatefulSet's event: names the pod.
    message: String,
}

/// Namespace and name of the StatefulSet that an event concerns, if it is one of those that are
/// needed.
pub fn set_of(event: &Event) -> Option<(&str, &str)> {
    let about = &event.involved_object;
    let (namespace, name) = (about.namespace.as_deref()?, about.name.as_deref()?);
    match event.reason.as_deref()? {
        "FailedCreate" | "SuccessfulCreate" => Some((namespace, name)),
        // A pod is named after its StatefulSet and a number.
        reason if PREPARATIONS.contains(&reason) => Some((namespace, name.rsplit_once('-')?.0)),
        _ => None,
    }
}

/// Whether an event says that something failed.
pub fn is_failure(event: &Event) -> bool {
    event.reason.as_deref() != Some("SuccessfulCreate")
}

impl PodEvents {
    /// Adds an event that came at `now`, or replaces it. True if it says something new: a
    /// repetition does so only where a pod was made in between.
    pub fn put(&mut self, event: &Event, now: Timestamp) -> bool {
        let Some((namespace, set)) = set_of(event) else {
            return false;
        };
        let mut message = event.message.clone().unwrap_or_default();
        if event.reason.as_deref() == Some(SANDBOX) {
            message = without_ids(&message);
        }
        message.truncate(message.floor_char_boundary(LONGEST));
        message.shrink_to_fit();
        let of_set = self
            .by_set
            .entry((namespace.to_owned(), set.to_owned()))
            .or_default();
        let before = of_set.get(&event.name_any());
        let is_news = before.is_none_or(|before| {
            let mut made = of_set.values().filter(|other| !other.failed);
            made.any(|made| made.last > before.last)
        });
        let before = before.map(|before| before.first);
        // The controller's clock may be ahead.
        let [first, last] = times(event).map(|time| time.min(now));
        self.arrivals += 1;
        let seen = Seen {
            arrival: self.arrivals,
            uid: event.involved_object.uid.clone().unwrap_or_default(),
            reason: event.reason.clone().unwrap_or_default(),
            first: before.map_or(first, |before| before.min(first)),
            last,
            failed: is_failure(event),
            message,
        };
        if of_set.insert(event.name_any(), seen).is_none() {
            self.count += 1;
            self.make_room();
        }
        is_news
    }

    /// Of too many events those go that came least lately.
    fn make_room(&mut self) {
        if self.count <= MOST {
            return;
        }
        let events = self.by_set.values().flat_map(HashMap::values);
        let mut arrivals: Vec<u64> = events.map(|event| event.arrival).collect();
        let (_, first_left, _) = arrivals.select_nth_unstable(self.count - LEFT);
        let first_left = *first_left;
        self.by_set.retain(|_, of_set| {
            of_set.retain(|_, event| event.arrival >= first_left);
            !of_set.is_empty()
        });
        self.count = LEFT;
    }

    /// Takes an event away.
    pub fn remove(&mut self, event: &Event) {
        let Some((namespace, set)) = set_of(event) else {
            return;
        };
        let key = (namespace.to_owned(), set.to_owned());
        if let Some(of_set) = self.by_set.get_mut(&key) {
            let found = of_set.remove(&event.name_any());
            self.count -= usize::from(found.is_some());
            if of_set.is_empty() {
                self.by_set.remove(&key);
            }
        }
    }

    /// Events, as far as [`PodEvents::remove`] needs them, whose name `gone` says is gone.
    pub fn select(&self, gone: impl Fn(&str, &str) -> bool) -> Vec<Event> {
        let mut selected = Vec::new();
        for ((namespace, set), events) in &self.by_set {
            for (name, seen) in events {
                if gone(namespace, name) {
                    let mut event = Event::default();
                    event.metadata.namespace = Some(namespace.clone());
                    event.metadata.name = Some(name.clone());
                    event.involved_object.namespace = Some(namespace.clone());
                    // Any of its pods leads back to the same set.
                    event.involved_object.name = Some(match seen.reason.as_str() {
                        reason if PREPARATIONS.contains(&reason) => format!("{set}-0"),
                        _ => set.clone(),
                    });
                    event.reason = Some(seen.reason.clone());
                    selected.push(event);
                }
            }
        }
        selected
    }

    /// Why the controller of this StatefulSet could not make one of these pods. Of several reasons
    /// always the same, since status must not change while nothing does. A refusal of before the
    /// pod was last made explains nothing.
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
            events
                .values()
                .filter(move |event| event.uid == set_uid && event.message.contains(&about))
        };
        let refused = missing.iter().flat_map(|pod| {
            let made = of(pod).filter(|event| !event.failed);
            let made = made.map(|event| event.last).max();
            of(pod)
                .filter(|event| event.failed)
                .filter_map(move |event| {
                    let since = [event.first, event.last]
                        .into_iter()
                        .find(|time| Some(*time) > made)?;
                    Some(PodRefusal {
                        since,
                        message: event.message.clone(),
                    })
                })
        });
        refused.min_by(|a, b| a.message.cmp(&b.message))
    }

    /// Why this pod could not be prepared for its containers, in the words of Kubernetes, each with
    /// when it was said last.
    pub fn unprepared(
        &self,
        namespace: &str,
        set: &str,
        pod_uid: &str,
    ) -> Vec<(Timestamp, String)> {
        let of_set = (namespace.to_owned(), set.to_owned());
        let events = self.by_set.get(&of_set).into_iter();
        events
            .flat_map(HashMap::values)
            .filter(|event| event.uid == pod_uid)
            .map(|event| (event.last, event.message.clone()))
            .collect()
    }
}

/// The message without what is another with every try, for status must not change while nothing
/// does: the ids of sandboxes, and that events are combined.
fn without_ids(message: &str) -> String {
    let message = message
        .strip_prefix("(combined from similar events): ")
        .unwrap_or(message);
    let is_of_id = |c: char| c.is_ascii_hexdigit() || c == '-';
    let words = message.split_inclusive(|c: char| !is_of_id(c));
    let words = words.map(|word| {
        let id = word.trim_end_matches(|c: char| !is_of_id(c));
        match id.chars().filter(char::is_ascii_hexdigit).count() {
            SHORTEST_ID.. => format!("***{}", &word[id.len()..]),
            _ => word.to_owned(),
        }
    });
    words.collect()
}

/// So many hexadecimal digits in a row, with hyphens or without, are an id.
const SHORTEST_ID: usize = 32;

/// When what an event reports happened first and last.
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
        let mut creations = PodEvents::default();
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
            "one event stands for refusals before and after"
        );
    }

    #[test]
    fn a_refusal_of_a_controller_whose_clock_is_ahead_dates_from_its_arrival() {
        let mut creations = PodEvents::default();
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
        let mut creations = PodEvents::default();
        assert!(creations.put(&event("FailedCreate", "demo-1", 4, 5), now()));
        assert!(!creations.put(&event("FailedCreate", "demo-1", 4, 6), now()));
        assert!(creations.put(&event("SuccessfulCreate", "demo-1", 7, 7), now()));
        assert!(creations.put(&event("FailedCreate", "demo-1", 4, 8), now()));
        assert!(!creations.put(&event("FailedCreate", "demo-1", 4, 9), now()));
    }

    #[test]
    fn an_event_that_is_gone_leaves_nothing() {
        let mut creations = PodEvents::default();
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
    fn what_a_pod_cannot_be_prepared_for_concerns_one_pod() {
        for reason in PREPARATIONS {
            let mut events = PodEvents::default();
            let mut failed = event(reason, "demo-1", 4, 5);
            failed.involved_object.kind = Some("Pod".to_owned());
            failed.involved_object.name = Some("demo-1".to_owned());
            failed.involved_object.uid = Some("pod".to_owned());
            failed.message = Some("secret \"gone\" not found".to_owned());
            assert!(is_failure(&failed));
            assert_eq!(set_of(&failed), Some(("team", "demo")), "{reason}");
            assert!(events.put(&failed, now()), "{reason}");
            let found = events.unprepared("team", "demo", "pod");
            let [(_, message)] = found.as_slice() else {
                panic!("{reason}: {found:?}")
            };
            assert_eq!(message, "secret \"gone\" not found");
            assert_eq!(events.unprepared("team", "demo", "the-next-pod"), []);
            for event in events.select(|_, _| true) {
                events.remove(&event);
            }
            assert_eq!(events.count, 0, "{reason}");
            assert_eq!(events.unprepared("team", "demo", "pod"), []);
        }
    }

    #[test]
    fn a_sandbox_that_cannot_be_made_is_said_in_the_same_words_at_every_try() {
        let mut events = PodEvents::default();
        let expected = "Failed to create pod sandbox: failed to setup network for sandbox \"***\" in \"/var/run/netns/NAMESPACE\": plugin type=\"aws-cni\" failed (add): failed to assign an IP address to container";
        for (name, digit, combined) in [
            ("a", "0", ""),
            ("b", "f", ""),
            ("c", "7", "(combined from similar events): "),
        ] {
            let mut failed = event(SANDBOX, "demo-1", 4, 5);
            failed.metadata.name = Some(name.to_owned());
            failed.involved_object.name = Some("demo-1".to_owned());
            failed.involved_object.uid = Some("pod".to_owned());
            let namespace = [8, 4, 4, 4, 12].map(|digits| digit.repeat(digits));
            let message = expected
                .replace("***", &digit.repeat(64))
                .replace("NAMESPACE", &namespace.join("-"));
            failed.message = Some(format!("{combined}{message}"));
            events.put(&failed, now());
        }
        let found = events.unprepared("team", "demo", "pod");
        assert_eq!(found.len(), 3);
        for (_, message) in found {
            assert_eq!(message, expected.replace("NAMESPACE", "***"));
        }
    }

    #[test]
    fn a_long_message_is_cut() {
        let mut long = event("FailedCreate", "demo-1", 4, 5);
        long.message = Some(format!("create Pod demo-1 {}", "é".repeat(LONGEST)));
        let message = refusal(&[long]).unwrap().message;
        assert!(message.len() <= LONGEST);
    }

    #[test]
    fn of_too_many_events_the_latest_are_kept() {
        let mut events = PodEvents::default();
        let kept = |events: &PodEvents| {
            let kept: usize = events.by_set.values().map(HashMap::len).sum();
            assert_eq!(kept, events.count);
            assert!(kept <= MOST, "{kept}");
            kept
        };
        let own = event("FailedCreate", "demo-1", 4, 5);
        events.put(&own, now());
        let mut other = event("FailedCreate", "other-0", 4, 5);
        for n in 0..100_000_u32 {
            // Of many StatefulSets, and many of one.
            let set = if n % 2 == 0 { n } else { 0 };
            other.involved_object.name = Some(format!("other-{set}"));
            other.metadata.name = Some(format!("other-{n}"));
            events.put(&other, now());
            if n % 1000 == 0 {
                kept(&events);
                // It happens again and again.
                events.put(&own, now());
            }
        }
        assert!(kept(&events) >= LEFT);
        let missing = ["demo-1".to_owned()];
        let refusal = events.refusal("team", "demo", "set", &missing);
        assert!(refusal.is_some(), "it came lately");
        for gone in events.select(|_, _| true) {
            events.remove(&gone);
            events.remove(&gone);
        }
        assert_eq!(kept(&events), 0);
        assert!(events.by_set.is_empty());
    }
}
