//! The world in which the rules live, small enough to visit every state of it: what is stored in
//! the API server, pods and replicas, a metadata database, an operator process, and time.
//!
//! A tick is a minute. Time passes only while no one has anything left to do, so what a rule
//! promises within a minute must hold at the next tick. Everything else may happen in any order.

use crate::database::{Active, Content, Database, Reading, Which};
use crate::knowledge::{Knowledge, Known, LicenseRead};
use crate::owners::Whose;
use crate::promises::Promise;
use bytebase_operator::api::Reason;
use bytebase_operator::api::status::RolloutWait;
use bytebase_operator::contract::version::Version;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeSet;

/// Versions that a user may want, by the index of the pod template. The first three share a schema.
pub const VERSIONS: [Version; 6] = [
    Version::new(3, 21, 1),
    Version::new(3, 21, 2),
    Version::new(3, 21, 3),
    Version::new(3, 22, 0),
    Version::new(3, 23, 1),
    Version::new(3, 20, 2),
];
/// The version to which a user may go back from the beginning.
const OLDER: u8 = 5;
/// Minutes for which a replica may go on with its tasks after the license has ended.
const DRAIN_LIMIT: u8 = 5;
/// The version at the beginning, and those to which it is upgraded.
const UPGRADES: [u8; 3] = [0, 3, 4];

/// The minor version of a pod template, which is that of the schema on which it runs.
pub fn minor(template: u8) -> u32 {
    VERSIONS[usize::from(template)].minor
}

/// A StatefulSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Set {
    /// Lowest ordinal.
    pub start: u8,
    /// Number of pods.
    pub size: u8,
    /// Index of the pod template.
    pub template: u8,
    /// Whose it is.
    pub whose: Whose,
}

impl Set {
    /// Its ordinals.
    pub fn ordinals(self) -> std::ops::Range<u8> {
        self.start..self.start + self.size
    }
}

/// What the process in a pod does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Replica {
    /// It has not sent its first heartbeat.
    Starting,
    /// It migrates the schema before that, under the lock.
    Migrating,
    /// It does not come up: its container keeps ending.
    Failing,
    /// It sends heartbeats and takes requests.
    Active,
    /// It does neither.
    Frozen,
    /// It does both, but its node is silent: not Ready, and it cannot be ended.
    Stuck,
}

/// A pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Number at the end of its name.
    pub ordinal: u8,
    /// Never used twice.
    pub uid: u8,
    /// Index of the template it was made from.
    pub template: u8,
    /// What its process does.
    pub replica: Replica,
    /// It runs a task. Only the database says so.
    pub busy: bool,
    /// It is being deleted, since this tick.
    pub ending: Option<u8>,
    /// Its drain is cut short.
    pub hurried: bool,
    /// Its replica runs on this database. Only that one says so.
    pub on: Which,
}

impl Pod {
    /// A new one.
    fn new(ordinal: u8, uid: u8, template: u8) -> Self {
        Self {
            ordinal,
            uid,
            template,
            replica: Replica::Starting,
            busy: false,
            ending: None,
            hurried: false,
            on: Which::Own,
        }
    }

    /// One that has come up.
    pub fn active(ordinal: u8, uid: u8, template: u8) -> Self {
        Self {
            replica: Replica::Active,
            ..Self::new(ordinal, uid, template)
        }
    }

    /// It does what a drain is to let it finish.
    fn works(self) -> bool {
        match self.replica {
            Replica::Migrating => true,
            Replica::Active => self.busy,
            Replica::Starting | Replica::Failing | Replica::Frozen | Replica::Stuck => false,
        }
    }

    /// It is to end, and its drain hook waits for what it does.
    pub fn drains(self) -> bool {
        self.ending.is_some() && !self.hurried && self.works()
    }
}

/// What the status holds that a later decision may rest on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Status {
    /// The endpoint is known.
    pub endpoint: bool,
    /// This database has been read.
    pub identity: Option<Which>,
    /// A replica has last been seen to serve on this one; only where there may be several, or
    /// another cluster on it.
    pub served: Option<Which>,
    /// The endpoint is not the one that the spec names by now, which leads to the same database.
    pub elsewhere: bool,
    /// It was refused.
    pub refusal: Option<(Reason, String)>,
    /// The tick at which the license ends that was last read.
    pub license: Option<u8>,
    /// What was last read allowed one replica only.
    pub unlicensed: Option<Reason>,
    /// Since which tick no license has allowed several replicas.
    pub unlicensed_since: Option<u8>,
    /// The minor version of the schema that was last read.
    pub schema: Option<u32>,
    /// The minor version that served last, as long as that of the schema is not known.
    pub version: Option<u32>,
    /// What a rollout waits for, where a later decision rests on it.
    pub rollout: Option<Waited>,
}

/// What a rollout waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waited {
    /// In one word.
    pub for_: RolloutWait,
    /// Ordinal of the pod that it is about.
    pub ordinal: Option<u8>,
    /// Since this tick.
    pub since: u8,
    /// Only a scale-down has waited.
    pub scale_down_only: bool,
}

/// Eviction of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Eviction {
    /// Uid of the pod.
    pub uid: u8,
    /// Its ordinal.
    pub ordinal: u8,
    /// Whether it served when that was decided. One that does not serve may go at any time: no
    /// work is lost with it.
    pub served: bool,
    /// The pod that has its name is hit; never so but for a bug.
    pub by_name: bool,
    /// Its drain is cut short.
    pub hurried: bool,
}

/// One write of the operator.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Write {
    /// The StatefulSet.
    Set(Set),
    /// Eviction of a pod.
    Evict(Eviction),
    /// The drain hook of the pod of this uid is asked to let its replica end.
    LetGo(u8),
    /// The status.
    Status(Status),
}

