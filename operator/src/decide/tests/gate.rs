//! How many replicas run: every combination of what is wanted, what runs, database, license,
//! enforcement and version.

use super::{condition, plan, size, state};
use crate::api::status::{DatabaseStatus, RolloutWait};
use crate::api::{ConditionType, Reason};
use crate::contract::version::Version;
use crate::decide::database::schema;
use crate::decide::decide;
use crate::decide::pace::STOPPED_EVERY;
use crate::decide::plan::Plan;
use crate::desired::template::{Standing, template};
use crate::observation::reading::Renewal;
use crate::observation::{
    DatabaseFacts, DatabaseView, Fact, FailureClass, FailureReason, Observation, SchemaState,
    Sessions, StoredLicense,
};
use crate::testing::{
    after, called, cluster, days, facts, failure, forged, healthy, heartbeats, holder, key,
    no_license, now, observation, references, settings, stored, valid, with_facts,
};
use crate::validate::validate;
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;
use strum::IntoEnumIterator as _;

#[test]
fn of_a_cluster_that_is_being_deleted_nothing_changes_but_what_the_license_gate_asks_for() {
    let mut being_deleted = cluster(&json!({"externalURL": "https://new.example.com"}));
    being_deleted.metadata.deletion_timestamp = Some(Time(now()));
    let validation = validate(&being_deleted, &references(), Some(&key()), now());
    for (license, resized) in [(stored(&json!({})), None), (no_license(), Some(1))] {
        let plan = decide(&validation, &healthy(3, license), &settings());
        assert_eq!((plan.objects.len(), plan.prune.len()), (0, 0));
        assert_eq!(
            (plan.eviction.as_ref(), called(&plan).is_some()),
            (None, false)
        );
        assert_eq!(plan.resize.map(|size| size.replicas), resized);
        assert_eq!(
            plan.unsettled,
            resized.is_none(),
            "that is all that is reported"
        );
        let reported = state(&plan, ConditionType::Ready);
        assert_eq!(reported, (Some(false), Reason::BeingDeleted));
    }
}

#[test]
fn the_deletion_of_the_one_replica_that_may_run_is_reported_only_where_it_is_held_up() {
    for (finalizers, reported) in [
        (&["foregroundDeletion"][..], false),
        (&["foregroundDeletion", "example.com/held"][..], true),
    ] {
        let mut being_deleted = cluster(&json!({"replicas": 1}));
        being_deleted.metadata.deletion_timestamp = Some(Time(now()));
        let set = finalizers.iter().map(|finalizer| (*finalizer).to_owned());
        being_deleted.metadata.finalizers = Some(set.collect());
        let validation = validate(&being_deleted, &references(), Some(&key()), now());
        let plan = decide(&validation, &healthy(1, no_license()), &settings());
        assert_eq!(plan.unsettled, !reported, "{finalizers:?}");
        assert!(plan.resize.is_none());
        let stalled = condition(&plan.report, ConditionType::Stalled);
        let blames = stalled.message.contains("metadata.finalizers");
        assert_eq!(blames, reported, "{}", stalled.message);
        // One that ends beside it is there by the gate.
        let mut two = healthy(2, no_license());
        two.stateful_set = Some(crate::testing::set(1));
        two.pods[1].deleting = true;
        assert!(!decide(&validation, &two, &settings()).unsettled);
    }
}

/// What the database lets the operator know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Knowledge {
    /// The license allows HA, and nothing speaks against the database.
    Yes,
    /// The license does not allow HA.
    No,
    /// The license cannot be known; one replica may start.
    Unknown,
    /// Nothing may start.
    Hold,
    /// The database has not been read yet.
    Wait,
    /// Nothing may start, and the license does not allow HA.
    Shut,
}

impl Knowledge {
    /// Whether the StatefulSet keeps its template.
    fn holds(self) -> bool {
        matches!(self, Self::Hold | Self::Wait | Self::Shut)
    }
}

fn end(seconds: i64) -> Value {
    json!({"exp": after(SignedDuration::from_secs(seconds)).as_second()})
}

/// A world, by name, who else uses its database, and what it lets the operator know.
type World = (&'static str, DatabaseView, Option<&'static str>, Knowledge);

fn good(license: StoredLicense) -> DatabaseView {
    DatabaseView::Probed(Ok(facts(0, license)))
}

fn worlds() -> Vec<World> {
    let mut worlds = worlds_by_license();
    worlds.extend(worlds_by_database());
    worlds.extend(worlds_by_rights());
    for reason in FailureReason::iter() {
        worlds.push((
            "definite failure",
            failure(FailureClass::Definite, reason),
            None,
            Knowledge::Hold,
        ));
        // A server that answers is waited for, which has its own test.
        let answers = [
            FailureReason::ServerNotReady,
            FailureReason::TooManyConnections,
        ];
        if !answers.contains(&reason) {
            worlds.push((
                "unknown failure",
                failure(FailureClass::Unknown, reason),
                None,
                Knowledge::Unknown,
            ));
        }
    }
    worlds
}

