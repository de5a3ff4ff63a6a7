//! The operator's own rules in the world: what it knows becomes an observation, `decide` is asked,
//! and its plan becomes writes. Bugs can be planted in between.

use crate::bugs::Bug;
use crate::database::{Active, Content, Database, Reading, Which};
use crate::knowledge::LicenseRead;
use crate::owners::{NAME, UID, Whose};
use crate::world::{
    Eviction, Form, Pod, Replica, Set, Spec, Status, Strategy, VERSIONS, Waited, World, Write,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytebase_operator::api::status::{DatabaseStatus, LicenseStatus, RolloutStatus, RolloutWait};
use bytebase_operator::api::{BytebaseCluster, ConditionType, Reason};
use bytebase_operator::contract::version::Version;
use bytebase_operator::decide::plan::Plan;
use bytebase_operator::decide::{Settings, decide};
use bytebase_operator::desired::template::{self, Template};
use bytebase_operator::kubernetes::Kind;
use bytebase_operator::observation::{
    DatabaseFacts, DatabaseIdentity, DatabaseView, Fact, FailureClass, FailureReason, Heartbeat,
    Holder, Observation, PodLogin, PodTrouble, PodView, ProbeFailure, Refusal, Remembered,
    RememberedRollout, RunningTasks, SchemaState, Sessions, StatefulSetView, StoredLicense, Usage,
};
use bytebase_operator::validate::{References, Validation, validate};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use uuid::Uuid;

/// The database that every spec names.
pub const ENDPOINT: &str = "db.example.com:5432/bytebase";
/// A pod that is asked to end has so many minutes for its tasks: longer than any run lasts.
const DRAIN: i64 = 90;
/// Identity of the foreign Bytebase's replica: of no pod.
const OTHER: u128 = 0xffff;

/// The rules, with what is the same in every state worked out once.
pub struct Rules {
    settings: Settings,
    specs: HashMap<Spec, Validation>,
    templates: Vec<Template>,
    bug: Option<Bug>,
    /// There may be several databases, or another cluster on the one.
    pub for_several: bool,
    /// Decisions by all that they rest on: most states differ in something else.
    decided: Mutex<HashMap<Ground, Decided>>,
}

/// What a reconcile decides.
#[derive(Clone, Debug, Default)]
pub struct Decided {
    /// Its writes, in their order.
    pub writes: Vec<Write>,
    /// The tick at which the operator comes back by itself.
    pub due: Option<u8>,
}

/// All that a decision rests on, and what its writes are held against.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a thing of its own that the operator knows"
)]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Ground {
    spec: Spec,
    cache: (Option<Set>, Vec<Pod>),
    acted_on: Option<Set>,
    has_pods: bool,
    reading: Reading,
    last_good: Option<Database>,
    license: LicenseRead,
    schema: Option<u32>,
    shared: bool,
    evicted: Option<u8>,
    succeeds: bool,
    status_due: bool,
    status: Status,
    tick: u8,
}

/// The moment of a tick.
fn at(tick: u8) -> Timestamp {
    Timestamp::from_second(1_780_000_000 + 60 * i64::from(tick)).unwrap_or(Timestamp::MAX)
}

fn id(uid: u8) -> Uuid {
    Uuid::from_u128(u128::from(uid) + 1)
}

/// A token that says this; its signature is not verified here.
fn token(end: u8) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let header = json!({"alg": "RS256", "kid": "v1", "typ": "JWT"});
    let claims = json!({
        "iss": "bytebase", "aud": ["bb.license"], "plan": "ENTERPRISE", "ha": true,
        "exp": at(end).as_second(), "seat": 10, "instanceCount": 10,
    });
    format!(
        "{}.{}.{}",
        part(&header),
        part(&claims),
        URL_SAFE_NO_PAD.encode("signature")
    )
}

