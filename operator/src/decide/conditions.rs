//! Conditions and phase: what the findings mean to users.

use super::database::{Allows, DatabaseVerdict};
use super::health::{Health, Replica, lasting_refusal};
use super::plan::ConditionDraft;
use super::rollout::Rollout;
use super::verdict::{Verdict, no, unknown, yes};
use crate::api::spec::Enforcement;
use crate::api::status::{ChangedLogin, HeartbeatState, Phase};
use crate::api::{ConditionType, Reason};
use crate::decide::rollout::maintenance::Stage;
use crate::decide::rollout::step::{self, Step, Wait, describe, way_back, why_unending};
use crate::decide::size::license::{self, LicenseVerdict};
use crate::decide::size::replicas::Target;
use crate::decide::size::scale::{self, Haste};
use crate::desired;
use crate::kubernetes::Kind;
use crate::observation::{DatabaseView, Observation, PodTrouble, RouteView, ServiceWay};
use crate::validate::{Problem, ServiceReach, ValidCluster, Validation};
use std::iter;

/// Everything the conditions speak of.
pub struct Findings<'a> {
    /// The cluster.
    pub cluster: &'a ValidCluster,
    /// What is seen.
    pub observation: &'a Observation,
    /// Pods and heartbeats.
    pub health: &'a Health<'a>,
    /// License.
    pub license: &'a LicenseVerdict,
    /// Database.
    pub database: &'a DatabaseVerdict,
    /// How many replicas run.
    pub target: &'a Target,
    /// Rollout.
    pub rollout: &'a Rollout,
    /// Where a rollout with downtime stands.
    pub stage: Stage,
    /// The replicas are to log in by other values than those that they were started with.
    pub changed_login: Option<&'a ChangedLogin>,
    /// How the StatefulSet shrinks.
    pub haste: Haste,
    /// What a scale-down waits for.
    pub scale_wait: Option<&'a Wait>,
    /// It takes no step before that.
    pub keeps_size: bool,
    /// What lets users in waits for the first admin.
    pub exposure_held: bool,
}

/// All conditions but `ConfigurationValid`.
pub fn all(findings: &Findings<'_>) -> Vec<ConditionDraft> {
    let healthy = replicas_healthy(findings);
    let ready = ready(findings, &healthy);
    let rollout = findings.rollout.verdict();
    let stalled = stalled(findings, &rollout, &healthy);
    let reconciling = reconciling(findings, &ready, &rollout, &stalled);
    vec![
        ready.of(ConditionType::Ready),
        reconciling.of(ConditionType::Reconciling),
        stalled.of(ConditionType::Stalled),
        database_ready(findings.database).of(ConditionType::DatabaseReady),
        ha_licensed(findings).of(ConditionType::HaLicensed),
        healthy.of(ConditionType::ReplicasHealthy),
        rollout.of(ConditionType::RolloutComplete),
        exposed(findings).of(ConditionType::Exposed),
    ]
}

fn database_ready(database: &DatabaseVerdict) -> Verdict {
    Verdict::new(database.status, database.reason, &database.message)
}

/// `ConfigurationValid`, from every problem at once.
pub fn configuration(
    problems: &[Problem],
    warnings: &[String],
    ends_soon: Option<&String>,
) -> ConditionDraft {
    let verdict = if let Some(first) = problems.first() {
        let all = problems.iter();
        let all = all.map(|problem| format!("{}: {}", problem.field, problem.message));
        no(first.reason, all.collect::<Vec<_>>().join("; "))
    } else if let Some(ends_soon) = ends_soon {
        let all = iter::once(ends_soon).chain(warnings);
        let all: Vec<_> = all.map(String::as_str).collect();
        yes(Reason::CertificateEndsSoon, all.join("; "))
    } else if warnings.is_empty() {
        yes(
            Reason::Valid,
            "the spec and everything it names can be used",
        )
    } else {
        yes(Reason::ValidWithWarnings, warnings.join("; "))
    };
    verdict.of(ConditionType::ConfigurationValid)
}

