//! Golden objects, and what the overlay takes.
//!
//! The golden files are the promise to clusters that run: **a pod template that differs from its
//! golden file starts a rollout in every cluster when the operator is upgraded.** Should one of
//! them have to change, put the change behind a field of the spec, so that a template that does not
//! use it stays as it is. Written again with `UPDATE_GOLDEN=1 cargo test --lib desired`.

use super::drain;
use super::drift;
use super::template::{self, Standing, Template};
use super::{
    Additions, DesiredObject, Doors, LATEST_DEFAULTS, companions, headless_service, http_route,
    ingress, network_policy, pod_disruption_budget, pod_template, service, service_account,
    service_monitor, stateful_set,
};
use crate::api::spec::IngressPreset;
use crate::kubernetes::Kind;
use crate::testing::{PASSWORD, cluster, merge, now, references, valid, validation};
use crate::validate::{ValidCluster, validate};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::path::Path;
use strum::IntoEnumIterator as _;

fn key(name: &str, key: &str) -> Value {
    json!({"name": name, "key": key})
}

fn minimal() -> Value {
    json!({})
}

fn parts() -> Value {
    json!({"database": {
        "host": "db.example.com", "port": 6432, "name": "byte base", "params": {"sslmode": "verify-full", "search_path": "a,b"},
        "userSecretRef": key("login", "user"), "passwordSecretRef": key("login", "password"), "caConfigMapRef": key("ca", "ca.crt"),
    }})
}

/// Every field that passes through to an object.
fn full() -> Value {
    json!({
        "version": "3.21.1",
        "image": {
            "repository": "registry.example.com/bytebase", "digest": format!("sha256:{}", "a".repeat(64)),
            "pullPolicy": "Always", "pullSecrets": [{"name": "registry"}],
        },
        "database": {"urlSecretRef": key("pg", "PG_URL"), "caSecretRef": key("ca", "ca.crt")},
        "service": {"type": "NodePort", "port": 8443, "annotations": {"example.com/a": "b"}},
        "ingress": {
            "className": "nginx", "preset": "ingress-nginx", "tlsSecretName": "tls",
            "annotations": {"nginx.ingress.kubernetes.io/proxy-body-size": "1g", "example.com/a": "b"},
        },
        "resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "2Gi"}},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]}}},
        "topologySpreadConstraints": [{"maxSkew": 2, "topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "high",
        "serviceAccount": {"annotations": {"example.com/role": "x"}},
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy"}],
        "volumes": [{"name": "extra", "configMap": {"name": "extra"}}],
        "volumeMounts": [{"name": "extra", "mountPath": "/extra"}],
        "podLabels": {"team": "data"},
        "podAnnotations": {"example.com/scrape": "true"},
        "labels": {"owner": "platform", "release": "of-the-cluster"},
        "annotations": {"example.com/a": "of-the-cluster", "example.com/contact": "Platform team, room 7"},
        "rollout": {"preStopSeconds": 20, "terminationGraceSeconds": 90},
        "disruptionBudget": {"enabled": true},
        "gateway": {
            "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}, {"name": "private"}],
            "requestTimeout": "1h", "annotations": {"example.com/a": "b"},
        },
        "networkPolicy": {"from": [{"namespaceSelector": {"matchLabels": {"team": "edge"}}}]},
        "admin": {"credentialsSecretRef": {"name": "admin"}},
        "monitoring": {"serviceMonitor": {"interval": "30s", "labels": {"release": "prometheus", "app.kubernetes.io/name": "mine"}}},
    })
}

fn overlaid() -> Value {
    json!({"podTemplate": {
        "metadata": {"labels": {"mesh": "on"}, "annotations": {"mesh/inject": "true"}},
        "spec": {
            "hostAliases": [{"ip": "10.0.0.1", "hostnames": ["db"]}],
            "containers": [
                {"name": "bytebase", "env": [{"name": "TZ", "value": "UTC"}], "lifecycle": null, "livenessProbe": {"periodSeconds": 30}},
                {"name": "proxy", "image": "proxy:1"},
            ],
            "volumes": [{"name": "bytebase-tmp", "emptyDir": {"sizeLimit": "1Gi"}}],
            "topologySpreadConstraints": [{"topologyKey": "kubernetes.io/hostname", "maxSkew": 3}],
        },
    }})
}

fn golden(name: &str, value: &Value) {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/desired/golden/{name}.yaml"));
    let text = serde_yaml::to_string(value).unwrap();
    assert!(!text.contains(PASSWORD), "{name} shows a password");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        return;
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        wanted,
        text,
        "\n{} differs; if that is meant, UPDATE_GOLDEN=1 writes it again. A changed pod template starts a rollout in every cluster when the operator is upgraded",
        path.display()
    );
}

/// Pods with the drain hook and none of the later defaults.
const HOOK: Additions<'static> = Additions {
    drain_image: Some("example.com/operator:1"),
    defaults: 0,
};

fn template(changes: &Value) -> Value {
    pod_template(&valid(changes), Additions::default()).unwrap()
}

fn objects(cluster: &ValidCluster) -> Vec<(&'static str, Option<DesiredObject>)> {
    vec![
        ("service-account", service_account(cluster)),
        ("headless-service", Some(headless_service(cluster))),
        ("service", Some(service(cluster, Doors::AsWanted))),
        (
            "stateful-set",
            Some(stateful_set(
                cluster,
                &(0..3),
                Template {
                    value: json!({"the": "template"}),
                    digest: Some("the-digest".to_owned()),
                },
            )),
        ),
        ("disruption-budget", pod_disruption_budget(cluster)),
        ("ingress", ingress(cluster)),
        ("http-route", http_route(cluster)),
        ("network-policy", network_policy(cluster, Some("operators"))),
        ("service-monitor", service_monitor(cluster)),
    ]
}

#[test]
fn pod_templates_are_as_they_were_released() {
    for (name, spec) in [
        ("minimal", minimal()),
        ("full", full()),
        ("parts", parts()),
        ("overlay", overlaid()),
    ] {
        golden(&format!("pod-template-{name}"), &template(&spec));
    }
    let drained = pod_template(&valid(&minimal()), HOOK).unwrap();
    golden("pod-template-drained", &drained);
    let platform = valid(&of_the_platform());
    let drained = pod_template(&platform, HOOK).unwrap();
    golden("pod-template-platform-user", &drained);
}

