//! Conditions and phase: what the findings mean to people.

use super::database::{Allows, DatabaseVerdict};
use super::health::{Health, Replica, lasting_refusal};
use super::license::{self, LicenseVerdict};
use super::maintenance::Stage;
use super::plan::ConditionDraft;
use super::replicas::Target;
use super::rollout::{Rollout, Step, Wait, describe};
use crate::api::spec::Enforcement;
use crate::api::status::{HeartbeatState, Phase};
use crate::api::{ConditionType, Reason};
use crate::desired;
use crate::kubernetes::Kind;
use crate::observation::{DatabaseView, Observation, PodTrouble, RouteView};
use crate::validate::{Problem, ValidCluster, Validation};

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
    /// Gate.
    pub target: &'a Target,
    /// Roll.
    pub rollout: &'a Rollout,
    /// Where a rollout with downtime stands.
    pub stage: Stage,
    /// What a scale-down waits for.
    pub scale_wait: Option<&'a Wait>,
    /// Ingress and HTTPRoute wait for the first admin.
    pub exposure_held: bool,
}

/// All conditions but `ConfigurationValid`.
pub fn all(findings: &Findings<'_>) -> Vec<ConditionDraft> {
    let healthy = replicas_healthy(findings);
    let ready = ready(findings, &healthy);
    let rollout = rollout(findings);
    let stalled = stalled(findings, &rollout, &healthy);
    let reconciling = reconciling(findings, &ready, &rollout, &stalled);
    vec![
        ready,
        reconciling,
        stalled,
        database_ready(findings.database),
        ha_licensed(findings),
        healthy,
        rollout,
        exposed(findings),
    ]
}

fn database_ready(database: &DatabaseVerdict) -> ConditionDraft {
    ConditionDraft::new(
        ConditionType::DatabaseReady,
        database.status,
        database.reason,
        &database.message,
    )
}

/// `ConfigurationValid`, from every problem at once.
pub fn configuration(
    problems: &[Problem],
    warnings: &[String],
    ends_soon: Option<&String>,
) -> ConditionDraft {
    let of = |status, reason, message: String| {
        ConditionDraft::new(
            ConditionType::ConfigurationValid,
            Some(status),
            reason,
            message,
        )
    };
    match problems.first() {
        Some(first) => of(
            false,
            first.reason,
            problems
                .iter()
                .map(|problem| format!("{}: {}", problem.field, problem.message))
                .collect::<Vec<_>>()
                .join("; "),
        ),
        None if ends_soon.is_some() => of(
            true,
            Reason::CertificateEndsSoon,
            ends_soon
                .into_iter()
                .chain(warnings)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join("; "),
        ),
        None if warnings.is_empty() => of(
            true,
            Reason::Valid,
            "the spec and everything it names can be used".to_owned(),
        ),
        None => of(true, Reason::ValidWithWarnings, warnings.join("; ")),
    }
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
    let message = format!(
        "nothing is changed until the configuration is corrected: {}{gate}",
        configuration.message
    );
    let unchecked = |type_| {
        ConditionDraft::new(
            type_,
            None,
            Reason::InvalidConfiguration,
            "not checked while the configuration cannot be used",
        )
    };
    let licensed = license.allows.status();
    vec![
        ConditionDraft::new(
            ConditionType::Ready,
            Some(false),
            Reason::InvalidConfiguration,
            &message,
        ),
        ConditionDraft::new(
            ConditionType::Reconciling,
            Some(false),
            Reason::InvalidConfiguration,
            "waiting for a change of the spec or of what it names",
        ),
        ConditionDraft::new(
            ConditionType::Stalled,
            Some(true),
            Reason::InvalidConfiguration,
            message,
        ),
        match (database, &observation.remembered.refusal) {
            (Some(database), _) => database_ready(database),
            // A refusal stands until a good reading takes it back.
            (None, Some(refusal)) => ConditionDraft::new(
                ConditionType::DatabaseReady,
                Some(false),
                refusal.reason,
                &refusal.message,
            ),
            (None, None) => unchecked(ConditionType::DatabaseReady),
        },
        ConditionDraft::new(
            ConditionType::HaLicensed,
            licensed,
            license.reason,
            &license.message,
        ),
        unchecked(ConditionType::ReplicasHealthy),
        unchecked(ConditionType::RolloutComplete),
        unchecked(ConditionType::Exposed),
        configuration,
    ]
}

