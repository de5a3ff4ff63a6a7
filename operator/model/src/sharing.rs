//! Two clusters whose specs name one database, under one operator: the one that has served there
//! has it, or else the older one, whichever is read first after a restart of operator or server.
//! Each of them lives in a [`World`] of its own, in which the replicas of the other are another
//! Bytebase's; the claims on databases are the real ones.
//!
//! The database has two names. A user may give a cluster that is stopped the other one: then
//! nothing is known of what its spec names, until that has been read.

use crate::bugs;
use crate::check::{Checked, fingerprint};
use crate::database::{Reading, Which};
use crate::knowledge::LicenseRead;
use crate::rules::{ENDPOINT, Rules, identity};
use crate::visit;
use crate::world::{Action, Budget, Replica, Status, Strategy, World, Write};
use anyhow::{Context as _, Result};
use bytebase_operator::api::BytebaseCluster;
use bytebase_operator::observe::claims::{Claimant, Claims, Presence, Sighting};
use jiff::Timestamp;
use kube::runtime::reflector::ObjectRef;
use parking_lot::Mutex;
use serde_json::json;
use stateright::{Model, Property};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// Steps after which a world that misbehaves no more must be as wanted.
const RECOVERY: usize = 200;
/// From one start of the server to the next; it is read in the middle.
const RUNS_FOR: Duration = Duration::from_secs(100);
const ONE_HAS_IT: &str =
    "(c) a cluster does not start on a database that another one is known to have";
const ALONE: &str = "each cluster keeps the promises of one alone";
const SERVES: &str = "once the world behaves, a cluster that wants the database serves, unless another one has it and is stopped";

/// A fault in how it is decided who has the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// It is the one that a process reads first, since the start of the server.
    FirstReadHasIt,
    /// A process that starts does not read the claims in status.
    ClaimsNotLearned,
    /// Another start of the server is another server.
    StartTellsApart,
    /// That a cluster has served is not read back from the status.
    ServingForgotten,
    /// It is not, where the spec names another place than before.
    ServingBoundToName,
    /// A cluster neither asks who has the database nor sees that replicas of the other are active.
    OtherIgnored,
    /// Each of two holds the other, whichever is older.
    AgeIgnored,
}

impl Bug {
    /// All of them.
    const ALL: [Self; 7] = [
        Self::FirstReadHasIt,
        Self::ClaimsNotLearned,
        Self::StartTellsApart,
        Self::ServingForgotten,
        Self::ServingBoundToName,
        Self::OtherIgnored,
        Self::AgeIgnored,
    ];

    /// The property that it breaks, by which it must be found.
    const fn breaks(self) -> &'static str {
        match self {
            Self::FirstReadHasIt
            | Self::ClaimsNotLearned
            | Self::StartTellsApart
            | Self::ServingForgotten
            | Self::ServingBoundToName => ONE_HAS_IT,
            Self::OtherIgnored => ALONE,
            Self::AgeIgnored => SERVES,
        }
    }
}

/// The older and the younger cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Pair {
    clusters: [World; 2],
    /// How often the server has started.
    start: u8,
    /// With which start each cluster's latest reading found it.
    read: [Option<u8>; 2],
    /// What the process has noted of each.
    noted: [Noted; 2],
    /// Who was read first, and with which start: only for the bug that goes by it.
    first: Option<(usize, u8)>,
    /// Whether the spec of each names the database by its other name.
    renamed: [bool; 2],
    crashes: u8,
    outages: u8,
    restarts: u8,
    renamings: u8,
    /// One started on what the other was known to have.
    broken: bool,
}

/// What a process has noted of the claim of one cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Noted {
    /// What its status said at the start of the process, if that named an endpoint.
    learned: Option<Learned>,
    /// The start of the server that a reconcile noted last.
    seen: Option<u8>,
    /// Whether the latest reconcile noted one; `None`: there was no reconcile.
    sees: Option<bool>,
    /// Whether the latest reconcile saw replicas, or a StatefulSet that wants some.
    runs: bool,
    /// Whether a replica had been seen to serve by then.
    served: bool,
}

/// What the status of a cluster said of its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Learned {
    /// The endpoint was the other name.
    renamed: bool,
    /// An identity was known.
    identity: bool,
    /// It had served there.
    served: bool,
}

