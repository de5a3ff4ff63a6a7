//! What was learnt stands over outages and restarts: each rule that falls back on the last certain
//! knowledge, and histories of a database under one cluster.

use super::license::with_secret;
use super::{condition, plan, size, state};
use crate::api::status::{BytebaseClusterStatus, DatabaseStatus, HeartbeatState, LicenseStatus};
use crate::api::{ConditionType, Reason};
use crate::contract::version::Version;
use crate::decide::decide;
use crate::decide::plan::{BytebaseRequest, Plan, Size, Wanted};
use crate::kubernetes::Kind;
use crate::observation::reading::Renewal;
use crate::observation::{
    DatabaseFacts, DatabaseIdentity, DatabaseView, Fact, FailureClass, FailureReason, Holder,
    ListenSession, LoginTrial, Observation, ProbeFailure, Remembered, RunningTasks, SchemaState,
    ServiceWay, Sessions, StoredLicense, Usage,
};
use crate::observe::remembered::remembered;
use crate::report;
use crate::testing::{
    after, cluster, days, facts, failure, healthy, heartbeat, heartbeats, holder, no_license, now,
    observation, references, settings, stored, token, with_facts,
};
use crate::validate::{Fetched, validate};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// The database that the spec of these tests names.
const ENDPOINT: &str = "db.example.com:5432/bytebase";
const DATABASE: ConditionType = ConditionType::DatabaseReady;
const LICENSED: ConditionType = ConditionType::HaLicensed;

