//! Which objects should stand.

use super::Settings;
use super::conditions::Findings;
use super::plan::Size;
use super::rollout::Rollout;
use crate::api::Reason;
use crate::api::spec::Enforcement;
use crate::contract::external_url::ExternalUrl;
use crate::decide::rollout::maintenance::Stage;
use crate::decide::rollout::step::Step;
use crate::decide::size;
use crate::decide::size::license::{self, LicenseVerdict};
use crate::decide::size::scale::{self, Haste};
use crate::desired::spot;
use crate::desired::template::{self, Template};
use crate::desired::{self, DesiredObject, Doors};
use crate::kubernetes::Kind;
use crate::observation::{Fact, Observation, PodView, StatefulSetView, StoredLicense};
use crate::validate::{Problem, ValidCluster, ValidServiceAccount};
use jiff::SignedDuration;
use std::collections::BTreeSet;

/// The pod template that should stand.
pub(super) fn template(
    cluster: &ValidCluster,
    settings: &Settings,
    observation: &Observation,
) -> Result<Template, Problem> {
    let set = observation.stateful_set.as_ref();
    let additions = set.map(|set| template::additions_in(&set.template));
    let standing = template::Standing {
        live: set.map(|set| &set.template),
        additions: additions.unwrap_or_default(),
        digest: set.and_then(|set| set.template_digest.as_deref()),
    };
    template::template(cluster, settings.own_image.as_deref(), standing)
        .map_err(Problem::pod_template)
}

#[derive(Default)]
pub(super) struct Desired {
    pub(super) objects: Vec<DesiredObject>,
    /// Kinds that are no longer wanted.
    pub(super) prune: Vec<Kind>,
    /// Kinds that the spec asks for and the Kubernetes cluster lacks.
    pub(super) not_installed: Vec<Kind>,
    /// What the pods lack, and what comes of how they end.
    pub(super) warnings: Vec<String>,
    /// The size to which the license gate takes the StatefulSet.
    pub(super) gate_size: Option<Size>,
}

/// What should stand. The StatefulSet is left out until the first reading has ended, and keeps its
/// present template while the new one would start replicas that are known to fail or to break the
/// schema.
pub(super) fn objects(
    findings: &Findings<'_>,
    settings: &Settings,
    template: Template,
    held: bool,
) -> Desired {
    let Findings {
        cluster,
        observation,
        stage,
        exposure_held,
        ..
    } = *findings;
    let set = observation.stateful_set.as_ref();
    let own = settings.own_image.as_deref();
    let standing = set.and_then(|set| set.template_digest.as_deref());
    let warnings = template::warning(cluster, own, standing, &template)
        .into_iter()
        .chain(spot::warning(&template.value))
        .chain(cluster.pods.overlay.as_ref().and_then(desired::emptied))
        .chain(early_gate(findings, settings))
        .chain(unseen(observation));
    let warnings = warnings.collect();
    let size = next_size(findings);
    // The gate leaves one, whatever else wants none.
    let shrinks = |set: &&StatefulSetView| (1..set.replicas).contains(&size.replicas);
    let gate_size = set.filter(shrinks).map(|_| size);
    let gate_size = gate_size.filter(|_| findings.haste != Haste::Orderly);
    let keeps_template = held || stage.keeps_template();
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
    let doors = if exposure_held && observation.service_way.is_none() {
        Doors::Closed
    } else {
        Doors::AsWanted
    };
    let mut wanted = desired::companions(cluster, settings.operator_namespace.as_deref(), doors);
    for object in &mut wanted {
        for host in left_hosts(object.kind, findings) {
            desired::lead_in_from(object, &host);
        }
    }
    let is_needed = |kind| kind == Kind::ServiceAccount && needs_account(cluster, observation);
    let is_unwanted = |kind| wanted.iter().all(|object| object.kind != kind);
    let prune = Kind::owned()
        .rev()
        .filter(|kind| kind.is_prunable() && is_unwanted(*kind) && !is_needed(*kind))
        .collect();
    let is_lacking =
        |object: &DesiredObject| observation.kinds_not_installed.contains(&object.kind);
    let not_installed = wanted.iter().filter(|object| is_lacking(object));
    let not_installed = not_installed.map(|object| object.kind).rev().collect();
    let mut objects: Vec<_> = wanted
        .into_iter()
        .chain(stateful_set)
        .filter(|object| !is_lacking(object))
        // What stands already is not taken away.
        .filter(|object| {
            let kind = object.kind;
            !exposure_held || !kind.exposes() || way_in_stands(kind, observation)
        })
        .collect();
    // Kinds are listed in the order in which they are applied.
    objects.sort_by_key(|object| object.kind);
    Desired {
        objects,
        prune,
        not_installed,
        warnings,
        gate_size,
    }
}

/// The size that the StatefulSet should have next.
fn next_size(findings: &Findings<'_>) -> Size {
    let Findings {
        observation,
        health,
        target,
        stage,
        ..
    } = *findings;
    let replicas = stage.limit(target.replicas);
    let Some(set) = &observation.stateful_set else {
        return Size { start: 0, replicas };
    };
    let (replicas, haste) = match stage {
        // The license does not wait for what holds up the end of the last one.
        Stage::Stop if findings.haste != Haste::Orderly && set.replicas > 1 => (1, findings.haste),
        // Whatever holds the number of replicas back, this is no doing of the license gate.
        Stage::Stop => (replicas, Haste::Orderly),
        Stage::Idle | Stage::Finish | Stage::First if findings.keeps_size => {
            return set.size();
        }
        Stage::Idle | Stage::Finish | Stage::First => (replicas, findings.haste),
    };
    scale::next_size(set, replicas, haste, observation, health)
}