impl Noted {
    /// What a process that starts finds in a status.
    fn learned(status: &Status, renamed: bool) -> Self {
        Self {
            learned: status.endpoint.then_some(Learned {
                renamed: renamed != status.elsewhere,
                identity: status.identity.is_some(),
                served: status.served.is_some(),
            }),
            ..Self::default()
        }
    }

    fn knows_identity(self) -> bool {
        self.learned.is_some_and(|learned| learned.identity) || self.seen.is_some()
    }
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// To one of the clusters.
    To(usize, Action),
    /// The operator dies, and another process starts.
    Crash,
    /// The database goes away or comes back.
    Outage,
    /// Its server is restarted, so quickly that no process notices.
    Restart,
    /// The spec of a stopped cluster names the database by its other name.
    Rename(usize),
}

/// The rules, and where they begin.
struct Sharing {
    rules: Arc<Rules>,
    bug: Option<Bug>,
    profile: &'static Profile,
    recovered: Mutex<HashMap<u64, bool>>,
    /// What the claims said before, by all that they rest on: the same is asked in many states.
    claimed: Mutex<HashMap<u64, bool>>,
}

/// One run.
#[derive(Debug)]
struct Profile {
    name: &'static str,
    /// The place of the one to which things happen: the older, or the younger one.
    subject: usize,
    /// It runs already.
    running: bool,
    /// It has more states than fit into the small run.
    large: bool,
    /// How often the user changes its size, and deletes a pod of it.
    scales: u8,
    deletions: u8,
    crashes: u8,
    outages: u8,
    restarts: u8,
    renamings: u8,
    finds: &'static [Bug],
}

const PROFILES: [Profile; 5] = [
    Profile {
        name: "one database, two clusters: death, a quick restart of the server, a pod is deleted",
        subject: 0,
        running: true,
        large: false,
        scales: 0,
        deletions: 1,
        crashes: 1,
        outages: 0,
        restarts: 1,
        renamings: 0,
        finds: &[
            Bug::FirstReadHasIt,
            Bug::ClaimsNotLearned,
            Bug::StartTellsApart,
            Bug::OtherIgnored,
        ],
    },
    Profile {
        name: "one database, two clusters: both new, outage",
        subject: 0,
        running: false,
        large: false,
        scales: 0,
        deletions: 0,
        crashes: 0,
        outages: 1,
        restarts: 0,
        renamings: 0,
        finds: &[Bug::AgeIgnored],
    },
    Profile {
        name: "one database, two clusters: both new, the older is stopped and wanted",
        subject: 0,
        running: false,
        large: true,
        scales: 2,
        deletions: 0,
        crashes: 0,
        outages: 0,
        restarts: 0,
        renamings: 0,
        finds: &[],
    },
    Profile {
        name: "one database, two clusters: the younger serves, is stopped and wanted, death",
        subject: 1,
        running: true,
        large: false,
        scales: 2,
        deletions: 0,
        crashes: 1,
        outages: 0,
        restarts: 0,
        renamings: 0,
        finds: &[Bug::ServingForgotten],
    },
    Profile {
        name: "one database, two clusters: the younger serves, is stopped and given another name of it, death",
        subject: 1,
        running: true,
        large: false,
        scales: 2,
        deletions: 0,
        crashes: 1,
        outages: 0,
        restarts: 0,
        renamings: 1,
        finds: &[Bug::ServingBoundToName],
    },
];

/// Runs all of it, or what is quick, and prints what was visited. Returns how many states there
/// are.
pub fn run(quick: bool) -> Result<usize> {
    let mut states = 0;
    for profile in PROFILES.iter().filter(|profile| !(quick && profile.large)) {
        states += visit::every_state(profile.name, Sharing::new(profile, None)?)?;
    }
    for bug in Bug::ALL {
        let mut homes = PROFILES.iter();
        let profile = homes
            .find(|profile| profile.finds.contains(&bug))
            .with_context(|| format!("no profile is to find {bug:?}"))?;
        let model = Sharing::new(profile, Some(bug))?;
        visit::until_found(&format!("{bug:?}"), model, bug.breaks())?;
    }
    let model = Sharing::new(&PROFILES[0], None)?;
    visit::all_can_be_broken(&model, Bug::ALL.map(Bug::breaks))?;
    Ok(states)
}

