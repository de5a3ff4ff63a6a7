//! The heart: from what is wanted and what is seen to what is done. Pure, total and synchronous.

pub mod conditions;
pub mod database;
pub mod haste;
pub mod health;
pub mod license;
pub mod maintenance;
pub mod plan;
pub mod replicas;
pub mod rollout;
pub mod scale;
pub mod schema;
#[cfg(test)]
mod tests;

use crate::api::Reason;
use crate::api::spec::Enforcement;
use crate::api::status::{Phase, ReplicaStatus, RolloutWait};
use crate::contract::license::LicenseKey;
use crate::contract::version::Version;
use crate::desired::drain::{self, Template};
use crate::desired::{self, DesiredObject, Doors};
use crate::kubernetes::Kind;
use crate::observation::heartbeat::BEAT_INTERVAL;
use crate::observation::reading::Reading;
use crate::observation::{DatabaseView, Fact, Observation, StatefulSetView, StoredLicense};
use crate::validate::{GateTerms, Problem, ValidCluster, Validation};
use conditions::Findings;
use database::DatabaseVerdict;
use health::Health;
use jiff::{SignedDuration, Timestamp};
use license::LicenseVerdict;
use maintenance::Stage;
use plan::{BytebaseCall, BytebaseRequest, Plan, Report, Wanted};
use replicas::{Grounds, Target};
use rollout::{Hold, Rollout, Step, Wait};
use scale::{Haste, Size};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Probe this often while replicas come and go, so that a step follows soon after what it waits
/// for.
const BUSY_PROBE: Duration = Duration::from_secs(1);
/// Probe this often otherwise: as often as replicas beat.
const QUIET_PROBE: Duration = BEAT_INTERVAL;

/// Probe this often while a cluster is stopped: its database is somebody else's to work on, and
/// what becomes of it matters only when the cluster is wanted again.
const STOPPED_PROBE: Duration = Duration::from_mins(1);

/// Beside the grace period of a pod, one step of a scale-down takes so long: the StatefulSet's
/// controller and the next reading of the database.
const STEP_MARGIN: SignedDuration = SignedDuration::from_secs(15);

/// What the operator was told at its start.
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
    let health = health::join(observation);
    let Some(cluster) = &validation.cluster else {
        return blocked(
            validation,
            &validation.problems,
            observation,
            settings,
            &health,
        );
    };
    let license = license::judge(
        license::Terms::of(cluster),
        observation,
        guard(settings, cluster.replicas, observation),
        settings.license_key.as_ref(),
    );
    let database = database::judge(&cluster.database, cluster.replicas, observation, &health);
    let downgrade = downgrade(cluster, observation);
    let target = replicas::target(&Grounds {
        wanted: cluster.replicas,
        enforcement: cluster.license.enforcement,
        version: template_version(cluster, observation, downgrade.is_some()),
        running: running(observation),
        database: &database,
        license: &license,
        view: &observation.database,
        foreign: health.strangers(observation),
    });
    let template = match template(cluster, settings, observation) {
        Ok(template) => template,
        Err(problem) => {
            let problems = validation.problems.iter().cloned().chain([problem]);
            let problems: Vec<_> = problems.collect();
            return blocked(validation, &problems, observation, settings, &health);
        }
    };
    let held = downgrade.is_some() || database.allows <= database::Allows::Wait;
    let stage = maintenance::stage(cluster, &template, target.replicas, observation, &health);
    let stage = if held || cluster.paused {
        stage.held()
    } else {
        stage
    };
    let rollout = rollout::step(cluster, stage, observation, &health);
    let because = hold(cluster, observation, &database, &target, &template);
    let rollout = match (&downgrade, because) {
        (Some(downgrade), _) => rollout.refused(downgrade),
        (None, Some(because)) => rollout.held(because),
        (None, None) => rollout,
    };
    let rollout = rollout.unwritten(observation, &template);
    let set = observation
        .stateful_set
        .as_ref()
        .filter(|_| !cluster.paused);
    let scale_wait =
        set.and_then(|set| scale::waits_for(set, target.replicas, target.haste(), observation));
    let findings = Findings {
        rollout: &rollout,
        stage,
        scale_wait: scale_wait.as_ref(),
        exposure_held: exposure_held(cluster, observation, &license),
        cluster,
        observation,
        health: &health,
        license: &license,
        database: &database,
        target: &target,
    };
    let desired = objects(&findings, settings, template, held);
    plan(&findings, desired, validation)
}