fn secs(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// The status after a plan, as the next process finds it.
fn status_after(plan: Plan, before: &BytebaseClusterStatus) -> BytebaseClusterStatus {
    report::status(before, plan.report, &[], Some(1), now())
}

/// What comes next in a cluster after a plan, seen by a process that knows nothing but the status.
fn then(plan: Plan, next: Observation) -> Observation {
    then_of(&status_after(plan, &BytebaseClusterStatus::default()), next)
}

fn then_of(status: &BytebaseClusterStatus, mut next: Observation) -> Observation {
    next.remembered = remembered(status, Some(ENDPOINT));
    next
}

fn outage() -> DatabaseView {
    failure(FailureClass::Unknown, FailureReason::Unreachable)
}

fn changed(change: impl FnOnce(&mut DatabaseFacts)) -> DatabaseView {
    let mut facts = facts(0, stored(&json!({})));
    change(&mut facts);
    DatabaseView::Probed(Ok(facts))
}

/// Every way in which a database is refused, with the reason.
fn refusals() -> Vec<(Observation, Reason)> {
    let seen = |view| observation(None, view);
    let mut shared = seen(changed(|_| {}));
    shared.database_shared_with = Some(holder("bytebase"));
    vec![
        (
            seen(changed(|facts| {
                facts.schema = SchemaState::Foreign {
                    example: "wp_posts".to_owned(),
                };
            })),
            Reason::DatabaseForeignTables,
        ),
        (shared, Reason::DatabaseShared),
        (
            seen(changed(|facts| facts.in_recovery = true)),
            Reason::DatabaseIsStandby,
        ),
        (
            seen(changed(|facts| facts.transaction_pooler = Some(true))),
            Reason::DatabaseTransactionPooler,
        ),
        (
            seen(changed(|facts| facts.server_version_num = 130_022)),
            Reason::DatabaseTooOld,
        ),
        (
            seen(changed(|facts| heartbeats(facts).push(heartbeat(9, 5)))),
            Reason::DatabaseInUse,
        ),
        (
            seen(failure(
                FailureClass::Definite,
                FailureReason::DatabaseMissing,
            )),
            Reason::DatabaseMissing,
        ),
    ]
}

#[test]
fn a_refusal_stands_over_an_outage_and_a_restart_until_a_good_reading() {
    for (seen, reason) in refusals() {
        let refused = plan(&json!({}), &seen);
        assert_eq!(state(&refused, DATABASE), (Some(false), reason));
        assert_eq!(size(&refused), None, "{reason}");
        let first = condition(&refused.report, DATABASE).message.clone();

        // The port is gone; then, for a new process, nothing has been read at all; then again. Who
        // else uses the database is known without it.
        let shared = seen.database_shared_with.clone();
        let out_of_reach = || Observation {
            database_shared_with: shared.clone(),
            ..observation(None, outage())
        };
        let gone = then(refused, out_of_reach());
        let still = plan(&json!({}), &gone);
        assert_eq!(state(&still, DATABASE), (Some(false), reason));
        assert_eq!(size(&still), None, "{reason}");
        let message = condition(&still.report, DATABASE).message.clone();
        assert!(message.starts_with(&first), "{message}");
        assert!(
            shared.is_some() || message.contains("cannot be read now"),
            "{message}"
        );
        let again = plan(&json!({}), &then(still, out_of_reach()));
        let repeated = &condition(&again.report, DATABASE).message;
        assert_eq!(*repeated, message, "it does not grow");

        let good = observation(None, changed(|_| {}));
        let good = plan(&json!({}), &then(again, good));
        assert_eq!(size(&good), Some(3), "{reason}");
    }
}

#[test]
fn a_refusal_of_one_database_says_nothing_of_another() {
    let (seen, _) = refusals().remove(0);
    let status = status_after(plan(&json!({}), &seen), &BytebaseClusterStatus::default());
    let first = |endpoint| {
        let mut gone = observation(None, outage());
        gone.remembered = remembered(&status, Some(endpoint));
        state(&plan(&json!({}), &gone), DATABASE)
    };
    assert_eq!(
        first(ENDPOINT),
        (Some(false), Reason::DatabaseForeignTables)
    );
    let elsewhere = first("old.example.com:5432/bytebase");
    assert_eq!(elsewhere, (None, Reason::DatabaseUnreachable));
}

#[test]
fn the_database_on_which_a_cluster_has_served_is_kept_until_it_is_known_to_have_left_it() {
    let identity = |name: &str| DatabaseIdentity::new(name, "1");
    let served_on = |plan: &Plan| {
        let database = plan.report.database.clone();
        database.and_then(|database| database.served_on)
    };
    let (first, second) = (identity("one").database, identity("two").database);
    // What the next process finds once the spec names another place.
    let moved = |status: &BytebaseClusterStatus, mut next: Observation| {
        next.remembered = remembered(status, Some("another.example.com:5432/bytebase"));
        next
    };
    let none = BytebaseClusterStatus::default();
    let stop = json!({"replicas": 0});
    let running = || healthy(1, stored(&json!({})));
    let active = plan(&json!({}), &running());
    assert_eq!(served_on(&active), Some(first.clone()));
    let served = status_after(active, &none);
    let stopped = plan(&stop, &then_of(&served, observation(None, changed(|_| {}))));
    assert_eq!(served_on(&stopped), Some(first.clone()));
    let stopped = status_after(stopped, &served);

    // Another place may be another name of the same database, until it is read as another one.
    let read = |name: &str| changed(|facts| facts.identity = identity(name));
    let edited = plan(&stop, &moved(&stopped, observation(None, outage())));
    assert_eq!(served_on(&edited), Some(first.clone()));
    assert_eq!(edited.report.database.as_ref().unwrap().identity, None);
    let edited = status_after(edited, &stopped);
    let back = plan(&stop, &then_of(&edited, observation(None, outage())));
    assert_eq!(served_on(&back), Some(first.clone()));
    let same = plan(&stop, &moved(&edited, observation(None, read("one"))));
    assert_eq!(served_on(&same), Some(first.clone()));
    let other = plan(&stop, &moved(&edited, observation(None, read("two"))));
    assert_eq!(served_on(&other), None);
    let mut since = observation(None, outage());
    since.last_facts = observation(None, read("two")).last_facts;
    assert_eq!(served_on(&plan(&stop, &moved(&edited, since))), None);

    // As long as there are replicas they may be on the database of before.
    let elsewhere = with_facts(running(), |facts| facts.identity = identity("two"));
    let unheard = with_facts(elsewhere.clone(), |facts| heartbeats(facts).clear());
    let moving = plan(&json!({}), &moved(&served, unheard));
    assert_eq!(served_on(&moving), Some(first));
    let moving = status_after(moving, &served);
    let there = plan(&json!({}), &moved(&moving, elsewhere));
    assert_eq!(served_on(&there), Some(second));
}

#[test]
fn what_was_read_counts_before_any_reconcile_has_seen_it() {
    for (seen, reason) in refusals() {
        let Some(read) = seen.last_facts else {
            // It was refused at the login: nothing was read.
            continue;
        };
        let mut gone = observation(None, outage());
        gone.last_facts = Some(read);
        gone.database_shared_with = seen.database_shared_with;
        let plan = plan(&json!({}), &gone);
        assert_eq!(size(&plan), None, "{reason}");
        // Heartbeats of another Bytebase are of the moment.
        if reason != Reason::DatabaseInUse {
            assert_eq!(state(&plan, DATABASE), (Some(false), reason));
        }
        let database = plan.report.database.unwrap_or_default();
        assert!(database.identity.is_some(), "{reason}: it is written down");
    }
}

#[test]
fn what_is_read_while_the_spec_is_invalid_is_written_down() {
    let invalid = json!({"externalURL": "nonsense"});
    for (seen, reason) in refusals() {
        let read = plan(&invalid, &seen);
        assert_eq!(state(&read, DATABASE), (Some(false), reason));
        let corrected = then(read, observation(None, outage()));
        assert_eq!(size(&plan(&json!({}), &corrected)), None, "{reason}");
    }
    let good = plan(&invalid, &observation(None, changed(|_| {})));
    assert_eq!(
        state(&good, DATABASE),
        (Some(true), Reason::DatabaseChecksPassed)
    );
    let corrected = then(good, observation(None, outage()));
    assert_eq!(size(&plan(&json!({}), &corrected)), None);

    // A spec that does not say which database it is takes nothing back.
    let nowhere = json!({"database": {"url": "nonsense"}});
    let (seen, reason) = refusals().remove(0);
    let unsaid = plan(
        &nowhere,
        &then(plan(&json!({}), &seen), observation(None, outage())),
    );
    assert_eq!(state(&unsaid, DATABASE), (Some(false), reason));
    assert!(unsaid.report.database.is_some());
}

#[test]
fn the_first_replica_waits_for_a_database_that_was_read_before() {
    let stopped = plan(&json!({"replicas": 0}), &observation(None, changed(|_| {})));
    let seen = plan(&json!({}), &then(stopped, observation(None, outage())));
    assert_eq!(state(&seen, DATABASE), (None, Reason::DatabaseUnreachable));
    assert_eq!(size(&seen), None);
    // Nor while the spec of an older cluster names the same database.
    let mut named = observation(None, outage());
    named.database_shared_with = Some(holder("bytebase"));
    let named = plan(&json!({}), &named);
    assert_eq!(
        state(&named, DATABASE),
        (Some(false), Reason::DatabaseShared)
    );
    assert_eq!(size(&named), None);
}

/// A cluster whose database cannot be read, for `reason`, so many seconds after the first try.
fn blind(before: Plan, seconds: i64, reason: FailureReason) -> Observation {
    let mut seen = then(
        before,
        observation(None, failure(FailureClass::Unknown, reason)),
    );
    seen.now = after(secs(seconds));
    seen
}

#[test]
fn of_a_shared_database_the_message_says_how_far_the_other_cluster_uses_it_and_what_to_do() {
    for (usage, says) in [
        (Usage::Runs, ["already used by", "give this cluster"]),
        (Usage::Unread, ["cannot be read", "delete that one, or"]),
        (Usage::Idle, ["is stopped", "point it to another database"]),
        (Usage::Moves, ["has served there", "or delete that one"]),
    ] {
        for view in [changed(|_| {}), outage()] {
            let mut seen = observation(None, view);
            seen.database_shared_with = Some(Holder {
                usage,
                ..holder("bytebase")
            });
            let refused = plan(&json!({}), &seen);
            let message = &condition(&refused.report, DATABASE).message;
            assert!(
                message.contains("the BytebaseCluster bytebase"),
                "{message}"
            );
            assert!(says.iter().all(|say| message.contains(say)), "{message}");
        }
    }
}

#[test]
fn a_database_that_was_never_read_is_tried_for_two_minutes_before_the_first_replica() {
    use FailureReason::{Other, ServerNotReady, TlsFailed, TooManyConnections, Unreachable};
    for (reason, starts) in [
        (Unreachable, true),
        (TlsFailed, true),
        (Other, true),
        // It answers, so it can be read from here.
        (ServerNotReady, false),
        (TooManyConnections, false),
    ] {
        let first = observation(None, failure(FailureClass::Unknown, reason));
        let mut last = plan(&json!({}), &first);
        assert_eq!(size(&last), None, "{reason:?}");
        let due = starts.then(|| after(secs(120)));
        for seconds in [1, 119] {
            // Each is a process that knows nothing but the status.
            assert_eq!(last.requeue_at, due, "{reason:?}");
            last = plan(&json!({}), &blind(last, seconds, reason));
            assert_eq!(size(&last), None, "{reason:?} {seconds}");
        }
        let message = &condition(&last.report, DATABASE).message;
        assert_eq!(message.contains("00:02:00"), starts, "{message}");
        let over = plan(&json!({}), &blind(last, 120, reason));
        assert_eq!(size(&over), starts.then_some(1), "{reason:?}");
    }
    // It begins again where the server has answered in between, where no replica was wanted, and
    // for another database.
    let begun = || plan(&json!({}), &observation(None, outage()));
    let answered = plan(&json!({}), &blind(begun(), 60, ServerNotReady));
    let gone = plan(&json!({}), &blind(answered, 300, Unreachable));
    assert_eq!(
        (size(&gone), gone.requeue_at),
        (None, Some(after(secs(420))))
    );
    let stopped = plan(&json!({"replicas": 0}), &blind(begun(), 60, Unreachable));
    let wanted = plan(&json!({}), &blind(stopped, 300, Unreachable));
    assert_eq!(size(&wanted), None);
    let never = begun();
    let status = status_after(never, &BytebaseClusterStatus::default());
    let mut elsewhere = observation(None, outage());
    elsewhere.remembered = remembered(&status, Some("other.example.com:5432/bytebase"));
    elsewhere.now = after(secs(300));
    assert_eq!(size(&plan(&json!({}), &elsewhere)), None);
}

#[test]
fn the_first_replica_waits_two_minutes_also_after_a_leader_whose_clock_was_ahead() {
    let mut ahead = observation(None, outage());
    ahead.now = after(secs(7200));
    let ahead = plan(&json!({}), &ahead);
    let unread = FailureReason::Unreachable;
    let first = plan(&json!({}), &blind(ahead, 0, unread));
    assert_eq!(
        (size(&first), first.requeue_at),
        (None, Some(after(secs(120))))
    );
    let second = plan(&json!({}), &blind(first, 120, unread));
    assert_eq!(size(&second), Some(1));
}

/// A first pod that was started before the database could be read, and does not come up.
fn started_blindly(database: DatabaseView) -> Observation {
    let mut seen = observation(Some(1), database);
    let pod = &mut seen.pods[0];
    (pod.ready, pod.replica_id, pod.started_at) = (false, None, None);
    pod.version = Some("3.21.1".to_owned());
    let blind = DatabaseStatus {
        endpoint: Some(ENDPOINT.to_owned()),
        ..DatabaseStatus::default()
    };
    seen.remembered.database = Some(blind);
    seen
}

#[test]
fn a_replica_that_was_started_blindly_is_taken_back_by_a_refusal_unless_one_has_served() {
    for (refused, reason) in refusals() {
        if reason == Reason::DatabaseInUse {
            continue;
        }
        let mut seen = started_blindly(refused.database);
        seen.database_shared_with = refused.database_shared_with;
        let taken = plan(&json!({}), &seen);
        assert_eq!(state(&taken, DATABASE), (Some(false), reason));
        if reason == Reason::DatabaseShared {
            // Which of the two has it depends on which of them runs.
            assert_eq!(taken.report.target_replicas, Some(1));
            continue;
        }
        assert_eq!(taken.report.target_replicas, Some(0), "{reason}");
        assert_eq!(size(&taken), Some(0), "{reason}");

        let mut served = seen.clone();
        served.remembered.version = Some("3.21.1".to_owned());
        assert_eq!(plan(&json!({}), &served).report.target_replicas, Some(1));
        let mut ready = seen.clone();
        ready.pods[0].ready = true;
        assert_eq!(plan(&json!({}), &ready).report.target_replicas, Some(1));
        // An image without a version leaves no trace of whether one has served.
        let mut unnamed = seen;
        unnamed.pods[0].version = None;
        assert_eq!(plan(&json!({}), &unnamed).report.target_replicas, Some(1));
    }
    // A migration that it has begun goes to its end first, with or without a license.
    let mut migrating = started_blindly(changed(|facts| {
        facts.in_recovery = true;
        facts.license = Fact::Known(no_license());
        facts.sessions.as_mut().unwrap().migration_running = true;
    }));
    assert_eq!(size(&plan(&json!({}), &migrating)), None);
    migrating.database = changed(|facts| facts.in_recovery = true);
    assert_eq!(size(&plan(&json!({}), &migrating)), Some(0));
    // What is not known takes nothing back.
    let away = plan(&json!({}), &started_blindly(outage()));
    assert_eq!(away.report.target_replicas, Some(1));
}

#[test]
fn a_replica_that_was_started_blindly_and_works_or_is_not_seen_is_not_taken_back() {
    let foreign = || {
        changed(|facts| {
            facts.schema = SchemaState::Foreign {
                example: "wp_posts".to_owned(),
            };
            heartbeats(facts).push(heartbeat(0, 5));
        })
    };
    let mut works = started_blindly(foreign());
    works.pods[0].replica_id = Some(crate::testing::id(0));
    works.pods[0].started_at = Some(now());
    let mut unseen = started_blindly(foreign());
    unseen.pods.clear();
    for seen in [works, unseen] {
        let plan = plan(&json!({}), &seen);
        assert_eq!(
            state(&plan, DATABASE),
            (Some(false), Reason::DatabaseForeignTables)
        );
        assert_eq!(plan.report.target_replicas, Some(1));
    }
}

#[test]
fn a_replica_that_was_started_blindly_beside_another_bytebase_is_taken_back() {
    let beside = |since: i64| {
        let mut seen = started_blindly(changed(|facts| {
            heartbeats(facts).push(heartbeat(9, 5));
        }));
        let since = after(secs(-since));
        seen.unmatched_since.insert(crate::testing::id(9), since);
        plan(&json!({}), &seen)
    };
    let own = beside(60);
    assert_ne!(state(&own, DATABASE).1, Reason::DatabaseInUse);
    assert_ne!(own.report.target_replicas, Some(0), "it may be its own");
    let taken = beside(61);
    assert_eq!(
        state(&taken, DATABASE),
        (Some(false), Reason::DatabaseInUse)
    );
    assert_eq!(taken.report.target_replicas, Some(0));
}

#[test]
fn a_database_whose_active_replicas_had_no_time_to_be_heard_is_waited_for() {
    let first = |has_heartbeat_rows, uptime, writable_for| {
        let seen = observation(
            None,
            changed(|facts| {
                facts.has_heartbeat_rows = has_heartbeat_rows;
                facts.server_uptime = Duration::from_secs(uptime);
                facts.writable_for = Duration::from_secs(writable_for);
            }),
        );
        size(&plan(&json!({}), &seen))
    };
    assert_eq!(first(false, 44, 0), None, "the server has just started");
    assert_eq!(first(false, 45, 0), Some(3), "no replica was ever there");
    // Rows of before an outage of over an hour are not read, and a cut of the network leaves the
    // server running.
    assert_eq!(first(true, 7200, 0), None);
    assert_eq!(first(true, 7200, 44), None);
    assert_eq!(first(true, 7200, 45), Some(3));
}

#[test]
fn beside_a_bytebase_that_would_send_no_heartbeats_nothing_starts_while_there_are_other_sessions() {
    let seen = |sessions: Option<&[&str]>| {
        let others = |others: &[&str]| Sessions {
            others: others.iter().map(ToString::to_string).collect(),
            ..Sessions::default()
        };
        let read = changed(|facts| {
            facts.schema = SchemaState::Bytebase {
                version: Some(Version::new(3, 13, 32)),
            };
            facts.heartbeats = Fact::Absent;
            facts.sessions = sessions.map(others);
        });
        observation(None, read)
    };
    let roles = ["a", "b (psql)", "c", "d", "e"];
    for (sessions, named) in [
        (None, "still to be read"),
        (Some(&roles[..2]), "sessions of a, b (psql):"),
        (Some(&roles[..]), "sessions of a, b (psql), c and 2 more:"),
    ] {
        let held = plan(&json!({}), &seen(sessions));
        assert_eq!(state(&held, DATABASE), (None, Reason::DatabaseInUse));
        assert_eq!(size(&held), None, "{named}");
        assert!(
            held.read_options.sessions,
            "only they can show that it is over"
        );
        let message = condition(&held.report, DATABASE).message.clone();
        assert!(message.contains(named), "{message}");
        // Nor while it cannot be read, by a process that knows nothing but the status.
        let gone = then(held, observation(None, outage()));
        assert_eq!(size(&plan(&json!({}), &gone)), None, "{named}");
    }
    let alone = plan(&json!({}), &seen(Some(&[])));
    assert_eq!(size(&alone), Some(1), "the first replica migrates alone");
    // In an empty database there is nothing to break.
    let mut empty = seen(Some(&roles[..]));
    empty = with_facts(empty, |facts| facts.schema = SchemaState::Empty);
    assert_eq!(size(&plan(&json!({}), &empty)), Some(3));
}

#[test]
fn a_pooler_of_which_nothing_is_known_holds_the_first_replica_and_keeps_a_refusal() {
    let unknown = || changed(|facts| facts.transaction_pooler = None);
    let first = plan(&json!({}), &observation(None, unknown()));
    let pooler = Reason::DatabaseTransactionPooler;
    assert_eq!(state(&first, DATABASE), (None, pooler));
    assert!(size(&first).is_none() && first.read_options.renewal == Renewal::AtNextReading);
    let running = plan(
        &json!({}),
        &with_facts(healthy(3, stored(&json!({}))), |facts| {
            facts.transaction_pooler = None;
        }),
    );
    assert_eq!(state(&running, DATABASE).0, Some(true));
    let refused = changed(|facts| facts.transaction_pooler = Some(true));
    let mut last = plan(&json!({}), &observation(None, refused));
    for _ in 0..2 {
        last = plan(&json!({}), &then(last, observation(None, unknown())));
        assert_eq!(state(&last, DATABASE), (Some(false), pooler));
        assert_eq!(size(&last), None);
    }
}

#[test]
fn what_stands_before_bytebases_own_login_is_known_by_that_login_alone() {
    use LoginTrial::{Accepted, Failed};
    let spec = |monitor: &str| {
        let mut spec = cluster(&json!({"database": {
            "urlSecretRef": {"name": "pg", "key": "PG_URL"},
            "monitorSecretRef": {"name": "monitor", "key": "PG_URL"},
        }}));
        spec.spec.replicas = 1;
        let mut references = references();
        let url = format!("postgres://watcher:pw@{monitor}/bytebase");
        let values = BTreeMap::from([("PG_URL".to_owned(), url.into_bytes().into())]);
        references
            .secrets
            .insert("monitor".to_owned(), Fetched::Present(values));
        validate(&spec, &references, None, now())
    };
    let failed = || {
        Failed(ProbeFailure {
            class: FailureClass::Unknown,
            reason: FailureReason::Unreachable,
            message: "no answer".to_owned(),
        })
    };
    let seen = |login: Option<LoginTrial>, pooler| {
        changed(|facts| {
            facts.login.clone_from(&login);
            facts.transaction_pooler = pooler;
        })
    };
    let elsewhere = spec("direct.example.com");
    let decide_on = |seen: &Observation| decide(&elsewhere, seen, &settings());
    let next = |last: Plan, login: Option<LoginTrial>, pooled| {
        decide_on(&then(last, observation(None, seen(login, Some(pooled)))))
    };
    let pooler = Reason::DatabaseTransactionPooler;
    // Nothing starts before the login has been tried; one that cannot be is not waited for.
    let first = decide_on(&observation(None, seen(None, Some(false))));
    assert_eq!(state(&first, DATABASE), (None, pooler));
    assert!(size(&first).is_none() && first.read_options.try_login);
    for login in [Accepted, failed()] {
        let tried = then(
            first.clone(),
            observation(None, seen(Some(login), Some(false))),
        );
        assert_eq!(size(&decide_on(&tried)), Some(1));
    }
    // A pooler that was found stands until the same login finds it gone, over restarts.
    let mut last = next(first, Some(Accepted), true);
    for unsure in [None, Some(failed()), None, Some(failed())] {
        assert_eq!(state(&last, DATABASE), (Some(false), pooler));
        assert!(size(&last).is_none() && last.read_options.try_login);
        last = next(last, unsure, false);
    }
    assert_eq!(state(&last, DATABASE), (Some(false), pooler));
    let gone = next(last, Some(Accepted), false);
    assert_eq!(size(&gone), Some(1));
    // What could not be found out is asked for until it is, also by the next process, and by one
    // that knows that the login works.
    let mut unknown = decide_on(&observation(None, seen(Some(Accepted), None)));
    for login in [Some(Accepted), None, None, Some(Accepted)] {
        assert_eq!(state(&unknown, DATABASE), (None, pooler));
        assert!(size(&unknown).is_none() && unknown.read_options.try_login);
        let view = seen(login.clone(), login.map_or(Some(false), |_| None));
        unknown = decide_on(&then(unknown, observation(None, view)));
    }
    // Nor by a login that is refused for a moment, where it worked before or the server answers.
    let full = Failed(ProbeFailure {
        class: FailureClass::Unknown,
        reason: FailureReason::TooManyConnections,
        message: "full".to_owned(),
    });
    for login in [full, failed()] {
        let held = next(unknown.clone(), Some(login), false);
        assert_eq!(state(&held, DATABASE), (None, pooler));
        assert!(size(&held).is_none() && held.read_options.try_login);
    }
    assert_eq!(size(&next(unknown.clone(), Some(Accepted), false)), Some(1));
    // What status says of a cluster without pods stands until the next process has made the trial.
    let found = next(unknown.clone(), Some(Accepted), false);
    let again = next(found, None, false);
    assert!(again.hears_again && again.read_options.try_login);
    // Nothing of it concerns replicas that run.
    let running = with_facts(healthy(1, stored(&json!({}))), |facts| facts.login = None);
    assert_eq!(state(&decide_on(&running), DATABASE).0, Some(true));
    // One that leads to the same place shows it by itself.
    let same = decide(
        &spec("db.example.com:5432"),
        &observation(None, seen(None, Some(false))),
        &settings(),
    );
    assert_eq!(size(&same), Some(1));
}

#[test]
fn what_tables_hold_that_are_out_of_sight_is_not_known_to_be_nothing() {
    let foreign = SchemaState::Foreign {
        example: "other.things".to_owned(),
    };
    for schema in [SchemaState::Empty, foreign] {
        let mut last = plan(&json!({}), &healthy(3, stored(&json!({}))));
        for _ in 0..2 {
            let emptied = with_facts(healthy(3, no_license()), |facts| {
                facts.schema = schema.clone();
                facts.license = Fact::Absent;
                facts.heartbeats = Fact::Absent;
                facts.running_tasks = Fact::Absent;
            });
            let seen = then(last, emptied).with_lost_tables_unknown();
            last = plan(&json!({}), &seen);
            assert_eq!(last.report.target_replicas, Some(3), "{schema:?}");
            assert_eq!(state(&last, LICENSED), (None, Reason::LicenseUnknown));
            assert!(last.eviction.is_none());
            assert!(last.report.schema_version.is_some());
            let replicas = &last.report.replica_statuses;
            let unknown = |tasks: Option<i64>| tasks.is_none();
            assert!(
                replicas
                    .iter()
                    .all(|replica| unknown(replica.running_tasks))
            );
        }
        // A stopped cluster may have been emptied on purpose.
        let mut stopped = observation(Some(0), changed(|facts| facts.schema = schema.clone()));
        stopped = then(last, stopped).with_lost_tables_unknown();
        let holds = matches!(schema, SchemaState::Foreign { .. });
        let state = state(&plan(&json!({}), &stopped), DATABASE);
        assert_eq!(state.0, Some(!holds));
    }
}

#[test]
fn a_schema_that_went_back_under_replicas_is_reported_until_it_is_migrated_or_none_of_them_runs() {
    let of = |running, minor| {
        with_facts(healthy(running, stored(&json!({}))), |facts| {
            let version = Some(Version::new(3, minor, 5));
            facts.schema = SchemaState::Bytebase { version };
        })
    };
    let none = json!({});
    let is_well = |seen: &Observation| state(&plan(&none, seen), DATABASE).0 == Some(true);
    let mut last = plan(&none, &of(3, 21));
    assert_eq!(state(&last, DATABASE).0, Some(true));
    for _ in 0..2 {
        let seen = then(last, of(3, 20));
        last = plan(&none, &seen);
        assert_eq!(
            state(&last, DATABASE),
            (None, Reason::DatabaseSchemaUnknown)
        );
        let message = &condition(&last.report, DATABASE).message;
        assert!(message.contains("from 3.21 to 3.20"), "{message}");
        // It is reported, and nothing follows from it.
        assert_eq!(last.report.schema_version.as_deref(), Some("3.20.5"));
        assert_eq!(last.report.target_replicas, Some(3));
    }
    // An outage takes it from no later process.
    let away = plan(&none, &then(last.clone(), observation(Some(3), outage())));
    assert!(!is_well(&then(away, of(3, 20))));
    assert!(is_well(&then(last.clone(), of(3, 21))), "it was migrated");
    // The way back: no replica runs, and those that start then find what they migrate.
    let stopped = plan(&json!({"replicas": 0}), &then(last.clone(), of(0, 20)));
    assert_eq!(state(&stopped, DATABASE).0, Some(true));
    assert!(is_well(&then(stopped, of(3, 20))));
    // Only replicas of before the upgrade are left, which need no more.
    let mut older = then(last.clone(), of(3, 20));
    for pod in &mut older.pods {
        pod.version = Some("3.20.1".to_owned());
    }
    assert!(is_well(&older));
    // What was read of another database says nothing of this one.
    let mut moved = of(3, 20);
    let status = status_after(last, &BytebaseClusterStatus::default());
    moved.remembered = remembered(&status, Some("other.example.com:5432/bytebase"));
    assert!(is_well(&moved));
}

#[test]
fn that_a_schema_went_back_stands_while_its_version_cannot_be_read() {
    let of = |schema: &SchemaState| {
        with_facts(healthy(3, stored(&json!({}))), |facts| {
            facts.schema = schema.clone();
        })
    };
    let at = |minor| SchemaState::Bytebase {
        version: Some(Version::new(3, minor, 5)),
    };
    let none = json!({});
    for unread in [SchemaState::Bytebase { version: None }, SchemaState::Empty] {
        let mut last = plan(&none, &of(&at(21)));
        for schema in [&at(20), &unread, &unread, &at(20)] {
            let seen = then(last, of(schema)).with_lost_tables_unknown();
            last = plan(&none, &seen);
            let found = (None, Reason::DatabaseSchemaUnknown);
            assert_eq!(state(&last, DATABASE), found, "{schema:?}");
            let database = last.report.database.as_ref().unwrap();
            assert_eq!(database.schema_before.as_deref(), Some("3.21.5"));
            assert_eq!(last.report.schema_version.as_deref(), Some("3.20.5"));
        }
        let migrated = plan(&none, &then(last, of(&at(21))));
        assert_eq!(state(&migrated, DATABASE).0, Some(true), "{unread:?}");
    }
}

#[test]
fn a_replica_that_may_be_about_to_migrate_a_schema_that_went_back_does_not_lack_it() {
    let none = json!({});
    let is_well = |seen: &Observation| state(&plan(&none, seen), DATABASE).0 == Some(true);
    let newer = plan(&none, &healthy(3, stored(&json!({}))));
    let restored = |last: &Plan, sends: bool| {
        let older = with_facts(healthy(3, stored(&json!({}))), |facts| {
            let version = Some(Version::new(3, 20, 5));
            facts.schema = SchemaState::Bytebase { version };
            if !sends {
                heartbeats(facts).clear();
            }
        });
        then(last.clone(), older)
    };
    let starting = |mut seen: Observation| {
        for pod in &mut seen.pods {
            pod.ready = false;
        }
        seen
    };
    assert!(!is_well(&restored(&newer, true)));
    assert!(!is_well(&restored(&newer, false)), "they are Ready");
    assert!(
        !is_well(&starting(restored(&newer, true))),
        "they have sent heartbeats"
    );
    assert!(is_well(&starting(restored(&newer, false))));
    // Those that were up go on lacking it.
    let reported = plan(&none, &restored(&newer, true));
    assert!(!is_well(&starting(restored(&reported, false))));
    // What Bytebase runs by an image without a version cannot be known.
    for reported in [newer, reported] {
        let mut unknown = restored(&reported, true);
        for pod in &mut unknown.pods {
            pod.version = None;
        }
        assert!(is_well(&unknown));
    }
}

#[test]
fn a_workspace_that_a_restore_has_not_brought_back_yet_is_not_made_by_the_operator() {
    let spec = json!({
        "admin": {"credentialsSecretRef": {"name": "admin"}, "createFirst": true},
    });
    let signs_up = |plan: &Plan| {
        matches!(&plan.call, Wanted::Call(call)
            if matches!(call.request, BytebaseRequest::CreateFirstAdmin { .. }))
    };
    let empty = || healthy(3, StoredLicense::NoWorkspace);
    assert!(signs_up(&plan(&spec, &empty())));
    let mut last = plan(&spec, &healthy(3, stored(&json!({}))));
    for _ in 0..2 {
        // The restore may have made the database again, and its tables before the version in them.
        let restoring = with_facts(empty(), |facts| {
            facts.identity = DatabaseIdentity::new("one", "2");
            facts.schema = SchemaState::Bytebase { version: None };
        });
        let seen = then(last, restoring).with_lost_tables_unknown();
        last = plan(&spec, &seen);
        assert!(!signs_up(&last));
        let message = &condition(&last.report, DATABASE).message;
        assert!(message.contains("being restored"), "{message}");
        let mut changed = spec.clone();
        changed["version"] = json!("3.22.0");
        assert_eq!(size(&plan(&changed, &seen)), None, "no template is written");
        assert_eq!(last.report.target_replicas, Some(3));
        assert_eq!(
            state(&last, DATABASE),
            (None, Reason::DatabaseSchemaUnknown)
        );
        assert_eq!(state(&last, LICENSED), (None, Reason::LicenseUnknown));
    }
    let restored = plan(&spec, &then(last, healthy(3, stored(&json!({})))));
    assert_eq!(state(&restored, DATABASE).0, Some(true));
    // Without replicas it is one on which Bytebase begins again.
    let stopped = with_facts(observation(Some(0), changed(|_| {})), |facts| {
        facts.license = Fact::Known(StoredLicense::NoWorkspace);
    });
    let stopped = plan(&spec, &then(restored, stopped).with_lost_tables_unknown());
    let again = plan(&spec, &then(stopped, empty()).with_lost_tables_unknown());
    assert!(signs_up(&again));
}

#[test]
fn a_refused_login_says_nothing_of_one_that_only_the_replicas_can_try() {
    for (reason, held) in [
        (FailureReason::AuthenticationFailed, false),
        (FailureReason::ParameterRefused, false),
        (FailureReason::DatabaseMissing, true),
    ] {
        let refused = observation(None, failure(FailureClass::Definite, reason));
        let refused = plan(&json!({}), &refused);
        assert_eq!(state(&refused, DATABASE).0, Some(false));
        let unreadable = then(refused, observation(None, DatabaseView::CannotRead));
        let next = plan(&json!({}), &unreadable);
        assert_eq!(size(&next).is_none(), held, "{reason:?}");
    }
}

#[test]
fn a_license_in_a_secret_does_not_stand_in_for_one_that_was_read_to_be_missing() {
    let spec = json!({"license": {"secretRef": {"name": "license", "key": "token"}}});
    let mut last = plan(&spec, &healthy(1, no_license()));
    assert_eq!(
        state(&last, LICENSED),
        (Some(false), Reason::LicenseNotInstalled)
    );
    for _ in 0..2 {
        last = plan(
            &spec,
            &then(last, observation(Some(1), DatabaseView::CannotRead)),
        );
        assert_eq!(
            state(&last, LICENSED),
            (Some(false), Reason::LicenseNotInstalled)
        );
        let message = &condition(&last.report, LICENSED).message;
        assert!(message.contains("monitorSecretRef"), "{message}");
        assert_eq!(last.report.target_replicas, Some(1));
    }
}

#[test]
fn foreign_active_replicas_hold_the_first_one_and_then_let_it_go() {
    for (current, wanted, held) in [
        (None, 1, true),
        (None, 3, true),
        (Some(0), 1, true),
        (None, 0, false),
    ] {
        let seen = with_facts(observation(current, changed(|_| {})), |facts| {
            heartbeats(facts).extend([heartbeat(8, 5), heartbeat(9, 30)]);
        });
        let plan = plan(&json!({"replicas": wanted}), &seen);
        let (status, reason) = state(&plan, DATABASE);
        assert_eq!(
            reason == Reason::DatabaseInUse,
            held,
            "{current:?} {wanted}"
        );
        if held {
            // Where there was a replica before, it may be the one that has just ended.
            let expected = current.is_none().then_some(false);
            assert_eq!((status, size(&plan)), (expected, None));
            let message = &condition(&plan.report, DATABASE).message;
            assert!(message.starts_with("2 replicas that do not"), "{message}");
            assert_eq!(
                state(&plan, ConditionType::Ready).1,
                Reason::HeldBackByDatabase
            );
        }
    }
    for (seconds, expected) in [(60, None), (61, Some(false))] {
        let mut lasting = with_facts(observation(Some(0), changed(|_| {})), |facts| {
            heartbeats(facts).push(heartbeat(9, 5));
        });
        let since = after(secs(-seconds));
        lasting.unmatched_since.insert(crate::testing::id(9), since);
        assert_eq!(state(&plan(&json!({}), &lasting), DATABASE).0, expected);
    }
    let silent = with_facts(observation(None, changed(|_| {})), |facts| {
        heartbeats(facts).push(heartbeat(9, 31));
    });
    assert_eq!(size(&plan(&json!({}), &silent)), Some(3));
}

#[test]
fn a_heartbeat_that_grew_old_without_a_reading_holds_the_first_replica() {
    let size_after = |read: u64, age: u64| {
        let mut seen = with_facts(observation(None, changed(|_| {})), |facts| {
            heartbeats(facts).push(heartbeat(9, age));
        });
        seen.last_facts.as_mut().unwrap().0 = Duration::from_secs(read);
        size(&plan(&json!({}), &seen))
    };
    // Read 25 seconds ago, when it was 10 seconds old: its sender may have sent others since.
    assert_eq!(size_after(25, 35), None);
    assert_eq!(size_after(4, 35), Some(3), "it was stale already");
    assert_eq!(size_after(0, 35), Some(3));
}

#[test]
fn nothing_is_scaled_up_beside_foreign_replicas() {
    let mut seen = with_facts(healthy(1, stored(&json!({}))), |facts| {
        heartbeats(facts).push(heartbeat(9, 1));
    });
    assert_eq!(size(&plan(&json!({}), &seen)), Some(3), "it may be our own");
    let long_ago = after(secs(-61));
    seen.unmatched_since.insert(crate::testing::id(9), long_ago);
    let held = plan(&json!({}), &seen);
    assert_eq!(size(&held), Some(1));
    assert_eq!(
        state(&held, ConditionType::Ready),
        (Some(true), Reason::HeldBackByDatabase)
    );
}

/// One replica of a cluster that wants three, with the last heartbeat of a foreign one so many
/// seconds old, on a database that has taken writes for so many.
fn beside_foreign(age: u64, writable: u64) -> Observation {
    with_facts(healthy(1, stored(&json!({}))), |facts| {
        heartbeats(facts).push(heartbeat(9, age));
        facts.writable_for = Duration::from_secs(writable);
    })
}

/// The plan once that heartbeat has been there for long enough.
fn held_by_foreign() -> Plan {
    let mut seen = beside_foreign(1, 3600);
    let long_ago = after(secs(-61));
    seen.unmatched_since.insert(crate::testing::id(9), long_ago);
    let held = plan(&json!({}), &seen);
    assert_eq!(held.report.target_replicas, Some(1));
    held
}

#[test]
fn foreign_replicas_stand_over_an_outage_until_a_reading_shows_that_they_have_ended() {
    let none = json!({});
    let mut last = held_by_foreign();
    for _ in 0..2 {
        last = plan(&none, &then(last, observation(Some(1), outage())));
        assert_eq!(last.report.target_replicas, Some(1));
        assert!(last.report.unmatched.is_none(), "no metric shows them");
    }
    // Their heartbeats are old at first as well, and then none that the operator has seen before.
    for seen in [
        beside_foreign(40, 0),
        beside_foreign(50, 10),
        beside_foreign(1, 11),
        beside_foreign(1, 3600),
    ] {
        last = plan(&none, &then(last, seen));
        assert_eq!(size(&last), Some(1));
        let message = &condition(&last.report, ConditionType::Ready).message;
        assert!(message.contains("do not belong to this"), "{message}");
    }
    assert_eq!(
        state(&last, ConditionType::ReplicasHealthy).1,
        Reason::ForeignReplica
    );
    let ended = plan(&none, &then(last, beside_foreign(31, 3600)));
    assert_eq!(size(&ended), Some(3));
    let database = ended.report.database.as_ref();
    assert!(database.is_some_and(|database| !database.foreign_replicas));
    let replaced = with_facts(healthy(1, stored(&json!({}))), |facts| {
        heartbeats(facts).push(heartbeat(8, 1));
    });
    let again = plan(&none, &then(ended, replaced));
    assert_eq!(size(&again), Some(3), "it may be its own again");
}

#[test]
fn foreign_replicas_are_remembered_while_the_spec_cannot_be_used() {
    let none = json!({});
    for spec in [
        json!({"externalURL": "nonsense"}),
        json!({"database": {"urlSecretRef": {"name": "absent", "key": "PG_URL"}}}),
    ] {
        for view in [DatabaseView::NotProbed, outage()] {
            let blocked = then(held_by_foreign(), observation(Some(1), view));
            let blocked = plan(&spec, &blocked);
            assert_ne!(
                state(&blocked, ConditionType::ReplicasHealthy).1,
                Reason::ForeignReplica
            );
            let again = plan(&none, &then(blocked, beside_foreign(1, 0)));
            assert_eq!(size(&again), Some(1), "{spec}");
        }
        // An earlier probe goes on, and shows what becomes of them.
        let blocked = plan(&spec, &then(held_by_foreign(), beside_foreign(31, 3600)));
        let again = plan(&none, &then(blocked, beside_foreign(1, 0)));
        assert_eq!(size(&again), Some(3), "{spec}");
    }
}

#[test]
fn foreign_replicas_stand_where_heartbeats_can_no_longer_be_read() {
    let warned = json!({"license": {"enforcement": "Warn"}});
    let unreadable = || observation(Some(1), DatabaseView::CannotRead);
    assert_eq!(size(&plan(&warned, &unreadable())), Some(3));
    let mut last = held_by_foreign();
    for _ in 0..2 {
        last = plan(&warned, &then(last, unreadable()));
        assert_eq!(size(&last), Some(1));
    }
}

// === The license gate ===

fn remembered_license(left: SignedDuration) -> Remembered {
    Remembered {
        license: Some(LicenseStatus {
            ha: true,
            expiration_time: Some(Time(after(left))),
            ..LicenseStatus::default()
        }),
        ..Remembered::default()
    }
}

#[test]
fn the_end_of_a_license_counts_while_the_database_cannot_be_read() {
    for (left, expected, reason) in [
        (days(2), 3, Reason::LicenseUnknown),
        (secs(736), 3, Reason::LicenseUnknown),
        (secs(735), 1, Reason::LicenseExpiring),
        (secs(0), 1, Reason::LicenseExpired),
    ] {
        let mut seen = observation(Some(3), outage());
        seen.remembered = remembered_license(left);
        let kept = seen.remembered.license.clone();
        let plan = plan(&json!({}), &seen);
        assert_eq!(plan.report.target_replicas, Some(expected), "{left:?}");
        assert_eq!(state(&plan, LICENSED).1, reason, "{left:?}");
        assert_eq!(plan.report.license, kept, "the alert goes on");
        if expected == 3 {
            assert_eq!(plan.requeue_at, Some(after(left - secs(735))));
        }
    }
    // A moment after the start of the operator nothing is decided on it.
    let mut seen = observation(Some(3), DatabaseView::NotProbed);
    seen.remembered = remembered_license(secs(0));
    assert_eq!(size(&plan(&json!({}), &seen)), None);
}

#[test]
fn a_standby_says_nothing_of_the_license_and_its_remembered_end_counts() {
    for (left, expected, reason) in [
        (days(2), 3, Reason::LicenseUnknown),
        (secs(735), 1, Reason::LicenseExpiring),
    ] {
        let mut seen = with_facts(healthy(3, no_license()), |facts| {
            facts.in_recovery = true;
            facts.license = Fact::Unknown;
        });
        seen.remembered = remembered_license(left);
        let plan = plan(&json!({}), &seen);
        assert_eq!(plan.report.target_replicas, Some(expected), "{left:?}");
        let licensed = condition(&plan.report, LICENSED);
        assert_eq!(licensed.reason, reason, "{left:?}");
        let message = &licensed.message;
        assert!(message.contains("a standby answers"), "{message}");
    }
}

/// What can be stored that allows one replica only, with the reason.
fn without_ha() -> Vec<(StoredLicense, Reason)> {
    vec![
        (no_license(), Reason::LicenseMissing),
        (StoredLicense::NoWorkspace, Reason::AwaitingFirstSignUp),
        (stored(&json!({"ha": false})), Reason::LicenseWithoutHa),
        (
            stored(&json!({"nbf": after(days(1)).as_second()})),
            Reason::LicenseNotYetValid,
        ),
    ]
}

#[test]
fn that_no_license_allows_several_replicas_counts_while_the_database_cannot_be_read() {
    let invalid = json!({"externalURL": "nonsense"});
    for (license, reason) in without_ha() {
        let read = healthy(3, license);
        let mut lost = observation(Some(3), outage());
        // This process has read it; then a new one that knows nothing but the status.
        lost.last_facts = read.last_facts.clone();
        let after_restart = then(plan(&json!({}), &read), observation(Some(3), outage()));
        let mut statuses = Vec::new();
        for seen in [&lost, &after_restart] {
            let plan = plan(&json!({}), seen);
            assert_eq!(plan.report.target_replicas, Some(1), "{reason}");
            assert_eq!(state(&plan, LICENSED), (Some(false), reason));
            let condition = condition(&plan.report, LICENSED);
            statuses.push((condition.message.clone(), plan.report.license.clone()));
            assert!(super::plan(&invalid, seen).resize.is_some(), "{reason}");
        }
        assert_eq!(statuses[0], statuses[1], "a restart changes nothing");
        // It stands over any number of reconciles, and a good reading takes it back.
        let again = then(
            plan(&json!({}), &after_restart),
            observation(Some(3), outage()),
        );
        assert_eq!(state(&plan(&json!({}), &again), LICENSED).1, reason);
        let good = then(plan(&json!({}), &again), healthy(3, stored(&json!({}))));
        assert_eq!(size(&plan(&json!({}), &good)), Some(3), "{reason}");
    }
}

/// A reading that no longer understands the license, in a process that understood it before.
fn no_longer_understood(running: i32, license: Fact<StoredLicense>) -> Observation {
    let mut seen = with_facts(healthy(running, no_license()), |facts| {
        facts.license = Fact::Unknown;
        facts.not_understood = vec!["setting"];
    });
    seen.last_facts.as_mut().unwrap().1.license = license;
    seen
}

#[test]
fn the_gate_rests_on_the_license_that_was_last_understood() {
    let ends = |left: SignedDuration| stored(&json!({"exp": after(left).as_second()}));
    for (license, expected, reason) in [
        (no_license(), 1, Reason::LicenseMissing),
        (stored(&json!({"ha": false})), 1, Reason::LicenseWithoutHa),
        (ends(secs(0)), 1, Reason::LicenseExpired),
        (ends(secs(735)), 1, Reason::LicenseExpiring),
        (ends(secs(736)), 3, Reason::LicenseUnknown),
    ] {
        let seen = no_longer_understood(3, Fact::Known(license.clone()));
        let first = plan(&json!({}), &seen);
        assert_eq!(first.report.target_replicas, Some(expected), "{reason}");
        assert_eq!(state(&first, LICENSED).1, reason);
        let message = condition(&first.report, LICENSED).message.clone();
        assert!(message.contains("setting"), "{message}");
        // A process that never understood it knows as much from the status.
        let restarted = no_longer_understood(3, Fact::Unknown);
        let second = plan(&json!({}), &then(first, restarted));
        assert_eq!(second.report.target_replicas, Some(expected), "{reason}");
        assert_eq!(state(&second, LICENSED).1, reason);
        assert_eq!(condition(&second.report, LICENSED).message, message);
    }
}

/// A stored license of a form that this operator does not know.
fn of_another_form() -> StoredLicense {
    StoredLicense::Present {
        workspace_id: crate::testing::WORKSPACE.to_owned(),
        token: "of.another.form".into(),
    }
}

#[test]
fn the_end_of_a_license_that_is_no_longer_the_stored_one_does_not_count() {
    let ends = json!({"exp": after(secs(800)).as_second()});
    let before = plan(&json!({}), &healthy(3, stored(&ends)));
    assert_eq!(state(&before, LICENSED).0, Some(true));
    let mut renewed = then(before, healthy(3, of_another_form()));
    renewed.now = after(secs(900));
    let renewed = plan(&json!({}), &renewed);
    assert_eq!(state(&renewed, LICENSED), (None, Reason::LicenseInvalid));
    assert_eq!(renewed.report.target_replicas, Some(3));
    assert_eq!(renewed.report.license, None);
    let mut lost = then(renewed, observation(Some(3), outage()));
    lost.now = after(secs(1000));
    let lost = plan(&json!({}), &lost);
    assert_eq!(state(&lost, LICENSED), (None, Reason::LicenseUnknown));
    assert_eq!(lost.report.target_replicas, Some(3));
}

#[test]
fn a_license_that_is_not_understood_opens_no_gate_that_was_closed() {
    let ends = |left: SignedDuration| stored(&json!({"exp": after(left).as_second()}));
    for (license, reason) in [
        (no_license(), Reason::LicenseInvalid),
        (StoredLicense::NoWorkspace, Reason::LicenseInvalid),
        (ends(secs(-1)), Reason::LicenseInvalid),
        // What has to go has the time that it was given.
        (ends(secs(735)), Reason::LicenseExpiring),
    ] {
        let mut last = plan(&json!({}), &healthy(3, license));
        let since = last.report.unlicensed_since;
        for _ in 0..2 {
            let mut seen = then(last, healthy(3, of_another_form()));
            last = plan(&json!({}), &seen);
            assert_eq!(state(&last, LICENSED), (Some(false), reason));
            assert_eq!(last.report.target_replicas, Some(1), "{reason}");
            assert_eq!(last.report.unlicensed_since, since, "{reason}");
            let message = &condition(&last.report, LICENSED).message;
            let why = match reason {
                Reason::LicenseExpiring => "since the license before was about to end",
                _ => "since nothing that was stored before allowed more",
            };
            assert!(message.contains(why), "{message}");
            // In an outage by what this process has read.
            seen.database = outage();
            let unread = plan(&json!({}), &seen);
            assert_eq!(state(&unread, LICENSED), (Some(false), reason));
        }
        let good = then(last, healthy(3, stored(&json!({}))));
        assert_eq!(size(&plan(&json!({}), &good)), Some(3), "{reason}");
    }
}

#[test]
fn what_an_earlier_login_read_counts_where_the_operator_can_no_longer_log_in() {
    for (left, expected, reason) in [
        (secs(736), 3, Reason::LicenseUnknown),
        (secs(735), 1, Reason::LicenseExpiring),
        (secs(0), 1, Reason::LicenseExpired),
    ] {
        let mut seen = observation(Some(3), DatabaseView::CannotRead);
        seen.remembered = remembered_license(left);
        let kept = seen.remembered.license.clone();
        let read = plan(&json!({}), &seen);
        assert_eq!(read.report.target_replicas, Some(expected), "{left:?}");
        assert_eq!(state(&read, LICENSED).1, reason);
        assert_eq!(read.report.license, kept);
    }
    // A license that stood in counts on as well, until its end, when the spec can no longer be
    // used.
    let spec = json!({"license": {"secretRef": {"name": "license", "key": "token"}}});
    let stands_in = plan(&spec, &observation(Some(3), DatabaseView::CannotRead));
    assert_eq!(state(&stands_in, LICENSED).1, Reason::SecretLicenseAllowsHa);
    let mut later = then(stands_in, observation(Some(3), DatabaseView::CannotRead));
    let invalid = json!({"externalURL": "nonsense"});
    assert_eq!(plan(&invalid, &later).resize, None);
    later.now = after(days(365));
    let closed = plan(&invalid, &later);
    assert!(closed.resize.is_some() && closed.report.license.is_some());
    for (license, reason) in without_ha() {
        let read = plan(&json!({}), &healthy(3, license));
        let seen = then(read, observation(Some(3), DatabaseView::CannotRead));
        let plan = plan(&json!({}), &seen);
        assert_eq!(plan.report.target_replicas, Some(1), "{reason}");
        assert_eq!(state(&plan, LICENSED), (Some(false), reason));
    }
}

#[test]
fn a_license_that_stood_in_counts_no_longer_than_the_spec_names_it() {
    let cannot_read = |size| observation(Some(size), DatabaseView::CannotRead);
    let spec = json!({"license": {"secretRef": {"name": "license", "key": "token"}}});
    let settings = settings();
    let text = token(&json!({"ha": false}));
    let refused = with_secret(&spec, &text, &cannot_read(1), &settings);
    assert_eq!(state(&refused, LICENSED).1, Reason::LicenseWithoutHa);
    let without = plan(&json!({}), &then(refused, cannot_read(1)));
    assert_eq!(state(&without, LICENSED), (None, Reason::LicenseUnknown));
    let allowed = plan(&spec, &cannot_read(3));
    assert_eq!(state(&allowed, LICENSED).1, Reason::SecretLicenseAllowsHa);
    let without = plan(&json!({}), &then(allowed, cannot_read(3)));
    assert_eq!(state(&without, LICENSED), (None, Reason::LicenseUnknown));
    assert!(without.report.license.is_none() && without.resize.is_none());
    // What was read stands, also beside a license that the Secret named then.
    let read = with_secret(&spec, &text, &healthy(1, no_license()), &settings);
    assert_eq!(state(&read, LICENSED).1, Reason::LicenseWithoutHa);
    let mut before = read;
    for _ in 0..2 {
        before = plan(&json!({}), &then(before, cannot_read(1)));
        assert_eq!(
            state(&before, LICENSED),
            (Some(false), Reason::LicenseWithoutHa)
        );
    }
}

#[test]
fn a_replica_that_could_send_no_heartbeat_in_an_outage_still_holds_the_first_one_back() {
    let seen = |age, writable_for| {
        let facts = changed(|facts| {
            facts.heartbeats = Fact::Known(vec![heartbeat(7, age)]);
            facts.writable_for = Duration::from_secs(writable_for);
        });
        Observation {
            pods: Vec::new(),
            stateful_set: None,
            ..observation(None, facts)
        }
    };
    let minimal = json!({});
    let occupied = plan(&minimal, &seen(3, 600));
    assert_eq!(
        state(&occupied, DATABASE),
        (Some(false), Reason::DatabaseInUse)
    );
    // After the outage its last heartbeat is old, and the next one is on its way.
    let mut before = occupied;
    for writable_for in [0, 10, 44] {
        before = plan(
            &minimal,
            &then(before, seen(31 + writable_for, writable_for)),
        );
        assert_eq!(state(&before, DATABASE), (None, Reason::DatabaseInUse));
        assert_eq!(size(&before), None);
    }
    let still_there = plan(&minimal, &then(before.clone(), seen(3, 8)));
    assert_eq!(
        state(&still_there, DATABASE),
        (Some(false), Reason::DatabaseInUse)
    );
    let gone = plan(&minimal, &then(before, seen(76, 45)));
    assert_eq!(state(&gone, DATABASE).0, Some(true));
    assert!(size(&gone).is_some());
    // No replica has ever been there.
    let mut new = seen(0, 0);
    if let DatabaseView::Probed(Ok(facts)) = &mut new.database {
        facts.heartbeats = Fact::Known(Vec::new());
    }
    assert!(size(&plan(&minimal, &new)).is_some());
}

#[test]
fn people_stay_let_in_once_a_workspace_was_seen() {
    let spec = json!({
        "admin": {"credentialsSecretRef": {"name": "admin"}, "createFirst": true},
    });
    let exposes = |seen: &Observation| {
        let mut objects = plan(&spec, seen).objects.into_iter();
        objects.any(|object| object.kind == Kind::Ingress)
    };
    let known = |license| {
        let mut seen = no_longer_understood(1, license);
        seen.ingress_has_address = None;
        seen
    };
    assert!(!exposes(&known(Fact::Known(StoredLicense::NoWorkspace))));
    assert!(!exposes(&known(Fact::Unknown)));
    assert!(exposes(&known(Fact::Known(no_license()))));
    let mut remembered = known(Fact::Unknown);
    remembered.remembered.unlicensed = Some(Reason::LicenseMissing);
    assert!(exposes(&remembered));
    // What stands already stays, which is said.
    let mut stands = known(Fact::Unknown);
    (stands.ingress_has_address, stands.last_facts) = (Some(true), None);
    stands.database = DatabaseView::CannotRead;
    assert!(exposes(&stands));
    let reported = plan(&spec, &stands).report;
    let message = &condition(&reported, ConditionType::Exposed).message;
    assert!(message.contains("does not hold it back"), "{message}");
    // What is said of a Bytebase in which no one has signed up as well, to an operator that has
    // just started.
    remembered.database = DatabaseView::NotProbed;
    remembered.last_facts = None;
    assert!(exposes(&remembered));
    for reason in [
        Reason::AwaitingFirstSignUp,
        Reason::LicenseInstallFailed,
        Reason::LicenseNotEnforced,
        Reason::LicenseNotInstalled,
    ] {
        remembered.remembered.unlicensed = Some(reason);
        assert!(!exposes(&remembered), "{reason:?}");
    }
}

#[test]
fn the_gate_acts_while_the_spec_is_invalid_and_on_nothing_else() {
    let invalid = json!({"externalURL": "nonsense"});
    let ended = || healthy(3, stored(&json!({"exp": after(secs(-1)).as_second()})));
    let down = plan(&invalid, &ended());
    assert_eq!(
        down.resize,
        Some(Size {
            start: 0,
            replicas: 1
        })
    );
    assert!(down.objects.is_empty() && down.eviction.is_none());
    assert_eq!(
        state(&down, LICENSED),
        (Some(false), Reason::LicenseExpired)
    );
    assert!(down.report.license.is_some());

    let mut unread = observation(Some(3), outage());
    unread.remembered = remembered_license(secs(0));
    assert!(plan(&invalid, &unread).resize.is_some());

    for (spec, seen) in [
        (json!({"paused": true}), ended()),
        (json!({"license": {"enforcement": "Warn"}}), ended()),
        (json!({}), healthy(3, stored(&json!({})))),
        (json!({}), observation(Some(3), outage())),
        (json!({}), healthy(1, no_license())),
    ] {
        let mut spec = spec;
        spec["externalURL"] = json!("nonsense");
        assert_eq!(plan(&spec, &seen).resize, None, "{spec}");
    }
}

#[test]
fn what_still_runs_is_not_said_to_be_gone() {
    let message = |seen: &Observation| {
        let plan = plan(&json!({}), seen);
        condition(&plan.report, ConditionType::Ready)
            .message
            .clone()
    };
    let closing = message(&healthy(3, no_license()));
    assert!(
        closing.starts_with("3 replicas run, 3 are wanted"),
        "{closing}"
    );
    let closed = message(&healthy(1, no_license()));
    assert!(
        closed.starts_with("1 of 3 wanted replicas runs: "),
        "{closed}"
    );
}

#[test]
fn a_paused_cluster_without_a_license_is_warned_loudly() {
    let plan = plan(&json!({"paused": true}), &healthy(3, no_license()));
    let message = &condition(&plan.report, LICENSED).message;
    assert!(message.contains("3 replicas run all the same"), "{message}");
    assert!(plan.objects.is_empty());
}

/// Ordinals of the StatefulSet that a plan writes.
fn ordinals(plan: &Plan) -> Option<(i64, i64)> {
    let mut objects = plan.objects.iter();
    let set = objects.find(|object| object.kind == Kind::StatefulSet)?;
    let spec = &set.value["spec"];
    let start = spec["ordinals"]["start"].as_i64().unwrap_or(0);
    Some((start, spec["replicas"].as_i64()?))
}

/// The license ends soon.
fn closing() -> Observation {
    let ends = json!({"exp": after(secs(60)).as_second()});
    healthy(3, stored(&ends))
}

/// It has ended, or there is none.
fn ended() -> [Observation; 4] {
    let expired = json!({"exp": after(secs(-1)).as_second()});
    let without = json!({"ha": false});
    let stored = [no_license(), stored(&expired), stored(&without)];
    let [none, expired, without] = stored.map(|license| healthy(3, license));
    let mut unread = expired.clone();
    let facts = unread.facts().cloned();
    unread.last_facts = facts.map(|facts| (Duration::from_secs(9), facts));
    unread.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    [none, expired, without, unread]
}

#[test]
fn a_license_that_has_ended_leaves_one_replica_at_once() {
    let resized = |seen: &Observation| {
        let invalid = plan(&json!({"externalURL": "nonsense"}), seen);
        let resized = invalid.resize.map(|size| (size.start, size.replicas));
        let valid = ordinals(&plan(&json!({}), seen));
        assert_eq!(
            valid,
            resized.map(|(start, size)| (start.into(), size.into()))
        );
        valid
    };
    for mut seen in ended() {
        assert_eq!(resized(&seen), Some((0, 1)));
        // Whoever serves, or may, is kept.
        seen.pods[0].ready = false;
        assert_eq!(resized(&seen), Some((1, 1)));
        // Nor is one waited for that ends already.
        seen.pods[2].deleting = true;
        seen.pods[2].ends_by = Some(after(secs(3000)));
        assert_eq!(resized(&seen), Some((1, 1)));
        // The size that was written is not changed again before it is there.
        seen.stateful_set.as_mut().unwrap().settled = false;
        let plan = plan(&json!({"externalURL": "nonsense"}), &seen);
        assert_eq!(plan.resize, None);
    }
    // The one that runs the most tasks is kept: the others have minutes for theirs.
    let [seen, ..] = ended();
    let [one, two] = [1, 2].map(|ordinal: usize| RunningTasks {
        replica_id: seen.pods[ordinal].replica_id.unwrap(),
        count: ordinal as u64,
    });
    let seen = with_facts(seen, |facts| {
        facts.running_tasks = Fact::Known(vec![one, two]);
    });
    assert_eq!(resized(&seen), Some((2, 1)));
}

#[test]
fn the_gate_counts_with_the_grace_of_the_pods_that_run() {
    let ends = json!({"exp": after(secs(3000)).as_second()});
    let mut seen = healthy(3, stored(&ends));
    assert_eq!(state(&plan(&json!({}), &seen), LICENSED).0, Some(true));
    // The template was given a shorter drain a moment ago, and no pod was replaced yet.
    seen.pods[1].grace = Some(secs(3600));
    let plan = plan(&json!({}), &seen);
    assert_eq!(
        state(&plan, LICENSED),
        (Some(false), Reason::LicenseExpiring)
    );
}

#[test]
fn the_gate_goes_past_a_pod_that_cannot_end() {
    type Change = fn(&mut Observation);
    let orderly: (Change, (i64, i64)) = (
        |seen| {
            seen.pods[2].deleting = true;
            seen.pods[2].ends_by = Some(after(secs(30)));
        },
        (0, 2),
    );
    let overdue: (Change, (i64, i64)) = (
        |seen| {
            seen.pods[2].deleting = true;
            seen.pods[2].ends_by = Some(after(secs(-11)));
        },
        (0, 1),
    );
    for (change, expected) in [orderly, overdue] {
        let mut seen = closing();
        seen.stateful_set.as_mut().unwrap().replicas = 2;
        change(&mut seen);
        assert_eq!(ordinals(&plan(&json!({}), &seen)), Some(expected));
        // A scale-down that nothing hurries waits for it.
        let mut calm = healthy(3, stored(&json!({})));
        calm.stateful_set.as_mut().unwrap().replicas = 2;
        change(&mut calm);
        let calm = plan(&json!({"replicas": 1}), &calm);
        assert_eq!(ordinals(&calm), Some((0, 2)));
    }
    let mut seen = closing();
    seen.stateful_set.as_mut().unwrap().replicas = 2;
    seen.pods[2].deleting = true;
    seen.pods[2].ends_by = Some(after(secs(30)));
    assert_eq!(plan(&json!({}), &seen).requeue_at, Some(after(secs(41))));
}

#[test]
fn going_down_keeps_the_one_that_serves() {
    // -0 is broken, -1 and -2 serve: -2 goes, then -0.
    let mut seen = closing();
    seen.pods[0].ready = false;
    assert_eq!(ordinals(&plan(&json!({}), &seen)), Some((0, 2)));
    seen.pods.truncate(2);
    seen.stateful_set.as_mut().unwrap().replicas = 2;
    assert_eq!(ordinals(&plan(&json!({}), &seen)), Some((1, 1)));
    // With a license again the range grows around it.
    let mut grown = with_facts(healthy(3, stored(&json!({}))), |_| {});
    grown.pods.retain(|pod| pod.ordinal == 1);
    let set = grown.stateful_set.as_mut().unwrap();
    (set.start, set.replicas) = (1, 1);
    assert_eq!(ordinals(&plan(&json!({}), &grown)), Some((0, 3)));
}

#[test]
fn going_down_keeps_one_that_may_serve_while_heartbeats_are_unknown() {
    // -0 is broken, and the database cannot be read: its license was read before, or its table of
    // heartbeats is not understood.
    let unread: fn(&mut Observation) = |seen| {
        let facts = seen.facts().cloned();
        seen.last_facts = facts.map(|facts| (Duration::from_secs(9), facts));
        seen.database = failure(FailureClass::Unknown, FailureReason::Unreachable);
    };
    let renamed: fn(&mut Observation) = |seen| {
        *seen = with_facts(seen.clone(), |facts| facts.heartbeats = Fact::Unknown);
    };
    for (size, next) in [(3, (0, 2)), (2, (1, 1))] {
        for unknown in [unread, renamed] {
            let mut seen = closing();
            unknown(&mut seen);
            seen.pods.truncate(size);
            seen.pods[0].ready = false;
            seen.stateful_set.as_mut().unwrap().replicas = i32::try_from(size).unwrap();
            let valid = plan(&json!({}), &seen);
            assert_eq!(ordinals(&valid), Some(next));
            let invalid = plan(&json!({"externalURL": "nonsense"}), &seen);
            let resized = invalid
                .resize
                .map(|size| (size.start.into(), size.replicas.into()));
            assert_eq!(resized, Some(next));
        }
    }
}

// === Known, absent, unknown ===

#[test]
fn what_is_not_understood_keeps_the_cluster_as_it_is() {
    type Change = fn(&mut DatabaseFacts);
    let changes: [Change; 3] = [
        |facts| facts.license = Fact::Unknown,
        |facts| facts.heartbeats = Fact::Unknown,
        |facts| facts.running_tasks = Fact::Unknown,
    ];
    for change in changes {
        for running in [1, 3] {
            let seen = with_facts(healthy(running, stored(&json!({}))), |facts| {
                change(facts);
                facts.not_understood = vec!["the_table"];
            });
            let plan = plan(&json!({}), &seen);
            assert_eq!(size(&plan), Some(i64::from(running)));
            assert_eq!(
                state(&plan, DATABASE),
                (None, Reason::DatabaseSchemaUnknown)
            );
            let message = &condition(&plan.report, DATABASE).message;
            assert!(message.contains("the_table"), "{message}");
        }
    }
    let first = with_facts(observation(None, changed(|_| {})), |facts| {
        facts.heartbeats = Fact::Unknown;
        facts.not_understood = vec!["replica_heartbeat"];
    });
    assert_eq!(size(&plan(&json!({}), &first)), None);
}

#[test]
fn a_pod_whose_work_is_unknown_is_not_taken_for_idle() {
    let mut seen = with_facts(healthy(3, stored(&json!({}))), |_| {});
    for pod in &mut seen.pods {
        pod.revision = Some(crate::testing::OLD.to_owned());
    }
    // The highest would go, but what it runs is unknown.
    seen.pods[2].replica_id = None;
    let seen = with_facts(seen, |facts| {
        facts.sessions = Some(Sessions {
            listeners: Some(vec![ListenSession {
                application_name: "demo-2".to_owned(),
                client_address: None,
            }]),
            ..Sessions::default()
        });
    });
    let plan = plan(&json!({}), &seen);
    assert_eq!(
        plan.eviction.map(|eviction| eviction.pod).as_deref(),
        Some("demo-1")
    );
}

#[test]
fn a_frozen_replica_is_not_active_by_its_session() {
    use HeartbeatState::{Fresh, Missing, Unknown};
    let listening = |pods: &[i32], active: &[i32]| {
        let mut seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
            *heartbeats(facts) = active
                .iter()
                .map(|ordinal| heartbeat(*ordinal, 1))
                .collect();
            let sessions = pods.iter().map(|ordinal| ListenSession {
                application_name: format!("demo-{ordinal}"),
                client_address: None,
            });
            facts.sessions = Some(Sessions {
                listeners: Some(sessions.collect()),
                ..Sessions::default()
            });
        });
        for pod in &mut seen.pods {
            pod.replica_id = None;
        }
        let plan = plan(&json!({}), &seen);
        let statuses = plan.report.replica_statuses.into_iter();
        statuses
            .map(|replica| replica.heartbeat)
            .collect::<Vec<_>>()
    };
    assert_eq!(listening(&[0, 1, 2], &[0, 1, 2]), [Fresh; 3]);
    assert_eq!(listening(&[0, 1], &[0, 1]), [Fresh, Fresh, Missing]);
    assert_eq!(
        listening(&[0, 1, 2], &[0, 1]),
        [Unknown; 3],
        "one of them is frozen, and no one can say which"
    );
}