/// Conditions of a cluster whose configuration blocks: what runs is left alone and nothing else is
/// checked but the license, which Bytebase obeys whatever the spec says, and the database, if the
/// spec says which.
pub fn invalid(
    problems: &[Problem],
    validation: &Validation,
    license: &LicenseVerdict,
    database: Option<&DatabaseVerdict>,
    observation: &Observation,
) -> Vec<ConditionDraft> {
    let configuration = configuration(
        problems,
        &validation.warnings,
        validation.ends_soon.as_ref(),
    );
    let set = observation.stateful_set.as_ref();
    let gate = if license.allows == license::Licensed::No && set.is_some_and(|set| set.replicas > 1)
    {
        format!("; only the license gate acts: {}", license.message)
    } else {
        String::new()
    };
    let (reason, until, unchecked, waiting) = if validation.is_deleted {
        (
            Reason::BeingDeleted,
            "any more",
            "not checked while the cluster is being deleted",
            "waiting for the cluster to go",
        )
    } else {
        (
            Reason::InvalidConfiguration,
            "until the configuration is corrected",
            "not checked while the configuration cannot be used",
            "waiting for a change of the spec or of what it names",
        )
    };
    let message = format!(
        "nothing is changed {until}: {}{gate}",
        configuration.message
    );
    let unchecked = unknown(reason, unchecked);
    let database = match (database, &observation.remembered.refusal) {
        (Some(database), _) => database_ready(database),
        // A refusal stands until a good reading takes it back.
        (None, Some(refusal)) => no(refusal.reason, &refusal.message),
        (None, None) => unchecked.clone(),
    };
    let licensed = Verdict::new(license.allows.status(), license.reason, &license.message);
    vec![
        no(reason, &message).of(ConditionType::Ready),
        no(reason, waiting).of(ConditionType::Reconciling),
        yes(reason, message).of(ConditionType::Stalled),
        database.of(ConditionType::DatabaseReady),
        licensed.of(ConditionType::HaLicensed),
        unchecked.clone().of(ConditionType::ReplicasHealthy),
        unchecked.clone().of(ConditionType::RolloutComplete),
        unchecked.of(ConditionType::Exposed),
        configuration,
    ]
}

fn replicas_healthy(findings: &Findings<'_>) -> Verdict {
    let health = findings.health;
    let foreign = health.foreign;
    if foreign > 0 {
        let (replicas, count) = match foreign {
            1 => (
                "1 replica that does not belong to this cluster sends".to_owned(),
                "it counts",
            ),
            _ => (
                format!("{foreign} replicas that do not belong to this cluster send"),
                "they count",
            ),
        };
        return no(
            Reason::ForeignReplica,
            format!(
                "{replicas} heartbeats to its database: find out who else uses {} and stop it, since {count} towards the license",
                findings.cluster.database.replicas.identity_hint()
            ),
        );
    }
    if let Some(refused) = lasting_refusal(findings.observation) {
        return no(
            Reason::PodCreationFailed,
            format!("Kubernetes refuses to make a pod: {}", refused.message),
        );
    }
    if health.replicas.is_empty() {
        return if findings.cluster.replicas == 0 {
            yes(Reason::NoReplicas, "no replica is wanted")
        } else {
            no(Reason::ReplicaNotReady, "no pod exists yet")
        };
    }
    let mut trouble: Vec<_> = health
        .replicas
        .iter()
        .filter(|replica| !replica.serves)
        .map(|replica| (reason_of(replica), replica))
        .collect();
    // What a user can fix comes first.
    trouble.sort_by_key(|(reason, _)| severity(*reason));
    let Some((reason, _)) = trouble.first() else {
        let message = match health.replicas.len() {
            1 => "the replica that runs is Ready and sends heartbeats".to_owned(),
            running => format!("all {running} replicas that run are Ready and send heartbeats"),
        };
        return yes(Reason::AllReplicasHealthy, message);
    };
    let only_unknown = trouble
        .iter()
        .all(|(reason, _)| *reason == Reason::HeartbeatsUnknown);
    let list = trouble
        .iter()
        .map(|(_, replica)| format!("{}: {}", replica.pod.name, describe(replica)))
        .collect::<Vec<_>>()
        .join("; ");
    Verdict::new(
        (!only_unknown).then_some(false),
        *reason,
        format!("{list}{}", why_no_heartbeat(findings, &trouble)),
    )
}

