//! A changed login to the metadata database is tried before the first replica gets it.

use super::{condition, size, state};
use crate::api::status::{BytebaseClusterStatus, HeartbeatState, LoginState, RolloutWait};
use crate::api::{ConditionType, Reason};
use crate::contract::version::Version;
use crate::decide::plan::Plan;
use crate::decide::{Settings, decide};
use crate::desired::drain::login_sources;
use crate::desired::login;
use crate::desired::template::{Standing, template};
use crate::kubernetes::Kind;
use crate::observation::{
    DatabaseFacts, DatabaseIdentity, DatabaseView, Fact, FailureClass, FailureReason, LoginTrial,
    Observation, PodLogin, PodTrouble, PodView, ProbeFailure, RunningTasks, SchemaState,
};
use crate::observe::remembered::remembered;
use crate::report;
use crate::testing::{
    CA_CERTIFICATE, NEW, OLD, after, cluster, failure, healthy, heartbeat, heartbeats, id, key,
    no_license, observation, references, running, secret, settings, stored, with_facts,
};
use crate::validate::{Validation, validate};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const IMAGE: &str = "operator:1";

/// The minimal cluster with this `PG_URL` in its Secret, changed.
fn wants(url: &str, changes: &Value) -> Validation {
    let mut references = references();
    secret(&mut references, "pg", "PG_URL", url);
    secret(&mut references, "pg2", "PG_URL", url);
    let bundle = format!("# of {url}\n{CA_CERTIFICATE}");
    secret(&mut references, "ca-of-url", "ca.crt", &bundle);
    secret(
        &mut references,
        "monitor",
        "PG_URL",
        "postgres://m:m@db.example.com/bytebase",
    );
    validate(
        &cluster(changes),
        &references,
        Some(&key()),
        after(seconds(0)),
    )
}

const BEFORE: &str = "postgres://bytebase:old@db.example.com/bytebase";
const OTHER_PASSWORD: &str = "postgres://bytebase:new@db.example.com/bytebase";
const OTHER_HOST: &str = "postgres://bytebase:old@new.example.com/bytebase";

fn monitored() -> Value {
    json!({"database": {
        "urlSecretRef": {"name": "pg", "key": "PG_URL"},
        "monitorSecretRef": {"name": "monitor", "key": "PG_URL"},
    }})
}

fn seconds(seconds: i64) -> SignedDuration {
    SignedDuration::from_secs(seconds)
}

/// A cluster over time, seen by a process that remembers nothing but the status.
struct History {
    changes: Value,
    set: crate::observation::StatefulSetView,
    status: BytebaseClusterStatus,
    now: Timestamp,
}

impl History {
    /// Three replicas that were started with [`BEFORE`].
    fn new(changes: &Value) -> Self {
        let valid = wants(BEFORE, changes).cluster.unwrap();
        let written = template(&valid, Some(IMAGE), Standing::default()).unwrap();
        let mut history = Self {
            changes: changes.clone(),
            set: crate::testing::set(3),
            status: BytebaseClusterStatus::default(),
            now: after(seconds(0)),
        };
        history.set.template = written.value;
        history.set.template_digest = written.digest;
        history
    }

    fn read() -> Observation {
        healthy(3, stored(&json!({})))
    }

    fn seen(&self, database: Observation, validation: &Validation) -> Observation {
        let endpoint = validation.database.as_ref();
        let endpoint = endpoint.map(|database| database.replicas.identity_hint());
        Observation {
            now: self.now,
            stateful_set: Some(self.set.clone()),
            remembered: remembered(&self.status, endpoint.as_deref()),
            ..database
        }
    }

    fn step(&mut self, url: &str, database: Observation) -> Plan {
        let validation = wants(url, &self.changes);
        let settings = Settings {
            own_image: Some(IMAGE.to_owned()),
            ..settings()
        };
        let plan = decide(&validation, &self.seen(database, &validation), &settings);
        let report = plan.report.clone();
        self.status = report::status(&self.status, report, &[], Some(1), self.now);
        plan
    }

    fn login(&self) -> Option<LoginState> {
        self.status.database.as_ref().unwrap().login
    }
}

fn outage() -> Observation {
    observation(
        Some(3),
        failure(FailureClass::Unknown, FailureReason::Unreachable),
    )
}

fn refused() -> Observation {
    observation(
        Some(3),
        failure(FailureClass::Definite, FailureReason::AuthenticationFailed),
    )
}

fn writes_template(plan: &Plan) -> bool {
    let kinds = plan.objects.iter().map(|object| object.kind);
    kinds.into_iter().any(|kind| kind == Kind::StatefulSet)
}

fn waits(plan: &Plan) -> Option<RolloutWait> {
    plan.report.rollout.as_ref()?.waiting_for
}