#[test]
fn a_replica_on_a_silent_node_is_not_foreign_because_its_id_is_unknown() {
    let mut seen = healthy(3, stored(&json!({})));
    seen.pods[2].replica_id = None;
    seen.pods[2].ready = false;
    seen.unmatched_since
        .insert(crate::testing::id(2), after(secs(-90)));
    let foreign = |seen: &Observation| {
        let plan = plan(&json!({}), seen);
        state(&plan, ConditionType::ReplicasHealthy).1 == Reason::ForeignReplica
    };
    assert!(foreign(&seen));
    seen.pods[2].trouble = Some(crate::observation::PodTrouble::NodeSilent(
        "node-2 no longer reports".to_owned(),
    ));
    assert!(!foreign(&seen));
}

// === During an outage ===

#[test]
fn a_lone_replica_is_not_ended_while_it_could_not_start_again() {
    let outdated = |database| {
        let mut seen = observation(Some(1), database);
        seen.pods[0].revision = Some(crate::testing::OLD.to_owned());
        seen
    };
    let one = json!({"replicas": 1});
    let before = plan(
        &one,
        &outdated(changed(|facts| heartbeats(facts).push(heartbeat(0, 1)))),
    );
    assert!(before.eviction.is_some());
    let during = plan(&one, &then(before, outdated(outage())));
    assert!(during.eviction.is_none());
    let message = &condition(&during.report, ConditionType::RolloutComplete).message;
    assert!(message.contains("readable again"), "{message}");
}

