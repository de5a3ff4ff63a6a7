//! The heart: from what is wanted and what is seen to what is done. Pure, total and synchronous.
//!
//! [`decide`] puts together what its rooms say, mostly in this order:
//!
//! - `health`: which pod is which heartbeat;
//! - `size`: what the license allows, how many replicas run, and the way there;
//! - `database`: what the metadata database allows;
//! - `rollout`: how a change reaches the replicas;
//! - `objects`: what should stand; `call`: what is asked of Bytebase's own API;
//! - `conditions`: what all that means to users; `report`: the part of status that is always there;
//! - `pace`: when to read and to reconcile again.
//!
//! `blocked` is the whole of it where the spec cannot be used.

mod blocked;
mod call;
pub(crate) mod conditions;
pub(crate) mod database;
pub(crate) mod health;
mod objects;
mod pace;
pub mod plan;
mod report;
pub(crate) mod rollout;
pub(crate) mod size;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;

use crate::contract::license::LicenseKey;
use crate::desired;
use crate::desired::template::Template;
use crate::observation::{DatabaseView, Observation};
use crate::validate::{Problem, ValidCluster, Validation};
use blocked::blocked;
use conditions::Findings;
use database::{login, occupancy, schema};
use health::Health;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::Desired;
use plan::{Plan, Report, Wanted};
use rollout::hold::TemplateHold;
use rollout::step::Step;
use rollout::{maintenance, queue, stale};
use size::license::LicenseVerdict;
use size::replicas::Grounds;
use size::scale::Haste;
use size::{haste, license, replicas, scale};
use std::borrow::Cow;

/// What the operator is given at its start.
#[derive(Clone, Default)]
pub struct Settings {
    /// How long before its end a license stops counting.
    pub license_guard: SignedDuration,
    /// Key that verifies licenses.
    pub license_key: Option<LicenseKey>,
    /// Where the operator runs: a NetworkPolicy must let its calls in.
    pub operator_namespace: Option<String>,
    /// The operator's own image, from which the drain hook is copied into the pods.
    pub own_image: Option<String>,
}

/// Decides what is to be done for one cluster.
pub fn decide(validation: &Validation, observation: &Observation, settings: &Settings) -> Plan {
    let mut plan = decided(validation, observation, settings);
    // No reading of the database shows it.
    if let Some(database) = &mut plan.report.database {
        database.ca_expiration_time = validation.ca_ends.map(Time);
    }
    plan
}

fn decided(validation: &Validation, observation: &Observation, settings: &Settings) -> Plan {
    let problems = &validation.problems;
    let Some(cluster) = &validation.cluster else {
        return blocked(validation, problems, observation, settings);
    };
    match objects::template(cluster, settings, observation) {
        Ok(template) => usable(cluster, template, validation, observation, settings),
        Err(problem) => {
            let problems: Vec<_> = problems.iter().cloned().chain([problem]).collect();
            blocked(validation, &problems, observation, settings)
        }
    }
}

/// A cluster whose spec can be used.
fn usable(
    cluster: &ValidCluster,
    template: Template,
    validation: &Validation,
    observation: &Observation,
    settings: &Settings,
) -> Plan {
    let health = health::join(observation, |pod| login::differs(&pod.login, &template));
    let changed_login = login::changed(&template, observation);
    let judge = |observation: &Observation| {
        license::judge(
            license::Terms::of(cluster),
            observation,
            size::guard(settings, cluster.replicas, observation),
            settings.license_key.as_ref(),
        )
    };
    let (seen, ahead) = seen_from_replicas(observation, &health, judge);
    let license = judge(&seen);
    let observation = &*seen;
    let database = database::judge(
        &cluster.database,
        cluster.replicas,
        observation,
        &health,
        changed_login.is_some(),
    );
    let login = changed_login.as_ref().and_then(|changed| {
        login::held(
            changed,
            &cluster.database,
            &template,
            &database,
            observation,
            &health,
        )
    });
    let held = TemplateHold::new(cluster, observation, &database, login, &template);
    let version = held.version(cluster, observation);
    let outgrown = held.outgrown(version, observation);
    let target = replicas::target(&Grounds {
        wanted: cluster.replicas,
        enforcement: cluster.license.enforcement,
        image: version,
        schema: schema::version(observation),
        outgrown: outgrown.as_deref(),
        running: size::running(observation),
        database: &database,
        license: &license,
        ahead: ahead.as_ref(),
        view: &observation.database,
        foreign: health.foreign,
        is_beside_foreign: health.is_beside_foreign(),
    });
    let set = observation.stateful_set.as_ref();
    let stage = maintenance::stage(cluster, &template, target.replicas, observation, &health);
    let stage = held.stage(stage, cluster.paused, observation);
    let rollout = rollout::step(cluster, &template, stage, observation, &health, &database);
    let because = held.rollout(cluster, observation, &database, &target, &template);
    let rollout = match (&held.downgrade, &held.login, because) {
        (Some(downgrade), ..) => rollout.refused(downgrade),
        (None, Some(login), _) if !cluster.paused => rollout.held_by_login(login),
        (None, _, Some(because)) => rollout.held(because),
        (None, _, None) => rollout,
    };
    let rollout = rollout.unwritten(observation, &template);
    let set = set.filter(|_| !cluster.paused);
    let haste = size::haste_to(target.replicas, cluster, &license);
    let scale_hold = scale::hold(
        cluster,
        &template,
        changed_login.as_ref(),
        (target.replicas, haste),
        observation,
        &health,
    );
    let ends = set.and_then(|set| scale::waits_for_end(set, target.replicas, haste, &health));
    let scale_wait = scale_hold.clone().or(ends);
    let findings = Findings {
        rollout: &rollout,
        stage,
        changed_login: changed_login.as_ref(),
        haste,
        keeps_size: scale_hold.is_some_and(|wait| !wait.is_over(observation.now)),
        scale_wait: scale_wait.as_ref(),
        exposure_held: objects::exposure_held(cluster, observation, &license),
        cluster,
        observation,
        health: &health,
        license: &license,
        database: &database,
        target: &target,
    };
    let desired = objects::objects(&findings, settings, template, held.holds());
    plan(&findings, desired, validation)
}

