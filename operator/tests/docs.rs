//! Pages written by hand that speak of names in the code.

use bytebase_operator::api::ConditionType;
use bytebase_operator::kubernetes::Kind;
use bytebase_operator::process::metrics::{
    ClusterSample, ErrorClass, LiveSample, Metrics, ReconcileOutcome, WriteVerb,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use strum::IntoEnumIterator as _;
use uuid::Uuid;

const ALERTS: &str = include_str!("../../charts/bytebase-operator/files/alerts.yaml");

/// Labels of the target, which Prometheus gives the operator's own metrics.
const OF_TARGET: [&str; 2] = ["namespace", "service"];

/// `# TYPE name kind` of an exposition.
fn exposed(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .filter_map(|rest| rest.split(' ').next())
        .map(str::to_owned)
        .collect()
}

/// The first column of the tables, without the suffix of counters.
fn documented(page: &str) -> BTreeSet<String> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split('`').next())
        .filter(|name| name.starts_with("bytebase_"))
        .map(|name| name.strip_suffix("_total").unwrap_or(name).to_owned())
        .collect()
}

/// Everything counted once, and a cluster about which everything is known.
fn full(metrics: &Metrics) {
    metrics.reconciled(ReconcileOutcome::Unchanged, Duration::ZERO);
    for class in ErrorClass::iter() {
        metrics.reconciled(ReconcileOutcome::Error(class), Duration::ZERO);
    }
    metrics.watch_failed(Kind::Pod);
    metrics.probed(None, Duration::ZERO);
    metrics.wrote(WriteVerb::Apply, Kind::Service);
    let id = Uuid::from_u128(1);
    metrics.set_cluster(
        "here",
        "demo",
        ClusterSample {
            active: Some(1),
            foreign: Some(0),
            license_expiry: Some(1),
            ca_expiry: Some(1),
            drain_end: Some(1),
            stuck: Some(0),
            pods: vec![("demo-0".to_owned(), Some(id))],
            conditions: ConditionType::iter()
                .map(|type_| (type_.into(), "True"))
                .collect(),
            ..ClusterSample::default()
        },
    );
    metrics.set_live_source(Box::new(move |_, _| {
        Some(LiveSample {
            ages: Some(BTreeMap::from([(id, Duration::from_secs(1))])),
            running: Some(0),
            pending: Some(0),
            available: Some(0),
        })
    }));
}

/// The values of each label of each metric in an exposition.
fn labels(text: &str) -> BTreeMap<(String, String), BTreeSet<String>> {
    let mut values: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let series = series.filter_map(|line| line.split_once('{'));
    for (metric, rest) in series {
        let pairs = rest.split('}').next().unwrap_or_default().split(',');
        for (label, value) in pairs.filter_map(|pair| pair.split_once('=')) {
            let key = (metric.to_owned(), label.to_owned());
            let value = value.trim_matches('"').to_owned();
            values.entry(key).or_default().insert(value);
        }
    }
    values
}

/// The rules of the chart, each with its name.
fn rules() -> impl Iterator<Item = (&'static str, &'static str)> {
    let rules = ALERTS.split("- alert: ").skip(1);
    rules.filter_map(|rule| rule.split_once('\n'))
}

/// What a rule evaluates.
fn expression(rule: &str) -> &str {
    let rest = rule.split("expr:").nth(1).unwrap_or_default();
    let rest = rest.split(" for:").next().unwrap_or_default();
    rest.split(" labels:").next().unwrap_or_default()
}