/// No pod is ended, and none that ends would come back with the new login from a new template.
fn is_held(plan: &Plan, by: RolloutWait) {
    assert!(!writes_template(plan));
    is_held_by(plan, by);
}

/// No pod is ended.
fn is_held_by(plan: &Plan, by: RolloutWait) {
    assert_eq!(waits(plan), Some(by));
    assert!(plan.eviction.is_none());
    let (done, _) = state(plan, ConditionType::RolloutComplete);
    assert_eq!(done, Some(false));
}

#[test]
fn a_login_that_the_server_refuses_ends_nothing_until_it_is_accepted() {
    for url in [OTHER_PASSWORD, OTHER_HOST] {
        let mut history = History::new(&json!({}));
        let settled = history.step(BEFORE, History::read());
        assert_eq!(
            state(&settled, ConditionType::RolloutComplete).0,
            Some(true)
        );
        assert_eq!(history.login(), Some(LoginState::Accepted));
        is_held(
            &history.step(url, observation(Some(3), DatabaseView::NotProbed)),
            RolloutWait::Login,
        );
        for _ in 0..2 {
            let held = history.step(url, refused());
            is_held(&held, RolloutWait::Login);
            let message = &held.report.rollout.as_ref().unwrap().message;
            assert!(message.contains("it failed"), "{message}");
            assert_eq!(
                state(&held, ConditionType::Stalled),
                (Some(true), Reason::DatabaseAuthenticationFailed)
            );
        }
        assert_eq!(history.login(), Some(LoginState::Refused));
        // What cannot be read afterwards takes no refusal back.
        is_held(&history.step(url, outage()), RolloutWait::Login);
        is_held(
            &history.step(url, History::read()),
            RolloutWait::SecretInPods,
        );
        history.now = after(seconds(120));
        assert!(writes_template(&history.step(url, History::read())));
    }
}

#[test]
fn a_host_that_cannot_be_reached_ends_nothing_where_the_one_before_could_be() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    for _ in 0..3 {
        let held = history.step(OTHER_HOST, outage());
        is_held(&held, RolloutWait::Login);
        assert_eq!(
            state(&held, ConditionType::DatabaseReady),
            (None, Reason::DatabaseUnreachable)
        );
        assert_eq!(history.login(), Some(LoginState::Accepted));
    }
    // Where none could ever be reached the operator does not know, and holds nothing up.
    let mut blind = History::new(&json!({}));
    blind.step(BEFORE, outage());
    assert_eq!(blind.login(), Some(LoginState::CannotTell));
    blind.step(OTHER_HOST, outage());
    blind.now = after(seconds(120));
    assert!(writes_template(&blind.step(OTHER_HOST, outage())));
}

#[test]
fn a_first_replica_is_not_held_by_what_was_known_of_another_host() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    history.set.replicas = 0;
    let mut stopped = outage();
    stopped.pods.clear();
    history.step(OTHER_HOST, stopped.clone());
    history.now = after(seconds(120));
    let first = history.step(OTHER_HOST, stopped);
    assert!(writes_template(&first));
}

#[test]
fn a_monitored_login_is_tried_once_and_at_each_change() {
    let trial = |class| {
        Some(LoginTrial::Failed(ProbeFailure {
            class,
            reason: FailureReason::AuthenticationFailed,
            message: "it failed".to_owned(),
        }))
    };
    let tried = |trial: &Option<LoginTrial>| {
        with_facts(History::read(), |facts| facts.login.clone_from(trial))
    };
    let accepted = Some(LoginTrial::Accepted);
    let mut history = History::new(&monitored());
    assert!(history.step(BEFORE, tried(&None)).read_options.try_login);
    history.step(BEFORE, tried(&accepted));
    assert_eq!(history.login(), Some(LoginState::Accepted));
    // Not by a process that finds in the status that it could.
    assert!(!history.step(BEFORE, tried(&None)).read_options.try_login);

    let untried = history.step(OTHER_PASSWORD, tried(&None));
    assert!(untried.read_options.try_login);
    is_held(&untried, RolloutWait::Login);
    let cannot_tell = trial(FailureClass::Unknown);
    is_held(
        &history.step(OTHER_PASSWORD, tried(&cannot_tell)),
        RolloutWait::Login,
    );
    assert_eq!(history.login(), Some(LoginState::Accepted));
    let refused = history.step(OTHER_PASSWORD, tried(&trial(FailureClass::Definite)));
    is_held(&refused, RolloutWait::Correction);
    assert_eq!(
        state(&refused, ConditionType::Stalled),
        (Some(true), Reason::RolloutStalled)
    );
    assert!(
        refused.read_options.try_login,
        "or no reconcile learns of the correction"
    );
    is_held(
        &history.step(OTHER_PASSWORD, tried(&accepted)),
        RolloutWait::SecretInPods,
    );

    // Where it could never be tried, what cannot be known holds nothing.
    let mut blind = History::new(&monitored());
    blind.step(BEFORE, tried(&cannot_tell));
    assert_eq!(blind.login(), Some(LoginState::CannotTell));
    is_held(
        &blind.step(OTHER_PASSWORD, tried(&None)),
        RolloutWait::Login,
    );
    is_held(
        &blind.step(OTHER_PASSWORD, tried(&cannot_tell)),
        RolloutWait::SecretInPods,
    );
}

