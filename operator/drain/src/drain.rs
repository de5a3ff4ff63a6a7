//! What the hook does next. Pure.

use bytebase_contract::replica::DEAD_AFTER;
use std::hash::{Hash, Hasher};
use std::time::Duration;

/// Between two readings.
pub const PAUSE: Duration = Duration::from_secs(1);
/// Without an answer of the database for so long, nothing is learnt by waiting on.
const UNREACHABLE: Duration = Duration::from_mins(2);
/// What a replica has not asked in so long of answered readings it does not ask: its heartbeat
/// comes each ten seconds, and after an outage of the network it may come later than the hook is
/// back.
const HUNG_AFTER: Duration = Duration::from_secs(15);
/// Longest that work which may be claimed is waited for in an idle replica. Every replica claims
/// what there is each five seconds, so what lies there for longer is none that a replica can claim.
const SETTLING: Duration = Duration::from_secs(12);
/// The replica ends with the queue free after so many attempts to hold it for the last reading. A
/// replica that promotes work at this moment has done so at the next one.
const ATTEMPTS: u8 = 3;

/// How long is waited for what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Longest drain.
    pub timeout: Duration,
    /// Shortest drain: until the Services lead no one here any more.
    pub pause: Duration,
    /// Longest that the queue is held; it is then free for as long. Zero: never.
    pub hold_limit: Duration,
}

/// One reading of the database.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The database's clock, in seconds since 1970.
    pub clock: f64,
    /// Id of the replica beside, where a heartbeat of its own sessions gave it away.
    pub replica: Option<String>,
    /// Sessions of the replica. `None` where they cannot be distinguished from others.
    pub sessions: Option<u64>,
    /// Seconds since a session of the replica asked anything of the database. `None` where that
    /// cannot be seen, or where it has no session.
    pub quiet: Option<f64>,
    /// A session of the replica holds the lock under which the schema is migrated, or one that
    /// cannot be distinguished from the replica's.
    pub migrates: bool,
    /// A session of the replica's present process waits for that lock. A process asks for it once,
    /// before its first heartbeat and before it claims any work, so this one runs nothing.
    pub starts: bool,
    /// The operator asks this hook to let its replica end, whatever tasks it runs.
    pub asked: bool,
    /// Bytebase's tables are in the database, whether this login may use them or not. `None` where
    /// it may be another database than Bytebase's.
    pub has_tables: Option<bool>,
    /// Running task runs: owner, and the database's clock at their start. `None`: the table is
    /// there and cannot be understood, or is locked.
    pub running: Option<Vec<Run>>,
    /// Queued task runs that any replica may claim. `None` likewise.
    pub available: Option<u64>,
}

impl Seen {
    /// The replica has no session, or has asked nothing for long. A server that Bytebase has left
    /// shows the same, so this counts by a session that has just been opened.
    pub fn is_lifeless(&self) -> bool {
        self.is_away() || self.is_quiet()
    }

    /// Bytebase's tables are not in the database: they were dropped, with their database or
    /// without, or no replica has come up yet. What this one runs cannot be known from it.
    fn misses_tables(&self) -> bool {
        self.has_tables == Some(false)
    }

    /// The replica has no session here, and one that works always has. What it runs may be in
    /// another database by now: names and Secrets lead to such a one.
    fn is_away(&self) -> bool {
        self.sessions == Some(0)
    }

    fn is_quiet(&self) -> bool {
        let quiet = self.quiet;
        quiet.is_some_and(|quiet| quiet >= DEAD_AFTER.as_secs_f64())
    }

    /// The same without what it says of the replica's sessions.
    #[must_use]
    pub fn without_sessions(self) -> Self {
        Self {
            sessions: None,
            quiet: None,
            ..self
        }
    }
}

/// A running task run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// The replica that runs it.
    pub owner: String,
    /// When it began.
    pub started: f64,
}

/// What is known from one reading to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The database's clock at the first reading; an earlier time that it showed since, where it
    /// was set back.
    began: Option<f64>,
    /// When the database answered last, since the beginning of the drain. One without Bytebase's
    /// tables has no answer.
    answered: Duration,
    /// Since when each reading has been answered and has shown no session of the replica. What was
    /// not seen does not count.
    disconnected: Option<Duration>,
    /// Since when no reading has shown a session of the replica while one was there without any.
    away: Option<Duration>,
    /// Since when each reading has been answered and has shown that the replica asks nothing.
    hung: Option<Duration>,
    /// Since when each reading has shown an idle replica and work that it may still claim. What was
    /// not seen does not count.
    queued_since: Option<Duration>,
    /// Last readings of an idle replica for which the queue could not be held.
    unheld: u8,
}

impl Hash for State {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let Self {
            began,
            answered,
            disconnected,
            away,
            hung,
            queued_since,
            unheld,
        } = self;
        began.map(f64::to_bits).hash(hasher);
        (answered, disconnected, away, hung, queued_since, unheld).hash(hasher);
    }
}

impl State {
    /// The database works and could not be read: it has no room for one more session, or refuses
    /// the question. The replica has sessions of its own, and its tasks go on.
    pub fn note_life(&mut self, elapsed: Duration) {
        self.answered = elapsed;
    }