/// How many bugs are planted.
pub const fn planted() -> usize {
    Bug::ALL.len()
}

impl Sharing {
    fn new(profile: &'static Profile, bug: Option<Bug>) -> Result<Self> {
        let in_rules = (bug == Some(Bug::OtherIgnored)).then_some(bugs::Bug::OthersIgnored);
        Ok(Self {
            rules: Arc::new(Rules::new(in_rules)?.for_several()),
            bug,
            profile,
            recovered: Mutex::default(),
            claimed: Mutex::default(),
        })
    }

    /// What decides for one of the clusters.
    fn of(&self, index: usize) -> Checked {
        let profile = self.profile;
        let is_subject = index == profile.subject;
        let budget = Budget {
            scales: if is_subject { profile.scales } else { 0 },
            deletions: if is_subject { profile.deletions } else { 0 },
            ..Budget::default()
        };
        Checked {
            rules: Arc::clone(&self.rules),
            budget,
            license: Some(200),
            replicas: 1,
            running: profile.running && is_subject,
            strategy: Strategy::Rolling,
            slow: false,
            lags: false,
            steps: 0,
            recovered: Arc::default(),
        }
    }

    fn reconciled(&self, pair: &Pair, index: usize) -> Pair {
        let mut next = pair.clone();
        let world = &pair.clusters[index];
        let stopped = is_stopped(world);
        let served = serves(world) || self.remembers_serving(&world.status);
        if stopped && !served {
            next.noted[index] = Noted::default();
        } else {
            let seen = pair.read[index].filter(|_| is_good(world));
            let noted = &mut next.noted[index];
            noted.sees = Some(seen.is_some());
            noted.seen = seen.or(noted.seen);
            noted.runs = runs(world);
            noted.served = served;
        }
        if next.noted != pair.noted {
            // It may concern the other one, which is woken.
            next.clusters[1 - index].operator.settled = false;
        }
        let shared = !stopped && self.is_shared(&next, index);
        let cluster = &mut next.clusters[index];
        cluster.operator.shared = shared;
        let before = cluster.operator.pending.clone();
        *cluster = self.of(index).step(cluster, Action::Reconcile);
        // Here the status is always written together with the StatefulSet: each state of one
        // cluster counts for every state of the other. The model of one has it wait for the next
        // reconcile.
        let mut writes = cluster.operator.pending.iter();
        cluster.operator.status_due = writes.any(|write| matches!(write, Write::Set(_)));
        let after = &next.clusters[index];
        let starts = before != after.operator.pending && starts(after);
        next.broken |= starts && next.is_known_to_be_of(1 - index);
        next
    }

    /// Whether it is read back from the status that the cluster has served.
    fn remembers_serving(&self, status: &Status) -> bool {
        status.served.is_some()
            && match self.bug {
                Some(Bug::ServingForgotten) => false,
                Some(Bug::ServingBoundToName) => !status.elsewhere,
                _ => true,
            }
    }

    /// Whether the other cluster has the database.
    fn is_shared(&self, pair: &Pair, index: usize) -> bool {
        let other = &pair.noted[1 - index];
        match self.bug {
            Some(Bug::FirstReadHasIt) => {
                return pair.first.is_some_and(|(first, _)| first != index);
            }
            Some(Bug::OtherIgnored) => return false,
            Some(Bug::AgeIgnored) if other.knows_identity() => return true,
            _ => {}
        }
        let runs = runs(&pair.clusters[index]);
        let read = [0, 1].map(|of| pair.read[of].filter(|_| is_good(&pair.clusters[of])));
        let statuses = pair.clusters.each_ref().map(|cluster| &cluster.status);
        let mark = fingerprint(&(index, runs, read, statuses, pair.noted, pair.renamed));
        let before = self.claimed.lock().get(&mark).copied();
        before.unwrap_or_else(|| {
            let shared = self.ask_claims(pair, index, runs, read);
            self.claimed.lock().insert(mark, shared);
            shared
        })
    }

