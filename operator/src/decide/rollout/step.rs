//! The next move of a rollout, with or without downtime, or of a scale-down; and what each of them
//! waits for.

use crate::api::Reason;
use crate::api::status::{HeartbeatState, RolloutWait};
use crate::contract::replica::MIGRATION_LOCK;
use crate::contract::version::Version;
use crate::decide::database::{Allows, DatabaseVerdict, schema};
use crate::decide::health::{Health, Replica, lasting_refusal};
use crate::decide::rollout::{drains, hold};
use crate::observation::{LogQuote, Observation, PodTrouble, PodView, PodWait, StatefulSetView};
use crate::validate::ValidCluster;
use jiff::{SignedDuration, Timestamp};

/// The next move of a rollout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Every pod runs the current template.
    Done,
    /// End this pod.
    Evict(Eviction),
    /// Not yet.
    Wait(Wait),
    /// It does not go on without help.
    Stalled {
        /// Reason of `RolloutComplete` and `Stalled`.
        reason: Reason,
        /// In one word: the user, or what it has waited for too long.
        waits_for: RolloutWait,
        /// The pod that holds it up.
        pod: Option<String>,
        /// What is wrong, and what to do.
        why: String,
    },
}

/// What a rollout waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wait {
    /// In one word.
    pub for_: RolloutWait,
    /// The pod that it is about.
    pub pod: Option<String>,
    /// Tasks that this pod is running, where the wait is for them.
    pub running_tasks: Option<u64>,
    /// In words, after "waiting for".
    pub message: String,
    /// When the rollout stops waiting for it, or the requeue comes, at the latest.
    pub until: Option<Timestamp>,
    /// Since when the clock of status has run for it, where the wait is for running tasks.
    pub busy_since: Option<Timestamp>,
}

impl Wait {
    /// A wait for something that is about no single pod and ends by itself.
    pub fn new(for_: RolloutWait, message: impl Into<String>) -> Self {
        Self {
            for_,
            pod: None,
            running_tasks: None,
            message: message.into(),
            until: None,
            busy_since: None,
        }
    }

    /// This wait about one pod.
    #[must_use]
    pub fn about(self, replica: &Replica<'_>) -> Self {
        Self {
            pod: Some(replica.pod.name.clone()),
            ..self
        }
    }

    /// This wait about one pod, with the tasks that its replica runs.
    #[must_use]
    pub fn with_tasks(self, replica: &Replica<'_>) -> Self {
        Self {
            running_tasks: replica.running_tasks,
            ..self.about(replica)
        }
    }

    /// This wait, with the moment at which it ends at the latest.
    #[must_use]
    pub fn until(self, until: Option<Timestamp>) -> Self {
        Self { until, ..self }
    }

    /// This wait, with the moment since which running tasks have been waited for.
    #[must_use]
    pub fn busy_since(self, since: Timestamp) -> Self {
        Self {
            busy_since: Some(since),
            ..self
        }
    }

    /// Whether the moment has come at which it ends at the latest.
    pub fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }
}

/// One pod to end. The uid keeps an eviction from hitting a successor of the same name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Eviction {
    /// Name of the pod.
    pub pod: String,
    /// Its uid.
    pub uid: String,
    /// Why, for the event.
    pub why: String,
    /// What keeps refusing it.
    pub refused: Option<String>,
}

/// Whether a pod runs another template than the present one.
pub fn is_outdated(replica: &Replica<'_>, set: &StatefulSetView) -> bool {
    replica.pod.revision != set.update_revision
}

pub fn version_of(replica: &Replica<'_>) -> Option<Version> {
    Version::parse(replica.pod.version.as_deref()?).ok()
}

