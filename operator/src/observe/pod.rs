//! Pods as plain values.

use crate::desired::drain::{self, INSTALLER};
use crate::desired::{
    CHECKSUM_ANNOTATION, CONTAINER, EXTERNAL_URL, VERSION_ANNOTATION, external_url_in,
};
use crate::kubernetes::is_garbage_collectors;
use crate::observation::{PodLogin, PodTrouble, PodView, PodWait};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod, PodCondition, PodSpec, Volume};
use kube::ResourceExt as _;
use uuid::Uuid;

/// The variable from which a replica has its connection string.
const PG_URL: &str = "PG_URL";

/// Keeps of a pod only what [`view`] needs, so that a cache of thousands stays small. Of containers
/// that is Bytebase's own, where the drain hook is started at its end.
pub fn trim(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations
            .retain(|name, _| [VERSION_ANNOTATION, CHECKSUM_ANNOTATION].contains(&name.as_str()));
    }
    if let Some(spec) = &mut pod.spec {
        *spec = PodSpec {
            node_name: spec.node_name.take(),
            termination_grace_period_seconds: spec.termination_grace_period_seconds,
            containers: bytebase(spec).into_iter().collect(),
            volumes: spec.volumes.take().map(of_login),
            readiness_gates: spec.readiness_gates.take(),
            ..PodSpec::default()
        };
    }
}

/// The container of Bytebase with the plain `PG_URL` and the external URL, and with the command
/// that starts the drain hook at its end, where the hook was copied into the pod, by whichever
/// operator made it. Nothing else of the container.
fn bytebase(spec: &mut PodSpec) -> Option<Container> {
    let mut installers = spec.init_containers.iter().flatten();
    let has_hook = installers.any(|container| container.name == INSTALLER);
    let mut containers = spec.containers.iter_mut();
    let bytebase = containers.find(|container| container.name == CONTAINER)?;
    let mut kept = Container {
        name: CONTAINER.to_owned(),
        lifecycle: bytebase.lifecycle.take(),
        env: bytebase.env.take(),
        args: external_url(bytebase).map(|url| vec![EXTERNAL_URL.to_owned(), url]),
        ..Container::default()
    };
    if let Some(variables) = &mut kept.env {
        variables.retain(|variable| variable.name == PG_URL && variable.value.is_some());
    }
    if !(has_hook && drain::is_hook(words(pre_stop(&kept)))) {
        kept.lifecycle = None;
    }
    Some(kept)
}

/// What Bytebase is started with as its external URL.
fn external_url(bytebase: &Container) -> Option<String> {
    external_url_in(words(bytebase.args.as_ref())).map(str::to_owned)
}

/// What is run before Bytebase is asked to end.
fn pre_stop(container: &Container) -> Option<&Vec<String>> {
    let handler = container.lifecycle.as_ref()?.pre_stop.as_ref()?;
    handler.exec.as_ref()?.command.as_ref()
}

fn words(command: Option<&Vec<String>>) -> impl Iterator<Item = &str> {
    command.into_iter().flatten().map(String::as_str)
}

/// The container of Bytebase, as far as it was kept.
fn bytebase_of(pod: &Pod) -> Option<&Container> {
    let mut containers = pod.spec.as_ref()?.containers.iter();
    containers.find(|container| container.name == CONTAINER)
}

fn of_login(mut volumes: Vec<Volume>) -> Vec<Volume> {
    volumes.retain(|volume| drain::is_of_login(&volume.name));
    volumes
}

