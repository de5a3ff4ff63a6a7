//! Calls to Bytebase's own API, each a task beside the reconciles: a replica that does not answer
//! holds no slot of theirs. A call that ended wakes its cluster.

use super::bytebase::{self, CallError};
use crate::api::status::RefusedCall;
use crate::decide::plan::{BytebaseCall, BytebaseRequest};
use crate::observation::CallFailure;
use crate::process::queue::Key;
use futures::FutureExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use parking_lot::Mutex;
use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use tokio::time::Instant;

/// First pause after Bytebase refused a call; doubles up to the longest, since each try with a
/// wrong password counts towards locking the account.
const FIRST_REFUSED_RETRY: SignedDuration = SignedDuration::from_mins(1);
const LONGEST_REFUSED_RETRY: SignedDuration = SignedDuration::from_hours(1);
/// A call that failed in another way is tried again after this long, and so is one that succeeded
/// and is still wanted: what it has changed has been read by then.
const FAILED_RETRY: SignedDuration = SignedDuration::from_mins(1);
/// A call that nothing answered is tried again after this long, at first.
const UNANSWERED_RETRY: SignedDuration = SignedDuration::from_secs(1);
/// So many calls in a row may go unanswered before it is reported: a pod that has just ended is no
/// failure worth a word.
const UNANSWERED: u32 = 10;

/// Digits of the checksum by which status distinguishes a call from another: another password
/// counts as the same one only once in 256, and a reader of status learns next to nothing of it.
const MARK_DIGITS: usize = 2;

/// The latest call of each cluster.
#[derive(Default)]
pub struct Calls(Mutex<HashMap<Key, Entry>>);

/// What is known of a call's values.
#[derive(Clone, PartialEq, Eq)]
enum Fingerprint {
    /// This process has made it.
    Full([u8; 32]),
    /// An earlier process wrote down its mark.
    Mark(String),
}

struct Entry {
    /// Of what was asked and with which login: another password is another call.
    fingerprint: Fingerprint,
    running: bool,
    /// What comes of the call that is running says nothing: another one is wanted by now, or none.
    outdated: bool,
    /// The refusals in a row, as status shows them. What fails in another way in between changes
    /// nothing of it.
    refused: Option<RefusedCall>,
    unanswered: u32,
    /// When the last of these ended. Bytebase may have done what it was asked for all the same.
    unanswered_at: Option<Instant>,
    retry_at: Timestamp,
    message: Option<String>,
}

// === impl Calls ===

impl Calls {
    /// The latest call, if it failed in a way worth a word.
    pub fn failure(&self, key: &Key) -> Option<CallFailure> {
        let entries = self.0.lock();
        let entry = entries.get(key)?;
        let refused = entry.refused.clone();
        // As long as it counts, status says what another process would say by it.
        let message = refused.as_ref().map(|refused| refused.message.clone());
        let message = message.or_else(|| entry.message.clone())?;
        Some(CallFailure { message, refused })
    }

    /// Takes over the refused call that an earlier process wrote down: tries that begin again with
    /// each process lock the account.
    pub(super) fn recall(&self, key: &Key, refused: &RefusedCall) {
        let mut entries = self.0.lock();
        entries.entry(key.clone()).or_insert_with(|| Entry {
            refused: Some(refused.clone()),
            retry_at: refused.retry_time.0,
            ..Entry::new(Fingerprint::Mark(refused.mark.clone()))
        });
    }

    /// Forgets the calls of a cluster that wants none, or is gone. What came of one that is
    /// running will not matter.
    pub fn forget(&self, key: &Key) {
        let mut entries = self.0.lock();
        match entries.get_mut(key) {
            Some(entry) if entry.running => entry.outdate(),
            _ => {
                entries.remove(key);
            }
        }
    }