fn of_the_platform() -> Value {
    json!({"securityContext": {"userAndGroup": "Platform"}})
}

/// Every number of a user or group in a value.
fn users(value: &Value) -> Vec<&Value> {
    match value {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match key.as_str() {
                "runAsUser" | "runAsGroup" | "fsGroup" | "supplementalGroups" => vec![value],
                _ => users(value),
            })
            .collect(),
        Value::Array(list) => list.iter().flat_map(users).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn the_platform_chooses_user_and_groups_of_every_container_where_it_is_asked_to() {
    let made = |spec: &Value| pod_template(&valid(spec), HOOK).unwrap();
    let platform = made(&of_the_platform());
    assert!(users(&platform).is_empty(), "{platform}");
    assert_eq!(platform["spec"]["securityContext"]["runAsNonRoot"], true);
    let default = made(&minimal());
    assert_eq!(users(&default), [113, 113, 113]);
    for same in [json!({}), json!({"userAndGroup": "Fixed"})] {
        assert_eq!(made(&json!({"securityContext": same})), default);
    }
    // Nothing else differs.
    let mut rest = default;
    for number in ["runAsUser", "runAsGroup", "fsGroup"] {
        let context = &mut rest["spec"]["securityContext"];
        context.as_object_mut().unwrap().remove(number);
    }
    assert_eq!(platform, rest);
}

fn standing<'a>(drain_image: Option<&'a str>, digest: &'a str) -> Standing<'a> {
    Standing {
        live: Some(&Value::Null),
        additions: Additions {
            drain_image,
            defaults: 0,
        },
        digest: Some(digest),
    }
}

#[test]
fn an_upgrade_of_the_operator_moves_no_template_and_the_next_change_brings_its_hook() {
    let image = |changes: &Value, own: Option<&str>, standing: Standing<'_>| {
        let made = template::template(&valid(changes), own, standing).unwrap();
        let image = drain::image_in(&made.value).map(str::to_owned);
        (image, made.digest.unwrap())
    };
    let (new, same) = image(&minimal(), Some("op:2"), Standing::default());
    assert_eq!(new.as_deref(), Some("op:2"), "a new cluster has the hook");
    for (live, digest, spec, expected, why) in [
        (
            Some("op:1"),
            &*same,
            json!({}),
            Some("op:1"),
            "nothing changed",
        ),
        (
            Some("op:1"),
            "another",
            json!({}),
            Some("op:2"),
            "the pods change anyway",
        ),
        (
            None,
            &*same,
            json!({}),
            None,
            "pods without a hook stay as they are",
        ),
        (
            None,
            "another",
            json!({}),
            Some("op:2"),
            "and get it with their next change",
        ),
        (
            None,
            &*same,
            json!({"drain": "Enabled"}),
            Some("op:2"),
            "or when it is asked for",
        ),
        (
            Some("op:1"),
            &*same,
            json!({"drain": "Enabled"}),
            Some("op:1"),
            "asked for, and there",
        ),
        (
            Some("op:1"),
            &*same,
            json!({"drain": "Disabled"}),
            None,
            "unwanted",
        ),
        (
            Some("op:1"),
            &*same,
            json!({"drainTimeoutSeconds": 7}),
            Some("op:2"),
            "other terms",
        ),
        (
            Some("op:1"),
            &*same,
            json!({"drainImage": "mine:7"}),
            Some("mine:7"),
            "an image of one's own",
        ),
    ] {
        let (found, _) = image(
            &json!({"rollout": spec}),
            Some("op:2"),
            standing(live, digest),
        );
        assert_eq!(found.as_deref(), expected, "{why}");
    }
    // Taking an image of one's own away is a change as well.
    let mine = json!({"rollout": {"drainImage": "mine:7"}});
    let (_, with_mine) = image(&mine, Some("op:2"), Standing::default());
    let (back, _) = image(
        &minimal(),
        Some("op:2"),
        standing(Some("mine:7"), &with_mine),
    );
    assert_eq!(back.as_deref(), Some("op:2"));
    // What an older operator made says nothing of its digest.
    let older = Standing {
        live: Some(&Value::Null),
        ..Standing::default()
    };
    assert_eq!(image(&minimal(), Some("op:2"), older), (None, same.clone()));
    // An operator that does not know its own image takes nothing away.
    let (kept, _) = image(&minimal(), None, standing(Some("op:1"), "another"));
    assert_eq!(kept.as_deref(), Some("op:1"));
    assert_eq!(image(&minimal(), None, Standing::default()).0, None);
}

#[test]
fn without_the_hook_the_pod_is_as_it_was() {
    let disabled = json!({"rollout": {"drain": "Disabled"}});
    let made = template::template(&valid(&disabled), Some("op:2"), Standing::default()).unwrap();
    let latest = Additions {
        defaults: LATEST_DEFAULTS,
        ..Additions::default()
    };
    assert_eq!(
        made.value,
        pod_template(&valid(&minimal()), latest).unwrap()
    );
}

#[test]
fn a_mirror_of_the_drain_image_is_no_change() {
    let spec = |image: &str| json!({"rollout": {"drainImage": image}});
    let made = |spec: &Value, standing: Standing<'_>| {
        let made = template::template(&valid(spec), Some("op:1"), standing);
        made.unwrap()
    };
    let new = made(&spec("mine:7"), Standing::default());
    let mirrored = |defaults: u32, digest| Standing {
        live: Some(&Value::Null),
        additions: Additions {
            drain_image: Some("mirror/mine:7"),
            defaults,
        },
        digest,
    };
    let defaults = |template: &Template| template::additions_in(&template.value).defaults;
    let digest = new.digest.as_deref();
    for standing in 0..=LATEST_DEFAULTS {
        let kept = made(&spec("mine:7"), mirrored(standing, digest));
        assert_eq!(defaults(&kept), standing);
        assert_eq!(kept.digest, new.digest);
    }
    let changed = made(&spec("mine:8"), mirrored(0, digest));
    assert_eq!(defaults(&changed), LATEST_DEFAULTS);
    // An operator that wrote no digest says nothing of the image that the spec named then.
    let unknown = made(&spec("mine:7"), mirrored(0, None));
    assert_eq!(defaults(&unknown), LATEST_DEFAULTS);
    // What a newer operator made stays as well.
    let mut newer = new.clone();
    newer.value["spec"]["hostname"] = json!("newer");
    let newest = Standing {
        live: Some(&newer.value),
        ..mirrored(LATEST_DEFAULTS + 1, digest)
    };
    assert_eq!(made(&spec("mine:7"), newest), newer);
}

