//! The hook itself: reads each second, says what it waits for, and returns when the replica may
//! end.

use crate::log::Log;
use crate::login::{LoginError, Logins};
use crate::process;
use crate::watch::{self, Reading, Unread, Watch, Whose};
use bytebase_drain::drain::{
    For, LetGo, PAUSE, Seen, State, Step, Terms, may_end, step, until_next,
};
use sqlx::postgres::PgConnection;
use std::mem::{Discriminant, discriminant};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// While nothing changes, what is waited for is said again after so long.
const REMINDER: Duration = Duration::from_mins(1);
/// Another number of the same is said after so long: under load it changes with each reading.
const ANOTHER_NUMBER: Duration = Duration::from_secs(10);
/// Longest that a hold waits for the question by which it goes on for the last reading.
const BEFORE_LAST: Duration = Duration::from_secs(2);
/// Longest from the beginning of that to the return by the last reading. The rest of the five
/// seconds of [`watch::hold_on`] is for what follows, until the replica has been asked to end.
const LAST_READING: Duration = Duration::from_secs(3);

/// Waits. It never fails: whatever goes wrong, the replica ends in the end.
pub fn wait(terms: Terms, log: Log) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    match runtime {
        Ok(runtime) => runtime.block_on(drain(terms, log)),
        Err(error) => log.warn(&format!("cannot wait for running tasks: {error}")),
    }
    // Without a goodbye to the server: a hold is to outlive this process by a moment.
    std::process::exit(0);
}

async fn drain(terms: Terms, log: Log) {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let start = Instant::now();
    let logins = match Logins::find() {
        Ok(logins) => logins,
        Err(LoginError { why, .. }) => {
            log.warn(&format!(
                "running tasks cannot be seen, so they are not waited for: {why}"
            ));
            sleep(terms.pause).await;
            return;
        }
    };
    let mut hook = Hook {
        watch: Watch::new(
            logins.replica_sessions.clone(),
            logins.own_sessions.clone(),
            logins.database.clone(),
        ),
        logins,
        reads: None,
        due: None,
        holds: None,
        holds_last: None,
        failure: None,
        said: None,
        log,
    };
    let mut state = State::default();
    loop {
        let seen = hook.read().await;
        let held = hook.holds.is_some();
        let failure = hook.failure.as_ref();
        let elapsed = start.elapsed();
        match next(&mut state, &terms, elapsed, seen.as_ref(), failure, held) {
            Step::Wait { what, hold } => {
                hook.say(what, hold.is_some());
                let clock = seen.as_ref().map_or(0.0, |seen| seen.clock);
                hook.hold(hold.map(|until| until - clock)).await;
                let pause = until_next(what, &terms, start.elapsed());
                hook.pause(what, pause).await;
            }
            Step::LetGo(LetGo::Idle) => {
                if hook.leaves(&terms, &mut state, start).await {
                    hook.log.info("this replica runs no task and may end");
                    return;
                }
                sleep(PAUSE).await;
            }
            Step::LetGo(why) => {
                hook.log.warn(&hook.regret(why));
                return;
            }
        }
    }
}

/// What to do after a reading, or after the failure of one.
fn next(
    state: &mut State,
    terms: &Terms,
    elapsed: Duration,
    seen: Option<&Seen>,
    failure: Option<&Failure>,
    is_held: bool,
) -> Step {
    if failure.is_some_and(|failure| failure.works) {
        state.note_life(elapsed);
    }
    step(state, terms, elapsed, seen, is_held)
}

/// Why there is no reading, or none by a new session.
struct Failure {
    why: String,
    /// The server works all the same: it has no room for one more session, or refuses the question.
    works: bool,
}

impl From<LoginError> for Failure {
    fn from(LoginError { why, is_full }: LoginError) -> Self {
        Self {
            why,
            works: is_full,
        }
    }
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        Self {
            why: unread.why(),
            works: matches!(unread, Unread::Refused(_)),
        }
    }
}

struct Hook {
    logins: Logins,
    watch: Watch,
    /// The session that reads.
    reads: Option<(PgConnection, Whose)>,
    /// When a heartbeat is due that may give the replica away.
    due: Option<Instant>,
    /// The session that holds the queue.
    holds: Option<PgConnection>,
    /// The one that holds it for the last reading, and since when at the latest.
    holds_last: Option<(JoinHandle<()>, Instant)>,
    failure: Option<Failure>,
    said: Option<Said>,
    log: Log,
}

/// What was said last.
struct Said {
    text: String,
    /// What is waited for, and whether the queue is held.
    kind: (Discriminant<For>, bool),
    at: Instant,
}

impl Said {
    /// Whether this need not be said as well.
    fn is_enough(&self, kind: (Discriminant<For>, bool), text: &str) -> bool {
        let pause = if self.text == text {
            REMINDER
        } else {
            ANOTHER_NUMBER
        };
        self.kind == kind && self.at.elapsed() < pause
    }
}