/// What a workspace holds whose license ends at this tick, or that has none.
fn stored(end: Option<u8>) -> StoredLicense {
    let workspace_id = "ws-1".to_owned();
    match end {
        None => StoredLicense::Absent { workspace_id },
        Some(end) => StoredLicense::Present {
            workspace_id,
            token: token(end).into(),
        },
    }
}

/// The version of a template, in words.
fn version(template: u8) -> String {
    VERSIONS[usize::from(template)].to_string()
}

/// What the database says of a schema: its patch numbers are its own.
fn schema_version(minor: u32) -> Version {
    Version::new(3, minor, 5)
}

/// Every spec that a user may write.
fn specs() -> Vec<Spec> {
    let mut specs = Vec::new();
    for template in 0..to_u8(VERSIONS.len()) {
        for replicas in 0..=3 {
            for form in [Form::Valid, Form::Paused, Form::Invalid] {
                for strategy in [Strategy::Rolling, Strategy::Maintenance] {
                    specs.push(Spec {
                        replicas,
                        template,
                        form,
                        strategy,
                    });
                }
            }
        }
    }
    specs
}

/// The other database.
fn another() -> DatabaseIdentity {
    DatabaseIdentity::new("another", "0")
}

/// What tells a database from every other.
fn told_apart(which: Which) -> String {
    match which {
        Which::Own => identity(0).database,
        Which::Another => another().database,
    }
}

/// The database of which this is the identity.
fn which(identity: &str) -> Which {
    if identity == told_apart(Which::Another) {
        Which::Another
    } else {
        Which::Own
    }
}

/// The one database, on its server that has started so often.
pub fn identity(start: u8) -> DatabaseIdentity {
    DatabaseIdentity::new("model", &start.to_string())
}

fn cluster(spec: Spec) -> anyhow::Result<BytebaseCluster> {
    let url = if spec.form == Form::Invalid {
        "nonsense"
    } else {
        "https://bytebase.example.com"
    };
    Ok(serde_json::from_value(json!({
        "apiVersion": "bytebase.com/v1alpha1",
        "kind": "BytebaseCluster",
        "metadata": {"name": NAME, "namespace": "team", "uid": UID},
        "spec": {
            "version": version(spec.template),
            "externalURL": url,
            "replicas": spec.replicas,
            "paused": spec.form == Form::Paused,
            "database": {"url": format!("postgres://bytebase@{ENDPOINT}")},
            "ingress": {"enabled": false},
            "rollout": {
                "strategy": match spec.strategy {
                    Strategy::Rolling => "Rolling",
                    Strategy::Maintenance => "Maintenance",
                },
                "terminationGraceSeconds": 10,
                "preStopSeconds": 1,
            },
        },
    }))?)
}

impl Rules {
    /// The rules as they are, or with one bug.
    pub fn new(bug: Option<Bug>) -> anyhow::Result<Self> {
        let mut validations = HashMap::new();
        let mut templates = Vec::new();
        for spec in specs() {
            let validation = validate(
                &cluster(spec)?,
                &References::default(),
                None,
                Timestamp::UNIX_EPOCH,
            );
            anyhow::ensure!(
                validation.cluster.is_some() == (spec.form != Form::Invalid),
                "the model's own spec: {:?}",
                validation.problems
            );
            if let Some(valid) = &validation.cluster
                && templates.len() <= usize::from(spec.template)
            {
                let made = template::template(valid, None, template::Standing::default());
                templates.push(made.map_err(|problem| anyhow::anyhow!("{problem}"))?);
            }
            validations.insert(spec, validation);
        }
        Ok(Self {
            settings: Settings {
                license_guard: SignedDuration::from_mins(1),
                ..Settings::default()
            },
            specs: validations,
            templates,
            bug,
            for_several: false,
            decided: Mutex::default(),
        })
    }

    /// The same where there may be several databases, or another cluster on the one.
    #[must_use]
    pub fn for_several(self) -> Self {
        Self {
            for_several: true,
            ..self
        }
    }

    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    /// A planted bug has a standby that takes over decide on what its watches had shown by then, as
    /// one would that does not compare it with what is stored.
    pub fn takes_over_at_once(&self) -> bool {
        self.has(Bug::TakesOverAtOnce)
    }