/// A database that accepts no writes explains why replicas send no heartbeats. What all of them
/// have in common is not the fault of each, also where the database passes every check: none of
/// these writes anything.
fn why_no_heartbeat(findings: &Findings<'_>, trouble: &[(Reason, &Replica<'_>)]) -> String {
    let database = findings.database;
    let unheard = trouble
        .iter()
        .any(|(reason, _)| matches!(reason, Reason::HeartbeatStale | Reason::HeartbeatMissing));
    match database.status {
        Some(false) if unheard => format!("; the database explains it: {}", database.message),
        Some(true) if all_are_stale(findings.health) => match findings.health.ready_pods() {
            1 => "; that the only Ready replica sends none may be the server's doing (it takes no writes: a full disk?) or the network's: see the server's log and the NetworkPolicies of the pods before you delete a pod",
            _ => "; all of them at once: the server takes no writes from them (a full disk?), or the pods cannot reach it: see the server's log and the NetworkPolicies of the pods before you delete a pod",
        }
        .to_owned(),
        _ => String::new(),
    }
}

/// Whether replicas are Ready, and the heartbeat of each is stale. Of a single one nothing shows
/// whether it is to blame.
fn all_are_stale(health: &Health<'_>) -> bool {
    let replicas = health.replicas.iter();
    let mut ready = replicas.filter(|replica| replica.pod.is_ready());
    health.ready_pods() > 0 && ready.all(|replica| replica.heartbeat == HeartbeatState::Stale)
}

fn reason_of(replica: &Replica<'_>) -> Reason {
    match (&replica.pod.trouble, replica.pod.ready, replica.heartbeat) {
        (Some(PodTrouble::ImagePull(_)), ..) => Reason::ImagePullFailed,
        (Some(PodTrouble::Crashing(_)), ..) => Reason::ReplicaCrashing,
        (Some(PodTrouble::Unschedulable(_)), ..) => Reason::Unschedulable,
        (Some(PodTrouble::Creation(_)), ..) => Reason::PodCreationFailed,
        (Some(PodTrouble::NodeSilent(_)), ..) => Reason::NodeSilent,
        (None, true, HeartbeatState::Stale) => Reason::HeartbeatStale,
        (None, true, HeartbeatState::Missing) => Reason::HeartbeatMissing,
        (None, true, HeartbeatState::Unknown) => Reason::HeartbeatsUnknown,
        (None, false, _) if replica.pod.last_failure.is_some() => Reason::ReplicaCrashing,
        (None, ..) => Reason::ReplicaNotReady,
    }
}

fn severity(reason: Reason) -> u8 {
    match reason {
        Reason::ImagePullFailed
        | Reason::ReplicaCrashing
        | Reason::Unschedulable
        | Reason::PodCreationFailed
        | Reason::NodeSilent => 0,
        Reason::HeartbeatStale => 1,
        Reason::ReplicaNotReady => 2,
        Reason::HeartbeatMissing => 3,
        _ => 4,
    }
}