    /// There was a reading, answered or not.
    fn note(&mut self, elapsed: Duration, seen: Option<&Seen>) {
        if seen.is_some_and(|seen| !seen.misses_tables()) {
            self.answered = elapsed;
        }
        if seen.is_some_and(|seen| seen.sessions.is_some() && !seen.is_away()) {
            self.away = None;
        }
        // What says nothing of the replica's sessions proves neither that it has one nor that it
        // has none.
        if seen.is_some_and(|seen| seen.sessions.is_none()) {
            return;
        }
        self.disconnected = seen
            .filter(|seen| seen.is_away())
            .map(|_| self.disconnected.unwrap_or(elapsed));
        self.hung = seen
            .filter(|seen| seen.is_quiet())
            .map(|_| self.hung.unwrap_or(elapsed));
    }

    /// What was waited for in an idle replica begins again.
    fn forget_idleness(&mut self) {
        self.queued_since = None;
        self.unheld = 0;
    }

    /// Whether a reading of an idle replica shows work that it may still claim. It is waited for
    /// until it is claimed, by whichever replica. `since`: since when each reading has shown some.
    fn is_settling(&mut self, elapsed: Duration, since: Option<Duration>, seen: &Seen) -> bool {
        self.queued_since = (seen.available != Some(0)).then(|| since.unwrap_or(elapsed));
        let is_new = |since| elapsed.saturating_sub(since) < SETTLING;
        self.queued_since.is_some_and(is_new)
    }

    /// Whether nothing is learnt by waiting on for an answer.
    fn gives_up(&self, elapsed: Duration) -> bool {
        elapsed.saturating_sub(self.answered) >= UNREACHABLE
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Running tasks of this replica.
    Tasks(usize),
    /// Running tasks of any replica, since it is not known which is this one.
    TasksOfAnyone(usize),
    /// The tasks cannot be counted.
    UnknownTasks,
    /// Bytebase's tables, which are not in the database.
    Tables,
    /// A session of the replica, which has none in the database.
    Session,
    /// The schema migration that this replica runs.
    Migration,
    /// Work that is queued already and may still be claimed.
    QueuedWork(u64),
    /// The rest of the pause.
    Pause,
    /// An answer of the database.
    Database,
}

/// Why the replica may end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// It runs nothing.
    Idle,
    /// The time is up.
    TimedOut,
    /// The database has not answered for too long.
    Unreachable,
    /// Bytebase's tables have not been in the database for too long.
    TablesGone,
    /// It has had no session for too long: others have given up its tasks.
    Disconnected,
    /// The operator asks for it: there may not be several replicas, and the tasks have had their
    /// time.
    Asked,
    /// It has sessions and has asked nothing for too long, no heartbeat either: the same as without
    /// a session.
    Hung,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Read again in a moment; `hold`: the queue should be held meanwhile.
    Wait {
        /// For what.
        what: For,
        /// Whether the queue should be held, and until which time of the database's clock.
        hold: Option<f64>,
    },
    /// Return, so that the container is asked to end.
    LetGo(LetGo),
}

/// Decides. `seen`: the reading of this moment, if the database answered. `is_held`: the queue is
/// held now.
pub fn step(
    state: &mut State,
    terms: &Terms,
    elapsed: Duration,
    seen: Option<&Seen>,
    is_held: bool,
) -> Step {
    if elapsed >= terms.timeout.max(terms.pause) {
        return Step::LetGo(LetGo::TimedOut);
    }
    state.note(elapsed, seen);
    let queued_since = state.queued_since.take();
    let Some(seen) = seen else {
        return if state.gives_up(elapsed) && elapsed >= terms.pause {
            Step::LetGo(LetGo::Unreachable)
        } else {
            wait(For::Database)
        };
    };
    let began = state.began.unwrap_or(seen.clock).min(seen.clock);
    state.began = Some(began);
    let is_dead = |since| elapsed.saturating_sub(since) >= DEAD_AFTER;
    if seen.is_away() && state.disconnected.is_some_and(is_dead) && elapsed >= terms.pause {
        return Step::LetGo(LetGo::Disconnected);
    }
    if seen.migrates {
        return wait(For::Migration);
    }
    // Nothing of it is remembered: the operator keeps asking as long as it wants this.
    if seen.asked && elapsed >= terms.pause {
        return Step::LetGo(LetGo::Asked);
    }
    let is_hung = |since| elapsed.saturating_sub(since) >= HUNG_AFTER;
    if seen.is_quiet() && state.hung.is_some_and(is_hung) && elapsed >= terms.pause {
        return Step::LetGo(LetGo::Hung);
    }
    if seen.misses_tables() {
        state.forget_idleness();
        return if state.gives_up(elapsed) && elapsed >= terms.pause {
            Step::LetGo(LetGo::TablesGone)
        } else {
            wait(For::Tables)
        };
    }
    let Some(running) = &seen.running else {
        return wait(For::UnknownTasks);
    };
    let own = own(seen, running);
    let window = window(terms.hold_limit, seen.clock);
    if !own.is_empty() {
        state.forget_idleness();
        // New work keeps coming: without a hold the replica might never become idle.
        let comes_in = seen.replica.is_some() && own.iter().any(|run| run.started > began);
        let what = if seen.replica.is_some() {
            For::Tasks(own.len())
        } else {
            For::TasksOfAnyone(own.len())
        };
        let hold = window.filter(|_| comes_in || is_held);
        return Step::Wait { what, hold };
    }
    if elapsed < terms.pause {
        return wait(For::Pause);
    }
    if seen.is_away() {
        state.forget_idleness();
        // Also where some readings in between were not answered.
        let since = *state.away.get_or_insert(elapsed);
        return if elapsed.saturating_sub(since) >= UNREACHABLE {
            Step::LetGo(LetGo::Disconnected)
        } else {
            wait(For::Session)
        };
    }
    // What is queued already may still be claimed by this replica.
    if state.is_settling(elapsed, queued_since, seen) {
        let queued = seen.available;
        return Step::Wait {
            what: queued.map_or(For::UnknownTasks, For::QueuedWork),
            hold: window,
        };
    }
    Step::LetGo(LetGo::Idle)
}