/// Whether the object of a kind that lets users in from outside stands; a test sees to it that none
/// of these kinds is forgotten. Of the others nobody asks.
fn way_in_stands(kind: Kind, observation: &Observation) -> bool {
    match kind {
        Kind::Ingress => observation.ingress_has_address.is_some(),
        Kind::HttpRoute => observation.route.is_some(),
        _ => false,
    }
}

/// Hosts of the external URLs that are being left. As long as replicas may have been started with
/// one they send there whoever logs in by an identity provider, so it goes on leading in where it
/// does, or may: what no watch shows may have it. There are several where the URL has changed again
/// before the last replica left the first one.
fn left_hosts(kind: Kind, findings: &Findings<'_>) -> BTreeSet<String> {
    let Findings {
        cluster,
        observation,
        rollout,
        ..
    } = *findings;
    let pods = observation.pods.iter();
    let started_with = pods.filter_map(|pod| pod.external_url.as_deref());
    // Of this template one may just have been made that no watch shows yet.
    let set = observation.stateful_set.as_ref();
    let stands = set.and_then(|set| desired::external_url(&set.template));
    let urls = started_with.chain(stands);
    let urls = urls.chain([reported_url(cluster, rollout, observation)]);
    let leads_in = |host: &String| {
        observation.exposed_hosts.contains(host) || observation.unseen(kind).is_some()
    };
    urls.filter_map(|url| ExternalUrl::parse(url).ok())
        .map(|url| url.host().to_owned())
        .filter(|host| host != cluster.url.host() && leads_in(host))
        .collect()
}

/// The external URL for status: during a rollout the one that is being left.
pub(super) fn reported_url<'a>(
    cluster: &'a ValidCluster,
    rollout: &Rollout,
    observation: &'a Observation,
) -> &'a str {
    let before = observation.remembered.url.as_deref();
    let before = before.filter(|_| rollout.step != Step::Done);
    before.unwrap_or(cluster.url.as_str())
}

/// What of the cluster's objects no watch shows.
fn unseen(observation: &Observation) -> impl Iterator<Item = String> {
    let kinds = observation.kinds_unseen.iter();
    kinds.map(|(_, why)| {
        format!("{why}. Until then it reads this cluster's own by their names, about once a minute")
    })
}

/// Whether pods run, or would be made, under the ServiceAccount of the cluster's own. Without it
/// none of them could be made again.
fn needs_account(cluster: &ValidCluster, observation: &Observation) -> bool {
    // As a user's own that one stays, whoever made it.
    if matches!(&cluster.service_account, ValidServiceAccount::Existing(name) if *name == *cluster.identity.name)
    {
        return true;
    }
    let Some(set) = &observation.stateful_set else {
        return !observation.pods.is_empty();
    };
    let stands = &set.template["spec"]["serviceAccountName"];
    let is_old = |pod: &PodView| !set.settled || pod.revision != set.update_revision;
    *stands == *cluster.identity.name || observation.pods.iter().any(is_old)
}

/// The first person who signs up becomes the admin, so with `createFirst` no one is let in before
/// that is done.
pub(super) fn exposure_held(
    cluster: &ValidCluster,
    observation: &Observation,
    license: &LicenseVerdict,
) -> bool {
    let create_first = cluster
        .admin
        .as_ref()
        .is_some_and(|admin| admin.create_first);
    let remembered = &observation.remembered;
    let read = observation.last_facts.as_ref();
    let read = read.and_then(|(_, facts)| match facts.license {
        Fact::Known(StoredLicense::Absent { .. } | StoredLicense::Present { .. }) => Some(true),
        Fact::Known(StoredLicense::NoWorkspace) | Fact::Absent => Some(false),
        Fact::Unknown => None,
    });
    // Else as an earlier process read it.
    let workspace = read.unwrap_or_else(|| {
        remembered.license.is_some() || remembered.unlicensed.is_some_and(proves_workspace)
    });
    create_first && (!workspace || license.reason == Reason::LicenseNotInstalled)
}

/// Whether status says this of a license only where there is a workspace. That the license is not
/// enforced, or that a call to Bytebase failed, it says of a Bytebase in which no one has signed up
/// as well.
fn proves_workspace(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::LicenseMissing
            | Reason::LicenseWithoutHa
            | Reason::LicenseExpiring
            | Reason::LicenseExpired
            | Reason::LicenseNotYetValid
            | Reason::LicenseOtherWorkspace
            | Reason::LicenseInvalid
    )
}

/// A guard interval that is longer than this is more than users expect.
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
    let guard = size::guard(settings, cluster.replicas, observation);
    (ends && acts && guard > EARLY).then(|| {
        format!(
            "spec.rollout.drainTimeoutSeconds: one replica after the other may use its whole drain before the license ends, so the operator goes down to one replica {} before: shorten the drain, or renew the license earlier",
            license::in_words(guard)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observation::RouteView;
    use crate::testing::{healthy, stored};
    use serde_json::json;
    use strum::IntoEnumIterator as _;

    #[test]
    fn of_each_kind_that_lets_users_in_it_is_seen_whether_its_object_stands() {
        let mut nothing = healthy(3, stored(&json!({})));
        nothing.ingress_has_address = None;
        nothing.route = None;
        let mut everything = nothing.clone();
        everything.ingress_has_address = Some(false);
        everything.route = Some(RouteView::Pending);
        for kind in Kind::iter() {
            assert!(!way_in_stands(kind, &nothing), "{kind}");
            assert_eq!(way_in_stands(kind, &everything), kind.exposes(), "{kind}");
        }
    }
}