fn worlds_by_license() -> Vec<World> {
    let forged = StoredLicense::Present {
        workspace_id: "ws-1".to_owned(),
        token: forged(&json!({})).into(),
    };
    vec![
        ("HA", good(stored(&json!({}))), None, Knowledge::Yes),
        (
            "perpetual HA",
            good(stored(&json!({"exp": null}))),
            None,
            Knowledge::Yes,
        ),
        (
            "HA that ends in a day",
            good(stored(&end(86_400))),
            None,
            Knowledge::Yes,
        ),
        (
            "no one signed up",
            good(StoredLicense::NoWorkspace),
            None,
            Knowledge::No,
        ),
        ("no license", good(no_license()), None, Knowledge::No),
        (
            "without HA",
            good(stored(&json!({"ha": false}))),
            None,
            Knowledge::No,
        ),
        (
            "within the guard",
            good(stored(&end(600))),
            None,
            Knowledge::No,
        ),
        ("expired", good(stored(&end(0))), None, Knowledge::No),
        (
            "not valid yet",
            good(stored(&json!({"nbf": after(days(1)).as_second()}))),
            None,
            Knowledge::No,
        ),
        (
            "other workspace",
            good(stored(&json!({"workspaceId": "other"}))),
            None,
            Knowledge::No,
        ),
        ("wrong signature", good(forged), None, Knowledge::Unknown),
        (
            "not a license",
            good(StoredLicense::Present {
                workspace_id: "ws-1".to_owned(),
                token: "x".into(),
            }),
            None,
            Knowledge::Unknown,
        ),
    ]
}

fn bad(change: fn(&mut DatabaseFacts)) -> DatabaseView {
    let mut facts = facts(0, stored(&json!({})));
    change(&mut facts);
    DatabaseView::Probed(Ok(facts))
}

/// What the role may not do.
fn worlds_by_rights() -> Vec<World> {
    vec![
        (
            "may not create",
            bad(|facts| {
                facts.schema = SchemaState::Empty;
                facts.can_create = false;
            }),
            None,
            Knowledge::Hold,
        ),
        (
            "may no longer create",
            bad(|facts| facts.can_create = false),
            None,
            Knowledge::Hold,
        ),
        (
            "not the owner",
            bad(|facts| facts.not_owned = Some("principal".to_owned())),
            None,
            Knowledge::Hold,
        ),
        (
            "no such schema",
            bad(|facts| {
                facts.schema = SchemaState::Empty;
                facts.can_create = false;
                facts.missing_schema = Some("bb".to_owned());
            }),
            None,
            Knowledge::Hold,
        ),
    ]
}

fn worlds_by_database() -> Vec<World> {
    vec![
        (
            "cannot ever read",
            DatabaseView::CannotRead,
            None,
            Knowledge::Unknown,
        ),
        ("not probed", DatabaseView::NotProbed, None, Knowledge::Wait),
        (
            "standby",
            bad(|facts| facts.in_recovery = true),
            None,
            Knowledge::Hold,
        ),
        (
            "read-only",
            bad(|facts| facts.read_only = true),
            None,
            Knowledge::Hold,
        ),
        (
            "too old",
            bad(|facts| facts.server_version_num = 130_022),
            None,
            Knowledge::Hold,
        ),
        (
            "encoding",
            bad(|facts| facts.encoding = "SQL_ASCII".to_owned()),
            None,
            Knowledge::Hold,
        ),
        (
            "foreign tables",
            bad(|facts| {
                facts.schema = SchemaState::Foreign {
                    example: "wp_posts".to_owned(),
                }
            }),
            None,
            Knowledge::Hold,
        ),
        (
            "a principal off the path",
            bad(|facts| {
                facts.schema = SchemaState::OffPath {
                    schema: "app".to_owned(),
                }
            }),
            None,
            Knowledge::Hold,
        ),
        (
            "transaction pooler",
            bad(|facts| facts.transaction_pooler = Some(true)),
            None,
            Knowledge::Hold,
        ),
        (
            "shared",
            good(stored(&json!({}))),
            Some("other/bytebase"),
            Knowledge::Hold,
        ),
        (
            "shared, and the license has ended",
            good(stored(&end(0))),
            Some("other/bytebase"),
            Knowledge::Shut,
        ),
        (
            "transaction pooler, without a license",
            {
                let mut facts = facts(0, no_license());
                facts.transaction_pooler = Some(true);
                DatabaseView::Probed(Ok(facts))
            },
            None,
            Knowledge::Shut,
        ),
    ]
}

/// A world with pods of which each sends heartbeats.
fn world(running: Option<i32>, view: DatabaseView, shared: Option<&str>) -> Observation {
    let mut seen = with_facts(observation(running, view), |facts| {
        *heartbeats(facts) = (0..running.unwrap_or(0))
            .map(|ordinal| crate::testing::heartbeat(ordinal, 1))
            .collect();
    });
    seen.database_shared_with = shared.map(holder);
    // One that was never read has been tried for long enough.
    seen.remembered.database = Some(DatabaseStatus {
        unread_since: Some(Time(after(SignedDuration::from_mins(-2)))),
        ..DatabaseStatus::default()
    });
    seen
}

