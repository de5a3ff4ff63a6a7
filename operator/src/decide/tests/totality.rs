//! Whatever is seen, there is a decision, and no secret is in it.

use crate::api::status::{
    BytebaseClusterStatus, DatabaseStatus, DrainState, LicenseSource, LicenseStatus, LoginState,
    RolloutWait,
};
use crate::api::{ConditionType, Reason};
use crate::contract::version::Version;
use crate::decide::decide;
use crate::kubernetes::Kind;
use crate::observation::{
    Asked, CallFailure, DatabaseFacts, DatabaseIdentity, DatabaseView, Fact, FailureClass,
    FailureReason, Heartbeat, Holder, ListenSession, LogQuote, Observation, PodLogin, PodRefusal,
    PodTrouble, PodView, ProbeFailure, Refusal, RefusedEviction, Remembered, RememberedRollout,
    RouteView, RunningTasks, SchemaState, ServiceWay, Sessions, StatefulSetView, StoredLicense,
    Usage,
};
use crate::redaction::{KnownSecrets, RedactedLine};
use crate::report;
use crate::testing::{
    ADMIN_PASSWORD, PASSWORD, called, forged, id, now, settings, token, validation,
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;
use strum::IntoEnumIterator as _;

static TOKENS: LazyLock<Vec<String>> = LazyLock::new(|| {
    vec![
        token(&json!({})),
        token(&json!({"exp": null, "ha": false})),
        token(&json!({"exp": 253_402_207_199_i64})),
        token(&json!({"exp": -100_000_000_000_i64, "nbf": 100_000_000_000_i64})),
        token(&json!({"workspaceId": "other"})),
        forged(&json!({})),
        "not.a.license".to_owned(),
    ]
});

fn timestamps() -> impl Strategy<Value = Timestamp> {
    prop_oneof![
        Just(Timestamp::MIN),
        Just(Timestamp::MAX),
        Just(now()),
        (-100_000..100_000_i64)
            .prop_map(|seconds| crate::testing::after(jiff::SignedDuration::from_secs(seconds))),
    ]
}

fn durations() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        (0..100_u64).prop_map(Duration::from_secs)
    ]
}

fn numbers() -> impl Strategy<Value = i32> {
    prop_oneof![Just(i32::MIN), Just(i32::MAX), -1..6_i32]
}

fn ids() -> impl Strategy<Value = uuid::Uuid> {
    (0..6_i32).prop_map(id)
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "demo-[0-3]",
        "10\\.0\\.0\\.[1-4]",
        "\\PC{0,20}"
    ]
}

fn licenses() -> impl Strategy<Value = StoredLicense> {
    prop_oneof![
        Just(StoredLicense::NoWorkspace),
        texts().prop_map(|workspace_id| StoredLicense::Absent { workspace_id }),
        (0..TOKENS.len()).prop_map(|index| StoredLicense::Present {
            workspace_id: "ws-1".to_owned(),
            token: TOKENS[index].clone().into(),
        }),
    ]
}

fn schemas() -> impl Strategy<Value = SchemaState> {
    let version = (0..5_u32, 0..40_u32, any::<u32>());
    prop_oneof![
        Just(SchemaState::Empty),
        proptest::option::of(version).prop_map(|version| SchemaState::Bytebase {
            version: version.map(|(major, minor, patch)| Version::new(major, minor, patch)),
        }),
        texts().prop_map(|example| SchemaState::Foreign { example }),
        texts().prop_map(|schema| SchemaState::OffPath { schema }),
    ]
}

