//! The drain hook in the pods: whether it is there, and from which image it is copied.
//!
//! An upgrade of the operator brings another image, and perhaps more defaults, and must replace no
//! pod. So what the operator adds stays as it stands in the StatefulSet until the template changes for
//! another reason, which is known from a digest of everything else that the StatefulSet carries.

use super::CONTAINER;
use super::pod_template::{
    Additions, CA_VOLUME, LATEST_DEFAULTS, defaults_in, mount, pod_template, restricted,
};
use crate::api::spec::SecretKeyRef;
use crate::validate::{
    DRAIN_DIRECTORY, DRAIN_LOGIN_DIRECTORY, DrainTerms, UrlSource, ValidCluster, ValidDatabase,
    ValidDrain, ValidRollout,
};
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, ExecAction, KeyToPath, Lifecycle, LifecycleHandler,
    PodTemplateSpec, ProjectedVolumeSource, ResourceRequirements, SecretProjection, Volume,
    VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// Annotation of the StatefulSet: digest of its template without what the operator adds.
pub const TEMPLATE_ANNOTATION: &str = "bytebase.com/template-digest";
/// Name of the init container that brings the hook.
pub const INSTALLER: &str = "bytebase-drain";
/// Volume with the Secrets of the login.
const LOGIN_VOLUME: &str = "bytebase-drain-login";
/// The hook in the image.
const PROGRAM: &str = "/bytebase-drain"; // a path that the volume must not hide

/// What the present StatefulSet says of its template.
#[derive(Clone, Copy, Debug, Default)]
pub struct Standing<'a> {
    /// Whether there is a StatefulSet.
    pub exists: bool,
    /// What the operator added to its template.
    pub additions: Additions<'a>,
    /// Its [`TEMPLATE_ANNOTATION`]; `None` where an older operator wrote it.
    pub digest: Option<&'a str>,
}

/// A pod template and the digest that goes with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    /// The template.
    pub value: Value,
    /// Digest of everything but what the operator adds. `None`: of a template that an older operator
    /// wrote and that must not change now.
    pub digest: Option<String>,
}

/// The template that should stand. `own`: the operator's own image, if it knows it.
pub fn template(
    cluster: &ValidCluster,
    own: Option<&str>,
    standing: Standing<'_>,
) -> Result<Template, String> {
    let terms = match &cluster.rollout.drain {
        ValidDrain::Enabled(terms) => Some(terms),
        ValidDrain::Disabled => None,
    };
    let digest = digest(&pod_template(cluster, Additions::default())?, terms);
    // One that an older operator made has changed only if more than the additions would change, which
    // is not known: it gets them with its next change.
    let is_same = standing.exists && standing.digest.is_none_or(|standing| standing == digest);
    let before = standing.additions;
    let drain_image = terms.and_then(|terms| {
        let new = terms.image.as_deref().or(own);
        match (is_same, before.drain_image) {
            _ if terms.image.is_some() => new,
            (true, Some(image)) => Some(image),
            (true, None) if !terms.is_asked_for => None,
            // Without an image of its own the operator keeps the one that is there.
            (_, standing) => new.or(standing),
        }
    });
    let changes = !is_same || drain_image != before.drain_image;
    let additions = Additions {
        drain_image,
        defaults: if changes {
            LATEST_DEFAULTS
        } else {
            before.defaults
        },
    };
    Ok(Template {
        value: pod_template(cluster, additions)?,
        digest: Some(digest),
    })
}

