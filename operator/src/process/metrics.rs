//! Metrics, by their final names. Labels are enums and names of clusters and pods, never text of an
//! error.

use crate::kubernetes::Kind;
use crate::observation::reading::Latest;
use crate::observation::{DatabaseView, FailureReason};
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use uuid::Uuid;

/// Upper bounds in seconds. A reconcile that writes nothing takes milliseconds; its time-out is a
/// minute.
const RECONCILE_SECONDS: [f64; 10] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0];

/// Upper bounds in seconds. A reading on an open connection takes a round trip; login and reading
/// end by time-outs of 5 and 6 s.
const PROBE_SECONDS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 10.0];

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReconcileOutcome {
    /// Something was written.
    Changed,
    /// Nothing had to be.
    Unchanged,
    /// It failed.
    Error(ErrorClass),
}

/// What an error needs before another attempt makes sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum ErrorClass {
    /// A change by the user.
    User,
    /// Time.
    Transient,
    /// A fresh read.
    Conflict,
    /// It took longer than it may.
    TimedOut,
    /// It panicked.
    Panic,
}

/// Calls that write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::EnumIter)]
#[strum(serialize_all = "snake_case")]
pub enum WriteVerb {
    /// Server-side apply.
    Apply,
    /// Any other `patch`.
    Patch,
    /// `patch` of the status.
    PatchStatus,
    /// `delete`
    Delete,
    /// `create` of an eviction.
    Evict,
}

/// What a reconcile last saw of one cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClusterSample {
    /// `spec.replicas`.
    pub wanted: u32,
    /// After the license gate and the other limits.
    pub target: u32,
    /// Pods that are Ready and not ending.
    pub ready: u32,
    /// Replicas of the cluster whose heartbeat is fresh; `None`, here and below: that cannot be
    /// known, so there is a gap and no number.
    pub active: Option<u32>,
    /// Active replicas that are not the cluster's.
    pub foreign: Option<u32>,
    /// Replicas that finish their tasks before they end.
    pub draining: u32,
    /// The operator has no login of its own to the database, so that it can never read it.
    pub lacks_login: bool,
    /// Seconds since the epoch at which the stored license ends; `None` for one without an end, or
    /// none.
    pub license_expiry: Option<i64>,
    /// Seconds since the epoch at which the last valid certificate of the CA bundle ends; `None`
    /// without one.
    pub ca_expiry: Option<i64>,
    /// Seconds since the epoch at which the first drain is over, and the tasks that it waits for
    /// are cancelled; `None` while none goes on.
    pub drain_end: Option<i64>,
    /// Running tasks that no replica works on.
    pub stuck: Option<u64>,
    /// Whether queued work is promoted.
    pub queue: QueueSample,
    /// `spec.paused`.
    pub paused: bool,
    /// Each pod and the replica that runs in it, as far as known.
    pub pods: Vec<(String, Option<Uuid>)>,
    /// Condition type and status (`True`, `False`, `Unknown`).
    pub conditions: Vec<(&'static str, &'static str)>,
}

/// Whether sessions of the database keep the replicas from promoting queued work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QueueSample {
    /// None does.
    #[default]
    Free,
    /// One does.
    Held,
    /// One has done so for longer than drain hooks may.
    Overdue,
}

/// What the probe knows at the moment of a scrape. A quiet cluster is not reconciled, so its ages
/// must not come from there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LiveSample {
    /// Age of the last heartbeat, by replica. `None`, here and below: not understood, so there is
    /// a gap and no number.
    pub ages: Option<BTreeMap<Uuid, Duration>>,
    /// Running task runs.
    pub running: Option<u64>,
    /// Waiting ones.
    pub pending: Option<u64>,
    /// Ones free to be claimed.
    pub available: Option<u64>,
}

/// Asked at each scrape, by namespace and name. `None` while the database cannot be read: a gap is
/// honest, an old value not.
pub type LiveSource = Box<dyn Fn(&str, &str) -> Option<LiveSample> + Send + Sync>;

/// All metrics of the operator. Cheap to share in an `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: Family<Labels<2>, Counter>,
    reconcile_seconds: Histogram,
    watch_errors: Family<Labels<1>, Counter>,
    panics: Counter,
    leader: Gauge,
    probes: Family<Labels<1>, Counter>,
    probe_seconds: Histogram,
    writes: Family<Labels<2>, Counter>,
    clusters: Arc<Clusters>,
}