prop_compose! {
    fn all_facts()(
        numbers in (any::<u32>(), any::<u32>(), any::<u32>(), any::<u64>(), any::<u64>()),
        good: bool,
        flags in any::<[bool; 6]>(),
        encoding in texts(),
        schema in schemas().boxed(),
        license in licenses().boxed(),
        heartbeats in proptest::collection::vec((ids(), durations().boxed()), 0..6),
        listeners in proptest::option::of(proptest::collection::vec((texts(), proptest::option::of(texts())), 0..4)),
        running in proptest::collection::vec((ids(), any::<u64>()), 0..4),
        held_by in proptest::collection::btree_set(texts(), 0..3),
        unknown in [0..3_u8, 0..3_u8, 0..3_u8],
    ) -> DatabaseFacts {
        let (server_version_num, max_connections, reserved_connections, pending_tasks, available_tasks) = numbers;
        let [in_recovery, can_create, transaction_pooler, migration_running, with_sessions, read_only] = flags;
        DatabaseFacts {
            server_version_num: if good { 160_001 } else { server_version_num },
            in_recovery: in_recovery && !good,
            read_only: read_only && !good,
            encoding: if good { "UTF8".to_owned() } else { encoding },
            max_connections,
            reserved_connections,
            role_connections: (unknown[0] == 2).then_some(reserved_connections),
            database_connections: (unknown[1] == 2).then_some(max_connections),
            can_create,
            missing_schema: (!good && unknown[0] == 1).then(|| "bb".to_owned()),
            not_owned: (!good && unknown[1] == 1).then(|| "principal".to_owned()),
            transaction_pooler: Some(transaction_pooler && !good),
            has_version_1_certificate: with_sessions,
            identity: DatabaseIdentity::new("one", "1"),
            server_uptime: Duration::from_hours(1),
            writable_for: Duration::from_hours(1),
            server_clock: None,
            schema,
            license: fact(unknown[0], license),
            heartbeats: fact(unknown[1], heartbeats.into_iter().map(|(replica_id, age)| Heartbeat { replica_id, age }).collect()),
            has_heartbeat_rows: can_create,
            sessions: with_sessions.then(|| Sessions {
                listeners: listeners.map(|list| list.into_iter().map(|(application_name, client_address)| ListenSession { application_name, client_address }).collect()),
                migration_running,
                others: held_by.clone(),
                queue_held_by: held_by,
            }),
            task_runs: Vec::new(),
            unbegun_tasks: running.iter().map(|(replica_id, count)| RunningTasks { replica_id: *replica_id, count: *count }).collect(),
            running_tasks: fact(unknown[2], running.into_iter().map(|(replica_id, count)| RunningTasks { replica_id, count }).collect()),
            pending_tasks: fact(unknown[2], pending_tasks),
            available_tasks: fact(unknown[2], available_tasks),
            not_understood: if unknown == [0; 3] { Vec::new() } else { vec!["task_run"] },
            login: None,
        }
    }
}

/// Known, absent or unknown.
fn fact<T>(which: u8, value: T) -> Fact<T> {
    match which {
        0 => Fact::Known(value),
        1 => Fact::Absent,
        _ => Fact::Unknown,
    }
}

prop_compose! {
    fn remembered()(
        parts in any::<[bool; 4]>(),
        unlicensed in any::<bool>(),
        end in proptest::option::of(timestamps().boxed()),
        ha in any::<bool>(),
        message in texts(),
        rollout in proptest::option::of((
            proptest::sample::select(RolloutWait::iter().collect::<Vec<_>>()),
            proptest::option::of(texts()),
            timestamps().boxed(),
        )),
    ) -> Remembered {
        Remembered {
            stand_in: (!parts[3]).then(|| LicenseStatus {
                ha,
                expiration_time: end.map(Time),
                source: LicenseSource::Secret,
                ..LicenseStatus::default()
            }),
            database: parts[0].then(|| DatabaseStatus {
                endpoint: Some("db.example.com:5432/bytebase".to_owned()),
                identity: parts[1].then(|| "0123456789abcdef".to_owned()),
                ..DatabaseStatus::default()
            }),
            served_on: parts[2].then(|| "0123456789abcdef".to_owned()),
            login: parts[0].then_some(LoginState::Accepted),
            database_ready: end.map(|end| (parts[0], end)),
            refusal: parts[2].then(|| Refusal { reason: Reason::DatabaseForeignTables, message: format!("it was {message}") }),
            license: parts[3].then(|| LicenseStatus {
                ha,
                expiration_time: end.map(Time),
                ..LicenseStatus::default()
            }),
            unlicensed_since: unlicensed.then(now),
            unlicensed: unlicensed.then_some(Reason::LicenseMissing),
            schema_version: parts[1].then(|| Version::new(3, 21, 5)),
            version: parts[2].then(|| message.clone()),
            url: parts[0].then(|| "https://old.example.com".to_owned()),
            foreign_replicas: parts[2],
            stale_since: BTreeMap::default(),
            queue_held_since: end,
            queue_overdue: parts[1],
            drains: parts[1].then(|| ("demo-0".to_owned(), DrainState::NotReached)).into_iter().collect(),
            rollout: rollout.map(|(waiting_for, pod, since)| RememberedRollout { waiting_for, pod, since, busy_since: None, scale_down_only: parts[0], message }),
        }
    }
}

