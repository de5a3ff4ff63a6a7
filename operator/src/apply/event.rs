//! Events.

use super::FIELD_MANAGER;
use crate::api::{BytebaseCluster, ConditionType, Reason};
use crate::kubernetes::error_text::plain;
use crate::process::lease::Leadership;
use crate::process::queue::{Key, name};
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, Client, Resource as _, ResourceExt as _};

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

/// Publishes events in the name of one operator process.
#[derive(Clone)]
pub struct Publisher {
    /// Client for the write.
    pub client: Client,
    /// Name of the process.
    pub instance: String,
    /// An event is a write too: only the leader says what it does.
    pub leadership: Leadership,
}

impl Publisher {
    /// Logs notices of a cluster and publishes each as an event. Events are hints: a failure is
    /// logged and nothing waits for it.
    pub async fn publish(&self, cluster: &BytebaseCluster, notices: &[Notice]) {
        let key = ObjectRef::from_obj(cluster);
        for notice in notices {
            notice.log(&key);
            if self.leadership.is_valid() {
                publish(&self.client, cluster, &self.instance, notice).await;
            }
        }
    }
}

async fn publish(client: &Client, cluster: &BytebaseCluster, instance: &str, notice: &Notice) {
    let namespace = cluster.namespace().unwrap_or_default();
    let mut note = notice.message.clone();
    if note.len() > LONGEST_NOTE {
        note.truncate(note.floor_char_boundary(LONGEST_NOTE - 3));
        note.push('…');
    }
    let event = Event {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", cluster.name_any())),
            namespace: Some(namespace.clone()),
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
    };
    if let Err(error) = Api::<Event>::namespaced(client.clone(), &namespace)
        .create(&PostParams::default(), &event)
        .await
    {
        tracing::warn!(
            cluster = %name(&ObjectRef::from_obj(cluster)),
            reason = notice.reason.as_ref(),
            error = plain(&error),
            "an event could not be published"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::logging::LogFormat;
    use crate::runtime::logging::tests::Log;
    use crate::testing::{api_server, cluster};
    use serde_json::json;

    #[tokio::test]
    async fn an_event_that_cannot_be_published_is_logged_with_its_cluster() {
        let log = Log::begin(LogFormat::Json, "info");
        let publisher = Publisher {
            client: api_server("apps", |_, _, _| {
                let status = json!({
                    "kind": "Status", "apiVersion": "v1", "status": "Failure",
                    "message": "no room", "reason": "Forbidden", "code": 403,
                });
                Some((403, status))
            }),
            instance: "operator-0".to_owned(),
            leadership: Leadership::renewed(),
        };
        let notice = Notice {
            warning: false,
            condition: None,
            reason: Reason::QueueFree,
            subject: String::new(),
            message: "replicas promote queued work again".to_owned(),
        };
        publisher.publish(&cluster(&json!({})), &[notice]).await;
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