#[test]
fn a_downgrade_is_refused_while_the_schema_cannot_be_read() {
    let mut seen = observation(Some(3), outage());
    seen.remembered.schema_version = Some(Version::new(3, 21, 5));
    let older = json!({"version": "3.20.0"});
    let refused = |seen: &Observation| {
        state(&plan(&older, seen), ConditionType::RolloutComplete).1 == Reason::DowngradeRefused
    };
    assert!(refused(&seen));
    // A database that was emptied while no replica ran has no schema any more.
    let emptied = |replicas| {
        let mut emptied = healthy(replicas, stored(&json!({})));
        emptied.remembered = seen.remembered.clone();
        with_facts(emptied, |facts| facts.schema = SchemaState::Empty)
    };
    assert!(!refused(&emptied(0)));
    assert!(refused(&emptied(3)));
}

#[test]
fn a_service_from_outside_waits_for_the_first_admin_too() {
    let spec = |type_: &str| {
        json!({
            "admin": {"credentialsSecretRef": {"name": "admin"}, "createFirst": true},
            "service": {"type": type_}, "ingress": {"enabled": false},
        })
    };
    let service_type = |plan: &Plan| {
        let mut objects = plan.objects.iter();
        let service = objects.find(|object| object.name == "demo" && object.kind == Kind::Service);
        service.unwrap().value["spec"]["type"].clone()
    };
    for type_ in ["LoadBalancer", "NodePort"] {
        let mut seen = healthy(1, StoredLicense::NoWorkspace);
        let held = plan(&spec(type_), &seen);
        assert_eq!(service_type(&held), "ClusterIP");
        assert_eq!(
            state(&held, ConditionType::Exposed),
            (Some(false), Reason::AwaitingFirstAdmin)
        );
        // What lets people in already is not taken away.
        seen.service_way = Some(if type_ == "NodePort" {
            ServiceWay::Nodes
        } else {
            ServiceWay::Balanced { has_address: true }
        });
        let stands = plan(&spec(type_), &seen);
        assert_eq!(service_type(&stands), type_);
        assert_eq!(
            state(&stands, ConditionType::Exposed),
            (Some(true), Reason::ServiceReady)
        );
        let message = &condition(&stands.report, ConditionType::Exposed).message;
        assert!(
            message.contains("whoever does first becomes the admin"),
            "{message}"
        );
        let open = plan(&spec(type_), &healthy(1, stored(&json!({}))));
        assert_eq!(service_type(&open), type_);
    }
    let unseen = plan(
        &spec("NodePort"),
        &observation(Some(1), DatabaseView::CannotRead),
    );
    let message = &condition(&unseen.report, ConditionType::Exposed).message;
    assert!(message.contains("cannot see whether"), "{message}");
    assert!(message.contains("createFirst"), "{message}");
}