/// Whether as many replicas serve as may run. That fewer may run than are wanted is no lack of
/// readiness: mostly only a person changes it, and who waits for a cluster to become Ready, such as
/// a sync, would wait for ever. The reason says it, and so does the phase.
fn ready(findings: &Findings<'_>, healthy: &Verdict) -> Verdict {
    let health = findings.health;
    let wanted = findings.cluster.replicas;
    if wanted == 0 {
        let stopped = health.replicas.is_empty();
        let how = if stopped { "stopped" } else { "being stopped" };
        let message = format!("replicas is 0: the cluster is {how}");
        return Verdict::new(Some(stopped), Reason::ScaledToZero, message);
    }
    let may_run = usize::try_from(findings.target.replicas).unwrap_or(0);
    let held = findings.target.held_back.as_ref();
    if let Some((reason, message)) = held
        && (may_run == 0 || *reason == Reason::DatabaseNotProbed)
    {
        return no(*reason, held_back(findings, message));
    }
    let (serving, ready_pods) = (health.serving(), health.ready_pods());
    let limit = held.map_or_else(String::new, |(_, message)| {
        format!("; no more than {may_run} of {wanted} may run: {message}")
    });
    if serving >= may_run && !health.readable {
        // Only where heartbeats can never be read does a Ready pod count as serving; to call that
        // Ready would claim what no reading showed.
        let (pods, their) = ready_pods_are(serving);
        return unknown(
            Reason::HeartbeatsUnknown,
            format!(
                "{pods} Ready, but the operator cannot read {their} heartbeats: set database.monitorSecretRef{limit}"
            ),
        );
    }
    match held {
        Some((reason, message)) if serving >= may_run => yes(*reason, held_back(findings, message)),
        None if serving >= may_run => yes(Reason::AllReplicasActive, serving_of(serving, may_run)),
        _ if findings.observation.facts().is_some()
            && health.all_run_elsewhere()
            && ready_pods >= may_run =>
        {
            let (pods, _) = ready_pods_are(ready_pods);
            unknown(
                Reason::HeartbeatsUnknown,
                format!(
                    "{pods} Ready, and may still run on another database than the one that was read, which has no heartbeats of {them}{limit}",
                    them = if ready_pods == 1 { "it" } else { "them" },
                ),
            )
        }
        _ if !health.readable && ready_pods >= may_run => {
            let (pods, their) = ready_pods_are(ready_pods);
            unknown(
                Reason::HeartbeatsUnknown,
                format!(
                    "{pods} Ready, but {their} heartbeats cannot be read: {}{limit}",
                    findings.database.message
                ),
            )
        }
        _ => no(
            Reason::ReplicasNotReady,
            format!(
                "{}; {}{limit}",
                serving_of(serving, may_run),
                healthy.message
            ),
        ),
    }
}

/// So many of those that may run serve.
fn serving_of(serving: usize, may_run: usize) -> String {
    match (serving, may_run) {
        (0 | 1, 1) => format!("{serving} of 1 replica is Ready and sends heartbeats"),
        (1, _) => format!("1 of {may_run} replicas is Ready and sends heartbeats"),
        _ => format!("{serving} of {may_run} replicas are Ready and send heartbeats"),
    }
}

/// "1 pod is" or "3 pods are", and "its" or "their".
fn ready_pods_are(pods: usize) -> (String, &'static str) {
    match pods {
        1 => ("1 pod is".to_owned(), "its"),
        _ => (format!("{pods} pods are"), "their"),
    }
}

/// Says how many run now, and where the number goes.
fn held_back(findings: &Findings<'_>, message: &str) -> String {
    let wanted = findings.cluster.replicas;
    let target = findings.target.replicas;
    let running = findings.health.replicas.len();
    if usize::try_from(target).is_ok_and(|target| running > target) {
        let present = if running == 1 {
            "1 replica runs".to_owned()
        } else {
            format!("{running} replicas run")
        };
        let are = if wanted == 1 { "is" } else { "are" };
        format!("{present}, {wanted} {are} wanted, and the number goes down to {target}: {message}")
    } else {
        let run = match (target, wanted) {
            (_, 1) => "replica runs",
            (1, _) => "replicas runs",
            _ => "replicas run",
        };
        format!("{target} of {wanted} wanted {run}: {message}")
    }
}

fn ha_licensed(findings: &Findings<'_>) -> Verdict {
    let LicenseVerdict {
        allows,
        reason,
        message,
        ..
    } = findings.license;
    let status = allows.status();
    let call_failure = findings.observation.call_failure.as_ref();
    if let Some(failure) = call_failure.filter(|_| status != Some(true)) {
        let message = format!("{message}; the last try failed: {}", failure.message);
        return Verdict::new(status, Reason::LicenseInstallFailed, message);
    }
    // Several replicas may run, until the stored license ends: the one that is to follow it is
    // news.
    if let Some(failure) = call_failure.filter(|_| findings.license.installable) {
        let message = format!(
            "{message}; the license in the Secret could not be installed: {}",
            failure.message
        );
        return Verdict::new(status, *reason, message);
    }
    let is_warning = findings.cluster.license.enforcement == Enforcement::Warn;
    if is_warning && status != Some(true) && findings.cluster.replicas > 1 {
        let warning = "enforcement is Warn, so all replicas run all the same: without an HA license Bytebase skips work and fails queued tasks after ten minutes";
        let message = format!("{message}; {warning}");
        return Verdict::new(status, Reason::LicenseNotEnforced, message);
    }
    let running = findings.health.replicas.len();
    if findings.cluster.paused && status == Some(false) && running > 1 {
        let message = format!(
            "{message}; {running} replicas run all the same, since spec.paused keeps the operator from going down to one: Bytebase skips work and fails queued tasks after ten minutes"
        );
        return Verdict::new(status, *reason, message);
    }
    Verdict::new(status, *reason, message)
}

