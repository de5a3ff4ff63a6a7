//! How long replicas that run tasks have to become idle, before they are ended for a rollout. Only
//! what no drain hook waits for in the pod has much of it.

use crate::api::status::RolloutWait;
use crate::contract::version::Version;
use crate::decide::database::{login, schema};
use crate::decide::health::{Health, Replica};
use crate::decide::rollout::step::{Step, Wait, version_of};
use crate::desired::template::Template;
use crate::observation::{Observation, PodView, RememberedRollout, no_later};
use crate::validate::{ValidCluster, ValidDrain};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// A rollout waits so long for one of several busy replicas to become idle. Then it ends the one
/// that runs the fewest tasks, whose drain hook waits for them. One without a hook is given longer.
const IDLE_PATIENCE: SignedDuration = SignedDuration::from_mins(1);

/// For what a replica is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// For one of the current template.
    Rollout,
    /// Since fewer are wanted.
    ScaleDown,
}

/// A busy replica is the candidate only if every outdated one is busy. It is given time to become
/// idle, by the clock of status, so that a restart of the operator begins none of it again.
///
/// Of a replica whose tasks are unknown no reading would show that it is idle now, and one that is
/// older than the schema is not to stay: they are waited for only by their drain hooks, where they
/// have one that can see what they run. But what is unknown only by this reading one of the next
/// shows.
pub fn idle_replica(
    cluster: &ValidCluster,
    candidate: &Replica<'_>,
    observation: &Observation,
) -> Option<Wait> {
    let set = observation.stateful_set.as_ref();
    let sees = sees_tasks(cluster, candidate, set.map(|set| &set.template));
    // What no hook waits for in the pod has the time of a drain before it.
    let whole_drain = drain_timeout(cluster).filter(|_| sees.is_err());
    let is_behind = || {
        let schema = schema::version(observation);
        schema.is_some_and(|schema| is_behind(candidate, schema))
    };
    let name = &candidate.pod.name;
    let state = match candidate.running_tasks {
        Some(0) => return None,
        Some(_) if whole_drain.is_none() && is_behind() => return None,
        Some(tasks) if !candidate.pod.ready => {
            format!("{name} comes first, since it is not Ready. It runs tasks ({tasks}) and")
        }
        Some(tasks) => {
            format!("all that are to be replaced run tasks. {name} runs the fewest ({tasks}) and")
        }
        None if is_read_soon(candidate, observation) => {
            let message = "a reading that says what the replicas run";
            return Some(Wait::new(RolloutWait::DatabaseReading, message));
        }
        // Where nothing can be read, no wait would show more.
        None if whole_drain.is_none() || observation.facts().is_none() => return None,
        None => format!("whether {name} runs tasks is not known. It"),
    };
    let before = observation.remembered.rollout.as_ref();
    // Its time was up already, and the eviction is on its way.
    if before.is_some_and(|before| before.ends(candidate, sees.is_ok())) {
        return None;
    }
    let since = since(End::Rollout, observation);
    let until = since.checked_add(whole_drain.unwrap_or(IDLE_PATIENCE));
    let until = until.ok().filter(|until| observation.now < *until)?;
    let its_tasks = sees
        .err()
        .unwrap_or_else(|| "it finishes its tasks first".to_owned());
    let message = format!(
        "a replica to be idle: {state} is ended at {until:.0} if none is idle by then; {its_tasks}"
    );
    let wait = Wait::new(RolloutWait::IdleReplica, message).with_tasks(candidate);
    Some(wait.until(Some(until)).busy_since(since))
}

/// Whether what it runs is unknown by this reading only, although the tables are understood: not
/// all of it was read in time. After a few such readings what is known then counts. Of a replica
/// that runs on another database, or whose id is not known, no later reading shows more.
fn is_read_soon(candidate: &Replica<'_>, observation: &Observation) -> bool {
    let facts = observation.facts();
    candidate.id.is_some()
        && !candidate.elsewhere
        && facts.is_some_and(|facts| {
            facts.running_tasks.is_unknown() && facts.not_understood.is_empty()
        })
}

/// Longest drain, where the pods are to have one.
fn drain_timeout(cluster: &ValidCluster) -> Option<SignedDuration> {
    match &cluster.rollout.drain {
        ValidDrain::Enabled(terms) => Some(SignedDuration::from_secs(terms.timeout_seconds)),
        ValidDrain::Disabled => None,
    }
}

/// What status says of a rollout whose clock goes on. Where a pod was to be ended, that may have
/// been done, and the next one has its own time. What a scale-down alone has waited counts for no
/// rollout that follows it: none was to end these replicas then.
fn clock(end: End, observation: &Observation) -> Option<&RememberedRollout> {
    let before = observation.remembered.rollout.as_ref()?;
    if end == End::Rollout && before.scale_down_only {
        return None;
    }
    let set = observation.stateful_set.as_ref()?;
    let is_left = |pod: &PodView| {
        before.pod.as_ref() == Some(&pod.name)
            && !pod.deleting
            && pod.revision != set.update_revision
    };
    (!before.was_to_end_one() || observation.pods.iter().any(is_left)).then_some(before)
}