fn replicas_healthy(findings: &Findings<'_>) -> ConditionDraft {
    let health = findings.health;
    let of = |status, reason, message: String| {
        ConditionDraft::new(ConditionType::ReplicasHealthy, status, reason, message)
    };
    let strangers = health.strangers(findings.observation);
    if strangers > 0 {
        return of(
            Some(false),
            Reason::ForeignReplica,
            format!(
                "replicas that do not belong to this cluster send heartbeats to its database ({strangers} of them): find out who else uses {} and stop it, since they count towards the license",
                findings.cluster.database.replicas.identity_hint()
            ),
        );
    }
    if let Some(refused) = lasting_refusal(findings.observation) {
        return of(
            Some(false),
            Reason::PodCreationFailed,
            format!("Kubernetes refuses to make a pod: {}", refused.message),
        );
    }
    if health.replicas.is_empty() {
        return if findings.cluster.replicas == 0 {
            of(
                Some(true),
                Reason::NoReplicas,
                "no replica is wanted".to_owned(),
            )
        } else {
            of(
                Some(false),
                Reason::ReplicaNotReady,
                "no pod exists yet".to_owned(),
            )
        };
    }
    let mut trouble: Vec<_> = health
        .replicas
        .iter()
        .filter(|replica| !health.serves(replica, findings.observation))
        .map(|replica| (reason_of(replica), replica))
        .collect();
    // What a person can mend comes first.
    trouble.sort_by_key(|(reason, _)| severity(*reason));
    let Some((reason, _)) = trouble.first() else {
        return of(
            Some(true),
            Reason::AllReplicasHealthy,
            format!(
                "all replicas that run are Ready and send heartbeats ({})",
                health.replicas.len()
            ),
        );
    };
    let only_unknown = trouble
        .iter()
        .all(|(reason, _)| *reason == Reason::HeartbeatsUnknown);
    let list = trouble
        .iter()
        .map(|(_, replica)| format!("{}: {}", replica.pod.name, describe(replica)))
        .collect::<Vec<_>>()
        .join("; ");
    of(
        (!only_unknown).then_some(false),
        *reason,
        format!("{list}{}", why_no_beat(findings.database, &trouble)),
    )
}

