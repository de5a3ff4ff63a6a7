//! Events.

use super::FIELD_MANAGER;
use crate::api::{BytebaseCluster, ConditionType, Reason};
use crate::kubernetes::error_text::plain;
use crate::process::lease::Leadership;
use crate::process::queue::{Key, name};
use futures::FutureExt as _;
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource as _, ResourceExt as _};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

/// Longest note the API server takes.
const LONGEST_NOTE: usize = 1024;

/// Something to publish as an event and a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether a user should act.
    pub warning: bool,
    /// The condition that it reports a change of; `None`: something that happened.
    pub condition: Option<ConditionType>,
    /// Reason, the same as on the condition.
    pub reason: Reason,
    /// Which of several things of this reason it is about, such as one of several drains; empty
    /// where there is only one.
    pub subject: String,
    /// What.
    pub message: String,
}

impl Notice {
    /// Logs it, as a warning where it is one.
    pub fn log(&self, cluster: &Key) {
        let (reason, message) = (self.reason.as_ref(), &self.message);
        if self.warning {
            tracing::warn!(cluster = %name(cluster), reason, "{message}");
        } else {
            tracing::info!(cluster = %name(cluster), reason, "{message}");
        }
    }
}

/// So many events of one cluster wait at most. More of them come only where none is taken.
const MOST_WAITING: usize = 32;
/// Events that are on their way at a time, of all clusters.
const AT_A_TIME: usize = 32;

/// Publishes events in the name of one operator process.
///
/// An event waits for the API server in a task of its cluster, and no reconcile does: a webhook
/// that it asks first may not answer.
#[derive(Clone)]
pub struct Publisher {
    /// Client for the write.
    client: Client,
    /// Name of the process.
    instance: String,
    /// An event is a write too: only the leader says what it does.
    leadership: Leadership,
    waiting: Arc<Waiting>,
}

/// Events that are still to be published.
struct Waiting {
    /// Of each cluster that a task publishes for, in their order.
    events: Mutex<HashMap<Key, VecDeque<Event>>>,
    turns: Semaphore,
    tasks: TaskTracker,
}

impl Publisher {
    /// Publishes by this client and in the name of this process, for as long as it leads.
    pub fn new(client: Client, instance: String, leadership: Leadership) -> Self {
        let tasks = TaskTracker::new();
        // `flush` waits for those that there are; more may follow.
        tasks.close();
        Self {
            client,
            instance,
            leadership,
            waiting: Arc::new(Waiting {
                events: Mutex::default(),
                turns: Semaphore::new(AT_A_TIME),
                tasks,
            }),
        }
    }

    /// Logs notices of a cluster and has each published as an event, one after the other. Events
    /// are hints: a failure is logged and nothing waits for it.
    pub fn publish(&self, cluster: &BytebaseCluster, notices: &[Notice]) {
        let key = ObjectRef::from_obj(cluster);
        for notice in notices {
            notice.log(&key);
            if self.leadership.is_valid() {
                self.enqueue(&key, event(cluster, &self.instance, notice));
            }
        }
    }

    fn enqueue(&self, key: &Key, event: Event) {
        let mut events = self.waiting.events.lock();
        if let Some(waiting) = events.get_mut(key) {
            if waiting.len() < MOST_WAITING {
                waiting.push_back(event);
            } else {
                unpublished(key, &event, "too many wait for the API server");
            }
            return;
        }
        events.insert(key.clone(), VecDeque::from([event]));
        let (publisher, key) = (self.clone(), key.clone());
        let task = async move { publisher.publish_all(&key).await };
        self.waiting.tasks.spawn(task);
    }

    /// Publishes the events of a cluster until none waits.
    async fn publish_all(&self, key: &Key) {
        while let Some(event) = self.next(key) {
            let _turn = self.waiting.turns.acquire().await;
            if !self.leadership.is_valid() {
                continue;
            }
            // A panic would leave the cluster's entry, as of a task that goes on, and no event of
            // the cluster would be published any more.
            let published = AssertUnwindSafe(publish(&self.client, key, &event));
            if published.catch_unwind().await.is_err() {
                unpublished(key, &event, "this is a defect of the operator");
            }
        }
    }

    /// The next event of a cluster. `None`: there is none, and the next one needs another task.
    fn next(&self, key: &Key) -> Option<Event> {
        let mut events = self.waiting.events.lock();
        let next = events.get_mut(key)?.pop_front();
        if next.is_none() {
            events.remove(key);
        }
        next
    }

    /// Waits until no event waits any more.
    pub async fn flush(&self) {
        self.waiting.tasks.wait().await;
    }
}

/// A notice as an event of now.
fn event(cluster: &BytebaseCluster, instance: &str, notice: &Notice) -> Event {
    let mut note = notice.message.clone();
    if note.len() > LONGEST_NOTE {
        note.truncate(note.floor_char_boundary(LONGEST_NOTE - 3));
        note.push('…');
    }
    Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", cluster.name_any())),
            namespace: cluster.namespace(),
            ..ObjectMeta::default()
        },
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(notice.reason.as_ref().to_owned()),
        note: Some(note),
        action: Some("Reconcile".to_owned()),
        event_time: Some(MicroTime(Timestamp::now())),
        regarding: Some(cluster.object_ref(&())),
        reporting_controller: Some(format!("bytebase.com/{FIELD_MANAGER}")),
        reporting_instance: Some(instance.chars().take(128).collect()),
        ..Event::default()
    }
}

