//! `spec.rollout.strategy: Maintenance`: no replica runs beside one of another template. All end,
//! one starts, which alone migrates the schema, and the rest follow.
//!
//! Nothing is remembered for it: the StatefulSet keeps its old template until no pod is left, so
//! its size and its template say how far the rollout has come, to whichever process reads them.

use crate::api::spec::RolloutStrategy;
use crate::api::status::RolloutWait;
use crate::decide::database::DatabaseVerdict;
use crate::decide::health::Health;
use crate::decide::rollout::idle;
use crate::decide::rollout::step::{
    Step, Wait, controllers_step, is_outdated, overdue, schema_migration, unproven_step,
};
use crate::desired::drain;
use crate::desired::template::Template;
use crate::observation::{Observation, StatefulSetView};
use crate::validate::ValidCluster;

/// Where a rollout with downtime stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is none, or it waits for something else.
    Idle,
    /// Every pod has to end, and one runs tasks that no drain hook in it waits for: it is given the
    /// time of a drain. The old template stands.
    Finish,
    /// Every pod has to end. The old template stands.
    Stop,
    /// One replica starts on the new template, or the first one ever.
    First,
}

impl Stage {
    /// The stage where nothing may be ended: what has begun to start goes on to be waited for.
    #[must_use]
    pub fn held(self) -> Self {
        match self {
            Self::Idle | Self::Finish | Self::Stop => Self::Idle,
            Self::First => Self::First,
        }
    }

    /// Whether the old template stands until every pod has ended.
    pub fn keeps_template(self) -> bool {
        match self {
            Self::Finish | Self::Stop => true,
            Self::Idle | Self::First => false,
        }
    }

    /// How many replicas the StatefulSet may have meanwhile.
    pub fn limit(self, target: i32) -> i32 {
        match self {
            Self::Idle | Self::Finish => target,
            Self::Stop => 0,
            Self::First => target.min(1),
        }
    }
}

/// Decides it. `target`: how many replicas are to run in the end.
pub fn stage(
    cluster: &ValidCluster,
    template: &Template,
    target: i32,
    observation: &Observation,
    health: &Health<'_>,
) -> Stage {
    if cluster.rollout.strategy != RolloutStrategy::Maintenance || target == 0 {
        return Stage::Idle;
    }
    let Some(set) = &observation.stateful_set else {
        // Pods that lost their StatefulSet are not first ones.
        return if health.replicas.is_empty() {
            Stage::First
        } else {
            Stage::Idle
        };
    };
    // Neither the watch of pods nor the controller knows of one: a pod that was made a moment ago
    // may be late in the one and not in the other.
    let is_gone = health.replicas.is_empty() && set.pods == 0;
    let is_down = set.replicas == 0 && set.settled && is_gone;
    let was_stopped = set.replicas == 0;
    if !is_down && (was_stopped || is_old(set, template, health)) {
        let unfinished = || idle::unfinished(cluster, template, observation, health);
        let is_awaited = |wait: Wait| !wait.is_over(observation.now);
        let finishes = !was_stopped && unfinished().is_some_and(is_awaited);
        return if finishes { Stage::Finish } else { Stage::Stop };
    }
    // One that runs alone and is to is no rollout, whatever its heartbeat does. But one that was
    // waited for goes on to be, whatever holds the others back meanwhile.
    let before = observation.remembered.rollout.as_ref();
    let was_first = before.is_some_and(|before| before.waiting_for == RolloutWait::FirstReplica);
    let is_first = is_down || (set.replicas == 1 && (set.replicas < target || was_first));
    if is_first && health.serving() == 0 {
        Stage::First
    } else {
        Stage::Idle
    }
}

/// Something runs, or will, on another template than the one that should stand. Where an older
/// operator wrote the StatefulSet, its pods show it once the template has been written.
fn is_old(set: &StatefulSetView, template: &Template, health: &Health<'_>) -> bool {
    let outdated = || health.replicas.iter().any(|pod| is_outdated(pod, set));
    changes(set, template) || (set.settled && outdated())
}

/// Whether the StatefulSet is known to have another template than it should. The digest leaves out
/// whether there is a drain hook, which a template may get without any other change. What its image
/// is called may be another party's, which rewrites the images of its cluster.
pub fn changes(set: &StatefulSetView, template: &Template) -> bool {
    let has_hook = |template| drain::image_in(template).is_some();
    let gets_hook = || has_hook(&set.template) != has_hook(&template.value);
    set.template_digest.is_some() && (set.template_digest != template.digest || gets_hook())
}

/// The next move, where such a rollout is under way.
pub fn step(
    stage: Stage,
    cluster: &ValidCluster,
    template: &Template,
    observation: &Observation,
    health: &Health<'_>,
    database: &DatabaseVerdict,
) -> Option<Step> {
    let set = observation.stateful_set.as_ref()?;
    match stage {
        Stage::Idle => None,
        Stage::Finish => idle::unfinished(cluster, template, observation, health).map(Step::Wait),
        Stage::Stop if set.replicas > 0 => Some(Step::Wait(match schema_migration(observation) {
            Some(migration) => migration,
            None => Wait {
                // Its time is over, and stays so where the write fails.
                busy_since: idle::unfinished(cluster, template, observation, health)
                    .and_then(|unfinished| unfinished.busy_since),
                ..Wait::new(RolloutWait::AllPodsEnd, every_pod_to_end())
            },
        })),
        Stage::Stop if let Some(stalled) = overdue(observation, health) => Some(stalled),
        Stage::Stop => {
            let ends = health.replicas.iter().map(|replica| replica.pod.ends_by);
            let latest = ends.collect::<Option<Vec<_>>>();
            let wait = Wait::new(RolloutWait::AllPodsEnd, every_pod_to_end());
            Some(Step::Wait(
                wait.until(latest.and_then(|ends| ends.into_iter().max())),
            ))
        }
        Stage::First => Some(match &health.replicas[..] {
            // The operator itself makes none.
            [] if cluster.paused => {
                Step::Wait(Wait::new(RolloutWait::Resume, "spec.paused to be lifted"))
            }
            [] => controllers_step(
                RolloutWait::FirstReplica,
                "the first replica to be made (the others start when it is Ready and sends heartbeats)",
                cluster,
                observation,
            ),
            [first, ..] => unproven_step(
                RolloutWait::FirstReplica,
                cluster,
                observation,
                database,
                first,
                &[],
            ),
        }),
    }
}

fn every_pod_to_end() -> &'static str {
    "every replica to finish its tasks and to end, before the first starts on the new template (spec.rollout.strategy is Maintenance)"
}