#[test]
fn later_defaults_come_with_the_next_change_and_the_users_own_win() {
    let made = |spec: &Value, standing: Standing<'_>| {
        let made = template::template(&valid(spec), Some("op:1"), standing);
        made.unwrap()
    };
    let new = made(&minimal(), Standing::default());
    golden("pod-template-latest", &new.value);
    let digest = new.digest.as_deref();
    let stands = |defaults: u32, digest| Standing {
        live: Some(&Value::Null),
        additions: Additions {
            drain_image: Some("op:1"),
            defaults,
        },
        digest,
    };
    let count = |template: &Template| template::additions_in(&template.value).defaults;
    // An upgrade of the operator changes nothing, whatever the template has.
    for defaults in 0..=LATEST_DEFAULTS {
        for digest in [digest, None] {
            assert_eq!(count(&made(&minimal(), stands(defaults, digest))), defaults);
        }
    }
    assert_eq!(made(&minimal(), stands(LATEST_DEFAULTS, digest)), new);
    let plain = made(&minimal(), stands(0, digest)).value;
    let hook = Additions {
        drain_image: Some("op:1"),
        defaults: 0,
    };
    assert_eq!(plain, pod_template(&valid(&minimal()), hook).unwrap());
    // The next change brings them, also where it takes the hook away.
    for change in [
        json!({"podLabels": {"team": "data"}}),
        json!({"rollout": {"drain": "Disabled"}}),
    ] {
        let changed = made(&change, stands(0, digest));
        assert_eq!(count(&changed), LATEST_DEFAULTS, "{change}");
    }
    // What a newer operator has added stays as it stands until then.
    let mut newer = new.clone();
    newer.value["spec"]["hostname"] = json!("newer");
    let newest = Standing {
        live: Some(&newer.value),
        ..stands(LATEST_DEFAULTS + 1, digest)
    };
    assert_eq!(made(&minimal(), newest), newer);
    let change = json!({"podLabels": {"team": "data"}});
    assert_eq!(
        made(&change, newest),
        made(&change, stands(LATEST_DEFAULTS, digest))
    );
    let mine = made(
        &json!({
            "nodeSelector": {"kubernetes.io/os": "mine", "a": "b"},
            "podAnnotations": {"cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes": ""},
        }),
        Standing::default(),
    );
    let selector = &mine.value["spec"]["nodeSelector"];
    assert_eq!(selector, &json!({"kubernetes.io/os": "mine", "a": "b"}));
    let annotations = &mine.value["metadata"]["annotations"];
    let key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    assert_eq!(annotations[key], "");
    // The autoscaler is to leave a pod alone whose drain it would cut short.
    let local = json!("bytebase-data,bytebase-tmp,bytebase-drain");
    for (drain, defaults, expected) in [
        (3600, 1, &local),
        (3600, 2, &Value::Null),
        (600, 2, &Value::Null),
        (500, 2, &local),
    ] {
        let spec = json!({"rollout": {"drainTimeoutSeconds": drain}});
        let additions = Additions {
            drain_image: Some("op:1"),
            defaults,
        };
        let made = pod_template(&valid(&spec), additions).unwrap();
        assert_eq!(&made["metadata"]["annotations"][key], expected, "{drain}");
    }
}

/// The template of this spec as a newer operator made it, which has other defaults and another
/// hook.
fn newer(spec: &Value) -> Template {
    let mut made = template::template(&valid(spec), Some("op:1"), Standing::default()).unwrap();
    let template = &mut made.value;
    template["metadata"]["annotations"]["bytebase.com/pod-defaults"] = json!("99");
    template["spec"]["hostname"] = json!("newer");
    template["spec"]["nodeSelector"]["kubernetes.io/arch"] = json!("amd64");
    template["spec"]["terminationGracePeriodSeconds"] = json!(9999);
    let bytebase = &mut template["spec"]["containers"][0];
    bytebase["lifecycle"]["preStop"]["exec"]["command"] = json!(["newer"]);
    let added = json!({"name": "NEWER", "value": "1"});
    bytebase["env"].as_array_mut().unwrap().insert(0, added);
    // As the API server writes them.
    if bytebase["resources"].is_object() {
        bytebase["resources"]["limits"]["memory"] = json!("2048Mi");
    }
    made
}

#[test]
fn in_a_template_of_a_newer_operator_the_change_of_another_party_is_undone_and_nothing_else() {
    for spec in [minimal(), full()] {
        let made = newer(&spec);
        let kept = |live: &Value| {
            let standing = Standing {
                live: Some(live),
                additions: template::additions_in(live),
                digest: made.digest.as_deref(),
            };
            template::template(&valid(&spec), Some("op:1"), standing).unwrap()
        };
        assert_eq!(kept(&made.value), made, "{spec}");
        for (path, theirs) in [
            ("/spec/containers/0/image", json!("theirs")),
            ("/spec/containers/0/args", json!(["--port", "1"])),
            ("/spec/containers/0/readinessProbe", Value::Null),
            (
                "/spec/containers/0/env/2/valueFrom/fieldRef/fieldPath",
                json!("metadata.uid"),
            ),
            ("/spec/automountServiceAccountToken", json!(true)),
            ("/metadata/labels", json!({"theirs": "1"})),
        ] {
            let mut live = made.value.clone();
            let before = live.pointer(path).cloned();
            *live.pointer_mut(path).unwrap() = theirs;
            let after = kept(&live).value;
            if path.ends_with("labels") {
                let before = before.unwrap();
                let mut labels = before.as_object().unwrap().iter();
                let after = &after["metadata"]["labels"];
                assert!(labels.all(|(key, value)| after[key] == *value), "{after}");
            } else {
                assert_eq!(after.pointer(path), before.as_ref(), "{path}");
            }
            assert_eq!(after["spec"]["hostname"], "newer");
        }
        // What the hook and the defaults bring may have another form by now.
        let mut live = made.value.clone();
        live["spec"]["terminationGracePeriodSeconds"] = json!(1);
        assert_eq!(kept(&live).value, live);
    }
}