/// What there is to say of a template whose pods cannot finish their tasks as they are to. `own`: the
/// operator's own image, if it knows it.
pub fn warning(cluster: &ValidCluster, own: Option<&str>, template: &Template) -> Option<String> {
    let ValidDrain::Enabled(terms) = &cluster.rollout.drain else {
        return None;
    };
    let template = &template.value;
    if image_in(template).is_none() {
        return own.is_none().then(|| {
            "spec.rollout.drain: the pods get no drain hook, since the operator does not know the image that it runs from: grant it get on its own pod, set its environment variable OPERATOR_IMAGE, or set spec.rollout.drainImage".to_owned()
        });
    }
    if !starts_hook(&template["spec"]["containers"]) {
        return Some(format!(
            "spec.podTemplate: the container {CONTAINER} has a lifecycle of its own, which does not start the drain hook, so its running tasks are not waited for: take the lifecycle out, or have preStop run {} as it would be without it",
            program()
        ));
    }
    let needed = grace(&cluster.rollout, terms);
    let grace = template["spec"]["terminationGracePeriodSeconds"].as_i64()?;
    (grace < needed).then(|| {
        format!(
            "spec.podTemplate: terminationGracePeriodSeconds is {grace}, so Kubernetes ends a replica after that time, and cancels its running tasks, although its drain may take {needed} s: take the field out, or shorten spec.rollout.drainTimeoutSeconds"
        )
    })
}

/// Grace period of pods with the hook.
fn grace(rollout: &ValidRollout, terms: &DrainTerms) -> i64 {
    terms.timeout_seconds + rollout.termination_grace_seconds + rollout.pre_stop_seconds
}

/// The hook in the pods.
fn program() -> String {
    format!("{DRAIN_DIRECTORY}{PROGRAM}")
}

/// Whether the preStop handler of Bytebase's container starts the hook, in these containers of a pod or of
/// a template; perhaps by a shell.
pub fn starts_hook(containers: &Value) -> bool {
    let mut containers = containers.as_array().into_iter().flatten();
    let bytebase = containers.find(|container| container["name"] == CONTAINER);
    let command = bytebase.map(|container| &container["lifecycle"]["preStop"]["exec"]["command"]);
    let words = command.and_then(Value::as_array).into_iter().flatten();
    words
        .filter_map(Value::as_str)
        .any(|word| word.contains(&program()))
}

fn digest(without: &Value, terms: Option<&DrainTerms>) -> String {
    let terms = terms.map(|terms| {
        let DrainTerms {
            is_asked_for: _,
            timeout_seconds,
            hold_limit_seconds,
            image,
        } = terms;
        json!([timeout_seconds, hold_limit_seconds, image])
    });
    let text = json!([without, terms]).to_string();
    hex::encode(&Sha256::digest(text)[..16])
}

/// What the operator added to a template.
pub fn additions_in(template: &Value) -> Additions<'_> {
    Additions {
        drain_image: image_in(template),
        defaults: defaults_in(template),
    }
}

/// The image of the hook in a template.
pub fn image_in(template: &Value) -> Option<&str> {
    let installers = template["spec"]["initContainers"].as_array()?;
    let installer = installers
        .iter()
        .find(|container| container["name"] == INSTALLER)?;
    installer["image"].as_str()
}

/// Whether the hook in a template logs in by what Secrets hold now.
pub fn logs_in_by_secrets(template: &Value) -> bool {
    let mut volumes = template["spec"]["volumes"].as_array().into_iter().flatten();
    volumes.any(|volume| volume["name"] == LOGIN_VOLUME)
}

/// The volumes of these whose files a drain hook logs in by; the names of all others are of no use here.
pub fn is_of_login(volume: &str) -> bool {
    [LOGIN_VOLUME, CA_VOLUME].contains(&volume)
}

/// The Secrets and ConfigMaps, with their keys, whose values a drain hook logs in by, in these volumes of a
/// pod or of a template. Kubernetes brings what they hold into a pod that runs, and nothing of another.
pub fn login_sources(volumes: &Value) -> String {
    let volumes = volumes.as_array().into_iter().flatten();
    let of_login = volumes.filter(|volume| volume["name"].as_str().is_some_and(is_of_login));
    let sources = of_login.flat_map(|volume| {
        let projected = volume["projected"]["sources"].as_array();
        let projected = projected.into_iter().flatten();
        projected.chain([volume])
    });
    let names = sources.filter_map(|source| {
        let (secret, map) = (&source["secret"], &source["configMap"]);
        let name = [&secret["name"], &secret["secretName"], &map["name"]]
            .into_iter()
            .find_map(Value::as_str)?;
        let items = [secret, map].map(|source| source["items"].as_array());
        let items = items.into_iter().flatten().flatten();
        let keys: Vec<_> = items.filter_map(|item| item["key"].as_str()).collect();
        Some(format!("{name}/{}", keys.join(",")))
    });
    names.collect::<Vec<_>>().join(" ")
}