// === Histories ===

/// What a reading finds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Found {
    /// A good database with a license that includes HA.
    Good,
    /// A good database without any license.
    Unlicensed,
    /// Another application's tables.
    Foreign,
    /// An active replica of another Bytebase.
    InUse,
}

/// What a database does, and what happens around it.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// It can be read.
    Up(Found),
    /// It is read, and out of reach before any reconcile sees that.
    Glimpse(Found),
    /// It does not answer.
    Down,
    /// Its license ends, in so many seconds.
    LicenseEnds(i64),
    /// A new process of the operator, which has read nothing yet.
    Restart,
    /// The spec cannot be used, or can again.
    Spec(bool),
    /// Time passes.
    Wait(i64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let found = || {
        prop_oneof![
            3 => Just(Found::Good),
            2 => Just(Found::Unlicensed),
            2 => Just(Found::Foreign),
            1 => Just(Found::InUse),
        ]
    };
    // That others use the database is seen in a reading of the moment only.
    let glimpsed = found().prop_filter("of the moment", |found| *found != Found::InUse);
    let event = prop_oneof![
        8 => found().prop_map(Event::Up),
        3 => glimpsed.prop_map(Event::Glimpse),
        4 => Just(Event::Down),
        1 => (0..2000_i64).prop_map(Event::LicenseEnds),
        3 => Just(Event::Restart),
        2 => any::<bool>().prop_map(Event::Spec),
        3 => (1..900_i64).prop_map(Event::Wait),
    ];
    proptest::collection::vec(event, 1..25)
}