fn holders() -> impl Strategy<Value = Holder> {
    let usages: Vec<Usage> = Usage::iter().collect();
    let usages = proptest::sample::select(usages);
    (texts(), usages).prop_map(|(name, usage)| Holder { name, usage })
}

fn views() -> impl Strategy<Value = DatabaseView> {
    let reasons: Vec<FailureReason> = FailureReason::iter().collect();
    let failures =
        (any::<bool>(), proptest::sample::select(reasons)).prop_map(|(definite, reason)| {
            DatabaseView::Probed(Err(ProbeFailure {
                class: if definite {
                    FailureClass::Definite
                } else {
                    FailureClass::Unknown
                },
                reason,
                message: "it failed".to_owned(),
            }))
        });
    prop_oneof![
        Just(DatabaseView::NotProbed),
        Just(DatabaseView::CannotRead),
        failures,
        all_facts()
            .boxed()
            .prop_map(|facts| DatabaseView::Probed(Ok(facts))),
        all_facts()
            .boxed()
            .prop_map(|facts| DatabaseView::Probed(Ok(facts))),
    ]
}

prop_compose! {
    fn pods()(
        name in prop_oneof![Just("demo-0".to_owned()), texts()],
        ordinal in numbers(),
        revision in proptest::option::of(prop_oneof![Just("rev-new".to_owned()), texts()]),
        flags in any::<[bool; 2]>(),
        place in proptest::option::of(texts()),
        created_at in timestamps().boxed(),
        times in (
            proptest::option::of(timestamps().boxed()),
            proptest::option::of(timestamps().boxed()),
            proptest::option::of(timestamps().boxed()),
        ),
        replica_id in proptest::option::of(ids()),
        restarts in numbers(),
        trouble in proptest::option::of((0..5_u8, texts())),
        version in proptest::option::of(texts()),
    ) -> PodView {
        PodView {
            uid: format!("uid-{name}"),
            name,
            ordinal,
            revision,
            ready: flags[0],
            deleting: flags[1],
            node: place.clone(),
            ip: place,
            created_at,
            started_at: times.0,
            container_id: times.0.map(|_| "containerd://1".to_owned()),
            ends_by: times.1,
            grace: None,
            drains: flags[0] != flags[1],
            drain_timeout: flags[0].then_some(jiff::SignedDuration::MAX),
            login: PodLogin {
                checksum: version.clone(),
                url: version.clone(),
                sources: if flags[1] { "other/PG_URL".to_owned() } else { String::new() },
            },
            external_url: version.as_ref().map(|host| format!("https://{host}")),
            ending_since: times.1,
            finalizers: Vec::new(),
            unready_since: times.2,
            waits_for: None,
            last_failure: flags[1].then(|| "it was killed".to_owned()),
            replica_id,
            log_quote: version.as_deref().and_then(|text| RedactedLine::of(text, &KnownSecrets::default())).map(LogQuote::Line).or_else(|| flags[1].then_some(LogQuote::Withheld { previous: flags[0] })),
            restarts,
            trouble: trouble.map(|(kind, text)| match kind {
                0 => PodTrouble::ImagePull(text),
                1 => PodTrouble::Crashing(text),
                2 => PodTrouble::Unschedulable(text),
                3 => PodTrouble::Creation(text),
                _ => PodTrouble::NodeSilent(text),
            }),
            version,
        }
    }
}

