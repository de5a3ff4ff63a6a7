//! Server-side apply, prune and evict.

use super::error::{Ending, is_of_a_webhook};
use super::{ApplyFailure, FIELD_MANAGER, FailureKind};
use crate::decide::plan::Size;
use crate::decide::rollout::step::Eviction;
use crate::desired::DesiredObject;
use crate::desired::ownership::{HASH_ANNOTATION, Owner};
use crate::kubernetes::Kind;
use crate::kubernetes::contains::{contains, difference, keep_challenges};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1 as policy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    self as meta, DeleteOptions, ManagedFieldsEntry, ObjectMeta,
};
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions,
};
use kube::core::{GroupVersionKind, Status};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// In what the API server answers where two budgets select one pod; the code is 500.
const TWO_BUDGETS: &str = "more than one PodDisruptionBudget";

/// Reason of the cause that the API server gives where a PodDisruptionBudget refuses an eviction.
const BUDGET: &str = "DisruptionBudget";

/// What came of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It already stood.
    Unchanged,
    /// It seemed to differ, and the API server changed nothing when it was written: it stores some
    /// of it in a form of its own (an explicit `false` is dropped), or a webhook sets this field
    /// back.
    Kept(Option<String>),
    /// It was written.
    Written,
    /// It is being deleted, whoever's it is.
    Ending(Ending),
    /// An earlier cluster of this name has left it behind, and the garbage collector has not come
    /// to it yet. When it was made.
    LeftBehind(Option<Timestamp>),
}

/// What came of an eviction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// The pod is ending.
    Done,
    /// It had gone already, or another one has its name.
    Gone,
    /// A PodDisruptionBudget does not let it go now; in the words of the API server.
    Refused(String),
    /// Whether the pod is ending is not known.
    Unanswered(ApplyFailure),
}

/// The resource of a kind.
pub fn resource(kind: Kind) -> ApiResource {
    let named = GroupVersionKind::gvk(kind.group(), kind.version(), kind.name());
    ApiResource::from_gvk_with_plural(&named, kind.plural())
}

/// Hash of a desired object: 16 hexadecimal digits.
pub fn hash(object: &DesiredObject) -> String {
    let mut hash = hex::encode(Sha256::digest(object.value.to_string().as_bytes()));
    hash.truncate(16);
    hash
}

/// Whether an object stands as it is wanted.
pub fn stands(desired: &DesiredObject, live: &DynamicObject) -> bool {
    is_current(live, &with_hash(desired))
}

/// Whether this is a StatefulSet that makes and replaces its pods as it is wanted, and no fewer of
/// them, whatever its labels and its annotations are. Of a smaller one it was decided that all of
/// its pods carry the load.
pub fn makes_wanted_pods(desired: &DesiredObject, live: &DynamicObject) -> bool {
    let mut spec = desired.value["spec"].clone();
    if let Some(spec) = spec.as_object_mut() {
        spec.retain(|field, _| !["replicas", "ordinals"].contains(&field.as_str()));
    }
    let size = |spec: &Value| spec["replicas"].as_i64().unwrap_or(1);
    desired.kind == Kind::StatefulSet
        && size(&live.data["spec"]) >= size(&desired.value["spec"])
        && contains(&live.data["spec"], &spec)
}

/// The desired object with the hash of itself.
fn with_hash(object: &DesiredObject) -> Value {
    let mut value = object.value.clone();
    value["metadata"]["annotations"][HASH_ANNOTATION] = json!(hash(object));
    value
}

/// Writes objects of one cluster in one namespace.
pub struct Objects<'a> {
    /// Client for writes.
    pub client: &'a Client,
    /// Namespace of the cluster.
    pub namespace: &'a str,
    /// The cluster: what is not its own is not touched.
    pub owner: Owner<'a>,
}

