//! The world in which the hooks live: replicas that promote, claim and finish work, their pods, a
//! database that may be away, and time.
//!
//! A step of time is six seconds. A hook reads at least once in each, as often as it likes, at any
//! moment among everything else. No replica must promote or claim, so nothing may depend on it.

use super::hook::{Attempt, Hook, Phase};
use super::promises::Promise;

/// A running task run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// The process that claimed it.
    pub owner: u8,
    /// When. Only whether a drain had begun before matters, so it may stand for an earlier time.
    pub started: u8,
    /// It was queued at the last readings of its replica's hook, for as long as that waits for work
    /// to be claimed, and was claimed after them.
    pub late: bool,
}

/// What becomes of a pod.
#[derive(Clone, Debug, PartialEq, Hash)]
pub enum Stage {
    /// It was not asked to end.
    Serves,
    /// It was asked to end: its hook runs, and its replica too.
    Drains(Hook),
    /// It has ended.
    Ended,
}

/// A pod with its replica.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Pod {
    /// Id of the process that runs.
    pub process: u8,
    /// Id of the one before it in the same container.
    pub earlier: Option<u8>,
    /// It does nothing on the database, since this step.
    pub cut: Option<u8>,
    /// That is because its process hangs. Its sessions stay, and nothing brings it back.
    pub hangs: bool,
    /// Its replica migrates the schema, as one does that has just started.
    pub migrates: bool,
    /// The operator asks its hook to let it end.
    pub asked: bool,
    /// What becomes of it.
    pub stage: Stage,
}

impl Pod {
    /// It reaches the database, if that is there.
    pub fn works(&self) -> bool {
        self.cut.is_none() && self.stage != Stage::Ended
    }

    /// Its hook, while it drains.
    pub fn hook(&self) -> Option<&Hook> {
        match &self.stage {
            Stage::Drains(hook) => Some(hook),
            Stage::Serves | Stage::Ended => None,
        }
    }
}

/// A session on the database server that holds the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hold {
    /// The pod whose hook knows of it.
    pub holder: Option<u8>,
    /// The step in which the server ends it by itself.
    pub until: u8,
    /// It is for a last reading.
    pub last: bool,
}

/// How much of what may still happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Budget {
    /// Pods that are asked to end.
    pub ends: u8,
    /// Task runs that are queued.
    pub work: u8,
    /// Times the database goes away.
    pub outages: u8,
    /// Times the database is out of reach for one hook.
    pub deafnesses: u8,
    /// Times a replica loses its sessions.
    pub cuts: u8,
    /// Replicas that hang.
    pub hangs: u8,
    /// Times the table of the tasks is not understood.
    pub renames: u8,
    /// Times Bytebase's tables are dropped.
    pub drops: u8,
    /// Times the login of a hook leads to another database.
    pub strays: u8,
    /// Times a container restarts.
    pub restarts: u8,
    /// Replicas that migrate the schema.
    pub migrations: u8,
    /// Hooks that are killed.
    pub kills: u8,
    /// Times the operator begins to ask a hook to let its replica end.
    pub asks: u8,
    /// Attempts to hold the queue that meet a replica that promotes work at that moment. Promoting
    /// takes a moment: of this and the next two together no more than a hook makes up for.
    pub refusals: u8,
    /// Holds whose hook never learns that they succeeded.
    pub losses: u8,
    /// Steps that pass within the last reading of a hook.
    pub delays: u8,
    /// Steps of time.
    pub ticks: u8,
}

/// What the checker remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// The promise that was broken first.
    pub broken: Option<Promise>,
    /// The first and the last step in which the queue was held, with no pause of the limit between.
    pub spell: Option<(u8, u8)>,
}

