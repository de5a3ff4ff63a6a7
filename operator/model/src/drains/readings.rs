//! What a hook does in the world: it asks the real decisions with what it sees, and does what they
//! say, as `wait.rs` of the hook does. Planted bugs come in between.

use super::hook::{Attempt, Bug, Hook, Phase, Rules, STEP, since};
use super::judge::{has_waited, is_excused};
use super::world::{self, Hold, World};
use bytebase_drain::drain::{LetGo, Run, Seen, Step, may_end, step};
use bytebase_drain::identity::Heartbeat;
use std::time::Duration;

#[allow(
    clippy::cast_precision_loss,
    reason = "the seconds of some hundred steps"
)]
fn seconds(tick: u8) -> f64 {
    (u64::from(tick) * STEP) as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "the end of a window is a whole number of steps, some hundred at most"
)]
fn steps(seconds: f64) -> u8 {
    (seconds / STEP as f64).round() as u8
}

impl World {
    /// What the hook of a pod sees now. `None`: nothing.
    fn seen(&self, rules: &Rules, place: u8) -> Option<Seen> {
        let pod = self.pod(place);
        let hook = pod.hook()?;
        if !self.up || hook.deaf {
            return (rules.bug == Some(Bug::SilenceIsNoSession)).then(|| nothing(self.tick));
        }
        let from = match rules.bug {
            Some(Bug::WindowsOfItsOwn) => seconds(hook.began),
            _ => 0.0,
        };
        let earlier = |bug| pod.earlier.filter(|_| rules.bug == Some(bug));
        let counts = earlier(Bug::EarlierTasksCount);
        let run = |run: &world::Run| Run {
            owner: name(if counts == Some(run.owner) {
                pod.process
            } else {
                run.owner
            }),
            started: seconds(run.started) - from,
        };
        if hook.astray.is_some() {
            let sees = rules.bug != Some(Bug::AwayIsIdle);
            return Some(Seen {
                replica: hook.heartbeats.replica().map(str::to_owned),
                sessions: sees.then_some(0),
                has_tables: Some(true),
                running: Some(Vec::new()),
                available: Some(0),
                ..nothing(self.tick)
            });
        }
        let blind = rules.bug == Some(Bug::UnknownIsIdle) || !self.has_tables;
        let known = hook.heartbeats.replica().map(str::to_owned);
        let asked = match rules.bug {
            Some(Bug::AnyRequestCounts) => self.pods.iter().any(|pod| pod.asked),
            Some(Bug::RequestIgnored) => false,
            _ => pod.asked,
        };
        let sees_migration = match rules.bug {
            Some(Bug::MigrationIgnored) => false,
            Some(Bug::RequestCutsMigration) => !asked,
            _ => true,
        };
        Some(Seen {
            clock: seconds(self.tick) - from,
            replica: earlier(Bug::EarlierIdTaken).map(name).or(known),
            sessions: Some(if pod.cut.is_some() && !pod.hangs {
                0
            } else {
                3
            }),
            quiet: match pod.cut {
                Some(_) if !pod.hangs => None,
                Some(cut) if rules.bug != Some(Bug::HungIsBusy) => {
                    Some(since(cut, self.tick).as_secs_f64())
                }
                _ => Some(0.0),
            },
            migrates: pod.migrates && pod.cut.is_none() && sees_migration,
            // In this world a process that waits for another's migration is an idle one.
            starts: false,
            asked,
            has_tables: Some(self.has_tables || rules.bug == Some(Bug::EmptiedIsIdle)),
            running: match (self.understood && self.has_tables, blind) {
                (true, _) => Some(self.running.iter().map(run).collect()),
                (false, true) => Some(Vec::new()),
                (false, false) => None,
            },
            available: match (self.understood && self.has_tables, blind) {
                (true, _) => Some(u64::from(self.available)),
                (false, true) => Some(0),
                (false, false) => None,
            },
        })
    }

    /// A database with Bytebase's tables answers the hook of this pod.
    fn answers(&self, place: u8) -> bool {
        let answers = |hook: &Hook| hook.astray.is_some() || self.has_tables;
        let hook = self.pod(place).hook().filter(|hook| !hook.deaf);
        self.up && hook.is_some_and(answers)
    }

    /// Keeps the books on the work that a reading shows and that may be claimed.
    fn note_queued(&mut self, place: u8) {
        let process = self.pod(place).process;
        let is_busy = self.running.iter().any(|run| run.owner == process);
        let shows = self.is_reached(place)
            && self.answers(place)
            && self.understood
            && self.available > 0
            && !is_busy;
        let tick = self.tick;
        if let Some(hook) = self.hook_mut(place) {
            hook.queued = shows.then(|| hook.queued.unwrap_or(tick));
        }
    }

    /// The database of its replica answers it.
    fn is_reached(&self, place: u8) -> bool {
        let hook = self.pod(place).hook();
        hook.is_some_and(|hook| self.reaches(hook))
    }

