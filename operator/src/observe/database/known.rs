//! What is known of one database by the readings of it so far. No database is asked here.

use super::digest::Digest;
use super::probe::DEFAULT_INTERVAL;
use super::queries;
use crate::contract::replica::{ACTIVE_WINDOW, HEARTBEAT_INTERVAL};
use crate::contract::version::Version;
use crate::observation::reading::{Latest, ReadOptions, Renewal};
use crate::observation::{
    Asked, DatabaseFacts, DatabaseView, Fact, FailureClass, FailureReason, ProbeFailure,
    SchemaState, StoredLicense,
};
use std::collections::BTreeSet;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Until a plan says otherwise: what depends on sessions must not take a fresh start for a change.
pub(super) const FIRST_READ_OPTIONS: ReadOptions = ReadOptions {
    every: DEFAULT_INTERVAL,
    sessions: true,
    renewal: Renewal::Usual,
    keep_session: true,
    try_login: false,
    awaited: 0,
};

/// A reading is begun this much sooner or later than its interval says, which spreads clusters that
/// started together.
pub(super) const SPREAD: f64 = 0.1;

/// The clock of a server has been set forward if it went so much farther than time itself, from one
/// reading to the next. It is read somewhere within a reading, which may take
/// [`queries::READ_TIMEOUT`]. What is asked after that is taken into account.
const CLOCK_STEP: Duration = Duration::from_secs(10);

/// What readings of one database have found.
pub(super) struct State {
    pub(super) subject: Subject,
    pub(super) outcome: Knowledge,
    /// Of the last good probe.
    facts: Option<(Instant, Arc<DatabaseFacts>)>,
    /// When that began.
    pub(super) begun: Option<Instant>,
    /// The stored license as it was last understood: a later reading need not understand it.
    license: Fact<StoredLicense>,
    /// The version of the schema, likewise.
    schema_version: Option<Version>,
    digest: Option<Digest>,
    failing_since: Option<Instant>,
    /// Since when each reading has found a server that takes writes.
    writable_since: Option<Instant>,
    pub(super) read_options: ReadOptions,
    /// [`Self::forget`] has been asked for since the latest reading began.
    is_forgotten: bool,
    /// Pods whose drain hooks are asked to let their replicas end.
    pub(super) let_go: BTreeSet<String>,
    /// What came of that.
    pub(super) asked: Asked,
}

/// What lines of the log are labelled with.
pub(super) struct Subject {
    pub(super) cluster: String,
    /// Hosts and database.
    pub(super) database: String,
}

/// What came of the latest reading that counts.
pub(super) enum Knowledge {
    NotProbed,
    CannotRead,
    Good,
    Failed(ProbeFailure),
}

// === impl State ===

impl State {
    /// Nothing has been read. `readable`: whether anything ever will be.
    pub(super) fn new(subject: Subject, read_options: ReadOptions, readable: bool) -> Self {
        Self {
            subject,
            outcome: if readable {
                Knowledge::NotProbed
            } else {
                Knowledge::CannotRead
            },
            facts: None,
            begun: None,
            license: Fact::Unknown,
            schema_version: None,
            digest: None,
            failing_since: None,
            writable_since: None,
            read_options,
            is_forgotten: false,
            let_go: BTreeSet::new(),
            asked: Asked::default(),
        }
    }

    /// What is known at this moment.
    pub(super) fn latest(&self, now: Instant) -> Latest {
        let facts = self.facts.as_ref().map(|(read, facts)| {
            let age = now.saturating_duration_since(*read);
            (age, carried_forward(facts, age))
        });
        let understood = |(age, facts)| (age, self.as_understood(facts));
        let (view, last_good) = match (&self.outcome, facts) {
            (Knowledge::CannotRead, _) => (DatabaseView::CannotRead, None),
            // Who sends heartbeats is not known any more. Ages that only the wait for a reading has
            // carried on must not show replicas stale that are not.
            (_, Some(facts)) if self.is_late(now) => (
                DatabaseView::Probed(Err(ProbeFailure {
                    class: FailureClass::Unknown,
                    reason: FailureReason::Unreachable,
                    message: "the reading that is due does not come to an end; check the host names and the network".to_owned(),
                })),
                Some(understood(facts)),
            ),
            (Knowledge::Good, Some((age, facts))) => (
                DatabaseView::Probed(Ok(facts.clone())),
                Some(understood((age, facts))),
            ),
            (Knowledge::NotProbed | Knowledge::Good, _) => (DatabaseView::NotProbed, None),
            (Knowledge::Failed(failure), facts) => (
                DatabaseView::Probed(Err(failure.clone())),
                facts.map(understood),
            ),
        };
        Latest { view, last_good }
    }