fn stalled(findings: &Findings<'_>, rollout: &Verdict, healthy: &Verdict) -> Verdict {
    if rollout.reason == Reason::DowngradeRefused {
        return yes(rollout.reason, rollout.message.clone());
    }
    // No rollout goes on before the database is well again, whatever else stands in its way.
    if findings.database.status == Some(false) && !findings.database.may_be_failover() {
        return yes(findings.database.reason, findings.database.message.clone());
    }
    if rollout.reason == Reason::RolloutStalled {
        return yes(rollout.reason, rollout.message.clone());
    }
    if let Some(unending) = unending(findings) {
        return yes(reason_of(unending), why_unending(unending.pod));
    }
    // A rollout has a say of its own on how long a replica may take.
    let timeout = findings.cluster.rollout.ready_timeout;
    let late = findings.health.late_at(findings.observation, timeout);
    let is_late = late.is_some_and(|late| late <= findings.observation.now);
    if is_late && rollout.reason == Reason::RolloutDone && healthy.status == Some(false) {
        let seconds = timeout.as_secs();
        // The only replica of before has been replaced.
        let mut down = findings.health.replicas.iter();
        let down = down.find(|replica| !replica.pod.ready && !replica.pod.deleting);
        let down = down.filter(|replica| !replica.pod.waits_at_gate());
        let back = down.map(|replica| way_back(replica.pod, &[], findings.observation));
        let back = back.unwrap_or_default();
        let message = format!("not up after {seconds} s: {}{back}", healthy.message);
        return yes(healthy.reason, message);
    }
    no(Reason::NotStalled, "nothing stands in the way")
}

/// A pod that cannot end, where all waits for that.
fn unending<'a>(findings: &Findings<'a>) -> Option<&'a Replica<'a>> {
    let set = findings.observation.stateful_set.as_ref()?;
    let target = findings.target.replicas;
    scale::waits_for_all(set, target, findings.haste)
        .then(|| step::unending(findings.observation, findings.health))
        .flatten()
}

fn reconciling(
    findings: &Findings<'_>,
    ready: &Verdict,
    rollout: &Verdict,
    stalled: &Verdict,
) -> Verdict {
    if findings.cluster.paused {
        return no(
            Reason::Paused,
            "paused: the operator observes and reports, and changes nothing",
        );
    }
    if stalled.status == Some(true) {
        return no(stalled.reason, "cannot go on without help: see Stalled");
    }
    if rollout.status == Some(false) {
        return yes(Reason::Progressing, &rollout.message);
    }
    if let Some(wait) = findings.scale_wait {
        let message = format!("the scale-down is waiting for {}", wait.message);
        return yes(Reason::Progressing, &message);
    }
    let set = findings.observation.stateful_set.as_ref();
    let waits = findings.database.allows == Allows::Wait || findings.database.may_be_failover();
    if set.is_none() && waits {
        return yes(Reason::Progressing, &findings.database.message);
    }
    let sized = set.is_some_and(|set| set.replicas == findings.target.replicas)
        || (set.is_none() && findings.target.replicas == 0);
    let replicas = usize::try_from(findings.target.replicas).unwrap_or(0);
    let ready_pods = findings.health.ready_pods();
    if !sized || ready_pods != replicas || findings.health.replicas.len() != replicas {
        return yes(Reason::Progressing, &ready.message);
    }
    no(Reason::Settled, "nothing is left to do")
}