    /// Begins a call unless the same one is running, or failed and is still to wait. `Ok`: it may
    /// be made now, and [`Self::ended`] must follow. `Err`: not before this moment.
    ///
    /// `is_read_since`: whether the database has been read by a reading that began after this
    /// moment. Where a call was not answered, what was read before does not say that it is still
    /// wanted.
    fn begin(
        &self,
        key: &Key,
        call: &BytebaseCall,
        now: Timestamp,
        is_read_since: impl FnOnce(Instant) -> bool,
    ) -> Result<(), Timestamp> {
        let fingerprint = fingerprint(call);
        let mut entries = self.0.lock();
        let entry = entries
            .entry(key.clone())
            .or_insert_with(|| Entry::new(fingerprint.clone()));
        let is_other = !entry.fingerprint.is_of(&fingerprint);
        if entry.running {
            if is_other {
                entry.outdate();
            }
            // Its end wakes the cluster.
            return Err(Timestamp::MAX);
        }
        if is_other {
            *entry = Entry {
                unanswered_at: entry.unanswered_at,
                ..Entry::new(fingerprint.clone())
            };
        }
        // The clock may have been set back since it was written down.
        let latest = now.saturating_add(LONGEST_REFUSED_RETRY);
        entry.retry_at = entry.retry_at.min(latest.unwrap_or(Timestamp::MAX));
        if now < entry.retry_at {
            return Err(entry.retry_at);
        }
        if entry.unanswered_at.is_some_and(|at| !is_read_since(at)) {
            return Err(now
                .saturating_add(UNANSWERED_RETRY)
                .unwrap_or(Timestamp::MAX));
        }
        entry.fingerprint = fingerprint;
        entry.running = true;
        Ok(())
    }

    fn ended(&self, key: &Key, result: &Result<(), CallError>, now: Timestamp) {
        let mut entries = self.0.lock();
        let Some(entry) = entries.get_mut(key) else {
            return;
        };
        entry.running = false;
        let after = |pause| now.saturating_add(pause).unwrap_or(Timestamp::MAX);
        let error = match result {
            // Nothing is to be remembered of it.
            _ if entry.outdated => {
                entries.remove(key);
                return;
            }
            // What was read before says that it is still wanted.
            Ok(()) => {
                *entry = Entry {
                    retry_at: after(FAILED_RETRY),
                    ..Entry::new(entry.fingerprint.clone())
                };
                return;
            }
            Err(error) => error,
        };
        entry.unanswered_at = None;
        entry.retry_at = match error {
            CallError::Unreachable(_) => {
                entry.unanswered += 1;
                entry.unanswered_at = Some(Instant::now());
                after(if entry.unanswered > UNANSWERED {
                    FAILED_RETRY
                } else {
                    UNANSWERED_RETRY
                })
            }
            error if error.is_refusal() => {
                entry.unanswered = 0;
                let before = entry.refused.as_ref().map_or(0, |refused| refused.refusals);
                let refusals = before.saturating_add(1);
                let retry_at = after(refused_pause(refusals));
                entry.refused = Some(RefusedCall {
                    refusals,
                    retry_time: Time(retry_at),
                    message: error.to_string(),
                    mark: entry.fingerprint.mark(),
                });
                retry_at
            }
            _ => {
                entry.unanswered = 0;
                after(FAILED_RETRY)
            }
        };
        if entry.unanswered == 0 || entry.unanswered > UNANSWERED {
            entry.message = Some(error.to_string());
        }
    }

    /// Makes a call in a task of its own, unless the same one is running already or is still to
    /// wait; then returns when it may be tried. `ended` gets what came of it.
    pub fn make(
        self: &Arc<Self>,
        key: &Key,
        call: BytebaseCall,
        http: &reqwest::Client,
        is_read_since: impl FnOnce(Instant) -> bool,
        ended: impl FnOnce(BytebaseCall, Result<(), CallError>) + Send + 'static,
    ) -> Result<(), Timestamp> {
        self.begin(key, &call, Timestamp::now(), is_read_since)?;
        let (calls, key, http) = (Arc::clone(self), key.clone(), http.clone());
        tokio::spawn(async move {
            let call_ended = AssertUnwindSafe(bytebase::perform(&http, &call));
            // A call that panicked would count as running for ever.
            let result = call_ended.catch_unwind().await;
            let result = result.unwrap_or(Err(CallError::Defect));
            calls.ended(&key, &result, Timestamp::now());
            ended(call, result);
        });
        Ok(())
    }
}

/// Pause after so many refusals in a row.
fn refused_pause(times: i32) -> SignedDuration {
    let doubled = FIRST_REFUSED_RETRY.checked_mul(1 << times.saturating_sub(1).clamp(0, 10));
    doubled
        .unwrap_or(LONGEST_REFUSED_RETRY)
        .min(LONGEST_REFUSED_RETRY)
}

fn fingerprint(call: &BytebaseCall) -> Fingerprint {
    let mut hash = Sha256::new();
    let mut part = |text: &str| {
        hash.update(text);
        hash.update(b"\0");
    };
    match &call.request {
        BytebaseRequest::CreateFirstAdmin { email, password } => {
            part("sign up");
            part(email.expose_secret());
            part(password.expose_secret());
        }
        BytebaseRequest::InstallLicense {
            email,
            password,
            token,
        } => {
            part("install");
            part(email.expose_secret());
            part(password.expose_secret());
            part(token.expose_secret());
        }
    }
    Fingerprint::Full(hash.finalize().into())
}