#[test]
fn what_is_added_to_a_template_changes_nothing_else_of_it() {
    for spec in [minimal(), full()] {
        let made = |additions| pod_template(&valid(&spec), additions).unwrap();
        let latest = made(Additions {
            defaults: LATEST_DEFAULTS,
            ..HOOK
        });
        let plain = made(Additions::default());
        for defaults in 0..=LATEST_DEFAULTS {
            let known = drift::common(&plain, &made(Additions { defaults, ..HOOK }));
            assert_eq!(
                drift::undone(&latest, &known).unwrap(),
                latest,
                "{defaults}"
            );
        }
        let defaults = made(Additions {
            defaults: LATEST_DEFAULTS,
            ..Additions::default()
        });
        assert_eq!(drift::undone(&defaults, &plain).unwrap(), defaults);
    }
}

#[test]
fn objects_are_as_they_were_released() {
    for (name, spec) in [("minimal", minimal()), ("full", full())] {
        for (kind, object) in objects(&valid(&spec)) {
            // What a minimal cluster does without has a golden file of the full one only.
            if let Some(object) = object {
                golden(&format!("{kind}-{name}"), &object.value);
            } else {
                assert_eq!(name, "minimal", "{kind}");
            }
        }
    }
}

#[test]
fn every_kind_that_a_cluster_owns_is_built_under_its_name_and_in_its_order() {
    let cluster = valid(&full());
    let built: Vec<_> = objects(&cluster)
        .into_iter()
        .filter_map(|(_, object)| object)
        .collect();
    for object in &built {
        assert_eq!(object.value["apiVersion"], object.kind.api_version());
        assert_eq!(object.value["kind"], object.kind.name());
    }
    for kind in Kind::owned() {
        assert!(built.iter().any(|object| object.kind == kind), "{kind}");
    }
    let companions = companions(&cluster, Some("operators"), Doors::AsWanted);
    assert!(companions.is_sorted_by_key(|object| object.kind));
    assert_eq!(companions.len(), built.len() - 1, "all but the StatefulSet");
}

#[test]
fn each_ingress_preset_has_its_words() {
    for preset in IngressPreset::iter() {
        let name = serde_json::to_value(preset).unwrap();
        let cluster = valid(&json!({"ingress": {"preset": name}}));
        let value = json!({"ingress": ingress(&cluster).unwrap().value, "service": service(&cluster, Doors::AsWanted).value});
        golden(
            &format!("ingress-preset-{}", name.as_str().unwrap()),
            &value,
        );
    }
}

/// What each path of an Ingress leads to: a Service, and the name of its port.
fn backends(ingress: &Value) -> Vec<(&str, &str, &str)> {
    let paths = &ingress["spec"]["rules"][0]["http"]["paths"];
    paths
        .as_array()
        .unwrap()
        .iter()
        .map(|path| {
            let service = &path["backend"]["service"];
            (
                path["path"].as_str().unwrap(),
                service["name"].as_str().unwrap(),
                service["port"]["name"].as_str().unwrap(),
            )
        })
        .collect()
}

/// The number in a Service to which traffic for a port of it goes.
fn target<'a>(service: &'a Value, port: &str) -> &'a Value {
    let ports = service["spec"]["ports"].as_array().unwrap();
    let port = ports.iter().find(|found| found["name"] == port);
    &port.unwrap()["targetPort"]
}

#[test]
fn private_paths_lead_nowhere_whatever_the_controller() {
    for preset in IngressPreset::iter() {
        let cluster = valid(&json!({"ingress": {"preset": preset}}));
        let made = ingress(&cluster).unwrap().value;
        let (client, headless) = (
            service(&cluster, Doors::AsWanted).value,
            headless_service(&cluster).value,
        );
        let backends = backends(&made);
        assert_eq!(backends.last(), Some(&("/", "demo", "http")), "{preset:?}");
        let private: Vec<_> = backends.iter().map(|(path, ..)| *path).collect();
        assert_eq!(private, ["/metrics", "/debug", "/"], "{preset:?}");
        for (_, name, port) in &backends[..2] {
            match (preset, *name) {
                (IngressPreset::AwsAlb, action) => {
                    assert_eq!(*port, "use-annotation");
                    let key = format!("alb.ingress.kubernetes.io/actions.{action}");
                    let answer = made["metadata"]["annotations"][key].as_str().unwrap();
                    let answer: Value = serde_json::from_str(answer).unwrap();
                    assert_eq!(answer["type"], "fixed-response");
                }
                (_, "demo") => assert_eq!(target(&client, port), 9),
                (_, name) => {
                    assert_eq!(name, "demo-headless");
                    assert_eq!(target(&headless, port), 9);
                }
            }
        }
        // Load balancers of clouds refuse an Ingress that leads to a headless Service.
        let is_of_a_cloud = matches!(preset, IngressPreset::AwsAlb | IngressPreset::Gce);
        let is_headless = backends.iter().any(|(_, name, _)| *name == "demo-headless");
        assert_eq!(is_headless, !is_of_a_cloud, "{preset:?}");
    }
}

#[test]
fn a_load_balancer_of_a_cloud_sends_to_pods_where_nodes_have_no_port() {
    let annotations = |preset: &str, type_: &str| {
        let spec = json!({"ingress": {"preset": preset}, "service": {"type": type_}});
        let made = service(&valid(&spec), Doors::AsWanted).value;
        made["metadata"]["annotations"].clone()
    };
    for (preset, expected) in [
        (
            "aws-alb",
            json!({"alb.ingress.kubernetes.io/target-type": "ip"}),
        ),
        ("gce", json!({"cloud.google.com/neg": "{\"ingress\":true}"})),
    ] {
        assert_eq!(annotations(preset, "ClusterIP"), expected);
        for type_ in ["NodePort", "LoadBalancer"] {
            assert_eq!(annotations(preset, type_), Value::Null, "{preset}");
        }
    }
}

#[test]
fn the_port_that_leads_nowhere_has_a_number_of_its_own() {
    for (users, expected) in [(80, 9), (9, 10)] {
        let spec = json!({"ingress": {"preset": "gce"}, "service": {"port": users}});
        let made = service(&valid(&spec), Doors::AsWanted).value;
        let ports = &made["spec"]["ports"];
        assert_eq!(
            (&ports[0]["port"], &ports[1]["port"]),
            (&json!(users), &json!(expected))
        );
    }
}

