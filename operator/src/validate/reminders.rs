//! When people are reminded of something that ends: 30, 7 and 1 days before.
//!
//! What is said changes at these moments only, so that a status is not written in between.

use jiff::{SignedDuration, Timestamp};

const DAYS: [i64; 3] = [30, 7, 1];

/// The nearest reminder that has been passed, as words: `30 days`, `7 days` or `a day`.
pub fn passed(end: Timestamp, now: Timestamp) -> Option<&'static str> {
    let left = end.duration_since(now);
    let days = DAYS.into_iter().rev();
    let passed = days
        .clone()
        .find(|days| left <= SignedDuration::from_hours(days * 24))?;
    Some(match passed {
        1 => "a day",
        7 => "7 days",
        _ => "30 days",
    })
}

/// The moments of all reminders.
pub fn moments(end: Timestamp) -> impl Iterator<Item = Timestamp> {
    let before = move |days| end.checked_sub(SignedDuration::from_hours(days * 24)).ok();
    DAYS.into_iter().filter_map(before)
}
