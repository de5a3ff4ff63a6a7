//! The world after something has happened.

use super::hook::{Hook, Phase, Rules, since};
use super::judge::{loses_work, note_holds};
use super::promises::Promise;
use super::world::{Action, Pod, Run, Stage, World};

impl World {
    /// The world after something has happened.
    pub fn after(&self, rules: &Rules, action: Action) -> Self {
        let mut world = self.clone();
        world.happens(rules, action);
        world.normal(rules);
        world
    }

    fn happens(&mut self, rules: &Rules, action: Action) {
        match action {
            Action::Arrive => {
                self.budget.work -= 1;
                self.pending += 1;
            }
            Action::Promote => self.promote(),
            Action::Claim(place) => self.claim(place),
            Action::Finish(run) => {
                if let Some(index) = self.running.iter().position(|other| *other == run) {
                    self.running.remove(index);
                }
            }
            Action::Outage => toggle(&mut self.up, &mut self.budget.outages),
            Action::Rename => toggle(&mut self.understood, &mut self.budget.renames),
            Action::Drop => toggle(&mut self.has_tables, &mut self.budget.drops),
            Action::Deafen(place) => self.deafen(place),
            Action::Stray(place) => self.stray(place),
            Action::Cut(place) => {
                let tick = self.tick;
                let cut = &mut self.pod_mut(place).cut;
                *cut = if cut.is_some() { None } else { Some(tick) };
                if cut.is_some() {
                    self.budget.cuts -= 1;
                }
            }
            Action::Hang(place) => {
                self.budget.hangs -= 1;
                let tick = self.tick;
                let pod = self.pod_mut(place);
                (pod.cut, pod.hangs) = (Some(tick), true);
            }
            Action::Restart(place) => {
                self.budget.restarts -= 1;
                let highest = self.pods.iter().map(|pod| pod.process).max();
                let pod = self.pod_mut(place);
                pod.earlier = Some(pod.process);
                pod.migrates = false;
                if std::mem::take(&mut pod.hangs) {
                    pod.cut = None;
                }
                pod.process = highest.map_or(0, |highest| highest + 1);
            }
            Action::Migrate(place) => {
                let migrates = &mut self.pod_mut(place).migrates;
                *migrates = !*migrates;
                if *migrates {
                    self.budget.migrations -= 1;
                }
            }
            Action::AskToEnd(place) => {
                self.budget.ends -= 1;
                self.pod_mut(place).stage = Stage::Drains(Hook::new(self.tick));
            }
            Action::Ask(place) => self.ask(place),
            Action::Kill(place) => {
                self.budget.kills -= 1;
                self.returns(place, true);
            }
            Action::Notice(hold) => self.holds.retain(|other| *other != hold),
            Action::Read(place, heartbeat, attempt) => self.read(rules, place, heartbeat, attempt),
            Action::Hold(place, attempt) => self.hold_for_last_reading(place, attempt),
            Action::LastReading(place) => self.read_last(rules, place),
            Action::End(place) => self.end(place),
            Action::Tick => {
                self.budget.ticks -= 1;
                let leaves = |phase| matches!(phase, Phase::Leaves | Phase::ReadsLast { .. });
                if self
                    .pods
                    .iter()
                    .filter_map(Pod::hook)
                    .any(|hook| leaves(hook.phase))
                {
                    self.budget.delays = self.budget.delays.saturating_sub(1);
                }
                self.pass(rules);
            }
        }
    }

    /// Every queued task run may be claimed.
    pub fn promote(&mut self) {
        self.available += self.pending;
        self.pending = 0;
        for place in self.places() {
            if let Some(Phase::Gone { promoted, .. }) =
                self.hook_mut(place).map(|hook| &mut hook.phase)
            {
                *promoted = true;
            }
        }
    }

    /// A replica begins a task run.
    pub fn claim(&mut self, place: u8) {
        let pod = self.pod(place);
        let gone = |hook: &Hook| {
            matches!(
                hook.phase,
                Phase::Gone {
                    promoted: false,
                    waited: true,
                    ..
                }
            )
        };
        let run = Run {
            owner: pod.process,
            started: self.tick,
            late: pod.hook().is_some_and(gone),
        };
        self.available -= 1;
        self.running.push(run);
    }

    fn deafen(&mut self, place: u8) {
        if let Some(hook) = self.hook_mut(place) {
            hook.deaf = !hook.deaf;
            if hook.deaf {
                self.budget.deafnesses -= 1;
            }
        }
    }

    fn stray(&mut self, place: u8) {
        let tick = self.tick;
        if let Some(hook) = self.hook_mut(place) {
            let strays = hook.astray.is_none();
            hook.astray = strays.then_some(tick);
            if strays {
                self.budget.strays -= 1;
            }
        }
    }

    fn ask(&mut self, place: u8) {
        let asked = &mut self.pod_mut(place).asked;
        *asked = !*asked;
        if *asked {
            self.budget.asks -= 1;
        }
    }

    fn end(&mut self, place: u8) {
        if loses_work(self, place) {
            self.breaks(Promise::Finished);
        }
        let pod = self.pod_mut(place);
        pod.migrates = false;
        pod.stage = Stage::Ended;
    }

    /// A step of time passes.
    pub fn pass(&mut self, rules: &Rules) {
        note_holds(self, rules);
        self.tick += 1;
        let tick = self.tick;
        self.holds
            .retain(|hold| tick < hold.until || (rules.forgets_holds() && hold.holder.is_none()));
        if self.holds.iter().any(|hold| hold.until <= tick) {
            self.breaks(Promise::HoldEnds);
        }
        for place in self.places() {
            let Some(hook) = self.hook_mut(place) else {
                continue;
            };
            hook.has_read = false;
            let overdue = hook.elapsed(tick) > rules.terms.timeout + since(0, 2);
            if overdue {
                self.breaks(Promise::TimeOut);
            }
        }
    }

    /// The same world in one form only.
    fn normal(&mut self, rules: &Rules) {
        let hooks = self.pods.iter().filter_map(Pod::hook);
        let mut begun: Vec<u8> = hooks.map(|hook| hook.began).collect();
        begun.sort_unstable();
        for run in &mut self.running {
            let before = begun.iter().rev().find(|began| **began < run.started);
            run.started = before.map_or(0, |began| began + 1);
        }
        self.running.sort_unstable();
        self.holds.sort_unstable();
        self.holds.dedup();
        self.ghost.forget(self.tick, rules.limit());
    }
}

/// Takes away what is there, off the budget, or brings it back.
fn toggle(good: &mut bool, budget: &mut u8) {
    if *good {
        *budget -= 1;
    }
    *good = !*good;
}