/// A pod, as far as [`trim`] has kept it, as a plain value, without the line of its log that says
/// why it is not up. `replica_id` comes from its log, and from events why it cannot be prepared for
/// its containers (`unprepared`).
pub fn view(pod: &Pod, replica_id: Option<Uuid>, unprepared: Option<&str>) -> Option<PodView> {
    let name = pod.name_any();
    let ordinal = name.rsplit_once('-')?.1.parse().ok()?;
    let status = pod.status.as_ref();
    let container = container(pod);
    let ready = condition(pod, "Ready").is_some_and(|ready| ready.status == "True");
    let hook = hook(pod);
    Some(PodView {
        ordinal,
        uid: pod.uid()?,
        revision: pod.labels().get("controller-revision-hash").cloned(),
        ready,
        deleting: pod.metadata.deletion_timestamp.is_some(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        ip: status.and_then(|status| status.pod_ip.clone()),
        created_at: pod
            .creation_timestamp()
            .map_or(Timestamp::MIN, |time| time.0),
        started_at: container
            .and_then(|container| container.state.as_ref()?.running.as_ref())
            .and_then(|running| running.started_at.as_ref())
            .map(|time| time.0),
        container_id: running_container(pod),
        ends_by: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
        grace: pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .map(SignedDuration::from_secs),
        drains: hook.is_some(),
        drain_timeout: drain::timeout(words(hook)),
        login: login(pod),
        external_url: bytebase_of(pod).and_then(external_url),
        ending_since: ending_since(pod),
        finalizers: finalizers(pod),
        unready_since: condition(pod, "Ready")
            .filter(|_| !ready)
            .and_then(|condition| condition.last_transition_time.as_ref())
            .map(|time| time.0),
        replica_id,
        log_quote: None,
        restarts: container.map_or(0, |container| container.restart_count),
        trouble: trouble(pod, container, unprepared),
        waits_for: waits_for(pod).filter(|_| !ready),
        last_failure: last_failure(pod).filter(|_| !ready),
        version: pod.annotations().get(VERSION_ANNOTATION).cloned(),
        name,
    })
}

/// The command that starts the drain hook at its end, if it has one.
fn hook(pod: &Pod) -> Option<&Vec<String>> {
    pre_stop(bytebase_of(pod)?)
}

fn login(pod: &Pod) -> PodLogin {
    let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
    // Plain data: it always has a form as JSON.
    let volumes = volumes.and_then(|volumes| serde_json::to_value(volumes).ok());
    let variables = bytebase_of(pod).and_then(|bytebase| bytebase.env.as_ref());
    let mut variables = variables.into_iter().flatten();
    let url = variables.find(|variable| variable.name == PG_URL);
    PodLogin {
        checksum: pod.annotations().get(CHECKSUM_ANNOTATION).cloned(),
        url: url.and_then(|url| url.value.clone()),
        sources: drain::login_sources(&volumes.unwrap_or_default()),
    }
}

/// Those that another party's controller has to take away.
fn finalizers(pod: &Pod) -> Vec<String> {
    let mut finalizers = pod.finalizers().to_vec();
    finalizers.retain(|finalizer| !is_garbage_collectors(finalizer));
    finalizers
}

/// The deletion timestamp is the end of the grace period.
fn ending_since(pod: &Pod) -> Option<Timestamp> {
    let ends_by = pod.metadata.deletion_timestamp.as_ref()?.0;
    let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
    ends_by.checked_sub(SignedDuration::from_secs(grace)).ok()
}

/// What Kubernetes says of the container of Bytebase.
pub(super) fn container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status
        .as_ref()?
        .container_statuses
        .as_ref()?
        .iter()
        .find(|container| container.name == CONTAINER)
}

/// Whether a pod is Ready that was not, as far as the watch had shown it. Its replica sends
/// heartbeats by then, and a reading from before need not hold one of them.
pub fn becomes_ready(before: Option<&Pod>, now: &Pod) -> bool {
    let is_ready = |pod: &Pod| condition(pod, "Ready").is_some_and(|ready| ready.status == "True");
    is_ready(now) && !before.is_some_and(|before| before.uid() == now.uid() && is_ready(before))
}

/// Id of the container that runs Bytebase now.
pub(super) fn running_container(pod: &Pod) -> Option<String> {
    let container = container(pod)?;
    container.state.as_ref()?.running.as_ref()?;
    container.container_id.clone()
}

/// A condition of a pod.
pub(super) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// The kubelet calls a pod Ready as soon as its containers are, unless a readiness gate is shut.
/// What says otherwise is the node controller, which has not heard from the kubelet for some time
/// and knows nothing of the pod itself.
pub(super) fn node_is_silent(pod: &Pod) -> bool {
    let holds = |type_| condition(pod, type_).is_some_and(|found| found.status == "True");
    holds("ContainersReady") && !holds("Ready") && !has_shut_gate(pod)
}

/// Whether the kubelet says that all is well with a pod but for a readiness gate.
fn has_shut_gate(pod: &Pod) -> bool {
    condition(pod, "Ready")
        .is_some_and(|ready| ready.reason.as_deref() == Some("ReadinessGatesNotReady"))
}