    /// A planted bug has the API server take a status whichever one stands by then.
    pub fn takes_any_status(&self) -> bool {
        self.has(Bug::StatusUnguarded)
    }

    /// A planted bug has any version of the cluster count as the echo of the last status.
    pub fn takes_any_for_echo(&self) -> bool {
        self.has(Bug::EchoTakenForAny)
    }

    /// What a reconcile decides in this world.
    pub fn reconcile(&self, world: &World) -> Decided {
        let ground = Ground {
            spec: world.spec,
            cache: world.operator.cache.clone(),
            acted_on: world.operator.acted_on,
            has_pods: world.operator.has_pods,
            reading: world.operator.reading.clone(),
            last_good: world.operator.last_good,
            license: world.operator.license,
            schema: world.operator.schema,
            shared: world.operator.shared,
            evicted: world.operator.evicted,
            succeeds: world.operator.succeeds,
            status_due: world.operator.status_due && self.has(Bug::DueStatusForgotten),
            status: world.status.clone(),
            tick: world.tick,
        };
        let decided = || self.decided.lock();
        if let Some(before) = decided().get(&ground) {
            return before.clone();
        }
        let plan = self.plan(world);
        let now = plan.map_or_else(Decided::default, |plan| Decided {
            writes: self.writes(world, &plan),
            due: plan
                .requeue_at
                .filter(|_| !self.has(Bug::ComesBackNever))
                .and_then(tick_after),
        });
        decided().insert(ground, now.clone());
        now
    }

    fn plan(&self, world: &World) -> Option<Plan> {
        let mut spec = world.spec;
        if self.has(Bug::DowntimeForgotten) && world.operator.succeeds {
            spec.strategy = Strategy::Rolling;
        }
        let validation = self.specs.get(&spec)?;
        Some(decide(validation, &self.observe(world), &self.settings))
    }

    /// The reason for which a rollout does not go on without help, as it is reported in this world.
    pub fn stalled(&self, world: &World) -> Option<Reason> {
        let plan = self.plan(world)?;
        let mut conditions = plan.report.conditions.iter();
        let stalled = conditions.find(|condition| condition.type_ == ConditionType::Stalled)?;
        (stalled.status == Some(true)).then_some(stalled.reason)
    }

    /// The StatefulSet, unless it is another's.
    fn own(&self, set: Option<Set>) -> Option<Set> {
        set.filter(|set| self.has(Bug::OwnerIgnored) || set.whose.counts_as_own())
    }

    fn writes(&self, world: &World, plan: &Plan) -> Vec<Write> {
        let mut writes = Vec::new();
        let cached = self.own(world.operator.cache.0);
        let is_taken = cached != world.operator.cache.0;
        if let (Some(size), Some(set)) = (plan.resize, cached)
            && !self.has(Bug::GateBlindWhileInvalid)
        {
            writes.push(Write::Set(Set {
                start: to_u8(size.start),
                size: to_u8(size.replicas),
                ..set
            }));
        }
        let mut objects = plan.objects.iter();
        let object = objects.find(|object| object.kind == Kind::StatefulSet);
        if let Some(set) = object.map(|object| self.set(&object.value))
            && cached != Some(set)
            && (!is_taken || self.has(Bug::NameTakenIgnored))
            && !self.keeps_from_shrinking(set, cached, world, plan)
        {
            writes.push(Write::Set(self.unheld(set, cached)));
        }
        if let Some(set) = cached
            && self.has(Bug::StartsEarly)
            && (set.size, world.spec.strategy) == (0, Strategy::Maintenance)
        {
            writes.push(Write::Set(Set {
                size: 1,
                template: world.spec.template,
                ..set
            }));
        }
        // Only when everything stands, as the operator itself does.
        if let (Some(eviction), true) = (&plan.eviction, writes.is_empty() && !is_taken)
            && let Some(pod) = find(world, &eviction.uid)
        {
            writes.push(Write::Evict(Eviction {
                uid: pod.uid,
                ordinal: pod.ordinal,
                served: pod.replica == Replica::Active,
                by_name: self.has(Bug::EvictionWithoutUid),
                hurried: self.has(Bug::DrainCutShort),
            }));
        }
        writes.extend(self.let_go(world, plan).into_iter().map(Write::LetGo));
        let is_forgotten = self.has(Bug::DueStatusForgotten) && world.operator.status_due;
        if !plan.unsettled && !is_forgotten {
            let mut status = status(plan, &world.status, world.tick);
            status.served = status.served.filter(|_| self.for_several);
            if self.has(Bug::NothingStored) {
                (status.identity, status.refusal) = (None, None);
            }
            if status != world.status {
                writes.push(Write::Status(status));
            }
        }
        writes
    }

