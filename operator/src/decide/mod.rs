//! The heart: from what is wanted and what is seen to what is done. Pure, total and synchronous.

mod call;
pub(crate) mod conditions;
pub(crate) mod database;
pub(crate) mod health;
mod objects;
mod pace;
pub mod plan;
pub(crate) mod rollout;
pub(crate) mod size;
#[cfg(test)]
mod tests;
pub(crate) mod verdict;

use crate::api::status::{DatabaseStatus, DrainState, LogLine, Phase, ReplicaStatus};
use crate::contract::license::LicenseKey;
use crate::desired;
use crate::desired::template::Template;
use crate::observation::reading::ReadOptions;
use crate::observation::{DatabaseView, LogQuote, Observation, StatefulSetView};
use crate::validate::{GateTerms, Problem, ValidCluster, Validation};
use conditions::Findings;
use database::{DatabaseVerdict, login, occupancy, schema};
use health::{Health, Replica};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use objects::Desired;
use plan::{Plan, Report, Unmatched, Wanted};
use rollout::hold::TemplateHold;
use rollout::step::Step;
use rollout::{drains, maintenance, queue, stale};
use size::license::LicenseVerdict;
use size::replicas::Grounds;
use size::scale::Haste;
use size::{haste, license, replicas, scale};
use std::borrow::Cow;
use std::collections::BTreeSet;
use uuid::Uuid;

/// Beside the grace period of a pod, one step of a scale-down takes so long: the StatefulSet's
/// controller and the next reading of the database.
const STEP_MARGIN: SignedDuration = SignedDuration::from_secs(15);

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
            guard(settings, cluster.replicas, observation),
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
        running: running(observation),
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
    let haste = haste_to(target.replicas, cluster, &license);
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

/// What is taken back, to none, is no matter of the license.
fn haste_to(target: i32, cluster: &ValidCluster, license: &LicenseVerdict) -> Haste {
    match target {
        0 => Haste::Orderly,
        _ => replicas::haste(cluster.replicas, cluster.license.enforcement, license),
    }
}

/// Pods without a StatefulSet are taken over by the one that is made.
fn running(observation: &Observation) -> i32 {
    let set = observation.stateful_set.as_ref();
    let highest = observation.pods.iter().map(|pod| pod.ordinal).max();
    let orphaned = highest.map_or(0, |highest| highest.saturating_add(1));
    set.map_or(orphaned, |set| set.replicas)
}