impl Objects<'_> {
    fn api(&self, kind: Kind) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), self.namespace, &resource(kind))
    }

    /// Reads one object, where no watch shows it.
    pub async fn read(
        &self,
        kind: Kind,
        name: &str,
    ) -> Result<Option<DynamicObject>, ApplyFailure> {
        let live = self.api(kind).get_opt(name).await;
        live.map_err(|error| {
            let what = format!("get {}/{name}", kind.plural());
            ApplyFailure::new(&error, &what, kind.exposes())
        })
    }

    /// Makes one object stand. `cached`: the object as the watch last saw it; `None` may also mean
    /// that it carries other labels.
    pub async fn apply(
        &self,
        desired: &DesiredObject,
        cached: Option<DynamicObject>,
    ) -> Result<Applied, ApplyFailure> {
        let api = self.api(desired.kind);
        let value = with_hash(desired);
        let is_seen = cached.is_some();
        let live = match cached {
            Some(live) => live,
            None => match self.create(&api, desired, &value).await? {
                Some(live) => live,
                None => return Ok(Applied::Written),
            },
        };
        if let Some(since) = &live.metadata.deletion_timestamp {
            return Ok(Applied::Ending(Ending {
                since: since.0,
                finalizers: live.finalizers().to_vec(),
                is_watched: is_seen,
            }));
        }
        if self.owner.succeeds_owner_of(&live) {
            let made = live.creation_timestamp();
            return Ok(Applied::LeftBehind(made.map(|time| time.0)));
        }
        if !self.owner.has(&live) {
            return Err(ApplyFailure::name_taken(desired));
        }
        if !is_seen && desired.kind == Kind::StatefulSet && self.owner.controls(&live) {
            // It was decided on as if there were none: the labels show it to the next decision.
            // Where it has them, the watch is late.
            let labels = json!({"metadata": {"labels": value["metadata"]["labels"]}});
            if is_current(&live, &labels) {
                return Ok(Applied::Unchanged);
            }
            self.label(&api, desired, &live).await?;
            return Ok(Applied::Written);
        }
        if is_current(&live, &value) {
            return Ok(Applied::Unchanged);
        }
        let mut value = value;
        // A precondition: never the successor of the object that was read.
        value["metadata"]["uid"] = json!(live.uid());
        if matches!(desired.kind, Kind::StatefulSet | Kind::Ingress) {
            // Another one: the size and the template of the one, and the paths of the other that
            // are a third party's, were taken from this very version.
            value["metadata"]["resourceVersion"] = json!(live.resource_version());
        }
        if desired.kind == Kind::Ingress {
            keep_challenges(&live.data, &mut value);
        }
        let written = self.write(&api, desired, value).await?;
        let version = written.resource_version();
        Ok(if version.is_some() && version == live.resource_version() {
            Applied::Kept(difference(&json!(live), &with_hash(desired)))
        } else {
            Applied::Written
        })
    }

    /// Applies what is there already. What another writer's entries make impossible replaces them.
    async fn write(
        &self,
        api: &Api<DynamicObject>,
        desired: &DesiredObject,
        mut value: Value,
    ) -> Result<DynamicObject, ApplyFailure> {
        let written = match self.patch(api, desired, value.clone()).await {
            Err(failure) if failure.kind == FailureKind::Invalid => {
                let overwritten = self.overwrite(api, desired, &value).await?;
                let disowned = self.disown(api, desired, overwritten).await?;
                if let Some(version) = value["metadata"].get_mut("resourceVersion") {
                    *version = json!(disowned.resource_version());
                }
                self.patch(api, desired, value).await?
            }
            done => done?,
        };
        self.disown(api, desired, written).await
    }

    /// Gives up what this operator owns by writes that were no applies. The API server counts those
    /// for another owner, who would keep each field that a later apply leaves out.
    async fn disown(
        &self,
        api: &Api<DynamicObject>,
        desired: &DesiredObject,
        object: DynamicObject,
    ) -> Result<DynamicObject, ApplyFailure> {
        let is_plain_write = |entry: &ManagedFieldsEntry| {
            entry.manager.as_deref() == Some(FIELD_MANAGER)
                && entry.operation.as_deref() == Some("Update")
                && entry.subresource.is_none()
        };
        let managers = object.metadata.managed_fields.iter().flatten();
        let (given_up, kept): (Vec<_>, Vec<_>) = managers.partition(|entry| is_plain_write(entry));
        if given_up.is_empty() {
            return Ok(object);
        }
        // A precondition: the list is replaced as a whole.
        let patch = json!({"metadata": {
            "uid": object.uid(), "resourceVersion": object.resource_version(), "managedFields": kept,
        }});
        match self.merge(api, desired, patch).await {
            // A controller was faster. The next write that is answered with them gives them up.
            Err(failure) if failure.kind == FailureKind::Conflict => Ok(object),
            done => done,
        }
    }

    /// The other field manager that changed an object last since the operator did, if that can be
    /// read.
    pub async fn last_manager(&self, desired: &DesiredObject) -> Option<String> {
        let live = self.api(desired.kind).get_opt(&desired.name).await;
        last_since_ours(live.ok()??.metadata.managed_fields?)
    }

    /// Makes an object that the cache does not hold. Returns the one that is there after all,
    /// untouched: of another owner, or ours without its labels.
    async fn create(
        &self,
        api: &Api<DynamicObject>,
        desired: &DesiredObject,
        value: &Value,
    ) -> Result<Option<DynamicObject>, ApplyFailure> {
        // A precondition: whatever is there is younger, so the apply makes a new object or fails.
        let mut first = value.clone();
        first["metadata"]["resourceVersion"] = json!("1");
        let refused = match self.make(api, desired, first).await {
            Ok(()) => return Ok(None),
            Err(refused) => match refused.kind {
                FailureKind::Conflict | FailureKind::Refused | FailureKind::Invalid => refused,
                _ => return Err(refused),
            },
        };
        let live = api.get_opt(&desired.name).await;
        match live.map_err(|error| failure(&error, "get", desired))? {
            Some(live) => Ok(Some(live)),
            None if refused.kind != FailureKind::Conflict => Err(refused),
            // It has just gone. Without force: should another client make one of this name now, a
            // conflict shows it.
            None => {
                let made = self.make(api, desired, value.clone()).await;
                made.map(|()| None)
            }
        }
    }

    /// A server-side apply merges lists by key, so an entry that another writer put beside ours
    /// stays, and may clash with it (a second port of the same name). Where that is refused, our
    /// lists replace what is there.
    async fn overwrite(
        &self,
        api: &Api<DynamicObject>,
        desired: &DesiredObject,
        value: &Value,
    ) -> Result<DynamicObject, ApplyFailure> {
        let mut patch =
            json!({"metadata": {"uid": value["metadata"]["uid"]}, "spec": value["spec"]});
        if let Some(version) = value["metadata"].get("resourceVersion") {
            patch["metadata"]["resourceVersion"] = version.clone();
        }
        self.merge(api, desired, patch).await
    }

    /// Gives an object of this cluster the labels by which the watch sees it, and changes nothing
    /// else.
    async fn label(
        &self,
        api: &Api<DynamicObject>,
        desired: &DesiredObject,
        live: &DynamicObject,
    ) -> Result<(), ApplyFailure> {
        let labels = &desired.value["metadata"]["labels"];
        let patch = json!({"metadata": {"uid": live.uid(), "labels": labels}});
        self.merge(api, desired, patch).await.map(drop)
    }

    async fn merge(
        &self,
        api: &Api<DynamicObject>,
        desired: &DesiredObject,
        patch: Value,
    ) -> Result<DynamicObject, ApplyFailure> {
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let done = api
            .patch(&desired.name, &parameters, &Patch::Merge(patch))
            .await;
        done.map_err(|error| failure(&error, "patch", desired))
    }

    async fn patch(
        &self,
        api: &Api<DynamicObject>,
        desired: &DesiredObject,
        mut value: Value,
    ) -> Result<DynamicObject, ApplyFailure> {
        hold_the_owner(&mut value);
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let done = api
            .patch(&desired.name, &parameters, &Patch::Apply(value))
            .await;
        done.map_err(|error| failure(&error, "patch", desired))
    }

    /// Applies what is not known to be there. No more than the metadata of the new object is asked
    /// for in return, which spares both sides the rest: a thousand new clusters are six thousand
    /// answers.
    async fn make(
        &self,
        api: &Api<DynamicObject>,
        desired: &DesiredObject,
        mut value: Value,
    ) -> Result<(), ApplyFailure> {
        hold_the_owner(&mut value);
        let parameters = PatchParams::apply(FIELD_MANAGER);
        let done = api
            .patch_metadata(&desired.name, &parameters, &Patch::Apply(value))
            .await;
        done.map(drop)
            .map_err(|error| failure(&error, "patch", desired))
    }

    /// Deletes the cluster's object of a kind that is no longer wanted, if it is ours: also one
    /// that a cluster of this name has left without an owner, which would be owned again if it were
    /// wanted. True if there was one.
    pub async fn prune(&self, kind: Kind, cached: &DynamicObject) -> Result<bool, ApplyFailure> {
        if !self.owner.has(cached) || cached.metadata.deletion_timestamp.is_some() {
            return Ok(false);
        }
        let name = cached.name_any();
        let parameters = DeleteParams {
            preconditions: Some(Preconditions {
                uid: cached.uid(),
                resource_version: None,
            }),
            ..DeleteParams::background()
        };
        match self.api(kind).delete(&name, &parameters).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(false),
            Err(error) => Err(ApplyFailure::new(
                &error,
                &format!("delete {}/{name}", kind.plural()),
                kind.exposes(),
            )),
        }
    }

    /// Changes nothing of a StatefulSet but its size, for a cluster whose spec cannot be used.
    /// False if it has changed or gone in between.
    pub async fn resize(&self, cached: &DynamicObject, size: Size) -> Result<bool, ApplyFailure> {
        if !self.owner.has(cached) || cached.metadata.deletion_timestamp.is_some() {
            return Ok(false);
        }
        let name = cached.name_any();
        let start = (size.start != 0).then(|| json!({"start": size.start}));
        // A precondition: what was decided was decided on this very version.
        let patch = json!({
            "metadata": {"uid": cached.uid(), "resourceVersion": cached.resource_version()},
            "spec": {"replicas": size.replicas, "ordinals": start},
        });
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(Kind::StatefulSet);
        match api.patch(&name, &parameters, &Patch::Merge(patch)).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if has_gone_on(&status) => Ok(false),
            Err(error) => {
                let what = format!("patch statefulsets/{name}");
                Err(ApplyFailure::new(&error, &what, false))
            }
        }
    }

    /// Ends a pod through the eviction API, which honours every PodDisruptionBudget.
    pub async fn evict(&self, eviction: &Eviction) -> Result<Evicted, ApplyFailure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), self.namespace);
        // Not by the client's own call for it, which names this field in a way that the API server
        // does not know and passes over.
        let request = policy::Eviction {
            metadata: ObjectMeta {
                name: Some(eviction.pod.clone()),
                ..ObjectMeta::default()
            },
            delete_options: Some(DeleteOptions {
                preconditions: Some(meta::Preconditions {
                    uid: Some(eviction.uid.clone()),
                    resource_version: None,
                }),
                ..DeleteOptions::default()
            }),
        };
        let parameters = PostParams::default();
        let done = api
            .create_subresource::<_, Status>("eviction", &eviction.pod, &parameters, &request)
            .await;
        match done {
            Ok(_) => Ok(Evicted::Done),
            Err(kube::Error::Api(status)) if has_gone_on(&status) => Ok(Evicted::Gone),
            Err(kube::Error::Api(status)) if let Some(why) = refusal_of_budget(&status) => {
                Ok(Evicted::Refused(why))
            }
            // Which of the two would count is nowhere laid down, so neither does.
            Err(kube::Error::Api(status)) if status.message.contains(TWO_BUDGETS) => {
                Ok(Evicted::Refused(status.message.clone()))
            }
            Err(error) => {
                let what = format!("create pods/{}/eviction", eviction.pod);
                let failure = ApplyFailure::new(&error, &what, false);
                let is_busy = matches!(&error, kube::Error::Api(status) if status.code < 500);
                if failure.kind == FailureKind::Transient && !is_busy {
                    Ok(Evicted::Unanswered(failure))
                } else {
                    Err(failure)
                }
            }
        }
    }
}