async fn publish(client: &Client, key: &Key, event: &Event) {
    let namespace = key.namespace.as_deref().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(client.clone(), namespace);
    if let Err(error) = api.create(&PostParams::default(), event).await {
        unpublished(key, event, &plain(&error));
    }
}

fn unpublished(key: &Key, event: &Event, error: &str) {
    tracing::warn!(
        cluster = %name(key),
        reason = event.reason,
        error,
        "an event could not be published"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::logging::LogFormat;
    use crate::runtime::logging::tests::Log;
    use crate::testing::{api_server, cluster};
    use serde_json::{Value, json};
    use std::task::Poll;

    fn publisher(client: Client) -> Publisher {
        Publisher::new(client, "operator-0".to_owned(), Leadership::renewed())
    }

    fn notice(message: &str) -> Notice {
        Notice {
            warning: false,
            condition: None,
            reason: Reason::QueueFree,
            subject: String::new(),
            message: message.to_owned(),
        }
    }

    #[tokio::test]
    async fn events_of_a_cluster_keep_their_order_and_no_other_one_waits_for_them() {
        let log = Log::begin(LogFormat::Json, "info");
        let published: Arc<Mutex<Vec<String>>> = Arc::default();
        let (notes, asked) = (Arc::clone(&published), Arc::new(Mutex::new(0)));
        let count = Arc::clone(&asked);
        let writer = publisher(api_server("apps", move |_, _, event| {
            let note = event["note"].as_str().unwrap_or_default().to_owned();
            *count.lock() += 1;
            if note == "silent" {
                return None;
            }
            notes.lock().push(note);
            Some((201, event))
        }));
        let [mut one, mut other] = [cluster(&json!({})), cluster(&json!({}))];
        one.metadata.name = Some("one".to_owned());
        other.metadata.name = Some("other".to_owned());
        // The API server never answers for the first one's last.
        writer.publish(&one, &[notice("1"), notice("2")]);
        writer.publish(&one, &[notice("3"), notice("silent")]);
        while *asked.lock() < 4 {
            tokio::task::yield_now().await;
        }
        let many: Vec<_> = (0..=MOST_WAITING).map(|_| notice("late")).collect();
        writer.publish(&one, &many);
        assert_eq!(log.lines("could not be published").len(), 1, "one too many");
        writer.publish(&other, &[notice("4")]);
        while *asked.lock() < 5 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*published.lock(), ["1", "2", "3", "4"]);
    }

    #[tokio::test]
    async fn an_event_whose_publishing_panics_holds_up_no_later_one() {
        use axum::http::{Request, Response};
        use kube::client::Body;

        let log = Log::begin(LogFormat::Json, "info");
        let (service, mut handle) =
            tower_test::mock::pair::<Request<Body>, Response<axum::body::Body>>();
        let published: Arc<Mutex<Vec<Value>>> = Arc::default();
        let notes = Arc::clone(&published);
        tokio::spawn(async move {
            while let Some((request, send)) = handle.next_request().await {
                let bytes = request.into_body().collect_bytes().await.unwrap();
                let event: Value = serde_json::from_slice(&bytes).unwrap();
                if event["note"] == "breaks" {
                    // It is read where the event is published.
                    let broken =
                        futures::stream::poll_fn(|_| -> Poll<Option<std::io::Result<Vec<u8>>>> {
                            panic!("planted")
                        });
                    let body = axum::body::Body::from_stream(broken);
                    send.send_response(Response::new(body));
                    continue;
                }
                notes.lock().push(event["note"].clone());
                send.send_response(Response::new(axum::body::Body::from(bytes)));
            }
        });
        let writer = publisher(Client::new(service, "apps"));
        let cluster = cluster(&json!({}));
        writer.publish(&cluster, &[notice("breaks"), notice("waits")]);
        writer.flush().await;
        writer.publish(&cluster, &[notice("comes later")]);
        writer.flush().await;
        assert_eq!(*published.lock(), ["waits", "comes later"]);
        assert_eq!(log.lines("could not be published").len(), 1);
    }

    #[tokio::test]
    async fn an_event_that_cannot_be_published_is_logged_with_its_cluster() {
        let log = Log::begin(LogFormat::Json, "info");
        let publisher = publisher(api_server("apps", |_, _, _| {
            let status = json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure",
                "message": "no room", "reason": "Forbidden", "code": 403,
            });
            Some((403, status))
        }));
        publisher.publish(&cluster(&json!({})), &[notice("it is free")]);
        publisher.flush().await;
        let lines = log.lines("an event could not be published");
        assert_eq!(lines.len(), 1, "{}", log.text());
        assert_eq!(lines[0]["cluster"], "apps/demo");
    }

    #[test]
    fn a_notice_is_logged_at_the_weight_of_its_event() {
        for (warning, level) in [(true, "WARN"), (false, "INFO")] {
            let log = Log::begin(LogFormat::Json, "info");
            let notice = Notice {
                warning,
                condition: None,
                reason: Reason::QueueHeldLong,
                subject: String::new(),
                message: "the queue is held".to_owned(),
            };
            notice.log(&ObjectRef::from_obj(&cluster(&json!({}))));
            let lines = log.lines("the queue is held");
            assert_eq!(lines.len(), 1, "{}", log.text());
            assert_eq!(
                (
                    &lines[0]["level"],
                    &lines[0]["reason"],
                    &lines[0]["cluster"]
                ),
                (&level.into(), &"QueueHeldLong".into(), &"apps/demo".into())
            );
        }
    }
}