    /// Whether what was read last, and still counts, is older than it is when each reading comes in
    /// its time. As long as heartbeats that were as old as they ever are cannot have grown stale, a
    /// failed reading may be tried again before that.
    fn is_late(&self, now: Instant) -> bool {
        let in_time = self.read_options.every.mul_f64(1.0 + SPREAD) + queries::READ_TIMEOUT;
        let longest = in_time.max(ACTIVE_WINDOW.saturating_sub(HEARTBEAT_INTERVAL));
        let read = self.facts.as_ref().map(|(read, _)| *read);
        matches!(self.outcome, Knowledge::Good)
            && read.is_some_and(|read| now.saturating_duration_since(read) > longest)
    }

    /// Whether the last reading was a good one.
    pub(super) fn is_well(&self) -> bool {
        matches!(self.outcome, Knowledge::Good) && self.failing_since.is_none()
    }

    /// The facts with license and version of the schema as they were last understood.
    fn as_understood(&self, mut facts: DatabaseFacts) -> DatabaseFacts {
        if facts.license.is_unknown() {
            facts.license.clone_from(&self.license);
        }
        if let SchemaState::Bytebase { version } = &mut facts.schema {
            *version = version.or(self.schema_version);
        }
        facts
    }

    /// Adds to an outcome what only the series of them shows.
    fn with_writable_for(
        &mut self,
        outcome: Result<DatabaseFacts, ProbeFailure>,
        now: Instant,
    ) -> Result<DatabaseFacts, ProbeFailure> {
        let before = self.facts.as_ref().map(|(_, facts)| &facts.identity);
        let is_same = |facts: &DatabaseFacts| before.is_none_or(|before| *before == facts.identity);
        let goes_on = |facts: &DatabaseFacts| is_same(facts) && !self.is_set_forward(facts, now);
        if !outcome.as_ref().is_ok_and(goes_on) {
            self.writable_since = None;
        }
        let takes_writes = |facts: &DatabaseFacts| !facts.in_recovery && !facts.read_only;
        if !outcome.as_ref().is_ok_and(takes_writes) {
            self.writable_since = None;
            return outcome;
        }
        let since = *self.writable_since.get_or_insert(now);
        outcome.map(|facts| DatabaseFacts {
            writable_for: now
                .saturating_duration_since(since)
                .min(facts.server_uptime),
            ..facts
        })
    }

    /// Whether the server's clock was set forward since the last good reading, which was of the
    /// same server. Then all heartbeats seem older than they are, until the next ones come.
    fn is_set_forward(&self, facts: &DatabaseFacts, now: Instant) -> bool {
        let Some((read, before)) = &self.facts else {
            return false;
        };
        let passed = now.saturating_duration_since(*read);
        let clocks = before.server_clock.zip(facts.server_clock);
        clocks.is_some_and(|(then, now)| now.saturating_sub(then) > passed + CLOCK_STEP)
    }

    /// Takes up which of these pods' drain hooks were reached. True if that is news. Who was
    /// reached once stays so as long as that is wanted: its hook may have returned since.
    pub(super) fn note_asked(
        &mut self,
        pods: &BTreeSet<String>,
        reached: BTreeSet<String>,
    ) -> bool {
        let before = self.asked.clone();
        let Self { asked, let_go, .. } = self;
        let still_wanted = reached.into_iter().filter(|pod| let_go.contains(pod));
        asked.reached.extend(still_wanted);
        let tried = pods.intersection(let_go).cloned().collect::<BTreeSet<_>>();
        asked.missed = &tried - &asked.reached;
        *asked != before
    }