    /// One reading, and what follows from it.
    pub fn read(&mut self, rules: &Rules, place: u8, heartbeat: bool, attempt: Attempt) {
        let tick = self.tick;
        let process = self.pod(place).process;
        let Some(hook) = self.hook_mut(place) else {
            return;
        };
        if heartbeat {
            hook.heartbeats.note(Heartbeat {
                replica: name(process),
                // Two of them must differ, and more are not noted.
                at: name(tick % 2),
            });
        }
        let seen = self.seen(rules, place);
        let answers = self.answers(place);
        self.note_queued(place);
        let Some(hook) = self.hook_mut(place) else {
            return;
        };
        if answers {
            hook.answered = tick;
        }
        hook.has_read = true;
        let mut terms = rules.terms;
        if rules.bug == Some(Bug::NoTimeOut) {
            terms.timeout = Duration::MAX;
        }
        let elapsed = hook.elapsed(tick);
        let memory = &mut hook.memory;
        match step(memory, &terms, elapsed, seen.as_ref(), hook.holds) {
            Step::Wait { hold, .. } => {
                let hold = hold.filter(|_| rules.bug != Some(Bug::NeverHolds));
                let clock = seen.map_or(0.0, |seen| seen.clock);
                let until = hold.map(|until| tick + steps(until - clock));
                self.hold(place, until, attempt);
            }
            Step::LetGo(LetGo::Idle) if rules.bug != Some(Bug::NoLastReading) => {
                hook.phase = Phase::Leaves;
            }
            Step::LetGo(_) => self.returns(place, is_excused(self, rules, place)),
        }
    }

    /// Takes, keeps or ends the hold of a hook that waits.
    fn hold(&mut self, place: u8, until: Option<u8>, attempt: Attempt) {
        let reaches = self.is_reached(place);
        let Some(hook) = self.hook_mut(place) else {
            return;
        };
        let had = std::mem::take(&mut hook.holds);
        let own = |hold: &&mut Hold| hold.holder == Some(place);
        match (until, had) {
            (None, false) => {}
            (None, true) => self.drop_hold(place, reaches),
            (Some(until), true) => {
                // The server may have ended it.
                let found = self
                    .holds
                    .iter_mut()
                    .find(own)
                    .map(|hold| hold.until = until);
                if let Some(hook) = self.hook_mut(place) {
                    hook.holds = found.is_some();
                }
            }
            (Some(until), false) => {
                let new = Hold {
                    holder: Some(place),
                    until,
                    last: false,
                };
                let is_held = self.attempts(new, reaches, attempt);
                if let Some(hook) = self.hook_mut(place) {
                    hook.holds = is_held;
                }
            }
        }
    }

    /// Whether the hook has a new hold afterwards.
    fn attempts(&mut self, hold: Hold, reaches: bool, attempt: Attempt) -> bool {
        if !reaches {
            return false;
        }
        match attempt {
            Attempt::Held => self.holds.push(hold),
            Attempt::Refused => self.budget.refusals -= 1,
            Attempt::Unanswered => {
                self.budget.losses -= 1;
                self.holds.push(Hold {
                    holder: None,
                    ..hold
                });
            }
        }
        attempt == Attempt::Held
    }

    /// Ends the hold of a hook, or leaves it to the server where that is out of reach.
    fn drop_hold(&mut self, place: u8, reaches: bool) {
        if reaches {
            self.holds.retain(|hold| hold.holder != Some(place));
        }
        for hold in &mut self.holds {
            if hold.holder == Some(place) {
                hold.holder = None;
            }
        }
    }

    /// Holds the queue for the last reading: by the session that holds it already, if there is one.
    pub fn hold_for_last_reading(&mut self, place: u8, attempt: Attempt) {
        let (reaches, tick) = (self.is_reached(place), self.tick);
        let Some(hook) = self.hook_mut(place) else {
            return;
        };
        let had = std::mem::take(&mut hook.holds);
        let last = Hold {
            holder: Some(place),
            until: tick + 1,
            last: true,
        };
        let own = |hold: &&mut Hold| hold.holder == Some(place);
        let found = self.holds.iter_mut().find(own).filter(|_| had && reaches);
        let held = if let Some(hold) = found {
            *hold = last;
            true
        } else {
            // The server may have ended it.
            self.drop_hold(place, reaches);
            self.attempts(last, reaches, attempt)
        };
        if let Some(hook) = self.hook_mut(place) {
            let held = held.then_some(tick);
            hook.phase = Phase::ReadsLast { held };
        }
    }

    /// Reads for the last time: returns, or goes on waiting.
    pub fn read_last(&mut self, rules: &Rules, place: u8) {
        let tick = self.tick;
        let mut seen = self.seen(rules, place);
        if let (Some(seen), Some(Bug::LeavesQueuedWork)) = (&mut seen, rules.bug) {
            seen.available = Some(0);
        }
        self.note_queued(place);
        let (answers, reaches) = (self.answers(place), self.is_reached(place));
        let Some(hook) = self.hook_mut(place) else {
            return;
        };
        let Phase::ReadsLast { held } = hook.phase else {
            return;
        };
        if answers {
            hook.answered = tick;
        }
        // A hold that has had its time counts as none.
        let is_held = held == Some(tick) || rules.bug == Some(Bug::LeavesUnheld);
        let elapsed = hook.elapsed(tick);
        let ends = may_end(&mut hook.memory, elapsed, seen.as_ref(), is_held)
            || (seen.is_none() && rules.bug == Some(Bug::LeavesUnanswered));
        if ends {
            self.returns(place, is_excused(self, rules, place));
        } else {
            hook.phase = Phase::Reads;
            self.drop_hold(place, reaches);
        }
    }

    /// A hook has ended, by itself or killed. What it held is left to the server.
    pub fn returns(&mut self, place: u8, excused: bool) {
        self.pod_mut(place).asked = false;
        let waited = has_waited(self, place);
        if let Some(hook) = self.hook_mut(place) {
            hook.holds = false;
            hook.phase = Phase::Gone {
                excused,
                waited,
                promoted: false,
            };
        }
        self.drop_hold(place, false);
    }
}

/// A reading that shows nothing at all.
fn nothing(tick: u8) -> Seen {
    Seen {
        clock: seconds(tick),
        replica: None,
        sessions: Some(0),
        quiet: None,
        migrates: false,
        starts: false,
        asked: false,
        has_tables: None,
        running: None,
        available: None,
    }
}

fn name(id: u8) -> String {
    id.to_string()
}