/// The license that was read last.
#[derive(Clone, Copy, Debug)]
enum LastLicense {
    NeverRead,
    Absent,
    Ends(i64),
}

/// One cluster, its database, and the two memories of the operator: the process, and the status,
/// which every process shares.
struct History {
    elapsed: i64,
    /// What a reading finds; `None`: the database does not answer.
    database: Option<Found>,
    license_end: i64,
    probed: bool,
    valid: bool,
    last_facts: Option<DatabaseFacts>,
    status: BytebaseClusterStatus,
    replicas: Option<i32>,
    last_reading: Option<Found>,
    last_license: LastLicense,
}

impl History {
    fn new() -> Self {
        Self {
            elapsed: 0,
            database: None,
            license_end: 100_000,
            probed: true,
            valid: true,
            last_facts: None,
            status: BytebaseClusterStatus::default(),
            replicas: None,
            last_reading: None,
            last_license: LastLicense::NeverRead,
        }
    }

    fn facts(&self, found: Found) -> DatabaseFacts {
        let end = after(secs(self.license_end)).as_second();
        let mut facts = facts(self.replicas.unwrap_or(0), stored(&json!({"exp": end})));
        match found {
            Found::Good => {}
            Found::Unlicensed => facts.license = Fact::Known(no_license()),
            Found::Foreign => {
                facts.schema = SchemaState::Foreign {
                    example: "wp_posts".to_owned(),
                };
                facts.license = Fact::Absent;
            }
            Found::InUse => heartbeats(&mut facts).push(heartbeat(40, 3)),
        }
        facts
    }