    /// A planted bug keeps the size of a StatefulSet while a reading refuses the database.
    fn keeps_from_shrinking(
        &self,
        set: Set,
        before: Option<Set>,
        world: &World,
        plan: &Plan,
    ) -> bool {
        let is_read = matches!(world.operator.reading, Reading::Good(..));
        self.has(Bug::GateBlindWhileRefused)
            && is_read
            && refused(plan, ConditionType::DatabaseReady).is_some()
            && before.is_some_and(|before| set.size < before.size)
    }

    /// Uids of the pods whose drain hooks are asked to let their replicas end.
    fn let_go(&self, world: &World, plan: &Plan) -> Vec<u8> {
        let (set, pods) = &world.operator.cache;
        let at_once = self.has(Bug::DrainHastenedAtOnce) && plan.report.unlicensed_since.is_some();
        let is_meant = |pod: &&Pod| {
            let goes = set.is_some_and(|set| !set.ordinals().contains(&pod.ordinal));
            plan.let_go.contains(&name(pod.ordinal)) || (at_once && goes && pod.ending.is_some())
        };
        let pods = pods.iter().filter(|_| !self.has(Bug::DrainNotHastened));
        pods.filter(is_meant).map(|pod| pod.uid).collect()
    }

    /// A StatefulSet of one replica that begins again, with all the others if that bug is planted;
    /// or one that shrinks, towards its lowest ordinal if that one is.
    fn unheld(&self, set: Set, before: Option<Set>) -> Set {
        let begins = set.size == 1 && before.is_some_and(|before| before.size == 0);
        let lowest = before.filter(|before| {
            self.has(Bug::GateShrinksToLowest) && set.size > 0 && set.size < before.size
        });
        Set {
            start: lowest.map_or(set.start, |before| before.start),
            size: if begins && self.has(Bug::RestNotHeld) {
                2
            } else {
                set.size
            },
            ..set
        }
    }

    fn set(&self, value: &Value) -> Set {
        let spec = &value["spec"];
        let number = |value: &Value| to_u8(value.as_u64().unwrap_or(0));
        let mut templates = self.templates.iter();
        let template = templates.position(|template| template.value == spec["template"]);
        Set {
            start: number(&spec["ordinals"]["start"]),
            size: number(&spec["replicas"]),
            template: to_u8(template.unwrap_or(0)),
            whose: Whose::Own,
        }
    }

