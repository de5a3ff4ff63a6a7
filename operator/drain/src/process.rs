//! The Bytebase process that this hook stands beside.

use std::fs;
use std::time::Duration;

/// The kernel counts the start of a process in hundredths of a second on every machine.
const TICKS_PER_SECOND: u64 = 100;

/// Number of the Bytebase process. `None` where it is not known which one it is.
pub fn id() -> Option<u32> {
    // A pod whose containers share their processes has one of Kubernetes' own as the first.
    if name(&stat(1)?) != Some("pause") {
        return Some(1);
    }
    let processes = fs::read_dir("/proc").ok()?;
    let found = processes.filter_map(|entry| {
        let id = entry.ok()?.file_name().to_str()?.parse().ok()?;
        (name(&stat(id)?) == Some("bytebase")).then_some(id)
    });
    // Of two it would not be known which one it is.
    let found: Vec<_> = found.take(2).collect();
    match found[..] {
        [id] => Some(id),
        _ => None,
    }
}

/// How long the Bytebase process has run. `None` where it is not known which process that is.
pub fn age() -> Option<Duration> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    age_by(&stat(id()?)?, &uptime)
}

fn stat(id: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{id}/stat")).ok()
}

/// The name stands in parentheses and may hold anything, spaces and parentheses too.
fn name(stat: &str) -> Option<&str> {
    let (_, rest) = stat.split_once('(')?;
    Some(rest.rsplit_once(')')?.0)
}

/// By the 22nd field, which is the 20th behind the name.
fn age_by(stat: &str, uptime: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u64 = fields.split_whitespace().nth(19)?.parse().ok()?;
    let now: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let born = Duration::from_millis(ticks.checked_mul(1000 / TICKS_PER_SECOND)?);
    Duration::try_from_secs_f64(now).ok()?.checked_sub(born)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_is_the_time_since_the_start() {
        let stat = "1 (by) (te base) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 12345 999 1";
        assert_eq!(name(stat), Some("by) (te base"));
        let age = age_by(stat, "200.45 300.00\n").unwrap();
        assert_eq!(age, Duration::from_secs(77));
        assert_eq!(age_by("nonsense", "1"), None);
        assert_eq!(age_by(stat, "1.0 1.0"), None, "not before the machine");
    }

    #[test]
    fn the_first_process_of_this_machine_has_an_age() {
        assert_eq!(id(), Some(1));
        assert!(age().is_some());
    }
}