    /// A reading has ended, in this process.
    fn read(&mut self, found: Found) {
        self.last_facts = Some(self.facts(found));
        self.last_reading = Some(found);
        self.last_license = match found {
            Found::Good | Found::InUse => LastLicense::Ends(self.license_end),
            Found::Unlicensed | Found::Foreign => LastLicense::Absent,
        };
    }

    /// One reconcile. Returns whether it started the first replica.
    fn reconcile(&mut self) -> bool {
        let view = match self.database {
            _ if !self.probed => DatabaseView::NotProbed,
            None => outage(),
            Some(found) => {
                self.read(found);
                DatabaseView::Probed(Ok(self.facts(found)))
            }
        };
        let mut seen = observation(self.replicas, view);
        seen.now = after(secs(self.elapsed));
        seen.last_facts = self.last_facts.clone().map(|facts| (Duration::ZERO, facts));
        for pod in &mut seen.pods {
            pod.revision = Some(crate::testing::NEW.to_owned());
        }
        seen.remembered = remembered(&self.status, Some(ENDPOINT));
        let spec: Value = if self.valid {
            json!({})
        } else {
            json!({"externalURL": "nonsense"})
        };
        let plan = plan(&spec, &seen);
        let before = self.replicas.unwrap_or(0);
        if let Some(size) = plan.resize {
            self.replicas = Some(size.replicas);
        }
        if let Some(size) = size(&plan) {
            self.replicas = i32::try_from(size).ok();
        }
        if !plan.unsettled {
            self.status = report::status(&self.status, plan.report, &[], Some(1), seen.now);
        }
        before == 0 && self.replicas.is_some_and(|replicas| replicas > 0)
    }

