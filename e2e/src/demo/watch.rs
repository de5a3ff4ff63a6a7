//! What a user would watch while a cluster comes up: phase, conditions and replicas, a line for
//! each change.

use crate::scenario::sandbox::condition;
use anyhow::{Result, bail};
use kube::Api;
use kube::api::DynamicObject;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Between two readings of the object.
const INTERVAL: Duration = Duration::from_millis(300);
/// After this long without a change a line says what is waited for.
const QUIET: Duration = Duration::from_secs(15);
/// The user must help if this does not pass by itself.
const STALL_LIMIT: Duration = Duration::from_secs(45);
/// Longer messages are cut; `kubectl describe` has all of them.
const SHOWN: usize = 150;
/// The condition about the license.
const LICENSED: &str = "HALicensed";
/// Says the same as the phase.
const UNREMARKABLE: &str = "Reconciling";

/// What the cluster is brought to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// This many replicas are Ready and send heartbeats.
    Serving(i64),
    /// One replica is Ready and sends heartbeats, and the license gate holds back the others.
    Limited,
}

impl Goal {
    fn reached(self, cluster: &DynamicObject) -> bool {
        let status = &cluster.data["status"];
        let (phase, active) = match self {
            Self::Serving(count) => ("Ready", count),
            Self::Limited => ("Limited", 1),
        };
        // A status of an earlier spec says nothing of this one.
        status["observedGeneration"].as_i64() == cluster.metadata.generation
            && status["phase"] == phase
            && status["activeReplicas"] == active
            && status["readyReplicas"] == active
            && (self != Self::Limited || !awaits_admin(status))
    }
}

/// Whether the first sign-up, which the operator makes, is still to come.
fn awaits_admin(status: &Value) -> bool {
    condition(&status["conditions"], LICENSED)
        .is_none_or(|condition| condition["reason"] == "AwaitingFirstSignUp")
}

/// What the condition about the license says.
pub fn license_message(status: &Value) -> &str {
    condition(&status["conditions"], LICENSED)
        .and_then(|condition| condition["message"].as_str())
        .unwrap_or("the operator says nothing about the license")
}

/// Prints what changes until the goal is reached. Times are counted from `start`.
pub async fn follow(
    clusters: &Api<DynamicObject>,
    name: &str,
    goal: Goal,
    start: Instant,
    patience: Duration,
) -> Result<DynamicObject> {
    let begun = Instant::now();
    let mut view = View::default();
    let mut stuck: Option<Instant> = None;
    let mut spoken = Instant::now();
    loop {
        let cluster = clusters.get(name).await?;
        let status = &cluster.data["status"];
        let lines = view.changes(status);
        if !lines.is_empty() {
            spoken = Instant::now();
        }
        for line in lines {
            say(start, &line);
        }
        if goal.reached(&cluster) {
            return Ok(cluster);
        }
        let stalled = condition(&status["conditions"], "Stalled")
            .is_some_and(|condition| condition["status"] == "True");
        let held = matches!(goal, Goal::Serving(_)) && status["phase"] == "Limited";
        stuck = (stalled || held).then(|| stuck.unwrap_or_else(Instant::now));
        if stuck.is_some_and(|since| since.elapsed() > STALL_LIMIT) {
            let configuration = condition(&status["conditions"], "ConfigurationValid");
            if let Some(wrong) = configuration.filter(|condition| condition["status"] == "False") {
                bail!("{}", wrong["message"].as_str().unwrap_or_default());
            }
            if held {
                bail!("replicas are held back: {}", license_message(status));
            }
            bail!("the cluster is stalled: the condition Stalled says what must be corrected");
        }
        if begun.elapsed() > patience {
            bail!("not there after {} s", patience.as_secs());
        }
        if spoken.elapsed() > QUIET {
            let waits = condition(&status["conditions"], "Ready")
                .and_then(|condition| condition["message"].as_str())
                .unwrap_or("the operator has not written a status yet");
            say(start, &format!("…           {}", cut(waits)));
            spoken = Instant::now();
        }
        sleep(INTERVAL).await;
    }
}

/// A line with the time since `start`.
pub fn say(start: Instant, line: &str) {
    println!("{:7.1} s  {line}", start.elapsed().as_secs_f32());
}

/// What was seen last, by what it is about.
#[derive(Debug, Default)]
struct View(BTreeMap<String, String>);

