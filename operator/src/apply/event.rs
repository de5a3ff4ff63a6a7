//! Events.

use super::FIELD_MANAGER;
use crate::api::{BytebaseCluster, Reason};
use crate::kubernetes::error_text::plain;
use crate::process::lease::Leadership;
use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client, Resource as _, ResourceExt as _};

/// Longest note the API server takes.
const LONGEST_NOTE: usize = 1024;

/// Something to publish as an event and a log line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Whether a user should act.
    pub warning: bool,
    /// Reason, the same as on the condition.
    pub reason: Reason,
    /// What.
    pub message: String,
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
    /// Publishes one event on a cluster. Events are hints: a failure is logged and nothing waits
    /// for it.
    pub async fn publish(&self, cluster: &BytebaseCluster, notice: &Notice) {
        if self.leadership.is_valid() {
            publish(&self.client, cluster, &self.instance, notice).await;
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
            reason = notice.reason.as_ref(),
            error = plain(&error),
            "an event could not be published"
        );
    }
}