prop_compose! {
    fn sets()(replicas in numbers(), start in numbers(), flags in any::<[bool; 2]>(), version in proptest::option::of(texts())) -> StatefulSetView {
        StatefulSetView {
            resource_version: None,
            replicas,
            start,
            settled: flags[0],
            pods: replicas,
            update_revision: flags[1].then(|| "rev-new".to_owned()),
            template: json!({}),
            template_digest: version.clone(),
            version,
        }
    }
}

prop_compose! {
    fn observations()(
        now in timestamps().boxed(),
        stateful_set in proptest::option::of(sets().boxed()),
        pods in proptest::collection::vec(pods().boxed(), 0..5),
        ingress_has_address: Option<bool>,
        exposed_hosts in proptest::collection::vec(prop_oneof![Just("old.example.com".to_owned()), texts()], 0..3),
        route in proptest::option::of(proptest::sample::select(vec![
            RouteView::Accepted, RouteView::Pending, RouteView::Refused("no listener".to_owned()),
        ])),
        (kinds_not_installed, unseen) in (
            proptest::sample::subsequence(vec![Kind::HttpRoute, Kind::ServiceMonitor], 0..=2),
            proptest::sample::subsequence(vec![Kind::Service, Kind::Ingress, Kind::HttpRoute], 0..=3),
        ),
        database in views().boxed(),
        last_facts in proptest::option::of((durations().boxed(), all_facts().boxed())),
        database_shared_with in proptest::option::weighted(0.1, holders().boxed()),
        (remembered, (service_way, is_asked, awaits_logs), failed) in (remembered().boxed(), (service_ways(), any::<bool>(), any::<bool>()), proptest::option::of(texts())),
        unmatched_since in proptest::collection::btree_map(ids(), timestamps().boxed(), 0..4),
        (refused_pod, refused) in (
            proptest::option::of((timestamps().boxed(), texts())),
            proptest::option::of((texts(), texts())),
        ),
    ) -> Observation {
        Observation {
            now,
            stateful_set,
            pods,
            awaits_logs,
            ingress_has_address,
            exposed_hosts,
            route,
            kinds_not_installed,
            kinds_unseen: unseen.into_iter().map(|kind| (kind, format!("{kind} is hidden"))).collect(),
            database,
            last_facts,
            database_shared_with,
            remembered,
            service_way,
            call_failure: failed.map(|message| CallFailure { message, refused: None }),
            asked: is_asked.then(|| Asked {
                reached: BTreeSet::default(),
                missed: ["demo-0".to_owned()].into(),
            }),
            unmatched_since,
            refused_pod: refused_pod.map(|(since, message)| PodRefusal { since, message }),
            refused_eviction: refused.map(|(uid, why)| RefusedEviction { uid, why }),
        }
    }
}

fn service_ways() -> impl Strategy<Value = Option<ServiceWay>> {
    let balanced = |has_address| Some(ServiceWay::Balanced { has_address });
    proptest::sample::select(vec![
        None,
        Some(ServiceWay::Nodes),
        balanced(false),
        balanced(true),
    ])
}

