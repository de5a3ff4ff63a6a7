//! The pod template: one Bytebase container under the restricted pod security standard.
//!
//! A change of what this writes starts a rollout in every cluster at the next upgrade of the
//! operator; the golden file in the tests guards it.

use super::container::{CA_VOLUME, mount, restricted};
use super::overlay::EntryKey;
use super::{CONTAINER, PORT, drain, labels, overlay, selector_labels};
use crate::api::spec::{ConfigMapKeyRef, SecretKeyRef, UserAndGroup};
use crate::validate::{
    CA_DIRECTORY, CaSource, RESERVED_VOLUMES, UrlSource, ValidCluster, ValidDrain,
    ValidServiceAccount,
};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, ObjectFieldSelector, PodSecurityContext,
    PodSpec, PodTemplateSpec, Probe, SeccompProfile, SecretKeySelector, SecretVolumeSource,
    SleepAction, TCPSocketAction, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

/// Checksum of the secret values a replica reads at its start.
pub const CHECKSUM_ANNOTATION: &str = "bytebase.com/secrets-checksum";
/// `spec.version` at the time the template was written.
pub const VERSION_ANNOTATION: &str = "bytebase.com/version";

/// Which defaults that came with later versions of the operator a template has: as many as this
/// says.
const DEFAULTS_ANNOTATION: &str = "bytebase.com/pod-defaults";
/// How many there are. The next one gets the next number, so that templates which have those before
/// it stay as they are until they change. It only adds fields, and entries to lists that have keys:
/// an operator that does not know it takes any other difference for another party's change.
pub const LATEST_DEFAULTS: u32 = 2;
/// By which the cluster autoscaler lets a pod go although it has volumes that go with it.
const SAFE_TO_EVICT_ANNOTATION: &str =
    "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
/// The cluster autoscaler gives a pod so many seconds to end, if it is not started with another
/// `--max-graceful-termination-sec`.
const AUTOSCALER_WAITS: i64 = 600;
/// Every node has this label.
const OS_LABEL: &str = "kubernetes.io/os";

/// Group and user `bytebase` of the image.
const USER: i64 = 113;
const DATA_DIR: &str = "/var/opt/bytebase";
/// The argument before the external URL.
pub const EXTERNAL_URL: &str = "--external-url";
/// A first start may migrate for many minutes while the others wait for its lock: an hour before
/// any is killed. Checked often, since a replica that has nothing to migrate is up in a second or
/// two.
const STARTUP_PERIOD: i32 = 2;
const STARTUP_FAILURES: i32 = 1800;

/// What an operator adds to a template that no spec asks for. An upgrade of it may bring more, and
/// must replace no pod: it comes with the next change of the template.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Additions<'a> {
    /// Where the drain hook is copied from; `None` for pods without it.
    pub drain_image: Option<&'a str>,
    /// How many of the later defaults, the oldest first.
    pub defaults: u32,
}

/// How many of the later defaults a template has.
pub fn defaults_in(template: &Value) -> u32 {
    let number = template["metadata"]["annotations"][DEFAULTS_ANNOTATION].as_str();
    number
        .and_then(|number| number.parse().ok())
        .unwrap_or_default()
}

/// The pod template with the user's overlay. Errors say what of the overlay cannot be used.
pub fn pod_template(cluster: &ValidCluster, additions: Additions<'_>) -> Result<Value, String> {
    let Additions {
        drain_image,
        defaults,
    } = additions;
    let mut template = base(cluster);
    if let (ValidDrain::Enabled(terms), Some(image)) = (&cluster.rollout.drain, drain_image) {
        let (database, rollout) = (&cluster.database, &cluster.rollout);
        drain::add(&mut template, database, rollout, terms, image);
    }
    add_defaults(&mut template, defaults);
    // Kubernetes' own types are JSON.
    let value = serde_json::to_value(&template).map_err(|error| error.to_string())?;
    match &cluster.pods.overlay {
        None => Ok(value),
        Some(overlay) => {
            let identity = if defaults == 0 {
                EntryKey::FirstKey
            } else {
                EntryKey::Whole
            };
            overlay::merge(&value, overlay, identity)
        }
    }
}

/// What the login of a replica to the metadata database rests on, as far as a template shows it:
/// the checksum of the secret values, and `PG_URL` where that is none. `None`: this is no template
/// of the operator's.
pub fn login(template: &Value) -> Option<(&str, Option<&str>)> {
    let checksum = template["metadata"]["annotations"][CHECKSUM_ANNOTATION].as_str()?;
    let mut containers = template["spec"]["containers"].as_array()?.iter();
    let bytebase = containers.find(|container| container["name"] == CONTAINER)?;
    let mut variables = bytebase["env"].as_array()?.iter();
    let url = variables.find(|variable| variable["name"] == "PG_URL")?;
    Some((checksum, url["value"].as_str()))
}