#[test]
fn a_service_is_reached_as_it_is_said() {
    let balanced = json!({"service": {
        "type": "LoadBalancer", "loadBalancerClass": "example.com/inner",
        "loadBalancerSourceRanges": ["192.0.2.0/24", "2001:db8::/32"],
        "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local",
        "ipFamilies": ["IPv6", "IPv4"], "ipFamilyPolicy": "RequireDualStack",
    }});
    let cluster = valid(&balanced);
    let made = service(&cluster, Doors::AsWanted).value;
    golden("service-balanced", &made);
    // Until it may be reached from outside, it has nothing that belongs to another type.
    let closed = service(&cluster, Doors::Closed).value["spec"].clone();
    assert_eq!(closed["type"], "ClusterIP");
    for field in [
        "loadBalancerClass",
        "loadBalancerSourceRanges",
        "externalTrafficPolicy",
    ] {
        assert!(made["spec"].get(field).is_some(), "{field}");
        assert!(closed.get(field).is_none(), "{field}");
    }
    for field in ["internalTrafficPolicy", "ipFamilies", "ipFamilyPolicy"] {
        assert_eq!(made["spec"][field], closed[field], "{field}");
    }
    let nodes = json!({"service": {"type": "NodePort", "externalTrafficPolicy": "Cluster"}});
    let nodes = service(&valid(&nodes), Doors::AsWanted).value;
    assert_eq!(nodes["spec"]["externalTrafficPolicy"], "Cluster");
}

#[test]
fn ip_families_are_written_with_their_policy_or_not_at_all() {
    for (given, policy, families) in [
        (json!({}), json!(null), json!(null)),
        (
            json!({"ipFamilies": ["IPv6"]}),
            json!("SingleStack"),
            json!(["IPv6"]),
        ),
        (
            json!({"ipFamilyPolicy": "SingleStack"}),
            json!("SingleStack"),
            json!(null),
        ),
        (
            json!({"ipFamilyPolicy": "PreferDualStack"}),
            json!("PreferDualStack"),
            json!(null),
        ),
        (
            json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}),
            json!("PreferDualStack"),
            json!(["IPv4", "IPv6"]),
        ),
    ] {
        let cluster = valid(&json!({"service": given}));
        for made in [
            service(&cluster, Doors::AsWanted),
            headless_service(&cluster),
        ] {
            let spec = &made.value["spec"];
            let found = (&spec["ipFamilyPolicy"], &spec["ipFamilies"]);
            assert_eq!(found, (&policy, &families), "{given}");
        }
    }
}

#[test]
fn what_is_switched_off_is_not_there() {
    let cluster = valid(&json!({
        "ingress": {"enabled": false}, "disruptionBudget": {"enabled": false}, "serviceAccount": {"name": "mine"}, "topologySpreadConstraints": [],
        "rollout": {"preStopSeconds": 0},
    }));
    assert!(
        ingress(&cluster).is_none()
            && pod_disruption_budget(&cluster).is_none()
            && service_account(&cluster).is_none()
    );
    let off = json!({"networkPolicy": {"enabled": false}, "monitoring": {"serviceMonitor": {"enabled": false}}});
    for cluster in [valid(&minimal()), valid(&off)] {
        assert!(
            http_route(&cluster).is_none()
                && network_policy(&cluster, None).is_none()
                && service_monitor(&cluster).is_none()
        );
    }
    let template = pod_template(&cluster, Additions::default()).unwrap();
    assert_eq!(template["spec"]["serviceAccountName"], "mine");
    assert!(template["spec"].get("topologySpreadConstraints").is_none());
    assert!(template["spec"]["containers"][0].get("lifecycle").is_none());
    assert_eq!(template["spec"]["terminationGracePeriodSeconds"], 60);
}

#[test]
fn who_asks_for_a_gateway_only_gets_no_ingress() {
    let gateway = json!({"parentRefs": [{"name": "public"}]});
    let kinds = |spec: &Value| {
        let cluster = valid(spec);
        (ingress(&cluster).is_some(), http_route(&cluster).is_some())
    };
    assert_eq!(kinds(&json!({"gateway": gateway})), (false, true));
    assert_eq!(
        kinds(&json!({"gateway": gateway, "ingress": {}})),
        (true, true)
    );
    assert_eq!(kinds(&json!({})), (true, false));
}

#[test]
fn a_network_policy_lets_the_operator_in_where_it_has_something_to_do() {
    let admin = json!({"credentialsSecretRef": {"name": "admin"}});
    let from = json!([{"podSelector": {"matchLabels": {"app": "ingress"}}}]);
    let peers = |spec: &Value| {
        let policy = network_policy(&valid(spec), Some("operators")).unwrap();
        let peers = &policy.value["spec"]["ingress"][0]["from"];
        peers.as_array().map(Vec::len)
    };
    // An empty list of peers would let no one in, so it is left out.
    assert_eq!(peers(&json!({"networkPolicy": {}, "admin": admin})), None);
    assert_eq!(peers(&json!({"networkPolicy": {"from": from}})), Some(1));
    assert_eq!(
        peers(&json!({"networkPolicy": {"from": from}, "admin": admin})),
        Some(2)
    );
}

#[test]
fn every_object_is_owned_labelled_and_in_its_namespace() {
    for (kind, object) in objects(&valid(&full())) {
        let metadata = object.unwrap().value["metadata"].clone();
        assert_eq!(metadata["namespace"], "apps", "{kind}");
        assert_eq!(
            metadata["labels"]["app.kubernetes.io/managed-by"], "bytebase-operator",
            "{kind}"
        );
        let owner = &metadata["ownerReferences"][0];
        assert_eq!(
            (&owner["uid"], &owner["controller"]),
            (&json!("uid-demo"), &json!(true)),
            "{kind}"
        );
    }
}