/// How long to wait before the next reading. Where nothing but the rest of the shortest drain is
/// waited for, no longer than that: the end of every idle replica would come later by what a login
/// takes.
pub fn until_next(what: For, terms: &Terms, elapsed: Duration) -> Duration {
    match what {
        For::Pause => PAUSE.min(terms.pause.saturating_sub(elapsed)),
        _ => PAUSE,
    }
}

/// Whether the replica may end, by the last reading: what an idle replica gets between two readings
/// would be lost. `is_held`: no replica could promote work since before this reading, and none can
/// now. What was promoted before that, after the reading before, may still be claimed.
pub fn may_end(state: &mut State, elapsed: Duration, seen: Option<&Seen>, is_held: bool) -> bool {
    state.note(elapsed, seen);
    let queued_since = state.queued_since.take();
    let Some(seen) = seen else {
        return false;
    };
    let runs = seen.running.as_deref();
    let is_idle = runs.is_some_and(|running| own(seen, running).is_empty());
    if !is_idle || seen.migrates || seen.misses_tables() || seen.is_away() {
        return false;
    }
    if state.is_settling(elapsed, queued_since, seen) {
        return false;
    }
    if !is_held {
        state.unheld = state.unheld.saturating_add(1);
    }
    is_held || state.unheld >= ATTEMPTS
}

/// What this replica runs, or may run as long as it is not known.
fn own<'a>(seen: &Seen, running: &'a [Run]) -> Vec<&'a Run> {
    if seen.starts && seen.replica.is_none() {
        return Vec::new();
    }
    let is_own = |run: &&Run| seen.replica.as_ref().is_none_or(|own| *own == run.owner);
    running.iter().filter(is_own).collect()
}

fn wait(what: For) -> Step {
    Step::Wait { what, hold: None }
}

