//! From what a user wrote, and the Secrets it names, to a [`ValidCluster`] that the builders accept
//! — or every problem at once.
//!
//! Pure: what was fetched comes in as [`References`]. Every rule that admission checks is checked
//! here again, so that nothing rests on admission.

mod companions;
mod database;
mod diagnostics;
mod exposure;
mod image;
mod license;
mod metadata;
mod pods;
mod references;
pub(crate) mod reminders;
mod secrets;
mod service;
#[cfg(test)]
mod tests;

pub use companions::{ValidNetworkPolicy, ValidServiceAccount, ValidServiceMonitor};
pub use database::{CA_DIRECTORY, CA_PATH, CaSource, UrlSource, ValidDatabase};
pub use diagnostics::Problem;
pub use exposure::{ValidIngress, ValidRoute};
pub use image::Image;
pub use license::{SecretLicense, ValidAdmin, ValidLicense, read_license};
pub use metadata::{
    Annotations, Labels, MetadataError, ValidMetadata, is_in_own_domain, is_own_label,
};
pub use pods::{
    DRAIN_DIRECTORY, DRAIN_LOGIN_DIRECTORY, DrainTerms, LEAKING_ENV, RESERVED_VOLUMES,
    SHUTDOWN_SECONDS, ValidDrain, ValidPods, ValidRollout,
};
pub use references::{Fetched, References, wanted_references};
pub use secrets::known_secrets;
pub use service::{
    Cidr, CidrError, DualStack, IpFamilies, LoadBalancerClass, ServiceReach, ValidService,
};

use crate::api::spec::{Enforcement, MOST_REPLICAS};
use crate::api::{BytebaseCluster, BytebaseClusterSpec};
use crate::contract::external_url::ExternalUrl;
use crate::contract::license::LicenseKey;
use crate::kubernetes::is_garbage_collectors;
use diagnostics::Diagnostics;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource as _, ResourceExt as _};

/// What `validate` says.
#[derive(Debug)]
pub struct Validation {
    /// The cluster, if nothing blocks.
    pub cluster: Option<ValidCluster>,
    /// Every problem, blocking or not.
    pub problems: Vec<Problem>,
    /// Remarks on what is accepted.
    pub warnings: Vec<String>,
    /// Something that is in order and ends soon; said in other words at each reminder only.
    pub ends_soon: Option<String>,
    /// When the last valid certificate of the CA bundle ends, to the second.
    pub ca_ends: Option<Timestamp>,
    /// When something in here changes without anybody changing anything: a certificate ends.
    pub changes_at: Option<Timestamp>,
    /// The database, if that part can be used: it is read on while another part cannot.
    pub database: Option<ValidDatabase>,
    /// What the license gate must know, whether the spec can be used or not.
    pub gate: GateTerms,
    /// The cluster is being deleted, which blocks.
    pub is_deleted: bool,
    /// It has a finalizer of another party, which may hold its deletion up.
    pub is_held: bool,
}

/// What the license gate must know of a spec that cannot be used.
#[derive(Clone, Copy, Debug)]
pub struct GateTerms {
    /// `spec.replicas`, whatever it is.
    pub wanted: i32,
    /// `spec.license.enforcement`.
    pub enforcement: Enforcement,
    /// `spec.paused`.
    pub paused: bool,
}

/// A cluster that can be built: every value is of a type that Bytebase and Kubernetes accept.
#[derive(Clone, Debug)]
pub struct ValidCluster {
    /// Who and where.
    pub identity: Identity,
    /// What to run.
    pub image: Image,
    /// Wanted replicas.
    pub replicas: i32,
    /// The one URL.
    pub url: ExternalUrl,
    /// The metadata database.
    pub database: ValidDatabase,
    /// The license from the Secret.
    pub license: ValidLicense,
    /// What the operator does as a workspace admin, if it is given a login.
    pub admin: Option<ValidAdmin>,
    /// The client Service.
    pub service: ValidService,
    /// The Ingress, if wanted.
    pub ingress: Option<ValidIngress>,
    /// The HTTPRoute, if wanted.
    pub route: Option<ValidRoute>,
    /// Labels and annotations of every object.
    pub metadata: ValidMetadata,
    /// What passes through to the pods.
    pub pods: ValidPods,
    /// The identity of the pods.
    pub service_account: ValidServiceAccount,
    /// How pods start and end.
    pub rollout: ValidRollout,
    /// Whether there is a PodDisruptionBudget.
    pub disruption_budget: bool,
    /// The NetworkPolicy, if wanted.
    pub network_policy: Option<ValidNetworkPolicy>,
    /// The ServiceMonitor, if wanted.
    pub service_monitor: Option<ValidServiceMonitor>,
    /// Whether to observe and report only.
    pub paused: bool,
}

/// Name, namespace and uid of the custom resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// Also the name of its objects.
    pub name: String,
    /// Namespace of it and its objects.
    pub namespace: String,
    /// The owner reference its objects carry.
    pub owner: OwnerReference,
}