/// The clock that goes on while something else is waited for. That of a replica which a scale-down
/// has taken away does not: the next one is taken after a time of its own.
fn carried(end: End, observation: &Observation) -> Option<Timestamp> {
    let before = clock(end, observation)?;
    if end == End::ScaleDown {
        let set = observation.stateful_set.as_ref()?;
        let mut pods = observation.pods.iter();
        let is_gone = || {
            pods.clone()
                .all(|pod| before.pod.as_ref() != Some(&pod.name))
        };
        let was_taken = before.waiting_for == RolloutWait::IdleReplica && is_gone();
        if was_taken || pods.any(|pod| !set.covers(pod.ordinal)) {
            return None;
        }
    }
    no_later(before.busy_since, observation.now)
}

/// Since when all that are to be ended have run tasks.
pub fn since(end: End, observation: &Observation) -> Timestamp {
    let now = observation.now;
    let since = clock(end, observation).and_then(|before| {
        let waits = before.waiting_for == RolloutWait::IdleReplica;
        // As an older operator reported it.
        before.busy_since.or(waits.then_some(before.since))
    });
    since.map_or(now, |since| since.min(now))
}

/// Since when this one has, of those that are taken away one after the other.
pub fn since_of(replica: &Replica<'_>, observation: &Observation) -> Timestamp {
    let set = observation.stateful_set.as_ref();
    let set = set.filter(|set| set.settled);
    let is_outdated = set.is_some_and(|set| replica.pod.revision != set.update_revision);
    let is_anothers = |before: &RememberedRollout| {
        let is_of_one = before.was_to_end_one() || before.waiting_for == RolloutWait::IdleReplica;
        // What waits for none of them may be a rollout, which is to end no replica of the present
        // template.
        let is_of_others = !is_outdated && !before.scale_down_only;
        (is_of_one || is_of_others) && before.pod.as_ref() != Some(&replica.pod.name)
    };
    match &observation.remembered.rollout {
        // It may have ended while the operator was away.
        Some(before) if is_anothers(before) => observation.now,
        _ => since(End::ScaleDown, observation),
    }
}

/// Whether the time since then, for which a scale-down waits, is its own alone. It is a rollout's
/// as well where the replica was to be replaced from then on.
pub fn is_scale_downs_alone(
    wait: &Wait,
    busy_since: Option<Timestamp>,
    observation: &Observation,
) -> bool {
    let set = observation.stateful_set.as_ref();
    let set = set.filter(|set| set.settled);
    let is_meant = |pod: &&PodView| wait.pod.as_ref() == Some(&pod.name);
    let is_outdated = set.and_then(|set| {
        let pod = observation.pods.iter().find(is_meant)?;
        Some(pod.revision != set.update_revision)
    });
    let before = observation.remembered.rollout.as_ref();
    let carried = |before: &&RememberedRollout| no_later(before.busy_since, observation.now);
    let before = before.filter(|before| carried(before) == busy_since);
    match (before, is_outdated) {
        // What waits for other replicas is no time of this one's.
        (Some(before), Some(is_outdated)) => {
            before.scale_down_only || (!is_outdated && wait.for_ == RolloutWait::IdleReplica)
        }
        (Some(before), None) => before.scale_down_only,
        (None, is_outdated) => is_outdated != Some(true),
    }
}

/// Since when every replica that is to be replaced has run tasks, for status. What is not known for
/// a moment, or keeps any replica from being ended, makes none of them idle. Nor does an end that
/// fails, of a replica that may run some.
pub fn busy_since(
    end: End,
    step: &Step,
    observation: &Observation,
    health: &Health<'_>,
) -> Option<Timestamp> {
    let known = || carried(end, observation);
    let wait = match step {
        Step::Wait(wait) => wait,
        Step::Evict(eviction) => {
            let is_busy = |replica: &&Replica<'_>| {
                replica.pod.uid == eviction.uid && replica.running_tasks != Some(0)
            };
            return health.replicas.iter().find(is_busy).and_then(|_| known());
        }
        // Once the others are well its time goes on.
        Step::Stalled {
            waits_for: RolloutWait::OtherReplicas,
            ..
        } => return known(),
        Step::Done | Step::Stalled { .. } => return None,
    };
    match wait.for_ {
        RolloutWait::IdleReplica | RolloutWait::AllPodsEnd => wait.busy_since,
        RolloutWait::Database
        | RolloutWait::DatabaseReading
        | RolloutWait::SchemaMigration
        | RolloutWait::OtherReplicas
        | RolloutWait::Login
        | RolloutWait::SecretInPods
        | RolloutWait::StatefulSetController
        | RolloutWait::Node => known(),
        _ => None,
    }
}