/// Until when the queue may be held at this time, if it may. Every hook reads the same clock, so
/// all of them together hold the queue for no longer than the limit, and then leave it alone for as
/// long, without a word between them.
pub fn window(limit: Duration, clock: f64) -> Option<f64> {
    let length = limit.as_secs_f64();
    if length <= 0.0 {
        return None;
    }
    let number = (clock / length).floor();
    let ends = (number + 1.0) * length;
    // The last second is left out: a hold takes a moment to end.
    (number.rem_euclid(2.0) < 1.0 && ends - clock > 1.0).then_some(ends)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERMS: Terms = Terms {
        timeout: Duration::from_hours(1),
        pause: Duration::from_secs(5),
        hold_limit: Duration::from_mins(5),
    };
    /// Within a window in which the queue may be held.
    const CLOCK: f64 = 600_010.0;

    fn seen(own: Option<&str>, owners: &[&str]) -> Seen {
        Seen {
            clock: CLOCK,
            replica: own.map(str::to_owned),
            sessions: Some(2),
            quiet: Some(4.0),
            migrates: false,
            starts: false,
            asked: false,
            has_tables: Some(true),
            running: Some(
                owners
                    .iter()
                    .map(|owner| Run {
                        owner: (*owner).to_owned(),
                        started: CLOCK - 100.0,
                    })
                    .collect(),
            ),
            available: Some(0),
        }
    }

    fn at(seconds: u64, seen: Option<&Seen>) -> Step {
        let mut state = State {
            answered: Duration::from_secs(seconds),
            began: Some(CLOCK),
            ..State::default()
        };
        step(
            &mut state,
            &TERMS,
            Duration::from_secs(seconds),
            seen,
            false,
        )
    }

    fn waits(what: For) -> Step {
        Step::Wait { what, hold: None }
    }

    #[test]
    fn only_what_is_its_own_counts_once_it_is_known_and_everything_before() {
        for (own, owners, expected) in [
            (Some("a"), vec!["a", "b"], waits(For::Tasks(1))),
            (Some("a"), vec!["b", "c"], Step::LetGo(LetGo::Idle)),
            (None, vec!["b", "c"], waits(For::TasksOfAnyone(2))),
            (None, vec![], Step::LetGo(LetGo::Idle)),
        ] {
            assert_eq!(
                at(60, Some(&seen(own, &owners))),
                expected,
                "{own:?} {owners:?}"
            );
        }
    }

    #[test]
    fn what_is_not_understood_is_waited_for() {
        let mut unknown = seen(Some("a"), &[]);
        unknown.running = None;
        assert_eq!(at(60, Some(&unknown)), waits(For::UnknownTasks));
        let mut migrating = seen(None, &[]);
        migrating.migrates = true;
        assert_eq!(at(60, Some(&migrating)), waits(For::Migration));
    }

    #[test]
    fn the_pause_is_kept_by_an_idle_replica_too() {
        assert_eq!(at(4, Some(&seen(None, &[]))), waits(For::Pause));
        assert_eq!(at(5, Some(&seen(None, &[]))), Step::LetGo(LetGo::Idle));
    }

    #[test]
    fn one_that_is_asked_waits_for_no_task_but_for_a_migration() {
        let mut unknown = seen(Some("a"), &[]);
        unknown.running = None;
        let mut queued = seen(Some("a"), &[]);
        queued.available = Some(3);
        for reading in [
            seen(Some("a"), &["a"]),
            seen(None, &["b"]),
            seen(Some("a"), &[]),
            unknown,
            queued,
        ] {
            let asked = Seen {
                asked: true,
                ..reading
            };
            assert_eq!(at(5, Some(&asked)), Step::LetGo(LetGo::Asked), "{asked:?}");
            let early = at(4, Some(&asked));
            assert!(matches!(early, Step::Wait { .. }), "{early:?}");
            let migrating = Seen {
                migrates: true,
                ..asked
            };
            assert_eq!(at(3599, Some(&migrating)), waits(For::Migration));
        }
    }

    #[test]
    fn a_request_holds_no_longer_than_it_is_seen() {
        let mut state = State::default();
        let mut at = |seconds, migrates, asked, is_there| {
            let reading = Seen {
                migrates,
                asked,
                ..seen(Some("a"), &["a"])
            };
            let seen = Some(&reading).filter(|_| is_there);
            step(
                &mut state,
                &TERMS,
                Duration::from_secs(seconds),
                seen,
                false,
            )
        };
        assert_eq!(at(10, true, true, true), waits(For::Migration));
        assert_eq!(at(11, false, true, false), waits(For::Database));
        assert_eq!(at(12, false, false, true), waits(For::Tasks(1)));
        assert_eq!(at(13, false, true, true), Step::LetGo(LetGo::Asked));
    }

    #[test]
    fn an_idle_replica_is_read_again_as_soon_as_the_shortest_drain_is_over() {
        let after = |milliseconds, what| {
            until_next(what, &TERMS, Duration::from_millis(milliseconds)).as_millis()
        };
        for (elapsed, expected) in [(0, 1000), (3900, 1000), (4300, 700), (5000, 0), (9000, 0)] {
            assert_eq!(after(elapsed, For::Pause), expected, "{elapsed}");
            // Whatever else is waited for lasts longer.
            assert_eq!(after(elapsed, For::Tasks(1)), 1000, "{elapsed}");
            assert_eq!(after(elapsed, For::Database), 1000, "{elapsed}");
        }
    }

    #[test]
    fn the_time_out_ends_everything() {
        let busy = seen(Some("a"), &["a"]);
        assert_eq!(at(3599, Some(&busy)), waits(For::Tasks(1)));
        assert_eq!(at(3600, Some(&busy)), Step::LetGo(LetGo::TimedOut));
        assert_eq!(at(3600, None), Step::LetGo(LetGo::TimedOut));
    }

    #[test]
    fn a_database_without_room_for_one_more_session_is_not_away() {
        let mut state = State::default();
        let mut at = |seconds| {
            let elapsed = Duration::from_secs(seconds);
            state.note_life(elapsed);
            step(&mut state, &TERMS, elapsed, None, false)
        };
        for seconds in [1, 60, 121, 3599] {
            assert_eq!(at(seconds), waits(For::Database));
        }
        assert_eq!(at(3600), Step::LetGo(LetGo::TimedOut));
    }

    #[test]
    fn a_database_that_answers_all_but_the_tasks_is_not_away() {
        let mut state = State::default();
        let mut locked = seen(Some("a"), &[]);
        (locked.running, locked.available) = (None, None);
        let mut at = |seconds, seen: Option<&Seen>| {
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, seen, false)
        };
        for seconds in [1, 60, 121, 3000] {
            assert_eq!(at(seconds, Some(&locked)), waits(For::UnknownTasks));
        }
        // From the last such answer on it has its two minutes.
        assert_eq!(at(3119, None), waits(For::Database));
        assert_eq!(at(3120, None), Step::LetGo(LetGo::Unreachable));
    }

    #[test]
    fn sessions_of_a_server_that_bytebase_may_have_left_do_not_count() {
        let busy = seen(Some("a"), &["a"]);
        for (sessions, quiet, is_lifeless) in [
            (Some(0), None, true),
            (Some(2), Some(60.0), true),
            (Some(2), Some(59.0), false),
            (Some(2), None, false),
            (None, None, false),
        ] {
            let reading = Seen {
                sessions,
                quiet,
                ..busy.clone()
            };
            assert_eq!(reading.is_lifeless(), is_lifeless, "{reading:?}");
            let reading = reading.without_sessions();
            assert!(!reading.is_lifeless());
            let mut state = State::default();
            for seconds in [1, 61, 600] {
                let elapsed = Duration::from_secs(seconds);
                let next = step(&mut state, &TERMS, elapsed, Some(&reading), false);
                assert_eq!(next, waits(For::Tasks(1)));
            }
        }
    }

    #[test]
    fn a_reading_that_says_nothing_of_sessions_begins_no_minute_again() {
        let without = Seen {
            sessions: Some(0),
            quiet: None,
            ..seen(Some("a"), &["a"])
        };
        let hung = Seen {
            sessions: Some(2),
            quiet: Some(70.0),
            ..without.clone()
        };
        for (reading, minute, why) in [(without, 60, LetGo::Disconnected), (hung, 15, LetGo::Hung)]
        {
            let mut state = State::default();
            let mut at = |seconds, seen: &Seen| {
                let elapsed = Duration::from_secs(seconds);
                step(&mut state, &TERMS, elapsed, Some(seen), false)
            };
            assert_eq!(at(10, &reading), waits(For::Tasks(1)));
            // The server has no room for the session that would show it.
            let unproven = reading.clone().without_sessions();
            assert_eq!(at(12, &unproven), waits(For::Tasks(1)));
            assert_eq!(at(10 + minute, &unproven), waits(For::Tasks(1)));
            assert_eq!(at(10 + minute, &reading), Step::LetGo(why));
        }
    }

    #[test]
    fn a_database_that_is_away_has_two_minutes_each_time() {
        let mut state = State::default();
        let mut at = |seconds, seen: Option<&Seen>| {
            step(
                &mut state,
                &TERMS,
                Duration::from_secs(seconds),
                seen,
                false,
            )
        };
        let busy = seen(Some("a"), &["a"]);
        assert_eq!(at(100, Some(&busy)), waits(For::Tasks(1)));
        assert_eq!(at(219, None), waits(For::Database));
        assert_eq!(at(219, Some(&busy)), waits(For::Tasks(1)));
        assert_eq!(at(338, None), waits(For::Database));
        assert_eq!(at(339, None), Step::LetGo(LetGo::Unreachable));
    }

    /// A reading of a database without Bytebase's tables.
    fn without_tables(sessions: Option<u64>) -> Seen {
        Seen {
            sessions,
            quiet: sessions.filter(|count| *count > 0).map(|_| 4.0),
            has_tables: Some(false),
            ..seen(None, &[])
        }
    }

    #[test]
    fn tables_that_went_in_the_middle_of_a_drain_leave_unknown_what_runs() {
        for sessions in [Some(2), None] {
            let mut state = State::default();
            let mut at = |seconds, seen: Option<&Seen>| {
                let elapsed = Duration::from_secs(seconds);
                step(&mut state, &TERMS, elapsed, seen, false)
            };
            let gone = without_tables(sessions);
            let busy = seen(None, &["a"]);
            assert_eq!(at(10, Some(&busy)), waits(For::TasksOfAnyone(1)));
            for seconds in [11, 60, 129] {
                assert_eq!(at(seconds, Some(&gone)), waits(For::Tables));
            }
            // A backup was restored: the two minutes begin again with the next loss.
            assert_eq!(at(129, Some(&busy)), waits(For::TasksOfAnyone(1)));
            assert_eq!(at(130, Some(&gone)), waits(For::Tables));
            // Dropped, for a moment away, and made again: one loss.
            assert_eq!(at(200, None), waits(For::Database));
            assert_eq!(at(248, Some(&gone)), waits(For::Tables));
            assert_eq!(at(249, Some(&gone)), Step::LetGo(LetGo::TablesGone));
        }
    }

    /// Such as the server to which a name or a Secret leads by now, while the one on which the
    /// replica works has no room for a moment.
    #[test]
    fn a_replica_without_a_session_is_not_idle() {
        let mut state = State::default();
        let mut at = |seconds, seen: &Seen| {
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, Some(seen), false)
        };
        let busy = seen(Some("a"), &["a"]);
        let elsewhere = Seen {
            sessions: Some(0),
            ..seen(Some("a"), &[])
        };
        assert_eq!(at(20, &busy), waits(For::Tasks(1)));
        assert_eq!(at(21, &elsewhere), waits(For::Session));
        assert_eq!(at(22, &busy), waits(For::Tasks(1)));
        assert_eq!(at(23, &elsewhere), waits(For::Session));
        assert_eq!(at(82, &elsewhere), waits(For::Session));
        assert_eq!(at(83, &elsewhere), Step::LetGo(LetGo::Disconnected));
        let elapsed = Duration::from_secs(24);
        assert!(!may_end(
            &mut State::default(),
            elapsed,
            Some(&elsewhere),
            true
        ));
        // A database that misses a reading now and then begins no minute again.
        let mut state = State::default();
        let mut at = |seconds, seen: Option<&Seen>| {
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, seen, false)
        };
        for seconds in [20, 60, 100, 138] {
            assert_eq!(at(seconds, Some(&elsewhere)), waits(For::Session));
            assert_eq!(at(seconds + 1, None), waits(For::Database));
        }
        let disconnected = Step::LetGo(LetGo::Disconnected);
        assert_eq!(at(140, Some(&elsewhere)), disconnected);
        // The same on an empty database, where one may never have come up.
        let mut state = State::default();
        let away = without_tables(Some(0));
        let mut at = |seconds| {
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, Some(&away), false)
        };
        assert_eq!(at(0), waits(For::Tables));
        assert_eq!(at(59), waits(For::Tables));
        assert_eq!(at(60), Step::LetGo(LetGo::Disconnected));
    }

    #[test]
    fn whether_a_replica_with_a_session_has_come_up_is_unknown_without_tables() {
        for sessions in [Some(2), None] {
            let mut state = State::default();
            let mut at = |seconds, seen: &Seen| {
                let elapsed = Duration::from_secs(seconds);
                step(&mut state, &TERMS, elapsed, Some(seen), false)
            };
            let connected = without_tables(sessions);
            for seconds in [0, 15, 119] {
                assert_eq!(at(seconds, &connected), waits(For::Tables));
            }
            assert_eq!(at(120, &connected), Step::LetGo(LetGo::TablesGone));
        }
        // One that comes up makes the tables.
        let mut state = State::default();
        let mut at = |seconds, seen: &Seen| {
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, Some(seen), false)
        };
        let migrating = Seen {
            migrates: true,
            ..without_tables(Some(2))
        };
        assert_eq!(at(5, &without_tables(Some(1))), waits(For::Tables));
        assert_eq!(at(6, &migrating), waits(For::Migration));
        assert_eq!(at(500, &seen(None, &[])), Step::LetGo(LetGo::Idle));
    }

    #[test]
    fn a_replica_without_a_session_for_a_minute_has_lost_its_tasks() {
        let mut state = State::default();
        let mut away = seen(None, &["b"]);
        let mut at = |seconds, sessions| {
            away.sessions = sessions;
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, Some(&away), false)
        };
        assert_eq!(at(30, Some(1)), waits(For::TasksOfAnyone(1)));
        assert_eq!(at(31, Some(0)), waits(For::TasksOfAnyone(1)));
        assert_eq!(at(90, Some(0)), waits(For::TasksOfAnyone(1)));
        assert_eq!(at(91, Some(0)), Step::LetGo(LetGo::Disconnected));
        // Where sessions cannot be distinguished, none is known to be missing.
        assert_eq!(at(200, None), waits(For::TasksOfAnyone(1)));
    }

    #[test]
    fn a_replica_whose_sessions_ask_nothing_for_a_minute_hangs() {
        for own in [Some("a"), None] {
            let reading = |quiet, migrates| Seen {
                quiet,
                migrates,
                ..seen(own, &["a", "b"])
            };
            let mut state = State::default();
            let mut lets_go = |seconds, seen: Option<Seen>| {
                let elapsed = Duration::from_secs(seconds);
                let next = step(&mut state, &TERMS, elapsed, seen.as_ref(), false);
                let hung = next == Step::LetGo(LetGo::Hung);
                assert!(hung || matches!(next, Step::Wait { .. }), "{next:?}");
                hung
            };
            // Not seen is not hung.
            assert!(!lets_go(10, Some(reading(None, false))));
            assert!(!lets_go(20, Some(reading(Some(59.9), false))));
            // The network was away for longer than a minute, and the hook is back before the
            // replica.
            assert!(!lets_go(30, None));
            assert!(!lets_go(95, Some(reading(Some(75.0), false))));
            assert!(!lets_go(109, Some(reading(Some(89.0), false))));
            assert!(
                !lets_go(110, Some(reading(Some(0.0), false))),
                "it is back too"
            );
            assert!(!lets_go(170, Some(reading(Some(60.0), false))));
            assert!(!lets_go(184, Some(reading(Some(74.0), false))));
            assert!(
                !lets_go(190, Some(reading(Some(80.0), true))),
                "it migrates"
            );
            assert!(lets_go(191, Some(reading(Some(81.0), false))));
        }
    }

    #[test]
    fn a_minute_in_which_the_hook_saw_nothing_is_none_without_a_session() {
        let mut state = State::default();
        let mut away = seen(Some("a"), &["a"]);
        away.sessions = Some(0);
        let mut at = |seconds, seen: Option<&Seen>| {
            step(
                &mut state,
                &TERMS,
                Duration::from_secs(seconds),
                seen,
                false,
            )
        };
        let busy = seen(Some("a"), &["a"]);
        assert_eq!(at(10, Some(&busy)), waits(For::Tasks(1)));
        assert_eq!(at(60, None), waits(For::Database));
        // The replica has lost its sessions a moment ago, for all that is known.
        assert_eq!(at(75, Some(&away)), waits(For::Tasks(1)));
        assert_eq!(at(100, None), waits(For::Database));
        assert_eq!(at(140, Some(&away)), waits(For::Tasks(1)));
        assert_eq!(at(199, Some(&away)), waits(For::Tasks(1)));
        assert_eq!(at(200, Some(&away)), Step::LetGo(LetGo::Disconnected));
    }

    #[test]
    fn the_last_reading_has_to_be_answered_understood_and_held() {
        let ends = |state: &mut State, seen: Option<&Seen>, is_held| {
            may_end(state, Duration::from_mins(1), seen, is_held)
        };
        let idle = seen(Some("a"), &["b"]);
        let mut migrating = idle.clone();
        migrating.migrates = true;
        let mut unknown = idle.clone();
        unknown.running = None;
        let busy = seen(Some("a"), &["a"]);
        let unsure = seen(None, &["b"]);
        let gone = without_tables(Some(2));
        let mut state = State::default();
        assert!(ends(&mut state, Some(&idle), true));
        for not in [
            None,
            Some(&migrating),
            Some(&unknown),
            Some(&busy),
            Some(&unsure),
            Some(&gone),
        ] {
            assert!(!ends(&mut state, not, true), "{not:?}");
        }
        // A replica promotes work at this moment, or no session is to be had.
        assert!(!ends(&mut state, Some(&idle), false));
        assert!(!ends(&mut state, Some(&idle), false));
        assert!(ends(&mut state, Some(&idle), false), "not for ever");
    }

    #[test]
    fn the_queue_is_held_only_where_new_work_keeps_coming() {
        let mut busy = seen(Some("a"), &["a", "b"]);
        assert_eq!(at(60, Some(&busy)), waits(For::Tasks(1)));
        for run in busy.running.iter_mut().flatten() {
            run.started = CLOCK + 3.0;
        }
        let held = Step::Wait {
            what: For::Tasks(1),
            hold: Some(600_300.0),
        };
        busy.clock = CLOCK + 5.0;
        assert_eq!(at(60, Some(&busy)), held);
        // Of an unknown replica it cannot be known whether the work is new to it.
        busy.replica = None;
        assert_eq!(at(60, Some(&busy)), waits(For::TasksOfAnyone(2)));
    }

    #[test]
    fn new_work_shows_as_such_by_a_clock_that_was_set_back() {
        let mut state = State::default();
        let mut at = |seconds, clock, started| {
            let mut busy = seen(Some("a"), &["a"]);
            busy.clock = clock;
            for run in busy.running.iter_mut().flatten() {
                run.started = started;
            }
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, Some(&busy), false)
        };
        assert_eq!(at(10, CLOCK + 100.0, CLOCK), waits(For::Tasks(1)));
        assert_eq!(at(11, CLOCK + 10.0, CLOCK), waits(For::Tasks(1)));
        let held = Step::Wait {
            what: For::Tasks(1),
            hold: Some(600_300.0),
        };
        assert_eq!(at(20, CLOCK + 19.0, CLOCK + 12.0), held);
    }

    #[test]
    fn queued_work_is_let_through_again_after_the_replica_was_busy() {
        let mut queued = seen(Some("a"), &[]);
        queued.available = Some(3);
        let busy = seen(Some("a"), &["a"]);
        let mut state = State::default();
        let mut at = |seconds, seen: &Seen| {
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, Some(seen), false)
        };
        let lets_through = Step::Wait {
            what: For::QueuedWork(3),
            hold: Some(600_300.0),
        };
        assert_eq!(at(10, &queued), lets_through);
        assert_eq!(at(11, &busy), waits(For::Tasks(1)));
        assert_eq!(at(40, &queued), lets_through, "it begins again");
        assert_eq!(at(52, &queued), Step::LetGo(LetGo::Idle));
    }

    #[test]
    fn queued_work_is_let_through_for_a_moment() {
        let mut queued = seen(Some("a"), &[]);
        queued.available = Some(3);
        let mut state = State::default();
        let mut at = |seconds, queued: &Seen| {
            step(
                &mut state,
                &TERMS,
                Duration::from_secs(seconds),
                Some(queued),
                false,
            )
        };
        let lets_through = Step::Wait {
            what: For::QueuedWork(3),
            hold: Some(600_300.0),
        };
        assert_eq!(at(10, &queued), lets_through);
        assert_eq!(at(21, &queued), lets_through);
        // One that no replica claims holds none up.
        assert_eq!(at(22, &queued), Step::LetGo(LetGo::Idle));
    }

    #[test]
    fn queued_work_is_let_through_where_the_queue_may_not_be_held() {
        let mut queued = seen(Some("a"), &[]);
        queued.clock = CLOCK + 300.0;
        let mut state = State::default();
        let mut at = |seconds, available| {
            queued.available = available;
            let elapsed = Duration::from_secs(seconds);
            step(&mut state, &TERMS, elapsed, Some(&queued), false)
        };
        assert_eq!(at(10, Some(3)), waits(For::QueuedWork(3)));
        assert_eq!(at(21, None), waits(For::UnknownTasks));
        assert_eq!(at(22, Some(1)), Step::LetGo(LetGo::Idle));
        assert_eq!(at(23, Some(0)), Step::LetGo(LetGo::Idle));
        assert_eq!(at(24, Some(1)), waits(For::QueuedWork(1)), "it is new");
    }

    #[test]
    fn what_is_queued_at_the_last_reading_may_be_claimed_by_this_replica() {
        let mut state = State::default();
        let mut ends = |seconds, seen: Option<&Seen>| {
            may_end(&mut state, Duration::from_secs(seconds), seen, true)
        };
        let idle = seen(Some("a"), &["b"]);
        let [queued, uncounted] = [Some(1), None].map(|available| Seen {
            available,
            ..idle.clone()
        });
        assert!(!ends(60, Some(&queued)));
        assert!(ends(61, Some(&idle)), "one claimed it");
        assert!(!ends(62, Some(&queued)));
        assert!(!ends(73, Some(&uncounted)));
        assert!(ends(74, Some(&queued)), "none can claim it");
        // What was not seen does not count, nor what was queued before the replica was busy.
        for between in [None, Some(&seen(Some("a"), &["a"]))] {
            assert!(!ends(75, between));
            assert!(!ends(76, Some(&queued)));
            assert!(!ends(87, Some(&queued)));
            assert!(ends(88, Some(&queued)));
        }
    }

    #[test]
    fn the_time_that_queued_work_has_counts_from_one_reading_to_the_next() {
        let mut queued = seen(Some("a"), &[]);
        queued.available = Some(1);
        let mut state = State::default();
        let mut lets_go = |seconds, seen: Option<&Seen>| {
            let elapsed = Duration::from_secs(seconds);
            matches!(
                step(&mut state, &TERMS, elapsed, seen, false),
                Step::LetGo(_)
            )
        };
        assert!(!lets_go(10, Some(&queued)));
        assert!(!lets_go(15, None));
        assert!(!lets_go(60, Some(&queued)), "nothing was claimed meanwhile");
        assert!(!lets_go(71, Some(&queued)));
        assert!(lets_go(72, Some(&queued)));
        let elapsed = Duration::from_secs(72);
        assert!(may_end(&mut state, elapsed, Some(&queued), true));
    }

    #[test]
    fn a_process_that_waits_for_the_lock_of_its_start_runs_nothing() {
        let starting = Seen {
            starts: true,
            ..seen(None, &["b", "c"])
        };
        assert_eq!(at(4, Some(&starting)), waits(For::Pause));
        assert_eq!(at(5, Some(&starting)), Step::LetGo(LetGo::Idle));
        let elapsed = Duration::from_secs(5);
        assert!(may_end(
            &mut State::default(),
            elapsed,
            Some(&starting),
            true
        ));
        // One that has sent heartbeats has started.
        for own in [None, Some("b")] {
            let started = Seen {
                starts: own.is_some(),
                ..seen(own, &["b"])
            };
            let next = at(60, Some(&started));
            assert!(matches!(next, Step::Wait { .. }), "{next:?}");
        }
        let migrating = Seen {
            migrates: true,
            ..starting
        };
        assert_eq!(at(60, Some(&migrating)), waits(For::Migration));
    }

    #[test]
    fn windows_of_all_hooks_are_the_same_and_no_longer_than_the_limit() {
        let limit = Duration::from_mins(5);
        for (clock, expected) in [
            (600.0, Some(900.0)),
            (898.9, Some(900.0)),
            (899.5, None),
            (900.0, None),
            (1199.0, None),
            (1200.0, Some(1500.0)),
        ] {
            assert_eq!(window(limit, clock), expected, "{clock}");
        }
        assert_eq!(window(Duration::ZERO, 600.0), None);
    }

    proptest! {
        /// A replica that is known to run a task is never let go before the time is up, unless its
        /// database or its sessions are gone for long or the operator asks for it. One that
        /// migrates the schema is not let go for that either.
        #[test]
        fn no_running_task_is_left_behind(
            readings in proptest::collection::vec(
                (0u64..30, any::<bool>(), 0usize..3, any::<bool>(), any::<bool>(), any::<bool>()),
                1..60,
            ),
        ) {
            let mut state = State::default();
            let mut elapsed = Duration::ZERO;
            for (pause, answers, tasks, known, migrates, asked) in readings {
                elapsed += Duration::from_secs(pause);
                let owners = vec!["a"; tasks];
                let reading = Seen {
                    migrates,
                    asked,
                    ..seen(known.then_some("a"), &owners)
                };
                let next = step(&mut state, &TERMS, elapsed, answers.then_some(&reading), false);
                if answers && (tasks > 0 || migrates) && elapsed < TERMS.timeout {
                    let may = asked && !migrates && elapsed >= TERMS.pause;
                    let lets_go = matches!(next, Step::LetGo(_));
                    prop_assert_eq!(lets_go, may, "{:?}", next);
                    prop_assert!(!may || next == Step::LetGo(LetGo::Asked), "{next:?}");
                }
            }
        }

        #[test]
        fn a_hold_is_never_longer_than_its_window(limit in 1u64..4000, clock in 0f64..4e9) {
            if let Some(until) = window(Duration::from_secs(limit), clock) {
                let length = Duration::from_secs(limit).as_secs_f64();
                prop_assert!(until > clock && until - clock <= length);
                let next = until + length / 2.0;
                prop_assert_eq!(window(Duration::from_secs(limit), next), None);
            }
        }
    }
}