    /// Whether the other cluster has the database, by the operator's own claims.
    fn ask_claims(&self, pair: &Pair, index: usize, runs: bool, read: [Option<u8>; 2]) -> bool {
        let claims = Claims::default();
        let begun = tokio::time::Instant::now();
        let sighting = |start: u8| {
            let since = begun + RUNS_FOR * u32::from(start);
            let at = since
                + if self.bug == Some(Bug::StartTellsApart) {
                    RUNS_FOR * 9
                } else {
                    RUNS_FOR / 2
                };
            let identity = identity(start);
            Sighting {
                identity,
                since,
                at,
            }
        };
        let forgotten = self.bug == Some(Bug::ServingForgotten);
        let clusters = [0, 1].map(|index| {
            let learned = pair.noted[index].learned;
            let learned = learned.map(|learned| Learned {
                served: learned.served && !forgotten,
                ..learned
            });
            cluster(index, learned)
        });
        let keys = clusters.each_ref().map(ObjectRef::from_obj);
        let remembered = |index: usize| self.rules.remembered(&pair.clusters[index].status);
        let served_on = identity(0).database;
        for (index, noted) in pair.noted.iter().enumerate() {
            if noted.learned.is_some() && self.bug != Some(Bug::ClaimsNotLearned) {
                claims.learn(&clusters[index]);
            }
            let remembered = remembered(index);
            let presence = Presence {
                is_refused: false,
                runs: noted.runs,
                moves: false,
                is_readable: None,
                served_on: noted.served.then_some(served_on.as_str()),
            };
            let endpoint = endpoint(pair.renamed[index]);
            let claimant = Claimant::of(&clusters[index], &keys[index]);
            let seen = noted.seen.map(sighting).filter(|_| noted.sees.is_some());
            if seen.is_some() {
                claims.set(&claimant, endpoint, seen, presence, &remembered);
            }
            if noted.sees == Some(false) {
                claims.set(&claimant, endpoint, None, presence, &remembered);
            }
        }
        let latest = |key: &ObjectRef<BytebaseCluster>| {
            let other = keys.iter().position(|known| known == key)?;
            read[other].map(sighting)
        };
        let remembered = remembered(index);
        let uid = clusters[index].metadata.uid.clone().unwrap_or_default();
        let shared = claims.holder(&uid, runs, &remembered, latest);
        shared.is_some()
    }

    fn step(&self, pair: &Pair, step: Step) -> Pair {
        let mut next = pair.clone();
        match step {
            Step::To(index, Action::Reconcile) => next = self.reconciled(pair, index),
            Step::To(index, action) => {
                next.clusters[index] = self.of(index).step(&pair.clusters[index], action);
                if action == Action::Probe {
                    next.is_read(index, self.bug);
                }
            }
            Step::Crash => {
                next.crashes -= 1;
                for index in [0, 1] {
                    let cluster = &mut next.clusters[index];
                    cluster.budget.crashes = 1;
                    *cluster = cluster.after(Action::Crash);
                    next.noted[index] = Noted::learned(&cluster.status, pair.renamed[index]);
                }
                next.read = [None; 2];
                next.first = None;
            }
            Step::Outage => {
                let is_up = next.clusters[0].database.up;
                next.outages -= u8::from(is_up);
                for cluster in &mut next.clusters {
                    cluster.database.up = !is_up;
                }
            }
            Step::Restart => {
                next.restarts -= 1;
                next.start += 1;
            }
            Step::Rename(index) => next.rename(index),
        }
        next.meet();
        next
    }

    /// Whether one of those that want the database has it in the end.
    fn recovers(&self, pair: &Pair) -> bool {
        let mut pair = pair.clone();
        for cluster in &mut pair.clusters {
            cluster.database.up = true;
            cluster.budget = Budget::default();
        }
        (pair.crashes, pair.outages, pair.restarts) = (0, 0, 0);
        pair.renamings = 0;
        let known = || self.recovered.lock();
        let mut visited = Vec::new();
        let mut recovers = false;
        for _ in 0..RECOVERY {
            let mark = fingerprint(&pair);
            let before = known().get(&mark).copied();
            if let Some(before) = before {
                recovers = before;
                break;
            }
            visited.push(mark);
            let Some(step) = pair.prompt().first().copied() else {
                recovers = pair.clusters.iter().any(is_active) == pair.is_wanted();
                break;
            };
            pair = self.step(&pair, step);
        }
        known().extend(visited.into_iter().map(|mark| (mark, recovers)));
        recovers
    }
}

