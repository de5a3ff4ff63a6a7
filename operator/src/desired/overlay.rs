//! `spec.podTemplate`: a strategic merge of the user's fragment into the finished template.
//!
//! Objects merge by key, `null` takes a field away where it arrives (the API server keeps it, and
//! `kubectl apply` does only with `--server-side`), and lists merge by the key that Kubernetes
//! gives them (a container by its name, a port by its number …); any other list is replaced.

use super::CONTAINER;
use crate::kubernetes::error_text::misfit;
use crate::validate::{is_in_own_domain, is_own_label};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use serde_json::{Map, Value, json};
use std::collections::{BTreeSet, HashMap};

/// What identifies an entry of a list field, by the field's name. The API server takes no two
/// entries of one identity.
const LIST_KEYS: [(&str, &[&str]); 13] = [
    ("containers", &["name"]),
    ("initContainers", &["name"]),
    ("ephemeralContainers", &["name"]),
    ("env", &["name"]),
    ("volumes", &["name"]),
    ("volumeMounts", &["mountPath"]),
    ("volumeDevices", &["devicePath"]),
    ("ports", &["containerPort", PROTOCOL]),
    ("imagePullSecrets", &["name"]),
    ("hostAliases", &["ip"]),
    ("topologySpreadConstraints", &["topologyKey", UNSATISFIABLE]),
    ("resourceClaims", &["name"]),
    ("schedulingGates", &["name"]),
];

/// The same of lists that are replaced all the same, as Kubernetes' own strategic merge does it.
const REPLACED_LIST_KEYS: [(&str, &[&str]); 1] = [("claims", &["name"])];

/// The key of a port's protocol, which is TCP where none is given.
const PROTOCOL: &str = "protocol";
/// An overlay with one constraint of a topology key means the one that is there, whether it gives
/// this or not; one with several adds those that are not.
const UNSATISFIABLE: &str = "whenUnsatisfiable";

/// What distinguishes the entries of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EntryKey {
    /// The first of their keys alone, as earlier operators had it: their pods are not replaced for
    /// it.
    FirstKey,
    /// All of their keys.
    Whole,
}

impl EntryKey {
    fn keys(self, field: &str) -> &'static [&'static str] {
        let keys = list_keys(field);
        match self {
            Self::FirstKey => keys.get(..1).unwrap_or_default(),
            Self::Whole => keys,
        }
    }
}

/// Deepest nesting of a pod template; what is deeper is no pod template.
pub(super) const DEPTH: usize = 32;

/// Keys of the entries of a list field; none of a list that is replaced.
pub(super) fn list_keys(field: &str) -> &'static [&'static str] {
    keys_in(&LIST_KEYS, field)
}

fn keys_in(lists: &[(&str, &'static [&'static str])], field: &str) -> &'static [&'static str] {
    let found = lists.iter().find(|(name, _)| *name == field);
    found.map_or(&[], |(_, keys)| keys)
}

/// One part of the identity of an entry. A protocol that is the usual one counts as not given.
fn part<'v>(entry: &'v Value, key: &str) -> Option<&'v Value> {
    let found = entry.get(key).filter(|value| !value.is_null())?;
    (key != PROTOCOL || found != "TCP").then_some(found)
}

/// Where the first entry of each identity stands.
pub(super) struct Places {
    keys: &'static [&'static str],
    by_identity: HashMap<Vec<Option<Value>>, usize>,
}

impl Places {
    pub(super) fn of(entries: &[Value], keys: &'static [&'static str]) -> Self {
        let by_identity = HashMap::with_capacity(entries.len());
        let mut places = Self { keys, by_identity };
        for (place, entry) in entries.iter().enumerate() {
            places.add(entry, place);
        }
        places
    }

    fn identity(&self, entry: &Value) -> Vec<Option<Value>> {
        let parts = self.keys.iter().map(|key| part(entry, key).cloned());
        parts.collect()
    }

    fn add(&mut self, entry: &Value, place: usize) {
        let identity = self.identity(entry);
        self.by_identity.entry(identity).or_insert(place);
    }

    pub(super) fn find(&self, entry: &Value) -> Option<usize> {
        self.by_identity.get(&self.identity(entry)).copied()
    }
}