#[test]
fn running_pods_are_given_time_to_learn_a_changed_secret() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    let first = history.step(OTHER_PASSWORD, History::read());
    is_held(&first, RolloutWait::SecretInPods);
    assert_eq!(first.requeue_at, Some(after(seconds(120))));
    history.now = after(seconds(119));
    is_held(
        &history.step(OTHER_PASSWORD, History::read()),
        RolloutWait::SecretInPods,
    );
    // A rollout that was under way for another reason ends no pod either.
    let mut outdated = History::read();
    outdated.pods[1].revision = Some(OLD.to_owned());
    is_held(
        &history.step(OTHER_PASSWORD, outdated.clone()),
        RolloutWait::SecretInPods,
    );
    history.now = after(seconds(120));
    let written = history.step(OTHER_PASSWORD, outdated);
    assert!(writes_template(&written) && written.eviction.is_some());

    // Another host in the spec is in no Secret.
    let parts = |host: &str| {
        json!({"database": {
            "host": host, "name": "bytebase",
            "userSecretRef": {"name": "login", "key": "user"},
            "passwordSecretRef": {"name": "login", "key": "password"},
        }})
    };
    let mut elsewhere = History::new(&parts("db.example.com"));
    elsewhere.changes = parts("new.example.com");
    assert!(writes_template(&elsewhere.step(BEFORE, History::read())));

    // Nor does a replica that works no more have anything to finish.
    let mut late = History::new(&json!({}));
    let dead = with_facts(History::read(), |facts| heartbeats(facts).clear());
    assert!(writes_template(&late.step(OTHER_PASSWORD, dead)));

    // Nothing in a pod without the hook depends on it, and no login changes by another image.
    for (changes, url) in [
        (json!({"rollout": {"drain": "Disabled"}}), OTHER_PASSWORD),
        (json!({}), BEFORE),
    ] {
        let mut other = History::new(&changes);
        other.changes["podLabels"] = json!({"a": "b"});
        assert!(writes_template(&other.step(url, History::read())));
    }
}

#[test]
fn a_scale_down_waits_until_the_pods_know_a_changed_login() {
    for (replicas, next) in [(0, 0), (1, 2)] {
        let mut history = History::new(&json!({}));
        history.step(BEFORE, History::read());
        history.changes["replicas"] = json!(replicas);
        // Whether or not the server has accepted it yet: the old one may work no more.
        for view in [refused(), History::read()] {
            let held = history.step(OTHER_PASSWORD, view);
            assert_eq!(size(&held), None, "{replicas}");
            assert_eq!(held.requeue_at, Some(after(seconds(120))));
        }
        history.now = after(seconds(119));
        assert_eq!(size(&history.step(OTHER_PASSWORD, History::read())), None);
        history.now = after(seconds(120));
        let shrinks = history.step(OTHER_PASSWORD, History::read());
        assert_eq!(size(&shrinks), Some(next));
    }
    // The license gate does not wait.
    let mut gate = History::new(&json!({}));
    gate.step(BEFORE, History::read());
    let unlicensed = gate.step(OTHER_PASSWORD, healthy(3, no_license()));
    assert_eq!(size(&unlicensed), Some(1));
}

#[test]
fn a_scale_down_gives_a_busy_replica_that_is_brought_no_new_login_a_whole_drain() {
    let of =
        |secret: &str| json!({"database": {"urlSecretRef": {"name": secret, "key": "PG_URL"}}});
    let mut history = History::new(&of("pg"));
    let started = history.set.template.clone();
    let mut busy = with_facts(History::read(), |facts| {
        *running(facts) = vec![RunningTasks {
            replica_id: id(2),
            count: 1,
        }];
    });
    for pod in &mut busy.pods {
        pod.login = PodLogin {
            checksum: login(&started).map(|(checksum, _)| checksum.to_owned()),
            url: None,
            sources: login_sources(&started["spec"]["volumes"]),
        };
    }
    history.step(BEFORE, busy.clone());
    history.changes = of("pg2");
    history.changes["replicas"] = json!(1);
    // The template with the new login is written in the same step.
    let waiting = history.step(OTHER_PASSWORD, busy.clone());
    assert_eq!(size(&waiting), Some(3));
    assert_eq!(waits(&waiting), Some(RolloutWait::IdleReplica));
    let message = waiting.report.rollout.unwrap().message;
    assert!(message.contains("another Secret"), "{message}");
    let idle = with_facts(busy, |facts| running(facts).clear());
    assert_eq!(size(&history.step(OTHER_PASSWORD, idle)), Some(2));
}

