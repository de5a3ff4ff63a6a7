//! The decision as tables and properties.

mod argo_cd;
mod conditions;
mod external_url;
mod gate;
mod haste;
mod health;
mod kstatus;
mod license;
mod login;
mod maintenance;
mod memory;
mod misplaced;
mod rollout;
mod simulation;
mod stale;
mod totality;

use super::decide;
use super::plan::{ConditionDraft, Plan, Report};
use crate::api::{ConditionType, Reason};
use crate::kubernetes::Kind;
use crate::observation::Observation;
use crate::testing;
use serde_json::Value;

/// Decides for the minimal cluster, changed.
fn plan(changes: &Value, observation: &Observation) -> Plan {
    decide(
        &testing::validation(changes),
        observation,
        &testing::settings(),
    )
}

fn condition(report: &Report, type_: ConditionType) -> &ConditionDraft {
    report
        .conditions
        .iter()
        .find(|condition| condition.type_ == type_)
        .unwrap()
}

/// Status and reason of one condition.
fn state(plan: &Plan, type_: ConditionType) -> (Option<bool>, Reason) {
    let condition = condition(&plan.report, type_);
    (condition.status, condition.reason)
}

/// Size of the StatefulSet in the plan, if it has one.
fn size(plan: &Plan) -> Option<i64> {
    let object = plan
        .objects
        .iter()
        .find(|object| object.kind == Kind::StatefulSet)?;
    object.value["spec"]["replicas"].as_i64()
}
