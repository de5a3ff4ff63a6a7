//! What is to be done: the outcome of a decision.

use crate::api::status::{
    DatabaseStatus, LicenseStatus, OverruledObject, Phase, QueueHoldStatus, RefusedCall,
    ReplicaStatus, RolloutStatus, StuckTasks,
};
use crate::api::{ConditionType, Reason};
use crate::decide::rollout::step::Eviction;
use crate::desired::DesiredObject;
use crate::kubernetes::Kind;
use crate::observation::StatefulSetView;
use crate::observation::reading::ReadOptions;
use jiff::Timestamp;
use secrecy::SecretString;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use uuid::Uuid;

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Objects to apply, in order.
    pub objects: Vec<DesiredObject>,
    /// The size to which the StatefulSet goes although the spec cannot be used: the license gate.
    pub resize: Option<Size>,
    /// The size to which it goes, and nothing else of it changes, where the API server refuses what
    /// is among the objects: the license gate as well.
    pub gate_size: Option<Size>,
    /// Kinds of which the cluster's object, if it is ours, is no longer wanted.
    pub prune: Vec<Kind>,
    /// A pod to end, after the objects stand.
    pub eviction: Option<Eviction>,
    /// A call to Bytebase's own API.
    pub call: Wanted,
    /// What to report.
    pub report: Report,
    /// The first reading has not ended, so the report would be out of date in a moment, or the
    /// cluster is about to go: the status as it stands is nearer to the truth.
    pub unsettled: bool,
    /// The database has not been heard for long enough since it could be read, and a database that
    /// is known has to be no more than that: where status says of this very spec what an earlier
    /// reading found, it is nearer to the truth than the report.
    pub hears_again: bool,
    /// When to requeue although nothing happened.
    pub requeue_at: Option<Timestamp>,
    /// How to read the database while this lasts.
    pub read_options: ReadOptions,
    /// Pods whose drain hooks are asked to let their replicas end, as long as this stands.
    pub let_go: BTreeSet<String>,
    /// Fresh heartbeats that belong to no pod now; `None` where heartbeats cannot be read.
    pub unmatched: Option<Vec<Uuid>>,
}

/// Which ordinals a StatefulSet has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// `spec.ordinals.start`: the lowest.
    pub start: i32,
    /// `spec.replicas`: how many from there on.
    pub replicas: i32,
}

impl StatefulSetView {
    /// Its present size.
    pub fn size(&self) -> Size {
        Size {
            start: self.start,
            replicas: self.replicas,
        }
    }
}

impl Size {
    /// The ordinals themselves.
    pub fn ordinals(self) -> Range<i32> {
        self.start..self.start.saturating_add(self.replicas)
    }
}

/// Whether a call to Bytebase's API is wanted.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// No: what came of earlier ones does not matter any more.
    No,
    /// It may be, and cannot be made now: nothing serves, or the database cannot be read.
    NotNow,
    /// Yes.
    Call(BytebaseCall),
}

/// A call to Bytebase's API, at one replica: it takes no Service on the way, whose rules may lag
/// behind the pods.
#[derive(Clone, Debug)]
pub struct BytebaseCall {
    /// A replica that is Ready and sends heartbeats.
    pub replica: SocketAddr,
    /// What is asked of it.
    pub request: BytebaseRequest,
}

/// What may be asked of Bytebase's API.
#[derive(Clone, Debug)]
pub enum BytebaseRequest {
    /// Sign up as the first admin.
    CreateFirstAdmin {
        /// Email.
        email: SecretString,
        /// Password.
        password: SecretString,
    },
    /// Log in and install the license.
    InstallLicense {
        /// Email.
        email: SecretString,
        /// Password.
        password: SecretString,
        /// The license.
        token: SecretString,
    },
}

/// Fresh heartbeats that are of no replica of the cluster whose id is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unmatched {
    /// How many there are.
    pub all: i32,
    /// How many of them are certain to be of foreign replicas.
    pub foreign: i32,
}

/// Status without times, which `report` adds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// One word.
    pub phase: Option<Phase>,
    /// Pods.
    pub replicas: i32,
    /// Ready pods.
    pub ready_replicas: i32,
    /// Pods whose heartbeat is fresh.
    pub active_replicas: Option<i32>,
    /// The target: after the license gate and the other limits.
    pub target_replicas: Option<i32>,
    /// Selector of the pods.
    pub selector: Option<String>,
    /// External URL.
    pub url: Option<String>,
    /// Version that serves.
    pub version: Option<String>,
    /// Version of the schema.
    pub schema_version: Option<String>,
    /// License.
    pub license: Option<LicenseStatus>,
    /// Since when no license has allowed several replicas.
    pub unlicensed_since: Option<Timestamp>,
    /// Database.
    pub database: Option<DatabaseStatus>,
    /// Pods; `since` is filled in by `report`.
    pub replica_statuses: Vec<ReplicaStatus>,
    /// The rollout that is under way; `since` is filled in by `report`.
    pub rollout: Option<RolloutStatus>,
    /// Who holds the queue; `since` is filled in by `report`.
    pub queue_hold: Option<QueueHoldStatus>,
    /// Running tasks whose replica is gone.
    pub stuck_tasks: Option<StuckTasks>,
    /// Heartbeats of no replica that is known; `None` where heartbeats cannot be read. No part of
    /// the status: the metrics show it.
    pub unmatched: Option<Unmatched>,
    /// The call to Bytebase's API that it refuses.
    pub refused_call: Option<RefusedCall>,
    /// Objects that a webhook keeps otherwise than they were written; filled in by `report`.
    pub overruled: Vec<OverruledObject>,
    /// Conditions.
    pub conditions: Vec<ConditionDraft>,
}

/// A condition without its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionDraft {
    /// Type.
    pub type_: ConditionType,
    /// True, False or (`None`) Unknown.
    pub status: Option<bool>,
    /// Reason.
    pub reason: Reason,
    /// Message.
    pub message: String,
}

impl ConditionDraft {
    /// A condition.
    pub fn new(
        type_: ConditionType,
        status: Option<bool>,
        reason: Reason,
        message: impl Into<String>,
    ) -> Self {
        Self {
            type_,
            status,
            reason,
            message: message.into(),
        }
    }
}