#[test]
fn labels_and_annotations_of_the_cluster_are_on_every_object() {
    for (kind, object) in objects(&valid(&full())) {
        let metadata = object.unwrap().value["metadata"].clone();
        let (labels, annotations) = (&metadata["labels"], &metadata["annotations"]);
        assert_eq!(labels["owner"], "platform", "{kind}");
        assert_eq!(annotations["example.com/contact"], "Platform team, room 7");
        // What is said of one object wins.
        let of_its_own = ["service", "ingress", "http-route"].contains(&kind);
        let expected = if of_its_own { "b" } else { "of-the-cluster" };
        assert_eq!(annotations["example.com/a"], expected, "{kind}");
        let is_monitor = kind == "service-monitor";
        let expected = if is_monitor {
            "prometheus"
        } else {
            "of-the-cluster"
        };
        assert_eq!(labels["release"], expected, "{kind}");
    }
}

#[test]
fn no_label_that_the_operator_sets_can_be_set_by_a_user() {
    for (kind, object) in objects(&valid(&full())) {
        let labels = object.unwrap().value["metadata"]["labels"].clone();
        for key in labels.as_object().unwrap().keys() {
            if ["owner", "release"].contains(&key.as_str()) {
                continue;
            }
            let validation = validation(&json!({"labels": {key: "mine"}}));
            let fields: Vec<_> = validation
                .problems
                .iter()
                .map(|problem| &problem.field)
                .collect();
            assert_eq!(fields, ["spec.labels"], "{kind}: {key}");
        }
    }
}

#[test]
fn the_template_moves_with_secrets_and_version_and_with_nothing_else() {
    let before = template(&minimal());
    // None of these reaches a pod.
    for changes in [
        json!({"replicas": 7}),
        json!({"paused": true}),
        json!({"license": {"enforcement": "Warn", "secretRef": key("license", "token")}}),
        json!({"admin": {"credentialsSecretRef": {"name": "admin"}}}),
        json!({"ingress": {"enabled": false}}),
        json!({"service": {"port": 81}}),
        json!({"rollout": {"readyTimeoutSeconds": 60}}),
        json!({"disruptionBudget": {"enabled": false}}),
        json!({"gateway": {"parentRefs": [{"name": "public"}]}}),
        json!({"networkPolicy": {}}),
        json!({"monitoring": {"serviceMonitor": {}}}),
        json!({"labels": {"owner": "platform"}, "annotations": {"example.com/a": "b"}}),
    ] {
        assert_eq!(before, template(&changes), "{changes}");
    }
    let mut references = references();
    crate::testing::secret(
        &mut references,
        "pg",
        "PG_URL",
        "postgres://u:other@db/bytebase",
    );
    let rotated = validate(&cluster(&minimal()), &references, None, now())
        .cluster
        .unwrap();
    assert_ne!(
        before,
        pod_template(&rotated, Additions::default()).unwrap()
    );
}

#[test]
fn an_inline_url_reaches_the_container_as_it_is() {
    let url = "postgres://u@db/x?search_path=$(HOME),$$user";
    let template = template(&json!({"database": {"url": url}}));
    let env = template["spec"]["containers"][0]["env"].as_array().unwrap();
    let value = env
        .iter()
        .find(|variable| variable["name"] == "PG_URL")
        .unwrap()["value"]
        .as_str()
        .unwrap();
    // What the kubelet makes of it: `$$` is `$`, and what follows is not expanded.
    assert_eq!(value.replace("$$", "$"), url);
    assert!(!value.replace("$$", "").contains('$'));
}