#[test]
fn running_pods_are_given_time_to_learn_a_changed_ca_also_where_nothing_else_is_in_a_secret() {
    let mut history = History::new(&json!({"database": {
        "url": "postgres://bytebase@db.example.com/bytebase?sslmode=verify-full",
        "caSecretRef": {"name": "ca-of-url", "key": "ca.crt"},
    }}));
    history.step(BEFORE, History::read());
    is_held(
        &history.step(OTHER_PASSWORD, History::read()),
        RolloutWait::SecretInPods,
    );
    history.now = after(seconds(120));
    assert!(writes_template(
        &history.step(OTHER_PASSWORD, History::read())
    ));
}

/// Its hook can log in by what the Secret of its pod holds now, and by nothing in another one.
#[test]
fn a_busy_replica_that_is_brought_no_new_login_has_a_whole_drain_to_become_idle() {
    let of =
        |secret: &str| json!({"database": {"urlSecretRef": {"name": secret, "key": "PG_URL"}}});
    for (secret, url, patience) in [
        ("pg", OTHER_PASSWORD, 60),
        ("pg2", BEFORE, 60),
        ("pg2", OTHER_PASSWORD, 3600),
    ] {
        let started = History::new(&of("pg")).set.template;
        let login = PodLogin {
            checksum: login(&started).map(|(checksum, _)| checksum.to_owned()),
            url: None,
            sources: login_sources(&started["spec"]["volumes"]),
        };
        let mut busy = with_facts(History::read(), |facts| {
            let task = |ordinal| RunningTasks {
                replica_id: id(ordinal),
                count: 1,
            };
            *running(facts) = (0..3).map(task).collect();
        });
        for pod in &mut busy.pods {
            pod.revision = Some(OLD.to_owned());
            pod.login = login.clone();
        }
        let mut moves = History::new(&of("pg"));
        moves.changes = of(secret);
        let waiting = waits(&moves.step(url, History::read()));
        let by_kubernetes = secret == "pg" && url != BEFORE;
        assert_eq!(
            waiting == Some(RolloutWait::SecretInPods),
            by_kubernetes,
            "{secret} {url}"
        );
        let mut history = History::new(&of(secret));
        let valid = wants(url, &history.changes).cluster.unwrap();
        let written = template(&valid, Some(IMAGE), Standing::default()).unwrap();
        (history.set.template, history.set.template_digest) = (written.value, written.digest);
        let waiting = history.step(url, busy.clone());
        is_held_by(&waiting, RolloutWait::IdleReplica);
        assert_eq!(
            waiting.requeue_at,
            Some(after(seconds(patience))),
            "{secret} {url}"
        );
        let message = waiting.report.rollout.unwrap().message;
        assert_eq!(
            message.contains("another Secret"),
            patience > 60,
            "{message}"
        );
        history.now = after(seconds(patience));
        assert!(history.step(url, busy.clone()).eviction.is_some());
        // Where the old template stands until all have ended.
        for pod in &mut busy.pods {
            pod.revision = Some(NEW.to_owned());
        }
        let mut downtime = History::new(&of("pg"));
        downtime.changes = of(secret);
        downtime.changes["rollout"] = json!({"strategy": "Maintenance"});
        let waiting = downtime.step(url, busy.clone());
        let expected = match (by_kubernetes, patience) {
            (true, _) => RolloutWait::SecretInPods,
            (false, 60) => RolloutWait::AllPodsEnd,
            (false, _) => RolloutWait::IdleReplica,
        };
        assert_eq!(waits(&waiting), Some(expected), "{secret} {url}");
        if expected == RolloutWait::IdleReplica {
            assert_eq!(waiting.requeue_at, Some(after(seconds(patience))));
            // A process that has just started has read nothing yet.
            downtime.now = after(seconds(1800));
            let mut started = busy.clone();
            (started.database, started.last_facts) = (DatabaseView::NotProbed, None);
            let held = downtime.step(url, started);
            assert_eq!(waits(&held), Some(RolloutWait::Login));
            let waiting = downtime.step(url, busy.clone());
            assert_eq!(waits(&waiting), Some(RolloutWait::IdleReplica));
            let deadline = waiting.report.rollout.unwrap().deadline.unwrap().0;
            assert_eq!(deadline, after(seconds(patience)));
            downtime.now = after(seconds(patience));
            let stops = downtime.step(url, busy);
            assert_eq!(waits(&stops), Some(RolloutWait::AllPodsEnd));
        }
    }
}