fn trouble(
    pod: &Pod,
    container: Option<&ContainerStatus>,
    unprepared: Option<&str>,
) -> Option<PodTrouble> {
    if let Some(ended) = ended(pod) {
        return Some(ended);
    }
    // Whatever else keeps a pod without a node, such as an error in the scheduler itself.
    let unscheduled = condition(pod, "PodScheduled").filter(|scheduled| {
        let reason = scheduled.reason.as_deref();
        scheduled.status == "False" && reason.is_some_and(|reason| reason != SCHEDULING_GATED)
    });
    if let Some(unscheduled) = unscheduled {
        return Some(PodTrouble::Unschedulable(format!(
            "no node takes it: {}",
            unscheduled.message.as_deref().unwrap_or("no reason given")
        )));
    }
    if node_is_silent(pod) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        return Some(PodTrouble::NodeSilent(format!(
            "node {} no longer reports, so the pod gets no requests (kubectl describe node shows since when)",
            node.unwrap_or("unknown")
        )));
    }
    let name = pod.name_any();
    if let Some(trouble) = container.and_then(|container| container_trouble(&name, container)) {
        return Some(trouble);
    }
    // Bytebase's own container waits for those before it, and the pod is not Ready without those
    // beside it.
    let status = pod.status.as_ref()?;
    let others = [&status.init_container_statuses, &status.container_statuses];
    let others = others.into_iter().flatten().flatten();
    let others = others.filter(|other| other.name != CONTAINER);
    let mut troubles = others.filter_map(|other| container_trouble(&name, other));
    if let Some(trouble) = troubles.next() {
        return Some(trouble);
    }
    let waits = container.is_none_or(|container| waiting_reason(container).is_some());
    let unprepared = unprepared.filter(|_| waits && !is_prepared(pod))?;
    Some(PodTrouble::Creation(format!(
        "Kubernetes cannot prepare the pod: {unprepared}"
    )))
}

/// That no container of the pod starts any more: its node has evicted it or does not admit it. The
/// StatefulSet controller makes another one. A pod that is being deleted ends like that as well.
fn ended(pod: &Pod) -> Option<PodTrouble> {
    let status = pod.status.as_ref()?;
    let is_failed = status.phase.as_deref() == Some("Failed");
    if !is_failed || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let reason = status.reason.as_deref().unwrap_or("Failed");
    let why = status.message.as_deref();
    let why = why.map_or_else(String::new, |message| format!(": {message}"));
    Some(PodTrouble::Creation(format!(
        "Kubernetes has ended the pod ({reason}){why}"
    )))
}

/// The reason of the condition of a pod that is not to be given a node yet.
const SCHEDULING_GATED: &str = "SchedulingGated";

/// What a pod waits for that is not Ready although nothing is wrong with it as far as Kubernetes
/// says.
fn waits_for(pod: &Pod) -> Option<PodWait> {
    if has_shut_gate(pod) {
        return Some(PodWait::Gate(shut_gates(pod)));
    }
    unready_part(pod).map(PodWait::Part)
}

/// The readiness gates that are not open, each with the reason of its condition. The kubelet has
/// nothing to do with them: a controller sets them, such as that of a load balancer once it has
/// taken the pod up.
fn shut_gates(pod: &Pod) -> String {
    let gates = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.readiness_gates.as_ref());
    let shut = gates.into_iter().flatten().filter_map(|gate| {
        let type_ = &gate.condition_type;
        let found = condition(pod, type_);
        match found.map(|found| (found.status.as_str(), found.reason.as_deref())) {
            Some(("True", _)) => None,
            Some((_, Some(reason))) if !reason.is_empty() => Some(format!("{type_} ({reason})")),
            _ => Some(type_.clone()),
        }
    });
    let shut: Vec<_> = shut.collect();
    match shut.as_slice() {
        [] => "a readiness gate of it is not open".to_owned(),
        [gate] => format!("its readiness gate {gate} is not open"),
        _ => format!("its readiness gates {} are not open", shut.join(", ")),
    }
}

/// What of a pod is not ready itself.
fn unready_part(pod: &Pod) -> Option<String> {
    let scheduled = condition(pod, "PodScheduled").and_then(|scheduled| scheduled.reason.as_ref());
    if scheduled.is_some_and(|reason| reason == SCHEDULING_GATED) {
        return Some("its scheduling gates keep it from being given a node".to_owned());
    }
    let status = pod.status.as_ref()?;
    let init = status.init_container_statuses.iter().flatten();
    let is_initialized = condition(pod, "Initialized").is_none_or(|done| done.status == "True");
    if !is_initialized {
        // Each starts when the one before it has ended, or, if that one is to go on running, when
        // it has started.
        let running = |container: &ContainerStatus| container.state.as_ref()?.running.clone();
        let mut last_first = init.rev();
        let (container, running) =
            last_first.find_map(|container| Some((container, running(container)?)))?;
        let since = running.started_at.map(|time| format!(" since {}", time.0));
        let since = since.unwrap_or_default();
        return Some(format!(
            "init container {} has been running{since}",
            container.name
        ));
    }
    let containers = init.chain(status.container_statuses.iter().flatten());
    let unready = containers.filter(|container| !container.ready && container.name != CONTAINER);
    let names: Vec<_> = unready.map(|container| container.name.as_str()).collect();
    match names[..] {
        [] => None,
        [name] => Some(format!("container {name} is not ready")),
        _ => Some(format!("containers {} are not ready", names.join(", "))),
    }
}