    fn observe(&self, world: &World) -> Observation {
        let pods = &world.operator.cache.1;
        let set = self.own(world.operator.cache.0);
        let mut reading = world.operator.reading.clone();
        if let Reading::Good(_, active) = &mut reading {
            let assumed = pods
                .iter()
                .filter(|pod| self.takes_for_serving(**pod, world));
            for uid in assumed.map(|pod| pod.uid) {
                active.retain(|replica| replica.uid != uid);
                active.push(Active { uid, busy: false });
            }
        }
        let database = self.view(&reading);
        let mut last_facts = if let DatabaseView::Probed(Ok(facts)) = &database {
            Some((Duration::ZERO, facts.clone()))
        } else {
            let last = world.operator.last_good;
            last.map(|last| (Duration::from_secs(9), self.facts(last, &[])))
        };
        if let Some((_, facts)) = &mut last_facts
            && let SchemaState::Bytebase { version } = &mut facts.schema
            && !self.has(Bug::SchemaNotKept)
        {
            *version = world.operator.schema.map(schema_version);
        }
        let last_license = last_facts.as_mut().map(|(_, facts)| &mut facts.license);
        if let Some(license) = last_license.filter(|license| license.is_unknown()) {
            *license = self.understood(world.operator.license);
        }
        let now = at(world.tick);
        Observation {
            now,
            stateful_set: set.map(|set| StatefulSetView {
                resource_version: None,
                replicas: i32::from(set.size),
                start: i32::from(set.start),
                pods: i32::from(world.operator.has_pods && !self.has(Bug::ControllerIgnored)),
                settled: world.operator.acted_on == Some(set),
                update_revision: world
                    .operator
                    .acted_on
                    .map(|acted_on| acted_on.template.to_string()),
                template: self.templates[usize::from(set.template)].value.clone(),
                template_digest: self.templates[usize::from(set.template)].digest.clone(),
                version: (!self.has(Bug::StandingVersionIgnored)).then(|| version(set.template)),
            }),
            pods: pods
                .iter()
                .filter(|pod| !self.takes_for_gone(**pod, world))
                .map(|pod| self.pod(*pod, world))
                .collect(),
            awaits_logs: false,
            ingress_has_address: None,
            exposed_hosts: Vec::new(),
            service_way: None,
            route: None,
            kinds_not_installed: Vec::new(),
            kinds_unseen: Vec::new(),
            database,
            last_facts,
            database_shared_with: world.operator.shared.then(|| Holder {
                name: "the-other".to_owned(),
                usage: Usage::Runs,
            }),
            remembered: self.remembered(&world.status),
            call_failure: None,
            asked: None,
            // No sender counts as foreign here: since when each has been unmatched would be a time
            // more in every state, for a rule that only keeps a cluster from growing. The first
            // replica is held by any fresh heartbeat, which is modelled, and the tests of the
            // decision have the rest.
            unmatched_since: BTreeMap::new(),
            refused_pod: None,
            refused_eviction: None,
        }
    }

    /// A planted bug has this pod count as Ready and active.
    fn takes_for_serving(&self, pod: Pod, world: &World) -> bool {
        let (set, _) = &world.operator.cache;
        let is_new = set.is_some_and(|set| set.template == pod.template);
        self.has(Bug::EveryPodServes) || (self.has(Bug::NewTakenForServing) && is_new)
    }

    /// A planted bug has a pod that ends, or is to, count as gone.
    fn takes_for_gone(&self, pod: Pod, world: &World) -> bool {
        let (set, _) = &world.operator.cache;
        let is_covered = set.is_some_and(|set| set.ordinals().contains(&pod.ordinal));
        self.has(Bug::EndingTakenForGone) && (pod.ending.is_some() || !is_covered)
    }