/// This observation with tables, if there are any, that this version has left behind.
fn left_by(version: Version, seen: Observation) -> Observation {
    let mut seen = with_facts(seen, |facts| {
        if let SchemaState::Bytebase { version: read } = &mut facts.schema {
            *read = Some(version);
        }
    });
    seen.remembered.schema_version = Some(version);
    seen
}

/// Whether the database says of which version its schema is.
fn is_read(seen: &Observation) -> bool {
    let schema = seen.facts().map(|facts| &facts.schema);
    matches!(schema, Some(SchemaState::Bytebase { version: Some(_) }))
}

/// The rules once more, from their description.
fn expected(wanted: i32, running: i32, knows: Knowledge, warn: bool, supports_ha: bool) -> i32 {
    match knows {
        _ if wanted == 0 => 0,
        Knowledge::Wait => running.min(wanted),
        // The gate acts whatever else is wrong.
        Knowledge::Hold if supports_ha => running.min(wanted),
        Knowledge::Shut if warn && supports_ha => running.min(wanted),
        Knowledge::Hold | Knowledge::Shut => running.min(1),
        _ if wanted == 1 || !supports_ha => 1,
        _ if warn => wanted,
        Knowledge::Yes => wanted,
        Knowledge::No => 1,
        Knowledge::Unknown => running.clamp(1, wanted),
    }
}

fn spec(wanted: i32, warn: bool, version: &str) -> Value {
    json!({
        "replicas": wanted, "version": version,
        "license": {"enforcement": if warn { "Warn" } else { "Enforce" }},
    })
}

#[test]
fn a_bad_verdict_is_checked_on_a_session_of_its_own() {
    let renewal = |plan: &Plan| plan.read_options.renewal;
    let well = healthy(3, stored(&json!({})));
    assert_eq!(renewal(&plan(&json!({}), &well)), Renewal::Usual);
    let bad = with_facts(well.clone(), |facts| facts.in_recovery = true);
    assert_eq!(renewal(&plan(&json!({}), &bad)), Renewal::AtNextReading);
    let mut shared = well.clone();
    shared.database_shared_with = Some(holder("demo"));
    assert_eq!(renewal(&plan(&json!({}), &shared)), Renewal::AtNextReading);
    // Tables that are gone may be on the server that the name leads to now.
    let lost = with_facts(healthy(3, no_license()), |facts| {
        facts.schema = SchemaState::Empty;
        facts.license = Fact::Absent;
        facts.heartbeats = Fact::Absent;
        facts.running_tasks = Fact::Absent;
    });
    let lost = left_by(Version::new(3, 21, 5), lost).with_lost_tables_unknown();
    let held = plan(&json!({}), &lost);
    assert_eq!(
        state(&held, ConditionType::DatabaseReady),
        (None, Reason::DatabaseSchemaUnknown)
    );
    assert_eq!(renewal(&held), Renewal::AtNextReading);
    // Nothing is wrong with the server of a Bytebase that is newer than this operator.
    let newer = with_facts(well, |facts| facts.not_understood = vec!["setting"]);
    assert_eq!(renewal(&plan(&json!({}), &newer)), Renewal::Usual);
    // Also while something else of the spec cannot be used.
    let unusable = plan(&json!({"replicas": 51}), &bad);
    assert_eq!(renewal(&unusable), Renewal::AtNextReading);
}

#[test]
fn a_server_to_which_a_ready_replica_sends_no_heartbeats_is_looked_up_again() {
    let well = healthy(3, stored(&json!({})));
    let stale = with_facts(well.clone(), |facts| {
        heartbeats(facts)[2].age = Duration::from_secs(31);
    });
    let missing = with_facts(well, |facts| {
        heartbeats(facts).pop();
    });
    for silent in [stale, missing] {
        // The second spec cannot be used.
        for spec in [json!({}), json!({"replicas": 51})] {
            let soon = plan(&spec, &silent).read_options.renewal;
            assert_eq!(soon, Renewal::Soon);
            let mut starts = silent.clone();
            starts.pods[2].ready = false;
            let usual = plan(&spec, &starts).read_options.renewal;
            assert_eq!(usual, Renewal::Usual);
        }
    }
}

#[test]
fn no_session_is_kept_on_the_database_of_a_stopped_cluster() {
    let running = healthy(3, stored(&json!({})));
    let mut stopped = running.clone();
    stopped.pods.clear();
    stopped.stateful_set.as_mut().unwrap().replicas = 0;
    let invalid = json!({"replicas": 0, "externalURL": "not one"});
    for (changes, observation, keeps) in [
        (json!({}), &running, true),
        (json!({"replicas": 0}), &running, true),
        (json!({"replicas": 0}), &stopped, false),
        (invalid, &stopped, false),
        (json!({}), &stopped, true),
    ] {
        let read_options = plan(&changes, observation).read_options;
        assert_eq!(read_options.keep_session, keeps, "{changes}");
        assert_eq!(read_options.every >= STOPPED_EVERY, !keeps, "{changes}");
    }
}

#[test]
fn an_invalid_spec_without_replicas_leaves_the_gate_closed() {
    let invalid = json!({"replicas": 0, "externalURL": "not one"});
    let running = plan(&invalid, &healthy(3, no_license()));
    assert_eq!(running.resize.map(|size| size.replicas), Some(1));
    assert_eq!(running.report.target_replicas, Some(1));
    // One that has stopped stays so.
    let stopped = plan(&invalid, &healthy(0, no_license()));
    assert_eq!(stopped.resize, None);
    assert_eq!(stopped.report.target_replicas, Some(0));
}