#[test]
fn a_correction_with_another_password_is_written_when_the_pods_know_it() {
    let mut history = History::new(&json!({}));
    let mut broken = History::read();
    for pod in &mut broken.pods[..2] {
        pod.revision = Some(OLD.to_owned());
    }
    broken.pods[2].ready = false;
    broken.pods[2].trouble = Some(PodTrouble::Unschedulable("no node".to_owned()));
    broken.pods[2].created_at = after(seconds(-3600));
    broken.pods[2].unready_since = Some(after(seconds(-3600)));
    let stalled = history.step(BEFORE, broken.clone());
    assert_eq!(state(&stalled, ConditionType::Stalled).0, Some(true));
    history.changes = json!({"podLabels": {"is": "corrected"}});
    let corrected = history.step(OTHER_PASSWORD, broken.clone());
    is_held(&corrected, RolloutWait::SecretInPods);
    assert_eq!(corrected.requeue_at, Some(after(seconds(120))));
    assert_eq!(state(&corrected, ConditionType::Stalled).0, Some(false));
    history.now = after(seconds(120));
    assert!(writes_template(&history.step(OTHER_PASSWORD, broken)));
}

#[test]
fn a_paused_cluster_waits_for_nothing_but_to_be_resumed() {
    let mut history = History::new(&json!({}));
    history.changes["paused"] = json!(true);
    assert_eq!(
        waits(&history.step(OTHER_PASSWORD, History::read())),
        Some(RolloutWait::Resume)
    );
}

#[test]
fn a_drain_hook_that_could_not_be_written_yet_is_no_complete_rollout() {
    let mut history = History::new(&json!({}));
    let valid = wants(BEFORE, &history.changes).cluster.unwrap();
    let without = template(&valid, None, Standing::default()).unwrap();
    history.set.template = without.value;
    history.set.template_digest = without.digest;
    let done = |plan: &Plan| state(plan, ConditionType::RolloutComplete).0;
    history.changes = json!({"paused": true});
    assert_eq!(done(&history.step(BEFORE, History::read())), Some(true));
    history.changes = json!({"paused": true, "rollout": {"drain": "Enabled"}});
    let paused = history.step(BEFORE, History::read());
    assert_eq!(done(&paused), Some(false));
    assert_eq!(waits(&paused), Some(RolloutWait::Resume));
    // Another party calls its image by another name, for good.
    let mirrored = template(&valid, Some("mirror/operator:1"), Standing::default()).unwrap();
    history.set.template = mirrored.value;
    history.set.template_digest = mirrored.digest;
    assert_eq!(done(&history.step(BEFORE, History::read())), Some(true));
}

#[test]
fn a_cloud_login_is_not_tried() {
    let mut history = History::new(&monitored());
    let iam = "postgres://bytebase@db.example.com/bytebase?sslmode=verify-full&bytebase_aws_rds_iam=true&bytebase_aws_region=eu-west-1";
    let plan = history.step(iam, History::read());
    assert!(!plan.read_options.try_login);
    assert_eq!(history.login(), None);
    // Nor is it brought into pods that run.
    assert!(writes_template(&plan));
}

#[test]
fn a_template_that_could_not_be_written_begins_no_wait_again() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    history.step(OTHER_PASSWORD, History::read());
    history.now = after(seconds(120));
    assert!(writes_template(
        &history.step(OTHER_PASSWORD, History::read())
    ));
    // The write has failed, and a reading after that.
    for view in [History::read(), outage(), History::read()] {
        history.now = history.now.checked_add(seconds(1)).unwrap();
        let can_tell = view.facts().is_some();
        let plan = history.step(OTHER_PASSWORD, view);
        assert_eq!(writes_template(&plan), can_tell);
    }
    // Another password is another change.
    let third = "postgres://bytebase:third@db.example.com/bytebase";
    is_held(
        &history.step(third, History::read()),
        RolloutWait::SecretInPods,
    );
    history.now = history.now.checked_add(seconds(119)).unwrap();
    is_held(
        &history.step(third, History::read()),
        RolloutWait::SecretInPods,
    );
    let mark = |history: &History| {
        let database = history.status.database.as_ref().unwrap();
        database
            .changed_login
            .as_ref()
            .map(|login| login.mark.len())
    };
    assert_eq!(mark(&history), Some(4));
    history.step(BEFORE, History::read());
    assert_eq!(mark(&history), None);
}

#[test]
fn the_license_of_the_database_that_replicas_run_on_binds_them_until_they_have_moved() {
    let ends = after(seconds(100_000)).as_second();
    let read = || healthy(3, stored(&json!({"exp": ends})));
    let mut history = History::new(&json!({}));
    history.step(BEFORE, read());
    for view in [
        observation(Some(3), DatabaseView::NotProbed),
        outage(),
        refused(),
    ] {
        let plan = history.step(OTHER_HOST, view);
        assert_eq!(plan.report.target_replicas, Some(3));
    }
    history.now = after(seconds(100_001));
    let plan = history.step(OTHER_HOST, refused());
    assert_eq!(plan.report.target_replicas, Some(1));
    assert_eq!(
        state(&plan, ConditionType::HaLicensed),
        (Some(false), Reason::LicenseExpired)
    );
}