/// The external URL that a replica is started with by this template.
pub fn external_url(template: &Value) -> Option<&str> {
    let mut containers = template["spec"]["containers"].as_array()?.iter();
    let bytebase = containers.find(|container| container["name"] == CONTAINER)?;
    let arguments = bytebase["args"].as_array()?.iter();
    external_url_in(arguments.filter_map(Value::as_str))
}

/// The external URL that a replica is started with by these arguments of its container.
pub fn external_url_in<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut arguments = arguments.into_iter();
    arguments.find(|argument| *argument == EXTERNAL_URL)?;
    arguments.next()
}

fn base(cluster: &ValidCluster) -> PodTemplateSpec {
    let pods = &cluster.pods;
    let mut pod_labels = pods.labels.clone();
    pod_labels.extend(labels(&cluster.identity));
    let mut annotations = pods.annotations.clone();
    annotations.insert(
        CHECKSUM_ANNOTATION.to_owned(),
        cluster.database.checksum.clone(),
    );
    annotations.insert(VERSION_ANNOTATION.to_owned(), cluster.image.label.clone());
    let rollout = &cluster.rollout;
    // No container says anything else, so this is for all of them.
    let user = match pods.user_and_group {
        UserAndGroup::Fixed => Some(USER),
        UserAndGroup::Platform => None,
    };
    let service_account = match &cluster.service_account {
        ValidServiceAccount::Existing(name) => name,
        ValidServiceAccount::Own { .. } => &cluster.identity.name,
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            affinity: pods.affinity.clone(),
            automount_service_account_token: Some(false),
            containers: vec![container(cluster)],
            // Kubernetes would put an environment variable for every Service of the namespace into
            // the container.
            enable_service_links: Some(false),
            image_pull_secrets: unless_empty(&cluster.image.pull_secrets),
            node_selector: (!pods.node_selector.is_empty()).then(|| pods.node_selector.clone()),
            priority_class_name: pods.priority_class_name.clone(),
            security_context: Some(PodSecurityContext {
                fs_group: user,
                run_as_group: user,
                run_as_non_root: Some(true),
                run_as_user: user,
                seccomp_profile: Some(SeccompProfile {
                    type_: "RuntimeDefault".to_owned(),
                    localhost_profile: None,
                }),
                ..PodSecurityContext::default()
            }),
            service_account_name: Some(service_account.clone()),
            // The preStop pause counts towards it.
            termination_grace_period_seconds: Some(
                rollout.termination_grace_seconds + rollout.pre_stop_seconds,
            ),
            tolerations: unless_empty(&pods.tolerations),
            topology_spread_constraints: match &pods.spread {
                Some(given) => unless_empty(given),
                None => Some(spread(&cluster.identity.name)),
            },
            volumes: Some(volumes(cluster)),
            ..PodSpec::default()
        }),
    }
}

/// Adds the first so many of the later defaults. What the user says of the same wins.
fn add_defaults(template: &mut PodTemplateSpec, defaults: u32) {
    let (Some(metadata), Some(spec)) = (&mut template.metadata, &mut template.spec) else {
        return;
    };
    if defaults == 0 {
        return;
    }
    let annotations = metadata.annotations.get_or_insert_default();
    annotations.insert(DEFAULTS_ANNOTATION.to_owned(), defaults.to_string());
    // 1: no node of another system, and none that stays because of what Bytebase can lose.
    let volumes = spec.volumes.iter().flatten();
    let local = volumes
        .filter(|volume| volume.empty_dir.is_some() && volume.name.starts_with(RESERVED_VOLUMES));
    let local: Vec<_> = local.map(|volume| volume.name.as_str()).collect();
    // 2: but a pod whose drain the autoscaler would cut short keeps its node.
    let grace = spec.termination_grace_period_seconds.unwrap_or_default();
    if defaults < 2 || grace <= AUTOSCALER_WAITS {
        annotations
            .entry(SAFE_TO_EVICT_ANNOTATION.to_owned())
            .or_insert(local.join(","));
    }
    let nodes = spec.node_selector.get_or_insert_default();
    nodes
        .entry(OS_LABEL.to_owned())
        .or_insert("linux".to_owned());
}