#[test]
fn the_gate_has_a_size_of_its_own_where_the_statefulset_shrinks_for_it() {
    let gate_size = |changes: &Value, seen: &Observation| {
        let plan = plan(changes, seen);
        plan.gate_size.map(|size| size.replicas)
    };
    let closed = healthy(3, no_license());
    assert_eq!(gate_size(&json!({}), &closed), Some(1));
    let soon = healthy(3, stored(&end(600)));
    assert_eq!(gate_size(&json!({}), &soon), Some(2));
    let mut stopping = healthy(1, no_license());
    stopping.stateful_set.as_mut().unwrap().template_digest = Some("old".to_owned());
    for (changes, seen) in [
        // One that users want waits for what they have to correct.
        (json!({"replicas": 1}), healthy(3, stored(&json!({})))),
        (json!({"paused": true}), closed.clone()),
        // Maintenance wants none.
        (
            json!({"rollout": {"strategy": "Maintenance"}, "replicas": 3}),
            stopping,
        ),
        (json!({}), healthy(1, no_license())),
        (json!({}), healthy(3, stored(&json!({})))),
    ] {
        assert_eq!(gate_size(&changes, &seen), None, "{changes}");
    }
}

/// No license allows several replicas at this moment.
fn has_ended(plan: &Plan) -> bool {
    let (status, reason) = state(plan, ConditionType::HaLicensed);
    status == Some(false) && reason != Reason::LicenseExpiring
}