impl Hook {
    /// One reading. One that shows the replica without life counts by a session that was opened for
    /// it: an older one may be on a server that Bytebase has left, and names lead to such a server
    /// for a while.
    async fn read(&mut self) -> Option<Seen> {
        let is_new = self.reads.is_none();
        let seen = self.read_once().await?;
        if is_new || !seen.is_lifeless() {
            return Some(seen);
        }
        match self.dial().await {
            Some(session) => {
                self.reads = Some(session);
                let seen = self.read_once().await?;
                if !seen.is_lifeless() {
                    // What is held is held at the server that was left.
                    (self.holds, self.holds_last) = (None, None);
                }
                Some(seen)
            }
            // There may be room for no session more, and this one is kept.
            None if self.works() => Some(seen.without_sessions()),
            None => {
                self.reads = None;
                None
            }
        }
    }

    /// Whether the server works although it gave no reading.
    fn works(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.works)
    }

    /// Why there is no reading.
    fn why(&self) -> &str {
        let failure = self.failure.as_ref();
        failure.map_or("no answer", |failure| &failure.why)
    }

    async fn read_once(&mut self) -> Option<Seen> {
        if self.reads.is_none() {
            self.reads = self.dial().await;
        }
        let (connection, whose) = self.reads.as_mut()?;
        match self.watch.read(connection, *whose, process::age()).await {
            Ok(Reading { seen, goes_on, due }) => {
                if !goes_on {
                    self.reads = None;
                }
                self.due = due.map(|due| Instant::now() + due);
                self.failure = None;
                Some(seen)
            }
            Err(unread) => {
                self.reads = None;
                self.failure = Some(unread.into());
                None
            }
        }
    }

    /// Waits for the next reading. By one reading a second a heartbeat is rarely seen, so where it
    /// is needed and due the sessions are watched all the time.
    async fn pause(&mut self, what: For, pause: Duration) {
        let end = Instant::now() + pause;
        let is_unknown = matches!(what, For::TasksOfAnyone(_));
        let due = self.due.filter(|due| is_unknown && *due < end);
        if let (Some(due), Some((connection, _))) = (due, &mut self.reads) {
            sleep(due.saturating_duration_since(Instant::now())).await;
            let age = process::age();
            if self.watch.closely(connection, age, end).await.is_err() {
                self.reads = None;
            }
        }
        sleep(end.saturating_duration_since(Instant::now())).await;
    }

    /// A session that reads.
    async fn dial(&mut self) -> Option<(PgConnection, Whose)> {
        match self.logins.dial().await {
            Ok(session) => {
                self.watch.changes_session();
                Some(session)
            }
            Err(error) => {
                self.failure = Some(error.into());
                None
            }
        }
    }

    /// Takes or ends the hold on the queue. `seconds`: until the end of the window.
    async fn hold(&mut self, seconds: Option<f64>) {
        match (seconds, self.holds.take()) {
            (None, None) => {}
            (None, Some(mut connection)) => {
                self.log.info("the queue is no longer held");
                let _ = watch::release(&mut connection).await;
            }
            (Some(seconds), Some(mut connection)) => {
                // The server may have ended it.
                let longest = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                if watch::limit(&mut connection, longest).await.is_ok() {
                    self.holds = Some(connection);
                }
            }
            (Some(seconds), None) => {
                let longest = Duration::try_from_secs_f64(seconds).unwrap_or_default();
                let Ok((mut connection, _)) = self.logins.dial().await else {
                    return;
                };
                if matches!(watch::hold(&mut connection, longest).await, Ok(true)) {
                    self.log
                        .info("the queue is held, so that no new work comes to this replica");
                    self.holds = Some(connection);
                }
            }
        }
    }

    /// The last act: reads once more, while no work can be promoted if that can be had. Whether the
    /// replica may end by that. Nothing comes between that reading and the return: a replica claims
    /// what is queued already, whether the queue is held or not.
    async fn leaves(&mut self, terms: &Terms, state: &mut State, start: Instant) -> bool {
        if terms.hold_limit.is_zero() {
            return true;
        }
        let holder = self.hold_last().await;
        self.holds_last = holder.map(|holder| {
            let since = Instant::now();
            // It is sent while the answers of the reading are awaited.
            (tokio::spawn(watch::hold_on(holder)), since)
        });
        let seen = self.read().await;
        // Where the replica may not leave, the server ends the hold after its time.
        let is_held = self
            .holds_last
            .take()
            .is_some_and(|(holds, since)| !holds.is_finished() && since.elapsed() < LAST_READING);
        may_end(state, start.elapsed(), seen.as_ref(), is_held)
    }

    /// A session that holds the queue for the last reading: the one that holds it already, unless
    /// the server has ended that.
    async fn hold_last(&mut self) -> Option<PgConnection> {
        if let Some(mut connection) = self.holds.take()
            && let Ok(is_held) = watch::hold(&mut connection, BEFORE_LAST).await
        {
            return is_held.then_some(connection);
        }
        let (mut connection, _) = self.logins.dial().await.ok()?;
        let is_held = watch::hold(&mut connection, BEFORE_LAST).await.ok()?;
        is_held.then_some(connection)
    }

    fn say(&mut self, what: For, holds: bool) {
        let mut text = match what {
            For::Tasks(1) => "waiting for a task that this replica runs".to_owned(),
            For::Tasks(count) => format!("waiting for {count} tasks that this replica runs"),
            For::TasksOfAnyone(1) => "waiting: a running task may be this replica's, which has not shown yet which one it is".to_owned(),
            For::TasksOfAnyone(count) => format!(
                "waiting: {count} running tasks may be this replica's, which has not shown yet which one it is"
            ),
            For::UnknownTasks => "waiting: running tasks cannot be counted, since the table task_run is locked or not as this version knows it, or this login may not see all of it or leads to another database".to_owned(),
            For::Tables => "waiting: none of Bytebase's tables is in the metadata database, so it cannot be known what this replica runs".to_owned(),
            For::Session => "waiting: this replica has no session in the metadata database that this login leads to, so it may run its tasks by another".to_owned(),
            For::Migration => "waiting for the schema migration that this replica runs".to_owned(),
            For::QueuedWork(1) => "waiting for a queued task to be claimed".to_owned(),
            For::QueuedWork(count) => format!("waiting for {count} queued tasks to be claimed"),
            For::Pause => return,
            For::Database => format!(
                "waiting for the metadata database: {}",
                self.why()
            ),
        };
        if holds {
            text.push_str("; the queue is held where that is allowed");
        }
        let kind = (discriminant(&what), holds);
        let said = self.said.as_ref();
        if !said.is_some_and(|said| said.is_enough(kind, &text)) {
            self.log.info(&text);
            let at = Instant::now();
            self.said = Some(Said { text, kind, at });
        }
    }

    fn regret(&self, why: LetGo) -> String {
        match why {
            LetGo::Idle => String::new(),
            LetGo::TimedOut => "the time for the drain is up: what this replica still runs is cancelled".to_owned(),
            LetGo::Unreachable => format!(
                "the metadata database could not be read for two minutes ({}): what this replica still runs is cancelled",
                self.why()
            ),
            LetGo::TablesGone => "none of Bytebase's tables has been in the metadata database for two minutes (it was emptied, or dropped and made again, or this replica never came up): what this replica still runs is cancelled".to_owned(),
            LetGo::Disconnected => "this replica has had no session on the metadata database for over a minute, so others have given up its tasks: it may end".to_owned(),
            LetGo::Asked => "the operator asks for the end of this replica, since the license does not allow several replicas (any more): what this replica still runs is cancelled".to_owned(),
            LetGo::Hung => "this replica hangs: it has asked nothing of the metadata database for over a minute, not even by a heartbeat, so its tasks do not go on: it may end".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_works_without_a_reading_is_not_given_up() {
        let terms = Terms {
            timeout: Duration::from_mins(10),
            pause: Duration::ZERO,
            hold_limit: Duration::ZERO,
        };
        let login = |is_full| {
            let why = "the server refuses the login".to_owned();
            Failure::from(LoginError { why, is_full })
        };
        for (failure, works) in [
            (login(true), true),
            (login(false), false),
            (Unread::Refused("57014".to_owned()).into(), true),
            (Unread::Standby.into(), false),
            (Unread::BrokenOff.into(), false),
        ] {
            let mut state = State::default();
            let mut at = |seconds| {
                let elapsed = Duration::from_secs(seconds);
                next(&mut state, &terms, elapsed, None, Some(&failure), false)
            };
            let waits = Step::Wait {
                what: For::Database,
                hold: None,
            };
            let why = &failure.why;
            for seconds in [1, 60, 119] {
                assert_eq!(at(seconds), waits, "{why}");
            }
            let later = if works {
                waits
            } else {
                Step::LetGo(LetGo::Unreachable)
            };
            for seconds in [125, 599] {
                assert_eq!(at(seconds), later, "{why}");
            }
            assert_eq!(at(600), Step::LetGo(LetGo::TimedOut), "{why}");
        }
    }

    #[test]
    fn numbers_that_change_with_each_reading_fill_no_log() {
        let kind = |what, holds| (discriminant(&what), holds);
        let said = |seconds| Said {
            text: "11 tasks".to_owned(),
            kind: kind(For::Tasks(11), false),
            at: Instant::now()
                .checked_sub(Duration::from_secs(seconds))
                .unwrap(),
        };
        for (seconds, what, holds, text, expected) in [
            (1, For::Tasks(10), false, "10 tasks", true),
            (10, For::Tasks(10), false, "10 tasks", false),
            (59, For::Tasks(11), false, "11 tasks", true),
            (60, For::Tasks(11), false, "11 tasks", false),
            (1, For::Tasks(11), true, "11 tasks; held", false),
            (1, For::Database, false, "no answer", false),
        ] {
            let is_enough = said(seconds).is_enough(kind(what, holds), text);
            assert_eq!(is_enough, expected, "{seconds} {what:?} {holds}");
        }
    }
}