/// The length of the name that a text begins with.
fn name_ends(text: &str) -> usize {
    let end = text.find(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    end.unwrap_or(text.len())
}

/// The metrics of an expression, each with what stands in braces after it.
fn selectors(expression: &str) -> Vec<(&str, &str)> {
    let metrics = expression.match_indices("bytebase_");
    let selectors = metrics.map(|(at, _)| {
        let (metric, rest) = expression[at..].split_at(name_ends(&expression[at..]));
        let braces = rest
            .strip_prefix('{')
            .and_then(|rest| rest.split('}').next());
        (metric, braces.unwrap_or_default())
    });
    selectors.collect()
}

/// The labels by which an expression groups.
fn groups(expression: &str) -> BTreeSet<&str> {
    let groups = expression.split("by (").skip(1);
    let groups = groups.filter_map(|rest| rest.split(')').next());
    groups.flat_map(|group| group.split(", ")).collect()
}

#[test]
fn the_page_on_metrics_names_what_is_exposed_and_nothing_else() {
    let metrics = Metrics::new();
    full(&metrics);
    let exposed = exposed(&metrics.encode().unwrap());
    let page = include_str!("../../docs/metrics.md");
    let documented = documented(page);
    let missing: Vec<_> = exposed.difference(&documented).collect();
    assert!(missing.is_empty(), "not in docs/metrics.md: {missing:?}");
    let invented: Vec<_> = documented.difference(&exposed).collect();
    assert!(invented.is_empty(), "not exposed: {invented:?}");
}

#[test]
fn the_alerts_of_the_chart_rest_on_metrics_that_are_exposed_and_the_page_names_each_alert() {
    let metrics = Metrics::new();
    full(&metrics);
    let exposed = exposed(&metrics.encode().unwrap());
    let words = ALERTS.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
    let rests_on: BTreeSet<_> = words
        .filter(|word| word.starts_with("bytebase_"))
        .map(|name| name.strip_suffix("_total").unwrap_or(name).to_owned())
        .collect();
    assert!(rests_on.len() > 5, "{rests_on:?}");
    let invented: Vec<_> = rests_on.difference(&exposed).collect();
    assert!(invented.is_empty(), "not exposed: {invented:?}");
    // How long a hook may hold the queue is in the spec of each cluster.
    assert!(!rests_on.contains("bytebase_cluster_queue_held"));
    let page = include_str!("../../docs/metrics.md");
    for (name, _) in rules() {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}

#[test]
fn each_label_and_each_value_that_an_alert_names_is_exposed() {
    let metrics = Metrics::new();
    full(&metrics);
    let labels = labels(&metrics.encode().unwrap());
    let values =
        |metric: &str, label: &str| labels.get(&(metric.to_owned(), label.to_owned())).cloned();
    for (name, rule) in rules() {
        let expression = expression(rule);
        let (selectors, groups) = (selectors(expression), groups(expression));
        assert!(!selectors.is_empty(), "{name}");
        for group in &groups {
            let is_of_operator = selectors
                .iter()
                .all(|(metric, _)| metric.starts_with("bytebase_operator_"));
            // Metrics of the operator beside those of clusters say only whether it works.
            let is_exposed = selectors
                .iter()
                .filter(|(metric, _)| is_of_operator || metric.starts_with("bytebase_cluster_"))
                .all(|(metric, _)| values(metric, group).is_some());
            let is_there = is_exposed || (is_of_operator && OF_TARGET.contains(group));
            assert!(is_there, "{name}: {group}");
        }
        for (metric, braces) in selectors {
            for matcher in braces.split(',').filter(|matcher| !matcher.is_empty()) {
                let matcher = matcher.trim();
                let (label, wanted) = matcher.split_at(name_ends(matcher));
                let exposed = values(metric, label).unwrap_or_default();
                let wanted = wanted.trim_matches(|c: char| "=!~\"".contains(c));
                for value in wanted.split('|') {
                    assert!(exposed.contains(value), "{name}: {metric} {label} {value}");
                }
            }
        }
    }
}

#[test]
fn each_alert_says_what_to_do_by_labels_that_it_has() {
    for (name, rule) in rules() {
        let groups = groups(expression(rule));
        for label in rule.split("$labels.").skip(1) {
            let label = &label[..name_ends(label)];
            assert!(groups.contains(label), "{name}: {label}");
        }
        assert!(rule.contains("summary: "), "{name}");
        let (_, description) = rule.split_once("description: ").unwrap();
        let command = if groups.contains("name") {
            "kubectl --namespace {{ $labels.namespace }} describe bytebasecluster {{ $labels.name }}"
        } else {
            "kubectl --namespace {{ or $labels.namespace \"bytebase-system\" }} "
        };
        assert!(description.contains(command), "{name}");
    }
}