/// Merges and checks: the result is a pod template, and what makes it this operator's is still in
/// it.
pub(super) fn merge(base: &Value, overlay: &Value, identity: EntryKey) -> Result<Value, String> {
    let mut merged = base.clone();
    merge_into(&mut merged, overlay, "", identity, DEPTH)?;
    let typed: PodTemplateSpec = serde_path_to_error::deserialize(&merged)
        .map_err(|error| format!("does not fit a pod template: {}", misfit(&error)))?;
    let normal = serde_json::to_value(&typed).map_err(|error| error.to_string())?;
    if let Some(path) = lost(&merged, &normal, "") {
        return Err(format!(
            "{path} is no field of a pod template of Kubernetes 1.33, which this operator knows"
        ));
    }
    if let Some(doubled) = doubled(&normal, "", "") {
        return Err(doubled);
    }
    keeps(base, &normal)?;
    Ok(normal)
}

pub(super) fn merge_into(
    base: &mut Value,
    overlay: &Value,
    field: &str,
    identity: EntryKey,
    depth: usize,
) -> Result<(), String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err("is nested too deeply".to_owned());
    };
    match (base, overlay) {
        (Value::Object(base), Value::Object(overlay)) => {
            merge_objects(base, overlay, identity, depth)
        }
        (Value::Array(base), Value::Array(overlay)) if !list_keys(field).is_empty() => {
            merge_lists(base, overlay, field, identity, depth)
        }
        (base, overlay) => {
            *base = overlay.clone();
            Ok(())
        }
    }
}

/// Lists may be long, so each entry finds the one that it means without a search.
fn merge_lists(
    base: &mut Vec<Value>,
    overlay: &[Value],
    field: &str,
    identity: EntryKey,
    depth: usize,
) -> Result<(), String> {
    let keys = identity.keys(field);
    let name = keys.first().copied().unwrap_or_default();
    let mut of_name = HashMap::<_, usize>::new();
    for entry in overlay {
        *of_name.entry(part(entry, name)).or_default() += 1;
    }
    let mut places = Places::of(base, keys);
    let mut by_name = Places::of(base, keys.get(..1).unwrap_or_default());
    for entry in overlay {
        if part(entry, name).is_none() {
            return Err(format!("an entry of {field} has no {name}"));
        }
        // It is the only one of its name, so none that follows means what it makes of another.
        let is_loose = keys.contains(&UNSATISFIABLE) && of_name.get(&part(entry, name)) == Some(&1);
        let found = if is_loose { &by_name } else { &places };
        if let Some(found) = found.find(entry).and_then(|place| base.get_mut(place)) {
            merge_into(found, entry, "", identity, depth)?;
        } else {
            places.add(entry, base.len());
            by_name.add(entry, base.len());
            base.push(entry.clone());
        }
    }
    Ok(())
}

fn merge_objects(
    base: &mut Map<String, Value>,
    overlay: &Map<String, Value>,
    identity: EntryKey,
    depth: usize,
) -> Result<(), String> {
    for (key, value) in overlay {
        if key.starts_with('$') {
            return Err(format!(
                "the directive {key} is not supported: set a field to null to take it away, and apply that with kubectl apply --server-side, since without it kubectl takes the null out"
            ));
        }
        if value.is_null() {
            base.remove(key);
            continue;
        }
        merge_into(
            base.entry(key.clone()).or_insert(Value::Null),
            value,
            key,
            identity,
            depth,
        )?;
    }
    Ok(())
}

/// Path of a field that the typed form does not know.
fn lost(written: &Value, kept: &Value, path: &str) -> Option<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written.iter().find_map(|(key, value)| {
            let path = below(path, key);
            match kept.get(key) {
                Some(kept) => lost(value, kept, &path),
                None if is_empty(value) => None,
                None => Some(path),
            }
        }),
        (Value::Array(written), Value::Array(kept)) => written
            .iter()
            .zip(kept)
            .enumerate()
            .find_map(|(index, (written, kept))| lost(written, kept, &format!("{path}[{index}]"))),
        _ => None,
    }
}

