//! The fields, each with a value, another, and what must stand around it. Held against the schema,
//! so that a new field can't be forgotten.

use serde_json::{Value, json};

/// One field.
pub struct Field {
    pub path: &'static str,
    /// What must be there for the field to make sense, merged over [`base`].
    pub around: Value,
    /// The field set, merged over that.
    pub set: Value,
    /// The field changed, likewise.
    pub changed: Value,
    /// Whether objects or status show it.
    pub shows: bool,
}

/// A cluster without pods, whose database cannot be read: it costs nothing and is settled at once.
pub fn base() -> Value {
    json!({
        "version": "3.21.1",
        "replicas": 0,
        "externalURL": "https://bytebase.example.com",
        "database": {"url": url("one")},
    })
}

pub fn url(host: &str) -> String {
    format!(
        "postgres://iam@{host}.example.com:5432/bytebase?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1"
    )
}

/// A value at a path of plain names.
fn at(path: &str, value: Value) -> Value {
    path.rsplit('.')
        .fold(value, |value, name| json!({name: value}))
}

fn field(path: &'static str, around: Value, set: Value, changed: Value) -> Field {
    Field {
        path,
        around,
        set,
        changed,
        shows: true,
    }
}

/// A field that changes no object: it is seen only in what becomes of pods.
fn unseen(path: &'static str, set: impl Into<Value>, changed: impl Into<Value>) -> Field {
    Field {
        shows: false,
        ..plain(path, set, changed)
    }
}

/// A field that needs nothing around it.
fn plain(path: &'static str, set: impl Into<Value>, changed: impl Into<Value>) -> Field {
    field(
        path,
        json!({}),
        at(path, set.into()),
        at(path, changed.into()),
    )
}

/// A field inside something that must be there.
fn inside(
    path: &'static str,
    around: Value,
    set: impl Into<Value>,
    changed: impl Into<Value>,
) -> Field {
    field(path, around, at(path, set.into()), at(path, changed.into()))
}