    fn pod(&self, pod: Pod, world: &World) -> PodView {
        let evicted = world.operator.evicted;
        let is_unknown = match &world.operator.reading {
            Reading::Good(database, _) => database.content == Content::Renamed,
            Reading::None | Reading::Failed => true,
        };
        let evicted = evicted == Some(pod.uid) && !self.has(Bug::EvictionForgotten);
        let serves = pod.replica == Replica::Active;
        let stuck = pod.replica == Replica::Stuck && !self.has(Bug::GateWaitsForStuck);
        let assumed = self.takes_for_serving(pod, world);
        let is_up = matches!(
            pod.replica,
            Replica::Active | Replica::Frozen | Replica::Stuck
        );
        let made = at(0);
        PodView {
            name: name(pod.ordinal),
            uid: pod.uid.to_string(),
            ordinal: i32::from(pod.ordinal),
            revision: Some(pod.template.to_string()),
            ready: (serves && !(is_unknown && self.has(Bug::UnknownServesNot))) || assumed,
            deleting: pod.ending.is_some() || evicted,
            node: None,
            ip: None,
            created_at: made,
            started_at: is_up.then_some(made),
            container_id: None,
            ends_by: pod
                .ending
                .map(|since| at(since) + SignedDuration::from_mins(DRAIN)),
            grace: None,
            drains: true,
            drain_timeout: None,
            login: PodLogin::default(),
            external_url: None,
            ending_since: pod.ending.map(at),
            finalizers: Vec::new(),
            unready_since: (!serves).then_some(made),
            replica_id: (is_up || assumed).then(|| id(pod.uid)),
            log_quote: None,
            restarts: 0,
            trouble: match pod.replica {
                Replica::Starting if self.has(Bug::ComingUpIgnored) => {
                    Some(PodTrouble::Crashing("it keeps ending".to_owned()))
                }
                Replica::Failing => Some(PodTrouble::Crashing("it keeps ending".to_owned())),
                _ => stuck.then(|| PodTrouble::NodeSilent("its node is silent".to_owned())),
            },
            waits_for: None,
            last_failure: None,
            version: Some(version(pod.template)),
        }
    }

    fn view(&self, reading: &Reading) -> DatabaseView {
        match reading {
            Reading::None if !self.has(Bug::NoReadingIsOutage) => DatabaseView::NotProbed,
            Reading::None | Reading::Failed => DatabaseView::Probed(Err(ProbeFailure {
                class: FailureClass::Unknown,
                reason: FailureReason::Unreachable,
                message: format!("{ENDPOINT}: nothing answers"),
            })),
            Reading::Good(database, active) => {
                DatabaseView::Probed(Ok(self.facts(*database, active)))
            }
        }
    }

    fn facts(&self, database: Database, active: &[Active]) -> DatabaseFacts {
        let mut ids: Vec<_> = active.iter().map(|replica| id(replica.uid)).collect();
        if database.other && !self.has(Bug::OthersIgnored) {
            ids.push(Uuid::from_u128(OTHER));
        }
        let heartbeats = ids.into_iter().map(|replica_id| Heartbeat {
            replica_id,
            age: Duration::from_secs(3),
        });
        let busy = active.iter().filter(|replica| replica.busy);
        let running_tasks = busy
            .filter(|_| !self.has(Bug::TasksIgnored))
            .map(|replica| RunningTasks {
                replica_id: id(replica.uid),
                count: 1,
            });
        let renamed = database.content == Content::Renamed;
        let foreign = database.content == Content::Foreign;
        let license = stored(database.license);
        let license = match (renamed, self.has(Bug::UnknownIsNone)) {
            (false, _) if foreign => Fact::Absent,
            (false, _) => Fact::Known(license),
            (true, true) => Fact::Known(StoredLicense::NoWorkspace),
            (true, false) => Fact::Unknown,
        };
        let not_understood = renamed && !self.has(Bug::UnknownIsNone);
        DatabaseFacts {
            server_version_num: 150_018,
            in_recovery: false,
            read_only: false,
            encoding: "UTF8".to_owned(),
            max_connections: 500,
            reserved_connections: 3,
            role_connections: None,
            database_connections: None,
            can_create: true,
            missing_schema: None,
            not_owned: None,
            transaction_pooler: Some(database.content == Content::Pooled),
            has_version_1_certificate: false,
            identity: self.identity_of(database.content),
            server_uptime: Duration::from_hours(1),
            writable_for: Duration::from_hours(1),
            server_clock: None,
            schema: if foreign {
                SchemaState::Foreign {
                    example: "wp_posts".to_owned(),
                }
            } else {
                SchemaState::Bytebase {
                    version: (!renamed).then(|| schema_version(database.schema)),
                }
            },
            license,
            heartbeats: Fact::Known(heartbeats.collect()),
            has_heartbeat_rows: true,
            sessions: Some(Sessions {
                listeners: Some(Vec::new()),
                migration_running: database.migrates && !self.has(Bug::MigrationUnseen),
                ..Sessions::default()
            }),
            running_tasks: Fact::Known(running_tasks.collect()),
            task_runs: Vec::new(),
            unbegun_tasks: Vec::new(),
            pending_tasks: Fact::Known(0),
            available_tasks: Fact::Known(0),
            not_understood: if not_understood {
                vec!["workspace"]
            } else {
                Vec::new()
            },
            login: None,
        }
    }