/// An operator process.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a thing of its own that it knows"
)]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Operator {
    /// StatefulSet and pods as its watches last saw them.
    pub cache: (Option<Set>, Vec<Pod>),
    /// What of the StatefulSet its controller had seen by then.
    pub acted_on: Option<Set>,
    /// The controller counted pods of it then. Nothing rests on that but a rollout with downtime.
    pub has_pods: bool,
    /// Its latest reading.
    pub reading: Reading,
    /// What its latest good reading said of the database.
    pub last_good: Option<Database>,
    /// The license as it last understood it.
    pub license: LicenseRead,
    /// The minor version of the schema as it last understood it.
    pub schema: Option<u32>,
    /// An older cluster has the database, as far as it knows.
    pub shared: bool,
    /// Uid of the pod that it evicted last, while its cache may show it as before.
    pub evicted: Option<u8>,
    /// Writes of a reconcile that are still to be made, first first.
    pub pending: Vec<Write>,
    /// The StatefulSet that the one among them was decided on. The API server takes it for no
    /// other.
    pub decided_on: Option<Set>,
    /// Nothing has changed since a reconcile that wrote nothing.
    pub settled: bool,
    /// The tick at which there is to be another all the same.
    pub due: Option<u8>,
    /// Another process was there before it.
    pub succeeds: bool,
    /// The last reconcile wrote the StatefulSet and left the status to the next one.
    pub status_due: bool,
    /// The cluster as its watch last showed it; `None`: as it is stored.
    pub cluster: Option<Cluster>,
}

/// A cluster, as a watch that lags shows it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Cluster {
    /// What the user wanted, and the status of then.
    pub shown: (Spec, Status),
    /// The status that this process has written since then, or found where it was to write one.
    pub written: Option<Status>,
    /// Where the watch shows one version after the other. `None`: it shows the newest at once, and
    /// no other process writes.
    pub versions: Option<Versions>,
}

/// Versions of a cluster, counted from the one that the watch shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Versions {
    /// So many may not be shown yet: the watch shows those before them at once.
    pub most: usize,
    /// Those that it is still to show, first first. The last one is stored.
    pub to_come: Vec<(Spec, Status)>,
    /// That of the status in `written`, if there is one.
    pub written: u8,
    /// What the status that is still to be written was decided on: the version (`None`: one from
    /// before the one that is shown) and its status.
    pub base: Option<(Option<u8>, Status)>,
}

impl Versions {
    /// The one that is stored.
    fn stored(&self) -> u8 {
        u8::try_from(self.to_come.len()).unwrap_or(u8::MAX)
    }
}

impl Cluster {
    /// As a watch shows it that has caught up. `steps`: it shows one version after the other, and
    /// so many may not be shown yet.
    pub fn shown(spec: Spec, status: Status, steps: usize) -> Self {
        Self {
            shown: (spec, status),
            written: None,
            versions: (steps > 0).then(|| Versions {
                most: steps,
                ..Versions::default()
            }),
        }
    }

    /// The status, as far as this process knows.
    fn status(&self) -> &Status {
        self.written.as_ref().unwrap_or(&self.shown.1)
    }

    /// The watch shows the next version. Whether that is the echo of the last write, which wakes no
    /// one.
    fn shows_next(&mut self) -> bool {
        let Some(versions) = &mut self.versions else {
            return false;
        };
        if versions.to_come.is_empty() {
            return false;
        }
        let before = std::mem::replace(&mut self.shown, versions.to_come.remove(0));
        let is_written = self.written.is_some() && versions.written == 1;
        versions.written = versions.written.saturating_sub(1);
        if versions.written == 0 {
            self.written = None;
        }
        if let Some((version, _)) = &mut versions.base {
            *version = version.and_then(|version| version.checked_sub(1));
        }
        is_written && before.0 == self.shown.0
    }
}

/// A status that a process had sent before it died.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Late {
    /// What is to stand.
    pub status: Status,
    /// The version of the cluster that it was decided on is still the one that is stored.
    pub fits: bool,
}

impl Operator {
    /// A process that has just started.
    pub fn new(set: Option<Set>, acted_on: Option<Set>, pods: Vec<Pod>, succeeds: bool) -> Self {
        Self {
            cache: (set, pods),
            acted_on,
            has_pods: false,
            reading: Reading::None,
            last_good: None,
            license: LicenseRead::Never,
            schema: None,
            shared: false,
            evicted: None,
            pending: Vec::new(),
            decided_on: None,
            settled: false,
            due: None,
            succeeds,
            status_due: false,
            cluster: None,
        }
    }
}

/// What a user wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    /// Replicas.
    pub replicas: u8,
    /// Index of the pod template.
    pub template: u8,
    /// What else is to be said of it.
    pub form: Form,
    /// How a change reaches the replicas.
    pub strategy: Strategy,
}

/// How a change reaches the replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Strategy {
    /// One after the other.
    Rolling,
    /// All end, one starts, then the others.
    Maintenance,
}

/// Whether the spec is acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    /// It is.
    Valid,
    /// It can be, and the user wants nothing to be changed.
    Paused,
    /// It cannot be used.
    Invalid,
}

/// How often something may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// The operator dies.
    pub crashes: u8,
    /// It ends after its last write, and one that has watched all the time takes over.
    pub handovers: u8,
    /// A status that it had sent before it died reaches the API server after that.
    pub late: u8,
    /// The database goes away.
    pub outages: u8,
    /// The database is swapped for another application's, and back.
    pub swaps: u8,
    /// It is swapped for another Bytebase's, and back.
    pub exchanges: u8,
    /// The tables of the database change their form, and back.
    pub renames: u8,
    /// A pooler in transaction mode is put before the database, and taken away.
    pub poolers: u8,
    /// Another Bytebase starts.
    pub others: u8,
    /// The user changes the size.
    pub scales: u8,
    /// The user changes the template.
    pub edits: u8,
    /// The user wants another minor version, a newer one or the one before.
    pub upgrades: u8,
    /// The user wants the minor version from before the beginning.
    pub downgrades: u8,
    /// The user wants the other strategy.
    pub switches: u8,
    /// The schema changes by another hand: a backup is restored, or another Bytebase migrates it.
    pub schemas: u8,
    /// A replica of an upgrade does not come up.
    pub failures: u8,
    /// The user breaks the spec, and corrects it.
    pub mistakes: u8,
    /// The user pauses the cluster, and resumes it.
    pub pauses: u8,
    /// A replica freezes.
    pub freezes: u8,
    /// A node falls silent.
    pub silences: u8,
    /// A user deletes a pod.
    pub deletions: u8,
    /// Another license is stored.
    pub renewals: u8,
    /// A replica claims a task.
    pub tasks: u8,
    /// Another party makes a StatefulSet of the cluster's name, or changes whose it is.
    pub takings: u8,
    /// Minutes that pass.
    pub ticks: u8,
}