type Labels<const N: usize> = [(&'static str, String); N];

#[derive(Default)]
struct Clusters {
    samples: Mutex<BTreeMap<(String, String), ClusterSample>>,
    live: OnceLock<LiveSource>,
}

// === impl LiveSample ===

impl LiveSample {
    /// The part of the probe's knowledge that is measured.
    pub fn of(latest: &Latest) -> Option<Self> {
        let DatabaseView::Probed(Ok(facts)) = &latest.view else {
            return None;
        };
        let mut ages = BTreeMap::new();
        for heartbeat in facts.heartbeats.rows() {
            let age = ages.entry(heartbeat.replica_id).or_insert(heartbeat.age);
            *age = heartbeat.age.min(*age);
        }
        Some(Self {
            ages: facts.heartbeats.known().map(|_| ages),
            running: facts
                .running_tasks
                .known()
                .map(|tasks| tasks.iter().map(|t| t.count).fold(0, u64::saturating_add)),
            pending: facts.pending_tasks.known().copied(),
            available: facts.available_tasks.known().copied(),
        })
    }
}

// === impl Metrics ===

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Of the text that [`Metrics::encode`] returns.
    pub const CONTENT_TYPE: &'static str =
        "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// All metrics at zero.
    pub fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            reconciles: Family::default(),
            reconcile_seconds: Histogram::new(RECONCILE_SECONDS),
            watch_errors: Family::default(),
            panics: Counter::default(),
            leader: Gauge::default(),
            probes: Family::default(),
            probe_seconds: Histogram::new(PROBE_SECONDS),
            writes: Family::default(),
            clusters: Arc::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        // Destructured so that a metric cannot be left unregistered.
        let Self {
            registry,
            reconciles,
            reconcile_seconds,
            watch_errors,
            panics,
            leader,
            probes,
            probe_seconds,
            writes,
            clusters,
        } = &mut self;
        let operator = registry.sub_registry_with_prefix("bytebase_operator");
        operator.register("reconciles", "Reconciles by outcome", reconciles.clone());
        operator.register(
            "reconcile_duration_seconds",
            "Time of a reconcile",
            reconcile_seconds.clone(),
        );
        operator.register(
            "watch_errors",
            "Errors of watches by kind",
            watch_errors.clone(),
        );
        operator.register("panics", "Panics caught in reconciles", panics.clone());
        operator.register(
            "leader",
            "1 while this process leads and serves",
            leader.clone(),
        );
        operator.register(
            "database_probes",
            "Readings of metadata databases by outcome",
            probes.clone(),
        );
        operator.register(
            "database_probe_duration_seconds",
            "Time of a reading, login included",
            probe_seconds.clone(),
        );
        operator.register(
            "api_writes",
            "Writes to the Kubernetes API by verb and kind",
            writes.clone(),
        );
        registry.register_collector(Box::new(Arc::clone(clusters)));
        self
    }

    /// Where live samples come from; the first call counts.
    pub fn set_live_source(&self, source: LiveSource) {
        let _ = self.clusters.live.set(source);
    }

    /// Counts a reconcile.
    pub fn reconciled(&self, outcome: ReconcileOutcome, took: Duration) {
        let (outcome, class) = match outcome {
            ReconcileOutcome::Changed => ("changed", ""),
            ReconcileOutcome::Unchanged => ("unchanged", ""),
            ReconcileOutcome::Error(class) => ("error", class.into()),
        };
        if class == <&str>::from(ErrorClass::Panic) {
            self.panics.inc();
        }
        let labels = [("outcome", outcome.to_owned()), ("class", class.to_owned())];
        self.reconciles.get_or_create(&labels).inc();
        self.reconcile_seconds.observe(took.as_secs_f64());
    }

    /// Counts an error of a watch.
    pub fn watch_failed(&self, kind: Kind) {
        self.watch_errors
            .get_or_create(&[("kind", kind.metric_label().to_owned())])
            .inc();
    }

    /// Sets whether this process leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Counts a probe; fits [`ProbeObserver`](crate::observe::database::probe::ProbeObserver).
    pub fn probed(&self, failure: Option<FailureReason>, took: Duration) {
        let outcome = failure.map_or("Good".to_owned(), |reason| reason.as_ref().to_owned());
        self.probes.get_or_create(&[("outcome", outcome)]).inc();
        self.probe_seconds.observe(took.as_secs_f64());
    }

    /// Counts a write.
    pub fn wrote(&self, verb: WriteVerb, kind: Kind) {
        let labels = [
            ("verb", <&str>::from(verb).to_owned()),
            ("kind", kind.metric_label().to_owned()),
        ];
        self.writes.get_or_create(&labels).inc();
    }

    /// Replaces what is shown of a cluster.
    pub fn set_cluster(&self, namespace: &str, name: &str, sample: ClusterSample) {
        self.clusters
            .samples
            .lock()
            .insert((namespace.to_owned(), name.to_owned()), sample);
    }

    /// Shows nothing of a cluster any more.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.clusters
            .samples
            .lock()
            .remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// The OpenMetrics text.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

// === impl Clusters ===

impl fmt::Debug for Clusters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clusters").finish_non_exhaustive()
    }
}

