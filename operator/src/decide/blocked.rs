//! The plan for a cluster whose spec cannot be used, or that is being deleted.

use super::database::{self, DatabaseVerdict, login, occupancy};
use super::health::{self, Health};
use super::plan::{Plan, Report, Wanted};
use super::size::scale::{self, Haste};
use super::size::{self, haste, license, replicas};
use super::{Settings, conditions, pace, report, seen_from_replicas};
use crate::api::status::{DatabaseStatus, Phase};
use crate::observation::reading::ReadOptions;
use crate::observation::{DatabaseView, Observation};
use crate::validate::{GateTerms, Problem, Validation};

/// A cluster that cannot be used, or is being deleted: nothing is changed, what runs is still
/// observed. Only the license gate acts all the same, since Bytebase obeys the license whatever the
/// spec says.
pub(super) fn blocked(
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
    let size = wanted.max(size::running(observation));
    let judge = |observation: &Observation| {
        license::judge(
            license::Terms::default(),
            observation,
            size::guard(settings, size, observation),
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
        read_options: read_options(validation, database.as_ref(), closed, observation, health),
        unmatched: report::unmatched(health, observation),
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
            target_replicas: closed.then(|| size::running(observation).min(1)),
            ..report::common(phase, observation, health, &hastened.let_go)
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

/// How to read the database of a cluster that cannot be used. `closed`: the license gate.
fn read_options(
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