fn specs() -> impl Strategy<Value = Value> {
    let replicas = -1..52_i32;
    let version = proptest::sample::select(vec!["3.21.1", "3.16.0", "latest", "3.99.0", "!"]);
    let database = proptest::sample::select(vec![
        json!({"urlSecretRef": {"name": "pg", "key": "PG_URL"}}),
        json!({"host": "db", "name": "bytebase", "userSecretRef": {"name": "login", "key": "user"}, "passwordSecretRef": {"name": "login", "key": "password"}}),
        json!({"urlSecretRef": {"name": "login", "key": "password"}}),
        json!({"url": format!("postgres://bytebase:{}@db/bytebase", PASSWORD.replace('%', "%25"))}),
        json!({"url": format!("host=db password={PASSWORD}")}),
        json!({"urlSecretRef": {"name": "license", "key": "token"}, "monitorSecretRef": {"name": "admin", "key": "password"}}),
        json!({}),
    ]);
    let license = proptest::sample::select(vec![
        json!(null),
        json!({"secretRef": {"name": "license", "key": "token"}}),
        json!({"secretRef": {"name": "admin", "key": "password"}, "enforcement": "Warn"}),
    ]);
    let admin = proptest::sample::select(vec![
        json!(null),
        json!({"credentialsSecretRef": {"name": "admin"}, "createFirst": true}),
        json!({"credentialsSecretRef": {"name": "pg"}}),
    ]);
    let overlay = proptest::sample::select(vec![
        json!(null),
        json!({"spec": {"hostname": "x"}}),
        json!({"spec": {"containers": null}}),
        json!([]),
    ]);
    let gateway = proptest::sample::select(vec![
        json!(null),
        json!({"parentRefs": [{"name": "public"}]}),
        json!({"parentRefs": [], "requestTimeout": "ever"}),
    ]);
    let timeout = proptest::option::of((numbers(), any::<bool>()));
    (replicas, version, database, license, admin, overlay, any::<bool>(), timeout, gateway).prop_map(
        |(replicas, version, database, license, admin, overlay, paused, timeout, gateway)| {
            json!({
                "gateway": gateway, "monitoring": {"serviceMonitor": {}}, "networkPolicy": {},
                "replicas": replicas, "version": version, "database": database, "license": license, "admin": admin,
                "podTemplate": overlay, "paused": paused, "rollout": timeout.map(|(timeout, stops)| json!({
                    "readyTimeoutSeconds": timeout, "strategy": if stops { "Maintenance" } else { "Rolling" },
                })),
            })
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn every_world_has_a_decision_without_secrets(spec in specs().boxed(), observation in observations().boxed()) {
        let validation = validation(&spec);
        let plan = decide(&validation, &observation, &settings());
        let conditions = &plan.report.conditions;
        for type_ in ConditionType::iter() {
            prop_assert_eq!(conditions.iter().filter(|condition| condition.type_ == type_).count(), 1, "{}", type_);
        }
        let of = |type_| conditions.iter().find(|condition| condition.type_ == type_).unwrap().status;
        prop_assert!(of(ConditionType::Reconciling) != Some(true) || of(ConditionType::Stalled) != Some(true));
        prop_assert!(conditions.iter().all(|condition| !condition.message.is_empty()));
        if validation.cluster.is_none() {
            prop_assert!(plan.objects.is_empty() && called(&plan).is_none() && plan.prune.is_empty());
            // The gate may cut the time short of a pod that is ending already; no other ends.
            let ending = |uid: &str| observation.pods.iter().any(|pod| pod.uid == uid && pod.ending_since.is_some());
            prop_assert!(plan.eviction.as_ref().is_none_or(|eviction| ending(&eviction.uid)));
        }
        prop_assert!(validation.cluster.is_none() || plan.report.rollout.is_some() == (of(ConditionType::RolloutComplete) == Some(false)));
        if let Some(next) = plan.requeue_at {
            prop_assert!(next >= observation.now);
        }
        let status = report::status(&BytebaseClusterStatus::default(), plan.report.clone(), &[], Some(1), now());
        let notices = report::notices(&BytebaseClusterStatus::default(), &status);
        let shown = format!("{validation:?} {plan:?} {notices:?} {}", serde_json::to_string(&status).unwrap());
        // Debug and JSON may escape; the planted values need no escaping.
        for (what, secret) in [("database password", PASSWORD), ("admin password", ADMIN_PASSWORD)] {
            let inline = spec["database"]["url"].is_string();
            prop_assert!(!shown.contains(secret) || (inline && validation.cluster.is_some()), "{} in {}", what, shown);
        }
        for token in TOKENS.iter().take(6) {
            prop_assert!(!shown.contains(token.as_str()), "a license in {}", shown);
        }
    }
}

#[test]
fn reasons_fit_the_pattern_of_conditions() {
    for reason in Reason::iter() {
        let text = reason.as_ref();
        assert!(
            text.starts_with(|c: char| c.is_ascii_uppercase())
                && text.chars().all(|c| c.is_ascii_alphanumeric()),
            "{text}"
        );
        assert_eq!(text.parse(), Ok(reason));
    }
}