/// Three replicas that were started with the login that stands, as they are seen beside a reading
/// of another database, which has no heartbeats of theirs.
fn elsewhere(history: &History, change: impl FnOnce(&mut DatabaseFacts)) -> Observation {
    let (checksum, url) = login(&history.set.template).unwrap();
    let sources = login_sources(&history.set.template["spec"]["volumes"]);
    let mut seen = with_facts(healthy(3, stored(&json!({}))), |facts| {
        heartbeats(facts).clear();
        change(facts);
    });
    for pod in &mut seen.pods {
        pod.login = PodLogin {
            checksum: Some(checksum.to_owned()),
            url: url.map(str::to_owned),
            sources: sources.clone(),
        };
    }
    seen
}

fn holds_no_license(facts: &mut DatabaseFacts) {
    facts.schema = SchemaState::Empty;
    facts.license = Fact::Absent;
}

#[test]
fn a_database_to_which_replicas_are_to_move_says_nothing_of_those_that_run() {
    let refuses: fn(&mut DatabaseFacts) = |facts| {
        holds_no_license(facts);
        facts.can_create = false;
    };
    let foreign: fn(&mut DatabaseFacts) = |facts| {
        holds_no_license(facts);
        facts.schema = SchemaState::Foreign {
            example: "invoices".to_owned(),
        };
    };
    let old: fn(&mut DatabaseFacts) = |facts| {
        holds_no_license(facts);
        facts.schema = SchemaState::Bytebase {
            version: Some(Version::new(3, 12, 0)),
        };
        facts.not_owned = Some("principal".to_owned());
    };
    for change in [refuses, foreign, old] {
        let mut history = History::new(&json!({}));
        let before = history.step(BEFORE, History::read());
        assert!(before.report.license.is_some());
        let read = elsewhere(&history, change);
        let lost = Observation {
            database: outage().database,
            ..read.clone()
        };
        for seen in [read.clone(), read, lost] {
            let plan = history.step(OTHER_HOST, seen);
            is_held(&plan, RolloutWait::Login);
            assert_eq!(plan.report.target_replicas, Some(3));
            assert_eq!(plan.report.license, before.report.license);
            assert_eq!(
                state(&plan, ConditionType::HaLicensed),
                (None, Reason::LicenseUnknown)
            );
            assert_eq!(plan.report.active_replicas, None);
            for replica in &plan.report.replica_statuses {
                assert_eq!(replica.heartbeat, HeartbeatState::Unknown);
                assert_eq!(replica.running_tasks, None);
            }
        }
    }
}

/// Three replicas whose login is written in another form, and that form for another host.
fn forms() -> [(Value, Value); 2] {
    let inline =
        |host: &str| json!({"database": {"url": format!("postgres://bytebase@{host}/bytebase")}});
    let parts = |host: &str| {
        json!({"database": {
            "host": host, "name": "bytebase",
            "userSecretRef": {"name": "login", "key": "user"},
            "passwordSecretRef": {"name": "login", "key": "password"},
        }})
    };
    let (old, new) = ("db.example.com", "new.example.com");
    [(inline(old), inline(new)), (parts(old), parts(new))]
}

#[test]
fn in_whatever_form_another_database_is_named_it_says_nothing_of_replicas_that_run() {
    for (before, after) in forms() {
        let mut history = History::new(&before);
        history.step(BEFORE, History::read());
        let read = elsewhere(&history, |facts| {
            holds_no_license(facts);
            facts.identity = DatabaseIdentity::new("another", "1");
            facts.can_create = false;
        });
        history.changes = after.clone();
        let plan = history.step(BEFORE, read.clone());
        assert_eq!(plan.report.target_replicas, Some(3), "{after}");
        assert_eq!(plan.report.active_replicas, None, "{after}");
        // Nor where another mistake comes with it.
        history.changes["externalURL"] = json!("not a URL");
        let plan = history.step(BEFORE, read);
        assert!(plan.resize.is_none(), "{after}");
        assert_eq!(
            state(&plan, ConditionType::HaLicensed),
            (None, Reason::LicenseUnknown),
            "{after}"
        );
    }
}

#[test]
fn the_rows_of_a_copy_say_nothing_of_replicas_that_run_on_the_original() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    let copied = |history: &History| {
        elsewhere(history, |facts| {
            facts.identity = DatabaseIdentity::new("copy", "1");
            let rows = (0..3).map(|ordinal| heartbeat(ordinal, 600));
            *heartbeats(facts) = rows.collect();
        })
    };
    for seconds_later in [0, 120] {
        history.now = after(seconds(seconds_later));
        let seen = copied(&history);
        let plan = history.step(OTHER_HOST, seen);
        assert!(plan.eviction.is_none());
        for replica in &plan.report.replica_statuses {
            assert_eq!(replica.heartbeat, HeartbeatState::Unknown);
            assert_eq!(replica.running_tasks, None);
        }
    }
}