fn exposed(findings: &Findings<'_>) -> Verdict {
    let ways = [
        ingress_way(findings),
        route_way(findings),
        service_way(findings),
    ];
    let ways: Vec<_> = ways.into_iter().flatten().collect();
    // With two ways in, the worse one is the news.
    let worst = ways.iter().min_by_key(|way| match way.status {
        Some(false) => 0,
        None => 1,
        Some(true) => 2,
    });
    let open = if findings.license.reason == Reason::AwaitingFirstSignUp {
        "; no one has signed up yet, and whoever does first becomes the admin"
    } else if findings.exposure_held && findings.observation.facts().is_none() {
        "; it stands already, so admin.createFirst does not hold it back, and the operator cannot see whether the first admin exists"
    } else {
        ""
    };
    let hidden = hidden_ways(findings);
    let Some(worst) = worst else {
        return no(
            Reason::IngressDisabled,
            format!(
                "neither ingress nor gateway is on, and the Service is reached from inside only: reach it some other way{open}{hidden}"
            ),
        );
    };
    let mut messages: Vec<_> = ways.iter().map(|way| way.message.as_str()).collect();
    // What is held back is held back for the same reason.
    messages.dedup();
    let message = format!("{}{open}{hidden}", messages.join("; "));
    Verdict::new(worst.status, worst.reason, message)
}

/// Ways in that the spec does not ask for, and of which the operator cannot see whether they stand.
fn hidden_ways(findings: &Findings<'_>) -> String {
    let Findings {
        cluster,
        observation,
        ..
    } = *findings;
    let unwanted = [
        (Kind::Ingress, cluster.ingress.is_none()),
        (Kind::HttpRoute, cluster.route.is_none()),
    ];
    let hidden = unwanted.into_iter().filter_map(|(kind, is_unwanted)| {
        let why = observation.unseen(kind).filter(|_| is_unwanted)?;
        Some(format!(
            "; an {kind} of an earlier spec may still stand: {why}"
        ))
    });
    hidden.collect()
}

/// A way in that is wanted, and of which the operator cannot see whether it stands. `way`: the one
/// of this kind.
fn hidden_way(findings: &Findings<'_>, kind: Kind, way: &str) -> Option<Verdict> {
    let why = findings.observation.unseen(kind)?;
    Some(unknown(
        Reason::CannotWatch,
        format!("whether the {kind} {way} works is not known: {why}"),
    ))
}

/// A way in that waits for the first admin.
fn awaits_admin(findings: &Findings<'_>) -> Verdict {
    let why = why_unseen(findings);
    let message =
        format!("no one is let in before the first admin exists and the license is installed{why}");
    no(Reason::AwaitingFirstAdmin, message)
}

/// A Service that lets users in by its type. Beside an Ingress or an HTTPRoute, by which users
/// come, it is worth a word only while it is held back.
fn service_way(findings: &Findings<'_>) -> Option<Verdict> {
    let Findings {
        cluster,
        observation,
        exposure_held,
        ..
    } = *findings;
    if !desired::service_exposes(cluster) {
        return None;
    }
    let stands = observation.service_way;
    // What stands is not taken away.
    if exposure_held && stands.is_none() {
        return Some(awaits_admin(findings));
    }
    if cluster.ingress.is_some() || cluster.route.is_some() {
        return None;
    }
    let name = &cluster.identity.name;
    if let Some(hidden) = hidden_way(findings, Kind::Service, name) {
        return Some(hidden);
    }
    Some(match (&cluster.service.reach, stands) {
        (ServiceReach::Nodes { .. }, Some(ServiceWay::Nodes)) => yes(
            Reason::ServiceReady,
            format!("the Service {name} is reached at a port of every node"),
        ),
        (ServiceReach::Balanced { .. }, Some(ServiceWay::Balanced { has_address: true })) => yes(
            Reason::ServiceReady,
            format!("the Service {name} has the address of a load balancer"),
        ),
        (ServiceReach::Balanced { .. }, Some(ServiceWay::Balanced { has_address: false })) => {
            unknown(
                Reason::ServicePending,
                format!(
                    "the Service {name} has no address yet: no load balancer has been made for it, or none is reported"
                ),
            )
        }
        _ => no(
            Reason::ServicePending,
            format!("the Service {name} is not yet there with the type of spec.service.type"),
        ),
    })
}