impl Pair {
    /// Everything that happens promptly.
    fn prompt(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, cluster) in self.clusters.iter().enumerate() {
            let mut actions = cluster.prompt();
            let restarted = cluster.database.up && self.read[index] != Some(self.start);
            if restarted && !actions.contains(&Action::Probe) {
                actions.push(Action::Probe);
            }
            steps.extend(actions.into_iter().map(|action| Step::To(index, action)));
        }
        steps
    }

    fn chance(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (index, cluster) in self.clusters.iter().enumerate() {
            // The database is the pair's.
            let own = cluster
                .chance()
                .into_iter()
                .filter(|action| matches!(action, Action::Scale(_) | Action::Delete(_)));
            steps.extend(own.map(|action| Step::To(index, action)));
        }
        let is_up = self.clusters[0].database.up;
        steps.extend((self.crashes > 0).then_some(Step::Crash));
        steps.extend((self.outages > 0 || !is_up).then_some(Step::Outage));
        steps.extend((self.restarts > 0 && is_up).then_some(Step::Restart));
        for (index, cluster) in self.clusters.iter().enumerate() {
            let may = self.renamings > 0 && is_stopped(cluster) && cluster.status.served.is_some();
            steps.extend((may && has_ended(cluster)).then_some(Step::Rename(index)));
        }
        steps
    }

    /// The spec of a cluster names the database by its other name. A process begins to read that
    /// one.
    fn rename(&mut self, index: usize) {
        self.renamings -= 1;
        self.renamed[index] = !self.renamed[index];
        self.read[index] = None;
        let noted = &mut self.noted[index];
        (noted.seen, noted.sees) = (None, noted.sees.map(|_| false));
        let World {
            status, operator, ..
        } = &mut self.clusters[index];
        status.elsewhere = !status.elsewhere;
        (operator.reading, operator.last_good) = (Reading::None, None);
        (operator.license, operator.schema) = (LicenseRead::Never, None);
        operator.settled = false;
    }

    /// A reading of one cluster has ended.
    fn is_read(&mut self, index: usize, bug: Option<Bug>) {
        if !is_good(&self.clusters[index]) {
            self.read[index] = None;
            return;
        }
        self.read[index] = Some(self.start);
        let goes_by_it = bug == Some(Bug::FirstReadHasIt);
        if goes_by_it && self.first.is_none_or(|(_, start)| start != self.start) {
            self.first = Some((index, self.start));
        }
    }

    /// Whether this cluster has the database for all that is known: it has served there and the
    /// other has not; or else it is the older one, has been read there, and is not stopped.
    fn is_known_to_be_of(&self, index: usize) -> bool {
        let world = &self.clusters[index];
        let theirs = &self.clusters[1 - index];
        if world.status.served != theirs.status.served {
            return world.status.served.is_some();
        }
        let stopped = is_stopped(world);
        index == 0 && self.noted[index].knows_identity() && !stopped
    }

    /// Whether the database is to be served: by the one cluster that has served there, or by any.
    fn is_wanted(&self) -> bool {
        let wants = |world: &&World| world.spec.replicas > 0;
        let served = self
            .clusters
            .iter()
            .filter(|world| world.status.served.is_some());
        match served.collect::<Vec<_>>()[..] {
            [only] => wants(&only),
            _ => self.clusters.iter().any(|world| wants(&world)),
        }
    }

    /// Each sees the replicas of the other.
    fn meet(&mut self) {
        let active = self.clusters.each_ref().map(is_active);
        self.clusters[0].database.other = active[1];
        self.clusters[1].database.other = active[0];
    }
}

fn is_good(world: &World) -> bool {
    matches!(world.operator.reading, Reading::Good(..))
}

/// Whether there are replicas or are to be, as far as the operator sees.
fn runs(world: &World) -> bool {
    let (set, pods) = &world.operator.cache;
    set.is_some_and(|set| set.size > 0) || !pods.is_empty()
}