/// The pod template that should stand.
fn template(
    cluster: &ValidCluster,
    settings: &Settings,
    observation: &Observation,
) -> Result<Template, Problem> {
    let set = observation.stateful_set.as_ref();
    let live_image = set.and_then(|set| drain::image_in(&set.template));
    let standing = drain::Standing {
        exists: set.is_some(),
        drain_image: live_image.as_deref(),
        digest: set.and_then(|set| set.template_digest.as_deref()),
    };
    drain::template(cluster, settings.own_image.as_deref(), standing).map_err(Problem::pod_template)
}

/// Pods without a StatefulSet are taken over by the one that is made.
fn running(observation: &Observation) -> i32 {
    let set = observation.stateful_set.as_ref();
    let highest = observation.pods.iter().map(|pod| pod.ordinal).max();
    let orphaned = highest.map_or(0, |highest| highest.saturating_add(1));
    set.map_or(orphaned, |set| set.replicas)
}

/// How long before its end a license stops counting for a cluster of this size: the operator's
/// interval, and as long as it takes to go down to one replica step by step. By the wanted size,
/// not the present one, or each step would open the gate again.
fn guard(settings: &Settings, wanted: i32, observation: &Observation) -> SignedDuration {
    let grace = observation
        .stateful_set
        .as_ref()
        .map(StatefulSetView::grace);
    let step = grace.unwrap_or_default() + STEP_MARGIN;
    let steps = wanted.saturating_sub(1).max(0);
    step.checked_mul(steps)
        .and_then(|steps| settings.license_guard.checked_add(steps))
        .unwrap_or(SignedDuration::MAX)
}

/// A guard interval that is longer than this is more than anybody expects.
const EARLY: SignedDuration = SignedDuration::from_hours(24);

/// Long drains of many replicas close the license gate long before the license ends.
fn early_gate(findings: &Findings<'_>, settings: &Settings) -> Option<String> {
    let Findings {
        cluster,
        observation,
        license,
        ..
    } = *findings;
    let ends = license.status.as_ref()?.expiration_time.is_some();
    let acts = cluster.license.enforcement == Enforcement::Enforce && cluster.replicas > 1;
    let guard = guard(settings, cluster.replicas, observation);
    (ends && acts && guard > EARLY).then(|| {
        format!(
            "spec.rollout.drainTimeoutSeconds: one replica after the other may use its whole drain before the license ends, so the operator goes down to one replica {} before: shorten the drain, or renew the license earlier",
            license::in_words(guard)
        )
    })
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
    let hastened = match target.haste() {
        Haste::Gate if !cluster.paused => haste::hastened(license, observation, health),
        _ => haste::Hastened::default(),
    };
    let eviction = match &rollout.step {
        _ if hastened.eviction.is_some() => hastened.eviction,
        Step::Evict(eviction) => Some(eviction.clone()),
        _ => None,
    };
    let Desired { objects, prune, .. } = if paused { Desired::default() } else { desired };
    let quiet = matches!(
        phase,
        Phase::Ready | Phase::Limited | Phase::Stopped | Phase::Paused
    );
    Plan {
        objects,
        resize: None,
        prune,
        eviction,
        call: call(cluster, observation, license, health),
        next: [
            next(cluster, observation, license, rollout, health),
            hastened.due_at,
            validation.changes_at,
        ]
        .into_iter()
        .flatten()
        .min(),
        reading: reading(quiet, findings).or_seldom(is_stopped(cluster.replicas, observation)),
        unclaimed: health.unclaimed.clone(),
        unsettled: matches!(observation.database, DatabaseView::NotProbed),
        report: Report {
            target_replicas: Some(target.replicas),
            selector: Some(desired::selector_text(&cluster.identity.name)),
            url: Some(cluster.url.as_str().to_owned()),
            license: license.status.clone(),
            database: database.facts.clone(),
            rollout: rollout.status(),
            conditions: all,
            ..report(phase, observation, health)
        },
    }
}

