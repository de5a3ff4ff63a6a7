//! Where the time of a run went.

use parking_lot::Mutex;
use std::fmt::Write as _;
use std::time::Duration;

/// How many lines are shown.
const SHOWN: usize = 15;

static TIMES: Mutex<Vec<(String, Duration)>> = Mutex::new(Vec::new());

/// Notes what something took.
pub fn note(what: impl Into<String>, took: Duration) {
    let mut times = TIMES.lock();
    times.push((what.into(), took));
}

/// What took longest, of all that was noted. Much of it ran at the same time.
pub fn table() -> String {
    let times = TIMES.lock();
    longest(times.clone())
}

fn longest(mut times: Vec<(String, Duration)>) -> String {
    times.sort_by_key(|(_, took)| std::cmp::Reverse(*took));
    let mut table = "where the time went, much of it side by side:".to_owned();
    for (what, took) in times.iter().take(SHOWN) {
        let _ = write!(table, "\n{:>8.1} s  {what}", took.as_secs_f32());
    }
    if let Some(rest) = times.get(SHOWN..).filter(|rest| !rest.is_empty()) {
        let took: Duration = rest.iter().map(|(_, took)| took).sum();
        let _ = write!(
            table,
            "\n{:>8.1} s  {} others",
            took.as_secs_f32(),
            rest.len()
        );
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_come_first_and_the_others_are_summed_up() {
        let times = (1..=20)
            .map(|seconds| (format!("step {seconds}"), Duration::from_secs(seconds)))
            .collect();
        let table = longest(times);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!(lines[1], "    20.0 s  step 20");
        assert_eq!(lines[15], "     6.0 s  step 6");
        assert_eq!(lines[16], "    15.0 s  5 others");
        assert_eq!(lines.len(), 17);
    }
}
