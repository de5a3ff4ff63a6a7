//! Processes of this machine that the harness started: remembered across runs, and never mistaken
//! for another process that was given the same number later.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// A process, distinguished from every other that ever has its number by when it started (in clock
/// ticks since the boot) and by the boot itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pid: i32,
    start: u64,
    boot: String,
}

impl ProcessId {
    /// The process that has this number now.
    pub fn of(pid: i32) -> Result<Self> {
        let stat = read_stat(pid).with_context(|| format!("process {pid}"))?;
        Ok(Self {
            pid,
            start: stat.start,
            boot: boot()?,
        })
    }

    /// The process named by the first line of a pid file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        let first = text.lines().next().unwrap_or_default();
        Self::of(
            first
                .trim()
                .parse()
                .with_context(|| format!("{}", path.display()))?,
        )
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Whether it still runs. A zombie does not.
    pub fn runs(&self) -> bool {
        boot().is_ok_and(|boot| boot == self.boot)
            && read_stat(self.pid).is_ok_and(|stat| stat.start == self.start && stat.state != 'Z')
    }

    /// Sends it a signal; an error if it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.runs() {
            bail!("process {} has ended", self.pid);
        }
        send(self.pid, signal)
    }

    /// Ends it: asks with `polite`, waits as long as `patience`, then kills it. Nothing to do if it
    /// has ended.
    pub async fn end(&self, polite: Signal, patience: Duration) -> Result<()> {
        for (signal, patience) in [(polite, patience), (Signal::KILL, Duration::from_secs(10))] {
            if !self.runs() {
                return Ok(());
            }
            // It may end between the check and the signal; the wait below notices.
            let sent = send(self.pid, signal);
            let start = Instant::now();
            while self.runs() {
                if start.elapsed() > patience {
                    sent?;
                    break;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        if self.runs() {
            bail!("process {} outlived SIGKILL", self.pid);
        }
        Ok(())
    }

    /// It and everything it started that still runs, parents first.
    pub fn tree(&self) -> Result<Vec<i32>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok())
            else {
                continue;
            };
            // A process may end while the list is read.
            if let Ok(stat) = read_stat(pid) {
                parents.push((pid, stat.parent));
            }
        }
        let mut tree = vec![self.pid];
        let mut next = 0;
        while let Some(&pid) = tree.get(next) {
            tree.extend(
                parents
                    .iter()
                    .filter(|(_, parent)| *parent == pid)
                    .map(|(child, _)| child),
            );
            next += 1;
        }
        Ok(tree)
    }

    /// Signals it and everything it started. Parents come first, so a frozen parent starts nothing
    /// that the signal would miss.
    pub fn signal_tree(&self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        for pid in self.tree()?.into_iter().skip(1) {
            send_unless_ended(pid, signal)?;
        }
        Ok(())
    }

    /// Kills it and everything it started. All of it is frozen first: a process whose parent has
    /// been killed is no longer found, and one that hears of that would end in its own way.
    pub fn kill_tree(&self) -> Result<()> {
        self.signal_tree(Signal::STOP)?;
        // Children first: the number of a child is given to no other process while its parent is
        // there and asks for nothing.
        for pid in self.tree()?.into_iter().rev() {
            send_unless_ended(pid, Signal::KILL)?;
        }
        Ok(())
    }
}

fn send_unless_ended(pid: i32, signal: Signal) -> Result<()> {
    match send(pid, signal) {
        Err(_) if read_stat(pid).is_err() => Ok(()),
        sent => sent,
    }
}

fn send(pid: i32, signal: Signal) -> Result<()> {
    let target = Pid::from_raw(pid).context("not the number of a process")?;
    kill_process(target, signal).with_context(|| format!("{signal:?} to process {pid}"))
}

#[derive(Debug)]
struct Stat {
    state: char,
    parent: i32,
    start: u64,
}

fn read_stat(pid: i32) -> Result<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat"))?).context("/proc/PID/stat")
}

/// Fields 3, 4 and 22 of proc(5). The name in field 2 is in parentheses and may hold anything, a
/// closing parenthesis too, so the fields are counted from the last one.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<_> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: fields.first()?.chars().next()?,
        parent: fields.get(1)?.parse().ok()?,
        start: fields.get(19)?.parse().ok()?,
    })
}

fn boot() -> Result<String> {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    Ok(id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let text = "7 (a) b) S 3 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        let stat = parse_stat(text);
        assert!(
            matches!(
                stat,
                Some(Stat {
                    state: 'S',
                    parent: 3,
                    start: 4711
                })
            ),
            "{stat:?}"
        );
    }

    #[test]
    fn another_process_with_the_same_number_is_not_the_same() -> Result<()> {
        let own = i32::try_from(std::process::id())?;
        let mut this = ProcessId::of(own)?;
        assert!(this.runs());
        this.start += 1;
        assert!(!this.runs());
        assert!(this.signal(Signal::TERM).is_err());
        Ok(())
    }

    #[tokio::test]
    async fn a_tree_freezes_thaws_and_ends() -> Result<()> {
        let mut shell = Command::new("sh").args(["-c", "sleep 60 & wait"]).spawn()?;
        let process = ProcessId::of(i32::try_from(shell.id())?)?;
        let start = Instant::now();
        while process.tree()?.len() < 2 && start.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(10)).await;
        }
        let tree = process.tree()?;
        assert_eq!(tree.len(), 2);

        process.signal_tree(Signal::STOP)?;
        sleep(Duration::from_millis(50)).await;
        for &pid in &tree {
            assert_eq!(read_stat(pid)?.state, 'T');
        }
        process.signal_tree(Signal::CONT)?;
        process.kill_tree()?;
        shell.wait()?;
        assert!(!process.runs());
        let runs = |pid: i32| read_stat(pid).is_ok_and(|stat| stat.state != 'Z');
        while tree.iter().any(|pid| runs(*pid)) && start.elapsed() < Duration::from_secs(10) {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(!tree.iter().any(|pid| runs(*pid)));
        process.end(Signal::TERM, Duration::ZERO).await
    }
}