    /// The identity of a database with this content.
    fn identity_of(&self, content: Content) -> DatabaseIdentity {
        match content.which() {
            Which::Another if !self.has(Bug::AnotherTakenForSame) => another(),
            Which::Own | Which::Another => identity(0),
        }
    }

    /// The license as the process last understood it.
    fn understood(&self, license: LicenseRead) -> Fact<StoredLicense> {
        match license {
            _ if self.has(Bug::UnderstandingForgotten) => Fact::Unknown,
            LicenseRead::Never => Fact::Unknown,
            LicenseRead::Absent => Fact::Known(stored(None)),
            LicenseRead::Ends(end) => Fact::Known(stored(Some(end))),
        }
    }

    /// What the operator reads back from a status.
    pub fn remembered(&self, status: &Status) -> Remembered {
        let forgets = self.has(Bug::IdentityForgotten) || self.has(Bug::RefusalForgotten);
        let identity = status.identity.filter(|_| !forgets);
        let endpoint = status.endpoint && !self.has(Bug::RefusalForgotten);
        let served_on = status.served.map(told_apart);
        if status.elsewhere {
            // Only of a cluster that is stopped.
            return Remembered {
                served_on,
                ..Remembered::default()
            };
        }
        Remembered {
            served_on: served_on.clone(),
            database: Some(DatabaseStatus {
                endpoint: endpoint.then(|| ENDPOINT.to_owned()),
                identity: identity.map(told_apart),
                served_on,
                // In this world a database that was never read has been tried for long enough.
                unread_since: ((status.endpoint || self.for_several) && identity.is_none())
                    .then(|| Time(at(0) - SignedDuration::from_hours(1))),
                ..DatabaseStatus::default()
            }),
            login: None,
            database_ready: None,
            refusal: status
                .refusal
                .clone()
                .filter(|_| !self.has(Bug::RefusalForgotten))
                .map(|(reason, message)| Refusal { reason, message }),
            license: status
                .license
                .filter(|_| !self.has(Bug::LicenseForgotten))
                .map(|end| LicenseStatus {
                    ha: true,
                    expiration_time: Some(Time(at(end))),
                    ..LicenseStatus::default()
                }),
            unlicensed_since: status
                .unlicensed_since
                .filter(|_| !self.has(Bug::UnlicensedSinceForgotten))
                .map(at),
            unlicensed: status
                .unlicensed
                .filter(|_| !self.has(Bug::AbsenceForgotten)),
            stand_in: None,
            schema_version: status
                .schema
                .filter(|_| !self.has(Bug::SchemaForgotten))
                .map(schema_version),
            version: status
                .version
                .filter(|_| !self.has(Bug::VersionForgotten))
                .map(|minor| schema_version(minor).to_string()),
            url: None,
            // None ever counted: see `unmatched_since`.
            foreign_replicas: false,
            stale_since: BTreeMap::new(),
            queue_held_since: None,
            queue_overdue: false,
            drains: BTreeMap::new(),
            rollout: status
                .rollout
                .filter(|_| !self.has(Bug::PatienceForgotten))
                .map(|waited| RememberedRollout {
                    waiting_for: waited.for_,
                    pod: waited.ordinal.map(name),
                    since: at(waited.since),
                    // What comes between begins it again here, which is the longer wait.
                    busy_since: None,
                    scale_down_only: waited.scale_down_only,
                    message: String::new(),
                }),
        }
    }
}

