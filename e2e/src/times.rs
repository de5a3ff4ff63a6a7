//! Where the time of a run went.

use parking_lot::Mutex;
use std::fmt::Write as _;
use std::fs;
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

/// What the processors of this machine have done since it was started, in the kernel's units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processors {
    /// Of any process, and of the kernel.
    busy: u64,
    idle: u64,
}

impl Processors {
    /// Until now; `None` where the kernel does not say.
    pub fn now() -> Option<Self> {
        Self::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    /// The first line has the sum of all processors: user, nice, system, idle, waiting for a disk,
    /// two kinds of interrupts, and what other machines took that share the processors.
    fn parse(text: &str) -> Option<Self> {
        let counts = text.lines().next()?.strip_prefix("cpu ")?;
        let counts = counts.split_whitespace().map(str::parse::<u64>);
        let counts = counts.collect::<Result<Vec<_>, _>>().ok()?;
        let [user, nice, system, idle, disk, interrupts, soft, others, ..] = counts[..] else {
            return None;
        };
        Some(Self {
            busy: user + nice + system + interrupts + soft + others,
            idle: idle + disk,
        })
    }

    /// How busy they were from `before` on, as a sentence; `None` if no time has passed.
    pub fn since(self, before: Self) -> Option<String> {
        let busy = self.busy.saturating_sub(before.busy);
        let all = busy + self.idle.saturating_sub(before.idle);
        let part = (busy * 100).checked_div(all)?;
        Some(format!(
            "the machine's processors were busy {part} % of the time"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_busy_while_they_neither_idle_nor_wait_for_a_disk() {
        let read = |line: &str| Processors::parse(&format!("{line}\ncpu0 9 9 9 9 9 9 9 9\n"));
        let before = read("cpu  100 0 50 800 50 0 0 0 0 0").unwrap();
        let after = read("cpu  140 5 60 810 60 1 2 2 0 0").unwrap();
        let said = after.since(before);
        assert_eq!(
            said.as_deref(),
            Some("the machine's processors were busy 75 % of the time")
        );
        assert_eq!(before.since(before), None);
        assert_eq!(read("intr 1 2 3"), None);
        assert_eq!(read("cpu  1 2 3"), None);
    }

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