/// Why the operator cannot see whether the first admin exists, and so would wait for ever.
fn why_unseen(findings: &Findings<'_>) -> String {
    if findings.observation.facts().is_some() {
        return String::new();
    }
    let way_out = if matches!(findings.observation.database, DatabaseView::CannotRead) {
        "; or sign up by kubectl port-forward and take admin.createFirst out of the spec"
    } else {
        ""
    };
    format!(
        "; the operator cannot see whether there is one: {}{way_out}",
        findings.database.message
    )
}

fn ingress_way(findings: &Findings<'_>) -> Option<Verdict> {
    let host = &findings.cluster.ingress.as_ref()?.host;
    if let Some(hidden) = hidden_way(findings, Kind::Ingress, &format!("for {host}")) {
        return Some(hidden);
    }
    Some(match findings.observation.ingress_has_address {
        Some(true) => yes(
            Reason::IngressReady,
            format!("the Ingress for {host} has an address"),
        ),
        Some(false) => unknown(
            Reason::IngressPending,
            format!(
                "the Ingress for {host} has no address yet: its controller has not taken it up, or reports none"
            ),
        ),
        None if findings.exposure_held => awaits_admin(findings),
        None => no(
            Reason::IngressPending,
            format!("the Ingress for {host} is being made"),
        ),
    })
}

fn route_way(findings: &Findings<'_>) -> Option<Verdict> {
    let host = &findings.cluster.route.as_ref()?.host;
    let observation = findings.observation;
    if observation.kinds_not_installed.contains(&Kind::HttpRoute) {
        return Some(no(
            Reason::KindNotInstalled,
            Problem::kind_not_installed(Kind::HttpRoute).message,
        ));
    }
    if let Some(hidden) = hidden_way(findings, Kind::HttpRoute, &format!("for {host}")) {
        return Some(hidden);
    }
    Some(match &observation.route {
        Some(RouteView::Accepted) => yes(
            Reason::RouteAccepted,
            format!("the HTTPRoute for {host} is accepted"),
        ),
        Some(RouteView::Refused(why)) => no(
            Reason::RouteRefused,
            format!("the HTTPRoute for {host} leads nowhere: {why}"),
        ),
        Some(RouteView::Pending) => unknown(
            Reason::RoutePending,
            format!(
                "the HTTPRoute for {host} is not taken up yet: check that gateway.parentRefs names Gateways that exist and have a controller"
            ),
        ),
        None if findings.exposure_held => awaits_admin(findings),
        None => no(
            Reason::RoutePending,
            format!("the HTTPRoute for {host} is being made"),
        ),
    })
}

/// Where the cluster stands, in one word for users.
pub fn phase(findings: &Findings<'_>, conditions: &[ConditionDraft]) -> Phase {
    let of = |type_| conditions.iter().find(|condition| condition.type_ == type_);
    let is = |type_, status| of(type_).is_some_and(|condition| condition.status == Some(status));
    let set = findings.observation.stateful_set.as_ref();
    if findings.cluster.paused {
        Phase::Paused
    } else if is(ConditionType::Stalled, true) {
        Phase::Stalled
    } else if findings.cluster.replicas == 0 {
        if findings.health.replicas.is_empty() {
            Phase::Stopped
        } else {
            Phase::Scaling
        }
    } else if findings.target.held_back.is_none()
        && is(ConditionType::Ready, true)
        && is(ConditionType::RolloutComplete, true)
    {
        Phase::Ready
    } else if set.is_none() || findings.health.replicas.is_empty() {
        Phase::Pending
    } else if !matches!(findings.rollout.step, Step::Done) {
        Phase::Rolling
    } else if set.is_some_and(|set| set.replicas != findings.target.replicas)
        || usize::try_from(findings.target.replicas)
            .is_ok_and(|target| target != findings.health.replicas.len())
    {
        Phase::Scaling
    } else if findings.target.held_back.is_some() && is(ConditionType::ReplicasHealthy, true) {
        Phase::Limited
    } else if findings
        .observation
        .pods
        .iter()
        .any(|pod| !pod.ready && pod.trouble.is_none() && pod.restarts == 0)
    {
        Phase::Starting
    } else {
        Phase::Degraded
    }
}