/// What the checker remembers and no one in the world does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// What readings have found.
    pub known: Known,
    /// Ordinals that an eviction took down and that have not come back.
    pub evicted: Vec<u8>,
    /// The strategy was not the same all the time.
    pub switched: bool,
    /// A promise that was broken.
    pub broken: Option<Promise>,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// What the user wants.
    pub spec: Spec,
    /// The StatefulSet, as stored.
    pub set: Option<Set>,
    /// The StatefulSet, as its controller last saw it.
    pub acted_on: Option<Set>,
    /// The pods, by ordinal.
    pub pods: Vec<Pod>,
    /// The database.
    pub database: Database,
    /// The status, as stored.
    pub status: Status,
    /// The operator.
    pub operator: Operator,
    /// The status that a process before it had sent, and that has not reached the API server.
    pub late: Option<Late>,
    /// Minutes since the beginning.
    pub tick: u8,
    /// Most replicas that the user ever wants.
    pub most: u8,
    /// The StatefulSet's controller sees each change late.
    pub slow: bool,
    /// What may still happen.
    pub budget: Budget,
    /// For the checker.
    pub ghost: Ghost,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// The watch of StatefulSets catches up.
    SyncSet,
    /// The watch of pods catches up.
    SyncPods,
    /// The StatefulSet's controller sees what is stored.
    Observe,
    /// The probe reads the database.
    Probe,
    /// The operator decides, on what it knows.
    Reconcile,
    /// It makes the next write of that reconcile.
    Write,
    /// It dies, and another process starts.
    Crash,
    /// It ends after its last write, and one that has watched all the time takes over.
    TakeOver,
    /// The watch of clusters catches up, or shows the next version.
    SyncCluster,
    /// A status reaches the API server whose process has died.
    Land,
    /// The StatefulSet's controller makes this pod.
    Make(u8),
    /// It deletes this pod, which is surplus.
    Remove(u8),
    /// A replica begins to migrate the schema.
    Migrate(u8),
    /// It has done so.
    Migrated(u8),
    /// A replica sends its first heartbeat.
    Start(u8),
    /// A pod that was being deleted is gone.
    End(u8),
    /// The time-out of its drain passes, whatever it does.
    Expire(u8),
    /// A replica does not come up.
    Fail(u8),
    /// A replica freezes.
    Freeze(u8),
    /// Its kubelet restarts it.
    Restart(u8),
    /// A replica claims a task.
    Claim(u8),
    /// It has finished it.
    Finish(u8),
    /// A user deletes a pod.
    Delete(u8),
    /// The node of a pod falls silent.
    Silence(u8),
    /// It reports again.
    Report(u8),
    /// The database goes away or comes back.
    Outage,
    /// It is swapped for one with this content.
    Swap(Content),
    /// Another Bytebase starts or stops on it.
    Other,
    /// A license that ends at this tick is stored, or none.
    License(Option<u8>),
    /// The user wants this many replicas.
    Scale(u8),
    /// The user wants the next template.
    Edit,
    /// The user wants this version.
    Upgrade(u8),
    /// The user wants the version from before the beginning.
    Downgrade,
    /// The user wants the other strategy.
    Switch,
    /// The schema has this minor version from now on, by another hand.
    Schema(u32),
    /// The user breaks or corrects the spec.
    Mistake,
    /// The user pauses the cluster or resumes it.
    Pause,
    /// Another party makes the StatefulSet this, from none or from what it was.
    Take(Whose),
    /// It deletes what is its own.
    GiveBack,
    /// A minute passes.
    Tick,
}

impl World {
    /// Every uid that is known anywhere.
    fn uids(&self) -> BTreeSet<u8> {
        let (_, cached) = &self.operator.cache;
        let pods = self.pods.iter().chain(cached).map(|pod| pod.uid);
        let mut uids: BTreeSet<u8> = pods.collect();
        if let Reading::Good(_, active) = &self.operator.reading {
            uids.extend(active.iter().map(|replica| replica.uid));
        }
        let evicted = self
            .operator
            .pending
            .iter()
            .filter_map(|write| match write {
                Write::Evict(eviction) => Some(eviction.uid),
                Write::LetGo(uid) => Some(*uid),
                Write::Set(_) | Write::Status(_) => None,
            });
        uids.extend(evicted);
        uids.extend(self.operator.evicted);
        uids
    }

    /// The same world with the smallest uids: which they are never matters, only which are equal.
    /// Nor does it when there is to be a reconcile that comes at once.
    #[must_use]
    pub fn renumbered(mut self) -> Self {
        self.operator.due = self.operator.due.filter(|_| self.operator.settled);
        let uids: Vec<u8> = self.uids().into_iter().collect();
        let number = |uid: &mut u8| {
            let place = uids.binary_search(uid).unwrap_or(0);
            *uid = u8::try_from(place).unwrap_or(u8::MAX);
        };
        let pods = self.pods.iter_mut().chain(&mut self.operator.cache.1);
        pods.for_each(|pod| number(&mut pod.uid));
        if let Reading::Good(_, active) = &mut self.operator.reading {
            let uids = active.iter_mut().map(|replica| &mut replica.uid);
            uids.for_each(number);
        }
        self.operator.evicted.iter_mut().for_each(number);
        for write in &mut self.operator.pending {
            match write {
                Write::Evict(eviction) => number(&mut eviction.uid),
                Write::LetGo(uid) => number(uid),
                Write::Set(_) | Write::Status(_) => {}
            }
        }
        self
    }

    /// The replicas that send heartbeats.
    pub fn active(&self) -> Vec<Active> {
        let sends = |pod: &&Pod| matches!(pod.replica, Replica::Active | Replica::Stuck);
        let active = |pod: &Pod| Active {
            uid: pod.uid,
            busy: pod.busy,
        };
        let on = self.database.content.which();
        let pods = self.pods.iter().filter(|pod| pod.on == on);
        pods.filter(sends).map(active).collect()
    }