/// How a process failed that another one has followed: the kubelet is silent about it as long as
/// that one runs. One that was Ready since its start has left the end before it behind.
fn last_failure(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let unready = condition(pod, "Ready").and_then(|ready| ready.last_transition_time.as_ref());
    let unready = unready.map(|time| time.0);
    let status = pod.status.as_ref()?;
    let containers = [&status.container_statuses, &status.init_container_statuses];
    let mut containers = containers.into_iter().flatten().flatten();
    containers.find_map(|container| failure_before(&pod.name_any(), container, unready))
}

/// The same of one container. Bytebase ends with code 0 when it cannot start, and its log says why.
fn failure_before(
    pod: &str,
    container: &ContainerStatus,
    unready: Option<Timestamp>,
) -> Option<String> {
    let running = container.state.as_ref()?.running.as_ref()?;
    let started = running.started_at.as_ref()?.0;
    if container.ready || unready > Some(started) {
        return None;
    }
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    let at = ended.finished_at.as_ref();
    let at = at.map_or_else(String::new, |time| format!(" at {:.0}", time.0));
    let (name, restarts) = (&container.name, container.restart_count);
    let is_bytebase = name == CONTAINER;
    match last_end(container)? {
        ("OOMKilled", _) if is_bytebase => Some(format!(
            "Bytebase was killed{at} for using more memory than the limit in spec.resources allows (restart {restarts})"
        )),
        ("OOMKilled", _) => Some(format!(
            "container {name} was killed{at} for using more memory than its limit (restart {restarts})"
        )),
        (_, 0) => None,
        (_, code) if is_bytebase => Some(format!(
            "Bytebase ended with code {code}{at} (restart {restarts}; kubectl logs {pod} --previous shows more)"
        )),
        (_, code) => Some(format!(
            "container {name} ended with code {code}{at} (restart {restarts}; kubectl logs {pod} --container {name} --previous shows more)"
        )),
    }
}

/// Whether all volumes have been mounted, and the sandbox for the containers has been made after
/// that. An event of an earlier try stays for an hour.
fn is_prepared(pod: &Pod) -> bool {
    if let Some(sandbox) = condition(pod, "PodReadyToStartContainers") {
        return sandbox.status == "True";
    }
    // Before Kubernetes 1.29 only a container that was started shows it.
    let Some(status) = &pod.status else {
        return false;
    };
    let containers = [&status.init_container_statuses, &status.container_statuses];
    let mut containers = containers.into_iter().flatten().flatten();
    containers.any(|container| {
        let state = container.state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
    })
}

fn waiting_reason(container: &ContainerStatus) -> Option<&str> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    Some(waiting.reason.as_deref().unwrap_or_default())
}

/// Why a container does not run. The kubelet's own messages change with every try (a growing
/// back-off), and status must not change while nothing does; that of a handler also has what its
/// command printed. Whatever reason it gives but that all is on its way, something is wrong.
fn container_trouble(pod: &str, container: &ContainerStatus) -> Option<PodTrouble> {
    let reason = waiting_reason(container)?;
    let name = &container.name;
    let is_bytebase = name == CONTAINER;
    let which = if is_bytebase {
        "the container".to_owned()
    } else {
        format!("container {name}")
    };
    match reason {
        "" | "ContainerCreating" | "PodInitializing" => None,
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
            Some(PodTrouble::ImagePull(format!(
                "the image {} cannot be pulled (kubectl describe pod {pod} shows why)",
                container.image,
            )))
        }
        "ImageInspectError" | "RegistryUnavailable" | "SignatureValidationFailed" => {
            Some(PodTrouble::ImagePull(format!(
                "the image {} cannot be used: {reason} (kubectl describe pod {pod} shows why)",
                container.image,
            )))
        }
        "CrashLoopBackOff" => Some(PodTrouble::Crashing(match last_end(container) {
            Some(("OOMKilled", _)) if is_bytebase => "Bytebase keeps being killed for using more memory than the limit in spec.resources allows".to_owned(),
            Some(("OOMKilled", _)) => format!("container {name} keeps being killed for using more memory than its limit"),
            _ if is_bytebase => format!(
                "Bytebase keeps ending soon after its start (kubectl logs {pod} --previous shows why; it ends with code 0 even then)"
            ),
            Some((_, code)) if name == INSTALLER => format!(
                "container {name} keeps ending with code {code}: the drain hook cannot be brought into the pod, or cannot be started there, as on a node that mounts the kubelet's directory with noexec (kubectl logs {pod} --container {name} --previous shows why; with spec.rollout.drain: Disabled the pod needs none)"
            ),
            Some((_, code)) => format!(
                "container {name} keeps ending with code {code} (kubectl logs {pod} --container {name} --previous shows why)"
            ),
            None => format!(
                "container {name} keeps ending (kubectl logs {pod} --container {name} --previous shows why)"
            ),
        })),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            let message = container.state.as_ref()?.waiting.as_ref()?.message.as_deref();
            Some(PodTrouble::Creation(format!(
                "the kubelet cannot make {which}: {}",
                message.unwrap_or(reason)
            )))
        }
        _ => Some(PodTrouble::Creation(format!(
            "the kubelet cannot start {which}: {reason} (kubectl describe pod {pod} shows why)"
        ))),
    }
}