/// A schema migration that runs, or of which is not known whether it does. The end of the pod that
/// runs it would leave it half done.
pub fn schema_migration(observation: &Observation) -> Option<Wait> {
    match &observation.facts()?.sessions {
        Some(sessions) if sessions.migration_running => Some(Wait::new(
            RolloutWait::SchemaMigration,
            format!(
                "the schema migration to end (advisory lock {MIGRATION_LOCK} is held): ending the pod that runs it would leave it half done"
            ),
        )),
        Some(_) => None,
        // The next reading includes the sessions.
        None => Some(Wait::new(
            RolloutWait::DatabaseReading,
            "a reading that says whether a schema migration runs",
        )),
    }
}

/// What a rollout or a scale-down waits for while a pod ends. How many tasks there are is not in
/// the message, which would change with every one.
pub fn wait_for_end(ending: &Replica<'_>) -> Wait {
    let name = &ending.pod.name;
    match ending.pod.ends_by {
        Some(by) if drains::finishes_tasks(ending) => {
            let message = format!(
                "{name} to finish the tasks that it runs and to end, at the latest at {by:.0}"
            );
            let wait = Wait::new(RolloutWait::Drain, message).with_tasks(ending);
            wait.until(Some(by))
        }
        by => {
            let message = if ending.node_is_silent() {
                format!("{name} to end, whose node no longer reports")
            } else {
                format!("{name} to end")
            };
            let wait = Wait::new(RolloutWait::PodEnd, message);
            wait.about(ending).until(by)
        }
    }
}

/// A pod that should have ended by now is not waited for any longer than this: it cannot end.
const OVERDUE: SignedDuration = SignedDuration::from_mins(1);

/// A pod that does not end although its time is up: its node is lost, its kubelet does not answer,
/// or a finalizer keeps it.
pub fn overdue(observation: &Observation, health: &Health<'_>) -> Option<Step> {
    let late = unending(observation, health)?;
    Some(Step::Stalled {
        reason: Reason::RolloutStalled,
        waits_for: RolloutWait::Correction,
        pod: Some(late.pod.name.clone()),
        why: why_unending(late.pod),
    })
}

/// The pod that does not end although its time is up, whether a rollout, a scale-down or its
/// successor waits for its end.
pub fn unending<'h, 'o>(
    observation: &Observation,
    health: &'h Health<'o>,
) -> Option<&'h Replica<'o>> {
    health
        .replicas
        .iter()
        .find(|replica| replica.pod.deleting && is_overdue(replica.pod, OVERDUE, observation.now))
}

/// That it does not end, and what to do.
pub fn why_unending(pod: &PodView) -> String {
    let name = &pod.name;
    // Its process has ended, and its node has no more to do with it.
    let is_silent = matches!(pod.trouble, Some(PodTrouble::NodeSilent(_)));
    if !pod.finalizers.is_empty() && pod.started_at.is_none() && !is_silent {
        let stand = pod.finalizers.join(", ");
        return format!(
            "{name} should have ended and is still there, since its finalizers stand: {stand}. Nothing else is touched; have the controllers that set them end their work, or, once such a controller is gone for good, take its finalizer out (kubectl edit pod {name}, in the namespace of this cluster). To delete the pod by force takes none away"
        );
    }
    let trouble = match (&pod.trouble, &pod.node) {
        (Some(trouble), _) => trouble.message().to_owned(),
        (None, Some(node)) => format!("its node {node} does not say why"),
        (None, None) => "its node does not say why".to_owned(),
    };
    format!(
        "{name} should have ended and is still there: {trouble}. Nothing else is touched; bring its node back, or, once that machine is known to be off, end it by force (kubectl delete pod {name} --force --grace-period=0, in the namespace of this cluster)"
    )
}

/// When a rollout stops waiting for a pod that does not end.
pub fn overdue_at(observation: &Observation) -> Option<Timestamp> {
    next_overdue(OVERDUE, observation)
}

/// Whether a pod should have ended, and longer ago than this.
pub fn is_overdue(pod: &PodView, margin: SignedDuration, now: Timestamp) -> bool {
    let late = pod.ends_by.and_then(|by| by.checked_add(margin).ok());
    late.is_some_and(|late| now > late)
}