    /// The pods as a watch shows them.
    pub fn shown(&self) -> Vec<Pod> {
        let shown = |pod: &Pod| Pod {
            busy: false,
            hurried: false,
            on: Which::Own,
            replica: match pod.replica {
                Replica::Migrating => Replica::Starting,
                replica => replica,
            },
            ..*pod
        };
        self.pods.iter().map(shown).collect()
    }

    /// What a reading would bring now.
    pub fn reading(&self) -> Reading {
        if self.database.up {
            let database = Database {
                migrates: self.migrates(),
                ..self.database
            };
            Reading::Good(database, self.active())
        } else {
            Reading::Failed
        }
    }

    /// Whether the StatefulSet's controller counts pods, where that matters.
    pub fn has_pods(&self) -> bool {
        self.spec.strategy == Strategy::Maintenance && !self.pods.is_empty()
    }

    /// Whether a replica holds the migration lock.
    fn migrates(&self) -> bool {
        let mut pods = self.pods.iter();
        pods.any(|pod| pod.replica == Replica::Migrating)
    }

    /// Ordinals that the StatefulSet should have and has not.
    pub fn missing(&self) -> Vec<u8> {
        let wanted = self.acted_on.map_or(0..0, Set::ordinals);
        wanted
            .filter(|ordinal| self.pods.iter().all(|pod| pod.ordinal != *ordinal))
            .collect()
    }

    /// Ordinals of pods that the StatefulSet should not have and that are not ending.
    pub fn surplus(&self) -> Vec<u8> {
        let wanted = self.acted_on.map_or(0..0, Set::ordinals);
        let surplus = |pod: &&Pod| !wanted.contains(&pod.ordinal) && pod.ending.is_none();
        self.pods
            .iter()
            .filter(surplus)
            .map(|pod| pod.ordinal)
            .collect()
    }

    /// The pod of this ordinal.
    pub fn pod(&mut self, ordinal: u8) -> Option<&mut Pod> {
        self.pods.iter_mut().find(|pod| pod.ordinal == ordinal)
    }

    /// Everything that happens promptly, as opposed to by chance or by a user's wish.
    pub fn prompt(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        let operator = &self.operator;
        let cached = (operator.cache.0, operator.acted_on, operator.has_pods);
        if cached != (self.set, self.acted_on, self.has_pods()) {
            actions.push(Action::SyncSet);
        }
        if self.acted_on != self.set {
            actions.push(Action::Observe);
        }
        if operator.cache.1 != self.shown() {
            actions.push(Action::SyncPods);
        }
        if operator.reading != self.reading() {
            actions.push(Action::Probe);
        }
        if self.cluster_lags() {
            actions.push(Action::SyncCluster);
        }
        if !operator.pending.is_empty() {
            actions.push(Action::Write);
        } else if !operator.settled {
            actions.push(Action::Reconcile);
        }
        actions.extend(self.missing().into_iter().map(Action::Make));
        actions.extend(self.surplus().into_iter().map(Action::Remove));
        for pod in &self.pods {
            match (pod.replica, pod.ending) {
                // A node that is silent ends nothing.
                (Replica::Stuck, _) => {}
                (_, Some(_)) if !pod.drains() => actions.push(Action::End(pod.ordinal)),
                (Replica::Migrating, _) | (_, None) => actions.extend(self.rises(*pod)),
                (_, Some(_)) => {}
            }
        }
        actions
    }

    /// The next thing that a replica does on its way up. It comes up only on a database that
    /// answers and whose schema it knows: on a newer one it breaks.
    fn rises(&self, pod: Pod) -> Option<Action> {
        let action = match (pod.replica, minor(pod.template).cmp(&self.database.schema)) {
            (Replica::Migrating, _) => Action::Migrated(pod.ordinal),
            (Replica::Starting, Ordering::Equal) => Action::Start(pod.ordinal),
            (Replica::Starting, Ordering::Greater) if !self.migrates() => {
                Action::Migrate(pod.ordinal)
            }
            _ => return None,
        };
        self.database.up.then_some(action)
    }

    /// Everything that may happen by chance or by a user's wish.
    pub fn chance(&self) -> Vec<Action> {
        let budget = &self.budget;
        let mut actions = Vec::from_iter(self.late.is_some().then_some(Action::Land));
        let mut may = |left: u8, action: Action| {
            if left > 0 {
                actions.push(action);
            }
        };
        may(budget.crashes, Action::Crash);
        if self.operator.pending.is_empty() {
            may(budget.handovers, Action::TakeOver);
        }
        if self.database.up {
            may(budget.outages, Action::Outage);
        } else {
            may(1, Action::Outage);
        }
        match self.database.content {
            Content::Bytebase => {
                may(budget.swaps, Action::Swap(Content::Foreign));
                may(budget.exchanges, Action::Swap(Content::Another));
                may(budget.renames, Action::Swap(Content::Renamed));
                may(budget.poolers, Action::Swap(Content::Pooled));
            }
            Content::Foreign | Content::Another | Content::Renamed | Content::Pooled => {
                may(1, Action::Swap(Content::Bytebase));
            }
        }
        if self.database.other {
            may(1, Action::Other);
        } else {
            may(budget.others, Action::Other);
        }
        for size in BTreeSet::from([0, 1, self.most]) {
            if size != self.spec.replicas {
                may(budget.scales, Action::Scale(size));
            }
        }
        may(budget.edits, Action::Edit);
        for version in self.next_versions() {
            may(budget.upgrades, Action::Upgrade(version));
        }
        if self.spec.template == UPGRADES[0] {
            may(budget.downgrades, Action::Downgrade);
        }
        may(budget.switches, Action::Switch);
        for schema in [UPGRADES[0], UPGRADES[1]].map(minor) {
            if schema != self.database.schema {
                may(budget.schemas, Action::Schema(schema));
            }
        }
        match self.spec.form {
            Form::Valid => {
                may(budget.mistakes, Action::Mistake);
                may(budget.pauses, Action::Pause);
            }
            Form::Invalid => may(1, Action::Mistake),
            Form::Paused => may(1, Action::Pause),
        }
        if self.database.license.is_some() {
            may(budget.renewals, Action::License(None));
        }
        may(budget.renewals, Action::License(Some(self.tick + 9)));
        match self.set.map(|set| set.whose) {
            None => may(budget.takings, Action::Take(Whose::ByHand)),
            Some(Whose::Own) => {
                may(budget.takings, Action::Take(Whose::Left));
                may(budget.takings, Action::Take(Whose::Taken));
            }
            Some(Whose::Left) => {}
            Some(Whose::Taken | Whose::ByHand) => may(1, Action::GiveBack),
        }
        for pod in &self.pods {
            let ordinal = pod.ordinal;
            match (pod.replica, pod.ending) {
                (Replica::Active, None) => {
                    if pod.busy {
                        may(1, Action::Finish(ordinal));
                    } else {
                        may(budget.tasks, Action::Claim(ordinal));
                    }
                    may(budget.freezes, Action::Freeze(ordinal));
                    may(budget.silences, Action::Silence(ordinal));
                    may(budget.deletions, Action::Delete(ordinal));
                }
                (Replica::Active, Some(_)) if pod.drains() => {
                    may(1, Action::Finish(ordinal));
                    may(1, Action::Expire(ordinal));
                }
                (Replica::Starting | Replica::Migrating, None) if pod.template > 0 => {
                    may(budget.failures, Action::Fail(ordinal));
                }
                (Replica::Frozen | Replica::Failing, None) => may(1, Action::Restart(ordinal)),
                (Replica::Stuck, _) => may(1, Action::Report(ordinal)),
                _ => {}
            }
        }
        if budget.ticks > 0 && self.prompt().is_empty() {
            actions.push(Action::Tick);
        }
        actions
    }