#[test]
fn the_go_memory_limit_follows_the_containers() {
    let of = |changes: Value| {
        let template = template(&changes);
        let env = template["spec"]["containers"][0]["env"]
            .as_array()
            .unwrap()
            .clone();
        env.into_iter()
            .filter(|variable| variable["name"] == "GOMEMLIMIT")
            .map(|variable| variable["value"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of(json!({"resources": {"limits": {"memory": "1000M"}}})),
        ["900000000"]
    );
    assert_eq!(
        of(
            json!({"resources": {"limits": {"memory": "1Gi"}}, "env": [{"name": "GOMEMLIMIT", "value": "1GiB"}]})
        ),
        ["1GiB"]
    );
    assert!(of(json!({"resources": {"limits": {"cpu": "1"}}})).is_empty());
    assert!(of(json!({})).is_empty());
}

fn merged(overlay: &Value) -> Result<Value, String> {
    merged_by(LATEST_DEFAULTS, overlay)
}

fn merged_by(defaults: u32, overlay: &Value) -> Result<Value, String> {
    let additions = Additions {
        drain_image: None,
        defaults,
    };
    pod_template(&valid(&json!({"podTemplate": overlay})), additions)
}

#[test]
fn an_upgrade_of_the_operator_merges_the_overlay_of_older_pods_as_before() {
    let two = json!({"spec": {"topologySpreadConstraints": [
        {"topologyKey": "rack", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2},
        {"topologyKey": "rack", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 3},
    ]}});
    let racks = |defaults| {
        let spec = &merged_by(defaults, &two).unwrap()["spec"];
        let constraints = spec["topologySpreadConstraints"].as_array().unwrap().iter();
        constraints
            .filter(|constraint| constraint["topologyKey"] == "rack")
            .count()
    };
    assert_eq!((racks(0), racks(LATEST_DEFAULTS)), (1, 2));
}

fn container(change: &Value) -> Value {
    let mut container = json!({"name": "bytebase"});
    merge(&mut container, change);
    json!({"spec": {"containers": [container]}})
}

fn with_null(field: &str) -> Value {
    json!({"spec": {"containers": [{"name": "bytebase", field: null}]}})
}

#[test]
fn an_overlay_changes_the_only_constraint_of_a_topology_key_and_adds_to_it() {
    for (overlay, pointer, expected) in [
        (
            json!({"spec": {"topologySpreadConstraints": [
                {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2},
                {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 3},
            ]}}),
            "/spec/topologySpreadConstraints/2",
            Some(
                json!({"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule", "maxSkew": 2}),
            ),
        ),
        (
            json!({"spec": {"topologySpreadConstraints": [
                {"topologyKey": "kubernetes.io/hostname", "maxSkew": 3},
            ]}}),
            "/spec/topologySpreadConstraints/0/maxSkew",
            Some(json!(3)),
        ),
        // The only one of its key is the default, changed.
        (
            json!({"spec": {"topologySpreadConstraints": [
                {"topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"},
            ]}}),
            "/spec/topologySpreadConstraints/0/whenUnsatisfiable",
            Some(json!("DoNotSchedule")),
        ),
    ] {
        let template = merged(&overlay).unwrap_or_else(|error| panic!("{overlay}: {error}"));
        assert_eq!(template.pointer(pointer), expected.as_ref(), "{overlay}");
    }
}

#[test]
fn thousands_of_variables_are_merged_in_their_order() {
    let of = |numbers: std::ops::Range<usize>, value: &str| -> Vec<Value> {
        let variable = |number| json!({"name": format!("V{number}"), "value": value});
        numbers.map(variable).collect()
    };
    let spec = json!({
        "env": of(0..20_000, "spec"),
        "podTemplate": container(&json!({"env": of(10_000..30_000, "overlay")})),
    });
    let additions = Additions {
        drain_image: None,
        defaults: LATEST_DEFAULTS,
    };
    let template = pod_template(&valid(&spec), additions).unwrap();
    let env = template["spec"]["containers"][0]["env"].as_array().unwrap();
    let expected = [of(0..10_000, "spec"), of(10_000..30_000, "overlay")].concat();
    assert!(env.ends_with(&expected));
}

#[test]
fn an_overlay_changes_what_it_names() {
    for (overlay, pointer, expected) in [
        (json!({}), "/spec/hostname", None),
        (
            json!({"spec": {"hostname": "x"}}),
            "/spec/hostname",
            Some(json!("x")),
        ),
        (
            json!({"spec": {"securityContext": {"fsGroup": null, "runAsUser": 7}}}),
            "/spec/securityContext",
            Some(
                json!({"runAsUser": 7, "runAsGroup": 113, "runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}}),
            ),
        ),
        (
            container(&json!({"imagePullPolicy": "Always"})),
            "/spec/containers/0/imagePullPolicy",
            Some(json!("Always")),
        ),
        (
            container(&json!({"ports": [{"containerPort": 9, "name": "x"}]})),
            "/spec/containers/0/ports/1/name",
            Some(json!("x")),
        ),
        // Of another protocol it is another port.
        (
            container(&json!({"ports": [{"containerPort": 8080, "protocol": "UDP"}]})),
            "/spec/containers/0/ports",
            Some(json!([
                {"containerPort": 8080, "name": "http", "protocol": "TCP"},
                {"containerPort": 8080, "protocol": "UDP"},
            ])),
        ),
        (
            json!({"spec": {"containers": [{"name": "dns", "ports": [
                {"containerPort": 53},
                {"containerPort": 53, "protocol": "UDP"},
            ]}]}}),
            "/spec/containers/1/ports/1/protocol",
            Some(json!("UDP")),
        ),
        (
            container(&json!({"volumeMounts": [{"name": "other", "mountPath": "/tmp"}]})),
            "/spec/containers/0/volumeMounts/1/name",
            Some(json!("other")),
        ),
        (with_null("lifecycle"), "/spec/containers/0/lifecycle", None),
        (
            json!({"spec": {"containers": [{"name": "other", "image": "o", "env": null}]}}),
            "/spec/containers/1/name",
            Some(json!("other")),
        ),
        (
            json!({"spec": {"initContainers": [{"name": "first", "image": "o"}]}}),
            "/spec/initContainers/0/name",
            Some(json!("first")),
        ),
        (
            json!({"spec": {"tolerations": [{"operator": "Exists"}]}}),
            "/spec/tolerations",
            Some(json!([{"operator": "Exists"}])),
        ),
        (
            json!({"spec": {"restartPolicy": "Always"}}),
            "/spec/restartPolicy",
            Some(json!("Always")),
        ),
        (
            json!({"metadata": {"labels": {"a": "b"}}}),
            "/metadata/labels/a",
            Some(json!("b")),
        ),
    ] {
        let template = merged(&overlay).unwrap_or_else(|error| panic!("{overlay}: {error}"));
        assert_eq!(template.pointer(pointer), expected.as_ref(), "{overlay}");
        assert_eq!(
            template["spec"]["containers"][0]["args"],
            self::template(&minimal())["spec"]["containers"][0]["args"]
        );
    }
}

/// Overlays that must not be merged, and words of the reason.
fn hostile_overlays() -> Vec<(Value, &'static str)> {
    const ARGUMENTS: &str = "changes the command or the arguments";
    vec![
        (
            json!({"spec": {"containers": null}}),
            "takes the bytebase container away",
        ),
        (json!({"spec": null}), "takes the bytebase container away"),
        (
            container(&json!({"$patch": "delete"})),
            "the directive $patch is not supported",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": []}}),
            "is not supported",
        ),
        (
            json!({"spec": {"initContainers": [{"name": "x", "$patch": "replace"}]}}),
            "$patch",
        ),
        (container(&json!({"args": []})), ARGUMENTS),
        (container(&json!({"args": ["--port", "8080"]})), ARGUMENTS),
        (with_null("args"), ARGUMENTS),
        (container(&json!({"image": "mine:1"})), "changes the image"),
        (with_null("image"), "changes the image"),
        (container(&json!({"command": ["sh"]})), ARGUMENTS),
        (
            container(&json!({"env": [{"name": "PG_URL", "value": "x", "valueFrom": null}]})),
            "changes PG_URL",
        ),
        (
            container(
                &json!({"env": [{"name": "PGAPPNAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}}]}),
            ),
            "changes PGAPPNAME",
        ),
        (
            container(&json!({"env": [{"name": "PGPASSWORD", "value": "x"}]})),
            "changes PGPASSWORD",
        ),
        (with_null("env"), "changes PG_URL"),
        (
            json!({"metadata": {"labels": {"bytebase.com/cluster": "other"}}}),
            "changes the label bytebase.com/cluster",
        ),
        (
            json!({"metadata": {"labels": {"app.kubernetes.io/name": null}}}),
            "changes the label",
        ),
        (json!({"metadata": {"labels": null}}), "changes the label"),
        (
            json!({"metadata": {"annotations": {"bytebase.com/secrets-checksum": "0"}}}),
            "changes the annotation",
        ),
        (json!({"metadata": null}), "changes the"),
        (json!({"spec": {"restartPolicy": "Never"}}), "restartPolicy"),
        (
            json!({"spec": {"hostnam": "x"}}),
            "spec.hostnam is no field of a pod template of Kubernetes 1.33",
        ),
        (json!({"kind": "Pod"}), "kind is no field"),
        (
            container(&json!({"resource": {"limits": {}}, "livenessprobe": {"periodSeconds": 1}})),
            "is no field",
        ),
        (
            json!({"spec": {"containers": [{"name": "b", "env": [{"name": "A", "vlaue": "x"}]}]}}),
            "spec.containers[1].env[0].vlaue is no field",
        ),
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            "an entry of containers has no name",
        ),
        (
            json!({"spec": {"containers": ["x"]}}),
            "an entry of containers has no name",
        ),
        (
            json!({"spec": {"containers": [{"name": null}]}}),
            "an entry of containers has no name",
        ),
        (
            json!({"spec": {"containers": "x"}}),
            "does not fit a pod template",
        ),
        (json!({"spec": 5}), "does not fit a pod template"),
        (
            json!({"spec": {"terminationGracePeriodSeconds": "60"}}),
            "does not fit a pod template",
        ),
        // What stands there may be a password.
        (
            container(&json!({"args": [87_654_321]})),
            "does not fit a pod template: spec.containers[0].args[0] holds a value of another type or form than belongs there",
        ),
    ]
}

#[test]
fn what_kubectl_leaves_of_a_null_is_remarked() {
    let empty = json!({"securityContext": {}});
    for (overlay, words) in [
        (
            json!({"spec": empty}),
            Some("spec.securityContext is empty"),
        ),
        (
            container(&empty),
            Some("the bytebase container's securityContext is empty"),
        ),
        (json!({"spec": {"securityContext": {"fsGroup": 7}}}), None),
        (
            json!({"spec": {"containers": [{"name": "mine", "securityContext": {}}]}}),
            None,
        ),
    ] {
        let remark = super::emptied(&overlay);
        let is_right = match words {
            Some(words) => remark.as_ref().is_some_and(|remark| remark.contains(words)),
            None => remark.is_none(),
        };
        assert!(is_right, "{overlay}: {remark:?}");
    }
}

/// What the API server would refuse, with words that blame the operator.
fn doubled_overlays() -> Vec<(Value, &'static str)> {
    let sidecar = |change: Value| {
        let mut sidecar = json!({"name": "sidecar", "image": "s:1"});
        merge(&mut sidecar, &change);
        json!({"spec": {"containers": [sidecar]}})
    };
    vec![
        (
            sidecar(json!({"env": [{"name": "A"}, {"name": "B"}, {"name": "A", "value": "x"}]})),
            "spec.containers[1].env[2]: name \"A\" is there twice",
        ),
        (
            sidecar(json!({"volumeMounts": [
                {"name": "bytebase-tmp", "mountPath": "/a"},
                {"name": "bytebase-data", "mountPath": "/a"},
            ]})),
            "spec.containers[1].volumeMounts[1]: mountPath \"/a\" is there twice",
        ),
        (
            sidecar(json!({"ports": [
                {"containerPort": 53, "protocol": "UDP"},
                {"containerPort": 53},
                {"containerPort": 53, "protocol": "TCP"},
            ]})),
            "spec.containers[1].ports[2]: containerPort 53 is there twice",
        ),
        (
            sidecar(json!({"ports": [
                {"containerPort": 53, "protocol": "UDP"},
                {"containerPort": 53, "protocol": "UDP"},
            ]})),
            "ports[1]: containerPort 53 with protocol \"UDP\" is there twice",
        ),
        (
            sidecar(json!({"resources": {"claims": [{"name": "gpu"}, {"name": "gpu"}]}})),
            "spec.containers[1].resources.claims[1]: name \"gpu\" is there twice",
        ),
        (
            json!({"spec": {"hostAliases": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}}),
            "spec.hostAliases[1]: ip \"10.0.0.1\" is there twice",
        ),
        (
            json!({"spec": {"initContainers": [{"name": "a"}, {"name": "a"}]}}),
            "spec.initContainers[1]: name \"a\" is there twice",
        ),
        (
            json!({"spec": {"imagePullSecrets": [{"name": "a"}, {"name": "a"}]}}),
            "spec.imagePullSecrets[1]: name \"a\" is there twice",
        ),
        (
            json!({"spec": {"schedulingGates": [{"name": "a"}, {"name": "a"}]}}),
            "spec.schedulingGates[1]: name \"a\" is there twice",
        ),
    ]
}

fn deep_overlays() -> [(Value, &'static str); 2] {
    let (mut object, mut list) = (json!({}), json!([]));
    for _ in 0..100 {
        object = json!({"spec": object});
        list = json!([list]);
    }
    [
        (object, "spec.spec is no field"),
        (
            json!({"spec": {"containers": [{"name": "bytebase", "volumeMounts": list}]}}),
            "has no mountPath",
        ),
    ]
}

#[test]
fn a_hostile_overlay_is_refused_with_a_reason() {
    let overlays = hostile_overlays()
        .into_iter()
        .chain(doubled_overlays())
        .chain(deep_overlays());
    for (overlay, words) in overlays {
        let error = merged(&overlay).expect_err(&overlay.to_string());
        assert!(error.contains(words), "{overlay}: {error}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let keys = proptest::sample::select(vec![
        "spec",
        "metadata",
        "containers",
        "labels",
        "name",
        "env",
        "args",
        "$patch",
        "volumes",
        "ports",
        "x",
    ]);
    let leaf = prop_oneof![
        Just(json!(null)),
        Just(json!("bytebase")),
        Just(json!("")),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 40, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            proptest::collection::vec((keys.clone(), inner), 0..4).prop_map(|fields| fields
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect()),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_laid_over_the_container_stays_a_replica(metadata in any_json(), spec in any_json(), containers in any_json()) {
        for overlay in [json!({"metadata": metadata}), json!({"spec": spec}), json!({"spec": {"containers": containers}})] {
            let Ok(template) = merged(&overlay) else { continue };
            let containers = template["spec"]["containers"].as_array().unwrap();
            let container = containers.iter().find(|container| container["name"] == "bytebase").unwrap();
            prop_assert!(container["args"].as_array().unwrap().contains(&json!("--ha")));
            prop_assert_eq!(&template["metadata"]["labels"]["bytebase.com/cluster"], "demo");
        }
    }
}
