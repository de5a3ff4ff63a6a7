//! When to read the database, and when to reconcile again although nothing happened.

use super::conditions::Findings;
use super::database::{Allows, DatabaseVerdict};
use super::health::{self, Health};
use super::rollout::Rollout;
use crate::api::Reason;
use crate::api::status::HeartbeatState;
use crate::contract::replica::HEARTBEAT_INTERVAL;
use crate::decide::database::{login, occupancy};
use crate::decide::rollout::step::{self, Step};
use crate::decide::rollout::{drains, queue, stale};
use crate::decide::size::license::LicenseVerdict;
use crate::decide::size::scale;
use crate::observation::reading::{ReadOptions, Renewal};
use crate::observation::{Fact, Observation};
use crate::validate::ValidCluster;
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// From one reading to the next while replicas come and go, so that a step follows soon after what
/// it waits for.
pub(super) const BUSY_EVERY: Duration = Duration::from_secs(1);
/// From one reading to the next otherwise: as often as replicas send heartbeats.
pub(super) const QUIET_EVERY: Duration = HEARTBEAT_INTERVAL;

/// From one reading to the next while a cluster is stopped: its database is for others to work on,
/// and what becomes of it matters only when the cluster is wanted again.
pub(super) const STOPPED_EVERY: Duration = Duration::from_mins(1);

/// A cluster whose database is shared is reconciled again after this long.
const SHARED_RETRY: SignedDuration = SignedDuration::from_mins(1);

/// A rollout and a scale-down must know of a migration, and only its session shows that a replica
/// whose id is not known lives.
pub(super) fn read_options(quiet: bool, findings: &Findings<'_>) -> ReadOptions {
    let Findings {
        rollout,
        health,
        database,
        observation,
        target,
        cluster,
        changed_login,
        ..
    } = *findings;
    let set = observation.stateful_set.as_ref();
    let facts = observation.facts();
    let is_queued = facts.is_some_and(|facts| matches!(facts.pending_tasks, Fact::Known(1..)));
    let is_unheard = facts.is_some_and(occupancy::is_unheard);
    let shrinks = set.is_some_and(|set| target.replicas < set.replicas);
    ReadOptions {
        every: if quiet { QUIET_EVERY } else { BUSY_EVERY },
        sessions: !quiet
            || (rollout.step != Step::Done && !health.replicas.is_empty())
            || shrinks
            // The tasks of a replica that ends are counted as its drain hook does.
            || observation.pods.iter().any(|pod| pod.deleting)
            || is_unnamed(health)
            // Only the sessions show that the queue is free again.
            || queue::held_by(observation).next().is_some()
            // Only they show what keeps queued work waiting.
            || is_queued
            // Only they show a Bytebase that sends no heartbeats.
            || is_unheard,
        renewal: renewal(Some(database), health),
        keep_session: true,
        try_login: login::is_to_be_tried(
            &cluster.database,
            cluster.replicas,
            changed_login.is_some(),
            observation,
        ),
        awaited: health.awaited(),
    }
}

/// Whether no replica is wanted, and none is left.
pub(super) fn is_stopped(wanted: i32, observation: &Observation) -> bool {
    wanted == 0 && observation.pods.is_empty()
}

impl ReadOptions {
    /// This way of reading, or only a reading now and then.
    pub(super) fn or_seldom(self, seldom: bool) -> Self {
        if seldom {
            Self {
                every: STOPPED_EVERY,
                sessions: false,
                keep_session: false,
                awaited: 0,
                ..self
            }
        } else {
            self
        }
    }
}

/// How soon to look up again where the database is.
pub(super) fn renewal(database: Option<&DatabaseVerdict>, health: &Health<'_>) -> Renewal {
    if database.is_some_and(is_refused) {
        Renewal::AtNextReading
    } else if lacks_heartbeats(health) {
        Renewal::Soon
    } else {
        Renewal::Usual
    }
}

/// Whether something forbids the use of what was read, or holds everything back until it is known
/// whether it does. An open session may be all that makes it seem so: it stays on the server that
/// its name once led to, and with the settings that its role once had. Of a database that cannot be
/// read there is no session to be replaced.
fn is_refused(database: &DatabaseVerdict) -> bool {
    database.status == Some(false)
        || database.reason == Reason::DatabaseTransactionPooler
        || (database.status.is_none() && database.allows == Allows::Nothing)
}

/// Whether a replica is Ready that sends no heartbeats to the server that was read. It may send
/// them to another one: the name may lead elsewhere by now, while the server that it led to before
/// goes on and an open session stays there.
fn lacks_heartbeats(health: &Health<'_>) -> bool {
    health.replicas.iter().any(|replica| {
        let lacks_heartbeat = matches!(
            replica.heartbeat,
            HeartbeatState::Stale | HeartbeatState::Missing
        );
        lacks_heartbeat && replica.pod.is_ready()
    })
}

pub(super) fn is_unnamed(health: &Health<'_>) -> bool {
    health.replicas.iter().any(|replica| replica.id.is_none())
}

/// When to reconcile again a cluster whose database is shared: that two servers are not one before
/// and after a restart is seen in readings of the other cluster, which wake that one at most.
fn shared_until(observation: &Observation) -> Option<Timestamp> {
    observation.database_shared_with.as_ref()?;
    observation.now.checked_add(SHARED_RETRY).ok()
}

/// When the next thing that this decision rests on changes by itself.
pub(super) fn requeue_at(
    cluster: &ValidCluster,
    observation: &Observation,
    license: &LicenseVerdict,
    rollout: &Rollout,
    health: &Health<'_>,
) -> Option<Timestamp> {
    let rollout = match &rollout.step {
        Step::Wait(wait) => wait.until.filter(|until| *until > observation.now),
        _ => None,
    };
    // Just past the moment at which an unmatched heartbeat counts as a foreign replica's.
    let patience = SignedDuration::try_from(health::FOREIGN_AFTER + Duration::from_secs(1))
        .unwrap_or(SignedDuration::MAX);
    let foreign = health
        .unmatched
        .iter()
        .filter_map(|id| {
            let since = observation.unmatched_since.get(id);
            since.unwrap_or(&observation.now).checked_add(patience).ok()
        })
        .filter(|moment| *moment > observation.now)
        .min();
    let late = health.late_at(observation, cluster.rollout.ready_timeout);
    let overdue = queue::overdue_at(cluster, observation);
    let [late, overdue] =
        [late, overdue].map(|moment| moment.filter(|moment| *moment > observation.now));
    [
        overdue,
        drains::soon_at(health, observation.now),
        stale::stuck_at(observation),
        license.changes_at,
        rollout,
        foreign,
        health::awaited_refusal(observation),
        late,
        scale::overdue_at(observation),
        step::overdue_at(observation),
        shared_until(observation),
    ]
    .into_iter()
    .flatten()
    .min()
}