/// Checks one cluster as of `now`. `key` verifies the signature of licenses, where the operator was
/// given one.
pub fn validate(
    cluster: &BytebaseCluster,
    references: &References,
    key: Option<&LicenseKey>,
    now: Timestamp,
) -> Validation {
    let mut diagnostics = Diagnostics::default();
    let is_deleted = cluster.metadata.deletion_timestamp.is_some();
    let mut finalizers = cluster.finalizers().iter();
    let is_held = finalizers.any(|finalizer| !is_garbage_collectors(finalizer));
    if is_deleted {
        diagnostics.problems.push(Problem::being_deleted(is_held));
    }
    let spec = &cluster.spec;
    let identity = identity(cluster, &mut diagnostics);
    let image = image::validate(&spec.version, spec.image.as_ref(), &mut diagnostics);
    if !(0..=MOST_REPLICAS).contains(&spec.replicas) {
        let range = format!("must be between 0 and {MOST_REPLICAS}");
        diagnostics.invalid("spec.replicas", range);
    }
    let url = external_url(&spec.external_url, &mut diagnostics);
    let version = image.as_ref().and_then(|image| image.version);
    let database = database::validate(&spec.database, version, references, now, &mut diagnostics);
    let license = license::validate(spec.license.as_ref(), references, key, &mut diagnostics);
    let admin = spec
        .admin
        .as_ref()
        .map(|spec| license::admin(spec, references, &mut diagnostics));
    let ingress = exposure::ingress(spec, url.as_ref(), &mut diagnostics);
    let route = exposure::route(spec, url.as_ref(), &mut diagnostics);
    let service = service::validate(spec.service.as_ref(), &mut diagnostics);
    let network_policy = spec.network_policy.as_ref();
    let network_policy = companions::network_policy(network_policy, &mut diagnostics);
    let service_monitor = companions::service_monitor(spec.monitoring.as_ref(), &mut diagnostics);
    let rollout = pods::rollout(spec.rollout.as_ref(), &mut diagnostics);
    let pods = pods::validate(spec, &mut diagnostics);
    let metadata = metadata::validate(spec, &mut diagnostics);

    diagnostics.unreadable(&spec.unreadable);
    let Diagnostics {
        problems,
        warnings,
        ends_soon,
        ca_ends,
        changes_at,
    } = diagnostics;
    let blocked = problems.iter().any(|problem| problem.blocking);
    let usable_database = database.clone();
    let cluster = match (identity, image, url, database) {
        (Some(identity), Some(image), Some(url), Some(database)) if !blocked => {
            Some(ValidCluster {
                identity,
                image,
                replicas: spec.replicas,
                url,
                database,
                license,
                admin,
                service,
                ingress,
                route,
                metadata,
                pods,
                service_account: companions::service_account(spec.service_account.as_ref()),
                rollout,
                disruption_budget: spec
                    .disruption_budget
                    .as_ref()
                    .is_none_or(|budget| budget.enabled),
                network_policy,
                service_monitor,
                paused: spec.paused,
            })
        }
        _ => None,
    };
    Validation {
        cluster,
        problems,
        warnings,
        ends_soon,
        ca_ends,
        changes_at,
        database: usable_database,
        gate: GateTerms::of(spec),
        is_deleted,
        is_held,
    }
}

impl GateTerms {
    fn of(spec: &BytebaseClusterSpec) -> Self {
        Self {
            wanted: spec.replicas,
            enforcement: license::enforcement(spec.license.as_ref()),
            paused: spec.paused,
        }
    }
}

fn external_url(text: &str, diagnostics: &mut Diagnostics) -> Option<ExternalUrl> {
    match ExternalUrl::parse(text) {
        Ok(url) => {
            if let Some(warning) = url.warning() {
                diagnostics.warn(format!("spec.externalURL: {warning}"));
            }
            Some(url)
        }
        Err(error) => {
            diagnostics.invalid("spec.externalURL", error.to_string());
            None
        }
    }
}

fn identity(cluster: &BytebaseCluster, diagnostics: &mut Diagnostics) -> Option<Identity> {
    let name = cluster.name_any();
    if name.len() > 52 {
        diagnostics.invalid(
            "metadata.name",
            "may have at most 52 characters: make the cluster again under a shorter name",
        );
    }
    let well_formed = name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !well_formed {
        diagnostics.invalid("metadata.name", "must start with a letter and hold only lower-case letters, digits and '-', since it names Services: make the cluster again under another name");
    }
    let (Some(namespace), Some(owner)) = (cluster.namespace(), cluster.controller_owner_ref(&()))
    else {
        diagnostics.invalid(
            "metadata",
            "has no namespace or uid: it was not read from an API server",
        );
        return None;
    };
    Some(Identity {
        name,
        namespace,
        owner,
    })
}