/// A database that accepts no writes explains why replicas do not beat.
fn why_no_beat(database: &DatabaseVerdict, trouble: &[(Reason, &Replica<'_>)]) -> String {
    let silent = trouble
        .iter()
        .any(|(reason, _)| matches!(reason, Reason::HeartbeatStale | Reason::HeartbeatMissing));
    if silent && database.status == Some(false) {
        format!("; the database explains it: {}", database.message)
    } else {
        String::new()
    }
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

fn ready(findings: &Findings<'_>, healthy: &ConditionDraft) -> ConditionDraft {
    let of = |status, reason, message: String| {
        ConditionDraft::new(ConditionType::Ready, status, reason, message)
    };
    let wanted = findings.cluster.replicas;
    if wanted == 0 {
        return of(
            Some(false),
            Reason::ScaledToZero,
            "replicas is 0: the cluster is stopped".to_owned(),
        );
    }
    if let Some((reason, message)) = &findings.target.held_back {
        return of(Some(false), *reason, held_back(findings, message));
    }
    let health = findings.health;
    let serving = health
        .replicas
        .iter()
        .filter(|replica| health.serves(replica, findings.observation))
        .count();
    let enough = usize::try_from(wanted).is_ok_and(|wanted| serving >= wanted);
    let ready_pods = health
        .replicas
        .iter()
        .filter(|replica| replica.pod.ready && !replica.pod.deleting)
        .count();
    if enough && !health.readable {
        // Only where heartbeats can never be read does a Ready pod count as serving; to call that
        // Ready would claim what nobody saw.
        return of(
            None,
            Reason::HeartbeatsUnknown,
            format!(
                "{serving} pods are Ready, but the operator cannot read their heartbeats: set database.monitorSecretRef"
            ),
        );
    }
    if enough {
        return of(
            Some(true),
            Reason::AllReplicasActive,
            format!("{serving} of {wanted} replicas are Ready and send heartbeats"),
        );
    }
    if !health.readable && usize::try_from(wanted).is_ok_and(|wanted| ready_pods >= wanted) {
        return of(
            None,
            Reason::HeartbeatsUnknown,
            format!(
                "{ready_pods} pods are Ready, but their heartbeats cannot be read: {}",
                findings.database.message
            ),
        );
    }
    of(
        Some(false),
        Reason::ReplicasNotReady,
        format!(
            "{serving} of {wanted} replicas are Ready and send heartbeats; {}",
            healthy.message
        ),
    )
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
        format!("{present}, {wanted} are wanted, and the number goes down to {target}: {message}")
    } else {
        format!("{target} of {wanted} wanted replicas run: {message}")
    }
}

fn ha_licensed(findings: &Findings<'_>) -> ConditionDraft {
    let LicenseVerdict {
        allows,
        reason,
        message,
        ..
    } = findings.license;
    let status = allows.status();
    let failure = findings
        .observation
        .call_failure
        .as_ref()
        .filter(|_| status != Some(true));
    if let Some(failure) = failure {
        return ConditionDraft::new(
            ConditionType::HaLicensed,
            status,
            Reason::LicenseInstallFailed,
            format!("{message}; the last try failed: {}", failure.message),
        );
    }
    if findings.cluster.license.enforcement == Enforcement::Warn
        && status != Some(true)
        && findings.cluster.replicas > 1
    {
        let warning = "enforcement is Warn, so all replicas run all the same: without an HA license Bytebase skips work and fails queued tasks after ten minutes";
        return ConditionDraft::new(
            ConditionType::HaLicensed,
            status,
            Reason::LicenseNotEnforced,
            format!("{message}; {warning}"),
        );
    }
    let running = findings.health.replicas.len();
    if findings.cluster.paused && status == Some(false) && running > 1 {
        return ConditionDraft::new(
            ConditionType::HaLicensed,
            status,
            *reason,
            format!(
                "{message}; {running} replicas run all the same, since spec.paused keeps the operator from going down to one: Bytebase skips work and fails queued tasks after ten minutes"
            ),
        );
    }
    ConditionDraft::new(ConditionType::HaLicensed, status, *reason, message)
}

fn rollout(findings: &Findings<'_>) -> ConditionDraft {
    let (done, reason, message) = findings.rollout.condition();
    ConditionDraft::new(ConditionType::RolloutComplete, Some(done), reason, message)
}

fn stalled(
    findings: &Findings<'_>,
    rollout: &ConditionDraft,
    healthy: &ConditionDraft,
) -> ConditionDraft {
    let of = |status, reason, message: String| {
        ConditionDraft::new(ConditionType::Stalled, Some(status), reason, message)
    };
    if matches!(
        rollout.reason,
        Reason::RolloutStalled | Reason::DowngradeRefused
    ) {
        return of(true, rollout.reason, rollout.message.clone());
    }
    if findings.database.status == Some(false) {
        return of(
            true,
            findings.database.reason,
            findings.database.message.clone(),
        );
    }
    // A roll has a say of its own on how long a replica may take.
    let timeout = findings.cluster.rollout.ready_timeout;
    let late = findings.health.late_at(findings.observation, timeout);
    let is_late = late.is_some_and(|late| late <= findings.observation.now);
    if is_late && rollout.reason == Reason::RolloutDone && healthy.status == Some(false) {
        let seconds = timeout.as_secs();
        let message = format!("not up after {seconds} s: {}", healthy.message);
        return of(true, healthy.reason, message);
    }
    of(
        false,
        Reason::NotStalled,
        "nothing stands in the way".to_owned(),
    )
}

fn reconciling(
    findings: &Findings<'_>,
    ready: &ConditionDraft,
    rollout: &ConditionDraft,
    stalled: &ConditionDraft,
) -> ConditionDraft {
    let of = |status, reason, message: &str| {
        ConditionDraft::new(ConditionType::Reconciling, Some(status), reason, message)
    };
    if findings.cluster.paused {
        return of(
            false,
            Reason::Paused,
            "paused: the operator observes and reports, and changes nothing",
        );
    }
    if stalled.status == Some(true) {
        return of(
            false,
            stalled.reason,
            "cannot go on without help: see Stalled",
        );
    }
    if rollout.status == Some(false) {
        return of(true, Reason::Progressing, &rollout.message);
    }
    if let Some(wait) = findings.scale_wait {
        let message = format!("the scale-down is waiting for {}", wait.message);
        return of(true, Reason::Progressing, &message);
    }
    let set = findings.observation.stateful_set.as_ref();
    if set.is_none() && findings.database.allows == Allows::Wait {
        return of(true, Reason::Progressing, &findings.database.message);
    }
    let sized = set.is_some_and(|set| set.replicas == findings.target.replicas)
        || (set.is_none() && findings.target.replicas == 0);
    let replicas = usize::try_from(findings.target.replicas).unwrap_or(0);
    let serving = findings
        .health
        .replicas
        .iter()
        .filter(|replica| replica.pod.ready && !replica.pod.deleting)
        .count();
    if !sized || serving != replicas || findings.health.replicas.len() != replicas {
        return of(true, Reason::Progressing, &ready.message);
    }
    of(false, Reason::Settled, "nothing is left to do")
}

fn exposed(findings: &Findings<'_>) -> ConditionDraft {
    let of = |status, reason, message: String| {
        ConditionDraft::new(ConditionType::Exposed, status, reason, message)
    };
    let ways: Vec<_> = [ingress_way(findings), route_way(findings)]
        .into_iter()
        .flatten()
        .collect();
    // With two ways in, the worse one is the news.
    let worst = ways.iter().min_by_key(|(status, ..)| match status {
        Some(false) => 0,
        None => 1,
        Some(true) => 2,
    });
    let exposes = !ways.is_empty() || desired::service_exposes(findings.cluster);
    if findings.exposure_held && exposes {
        return of(
            Some(false),
            Reason::AwaitingFirstAdmin,
            format!(
                "no one is let in before the first admin exists and the license is installed{}",
                why_unseen(findings)
            ),
        );
    }
    let Some((status, reason, _)) = worst.cloned() else {
        return of(
            Some(false),
            Reason::IngressDisabled,
            "neither ingress nor gateway is on: reach the Service some other way".to_owned(),
        );
    };
    let open = if findings.license.reason == Reason::AwaitingFirstSignUp {
        "; no one has signed up yet, and whoever does first becomes the admin"
    } else {
        ""
    };
    let messages: Vec<_> = ways.into_iter().map(|(.., message)| message).collect();
    of(status, reason, format!("{}{open}", messages.join("; ")))
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

type Way = (Option<bool>, Reason, String);

fn ingress_way(findings: &Findings<'_>) -> Option<Way> {
    let host = &findings.cluster.ingress.as_ref()?.host;
    Some(match findings.observation.ingress_has_address {
        Some(true) => (
            Some(true),
            Reason::IngressReady,
            format!("the Ingress for {host} has an address"),
        ),
        Some(false) => (
            None,
            Reason::IngressPending,
            format!(
                "the Ingress for {host} has no address yet: its controller has not taken it up, or reports none"
            ),
        ),
        None => (
            Some(false),
            Reason::IngressPending,
            format!("the Ingress for {host} is being made"),
        ),
    })
}

fn route_way(findings: &Findings<'_>) -> Option<Way> {
    let host = &findings.cluster.route.as_ref()?.host;
    let observation = findings.observation;
    if observation.kinds_not_installed.contains(&Kind::HttpRoute) {
        return Some((
            Some(false),
            Reason::KindNotInstalled,
            Problem::kind_not_installed(Kind::HttpRoute).message,
        ));
    }
    Some(match &observation.route {
        Some(RouteView::Accepted) => (
            Some(true),
            Reason::RouteAccepted,
            format!("the HTTPRoute for {host} is accepted"),
        ),
        Some(RouteView::Refused(why)) => (
            Some(false),
            Reason::RouteRefused,
            format!("the HTTPRoute for {host} leads nowhere: {why}"),
        ),
        Some(RouteView::Pending) => (
            None,
            Reason::RoutePending,
            format!(
                "the HTTPRoute for {host} is not taken up yet: check that gateway.parentRefs names Gateways that exist and have a controller"
            ),
        ),
        None => (
            Some(false),
            Reason::RoutePending,
            format!("the HTTPRoute for {host} is being made"),
        ),
    })
}

/// One word for people.
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
    } else if is(ConditionType::Ready, true) && is(ConditionType::RolloutComplete, true) {
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
