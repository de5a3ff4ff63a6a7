//! What the user adds to the pods, and how pods start and end.

use super::Diagnostics;
use super::database::CA_DIRECTORY;
use crate::api::BytebaseClusterSpec;
use crate::api::spec::{Drain, RolloutSpec, RolloutStrategy, UserAndGroup};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{
    Affinity, EnvVar, ResourceRequirements, Toleration, TopologySpreadConstraint, Volume,
    VolumeMount,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Set by the operator.
const RESERVED_ENV: [&str; 4] = ["PG_URL", "PGAPPNAME", "PGUSER", "PGPASSWORD"];
/// Read by the driver for connections to users' databases too.
pub const LEAKING_ENV: [&str; 6] = [
    "PGSSLMODE",
    "PGSSLROOTCERT",
    "PGTARGETSESSIONATTRS",
    "PGHOST",
    "PGPORT",
    "PGDATABASE",
];
/// So many seconds Bytebase gives the requests that are open when it is sent SIGTERM.
pub const SHUTDOWN_SECONDS: i64 = 10;
/// Where the drain hook lies in the Bytebase container.
pub const DRAIN_DIRECTORY: &str = "/bytebase-drain-bin";
/// Where the Secrets of the login lie for the hook.
pub const DRAIN_LOGIN_DIRECTORY: &str = "/bytebase-drain-login";
/// Volume names with this prefix are the operator's.
pub const RESERVED_VOLUMES: &str = "bytebase-";
/// What the operator mounts in the Bytebase container: data, temporary files, and the drain hook.
const RESERVED_PATHS: [&str; 4] = [
    "/var/opt/bytebase",
    "/tmp",
    DRAIN_DIRECTORY,
    DRAIN_LOGIN_DIRECTORY,
];

/// What passes through to the pods, as the user wrote it.
#[derive(Clone, Debug)]
pub struct ValidPods {
    /// Compute resources of the Bytebase container.
    pub resources: Option<ResourceRequirements>,
    /// Labels a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Taints the pods tolerate.
    pub tolerations: Vec<Toleration>,
    /// Scheduling affinity.
    pub affinity: Option<Affinity>,
    /// How replicas spread; `None`: over nodes and zones, which the builder writes since it selects
    /// by the pods' labels.
    pub spread: Option<Vec<TopologySpreadConstraint>>,
    /// Priority class.
    pub priority_class_name: Option<String>,
    /// Who chooses their user and groups.
    pub user_and_group: UserAndGroup,
    /// More environment variables.
    pub env: Vec<EnvVar>,
    /// More volumes.
    pub volumes: Vec<Volume>,
    /// More mounts in the Bytebase container.
    pub volume_mounts: Vec<VolumeMount>,
    /// More labels.
    pub labels: BTreeMap<String, String>,
    /// More annotations.
    pub annotations: BTreeMap<String, String>,
    /// What is merged into the finished template; checked after that.
    pub overlay: Option<Value>,
}

/// How pods start and end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidRollout {
    /// Longest time until a replaced replica serves.
    pub ready_timeout: SignedDuration,
    /// Seconds between a replica's removal from the Service and its SIGTERM.
    pub pre_stop_seconds: i64,
    /// Seconds a replica has to end after that pause, or after its drain.
    pub termination_grace_seconds: i64,
    /// Whether and how a replica that is asked to end first finishes its tasks.
    pub drain: ValidDrain,
    /// In which order replicas are replaced.
    pub strategy: RolloutStrategy,
    /// How long a Ready replica may send no heartbeat before it is replaced; `None`: for ever.
    pub restart_stale_after: Option<SignedDuration>,
}

impl ValidRollout {
    /// Longest hold of the queue by a drain hook.
    pub fn hold_limit(&self) -> SignedDuration {
        SignedDuration::from_secs(match &self.drain {
            ValidDrain::Enabled(terms) => terms.hold_limit_seconds,
            ValidDrain::Disabled => 0,
        })
    }
}

/// Whether a replica that is to end first finishes its tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValidDrain {
    /// It does not.
    Disabled,
    /// It does, by a hook in its pod.
    Enabled(DrainTerms),
}

/// How a replica finishes its tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainTerms {
    /// Whether the spec asks for it by name: then pods without the hook are replaced.
    pub is_asked_for: bool,
    /// Longest wait, in seconds.
    pub timeout_seconds: i64,
    /// Longest hold of the queue, in seconds.
    pub hold_limit_seconds: i64,
    /// Image of the hook; `None`: the operator's own.
    pub image: Option<String>,
}