/// Reason and exit code with which a container ended last.
fn last_end(container: &ContainerStatus) -> Option<(&str, i32)> {
    let ended = container.last_state.as_ref()?.terminated.as_ref()?;
    Some((ended.reason.as_deref().unwrap_or_default(), ended.exit_code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_pod_becomes_ready_once_and_so_does_each_pod_after_it() {
        let pod = |uid: &str, ready: &str| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": uid},
                "status": {"conditions": [{"type": "Ready", "status": ready}]},
            }))
            .unwrap()
        };
        let ready = pod("b", "True");
        for (before, becomes) in [
            (None, true),
            (Some(pod("b", "False")), true),
            (Some(pod("b", "True")), false),
            (Some(pod("a", "True")), true),
        ] {
            assert_eq!(
                becomes_ready(before.as_ref(), &ready),
                becomes,
                "{before:?}"
            );
        }
        assert!(!becomes_ready(None, &pod("b", "False")));
    }

    fn running(container: &str) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "demo-1", "uid": "u"},
            "status": {"containerStatuses": [{
                "name": CONTAINER, "containerID": container, "ready": true, "restartCount": 0,
                "image": "", "imageID": "", "state": {"running": {}},
            }]},
        }))
        .unwrap()
    }

    #[test]
    fn what_is_kept_of_a_pod_shows_whether_it_has_the_drain_hook_and_how_long_that_waits() {
        let hook = json!([{"name": "other"}, {"name": INSTALLER, "image": "i"}]);
        let program = "/bytebase-drain-bin/bytebase-drain";
        let starts = json!([
            program,
            "wait",
            "--timeout=70",
            "--pause=5",
            "--hold-limit=9"
        ]);
        let shell = json!(["sh", "-c", format!("exec {program} wait --timeout=70")]);
        let paused = json!([program, "wait", "--timeout=1", "--pause=5"]);
        for (init, command, drains, seconds) in [
            (json!(null), &starts, false, None),
            (
                json!([{"name": "other", "image": "i"}]),
                &starts,
                false,
                None,
            ),
            (hook.clone(), &starts, true, Some(70)),
            (hook.clone(), &shell, true, Some(70)),
            (hook.clone(), &paused, true, Some(5)),
            (hook.clone(), &json!([program, "wait"]), true, None),
            // Another handler has taken its place.
            (hook, &json!(["sleep", "--timeout=5"]), false, None),
        ] {
            let lifecycle = json!({"preStop": {"exec": {"command": command}}});
            let mut pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "spec": {
                    "containers": [
                        {"name": "other", "image": "i"},
                        {"name": CONTAINER, "image": "i", "lifecycle": lifecycle},
                    ],
                    "initContainers": init,
                },
            }))
            .unwrap();
            trim(&mut pod);
            let seen = view(&pod, None, None).unwrap();
            assert_eq!(seen.drains, drains, "{init} {command}");
            let expected = seconds.map(SignedDuration::from_secs);
            assert_eq!(seen.drain_timeout, expected, "{init} {command}");
            let kept = pod.spec.unwrap();
            assert_eq!(kept.init_containers, None);
            assert!(kept.containers.iter().all(|kept| kept.image.is_none()));
            assert_eq!(kept.containers.len(), 1);
            assert_eq!(kept.containers[0].lifecycle.is_some(), drains);
        }
    }

    #[test]
    fn what_is_kept_of_a_pod_shows_by_which_secrets_its_hook_logs_in() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "demo-1", "uid": "u", "annotations": {CHECKSUM_ANNOTATION: "now"}},
            "spec": {"containers": [], "volumes": [
                {"name": "data", "secret": {"secretName": "other"}},
                {"name": "bytebase-drain-login", "projected": {"sources": [
                    {"secret": {"name": "login", "items": [{"key": "user", "path": "PGUSER"}]}},
                    {"secret": {"name": "login", "items": [{"key": "pass", "path": "PGPASSWORD"}]}},
                ]}},
                {"name": "bytebase-database-ca", "configMap": {
                    "name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }},
            ]},
        }))
        .unwrap();
        trim(&mut pod);
        assert_eq!(
            pod.spec.as_ref().unwrap().volumes.as_ref().unwrap().len(),
            2
        );
        let login = view(&pod, None, None).unwrap().login;
        assert_eq!(login.checksum.as_deref(), Some("now"));
        assert_eq!(login.sources, "login/user login/pass ca/ca.crt");
    }

    #[test]
    fn what_is_kept_of_a_pod_shows_the_external_url_that_it_is_started_with() {
        let url = "https://old.example.com";
        for (arguments, expected) in [
            (
                json!(["--port", "8080", EXTERNAL_URL, url, "--ha"]),
                Some(url),
            ),
            (json!(["--ha", EXTERNAL_URL]), None),
            (json!(null), None),
        ] {
            let mut pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "spec": {"containers": [
                    {"name": "other", "args": [EXTERNAL_URL, "https://other.example.com"]},
                    {"name": CONTAINER, "args": arguments},
                ]},
            }))
            .unwrap();
            trim(&mut pod);
            let seen = view(&pod, None, None).unwrap().external_url;
            assert_eq!(seen.as_deref(), expected, "{arguments}");
        }
    }

    #[test]
    fn a_node_that_does_not_report_is_distinguished_from_a_container_that_is_not_ready() {
        let pod = |ready: &str, containers: &str, reason: Option<&str>| -> Pod {
            serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "spec": {"nodeName": "node-1", "containers": []},
                "status": {
                    "conditions": [
                        {"type": "Ready", "status": ready, "reason": reason},
                        {"type": "ContainersReady", "status": containers},
                    ],
                    "containerStatuses": [{
                        "name": CONTAINER, "ready": containers == "True", "restartCount": 0,
                        "image": "", "imageID": "", "state": {"running": {}},
                    }],
                },
            }))
            .unwrap()
        };
        for (seen, silent) in [
            (pod("True", "True", None), false),
            (pod("False", "False", Some("ContainersNotReady")), false),
            (pod("False", "True", None), true),
            (pod("Unknown", "True", None), true),
            (pod("False", "True", Some("ReadinessGatesNotReady")), false),
        ] {
            let trouble = view(&seen, None, None).unwrap().trouble;
            assert_eq!(trouble.is_some(), silent, "{seen:?}");
            if let Some(trouble) = trouble {
                assert!(trouble.message().contains("node-1"), "{trouble:?}");
            }
        }
    }

    fn status(name: &str, waiting: &str, last: &Value) -> Value {
        json!({
            "name": name, "ready": false, "restartCount": 0, "image": "example.com/i:1",
            "imageID": "", "state": {"waiting": {"reason": waiting, "message": "the message"}},
            "lastState": last,
        })
    }

    fn ended(reason: &str, code: i32) -> Value {
        json!({"terminated": {"reason": reason, "exitCode": code}})
    }

    #[test]
    fn whatever_container_or_volume_keeps_a_pod_from_starting_is_named() {
        let none = || json!({});
        let crash = "CrashLoopBackOff";
        let creating = status(CONTAINER, "ContainerCreating", &none());
        let initialising = status(CONTAINER, "PodInitializing", &none());
        let cases = [
            (
                vec![],
                vec![status(CONTAINER, crash, &ended("Completed", 0))],
                "ends with code 0",
            ),
            (
                vec![],
                vec![status(CONTAINER, crash, &ended("OOMKilled", 137))],
                "more memory than the limit in spec.resources",
            ),
            (
                vec![status("copy", crash, &ended("Error", 3))],
                vec![initialising.clone()],
                "container copy keeps ending with code 3",
            ),
            (
                vec![status("copy", "ErrImagePull", &none())],
                vec![initialising.clone()],
                "image example.com/i:1 cannot be pulled",
            ),
            (
                vec![],
                vec![
                    json!({"name": CONTAINER, "ready": true, "restartCount": 0, "image": "", "imageID": "", "state": {"running": {}}}),
                    status("proxy", crash, &none()),
                ],
                "container proxy keeps ending (kubectl logs demo-1 --container proxy",
            ),
            (
                vec![],
                vec![
                    status("proxy", crash, &ended("OOMKilled", 137)),
                    creating.clone(),
                ],
                "container proxy keeps being killed for using more memory",
            ),
            (
                vec![],
                vec![
                    status("proxy", "CreateContainerConfigError", &none()),
                    creating.clone(),
                ],
                "cannot make container proxy: the message",
            ),
            (
                vec![],
                vec![creating.clone()],
                "cannot prepare the pod: secret \"gone\" not found",
            ),
            (vec![], vec![], "cannot prepare the pod"),
            (
                vec![],
                vec![status(CONTAINER, "SignatureValidationFailed", &none())],
                "image example.com/i:1 cannot be used: SignatureValidationFailed (kubectl",
            ),
            (
                vec![],
                vec![status(CONTAINER, "PostStartHookError", &none())],
                "cannot start the container: PostStartHookError (kubectl describe pod demo-1 shows",
            ),
            // Of a newer Kubernetes.
            (
                vec![status("copy", "SomethingNewError", &none())],
                vec![initialising.clone()],
                "cannot start container copy: SomethingNewError (",
            ),
        ];
        for (init, beside, words) in cases {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "status": {"initContainerStatuses": init, "containerStatuses": beside},
            }))
            .unwrap();
            let trouble = view(&pod, None, Some("secret \"gone\" not found"))
                .unwrap()
                .trouble;
            let trouble = trouble.unwrap_or_else(|| panic!("nothing: {words}"));
            assert!(trouble.message().contains(words), "{trouble:?}");
        }
        let event_of_before = view(&running("containerd://1"), None, Some("gone")).unwrap();
        assert_eq!(event_of_before.trouble, None, "it was mounted in the end");
    }

    #[test]
    fn a_pod_that_kubernetes_has_ended_or_gives_no_node_says_why() {
        let conditions = |reason: &str| json!([{"type": "PodScheduled", "status": "False", "reason": reason, "message": "the message"}]);
        for (status, is_deleted, expected) in [
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}),
                false,
                Some(PodTrouble::Creation(
                    "Kubernetes has ended the pod (Evicted): The node was low on resource: memory."
                        .to_owned(),
                )),
            ),
            (
                json!({"phase": "Failed"}),
                false,
                Some(PodTrouble::Creation(
                    "Kubernetes has ended the pod (Failed)".to_owned(),
                )),
            ),
            // Its end was asked for.
            (json!({"phase": "Failed", "reason": "Evicted"}), true, None),
            (
                json!({"phase": "Pending", "conditions": conditions("SchedulerError")}),
                false,
                Some(PodTrouble::Unschedulable(
                    "no node takes it: the message".to_owned(),
                )),
            ),
            (
                json!({"phase": "Pending", "conditions": conditions("SchedulingGated")}),
                false,
                None,
            ),
        ] {
            let mut pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "status": status,
            }))
            .unwrap();
            if is_deleted {
                pod.metadata.deletion_timestamp =
                    Some(serde_json::from_value(json!("2026-06-01T00:00:00Z")).unwrap());
            }
            assert_eq!(view(&pod, None, None).unwrap().trouble, expected);
        }
    }

    #[test]
    fn a_readiness_gate_that_is_not_open_is_named() {
        let (first, second) = ("target-health.elbv2.k8s.aws/a", "example.com/b");
        let shut = |type_: &str, status: &str, reason: Option<&str>| json!({"type": type_, "status": status, "reason": reason});
        for (gates, expected) in [
            (
                vec![shut(first, "False", Some("Target.FailedHealthChecks"))],
                "its readiness gates target-health.elbv2.k8s.aws/a (Target.FailedHealthChecks), example.com/b are not open",
            ),
            (
                vec![shut(first, "True", None)],
                "its readiness gate example.com/b is not open",
            ),
            (
                vec![shut(first, "True", None), shut(second, "True", None)],
                "a readiness gate of it is not open",
            ),
        ] {
            let mut conditions = vec![
                json!({"type": "ContainersReady", "status": "True"}),
                shut("Ready", "False", Some("ReadinessGatesNotReady")),
            ];
            conditions.extend(gates);
            let mut pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "spec": {
                    "containers": [],
                    "readinessGates": [{"conditionType": first}, {"conditionType": second}],
                },
                "status": {"conditions": conditions},
            }))
            .unwrap();
            trim(&mut pod);
            let seen = view(&pod, None, None).unwrap();
            assert_eq!(seen.waits_for, Some(PodWait::Gate(expected.to_owned())));
            assert_eq!(seen.trouble, None);
        }
    }

    #[test]
    fn finalizers_of_other_parties_are_kept() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "demo-1", "uid": "u",
                "finalizers": ["foregroundDeletion", "example.com/cloud"],
            },
        }))
        .unwrap();
        trim(&mut pod);
        let seen = view(&pod, None, None).unwrap();
        assert_eq!(seen.finalizers, ["example.com/cloud"]);
    }

    #[test]
    fn how_a_process_failed_is_said_while_the_next_one_starts() {
        let seen = |name: &str, unready: &str, ready: bool, last: Value| {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "status": {
                    "conditions": [{
                        "type": "Ready", "status": if ready { "True" } else { "False" },
                        "lastTransitionTime": unready,
                    }],
                    "containerStatuses": [{
                        "name": name, "ready": ready, "restartCount": 3, "image": "", "imageID": "",
                        "state": {"running": {"startedAt": "2026-06-01T00:00:09Z"}},
                        "lastState": last,
                    }],
                },
            }))
            .unwrap();
            let seen = view(&pod, None, None).unwrap();
            assert_eq!(seen.trouble, None);
            seen.last_failure
        };
        let ended = |reason: &str, code: i32| json!({"terminated": {"reason": reason, "exitCode": code, "finishedAt": "2026-06-01T00:00:05Z"}});
        let (before, after) = ("2026-06-01T00:00:06Z", "2026-06-01T00:01:00Z");
        let killed = || ended("OOMKilled", 137);
        for (name, unready, ready, last, expected) in [
            (
                CONTAINER,
                before,
                false,
                killed(),
                Some(
                    "Bytebase was killed at 2026-06-01T00:00:05Z for using more memory than the limit in spec.resources allows (restart 3)",
                ),
            ),
            (
                "proxy",
                before,
                false,
                killed(),
                Some(
                    "container proxy was killed at 2026-06-01T00:00:05Z for using more memory than its limit (restart 3)",
                ),
            ),
            (
                CONTAINER,
                before,
                false,
                ended("Error", 2),
                Some(
                    "Bytebase ended with code 2 at 2026-06-01T00:00:05Z (restart 3; kubectl logs demo-1 --previous shows more)",
                ),
            ),
            // Its log says why, and is quoted.
            (CONTAINER, before, false, ended("Completed", 0), None),
            (CONTAINER, before, false, json!({}), None),
            // It has been Ready since, and is not any more for another reason.
            (CONTAINER, after, false, killed(), None),
            (CONTAINER, after, true, killed(), None),
        ] {
            let failure = seen(name, unready, ready, last);
            assert_eq!(failure.as_deref(), expected);
        }
    }

    #[test]
    fn what_a_pod_waits_for_is_named_and_is_no_trouble() {
        let container = |name: &str, ready: bool, state: Value| json!({"name": name, "ready": ready, "restartCount": 0, "image": "", "imageID": "", "state": state});
        let runs = || json!({"running": {"startedAt": "2026-06-01T00:00:00Z"}});
        let ended = || container("copy", true, json!({"terminated": {"exitCode": 0}}));
        let bytebase = |ready| container(CONTAINER, ready, runs());
        let condition = |type_: &str, status: &str, reason: Option<&str>| json!([{"type": type_, "status": status, "reason": reason}]);
        let initialized = |status| condition("Initialized", status, None);
        let init_runs = "init container migrate has been running since 2026-06-01T00:00:00Z";
        for (conditions, init, beside, expected) in [
            (
                condition("PodScheduled", "False", Some("SchedulingGated")),
                vec![],
                vec![],
                Some("its scheduling gates keep it from being given a node"),
            ),
            // A proxy that goes on running, then one that is to end.
            (
                initialized("False"),
                vec![
                    ended(),
                    container("proxy", true, runs()),
                    container("migrate", false, runs()),
                ],
                vec![],
                Some(init_runs),
            ),
            (
                initialized("True"),
                vec![ended(), container("proxy", false, runs())],
                vec![bytebase(true), container("shipper", false, runs())],
                Some("containers proxy, shipper are not ready"),
            ),
            (
                initialized("True"),
                vec![],
                vec![bytebase(false), container("shipper", false, runs())],
                Some("container shipper is not ready"),
            ),
            (
                initialized("True"),
                vec![ended()],
                vec![bytebase(false)],
                None,
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "status": {
                    "conditions": conditions,
                    "initContainerStatuses": init,
                    "containerStatuses": beside,
                },
            }))
            .unwrap();
            let seen = view(&pod, None, None).unwrap();
            let expected = expected.map(|text| PodWait::Part(text.to_owned()));
            assert_eq!(seen.waits_for, expected);
            assert_eq!(seen.trouble, None);
        }
    }

    #[test]
    fn a_volume_that_was_mounted_in_the_end_explains_nothing() {
        let creating = || status(CONTAINER, "ContainerCreating", &json!({}));
        let state = |state: Value| json!({"name": "copy", "ready": false, "restartCount": 0, "image": "", "imageID": "", "state": state});
        let sandbox =
            |status: &str| json!([{"type": "PodReadyToStartContainers", "status": status}]);
        let ended = state(json!({"terminated": {"exitCode": 0}}));
        for (conditions, init, explains) in [
            (json!([]), json!([]), true),
            (sandbox("False"), json!([]), true),
            // The image is being pulled.
            (sandbox("True"), json!([]), false),
            (json!([]), json!([state(json!({"running": {}}))]), false),
            (json!([]), json!([ended.clone()]), false),
            // The node was started again since.
            (sandbox("False"), json!([ended.clone()]), true),
        ] {
            let pod: Pod = serde_json::from_value(json!({
                "metadata": {"name": "demo-1", "uid": "u"},
                "status": {
                    "conditions": conditions,
                    "initContainerStatuses": init,
                    "containerStatuses": [creating()],
                },
            }))
            .unwrap();
            let trouble = view(&pod, None, Some("gone")).unwrap().trouble;
            assert_eq!(trouble.is_some(), explains, "{pod:?}");
        }
    }
}