/// One cluster at one scrape.
type Row = (String, String, ClusterSample, Option<LiveSample>);

/// Extra label and value.
type Points<'a> = Vec<(Option<(&'static str, &'a str)>, f64)>;

/// A gauge of a cluster: name, help, and its points.
struct ClusterGauge {
    name: &'static str,
    help: &'static str,
    points: fn(&ClusterSample, Option<&LiveSample>) -> Points<'static>,
}

fn one(value: f64) -> Points<'static> {
    vec![(None, value)]
}

fn some(value: Option<f64>) -> Points<'static> {
    value.map(one).unwrap_or_default()
}

fn flag(is_so: bool) -> Points<'static> {
    one(f64::from(u8::from(is_so)))
}

/// Counts and times of this size are exact in a double.
#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn count(n: u64) -> f64 {
    n as f64
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
const GAUGES: [ClusterGauge; 17] = [
    ClusterGauge {
        name: "bytebase_cluster_replicas_wanted",
        help: "spec.replicas",
        points: |c, _| one(f64::from(c.wanted)),
    },
    ClusterGauge {
        name: "bytebase_cluster_replicas_target",
        help: "Replicas after the license gate",
        points: |c, _| one(f64::from(c.target)),
    },
    ClusterGauge {
        name: "bytebase_cluster_replicas_ready",
        help: "Pods that are Ready and not ending",
        points: |c, _| one(f64::from(c.ready)),
    },
    ClusterGauge {
        name: "bytebase_cluster_replicas_active",
        help: "Replicas of the cluster whose last heartbeat is at most 30 s old",
        points: |c, _| some(c.active.map(f64::from)),
    },
    ClusterGauge {
        name: "bytebase_cluster_replicas_foreign",
        help: "Replicas that do not belong to the cluster and are active on its database",
        points: |c, _| some(c.foreign.map(f64::from)),
    },
    ClusterGauge {
        name: "bytebase_cluster_replicas_draining",
        help: "Replicas that are to end and finish their tasks first, or may be where tasks cannot be read",
        points: |c, _| one(f64::from(c.draining)),
    },
    ClusterGauge {
        name: "bytebase_cluster_database_login_missing",
        help: "Whether the operator has no login by which it could read the database: 1 or 0",
        points: |c, _| flag(c.lacks_login),
    },
    ClusterGauge {
        name: "bytebase_cluster_license_expiry_timestamp_seconds",
        help: "End of the license in status.license",
        points: |c, _| some(c.license_expiry.map(|t| t as f64)),
    },
    ClusterGauge {
        name: "bytebase_cluster_database_ca_expiry_timestamp_seconds",
        help: "End of the last valid certificate of the CA bundle",
        points: |c, _| some(c.ca_expiry.map(|t| t as f64)),
    },
    ClusterGauge {
        name: "bytebase_cluster_drain_end_timestamp_seconds",
        help: "When the first drain is over and cancels the tasks that have not finished",
        points: |c, _| some(c.drain_end.map(|t| t as f64)),
    },
    ClusterGauge {
        name: "bytebase_cluster_paused",
        help: "Whether spec.paused is true: 1 or 0",
        points: |c, _| flag(c.paused),
    },
    ClusterGauge {
        name: "bytebase_cluster_tasks_running",
        help: "Task runs being executed",
        points: |_, live| some(live.and_then(|l| l.running).map(count)),
    },
    ClusterGauge {
        name: "bytebase_cluster_tasks_pending",
        help: "Task runs that are due and wait to be promoted",
        points: |_, live| some(live.and_then(|l| l.pending).map(count)),
    },
    ClusterGauge {
        name: "bytebase_cluster_tasks_available",
        help: "Task runs free to be claimed",
        points: |_, live| some(live.and_then(|l| l.available).map(count)),
    },
    ClusterGauge {
        name: "bytebase_cluster_tasks_stuck",
        help: "Task runs marked as running that no replica works on",
        points: |c, _| some(c.stuck.map(count)),
    },
    ClusterGauge {
        name: "bytebase_cluster_queue_held",
        help: "Whether a session keeps the replicas from promoting queued work: 1 or 0",
        points: |c, _| flag(c.queue != QueueSample::Free),
    },
    ClusterGauge {
        name: "bytebase_cluster_queue_hold_overdue",
        help: "Whether a session keeps queued work from being promoted for longer than drain hooks may: 1 or 0",
        points: |c, _| flag(c.queue == QueueSample::Overdue),
    },
];

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let live = self.live.get();
        // Copied, so that a slow source does not hold up a reconcile.
        let samples = self.samples.lock().clone();
        let rows: Vec<Row> = samples
            .into_iter()
            .map(|((namespace, name), sample)| {
                let live = live.and_then(|source| source(&namespace, &name));
                (namespace, name, sample, live)
            })
            .collect();
        for gauge in &GAUGES {
            gauge_family(
                &mut encoder,
                gauge.name,
                gauge.help,
                &rows,
                |_, sample, live| (gauge.points)(sample, live),
            )?;
        }
        let name = "bytebase_cluster_heartbeat_age_seconds";
        gauge_family(
            &mut encoder,
            name,
            "Age of the last heartbeat of the replica in a pod",
            &rows,
            |_, sample, live| {
                let age =
                    |id: &Option<Uuid>| Some(live?.ages.as_ref()?.get(&(*id)?)?.as_secs_f64());
                sample
                    .pods
                    .iter()
                    .filter_map(|(pod, id)| Some((Some(("pod", pod.as_str())), age(id)?)))
                    .collect()
            },
        )?;
        conditions(&mut encoder, &rows)
    }
}