    /// The versions on both sides of the wanted one.
    fn next_versions(&self) -> Vec<u8> {
        let wanted = UPGRADES
            .iter()
            .position(|version| *version == self.spec.template);
        let is_next = |place: usize| wanted.is_some_and(|wanted| wanted.abs_diff(place) == 1);
        let places = (0..UPGRADES.len()).filter(|place| is_next(*place));
        places.map(|place| UPGRADES[place]).collect()
    }

    /// The world after an action that needs no decision. [`Action::Reconcile`] is not one.
    pub fn after(&self, action: Action) -> Self {
        let mut world = self.clone();
        match action {
            Action::Reconcile => {}
            Action::SyncSet => {
                world.operator.cache.0 = world.set;
                world.operator.acted_on = world.acted_on;
                world.operator.has_pods = world.has_pods();
                world.operator.settled = false;
            }
            Action::Observe => world.acted_on = world.set,
            Action::SyncPods => {
                world.operator.cache.1 = world.shown();
                let pods = &world.pods;
                world.operator.evicted = world
                    .operator
                    .evicted
                    .filter(|uid| pods.iter().any(|pod| pod.uid == *uid));
                world.operator.settled = false;
            }
            Action::Probe => {
                world.operator.reading = world.reading();
                world.operator.settled = false;
                if let Reading::Good(database, _) = &world.operator.reading {
                    world.operator.last_good = Some(*database);
                }
                let before = world.operator.schema;
                world.operator.schema = Knowledge::of_schema(&world.operator.reading, before);
                let understood = Knowledge::of_license(&world.operator.reading);
                world.operator.license = understood.unwrap_or(world.operator.license);
                let known = &mut world.ghost.known.process;
                known.learn(&world.operator.reading, world.tick);
            }
            Action::Write => world.write(),
            Action::Crash => {
                world.budget.crashes -= 1;
                world.leaves_late();
                world.is_succeeded();
            }
            Action::TakeOver => {
                world.budget.handovers -= 1;
                world.is_succeeded();
            }
            Action::SyncCluster => world.cluster_is_shown(),
            Action::Land => world.lands(true),
            Action::Make(ordinal) => world.make(ordinal),
            Action::Remove(ordinal) => {
                let tick = world.tick;
                if let Some(pod) = world.pod(ordinal) {
                    pod.ending = Some(tick);
                }
            }
            Action::Migrate(ordinal) => {
                if world.pods.len() > 1 {
                    world.is_not_alone();
                }
                world.becomes(ordinal, Replica::Migrating);
            }
            Action::Migrated(ordinal) => {
                let template = world.pod(ordinal).map_or(0, |pod| pod.template);
                world.database.schema = world.database.schema.max(minor(template));
                world.becomes(ordinal, Replica::Starting);
            }
            Action::Start(ordinal) => {
                world.ghost.evicted.retain(|evicted| *evicted != ordinal);
                world.becomes(ordinal, Replica::Active);
                let on = world.database.content.which();
                if let Some(pod) = world.pod(ordinal) {
                    pod.on = on;
                }
            }
            Action::End(ordinal) | Action::Expire(ordinal) => {
                world.pods.retain(|pod| pod.ordinal != ordinal);
            }
            _ => world.happens(action),
        }
        world
    }

    fn happens(&mut self, action: Action) {
        let budget = &mut self.budget;
        match action {
            Action::Fail(ordinal) => {
                budget.failures -= 1;
                self.becomes(ordinal, Replica::Failing);
            }
            Action::Freeze(ordinal) => {
                budget.freezes -= 1;
                self.becomes(ordinal, Replica::Frozen);
            }
            Action::Delete(ordinal) => {
                budget.deletions -= 1;
                let tick = self.tick;
                if let Some(pod) = self.pod(ordinal) {
                    pod.ending = Some(tick);
                }
            }
            Action::Restart(ordinal) => {
                self.becomes(ordinal, Replica::Starting);
                self.works(ordinal, false);
            }
            Action::Claim(ordinal) => {
                budget.tasks -= 1;
                self.works(ordinal, true);
            }
            Action::Finish(ordinal) => self.works(ordinal, false),
            Action::Silence(ordinal) => {
                budget.silences -= 1;
                self.becomes(ordinal, Replica::Stuck);
            }
            Action::Report(ordinal) => self.becomes(ordinal, Replica::Active),
            Action::Outage => {
                if self.database.up {
                    budget.outages -= 1;
                }
                self.database.up = !self.database.up;
                // Hooks that could not be asked are asked again.
                let drains = self.pods.iter().any(|pod| pod.drains());
                self.operator.settled &= !drains;
            }
            Action::Swap(content) => {
                match content {
                    Content::Foreign => budget.swaps -= 1,
                    Content::Another => budget.exchanges -= 1,
                    Content::Renamed => budget.renames -= 1,
                    Content::Pooled => budget.poolers -= 1,
                    Content::Bytebase => {}
                }
                self.database.becomes(content);
            }
            Action::Other => {
                if !self.database.other {
                    budget.others -= 1;
                }
                self.database.other = !self.database.other;
            }
            Action::License(end) => {
                budget.renewals -= 1;
                self.database.license = end;
            }
            Action::Schema(schema) => {
                budget.schemas -= 1;
                self.database.schema = schema;
            }
            Action::Take(whose) => {
                budget.takings -= 1;
                self.is_taken(whose);
            }
            Action::GiveBack => self.is_given_back(),
            Action::Tick => {
                budget.ticks -= 1;
                self.minute_passes();
            }
            _ => self.is_edited(action),
        }
    }