/// How long before its end a license stops counting for a cluster of this size: the operator's
/// interval, and as long as it takes to go down to one replica step by step, after a pod that may
/// be ending for another reason. By the wanted size, not the present one, or each step would open
/// the gate again.
fn guard(settings: &Settings, size: i32, observation: &Observation) -> SignedDuration {
    // A pod that runs keeps the grace period that it was made with.
    let pods = observation.pods.iter().filter_map(|pod| pod.grace);
    let set = observation.stateful_set.as_ref();
    let grace = pods.chain(set.map(StatefulSetView::grace)).max();
    let step = grace.unwrap_or_default().saturating_add(STEP_MARGIN);
    let steps = if size > 1 { size } else { 0 };
    step.checked_mul(steps)
        .and_then(|steps| settings.license_guard.checked_add(steps))
        .unwrap_or(SignedDuration::MAX)
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
    let common = report(phase, observation, health, &hastened.let_go);
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
        unmatched: unmatched(health, observation),
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

/// A cluster that cannot be used, or is being deleted: nothing is changed, what runs is still
/// observed. Only the license gate acts all the same, since Bytebase obeys the license whatever the
/// spec says.
fn blocked(
    validation: &Validation,
    problems: &[Problem],
    observation: &Observation,
    settings: &Settings,
) -> Plan {
    // There is no template whose login pods could differ from. What the spec says of the database
    // stands in for it where that can be used; else that the login had changed, which stays so.
    let changed_login = login::remembered(observation);
    let wanted_login = validation.database.as_ref();
    let health = health::join(observation, |pod| match wanted_login {
        Some(database) => login::is_of_another(&pod.login, database),
        None => changed_login.is_some(),
    });
    let GateTerms {
        wanted,
        enforcement,
        paused,
    } = validation.gate;
    // Fewer that are wanted do not end before the spec is corrected. Where a step opens the gate
    // again, it closes in time for the next one.
    let size = wanted.max(running(observation));
    let judge = |observation: &Observation| {
        license::judge(
            license::Terms::default(),
            observation,
            guard(settings, size, observation),
            settings.license_key.as_ref(),
        )
    };
    let (seen, _) = seen_from_replicas(observation, &health, judge);
    let license = judge(&seen);
    let (observation, health) = (&*seen, &health);
    // What is read meanwhile goes into status: a decision on the corrected spec may rest on it.
    let database = validation.database.as_ref();
    let database =
        database.map(|database| database::judge(database, wanted, observation, health, false));
    // Whatever is wanted, none included, the gate leaves one.
    let haste = replicas::haste(1, enforcement, &license);
    let closed = haste != Haste::Orderly;
    let acts = closed && !paused;
    let hastened = match haste {
        Haste::Ended if acts => haste::hastened(observation, health, &license),
        _ => haste::Hastened::default(),
    };
    let phase = if validation.is_deleted {
        Phase::Stalled
    } else {
        Phase::Invalid
    };
    let set = observation.stateful_set.as_ref();
    let resize = set.filter(|set| acts && set.replicas > 1);
    let resize = resize.and_then(|set| {
        let size = scale::next_size(set, 1, haste, observation, health);
        (size != set.size()).then_some(size)
    });
    Plan {
        objects: Vec::new(),
        resize,
        gate_size: None,
        prune: Vec::new(),
        eviction: None,
        call: Wanted::NotNow,
        requeue_at: [
            license.changes_at,
            hastened.due_at,
            validation.changes_at,
            closed.then(|| scale::overdue_at(observation)).flatten(),
        ]
        .into_iter()
        .flatten()
        .min(),
        read_options: blocked_read_options(
            validation,
            database.as_ref(),
            closed,
            observation,
            health,
        ),
        unmatched: unmatched(health, observation),
        // Of a cluster that goes in a moment nothing is reported but what the gate does.
        unsettled: matches!(observation.database, DatabaseView::NotProbed)
            || goes_unreported(validation, closed, observation),
        hears_again: occupancy::is_heard_again(database.as_ref(), observation),
        report: Report {
            license: license.status.clone(),
            unlicensed_since: haste::unlicensed_since(observation, &license),
            conditions: conditions::invalid(
                problems,
                validation,
                &license,
                database.as_ref(),
                observation,
            ),
            database: match database {
                Some(database) => database.reported(changed_login),
                None => remembered_database(observation, health),
            },
            target_replicas: closed.then(|| running(observation).min(1)),
            ..report(phase, observation, health, &hastened.let_go)
        },
        let_go: hastened.let_go,
    }
}

/// What was reported of the database, where the spec does not say which one it is. An earlier probe
/// goes on meanwhile, and may show that foreign replicas come or go.
fn remembered_database(observation: &Observation, health: &Health<'_>) -> Option<DatabaseStatus> {
    let before = observation.remembered.database.clone()?;
    Some(DatabaseStatus {
        foreign_replicas: health.is_beside_foreign(),
        ..before
    })
}

/// Fresh heartbeats that belong to no pod; `None` where heartbeats cannot be read.
fn unmatched(health: &Health<'_>, observation: &Observation) -> Option<Vec<Uuid>> {
    // Right after an outage all heartbeats are old, those of replicas that outlived it too.
    let all_heard = observation.facts().is_some_and(health::all_heard);
    let says = health.readable && (all_heard || !health.unmatched.is_empty());
    says.then(|| health.unmatched.clone())
}

/// How to read the database of a cluster that cannot be used. `closed`: the license gate.
fn blocked_read_options(
    validation: &Validation,
    database: Option<&DatabaseVerdict>,
    closed: bool,
    observation: &Observation,
    health: &Health<'_>,
) -> ReadOptions {
    let GateTerms { wanted, paused, .. } = validation.gate;
    let set = observation.stateful_set.as_ref();
    let read_options = ReadOptions {
        every: if closed && set.is_some_and(|set| set.replicas > 1) {
            pace::BUSY_EVERY
        } else {
            pace::QUIET_EVERY
        },
        // Whether a replica that has to go migrates the schema, and whether a Bytebase runs that
        // nothing else shows. The tasks of a pod that ends are counted as its hook counts them only
        // by a reading with the sessions.
        sessions: pace::is_unnamed(health)
            || (closed && !paused && health.replicas.len() > 1)
            || observation.pods.iter().any(|pod| pod.deleting)
            || observation.facts().is_some_and(occupancy::is_unheard),
        renewal: pace::renewal(database, health),
        keep_session: true,
        try_login: validation
            .database
            .as_ref()
            .is_some_and(|database| login::is_to_be_tried(database, wanted, false, observation)),
        awaited: 0,
    };
    read_options.or_seldom(pace::is_stopped(wanted, observation))
}

/// Whether a cluster is being deleted and goes in a moment, and the license gate has nothing to do
/// until then: it is open, or no more than one replica is left.
fn goes_unreported(validation: &Validation, closed: bool, observation: &Observation) -> bool {
    let set = observation.stateful_set.as_ref();
    let is_alone = set.is_none_or(|set| set.replicas <= 1) && observation.pods.len() <= 1;
    validation.is_deleted && (!closed || (is_alone && !validation.is_held))
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The part of status that is the same whatever was decided.
fn report(
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