/// Whether a replica serves, as far as the operator sees.
fn serves(world: &World) -> bool {
    let Reading::Good(_, active) = &world.operator.reading else {
        return false;
    };
    let mut pods = world.operator.cache.1.iter();
    pods.any(|pod| {
        let has_id = matches!(
            pod.replica,
            Replica::Active | Replica::Frozen | Replica::Stuck
        );
        has_id && active.iter().any(|active| active.uid == pod.uid)
    })
}

/// Whether no replica is wanted, and none is left, as far as the operator sees.
fn is_stopped(world: &World) -> bool {
    world.spec.replicas == 0 && world.operator.cache.1.is_empty()
}

/// Whether no replica is left or is to come, and no write of before is still to be made.
fn has_ended(world: &World) -> bool {
    let none = world.set.is_none_or(|set| set.size == 0) && world.pods.is_empty();
    none && world.operator.pending.is_empty() && !runs(world)
}

/// One of the two names of the database.
fn endpoint(renamed: bool) -> &'static str {
    if renamed {
        "primary.example.com:5432/bytebase"
    } else {
        ENDPOINT
    }
}

fn is_active(world: &World) -> bool {
    !world.active().is_empty()
}

/// Whether a first replica is about to be made. One that a cache does not show yet is not.
fn starts(world: &World) -> bool {
    let none = world.set.is_none_or(|set| set.size == 0) && world.pods.is_empty();
    let mut writes = world.operator.pending.iter();
    none && writes.any(|write| matches!(write, Write::Set(set) if set.size > 0))
}

/// The older or the younger one, with what its status says of its database.
fn cluster(index: usize, learned: Option<Learned>) -> BytebaseCluster {
    let name = ["older", "younger"][index];
    let status = learned.map(|learned| {
        let database = identity(0).database;
        json!({"database": {
            "endpoint": endpoint(learned.renamed),
            "identity": learned.identity.then_some(&database),
            "servedOn": learned.served.then_some(&database),
        }})
    });
    let made = Timestamp::UNIX_EPOCH + Duration::from_secs(u64::from(index == 1));
    let object = json!({
        "apiVersion": "bytebase.com/v1alpha1", "kind": "BytebaseCluster",
        "metadata": {
            "name": name, "namespace": "team", "uid": name, "creationTimestamp": made,
        },
        "spec": {"version": "3.21.1", "externalURL": "https://b.example.com", "database": {}},
        "status": status,
    });
    serde_json::from_value(object).unwrap_or_else(|error| unreachable!("the model's own: {error}"))
}

impl Model for Sharing {
    type State = Pair;
    type Action = Step;

    fn init_states(&self) -> Vec<Pair> {
        let mut clusters = [0, 1].map(|index| self.of(index).begin());
        // One that runs was read before, and seen to serve.
        let Profile {
            subject, running, ..
        } = *self.profile;
        let status = &mut clusters[subject].status;
        let known = running.then_some(Which::Own);
        (status.endpoint, status.identity, status.served) = (running, known, known);
        let mut pair = Pair {
            start: 0,
            read: [None; 2],
            noted: clusters
                .each_ref()
                .map(|world| Noted::learned(&world.status, false)),
            clusters,
            first: None,
            renamed: [false; 2],
            crashes: self.profile.crashes,
            outages: self.profile.outages,
            restarts: self.profile.restarts,
            renamings: self.profile.renamings,
            broken: false,
        };
        pair.meet();
        vec![pair]
    }

    fn actions(&self, pair: &Pair, steps: &mut Vec<Step>) {
        steps.extend(pair.prompt());
        steps.extend(pair.chance());
    }

    fn next_state(&self, pair: &Pair, step: Step) -> Option<Pair> {
        Some(self.step(pair, step))
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HAS_IT, |_: &Self, pair: &Pair| !pair.broken),
            Property::always(ALONE, |_: &Self, pair: &Pair| {
                let mut clusters = pair.clusters.iter();
                clusters.all(|cluster| cluster.ghost.broken.is_none())
            }),
            Property::always(SERVES, |model: &Self, pair| model.recovers(pair)),
        ]
    }
}