fn below(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// An entry of the same identity as one before it.
fn doubled(value: &Value, field: &str, path: &str) -> Option<String> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .find_map(|(key, value)| doubled(value, key, &below(path, key))),
        Value::Array(entries) => {
            let keys = match list_keys(field) {
                [] => keys_in(&REPLACED_LIST_KEYS, field),
                keys => keys,
            };
            let mut seen = BTreeSet::new();
            entries.iter().enumerate().find_map(|(index, entry)| {
                let path = format!("{path}[{index}]");
                let parts = keys.iter().map(|key| (*key, part(entry, key)));
                let given = parts.filter_map(|(key, part)| Some(format!("{key} {}", part?)));
                let identity = given.collect::<Vec<_>>().join(" with ");
                if !keys.is_empty() && !seen.insert(identity.clone()) {
                    return Some(format!("{path}: {identity} is there twice"));
                }
                doubled(entry, "", &path)
            })
        }
        _ => None,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        _ => false,
    }
}

/// What there is to say of an empty securityContext where the operator's own template has one.
pub fn emptied(overlay: &Value) -> Option<String> {
    let is_emptied = |place: &Value| place.get("securityContext") == Some(&json!({}));
    let spec = overlay.get("spec")?;
    let containers = spec.get("containers").and_then(Value::as_array);
    let containers = containers.into_iter().flatten();
    let named = containers.filter(|container| container.get("name") == Some(&json!(CONTAINER)));
    let mut places = [("spec", spec)]
        .into_iter()
        .chain(named.map(|container| ("the bytebase container's", container)));
    let (place, _) = places.find(|(_, place)| is_emptied(place))?;
    let what = match place {
        "spec" => "spec.securityContext".to_owned(),
        whose => format!("{whose} securityContext"),
    };
    Some(format!(
        "spec.podTemplate: {what} is empty, which changes nothing: without --server-side, kubectl apply takes a null in it out before the operator could see it. To leave user and group to the platform, set spec.securityContext.userAndGroup to Platform"
    ))
}

/// Selector labels, arguments and the connection are what makes the pods replicas of this cluster.
fn keeps(base: &Value, merged: &Value) -> Result<(), String> {
    let (Some(before), Some(after)) = (bytebase(base), bytebase(merged)) else {
        return Err("takes the bytebase container away".to_owned());
    };
    if before.get("args") != after.get("args") || after.get("command").is_some() {
        return Err("changes the command or the arguments of the bytebase container: every replica must start with the same --ha and --external-url".to_owned());
    }
    if before.get("image") != after.get("image") {
        return Err("changes the image of the bytebase container, by which the operator would no longer know its version: use spec.version and spec.image".to_owned());
    }
    for name in ["PG_URL", "PGAPPNAME", "PGUSER", "PGPASSWORD"] {
        if variable(before, name) != variable(after, name) {
            return Err(format!(
                "changes {name} of the bytebase container: use spec.database"
            ));
        }
    }
    if let Some(name) = crate::validate::LEAKING_ENV
        .iter()
        .find(|name| variable(after, name).is_some())
    {
        return Err(format!(
            "sets {name}, which would also change connections to your users' databases: put it into PG_URL instead"
        ));
    }
    if before.get("ports").and_then(|ports| ports.get(0))
        != after.get("ports").and_then(|ports| ports.get(0))
    {
        return Err(
            "changes the port http of the bytebase container, which Services and probes lead to"
                .to_owned(),
        );
    }
    for (place, what) in [("labels", "label"), ("annotations", "annotation")] {
        let (Some(Value::Object(before)), after) = (
            base.pointer(&format!("/metadata/{place}")),
            merged.pointer(&format!("/metadata/{place}")),
        ) else {
            continue;
        };
        let own = |key: &str| is_own_label(key) || is_in_own_domain(&key.to_lowercase());
        if let Some((key, _)) = before.iter().find(|(key, value)| {
            own(key) && after.and_then(|after| after.get(key.as_str())) != Some(*value)
        }) {
            return Err(format!(
                "changes the {what} {key}, by which the operator finds its pods"
            ));
        }
    }
    match merged
        .pointer("/spec/restartPolicy")
        .and_then(Value::as_str)
    {
        None | Some("Always") => Ok(()),
        Some(_) => Err("spec.restartPolicy of a StatefulSet can only be Always".to_owned()),
    }
}

fn bytebase(template: &Value) -> Option<&Value> {
    template
        .pointer("/spec/containers")?
        .as_array()?
        .iter()
        .find(|container| container.get("name").and_then(Value::as_str) == Some(CONTAINER))
}

fn variable<'v>(container: &'v Value, name: &str) -> Option<&'v Value> {
    container
        .get("env")?
        .as_array()?
        .iter()
        .find(|variable| variable.get("name").and_then(Value::as_str) == Some(name))
}