    fn step(&mut self, event: Event) -> bool {
        match event {
            Event::Up(found) => self.database = Some(found),
            Event::Glimpse(found) => {
                self.read(found);
                self.database = None;
            }
            Event::Down => self.database = None,
            Event::LicenseEnds(seconds) => self.license_end = self.elapsed + seconds,
            Event::Restart => {
                // Between its start and its first reading.
                self.probed = false;
                self.last_facts = None;
                let started = self.reconcile();
                self.probed = true;
                assert!(!started, "a first replica without any reading");
            }
            Event::Spec(valid) => self.valid = valid,
            Event::Wait(seconds) => self.elapsed += seconds,
        }
        let mut started = false;
        // Each step down takes a reconcile of its own.
        for _ in 0..4 {
            started |= self.reconcile();
        }
        started
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn no_history_starts_a_replica_on_a_refused_database_or_outlives_a_license(events in events()) {
        let mut history = History::new();
        for event in events {
            let started = history.step(event);
            if started {
                prop_assert!(
                    !matches!(history.last_reading, Some(Found::Foreign | Found::InUse)),
                    "started on a refused database"
                );
                prop_assert!(
                    history.last_reading.is_none() || history.database.is_some(),
                    "started on a database that was read before and is out of reach"
                );
            }
            let licensed = match history.last_license {
                LastLicense::NeverRead => true,
                LastLicense::Absent => false,
                LastLicense::Ends(end) => end > history.elapsed,
            };
            let active = history.replicas.unwrap_or(0);
            prop_assert!(active <= 1 || licensed, "{active} replicas without a license");
        }
    }

    #[test]
    fn a_restart_writes_nothing(events in events()) {
        let mut history = History::new();
        for event in events {
            history.step(event);
        }
        // What comes by itself has come.
        for _ in 0..4 {
            history.step(Event::Wait(0));
        }
        let (status, replicas) = (history.status.clone(), history.replicas);
        history.step(Event::Restart);
        prop_assert_eq!(status, history.status);
        prop_assert_eq!(replicas, history.replicas);
    }
}
