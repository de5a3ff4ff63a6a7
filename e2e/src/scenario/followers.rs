//! Keeping what the operator logs: a pod's log goes when the pod goes, and scenarios kill
//! operators.

use anyhow::{Context, Result};
use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, LogParams};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;

/// How soon after its start a container's log is followed.
const INTERVAL: Duration = Duration::from_millis(500);

/// One start of one container: pod, container, number of restarts.
type Start = (String, String, i32);

/// Follows the logs of all pods with a label, each start of a container into its own file, until it
/// is dropped.
#[derive(Debug)]
pub struct Followers {
    folder: PathBuf,
    /// What could not be read, by start: a log that was lost must not look like a quiet one.
    problems: Arc<Mutex<BTreeMap<Start, String>>>,
    _tasks: JoinSet<()>,
}

impl Followers {
    /// Starts following; the files go to `folder`.
    pub fn start(pods: Api<Pod>, selector: String, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("{}", folder.display()))?;
        let problems = Arc::new(Mutex::new(BTreeMap::new()));
        let mut tasks = JoinSet::new();
        tasks.spawn(watch(pods, selector, folder.clone(), Arc::clone(&problems)));
        Ok(Self {
            folder,
            problems,
            _tasks: tasks,
        })
    }

    /// Everything logged so far, file by file.
    pub fn read(&self) -> Result<Vec<(String, String)>> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            let text = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            logs.push((name, text));
        }
        logs.sort();
        Ok(logs)
    }

    /// What went wrong while following.
    pub fn problems(&self) -> Vec<String> {
        let problems = self.problems.lock();
        problems
            .iter()
            .map(|((pod, container, start), problem)| {
                format!("{pod}/{container} ({start}): {problem}")
            })
            .collect()
    }
}

async fn watch(
    pods: Api<Pod>,
    selector: String,
    folder: PathBuf,
    problems: Arc<Mutex<BTreeMap<Start, String>>>,
) {
    let mut attempts: BTreeMap<Start, u32> = BTreeMap::new();
    let mut active: BTreeSet<Start> = BTreeSet::new();
    let mut ended: BTreeSet<Start> = BTreeSet::new();
    // Dropped with this task, and the followers with it.
    let mut tasks: JoinSet<(Start, Result<()>)> = JoinSet::new();
    let parameters = ListParams::default().labels(&selector);
    loop {
        while let Some(Ok((start, result))) = tasks.try_join_next() {
            active.remove(&start);
            match result {
                Ok(()) => drop(ended.insert(start)),
                // Tried again, into another file, as long as Kubernetes keeps the log.
                Err(error) => {
                    let mut problems = problems.lock();
                    problems.insert(start, format!("{error:#}"));
                }
            }
        }
        // The API server may be away on purpose; a later listing will find it.
        if let Ok(list) = pods.list(&parameters).await {
            for (start, is_previous) in list.items.iter().flat_map(started) {
                // Any other one that has ended was followed to its end, or is of no interest.
                if is_previous && !problems.lock().contains_key(&start) {
                    continue;
                }
                if ended.contains(&start) || !active.insert(start.clone()) {
                    continue;
                }
                let attempt = attempts.entry(start.clone()).or_default();
                let (pod, container, restarts) = &start;
                let file = folder.join(format!("{pod}.{container}.{restarts}.{attempt}.log"));
                *attempt += 1;
                let (pods, problems) = (pods.clone(), Arc::clone(&problems));
                tasks.spawn(async move {
                    let result = follow(&pods, &start, is_previous, &file, &problems).await;
                    (start, result)
                });
            }
        }
        sleep(INTERVAL).await;
    }
}

/// The starts of a pod's containers whose logs Kubernetes keeps: the present ones, and those before
/// them, which are marked.
fn started(pod: &Pod) -> Vec<(Start, bool)> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    let mut starts = Vec::new();
    for status in statuses {
        let start = |number| (name.clone(), status.name.clone(), number);
        let waits = status
            .state
            .as_ref()
            .is_none_or(|state| state.waiting.is_some());
        if waits {
            // It has ended, and counts until the next one begins.
            starts.push((start(status.restart_count), true));
        } else {
            starts.push((start(status.restart_count), false));
            starts.push((start(status.restart_count - 1), true));
        }
    }
    starts
}

/// Copies the log of a container's start, from its beginning to its end. Once it comes in, whatever
/// kept an earlier attempt from it is no problem any more.
async fn follow(
    pods: &Api<Pod>,
    start: &Start,
    is_previous: bool,
    file: &Path,
    problems: &Mutex<BTreeMap<Start, String>>,
) -> Result<()> {
    use std::io::Write;

    let (pod, container, _) = start;
    let parameters = LogParams {
        container: Some(container.clone()),
        follow: !is_previous,
        previous: is_previous,
        ..LogParams::default()
    };
    let mut lines = pods.log_stream(pod, &parameters).await?.lines();
    problems.lock().remove(start);
    let mut file = fs::File::create(file)?;
    while let Some(line) = lines.try_next().await? {
        writeln!(file, "{line}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_log_of_a_start_is_to_be_had_until_the_next_but_one() -> Result<()> {
        let starts = |state: &str, restarts: i32| -> Result<Vec<(i32, bool)>> {
            let status = json!({
                "name": "operator", "ready": false, "restartCount": restarts, "image": "", "imageID": "",
                "state": {state: {}},
            });
            let pod = json!({
                "metadata": {"name": "op-0"}, "status": {"containerStatuses": [status]},
            });
            let started = started(&serde_json::from_value(pod)?);
            let numbers = started.into_iter();
            Ok(numbers
                .map(|((.., start), before)| (start, before))
                .collect())
        };
        assert_eq!(starts("running", 2)?, [(2, false), (1, true)]);
        assert_eq!(starts("waiting", 2)?, [(2, true)]);
        Ok(())
    }
}