#[test]
fn replicas_move_one_at_a_time_to_a_database_without_a_license() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    let seen = elsewhere(&history, holds_no_license);
    history.step(OTHER_HOST, seen);
    history.now = after(seconds(120));
    let seen = elsewhere(&history, holds_no_license);
    let plan = history.step(OTHER_HOST, seen);
    assert_eq!(plan.report.target_replicas, Some(1));
    assert_eq!(size(&plan), Some(2), "the license that they run on lasts");
    assert!(plan.eviction.is_none());
}

#[test]
fn a_license_on_another_database_opens_no_gate() {
    let mut history = History::new(&json!({}));
    history.set.replicas = 1;
    let one = |license| {
        let mut seen = healthy(1, license);
        seen.pods.truncate(1);
        seen
    };
    history.step(BEFORE, one(no_license()));
    let mut seen = elsewhere(&history, |facts| facts.can_create = false);
    seen.pods.truncate(1);
    for _ in 0..2 {
        let plan = history.step(OTHER_HOST, seen.clone());
        assert_eq!(plan.report.target_replicas, Some(1));
        assert_eq!(state(&plan, ConditionType::HaLicensed).0, Some(false));
    }
}

#[test]
fn a_replica_on_the_database_that_is_left_has_its_time_and_is_not_given_up() {
    for (drains, waits_for) in [(false, Some(RolloutWait::IdleReplica)), (true, None)] {
        let mut history = History::new(&json!({}));
        history.step(BEFORE, History::read());
        let mut seen = elsewhere(&history, |_| {});
        for pod in &mut seen.pods {
            pod.revision = Some(OLD.to_owned());
            pod.drains = drains;
        }
        let valid = wants(OTHER_HOST, &json!({})).cluster.unwrap();
        let written = template(&valid, Some(IMAGE), Standing::default()).unwrap();
        history.set.template = written.value;
        history.set.template_digest = written.digest;
        let plan = history.step(OTHER_HOST, seen);
        let expected = waits_for.unwrap_or(RolloutWait::Eviction);
        assert_eq!(waits(&plan), Some(expected));
        assert_eq!(plan.eviction.is_some(), drains);
    }
}

/// The template for [`OTHER_HOST`] stands, and these pods are of the one before, without a drain
/// hook.
fn have_begun_to_move(history: &mut History, left: &mut [PodView]) {
    let valid = wants(OTHER_HOST, &json!({})).cluster.unwrap();
    let written = template(&valid, Some(IMAGE), Standing::default()).unwrap();
    history.set.template = written.value;
    history.set.template_digest = written.digest;
    for pod in left {
        pod.revision = Some(OLD.to_owned());
        pod.drains = false;
    }
}

#[test]
fn a_replica_on_the_database_that_is_left_is_not_broken_for_not_being_ready() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    let mut seen = elsewhere(&history, |facts| heartbeats(facts).push(heartbeat(2, 3)));
    have_begun_to_move(&mut history, &mut seen.pods[..2]);
    // It has moved.
    seen.pods[2].login = PodLogin::default();
    seen.pods[1].ready = false;
    let plan = history.step(OTHER_HOST, seen);
    is_held_by(&plan, RolloutWait::IdleReplica);
}

#[test]
fn a_replica_on_the_database_that_is_left_stands_in_only_while_it_is_ready() {
    // No reading shows whether one that starts there migrates the schema. It has its time.
    for (age, expected) in [
        (0, RolloutWait::OtherReplicas),
        (3600, RolloutWait::IdleReplica),
    ] {
        let mut history = History::new(&json!({}));
        history.step(BEFORE, History::read());
        let mut seen = elsewhere(&history, |_| {});
        have_begun_to_move(&mut history, &mut seen.pods);
        for pod in &mut seen.pods[..2] {
            pod.ready = false;
            pod.unready_since = Some(after(seconds(-age)));
        }
        let plan = history.step(OTHER_HOST, seen);
        is_held_by(&plan, expected);
    }
}

#[test]
fn replicas_move_to_no_database_on_which_another_bytebase_is_active() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    let occupied = |history: &History, age| {
        elsewhere(history, |facts| heartbeats(facts).push(heartbeat(9, age)))
    };
    let seen = occupied(&history, 3);
    for _ in 0..2 {
        let held = history.step(OTHER_HOST, seen.clone());
        is_held(&held, RolloutWait::Login);
        assert_eq!(
            state(&held, ConditionType::DatabaseReady).1,
            Reason::DatabaseInUse
        );
    }
    // A pod in which no replica runs sends no heartbeat to any.
    for gone in [&[1][..], &[0, 1, 2]] {
        let mut seen = seen.clone();
        for ordinal in gone {
            let pod = &mut seen.pods[*ordinal];
            (pod.ready, pod.replica_id, pod.started_at) = (false, None, None);
        }
        is_held(&history.step(OTHER_HOST, seen), RolloutWait::Login);
    }
    history.now = after(seconds(120));
    let seen = occupied(&history, 31);
    assert!(writes_template(&history.step(OTHER_HOST, seen)));
    // Another password alone leads to no other database.
    let mut rotated = History::new(&json!({}));
    rotated.step(BEFORE, History::read());
    is_held(
        &rotated.step(OTHER_PASSWORD, History::read()),
        RolloutWait::SecretInPods,
    );
}