/// Adds the hook to a template: an init container copies it into a volume, from where the preStop
/// handler of Bytebase's container starts it, in that container's environment.
pub(super) fn add(
    template: &mut PodTemplateSpec,
    database: &ValidDatabase,
    rollout: &ValidRollout,
    terms: &DrainTerms,
    image: &str,
) {
    let Some(spec) = &mut template.spec else {
        return;
    };
    spec.termination_grace_period_seconds = Some(grace(rollout, terms));
    let volumes = spec.volumes.get_or_insert_default();
    volumes.push(Volume {
        name: INSTALLER.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource::default()),
        ..Volume::default()
    });
    let mut mounts = vec![mount(INSTALLER, DRAIN_DIRECTORY)];
    let logins = logins(database);
    if !logins.is_empty() {
        volumes.push(Volume {
            name: LOGIN_VOLUME.to_owned(),
            projected: Some(ProjectedVolumeSource {
                sources: Some(logins),
                default_mode: None,
            }),
            ..Volume::default()
        });
        mounts.push(mount(LOGIN_VOLUME, DRAIN_LOGIN_DIRECTORY));
    }
    spec.init_containers = Some(vec![installer(image)]);
    let bytebase = spec
        .containers
        .iter_mut()
        .find(|container| container.name == CONTAINER);
    if let Some(container) = bytebase {
        let mounts = mounts.into_iter().map(|mount| VolumeMount {
            read_only: Some(true),
            ..mount
        });
        container
            .volume_mounts
            .get_or_insert_default()
            .extend(mounts);
        let command = [
            program(),
            "wait".to_owned(),
            format!("--timeout={}", terms.timeout_seconds),
            format!("--pause={}", rollout.pre_stop_seconds),
            format!("--hold-limit={}", terms.hold_limit_seconds),
        ];
        container.lifecycle = Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                exec: Some(ExecAction {
                    command: Some(command.into()),
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        });
    }
}

/// The Secrets of the login as files: what they hold now. The environment holds what they held when
/// the container started, by which no login may be possible while a password is rotated.
fn logins(database: &ValidDatabase) -> Vec<VolumeProjection> {
    let file = |path: &str, SecretKeyRef { name, key }: &SecretKeyRef| VolumeProjection {
        secret: Some(SecretProjection {
            name: name.clone(),
            items: Some(vec![KeyToPath {
                key: key.clone(),
                path: path.to_owned(),
                mode: None,
            }]),
            // The environment needs it; this does not.
            optional: Some(true),
        }),
        ..VolumeProjection::default()
    };
    // A cloud login is one that only Bytebase can perform.
    if database.replicas.iam.is_some() {
        let monitor = database.monitor.iter();
        return monitor.map(|monitor| file("PG_URL", monitor)).collect();
    }
    match &database.source {
        UrlSource::Secret(url) => vec![file("PG_URL", url)],
        UrlSource::Inline(_) => Vec::new(),
        UrlSource::Parts { user, password, .. } => {
            let password = password.iter();
            let password = password.map(|password| file("PGPASSWORD", password));
            [file("PGUSER", user)].into_iter().chain(password).collect()
        }
    }
}

fn installer(image: &str) -> Container {
    // A quota or LimitRange may demand these of every container.
    let amounts = |cpu: &str, memory: &str| {
        let amount = |name: &str, text: &str| (name.to_owned(), Quantity(text.to_owned()));
        Some([amount("cpu", cpu), amount("memory", memory)].into())
    };
    Container {
        name: INSTALLER.to_owned(),
        image: Some(image.to_owned()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        command: Some(vec![PROGRAM.to_owned()]),
        args: Some(vec!["install".to_owned(), program()]),
        resources: Some(ResourceRequirements {
            requests: amounts("10m", "16Mi"),
            limits: amounts("100m", "32Mi"),
            ..ResourceRequirements::default()
        }),
        security_context: Some(restricted()),
        volume_mounts: Some(vec![mount(INSTALLER, DRAIN_DIRECTORY)]),
        ..Container::default()
    }
}