/// What there is to know of the replicas that run, and of the license where they are to move: while
/// all of them run on another database than the one that was read, what was read of that one binds
/// none of them, and theirs does until they have left it.
fn seen_from_replicas<'o>(
    observation: &'o Observation,
    health: &Health<'_>,
    judge: impl Fn(&Observation) -> LicenseVerdict,
) -> (Cow<'o, Observation>, Option<LicenseVerdict>) {
    if !health.all_run_elsewhere() {
        return (Cow::Borrowed(observation), None);
    }
    let seen = observation.clone().of_another_database();
    (Cow::Owned(seen), Some(judge(observation)))
}

fn plan(findings: &Findings<'_>, desired: Desired, validation: &Validation) -> Plan {
    let Findings {
        cluster,
        observation,
        health,
        license,
        database,
        target,
        rollout,
        ..
    } = *findings;
    let mut all = conditions::all(findings);
    let phase = conditions::phase(findings, &all);
    let not_installed = desired.not_installed.iter().copied();
    let problems: Vec<_> = validation
        .problems
        .iter()
        .cloned()
        .chain(not_installed.map(Problem::kind_not_installed))
        .collect();
    let mut warnings = validation.warnings.clone();
    warnings.extend(desired.warnings.clone());
    let ends_soon = validation.ends_soon.as_ref();
    all.push(conditions::configuration(&problems, &warnings, ends_soon));
    let paused = cluster.paused;
    // Of a cluster that is to stop several replicas may be active for as long.
    let wanted = cluster.replicas.max(1);
    let hastened = match replicas::haste(wanted, cluster.license.enforcement, license) {
        Haste::Ended if !cluster.paused => haste::hastened(observation, health, license),
        _ => haste::Hastened::default(),
    };
    let restart = stale::restart(cluster, observation, health, database, rollout);
    let eviction = match &rollout.step {
        Step::Evict(eviction) => Some(eviction.clone()),
        _ => restart.eviction,
    };
    let Desired {
        objects,
        prune,
        gate_size,
        ..
    } = if paused { Desired::default() } else { desired };
    let call = call::call(cluster, observation, license, health);
    let common = report::common(phase, observation, health, &hastened.let_go);
    // What came of a call that is no longer wanted does not matter.
    let refused_call = common.refused_call.filter(|_| !matches!(call, Wanted::No));
    let quiet = phase.is_settled();
    Plan {
        objects,
        resize: None,
        gate_size,
        prune,
        eviction,
        call,
        requeue_at: [
            pace::requeue_at(cluster, observation, license, rollout, health),
            database.changes_at,
            findings
                .scale_wait
                .and_then(|wait| wait.until.filter(|until| *until > observation.now)),
            hastened.due_at,
            restart.due_at,
            validation.changes_at,
        ]
        .into_iter()
        .flatten()
        .min(),
        read_options: pace::read_options(quiet, findings)
            .or_seldom(pace::is_stopped(cluster.replicas, observation)),
        let_go: hastened.let_go,
        unmatched: report::unmatched(health, observation),
        unsettled: matches!(observation.database, DatabaseView::NotProbed),
        hears_again: occupancy::is_heard_again(Some(database), observation),
        report: Report {
            target_replicas: Some(target.replicas),
            selector: Some(desired::selector_text(&cluster.identity.name)),
            url: Some(objects::reported_url(cluster, rollout, observation).to_owned()),
            queue_hold: queue::hold(Some(cluster), observation),
            license: license.status.clone(),
            unlicensed_since: haste::unlicensed_since(observation, license),
            database: database.reported(findings.changed_login),
            rollout: rollout.status(findings.scale_wait, observation, health),
            refused_call,
            conditions: all,
            ..common
        },
    }
}