impl Fingerprint {
    fn mark(&self) -> String {
        match self {
            Self::Full(hash) => {
                let mut digits = hex::encode(hash);
                digits.truncate(MARK_DIGITS);
                digits
            }
            Self::Mark(mark) => mark.clone(),
        }
    }

    /// Whether both are of the same call, as far as it is known.
    fn is_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Full(one), Self::Full(other)) => one == other,
            _ => self.mark() == other.mark(),
        }
    }
}

impl Entry {
    fn new(fingerprint: Fingerprint) -> Self {
        Self {
            fingerprint,
            running: false,
            outdated: false,
            refused: None,
            unanswered: 0,
            unanswered_at: None,
            retry_at: Timestamp::MIN,
            message: None,
        }
    }

    /// Nothing of the call that is running matters any more, but that it runs.
    fn outdate(&mut self) {
        self.outdated = true;
        self.message = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::reflector::ObjectRef;
    use reqwest::StatusCode;
    use secrecy::SecretString;

    fn key() -> Key {
        ObjectRef::new("bb").within("prod")
    }

    fn install(password: &str) -> BytebaseCall {
        BytebaseCall {
            replica: ([10, 0, 0, 1], 8080).into(),
            request: BytebaseRequest::InstallLicense {
                email: "a@example.com".into(),
                password: SecretString::from(password),
                token: SecretString::from("ey"),
            },
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).unwrap()
    }

    /// Makes a call at a moment, with this result.
    fn tried(calls: &Calls, call: &BytebaseCall, second: i64, result: &Result<(), CallError>) {
        assert_eq!(
            calls.begin(&key(), call, at(second), |_| true),
            Ok(()),
            "at {second}"
        );
        calls.ended(&key(), result, at(second));
    }

    #[test]
    fn a_refused_login_is_tried_less_and_less_often() {
        let calls = Calls::default();
        let refused = || Err(CallError::Login(StatusCode::UNAUTHORIZED));
        let mut moment = 0;
        for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
            tried(&calls, &install("wrong"), moment, &refused());
            let next = moment + 60 * minutes;
            let failure = calls.failure(&key()).unwrap();
            assert!(failure.message.contains("email or password"), "{failure:?}");
            let early = calls.begin(&key(), &install("wrong"), at(next - 1), |_| true);
            assert_eq!(early, Err(at(next)));
            moment = next;
        }
    }

    #[test]
    fn a_process_that_has_just_started_does_not_try_a_refused_login_again() {
        let before = Calls::default();
        let refused = || Err(CallError::Login(StatusCode::UNAUTHORIZED));
        for second in [0, 60] {
            tried(&before, &install("wrong"), second, &refused());
        }
        let failure = before.failure(&key()).unwrap();
        let written = failure.refused.clone().unwrap();
        assert_eq!((written.refusals, written.retry_time.0), (2, at(180)));

        let after = || {
            let calls = Calls::default();
            calls.recall(&key(), &written);
            assert_eq!(
                calls.failure(&key()).as_ref(),
                Some(&failure),
                "status stays"
            );
            calls
        };
        let calls = after();
        assert_eq!(
            calls.begin(&key(), &install("wrong"), at(100), |_| true),
            Err(at(180))
        );
        tried(&calls, &install("wrong"), 180, &refused());
        let third = calls.failure(&key()).unwrap().refused.unwrap();
        assert_eq!((third.refusals, third.retry_time.0), (3, at(180 + 240)));
        // Another password is another call, and what this process knows counts more.
        tried(&after(), &install("right"), 100, &Ok(()));
        calls.recall(&key(), &written);
        assert_eq!(calls.failure(&key()).unwrap().refused, Some(third));
        // A clock that was set back makes no pause longer than the longest.
        let calls = after();
        let long_ago = at(-1_000_000);
        let latest = long_ago.saturating_add(LONGEST_REFUSED_RETRY).unwrap();
        assert_eq!(
            calls.begin(&key(), &install("wrong"), long_ago, |_| true),
            Err(latest)
        );
    }

    #[test]
    fn what_is_written_of_a_refused_call_stays_while_nothing_answers() {
        let calls = Calls::default();
        let refused = Err(CallError::Login(StatusCode::UNAUTHORIZED));
        tried(&calls, &install("wrong"), 0, &refused);
        let written = calls.failure(&key()).unwrap().refused;
        for second in 60..70 {
            let lost = Err(CallError::Unreachable("http://10.0.0.1:8080".to_owned()));
            tried(&calls, &install("wrong"), second, &lost);
            assert_eq!(calls.failure(&key()).unwrap().refused, written);
        }
    }