/// The list, left out where it is empty.
fn unless_empty<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn container(cluster: &ValidCluster) -> Container {
    let pods = &cluster.pods;
    let pre_stop = cluster.rollout.pre_stop_seconds;
    let mut mounts = vec![
        mount("bytebase-data", DATA_DIR),
        mount("bytebase-tmp", "/tmp"),
    ];
    if cluster.database.ca.is_some() {
        mounts.push(VolumeMount {
            read_only: Some(true),
            ..mount(CA_VOLUME, CA_DIRECTORY)
        });
    }
    mounts.extend(pods.volume_mounts.iter().cloned());
    let args = [
        "--port",
        "8080",
        "--data",
        DATA_DIR,
        EXTERNAL_URL,
        cluster.url.as_str(),
        "--ha",
        "--enable-json-logging",
    ];
    Container {
        name: CONTAINER.to_owned(),
        image: Some(cluster.image.reference.clone()),
        image_pull_policy: Some(cluster.image.pull_policy.as_ref().to_owned()),
        args: Some(args.map(str::to_owned).to_vec()),
        env: Some(env(cluster)),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: i32::from(PORT),
            protocol: Some("TCP".to_owned()),
            ..ContainerPort::default()
        }]),
        resources: pods.resources.clone(),
        // `/healthz` answers only after the migration and checks no database, so none of these
        // fails for a database outage.
        startup_probe: Some(Probe {
            period_seconds: Some(STARTUP_PERIOD),
            failure_threshold: Some(STARTUP_FAILURES),
            timeout_seconds: Some(5),
            ..health()
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(5),
            failure_threshold: Some(3),
            timeout_seconds: Some(5),
            ..health()
        }),
        // A busy replica must not be killed in the middle of a user's migration: only a port that
        // refuses for two minutes counts.
        liveness_probe: Some(Probe {
            tcp_socket: Some(TCPSocketAction {
                port: IntOrString::String("http".to_owned()),
                host: None,
            }),
            period_seconds: Some(10),
            failure_threshold: Some(12),
            timeout_seconds: Some(5),
            ..Probe::default()
        }),
        // The listener closes at once on SIGTERM: first let the endpoints drain.
        lifecycle: (pre_stop > 0).then(|| Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction { seconds: pre_stop }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        security_context: Some(restricted()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn health() -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some("/healthz".to_owned()),
            port: IntOrString::String("http".to_owned()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    }
}

fn env(cluster: &ValidCluster) -> Vec<EnvVar> {
    let plain = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        value_from: None,
    };
    let secret = |name: &str, reference: &SecretKeyRef| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: reference.name.clone(),
                key: reference.key.clone(),
                optional: None,
            }),
            ..EnvVarSource::default()
        }),
    };
    // The sessions of a replica carry its pod's name in `pg_stat_activity`, which distinguishes
    // them behind address translation.
    let pod_name = EnvVar {
        name: "PGAPPNAME".to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.name".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    };
    let mut env = match &cluster.database.source {
        UrlSource::Secret(reference) => vec![secret("PG_URL", reference)],
        // The kubelet expands `$(NAME)` and halves `$$` in plain values.
        UrlSource::Inline(url) => vec![plain("PG_URL", &url.replace('$', "$$"))],
        UrlSource::Parts {
            url,
            user,
            password,
        } => [
            Some(plain("PG_URL", url)),
            Some(secret("PGUSER", user)),
            password
                .as_ref()
                .map(|password| secret("PGPASSWORD", password)),
        ]
        .into_iter()
        .flatten()
        .collect(),
    };
    env.push(pod_name);
    if let Some(limit) = memory_limit(cluster)
        && !cluster
            .pods
            .env
            .iter()
            .any(|variable| variable.name == "GOMEMLIMIT")
    {
        env.push(plain("GOMEMLIMIT", &limit.to_string()));
    }
    env.extend(cluster.pods.env.iter().cloned());
    env
}

/// 90 % of the memory limit in bytes, so that Go's collector works harder before the kernel kills.
fn memory_limit(cluster: &ValidCluster) -> Option<u64> {
    let quantity = cluster
        .pods
        .resources
        .as_ref()?
        .limits
        .as_ref()?
        .get("memory")?;
    crate::kubernetes::quantity::bytes(&quantity.0).map(|bytes| bytes / 10 * 9)
}

fn volumes(cluster: &ValidCluster) -> Vec<Volume> {
    let empty = |name: &str| Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    };
    let mut volumes = vec![empty("bytebase-data"), empty("bytebase-tmp")];
    let item = |key: &str| {
        Some(vec![KeyToPath {
            key: key.to_owned(),
            path: "ca.crt".to_owned(),
            mode: None,
        }])
    };
    match cluster.database.ca.as_ref().map(|(source, _)| source) {
        None => {}
        Some(CaSource::Secret(SecretKeyRef { name, key })) => volumes.push(Volume {
            name: CA_VOLUME.to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(name.clone()),
                items: item(key),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        }),
        Some(CaSource::ConfigMap(ConfigMapKeyRef { name, key })) => volumes.push(Volume {
            name: CA_VOLUME.to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: name.clone(),
                items: item(key),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        }),
    }
    volumes.extend(cluster.pods.volumes.iter().cloned());
    volumes
}

/// Over nodes and zones as far as possible: a preference, since a small cluster must still start.
fn spread(name: &str) -> Vec<TopologySpreadConstraint> {
    ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        .map(|key| TopologySpreadConstraint {
            max_skew: 1,
            topology_key: key.to_owned(),
            when_unsatisfiable: "ScheduleAnyway".to_owned(),
            label_selector: Some(LabelSelector {
                match_labels: Some(selector_labels(name)),
                match_expressions: None,
            }),
            ..TopologySpreadConstraint::default()
        })
        .to_vec()
}
