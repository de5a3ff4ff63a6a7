//! An external URL that changes while replicas run.

use super::{plan, size};
use crate::decide::plan::Plan;
use crate::kubernetes::Kind;
use crate::observation::Observation;
use crate::testing::{OLD, healthy, stored};
use serde_json::{Value, json};

const BEFORE: &str = "old.example.com";
const BETWEEN: &str = "mid.example.com";
const WANTED: &str = "new.example.com";

/// Hosts of the Ingress, with those of its certificate if these are others, and of the HTTPRoute.
fn hosts(plan: &Plan) -> [Vec<&str>; 2] {
    let spec = |kind| {
        let mut objects = plan.objects.iter();
        &objects.find(|object| object.kind == kind).unwrap().value["spec"]
    };
    let texts = |list: &'_ Value| -> Vec<_> {
        let items = list.as_array().unwrap().iter().cloned();
        items.collect()
    };
    let (ingress, route) = (spec(Kind::Ingress), spec(Kind::HttpRoute));
    let rules = ingress["rules"].as_array().unwrap();
    let ways: Vec<_> = rules.iter().map(|rule| rule["http"].clone()).collect();
    assert!(ways.iter().all(|way| *way == ways[0]), "{ways:?}");
    let of_rules: Vec<_> = rules.iter().map(|rule| rule["host"].clone()).collect();
    assert_eq!(texts(&ingress["tls"][0]["hosts"]), of_rules);
    let text = |value: &'_ Value| -> &'static str {
        [BEFORE, BETWEEN, WANTED]
            .into_iter()
            .find(|host| value == host)
            .unwrap()
    };
    [of_rules, texts(&route["hostnames"])].map(|hosts| hosts.iter().map(text).collect())
}

/// A cluster with this host, which an Ingress and an HTTPRoute lead in from.
fn spec(host: &str) -> Value {
    json!({
        "externalURL": format!("https://{host}"), "ingress": {"tlsSecretName": "tls"},
        "gateway": {"parentRefs": [{"name": "public"}]},
    })
}

#[test]
fn the_host_of_before_leads_in_until_no_replica_is_left_that_was_started_with_its_url() {
    let spec = spec(WANTED);
    let seen = |exposed: &[&str]| -> Observation {
        let mut seen = healthy(3, stored(&json!({})));
        seen.exposed_hosts = exposed.iter().map(|host| (*host).to_owned()).collect();
        seen.remembered.url = Some(format!("https://{BEFORE}"));
        seen
    };
    let rolling = |exposed: &[&str]| {
        let mut seen = seen(exposed);
        seen.pods[0].revision = Some(OLD.to_owned());
        seen
    };
    let both = [(); 2].map(|()| vec![WANTED, BEFORE]);
    let wanted = [(); 2].map(|()| vec![WANTED]);
    let mut held = spec.clone();
    held["version"] = json!("3.20.9");
    for (case, spec, seen, expected, url) in [
        ("rolling", &spec, rolling(&[BEFORE]), &both, BEFORE),
        ("again", &spec, rolling(&[WANTED, BEFORE]), &both, BEFORE),
        // It has never led in, such as one that the user serves by an Ingress of another name.
        ("elsewhere", &spec, rolling(&["other"]), &wanted, BEFORE),
        ("held", &held, seen(&[BEFORE]), &both, BEFORE),
        ("over", &spec, seen(&[WANTED, BEFORE]), &wanted, WANTED),
    ] {
        let plan = plan(spec, &seen);
        assert_eq!(&hosts(&plan), expected, "{case}");
        let reported = plan.report.url.as_deref().unwrap();
        assert!(reported.contains(url), "{case}: {reported}");
        assert_eq!(size(&plan).is_none(), case == "held", "{case}");
    }
    // No host twice.
    let mut named = spec;
    for way in ["ingress", "gateway"] {
        named[way]["host"] = json!(BEFORE);
        named[way]["allowHostMismatch"] = json!(true);
    }
    let plan = plan(&named, &rolling(&[BEFORE]));
    assert_eq!(hosts(&plan), [(); 2].map(|()| vec![BEFORE]));
}

#[test]
fn where_the_url_changes_again_each_host_that_a_replica_was_started_with_leads_in() {
    // Three replicas that were started with these hosts, those of another than the first one
    // outdated.
    let seen = |wanted: &str, hosts: [&str; 3]| -> Observation {
        let mut seen = healthy(3, stored(&json!({})));
        seen.exposed_hosts = vec![BETWEEN.to_owned(), BEFORE.to_owned()];
        seen.remembered.url = Some(format!("https://{BEFORE}"));
        for (pod, host) in seen.pods.iter_mut().zip(hosts) {
            pod.external_url = Some(format!("https://{host}"));
            if host != wanted {
                pod.revision = Some(OLD.to_owned());
            }
        }
        seen
    };
    let all = &[WANTED, BETWEEN, BEFORE][..];
    let mut apart = seen(WANTED, [BEFORE, BETWEEN, WANTED]);
    apart.exposed_hosts = vec![BEFORE.to_owned()];
    let mut made = seen(WANTED, [BEFORE; 3]);
    made.stateful_set.as_mut().unwrap().template = json!({"spec": {"containers": [{
        "name": "bytebase", "args": ["--external-url", format!("https://{BETWEEN}"), "--ha"],
    }]}});
    let mut orphaned = seen(WANTED, [BETWEEN, WANTED, WANTED]);
    orphaned.stateful_set = None;
    let cases = vec![
        (
            "all three",
            WANTED,
            seen(WANTED, [BEFORE, BETWEEN, WANTED]),
            all,
        ),
        // The first one is that of status until the rollout is over.
        (
            "first left",
            WANTED,
            seen(WANTED, [BETWEEN, WANTED, WANTED]),
            all,
        ),
        (
            "second left",
            WANTED,
            seen(WANTED, [BEFORE, WANTED, WANTED]),
            &[WANTED, BEFORE][..],
        ),
        ("just made", WANTED, made, all),
        ("never led in", WANTED, apart, &[WANTED, BEFORE][..]),
        (
            "back",
            BEFORE,
            seen(BEFORE, [BEFORE, BETWEEN, BEFORE]),
            &[BEFORE, BETWEEN][..],
        ),
        ("orphaned", WANTED, orphaned, &[WANTED, BETWEEN][..]),
        ("over", WANTED, seen(WANTED, [WANTED; 3]), &[WANTED][..]),
    ];
    for (case, wanted, seen, expected) in cases {
        let plan = plan(&spec(wanted), &seen);
        assert_eq!(hosts(&plan), [expected, expected], "{case}");
    }
}