impl Ghost {
    /// What was long ago has no part in anything any more.
    pub fn forget(&mut self, tick: u8, limit: u8) {
        self.spell = self.spell.filter(|(_, last)| tick <= last + limit);
    }
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct World {
    /// Time, in steps.
    pub tick: u8,
    /// The database answers.
    pub up: bool,
    /// The table of the tasks is as the hook knows it.
    pub understood: bool,
    /// Bytebase's tables are there.
    pub has_tables: bool,
    /// Task runs that are queued and that no replica may claim yet.
    pub pending: u8,
    /// Task runs that any replica may claim.
    pub available: u8,
    /// Task runs that run, or whose replica ended while they did.
    pub running: Vec<Run>,
    /// The pods.
    pub pods: Vec<Pod>,
    /// Who keeps replicas from promoting work.
    pub holds: Vec<Hold>,
    /// What may still happen.
    pub budget: Budget,
    /// What the checker remembers.
    pub ghost: Ghost,
}

/// What may happen. Pods by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A task run is queued.
    Arrive,
    /// A replica lets the queued ones be claimed.
    Promote,
    /// This one claims one.
    Claim(u8),
    /// A running one ends, one way or the other.
    Finish(Run),
    /// The database goes away, or comes back. Holds stay: only the way to it may be broken.
    Outage,
    /// The same, for one hook alone.
    Deafen(u8),
    /// A replica loses its sessions, or has them again.
    Cut(u8),
    /// A replica hangs for good.
    Hang(u8),
    /// The table of the tasks changes, or is again as it was.
    Rename,
    /// Bytebase's tables are dropped, or come back from a backup.
    Drop,
    /// The login of a hook leads to another database, or back.
    Stray(u8),
    /// A container restarts. What its process ran is not ended by that.
    Restart(u8),
    /// A replica begins to migrate the schema, or is done.
    Migrate(u8),
    /// Kubernetes asks a pod to end.
    AskToEnd(u8),
    /// The operator asks the session of a hook to let the replica end, or asks that no more.
    Ask(u8),
    /// The process of a hook dies: Kubernetes ends the replica.
    Kill(u8),
    /// The server notices that no process is there behind a hold.
    Notice(Hold),
    /// A hook reads. Whether it sees a heartbeat of its replica, and what becomes of its attempt to
    /// hold the queue, should it make one.
    Read(u8, bool, Attempt),
    /// A hook that may return holds the queue for its last reading.
    Hold(u8, Attempt),
    /// It reads for the last time.
    LastReading(u8),
    /// A replica whose hook has returned ends.
    End(u8),
    /// Time passes.
    Tick,
}

impl World {
    /// Where everything begins.
    pub fn new(replicas: u8, begins: u8, budget: Budget) -> Self {
        let pod = |process| Pod {
            process,
            earlier: None,
            cut: None,
            hangs: false,
            migrates: false,
            asked: false,
            stage: Stage::Serves,
        };
        Self {
            tick: begins,
            up: true,
            understood: true,
            has_tables: true,
            pending: 0,
            available: 0,
            running: Vec::new(),
            pods: (0..replicas).map(pod).collect(),
            holds: Vec::new(),
            budget,
            ghost: Ghost::default(),
        }
    }

    /// A pod.
    pub fn pod(&self, place: u8) -> &Pod {
        &self.pods[usize::from(place)]
    }

    /// The same, to be changed.
    pub fn pod_mut(&mut self, place: u8) -> &mut Pod {
        &mut self.pods[usize::from(place)]
    }

    /// The hook of a pod that drains.
    pub fn hook_mut(&mut self, place: u8) -> Option<&mut Hook> {
        match &mut self.pod_mut(place).stage {
            Stage::Drains(hook) => Some(hook),
            Stage::Serves | Stage::Ended => None,
        }
    }

    /// Places of the pods.
    pub fn places(&self) -> impl Iterator<Item = u8> + use<> {
        (0..).take(self.pods.len())
    }

    /// Places of the pods that drain.
    pub fn draining(&self) -> Vec<u8> {
        let drains = |place: &u8| self.pod(*place).hook().is_some();
        self.places().filter(drains).collect()
    }

    fn may_promote(&self) -> bool {
        self.serves() && self.holds.is_empty() && self.pods.iter().any(Pod::works)
    }

    fn may_claim(&self, place: u8) -> bool {
        self.serves() && self.available > 0 && self.pod(place).works()
    }

    /// What is done can be written down.
    fn serves(&self) -> bool {
        self.up && self.has_tables
    }