/// What a rollout that ends all replicas at once waits for before that: the first of them that
/// runs, or may run, tasks which no drain hook in its pod waits for. It has the time of a drain,
/// and this is the wait for it also where that is over.
pub fn unfinished(
    cluster: &ValidCluster,
    template: &Template,
    observation: &Observation,
    health: &Health<'_>,
) -> Option<Wait> {
    let why = "every replica ends before the first starts on the new template (spec.rollout.strategy is Maintenance)";
    let since = |_: &Replica<'_>| since(End::Rollout, observation);
    let template = &template.value;
    first_unfinished(cluster, template, &health.replicas, why, since, observation)
}

/// The wait for the first of these replicas that runs, or may run, tasks which no drain hook in its
/// pod waits for, also where its time is over. `template`: the one whose login works. `why`: they
/// are ended then. `since`: when the time of that replica began.
pub fn first_unfinished<'r, 'o: 'r>(
    cluster: &ValidCluster,
    template: &Value,
    replicas: impl IntoIterator<Item = &'r Replica<'o>>,
    why: &str,
    since: impl Fn(&Replica<'_>) -> Timestamp,
    observation: &Observation,
) -> Option<Wait> {
    let patience = drain_timeout(cluster)?;
    let before = observation.remembered.rollout.as_ref();
    // An outage makes none of them idle; what could never be read, no wait would show.
    let was_read = observation.last_facts.is_some()
        || before.is_some_and(|before| before.busy_since.is_some());
    let may_run_tasks = |replica: &&Replica<'_>| match replica.running_tasks {
        _ if replica.given_up || has_no_process(replica) => false,
        Some(tasks) => tasks > 0,
        None => was_read,
    };
    let mut replicas = replicas.into_iter().filter(may_run_tasks);
    let (replica, its_tasks) = replicas.find_map(|replica| {
        let sees = sees_tasks(cluster, replica, Some(template));
        Some((replica, sees.err()?))
    })?;
    let since = since(replica);
    let until = since.checked_add(patience).ok()?;
    let message = format!(
        "{} to be idle: {why}, at {until:.0} at the latest; {its_tasks}",
        replica.pod.name
    );
    let wait = Wait::new(RolloutWait::IdleReplica, message).with_tasks(replica);
    Some(wait.until(Some(until)).busy_since(since))
}

/// Whether the pod has a drain hook that can see what its replica runs, where the login is that of
/// this template, and may wait for it for as long as the spec says; otherwise what comes of that.
fn sees_tasks(
    cluster: &ValidCluster,
    candidate: &Replica<'_>,
    template: Option<&Value>,
) -> Result<(), String> {
    let pod = candidate.pod;
    let is_locked_out = |template| login::is_locked_out(&pod.login, &cluster.database, template);
    // It was made for a shorter drain, or an overlay gives it less time to end.
    let time = pod.drain_time();
    let cut_short = time.filter(|time| drain_timeout(cluster).is_some_and(|wanted| *time < wanted));
    if !pod.drains {
        Err("its pod has no drain hook, so its tasks are cancelled then".to_owned())
    } else if template.is_some_and(is_locked_out) {
        Err(
            "the login to the metadata database is in another Secret than the one in its pod, so its drain hook may see no tasks, and they are cancelled then: until that time let the old login work, or write the new one into the old Secret as well".to_owned(),
        )
    } else if let Some(time) = cut_short {
        Err(format!(
            "its pod gives it only {} s to finish its tasks, less than spec.rollout.drainTimeoutSeconds, and those that take longer are cancelled",
            time.as_secs()
        ))
    } else {
        Ok(())
    }
}

impl RememberedRollout {
    /// Whether one pod was to be ended, which may have been done since.
    fn was_to_end_one(&self) -> bool {
        match self.waiting_for {
            RolloutWait::Eviction | RolloutWait::DisruptionBudget => true,
            // About a pod it is only where something could not be written that the next one is made
            // from, which may have been written a moment later.
            RolloutWait::StatefulSetController => self.pod.is_some(),
            _ => false,
        }
    }

    /// Whether the operator had begun to end this pod. `finishes`: its drain hook waits for its
    /// tasks. One that would lose them may have been idle when its end failed, so it has its time
    /// before it.
    fn ends(&self, replica: &Replica<'_>, finishes: bool) -> bool {
        match self.waiting_for {
            _ if !finishes => false,
            // It is left out while something cannot be written that pods are made from.
            RolloutWait::Eviction | RolloutWait::StatefulSetController => {
                self.pod.as_deref() == Some(&replica.pod.name)
            }
            // Whichever runs the fewest tasks meanwhile, once a budget allows it.
            RolloutWait::DisruptionBudget => true,
            _ => false,
        }
    }
}

/// It runs a version that is older than the schema.
pub fn is_behind(replica: &Replica<'_>, schema: Version) -> bool {
    version_of(replica).is_some_and(|version| version.older_minor_than(schema))
}

/// Bytebase does not run in it, and something keeps it from starting.
pub fn has_no_process(replica: &Replica<'_>) -> bool {
    let pod = replica.pod;
    let is_in_trouble = pod.trouble.is_some() && !replica.node_is_silent();
    !pod.ready && is_in_trouble && pod.started_at.is_none()
}