    /// As at the start: the next outcome is news, whatever it is.
    pub(super) fn forget(&mut self) {
        self.outcome = Knowledge::NotProbed;
        self.digest = None;
        self.writable_since = None;
        self.read_options = FIRST_READ_OPTIONS;
        self.is_forgotten = true;
    }

    /// How to read now, and whether what earlier readings found counts as never read.
    pub(super) fn next_reading(&mut self) -> (ReadOptions, bool) {
        (self.read_options, take(&mut self.is_forgotten))
    }

    /// Keeps the outcome of a reading, as [`Self::record`] does, and when that began.
    pub(super) fn record_of(
        &mut self,
        started: Instant,
        outcome: Result<DatabaseFacts, ProbeFailure>,
        now: Instant,
    ) -> bool {
        if outcome.is_ok() {
            self.begun = Some(started);
        }
        self.record(outcome, now)
    }

    /// Keeps an outcome read at `now`, and says whether it is news.
    ///
    /// One failure that says nothing definite is tried again before it is reported: a thousand
    /// logins after a restart, or a moment without processor time, must not write a thousand
    /// statuses to and fro.
    pub(super) fn record(
        &mut self,
        outcome: Result<DatabaseFacts, ProbeFailure>,
        now: Instant,
    ) -> bool {
        let outcome = self.with_writable_for(outcome, now);
        let uncertain = outcome
            .as_ref()
            .is_err_and(|failure| failure.class == FailureClass::Unknown);
        if uncertain && self.failing_since.is_none() {
            self.failing_since = Some(now);
            return false;
        }
        let digest = Digest::of(outcome.as_ref());
        let before = self.digest.as_ref();
        // While the reading was late, status may have said that nothing is known.
        let changed = before.is_none_or(|before| digest.is_news_after(before)) || self.is_late(now);
        self.digest = Some(digest);
        match outcome {
            Ok(facts) => {
                let was_reported = matches!(self.outcome, Knowledge::Failed(_));
                if let Some(since) = self.failing_since.take().filter(|_| was_reported) {
                    let seconds = now.saturating_duration_since(since).as_secs();
                    tracing::info!(
                        cluster = self.subject.cluster,
                        database = self.subject.database,
                        seconds,
                        "the metadata database can be read again"
                    );
                }
                if !facts.license.is_unknown() {
                    self.license.clone_from(&facts.license);
                }
                self.schema_version = match facts.schema {
                    SchemaState::Bytebase { version } => version.or(self.schema_version),
                    SchemaState::Empty
                    | SchemaState::OffPath { .. }
                    | SchemaState::Foreign { .. } => None,
                };
                self.facts = Some((now, Arc::new(facts)));
                self.outcome = Knowledge::Good;
            }
            Err(failure) => {
                if changed {
                    tracing::warn!(
                        cluster = self.subject.cluster,
                        database = self.subject.database,
                        reason = failure.reason.as_ref(),
                        "cannot read a metadata database: {}",
                        failure.message
                    );
                }
                self.failing_since.get_or_insert(now);
                self.outcome = Knowledge::Failed(failure);
            }
        }
        changed
    }
}

fn carried_forward(facts: &DatabaseFacts, by: Duration) -> DatabaseFacts {
    let mut facts = facts.clone();
    carry_forward(&mut facts, by);
    facts
}

