//! Pages written by hand that speak of names in the code.

use bytebase_operator::kubernetes::Kind;
use bytebase_operator::process::metrics::{
    ClusterSample, LiveSample, Metrics, ReconcileOutcome, WriteVerb,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use uuid::Uuid;

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
    metrics.watch_failed(Kind::Pod);
    metrics.probed(None, Duration::ZERO);
    metrics.wrote(WriteVerb::Apply, Kind::Service);
    let id = Uuid::from_u128(1);
    metrics.set_cluster(
        "here",
        "demo",
        ClusterSample {
            license_expiry: Some(1),
            pods: vec![("demo-0".to_owned(), Some(id))],
            conditions: vec![("Ready", "True")],
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
    let alerts = include_str!("../../charts/bytebase-operator/files/alerts.yaml");
    let words = alerts.split(|c: char| c != '_' && !c.is_ascii_alphanumeric());
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
    let names = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for name in names {
        assert!(page.contains(&format!("| `{name}` |")), "{name}");
    }
}