impl View {
    /// A line for everything that is not as it was at the last reading.
    fn changes(&mut self, status: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        if let Some(phase) = status["phase"].as_str() {
            self.note(
                "phase",
                phase,
                || format!("phase       {phase}"),
                &mut lines,
            );
        }
        for condition in list(&status["conditions"]) {
            let text = |field: &str| condition[field].as_str().unwrap_or_default();
            let (kind, value, reason) = (text("type"), text("status"), text("reason"));
            let calm = value == "Unknown" || (kind == "Stalled" && value == "False");
            if kind == UNREMARKABLE || (calm && !self.0.contains_key(kind)) {
                continue;
            }
            let line = || {
                format!(
                    "condition   {kind}={value} {reason}: {}",
                    cut(text("message"))
                )
            };
            // Messages count and measure; only another status or reason is a change.
            self.note(kind, &format!("{value} {reason}"), line, &mut lines);
        }
        let replicas: BTreeMap<_, _> = list(&status["replicaStatuses"])
            .filter_map(|replica| Some((replica["pod"].as_str()?, describe(replica))))
            .collect();
        for (pod, text) in &replicas {
            let line = || format!("replica     {pod}: {text}");
            self.note(&format!("pod {pod}"), text, line, &mut lines);
        }
        self.0.retain(|key, _| match key.strip_prefix("pod ") {
            Some(pod) if !replicas.contains_key(pod) => {
                lines.push(format!("replica     {pod}: gone"));
                false
            }
            _ => true,
        });
        lines
    }

    fn note(&mut self, key: &str, now: &str, line: impl Fn() -> String, lines: &mut Vec<String>) {
        let before = self.0.insert(key.to_owned(), now.to_owned());
        if before.as_deref() != Some(now) {
            lines.push(line());
        }
    }
}

/// A replica in a line: what Kubernetes says of the pod, and what the database says of its
/// heartbeat.
fn describe(replica: &Value) -> String {
    let ready = if replica["ready"] == true {
        "Ready"
    } else {
        "not Ready"
    };
    let heartbeat = match replica["heartbeat"].as_str().unwrap_or("Unknown") {
        "Fresh" => "heartbeat Fresh",
        "Stale" => "heartbeat Stale",
        "Missing" => "no heartbeat yet",
        _ => "heartbeat Unknown",
    };
    let mut text = format!("pod {ready}, {heartbeat}");
    if let Some(message) = replica["message"].as_str() {
        text = format!("{text} ({})", cut(message));
    }
    text
}

/// One line, and not too long.
fn cut(message: &str) -> String {
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", line[..end].trim_end()),
        None => line,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// The replicas of a cluster, a line each, with the age of the heartbeat that the database has of
/// it.
pub fn replicas(cluster: &DynamicObject, ages: &BTreeMap<String, f64>) -> Vec<String> {
    list(&cluster.data["status"]["replicaStatuses"])
        .map(|replica| {
            let pod = replica["pod"].as_str().unwrap_or_default();
            let id = replica["replicaID"].as_str().unwrap_or_default();
            let age = ages.get(id).map_or_else(
                || "no heartbeat under this id".to_owned(),
                |age| format!("last heartbeat {age:.1} s ago"),
            );
            format!("{pod}: {}, replica id {id}, {age}", describe(replica))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(phase: &str, message: &str, heartbeat: &str) -> Value {
        json!({
            "phase": phase,
            "conditions": [
                {"type": "Ready", "status": "False", "reason": "ReplicasNotReady", "message": message},
                {"type": "Stalled", "status": "False", "reason": "NotStalled", "message": ""},
                {"type": "DatabaseReady", "status": "Unknown", "reason": "DatabaseNotProbed", "message": ""},
            ],
            "replicaStatuses": [{"pod": "a-0", "ready": true, "heartbeat": heartbeat}],
        })
    }

    #[test]
    fn only_changes_are_printed() {
        let mut view = View::default();
        let first = view.changes(&status("Starting", "0 of 1", "Missing"));
        assert_eq!(
            first,
            [
                "phase       Starting",
                "condition   Ready=False ReplicasNotReady: 0 of 1",
                "replica     a-0: pod Ready, no heartbeat yet",
            ]
        );
        assert!(
            view.changes(&status("Starting", "another message", "Missing"))
                .is_empty()
        );
        let fresh = view.changes(&status("Starting", "", "Fresh"));
        assert_eq!(fresh, ["replica     a-0: pod Ready, heartbeat Fresh"]);
        let gone = view.changes(&json!({"phase": "Starting"}));
        assert_eq!(gone, ["replica     a-0: gone"]);
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let text = cut(&"ä".repeat(SHOWN + 1));
        assert_eq!(text.chars().count(), SHOWN + 1);
        assert!(text.ends_with('…'));
        assert_eq!(cut("two\n lines"), "two lines");
    }

    #[test]
    fn a_goal_is_not_reached_by_the_status_of_an_earlier_spec() -> Result<()> {
        let at = |generation: i64| -> Result<DynamicObject> {
            Ok(serde_json::from_value(json!({
                "metadata": {"name": "a", "generation": generation},
                "status": {"observedGeneration": 1, "phase": "Ready", "activeReplicas": 3, "readyReplicas": 3},
            }))?)
        };
        assert!(Goal::Serving(3).reached(&at(1)?));
        assert!(!Goal::Serving(3).reached(&at(2)?));
        assert!(!Goal::Limited.reached(&at(1)?));
        Ok(())
    }
}