/// A reference to a key of a Secret or ConfigMap: first another name, then another key, each from
/// none.
fn reference(
    paths: [&'static str; 2],
    around: &Value,
    names: [&str; 2],
    keys: [&str; 2],
) -> [Field; 2] {
    let parent = paths[0].trim_end_matches(".name");
    let to = |name: &str, key: &str| {
        let mut value = at(parent, json!({"name": name, "key": key}));
        // Of several ways to say where the database is there is one at a time.
        if parent == "database.urlSecretRef" {
            value["database"]["url"] = Value::Null;
        }
        value
    };
    [
        field(
            paths[0],
            around.clone(),
            to(names[0], keys[0]),
            to(names[1], keys[0]),
        ),
        field(
            paths[1],
            around.clone(),
            to(names[0], keys[0]),
            to(names[0], keys[1]),
        ),
    ]
}

/// All of them.
pub fn fields() -> Vec<Field> {
    let mut fields = database_fields();
    fields.extend(exposure_fields());
    fields.extend(service_fields());
    fields.extend(pod_fields());
    fields.extend(other_fields());
    fields
}

fn database_fields() -> Vec<Field> {
    // No process listens there, which is found out at once.
    let parts = json!({"database": {
        "url": null, "host": "127.0.0.1", "port": 1, "name": "bytebase",
        "userSecretRef": {"name": "one", "key": "user"}, "passwordSecretRef": {"name": "one", "key": "password"},
    }});
    let none = json!({});
    let mut fields = vec![
        plain("database.url", url("two"), url("three")),
        inside("database.host", parts.clone(), "127.0.0.2", "127.0.0.3"),
        inside("database.port", parts.clone(), 2, 3),
        inside("database.name", parts.clone(), "other", "third"),
        inside(
            "database.params",
            parts.clone(),
            json!({"sslmode": "disable"}),
            json!({"sslmode": "require"}),
        ),
    ];
    let keys = ["ca.crt", "other.crt"];
    fields.extend(reference(
        ["database.caSecretRef.name", "database.caSecretRef.key"],
        &none,
        ["one", "two"],
        keys,
    ));
    fields.extend(reference(
        [
            "database.caConfigMapRef.name",
            "database.caConfigMapRef.key",
        ],
        &none,
        ["one", "two"],
        keys,
    ));
    fields.extend(reference(
        [
            "database.monitorSecretRef.name",
            "database.monitorSecretRef.key",
        ],
        &none,
        ["one", "two"],
        ["monitor", "other-monitor"],
    ));
    fields.extend(reference(
        ["database.urlSecretRef.name", "database.urlSecretRef.key"],
        &none,
        ["one", "two"],
        ["PG_URL", "OTHER_URL"],
    ));
    fields.extend(reference(
        ["database.userSecretRef.name", "database.userSecretRef.key"],
        &parts,
        ["two", "three"],
        ["user", "other-user"],
    ));
    fields.extend(reference(
        [
            "database.passwordSecretRef.name",
            "database.passwordSecretRef.key",
        ],
        &parts,
        ["two", "three"],
        ["password", "other-password"],
    ));
    fields
}

fn exposure_fields() -> Vec<Field> {
    let route = json!({"gateway": {"parentRefs": [{"name": "one"}]}});
    let mut any_route = route.clone();
    any_route["gateway"]["allowHostMismatch"] = json!(true);
    // Without the permission this is no valid spec, so the beginning is with it.
    let mut other_route = any_route.clone();
    other_route["gateway"]["host"] = json!("other.example.com");
    let parent = |parent: Value| json!({"gateway": {"parentRefs": [parent]}});
    let monitor = json!({"monitoring": {"serviceMonitor": {}}});
    vec![
        plain(
            "externalURL",
            "https://two.example.com",
            "https://three.example.com",
        ),
        inside("gateway.allowHostMismatch", other_route, false, true),
        inside(
            "gateway.annotations",
            route.clone(),
            json!({"a": "b"}),
            json!({"a": "c"}),
        ),
        inside("gateway.host", any_route, "a.example.com", "b.example.com"),
        inside("gateway.requestTimeout", route.clone(), "30s", "60s"),
        field(
            "gateway.parentRefs[].name",
            json!({}),
            route.clone(),
            parent(json!({"name": "two"})),
        ),
        field(
            "gateway.parentRefs[].namespace",
            route.clone(),
            parent(json!({"name": "one", "namespace": "a"})),
            parent(json!({"name": "one", "namespace": "b"})),
        ),
        field(
            "gateway.parentRefs[].sectionName",
            route,
            parent(json!({"name": "one", "sectionName": "a"})),
            parent(json!({"name": "one", "sectionName": "b"})),
        ),
        inside(
            "ingress.allowHostMismatch",
            json!({"ingress": {"host": "other.example.com", "allowHostMismatch": true}}),
            false,
            true,
        ),
        plain("ingress.annotations", json!({"a": "b"}), json!({"a": "c"})),
        plain("ingress.className", "one", "two"),
        plain("ingress.enabled", false, true),
        inside(
            "ingress.host",
            json!({"ingress": {"allowHostMismatch": true}}),
            "a.example.com",
            "b.example.com",
        ),
        plain("ingress.preset", "traefik", "haproxy"),
        plain("ingress.tlsSecretName", "one", "two"),
        inside(
            "monitoring.serviceMonitor.enabled",
            monitor.clone(),
            false,
            true,
        ),
        inside(
            "monitoring.serviceMonitor.interval",
            monitor.clone(),
            "10s",
            "20s",
        ),
        inside(
            "monitoring.serviceMonitor.labels",
            monitor,
            json!({"a": "b"}),
            json!({"a": "c"}),
        ),
        inside(
            "networkPolicy.enabled",
            json!({"networkPolicy": {}}),
            false,
            true,
        ),
        plain(
            "networkPolicy.from",
            json!([{"podSelector": {"matchLabels": {"a": "b"}}}]),
            json!([{"podSelector": {"matchLabels": {"a": "c"}}}]),
        ),
    ]
}

fn service_fields() -> Vec<Field> {
    vec![
        plain("service.annotations", json!({"a": "b"}), json!({"a": "c"})),
        inside(
            "service.externalTrafficPolicy",
            json!({"service": {"type": "NodePort"}}),
            "Local",
            "Cluster",
        ),
        plain("service.internalTrafficPolicy", "Local", "Cluster"),
        // Taken out it stays as it is, so it is as of a fresh object before.
        plain("service.ipFamilyPolicy", "PreferDualStack", "SingleStack"),
        // The class of a load balancer cannot change, so it is none in between.
        field(
            "service.loadBalancerClass",
            json!({}),
            json!({"service": {"type": "LoadBalancer", "loadBalancerClass": "example.com/one"}}),
            json!({"service": {"type": "NodePort"}}),
        ),
        inside(
            "service.loadBalancerSourceRanges",
            json!({"service": {"type": "LoadBalancer"}}),
            json!(["192.0.2.0/24"]),
            json!(["198.51.100.0/24"]),
        ),
        plain("service.port", 81, 82),
        plain("service.type", "NodePort", "LoadBalancer"),
    ]
}

fn pod_fields() -> Vec<Field> {
    let affinity = |weight: u32| {
        let term = json!({"matchExpressions": [{"key": "a", "operator": "Exists"}]});
        json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": weight, "preference": term}]}})
    };
    let spread = |key: &str| json!([{"maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway"}]);
    let volume = |limit: &str| json!([{"name": "mine", "emptyDir": {"sizeLimit": limit}}]);
    let mount = |path: &str| json!([{"name": "mine", "mountPath": path}]);
    let overlay = |seconds: u32| json!({"spec": {"terminationGracePeriodSeconds": seconds, "hostAliases": [{"ip": "192.0.2.1", "hostnames": ["a"]}]}});
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    vec![
        plain("affinity", affinity(1), affinity(2)),
        plain("annotations", json!({"a": "b"}), json!({"a": "c"})),
        plain(
            "env",
            json!([{"name": "A", "value": "b"}]),
            json!([{"name": "A", "value": "c"}]),
        ),
        plain("image.digest", digest("a"), digest("b")),
        plain("image.pullPolicy", "Always", "Never"),
        field(
            "image.pullSecrets[].name",
            json!({}),
            json!({"image": {"pullSecrets": [{"name": "one"}]}}),
            json!({"image": {"pullSecrets": [{"name": "two"}]}}),
        ),
        plain("image.repository", "example.com/one", "example.com/two"),
        plain("image.tag", "3.21.1-one", "3.21.1-two"),
        plain("labels", json!({"a": "b"}), json!({"a": "c"})),
        plain("nodeSelector", json!({"a": "b"}), json!({"a": "c"})),
        plain("podAnnotations", json!({"a": "b"}), json!({"a": "c"})),
        plain("podLabels", json!({"a": "b"}), json!({"a": "c"})),
        plain("podTemplate", overlay(41), overlay(42)),
        plain("priorityClassName", "one", "two"),
        plain(
            "resources",
            json!({"limits": {"memory": "1Gi"}}),
            json!({"limits": {"memory": "2Gi"}}),
        ),
        plain("rollout.drain", "Disabled", "Enabled"),
        plain(
            "rollout.drainImage",
            "example.com/one:1",
            "example.com/two:2",
        ),
        plain("rollout.drainTimeoutSeconds", 47, 48),
        plain("rollout.holdLimitSeconds", 7, 8),
        plain("rollout.preStopSeconds", 3, 4),
        // The scenarios `bad-image`, `stale-replica` and `maintenance` show what these three are
        // for.
        unseen("rollout.readyTimeoutSeconds", 601, 602),
        unseen("rollout.restartStaleReplicasAfterSeconds", 301, 302),
        unseen("rollout.strategy", "Maintenance", "Rolling"),
        plain("rollout.terminationGraceSeconds", 43, 44),
        plain("securityContext.userAndGroup", "Platform", "Fixed"),
        plain(
            "serviceAccount.annotations",
            json!({"a": "b"}),
            json!({"a": "c"}),
        ),
        plain("serviceAccount.name", "one", "two"),
        plain(
            "tolerations",
            json!([{"key": "a", "operator": "Exists"}]),
            json!([{"key": "b", "operator": "Exists"}]),
        ),
        plain("topologySpreadConstraints", spread("a"), spread("b")),
        inside(
            "volumeMounts",
            json!({"volumes": volume("1Mi")}),
            mount("/one"),
            mount("/two"),
        ),
        plain("volumes", volume("1Mi"), volume("2Mi")),
        plain("version", "3.21.2", "3.22.0"),
    ]
}

fn other_fields() -> Vec<Field> {
    // Reported on and not acted on, so that there are no pods.
    let reported = json!({"paused": true, "replicas": 3});
    let admin = json!({"admin": {"credentialsSecretRef": {"name": "one"}}});
    let mut fields = vec![
        plain("admin.credentialsSecretRef.name", "missing", "gone"),
        inside("admin.createFirst", admin, true, false),
        plain("disruptionBudget.enabled", false, true),
        inside("license.enforcement", reported.clone(), "Warn", "Enforce"),
        plain("paused", true, false),
        inside("replicas", json!({"paused": true, "replicas": 1}), 2, 3),
    ];
    fields.extend(reference(
        ["license.secretRef.name", "license.secretRef.key"],
        &reported,
        ["one", "two"],
        ["license", "without-ha"],
    ));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tools::repository;
    use anyhow::Result;
    use std::collections::BTreeSet;
    use std::fs;

    /// Fields of Kubernetes' own types, taken as a whole: what is in them is handed through.
    const WHOLE: [&str; 9] = [
        "affinity",
        "env",
        "networkPolicy.from",
        "podTemplate",
        "resources",
        "tolerations",
        "topologySpreadConstraints",
        "volumeMounts",
        "volumes",
    ];
    /// Of one family, which a Kubernetes cluster of one family takes by itself: nothing is to be
    /// seen.
    const NEEDS_TWO_FAMILIES: [&str; 1] = ["service.ipFamilies"];

    /// Paths of everything that has a value of its own, except inside of [`WHOLE`].
    fn leaves(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
        if WHOLE.contains(&path) {
            found.insert(path.to_owned());
            return;
        }
        let (inner, path) = match schema["items"]["properties"].as_object() {
            Some(inner) => (Some(inner), format!("{path}[]")),
            None => (schema["properties"].as_object(), path.to_owned()),
        };
        match inner {
            None => {
                found.insert(path);
            }
            Some(inner) => {
                for (name, schema) in inner {
                    let path = if path.is_empty() {
                        name.clone()
                    } else {
                        format!("{path}.{name}")
                    };
                    leaves(schema, &path, found);
                }
            }
        }
    }

    #[test]
    fn every_field_of_the_schema_has_a_line_and_no_other() -> Result<()> {
        let text =
            fs::read_to_string(repository().join("crds/bytebaseclusters.bytebase.com.yaml"))?;
        let definition: Value = serde_yaml::from_str(&text)?;
        let schema =
            &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut wanted = BTreeSet::new();
        leaves(schema, "", &mut wanted);
        assert!(wanted.len() > 60, "{wanted:?}");
        let mut listed: BTreeSet<_> = fields().iter().map(|field| field.path.to_owned()).collect();
        assert_eq!(listed.len(), fields().len(), "a field is listed twice");
        listed.extend(NEEDS_TWO_FAMILIES.map(str::to_owned));
        assert_eq!(listed, wanted);
        Ok(())
    }

    #[test]
    fn a_path_becomes_nested_objects() {
        assert_eq!(at("a.b", json!(1)), json!({"a": {"b": 1}}));
    }
}