#[derive(Default)]
struct Desired {
    objects: Vec<DesiredObject>,
    prune: Vec<Kind>,
    /// Kinds that the spec asks for and the Kubernetes cluster lacks.
    not_installed: Vec<Kind>,
    /// What the pods lack, and what comes of how they end.
    warnings: Vec<String>,
}

/// What should stand. The StatefulSet is left out until the first probe has ended, and keeps its
/// present template while the new one would start replicas that are known to fail or to break the
/// schema.
fn objects(
    findings: &Findings<'_>,
    settings: &Settings,
    template: Template,
    held: bool,
) -> Desired {
    let Findings {
        cluster,
        observation,
        health,
        target,
        stage,
        exposure_held,
        ..
    } = *findings;
    let set = observation.stateful_set.as_ref();
    let warnings = drain::warning(cluster, &template)
        .into_iter()
        .chain(early_gate(findings, settings));
    let warnings = warnings.collect();
    let replicas = stage.limit(target.replicas);
    let first = Size { start: 0, replicas };
    let size = set.map_or(first, |set| {
        let haste = match stage {
            // Whatever holds the number of replicas back, this is no doing of the license gate.
            Stage::Stop => Haste::Orderly,
            Stage::Idle | Stage::First => target.haste(),
        };
        scale::next_size(set, replicas, haste, observation, health)
    });
    let keeps_template = held || stage == Stage::Stop;
    let stateful_set = match set {
        // Nothing of it changes: not even a fresh start of the operator, which knows nothing yet,
        // writes anything.
        Some(set) if keeps_template && size == set.size() => None,
        Some(set) if keeps_template => Some(desired::stateful_set(
            cluster,
            &size.ordinals(),
            Template {
                value: set.template.clone(),
                // It speaks of this template, which is not the one that is wanted.
                digest: set.template_digest.clone(),
            },
        )),
        None if held => None,
        _ => Some(desired::stateful_set(cluster, &size.ordinals(), template)),
    };
    let doors = if exposure_held && !observation.service_exposes {
        Doors::Closed
    } else {
        Doors::AsWanted
    };
    let wanted = desired::companions(cluster, settings.operator_namespace.as_deref(), doors);
    let prune = Kind::owned()
        .rev()
        .filter(|kind| kind.is_prunable() && wanted.iter().all(|object| object.kind != *kind))
        .collect();
    let is_lacking =
        |object: &DesiredObject| observation.kinds_not_installed.contains(&object.kind);
    let not_installed = wanted.iter().filter(|object| is_lacking(object));
    let not_installed = not_installed.map(|object| object.kind).rev().collect();
    let stands = |kind| match kind {
        Kind::Ingress => observation.ingress_has_address.is_some(),
        Kind::HttpRoute => observation.route.is_some(),
        _ => false,
    };
    let mut objects: Vec<_> = wanted
        .into_iter()
        .chain(stateful_set)
        .filter(|object| !is_lacking(object))
        // What stands already is not taken away.
        .filter(|object| !exposure_held || !object.kind.exposes() || stands(object.kind))
        .collect();
    // Kinds are listed in the order in which they are applied.
    objects.sort_by_key(|object| object.kind);
    Desired {
        objects,
        prune,
        not_installed,
        warnings,
    }
}