/// A foreground deletion of a cluster waits for its objects. This is written with whatever else is,
/// and no reason to write: an upgrade of the operator must not write every object there is.
fn hold_the_owner(value: &mut Value) {
    let owners = value["metadata"]["ownerReferences"].as_array_mut();
    for owner in owners.into_iter().flatten() {
        owner["blockOwnerDeletion"] = json!(true);
    }
}

/// Whether an object is not any more what was decided on: gone, or changed. A webhook may deny a
/// request by the same codes.
fn has_gone_on(status: &Status) -> bool {
    matches!(status.code, 404 | 409) && !is_of_a_webhook(&status.message)
}

/// Why a PodDisruptionBudget refuses an eviction, if one does. An API server that is busy answers
/// with the same code.
fn refusal_of_budget(status: &Status) -> Option<String> {
    if status.code != 429 {
        return None;
    }
    // The message is the same for all; the cause names the budget and its numbers.
    let causes = status.details.as_ref().map(|details| &details.causes);
    let mut causes = causes.into_iter().flatten();
    let cause = causes.find(|cause| cause.reason == BUDGET);
    match cause {
        Some(cause) => Some(cause.message.clone()),
        None => (status.message.contains("disruption budget")).then(|| status.message.clone()),
    }
}

fn failure(error: &kube::Error, verb: &str, desired: &DesiredObject) -> ApplyFailure {
    let plural = desired.kind.plural();
    let what = format!("{verb} {plural}/{}", desired.name);
    let failure = ApplyFailure::new(error, &what, desired.kind.exposes());
    let namespace = desired.value["metadata"]["namespace"].as_str();
    failure.without_others(namespace.unwrap_or_default())
}