/// Name of the pod of this ordinal.
fn name(ordinal: u8) -> String {
    format!("{NAME}-{ordinal}")
}

/// The pod of this uid, as the operator knows it.
fn find<'w>(world: &'w World, uid: &str) -> Option<&'w Pod> {
    let uid: u8 = uid.parse().ok()?;
    let mut pods = world.operator.cache.1.iter();
    pods.find(|pod| pod.uid == uid)
}

fn to_u8<N: TryInto<u8>>(number: N) -> u8 {
    number.try_into().unwrap_or(0)
}

/// Why a condition is reported as False.
fn refused(plan: &Plan, type_: ConditionType) -> Option<(Reason, String)> {
    let mut conditions = plan.report.conditions.iter();
    let condition = conditions.find(|condition| condition.type_ == type_)?;
    let refused = condition.status == Some(false);
    refused.then(|| (condition.reason, condition.message.clone()))
}

/// The tick of a moment.
fn tick_of(moment: Timestamp) -> Option<u8> {
    u8::try_from(moment.duration_since(at(0)).as_mins()).ok()
}

/// The first tick that is not before a moment.
fn tick_after(moment: Timestamp) -> Option<u8> {
    let seconds = moment.duration_since(at(0)).as_secs();
    u8::try_from((seconds + 59) / 60).ok()
}

/// The minor version in a text.
fn minor_of(version: Option<&str>) -> Option<u32> {
    Version::parse(version?).ok().map(|version| version.minor)
}

/// The part of the new status that later decisions may rest on.
fn status(plan: &Plan, before: &Status, tick: u8) -> Status {
    let database = plan.report.database.as_ref();
    let license = plan.report.license.as_ref();
    let end = license.and_then(|license| license.expiration_time.as_ref());
    let schema = minor_of(plan.report.schema_version.as_deref());
    Status {
        endpoint: database.is_some_and(|database| database.endpoint.is_some()),
        identity: database.and_then(|database| database.identity.as_deref().map(which)),
        served: database.and_then(|database| database.served_on.as_deref().map(which)),
        elsewhere: false,
        refusal: refused(plan, ConditionType::DatabaseReady),
        unlicensed: refused(plan, ConditionType::HaLicensed).map(|(reason, _)| reason),
        unlicensed_since: plan.report.unlicensed_since.and_then(tick_of),
        schema,
        // No refusal of a version rests on it where the schema is known. Whether a replica that
        // does not come up is taken back does, and is decided here as if none had ever served.
        version: minor_of(plan.report.version.as_deref()).filter(|_| schema.is_none()),
        license: match end {
            Some(end) => tick_of(end.0),
            None => license.and(before.license),
        },
        rollout: plan
            .report
            .rollout
            .as_ref()
            .and_then(|rollout| waited(rollout, before.rollout, tick)),
    }
}

/// Nothing rests on what else a rollout waits for.
fn waited(rollout: &RolloutStatus, before: Option<Waited>, tick: u8) -> Option<Waited> {
    let for_ = rollout.waiting_for.filter(|for_| {
        matches!(
            for_,
            RolloutWait::IdleReplica
                | RolloutWait::Eviction
                | RolloutWait::DisruptionBudget
                | RolloutWait::FirstReplica
        )
    })?;
    let pod = rollout.pod.as_deref();
    let ordinal = pod.and_then(|pod| pod.strip_prefix("demo-")?.parse().ok());
    let before = before.filter(|before| {
        rollout.continues(&RolloutStatus {
            waiting_for: Some(before.for_),
            pod: before.ordinal.map(name),
            scale_down_only: before.scale_down_only,
            ..RolloutStatus::default()
        })
    });
    Some(Waited {
        for_,
        ordinal,
        since: before.map_or(tick, |before| before.since),
        scale_down_only: rollout.scale_down_only,
    })
}