    /// Everything that may happen.
    pub fn actions(&self) -> Vec<Action> {
        let mut actions = self.work();
        let budget = &self.budget;
        let mut may = |allowed: bool, action: Action| {
            if allowed {
                actions.push(action);
            }
        };
        may(!self.up || budget.outages > 0, Action::Outage);
        may(!self.understood || budget.renames > 0, Action::Rename);
        may(!self.has_tables || budget.drops > 0, Action::Drop);
        let serves = |place: &u8| self.pod(*place).stage == Stage::Serves;
        // Which of them goes first makes no difference.
        if let Some(place) = self.places().find(serves) {
            may(budget.ends > 0, Action::AskToEnd(place));
        }
        for place in self.places() {
            let pod = self.pod(place);
            if pod.stage == Stage::Ended {
                continue;
            }
            let is_back = pod.cut.is_some() && !pod.hangs;
            may(
                is_back || (pod.cut.is_none() && budget.cuts > 0),
                Action::Cut(place),
            );
            may(pod.cut.is_none() && budget.hangs > 0, Action::Hang(place));
            // One at a time, by the lock, and before the replica is asked to end.
            let is_free = self.pods.iter().all(|pod| !pod.migrates);
            let begins = is_free && budget.migrations > 0 && pod.stage == Stage::Serves;
            let works = self.up && pod.works();
            may(works && (pod.migrates || begins), Action::Migrate(place));
            match pod.hook() {
                Some(hook) => {
                    may(hook.deaf || budget.deafnesses > 0, Action::Deafen(place));
                    let strays = hook.astray.is_some() || budget.strays > 0;
                    may(strays, Action::Stray(place));
                    let lives = !matches!(hook.phase, Phase::Gone { .. });
                    may(lives && budget.kills > 0, Action::Kill(place));
                    // Its own session may break off at any time, and the server then forgets.
                    let begins = lives && self.up && budget.asks > 0;
                    may(pod.asked || begins, Action::Ask(place));
                    self.of_hook(place, hook, &mut may);
                }
                None => may(budget.restarts > 0, Action::Restart(place)),
            }
        }
        for hold in &self.holds {
            may(hold.holder.is_none() && !hold.last, Action::Notice(*hold));
        }
        may(budget.ticks > 0 && self.time_may_pass(), Action::Tick);
        actions
    }

    fn work(&self) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.budget.work > 0 {
            actions.push(Action::Arrive);
        }
        if self.pending > 0 && self.may_promote() {
            actions.push(Action::Promote);
        }
        actions.extend(
            self.places()
                .filter(|place| self.may_claim(*place))
                .map(Action::Claim),
        );
        let mut before = None;
        for run in &self.running {
            if self.serves() && before != Some(run) && self.runs(run.owner) {
                actions.push(Action::Finish(*run));
            }
            before = Some(run);
        }
        actions
    }

    /// A process with this id lives and has sessions.
    fn runs(&self, owner: u8) -> bool {
        let owns = |pod: &Pod| pod.process == owner && pod.works();
        self.pods.iter().any(owns)
    }

    fn of_hook(&self, place: u8, hook: &Hook, may: &mut impl FnMut(bool, Action)) {
        let reaches = self.reaches(hook);
        let attempts = [
            (Attempt::Held, true),
            (
                Attempt::Refused,
                reaches && self.may_promote() && self.budget.refusals > 0,
            ),
            (Attempt::Unanswered, reaches && self.budget.losses > 0),
        ];
        match hook.phase {
            Phase::Reads => {
                let heartbeats =
                    reaches && self.pod(place).works() && hook.heartbeats.replica().is_none();
                for heartbeat in [false, true] {
                    for (attempt, allowed) in attempts {
                        may(
                            allowed && (heartbeats || !heartbeat),
                            Action::Read(place, heartbeat, attempt),
                        );
                    }
                }
            }
            Phase::Leaves => {
                for (attempt, allowed) in attempts {
                    may(allowed, Action::Hold(place, attempt));
                }
            }
            Phase::ReadsLast { .. } => may(true, Action::LastReading(place)),
            Phase::Gone { .. } => may(true, Action::End(place)),
        }
    }

    /// The hook reaches the database of its replica.
    pub fn reaches(&self, hook: &Hook) -> bool {
        self.up && !hook.deaf && hook.astray.is_none()
    }

    /// Each hook has read, and what is a matter of moments is over.
    fn time_may_pass(&self) -> bool {
        let mut hooks = self.pods.iter().filter_map(Pod::hook);
        hooks.all(|hook| match hook.phase {
            Phase::Reads => hook.has_read,
            Phase::Leaves | Phase::ReadsLast { .. } => self.budget.delays > 0,
            Phase::Gone { .. } => false,
        })
    }

    /// A promise is broken.
    pub fn breaks(&mut self, promise: Promise) {
        self.ghost.broken = self.ghost.broken.or(Some(promise));
    }
}