/// When the first pod will be overdue that is not so yet.
pub fn next_overdue(margin: SignedDuration, observation: &Observation) -> Option<Timestamp> {
    let just_after = margin + SignedDuration::from_secs(1);
    let ends = observation.pods.iter().filter_map(|pod| pod.ends_by);
    ends.filter_map(|by| by.checked_add(just_after).ok())
        .filter(|moment| *moment > observation.now)
        .min()
}

/// What Kubernetes' controllers do by themselves: the rollout waits for it, and stops where it
/// takes too long, by the clock of status.
pub fn controllers_step(
    for_: RolloutWait,
    message: &str,
    cluster: &ValidCluster,
    observation: &Observation,
) -> Step {
    let (now, timeout) = (observation.now, cluster.rollout.ready_timeout);
    let before = observation.remembered.rollout.as_ref();
    let before = before.filter(|before| before.waiting_for == for_ && before.pod.is_none());
    let since = before.map_or(now, |before| before.since.min(now));
    let deadline = since.saturating_add(timeout).unwrap_or(Timestamp::MAX);
    let refused = lasting_refusal(observation);
    let refused =
        refused.map(|refused| format!("Kubernetes refuses to make a pod: {}", refused.message));
    if now < deadline {
        let message = match refused {
            Some(refused) => format!("{message}: {refused}"),
            None => message.to_owned(),
        };
        return Step::Wait(Wait::new(for_, message).until(Some(deadline)));
    }
    let seconds = timeout.as_secs();
    let why = match refused {
        Some(refused) => {
            format!("{refused}. Nothing else is touched; correct the change or take it back")
        }
        None => {
            "no event says why. Nothing else is touched; check that the kube-controller-manager runs"
                .to_owned()
        }
    };
    Step::Stalled {
        reason: Reason::RolloutStalled,
        waits_for: for_,
        pod: None,
        why: format!("still waiting after {seconds} s for {message}: {why}"),
    }
}

