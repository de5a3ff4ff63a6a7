//! Which tasks Bytebase has failed as abandoned, and when that is asked: one rule, by which the
//! operator counts what a replica runs, and a drain hook what its own does.
//!
//! Bytebase fails the tasks of a replica that has sent no heartbeat for a minute, and says nothing
//! of it to that replica: after an outage of the database one that lives goes on with them, and
//! writes their ends over that. The text that begins what came of such a task is Bytebase's.

use crate::replica::DEAD_AFTER;
use std::time::Duration;

/// It is asked once in so long, unless something says that the answer is another one.
pub const KEPT: Duration = Duration::from_secs(10);

/// So often in turn that may have no answer, as of a server that has just started and has much to
/// read, before what was answered last counts, or nothing.
pub const UNANSWERED: u32 = 5;

/// The answer has the tasks of owners that have been heard within this time: rows of owners that
/// are gone stay as they are.
pub const HEARD: Duration = DEAD_AFTER;

/// SQL: a task run `t` that has failed, no longer than a day ago. One whose end could not be
/// written stays as it is, since that is written once.
const FAILED: &str =
    "t.status::text = 'FAILED' AND t.updated_at > clock_timestamp() - interval '1 day'";

/// SQL: the owner of `t` has been heard within [`HEARD`].
const OF_HEARD: &str = "t.replica_id::text IN (SELECT h.replica_id::text FROM replica_heartbeat h\n      WHERE isfinite(h.last_heartbeat) AND h.last_heartbeat > clock_timestamp() - interval '1 minute')";

/// SQL: what came of `f` says so.
const SAYS_SO: &str = "f.result ->> 'detail' LIKE 'Task run abandoned%'";

/// A question with the parts of the rule in the places that its text leaves for them.
pub fn filled_in(question: &str) -> String {
    question
        .replace("{failed}", FAILED)
        .replace("{of_heard}", OF_HEARD)
        .replace("{says_so}", SAYS_SO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_question_and_the_rule_mean_the_same_time() {
        assert_eq!(HEARD, Duration::from_mins(1));
        assert!(filled_in("{of_heard}").ends_with("interval '1 minute')"));
    }
}
