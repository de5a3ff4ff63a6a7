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
                // Tried again, into another file, as long as the container is there.
                Err(error) => {
                    let mut problems = problems.lock();
                    problems.insert(start, format!("{error:#}"));
                }
            }
        }
        // The API server may be away on purpose; a later listing will find it.
        if let Ok(list) = pods.list(&parameters).await {
            for start in list.items.iter().flat_map(started) {
                if ended.contains(&start) || !active.insert(start.clone()) {
                    continue;
                }
                let attempt = attempts.entry(start.clone()).or_default();
                let (pod, container, restarts) = &start;
                let file = folder.join(format!("{pod}.{container}.{restarts}.{attempt}.log"));
                *attempt += 1;
                let pods = pods.clone();
                tasks.spawn(async move {
                    let result = follow(&pods, &start, &file).await;
                    (start, result)
                });
            }
        }
        sleep(INTERVAL).await;
    }
}

/// The containers of a pod that run, with the number of this start.
fn started(pod: &Pod) -> Vec<Start> {
    let name = pod.metadata.name.clone().unwrap_or_default();
    let statuses = pod
        .status
        .iter()
        .flat_map(|status| status.container_statuses.iter().flatten());
    statuses
        .filter(|status| {
            status
                .state
                .as_ref()
                .is_some_and(|state| state.waiting.is_none())
        })
        .map(|status| (name.clone(), status.name.clone(), status.restart_count))
        .collect()
}

/// Copies the log of the container's present start, from its beginning to its end.
async fn follow(pods: &Api<Pod>, (pod, container, _): &Start, file: &Path) -> Result<()> {
    use std::io::Write;

    let parameters = LogParams {
        container: Some(container.clone()),
        follow: true,
        ..LogParams::default()
    };
    let mut lines = pods.log_stream(pod, &parameters).await?.lines();
    let mut file = fs::File::create(file)?;
    while let Some(line) = lines.try_next().await? {
        writeln!(file, "{line}")?;
    }
    Ok(())
}
