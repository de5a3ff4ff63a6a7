//! The drain hook in the pods: how it gets into them, starts and logs in, and how it is recognised.

use super::CONTAINER;
use super::container::{CA_VOLUME, mount, restricted};
use crate::api::spec::SecretKeyRef;
use crate::validate::{
    DRAIN_DIRECTORY, DRAIN_LOGIN_DIRECTORY, DrainTerms, UrlSource, ValidDatabase, ValidRollout,
};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, ExecAction, KeyToPath, Lifecycle, LifecycleHandler,
    PodTemplateSpec, ProjectedVolumeSource, ResourceRequirements, SecretProjection, Volume,
    VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::Value;

/// Name of the init container that brings the hook.
pub const INSTALLER: &str = "bytebase-drain";
/// Volume with the Secrets of the login.
const LOGIN_VOLUME: &str = "bytebase-drain-login";
/// The hook in the image.
const PROGRAM: &str = "/bytebase-drain"; // a path that the volume must not hide
/// The option of the hook that says how long it waits at the most, in seconds.
const TIMEOUT_OPTION: &str = "--timeout=";
/// The option of the hook that says how long it waits at least, in seconds.
const PAUSE_OPTION: &str = "--pause=";

/// Grace period of pods with the hook, in seconds.
pub(super) fn grace(rollout: &ValidRollout, terms: &DrainTerms) -> i64 {
    terms.timeout_seconds + rollout.termination_grace_seconds + rollout.pre_stop_seconds
}

/// The hook in the pods.
pub(super) fn program() -> String {
    format!("{DRAIN_DIRECTORY}{PROGRAM}")
}

/// Whether the preStop handler of Bytebase's container starts the hook, in these containers of a
/// template; perhaps by a shell.
pub(super) fn starts_hook(containers: &Value) -> bool {
    let mut containers = containers.as_array().into_iter().flatten();
    let bytebase = containers.find(|container| container["name"] == CONTAINER);
    let command = bytebase.map(|container| &container["lifecycle"]["preStop"]["exec"]["command"]);
    let words = command.and_then(Value::as_array).into_iter().flatten();
    is_hook(words.filter_map(Value::as_str))
}

/// Whether a command starts the hook.
pub fn is_hook<'a>(mut words: impl Iterator<Item = &'a str>) -> bool {
    let program = program();
    words.any(|word| word.contains(&program))
}

/// How long the hook that a command starts waits for running tasks, if the command says so;
/// perhaps in one word for a shell.
pub fn timeout<'a>(words: impl Iterator<Item = &'a str>) -> Option<SignedDuration> {
    let words: Vec<_> = words.collect();
    let seconds = |option: &str| {
        let (_, value) = words.iter().find_map(|word| word.split_once(option))?;
        let digits = value
            .split(|letter: char| !letter.is_ascii_digit())
            .next()?;
        digits.parse().ok().map(SignedDuration::from_secs)
    };
    // Its pause passes in any case.
    Some(seconds(TIMEOUT_OPTION)?.max(seconds(PAUSE_OPTION).unwrap_or_default()))
}

/// The image of the hook in a template.
pub fn image_in(template: &Value) -> Option<&str> {
    let installers = template["spec"]["initContainers"].as_array()?;
    let installer = installers
        .iter()
        .find(|container| container["name"] == INSTALLER)?;
    installer["image"].as_str()
}

/// Whether the hook in a template, if it has one, logs in by what Secrets and ConfigMaps hold now.
pub fn logs_in_by_volumes(template: &Value) -> bool {
    let volumes = &template["spec"]["volumes"];
    image_in(template).is_some() && !login_sources(volumes).is_empty()
}

/// The volumes of these whose files a drain hook logs in by; the names of all others are of no use
/// here.
pub fn is_of_login(volume: &str) -> bool {
    [LOGIN_VOLUME, CA_VOLUME].contains(&volume)
}

/// The Secrets and ConfigMaps, with their keys, whose values a drain hook logs in by, in these
/// volumes of a pod or of a template. Kubernetes brings what they hold into a pod that runs, and
/// nothing of another.
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
            format!("{TIMEOUT_OPTION}{}", terms.timeout_seconds),
            format!("{PAUSE_OPTION}{}", rollout.pre_stop_seconds),
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