#[test]
fn every_combination_runs_as_many_replicas_as_the_rules_say() {
    for (name, view, shared, knows) in worlds() {
        for wanted in [0, 1, 3] {
            for current in [None, Some(0), Some(1), Some(3)] {
                for warn in [false, true] {
                    for (version, old_schema) in
                        [("3.21.1", true), ("3.21.1", false), ("latest", false)]
                    {
                        let mut seen = world(current, view.clone(), shared);
                        if old_schema {
                            seen = left_by(Version::new(3, 16, 2), seen);
                        }
                        let supports_ha = schema::version(&seen).is_none_or(Version::supports_ha);
                        let case = format!(
                            "{name}: wanted {wanted}, current {current:?}, warn {warn}, {version}, old schema {old_schema}"
                        );
                        let plan = plan(&spec(wanted, warn, version), &seen);
                        let running = current.unwrap_or(0);
                        let target = expected(wanted, running, knows, warn, supports_ha);
                        // A version that neither the image nor the schema names may be too old.
                        let is_named = version != "latest" || is_read(&seen);
                        let target = if is_named {
                            target
                        } else {
                            target.min(running.max(1))
                        };
                        assert_eq!(plan.report.target_replicas, Some(target), "{case}");
                        let next = match current {
                            // Not written at all: nothing of it changes.
                            Some(current) if knows.holds() && target == current => None,
                            None if knows.holds() => None,
                            // A migration may be running, for all that is known.
                            Some(current) if name == "not probed" && target < current => None,
                            // Without a license there is no time for one after the other.
                            Some(_) if !warn && has_ended(&plan) => Some(target),
                            Some(current) if target < current && target > 0 => Some(current - 1),
                            _ => Some(target),
                        };
                        assert_eq!(size(&plan), next.map(i64::from), "{case}");
                        let ready = state(&plan, ConditionType::Ready);
                        if wanted > 0 && target < wanted {
                            let says_why = matches!(
                                ready.1,
                                Reason::HeldBackByLicense
                                    | Reason::DatabaseNotProbed
                                    | Reason::HeldBackByDatabase
                                    | Reason::HeldBackByVersion
                            );
                            // Where fewer than that serve, it says so instead.
                            assert!(says_why || ready.0 != Some(true), "{case}: {ready:?}");
                            assert!(target > 0 || ready.0 == Some(false), "{case}: {ready:?}");
                            let message = &condition(&plan.report, ConditionType::Ready).message;
                            assert!(says_why || message.contains("may run"), "{case}: {message}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_held_template_stays_as_it_is_in_the_cluster() {
    for (name, view, shared, knows) in worlds() {
        let plan = plan(&json!({}), &world(Some(3), view, shared));
        let set = plan
            .objects
            .iter()
            .find(|object| object.kind == crate::kubernetes::Kind::StatefulSet);
        // As it is: not even written.
        let unwritten = matches!(knows, Knowledge::Hold | Knowledge::Wait);
        assert_eq!(set.is_none(), unwritten, "{name}");
    }
}

#[test]
fn a_refused_downgrade_neither_rolls_nor_shrinks_what_serves() {
    for version in ["3.20.9", "3.17.0"] {
        let mut seen = world(
            Some(3),
            DatabaseView::Probed(Ok(facts(3, stored(&json!({}))))),
            None,
        );
        for pod in &mut seen.pods {
            pod.revision = Some(crate::testing::OLD.to_owned());
        }
        let plan = plan(&json!({"version": version}), &seen);
        assert_eq!(size(&plan), None, "{version}: as it is");
        assert!(plan.eviction.is_none());
        assert_eq!(
            state(&plan, ConditionType::RolloutComplete),
            (Some(false), Reason::DowngradeRefused)
        );
        assert_eq!(
            state(&plan, ConditionType::Stalled),
            (Some(true), Reason::DowngradeRefused)
        );
    }
    // A patch release back, or the first start on an empty database, is none.
    for (version, schema) in [
        (
            "3.21.0",
            SchemaState::Bytebase {
                version: Some(Version::new(3, 21, 5)),
            },
        ),
        ("3.17.0", SchemaState::Empty),
    ] {
        let seen = with_facts(
            world(
                Some(3),
                DatabaseView::Probed(Ok(facts(3, stored(&json!({}))))),
                None,
            ),
            |facts| facts.schema = schema,
        );
        let plan = plan(&json!({"version": version}), &seen);
        assert_eq!(
            state(&plan, ConditionType::RolloutComplete).0,
            Some(true),
            "{version}"
        );
    }
}

/// Replicas run, of an image whose version is what `version` says, on this schema.
fn on_schema(running: i32, schema: Option<(u32, u32)>) -> Observation {
    let version = schema.map(|(major, minor)| Version::new(major, minor, 4));
    with_facts(healthy(running, stored(&json!({}))), |facts| {
        facts.schema = version.map_or(SchemaState::Empty, |version| SchemaState::Bytebase {
            version: Some(version),
        });
    })
}

#[test]
fn the_schema_says_whether_a_version_without_a_number_may_have_several_replicas() {
    let digest = json!({"digest": format!("sha256:{}", "0".repeat(64))});
    for spec in [
        json!({"version": "latest"}),
        json!({"version": "latest", "license": {"enforcement": "Warn"}}),
        json!({"version": "mine", "image": digest}),
    ] {
        for (running, schema, target) in [
            (1, Some((3, 17)), 3),
            (1, Some((3, 16)), 1),
            // It has not been read: nothing is scaled on it, up or down.
            (0, None, 1),
            (1, None, 1),
            (2, None, 2),
            // Known to be too old.
            (3, Some((3, 16)), 1),
        ] {
            let plan = plan(&spec, &on_schema(running, schema));
            assert_eq!(
                plan.report.target_replicas,
                Some(target),
                "{spec}: {running} run on {schema:?}"
            );
            let is_held = state(&plan, ConditionType::Ready).1 == Reason::HeldBackByVersion;
            assert_eq!(is_held, target < 3 && running > 0, "{spec}: {running} run");
            if is_held {
                let message = &condition(&plan.report, ConditionType::Ready).message;
                assert!(message.contains("schema"), "{message}");
            }
        }
    }
    // An earlier process read it.
    let mut seen = observation(Some(1), DatabaseView::CannotRead);
    seen.remembered.schema_version = Some(Version::new(3, 21, 4));
    let warned = json!({"version": "latest", "license": {"enforcement": "Warn"}});
    assert_eq!(plan(&warned, &seen).report.target_replicas, Some(3));
}

#[test]
fn the_first_replica_that_supports_ha_migrates_the_schema_alone() {
    let digest = json!({"digest": format!("sha256:{}", "0".repeat(64))});
    for spec in [
        json!({}),
        json!({"image": digest}),
        json!({"version": "latest"}),
    ] {
        for (schema, target) in [((3, 16), 1), ((3, 17), 3)] {
            let mut seen = on_schema(1, Some(schema));
            seen.pods[0].revision = Some(crate::testing::OLD.to_owned());
            seen.pods[0].version = Some("3.16.2".to_owned());
            let plan = plan(&spec, &seen);
            assert_eq!(
                plan.report.target_replicas,
                Some(target),
                "{spec} {schema:?}"
            );
            if target == 1 {
                assert!(plan.eviction.is_some(), "it is replaced all the same");
            }
        }
    }
}

#[test]
fn what_the_schema_says_refuses_a_downgrade_also_where_the_image_is_a_digest() {
    let digest = json!({"digest": format!("sha256:{}", "0".repeat(64))});
    for (spec, refused) in [
        (json!({"version": "3.20.9", "image": digest}), true),
        (json!({"version": "3.21.0", "image": digest}), false),
        // Nothing is known of these, so nothing is refused.
        (json!({"version": "latest"}), false),
        (json!({"version": "mine", "image": digest}), false),
    ] {
        // Whatever ran before.
        for before in ["3.21.1", "latest"] {
            let mut seen = on_schema(3, Some((3, 21)));
            seen.stateful_set.as_mut().unwrap().version = Some(before.to_owned());
            let plan = plan(&spec, &seen);
            let reason = state(&plan, ConditionType::Stalled).1;
            assert_eq!(reason == Reason::DowngradeRefused, refused, "{spec}");
            assert_eq!(plan.report.target_replicas, Some(3), "{spec}, {before}");
        }
    }
}

#[test]
fn what_has_served_refuses_a_downgrade_where_the_schema_was_never_read() {
    let iam = |version: &str| json!({"version": version, "database": {"url": "postgres://u@db.rds.amazonaws.com/x?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1"}});
    let runs = |stands: &str, served: Option<&str>| {
        let made = template(&valid(&iam(stands)), None, Standing::default()).unwrap();
        let mut seen = observation(Some(3), DatabaseView::CannotRead);
        let set = seen.stateful_set.as_mut().unwrap();
        (set.template, set.template_digest) = (made.value, made.digest);
        set.version = Some(stands.to_owned());
        for pod in &mut seen.pods {
            pod.version = Some(stands.to_owned());
        }
        seen.remembered.version = served.map(str::to_owned);
        seen
    };
    let refuses = |spec: &Value, seen: &Observation| {
        let plan = plan(spec, seen);
        let refused = state(&plan, ConditionType::RolloutComplete).1 == Reason::DowngradeRefused;
        assert_eq!(refused, size(&plan).is_none());
        refused
    };
    let served = runs("3.21.1", Some("3.21.1"));
    assert!(refuses(&iam("3.20.0"), &served));
    assert!(!refuses(&iam("3.21.0"), &served) && !refuses(&iam("3.22.0"), &served));
    // None of the new version has come up, or one has.
    let mut failed = runs("3.21.1", Some("3.20.0"));
    for pod in &mut failed.pods {
        pod.version = Some("3.20.0".to_owned());
    }
    assert!(!refuses(&iam("3.20.0"), &failed));
    failed.pods[2].version = Some("3.21.1".to_owned());
    assert!(refuses(&iam("3.20.0"), &failed));
    failed.pods[2].ready = false;
    assert!(!refuses(&iam("3.20.0"), &failed));
    // What serves may serve on another database, of which status speaks a moment later.
    let mut moves = iam("3.20.0");
    moves["database"]["url"] = json!(
        "postgres://u@new.rds.amazonaws.com/x?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1"
    );
    assert!(!refuses(&moves, &served));
    let mut written = served.clone();
    let made = template(&valid(&moves), None, Standing::default()).unwrap();
    let set = written.stateful_set.as_mut().unwrap();
    (set.template, set.template_digest) = (made.value, made.digest);
    set.version = Some("3.20.0".to_owned());
    let rolling = plan(&moves, &written);
    assert_ne!(
        state(&rolling, ConditionType::Stalled).1,
        Reason::DowngradeRefused
    );
    // An emptied database has no schema that anything could break on.
    let emptied = with_facts(observation(Some(3), good(stored(&json!({})))), |facts| {
        facts.schema = SchemaState::Empty;
    });
    let mut seen = served.clone();
    (seen.database, seen.last_facts) = (emptied.database, emptied.last_facts);
    assert_ne!(
        state(&plan(&iam("3.20.0"), &seen), ConditionType::Stalled).1,
        Reason::DowngradeRefused
    );
}

#[test]
fn no_replica_starts_on_a_template_that_is_older_than_the_schema() {
    let older = |replicas: i32| json!({"version": "3.20.9", "replicas": replicas});
    let stands = |running: i32, version: &str| {
        let view = DatabaseView::Probed(Ok(facts(running, stored(&json!({})))));
        let mut seen = world(Some(running), view, None);
        seen.stateful_set.as_mut().unwrap().version = Some(version.to_owned());
        seen
    };
    for running in 0..3 {
        let plan = plan(&older(3), &stands(running, "3.20.9"));
        assert_eq!(size(&plan), None, "{running}: as it is");
        assert_eq!(plan.report.target_replicas, Some(running));
        let ready = state(&plan, ConditionType::Ready);
        let expected = (Some(running > 0), Reason::HeldBackByVersion);
        assert_eq!(ready, expected, "{running}");
        assert_eq!(
            state(&plan, ConditionType::Stalled),
            (Some(true), Reason::DowngradeRefused)
        );
    }
    // What stands may start where only what is wanted is older, and what runs may become fewer.
    assert_eq!(size(&plan(&older(3), &stands(1, "3.21.1"))), Some(3));
    assert_eq!(size(&plan(&older(1), &stands(2, "3.20.9"))), Some(1));
    // As a backup is to be restored.
    assert_eq!(size(&plan(&older(0), &stands(2, "3.21.1"))), Some(0));
}

/// Three replicas, or one, of which the last is on a new version and not up.
fn upgrading(replicas: i32, schema: (u32, u32), sessions: Option<Sessions>) -> Observation {
    let mut seen = on_schema(replicas, Some(schema));
    seen = with_facts(seen, |facts| facts.sessions = sessions);
    let (last, others) = seen.pods.split_last_mut().unwrap();
    last.ready = false;
    for pod in others {
        pod.revision = Some(crate::testing::OLD.to_owned());
        pod.version = Some("3.20.2".to_owned());
    }
    seen
}

#[test]
fn a_version_that_is_taken_back_while_it_migrates_the_schema_keeps_its_template_until_the_end() {
    let migrates = Sessions {
        migration_running: true,
        ..Sessions::default()
    };
    let rollout = |plan: &Plan| {
        let (status, reason) = state(plan, ConditionType::RolloutComplete);
        assert_eq!(status, Some(false));
        let waits = plan.report.rollout.as_ref().unwrap().waiting_for.unwrap();
        (reason, waits)
    };
    for replicas in [1, 3] {
        let back = json!({"version": "3.20.2", "replicas": replicas});
        for (sessions, waits) in [
            (Some(migrates.clone()), RolloutWait::SchemaMigration),
            (None, RolloutWait::DatabaseReading),
        ] {
            let plan = plan(&back, &upgrading(replicas, (3, 20), sessions));
            assert_eq!(size(&plan), None, "{replicas}: as it is");
            assert!(plan.eviction.is_none() && plan.read_options.sessions);
            assert_eq!(rollout(&plan), (Reason::RolloutWaiting, waits));
            // Nothing else is held up.
            assert_eq!(plan.report.target_replicas, Some(replicas));
        }
        // It has failed, and may be tried again: the way back is open.
        let none = || Some(Sessions::default());
        let failed = plan(&back, &upgrading(replicas, (3, 20), none()));
        assert_eq!(size(&failed), Some(i64::from(replicas)));
        // It has changed the schema.
        let changed = plan(&back, &upgrading(replicas, (3, 21), none()));
        assert_eq!(size(&changed), None, "{replicas}: as it is");
        let refused = (Reason::DowngradeRefused, RolloutWait::Correction);
        assert_eq!(rollout(&changed), refused);
        let message = &condition(&changed.report, ConditionType::RolloutComplete).message;
        let behind =
            "2 replicas still run a version that is older than the schema, which is at 3.21";
        assert_eq!(message.contains(behind), replicas == 3, "{message}");
        // Neither a newer version nor another patch release of the same waits.
        for version in ["3.22.0", "3.21.0"] {
            let on = json!({"version": version, "replicas": replicas});
            let plan = plan(&on, &upgrading(replicas, (3, 20), Some(migrates.clone())));
            assert_eq!(size(&plan), Some(i64::from(replicas)), "{version}");
        }
    }
    // No pod that could come back.
    let mut stopped = upgrading(1, (3, 20), None);
    stopped.pods.clear();
    let stopped = with_facts(stopped, |facts| heartbeats(facts).clear());
    let back = json!({"version": "3.20.2", "replicas": 1});
    assert_eq!(size(&plan(&back, &stopped)), Some(1));
}

#[test]
fn too_few_connections_are_reported_and_hold_nothing_back() {
    let seen = with_facts(
        world(
            Some(3),
            DatabaseView::Probed(Ok(facts(3, stored(&json!({}))))),
            None,
        ),
        |facts| facts.max_connections = 100,
    );
    let plan = plan(&json!({}), &seen);
    assert_eq!(size(&plan), Some(3));
    assert_eq!(
        state(&plan, ConditionType::DatabaseReady),
        (Some(true), Reason::DatabaseConnectionBudget)
    );
    let message = &condition(&plan.report, ConditionType::DatabaseReady).message;
    assert!(
        message.contains("200 connections") && message.contains("at least 203"),
        "{message}"
    );
}

#[test]
fn a_certificate_of_version_1_is_remarked_on_and_holds_nothing_back() {
    for is_old in [false, true] {
        let seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
            facts.has_version_1_certificate = is_old;
        });
        let plan = plan(&json!({}), &seen);
        assert_eq!(size(&plan), Some(3));
        let found = condition(&plan.report, ConditionType::DatabaseReady);
        assert_eq!(
            (found.status, found.reason),
            (Some(true), Reason::DatabaseChecksPassed)
        );
        let is_said = found.message.contains("of X.509 version 1");
        assert_eq!(is_said, is_old, "{}", found.message);
    }
}

#[test]
fn the_least_of_several_limits_of_connections_counts() {
    type Change = fn(&mut DatabaseFacts);
    let changes: [(i32, Change, Option<&str>); 8] = [
        (3, |_| {}, None),
        (
            3,
            |facts| facts.role_connections = Some(20),
            Some("may have 20: ALTER ROLE \"bytebase\" CONNECTION LIMIT 200"),
        ),
        (
            3,
            |facts| facts.database_connections = Some(150),
            Some("takes 150: ALTER DATABASE \"bytebase\" CONNECTION LIMIT 200"),
        ),
        (
            3,
            |facts| {
                facts.role_connections = Some(150);
                facts.database_connections = Some(30);
            },
            Some("takes 30"),
        ),
        (
            3,
            |facts| {
                facts.role_connections = Some(150);
                facts.max_connections = 100;
            },
            Some("raise max_connections to at least 203"),
        ),
        (3, |facts| facts.role_connections = Some(200), None),
        // One replica on a small server takes what there is; of a role's limit it knows nothing.
        (1, |facts| facts.max_connections = 40, None),
        (
            1,
            |facts| facts.role_connections = Some(20),
            Some("CONNECTION LIMIT 100"),
        ),
    ];
    for (wanted, change, words) in changes {
        let seen = with_facts(healthy(wanted, stored(&json!({}))), change);
        let plan = plan(&json!({"replicas": wanted}), &seen);
        let found = condition(&plan.report, ConditionType::DatabaseReady);
        assert_eq!(found.status, Some(true));
        match words {
            Some(words) => {
                assert_eq!(found.reason, Reason::DatabaseConnectionBudget);
                assert!(found.message.contains(words), "{}", found.message);
            }
            None => assert_eq!(found.reason, Reason::DatabaseChecksPassed),
        }
    }
}

#[test]
fn a_lacking_right_is_reported_with_what_helps() {
    type Change = fn(&mut DatabaseFacts);
    let changes: [(Change, &str); 4] = [
        (
            |facts| facts.can_create = false,
            "may no longer create tables",
        ),
        (
            |facts| facts.not_owned = Some("setting".to_owned()),
            "table setting",
        ),
        (
            |facts| {
                facts.schema = SchemaState::Empty;
                facts.can_create = false;
                facts.missing_schema = Some("bb".to_owned());
            },
            "CREATE SCHEMA \"bb\" AUTHORIZATION \"bytebase\"",
        ),
        (
            |facts| {
                facts.schema = SchemaState::Empty;
                facts.can_create = false;
            },
            "GRANT CREATE ON SCHEMA public",
        ),
    ];
    for (change, words) in changes {
        let seen = with_facts(healthy(3, stored(&json!({}))), change);
        let plan = plan(&json!({}), &seen);
        assert_eq!(
            state(&plan, ConditionType::DatabaseReady),
            (Some(false), Reason::DatabasePermissionDenied)
        );
        let message = &condition(&plan.report, ConditionType::DatabaseReady).message;
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn a_right_that_seems_to_lack_to_a_monitoring_login_holds_a_roll_and_refuses_nothing() {
    let spec = json!({"database": {
        "urlSecretRef": {"name": "pg", "key": "PG_URL"},
        "monitorSecretRef": {"name": "pg", "key": "PG_URL"},
    }});
    let seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
        facts.not_owned = Some("setting".to_owned());
    });
    let plan = plan(&spec, &seen);
    assert_eq!(
        state(&plan, ConditionType::DatabaseReady),
        (None, Reason::DatabasePermissionDenied)
    );
    assert_eq!(size(&plan), None, "what runs is left as it is");
    assert!(plan.eviction.is_none());
    // The first pod may try.
    let first = with_facts(
        world(None, DatabaseView::Probed(Ok(facts(0, no_license()))), None),
        |facts| facts.not_owned = Some("setting".to_owned()),
    );
    assert_eq!(size(&super::plan(&spec, &first)), Some(1));
}

#[test]
fn a_monitoring_role_need_not_create_tables() {
    let seen = with_facts(
        world(None, DatabaseView::Probed(Ok(facts(0, no_license()))), None),
        |facts| {
            facts.schema = SchemaState::Empty;
            facts.can_create = false;
        },
    );
    let monitored = json!({"database": {"urlSecretRef": {"name": "pg", "key": "PG_URL"}, "monitorSecretRef": {"name": "pg", "key": "PG_URL"}}});
    assert_eq!(size(&plan(&monitored, &seen)), Some(1));
    assert_eq!(size(&plan(&json!({}), &seen)), None);
}

#[test]
fn a_paused_cluster_is_reported_and_left_alone() {
    for (name, view, shared, _) in worlds() {
        for current in [None, Some(1), Some(3)] {
            let mut seen = world(current, view.clone(), shared);
            for pod in &mut seen.pods {
                pod.revision = Some("other".to_owned());
            }
            let plan = plan(
                &json!({"paused": true, "license": {"secretRef": {"name": "license", "key": "token"}}, "admin": {"credentialsSecretRef": {"name": "admin"}, "createFirst": true}}),
                &seen,
            );
            assert!(plan.objects.is_empty() && plan.prune.is_empty(), "{name}");
            assert!(plan.eviction.is_none() && called(&plan).is_none(), "{name}");
            assert_eq!(plan.report.phase, Some(crate::api::status::Phase::Paused));
            assert_eq!(
                state(&plan, ConditionType::Reconciling),
                (Some(false), Reason::Paused)
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn more_than_one_replica_needs_a_reason(
        wanted in 0..=50_i32,
        current in proptest::option::of(0..=50_i32),
        which in 0..worlds().len(),
        warn: bool,
    ) {
        let (name, view, shared, knows) = worlds().swap_remove(which);
        let plan = plan(&spec(wanted, warn, "3.21.1"), &world(current, view, shared));
        let running = current.unwrap_or(0);
        let target = plan.report.target_replicas.unwrap();
        let next = size(&plan);
        prop_assert!(target <= wanted);
        if target > 1 {
            prop_assert!(knows == Knowledge::Yes || warn || target <= running, "{}", name);
        }
        if matches!(knows, Knowledge::Unknown | Knowledge::Hold) && !warn && wanted >= running && running > 0 {
            prop_assert_eq!(target, running, "{}", name);
        }
        if knows == Knowledge::No && !warn {
            prop_assert!(target <= 1);
        }
        if knows == Knowledge::Hold {
            prop_assert!(target <= running);
            prop_assert_eq!(next.is_some(), current.is_some_and(|current| wanted < current));
        }
        if let (Some(next), true) = (next, wanted > 0 && (warn || !has_ended(&plan))) {
            prop_assert!(next >= i64::from(running) - 1, "one at a time: {} to {}", running, next);
        }
    }
}