#[test]
fn replicas_move_to_no_copy_of_their_database_on_which_another_bytebase_is_active() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    // It has the rows of the replicas themselves, as old as the copy.
    let copied = |history: &History, others_age| {
        elsewhere(history, |facts| {
            facts.identity = DatabaseIdentity::new("copy", "1");
            let rows = (0..3).map(|ordinal| heartbeat(ordinal, 600));
            *heartbeats(facts) = rows.chain([heartbeat(9, others_age)]).collect();
        })
    };
    let seen = copied(&history, 3);
    for _ in 0..2 {
        let held = history.step(OTHER_HOST, seen.clone());
        is_held(&held, RolloutWait::Login);
        assert_eq!(
            state(&held, ConditionType::DatabaseReady).1,
            Reason::DatabaseInUse
        );
    }
    history.now = after(seconds(120));
    let seen = copied(&history, 31);
    assert!(writes_template(&history.step(OTHER_HOST, seen)));
}

#[test]
fn a_replica_that_may_be_one_of_those_that_are_heard_is_not_taken_for_another_bytebase() {
    let mut history = History::new(&json!({}));
    history.step(BEFORE, History::read());
    // Neither ids nor sessions show whose heartbeats these are: they may be those of the replicas,
    // which get another password.
    let mut seen = elsewhere(&history, |facts| {
        *heartbeats(facts) = (0..3).map(|ordinal| heartbeat(ordinal, 3)).collect();
        facts.sessions.as_mut().unwrap().listeners = None;
    });
    for pod in &mut seen.pods {
        pod.replica_id = None;
    }
    let held = history.step(OTHER_PASSWORD, seen);
    is_held(&held, RolloutWait::SecretInPods);
    assert_ne!(
        state(&held, ConditionType::DatabaseReady).1,
        Reason::DatabaseInUse
    );
}

#[test]
fn a_template_that_a_changed_login_holds_grows_only_if_it_fits_the_schema() {
    let after_a_change = |stands: &str| {
        let mut history = History::new(&monitored());
        history.set.replicas = 1;
        history.set.version = Some(stands.to_owned());
        let plan = history.step(OTHER_PASSWORD, healthy(1, stored(&json!({}))));
        is_held_by(&plan, RolloutWait::Login);
        plan
    };
    let fits = after_a_change("3.21.1");
    assert_eq!(size(&fits), Some(3));
    // Neither older than the schema, nor, where that says nothing, than high availability.
    for stands in ["3.20.0", "3.16.0"] {
        let outgrown = after_a_change(stands);
        assert_eq!(size(&outgrown), None, "{stands}");
        let (_, reason) = state(&outgrown, ConditionType::Ready);
        assert_eq!(reason, Reason::HeldBackByVersion, "{stands}");
        let message = &condition(&outgrown.report, ConditionType::Ready).message;
        assert!(message.contains(stands), "{message}");
    }
}

#[test]
fn a_changed_login_starts_no_replica_that_a_rollout_with_downtime_has_stopped() {
    let mut history = History::new(&json!({"rollout": {"strategy": "Maintenance"}}));
    history.step(BEFORE, History::read());
    history.changes["version"] = json!("3.22.0");
    history.set.replicas = 0;
    let mut ending = History::read();
    for pod in &mut ending.pods {
        pod.deleting = true;
    }
    for url in [BEFORE, OTHER_PASSWORD] {
        let plan = history.step(url, ending.clone());
        assert!(
            !writes_template(&plan),
            "nothing of the StatefulSet changes"
        );
        assert_eq!(state(&plan, ConditionType::RolloutComplete).0, Some(false));
    }
    // A refused version leads back to the old template, and no sooner than the login is known to
    // work.
    history.changes["version"] = json!("3.20.0");
    assert_eq!(size(&history.step(OTHER_PASSWORD, ending.clone())), None);
    assert_eq!(size(&history.step(BEFORE, ending.clone())), Some(3));
    history.changes["version"] = json!("3.22.0");
    let mut ended = with_facts(ending, |facts| heartbeats(facts).clear());
    ended.pods.clear();
    history.set.pods = 0;
    assert!(writes_template(&history.step(OTHER_PASSWORD, ended)));
}