pub(super) fn validate(spec: &BytebaseClusterSpec, diagnostics: &mut Diagnostics) -> ValidPods {
    env(spec, diagnostics);
    volumes(spec, diagnostics);
    spread(spec, diagnostics);
    claims(spec, diagnostics);
    let overlay = spec.pod_template.as_ref().map(|template| &template.0);
    if overlay.is_some_and(|overlay| !overlay.is_object()) {
        diagnostics.invalid(
            "spec.podTemplate",
            "must be an object with metadata and spec",
        );
    }
    ValidPods {
        resources: spec.resources.clone(),
        node_selector: spec.node_selector.clone(),
        tolerations: spec.tolerations.clone(),
        affinity: spec.affinity.clone(),
        spread: spec.topology_spread_constraints.clone(),
        priority_class_name: spec.priority_class_name.clone(),
        user_and_group: spec
            .security_context
            .as_ref()
            .map_or_else(UserAndGroup::default, |context| context.user_and_group),
        env: spec.env.clone(),
        volumes: spec.volumes.clone(),
        volume_mounts: spec.volume_mounts.clone(),
        labels: spec.pod_labels.clone(),
        annotations: spec.pod_annotations.clone(),
        overlay: overlay.cloned(),
    }
}

pub(super) fn rollout(spec: Option<&RolloutSpec>, diagnostics: &mut Diagnostics) -> ValidRollout {
    let default = RolloutSpec::default();
    let RolloutSpec {
        ready_timeout_seconds,
        pre_stop_seconds,
        termination_grace_seconds,
        drain,
        drain_timeout_seconds,
        hold_limit_seconds,
        ref drain_image,
        strategy,
        restart_stale_replicas_after_seconds,
    } = *spec.unwrap_or(&default);
    if drain_image.as_ref().is_some_and(|image| !is_image(image)) {
        diagnostics.invalid(
            "spec.rollout.drainImage",
            "must be the reference of an image, such as registry.example.com/bytebase-operator:1.0.0",
        );
    }
    if let Some(given @ 1..) = termination_grace_seconds
        && i64::from(given) < SHUTDOWN_SECONDS
    {
        diagnostics.warn(format!("spec.rollout.terminationGraceSeconds: is {given}, and Bytebase gives the requests that are open at its end up to {SHUTDOWN_SECONDS} s, so Kubernetes may end a replica before they are answered: set {SHUTDOWN_SECONDS} or more"));
    }
    let mut seconds = |field, given, default, range| {
        i64::from(diagnostics.number(&format!("spec.rollout.{field}"), given, default, range))
    };
    let rollout = ValidRollout {
        ready_timeout: SignedDuration::from_secs(seconds(
            "readyTimeoutSeconds",
            ready_timeout_seconds,
            900,
            10..=86_400,
        )),
        pre_stop_seconds: seconds("preStopSeconds", pre_stop_seconds, 5, 0..=300),
        termination_grace_seconds: seconds(
            "terminationGraceSeconds",
            termination_grace_seconds,
            60,
            1..=3600,
        ),
        drain: match drain {
            Some(Drain::Disabled) => ValidDrain::Disabled,
            None | Some(Drain::Enabled) => ValidDrain::Enabled(DrainTerms {
                is_asked_for: drain.is_some(),
                timeout_seconds: seconds(
                    "drainTimeoutSeconds",
                    drain_timeout_seconds,
                    3600,
                    1..=86_400,
                ),
                hold_limit_seconds: seconds("holdLimitSeconds", hold_limit_seconds, 300, 0..=3600),
                image: drain_image.clone(),
            }),
        },
        strategy: strategy.unwrap_or_default(),
        restart_stale_after: restart_stale_replicas_after_seconds.map(|given| {
            SignedDuration::from_secs(seconds(
                "restartStaleReplicasAfterSeconds",
                Some(given),
                given,
                60..=86_400,
            ))
        }),
    };
    if let ValidDrain::Enabled(terms) = &rollout.drain {
        holds_come_in_time(terms, diagnostics);
    }
    rollout
}