    /// The user changes the spec.
    fn is_edited(&mut self, action: Action) {
        let budget = &mut self.budget;
        match action {
            Action::Scale(replicas) => {
                budget.scales -= 1;
                self.spec.replicas = replicas;
            }
            Action::Edit => {
                budget.edits -= 1;
                self.spec.template += 1;
            }
            Action::Upgrade(version) => {
                budget.upgrades -= 1;
                self.spec.template = version;
            }
            Action::Downgrade => {
                budget.downgrades -= 1;
                self.spec.template = OLDER;
            }
            Action::Switch => {
                budget.switches -= 1;
                self.spec.strategy = match self.spec.strategy {
                    Strategy::Rolling => Strategy::Maintenance,
                    Strategy::Maintenance => Strategy::Rolling,
                };
                self.ghost.switched = true;
            }
            Action::Mistake => {
                self.spec.form = if self.spec.form == Form::Valid {
                    budget.mistakes -= 1;
                    Form::Invalid
                } else {
                    Form::Valid
                };
            }
            Action::Pause => {
                self.spec.form = if self.spec.form == Form::Valid {
                    budget.pauses -= 1;
                    Form::Paused
                } else {
                    Form::Valid
                };
            }
            _ => return,
        }
        self.is_stored();
        // A watch that lags wakes it later.
        self.operator.settled &= self.operator.cluster.is_some();
    }

    /// The watch of clusters has not shown yet what is stored.
    fn cluster_lags(&self) -> bool {
        let Some(Cluster {
            shown, versions, ..
        }) = &self.operator.cluster
        else {
            return false;
        };
        match versions {
            Some(versions) => !versions.to_come.is_empty(),
            None => (&shown.0, &shown.1) != (&self.spec, &self.status),
        }
    }

    /// It does, or shows the next version.
    fn cluster_is_shown(&mut self) {
        let Some(cluster) = &mut self.operator.cluster else {
            return;
        };
        if cluster.versions.is_some() {
            self.operator.settled &= cluster.shows_next();
            return;
        }
        // Its own write wakes no one.
        let is_echo =
            cluster.shown.0 == self.spec && cluster.written.as_ref() == Some(&self.status);
        *cluster = Cluster::shown(self.spec, self.status.clone(), 0);
        self.operator.settled &= is_echo;
    }

    /// A version of the cluster has been stored.
    fn is_stored(&mut self) {
        if let Some(late) = &mut self.late {
            late.fits = false;
        }
        let Some(cluster) = &mut self.operator.cluster else {
            return;
        };
        let Some(versions) = &mut cluster.versions else {
            return;
        };
        versions.to_come.push((self.spec, self.status.clone()));
        if versions.to_come.len() > versions.most {
            self.operator.settled &= cluster.shows_next();
        }
    }

    /// The process dies, and the status that it has just sent may be on its way.
    fn leaves_late(&mut self) {
        let cluster = self.operator.cluster.as_ref();
        let versions = cluster.and_then(|cluster| cluster.versions.as_ref());
        if self.budget.late > 0
            && let Some(versions) = versions
            && let Some((version, _)) = &versions.base
            && let Some(Write::Status(status)) = self.operator.pending.first()
        {
            self.late = Some(Late {
                status: status.clone(),
                fits: *version == Some(versions.stored()),
            });
            self.budget.late -= 1;
        }
    }

    /// It reaches the API server, which takes it if it is `guarded` only in place of the one that
    /// it was decided on.
    fn lands(&mut self, guarded: bool) {
        let late = self.late.take();
        if let Some(late) = late.filter(|late| late.fits || !guarded) {
            self.status = late.status;
            self.is_stored();
        }
    }

    /// The world after a late status has landed, whichever one stands by then; never so but for a
    /// bug.
    pub fn with_late_status(&self) -> Self {
        let mut world = self.clone();
        world.lands(false);
        world
    }

    /// The world after the watch of clusters has shown something, which is taken for the last
    /// status that this process wrote; never so but for a bug.
    pub fn with_any_echo(&self) -> Self {
        let mut world = self.after(Action::SyncCluster);
        if let Some(cluster) = &mut world.operator.cluster {
            cluster.written = None;
        }
        world
    }

    /// Whether another status stands than the one that the next was decided on. The process then
    /// goes on from the one that stands.
    fn is_outdated(&mut self) -> bool {
        let stored = &self.status;
        let Some(cluster) = &mut self.operator.cluster else {
            return false;
        };
        let Some(versions) = &mut cluster.versions else {
            return false;
        };
        let last = versions.stored();
        let fits = versions.base.take().is_none_or(|(version, status)| {
            // An edit alone leaves the status as it is.
            version == Some(last) || status == *stored
        });
        if !fits {
            versions.written = last;
            cluster.written = (last > 0).then(|| stored.clone());
        }
        !fits
    }

    /// The status has been written.
    fn has_written(&mut self, status: Status) {
        self.status = status;
        self.is_stored();
        let Some(cluster) = &mut self.operator.cluster else {
            return;
        };
        cluster.written = Some(self.status.clone());
        if let Some(versions) = &mut cluster.versions {
            versions.written = versions.stored();
        }
    }

    /// Takes note of what a status that is to be written was decided on.
    fn note_base(&mut self) {
        let mut pending = self.operator.pending.iter();
        let writes = pending.any(|write| matches!(write, Write::Status(_)));
        let Some(cluster) = &mut self.operator.cluster else {
            return;
        };
        let status = cluster.status().clone();
        let is_written = cluster.written.is_some();
        if let Some(versions) = &mut cluster.versions {
            let version = if is_written { versions.written } else { 0 };
            versions.base = writes.then_some((Some(version), status));
        }
    }

