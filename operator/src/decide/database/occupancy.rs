//! Whether others use the metadata database: another cluster, or another Bytebase.

use crate::api::Reason;
use crate::decide::database::{DatabaseVerdict, has_never_served, is_first_start, was_refused};
use crate::decide::health::Health;
use crate::observation::heartbeat::{ALL_HEARD_AFTER, Freshness};
use crate::observation::{DatabaseFacts, Fact, Heartbeat, Holder, Observation, SchemaState, Usage};
use crate::validate::ValidDatabase;

/// Replicas of another Bytebase that are active before the first one of this cluster: with it there
/// would be two, and Bytebase fails all queued work of two without a license that includes HA. The
/// same on a database to which running replicas are to move.
pub(in crate::decide) fn in_use(
    database: &ValidDatabase,
    wanted: i32,
    observation: &Observation,
    health: &Health<'_>,
    moves: bool,
) -> Option<(Reason, String)> {
    let elsewhere = moves && health.none_is_heard_here();
    let starts = elsewhere || is_first_start(observation);
    // A replica that was started before the database could be read: what has just come up, or
    // ended, may be its own.
    let blind = !moves && health.foreign > 0 && has_never_served(observation, health);
    if wanted == 0 || !(starts || blind) {
        return None;
    }
    let place = database.replicas.identity_hint();
    let what = if elsewhere {
        "the replicas move there by themselves"
    } else {
        "a replica of this cluster starts by itself"
    };
    if starts && let Some(message) = may_be_unheard(&place, what, observation) {
        return Some((Reason::DatabaseInUse, message));
    }
    let active = if starts {
        active_when_read(observation)
    } else {
        health.foreign
    };
    let (who, they) = match active {
        0 if all_are_heard(observation) => return None,
        0 => {
            let seconds = ALL_HEARD_AFTER.as_secs();
            return Some((
                Reason::DatabaseInUse,
                format!(
                    "{place} has had heartbeats before and has taken writes for less than {seconds} seconds, as far as the operator knows: another Bytebase may be active and not have sent one yet; {what} if none does"
                ),
            ));
        }
        1 => ("1 replica that does".to_owned(), "it"),
        count => (format!("{count} replicas that do"), "they"),
    };
    Some((
        Reason::DatabaseInUse,
        format!(
            "{who} not belong to this cluster, or ended less than 30 seconds ago, sent heartbeats to {place}: stop the other Bytebase; {what} 30 seconds after {they} stopped"
        ),
    ))
}

/// Whether a Bytebase that runs here would send no heartbeats, since its tables are older than
/// those. Its sessions alone show it.
pub(in crate::decide) fn is_unheard(facts: &DatabaseFacts) -> bool {
    matches!(facts.schema, SchemaState::Bytebase { .. }) && facts.heartbeats == Fact::Absent
}

/// Why a Bytebase from before heartbeats may run, whose tables the first replica would migrate
/// under it. Whose sessions these are cannot be known: any role may be its own.
fn may_be_unheard(place: &str, what: &str, observation: &Observation) -> Option<String> {
    const NAMED: usize = 3;
    let facts = observation.facts().filter(|facts| is_unheard(facts))?;
    let holds = format!(
        "{place} holds the tables of a Bytebase from before 3.14, which sends no heartbeats and shows by its sessions alone"
    );
    let Some(sessions) = &facts.sessions else {
        return Some(format!("{holds}: these are still to be read"));
    };
    let others = &sessions.others;
    let named: Vec<_> = others.iter().take(NAMED).map(String::as_str).collect();
    let more = match others.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!others.is_empty()).then(|| {
        format!(
            "{holds}, and there are sessions of {}{more}: stop the other Bytebase, and close all other sessions on this database; {what} when there are none",
            named.join(", ")
        )
    })
}

/// Whether every active replica has had the time to send a heartbeat, if there ever was one: an
/// outage makes those look ended that outlive it, and the rows of one that lasted for an hour are
/// not even read. Only a replica that lives deletes them, and has one of its own.
fn all_are_heard(observation: &Observation) -> bool {
    observation.facts().is_none_or(|facts| {
        let could_be_heard_for = match &facts.heartbeats {
            Fact::Known(rows) if rows.is_empty() && !facts.has_heartbeat_rows => {
                facts.server_uptime
            }
            Fact::Known(_) => facts.writable_for,
            Fact::Absent | Fact::Unknown => return true,
        };
        could_be_heard_for >= ALL_HEARD_AFTER
    })
}

/// Whether nothing but time can show that no other Bytebase is active on a database which was not
/// refused before, or nothing but a trial of Bytebase's own login what stands before it: an
/// operator that has just started has not heard it for long enough, or has not made the trial.
pub(in crate::decide) fn is_heard_again(
    verdict: Option<&DatabaseVerdict>,
    observation: &Observation,
) -> bool {
    let remembered = &observation.remembered;
    let before = remembered.database.as_ref();
    let before = before.and_then(|database| database.identity.as_ref());
    let (Some(verdict), Some(facts)) = (verdict, observation.facts()) else {
        return false;
    };
    let awaits = match verdict.reason {
        Reason::DatabaseInUse => active_when_read(observation) == 0 && !all_are_heard(observation),
        Reason::DatabaseTransactionPooler => facts.login.is_none(),
        _ => false,
    };
    awaits
        && before == Some(&facts.identity.database)
        && remembered.refusal.is_none()
        && is_first_start(observation)
}

/// Heartbeats that were fresh when they were read. That they have grown old since then proves
/// nothing: no reading has shown whether there were others.
pub(in crate::decide) fn active_when_read(observation: &Observation) -> usize {
    let heartbeats = observation.facts().map(|facts| facts.heartbeats.rows());
    let read = observation.last_facts.as_ref().map(|(read, _)| *read);
    let age = |heartbeat: &Heartbeat| heartbeat.age.saturating_sub(read.unwrap_or_default());
    let ages = heartbeats.into_iter().flatten().map(age);
    ages.filter(|age| Freshness::of(*age) == Freshness::Fresh)
        .count()
}

/// Whether every heartbeat that belongs to no pod may be of a replica of this cluster that has just
/// ended: there was one, and none has gone on for longer than an ended process lingers.
pub(in crate::decide) fn may_be_its_own(observation: &Observation, health: &Health<'_>) -> bool {
    let was_in_use = was_refused(observation, Reason::DatabaseInUse);
    observation.stateful_set.is_some() && !was_in_use && health.foreign == 0
}

pub(in crate::decide) fn shared(place: &str, other: &Holder) -> (Reason, String) {
    const OWN: &str = "give this cluster a database of its own";
    let name = &other.name;
    let message = match other.usage {
        Usage::Runs => format!("{place} is already used by the BytebaseCluster {name}: {OWN}"),
        Usage::Unread => format!(
            "{place} belongs to the BytebaseCluster {name}, whose heartbeats cannot be read now: {OWN}. If that one no longer uses this database, as where this is a copy of it, delete that one, or point it to another database"
        ),
        Usage::Idle => format!(
            "{place} belongs to the BytebaseCluster {name}, which is stopped, or has no replica there yet: {OWN}. If that one no longer needs this database, delete that one, or point it to another database"
        ),
        Usage::Moves => format!(
            "{place} belongs to the BytebaseCluster {name}, which has served there. Its spec names another place now, and it keeps this database until that place has been read, leads to another database, and none of its replicas is left on this one: {OWN}, or delete that one"
        ),
    };
    (Reason::DatabaseShared, message)
}