fn is_current(live: &DynamicObject, desired: &Value) -> bool {
    // Kubernetes' own types are JSON; one that were not would merely be applied again.
    serde_json::to_value(live).is_ok_and(|live| contains(&live, desired))
}

/// The other field manager that changed an object last, unless that was before the operator did:
/// one that set other fields long ago changes nothing back.
fn last_since_ours(entries: Vec<ManagedFieldsEntry>) -> Option<String> {
    let at = |entry: &ManagedFieldsEntry| entry.time.as_ref().map(|time| time.0);
    let (ours, others): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .filter(|entry| entry.subresource.is_none())
        .partition(|entry| entry.manager.as_deref() == Some(FIELD_MANAGER));
    let last = others.into_iter().max_by_key(at)?;
    // Within one second the order is not known.
    let is_since = at(&last) >= ours.iter().map(at).max().flatten();
    last.manager.filter(|_| is_since)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::api_server;
    use parking_lot::Mutex;
    use std::collections::VecDeque;
    use std::sync::Arc;

    type Call = (String, String, Value);

    /// A scripted API server: gives these answers in turn, and keeps what was asked.
    fn respond(answers: Vec<(u16, Value)>) -> (Client, Arc<Mutex<Vec<Call>>>) {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&calls);
        let mut answers = VecDeque::from(answers);
        let client = api_server("team", move |method, uri, body| {
            let query = uri.query().unwrap_or_default();
            let call = (method.to_owned(), query.to_owned(), body);
            log.lock().push(call);
            Some(answers.pop_front().unwrap())
        });
        (client, calls)
    }

    const OWNER: Owner<'static> = Owner {
        uid: "ours",
        name: "demo",
    };

    fn desired() -> DesiredObject {
        DesiredObject {
            kind: Kind::Service,
            name: "demo".to_owned(),
            value: json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "demo", "namespace": "team"},
                "spec": {"ports": [{"port": 80}]},
            }),
        }
    }

    #[test]
    fn a_statefulset_of_fewer_pods_does_not_make_the_wanted_ones() {
        let spec = |replicas| json!({"replicas": replicas, "template": {"spec": {}}});
        let desired = DesiredObject {
            kind: Kind::StatefulSet,
            value: json!({"spec": spec(3)}),
            ..desired()
        };
        for (replicas, expected) in [(3, true), (4, true), (1, false)] {
            let live = serde_json::from_value(json!({"metadata": {}, "spec": spec(replicas)}));
            let live = live.unwrap();
            assert_eq!(makes_wanted_pods(&desired, &live), expected, "{live:?}");
        }
    }

    fn live(owner: &str) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {
                "name": "demo", "namespace": "team", "uid": "of-the-service", "resourceVersion": "7",
                "ownerReferences": [{
                    "apiVersion": "bytebase.com/v1alpha1", "kind": "BytebaseCluster", "name": "demo",
                    "uid": owner, "controller": true,
                }],
            },
            "spec": {"ports": [{"port": 80}]},
        })
    }

    fn status(code: u16) -> (u16, Value) {
        let reason = if code == 404 { "NotFound" } else { "" };
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": "refused",
        });
        (code, status)
    }

    /// A webhook that denies the request by this code.
    fn denied(code: u16) -> (u16, Value) {
        let (code, mut status) = status(code);
        status["message"] = json!("admission webhook \"w\" denied the request: not on a Friday");
        (code, status)
    }

    /// What comes of an object that the cache does not hold, and the methods that were called.
    async fn make(answers: Vec<(u16, Value)>) -> (Result<Applied, FailureKind>, String, Vec<Call>) {
        let (client, calls) = respond(answers);
        let objects = Objects {
            client: &client,
            namespace: "team",
            owner: OWNER,
        };
        let done = objects.apply(&desired(), None).await;
        let calls = calls.lock().clone();
        let methods: Vec<_> = calls.iter().map(|(method, ..)| method.as_str()).collect();
        (
            done.map_err(|failure| failure.kind),
            methods.join(" "),
            calls,
        )
    }

    #[test]
    fn only_a_manager_that_wrote_since_the_operator_did_has_changed_an_object_back() {
        for (seconds, expected) in [(9, None), (10, Some("other")), (11, Some("other"))] {
            let entries = json!([
                {"manager": "other", "time": format!("2026-06-01T00:00:{seconds:02}Z")},
                {"manager": "older", "time": "2026-06-01T00:00:01Z"},
                {"manager": FIELD_MANAGER, "time": "2026-06-01T00:00:10Z"},
                {"manager": FIELD_MANAGER, "time": "2026-06-01T00:00:05Z"},
                {"manager": "status", "subresource": "status", "time": "2026-06-01T00:00:59Z"},
            ]);
            let entries = serde_json::from_value(entries).unwrap();
            assert_eq!(last_since_ours(entries).as_deref(), expected, "{seconds}");
        }
        // Whoever took all fields over leaves no entry of the operator's.
        let entries = json!([{"manager": "other", "time": "2026-06-01T00:00:01Z"}]);
        let entries = serde_json::from_value(entries).unwrap();
        assert_eq!(last_since_ours(entries).as_deref(), Some("other"));
    }

    #[tokio::test]
    async fn a_new_object_takes_one_call_that_fails_where_there_is_one() {
        let (done, methods, calls) = make(vec![(201, live("ours"))]).await;
        assert_eq!((done, methods.as_str()), (Ok(Applied::Written), "PATCH"));
        assert_eq!(calls[0].2["metadata"]["resourceVersion"], "1");
        assert!(!calls[0].1.contains("force"), "{}", calls[0].1);
    }

    #[tokio::test]
    async fn a_foreground_deletion_waits_for_what_is_written_and_nothing_is_written_for_that() {
        let mut wanted = desired();
        wanted.value["metadata"]["ownerReferences"] =
            live("ours")["metadata"]["ownerReferences"].clone();
        let mut standing = live("ours");
        standing["metadata"]["annotations"] = json!({HASH_ANNOTATION: hash(&wanted)});
        let mut answer = live("ours");
        answer["metadata"]["resourceVersion"] = json!("8");
        let mut changed = wanted.clone();
        changed.value["spec"]["ports"] = json!([{"port": 81}]);
        let cached: DynamicObject = serde_json::from_value(standing).unwrap();
        for (wanted, cached, calls_made) in [
            (&wanted, Some(cached.clone()), 0),
            (&changed, Some(cached), 1),
            (&wanted, None, 1),
        ] {
            let (client, calls) = respond(vec![(200, answer.clone())]);
            let objects = Objects {
                client: &client,
                namespace: "team",
                owner: OWNER,
            };
            objects.apply(wanted, cached).await.unwrap();
            let calls = calls.lock();
            assert_eq!(calls.len(), calls_made);
            for (_, _, body) in calls.iter() {
                let owner = &body["metadata"]["ownerReferences"][0];
                assert_eq!(owner["blockOwnerDeletion"], true, "{body}");
            }
        }
    }

    #[tokio::test]
    async fn what_an_operator_left_without_an_owner_is_owned_again() {
        let mut orphan = live("ours");
        let metadata = &mut orphan["metadata"];
        metadata["ownerReferences"] = Value::Null;
        metadata["labels"] = json!({
            "app.kubernetes.io/managed-by": "bytebase-operator", "bytebase.com/cluster": "demo",
        });
        let plain = vec![status(409), (200, orphan.clone())];
        let (done, ..) = make(plain).await;
        assert_eq!(
            done,
            Err(FailureKind::NameTaken),
            "anybody may have made it"
        );
        orphan["metadata"]["annotations"] = json!({HASH_ANNOTATION: "of an earlier spec"});
        let mut written = live("ours");
        written["metadata"]["resourceVersion"] = json!("8");
        let (done, methods, calls) = make(vec![status(409), (200, orphan), (200, written)]).await;
        assert_eq!(
            (done, methods.as_str()),
            (Ok(Applied::Written), "PATCH GET PATCH")
        );
        assert_eq!(calls[2].2["metadata"]["uid"], "of-the-service");
    }

    #[tokio::test]
    async fn what_is_no_longer_wanted_goes_if_it_is_ours_or_was_left_without_an_owner() {
        let mut orphan = live("ours");
        let metadata = &mut orphan["metadata"];
        metadata["ownerReferences"] = Value::Null;
        metadata["labels"] = json!({
            "app.kubernetes.io/managed-by": "bytebase-operator", "bytebase.com/cluster": "demo",
        });
        let plain = orphan.clone();
        orphan["metadata"]["annotations"] = json!({HASH_ANNOTATION: "of an earlier spec"});
        let mut of_another_name = orphan.clone();
        of_another_name["metadata"]["labels"]["bytebase.com/cluster"] = json!("other");
        let mut ending = orphan.clone();
        ending["metadata"]["deletionTimestamp"] = json!("2026-06-01T00:00:00Z");
        for (name, standing, goes) in [
            ("ours", live("ours"), true),
            ("another's", live("theirs"), false),
            ("an orphan", orphan, true),
            ("anybody's", plain, false),
            ("an orphan of another cluster", of_another_name, false),
            ("an orphan that is being deleted", ending, false),
        ] {
            let done = json!({"kind": "Status", "apiVersion": "v1", "status": "Success"});
            let (client, calls) = respond(vec![(200, done)]);
            let objects = Objects {
                client: &client,
                namespace: "team",
                owner: OWNER,
            };
            let cached: DynamicObject = serde_json::from_value(standing).unwrap();
            let pruned = objects.prune(Kind::Ingress, &cached).await.unwrap();
            assert_eq!(pruned, goes, "{name}");
            let calls = calls.lock();
            assert_eq!(calls.len(), usize::from(goes), "{name}");
            for (method, _, body) in calls.iter() {
                assert_eq!(method, "DELETE");
                assert_eq!(body["preconditions"]["uid"], "of-the-service", "{name}");
            }
        }
    }

    #[tokio::test]
    async fn what_stands_in_the_way_is_touched_only_if_it_is_ours() {
        let mut theirs = live("theirs");
        theirs["metadata"]["ownerReferences"][0]["name"] = json!("other");
        for refusal in [409, 422] {
            let (done, methods, _) = make(vec![status(refusal), (200, theirs.clone())]).await;
            assert_eq!(
                (done, methods.as_str()),
                (Err(FailureKind::NameTaken), "PATCH GET")
            );
        }
        let mut written = live("ours");
        written["metadata"]["resourceVersion"] = json!("8");
        let ours = vec![status(409), (200, live("ours")), (200, written)];
        let (done, methods, calls) = make(ours).await;
        assert_eq!(
            (done, methods.as_str()),
            (Ok(Applied::Written), "PATCH GET PATCH")
        );
        assert_eq!(calls[2].2["metadata"]["uid"], "of-the-service");
        assert!(calls[2].2["metadata"]["resourceVersion"].is_null());
    }

    #[tokio::test]
    async fn what_is_taken_out_of_an_object_is_written_although_nothing_lacks() {
        let mut labelled = desired();
        labelled.value["metadata"]["labels"] = json!({"team": "data"});
        let mut standing = live("ours");
        standing["metadata"]["labels"] = json!({"team": "data"});
        standing["metadata"]["annotations"] = json!({HASH_ANNOTATION: hash(&labelled)});
        let cached: DynamicObject = serde_json::from_value(standing.clone()).unwrap();
        let mut written = live("ours");
        written["metadata"]["resourceVersion"] = json!("8");
        for (wanted, expected, calls_made) in [
            (labelled, Applied::Unchanged, 0),
            (desired(), Applied::Written, 1),
        ] {
            let (client, calls) = respond(vec![(200, written.clone())]);
            let objects = Objects {
                client: &client,
                namespace: "team",
                owner: OWNER,
            };
            let done = objects.apply(&wanted, Some(cached.clone())).await;
            assert_eq!(done.map_err(|failure| failure.kind), Ok(expected));
            let calls = calls.lock();
            assert_eq!(calls.len(), calls_made);
            for (_, query, body) in calls.iter() {
                assert!(query.contains("force=true"), "{query}");
                assert!(body["metadata"].get("labels").is_none(), "{body}");
            }
        }
    }

    /// Such as another `loadBalancerClass` of a Service that is a load balancer.
    #[tokio::test]
    async fn a_field_that_cannot_change_is_reported_in_the_words_of_the_api_server() {
        let why = "Service \"demo\" is invalid: spec.loadBalancerClass: Invalid value: \"example.com/two\": may not change once set";
        let refusal = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid", "message": why,
        });
        let mut wanted = desired();
        wanted.value["spec"]["loadBalancerClass"] = json!("example.com/two");
        let (client, calls) = respond(vec![(422, refusal.clone()), (422, refusal)]);
        let objects = Objects {
            client: &client,
            namespace: "team",
            owner: OWNER,
        };
        let cached = serde_json::from_value(live("ours")).unwrap();
        let failure = objects.apply(&wanted, Some(cached)).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::Invalid);
        assert!(failure.message.contains(why), "{}", failure.message);
        let calls = calls.lock();
        assert!(calls.iter().all(|(method, ..)| method == "PATCH"));
    }

    #[tokio::test]
    async fn what_is_being_deleted_is_not_written_and_its_finalizers_are_named() {
        let mut ending = live("ours");
        ending["metadata"]["deletionTimestamp"] = json!("2026-06-01T00:00:00Z");
        ending["metadata"]["finalizers"] = json!(["example.com/cloud"]);
        let (client, calls) = respond(vec![]);
        let objects = Objects {
            client: &client,
            namespace: "team",
            owner: OWNER,
        };
        // Whoever's it is: that of an earlier cluster of this name may take minutes to end.
        for owner in ["ours", "theirs"] {
            ending["metadata"]["ownerReferences"][0]["uid"] = json!(owner);
            let cached = serde_json::from_value(ending.clone()).unwrap();
            let done = objects.apply(&desired(), Some(cached)).await;
            let expected = Applied::Ending(Ending {
                since: "2026-06-01T00:00:00Z".parse().unwrap(),
                finalizers: vec!["example.com/cloud".to_owned()],
                is_watched: true,
            });
            assert_eq!(done, Ok(expected), "{owner}");
        }
        assert!(calls.lock().is_empty());
        // The watch does not show the end of what lacks the operator's labels.
        let (done, ..) = make(vec![status(409), (200, ending)]).await;
        assert!(
            matches!(&done, Ok(Applied::Ending(ending)) if !ending.is_watched),
            "{done:?}"
        );
    }

    #[tokio::test]
    async fn what_an_earlier_cluster_of_this_name_has_left_behind_is_not_written() {
        let mut left = live("theirs");
        left["metadata"]["creationTimestamp"] = json!("2026-06-01T00:00:00Z");
        let (client, calls) = respond(vec![]);
        let objects = Objects {
            client: &client,
            namespace: "team",
            owner: OWNER,
        };
        let cached = serde_json::from_value(left).unwrap();
        let done = objects.apply(&desired(), Some(cached)).await;
        let made = "2026-06-01T00:00:00Z".parse().unwrap();
        assert_eq!(done, Ok(Applied::LeftBehind(Some(made))));
        assert!(calls.lock().is_empty());
    }

    #[tokio::test]
    async fn a_write_that_changes_nothing_is_noticed() {
        let kept = |field: Option<&str>| Applied::Kept(field.map(str::to_owned));
        for (after, field, value, expected) in [
            // The API server does not store it.
            ("7", "publishNotReadyAddresses", json!(false), kept(None)),
            // A webhook sets it back.
            ("7", "type", json!("NodePort"), kept(Some("spec.type"))),
            ("8", "type", json!("NodePort"), Applied::Written),
        ] {
            let mut wanted = desired();
            wanted.value["spec"][field] = value;
            let mut seen = live("ours");
            seen["metadata"]["annotations"] = with_hash(&wanted)["metadata"]["annotations"].take();
            let mut answer = seen.clone();
            answer["metadata"]["resourceVersion"] = json!(after);
            let (client, _) = respond(vec![(200, answer)]);
            let objects = Objects {
                client: &client,
                namespace: "team",
                owner: OWNER,
            };
            let cached = serde_json::from_value(seen).unwrap();
            let done = objects.apply(&wanted, Some(cached)).await;
            assert_eq!(done.map_err(|failure| failure.kind), Ok(expected));
        }
    }

    fn stateful_set(version: &str, replicas: i64) -> Value {
        let mut set = live("ours");
        set["apiVersion"] = json!("apps/v1");
        set["kind"] = json!("StatefulSet");
        set["metadata"]["resourceVersion"] = json!(version);
        set["spec"] = json!({"replicas": replicas});
        set
    }

    #[tokio::test]
    async fn a_statefulset_is_written_in_the_version_that_was_decided_on_or_not_at_all() {
        let wanted = DesiredObject {
            kind: Kind::StatefulSet,
            name: "demo".to_owned(),
            value: json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet",
                "metadata": {"name": "demo", "namespace": "team"},
                "spec": {"replicas": 3},
            }),
        };
        let written = || (200, stateful_set("8", 3));
        for (answers, versions, expected) in [
            (vec![written()], vec!["7"], Ok(Applied::Written)),
            (vec![status(409)], vec!["7"], Err(FailureKind::Conflict)),
            (
                vec![status(422), (200, stateful_set("9", 3)), status(409)],
                vec!["7", "7", "9"],
                Err(FailureKind::Conflict),
            ),
            (
                vec![status(422), (200, stateful_set("9", 3)), written()],
                vec!["7", "7", "9"],
                Ok(Applied::Written),
            ),
            (vec![status(503)], vec!["7"], Err(FailureKind::Transient)),
        ] {
            let (client, calls) = respond(answers);
            let objects = Objects {
                client: &client,
                namespace: "team",
                owner: OWNER,
            };
            let cached = serde_json::from_value(stateful_set("7", 1)).unwrap();
            let done = objects.apply(&wanted, Some(cached)).await;
            assert_eq!(done.map_err(|failure| failure.kind), expected);
            let calls = calls.lock();
            let bodies = calls.iter().map(|(_, _, body)| &body["metadata"]);
            let asked: Vec<_> = bodies
                .map(|asked| asked["resourceVersion"].clone())
                .collect();
            assert_eq!(asked, versions);
        }
        // What has no size is written over whatever changes of it, such as an address in its
        // status.
        let (client, calls) = respond(vec![status(409)]);
        let objects = Objects {
            client: &client,
            namespace: "team",
            owner: OWNER,
        };
        let cached = serde_json::from_value(live("ours")).unwrap();
        let mut service = desired();
        service.value["spec"]["ports"] = json!([{"port": 81}]);
        let done = objects.apply(&service, Some(cached)).await;
        assert_eq!(
            done.map_err(|failure| failure.kind),
            Err(FailureKind::Conflict)
        );
        assert!(calls.lock()[0].2["metadata"]["resourceVersion"].is_null());
    }

    #[tokio::test]
    async fn a_statefulset_that_was_taken_for_absent_gets_its_labels_and_nothing_else() {
        let wanted = DesiredObject {
            kind: Kind::StatefulSet,
            name: "demo".to_owned(),
            value: json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet",
                "metadata": {"name": "demo", "namespace": "team", "labels": {"ours": "yes"}},
                "spec": {"replicas": 3},
            }),
        };
        let live = stateful_set("7", 5);
        let (client, calls) = respond(vec![status(409), (200, live.clone()), (200, live)]);
        let objects = Objects {
            client: &client,
            namespace: "team",
            owner: OWNER,
        };
        let done = objects.apply(&wanted, None).await;
        assert_eq!(done.map_err(|failure| failure.kind), Ok(Applied::Written));
        let calls = calls.lock();
        let metadata = json!({"uid": "of-the-service", "labels": {"ours": "yes"}});
        assert_eq!(calls[2].2, json!({"metadata": metadata}));
    }

    #[tokio::test]
    async fn what_is_owned_by_a_write_that_was_no_apply_is_given_up() {
        let entry =
            |manager: &str, operation: &str| json!({"manager": manager, "operation": operation});
        let managed = |version: &str, managers: &[Value]| {
            let mut object = live("ours");
            object["metadata"]["resourceVersion"] = json!(version);
            object["metadata"]["managedFields"] = json!(managers);
            (200, object)
        };
        let other = || entry("kubectl-edit", "Update");
        let (applies, updates) = (
            entry(FIELD_MANAGER, "Apply"),
            entry(FIELD_MANAGER, "Update"),
        );
        let mixed = [applies.clone(), updates, other()];
        let kept = [applies, other()];
        let mut wanted = desired();
        wanted.value["spec"]["ports"] = json!([{"port": 81}]);
        for (answers, gives_up) in [
            // Another writer's entry clashed, and is replaced.
            (
                vec![
                    status(422),
                    managed("8", &mixed),
                    managed("9", &kept),
                    managed("10", &kept),
                ],
                Some((2, "8")),
            ),
            // It was not given up before.
            (
                vec![managed("8", &mixed), managed("9", &kept)],
                Some((1, "8")),
            ),
            (vec![managed("8", &kept)], None),
        ] {
            let (client, calls) = respond(answers.clone());
            let objects = Objects {
                client: &client,
                namespace: "team",
                owner: OWNER,
            };
            let cached = serde_json::from_value(live("ours")).unwrap();
            let done = objects.apply(&wanted, Some(cached)).await;
            assert_eq!(done.map_err(|failure| failure.kind), Ok(Applied::Written));
            let calls = calls.lock();
            assert_eq!(calls.len(), answers.len());
            let lists = calls.iter().map(|(_, _, body)| &body["metadata"]);
            let given_up = lists
                .enumerate()
                .find(|(_, metadata)| metadata.get("managedFields").is_some());
            let given_up = given_up.map(|(place, metadata)| {
                assert_eq!(metadata["managedFields"].as_array().unwrap().len(), 2);
                assert_eq!(metadata["managedFields"][1]["manager"], "kubectl-edit");
                (place, metadata["resourceVersion"].as_str().unwrap())
            });
            assert_eq!(given_up, gives_up);
        }
    }

    #[tokio::test]
    async fn a_webhook_that_does_not_answer_is_called_once() {
        let silent = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "reason": "InternalError",
            "message": "Internal error occurred: failed calling webhook \"w\": context deadline exceeded",
        });
        let mut wanted = desired();
        wanted.value["spec"]["ports"] = json!([{"port": 81}]);
        let (client, calls) = respond(vec![(500, silent)]);
        let objects = Objects {
            client: &client,
            namespace: "team",
            owner: OWNER,
        };
        let cached = serde_json::from_value(live("ours")).unwrap();
        let done = objects.apply(&wanted, Some(cached)).await;
        let refused = Err(FailureKind::Refused);
        assert_eq!(done.map_err(|failure| failure.kind), refused);
        assert_eq!(calls.lock().len(), 1);
    }

    #[tokio::test]
    async fn an_eviction_is_of_one_very_pod_and_a_budget_that_refuses_is_named() {
        let why = "The disruption budget demo needs 2 healthy pods and has 2 currently";
        let refusal = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 429, "reason": "TooManyRequests",
            "message": "Cannot evict pod as it would violate the pod's disruption budget.",
            "details": {"causes": [{"reason": "DisruptionBudget", "message": why}]},
        });
        let two = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        let two_budgets = json!({
            "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 500, "reason": "InternalError", "message": two,
        });
        let eviction = Eviction {
            pod: "demo-2".to_owned(),
            uid: "of-the-pod".to_owned(),
            why: String::new(),
            refused: None,
        };
        let unanswered = Evicted::Unanswered(ApplyFailure::timed_out("evict", Kind::Pod, "demo-2"));
        for (answer, expected) in [
            ((429, refusal), Ok(Evicted::Refused(why.to_owned()))),
            (
                (
                    201,
                    json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}),
                ),
                Ok(Evicted::Done),
            ),
            ((500, two_budgets), Ok(Evicted::Refused(two.to_owned()))),
            // The API server has too much to do.
            (status(429), Err(FailureKind::Transient)),
            (status(404), Ok(Evicted::Gone)),
            (status(409), Ok(Evicted::Gone)),
            (denied(404), Err(FailureKind::Refused)),
            (denied(409), Err(FailureKind::Refused)),
            // It may have been done all the same.
            (status(504), Ok(unanswered.clone())),
        ] {
            let (client, calls) = respond(vec![answer]);
            let objects = Objects {
                client: &client,
                namespace: "team",
                owner: OWNER,
            };
            let mut done = objects.evict(&eviction).await;
            if matches!(done, Ok(Evicted::Unanswered(_))) {
                done = Ok(unanswered.clone());
            }
            assert_eq!(done.map_err(|failure| failure.kind), expected);
            let calls = calls.lock();
            let uid = &calls[0].2["deleteOptions"]["preconditions"]["uid"];
            assert_eq!((calls.len(), uid), (1, &json!("of-the-pod")));
        }
    }

    #[tokio::test]
    async fn a_refusal_is_reported_where_nothing_stands_in_the_way() {
        let (done, methods, _) = make(vec![status(422), status(404)]).await;
        assert_eq!(
            (done, methods.as_str()),
            (Err(FailureKind::Invalid), "PATCH GET")
        );
        let (done, methods, _) = make(vec![status(503)]).await;
        assert_eq!(
            (done, methods.as_str()),
            (Err(FailureKind::Transient), "PATCH")
        );
        // It went in between.
        let gone = vec![status(409), status(404), (201, live("ours"))];
        let (done, methods, calls) = make(gone).await;
        assert_eq!(
            (done, methods.as_str()),
            (Ok(Applied::Written), "PATCH GET PATCH")
        );
        assert!(calls[2].2["metadata"]["resourceVersion"].is_null());
    }

    #[tokio::test]
    async fn a_statefulset_is_resized_in_the_version_that_was_decided_on_or_not_at_all() {
        let cached = serde_json::from_value(stateful_set("7", 3)).unwrap();
        let size = Size {
            start: 1,
            replicas: 1,
        };
        for (answer, expected) in [(status(409), false), ((200, stateful_set("8", 1)), true)] {
            let (client, calls) = respond(vec![answer]);
            let objects = Objects {
                client: &client,
                namespace: "team",
                owner: OWNER,
            };
            let done = objects.resize(&cached, size).await;
            assert_eq!(done.map_err(|failure| failure.kind), Ok(expected));
            let metadata = json!({"uid": "of-the-service", "resourceVersion": "7"});
            let spec = json!({"replicas": 1, "ordinals": {"start": 1}});
            let patch = json!({"metadata": metadata, "spec": spec});
            assert_eq!(calls.lock()[0].2, patch);
        }
    }
}