    #[test]
    fn another_password_is_tried_at_once() {
        let calls = Calls::default();
        let refused = Err(CallError::Login(StatusCode::UNAUTHORIZED));
        tried(&calls, &install("wrong"), 0, &refused);
        tried(&calls, &install("right"), 1, &Ok(()));
        assert_eq!(calls.failure(&key()), None);
    }

    #[test]
    fn a_call_that_succeeded_is_not_made_again_by_what_was_read_before() {
        let calls = Calls::default();
        tried(&calls, &install("p"), 0, &Ok(()));
        assert_eq!(calls.failure(&key()), None);
        assert_eq!(
            calls.begin(&key(), &install("p"), at(59), |_| true),
            Err(at(60))
        );
        // Another one is.
        tried(&calls, &install("q"), 1, &Ok(()));
        // Once it is not wanted it may be wanted again.
        calls.forget(&key());
        tried(&calls, &install("q"), 2, &Ok(()));
        tried(&calls, &install("q"), 62, &Ok(()));
    }

    #[test]
    fn a_call_that_is_not_wanted_any_more_leaves_nothing() {
        let calls = Calls::default();
        let failed = Err(CallError::Other {
            what: "the license",
            status: StatusCode::BAD_GATEWAY,
        });
        tried(&calls, &install("p"), 0, &failed);
        assert!(calls.failure(&key()).is_some());
        calls.forget(&key());
        assert_eq!(calls.failure(&key()), None);
    }

    /// Bytebase may have signed the admin up, and would answer a second try that the account is
    /// there already.
    #[test]
    fn a_call_that_was_not_answered_is_repeated_only_on_what_was_read_after_it() {
        let calls = Calls::default();
        let before = Instant::now();
        tried(
            &calls,
            &install("p"),
            0,
            &Err(CallError::Unreachable(String::new())),
        );
        let reads = [(5, false, Err(at(6))), (6, true, Ok(()))];
        for (second, is_read, expected) in reads {
            let begun = calls.begin(&key(), &install("p"), at(second), |moment| {
                assert!(moment >= before);
                is_read
            });
            assert_eq!(begun, expected);
        }
        // One that was answered is not waited for.
        let failed = Err(CallError::Rights(StatusCode::FORBIDDEN));
        calls.ended(&key(), &failed, at(7));
        let begun = calls.begin(&key(), &install("p"), at(100), |_| false);
        assert_eq!(begun, Ok(()));
    }

    #[test]
    fn one_call_runs_at_a_time_and_an_outdated_result_says_nothing() {
        let calls = Calls::default();
        assert_eq!(
            calls.begin(&key(), &install("old"), at(0), |_| true),
            Ok(())
        );
        let second = calls.begin(&key(), &install("new"), at(1), |_| true);
        assert_eq!(second, Err(Timestamp::MAX));
        let refused = Err(CallError::Login(StatusCode::UNAUTHORIZED));
        calls.ended(&key(), &refused, at(2));
        assert_eq!(calls.failure(&key()), None);
        assert_eq!(
            calls.begin(&key(), &install("new"), at(2), |_| true),
            Ok(())
        );
    }

    #[test]
    fn a_late_answer_says_nothing_of_a_cluster_that_was_made_again() {
        for again in [false, true] {
            let calls = Calls::default();
            assert_eq!(calls.begin(&key(), &install("p"), at(0), |_| true), Ok(()));
            calls.forget(&key());
            if again {
                let same = calls.begin(&key(), &install("p"), at(1), |_| true);
                assert_eq!(same, Err(Timestamp::MAX), "one call at a time");
            }
            let refused = Err(CallError::Login(StatusCode::UNAUTHORIZED));
            calls.ended(&key(), &refused, at(2));
            assert!(calls.0.lock().is_empty(), "nothing of it is left");
        }
    }

    #[test]
    fn a_pod_that_has_just_ended_is_no_failure_worth_a_word() {
        let calls = Calls::default();
        for second in 0..i64::from(UNANSWERED) {
            let lost = Err(CallError::Unreachable("http://10.0.0.1:8080".to_owned()));
            tried(&calls, &install("p"), second, &lost);
            assert_eq!(calls.failure(&key()), None);
        }
        let lost = Err(CallError::Unreachable("http://10.0.0.1:8080".to_owned()));
        tried(&calls, &install("p"), 60, &lost);
        assert!(calls.failure(&key()).is_some());
        // Where nothing has answered for so long nothing is about to.
        assert_eq!(
            calls.begin(&key(), &install("p"), at(119), |_| true),
            Err(at(120))
        );
    }
}
