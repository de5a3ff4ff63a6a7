//! The part of status that is the same whatever was decided.

use super::database::schema;
use super::health::{self, Health, Replica};
use super::plan::{Report, Unmatched};
use super::rollout::{drains, queue, stale};
use crate::api::status::{DrainState, LogLine, Phase, ReplicaStatus};
use crate::observation::{LogQuote, Observation};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;
use uuid::Uuid;

/// The part of status that is the same whatever was decided.
pub(super) fn common(
    phase: Phase,
    observation: &Observation,
    health: &Health<'_>,
    let_go: &BTreeSet<String>,
) -> Report {
    let set = observation.stateful_set.as_ref();
    let drain = |replica: &Replica<'_>| {
        if let_go.contains(&replica.pod.name) {
            drains::state_if_let_go(replica, observation)
        } else {
            drains::state(replica, observation.now)
        }
    };
    let replica_statuses = health.replicas.iter().map(|replica| ReplicaStatus {
        pod: replica.pod.name.clone(),
        node: replica.pod.node.clone(),
        replica_id: replica.id.map(|id| id.to_string()),
        container_id: replica.id.and(replica.pod.container_id.clone()),
        ready: replica.pod.is_ready(),
        heartbeat: replica.heartbeat,
        // No earlier than this; the status before says the rest.
        since: replica.sent.map(Time),
        no_heartbeat_since: None,
        running_tasks: replica
            .running_tasks
            .and_then(|count| i64::try_from(count).ok()),
        task_runs: if drain(replica) == Some(DrainState::CutShort) {
            drains::task_runs(replica, observation)
        } else {
            Vec::new()
        },
        drain: drain(replica),
        drains_until: drains::until(replica).map(Time),
        ends_by: replica.pod.ends_by.map(Time),
        updated: set.is_some_and(|set| set.settled && replica.pod.revision == set.update_revision),
        message: replica
            .pod
            .trouble
            .as_ref()
            .map(|trouble| trouble.message().to_owned()),
        log_line: match &replica.pod.log_quote {
            Some(LogQuote::Line(line)) => Some(LogLine {
                text: line.to_string(),
                pod_uid: replica.pod.uid.clone(),
            }),
            Some(LogQuote::Withheld { .. }) | None => None,
        },
    });
    let ready = health
        .replicas
        .iter()
        .filter(|replica| replica.pod.is_ready());
    Report {
        phase: Some(phase),
        replicas: to_i32(health.replicas.len()),
        ready_replicas: to_i32(ready.clone().count()),
        active_replicas: health.active().map(to_i32),
        unmatched: health.readable.then(|| Unmatched {
            all: to_i32(health.unmatched.len()),
            foreign: to_i32(health.foreign),
        }),
        // During a rollout the one that is being left.
        version: ready
            .filter(|replica| replica.pod.version.is_some())
            .min_by_key(|replica| {
                set.is_some_and(|set| set.settled && replica.pod.revision == set.update_revision)
            })
            .and_then(|replica| replica.pod.version.clone())
            // What served on another database says nothing of this one, and is not remembered.
            .or_else(|| observation.remembered.version.clone()),
        schema_version: schema::version(observation).map(|version| version.to_string()),
        replica_statuses: replica_statuses.collect(),
        queue_hold: queue::hold(None, observation),
        stuck_tasks: stale::stuck_tasks(observation),
        refused_call: observation
            .call_failure
            .as_ref()
            .and_then(|failure| failure.refused.clone()),
        ..Report::default()
    }
}

/// Fresh heartbeats that belong to no pod; `None` where heartbeats cannot be read.
pub(super) fn unmatched(health: &Health<'_>, observation: &Observation) -> Option<Vec<Uuid>> {
    // Right after an outage all heartbeats are old, those of replicas that outlived it too.
    let all_heard = observation.facts().is_some_and(health::all_heard);
    let says = health.readable && (all_heard || !health.unmatched.is_empty());
    says.then(|| health.unmatched.clone())
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