/// A cluster that cannot be used: nothing is changed, what runs is still looked at. Only the license
/// gate acts all the same, since Bytebase asks nobody whether the spec is in order.
fn blocked(
    validation: &Validation,
    problems: &[Problem],
    observation: &Observation,
    settings: &Settings,
    health: &Health<'_>,
) -> Plan {
    let GateTerms {
        wanted,
        enforcement,
        paused,
    } = validation.gate;
    let license = license::judge(
        license::Terms::default(),
        observation,
        guard(settings, wanted, observation),
        settings.license_key.as_ref(),
    );
    // What is read meanwhile goes into status: a decision on the corrected spec may rest on it.
    let database = validation.database.as_ref();
    let database = database.map(|database| database::judge(database, wanted, observation, health));
    let closed = enforcement == Enforcement::Enforce && license.allows == license::Licensed::No;
    let acts = closed && !paused;
    let hastened = if acts {
        haste::hastened(&license, observation, health)
    } else {
        haste::Hastened::default()
    };
    let set = observation.stateful_set.as_ref();
    let resize = set.filter(|set| closed && !paused && set.replicas > 1);
    let resize = resize.and_then(|set| {
        let size = scale::next_size(set, 1, Haste::Gate, observation, health);
        (size != set.size()).then_some(size)
    });
    Plan {
        objects: Vec::new(),
        resize,
        prune: Vec::new(),
        eviction: hastened.eviction,
        call: Wanted::NotNow,
        next: [
            license.changes_at,
            hastened.due_at,
            validation.changes_at,
            closed.then(|| scale::overdue_at(observation)).flatten(),
        ]
        .into_iter()
        .flatten()
        .min(),
        reading: Reading {
            every: if closed && set.is_some_and(|set| set.replicas > 1) {
                BUSY_PROBE
            } else {
                QUIET_PROBE
            },
            sessions: is_unnamed(health),
            new_session: database.as_ref().is_some_and(is_refused),
            keep_session: true,
        }
        .or_seldom(is_stopped(wanted, observation)),
        unclaimed: health.unclaimed.clone(),
        unsettled: matches!(observation.database, DatabaseView::NotProbed),
        report: Report {
            license: license.status.clone(),
            conditions: conditions::invalid(
                problems,
                validation,
                &license,
                database.as_ref(),
                observation,
            ),
            database: match database {
                Some(database) => database.facts,
                None => observation.remembered.database.clone(),
            },
            target_replicas: closed.then_some(1),
            ..report(Phase::Invalid, observation, health)
        },
    }
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The part of status that is the same whatever was decided.
fn report(phase: Phase, observation: &Observation, health: &Health<'_>) -> Report {
    let set = observation.stateful_set.as_ref();
    let replica_statuses = health.replicas.iter().map(|replica| ReplicaStatus {
        pod: replica.pod.name.clone(),
        node: replica.pod.node.clone(),
        replica_id: replica.id.map(|id| id.to_string()),
        container_id: replica.id.and(replica.pod.container_id.clone()),
        ready: replica.pod.ready && !replica.pod.deleting,
        heartbeat: replica.heartbeat,
        since: None,
        running_tasks: replica
            .running_tasks
            .and_then(|count| i64::try_from(count).ok()),
        updated: set.is_some_and(|set| set.settled && replica.pod.revision == set.update_revision),
        message: replica
            .pod
            .trouble
            .as_ref()
            .map(|trouble| trouble.message().to_owned()),
    });
    let ready = health
        .replicas
        .iter()
        .filter(|replica| replica.pod.ready && !replica.pod.deleting);
    Report {
        phase: Some(phase),
        replicas: to_i32(health.replicas.len()),
        ready_replicas: to_i32(ready.clone().count()),
        active_replicas: health.beating().map(to_i32),
        // During a roll the one that is being left.
        version: ready
            .filter(|replica| replica.pod.version.is_some())
            .min_by_key(|replica| {
                set.is_some_and(|set| set.settled && replica.pod.revision == set.update_revision)
            })
            .and_then(|replica| replica.pod.version.clone()),
        schema_version: schema::version(observation).map(|version| version.to_string()),
        replica_statuses: replica_statuses.collect(),
        queue_held_by: queue_held_by(observation).cloned().collect(),
        ..Report::default()
    }
}

/// Who keeps the replicas from promoting queued work.
fn queue_held_by(observation: &Observation) -> impl Iterator<Item = &String> {
    let sessions = observation
        .facts()
        .and_then(|facts| facts.sessions.as_ref());
    sessions
        .into_iter()
        .flat_map(|sessions| &sessions.queue_held_by)
}

/// Bytebase checks no version in either direction: an older binary starts on a newer schema and
/// then breaks.
fn downgrade(cluster: &ValidCluster, observation: &Observation) -> Option<String> {
    let image = cluster.image.version?;
    let schema = schema::version(observation)?;
    image.older_minor_than(schema).then(|| {
        let Version { major, minor, .. } = schema;
        format!("the metadata schema is at {major}.{minor}, newer than Bytebase {image}, which would start on it and then break: set spec.version to {major}.{minor} or later, or restore a backup of the database")
    })
}

/// What keeps a rollout from its next step.
fn hold(
    cluster: &ValidCluster,
    observation: &Observation,
    database: &DatabaseVerdict,
    target: &Target,
    template: &Template,
) -> Option<Hold> {
    let set = observation.stateful_set.as_ref()?;
    let (for_, message) = if cluster.paused {
        (RolloutWait::Resume, "spec.paused to be lifted")
    } else if database.allows == database::Allows::Wait {
        (
            RolloutWait::DatabaseReading,
            "the first reading of the database",
        )
    } else if database.allows == database::Allows::Nothing {
        let message = match (database.status, database.reason) {
            (_, Reason::DatabaseInUse) => {
                "the heartbeats on the database to end that belong to no pod of this cluster"
            }
            // A pod that ends now could not start again.
            (None, _) => "the database to be readable again",
            // A pod that ends now might come back into a database that refuses it.
            _ => "the database to pass its checks",
        };
        (RolloutWait::Database, message)
    } else if target.replicas < set.replicas {
        // Never two at once by our hand.
        return Some(Hold {
            wait: Wait::new(RolloutWait::ScaleDown, "the scale-down to end"),
            holds_template: false,
        });
    } else {
        return None;
    };
    Some(Hold {
        wait: Wait::new(for_, message),
        holds_template: maintenance::changes(set, template),
    })
}

/// Version of the template that will stand: a refused downgrade leaves the old one.
fn template_version(
    cluster: &ValidCluster,
    observation: &Observation,
    held: bool,
) -> Option<Version> {
    match &observation.stateful_set {
        Some(set) if held => set
            .version
            .as_deref()
            .and_then(|text| Version::parse(text).ok()),
        _ => cluster.image.version,
    }
}

/// Whoever signs up first becomes the admin, so with `createFirst` nobody is let in before that is
/// done.
fn exposure_held(
    cluster: &ValidCluster,
    observation: &Observation,
    license: &LicenseVerdict,
) -> bool {
    let create_first = cluster
        .admin
        .as_ref()
        .is_some_and(|admin| admin.create_first);
    let remembered = &observation.remembered;
    let read = observation.last_facts.as_ref().map(|(_, facts)| {
        matches!(
            facts.license,
            Fact::Known(StoredLicense::Absent { .. } | StoredLicense::Present { .. })
        )
    });
    // Else as an earlier process read it.
    let unlicensed = remembered.unlicensed;
    let workspace = read.unwrap_or_else(|| {
        remembered.license.is_some()
            || unlicensed.is_some_and(|reason| reason != Reason::AwaitingFirstSignUp)
    });
    create_first && (!workspace || license.reason == Reason::LicenseNotInstalled)
}

/// A rollout and a scale-down must know of a migration, and of a replica whose id is not known only its session tells
/// that it lives.
fn reading(quiet: bool, findings: &Findings<'_>) -> Reading {
    let Findings {
        rollout,
        health,
        database,
        observation,
        target,
        ..
    } = *findings;
    let set = observation.stateful_set.as_ref();
    let shrinks = set.is_some_and(|set| target.replicas < set.replicas);
    Reading {
        every: if quiet { QUIET_PROBE } else { BUSY_PROBE },
        sessions: !quiet
            || (rollout.step != Step::Done && !health.replicas.is_empty())
            || shrinks
            || is_unnamed(health)
            // Or nobody would learn that it is over.
            || queue_held_by(observation).next().is_some(),
        new_session: is_refused(database),
        keep_session: true,
    }
}

/// Whether nobody needs the database: no replica is wanted, and none is left.
fn is_stopped(wanted: i32, observation: &Observation) -> bool {
    wanted == 0 && observation.pods.is_empty()
}

impl Reading {
    /// The same, or only a look now and then.
    fn or_seldom(self, seldom: bool) -> Self {
        if seldom {
            Self {
                every: STOPPED_PROBE,
                sessions: false,
                keep_session: false,
                ..self
            }
        } else {
            self
        }
    }
}

/// Whether something forbids the use of what was read.
fn is_refused(database: &DatabaseVerdict) -> bool {
    database.status == Some(false)
}

fn is_unnamed(health: &Health<'_>) -> bool {
    health.replicas.iter().any(|replica| replica.id.is_none())
}

/// The next call to Bytebase's API, once a replica answers.
fn call(
    cluster: &ValidCluster,
    observation: &Observation,
    license: &LicenseVerdict,
    health: &Health<'_>,
) -> Wanted {
    if cluster.paused {
        return Wanted::NotNow;
    }
    let Some(admin) = &cluster.admin else {
        return Wanted::No;
    };
    let Some(login) = &admin.login else {
        return Wanted::NotNow;
    };
    let stored = observation.facts().and_then(|facts| facts.license.known());
    let (email, password) = (login.email.clone(), login.password.clone());
    let request = match stored {
        None => return Wanted::NotNow,
        Some(StoredLicense::NoWorkspace) if admin.create_first => {
            BytebaseRequest::CreateFirstAdmin { email, password }
        }
        Some(StoredLicense::NoWorkspace) => return Wanted::No,
        Some(StoredLicense::Absent { .. } | StoredLicense::Present { .. }) => {
            let secret = cluster.license.secret.as_ref();
            let Some(secret) = secret.filter(|_| license.installable) else {
                return Wanted::No;
            };
            BytebaseRequest::InstallLicense {
                email,
                password,
                token: secret.token.clone(),
            }
        }
    };
    let mut serving = health
        .replicas
        .iter()
        .filter(|replica| replica.ready_and_beating());
    serving
        .find_map(|replica| replica.pod.ip.as_ref()?.parse::<IpAddr>().ok())
        .map_or(Wanted::NotNow, |replica| {
            Wanted::Call(BytebaseCall {
                replica: SocketAddr::new(replica, desired::PORT),
                request,
            })
        })
}

fn next(
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
    // Just past the moment at which a heartbeat nobody claims counts as a stranger's.
    let patience = SignedDuration::try_from(health::FOREIGN_AFTER + Duration::from_secs(1))
        .unwrap_or(SignedDuration::MAX);
    let strangers = health
        .unclaimed
        .iter()
        .filter_map(|id| {
            let since = observation.unclaimed_since.get(id);
            since.unwrap_or(&observation.now).checked_add(patience).ok()
        })
        .filter(|moment| *moment > observation.now)
        .min();
    let late = health.late_at(observation, cluster.rollout.ready_timeout);
    let late = late.filter(|late| *late > observation.now);
    [
        license.changes_at,
        rollout,
        strangers,
        health::awaited_refusal(observation),
        late,
        scale::overdue_at(observation),
        rollout::overdue_at(observation),
    ]
    .into_iter()
    .flatten()
    .min()
}