/// By the database's clock the queue may be held for the limit, and then not for as long: a drain
/// that begins with the second half has a hold only if it lasts for longer than that, and a whole
/// one only if it lasts for both.
fn holds_come_in_time(terms: &DrainTerms, diagnostics: &mut Diagnostics) {
    let DrainTerms {
        timeout_seconds: timeout,
        hold_limit_seconds: limit,
        ..
    } = *terms;
    let needed = 2 * limit;
    if timeout < needed {
        diagnostics.warn(format!("spec.rollout.drainTimeoutSeconds: is {timeout}, less than twice holdLimitSeconds ({limit}). The queue may be held for {limit} s and is then free for as long, so a drain may find it free for most of its time or all of it: where new work keeps coming to the replica, it may not be idle before the drain ends, which cancels its tasks. Set drainTimeoutSeconds to {needed} plus the time of your longest task or more, or a shorter holdLimitSeconds"));
    }
}

/// The characters of image references; whether one exists is the registry's to say.
fn is_image(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-/:@".contains(c);
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(fits)
}

fn volumes(spec: &BytebaseClusterSpec, diagnostics: &mut Diagnostics) {
    let mut names = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().enumerate() {
        let field = format!("spec.volumes[{index}].name");
        if volume.name.starts_with(RESERVED_VOLUMES) {
            diagnostics.invalid(
                &field,
                "names that start with bytebase- are the operator's: choose another",
            );
        } else if !names.insert(&volume.name) {
            diagnostics.invalid(&field, format!("{} is there twice", volume.name));
        }
    }
    for (index, mount) in spec.volume_mounts.iter().enumerate() {
        let field = format!("spec.volumeMounts[{index}].name");
        if !names.contains(&mount.name) {
            diagnostics.invalid(
                &field,
                format!("there is no volume {} in spec.volumes", mount.name),
            );
        }
    }
    let database = &spec.database;
    let has_ca = database.ca_secret_ref.is_some() || database.ca_config_map_ref.is_some();
    let mut paths = BTreeSet::new();
    for (index, mount) in spec.volume_mounts.iter().enumerate() {
        let field = format!("spec.volumeMounts[{index}].mountPath");
        let path = mount.mount_path.trim_end_matches('/');
        if RESERVED_PATHS.contains(&path) || (has_ca && path == CA_DIRECTORY) {
            diagnostics.invalid(
                &field,
                format!("{path} is mounted by the operator: choose another path"),
            );
        } else if !paths.insert(path) {
            diagnostics.invalid(&field, format!("{path} is there twice"));
        }
    }
}

/// Lists whose entries the API server distinguishes by a key: it refuses one that is there twice.
fn spread(spec: &BytebaseClusterSpec, diagnostics: &mut Diagnostics) {
    let mut keys = BTreeSet::new();
    let constraints = spec.topology_spread_constraints.iter().flatten();
    for (index, constraint) in constraints.enumerate() {
        let (key, unsatisfiable) = (&constraint.topology_key, &constraint.when_unsatisfiable);
        if !keys.insert((key, unsatisfiable)) {
            diagnostics.invalid(
                &format!("spec.topologySpreadConstraints[{index}]"),
                format!("topologyKey {key} with whenUnsatisfiable {unsatisfiable} is there twice"),
            );
        }
    }
}

/// Another such list.
fn claims(spec: &BytebaseClusterSpec, diagnostics: &mut Diagnostics) {
    let mut names = BTreeSet::new();
    let claims = spec.resources.iter().flat_map(|given| &given.claims);
    for (index, claim) in claims.flatten().enumerate() {
        if !names.insert(&claim.name) {
            diagnostics.invalid(
                &format!("spec.resources.claims[{index}].name"),
                format!("{} is there twice", claim.name),
            );
        }
    }
}

fn env(spec: &BytebaseClusterSpec, diagnostics: &mut Diagnostics) {
    let mut names = BTreeSet::new();
    for (index, variable) in spec.env.iter().enumerate() {
        let field = format!("spec.env[{index}].name");
        let name = variable.name.as_str();
        if RESERVED_ENV.contains(&name) {
            diagnostics.invalid(
                &field,
                format!("{name} is set by the operator: use spec.database"),
            );
        } else if LEAKING_ENV.contains(&name) {
            diagnostics.invalid(&field, format!("{name} would also change connections to your users' databases: put it into PG_URL instead"));
        } else if !names.insert(name) {
            diagnostics.invalid(&field, format!("{name} is there twice"));
        }
    }
}