/// A replica on the new template that does not carry load yet: the rollout waits for it, and stops
/// when it takes too long.
pub fn unproven_step(
    for_: RolloutWait,
    cluster: &ValidCluster,
    observation: &Observation,
    database: &DatabaseVerdict,
    replica: &Replica<'_>,
    outdated: &[&Replica<'_>],
) -> Step {
    // An unknown heartbeat is the operator's trouble with the database, not the pod's.
    let failed = !replica.pod.ready || replica.heartbeat != HeartbeatState::Unknown;
    // No replica comes up on such a database. The change is not to blame, and to take it back would
    // write nothing. Of one that is only not sure of something a replica knows no more than before.
    let is_refused = database.status == Some(false);
    let is_away = observation.facts().is_none() && !was_late(observation, replica);
    if database.allows == Allows::Nothing && (is_refused || (failed && is_away)) {
        let wait = hold::for_database(database).about(replica);
        let message = format!("{}: {}", wait.message, describe(replica));
        return Step::Wait(match for_ {
            // By this word the others wait for the first one over outages and restarts.
            RolloutWait::FirstReplica => Wait {
                for_,
                message,
                ..wait
            },
            _ => Wait { message, ..wait },
        });
    }
    let timeout = cluster.rollout.ready_timeout;
    let since = unproven_since(for_, timeout, observation, database, replica);
    let deadline = since.saturating_add(timeout).unwrap_or(Timestamp::MAX);
    let (pod, state) = (&replica.pod.name, describe(replica));
    if observation.now >= deadline && failed {
        let seconds = timeout.as_secs();
        let advice = if replica.pod.waits_at_gate() {
            "the rollout goes on once the controller that sets this condition of the pod opens the gate"
                .to_owned()
        } else {
            let back = way_back(replica.pod, outdated, observation);
            format!("correct the change or take it back{back}")
        };
        return Step::Stalled {
            reason: Reason::RolloutStalled,
            waits_for: RolloutWait::Correction,
            pod: Some(pod.clone()),
            why: format!(
                "{pod} runs the new template and is not up after {seconds} s: {state}. Nothing else is touched; {advice}"
            ),
        };
    }
    let message = format!("{pod} to be Ready and to send heartbeats: {state}");
    let wait = Wait::new(for_, message).about(replica);
    Step::Wait(wait.until((observation.now < deadline).then_some(deadline)))
}

/// Replicas beside the next one that do not carry load (`weak`), so that it cannot be spared: the
/// rollout waits for them, and stops where that takes too long, by the clock of status. `sooner`:
/// when the next one is to be spared all the same. `None` where there are none.
pub fn others_step(
    cluster: &ValidCluster,
    observation: &Observation,
    database: &DatabaseVerdict,
    weak: &[&Replica<'_>],
    sooner: Option<Timestamp>,
) -> Option<Step> {
    let first = weak.first()?;
    let (now, timeout) = (observation.now, cluster.rollout.ready_timeout);
    let before = observation.remembered.rollout.as_ref();
    let before = before.filter(|before| before.waiting_for == RolloutWait::OtherReplicas);
    let since = before.map_or(now, |before| before.since.min(now));
    // While the database was in the way, none of them could be well.
    let well_since = database_well_since(database, observation);
    let since = well_since.map_or(since, |well_since| well_since.max(since));
    let deadline = since.saturating_add(timeout).unwrap_or(Timestamp::MAX);
    let pod = &first.pod.name;
    // Of two waits the one that ends by itself is waited for. What holds every step is to blame as
    // long as it does.
    let ends_by_itself = sooner.is_some_and(|moment| moment > now);
    if !ends_by_itself && now >= deadline && database.allows > Allows::Wait {
        let seconds = timeout.as_secs();
        let list = weak.iter();
        let list = list.map(|replica| format!("{}: {}", replica.pod.name, describe(replica)));
        let list = list.collect::<Vec<_>>().join("; ");
        return Some(Step::Stalled {
            reason: Reason::RolloutStalled,
            waits_for: RolloutWait::OtherReplicas,
            pod: Some(pod.clone()),
            why: format!(
                "after {seconds} s no replica can be spared yet, since others are not Ready or send no heartbeats: {list}. Nothing is touched before they are well; to replace one without that, delete its pod (kubectl delete pod {pod}, in the namespace of this cluster): its successor runs the new template"
            ),
        });
    }
    let message = format!(
        "{pod} to be Ready and to send heartbeats: {}",
        describe(first)
    );
    let until = [Some(deadline), sooner].into_iter().flatten();
    let until = until.filter(|moment| *moment > now).min();
    let wait = Wait::new(RolloutWait::OtherReplicas, message).about(first);
    Some(Step::Wait(wait.until(until)))
}

/// Since when a rollout has waited for a replica. One that was up before and is not now gets its
/// time again, and so does one that could not come up while the database did not allow it. Of one
/// that is Ready and sends no heartbeats Kubernetes does not say since when, status does.
fn unproven_since(
    for_: RolloutWait,
    timeout: SignedDuration,
    observation: &Observation,
    database: &DatabaseVerdict,
    replica: &Replica<'_>,
) -> Timestamp {
    let now = observation.now;
    let before = observation.remembered.rollout.as_ref();
    let before = before.filter(|before| before.pod.as_deref() == Some(&replica.pod.name));
    let was_late = was_late(observation, replica);
    let since = match before {
        _ if !replica.pod.ready => replica.pod.unready_since.unwrap_or(replica.pod.created_at),
        Some(before) if before.waiting_for == for_ => before.since.min(now),
        // Its time was up already.
        Some(_) if was_late => now.saturating_sub(timeout).unwrap_or(Timestamp::MIN),
        _ => now,
    };
    // Where the database was in the way after that, something else was waited for in between.
    let well_since = database_well_since(database, observation).filter(|_| !was_late);
    well_since.map_or(since, |well_since| well_since.max(since))
}

/// Whether the time of this replica was up before.
fn was_late(observation: &Observation, replica: &Replica<'_>) -> bool {
    let before = observation.remembered.rollout.as_ref();
    before.is_some_and(|before| {
        before.waiting_for == RolloutWait::Correction
            && before.pod.as_deref() == Some(&replica.pod.name)
    })
}

/// Since when the database has passed its checks, by the clock of status.
fn database_well_since(database: &DatabaseVerdict, observation: &Observation) -> Option<Timestamp> {
    let (was_well, since) = observation.remembered.database_ready?;
    let now = observation.now;
    (database.status == Some(true)).then(|| if was_well { since.min(now) } else { now })
}

/// Whether another version that does not come up can be taken back: Bytebase checks no version, and
/// an old one breaks on a schema that a newer one has changed. `outdated`: replicas of the version
/// before; where none is left, status knows which served last.
pub fn way_back(pod: &PodView, outdated: &[&Replica<'_>], observation: &Observation) -> String {
    let Some(new) = &pod.version else {
        return String::new();
    };
    let mut before: Vec<_> = outdated
        .iter()
        .filter_map(|replica| replica.pod.version.as_ref())
        .collect();
    if outdated.is_empty() {
        before.extend(&observation.remembered.version);
    }
    before.retain(|before| *before != new);
    let read = |version: &String| Version::parse(version).ok();
    let versions = before.iter().filter_map(|version| read(version));
    let Some(old) = versions.min() else {
        return before.first().map_or_else(String::new, |named| {
            format!(
                ". Which Bytebase {named} is cannot be known, so neither can whether it runs on the schema of now"
            )
        });
    };
    if read(new).is_some_and(|new| !old.older_minor_than(new)) {
        return String::new();
    }
    if !old.supports_ha() {
        return format!(
            ". spec.version cannot go back to {old}: every replica is started in the HA mode, which Bytebase has from {} on",
            Version::HA_FLOOR
        );
    }
    match schema::version(observation) {
        Some(schema) if old.older_minor_than(schema) => {
            let Version { major, minor, .. } = schema;
            format!(
                ". The schema is at {major}.{minor} already: only a backup of the database leads back to Bytebase {old}, restored while spec.replicas is 0 and no pod is left"
            )
        }
        Some(_) if schema::is_settled(observation) => {
            format!(". The schema has not changed, so spec.version may go back to {old}")
        }
        _ => format!(
            ". Whether the schema has changed is not known now, so neither is whether Bytebase {old} can run on it"
        ),
    }
}

/// A replica's state in a few words, and those of its log where it is not up.
pub fn describe(replica: &Replica<'_>) -> String {
    let state = state_of(replica);
    match &replica.pod.log_quote {
        Some(LogQuote::Line(line)) => format!("{state}; its log says: {line}"),
        Some(LogQuote::Withheld { previous }) => {
            let pod = &replica.pod.name;
            let which = if *previous { " --previous" } else { "" };
            format!(
                "{state}; its log is not quoted, since it may hold a password from before a change of the Secret (kubectl logs {pod}{which})"
            )
        }
        None => state,
    }
}

fn state_of(replica: &Replica<'_>) -> String {
    if let Some(trouble) = &replica.pod.trouble {
        return trouble.message().to_owned();
    }
    if replica.pod.deleting {
        return if drains::finishes_tasks(replica) {
            "ending, once it has finished the tasks that it runs".to_owned()
        } else {
            "ending".to_owned()
        };
    }
    let pod = replica.pod;
    let waits_for = pod.waits_for.as_ref().map(PodWait::message);
    let ready = match pod.last_failure.as_deref().or(waits_for) {
        _ if pod.ready => "Ready".to_owned(),
        Some(why) => format!("not Ready: {why}"),
        None => "not Ready".to_owned(),
    };
    let place = if replica.is_seen_elsewhere {
        " (it may run on another database than the one that was read)"
    } else {
        ""
    };
    format!(
        "{ready}, heartbeat {}{place}",
        replica.heartbeat.as_ref().to_lowercase()
    )
}