fn gauge_family<'r, F>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: &'r [Row],
    points: F,
) -> Result<(), fmt::Error>
where
    F: Fn(&'r str, &'r ClusterSample, Option<&'r LiveSample>) -> Points<'r>,
{
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (namespace, cluster, sample, live) in rows {
        for (extra, value) in points(namespace, sample, live.as_ref()) {
            let mut labels = vec![
                ("namespace", namespace.as_str()),
                ("name", cluster.as_str()),
            ];
            labels.extend(extra);
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

/// One series a status, so that an alert can be written for `Unknown` as well.
fn conditions(encoder: &mut DescriptorEncoder<'_>, rows: &[Row]) -> Result<(), fmt::Error> {
    let name = "bytebase_cluster_condition";
    let help = "1 for the status that a condition has";
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (namespace, cluster, sample, _) in rows {
        for (kind, actual) in &sample.conditions {
            for status in ["True", "False", "Unknown"] {
                let labels = vec![
                    ("namespace", namespace.as_str()),
                    ("name", cluster.as_str()),
                    ("type", kind),
                    ("status", status),
                ];
                let value = ConstGauge::new(i64::from(status == *actual));
                value.encode(family.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics, part: &str) -> Vec<String> {
        let text = metrics.encode().unwrap();
        text.lines()
            .filter(|l| l.contains(part) && !l.starts_with('#'))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn counters_carry_names_of_enums() {
        let metrics = Metrics::new();
        metrics.reconciled(ReconcileOutcome::Unchanged, Duration::from_millis(3));
        metrics.reconciled(
            ReconcileOutcome::Error(ErrorClass::Panic),
            Duration::from_millis(3),
        );
        metrics.watch_failed(Kind::HttpRoute);
        metrics.wrote(WriteVerb::PatchStatus, Kind::BytebaseCluster);
        metrics.probed(None, Duration::from_millis(3));
        metrics.probed(Some(FailureReason::Unreachable), Duration::from_secs(5));
        metrics.leads(true);
        let text = metrics.encode().unwrap();
        for line in [
            r#"bytebase_operator_reconciles_total{outcome="unchanged",class=""} 1"#,
            r#"bytebase_operator_reconciles_total{outcome="error",class="panic"} 1"#,
            r"bytebase_operator_panics_total 1",
            r#"bytebase_operator_watch_errors_total{kind="HttpRoute"} 1"#,
            r#"bytebase_operator_api_writes_total{verb="patch_status",kind="BytebaseCluster"} 1"#,
            r#"bytebase_operator_database_probes_total{outcome="Good"} 1"#,
            r#"bytebase_operator_database_probes_total{outcome="Unreachable"} 1"#,
            r"bytebase_operator_database_probe_duration_seconds_count 2",
            r"bytebase_operator_leader 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
    }

    #[test]
    fn a_cluster_is_shown_until_forgotten_with_live_ages() {
        let metrics = Metrics::new();
        let id = Uuid::from_u128(1);
        let sample = ClusterSample {
            wanted: 3,
            active: Some(1),
            draining: 1,
            license_expiry: Some(1_900_000_000),
            pods: vec![("bb-0".to_owned(), Some(id)), ("bb-1".to_owned(), None)],
            conditions: vec![("Ready", "Unknown")],
            ca_expiry: Some(1_800_000_000),
            drain_end: Some(1_700_000_000),
            stuck: Some(2),
            queue: QueueSample::Overdue,
            paused: true,
            ..ClusterSample::default()
        };
        metrics.set_cluster("prod", "bb", sample);
        assert_eq!(
            lines(&metrics, "tasks_running"),
            [""; 0],
            "nothing is known of the database"
        );
        metrics.set_live_source(Box::new(move |namespace, name| {
            assert_eq!((namespace, name), ("prod", "bb"));
            Some(LiveSample {
                ages: Some(BTreeMap::from([
                    (id, Duration::from_secs(12)),
                    (Uuid::from_u128(2), Duration::from_secs(31)),
                ])),
                running: Some(2),
                ..LiveSample::default()
            })
        }));
        assert_eq!(
            lines(&metrics, "tasks_running"),
            [r#"bytebase_cluster_tasks_running{namespace="prod",name="bb"} 2.0"#]
        );
        assert_eq!(
            lines(&metrics, "replicas_active"),
            [r#"bytebase_cluster_replicas_active{namespace="prod",name="bb"} 1.0"#]
        );
        assert_eq!(
            lines(&metrics, "replicas_draining"),
            [r#"bytebase_cluster_replicas_draining{namespace="prod",name="bb"} 1.0"#]
        );
        assert_eq!(
            lines(&metrics, "replicas_foreign"),
            [""; 0],
            "heartbeats cannot be read"
        );
        assert_eq!(
            lines(&metrics, "heartbeat_age"),
            [
                r#"bytebase_cluster_heartbeat_age_seconds{namespace="prod",name="bb",pod="bb-0"} 12.0"#
            ]
        );
        assert_eq!(
            lines(&metrics, "queue_held"),
            [r#"bytebase_cluster_queue_held{namespace="prod",name="bb"} 1.0"#]
        );
        assert_eq!(
            lines(&metrics, "queue_hold_overdue"),
            [r#"bytebase_cluster_queue_hold_overdue{namespace="prod",name="bb"} 1.0"#]
        );
        for (name, value) in [
            ("database_ca_expiry_timestamp_seconds", "1800000000.0"),
            ("drain_end_timestamp_seconds", "1700000000.0"),
            ("tasks_stuck", "2.0"),
            ("paused", "1.0"),
        ] {
            assert_eq!(
                lines(&metrics, name),
                [format!(
                    r#"bytebase_cluster_{name}{{namespace="prod",name="bb"}} {value}"#
                )]
            );
        }
        let conditions = lines(&metrics, "cluster_condition");
        assert_eq!(conditions.len(), 3);
        assert!(conditions.contains(&r#"bytebase_cluster_condition{namespace="prod",name="bb",type="Ready",status="Unknown"} 1"#.to_owned()));
        metrics.forget("prod", "bb");
        assert_eq!(lines(&metrics, "prod"), [""; 0]);
    }
}