    /// Another process begins to decide, once its watches show what was stored when it began to
    /// lead: it compares them first, and has one that is behind list again.
    fn is_succeeded(&mut self) {
        let lags = self.operator.cluster.as_ref();
        let most = |cluster: &Cluster| {
            cluster
                .versions
                .as_ref()
                .map_or(0, |versions| versions.most)
        };
        let steps = lags.map(most);
        self.operator = Operator {
            has_pods: self.has_pods(),
            cluster: steps.map(|steps| Cluster::shown(self.spec, self.status.clone(), steps)),
            ..Operator::new(self.set, self.acted_on, self.shown(), true)
        };
        self.ghost.known.dies();
    }

    /// The world after another process has taken over that decides on what its watches had shown by
    /// then; never so but for a bug.
    pub fn with_old_caches(&self) -> Self {
        let mut world = self.clone();
        world.budget.handovers -= 1;
        let before = &self.operator;
        let (set, pods) = before.cache.clone();
        let cluster = before.cluster.clone().map(|cluster| Cluster {
            written: None,
            ..cluster
        });
        world.operator = Operator {
            has_pods: before.has_pods,
            cluster,
            ..Operator::new(set, before.acted_on, pods, true)
        };
        world.ghost.known.dies();
        world
    }

    /// The world in which the spec and the status are what the operator knows of them.
    pub fn as_known(&self) -> Cow<'_, Self> {
        let Some(cluster) = &self.operator.cluster else {
            return Cow::Borrowed(self);
        };
        let (spec, status) = (&cluster.shown.0, cluster.status());
        if (spec, status) == (&self.spec, &self.status) {
            return Cow::Borrowed(self);
        }
        Cow::Owned(Self {
            spec: *spec,
            status: status.clone(),
            ..self.clone()
        })
    }

    /// Another party has a StatefulSet of the cluster's name.
    fn is_taken(&mut self, whose: Whose) {
        if self.set.is_none() {
            self.set = Some(Set {
                start: 0,
                size: 1,
                template: 0,
                whose,
            });
            self.acted_on = self.set;
        }
        let sets = [&mut self.set, &mut self.acted_on].into_iter().flatten();
        sets.for_each(|set| set.whose = whose);
        // The watch brings this change also where the StatefulSet is by now as it showed it before.
        self.operator.settled = false;
    }

    /// It deletes that with its pods.
    fn is_given_back(&mut self) {
        (self.set, self.acted_on) = (None, None);
        self.operator.settled = false;
        for pod in &mut self.pods {
            pod.ending = pod.ending.or(Some(self.tick));
        }
    }

    /// Time goes on. That alone wakes no operator but one that has said that it would come back.
    pub fn minute_passes(&mut self) {
        self.tick += 1;
        self.operator.settled &= self.operator.due.is_none_or(|due| due > self.tick);
        self.ghost.known.process.is_at(self.tick);
        self.license_has_ended();
    }

    /// The operator knows that no license allows several replicas at this moment.
    pub fn knows_license_ended(&self) -> bool {
        self.ghost.known.process.license.has_ended(self.tick)
    }

    /// No one had anything left to do, so what knew of the end of the license has acted on it.
    fn license_has_ended(&mut self) {
        let Some(since) = self.ghost.known.process.unlicensed else {
            return;
        };
        let is_own = self.set.is_some_and(|set| set.whose.is_own());
        // Before the end one after the other goes, each with its tasks done.
        let waits = self.tick == since && self.pods.iter().any(|pod| pod.drains());
        // A pause is the user's own risk.
        if !is_own || waits || self.spec.form == Form::Paused {
            return;
        }
        let able = |pod: &&Pod| pod.replica != Replica::Stuck;
        let able = self.pods.iter().filter(able);
        let stay = able.clone().filter(|pod| pod.ending.is_none()).count();
        let has_time = |pod: &Pod| {
            let began = pod.ending.map(|ending| ending.max(since));
            began.is_some_and(|began| self.tick <= began + DRAIN_LIMIT)
        };
        let active = able.filter(|pod| pod.replica == Replica::Active && !has_time(pod));
        // No hook can be asked without the database, and a schema migration is never cut short.
        let can_ask = self.database.up && !self.migrates();
        if stay > 1 || (can_ask && active.count() > 1) {
            self.ghost.broken = Some(Promise::Licensed);
        }
    }

    /// The end of a drain that is cut short at this moment comes early: a license that has ended
    /// leaves it some minutes.
    pub fn is_cut_short(&self, pod: Pod) -> bool {
        let began = pod.ending.unwrap_or(self.tick);
        let is_late = self.knows_license_ended() && self.tick >= began + DRAIN_LIMIT;
        pod.works() && !is_late
    }

    fn becomes(&mut self, ordinal: u8, replica: Replica) {
        if let Some(pod) = self.pod(ordinal) {
            pod.replica = replica;
        }
    }

    fn works(&mut self, ordinal: u8, busy: bool) {
        if let Some(pod) = self.pod(ordinal) {
            pod.busy = busy;
        }
    }

    fn make(&mut self, ordinal: u8) {
        let Some(set) = self.acted_on else {
            return;
        };
        let uid = self.uids().last().map_or(0, |last| last + 1);
        if self.pods.iter().any(|pod| pod.template != set.template) {
            self.is_not_alone();
        }
        self.pods.push(Pod::new(ordinal, uid, set.template));
        self.pods.sort_by_key(|pod| pod.ordinal);
    }

    /// A replica starts beside one of another template, or migrates the schema beside any.
    fn is_not_alone(&mut self) {
        if self.spec.strategy == Strategy::Maintenance && !self.ghost.switched {
            self.ghost.broken = Some(Promise::Alone);
        }
    }

    fn write(&mut self) {
        match self.operator.pending.remove(0) {
            Write::Set(set) if self.operator.decided_on.take() == self.set => {
                if self.set.is_some_and(|before| !before.whose.is_own()) {
                    self.ghost.broken = Some(Promise::Others);
                }
                self.set = Some(set);
                if !self.slow {
                    self.acted_on = self.set;
                }
                self.leaves_status();
            }
            // No pod may come back from a template that does not stand.
            Write::Set(_) => {
                // Nothing was applied, so this reconcile is the one that reports.
                self.operator.status_due = false;
                let stays = |write: &Write| !matches!(write, Write::Evict(_));
                self.operator.pending.retain(stays);
            }
            Write::Evict(eviction) => self.evict(eviction),
            Write::LetGo(uid) => {
                let is_up = self.database.up;
                let mut pods = self.pods.iter_mut();
                if let Some(pod) = pods.find(|pod| pod.uid == uid && is_up) {
                    pod.hurried = true;
                }
            }
            // The next reconcile writes it, and leaves it to no other one.
            Write::Status(_) if self.is_outdated() => self.operator.status_due = true,
            Write::Status(status) => self.has_written(status),
        }
        if self.operator.pending.is_empty() && !self.operator.status_due {
            self.ghost.known.wrote_all();
        }
        self.operator.settled = false;
    }

    /// The StatefulSet has just been written, so what was decided rests on an older one: the next
    /// reconcile writes the status. Only once, and not where the schema is gone: a replica that
    /// starts there would hide that.
    fn leaves_status(&mut self) {
        let had = self.as_known().status.schema.is_some();
        let pending = &mut self.operator.pending;
        let empties = |write: &Write| matches!(write, Write::Status(status) if had && status.schema.is_none());
        let leaves = !self.operator.status_due && !pending.iter().any(empties);
        if leaves {
            pending.retain(|write| !matches!(write, Write::Status(_)));
            let cluster = self.operator.cluster.as_mut();
            if let Some(versions) = cluster.and_then(|cluster| cluster.versions.as_mut()) {
                versions.base = None;
            }
        }
        self.operator.status_due = leaves;
    }

    /// Those of the decided writes that are made. The operator waits for the echo of what it wrote
    /// of the StatefulSet before it writes it again, though not for ever. All but a rollout with
    /// downtime is to go without that.
    pub fn made(&self, mut writes: Vec<Write>) -> Vec<Write> {
        let awaits_echo = self.operator.cache.0 != self.set;
        if awaits_echo && self.spec.strategy == Strategy::Maintenance {
            writes.retain(|write| !matches!(write, Write::Set(_)));
        }
        writes.retain(|write| !matches!(write, Write::LetGo(uid) if !self.can_ask(*uid)));
        writes
    }

    /// Whether the drain hook of this pod can be asked something that it has not been asked.
    fn can_ask(&self, uid: u8) -> bool {
        let mut pods = self.pods.iter();
        self.database.up && pods.any(|pod| pod.uid == uid && !pod.hurried)
    }

    /// The oldest minor version of the replicas that are seen to serve.
    fn serves(&self) -> Option<u32> {
        let (operator, (_, pods)) = (&self.operator, &self.operator.cache);
        let serve = pods.iter().filter(|pod| {
            let ends = pod.ending.is_some() || operator.evicted == Some(pod.uid);
            pod.replica == Replica::Active && !ends
        });
        serve.map(|pod| minor(pod.template)).min()
    }

    /// A reconcile begins, which sees whether replicas are heard of.
    pub fn hears_replicas(&mut self) {
        // Where there is only one database, nothing rests on that.
        let is_one = self.budget.exchanges == 0 && self.database.content != Content::Another;
        if is_one && self.ghost.known.process.on.is_none() {
            return;
        }
        let Some(on) = self.is_heard_on() else {
            return;
        };
        let known = &mut self.ghost.known.process;
        if known.on.replace(on) != Some(on) {
            known.learn(&self.operator.reading, self.tick);
        }
    }

    /// The database that shows a heartbeat of one of the replicas that are seen.
    fn is_heard_on(&self) -> Option<Which> {
        let Reading::Good(database, active) = &self.operator.reading else {
            return None;
        };
        let (_, pods) = &self.operator.cache;
        let is_heard = |pod: &Pod| active.iter().any(|active| active.uid == pod.uid);
        let has_id = |pod: &&Pod| {
            matches!(
                pod.replica,
                Replica::Active | Replica::Frozen | Replica::Stuck
            )
        };
        let mut known = pods.iter().filter(has_id);
        known.any(is_heard).then(|| database.content.which())
    }

    /// A reconcile has decided on these writes.
    pub fn decides(&mut self, writes: Vec<Write>, due: Option<u8>) {
        // Before the first reading it writes no status.
        if self.operator.reading != Reading::None {
            let serves = self.serves();
            self.ghost.known.process.sees(serves);
        }
        self.ghost.known.decides();
        if writes.is_empty() {
            self.ghost.known.wrote_all();
        }
        self.operator.settled = writes.is_empty();
        self.operator.due = due;
        let writes_set = writes.iter().any(|write| matches!(write, Write::Set(_)));
        self.operator.status_due &= writes_set;
        self.operator.decided_on = self.operator.cache.0.filter(|_| writes_set);
        self.operator.pending = writes;
        self.note_base();
    }

    fn evict(&mut self, eviction: Eviction) {
        let tick = self.tick;
        // The request names the uid: a successor of the same name is not hit.
        let meant = |pod: &&mut Pod| {
            pod.uid == eviction.uid || (eviction.by_name && pod.ordinal == eviction.ordinal)
        };
        let Some(pod) = self.pods.iter_mut().find(meant) else {
            return;
        };
        if pod.uid != eviction.uid {
            self.ghost.broken = Some(Promise::Meant);
        }
        pod.ending = pod.ending.or(Some(tick));
        pod.hurried |= eviction.hurried;
        let evicted = *pod;
        self.operator.evicted = Some(eviction.uid);
        if eviction.hurried && self.is_cut_short(evicted) {
            self.ghost.broken = Some(Promise::Finished);
        }
        let ordinal = evicted.ordinal;
        // What has been scaled away since is not down.
        let wanted = self.set.map_or(0..0, Set::ordinals);
        self.ghost.evicted.retain(|other| wanted.contains(other));
        if eviction.served && self.ghost.evicted.iter().any(|other| *other != ordinal) {
            self.ghost.broken = Some(Promise::OneDown);
        }
        if !self.ghost.evicted.contains(&ordinal) {
            self.ghost.evicted.push(ordinal);
        }
    }
}