/// Makes of what was read so long ago what would be read now, if nothing but time had passed.
pub(super) fn carry_forward(facts: &mut DatabaseFacts, by: Duration) {
    facts.server_uptime = facts.server_uptime.saturating_add(by);
    facts.server_clock = facts.server_clock.map(|clock| clock.saturating_add(by));
    for heartbeat in facts.heartbeats.known_mut().into_iter().flatten() {
        heartbeat.age = heartbeat.age.saturating_add(by);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::digest::tests::facts;
    use super::super::facts::tests::read as read_document;
    use super::*;
    use crate::observation::DatabaseIdentity;
    use crate::process::metrics::LiveSample;
    use crate::runtime::logging::LogFormat;
    use crate::runtime::logging::tests::Log;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::json;

    pub(in super::super) fn failure(class: FailureClass, reason: FailureReason) -> ProbeFailure {
        ProbeFailure {
            class,
            reason,
            message: String::new(),
        }
    }

    pub(in super::super) fn subject() -> Subject {
        Subject {
            cluster: "apps/demo".to_owned(),
            database: "db.example.com:5432/bytebase".to_owned(),
        }
    }

    pub(in super::super) fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test(start_paused = true)]
    async fn ages_are_carried_forward_and_the_last_facts_outlive_a_failure() {
        let mut state = State::new(subject(), FIRST_READ_OPTIONS, true);
        let start = Instant::now();
        assert!(state.record(Ok(facts(&[5])), start));
        assert!(!state.record(Ok(facts(&[7])), start + seconds(1)));
        let latest = state.latest(start + seconds(4));
        let DatabaseView::Probed(Ok(seen)) = latest.view else {
            panic!("no facts")
        };
        assert_eq!(seen.heartbeats.rows()[0].age, seconds(10));

        let lost = failure(FailureClass::Unknown, FailureReason::Unreachable);
        // Once is not reported; a refusal would be.
        assert!(!state.record(Err(lost.clone()), start + seconds(4)));
        assert!(matches!(
            state.latest(start + seconds(4)).view,
            DatabaseView::Probed(Ok(_))
        ));
        assert!(!state.record(Ok(facts(&[7])), start + seconds(1)));
        assert!(!state.record(Err(lost.clone()), start + seconds(4)));
        assert!(state.record(Err(lost.clone()), start + seconds(5)));
        assert!(!state.record(Err(lost), start + seconds(7)));
        let latest = state.latest(start + seconds(11));
        assert!(matches!(latest.view, DatabaseView::Probed(Err(_))));
        let (age, remembered) = latest.last_good.unwrap();
        assert_eq!(
            (age, remembered.heartbeats.rows()[0].age),
            (seconds(10), seconds(17))
        );
        assert!(state.record(Ok(facts(&[5])), start + seconds(12)));
        let (age, _) = state.latest(start + seconds(12)).last_good.unwrap();
        assert_eq!(age, Duration::ZERO);
    }

    fn age() -> impl Strategy<Value = f64> {
        // The greatest that a `Duration` can hold is the one before 2^64.
        prop_oneof![Just(18_446_744_073_709_549_568.0), 0.0..2e19, 0.0..100.0]
    }

    proptest! {
        #[test]
        fn no_number_of_a_server_makes_what_is_known_of_it_fail(
            ages in vec(age(), 0..4),
            counts in vec(prop_oneof![any::<u64>(), Just(u64::MAX)], 4),
            limits in any::<[u32; 4]>(),
            uptime in any::<u64>(),
        ) {
            let tables = ["replica_heartbeat", "instance_change_history", "task_run"];
            let document = json!({
                "principal": "p.principal", "version": "3.21.1",
                "tables": tables.map(|name| json!({"name": name, "complete": true, "readable": true})),
                "heartbeats": ages.iter().map(|age| json!(["a", age])).collect::<Vec<_>>(),
                "running": [["a", counts[0]], ["a", counts[1]]],
                "pending": counts[2], "available": counts[3],
                "server_version_num": limits[0], "max_connections": limits[1],
                "reserved_connections": limits[2], "role_connections": limits[3],
            });
            let read = || DatabaseFacts {
                server_uptime: seconds(uptime),
                ..read_document(&document.to_string())
            };
            let mut state = State::new(subject(), FIRST_READ_OPTIONS, true);
            let start = Instant::now();
            state.record(Ok(read()), start);
            state.record(Ok(read()), start + seconds(10));
            for after in [10, 20, 86_400] {
                let latest = state.latest(start + seconds(after));
                prop_assert_eq!(LiveSample::of(&latest).is_some(), after < 86_400);
                let (_, facts) = latest.last_good.unwrap();
                let oldest = seconds(3600 + after);
                prop_assert!(facts.heartbeats.rows().iter().all(|row| row.age <= oldest));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_logged_with_the_cluster_and_the_database() {
        let log = Log::begin(LogFormat::Json, "info");
        let mut state = State::new(subject(), FIRST_READ_OPTIONS, true);
        let start = Instant::now();
        let refused = failure(FailureClass::Definite, FailureReason::AuthenticationFailed);
        state.record(Err(refused), start);
        state.record(Ok(facts(&[5])), start + seconds(9));
        for words in ["cannot read a metadata database", "can be read again"] {
            let lines = log.lines(words);
            assert_eq!(lines.len(), 1, "{}", log.text());
            assert_eq!(lines[0]["cluster"], "apps/demo");
            assert_eq!(lines[0]["database"], "db.example.com:5432/bytebase");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_heartbeat_grows_stale_for_want_of_a_reading() {
        for (every, longest) in [(1, 20), (10, 20), (60, 72)] {
            let read_options = ReadOptions {
                every: seconds(every),
                ..FIRST_READ_OPTIONS
            };
            let mut state = State::new(subject(), read_options, true);
            let start = Instant::now();
            assert!(state.record(Ok(facts(&[5])), start));
            let seen = |state: &State, after| match state.latest(start + seconds(after)).view {
                DatabaseView::Probed(Ok(facts)) => Some(facts.heartbeats.rows()[0].age),
                DatabaseView::Probed(Err(failure)) => {
                    assert_eq!(failure.class, FailureClass::Unknown);
                    None
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(seen(&state, longest), Some(seconds(longest + 5)), "{every}");
            assert_eq!(seen(&state, longest + 1), None, "{every}");
            let late = state.latest(start + seconds(longest + 1));
            let (age, remembered) = late.last_good.unwrap();
            assert_eq!(age, seconds(longest + 1));
            assert!(!remembered.heartbeats.is_unknown(), "what was read stays");
            // The first failure says no more than is known already.
            let lost = failure(FailureClass::Unknown, FailureReason::Unreachable);
            assert!(!state.record(Err(lost), start + seconds(longest + 2)));
            assert_eq!(seen(&state, longest + 2), None);
            // Whoever asked in between must ask again.
            assert!(state.record(Ok(facts(&[5])), start + seconds(longest + 3)));
            assert!(seen(&state, longest + 3).is_some());
            assert!(!state.record(Ok(facts(&[5])), start + seconds(longest + 4)));
            // A failure that is reported is known: that it lasts is no news.
            let lost = || Err(failure(FailureClass::Unknown, FailureReason::Unreachable));
            assert!(!state.record(lost(), start + seconds(200)));
            assert!(state.record(lost(), start + seconds(201)));
            assert!(!state.record(lost(), start + seconds(202)));
        }
    }

    #[tokio::test]
    async fn a_server_takes_writes_for_as_long_as_each_reading_says_so() {
        let mut state = State::new(subject(), FIRST_READ_OPTIONS, true);
        let start = Instant::now();
        let writable_for = |state: &State| state.facts.as_ref().unwrap().1.writable_for;
        let read = || facts(&[5]);
        assert!(state.record(Ok(read()), start));
        assert_eq!(writable_for(&state), Duration::ZERO);
        for after in [11, 22, 33, 44] {
            assert!(!state.record(Ok(read()), start + seconds(after)));
        }
        assert!(
            state.record(Ok(read()), start + seconds(45)),
            "all are heard"
        );
        assert_eq!(writable_for(&state), seconds(45));
        // One failure is no news, and takes it back all the same.
        assert!(!state.record(
            Err(failure(FailureClass::Unknown, FailureReason::Unreachable)),
            start + seconds(46)
        ));
        state.record(Ok(read()), start + seconds(47));
        assert_eq!(writable_for(&state), Duration::ZERO);
        state.record(Ok(read()), start + seconds(57));
        let standby = DatabaseFacts {
            in_recovery: true,
            ..read()
        };
        state.record(Ok(standby), start + seconds(58));
        state.record(Ok(read()), start + seconds(59));
        let restarted = DatabaseFacts {
            server_uptime: seconds(4),
            ..read()
        };
        state.record(Ok(restarted), start + seconds(70));
        assert_eq!(writable_for(&state), seconds(4));
        // After a failover a name leads to a server that has run for long.
        let promoted = DatabaseFacts {
            identity: DatabaseIdentity::new("id", "of a standby"),
            ..read()
        };
        state.record(Ok(promoted), start + seconds(80));
        assert_eq!(writable_for(&state), Duration::ZERO);
    }

    #[tokio::test]
    async fn a_server_that_let_no_one_write_is_heard_again_first() {
        let mut state = State::new(subject(), FIRST_READ_OPTIONS, true);
        let start = Instant::now();
        for (after, read_only) in [(0, false), (60, true), (70, false)] {
            let read = DatabaseFacts {
                read_only,
                ..facts(&[5])
            };
            state.record(Ok(read), start + seconds(after));
        }
        let (_, facts) = state.facts.as_ref().unwrap();
        assert_eq!(facts.writable_for, Duration::ZERO);
    }

    #[tokio::test]
    async fn a_server_whose_clock_was_set_forward_is_heard_again_first() {
        let mut state = State::new(subject(), FIRST_READ_OPTIONS, true);
        let start = Instant::now();
        let mut writable_for = |after, clock: Option<u64>| {
            let read = DatabaseFacts {
                server_clock: clock.map(seconds),
                ..facts(&[5])
            };
            state.record(Ok(read), start + seconds(after));
            let (_, facts) = state.facts.as_ref().unwrap();
            facts.writable_for.as_secs()
        };
        assert_eq!(writable_for(0, Some(1000)), 0);
        // An answer that was late, and a clock that was set back.
        assert_eq!(writable_for(50, Some(1060)), 50);
        assert_eq!(writable_for(60, Some(500)), 60);
        assert_eq!(writable_for(70, Some(521)), 0, "eleven seconds too many");
        assert_eq!(writable_for(80, Some(531)), 10);
        // What is not understood is no step.
        assert_eq!(writable_for(90, None), 20);
        assert_eq!(writable_for(100, Some(9000)), 30);
        assert_eq!(writable_for(110, Some(9070)), 0);
    }

    #[tokio::test]
    async fn the_license_outlives_a_reading_that_does_not_understand_it() {
        let mut state = State::new(subject(), FIRST_READ_OPTIONS, true);
        let start = Instant::now();
        let read = |license| DatabaseFacts {
            license,
            ..facts(&[5])
        };
        let last = |state: &State| {
            let (_, facts) = state.latest(start).last_good.unwrap();
            facts.license
        };
        state.record(Ok(read(Fact::Unknown)), start);
        assert!(last(&state).is_unknown());
        state.record(Ok(read(Fact::Known(StoredLicense::NoWorkspace))), start);
        state.record(Ok(read(Fact::Unknown)), start);
        let DatabaseView::Probed(Ok(now)) = state.latest(start).view else {
            panic!("no facts")
        };
        assert!(now.license.is_unknown(), "the reading itself says nothing");
        assert!(matches!(
            last(&state),
            Fact::Known(StoredLicense::NoWorkspace)
        ));
        // Nor is it lost when the database goes as well.
        let outage = failure(FailureClass::Unknown, FailureReason::Unreachable);
        state.record(Err(outage.clone()), start);
        state.record(Err(outage), start);
        assert!(!last(&state).is_unknown());
        state.record(Ok(read(Fact::Absent)), start);
        assert!(matches!(last(&state), Fact::Absent));
    }

    #[tokio::test]
    async fn the_version_of_the_schema_outlives_a_reading_that_does_not_understand_it() {
        let mut state = State::new(subject(), FIRST_READ_OPTIONS, true);
        let start = Instant::now();
        let mut last_after = |schema| {
            let read = DatabaseFacts {
                schema,
                ..facts(&[5])
            };
            state.record(Ok(read), start);
            state.latest(start).last_good.unwrap().1.schema
        };
        let of = |version| SchemaState::Bytebase { version };
        let known = || of(Some(Version::new(3, 22, 1)));
        assert_eq!(last_after(of(None)), of(None));
        assert_eq!(last_after(known()), known());
        assert_eq!(last_after(of(None)), known());
        // A database that was emptied begins again.
        assert_eq!(last_after(SchemaState::Empty), SchemaState::Empty);
        assert_eq!(last_after(of(None)), of(None));
    }
}
